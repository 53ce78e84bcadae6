#!/usr/bin/env python3
"""Latency of an artifact on an NVIDIA GPU beside other runtimes on the same GPU: batch 1, all in the same run.

    pip install numpy onnxruntime-gpu torch        # and TensorRT, which JetPack brings; whatever of these there is
    cargo build --release -p ride-example-jetson
    python examples/peers/gpu.py --artifact my-ride.ride --models DIR [--passes 5] [--json] [--cpu]

DIR holds the same network for the others, as "1" (stem and first expert) and "all" (all experts, mean of the logits);
examples/peers/gpu_models.py makes all of it from the checkpoint:

    1.s8s8.onnx all.s8s8.onnx  symmetric QDQ: TensorRT, and ONNX Runtime's TensorRT provider, int8
    1.fp16.onnx all.fp16.onnx  half precision: TensorRT, and ONNX Runtime's CUDA provider
    1.onnx      all.onnx       float: ONNX Runtime's CUDA provider
    1.ts        all.ts         TorchScript: PyTorch in fp16 as a CUDA graph
    input.npy                  one normalised image, 1 x 3 x H x W, float32
    expected.npz               the float network's logits for it (optional): the error of each runtime is shown then

What is missing, a file or a library or a provider, is left out and named. Runtimes take turns, pass by pass; copies of the
image to the GPU and of the logits back are part of every time. Engines are built before anything is timed. --cpu runs the
models in ONNX Runtime and PyTorch on the CPU as well, which checks files and errors and is no comparison. Without a GPU
this says so and exits with 1. Python 3.6 (JetPack 4) or newer.
"""
import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

PEERS = [("tensorrt-int8", ".s8s8.onnx"), ("tensorrt-fp16", ".fp16.onnx"), ("ort-tensorrt-int8", ".s8s8.onnx"),
         ("ort-cuda-fp16", ".fp16.onnx"), ("ort-cuda-fp32", ".onnx"), ("torch-fp16-graph", ".ts")]
CPU_PEERS = [("ort-cpu-int8", ".s8s8.onnx"), ("ort-cpu-fp32", ".onnx"), ("torch-cpu-fp32", ".ts")]


def gpus():
    """Number of GPUs that the driver sees; an error's text where there is no driver."""
    library = os.environ.get("RIDE_CUDA_LIBRARY") or "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        return 0, f"no NVIDIA driver: {error}"
    count = ctypes.c_int(0)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return 0, "the NVIDIA driver sees no GPU"
    return count.value, ""


def onnx_runtime(kind, path, x, cache):
    import onnxruntime as ort

    if kind.startswith("ort-tensorrt"):
        provider = ("TensorrtExecutionProvider", {"trt_fp16_enable": True, "trt_int8_enable": True, "trt_cuda_graph_enable": True,
                                                  "trt_engine_cache_enable": True, "trt_engine_cache_path": cache})
    elif kind.startswith("ort-cuda"):
        provider = ("CUDAExecutionProvider", {})
    else:
        provider = ("CPUExecutionProvider", {})
    if provider[0] not in ort.get_available_providers():
        raise RuntimeError(f"this ONNX Runtime has no {provider[0]}")
    session = ort.InferenceSession(path, providers=[provider])
    if session.get_providers()[0] != provider[0]:
        raise RuntimeError(f"{provider[0]} does not start")
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})[0]


def torch_cpu(path, x):
    import torch

    model, image = torch.jit.freeze(torch.jit.load(path, map_location="cpu").eval()), torch.from_numpy(x)

    def run():
        with torch.no_grad():
            return model(image)

    return run


def torch_graph(path, x):
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("this PyTorch sees no GPU")
    # Frozen, normalisation is folded into the convolutions.
    model = torch.jit.freeze(torch.jit.load(path, map_location="cuda").half().eval())
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
        return logits.float().cpu()

    return run


def runner(kind, path, x, cache):
    """A function of no arguments that runs one inference and gives the logits."""
    if kind.startswith("tensorrt"):
        import tensorrt_runner

        return tensorrt_runner.runner(path, x, kind.endswith("int8"), cache)
    if kind.startswith("torch"):
        return torch_cpu(path, x) if "cpu" in kind else torch_graph(path, x)
    return onnx_runtime(kind, path, x, cache)


def worker(kind, path, folder, cache, seconds):
    """Prints, as JSON, the median time of one inference in microseconds and the error of the logits."""
    import numpy as np

    run = runner(kind, path, np.load(os.path.join(folder, "input.npy")), cache)
    logits, start = np.array(run()), time.perf_counter()
    while time.perf_counter() - start < min(0.5, seconds):  # clocks and caches
        run()
    times, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds or len(times) < 15:
        before = time.perf_counter()
        run()
        times.append((time.perf_counter() - before) * 1e6)
    print(json.dumps({"us": statistics.median(times), "error": error(logits, path, folder)}))


