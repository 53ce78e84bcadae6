#!/usr/bin/env python3
"""Latency of an artifact on an NVIDIA GPU beside other runtimes on the same GPU: batch 1, all in the same run.

    pip install numpy onnxruntime-gpu torch
    python examples/peers/gpu.py --artifact my-ride.ride --models DIR [--passes 5] [--json]

DIR holds the same network for the others, as "1" (stem and first expert) and "all" (all experts, mean of the logits):

    1.onnx      all.onnx       float: ONNX Runtime's CUDA and TensorRT (fp16) providers
    1.u8s8.onnx all.u8s8.onnx  QDQ: ONNX Runtime's TensorRT provider, int8
    1.ts        all.ts         TorchScript: PyTorch in fp16 as a CUDA graph
    input.npy                  one normalised image, 1 x 3 x H x W, float32

What is missing, a file or a library or a provider, is left out and named. Runtimes take turns, pass by pass; copies of the
image to the GPU and of the logits back are part of every time. Without a GPU this says so and exits with 1.
"""
import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time

PEERS = [("ort-cuda-fp32", ".onnx"), ("tensorrt-fp16", ".onnx"), ("tensorrt-int8", ".u8s8.onnx"), ("torch-fp16-graph", ".ts")]


def gpus():
    """Number of GPUs that the driver sees; an error's text where there is no driver."""
    library = os.environ.get("RIDE_CUDA_LIBRARY", "libcuda.so.1")
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        return 0, f"no NVIDIA driver: {error}"
    count = ctypes.c_int(0)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return 0, "the NVIDIA driver sees no GPU"
    return count.value, ""


def onnx_runtime(kind, path, x):
    import onnxruntime as ort

    if kind.startswith("tensorrt"):
        provider = ("TensorrtExecutionProvider", {"trt_fp16_enable": True, "trt_int8_enable": kind.endswith("int8"),
                                                  "trt_cuda_graph_enable": True})
    else:
        provider = ("CUDAExecutionProvider", {})
    if provider[0] not in ort.get_available_providers():
        raise RuntimeError(f"this ONNX Runtime has no {provider[0]}")
    session = ort.InferenceSession(path, providers=[provider])
    if session.get_providers()[0] != provider[0]:
        raise RuntimeError(f"{provider[0]} does not start")
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})


def torch_graph(path, x):
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("this PyTorch sees no GPU")
    model = torch.jit.load(path, map_location="cuda").half().eval()
    host = torch.from_numpy(x).half().pin_memory()
    image = host.cuda()
    with torch.no_grad():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(image)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = model(image)

    def run():
        image.copy_(host, non_blocking=True)
        graph.replay()
        return logits.cpu()

    return run


def worker(kind, path, inputs, seconds):
    """Prints the median time of one inference in microseconds."""
    import numpy as np

    x = np.load(inputs)
    run = torch_graph(path, x) if kind.startswith("torch") else onnx_runtime(kind, path, x)
    start = time.perf_counter()
    while time.perf_counter() - start < 0.5:  # clocks and caches
        run()
    times, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds or len(times) < 15:
        before = time.perf_counter_ns()
        run()
        times.append((time.perf_counter_ns() - before) / 1e3)
    print(statistics.median(times))


def output_of(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return done.stdout


def ours(args):
    """Medians of our artifact for "1" and "all", in single launches."""
    command = [args.ride_compile, "bench", args.artifact, "--device", "cuda", "--seconds", str(args.seconds), "--json"]
    rows = [row for row in json.loads(output_of(command))["rows"] if row["executor"] == "persistent"]
    numbers = {int(row["experts"]): row["median_us"] for row in rows if row["experts"].isdigit()}
    return {"1": numbers[1], "all": numbers[max(numbers)]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--artifact", help="artifact of ride-compile build")
    p.add_argument("--models", help="folder of the other runtimes' models")
    p.add_argument("--ride-compile", default="target/release/ride-compile")
    p.add_argument("--passes", type=int, default=5)
    p.add_argument("--seconds", type=float, default=1.0, help="a measurement's length")
    p.add_argument("--json", action="store_true")
    p.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.worker:
        return worker(*args.worker, args.seconds)
    if not args.artifact or not args.models:
        p.error("--artifact and --models are needed")
    count, why = gpus()
    if not count:
        sys.exit(f"error: {why}; nothing can be compared on this machine")
    times, missing = {}, {}
    for _ in range(args.passes):
        for graph, us in ours(args).items():
            times.setdefault(("ride", graph), []).append(us)
        for kind, suffix in PEERS:
            for graph in ("1", "all"):
                path = os.path.join(args.models, graph + suffix)
                if (kind, graph) in missing:
                    continue
                if not os.path.exists(path):
                    missing[(kind, graph)] = f"there is no {path}"
                    continue
                command = [sys.executable, os.path.abspath(__file__), "--seconds", str(args.seconds), "--worker", kind, path]
                try:
                    us = float(output_of(command + [os.path.join(args.models, "input.npy")]))
                    times.setdefault((kind, graph), []).append(us)
                except RuntimeError as error:
                    missing[(kind, graph)] = str(error)
    report = {"missing": {f"{kind} {graph}": why for (kind, graph), why in missing.items()}}
    for graph in ("1", "all"):
        ride = times[("ride", graph)]
        others = {k: v for (k, g), v in times.items() if g == graph and k != "ride" and len(v) == len(ride)}
        report[graph] = {"ride_us": statistics.median(ride), "others_us": {k: statistics.median(v) for k, v in others.items()},
                         "ratios": {k: statistics.median(a / b for a, b in zip(ride, v)) for k, v in others.items()}}
    if args.json:
        return print(json.dumps(report, indent=1))
    for graph in ("1", "all"):
        r = report[graph]
        print(f"{'stem + 1 expert' if graph == '1' else 'all experts'}: ride {r['ride_us']:.1f} us")
        for name, us in sorted(r["others_us"].items(), key=lambda item: item[1]):
            print(f"    {name:20} {us:9.1f} us   ride takes {r['ratios'][name]:.2f} of it")
    for name, why in report["missing"].items():
        print(f"left out: {name}: {why}", file=sys.stderr)


if __name__ == "__main__":
    main()
