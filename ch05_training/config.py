"""What can be set about a training run, and what is checked before it begins. Written by hand."""

import functools
import os
import sysconfig
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from .optimization import warmup_cosine
from .previous_chapters import Count, NotNegative, Positive, Share, Size, check_fields


@dataclass(frozen=True)
class TrainConfig:
    """How a GPT is trained. A value that cannot work is refused with the field, the value and the rule."""

    steps: Size = 1000  # optimizer steps
    batch_size: Size = 8  # windows in a micro-batch
    grad_accum: Size = 1  # micro-batches in a step
    max_lr: Positive = 3e-3  # peak learning rate
    min_lr: NotNegative = 0.0  # what the learning rate falls towards
    warmup_steps: Count = 50  # steps until the peak
    weight_decay: NotNegative = 0.1  # for matrices of linear layers only
    betas: tuple[Share, Share] = (0.9, 0.99)  # AdamW's running means
    eps: Positive = 1e-8  # AdamW's guard against division by zero
    max_norm: Positive = 1.0  # gradients are clipped to this norm
    label_smoothing: Share = 0.0  # share of the loss that asks for a uniform guess
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps, ...
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the matrix products
    compile: bool = False  # let torch.compile translate the model for this machine; it takes a minute
    eval_every: Count = 250  # steps between evaluations on the held-out text; 0: only after the last step
    checkpoint_every: Count = 250  # steps between checkpoints; 0: only after the last step
    keep_checkpoints: Size = 2  # older ones are deleted, but for the best
    seed: Count = 0  # of the batches and dropout

    def __post_init__(self):
        check_fields(self)
        if self.min_lr > self.max_lr:
            raise ValueError(f"min_lr={self.min_lr} must be at most max_lr={self.max_lr}")
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} must be at most steps={self.steps}")

    def rate(self, step):
        """The learning rate of a step, counted from 0."""
        return warmup_cosine(step, self.max_lr, self.min_lr, self.warmup_steps, self.steps)


def check_run(config, *datasets):
    """ValueError when a model with this GPTConfig cannot read a dataset, said before the first step."""
    for data in datasets:
        T, highest = data.context_length, data.token_ids.max().item()
        if T > config.context_length or highest >= config.vocab_size:
            model = f"context_length={config.context_length} and vocab_size={config.vocab_size}"
            raise ValueError(f"windows of {T} tokens and the id {highest} do not fit a model of {model}")


def compiled(function, device):
    """A function as torch.compile translates it. ValueError, with the cause, when it cannot on a device."""
    check_compiler(device)
    return torch.compile(function)


@functools.cache
def check_compiler(device):
    """ValueError, with the cause, when torch.compile does not work on a device. It is tried, on one line.

    That takes seconds, most of them for what the first real compilation then need not load again.
    """
    new = float(time.time_ns())  # a line that was never compiled before: no cache may answer
    try:
        with warnings.catch_warnings(action="ignore"):  # an error says it all
            torch.compile(lambda x: x + new, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:
        raise ValueError(f"{why_not_compiled(str(error))}, or give compile=False") from None


def why_not_compiled(text):
    """The cause and a way out, as the beginning of a sentence, from the text of an error of torch.compile."""
    said = text.split("\nSet TORCH")[0].split("Output:\n")[-1]  # by the compiler, if there was one
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["the compiler said nothing"]
    line = next((line for line in lines if "error:" in line or "cannot find" in line), lines[0])[:300]
    if "No working C++ compiler" in text or "Failed to find C compiler" in text:
        return f"compile=True needs a C++ compiler such as g++ that works, and has none ({line}); install one"
    places = {
        Path(torch.__file__).parent: "move the course and its .venv to a path without one",
        Path(sysconfig.get_path("include")): "move Python to a path without one",
        Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")): "set TORCHINDUCTOR_CACHE_DIR to one without",
        Path(tempfile.gettempdir()): "set TMPDIR to one without",
    }
    for place, remedy in places.items():
        if " " in str(place) and place.as_posix() in text.replace("\\", "/"):
            return f"compile=True fails because of the space in {str(place)!r} ({line}); {remedy}"
    if "Python.h" in said:
        return f"compile=True needs Python's headers ({line}); install them (Debian, Ubuntu: python3-dev)"
    return f"compile=True does not work here ({line}); fix that"
