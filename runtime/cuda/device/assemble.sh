#!/usr/bin/env bash
# Assembles the PTX that is shipped for every compute capability that it may be loaded on, with NVIDIA's own assembler, which
# is what drivers have built in. No GPU is needed. Fails if an instruction is refused, if registers or shared memory do not
# suffice for a block of 256 threads, or if much is spilled; with a disassembler, too, if machine code lacks what the executor
# relies on.
#
#   device/assemble.sh             # looks for ptxas in $PTXAS, then $PATH, then /usr/local/cuda/bin
#
# Without a CUDA toolkit: `pip download --no-deps nvidia-cuda-nvcc-cu11` (11.8, close to the drivers of JetPack 4 and 5),
# `nvidia-cuda-nvcc-cu12` or `nvidia-cuda-nvcc`, unzip the wheel, PTXAS=FOLDER/nvidia/cuda_nvcc/bin/ptxas. The disassembler
# ($NVDISASM) is in `nvidia-cuda-nvdisasm`.
#
# Exit codes: 0 everything holds, 1 something does not, 77 there is no assembler.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
find_tool() { # name, own choice
    local tool
    for tool in "$2" "$(command -v "$1" || true)" "/usr/local/cuda/bin/$1"; do
        if [ -n "$tool" ] && [ -x "$tool" ]; then echo "$tool"; return; fi
    done
}
ptxas=$(find_tool ptxas "${PTXAS:-}")
nvdisasm=$(find_tool nvdisasm "${NVDISASM:-}")
if [ -z "$ptxas" ]; then
    echo "skipped: there is no ptxas; this script's head says where to get one" >&2
    exit 77
fi
known=$("$ptxas" --help | grep -oE "'sm_[0-9]+'" | tr -d "'" | sort -u)
[ -n "$known" ] || { echo "$ptxas names no architectures" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0 count=0
fail() { echo "FAILED $*" >&2; failed=1; }

# Registers of a block (Nano and TX2 have 32768, all others 65536), shared memory (48 KiB everywhere), spilled bytes.
limits() { # path, architecture, text of ptxas
    local registers shared spilled most=65536
    registers=$(grep -oE 'Used [0-9]+ registers' <<<"$3" | grep -oE '[0-9]+')
    shared=$(grep -oE '[0-9]+ bytes smem' <<<"$3" | grep -oE '^[0-9]+')
    spilled=$(grep -oE '[0-9]+ bytes spill stores' <<<"$3" | grep -oE '^[0-9]+')
    case $2 in sm_53 | sm_62) most=32768 ;; esac
    printf '%-5s %-7s %3s registers, %5s bytes shared, %3s spilled\n' "$1" "$2" "$registers" "$shared" "$spilled"
    [ $((registers * 256)) -le "$most" ] || fail "$1 on $2: $registers registers are too many for 256 threads"
    [ "$shared" -le 49152 ] || fail "$1 on $2: $shared bytes of shared memory"
    [ "$spilled" -le 128 ] || fail "$1 on $2: $spilled bytes spilled"
}

# Whether machine code has the products that the path is made for, and drops the first-level cache at every fence: plain
# loads behind the grid's barrier rely on that.
machine_code() { # path, architecture, file
    local text fences drops product
    if ! text=$("$nvdisasm" -c "$3" 2>/dev/null); then
        return # too old for this disassembler
    fi
    case $1 in f32) product='FFMA' ;; dp4a) product='IDP\.4A\.S8\.S8' ;; wmma) product='IMMA\..*S8\.S8' ;; mma) product='IMMA\.16832\.S8\.S8' ;; esac
    grep -qE "\b$product" <<<"$text" || fail "$1 on $2: no $product in the machine code"
    if grep -qE 'LDG[A-Z0-9.]*\.CONSTANT' <<<"$text"; then fail "$1 on $2: loads through the read-only cache"; fi
    fences=$(grep -cE '^\s*(membar|fence)\.' "$here/../ptx/$1.ptx" || true)
    drops=$(grep -cE '\bCCTL\.IVALL\b' <<<"$text" || true)
    [ "$fences" -ge 3 ] && [ "$drops" -ge "$fences" ] || fail "$1 on $2: $fences fences drop the first-level cache $drops times"
    disassembled=$((disassembled + 1))
}

disassembled=0
"$ptxas" --version | grep release
for file in "$here"/../ptx/*.ptx; do
    path=$(basename "$file" .ptx)
    first=$(grep -oE '^\.target sm_[0-9]+' "$file" | grep -oE '[0-9]+')
    for arch in $known; do
        [ "${arch#sm_}" -ge "$first" ] || continue
        if ! text=$("$ptxas" -v "-arch=$arch" "$file" -o "$work/code" 2>&1); then
            fail "$path on $arch: $text"
            continue
        fi
        limits "$path" "$arch" "$text"
        [ -z "$nvdisasm" ] || machine_code "$path" "$arch" "$work/code"
        count=$((count + 1))
    done
done
[ "$count" -gt 0 ] || fail "nothing was assembled"
echo "$count combinations assembled, machine code of $disassembled looked at"
exit "$failed"
