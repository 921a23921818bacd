"""Flash Attention with its backward pass, tile by tile, and a count of the numbers that it moves."""

# Written by `make export` from c_kernels.ipynb; change it there.

import math
from dataclasses import dataclass

import torch

from .previous_chapters import absorb_block, check_inputs

__all__ = [
    "Traffic",
    "tile_scores",
    "flash_forward",
    "flash_backward",
    "FlashAttention",
    "flash_attention",
    "flash_traffic",
    "plain_traffic",
]

# %% c_kernels.ipynb #dc6b7ad3
@dataclass
class Traffic:
    """Counts the numbers that pass between slow memory, where whole tensors lie, and fast memory."""

    read: int = 0
    written: int = 0

    def load(self, tensor):
        """The tensor, counted as read."""
        self.read += tensor.numel()
        return tensor

    def store(self, place, tensor):
        """Write a tensor to a place of its shape in slow memory."""
        self.written += tensor.numel()
        place.copy_(tensor)

# %% c_kernels.ipynb #5576ef47
def tile_scores(queries, keys, row, column, causal):
    """Scores of one tile, -inf in the future: (..., n, d), (..., m, d) -> (..., n, m).

    row: the position of the first query, column: that of the first key.
    """
    scores = queries @ keys.transpose(-2, -1)  # (..., n, m)
    if causal:
        i = row + torch.arange(queries.size(-2), device=keys.device)  # (n,)
        j = column + torch.arange(keys.size(-2), device=keys.device)  # (m,)
        scores = scores.masked_fill(j > i.unsqueeze(1), -math.inf)
    return scores


def flash_forward(q, k, v, rows=64, columns=64, causal=True, traffic=None):
    """Attention by tiles: q (..., T, d), k (..., S, d), v (..., S, e) -> output (..., T, e), lse (..., T, 1).

    Dao et al. 2022, algorithm 1, with the loops in the order of Dao 2023, section 3.1. lse: the log of the
    sum of the exponentials of each row's scores. rows, columns: queries and keys of a tile. causal puts the
    last query at the last key. traffic: a Traffic that counts.
    """
    traffic = traffic or Traffic()
    T, S, scale = q.size(-2), k.size(-2), 1 / math.sqrt(q.size(-1))
    output, lse = q.new_empty(*q.shape[:-1], v.size(-1)), q.new_empty(*q.shape[:-1], 1)
    for a in range(0, T, rows):
        queries = traffic.load(q[..., a : a + rows, :]) * scale  # (..., n, d)
        end = S - T + min(a + rows, T) if causal else S  # the keys that the last of these may see
        largest = torch.full_like(queries[..., :1], -math.inf)  # (..., n, 1)
        total, mixed = torch.zeros_like(largest), torch.zeros_like(output[..., a : a + rows, :])
        for s in range(0, end, columns):
            tile = slice(s, min(s + columns, end))
            keys, values = traffic.load(k[..., tile, :]), traffic.load(v[..., tile, :])
            scores = tile_scores(queries, keys, S - T + a, s, causal)  # (..., n, m)
            largest, total, mixed = absorb_block(largest, total, mixed, scores, values)
        traffic.store(output[..., a : a + rows, :], mixed / total)
        traffic.store(lse[..., a : a + rows, :], largest + total.log())
    return output, lse

