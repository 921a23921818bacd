"""The standard probes on any language model: what is wrong with it, by what evidence."""

# Written by `make export` from b_zoo.ipynb; change it there.

import copy

import torch

from .anatomy import dissect
from .evidence import Finding, moves, working_copy
from .heads import attention_faults
from .pairing import data_faults
from .parts import block_faults, missing_norms, norm_faults, value_faults
from .probes import logits_of, relative_change
from .stepping import step_faults
from .whole import (
    final_norm_faults,
    forward_faults,
    frozen_faults,
    gradient_faults,
    position_faults,
    probe_ids,
    registration_faults,
    strangers_in,
    whole_faults,
)

__all__ = [
    "batch_findings",
    "model_findings",
    "diagnose",
    "report",
]

# %% b_zoo.ipynb #429e881c
def batch_findings(model, inputs, targets, tokenizer):
    """Findings about the batch, and about the model's own numbers on it."""
    with torch.no_grad():
        V = logits_of(copy.deepcopy(model).eval(), torch.zeros_like(inputs)).size(-1)
    n_ids = getattr(tokenizer, "n_vocab", 0)
    if n_ids > V:
        text = f"the tokenizer has {n_ids} ids, and the model gives {V} logits"
        yield Finding(
            "tokenizer of another vocabulary", text, "Take the tokenizer that the model was made for."
        )
    ids = inputs if targets is None else torch.cat([inputs, targets.where(targets != -100, 0)], 1)
    if ids.min() < 0 or ids.max() >= V:
        text = f"ids are from {ids.min()} to {ids.max()}, and the model knows 0 .. {V - 1}"
        yield Finding("ids outside the vocabulary", text, "Encode the text with the model's own tokenizer.")
    yield from data_faults(inputs, targets)
    if 0 <= ids.min() and ids.max() < V and not strangers_in(model, inputs):
        yield from value_faults(working_copy(model, inputs), inputs, targets, V)

# %% b_zoo.ipynb #76b7bdfd
def model_findings(model, inputs):
    """Findings about the model's structure, on ids of our own and with loud weights."""
    ids = probe_ids(copy.deepcopy(model).eval(), inputs)
    if ids is None:
        return
    yield from registration_faults(model, ids)
    yield from frozen_faults(model)
    if strangers_in(model, ids):
        return
    loud = working_copy(model, ids, loud=True)
    with torch.no_grad():
        before, again = logits_of(loud, ids), logits_of(loud, ids)
    if moves(before, again, 1e-9).any():
        text = f"two calls in eval mode differ by {relative_change(before, again):.2f} standard deviations"
        yield Finding(
            "random in evaluation", text, "Let dropout ask self.training: F.dropout and SDPA do not."
        )
        return
    anatomy = dissect(loud, ids)
    attention = [f for call in anatomy.mixers for f in attention_faults(call, getattr(model, "config", None))]
    norms, blocks = list(norm_faults(anatomy)), list(block_faults(anatomy))
    yield from attention + norms + blocks
    if not attention and not norms:
        yield from position_faults(anatomy)
        yield from whole_faults(anatomy)
    if not any("not used" in f.name for f in attention):
        yield from gradient_faults(anatomy)
    if not norms:
        yield from missing_norms(anatomy)
        yield from final_norm_faults(anatomy)

# %% b_zoo.ipynb #ac8c813e
def diagnose(model, batch, tokenizer=None, step=None, quiet=False):
    """Run the standard probes on a model and a batch; print and return what they find, a list of Finding.

    model: maps token_ids (B, T) to logits (B, T, V), or to an object with .logits. batch: (inputs, targets),
    each (B, T) int64, where targets are the tokens that follow and -100 does not count; or token_ids alone.
    tokenizer: anything with n_vocab. step: makes one step of training of this model; it is called at least
    twice. The model, the optimizer and PyTorch's random numbers are left as found; what else step() keeps,
    such as a counter or a place in the text, goes on. quiet: print nothing. A model whose forward
    pass fails is a finding. ValueError when inputs and targets differ in shape.
    """
    inputs, targets = batch if isinstance(batch, tuple | list) else (batch, None)
    if targets is not None and targets.shape != inputs.shape:
        shapes = f"inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)}"
        raise ValueError(f"{shapes} differ in shape; give a target, or -100, for each input")
    device = next(model.parameters()).device
    inputs, targets = (t if t is None else t.to(device) for t in (inputs, targets))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        found = list(forward_faults(model, torch.zeros_like(inputs)))
        if not found:
            found = [*batch_findings(model, inputs, targets, tokenizer), *model_findings(model, inputs)]
            found += [] if step is None else step_faults(model, (inputs, targets), step)
    findings = list({finding.name: finding for finding in reversed(found)}.values())[::-1]
    if not quiet:
        print(report(findings))
    return findings


def report(findings):
    """Findings as text."""
    lines = [f"{f.name}\n    measured: {f.evidence}\n    advice:   {f.advice}" for f in findings]
    return "\n".join(lines or ["nothing found"])
