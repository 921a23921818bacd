"""Training: the state of a run, its folder, and the Trainer that keeps it going."""

# Written by `make export` from ch05_training.ipynb; change it there.

import contextlib
import time
from dataclasses import dataclass, field

import torch
from torch import nn
from tqdm import tqdm

from .checkpoint import load_checkpoint, save_checkpoint
from .config import TrainConfig, check_run, compiled
from .data import TokenDataset
from .folder import RunFolder
from .interrupts import interrupts_wait, stop
from .machines import pick_device
from .optimization import (
    AdamW,
    bits_per_byte,
    clip_grad_norm_,
    cross_entropy,
    parameter_groups,
    perplexity,
    pick_precision,
    warmup_cosine,
)
from .step import evaluate, summed_loss, train_step

__all__ = [
    "TrainState",
    "Trainer",
    "TokenDataset",
    "bits_per_byte",
    "clip_grad_norm_",
    "cross_entropy",
    "perplexity",
    "warmup_cosine",
    "TrainConfig",
    "load_checkpoint",
    "save_checkpoint",
]

# %% ch05_training.ipynb #08ffb542
@dataclass
class TrainState:
    """What the next step depends on, besides the text and the settings."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0  # optimizer steps taken
    windows: int = 0  # windows of the text seen
    best: dict | None = None  # {"step", "val_loss"} of the best evaluation
    history: list = field(default_factory=list)  # the numbers of every step, a dict each

    @classmethod
    def start(cls, model, config):
        """At step 0: the model on its device, AdamW, and a scaler that does something in float16 alone."""
        device = pick_device(config.device)
        groups = parameter_groups(model.to(device), config.weight_decay)
        optimizer = AdamW(groups, config.max_lr, config.betas, config.eps)
        in_float16 = pick_precision(config.precision, device) == torch.float16
        torch.manual_seed(config.seed)  # for dropout
        return cls(model, optimizer, torch.amp.GradScaler(device.type, enabled=in_float16))

# %% ch05_training.ipynb #2b61a1d9
class Trainer:
    """Trains a GPT. Without a run_dir nothing is kept on disk."""

    def __init__(self, model, config, train_data, val_data=None, run_dir=None):
        check_run(model.config, *(data for data in (train_data, val_data) if data is not None))
        self.config, self.train_data, self.val_data = config, train_data, val_data
        self.folder = RunFolder(run_dir) if run_dir else None
        self.device = pick_device(config.device)
        self.precision = pick_precision(config.precision, self.device)
        self.loss_of = compiled(summed_loss, self.device) if config.compile else summed_loss
        self.state = TrainState.start(model, config)
        self.texts = {"train": train_data.fingerprint, "val": val_data and val_data.fingerprint}

    @property
    def history(self):
        return self.state.history

    def fit(self, watch=None):
        """Train to config.steps; returns the history. watch is called with it after each step.

        A first Ctrl-C or SIGTERM waits for the step, saves and stops; a second one stops at once.
        """
        c, state = self.config, self.state
        state.model.train()
        folder = self.folder.writing(state) if self.folder else contextlib.nullcontext()
        progress = dict(total=c.steps, initial=state.step, desc="training", unit="step", mininterval=0.5)
        with folder, tqdm(**progress) as bar, interrupts_wait() as asked:
            stopping = False
            while state.step < c.steps and not stopping:
                metrics = self.take_step()
                improved = self.due(c.eval_every) and self.measure(metrics, asked)
                self.log(metrics)
                stopping = bool(asked)  # a signal that comes later waits for the next step
                if self.due(c.checkpoint_every) or improved or stopping:
                    self.save()
                bar.update()
                bar.set_postfix(loss=f"{metrics['loss']:.3f}", lr=f"{metrics['lr']:.1e}", refresh=False)
                if watch:
                    watch(state.history)
            if asked:
                stop(asked[0])
        return state.history

    def due(self, every):
        """Is it time for what happens each `every` steps, and after the last?"""
        return self.state.step == self.config.steps or (every and self.state.step % every == 0)

    def take_step(self):
        """train_step with the windows that come next."""
        c, first, began = self.config, self.state.windows, time.perf_counter()
        places = [first + i * c.batch_size for i in range(c.grad_accum)]
        batches = [self.train_data.windows(place, c.batch_size, c.seed) for place in places]
        metrics = train_step(self.state, batches, c, self.loss_of)
        n_tokens = sum(inputs.numel() for inputs, _ in batches)
        return metrics | {"tokens_per_s": round(n_tokens / (time.perf_counter() - began))}

    def measure(self, metrics, asked=()):
        """Put the held-out loss into metrics; True when it is the lowest so far."""
        if self.val_data is None:
            return False
        result = evaluate(self.state.model, self.val_data, 4 * self.config.batch_size, self.precision, asked)
        if not asked:
            metrics |= {f"val_{name}": value for name, value in result.items()}
        lower = self.state.best is None or result["loss"] < self.state.best["val_loss"]
        if lower and not asked:
            self.state.best = {"step": self.state.step, "val_loss": result["loss"]}
        return lower

    def log(self, metrics):
        self.state.history.append(metrics)
        if self.folder:
            self.folder.log(metrics)

    def save(self):
        if self.folder:
            self.folder.save(self.state, self.config, data=self.texts)

    def resume(self):
        """Go back to the newest whole checkpoint; returns self, so that .resume().fit() goes on.

        ValueError when the text is another one, a warning when the learning rate now rises.
        """
        self.folder.load(self.state, self.config, self.texts)
        return self
