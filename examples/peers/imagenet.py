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
from torch import nn
from torch.nn import functional as F

DEPTHS = {"ResNet10": (1, 1, 1, 1), "ResNet50": (3, 4, 6, 3), "ResNet101": (3, 4, 23, 3), "ResNet152": (3, 8, 36, 3),
          "ResNeXt50": (3, 4, 6, 3), "ResNeXt152": (3, 8, 36, 3)}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Residual(nn.Module):
    """Two 3x3 convolutions (ResNet-10) or 1x1, 3x3, 1x1, beside the identity or a projection."""

    def __init__(self, arch, inputs, planes, stride):
        super().__init__()
        deep, groups = arch != "ResNet10", 32 if arch.startswith("ResNeXt") else 1
        inner = planes * 4 // 64 * 32 if groups > 1 else planes
        outputs = planes * 4 if deep else planes
        plan = [(inputs, inner, 1, 1, 1), (inner, inner, 3, stride, groups), (inner, outputs, 1, 1, 1)] if deep else \
               [(inputs, planes, 3, stride, 1), (planes, planes, 3, 1, 1)]
        for n, (i, o, k, s, g) in enumerate(plan, 1):
            setattr(self, f"conv{n}", nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False))
            setattr(self, f"bn{n}", nn.BatchNorm2d(o))
        self.count, self.outputs = len(plan), outputs
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for n in range(1, self.count + 1):
            y = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(y))
            y = F.relu(y) if n < self.count else y
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class UnitLinear(nn.Module):
    """Rows of the weight are inputs; both sides are divided by their norm."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs))

    def forward(self, x):
        return F.normalize(x, dim=1) @ F.normalize(self.weight, dim=0)


class Ride(nn.Module):
    def __init__(self, kind, num_classes, num_experts, reduce_dimension=False, layer3_output_dim=None,
                 layer4_output_dim=None, use_norm=True, top_choices_num=30, share_layer3=False,
                 share_expert_help_pred_fc=True):
        super().__init__()
        arch = kind.removesuffix("Model").removesuffix("EA")
        depths, self.routed = DEPTHS[arch], "EAModel" in kind
        third = layer3_output_dim or (192 if reduce_dimension else 256)
        fourth = layer4_output_dim or (384 if reduce_dimension else 512)
        self.scale, self.top, self.experts = 30.0 if use_norm else 1.0, top_choices_num, num_experts
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)

        def stage(inputs, planes, blocks, stride):
            layers = []
            for b in range(blocks):
                layers.append(Residual(arch, inputs, planes, stride if b == 0 else 1))
                inputs = layers[-1].outputs
            return nn.Sequential(*layers)

        self.layer1 = stage(64, 64, depths[0], 1)
        wide = self.layer1[-1].outputs // 64
        self.layer2 = stage(64 * wide, 128, depths[1], 2)
        own = lambda make: nn.ModuleList(make() for _ in range(num_experts))
        self.shared = share_layer3
        if share_layer3:
            self.layer3 = stage(128 * wide, third, depths[2], 2)
        else:
            self.layer3s = own(lambda: stage(128 * wide, third, depths[2], 2))
        self.layer4s = own(lambda: stage(third * wide, fourth, depths[3], 2))
        features = fourth * wide
        self.linears = own(lambda: UnitLinear(features, num_classes) if use_norm else nn.Linear(features, num_classes))
        if self.routed:
            hidden = [nn.Linear(features, 16) for _ in range(num_experts - 1)]
            self.expert_help_pred_hidden_fcs = nn.ModuleList(hidden)
            if share_expert_help_pred_fc:
                self.expert_help_pred_fc = nn.Linear(top_choices_num + 16, 1)
            else:
                self.expert_help_pred_fcs = nn.ModuleList(nn.Linear(top_choices_num + 16, 1) for _ in hidden)

    def stem(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer2(self.layer1(x))
        return self.layer3(x) if self.shared else x

    def expert(self, x, i):
        feature = self.layer4s[i](x if self.shared else self.layer3s[i](x)).mean((2, 3))
        return self.linears[i](feature) * self.scale, feature

    def score(self, i, feature, mean):
        hidden = F.relu(self.expert_help_pred_hidden_fcs[i](feature / feature.norm(dim=1, keepdim=True)))
        fc = self.expert_help_pred_fc if hasattr(self, "expert_help_pred_fc") else self.expert_help_pred_fcs[i]
        return fc(torch.cat((mean.topk(self.top, 1)[0], hidden), 1))[:, 0]


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
        if isinstance(m, Residual):
            yield getattr(m, f"bn{m.count}")


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


def normalised(images):
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    return (x - torch.tensor(MEAN).double().view(1, 3, 1, 1)) / torch.tensor(STD).double().view(1, 3, 1, 1)


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
            net = fill(Ride(kind, **args)).double()
            pixels = ((uniform("image", 64 * 64 * 3) + 1.0) * 128).astype(np.uint8).reshape(1, 64, 64, 3)
            stem = net.stem(normalised(pixels))
            logits, scores = [], []
            for i in range(size[1]):
                out, feature = net.expert(stem, i)
                logits.append(out)
                if net.routed and i + 1 < size[1]:
                    scores.append(float(net.score(i, feature, sum(logits) / len(logits))))
        kept = min(size[0], 24)
        cases.append({"type": kind, "args": args, "scores": scores, "logits": [[float(f"{v:.9g}") for v in l[0, :kept]] for l in logits]})
        print(kind, scores, [round(float(l.abs().max()), 2) for l in logits])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


class Averaged(nn.Module):
    """Mean logits of the first experts, for runtimes that cannot route."""

    def __init__(self, net, count):
        super().__init__()
        self.net, self.count = net, count

    def forward(self, x):
        x = self.net.stem(x)
        return sum(self.net.expert(x, i)[0] for i in range(self.count)) / self.count


def for_peers(net, out, images):
    import nncf
    import openvino as ov
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    x = normalised(images[:16]).float().numpy()
    np.save(f"{out}/input.npy", x[:1])

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rest = iter(x)

        def get_next(self):
            one = next(self.rest, None)
            return None if one is None else {"x": one[None]}

    for name, count in (("1", 1), ("all", net.experts)):
        plain, prepared = f"{out}/{name}.onnx", f"{out}/{name}.prepared.onnx"
        torch.onnx.export(Averaged(net, count), (torch.from_numpy(x[:1]),), plain, input_names=["x"],
                          output_names=["logits"], opset_version=17, dynamo=False)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(prepared, f"{out}/{name}.u8s8.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
        os.remove(prepared)
        quantized = nncf.quantize(ov.convert_model(plain, input=[1, 3, 224, 224]), nncf.Dataset([v[None] for v in x]), subset_size=16)
        ov.save_model(quantized, f"{out}/{name}.nncf.xml")


def make(options):
    out, images = options.out, pictures(64, 224)
    args = dict(num_classes=options.classes, num_experts=options.experts, reduce_dimension=True, use_norm=True)
    if "EA" in options.arch:
        args["top_choices_num"] = 30
    net = fill(Ride(options.arch, **args))
    with torch.no_grad():
        for norm in last_norms(net):
            norm.weight.mul_(0.25)
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.momentum = None
                m.reset_running_stats()
        net.train()
        for batch in normalised(images[:32]).float().split(16):
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