# %% c_kernels.ipynb #c7bb7064
def flash_backward(gradient, q, k, v, output, lse, rows=64, columns=64, causal=True, traffic=None):
    """Gradients of `flash_forward`: those of q, k and v, from that of the output, (..., T, e).

    Dao et al. 2022, algorithm 4, without its dropout; delta beforehand, as in Dao 2023, section 3.1.
    """
    traffic = traffic or Traffic()
    T, S, scale = q.size(-2), k.size(-2), 1 / math.sqrt(q.size(-1))
    dq, dk, dv, delta = torch.zeros_like(q), torch.empty_like(k), torch.empty_like(v), torch.empty_like(lse)
    strips = [(..., slice(a, a + rows), slice(None)) for a in range(0, T, rows)]
    for strip in strips:
        products = traffic.load(output[strip]) * traffic.load(gradient[strip])  # (..., n, e)
        traffic.store(delta[strip], products.sum(dim=-1, keepdim=True))  # (..., n, e) -> (..., n, 1)
    for s in range(0, S, columns):
        tile = (..., slice(s, s + columns), slice(None))
        keys, values = traffic.load(k[tile]), traffic.load(v[tile])  # (..., m, d), (..., m, e)
        dkeys, dvalues = torch.zeros_like(keys), torch.zeros_like(values)
        first = max(0, s - (S - T)) // rows if causal else 0  # blocks before it see none of these keys
        for a, strip in enumerate(strips[first:], start=first):
            queries, upstream = traffic.load(q[strip]) * scale, traffic.load(gradient[strip])
            scores = tile_scores(queries, keys, S - T + a * rows, s, causal)  # (..., n, m)
            weights = (scores - traffic.load(lse[strip])).exp()  # (..., n, m), computed again
            dvalues += weights.transpose(-2, -1) @ upstream  # (..., m, n) @ (..., n, e)
            dweights = upstream @ values.transpose(-2, -1)  # (..., n, e) @ (..., e, m)
            dscores = weights * (dweights - traffic.load(delta[strip]))  # (..., n, m)
            dkeys += dscores.transpose(-2, -1) @ queries  # (..., m, n) @ (..., n, d)
            traffic.store(dq[strip], traffic.load(dq[strip]) + dscores @ keys * scale)
        traffic.store(dk[tile], dkeys)
        traffic.store(dv[tile], dvalues)
    return dq, dk, dv

# %% c_kernels.ipynb #7ee38250
class FlashAttention(torch.autograd.Function):
    """`flash_forward` with `flash_backward` as its derivative; keeps q, k, v, output and lse."""

    @staticmethod
    def forward(context, q, k, v, rows, columns, causal):
        output, lse = flash_forward(q, k, v, rows, columns, causal)
        context.save_for_backward(q, k, v, output, lse)
        context.options = rows, columns, causal
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return *flash_backward(gradient, *context.saved_tensors, *context.options), None, None, None


def flash_attention(q, k, v, rows=64, columns=64, causal=True):
    """softmax(q kᵀ / sqrt(d)) v in tiles, in both directions: q (..., T, d), k (..., S, d), v (..., S, e).

    Returns (..., T, e). ValueError for shapes that PyTorch would stretch to fit, and for more queries than
    keys in causal attention, whose first rows would see nothing, or for an empty tile.
    """
    check_inputs(q, k, v)
    if rows < 1 or columns < 1:
        raise ValueError(f"a tile has at least one row and one column, got rows={rows}, columns={columns}")
    if causal and q.size(-2) > k.size(-2):
        raise ValueError(f"{q.size(-2)} queries and {k.size(-2)} keys: causal needs a key for each query")
    return FlashAttention.apply(q, k, v, rows, columns, causal)

# %% c_kernels.ipynb #1f16ccdb
def flash_traffic(T, d, rows=64, columns=64, causal=True):
    """Numbers that one head moves, with q, k and v (T, d): {"forward", "backward": Traffic}.

    Dao et al. 2022, theorems 2 and 5, have the orders of growth; these are the counts.
    """
    ends = sum(min(a + rows, T) if causal else T for a in range(0, T, rows))
    passes = sum(T - (s // rows * rows if causal else 0) for s in range(0, T, columns))
    forward = Traffic(T * d + 2 * d * ends, T * d + T)
    backward = Traffic(4 * T * d + passes * (3 * d + 2), T + 2 * T * d + passes * d)
    return {"forward": forward, "backward": backward}


def plain_traffic(T, d):
    """The same for attention with tables of T x T: Dao et al. 2022, algorithms 0 and 3, without dropout."""
    return {
        "forward": Traffic(3 * T * d + 2 * T * T, T * d + 2 * T * T),
        "backward": Traffic(5 * T * d + 5 * T * T, 3 * T * d + 2 * T * T),
    }
