"""Appendix D, the block: small trainings, paired differences, and the mixture against its formula."""

import math
import statistics
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func

from appendix.d_architectures.experts import (
    MixtureOfExperts,
    active_parameters,
    balance_loss,
    dispatch,
    dropped_share,
    loss_with_balance,
    mixture_gpt,
    mixtures,
    route,
)
from appendix.d_architectures.trials import paired_difference, small_data, trial
from ch01_tokenization.corpus import load_plays, split_plays
from ch04_transformer.transformer import GPT, GPTConfig, SwiGLU, count_parameters
from ch05_training.config import TrainConfig
from ch05_training.step import summed_loss

CONFIG = GPTConfig(512, 32, d_model=32, n_heads=2, n_layers=2, activation="swiglu", d_ff=88, position="rope")
RECIPE = TrainConfig(steps=3, batch_size=4, max_lr=8e-3, warmup_steps=1, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def data():
    return small_data(context_length=32, n_held_out=4000)


# Trials


def test_a_trial_is_reproducible_bit_for_bit_and_its_seed_matters(data):
    one, again, other = (
        trial(lambda: GPT(CONFIG), replace(RECIPE, seed=seed), *data[1:]) for seed in (4, 4, 5)
    )
    assert (one.losses, one.held_out) == (again.losses, again.held_out)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), again.model.parameters()))
    assert one.losses[0] != other.losses[0] and one.held_out != other.held_out
    assert len(one.losses) == RECIPE.steps and one.seconds > 0


def test_two_models_of_one_seed_see_the_same_batches(data):
    seen = []

    def loss_of(model, inputs, targets, smoothing):
        seen.append(inputs)
        return summed_loss(model, inputs, targets, smoothing)

    for n_layers in (1, 2):
        trial(lambda n=n_layers: GPT(replace(CONFIG, n_layers=n)), RECIPE, *data[1:], loss_of)
    assert all(torch.equal(a, b) for a, b in zip(seen[:3], seen[3:]))
    assert not torch.equal(seen[0], seen[1])


def test_held_out_plays_are_never_in_training(data):
    tokenizer, train_data, held_out = data
    trained, pieces = (tokenizer.decode(part.token_ids.tolist()) for part in (train_data, held_out))
    _, plays = split_plays(load_plays())
    assert all(play[:4000] in pieces and play[:1000] not in trained for play in plays.values())
    lines = {line for line in pieces.splitlines() if len(line) > 40}
    assert sum(line in trained for line in lines) < 0.02 * len(lines) and len(lines) > 100
    assert small_data(context_length=32, n_held_out=4000)[1] is train_data


# Differences


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=10))
def test_paired_difference_is_its_formula(pairs):
    ours, baseline = zip(*pairs)
    found = paired_difference(ours, baseline)
    differences = [a - b for a, b in pairs]
    assert found.per_seed == differences
    assert math.isclose(found.mean, statistics.mean(differences), abs_tol=1e-12)
    assert math.isclose(found.sd, statistics.stdev(differences), abs_tol=1e-9)
    # the same, all baselines shifted: what the seeds share cancels
    shifted = paired_difference([a + 3 for a in ours], [b + 3 for b in baseline])
    assert math.isclose(shifted.half_width, found.half_width, abs_tol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_interval_covers_the_truth_in_95_of_100(n):
    draws = torch.randn(4000, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) + 7
    hits = 0
    for row in draws.tolist():
        found = paired_difference(row, [0.0] * n)
        hits += abs(found.mean - 7) <= found.half_width
    assert 0.935 < hits / 4000 < 0.965


def test_pairs_must_be_pairs():
    with pytest.raises(ValueError):
        paired_difference([1.0, 2.0], [1.0])
    for n in (0, 1, 11):
        with pytest.raises(ValueError, match=f"expected the losses of 2 to 10 seeds, got {n}"):
            paired_difference([1.0] * n, [2.0] * n)
    assert not paired_difference([5, 7, 9], [4, 5, 8]).tells
    assert paired_difference([5, 7, 9], [4, 6, 7.9]).tells


# The mixture


def densely(x, layer):
    """The formula, every expert on every token, the gates from the definition."""
    p = torch.softmax(x @ layer.router.weight.T, dim=-1)
    out = torch.zeros_like(x)
    for t, row in enumerate(p):
        best = sorted(range(len(row)), key=lambda i: -row[i].item())[: layer.top_k]
        total = sum(row[i] for i in best) if layer.renormalise else 1.0
        out[t] = sum(row[i] / total * layer.experts[i](x[t]) for i in best)
    return out


@pytest.mark.parametrize(
    "top_k, renormalise", [(1, False), (1, True), (2, True), (2, False), (3, True), (5, True)]
)
def test_equals_the_dense_formula_with_gradients(top_k, renormalise):
    layer = MixtureOfExperts(7, 11, n_experts=5, top_k=top_k, renormalise=renormalise).double()
    x = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    out, expected = layer(x), densely(x.flatten(0, 1), layer).view(3, 5, 7)
    assert torch.allclose(out, expected, atol=1e-13)
    direction, wanted = torch.randn_like(out), [x, *layer.parameters()]
    grads = (
        torch.autograd.grad((y * direction).sum(), wanted, materialize_grads=True) for y in (out, expected)
    )
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*grads))
    assert layer.load.sum() == 15 * top_k


