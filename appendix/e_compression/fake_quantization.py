"""Quantization-aware training: weights that are rounded in the forward pass and trained behind it."""

# Written by `make export` from e_smaller.ipynb; change it there.

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

from .quantized_layers import block_matrices

__all__ = [
    "RoundThrough",
    "fake_quantize",
    "least_error_scale",
    "FakeQuantized",
    "fake_quantized",
    "settle",
]

# %% e_smaller.ipynb #550f0c20
class RoundThrough(torch.autograd.Function):
    """Rounds; the gradient passes as if it had not. Any shape.

    The straight-through estimator: Bengio et al. 2013.
    """

    @staticmethod
    def forward(context, x):
        return x.round()

    @staticmethod
    def backward(context, gradient):
        return gradient

# %% e_smaller.ipynb #141bae6a
def fake_quantize(weight, scale, bits):
    """Weights (out, in) as `bits` would hold them, still floats; scale (out, 1), in their unit.

    The gradient is 1, and 0 where a weight was clipped: Jacob et al. 2018, section 3, with a zero point of 0.
    """
    top = 2 ** (bits - 1) - 1
    return RoundThrough.apply(weight / scale).clamp(-top, top) * scale

# %% e_smaller.ipynb #0f7487b7
@torch.no_grad()
def least_error_scale(weight, bits):
    """For each row of weight (out, in) the scale (out, 1) that rounds with the least squared error.

    Tried are 20 % to 100 % of the scale that clips nothing.
    """
    largest = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)  # (out, 1)
    whole = largest / (2 ** (bits - 1) - 1)
    scales = torch.stack([whole * percent / 100 for percent in range(20, 101, 5)])  # (17, out, 1)
    errors = [(fake_quantize(weight, scale, bits) - weight).square().sum(1, keepdim=True) for scale in scales]
    return scales.gather(0, torch.stack(errors).argmin(0, keepdim=True))[0]  # (17, out, 1) -> (out, 1)

# %% e_smaller.ipynb #98446138
class FakeQuantized(nn.Module):
    """For parametrize: a weight (out, in) as `bits` would hold it, by scales that are chosen once."""

    def __init__(self, weight, bits):
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", least_error_scale(weight, bits))  # (out, 1)

    def forward(self, weight):
        return fake_quantize(weight, self.scale, self.bits)


def fake_quantized(model, bits):
    """A copy of a GPT whose blocks use rounded weights and train the float ones. bits: 2 to 8."""
    if not 2 <= bits <= 8:
        raise ValueError(f"bits={bits} must be 2 to 8")
    model = copy.deepcopy(model)
    for layer in block_matrices(model).values():
        parametrize.register_parametrization(layer, "weight", FakeQuantized(layer.weight, bits))
    return model


def settle(model):
    """Make the computed weights of the blocks ordinary ones, as they are now; the model itself, changed."""
    for layer in block_matrices(model).values():
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return model
