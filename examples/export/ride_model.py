"""The RIDE family in PyTorch with the official checkpoints' tensor names, written so that it can be exported:
stem, experts and routers are methods of their own, and no tensor's shape depends on a routing decision.

Architectures: ResNet32 (CIFAR) and ResNet10/50/101/152, ResNeXt50/152 (ImageNet-LT, iNaturalist, Places), with or
without routers (EAModel). `RideModel.from_checkpoint(folder)` reads what the official trainer wrote.
"""
import json
import os
import pickle
import types

import torch
import torch.nn as nn
import torch.nn.functional as F

BLOCKS = {"ResNet10": ("basic", (1, 1, 1, 1)), "ResNet50": ("bottleneck", (3, 4, 6, 3)),
          "ResNet101": ("bottleneck", (3, 4, 23, 3)), "ResNet152": ("bottleneck", (3, 8, 36, 3)),
          "ResNeXt50": ("next", (3, 4, 6, 3)), "ResNeXt152": ("next", (3, 8, 36, 3))}
HIDDEN = 16


def conv(inputs, outputs, kernel, stride=1, groups=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class Block(nn.Module):
    """Residual block: cifar (parameter-free shortcut), basic, bottleneck or next (32 groups)."""

    def __init__(self, kind, inputs, planes, stride):
        super().__init__()
        outputs = planes * expansion(kind)
        self.pad, self.stride = None, stride
        if kind in ("cifar", "basic"):
            self.conv1, self.conv2 = conv(inputs, planes, 3, stride), conv(planes, planes, 3)
        else:
            width, groups = (planes, 1) if kind == "bottleneck" else (planes * 4 // 64 * 32, 32)
            self.conv1, self.conv2, self.conv3 = conv(inputs, width, 1), conv(width, width, 3, stride, groups), conv(width, outputs, 1)
            self.bn3 = nn.BatchNorm2d(outputs)
        self.bn1, self.bn2 = nn.BatchNorm2d(self.conv1.out_channels), nn.BatchNorm2d(self.conv2.out_channels)
        if stride != 1 or inputs != outputs:
            if kind == "cifar":
                self.pad = (outputs - inputs) // 2
            else:
                self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "conv3"):
            y = self.bn3(self.conv3(F.relu(y)))
        if self.pad is not None:
            x = F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.pad, self.pad))
        elif hasattr(self, "downsample"):
            x = self.downsample(x)
        return F.relu(y + x)


def expansion(kind):
    return 4 if kind in ("bottleneck", "next") else 1


class NormedLinear(nn.Module):
    """Cosine classifier; the weight is [features, classes]."""

    def __init__(self, features, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, classes))

    def forward(self, x):
        return F.normalize(x, dim=1) @ F.normalize(self.weight, dim=0)


