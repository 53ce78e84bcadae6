# Sourced by the scripts of this folder: the toolchain of setup.sh, linkers, and emulators as runners, so that
# `cargo test --target ...` just works. The emulated processor is $QEMU_CPU (default: everything that QEMU knows).
. "$("$(dirname "${BASH_SOURCE[0]}")/setup.sh" --env)"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
export CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_LINKER=arm-linux-gnueabihf-gcc
export CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_RUNNER="qemu-arm -L /usr/arm-linux-gnueabihf"
