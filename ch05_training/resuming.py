"""What a person must know when a run goes on otherwise than it began. Written by hand: it teaches nothing."""

import warnings

from .step import rate_at


def check_same_text(then, now, run_dir):
    """ValueError when two fingerprints of a TokenDataset are of two texts; either may be None."""
    if then and now and then["sha256"] != now["sha256"]:
        texts = ["{name} ({tokens:,} tokens, sha256 {sha256:.12})".format(**data) for data in (then, now)]
        what = f"{run_dir} was trained with {texts[0]}, but this is {texts[1]}"
        raise ValueError(f"{what}; give it the same text, or start a new run")


def warn_of_rising_rate(old, new, step):
    """A warning when the learning rate after `step` steps rises because one TrainConfig replaces another."""
    before, planned, after = rate_at(step - 1, old), rate_at(step, old), rate_at(step, new)
    if step and after > max(before, planned) * 1.001:
        names = ("steps", "max_lr", "min_lr", "warmup_steps")
        changed = [name for name in names if getattr(old, name) != getattr(new, name)]
        why = ", ".join(f"{name}={getattr(new, name)} instead of {getattr(old, name)}" for name in changed)
        rates = f"from {before:.1e} at step {step} to {after:.1e} at step {step + 1}"
        warnings.warn(f"the learning rate rises {rates}: {why}", stacklevel=3)
