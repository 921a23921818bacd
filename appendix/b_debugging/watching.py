"""Values and gradients inside any model, recorded with hooks."""

# Written by `make export` from b_debugging.ipynb; change it there.

import contextlib
import copy
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch

from .previous_chapters import AdamW, cross_entropy

__all__ = [
    "first_tensor",
    "device_of",
    "logits_of",
    "left_as_found",
    "Record",
    "record_of",
    "watch",
    "watch_table",
    "Flow",
    "length",
    "gradient_flow",
]

# %% b_debugging.ipynb #5e2448ca
def first_tensor(output):
    """The first tensor in a module's output: itself, or in a tuple, list, dict or dataclass; else None."""
    if isinstance(output, torch.Tensor):
        return output
    if dataclasses.is_dataclass(output) and not isinstance(output, Mapping):
        output = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    parts = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, Mapping | list | tuple):
        return next((found for found in map(first_tensor, parts) if found is not None), None)


def device_of(model):
    """Where the model's first parameter lies; the CPU for a model without any."""
    return next(model.parameters(), torch.empty(0)).device


def logits_of(model, token_ids):
    """The logits (B, T, V) of any model that is called with token_ids (B, T) int64.

    It may return the logits, an object or dict with `logits` (transformers), or a tuple that begins with
    them. With gradients, in the model's mode. ValueError when a position has no logits of its own.
    """
    output = model(token_ids.to(device_of(model)))
    if isinstance(output, Mapping):
        output = output["logits"]
    logits = output.logits if hasattr(output, "logits") else first_tensor(output)
    if logits is None or logits.dim() != 3 or logits.shape[:2] != token_ids.shape:
        got = type(output).__name__ if logits is None else tuple(logits.shape)
        raise ValueError(f"expected logits (B, T, V) for token_ids {tuple(token_ids.shape)}, got {got}")
    return logits

# %% b_debugging.ipynb #f953dad5
@contextlib.contextmanager
def left_as_found(model):
    """At the end the model has its modes, gradients and buffers again, and PyTorch its random numbers.

    Inside, no parameter has a gradient at first. Weights are not put back.
    """
    device = device_of(model)
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            model.zero_grad(set_to_none=True)
            yield
        finally:
            for module, training in modes:
                module.training = training
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for buffer, before in buffers:
                buffer.data.copy_(before)

# %% b_debugging.ipynb #f2707d75
class Record(NamedTuple):
    """What a module returned: mean and std of its finite values, share of zeros, count of the others."""

    name: str
    kind: str
    shape: tuple
    mean: float
    std: float
    zeros: float
    not_finite: int


def record_of(name, kind, tensor):
    """The Record of a tensor of any shape and dtype."""
    values = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
    finite = values[values.isfinite()]  # (number of finite values,)
    mean = finite.mean()  # NaN where no value is finite
    std = (finite - mean).square().mean().sqrt()
    zeros = (tensor == 0).sum().item() / max(1, tensor.numel())
    not_finite = tensor.numel() - len(finite)
    return Record(name, kind, tuple(tensor.shape), mean.item(), std.item(), zeros, not_finite)


record_of("by hand", "four numbers", torch.tensor([1.0, 3.0, 0.0, math.inf]))

# %% b_debugging.ipynb #9b0063e2
@torch.no_grad()
def watch(model, token_ids):
    """Call the model with token_ids (B, T), in its mode; a Record for each call of a module inside.

    In the order in which they end: the innermost first, the model last. Any nn.Module. The model is left as
    found, without hooks; an error in it says which module ended last.
    """
    records, hooks = [], []

    def see(name, module, arguments, output):
        tensor = first_tensor(output)
        if tensor is not None:
            records.append(record_of(name, type(module).__name__, tensor))

    with left_as_found(model):
        try:
            for name, module in model.named_modules():
                hooks.append(module.register_forward_hook(functools.partial(see, name or "(the model)")))
            model(token_ids.to(device_of(model)))
        except Exception as error:
            error.add_note(f"the last module that ended: {records[-1].name if records else 'none'}")
            raise
        finally:
            for hook in hooks:
                hook.remove()
    return records


def watch_table(records):
    """Records as text, one line each."""
    first = max([len("module"), *(len(r.name) for r in records)]) + 2
    second = max([len("class"), *(len(r.kind) for r in records)])
    lines = [f"{'module':{first}}{'class':{second}}{'shape':>14}{'mean':>9}{'std':>9}{'zeros':>7} not finite"]
    for r in records:
        numbers = f"{r.mean:9.3f}{r.std:9.3f}{r.zeros:7.0%}{r.not_finite or '':>11}"
        shape = " x ".join(map(str, r.shape))
        lines.append(f"{r.name:{first}}{r.kind:{second}}{shape:>14}{numbers}".rstrip())
    return "\n".join(lines)

# %% b_debugging.ipynb #a623961f
class Flow(NamedTuple):
    """A parameter in one step. weight, gradient: their norms (None: no gradient arrived); ratio: the size of
    the change, divided by that of the weight; unmoved: the share of its numbers that the step leaves be."""

    name: str
    shape: tuple
    weight: float
    gradient: float | None
    ratio: float
    unmoved: float


def length(tensor):
    """The square root of the sum of squares, added up in float64."""
    return torch.linalg.vector_norm(tensor, dtype=torch.float64).item()


def gradient_flow(model, batch, optimizer=None):
    """A Flow for each parameter: the backward pass on a batch, (inputs, targets), each (B, T), and one step.

    optimizer: that of the run, or None: AdamW with lr=1e-3, without weight decay. Weights, gradients and the
    optimizer's state are then put back.
    """
    optimizer = optimizer or AdamW(list(model.parameters()), lr=1e-3, weight_decay=0.0)
    every = {*model.parameters(), *(w for group in optimizer.param_groups for w in group["params"])}
    before = {w: w.detach().clone() for w in every}
    state, flows = copy.deepcopy(optimizer.state_dict()), []
    with left_as_found(model):
        try:
            cross_entropy(logits_of(model, batch[0]), batch[1].to(device_of(model))).backward()
            optimizer.step()
            for name, w in model.named_parameters():
                old, gradient = before[w], None if w.grad is None else length(w.grad)
                size, change = length(old), length(w.detach() - old)
                ratio = change / size if size else math.inf if change else 0.0
                unmoved = (w.detach() == old).float().mean().item()
                flows.append(Flow(name, tuple(w.shape), size, gradient, ratio, unmoved))
        finally:
            optimizer.load_state_dict(state)
            with torch.no_grad():
                for w, old in before.items():
                    w.copy_(old)
    return flows