@pytest.mark.parametrize("top_k, renormalise", [(1, False), (2, True)])
def test_gradcheck(top_k, renormalise):
    layer = MixtureOfExperts(3, 4, n_experts=4, top_k=top_k, renormalise=renormalise).double()
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()), eps=1e-7, atol=1e-5)


def test_equals_mixtral_with_copied_weights_and_gradients():
    E, k, D, F = 6, 2, 8, 12
    config = MixtralConfig(hidden_size=D, intermediate_size=F, num_local_experts=E, num_experts_per_tok=k)
    theirs, ours = MixtralSparseMoeBlock(config), MixtureOfExperts(D, F, E, k)
    with torch.no_grad():
        theirs.gate.weight.copy_(ours.router.weight)
        for i, expert in enumerate(ours.experts):
            theirs.experts.gate_up_proj[i] = torch.cat([expert.gate_proj.weight, expert.up_proj.weight])
            theirs.experts.down_proj[i] = expert.down_proj.weight
    x = torch.randn(2, 9, D, requires_grad=True)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    direction = torch.randn(2, 9, D)
    (ours(x) * direction).sum().backward()
    slope, x.grad = x.grad, None
    (theirs(x) * direction).sum().backward()
    assert torch.allclose(slope, x.grad, atol=1e-6)
    assert torch.allclose(ours.router.weight.grad, theirs.gate.weight.grad, atol=1e-5)
    for i, expert in enumerate(ours.experts):
        if expert.gate_proj.weight.grad is not None:
            both = torch.cat([expert.gate_proj.weight.grad, expert.up_proj.weight.grad])
            assert torch.allclose(both, theirs.experts.gate_up_proj.grad[i], atol=1e-5)
    balance = load_balancing_loss_func((ours.router(x).flatten(0, 1),), E, k)
    assert torch.allclose(balance, k * ours.balance_loss, atol=1e-5)


def test_gates_are_the_softmax_of_the_chosen_logits():
    logits = torch.randn(20, 7, dtype=torch.float64)
    p, gates, chosen = route(logits, 3)
    assert torch.allclose(gates, logits.topk(3).values.softmax(-1)) and torch.allclose(p, logits.softmax(-1))
    assert torch.equal(chosen, logits.topk(3).indices)
    assert torch.allclose(route(logits, 1, renormalise=False)[1], p.max(-1, keepdim=True).values)
    assert route(logits.bfloat16(), 2)[1].dtype == torch.float32


