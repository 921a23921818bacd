"""The checks of appendix B's exercises: what is right, on which inputs, and the usual mistakes by name."""

# Written by hand: what learners get wrong, in words.

import math
import re
from collections import Counter

import torch
from torch import nn

from ch01_tokenization.checking import Exercise, checker

from .previous_chapters import causal_mask
from .watching import watch

__all__ = ["check"]


# ---------------------------------------------------------------- B.1 lost in rounding


def lost_updates(weight, update):
    lost = ((weight + update == weight) & (update != 0)).sum().item()
    return lost / max(1, (update != 0).sum().item())


def share(found, asked):
    return found.sum().item() / max(1, asked.sum().item())


def some_updates(draw, dtype, n):
    """Weights near 1 and near 0.01, and updates of which some are 0 and some are lost in 16 bits."""
    weight = torch.cat([draw.normal(n) * 0.1 + 1.5, draw.normal(n) * 0.001 + 0.01])
    update = torch.cat([torch.full((n,), 3e-4), torch.full((n,), 1e-3)])
    update[torch.randperm(2 * n, generator=draw.generator)[: n // 2]] = 0.0
    return weight.to(dtype), update.to(dtype)


BF16 = torch.bfloat16
LOST = Exercise(
    right=lost_updates,
    cases=lambda draw: [
        (torch.tensor([1.0], dtype=BF16), torch.tensor([0.001], dtype=BF16)),
        (torch.tensor([1.0, 0.01], dtype=BF16), torch.tensor([0.001, 0.001], dtype=BF16)),
        (torch.tensor([1.0, 0.01, 1.0], dtype=BF16), torch.tensor([0.001, 0.001, 0.0], dtype=BF16)),
        (torch.tensor([1.0, 2.0]), torch.tensor([1e-6, 1e-3])),
        (torch.zeros(2, 3), torch.zeros(2, 3)),
        (torch.tensor([2048.0, 2.0], dtype=torch.float16), torch.tensor([1.0, -1.0], dtype=torch.float16)),
        some_updates(draw, BF16, draw.whole(8, 12)),
        tuple(t.view(2, -1) for t in some_updates(draw, torch.float16, draw.whole(6, 9))),
        some_updates(draw, torch.float32, 7),
    ],
    mistakes={
        "An update of 0 has nothing to lose, and is counted as lost here.": [
            lambda w, u: (w + u == w).double().mean().item(),
            lambda w, u: share(w + u == w, u != 0),
        ],
        "The lost ones are divided by all numbers. Divide by those whose update is not 0.": lambda w, u: (
            ((w + u == w) & (u != 0)).double().mean().item()
        ),
        "The sum is made in a wider format, where nothing is lost. Add in the dtype of the weights.": [
            lambda w, u: share((w.double() + u.double() == w.double()) & (u != 0), u != 0),
            lambda w, u: share((w.float() + u.float() == w.float()) & (u != 0), u != 0),
        ],
        "Nearly equal counts as equal here. Lost means exactly the same number as before.": [
            lambda w, u: share(torch.isclose(w + u, w) & (u != 0), u != 0),
            lambda w, u: share(torch.isclose(w + u, w, rtol=1e-3, atol=1e-3) & (u != 0), u != 0),
        ],
        "This is the share of the updates that arrive. Asked for is the share that is lost.": [
            lambda w, u: share((w + u != w) & (u != 0), u != 0),
            lambda w, u: (w + u != w).double().mean().item(),
        ],
        "This is how many are lost. Divide by the number of updates other than 0.": [
            lambda w, u: float(((w + u == w) & (u != 0)).sum().item()),
            lambda w, u: ((w + u == w) & (u != 0)).sum().item(),
        ],
        "Updates below 0 are left out. Asked for are all that are other than 0.": lambda w, u: share(
            (w + u == w) & (u > 0), u > 0
        ),
        "Where no update is other than 0, the result is 0.0, and this divides by zero there.": [
            lambda w, u: ((w + u == w) & (u != 0)).sum().item() / (u != 0).sum().item(),
            lambda w, u: (((w + u == w) & (u != 0)).sum() / (u != 0).sum()).item(),
        ],
    },
    signs={
        "A share is between 0 and 1.": lambda case, got, expected: not 0 <= got <= 1,
        "In float32 these updates all arrive, and in bfloat16 they do not: add in the dtype that came in.": (
            lambda case, got, expected: expected > 0 and got == 0
        ),
    },
)


# ---------------------------------------------------------------- B.2 log-sum-exp


def shifted(x, dim, largest, keep=False, back=True, safe=False):
    """Log-sum-exp with a choice of what is subtracted, and whether it is added again."""
    if safe:
        largest = torch.where(largest.isinf(), 0.0, largest)
    result = (x - largest).exp().sum(dim=dim, keepdim=True).log() + (largest if back else 0.0)
    return result if keep else result.squeeze(dim)


def top(x, dim):
    return x.amax(dim=dim, keepdim=True)


def squeezed(x, dim, late):
    """Log-sum-exp with a squeeze() that drops every dimension of size 1."""
    largest = torch.where(top(x, dim).isinf(), 0.0, top(x, dim))
    if late:
        return shifted(x, dim, largest, keep=True).squeeze()
    return shifted(x, dim, largest, back=False) + largest.squeeze()


INF = math.inf
LOG_SUM_EXP = Exercise(
    right=lambda x, dim: torch.logsumexp(x, dim=dim),
    cases=lambda draw: [
        (torch.tensor([7.0]), 0),
        (torch.tensor([0.0, 0.0]), 0),
        (torch.tensor([1000.0, 1000.0]), -1),
        (torch.tensor([-200.0, -201.0]), -1),
        (torch.tensor([[7.0, -INF], [1.0, 2.0]]), 1),
        (torch.tensor([[-INF, -INF], [1.0, 2.0]]), 1),
        (torch.tensor([[500.0, 0.0], [0.0, -500.0]]), 1),
        (draw.normal(3, 4, 2), draw.choice([0, 1])),
        (draw.normal(3, 5) * 100, 1),
        (draw.normal(5, 2).double() - 300, 0),
        (draw.normal(3, 1, 2), 2),
    ],
    mistakes={
        "Exponentials of large numbers are infinite. Take the largest number along dim out first, and add it "
        "to the result.": lambda x, dim: x.exp().sum(dim=dim).log(),
        "The largest number is subtracted and never added again.": [
            lambda x, dim: shifted(x, dim, top(x, dim), back=False),
            lambda x, dim: shifted(x, dim, top(x, dim), back=False, safe=True),
        ],
        "Where all entries are minus infinity, this gives nan: minus infinity minus itself. Subtract "
        "something finite there.": lambda x, dim: shifted(x, dim, top(x, dim)),
        "One number is subtracted everywhere, the largest of all. In a row far below it every exponential "
        "is 0. Each row along dim needs its own.": [
            lambda x, dim: shifted(x, dim, x.max()),
            lambda x, dim: shifted(x, dim, x.max(), safe=True),
        ],
        "The dimension is kept, with size 1. It should be gone.": [
            lambda x, dim: shifted(x, dim, top(x, dim), keep=True, safe=True),
            lambda x, dim: shifted(x, dim, top(x, dim), keep=True),
        ],
        "squeeze() drops every dimension of size 1. Drop `dim` alone: squeeze(dim).": [
            lambda x, dim: squeezed(x, dim, late=False),
            lambda x, dim: squeezed(x, dim, late=True),
        ],
        "It always works along the last dimension. Take the one that is asked for.": lambda x, dim: (
            torch.logsumexp(x, dim=-1)
        ),
        "This is the logarithm of the mean: the sum is divided by how many there are.": lambda x, dim: (
            torch.logsumexp(x, dim=dim) - math.log(x.size(dim))
        ),
        "This is the largest number alone. The others add to the sum, too.": lambda x, dim: x.amax(dim=dim),
        "The logarithm is missing: this is the sum of the exponentials.": lambda x, dim: x.exp().sum(dim=dim),
        "The logarithm is taken of each exponential, which gives the number back. It belongs outside the "
        "sum.": lambda x, dim: x.sum(dim=dim),
        "Infinities are replaced too eagerly: an entry of minus infinity counts as 0 and adds 1 to the "
        "sum.": lambda x, dim: torch.logsumexp(torch.where(x.isinf(), 0.0, x), dim=dim),
        "The smallest number is subtracted. Then the others are large, and their exponentials "
        "overflow.": lambda x, dim: shifted(x, dim, x.amin(dim=dim, keepdim=True)),
    },
    signs={
        "A sum of exponentials is at least its largest part, so no result is below the largest number.": (
            lambda case, got, expected: bool((got < case[0].amax(dim=case[1]) - 1e-3).any())
        ),
    },
)


# ---------------------------------------------------------------- B.3 rows that were seen before


def runs(ids, n, step=1):
    return {tuple(ids[i : i + n]) for i in range(0, len(ids) - n + 1, step)}


def leaked_rows(train_ids, rows, n):
    seen = runs(train_ids, n)
    return [number for number, row in enumerate(rows) if runs(row, n) & seen]


def across_rows(train_ids, rows, n):
    """Runs of the rows laid end to end; the row in which a run begins is named."""
    seen, joined = runs(train_ids, n), [(token, number) for number, row in enumerate(rows) for token in row]
    found = {
        joined[i][1]
        for i in range(len(joined) - n + 1)
        if tuple(token for token, _ in joined[i : i + n]) in seen
    }
    return sorted(found)


def in_order_with_gaps(train_ids, rows, n):
    """Whether n of a row's tokens occur in the text in this order, others between them."""

    def subsequence(ids):
        tail = iter(train_ids)
        return sum(any(token == other for other in tail) for token in ids) >= n

    return [number for number, row in enumerate(rows) if any(subsequence(row[i:]) for i in range(len(row)))]


def texts(draw, n):
    train = draw.ids(6, draw.whole(14, 18)).tolist()
    start = draw.whole(0, len(train) - n)
    copied = [draw.whole(6, 9), *train[start : start + n], draw.whole(6, 9)]
    others = [draw.ids(6, draw.whole(n - 1, 8)).tolist() for _ in range(4)]
    return train, [*others[:2], copied, *others[2:], train[start : start + n - 1]], n


LEAKED = Exercise(
    right=leaked_rows,
    cases=lambda draw: [
        ([1, 2], [[1, 2]], 2),
        ([1, 2], [[2, 1]], 2),
        ([1, 2, 3], [[2, 3]], 2),
        ([1, 2, 3], [[9, 2, 3]], 2),
        ([1, 2, 3, 4, 5], [[9, 2, 3, 4], [4, 3, 2], [1, 2, 9, 3, 4]], 3),
        ([1, 2, 3], [[9, 1], [2, 8]], 2),
        ([1, 2, 3], [[1, 2], [], [3], [1, 2, 3]], 3),
        ([5], [[1], [5, 5]], 1),
        ([1, 2], [[1, 2, 3]], 3),
        ([11, 2], [[1, 2], [1, 12], [11, 2]], 2),
        ([1, 2], [[1, 2], [1, 2]], 2),
        texts(draw, 3),
        texts(draw, 2),
        texts(draw, 4),
    ],
    mistakes={
        "The order of the tokens does not count here. A run is the same tokens in the same order.": [
            lambda t, rows, n: [
                k
                for k, row in enumerate(rows)
                if {tuple(sorted(r)) for r in runs(row, n)} & {tuple(sorted(r)) for r in runs(t, n)}
            ],
            lambda t, rows, n: [
                k
                for k, row in enumerate(rows)
                if {frozenset(r) for r in runs(row, n)} & {frozenset(r) for r in runs(t, n)}
            ],
        ],
        "Single tokens are looked up. What counts is n tokens that follow each other.": [
            lambda t, rows, n: [k for k, row in enumerate(rows) if set(row) & set(t)],
            lambda t, rows, n: [k for k, row in enumerate(rows) if len(set(row) & set(t)) >= n],
            lambda t, rows, n: [k for k, row in enumerate(rows) if sum(x in t for x in row) >= n],
        ],
        "A row counts only when all of it stands in the text. n of its tokens suffice.": lambda t, rows, n: [
            k for k, row in enumerate(rows) if len(row) >= n and tuple(row) in runs(t, len(row))
        ],
        "Every run of a row must stand in the text, here. One is enough.": [
            lambda t, rows, n: [k for k, row in enumerate(rows) if runs(row, n) <= runs(t, n)],
            lambda t, rows, n: [
                k for k, row in enumerate(rows) if len(row) >= n and runs(row, n) <= runs(t, n)
            ],
        ],
        "The ids are joined to a string, in which 1 12 and 11 2, or 1 2 and 11 2, look alike. Compare "
        "tuples.": [
            lambda t, rows, n: [
                k
                for k, row in enumerate(rows)
                if {"".join(map(str, r)) for r in runs(row, n)} & {"".join(map(str, r)) for r in runs(t, n)}
            ],
            lambda t, rows, n: [
                k
                for k, row in enumerate(rows)
                if any(" ".join(map(str, r)) in " ".join(map(str, t)) for r in runs(row, n))
            ],
        ],
        "A row that occurs twice gets the number of its first place both times. enumerate gives each its "
        "own.": lambda t, rows, n: [rows.index(rows[k]) for k in leaked_rows(t, rows, n)],
        "The row is cut into pieces of n that do not overlap. A run may begin anywhere.": [
            lambda t, rows, n: [k for k, row in enumerate(rows) if runs(row, n, step=n) & runs(t, n)],
            lambda t, rows, n: [
                k
                for k, row in enumerate(rows)
                if {tuple(row[i : i + n]) for i in range(0, len(row), n)} & runs(t, n)
            ],
        ],
        "The text is cut into pieces of n that do not overlap. A run may begin anywhere.": [
            lambda t, rows, n: [k for k, row in enumerate(rows) if runs(row, n) & runs(t, n, step=n)],
            lambda t, rows, n: [k for k, row in enumerate(rows) if runs(row, n, step=n) & runs(t, n, step=n)],
        ],
        "The last run is left out: there are len - n + 1 places to begin.": [
            lambda t, rows, n: [k for k, row in enumerate(rows) if runs(row[:-1], n) & runs(t[:-1], n)],
            lambda t, rows, n: [k for k, row in enumerate(rows) if runs(row[:-1], n) & runs(t, n)],
            lambda t, rows, n: [k for k, row in enumerate(rows) if runs(row, n) & runs(t[:-1], n)],
        ],
        "The end of a row and the beginning of the next are taken for one run. Each row stands "
        "alone.": across_rows,
        "Pieces at the end that are shorter than n count here. A run has n tokens.": lambda t, rows, n: [
            k
            for k, row in enumerate(rows)
            if {tuple(row[i : i + n]) for i in range(len(row))} & {tuple(t[i : i + n]) for i in range(len(t))}
        ],
        "Other tokens may stand between, here. The n tokens must follow each other.": in_order_with_gaps,
        "These are the rows that have not leaked.": lambda t, rows, n: [
            k for k, row in enumerate(rows) if not runs(row, n) & runs(t, n)
        ],
        "A True or False for each row. Return the numbers of the rows that have leaked.": lambda t, rows, n: [
            bool(runs(row, n) & runs(t, n)) for row in rows
        ],
        "The rows themselves are returned. Return their numbers.": lambda t, rows, n: [
            row for row in rows if runs(row, n) & runs(t, n)
        ],
        "Rows are counted from 1 here. The first is number 0.": lambda t, rows, n: [
            k + 1 for k in leaked_rows(t, rows, n)
        ],
        "A row is named once for each of its runs. Name it once.": lambda t, rows, n: [
            k
            for k, row in enumerate(rows)
            for i in range(len(row) - n + 1)
            if tuple(row[i : i + n]) in runs(t, n)
        ],
        "It looks for n + 1 tokens in a row. n are enough.": lambda t, rows, n: leaked_rows(t, rows, n + 1),
        "It is content with n - 1 tokens in a row. It takes n.": lambda t, rows, n: leaked_rows(
            t, rows, max(1, n - 1)
        ),
    },
    signs={
        "A row that has fewer than n tokens cannot have leaked.": lambda case, got, expected: any(
            len(case[1][k]) < case[2] for k in got
        ),
        "The numbers of the rows should rise.": lambda case, got, expected: sorted(set(got)) != got,
    },
)


# ---------------------------------------------------------------- B.4 the lowest loss of a blind model


def pairs_of(inputs, targets, ignored=-100):
    return [(a, b) for a, b in zip(inputs.flatten().tolist(), targets.flatten().tolist()) if b != ignored]


def floor_of(pairs, n_a=None, count=None, log=math.log):
    """The mean of -log(n_ab / n_a); n_a: other counts of the inputs; count: another divisor."""
    n_ab, n_a = Counter(pairs), n_a or Counter(a for a, _ in pairs)
    return -sum(log(n_ab[pair] / n_a[pair[0]]) for pair in pairs) / max(1, count or len(pairs))


def mean_of_tokens(inputs, targets):
    """Each input token's own floor, and the plain mean of these."""
    by_token = {}
    for a, b in pairs_of(inputs, targets):
        by_token.setdefault(a, []).append((a, b))
    return sum(floor_of(pairs) for pairs in by_token.values()) / max(1, len(by_token))


def by_row(inputs, targets):
    """The mean of the floors of the rows, each with its own counts."""
    floors = [floor_of(pairs_of(i, t)) for i, t in zip(torch.atleast_2d(inputs), torch.atleast_2d(targets))]
    return sum(floors) / len(floors)


def unigram_floor(inputs, targets):
    return floor_of([(0, b) for _, b in pairs_of(inputs, targets)])


def smoothed(inputs, targets):
    pairs = pairs_of(inputs, targets)
    kinds = len({b for _, b in pairs})
    n_ab, n_a = Counter(pairs), Counter(a for a, _ in pairs)
    total = sum(math.log((n_ab[pair] + 1) / (n_a[pair[0]] + kinds)) for pair in pairs)
    return -total / max(1, len(pairs))


def over_kinds(inputs, targets):
    """Each kind of pair once, however often it occurs."""
    pairs = pairs_of(inputs, targets)
    n_ab, n_a = Counter(pairs), Counter(a for a, _ in pairs)
    return -sum(math.log(n / n_a[a]) for (a, _), n in n_ab.items()) / max(1, len(n_ab))


def some_pairs(draw, *shape):
    inputs, targets = draw.ids(4, *shape), draw.ids(3, *shape) + 5
    targets[draw.normal(*shape) > 0.8] = -100
    inputs[0, :3], targets[0, :3] = 2, torch.tensor([5, 6, -100])
    return inputs, targets


def rows(*lists):
    return tuple(torch.tensor(ids) for ids in lists)


FLOOR = Exercise(
    right=lambda inputs, targets: floor_of(pairs_of(inputs, targets)),
    cases=lambda draw: [
        rows([5], [7]),
        rows([5, 6], [7, 8]),
        rows([5, 5], [7, 8]),
        rows([5, 5, 6], [7, 8, 7]),
        rows([5, 5, 6, 6], [7, 8, 7, -100]),
        rows([5, 5, 5], [7, 7, 8]),
        rows([5, 5], [-100, -100]),
        rows([0, 0, 6], [0, 8, 0]),
        some_pairs(draw, 3, draw.whole(7, 9)),
        some_pairs(draw, 2, 11),
        tuple(t.T for t in some_pairs(draw, 4, 6)),
    ],
    mistakes={
        "The input does not count here: this is the floor of a model that sees nothing at all. n_a is how "
        "often this input has a target.": unigram_floor,
        "The target -100 counts here like a token. Leave these places out of all counts.": lambda i, t: (
            floor_of(pairs_of(i, t, None))
        ),
        "The target 0 is left out. It is a token like any other; only -100 does not count.": lambda i, t: (
            floor_of([(a, b) for a, b in pairs_of(i, t) if b > 0])
        ),
        "No pair is found twice. Are the keys of the Counter tensors? Two tensors are two keys, even with "
        "the same number in them: .tolist() gives ints.": lambda i, t: floor_of(
            [(a, b) for a, b in zip(i.flatten(), t.flatten()) if b != -100]
        ),
        "Each row has counts of its own here. Count over the whole batch.": by_row,
        "An input whose target is -100 counts in n_a. Leave such places out there too.": lambda i, t: (
            floor_of(pairs_of(i, t), Counter(i.flatten().tolist()))
        ),
        "The sum is divided by all places, those of -100 too. Divide by the targets that count.": (
            lambda i, t: floor_of(pairs_of(i, t), count=i.numel())
        ),
        "These are bits, logarithms to the base 2. Take the natural logarithm.": lambda i, t: floor_of(
            pairs_of(i, t), log=math.log2
        ),
        "The pair is divided by the number of all pairs: the chance of the pair, not of the target after "
        "this input.": lambda i, t: floor_of([(0, pair) for pair in pairs_of(i, t)]),
        "Each input token weighs the same here, however often it occurs. The mean is over the "
        "targets.": mean_of_tokens,
        "Each kind of pair weighs the same here. A pair that occurs three times counts three "
        "times.": over_kinds,
        "This is the sum. Divide by the number of targets that count.": lambda i, t: floor_of(
            pairs_of(i, t), count=1
        ),
        "The sign: a loss is not below 0.": lambda i, t: -floor_of(pairs_of(i, t)),
        "n_ab is divided by how often the *target* occurs. Divide by how often the input does.": [
            lambda i, t: floor_of([(b, a) for a, b in pairs_of(i, t)]),
        ],
        "One is added to each count. The best guess on the batch itself needs no such care.": smoothed,
        "This is the perplexity. The loss is its logarithm.": lambda i, t: math.exp(floor_of(pairs_of(i, t))),
    },
    signs={
        "When every input has one target only, the floor is 0.": lambda case, got, expected: (
            expected == 0 and abs(got) > 1e-6
        ),
        "It is below what counting can reach, so something other than the counts of this batch is in it.": (
            lambda case, got, expected: got < expected - 1e-6
        ),
    },
)


# ---------------------------------------------------------------- B.5 a recorder


class Backwards(nn.Module):
    """Its first part runs last, and twice."""

    def __init__(self, width):
        super().__init__()
        self.again, self.first = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return self.again(torch.tanh(self.again(self.first(x))))


class Stop(nn.Module):
    def forward(self, x):
        raise RuntimeError("stopped halfway")


def recorded_model(kind, width, seed):
    model = {
        "one": lambda: nn.Sequential(nn.Linear(width, width)),
        "nested": lambda: nn.Sequential(nn.Linear(width, 3), nn.Sequential(nn.ReLU())),
        "deep": lambda: nn.Sequential(
            nn.Sequential(nn.Linear(width, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, width))), nn.ReLU()
        ),
        "backwards": lambda: nn.Sequential(Backwards(width), nn.Tanh()),
    }[kind]()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for w in model.parameters():
            w.copy_(torch.randn(w.shape, generator=generator))
    return model


def hooks_left(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def run_record(answer, kind, x, seed):
    model = recorded_model(kind, x.size(-1), seed).to(x.device)
    records = answer(model, x)
    stopping = nn.Sequential(nn.Sequential(recorded_model(kind, x.size(-1), seed), Stop())).to(x.device)
    passed_on = False
    try:
        answer(stopping, x)
    except RuntimeError as error:
        passed_on = "stopped halfway" in str(error)
    return {
        "the list": records,
        "hooks left": hooks_left(model),
        "hooks left after an error": hooks_left(stopping),
        "the error reaches the caller": passed_on,
    }


def record(model, x, leaves=True, clean=True, always=True, correction=0, by="call", swallow=False, pre=False):
    """The recorder, and with other options its usual faults."""
    records, hooks = [], []

    def see(name, output):
        records.append((name, output.std(correction=correction).item()))

    named = [(n, m) for n, m in model.named_modules() if not (leaves and list(m.children()))]
    for name, module in named:
        if pre:
            hooks.append(module.register_forward_pre_hook(lambda m, args, name=name: see(name, args[0])))
        else:
            hooks.append(module.register_forward_hook(lambda m, a, output, name=name: see(name, output)))
    try:
        model(x)
    except RuntimeError:
        if not always:
            hooks.clear()
        if not swallow:
            raise
    finally:
        for hook in hooks if clean else []:
            hook.remove()
    if by == "name":
        order = [name for name, _ in named]
        records.sort(key=lambda pair: order.index(pair[0]))
    if by == "last":
        records = [(named[-1][0], std) for _, std in records]
    if by == "once":
        records = list(dict(records).items())
    return records


def library_record(model, x):
    leaves = {name for name, module in model.named_modules() if not list(module.children())}
    return [(r.name, r.std) for r in watch(model, x) if r.name in leaves]


def other_numbers(measure):
    def wrong(model, x):
        found, hooks = [], []
        for name, module in model.named_modules():
            if not list(module.children()):
                hooks.append(
                    module.register_forward_hook(lambda m, a, o, name=name: found.append((name, measure(o))))
                )
        try:
            model(x)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    return wrong


RECORD = Exercise(
    right=library_record,
    run=run_record,
    cases=lambda draw: [
        ("one", torch.tensor([[1.0, 2.0]]), 1),
        ("nested", draw.normal(4, 2), draw.whole(1, 999)),
        ("backwards", draw.normal(3, 2), draw.whole(1, 999)),
        ("deep", draw.normal(5, 3), draw.whole(1, 999)),
    ],
    mistakes={
        "The hooks stay on the model. Keep what register_forward_hook returns, and remove each.": (
            lambda m, x: record(m, x, clean=False)
        ),
        "After an error the hooks stay on the model. Remove them in a finally, which runs in any case.": (
            lambda m, x: record(m, x, always=False)
        ),
        "Modules that have modules inside are in the list, too.": [
            lambda m, x: record(m, x, leaves=False),
            lambda m, x: [pair for pair in record(m, x, leaves=False) if pair[0]],
        ],
        "The std divides by one less than there are numbers. With correction=0 it divides by all of "
        "them.": lambda m, x: record(m, x, correction=1),
        "The list is in the order in which the modules were made. Asked for is that of the calls.": (
            lambda m, x: record(m, x, by="name")
        ),
        "Every entry has the name of the last module: the function looks the name up when it is called, and "
        "the loop is over by then. Give it the name as a default, name=name.": lambda m, x: record(
            m, x, by="last"
        ),
        "A module that is called twice has one entry here. There should be one for each call.": (
            lambda m, x: record(m, x, by="once")
        ),
        "The error is swallowed. Whoever called must hear of it: finally lets it pass, except does not.": (
            lambda m, x: record(m, x, swallow=True)
        ),
        "These are the inputs of the modules. A forward hook gets the output as its third argument.": (
            lambda m, x: record(m, x, pre=True)
        ),
        "The std is a tensor. Make it a Python float with .item().": other_numbers(
            lambda o: o.std(correction=0).detach()
        ),
        "This is the variance. The std is its root.": other_numbers(lambda o: o.var(correction=0).item()),
        "This is the root of the mean square, without the mean taken away first.": other_numbers(
            lambda o: o.square().mean().sqrt().item()
        ),
        "This is the mean of the output, not how far it spreads.": other_numbers(lambda o: o.mean().item()),
        "The std is taken along the last dimension only and then averaged. Take it over all numbers of the "
        "output.": other_numbers(lambda o: o.std(dim=-1, correction=0).mean().item()),
    },
    signs={
        "Hooks are left on the model after the call.": lambda case, got, expected: got["hooks left"] > 0,
        "Hooks are left on the model after an error.": lambda case, got, expected: (
            got["hooks left after an error"] > 0
        ),
        "An error in the model does not reach the caller.": lambda case, got, expected: (
            not got["the error reaches the caller"]
        ),
        "The names, or their order, are not those of the calls of modules without children.": (
            lambda case, got, expected: (
                [name for name, _ in got["the list"]] != [name for name, _ in expected["the list"]]
            )
        ),
    },
)


# ---------------------------------------------------------------- B.6 the gradient of each block


class Blocks(nn.Module):
    def __init__(self, n_blocks, width):
        super().__init__()
        self.head = nn.Linear(width, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 3), nn.Linear(3, width, bias=False)) for _ in range(n_blocks)
        )


