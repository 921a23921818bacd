"""The checks of appendix D's exercises: what is right, on which inputs, and the usual mistakes by name."""

# Written by hand: what learners get wrong, in words.

import math
import statistics

import torch
import torch.nn.functional as F

from ch01_tokenization.checking import Exercise, checker

from .experts import balance_loss, route
from .extending import ntk_theta
from .sparse import local_global_blocks, reachable, strided_mask
from .state_space import scan_in_steps, selective_scan

__all__ = ["check"]


# ---------------------------------------------------------------- D.1: paired differences


def paired(ours, baseline):
    differences = [mine - other for mine, other in zip(ours, baseline, strict=True)]
    return statistics.mean(differences), statistics.stdev(differences) / math.sqrt(len(differences))


def paired_like(summary):
    """An answer that makes two numbers of the list of differences in another way."""
    return lambda ours, baseline: summary([a - b for a, b in zip(ours, baseline)])


def unpaired(ours, baseline):
    n = len(ours)
    spread = statistics.variance(ours) + statistics.variance(baseline)
    return statistics.mean(ours) - statistics.mean(baseline), math.sqrt(spread / n)


def loss_cases(draw):
    def losses(n):
        base = [draw.real(2, 6) for _ in range(n)]
        return [loss - draw.real(0.05, 0.4) for loss in base], base

    return [
        ([3.0, 4.0], [3.5, 4.1]),
        ([2.0, 2.0, 2.0], [1.0, 3.0, 5.0]),
        ([3.1, 4.1, 5.1], [3.0, 4.0, 5.0]),
        losses(4),
        losses(7),
    ]


PAIRED = Exercise(
    right=paired,
    cases=loss_cases,
    mistakes={
        "The differences are the baseline less ours; a lower loss of ours is a negative difference.": (
            lambda ours, baseline: paired(baseline, ours)
        ),
        "This is the standard deviation of the differences; their mean is surer than one of them, so divide "
        "by the root of n.": paired_like(lambda d: (statistics.mean(d), statistics.stdev(d))),
        "The variance is divided by n; of n differences around their own mean only n - 1 are free.": (
            paired_like(lambda d: (statistics.mean(d), statistics.pstdev(d) / math.sqrt(len(d))))
        ),
        "The spreads of the two lists are taken by themselves; seeds that are hard for both count as noise "
        "then. Take the spread of the differences.": [
            unpaired,
            lambda ours, baseline: (
                unpaired(ours, baseline)[0],
                statistics.stdev(ours) / math.sqrt(len(ours)),
            ),
        ],
        "The standard deviation is divided by n; divide it by the root of n.": (
            paired_like(lambda d: (statistics.mean(d), statistics.stdev(d) / len(d)))
        ),
        "This is the variance of the mean; its root is missing.": (
            paired_like(lambda d: (statistics.mean(d), statistics.variance(d) / len(d)))
        ),
        "The differences are taken without their signs; gains and losses must be able to cancel.": (
            paired_like(lambda d: paired([abs(each) for each in d], [0.0] * len(d)))
        ),
        "The differences are added up; their mean is asked for.": (
            paired_like(lambda d: (sum(d), statistics.stdev(d) / math.sqrt(len(d))))
        ),
        "The two results are in the other order: the mean first, then its standard error.": (
            lambda ours, baseline: paired(ours, baseline)[::-1]
        ),
    },
    signs={
        "The mean is right, the standard error is not.": lambda case, got, expected: math.isclose(
            got[0], expected[0], abs_tol=1e-6
        ),
        "The standard error is right, the mean is not.": lambda case, got, expected: math.isclose(
            got[1], expected[1], abs_tol=1e-6
        ),
    },
)

# ---------------------------------------------------------------- D.2: gates


def gates_of(router_logits, top_k, renormalise=True):
    probabilities, gates, chosen = route(router_logits, top_k, renormalise)
    return torch.zeros_like(probabilities).scatter(-1, chosen, gates)


def masked_gates(logits, top_k, largest=True, dim=-1):
    """A softmax over the chosen logits alone."""
    chosen = logits.topk(top_k, dim=dim, largest=largest).indices
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(dim, chosen, True)
    return logits.masked_fill(~kept, -math.inf).softmax(dim)


def in_the_wrong_places(logits, top_k):
    probabilities, gates, _ = route(logits, top_k)
    return F.pad(gates, (0, probabilities.size(-1) - top_k))


