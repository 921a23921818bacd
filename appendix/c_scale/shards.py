"""Checkpoints of a distributed run, by torch.distributed.checkpoint. Written by hand.

A checkpoint is a folder shards/step-<digits> of the run: a file of tensors from each rank, an index of them,
and record.json with the rest and a digest of each file. It is there whole or not at all.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.checkpoint import load_checkpoint
from ch05_training.files import random_states, read_checkpoint, set_random_states, weights_of, write_whole
from ch05_training.folder import RunFolder, checkpoint_paths, read_history, step_of
from ch05_training.resuming import check_same_model
from ch05_training.training import TrainConfig, TrainState

from .ranks import Ranks, ToldByAll

RECORD, INDEX = "record.json", ".metadata"


class DamagedShards(ToldByAll):
    """A folder that is not a whole checkpoint: a file is missing or was altered."""


def shard_paths(run_dir):
    """The sharded checkpoints of a run, oldest first."""
    paths = (Path(run_dir) / "shards").glob("step-*")
    return sorted((path for path in paths if re.fullmatch("step-[0-9]+", path.name)), key=step_of)


def all_paths(run_dir):
    """Sharded checkpoints and those of one file, oldest first; of two of one step, the sharded one last."""
    return sorted([*checkpoint_paths(run_dir), *shard_paths(run_dir)], key=step_of)


# ---------------------------------------------------------------- what is in one


def tensors_of(state):
    """{name: tensor} of weights and of the optimizer's memory; whole or, as DTensor, a rank's part of it."""
    weights = weights_of(state.model)
    tensors = {f"model.{name}": tensor.detach() for name, tensor in weights.items()}
    for name, parameter in weights.items():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{name}.{key}"] = value
    return tensors


def record_of(state, config, texts, size):
    """All that is not a tensor, as JSON can hold it."""
    weights = weights_of(state.model)
    memory = {name: state.optimizer.state.get(parameter, {}) for name, parameter in weights.items()}
    return {
        "step": state.step,
        "windows": state.windows,
        "best": state.best,
        "model": asdict(state.model.config),
        "train": asdict(config),
        "data": texts,
        "scaler": state.scaler.state_dict(),
        "optimizer": {
            name: {key: None if isinstance(value, torch.Tensor) else value for key, value in parts.items()}
            for name, parts in memory.items()
        },
        "shapes": {name: list(tensor.shape) for name, tensor in weights.items()},
        "ranks": size,
    }


def train_config(record):
    """The TrainConfig of a record."""
    return TrainConfig(**record["train"] | {"betas": tuple(record["train"]["betas"])})


# ---------------------------------------------------------------- writing


def save_shards(run_dir, state, config, texts, ranks):
    """Write a checkpoint together; delete those that are neither new nor the best. OSError on every rank."""
    path = Path(run_dir) / "shards" / f"step-{state.step:06}"
    part = path.with_name(f"{path.name}.tmp")
    with ranks.together():
        if ranks.first:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
    tensors = tensors_of(state)
    for where, numbers in random_states(ranks.device).items():
        tensors[f"random.{ranks.rank}.{where}"] = numbers
    with ranks.together():
        try:
            dcp.save(tensors, storage_writer=dcp.FileSystemWriter(part), no_dist=ranks.size == 1)
        except CheckpointException as error:  # the same on every rank
            rank, (why, _) = min(error.failures.items())
            shutil.rmtree(part, ignore_errors=True)
            what = f"{path} could not be written by rank {rank} ({why})"
            raise OSError(f"{what}; is the disk full? earlier checkpoints stay") from None
    mine = [file for file in part.glob(f"__{ranks.rank}_*")] + [part / INDEX] * ranks.first
    digests = ranks.objects({file.name: [file.stat().st_size, digest_of(file)] for file in mine})
    with ranks.together():
        if ranks.first:
            record = record_of(state, config, texts, ranks.size)
            record["files"] = {name: facts for part in digests for name, facts in part.items()}
            write_record(part, record)
            shutil.rmtree(path, ignore_errors=True)  # of the same step, and damaged, or it would not be made
            os.rename(part, path)
            best = state.best and state.best["step"]
            delete_older_shards(run_dir, state.step, config.keep_checkpoints, best)


def write_record(path, record):
    """record.json of a checkpoint, with a digest of itself."""
    text = json.dumps({"sha256": digest_of_record(record), "record": record})
    write_whole(path / RECORD, text.encode())


def digest_of_record(record):
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def digest_of(file):
    """SHA-256 of a file, read piece by piece."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def delete_older_shards(run_dir, step, keep, best):
    """Delete the checkpoints up to `step` but for the last `keep` and that of step `best`."""
    earlier = [path for path in shard_paths(run_dir) if step_of(path) <= step]
    for path in earlier[:-keep]:
        if step_of(path) != best:
            shutil.rmtree(path)


# ---------------------------------------------------------------- reading


