#!/usr/bin/env python3
"""What other int8 runtimes make of the same network: agreement with the float model and SQNR of the logits.

    pip install numpy onnxruntime openvino ai-edge-litert
    python examples/peers/agreement.py --models DIR --data test.bin [--limit 1000]

DIR as for compare.py, plus the float model all.onnx; DATA is a CIFAR-100 binary file. All experts run, as these
runtimes do without routing of their own. `ride-compile verify` prints the same figures for an artifact.
"""
import argparse
import os

import numpy as np

from images import CIFAR, cifar100, normalised


def onnx(path):
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def openvino(path):
    import openvino as ov

    core = ov.Core()
    request = core.compile_model(core.read_model(path), "CPU").create_infer_request()
    return lambda x: request.infer([x])[0].copy()


def litert(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    i, o = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    (s, z), (out_s, out_z) = i["quantization"], o["quantization"]

    def run(x):
        q = np.clip(np.round(x.transpose(0, 2, 3, 1) / s) + z, -128, 127).astype(np.int8)
        interpreter.set_tensor(i["index"], np.ascontiguousarray(q))
        interpreter.invoke()
        y = interpreter.get_tensor(o["index"]).astype(np.float32)
        return (y - out_z) * out_s if out_s else y

    return run


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--limit", type=int, default=1000)
    args = p.parse_args()
    x = normalised(cifar100(args.data)[: args.limit], CIFAR)
    everything = lambda run: np.concatenate([run(x[n : n + 1]) for n in range(len(x))])
    reference = everything(onnx(os.path.join(args.models, "all.onnx")))
    for name, load, file in [
        ("LiteRT", litert, "all.int8.tflite"),
        ("ONNX Runtime u8s8", onnx, "all.u8s8.onnx"),
        ("OpenVINO NNCF", openvino, "all.nncf.xml"),
    ]:
        path = os.path.join(args.models, file)
        if not os.path.exists(path):
            continue
        logits = everything(load(path))
        same = 100 * np.mean(logits.argmax(1) == reference.argmax(1))
        sqnr = 10 * np.log10((reference**2).sum() / ((reference - logits) ** 2).sum())
        print(f"{name:20} same class {same:.1f} %  SQNR of logits {sqnr:.1f} dB  ({len(x)} images)")


if __name__ == "__main__":
    main()
