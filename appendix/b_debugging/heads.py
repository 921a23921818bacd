"""What can be wrong with an attention module, from its core."""

# Written by hand: each rule is told in the notebook.

import math

import torch

from .attending import Core, head_weights, mask_fault, reach, rotation_fault, score_factor, slopes
from .evidence import Finding, moves

UNUSED = "Look at the lines that make q, k and v: one projection stands where another should."
OVER_KEYS = "Take the softmax over the last dimension, the keys: weights of one query add up to 1."
EXCHANGED = "Scores are q @ k.T, a row for each query; here each row belongs to a key."
VIEW = "Cut vectors into heads with view(B, T, H, d).transpose(1, 2), and join them in the reverse order."
MASK = "A boolean mask is True where attention is allowed: ones(T, T).tril()."
EAGER, ROPE, PAIRS = {"backend": "eager"}, {"position": "rope"}, {"backend": "eager", "n_kv_heads": 2}
GROUPS = "Repeat each key/value head for its group, with repeat_interleave for both."
ADVICE = {
    "softmax over the wrong axis": OVER_KEYS,
    "attention weights do not add up to 1": OVER_KEYS,
    "heads mixed with tokens": VIEW,
    "heads mixed with each other": VIEW,
    "queries and keys exchanged": EXCHANGED,
    "values are rotated": ROPE,
}


def dimensions(core):
    """Which numbers of q, k, v each of the first numbers of o depends on: three bool tensors (J, width)."""
    wanted = core.draw(3)
    o = core.run(*wanted)
    last, eye = core.size[1] - 1, torch.eye(o.size(-1), dtype=o.dtype, device=o.device)
    rows = [[g[0].abs().amax(0) for g in slopes(o, last, eye[j], wanted)] for j in range(min(o.size(-1), 64))]
    return [torch.stack(part) > 1e-9 for part in zip(*rows)]


