"""Chapter 5: data, loss, AdamW, schedule, clipping, precision and devices equal their references."""

import contextlib
import copy
import hashlib
import math
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training import machines
from ch05_training.baselines import baseline_losses, bigram_losses
from ch05_training.config import check_compiler, why_not_compiled
from ch05_training.data import TokenDataset
from ch05_training.fused_loss import fused_cross_entropy
from ch05_training.machines import mps_agrees, pick_device, practice_run
from ch05_training.optimization import (
    AdamW,
    bits_per_byte,
    clip_grad_norm_,
    cross_entropy,
    parameter_groups,
    perplexity,
    pick_precision,
    warmup_cosine,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def data():
    return TokenDataset(torch.randint(50, (400,)), 16, n_bytes=900)


def small(**changes):
    """A small GPTConfig with fields changed."""
    sizes = dict(vocab_size=50, context_length=16, d_model=32, n_heads=2, n_layers=2)
    return GPTConfig(**sizes | changes)


# ---------------------------------------------------------------- loss


BOTH = pytest.mark.parametrize("ours", [cross_entropy, fused_cross_entropy])


@BOTH
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ignored", [-100, 3])
# guards against: ignored targets that reach the loss
def test_cross_entropy_equals_pytorch(ours, smoothing, reduction, ignored):
    logits = (torch.randn(4, 6, 10) * 20).requires_grad_()
    targets = torch.randint(10, (4, 6))
    targets[0, :4] = ignored
    options = {"label_smoothing": smoothing, "ignore_index": ignored, "reduction": reduction}
    losses = (
        ours(logits, targets, **options),
        F.cross_entropy(logits.flatten(0, 1), targets.flatten(), **options),
    )
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    assert torch.allclose(*losses, rtol=1e-5, atol=1e-6)
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-6)


@BOTH
@pytest.mark.parametrize("shape", [(10,), (1, 10), (2, 3, 4, 10), (0, 10)])
def test_cross_entropy_takes_any_shape(ours, shape):
    logits, targets = torch.randn(shape).double(), torch.randint(10, shape[:-1])
    expected = F.cross_entropy(logits.reshape(-1, 10), targets.reshape(-1), reduction="sum")
    found = ours(logits, targets, reduction="sum")
    assert torch.allclose(found, expected, atol=1e-12) and found.dtype == torch.float64


@BOTH
# guards against: ignored targets that reach the loss
def test_cross_entropy_with_nothing_to_count_is_zero(ours):
    logits = torch.randn(3, 10, requires_grad=True)
    loss = ours(logits, torch.full((3,), -100), 0.1)
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cross_entropy_of_16_bit_logits_is_computed_in_32(ours, dtype):
    """Inside autocast too, whose log_softmax stays in 16 bits on a CPU."""
    logits, targets = torch.randn(8, 4000).to(dtype), torch.randint(4000, (8,))
    for on in (False, True):
        with torch.autocast("cpu", dtype, enabled=on):
            loss = ours(logits, targets)
        assert loss.dtype == torch.float32 and torch.equal(loss, ours(logits.float(), targets))


def test_perplexity_and_bits_per_byte():
    assert perplexity(math.log(8)) == pytest.approx(8) and perplexity(1e6) == math.inf
    assert bits_per_byte(10 * math.log(2), 5) == pytest.approx(2)


def brute_force_bigram(seen, asked, vocab_size, prior):
    total = 0.0
    for a, b in zip(asked, asked[1:]):
        p_b = (seen.count(b) + 1) / (len(seen) + vocab_size)
        n_ab = sum(pair == (a, b) for pair in zip(seen, seen[1:]))
        total -= math.log((n_ab + prior * p_b) / (seen[:-1].count(a) + prior))
    return total / (len(asked) - 1)


@pytest.mark.parametrize("prior", [1, 10, 1000])
def test_bigram_equals_brute_force(prior):
    generator = torch.Generator().manual_seed(0)
    seen, asked = (torch.randint(5, (n,), generator=generator) for n in (60, 20))
    expected = brute_force_bigram(seen.tolist(), asked.tolist(), 6, prior)
    assert bigram_losses(seen, asked, 6, [prior])[prior] == pytest.approx(expected, rel=1e-5)


