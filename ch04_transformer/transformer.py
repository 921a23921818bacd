"""Residual connections, norms, feed-forward layers, and the whole GPT behind one configuration."""

# Written by `make export` from ch04_transformer.ipynb; change it there.

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from .fields import Positive, Share, Size, check_fields
from .previous_chapters import InputEmbedding, MultiHeadAttention, RotaryEmbedding

__all__ = [
    "PRESETS",
    "LayerNorm",
    "RMSNorm",
    "GELU",
    "FeedForward",
    "SwiGLU",
    "default_width",
    "count_parameters",
    "GPTConfig",
    "make_norm",
    "make_rope",
    "TransformerBlock",
    "initialise",
    "GPT",
]

# %% ch04_transformer.ipynb #a6015402
class LayerNorm(nn.Module):
    """Each vector to mean 0 and variance 1, then weight and bias: (..., D) -> (..., D), of the same dtype.

    Ba et al. 2016, section 3. Computed by PyTorch's fused kernel.
    """

    def __init__(self, d_model, eps=1e-5, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.eps = eps

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """(..., D) -> (..., D), each vector divided by its root mean square, then times weight.

    Zhang and Sennrich 2019, equation 4.
    """

    def __init__(self, d_model, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)

# %% ch04_transformer.ipynb #06ef30a0
class GELU(nn.Module):
    """x * Phi(x), elementwise; approximate="tanh" for GPT-2's form: Hendrycks and Gimpel 2016, section 2."""

    def __init__(self, approximate="none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, x):
        return F.gelu(x, approximate=self.approximate)


class FeedForward(nn.Module):
    """Widen, tanh-GELU, narrow: (..., D) -> (..., d_ff) -> (..., D).

    Vaswani et al. 2017, section 3.3, equation 2, with GELU.
    """

    def __init__(self, d_model, d_ff, bias=False):
        super().__init__()
        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.activation = GELU("tanh")
        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x):
        hidden = self.activation(self.up_proj(x))  # (..., D) -> (..., d_ff)
        return self.down_proj(hidden)  # (..., d_ff) -> (..., D)

# %% ch04_transformer.ipynb #4f40f104
class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)): (..., D) -> (..., d_ff) -> (..., D). Shazeer 2020, equation 6."""

    def __init__(self, d_model, d_ff, bias=False):
        super().__init__()
        self.gate_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x):
        hidden = F.silu(self.gate_proj(x)) * self.up_proj(x)  # (..., D) -> (..., d_ff)
        return self.down_proj(hidden)  # (..., d_ff) -> (..., D)


def default_width(d_model, activation):
    """The usual d_ff: 4 d_model; for swiglu, at equal parameters, 8/3 d_model up to a multiple of 8."""
    if activation == "gelu":
        return 4 * d_model
    return 8 * math.ceil(d_model / 3)  # 8/3 d_model, and 8 times a whole number


def count_parameters(model):
    """How many numbers the model learns; a tied matrix counts once."""
    return sum(parameter.numel() for parameter in model.parameters())

# %% ch04_transformer.ipynb #d848269b
@dataclass(frozen=True)
class GPTConfig:
    """What a GPT is made of. ValueError names a value that cannot work, and the rule that it breaks."""

    vocab_size: Size  # ids the model knows
    context_length: Size  # most tokens it can look at
    d_model: Size  # width of a token's vector
    n_heads: Size  # attention heads; must divide d_model
    n_layers: Size  # blocks
    n_kv_heads: Size | None = None  # key/value heads; None: as many as n_heads
    d_ff: Size | None = None  # width of the feed-forward layer; None: 4 d_model, for swiglu 8/3 d_model
    dropout: Share = 0.0  # share of numbers switched off in training
    bias: bool = False  # biases in linear layers and layer norms
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"  # GPT-2: layernorm, Llama: rmsnorm
    norm_position: Literal["pre", "post"] = "pre"  # before each layer, or after each sum
    activation: Literal["gelu", "swiglu"] = "gelu"  # GPT-2: gelu, Llama: swiglu
    position: Literal["learned", "sinusoidal", "rope"] = "learned"  # chapter 2; Llama: rope
    rope_theta: Positive = 10000.0  # base of the rotary speeds
    tie_weights: bool = True  # one matrix for the token embedding and the output layer
    init_std: Positive | None = None  # standard deviation of initial weights; None: sqrt(2 / (5 d_model))
    backend: Literal["sdpa", "eager"] = "sdpa"  # attention: PyTorch's fused kernel, or chapter 3's own lines
    norm_eps: Positive = 1e-5  # keeps the norms from dividing by zero

    def __post_init__(self):
        check_fields(self)
        D, H, kv, position = self.d_model, self.n_heads, self.kv_heads, self.position
        rules = (
            (D % H, f"d_model={D} is not divisible by n_heads={H}"),
            (H % kv, f"n_heads={H} is not divisible by n_kv_heads={kv}"),
            (position == "rope" and D // H % 2, f"rope rotates pairs: {D} / {H} numbers a head must be even"),
            (position == "sinusoidal" and D % 2, f"sinusoidal positions are pairs: d_model={D} must be even"),
        )
        for broken, rule in rules:
            if broken:
                raise ValueError(rule)

    @classmethod
    def preset(cls, name, **changes):
        """One of PRESETS by its name, with fields changed: GPTConfig.preset("gpt2-small", dropout=0.1)."""
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
        return cls(**PRESETS[name] | changes)

    @property
    def ff_width(self):
        """d_ff, or its default."""
        return self.d_ff or default_width(self.d_model, self.activation)

    @property
    def kv_heads(self):
        """n_kv_heads, or its default: n_heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def weight_std(self):
        """init_std, or its default, which gets smaller with width: Nguyen and Salazar 2019, section 2.2."""
        return self.init_std or math.sqrt(2 / (5 * self.d_model))

