"""Heads and layers: what each is worth, and models without some of them."""

# Written by `make export` from e_smaller.ipynb; change it there.

import contextlib
import copy
import dataclasses
import itertools

import torch
from torch import nn

from .previous_chapters import cross_entropy

__all__ = [
    "gated_heads",
    "gates_of",
    "head_costs",
    "head_slopes",
    "head_importance",
    "smaller_linear",
    "remove_heads",
    "window_losses",
    "layer_costs",
    "remove_layers",
]

# %% e_smaller.ipynb #70f3c776
@contextlib.contextmanager
def gated_heads(model, gates):
    """Inside, each head's output is multiplied by its gate: gates (1 or B, n_layers, n_kv_heads), float.

    Query heads that share a key/value head share a gate. ValueError where a layer has another number of
    them, as after `remove_heads`. Michel et al. 2019.
    """
    there = [block.attention.k_proj.out_features // block.attention.head_dim for block in model.blocks]
    if there != [gates.size(-1)] * gates.size(1):
        raise ValueError(f"gates {tuple(gates.shape)} do not fit layers of {there} key/value heads")

    def gate(layer):
        def multiply(module, arguments):
            (x,) = arguments  # (B, T, H * d): what the heads say, side by side
            each = gates[:, layer]  # (1 or B, Hkv)
            wide = each.repeat_interleave(x.size(-1) // each.size(-1), dim=-1)  # (1 or B, H * d)
            return (x * wide.unsqueeze(1),)

        return multiply

    projections = [block.attention.out_proj for block in model.blocks]
    hooks = [layer.register_forward_pre_hook(gate(number)) for number, layer in enumerate(projections)]
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()

# %% e_smaller.ipynb #cca2dd25
def gates_of(model, heads=()):
    """Gates (1, n_layers, n_kv_heads): 0 for each (layer, key/value head) in `heads`, else 1."""
    weight = model.lm_head.weight
    gates = weight.new_ones(1, model.config.n_layers, model.config.kv_heads)
    for layer, head in heads:
        gates[0, layer, head] = 0
    return gates


@torch.no_grad()
def head_costs(model, inputs, targets):
    """What the loss rises by without each head: (n_layers, n_kv_heads). inputs, targets: (B, T) int64."""
    costs = gates_of(model)[0]
    before = cross_entropy(model(inputs), targets)
    for place in itertools.product(*map(range, costs.shape)):
        with gated_heads(model, gates_of(model, [place])):
            costs[place] = cross_entropy(model(inputs), targets) - before
    return costs

# %% e_smaller.ipynb #faa65365
def head_slopes(model, inputs, targets):
    """dL/dgate at gate 1 of each window's own mean loss: (B, n_layers, n_kv_heads)."""
    gates = gates_of(model).repeat(len(inputs), 1, 1).requires_grad_()  # (B, L, Hkv)
    with gated_heads(model, gates):
        total = cross_entropy(model(inputs), targets, reduction="sum") / inputs.size(1)
    return torch.autograd.grad(total, gates)[0]


def head_importance(model, inputs, targets):
    """The mean size of a window's slope, (n_layers, n_kv_heads): Michel et al. 2019."""
    return head_slopes(model, inputs, targets).abs().mean(dim=0)

# %% e_smaller.ipynb #1fbd689a
@torch.no_grad()
def smaller_linear(linear, dim, kept):
    """An nn.Linear with only some outputs (dim 0) or inputs (dim 1): those in kept, (n,) int64."""
    weight = linear.weight.index_select(dim, kept)  # (n, in) or (out, n)
    rows, columns = weight.shape
    new = nn.Linear(columns, rows, linear.bias is not None, weight.device, weight.dtype)
    new.weight.copy_(weight)
    if linear.bias is not None:
        new.bias.copy_(linear.bias[kept] if dim == 0 else linear.bias)
    return new


def remove_heads(model, heads):
    """A copy of a GPT without some (layer, key/value head), each gone with all the query heads that use it.

    Equal to gates of 0. ValueError for a head that is not there, and for a layer that would lose all.
    """
    model, gone = copy.deepcopy(model), set(heads)
    for layer, block in enumerate(model.blocks):
        a = block.attention
        there = a.k_proj.out_features // a.head_dim
        kept = [head for head in range(there) if (layer, head) not in gone]
        if not kept:
            raise ValueError(f"layer {layer} would have no heads left; keep one, or use remove_layers")
        gone -= {(layer, head) for head in range(there)}
        queries = a.queries_per_key * a.head_dim  # numbers that belong to one key/value head
        cuts = (("q_proj", queries, 0), ("k_proj", a.head_dim, 0), ("v_proj", a.head_dim, 0))
        for name, width, dim in (*cuts, ("out_proj", queries, 1)):
            places = [torch.arange(head * width, (head + 1) * width) for head in kept]
            projection = getattr(a, name)
            kept_places = torch.cat(places).to(projection.weight.device)
            setattr(a, name, smaller_linear(projection, dim, kept_places))
    if gone:
        raise ValueError(f"this model has no heads {sorted(gone)}: (layer, key/value head), counted from 0")
    return model

# %% e_smaller.ipynb #c93c58ea
def window_losses(model, x, targets):
    """The mean loss of each window: x (B, T, D) after the last block, targets (B, T) -> (B,)."""
    log_p = model.lm_head(model.norm(x)).log_softmax(dim=-1)  # (B, T, V)
    return -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1).mean(dim=1)


@torch.no_grad()
def layer_costs(model, inputs, targets):
    """What each window's loss rises by without each layer, (n_layers, B), and block influence, (n_layers,).

    inputs, targets: (B, T) int64. Influence: Men et al. 2024 (ShortGPT).
    """
    x, cos_sin = model.embed(inputs)
    states = [x]  # before each block, and after the last: (B, T, D)
    for block in model.blocks:
        states.append(block(states[-1], cos_sin=cos_sin))
    influence = [1 - torch.cosine_similarity(a, b, dim=-1).mean() for a, b in zip(states, states[1:])]
    before, costs = window_losses(model, states[-1], targets), []
    for layer in range(len(model.blocks)):
        x = states[layer]
        for block in model.blocks[layer + 1 :]:
            x = block(x, cos_sin=cos_sin)
        costs.append(window_losses(model, x, targets) - before)
    return torch.stack(costs), torch.stack(influence)


def remove_layers(model, layers):
    """A copy of a GPT without some blocks, counted from 0. ValueError for one that is not there, or all."""
    gone, there = set(layers), range(len(model.blocks))
    if not gone <= set(there):
        raise ValueError(f"this model has no layers {sorted(gone - set(there))}; it has 0 to {there[-1]}")
    kept = [block for number, block in enumerate(model.blocks) if number not in gone]
    config = dataclasses.replace(model.config, n_layers=len(kept))
    smaller = copy.deepcopy(model, {id(model.blocks): nn.ModuleList()})
    smaller.blocks, smaller.config = copy.deepcopy(nn.ModuleList(kept)), config
    return smaller
