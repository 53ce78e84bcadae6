#!/usr/bin/env python3
"""Makes of a RIDE checkpoint what gpu.py wants of the other runtimes, and checks it against the checkpoint on the CPU.

    pip install numpy onnx onnxruntime torch
    python examples/peers/gpu_models.py CHECKPOINT OUT --data train.bin [--images 128]

CHECKPOINT is a folder with checkpoint.pth and config.json; --data a CIFAR-100 binary file, a folder's worth of images as
.npz (x: u8, N x H x W x 3; examples/peers/imagenet.py writes one) or .npy of the same. Writes, for "1" (stem and first
expert) and "all" (all experts, mean of the logits), batch 1:

    .onnx       float
    .fp16.onnx  half precision inside, float outside: for builders that take types from the model (TensorRT 11)
    .s8s8.onnx  QDQ as TensorRT wants it: int8, symmetric, weights by channel, float biases; calibrated on --images
    .ts         TorchScript, float
    input.npy, expected.npz     one normalised image, and the checkpoint's logits for it

Fails where a float file is not what the checkpoint computes, or where int8 has lost the network (less than 10 dB).
"""
import argparse
import json
import os
import sys
import warnings

import numpy as np
import torch

from graphs import INPUT, Mean, RideModel, export, quantize
from images import CIFAR, IMAGENET, cifar100, normalised


class Half(torch.nn.Module):
    """A network in half precision behind a float interface."""

    def __init__(self, net):
        super().__init__()
        self.net = net.half()

    def forward(self, x):
        return self.net(x.half()).float()


def pictures(path, count, cifar):
    """Normalised images, evenly picked from the file."""
    if path.endswith(".npz") or path.endswith(".npy"):
        held = np.load(path)
        held = held["x"] if path.endswith(".npz") else held
    else:
        held = cifar100(path)
    side = 32 if cifar else 224
    if held.dtype != np.uint8 or held.shape[1:] != (side, side, 3) or not len(held):
        sys.exit(f"error: {path} holds {held.dtype} {held.shape}; the network takes u8 N x {side} x {side} x 3")
    picked = held[np.linspace(0, len(held) - 1, min(count, len(held))).astype(int)]
    return normalised(picked, CIFAR if cifar else IMAGENET)


def check_symmetric(path):
    """Whether all zero points are 0 and int8, without which TensorRT refuses the file."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    values = {i.name: i for i in graph.initializer}
    points = [node.input[2] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for name in points:
        value = numpy_helper.to_array(values[name])
        if value.dtype != np.int8 or value.any():
            sys.exit(f"error: {path}: {name} is {value.dtype} {value.ravel()[:4]}, which TensorRT does not take")
    return len(points)


def onnx_logits(path, x):
    import onnxruntime as ort

    ort.set_default_logger_severity(3)  # constants in half precision that it cannot fold are no error
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {INPUT: row[None]})[0] for row in x])


def script_logits(path, x):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.load(path, map_location="cpu")
        return np.concatenate([model(torch.from_numpy(row[None])).numpy() for row in x])


def decibels(want, got):
    error = ((want - got).astype(np.float64) ** 2).sum()
    return float("inf") if error == 0 else float(10 * np.log10((want.astype(np.float64) ** 2).sum() / error))


def make(model, name, count, x, args):
    """Writes the files of one graph; the checkpoint's logits for the first image."""
    net, image = Mean(model, count).eval(), torch.from_numpy(x[:1])
    at = lambda suffix: os.path.join(args.out, name + suffix)
    with torch.no_grad():
        tried = x[: args.check]
        want = np.concatenate([net(torch.from_numpy(row[None])).numpy() for row in tried])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net, image).save(at(".ts"))
    export(net, image, at(".onnx"))
    # As TensorRT's explicit quantization takes it: zero points are 0, and biases stay float.
    quantize(at(".onnx"), at(".s8s8.onnx"), x, "QInt8", ActivationSymmetric=True, WeightSymmetric=True, QuantizeBias=False)
    pairs = check_symmetric(at(".s8s8.onnx"))
    # A copy, because halving is done in place.
    halved = Half(Mean(RideModel.from_checkpoint(args.checkpoint), count))
    export(halved, image, at(".fp16.onnx"))
    # Least SQNR: float files differ by the order of sums alone.
    files = [(".onnx", onnx_logits, 90), (".ts", script_logits, 90), (".fp16.onnx", onnx_logits, 40), (".s8s8.onnx", onnx_logits, 10)]
    for suffix, run, least in files:
        got = run(at(suffix), tried)
        same, db = 100 * np.mean(got.argmax(1) == want.argmax(1)), decibels(want, got)
        print(f"{name + suffix:16} same class {same:5.1f} %  SQNR of logits {db:5.1f} dB  ({len(tried)} images)")
        if not db >= least:
            sys.exit(f"error: {at(suffix)} does not compute what the checkpoint does: {db:.1f} dB, at least {least} are expected")
    print(f"{name}.s8s8.onnx    {pairs} symmetric quantizers and dequantizers")
    return want[:1]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint")
    p.add_argument("out")
    p.add_argument("--data", required=True)
    p.add_argument("--images", type=int, default=128, help="images to calibrate on")
    p.add_argument("--check", type=int, default=64, help="images to compare on")
    args = p.parse_args()
    for path in (os.path.join(args.checkpoint, "config.json"), args.data):
        if not os.path.exists(path):
            sys.exit(f"error: there is no {path}")
    model = RideModel.from_checkpoint(args.checkpoint)
    x = pictures(args.data, args.images, model.cifar)
    os.makedirs(args.out, exist_ok=True)
    with open(os.path.join(args.checkpoint, "config.json"), encoding="utf-8") as file:
        print(json.load(file)["arch"]["type"], "with", model.count, "experts")
    expected = {"1": make(model, "1", 1, x, args), "all": make(model, "all", model.count, x, args)}
    np.save(os.path.join(args.out, "input.npy"), x[:1])
    np.savez(os.path.join(args.out, "expected.npz"), **expected)


if __name__ == "__main__":
    main()
