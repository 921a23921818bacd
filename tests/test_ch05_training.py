"""Chapter 5: optimizer, schedule, loss and trainer equal their references; a resumed run is the same run."""

import contextlib
import copy
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import types
import warnings
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training import optimization, training
from ch05_training.checkpoint import DamagedCheckpoint, best_checkpoint, digest_of
from ch05_training.config import check_compiler, why_not_compiled
from ch05_training.curves import LivePlot
from ch05_training.data import TokenDataset, baseline_losses
from ch05_training.optimization import mps_agrees, perplexity, practice_run
from ch05_training.training import (
    AdamW,
    TrainConfig,
    Trainer,
    bits_per_byte,
    checkpoint_paths,
    clip_grad_norm_,
    cross_entropy,
    evaluate,
    first_not_finite,
    load_checkpoint,
    matmul_peak,
    newest_checkpoint,
    parameter_groups,
    pick_device,
    pick_precision,
    plot_history,
    read_checkpoint,
    save_checkpoint,
    warmup_cosine,
)

ROOT = Path(__file__).resolve().parent.parent
TRAIN = dict(steps=8, batch_size=2, warmup_steps=2, eval_every=0, checkpoint_every=0, device="cpu")


@pytest.fixture
def data():
    return TokenDataset(torch.randint(50, (400,)), 16, n_bytes=900)


def small(**changes):
    """A small GPTConfig with fields changed."""
    sizes = dict(vocab_size=50, context_length=16, d_model=32, n_heads=2, n_layers=2)
    return GPTConfig(**sizes | changes)


def make_trainer(data, run_dir=None, val_data=None, model=None, **changes):
    torch.manual_seed(0)
    return Trainer(GPT(model or small()), TrainConfig(**TRAIN | changes), data, val_data, run_dir)


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


# ---------------------------------------------------------------- loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ignored", [-100, 3])
# guards against: ignored targets that reach the loss
def test_cross_entropy_equals_pytorch(smoothing, reduction, ignored):
    logits = (torch.randn(4, 6, 10) * 20).requires_grad_()
    targets = torch.randint(10, (4, 6))
    targets[0, :4] = ignored
    results = []
    options = {"label_smoothing": smoothing, "ignore_index": ignored, "reduction": reduction}
    for loss in (
        cross_entropy(logits, targets, **options),
        F.cross_entropy(logits.flatten(0, 1), targets.flatten(), **options),
    ):
        results.append((loss, torch.autograd.grad(loss, logits)[0]))
    for ours, theirs in zip(*results):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


# guards against: ignored targets that reach the loss
def test_cross_entropy_with_nothing_to_count_is_zero():
    logits = torch.randn(3, 10, requires_grad=True)
    loss = cross_entropy(logits, torch.full((3,), -100), 0.1)
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cross_entropy_of_16_bit_logits_is_computed_in_32(dtype):
    logits, targets = torch.randn(8, 4000).to(dtype), torch.randint(4000, (8,))
    loss = cross_entropy(logits, targets)
    assert loss.dtype == torch.float32 and torch.equal(loss, cross_entropy(logits.float(), targets))


def test_perplexity_and_bits_per_byte():
    assert perplexity(math.log(8)) == pytest.approx(8) and perplexity(1e6) == math.inf
    assert bits_per_byte(10 * math.log(2), 5) == pytest.approx(2)


def test_baselines_by_hand_and_by_brute_force():
    train = TokenDataset(torch.tensor([0, 1, 0, 1, 0, 2, 0, 1]), 2)
    val = TokenDataset(torch.tensor([0, 1, 0, 2, 1]), 2)
    result = baseline_losses(train, val, 4)
    p = [5 / 12, 4 / 12, 2 / 12, 1 / 12]  # counts 4, 3, 1, 0, each plus one
    pairs, before = {(0, 1): 3, (1, 0): 2, (0, 2): 1, (2, 0): 1}, {0: 4, 1: 2, 2: 1}
    asked = [(0, 1), (1, 0), (0, 2), (2, 1)]
    bigram = [(pairs.get(pair, 0) + p[pair[1]]) / (before[pair[0]] + 1) for pair in asked]
    assert result["uniform"] == pytest.approx(math.log(4))
    assert result["unigram"] == pytest.approx(-sum(math.log(p[b]) for _, b in asked) / 4)
    assert result["bigram"] == pytest.approx(-sum(map(math.log, bigram)) / 4)


def test_baselines_are_ordered_on_the_plays(plays, tokenizer):
    train = TokenDataset.from_texts([plays["hamlet"]], tokenizer, 16)
    val = TokenDataset.from_texts([plays["macbeth"]], tokenizer, 16)
    values = baseline_losses(train, val, tokenizer.n_vocab)
    assert values["uniform"] > values["unigram"] + 0.3 > values["bigram"] + 0.6


# ---------------------------------------------------------------- optimizer, schedule, clipping


@pytest.mark.parametrize(("logits", "targets"), [((3, 5), (2,)), ((2, 3, 5), (3, 2))])
def test_logits_that_do_not_fit_their_targets_are_refused(logits, targets):
    """Without the check both give a number: of the first rows, or of a transposed batch."""
    with pytest.raises(ValueError, match=r"logits \(.*, 5\) do not fit targets \("):
        cross_entropy(torch.zeros(logits), torch.zeros(targets, dtype=torch.long))


