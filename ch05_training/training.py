"""Training: the settings and the state of a run, its folder, and the Trainer that keeps it going."""

# Written by `make export` from ch05_training.ipynb; change it there.

import contextlib
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout
from torch import nn
from tqdm import tqdm

from .checkpoint import load_checkpoint, newest_whole, save_checkpoint
from .config import check_compiler
from .data import TokenDataset
from .files import (
    as_line,
    checkpoint_paths,
    naming,
    newest_checkpoint,
    open_board,
    read_history,
    step_of,
    write_whole,
)
from .interrupts import interrupts_wait, stop
from .optimization import (
    AdamW,
    bits_per_byte,
    clip_grad_norm_,
    cross_entropy,
    parameter_groups,
    perplexity,
    pick_device,
    pick_precision,
    warmup_cosine,
)
from .previous_chapters import Count, NotNegative, Positive, Share, Size, check_fields
from .resuming import check_same_text, warn_of_rising_rate
from .step import evaluate, summed_loss, train_step

__all__ = [
    "TrainConfig",
    "TrainState",
    "RunFolder",
    "check_run",
    "Trainer",
    "TokenDataset",
    "bits_per_byte",
    "clip_grad_norm_",
    "cross_entropy",
    "perplexity",
    "warmup_cosine",
]

# %% ch05_training.ipynb #98ae0e48
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
        in_float16 = pick_precision(config.precision, device) == torch.float16
        torch.manual_seed(config.seed)  # for dropout
        return cls(
            model,
            AdamW(groups, config.max_lr, config.betas, config.eps),
            torch.amp.GradScaler(device.type, enabled=in_float16),
        )

# %% ch05_training.ipynb #69467ff0
class RunFolder:
    """What is on disk of a run: metrics.jsonl, a line a step, checkpoints/, and tensorboard/ for graphs."""

    def __init__(self, path):
        self.path, self.board = Path(path), None

    @contextlib.contextmanager
    def writing(self, state):
        """Inside, the folder is this process's own, and holds no metrics later than `state`.

        BlockingIOError when another process is training there, FileExistsError when the state is new and the
        folder has checkpoints, which are not written over.
        """
        with naming(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.path / "run.lock", timeout=0).acquire()  # ends with this process
        except Timeout:
            raise BlockingIOError(f"another process trains in {self.path}; name another run_dir") from None
        with lock:
            if state.step == 0 and checkpoint_paths(self.path):
                other = "go on with it by .resume().fit(), or name another run_dir"
                newest = newest_checkpoint(self.path).name
                raise FileExistsError(f"{self.path} holds a run already, up to {newest}; {other}")
            for left in self.path.rglob("*.part"):  # by a process that was killed
                left.unlink()
            write_whole(self.path / "metrics.jsonl", "".join(map(as_line, state.history)).encode())
            self.board = open_board(self.path / "tensorboard", state.step + 1)
            with contextlib.closing(self.board) if self.board else contextlib.nullcontext():
                yield

    def log(self, metrics):
        """Write the numbers of a step down."""
        path = self.path / "metrics.jsonl"
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                file.write(as_line(metrics))
        with naming(self.path / "tensorboard"):
            for name, value in metrics.items() if self.board else ():
                self.board.add_scalar(name, value, metrics["step"])

    def save(self, state, config, **extra):
        """Write a checkpoint; delete those that are neither new nor the best."""
        path = self.path / "checkpoints" / f"step-{state.step:06}.safetensors"
        extra |= {"train": asdict(config), "windows": state.windows, "best": state.best}
        save_checkpoint(path, state.model, state.optimizer, state.scaler, state.step, **extra)
        earlier = [old for old in checkpoint_paths(self.path) if step_of(old) <= state.step]
        for old in earlier[: -config.keep_checkpoints]:
            if step_of(old) != (state.best or {}).get("step"):
                old.unlink()

    def load(self, path, state):
        """Put a checkpoint into `state`, but for the settings of its optimizer, such as weight_decay."""
        settings = [dict(group) for group in state.optimizer.param_groups]
        record = load_checkpoint(path, state.model, state.optimizer, state.scaler)
        for group, kept in zip(state.optimizer.param_groups, settings, strict=True):
            group.update(kept)
        state.step, state.windows = record["step"], record["extra"]["windows"]
        state.best, state.history = record["extra"]["best"], read_history(self.path, state.step)

# %% ch05_training.ipynb #595507a7
def check_run(config, data):
    """ValueError when a model with this GPTConfig cannot read a dataset, said before the first step."""
    T, highest = data.context_length, data.token_ids.max().item()
    if T > config.context_length or highest >= config.vocab_size:
        model = f"context_length={config.context_length} and vocab_size={config.vocab_size}"
        raise ValueError(f"windows of {T} tokens and the id {highest} do not fit a model of {model}")

