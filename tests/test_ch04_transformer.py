"""Chapter 4: the parts equal PyTorch's, and the GPT is what its configuration says."""

import inspect
import math
from dataclasses import asdict, fields, make_dataclass, replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from ch02_embeddings.embeddings import RotaryEmbedding
from ch03_attention.attention import MultiHeadAttention
from ch04_transformer.accounting import (
    forward_flops,
    parameter_counts,
    saved_bytes,
    shape_table,
    trace_shapes,
    training_memory,
)
from ch04_transformer.counting import parameter_formula
from ch04_transformer.fields import Count, NotNegative, Positive, Share, Size, check_fields
from ch04_transformer.transformer import (
    GELU,
    GPT,
    PRESETS,
    FeedForward,
    GPTConfig,
    LayerNorm,
    RMSNorm,
    SwiGLU,
    TransformerBlock,
    count_parameters,
    default_width,
)

LLAMA = dict(n_kv_heads=2, d_ff=80, norm="rmsnorm", activation="swiglu", position="rope")
VARIANTS = [
    dict(position=position, norm=norm, activation=activation, norm_position=place, **rest)
    for position, norm, activation, place, rest in (
        ("learned", "layernorm", "gelu", "pre", {}),
        ("learned", "layernorm", "gelu", "pre", {"bias": True, "backend": "eager"}),
        ("learned", "rmsnorm", "swiglu", "post", {"n_kv_heads": 1}),
        ("learned", "layernorm", "swiglu", "post", {"bias": True, "tie_weights": False}),
        ("sinusoidal", "layernorm", "gelu", "pre", {"tie_weights": False, "backend": "eager"}),
        ("sinusoidal", "rmsnorm", "gelu", "post", {"n_kv_heads": 2}),
        ("rope", "rmsnorm", "swiglu", "pre", {"n_kv_heads": 2, "d_ff": 80}),
        ("rope", "rmsnorm", "swiglu", "pre", {"n_kv_heads": 1, "backend": "eager", "tie_weights": False}),
        ("rope", "layernorm", "gelu", "post", {"bias": True, "rope_theta": 500.0}),
    )
]


def small(**changes):
    """A small GPTConfig with fields changed."""
    sizes = dict(vocab_size=97, context_length=32, d_model=48, n_heads=4, n_layers=3)
    return GPTConfig(**sizes | changes)


@pytest.fixture
def config(request):
    """The parameter `config` of a test, a dict of changed fields, as a GPTConfig."""
    return small(**request.param)


# ---------------------------------------------------------------- the parts equal PyTorch's


def outputs_and_gradients(function, x, parameters):
    y = function(x)
    return [y, *torch.autograd.grad((y * y).sum(), [x, *parameters])]


