#!/usr/bin/env python3
"""Latency of an artifact side by side with other int8 runtimes: one core, batch 1, all in the same run.

    pip install numpy onnxruntime openvino ai-edge-litert
    python examples/peers/compare.py --artifact my-ride.ride --models DIR [--passes 5] [--core 1] [--json]

DIR holds the same network for the other runtimes, as "1" (stem and first expert) and "all" (all experts, mean of the
logits); what is missing is left out:

    1.int8.tflite   all.int8.tflite     LiteRT (XNNPACK)
    1.nncf.xml/.bin all.nncf.xml/.bin   OpenVINO, quantized by NNCF
    1.u8s8.onnx     all.u8s8.onnx       ONNX Runtime and OpenVINO, QDQ
    input.npy       one normalised image, 1 x 3 x H x W, float32

Every pass runs every runtime once, in a process of its own, pinned to the same core, in turn; the medians of the passes
and the ratio to the best other runtime are printed. Shared machines are noisy: trust the ratios, not the microseconds.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

PEERS = [("litert", ".int8.tflite"), ("openvino", ".nncf.xml"), ("openvino", ".u8s8.onnx"), ("onnxruntime", ".u8s8.onnx")]


def peer(runtime, path, x):
    """A function of no arguments that runs one inference."""
    import numpy as np

    if runtime == "onnxruntime":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: x})
    if runtime == "openvino":
        import openvino as ov

        core = ov.Core()
        hints = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
        request = core.compile_model(core.read_model(path), "CPU", hints).create_infer_request()
        request.set_input_tensor(ov.Tensor(x, shared_memory=True))
        return lambda keep=x: request.infer()  # the tensor does not own its memory
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    scale, zero_point = detail["quantization"]
    q = np.clip(np.round(x.transpose(0, 2, 3, 1) / scale) + zero_point, -128, 127).astype(np.int8)
    interpreter.set_tensor(detail["index"], np.ascontiguousarray(q))
    return interpreter.invoke


def worker(runtime, path, inputs, seconds):
    """Prints the median time of one inference in microseconds."""
    import numpy as np

    run = peer(runtime, path, np.load(inputs))
    times, start = [], time.perf_counter()
    while time.perf_counter() - start < 0.3:  # warm-up
        run()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times) < 15:
        before = time.perf_counter_ns()
        run()
        times.append((time.perf_counter_ns() - before) / 1e3)
    print(statistics.median(times))


def measure(command, core):
    pinned = ["taskset", "-c", str(core)] + command
    done = subprocess.run(pinned, capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS="1"))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(last)
    return done.stdout


def ours(args):
    """Medians of our artifact for "1" and "all"."""
    command = [args.ride_compile, "bench", args.artifact, "--seconds", str(args.seconds), "--json"]
    rows = json.loads(measure(command, args.core))["rows"]
    return {"1": rows[0]["median_us"], "all": rows[-1]["median_us"]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--artifact", help="artifact of ride-compile build")
    p.add_argument("--models", help="folder of the other runtimes' models")
    p.add_argument("--ride-compile", default="target/release/ride-compile")
    p.add_argument("--passes", type=int, default=5)
    p.add_argument("--seconds", type=float, default=1.0, help="a measurement's length")
    p.add_argument("--core", type=int, default=0)
    p.add_argument("--json", action="store_true")
    p.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.worker:
        return worker(*args.worker, args.seconds)
    if not args.artifact or not args.models:
        p.error("--artifact and --models are needed")
    inputs = os.path.join(args.models, "input.npy")
    times = {}
    for _ in range(args.passes):
        for graph, us in ours(args).items():
            times.setdefault(("ride", graph), []).append(us)
        for runtime, suffix in PEERS:
            for graph in ("1", "all"):
                path = os.path.join(args.models, graph + suffix)
                if not os.path.exists(path) or times.get((runtime + suffix, graph), 0) is None:
                    continue
                command = [sys.executable, os.path.abspath(__file__), "--seconds", str(args.seconds)]
                try:
                    us = float(measure(command + ["--worker", runtime, path, inputs], args.core))
                    times.setdefault((runtime + suffix, graph), []).append(us)
                except RuntimeError as error:
                    print(f"{runtime} {path}: {error}", file=sys.stderr)
                    times[(runtime + suffix, graph)] = None
    medians = {key: statistics.median(v) for key, v in times.items() if v}
    report = {}
    for graph in ("1", "all"):
        others = {name: us for (name, g), us in medians.items() if g == graph and name != "ride"}
        # Ratios pass by pass, so that drift of the machine's speed cancels.
        ratios = {n: statistics.median(a / b for a, b in zip(times[("ride", graph)], times[(n, graph)])) for n in others}
        best = min(others, key=others.get) if others else None
        report[graph] = {"ride_us": medians[("ride", graph)], "others_us": others, "best": best, "ratios": ratios}
    if args.json:
        print(json.dumps(report, indent=1))
        return
    for graph, r in report.items():
        print(f"{'stem + 1 expert' if graph == '1' else 'all experts'}: ride {r['ride_us']:.0f} us")
        for name, us in sorted(r["others_us"].items(), key=lambda item: item[1]):
            print(f"    {name:24} {us:8.0f} us   ride takes {r['ratios'][name]:.2f} of it")


if __name__ == "__main__":
    main()
