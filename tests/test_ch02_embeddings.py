"""Chapter 2: embeddings and positions equal their references, and nothing goes wrong in silence."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from ch02_embeddings.embeddings import (
    InputEmbedding,
    LearnedPositionalEmbedding,
    RotaryEmbedding,
    SinusoidalPositionalEncoding,
    TokenEmbedding,
    angles_at,
    sinusoids,
)
from ch02_embeddings.rotation import rotate

LAYOUTS = pytest.mark.parametrize("interleaved", [True, False])
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
HALVES = pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])


def to_half_split(dim):
    """The documented permutation: even places first, then odd ones."""
    return torch.cat([torch.arange(0, dim, 2), torch.arange(1, dim, 2)])


def rotated_by_loops(x, positions, theta, interleaved):
    """The formula, one pair and one position at a time: x (T, d), positions a list -> (T, d) float64."""
    T, d = x.shape
    out = torch.zeros(T, d, dtype=torch.float64)
    for t, i in itertools.product(range(T), range(d // 2)):
        angle = positions[t] / theta ** (2 * i / d)
        first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + d // 2)
        a, b = x[t, first].item(), x[t, second].item()
        out[t, first] = a * math.cos(angle) - b * math.sin(angle)
        out[t, second] = a * math.sin(angle) + b * math.cos(angle)
    return out


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(7,), (2, 7), (2, 3, 5), (1, 1), (0,)])
def test_token_embedding_equals_pytorch_and_one_hot(dtype, shape):
    ours, theirs = TokenEmbedding(50, 16).to(dtype), nn.Embedding(50, 16, dtype=dtype)
    theirs.weight.data.copy_(ours.weight.data)
    product = ours.weight.detach().clone().requires_grad_()
    ids, direction = torch.randint(50, shape), torch.randn(*shape, 16, dtype=dtype)
    outputs = [ours(ids), theirs(ids), nn.functional.one_hot(ids, 50).to(dtype) @ product]
    for output in outputs:
        assert output.dtype == dtype and output.shape == (*shape, 16)
        assert torch.allclose(outputs[0], output, rtol=0, atol=TOLERANCE[dtype])
        (output * direction).sum().backward()
    for gradient in (theirs.weight.grad, product.grad):
        assert torch.allclose(ours.weight.grad, gradient, rtol=0, atol=10 * TOLERANCE[dtype])


def test_only_rows_that_were_looked_up_get_a_gradient_and_repeats_add_up():
    embedding = TokenEmbedding(4, 3)
    embedding(torch.tensor([2, 0, 2])).sum().backward()
    assert embedding.weight.grad.tolist() == [[1.0] * 3, [0.0] * 3, [2.0] * 3, [0.0] * 3]


def test_rows_start_small():
    torch.manual_seed(1)
    for weight in (TokenEmbedding(500, 64).weight, LearnedPositionalEmbedding(500, 64).weight):
        assert abs(weight.std().item() - 0.02) < 0.001 and abs(weight.mean().item()) < 0.001


def test_int32_ids_are_ids():
    embedding, ids = TokenEmbedding(50, 16), torch.randint(50, (3, 4))
    assert torch.equal(embedding(ids.int()), embedding(ids))


# ---------------------------------------------------------------- why positions


def attend(x):
    weights = 2.0 ** (x @ x.T)
    return (weights @ x) / weights.sum(dim=1, keepdim=True)


def test_attention_without_positions_cannot_tell_orders_apart():
    sentence = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    for order in map(list, itertools.permutations(range(3))):
        assert torch.equal(attend(sentence[order]), attend(sentence)[order])
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    assert not torch.allclose(attend(sentence + places)[1], attend(sentence.flip(0) + places)[1])


# ---------------------------------------------------------------- sinusoidal


@pytest.mark.parametrize("d_model", [2, 4, 64, 130])
@pytest.mark.parametrize("p", [0, 1, 17, 99, 100, 5000, 123_456])
def test_sinusoids_equal_the_formula_at_any_position(d_model, p):
    formula = [f(p / 10000 ** (2 * i / d_model)) for i in range(d_model // 2) for f in (math.sin, math.cos)]
    ours = sinusoids(torch.tensor([p]), d_model)
    assert ours.dtype == torch.float64 and ours.shape == (1, d_model)
    # one rounding of an angle of 123,456 radians: 1e-11
    assert (ours[0] - torch.tensor(formula, dtype=torch.float64)).abs().max() < 1e-9


@pytest.mark.parametrize("d_model", [2, 64, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_sinusoidal_table_is_the_formula_rounded_once(d_model, dtype):
    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        encoding = SinusoidalPositionalEncoding(d_model, 100)
    finally:
        torch.set_default_dtype(usual)
    exact = sinusoids(torch.arange(100), d_model)
    assert torch.equal(encoding(torch.arange(100)), exact.to(dtype))
    longer = SinusoidalPositionalEncoding(d_model, 200)  # a longer table begins with the same rows
    assert torch.equal(longer(torch.arange(100)), exact.float())


def test_sinusoidal_has_no_state_and_takes_any_shape():
    encoding = SinusoidalPositionalEncoding(64, 200)
    assert not list(encoding.parameters()) and not encoding.state_dict()
    for shape in ((6,), (2, 3), (2, 3, 1), (0,)):
        positions = torch.randint(200, shape)
        assert encoding(positions).shape == (*shape, 64)
        assert torch.equal(encoding(positions.int()), encoding(positions))


def test_sinusoidal_dot_products_depend_on_the_distance_only():
    vectors = sinusoids(torch.arange(200), 32)
    products = vectors @ vectors.T
    for distance in (0, 1, 10, 150):
        diagonal = products.diagonal(distance)
        formula = sum(math.cos(distance / 10000 ** (2 * i / 32)) for i in range(16))
        assert (diagonal - formula).abs().max() < 1e-10


@HALVES
def test_sinusoidal_in_half_precision_keeps_positions_apart(half):
    """Angles in half precision put two positions at the same place; rounded sines do not."""
    positions = torch.tensor([3, 257, 258, 259, 4999])
    exact = sinusoids(positions, 64)
    for module in (
        SinusoidalPositionalEncoding(64, 5000).to(half),
        InputEmbedding(5, 64, 5000, "sinusoidal").to(half).position,
    ):
        ours = module(positions)
        assert ours.dtype == half
        assert ((ours.double() - exact).abs() <= 0.51 * torch.finfo(half).eps * exact.abs() + 1e-7).all()
        assert len({tuple(row) for row in ours.tolist()}) == len(positions)


# ---------------------------------------------------------------- learned


def test_learned_positions_end():
    table = LearnedPositionalEmbedding(8, 4)
    assert torch.equal(table(torch.arange(8)), table.weight)
    assert torch.equal(table(torch.tensor([[7, 0], [1, 1]])), table.weight[torch.tensor([[7, 0], [1, 1]])])
    with pytest.raises(IndexError):
        table(torch.arange(9))


# ---------------------------------------------------------------- rotary


@LAYOUTS
@pytest.mark.parametrize("theta", [100.0, 10000.0, 500000.0])
@pytest.mark.parametrize("dim", [2, 6, 64])
def test_rotary_equals_the_formula(dim, theta, interleaved):
    rope, positions = RotaryEmbedding(dim, 3000, theta, interleaved), [0, 1, 5, 511, 2999]
    x = torch.randn(5, dim, dtype=torch.float64)
    formula = rotated_by_loops(x, positions, theta, interleaved)
    assert (rope(x, torch.tensor(positions)) - formula).abs().max() < 1e-11
    in_single = rope(x.float(), torch.tensor(positions))
    assert in_single.dtype == torch.float32 and (in_single.double() - formula).abs().max() < 4e-6


@given(
    st.integers(1, 40), st.floats(2.0, 1e6), st.booleans(),
    st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 10**6),
)  # fmt: skip
def test_rotary_scores_depend_on_the_distance_only(pairs, theta, interleaved, p, r, shift, seed):
    rope = RotaryEmbedding(2 * pairs, 4001, theta, interleaved)
    q, k = torch.randn(2, 1, 2 * pairs, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def score(p_q, p_k):
        return (rope(q, torch.tensor([p_q])) * rope(k, torch.tensor([p_k]))).sum().item()

    assert abs(score(p, r) - score(p + shift, r + shift)) < 1e-10


@given(st.integers(1, 20), st.booleans(), st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 10**6))
def test_two_turns_are_one_by_their_sum(pairs, interleaved, p, r, seed):
    rope = RotaryEmbedding(2 * pairs, 2001, interleaved=interleaved)
    x = torch.randn(3, 2 * pairs, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    p, r = torch.tensor([p] * 3), torch.tensor([r] * 3)
    assert (rope(rope(x, p), r) - rope(x, p + r)).abs().max() < 1e-11


@LAYOUTS
def test_rotary_scores_are_constant_along_diagonals_and_change_across(interleaved):
    rope, place = RotaryEmbedding(16, 64, interleaved=interleaved), torch.arange(64)
    q, k = torch.randn(2, 16, dtype=torch.float64)
    scores = rope(q.expand(64, 16), place) @ rope(k.expand(64, 16), place).T
    for offset in range(-63, 64):
        assert scores.diagonal(offset).max() - scores.diagonal(offset).min() < 1e-12
    assert abs(scores[0, 0] - q @ k) < 1e-12  # at the same place, as if not turned
    assert abs(scores[5, 0] - scores[0, 5]) > 1e-3  # before is not after
    assert abs(scores[5, 0] - scores[6, 0]) > 1e-3


@LAYOUTS
def test_rotary_keeps_lengths_and_position_0(interleaved):
    rope, x = RotaryEmbedding(16, 64, interleaved=interleaved), torch.randn(3, 8, 16, dtype=torch.float64)
    turned = rope(x, torch.arange(50, 58))
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), rtol=0, atol=1e-12)
    assert torch.equal(rope(x, torch.zeros(8, dtype=torch.long)), x)


@pytest.mark.parametrize("theta", [10000.0, 100000.0])
@pytest.mark.parametrize("start", [0, 1, 100])
@pytest.mark.parametrize("shape", [(2, 4, 9, 16), (1, 3, 1, 64), (3, 1, 30, 8)])
def test_rotary_equals_llama(shape, start, theta):
    # guards against: rotary layouts mixed up
    """transformers' own rotation: half-split directly, interleaved through the permutation."""
    B, _, T, d = shape
    q, k = torch.randn(2, *shape, dtype=torch.float64)
    positions, order = torch.arange(start, start + T), to_half_split(d)
    angles = torch.outer(positions.double(), theta ** (-torch.arange(0, d, 2).double() / d)).repeat(1, 2)
    half, interleaved = (RotaryEmbedding(d, 200, theta, layout) for layout in (False, True))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 4e-6)):
        cos, sin = (f(angles).to(dtype).expand(B, T, d) for f in (torch.cos, torch.sin))
        for x, theirs in zip((q, k), apply_rotary_pos_emb(q.to(dtype), k.to(dtype), cos, sin)):
            x = x.to(dtype)
            assert torch.allclose(half(x, positions), theirs, rtol=0, atol=tolerance)
            mine = torch.empty_like(x)
            mine[..., order] = x  # half-split weights, in the places of the interleaved layout
            assert torch.allclose(interleaved(mine, positions)[..., order], theirs, rtol=0, atol=tolerance)
    if start:
        assert (interleaved(q, positions) - half(q, positions)).abs().max() > 0.1  # position 0 would hide it


