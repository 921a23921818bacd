"""Checkpoints: everything that the next step depends on, in one file."""

# Written by `make export` from ch05_training.ipynb; change it there.

from dataclasses import asdict, is_dataclass

import torch

from .files import random_states, read_checkpoint, set_random_states, weights_of, write_checkpoint
from .resuming import check_same_model

__all__ = [
    "save_checkpoint",
    "load_checkpoint",
]

# %% ch05_training.ipynb #6f8ac957
def save_checkpoint(path, model, optimizer=None, scaler=None, step=0, **extra):
    """Write everything to one safetensors file, whole or not at all. extra: whatever JSON can hold."""
    weights, config = weights_of(model), getattr(model, "config", None)
    record = {"step": step, "extra": extra, "weights": weights}
    record["model"] = asdict(config) if is_dataclass(config) else {}
    record["optimizer"] = optimizer.state_dict() if optimizer else None
    record["scaler"] = scaler.state_dict() if scaler else {}
    record["random"] = random_states(next(iter(weights.values())).device)
    write_checkpoint(path, record)

# %% ch05_training.ipynb #017b8a84
@torch.no_grad()
def load_checkpoint(path, model, optimizer=None, scaler=None):
    """Put a checkpoint back into model, optimizer, scaler and random states; returns its record, a dict.

    The model keeps its dtype and device. ValueError, before anything changes, for another architecture.
    """
    _, record = read_checkpoint(path)
    weights = weights_of(model)
    check_same_model(record, weights, getattr(model, "config", None), path)
    if optimizer:
        optimizer.load_state_dict(record["optimizer"])
    for name, tensor in weights.items():
        tensor.copy_(record["weights"][name])
    if scaler and record["scaler"]:
        scaler.load_state_dict(record["scaler"])
    if optimizer:  # going on with training, not only using the model
        set_random_states(record["random"], next(iter(weights.values())).device)
    return record
