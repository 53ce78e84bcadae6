#!/usr/bin/env bash
# Cross compilation to Arm, emulators and instruction counting, for the tests in this folder (x86-64 host).
#
#   tests/arm/setup.sh [TARGET...]            # Debian 12 without rustup targets: Debian's own Rust, see below
#   tests/arm/setup.sh --rustup [TARGET...]   # where `rustup target add` works (still installs emulators by apt-get)
#
# Then:  . tests/arm/cross.sh                # exports the toolchain (Debian way only), linkers, runners, ICOUNT_PLUGIN
#        cargo build --release --target aarch64-unknown-linux-gnu      # the same command either way
#
# The Debian way unpacks the package rustc-web into a prefix of its own, links it as a rustup toolchain and builds the
# standard library of each target from the package rust-web-src. Steps that are done are skipped, so a second run takes
# less than a second; the first one takes about six minutes.
# Environment: PREFIX (~/.local/share/deb-arm), TOOLCHAIN (rustup's name for it, deb-arm), JOBS (1).
# Root is needed for `apt-get install` only. Exit code 3: this machine cannot be set up (the reason is printed).
set -euo pipefail

PREFIX=${PREFIX:-$HOME/.local/share/deb-arm}
TOOLCHAIN=${TOOLCHAIN:-deb-arm}
JOBS=${JOBS:-1}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
HOST=x86_64-unknown-linux-gnu
mode=debian
case ${1:-} in
    --env) echo "$PREFIX/env.sh"; exit ;;
    --rustup) mode=rustup; shift ;;
esac
TARGETS=("$@")
[ ${#TARGETS[@]} -gt 0 ] || TARGETS=(aarch64-unknown-linux-gnu armv7-unknown-linux-gnueabihf
    thumbv6m-none-eabi thumbv7m-none-eabi thumbv7em-none-eabihf thumbv8m.main-none-eabihf)

say() { printf '== %s\n' "$*"; }
die() { printf 'tests/arm/setup.sh: %s\n' "$*" >&2; exit 3; }
has() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }
updated=
apt_lists() { [ -n "$updated" ] || apt-get update -qq; updated=1; }
apt_install() {
    local want=() p
    for p; do has "$p" || want+=("$p"); done
    [ ${#want[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || die "as root, run: apt-get install -y --no-install-recommends ${want[*]}"
    apt_lists
    say "apt: ${want[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${want[@]}" >/dev/null
}

# ---- 1. emulators, cross linkers (the linker also brings the target libc used by qemu -L) ----
pkgs=(gcc libc6-dev binutils qemu-user qemu-system-arm gdb-multiarch)
for t in "${TARGETS[@]}"; do case $t in
    aarch64-unknown-linux-gnu) pkgs+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross) ;;
    armv7-unknown-linux-gnueabihf) pkgs+=(gcc-arm-linux-gnueabihf libc6-dev-armhf-cross) ;;
    thumb*-none-eabi*) pkgs+=(gcc-arm-none-eabi) ;;    # for firmware in C
    *) die "unknown target $t" ;;
esac; done
command -v dpkg-query >/dev/null || die "no Debian packages here: install ${pkgs[*]} by other means"
apt_install "${pkgs[@]}"
mkdir -p "$PREFIX"

# ---- 2. instruction-counting plugin ----
if [ ! "$PREFIX/libicount.so" -nt "$HERE/icount.c" ]; then
    say "icount plugin"
    gcc -O2 -Wall -Wextra -fPIC -shared -o "$PREFIX/libicount.so" "$HERE/icount.c"
fi

# ---- 3. Rust ----
if [ $mode = rustup ]; then
    rustup target add "${TARGETS[@]}"
    echo "export ICOUNT_PLUGIN='$PREFIX/libicount.so'" > "$PREFIX/env.sh"
    say "ready: . $PREFIX/env.sh"
    exit
fi

[ "$(dpkg --print-architecture)" = amd64 ] || die "the Debian way is written for amd64"
command -v rustup >/dev/null || die "rustup not found"
current() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" { print $2 }'; }
V=$(cat "$PREFIX/version" 2>/dev/null || true)     # pinned by the first run; delete that file to follow an update
if [ -z "$V" ]; then apt_lists; V=$(current rustc-web); fi
[ -n "$V" ] && [ "$V" != "(none)" ] || die "package rustc-web not found (Debian 12 main or security)"
TC=$PREFIX/rust-$V

