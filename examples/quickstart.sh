#!/usr/bin/env bash
# From the trained checkpoint in this repository to a routed int8 artifact and its latency against the number of experts.
#
#   examples/quickstart.sh                 # needs nothing but Rust
#   examples/quickstart.sh --data PATH     # accuracy too: PATH is CIFAR-100, as the binary file test.bin or as the
#                                          # folder cifar-100-python
set -euo pipefail
data=
case ${1:-} in
    '') ;;
    --data)
        [ -e "${2:?--data needs a path}" ] || { echo "error: there is no $2" >&2; exit 1; }
        data=$(cd "$(dirname -- "$2")" && pwd)/$(basename -- "$2") # not every system has realpath
        ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 1 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
model=examples/models/ride-resnet32-cifar100lt
out=target/quickstart.ride
cargo build --release --locked -p ride-compiler
ride=${CARGO_TARGET_DIR:-target}/release/ride-compile
mkdir -p target
"$ride" build "$model" --target host -o "$out"
"$ride" bench "$out"
if [ -n "$data" ]; then
    "$ride" verify "$out" --model "$model" --data "$data"
fi
