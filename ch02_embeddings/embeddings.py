"""From token ids to vectors: token rows, and the three usual ways to bring in positions."""

# Written by `make export` from ch02_embeddings.ipynb; change it there.

import math

import torch
import torch.nn.functional as F
from torch import nn

from .rotation import rotate_pairs

__all__ = [
    "TokenEmbedding",
    "angles_at",
    "sinusoids",
    "SinusoidalPositionalEncoding",
    "LearnedPositionalEmbedding",
    "RotaryEmbedding",
    "InputEmbedding",
]

# %% ch02_embeddings.ipynb #9fd9a503
class TokenEmbedding(nn.Module):
    """A learned row for each token: token_ids (..., T) int64 or int32 -> (..., T, d_model) float.

    Bengio et al. 2003, section 2. IndexError for an id outside 0 .. vocab_size - 1 on the CPU; a GPU stops
    with a device-side assert.
    """

    def __init__(self, vocab_size, d_model):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))  # (V, D)
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, token_ids):
        return F.embedding(token_ids, self.weight)  # (..., T) -> (..., T, D)

# %% ch02_embeddings.ipynb #472e85dd
def angles_at(positions, dim, theta=10000.0):
    """How far each of dim/2 hands has turned, in radians: positions (..., T) -> (..., T, dim/2) float64.

    Hand i turns by theta ** (-2i / dim) with each position: Vaswani et al. 2017, section 3.5; Su et al. 2021,
    section 3.2.2. ValueError for an odd dim, or a theta that is not above 1.
    """
    if dim % 2 or not theta > 1:
        raise ValueError(f"expected an even number of dimensions and a base above 1, got {dim} and {theta}")
    exponents = -torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim  # (dim/2,)
    return positions.unsqueeze(-1) * theta**exponents  # (..., T, 1) * (dim/2,) -> (..., T, dim/2)


def sinusoids(positions, d_model):
    """The clock at each position: positions (..., T) -> (..., T, d_model) float64.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.5.
    """
    angles = angles_at(positions, d_model)  # (..., T) -> (..., T, D/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)  # (..., T, D/2, 2) -> (..., T, D)

# %% ch02_embeddings.ipynb #ae560cfa
class SinusoidalPositionalEncoding(nn.Module):
    """Fixed sines and cosines: positions (..., T) int64 or int32 -> (..., T, d_model). No parameters.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.5. Nothing is learned, so max_len may be as
    large as you like. ValueError for an odd d_model; IndexError for a position outside 0 .. max_len - 1 on
    the CPU, where a GPU stops with a device-side assert.
    """

    def __init__(self, d_model, max_len):
        super().__init__()
        # computed on the CPU, since not every device has float64
        table = sinusoids(torch.arange(max_len, device="cpu"), d_model).to(torch.get_default_dtype())
        table = table.to(torch.get_default_device())  # (max_len, D)
        self.register_buffer("table", table, persistent=False)

    def forward(self, positions):
        return F.embedding(positions, self.table)  # (..., T) -> (..., T, D)

# %% ch02_embeddings.ipynb #7634c5ea
class LearnedPositionalEmbedding(nn.Module):
    """A learned row for each position: positions (..., T) int64 or int32 -> (..., T, d_model).

    Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 4.1.
    IndexError for a position outside 0 .. max_len - 1 on the CPU; a GPU stops with a device-side assert.
    """

    def __init__(self, max_len, d_model):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_len, d_model))  # (max_len, D)
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, positions):
        return F.embedding(positions, self.weight)  # (..., T) -> (..., T, D)