def scores_by_place(core, head_dim):
    """(S, bias): scores (T, T) of one query at t with one key at s, and of keys that are 0; nan if unseen."""
    T = core.size[1]
    q, k, _ = (t.detach() for t in core.draw(9))
    a, b = q[0, 0, :head_dim], k[0, 0, :head_dim]
    a, b = 1.5 * a / a.norm() * head_dim**0.25, 1.5 * b / b.norm() * head_dim**0.25
    q = a.repeat(q.size(-1) // head_dim).expand_as(q).contiguous()
    bias = head_weights(core, q, torch.zeros_like(k)).log()  # (T, T)
    scores = torch.full((T, T), math.nan, dtype=q.dtype)
    for s in range(T):
        keys = torch.zeros_like(k)
        keys[:, s] = b.repeat(k.size(-1) // head_dim)
        log_w = head_weights(core, q, keys).log() - bias
        for t in range(max(s, 1), T):
            other = t if s != t else t - 1
            scores[t, s] = log_w[t, s] - log_w[t, other]
    return scores, bias


def attention_faults(call, config=None):
    """Findings about one attention module, from its core; a fault hides those that may follow from it."""
    core, where = Core(call), f"{call.name}: "
    if not core.found:
        return
    R_q, R_k, R_v = tables = reach(core)  # (T, B, T) each
    for role, table in zip(("queries", "keys", "values"), tables):
        if not table[:, 0].any():
            if role != "values" and by_value(core, role):
                text = f"{where}outputs move with its {role}, and no gradient comes back to them"
                yield Finding("gradient cut", text, "Remove the detach, .data or no_grad after them.")
                return
            yield Finding(f"{role} not used", f"{where}no output moves with its {role}", UNUSED)
            return
    if R_v[:, 1:].any() or R_q[:, 1:].any():
        yield Finding("batch mixed", f"{where}an output of row 0 moves with tokens of row 1", OVER_KEYS)
        return
    D_q, _, D_v = dimensions(core)
    fault = weight_fault(core, R_q[:, 0], R_k[:, 0], R_v[:, 0], D_v) or mask_fault(R_v[:, 0] > 0)
    if fault:
        yield Finding(fault[0], where + fault[1], ADVICE.get(fault[0], MASK))
    else:
        yield from head_faults(core, where, D_q, D_v, config)


@torch.no_grad()
def by_value(core, role):
    """Whether outputs change when other queries, or other keys, are handed over."""
    (q, k, v), (q2, k2, _) = core.draw(), core.draw(3)
    other = (q2, k, v) if role == "queries" else (q, k2, v)
    return moves(core.run(q, k, v), core.run(*other)).any().item()


def weight_fault(core, R_q, R_k, R_v, D_v):
    """The name and the evidence when o is no average of values with weights from the token's own query."""
    q, k, v = (t.detach() for t in core.draw(13))
    ones = core.run(q, k, torch.ones_like(v))[0]  # (T, width): 1 for weights that add up to 1
    sums = ones[R_v.any(-1)].nan_to_num()  # of the rows that see something
    even = torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
    crossed = (R_q - R_q.diagonal().diag()).any()  # output t against the query of another token
    shown = f"the weights of tokens 0 .. 3 add up to {[round(x, 2) for x in ones[:4, 0].tolist()]}"
    if crossed and not even:
        return "softmax over the wrong axis", shown
    if crossed and not (R_k - R_k.diagonal().diag()).any():
        return "queries and keys exchanged", "an output depends on its own key, and on all queries"
    width = int(D_v.sum(-1).max())
    text = f"one number of an output depends on {width} numbers of a value, and should on one"
    if crossed or (width > 1 and R_v.triu(1).any()):
        text = text if width > 1 else "an output depends on the query of another token"
        return "heads mixed with tokens", text
    if width > 2:
        return "heads mixed with each other", text
    if width > 1:
        return "values are rotated", text
    if not even:
        return "attention weights do not add up to 1", shown


def head_faults(core, where, D_q, D_v, config):
    """Findings about heads: which value serves which, the factor of the scores, the rotation."""
    head_dim, kv_width = int(D_q[0].sum()), core.widths[2]
    source = D_v.int().argmax(-1).tolist()  # the number of v behind each number of o
    right = [
        (j // head_dim) // (core.widths[0] // kv_width) * head_dim + j % head_dim for j in range(len(source))
    ]
    if source != right and core.widths[0] % kv_width == 0:
        heads = [source[j] // head_dim for j in range(0, len(source), head_dim)]
        text = f"{where}query heads 0, 1, ... take value heads {heads}"
        if core.widths[0] == kv_width and len(set(source)) == len(source):
            text = f"{where}numbers 0, 1, ... of an output are numbers {source[:4]} ... of the values"
            yield Finding("heads cut in one order and joined in another", text, VIEW)
        else:
            yield Finding("key/value heads in the wrong order", text, GROUPS)
        return
    if core.widths[0] % head_dim or kv_width % head_dim:
        return
    S, _ = scores_by_place(core, head_dim)
    fault = rotation_fault(S)
    if fault:
        shown = ", ".join(f"{S[t, t - 1]:.2f}" for t in range(2, min(6, len(S))))
        yield Finding(
            fault, f"{where}one step back the same query and key score {shown} at tokens 2, 3, ...", ROPE
        )
        return
    if not scaled_otherwise(config):
        yield from scale_faults(core, where, head_dim)


def scaled_otherwise(config):
    """Whether a configuration of transformers asks for another factor than 1 / sqrt(head_dim)."""
    names = ("query_pre_attn_scalar", "attention_multiplier", "scale_attn_by_inverse_layer_idx")
    asked = any(getattr(config, name, None) for name in names) or not getattr(
        config, "scale_attn_weights", True
    )
    return asked or getattr(config, "model_type", "") in ("gpt_neo", "t5")  # published without a factor


def scale_faults(core, where, head_dim):
    """Findings about the factor of the scores."""
    factor, width = score_factor(core, head_dim), core.widths[0]
    if factor is None or abs(factor * math.sqrt(head_dim) - 1) < 0.03:
        return
    known = {
        "attention scale missing": 1.0,
        "attention scaled by d_model": width**-0.5,
        "attention scaled by head_dim, not its root": 1 / head_dim,
    }
    name = next(
        (name for name, value in known.items() if abs(factor / value - 1) < 0.03), "attention scale wrong"
    )
    text = f"{where}scores are q k times {factor:.3f}; 1 / sqrt(head_dim) is {head_dim**-0.5:.3f}"
    yield Finding(name, text, "Divide q k by the root of head_dim, the size of one head's vectors.")
