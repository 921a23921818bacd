"""Attention in tiles: the online softmax, and attention that never holds the T x T weights."""

# Written by `make export` from ch03_deeper.ipynb; change it there.

import math

import torch

from .attention import causal_mask, check_inputs

__all__ = [
    "absorb_block",
    "tiled_attention",
]

# %% ch03_deeper.ipynb #99621118
def absorb_block(largest, total, mixed, scores, values):
    """One step of the online softmax: Milakov and Gimelshein 2018, section 3, algorithm 3.

    That has the largest score and the total; the weighted sum is from Dao et al. 2022, section 3.1.

    largest, total: (..., T, 1) and mixed: (..., T, e) are what the blocks before gave: the largest score,
    the total of the exponentials, and the values weighted by them, not yet divided. scores: (..., T, n),
    values: (..., n, e). Returns the three with the block taken in.
    """
    new_largest = torch.maximum(largest, scores.amax(dim=-1, keepdim=True))  # (..., T, n) -> (..., T, 1)
    shrink = (largest - new_largest).exp()  # what was summed before, seen from the new height
    exponentials = (scores - new_largest).exp()  # (..., T, n)
    total = total * shrink + exponentials.sum(dim=-1, keepdim=True)  # (..., T, n) -> (..., T, 1)
    return new_largest, total, mixed * shrink + exponentials @ values  # (..., T, n) @ (..., n, e)

# %% ch03_deeper.ipynb #cceb634e
def tiled_attention(q, k, v, block=64, causal=True):
    """Attention without the T x T weights, tile by tile: what a fused kernel does, in plain PyTorch.

    Dao et al. 2022, "FlashAttention", algorithm 1, with the loops in the order of Dao 2023,
    "FlashAttention-2", section 3.1. q (..., T, d), k (..., S, d), v (..., S, e) -> (..., T, e); causal puts
    the last query at the last key, and takes no mask. ValueError for shapes that PyTorch would stretch to
    fit, RuntimeError for more queries than keys in causal attention, whose first rows would see nothing.
    """
    check_inputs(q, k, v)
    T, S = q.size(-2), k.size(-2)
    outputs, end = [], S - T if causal else S
    for queries in q.split(block, dim=-2):  # (..., n, d), n = block, less for the last
        n = queries.size(-2)
        queries = queries / math.sqrt(q.size(-1))
        end += n if causal else 0  # the keys that the last of these queries may see
        mask = causal_mask(n, end, q.device) if causal else None  # (n, end)
        largest = queries.new_full((*queries.shape[:-1], 1), -math.inf)  # (..., n, 1)
        total = queries.new_zeros(*queries.shape[:-1], 1)  # (..., n, 1)
        mixed = queries.new_zeros(*queries.shape[:-1], v.size(-1))  # (..., n, e)
        for start in range(0, end, block):
            stop = min(start + block, end)
            scores = queries @ k[..., start:stop, :].transpose(-2, -1)  # (..., n, m), the one tile
            if causal:
                scores = scores.masked_fill(~mask[:, start:stop], -math.inf)
            largest, total, mixed = absorb_block(largest, total, mixed, scores, v[..., start:stop, :])
        outputs.append(mixed / total)
    return torch.cat(outputs, dim=-2)  # (..., T, e)
