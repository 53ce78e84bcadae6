#!/usr/bin/env bash
# The firmware and device examples on emulated machines: the same classes, routes and logits as on this machine, no panic
# linked, code, memory and stack within their limits.
#
#   tests/arm/firmware.sh        # two minutes once all is built; needs tests/arm/setup.sh once
#
# Prints the size of the runtime for every core, and one table of all devices. Exit code 2: a check failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
out=$(realpath -m "${CARGO_TARGET_DIR:-target}")/firmware
mkdir -p "$out/models" "$out/reports"
ride=${RIDE_COMPILE:-}
if [ -z "$ride" ]; then
    cargo build --locked -p ride-compiler
    ride=$(realpath "${CARGO_TARGET_DIR:-target}/debug/ride-compile")
fi
model=examples/models/ride-resnet32-cifar100lt
fail() { echo "tests/arm/firmware.sh: $*" >&2; exit 2; }

cargo build --release --locked -q -p ride-example-device
host=$(realpath "${CARGO_TARGET_DIR:-target}/release/ride-example-device")
. tests/arm/cross.sh

# answers FILE: classes, experts and logits of the images, one a line.
answers() { grep -o '"class": [0-9]*, "experts": [0-9]*, "logits_crc32": "[0-9a-f]*"' "$1"; }
# same NAME: the report of NAME must answer as this machine does for the same artifact.
same() {
    [ "$(answers "$out/reports/$1.json" | wc -l)" = 4 ] || fail "$1: no answers in its report"
    diff <(answers "$out/reports/host-$2.json") <(answers "$out/reports/$1.json") >&2 || fail "$1: answers differ from this machine's"
}
# field FILE NAME: a number of the report.
field() { sed -n "s/.*\"$2\": \([0-9]*\).*/\1/p" "$1" | head -1; }
# section ELF NAME: bytes of a section, 0 without one.
section() { "$size" -A "$1" | awk -v name="$2" '$1 == name { bytes = $2 } END { print bytes + 0 }'; }

# The newest LLVM tools that are there; those of an old one cannot read new bitcode, but these files have none.
size=$(ls /usr/bin/llvm-size-[0-9]* 2>/dev/null | sort -V | tail -1)
nm=$(ls /usr/bin/llvm-nm-[0-9]* 2>/dev/null | sort -V | tail -1)
[ -x "$size" ] && [ -x "$nm" ] || fail "llvm-size and llvm-nm are not installed"

artifact() { # TARGET
    "$ride" build "$model" --target "$1" --emit ride,rust -o "$out/models/$1.ride" --quiet >/dev/null
    "$host" "$out/models/$1.ride" --rounds 2 > "$out/reports/host-$1.json"
}

build() { # CORE TARGET BOARD
    local description triple features
    description=$("$ride" targets "$2" --json | tr -d '\n ')
    triple=${4:-$(sed 's/.*"triples":\["\([^"]*\)".*/\1/' <<<"$description")}
    features=$(sed -n 's/.*"features":\["\([^"]*\)"\].*/ride-runtime\/\1/p' <<<"$description")
    elf=$out/$1/$triple/release
    (cd examples/firmware-rust && RIDE_BOARD=$3 RIDE_MODEL=$out/models/$2.rs RUSTFLAGS="-Ctarget-cpu=$1" \
        cargo build --release --locked -q --target "$triple" --features "$features" --target-dir "$out/$1")
    # Not one function of core's panics, by its mangled name, may be left.
    if "$nm" "$elf/ride-firmware" "$elf/smallest" | grep -E 'core9panicking|slice5index.*fail|unwrap_failed|expect_failed'; then
        fail "$1: a path to a panic is linked"
    fi
}