def gate_cases(draw):
    return [
        (torch.tensor([[0.5, 0.3, 0.2]]).log(), 2),
        (torch.tensor([[0.2, 0.3, 0.5]]).log(), 2),
        (torch.tensor([[1.0, -2.0]]), 1),
        (torch.tensor([[3.0, 1.0, 2.0], [-4.0, 0.0, -1.0]]), 1),
        (torch.tensor([[0.0, 2.0, 1.0]]).double(), 3),
        (draw.normal(5, 4), 2),
        (3 * draw.normal(7, 6), 3),
        (draw.normal(2, 8).double(), draw.whole(2, 5)),
    ]


GATES = Exercise(
    right=gates_of,
    cases=gate_cases,
    mistakes={
        "The gates of a token are not renormalised: divide the chosen probabilities by their sum.": (
            lambda logits, top_k: gates_of(logits, top_k, renormalise=False)
        ),
        "Nothing is left out: the experts that are not among the top_k have the gate 0.": (
            lambda logits, top_k: logits.softmax(-1)
        ),
        "The softmax runs over the tokens; it is each token that shares itself out over the experts.": [
            lambda logits, top_k: torch.zeros_like(logits).scatter(
                -1,
                logits.softmax(0).topk(top_k, dim=-1).indices,
                logits.softmax(0).topk(top_k, dim=-1).values,
            ),
            lambda logits, top_k: (
                lambda p: torch.zeros_like(p).scatter(
                    -1,
                    p.topk(top_k, -1).indices,
                    p.topk(top_k, -1).values / p.topk(top_k, -1).values.sum(-1, True),
                )
            )(logits.softmax(0)),
        ],
        "These are the experts with the smallest scores; the largest are asked for.": (
            lambda logits, top_k: masked_gates(logits, top_k, largest=False)
        ),
        "The chosen experts all get the same share; the better one should get more.": (
            lambda logits, top_k: (gates_of(logits, top_k) > 0).to(logits.dtype) / top_k
        ),
        "The gates stand in the first places, in order of size; each belongs in the column of its expert.": (
            in_the_wrong_places
        ),
        "Only the k gates are returned; a row has a place for each of the E experts, 0 for most.": (
            lambda logits, top_k: route(logits, top_k)[1]
        ),
        "The softmax comes last, over zeros too: exp(0) is 1, so experts that were left out get a share.": [
            lambda logits, top_k: gates_of(logits, top_k, renormalise=False).softmax(-1),
            lambda logits, top_k: gates_of(logits, top_k).softmax(-1),
            lambda logits, top_k: (logits * (gates_of(logits, top_k) > 0)).softmax(-1),
        ],
        "The softmax is taken twice, the second time of probabilities: divide those by their sum.": (
            lambda logits, top_k: masked_gates(logits.softmax(-1), top_k)
        ),
        "All gates of the batch together have the sum 1; each row should.": (
            lambda logits, top_k: (lambda g: g / g.sum())(gates_of(logits, top_k, renormalise=False))
        ),
        "These are the places of the experts, or which of them are chosen, and not their shares.": [
            lambda logits, top_k: (gates_of(logits, top_k) > 0).to(logits.dtype),
            lambda logits, top_k: logits.topk(top_k, dim=-1).indices,
        ],
        "The chosen logits are divided by their sum, with no softmax before: a share could be negative.": (
            lambda logits, top_k: (lambda v: v / v.sum(-1, True))(logits * (gates_of(logits, top_k) > 0))
        ),
    },
    signs={
        "The gates of a token have the sum 1; in some row they have not.": lambda case, got, expected: bool(
            ((got.sum(-1) - 1).abs() > 1e-3).any()
        ),
        "A token goes to top_k experts; in some row more or fewer gates are above 0.": (
            lambda case, got, expected: bool(((got > 0).sum(-1) != case[1]).any())
        ),
    },
)

# ---------------------------------------------------------------- D.3: the balance loss


def run_balance(answer, probabilities, chosen):
    leaf = probabilities.clone().requires_grad_()
    loss = answer(leaf, chosen)
    if not (isinstance(loss, torch.Tensor) and loss.dim() == 0 and loss.requires_grad):
        return {"loss": loss}
    return {"loss": loss.detach(), "gradient": torch.autograd.grad(loss, leaf)[0]}


