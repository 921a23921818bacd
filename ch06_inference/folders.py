"""What a folder holds: a run, runs, weights, or something else. Written by hand, since it teaches nothing."""

import re
from pathlib import Path

from .previous_chapters import checkpoint_paths
from .terminal import program

NAME_OF_A_RUN = re.compile(r"(\d{4}-\d\d-\d\d-\d{6})(?:-(\d+))?")  # as new_run_folder makes it
WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5")


def runs_in(folder):
    """The runs with a checkpoint in a folder, by the time of the last one; where that is equal, by name."""

    def by_time(path):
        time, number = (NAME_OF_A_RUN.fullmatch(path.name) or re.match("()()", "")).groups()
        return checkpoint_paths(path)[-1].stat().st_mtime_ns, time, int(number or 1), path.name

    paths = Path(folder).iterdir() if Path(folder).is_dir() else ()
    return sorted((p for p in paths if not p.name.startswith(".") and checkpoint_paths(p)), key=by_time)


def newest_run(folder="runs"):
    """The run in a folder that wrote a checkpoint last. FileNotFoundError when there is none."""
    runs = runs_in(folder)
    if not runs:
        raise FileNotFoundError(f"{folder}/ holds no trained model; train one with: make gpt")
    return runs[-1]


def run_around(path):
    """The run that this is the checkpoints folder of, or a file in it; None for all else."""
    runs = (folder.parent for folder in (path, path.parent) if folder.name == "checkpoints")
    return next((run for run in runs if checkpoint_paths(run)), None)


def holds_weights(path):
    """Whether this is a file or folder of a model from elsewhere, which load_gpt2 reads, or says why not."""
    if path.is_dir():
        names = [file.name for file in path.iterdir() if not file.name.startswith(".")]
        return not run_around(path) and any(name.endswith(WEIGHTS) or name == "config.json" for name in names)
    return path.is_file() and not run_around(path)


def what_is_there(path):
    """Why a path is not a model, and the way out, as a sentence."""
    start = f"name the folder of a run, or start one with: {program()} train"
    if not path.exists():
        return f"{path} is not a run: there is no such folder; {start}"
    if run := run_around(path):
        return f"{path} is inside of a run; name the run itself: {run}"
    if not path.is_dir():
        return f"{path} is not a run but a file; {start}"
    names = sorted(file.name for file in path.iterdir() if not file.name.startswith("."))
    if runs := runs_in(path):
        return f"{path} is not a run but holds {len(runs)}; name one of them, such as {runs[-1]}"
    if (path / "metrics.jsonl").exists() or {"tokenizer.json", "checkpoints"} & set(names):
        return f"{path} has no checkpoint yet: it has only begun, or was stopped before its first; {start}"
    found = "it is empty" if not names else f"it holds {', '.join(names[:3])}{', ...' * (len(names) > 3)}"
    return f"{path} is not a run: {found}; {start}"
