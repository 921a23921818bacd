"""Probes of what a model's output depends on: black boxes, asked with changed inputs."""

# Written by `make export` from b_debugging.ipynb; change it there.

import contextlib
import copy
import inspect
import math

import torch
from torch import nn

from .batches import shift_agreement
from .previous_chapters import AdamW, cross_entropy
from .watching import device_of, first_tensor, gradient_flow, left_as_found, logits_of, watch, watch_table

__all__ = [
    "descend",
    "overfit_one_batch",
    "other_ids",
    "relative_change",
    "causality_leak",
    "influence",
    "only_block",
    "position_sensitivity",
    "batch_dependence",
    "mode_changes",
    "maps_as_called",
    "lr_range_test",
    "vital_signs",
    "first_tensor",
    "logits_of",
    "left_as_found",
    "watch",
    "watch_table",
    "gradient_flow",
]

# %% b_debugging.ipynb #e21e6404
def descend(model, optimizer, batches):
    """A plain training step for each batch, (inputs, targets); yields the loss (nats a token) before it."""
    for inputs, targets in batches:
        loss = cross_entropy(logits_of(model, inputs), targets.to(device_of(model)))
        yield loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def overfit_one_batch(model, batch, steps=100, lr=3e-3):
    """The loss (nats a token) before each step of AdamW on one batch, (inputs, targets), and after the last.

    On a copy of the model, without dropout: steps + 1 numbers that end near 0 when the model can learn.
    """
    with left_as_found(model):
        model = copy.deepcopy(model).eval()  # gradients flow in eval mode too
        optimizer = AdamW(list(model.parameters()), lr=lr, weight_decay=0.0)
        return list(descend(model, optimizer, [batch] * (steps + 1)))

# %% b_debugging.ipynb #4c67929c
def other_ids(token_ids, vocab_size, seed=0):
    """Ids of the same shape, each different from the one in its place, drawn by a generator of their own."""
    shift = torch.randint(1, vocab_size, token_ids.shape, generator=torch.Generator().manual_seed(seed))
    return (token_ids + shift.to(token_ids.device)) % vocab_size


def relative_change(before, after):
    """The largest difference of two tensors of logits, in standard deviations of the first; 0 for equal."""
    before, after = before.double(), after.double()
    return ((after - before).abs().max() / before.std().clamp(min=1e-12)).item()

# %% b_debugging.ipynb #ffbb442d
@torch.no_grad()
def causality_leak(model, token_ids, n_cuts=8):
    """How much logits up to t move, at most, when all tokens after t are changed.

    In standard deviations of the logits: 0 (rounding aside) for a causal model. token_ids: (B, T). Tried at
    n_cuts places t, spread over the row, in eval mode. 0 for T = 1, NaN for logits that are not finite.
    """
    token_ids = token_ids.to(device_of(model))
    T, leaks = token_ids.size(1), [0.0]
    with left_as_found(model):
        model.eval()
        before = logits_of(model, token_ids)  # (B, T, V)
        others = other_ids(token_ids, before.size(-1))  # (B, T)
        for t in sorted(set(torch.linspace(0, T - 2, n_cuts).long().tolist())) if T > 1 else []:
            changed = torch.cat([token_ids[:, : t + 1], others[:, t + 1 :]], dim=1)  # (B, T)
            leaks.append(relative_change(before[:, : t + 1], logits_of(model, changed)[:, : t + 1]))
    return max(leaks, key=lambda leak: math.inf if math.isnan(leak) else leak)

# %% b_debugging.ipynb #31793619
@torch.no_grad()
def influence(model, row):
    """Which token moves which output: row (T,) int64 -> (T, T), mean |change| at t when token s is another.

    In standard deviations of the logits. Lower triangular for a causal model. One batch of T + 1 rows.
    """
    T = len(row)
    row = row.to(device_of(model))
    with left_as_found(model):
        model.eval()
        others = other_ids(row, logits_of(model, row[None]).size(-1))  # (T,)
        one_each = torch.eye(T, dtype=torch.bool, device=row.device)
        changed = torch.where(one_each, others, row)  # (T, T): in row s token s is another
        logits = logits_of(model, torch.cat([row[None], changed])).double()  # (T + 1, T, V)
    moved = (logits[1:] - logits[:1]).abs().mean(dim=-1)  # (T, T): [s, t]
    return (moved / logits[0].std().clamp(min=1e-12)).T.float().cpu()

# %% b_debugging.ipynb #c60ecbd3
@contextlib.contextmanager
def only_block(model, layer):
    """Inside, every block but number `layer` hands on its input unchanged. Hooks; removed at the end.

    Blocks are the members of the longest ModuleList that is not inside another; without one nothing is
    switched off.
    """

    def pass_on(module, arguments, keywords, output):
        x = arguments[0] if arguments else keywords["hidden_states"]
        return (x, *output[1:]) if isinstance(output, tuple) else x

    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inner = {module for each in lists for module in each.modules() if module is not each}
    blocks = list(max((each for each in lists if each not in inner), key=len, default=[]))
    if blocks and not -len(blocks) <= layer < len(blocks):
        raise IndexError(f"expected the number of one of {len(blocks)} blocks, got {layer}")
    skipped = [block for block in blocks if block is not blocks[layer]]
    hooks = [block.register_forward_hook(pass_on, with_kwargs=True) for block in skipped]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

