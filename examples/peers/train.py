#!/usr/bin/env python3
"""Training steps a second side by side with eager PyTorch: ResNet-32 with three experts, 32 x 32 pixels, CPU.

    cargo build --release -p ride-compiler --example train
    python examples/peers/train.py [--batch 128] [--threads 2] [--passes 3] [--seconds 10] [--json]   # needs torch

Both do the forward pass, the experts' losses (ours RIDE's, PyTorch plain cross-entropy, which is less work), the backward
pass and an update by SGD with Nesterov's momentum. They run in turn, in processes of their own; medians are compared.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
OURS = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/train"


def eager(batch, threads, seconds):
    """Milliseconds of each step in this process."""
    sys.path.insert(0, str(ROOT / "examples/export"))
    import torch
    import torch.nn.functional as F
    from ride_model import RideModel

    torch.manual_seed(1)
    torch.set_num_threads(threads)
    args = {"num_classes": 100, "num_experts": 3, "reduce_dimension": True, "use_norm": True}
    net = RideModel("ResNet32Model", args).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, nesterov=True)
    images, targets = torch.randn(batch, 3, 32, 32), torch.arange(batch) % 100

    def step():
        optimizer.zero_grad()
        shared = net.stem(images)
        sum(F.cross_entropy(net.expert(shared, i)[0], targets) for i in range(3)).backward()
        optimizer.step()

    step()
    times, start = [], time.time()
    while time.time() - start < seconds or len(times) < 3:
        begin = time.time()
        step()
        times.append(1e3 * (time.time() - begin))
    return statistics.median(times)


def run(command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10, help="of each pass of each side")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.worker:
        print(eager(a.batch, a.threads, a.seconds))
        return
    if not OURS.exists():
        sys.exit(f"error: {OURS} is missing; cargo build --release -p ride-compiler --example train")
    ours, theirs = [], []
    sizes = [str(value) for value in (a.seconds, a.batch, a.threads)]
    for _ in range(a.passes):
        ours.append(float(re.search(r"median ([\d.]+) ms", run([OURS, *sizes]))[1]))
        flags = ["--worker", "--seconds", sizes[0], "--batch", sizes[1], "--threads", sizes[2]]
        theirs.append(float(run([sys.executable, __file__, *flags])))
    rate = {name: 1e3 * a.batch / statistics.median(times) for name, times in (("ride", ours), ("eager", theirs))}
    if a.json:
        print(json.dumps({"images_per_second": rate, "ratio": rate["ride"] / rate["eager"]}))
        return
    for name, value in rate.items():
        print(f"{name:8} {value:8.1f} images/s")
    print(f"ride does {rate['ride'] / rate['eager']:.2f} times as many")


if __name__ == "__main__":
    main()