def test_one_text_is_not_a_list_of_letters(tokenizer):
    with pytest.raises(ValueError, match=r"expected a list of texts, got a str; write \[text\]"):
        TokenDataset.from_texts("she sells", tokenizer, 4)


def test_the_gradient_of_cross_entropy_is_written_once_and_says_so():
    logits = torch.randn(3, 5, requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0, 4, 2]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert torch.allclose(
        logits.grad.sum(dim=-1), torch.zeros(3), atol=1e-6
    )  # guess minus truth adds up to 0


def test_cross_entropy_compiles():
    """As one graph, since the Trainer compiles the model and its loss together."""
    logits, targets = torch.randn(4, 6, requires_grad=True), torch.tensor([1, -100, 0, 5])
    compiled = torch.compile(cross_entropy, backend="aot_eager", fullgraph=True)
    for function in (compiled, cross_entropy):
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
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 == max(rates)
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    halfway = warmup_cosine(9 + 45, 1.0, 0.1, 10, 100)
    assert halfway == pytest.approx(0.55)
    assert [warmup_cosine(step, 1.0, 0.1, 4, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]  # all warm-up
    assert warmup_cosine(0, 1.0, 0.1, 0, 1) == pytest.approx(0.1)  # none, and one step


@pytest.mark.parametrize(("warmup", "total"), [(10, 100), (1, 7), (99, 100), (100, 100), (0, 50)])
# guards against: a schedule that starts at 0, divides by 0 or never peaks
def test_schedule_equals_pytorch(warmup, total):
    clock = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    start, last = max(0, warmup - 1), total - 1  # the steps with the peak and with the minimum
    schedulers = []
    if start:
        schedulers.append(torch.optim.lr_scheduler.LinearLR(clock, 1 / warmup, 1.0, total_iters=start))
    n = max(1, total - warmup)
    schedulers.append(torch.optim.lr_scheduler.CosineAnnealingLR(clock, T_max=n, eta_min=0.1))
    scheduler = schedulers[0]
    if start:
        scheduler = torch.optim.lr_scheduler.SequentialLR(clock, schedulers, milestones=[start])
    shift = 0 if warmup else 1  # without a warm-up there is no step at the peak
    if shift:
        clock.step(), scheduler.step()
    for step in range(total - shift):
        ours = warmup_cosine(step, 1.0, 0.1, warmup, total)
        assert ours == pytest.approx(clock.param_groups[0]["lr"], abs=1e-6), step
        clock.step(), scheduler.step()
    assert warmup_cosine(last, 1.0, 0.1, warmup, total) == pytest.approx(1.0 if warmup == total else 0.1)


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipping_equals_pytorch(max_norm):
    a, b = (nn.Linear(5, 7) for _ in range(2))
    for module in (a, b):
        for n, p in enumerate(module.parameters()):
            p.grad = torch.linspace(-3, 2, p.numel()).view_as(p) + n
    ours, theirs = (
        clip_grad_norm_(a.parameters(), max_norm),
        nn.utils.clip_grad_norm_(b.parameters(), max_norm),
    )
    assert torch.allclose(ours, theirs)
    assert all(torch.allclose(p.grad, q.grad) for p, q in zip(a.parameters(), b.parameters()))


# ---------------------------------------------------------------- data


def test_clipping_without_gradients():
    assert clip_grad_norm_([nn.Parameter(torch.ones(2))], 1.0).item() == 0.0


# guards against: accumulation that loses batches
def test_an_epoch_takes_every_window_once():
    data = TokenDataset(torch.arange(173), 8)
    per_epoch = data.n_windows
    starts = [data.batch(step, 1)[0][0, 0].item() for step in range(3 * per_epoch)]
    for epoch in range(3):
        part = sorted(starts[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert [b - a for a, b in zip(part, part[1:])] == [8] * (per_epoch - 1)
    assert starts[:per_epoch] != starts[per_epoch : 2 * per_epoch]


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
    with pytest.raises(ValueError, match="expected whole numbers as token_ids, got torch.float32"):
        TokenDataset(torch.arange(40) / 2, 16)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_ids_may_have_any_integer_type(dtype):
    ids = torch.arange(100)
    inputs, targets = TokenDataset(ids.to(dtype), 16).batch(0, 2)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs, TokenDataset(ids, 16).batch(0, 2)[0])


def test_texts_may_be_a_generator(tokenizer):
    texts = ["she sells", " sea shells"]
    once = TokenDataset.from_texts((text for text in texts), tokenizer, 2)
    assert torch.equal(once.token_ids, TokenDataset.from_texts(texts, tokenizer, 2).token_ids)
    assert once.n_bytes == sum(map(len, texts))


# guards against: an evaluation that divides by 0, loses a batch or drops out
def test_an_empty_held_out_text(tokenizer):
    with pytest.raises(ValueError, match="^1 tokens are too few for context_length=16; give at least 32 or"):
        TokenDataset.from_texts([], tokenizer, 16)


# ---------------------------------------------------------------- evaluation


# guards against: an evaluation that divides by 0, loses a batch or drops out
def test_evaluate_is_in_eval_mode_and_exact(data):
    model = GPT(small(dropout=0.5)).train()
    result = evaluate(model, data, batch_size=5)
    assert model.training and result == evaluate(model, data, batch_size=5)
    model.eval()
    total = sum(
        F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum") for x, y in data.in_order(1)
    )
    assert result["loss"] == pytest.approx(total.item() / 399, rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(total.item() / math.log(2) / 900, rel=1e-5)


class NothingCounts(TokenDataset):
    def in_order(self, batch_size):
        yield from ((inputs, targets * 0 - 100) for inputs, targets in super().in_order(batch_size))


# guards against: an evaluation that divides by 0, loses a batch or drops out
def test_evaluating_nothing_is_an_error(data):
    with pytest.raises(ZeroDivisionError):
        evaluate(GPT(small()), NothingCounts(data.token_ids, 16))


# ---------------------------------------------------------------- the trainer


class Masked(TokenDataset):
    """A dataset with uneven masks: row r of a batch counts only its last targets."""

    def batch(self, step, batch_size, seed=0):
        inputs, targets = super().batch(step, batch_size, seed)
        targets = targets.clone()
        for row in range(batch_size):
            targets[row, : 3 * ((step * batch_size + row) % 5)] = -100
        return inputs, targets


@pytest.mark.parametrize("pieces", [2, 4, 8])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", [TokenDataset, Masked])
# guards against: accumulation that weighs batches wrongly
# guards against: accumulation that loses batches
def test_accumulation_equals_one_large_batch(pieces, smoothing, kind):
    data, options = kind(torch.randint(50, (400,)), 16), {"label_smoothing": smoothing}
    large = make_trainer(data, batch_size=8, **options)
    small = make_trainer(data, batch_size=8 // pieces, grad_accum=pieces, **options)
    taken = []  # the gradients, in the moment before the step
    for trainer in (large, small):
        trainer.model.double()
        trainer.scaler.step = lambda optimizer, trainer=trainer: (
            taken.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()])),
            optimizer.step(),
        )
    for _ in range(3):
        a, b = large.train_step(), small.train_step()
        assert abs(a["loss"] - b["loss"]) < 1e-6 and (taken[-2] - taken[-1]).abs().max() < 1e-6
        assert taken[-1].abs().max() > 1e-3
    assert torch.allclose(weights(large), weights(small), atol=1e-6)


# guards against: accumulation that weighs batches wrongly
def test_accumulation_in_float32():
    data = Masked(torch.randint(50, (400,)), 16)
    a = make_trainer(data, batch_size=8).train_step()
    b = make_trainer(data, batch_size=2, grad_accum=4).train_step()
    assert abs(a["loss"] - b["loss"]) < 1e-6 * 8 and a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)