def test_baselines_by_hand():
    train = TokenDataset(torch.tensor([0, 1, 0, 1, 0, 2, 0, 1]), 2)
    val = TokenDataset(torch.tensor([0, 1, 0, 2, 1]), 2)
    result = baseline_losses(train, val, 4)
    p = [5 / 12, 4 / 12, 2 / 12, 1 / 12]  # counts 4, 3, 1, 0, each plus one
    assert result["uniform"] == pytest.approx(math.log(4))
    assert result["unigram"] == pytest.approx(-sum(math.log(p[b]) for b in (1, 0, 2, 1)) / 4)
    # counted in the first six, the pair (0, 1) at the end is likely: the fewer virtual counts the better
    assert result["bigram"] == pytest.approx(
        brute_force_bigram([0, 1, 0, 1, 0, 2, 0, 1], [0, 1, 0, 2, 1], 4, 1)
    )


def test_the_prior_is_chosen_on_training_text_alone():
    """Two texts whose best priors differ: whole numbers in order for training, noise held out."""
    order = torch.arange(400) % 10
    noise = torch.randint(10, (200,), generator=torch.Generator().manual_seed(0))
    train, val = TokenDataset(order, 8), TokenDataset(noise, 8)
    expected = bigram_losses(order, noise, 10, [1, 1000])
    assert expected[1000] < expected[1] == baseline_losses(train, val, 10)["bigram"]


def test_the_bigram_is_tuned_on_the_plays(plays, tokenizer):
    train = TokenDataset.from_texts([plays["hamlet"], plays["king-lear"]], tokenizer, 16)
    val = TokenDataset.from_texts([plays["macbeth"]], tokenizer, 16)
    V = tokenizer.n_vocab
    tried = bigram_losses(train.token_ids, val.token_ids, V, (1, 3, 10, 30, 100, 300, 1000))
    found = baseline_losses(train, val, V)["bigram"]
    assert found < tried[1] - 0.1 and found < min(tried.values()) + 0.05


def test_baselines_are_ordered_on_the_plays(plays, tokenizer):
    train = TokenDataset.from_texts([plays["hamlet"]], tokenizer, 16)
    val = TokenDataset.from_texts([plays["macbeth"]], tokenizer, 16)
    values = baseline_losses(train, val, tokenizer.n_vocab)
    assert values["uniform"] > values["unigram"] + 0.3 > values["bigram"] + 0.6


# ---------------------------------------------------------------- optimizer, schedule, clipping


@BOTH
@pytest.mark.parametrize(("logits", "targets"), [((3, 5), (2,)), ((2, 3, 5), (3, 2))])
def test_logits_that_do_not_fit_their_targets_are_refused(ours, logits, targets):
    """Without the check both give a number: of the first rows, or of a transposed batch."""
    with pytest.raises(ValueError, match=r"logits \(.*, 5\) do not fit targets \("):
        ours(torch.zeros(logits), torch.zeros(targets, dtype=torch.long))


def test_one_text_is_not_a_list_of_letters(tokenizer):
    with pytest.raises(ValueError, match=r"expected a list of texts, got a str; write \[text\]"):
        TokenDataset.from_texts("she sells", tokenizer, 4)


def test_the_gradient_of_cross_entropy_is_written_once_and_says_so():
    logits = torch.randn(3, 5, requires_grad=True)
    loss = fused_cross_entropy(logits, torch.tensor([0, 4, 2]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert torch.allclose(
        logits.grad.sum(dim=-1), torch.zeros(3), atol=1e-6
    )  # guess minus truth adds up to 0


@BOTH
def test_cross_entropy_compiles(ours):
    """As one graph, since the Trainer compiles the model and its loss together."""
    logits, targets = torch.randn(4, 6, requires_grad=True), torch.tensor([1, -100, 0, 5])
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    for function in (compiled, ours):
        logits.grad = None
        function(logits, targets, 0.1).backward()
        expected = torch.autograd.grad(F.cross_entropy(logits, targets, label_smoothing=0.1), logits)[0]
        assert torch.allclose(logits.grad, expected, atol=1e-6)


# guards against: AdamW's epsilon or its decay in the wrong place
def test_adamw_equals_pytorch_over_200_steps():
    ours = GPT(small()).double()
    theirs = copy.deepcopy(ours)
    optimizers = (
        (ours, AdamW(parameter_groups(ours, 0.1), betas=(0.9, 0.98))),
        (theirs, torch.optim.AdamW(parameter_groups(theirs, 0.1), betas=(0.9, 0.98))),
    )
    for step in range(200):
        ids = torch.randint(50, (2, 17))
        for model, optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = warmup_cosine(step, 1e-2, 1e-3, 20, 200)
            optimizer.zero_grad()
            F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        assert torch.allclose(a, b, atol=1e-8)


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.0, 0.0), (0.9, 0.999)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
# guards against: AdamW's epsilon or its decay in the wrong place
def test_adamw_equals_pytorch_in_float32(betas, decay):
    """The same gradients for both, tiny, huge, zero and missing, so that rounding is not amplified."""
    ours = [nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(2))]
    theirs = copy.deepcopy(ours)
    options = {"lr": 1e-2, "betas": betas, "eps": 1e-8, "weight_decay": decay}
    optimizers = AdamW(ours, **options), torch.optim.AdamW(theirs, **options)
    for step in range(200):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn(a.shape) * 10.0 ** ((step % 9) - 6) * (step % 13 > 0)
            b.grad = a.grad.clone()
        ours[2].grad = theirs[2].grad = None
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, theirs):
        assert torch.allclose(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"lr": math.nan}, {"eps": 0.0}, {"weight_decay": -0.1}, {"betas": (0.9, 1.0)}]
)
def test_adamw_refuses_what_would_spoil_the_weights(wrong):
    with pytest.raises(ValueError, match=r"expected lr >= 0, betas in \[0, 1\), .*; got lr="):
        AdamW([nn.Parameter(torch.ones(1))], **wrong)


