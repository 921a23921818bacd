"""Weights of GPT-2 and Llama, from the Hugging Face layout to ours and back."""

# Written by `make export` from ch06_real_model.ipynb; change it there.

import torch

from .model_folder import misfit
from .model_settings import GPT2_NAMES, LLAMA_NAMES, config_from_hf, config_to_hf, hf_kind
from .previous_chapters import GPT

__all__ = [
    "NOT_WEIGHTS",
    "to_interleaved",
    "to_half_split",
    "empty_weights",
    "hf_layout",
    "to_hf",
    "from_hf",
    "config_from_hf",
    "config_to_hf",
]

# %% ch06_real_model.ipynb #3d094282
def to_interleaved(weight, head_dim):
    """Rows of a query or key matrix (H * d, ...), from half-split to interleaved rotary layout."""
    halves = weight.unflatten(0, (-1, 2, head_dim // 2))  # (H * d, ...) -> (H, 2, d/2, ...)
    return halves.transpose(1, 2).flatten(0, 2)  # -> (H, d/2, 2, ...) -> (H * d, ...)


def to_half_split(weight, head_dim):
    """The inverse of to_interleaved."""
    pairs = weight.unflatten(0, (-1, head_dim // 2, 2))  # (H * d, ...) -> (H, d/2, 2, ...)
    return pairs.transpose(1, 2).flatten(0, 2)  # -> (H, 2, d/2, ...) -> (H * d, ...)

# %% ch06_real_model.ipynb #65cb980d
def empty_weights(config):
    """The state dict of GPT(config) on the meta device: names and shapes, without numbers."""
    with torch.device("meta"):
        return GPT(config).state_dict()


def hf_layout(config):
    """(the prefix of names there, {their name: [our names]}) for a GPTConfig; a tied head is not in it.

    ValueError when it is neither a GPT-2 nor a Llama.
    """
    gpt2 = hf_kind(config) == "gpt2"
    ours, layout = empty_weights(config), {}
    for theirs, place in (GPT2_NAMES if gpt2 else LLAMA_NAMES).items():
        for number in range(config.n_layers if "#" in theirs else 1):
            for end in (".weight", ".bias"):
                names = [(name + end).replace("#", str(number)) for name in place.split()]
                if names[0] in ours:
                    layout[(theirs + end).replace("#", str(number))] = names
    if config.tie_weights:
        del layout["lm_head.weight"]
    return "transformer." if gpt2 else "model.", layout

# %% ch06_real_model.ipynb #82899aca
def to_hf(state_dict, config):
    """The state dict of GPT(config) -> weights in the Hugging Face layout, all new.

    ValueError names the tensors that are missing or extra.
    """
    prefix, layout = hf_layout(config)
    if problem := misfit(state_dict, empty_weights(config)):
        raise ValueError(f"these weights do not fit the configuration; {problem}")
    theirs = {}
    for name, ours in layout.items():
        tensor = torch.cat([state_dict[part] for part in ours])  # c_attn: three of (D, D) -> (3 D, D)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = to_half_split(tensor, config.d_model // config.n_heads)
        if ".c_" in name:
            tensor = tensor.t()  # (out, in) -> (in, out); a bias stays
        name = name if name == "lm_head.weight" else prefix + name
        theirs[name] = tensor.clone(memory_format=torch.contiguous_format)
    return theirs

# %% ch06_real_model.ipynb #88ef0f31
NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # in older files


def from_hf(weights, config):
    """Weights {name: tensor} in the Hugging Face layout -> the state dict of GPT(config), newly allocated.

    Names may have their prefix or not. ValueError names the tensors that are missing, extra or misshapen.
    """
    prefix, layout = hf_layout(config)
    weights = {k.removeprefix(prefix): t for k, t in weights.items() if not k.endswith(NOT_WEIGHTS)}
    embedding = next(iter(layout))
    if config.tie_weights and "lm_head.weight" in weights:
        head = weights.pop("lm_head.weight")
        if embedding in weights and not torch.equal(head, weights[embedding]):
            raise ValueError(f"lm_head.weight differs from {embedding}; load with tie_weights=False")
    expected = to_hf(empty_weights(config), config)
    if problem := misfit(weights, {name.removeprefix(prefix): t for name, t in expected.items()}):
        raise ValueError(f"these weights do not fit the configuration; {problem}")
    ours = {}
    for theirs, names in layout.items():
        tensor = weights[theirs].t() if ".c_" in theirs else weights[theirs]  # (in, out) -> (out, in)
        if theirs.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = to_interleaved(tensor, config.d_model // config.n_heads)
        parts = tensor.chunk(len(names))  # c_attn: (3 D, D) -> three of (D, D)
        ours |= {n: p.clone(memory_format=torch.contiguous_format) for n, p in zip(names, parts)}
    if config.tie_weights:
        ours["lm_head.weight"] = ours["embedding.token.weight"]
    return ours