def test_an_expert_that_nobody_chose_neither_runs_nor_changes_anything():
    class Broken(nn.Module):
        def forward(self, x):
            raise AssertionError("nobody chose this expert")

    experts = [SwiGLU(4, 6), Broken(), SwiGLU(4, 6)]
    x, gates = torch.randn(3, 4), torch.tensor([[0.7, 0.3]] * 3)
    out = dispatch(x, experts, gates, torch.tensor([[2, 0]] * 3))
    assert torch.allclose(out, 0.7 * experts[2](x) + 0.3 * experts[0](x), atol=1e-6)
    with pytest.raises(AssertionError):
        dispatch(x, experts, gates, torch.tensor([[2, 0], [2, 1], [2, 0]]))


def test_one_token_and_autocast():
    layer = MixtureOfExperts(8, 6, n_experts=4, top_k=2)
    assert layer(torch.randn(1, 1, 8)).shape == (1, 1, 8)
    x = torch.randn(2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.float32 and torch.allclose(out, layer(x), atol=0.02)
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


# Balance


def test_balance_loss_is_its_formula_and_1_when_even():
    p = torch.rand(9, 4, dtype=torch.float64).softmax(-1)
    chosen = p.topk(2).indices
    f = [sum(row.count(i) for row in chosen.tolist()) / 18 for i in range(4)]
    expected = 4 * sum(f[i] * p[:, i].mean().item() for i in range(4))
    assert math.isclose(balance_loss(p, chosen).item(), expected, rel_tol=1e-12)
    even = torch.full((6, 3), 1 / 3)
    assert math.isclose(balance_loss(even, torch.tensor([[0], [1], [2]] * 2)).item(), 1, rel_tol=1e-6)
    one = torch.tensor([[1.0, 0, 0, 0]]).expand(5, 4)
    assert balance_loss(one, torch.zeros(5, 1, dtype=torch.int64)).item() == 4


def test_balance_gradient_is_the_written_one_and_goes_through_probabilities_alone():
    logits = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    p, gates, chosen = route(logits, 2)
    (slope,) = torch.autograd.grad(balance_loss(p, chosen), logits)
    f = chosen.flatten().bincount(minlength=5) / chosen.numel()
    written = 5 / 11 * p * (f - (p * f).sum(-1, keepdim=True))
    assert torch.allclose(slope, written, atol=1e-12) and slope.abs().max() > 1e-3
    # counts have no slope: with the probabilities held, nothing is left to differentiate
    assert not balance_loss(p.detach(), chosen).requires_grad


def test_balance_reaches_the_routers_of_every_layer_and_no_expert():
    torch.manual_seed(0)
    model = mixture_gpt(CONFIG, n_experts=4, top_k=2, d_ff=10)
    ids = torch.randint(512, (2, 9))
    model(ids[:, :-1])
    sum(layer.balance_loss for layer in mixtures(model)).backward()
    assert len(mixtures(model)) == 2
    assert all(layer.router.weight.grad.abs().max() > 0 for layer in mixtures(model))
    assert all(p.grad is None for p in mixtures(model)[1].experts.parameters())


def test_loss_with_balance_adds_weight_times_balance_for_each_target():
    model = mixture_gpt(CONFIG, n_experts=4, top_k=2, d_ff=10)
    ids = torch.randint(512, (2, 9))
    inputs, targets = ids[:, :-1], ids[:, 1:].clone()
    targets[0, :3] = -100
    plain = summed_loss(model, inputs, targets, 0.0)
    loss = loss_with_balance(model, inputs, targets, 0.0, weight=0.5)
    balance = sum(layer.balance_loss for layer in mixtures(model))
    assert torch.allclose(loss, plain + 0.5 * 13 * balance)
    assert torch.equal(loss_with_balance(model, inputs, targets, 0.0, weight=0), plain)


def test_dropped_share_by_counting():
    generator = torch.Generator().manual_seed(3)
    for factor in (0.5, 1.0, 1.25, 2.0):
        choices = torch.randint(6, (50,), generator=generator)
        room, dropped = [math.floor(factor * 50 / 6)] * 6, 0
        for expert in choices.tolist():
            dropped += room[expert] == 0
            room[expert] -= room[expert] > 0
        assert math.isclose(dropped_share(choices.bincount(minlength=6), factor), dropped / 50, rel_tol=1e-6)


def test_active_parameters_are_those_with_a_gradient_of_one_token():
    model = mixture_gpt(CONFIG, n_experts=8, top_k=2, d_ff=44)
    model(torch.tensor([[3]])).sum().backward()
    worked = sum(p.numel() for p in model.parameters() if p.grad is not None)
    assert worked == active_parameters(model) == count_parameters(GPT(CONFIG)) + 2 * 32 * 8
    assert count_parameters(model) == count_parameters(GPT(replace(CONFIG, d_ff=352))) + 2 * 32 * 8
    assert active_parameters(GPT(CONFIG)) == count_parameters(GPT(CONFIG))


def test_a_mixture_is_initialised_like_the_rest():
    model = mixture_gpt(CONFIG, n_experts=8, top_k=2, d_ff=44)
    expert = mixtures(model)[0].experts[3]
    assert 0.9 < expert.up_proj.weight.std() / CONFIG.weight_std < 1.1
    assert 0.9 < expert.down_proj.weight.std() / (CONFIG.weight_std / 2) < 1.1


# Headlines of the notebook, over seeds that it does not use


def test_without_a_balance_loss_few_experts_get_most_of_the_work(data):
    busiest = {}
    for weight in (0.0, 0.1):
        loads = []

        def loss_of(model, inputs, targets, smoothing, weight=weight, loads=loads):
            loss = loss_with_balance(model, inputs, targets, smoothing, weight)
            loads.append(mixtures(model)[-1].load)
            return loss

        recipe = replace(RECIPE, steps=50, batch_size=16, max_lr=2e-2, warmup_steps=10, seed=77)
        trial(lambda: mixture_gpt(CONFIG, n_experts=8, top_k=2, d_ff=44), recipe, *data[1:], loss_of)
        share = torch.stack(loads[-10:]).sum(dim=0).sort(descending=True).values
        busiest[weight] = (share[:2].sum() / share.sum()).item()
    assert busiest[0.0] > 0.5 > 0.4 > busiest[0.1]


def last_gradient(n_layers, norm_position, alike, data, seed=77):
    """Norm of the gradient at the last matrix of the last block, untrained."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(512, 32, d_model=32, n_heads=2, n_layers=n_layers, norm_position=norm_position))
    if alike:
        for block in model.blocks:
            for layer in (block.attention.out_proj, block.feed_forward.down_proj):
                layer.weight.data *= math.sqrt(2 * n_layers)
    summed_loss(model, *data[1].batch(0, 16, seed), 0.0).backward()
    return model.blocks[-1].feed_forward.down_proj.weight.grad.norm().item()


def test_the_last_gradient_falls_with_depth_in_pre_ln_alone_and_only_when_matrices_are_alike(data):
    fall = {
        (position, alike): last_gradient(2, position, alike, data) / last_gradient(24, position, alike, data)
        for position in ("pre", "post")
        for alike in (True, False)
    }
    assert fall["pre", True] > 1.8 > 1.2 > fall["post", True]
    assert all(0.6 < fall[position, False] < 1.6 for position in ("pre", "post"))


def test_six_layers_of_post_ln_learn_nothing_at_a_rate_that_trains_pre_ln(data):
    recipe = replace(RECIPE, steps=80, batch_size=8, max_lr=3e-2, warmup_steps=20, seed=77)
    pre, post = (
        trial(
            lambda position=position: GPT(GPTConfig(512, 32, 32, 2, 6, norm_position=position)),
            recipe,
            *data[1:],
        ).held_out
        for position in ("pre", "post")
    )
    assert post - pre > 0.05


def test_rotary_positions_learn_faster_than_a_table(data):
    recipe = replace(RECIPE, steps=80, batch_size=8, max_lr=1e-2, warmup_steps=10, seed=77)
    rotary, table = (
        trial(
            lambda position=position: GPT(GPTConfig(512, 32, 48, 4, 2, position=position)), recipe, *data[1:]
        ).held_out
        for position in ("rope", "learned")
    )
    assert table - rotary > 0.05
