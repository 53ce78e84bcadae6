#!/usr/bin/env bash
# The compiler on another kind of machine than this one: builds ride-compile for TRIPLE, runs it by RUNNER, and compares
# every artifact with what ride-compile makes here, calibration included. They have to be the same bytes.
#
#   tests/hosts.sh TRIPLE RUNNER...
#
#   . tests/arm/cross.sh && tests/hosts.sh aarch64-unknown-linux-gnu qemu-aarch64 -L /usr/aarch64-linux-gnu
#   tests/hosts.sh x86_64-pc-windows-gnu wine        # gcc-mingw-w64-x86-64-posix; a Wine with bcryptprimitives.dll: not 8.0
#
# Needs the target (rustup target add TRIPLE), its linker where Cargo looks for it, and python3. RIDE_COMPILE names this
# machine's ride-compile if it is built already.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 1; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
triple=$1 runner=("${@:2}") built=${CARGO_TARGET_DIR:-target}
if [ -z "${RIDE_COMPILE:-}" ]; then
    cargo build --locked -q -p ride-compiler
    RIDE_COMPILE=$built/debug/ride-compile
fi
cargo build --locked -q -p ride-compiler --target "$triple"
there=$built/$triple/debug/ride-compile
[ -e "$there" ] || there+=.exe
model=examples/models/ride-resnet32-cifar100lt
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Two bytes of labels, then 32 x 32 pixels of three colours: slopes, with stripes that depend on the image.
python3 - "$folder/images.bin" <<'END'
import sys
with open(sys.argv[1], "wb") as file:
    for image in range(8):
        pixels = [(x * (5 + colour) + y * (3 + image) + 32 * image * (x // 8 % 2)) % 256
                  for colour in range(3) for y in range(32) for x in range(32)]
        file.write(bytes([0, image]) + bytes(pixels))
END
mkdir "$folder/model"
cp "$model"/{config.json,checkpoint.pth} "$folder/model/" # without the calibration table

same() { # what, arguments of build
    local what=$1
    shift
    "$RIDE_COMPILE" build "$@" -o "$folder/here.ride" --quiet >"$folder/said"
    "${runner[@]}" "$there" build "$@" -o "$folder/there.ride" --quiet >"$folder/said"
    cmp "$folder/here.ride" "$folder/there.ride"
    printf '%-24s %8d bytes, the same on both machines\n' "$what" "$(wc -c <"$folder/here.ride")"
}
for machine in x86-64 aarch64 cortex-m4; do
    same "for $machine" "$model" --target $machine
done
same "with other rules" "$model" --target x86-64 --combiner 0.2,0.3,0.5 --router entropy --router-threshold 0.8 --logit-adjustment 1
same "calibrated there, too" "$folder/model" --data "$folder/images.bin" --target x86-64
