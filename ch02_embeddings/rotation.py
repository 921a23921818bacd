"""The rotation of pairs by angles, written for speed."""

# Written by `make export` from ch02_deeper.ipynb; change it there.

import torch

__all__ = [
    "rotate",
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
