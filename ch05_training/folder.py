"""The folder of a run: who may write there, and what its files are called. Written by hand."""

import contextlib
import json
import math
import re
import warnings
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from .checkpoint import load_checkpoint, save_checkpoint
from .config import TrainConfig
from .files import DamagedCheckpoint, naming, read_checkpoint, write_whole
from .resuming import check_same_text, keeping_settings, warn_of_rising_rate

# ---------------------------------------------------------------- checkpoints


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
        missing = "it has no checkpoints/step-<number>.safetensors"
        raise FileNotFoundError(f"{run_dir} is not a run: {missing}; {start}")
    return paths[-1]


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
            warnings.warn(f"{what}; going back to the checkpoint before it", stacklevel=4)


def best_checkpoint(run_dir):
    """The checkpoint with the lowest held-out loss; the newest when nothing was evaluated, or it is gone."""
    newest = newest_checkpoint(run_dir)
    best = read_checkpoint(newest)[1]["extra"].get("best") or {}
    return next((path for path in checkpoint_paths(run_dir) if step_of(path) == best.get("step")), newest)


def delete_older(run_dir, step, keep, best):
    """Delete the checkpoints up to `step` but for the last `keep` and that of step `best`.

    What is newer than `step` was damaged, or the run would have gone on from there.
    """
    earlier = [path for path in checkpoint_paths(run_dir) if step_of(path) <= step]
    for path in earlier[:-keep]:
        if step_of(path) != best:
            path.unlink()


@contextlib.contextmanager
def advising(run_dir):
    """A FloatingPointError inside says what to go on from."""
    try:
        yield
    except FloatingPointError as error:
        paths = checkpoint_paths(run_dir)
        advice = f"last good checkpoint: {paths[-1] if paths else 'none'}; go on from it with a lower max_lr"
        raise FloatingPointError(f"{error}; {advice}") from None


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


def write_history(run_dir, history):
    """metrics.jsonl anew, with these lines only."""
    write_whole(Path(run_dir) / "metrics.jsonl", "".join(map(as_line, history)).encode())


def append_metrics(run_dir, metrics):
    """One line more in metrics.jsonl."""
    path = Path(run_dir) / "metrics.jsonl"
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(as_line(metrics))


@contextlib.contextmanager
def tensorboard(folder, step):
    """A function that draws the numbers of a step, from `step` on, where TensorBoard is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield lambda metrics: None
        return
    with naming(folder):
        board = SummaryWriter(folder, purge_step=step)
    with contextlib.closing(board):

        def draw(metrics):
            with naming(folder):
                for name, value in metrics.items():
                    board.add_scalar(name, value, metrics["step"])

        yield draw


# ---------------------------------------------------------------- one process at a time


@contextlib.contextmanager
def alone_in(run_dir, new=False):
    """Inside, no other process can be here too, and what a killed one left half written is gone.

    BlockingIOError when there is one: its lock ends with it, however it ends. FileExistsError when a new run
    would write over the checkpoints of another.
    """
    run_dir = Path(run_dir)
    with naming(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(run_dir / "run.lock", timeout=0).acquire()
    except Timeout:
        raise BlockingIOError(f"another process trains in {run_dir}; name another run_dir") from None
    with lock:
        if new and checkpoint_paths(run_dir):
            other = "go on with it by .resume().fit(), or name another run_dir"
            newest = newest_checkpoint(run_dir).name
            raise FileExistsError(f"{run_dir} holds a run already, up to {newest}; {other}")
        for left in run_dir.rglob("*.part"):
            left.unlink()
        yield


# ---------------------------------------------------------------- all together


class RunFolder:
    """What is on disk of a run: metrics.jsonl, a line a step; checkpoints/; tensorboard/ where possible."""

    def __init__(self, path):
        self.path, self.draw = Path(path), lambda metrics: None

    @contextlib.contextmanager
    def writing(self, state):
        """Inside, this process alone may train here, and a FloatingPointError says what to go on from."""
        with alone_in(self.path, new=state.step == 0), advising(self.path):
            write_history(self.path, state.history)  # without what came after the checkpoint
            with tensorboard(self.path / "tensorboard", state.step + 1) as self.draw:
                yield

    def log(self, metrics):
        append_metrics(self.path, metrics)
        self.draw(metrics)

    def save(self, state, config, **extra):
        """Write a checkpoint; delete those that are neither new nor the best."""
        path = self.path / "checkpoints" / f"step-{state.step:06}.safetensors"
        extra |= {"train": asdict(config), "windows": state.windows, "best": state.best}
        save_checkpoint(path, state.model, state.optimizer, state.scaler, state.step, **extra)
        delete_older(self.path, state.step, config.keep_checkpoints, state.best and state.best["step"])

    def load(self, state, config, texts):
        """Put the newest whole checkpoint into `state`. The settings of its optimizer stay.

        texts: the fingerprints of the text to train on and the held-out one; ValueError when they are others
        than the run's. A warning for each damaged checkpoint, and when the learning rate now rises.
        """
        path, record = newest_whole(self.path)
        check_same_text(record["extra"]["data"], texts, self.path)
        with keeping_settings(state.optimizer):
            load_checkpoint(path, state.model, state.optimizer, state.scaler)
        state.step, state.windows = record["step"], record["extra"]["windows"]
        state.best, state.history = record["extra"]["best"], read_history(self.path, state.step)
        warn_of_rising_rate(TrainConfig(**record["extra"]["train"]), config, state.step)
