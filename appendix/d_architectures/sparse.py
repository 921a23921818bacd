"""Attention that leaves pairs out: masks, their reach, kernels that compute only blocks, a rolling cache."""

# Written by `make export` from d_sparse.ipynb; change it there.

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from .previous_chapters import sliding_window_mask

__all__ = [
    "strided_mask",
    "local_global_blocks",
    "from_blocks",
    "to_blocks",
    "reachable",
    "block_sparse_attention",
    "SparseAttention",
    "window_pattern",
    "RollingLayer",
    "RollingCache",
]

# %% d_sparse.ipynb #f6189d50
def strided_mask(T, stride, device=None):
    """The last `stride` positions, and every stride-th one before: (T, T) bool, causal.

    The two heads of strided attention in one: Child et al. 2019, section 4.3.
    """
    i = torch.arange(T, device=device)  # (T,)
    back = i.unsqueeze(1) - i  # (T, 1) - (T,) -> (T, T): how far key j lies behind query i
    return (back >= 0) & ((back < stride) | (back % stride == 0))


def local_global_blocks(n, local, n_global, device=None):
    """Which blocks of keys each block of queries sees: (n, n) bool, causal.

    Its own and the local - 1 before it, and the first n_global of the text: Zaheer et al. 2020, section 2 and
    appendix D, without the random blocks and without looking ahead.
    """
    row = torch.arange(n, device=device)  # (n,)
    back = row.unsqueeze(1) - row  # (n, 1) - (n,) -> (n, n)
    return (back >= 0) & ((back < local) | (row < n_global))


def from_blocks(block_mask, T, block):
    """Blocks as pairs of positions: (n, n) bool -> (T, T) bool, causal, for T of at most n * block."""
    pairs = block_mask.repeat_interleave(block, dim=0).repeat_interleave(block, dim=1)[:T, :T]
    return pairs.tril()


def to_blocks(mask, block):
    """Which blocks hold at least one allowed pair: (T, T) bool -> (n, n) bool, n = T / block, rounded up."""
    missing = -len(mask) % block
    padded = F.pad(mask, (0, missing, 0, missing))  # (n * block, n * block), False beyond the end
    return padded.unflatten(0, (-1, block)).unflatten(2, (-1, block)).any(dim=3).any(dim=1)  # (n, n)


def reachable(mask, n_layers):
    """From which positions something can arrive after n_layers: (T, T) bool -> (T, T) bool.

    A boolean matrix power: row i is True at j when a path of n_layers allowed pairs leads from i to j.
    """
    reached = torch.eye(len(mask), dtype=torch.bool, device=mask.device)
    for _ in range(n_layers):
        reached = (mask.float() @ reached.float()) > 0  # (T, T) @ (T, T)
    return reached