def balance_like(combine):
    """An answer that combines E, f and P in another way."""

    def wrong(probabilities, chosen):
        E = probabilities.size(-1)
        counts = chosen.flatten().bincount(minlength=E).to(probabilities.dtype)
        return combine(E, counts / chosen.numel(), probabilities.mean(0))

    return wrong


def balance_cases(draw):
    def drawn(n, experts, k):
        probabilities = (2 * draw.normal(n, experts)).softmax(-1)
        return probabilities, probabilities.topk(k, dim=-1).indices

    return [
        (torch.tensor([[0.7, 0.3], [0.9, 0.1]]), torch.tensor([[0], [0]])),
        (torch.tensor([[0.8, 0.2], [0.4, 0.6]]), torch.tensor([[0], [1]])),
        (torch.full((4, 4), 0.25), torch.tensor([[0], [1], [2], [3]])),
        (torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0, 1]])),
        (torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]), torch.tensor([[0], [2]])),
        drawn(5, 4, 1),
        drawn(7, 6, 2),
        (lambda p, c: (p.double(), c))(*drawn(9, 5, 3)),
    ]


def loss_right(case, got, expected):
    return torch.allclose(got["loss"], expected["loss"], atol=1e-4)


BALANCE = Exercise(
    right=balance_loss,
    run=run_balance,
    cases=balance_cases,
    mistakes={
        "The sum of f times P is multiplied by E, the number of experts; here E is missing, or the sum has "
        "become a mean.": balance_like(lambda E, f, P: (f * P).sum()),
        "f has fewer places than there are experts, since the last ones were never chosen: count with a "
        "place for each of them.": lambda probabilities, chosen: (
            lambda counts: probabilities.size(-1) * (counts / chosen.numel() * probabilities.mean(0)).sum()
        )(chosen.flatten().bincount()),
        "f is how often an expert was chosen, as a number and not as a share: divide by all choices.": (
            lambda probabilities, chosen: balance_loss(probabilities, chosen) * chosen.numel()
        ),
        "f is divided by the number of tokens; with k experts a token there are k times as many choices.": (
            lambda probabilities, chosen: balance_loss(probabilities, chosen) * chosen.size(-1)
        ),
        "The mean of the products is taken, with no factor: that divides by E where it should multiply.": (
            balance_like(lambda E, f, P: (f * P).mean())
        ),
        "The probabilities are added up over the tokens; P is their mean.": (
            lambda probabilities, chosen: balance_loss(probabilities, chosen) * len(probabilities)
        ),
        "P is squared and f is not used: what was chosen has to count.": (
            balance_like(lambda E, f, P: E * (P * P).sum())
        ),
        "Only f is used, or P without its gradient: nothing could be learned from it, since counting has "
        "none.": [
            balance_like(lambda E, f, P: E * (f * f).sum()),
            balance_like(lambda E, f, P: E * (f * P.detach()).sum()),
        ],
        "The mean is taken over the experts, where it is always 1 / E; take it over the tokens.": (
            lambda probabilities, chosen: (
                probabilities.size(-1)
                * (chosen.flatten().bincount(minlength=probabilities.size(-1)) / chosen.numel()).sum()
                * probabilities.mean()
            )
        ),
        "f counts the best expert of each row of probabilities; count what `chosen` says.": (
            lambda probabilities, chosen: balance_loss(probabilities, probabilities.argmax(-1, keepdim=True))
        ),
        "f counts only the first choice of each token; all k count.": (
            lambda probabilities, chosen: balance_loss(probabilities, chosen[:, :1])
        ),
        "P is the mean of all probabilities of an expert; here those of tokens that did not choose it are "
        "left out.": lambda probabilities, chosen: balance_loss(
            torch.zeros_like(probabilities).scatter(1, chosen, probabilities.gather(1, chosen)), chosen
        ),
        "The sum is multiplied by the number of tokens; E is the number of experts.": lambda p, chosen: (
            balance_loss(p, chosen) * len(p) / p.size(-1)
        ),
        "The loss has the other sign: minus it would reward the expert that has the most already.": (
            balance_like(lambda E, f, P: -E * (f * P).sum())
        ),
        "The experts that nobody chose are left out, and the numbers of f stand beside the wrong ones: "
        "count with a place for each of the E experts.": (
            lambda probabilities, chosen: (
                lambda counts: (
                    probabilities.size(-1)
                    * (counts / chosen.numel() * probabilities.mean(0)[: len(counts)]).sum()
                )
            )(chosen.unique(return_counts=True)[1].to(probabilities.dtype))
        ),
    },
    signs={
        "The loss is right, but its gradient at the probabilities is not: is something detached, or does f "
        "have a gradient?": lambda case, got, expected: loss_right(case, got, expected),
    },
    errors={
        "Sizes do not fit: f needs a place for every expert, also for idle ones.": lambda case, error: (
            "size of tensor" in str(error)
        ),
    },
)