def pairs_of_parts():
    """Ours and PyTorch's with the same random parameters, in the same order."""
    for bias in (True, False):
        yield LayerNorm(16, bias=bias), nn.LayerNorm(16, bias=bias)
    yield LayerNorm(16, eps=1e-2), nn.LayerNorm(16, eps=1e-2)
    for eps in (1e-5, 1e-2):
        yield RMSNorm(16, eps), nn.RMSNorm(16, eps)
    for form in ("none", "tanh"):
        yield GELU(form), nn.GELU(form)
    for bias in (True, False):
        yield (
            FeedForward(16, 24, bias=bias),
            nn.Sequential(nn.Linear(16, 24, bias=bias), nn.GELU("tanh"), nn.Linear(24, 16, bias=bias)),
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
# guards against: projections that have to be square
def test_parts_equal_pytorch(dtype, tolerance):  # d_ff differs from d_model
    for ours, theirs in pairs_of_parts():
        ours, theirs = ours.to(dtype), theirs.to(dtype)
        mine, others = list(ours.parameters()), list(theirs.parameters())
        for a, b in zip(mine, others, strict=True):
            a.data.normal_()
            b.data.copy_(a)
        x = (torch.randn(3, 5, 16, dtype=dtype) * 2 + 1).requires_grad_()
        for a, b in zip(outputs_and_gradients(ours, x, mine), outputs_and_gradients(theirs, x, others)):
            assert torch.allclose(a, b, atol=tolerance, rtol=tolerance), type(ours).__name__


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-11)])
def test_parts_equal_their_formulas(dtype, tolerance):
    """The papers' formulas, written out."""
    x = (torch.randn(3, 5, 16, dtype=dtype) * 2 + 1).requires_grad_()
    layer, rms, swiglu = LayerNorm(16).to(dtype), RMSNorm(16).to(dtype), SwiGLU(16, 24, bias=True).to(dtype)
    for parameter in (*layer.parameters(), *rms.parameters(), *swiglu.parameters()):
        parameter.data.normal_()

    def layer_norm(x):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias

    def rms_norm(x):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * rms.weight

    def gated(x):
        gate = swiglu.gate_proj(x)
        return swiglu.down_proj(gate / (1 + (-gate).exp()) * swiglu.up_proj(x))

    def gelu(x):
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    def tanh_gelu(x):
        return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    for part, formula in (
        (layer, layer_norm), (rms, rms_norm), (swiglu, gated), (GELU(), gelu), (GELU("tanh"), tanh_gelu)
    ):  # fmt: skip
        parameters = list(part.parameters())
        for a, b in zip(
            outputs_and_gradients(part, x, parameters), outputs_and_gradients(formula, x, parameters)
        ):
            assert torch.allclose(a, b, atol=tolerance, rtol=tolerance), type(part).__name__


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "part",
    [(LayerNorm, 16), (RMSNorm, 16), (GELU,), (GELU, "tanh"), (FeedForward, 16, 24), (SwiGLU, 16, 24)],
)
def test_parts_in_half_precision(part, dtype):
    """Of the dtype that goes in, near the float32 result, and finite where squares overflow float16."""
    kind, *arguments = part
    part = kind(*arguments)
    x = torch.randn(3, 5, 16).to(dtype)
    with torch.no_grad():
        exact, half = part.float()(x.float()), part.to(dtype)(x)
        assert half.dtype == dtype
        assert torch.allclose(
            half.float(), exact, atol=5 * torch.finfo(dtype).eps, rtol=5 * torch.finfo(dtype).eps
        )
        if isinstance(part, LayerNorm | RMSNorm):
            assert part(x * 300 / x.abs().max() * 2).isfinite().all()  # 600² is above 65,504


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
def test_norms_take_each_vector_alone(norm):
    norm, x = norm(16), torch.randn(3, 5, 16)
    assert torch.allclose(norm(x)[1, 2], norm(x[1, 2]), atol=1e-6)
    assert norm(torch.zeros(16)).abs().max() == 0  # eps: no division by zero


@pytest.mark.parametrize("d_model", [24, 128, 576, 768, 1024, 4096])
def test_swiglu_has_as_many_parameters_as_gelu(d_model):
    width = default_width(d_model, "swiglu")
    assert width % 8 == 0 and width - 8 < 8 * d_model / 3 <= width
    with torch.device("meta"):
        three, two = (
            count_parameters(SwiGLU(d_model, width)),
            count_parameters(FeedForward(d_model, 4 * d_model)),
        )
    assert 0 <= three / two - 1 < 8 / (8 * d_model / 3)


# ---------------------------------------------------------------- properties of the whole model


@pytest.mark.parametrize("config", VARIANTS, indirect=True)
# guards against: a mask with its meaning inverted
def test_no_logit_sees_the_future(config):
    model, ids = GPT(replace(config, init_std=0.2)).eval(), torch.randint(97, (2, 20))
    for t in (1, 12, 19):
        changed = ids.clone()
        changed[:, t:] = (ids[:, t:] + torch.randint(1, 97, (2, 20 - t))) % 97
        assert torch.allclose(model(ids)[:, :t], model(changed)[:, :t], atol=1e-5)
        assert not torch.allclose(model(ids)[:, t:], model(changed)[:, t:], atol=1e-3)


@pytest.mark.parametrize("config", VARIANTS, indirect=True)
def test_gradient_from_the_future_is_zero(config):
    model = GPT(replace(config, init_std=0.2)).double()
    x = torch.randn(1, 6, 48, dtype=torch.float64, requires_grad=True)
    hook = model.embedding.register_forward_hook(lambda module, inputs, output: x)
    logits = model(torch.zeros(1, 6, dtype=torch.long))
    hook.remove()
    for t in range(6):
        (gradient,) = torch.autograd.grad(logits[0, t].square().sum(), x, retain_graph=True)
        assert (gradient[0, t + 1 :] == 0).all() and (gradient[0, : t + 1].abs().amax(-1) > 0).all()