def read_record(path):
    """The record of a sharded checkpoint. DamagedShards when it is missing or cannot be read."""
    try:
        read = json.loads((path / RECORD).read_text(encoding="utf-8"))
        if digest_of_record(read["record"]) != read["sha256"]:
            raise ValueError("its bytes were altered")
        return read["record"]
    except FileNotFoundError:
        raise DamagedShards(f"{path / RECORD} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedShards(f"{path / RECORD} is damaged ({error})") from None


def check_whole(path, record, ranks):
    """DamagedShards, on every rank, that names the first file that is missing or altered; each reads some."""
    problem = None
    for name, (n_bytes, digest) in sorted(record["files"].items())[ranks.rank :: ranks.size]:
        file = path / name
        if not file.exists():
            problem = problem or f"{file} is missing"
        elif file.stat().st_size != n_bytes or digest_of(file) != digest:
            problem = problem or f"{file} is damaged: its bytes are not those that were written"
    problems = list(filter(None, ranks.objects(problem)))
    if problems:
        raise DamagedShards(problems[0])


def newest_record(run_dir):
    """The record of a run's newest checkpoint, of either kind, that has one; None when there is none at all.

    ValueError when every record is damaged.
    """
    paths = all_paths(run_dir)
    for path in reversed(paths):
        try:
            if path.is_dir():
                return read_record(path)
            record = read_checkpoint(path)[1]
            return record["extra"] | {"step": record["step"], "model": record["model"]}
        except ValueError:
            if path == paths[0]:
                raise


def newest_whole_shards(run_dir, ranks):
    """(path, record) of the newest whole checkpoint; one of a single file is taken over into shards first.

    A warning for each newer one that is damaged. DamagedShards when all are.
    """
    paths = ranks.share(all_paths(run_dir))
    for path in reversed(paths):
        try:
            with ranks.together():
                if ranks.first and path.is_file():
                    take_over(run_dir, path)
            path = Path(run_dir) / "shards" / path.stem
            with ranks.together():
                record = read_record(path) if ranks.first else None
            record = ranks.share(record)
            check_whole(path, record, ranks)
            return path, record
        except ValueError as error:
            if path.name == paths[0].name:
                raise
            warnings.warn(f"{error}; going back to the checkpoint before it", stacklevel=2)


def load_shards(path, record, state, config, ranks):
    """Put a checkpoint into the state of any number of ranks. ValueError for another architecture.

    The random numbers go on where they stopped when there were as many ranks; otherwise they begin anew.
    """
    weights = weights_of(state.model)
    there = {name: torch.empty(shape, device="meta") for name, shape in record["shapes"].items()}
    with ranks.together():
        check_same_model({"model": record["model"], "weights": there}, weights, state.model.config, path)
    for name, parts in record["optimizer"].items():
        memory = {key: torch.zeros_like(weights[name]) if v is None else v for key, v in parts.items()}
        if memory:
            state.optimizer.state[weights[name]] = memory
    tensors, numbers = tensors_of(state), random_states(ranks.device)
    kept = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    numbers = {where: n for where, n in numbers.items() if f"random.{ranks.rank}.{where}" in kept}
    tensors |= {f"random.{ranks.rank}.{where}": n for where, n in numbers.items()}
    dcp.load(tensors, storage_reader=dcp.FileSystemReader(path), no_dist=ranks.size == 1)
    if record["ranks"] == ranks.size and "cpu" in numbers:
        set_random_states(numbers, ranks.device)
    else:
        torch.manual_seed(seed_of(config.seed, ranks.rank, record["step"]))
    if record["scaler"] and state.scaler.is_enabled():
        state.scaler.load_state_dict(record["scaler"])
    state.step, state.windows, state.best = record["step"], record["windows"], record["best"]


def seed_of(seed, rank, step=0):
    """The seed of a rank's dropout: each rank drops others. Rank 0 of a new run takes the run's own seed."""
    return seed + 1_000_003 * rank + 7919 * step


# ---------------------------------------------------------------- from and to one file


def plain_state(record, config):
    """A TrainState of a whole model on the CPU."""
    config = replace(config, device="cpu", precision="float32")
    state = TrainState.start(GPT(GPTConfig(**record["model"])), config)
    state.scaler = torch.amp.GradScaler("cpu", enabled=bool(record["scaler"]))
    return state


def take_over(run_dir, path):
    """Write a checkpoint of the single-process program, of one file, as a sharded one of the same step."""
    _, record = read_checkpoint(path)
    extra = record["extra"]
    config = train_config(extra)
    state = plain_state(record, config)
    load_checkpoint(path, state.model, state.optimizer, state.scaler)
    state.step, state.windows, state.best = record["step"], extra["windows"], extra["best"]
    save_shards(run_dir, state, config, extra["data"], Ranks())


def export_shards(run_dir, path, record):
    """Write a sharded checkpoint as one of the single-process program; all of it must fit into memory."""
    config = train_config(record)
    state = plain_state(record, config)
    load_shards(path, record, state, config, Ranks())
    state.history = read_history(run_dir, state.step)
    RunFolder(run_dir).save(state, config, data=record["data"])
    return next(path for path in checkpoint_paths(run_dir) if step_of(path) == state.step)