# %% ch04_transformer.ipynb #c6ff62e3
_GPT2 = dict(vocab_size=50257, context_length=1024, bias=True, init_std=0.02)
_SMALL = dict(vocab_size=2048, context_length=128, d_model=128, n_heads=4, n_layers=4)
_LLAMA = dict(norm="rmsnorm", activation="swiglu", position="rope")
PRESETS = {
    "gpt2-small": _GPT2 | dict(d_model=768, n_heads=12, n_layers=12),
    "gpt2-medium": _GPT2 | dict(d_model=1024, n_heads=16, n_layers=24),
    "gpt2-large": _GPT2 | dict(d_model=1280, n_heads=20, n_layers=36),
    # so wide a model wants smaller initial weights than GPT-2's 0.02
    "gpt2-xl": _GPT2 | dict(d_model=1600, n_heads=25, n_layers=48, init_std=None),
    "gpt2-tiny": _SMALL | dict(bias=True),
    "gpt2-mini": _SMALL | dict(vocab_size=4096, d_model=256, bias=True),
    "llama-like": _LLAMA
    | dict(vocab_size=49152, context_length=8192, d_model=576, n_heads=9, n_kv_heads=3, n_layers=30)
    | dict(d_ff=1536, rope_theta=100000.0, init_std=0.02),
    "llama-tiny": _SMALL | _LLAMA | dict(n_kv_heads=2),
}

# %% ch04_transformer.ipynb #6b3b68fe
def make_norm(config):
    """The norm that a GPTConfig asks for."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.d_model, config.norm_eps)
    return LayerNorm(config.d_model, config.norm_eps, config.bias)


def make_rope(config):
    """The rotation that all blocks share, or None where positions are added to the embedding."""
    if config.position == "rope":
        return RotaryEmbedding(config.d_model // config.n_heads, config.context_length, config.rope_theta)


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each added to its input: x (B, T, D) -> (B, T, D).

    norm_position "pre" is Radford et al. 2019, section 2.3; "post" is Vaswani et al. 2017, section 3.1. rope:
    the rotation that blocks share; None: one of its own, where the configuration asks for one. mask, cache
    (of this layer) and cos_sin are handed to MultiHeadAttention.
    """

    def __init__(self, config, rope=None):
        super().__init__()
        c, rope = config, make_rope(config) if rope is None else rope
        self.pre = c.norm_position == "pre"
        self.norm1, self.norm2 = make_norm(c), make_norm(c)
        self.attention = MultiHeadAttention(
            c.d_model, c.n_heads, c.n_kv_heads, c.dropout, c.bias, rope, c.backend
        )
        feed_forward = SwiGLU if c.activation == "swiglu" else FeedForward
        self.feed_forward = feed_forward(c.d_model, c.ff_width, c.bias)
        self.dropout = c.dropout

    def drop(self, x):
        """Dropout on what a layer adds: (B, T, D) -> (B, T, D), in training only."""
        return F.dropout(x, self.dropout) if self.training else x

    def forward(self, x, mask=None, cache=None, cos_sin=None):
        if self.pre:
            x = x + self.drop(self.attention(self.norm1(x), mask, cache, cos_sin=cos_sin))  # (B, T, D)
            return x + self.drop(self.feed_forward(self.norm2(x)))  # (B, T, D)
        x = self.norm1(x + self.drop(self.attention(x, mask, cache, cos_sin=cos_sin)))  # (B, T, D)
        return self.norm2(x + self.drop(self.feed_forward(x)))  # (B, T, D)

    def attention_weights(self, x):
        """Who looks at whom in this block: x (B, T, D) -> (B, H, T, T)."""
        return self.attention(self.norm1(x) if self.pre else x, return_weights=True)[1]