# guards against: accumulation that loses batches
def test_every_micro_batch_counts_and_every_step_has_all_of_them(data):
    asked = []

    class Asked(TokenDataset):
        def batch(self, step, batch_size, seed=0):
            asked.append(step)
            return super().batch(step, batch_size, seed)

    history = make_trainer(Asked(data.token_ids, 16), steps=5, grad_accum=3).fit()
    assert asked == list(range(15)) and len(history) == 5


class Copy(TokenDataset):
    """A row of random tokens, then the same row again; only the second half counts."""

    def batch(self, step, batch_size, seed=0):
        generator = torch.Generator().manual_seed(seed * 100_003 + step)
        row = torch.randint(8, (batch_size, 6), generator=generator)  # (B, 6)
        both = torch.cat([row, row], dim=1)  # (B, 12)
        targets = both[:, 1:].clone()
        targets[:, :5] = -100
        return both[:, :-1], targets  # (B, 11) each


def test_a_copy_task_is_learned():
    data = Copy(torch.arange(40) % 8, 11)
    model = GPTConfig(8, 11, d_model=32, n_heads=2, n_layers=2, init_std=0.1)
    trainer = make_trainer(data, model=model, steps=300, batch_size=32, max_lr=1e-2, warmup_steps=30)
    trainer.fit()
    inputs, targets = data.batch(99_999, 64)  # rows that it has not seen
    assert cross_entropy(trainer.model.eval()(inputs), targets).item() < 0.05


@pytest.mark.parametrize("vocab_size", [50, 1024, 4096])
@pytest.mark.parametrize("position", ["learned", "rope"])
# guards against: a first loss far from the logarithm of the vocabulary
def test_the_first_loss_is_that_of_a_uniform_guess(vocab_size, position):
    data = TokenDataset(torch.randint(vocab_size, (400,)), 16)
    model = small(vocab_size=vocab_size, position=position)
    loss = make_trainer(data, model=model, batch_size=8).train_step()["loss"]
    assert loss == pytest.approx(math.log(vocab_size), rel=0.03)


def test_one_batch_is_learned_by_heart():
    class OneBatch(TokenDataset):
        def batch(self, step, batch_size, seed=0):
            return super().batch(0, batch_size, seed)

    data = OneBatch(torch.randint(50, (200,)), 16)
    history = make_trainer(data, steps=150, max_lr=1e-2).fit()
    assert history[-1]["loss"] < 0.05 < history[0]["loss"]


