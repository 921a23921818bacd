"""The rotation of pairs by angles, written for speed."""

# Written by `make export` from ch02_deeper.ipynb; change it there.

import torch

__all__ = [
    "ANGLES",
    "rotate",
    "rotate_pairs",
]

# %% ch02_deeper.ipynb #6d31fd1a
def rotate(pairs, cos_sin):
    """Turns arrows: pairs (a, b), cos_sin (cos, sin) -> (a cos - b sin, a sin + b cos), each (..., n, 2).

    Su et al. 2021, "RoFormer", section 3.4.2, equation 34, as a product of complex numbers. Both have the
    same dtype, float32 or float64; cos_sin is contiguous.
    """
    if torch.compiler.is_compiling():
        (a, b), (cos, sin) = pairs.unbind(-1), cos_sin.unbind(-1)  # (..., n, 2) -> (..., n) each
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)  # (..., n, 2)
    *steps, last = pairs.stride()
    as_it_lies = last == 1 and all(step % 2 == 0 for step in (*steps, pairs.storage_offset()))
    arrows = torch.view_as_complex(pairs) if as_it_lies else torch.complex(*pairs.unbind(-1))  # (..., n)
    return torch.view_as_real(arrows * torch.view_as_complex(cos_sin))  # (..., n, 2)

# %% ch02_deeper.ipynb #5c3ea2fc
ANGLES = "expected cos_sin(positions, x.dtype), a position for each of T, got {} {} for x {} {}"


def rotate_pairs(x, cos_sin, interleaved=True):
    """x (..., T, d), cos_sin (T, d/2, 2) or (..., T, d/2, 2) -> x with its pairs turned, like x.

    interleaved=True pairs neighbours, False pairs the two halves. Computed in the dtype of cos_sin and
    rounded once. ValueError for a cos_sin of other sizes or fewer bits than x.
    """
    pairs = x.to(cos_sin.dtype).unflatten(-1, {True: (-1, 2), False: (2, -1)}[interleaved])
    pairs = pairs if interleaved else pairs.transpose(-2, -1)  # (..., T, 2, d/2) -> (..., T, d/2, 2)
    too_coarse = torch.finfo(cos_sin.dtype).bits < torch.finfo(x.dtype).bits
    if cos_sin.shape[-3:] != pairs.shape[-3:] or too_coarse:
        raise ValueError(ANGLES.format(tuple(cos_sin.shape), cos_sin.dtype, tuple(x.shape), x.dtype))
    turned = rotate(pairs, cos_sin)  # (..., T, d/2, 2)
    turned = turned if interleaved else turned.transpose(-2, -1)  # (..., T, d/2, 2) -> (..., T, 2, d/2)
    return turned.reshape(x.shape).to(x.dtype)  # (..., T, d)
