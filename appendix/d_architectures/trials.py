"""Many small trainings, alike but for what is compared."""

# Written by `make export` from d_architectures.ipynb; change it there.

import functools
import math
import time
from typing import NamedTuple

import torch
from torch import nn

from .previous_chapters import (
    BPETokenizer,
    TokenDataset,
    TrainState,
    evaluate,
    load_plays,
    split_plays,
    summed_loss,
    train_step,
)

__all__ = [
    "T95",
    "small_data",
    "Trial",
    "trial",
    "Difference",
    "paired_difference",
]

# %% d_architectures.ipynb #018da731
@functools.cache
def small_data(context_length=64, vocab_size=512, n_plays=12, n_held_out=20_000):
    """(tokenizer, training data, held-out data) from a part of the plays: a second or two to make.

    n_plays: training plays that are read. n_held_out: characters of each held-out play. The same arguments
    give the same objects.
    """
    train, held_out = split_plays(load_plays())
    texts = list(train.values())[:n_plays]
    tokenizer = BPETokenizer.train(texts, vocab_size)
    pieces = [text[:n_held_out] for text in held_out.values()]
    return (
        tokenizer,
        TokenDataset.from_texts(texts, tokenizer, context_length, name="training plays"),
        TokenDataset.from_texts(pieces, tokenizer, context_length, name="held-out plays"),
    )

# %% d_architectures.ipynb #990151ef
class Trial(NamedTuple):
    """What came of one training."""

    model: nn.Module
    losses: list[float]  # of every step, nats a token
    held_out: float  # loss on the held-out data, nats a token
    seconds: float  # of training


def trial(make, config, train_data, held_out_data, loss_of=summed_loss):
    """Build a model with make() under config.seed, train it by a TrainConfig, and measure it: a Trial.

    loss_of: as in train_step, for a model whose loss has a second part. held_out never has it.
    FloatingPointError when a loss is not finite.
    """
    torch.manual_seed(config.seed)
    state = TrainState.start(make(), config)
    state.model.train()
    began = time.perf_counter()
    losses = []
    for step in range(config.steps):
        batch = train_data.batch(step, config.batch_size, config.seed)
        losses.append(train_step(state, [batch], config, loss_of)["loss"])
    seconds = time.perf_counter() - began
    return Trial(state.model, losses, evaluate(state.model, held_out_data)["loss"], seconds)

# %% d_architectures.ipynb #5cc461e7
T95 = (math.nan, math.nan, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # of n numbers


class Difference(NamedTuple):
    """What is left between two models, seed by seed, in the unit of the losses."""

    per_seed: list[float]
    mean: float
    sd: float  # of one seed's difference
    half_width: float  # of the 95 % interval around the mean

    @property
    def tells(self):
        """Whether the interval leaves out 0."""
        return abs(self.mean) > self.half_width


def paired_difference(ours, baseline):
    """Ours minus baseline, losses of the same 2 to 10 seeds in the same order: a Difference. Student 1908.

    ValueError when they are not equally many, or fewer or more than that.
    """
    per_seed = [a - b for a, b in zip(ours, baseline, strict=True)]
    n = len(per_seed)
    if not 2 <= n < len(T95):
        raise ValueError(f"expected the losses of 2 to {len(T95) - 1} seeds, got {n}")
    mean = sum(per_seed) / n
    sd = math.sqrt(sum((value - mean) ** 2 for value in per_seed) / (n - 1))
    return Difference(per_seed, mean, sd, T95[n] * sd / math.sqrt(n))