@pytest.mark.parametrize("config", VARIANTS, indirect=True)
def test_backends_agree(config):
    eager, sdpa = (GPT(replace(config, backend=backend, init_std=0.2)) for backend in ("eager", "sdpa"))
    sdpa.load_state_dict(eager.state_dict())
    ids = torch.randint(97, (2, 32))
    assert torch.allclose(eager(ids), sdpa(ids), atol=1e-4)


@pytest.mark.parametrize("config", VARIANTS, indirect=True)
def test_attention_weights(config):
    weights = GPT(config).eval().attention_weights(torch.randint(97, (2, 9)))
    assert weights.shape == (3, 2, 4, 9, 9) and not weights.requires_grad
    assert torch.allclose(weights.sum(-1), torch.ones(3, 2, 4, 9), atol=1e-5) and (weights.triu(1) == 0).all()


@pytest.mark.parametrize("config", VARIANTS, indirect=True)
def test_dropout_is_on_in_training_and_off_in_evaluation(config):
    model, ids = GPT(replace(config, dropout=0.3)), torch.randint(97, (2, 9))
    assert not torch.equal(model.train()(ids), model(ids))
    assert torch.equal(model.eval()(ids), model(ids))


@pytest.mark.parametrize("place", ["embedding.dropout", "blocks.1", "blocks.1.attention"])
@pytest.mark.parametrize("config", [{}, LLAMA | {"norm_position": "post", "backend": "eager"}], indirect=True)
def test_every_dropout_acts(place, config):
    """Each alone makes two calls differ in training, and dropout of the configuration reaches it."""
    name = "p" if place == "embedding.dropout" else "dropout"
    assert getattr(GPT(replace(config, dropout=0.3)).get_submodule(place), name) == 0.3
    model, ids = GPT(config).train(), torch.randint(97, (2, 9))
    assert torch.equal(model(ids), model(ids))
    setattr(model.get_submodule(place), name, 0.3)
    assert not torch.equal(model(ids), model(ids))
    assert torch.equal(model.eval()(ids), model(ids))


@pytest.mark.parametrize("silenced", ["attention", "feed_forward"])
def test_what_each_half_of_a_block_adds_is_dropped(silenced):
    block, x = TransformerBlock(small(dropout=0.5)).train(), torch.randn(2, 9, 48)
    last = {"attention": "out_proj", "feed_forward": "down_proj"}[silenced]
    getattr(getattr(block, silenced), last).weight.data.zero_()  # only the other half adds something
    block.attention.dropout = 0.0
    added = block(x) - x
    assert 0.3 < (added == 0).float().mean() < 0.7


@pytest.mark.parametrize("place", ["pre", "post"])
@pytest.mark.parametrize("bias", [True, False])
def test_block_equals_pytorch(place, bias):
    """Pre-norm and post-norm, against nn.TransformerEncoderLayer with copied weights and a causal mask."""
    block = TransformerBlock(small(norm_position=place, bias=bias)).double()
    theirs = nn.TransformerEncoderLayer(
        48, 4, 192, 0.0, lambda x: F.gelu(x, approximate="tanh"), batch_first=True, norm_first=place == "pre",
        bias=bias, dtype=torch.float64,
    )  # fmt: skip
    for parameter in block.parameters():
        parameter.data.normal_(std=0.3)
    a, f = block.attention, block.feed_forward
    pairs = [
        (theirs.self_attn.out_proj, a.out_proj),
        (theirs.linear1, f.up_proj),
        (theirs.linear2, f.down_proj),
    ]
    for copy, original in (*pairs, (theirs.norm1, block.norm1), (theirs.norm2, block.norm2)):
        copy.load_state_dict(original.state_dict())
    for kind in ("weight", "bias") if bias else ("weight",):
        fused = torch.cat(
            [getattr(projection, kind).detach() for projection in (a.q_proj, a.k_proj, a.v_proj)]
        )
        getattr(theirs.self_attn, f"in_proj_{kind}").data = fused
    x = torch.randn(2, 7, 48, dtype=torch.float64, requires_grad=True)
    results = []
    future = torch.ones(7, 7, dtype=torch.bool).triu(1)  # there True means may not attend
    for y in (block(x), theirs(x, src_mask=future)):
        results.append((y, *torch.autograd.grad(y.square().sum(), x)))
    assert all((ours - others).abs().max() < 1e-10 for ours, others in zip(*results))


