"""What can be wrong with a model as a whole: order, the future, rows, gradients, registration."""

# Written by hand: each rule is told in the notebooks.

import copy

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from .anatomy import inside, is_table, matrices
from .evidence import Finding, drawn_like, hooked, is_stream, moves, record, replay
from .probes import batch_dependence, causality_leak, first_tensor, logits_of


@torch.no_grad()
def position_faults(anatomy):
    """Findings about the order of tokens: whether it is known at all, and counted from the front."""
    model, ids = anatomy.model, anatomy.token_ids
    T = ids.size(1)
    whole = logits_of(model, ids)
    try:
        front = logits_of(model, ids[:, : T - 2])
    except (ValueError, IndexError, RuntimeError):  # a model of one length only
        front = whole[:, : T - 2]
    if not causality(model, ids) and moves(whole[:, : T - 2], front).any():
        yield Finding(
            "positions counted from the end",
            f"the first {T - 2} logits are others when {T - 2} tokens stand there than when {T} do",
            "Number positions from the front: 0, 1, 2, ...",
        )
        return
    if not anatomy.mixers:
        return
    same = ids[:, :1].expand_as(ids).contiguous()  # one token all along
    calls = {call.name: call for call in record(model, same)}
    stream = calls[anatomy.mixers[0].name].x
    if moves(stream, stream[:, :1].expand_as(stream), 1e-9).any():
        yield from added_faults(anatomy, same, whole.size(-1))
        return  # positions are in the stream
    if any(order_in_attention(mixer) for mixer in anatomy.mixers):
        return
    numbers = [
        (c.name, t)
        for c in calls.values()
        for t in (*c.args, *c.kwargs.values())
        if isinstance(t, torch.Tensor)
        and not t.is_floating_point()
        and t.dtype != torch.bool
        and t.shape[-1:] == (T,)
        and t is not same
        and not torch.equal(t, same)
    ]
    text = "the same tokens in another order give the last one the same logits, through one layer"
    for name, t in numbers:
        if (t == t.flatten()[0]).all():
            text = f"{name} is asked for position {t.flatten()[0].item()} at every token"
            yield Finding("positions all the same", text, "Hand over arange(T), a number for each token.")
            return
    yield Finding("positions missing", text, "Add positions to the embedding, or rotate queries and keys.")


def added_faults(anatomy, same, V):
    """Findings about positions that are brought into the stream otherwise than by a sum."""
    if not anatomy.blocks:
        return
    first, calls = anatomy.blocks[0][0].name, [record(anatomy.model, ids) for ids in (same, (same + 1) % V)]
    names = [call.name for call in calls[0]]
    earlier = [n.name for n in anatomy.norms if names.index(n.name) < names.index(first)]
    if any(not inside(name, first) for name in earlier):
        return  # a norm has been over the sum
    x, other = (next(call.x for call in run if call.name == first) for run in calls)
    change = x - other  # what another token changes, the same at each position
    if moves(change, change[:, :1].expand_as(change), 1e-6).any():
        text = "what another token changes in the stream differs from position to position"
        yield Finding("positions not added", text, "Make the stream token + position.")


def order_in_attention(call):
    """Whether an attention module gives the last token something else when earlier ones change places."""
    x = drawn_like(call.x)
    T = x.size(1)
    order = [*reversed(range(T - 1)), T - 1]
    return moves(replay(call, x)[:, -1:], replay(call, x[:, order])[:, -1:], 1e-5).any().item()


@torch.no_grad()
def causality(model, ids):
    """Which logits move when later tokens change: the share of a standard deviation, 0 for a causal model."""
    return causality_leak(model, ids) > 1e-5


