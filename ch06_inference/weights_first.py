"""Linear layers in the order that is fastest on this machine when few rows go through them: in decode."""

# Written by `make export` from ch06_deeper.ipynb; change it there.

import time
from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import nn

__all__ = [
    "WeightsFirst",
    "seconds",
    "tune_for_decode",
]

# %% ch06_deeper.ipynb #dd1ba806
class WeightsFirst(nn.Module):
    """A linear layer, (..., n) -> (..., m), as W xᵀ for 32 rows or fewer. It shares the weights."""

    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x):
        rows = x.reshape(-1, x.size(-1))  # (..., n) -> (R, n)
        if len(rows) > 32:
            return F.linear(x, self.weight, self.bias)
        columns = rows.t().squeeze(1)  # (n, R), and (n,) if R is 1: a matrix times a vector
        y = (self.weight @ columns).t().reshape(*x.shape[:-1], -1)  # (m, R) or (m,) -> (..., m)
        return y if self.bias is None else y + self.bias

# %% ch06_deeper.ipynb #a1bdd96d
def seconds(layers, x):
    """The shortest of three runs of x through each of some layers."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for layer in layers:
            layer(x)
        times.append(time.perf_counter() - start)
    return min(times)


@torch.no_grad()
def tune_for_decode(model, n_rows=1):
    """Lay out a model's linear layers so that n_rows rows go through fastest on this machine, in place.

    Tried for all layers of one shape: row by row, as nn.Linear has it; WeightsFirst; column by column. What
    is a tenth faster wins. Weights, their names and, but for rounding, all results stay. Returns the model.
    """
    groups = defaultdict(list)  # {(m, n): [(module, name of the layer in it, layer)]}
    for module in model.modules():
        for name, layer in module.named_children():
            if type(layer) is nn.Linear:
                groups[layer.weight.shape].append((module, name, layer))
    for (_, n), group in groups.items():
        layers = [layer for *_, layer in group]
        first = [WeightsFirst(layer) for layer in layers]
        x = layers[0].weight.new_zeros(n_rows, n)  # (R, n)
        by_row, weights_first = seconds(layers, x), seconds(first, x)
        for layer in layers:
            layer.weight.data = layer.weight.t().contiguous().t()  # (m, n), column by column
        if seconds(layers, x) < 0.9 * min(by_row, weights_first):
            continue
        for layer in layers:
            layer.weight.data = layer.weight.contiguous()  # (m, n), row by row again
        if weights_first < 0.9 * by_row:
            for (module, name, _), layer in zip(group, first):
                setattr(module, name, layer)
    return model
