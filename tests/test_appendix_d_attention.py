"""Appendix D, attention: longer texts than trained on, and multi-head latent attention."""

import math

import pytest
import torch
from torch.nn.functional import linear
from transformers import DeepseekV2Config, LlamaConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import (
    DeepseekV2Attention,
    DeepseekV2RotaryEmbedding,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from appendix.d_architectures.extending import (
    InterpolatedRotary,
    longer_rope,
    ntk_theta,
    stretched,
    with_longer_context,
)
from appendix.d_architectures.latent import (
    LatentAttention,
    LatentCache,
    LatentLayer,
    latent_cache_bytes,
    latent_gpt,
    replace_attention,
)
from appendix.d_architectures.trials import small_data, trial
from ch02_embeddings.embeddings import RotaryEmbedding, angles_at
from ch03_attention.attention import MultiHeadAttention, causal_mask
from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.config import TrainConfig
from ch06_inference.generation import generate


def small(**changes):
    """A small GPTConfig with fields changed."""
    sizes = dict(vocab_size=61, context_length=16, d_model=24, n_heads=3, n_layers=2, position="rope")
    return GPTConfig(**sizes | changes)


def ids(B, T, seed=0):
    return torch.randint(61, (B, T), generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- longer texts


def llama_rope(method, head_dim, trained, longer, theta):
    """The angles' cosines and sines of transformers, (longer, head_dim / 2) each."""
    kind = {"none": "default", "interpolate": "linear", "ntk": "dynamic"}[method]
    # dynamic: transformers' base at a length s times the trained one is theta * (factor * s - (factor - 1))
    # ** (d / (d - 2)); with factor 1 that is the base of ntk_theta
    parameters = {"rope_type": kind, "rope_theta": theta}
    if kind != "default":
        parameters["factor"] = longer / trained if kind == "linear" else 1.0
    config = LlamaConfig(
        hidden_size=head_dim, num_attention_heads=1, head_dim=head_dim,
        max_position_embeddings=trained, rope_parameters=parameters,
    )  # fmt: skip
    rope = LlamaRotaryEmbedding(config)
    cos, sin = rope(torch.zeros(1), torch.arange(longer).unsqueeze(0))
    return cos[0, :, : head_dim // 2], sin[0, :, : head_dim // 2]


@pytest.mark.parametrize("method", ["none", "interpolate", "ntk"])
@pytest.mark.parametrize(
    ("head_dim", "trained", "longer", "theta"), [(16, 32, 128, 10000.0), (6, 12, 30, 500.0)]
)
def test_angles_equal_transformers(method, head_dim, trained, longer, theta):
    rope = longer_rope(RotaryEmbedding(head_dim, trained, theta), longer, method, longer / trained)
    cos, sin = rope.cos_sin(torch.arange(longer)).unbind(-1)
    expected = llama_rope(method, head_dim, trained, longer, theta)
    assert torch.allclose(cos, expected[0], atol=1e-5) and torch.allclose(sin, expected[1], atol=1e-5)


def test_interpolated_angles_are_those_of_fractions():
    rope = InterpolatedRotary(RotaryEmbedding(8, 4, 100.0, interleaved=False), 12, 3)
    assert rope.max_len == 12 and rope.theta == 100.0 and not rope.interleaved
    expected = angles_at(torch.arange(12) / 3, 8, 100.0)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        cos, sin = rope.cos_sin(torch.arange(12), dtype).unbind(-1)
        assert cos.dtype == dtype
        assert torch.allclose(cos.double(), expected.cos(), atol=tolerance)
        assert torch.allclose(sin.double(), expected.sin(), atol=tolerance)


@pytest.mark.parametrize("head_dim", [4, 16, 64])
def test_ntk_slows_the_slowest_hand_by_the_factor_and_the_fastest_not(head_dim):
    one = torch.ones(())
    before, after = (angles_at(one, head_dim, base) for base in (1e4, ntk_theta(1e4, head_dim, 4.0)))
    assert before[0] == after[0]
    assert math.isclose(before[-1] / after[-1], 4.0, rel_tol=1e-9)
    assert ((before / after).diff() > 0).all()  # those between, by something between


def test_stretched_reads_between_the_rows():
    table = torch.tensor([[0.0], [10.0], [30.0]])
    assert stretched(table, 6).flatten().tolist() == [0, 5, 10, 20, 30, 30]
    assert torch.equal(stretched(table, 3), table)


@pytest.mark.parametrize(
    ("position", "method"),
    [("rope", "none"), ("sinusoidal", "none"), ("learned", "none"), ("rope", "ntk"), ("rope", "interpolate"),
     ("learned", "interpolate")],
)  # fmt: skip
def test_with_longer_context(position, method):
    torch.manual_seed(0)
    model = GPT(small(position=position, context_length=8, n_heads=2)).eval()
    longer = with_longer_context(model, 16, method)
    assert longer.config.context_length == 16 and not longer.training
    assert longer(ids(2, 16)).shape == (2, 16, 61)
    short = ids(2, 8)
    same = torch.allclose(longer(short), model(short), atol=1e-5)
    assert same == (method == "none")  # only then do the first positions mean what they meant
    for name, weight in model.state_dict().items():
        if name != "embedding.position.weight":
            assert torch.equal(longer.state_dict()[name], weight)
    if position == "rope":
        assert all(block.attention.rope is longer.rope for block in longer.blocks)
    assert model(short).shape == (2, 8, 61)  # the model itself is as it was
    assert model.config.context_length == 8


def test_interpolation_equals_the_model_at_every_other_position():
    """Twice the length, interpolated: token p of a text sits where position p / 2 was."""
    torch.manual_seed(0)
    model = GPT(small(context_length=8)).double().eval()
    longer = with_longer_context(model, 16, "interpolate")
    token_ids = ids(1, 8)
    stepped = longer(token_ids, positions=torch.arange(0, 16, 2))
    assert torch.allclose(stepped, model(token_ids), atol=1e-10)


def test_stretching_in_two_steps_equals_stretching_at_once():
    """By 2 and by 2 again is by 4, and what is interpolated stays so (the first factor was lost)."""
    torch.manual_seed(0)
    model, token_ids = GPT(small(context_length=8)).eval(), ids(1, 32)
    for method in ("interpolate", "ntk"):
        twice = with_longer_context(with_longer_context(model, 16, method), 32, method)
        once = with_longer_context(model, 32, method)
        assert torch.allclose(twice(token_ids), once(token_ids), atol=1e-5)
        again = with_longer_context(once, 64)
        assert torch.allclose(again(token_ids), once(token_ids), atol=1e-5)


def test_an_unknown_method_is_refused():
    model = GPT(small(position="learned"))
    with pytest.raises(ValueError, match="method='ntk'.*'learned'.*none, interpolate"):
        with_longer_context(model, 32, "ntk")


# ---------------------------------------------------------------- latent attention


def latent_layer(D=20, H=3, d=6, c=10, r=4, max_len=32, seed=0):
    torch.manual_seed(seed)
    layer = LatentAttention(D, H, d, c, RotaryEmbedding(r, max_len)).double()
    torch.nn.init.normal_(layer.norm.weight, mean=1.0, std=0.2)
    return layer


def by_the_formula(layer, x):
    """Equations 9 to 19 of DeepSeek-V2, head by head and token by token."""
    H, d, c, r = layer.n_heads, layer.head_dim, layer.latent_dim, layer.rope.head_dim
    T = len(x)  # x (T, D): one text

    def turned(vector, position):
        angles = angles_at(torch.tensor(position), r)
        a, b = vector.view(-1, 2).unbind(-1)
        pairs = (a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos())
        return torch.stack(pairs, -1).flatten()

    down, rope_part = layer.kv_down.weight.split([c, r])
    latents = [linear(h, down) for h in x]
    latents = [u / (u.pow(2).mean() + layer.norm.eps).sqrt() * layer.norm.weight for u in latents]
    shared = [turned(linear(x[t], rope_part), t) for t in range(T)]
    outputs = []
    for t in range(T):
        heads = []
        for head in range(H):
            rows = slice(head * d, (head + 1) * d)
            query = linear(x[t], layer.q_proj.weight[head * (d + r) : (head + 1) * (d + r)])
            query = torch.cat([query[:d], turned(query[d:], t)])
            keys = [torch.cat([linear(latents[j], layer.k_up.weight[rows]), shared[j]]) for j in range(t + 1)]
            values = [linear(latents[j], layer.v_up.weight[rows]) for j in range(t + 1)]
            weights = torch.stack([query @ key for key in keys]).div(math.sqrt(d + r)).softmax(0)
            heads.append(weights @ torch.stack(values))
        outputs.append(linear(torch.cat(heads), layer.out_proj.weight))
    return torch.stack(outputs)


def test_latent_attention_equals_the_formula():
    layer, x = latent_layer(), torch.randn(2, 7, 20, dtype=torch.float64)
    expected = torch.stack([by_the_formula(layer, text) for text in x])
    assert torch.allclose(layer(x), expected, atol=1e-12)


def test_its_gradients_equal_the_formula_s():
    layer, x = latent_layer(), torch.randn(1, 5, 20, dtype=torch.float64, requires_grad=True)
    upstream, inputs = torch.randn(1, 5, 20, dtype=torch.float64), [x, *layer.parameters()]
    found = torch.autograd.grad(layer(x), inputs, upstream)
    expected = torch.autograd.grad(by_the_formula(layer, x[0])[None], inputs, upstream)
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("chunks", [[1] * 9, [9], [4, 1, 3, 1]])
@pytest.mark.parametrize("sizes", [{}, dict(d=4, c=16, r=2), dict(H=1, c=3)])
def test_the_absorbed_form_equals_the_training_form(chunks, sizes):
    layer, x = latent_layer(**sizes), torch.randn(2, 9, 20, dtype=torch.float64)
    cache = LatentLayer(12)
    with torch.no_grad():
        parts = [layer(part, cache=cache) for part in x.split(chunks, dim=1)]
        assert torch.allclose(torch.cat(parts, dim=1), layer(x), atol=1e-12)
    assert cache.length == 9 and cache.rows.shape == (2, 12, layer.latent_dim + layer.rope.head_dim)


def test_the_absorbed_form_makes_no_keys_or_values(monkeypatch):
    layer, x = latent_layer(), torch.randn(1, 3, 20, dtype=torch.float64)
    monkeypatch.setattr(layer, "keys_and_values", None)
    layer.k_up.forward = layer.v_up.forward = None
    assert layer(x, cache=LatentLayer(3)).shape == x.shape


def test_a_mask_replaces_the_causal_one():
    layer, x = latent_layer(), torch.randn(1, 6, 20, dtype=torch.float64)
    mask = causal_mask(6).tril().triu(-1)[None, None]
    assert torch.allclose(layer(x, mask), layer(x, mask, cache=LatentLayer(6)), atol=1e-12)
    assert not torch.allclose(layer(x, mask), layer(x))


@pytest.mark.parametrize(("c", "r", "d"), [(12, 4, 6), (8, 8, 8), (14, 4, 10)])
def test_it_equals_deepseek_v2(c, r, d):
    D, H, T = 24, 3, 9
    config = DeepseekV2Config(
        hidden_size=D, num_attention_heads=H, num_key_value_heads=H, q_lora_rank=None, kv_lora_rank=c,
        qk_rope_head_dim=r, qk_nope_head_dim=d, v_head_dim=d, head_dim=r, max_position_embeddings=32,
        attention_dropout=0.0, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    theirs = DeepseekV2Attention(config, layer_idx=0)
    ours = LatentAttention(D, H, d, c, RotaryEmbedding(r, 32))
    k_and_v = theirs.kv_b_proj.weight.view(H, 2 * d, c)
    with torch.no_grad():
        torch.nn.init.normal_(theirs.kv_a_layernorm.weight, mean=1.0, std=0.2)
        for own, copied in (
            (ours.q_proj.weight, theirs.q_proj.weight),
            (ours.kv_down.weight, theirs.kv_a_proj_with_mqa.weight),
            (ours.norm.weight, theirs.kv_a_layernorm.weight),
            (ours.k_up.weight, k_and_v[:, :d].flatten(0, 1)),
            (ours.v_up.weight, k_and_v[:, d:].flatten(0, 1)),
            (ours.out_proj.weight, theirs.o_proj.weight),
        ):
            own.copy_(copied)
    x = torch.randn(2, T, D)
    turns = DeepseekV2RotaryEmbedding(config)(x, torch.arange(T).unsqueeze(0))
    hidden = torch.zeros(T, T).masked_fill(~causal_mask(T), -math.inf)[None, None]
    expected = theirs(x, attention_mask=hidden, position_embeddings=turns)[0]
    assert torch.allclose(ours(x), expected, atol=1e-5)
    assert torch.allclose(ours(x, cache=LatentLayer(T)), expected, atol=1e-5)


@pytest.mark.parametrize("rope_dim", [4, 8])
def test_a_gpt_with_latent_attention(rope_dim):
    torch.manual_seed(0)
    config = small()
    model = latent_gpt(config, latent_dim=8, rope_dim=rope_dim).double().eval()
    assert all(isinstance(block.attention, LatentAttention) for block in model.blocks)
    token_ids, cache = ids(2, 11), LatentCache(config)
    with torch.no_grad():
        whole = model(token_ids)
        parts = [model(part, cache) for part in token_ids.split([5, 1, 1, 4], dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-10)
    assert cache.length == 11
    n_bytes = sum(layer.rows.nbytes for layer in cache.layers)  # room for context_length
    assert n_bytes == latent_cache_bytes(config, 8, rope_dim, 2, 16, torch.float64)
    changed = token_ids.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 61
    assert torch.allclose(model(changed)[:, :6], whole[:, :6], atol=1e-12)  # causal
    assert not torch.allclose(model(changed)[:, 6:], whole[:, 6:])


def test_its_weights_are_drawn_as_the_gpt_s():
    torch.manual_seed(0)
    config = GPTConfig(61, 16, d_model=64, n_heads=4, n_layers=2, position="rope")
    attention = latent_gpt(config, 32, 8).blocks[0].attention
    for name in ("q_proj", "kv_down", "k_up", "v_up"):
        assert math.isclose(getattr(attention, name).weight.std().item(), config.weight_std, rel_tol=0.1)
    assert math.isclose(attention.out_proj.weight.std().item(), config.weight_std / 2, rel_tol=0.1)
    assert torch.equal(attention.norm.weight, torch.ones(32))


def test_replace_attention_gets_the_layer_that_was_there():
    model, seen = GPT(small()), []
    old = [block.attention for block in model.blocks]
    assert replace_attention(model, lambda layer: seen.append(layer) or layer) is model
    assert seen == old and isinstance(old[0], MultiHeadAttention)


def test_greedy_generation_with_the_latent_cache():
    """Token by token with the cache: the tokens that the model without one chooses."""
    torch.manual_seed(1)
    model = latent_gpt(small(), 8, 4).double().eval()
    expected = generate(model, ids(1, 3), 8, temperature=0, use_cache=False)
    cache, token_ids, fresh = LatentCache(model.config), ids(1, 3), ids(1, 3)
    with torch.no_grad():
        for _ in range(8):
            fresh = model(fresh, cache)[:, -1].argmax(-1, keepdim=True)
            token_ids = torch.cat([token_ids, fresh], dim=1)
    assert torch.equal(token_ids, expected)


# ---------------------------------------------------------------- what the notebook measured, another seed


def loss_by_place(model, data, T):
    """Mean held-out loss at each of T places, (T,)."""
    n = (len(data.token_ids) - 1) // T
    inputs, targets = (data.token_ids[first : first + n * T].view(n, T) for first in (0, 1))
    with torch.no_grad():
        log_p = model.eval()(inputs).log_softmax(-1)
    return -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1).mean(0)


def test_beyond_the_trained_length_the_loss_rises():
    """Rotary a little, learned positions with fresh rows more; interpolated rows do not jump."""
    tokenizer, train_data, held_out = small_data(context_length=32)
    rise = {}
    for position in ("rope", "learned"):
        config = GPTConfig(tokenizer.n_vocab, 32, d_model=32, n_heads=2, n_layers=2, position=position)
        recipe = TrainConfig(steps=200, batch_size=16, max_lr=1e-2, warmup_steps=20, device="cpu", seed=11)
        model = trial(lambda c=config: GPT(c), recipe, train_data, held_out).model
        for method in ("none", "interpolate"):
            losses = loss_by_place(with_longer_context(model, 128, method), held_out, 128)
            rise[position, method] = (losses[64:].mean() - losses[:32].mean()).item()
    assert rise["learned", "none"] > 0.08 and rise["rope", "none"] > 0.02
    assert rise["learned", "interpolate"] < rise["learned", "none"] - 0.05


@pytest.mark.parametrize("kind", ["multi-query", "latent"])
def test_fewer_keys_and_values_learn(kind):
    """They train, far below a uniform guess; which is better is for three seeds to say, and they cannot."""
    tokenizer, train_data, held_out = small_data(context_length=32)
    config = GPTConfig(
        tokenizer.n_vocab, 32, d_model=32, n_heads=4, n_layers=2, position="rope", n_kv_heads=1
    )
    make = {"multi-query": lambda: GPT(config), "latent": lambda: latent_gpt(config, 12, 4)}[kind]
    recipe = TrainConfig(steps=60, batch_size=16, max_lr=1e-2, warmup_steps=10, device="cpu", seed=11)
    assert trial(make, recipe, train_data, held_out).held_out < math.log(tokenizer.n_vocab) - 1