def test_a_block_alone_has_the_positions_of_its_configuration():
    """Without a rotation from the model the block makes its own, and not a block that knows no order."""
    config, x = small(**LLAMA), torch.randn(2, 9, 48)
    alone, inside = TransformerBlock(config).eval(), GPT(config).eval().blocks[0]
    alone.load_state_dict(inside.state_dict())
    assert torch.equal(alone(x), inside(x))


def test_angles_are_looked_up_once_for_all_blocks(monkeypatch):
    model, ids, calls = GPT(small(**LLAMA)).eval(), torch.randint(97, (2, 9)), []
    x, positions, rope = torch.randn(2, 9, 48), torch.arange(9), model.rope
    block, cos_sin, look_up = model.blocks[1], rope.cos_sin(positions), rope.cos_sin
    assert torch.equal(block(x, cos_sin=cos_sin), block(x))
    monkeypatch.setattr(rope, "cos_sin", lambda *given: calls.append(given) or look_up(*given))
    model(ids)
    assert len(calls) == 1 and torch.equal(calls[0][0], positions)


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rope"])
def test_the_order_of_tokens_matters(position):
    model = GPT(small(position=position, init_std=0.2)).eval()
    assert not torch.allclose(
        model(torch.tensor([[1, 2, 3]]))[0, 2], model(torch.tensor([[2, 1, 3]]))[0, 2], atol=1e-3
    )


@pytest.mark.parametrize("config", VARIANTS, indirect=True)
# guards against: weight tying that copies
def test_tied_weights_are_one_object(config):
    tied, untied = (GPT(replace(config, tie_weights=tie)) for tie in (True, False))
    assert tied.lm_head.weight is tied.embedding.token.weight
    assert untied.lm_head.weight is not untied.embedding.token.weight
    assert count_parameters(untied) - count_parameters(tied) == 97 * 48
    optimizer = torch.optim.SGD(tied.parameters(), lr=0.1)
    tied(torch.randint(97, (1, 5))).square().sum().backward()
    optimizer.step()
    assert tied.lm_head.weight is tied.embedding.token.weight
    tied.load_state_dict(GPT(replace(config, tie_weights=True)).state_dict())
    assert tied.lm_head.weight is tied.embedding.token.weight


@pytest.mark.parametrize("config", VARIANTS, indirect=True)
@pytest.mark.parametrize("layers", [2, 8])
# guards against: a first loss far from the logarithm of the vocabulary
def test_initialisation(config, layers):
    big = GPT(replace(config, d_model=192, d_ff=256, n_layers=layers, init_std=0.03))
    for name, parameter in big.named_parameters():
        if parameter.dim() == 2:
            scale = 1 / math.sqrt(2 * layers) if name.endswith(("out_proj.weight", "down_proj.weight")) else 1
            assert abs(parameter.std().item() / (0.03 * scale) - 1) < 0.06, name
            assert abs(parameter.mean().item()) < 0.003, name
        else:
            assert (parameter == (0 if name.endswith("bias") else 1)).all(), name


# guards against: a first loss far from the logarithm of the vocabulary
def test_a_tied_matrix_is_drawn_once(monkeypatch):
    model, drawn = GPT(small()), []
    monkeypatch.setattr(torch.Tensor, "normal_", lambda tensor, **options: drawn.append(id(tensor)))
    from ch04_transformer.transformer import initialise

    initialise(model)
    matrices = [id(parameter) for parameter in model.parameters() if parameter.dim() == 2]
    assert sorted(drawn) == sorted(matrices)


@torch.no_grad()
def test_scaling_keeps_the_stream_small():
    """The variance of the residual stream does not grow with the number of layers."""
    spreads = {}
    for layers in (4, 16):
        model = GPT(small(d_model=96, n_layers=layers, init_std=0.05))
        x, _ = model.embed(torch.randint(97, (4, 32)))
        for block in model.blocks:
            x = block(x)
        spreads[layers] = x.std().item()
    assert 0.7 < spreads[16] / spreads[4] < 1.4


