"""What an attention module does between its projections, and what can be wrong with it."""

# Written by `make export` from b_zoo.ipynb; change it there.

import torch

from .anatomy import FUSED, KEY, QUERY, VALUE, matrices, short
from .evidence import drawn_like, hooked, replay
from .probes import first_tensor

__all__ = [
    "Core",
    "slopes",
    "reach",
    "head_weights",
    "mask_fault",
    "rotation_fault",
    "score_factor",
]

# %% b_zoo.ipynb #a08c4909
class Core:
    """Attention between its projections: run(q, k, v) -> o, each (B, T, width), whatever x was.

    q, k, v replace what the projections return; o is what the output projection is given, or the
    attention's own output where no such projection is called. found is False when no projections could
    be told by their names.
    """

    def __init__(self, call):
        self.call, self.size, inner = call, call.x.shape[:2], []
        leaves = matrices(call.module)
        keep = {
            leaf: lambda m, args, kwargs, out: inner.append((m, first_tensor(out).size(-1)))
            for leaf in leaves
        }
        with torch.no_grad(), hooked(keep):
            replay(call, call.x)
        names = {
            short(name): leaf for name, leaf in reversed(list(call.module.named_modules())) if leaf in leaves
        }
        roles = [next((names[n] for n in names if n in group), None) for group in (QUERY, KEY, VALUE)]
        fused = next(
            (m for m, width in inner if width % 3 == 0 and any(names.get(n) is m for n in FUSED)), None
        )
        self.hooks, self.widths = {}, []
        if None not in roles:
            self.widths = [m.weight.size(0) for m in roles]
            self.hooks = {m: self.hand_out(i) for i, m in enumerate(roles)}
        elif fused is not None:
            self.widths = [dict(inner)[fused] // 3] * 3
            self.hooks = {fused: lambda m, args, kwargs, out: torch.cat(self.given, -1)}
        called = [m for m, _ in inner]
        last = max((called.index(m) for m in self.hooks if m in called), default=0)
        self.out = next((m for m in called[last:] if m not in self.hooks), None)
        self.found = bool(self.hooks) and self.agrees()

    def hand_out(self, i):
        return lambda module, args, kwargs, output: self.given[i]

    def run(self, q, k, v):
        self.given, taken = (q, k, v), []
        handle = None
        if self.out is not None:
            handle = self.out.register_forward_pre_hook(lambda module, args: taken.append(args[0]))
        try:
            with hooked(self.hooks):
                output = replay(self.call, self.call.x)
        finally:
            if handle:
                handle.remove()
        return taken[0] if taken else output

    def draw(self, seed=0):
        """Random q, k, v that want gradients."""
        B, T = self.size
        kinds = [
            torch.empty(B, T, width, dtype=self.call.x.dtype, device=self.call.x.device)
            for width in self.widths
        ]
        return [drawn_like(kind, seed + i).requires_grad_() for i, kind in enumerate(kinds)]

    def agrees(self):
        """Whether o is (B, T, a multiple of v's width), and linear in v, or no function of v at all."""
        q, k, v = self.draw()
        o = self.run(q, k, v)
        if o.dim() != 3 or o.shape[:2] != self.size or o.size(-1) % self.widths[2]:
            return False
        twice = self.run(q, k, 2 * v)
        return any(torch.allclose(twice, n * o, rtol=1e-4, atol=1e-6, equal_nan=True) for n in (1, 2))

# %% b_zoo.ipynb #b88df0e1
def slopes(o, t, weights, wanted):
    """Gradients of o[0, t] * weights, summed, at tensors; zeros where there is none."""
    if not o.requires_grad:
        return [torch.zeros_like(w) for w in wanted]
    found = torch.autograd.grad((o[0, t] * weights).sum(), wanted, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g.nan_to_num(0.0, 0.0, 0.0) for g, w in zip(found, wanted)]


def reach(core):
    """(R_q, R_k, R_v), each (T, B, T): how strongly row t of o depends on q, k, v of each token."""
    wanted = core.draw()
    o = core.run(*wanted)
    weights = drawn_like(o[0, 0], 7)
    rows = [[g.abs().amax(-1) for g in slopes(o, t, weights, wanted)] for t in range(core.size[1])]
    return [torch.stack(part) for part in zip(*rows)]


def head_weights(core, q, k):
    """Attention weights of the first head: (T, T), read off as the slope of o at v."""
    v = core.draw(5)[2]
    o = core.run(q, k, v)
    first = torch.zeros_like(o[0, 0])
    first[0] = 1
    return torch.stack([slopes(o, t, first, [v])[0][0, :, 0] for t in range(core.size[1])])

# %% b_zoo.ipynb #9a6b3613
def mask_fault(sees):
    """The name and the evidence of a wrong (T, T) table of who sees whom, or None."""
    T = len(sees)
    ahead, behind, own = sees.triu(1).any(), sees.tril(-1).any(), sees.diagonal()
    furthest = max((s - t for t in range(T) for s in range(T) if sees[t, s]), default=0)
    text = f"token {T // 2} of 0 .. {T - 1} sees {sees[T // 2].nonzero().flatten().tolist()}"
    if ahead and not behind:
        return "mask inverted", text
    if ahead and furthest == 1:
        return "mask off by one", text
    if ahead:
        return ("mask missing" if sees.all() else "mask lets the future through"), text
    if not own[1:].all():
        return "mask hides the token itself", text
    if not behind:
        return "mask hides the past", text
    far = max(t - s for t in range(T) for s in range(1, t + 1) if sees[t, s])  # a window goes as far for all
    if any(not sees[t, s] for t in range(T) for s in range(max(0, t - far), t)):
        return "mask hides a part of the past", text

# %% b_zoo.ipynb #77d24e32
def rotation_fault(S):
    """The name of what is wrong when scores (T, T) are no function of the distance; None when they are."""
    T = len(S)
    pairs = [(t, s) for t in range(2, T) for s in range(1, t) if not (S[t, s] - S[t - 1, s - 1]).isnan()]
    if not pairs:
        return None
    size = S[~S.isnan()].abs().max()
    shift = max((S[t, s] - S[t - 1, s - 1]).abs() for t, s in pairs)
    if shift < 1e-3 * size:
        return None
    rows = max((S[t, s] - S[t, s - 1]).abs() for t, s in pairs)
    columns = max((S[t, s] - S[t - 1, s]).abs() for t, s in pairs)
    if rows < 1e-3 * size:
        return "only queries are rotated"
    if columns < 1e-3 * size:
        return "only keys are rotated"
    return "queries and keys are rotated differently"

# %% b_zoo.ipynb #f94bdfbf
def score_factor(core, head_dim):
    """What q k is multiplied by before the softmax, or None when the score is not proportional to q."""
    q, k, _ = (t.detach() for t in core.draw(11))
    unit = q[0, 0, :head_dim] / q[0, 0, :head_dim].norm()
    q = unit.repeat(q.size(-1) // head_dim).expand_as(q).contiguous()
    k = torch.zeros_like(k)
    k[:, -1] = unit.repeat(k.size(-1) // head_dim)
    once, twice = (head_weights(core, n * q, k)[-1].log() for n in (1, 2))
    once, twice = once[-1] - once[-2], twice[-1] - twice[-2]
    return once.item() if (twice - 2 * once).abs() < 1e-3 * once.abs() else None
