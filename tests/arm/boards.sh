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
    cargo build --locked -p ride-compiler
    ride=$(realpath "${CARGO_TARGET_DIR:-target}/debug/ride-compile")
fi
. tests/arm/cross.sh

emulate() { # MACHINE ELF [COUNTS]
    timeout 600 qemu-system-arm -M "$1" -nographic -monitor none -serial none \
        -semihosting-config enable=on,target=native ${3:+-plugin "$ICOUNT_PLUGIN,out=$3"} -kernel "$2"
}

# Instructions of region $2 in file $1.
counted() { sed -n "s/^icount region=$2 insns=\([0-9]*\) .*/\1/p" "$1"; }

sweep() { # BOARD MACHINE CORE TRIPLE FEATURES
    printf '\n== %s (%s)\n' "$3" "$2"
    (cd tests/arm/boards && BOARD=$1 RUSTFLAGS="-Ctarget-cpu=$3" SWEEP_EVERY=1 cargo build --release --locked --quiet \
        --target "$4" --features "$5" --target-dir "$target/$3")
    emulate "$2" "$target/$3/$4/release/sweep" || { echo "$3: the sweep failed" >&2; exit 2; }
}

network() { # MACHINE CORE TRIPLE BUDGET(stem + 3 experts)
    local counts=$target/run/$2.txt instructions
    "$ride" build examples/models/ride-resnet32-cifar100lt --target "$2" -o "$target/run/artifact.ride" --quiet
    (cd "$target/run" && emulate "$1" "$target/$2/$3/release/network" "$counts") ||
        { echo "$2: the model failed" >&2; exit 2; }
    cat "$counts"
    instructions=$(counted "$counts" 0)
    echo "$2: $instructions instructions for all experts, $(counted "$counts" 1) for one; budget $4"
    [ "$instructions" -le "$4" ] || { echo "$2: more instructions than the budget" >&2; exit 2; }
}

# The portable kernels; Armv6-M code runs on the Cortex-M3 board, because no board with an M0+ has the memory.
sweep an385 mps2-an385 cortex-m0plus thumbv6m-none-eabi ''
sweep an385 mps2-an385 cortex-m3 thumbv7m-none-eabi ''
sweep an386 mps2-an386 cortex-m4 thumbv7em-none-eabihf dsp
network mps2-an386 cortex-m4 thumbv7em-none-eabihf 113000000
sweep an500 mps2-an500 cortex-m7 thumbv7em-none-eabihf dsp
network mps2-an500 cortex-m7 thumbv7em-none-eabihf 113000000
sweep an505 mps2-an505 cortex-m33 thumbv8m.main-none-eabihf dsp
network mps2-an505 cortex-m33 thumbv8m.main-none-eabihf 113000000
sweep an547 mps3-an547 cortex-m55 thumbv8m.main-none-eabihf mve
network mps3-an547 cortex-m55 thumbv8m.main-none-eabihf 21500000
