"""What a folder holds: a run, runs, weights, or something else. Written by hand, since it teaches nothing."""

import re
from pathlib import Path

from .previous_chapters import checkpoint_paths

NAME_OF_A_RUN = re.compile(r"(\d{4}-\d\d-\d\d-\d{6})(?:-(\d+))?")  # as new_run_folder makes it
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")
TRAIN = "python -m ch06_inference.gpt train"


def runs_in(folder):
    """The runs with a checkpoint in a folder, oldest first; those with names of their own come before all."""

    def by_time(path):
        time, number = (NAME_OF_A_RUN.fullmatch(path.name) or re.match("()()", "")).groups()
        return time, int(number or 1), path.name

    paths = Path(folder).iterdir() if Path(folder).is_dir() else ()
    return sorted((p for p in paths if not p.name.startswith(".") and checkpoint_paths(p)), key=by_time)


def newest_run(folder="runs"):
    """The newest run in a folder, by its name. FileNotFoundError when there is none."""
    runs = runs_in(folder)
    if not runs:
        raise FileNotFoundError(f"{folder}/ holds no trained model; train one with: make gpt")
    return runs[-1]


def holds_weights(path):
    """Whether this is a file, or a folder with *.safetensors: what load_gpt2 reads, or says why not."""
    return path.is_file() or any(not file.name.startswith(".") for file in path.glob("*.safetensors"))


def what_is_there(path):
    """Why a path is not a model, and the way out, as a sentence."""
    start = f"name the folder of a run, or start one with: {TRAIN}"
    if not path.exists():
        return f"{path} is not a run: there is no such folder; {start}"
    names = sorted(file.name for file in path.iterdir() if not file.name.startswith("."))
    if runs := runs_in(path):
        return f"{path} is not a run but holds {len(runs)}; name one of them, such as {runs[-1]}"
    if (path / "metrics.jsonl").exists() or {"tokenizer.json", "checkpoints"} & set(names):
        return f"{path} is not a run that can be used: it was stopped before its first checkpoint; {start}"
    if others := [name for name in names if name.endswith(OTHER_WEIGHTS)]:
        return f"{path} is not a run, and {others[0]} is not read here; fetch the model as model.safetensors"
    found = "it is empty" if not names else f"it holds {', '.join(names[:3])}{', ...' * (len(names) > 3)}"
    return f"{path} is not a run: {found}; {start}"
