"""The small runs of the zoo: text, model, batch and step, made of whatever parts of the course are given."""

# Written by hand: it sets the table for the hunts.

import difflib
import functools
import inspect
from typing import NamedTuple

import torch

import ch01_tokenization.tokenizer
import ch02_embeddings.embeddings
import ch03_attention.attention
import ch04_transformer.transformer
import ch05_training.data
import ch05_training.step
import ch05_training.training
from ch01_tokenization.corpus import load_plays
from ch04_transformer.transformer import GPTConfig
from ch05_training.config import TrainConfig


def pad_batch(rows, pad_id):
    """Rows of ids as inputs and targets (B, T), padded on the right; the padding does not count."""
    T = max(map(len, rows)) - 1
    full = torch.tensor([row + [pad_id] * (T + 1 - len(row)) for row in rows])  # (B, T + 1)
    inputs, targets = full[:, :-1], full[:, 1:]
    outside = torch.arange(T) >= torch.tensor([len(row) - 1 for row in rows])[:, None]  # (B, T)
    targets = targets.masked_fill(outside, -100)
    return inputs, targets


HOMES = {
    "tokenizer": ch01_tokenization.tokenizer,
    "embeddings": ch02_embeddings.embeddings,
    "attention": ch03_attention.attention,
    "transformer": ch04_transformer.transformer,
    "data": ch05_training.data,
    "step": ch05_training.step,
    "training": ch05_training.training,
    "padding": pad_batch,
}
USED_BY_TRANSFORMER = {
    "attention": ["MultiHeadAttention"],
    "embeddings": ["InputEmbedding", "RotaryEmbedding"],
}


class Specimen(NamedTuple):
    """What a hunt is given: a model, a batch (inputs, targets), and step(), which trains it once."""

    model: torch.nn.Module
    batch: tuple
    step: object


def healthy_parts():
    """What a run is made of, {home: names}."""
    parts = {name: vars(home) for name, home in HOMES.items() if inspect.ismodule(home)}
    return parts | {"padding": {"pad_batch": pad_batch}}


TEXT_LENGTH, CONTEXT, BATCH = 20_000, 16, 8


@functools.cache
def play():
    """The beginning of a play, which all specimens read."""
    return next(iter(load_plays().values()))[:TEXT_LENGTH]


def text_batch(parts, bug):
    """(vocab_size, batch, dataset) of the play; one id more than it has characters is for padding."""
    right = HOMES["tokenizer"].CharTokenizer(play())
    tokenizer = parts["tokenizer"]["CharTokenizer"](play())
    data = parts["data"]["TokenDataset"](tokenizer.encode(play()), CONTEXT)
    batch = data.batch(0, BATCH)
    if bug and bug.home == "padding":
        lines = [line for line in play().splitlines() if 4 < len(line) <= CONTEXT][:BATCH]
        batch = parts["padding"]["pad_batch"](list(map(right.encode, lines)), right.n_vocab)
    return right.n_vocab + 1, batch, data


def specimen(parts, bug):
    """A model of 2 layers, its batch and its step, from the parts of a course."""
    V, batch, data = text_batch(parts, bug)
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 2, "dropout": 0.1} | (bug.config if bug else {})
    model = parts["transformer"]["GPT"](GPTConfig(V, CONTEXT, **sizes))
    if bug and bug.home == "tokenizer":  # the fault shows in a model that knows something
        whole = healthy_parts()
        train(Steps(whole, model, text_batch(whole, None)[2], grad_accum=1, max_lr=1e-2), 100)
    half = bug is not None and bug.name == "clipped before unscaling"
    steps = Steps(parts, model, data, precision="float16" if half else "float32")
    return Specimen(model, batch, steps.step)


class Steps:
    """Chapter 5's training of a model on a dataset, one step at a time, an evaluation before each."""

    def __init__(self, parts, model, data, precision="float32", grad_accum=2, max_lr=3e-3):
        sizes = {"max_lr": max_lr, "warmup_steps": 1, "grad_accum": grad_accum, "precision": precision}
        self.settings = TrainConfig(steps=1000, device="cpu", **sizes)
        self.parts, self.data = parts, data
        self.state = parts["training"]["TrainState"].start(model, self.settings)
        self.held_out = HOMES["data"].TokenDataset(data.token_ids[-4 * CONTEXT :], CONTEXT)
        model.train()

    def step(self):
        """One optimizer step; returns its numbers."""
        self.parts["step"]["evaluate"](self.state.model, self.held_out)
        places = [self.state.windows + i * BATCH for i in range(self.settings.grad_accum)]
        batches = [self.data.windows(place, BATCH) for place in places]
        return self.parts["step"]["train_step"](self.state, batches, self.settings)


def train(steps, n):
    """n steps; returns their losses (nats a token)."""
    return [steps.step()["loss"] for _ in range(n)]


def diff(bug):
    """The lines that differ, with - and + as in git."""
    before = inspect.getsource(HOMES[bug.home])
    after = before.replace(bug.right, bug.broken)
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in list(lines)[3:])
