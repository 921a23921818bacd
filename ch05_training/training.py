"""Batches, cross-entropy, AdamW, schedules, clipping, accumulation, mixed precision, checkpoints."""

# Written by `make export` from ch05_training.ipynb; change it there.

import contextlib
import json
import math
import signal
import threading
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from .checkpoint import (
    DamagedCheckpoint,
    checkpoint_paths,
    load_checkpoint,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
    step_of,
    write_whole,
)
from .config import TrainConfig, check_compiler, check_run
from .curves import plot_history
from .data import TokenDataset
from .machines import matmul_peak, pick_device
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
from .previous_chapters import forward_flops

__all__ = [
    "evaluate",
    "TrainingRun",
    "as_line",
    "read_history",
    "NoBoard",
    "open_board",
    "SavedRun",
    "first_not_finite",
    "SteppingRun",
    "WatchedRun",
    "interrupts_wait",
    "stop",
    "Trainer",
    "TokenDataset",
    "TrainConfig",
    "plot_history",
    "read_checkpoint",
]

# %% ch05_training.ipynb #1d9f36f3
@torch.no_grad()
def evaluate(model, data, batch_size=32, precision=torch.float32):
    """Loss (nats a token), perplexity and, when data.n_bytes is known, bits per byte, over all of `data`.

    ZeroDivisionError when there is no target in it.
    """
    was_training, total, count = model.training, 0.0, 0
    device = next(model.parameters()).device
    model.eval()
    for inputs, targets in data.in_order(batch_size):
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            logits = model(inputs.to(device))  # (B, T) -> (B, T, V)
        total += cross_entropy(logits, targets.to(device), reduction="sum").item()
        count += (targets != -100).sum().item()
    model.train(was_training)
    result = {"loss": total / count, "perplexity": perplexity(total / count)}
    return result | ({"bits_per_byte": bits_per_byte(total, data.n_bytes)} if data.n_bytes else {})

