"""Models, batches and steps with one line of the course broken, to hunt in."""

# Written by `make export` from b_zoo.ipynb; change it there.

import inspect
import random

import torch

from .bugs import BUGS, Bug
from .specimens import HOMES, USED_BY_TRANSFORMER, diff, healthy_parts, specimen

__all__ = [
    "edited",
    "numbered",
    "course_with",
    "hunt",
    "reveal",
]

# %% b_zoo.ipynb #0eee1c88
def edited(home, right, broken):
    """The names of a file, or of one function's file, after its source has run again with one part replaced.

    ValueError when that part is not in the source exactly once.
    """
    source = inspect.getsource(home)
    if source.count(right) != 1:
        raise ValueError(f"{right!r} is {source.count(right)} times in {home.__name__}; expected once")
    names = dict(home.__globals__ if inspect.isfunction(home) else vars(home))
    exec(compile(source.replace(right, broken), f"<{home.__name__}, broken>", "exec"), names)
    return names

# %% b_zoo.ipynb #fcd0f24e
def numbered():
    """{number of a hunt: Bug}, in an order that says nothing; number 0 is healthy."""
    order = list(range(len(BUGS)))
    random.Random(15).shuffle(order)
    return {0: None} | {number: BUGS[place] for number, place in enumerate(order, 1)}


def course_with(bug):
    """What a run is made of, {home: names}, with one line broken; None breaks nothing."""
    parts = healthy_parts()
    if bug:
        parts[bug.home] = edited(HOMES[bug.home], bug.right, bug.broken)
    if bug and bug.home in USED_BY_TRANSFORMER:  # the GPT must be made anew, of the broken parts
        parts["transformer"] = edited(HOMES["transformer"], "class GPT(", "class GPT(")
        for name in USED_BY_TRANSFORMER[bug.home]:
            parts["transformer"][name] = parts[bug.home][name]
    return parts


def hunt(bug_id):
    """A Specimen with the fault of that number, or with a Bug that is given; number 0 is a healthy one."""
    bug = bug_id if isinstance(bug_id, Bug) else numbered()[bug_id]
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return specimen(course_with(bug), bug)


def reveal(bug_id):
    """What was broken, as text: the line before and after, the symptom, the cause, the name for it."""
    bug = bug_id if isinstance(bug_id, Bug) else numbered()[bug_id]
    if bug is None:
        return "nothing is broken"
    title = f"{bug.name} ({bug.family}), in {HOMES[bug.home].__name__}"
    return "\n".join([title, diff(bug), bug.symptom, bug.diagnosis, f"diagnose says: {bug.found_as}"])