@torch.no_grad()
def whole_faults(anatomy):
    """Findings about the model as a black box, for what no part of it explains."""
    model, ids = anatomy.model, anatomy.token_ids
    leak, together = causality_leak(model, ids), batch_dependence(model, ids)
    if leak > 1e-5:
        text = f"logits move by {leak:.2f} standard deviations when only later tokens change"
        yield Finding("sees the future", text, "Find the module that mixes tokens without a causal mask.")
    rows = logits_of(model, ids[:1].expand_as(ids).contiguous())  # one row, three times
    if together > 1e-5 or moves(rows, rows[:1].expand_as(rows)).any():
        text = f"a row's logits move with the other rows, by {together:.2f} standard deviations, or its place"
        yield Finding(
            "batch mixed", text, "Look for a softmax, a mean, a view or positions over dimension 0."
        )
    earlier = torch.cat([ids[:, :-1].roll(1, 0), ids[:, -1:]], 1)
    if (
        not anatomy.mixers
        and not moves(logits_of(model, ids)[:, -1:], logits_of(model, earlier)[:, -1:], 1e-9).any()
    ):
        text = "the last logits stay when all earlier tokens change"
        yield Finding(
            "tokens do not see each other",
            text,
            "Look at the mask, and at what attention adds to the stream.",
        )


def gradient_faults(anatomy):
    """Findings about parameters that the loss does not reach: unused, or cut off from it."""
    twin, ids, kept = anatomy.model, anatomy.token_ids, {}

    def keep(name):
        return lambda module, args, kwargs, output: kept.update({name: first_tensor(output)})

    with hooked({module: keep(name) for name, module in twin.named_modules() if name}):
        logits = logits_of(twin, ids)
    loss, unused, cut = (logits * drawn_like(logits, 5)).sum(), [], []
    streams = {name: out for name, out in kept.items() if is_stream(out)}
    learned = [name for name in streams if next(twin.get_submodule(name).parameters(), None) is not None]
    unreached = [name for name in learned if not arrives(loss, streams[name])]
    silent = [(name, p) for name, p in twin.named_parameters() if not arrives(loss, p)]
    for name, p in silent:  # after all gradients, since this changes weights
        if not name.endswith("bias") and "expert" not in name:
            (cut if p_matters(twin, p, ids, logits) else unused).append(name)
    cut += [name for name in unreached if matters(twin, twin.get_submodule(name), ids, logits)]
    if cut:
        text = f"the logits depend on {cut[-1]}, and no gradient comes back to it"
        yield Finding(
            "gradient cut", text, "Remove the detach, .data, .item() or no_grad that comes after it."
        )
    if unused:
        text = f"{unused[0]} does not change the logits" + (
            f", nor do {len(unused) - 1} others" if unused[1:] else ""
        )
        yield Finding("parameter not used", text, "Call the layer in forward, or remove it.")


def arrives(loss, tensor):
    """Whether a gradient of the loss that is not 0 everywhere comes back to a tensor."""
    if not (loss.requires_grad and tensor.requires_grad):
        return False
    (gradient,) = torch.autograd.grad(loss, tensor, retain_graph=True, allow_unused=True)
    return gradient is not None and gradient.any().item()


@torch.no_grad()
def p_matters(twin, p, ids, logits):
    """Whether the logits move when a parameter is changed."""
    old = p.clone()
    p.add_(drawn_like(p, 3))
    moved = moves(logits, logits_of(twin, ids), 1e-9).any().item()
    p.copy_(old)
    return moved


def frozen_faults(model):
    """A question about a matrix that is not trained, where most are."""
    wanted = {m.weight for m in matrices(model)} | {
        m.weight for m in model.modules() if is_table(m) and hasattr(m, "weight")
    }
    frozen = [name for name, p in model.named_parameters() if p in wanted and not p.requires_grad]
    if frozen and 2 * len(frozen) < len(wanted):
        text = f"{frozen[0]} has requires_grad=False, and most matrices are trained"
        yield Finding("parameter frozen?", text, "Set requires_grad to True, unless it is meant to stay.")