# guards against: AdamW's epsilon or its decay in the wrong place
def test_adamw_epsilon_comes_after_the_bias_correction():
    a, b = (nn.Parameter(torch.ones(3)) for _ in range(2))
    ours, theirs = (
        AdamW([a], lr=0.1, eps=1e-2),
        torch.optim.AdamW([b], lr=0.1, betas=(0.9, 0.95), eps=1e-2, weight_decay=0.1),
    )
    for p, optimizer in ((a, ours), (b, theirs)):
        p.grad = torch.tensor([1e-3, 1e-2, 1.0])
        optimizer.step()
    assert torch.allclose(a, b, atol=1e-7)


@pytest.mark.parametrize("tied", [True, False])
# guards against: AdamW's epsilon or its decay in the wrong place
def test_decay_is_for_matrices_of_linear_layers_only(tied):
    model = GPT(small(bias=True, tie_weights=tied))
    decayed, kept = (group["params"] for group in parameter_groups(model, 0.1))
    names = {id(p): name for name, p in model.named_parameters()}
    assert all("proj" in names[id(p)] or names[id(p)] == "lm_head.weight" for p in decayed)
    assert all(p.dim() == 1 or names[id(p)].startswith("embedding.") for p in kept)
    assert len(decayed) + len(kept) == len(names)


# guards against: a schedule that starts at 0, divides by 0 or never peaks
def test_schedule():
    rates = [warmup_cosine(step, 1.0, 0.1, 10, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0 == max(rates)
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
    assert 0.1 < rates[-1] < 0.101 and warmup_cosine(100, 1.0, 0.1, 10, 100) == pytest.approx(0.1)
    assert warmup_cosine(10 + 45, 1.0, 0.1, 10, 100) == pytest.approx(0.55)  # half way
    assert [warmup_cosine(step, 1.0, 0.1, 4, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]  # all warm-up
    by_hand = [0.25, 0.5, 0.75, 1, 1, 0.853553, 0.5, 0.146447]
    assert [warmup_cosine(step, 1.0, 0.0, 4, 8) for step in range(8)] == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 2), (1, 1), (1, 2), (0, 50), (5, 5), (5, 6)])
# guards against: a schedule that starts at 0, divides by 0 or never peaks
def test_every_step_has_a_rate_and_the_peak_is_reached(warmup, total):
    rates = [warmup_cosine(step, 3e-3, 0.0, warmup, total) for step in range(total)]
    assert min(rates) > 0 and max(rates) == 3e-3 and rates[max(0, warmup - 1)] == 3e-3


@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 6), (1, 6), (2, 6), (6, 6)])
# guards against: a schedule that starts at 0, divides by 0 or never peaks
def test_every_step_of_a_run_changes_the_weights(warmup, total):
    model = GPT(small())
    optimizer = AdamW(parameter_groups(model, 0.1))
    for step in range(total):
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        ids = torch.randint(50, (2, 17))
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine(step, 3e-3, 0.0, warmup, total)
        optimizer.zero_grad()
        cross_entropy(model(ids[:, :-1]), ids[:, 1:]).backward()
        optimizer.step()
        assert not torch.equal(before, torch.cat([p.detach().flatten() for p in model.parameters()])), step