# %% ch05_training.ipynb #e45afd8d
class Trainer:
    """Trains a GPT: Trainer(model, config, train_data, val_data, run_dir).fit(). A dict a step in .history.

    With a run_dir everything is kept in a RunFolder; .resume() goes on from its newest checkpoint.
    """

    def __init__(self, model, config, train_data, val_data=None, run_dir=None):
        for data in [train_data] if val_data is None else [train_data, val_data]:
            check_run(model.config, data)
        self.config, self.train_data, self.val_data = config, train_data, val_data
        self.folder = RunFolder(run_dir) if run_dir else None
        self.device = pick_device(config.device)
        self.precision = pick_precision(config.precision, self.device)
        self.loss_of = summed_loss
        if config.compile:  # the loss, so that the model and its names stay as they are
            check_compiler(self.device)
            self.loss_of = torch.compile(summed_loss)
        self.state = TrainState.start(model, config)

    @property
    def history(self):
        return self.state.history

    def fit(self, watch=None):
        """Train to config.steps; returns the history. watch, if given, is called with it after each step.

        A first Ctrl-C, SIGTERM or SIGHUP waits for the step, saves and stops by a KeyboardInterrupt or a
        SystemExit. A second one stops at once. FloatingPointError as in train_step.
        """
        c, state = self.config, self.state
        state.model.train()
        kept = self.folder.writing(state) if self.folder else contextlib.nullcontext()
        with kept, self.progress_bar() as bar, interrupts_wait() as asked:
            while state.step < c.steps:
                began = time.perf_counter()
                metrics = self.take_step()
                metrics["tokens_per_s"] = round(self.tokens_a_step() / (time.perf_counter() - began))
                improved = self.due(c.eval_every) and self.measure(metrics, asked)
                self.log(metrics)
                if self.due(c.checkpoint_every) or improved or asked:
                    self.save()
                self.show(bar, metrics)
                if watch:
                    watch(state.history)
                if asked:
                    stop(asked[0])
        return state.history

    def take_step(self):
        """train_step with the windows that come next; returns its numbers."""
        c, first = self.config, self.state.windows
        places = [first + i * c.batch_size for i in range(c.grad_accum)]
        try:
            batches = [self.train_data.windows(place, c.batch_size, c.seed) for place in places]
            return train_step(self.state, batches, c, self.loss_of)
        except FloatingPointError as error:
            advice = f"last good checkpoint: {self.last_saved()}; go on from it with a lower max_lr"
            raise FloatingPointError(f"{error}; {advice}") from None

    def last_saved(self):
        """The newest checkpoint's path, or "none"."""
        paths = checkpoint_paths(self.folder.path) if self.folder else []
        return paths[-1] if paths else "none"

    def due(self, every):
        """Is it time for what happens each `every` steps, and after the last?"""
        return self.state.step == self.config.steps or (every and self.state.step % every == 0)

    def measure(self, metrics, asked=()):
        """Put the held-out loss into metrics; True when it is the lowest so far."""
        if self.val_data is None:
            return False
        result = evaluate(self.state.model, self.val_data, 4 * self.config.batch_size, self.precision, asked)
        metrics |= {f"val_{name}": value for name, value in (result or {}).items()}
        improved = result and (not self.state.best or result["loss"] < self.state.best["val_loss"])
        if improved:
            self.state.best = {"step": self.state.step, "val_loss": result["loss"]}
        return improved

    def log(self, metrics):
        """Keep the numbers of a step, in history and on disk."""
        self.state.history.append(metrics)
        if self.folder:
            self.folder.log(metrics)

    def save(self):
        """Write a checkpoint. Without a run_dir: nothing."""
        if self.folder:
            self.folder.save(self.state, self.config, data=self.fingerprints())

    def resume(self):
        """Go back to the newest whole checkpoint of run_dir; returns self: .resume().fit() goes on.

        ValueError when the run was trained on another text. A warning when the learning rate now rises.
        """
        path, record = newest_whole(self.folder.path)
        for part, now in self.fingerprints().items():
            check_same_text(record["extra"]["data"][part], now, self.folder.path)
        self.folder.load(path, self.state)
        warn_of_rising_rate(TrainConfig(**record["extra"]["train"]), self.config, self.state.step)
        return self

    def fingerprints(self):
        """Which texts these are, for the checkpoint."""
        return {"train": self.train_data.fingerprint, "val": self.val_data and self.val_data.fingerprint}

    def tokens_a_step(self):
        return self.config.batch_size * self.config.grad_accum * self.train_data.context_length

    def progress_bar(self):
        steps, done = self.config.steps, self.state.step
        return tqdm(total=steps, initial=done, desc="training", unit="step", mininterval=0.5)

    def show(self, bar, metrics):
        """One more step on the bar, with its numbers."""
        bar.update()
        numbers = {"loss": f"{metrics['loss']:.3f}", "lr": f"{metrics['lr']:.1e}"}
        bar.set_postfix(numbers | {"tokens/s": f"{metrics['tokens_per_s']:,}"}, refresh=False)