@torch.no_grad()
def first_loss(config, batch=(8, 33)):
    ids = torch.randint(config.vocab_size, batch)
    return F.cross_entropy(GPT(config)(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).item()


@pytest.mark.parametrize("config", VARIANTS, indirect=True)
# guards against: a first loss far from the logarithm of the vocabulary
def test_first_loss_is_ln_v(config):
    config = replace(config, vocab_size=1000, d_model=128, init_std=0.02)
    assert abs(first_loss(config) / math.log(1000) - 1) < 0.03


@pytest.mark.parametrize("change", [{}, LLAMA, {"norm_position": "post", "tie_weights": False}])
@pytest.mark.parametrize("d_model", [32, 128, 512, 768])
# guards against: a first loss far from the logarithm of the vocabulary
def test_first_loss_is_near_ln_v_at_every_width(d_model, change):
    """The default initial weights follow the width. With 0.06 it was 8.55 at 512 and 9.11 at 768."""
    config = GPTConfig(2048, 64, d_model, n_heads=4, n_layers=2, **change)
    assert config.init_std is None and config.weight_std == math.sqrt(2 / (5 * d_model))
    assert replace(config, init_std=0.02).weight_std == 0.02
    assert abs(first_loss(config) - math.log(2048) - 0.2) < 0.15


@pytest.mark.parametrize("name", PRESETS)
# guards against: a first loss far from the logarithm of the vocabulary
def test_first_loss_of_every_preset(name):
    """With its own width, vocabulary, initial weights and options.

    The large ones have one layer here and not 12 to 48, which would take gigabytes: initialise makes the
    stream's final size independent of the number of layers, as
    test_scaling_keeps_the_stream_small shows, and the logits depend on width and init_std."""
    config = GPTConfig.preset(name, context_length=64)
    large = config.vocab_size > 10_000
    loss = first_loss(replace(config, n_layers=1) if large else config, (2, 64) if large else (16, 64))
    assert abs(loss / math.log(config.vocab_size) - 1) < 0.03
    predicted = math.log(config.vocab_size) + config.d_model * config.weight_std**2 / 2
    assert abs(loss - predicted) < 0.12


def test_the_first_loss_would_catch_large_weights():
    assert first_loss(small(vocab_size=1000, init_std=0.5)) > 1.3 * math.log(1000)


@pytest.mark.parametrize("config", VARIANTS, indirect=True)
def test_one_batch_is_learned(config):
    """Every option trains: all gradients arrive, and the loss falls."""
    model, ids = GPT(config), torch.randint(97, (2, 17))
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for _ in range(12):
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    assert losses[-1] < 0.8 * losses[0]


def test_bfloat16_model():
    exact = GPT(small(init_std=0.1)).eval()
    half, ids = GPT(exact.config).eval(), torch.randint(97, (2, 9))
    half.load_state_dict(exact.state_dict())
    logits = half.bfloat16()(ids)
    assert logits.dtype == torch.bfloat16 and torch.allclose(logits.float(), exact(ids), atol=0.1)


# guards against: the compiler's prefix in a checkpoint
def test_compiled_model_is_the_same_model():  # chapter 5 saves the model and not its wrapper
    model = GPT(small())
    compiled = torch.compile(model, backend="eager")
    ids = torch.randint(97, (2, 9))
    assert torch.allclose(compiled(ids), model(ids), atol=1e-5)
    assert all(name.startswith("_orig_mod.") for name in compiled.state_dict())  # what must not reach a file
    assert compiled._orig_mod is model and not any("_orig_mod" in name for name in model.state_dict())


# ---------------------------------------------------------------- counting


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2-small", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("llama-like", 134_515_008),
    ],
)
def test_published_parameter_counts(name, parameters):
    with torch.device("meta"):
        model = GPT(GPTConfig.preset(name))
    assert all(parameter.is_meta for parameter in model.parameters())  # nothing is allocated
    assert count_parameters(model) == sum(parameter_counts(model).values()) == parameters


