"""Weights and configurations of GPT-2 and Llama, from the Hugging Face layout to ours and back."""

# Written by `make export` from ch06_real_model.ipynb; change it there.

from typing import NamedTuple

import torch

from .previous_chapters import GPTConfig

__all__ = [
    "to_interleaved",
    "to_half_split",
    "Entry",
    "same",
    "transposed",
    "fused",
    "rotary",
    "gpt2_layout",
    "llama_layout",
    "hf_layout",
    "check_fit",
    "from_hf",
    "to_hf",
    "config_from_hf",
    "config_to_hf",
]

# %% ch06_real_model.ipynb #4efd6849
def to_interleaved(weight, head_dim):
    """Rows of a query or key matrix (H * d, ...), from half-split to interleaved rotary layout."""
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def to_half_split(weight, head_dim):
    """The inverse of to_interleaved."""
    return weight.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)

# %% ch06_real_model.ipynb #8f471211
class Entry(NamedTuple):
    """One tensor of a foreign file and what it becomes here."""

    theirs: str
    shape: tuple
    ours: list
    split: callable  # their tensor -> our tensors, in the order of `ours`
    join: callable  # the inverse


def same(theirs, ours, *shape):
    return Entry(theirs, shape, [ours], lambda tensor: [tensor], lambda parts: parts[0])


def transposed(theirs, ours, *shape):
    """A matrix stored as (in, out)."""
    return Entry(theirs, shape, [ours], lambda tensor: [tensor.T], lambda parts: parts[0].T)


def fused(theirs, ours, *shape):
    """Several tensors side by side in the last dimension; matrices as (in, out)."""
    if len(shape) == 1:
        return Entry(theirs, shape, ours, lambda tensor: tensor.chunk(len(ours)), torch.cat)
    return Entry(
        theirs, shape, ours, lambda tensor: tensor.T.chunk(len(ours)), lambda parts: torch.cat(parts).T
    )


def rotary(theirs, ours, head_dim, *shape):
    """A query or key matrix in half-split layout."""
    return Entry(
        theirs,
        shape,
        [ours],
        lambda tensor: [to_interleaved(tensor, head_dim)],
        lambda parts: to_half_split(parts[0], head_dim),
    )

# %% ch06_real_model.ipynb #65cb980d
def gpt2_layout(config):
    """The tensors of GPT-2 in the Hugging Face layout, without the prefix "transformer."."""
    D, W = config.d_model, config.ff_width
    entries = [same("wte.weight", "embedding.token.weight", config.vocab_size, D)]
    entries.append(same("wpe.weight", "embedding.position.weight", config.context_length, D))
    for i in range(config.n_layers):
        a, b = f"h.{i}.", f"blocks.{i}."
        qkv = [f"{b}attention.{name}_proj." for name in "qkv"]
        entries += [
            same(f"{a}ln_{n}.{kind}", f"{b}norm{n}.{kind}", D) for n in (1, 2) for kind in ("weight", "bias")
        ]
        entries.append(fused(f"{a}attn.c_attn.weight", [name + "weight" for name in qkv], D, 3 * D))
        entries.append(fused(f"{a}attn.c_attn.bias", [name + "bias" for name in qkv], 3 * D))
        for theirs, ours, rows, columns in (
            ("attn.c_proj.", "attention.out_proj.", D, D),
            ("mlp.c_fc.", "feed_forward.up_proj.", D, W),
            ("mlp.c_proj.", "feed_forward.down_proj.", W, D),
        ):
            entries.append(transposed(f"{a}{theirs}weight", f"{b}{ours}weight", rows, columns))
            entries.append(same(f"{a}{theirs}bias", f"{b}{ours}bias", columns))
    return entries + [same(f"ln_f.{kind}", f"norm.{kind}", D) for kind in ("weight", "bias")]