def test_rotary_equals_llama_with_its_own_tables():
    """Their angles are float32 whatever the dtype, so the tolerance is that of an angle of 500 radians."""
    config = LlamaConfig(hidden_size=64, num_attention_heads=2, max_position_embeddings=600)
    positions = torch.stack([torch.arange(10), torch.arange(500, 510)])  # batched: another start in each row
    q, k = torch.randn(2, 2, 10, 32), torch.randn(2, 2, 10, 32)
    cos, sin = LlamaRotaryEmbedding(config)(q, positions)
    rope = RotaryEmbedding(32, 600, interleaved=False)
    for x, theirs in zip((q, k), apply_rotary_pos_emb(q, k, cos, sin)):
        assert torch.allclose(rope(x, positions), theirs, rtol=0, atol=3e-4)


def test_permuting_the_rows_of_the_matrices_converts_a_model():
    """W_q and W_k with their rows permuted make half-split scores equal interleaved ones."""
    x, positions, order = torch.randn(6, 12, dtype=torch.float64), torch.arange(30, 36), to_half_split(8)
    w_q, w_k = torch.randn(2, 8, 12, dtype=torch.float64)
    interleaved, half = RotaryEmbedding(8, 64), RotaryEmbedding(8, 64, interleaved=False)
    scores = interleaved(x @ w_q.T, positions) @ interleaved(x @ w_k.T, positions).T
    converted = half(x @ w_q[order].T, positions) @ half(x @ w_k[order].T, positions).T
    assert torch.allclose(scores, converted, rtol=0, atol=1e-12)
    mixed_up = half(x @ w_q.T, positions) @ half(x @ w_k.T, positions).T
    assert (scores - mixed_up).abs().max() > 0.1


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rotary_takes_positions_for_each_row(interleaved, dtype):
    rope, x = RotaryEmbedding(8, 64, interleaved=interleaved), torch.randn(2, 3, 5, 8).to(dtype)
    positions = torch.stack([torch.arange(5), torch.arange(7, 12)])
    both = rope(x, positions)
    assert both.dtype == dtype and both.shape == x.shape
    for row in range(2):
        assert torch.equal(both[row], rope(x[row], positions[row]))
    assert torch.equal(rope(x, positions[:1]), rope(x, positions[0]))  # (1, T): the same for all rows


