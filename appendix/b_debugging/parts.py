"""What can be wrong with norms, blocks, feed-forward layers and first numbers."""

# Written by hand: each rule is told in the notebook.

import itertools
import math

import torch
import torch.nn.functional as F

from .anatomy import inside, matrices
from .evidence import Finding, drawn_like, hooked, is_stream, moves, record, replay
from .probes import first_tensor, logits_of


def looks_drawn(weight):
    """Whether a matrix may be as it was initialised: its rows are equally long, as independent draws are."""
    norms = weight.norm(dim=-1)
    return weight.size(-1) >= 8 and norms.std() / norms.mean() < 2 / math.sqrt(2 * weight.size(-1))


@torch.no_grad()
def value_faults(twin, inputs, targets, V):
    """Findings about the weights as they are: first numbers, ties, sizes."""
    calls, logits = record(twin, inputs), logits_of(twin, inputs)
    used = {m.weight for m in matrices(twin)}
    weights = {name: p for name, p in twin.named_parameters() if p in used}
    aside = [name for name, p in weights.items() if p.mean().abs() >= p.std() / 2]
    if 2 * len(aside) > len(used):
        text = f"{len(aside)} of {len(used)} matrices have no spread around 0, as {aside[0]}: "
        text += f"mean {weights[aside[0]].mean():.3f}, standard deviation {weights[aside[0]].std():.3f}"
        yield Finding("weights not drawn around 0", text, "Draw matrices from N(0, std).")
    outputs = [(call.name, first_tensor(call.output)) for call in calls]
    if not logits.isfinite().all():
        first = next(name for name, out in outputs if is_stream(out) and not out.isfinite().all())
        text = (
            f"{(~logits.isfinite()).sum().item()} of {logits.numel()} logits are not finite, first in {first}"
        )
        yield Finding(
            "logits not finite",
            text,
            "Look at what this module is given, and at rows of a mask that hide all.",
        )
        return
    sums = logits.sum(-1)
    if (logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        text = "every row of logits adds up to 1, and none is negative"
        yield Finding(
            "probabilities where logits belong",
            text,
            "Return what the last linear layer gives; the loss applies the softmax.",
        )
    heads = [c for c in calls if c.module in matrices(twin) and first_tensor(c.output).shape == logits.shape]
    tables = [c for c in calls if takes_ids(c, inputs) and getattr(c.module, "weight", None) is not None]
    if heads and tables:
        yield from tie_faults(twin, tables[0], heads[-1])
    loss = None
    if targets is not None and (targets != -100).any():
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100).item()
    large = list(size_faults(twin, loss, V))
    yield from large
    guess = logits.softmax(-1).mean((0, 1))  # (V,): what the model expects on average
    knows = math.log(V) + (guess * guess.clamp(min=1e-12).log()).sum().item()  # nats below a uniform guess
    if not large and loss is not None and loss > math.log(V) + 0.5 and knows > 0.3 and text_like(inputs, V):
        text = f"the model is trained, and its loss of {loss:.2f} is above ln V = {math.log(V):.2f}"
        yield Finding(
            "ids of another tokenizer", text, "Decode the batch with the model's own tokenizer and read it."
        )


def size_faults(twin, loss, V):
    """Findings about matrices that are as they were drawn, and drawn too large."""
    used = {m.weight for m in matrices(twin)}
    for name, p in twin.named_parameters():
        gain = p.std().item() * math.sqrt(p.size(-1)) if p in used else 0.0
        if gain > 2.5 and looks_drawn(p):
            text = f"{name} has standard deviation {p.std():.2f}: products are {gain:.1f} times their input"
            text += "" if loss is None else f"; the loss is {loss:.1f}, and ln V is {math.log(V):.1f}"
            yield Finding(
                "weights start too large",
                text,
                "Draw matrices with a standard deviation below 1 / sqrt(input size).",
            )
            return


def text_like(inputs, V):
    """Whether some ids come far more often than in a uniform draw, as in text of any tokenizer."""
    n = inputs.numel()
    distinct = inputs.unique().numel()
    return n >= 32 and distinct < 0.75 * V * (1 - (1 - 1 / V) ** n)