# %% ch05_training.ipynb #e6a574a1
class TrainingRun:
    """The state of a training run, and how it is kept on disk."""

    def __init__(self, model, config, train_data, val_data=None, run_dir=None):
        for data in (train_data,) if val_data is None else (train_data, val_data):
            check_run(model.config, data)
        self.config, self.train_data, self.val_data = config, train_data, val_data
        self.run_dir = Path(run_dir) if run_dir else None
        self.device = pick_device(config.device)
        self.precision = pick_precision(config.precision, self.device)
        self.model = model.to(self.device)
        if config.compile:  # a function, so that the model and the names in its checkpoints stay as they are
            check_compiler(self.device)
            self.summed_loss = torch.compile(self.summed_loss)
        groups = parameter_groups(model, config.weight_decay)
        self.optimizer = AdamW(groups, config.max_lr, config.betas, config.eps)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.step, self.history, self.best, self.board = 0, [], None, None
        torch.manual_seed(config.seed)  # for dropout; batches have a seed of their own

    def summed_loss(self, inputs, targets):
        """The loss of a micro-batch, both (B, T), summed over its targets; compiled as one piece."""
        logits = self.model(inputs)  # (B, T) -> (B, T, V)
        return cross_entropy(logits, targets, self.config.label_smoothing, reduction="sum")

    def log(self, metrics):
        """Keep the numbers of a step: in history; with a run_dir in metrics.jsonl and for TensorBoard too."""
        self.history.append(metrics)
        if self.run_dir:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            with open(self.run_dir / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(as_line(metrics))
            self.board = self.board or open_board(self.run_dir / "tensorboard", metrics["step"])
            for name, value in metrics.items():
                self.board.add_scalar(name, value, metrics["step"])

# %% ch05_training.ipynb #65dcc281
def as_line(metrics):
    """The numbers of a step as a line of JSON, which knows no infinity: null instead."""
    finite = {k: v if v is None or math.isfinite(v) else None for k, v in metrics.items()}
    return json.dumps(finite) + "\n"


def read_history(run_dir, last_step):
    """The lines of a run's metrics.jsonl up to a step. A line that was cut short is left out."""
    path, history = Path(run_dir) / "metrics.jsonl", []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            metrics = json.loads(line)
            if metrics["step"] <= last_step:
                history.append(metrics)
    return history


class NoBoard:
    """Stands in for TensorBoard's writer where that is not installed."""

    def add_scalar(self, name, value, step):
        pass


def open_board(folder, step):
    """TensorBoard's writer, without what was written from `step` on; NoBoard where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return NoBoard()
    return SummaryWriter(folder, purge_step=step)

# %% ch05_training.ipynb #3df204eb
class SavedRun(TrainingRun):
    """A run that is kept on disk."""

    def save(self):
        """Write a checkpoint; delete what is neither new nor the best. Without a run_dir: nothing."""
        if self.run_dir:
            path = self.run_dir / "checkpoints" / f"step-{self.step:06}.safetensors"
            extra = {"train": asdict(self.config), "best": self.best}
            save_checkpoint(path, self.model, self.optimizer, self.scaler, self.step, **extra)
            earlier = [old for old in checkpoint_paths(self.run_dir) if step_of(old) <= self.step]
            kept = [step_of(old) for old in earlier[-self.config.keep_checkpoints :]]
            for old in earlier:
                if step_of(old) not in kept and step_of(old) != (self.best or {}).get("step"):
                    old.unlink()
            for left in path.parent.glob("*.part"):  # of a save that was killed
                left.unlink()

    def resume(self):
        """Go back to the newest whole checkpoint of run_dir; returns self: .resume().fit() goes on."""
        newest_checkpoint(self.run_dir)  # or FileNotFoundError
        record = self.load_newest()
        self.step, self.best = record["step"], record["extra"].get("best")
        self.history = read_history(self.run_dir, self.step)
        write_whole(self.run_dir / "metrics.jsonl", "".join(map(as_line, self.history)).encode())
        return self

    def load_newest(self):
        """Load the newest checkpoint that is whole; a warning for each that is not."""
        paths = checkpoint_paths(self.run_dir)
        for path in reversed(paths):
            try:
                return load_checkpoint(path, self.model, self.optimizer, self.scaler)
            except DamagedCheckpoint as error:
                if path == paths[0]:
                    raise
                what = str(error).split("; if this course")[0]
                warnings.warn(f"{what}; going back to the checkpoint before it", stacklevel=3)

    def start_new(self):
        """FileExistsError when this is step 0 and run_dir has checkpoints, which are not written over."""
        if self.step == 0 and self.run_dir:
            if checkpoint_paths(self.run_dir):
                newest = newest_checkpoint(self.run_dir).name
                other = "go on with it by .resume().fit(), or name another run_dir"
                raise FileExistsError(f"{self.run_dir} holds a run already, up to {newest}; {other}")
            (self.run_dir / "metrics.jsonl").unlink(missing_ok=True)  # of a run without a checkpoint

# %% ch05_training.ipynb #cfc2ae5e
@torch.no_grad()
def first_not_finite(model, inputs):
    """The first module of which the output is not finite, as "name (class)"; None when all are.

    inputs: what the model is called with. A module ends after those inside it: the innermost comes first.
    """
    found = []

    def look(name, module, output):
        output = output[0] if isinstance(output, tuple) else output
        if not found and isinstance(output, torch.Tensor) and not output.isfinite().all():
            found.append(f"{name or 'the model'} ({type(module).__name__})")

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: look(name, module, output))
        for name, module in model.named_modules()
    ]
    try:
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None

# %% ch05_training.ipynb #8381a21e
class SteppingRun(SavedRun):
    """A run that can take a step."""

    def autocast(self):
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def train_step(self):
        """One optimizer step; returns its numbers. FloatingPointError when one is not finite."""
        c = self.config
        lr = warmup_cosine(self.step, c.max_lr, c.min_lr, c.warmup_steps, c.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        first = self.step * c.grad_accum
        batches = [self.train_data.batch(first + i, c.batch_size, c.seed) for i in range(c.grad_accum)]
        n_targets = max(1, sum((targets != -100).sum().item() for _, targets in batches))
        total = 0.0
        for inputs, targets in batches:
            with self.autocast():
                loss = self.summed_loss(inputs.to(self.device), targets.to(self.device)) / n_targets
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        norm = clip_grad_norm_(self.model.parameters(), c.max_norm)
        metrics = {"step": self.step + 1, "loss": float(total), "lr": lr, "grad_norm": float(norm)}
        self.stop_if_not_finite(metrics, batches)
        self.scaler.step(self.optimizer)  # takes no step when a float16 gradient was infinite
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return metrics | ({"scale": self.scaler.get_scale()} if self.scaler.is_enabled() else {})

    def stop_if_not_finite(self, metrics, batches):
        """FloatingPointError that says what is not finite, and where it began. The weights are still good."""
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(metrics[name])]
        if not bad or (bad == ["grad_norm"] and self.scaler.is_enabled()):
            return
        with self.autocast():
            where = [first_not_finite(self.model, inputs.to(self.device)) for inputs, _ in batches]
        where = next(filter(None, where), "none: it arose in the loss or in the backward pass")
        paths = checkpoint_paths(self.run_dir) if self.run_dir else []
        what = f"the {bad[0]} is {metrics[bad[0]]} at step {metrics['step']}"
        where = f"first module whose output is not finite: {where}"
        saved = f"last good checkpoint: {paths[-1] if paths else 'none'}"
        raise FloatingPointError(f"{what}; {where}; {saved}; go on from it with a lower max_lr")

# %% ch05_training.ipynb #430a5159
class WatchedRun(SteppingRun):
    """A run that measures itself."""

    def due(self, every):
        """Is it time for what happens each `every` steps, and after the last?"""
        return self.step == self.config.steps or (every and self.step % every == 0)

    def measure(self, metrics):
        """Put the held-out loss into metrics; True when it is the lowest so far."""
        if self.val_data is None:
            return False
        result = evaluate(self.model, self.val_data, 4 * self.config.batch_size, self.precision)
        metrics |= {f"val_{name}": value for name, value in result.items()}
        improved = self.best is None or result["loss"] < self.best["val_loss"]
        if improved:
            self.best = {"step": self.step, "val_loss": result["loss"]}
        return improved

    def speed(self, seconds):
        """Tokens a second, and the share of the measured peak that is: {"tokens_per_s", "mfu"}."""
        B, T = self.config.batch_size * self.config.grad_accum, self.train_data.context_length
        work = 3 * sum(forward_flops(self.model.config, B, T).values())
        peak = matmul_peak(self.device, self.precision)
        return {"tokens_per_s": round(B * T / seconds), "mfu": round(work / seconds / peak, 4)}

    def progress_bar(self):
        return tqdm(total=self.config.steps, initial=self.step, desc="training", unit="step", mininterval=0.5)

    def show(self, bar, metrics):
        """One more step on the bar, with its numbers."""
        bar.update()
        numbers = {"loss": f"{metrics['loss']:.3f}", "lr": f"{metrics['lr']:.1e}"}
        numbers |= {"tokens/s": f"{metrics['tokens_per_s']:,}", "MFU": f"{metrics['mfu']:.0%}"}
        bar.set_postfix(numbers, refresh=False)

# %% ch05_training.ipynb #f9c843a7
@contextlib.contextmanager
def interrupts_wait():
    """Inside, Ctrl-C and SIGTERM interrupt nothing; they are noted in the list that this gives."""
    asked = []
    if threading.current_thread() is not threading.main_thread():  # only there can signals be caught
        yield asked
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: asked.append(number)) for number in signals}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(number):
    """End the program as a signal asks: KeyboardInterrupt for Ctrl-C, else exit code 128 + its number."""
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

# %% ch05_training.ipynb #cc31c6ba
class Trainer(WatchedRun):
    """Trains a GPT: Trainer(model, config, train_data, val_data, run_dir).fit(). A dict a step in .history.

    With a run_dir, metrics go to metrics.jsonl and checkpoints to checkpoints/; .resume() goes on from the
    newest one. FloatingPointError when the loss is not finite any more. Ctrl-C saves and raises
    KeyboardInterrupt, SIGTERM saves and exits.
    """

    def fit(self, watch=None):
        """Train to config.steps; returns the history. watch, if given, is called with it after each step."""
        c = self.config
        self.start_new()
        self.model.train()
        with self.progress_bar() as bar, interrupts_wait() as asked:
            while self.step < c.steps:
                began = time.perf_counter()
                metrics = self.train_step()
                metrics |= self.speed(time.perf_counter() - began)
                improved = self.due(c.eval_every) and self.measure(metrics)
                self.log(metrics)
                if self.due(c.checkpoint_every) or improved or asked:
                    self.save()
                self.show(bar, metrics)
                if watch:
                    watch(self.history)
                if asked:
                    stop(asked[0])
        return self.history