def llama_layout(config):
    """The tensors of a Llama in the Hugging Face layout, without the prefix "model."."""
    D, W, d = config.d_model, config.ff_width, config.d_model // config.n_heads
    kv = config.kv_heads * d
    entries = [same("embed_tokens.weight", "embedding.token.weight", config.vocab_size, D)]
    for i in range(config.n_layers):
        a, b = f"layers.{i}.", f"blocks.{i}."
        entries.append(same(f"{a}input_layernorm.weight", f"{b}norm1.weight", D))
        entries.append(same(f"{a}post_attention_layernorm.weight", f"{b}norm2.weight", D))
        entries.append(rotary(f"{a}self_attn.q_proj.weight", f"{b}attention.q_proj.weight", d, D, D))
        entries.append(rotary(f"{a}self_attn.k_proj.weight", f"{b}attention.k_proj.weight", d, kv, D))
        entries.append(same(f"{a}self_attn.v_proj.weight", f"{b}attention.v_proj.weight", kv, D))
        entries.append(same(f"{a}self_attn.o_proj.weight", f"{b}attention.out_proj.weight", D, D))
        for name, *shape in (("gate", W, D), ("up", W, D), ("down", D, W)):
            entries.append(same(f"{a}mlp.{name}_proj.weight", f"{b}feed_forward.{name}_proj.weight", *shape))
    return entries + [same("norm.weight", "norm.weight", D)]

# %% ch06_real_model.ipynb #82899aca
def hf_layout(config):
    """The layout of a configuration and its prefix; ValueError when it is neither a GPT-2 nor a Llama."""
    kind = (config.norm, config.activation, config.position, config.bias, config.norm_position)
    if kind == ("layernorm", "gelu", "learned", True, "pre") and config.kv_heads == config.n_heads:
        return gpt2_layout(config), "transformer."
    if kind == ("rmsnorm", "swiglu", "rope", False, "pre"):
        return llama_layout(config), "model."
    needs = (
        "GPT-2 needs layernorm, gelu, learned, bias and n_kv_heads=None; Llama needs rmsnorm, swiglu, rope"
    )
    raise ValueError(f"no Hugging Face layout for {config}; {needs}, no bias; both need norm_position='pre'")


def check_fit(weights, shapes):
    """ValueError unless `weights` has exactly the names of `shapes`, and their shapes where one is given."""
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = [name for name, shape in shapes.items() if shape and found.get(name, shape) != shape]
    problems = {
        "missing": [name for name in shapes if name not in found],
        "extra": [name for name in found if name not in shapes],
        "misshapen": [f"{name} {found[name]} instead of {shapes[name]}" for name in wrong],
    }
    if any(problems.values()):
        lists = [f"{kind}: {', '.join(names[:8])}" for kind, names in problems.items() if names]
        raise ValueError(f"these weights do not fit the configuration; {'; '.join(lists)}")

# %% ch06_real_model.ipynb #c1e72e83
def from_hf(weights, config):
    """Weights {name: tensor} in the Hugging Face layout -> the state dict of GPT(config), newly allocated.

    Names may have their prefix or not; buffers that hold no weights are passed over. ValueError names the
    tensors that are missing, extra or misshapen.
    """
    layout, prefix = hf_layout(config)
    # masks and tables in older files
    no_weights = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
    weights = {k.removeprefix(prefix): t for k, t in weights.items() if not k.endswith(no_weights)}
    head, embedding = weights.get("lm_head.weight"), weights.get(layout[0].theirs)
    if not config.tie_weights:
        layout.append(same("lm_head.weight", "lm_head.weight", config.vocab_size, config.d_model))
    elif head is not None and embedding is not None:
        if not torch.equal(head, embedding):
            raise ValueError(f"lm_head.weight differs from {layout[0].theirs}; load with tie_weights=False")
        weights.pop("lm_head.weight")
    check_fit(weights, {entry.theirs: entry.shape for entry in layout})
    ours = {}
    for entry in layout:
        parts = [
            part.clone(memory_format=torch.contiguous_format) for part in entry.split(weights[entry.theirs])
        ]
        ours |= zip(entry.ours, parts, strict=True)
    if config.tie_weights:
        ours["lm_head.weight"] = ours["embedding.token.weight"]
    return ours