def takes_ids(call, ids):
    given = [t for t in (*call.args, *call.kwargs.values()) if isinstance(t, torch.Tensor)]
    out = first_tensor(call.output)
    return (
        bool(given)
        and given[0].shape == ids.shape
        and not given[0].is_floating_point()
        and torch.equal(given[0], ids)
        and not list(call.module.children())
        and is_stream(out)
    )


def tie_faults(twin, table, head):
    """Findings about an embedding and an output layer that should be one matrix, and are two."""
    config, one, two = getattr(twin, "config", None), table.module.weight, head.module.weight
    asked = getattr(config, "tie_weights", getattr(config, "tie_word_embeddings", None))
    if one is two or one.shape != two.shape:
        return
    equal = torch.equal(one, two) and one.std() > 0
    if asked is True or equal:
        text = f"{table.name}.weight and {head.name}.weight are two parameters" + (
            " with the same numbers" if equal else ", and the configuration ties them"
        )
        yield Finding(
            "weights tied as a copy" if equal else "output layer not tied",
            text,
            "Assign the parameter itself: lm_head.weight = embedding.weight.",
        )


def norm_faults(anatomy):
    """Findings about norms, each asked alone."""
    for call in anatomy.norms:
        what, x = anatomy.mixed.get(call.name, set()), 0.3 * drawn_like(call.x)
        if what:
            yield Finding(
                f"norm over the {'batch' if 'time' not in what else 'tokens'}",
                f"{call.name}: the vector of one token moves those of others",
                "Take mean and variance over the last dimension alone, dim=-1.",
            )
            continue
        tried = (normed(call, t) for t in (x, 100 * x, x + 1))
        small, large, moved = (t.square().mean(-1).sqrt().mean().item() for t in tried)
        D = x.size(-1)
        small = max(small, 1e-30)
        if not 0.5 < large / small < 2:
            text = f"{call.name}: vectors 100 times as long come out {large / small:.3g} times as long"
            yield Finding(
                "norm does not normalise", text, "Divide by the standard deviation, the root of the variance."
            )
        elif max(abs(small - 1), abs(moved - 1)) > max(0.05, 1.2 / D) and D > 3:
            text = f"{call.name}: before its weight, the root mean square is {small:.3f}, and should be 1"
            text += f"; with 1 added to each number, {moved:.3f}"
            yield Finding("norm of the wrong size", text, "Divide by the root of the mean of the squares.")


@torch.no_grad()
def normed(call, x):
    """What a norm returns without the effect of its weight and bias."""
    weight = getattr(call.module, "weight", None)
    if weight is None:
        return replay(call, x)
    kept, outputs = weight.clone(), []
    for value in (1.0, 0.0):
        weight.fill_(value)
        outputs.append(replay(call, x))
    weight.copy_(kept)
    return outputs[0] - outputs[1]


@torch.no_grad()
def block_faults(anatomy):
    """Findings about blocks: what of the input is left when their linear layers say 0."""
    config = getattr(anatomy.model, "config", None)
    yield from hand_over_faults(anatomy)
    for call, mixers, rest in anatomy.blocks:
        attention = [leaf for mixer in mixers for leaf in matrices(mixer.module)]
        x = (
            drawn_like(call.x)
            * torch.linspace(1, 3, call.x.size(1), dtype=call.x.dtype, device=call.x.device)[:, None]
        )
        other, lost = drawn_like(x, 1), []
        for part, leaves in (("attention", attention), ("the feed-forward layer", rest)):
            with hooked({leaf: silent for leaf in leaves}):
                if leaves and not moves(replay(call, x), replay(call, other)).any():
                    lost.append(part)
        for part in lost:
            yield Finding(
                "residual connection missing",
                f"{call.name}: with the linear layers of {part} at 0, nothing of the input is left",
                "Add the layer's input to what it returns: x = x + layer(x).",
            )
        if lost or not attention:
            continue
        with hooked({leaf: silent for leaf in attention + rest}):
            y = replay(call, x)
        ratio = (x * y).sum(-1) / x.square().sum(-1)
        proportional = (y - ratio[..., None] * x).abs().max() < 1e-6 and ratio.std() < 1e-6
        if proportional and abs(ratio.mean() - 1) > 1e-3:
            yield Finding(
                "stream not passed on as it is",
                f"{call.name}: with its linear layers at 0, the input comes out {ratio.mean():.2f} times",
                "Add the layer's output to the input once.",
            )
        elif not proportional and getattr(config, "norm_position", "") == "pre":
            yield Finding(
                "stream not passed on as it is",
                f"{call.name}: with its linear layers at 0, the input of a pre-norm block comes out changed",
                "Normalise what the layer reads, and leave the stream as it is.",
            )
        yield from linear_faults(anatomy, call, mixers)


