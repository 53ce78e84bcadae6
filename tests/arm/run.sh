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
# The build that the tests of the workspace have made, if they ran: it is optimised enough, and checks its arithmetic.
cargo build --locked -p ride-compiler
RIDE_COMPILE=$(realpath "${CARGO_TARGET_DIR:-target}/debug/ride-compile")
export RIDE_COMPILE

steps() {
    for step in "$@"; do
        printf '\n== emulated Arm: %s (%d min %02d s)\n' "$step" $((SECONDS / 60)) $((SECONDS % 60))
        "tests/arm/$step.sh"
    done
}
# An emulator takes one core: two things at a time. What runs beside the others is shown when they are done.
log=$(mktemp)
set -m # a process group of its own, which can be ended whole
steps boards firmware-c compiler >"$log" 2>&1 </dev/null &
beside=$!
set +m
trap 'kill -- -"$beside" 2>/dev/null || true; printf "\n== beside these:\n"; cat "$log"; rm -f "$log"' EXIT
steps linux firmware
wait "$beside"
