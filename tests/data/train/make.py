#!/usr/bin/env python3
"""One training step of a small RIDE network, computed by PyTorch in double precision.

The network is a ResNet-32 of one block a stage, written down by the names of the official checkpoints. Neither parameters
nor images are stored: every element is a function of its tensor's name and its index, which
`compiler/src/train/tests/step.rs` computes as well.

    python make.py            # writes step.safetensors; needs torch and numpy
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

CLASSES, EXPERTS, IMAGES, SIDE = 5, 2, 6, 8
WIDTHS = {"layer1": 16, "layer2": 18, "layer3": 20}
COUNTS = [100, 40, 12, 5, 2]
TARGETS = [0, 1, 2, 3, 4, 0]
SCALE = 30.0
DIVERSITY, REWEIGHT_FACTOR, TEMPERATURE = -0.45, 0.05, 1.5
RATE, MOMENTUM, DECAY = 0.1, 0.9, 5e-4


def uniform(name, *shape):
    """Numbers in -1..1: SplitMix64 of an FNV-1a hash of the name plus the index."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        x = np.uint64(seed) + np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return torch.from_numpy((x >> np.uint64(40)).astype(np.float64) / 2**23 - 1).reshape(shape)


class Network:
    """Functions of parameters that are made up as they are asked for."""

    def __init__(self):
        self.parameters, self.buffers = {}, {}

    def parameter(self, name, *shape, centre=0.0, spread=1.0):
        if name not in self.parameters:
            # What a file of single precision would hold.
            value = (centre + spread * uniform(name, *shape)).float().double()
            self.parameters[name] = value.requires_grad_()
        return self.parameters[name]

    def conv_norm(self, x, conv, norm, width, stride=1):
        weight = self.parameter(f"{conv}.weight", width, x.shape[1], 3, 3, spread=0.25)
        x = F.conv2d(x, weight, stride=stride, padding=1)
        mean = self.buffers.setdefault(f"{norm}.running_mean", torch.zeros(width, dtype=torch.float64))
        variance = self.buffers.setdefault(f"{norm}.running_var", torch.ones(width, dtype=torch.float64))
        weight = self.parameter(f"{norm}.weight", width, centre=1.0, spread=0.5)
        bias = self.parameter(f"{norm}.bias", width, spread=0.5)
        return F.batch_norm(x, mean, variance, weight, bias, training=True)

    def block(self, x, name, width, stride):
        y = F.relu(self.conv_norm(x, f"{name}.conv1", f"{name}.bn1", width, stride))
        y = self.conv_norm(y, f"{name}.conv2", f"{name}.bn2", width)
        pad = (width - x.shape[1]) // 2
        if pad or stride > 1:
            x = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, pad, pad))
        return F.relu(y + x)

    def logits(self, images):
        x = F.relu(self.conv_norm(images, "conv1", "bn1", 16))
        shared = self.block(x, "layer1.0", WIDTHS["layer1"], 1)
        result = []
        for expert in range(EXPERTS):
            x = self.block(shared, f"layer2s.{expert}.0", WIDTHS["layer2"], 2)
            x = self.block(x, f"layer3s.{expert}.0", WIDTHS["layer3"], 2).mean((2, 3))
            weight = self.parameter(f"linears.{expert}.weight", x.shape[1], CLASSES)
            result.append(SCALE * F.normalize(x, dim=1) @ F.normalize(weight, dim=0))
        return result


def kl(expected, logits):
    """Divergence of softmax(logits) from softmax(expected), mean over the images."""
    return F.kl_div(F.log_softmax(logits, 1), F.softmax(expected.detach(), 1), reduction="batchmean")


def ride(logits, reweighted):
    """Each expert's LDAM cross-entropy, and how far it is from the mean of all."""
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    margins = 0.5 * (counts.min() / counts) ** 0.25
    effective = (1 - 0.9999) / (1 - 0.9999**counts)
    weights = effective / effective.sum() * CLASSES if reweighted else None
    temperatures = torch.ones(CLASSES, dtype=torch.float64)
    if reweighted:
        raised = CLASSES * counts / counts.sum() * REWEIGHT_FACTOR + 1 - REWEIGHT_FACTOR
        temperatures = raised / raised.max()
    targets = torch.tensor(TARGETS)
    mean = torch.stack(logits).mean(0)
    loss = 0
    for expert in logits:
        margin = F.one_hot(targets, CLASSES) * margins * SCALE
        loss = loss + F.cross_entropy(expert - margin, targets, weight=weights)
        loss = loss + DIVERSITY * temperatures.mean() ** 2 * kl(mean / temperatures, expert / temperatures)
    return loss


def main():
    images = uniform("images", IMAGES, SIDE, SIDE, 3).float().double().permute(0, 3, 1, 2)
    teacher = [(10 * uniform(f"teacher.{expert}", IMAGES, CLASSES)).float().double() for expert in range(EXPERTS)]
    network = Network()
    logits = network.logits(images)
    mean, teacher_mean = torch.stack(logits).mean(0), torch.stack(teacher).mean(0)
    distilled = TEMPERATURE**2 * kl(teacher_mean / TEMPERATURE, mean / TEMPERATURE)
    per_expert = sum(TEMPERATURE**2 * kl(t / TEMPERATURE, s / TEMPERATURE) for t, s in zip(teacher, logits)) / EXPERTS
    early, late = ride(logits, False), ride(logits, True)
    # As the authors' code sums it up: everything once for each expert.
    official = EXPERTS * (late + distilled)
    official.backward()

    stored = {"losses": torch.stack([early, late, late + distilled + 0.5 * per_expert, official])}
    for name, parameter in network.parameters.items():
        stored[f"grad.{name}"] = parameter.grad
    for name, buffer in network.buffers.items():
        stored[f"buffer.{name}"] = buffer
    optimizer = torch.optim.SGD(
        network.parameters.values(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True
    )
    optimizer.step()
    # One number for each tensor: its product with made-up numbers.
    for name, parameter in network.parameters.items():
        probe = uniform(f"probe.{name}", *parameter.shape)
        stored[f"updated.{name}"] = (parameter.detach() * probe).sum().reshape(1)
    write(pathlib.Path(__file__).with_name("step.safetensors"), stored)


def write(path, tensors):
    header, data = {}, b""
    for name, tensor in tensors.items():
        array = tensor.detach().numpy().astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(array)]}
        data += array
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