# %% d_sparse.ipynb #ed672f34
def block_sparse_attention(q, k, v, block_mask, block, allowed=None):
    """Causal attention that computes only the blocks that are there: q, k (..., T, d), v (..., T, e).

    block_mask: (n, n) bool with n = T / block, rounded up; row a says which blocks of keys the queries a *
    block ... see; blocks right of the diagonal do not count, and the diagonal is always seen. allowed(i, j):
    bool, for tensors of positions, hides pairs within the blocks; every query must see itself. Returns
    (..., T, e). A T that `block` does not divide is filled up inside. ValueError for a mask of another size.
    """
    T, n = q.size(-2), -(-q.size(-2) // block)
    if block_mask.shape != (n, n):
        raise ValueError(f"block_mask {tuple(block_mask.shape)}: {T} positions are {n} blocks of {block}")
    present = block_mask.tril() | torch.eye(n, dtype=torch.bool, device=block_mask.device)  # (n, n)
    q, k, v = (F.pad(x, (0, 0, 0, n * block - T)).unflatten(-2, (n, block)) for x in (q, k, v))
    place = torch.arange(n * block, device=q.device).view(n, block)  # (n, block): positions
    counts, outputs, order = present.sum(dim=1), [], []  # (n,): blocks of keys in a row
    for count in counts.unique().tolist():  # rows with as many blocks are computed together
        rows = (counts == count).nonzero().squeeze(1)  # (m,)
        columns = present[rows].nonzero()[:, 1].view(-1, count)  # (m, count)
        keys, values = (x[..., columns, :, :].flatten(-3, -2) for x in (k, v))  # (..., m, count * block, d)
        i, j = place[rows].unsqueeze(2), place[columns].flatten(1).unsqueeze(1)  # (m, block, 1), (m, 1, ...)
        mask = j <= i if allowed is None else (j <= i) & allowed(i, j)  # (m, block, count * block)
        outputs.append(F.scaled_dot_product_attention(q[..., rows, :, :], keys, values, mask))
        order.append(rows)
    output = torch.cat(outputs, dim=-3)[..., torch.cat(order).argsort(), :, :]  # (..., n, block, e)
    return output.flatten(-3, -2)[..., :T, :]  # (..., n, block, e) -> (..., T, e)

# %% d_sparse.ipynb #f29e726c
class SparseAttention(nn.Module):
    """A MultiHeadAttention under a pattern of its own; put it in the place of block.attention.

    attention: the layer, whose weights it uses. pattern(S): who may see whom in a text of S positions, (S, S)
    bool, causal. It computes all pairs and hides some: for training small models, not for saving time.
    """

    def __init__(self, attention, pattern):
        super().__init__()
        self.attention, self.pattern = attention, pattern

    def forward(self, x, mask=None, cache=None, cos_sin=None, return_weights=False):
        """As MultiHeadAttention; a mask that is given comes on top of the pattern's."""
        T = x.size(1)
        earlier = 0 if cache is None else min(cache.length, cache.limit)  # tokens that it still holds
        seen = self.pattern(earlier + T)[-T:].to(x.device)[None, None]  # (1, 1, T, S)
        mask = seen if mask is None else seen & mask
        return self.attention(x, mask, cache, return_weights=return_weights, cos_sin=cos_sin)


def window_pattern(window):
    """For SparseAttention: each position sees the last `window`, its own included."""
    return partial(sliding_window_mask, window=window)

# %% d_sparse.ipynb #fcf4baba
class RollingLayer:
    """Keys and values of the last `window` tokens of one layer: memory that does not grow.

    Token p lies in place p % window; a new token takes the place of the one that it can no longer see. Give
    several tokens at once only to a layer with a window mask, such as SparseAttention. window: that of the
    mask, no more and no less; a single token gets its keys out of order, so the mask must hide none of them.
    """

    def __init__(self, window):
        self.window, self.limit, self.length = window, window - 1, 0  # limit: earlier tokens still seen
        self.keys = self.values = None  # (B, Hkv, window, d)

    def append(self, keys, values):
        """(B, Hkv, T, d) of the next T tokens -> those that they may see, (B, Hkv, S, d).

        S = min(length before, window - 1) + T. A single token gets them in the order in which they lie, which
        attention does not see; several get them in the order of the text.
        """
        if self.keys is None:
            B, H, _, d = keys.shape
            self.keys, self.values = (keys.new_empty(B, H, self.window, d) for _ in range(2))
        start, T, window = self.length, keys.size(2), self.window
        self.length = start + T
        if T == 1:
            place = start % window
            self.keys[:, :, place], self.values[:, :, place] = keys[:, :, 0], values[:, :, 0]
            held = min(self.length, window)
            return self.keys[:, :, :held], self.values[:, :, :held]
        before = torch.arange(max(0, start - self.limit), start, device=keys.device) % window
        seen = (torch.cat([self.keys[:, :, before], keys], dim=2),
                torch.cat([self.values[:, :, before], values], dim=2))  # fmt: skip
        kept = min(T, window)  # of the new ones
        places = torch.arange(self.length - kept, self.length, device=keys.device) % window  # (kept,)
        self.keys[:, :, places], self.values[:, :, places] = keys[:, :, -kept:], values[:, :, -kept:]
        return seen



class RollingCache:
    """A RollingLayer for every layer of a GPT with sliding windows: model(token_ids, cache)."""

    def __init__(self, config, window):
        self.layers = [RollingLayer(window) for _ in range(config.n_layers)]

    def __getitem__(self, layer):
        return self.layers[layer]

    @property
    def length(self):
        """How many tokens have passed; it holds the last `window` of them."""
        return self.layers[0].length

    @property
    def n_bytes(self):
        """The memory it takes."""
        return sum(t.nbytes for layer in self.layers for t in (layer.keys, layer.values) if t is not None)
