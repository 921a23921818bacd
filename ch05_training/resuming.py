"""What a person must know when a run goes on otherwise than it began. Written by hand: it teaches nothing."""

import contextlib
import warnings
from dataclasses import asdict, is_dataclass

NOT_IN_WEIGHTS = ("dropout", "backend", "init_std")  # may differ between a checkpoint and a model


def check_same_text(before, here, run_dir):
    """ValueError when the texts of a run are others than before.

    Both: {"train": fingerprint of a TokenDataset, "val": such a one or None}.
    """
    for part, verb in (("train", "trained"), ("val", "measured")):
        then, now = before[part], here[part]
        if then and now and then["sha256"] != now["sha256"]:
            texts = ["{name} ({tokens:,} tokens, sha256 {sha256:.12})".format(**data) for data in (then, now)]
            what = f"{run_dir} was {verb} with {texts[0]}, but this is {texts[1]}"
            raise ValueError(f"{what}; give it the same text, or start a new run")


def warn_of_rising_rate(old, new, step):
    """A warning when the learning rate after `step` steps rises because one TrainConfig replaces another."""
    before, planned, after = old.rate(step - 1), old.rate(step), new.rate(step)
    if step and after > max(before, planned) * 1.001:
        names = ("steps", "max_lr", "min_lr", "warmup_steps")
        changed = [name for name in names if getattr(old, name) != getattr(new, name)]
        why = ", ".join(f"{name}={getattr(new, name)} instead of {getattr(old, name)}" for name in changed)
        rates = f"from {before:.1e} at step {step} to {after:.1e} at step {step + 1}"
        warnings.warn(f"the learning rate rises {rates}: {why}", stacklevel=4)


def check_same_model(record, weights, config, path):
    """ValueError that names the first setting or shape in which a checkpoint and a model differ.

    record: of the checkpoint at `path`; weights, {name: tensor}, and config: of the model.
    """
    there = record["model"] | {name: tuple(tensor.shape) for name, tensor in record["weights"].items()}
    here = asdict(config) if is_dataclass(config) else {}
    here |= {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in [*there, *weights]:
        if here.get(name) != there.get(name) and name not in NOT_IN_WEIGHTS:
            differs = f"{name}={there.get(name)!r}, but this one has {name}={here.get(name)!r}"
            raise ValueError(f"{path} holds a model with {differs}; build it with {name}={there.get(name)!r}")


@contextlib.contextmanager
def keeping_settings(optimizer):
    """Inside, a load_state_dict changes an optimizer's memory, and not its settings, such as weight_decay."""
    settings = [dict(group) for group in optimizer.param_groups]
    yield
    for group, kept in zip(optimizer.param_groups, settings, strict=True):
        group.update(kept)