# ---------------------------------------------------------------- D.4: angles


def angles(T, head_dim, theta, method, factor):
    positions = torch.arange(T, dtype=torch.float64) / (factor if method == "interpolate" else 1)
    base = ntk_theta(theta, head_dim, factor) if method == "ntk" else theta
    return torch.outer(positions, base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim))


def angles_like(position_of=None, base_of=None, speed_of=None):
    """An answer in which a method does something else."""

    def wrong(T, head_dim, theta, method, factor):
        positions, base = torch.arange(T, dtype=torch.float64), theta
        if method == "interpolate":
            positions = (position_of or (lambda p, s: p / s))(positions, factor)
        if method == "ntk":
            base = (base_of or (lambda b, d, s: ntk_theta(b, d, s)))(base, head_dim, factor)
        pairs = torch.arange(head_dim // 2, dtype=torch.float64)
        speeds = (speed_of or (lambda b, i, d: b ** (-2 * i / d)))(base, pairs, head_dim)
        return torch.outer(positions, speeds)

    return wrong


def angle_cases(draw):
    d, s = 2 * draw.whole(3, 6), draw.real(1.5, 6)
    return [
        (4, 4, 100.0, "none", 2.0),
        (4, 4, 100.0, "interpolate", 2.0),
        (4, 4, 100.0, "ntk", 2.0),
        (1, 4, 100.0, "none", 1.0),
        (2, 8, 10_000.0, "ntk", 4.0),
        (5, d, draw.real(50, 5000), "interpolate", s),
        (7, d, draw.real(50, 5000), "ntk", s),
        (6, d + 2, draw.real(50, 5000), "none", s),
    ]


ANGLES = Exercise(
    right=angles,
    cases=angle_cases,
    mistakes={
        "interpolate multiplies the positions by the factor: that goes further out. Divide.": (
            angles_like(position_of=lambda p, s: p * s)
        ),
        "interpolate rounds the positions down to whole numbers, so that neighbours become the same one.": (
            angles_like(position_of=lambda p, s: p // s)
        ),
        "ntk takes the base times the factor; the factor has the power d / (d - 2).": (
            angles_like(base_of=lambda b, d, s: b * s)
        ),
        "In ntk's exponent d and d - 2 have changed places.": (
            angles_like(base_of=lambda b, d, s: b * s ** ((d - 2) / d))
        ),
        "ntk takes the whole base to a power; only the factor has one.": (
            angles_like(base_of=lambda b, d, s: (b * s) ** (d / (d - 2)))
        ),
        "ntk divides the base: with a smaller base the pairs turn faster.": (
            angles_like(base_of=lambda b, d, s: b / s ** (d / (d - 2)))
        ),
        "ntk changes the positions too; the larger base is all.": (
            lambda T, head_dim, theta, method, factor: (
                angles(T, head_dim, theta, method, factor) / (factor if method == "ntk" else 1)
            )
        ),
        "The exponent is -i / d; a pair has two numbers, so it is -2 i / d.": (
            angles_like(speed_of=lambda b, i, d: b ** (-i / d))
        ),
        "The exponent has lost its minus sign: later pairs must turn more slowly.": (
            angles_like(speed_of=lambda b, i, d: b ** (2 * i / d))
        ),
        "The method is not looked at: every one gives the angles of none.": (
            lambda T, head_dim, theta, method, factor: angles(T, head_dim, theta, "none", factor)
        ),
        "The factor counts for the method none too, which leaves all as it was.": (
            lambda T, head_dim, theta, method, factor: angles(
                T, head_dim, theta, "interpolate" if method == "none" else method, factor
            )
        ),
        "interpolate and ntk have changed places: interpolate divides the positions, ntk changes the base.": (
            lambda T, head_dim, theta, method, factor: angles(
                T, head_dim, theta, {"interpolate": "ntk", "ntk": "interpolate"}.get(method, method), factor
            )
        ),
        "interpolate changes the base; it divides the positions.": [
            lambda T, d, theta, method, s: angles(
                T, d, theta * s if method == "interpolate" else theta, "ntk" if method == "ntk" else "none", s
            ),
            lambda T, d, theta, method, s: angles(T, d, theta, "none" if method == "none" else "ntk", s),
        ],
        "The exponent is divided by the number of pairs; d is head_dim.": (
            angles_like(speed_of=lambda b, i, d: b ** (-4 * i / d))
        ),
        "The positions begin at 1; the first one is 0.": (
            lambda T, head_dim, theta, method, factor: angles(T + 1, head_dim, theta, method, factor)[1:]
        ),
        "Each angle stands there twice, for both numbers of a pair; once a pair is asked for.": [
            lambda *case: angles(*case).repeat_interleave(2, dim=1),
            lambda *case: angles(*case).repeat(1, 2),
        ],
        "These are speeds, or sines or cosines, and not the angles.": [
            lambda *case: angles(*case).cos(),
            lambda *case: angles(*case).sin(),
            lambda T, *rest: angles(2, *rest)[1].expand(T, -1),
        ],
    },
    signs={
        "Row 0 is position 0, whose angles are all 0.": lambda case, got, expected: bool(got[0].any()),
        "The fastest pair, column 0, has the speed 1 whatever the base.": lambda case, got, expected: (
            case[3] != "interpolate" and not torch.allclose(got[:, 0], expected[:, 0])
        ),
        "interpolate gives the fastest pair, column 0, the angles 0, 1 / factor, 2 / factor and so on.": (
            lambda case, got, expected: not torch.allclose(got[:, 0], expected[:, 0])
        ),
    },
)

# ---------------------------------------------------------------- D.5: reach


def hears(mask, n_layers):
    first = reachable(mask, n_layers).int().argmax(dim=1).tolist()
    return [i - j for i, j in enumerate(first)]


def hears_greedily(mask, n_layers):
    first = mask.int().argmax(dim=1)
    earliest = torch.arange(len(mask), device=mask.device)
    for _ in range(n_layers):
        earliest = first[earliest]
    return [i - j for i, j in enumerate(earliest.tolist())]


def hears_like(reached):
    def wrong(mask, n_layers):
        first = reached(mask, n_layers).int().argmax(dim=1).tolist()
        return [i - j for i, j in enumerate(first)]

    return wrong


def reach_cases(draw):
    def window(T, size):
        i = torch.arange(T)
        back = i.unsqueeze(1) - i
        return (back >= 0) & (back < size)

    def holes(T):
        mask = (draw.normal(T, T) > 1.0).tril(-2)
        return mask | torch.eye(T, dtype=torch.bool)

    odd = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]], dtype=torch.bool)
    chain = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=torch.bool)
    detour = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 1]], dtype=torch.bool)
    return [
        (window(4, 2), 2),
        (window(4, 2), 1),
        (odd, 1),
        (odd, 2),
        (chain, 2),
        (detour, 2),
        (torch.ones(1, 1, dtype=torch.bool), 3),
        (window(6, 2), 3),
        (strided_mask(11, 3), 2),
        (local_global_blocks(9, 2, 1), 2),
        (holes(9), draw.whole(2, 4)),
        (window(draw.whole(12, 16), draw.whole(2, 3)), draw.whole(3, 4)),
    ]


