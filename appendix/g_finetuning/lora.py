"""LoRA: updates of low rank beside weights that stay as they are."""

# Written by `make export` from g_lora.ipynb; change it there.

import torch
from torch import nn

from .previous_chapters import read_checkpoint, write_checkpoint

__all__ = [
    "LoRALinear",
    "layers_of",
    "last_part",
    "replace_layer",
    "add_lora",
    "merge_lora",
    "save_adapter",
    "base_size",
    "load_adapter",
]

# %% g_lora.ipynb #f4af70cb
class LoRALinear(nn.Module):
    """A linear layer that stays as it is, plus alpha / rank times B A: (..., n_in) -> (..., n_out).

    Hu et al. 2022, section 4.1. A: (rank, n_in), drawn from a normal distribution of variance 1 / n_in.
    B: (n_out, rank), zeros, so that nothing changes before the first step.
    """

    def __init__(self, linear, rank, alpha):
        super().__init__()
        n_out, n_in = linear.weight.shape
        self.linear, self.scale = linear.requires_grad_(False), alpha / rank
        self.A = nn.Parameter(linear.weight.new_empty(rank, n_in).normal_(std=n_in**-0.5))
        self.B = nn.Parameter(linear.weight.new_zeros(n_out, rank))

    @property
    def weight(self):
        """What one matrix in place of the three would hold: W + alpha / rank B A, (n_out, n_in)."""
        return self.linear.weight + self.scale * (self.B @ self.A)  # (n_out, rank) @ (rank, n_in)

    def forward(self, x):
        low = x @ self.A.T  # (..., n_in) -> (..., rank)
        return self.linear(x) + self.scale * (low @ self.B.T)  # (..., rank) -> (..., n_out)

# %% g_lora.ipynb #d323fb98
def layers_of(model, kind, names=None):
    """{path: module} of the layers of a kind, such as nn.Linear; names: only those whose path ends so."""
    found = {path: layer for path, layer in model.named_modules() if isinstance(layer, kind)}
    return {path: layer for path, layer in found.items() if names is None or last_part(path) in names}


def last_part(path):
    """blocks.0.attention.q_proj -> q_proj."""
    return path.rpartition(".")[2]


def replace_layer(model, path, layer):
    """Put a layer in the place of the one at a path such as blocks.0.attention.q_proj."""
    setattr(model.get_submodule(path.rpartition(".")[0]), last_part(path), layer)


def add_lora(model, rank=8, alpha=16.0, names=("q_proj", "v_proj")):
    """Put a LoRALinear in place of each linear layer of these names, and freeze all else; returns the model.

    ValueError for a name that no linear layer has, and for a rank that is no whole number above 0.
    """
    known = sorted({last_part(path) for path in layers_of(model, nn.Linear)})
    if missing := sorted(set(names) - set(known)):
        raise ValueError(f"no linear layer is named {', '.join(missing)}; choose among {', '.join(known)}")
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank={rank!r} must be a whole number of at least 1; 4 to 64 are usual")
    model.requires_grad_(False)
    for path, linear in layers_of(model, nn.Linear, names).items():
        replace_layer(model, path, LoRALinear(linear, rank, alpha))
    return model

# %% g_lora.ipynb #34c7aac9
@torch.no_grad()
def merge_lora(model):
    """Put one linear layer, with the sum as its matrix, in place of each LoRALinear; returns the model.

    The sum is a new matrix: one that was shared, as a tied embedding is, stays what it was elsewhere.
    """
    for path, layer in layers_of(model, LoRALinear).items():
        layer.linear.weight = nn.Parameter(layer.weight.clone(), requires_grad=False)
        replace_layer(model, path, layer.linear)
    return model

# %% g_lora.ipynb #63b4e2af
def save_adapter(path, model):
    """Write what add_lora added, and nothing else, to one safetensors file, whole or not at all."""
    layers = layers_of(model, LoRALinear)
    record = {"scale": {name: layer.scale for name, layer in layers.items()}}
    record["base"] = {name: base_size(layer.linear) for name, layer in layers.items()}
    record["weights"] = {name: {"A": layer.A, "B": layer.B} for name, layer in layers.items()}
    write_checkpoint(path, record)


def base_size(linear):
    """The mean size of a layer's weights, to recognise it by: a float."""
    return linear.weight.detach().double().abs().mean().item()


@torch.no_grad()
def load_adapter(path, model):
    """Add what save_adapter wrote to the model that it was trained for; returns the model.

    ValueError, before anything changes, for another model, or a file that is not whole.
    """
    _, record = read_checkpoint(path)
    weights = record["weights"]
    linear = layers_of(model, nn.Linear, {last_part(name) for name in weights})
    shapes = {name: (len(part["B"]), part["A"].size(1)) for name, part in weights.items()}
    same = weights and shapes == {name: tuple(layer.weight.shape) for name, layer in linear.items()}
    if not same or any(abs(base_size(linear[n]) / size - 1) > 1e-4 for n, size in record["base"].items()):
        raise ValueError(f"the adapter in {path} was trained for another model; load it into that one")
    model.requires_grad_(False)
    for name, part in weights.items():
        rank = len(part["A"])
        layer = LoRALinear(linear[name], rank, record["scale"][name] * rank)
        layer.A.copy_(part["A"])
        layer.B.copy_(part["B"])
        replace_layer(model, name, layer)
    return model
