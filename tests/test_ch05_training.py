"""Chapter 5: optimizer, schedule, loss and trainer equal their references; a resumed run is the same run."""

import copy
import math
import signal
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.data import TokenDataset
from ch05_training.training import (
    AdamW,
    TrainConfig,
    Trainer,
    bits_per_byte,
    checkpoint_paths,
    clip_grad_norm_,
    cross_entropy,
    evaluate,
    load_checkpoint,
    newest_checkpoint,
    parameter_groups,
    perplexity,
    pick_device,
    pick_precision,
    save_checkpoint,
    warmup_cosine,
)

MODEL = GPTConfig(50, 16, d_model=32, n_heads=2, n_layers=2)
TRAIN = TrainConfig(steps=8, batch_size=2, warmup_steps=2, eval_every=0, checkpoint_every=0, device="cpu")


@pytest.fixture
def data():
    return TokenDataset(torch.randint(50, (400,)), 16, n_bytes=900)


def make_trainer(data, run_dir=None, val_data=None, model=MODEL, **changes):
    torch.manual_seed(0)
    return Trainer(GPT(model), replace(TRAIN, **changes), data, val_data, run_dir)


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


# ---------------------------------------------------------------- loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_equals_pytorch(smoothing, reduction):  # known bug 20
    logits = (torch.randn(4, 6, 10) * 20).requires_grad_()
    targets = torch.randint(10, (4, 6))
    targets[0, :4] = -100
    results = []
    for loss in (
        cross_entropy(logits, targets, smoothing, reduction=reduction),
        F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing, reduction=reduction
        ),
    ):
        results.append((loss, torch.autograd.grad(loss, logits)[0]))
    for ours, theirs in zip(*results):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_cross_entropy_with_nothing_to_count_is_zero():  # known bug 20
    logits = torch.randn(3, 10, requires_grad=True)
    loss = cross_entropy(logits, torch.full((3,), -100), 0.1)
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


def test_perplexity_and_bits_per_byte():
    assert perplexity(math.log(8)) == pytest.approx(8)
    assert bits_per_byte(10 * math.log(2), 5) == pytest.approx(2)


# ---------------------------------------------------------------- optimizer, schedule, clipping


def test_adamw_equals_pytorch_over_200_steps():  # known bug 19
    ours = GPT(MODEL).double()
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


def test_adamw_epsilon_comes_after_the_bias_correction():  # known bug 19
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
def test_decay_is_for_matrices_of_linear_layers_only(tied):  # known bug 19
    model = GPT(replace(MODEL, bias=True, tie_weights=tied))
    decayed, kept = (group["params"] for group in parameter_groups(model, 0.1))
    names = {id(p): name for name, p in model.named_parameters()}
    assert all("proj" in names[id(p)] or names[id(p)] == "lm_head.weight" for p in decayed)
    assert all(p.dim() == 1 or names[id(p)].startswith("embedding.") for p in kept)
    assert len(decayed) + len(kept) == len(names)


