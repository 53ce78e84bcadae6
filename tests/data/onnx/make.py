"""Makes the small ONNX files of this folder: tiny networks of RIDE's shape with seeded weights, as PyTorch's two
exporters write them.

    python make.py [FOLDER]             the files of this folder
    python make.py FOLDER --matrix      every model with every exporter and operator set from 13 to 21
    python make.py --mobilenet FILE     a whole MobileNetV2 at 224x224, for timing by hand

Needs torch, onnx and onnxscript.
"""
import argparse
import os
import sys
import warnings

import onnx
import torch
import torch.nn as nn
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "..", "examples", "export"))
from export_onnx import Whole, export, split  # noqa: E402
from ride_model import RideModel, conv  # noqa: E402

ARGS = {"num_classes": 10, "num_experts": 3, "top_choices_num": 4, "use_norm": True}


def seeded(model, seed, image):
    """Random weights whose batch normalisations have seen some images."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.6, 1.2)
            nn.init.normal_(module.bias, 0, 0.2)
            module.momentum = None
    model.train()
    with torch.no_grad():
        for _ in range(4):
            run_all(model, torch.randn(8, *image.shape[1:]))
    return model.eval()


def run_all(model, x):
    if isinstance(model, RideModel):
        shared = model.stem(x)
        return [model.expert(shared, i) for i in range(model.count)]
    return model(x)


class Mean(nn.Module):
    """The mean of all experts' logits and nothing else."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return sum(logits for logits, _ in run_all(self.model, x)) / self.model.count


class Stacked(Mean):
    """What the official non-EA classes return: the mean, and all logits as [batch, experts, classes]."""

    def forward(self, x):
        logits = torch.stack([logits for logits, _ in run_all(self.model, x)], dim=1)
        return logits.mean(dim=1), logits


class Weighted(Mean):
    """A fixed weight for each expert and an adjustment of the classes."""

    def forward(self, x):
        a, b, c = (logits for logits, _ in run_all(self.model, x))
        return 0.5 * a + 0.3 * b + 0.2 * c - torch.linspace(0, 1, 10)


class Separate(nn.Module):
    """Experts that share nothing."""

    def __init__(self, count):
        super().__init__()
        self.nets = nn.ModuleList(Plain() for _ in range(count))

    def forward(self, x):
        return tuple(net(x) for net in self.nets)


class Plain(nn.Module):
    """A plain convolutional classifier with pooling and a biased linear layer."""

    def __init__(self, activation=F.relu):
        super().__init__()
        self.activation = activation
        self.conv1, self.bn1 = conv(3, 6, 3, 2), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop, self.fc = nn.Dropout(0.2), nn.Linear(8, 7)

    def forward(self, x):
        x = self.activation(self.bn1(self.conv1(x)))
        x = self.activation(self.bn2(self.conv2(x)))
        return self.fc(self.drop(F.avg_pool2d(x, x.shape[3]).view(x.shape[0], -1)))


class Inverted(nn.Module):
    """MobileNetV2's block (Sandler et al., arXiv:1801.04381): 1 x 1, depthwise 3 x 3, 1 x 1 without ReLU."""

    def __init__(self, inputs, outputs, stride, activation, expansion=2):
        super().__init__()
        wide = inputs * expansion
        widen = [conv(inputs, wide, 1), nn.BatchNorm2d(wide), activation()] if expansion > 1 else []
        self.layers = nn.Sequential(*widen, conv(wide, wide, 3, stride, wide), nn.BatchNorm2d(wide), activation(),
                                    conv(wide, outputs, 1), nn.BatchNorm2d(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)


class Mobile(nn.Module):
    """A MobileNetV2 in miniature."""

    def __init__(self, activation=nn.ReLU6):
        super().__init__()
        self.features = nn.Sequential(conv(3, 8, 3, 2), nn.BatchNorm2d(8), activation(), Inverted(8, 8, 1, activation),
                                      Inverted(8, 12, 2, activation), Inverted(12, 12, 1, activation),
                                      conv(12, 24, 1), nn.BatchNorm2d(24), activation())
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(24, 10))

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))


class MobileNetV2(nn.Module):
    """Table 2 of the paper: expansion, channels, repetitions and first stride of each row."""

    ROWS = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]

    def __init__(self, classes=1000):
        super().__init__()
        layers, channels = [conv(3, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU6()], 32
        for expansion, outputs, count, stride in self.ROWS:
            for n in range(count):
                layers.append(Inverted(channels, outputs, stride if n == 0 else 1, nn.ReLU6, expansion))
                channels = outputs
        self.features = nn.Sequential(*layers, conv(channels, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU6())
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))