@LAYOUTS
def test_rotary_in_any_memory_layout(interleaved):
    """Transposed, sliced at odd places, or with odd strides: the same numbers as a plain copy."""
    rope, positions = RotaryEmbedding(8, 64, interleaved=interleaved), torch.arange(20, 25)
    views = [
        torch.randn(2, 5, 3, 8).transpose(1, 2),
        torch.randn(2, 3, 5, 9)[..., 1:],
        torch.randn(2, 3, 5, 11)[..., 2:10],
        torch.randn(2, 3, 8, 5).transpose(2, 3),
        torch.randn(1 + 2 * 3 * 5 * 8)[1:].view(2, 3, 5, 8),
        torch.randn(1, 1, 1, 8).expand(2, 3, 5, 8),
    ]
    for view in views:
        plain = view.clone(memory_format=torch.contiguous_format)
        assert torch.allclose(rope(view, positions), rope(plain, positions), rtol=0, atol=1e-6)
    assert rope(torch.randn(2, 0, 8), torch.arange(0)).shape == (2, 0, 8)


@LAYOUTS
def test_rotary_gradients(interleaved):
    rope, positions = RotaryEmbedding(6, 64, interleaved=interleaved), torch.arange(9, 13)
    x = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rope(x, positions), x)
    y = torch.randn(2, 4, 6, requires_grad=True)
    rope(y, positions).pow(3).sum().backward()
    exact = y.detach().double().requires_grad_()
    rope(exact, positions).pow(3).sum().backward()
    assert torch.allclose(y.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", ["side by side", "apart", "begins at an odd place"])
def test_the_fast_rotation_equals_the_formula_in_values_and_gradients(dtype, layout):
    angles = 50 * torch.rand(7, 5, dtype=torch.float64)
    cos_sin = torch.stack([angles.cos(), angles.sin()], dim=-1).to(dtype)  # (7, 5, 2)
    shape, to_pairs = {
        "side by side": ((3, 7, 5, 2), lambda x: x),
        "apart": ((3, 7, 2, 5), lambda x: x.transpose(-2, -1)),
        "begins at an odd place": ((3, 7, 5, 3), lambda x: x[..., 1:]),
    }[layout]
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    pairs = to_pairs(x)
    (a, b), (cos, sin) = pairs.unbind(-1), cos_sin.unbind(-1)
    formula = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)
    fast, wish = rotate(pairs, cos_sin), torch.randn(3, 7, 5, 2, dtype=dtype)
    assert fast.dtype == dtype and torch.allclose(fast, formula, rtol=0, atol=TOLERANCE[dtype])
    gradients = [torch.autograd.grad((y * wish).sum(), x, retain_graph=True)[0] for y in (fast, formula)]
    assert torch.allclose(*gradients, rtol=0, atol=TOLERANCE[dtype])


