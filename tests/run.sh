#!/usr/bin/env bash
# Everything that must hold: formatting, lints, docs, the runtime without std, all tests, a short run of the fuzzers, and
# emulated Arm processors.
#
#   tests/run.sh            # on two cores some twenty minutes, the first build included; Arm takes ten to fifteen more
#   FUZZ_SECONDS=0 tests/run.sh
#   ARM=1 tests/run.sh      # sets up cross compilers and emulators first (tests/arm/setup.sh: Debian, root)
#   ARM=0 tests/run.sh      # leaves Arm out even where that has been done
#
# Needs Rust (with rustfmt and clippy), a C and a C++ compiler (the latter for the fuzzers only).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
step() { printf '\n== %s (%d min %02d s)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

# Cross compilers and emulators take minutes to set up, on one core: the steps before them leave as much free.
if [ "${ARM:=auto}" = 1 ]; then
    setup_log=$(mktemp)
    set -m # a process group of its own, which can be ended whole
    tests/arm/setup.sh >"$setup_log" 2>&1 </dev/null &
    setup=$!
    set +m
    trap 'kill -- -"$setup" 2>/dev/null || true; rm -f "$setup_log"' EXIT
fi

step formatting
cargo fmt --all --check
step lints
cargo clippy --workspace --all-targets --locked -- -D warnings
step "runtime alone: no std, no allocator, no dependencies"
cargo clippy -p ride-runtime --no-default-features --locked -- -D warnings
[ "$(cargo tree -p ride-runtime -e normal --locked | wc -l)" = 1 ] || { echo "ride-runtime must have no dependencies" >&2; exit 1; }
step docs
RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked
if [ "${FUZZ_SECONDS:=20}" -gt 0 ]; then
    step "fuzzers, $FUZZ_SECONDS s each"
    tests/fuzz/run.sh "$FUZZ_SECONDS"
fi
step tests
cargo test --workspace --locked --no-fail-fast
step "emulated Arm processors"
if [ "$ARM" = 1 ]; then
    # What it could not do, run.sh does again and says.
    wait "$setup" || true
    cat "$setup_log"
fi
if [ "$ARM" = 1 ] || { [ "$ARM" = auto ] && [ -e "$(tests/arm/setup.sh --env)" ]; }; then
    tests/arm/run.sh
else
    echo "skipped: ARM=1 tests/run.sh sets up what they need, then runs them"
fi
