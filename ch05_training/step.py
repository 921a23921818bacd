"""One step of training, and a measurement on held-out text."""

# Written by `make export` from ch05_training.ipynb; change it there.

import torch

from .finite import check_finite
from .optimization import bits_per_byte, clip_grad_norm_, cross_entropy, perplexity, pick_precision

__all__ = [
    "summed_loss",
    "train_step",
    "evaluate",
]

# %% ch05_training.ipynb #8ff2422a
def summed_loss(model, inputs, targets, label_smoothing):
    """The loss of a micro-batch, both (B, T), summed over its targets."""
    logits = model(inputs)  # (B, T) -> (B, T, V)
    return cross_entropy(logits, targets, label_smoothing, reduction="sum")


def train_step(state, batches, config, loss_of=summed_loss):
    """One optimizer step on a list of micro-batches, (inputs, targets), each (B, T); returns its numbers.

    FloatingPointError, before any weight changes, when the loss is not finite, or (but for float16, where the
    scaler then takes no step) the gradient.
    """
    state.optimizer.zero_grad()  # first, since a step that was broken off may have left gradients
    device = next(state.model.parameters()).device
    precision = pick_precision(config.precision, device)
    autocast = torch.autocast(device.type, precision, enabled=precision != torch.float32)
    for group in state.optimizer.param_groups:
        group["lr"] = config.rate(state.step)
    n_targets, total = max(1, sum((targets != -100).sum().item() for _, targets in batches)), 0.0
    for inputs, targets in batches:
        with autocast:
            loss = loss_of(state.model, inputs.to(device), targets.to(device), config.label_smoothing)
        state.scaler.scale(loss / n_targets).backward()
        total += loss.detach() / n_targets
    state.scaler.unscale_(state.optimizer)
    norm = clip_grad_norm_(state.model.parameters(), config.max_norm)
    metrics = {"step": state.step + 1, "loss": float(total), "lr": group["lr"], "grad_norm": float(norm)}
    check_finite(metrics, state, batches, autocast)
    state.scaler.step(state.optimizer)  # takes no step when a float16 gradient was infinite
    state.scaler.update()
    state.step += 1
    state.windows += sum(len(inputs) for inputs, _ in batches)
    return metrics | {"scale": state.scaler.get_scale()}

# %% ch05_training.ipynb #83f25da7
@torch.no_grad()
def evaluate(model, data, batch_size=32, precision=torch.float32, asked=()):
    """Loss (nats a token), perplexity and, when data.n_bytes is known, bits per byte, over all of `data`.

    asked: once there is something in this list, evaluation breaks off.
    """
    was_training, total, count = model.training, 0.0, 0
    device = next(model.parameters()).device
    autocast = torch.autocast(device.type, precision, enabled=precision != torch.float32)
    model.eval()
    for inputs, targets in data.in_order(batch_size):
        with autocast:
            logits = model(inputs.to(device))  # (B, T) -> (B, T, V)
        total += cross_entropy(logits, targets.to(device), reduction="sum").item()
        count += (targets != -100).sum().item()
        if asked:
            break
    model.train(was_training)
    result = {"loss": total / count, "perplexity": perplexity(total / count)}
    return result | ({"bits_per_byte": bits_per_byte(total, data.n_bytes)} if data.n_bytes else {})