@LAYOUTS
def test_the_real_formula_that_a_compiler_gets_is_the_same(interleaved, monkeypatch):
    rope, positions = RotaryEmbedding(16, 64, interleaved=interleaved), torch.arange(40, 50)
    x = torch.randn(2, 3, 10, 16, dtype=torch.float64)
    eager = rope(x, positions)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.allclose(rope(x, positions), eager, rtol=0, atol=1e-14)
    assert torch.equal(
        rotate(torch.tensor([[2.0, 1.0]]), torch.tensor([[0.0, 1.0]])), torch.tensor([[-1.0, 2.0]])
    )


@LAYOUTS
def test_rotary_compiles_in_one_graph(interleaved):
    rope, x = RotaryEmbedding(8, 64, interleaved=interleaved), torch.randn(2, 3, 5, 8)
    compiled = torch.compile(rope, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x, torch.arange(5)), rope(x, torch.arange(5)), rtol=0, atol=1e-6)
    half = torch.compile(rope.bfloat16(), backend="aot_eager", fullgraph=True)
    y = x.bfloat16()
    assert torch.allclose(half(y, torch.arange(5)), rope(y, torch.arange(5)), rtol=0, atol=2**-7)


@LAYOUTS
@HALVES
def test_half_precision_modules_keep_their_angles(half, interleaved):
    """`.half()` on a model must not round its angles; small positions would hide it."""
    holder = nn.Sequential(nn.Linear(2, 2), RotaryEmbedding(64, 4096, interleaved=interleaved))
    exact = RotaryEmbedding(64, 4096, interleaved=interleaved)
    positions, x = torch.arange(3000, 3020), torch.randn(2, 20, 64)
    for cast in (
        lambda m: m.to(half),
        lambda m: m.to(half).float(),
        lambda m: m.double(),
        lambda m: m.to("cpu", half),
    ):
        rope = cast(copy.deepcopy(holder))[1]
        assert torch.equal(rope.table, exact.table)
        assert torch.equal(rope.cos_sin(positions), exact.cos_sin(positions))
    rope = holder.to(half)[1]
    assert holder[0].weight.dtype == half
    assert torch.equal(rope(x, positions), exact(x, positions))
    turned = rope(x.to(half), positions)
    assert turned.dtype == half
    # Computed in float32 and rounded once: at most half a step of the format, 2^-9 or 2^-12 of the number.
    wanted = exact(x.to(half).double(), positions)
    assert (
        (turned.double() - wanted).abs() <= torch.finfo(half).eps * (0.51 * wanted.abs() + 1e-5) + 1e-6
    ).all()


