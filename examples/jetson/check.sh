#!/usr/bin/env bash
# Everything that a GPU can show, in one command; writes a report as JSON.
#
#   examples/jetson/check.sh ARTIFACT REPORT.json [MODELS]
#
# Runs the whole suite of ride-cuda on the GPU (every operation, all numeric paths that it has, 100,000 runs of one session
# on each: RIDE_CUDA_RUNS shortens that), compares the artifact with the CPU bit for bit, and measures latency against
# the number of experts, with what a skipped expert costs. With MODELS, a folder as examples/peers/gpu.py wants it, other
# runtimes are measured in the same run. Fails at once where there is no GPU.
set -euo pipefail
[ $# -ge 2 ] && [ $# -le 3 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 1; }
artifact=$(realpath "$1") report=$(realpath -m "$2") models=${3:+$(realpath "$3")}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo build --release -p ride-example-jetson -p ride-compiler
program=target/release/ride-example-jetson
"$program" check "$artifact" | tee "$work/check"
tests=passed
RIDE_CUDA_TEST=gpu cargo test --release -p ride-cuda -- --include-ignored --nocapture 2>&1 | tee "$work/tests" || tests=failed
"$program" latency "$artifact" --count 2000 >"$work/latency"
peers=null
if [ -n "$models" ]; then
    python3 examples/peers/gpu.py --artifact "$artifact" --models "$models" --json >"$work/peers"
    peers=$(cat "$work/peers")
fi
lines() { python3 -c 'import json, sys; print(json.dumps(sys.stdin.read().splitlines()))'; }
{
    printf '{"tests": "%s",\n "test_results": %s,\n' "$tests" "$(grep -E '^test result|every bit the same' "$work/tests" | lines)"
    printf ' "check": %s,\n "latency": %s,\n "peers": %s}\n' "$(lines <"$work/check")" "$(cat "$work/latency")" "$peers"
} >"$report.new"
python3 -m json.tool "$report.new" >/dev/null
mv "$report.new" "$report"
echo "written: $report"
[ "$tests" = passed ]