if [ ! -e "$TC/.unpacked" ]; then
    say "rustc-web $V"
    apt_lists
    rm -rf "$TC" "$PREFIX/tmp"; mkdir -p "$PREFIX/tmp/debs" "$TC"
    (
        cd "$PREFIX/tmp/debs"
        std=libstd-rust-web-$(echo "$V" | cut -d. -f1,2)
        apt-get download -qq {rustc-web,cargo-web,rust-web-clippy,rustfmt-web,rust-web-src,libstd-rust-web-dev}="$V" "$std=$V" 2>&1 |
            grep -v unsandboxed || true
        [ "$(ls -- *.deb | wc -l)" = 7 ] || die "could not download all packages of version $V"
        # runtime libraries the unpacked programs need: LLVM and libgit2, by the packages' own Depends
        dpkg-deb -f "$std"_*.deb Depends | grep -oE 'libllvm[0-9]+' > ../llvm
        dpkg-deb -f cargo-web_*.deb Depends | grep -oE 'libgit2-[0-9.]+' > ../git2
        for d in *.deb; do case $d in
            rust-web-src_*) dpkg-deb --fsys-tarfile "$d" |
                tar x -C ../ --wildcards './usr/src/rustc-*/library' ;;
            *) dpkg -x "$d" ../ ;;
        esac; done
    )
    n=$(sed s/libllvm// "$PREFIX/tmp/llvm")
    apt_install "libllvm$n" "llvm-$n" "lld-$n" "$(cat "$PREFIX/tmp/git2")"
    # usr/{bin,lib/rustlib} is already a sysroot; rustup puts $TC/lib on the library path, so the driver goes there
    mv "$PREFIX"/tmp/usr/bin "$PREFIX"/tmp/usr/lib "$TC"
    mv "$TC"/lib/x86_64-linux-gnu/librustc_driver-*.so "$TC/lib/"
    rmdir "$TC/lib/x86_64-linux-gnu"
    mkdir -p "$TC/lib/rustlib/src/rust" "$TC/lib/rustlib/$HOST/bin/gcc-ld"
    mv "$PREFIX"/tmp/usr/src/rustc-*/library "$TC/lib/rustlib/src/rust/"
    ln -sfn "/usr/lib/llvm-$n/bin/lld" "$TC/lib/rustlib/$HOST/bin/rust-lld"
    ln -sfn "/usr/lib/llvm-$n/bin/lld" "$TC/lib/rustlib/$HOST/bin/gcc-ld/ld.lld"
    for b in objcopy objdump nm size cov profdata mca; do
        ln -sfn "/usr/lib/llvm-$n/bin/llvm-$b" "$TC/lib/rustlib/$HOST/bin/llvm-$b"
    done
    ln -sfn "/usr/lib/llvm-$n/bin/llvm-objcopy" "$TC/lib/rustlib/$HOST/bin/rust-objcopy"
    rm -rf "$PREFIX/tmp"
    touch "$TC/.unpacked"
    echo "$V" > "$PREFIX/version"
fi
link=$(readlink -f "$(rustup toolchain list -v | awk -v t="$TOOLCHAIN" '$1 == t { print $NF }')" 2>/dev/null || true)
[ "$link" = "$(readlink -f "$TC")" ] || { say "rustup toolchain link $TOOLCHAIN"; rustup toolchain link "$TOOLCHAIN" "$TC"; }
export RUSTUP_TOOLCHAIN=$TOOLCHAIN

# ---- 4. standard library for each target, from rust-web-src (offline: its dependencies are vendored there) ----
SRC=$TC/lib/rustlib/src/rust
HASH=$(rustc -vV | awk '$1 == "commit-hash:" { print $2 }')
for t in "${TARGETS[@]}"; do
    lib=$TC/lib/rustlib/$t/lib
    [ -e "$lib/.done" ] && continue
    say "standard library for $t"
    b=$PREFIX/build-std; rm -rf "$b"; mkdir -p "$b/src"
    printf '[package]\nname = "stdbuild"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n[profile.release]\ndebug = 1\ncodegen-units = 1\n' > "$b/Cargo.toml"
    echo '#![no_std]' > "$b/src/lib.rs"
    case $t in
        *-none-*) crates=core,alloc,panic_abort; feats=compiler-builtins-mem ;;
        *) crates=std,panic_abort,panic_unwind,proc_macro,test; feats=panic-unwind,backtrace ;;
    esac
    # like an official rust-std: bitcode for LTO, /rustc/<hash> source paths, -Zforce-unstable-if-unmarked (by -Zbuild-std)
    ( cd "$b" && env -u RUSTC -u CARGO_ENCODED_RUSTFLAGS -u RUSTC_WRAPPER RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$b/target" \
        RUSTFLAGS="-Cembed-bitcode=yes --remap-path-prefix=$SRC=/rustc/$HASH" \
        cargo build -q -j"$JOBS" --offline --release --target "$t" -Zbuild-std=$crates -Zbuild-std-features=$feats \
        --config 'source.crates-io.replace-with="vendored"' --config "source.vendored.directory='$SRC/library/vendor'" )
    rm -rf "$lib"; mkdir -p "$lib"
    cp "$b/target/$t/release/deps/"lib*.rlib "$lib/"
    rm -f "$lib"/libstdbuild-*; rm -rf "$b"
    touch "$lib/.done"
done

cat > "$PREFIX/env.sh" <<EOS
export RUSTUP_TOOLCHAIN='$TOOLCHAIN'
export ICOUNT_PLUGIN='$PREFIX/libicount.so'
EOS
say "ready: . $PREFIX/env.sh    ($(rustc -V); $(du -sh "$TC" | cut -f1))"
