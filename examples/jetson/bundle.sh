#!/usr/bin/env bash
# Everything that check.sh needs, built on this machine for a board that has no Rust: a folder to copy there.
#
#   examples/jetson/bundle.sh OUT [TRIPLE[.GLIBC]]
#
#   examples/jetson/bundle.sh /tmp/bundle aarch64-unknown-linux-gnu.2.27      # for a Jetson, from a PC
#   scp -r /tmp/bundle my.ride board: && ssh board 'bundle/examples/jetson/check.sh my.ride report.json'
#
# Without TRIPLE, for machines like this one. Cross-building needs the target (rustup target add TRIPLE) and
#
#   with .GLIBC     zig, which links for any older C library: pip install cargo-zigbuild ziglang. JetPack 4 has glibc 2.27,
#                   5 has 2.31, 6 has 2.35.
#   without         a C compiler for it, Debian's and Ubuntu's gcc-aarch64-linux-gnu for instance. The programs then need a
#                   C library as new as that compiler's, which is too new for JetPack 4 and 5 as a rule.
#
# What they need in the end is printed, and check.sh compares it with the board's.
#
#   CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc                     # without .GLIBC: another compiler
#   CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc    # and linker
#   RIDE_CUDA_PROFILE=dev                                                  # Cargo's profile, instead of release
set -euo pipefail
fail() { echo "error: $*" >&2; exit 1; }
[ $# -ge 1 ] && [ $# -le 2 ] || { sed -n '2,20s/^# \{0,1\}//p' "$0" >&2; exit 1; }
[ ! -e "$1" ] || fail "$1 is there already; name a folder that is not"
[ -w "$(dirname "$1")" ] || fail "cannot write into $(dirname "$1")"
out=$(realpath -m "$1") target=${2:-} profile=${RIDE_CUDA_PROFILE:-release}
command -v cargo >/dev/null || fail "there is no cargo: curl https://sh.rustup.rs -sSf | sh"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

options=(--locked --profile "$profile")
build=(cargo build) test=(cargo test) strip=strip machine=$(uname -m)
if [ -n "$target" ]; then
    options+=(--target "$target")
    triple=${target%%.*}
    machine=${triple%%-*}
    prefix=${triple/unknown-/}
    linker=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$triple")_LINKER cc=CC_${triple//-/_}
    ! command -v "$prefix-strip" >/dev/null || strip=$prefix-strip
    if [ "$target" != "$triple" ]; then
        command -v cargo-zigbuild >/dev/null ||
            fail "linking for glibc ${target#*.} takes cargo-zigbuild: pip install cargo-zigbuild ziglang"
        build=(cargo-zigbuild zigbuild) test=(cargo-zigbuild test)
        unset "$linker" # it would be taken instead of zig
    elif command -v "$prefix-gcc" >/dev/null; then
        export "$linker=${!linker:-$prefix-gcc}" "$cc=${!cc:-$prefix-gcc}"
    fi
fi

work=$(mktemp -d "$(dirname "$out")/.bundle.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{bundle,examples/{jetson,peers,models}}
# Cargo names every program that it has built in a line of JSON.
built() { # name, command
    local name=$1 path
    shift
    path=$("$@" "${options[@]}" --message-format json-render-diagnostics |
        sed -n 's/.*"name":"'"$name"'".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
    [ -n "$path" ] || fail "$1 $2 has made no program $name"
    cp "$path" "$work/bundle/$name"
    "$strip" "$work/bundle/$name" 2>/dev/null || echo "note: $name keeps its symbols: $strip does not take it" >&2
}
built ride-example-jetson "${build[@]}" -p ride-example-jetson
built exact "${test[@]}" --no-run -p ride-cuda --test exact
# The newest version of a symbol that a program takes from the C library is the version of the library that it needs.
glibc=$(grep -aoh 'GLIBC_[0-9][0-9.]*' "$work"/bundle/{exact,ride-example-jetson} | sed 's/GLIBC_//' | sort -uV | tail -n 1 || true)
echo "$glibc" >"$work/bundle/glibc"
echo "$machine" >"$work/bundle/machine"
echo "$profile" >"$work/bundle/profile"
git describe --always --dirty >"$work/bundle/commit" 2>/dev/null || echo unknown >"$work/bundle/commit"
cp examples/jetson/{check.sh,README.md} "$work/examples/jetson"
cp examples/peers/{gpu,tensorrt_runner}.py "$work/examples/peers"
cp -r examples/models/ride-resnet32-cifar100lt "$work/examples/models"
chmod 755 "$work"
mv -T "$work" "$out"
trap - EXIT
du -sh "$out" | sed "s/\t.*/ written, for $machine${glibc:+ with glibc $glibc or newer}; on the board:/"
echo "    $(basename "$out")/examples/jetson/check.sh my.ride report.json"
