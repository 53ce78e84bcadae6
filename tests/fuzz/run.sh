#!/usr/bin/env bash
# Builds every fuzz target and runs it for the given number of seconds (default 20). Needs stable Rust and a C++
# compiler, no cargo-fuzz. Fails on a crash, a hang, or if coverage does not grow.
#
#   tests/fuzz/run.sh [SECONDS] [TARGET...]
set -euo pipefail
cd "$(dirname "$0")"

# A folder of its own, whatever the caller builds in: everything here is built with other flags.
export CARGO_TARGET_DIR=$PWD/target
seconds=${1:-20}
targets=("${@:2}")
if [ ${#targets[@]} -eq 0 ]; then
    for file in fuzz_targets/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi

# libFuzzer's counters and comparison hooks, as `-Zsanitizer` would set them up on nightly. Naming the machine keeps
# them out of build scripts and procedural macros.
machine=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
coverage+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
# The compiler as it is built here, without program and training, has no warnings either.
coverage+=" -Dwarnings"
RUSTFLAGS="$coverage" cargo build --release --target "$machine" --bins

# The last coverage that libFuzzer reported in a log.
coverage_of() {
    sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$1" | tail -n 1
}

log=$(mktemp)
empty=$(mktemp -d)
trap 'rm -rf "$log" "$empty"' EXIT
for target in "${targets[@]}"; do
    binary="target/$machine/release/$target"
    options=(-timeout=20 -rss_limit_mb=2048 -print_final_stats=1 "-artifact_prefix=artifacts/$target/")
    if [ -f "$target.dict" ]; then
        options+=("-dict=$target.dict")
    fi
    if [ -f "$target.options" ]; then
        mapfile -t -O "${#options[@]}" options <"$target.options"
    fi
    folders=("corpus/$target")
    if [ -d "seeds/$target" ]; then
        folders+=("seeds/$target")
    fi
    mkdir -p "corpus/$target" "artifacts/$target"

    "$binary" -runs=0 "$empty" >"$log" 2>&1
    before=$(coverage_of "$log")
    echo "== $target for $seconds s =="
    if ! "$binary" "${options[@]}" "-max_total_time=$seconds" "${folders[@]}" >"$log" 2>&1; then
        tail -n 60 "$log"
        echo "$target failed; the input is in tests/fuzz/artifacts/$target" >&2
        exit 1
    fi
    after=$(coverage_of "$log")
    grep -E '^#[0-9]+\s+(INITED|DONE)|^stat::(number_of_executed_units|peak_rss_mb)' "$log"
    if [ "${after:-0}" -le "${before:-0}" ]; then
        echo "$target: coverage does not grow (${before:-none} to ${after:-none}); is the instrumentation on?" >&2
        exit 1
    fi
    echo "$target: coverage $before with no input, $after at the end"
done
