"""The files of a run: names, lines, and what a state_dict is in them. Written by hand: it teaches nothing."""

import contextlib
import json
import math
import os
import re
from pathlib import Path

import torch


@contextlib.contextmanager
def naming(path):
    """An OSError inside says which file it was about; that of a full disk does not by itself."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_whole(path, data):
    """Write bytes to a file so that it is there whole or not at all, even when the power fails."""
    part = Path(f"{path}.part")
    with naming(path):
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # on the disk, not only in the memory of the system
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)  # it is there only when something went wrong


# ---------------------------------------------------------------- state_dicts


def pack(value, name, tensors):
    """A state_dict as JSON can hold it. Its tensors go into the dict `tensors`, under `name` and a path."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, pack(part, f"{name}.{key}", tensors)] for key, part in value.items()]}
    if isinstance(value, list | tuple):
        parts = [pack(part, f"{name}.{number}", tensors) for number, part in enumerate(value)]
        return {type(value).__name__: parts}
    return value


def unpack(value, tensors):
    """What `pack` was given, from what it returned and the tensors."""
    if not isinstance(value, dict):
        return value
    ((kind, parts),) = value.items()
    if kind == "tensor":
        return tensors[parts]
    if kind == "dict":
        return {key: unpack(part, tensors) for key, part in parts}
    return {"list": list, "tuple": tuple}[kind](unpack(part, tensors) for part in parts)


# ---------------------------------------------------------------- checkpoints by their names


def checkpoint_paths(run_dir):
    """The checkpoints of a run, oldest first: checkpoints/step-<digits>.safetensors, and nothing else."""
    paths = (Path(run_dir) / "checkpoints").glob("step-*.safetensors")
    return sorted((path for path in paths if re.fullmatch("step-[0-9]+", path.stem)), key=step_of)


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


# ---------------------------------------------------------------- metrics


def as_line(metrics):
    """The numbers of a step as a line of JSON, which knows no infinity: null instead."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
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


def open_board(folder, step):
    """TensorBoard's writer, without what was written from `step` on; None where it is not installed."""
    with contextlib.suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(folder, purge_step=step)
