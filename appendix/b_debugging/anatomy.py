"""Which module of a model is what: matrices, norms, attention, blocks."""

# Written by hand: it sorts names and shapes.

import re
from dataclasses import dataclass

import torch
from torch import nn

from .evidence import mixing, record
from .probes import first_tensor

QUERY, KEY, VALUE = {"q", "query", "queries"}, {"k", "key", "keys"}, {"v", "value", "values"}
FUSED = {"qkv", "c", "cattn", "in", "inproj", "wqkv"}


def short(name):
    """layers.0.attention.q_proj -> q"""
    last = name.split(".")[-1].lower()
    return re.sub(r"^w_?(?=[qkv])|^to_?|_?(proj|projection|linear|lin|layer|attn|weight|w)$|_", "", last)


def matrices(module):
    """Leaves with a weight of two dimensions, but no embeddings: nn.Linear, Conv1D of transformers."""
    leaves = (m for m in module.modules() if not list(m.children()) and not is_table(m))
    return [m for m in leaves if getattr(getattr(m, "weight", None), "ndim", 0) == 2]


def is_table(module):
    """Whether a module is an embedding, by its class's name."""
    return "embedding" in type(module).__name__.lower()


def inside(name, outer):
    return name.startswith(outer + ".") if outer else True


@dataclass
class Anatomy:
    """What a model did with token ids of our own: its calls, and which of them are what."""

    model: nn.Module
    token_ids: torch.Tensor
    calls: list
    mixers: list  # the smallest modules in which one token reaches another: attention
    blocks: list  # (call, its mixers) of the smallest modules with a mixer and a feed-forward layer
    norms: list
    mixed: dict  # {name: {"time", "batch"}}


def dissect(model, token_ids):
    """Find attention, blocks and norms by what they do, on a working copy."""
    calls = [call for call in record(model, token_ids) if call.name]
    by_name = {call.name: call for call in calls}
    mixed = {call.name: mixing(call) for call in by_name.values()}
    norms = [c for c in by_name.values() if is_norm(c)]
    norm_names = {call.name for call in norms}
    mix = [name for name, what in mixed.items() if "time" in what and name not in norm_names]
    smallest = [name for name in mix if not any(inside(other, name) for other in mix)]
    mixers = [by_name[name] for name in smallest]
    blocks = {}
    for call in sorted(by_name.values(), key=lambda call: -len(call.name)):
        within = [m for m in mixers if inside(m.name, call.name)]
        taken = {leaf for m in within for leaf in matrices(m.module)}
        rest = [leaf for leaf in matrices(call.module) if leaf not in taken]
        new = within and not any(m.name in names for m in within for names in blocks)
        same = call.x is not None and getattr(first_tensor(call.output), "shape", None) == call.x.shape
        if new and same and len(rest) >= 2:
            blocks[tuple(m.name for m in within)] = (call, within, rest)
    order = list(by_name)
    blocks = sorted(blocks.values(), key=lambda block: order.index(block[0].name))
    return Anatomy(model, token_ids, calls, mixers, blocks, norms, mixed)


def is_norm(call):
    """By its name, and by a weight for each number of a vector, or none."""
    names = f"{call.name.split('.')[-1]} {type(call.module).__name__}".lower()
    sized = [p for p in call.module.parameters() if p.dim() != 1 or p.numel() != call_width(call)]
    leaf = not list(call.module.children()) and not isinstance(call.module, nn.Identity)
    return bool(re.search(r"norm|\bln", names)) and leaf and call.x is not None and not sized


def call_width(call):
    return call.x.size(-1) if call.x is not None else 0