# %% ch02_embeddings.ipynb #ea5b9518
class RotaryEmbedding(nn.Module):
    """Turns pairs of dimensions by position: x (..., T, d), positions (T,) or (B, T) -> like x.

    Su et al. 2021, "RoFormer", sections 3.2.2 and 3.4.2, equation 34. d is head_dim. interleaved=True pairs
    neighbours, False pairs the two halves. With positions (B, T), x is (B, H, T, d). bfloat16 and float16 are
    turned in float32 and rounded once; angles keep their precision whatever dtype the module is moved to.
    ValueError for an odd head_dim or a theta not above 1, and for angles that do not fit x; IndexError for a
    position outside 0 .. max_len - 1 on the CPU, where a GPU stops with a device-side assert.
    """

    def __init__(self, head_dim, max_len, theta=10000.0, interleaved=True):
        super().__init__()
        self.head_dim, self.max_len, self.theta, self.interleaved = head_dim, max_len, theta, interleaved
        # computed on the CPU, since not every device has float64
        table = self.exact(torch.arange(max_len, device="cpu")).float()  # (max_len, d)
        table = table.to(torch.get_default_device())
        # Stored as int32, the same bits: .half() and .to(dtype) would round a floating-point buffer.
        self.register_buffer("table", table.view(torch.int32), persistent=False)

    def exact(self, positions):
        """(cos, sin) of each pair, one after the other: positions (..., T) -> (..., T, d) float64."""
        angles = angles_at(positions, self.head_dim, self.theta)  # (..., T) -> (..., T, d/2)
        pairs = torch.stack([angles.cos(), angles.sin()], dim=-1)  # (..., T, d/2, 2)
        return pairs.flatten(-2)  # (..., T, d)

    def cos_sin(self, positions, dtype=torch.float32):
        """For `rotate`: positions (T,) -> (T, d/2, 2), or (B, T) -> (B, 1, T, d/2, 2), for every head.

        float64 when dtype is float64, else float32. Look them up once for many x at the same positions.
        """
        rows = F.embedding(positions, self.table.view(torch.float32))  # (..., T) -> (..., T, d)
        if dtype == torch.float64:
            rows = self.exact(positions)
        pairs = rows.unflatten(-1, (-1, 2))  # (..., T, d) -> (..., T, d/2, 2): flatten backwards
        return pairs.unsqueeze(1) if positions.dim() == 2 else pairs  # (B, T, d/2, 2) -> (B, 1, T, d/2, 2)

    def rotate(self, x, cos_sin):
        """x (..., T, d) turned by the angles that `cos_sin` gave for its positions -> like x."""
        return rotate_pairs(x, cos_sin, self.interleaved)

    def forward(self, x, positions):
        return self.rotate(x, self.cos_sin(positions, x.dtype))  # (..., T, d)

# %% ch02_embeddings.ipynb #48dd47cd
class InputEmbedding(nn.Module):
    """Token plus position plus dropout: token_ids (B, T), positions (T,) or (B, T) -> (B, T, d_model).

    position: "learned", "sinusoidal", or "rope", which adds nothing here and acts inside attention; KeyError
    for another. dropout: the share of numbers set to 0, in training only; ValueError outside 0 .. 1, and when
    there is not one position for each token.
    """

    def __init__(self, vocab_size, d_model, max_len, position="learned", dropout=0.0):
        super().__init__()
        make_position = {
            "learned": lambda: LearnedPositionalEmbedding(max_len, d_model),
            "sinusoidal": lambda: SinusoidalPositionalEncoding(d_model, max_len),
            "rope": lambda: None,
        }[position]
        self.token, self.position = TokenEmbedding(vocab_size, d_model), make_position()
        self.scale = math.sqrt(d_model) if position == "sinusoidal" else 1.0
        self.dropout = nn.Dropout(dropout)

    def forward(self, token_ids, positions):
        x = self.token(token_ids) * self.scale  # (B, T) -> (B, T, D)
        if self.position is not None:
            added = self.position(positions)  # (T,) -> (T, D), or (B, T) -> (B, T, D)
            if added.shape not in (x.shape, x.shape[-2:]):
                got = f"{tuple(positions.shape)} for {tuple(token_ids.shape)}"
                raise ValueError(f"expected one position for each token, got {got}")
            x = x + added  # (T, D) is added to every row of the batch
        return self.dropout(x)
