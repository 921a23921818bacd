"""Chapter 4: the GPT equals GPT-2 and Llama of the transformers library, with converted weights."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ch04_transformer.transformer import GELU, GPT, GPTConfig, LayerNorm, RMSNorm, SwiGLU, count_parameters

SMALL = GPTConfig(97, 32, d_model=48, n_heads=4, n_layers=3)
LLAMA = replace(SMALL, n_kv_heads=2, d_ff=80, norm="rmsnorm", activation="swiglu", position="rope")
VARIANTS = [
    SMALL,
    LLAMA,
    replace(SMALL, bias=True, norm_position="post"),
    replace(SMALL, position="sinusoidal", backend="eager", tie_weights=False),
]


def from_gpt2(theirs):
    """A GPT of chapter 4 with the weights of a GPT2LMHeadModel."""
    c = theirs.config
    ours = GPT(GPTConfig(c.vocab_size, c.n_positions, c.n_embd, c.n_head, c.n_layer, bias=True))
    pairs = [(ours.embedding.token.weight, theirs.transformer.wte.weight)]
    pairs += [(ours.embedding.position.weight, theirs.transformer.wpe.weight)]
    norms = [(ours.norm, theirs.transformer.ln_f)]
    for block, other in zip(ours.blocks, theirs.transformer.h):
        norms += [(block.norm1, other.ln_1), (block.norm2, other.ln_2)]
        q, k, v = other.attn.c_attn.weight.T.chunk(3)  # Conv1D keeps (in, out)
        bias = other.attn.c_attn.bias.chunk(3)
        for projection, weight, b in zip(("q_proj", "k_proj", "v_proj"), (q, k, v), bias):
            linear = getattr(block.attention, projection)
            pairs += [(linear.weight, weight), (linear.bias, b)]
        for linear, conv in (
            (block.attention.out_proj, other.attn.c_proj),
            (block.feed_forward.up_proj, other.mlp.c_fc),
            (block.feed_forward.down_proj, other.mlp.c_proj),
        ):
            pairs += [(linear.weight, conv.weight.T), (linear.bias, conv.bias)]
    pairs += [(getattr(a, n), getattr(b, n)) for a, b in norms for n in ("weight", "bias")]
    return copied(ours, pairs)


def from_llama(theirs):
    """A GPT of chapter 4 with the weights of a LlamaForCausalLM; queries and keys become interleaved."""
    c = theirs.config
    config = GPTConfig(
        c.vocab_size, c.max_position_embeddings, c.hidden_size, c.num_attention_heads, c.num_hidden_layers,
        c.num_key_value_heads, c.intermediate_size, norm="rmsnorm", activation="swiglu", position="rope",
        tie_weights=c.tie_word_embeddings,
    )  # fmt: skip
    ours, d = GPT(config), c.hidden_size // c.num_attention_heads

    def interleaved(weight):
        return weight.view(-1, 2, d // 2, c.hidden_size).transpose(1, 2).reshape(weight.shape)

    pairs = [
        (ours.embedding.token.weight, theirs.model.embed_tokens.weight),
        (ours.norm.weight, theirs.model.norm.weight),
    ]
    pairs += [(ours.lm_head.weight, theirs.lm_head.weight)]
    for block, other in zip(ours.blocks, theirs.model.layers):
        a, b, f, m = block.attention, other.self_attn, block.feed_forward, other.mlp
        pairs += [
            (a.q_proj.weight, interleaved(b.q_proj.weight)),
            (a.k_proj.weight, interleaved(b.k_proj.weight)),
        ]
        pairs += [(a.v_proj.weight, b.v_proj.weight), (a.out_proj.weight, b.o_proj.weight)]
        pairs += [(getattr(f, n).weight, getattr(m, n).weight) for n in ("gate_proj", "up_proj", "down_proj")]
        pairs += [(block.norm1.weight, other.input_layernorm.weight)]
        pairs += [(block.norm2.weight, other.post_attention_layernorm.weight)]
    return copied(ours, pairs)


def copied(ours, pairs):
    assert {id(a) for a, _ in pairs} >= {id(p) for p in ours.parameters()}  # nothing forgotten
    with torch.no_grad():
        for a, b in pairs:
            assert a.shape == b.shape
            a.copy_(b)
    return ours


def loss_and_gradient(model, ids):
    """Logits, loss and the gradient of the token embedding."""
    output = model(ids)
    logits = getattr(output, "logits", output)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    weight = model.embedding.token.weight if isinstance(model, GPT) else model.get_input_embeddings().weight
    return logits, loss, torch.autograd.grad(loss, weight)[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("shape", [(32, 2, 2), (48, 4, 3)])
def test_equals_gpt2(dtype, tolerance, shape):
    d_model, heads, layers = shape
    sizes = {"n_embd": d_model, "n_head": heads, "n_layer": layers, "n_positions": 24, "vocab_size": 61}
    theirs = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.2)).eval()
    ours, ids = from_gpt2(theirs).to(dtype), torch.randint(61, (2, 24))
    for a, b in zip(loss_and_gradient(ours, ids), loss_and_gradient(theirs.to(dtype), ids)):
        assert torch.allclose(a, b, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-5)])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("tied", [True, False])
def test_equals_llama(dtype, tolerance, kv_heads, tied):  # known bug 10
    config = LlamaConfig(
        vocab_size=61, hidden_size=48, num_attention_heads=4, num_key_value_heads=kv_heads,
        num_hidden_layers=2,
        intermediate_size=80, max_position_embeddings=24, tie_word_embeddings=tied, initializer_range=0.2,
        rms_norm_eps=1e-5,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    ours, ids = from_llama(theirs).to(dtype), torch.randint(61, (2, 24))
    for a, b in zip(loss_and_gradient(ours, ids), loss_and_gradient(theirs.to(dtype), ids)):
        assert torch.allclose(a, b, atol=tolerance)


def test_parts_equal_pytorch():
    x = torch.randn(3, 5, 16) * 3 + 1
    assert torch.allclose(LayerNorm(16)(x), nn.LayerNorm(16)(x), atol=1e-6)
    assert torch.allclose(LayerNorm(16, bias=False)(x), nn.LayerNorm(16, bias=False)(x), atol=1e-6)
    assert torch.allclose(RMSNorm(16)(x), nn.RMSNorm(16, eps=1e-5)(x), atol=1e-6)
    for form in ("none", "tanh"):
        assert torch.allclose(GELU(form)(x), nn.GELU(form)(x), atol=1e-6)
    swiglu = SwiGLU(16, 24)
    by_hand = swiglu.down_proj(nn.SiLU()(swiglu.gate_proj(x)) * swiglu.up_proj(x))
    assert torch.allclose(swiglu(x), by_hand, atol=1e-6)


@pytest.mark.parametrize("config", VARIANTS)
def test_no_logit_sees_the_future(config):  # known bug 1
    model, ids = GPT(config).eval(), torch.randint(97, (2, 20))
    changed = ids.clone()
    changed[:, 12:] = torch.randint(97, (2, 8))
    assert torch.allclose(model(ids)[:, :12], model(changed)[:, :12], atol=1e-5)
    assert not torch.allclose(model(ids)[:, 12:], model(changed)[:, 12:], atol=1e-5)


def test_tied_weights_are_one_object():  # known bug 11
    tied, untied = GPT(SMALL), GPT(replace(SMALL, tie_weights=False))
    assert tied.lm_head.weight is tied.embedding.token.weight
    assert count_parameters(untied) - count_parameters(tied) == 97 * 48


def test_initialisation():  # known bug 12
    big = GPT(replace(SMALL, d_model=192, n_layers=8))
    for name, parameter in big.named_parameters():
        if parameter.dim() == 2 and "position" not in name:
            scale = 1 / 4 if name.endswith(("out_proj.weight", "down_proj.weight")) else 1  # sqrt(2 * 8) = 4
            assert abs(parameter.std().item() / (0.02 * scale) - 1) < 0.05, name
        elif parameter.dim() == 1:
            assert (parameter == (0 if name.endswith("bias") else 1)).all(), name


@pytest.mark.parametrize("config", VARIANTS)
def test_first_loss_is_ln_v(config):  # known bug 12
    config = replace(config, vocab_size=1000, d_model=128)
    ids = torch.randint(1000, (8, 32))
    loss = F.cross_entropy(GPT(config)(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).item()
    assert abs(loss / math.log(1000) - 1) < 0.03


@pytest.mark.parametrize("config", VARIANTS)
def test_attention_weights(config):
    weights = GPT(config).eval().attention_weights(torch.randint(97, (2, 9)))
    assert weights.shape == (3, 2, 4, 9, 9)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 2, 4, 9), atol=1e-5) and (weights.triu(1) == 0).all()


@pytest.mark.parametrize(
    ("layers", "width", "heads", "parameters"),
    [
        (12, 768, 12, 124_439_808),
        (24, 1024, 16, 354_823_168),
        (36, 1280, 20, 774_030_080),
        (48, 1600, 25, 1_557_611_200),
    ],
)
def test_gpt2_parameter_counts(layers, width, heads, parameters):
    with torch.device("meta"):
        assert count_parameters(GPT(GPTConfig(50257, 1024, width, heads, layers, bias=True))) == parameters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0 must be a whole number"),
        ({"d_ff": 1.5}, "d_ff=1.5 must be a whole number"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
        ({"n_heads": 5}, "d_model=48 is not divisible by n_heads=5"),
        ({"n_kv_heads": 3}, "n_heads=4 is not divisible by n_kv_heads=3"),
        ({"norm": "batchnorm"}, "norm='batchnorm' is unknown; choose one of layernorm, rmsnorm"),
        ({"position": "rope", "n_heads": 16}, "d_model=48 over n_heads=16 is odd"),
    ],
)
def test_bad_configurations(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_too_long_a_text():
    with pytest.raises(ValueError, match="33 tokens are more than context_length=32"):
        GPT(SMALL)(torch.zeros(1, 33, dtype=torch.long))
