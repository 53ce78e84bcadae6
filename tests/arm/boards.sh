#!/usr/bin/env bash
# The kernels on emulated Cortex-M boards: every one against the oracle, then the trained model of this repository, whose
# golden vectors must match and whose instructions must stay within a budget.
#
#   tests/arm/boards.sh            # needs tests/arm/setup.sh once
#
# Exit code 2: a kernel gives other bits, or takes more instructions than it may.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/boards
mkdir -p "$target/run"
ride=${RIDE_COMPILE:-}
if [ -z "$ride" ]; then
    cargo build --release --locked -p ride-compiler
    ride=$(realpath "${CARGO_TARGET_DIR:-target}/release/ride-compile")
fi
. tests/arm/cross.sh

emulate() { # MACHINE ELF [COUNTS]
    timeout 120 qemu-system-arm -M "$1" -nographic -monitor none -serial none \
        -semihosting-config enable=on,target=native ${3:+-plugin "$ICOUNT_PLUGIN,out=$3"} -kernel "$2"
}

# Instructions of region $2 in file $1.
counted() { sed -n "s/^icount region=$2 insns=\([0-9]*\) .*/\1/p" "$1"; }

board() { # BOARD MACHINE CORE TRIPLE FEATURES BUDGET(stem + 3 experts)
    local name=$1 machine=$2 core=$3 triple=$4 features=$5 budget=$6 out counts instructions
    printf '\n== %s (%s)\n' "$core" "$machine"
    out=$target/$name/$triple/release
    (cd tests/arm/boards && BOARD=$name RUSTFLAGS="-Ctarget-cpu=$core" SWEEP_EVERY=1 cargo build --release --locked \
        --quiet --target "$triple" --features "$features" --target-dir "$target/$name")
    emulate "$machine" "$out/sweep" || { echo "$core: the sweep failed" >&2; exit 2; }
    "$ride" build examples/models/ride-resnet32-cifar100lt --target "$core" -o "$target/run/artifact.ride" --quiet
    counts=$target/run/$name.txt
    (cd "$target/run" && emulate "$machine" "$out/network" "$counts") || { echo "$core: the model failed" >&2; exit 2; }
    cat "$counts"
    instructions=$(counted "$counts" 0)
    echo "$core: $instructions instructions for all experts, $(counted "$counts" 1) for one; budget $budget"
    [ "$instructions" -le "$budget" ] || { echo "$core: more instructions than the budget" >&2; exit 2; }
}

board an386 mps2-an386 cortex-m4 thumbv7em-none-eabihf dsp 113000000
board an500 mps2-an500 cortex-m7 thumbv7em-none-eabihf dsp 113000000
board an505 mps2-an505 cortex-m33 thumbv8m.main-none-eabihf dsp 113000000
