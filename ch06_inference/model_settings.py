"""What a file says about a model: config.json and weight names of Hugging Face, and fields of a GGUF file.

Written by hand, since other people's names for settings teach nothing about language models.
"""

from .model_folder import read_json
from .previous_chapters import GPTConfig

HF_SETTINGS = {  # ours: GPT-2's, Llama's
    "vocab_size": ("vocab_size", "vocab_size"),
    "context_length": ("n_positions", "max_position_embeddings"),
    "d_model": ("n_embd", "hidden_size"),
    "n_heads": ("n_head", "num_attention_heads"),
    "n_kv_heads": (None, "num_key_value_heads"),
    "n_layers": ("n_layer", "num_hidden_layers"),
    "d_ff": ("n_inner", "intermediate_size"),
    "norm_eps": ("layer_norm_epsilon", "rms_norm_eps"),
    "init_std": ("initializer_range", "initializer_range"),
    "tie_weights": ("tie_word_embeddings", "tie_word_embeddings"),
}
HF_VALUES = {  # settings that GPT follows only with these values
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "hidden_act": ("silu", "swish"),
    "scale_attn_weights": (True,),
    **dict.fromkeys(("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"), (False, None)),
    **dict.fromkeys(("add_cross_attention", "attention_bias", "mlp_bias", "rope_interleaved"), (False, None)),
    **dict.fromkeys(("num_experts", "num_local_experts", "sliding_window", "quantization_config"), (None, 0)),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "use_qk_norm"), (None, False)),
    **dict.fromkeys(("partial_rotary_factor", "attention_multiplier", "logits_scaling"), (None, 1)),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier"), (None, 1)),
}
# weights: theirs, ours; # is the number of a block. c_attn is three of ours
GPT2_NAMES = {
    "wte": "embedding.token",
    "wpe": "embedding.position",
    "h.#.ln_1": "blocks.#.norm1",
    "h.#.attn.c_attn": "blocks.#.attention.q_proj blocks.#.attention.k_proj blocks.#.attention.v_proj",
    "h.#.attn.c_proj": "blocks.#.attention.out_proj",
    "h.#.ln_2": "blocks.#.norm2",
    "h.#.mlp.c_fc": "blocks.#.feed_forward.up_proj",
    "h.#.mlp.c_proj": "blocks.#.feed_forward.down_proj",
    "ln_f": "norm",
    "lm_head": "lm_head",
}
LLAMA_NAMES = {
    "embed_tokens": "embedding.token",
    "layers.#.input_layernorm": "blocks.#.norm1",
    "layers.#.self_attn.q_proj": "blocks.#.attention.q_proj",
    "layers.#.self_attn.k_proj": "blocks.#.attention.k_proj",
    "layers.#.self_attn.v_proj": "blocks.#.attention.v_proj",
    "layers.#.self_attn.o_proj": "blocks.#.attention.out_proj",
    "layers.#.post_attention_layernorm": "blocks.#.norm2",
    "layers.#.mlp.gate_proj": "blocks.#.feed_forward.gate_proj",
    "layers.#.mlp.up_proj": "blocks.#.feed_forward.up_proj",
    "layers.#.mlp.down_proj": "blocks.#.feed_forward.down_proj",
    "norm": "norm",
    "lm_head": "lm_head",
}
GPT2_HEADS = {768: 12, 1024: 16, 1280: 20, 1600: 25}  # d_model: n_heads of the published four


def hf_kind(config):
    """gpt2 or llama, whichever a GPTConfig is; ValueError when it is neither."""
    kind = (config.norm, config.activation, config.position, config.bias)
    if config.norm_position == "pre" and kind == ("rmsnorm", "swiglu", "rope", False):
        return "llama"
    if config.norm_position == "pre" and kind == ("layernorm", "gelu", "learned", True):
        if config.kv_heads == config.n_heads:
            return "gpt2"
    needs = (
        "GPT-2 needs layernorm, gelu, learned, bias and n_kv_heads=None; Llama needs rmsnorm, swiglu, rope"
    )
    raise ValueError(f"no Hugging Face layout for {config}; {needs}, no bias; both need norm_position='pre'")


