"""Appendix E, second notebook: rounding in training, pruning of weights, heads and layers, distillation."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from appendix.d_architectures.trials import small_data
from appendix.e_compression.distillation import distillation_loss, summed_distillation
from appendix.e_compression.fake_quantization import (
    FakeQuantized,
    RoundThrough,
    fake_quantize,
    fake_quantized,
    least_error_scale,
    settle,
)
from appendix.e_compression.pruning import Masked, magnitude_mask, pruned, sparse_bytes
from appendix.e_compression.quantization import round_trip
from appendix.e_compression.quantized_layers import block_matrices, map_matrices, stored_bytes
from appendix.e_compression.structured_pruning import (
    gated_heads,
    gates_of,
    head_costs,
    head_importance,
    head_slopes,
    layer_costs,
    remove_heads,
    remove_layers,
    smaller_linear,
    window_losses,
)
from ch04_transformer.transformer import GPT, GPTConfig, count_parameters
from ch05_training.config import TrainConfig
from ch05_training.optimization import cross_entropy
from ch05_training.step import evaluate, train_step
from ch05_training.training import TrainState
from ch06_inference.generation import generate

KINDS = {
    "plain": {},
    "biases": {"bias": True},
    "llama": {"norm": "rmsnorm", "activation": "swiglu", "position": "rope"},
    "grouped": {"n_kv_heads": 2, "position": "rope", "bias": True},
    "one key head": {"n_kv_heads": 1},
    "eager": {"backend": "eager", "n_kv_heads": 2},
    "post": {"norm_position": "post"},
}


def small(**changes):
    """An untrained GPT in float64 whose weights are large enough to matter."""
    settings = dict(vocab_size=50, context_length=24, d_model=32, n_heads=4, n_layers=3, init_std=0.2)
    return GPT(GPTConfig(**settings | changes)).double().eval()


def text(B=3, T=12):
    ids = torch.randint(50, (B, T + 1))
    return ids[:, :-1], ids[:, 1:]


def fit(model, data, steps, lr=3e-3, seed=7, first=0, loss_of=None):
    """Train in place, 8 windows a step."""
    settings = TrainConfig(
        steps=steps, batch_size=8, max_lr=lr, min_lr=lr / 10, warmup_steps=3, seed=seed, device="cpu"
    )
    state = TrainState.start(model, settings)
    for step in range(first, first + steps):
        batch = data.batch(step, 8, seed)
        train_step(state, [batch], settings, *([loss_of(*batch)] if loss_of else []))
    return model


@pytest.fixture(scope="module")
def trained():
    """(training data, held-out data, a model of two layers trained from a seed the notebook has not)."""
    _, train_data, held_out = small_data(n_held_out=2000)
    torch.manual_seed(7)
    model = GPT(GPTConfig(vocab_size=512, context_length=64, d_model=32, n_heads=4, n_layers=2))
    return train_data, held_out, fit(model, train_data, 120, lr=1e-2).eval()


# ---------------------------------------------------------------- rounding in training


def test_the_gradient_of_rounding_is_zero_and_goes_straight_through_ours():
    x = torch.tensor([-1.5, -0.2, 0.5, 2.7], dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    assert torch.autograd.grad(x.round(), x, upstream)[0].count_nonzero() == 0
    assert torch.equal(torch.autograd.grad(RoundThrough.apply(x), x, upstream)[0], upstream)
    assert torch.equal(RoundThrough.apply(x), x.round())


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("rows, columns", [(1, 1), (5, 33), (17, 64)])
def test_fake_quantisation_equals_pytorch(bits, rows, columns):
    w = torch.randn(rows, columns, requires_grad=True)
    scale, upstream = torch.rand(rows, 1) * 0.5 + 0.05, torch.randn(rows, columns)
    top, zeros = 2 ** (bits - 1) - 1, torch.zeros(rows, dtype=torch.int32)
    ours = fake_quantize(w, scale, bits)
    theirs = torch.fake_quantize_per_channel_affine(w, scale.flatten(), zeros, 0, -top, top)
    assert torch.allclose(ours, theirs, atol=1e-6)
    ours, theirs = (torch.autograd.grad(result, w, upstream)[0] for result in (ours, theirs))
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_clipped_weight_has_no_gradient_and_the_edge_has_one():
    w = torch.tensor([[6.0, 6.9, 7.1, -6.9, -7.1]], requires_grad=True)  # scale 2, top 3: 7 rounds up to 4
    fake_quantize(w, torch.tensor([[2.0]]), 3).sum().backward()
    assert w.grad.tolist() == [[1, 1, 0, 1, 0]]


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_the_scale_of_least_error_is_no_worse_than_that_of_the_largest_weight(bits):
    w = torch.randn(20, 64)
    w[3], w[4, 0] = 0.0, 50.0  # a row of zeros, an outlier
    found = fake_quantize(w, least_error_scale(w, bits), bits)
    plain = round_trip(w, bits, symmetric=True)
    errors = [(result - w).square().sum(1) for result in (found, plain)]
    assert found.isfinite().all() and (found[3] == 0).all()
    assert (errors[0] <= errors[1] + 1e-5).all() and errors[0].sum() < errors[1].sum()


@pytest.mark.parametrize("bits", [4, 2])
def test_a_fake_quantised_model_has_few_values_a_row_also_after_training(bits, trained):
    train_data, _, model = trained
    before = copy.deepcopy(model.state_dict())
    aware = fake_quantized(model, bits)
    floats = [p.detach().clone() for p in aware.parameters()]
    fit(aware, train_data, 3)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all((old != new.detach()).any() for old, new in zip(floats, aware.parameters()))
    ids = train_data.token_ids[:20].unsqueeze(0)
    with torch.no_grad():
        logits, settled = aware(ids), settle(aware)
        assert settled is aware and torch.equal(settled(ids), logits)
    for layer in block_matrices(settled).values():
        assert not parametrize.is_parametrized(layer) and isinstance(layer.weight, nn.Parameter)
        assert max(len(row.unique()) for row in layer.weight) <= 2**bits - 1
    assert set(settled.state_dict()) == set(before)


@pytest.mark.parametrize("bits", [1, 0, 9, 16])
def test_bits_that_give_no_scale_are_refused(bits):
    with pytest.raises(ValueError, match="must be 2 to 8"):
        fake_quantized(small(), bits)


def test_settling_a_plain_model_changes_nothing():
    model = small()
    before = copy.deepcopy(model.state_dict())
    assert all(torch.equal(before[name], value) for name, value in settle(model).state_dict().items())


def test_a_weight_learns_through_the_rounding():
    layer = nn.Linear(8, 8, bias=False)
    parametrize.register_parametrization(layer, "weight", FakeQuantized(layer.weight, 3))
    x, goal = torch.randn(64, 8), torch.randn(8, 8) * 0.2
    losses = []
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.2)
    for _ in range(100):
        loss = (layer(x) - x @ goal.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_training_with_two_bits_beats_rounding_afterwards(trained):
    train_data, held_out, model = trained
    longer = fit(copy.deepcopy(model), train_data, 40, first=120)
    after = evaluate(fake_quantized(longer, 2), held_out)["loss"]
    aware = evaluate(fit(fake_quantized(model, 2), train_data, 40, first=120), held_out)["loss"]
    careless = map_matrices(longer, lambda w: round_trip(w, 2, symmetric=True))
    assert aware < after - 0.01
    assert after < evaluate(careless, held_out)["loss"] - 0.03


# ---------------------------------------------------------------- zeros


@pytest.mark.parametrize("shape", [(7,), (5, 9), (16, 16)])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.99, 1.0])
def test_the_mask_drops_the_smallest(shape, sparsity):
    w = torch.randn(shape)
    mask = magnitude_mask(w, sparsity)
    assert mask.dtype == torch.bool and mask.shape == w.shape
    assert (~mask).sum() == round(sparsity * w.numel())
    if 0 < mask.sum() < w.numel():
        assert w[mask].abs().min() >= w[~mask].abs().max()


def test_equal_weights_are_counted_out_exactly():
    assert magnitude_mask(torch.ones(10), 0.3).sum() == 7
    assert magnitude_mask(torch.zeros(4, 4), 0.5).sum() == 8


@pytest.mark.parametrize("sparsity", [-0.5, 1.01, 50, float("nan")])
def test_a_share_that_is_none_is_refused(sparsity):
    with pytest.raises(ValueError, match="50 % is 0.5"):
        magnitude_mask(torch.ones(10), sparsity)


@pytest.mark.parametrize("together", [False, True])
def test_zeros_stay_zeros_in_training(together, trained):
    train_data, _, model = trained
    sparse = pruned(model, 0.6, together)
    zeros = [layer.weight == 0 for layer in block_matrices(sparse).values()]
    shares = torch.tensor([zero.float().mean() for zero in zeros])
    counts = torch.tensor([zero.numel() for zero in zeros])
    assert (shares * counts).sum() / counts.sum() == pytest.approx(0.6, abs=1e-3)
    assert (shares.std() > 0.02) == together  # each matrix gives the same share, or its own
    old = [layer.weight.detach().clone() for layer in block_matrices(sparse).values()]
    fit(sparse, train_data, 3)
    for zero, before, layer in zip(zeros, old, block_matrices(settle(sparse)).values()):
        assert (layer.weight[zero] == 0).all() and (layer.weight[~zero] != before[~zero]).any()


def test_a_mask_cuts_the_gradient():
    w = torch.ones(2, 2, requires_grad=True)
    Masked(torch.tensor([[True, False], [False, True]]))(w).sum().backward()
    assert w.grad.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("bits", [32, 16])
def test_sparse_bytes_by_hand(bits):
    model = small(n_layers=1).float()
    weights = sum(layer.weight.numel() for layer in block_matrices(model).values())
    rest = 4 * (count_parameters(model) - weights)
    assert stored_bytes(model) == rest + 4 * weights
    half = settle(pruned(model, 0.5))
    assert sparse_bytes(half, bits) == rest + weights // 8 + bits // 8 * weights // 2


def test_a_short_training_repairs_and_together_is_worse(trained):
    train_data, held_out, model = trained
    full = evaluate(model, held_out)["loss"]
    each, together = (evaluate(pruned(model, 0.9, way), held_out)["loss"] for way in (False, True))
    repaired = evaluate(fit(pruned(model, 0.9), train_data, 30, first=120), held_out)["loss"]
    assert full + 0.05 < each < together and repaired < each - 0.05


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize("kind", KINDS)
def test_removed_heads_equal_gates_of_zero(kind):
    model, (inputs, _) = small(**KINDS[kind]), text()
    heads = [(0, 0), (2, 1)] if model.config.kv_heads > 1 else []
    heads += [(2, 3), (2, 0)] if model.config.kv_heads == 4 else []
    before = model(inputs)
    with gated_heads(model, gates_of(model, heads)):
        masked = model(inputs)
    assert torch.equal(model(inputs), before)  # the gates are gone
    smaller = remove_heads(model, heads)
    assert torch.allclose(smaller(inputs), masked, atol=1e-11)
    assert not heads or not torch.allclose(masked, before, atol=1e-3)
    c = model.config
    unit = c.d_model * (2 * c.n_heads // c.kv_heads + 2) * (c.d_model // c.n_heads)  # weights of a unit
    biases = (c.n_heads // c.kv_heads + 2) * (c.d_model // c.n_heads) * c.bias
    assert count_parameters(model) - count_parameters(smaller) == len(heads) * (unit + biases)
    assert torch.equal(model(inputs), before)  # the model itself was not touched


def test_a_model_with_fewer_heads_generates_with_its_cache():
    model = remove_heads(small(**KINDS["grouped"]), [(1, 0)])
    ids = torch.randint(50, (1, 5))
    runs = [generate(model, ids, 10, temperature=0.0, use_cache=cache) for cache in (True, False)]
    assert torch.equal(*runs)


def test_heads_that_are_not_there_and_a_layer_without_any_are_refused():
    model = small(**KINDS["grouped"])
    for heads in ([(0, 2)], [(3, 0)], [(0, -1)]):
        with pytest.raises(ValueError, match=r"no heads \[\(.*counted from 0"):
            remove_heads(model, heads)
    with pytest.raises(ValueError, match="layer 1 would have no heads left"):
        remove_heads(model, [(1, 0), (1, 1)])


def test_gates_that_do_not_fit_the_heads_are_refused():
    """Two heads left of four: four gates would have been halves of heads, in silence."""
    even = remove_heads(small(), [(layer, head) for layer in range(3) for head in (0, 2)])
    uneven = remove_heads(small(), [(1, 0)])
    for model in (even, uneven, remove_layers(small(), [0])):
        with pytest.raises(ValueError, match="do not fit layers"), gated_heads(model, torch.ones(1, 3, 4)):
            pass
    with pytest.raises(ValueError, match="do not fit layers"):
        head_costs(even, *text())


def test_gates_are_taken_away_when_something_fails():
    model, (inputs, _) = small(), text()
    before = model(inputs)
    with pytest.raises(RuntimeError), gated_heads(model, gates_of(model, [(0, 0)])):
        raise RuntimeError
    assert torch.equal(model(inputs), before)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_a_smaller_linear_is_the_large_one_in_part(dim, bias):
    linear, kept = nn.Linear(6, 5, bias=bias).double(), torch.tensor([3, 0, 4])
    small_one, x = smaller_linear(linear, dim, kept), torch.randn(2, 6, dtype=torch.float64)
    if dim == 0:
        assert torch.allclose(small_one(x), linear(x)[:, kept])
        return
    others = torch.zeros_like(x)
    others[:, kept] = x[:, kept]
    assert torch.allclose(small_one(x[:, kept]), linear(others))


@pytest.mark.parametrize("kind", ["plain", "grouped", "llama"])
def test_slopes_are_those_of_finite_differences(kind):
    model, (inputs, targets) = small(**KINDS[kind]), text()
    slopes, step = head_slopes(model, inputs, targets), 1e-5
    assert slopes.shape == (3, 3, model.config.kv_heads)
    for place in ((0, 0), (1, 1), (2, 0)):
        losses = []
        for change in (step, -step):
            gates = gates_of(model)
            gates[(0, *place)] += change
            with gated_heads(model, gates), torch.no_grad():
                logits = model(inputs)
            losses.append(torch.stack([cross_entropy(*row) for row in zip(logits, targets)]))
        assert torch.allclose(slopes[:, *place], (losses[0] - losses[1]) / (2 * step), atol=1e-7)
    assert torch.equal(head_importance(model, inputs, targets), slopes.abs().mean(0))


@pytest.mark.parametrize("kind", ["plain", "grouped"])
def test_head_costs_are_the_losses_without_each_head(kind):
    model, (inputs, targets) = small(**KINDS[kind]), text()
    costs = head_costs(model, inputs, targets)
    before = cross_entropy(model(inputs), targets)
    for layer, head in ((0, 0), (1, 1), (2, 0)):
        without = cross_entropy(remove_heads(model, [(layer, head)])(inputs), targets)
        assert costs[layer, head] == pytest.approx((without - before).item(), abs=1e-10)


def test_importance_and_cost_agree_and_find_heads_that_say_little(trained):
    train_data, _, model = trained
    inputs, targets = train_data.batch(900, 8)
    costs, importance = head_costs(model, inputs, targets), head_importance(model, inputs, targets)
    assert torch.corrcoef(torch.stack([costs.flatten(), importance.flatten()]))[0, 1] > 0.3
    quiet = copy.deepcopy(model)
    for block in quiet.blocks:
        block.attention.out_proj.weight.data[:, 8:16] *= 1e-3  # the second head of four
        block.attention.out_proj.weight.data[:, 16:24] = 0.0  # the third
    for scores in (head_costs(quiet, inputs, targets).abs(), head_importance(quiet, inputs, targets)):
        assert (scores[:, 2] < 1e-6).all() and (scores[:, 1] < 0.1 * scores[:, [0, 3]].amax(dim=1)).all()


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gone", [[0], [1, 2], []])
def test_removed_layers_equal_blocks_that_are_passed_by(kind, gone):
    model, (inputs, _) = small(**KINDS[kind]), text()
    smaller = remove_layers(model, gone)
    x, cos_sin = model.embed(inputs)
    for number, block in enumerate(model.blocks):
        x = x if number in gone else block(x, cos_sin=cos_sin)
    assert torch.allclose(smaller(inputs), model.lm_head(model.norm(x)), atol=1e-12)
    assert smaller.config.n_layers == len(smaller.blocks) == 3 - len(gone) and len(model.blocks) == 3
    smaller.embedding.token.weight.data.zero_()
    assert model.embedding.token.weight.count_nonzero() > 0  # a copy
    fresh = GPT(smaller.config).double()
    fresh.load_state_dict(smaller.state_dict())  # an ordinary GPT


def test_layers_that_are_not_there_and_all_of_them_are_refused():
    for layers in ([3], [-1], [0, 5]):
        with pytest.raises(ValueError, match="no layers .* it has 0 to 2"):
            remove_layers(small(), layers)
    with pytest.raises(ValueError, match="n_layers"):
        remove_layers(small(), [0, 1, 2])


@pytest.mark.parametrize("kind", ["plain", "grouped", "llama"])
def test_layer_costs_are_the_losses_without_each(kind):
    model, (inputs, targets) = small(**KINDS[kind]), text()
    costs, influence = layer_costs(model, inputs, targets)
    before = cross_entropy(model(inputs), targets)
    assert costs.shape == (3, 3) and influence.shape == (3,)
    for layer in range(3):
        without = cross_entropy(remove_layers(model, [layer])(inputs), targets)
        assert costs[layer].mean().item() == pytest.approx((without - before).item(), abs=1e-10)
    assert window_losses(model, model.embed(inputs)[0], targets).shape == (3,)


def test_a_block_that_does_nothing_has_no_influence_and_no_cost():
    model, (inputs, targets) = small(), text()
    for name in ("attention.out_proj", "feed_forward.down_proj"):
        model.blocks[1].get_submodule(name).weight.data.zero_()
    costs, influence = layer_costs(model, inputs, targets)
    assert costs[1].abs().max() < 1e-12 and influence[1].abs() < 1e-12
    assert influence[0] > 1e-3 and influence[2] > 1e-3


# ---------------------------------------------------------------- distillation


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
@pytest.mark.parametrize("shape", [(1, 4), (6, 10), (2, 5, 9)])
def test_the_loss_equals_kl_div_times_the_square(temperature, shape):
    student, teacher = (torch.randn(shape, dtype=torch.float64) * 2 for _ in range(2))
    log_q = (student / temperature).log_softmax(-1).flatten(0, -2)
    p = (teacher / temperature).softmax(-1).flatten(0, -2)
    theirs = F.kl_div(log_q, p, reduction="batchmean") * temperature**2
    assert distillation_loss(student, teacher, temperature).item() == pytest.approx(theirs.item(), abs=1e-12)
    assert distillation_loss(teacher, teacher, temperature).abs() < 1e-12


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_gradient_of_the_loss(temperature):
    student, teacher = (torch.randn(5, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda s, t: distillation_loss(s, t, temperature), (student, teacher))
    (gradient,) = torch.autograd.grad(distillation_loss(student, teacher, temperature), student)
    q, p = ((logits / temperature).softmax(-1) for logits in (student, teacher))
    assert torch.allclose(gradient, temperature * (q - p) / 5, atol=1e-12)


def test_a_teacher_that_is_certain_is_the_text():
    student, targets = torch.randn(7, 9, dtype=torch.float64), torch.randint(9, (7,))
    certain = torch.full((7, 9), -1000.0, dtype=torch.float64)
    certain[torch.arange(7), targets] = 1000.0
    assert distillation_loss(student, certain).item() == pytest.approx(
        cross_entropy(student, targets).item(), abs=1e-10
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_mixture_is_summed_over_tokens(share):
    model, (inputs, targets) = small(), text()
    teacher_logits = torch.randn(3, 12, 50, dtype=torch.float64)
    options = dict(teacher_logits=teacher_logits, temperature=2.0, share=share)
    logits = model(inputs)
    mean = share * distillation_loss(logits, teacher_logits, 2.0) + (1 - share) * cross_entropy(
        logits, targets
    )
    ours = summed_distillation(model, inputs, targets, 0.0, **options)
    assert ours.item() == pytest.approx(36 * mean.item(), rel=1e-10)


def test_a_student_learns_more_from_a_teacher(trained):
    train_data, held_out, teacher = trained
    config = GPTConfig(vocab_size=512, context_length=64, d_model=24, n_heads=4, n_layers=2)

    def taught(inputs, targets):
        with torch.no_grad():
            logits = teacher(inputs)
        return lambda *batch: summed_distillation(*batch, teacher_logits=logits, temperature=1.0, share=1.0)

    losses = []
    for loss_of in (None, taught):
        torch.manual_seed(8)
        losses.append(evaluate(fit(GPT(config), train_data, 50, lr=1e-2, loss_of=loss_of), held_out)["loss"])
    assert losses[1] < losses[0] - 0.03
