#!/usr/bin/env python3
"""Seeded RIDE models of the ImageNet family: for the comparison with other runtimes, and golden outputs for the tests.

    pip install numpy torch onnx onnxruntime openvino nncf
    python examples/peers/imagenet.py make OUT [--arch ResNeXt50EAModel] [--experts 3] [--classes 1000]
    python examples/peers/imagenet.py golden compiler/tests/data/imagenet.json

`make` writes OUT/model (official checkpoint with config.json), OUT/images.npz (224 x 224, for calibration), and what
compare.py wants of the other runtimes: 1 and all as .u8s8.onnx, .nncf.xml, and input.npy. Then:

    ride-compile build OUT/model --data OUT/images.npz -o OUT/model.ride
    python examples/peers/compare.py --artifact OUT/model.ride --models OUT

Weights come from a counter-based generator that the Rust test repeats, so `golden` stores nothing but small outputs.
"""
import argparse
import json
import math
import os

import numpy as np
import torch

from graphs import Block, Mean, RideModel, export, quantize
from images import IMAGENET, normalised


def uniform(name, count):
    """`count` numbers in [-1, 1) that depend on nothing but `name`: splitmix64 of FNV-1a(name) + index, upper 24 bits."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return ((z ^ z >> np.uint64(31)) >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0


def fill(net):
    """Seeds every tensor by its name. The last normalisation of a block is small, as training leaves it: blocks then
    add to the residual stream and do not replace it."""
    for name, t in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        u = uniform(name, t.numel())
        if t.dim() > 1:
            u = u * math.sqrt(6.0 / (t[0].numel() if t.dim() == 4 else t.shape[1]))
        elif name.endswith("running_var"):
            u = 1.0 + 0.5 * u
        elif name.endswith("weight"):
            u = 0.9 + 0.2 * u
        else:
            u = 0.2 * u
        t.copy_(torch.from_numpy(u.astype(np.float32).reshape(t.shape)))
    return net.eval()


def last_norms(net):
    for m in net.modules():
        if isinstance(m, Block):
            yield m.bn3 if hasattr(m, "bn3") else m.bn2


def pictures(count, side):
    """Smooth random pictures, N x H x W x 3."""
    r = np.random.default_rng(7)
    y, x = np.mgrid[0:side, 0:side] / side
    out = np.empty((count, side, side, 3))
    for i in range(count):
        for c in range(3):
            waves = [r.normal() * np.sin(2 * np.pi * (r.normal(0, 4) * x + r.normal(0, 4) * y + r.uniform())) for _ in range(6)]
            a = sum(waves) + r.normal(0, 0.3, (side, side))
            out[i, :, :, c] = (a - a.min()) / (a.max() - a.min()) * 255
    return out.astype(np.uint8)


def in_double(images):
    # In the images' own order of pixels: PyTorch's sums depend on it, in the last bits.
    return torch.from_numpy(normalised(images, IMAGENET, np.float64)).to(memory_format=torch.channels_last)


GOLDEN = [
    ("ResNet10EAModel", dict(num_classes=11, num_experts=3, use_norm=False, top_choices_num=5, share_expert_help_pred_fc=False)),
    ("ResNet10Model", dict(num_classes=7, num_experts=6, share_layer3=True)),
    ("ResNet50EAModel", dict(num_classes=13, num_experts=2, top_choices_num=4)),
    ("ResNet50Model", dict(num_classes=8142, num_experts=1, use_norm=False)),
    ("ResNet101Model", dict(num_classes=9, num_experts=2, share_layer3=True)),
    ("ResNet152EAModel", dict(num_classes=9, num_experts=2, top_choices_num=9)),
    ("ResNeXt50EAModel", dict(num_classes=17, num_experts=4, top_choices_num=6)),
    ("ResNeXt152Model", dict(num_classes=9, num_experts=1)),
]


def golden(path):
    cases = []
    for kind, args in GOLDEN:
        args = dict({"use_norm": True}, **args, layer3_output_dim=64, layer4_output_dim=64)
        size = args["num_classes"], args["num_experts"]
        with torch.no_grad():
            net = fill(RideModel(kind, args, listed=True)).double()
            pixels = ((uniform("image", 64 * 64 * 3) + 1.0) * 128).astype(np.uint8).reshape(1, 64, 64, 3)
            stem = net.stem(in_double(pixels))
            logits, scores = [], []
            for i in range(size[1]):
                out, feature = net.expert(stem, i)
                logits.append(out)
                if net.routed and i + 1 < size[1]:
                    scores.append(float(net.router(feature, sum(logits) / len(logits), i)))
        kept = min(size[0], 24)
        cases.append({"type": kind, "args": args, "scores": scores, "logits": [[float(f"{v:.9g}") for v in l[0, :kept]] for l in logits]})
        print(kind, scores, [round(float(l.abs().max()), 2) for l in logits])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


def for_peers(net, out, images):
    import nncf
    import openvino as ov

    x = in_double(images[:16]).float().numpy()
    np.save(f"{out}/input.npy", x[:1])
    for name, count in (("1", 1), ("all", net.count)):
        plain = f"{out}/{name}.onnx"
        export(Mean(net, count), torch.from_numpy(x[:1]), plain)
        quantize(plain, f"{out}/{name}.u8s8.onnx", x, "QUInt8")
        quantized = nncf.quantize(ov.convert_model(plain, input=[1, 3, 224, 224]), nncf.Dataset([v[None] for v in x]), subset_size=16)
        ov.save_model(quantized, f"{out}/{name}.nncf.xml")


def make(options):
    out, images = options.out, pictures(64, 224)
    args = dict(num_classes=options.classes, num_experts=options.experts, reduce_dimension=True, use_norm=True)
    if "EA" in options.arch:
        args["top_choices_num"] = 30
    net = fill(RideModel(options.arch, args, listed=True))
    with torch.no_grad():
        for norm in last_norms(net):
            norm.weight.mul_(0.25)
        for m in net.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.momentum = None
                m.reset_running_stats()
        net.train()
        for batch in in_double(images[:32]).float().split(16):
            stem = net.stem(batch)
            for i in range(options.experts):
                net.expert(stem, i)
        net.eval()
    os.makedirs(f"{out}/model", exist_ok=True)
    config = {"arch": {"type": options.arch, "args": args}, "data_loader": {"type": "ImageNetLTDataLoader", "args": {}}}
    state = {"backbone." + name: t for name, t in net.state_dict().items()}
    torch.save({"arch": options.arch, "epoch": 1, "state_dict": state}, f"{out}/model/checkpoint.pth")
    with open(f"{out}/model/config.json", "w") as f:
        json.dump(config, f)
    np.savez(f"{out}/images.npz", x=images, y=np.arange(len(images)) % options.classes)
    if not options.no_peers:
        for_peers(net, out, images)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["make", "golden"])
    p.add_argument("out")
    p.add_argument("--arch", default="ResNeXt50EAModel")
    p.add_argument("--experts", type=int, default=3)
    p.add_argument("--classes", type=int, default=1000)
    p.add_argument("--no-peers", action="store_true", help="only the checkpoint and the images")
    options = p.parse_args()
    golden(options.out) if options.what == "golden" else make(options)


if __name__ == "__main__":
    main()