def test_history_and_files(data, tmp_path):
    trainer = make_trainer(
        data, tmp_path, val_data=data, eval_every=4, checkpoint_every=3, keep_checkpoints=2
    )
    history = trainer.fit()
    assert [m["step"] for m in history] == list(range(1, 9))
    assert [m["step"] for m in history if "val_bits_per_byte" in m] == [4, 8]
    assert [path.name for path in checkpoint_paths(tmp_path)] == [
        "step-000006.safetensors",
        "step-000008.safetensors",
    ]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 8


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stop_at", [1, 5])
# guards against: a resumed run that goes another way
def test_a_resumed_run_is_bit_identical(data, tmp_path, precision, stop_at):
    options = {"model": small(dropout=0.2), "precision": precision, "grad_accum": 2}
    straight = make_trainer(data, tmp_path / "a", **options)
    straight.fit()
    first = make_trainer(data, tmp_path / "b", **options)
    while first.step < stop_at:
        first.log(first.train_step())
    first.save()
    first.log(first.train_step())  # a step that the checkpoint does not hold, and that is taken again
    torch.manual_seed(99)
    second = make_trainer(data, tmp_path / "b", **options).resume()
    history = second.fit()
    assert torch.equal(weights(straight), weights(second))
    assert [m["step"] for m in history] == list(range(1, 9))
    assert [m["loss"] for m in history] == [m["loss"] for m in straight.history]