@pytest.mark.parametrize("config", [*VARIANTS, *PRESETS.values()], indirect=True)
def test_formulas_equal_measurements(config):
    with torch.device("meta"):
        model = GPT(config)
    assert parameter_counts(model) == parameter_formula(config)
    assert sum(parameter_formula(config).values()) == count_parameters(model)
    T = min(config.context_length, 100)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, T, dtype=torch.long, device="meta"))
    assert counter.get_total_flops() == sum(forward_flops(config, 3, T).values())


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"bias": True, "n_layers": 2, "d_ff": 100},
        {"n_kv_heads": 1, "tie_weights": False, "position": "sinusoidal"},
        {"n_kv_heads": 2, "position": "rope"},
        PRESETS["gpt2-tiny"],
    ],
    indirect=True,
)
def test_memory_formula(config):
    model, ids = GPT(config), torch.randint(config.vocab_size, (4, config.context_length))
    optimizer = torch.optim.AdamW(model.parameters())

    def loss():
        return F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())

    formula = training_memory(config, *ids.shape)
    assert abs(saved_bytes(loss, model.parameters()) / formula["activations"] - 1) < 0.06
    loss().backward()
    optimizer.step()
    assert formula["weights"] == sum(p.nbytes for p in model.parameters())
    assert formula["gradients"] == sum(p.grad.nbytes for p in model.parameters())
    means = [state[key].nbytes for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert formula["AdamW's means"] == sum(means)


def test_saved_bytes_counts_a_storage_once():
    x, weight = torch.randn(10, 10, requires_grad=True), torch.randn(10, 10, requires_grad=True)
    assert saved_bytes(lambda: (x @ weight).sum(), [x, weight]) == 0
    assert saved_bytes(lambda: (x @ weight).sum(), [weight]) == 400
    assert saved_bytes(lambda: (x * x).sum() + (x.T * x.T).sum()) == 400


@pytest.mark.parametrize("config", VARIANTS, indirect=True)
def test_trace_shapes(config):
    model = GPT(config).train()
    rows = trace_shapes(model, torch.randint(97, (2, 9)))
    shapes = {row.name: row.shape for row in rows}
    assert rows[0].name == "" and rows[0].shape == shapes["lm_head"] == "(2, 9, 97)"
    assert shapes["blocks.0"] == shapes["blocks.2.attention"] == shapes["embedding"] == "(2, 9, 48)"
    assert shapes["blocks.1.feed_forward.up_proj"] == f"(2, 9, {config.ff_width})"
    assert shapes["blocks.1.attention.k_proj"] == f"(2, 9, {12 * config.kv_heads})"
    assert sum(row.parameters for row in rows) == count_parameters(model)  # a tied matrix once
    hooks = [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert hooks == [] and model.training


def test_trace_shapes_of_any_model():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Linear(3, 3)

        def forward(self, x):
            return {"a": self.shared(self.shared(x)), "b": (x, None)}

    rows = trace_shapes(Odd(), torch.zeros(2, 3))
    assert [(row.depth, row.name, row.shape, row.parameters) for row in rows] == [
        (0, "", "(2, 3), (2, 3), NoneType", 0),
        (1, "shared", "(2, 3)", 12),
        (1, "shared", "(2, 3)", 0),
    ]
    table = shape_table(rows).splitlines()
    assert len(table) == 4 and table[1].startswith("(the model)") and table[2].startswith("  shared")
    theirs = GPT2LMHeadModel(
        GPT2Config(vocab_size=61, n_embd=48, n_head=4, n_layer=3, bos_token_id=0, eos_token_id=0)
    )
    rows = trace_shapes(theirs, torch.zeros(1, 4, dtype=torch.long))
    assert sum(row.parameters for row in rows) == count_parameters(theirs)


def test_trace_shapes_leaves_no_hooks_after_an_error():
    model = GPT(small())
    with pytest.raises(ValueError, match="more than context_length=32"):
        trace_shapes(model, torch.zeros(1, 33, dtype=torch.long))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# ---------------------------------------------------------------- presets and bad input


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    config = GPTConfig.preset(name)
    assert asdict(config) == asdict(GPTConfig(**PRESETS[name]))
    changed = GPTConfig.preset(name, context_length=7, dropout=0.1)
    assert changed == replace(config, context_length=7, dropout=0.1)
    with pytest.raises(ValueError, match="dropout=1.5 must be"):
        GPTConfig.preset(name, dropout=1.5)


def test_an_unknown_preset():
    with pytest.raises(ValueError, match="preset 'gpt3' is unknown; choose one of gpt2-small, .*llama-like"):
        GPTConfig.preset("gpt3")


@pytest.mark.parametrize(
    ("hint", "good", "bad", "rule"),
    [
        (int, 3, True, "a whole number"),
        (Size, 1, 0, "at least 1"),
        (Size, 8, 8.0, "a whole number"),
        (Count, 0, -1, "at least 0"),
        (Count, 7, 2**40, "below 1,099,511,627,776"),
        (float, 3, math.nan, "a finite number"),
        (Share, 0, 1.0, "below 1"),
        (Positive, 1e-9, 0, "above 0"),
        (NotNegative, 0.0, -0.1, "at least 0"),
        (bool, True, 1, "True or False"),
        (str, "a", "", "a text that is not empty"),
        (Literal["a", "b"], "b", "A", "one of 'a', 'b'"),
        (Size | None, None, "8", "a whole number or None"),
        (tuple[float, Share], (2, 0.5), (2, 1.5), "2 values, each below 1"),
    ],
)
def test_every_kind_of_field(hint, good, bad, rule):
    kind = make_dataclass("Config", [("x", hint), ("anything", dict, None)])
    check_fields(kind(good))
    with pytest.raises(ValueError, match=rf"^x=.* must be {rule}$"):
        check_fields(kind(bad))
    default = make_dataclass("Config", [("x", hint, good)])
    with pytest.raises(ValueError, match=rf"^x=.* must be {rule}; the default is "):
        check_fields(default(bad))


def test_defaults():
    """What the comments of GPTConfig say, and what later chapters and other people's files rely on."""
    documented = dict(
        n_kv_heads=None, d_ff=None, dropout=0.0, bias=False, norm="layernorm", norm_position="pre",
        activation="gelu", position="learned", rope_theta=10000.0, tie_weights=True, init_std=None,
        backend="sdpa", norm_eps=1e-5,
    )  # fmt: skip
    required = dict(vocab_size=8, context_length=9, d_model=10, n_heads=5, n_layers=12)
    assert asdict(GPTConfig(**required)) == required | documented
    assert GPTConfig(**required).ff_width == 40 and GPTConfig(**required).kv_heads == 5
    for part, argument, field in (
        (RotaryEmbedding, "theta", "rope_theta"),
        (MultiHeadAttention, "backend", "backend"),
        (LayerNorm, "eps", "norm_eps"),
        (RMSNorm, "eps", "norm_eps"),
    ):
        assert inspect.signature(part).parameters[argument].default == documented[field]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(
            (f"gpt2-{size}", dict(context_length=1024, init_std=0.02))
            for size in ("small", "medium", "large")
        ),
        ("gpt2-xl", dict(context_length=1024, init_std=None, d_model=1600, n_heads=25, n_layers=48)),
        (
            "llama-like",
            dict(context_length=8192, rope_theta=100000.0, n_kv_heads=3, init_std=0.02),
        ),
    ],
)
def test_presets_are_as_published(name, values):  # the sizes: test_published_parameter_counts
    config = asdict(GPTConfig.preset(name))
    assert {field: config[field] for field in values} == values