@torch.no_grad()
def matters(twin, module, ids, logits):
    """Whether the logits move when what a module returns is changed."""

    def nudge(m, args, kwargs, out):
        first = first_tensor(out)
        changed = first + drawn_like(first, 2)
        return changed if out is first else (changed, *out[1:]) if type(out) is tuple else None

    with hooked({module: nudge}):
        return moves(logits, logits_of(twin, ids), 1e-9).any().item()


def strangers_in(model, ids):
    """Layers with parameters that are called and that model.modules() does not know: a set of modules."""
    twin, found = copy.deepcopy(model).eval(), set()
    known = set(twin.modules())

    def see(module, args, output):
        if module not in known and next(module.parameters(recurse=False), None) is not None:
            found.add(module)

    handle = register_module_forward_hook(see)
    try:
        with torch.no_grad():
            twin(ids)
    finally:
        handle.remove()
    return found


def registration_faults(model, ids):
    """Findings about layers that model.parameters() does not know, and about entries that are one object."""
    strangers = strangers_in(model, ids)
    if strangers:
        n = sum(p.numel() for module in strangers for p in module.parameters(recurse=False))
        text = (
            f"{len(strangers)} layers with {n:,} numbers are called, and model.parameters() has none of them"
        )
        yield Finding("layers not registered", text, "Keep layers in nn.ModuleList, not in a list.")
    yield from shared_faults(model)


def shared_faults(model):
    """Findings about lists of layers whose entries are one object."""
    for name, module in model.named_modules():
        learned = isinstance(module, nn.ModuleList) and next(module.parameters(), None) is not None
        if learned and len(set(module)) < len(module):
            text = f"{name} has {len(module)} entries, and they are {len(set(module))} object"
            yield Finding(
                "layers are one object", text, "Make a layer for each entry: [Block(c) for _ in range(n)]."
            )


@torch.no_grad()
def forward_faults(model, ids):
    """Findings about a model that cannot be asked: its forward pass fails, or gives no logits (B, T, V)."""
    advice = "Mend this first: no probe can say more before model(token_ids) gives logits (B, T, V)."
    try:
        twin = copy.deepcopy(model).eval()
    except Exception as error:
        text = f"copy.deepcopy(model): {type(error).__name__}: {error}"
        yield Finding("model cannot be copied", text, "Keep outputs in a module only after .detach().")
        return
    try:
        logits_of(twin, ids)
    except Exception as error:
        reason = (str(error).strip() or "no message").splitlines()[0]
        text = f"on token ids {tuple(ids.shape)}: {type(error).__name__}: {reason}"
        yield Finding("forward pass fails", text, advice)
        yield from shared_faults(model)


def probe_ids(model, inputs):
    """Token ids (3, T) of our own, T at most 8; None when the model takes none of these sizes."""
    with torch.no_grad():
        V = logits_of(model, torch.zeros_like(inputs)).size(-1)
        for T in (8, 6, 5, 4, max(4, inputs.size(1))):  # the last for models of one length
            ids = torch.randint(V, (3, T), generator=torch.Generator().manual_seed(4)).to(inputs.device)
            try:
                logits_of(model, ids)
            except (ValueError, IndexError, RuntimeError):
                continue  # more tokens than its context
            return ids


def final_norm_faults(anatomy):
    """Findings about what the output layer reads: vectors of one size, in a model with norms."""
    if not anatomy.norms:
        return
    twin, ids = anatomy.model, anatomy.token_ids
    with torch.no_grad():
        for call in anatomy.norms:
            for p in call.module.parameters():
                p.fill_(float(p is getattr(call.module, "weight", None)))
        calls = record(twin, ids)
    shape = logits_of(twin, ids).shape
    heads = [c for c in calls if c.module in matrices(twin) and first_tensor(c.output).shape == shape]
    if not heads:
        return
    x = heads[-1].x
    sizes = x.square().mean(-1).sqrt()
    if sizes.std() / sizes.mean() > 0.01:
        yield Finding(
            "final norm missing",
            f"{heads[-1].name} reads vectors of sizes between {sizes.min():.2f} and {sizes.max():.2f}",
            "Apply the last norm before the output layer.",
        )