def config_from_hf(hf, **changes):
    """The dict of a config.json of GPT-2 or Llama -> GPTConfig, with fields changed; dropout starts at 0.

    ValueError names a setting that is missing, or that GPT cannot follow.
    """
    kind = hf.get("model_type")
    if kind not in ("gpt2", "llama"):
        raise ValueError(f"model_type={kind!r} is unknown; choose one of gpt2, llama")
    llama = kind == "llama"
    defaults = {
        "layer_norm_epsilon": 1e-5,
        "rms_norm_eps": 1e-6,
    }  # what transformers takes for what is left out
    hf = defaults | {"initializer_range": 0.02, "tie_word_embeddings": not llama} | hf
    ours = {our: hf.get(names[llama]) for our, names in HF_SETTINGS.items()} | {"bias": not llama}
    rope = {}
    if llama:
        rope = (hf.get("rope_scaling") or {}) | (hf.get("rope_parameters") or {})
        theta = rope.pop("rope_theta", None) or hf.get("rope_theta") or 10000.0
        rope["rope_type"] = rope.pop("rope_type", rope.pop("type", "default"))
        ours |= dict(norm="rmsnorm", activation="swiglu", position="rope", rope_theta=theta)
    config = GPTConfig(**ours | changes)
    expected = dict.fromkeys(rope, (None, 1)) | {"rope_type": ("default",)} | HF_VALUES
    expected["head_dim"] = (None, config.d_model // config.n_heads)
    for name, value in (hf | rope).items():
        if name in expected and value not in expected[name]:
            allowed = " or ".join(map(repr, expected[name]))
            raise ValueError(f"{name}={value!r} is not supported; {allowed} is")
    return config


def config_to_hf(config):
    """GPTConfig -> the dict of a config.json for transformers; ValueError when it has no such model."""
    llama = hf_kind(config) == "llama"
    ours = vars(config) | {"n_kv_heads": config.kv_heads, "d_ff": config.ff_width}
    ours["init_std"] = config.weight_std
    hf = {names[llama]: ours[our] for our, names in HF_SETTINGS.items() if names[llama]}
    if llama:
        kind = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"}
        return kind | hf | {"rope_theta": config.rope_theta}
    kind = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new"}
    return kind | hf | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout)


def read_config(folder, weights, **changes):
    """The GPTConfig of a folder's config.json, else of the shapes of a GPT-2; with fields changed."""
    if (folder / "config.json").exists():
        return config_from_hf(read_json(folder / "config.json"), **changes)
    return config_from_shapes(weights, **changes)


def config_from_shapes(weights, **changes):
    """The GPTConfig of a GPT-2 without a config.json, from the shapes of its weights.

    They do not say how many heads there are. ValueError when nobody does.
    """
    shapes = {name.removeprefix("transformer."): tuple(tensor.shape) for name, tensor in weights.items()}
    if not {"wte.weight", "wpe.weight"} <= set(shapes):
        raise ValueError("no config.json, and no wte.weight and wpe.weight as a GPT-2 has; give its folder")
    (V, D), (context, _) = shapes["wte.weight"], shapes["wpe.weight"]
    if "n_heads" not in changes and D not in GPT2_HEADS:
        raise ValueError(
            f"no config.json says how many heads a GPT-2 of width {D} has; pass n_heads or add it"
        )
    n_layers = 1 + max((int(name.split(".")[1]) for name in shapes if name.startswith("h.")), default=-1)
    ours = dict(vocab_size=V, context_length=context, d_model=D, n_heads=GPT2_HEADS.get(D), n_layers=n_layers)
    return GPTConfig(**ours | {"bias": True} | changes)


GGUF_SETTINGS = {
    "context_length": "context_length",
    "embedding_length": "d_model",
    "block_count": "n_layers",
    "feed_forward_length": "d_ff",
    "attention.head_count": "n_heads",
    "attention.head_count_kv": "n_kv_heads",
    "attention.layer_norm_rms_epsilon": "norm_eps",
    "rope.freq_base": "rope_theta",
}
SAYS_NOTHING = {  # settings that change nothing, as long as they have these values
    **{"expert_count": 0, "expert_used_count": 0, "attention.causal": True},
    **{"rope.scaling.type": "none", "rope.scaling.factor": 1, "rope.scale_linear": 1},
}


def config_from_gguf(fields, **changes):
    """The GPTConfig of a Llama in a GGUF file, with fields changed.

    ValueError names another architecture, or a setting that GPT cannot follow.
    """
    if (kind := fields.get("general.architecture")) != "llama":
        raise ValueError(f"general.architecture={kind!r} is not supported; 'llama' is")
    settings = {name.removeprefix("llama."): v for name, v in fields.items() if name.startswith("llama.")}
    ours = {GGUF_SETTINGS[name]: settings.pop(name) for name in GGUF_SETTINGS if name in settings}
    ours |= {"vocab_size": len(fields["tokenizer.ggml.tokens"])}
    config = GPTConfig(**ours | dict(norm="rmsnorm", activation="swiglu", position="rope") | changes)
    width = config.d_model // config.n_heads
    expected = SAYS_NOTHING | {"vocab_size": config.vocab_size, "rope.dimension_count": width}
    expected |= {"attention.key_length": width, "attention.value_length": width}
    for name, value in settings.items():
        if expected.get(name) != value:
            raise ValueError(f"llama.{name}={value!r} is not supported; this model needs other code")
    return config