REACH = Exercise(
    right=hears,
    cases=reach_cases,
    mistakes={
        "This is the reach of one layer, whatever n_layers says.": lambda mask, n_layers: hears(mask, 1),
        "There is one layer too many: the mask itself is the first.": lambda mask, n_layers: hears(
            mask, n_layers + 1
        ),
        "There is one layer too few.": hears_like(
            lambda mask, n: reachable(mask, n - 1) if n > 1 else torch.eye(len(mask), device=mask.device)
        ),
        "Each round squares what was reached, so that layers double; one more layer is one more step by the "
        "mask.": hears_like(lambda mask, n: reachable(mask, 2 ** (n - 1))),
        "These are the earliest positions themselves; how far back they lie is asked for.": (
            lambda mask, n_layers: [i - back for i, back in enumerate(hears(mask, n_layers))]
        ),
        "It counts how many positions arrive; with gaps in the mask that is not how far back they lie.": [
            lambda mask, n_layers: (reachable(mask, n_layers).sum(dim=1) - 1).tolist(),
            lambda mask, n_layers: reachable(mask, n_layers).sum(dim=1).tolist(),
        ],
        "The reach of one layer is multiplied by the number of layers; a path cannot begin before the text, "
        "and masks differ from row to row.": [
            lambda mask, n_layers: [n_layers * back for back in hears(mask, 1)],
            lambda mask, n_layers: [min(i, n_layers * back) for i, back in enumerate(hears(mask, 1))],
            lambda mask, n_layers: [min(i, n_layers * max(hears(mask, 1))) for i in range(len(mask))],
        ],
        "It looks down the columns: who hears this position, in place of whom it hears.": (
            lambda mask, n_layers: [
                last - j
                for j, last in enumerate(
                    (len(mask) - 1 - reachable(mask, n_layers).flip(0).int().argmax(dim=0)).tolist()
                )
            ]
        ),
        "It is one too many in every place: a token that hears only itself hears 0 back.": (
            lambda mask, n_layers: [back + 1 for back in hears(mask, n_layers)]
        ),
        "Every result is 0: that is the last position of a row, or the first of a column. The earliest of a "
        "row is asked for.": lambda mask, n_layers: [0] * len(mask),
        "It takes the nearest position before the token; the earliest is asked for.": (
            lambda mask, n_layers: [
                min((i - j for j in range(i) if row[j]), default=0)
                for i, row in enumerate(reachable(mask, n_layers).tolist())
            ]
        ),
        "It goes to the earliest position in each layer; by a nearer one the next layer may get farther.": (
            hears_greedily
        ),
    },
    signs={
        "A position cannot hear farther back than the beginning of the text.": lambda case, got, expected: (
            any(back > i for i, back in enumerate(got))
        ),
        "Some result is negative: the mask is causal, and what is heard lies behind.": (
            lambda case, got, expected: any(back < 0 for back in got)
        ),
        "More layers hear at least as far as one; here some position hears less far.": (
            lambda case, got, expected: any(mine < one for mine, one in zip(got, hears(case[0], 1)))
        ),
    },
)

