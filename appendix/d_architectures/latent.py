"""Multi-head latent attention: one short vector a token is kept, and keys and values are made from it."""

# Written by `make export` from d_attention.ipynb; change it there.

import math

import torch
from torch import nn

from .previous_chapters import (
    GPT,
    RMSNorm,
    RotaryEmbedding,
    causal_mask,
    fused_attention,
    initialise,
    join_heads,
    split_heads,
)

__all__ = [
    "LatentAttention",
    "LatentLayer",
    "LatentCache",
    "latent_cache_bytes",
    "replace_attention",
    "latent_gpt",
]

# %% d_attention.ipynb #dc8c2b14
class LatentAttention(nn.Module):
    """Causal self-attention that keeps one latent a token: DeepSeek-AI 2024, "DeepSeek-V2", section 2.1.

    Equations 9 to 11 and 14 to 19, with queries that are not compressed, and an RMSNorm on the latent
    (section 3.1.2). d_model: D. n_heads: H. head_dim: d, of a head's values and of the part of its keys that
    is not rotated. latent_dim: c. rope: a RotaryEmbedding(r, max_len); r numbers of each query are rotated,
    and of one key that the heads share. dropout: share of the weights dropped in training.
    """

    def __init__(self, d_model, n_heads, head_dim, latent_dim, rope, dropout=0.0):
        super().__init__()
        self.n_heads, self.head_dim, self.latent_dim = n_heads, head_dim, latent_dim
        self.rope, self.dropout = rope, dropout
        self.q_proj = nn.Linear(d_model, n_heads * (head_dim + rope.head_dim), bias=False)
        self.kv_down = nn.Linear(d_model, latent_dim + rope.head_dim, bias=False)
        self.norm = RMSNorm(latent_dim, eps=1e-6)
        self.k_up = nn.Linear(latent_dim, n_heads * head_dim, bias=False)
        self.v_up = nn.Linear(latent_dim, n_heads * head_dim, bias=False)
        self.out_proj = nn.Linear(n_heads * head_dim, d_model, bias=False)

    def forward(self, x, mask=None, cache=None, cos_sin=None):
        """x (B, T, D) -> (B, T, D). mask: bool (B or 1, H or 1, T, S), in place of the causal one.

        cache: a LatentLayer, and then no key or value is made. cos_sin: what rope.cos_sin gave for the
        positions; None: those after the cache.
        """
        q, rows = self.project(x, 0 if cache is None else cache.length, cos_sin)
        dropout_p = self.dropout if self.training else 0.0
        if cache is None:
            k, v = self.keys_and_values(rows)  # (B, H, T, d + r), (B, H, T, d)
            mixed = fused_attention(q, k, v, mask, dropout_p, causal=mask is None)  # (B, H, T, d)
        else:
            mixed = self.absorbed(q, cache.append(rows), mask, dropout_p)  # (B, H, T, d)
        return self.out_proj(join_heads(mixed))  # (B, H, T, d) -> (B, T, H * d) -> (B, T, D)

    def project(self, x, earlier=0, cos_sin=None):
        """Queries (B, H, T, d + r), and what is kept of each token, (B, T, c + r): latent, rotated key."""
        d, r = self.head_dim, self.rope.head_dim
        if cos_sin is None:
            positions = torch.arange(earlier, earlier + x.size(1), device=x.device)  # (T,)
            cos_sin = self.rope.cos_sin(positions, x.dtype)  # (T, r/2, 2)
        q, q_turned = split_heads(self.q_proj(x), d + r).split([d, r], dim=-1)  # (B, H, T, d), (B, H, T, r)
        q = torch.cat([q, self.rope.rotate(q_turned, cos_sin)], dim=-1)  # (B, H, T, d + r)
        latent, key = self.kv_down(x).split([self.latent_dim, r], dim=-1)  # (B, T, c), (B, T, r)
        key = self.rope.rotate(key.unsqueeze(1), cos_sin).squeeze(1)  # (B, 1, T, r) -> (B, T, r)
        return q, torch.cat([self.norm(latent), key], dim=-1)  # (B, T, c + r)

    def keys_and_values(self, rows):
        """What training multiplies out: rows (B, S, c + r) -> k (B, H, S, d + r), v (B, H, S, d)."""
        latent, key = rows.split([self.latent_dim, self.rope.head_dim], dim=-1)  # (B, S, c), (B, S, r)
        k, v = (split_heads(up(latent), self.head_dim) for up in (self.k_up, self.v_up))  # (B, H, S, d)
        shared = key.unsqueeze(1).expand(-1, self.n_heads, -1, -1)  # (B, S, r) -> (B, H, S, r)
        return torch.cat([k, shared], dim=-1), v

    def absorbed(self, q, rows, mask=None, dropout_p=0.0):
        """Attention on what is kept: q (B, H, T, d + r), rows (B, S, c + r) -> (B, H, T, d).

        DeepSeek-V2, section 2.1.2, at its end. The matrix that would make the keys is multiplied onto the
        queries, the one that would make the values onto the mixed latents: multi-query attention, in which
        the rows are the keys of all heads, and their first c numbers the values.
        """
        (B, H, T, _), S = q.shape, rows.size(1)
        d, r, c = self.head_dim, self.rope.head_dim, self.latent_dim
        k_up, v_up = (up.weight.view(H, d, c) for up in (self.k_up, self.v_up))  # (H, d, c)
        q, q_turned = q.split([d, r], dim=-1)  # (B, H, T, d), (B, H, T, r)
        q = torch.cat([q @ k_up, q_turned], dim=-1)  # (B, H, T, d) @ (H, d, c) -> (B, H, T, c + r)
        q = q * math.sqrt((c + r) / (d + r))  # fused_attention divides by sqrt(c + r), we want sqrt(d + r)
        if mask is None and T > 1:
            mask = causal_mask(T, S, q.device)[None, None]  # (1, 1, T, S)
        if mask is not None:
            mask = mask.expand(-1, H, T, S).flatten(1, 2)  # (B or 1, H * T, S)
        q = q.flatten(1, 2)  # (B, H, T, c + r) -> (B, H * T, c + r): all heads ask the same rows
        mixed = fused_attention(q, rows, rows[..., :c], mask, dropout_p)  # (B, H * T, c)
        return mixed.view(B, H, T, c) @ v_up.transpose(1, 2)  # (B, H, T, c) @ (H, c, d) -> (B, H, T, d)