@LAYOUTS
def test_float64_is_exact_whatever_the_module_is(interleaved):
    x, positions = torch.randn(4, 16, dtype=torch.float64), torch.tensor([1, 77, 1023, 2047])
    formula = rotated_by_loops(x, positions.tolist(), 10000.0, interleaved)
    for cast in ("float", "double", "bfloat16"):
        rope = getattr(RotaryEmbedding(16, 2048, interleaved=interleaved), cast)()
        assert (rope(x, positions) - formula).abs().max() < 1e-12


@LAYOUTS
def test_float32_numbers_turned_by_float64_angles_are_rounded_once(interleaved):
    rope = RotaryEmbedding(16, 2048, interleaved=interleaved)
    x, positions = torch.randn(4, 16), torch.arange(900, 904)
    turned = rope.rotate(x, rope.cos_sin(positions, torch.float64))
    assert torch.equal(turned, rope(x.double(), positions).float())


def test_tables_are_no_part_of_the_state_and_can_be_built_without_memory():
    for module in (RotaryEmbedding(8, 16), SinusoidalPositionalEncoding(8, 16)):
        assert not module.state_dict() and not list(module.parameters())
        for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert torch.equal(twin.table, module.table)
    with torch.device("meta"):
        front, rope = InputEmbedding(10, 8, 16, "sinusoidal"), RotaryEmbedding(8, 16)
        assert rope(torch.empty(2, 5, 8), torch.arange(5)).shape == (2, 5, 8)
    assert front.token.weight.is_meta and rope.table.is_meta


def test_angles_are_float64():
    angles = angles_at(torch.tensor([[3, 1_000_000]]), 4)
    assert angles.dtype == torch.float64
    assert torch.allclose(
        angles, torch.tensor([[[3, 0.03], [1e6, 1e4]]], dtype=torch.float64), rtol=1e-14, atol=0
    )
    slow, slower = (angles_at(torch.tensor(1), 64, theta)[-1] for theta in (10_000.0, 500_000.0))
    assert slower < slow / 40  # a larger base makes the slowest hand slower


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_angles_looked_up_once_stand_in_for_positions(interleaved, dtype):
    rope, x = RotaryEmbedding(8, 64, interleaved=interleaved), torch.randn(2, 3, 5, 8).to(dtype)
    for positions, shape in ((torch.arange(20, 25), (5, 4, 2)), (torch.randint(64, (2, 5)), (2, 1, 5, 4, 2))):
        cos_sin = rope.cos_sin(positions, dtype)
        assert cos_sin.shape == shape
        assert cos_sin.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(rope.rotate(x, cos_sin), rope(x, positions))
        angles = angles_at(positions, 8).reshape(*shape[:-1])
        exact = torch.stack([angles.cos(), angles.sin()], dim=-1)
        assert (cos_sin - exact).abs().max() <= (0 if dtype == torch.float64 else 6e-8)