class Bottlenecks(nn.Module):
    """7 x 7 stem, max-pool, bottlenecks with groups and projection; two experts. Normalises its image itself."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, 7, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.experts = nn.ModuleList(Bottleneck() for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(16, 10) for _ in range(2))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, x):
        x = self.stem((x - self.mean) / self.std)
        return tuple(h(F.adaptive_avg_pool2d(e(x), 1).flatten(1)) for e, h in zip(self.experts, self.heads))


class Bottleneck(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(conv(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8, 3, 2, 4), nn.BatchNorm2d(8),
                                    nn.ReLU(), conv(8, 16, 1), nn.BatchNorm2d(16))
        self.down = nn.Sequential(conv(8, 16, 1, 2), nn.BatchNorm2d(16))

    def forward(self, x):
        return F.relu(self.layers(x) + self.down(x))


class Baked(Mean):
    """Decides in Python which samples go on, as the official EA classes do."""

    def forward(self, x):
        shared = self.model.stem(x)
        total, feature = self.model.expert(shared, 0)
        going = torch.ones(x.shape[0], dtype=torch.bool)
        used = torch.ones(x.shape[0], 1)
        for i in range(1, self.model.count):
            score = self.model.router(feature, total[going] / i, i - 1).view(-1)
            going = going.clone()
            going[going.clone()] = torch.sigmoid(score) > 0.5
            if not going.any():
                break
            logits, feature = self.model.expert(shared[going], i)
            total[going] += logits
            used[going] += 1
        return total / used


def ride(routed, seed, **more):
    torch.manual_seed(seed)
    model = RideModel("ResNet32EAModel" if routed else "ResNet32Model", {**ARGS, **more}, (4, 6, 8), 1)
    return seeded(model, seed, torch.zeros(1, 3, 16, 16))


def models():
    """Name, module, image and names of the outputs."""
    image = torch.zeros(1, 3, 16, 16)
    routed = ride(True, 1)
    yield "ride", Whole(routed), image, Whole(routed).names()
    yield "mean", Mean(ride(False, 2)), image, ["output"]
    yield "stacked", Stacked(ride(False, 3, use_norm=False)), image, ["output", "logits"]
    yield "weighted", Weighted(ride(False, 4)), image, ["output"]
    yield "separate", seeded(Separate(2), 5, image), image, ["a", "b"]
    yield "plain", seeded(Plain(), 6, image), image, ["logits"]
    # A limit that is met often, unlike ReLU6's.
    yield "clipped", seeded(Plain(lambda x: x.clamp(0, 0.75)), 10, image), image, ["logits"]
    yield "mobile", seeded(Mobile(), 7, image), image, ["logits"]
    yield "hardswish", seeded(Mobile(nn.Hardswish), 8, image), image, ["logits"]
    yield "bottlenecks", seeded(Bottlenecks(), 9, torch.zeros(1, 3, 32, 32)), torch.zeros(1, 3, 32, 32), ["a", "b"]


# The files of this folder: model, opset, whether the newer exporter writes it.
KEPT = [("ride", 13, False), ("ride", 18, True), ("mean", 17, False), ("stacked", 20, True), ("weighted", 17, False),
        ("separate", 15, False), ("plain", 13, False), ("plain", 21, True), ("clipped", 17, False), ("mobile", 17, False), ("hardswish", 17, False),
        ("bottlenecks", 18, True)]


def strip(path):
    """Takes out stack traces and paths, which say nothing about the model."""
    model = onnx.load(path)
    model.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.save(model, path)


def name_of(model, opset, dynamo):
    return f"{model}-{'dynamo' if dynamo else 'script'}-{opset}.onnx"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=HERE)
    parser.add_argument("--matrix", action="store_true")
    parser.add_argument("--mobilenet", metavar="FILE")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.mobilenet:
        image = torch.zeros(1, 3, 224, 224)
        return export(seeded(MobileNetV2(), 11, image), (image,), args.mobilenet, ["image"], ["logits"], 17, False)
    os.makedirs(args.folder, exist_ok=True)
    for model, module, image, outputs in models():
        wanted = [(opset, dynamo) for name, opset, dynamo in KEPT if name == model]
        if args.matrix:
            # The TorchScript exporter ends at 20, the newer one begins at 18.
            wanted = [(opset, False) for opset in range(13, 21)] + [(opset, True) for opset in range(18, 22)]
        for opset, dynamo in wanted:
            path = os.path.join(args.folder, name_of(model, opset, dynamo))
            export(module, (image,), path, ["image"], outputs, opset, dynamo)
            strip(path)
    routed, image = ride(True, 1), torch.zeros(1, 3, 16, 16)
    split(routed, os.path.join(args.folder, "split"), image, 17)
    torch.manual_seed(3)
    with torch.no_grad():
        routed.expert_help_pred_fc.bias += 20
        torch.onnx.export(Baked(routed).eval(), (torch.randn(4, 3, 16, 16),), os.path.join(args.folder, "baked.onnx"),
                          input_names=["image"], output_names=["output"], opset_version=17, dynamo=False)
        # An example that needs one expert only: the others never enter the graph.
        routed.expert_help_pred_fc.bias -= 1000
        torch.onnx.export(Baked(routed).eval(), (image,), os.path.join(args.folder, "baked-one.onnx"),
                          input_names=["image"], output_names=["output"], opset_version=17, dynamo=False)


if __name__ == "__main__":
    main()