# %% d_attention.ipynb #96a0307c
class LatentLayer:
    """Latents and rotated keys of one layer, in memory for `limit` tokens that is set aside once."""

    def __init__(self, limit):
        self.limit, self.length, self.rows = limit, 0, None  # rows (B, limit, c + r), once known

    def append(self, rows):
        """Those of the next T tokens, (B, T, c + r) -> of all so far, (B, S, c + r)."""
        if self.rows is None:
            self.rows = rows.new_empty(rows.size(0), self.limit, rows.size(2))
        start, self.length = self.length, self.length + rows.size(1)
        self.rows[:, start : self.length] = rows
        return self.rows[:, : self.length]


class LatentCache:
    """What a GPT with LatentAttention keeps of earlier tokens: model(token_ids, cache), new tokens only."""

    def __init__(self, config):
        self.layers = [LatentLayer(config.context_length) for _ in range(config.n_layers)]

    def __getitem__(self, layer):
        return self.layers[layer]

    @property
    def length(self):
        """How many tokens it holds."""
        return self.layers[0].length


def latent_cache_bytes(config, latent_dim, rope_dim, batch_size, n_tokens, dtype=torch.float32):
    """Layers x rows x tokens x (latent and rotated key) x bytes a number; `cache_bytes` for a latent."""
    return config.n_layers * batch_size * n_tokens * (latent_dim + rope_dim) * dtype.itemsize

# %% d_attention.ipynb #dded7a15
def replace_attention(model, make):
    """Put make(attention) in the place of every block's attention; returns the same model."""
    for block in model.blocks:
        block.attention = make(block.attention)
    return model


def latent_gpt(config, latent_dim, rope_dim):
    """A GPT with LatentAttention, all weights freshly drawn. config: a GPTConfig with position="rope".

    rope_dim: rotated numbers of a query, even; the heads keep config.d_model // config.n_heads others.
    """
    model = GPT(config)
    model.rope = RotaryEmbedding(rope_dim, config.context_length, config.rope_theta)
    sizes = config.d_model, config.n_heads, config.d_model // config.n_heads, latent_dim
    replace_attention(model, lambda _: LatentAttention(*sizes, model.rope, config.dropout))
    initialise(model)
    return model