def test_no_field_is_forgotten():
    for field in fields(GPTConfig):
        with pytest.raises(ValueError, match=f"^{field.name}=.* must be "):
            small(**{field.name: object()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_heads": 5}, "d_model=48 is not divisible by n_heads=5"),
        ({"n_kv_heads": 8}, "n_heads=4 is not divisible by n_kv_heads=8"),
        ({"position": "rope", "n_heads": 16}, "rope rotates pairs: 48 / 16 numbers a head must be even"),
        ({"position": "sinusoidal", "d_model": 49, "n_heads": 7}, "are pairs: d_model=49 must be even"),
    ],
)
def test_fields_that_do_not_go_together(change, message):
    with pytest.raises(ValueError, match=message):
        small(**change)


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rope"])
def test_a_text_longer_than_the_context(position):
    model = GPT(small(position=position))
    for function in (model, model.attention_weights):
        with pytest.raises(ValueError, match="33 tokens are more than context_length=32; pass only the last"):
            function(torch.zeros(1, 33, dtype=torch.long))


def test_memory_that_is_not_counted_is_refused():
    for name, value in dict(
        norm="rmsnorm", activation="swiglu", norm_position="post", backend="eager", dropout=0.1
    ).items():
        with pytest.raises(ValueError, match=f"{name}={value!r} is not counted, only"):
            training_memory(small(**{name: value}), 1, 8)


def test_int32_token_ids_are_fine():
    model, ids = GPT(small()), torch.randint(97, (2, 9))
    assert torch.equal(model(ids.int()), model(ids))


# ---------------------------------------------------------------- what chapter 6 asks for


@pytest.mark.parametrize("config", VARIANTS, indirect=True)
@torch.no_grad()
def test_last_only_is_the_last_of_all(config):
    model, ids = GPT(config).eval(), torch.randint(97, (3, 9))
    last = model(ids, last_only=True)
    assert last.shape == (3, 1, 97) and torch.allclose(last, model(ids)[:, -1:], atol=1e-6)