# ---------------------------------------------------------------- the input layer


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rope"])
def test_input_embedding_is_token_plus_position(position):
    front, ids, positions = (
        InputEmbedding(10, 8, 16, position),
        torch.tensor([[3, 3], [1, 0]]),
        torch.arange(5, 7),
    )
    scale = math.sqrt(8) if position == "sinusoidal" else 1
    added = 0 if position == "rope" else front.position(positions)
    assert torch.equal(front(ids, positions), front.token(ids) * scale + added)
    rows = torch.stack([positions, positions + 3])  # (B, T)
    x = front(ids, rows)
    for row in range(2):
        assert torch.equal(x[row], front(ids[row], rows[row]))
    assert torch.equal(front(ids, positions)[0, 0], front(ids, positions)[0, 1]) == (position == "rope")


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rope"])
@pytest.mark.parametrize("dropout", [0.0, 0.25, 0.5])
def test_dropout_is_on_in_training_and_off_in_evaluation(position, dropout):
    # guards against: dropout that stays on in evaluation, or never comes back
    front, ids = InputEmbedding(10, 64, 16, position, dropout), torch.randint(10, (40, 16))
    plain = InputEmbedding(10, 64, 16, position)
    plain.load_state_dict(front.state_dict())
    clean = plain(ids, torch.arange(16))
    for _ in range(2):  # switching back and forth, twice
        front.train()
        x, y = front(ids, torch.arange(16)), front(ids, torch.arange(16))
        assert torch.equal(x, y) == (dropout == 0)
        assert abs(((x == 0) & (clean != 0)).float().mean().item() - dropout) < 0.02
        assert torch.allclose(x[x != 0], (clean / (1 - dropout))[x != 0])
        front.eval()
        assert torch.equal(front(ids, torch.arange(16)), clean)


@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
def test_token_by_token_equals_the_whole(position):
    # guards against: positions that restart with a cache
    front, ids = InputEmbedding(10, 8, 16, position), torch.randint(10, (2, 6))
    whole = front(ids, torch.arange(6))
    pieces = [front(ids[:, p : p + 1], torch.tensor([p])) for p in range(6)]
    assert torch.equal(torch.cat(pieces, dim=1), whole)
    restarted = [front(ids[:, p : p + 1], torch.tensor([0])) for p in range(6)]
    assert not torch.allclose(torch.cat(restarted, dim=1), whole)


@LAYOUTS
def test_rotating_token_by_token_equals_the_whole(interleaved):
    # guards against: positions that restart with a cache
    rope, x = RotaryEmbedding(8, 64, interleaved=interleaved), torch.randn(2, 3, 6, 8)
    whole = rope(x, torch.arange(10, 16))
    pieces = [rope(x[:, :, p : p + 1], torch.tensor([10 + p])) for p in range(6)]
    assert torch.allclose(torch.cat(pieces, dim=2), whole, rtol=0, atol=1e-6)
    assert not torch.allclose(rope(x, torch.arange(6)), whole)


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rope"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_input_embedding_follows_its_dtype(position, dtype):
    front = InputEmbedding(10, 8, 16, position).to(dtype)
    assert front(torch.tensor([[1, 2]]), torch.arange(2)).dtype == dtype
    assert front(torch.tensor([[1, 2]]), torch.tensor([14, 15])).dtype == dtype


def test_sharing_is_identity_and_a_copy_is_not():
    # guards against: weight tying that copies
    def step(table, output):
        output(table(torch.tensor([3, 7]))).square().sum().backward()
        torch.optim.SGD({id(p): p for p in (table.weight, output.weight)}.values(), lr=1.0).step()

    table, output = TokenEmbedding(50, 16), nn.Linear(16, 50, bias=False)
    assert sum(p.numel() for p in nn.ModuleList([table, output]).parameters()) == 2 * 50 * 16
    output.weight = table.weight
    assert output.weight is table.weight
    assert sum(p.numel() for p in nn.ModuleList([table, output]).parameters()) == 50 * 16
    step(table, output)
    assert table.weight.grad.any(dim=1).all()  # the output touches every row
    assert torch.equal(output.weight, table.weight)
    table, output = TokenEmbedding(50, 16), nn.Linear(16, 50, bias=False)
    output.weight.data.copy_(table.weight.data)
    step(table, output)
    assert not torch.equal(output.weight, table.weight)


