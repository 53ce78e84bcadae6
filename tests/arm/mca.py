#!/usr/bin/env python3
"""Judges the inner loops of the 64-bit Arm kernels with llvm-mca's models of the cores they are written for.

    tests/arm/mca.py            # after tests/arm/linux.sh, which builds what is judged; needs llvm-mca

For each kernel and each of its loops with the most multiplications: instructions, cycles of an iteration according to
the model of the core, and products (multiply-accumulates) a cycle. Models know no caches.
"""

import re
import subprocess
import sys
from pathlib import Path

BINARY = Path("target/arm/aarch64-unknown-linux-gnu/release/examples/replay")
ITERATIONS = 100
# Function of the binary, multiplication, products of one, cores to ask for.
KERNELS = [
    ("run_neon", "smlal", 4, ["cortex-a53", "cortex-a72"]),
    ("run_dotprod", "sdot", 16, ["cortex-a55", "cortex-a76", "neoverse-n1"]),
    ("run_i8mm", "smmla", 32, ["cortex-a510", "neoverse-n2", "neoverse-v1"]),
]
BRANCH = re.compile(r"(?:b\.\w+|cbn?z|tbn?z|b)\s.*0x([0-9a-f]+)")


def tool(name):
    """Path of an LLVM tool, of the toolchain that setup.sh unpacks or of the system."""
    found = sorted(Path.home().glob(f".local/share/deb-arm/rust-*/lib/rustlib/*/bin/{name}"))
    return str(found[-1]) if found else name


def functions(binary):
    """Instructions of each function, as pairs of address and text."""
    listing = subprocess.run([tool("llvm-objdump"), "-d", "--no-show-raw-insn", binary],
                             check=True, capture_output=True, text=True).stdout
    code = None
    for line in listing.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.*)>:", line):
            if code:
                yield name, code
            name, code = head[1], []
        elif code is not None and (found := re.match(r"\s*([0-9a-f]+):\s+(.*)", line)):
            code.append((int(found[1], 16), re.sub(r"\s*(//.*|<.*>)$", "", found[2].replace("\t", " "))))
    if code:
        yield name, code


def inner_loops(code):
    """Bodies of loops without other loops inside."""
    places = {address: i for i, (address, _) in enumerate(code)}
    loops = []
    for i, (address, text) in enumerate(code):
        target = BRANCH.match(text)
        start = places.get(int(target[1], 16)) if target else None
        if start is not None and start <= i:
            loops.append((start, i))
    inner = [l for l in loops if not any(l != k and l[0] <= k[0] and k[1] <= l[1] for k in loops)]
    return [[text for _, text in code[a:b + 1]] for a, b in inner]


def cycles(loop, core):
    """Cycles of an iteration according to the model of `core`. Branches, whose targets are unknown, are left out."""
    source = "\n".join(t for t in loop if not BRANCH.match(t))
    run = subprocess.run([tool("llvm-mca"), "-march=aarch64", f"-mcpu={core}", "-mattr=+dotprod,+i8mm",
                          f"-iterations={ITERATIONS}"], input=source + "\n", check=True, capture_output=True, text=True)
    return int(re.search(r"Total Cycles:\s+(\d+)", run.stdout)[1]) / ITERATIONS


def main():
    if not BINARY.exists():
        sys.exit(f"{BINARY} does not exist: run tests/arm/linux.sh first")
    all_functions = list(functions(BINARY))
    for kernel, multiplication, products, cores in KERNELS:
        loops = [l for name, code in all_functions if kernel in name for l in inner_loops(code)]
        count = lambda loop: sum(multiplication in t for t in loop)
        for loop in sorted((l for l in loops if 4 * count(l) > len(l)), key=count, reverse=True)[:5]:
            for core in cores:
                took = cycles(loop, core)
                print(f"{kernel:12} {count(loop):4} {multiplication:5} of {len(loop):4} instructions, {core:12}"
                      f" {took:7.1f} cycles, {count(loop) * products / took:5.1f} products a cycle")


if __name__ == "__main__":
    main()