def test_an_infinite_gradient_skips_the_step_and_halves_the_scale(data):
    trainer = make_trainer(data, precision="float16")
    before, scale = weights(trainer), trainer.scaler.get_scale()
    hook = next(trainer.model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    trainer.train_step()
    hook.remove()
    assert torch.equal(weights(trainer), before) and trainer.scaler.get_scale() == scale / 2
    assert not trainer.optimizer.state
    metrics = trainer.train_step()
    assert not torch.equal(weights(trainer), before) and metrics["scale"] == scale / 2


def test_a_skipped_step_is_valid_json(data, tmp_path):
    trainer = make_trainer(data, tmp_path, precision="float16", steps=2)
    next(trainer.model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    trainer.fit()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert all("Infinity" not in line and json.loads(line)["grad_norm"] is None for line in lines)


# guards against: clipping before unscaling, or not at all
def test_clipping_sees_unscaled_gradients(data):
    norms = [
        make_trainer(data, precision=p, max_norm=0.1).train_step()["grad_norm"]
        for p in ("float16", "float32")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


# guards against: clipping before unscaling, or not at all
def test_every_step_is_clipped(data):
    trainer = make_trainer(data, max_norm=1e-9, max_lr=1e-3, weight_decay=0.0, eps=1.0)
    before = weights(trainer)
    trainer.fit()
    assert (weights(trainer) - before).abs().max() < 1e-8


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
    right, ours = practice_run("cpu"), optimization.GPTConfig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimization, "GPTConfig", lambda *sizes, **more: ours(*sizes, **more, backend="eager"))
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
    return None if name == "_foreach_mul_" else out()


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


def test_an_mps_that_is_not_there_after_all_is_refused(mac, data, capsys):
    trainer = make_trainer(data, device="auto")  # on a machine without mps, that says it has one
    if not torch.backends.mps.is_built():
        assert trainer.device == torch.device("cpu") and len(trainer.fit()) == 8
        assert capsys.readouterr().err.startswith("auto stays on the CPU although there is mps: ")


def test_what_is_named_and_cuda_come_without_the_check(mac, monkeypatch):
    monkeypatch.setattr(optimization, "mps_agrees", lambda: pytest.fail("it was checked"))
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


def test_a_loss_that_is_no_number_stops_the_run(data):
    trainer = make_trainer(data)
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 1; .*embedding.token .*: none;"):
        trainer.fit()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_nan_names_step_module_and_last_good_checkpoint(data, tmp_path, precision):
    trainer = make_trainer(data, tmp_path, checkpoint_every=2, precision=precision)
    inside = trainer.model.blocks[1].attention.out_proj
    hook = inside.register_forward_hook(lambda *_: _[2] * (math.nan if trainer.step == 5 else 1))
    with pytest.raises(FloatingPointError) as stop:
        trainer.fit()
    hook.remove()
    message, last = str(stop.value), tmp_path / "checkpoints" / "step-000004.safetensors"
    assert message.startswith("the loss is nan at step 6; ")
    assert "first module whose output is not finite: blocks.1.attention.out_proj (Linear)" in message
    assert f"last good checkpoint: {last};" in message and "lower max_lr" in message
    assert weights(trainer).isfinite().all() and newest_checkpoint(tmp_path) == last
    again = make_trainer(data, tmp_path, checkpoint_every=2, precision=precision).resume()
    assert again.step == 4 and len(again.fit()) == 8


def test_an_infinite_gradient_in_float32_stops_before_the_step(data):
    trainer = make_trainer(data)
    before = weights(trainer)
    next(trainer.model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError, match="the grad_norm is .* at step 1; .*: none: it arose in the"):
        trainer.train_step()
    assert torch.equal(weights(trainer), before)


def test_first_not_finite_finds_the_innermost_module():
    model, ids = GPT(small()), torch.zeros(1, 4, dtype=torch.long)
    assert first_not_finite(model, ids) is None
    with torch.no_grad():
        model.blocks[0].norm2.weight[3] = math.inf
    assert first_not_finite(model, ids).startswith("blocks.0.norm2 (")
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_signals_wait_for_the_step_save_and_resume_bit_identical(data, tmp_path, number, raised):
    straight = make_trainer(data, model=small(dropout=0.2))
    straight.fit()
    before = signal.getsignal(number)
    trainer = make_trainer(data, tmp_path, model=small(dropout=0.2))
    hook = trainer.model.norm.register_forward_hook(  # in the middle of the fourth step
        lambda *_: signal.raise_signal(number) if trainer.step == 3 else None
    )
    with pytest.raises(raised) as stop:
        trainer.fit()
    hook.remove()
    assert raised is KeyboardInterrupt or stop.value.code == 143
    assert signal.getsignal(number) is before
    assert newest_checkpoint(tmp_path).name == "step-000004.safetensors"
    again = make_trainer(data, tmp_path, model=small(dropout=0.2)).resume()
    again.fit()
    assert torch.equal(weights(straight), weights(again))


# ---------------------------------------------------------------- kill -9

CHILD = """
import json, os, signal, sys, warnings
import torch
from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.data import TokenDataset
from ch05_training.training import TrainConfig, Trainer, checkpoint_paths

torch.set_num_threads(1)

def build(job, model, config, n_ids):
    ids = torch.randint(model["vocab_size"], (n_ids,), generator=torch.Generator().manual_seed(0))
    data = TokenDataset(ids, model["context_length"])
    torch.manual_seed(0)
    config["betas"] = tuple(config["betas"])
    return Trainer(GPT(GPTConfig(**model)), TrainConfig(**config), data, data, job["run_dir"])

def die():
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

def kill_in_save(n_saves, share, fsync=os.fsync):
    left = [n_saves]
    def killed(number):  # the file is written up to a share of its bytes, and the process is gone
        left[0] -= 1
        if left[0]:
            return fsync(number)
        os.ftruncate(number, int(os.fstat(number).st_size * share))
        die()
    os.fsync = killed

def kill_at_line(n_lines):
    left = [n_lines]
    def line(frame, event, argument):
        if event == "line":
            left[0] -= 1
            if not left[0]:
                die()
        return line
    sys.settrace(lambda frame, *_: line if "ch05_training" in frame.f_code.co_filename else None)

def run(job, *rest):
    trainer = build(job, *rest)
    if "lines" in job:
        kill_at_line(job["lines"])
    else:
        kill_in_save(job["save"], job["share"])
    trainer.fit()

jobs, *rest = json.loads(sys.argv[1])
sys.stderr = open(os.devnull, "w")  # progress bars
warm = build({"run_dir": None}, *json.loads(json.dumps(rest)))  # imports late what torch needs, once
warm.measure({})
warm.optimizer.step()
for job in jobs:
    if not hasattr(os, "fork"):
        run(job, *rest)
    elif child := os.fork():  # one process for each kill; torch is imported once
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    else:
        run(job, *rest)
        os._exit(0)
"""
FORK = hasattr(os, "fork")


def killed_runs(jobs, model, config, n_ids):
    """Run the jobs in processes that kill themselves; returns the exit codes."""
    settings = [[vars(model), vars(config), n_ids]]
    calls = [jobs] if FORK else [[job] for job in jobs]
    codes = []
    for part in calls:
        argument = json.dumps([part, *settings[0]])
        command = [sys.executable, "-c", CHILD, argument]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        codes += [int(code) for code in done.stdout.split()] if FORK else [done.returncode]
        assert not FORK or done.returncode == 0, done.stderr
    return codes


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
# guards against: a resumed run that goes another way
def test_kill_9_at_any_moment_and_the_resumed_run_is_bit_identical(tmp_path, precision):
    """Twenty kills: eight while a checkpoint is being written, twelve at random lines of our own code."""
    model = small(d_model=16, n_layers=1, dropout=0.2)
    changes = {"grad_accum": 2, "checkpoint_every": 2, "eval_every": 3, "precision": precision}
    config, n_ids, chance = TrainConfig(**TRAIN | changes), 200, random.Random(precision)
    ids = torch.randint(50, (n_ids,), generator=torch.Generator().manual_seed(0))
    data = TokenDataset(ids, 16)

    def trainer(folder):
        torch.manual_seed(0)
        return Trainer(GPT(model), config, data, data, folder)

    straight, lines = trainer(tmp_path / "straight"), [0]

    def count(frame, event, argument):
        lines[0] += event == "line"
        return count

    tracer = sys.gettrace()
    sys.settrace(lambda frame, *_: count if "ch05_training" in frame.f_code.co_filename else None)
    straight.fit()
    sys.settrace(tracer)

    moments = [{"save": n % 5 + 1, "share": share} for n, share in enumerate((0, 1, *(chance.random(),) * 6))]
    moments += [{"lines": chance.randrange(50, lines[0] - 50)} for _ in range(12)]
    moments = moments if FORK else moments[::5]
    jobs = [moment | {"run_dir": str(tmp_path / str(n))} for n, moment in enumerate(moments)]
    codes = killed_runs(jobs, model, config, n_ids)
    assert len(codes) == len(jobs) and all(code == (-9 if FORK else signal.SIGTERM) for code in codes)
    resumed_from = set()
    for job in jobs:
        again = trainer(job["run_dir"])
        if checkpoint_paths(job["run_dir"]):
            again.resume()
        resumed_from.add(again.step)
        history = again.fit()
        assert torch.equal(weights(again), weights(straight)), job
        assert [m["loss"] for m in history] == [m["loss"] for m in straight.history], job
        assert [m.get("val_loss") for m in history] == [m.get("val_loss") for m in straight.history], job
        kept = [path.name for path in checkpoint_paths(job["run_dir"])]
        assert kept == [path.name for path in checkpoint_paths(tmp_path / "straight")], job
        assert not list(Path(job["run_dir"]).rglob("*.part"))
    assert len(resumed_from) >= (3 if FORK else 1)


# ---------------------------------------------------------------- checkpoints


def damaged(whole):
    """A checkpoint's bytes, spoiled in many ways: {name: bytes}."""
    size = len(whole)
    flip = {
        f"bit of byte {n} of {size}": whole[:n] + bytes([whole[n] ^ 16]) + whole[n + 1 :]
        for n in (0, 9, 200, size // 2, size - 9, size - 1)
    }
    cut = {f"first {n} bytes": whole[:n] for n in (0, 7, 300, len(whole) // 2, len(whole) - 1)}
    grown = {"a byte more": whole + b"0", "text": b"not a checkpoint at all"}
    record = {"another step": whole.replace(b'\\"step\\": 8', b'\\"step\\": 9')}
    assert record["another step"] != whole
    return flip | cut | grown | record


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_is_used(data, tmp_path):
    straight = make_trainer(data, tmp_path, checkpoint_every=4)
    straight.fit()
    path = newest_checkpoint(tmp_path)
    for name, spoiled in damaged(path.read_bytes()).items():
        path.write_bytes(spoiled)
        model = GPT(small())
        before = [p.clone() for p in model.parameters()]
        with pytest.raises(DamagedCheckpoint, match=f"{path.name} is not a whole checkpoint .* move it away"):
            load_checkpoint(path, model)
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters())), name
        with pytest.warns(UserWarning, match=f"{path.name} is not a whole .*; going back to the"):
            again = make_trainer(data, tmp_path, checkpoint_every=4).resume()
        assert again.step == 4 and path.read_bytes() == spoiled, name
    again.fit()
    assert torch.equal(weights(again), weights(straight))
    assert read_checkpoint(path)[1]["step"] == 8  # the damaged file was replaced


def test_when_all_checkpoints_are_damaged_the_error_says_so(data, tmp_path):
    make_trainer(data, tmp_path, checkpoint_every=4).fit()
    for path in checkpoint_paths(tmp_path):
        path.write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DamagedCheckpoint, match="step-000004.safetensors is not a whole checkpoint"):
            make_trainer(data, tmp_path).resume()


def test_a_damaged_newer_checkpoint_never_pushes_a_whole_one_out(data, tmp_path):
    make_trainer(data, tmp_path, checkpoint_every=4).fit()
    newest_checkpoint(tmp_path).write_bytes(b"")
    with pytest.warns(UserWarning):
        again = make_trainer(data, tmp_path, keep_checkpoints=1).resume()
    again.train_step()
    again.save()
    assert [path.name for path in checkpoint_paths(tmp_path)] == [
        "step-000005.safetensors",
        "step-000008.safetensors",
    ]


def test_the_digest_sees_names_types_shapes_and_numbers():
    a = {"w": torch.arange(6.0)}
    others = [{"v": a["w"]}, {"w": a["w"].view(2, 3)}, {"w": a["w"].int()}, {"w": a["w"] + 1e-6}, {}]
    assert digest_of(a, "r") == digest_of({"w": torch.arange(6.0)}, "r") != digest_of(a, "s")
    assert digest_of(a, "r") not in [digest_of(other, "r") for other in others]


@pytest.mark.parametrize("precision", ["float32", "float16"])
# guards against: a resumed run that goes another way
def test_a_checkpoint_holds_all_of_it(data, tmp_path, precision):
    trainer = make_trainer(data, tmp_path, precision=precision, val_data=data)
    trainer.fit()
    tensors, record = read_checkpoint(newest_checkpoint(tmp_path))
    names = [name for name, _ in trainer.model.named_parameters()]
    assert {f"{kind}.{name}" for kind in ("model", "m", "v") for name in names} <= set(tensors)
    assert "random.cpu" in tensors
    assert set(record) == {"format", "version", "step", "model", "adam_steps", "scaler", "extra"}
    assert record["step"] == 8 and set(record["adam_steps"].values()) == {8}
    assert record["model"] == vars(small())
    assert bool(record["scaler"]) == (precision == "float16")
    assert TrainConfig(**record["extra"]["train"] | {"betas": TrainConfig.betas}) == trainer.config


def test_the_last_few_and_the_best_are_kept(data, tmp_path, monkeypatch):
    values = iter([3.0, 1.0, 2.0, 1.5, 4.0, 5.0, 6.0, 7.0])
    monkeypatch.setattr(training, "evaluate", lambda *_: {"loss": next(values)})
    trainer = make_trainer(data, tmp_path, val_data=data, eval_every=1, checkpoint_every=1)
    trainer.fit()
    assert [path.name[5:11] for path in checkpoint_paths(tmp_path)] == ["000002", "000007", "000008"]
    assert best_checkpoint(tmp_path).name == "step-000002.safetensors"
    assert make_trainer(data, tmp_path).resume().best == {"step": 2, "val_loss": 1.0}


def test_the_best_is_saved_when_it_is_found(data, tmp_path, monkeypatch):
    values = iter([1.0, 2.0])
    monkeypatch.setattr(training, "evaluate", lambda *_: {"loss": next(values)})
    make_trainer(data, tmp_path, val_data=data, eval_every=5, checkpoint_every=0, keep_checkpoints=1).fit()
    assert [path.name[5:11] for path in checkpoint_paths(tmp_path)] == ["000005", "000008"]


def test_without_evaluation_the_best_is_the_newest(data, tmp_path):
    make_trainer(data, tmp_path, checkpoint_every=4).fit()
    assert best_checkpoint(tmp_path) == newest_checkpoint(tmp_path)


def test_checkpoints_are_sorted_by_step_not_by_name(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for step in (999_999, 1_000_000, 5):
        (tmp_path / "checkpoints" / f"step-{step:06}.safetensors").touch()
    assert newest_checkpoint(tmp_path).name == "step-1000000.safetensors"


def test_a_new_run_never_writes_over_another(data, tmp_path):
    make_trainer(data, tmp_path).fit()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match=r"holds a run already, up to step-000008.* by .resume\(\)"):
        make_trainer(data, tmp_path).fit()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_line_of_metrics_that_was_cut_short_is_left_out(data, tmp_path):
    make_trainer(data, tmp_path, checkpoint_every=4).fit()
    newest_checkpoint(tmp_path).unlink()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "lo')
    again = make_trainer(data, tmp_path).resume()
    assert [m["step"] for m in again.history] == [1, 2, 3, 4]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def test_an_interrupted_save_leaves_the_old_checkpoint(data, tmp_path, monkeypatch):
    path, model = tmp_path / "c.safetensors", GPT(small())
    save_checkpoint(path, model, step=1)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError):
        save_checkpoint(path, model, step=2)
    assert load_checkpoint(path, model)["step"] == 1


def test_another_architecture_is_named_and_nothing_changes(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, GPT(small()))
    other = GPT(small(n_layers=3))
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(ValueError, match="holds a model with n_layers=2, but this one has n_layers=3;"):
        load_checkpoint(path, other)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters()))


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"vocab_size": 60, "n_layers": 3}, "vocab_size=50, but this one has vocab_size=60"),
        ({"activation": "swiglu", "position": "rope"}, "activation='gelu', but this one has"),
        ({"tie_weights": False}, "tie_weights=True, but this one has tie_weights=False"),
    ],
)
def test_the_first_field_that_differs_is_named_in_resume_too(data, tmp_path, change, first):
    make_trainer(data, tmp_path).fit()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=first):
        make_trainer(data, tmp_path, model=small(**change)).resume()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


