"""A model taken apart: copies that may be changed, modules called again, and what was found."""

# Written by `make export` from b_zoo.ipynb; change it there.

import contextlib
import copy
import math
from dataclasses import dataclass

import torch
from torch import nn

from .probes import first_tensor

__all__ = [
    "Finding",
    "is_stream",
    "working_copy",
    "drawn_like",
    "Call",
    "hooked",
    "record",
    "replay",
    "moves",
    "mixing",
]

# %% b_zoo.ipynb #18a8f360
@dataclass(frozen=True)
class Finding:
    """A fault by its name, what was measured, and what ends it. A name with a ? may be a choice."""

    name: str
    evidence: str
    advice: str


def is_stream(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() >= 3


def working_copy(model, token_ids, loud=False):
    """A copy in float64 and evaluation mode that may be taken apart; the model stays as it is.

    loud: every parameter is drawn anew, so large that no path through the model is drowned by another; a
    matrix from N(0, 1 / its last size), a weight of a norm from N(1, 0.2²), a bias from N(0, 0.2²).
    """
    twin = copy.deepcopy(model).double().eval()
    if hasattr(getattr(twin, "config", None), "use_cache"):
        twin.config.use_cache = False  # transformers' models: a replayed layer must not find old keys
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in twin.named_parameters():
            p.requires_grad_(True)
            drawn = torch.randn(p.shape, generator=noise, dtype=p.dtype).to(p.device)
            if loud and p.dim() >= 2:
                p.copy_(drawn / math.sqrt(p.size(-1)))
            elif loud:
                p.copy_(0.2 * drawn + name.endswith("weight"))
    try:
        with torch.no_grad():
            twin(token_ids)
    except RuntimeError:  # an operation that does not know float64
        twin = twin.float()
    return twin


def drawn_like(tensor, seed=0):
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(tensor.shape, generator=noise, dtype=tensor.dtype).to(tensor.device)

# %% b_zoo.ipynb #120f9f2f
@dataclass
class Call:
    """One module at work: its name, what it was given, and the tensor that it returned."""

    name: str
    module: nn.Module
    args: tuple
    kwargs: dict
    output: object

    @property
    def x(self):
        """The first floating-point tensor (B, T, ...) that it was given, or None."""
        given = [*self.args, *self.kwargs.values()]
        return next((t for t in given if is_stream(t)), None)


@contextlib.contextmanager
def hooked(hooks):
    """Within it, forward hooks are on: {module: hook(module, args, kwargs, output)}; then off again."""
    handles = [m.register_forward_hook(hook, with_kwargs=True) for m, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def record(model, token_ids):
    """Every call of a module inside the model, in the order in which they end: a list of Call."""
    calls = []

    def hook_of(name):
        return lambda module, args, kwargs, out: calls.append(Call(name, module, args, kwargs, out))

    with hooked({module: hook_of(name) for name, module in model.named_modules()}):
        model(token_ids)
    return calls

# %% b_zoo.ipynb #b8039dcc
def replay(call, x):
    """The module of a call again, with x in place of the tensor call.x wherever it was given."""
    old = call.x
    args = [x if arg is old else arg for arg in call.args]
    kwargs = {name: x if arg is old else arg for name, arg in call.kwargs.items()}
    return first_tensor(call.module(*args, **kwargs))


def moves(before, after, tolerance=1e-6):
    """Where two outputs (B, T, ...) differ by more than a share of their size: (B, T) bool."""
    before, after = (t.nan_to_num(0.0, 0.0, 0.0).flatten(2) for t in (before, after))
    tolerance = max(tolerance, 1e3 * torch.finfo(before.dtype).eps)
    return (before - after).abs().amax(-1) > tolerance * (before.abs().amax() + 1e-12)

# %% b_zoo.ipynb #bd993573
@torch.no_grad()
def mixing(call):
    """Which places of the output move when one vector of the input is replaced: {"time", "batch"} or less."""
    x, output = call.x, first_tensor(call.output)
    if x is None or not is_stream(output) or output.shape[:2] != x.shape[:2] or x.dim() != 3:
        return set()
    x = drawn_like(x)
    other = x.clone()
    other[0, x.size(1) // 2] = drawn_like(x[0, 0], 1)
    moved = moves(replay(call, x), replay(call, other))  # (B, T)
    mixed = {"batch"} if moved[1:].any() else set()
    moved[0, x.size(1) // 2] = False
    return mixed | ({"time"} if moved[0].any() else set())