def test_last_only_spares_the_output_layer():
    model, ids = GPT(small()).eval(), torch.randint(97, (1, 32))
    with FlopCounterMode(display=False) as all_of_them:
        model(ids)
    with FlopCounterMode(display=False) as last:
        model(ids, last_only=True)
    spared = all_of_them.get_total_flops() - last.get_total_flops()
    assert spared == 2 * 31 * model.config.d_model * model.config.vocab_size


class PlainCache:
    """All that the model asks of a cache: `length`, and for each layer `length` and `append`."""

    def __init__(self, layers=None):
        self.layers = [PlainCache() for _ in range(layers)] if layers else None
        self.keys, self.values = [], []

    @property
    def length(self):
        return self.layers[0].length if self.layers else sum(k.size(2) for k in self.keys)

    def __getitem__(self, layer):
        return self.layers[layer]

    def append(self, keys, values):
        self.keys.append(keys)
        self.values.append(values)
        return torch.cat(self.keys, dim=2), torch.cat(self.values, dim=2)


@pytest.mark.parametrize("config", VARIANTS, indirect=True)
@torch.no_grad()
def test_with_a_cache_the_pieces_equal_the_whole(config):
    model, ids, cache = GPT(replace(config, init_std=0.2)).eval(), torch.randint(97, (2, 32)), PlainCache(3)
    pieces = [model(piece, cache) for piece in ids.split([5, 1, 20, 1, 5], dim=1)]
    assert torch.allclose(torch.cat(pieces, dim=1), model(ids), atol=1e-4)
    with pytest.raises(ValueError, match="33 tokens are more than context_length=32"):
        model(ids[:, :1], cache)


def padded(lengths, T):
    """Positions (B, T) and mask (B, 1, T, T) of rows that are filled up at the left."""
    filled = torch.tensor([T - length for length in lengths])[:, None]  # (B, 1)
    positions = (torch.arange(T) - filled).clamp(min=0)  # (B, T)
    return positions, torch.ones(T, T, dtype=torch.bool).tril() & (torch.arange(T) >= filled)[:, None, None]


@pytest.mark.parametrize("config", VARIANTS, indirect=True)
@pytest.mark.parametrize("filling", [0, 96])
@torch.no_grad()
# guards against: logits read at the padding
def test_padded_rows_equal_the_rows_alone(config, filling):
    model, ids, lengths = GPT(config).eval(), torch.randint(97, (4, 12)), (12, 1, 7, 11)
    positions, mask = padded(lengths, 12)
    for row, length in zip(ids, lengths):
        row[: 12 - length] = filling
    logits = model(ids, positions=positions, mask=mask)
    for row, length, found in zip(ids, lengths, logits):
        assert torch.allclose(found[-length:], model(row[None, -length:])[0], atol=1e-5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("config", [{}, LLAMA], indirect=True)
def test_the_filling_has_no_gradient_and_no_influence(config):
    model, ids = GPT(config), torch.randint(97, (2, 9))
    positions, mask = padded((6, 9), 9)
    other = ids.clone()
    other[0, :3] = (ids[0, :3] + 1) % 97
    logits, others = (model(tokens, positions=positions, mask=mask) for tokens in (ids, other))
    assert torch.equal(logits[0, 3:], others[0, 3:])
    logits[0, 3:].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# ---------------------------------------------------------------- other devices


class NoFloat64(TorchDispatchMode):
    """Makes the meta device one that has no float64, as Apple's mps."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta and tensor.dtype == torch.float64:
                raise TypeError("this device has no float64")
        return result


@pytest.mark.parametrize("config", VARIANTS, indirect=True)
@pytest.mark.parametrize("built_there", [True, False])
def test_a_device_without_float64(config, built_there):
    """Built there or moved there: a step of training, and every tensor that the model makes is there too."""
    with NoFloat64():
        with pytest.raises(TypeError, match="no float64"):
            torch.zeros(2, dtype=torch.float64, device="meta")
        with torch.device("meta" if built_there else "cpu"):
            model = GPT(config)
        model, ids = model.to("meta"), torch.zeros(2, 9, dtype=torch.long, device="meta")
        logits = model(ids)
        logits.sum().backward()
    assert logits.is_meta and all(parameter.grad.is_meta for parameter in model.parameters())
    assert all(buffer.is_meta for buffer in model.buffers())