# ---------------------------------------------------------------- D.6: a scan by doubling


def scanned(a, u):
    return scan_in_steps(a[None], u[None])[0]


def doubling_like(step, first=1, further=lambda reach: 2 * reach, enough=lambda reach, T: reach < T):
    """A scan whose rounds do something else: step(a, u, reach) -> the new a and u."""

    def wrong(a, u):
        reach = first
        while enough(reach, len(u)):
            a, u = step(a, u, reach)
            reach = further(reach)
        return u

    return wrong


def joined(a, u, reach, new_a, new_u):
    return torch.cat([a[:reach], new_a]), torch.cat([u[:reach], new_u])


def right_step(a, u, reach):
    return joined(a, u, reach, a[reach:] * a[:-reach], u[reach:] + a[reach:] * u[:-reach])


def by_division(a, u):
    products = a.cumprod(0)
    return products * (u / products).cumsum(0)


def doubling_cases(draw):
    def drawn(T, D):
        return 0.3 + 0.6 * draw.normal(T, D).sigmoid(), draw.normal(T, D)

    column = torch.tensor([[1.0], [2.0], [0.0], [3.0]]), torch.tensor([[3.0], [1.0], [4.0], [2.0]])
    a, u = drawn(6, 3)
    return [
        (torch.tensor([[2.0]]), torch.tensor([[3.0]])),
        (torch.tensor([[5.0], [2.0]]), torch.tensor([[3.0], [1.0]])),
        (torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [1.0], [1.0]])),
        (torch.tensor([[1.0], [2.0], [3.0], [2.0]]), torch.tensor([[1.0], [0.0], [2.0], [1.0]])),
        column,
        (torch.tensor([[1.0], [2], [1], [3], [2]]), torch.tensor([[1.0], [2], [3], [4], [5]])),
        (a.double(), u.double()),
        drawn(9, 2),
        drawn(16, 3),
        (torch.full((300, 1), 0.5), torch.ones(300, 1)),
        drawn(4096, 2),
    ]


