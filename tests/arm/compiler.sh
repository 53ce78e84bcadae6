#!/usr/bin/env bash
# The compiler itself on an emulated 64-bit Arm machine, as on a Raspberry Pi, an Arm server or in a container on an Arm
# Mac: it makes the same artifacts as here. And what examples/jetson/bundle.sh makes for boards: the programs run there, with
# the interpreter as the GPU.
#
#   tests/arm/compiler.sh            # needs tests/arm/setup.sh once
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ -z "${RIDE_COMPILE:-}" ]; then
    cargo build --locked -q -p ride-compiler
    RIDE_COMPILE=$(realpath "${CARGO_TARGET_DIR:-target}/debug/ride-compile")
    export RIDE_COMPILE
fi
CARGO_TARGET_DIR=$(realpath "${CARGO_TARGET_DIR:-target}")/arm
export CARGO_TARGET_DIR
. tests/arm/cross.sh
a64=aarch64-unknown-linux-gnu emulator=(qemu-aarch64 -L /usr/aarch64-linux-gnu)
tests/hosts.sh $a64 "${emulator[@]}"

printf '\n== the bundle for boards\n'
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
RIDE_CUDA_PROFILE=dev examples/jetson/bundle.sh "$folder/bundle" $a64
RIDE_REPOSITORY=$folder/bundle RIDE_CUDA_TEST=interpreter "${emulator[@]}" "$folder/bundle/bundle/exact" step_by
if said=$("$folder/bundle/examples/jetson/check.sh" README.md "$folder/report.json" 2>&1); then
    echo "check.sh takes a bundle for another machine" >&2
    exit 1
fi
grep -q "this bundle is for aarch64" <<<"$said" || { echo "$said" >&2; exit 1; }
