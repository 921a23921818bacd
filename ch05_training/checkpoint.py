"""Checkpoints: a safetensors file each, there whole or not at all, with a digest to prove it."""

# Written by `make export` from ch05_training.ipynb; change it there.

import hashlib
import json
import warnings
from dataclasses import asdict, is_dataclass

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_safetensors

from .files import checkpoint_paths, newest_checkpoint, pack, step_of, unpack, write_whole

__all__ = [
    "VERSION",
    "NOT_IN_WEIGHTS",
    "DamagedCheckpoint",
    "digest_of",
    "parts_of",
    "save_checkpoint",
    "read_checkpoint",
    "load_checkpoint",
    "newest_whole",
    "best_checkpoint",
]

# %% ch05_training.ipynb #e58de44e
VERSION = 3  # of the format: 2 added the digest, 3 holds the state of any optimizer
NOT_IN_WEIGHTS = ("dropout", "backend", "init_std")  # may differ between a checkpoint and the model it fills


class DamagedCheckpoint(ValueError):
    """A file that is not a whole checkpoint: cut short, altered, or something else."""


def digest_of(tensors, record):
    """SHA-256 of a record (a str) and of {name: tensor}, as 64 hexadecimal digits."""
    digest = hashlib.sha256(record.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def parts_of(model):
    """({name: tensor}, {setting: value}): parameters and buffers, a tied one once, and the configuration."""
    model = getattr(model, "_orig_mod", model)  # out of torch.compile's wrapper, which changes the names
    once = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        once.setdefault(id(tensor), (name, tensor))
    config = getattr(model, "config", None)
    return dict(once.values()), asdict(config) if is_dataclass(config) else {}

# %% ch05_training.ipynb #e282c64c
def save_checkpoint(path, model, optimizer=None, scaler=None, step=0, **extra):
    """Write model, optimizer, scaler, random state and step to one safetensors file, whole or not at all.

    model: any module; a tied matrix is stored once. optimizer: any that has a state_dict. extra: anything
    JSON can hold, given back by load_checkpoint.
    """
    parameters, settings = parts_of(model)
    tensors = {f"model.{name}": tensor for name, tensor in parameters.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    device = next(iter(parameters.values())).device
    if device.type != "cpu":
        tensors["random.device"] = torch.get_device_module(device).get_rng_state(device)
    record = {"version": VERSION, "step": step, "model": settings, "extra": extra}
    record["optimizer"] = pack(optimizer.state_dict(), "optimizer", tensors) if optimizer else None
    record["scaler"] = scaler.state_dict() if scaler else {}
    record = json.dumps(record)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"record": record, "sha256": digest_of(tensors, record)}
    write_whole(path, as_safetensors(tensors, metadata))


def read_checkpoint(path):
    """The tensors and the record of a checkpoint; DamagedCheckpoint when it is not whole."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            record = json.loads(metadata["record"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if record["version"] != VERSION or digest_of(tensors, metadata["record"]) != metadata["sha256"]:
            raise ValueError(f"its bytes were altered, or its version, {record['version']}, is not {VERSION}")
        return tensors, record
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        hint = "if this course wrote it, move it away: the same command then starts from the one before it"
        raise DamagedCheckpoint(f"{path} is not a whole checkpoint ({error}); {hint}") from None

# %% ch05_training.ipynb #6c02ac8e
@torch.no_grad()
def load_checkpoint(path, model, optimizer=None, scaler=None):
    """Put a checkpoint back into model, optimizer, scaler and random state; returns its record.

    The record is a dict of step, extra and more. The model keeps its dtype and its device. ValueError when
    the checkpoint is of another architecture: it names what differs first, and nothing is changed.
    """
    tensors, record = read_checkpoint(path)
    parameters, here = parts_of(model)
    here |= {name: tuple(tensor.shape) for name, tensor in parameters.items()}
    stored = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    there = record["model"] | {name: tuple(tensor.shape) for name, tensor in stored.items()}
    for name in [*there, *parameters]:
        if here.get(name) != there.get(name) and name not in NOT_IN_WEIGHTS:
            differs = f"{name}={there.get(name)!r}, but this one has {name}={here.get(name)!r}"
            raise ValueError(f"{path} holds a model with {differs}; build it with {name}={there.get(name)!r}")
    if optimizer:
        optimizer.load_state_dict(unpack(record["optimizer"], tensors))
    for name, tensor in parameters.items():
        tensor.copy_(stored[name])
    if scaler and record["scaler"]:
        scaler.load_state_dict(record["scaler"])
    if optimizer:  # going on with training, not only using the model
        torch.set_rng_state(tensors["random.cpu"])
        device = next(iter(parameters.values())).device
        if device.type != "cpu" and "random.device" in tensors:
            torch.get_device_module(device).set_rng_state(tensors["random.device"], device)
    return record

# %% ch05_training.ipynb #95f2362b
def newest_whole(run_dir):
    """The newest whole checkpoint of a run, and its record. A warning for each newer one that is damaged."""
    newest_checkpoint(run_dir)  # or FileNotFoundError
    paths = checkpoint_paths(run_dir)
    for path in reversed(paths):
        try:
            return path, read_checkpoint(path)[1]
        except DamagedCheckpoint as error:
            if path == paths[0]:
                raise
            what = str(error).split("; if this course")[0]
            warnings.warn(f"{what}; going back to the checkpoint before it", stacklevel=3)


def best_checkpoint(run_dir):
    """The checkpoint with the lowest held-out loss; the newest when nothing was evaluated, or it is gone."""
    newest = newest_checkpoint(run_dir)
    best = read_checkpoint(newest)[1]["extra"].get("best") or {}
    return next((path for path in checkpoint_paths(run_dir) if step_of(path) == best.get("step")), newest)
