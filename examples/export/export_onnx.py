"""Exports an official RIDE checkpoint to ONNX in a form that `ride-compile` can take.

    python export_onnx.py runs/my-ride out/model.onnx                 one graph: logits of each expert, router scores
    python export_onnx.py runs/my-ride out/ --split                   stem.onnx, expert_N.onnx, router_N.onnx

Why a script: the official EAModel decides in Python which samples go on to the next expert. Traced as it is, that
decision becomes a constant of the graph (or a tangle of NonZero and ScatterND) and the experts that the example did
not need are missing. Here every expert and every router is computed; deciding is the runtime's work.
"""
import argparse
import os

import torch

from ride_model import RideModel


class Whole(torch.nn.Module):
    """All experts' logits, then all routers' scores."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        shared, logits, scores = self.model.stem(x), [], []
        for index in range(self.model.count):
            one, feature = self.model.expert(shared, index)
            logits.append(one)
            if self.model.routed and index + 1 < self.model.count:
                scores.append(self.model.router(feature, sum(logits) / len(logits), index))
        return (*logits, *scores)

    def names(self):
        count = self.model.count
        return [f"logits_{i}" for i in range(count)] + [f"score_{i}" for i in range(count - 1) if self.model.routed]


class Method(torch.nn.Module):
    """One method of the model as a module."""

    def __init__(self, model, method, *args):
        super().__init__()
        self.model, self.method, self.args = model, method, args

    def forward(self, *inputs):
        return getattr(self.model, self.method)(*inputs, *self.args)


def export(module, example, path, inputs, outputs, opset, dynamo):
    axes = {name: {0: "batch"} for name in (*inputs, *outputs)}
    kind = {"dynamo": True, "external_data": False} if dynamo else {"dynamo": False, "dynamic_axes": axes}
    with torch.no_grad():
        torch.onnx.export(module.eval(), example, path, input_names=list(inputs), output_names=list(outputs),
                          opset_version=opset, **kind)
    print("wrote", path)


def whole(model, path, image, opset=17, dynamo=False):
    module = Whole(model)
    export(module, (image,), path, ["image"], module.names(), opset, dynamo)


def split(model, folder, image, opset=17, dynamo=False):
    os.makedirs(folder, exist_ok=True)
    at = lambda name: os.path.join(folder, name + ".onnx")
    export(Method(model, "stem"), (image,), at("stem"), ["image"], ["shared"], opset, dynamo)
    with torch.no_grad():
        shared = model.stem(image)
        logits, feature = model.expert(shared, 0)
    for i in range(model.count):
        export(Method(model, "expert", i), (shared,), at(f"expert_{i}"), ["shared"], ["logits", "feature"], opset, dynamo)
        if model.routed and i + 1 < model.count:
            export(Method(model, "router", i), (feature, logits), at(f"router_{i}"), ["feature", "mean_logits"], ["score"],
                   opset, dynamo)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder with checkpoint.pth and config.json")
    parser.add_argument("output", help="file to write, or folder with --split")
    parser.add_argument("--split", action="store_true", help="one file for each part")
    parser.add_argument("--opset", type=int, default=17)
    parser.add_argument("--dynamo", action="store_true", help="use the newer exporter (opset 18 or later)")
    args = parser.parse_args()
    model = RideModel.from_checkpoint(args.checkpoint)
    image = torch.zeros(1, 3, *([32, 32] if model.cifar else [224, 224]))
    (split if args.split else whole)(model, args.output, image, args.opset, args.dynamo)


if __name__ == "__main__":
    main()
