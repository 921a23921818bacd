"""Pictures of attention maps, written by hand: they draw what the chapter teaches and teach nothing."""

import importlib.util
import math

import matplotlib.pyplot as plt
import torch.nn.functional as F

from .previous_chapters import draw_matrix, show


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


def browse_attention(tokens, maps):
    """Sliders for layer and head where ipywidgets is installed, else the grid; returns what to show."""
    if importlib.util.find_spec("ipywidgets") is None:
        figure = plot_attention(tokens, maps)
        plt.close(figure)  # or a notebook shows it a second time, at the end of the cell
        return figure
    from ipywidgets import IntSlider, interactive

    def draw(layer, head):
        plot_attention(tokens, maps, layer, head)
        show(f"The attention weights of layer {layer}, head {head}, as a square of {len(tokens)} tokens.")

    layers, heads = (IntSlider(0, 0, n - 1) for n in maps.shape[:2])
    return interactive(draw, layer=layers, head=heads)
