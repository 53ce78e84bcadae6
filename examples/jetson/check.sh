#!/usr/bin/env bash
# Everything that a GPU can show, in one command; writes a report as JSON.
#
#   examples/jetson/check.sh ARTIFACT REPORT.json [MODELS]
#
# Compares the artifact with the CPU bit for bit, runs the whole suite of ride-cuda on the GPU (every operation, all numeric
# paths that it has, 100,000 runs of one session on each), and measures latency against the number of experts, with what a
# skipped expert costs. With MODELS, a folder that examples/peers/gpu_models.py has made, other runtimes are measured in the
# same run.
#
# Where a step fails, the others still run, and the report says what failed. Nothing is written where there is no GPU, or
# where a file that is needed is missing.
#
#   RIDE_CUDA_RUNS=1000       fewer runs, of everything
#   RIDE_CUDA_TESTS="a b"     only tests with a or b in their names; the report says so
#   RIDE_CUDA_PROFILE=dev     Cargo's profile, instead of release
#
# In a folder that bundle.sh has made, on a board without Rust, it takes the programs that lie there instead of building them.
#
# Exit codes: 0 everything holds, 1 something is missing, 2 a step failed.
set -euo pipefail
fail() { echo "error: $*" >&2; exit 1; }
[ $# -ge 2 ] && [ $# -le 3 ] || { sed -n '2,21s/^# \{0,1\}//p' "$0" >&2; exit 1; }
[ -f "$1" ] || fail "there is no artifact $1: ride-compile build MODEL --target jetson-orin -o $1"
artifact=$(realpath "$1") report=$(realpath -m "$2") models=
[ ! -d "$report" ] || fail "$2 is a folder; name the report's file"
[ -w "$(dirname "$report")" ] || fail "cannot write a report into $(dirname "$report")"
if [ -n "${3:-}" ]; then
    [ -d "$3" ] || fail "there is no folder $3; examples/peers/gpu_models.py makes one"
    command -v python3 >/dev/null || fail "other runtimes need python3: install it, or leave $3 out"
    models=$(realpath "$3")
fi
runs=${RIDE_CUDA_RUNS:-100000} only=${RIDE_CUDA_TESTS:-} profile=${RIDE_CUDA_PROFILE:-release}
[[ $runs =~ ^[1-9][0-9]{0,8}$ ]] || fail "RIDE_CUDA_RUNS=$runs is no number of runs"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -d bundle ] || command -v cargo >/dev/null ||
    fail "there is no cargo: curl https://sh.rustup.rs -sSf | sh, or examples/jetson/bundle.sh on another machine"

work=$(mktemp -d)
trap 'rm -rf "$work" "$report.$$"' EXIT
least() { if [ "$1" -lt "$2" ]; then echo "$1"; else echo "$2"; fi; }
# Lines of a file, or the last ones, as a JSON array of strings; bytes that are no text are left out.
lines() { # file [number]
    tail -n "${2:-100000}" "$1" | tr '\t' ' ' | tr -d '\000-\010\013-\037\177' | { iconv -cf UTF-8 -t UTF-8 || true; } |
        sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/"&"/' | awk '{ printf "%s%s", (NR > 1 ? ",\n    " : "["), $0 } END { print (NR ? "]" : "[]") }'
}
quoted() { tr '\n' ' ' <<<"$1" >"$work/quoted"; lines "$work/quoted" | sed 's/^\["//; s/ *"\]$//; s/.*/"&"/'; }
failed=()
# Runs a command; standard output to $work/NAME, standard error to $work/NAME.err, both to the terminal. Sets `result`.
step() { # name, command
    local name=$1
    shift
    printf '\n== %s\n' "$*" >&2
    result=passed
    # 4 is the terminal, 3 the pipe that standard error takes around the inner one.
    if ! { { "$@" 2>&3 3>&- 4>&- | tee "$work/$name" >&4 3>&-; } 3>&1 >&4 | tee "$work/$name.err" >&4; } 4>&2; then
        result=failed
        failed+=("$name")
    fi
}

if [ -d bundle ]; then
    machine=$(cat bundle/machine) needed=$(cat bundle/glibc) here=$({ getconf GNU_LIBC_VERSION || true; } 2>/dev/null | cut -d' ' -f2)
    [ "$machine" = "$(uname -m)" ] || fail "this bundle is for $machine, not for $(uname -m): bundle.sh OUT TRIPLE makes others"
    [ "$(printf '%s\n' "$needed" "$here" | sort -V | tail -n 1)" = "$here" ] ||
        fail "this bundle needs glibc $needed, and ${here:-none} is here: bundle.sh OUT $machine-unknown-linux-gnu${here:+.$here}"
    profile=$(cat bundle/profile) commit=$(cat bundle/commit) program=$PWD/bundle/ride-example-jetson
    suite=(env RIDE_REPOSITORY="$PWD" "$PWD/bundle/exact")
else
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    program=$target/$profile/ride-example-jetson
    [ "$profile" != dev ] || program=$target/debug/ride-example-jetson
    commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
    suite=(cargo test --locked --profile "$profile" --no-fail-fast -p ride-cuda --)
    cargo build --locked --profile "$profile" -p ride-example-jetson
fi
"$program" board "$artifact" >"$work/board"

step check "$program" check "$artifact" --count "$(least "$runs" 4)"
check="{\"result\": \"$result\", \"output\": $(lines "$work/check"), \"errors\": $(lines "$work/check.err" 20)}"

# shellcheck disable=SC2086 # names of tests, each a word
step tests env RIDE_CUDA_TEST=gpu RIDE_CUDA_RUNS="$runs" "${suite[@]}" --include-ignored --nocapture $only
grep -E '^test |^test result|every bit the same' "$work/tests" >"$work/results" || true
tests="{\"result\": \"$result\", \"only\": $(quoted "$only"), \"output\": $(lines "$work/results")"
[ "$result" = passed ] || tests+=", \"errors\": $(lines "$work/tests.err" 60)"
tests+=}

step latency "$program" latency "$artifact" --count "$(least "$runs" 2000)"
latency=null
[ "$result" = failed ] || latency=$(cat "$work/latency")

peers=null
if [ -n "$models" ]; then
    step peers python3 examples/peers/gpu.py --artifact "$artifact" --models "$models" --program "$program" \
        --passes "$(least "$runs" 5)" --runs "$(least "$runs" 1000)" --json
    peers="{\"result\": \"failed\", \"errors\": $(lines "$work/peers.err" 20)}"
    [ "$result" = failed ] || peers=$(cat "$work/peers")
fi

result=passed
[ ${#failed[@]} -eq 0 ] || result=failed
cat >"$report.$$" <<END
{
 "result": "$result",
 "date": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
 "commit": $(quoted "$commit"),
 "profile": $(quoted "$profile"),
 "runs": $runs,
 "artifact": {"file": $(quoted "$(basename "$artifact")"), "sha256": "$(sha256sum <"$artifact" | cut -d' ' -f1)"},
 "board": $(cat "$work/board"),
 "check": $check,
 "tests": $tests,
 "latency": $latency,
 "peers": $peers
}
END
mv "$report.$$" "$report"
printf '\nwritten: %s\n' "$report"
[ "$result" = passed ] || { echo "error: failed: ${failed[*]}; the report says how" >&2; exit 2; }
