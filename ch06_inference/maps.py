"""Looking inside: attention maps of every head, pictures of them, and scores of what heads look at."""

# Written by `make export` from ch06_inference.ipynb; change it there.

import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from .previous_chapters import draw_matrix, printable

__all__ = [
    "attention_maps",
    "plot_attention",
    "plot_heads",
    "previous_token_scores",
    "first_token_scores",
    "induction_scores",
]

# %% ch06_inference.ipynb #3131d06a
def attention_maps(model, tokenizer, text):
    """The tokens of a text, a list of T labels, and the weights of every layer and head, (L, H, T, T).

    ValueError for an empty text, and one longer than the context.
    """
    ids, context = tokenizer.encode_ordinary(text), model.config.context_length
    if not 0 < len(ids) <= context:
        raise ValueError(f"the text has {len(ids)} tokens; this model looks at 1 to {context} at once")
    maps = model.attention_weights(torch.tensor([ids], device=model.lm_head.weight.device))  # (L, 1, H, T, T)
    tokens = [printable(tokenizer.decode_bytes([index])) for index in ids]
    return tokens, maps[:, 0].float().cpu()  # (L, H, T, T)

# %% ch06_inference.ipynb #f1e1946b
def plot_attention(tokens, maps, layer=None, head=None):
    """One head large, with its tokens on the axes; or, without layer and head, all of them as a grid.

    tokens: T str; maps: (L, H, T, T). layer and head count from 0. Returns the figure. ValueError for a layer
    or head that the maps do not have, for one without the other, and for tokens of another text.
    """
    if len(tokens) != maps.size(-1):
        raise ValueError(f"{len(tokens)} tokens do not label maps of {maps.size(-1)}; give its own")
    if layer is None and head is None:
        return plot_heads(maps)
    L, H = maps.shape[:2]
    if layer not in range(L) or head not in range(H):
        raise ValueError(f"layer={layer}, head={head}: give both, 0 to {L - 1} and 0 to {H - 1}, or neither")
    size = 0.26 * len(tokens) + 1.4
    figure, axes = plt.subplots(figsize=(size + 0.4, size))
    title = f"layer {layer}, head {head}"
    image = draw_matrix(maps[layer, head], tokens, tokens, title, axes, vmin=0, vmax=1)
    axes.set(xlabel="is looked at", ylabel="looks", aspect="equal")
    axes.tick_params(axis="x", rotation=90)
    figure.colorbar(image, ax=axes, label="weight", shrink=0.8)
    return figure


def plot_heads(maps):
    """All heads as a grid in one picture: maps (L, H, T, T), a row a layer, a column a head.

    A deep model, with more than twice as many layers as heads, lies on its side. Returns the figure.
    """
    names = ("layer", "head")
    if maps.size(0) > 2 * maps.size(1):
        maps, names = maps.transpose(0, 1), ("head", "layer")
    R, C, T, _ = maps.shape
    gap = max(1, T // 16)
    framed = F.pad(maps, (gap, 0, gap, 0), value=math.nan)  # (R, C, T + gap, T + gap), nothing between heads
    grid = framed.transpose(1, 2).flatten(2, 3).flatten(0, 1)[gap:, gap:]  # one picture of all
    cell = min(1.6, 11 / C)
    figure, axes = plt.subplots(figsize=(cell * C + 0.6, cell * R + 0.6))
    draw_matrix(grid, axes=axes, vmin=0, vmax=1)
    middles = [(T - 1) / 2 + n * (T + gap) for n in range(max(R, C))]
    axes.set_xticks(middles[:C], range(C))
    axes.set_yticks(middles[:R], range(R))
    axes.set(xlabel=names[1], ylabel=names[0], aspect="equal", facecolor="#CCCCCC")
    return figure

# %% ch06_inference.ipynb #23c6395a
def previous_token_scores(maps):
    """How much each head looks at the token before: (L, H, T, T) -> (L, H), 0 to 1."""
    return maps.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=-1)  # weights [t, t - 1]


def first_token_scores(maps):
    """How much each head looks at the very first token: (L, H, T, T) -> (L, H), 0 to 1."""
    return maps[..., 1:, 0].mean(dim=-1)


@torch.no_grad()
def induction_scores(model, n_tokens=50, n_rows=4, generator=None):
    """How much each head looks at what followed the same token the last time: (L, H), 0 to 1.

    Measured on rows of `n_tokens` random tokens, written twice, so that nothing but the repetition helps.
    The idea is the prefix matching score of Olsson et al. 2022, "In-context Learning and Induction Heads".
    """
    device, V = model.lm_head.weight.device, model.config.vocab_size
    half = torch.randint(V, (n_rows, n_tokens), generator=generator).to(device)  # (R, n)
    maps = model.attention_weights(torch.cat([half, half], dim=1))  # (L, R, H, 2n, 2n)
    looks_back = maps.diagonal(offset=1 - n_tokens, dim1=-2, dim2=-1)  # weights [t, t - n + 1], t >= n - 1
    return looks_back[..., 1:].mean(dim=(1, -1)).float().cpu()  # (L, R, H, n) -> (L, H)
