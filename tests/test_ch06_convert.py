"""Chapter 6: weights and configurations of GPT-2 and Llama, to the GPT of chapter 4 and back."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ch04_transformer.transformer import GPT, PRESETS, GPTConfig, count_parameters
from ch06_inference.convert import (
    config_from_hf,
    config_to_hf,
    from_hf,
    hf_layout,
    to_half_split,
    to_hf,
    to_interleaved,
)

LLAMA = dict(n_kv_heads=2, d_ff=80, norm="rmsnorm", activation="swiglu", position="rope")
DTYPES = [(torch.float32, 1e-5), (torch.float64, 1e-10)]
NAMES = {"bos_token_id": 0, "eos_token_id": 0}  # ids inside our small vocabularies, or transformers warns


def small(**changes):
    """A small GPTConfig with fields changed."""
    sizes = dict(vocab_size=97, context_length=32, d_model=48, n_heads=4, n_layers=3)
    return GPTConfig(**sizes | changes)


@pytest.fixture
def config(request):
    """The parameter `config` of a test, a dict of changed fields, as a GPTConfig."""
    return small(**request.param)


def some_gpt2(shape=(48, 4, 3), tied=True, **changes):
    d_model, heads, layers = shape
    sizes = {"n_embd": d_model, "n_head": heads, "n_layer": layers, "n_positions": 24, "vocab_size": 61}
    config = GPT2Config(**sizes, initializer_range=0.2, tie_word_embeddings=tied, **NAMES | changes)
    return randomised(GPT2LMHeadModel(config))


def some_llama(shape=(48, 4, 2), kv_heads=2, tied=False, **changes):
    d_model, heads, layers = shape
    config = LlamaConfig(
        vocab_size=61, hidden_size=d_model, num_attention_heads=heads, num_key_value_heads=kv_heads,
        num_hidden_layers=layers, intermediate_size=80, max_position_embeddings=24, tie_word_embeddings=tied,
        initializer_range=0.2, **NAMES | changes,
    )  # fmt: skip
    return randomised(LlamaForCausalLM(config))


def randomised(theirs):
    """Biases and norms that are not 0 and 1, so that a swapped pair would show."""
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return theirs.eval()


def in_float64(theirs):
    """A model of transformers in float64.

    Its Llama computes norms and angles in float32 whatever its dtype: both are replaced by the
    same formulas in float64.
    """
    theirs = theirs.double()
    for module in theirs.modules():
        if isinstance(module, LlamaRMSNorm):
            eps = module.variance_epsilon
            module.forward = lambda x, w=module.weight, eps=eps: (
                w * x / (x.pow(2).mean(-1, True) + eps).sqrt()
            )
    if isinstance(theirs, LlamaForCausalLM):
        c = theirs.config
        head_dim = c.hidden_size // c.num_attention_heads
        speeds = c.rope_parameters["rope_theta"] ** (-torch.arange(0, head_dim, 2).double() / head_dim)

        def rotary(x, position_ids):
            angles = position_ids[..., None] * speeds  # (B, T, d/2)
            angles = torch.cat([angles, angles], dim=-1)  # (B, T, d)
            return angles.cos(), angles.sin()

        theirs.model.rotary_emb.forward = rotary
    return theirs


def converted(theirs):
    """A GPT of chapter 4 with the weights of a model of transformers."""
    config = config_from_hf(theirs.config.to_dict())
    ours = GPT(config).to(theirs.dtype)
    ours.load_state_dict(from_hf(theirs.state_dict(), config))
    return ours.eval()


def logits_loss_gradients(model, ids):
    """Logits, loss, and the gradients of all parameters, {name: gradient}."""
    output = model(ids)
    logits = getattr(output, "logits", output)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    names, parameters = zip(*model.named_parameters(remove_duplicate=True))
    return logits, loss, dict(zip(names, torch.autograd.grad(loss, parameters)))


def assert_equal_models(theirs, tolerance):
    """Logits, loss and every gradient, through the conversion; and the conversion back, bit for bit."""
    ours, ids = converted(theirs), torch.randint(61, (2, 24))
    logits, loss, gradients = logits_loss_gradients(ours, ids)
    their_logits, their_loss, their_gradients = logits_loss_gradients(theirs, ids)
    assert (logits - their_logits).abs().max() < tolerance
    assert (loss - their_loss).abs() < tolerance
    if "lm_head.weight" not in gradients:
        gradients["lm_head.weight"] = gradients["embedding.token.weight"]
    back = to_hf(gradients, ours.config)  # a gradient is rearranged as its weight is
    assert back.keys() == their_gradients.keys()
    for name, gradient in their_gradients.items():
        assert (back[name] - gradient).abs().max() < tolerance, name


# ---------------------------------------------------------------- equal to transformers


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", [(32, 2, 2), (48, 4, 3), (40, 5, 1)])
@pytest.mark.parametrize("tied", [True, False])
def test_equals_gpt2(dtype, tolerance, shape, tied):
    theirs = some_gpt2(shape, tied)
    assert_equal_models(in_float64(theirs) if dtype == torch.float64 else theirs, tolerance)


@pytest.mark.parametrize("change", [{"n_inner": 100}, {"layer_norm_epsilon": 1e-2}])
# guards against: projections that have to be square
def test_equals_gpt2_of_other_widths(change):
    assert_equal_models(in_float64(some_gpt2(**change)), 1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("tied", [True, False])
# guards against: rotary layouts mixed up
# guards against: projections that have to be square
def test_equals_llama(dtype, tolerance, kv_heads, tied):
    theirs = some_llama(kv_heads=kv_heads, tied=tied)
    assert_equal_models(in_float64(theirs) if dtype == torch.float64 else theirs, tolerance)


@pytest.mark.parametrize("shape", [(32, 2, 1), (36, 6, 3)])
@pytest.mark.parametrize("change", [{}, {"rope_theta": 500.0}, {"rms_norm_eps": 1e-2}])
def test_equals_llama_of_other_settings(shape, change):
    theta = change.pop("rope_theta", None)
    if theta:
        change = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    theirs = some_llama(shape, **change)
    assert theta is None or config_from_hf(theirs.config.to_dict()).rope_theta == theta
    assert_equal_models(in_float64(theirs), 1e-10)


# ---------------------------------------------------------------- weights there and back


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("make", [some_gpt2, some_llama])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_converting_back_gives_the_same_file(tmp_path, make, tied, dtype):
    theirs = make(tied=tied).to(dtype)
    theirs.save_pretrained(tmp_path)
    config = config_from_hf(theirs.config.to_dict())
    file = load_file(tmp_path / "model.safetensors")
    ours = GPT(config).to(dtype)
    ours.load_state_dict(from_hf(file, config))
    back = to_hf(ours.state_dict(), config)
    assert back.keys() == file.keys()
    assert all(torch.equal(back[name], tensor) and back[name].dtype == dtype for name, tensor in file.items())
    save_file(back, tmp_path / "back.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("config", [{"bias": True}, LLAMA, LLAMA | {"tie_weights": False}], indirect=True)
def test_our_models_load_into_transformers(config):
    ours, theirs_config = GPT(replace(config, init_std=0.2)).eval(), config_to_hf(config)
    kinds = {"gpt2": (GPT2Config, GPT2LMHeadModel), "llama": (LlamaConfig, LlamaForCausalLM)}
    make_config, make = kinds[theirs_config.pop("model_type")]
    theirs = make(make_config(**theirs_config | NAMES)).eval()
    missing, extra = theirs.load_state_dict(to_hf(ours.state_dict(), config), strict=False)
    theirs.tie_weights()
    assert not extra and missing in ([], ["lm_head.weight"])
    ids = torch.randint(97, (2, 32))
    assert (ours(ids) - theirs(ids).logits).abs().max() < 1e-5
    assert config_from_hf(theirs.config.to_dict(), d_ff=config.d_ff, init_std=config.init_std) == config


def test_conversion_shares_no_memory():
    theirs = some_gpt2()
    config = config_from_hf(theirs.config.to_dict())
    weights = from_hf(theirs.state_dict(), config)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.items())
    assert all(tensor.is_contiguous() for tensor in weights.values())


def test_older_files_load():
    """Without the prefix, with masks and tables that are not weights, with the tied matrix stored twice."""
    theirs, llama = some_gpt2(), some_llama()
    config, llama_config = (config_from_hf(model.config.to_dict()) for model in (theirs, llama))
    bare = {name.removeprefix("transformer."): t for name, t in theirs.state_dict().items()}
    bare |= {"h.0.attn.bias": torch.ones(1, 1, 24, 24), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    for weights, c, reference in (
        (bare, config, theirs),
        (
            {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)} | llama.state_dict(),
            llama_config,
            llama,
        ),
    ):
        expected = from_hf(reference.state_dict(), c)
        found = from_hf(weights, c)
        assert found.keys() == expected.keys() == GPT(c).state_dict().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("make", [some_gpt2, some_llama])
def test_wrong_weights_are_named(make):
    theirs = make()
    config, good = config_from_hf(theirs.config.to_dict()), theirs.state_dict()
    prefix = "transformer." if make is some_gpt2 else "model."
    name = next(name for name in good if "mlp" in name)
    short = name.removeprefix(prefix)
    bad = dict(good)
    bad["surprise"] = bad.pop(name)
    with pytest.raises(ValueError, match=rf"missing: {short}; extra: surprise"):
        from_hf(bad, config)
    shape = tuple(good[name].shape)
    with pytest.raises(
        ValueError, match=rf"misshapen: {short} \(3, 5\) instead of \({shape[0]}, {shape[1]}\)"
    ):
        from_hf(good | {name: torch.zeros(3, 5)}, config)
    with pytest.raises(ValueError, match=r"missing: .*wte|missing: .*embed_tokens") as error:
        from_hf({}, config)
    assert len(str(error.value)) < 600  # one sentence, not hundreds of names
    ours = GPT(config).state_dict()
    ours["blocks.0.norm3.weight"] = ours.pop("blocks.0.norm1.weight")
    with pytest.raises(ValueError, match="missing: blocks.0.norm1.weight; extra: blocks.0.norm3.weight"):
        to_hf(ours, config)


def test_an_untied_head_is_not_dropped_in_silence():
    weights = dict(some_gpt2(tied=False).state_dict())
    config = config_from_hf(some_gpt2().config.to_dict())
    with pytest.raises(
        ValueError, match="lm_head.weight differs from wte.weight; load with tie_weights=False"
    ):
        from_hf(weights, config)


def test_every_parameter_is_in_the_layout_once():
    for config in (small(bias=True), small(**LLAMA), small(**LLAMA, tie_weights=False)):
        names = [name for ours in hf_layout(config)[1].values() for name in ours]
        assert sorted(names) == sorted(name for name, _ in GPT(config).named_parameters())


def test_what_is_neither_gpt2_nor_llama_is_refused():
    for change in ({"norm_position": "post"}, {"position": "sinusoidal"}, {"bias": False}):
        for function in (from_hf, to_hf):
            with pytest.raises(ValueError, match="no Hugging Face layout for .*GPT-2 needs .* Llama needs"):
                function({}, small(**{"bias": True} | change))


REFUSED = [
    (some_gpt2, {"activation_function": "relu"}, "'gelu_new' or 'gelu_pytorch_tanh' is"),
    *((some_gpt2, {name: True}, "False or None is") for name in
      ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention")),
    (some_gpt2, {"scale_attn_weights": False}, "True is"),
    (some_llama, {"hidden_act": "gelu"}, "'silu' or 'swish' is"),
    *((some_llama, {name: True}, "False or None is") for name in
      ("attention_bias", "mlp_bias", "rope_interleaved")),
    (some_llama, {"head_dim": 10}, "None or 12 is"),
    (some_llama, {"sliding_window": 4096}, "None or 0 is"),
    (some_llama, {"partial_rotary_factor": 0.5}, "None or 1 is"),
    (some_llama, {"quantization_config": {"bits": 4}}, "None or 0 is"),
    (some_llama, {"num_local_experts": 8}, "None or 0 is"),
    (some_llama, {"attn_logit_softcapping": 50.0}, "None or False is"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "change", "allowed"), REFUSED, ids=lambda value: getattr(value, "__name__", str(value)[:40])
)
def test_what_a_gpt_cannot_follow_is_refused(make, change, allowed):
    [(name, value)] = change.items()
    message = re.escape(f"{name}={value!r} is not supported; {allowed}")
    with pytest.raises(ValueError, match=message):
        config_from_hf(make().config.to_dict() | change)


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "yarn", "factor": 4.0},
        {"type": "linear", "factor": 2.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0},
        {"factor": 2.0},
        {"rope_type": "default", "partial_rotary_factor": 0.25},
    ],
    ids=str,
)
def test_stretched_positions_are_refused(place, rope):
    hf = some_llama().config.to_dict() | {"rope_parameters": None, "rope_scaling": None, place: rope}
    with pytest.raises(ValueError, match="(rope_type|factor|partial_rotary_factor)=.* is not supported"):
        config_from_hf(hf)


@pytest.mark.parametrize("make", [some_gpt2, some_llama])
def test_a_config_that_lacks_something(make):
    hf = make().config.to_dict()
    with pytest.raises(ValueError, match="model_type='bert' is unknown; choose one of gpt2, llama"):
        config_from_hf(hf | {"model_type": "bert"})
    for name in ("n_embd", "n_head") if make is some_gpt2 else ("hidden_size", "num_attention_heads"):
        with pytest.raises(ValueError, match="None must be a whole number"):
            config_from_hf({key: value for key, value in hf.items() if key != name})


def test_older_configurations():
    hf = some_llama().config.to_dict()
    del hf["rope_parameters"]
    assert config_from_hf(hf | {"rope_theta": 123.0}).rope_theta == 123.0
    assert config_from_hf(hf, context_length=7).context_length == 7
    del hf["rms_norm_eps"]
    assert config_from_hf(hf).norm_eps == LlamaConfig().rms_norm_eps  # their default, which is not ours


# guards against: rotary layouts mixed up
def test_rotary_rows_there_and_back():
    assert to_interleaved(torch.arange(8), 4).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    weight = torch.randn(24, 5)
    for head_dim in (2, 4, 6, 12):
        assert torch.equal(to_half_split(to_interleaved(weight, head_dim), head_dim), weight)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_as_many_parameters_as_transformers(name):
    with torch.device("meta"):  # nothing is allocated
        settings = config_to_hf(GPTConfig.preset(name))
        kinds = {"gpt2": (GPT2Config, GPT2LMHeadModel), "llama": (LlamaConfig, LlamaForCausalLM)}
        make_config, make = kinds[settings.pop("model_type")]
        theirs = make(make_config(**settings))
        assert theirs.num_parameters() == count_parameters(GPT(GPTConfig.preset(name)))