DOUBLING = Exercise(
    right=scanned,
    cases=doubling_cases,
    steps=1500,
    endless="A loop over all positions is too slow for this text; doubling takes 12 rounds on all at once.",
    mistakes={
        "It stops after one round: reach has to double until it is T or more.": doubling_like(
            right_step, further=lambda reach: 10**9
        ),
        "The first round is missing: reach begins at 1.": doubling_like(right_step, first=2),
        "It stops a round too early: as long as reach is below T, somebody does not know all.": doubling_like(
            right_step, enough=lambda reach, T: 2 * reach < T
        ),
        "The products of a are not brought up to date: after a round a stands for more steps, too.": (
            doubling_like(lambda a, u, r: joined(a, u, r, a[r:], u[r:] + a[r:] * u[:-r]))
        ),
        "u is made with the a of the new round; both have to be computed from what was there before it.": (
            doubling_like(
                lambda a, u, r: (lambda new: joined(a, u, r, new, u[r:] + new * u[:-r]))(a[r:] * a[:-r])
            )
        ),
        "The earlier a is multiplied onto the earlier u; it is the later step that the earlier result goes "
        "through.": doubling_like(lambda a, u, r: joined(a, u, r, a[r:] * a[:-r], u[r:] + a[:-r] * u[:-r])),
        "The two steps are in the wrong order: the earlier u is multiplied by the later a, and the later u "
        "stays as it is.": doubling_like(
            lambda a, u, r: joined(a, u, r, a[r:] * a[:-r], a[:-r] * u[r:] + u[:-r])
        ),
        "The steps grow by one in each round, where what they reach doubles: some steps are counted twice.": (
            doubling_like(right_step, further=lambda reach: reach + 1, enough=lambda r, T: r < min(T, 40))
        ),
        "u is added up without a: the old state is to be multiplied first.": lambda a, u: u.cumsum(0),
        "It divides by products of a, which can be 0: nothing can be taken back out of them.": by_division,
        "What falls off the end comes in at the front: the first positions have nothing before them.": (
            doubling_like(lambda a, u, r: (a * a.roll(r, 0), u + a * u.roll(r, 0)))
        ),
        "The products of a are added up, where their sum is not a step: a is multiplied by the earlier a.": (
            doubling_like(lambda a, u, r: joined(a, u, r, a[r:] + a[:-r], u[r:] + a[r:] * u[:-r]))
        ),
        "The rounds run backwards in time: each position takes in what comes after it.": doubling_like(
            lambda a, u, r: (
                torch.cat([a[:-r] * a[r:], a[-r:]]),
                torch.cat([u[:-r] + a[:-r] * u[r:], u[-r:]]),
            )
        ),
        "This is the list of the products of a, which is only half of a step; h is the u after the last "
        "round.": lambda a, u: a.cumprod(0),
    },
    signs={
        "The first position has nothing before it: its h is its u.": lambda case, got, expected: (
            not torch.allclose(got[0], case[1][0])
        ),
        "The first two positions are right, and later ones are not: look at what the second round takes "
        "in.": lambda case, got, expected: torch.allclose(got[:2], expected[:2], atol=1e-4),
    },
)

# ---------------------------------------------------------------- D.7: one token of a state space


def step_of(state, x, delta, A, B, C):
    y, last = selective_scan(x[:, None], delta[:, None], A, B[:, None], C[:, None], state)
    return y[:, 0], last


def run_step(answer, state, x, delta, A, B, C):
    y, new = answer(state, x, delta, A, B, C)
    return {"y": y, "new state": new}


def step_like(keep=None, add=None, read=None):
    """A step that keeps, adds or reads something else; sizes (B, D, N) all."""

    def wrong(state, x, delta, A, B, C):
        x, delta, B, C = x.unsqueeze(-1), delta.unsqueeze(-1), B.unsqueeze(1), C.unsqueeze(1)
        kept = (keep or (lambda h, d, A: (d * A).exp() * h))(state, delta, A)
        new = kept + (add or (lambda d, B, x, A: d * B * x))(delta, B, x, A)
        return (read or (lambda new, old, C: (new * C).sum(-1)))(new, state, C), new

    return wrong


def step_cases(draw):
    def drawn(rows, D, N):
        positive = F.softplus(draw.normal(rows, D))
        return (
            draw.normal(rows, D, N), draw.normal(rows, D), positive, -draw.normal(D, N).exp(),
            draw.normal(rows, N), draw.normal(rows, N),
        )  # fmt: skip

    def single(*numbers):
        h, x, delta, A, B, C = (torch.tensor(number) for number in numbers)
        return h.view(1, 1, 1), x.view(1, 1), delta.view(1, 1), A.view(1, 1), B.view(1, 1), C.view(1, 1)

    return [
        single(3.0, 5.0, 0.0, -1.0, 1.0, 1.0),
        single(8.0, 10.0, math.log(2), -1.0, 1.0, 1.0),
        single(8.0, 10.0, math.log(2), -2.0, 3.0, 0.5),
        single(0.0, 1.0, 2.0, -1.0, 1.0, 1.0),
        drawn(2, 3, 4),
        drawn(3, 5, 2),
        tuple(tensor.double() for tensor in drawn(2, 4, 3)),
    ]


