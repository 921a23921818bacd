"""A linear layer that multiplies in the order that is fast for bfloat16 on the CPU."""

# Written by `make export` from ch06_deeper.ipynb; change it there.

import torch
from torch import nn

__all__ = [
    "WeightsFirst",
    "put_weights_first",
]

# %% ch06_deeper.ipynb #13661fab
class WeightsFirst(nn.Linear):
    """A linear layer, (..., n) -> (..., m), that computes W xᵀ where x Wᵀ is slow.

    That is on the CPU in bfloat16, for 32 rows or fewer, without gradients. Else it is nn.Linear.
    """

    def forward(self, x):
        rows = x.reshape(-1, self.in_features)  # (..., n) -> (R, n)
        if len(rows) > 32 or x.dtype != torch.bfloat16 or x.is_cuda or torch.is_grad_enabled():
            return super().forward(x)
        columns = rows.t().squeeze(1)  # (n, R), and (n,) if R is 1: matrix times vector is faster still
        y = (self.weight @ columns).t().reshape(*x.shape[:-1], -1)  # (m, R) or (m,) -> (..., m)
        return y if self.bias is None else y + self.bias


def put_weights_first(model):
    """Turn the linear layers of a model into WeightsFirst, in place; returns the model."""
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = WeightsFirst  # the same weights with another forward
    return model
