#!/usr/bin/env bash
# Everything that runs on emulated Arm processors: Linux programs on Cortex-A, then boards with Cortex-M.
#
#   tests/arm/run.sh        # about fifteen minutes on two cores; sets the machine up first (see setup.sh)
#
# Skipped, with the reason, where setup.sh says that the machine cannot be set up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
rc=0
tests/arm/setup.sh || rc=$?
if [ $rc = 3 ]; then
    echo "skipped: tests on emulated Arm (the reason is above)"
    exit 0
fi
[ $rc = 0 ] || exit $rc
cargo build --release --locked -p ride-compiler
RIDE_COMPILE=$(realpath "${CARGO_TARGET_DIR:-target}/release/ride-compile")
export RIDE_COMPILE
for step in linux boards firmware firmware-c; do
    printf '\n== emulated Arm: %s\n' $step
    tests/arm/$step.sh
done