def hand_over_faults(anatomy):
    """Findings about what is done to the stream between two blocks."""
    names = [call.name for call in anatomy.calls]
    for (one, *_), (two, *_) in itertools.pairwise(anatomy.blocks):
        given, returned = two.x, first_tensor(one.output)
        once = names.count(one.name) == names.count(two.name) == 1
        if once and given.shape == returned.shape and moves(given, returned, 1e-9).any():
            text = f"{two.name} is given something else than what {one.name} returned"
            advice = "Hand each block's output to the next as it is."
            yield Finding("stream not passed on as it is", text, advice)
            return


@torch.no_grad()
def missing_norms(anatomy):
    """Findings about layers of a block with norms whose output grows with the vectors that they read."""
    for call, mixers, rest in anatomy.blocks:
        attention = [leaf for mixer in mixers for leaf in matrices(mixer.module)]
        x, normed_here = drawn_like(call.x), any(inside(norm.name, call.name) for norm in anatomy.norms)
        with hooked({leaf: silent for leaf in attention + rest}):
            if not normed_here or moves(replay(call, x), x).any():
                continue
        for part, others in (("attention", rest), ("the feed-forward layer", attention)):
            with hooked({leaf: silent for leaf in others}):
                once, more = (replay(call, c * x) - c * x for c in (1, 100))
            growth = (more.norm() / once.norm().clamp(min=1e-30)).item()
            if growth > 10:
                text = f"{call.name}: for vectors 100 times as long, {part} adds {growth:.3g} times as much"
                yield Finding("norm missing", text, "Let each layer of the block read norm(x).")


def silent(module, args, kwargs, output):
    return torch.zeros_like(output)


def linear_faults(anatomy, block, mixers):
    """Findings about feed-forward layers that no activation bends."""
    config = getattr(anatomy.model, "config", None)
    gated = getattr(config, "activation", "") == "swiglu" or getattr(config, "hidden_act", "") in (
        "silu",
        "swish",
    )
    within = [
        c
        for c in anatomy.calls
        if inside(c.name, block.name) and not any(inside(c.name, m.name) or c.name == m.name for m in mixers)
    ]
    layers = [
        c
        for c in within
        if c.x is not None
        and is_stream(first_tensor(c.output))
        and len(matrices(c.module)) >= 2
        and not any(inside(m.name, c.name) for m in mixers)
    ]
    for call in [
        c for c in layers if not any(inside(c.name, other.name) for other in layers if other is not c)
    ]:
        a, b = 2 * drawn_like(call.x), 2 * drawn_like(call.x, 1)
        zero, f_a, f_b, f_ab, f_minus = (replay(call, t) for t in (0 * a, a, b, a + b, -a))
        size = f_a.abs().max()
        if (f_ab - f_a - f_b + zero).abs().max() < 1e-6 * size:
            yield Finding(
                "activation missing",
                f"{call.name}: f(a + b) = f(a) + f(b) for any a and b, so it is linear",
                "Put the activation between the two linear layers.",
            )
        elif gated and len(matrices(call.module)) > 2 and grows_little(call, a):
            yield Finding(
                "gate not multiplied",
                f"{call.name}: for long vectors it grows like their length, a product like its square",
                "Multiply the two parts: silu(gate(x)) * up(x).",
            )
        elif gated and (f_a - f_minus).abs().max() < 1e-6 * size:
            yield Finding(
                "activation missing",
                f"{call.name}: f(-a) = f(a), so nothing bends the gate",
                "Put the activation on the gate: silu(gate(x)) * up(x).",
            )


def grows_little(call, x):
    """Whether a vector 10 times as long comes out far less than 100 times as long."""
    return replay(call, 1e4 * x).norm() < 30 * replay(call, 1e3 * x).norm()