# %% ch04_transformer.ipynb #e4458516
@torch.no_grad()
def initialise(model):
    """N(0, weight_std²) for every matrix, divided by sqrt(2 n_layers) where it writes into the stream.

    Norms 1, biases 0. Radford et al. 2019, section 2.3. named_parameters() lists a tied matrix once, so it is
    drawn once.
    """
    std = model.config.weight_std
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            residual = name.endswith(("out_proj.weight", "down_proj.weight"))
            parameter.normal_(std=std / math.sqrt(2 * model.config.n_layers) if residual else std)
        elif name.endswith("bias"):
            parameter.zero_()

# %% ch04_transformer.ipynb #7a9ed1ea
class GPT(nn.Module):
    """A decoder-only transformer: token_ids (B, T) int64 -> logits (B, T, V).

    cache: one of chapter 6, with keys and values of earlier tokens; positions then go on where it ends.
    positions: (T,) or (B, T) int64, in place of 0 .. T - 1. mask: as in MultiHeadAttention, in place of the
    causal one. last_only: logits of the last token alone, (B, 1, V). ValueError when the tokens, earlier ones
    included, are more than context_length; the embedding refuses an id that is not in 0 .. vocab_size - 1.
    """

    def __init__(self, config):
        super().__init__()
        self.config = c = config
        self.embedding = InputEmbedding(c.vocab_size, c.d_model, c.context_length, c.position, c.dropout)
        self.rope = make_rope(c)
        self.blocks = nn.ModuleList([TransformerBlock(c, self.rope) for _ in range(c.n_layers)])
        self.norm = make_norm(c) if c.norm_position == "pre" else nn.Identity()
        self.lm_head = nn.Linear(c.d_model, c.vocab_size, bias=False)
        if c.tie_weights:
            self.lm_head.weight = self.embedding.token.weight  # the same object, not a copy
        initialise(self)

    def forward(self, token_ids, cache=None, positions=None, mask=None, last_only=False):
        x, cos_sin = self.embed(token_ids, 0 if cache is None else cache.length, positions)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask, None if cache is None else cache[layer], cos_sin)  # (B, T, D)
        x = x[:, -1:] if last_only else x  # (B, 1, D) or (B, T, D)
        return self.lm_head(self.norm(x))  # (B, T, D) -> (B, T, V)

    def embed(self, token_ids, earlier=0, positions=None):
        """Vectors (B, T, D) for the first block, and the rotary angles that all blocks share, or None."""
        T, limit = token_ids.size(1), self.config.context_length
        if earlier + T > limit:
            raise ValueError(f"{earlier + T} tokens are more than context_length={limit}; pass only the last")
        if positions is None:
            positions = torch.arange(earlier, earlier + T, device=token_ids.device)  # (T,)
        x = self.embedding(token_ids, positions)  # (B, T) -> (B, T, D)
        return x, None if self.rope is None else self.rope.cos_sin(positions, x.dtype)

    @torch.no_grad()
    def attention_weights(self, token_ids):
        """Who looks at whom in every layer: token_ids (B, T) -> (L, B, H, T, T)."""
        (x, cos_sin), maps = self.embed(token_ids), []
        for block in self.blocks:
            maps.append(block.attention_weights(x))  # (B, H, T, T)
            x = block(x, cos_sin=cos_sin)  # (B, T, D)
        return torch.stack(maps)  # (L, B, H, T, T)