def error(logits, path, folder):
    """Largest difference to the float network's logits, as a share of the largest of those; None where none are known."""
    import numpy as np

    expected = os.path.join(folder, "expected.npz")
    if not os.path.exists(expected):
        return None
    want = np.load(expected)[os.path.basename(path).split(".")[0]]
    return float(np.abs(want - logits.reshape(want.shape)).max() / np.abs(want).max())


def output_of(command):
    # Python 3.6 has neither `capture_output` nor `text`.
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return done.stdout


def ours(args):
    """Medians of our artifact for "1" and "all", in single launches."""
    command = [args.program, "latency", args.artifact, "--count", str(args.runs)]
    rows = [row for row in json.loads(output_of(command))["rows"] if row["executor"] == "persistent"]
    numbers = {int(row["experts"]): row["median_us"] for row in rows if row["experts"].isdigit()}
    return {"1": numbers[1], "all": numbers[max(numbers)]}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--artifact", help="artifact of ride-compile build")
    p.add_argument("--models", help="folder of the other runtimes' models")
    p.add_argument("--program", default="target/release/ride-example-jetson", help="our program; see examples/jetson")
    p.add_argument("--passes", type=int, default=5)
    p.add_argument("--runs", type=int, default=1000, help="runs of our program for a measurement")
    p.add_argument("--seconds", type=float, default=1.0, help="length of a measurement of the others")
    p.add_argument("--cpu", action="store_true", help="the models on the CPU, too: a check of files, no comparison")
    p.add_argument("--json", action="store_true")
    p.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = p.parse_args()
    if not args.worker and not (args.artifact and args.models):
        p.error("--artifact and --models are needed")
    return args


def measure(args, cache):
    """Times of each runtime and graph, pass by pass; errors of the logits; what is missing, and why."""
    times, errors, missing = {}, {}, {}
    peers = [(kind, graph, suffix) for kind, suffix in PEERS + CPU_PEERS * args.cpu for graph in ("1", "all")]
    worker = [sys.executable, os.path.abspath(__file__), "--seconds"]
    command = lambda kind, path, seconds: worker + [str(seconds), "--worker", kind, path, args.models, cache]
    for kind, graph, suffix in peers:
        path = os.path.join(args.models, graph + suffix)
        try:
            if not os.path.exists(path):
                raise RuntimeError(f"there is no {path}")
            # Untimed: engines are built here, into the cache.
            errors[(kind, graph)] = json.loads(output_of(command(kind, path, 0)))["error"]
        except RuntimeError as reason:
            missing[(kind, graph)] = str(reason)
    for _ in range(args.passes):
        for graph, us in ours(args).items():
            times.setdefault(("ride", graph), []).append(us)
        for kind, graph, suffix in peers:
            if (kind, graph) in missing:
                continue
            try:
                line = output_of(command(kind, os.path.join(args.models, graph + suffix), args.seconds))
                times.setdefault((kind, graph), []).append(json.loads(line)["us"])
            except RuntimeError as reason:
                missing[(kind, graph)] = str(reason)
    return times, errors, missing


def main():
    args = arguments()
    if args.worker:
        return worker(*args.worker, seconds=args.seconds)
    count, why = gpus()
    if not count:
        sys.exit(f"error: {why}; nothing can be compared on this machine")
    with tempfile.TemporaryDirectory() as cache:
        times, errors, missing = measure(args, cache)
    report = {"missing": {f"{kind} {graph}": why for (kind, graph), why in missing.items()}}
    for graph in ("1", "all"):
        ride = times[("ride", graph)]
        others = {k: v for (k, g), v in times.items() if g == graph and k != "ride" and len(v) == len(ride)}
        report[graph] = {"ride_us": statistics.median(ride), "others_us": {k: statistics.median(v) for k, v in others.items()},
                         "ratios": {k: statistics.median(a / b for a, b in zip(ride, v)) for k, v in others.items()},
                         "errors": {k: errors[(k, graph)] for k in others}}
    if args.json:
        return print(json.dumps(report, indent=1))
    for graph in ("1", "all"):
        r = report[graph]
        print(f"{'stem + 1 expert' if graph == '1' else 'all experts'}: ride {r['ride_us']:.1f} us")
        for name, us in sorted(r["others_us"].items(), key=lambda item: item[1]):
            off = "" if r["errors"][name] is None else f"   logits off by {100 * r['errors'][name]:.1f} %"
            print(f"    {name:20} {us:9.1f} us   ride takes {r['ratios'][name]:.2f} of it{off}")
    for name, why in report["missing"].items():
        print(f"left out: {name}: {why}", file=sys.stderr)


if __name__ == "__main__":
    main()
