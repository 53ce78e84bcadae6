#!/usr/bin/env python3
"""Golden logits of RIDE's relatives, computed by PyTorch in double precision.

Each model is written down by the names that its project gives its parameters, and calls PyTorch's functions on them in the
order in which that project's evaluation does. Parameters are not stored: every element is a function of its tensor's name
and its index, which `compiler/tests/relatives` computes as well.

    python make.py            # writes golden.json; needs torch and numpy
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

CLASSES = 10


def uniform(name, count):
    """`count` numbers in -1..1: SplitMix64 of an FNV-1a hash of the name plus the index."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        x = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(40)).astype(np.float64) / 2**23 - 1


class Parameters:
    """Makes tensors up as they are asked for, and remembers their shapes."""

    def __init__(self):
        self.shapes = {}

    def __call__(self, name, *shape):
        self.shapes[name] = list(shape)
        u = uniform(name, int(np.prod(shape)))
        if name.endswith("running_var"):
            value = 1 + 0.5 * u
        elif len(shape) == 1:
            value = 0.2 * u + (1 if name.endswith("weight") else 0)
        else:
            value = u * np.sqrt(1.5 / np.prod(shape[1:]))
        # Checkpoints are in single precision.
        return torch.from_numpy(value.astype(np.float32).astype(np.float64)).reshape(shape)


def conv_bn(p, x, conv, bn, out, kernel, stride=1, groups=1, padding=None):
    w = p(f"{conv}.weight", out, x.shape[1] // groups, kernel, kernel)
    x = F.conv2d(x, w, None, stride, kernel // 2 if padding is None else padding, 1, groups)
    mean, var = p(f"{bn}.running_mean", out), p(f"{bn}.running_var", out)
    return F.batch_norm(x, mean, var, p(f"{bn}.weight", out), p(f"{bn}.bias", out), False, 0, 1e-5)


def cifar_stage(p, x, name, planes, stride):
    for block in range(5):
        at, s = f"{name}.{block}", stride if block == 0 else 1
        y = F.relu(conv_bn(p, x, f"{at}.conv1", f"{at}.bn1", planes, 3, s))
        y = conv_bn(p, y, f"{at}.conv2", f"{at}.bn2", planes, 3)
        if s != 1 or x.shape[1] != planes:
            pad = (planes - x.shape[1]) // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad))
        x = F.relu(x + y)
    return x


def next_stage(p, x, name, planes, blocks, stride):
    """Bottlenecks with 32 groups of 4 channels for every 64 of the stage's width."""
    width = planes * 4 // 64 * 32
    for block in range(blocks):
        at, s = f"{name}.{block}", stride if block == 0 else 1
        y = F.relu(conv_bn(p, x, f"{at}.conv1", f"{at}.bn1", width, 1))
        y = F.relu(conv_bn(p, y, f"{at}.conv2", f"{at}.bn2", width, 3, s, 32))
        y = conv_bn(p, y, f"{at}.conv3", f"{at}.bn3", planes * 4, 1)
        if s != 1 or x.shape[1] != planes * 4:
            x = conv_bn(p, x, f"{at}.downsample.0", f"{at}.downsample.1", planes * 4, 1, s, 1, 0)
        x = F.relu(x + y)
    return x


def pooled(x):
    return F.avg_pool2d(x, x.shape[3]).flatten(1)


def ride_layout(p, x, widths, prefix="module.backbone."):
    """SADE, TADE and BalPoE on CIFAR: RIDE's ResNet-32 with normed classifiers, s = 30."""
    x = F.relu(conv_bn(p, x, f"{prefix}conv1", f"{prefix}bn1", 16, 3))
    x = cifar_stage(p, x, f"{prefix}layer1", 16, 1)
    logits = []
    for e in range(3):
        y = cifar_stage(p, x, f"{prefix}layer2s.{e}", widths[0], 2)
        y = pooled(cifar_stage(p, y, f"{prefix}layer3s.{e}", widths[1], 2))
        w = p(f"{prefix}linears.{e}.weight", y.shape[1], CLASSES)
        logits.append(30 * F.normalize(y, dim=1).mm(F.normalize(w, dim=0)))
    return logits


def sade(p, x):
    logits = ride_layout(p, x, (24, 48))
    return logits, 0.2 * logits[0] + 0.3 * logits[1] + 0.5 * logits[2]


def balpoe(p, x):
    logits = ride_layout(p, x, (32, 64))
    return logits, torch.stack(logits, 1).mean(1)


def ncl(p, x, cosine=False):
    """Whole networks side by side; the answer is the sum of their logits."""
    logits = []
    for e in range(3):
        at = f"module.backbone.{e}"
        y = F.relu(conv_bn(p, x, f"{at}.conv1", f"{at}.bn1", 16, 3))
        for stage, planes, stride in ((1, 16, 1), (2, 32, 2), (3, 64, 2)):
            y = cifar_stage(p, y, f"{at}.layer{stage}", planes, stride)
        y = pooled(y)
        w, b = p(f"module.classifier.{e}.weight", CLASSES, 64), p(f"module.classifier.{e}.bias", CLASSES)
        if cosine:
            y, w = y / y.norm(2, 1, True), 16 * w / w.norm(2, 1, True)
        logits.append(y.mm(w.t()) + b)
    return logits, sum(logits)


def reslt(p, x):
    """ResNeXt-50 with RIDE's experts and ResLT's classifiers, narrowed; the official gamma of ImageNet-LT."""
    gamma, prefix = 0.7, "module."
    x = F.relu(conv_bn(p, x, f"{prefix}conv1", f"{prefix}bn1", 64, 7, 2))
    x = F.max_pool2d(x, 3, 2, 1)
    x = next_stage(p, x, f"{prefix}layer1", 64, 3, 1)
    x = next_stage(p, x, f"{prefix}layer2", 128, 4, 2)
    logits = []
    for e in range(2):
        y = next_stage(p, x, f"{prefix}layer3s.{e}", 32, 6, 2)
        y = next_stage(p, y, f"{prefix}layer4s.{e}", 16, 3, 2)
        c = y.shape[1]
        y = F.avg_pool2d(y, y.shape[3])
        at = f"{prefix}ResLTBlocks.{e}"
        y = F.relu(conv_bn(p, y, f"{at}.0", f"{at}.1", 3 * c, 1)).flatten(1)
        w = p(f"{prefix}linears.{e}.weight", CLASSES, c)
        p(f"{prefix}linears.{e}.bias", CLASSES)  # only training looks at it
        w = w / w.norm(2, 1, True) ** gamma
        logits.append(sum(piece.mm(w.t()) for piece in y.split(c, 1)))
    return logits, sum(logits) / 2


def main():
    golden = {}
    models = {
        "sade": (sade, 32),
        "balpoe": (balpoe, 32),
        "ncl": (ncl, 32),
        "ncl-cosine": (lambda p, x: ncl(p, x, cosine=True), 32),
        "reslt": (reslt, 64),
    }
    for name, (model, side) in models.items():
        p = Parameters()
        image = torch.from_numpy(uniform("image", side * side * 3).astype(np.float32).astype(np.float64))
        logits, answer = model(p, image.reshape(1, side, side, 3).permute(0, 3, 1, 2))
        rounded = lambda x: [float(f"{v:.9g}") for v in x[0].tolist()]
        golden[name] = {
            "side": side,
            "tensors": p.shapes,
            "logits": [rounded(x) for x in logits],
            "answer": rounded(answer),
        }
        print(name, [f"{v:.3f}" for v in golden[name]["answer"]])
    path = pathlib.Path(__file__).with_name("golden.json")
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    with torch.no_grad():
        main()
