"""Attention: softmax, masks, scaled dot-product attention, and multi-head attention as one module."""

# Written by `make export` from ch03_attention.ipynb; change it there.

import math

import torch
import torch.nn.functional as F
from torch import nn

__all__ = [
    "MASKS",
    "softmax",
    "causal_mask",
    "sliding_window_mask",
    "check_inputs",
    "scaled_dot_product_attention",
    "split_heads",
    "join_heads",
    "fused_attention",
    "MultiHeadAttention",
]

# %% ch03_attention.ipynb #3b862311
def softmax(x, dim):
    """Shares along `dim`: positive, 1 in sum. No exponential can overflow, however large the scores.

    Any shape; as torch.softmax.
    """
    exponentials = (x - x.amax(dim=dim, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim=dim, keepdim=True)

# %% ch03_attention.ipynb #9e0dd9d9
def causal_mask(T, S=None, device=None):
    """Who may attend to whom: (T, S) bool, True where query i may see key j.

    S is the number of keys, T when it is None. The queries are the *last* T of the S positions, so that
    query i sees keys 0 .. S - T + i. RuntimeError for more queries than keys.
    """
    S = T if S is None else S
    earlier = torch.ones(T, S - T, dtype=torch.bool, device=device)  # (T, S - T): all may see these
    triangle = torch.ones(T, T, dtype=torch.bool, device=device).tril()  # (T, T)
    return torch.cat([earlier, triangle], dim=1)  # (T, S - T) and (T, T) -> (T, S)


def sliding_window_mask(T, window, S=None, device=None):
    """A causal mask that lets each query see the last `window` positions, its own included: (T, S) bool.

    ValueError for a window below 1, RuntimeError for more queries than keys.
    """
    if window < 1:
        raise ValueError(f"window={window}: expected 1 or more, since every position sees itself")
    S = T if S is None else S
    return causal_mask(T, S, device).triu(S - T - window + 1)  # from `window - 1` places back, (T, S)

# %% ch03_attention.ipynb #54d05ef8
MASKS = (
    "expected bool and as many dimensions as q: "
    "mask[None, None] for (T, S), mask[:, None, None] for padding (B, S)"
)


def check_inputs(q, k, v, mask=None, shared=-2):
    """ValueError for what PyTorch would stretch or cut to fit, silently.

    q (..., T, d), k and v (..., S, d or e) have the same dimensions before number `shared`, and S is 1 or
    more. mask: bool, with as many dimensions as the scores (..., T, S).
    """
    if q.shape[:shared] != k.shape[:shared] or k.shape[:-1] != v.shape[:-1] or k.size(-2) == 0:
        raise ValueError(f"k {tuple(k.shape)}, v {tuple(v.shape)} do not fit q {tuple(q.shape)} or are empty")
    if mask is not None and (mask.dtype != torch.bool or mask.dim() != q.dim()):
        raise ValueError(f"a mask {tuple(mask.shape)}, {mask.dtype}, for q {tuple(q.shape)}: {MASKS}")


def scaled_dot_product_attention(q, k, v, mask=None, dropout_p=0.0):
    """softmax(q kᵀ / sqrt(d)) v, and the weights: Vaswani et al. 2017, section 3.2.1, equation 1.

    q: (..., T, d); k: (..., S, d); v: (..., S, e). mask: bool, True where attention is allowed, with as many
    dimensions as the scores (..., T, S), each 1 or the scores' size; None allows all. dropout_p: the share of
    weights that is dropped. Returns output (..., T, e) and weights (..., T, S), those before dropout. A row
    that may see nothing gives zeros. ValueError for shapes that PyTorch would stretch or cut to fit.
    """
    check_inputs(q, k, v, mask)
    scores = (q / math.sqrt(q.size(-1))) @ k.transpose(-2, -1)  # (..., T, d) @ (..., d, S) -> (..., T, S)
    if mask is not None:
        hidden = (~mask).expand_as(scores)  # (..., T, S): sizes of 1 are repeated, without a copy
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    weights = softmax(scores, dim=-1)  # (..., T, S)
    if mask is not None:
        weights = weights.masked_fill(hidden, 0.0)
    return F.dropout(weights, dropout_p) @ v, weights  # (..., T, S) @ (..., S, e) -> (..., T, e)

# %% ch03_attention.ipynb #410569e6
def split_heads(x, head_dim):
    """Cut each vector into heads: (B, T, H * d) -> (B, H, T, d), d = head_dim."""
    B, T, width = x.shape
    return x.view(B, T, width // head_dim, head_dim).transpose(1, 2)  # (B, T, H, d) -> (B, H, T, d)


def join_heads(x):
    """Put the heads next to each other again: (B, H, T, d) -> (B, T, H * d)."""
    return x.transpose(1, 2).flatten(-2)  # (B, T, H, d) -> (B, T, H * d)

# %% ch03_attention.ipynb #ebe73f65
def fused_attention(q, k, v, mask=None, dropout_p=0.0, causal=False):
    """PyTorch's fused kernel: scaled_dot_product_attention without the weights.

    Shapes, mask and errors are the same, but k and v (B, Hkv, S, d) may have fewer heads than q
    (B, H, T, d). causal=True hides the future too, on top of `mask`, with the last query at the last key.
    """
    check_inputs(q, k, v, mask, shared=-3 if q.dim() == 4 else -2)
    T, S = q.size(-2), k.size(-2)
    causal = causal and T > 1  # a single query is the last one and sees every key
    if causal and (mask is not None or T != S):
        triangle = causal_mask(T, S, q.device)  # (T, S)
        mask = triangle if mask is None else mask & triangle  # (..., T, S)
    grouped = q.dim() == 4 and q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout_p, is_causal=causal and mask is None, enable_gqa=grouped
    )

# %% ch03_attention.ipynb #2280ceec
class MultiHeadAttention(nn.Module):
    """Multi-head self-attention, causal unless a mask says otherwise: Vaswani et al. 2017, section 3.2.2.

    d_model: D, the size of the vectors. n_heads: query heads H. n_kv_heads: key/value heads, a divisor of
    n_heads (Ainslie et al. 2023, section 2.2); None: n_heads. dropout: the share of weights dropped in
    training. bias: whether the four projections add a learned vector. rope: a RotaryEmbedding(head_dim,
    max_len) that rotates queries and keys, or None. backend: "sdpa" (fused) or "eager" (from scratch).
    head_dim: d; None: d_model // n_heads.

    ValueError for a d_model that n_heads does not divide, KeyError for another backend.
    """

    def __init__(
        self,
        d_model,
        n_heads,
        n_kv_heads=None,
        dropout=0.0,
        bias=False,
        rope=None,
        backend="sdpa",
        head_dim=None,
    ):
        super().__init__()
        if head_dim is None and d_model % n_heads:
            raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}; choose a divisor")
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        self.head_dim = d_model // n_heads if head_dim is None else head_dim
        self.queries_per_key = n_heads // n_kv_heads
        self.fused = {"sdpa": True, "eager": False}[backend]
        self.dropout, self.rope = dropout, rope
        self.q_proj = nn.Linear(d_model, n_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(d_model, n_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(d_model, n_kv_heads * self.head_dim, bias=bias)
        self.out_proj = nn.Linear(n_heads * self.head_dim, d_model, bias=bias)

    def forward(self, x, mask=None, cache=None, positions=None, return_weights=False, cos_sin=None):
        """x (B, T, D) -> (B, T, D); with return_weights also the weights (B, H, T, S).

        S is T plus the tokens in the cache. mask: bool (B or 1, H or 1, T or 1, S or 1), True where attention
        is allowed; it *replaces* the causal mask, so combine them with &. cache: has `length`, and
        `append(k, v)`, which returns all keys and values. For `rope`: positions (T,) or (B, T), by default
        those after the cache; or cos_sin, what rope.cos_sin(positions) gave, looked up once for all layers.
        """
        q = split_heads(self.q_proj(x), self.head_dim)  # (B, T, D) -> (B, H, T, d)
        k = split_heads(self.k_proj(x), self.head_dim)  # (B, T, D) -> (B, Hkv, T, d)
        v = split_heads(self.v_proj(x), self.head_dim)  # (B, T, D) -> (B, Hkv, T, d)
        if self.rope is not None:
            if cos_sin is None:
                past = 0 if cache is None else cache.length
                if positions is None:
                    positions = torch.arange(past, past + x.size(1), device=x.device)  # (T,)
                cos_sin = self.rope.cos_sin(positions, q.dtype)
            q, k = self.rope.rotate(q, cos_sin), self.rope.rotate(k, cos_sin)  # shapes as before
        if cache is not None:
            k, v = cache.append(k, v)  # (B, Hkv, T, d) -> (B, Hkv, S, d)
        dropout_p = self.dropout if self.training else 0.0
        if self.fused and not return_weights:
            output = fused_attention(q, k, v, mask, dropout_p, causal=mask is None)  # (B, H, T, d)
            return self.out_proj(join_heads(output))  # (B, H, T, d) -> (B, T, H * d) -> (B, T, D)
        k, v = (t.repeat_interleave(self.queries_per_key, dim=1) for t in (k, v))  # (B, H, S, d)
        if mask is None:
            mask = causal_mask(q.size(-2), k.size(-2), x.device)[None, None]  # (1, 1, T, S)
        output, weights = scaled_dot_product_attention(q, k, v, mask, dropout_p)  # (B, H, T, d), (B, H, T, S)
        output = self.out_proj(join_heads(output))  # (B, H, T, d) -> (B, T, H * d) -> (B, T, D)
        return (output, weights) if return_weights else output
