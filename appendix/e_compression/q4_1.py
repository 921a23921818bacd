"""Weights as a GGUF file keeps them: Q4_1 and Q8_0, to the bit."""

# Written by `make export` from e_compression.ipynb; change it there.

import torch

from .quantization import pack_nibbles, unpack_nibbles

__all__ = [
    "decode_q4_1",
    "decode_q8_0",
    "encode_q4_1",
]

# %% e_compression.ipynb #96b453e2
def decode_q4_1(data):
    """Q4_1, bytes (..., 20 n) uint8 -> weights (..., 32 n) float32.

    A block of 20 bytes is 32 weights: float16 scale d, float16 minimum m, 16 bytes with two codes each, the
    low four bits for weights 0 to 15, the high ones for 16 to 31; w = d * code + m.
    """
    blocks = data.unflatten(-1, (-1, 20))  # (..., n, 20)
    d, m = blocks[..., :4].contiguous().view(torch.float16).float().split(1, dim=-1)  # (..., n, 1) each
    return (d * unpack_nibbles(blocks[..., 4:]) + m).flatten(-2)  # (..., n, 32) -> (..., 32 n)


def decode_q8_0(data):
    """Q8_0, bytes (..., 34 n) uint8 -> weights (..., 32 n) float32.

    A block of 34 bytes is 32 weights: float16 scale d, 32 codes as int8; w = d * code.
    """
    blocks = data.unflatten(-1, (-1, 34))  # (..., n, 34)
    d = blocks[..., :2].contiguous().view(torch.float16).float()  # (..., n, 1)
    return (d * blocks[..., 2:].view(torch.int8)).flatten(-2)  # (..., n, 32) -> (..., 32 n)

# %% e_compression.ipynb #a3c8ba56
def encode_q4_1(weights):
    """The inverse of decode_q4_1: (..., 32 n) float -> bytes (..., 20 n) uint8.

    Codes are found with the float32 scale, which is rounded to float16 afterwards, as ggml does; halves are
    rounded up. A range of more than 15 * 65504 in a block becomes an infinite scale.
    """
    blocks = weights.float().unflatten(-1, (-1, 32))  # (..., n, 32)
    m, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)  # (..., n, 1) each
    d = (high - m) / 15
    inverse = torch.where(d == 0, 0.0, 1 / d)
    codes = ((blocks - m) * inverse + 0.5).clamp(0, 15).to(torch.uint8)  # cuts off what is behind the point
    halves = torch.cat([d, m], dim=-1).half().view(torch.uint8)  # (..., n, 2) float16 -> (..., n, 4)
    return torch.cat([halves, pack_nibbles(codes)], dim=-1).flatten(-2)  # (..., n, 20) -> (..., 20 n)