# guards against: weight tying that copies
def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    path, model = tmp_path / "c.safetensors", GPT(small())
    save_checkpoint(path, model)
    again = GPT(small())
    load_checkpoint(path, again)
    assert again.lm_head.weight is again.embedding.token.weight
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert path.stat().st_size < sum(p.numel() for p in model.parameters()) * 4 + 20_000


class Compiled(nn.Module):
    """What torch.compile returns, as far as names go, with no compiler at work."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model

    def forward(self, token_ids):
        return self._orig_mod(token_ids)


# guards against: the compiler's prefix in a checkpoint
def test_a_compiled_run_has_clean_checkpoints(data, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda f: lambda *inputs: calls.append(f) or f(*inputs))
    monkeypatch.setattr(training, "check_compiler", lambda device: None)
    trainer = make_trainer(data, tmp_path, compile=True, val_data=data)
    trainer.fit()
    assert len(calls) == 8
    path = newest_checkpoint(tmp_path)
    assert not [name for name in read_checkpoint(path)[0] if "_orig_mod" in name]
    plain = make_trainer(data, tmp_path).resume()  # goes on without compiling
    assert torch.equal(weights(plain), weights(trainer))


# guards against: the compiler's prefix in a checkpoint
def test_a_model_that_was_compiled_by_hand_is_stored_under_its_own_names(tmp_path):
    model, path = GPT(small()), tmp_path / "c.safetensors"
    assert any("_orig_mod" in name for name, _ in Compiled(model).named_parameters())
    save_checkpoint(path, Compiled(model), AdamW(model.parameters()))
    assert not [name for name in read_checkpoint(path)[0] if "_orig_mod" in name]
    other = GPT(small())
    load_checkpoint(path, Compiled(other))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


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


def test_a_run_that_is_compiled_for_real_has_the_losses_of_an_eager_one(data):
    """The only test that compiles a model. In a path with a space that cannot be, and the Trainer says so."""
    if not any(map(shutil.which, ("g++", "clang++", "cl"))):
        pytest.skip("there is no C++ compiler")
    check_compiler.cache_clear()
    options = {"model": GPTConfig(50, 16, d_model=16, n_heads=2, n_layers=1), "steps": 2}
    places = torch.__file__, tempfile.gettempdir(), os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")
    if any(" " in place for place in places):
        with pytest.raises(ValueError, match="compile=True fails because of the space in"):
            make_trainer(data, compile=True, **options)
        return
    torch.manual_seed(1)
    state = torch.get_rng_state()
    check_compiler(torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    compiled, eager = (make_trainer(data, compile=on, **options) for on in (True, False))
    losses = [[metrics["loss"] for metrics in trainer.fit()] for trainer in (compiled, eager)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(weights(compiled), weights(eager), atol=1e-5)


def test_metrics_go_to_tensorboard_where_it_is_installed(data, tmp_path, monkeypatch):
    written, made = [], []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            made.append((Path(folder).name, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, step))

    module = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    make_trainer(data, tmp_path, checkpoint_every=4).fit()
    assert made == [("tensorboard", 1)] and [s for n, s in written if n == "loss"] == list(range(1, 9))
    newest_checkpoint(tmp_path).unlink()
    make_trainer(data, tmp_path).resume().fit()
    assert made[1] == ("tensorboard", 5)


def test_without_tensorboard_nothing_is_missing(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert len(make_trainer(data, tmp_path).fit()) == 8 and not (tmp_path / "tensorboard").exists()


def test_speed_counts_the_work_of_chapter_4(data, monkeypatch):
    trainer = make_trainer(data, grad_accum=3)
    monkeypatch.setattr(training, "matmul_peak", lambda device, dtype: 1e9)
    V, T, D, L, tokens = 50, 16, 32, 2, 2 * 3 * 16
    forward = tokens * 2 * (L * (4 * D * D + 2 * T * D + 8 * D * D) + V * D)
    speed = trainer.speed(0.5)
    assert speed == {"tokens_per_s": round(tokens / 0.5), "mfu": round(3 * forward / 0.5 / 1e9, 4)}


def test_the_peak_is_measured():
    assert 1e8 < matmul_peak(torch.device("cpu"), torch.float32) < 1e14


def test_the_bar_shows_tokens_a_second_and_utilisation(data, capsys):
    make_trainer(data).fit()
    shown = capsys.readouterr().err
    assert "tokens/s=" in shown and "MFU=" in shown and "8/8" in shown


def test_watch_sees_every_step(data):
    seen = []
    make_trainer(data).fit(watch=lambda history: seen.append(len(history)))
    assert seen == list(range(1, 9))


@pytest.mark.parametrize("n_steps", [1, 6])
def test_live_plot_draws_seldom_and_at_the_end(data, n_steps):
    history, drawn = make_trainer(data, val_data=data, eval_every=4).fit(), []

    def draw(history):
        drawn.append(plot_history(history, 50, baselines={"uniform": math.log(50), "bigram": 3.0}))
        return drawn[-1]

    live = LivePlot(draw, "a loss curve", seconds=1000)
    for _ in range(n_steps):
        live(history)
    live(history, finished=True)
    assert len(drawn) == 1
    texts = [text.get_text() for text in drawn[0].texts]
    assert texts == ["uniform", "bigram"] and len(drawn[0].lines) == 4


# ---------------------------------------------------------------- bad input

GOOD = {"steps": 100, "warmup_steps": 5}


def test_every_field_is_checked():
    """Nothing is both a whole number, a share, a pair, a text and True or False."""
    for field in fields(TrainConfig):
        for wrong in (object(), None, [], -0.5, math.nan):
            with pytest.raises(ValueError, match=f"^{field.name}=.* must be .*; the default is "):
                TrainConfig(**GOOD | {field.name: wrong})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"max_lr": 0.0}, "max_lr=0.0 must be above 0"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0 must be below 1"),
        ({"betas": (0.9, 1.0)}, "betas=(0.9, 1.0) must be 2 values, each below 1"),
        ({"precision": "int8"}, "precision='int8' must be one of 'auto', 'float32', 'bfloat16', 'float16'"),
        ({"min_lr": 0.1, "max_lr": 0.01}, "min_lr=0.1 must be at most max_lr=0.01"),
        ({"warmup_steps": 101}, "warmup_steps=101 must be at most steps=100"),
    ],
)
# guards against: a schedule that starts at 0, divides by 0 or never peaks
def test_bad_configurations(change, message):  # for the warm-up
    with pytest.raises(ValueError) as error:
        TrainConfig(**GOOD | change)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("warmup", [0, 1, 100])
# guards against: a schedule that starts at 0, divides by 0 or never peaks
def test_a_warm_up_of_any_length_up_to_the_run_trains(data, warmup):
    config = TrainConfig(**GOOD | {"warmup_steps": warmup})
    rates = [warmup_cosine(step, 1.0, 0.0, config.warmup_steps, config.steps) for step in range(config.steps)]
    assert all(map(math.isfinite, rates)) and rates[0] > 0 and max(rates) > 0.99


@pytest.mark.parametrize(
    ("val", "message"),
    [
        ([], "expected a TokenDataset, got a list"),
        ((torch.arange(50), 20), "windows of 20 tokens and the id 49 do not fit .* context_length=16"),
        ((torch.arange(51), 16), "windows of 16 tokens and the id 50 do not fit .* and vocab_size=50"),
    ],
)
# guards against: an evaluation that divides by 0, loses a batch or drops out
def test_data_that_do_not_fit_the_model(data, tmp_path, val, message):  # for the empty list
    """Said at once: the first evaluation, where they would fail, may come after the last step."""
    val = TokenDataset(*val) if val else val
    for train, held_out in ((data, val), (val, None)):
        with pytest.raises(ValueError, match=message):
            make_trainer(train, tmp_path / "run", held_out)
    assert not (tmp_path / "run").exists()