def run_norms(answer, n_blocks, width, seed):
    generator = torch.Generator().manual_seed(seed)
    model = Blocks(n_blocks, width)
    for number, w in enumerate(model.parameters()):
        w.data = torch.randn(w.shape, generator=generator)
        if number % 5 != 4:
            w.grad = torch.randn(w.shape, generator=generator)
    for w in model.blocks[-1].parameters() if n_blocks > 2 else []:
        w.grad = None
    before = [None if w.grad is None else w.grad.clone() for w in model.parameters()]
    norms = answer(model)
    after = [w.grad for w in model.parameters()]
    pairs = list(zip(before, after))
    same = all(b is None if a is None else b is not None and torch.equal(a, b) for a, b in pairs)
    return {"norms": norms, "gradients as before": same}


def gradients_of(block):
    return [w.grad for w in block.parameters() if w.grad is not None]


def per_block(measure):
    return lambda model: {k: float(measure(gradients_of(block))) for k, block in enumerate(model.blocks)}


def by_prefix(model, ends=""):
    """Blocks found by how the names of parameters begin."""
    norms = {}
    for k in range(len(model.blocks)):
        found = [
            w.grad
            for name, w in model.named_parameters()
            if name.startswith(f"blocks.{k}{ends}") and w.grad is not None
        ]
        norms[k] = math.sqrt(sum(g.square().sum().item() for g in found))
    return norms


