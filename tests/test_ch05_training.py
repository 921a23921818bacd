"""Chapter 5: optimizer, schedule, loss and trainer equal their references; a resumed run is the same run."""

import contextlib
import errno
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
import threading
import types
import warnings
from dataclasses import fields
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training import config, training
from ch05_training.config import check_compiler
from ch05_training.curves import LivePlot, plot_history
from ch05_training.data import TokenDataset
from ch05_training.files import DamagedCheckpoint, digest_of, pack, read_checkpoint, unpack
from ch05_training.finite import first_not_finite
from ch05_training.folder import best_checkpoint, checkpoint_paths, newest_checkpoint
from ch05_training.interrupts import NAMES
from ch05_training.training import (
    AdamW,
    TrainConfig,
    Trainer,
    cross_entropy,
    evaluate,
    load_checkpoint,
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
    return torch.cat([p.detach().flatten() for p in trainer.state.model.parameters()])


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
    """A dataset with uneven masks: each window counts only some of its last targets."""

    def windows(self, first, count, seed=0):
        inputs, targets = super().windows(first, count, seed)
        targets = targets.clone()
        for row in range(count):
            targets[row, : 3 * ((first + row) % 5)] = -100
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
        trainer.state.model.double()
        trainer.state.scaler.step = lambda optimizer, trainer=trainer: (
            taken.append(torch.cat([p.grad.flatten() for p in trainer.state.model.parameters()])),
            optimizer.step(),
        )
    for _ in range(3):
        a, b = large.take_step(), small.take_step()
        assert abs(a["loss"] - b["loss"]) < 1e-6 and (taken[-2] - taken[-1]).abs().max() < 1e-6
        assert taken[-1].abs().max() > 1e-3
    assert torch.allclose(weights(large), weights(small), atol=1e-6)


# guards against: accumulation that weighs batches wrongly
def test_accumulation_in_float32():
    data = Masked(torch.randint(50, (400,)), 16)
    a = make_trainer(data, batch_size=8).take_step()
    b = make_trainer(data, batch_size=2, grad_accum=4).take_step()
    assert abs(a["loss"] - b["loss"]) < 1e-6 * 8 and a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)


# guards against: accumulation that loses batches
def test_every_micro_batch_counts_and_every_step_has_all_of_them(data):
    asked = []

    class Asked(TokenDataset):
        def windows(self, first, count, seed=0):
            asked.extend(range(first, first + count))
            return super().windows(first, count, seed)

    history = make_trainer(Asked(data.token_ids, 16), steps=5, grad_accum=3).fit()
    assert asked == list(range(2 * 15)) and len(history) == 5


class Copy(TokenDataset):
    """A row of random tokens, then the same row again; only the second half counts."""

    def windows(self, first, count, seed=0):
        generator = torch.Generator().manual_seed(seed * 100_003 + first)
        row = torch.randint(8, (count, 6), generator=generator)  # (B, 6)
        both = torch.cat([row, row], dim=1)  # (B, 12)
        targets = both[:, 1:].clone()
        targets[:, :5] = -100
        return both[:, :-1], targets  # (B, 11) each


def test_a_copy_task_is_learned():
    data = Copy(torch.arange(40) % 8, 11)
    model = GPTConfig(8, 11, d_model=32, n_heads=2, n_layers=2, init_std=0.1)
    trainer = make_trainer(data, model=model, steps=300, batch_size=32, max_lr=1e-2, warmup_steps=30)
    trainer.fit()
    inputs, targets = data.windows(99_999, 64)  # rows that it has not seen
    assert cross_entropy(trainer.state.model.eval()(inputs), targets).item() < 0.05


@pytest.mark.parametrize("vocab_size", [50, 1024, 4096])
@pytest.mark.parametrize("position", ["learned", "rope"])
# guards against: a first loss far from the logarithm of the vocabulary
def test_the_first_loss_is_that_of_a_uniform_guess(vocab_size, position):
    data = TokenDataset(torch.randint(vocab_size, (400,)), 16)
    model = small(vocab_size=vocab_size, position=position, init_std=0.02)
    loss = make_trainer(data, model=model, batch_size=8).take_step()["loss"]
    assert loss == pytest.approx(math.log(vocab_size), rel=0.03)