@pytest.mark.parametrize(("warmup", "total"), [(10, 100), (1, 7), (2, 7), (99, 100), (9, 9), (0, 50), (0, 1)])
# guards against: a schedule that starts at 0, divides by 0 or never peaks
def test_schedule_equals_pytorch(warmup, total):
    clock = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    rise = torch.optim.lr_scheduler.LinearLR(clock, 1 / max(1, warmup), total_iters=max(1, warmup - 1))
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(clock, T_max=max(1, total - warmup), eta_min=0.1)
    scheduler = torch.optim.lr_scheduler.SequentialLR(clock, [rise, fall], milestones=[warmup])
    for step in range(total):
        assert warmup_cosine(step, 1.0, 0.1, warmup, total) == pytest.approx(clock.param_groups[0]["lr"]), (
            step
        )
        clock.step(), scheduler.step()


def with_gradients(*gradients):
    """Parameters of zeros with these gradients; None for none."""
    params = [nn.Parameter(torch.zeros(3) if g is None else torch.zeros_like(g)) for g in gradients]
    for p, g in zip(params, gradients):
        p.grad = g if g is None else g.clone()
    return params


SHAPES = {  # how the parameters may be given
    "a list": lambda params: params,
    "a tuple": tuple,
    "a generator": lambda params: (p for p in params),
    "a map": lambda params: map(lambda p: p, params),
    "one parameter": lambda params: params[0],
    "a parameter without a gradient": lambda params: params[2],
    "an empty list": lambda params: [],
}
GRADIENTS = {
    "usual": (torch.tensor([[3.0, -4.0]]), torch.tensor([1.0, 2.0, -2.0]), None),
    "zero": (torch.zeros(2), torch.zeros(1), None),
    "infinite": (torch.tensor([math.inf, 1.0]), torch.tensor([2.0]), None),
    "nan": (torch.tensor([math.nan, 1.0]), torch.tensor([2.0]), None),
    "a scalar": (torch.tensor(5.0), torch.tensor([2.0]), None),
    "mixed types": (torch.tensor([3.0, 4.0]).double(), torch.tensor([2.0]), None),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gradients", GRADIENTS)
def test_clipping_equals_pytorch(shape, gradients):
    for max_norm in (0.0, 0.1, 1, 1e6, math.inf):
        results = []
        for clip in (clip_grad_norm_, nn.utils.clip_grad_norm_):
            params = with_gradients(*GRADIENTS[gradients])
            norm = clip(SHAPES[shape](params), max_norm)
            results.append([norm, *(p.grad for p in params[:2])])
        for ours, theirs in zip(*results):
            assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
            assert torch.allclose(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_clipping_of_16_bit_gradients_equals_pytorch(dtype):
    gradients = torch.randn(50).to(dtype), torch.randn(4, 3).to(dtype)
    results = []
    for clip in (clip_grad_norm_, nn.utils.clip_grad_norm_):
        params = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for p, g in zip(params, gradients):
            p.grad = g.clone()
        results.append([clip(params, 0.5), *(p.grad for p in params)])
    assert all(torch.allclose(a.float(), b.float(), rtol=1e-2) for a, b in zip(*results))


def test_clipping_of_a_used_up_generator_is_said():
    model = nn.Linear(3, 2)
    model(torch.ones(3)).sum().backward()
    params = model.parameters()
    before = clip_grad_norm_(params, 1e6)
    with pytest.warns(UserWarning, match="nothing was clipped: .* is used up; give a list"):
        assert before > 0 == clip_grad_norm_(params, 1e-3)


# ---------------------------------------------------------------- data


# guards against: accumulation that loses batches
def test_an_epoch_takes_every_window_once():
    data = TokenDataset(torch.arange(173), 8)
    per_epoch = data.n_windows
    starts = [data.batch(step, 1)[0][0, 0].item() for step in range(3 * per_epoch)]
    for epoch in range(3):
        part = sorted(starts[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert [b - a for a, b in zip(part, part[1:])] == [8] * (per_epoch - 1)
    assert starts[:per_epoch] != starts[per_epoch : 2 * per_epoch]


@given(T=st.integers(1, 7), more=st.integers(0, 20), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_every_window_of_a_stream_is_possible(T, more, seed):
    """From the first token to the last; within an epoch the windows lie side by side."""
    N = 2 * T + more
    data = TokenDataset(torch.arange(N), T)
    assert data.n_windows == (N - T) // T
    starts = set()
    for epoch in range(60 * T):
        inputs, targets = data.windows(epoch * data.n_windows, data.n_windows, seed)
        assert torch.equal(inputs + 1, targets) and inputs.shape == (data.n_windows, T)
        first = sorted(inputs[:, 0].tolist())
        assert first == list(range(first[0], first[0] + T * data.n_windows, T))
        starts.update(first)
    assert starts == set(range(N - T))


def test_the_tail_of_the_report_is_reached():
    """29 tokens in windows of 10: targets 20 to 28 were in no batch."""
    data = TokenDataset(torch.arange(29), 10)
    assert {t.item() for step in range(300) for t in data.batch(step, 1)[1].flatten()} == set(range(1, 29))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_windows_are_one_order_for_every_batch_size(data, batch_size):
    """Batches are that order cut into pieces, so that a run can go on with another batch size."""
    inputs, targets = data.windows(0, 60, seed=3)
    batches = [data.batch(step, batch_size, seed=3) for step in range(60 // batch_size)]
    for whole, parts in ((inputs, 0), (targets, 1)):
        assert torch.equal(whole, torch.cat([batch[parts] for batch in batches]))
    assert torch.equal(data.windows(17, 4, seed=3)[0], inputs[17:21])


def test_a_fingerprint_tells_texts_apart(data):
    assert data.fingerprint == TokenDataset(data.token_ids.int(), 8).fingerprint
    assert data.fingerprint["name"] == "the text" and data.fingerprint["tokens"] == 400
    other = data.token_ids.clone()
    other[200] = (other[200] + 1) % 50
    digests = {TokenDataset(ids, 16, name="x").fingerprint["sha256"] for ids in (other, data.token_ids[:-1])}
    assert len(digests | {data.fingerprint["sha256"]}) == 3
    by_hand = hashlib.sha256(struct.pack("<4q", 3, 1, 2, 0)).hexdigest()
    assert TokenDataset([3, 1, 2, 0], 2).fingerprint["sha256"] == by_hand


def test_data_stay_on_the_cpu_whatever_the_default_device():
    expected = TokenDataset(range(100), 8).windows(5, 3)
    torch.set_default_device("meta")
    try:
        found = TokenDataset(range(100), 8).windows(5, 3)
    finally:
        torch.set_default_device(None)
    assert all(torch.equal(a, b) for a, b in zip(expected, found))


# guards against: a resumed run that goes another way
def test_a_batch_is_a_function_of_seed_and_step(data):
    inputs, targets = data.batch(7, 4, seed=3)
    assert torch.equal(inputs[:, 1:], targets[:, :-1]) and inputs.shape == (4, 16)
    again = TokenDataset(data.token_ids, 16).batch(7, 4, seed=3)
    assert torch.equal(inputs, again[0]) and not torch.equal(inputs, data.batch(7, 4, seed=4)[0])
    assert not torch.equal(inputs, data.batch(8, 4, seed=3)[0])


@pytest.mark.parametrize("n_tokens", [32, 33, 40, 64, 65])
@pytest.mark.parametrize("batch_size", [1, 3])
# guards against: an evaluation that divides by 0, loses a batch or drops out
def test_evaluation_takes_every_token_once(n_tokens, batch_size):
    data = TokenDataset(torch.arange(n_tokens), 16)
    batches = list(data.in_order(batch_size))
    assert torch.equal(torch.cat([targets.flatten() for _, targets in batches]), torch.arange(1, n_tokens))
    assert all(torch.equal(inputs + 1, targets) for inputs, targets in batches)


def test_from_texts_counts_bytes_and_ends_texts(tokenizer):
    data = TokenDataset.from_texts(["é!", "she sells sea shells"], tokenizer, 4)
    eot = tokenizer.eot_token
    assert data.n_bytes == 3 + 20 and (data.token_ids == eot).sum() == 3
    assert data.token_ids[0] == eot == data.token_ids[-1]


def test_ids_that_are_floats_are_not_rounded_to_ids():
    for ids in (torch.arange(40) / 2, [0.0] * 40):
        with pytest.raises(TypeError, match="Cannot cast array data from dtype.*float"):
            TokenDataset(ids, 16)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32])
def test_ids_may_have_any_integer_type(dtype):
    ids = torch.arange(100)
    inputs, targets = TokenDataset(ids.to(dtype), 16).batch(0, 2)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs, TokenDataset(ids, 16).batch(0, 2)[0])


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int64", ">i4"])
def test_ids_may_be_a_file_that_is_only_read(tmp_path, dtype):
    """As nanoGPT keeps them: a memmap of uint16, which cannot be written to."""
    np.arange(100).astype(dtype).tofile(tmp_path / "ids.bin")
    data = TokenDataset(np.memmap(tmp_path / "ids.bin", dtype=dtype, mode="r"), 16)
    assert torch.equal(data.token_ids, torch.arange(100))


def test_texts_may_be_a_generator(tokenizer):
    texts = ["she sells", " sea shells"]
    once = TokenDataset.from_texts((text for text in texts), tokenizer, 2)
    assert torch.equal(once.token_ids, TokenDataset.from_texts(texts, tokenizer, 2).token_ids)
    assert once.n_bytes == sum(map(len, texts))


# guards against: an evaluation that divides by 0, loses a batch or drops out
def test_an_empty_held_out_text(tokenizer):
    with pytest.raises(ValueError, match="^1 tokens are too few for context_length=16; give at least 32 or"):
        TokenDataset.from_texts([], tokenizer, 16)


# ---------------------------------------------------------------- precision and devices


# guards against: a number format that the device cannot do
def test_precision_by_capability(monkeypatch):
    cuda = torch.device("cuda")
    for capability, dtype in (((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert pick_precision("auto", cuda) == dtype
    assert pick_precision("auto", torch.device("cpu")) == torch.float32
    assert pick_precision("float16", torch.device("cpu")) == torch.float16
    with pytest.raises(ValueError, match=r"device 'no' is not available here \(.*\); use device='cpu'"):
        pick_device("no")
    with pytest.raises(ValueError, match="device 'meta' is not available here"):
        pick_device("meta")


# ---------------------------------------------------------------- a simulated Mac


class Moving(TorchFunctionMode):
    """Tensors that are sent to mps stay on the CPU; `arrived` counts them. Like mps, it refuses float64."""

    arrived = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        x = args[0] if args else None
        if func is torch.Tensor.to and str(args[1]) == "mps":
            self.arrived, args = self.arrived + 1, (x, "cpu", *args[2:])
            self.refuse(args[2] if len(args) > 2 and args[2] else x.dtype)
        elif func is torch.Tensor.double and self.arrived and not hasattr(x, "came_back"):
            self.refuse(torch.float64)
        result = func(*args, **(kwargs or {}))
        if func is torch.Tensor.cpu:
            result.came_back = True
        return result

    def refuse(self, dtype):
        if dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")


class Computing(TorchDispatchMode):
    """Once tensors have arrived on mps, every operation, backward too, is fault(self, name, out, args).

    `out` computes the right result; `calls` counts the operations of each name.
    """

    def __init__(self, moving, fault):
        super().__init__()
        self.moving, self.fault, self.calls = moving, fault, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if not self.moving.arrived or name == "_to_copy":
            return func(*args, **(kwargs or {}))
        self.calls[name] = self.calls.get(name, 0) + 1
        return self.fault(self, name, lambda: func(*args, **(kwargs or {})), args)


@pytest.fixture
def mac(monkeypatch):
    """mac(fault) is a context in which this machine has an mps, with that fault."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    mps_agrees.cache_clear()

    @contextlib.contextmanager
    def simulated(fault=lambda device, name, out, args: out()):
        with Moving() as moving, Computing(moving, fault):
            yield moving

    yield simulated
    mps_agrees.cache_clear()


def other_rounding(device, name, out, args):
    """Results that are off by a unit in the last place or so."""
    result = out()
    if name in ("mm", "mul", "add", "silu", "sqrt_", "_log_softmax") and result.dtype == torch.float32:
        generator = torch.Generator().manual_seed(1)
        result *= 1 + 1e-7 * torch.randn(result.shape, generator=generator, dtype=result.dtype, device="cpu")
    return result


def test_mps_is_picked_when_its_steps_are_those_of_the_cpu(mac, capsys):
    with mac() as moving:
        assert pick_device() == torch.device("mps") and moving.arrived > 20  # all weights and the batch
        arrived = moving.arrived
        assert pick_device() == torch.device("mps") and moving.arrived == arrived  # asked once
    assert capsys.readouterr() == ("", "")
    assert pick_precision("auto", torch.device("mps")) == torch.float32


def test_mps_may_round_otherwise(mac):
    with mac(other_rounding):
        assert pick_device() == torch.device("mps")


def test_the_tolerance_is_between_rounding_and_16_bits():
    """As the docstring says: rounding, here that of another attention kernel, is ten times below 1e-4."""
    right, ours = practice_run("cpu"), machines.GPTConfig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machines, "GPTConfig", lambda *sizes, **more: ours(*sizes, **more, backend="eager"))
        eager = practice_run("cpu")
    off = [((eager[what] - right[what]).norm() / right[what].norm()).item() for what in right]
    assert 0 < max(off) < 1e-5
    assert all(torch.equal(value, right[what]) for what, value in practice_run("cpu").items())
    assert right["the gradient norm of step 1"] > 1  # so that clipping is tried as well


def loss_a_little_wrong(device, name, out, args):
    return out() * 1.001 if name == "_log_softmax" else out()


def zero_gradient_of_one_layer(device, name, out, args):
    """Of the last layer's keys or values, (16, 32): the first such product of each backward pass."""
    result = out()
    if name == "mm" and result.shape == (16, 32):
        device.calls["layer"] = device.calls.get("layer", 0) + 1
        return torch.zeros_like(result) if device.calls["layer"] % 4 == 1 else result
    return result


def drift(device, name, out, args):
    """Each update is a little more wrong than the one before it."""
    result = out()
    return result.mul_(1 + 1e-5 * device.calls[name]) if name == "addcdiv_" else result


def not_a_number(device, name, out, args):
    result = out()
    return result * math.nan if name == "silu" and device.calls[name] > 2 else result  # from step 2 on


def not_implemented(device, name, out, args):
    if name == "silu":
        raise NotImplementedError("The operator 'aten::silu' is not implemented for MPS.\nPlease comment.")
    return out()


def out_of_memory(device, name, out, args):
    if name == "addcdiv_" and device.calls[name] == 30:
        raise RuntimeError("MPS backend out of memory")
    return out()


def no_words(device, name, out, args):
    raise RuntimeError


def in_16_bits(device, name, out, args):
    return out().bfloat16().float() if name == "mm" else out()


def no_clipping(device, name, out, args):
    """Of all that is multiplied in place, only the gradients are multiplied by a tensor."""
    return args[0] if name == "mul_" and isinstance(args[1], torch.Tensor) else out()


def no_update(device, name, out, args):
    return args[0] if name == "addcdiv_" else out()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            loss_a_little_wrong,
            "the loss of step 1 differs from the CPU's by 1[.]0e-03 of it, more than rounding's 1e-04; ",
        ),
        (zero_gradient_of_one_layer, "the gradient norm of step 1 differs from "),
        (drift, "the .* of step [23] differs from "),
        (not_a_number, "the loss of step 2 differs from the CPU's by nan of it, "),
        (not_implemented, "a training step fails there: The operator 'aten::silu' is not .* MPS[.]; "),
        (out_of_memory, "a training step fails there: MPS backend out of memory;"),
        (no_words, "a training step fails there: RuntimeError;"),
        (in_16_bits, "the clipped gradient of step 1 differs from "),
        (no_clipping, "the clipped gradient of step 1 differs from "),
        (no_update, "the loss of step 2 differs from "),
    ],
)
def test_a_faulty_mps_is_refused_with_the_reason(mac, capsys, fault, reason):
    with mac(fault):
        assert pick_device() == pick_device() == torch.device("cpu")
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1  # once, and not among what a program prints
    assert re.match(f"auto stays on the CPU although there is mps: {reason}", said.err), said.err
    assert said.err.endswith("; force it with device='mps', or --device mps\n")


def test_an_mps_that_is_not_there_after_all_is_refused(mac, capsys):
    """A machine without mps that says it has one."""
    if not torch.backends.mps.is_built():
        assert pick_device() == torch.device("cpu")
        assert capsys.readouterr().err.startswith("auto stays on the CPU although there is mps: ")


def test_what_is_named_and_cuda_come_without_the_check(mac, monkeypatch):
    monkeypatch.setattr(machines, "mps_agrees", lambda: pytest.fail("it was checked"))
    with contextlib.suppress(ValueError):  # "not available here", but on a Mac
        assert pick_device("mps").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device() == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode, contextlib.nullcontext])
@pytest.mark.parametrize("fault", [other_rounding, not_implemented])
def test_the_check_leaves_no_trace(mac, caller, fault):
    """Not in the random numbers, grad mode, default dtype and device; and none of them makes a difference."""

    def state():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        return torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_default_device(), modes

    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with mac(fault), caller():
            before = state()
            assert pick_device().type == ("mps" if fault == other_rounding else "cpu")
            assert state() == before
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


# ---------------------------------------------------------------- a machine that cannot compile


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"PATH": ""}, r"compile=True needs a C\+\+ compiler .*; install one, or give compile=False"),
        (
            {"TMPDIR": "a b"},
            r"compile=True fails because of the space in '.* .*' \(.*\); (set TMPDIR|move the course) ",
        ),
    ],
)
def test_what_keeps_this_machine_from_compiling_is_said_before_training(tmp_path, setting, sentence):
    """For real, in a fresh process: PyTorch looks for a compiler once."""
    if "TMPDIR" in setting:
        if not shutil.which("g++"):
            pytest.skip("no compiler that could fail")
        setting = {"TMPDIR": str(tmp_path / setting["TMPDIR"])}
        Path(setting["TMPDIR"]).mkdir()
    code = "import torch, ch05_training.config as c; c.check_compiler(torch.device('cpu'))"
    environment = {k: v for k, v in os.environ.items() if k not in ("CXX", "TORCHINDUCTOR_CACHE_DIR")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment | setting, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and re.match(f"ValueError: {sentence}", last), done.stderr[-3000:]


COMPILER_SAYS = (
    "CppCompileError: C++ compile error\n\nCommand:\ng++ y.main.cpp -I/my course/lib/torch/include -o y.so\n"
    "\nOutput:\n{output}\n\n\nSet TORCHDYNAMO_VERBOSE=1 for the internal stack trace"
)


@pytest.mark.parametrize(
    ("folder", "output", "sentence"),
    [
        (
            "/my course/lib/torch",
            "/usr/bin/ld: cannot find -ltorch: No such file",
            "compile=True fails because of the space in '/my course/lib/torch' (/usr/bin/ld: cannot find "
            "-ltorch: No such file); move the course and its .venv to a path without one",
        ),
        (
            "/another course/lib/torch",  # has a space, but the command does not hold it
            "In file included from y.h:3:\ny.main.cpp:29:10: fatal error: Python.h: No such file",
            "compile=True needs Python's headers (y.main.cpp:29:10: fatal error: Python.h: No such file); "
            "install them (Debian, Ubuntu: python3-dev)",
        ),
        (
            "/lib/torch",
            "g++: fatal error: cannot execute 'cc1plus'\ncompilation terminated.",
            "compile=True does not work here (g++: fatal error: cannot execute 'cc1plus'); fix that",
        ),
        ("/lib/torch", "", "compile=True does not work here (the compiler said nothing); fix that"),
    ],
)
def test_the_cause_is_read_from_what_the_compiler_says(monkeypatch, folder, output, sentence):
    monkeypatch.setattr(torch, "__file__", f"{folder}/__init__.py")
    assert why_not_compiled(COMPILER_SAYS.format(output=output)) == sentence


def test_the_cause_without_a_command():
    gpu = "RuntimeError: Failed to find C compiler. Please specify via CC environment variable."
    assert why_not_compiled(gpu).startswith("compile=True needs a C++ compiler such as g++ that works")
    assert why_not_compiled("no triton\nmore") == "compile=True does not work here (no triton); fix that"


def test_the_compiler_is_tried_on_something_new_and_once(monkeypatch):
    """A line that was compiled before would be taken from PyTorch's cache, with no compiler at all."""
    compiled, device, line = [], torch.device("cpu"), torch.zeros(1, dtype=torch.float64)
    monkeypatch.setattr(torch, "compile", lambda f, dynamic: compiled.append((f(line).item(), dynamic)) or f)
    state = torch.get_rng_state()
    for _ in range(2):
        check_compiler.cache_clear()
        check_compiler(device)
        check_compiler(device)
    (first, static), (second, _) = compiled
    assert first != second and static is False and torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(torch, "compile", lambda f, dynamic: 1 / 0)
    check_compiler.cache_clear()
    for _ in range(2):  # that it failed is not remembered: somebody may install what was missing
        with pytest.raises(ValueError, match=r"\(division by zero\); fix that, or give compile=False"):
            check_compiler(device)