def test_schedule():  # known bug 18
    rates = [warmup_cosine(step, 1.0, 0.1, 10, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 == max(rates)
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    halfway = warmup_cosine(9 + 45, 1.0, 0.1, 10, 100)
    assert halfway == pytest.approx(0.55)
    assert [warmup_cosine(step, 1.0, 0.1, 4, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]  # all warm-up
    assert warmup_cosine(0, 1.0, 0.1, 0, 1) == pytest.approx(0.1)  # none, and one step


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


def test_an_epoch_takes_every_window_once():  # known bug 16
    data = TokenDataset(torch.arange(173), 8)
    per_epoch = data.n_windows
    starts = [data.batch(step, 1)[0][0, 0].item() for step in range(3 * per_epoch)]
    for epoch in range(3):
        part = sorted(starts[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert [b - a for a, b in zip(part, part[1:])] == [8] * (per_epoch - 1)
    assert starts[:per_epoch] != starts[per_epoch : 2 * per_epoch]


def test_a_batch_is_a_function_of_seed_and_step(data):  # known bug 23
    inputs, targets = data.batch(7, 4, seed=3)
    assert torch.equal(inputs[:, 1:], targets[:, :-1]) and inputs.shape == (4, 16)
    again = TokenDataset(data.token_ids, 16).batch(7, 4, seed=3)
    assert torch.equal(inputs, again[0]) and not torch.equal(inputs, data.batch(7, 4, seed=4)[0])
    assert not torch.equal(inputs, data.batch(8, 4, seed=3)[0])


@pytest.mark.parametrize("n_tokens", [32, 33, 40, 64, 65])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_evaluation_takes_every_token_once(n_tokens, batch_size):  # known bug 22
    data = TokenDataset(torch.arange(n_tokens), 16)
    batches = list(data.in_order(batch_size))
    assert torch.equal(torch.cat([targets.flatten() for _, targets in batches]), torch.arange(1, n_tokens))
    assert all(torch.equal(inputs + 1, targets) for inputs, targets in batches)


def test_from_texts_counts_bytes_and_ends_texts(tokenizer):
    data = TokenDataset.from_texts(["é!", "she sells sea shells"], tokenizer, 4)
    eot = tokenizer.eot_token
    assert data.n_bytes == 3 + 20 and (data.token_ids == eot).sum() == 3
    assert data.token_ids[0] == eot == data.token_ids[-1]


def test_too_short_a_corpus():
    with pytest.raises(ValueError, match="31 tokens are too few for context_length=16; give at least 32"):
        TokenDataset(torch.arange(31), 16)


# ---------------------------------------------------------------- evaluation


def test_evaluate_is_in_eval_mode_and_exact(data):  # known bug 22
    model = GPT(replace(MODEL, dropout=0.5)).train()
    result = evaluate(model, data, batch_size=5)
    assert model.training and result == evaluate(model, data, batch_size=5)
    model.eval()
    total = sum(
        F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum") for x, y in data.in_order(1)
    )
    assert result["loss"] == pytest.approx(total.item() / 399, rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(total.item() / math.log(2) / 900, rel=1e-5)


# ---------------------------------------------------------------- the trainer


class Masked(TokenDataset):
    """A dataset with uneven masks: row r of a batch counts only its last targets."""

    def batch(self, step, batch_size, seed=0):
        inputs, targets = super().batch(step, batch_size, seed)
        targets = targets.clone()
        for row in range(batch_size):
            targets[row, : 3 * ((step * batch_size + row) % 5)] = -100
        return inputs, targets


def test_accumulation_equals_one_large_batch():  # known bugs 15 and 16
    data = Masked(torch.randint(50, (400,)), 16)
    large, small = make_trainer(data, batch_size=8), make_trainer(data, batch_size=2, grad_accum=4)
    for _ in range(3):
        a, b = large.train_step(), small.train_step()
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6) and a["grad_norm"] == pytest.approx(
            b["grad_norm"], rel=1e-5
        )
    assert torch.allclose(weights(large), weights(small), atol=1e-6)


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
def test_a_resumed_run_is_bit_identical(data, tmp_path, precision, stop_at):  # known bug 23
    options = {"model": replace(MODEL, dropout=0.2), "precision": precision, "grad_accum": 2}
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
    trainer.train_step()
    assert not torch.equal(weights(trainer), before)


def test_clipping_sees_unscaled_gradients(data):  # known bug 17
    norms = [
        make_trainer(data, precision=p, max_norm=0.1).train_step()["grad_norm"]
        for p in ("float16", "float32")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def test_every_step_is_clipped(data):  # known bug 17
    trainer = make_trainer(data, max_norm=1e-9, max_lr=1e-3, weight_decay=0.0, eps=1.0)
    before = weights(trainer)
    trainer.fit()
    assert (weights(trainer) - before).abs().max() < 1e-8


def test_precision_by_capability(monkeypatch):  # known bug 21
    cuda = torch.device("cuda")
    for capability, dtype in (((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert pick_precision("auto", cuda) == dtype
    assert pick_precision("auto", torch.device("cpu")) == torch.float32
    assert pick_precision("float16", torch.device("cpu")) == torch.float16
    with pytest.raises(ValueError, match="device 'no' is not available here; use --device cpu"):
        pick_device("no")


def test_a_loss_that_is_no_number_stops_the_run(data):
    trainer = make_trainer(data)
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1"):
        trainer.fit()


def test_ctrl_c_waits_for_the_step_saves_and_resumes_bit_identical(data, tmp_path):
    straight = make_trainer(data, model=replace(MODEL, dropout=0.2))
    straight.fit()
    trainer = make_trainer(data, tmp_path, model=replace(MODEL, dropout=0.2))
    hook = trainer.model.norm.register_forward_hook(  # in the middle of the fourth step
        lambda *_: signal.raise_signal(signal.SIGINT) if trainer.step == 3 else None
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    hook.remove()
    assert newest_checkpoint(tmp_path).name == "step-000004.safetensors"
    again = make_trainer(data, tmp_path, model=replace(MODEL, dropout=0.2)).resume()
    again.fit()
    assert torch.equal(weights(straight), weights(again))


# ---------------------------------------------------------------- checkpoints


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_is_left(data, tmp_path):
    make_trainer(data, tmp_path, checkpoint_every=4).fit()
    path = newest_checkpoint(tmp_path)
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole[: len(whole) // 2], b"", b"not a checkpoint at all"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path.name} is not a whole checkpoint .* delete it"):
            make_trainer(data, tmp_path).resume()
    path.unlink()
    assert make_trainer(data, tmp_path).resume().step == 4


def test_an_interrupted_save_leaves_the_old_checkpoint(data, tmp_path, monkeypatch):
    path, model = tmp_path / "c.safetensors", GPT(MODEL)
    save_checkpoint(path, model, step=1)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError):
        save_checkpoint(path, model, step=2)
    assert load_checkpoint(path, model)["step"] == 1


def test_another_architecture_is_named_and_nothing_changes(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, GPT(MODEL))
    other = GPT(replace(MODEL, n_layers=3))
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(ValueError, match="holds a model with n_layers=2, but this one has n_layers=3"):
        load_checkpoint(path, other)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters()))


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):  # known bug 11
    path, model = tmp_path / "c.safetensors", GPT(MODEL)
    save_checkpoint(path, model)
    again = GPT(MODEL)
    load_checkpoint(path, again)
    assert again.lm_head.weight is again.embedding.token.weight
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert path.stat().st_size < sum(p.numel() for p in model.parameters()) * 4 + 20_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"warmup_steps": -1}, "warmup_steps=-1 must not be negative"),
        ({"max_lr": 0.0}, "max_lr=0.0 must be above 0"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0 must be at least 0 and below 1"),
        ({"precision": "int8"}, "precision='int8' is unknown; choose one of auto, float32"),
    ],
)
def test_bad_configurations(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TRAIN, **change)
