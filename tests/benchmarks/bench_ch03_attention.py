"""Chapter 3: multi-head attention against PyTorch's, its options, and three ways over the length."""

import torch
from harness import compare
from torch import nn

from ch02_embeddings.embeddings import RotaryEmbedding
from ch03_attention.attention import (
    MultiHeadAttention,
    causal_mask,
    fused_attention,
    scaled_dot_product_attention,
)
from ch03_attention.tiles import tiled_attention

# batch, tokens, d_model, heads: the last three are the sizes of the goal
QUICK = [(2, 32, 64, 4)]
SIZES = [(16, 128, 256, 4), (4, 512, 512, 8), (1, 1024, 768, 12)]


def forward_and_backward(attend, x, times):
    """`attend` forward and backward, `times` times; gradients of the input and of the weights."""

    def run():
        for _ in range(times):
            attend(x).sum().backward()

    return run


def against_pytorch(B, T, D, H, rounds):
    torch.manual_seed(0)
    ours = MultiHeadAttention(D, H, bias=True)
    theirs = nn.MultiheadAttention(D, H, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(T)
    x = torch.randn(B, T, D, requires_grad=True)
    times = 1 if rounds < 3 else max(1, 4 * 10**9 // (24 * B * T * D * D + 12 * B * T * T * D))
    fast_way = {"attn_mask": mask, "need_weights": False, "is_causal": True}
    candidates = {
        "ours, sdpa": lambda x: ours(x),
        "nn.MultiheadAttention": lambda x: theirs(x, x, x, **fast_way)[0],
    }
    compare(
        f"attention forward and backward, B={B} T={T} d_model={D} n_heads={H}, float32",
        {name: forward_and_backward(attend, x, times) for name, attend in candidates.items()},
        reference="nn.MultiheadAttention",
        rounds=rounds,
        goals={"ours, sdpa": 1.1},
        work=times * B * T,
        unit="tokens",
    )


def options(B, T, D, H, rounds):
    """What the options cost, against the plain module."""
    torch.manual_seed(0)
    rope = RotaryEmbedding(D // H, T)
    modules = {
        "plain": MultiHeadAttention(D, H),
        "n_kv_heads / 4": MultiHeadAttention(D, H, H // 4),
        "rope": MultiHeadAttention(D, H, rope=rope),
        "eager": MultiHeadAttention(D, H, backend="eager"),
    }
    x = torch.randn(B, T, D, requires_grad=True)
    compare(
        f"options, forward and backward, B={B} T={T} d_model={D} n_heads={H}",
        {name: forward_and_backward(module, x, 1) for name, module in modules.items()},
        reference="plain",
        rounds=rounds,
    )


@torch.no_grad()
def over_the_length(T, rounds):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4, T, 64) for _ in range(3))
    mask, times = causal_mask(T)[None, None], 1 if rounds < 3 else max(1, 512**2 // T**2)
    ways = {
        "sdpa": lambda: fused_attention(q, k, v, causal=True),
        "eager": lambda: scaled_dot_product_attention(q, k, v, mask),
        "tiled": lambda: tiled_attention(q, k, v, block=128),
    }
    compare(
        f"causal attention forward, 4 heads of 64, T={T}",
        {name: lambda way=way: [way() for _ in range(times)] for name, way in ways.items()},
        reference="sdpa",
        rounds=rounds,
    )


def run(quick):
    for size in QUICK if quick else SIZES:
        against_pytorch(*size, rounds=2 if quick else 11)
    options(*(QUICK[0] if quick else SIZES[0]), rounds=2 if quick else 7)
    for T in (64, 128) if quick else (128, 256, 512, 1024, 2048, 4096):
        over_the_length(T, rounds=2 if quick else 5)
