"""Weights as small whole numbers: scales, groups, and two 4-bit numbers in a byte."""

# Written by `make export` from e_compression.ipynb; change it there.

from typing import NamedTuple

import torch

__all__ = [
    "Quantized",
    "dequantize",
    "quantize_absmax",
    "quantize_minmax",
    "quantize_groups",
    "round_trip",
    "bits_per_weight",
    "pack_nibbles",
    "unpack_nibbles",
]

# %% e_compression.ipynb #a416cd3f
class Quantized(NamedTuple):
    """Whole numbers that stand for weights: codes * scale, plus minimum where there is one."""

    codes: torch.Tensor  # int8, around 0; or uint8, from 0, where there is a minimum
    scale: torch.Tensor  # float, of a shape that broadcasts to the codes'
    minimum: torch.Tensor | None = None


def dequantize(q):
    """A Quantized -> the weights that it stands for, of its codes' shape and its scale's dtype."""
    weights = q.codes * q.scale
    return weights if q.minimum is None else weights + q.minimum

# %% e_compression.ipynb #69a5dd9b
def quantize_absmax(weights, bits=8, dim=None):
    """Symmetric: scale = largest size / (2^(bits-1) - 1), codes -(2^(bits-1) - 1) to 2^(bits-1) - 1, int8.

    dim: the dimension along which numbers share a scale; None: all of them. bits: 2 to 8. Jacob et al. 2018,
    section 2.1, equation 1 with a zero point of 0. Zeros stay zeros.
    """
    top = 2 ** (bits - 1) - 1
    largest = weights.abs().amax() if dim is None else weights.abs().amax(dim, keepdim=True)
    scale = largest / top
    steps = weights / scale.where(scale > 0, 1)
    return Quantized(steps.round().clamp(-top, top).to(torch.int8), scale)

# %% e_compression.ipynb #aedeb758
def quantize_minmax(weights, bits=4, dim=None):
    """Affine: the smallest number becomes code 0, the largest 2^bits - 1; codes uint8, with a minimum.

    dim, bits: as for `quantize_absmax`. Numbers that are all equal are kept exactly.
    """
    top = 2**bits - 1
    low, high = (f() if dim is None else f(dim, keepdim=True) for f in (weights.amin, weights.amax))
    scale = (high - low) / top
    steps = (weights - low) / scale.where(scale > 0, 1)
    return Quantized(steps.round().clamp(0, top).to(torch.uint8), scale, low)

# %% e_compression.ipynb #300abaaa
def quantize_groups(weights, bits=4, group_size=None, symmetric=False):
    """Rows cut into groups with a scale each: (..., C) -> codes (..., C / g, g), scale (..., C / g, 1).

    group_size: g; None: the whole row. With a minimum as in `quantize_minmax`, or symmetric, without.
    ValueError when g does not divide C, or bits is not 2 to 8.
    """
    C, g = weights.size(-1), group_size or weights.size(-1)
    if C % g or bits not in range(2, 9):
        rule = f"{g} must divide {C}, and bits be 2 to 8"
        raise ValueError(f"cannot cut rows of {C} weights into groups of {g} with bits={bits}: {rule}")
    groups = weights.unflatten(-1, (C // g, g))  # (..., C) -> (..., C / g, g)
    return (quantize_absmax if symmetric else quantize_minmax)(groups, bits, dim=-1)


def round_trip(weights, bits=4, group_size=None, symmetric=False):
    """Quantised in groups and back: the weights that are left, of the same shape and dtype."""
    return dequantize(quantize_groups(weights, bits, group_size, symmetric)).flatten(-2)

# %% e_compression.ipynb #8a8e4a41
def bits_per_weight(bits, group_size, symmetric=False, scale_bits=16):
    """What a weight takes with its share of the scale, and of the minimum unless symmetric."""
    return bits + scale_bits * (1 if symmetric else 2) / group_size

# %% e_compression.ipynb #ad616193
def pack_nibbles(codes):
    """Two 4-bit numbers in a byte: uint8 (..., n) of 0 to 15 -> uint8 (..., n / 2).

    The first half of each row goes into the low four bits, the second half into the high ones, as in a GGUF
    file. ValueError for an odd n, and for another dtype: a signed code would spill into its neighbour.
    """
    if codes.size(-1) % 2 or codes.dtype != torch.uint8:
        raise ValueError(f"{codes.size(-1)} codes in a row, {codes.dtype}: expected an even number of uint8")
    low, high = codes.chunk(2, dim=-1)  # (..., n / 2) each
    return low | (high << 4)


def unpack_nibbles(packed):
    """The inverse: uint8 (..., n / 2) -> uint8 (..., n) of 0 to 15."""
    return torch.cat([packed & 15, packed >> 4], dim=-1)
