"""A trained GPT on longer texts than it was trained on: positions interpolated, or a larger base."""

# Written by `make export` from d_attention.ipynb; change it there.

from dataclasses import replace

import torch

from .previous_chapters import GPT, RotaryEmbedding

__all__ = [
    "EXTENSIONS",
    "InterpolatedRotary",
    "ntk_theta",
    "longer_rope",
    "with_longer_context",
    "stretched",
]

# %% d_attention.ipynb #de78e583
class InterpolatedRotary(RotaryEmbedding):
    """A RotaryEmbedding that reads position p as p / factor: Chen et al. 2023, section 2.3, equation 4.

    rope: the RotaryEmbedding whose head_dim, theta and pairs it takes. max_len: positions, after stretching.
    """

    def __init__(self, rope, max_len, factor):
        self.factor = factor  # before the table is computed
        super().__init__(rope.head_dim, max_len, rope.theta, rope.interleaved)

    def exact(self, positions):
        """As RotaryEmbedding.exact, of positions / factor: (..., T) -> (..., T, d) float64."""
        return super().exact(positions / self.factor)


def ntk_theta(theta, head_dim, factor):
    """The base with which the slowest hand is slowed by `factor` and the fastest not at all.

    theta * factor ** (d / (d - 2)): Peng et al. 2023, "YaRN", section 3.1. head_dim: d, above 2.
    """
    return theta * factor ** (head_dim / (head_dim - 2))


def longer_rope(rope, max_len, method, factor):
    """A RotaryEmbedding for positions up to max_len - 1, by "none", "interpolate" or "ntk".

    A rope that is interpolated already stays so, and is interpolated further.
    """
    theta = ntk_theta(rope.theta, rope.head_dim, factor) if method == "ntk" else rope.theta
    longer = RotaryEmbedding(rope.head_dim, max_len, theta, rope.interleaved)
    slower = getattr(rope, "factor", 1) * (factor if method == "interpolate" else 1)  # before, and now
    return longer if slower == 1 else InterpolatedRotary(longer, max_len, slower)

# %% d_attention.ipynb #30b44156
EXTENSIONS = {
    "rope": ("none", "interpolate", "ntk"),
    "sinusoidal": ("none",),
    "learned": ("none", "interpolate"),
}


@torch.no_grad()
def with_longer_context(model, context_length, method="none"):
    """A copy of a trained GPT that reads context_length tokens, with all of its weights.

    method: one of EXTENSIONS[position]. Learned positions: with "none" the rows that are missing are freshly
    drawn, with "interpolate" the table is stretched over the new length. ValueError for another method.
    """
    config, like = replace(model.config, context_length=context_length), model.lm_head.weight
    if method not in EXTENSIONS[config.position]:
        choices = ", ".join(EXTENSIONS[config.position])
        raise ValueError(f"method={method!r}: for position={config.position!r} choose one of {choices}")
    longer, weights = GPT(config).to(like), model.state_dict()  # to: the same device and dtype
    if config.position == "learned":
        old, new = (m.embedding.position.weight for m in (model, longer))  # (T, D), (context_length, D)
        weights["embedding.position.weight"] = new  # freshly drawn
        new[: len(old)] = old
        if method == "interpolate":
            new.copy_(stretched(old, context_length))
    longer.load_state_dict(weights)
    if config.position == "rope":
        factor = context_length / model.config.context_length
        longer.rope = longer_rope(model.rope, context_length, method, factor).to(like.device)
        for block in longer.blocks:
            block.attention.rope = longer.rope
    return longer.train(model.training)


def stretched(table, n):
    """Rows 0 .. n - 1 of a table (T, D) read at p * T / n, between two rows in proportion -> (n, D)."""
    places = (torch.arange(n, device=table.device) * len(table) / n).clamp(max=len(table) - 1)  # (n,)
    below = places.long()
    above = (below + 1).clamp(max=len(table) - 1)
    return torch.lerp(table[below], table[above], (places - below).unsqueeze(1).to(table))  # (n, D)
