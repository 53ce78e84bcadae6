"""Writes steps.json: three steps of training RIDE's routers, computed by PyTorch.

    python make.py        # needs torch

Two routers with 16 hidden units each on made-up features, sorted logits and targets, once with one last layer for both and
once with one for each. compiler/src/train/router/tests.rs starts from the same weights and must arrive at the same ones.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

ROUTERS, FEATURES, TOP_K, HIDDEN, BATCH, STEPS = 2, 6, 3, 16, 5, 3
POS_WEIGHT = 7.0
SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}


def numbers(tensor):
    return [float(f"{value:.9g}") for value in tensor.detach().flatten().tolist()]


def names(shared):
    last = ["expert_help_pred_fc"] if shared else [f"expert_help_pred_fcs.{i}" for i in range(ROUTERS)]
    return [f"expert_help_pred_hidden_fcs.{i}" for i in range(ROUTERS)], last


def score(params, shared, router, feature, logits):
    hidden, last = names(shared)
    last = last[0] if shared else last[router]
    feature = F.relu(F.linear(feature, params[f"{hidden[router]}.weight"], params[f"{hidden[router]}.bias"]))
    seen = torch.cat((logits, feature), dim=1)
    return F.linear(seen, params[f"{last}.weight"], params[f"{last}.bias"]).view(-1)


def case(shared, generator):
    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    hidden, last = names(shared)
    params = {}
    for name, outputs, inputs in [(n, HIDDEN, FEATURES) for n in hidden] + [(n, 1, TOP_K + HIDDEN) for n in last]:
        params[f"{name}.weight"] = (normal(outputs, inputs) * 0.5).requires_grad_()
        params[f"{name}.bias"] = (normal(outputs) * 0.3).requires_grad_()
    start = {name: numbers(value) for name, value in params.items()}
    optimizer = torch.optim.SGD(params.values(), **SGD)
    steps = []
    for _ in range(STEPS):
        features = [F.normalize(normal(BATCH, FEATURES), dim=1) for _ in range(ROUTERS)]
        # Large enough that a naive logarithm of a sigmoid would overflow.
        logits = [(normal(BATCH, TOP_K) * 40).sort(dim=1, descending=True).values for _ in range(ROUTERS)]
        targets = [(torch.rand(BATCH, generator=generator) < 0.4).float() for _ in range(ROUTERS)]
        optimizer.zero_grad()
        weight = torch.tensor([POS_WEIGHT])
        scores = [score(params, shared, r, features[r], logits[r]) for r in range(ROUTERS)]
        losses = [F.binary_cross_entropy_with_logits(z, y, pos_weight=weight) for z, y in zip(scores, targets)]
        loss = sum(losses) / ROUTERS
        loss.backward()
        steps.append({
            "features": [numbers(f) for f in features],
            "logits": [numbers(z) for z in logits],
            "targets": [numbers(y) for y in targets],
            "loss": loss.item(),
            "scores": [numbers(z) for z in scores],
            "gradients": {name: numbers(value.grad) for name, value in params.items()},
        })
        optimizer.step()
    return {"shared": shared, "start": start, "steps": steps, "end": {n: numbers(v) for n, v in params.items()}}


def main():
    generator = torch.Generator().manual_seed(5)
    out = {
        "features": FEATURES, "top_k": TOP_K, "routers": ROUTERS, "pos_weight": POS_WEIGHT, "sgd": SGD,
        "cases": [case(shared, generator) for shared in (True, False)],
    }
    Path(__file__).with_name("steps.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