def only_with_gradient(model):
    return {k: norm for k, norm in by_prefix(model, ".").items() if gradients_of(model.blocks[k])}


def with_head(model):
    head = sum(g.square().sum().item() for g in gradients_of(model.head))
    return {k: math.sqrt(norm**2 + head) for k, norm in by_prefix(model, ".").items()}


NORMS = Exercise(
    right=lambda model: by_prefix(model, "."),
    run=run_norms,
    cases=lambda draw: [
        (1, 2, draw.whole(1, 999)),
        (2, 2, draw.whole(1, 999)),
        (3, 4, draw.whole(1, 999)),
        (12, draw.whole(3, 5), draw.whole(1, 999)),
    ],
    mistakes={
        "The norms of the parameters are added. Norms add up in squares: the root of the sum of all "
        "squares.": per_block(lambda gs: sum(g.norm().item() for g in gs)),
        "This is the square of the norm: the root is missing.": per_block(
            lambda gs: sum(g.square().sum().item() for g in gs)
        ),
        "This is the largest norm of a parameter in the block. All of them count.": per_block(
            lambda gs: max((g.norm().item() for g in gs), default=0.0)
        ),
        "This is the mean of the parameters' norms.": per_block(
            lambda gs: sum(g.norm().item() for g in gs) / max(1, len(gs))
        ),
        "The squares are averaged. The norm is the root of their sum.": per_block(
            lambda gs: torch.cat([g.flatten() for g in gs]).square().mean().sqrt() if gs else 0.0
        ),
        "Block 1 holds block 10 and 11 as well: their names begin alike. Mind the dot after the number, or "
        "take the parameters from the block itself.": by_prefix,
        "A block without any gradient is missing. It has the norm 0.0.": only_with_gradient,
        "These are the norms of the weights. Their gradients are in .grad.": lambda model: {
            k: math.sqrt(sum(w.detach().square().sum().item() for w in block.parameters()))
            for k, block in enumerate(model.blocks)
        },
        "Parameters outside of the blocks are counted too.": with_head,
        "The keys are strings. Use the number of the block, an int.": lambda model: {
            str(k): norm for k, norm in by_prefix(model, ".").items()
        },
        "The blocks are counted from 1. The first is number 0.": lambda model: {
            k + 1: norm for k, norm in by_prefix(model, ".").items()
        },
        "The norms are tensors. Make each a Python float.": lambda model: {
            k: torch.tensor(norm) for k, norm in by_prefix(model, ".").items()
        },
        "The numbers of a gradient are added before they are squared, so that opposite ones "
        "cancel.": per_block(lambda gs: math.sqrt(sum(g.sum().item() ** 2 for g in gs))),
        "The absolute values are added. The norm is the root of the sum of squares.": per_block(
            lambda gs: sum(g.abs().sum().item() for g in gs)
        ),
        "This is a list. Asked for is a dict, from the number of the block to its norm.": lambda model: list(
            by_prefix(model, ".").values()
        ),
    },
    signs={
        "The gradients have changed. Only look at them.": lambda case, got, expected: (
            not got["gradients as before"]
        ),
    },
    errors={
        "A parameter may have no gradient: its grad is None then, and counts as zeros.": lambda case, error: (
            bool(re.search("NoneType", str(error)))
        ),
    },
)


