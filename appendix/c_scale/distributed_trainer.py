"""Chapter 5's Trainer on many ranks: each step takes the same windows, shared out. Written by hand."""

import contextlib
import shutil
import time
from dataclasses import replace

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ch05_training.finite import check_finite
from ch05_training.folder import RunFolder, alone_in, read_history, tensorboard, write_history
from ch05_training.interrupts import interrupts_wait, stop
from ch05_training.optimization import (
    bits_per_byte,
    clip_grad_norm_,
    cross_entropy,
    perplexity,
    pick_precision,
)
from ch05_training.resuming import warn_of_rising_rate
from ch05_training.training import Trainer

from .shards import load_shards, newest_whole_shards, save_shards, seed_of, shard_paths, train_config


def check_divisible(config, size):
    """ValueError when the windows of a step cannot be shared out evenly among `size` ranks."""
    n_windows = config.batch_size * config.grad_accum
    if n_windows % size:
        below, above = n_windows // size * size, -(-n_windows // size) * size
        nearest = f"{below} or {above}" if below else f"{above}"
        what = f"batch_size={config.batch_size} times grad_accum={config.grad_accum} windows a step"
        raise ValueError(f"{what} are {n_windows}, which {size} ranks cannot share evenly; make it {nearest}")


def micro_batches(data, first, config, ranks):
    """A rank's share of the windows first .. first + batch_size * grad_accum - 1, as (inputs, targets) each.

    Rank 0 takes the first of them, rank 1 the next; none is left out and none is taken twice. A micro-batch
    has at most batch_size windows, (B, T).
    """
    count = config.batch_size * config.grad_accum // ranks.size
    inputs, targets = data.windows(first + ranks.rank * count, count, config.seed)  # (count, T)
    n_parts = -(-count // config.batch_size)
    return list(zip(inputs.tensor_split(n_parts), targets.tensor_split(n_parts), strict=True))


def parallel(model, shard, ranks):
    """What the forward pass goes through: the model itself, sharded in place, or in DDP's wrapper."""
    if ranks.size == 1:
        return model
    if shard == "full":
        mesh = init_device_mesh(ranks.device.type, (ranks.size,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    devices = [ranks.device] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(model, devices, broadcast_buffers=False, gradient_as_bucket_view=True)


@contextlib.contextmanager
def summing(model, last):
    """Inside, a backward pass sums the gradients over the ranks only when it is the `last` of the step."""
    if isinstance(model, DistributedDataParallel):
        with contextlib.nullcontext() if last else model.no_sync():
            yield
    else:
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(last)
        yield


def train_step_together(state, model, batches, config, loss_of, ranks, asked=()):
    """Chapter 5's train_step on a rank's share of the windows; returns (numbers of the step, who was asked).

    model: as `parallel` gives it; state.model is what is inside. Three lines are other than there: the
    targets are counted over all ranks; the loss is multiplied by their number, since DDP and fully_shard
    divide the sum of the gradients by it; the loss that is told is the sum over the ranks. asked: signals
    that came to this rank; the highest of all ranks' is returned, 0 for none.
    """
    state.optimizer.zero_grad()
    device, precision = ranks.device, pick_precision(config.precision, ranks.device)
    autocast = torch.autocast(device.type, precision, enabled=precision != torch.float32)
    for group in state.optimizer.param_groups:
        group["lr"] = config.rate(state.step)
    counted = sum((targets != -100).sum().item() for _, targets in batches)
    n_targets, total = max(1, int(ranks.gathered(counted).sum())), 0.0
    for number, (inputs, targets) in enumerate(batches):
        with summing(model, last=number == len(batches) - 1):
            with autocast:
                loss = loss_of(model, inputs.to(device), targets.to(device), config.label_smoothing)
            state.scaler.scale(loss / (n_targets / ranks.size)).backward()
        total += loss.detach() / n_targets
    state.scaler.unscale_(state.optimizer)
    norm = clip_grad_norm_(state.model.parameters(), config.max_norm)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    numbers = ranks.gathered(float(total), asked[0] if asked else 0)  # (size, 2)
    loss, signal = numbers[:, 0].sum().item(), int(numbers[:, 1].max())
    metrics = {"step": state.step + 1, "loss": loss, "lr": group["lr"], "grad_norm": float(norm)}
    check_finite(metrics, state, batches, autocast)  # the same numbers on every rank, so all of them stop
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.step += 1
    state.windows += config.batch_size * config.grad_accum
    return metrics | {"scale": state.scaler.get_scale()}, signal


def signal_to_all(ranks, asked):
    """The signal that came to any rank, and if several did the highest; 0 for none. asked: of this rank."""
    return int(ranks.gathered(asked[0] if asked else 0).max())


@torch.no_grad()
def evaluate_together(model, data, batch_size, precision, ranks, asked=()):
    """Chapter 5's evaluate, its batches dealt out to the ranks; returns (result, 0), or (None, signal).

    Every rank goes through the model equally often, which fully_shard needs: one that has no batch left
    takes the last again and counts nothing.
    """
    was_training, sums = model.training, torch.zeros(2, dtype=torch.float64)
    autocast = torch.autocast(ranks.device.type, precision, enabled=precision != torch.float32)
    batches = list(data.in_order(batch_size))
    model.eval()
    for first in range(0, len(batches), ranks.size):
        number = first + ranks.rank
        inputs, targets = batches[min(number, len(batches) - 1)]
        with autocast:
            logits = model(inputs.to(ranks.device))  # (B, T) -> (B, T, V)
        if number < len(batches):
            nats = cross_entropy(logits, targets.to(ranks.device), reduction="sum").item()
            sums += torch.tensor([nats, (targets != -100).sum().item()], dtype=torch.float64)
        if signal := signal_to_all(ranks, asked):
            model.train(was_training)
            return None, signal
    model.train(was_training)
    total, count = ranks.gathered(*sums).sum(0).tolist()
    result = {"loss": total / count, "perplexity": perplexity(total / count)}
    return result | ({"bits_per_byte": bits_per_byte(total, data.n_bytes)} if data.n_bytes else {}), 0


class FirstRanksFolder(RunFolder):
    """What rank 0 alone does in the folder of a run: the lock, metrics.jsonl and tensorboard/."""

    @contextlib.contextmanager
    def writing(self, state):
        with alone_in(self.path):
            for left in (self.path / "shards").glob("*.tmp"):  # by a run that was killed while it saved
                shutil.rmtree(left)
            write_history(self.path, state.history)  # without what came after the checkpoint
            with tensorboard(self.path / "tensorboard", state.step + 1) as self.draw:
                yield


class DistributedTrainer(Trainer):
    """Chapter 5's Trainer, of which each rank runs one. shard: "none" (DDP) or "full" (fully_shard)."""

    def __init__(self, model, config, train_data, val_data, run_dir, ranks, shard="none"):
        check_divisible(config, ranks.size)
        self.ranks, self.run_dir, model = ranks, run_dir, model.to(ranks.device)
        if config.compile:
            for block in model.blocks:
                block.compile()
        self.model = parallel(model, shard, ranks)  # first: the optimizer is to have the parts of this rank
        here = replace(config, device=str(ranks.device), compile=False)
        super().__init__(model, here, train_data, val_data, run_dir if ranks.first else None)
        self.config = config
        self.folder = FirstRanksFolder(run_dir) if ranks.first else None
        torch.manual_seed(seed_of(config.seed, ranks.rank))  # each rank drops out others

    def fit(self, watch=None):
        """Train to config.steps, together; returns the history, which rank 0 writes.

        A first Ctrl-C or SIGTERM of any rank waits for the step, all save, and all stop.
        """
        c, state = self.config, self.state
        state.model.train()
        progress = dict(total=c.steps, initial=state.step, desc="training", unit="step", mininterval=0.5)
        with contextlib.ExitStack() as stack:
            with self.ranks.together():
                if self.folder:
                    stack.enter_context(self.folder.writing(state))
            bar = stack.enter_context(tqdm(**progress, disable=not self.ranks.first))
            asked = stack.enter_context(interrupts_wait())
            signal = 0
            while state.step < c.steps and not signal:
                metrics, signal = self.take_step(asked)
                improved, later = self.measure(metrics, asked) if self.due(c.eval_every) else (False, 0)
                signal = signal or later
                self.log(metrics)
                if self.due(c.checkpoint_every) or improved or signal:
                    self.save()
                bar.update()
                bar.set_postfix(loss=f"{metrics['loss']:.3f}", lr=f"{metrics['lr']:.1e}", refresh=False)
                if watch:
                    watch(state.history)
            if signal:
                stop(signal)
        return state.history

    def take_step(self, asked=()):
        c, began = self.config, time.perf_counter()
        batches = micro_batches(self.train_data, self.state.windows, c, self.ranks)
        try:
            metrics, signal = train_step_together(
                self.state, self.model, batches, c, self.loss_of, self.ranks, asked
            )
        except FloatingPointError as error:
            good = (shard_paths(self.run_dir) or ["none"])[-1]
            raise FloatingPointError(f"{error}; last good checkpoint: {good}; lower --max-lr") from None
        n_tokens = c.batch_size * c.grad_accum * self.train_data.context_length
        return metrics | {"tokens_per_s": round(n_tokens / (time.perf_counter() - began))}, signal

    def measure(self, metrics, asked=()):
        """Put the held-out loss into metrics; (whether it is the lowest so far, a signal that came)."""
        c, state = self.config, self.state
        rest = self.precision, self.ranks, asked
        result, signal = evaluate_together(state.model, self.val_data, 4 * c.batch_size, *rest)
        if signal:
            return False, signal
        metrics |= {f"val_{name}": value for name, value in result.items()}
        lower = state.best is None or result["loss"] < state.best["val_loss"]
        if lower:
            state.best = {"step": state.step, "val_loss": result["loss"]}
        return lower, 0

    def save(self):
        save_shards(self.run_dir, self.state, self.config, self.texts, self.ranks)

    def resume(self):
        """Go back to the newest whole checkpoint of the run, of either kind and of any number of ranks."""
        path, record = newest_whole_shards(self.run_dir, self.ranks)
        load_shards(path, record, self.state, self.config, self.ranks)
        if self.ranks.first:
            self.state.history = read_history(self.run_dir, self.state.step)
            warn_of_rising_rate(train_config(record), self.config, self.state.step)
        return self
