#!/usr/bin/env bash
# The runtime on emulated Arm processors: kernels against the oracle on plain NEON, dot products, matrix products and
# 32-bit Arm; the whole network's golden vectors on every backend; budgets of instructions.
#
#   tests/arm/linux.sh            # needs tests/arm/setup.sh once
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
host_target=${CARGO_TARGET_DIR:-target}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
artifact=$folder/trained.ride
model=examples/models/ride-resnet32-cifar100lt
ride=${RIDE_COMPILE:-}
if [ -z "$ride" ]; then
    cargo build --locked -q -p ride-compiler
    ride=$host_target/debug/ride-compile
fi
"$ride" build "$model" --calibration "$model/calibration.json" --target aarch64 -o "$artifact" --quiet
mkdir "$folder/synthetic"
cargo run --locked -q -p ride-tests --example networks -- aarch64 "$folder/synthetic"

. tests/arm/cross.sh
export CARGO_TARGET_DIR=$host_target/arm
a64=aarch64-unknown-linux-gnu
for cpu in cortex-a53 cortex-a76 max,sve=off; do
    printf '\n== kernels on %s\n' "$cpu"
    QEMU_CPU=$cpu cargo test --release --locked -q -p ride-runtime --features std --target $a64 --test kernels
done
# As on a machine without an operating system, where nobody can be asked what the processor has.
printf '\n== kernels on cortex-a76, chosen by the compiler\n'
QEMU_CPU=cortex-a76 RUSTFLAGS=-Ctarget-cpu=cortex-a76 cargo test --release --locked -q -p ride-runtime --target $a64 \
    --target-dir "$CARGO_TARGET_DIR/cortex-a76" --test kernels
printf '\n== kernels on 32-bit Arm\n'
cargo test --release --locked -q -p ride-runtime --features std --target armv7-unknown-linux-gnueabihf --test kernels

cargo build --release --locked -q -p ride-runtime --features std --target $a64 --example replay
printf '\n== synthetic networks: golden vectors on every kernel\n'
for artifact_of in "$folder"/synthetic/*.ride; do
    qemu-aarch64 -cpu max,sve=off -L /usr/aarch64-linux-gnu "$CARGO_TARGET_DIR/$a64/release/examples/replay" "$artifact_of" |
        sed "s|^|$(basename "$artifact_of" .ride): |"
done

# budget CPU KERNEL LIMIT: instructions of one image with all experts; the limit counts units of 10,000.
budget() {
    local out insns
    out=$(env -i qemu-aarch64 -cpu "$1" -L /usr/aarch64-linux-gnu -plugin "$ICOUNT_PLUGIN" \
        "$CARGO_TARGET_DIR/$a64/release/examples/replay" "$artifact" "$2" 2>&1) || { echo "$out" >&2; exit 1; }
    insns=$(sed -n 's/^icount region=0 insns=\([0-9]*\).*/\1/p' <<<"$out")
    printf '%-14s %-10s %5s.%02s M instructions of at most %s.%02d M\n' "$1" "$2" $((insns / 1000000)) \
        "$(printf %02d $((insns / 10000 % 100)))" $(($3 / 100)) $(($3 % 100))
    [ "$insns" -le $(($3 * 10000)) ] || { echo "$2 takes more instructions than its budget" >&2; exit 1; }
}
printf '\n== whole network: golden vectors and instructions\n'
budget cortex-a53 neon 1790
budget cortex-a76 dotprod 1096
budget max,sve=off i8mm 884