# ---------------------------------------------------------------- what would be wrong in silence


@pytest.mark.parametrize("wrong", [50, -1])
def test_an_index_out_of_range(wrong):
    """Each table ends, at both ends, whatever is looked up in it; no negative index counts from the end."""
    ids, x = torch.tensor([3, wrong]), torch.randn(2, 8)
    for call in (
        lambda: TokenEmbedding(50, 16)(ids),
        lambda: LearnedPositionalEmbedding(50, 16)(ids),
        lambda: SinusoidalPositionalEncoding(16, 50)(ids),
        lambda: RotaryEmbedding(8, 50)(x, ids),
        lambda: RotaryEmbedding(8, 50)(x.double(), ids),
        lambda: RotaryEmbedding(8, 50)(x.bfloat16(), ids),
    ):
        with pytest.raises(IndexError):
            call()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RotaryEmbedding(7, 16), "an even number of dimensions and a base above 1, got 7"),
        (lambda: SinusoidalPositionalEncoding(7, 16), "an even number of dimensions"),
        (lambda: RotaryEmbedding(8, 16, theta=0.0), "a base above 1, got 8 and 0.0"),
        (lambda: RotaryEmbedding(8, 16, True), "a base above 1, got 8 and True"),  # meant for interleaved
        (lambda: RotaryEmbedding(8, 16, theta=math.nan), "a base above 1, got 8 and nan"),
    ],
)
def test_what_would_be_wrong_in_silence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("x", "positions"),
    [((5, 8), (1,)), ((1, 8), (4,)), ((2, 3, 5, 8), (2, 1)), ((5, 2), (5,)), ((5, 16), (5,)), ((5, 8), ())],
)
def test_angles_must_fit(x, positions):
    """PyTorch would stretch one position over many tokens, or one token over many positions."""
    with pytest.raises(ValueError, match=r"expected cos_sin\(positions, x.dtype\), a position for each of T"):
        RotaryEmbedding(8, 64)(torch.randn(x), torch.zeros(positions, dtype=torch.long))


def test_angles_must_be_as_precise_as_x():
    rope = RotaryEmbedding(8, 64)
    with pytest.raises(ValueError, match="got .* torch.float32 for x .* torch.float64"):
        rope.rotate(torch.randn(5, 8, dtype=torch.float64), rope.cos_sin(torch.arange(5)))


@pytest.mark.parametrize(
    ("x", "positions"),
    [((1, 3, 5, 8), (3, 5)), ((2, 3, 5, 8), (3, 5)), ((2, 5, 8), (2, 5))],
)
def test_a_turn_does_not_change_the_shape(x, positions):
    """Positions for other batches: PyTorch itself refuses, since the result is written in x's shape."""
    with pytest.raises(RuntimeError, match="shape|size"):
        RotaryEmbedding(8, 64)(torch.randn(x), torch.zeros(positions, dtype=torch.long))


@pytest.mark.parametrize("x", [torch.arange(8).view(1, 8), torch.ones(1, 8, dtype=torch.bool)])
def test_whole_numbers_are_not_turned(x):
    """The result would be cut to whole numbers."""
    with pytest.raises(TypeError, match="floating point"):
        RotaryEmbedding(8, 64)(x, torch.tensor([3]))


def test_a_layout_has_no_other_name():
    with pytest.raises(KeyError, match="half-split"):
        RotaryEmbedding(8, 16, interleaved="half-split")(torch.randn(1, 8), torch.tensor([3]))


@pytest.mark.parametrize("positions", [(1,), (1, 3), (2, 1), ()])
def test_one_position_for_each_token(positions):
    with pytest.raises(ValueError, match=r"expected one position for each token, got .* for \(2, 3\)"):
        InputEmbedding(10, 8, 16)(
            torch.zeros(2, 3, dtype=torch.long), torch.zeros(positions, dtype=torch.long)
        )


def test_an_unknown_kind_of_position():
    with pytest.raises(KeyError, match="alibi"):
        InputEmbedding(10, 8, 16, "alibi")