# %% b_debugging.ipynb #43ca19cf
@torch.no_grad()
def position_sensitivity(model, token_ids, layer=0):
    """How much the last logits move when earlier tokens change places, in standard deviations of the logits.

    Through block `layer` alone: a causal mask tells several blocks something of the order, but not one. 0
    (rounding aside) for a model without positions. token_ids: (B, T), T at least 3; the earlier tokens are
    reversed. In eval mode.
    """
    token_ids = token_ids.to(device_of(model))
    if token_ids.size(1) < 3:
        raise ValueError(f"expected 3 tokens a row or more, whose order can change; got {token_ids.size(1)}")
    moved = torch.cat([token_ids[:, :-1].flip(1), token_ids[:, -1:]], dim=1)  # (B, T)
    with left_as_found(model), only_block(model, layer):
        model.eval()
        return relative_change(*(logits_of(model, ids)[:, -1] for ids in (token_ids, moved)))

# %% b_debugging.ipynb #17e3e594
@torch.no_grad()
def batch_dependence(model, token_ids):
    """How much a row's logits move when the other rows of its batch are others, in their standard deviations.

    0 for a model in which rows do not meet. token_ids: (B, T); a single row gets one beside it. In eval mode.
    """
    token_ids = token_ids.to(device_of(model))
    with left_as_found(model):
        model.eval()
        first = token_ids[:1]  # (1, T)
        V = logits_of(model, first).size(-1)
        rest = token_ids[1:] if len(token_ids) > 1 else other_ids(first, V)  # (B - 1, T)
        one, two = (logits_of(model, torch.cat([first, r]))[0] for r in (rest, other_ids(rest, V, seed=1)))
    return relative_change(one, two)


@torch.no_grad()
def mode_changes(model, token_ids):
    """How much the logits move between two calls: in "eval" mode, in "train" mode, and from "eval to train".

    In standard deviations of the logits. A model with dropout gives 0 in eval mode, and more than 0 in both
    others; one without gives 0 everywhere.
    """
    with left_as_found(model):
        model.eval()
        one, two = (logits_of(model, token_ids) for _ in range(2))
        model.train()
        three, four = (logits_of(model, token_ids) for _ in range(2))
    pairs = {"eval": (one, two), "train": (three, four), "eval to train": (one, three)}
    return {name: relative_change(*pair) for name, pair in pairs.items()}

# %% b_debugging.ipynb #ee7e5ad8
@torch.no_grad()
def maps_as_called(model, token_ids):
    """The attention weights (L, B, H, T, S) of a call of the course's GPT, with the masks really given.

    token_ids: (B, T). Of every module whose forward takes return_weights, in the order of the calls.
    """
    maps, hooks = [], []

    def ask_again(module, arguments, keywords, output):
        maps.append(module.forward(*arguments, **keywords | {"return_weights": True})[1])  # forward: no hooks

    with left_as_found(model):
        model.eval()
        try:
            for module in model.modules():
                if "return_weights" in inspect.signature(module.forward).parameters:
                    hooks.append(module.register_forward_hook(ask_again, with_kwargs=True))
            model(token_ids.to(device_of(model)))
        finally:
            for hook in hooks:
                hook.remove()
    return torch.stack(maps).float().cpu()

# %% b_debugging.ipynb #8b75f29b
def lr_range_test(model, batch_of, low=1e-5, high=1.0, steps=60):
    """(rates, losses) of steps of AdamW while its rate rises from low to high by equal factors.

    On a copy of the model. batch_of: step -> (inputs, targets), each (B, T). Ends early when the loss is
    twice the first or not finite. Smith 2017, section 3.3.
    """
    twin, rates, losses = copy.deepcopy(model), [], []
    optimizer = AdamW(list(twin.parameters()), lr=low, weight_decay=0.0)
    with left_as_found(model):
        for step, loss in enumerate(descend(twin, optimizer, map(batch_of, range(steps)))):
            rates.append(low * (high / low) ** (step / max(1, steps - 1)))
            losses.append(loss)
            if not loss < 2 * losses[0]:
                break
            optimizer.param_groups[0]["lr"] = rates[-1]
    return rates, losses

# %% b_debugging.ipynb #c5236b8b
def vital_signs(model, batch):
    """{name: number}: what this appendix measures, of a model and a batch, (inputs, targets), each (B, T).

    B at least 1, T at least 3. The model is left as found. NaN where no number is finite.
    """
    inputs, targets = batch
    with left_as_found(model), torch.no_grad():
        V = logits_of(model, inputs).size(-1)
    flows, records = gradient_flow(model, batch), watch(model, inputs)
    losses = overfit_one_batch(model, batch, steps=60)
    return {
        "loss": losses[0],
        "loss of a uniform guess": math.log(V),
        "loss after 60 steps on this batch": losses[-1],
        "targets that are the next input": shift_agreement(inputs, targets)[1],
        "leak from the future": causality_leak(model, inputs),
        "effect of the order": position_sensitivity(model, inputs),
        "effect of the other rows": batch_dependence(model, inputs),
        "change between two calls": mode_changes(model, inputs)["eval"],
        "values that are not finite": sum(record.not_finite for record in records),
        "parameters without a gradient": sum(not flow.gradient for flow in flows),
        "largest update / weight": max((f.ratio for f in flows if f.ratio < math.inf), default=math.nan),
    }