# ---------------------------------------------------------------- B.7 who sees the future


class Mixer(nn.Module):
    """Logits at t are a sum over the tokens that t sees; with dropout."""

    def __init__(self, seen, vocab_size, seed, dropout):
        super().__init__()
        generator, T = torch.Generator().manual_seed(seed), len(seen)
        self.register_buffer("table", torch.randn(vocab_size, vocab_size, generator=generator))
        self.register_buffer("share", seen * (0.5 + torch.rand(T, T, generator=generator)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, token_ids):
        return self.dropout(self.share @ self.table[token_ids])  # (T, T) @ (1, T, V) -> (1, T, V)


def run_future(answer, seen, ids, vocab_size, seed, training):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Mixer(seen.cpu(), vocab_size, seed, dropout=0.5).to(ids.device).train(training)
        found = answer(model, ids)
    return {"positions": found, "in train mode afterwards": model.training}


def next_id(ids, V):
    return (ids + 1) % V


def moving(
    model,
    token_ids,
    others_of,
    keeps=lambda s, t: t < s,
    quiet=True,
    back=True,
    threshold=1e-5,
    other=next_id,
    size=torch.abs,
):
    """Positions that move; others_of(s, T): which tokens are changed; keeps(s, t): which moves count."""
    was_training, found, T = model.training, set(), token_ids.size(1)
    if quiet:
        model.eval()
    with torch.no_grad():
        before = model(token_ids)
        for s in range(T):
            changed = token_ids.clone()
            places = others_of(s, T)
            changed[0, places] = other(changed[0, places], before.size(-1))
            moved = size((model(changed) - before)[0]).amax(dim=-1) > threshold
            found |= {t for t in range(T) if moved[t] and keeps(s, t)}
    if back:
        model.train(was_training)
    return sorted(found)


def alone(s, T):
    return [s]


def sees_the_future(model, token_ids):
    return moving(model, token_ids, alone)


def some_seen(draw, T):
    """A causal matrix with a few places above the diagonal, and some missing below."""
    seen = causal_mask(T).float()
    above = (draw.normal(T, T) > 0.9).float().triu(1)
    above[draw.whole(1, T - 3)] = 0.0
    above[0, T - 1] = 1.0
    seen[T - 1, 0] = 0.0
    return (seen + above).clamp(max=1)


def future_case(draw, seen, training):
    T = len(seen)
    return seen, draw.ids(5, 1, T), 5, draw.whole(1, 9999), training


def matrix(*lists):
    return torch.tensor(lists, dtype=torch.float32)


DOWN = 13  # a seed of Mixer's table whose row 0 lies below row 1
FUTURE = Exercise(
    right=sees_the_future,
    run=run_future,
    cases=lambda draw: [
        (matrix([1]), torch.tensor([[0]]), 2, 1, False),
        (matrix([1, 1], [1, 1]), torch.tensor([[0, 1]]), 2, 1, False),
        (matrix([1, 0], [1, 1]), torch.tensor([[0, 1]]), 2, 1, False),
        (matrix([1, 0], [1, 1]), torch.tensor([[0, 1]]), 2, 1, True),
        (matrix([1, 1], [1, 1]), torch.tensor([[0, 0]]), 2, 1, False),
        (matrix([1, 1], [1, 1]), torch.tensor([[1, 1]]), 2, DOWN, False),  # all logits move down
        (matrix([1, 3e-4], [1, 1]), torch.tensor([[0, 1]]), 2, 1, False),
        (matrix([1, 1, 0], [0, 1, 0], [1, 1, 1]), torch.tensor([[0, 1, 2]]), 3, 1, False),
        (matrix([1, 0, 1], [0, 1, 0], [1, 1, 1]), torch.tensor([[0, 1, 2]]), 3, 1, False),
        (matrix([1, 0, 0], [0, 1, 1], [1, 1, 1]), torch.tensor([[0, 1, 2]]), 3, 1, True),
        future_case(draw, torch.ones(6, 6).tril(1), False),
        future_case(draw, some_seen(draw, draw.whole(6, 8)), True),
        future_case(draw, some_seen(draw, 7), False),
    ],
    mistakes={
        "A position counts as seeing the future when its own token moves it. Only later tokens count.": [
            lambda m, ids: moving(m, ids, alone, lambda s, t: t <= s),
            lambda m, ids: moving(m, ids, lambda s, T: list(range(s, T)), lambda s, t: t <= s),
        ],
        "Dropout is still on, so everything moves by chance. Measure in eval mode.": [
            lambda m, ids: moving(m, ids, alone, quiet=False),
        ],
        "The model stays in eval mode. Hand it back in the mode in which it came.": lambda m, ids: moving(
            m, ids, alone, back=False
        ),
        "The model ends in train mode although it came in eval mode. Put back what was there.": [
            lambda m, ids: [sees_the_future(m, ids), m.train()][0],
        ],
        "Each token is replaced by the same id. Where it has that id already, nothing changes: take "
        "(id + 1) % V.": [
            lambda m, ids: moving(m, ids, alone, other=lambda ids, V: ids * 0),
            lambda m, ids: moving(m, ids, alone, other=lambda ids, V: ids * 0 + 1),
            lambda m, ids: moving(m, ids, alone, other=lambda ids, V: ids * 0 + V - 1),
        ],
        "Logits that become smaller are not seen: the absolute value is missing.": lambda m, ids: moving(
            m, ids, alone, size=lambda difference: difference
        ),
        "A small change is overlooked. Any change above 1e-5 counts.": [
            lambda m, ids: moving(m, ids, alone, threshold=1e-3),
            lambda m, ids: moving(m, ids, alone, threshold=1e-1),
        ],
        "Only the last token is changed. A position may see another later token.": lambda m, ids: moving(
            m, ids, lambda s, T: [T - 1], lambda s, t: t < ids.size(1) - 1
        ),
        "Only the next token is looked at. A position may see one further away.": lambda m, ids: moving(
            m, ids, alone, lambda s, t: t == s - 1
        ),
        "These are the positions whose tokens are seen by earlier ones. Asked for are those that see "
        "them.": lambda m, ids: sorted(
            {s for s in range(ids.size(1)) if moving(m, ids, lambda _, T, s=s: [s], lambda _, t, s=s: t < s)}
        ),
        "Moves of later positions count as well. Those may see the changed token: it is their "
        "past.": lambda m, ids: moving(m, ids, alone, lambda s, t: t != s),
        "A True or False for each position. Return the positions that see a later token.": lambda m, ids: [
            t in sees_the_future(m, ids) for t in range(ids.size(1))
        ],
        "This says whether there is a leak. Return the positions, a list.": lambda m, ids: bool(
            sees_the_future(m, ids)
        ),
        "These are the positions that do not see the future.": lambda m, ids: [
            t for t in range(ids.size(1)) if t not in sees_the_future(m, ids)
        ],
        "Position 0 is never looked at. It can see the future like any other.": lambda m, ids: [
            t for t in sees_the_future(m, ids) if t
        ],
        "It stops at the first position that it finds. Return all of them.": lambda m, ids: sees_the_future(
            m, ids
        )[:1],
    },
    signs={
        "The positions are tensors. Make each an int, with .item() or .tolist().": (
            lambda case, got, expected: any(isinstance(t, torch.Tensor) for t in got["positions"])
        ),
        "The last position has no later token, so it cannot see one.": lambda case, got, expected: (
            len(case[0]) - 1 in got["positions"]
        ),
        "The model should come back in the mode in which it came.": lambda case, got, expected: (
            got["in train mode afterwards"] != case[-1]
        ),
        "The model came in train mode, and it finds positions that eval mode does not show. Is dropout on?": (
            lambda case, got, expected: case[-1] and bool(set(got["positions"]) - set(expected["positions"]))
        ),
        "A position is missing that sees a token after it.": lambda case, got, expected: bool(
            set(expected["positions"]) - set(got["positions"])
        ),
        "A position is in the list that sees no token after it.": lambda case, got, expected: bool(
            set(got["positions"]) - set(expected["positions"])
        ),
    },
)


# ---------------------------------------------------------------- B.8 three faults in six lines


def head_by(scale=math.sqrt, order="before", dim=-1, fill=-math.inf, visible=None):
    """Attention of one head, with a choice of faults."""

    def attend(q, k, v):
        T, d = q.shape
        scores = q @ k.T / scale(d)
        seen = (causal_mask(T) if visible is None else visible(T)).to(q.device)
        if order == "before":
            weights = scores.masked_fill(~seen, fill).softmax(dim=dim)
        elif order == "never":
            weights = scores.softmax(dim=dim)
        else:
            weights = scores.softmax(dim=dim).masked_fill(~seen, 0.0)
            if order == "after, divided":
                weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights @ v

    return attend


def whole(d):
    return d


def one(d):
    return 1.0


HEAD = Exercise(
    right=lambda q, k, v: nn.functional.scaled_dot_product_attention(
        q[None], k[None], v[None], is_causal=True
    )[0],
    cases=lambda draw: [
        (torch.tensor([[1.0]]), torch.tensor([[1.0]]), torch.tensor([[3.0]])),
        (torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0], [5.0]])),
        (
            torch.tensor([[1.0, 0, 0, 1], [0, 2, 0, 0]]),
            torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0]]),
            torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]]),
        ),
        (draw.normal(3, 4), draw.normal(3, 4), draw.normal(3, 4)),
        (draw.normal(5, 8) * 2, draw.normal(5, 8), draw.normal(5, 8)),
        (draw.normal(4, 16).double(), draw.normal(4, 16).double(), draw.normal(4, 16).double()),
    ],
    mistakes={
        "All three faults are still there.": head_by(whole, "after", 0),
        "The scores are still divided by d. Divide by its root, or a long head looks at all alike.": head_by(
            whole
        ),
        "The mask still comes after the softmax, so the future has a share in the sum, and the rows do not "
        "add up to 1. Mask the scores.": head_by(order="after"),
        "The softmax still runs along the queries. Each query shares out its attention over the keys, the "
        "last dimension.": [head_by(dim=0), head_by(dim=0, fill=-1e9)],
        "Two faults are left: the factor, and the mask that comes after the softmax.": head_by(
            whole, "after"
        ),
        "Two faults are left: the factor, and the direction of the softmax.": [
            head_by(whole, dim=0),
            head_by(whole, dim=0, fill=-1e9),
        ],
        "Two faults are left: the mask comes after the softmax, which runs along the queries.": head_by(
            order="after", dim=0
        ),
        "The scores are not divided at all. Divide by the root of d.": [head_by(one), head_by(one, "after")],
        "The scores are multiplied by the root of d. Divide by it.": head_by(lambda d: d**-0.5),
        "Queries and keys have changed places: row t of the scores is that of query t.": lambda q, k, v: (
            head_by()(k, q, v)
        ),
        "Nothing is masked any more, so every token sees the whole text.": [
            head_by(order="never"),
            head_by(whole, "never"),
        ],
        "The mask is upside down: earlier tokens are hidden and later ones are not.": head_by(
            visible=lambda T: ~causal_mask(T) | torch.eye(T, dtype=torch.bool)
        ),
        "A token does not see itself any more, and the first sees nothing.": [
            head_by(visible=lambda T: causal_mask(T).tril(-1)),
            head_by(visible=lambda T: causal_mask(T).tril(-1), fill=-1e9),
        ],
        "The hidden scores are set to 0, which is a score like any other. Minus infinity leaves no "
        "share.": head_by(fill=0.0),
        "The division by the root of d comes after the softmax. It belongs to the scores.": lambda q, k, v: (
            head_by(one)(q, k, v) / math.sqrt(q.size(-1))
        ),
        "It divides by the root of the number of tokens. Divide by the root of d, the length of a query.": (
            lambda q, k, v: head_by(lambda d: math.sqrt(len(q)))(q, k, v)
        ),
    },
    signs={
        "Row 0 should be v[0]: the first token sees itself only.": lambda case, got, expected: (
            not torch.allclose(got[0], case[2][0], atol=1e-5)
        ),
        "The weights of a row do not have the sum 1: a mean of equal values is not that value.": (
            lambda case, got, expected: bool(((got.amax(0) - case[2].amax(0)) > 1e-4).any())
        ),
    },
)


check = checker(
    {
        "B.1": LOST,
        "B.2": LOG_SUM_EXP,
        "B.3": LEAKED,
        "B.4": FLOOR,
        "B.5": RECORD,
        "B.6": NORMS,
        "B.7": FUTURE,
        "B.8": HEAD,
    }
)
