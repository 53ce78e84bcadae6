"""Prints PyTorch's results for the test of compiler/src/train/optimizer.rs.

    python tests/data/train/sgd.py      # needs torch
"""
import torch

for name, momentum, nesterov, decay in [("NESTEROV", 0.9, True, 0.01), ("MOMENTUM", 0.9, False, 0.01), ("PLAIN", 0.0, False, 0.0)]:
    parameter = torch.nn.Parameter(torch.tensor([1.0, -0.5, 0.25]))
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=momentum, nesterov=nesterov, weight_decay=decay)
    for step, rate in enumerate([0.1, 0.05, 0.05, 0.2]):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = torch.tensor([0.5 - 0.25 * step, -2.0, 0.125 * step * step])
        optimizer.step()
    print(name, [float(f"{x:.9g}") for x in parameter.tolist()])