def test_one_batch_is_learned_by_heart():
    class OneBatch(TokenDataset):
        def windows(self, first, count, seed=0):
            return super().windows(0, count, seed)

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
    while first.state.step < stop_at:
        first.log(first.take_step())
    first.save()
    first.log(first.take_step())  # a step that the checkpoint does not hold, and that is taken again
    torch.manual_seed(99)
    second = make_trainer(data, tmp_path / "b", **options).resume()
    history = second.fit()
    assert torch.equal(weights(straight), weights(second))
    assert [m["step"] for m in history] == list(range(1, 9))
    assert [m["loss"] for m in history] == [m["loss"] for m in straight.history]


def test_an_infinite_gradient_skips_the_step_and_halves_the_scale(data):
    trainer = make_trainer(data, precision="float16")
    before, scale = weights(trainer), trainer.state.scaler.get_scale()
    hook = next(trainer.state.model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    trainer.take_step()
    hook.remove()
    assert torch.equal(weights(trainer), before) and trainer.state.scaler.get_scale() == scale / 2
    assert not trainer.state.optimizer.state
    metrics = trainer.take_step()
    assert not torch.equal(weights(trainer), before) and metrics["scale"] == scale / 2


def test_a_skipped_step_is_valid_json(data, tmp_path):
    trainer = make_trainer(data, tmp_path, precision="float16", steps=2)
    next(trainer.state.model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    trainer.fit()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert all("Infinity" not in line and json.loads(line)["grad_norm"] is None for line in lines)


# guards against: clipping before unscaling, or not at all
def test_clipping_sees_unscaled_gradients(data):
    norms = [
        make_trainer(data, precision=p, max_norm=0.1).take_step()["grad_norm"] for p in ("float16", "float32")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


# guards against: clipping before unscaling, or not at all
def test_every_step_is_clipped(data):
    trainer = make_trainer(data, max_norm=1e-9, max_lr=1e-3, weight_decay=0.0, eps=1.0)
    before = weights(trainer)
    trainer.fit()
    assert (weights(trainer) - before).abs().max() < 1e-8


def test_a_loss_that_is_no_number_stops_the_run(data):
    trainer = make_trainer(data)
    with torch.no_grad():
        trainer.state.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 1; .*embedding.token "):
        trainer.fit()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_nan_names_step_module_and_last_good_checkpoint(data, tmp_path, precision):
    trainer = make_trainer(data, tmp_path, checkpoint_every=2, precision=precision)
    inside = trainer.state.model.blocks[1].attention.out_proj
    hook = inside.register_forward_hook(lambda *_: _[2] * (math.nan if trainer.state.step == 5 else 1))
    with pytest.raises(FloatingPointError) as stop:
        trainer.fit()
    hook.remove()
    message, last = str(stop.value), tmp_path / "checkpoints" / "step-000004.safetensors"
    assert message.startswith("the loss is nan at step 6; ")
    assert "first module whose output is not finite: blocks.1.attention.out_proj (Linear)" in message
    assert f"last good checkpoint: {last};" in message and "lower max_lr" in message
    assert weights(trainer).isfinite().all() and newest_checkpoint(tmp_path) == last
    again = make_trainer(data, tmp_path, checkpoint_every=2, precision=precision).resume()
    assert again.state.step == 4 and len(again.fit()) == 8


def test_an_infinite_gradient_in_float32_stops_before_the_step(data):
    trainer = make_trainer(data)
    before = weights(trainer)
    next(trainer.state.model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError, match="the grad_norm is .* at step 1; .*: none: it arose in the"):
        trainer.take_step()
    assert torch.equal(weights(trainer), before)


def test_first_not_finite_finds_the_innermost_module():
    model, ids = GPT(small()), torch.zeros(1, 4, dtype=torch.long)
    assert first_not_finite(model, [ids]).endswith(
        "is not finite: none: it arose in the loss or in the backward pass"
    )
    with torch.no_grad():
        model.blocks[0].norm2.weight[3] = math.inf
    assert re.search(r"is not finite: blocks.0.norm2 \(\w+\)$", first_not_finite(model, [ids, ids]))
    assert not any(module._forward_hooks for module in model.modules())


SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_wait_for_the_step_save_and_resume_bit_identical(data, tmp_path, number):
    raised = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    straight = make_trainer(data, model=small(dropout=0.2))
    straight.fit()
    before = signal.getsignal(number)
    trainer = make_trainer(data, tmp_path, model=small(dropout=0.2))
    hook = trainer.state.model.norm.register_forward_hook(  # in the middle of the fourth step
        lambda *_: signal.raise_signal(number) if trainer.state.step == 3 else None
    )
    with pytest.raises(raised) as stop:
        trainer.fit()
    hook.remove()
    assert raised is KeyboardInterrupt or stop.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert newest_checkpoint(tmp_path).name == "step-000004.safetensors"
    again = make_trainer(data, tmp_path, model=small(dropout=0.2)).resume()
    again.fit()
    assert torch.equal(weights(straight), weights(again))


@pytest.mark.parametrize("last", [3, 6])
def test_a_signal_after_the_save_waits_for_the_next_step_and_its_save(data, tmp_path, last):
    """Whenever it comes, the newest checkpoint is the step that the history ends with."""
    trainer = make_trainer(data, tmp_path, steps=6, checkpoint_every=0)

    def watch(history):
        if len(history) == last:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(watch)
    assert len(trainer.history) == min(last + 1, 6)
    assert newest_checkpoint(tmp_path).name == f"step-{len(trainer.history):06}.safetensors"


def test_an_interrupt_breaks_off_the_evaluation(data, tmp_path):
    """The step is saved; what was measured of it so far is not."""
    trainer = make_trainer(data, tmp_path, val_data=data, eval_every=2, batch_size=1)
    calls = []

    def interrupt(module, inputs, output):
        if not module.training:
            calls.append(1)
            signal.raise_signal(signal.SIGINT)

    hook = trainer.state.model.norm.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    hook.remove()
    assert len(calls) == 1 and trainer.state.model.training
    assert newest_checkpoint(tmp_path).name == "step-000002.safetensors"
    assert [m["step"] for m in trainer.history] == [1, 2] and "val_loss" not in trainer.history[1]


@pytest.mark.parametrize("in_training", [True, False])
def test_a_second_interrupt_ends_at_once_and_what_was_saved_is_whole(data, tmp_path, in_training):
    straight = make_trainer(data, tmp_path / "straight", val_data=data, model=small(dropout=0.2))
    straight.fit()
    options = {"val_data": data, "model": small(dropout=0.2), "checkpoint_every": 2, "eval_every": 4}
    trainer = make_trainer(data, tmp_path / "run", **options)

    def twice(module, inputs, output):
        if trainer.state.step == 4 and module.training == in_training:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second interrupt was ignored")

    hook = trainer.state.model.norm.register_forward_hook(twice)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    hook.remove()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = make_trainer(data, tmp_path / "run", **options).resume()
    assert again.state.step == (4 if in_training else 2)
    again.fit()
    assert torch.equal(weights(straight), weights(again))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_is_ignored_stays_ignored(data, number):
    """As SIGINT and SIGHUP are under nohup."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        trainer = make_trainer(data)
        trainer.state.model.norm.register_forward_hook(lambda *_: signal.raise_signal(number))
        assert len(trainer.fit()) == 8 and signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_training_works_in_a_thread(data):
    """Where Python lets nobody catch signals."""
    trainer = make_trainer(data)
    thread = threading.Thread(target=trainer.fit)
    thread.start()
    thread.join()
    assert len(trainer.history) == 8


def test_gradients_of_a_step_that_was_broken_off_do_not_count(data):
    clean, broken = make_trainer(data), make_trainer(data)
    broken.state.model.norm.weight.grad = torch.ones(32)  # what a second Ctrl-C in a notebook may leave
    assert clean.take_step()["grad_norm"] == broken.take_step()["grad_norm"]


# ---------------------------------------------------------------- two processes, a full disk

HOLDER = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_in_which_another_process_trains_is_refused_until_that_ends(data, tmp_path):
    make_trainer(data, tmp_path, steps=4).fit()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"held"
        again = make_trainer(data, tmp_path).resume()
        load_checkpoint(newest_checkpoint(tmp_path), GPT(small()))  # reading is free
        with pytest.raises(BlockingIOError, match="another process trains in .*; name another run_dir"):
            again.fit()
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        other.kill()  # and so it cannot say that it is done
    assert len(again.fit()) == 8


def test_a_run_that_was_interrupted_or_failed_lets_go_of_its_folder(data, tmp_path):
    trainer = make_trainer(data, tmp_path)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(watch=lambda history: 1 / 0)
    assert len(trainer.fit()) == 8


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom the system can refuse")
def test_a_folder_that_cannot_be_written_can_be_read(data, tmp_path):
    make_trainer(data, tmp_path, steps=4).fit()
    for path in [tmp_path, *tmp_path.rglob("*")]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        assert load_checkpoint(best_checkpoint(tmp_path), GPT(small()))["step"] == 4
        assert make_trainer(data, tmp_path).resume().state.step == 4
    finally:
        for path in [tmp_path, *tmp_path.rglob("*")]:
            path.chmod(0o700)


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as the system says it: without a name


@contextlib.contextmanager
def files_of_at_most(n_bytes):
    """Inside, a file that grows longer fails as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))

    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("fails", ["write", "fsync", "replace"])
def test_a_full_disk_is_named_and_leaves_the_last_checkpoint_whole(data, tmp_path, monkeypatch, fails):
    trainer = make_trainer(data, tmp_path, checkpoint_every=4)
    with files_of_at_most(20_000) as limit:
        fill = limit if fails == "write" else lambda _: monkeypatch.setattr(os, fails, full_disk)
        with pytest.raises(OSError, match="(No space left|File too large).*step-000008.safetensors"):
            trainer.fit(watch=lambda history: fill(history) if len(history) == 6 else None)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.part"))
    again = make_trainer(data, tmp_path, checkpoint_every=4).resume()
    assert again.state.step == 4 and len(again.fit()) == 8


def test_a_disk_that_is_full_of_metrics_is_named(data, tmp_path):
    trainer = make_trainer(data, tmp_path, checkpoint_every=4)
    with files_of_at_most(700) as limit:
        with pytest.raises(OSError, match="File too large: .*metrics.jsonl"):
            trainer.fit(watch=lambda history: limit(history) if len(history) == 5 else None)
    again = make_trainer(data, tmp_path, checkpoint_every=4).resume()
    assert again.state.step == 4 and len(again.fit()) == 8
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 9))