printf '%-14s %8s %8s %8s %8s %8s\n' 'size of the' text rodata code 'static' stack > "$out/sizes.txt"
printf '%-14s %8s %8s %8s %8s %8s\n' 'runtime for' '' '' 'in all' RAM 'used' >> "$out/sizes.txt"
measure() { # CORE TARGET [REPORT]
    local text rodata bss weights stack=-
    weights=$(stat -c %s "$out/models/$2.ride")
    text=$(section "$elf/smallest" .text)
    rodata=$(($(section "$elf/smallest" .rodata) + $(section "$elf/smallest" .ride_artifact) - weights))
    bss=$(($(section "$elf/smallest" .bss) + $(section "$elf/smallest" .data)))
    if [ -n "${3:-}" ]; then
        stack=$(field "$out/reports/$3.json" stack_bytes)
        [ "$stack" -gt 0 ] && [ "$stack" -le 4096 ] || fail "$1: $stack bytes of stack, at most 4096 are allowed"
    fi
    printf '%-14s %8d %8d %8d %8d %8s\n' "$1" "$text" "$rodata" $((text + rodata)) "$bss" "$stack" >> "$out/sizes.txt"
    [ $((text + rodata)) -le "$((${4:-26} * 1024))" ] || fail "$1: $((text + rodata)) bytes of code, ${4:-26} KiB are allowed"
    [ "$bss" -le $((48 * 1024)) ] || fail "$1: $bss bytes of RAM, 48 KiB are allowed"
}

board() { # CORE BOARD MACHINE LIMIT(KiB of code)
    artifact "$1"
    build "$1" "$1" "$2"
    timeout 300 qemu-system-arm -M "$3" -display none -monitor none -serial none -icount shift=0 \
        -chardev stdio,id=report -semihosting-config enable=on,target=native,chardev=report -kernel "$elf/ride-firmware" > "$out/reports/$1.json" ||
        { cat "$out/reports/$1.json" >&2; fail "$1: the firmware failed on $3"; }
    grep -q '"counts": "instructions"' "$out/reports/$1.json" || fail "$1: instructions were not counted"
    same "$1" "$1"
    measure "$1" "$1" "$1" "$4"
}

board cortex-m4 an386 mps2-an386 24
board cortex-m7 an500 mps2-an500 26
board cortex-m33 an505 mps2-an505 26
board cortex-m55 an547 mps3-an547 26
# Cores without vectors; no emulated board of theirs has the memory, so Armv6-M code runs on a Cortex-M4.
artifact cortex-m3
build cortex-m3 cortex-m3 an386
measure cortex-m3 cortex-m3
board cortex-m0plus an386 mps2-an386 28
for name in nrf52840 stm32h743 stm32u585; do
    core=$(sed -n 's/.*\(Cortex-M[0-9]*\).*/\L\1/p' "examples/firmware-rust/boards/$name.x" | head -1)
    build "$core" "$core" "$name"
done

artifact aarch64
artifact armv7
export CARGO_TARGET_DIR=$out/linux
linux() { # NAME TARGET TRIPLE EMULATOR...
    cargo build --release --locked -q -p ride-example-device --target "$3"
    "${@:4}" "$CARGO_TARGET_DIR/$3/release/ride-example-device" "$out/models/$2.ride" --rounds 1 --name "$1" \
        > "$out/reports/$1.json"
    same "$1" "$2"
}
linux cortex-a53 aarch64 aarch64-unknown-linux-gnu qemu-aarch64 -cpu cortex-a53 -L /usr/aarch64-linux-gnu
linux cortex-a76 aarch64 aarch64-unknown-linux-gnu qemu-aarch64 -cpu cortex-a76 -L /usr/aarch64-linux-gnu
linux armv7 armv7 armv7-unknown-linux-gnueabihf qemu-arm -L /usr/arm-linux-gnueabihf

# Emulated times say nothing, but the reports come home.
cd "$out/reports"
"$ride" bench "$out/models/cortex-m4.ride" --import cortex-m4.json cortex-m7.json cortex-m33.json cortex-m55.json \
    cortex-m0plus.json cortex-a53.json cortex-a76.json armv7.json
cd "$root"
echo
cat "$out/sizes.txt"