def to_hf(state_dict, config):
    """The state dict of GPT(config) -> weights in the Hugging Face layout, all new; undoes from_hf."""
    layout, prefix = hf_layout(config)
    check_fit(state_dict, {name: None for entry in layout for name in entry.ours} | {"lm_head.weight": None})
    theirs = {}
    for entry in layout:
        tensor = entry.join([state_dict[name] for name in entry.ours])
        theirs[prefix + entry.theirs] = tensor.clone(memory_format=torch.contiguous_format)
    if not config.tie_weights:
        theirs["lm_head.weight"] = state_dict["lm_head.weight"].clone()
    return theirs

# %% ch06_real_model.ipynb #88ef0f31
def config_from_hf(hf, **changes):
    """The dict of a config.json of GPT-2 or Llama -> GPTConfig, with fields changed; dropout starts at 0.

    ValueError names a setting that GPT cannot follow.
    """
    kind = hf.get("model_type")
    if kind == "gpt2":
        names = dict(
            vocab_size="vocab_size", context_length="n_positions", d_model="n_embd", n_heads="n_head"
        )
        names |= dict(
            n_layers="n_layer", d_ff="n_inner", norm_eps="layer_norm_epsilon", init_std="initializer_range"
        )
        fixed = dict(bias=True, tie_weights=hf.get("tie_word_embeddings", True))
        expected = {"activation_function": ("gelu_new", "gelu_pytorch_tanh"), "scale_attn_weights": (True,)}
        expected |= {"scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,)}
    elif kind == "llama":
        names = dict(vocab_size="vocab_size", context_length="max_position_embeddings", d_model="hidden_size")
        names |= dict(
            n_heads="num_attention_heads", n_layers="num_hidden_layers", n_kv_heads="num_key_value_heads"
        )
        names |= dict(d_ff="intermediate_size", norm_eps="rms_norm_eps", init_std="initializer_range")
        rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
        theta = rope.get("rope_theta", hf.get("rope_theta", 10000.0))
        fixed = dict(norm="rmsnorm", activation="swiglu", position="rope", rope_theta=theta)
        fixed |= dict(tie_weights=hf.get("tie_word_embeddings", False))
        expected = {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)}
        hf = {"rms_norm_eps": 1e-6} | hf  # what transformers takes when a file leaves it out
        hf = hf | {"rope_type": rope.get("rope_type", rope.get("type", "default"))}
        expected["rope_type"] = ("default",)
    else:
        raise ValueError(f"model_type={kind!r} is unknown; choose one of gpt2, llama")
    if kind == "llama" and "hidden_size" in hf and "num_attention_heads" in hf:
        expected["head_dim"] = (None, hf["hidden_size"] // hf["num_attention_heads"])
    for name, values in expected.items():
        if hf.get(name, values[0]) not in values:
            raise ValueError(f"{name}={hf[name]!r} is not supported; {' or '.join(map(repr, values))} is")
    return GPTConfig(**{ours: hf[theirs] for ours, theirs in names.items() if theirs in hf} | fixed | changes)

# %% ch06_real_model.ipynb #38e54be1
def config_to_hf(config):
    """GPTConfig -> the dict of a config.json for transformers; ValueError when it has no such model."""
    c, (_, prefix) = config, hf_layout(config)
    shared = {
        "vocab_size": c.vocab_size,
        "tie_word_embeddings": c.tie_weights,
        "initializer_range": c.init_std,
    }
    if prefix == "transformer.":
        drop = dict(resid_pdrop=c.dropout, embd_pdrop=c.dropout, attn_pdrop=c.dropout)
        sizes = dict(n_positions=c.context_length, n_embd=c.d_model, n_head=c.n_heads, n_layer=c.n_layers)
        sizes |= dict(n_inner=c.d_ff, layer_norm_epsilon=c.norm_eps, activation_function="gelu_new")
        return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]} | shared | sizes | drop
    sizes = dict(
        max_position_embeddings=c.context_length, hidden_size=c.d_model, num_hidden_layers=c.n_layers
    )
    sizes |= dict(num_attention_heads=c.n_heads, num_key_value_heads=c.kv_heads, intermediate_size=c.ff_width)
    sizes |= dict(rms_norm_eps=c.norm_eps, rope_theta=c.rope_theta, hidden_act="silu")
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"]} | shared | sizes
