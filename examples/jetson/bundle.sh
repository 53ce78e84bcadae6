#!/usr/bin/env bash
# Everything that check.sh needs, built on this machine for a board that has no Rust: a folder to copy there.
#
#   examples/jetson/bundle.sh OUT [TRIPLE]
#
#   examples/jetson/bundle.sh /tmp/bundle aarch64-unknown-linux-gnu      # for a Jetson, from a PC
#   scp -r /tmp/bundle my.ride board: && ssh board 'bundle/examples/jetson/check.sh my.ride report.json'
#
# Without TRIPLE, for machines like this one. Cross-building needs the target (rustup target add TRIPLE) and a C compiler for
# it, whose C library must not be newer than the board's: glibc 2.27 for JetPack 4, 2.31 for 5, 2.35 for 6.
#
#   CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc                     # Debian: gcc-aarch64-linux-gnu; also the default
#   CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc    # likewise
#   RIDE_CUDA_PROFILE=dev                                                  # Cargo's profile, instead of release
set -euo pipefail
fail() { echo "error: $*" >&2; exit 1; }
[ $# -ge 1 ] && [ $# -le 2 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 1; }
[ ! -e "$1" ] || fail "$1 is there already; name a folder that is not"
[ -w "$(dirname "$1")" ] || fail "cannot write into $(dirname "$1")"
out=$(realpath -m "$1") triple=${2:-} profile=${RIDE_CUDA_PROFILE:-release}
command -v cargo >/dev/null || fail "there is no cargo: curl https://sh.rustup.rs -sSf | sh"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

options=(--locked --profile "$profile")
strip=strip
if [ -n "$triple" ]; then
    options+=(--target "$triple")
    prefix=${triple/unknown-/}
    if command -v "$prefix-gcc" >/dev/null; then
        strip=$prefix-strip
        linker=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$triple")_LINKER cc=CC_${triple//-/_}
        export "$linker=${!linker:-$prefix-gcc}" "$cc=${!cc:-$prefix-gcc}"
    fi
fi

work=$(mktemp -d "$(dirname "$out")/.bundle.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{bundle,examples/{jetson,peers,models}}
# Cargo names every program that it has built in a line of JSON.
built() { # name, arguments of cargo
    local name=$1 path
    shift
    path=$(cargo "$@" "${options[@]}" --message-format json-render-diagnostics |
        sed -n 's/.*"name":"'"$name"'".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
    [ -n "$path" ] || fail "cargo $1 has made no program $name"
    cp "$path" "$work/bundle/$name"
    "$strip" "$work/bundle/$name" 2>/dev/null || echo "note: $name keeps its symbols: $strip does not take it" >&2
}
built ride-example-jetson build -p ride-example-jetson
built exact test --no-run -p ride-cuda --test exact
echo "$profile" >"$work/bundle/profile"
git describe --always --dirty >"$work/bundle/commit" 2>/dev/null || echo unknown >"$work/bundle/commit"
cp examples/jetson/{check.sh,README.md} "$work/examples/jetson"
cp examples/peers/{gpu,tensorrt_runner}.py "$work/examples/peers"
cp -r examples/models/ride-resnet32-cifar100lt "$work/examples/models"
chmod 755 "$work"
mv -T "$work" "$out"
trap - EXIT
du -sh "$out" | sed 's/\t.*/ written; on the board:/'
echo "    $(basename "$out")/examples/jetson/check.sh my.ride report.json"
