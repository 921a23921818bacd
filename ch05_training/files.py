"""The file of a checkpoint: there whole or not at all, and able to prove it. Written by hand."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_safetensors

VERSION = "3"  # of the format: 2 added the digest, 3 holds the state of any optimizer


class DamagedCheckpoint(ValueError):
    """A file that is not a whole checkpoint: cut short, altered, or something else."""


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


def pack(value, name, tensors):
    """A state_dict as JSON can hold it. Its tensors go into the dict `tensors`, under `name` and a path."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        prefix = f"{name}." if name else ""
        return {"dict": [[key, pack(part, f"{prefix}{key}", tensors)] for key, part in value.items()]}
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


def digest_of(tensors, record):
    """SHA-256 of a record (a str) and of {name: tensor}, as 64 hexadecimal digits."""
    digest = hashlib.sha256(record.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def write_checkpoint(path, record):
    """Write a dict of tensors, numbers, texts, lists and such dicts to one safetensors file."""
    tensors = {}
    text = json.dumps(pack(record, "", tensors))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"version": VERSION, "record": text, "sha256": digest_of(tensors, text)}
    write_whole(path, as_safetensors(tensors, metadata))


def read_checkpoint(path):
    """What write_checkpoint was given, as ({name: tensor}, dict); DamagedCheckpoint when it is not whole."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if metadata.get("version") != VERSION:
            raise ValueError(f"its version is {metadata.get('version')}, and this course reads {VERSION}")
        if digest_of(tensors, metadata["record"]) != metadata["sha256"]:
            raise ValueError("its bytes were altered")
        return tensors, unpack(json.loads(metadata["record"]), tensors)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        hint = "if this course wrote it, move it away: the same command then starts from the one before it"
        raise DamagedCheckpoint(f"{path} is not a whole checkpoint ({error}); {hint}") from None


def weights_of(model):
    """{name: tensor} of parameters and buffers. A tied one comes once, torch.compile's prefix not at all."""
    once = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        once.setdefault(id(tensor), (name.removeprefix("_orig_mod."), tensor))
    return dict(once.values())


def random_states(device):
    """{where: state} of the random numbers: of the CPU, and of the GPU if the device is one."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(device)
    return states


def set_random_states(states, device):
    """Go back to what random_states gave. A GPU of another kind goes on as it is."""
    torch.set_rng_state(states["cpu"])
    if device.type != "cpu" and device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type], device)
