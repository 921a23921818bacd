"""How often to save: failures of a cluster, simulated and by formula."""

# Written by `make export` from c_planning.ipynb; change it there.

import math

import torch

__all__ = [
    "mean_time_between_failures",
    "simulated_goodput",
    "young_interval",
    "daly_interval",
    "expected_goodput",
]

# %% c_planning.ipynb #62ec84f3
def mean_time_between_failures(n_gpus, failures=419, days=54.0, on_gpus=16384):
    """Seconds between two failures of a cluster, from `failures` counted in `days` `on_gpus` GPUs.

    The defaults: Dubey et al. 2024, section 3.3.4, table 5. Failures of one GPU do not depend on the others.
    """
    return days * 86400 * on_gpus / (failures * n_gpus)

# %% c_planning.ipynb #1eb5fac9
def simulated_goodput(intervals, checkpoint, restart, mtbf, n_failures=100_000, seed=0):
    """The share of the time that is kept, for each interval between checkpoints: a tensor like intervals.

    All times in seconds; intervals: (N,) float. The same n_failures exponential times for all intervals.
    """
    generator = torch.Generator().manual_seed(seed)
    apart = torch.empty(n_failures, dtype=torch.float64).exponential_(1 / mtbf, generator=generator)
    running = (apart - restart).clamp(min=0)
    kept = [tau * (running / (tau + checkpoint)).floor().sum() for tau in intervals.tolist()]
    return torch.stack(kept) / apart.sum()

# %% c_planning.ipynb #9b4d3f4b
def young_interval(checkpoint, mtbf):
    """Seconds of work between checkpoints, sqrt(2 C M). Young 1974."""
    return math.sqrt(2 * checkpoint * mtbf)


def daly_interval(checkpoint, mtbf):
    """Seconds of work between checkpoints, to a higher order. Daly 2006."""
    if checkpoint >= 2 * mtbf:
        return mtbf
    small = checkpoint / (2 * mtbf)
    return young_interval(checkpoint, mtbf) * (1 + math.sqrt(small) / 3 + small / 9) - checkpoint


def expected_goodput(interval, checkpoint, restart, mtbf):
    """The share of the time that is kept in the long run, exactly. Daly 2006 has its inverse."""
    return interval / mtbf * math.exp(-restart / mtbf) / math.expm1((interval + checkpoint) / mtbf)