def stage(kind, inputs, planes, blocks, stride):
    first = Block(kind, inputs, planes, stride)
    rest = [Block(kind, planes * expansion(kind), planes, 1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


class RideModel(nn.Module):
    """`args` as in `arch.args` of config.json; `widths` and `blocks` shrink the CIFAR network for tests. `listed` names a
    lone expert's tensors as if there were several, which only the EA classes do by themselves."""

    def __init__(self, arch, args, widths=None, blocks=5, listed=False):
        super().__init__()
        self.count = args.get("num_experts", 1)
        self.classes, self.top_k = args["num_classes"], args.get("top_choices_num", 5)
        self.scale = args.get("s", 30.0) if args.get("use_norm") else 1.0
        self.cifar, self.routed = arch.startswith("ResNet32"), "EAModel" in arch and self.count > 1
        reduce, name = args.get("reduce_dimension", False), arch.replace("EAModel", "").replace("Model", "")
        dim = lambda layer, small, large: args.get(f"layer{layer}_output_dim") or (small if reduce else large)
        # A lone expert of the non-EA classes has no lists in its names.
        self.listed = listed or self.count > 1 or "EAModel" in arch
        if self.cifar:
            w = widths or (16, dim(2, 24, 32), dim(3, 48, 64))
            self.conv1, self.bn1 = conv(3, w[0], 3), nn.BatchNorm2d(w[0])
            self.layer1 = stage("cifar", w[0], w[0], blocks, 1)
            self.many("layer2", lambda: stage("cifar", w[0], w[1], blocks, 2))
            self.many("layer3", lambda: stage("cifar", w[1], w[2], blocks, 2))
            self.own, features = ("layer2", "layer3"), w[2]
        else:
            kind, depth = BLOCKS[name]
            grow, a, b = expansion(kind), dim(3, 192, 256), dim(4, 384, 512)
            self.conv1, self.bn1 = conv(3, 64, 7, 2), nn.BatchNorm2d(64)
            self.layer1, self.layer2 = stage(kind, 64, 64, depth[0], 1), stage(kind, 64 * grow, 128, depth[1], 2)
            self.share3 = args.get("share_layer3", False)
            layer3 = lambda: stage(kind, 128 * grow, a, depth[2], 2)
            if self.share3:
                self.layer3 = layer3()
            else:
                self.many("layer3", layer3)
            self.many("layer4", lambda: stage(kind, a * grow, b, depth[3], 2))
            self.own, features = (("layer4",) if self.share3 else ("layer3", "layer4")), b * grow
        self.many("linear", lambda: (NormedLinear if args.get("use_norm") else nn.Linear)(features, self.classes))
        if self.routed:
            routers = range(self.count - 1)
            self.expert_help_pred_hidden_fcs = nn.ModuleList(nn.Linear(features, HIDDEN) for _ in routers)
            self.shared_fc = args.get("share_expert_help_pred_fc", True)
            fc = lambda: nn.Linear(HIDDEN + self.top_k, 1)
            if self.shared_fc:
                self.expert_help_pred_fc = fc()
            else:
                self.expert_help_pred_fcs = nn.ModuleList(fc() for _ in routers)

    def many(self, name, make):
        if self.listed:
            setattr(self, name + "s", nn.ModuleList(make() for _ in range(self.count)))
        else:
            setattr(self, name, make())

    def of_expert(self, name, index):
        return getattr(self, name + "s")[index] if self.listed else getattr(self, name)

    def stem(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if self.cifar:
            return self.layer1(x)
        x = self.layer2(self.layer1(F.max_pool2d(x, 3, 2, 1)))
        return self.layer3(x) if self.share3 else x

    def expert(self, x, index):
        """Logits and pooled feature."""
        for name in self.own:
            x = self.of_expert(name, index)(x)
        feature = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.of_expert("linear", index)(feature) * self.scale, feature

    def router(self, feature, mean_logits, index):
        """Score before the sigmoid: the next expert runs where it is positive."""
        hidden = F.relu(self.expert_help_pred_hidden_fcs[index](feature / feature.norm(dim=1, keepdim=True)))
        top = mean_logits.topk(self.top_k, dim=1)[0]
        fc = self.expert_help_pred_fc if self.shared_fc else self.expert_help_pred_fcs[index]
        return fc(torch.cat((top, hidden), dim=1))

    @staticmethod
    def from_checkpoint(folder):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            arch = json.load(file)["arch"]
        model = RideModel(arch["type"], arch["args"])
        names = ["checkpoint.pth", "model_best.pth"]
        path = next(p for p in (os.path.join(folder, n) for n in names) if os.path.exists(p))
        saved = torch.load(path, map_location="cpu", pickle_module=Tolerant)
        state = {strip(k): v for k, v in saved["state_dict"].items()}
        model.load_state_dict(state)
        return model.eval()


def strip(name):
    for prefix in ("module.", "backbone."):
        name = name.removeprefix(prefix)
    return name


class Unknown:
    """Stands for the trainer's classes, which are not needed."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


class TolerantUnpickler(pickle.Unpickler):
    """Takes tensors and plain containers; every other class becomes an empty shell."""

    def find_class(self, module, name):
        if module.split(".")[0] in ("torch", "collections", "numpy", "builtins"):
            return super().find_class(module, name)
        return Unknown


Tolerant = types.SimpleNamespace(Unpickler=TolerantUnpickler, load=lambda f, **kw: TolerantUnpickler(f, **kw).load(),
                                 loads=pickle.loads, __name__="pickle")
