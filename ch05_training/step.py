"""One step of training, what went wrong in it, and a measurement."""

# Written by `make export` from ch05_training.ipynb; change it there.

import math

import torch

from .optimization import (
    bits_per_byte,
    clip_grad_norm_,
    cross_entropy,
    perplexity,
    pick_precision,
    warmup_cosine,
)

__all__ = [
    "first_not_finite",
    "rate_at",
    "summed_loss",
    "train_step",
    "evaluate",
]

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
def rate_at(step, config):
    """The learning rate of a step, from a TrainConfig."""
    return warmup_cosine(step, config.max_lr, config.min_lr, config.warmup_steps, config.steps)


def summed_loss(model, inputs, targets, label_smoothing):
    """The loss of a micro-batch, both (B, T), summed over its targets."""
    logits = model(inputs)  # (B, T) -> (B, T, V)
    return cross_entropy(logits, targets, label_smoothing, reduction="sum")


def train_step(state, batches, config, loss_of=summed_loss):
    """One optimizer step on a list of micro-batches, (inputs, targets), each (B, T); returns its numbers.

    loss_of: summed_loss, or a compiled one. FloatingPointError when the loss or the gradient is not finite:
    it names the first module whose output is not, and no weight has changed.
    """
    state.optimizer.zero_grad()  # here, and not at the end: an interrupted step may have left gradients
    device = next(state.model.parameters()).device
    precision = pick_precision(config.precision, device)
    autocast = torch.autocast(device.type, precision, enabled=precision != torch.float32)
    lr = rate_at(state.step, config)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    n_targets, total = max(1, sum((targets != -100).sum().item() for _, targets in batches)), 0.0
    for inputs, targets in batches:
        with autocast:
            loss = loss_of(state.model, inputs.to(device), targets.to(device), config.label_smoothing)
        loss = loss / n_targets
        state.scaler.scale(loss).backward()
        total += loss.detach()
    state.scaler.unscale_(state.optimizer)
    norm = clip_grad_norm_(state.model.parameters(), config.max_norm)
    metrics = {"step": state.step + 1, "loss": float(total), "lr": lr, "grad_norm": float(norm)}
    bad = [name for name in ("loss", "grad_norm") if not math.isfinite(metrics[name])]
    if bad and not (bad == ["grad_norm"] and state.scaler.is_enabled()):
        with autocast:
            places = [first_not_finite(state.model, inputs.to(device)) for inputs, _ in batches]
        place = next(filter(None, places), "none: it arose in the loss or in the backward pass")
        what = f"the {bad[0]} is {metrics[bad[0]]} at step {metrics['step']}"
        raise FloatingPointError(f"{what}; first module whose output is not finite: {place}")
    state.scaler.step(state.optimizer)  # takes no step when a float16 gradient was infinite
    state.scaler.update()
    state.step += 1
    state.windows += sum(len(inputs) for inputs, _ in batches)
    return metrics | ({"scale": state.scaler.get_scale()} if state.scaler.is_enabled() else {})

# %% ch05_training.ipynb #2ac122e6
@torch.no_grad()
def evaluate(model, data, batch_size=32, precision=torch.float32, asked=()):
    """Loss (nats a token), perplexity and, when data.n_bytes is known, bits per byte, over all of `data`.

    asked: evaluation breaks off, and gives None, once there is something in this list. ZeroDivisionError when
    there is no target in the data.
    """
    was_training, total, count = model.training, 0.0, 0
    device = next(model.parameters()).device
    model.eval()
    for inputs, targets in data.in_order(batch_size):
        if asked:
            break
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            logits = model(inputs.to(device))  # (B, T) -> (B, T, V)
        total += cross_entropy(logits, targets.to(device), reduction="sum").item()
        count += (targets != -100).sum().item()
    model.train(was_training)
    if asked:
        return None
    result = {"loss": total / count, "perplexity": perplexity(total / count)}
    return result | ({"bits_per_byte": bits_per_byte(total, data.n_bytes)} if data.n_bytes else {})
