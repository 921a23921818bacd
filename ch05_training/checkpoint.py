"""Checkpoints: a safetensors file each, there whole or not at all, with a digest to prove it."""

# Written by `make export` from ch05_training.ipynb; change it there.

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_safetensors

__all__ = [
    "VERSION",
    "DamagedCheckpoint",
    "write_whole",
    "digest_of",
    "save_checkpoint",
    "read_checkpoint",
    "load_checkpoint",
    "checkpoint_paths",
    "step_of",
    "newest_checkpoint",
    "best_checkpoint",
]

# %% ch05_training.ipynb #98ae0e48
VERSION = 2  # of the format: 2 added the digest


class DamagedCheckpoint(ValueError):
    """A file that is not a whole checkpoint: cut short, altered, or something else."""


def write_whole(path, data):
    """Write bytes to a file so that it is there whole or not at all, even when the power fails."""
    part = Path(f"{path}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # on the disk, not only in the memory of the system
    os.replace(part, path)


def digest_of(tensors, record):
    """SHA-256 of a record (a str) and of {name: tensor}, as 64 hexadecimal digits."""
    digest = hashlib.sha256(record.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()

# %% ch05_training.ipynb #08ffb542
def save_checkpoint(path, model, optimizer=None, scaler=None, step=0, **extra):
    """Write model, optimizer, scaler, random state and step to one safetensors file, whole or not at all.

    extra: anything JSON can hold, given back by load_checkpoint. A tied matrix is stored once. A model that
    went through torch.compile is stored under its own names.
    """
    model = getattr(model, "_orig_mod", model)
    parameters = dict(model.named_parameters())
    tensors = {f"model.{name}": parameter for name, parameter in parameters.items()}
    names, adam_steps = {id(parameter): name for name, parameter in parameters.items()}, {}
    for parameter, state in optimizer.state.items() if optimizer else ():
        adam_steps[names[id(parameter)]] = state["step"]
        tensors |= {f"{key}.{names[id(parameter)]}": state[key] for key in ("m", "v")}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    record = {"format": "gpt-checkpoint", "version": VERSION, "step": step, "model": asdict(model.config)}
    record |= {"adam_steps": adam_steps, "scaler": scaler.state_dict() if scaler else {}, "extra": extra}
    record = json.dumps(record)
    metadata = {"record": record, "sha256": digest_of(tensors, record)}
    write_whole(path, as_safetensors(tensors, metadata))


def read_checkpoint(path):
    """The tensors and the record of a checkpoint; DamagedCheckpoint when it is not whole."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            record = json.loads(metadata["record"])
            if (record["format"], record["version"]) != ("gpt-checkpoint", VERSION):
                raise ValueError(f"its format is {record['format']} {record['version']}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if digest_of(tensors, metadata["record"]) != metadata["sha256"]:
            raise ValueError("its bytes were altered")
        return tensors, record
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        hint = "if this course wrote it, move it away: the same command then starts from the one before it"
        raise DamagedCheckpoint(f"{path} is not a whole checkpoint ({error}); {hint}") from None

# %% ch05_training.ipynb #20777a07
@torch.no_grad()
def load_checkpoint(path, model, optimizer=None, scaler=None):
    """Put a checkpoint back into model, optimizer, scaler and random state.

    Returns its record (step, extra, ...).

    ValueError when the model has another architecture: it names the first field that differs. Nothing is
    changed then.
    """
    model = getattr(model, "_orig_mod", model)
    tensors, record = read_checkpoint(path)
    here = asdict(model.config)
    for field, value in record["model"].items():
        if here.get(field) != value:
            differs = f"{field}={value!r}, but this one has {field}={here.get(field)!r}"
            raise ValueError(f"{path} holds a model with {differs}; build it with {field}={value!r}")
    for name, parameter in model.named_parameters():
        parameter.copy_(tensors[f"model.{name}"])
        if optimizer and name in record["adam_steps"]:
            means = {key: tensors[f"{key}.{name}"].to(parameter.device) for key in ("m", "v")}
            optimizer.state[parameter] = {"step": record["adam_steps"][name], **means}
    if scaler and record["scaler"]:
        scaler.load_state_dict(record["scaler"])
    if optimizer:  # going on with training, not only using the model
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
    return record

# %% ch05_training.ipynb #8ff2422a
def checkpoint_paths(run_dir):
    """The checkpoints of a run, oldest first."""
    return sorted((Path(run_dir) / "checkpoints").glob("step-*.safetensors"), key=step_of)


def step_of(path):
    """After how many steps a checkpoint was written, from its name."""
    return int(path.stem.removeprefix("step-"))


def newest_checkpoint(run_dir):
    """The newest checkpoint of a run; FileNotFoundError when the folder is not a run or has none."""
    paths = checkpoint_paths(run_dir)
    if not paths:
        start = "name the folder of a run, or start one with: python -m ch06_inference.gpt train"
        raise FileNotFoundError(f"{run_dir} is not a run: it has no checkpoints/step-*.safetensors; {start}")
    return paths[-1]


def best_checkpoint(run_dir):
    """The checkpoint with the lowest held-out loss; the newest when nothing was evaluated."""
    newest = newest_checkpoint(run_dir)
    best = read_checkpoint(newest)[1]["extra"].get("best") or {}
    return newest.with_name(f"step-{best['step']:06}.safetensors") if best else newest