def state_right(case, got, expected):
    return torch.allclose(got["new state"], expected["new state"], atol=1e-4)


STEP = Exercise(
    right=step_of,
    run=run_step,
    cases=step_cases,
    mistakes={
        "y is read from the old state; the new token has to count already.": step_like(
            read=lambda new, old, C: (old * C).sum(-1)
        ),
        "What is kept is A times the state, with no exponential of delta A.": [
            step_like(keep=lambda h, d, A: A * h),
            step_like(keep=lambda h, d, A: d * A * h),
        ],
        "The exponential is that of A alone: delta says how long the token lasts.": step_like(
            keep=lambda h, d, A: A.exp() * h
        ),
        "The exponential is that of delta, without A.": [
            step_like(keep=lambda h, d, A: d.exp() * h),
            step_like(keep=lambda h, d, A: (-d).exp() * h),
        ],
        "What is added is B x, without delta: a token with delta 0 would leave a trace.": step_like(
            add=lambda d, B, x, A: B * x
        ),
        "What is added is delta x, without B, which says where it is written to.": step_like(
            add=lambda d, B, x, A: d * x
        ),
        "What is added is delta B, without x.": step_like(add=lambda d, B, x, A: d * B),
        "The exponential has lost a sign: with delta A below 0 the state fades, here it grows.": step_like(
            keep=lambda h, d, A: (-d * A).exp() * h
        ),
        "The old state is lost: nothing of it is kept.": step_like(keep=lambda h, d, A: 0 * h),
        "The states are added up without C, which says from where is read.": step_like(
            read=lambda new, old, C: new.sum(-1)
        ),
        "The mean over the states is taken; y is their sum.": step_like(
            read=lambda new, old, C: (new * C).mean(-1)
        ),
        "What is added is multiplied by the exponential as well; only the old state fades.": (
            lambda state, x, delta, A, B, C: (lambda new: ((new * C.unsqueeze(1)).sum(-1), new))(
                (delta.unsqueeze(-1) * A).exp() * (state + (delta * x).unsqueeze(-1) * B.unsqueeze(1))
            )
        ),
        "b is that of the exact solution, (exp(delta A) - 1) / A; here it is delta, as in Mamba's code.": (
            step_like(add=lambda d, B, x, A: (d * A).expm1() / A * B * x)
        ),
        "What is added is weighted by 1 - exp(delta A); here the weight is delta, as in Mamba's code.": (
            step_like(add=lambda d, B, x, A: -(d * A).expm1() * B * x)
        ),
        "A is taken for a logarithm; it comes as it is, below 0.": step_like(
            keep=lambda h, d, A: (-d * A.exp()).exp() * h
        ),
        "delta goes through a softplus again; it comes as it is.": (
            lambda state, x, delta, *rest: step_of(state, x, F.softplus(delta), *rest)
        ),
        "x is added to y; the skip is not part of this step.": (
            lambda state, x, *rest: (lambda y, new: (y + x, new))(*step_of(state, x, *rest))
        ),
        "The new state is returned times C; C only reads, and the state stays without it.": (
            lambda state, x, delta, A, B, C: (lambda y, new: (y, new * C.unsqueeze(1)))(
                *step_of(state, x, delta, A, B, C)
            )
        ),
        "B and C have changed places: B writes, C reads.": (
            lambda state, x, delta, A, B, C: step_of(state, x, delta, A, C, B)
        ),
        "The two results are in the other order: y first, then the new state.": (
            lambda *case: step_of(*case)[::-1]
        ),
        "The old state is returned again; the next token needs the new one.": (
            lambda state, *rest: (step_of(state, *rest)[0], state)
        ),
    },
    signs={
        "The new state is right, y is not.": state_right,
        "With delta 0 the state has to stay as it is.": lambda case, got, expected: (
            not case[2].any() and not torch.allclose(got["new state"], case[0])
        ),
    },
)

check = checker(
    {
        "D.1": PAIRED,
        "D.2": GATES,
        "D.3": BALANCE,
        "D.4": ANGLES,
        "D.5": REACH,
        "D.6": DOUBLING,
        "D.7": STEP,
    }
)