def test_a_disk_that_is_full_of_graphs_is_named(data, tmp_path, monkeypatch):
    writer = types.SimpleNamespace(add_scalar=full_disk, close=lambda: None)
    module = types.SimpleNamespace(SummaryWriter=lambda folder, purge_step: writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with pytest.raises(OSError, match="No space left on device: .*tensorboard"):
        make_trainer(data, tmp_path).fit()


# ---------------------------------------------------------------- kill -9

CHILD = """
import json, os, signal, sys, warnings
import torch
from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.data import TokenDataset
from ch05_training.training import TrainConfig, Trainer

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
warm.state.optimizer.step()
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
        resumed_from.add(again.state.step)
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
    record = {"another step": whole.replace(b'[\\"step\\", 8]', b'[\\"step\\", 9]')}
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
        assert again.state.step == 4 and path.read_bytes() == spoiled, name
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
    again.take_step()
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
    names = [name for name, _ in trainer.state.model.named_parameters()]
    kept = trainer.state.optimizer.state_dict()["state"]
    means = {f"optimizer.state.{number}.{mean}" for number in kept for mean in ("m", "v")}
    assert set(tensors) == {f"weights.{name}" for name in names} | means | {"random.cpu"}
    assert len(means) == 2 * len(names) and all(state["step"] == 8 for state in kept.values())
    assert set(record) == {"step", "model", "weights", "optimizer", "scaler", "random", "extra"}
    assert set(record["extra"]) == {"train", "windows", "best", "data"}
    assert record["step"] == 8 and record["extra"]["windows"] == 16
    assert record["extra"]["data"] == {"train": data.fingerprint, "val": data.fingerprint}
    assert record["model"] == vars(small())
    assert bool(record["scaler"]) == (precision == "float16")
    assert TrainConfig(**record["extra"]["train"]) == trainer.config


def test_the_last_few_and_the_best_are_kept(data, tmp_path, monkeypatch):
    values = iter([3.0, 1.0, 2.0, 1.5, 4.0, 5.0, 6.0, 7.0])
    monkeypatch.setattr(training, "evaluate", lambda *_: {"loss": next(values)})
    trainer = make_trainer(data, tmp_path, val_data=data, eval_every=1, checkpoint_every=1)
    trainer.fit()
    assert [path.name[5:11] for path in checkpoint_paths(tmp_path)] == ["000002", "000007", "000008"]
    assert best_checkpoint(tmp_path).name == "step-000002.safetensors"
    assert make_trainer(data, tmp_path).resume().state.best == {"step": 2, "val_loss": 1.0}


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


@pytest.mark.parametrize(
    "name", ["step-best", "step-000008 (copy)", "._step-000004", "step-", "step-8x", "step-٣"]
)
def test_only_steps_in_digits_are_checkpoints(data, tmp_path, name):
    """What somebody copied beside them is neither read, nor sorted, nor deleted."""
    trainer = make_trainer(data, tmp_path, checkpoint_every=4, keep_checkpoints=1)
    beside = tmp_path / "checkpoints" / f"{name}.safetensors"

    def copy(history):
        if len(history) == 5:
            shutil.copy(newest_checkpoint(tmp_path), beside)

    assert len(trainer.fit(watch=copy)) == 8 and beside.exists()
    assert [path.name for path in checkpoint_paths(tmp_path)] == ["step-000008.safetensors"]
    assert best_checkpoint(tmp_path).name == "step-000008.safetensors"
    assert make_trainer(data, tmp_path).resume().state.step == 8


def test_a_best_checkpoint_that_is_gone(data, tmp_path):
    make_trainer(data, tmp_path, val_data=data, eval_every=2, checkpoint_every=2, max_lr=1.0).fit()
    best = best_checkpoint(tmp_path)
    if best != newest_checkpoint(tmp_path):
        best.unlink()
    assert best_checkpoint(tmp_path).exists()


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
    again.fit()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 9))


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


# ---------------------------------------------------------------- going on otherwise than before


@pytest.mark.parametrize(
    ("model", "change"),
    [({"dropout": 0.3, "backend": "eager", "init_std": 0.1}, {}), ({}, {"precision": "bfloat16"})],
)
def test_what_shapes_no_weight_may_change(data, tmp_path, model, change):
    make_trainer(data, tmp_path, steps=4).fit()
    again = make_trainer(data, tmp_path, model=small(**model), **change).resume()
    assert again.state.step == 4 and len(again.fit()) == 8


@pytest.mark.parametrize(
    ("before", "after"), [((8, 1), (4, 1)), ((4, 1), (8, 1)), ((2, 3), (3, 2)), ((4, 1), (3, 1))]
)
def test_with_another_batch_size_a_run_goes_on_after_the_last_window(data, tmp_path, before, after):
    asked = []

    class Asked(TokenDataset):
        def windows(self, first, count, seed=0):
            asked.extend(range(first, first + count))
            return super().windows(first, count, seed)

    data = Asked(data.token_ids, 16)
    for steps, (batch_size, grad_accum) in ((4, before), (8, after)):
        trainer = make_trainer(data, tmp_path, steps=steps, batch_size=batch_size, grad_accum=grad_accum)
        (trainer.resume() if steps == 8 else trainer).fit()
    assert asked == list(range(4 * math.prod(before) + 4 * math.prod(after)))


def test_a_longer_run_says_that_the_rate_rises(data, tmp_path):
    make_trainer(data, tmp_path, max_lr=1e-2).fit()
    rate = r"\d.\de[-+]\d\d"
    sentence = f"^the learning rate rises from {rate} at step 8 to {rate} at step 9: steps=16 instead of 8$"
    with pytest.warns(UserWarning, match=sentence) as said:
        trainer = make_trainer(data, tmp_path, max_lr=1e-2, steps=16).resume()
    (sentence,) = (str(warning.message) for warning in said)
    last, following = re.findall(rate, sentence)
    history = trainer.fit()
    assert [f"{m['lr']:.1e}" for m in history[7:9]] == [last, following] and float(following) > float(last)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"steps": 6, "warmup_steps": 2}, None),  # lower than it would have been
        ({"max_lr": 5e-4}, None),
        ({"max_lr": 1.0, "min_lr": 0.5}, "max_lr=1.0 instead of 0.003, min_lr=0.5 instead of 0.0$"),
    ],
)
@pytest.mark.parametrize("stop_at", [1, 4])
def test_only_a_rise_that_was_not_planned_is_said(data, tmp_path, stop_at, change, said):
    """Step 1 is in the warm-up, where the rate rises by itself."""
    first = make_trainer(data, tmp_path)
    while first.state.step < stop_at:
        first.log(first.take_step())
    first.save()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_trainer(data, tmp_path, **change).resume()
    if said:
        assert re.search(said, str(caught[0].message))
    else:
        assert not caught


def test_another_text_is_refused_and_both_are_named(data, tmp_path):
    plays = TokenDataset(data.token_ids, 16, name="the plays")
    letters = TokenDataset(data.token_ids.flip(0), 16, name="my letters")
    make_trainer(plays, tmp_path, val_data=plays).fit()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for train, val in ((letters, plays), (plays, letters)):
        trainer = make_trainer(train, tmp_path, val_data=val)
        untouched = weights(trainer)
        with pytest.raises(
            ValueError, match=r"was (trained|measured) with the plays \(400 tokens, sha256 \w{12}\), but"
        ) as error:
            trainer.resume()
        assert "this is my letters (400 tokens, sha256 " in str(error.value)
        assert torch.equal(weights(trainer), untouched) and trainer.state.step == 0
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    renamed = TokenDataset(data.token_ids, 16, name="the same, from another folder")
    assert make_trainer(renamed, tmp_path, val_data=renamed).resume().state.step == 8
    assert make_trainer(renamed, tmp_path).resume().state.step == 8  # and one need not measure


OPTIMIZERS = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "SGD without momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "torch.optim.AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, amsgrad=True),
    "Adafactor": lambda model: torch.optim.Adafactor(model.parameters(), lr=1e-2),
    "RMSprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-3, centered=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
# guards against: a resumed run that goes another way
def test_any_optimizer_is_saved_and_resumed_bit_identical(data, tmp_path, name):
    def trainer(folder):
        made = make_trainer(data, tmp_path / folder, checkpoint_every=4)
        made.state.optimizer = OPTIMIZERS[name](made.state.model)
        return made

    straight = trainer("straight")
    straight.fit()
    trainer("stopped").fit()
    newest_checkpoint(tmp_path / "stopped").unlink()
    again = trainer("stopped").resume()
    assert again.state.step == 4
    again.fit()
    assert torch.equal(weights(straight), weights(again))


def test_the_settings_of_the_optimizer_are_those_of_the_new_configuration(data, tmp_path):
    make_trainer(data, tmp_path, steps=4).fit()
    again = make_trainer(data, tmp_path, weight_decay=0.5, betas=(0.5, 0.6), eps=1e-3).resume()
    groups = again.state.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert all(group["betas"] == (0.5, 0.6) and group["eps"] == 1e-3 for group in groups)


DTYPES = [torch.float32, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("before", DTYPES)
@pytest.mark.parametrize("after", DTYPES)
@pytest.mark.parametrize("optimizer_class", [AdamW, torch.optim.AdamW])
def test_a_checkpoint_may_be_loaded_into_another_dtype(data, tmp_path, before, after, optimizer_class):
    """Weights and means take the dtype of the model they are loaded into, and the next step works."""
    models = [GPT(small()).to(dtype) for dtype in (before, after)]
    optimizers = [optimizer_class(model.parameters(), lr=1e-2) for model in models]
    inputs, targets = data.batch(0, 2)
    for number in range(2):
        if number:
            save_checkpoint(tmp_path / "c.safetensors", models[0], optimizers[0])
            load_checkpoint(tmp_path / "c.safetensors", models[1], optimizers[1])
            for one, other in zip(*(model.parameters() for model in models), strict=True):
                assert other.dtype == after and torch.equal(one.to(after), other)
        cross_entropy(models[number](inputs), targets).backward()
        optimizers[number].step()
    for parameter, state in optimizers[1].state.items():
        assert parameter.isfinite().all() and all(
            value.dtype == after
            for value in state.values()
            if isinstance(value, torch.Tensor) and value.dim()
        )


def test_the_checkpoint_of_step_0_leads_back_to_the_start(data, tmp_path):
    straight = make_trainer(data)
    save_checkpoint(tmp_path / "start.safetensors", straight.state.model, straight.state.optimizer)
    straight.fit()
    trained = make_trainer(data)
    trained.fit()
    load_checkpoint(tmp_path / "start.safetensors", trained.state.model, trained.state.optimizer)
    assert not trained.state.optimizer.state
    trained.state.step = trained.state.windows = 0
    trained.fit()
    assert torch.equal(weights(trained), weights(straight))


class Own(nn.Module):
    """A learner's own module: no configuration, a buffer, a number, and two names for one layer."""

    def __init__(self, width=3):
        super().__init__()
        self.first = nn.Linear(2, width)
        self.norm = nn.BatchNorm1d(width)
        self.again = self.first


def test_any_module_can_be_saved(tmp_path):
    path, model = tmp_path / "c.safetensors", Own()
    model.norm(model.first(torch.randn(8, 2)))  # the buffers are not what they were
    save_checkpoint(path, model, note="mine")
    other = Own()
    record = load_checkpoint(path, other)
    assert record["extra"] == {"note": "mine"} and record["model"] == {}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert not [name for name in read_checkpoint(path)[0] if "again" in name]


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            Own(1),
            r"first.weight=\(3, 2\), but this one has first.weight=\(1, 2\); build it with",
        ),  # not stretched
        (nn.Linear(2, 3), "first.weight=.*, but this one has first.weight=None"),
        (nn.Sequential(Own()), "first.weight=.*, but this one has first.weight=None"),
    ],
)
def test_a_module_of_another_shape_is_refused(tmp_path, other, sentence):
    save_checkpoint(tmp_path / "c.safetensors", Own())
    before = [tensor.clone() for tensor in other.state_dict().values()]
    with pytest.raises(ValueError, match=sentence):
        load_checkpoint(tmp_path / "c.safetensors", other)
    assert all(torch.equal(a, b) for a, b in zip(before, other.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "value", [3, 0.5, None, True, "a", [], {}, (1, 2), [{"a": (None,)}], {1: {"b": [2.5]}}]
)
def test_what_is_packed_is_unpacked(value):
    w, tensors = torch.arange(3.0), {}
    packed = json.loads(json.dumps(pack({"x": value, 7: [w, (w, None)]}, "top", tensors)))
    assert set(tensors) == {"top.7.0", "top.7.1.0"}
    again = unpack(packed, tensors)
    assert again["x"] == value and type(again["x"]) is type(value)
    assert torch.equal(again[7][1][0], w) and isinstance(again[7][1], tuple)


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
    monkeypatch.setattr(config, "check_compiler", lambda device: None)
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
    written, made, closed = [], [], []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            made.append((Path(folder).name, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def close(self):
            closed.append(len(written))

    module = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    make_trainer(data, tmp_path, checkpoint_every=4).fit()
    assert made == [("tensorboard", 1)] and [s for n, s in written if n == "loss"] == list(range(1, 9))
    newest_checkpoint(tmp_path).unlink()
    make_trainer(data, tmp_path).resume().fit()
    assert made[1] == ("tensorboard", 5) and closed[-1] == len(written)


def test_without_tensorboard_nothing_is_missing(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert len(make_trainer(data, tmp_path).fit()) == 8 and not (tmp_path / "tensorboard").exists()


def test_speed_counts_the_tokens_of_a_step(data, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock) / 2)
    history = make_trainer(data, grad_accum=3, steps=2).fit()
    assert [m["tokens_per_s"] for m in history] == [2 * 2 * 3 * 16] * 2


def test_the_bar_shows_the_loss_and_the_rate(data, capsys):
    make_trainer(data).fit()
    shown = capsys.readouterr().err
    assert "loss=" in shown and "lr=" in shown and "8/8" in shown


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


@pytest.mark.parametrize("seconds", [0, 1000])
def test_live_plot_shows_a_figure_and_then_that_figure_anew(monkeypatch, seconds):
    """With a stand-in for the notebook: it displays once, and updates what it displayed."""
    shown = []

    class Handle:
        def update(self, figure, metadata):
            shown.append(("update", figure, metadata))

    def display(figure, metadata, display_id):
        shown.append(("display", figure, metadata))
        return Handle() if display_id else None

    def draw(height):
        _, axes = plt.subplots()
        axes.plot([0, height])
        return axes

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(plt, "get_backend", lambda: "module://matplotlib_inline.backend_inline")
    live = LivePlot(draw, "a rising line", seconds)
    for height in (1, 2):
        live(height)
    live(3, finished=True)
    kinds, figures, metadata = zip(*shown, strict=True)
    heights = [figure.axes[0].lines[0].get_ydata()[1] for figure in figures]
    if seconds == 0:
        assert kinds == ("display", "update", "update") and heights == [1, 2, 3]
    else:
        assert kinds == ("display",) and heights == [3]
    assert all(data == {"image/png": {"alt": "a rising line"}} for data in metadata)
    assert not any(plt.fignum_exists(figure.number) for figure in figures)  # or it is shown twice


def test_a_loss_curve_has_axes_names_and_ink(data):
    history = make_trainer(data, val_data=data, eval_every=4).fit()
    axes = plot_history(history, 50)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss (nats a token)")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "held-out text"]
    assert [text.get_text() for text in axes.texts] == ["uniform, ln 50"]
    training, held_out, uniform = axes.lines
    assert list(training.get_ydata()) == [m["loss"] for m in history]
    assert list(held_out.get_xdata()) == [4, 8] and set(uniform.get_ydata()) == {math.log(50)}
    axes.figure.canvas.draw()
    ink = (np.asarray(axes.figure.canvas.buffer_rgba())[..., :3].min(axis=-1) < 128).mean()
    assert 0.005 < ink < 0.2
    plt.close(axes.figure)


# ---------------------------------------------------------------- devices


class Moves(TorchFunctionMode):
    """Notes where token ids are sent."""

    def __init__(self):
        super().__init__()
        self.sent = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to and args[0].dtype == torch.int64:
            self.sent.append(torch.device(args[1]))
        return func(*args, **(kwargs or {}))


def test_inputs_and_targets_go_to_the_device_of_the_model(data):
    trainer = make_trainer(data, grad_accum=3)
    with Moves() as step:
        trainer.take_step()
    with Moves() as evaluation:
        evaluate(trainer.state.model, data, batch_size=10)
    n_batches = len(list(data.in_order(10)))
    assert step.sent == [torch.device("cpu")] * 6
    assert evaluation.sent == [torch.device("cpu")] * 2 * n_batches


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_nothing_is_made_on_the_default_device(data, tmp_path, precision):
    """A tensor made without `device=` would be one without numbers here, and could meet no other."""
    options = {"val_data": data, "precision": precision, "model": small(dropout=0.1), "checkpoint_every": 4}
    straight = make_trainer(data, tmp_path / "straight", **options)
    straight.fit()
    first, second = (make_trainer(data, tmp_path / "meta", **options) for _ in range(2))
    with torch.device("meta"):
        torch.default_generator.manual_seed(0)
        first.fit()
        newest_checkpoint(tmp_path / "meta").unlink()
        second.resume().fit()
    assert torch.equal(weights(straight), weights(first)) and torch.equal(weights(first), weights(second))


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
        ((torch.arange(50), 20), "windows of 20 tokens and the id 49 do not fit .* context_length=16"),
        ((torch.arange(51), 16), "windows of 16 tokens and the id 50 do not fit .* and vocab_size=50"),
    ],
)
def test_data_that_do_not_fit_the_model(data, tmp_path, val, message):
    """Said at once: the first evaluation, where they would fail, may come after the last step."""
    val = TokenDataset(*val)
    for train, held_out in ((data, val), (val, None)):
        with pytest.raises(ValueError, match=message):
            make_trainer(train, tmp_path / "run", held_out)
    assert not (tmp_path / "run").exists()
