#!/usr/bin/env bash
# The firmware in C on emulated boards: the same classes, routes and logits as on this machine, no panic linked, code,
# memory and stack within their limits.
#
#   tests/arm/firmware-c.sh      # a minute or two once all is built; needs tests/arm/setup.sh once
#
# Prints the size of the runtime for every core and the latency table of every board. Exit code 2: a check failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=$(realpath -m "${CARGO_TARGET_DIR:-target}")/firmware-c
mkdir -p "$out"
export RIDE_COMPILE=${RIDE_COMPILE:-}
if [ -z "$RIDE_COMPILE" ]; then
    cargo build --locked -p ride-compiler
    RIDE_COMPILE=$(realpath "${CARGO_TARGET_DIR:-target}/debug/ride-compile")
fi
fail() { echo "tests/arm/firmware-c.sh: $*" >&2; exit 2; }

cargo build --release --locked -q -p ride-example-device
host=$(realpath "${CARGO_TARGET_DIR:-target}/release/ride-example-device")
. tests/arm/cross.sh
unset CARGO_TARGET_DIR

firmware=examples/firmware-c
# answers FILE: classes, experts and logits of the images, one a line.
answers() { grep -o '"class": [0-9]*, "experts": [0-9]*, "logits_crc32": "[0-9a-f]*"' "$1"; }
# shape FILE: the report without what depends on machine and time.
shape() { sed -E 's/: "[^"]*"/: ""/g; s/[0-9]+(\.[0-9]+)?/0/g' "$1"; }
# section ELF NAME: bytes of a section.
section() { arm-none-eabi-size -A -d "$1" | awk -v name="$2" '$1 == name { bytes = $2 } END { print bytes + 0 }'; }

printf '%-12s %8s %8s %8s %8s %8s\n' 'size of the' text rodata code static stack > "$out/sizes.txt"
printf '%-12s %8s %8s %8s %8s %8s\n' 'runtime for' '' '' 'in all' RAM used >> "$out/sizes.txt"

build() { # BOARD CORE LIMIT(KiB of code)
    local folder=$firmware/build/$1-$2 elf text rodata ram
    make -s -C $firmware BOARD="$1" CORE="$2" > "$out/make.txt" 2>&1 || { cat "$out/make.txt" >&2; fail "$2: the build failed"; }
    for elf in firmware smallest; do
        if arm-none-eabi-nm "$folder/$elf.elf" | grep -E 'ride_panicked|panicking|slice_index_fail|unwrap_failed|expect_failed'; then
            fail "$2: $elf links a path to a panic"
        fi
    done
    read -r text rodata < <(sh $firmware/runtime-size.sh "$folder/smallest.map" | sed 's/[^0-9]*\([0-9]*\)[^0-9]*\([0-9]*\).*/\1 \2/')
    ram=$(($(section "$folder/smallest.elf" .bss) + $(section "$folder/smallest.elf" .data)))
    printf '%-12s %8d %8d %8d %8d %8s\n' "$2" "$text" "$rodata" $((text + rodata)) "$ram" "${4:--}" >> "$out/sizes.txt"
    [ "$text" -gt 10000 ] && [ $((text + rodata)) -le $(($3 * 1024)) ] || fail "$2: $((text + rodata)) bytes of code, $3 KiB are allowed"
    [ "$ram" -le $((48 * 1024)) ] || fail "$2: $ram bytes of RAM, 48 KiB are allowed"
}

board() { # BOARD CORE LIMIT(KiB of code)
    local report=$out/$2.json stack
    build "$1" "$2" "$3" '(below)'
    timeout 300 make -s -C $firmware BOARD="$1" CORE="$2" run > "$report" 2> "$out/run.txt" ||
        { cat "$report" "$out/run.txt" >&2; fail "$2: the firmware failed on $1"; }
    "$host" "$firmware/build/model-$2/model.ride" --rounds 1 > "$out/host-$2.json"
    [ "$(answers "$report" | wc -l)" = 4 ] || fail "$2: no answers in its report"
    diff <(answers "$out/host-$2.json") <(answers "$report") >&2 || fail "$2: answers differ from this machine's"
    grep -q '"counts": "instructions"' "$report" || fail "$2: instructions were not counted"
    diff <(shape "$out/host-$2.json" | sed 's/"stack_bytes": null/"stack_bytes": 0/') <(shape "$report") >&2 ||
        fail "$2: its report has other fields than the Rust programs'"
    stack=$(sed -n 's/.*"stack_bytes": \([0-9]*\).*/\1/p' "$report")
    [ "$stack" -gt 0 ] && [ "$stack" -le 4096 ] || fail "$2: $stack bytes of stack, at most 4096 are allowed"
    sed -i "s/^\($2 .*\) (below)/\1 $(printf %8d "$stack")/" "$out/sizes.txt"
    printf '\n== %s (%s)\n' "$2" "$1"
    grep -E '"(timer|stack_bytes)"|\{"experts"|"routed"' "$report"
}

board an386 cortex-m4 33
board an500 cortex-m7 33
board an505 cortex-m33 33
board an547 cortex-m55 33
# Cores without vectors take minutes under emulation: they are built and measured.
build an385 cortex-m3 33
build an385 cortex-m0plus 37
for name in nrf52840 stm32h743 stm32u585; do
    make -s -C $firmware BOARD=$name > "$out/make.txt" 2>&1 || { cat "$out/make.txt" >&2; fail "$name: the build failed"; }
done
echo
cat "$out/sizes.txt"
