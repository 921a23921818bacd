"""The checks of chapter 3's exercises: what is right, on which inputs, and the usual mistakes by name."""

# Written by hand: what learners get wrong, in words.

import math

import torch
import torch.nn.functional as F
from torch.func import functional_call

from ch01_tokenization.checking import Exercise, checker

from . import attention as library
from .attention import causal_mask, fused_attention, join_heads, sliding_window_mask, softmax, split_heads

__all__ = ["check"]


# ---------------------------------------------------------------- 3.1 the average of the past


def average_of_the_past(x):
    return x.cumsum(dim=0) / torch.arange(1, len(x) + 1, device=x.device)[:, None]


def halves(x):
    rows = [x[0]]
    for row in x[1:]:
        rows.append((rows[-1] + row) / 2)
    return torch.stack(rows)


def backwards(x):
    return average_of_the_past(x.flip(0)).flip(0)


def means_of_means(x):
    rows = []
    for row in x:
        rows.append(torch.stack([*rows, row]).mean(dim=0))
    return torch.stack(rows)


def past_only(x, first):
    """The mean of the earlier rows without the own one; row 0 has none and is `first` of it."""
    return torch.cat([first(x[:1]), average_of_the_past(x)[:-1]])


AVERAGE = Exercise(
    right=average_of_the_past,
    cases=lambda draw: [
        (torch.tensor([[2.0]]),),
        (torch.tensor([[2.0], [4.0]]),),
        (torch.tensor([[2.0, 0.0], [4.0, 6.0], [0.0, 0.0]]),),
        (draw.normal(5, 3) + 1,),
        (draw.normal(draw.whole(6, 8), 4) - 2,),
        (draw.normal(4, 2).double(),),
    ],
    mistakes={
        "Every row is the mean of all rows, the later ones too. Row t may know rows 0 to t only.": lambda x: (
            x.mean(dim=0).expand_as(x)
        ),
        "A token's own vector counts too, and is missing in its mean here.": [
            lambda x: past_only(x, lambda row: row),
            lambda x: past_only(x, torch.zeros_like),
            lambda x: past_only(x, lambda row: row / 0 * 0),
        ],
        "The vector after it is in each mean too: one row too many.": lambda x: torch.stack(
            [x[: t + 2].mean(dim=0) for t in range(len(x))]
        ),
        "These are the means of a token and all that follow it. The past is the rows before it.": backwards,
        "These are sums: divide each by the number of vectors in it.": lambda x: x.cumsum(dim=0),
        "Every sum is divided by T. In row t there are only t + 1 vectors to divide by.": lambda x: (
            x.cumsum(dim=0) / len(x)
        ),
        "The sum in row t is divided by t, but it has t + 1 vectors in it, since counting starts at 0.": [
            lambda x: x.cumsum(dim=0) / torch.arange(len(x), device=x.device)[:, None],
            lambda x: x.cumsum(dim=0) / torch.arange(len(x), device=x.device).clamp(min=1)[:, None],
        ],
        "Each row is the mean of itself and of the mean before it, so that the first vectors hardly count "
        "any more. All vectors of the past count the same.": halves,
        "Later rows are means of rows that are means already. Each mean should be over rows of x as it came "
        "in.": means_of_means,
        "Only the row before takes part. The mean is over all earlier rows.": lambda x: torch.cat(
            [x[:1], (x[1:] + x[:-1]) / 2]
        ),
        "The mean goes over all numbers of the rows at once, which leaves one number a token. It should "
        "keep D numbers: a mean over the rows.": [
            lambda x: torch.stack([x[: t + 1].mean() for t in range(len(x))]),
            lambda x: torch.stack([x[: t + 1].mean() for t in range(len(x))])[:, None].expand_as(x),
        ],
        "The mean runs along the numbers of each vector. It should run over the rows, dim=0.": lambda x: (
            x.cumsum(dim=1) / torch.arange(1, x.size(1) + 1, device=x.device)
        ),
    },
    signs={
        "Row 0 should stay as it is: nothing stands before it.": lambda case, got, expected: (
            not torch.allclose(got[0], case[0][0])
        ),
        "The last row should be the mean of all rows.": lambda case, got, expected: (
            not torch.allclose(got[-1], case[0].mean(dim=0), atol=1e-5)
        ),
    },
)


# ---------------------------------------------------------------- 3.2 softmax


def plain_softmax(x, dim):
    return x.exp() / x.exp().sum(dim=dim, keepdim=True)


def flattened(x, dim, max_stays, sum_stays):
    exponentials = (x - x.amax(dim, keepdim=max_stays)).exp()
    return exponentials / exponentials.sum(dim, keepdim=sum_stays)


def at_the_end(x, dim):
    """The maximum and the sum get their dimension back as the last one, wherever it was."""
    exponentials = (x - x.amax(dim).unsqueeze(-1)).exp()
    return exponentials / exponentials.sum(dim).unsqueeze(-1)


def minus(shift):
    """A softmax that subtracts `shift` of the scores first."""

    def shifted(x, dim):
        exponentials = (x - shift(x, dim)).exp()
        return exponentials / exponentials.sum(dim=dim, keepdim=True)

    return shifted


SOFTMAX = Exercise(
    right=softmax,
    cases=lambda draw: [
        (torch.tensor([0.0, 1.0]), 0),
        (torch.tensor([[0.0, 1.0], [3.0, 6.0]]), 0),
        (torch.tensor([[0.0, 1.0], [3.0, 6.0]]), 1),
        (torch.tensor([0.0, 2.0]), -1),
        (torch.tensor([1000.0, 999.0]), 0),
        (torch.tensor([-1000.0, -999.0]), 0),
        (torch.tensor([[0.0, 1.0], [200.0, 201.0]]), -1),
        (torch.tensor([0.0, 0.0, 600.0]), 0),
        (draw.normal(3, 4, 5), draw.choice([0, 1, -2])),
        (draw.normal(3, 6, 4), -1),
        (10 * draw.normal(5, 6), draw.choice([0, 1])),
        (draw.normal(2, 3).double(), 1),
    ],
    mistakes={
        "The exponentials overflow: exp of a large score is infinite, and that of a very negative one is "
        "0.": [
            plain_softmax,
            lambda x, dim: plain_softmax(x.double(), dim).to(x.dtype),
        ],
        "It divides by the sum of the whole tensor, not of each row along dim.": [
            lambda x, dim: x.exp() / x.exp().sum(),
            lambda x, dim: (x - x.max()).exp() / (x - x.max()).exp().sum(),
            lambda x, dim: (x - x.amax(dim, True)).exp() / (x - x.amax(dim, True)).exp().sum(),
        ],
        "It works along the last dimension, whatever dim says.": [
            lambda x, dim: softmax(x, -1),
            lambda x, dim: plain_softmax(x, -1),
        ],
        "For dim = -1 it works along dimension 1. It should be the last one, however many there "
        "are.": lambda x, dim: softmax(x, 1 if dim == -1 else dim),
        "It works along the first dimension, whatever dim says.": [
            lambda x, dim: softmax(x, 0),
            lambda x, dim: plain_softmax(x, 0),
        ],
        "It subtracts the largest score of the whole tensor, so a row of small scores ends as 0 / 0. Take "
        "the largest of each row.": minus(lambda x, dim: x.max()),
        "It subtracts a number that is not the largest of the row, so a score far above it still "
        "overflows.": [
            minus(lambda x, dim: x.mean(dim, True)),
            minus(lambda x, dim: x.amin(dim, True)),
        ],
        "These are the logarithms of the shares: a log-softmax.": [
            lambda x, dim: x - x.logsumexp(dim, True),
            lambda x, dim: softmax(x, dim).log(),
        ],
        "The scores themselves are divided by their sum. Take exponentials first, which are never "
        "negative.": [
            lambda x, dim: x / x.sum(dim, True),
            lambda x, dim: (x - x.amax(dim, True)) / (x - x.amax(dim, True)).sum(dim, True),
        ],
        "The largest score should get the largest share, and gets the smallest here.": lambda x, dim: softmax(
            -x, dim
        ),
        "Rows and columns get mixed up: the maximum and the sum of a row should stay a column, with "
        "keepdim=True.": [
            lambda x, dim: flattened(x, dim, False, True),
            lambda x, dim: flattened(x, dim, True, False),
            lambda x, dim: flattened(x, dim, False, False),
            at_the_end,
        ],
        "These are the exponentials. Divide them by their sum along dim.": [
            lambda x, dim: x.exp(),
            lambda x, dim: (x - x.amax(dim, True)).exp(),
        ],
    },
    signs={
        "Not a number (NaN): the exponentials of a row are all 0, or one is infinite. Is it the largest "
        "score of each row that is subtracted?": lambda case, got, expected: bool(got.isnan().any()),
        "The shares along dim should have the sum 1.": lambda case, got, expected: (
            not torch.allclose(got.sum(case[1]), expected.sum(case[1]))
        ),
        "No share may be negative.": lambda case, got, expected: bool((got < 0).any()),
        "The shares have the sum 1, and are not in the proportion of the exponentials of the "
        "scores.": lambda case, got, expected: True,
    },
)


# ---------------------------------------------------------------- 3.3 the causal mask

CAUSAL_MASK = Exercise(
    right=causal_mask,
    cases=lambda draw: [(1,), (2,), (3,), (draw.whole(4, 6),), (draw.whole(7, 9),)],
    mistakes={
        "A token may look at itself: the diagonal should be True.": lambda T: causal_mask(T).tril(-1),
        "The table lies on its side: rows are queries and columns are keys.": lambda T: causal_mask(T).T,
        "True should mean that a query may look; here it means that it may not.": lambda T: ~causal_mask(T),
        "Every query sees one key too many, the one after it.": lambda T: torch.ones(
            T, T, dtype=torch.bool
        ).tril(1),
        "A query sees all earlier keys, not only itself.": lambda T: torch.eye(T, dtype=torch.bool),
        "The table holds numbers; make it bool, with True where a query may look.": [
            lambda T: causal_mask(T).float(),
            lambda T: causal_mask(T).long(),
            lambda T: torch.zeros(T, T).masked_fill(~causal_mask(T), -math.inf),
        ],
        "Everyone may look at everyone: what stands after a token should be False.": lambda T: torch.ones(
            T, T, dtype=torch.bool
        ),
        "A query sees itself and the key before it only. It may see all earlier ones.": lambda T: (
            sliding_window_mask(T, 2)
        ),
    },
    signs={
        "Some query may see a key after it. Above the diagonal everything should be "
        "False.": lambda case, got, expected: bool((got & ~expected).any()),
        "Some query may not see a key that stands before it, or its own.": lambda case, got, expected: bool(
            (expected & ~got).any()
        ),
    },
)


# ---------------------------------------------------------------- 3.4 attention by loops


def attention_by_loops(q, k, v):
    return library.scaled_dot_product_attention(q, k, v, lower(q))[0]


def lower(q, diagonal=0):
    """(T, T) bool, the causal mask, or one whose diagonal is moved."""
    return torch.ones(len(q), len(q), dtype=torch.bool, device=q.device).tril(diagonal)


def seen(q, k, v, mask, root=None):
    """Attention of (T, d) under a mask of (T, T), its scores divided by `root`."""
    root = math.sqrt(q.size(1)) if root is None else root
    weights = softmax((q @ k.T / root).masked_fill(~mask, -1e9), dim=-1).masked_fill(~mask, 0.0)
    return weights @ v


def without_itself(q, k, v):
    return seen(q, k, v, lower(q, -1))


def zero_scores(q, k, v, root=None):
    root = math.sqrt(q.size(1)) if root is None else root
    return softmax((q @ k.T / root) * lower(q), dim=-1) @ v


def sums_of_nothing(q, k, v):
    """A sum over j < i has no terms for i = 0, and is an int."""
    return torch.stack([sum(row / i for row in v[:i]) for i in range(len(v))])


def number_by_number(q, k, v, root=None):
    """Each of the d numbers has scores of its own."""
    root = math.sqrt(q.size(1)) if root is None else root
    scores = (q[:, None] * k / root).masked_fill(~lower(q)[..., None], -1e9)  # (T, T, d)
    return (softmax(scores, dim=1) * v).sum(dim=1)


def shares_of_scores(q, k, v):
    scores = (q @ k.T) * lower(q)
    return scores / scores.sum(dim=1, keepdim=True) @ v


def overwritten(q, k, v):
    return seen(q, k, torch.eye(len(q), device=q.device), lower(q)).diagonal()[:, None] * v


def hardest(q, k, v):
    return v[(q @ k.T).masked_fill(~lower(q), -1e9).argmax(dim=-1)]


def unnormalised(q, k, v, root=None):
    root = math.sqrt(q.size(1)) if root is None else root
    return ((q @ k.T / root).exp() * lower(q)) @ v


LOOPS = Exercise(
    right=attention_by_loops,
    cases=lambda draw: [
        (torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[10.0, 20.0]])),
        (torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [1.5]]), torch.tensor([[10.0], [20.0]])),
        (torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]]), torch.tensor([[10.0], [20.0]])),
        (
            torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]),
            torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 2.0, 0.0]]),
            torch.tensor([[1.0, 0.0, 0.0, 3.0], [0.0, 2.0, 0.0, 0.0]]),
        ),
        (draw.normal(3, 2), draw.normal(3, 2), 3 * draw.normal(3, 2)),
        (draw.normal(5, 3), draw.normal(5, 3), 3 * draw.normal(5, 3)),
        (draw.normal(4, 2).double(), draw.normal(4, 2).double(), draw.normal(4, 2).double()),
    ],
    mistakes={
        "The scores are not divided by the root of d.": lambda q, k, v: seen(q, k, v, lower(q), 1),
        "The scores are divided by d, and not by its root.": lambda q, k, v: seen(
            q, k, v, lower(q), q.size(1)
        ),
        "The scores are divided by the root of T. It is d that makes dot products grow.": lambda q, k, v: (
            seen(q, k, v, lower(q), math.sqrt(len(q)))
        ),
        "Every token sees all tokens, the later ones too. Token i may look at j = 0 .. i "
        "only.": lambda q, k, v: seen(q, k, v, lower(q, len(q))),
        "Token i does not look at itself: j should go up to i, with i included.": [
            without_itself,
            lambda q, k, v: torch.cat([v[:1], without_itself(q, k, v)[1:]]),
        ],
        "Token 0 looks at nothing, and a sum of no terms is the int 0, not a row. j should go up to i, with "
        "i included.": sums_of_nothing,
        "Token i also looks at the token right after it: j goes one too far.": lambda q, k, v: seen(
            q, k, v, lower(q, 1)
        ),
        "The total of the softmax counts the later tokens too, so a row of weights does not have the sum 1 "
        "and the future leaks in.": lambda q, k, v: (
            (softmax(q @ k.T / math.sqrt(q.size(1)), -1) * lower(q)) @ v
        ),
        "Later tokens have the score 0, and exp(0) is 1, so they still get a share. They should take no part "
        "at all.": [
            zero_scores,
            lambda q, k, v: zero_scores(q, k, v, 1),
        ],
        "Each row holds only the last of its terms, of j = i. The terms of all j should be added "
        "up.": overwritten,
        "The token with the largest score gives everything. A softmax lets each of them give its "
        "share.": hardest,
        "Queries and keys have changed places: token i should ask with q[i], and be asked by "
        "k[i].": lambda q, k, v: seen(k, q, v, lower(q)),
        "The weighted sum is over the keys. Keys are only for finding; what is handed over is in "
        "v.": lambda q, k, v: seen(q, k, k, lower(q)),
        "The exponentials are not divided by their sum, so they are not shares.": [
            unnormalised,
            lambda q, k, v: unnormalised(q, k, v, 1),
        ],
        "The scores themselves serve as weights. They should go through a softmax.": [
            lambda q, k, v: (q @ k.T / math.sqrt(q.size(1)) * lower(q)) @ v,
            lambda q, k, v: (q @ k.T * lower(q)) @ v,
            shares_of_scores,
        ],
        "The products of q[i] and k[j] are not added up, so each of the d numbers has weights of its own. A "
        "dot product is one number.": [
            number_by_number,
            lambda q, k, v: number_by_number(q, k, v, 1),
        ],
        "Every weight is multiplied by the asking token's own value, so nothing comes from the others. It "
        "should be v[j], of the token that is asked.": lambda q, k, v: v.clone(),
        "All seen tokens have the same weight, as in a plain mean. The weights should come from the "
        "scores.": lambda q, k, v: average_of_the_past(v),
        "The root of d divides the weights. It should divide the scores, before the "
        "softmax.": lambda q, k, v: seen(q, k, v, lower(q), 1) / math.sqrt(q.size(1)),
    },
    signs={
        "Row 0 of the output should be v[0]: the first token sees only itself, with the weight "
        "1.": lambda case, got, expected: not torch.allclose(got[0], case[2][0], atol=1e-4),
        "A weighted mean lies between the smallest and the largest of its values; here it does not. Do the "
        "weights of each row have the sum 1?": lambda case, got, expected: bool(
            ((got > case[2].amax(0) + 1e-3) | (got < case[2].amin(0) - 1e-3)).any()
        ),
    },
)


# ---------------------------------------------------------------- 3.5 attention by matrices


def weigh(scores, mask, fill=None, after=True):
    """The weights of scores under a mask: filled before the softmax, set to 0 after it."""
    if mask is None:
        return softmax(scores, -1)
    fill = torch.finfo(scores.dtype).min if fill is None else fill
    weights = softmax(scores.masked_fill(~mask, fill), -1)
    return weights.masked_fill(~mask, 0.0) if after else weights


def attention(weigh=weigh, root=lambda q, k: math.sqrt(q.size(-1))):
    """Attention with another way to weigh, or to scale."""

    def attend(q, k, v, mask=None):
        weights = weigh(q @ k.transpose(-2, -1) / root(q, k), mask)
        return weights @ v, weights

    return attend


def masked(change):
    """A way to weigh that is right without a mask, and change(scores, mask) with one."""
    return lambda scores, mask: softmax(scores, -1) if mask is None else change(scores, mask)


def late(scores, mask):
    return softmax(scores, -1) * mask


def late_divided(scores, mask):
    return late(scores, mask) / late(scores, mask).sum(-1, keepdim=True)


def late_divided_safely(scores, mask):
    return late(scores, mask) / late(scores, mask).sum(-1, keepdim=True).clamp(min=1e-9)


def late_divided_or_zero(scores, mask):
    return late_divided(scores, mask).nan_to_num(0.0)


def lowered(by, after):
    """A forbidden score becomes smaller by a fixed number."""

    def weigh(scores, mask):
        weights = softmax(scores - by * ~mask, -1)
        return weights * mask if after else weights

    return weigh


def overflowing(hide, divide):
    """A softmax by hand that subtracts nothing."""

    def weigh(scores, mask):
        exponentials = scores.exp() if mask is None else hide(scores.exp(), mask)
        return divide(exponentials, exponentials.sum(-1, keepdim=True))

    return weigh


def without_equal_weights(scores, mask):
    weights = weigh(scores, mask, after=False)
    return weights.masked_fill(weights.amax(-1, keepdim=True) == weights.amin(-1, keepdim=True), 0.0)


def over_queries(scores, mask):
    hidden = torch.zeros_like(scores, dtype=torch.bool) if mask is None else ~mask
    return softmax(scores.masked_fill(hidden, -1e9), -2).masked_fill(hidden, 0.0)


def scores_returned(fill=None):
    def attend(q, k, v, mask=None):
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
        if fill is not None and mask is not None:
            scores = scores.masked_fill(~mask, fill)
        return library.scaled_dot_product_attention(q, k, v, mask)[0], scores

    return attend


def small_attention():
    """One query, two keys, d = 4, and a value that says which key it is of."""
    q, k = torch.tensor([[4.0, 0.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    return q, k, torch.tensor([[10.0, 0.0, 0.0], [0.0, 20.0, 0.0]])


def two_keys(a, b, mask):
    """The query 1, and two keys whose scores are a and b."""
    mask = None if mask is None else torch.tensor([mask])
    return torch.tensor([[1.0]]), torch.tensor([[a], [b]]), torch.eye(2), mask


def doubled(q, k, v, mask):
    return q.double(), k.double(), v.double(), mask


def with_a_dead_text(q, k, v, mask):
    """The last text of the batch is all padding."""
    mask[-1] = False
    return q, k, v, mask


def drawn_attention(draw, front, T, S, d, e, mask_shape=None):
    """Drawn q, k, v and a mask of which every row lets something through."""
    q, k, v = draw.normal(*front, T, d), draw.normal(*front, S, d), draw.normal(*front, S, e)
    if mask_shape is None:
        return q, k, v, None
    mask = draw.normal(*mask_shape) > 0
    mask[..., 0], mask[..., 1] = True, False
    return q, k, v, mask


ATTENTION = Exercise(
    right=library.scaled_dot_product_attention,
    cases=lambda draw: [
        (*small_attention(), None),
        (*small_attention(), torch.tensor([[True, False]])),
        (*small_attention(), torch.tensor([[False, True]])),
        (*small_attention(), torch.tensor([[False, False]])),
        (
            torch.tensor([[0.0], [1.0]]),
            torch.tensor([[0.0], [1.0]]),
            torch.tensor([[10.0], [20.0]]),
            torch.tensor([[True, True], [False, False]]),
        ),
        two_keys(3000.0, 0.0, None),
        two_keys(0.0, 3000.0, [True, False]),
        two_keys(0.0, 200.0, [True, False]),
        two_keys(0.0, 60.0, [True, False]),
        two_keys(-3000.0, -3001.0, [True, False]),
        doubled(*two_keys(0.0, 300.0, [True, False])),
        drawn_attention(draw, (), 2, 3, 4, 5),
        drawn_attention(draw, (), 3, 4, 2, 5, (3, 4)),
        drawn_attention(draw, (2,), 4, 6, 7, 8),
        drawn_attention(draw, (2, 3), 4, 5, 6, 7, (1, 1, 4, 5)),
        with_a_dead_text(*drawn_attention(draw, (2, 3), 4, 5, 6, 7, (2, 1, 1, 5))),
    ],
    mistakes={
        "The scores are not divided by the root of d.": attention(root=lambda q, k: 1),
        "The scores are divided by d, and not by its root.": attention(root=lambda q, k: q.size(-1)),
        "The scores are divided by the root of another size. It should be d, the last one of q.": [
            attention(root=lambda q, k: math.sqrt(k.size(-2))),
            attention(root=lambda q, k: math.sqrt(q.size(-2))),
            lambda q, k, v, mask=None: attention(root=lambda q, k: math.sqrt(v.size(-1)))(q, k, v, mask),
        ],
        "The root of d divides the weights. It should divide the scores, before the "
        "softmax.": lambda q, k, v, mask=None: tuple(
            each / math.sqrt(q.size(-1)) for each in attention(root=lambda q, k: 1)(q, k, v, mask)
        ),
        "The softmax goes over the queries. Each row should have the sum 1, over the keys.": [
            attention(over_queries),
            attention(lambda scores, mask: softmax(scores, -2)),
        ],
        "The mask is upside down: True should mean that a query may look.": [
            attention(masked(lambda scores, mask: weigh(scores, ~mask))),
            attention(masked(lambda scores, mask: weigh(scores, ~mask, after=False))),
            attention(masked(lambda scores, mask: weigh(scores, ~mask, -math.inf, after=False))),
            attention(masked(lambda scores, mask: weigh(scores, ~mask).masked_fill(~mask, 0.0))),
        ],
        "The mask is not used.": attention(lambda scores, mask: softmax(scores, -1)),
        "The mask comes after the softmax, so the total still counts what is forbidden and a row does not "
        "have the sum 1.": attention(masked(late)),
        "The mask comes after the softmax, and each row is divided by its sum. If the forbidden score is "
        "the large one, nothing is left to divide.": [
            attention(masked(late_divided)),
            attention(masked(late_divided_safely)),
            attention(masked(late_divided_or_zero)),
        ],
        "The exponentials overflow: exp of a large score is infinite. torch.softmax subtracts the largest "
        "score of each row first.": [
            attention(overflowing(hide, divide))
            for hide in (torch.mul, lambda e, mask: e.masked_fill(~mask, 0.0))
            for divide in (
                torch.div,
                lambda e, total: torch.where(total > 0, e / total, 0.0),
                lambda e, total: (e / total).nan_to_num(0.0),
            )
        ],
        "A forbidden score becomes smaller by a fixed number, and a large one stays above the others. Put "
        "the lowest number in its place.": [
            attention(masked(lowered(100.0, after=True))),
            attention(masked(lowered(100.0, after=False))),
            attention(masked(lowered(1000.0, after=True))),
        ],
        "The number in place of a forbidden score is not low enough: an allowed score may lie below it. Take "
        "minus infinity, or the lowest finite number.": [
            attention(masked(lambda scores, mask: weigh(scores, mask, -50.0))),
            attention(masked(lambda scores, mask: weigh(scores, mask, -50.0, after=False))),
        ],
        "A forbidden score becomes 0, or nearly. Its exponential is 1, so it still gets a share: it has to "
        "be very negative.": [
            attention(masked(lambda scores, mask: softmax(scores * mask, -1))),
            attention(masked(lambda scores, mask: weigh(scores * mask, mask, 0.0))),
        ],
        "A row that may see nothing is NaN: infinity minus infinity. Its weights should be 0.": attention(
            masked(lambda scores, mask: weigh(scores, mask, -math.inf, after=False))
        ),
        "A row that may see nothing looks evenly at what is forbidden. Its weights should be 0.": attention(
            masked(lambda scores, mask: weigh(scores, mask, after=False))
        ),
        "A row of equal weights is taken for one that may see nothing. Equal scores give equal weights "
        "too.": attention(masked(without_equal_weights)),
        "The weights and the output have changed places: the output comes "
        "first.": lambda q, k, v, mask=None: library.scaled_dot_product_attention(q, k, v, mask)[::-1],
        "The second result should be the weights, after the softmax. These are the scores.": [
            scores_returned(),
            scores_returned(-math.inf),
            scores_returned(-1e9),
            scores_returned(torch.finfo(torch.float32).min),
        ],
    },
    signs={
        "The weights of a row that may see nothing are not a number (NaN). They should be 0, as the output "
        "is.": lambda case, got, expected: bool(
            got[1][~case[3].expand_as(got[1]).any(-1)].isnan().any() and not got[0].isnan().any()
        ),
        "A forbidden key has a weight. Where the mask is False the weight should be "
        "0.": lambda case, got, expected: bool((got[1] * ~case[3]).any()),
        "A key that may be seen has the weight 0. Without a mask every query sees every "
        "key.": lambda case, got, expected: (
            case[3] is None
            and bool(((got[1] == 0) & (expected[1] > 1e-6)).any())
            and torch.allclose(got[1].sum(-1), expected[1].sum(-1))
        ),
        "A key has the weight 0 although the mask allows it.": lambda case, got, expected: (
            case[3] is not None and bool(((got[1] == 0) & (expected[1] > 1e-6)).any())
        ),
        "Even without a mask the weights are wrong, as they are for scores that nothing "
        "divides.": lambda case, got, expected: (
            case[3] is None
            and torch.allclose(got[1], softmax(case[0] @ case[1].transpose(-2, -1), -1), atol=1e-4)
        ),
        "Each row of weights should have the sum 1, unless it may see nothing.": lambda case, got, expected: (
            not torch.allclose(got[1].sum(-1), expected[1].sum(-1))
        ),
        "The weights are right, and the output is not their product with v.": lambda case, got, expected: (
            torch.allclose(got[1], expected[1], atol=1e-4)
        ),
    },
)


# ---------------------------------------------------------------- 3.6 heads


def both_ways(answer, x, head_dim, heads):
    split, join = answer
    return {"split_heads(x, head_dim)": split(x, head_dim), "join_heads(heads)": join(heads)}


def cut(x, head_dim):
    """(B, T, H * d) -> (B, T, H, d)."""
    return x.reshape(*x.shape[:2], -1, head_dim)


def straight(x, head_dim):
    return x.reshape(x.size(0), -1, x.size(1), head_dim)


def straight_back(x):
    return x.reshape(x.size(0), x.size(2), -1)


def interleaved(x, head_dim):
    return x.reshape(*x.shape[:2], head_dim, -1).permute(0, 3, 1, 2)


def interleaved_back(x):
    return x.permute(0, 2, 3, 1).flatten(-2)


def heads_case(x, head_dim):
    """A case of the two functions: the heads are the numbers of x in another order, one after the other."""
    return x, head_dim, (100 - split_heads(x, head_dim)).contiguous()


WRONG_JOINS = {
    "join_heads goes straight to the final shape, which strings together what belongs to different tokens. "
    "Swap head and position first.": straight_back,
    "join_heads lets the numbers of the heads take turns. The d numbers of one head should stay next to "
    "each other.": interleaved_back,
    "join_heads adds the heads up. They should stand next to each other, H · d numbers.": lambda x: x.sum(
        dim=1
    ),
    "join_heads takes the mean of the heads. They should stand next to each other, H · d "
    "numbers.": lambda x: x.mean(dim=1),
}


def with_any_join(split):
    """A wrong split_heads is named whatever join_heads does."""
    return [(split, join) for join in (join_heads, *WRONG_JOINS.values())]


def other_numbers(key, got, expected):
    """Whether a result is of the right dtype, and not the right numbers in some order."""
    mine, right = got[key], expected[key]
    return mine.dtype == right.dtype and not torch.equal(mine.flatten().sort()[0], right.flatten().sort()[0])


HEADS = Exercise(
    right=(split_heads, join_heads),
    run=both_ways,
    cases=lambda draw: [
        heads_case(torch.tensor([[[0.0, 1.0, 2.0, 3.0]]]), 2),
        heads_case(torch.arange(8.0).view(1, 2, 4), 2),
        heads_case(torch.arange(9.0).view(1, 3, 3), 1),
        heads_case(torch.arange(12.0).view(2, 1, 6), 2),
        heads_case(draw.normal(2, 3, 20), 5),
        heads_case(draw.normal(3, 4, 10), draw.choice([2, 5])),
        heads_case(draw.normal(2, 3, 8).double(), 4),
    ],
    mistakes={
        "split_heads goes straight to the final shape, which cuts between tokens: a head gets pieces of "
        "the wrong tokens. Cut the last dimension only, then swap position and head.": with_any_join(
            straight
        ),
        "split_heads takes head_dim for the number of heads. It is the length of each piece.": [
            *with_any_join(lambda x, head_dim: cut(x, x.size(-1) // head_dim).transpose(1, 2)),
            *with_any_join(lambda x, head_dim: straight(x, x.size(-1) // head_dim)),
        ],
        "split_heads deals the numbers out in turn. A head should get head_dim numbers that are "
        "neighbours.": with_any_join(interleaved),
        "split_heads stops at (B, T, H, d). The head should come before the position: (B, H, T, "
        "d).": with_any_join(cut),
        "split_heads puts the heads before the batch. The batch comes first: (B, H, T, d).": with_any_join(
            lambda x, head_dim: cut(x, head_dim).permute(2, 0, 1, 3)
        ),
        **{words: (split_heads, join) for words, join in WRONG_JOINS.items()},
    },
    signs={
        "split_heads has other numbers in its result than in x. It should only put them in another "
        "order.": lambda case, got, expected: other_numbers("split_heads(x, head_dim)", got, expected),
        "join_heads has other numbers in its result than in x. It should only put them in another "
        "order.": lambda case, got, expected: other_numbers("join_heads(heads)", got, expected),
    },
)


# ---------------------------------------------------------------- 3.7 grouped queries


def grouped_attention(q, k, v):
    return fused_attention(q, k, v)


def shared(spread_k, spread_v=None):
    """Attention whose k and v get as many heads as q by spread(t, times)."""

    def attend(q, k, v):
        times = q.size(1) // k.size(1)
        return F.scaled_dot_product_attention(q, spread_k(k, times), (spread_v or spread_k)(v, times))

    return attend


def in_blocks(t, times):
    return t.repeat_interleave(times, dim=1)


def in_turn(t, times):
    return t.repeat(1, times, 1, 1)


def mean_of_heads(t, times):
    return t.mean(dim=1, keepdim=True).expand(-1, times * t.size(1), -1, -1)


def first_head(t, times):
    return t[:, :1].expand(-1, times * t.size(1), -1, -1)


def mean_queries(q, k, v):
    groups = q.unflatten(1, (k.size(1), -1))  # (B, H, T, d) -> (B, Hkv, H / Hkv, T, d)
    q = groups.mean(2, keepdim=True).expand_as(groups).flatten(1, 2)
    return fused_attention(q, k, v)


def all_keys(q, k, v):
    k, v = (t.flatten(1, 2)[:, None].expand(-1, q.size(1), -1, -1) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v)


def by_hand(q, k, v, root):
    k, v = (in_blocks(t, q.size(1) // t.size(1)) for t in (k, v))
    return softmax(q @ k.transpose(-2, -1) / root, -1) @ v


def over_the_queries(q, k, v):
    k, v = (in_blocks(t, q.size(1) // t.size(1)) for t in (k, v))
    return softmax(q @ k.transpose(-2, -1) / math.sqrt(q.size(-1)), -2) @ v


def wrong_quotient(q, k, v):
    heads = [head // k.size(1) for head in range(q.size(1))]
    k, v = (torch.stack([t[:, head] for head in heads], dim=1) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v)


def one_by_one(q, k, v):
    """Query head h takes key/value head h as long as there is one, and then the last."""
    heads = torch.arange(q.size(1)).clamp(max=k.size(1) - 1)
    return F.scaled_dot_product_attention(q, k[:, heads], v[:, heads])


def fewest_heads(q, k, v):
    return F.scaled_dot_product_attention(q[:, : k.size(1)], k, v)


def top_left(q, k, v):
    """As is_causal=True has it: the first query at the first key."""
    k, v = (in_blocks(t, q.size(1) // t.size(1)) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def drawn_groups(draw, B, H, Hkv, T, S, d):
    return draw.normal(B, H, T, d), draw.normal(B, Hkv, S, d), 3 * draw.normal(B, Hkv, S, d)


GROUPS = Exercise(
    right=grouped_attention,
    cases=lambda draw: [
        (torch.zeros(1, 4, 1, 1), torch.zeros(1, 2, 1, 1), torch.tensor([10.0, 20.0]).view(1, 2, 1, 1)),
        (torch.zeros(1, 6, 1, 1), torch.zeros(1, 2, 1, 1), torch.tensor([10.0, 20.0]).view(1, 2, 1, 1)),
        (
            torch.tensor([1.0, 2.0, 1.0, 2.0]).view(1, 4, 1, 1),
            torch.tensor([[0.0, 1.0], [2.0, 0.0]]).view(1, 2, 2, 1),
            torch.tensor([[10.0, 20.0], [30.0, 40.0]]).view(1, 2, 2, 1),
        ),
        drawn_groups(draw, 1, 2, 2, 5, 6, 5),
        drawn_groups(draw, 2, 3, 1, 4, 7, 5),
        drawn_groups(draw, 2, 6, 3, 4, 5, 7),
        drawn_groups(draw, 2, 6, 2, 5, 7, 3),
    ],
    mistakes={
        "The query heads take the key/value heads in turn: 0, 1, 0, 1. Neighbours should share: 0, 0, 1, "
        "1.": shared(in_turn),
        "The heads of k are in another order than those of v. A query head should take keys and values "
        "from the same head.": [shared(in_blocks, in_turn), shared(in_turn, in_blocks)],
        "Every query head looks into the first key/value head.": shared(first_head),
        "The first query heads get a key/value head each, and all others the last one. Neighbours should "
        "share one: 0, 0, 1, 1.": one_by_one,
        "Each key/value head is repeated Hkv times. H // Hkv query heads share it, so it should occur that "
        "often.": shared(lambda t, times: t.repeat_interleave(t.size(1), dim=1)),
        "Each key/value head is repeated twice, whatever H and Hkv are. H // Hkv query heads share "
        "it.": shared(lambda t, times: t.repeat_interleave(2, dim=1)),
        "The key/value heads are averaged, so all query heads see the same. Each group should have its "
        "own.": shared(mean_of_heads),
        "The query heads of a group are averaged, so they all ask the same. Only keys and values are "
        "shared.": mean_queries,
        "Each query head looks into the keys of all heads, in one softmax. It should look into one "
        "head.": all_keys,
        "Some keys are hidden from the queries. There is no mask here: every query sees every key.": [
            top_left,
            lambda q, k, v: fused_attention(q, k, v, causal=True),
        ],
        "The scores are not divided by the root of d.": lambda q, k, v: by_hand(q, k, v, 1),
        "The scores are divided by d, and not by its root.": lambda q, k, v: by_hand(q, k, v, q.size(-1)),
        "The softmax goes over the queries. Each query should have weights with the sum 1, over the "
        "keys.": over_the_queries,
        "Query head h looks into head h // Hkv. As many query heads share a head as H // Hkv says, so divide "
        "h by that.": wrong_quotient,
        "Only the first Hkv of the query heads are used. The result should have all H of them.": fewest_heads,
    },
    signs={
        "Some heads are right and others are not. Query head h should look into key/value head h // (H // "
        "Hkv).": lambda case, got, expected: any(
            torch.allclose(a, b, atol=1e-4) for a, b in zip(got.unbind(1), expected.unbind(1))
        ),
        "The values come from other heads. Query head h should take keys and values from head h // (H // "
        "Hkv).": lambda case, got, expected: (
            case[1].size(2) == 1 and bool((got[..., None] == case[2].flatten()).any(-1).all())
        ),
        "Where there is only one key, its value should come out, whatever the query "
        "is.": lambda case, got, expected: case[1].size(2) == 1,
        "With one key/value head for every query head it should be ordinary "
        "attention.": lambda case, got, expected: case[0].size(1) == case[1].size(1),
    },
)


# ---------------------------------------------------------------- 3.8 the sliding window


def distances(T):
    return torch.arange(T)[:, None] - torch.arange(T)


def wrapped(T, window):
    """Positions before the start are counted from the end, as an index does."""
    mask = torch.zeros(T, T, dtype=torch.bool)
    for i in range(T):
        for back in range(window):
            mask[i, i - back] = True
    return mask


WINDOW = Exercise(
    right=sliding_window_mask,
    cases=lambda draw: [
        (1, 1),
        (2, 1),
        (3, 1),
        (3, 2),
        (5, 2),
        (6, 3),
        (3, 5),
        (draw.whole(9, 12), draw.whole(2, 4)),
        (draw.whole(11, 13), draw.whole(3, 5)),
    ],
    mistakes={
        "Each query sees one key too many: its own position is one of the `window`.": lambda T, window: (
            sliding_window_mask(T, window + 1)
        ),
        "Each query sees one key too few, the one furthest back.": lambda T, window: (
            causal_mask(T) & (distances(T) < window - 1)
        ),
        "A query does not see its own position, which should count as one of the `window`.": [
            lambda T, window: (distances(T) > 0) & (distances(T) < window),
            lambda T, window: (distances(T) > 0) & (distances(T) <= window),
        ],
        "The window reaches into the future too. It should end at the query's own position.": [
            lambda T, window: distances(T).abs() < window,
            lambda T, window: distances(T).abs() <= window,
            lambda T, window: distances(T) < window,
        ],
        "The window lies in the future: rows are queries, columns are keys, and the past is on the "
        "left.": lambda T, window: sliding_window_mask(T, window).T,
        "There is no window: this is the causal mask, and sees all of the past.": lambda T, window: (
            causal_mask(T)
        ),
        "True should mean that a query may look; here it means that it may not.": lambda T, window: (
            ~sliding_window_mask(T, window)
        ),
        "What is far back can be seen and what is near cannot: the comparison with `window` is the wrong "
        "way round.": [
            lambda T, window: distances(T) >= window,
            lambda T, window: distances(T) > window,
        ],
        "The text is cut into blocks of `window` positions. The window should move along with each "
        "query.": lambda T, window: (
            causal_mask(T) & (torch.arange(T)[:, None] // window == torch.arange(T) // window)
        ),
        "Every query sees the first `window` positions. The window should end at the query's own.": [
            lambda T, window: causal_mask(T) & (torch.arange(T) < window),
            lambda T, window: (torch.arange(T) < window).expand(T, T),
        ],
        "From a window of 2 on nothing is seen: the diagonal that cuts off the far past is moved up. It "
        "should move down, with a negative number.": lambda T, window: causal_mask(T).triu(window - 1),
        "Near the start an index is negative, and so counts from the end: the first queries see the last "
        "keys. Leave these positions out.": wrapped,
        "A single key is seen in each row. All of the last `window` positions should be.": lambda T, window: (
            distances(T) == window - 1
        ),
        "The table holds numbers; make it bool, with True where a query may look.": [
            lambda T, window: sliding_window_mask(T, window).float(),
            lambda T, window: sliding_window_mask(T, window).long(),
            lambda T, window: torch.zeros(T, T).masked_fill(~sliding_window_mask(T, window), -math.inf),
        ],
    },
    signs={
        "No key is seen at all. Can both conditions hold at once?": lambda case, got, expected: not got.any(),
        "Some query may see a key after it. Above the diagonal everything should be "
        "False.": lambda case, got, expected: bool((got & ~causal_mask(case[0])).any()),
        "The first rows are wrong: where there are fewer than `window` positions, all of them are "
        "seen.": lambda case, got, expected: (
            not torch.equal(got[: case[1]], expected[: case[1]])
            and torch.equal(got[case[1] :], expected[case[1] :])
        ),
        "Some query sees more than `window` keys.": lambda case, got, expected: bool(
            (got.sum(-1) > case[1]).any()
        ),
        "Some query sees fewer keys than it may.": lambda case, got, expected: bool(
            (got.sum(-1) < expected.sum(-1)).any()
        ),
    },
)


# ---------------------------------------------------------------- 3.9 multi-head attention


def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads):
    with torch.device("meta"):  # a layer without numbers of its own
        layer = library.MultiHeadAttention(x.size(-1), n_heads, head_dim=w_q.size(0) // n_heads)
    names = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "out_proj.weight")
    return functional_call(layer, dict(zip(names, (w_q, w_k, w_v, w_o))), (x,))


def triangle(scores, diagonal=0):
    return torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril(diagonal)


def causal_weights(scores):
    return weigh(scores, triangle(scores))


def layer(
    project=F.linear, out=F.linear, split=split_heads, weights=causal_weights, root="d", join=join_heads
):
    """A multi-head layer in which something may be done in another way."""

    def attend(x, w_q, w_k, w_v, w_o, n_heads):
        head_dim = w_q.size(0) // n_heads
        divisor = {"d": head_dim, "D": x.size(-1), "T": x.size(1), "1": 1, "d²": head_dim**2, "H": n_heads}[
            root
        ]
        q, k, v = (split(project(x, w), head_dim) for w in (w_q, w_k, w_v))
        scores = q @ k.transpose(-2, -1) / math.sqrt(divisor)
        return out(join(weights(scores) @ v), w_o)

    return attend


def untransposed(x, w):
    """x @ w where that fits."""
    return x @ w if w.size(0) == w.size(1) else x @ w.T


def d_model_cut(x, w_q, w_k, w_v, w_o, n_heads):
    """The right layer for H * d = D; otherwise it stops with PyTorch's error."""
    w_q, w_k, w_v, w_o = (w.view(x.size(-1), x.size(-1)) for w in (w_q, w_k, w_v, w_o))
    return multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads)


def several(**options):
    """The same mistake with other options, for the ways in which it is made in several places at once."""
    names = list(options)
    choices = [dict()]
    for name in names:
        choices = [{**choice, name: option} for choice in choices for option in options[name]]
    return [layer(**choice) for choice in choices]


def slices_of_x(x, *arguments):
    """Head h projects only the numbers of x that would be its own if x were cut like the queries."""
    matrices, n_heads = arguments[:3], arguments[4]
    d = x.size(-1) // n_heads
    inside = [torch.arange(size, device=x.device) // d for size in matrices[0].shape]
    cut = [w * (inside[0][:, None] == inside[1]) for w in matrices]
    return multi_head_attention(x, *cut, *arguments[3:])


def swapped(a, b):
    """The layer with two of its matrices in each other's place."""

    def attend(x, *arguments):
        matrices, n_heads = list(arguments[:4]), arguments[4]
        matrices[a], matrices[b] = matrices[b], matrices[a]
        return multi_head_attention(x, *matrices, n_heads)

    return attend


def drawn_layer(draw, B, T, D, n_heads, head_dim):
    width = n_heads * head_dim
    x, into = draw.normal(B, T, D), [draw.normal(width, D) / math.sqrt(D) * 2 for _ in range(3)]
    return x, *into, draw.normal(D, width) / math.sqrt(width), n_heads


def small_layer(n_heads):
    """A layer of three tokens with two numbers each; no two of its matrices are equal."""
    x = torch.tensor([[[1.0, 1.0], [0.0, 2.0], [1.0, -1.0]]])
    w_q, w_k = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    w_v, w_o = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[1.0, -1.0], [0.0, 2.0]])
    return x, w_q, w_k, w_v, w_o, n_heads


def two_tokens(a, b):
    """One number a token; the first token's score for itself is -a * a, and for the other one -a * b."""
    one = torch.tensor([[1.0]])
    return torch.tensor([[[a], [b]]]), -one, one, one, one, 1


def one_token(w_v, w_o):
    return torch.tensor([[[1.0, 0.0]]]), torch.eye(2), torch.eye(2), w_v, w_o, 1


MULTI_HEAD = Exercise(
    right=multi_head_attention,
    cases=lambda draw: [
        one_token(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.eye(2)),
        one_token(torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
        small_layer(1),
        two_tokens(60.0, 1.0),
        two_tokens(60.0, 61.0),
        small_layer(2),
        drawn_layer(draw, 2, 5, 8, 4, 2),
        drawn_layer(draw, 3, 4, 10, 2, 5),
        drawn_layer(draw, 2, 4, 8, 2, 3),
    ],
    mistakes={
        "x is multiplied by the matrices as they are. They are stored as (out, in), so their transposes "
        "are needed.": several(project=[untransposed], out=[untransposed, F.linear]),
        "The last product takes w_o as it is. It is stored as (out, in), so its transpose is needed.": layer(
            out=untransposed
        ),
        "The product with w_o is missing at the end.": layer(out=lambda y, w: y),
        "There is no causal mask: every token sees the later ones.": layer(
            weights=lambda scores: softmax(scores, -1)
        ),
        "The mask is upside down: each token sees the future only.": [
            layer(weights=lambda scores: weigh(scores, ~triangle(scores))),
            layer(weights=lambda scores: weigh(scores, ~triangle(scores), after=False)),
            layer(weights=lambda scores: weigh(scores, ~triangle(scores), -math.inf, after=False)),
            layer(weights=lambda scores: weigh(scores, ~triangle(scores, -1))),
        ],
        "No token sees itself: the diagonal of the mask should be allowed.": [
            layer(weights=lambda scores: weigh(scores, triangle(scores, -1))),
            layer(weights=lambda scores: weigh(scores, triangle(scores, -1), after=False)),
            layer(weights=lambda scores: weigh(scores, triangle(scores, -1), -math.inf, after=False)),
        ],
        "The mask comes after the softmax, so its total counts the future and leaks it.": layer(
            weights=lambda scores: softmax(scores, -1) * triangle(scores)
        ),
        "The mask comes after the softmax, and each row is divided by its sum. If the future has the large "
        "score, nothing is left to divide.": [
            layer(weights=lambda scores, divide=divide: divide(scores, triangle(scores)))
            for divide in (late_divided, late_divided_or_zero, late_divided_safely)
        ],
        "The exponentials of large scores are infinite, and those of very low ones all 0. torch.softmax "
        "subtracts the largest score of each row first.": layer(
            weights=lambda scores: overflowing(torch.mul, torch.div)(scores, triangle(scores))
        ),
        "A forbidden score becomes 0, or nearly, and exp(0) is 1: it still gets a share.": layer(
            weights=lambda scores: softmax(scores * triangle(scores), -1)
        ),
        "The number in place of a forbidden score is not low enough: an allowed score may lie below it. Take "
        "minus infinity.": [
            layer(weights=lambda scores, fill=fill, after=after: weigh(scores, triangle(scores), fill, after))
            for fill, after in ((-50.0, False), (-50.0, True), (-10.0, False))
        ],
        "Each token also sees the one right after it: the diagonal of the mask is one too far up.": layer(
            weights=lambda scores: weigh(scores, triangle(scores, 1))
        ),
        "The weights lie on their side. Row i should hold the weights of query i, and mix the values that it "
        "sees.": layer(weights=lambda scores: causal_weights(scores).transpose(-2, -1)),
        "The softmax goes over the heads. It should go over the keys, the last dimension.": [
            layer(weights=lambda scores: softmax(scores.masked_fill(~triangle(scores), -1e9), 1)),
            layer(weights=lambda scores: softmax(scores.masked_fill(~triangle(scores), -math.inf), 1)),
        ],
        "The softmax goes over the queries. It should go over the keys, the last dimension.": layer(
            weights=lambda scores: softmax(scores.masked_fill(~triangle(scores), -1e9), -2)
        ),
        "The scores are not divided by the root of d.": layer(root="1"),
        "The scores are divided by d, and not by its root.": layer(root="d²"),
        "The scores are divided by the root of d_model. Each head has vectors of head_dim numbers.": layer(
            root="D"
        ),
        "The heads are cut by going straight to (B, H, T, d), which mixes up the tokens. Cut the last "
        "dimension first, then swap position and head.": several(
            split=[straight], join=[join_heads, straight_back]
        ),
        "The heads are joined by going straight to the final shape, which mixes up the tokens. Swap head "
        "and position first.": layer(join=straight_back),
        "The numbers are dealt out to the heads in turn. A head should get d numbers that are "
        "neighbours.": several(split=[interleaved], join=[join_heads, interleaved_back]),
        "In the end the numbers of the heads take turns. The d numbers of one head should stay next to each "
        "other.": layer(join=interleaved_back),
        "Each head gets a slice of x. It should get all D numbers; what is cut are the queries, keys and "
        "values.": slices_of_x,
        "n_heads is used as the length of a head. It is how many there are.": several(
            split=[lambda x, d: split_heads(x, x.size(-1) // d)], root=["H", "d"]
        ),
        "There is only one head: all numbers go into one softmax.": [
            layer(split=lambda x, d: x[:, None]),
            layer(split=lambda x, d: x[:, None], root="D"),
        ],
        "H · d is taken to be D, and need not be: head_dim is the number of rows of w_q, divided by "
        "n_heads.": d_model_cut,
        "The heads of one token look at each other. Swap head and position first, so that the tokens do.": [
            layer(split=cut, join=lambda y: y.flatten(-2)),
            layer(split=cut, join=lambda y: y.flatten(-2), weights=lambda scores: softmax(scores, -1)),
        ],
        "Queries and keys have changed places.": swapped(0, 1),
        "Keys and values have changed places.": swapped(1, 2),
        "The queries serve as keys too. Keys have a matrix of their own, "
        "w_k.": lambda x, w_q, w_k, w_v, w_o, n_heads: multi_head_attention(x, w_q, w_q, w_v, w_o, n_heads),
        "The keys serve as values too. Values have a matrix of their own, "
        "w_v.": lambda x, w_q, w_k, w_v, w_o, n_heads: multi_head_attention(x, w_q, w_k, w_k, w_o, n_heads),
    },
    signs={
        "A single token should give x times w_v transposed, times w_o transposed, whatever the scores "
        "are.": lambda case, got, expected: case[0].size(1) == 1,
        "It is right where H · d is D, and wrong here, where it is not. Where does it use D instead of H · "
        "d?": lambda case, got, expected: case[1].size(0) != case[0].size(-1),
        "It is right with one head. With several something is wrong: how they are cut, or how they are "
        "joined.": lambda case, got, expected: case[5] > 1,
        "The first token is wrong already. It sees only itself, so its output is its value, times "
        "w_o.": lambda case, got, expected: not torch.allclose(got[:, 0], expected[:, 0], atol=1e-4),
        "The first token is right and later ones are not. Look at the scores, the mask and the "
        "softmax.": lambda case, got, expected: torch.allclose(got[:, 0], expected[:, 0], atol=1e-4),
    },
)


# ---------------------------------------------------------------- 3.10 padding and a cache


def batch_mask(real, T):
    return causal_mask(T, real.size(1), real.device)[None, None] & real[:, None, None]


def causal(real, T, diagonal=None):
    """(1, 1, T, S): the triangle whose last query stands at the last key, or with another diagonal."""
    S = real.size(1)
    diagonal = S - T if diagonal is None else diagonal
    return torch.ones(1, 1, T, S, dtype=torch.bool, device=real.device).tril(diagonal)


def spread(mask, real, T):
    return mask.expand(real.size(0), 1, T, real.size(1))


def keys_of(real):
    return real[:, None, None]


def queries_of(real, T):
    return real[:, None, real.size(1) - T :, None]


def bools(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def drawn_batch(draw, B, S, T):
    """Texts of which the first is padded at its start, the second at its end, and the third is all real."""
    real = draw.normal(B, S) > -0.5
    real[0, 0], real[0, -1], real[1, -1], real[1, 0], real[2] = False, True, False, True, True
    return real, T


BATCH_MASK = Exercise(
    right=batch_mask,
    cases=lambda draw: [
        (bools([1]), 1),
        (bools([1, 1]), 2),
        (bools([1, 1]), 1),
        (bools([1, 1, 1]), 3),
        (bools([1, 0]), 2),
        (bools([0, 1]), 2),
        (bools([0, 1, 1, 1]), 2),
        (bools([0, 1, 1], [1, 1, 0]), 3),
        drawn_batch(draw, 3, 6, 4),
        drawn_batch(draw, 4, 5, 5),
        drawn_batch(draw, 3, 7, 3),
    ],
    mistakes={
        "Only padding is hidden, so every query sees the future. Combine it with the causal "
        "rule.": lambda real, T: spread(keys_of(real), real, T),
        "Only the future is hidden. Padding can be seen.": lambda real, T: spread(causal(real, T), real, T),
        "The two rules are joined by *or*. A key has to be real *and* not in the future.": lambda real, T: (
            causal(real, T) | keys_of(real)
        ),
        "The first query stands at the first key. The queries are the last T positions, so the last one "
        "stands at the last key.": lambda real, T: causal(real, T, 0) & keys_of(real),
        "Query i is taken to stand at position T + i. The queries are the last T of S positions, so it "
        "stands at S - T + i.": lambda real, T: causal(real, T, T) & keys_of(real),
        "All texts get the mask of one of them. Each should have its own.": [
            lambda real, T: spread(causal(real, T) & keys_of(real[:1]), real, T),
            lambda real, T: spread(causal(real, T) & keys_of(real[-1:]), real, T),
        ],
        "A position counts as real when any text has a token there. Each text should have its own "
        "padding.": lambda real, T: spread(causal(real, T) & keys_of(real.any(dim=0, keepdim=True)), real, T),
        "A query does not see its own position.": lambda real, T: (
            causal(real, T, real.size(1) - T - 1) & keys_of(real)
        ),
        "A query sees the key right after it too.": lambda real, T: (
            causal(real, T, real.size(1) - T + 1) & keys_of(real)
        ),
        "The rows of padding are emptied, and padding can be seen: `real` should decide about columns, "
        "which are keys.": lambda real, T: causal(real, T) & queries_of(real, T),
        "The rows of padding are emptied too. They follow the same rule as the others: only keys are "
        "hidden.": lambda real, T: batch_mask(real, T) & queries_of(real, T),
        "True should mean that a query may look; here it means that it may not.": lambda real, T: (
            ~batch_mask(real, T)
        ),
        "True in `real` is taken for padding. It stands for a real token.": lambda real, T: (
            causal(real, T) & keys_of(~real)
        ),
        "The table lies on its side, with the past hidden and the future in sight. Rows are queries and "
        "columns are keys.": lambda real, T: (
            torch.ones_like(causal(real, T)).triu(real.size(1) - T) & keys_of(real)
        ),
        "The dimension for the heads is missing: the shape should be (B, 1, T, S), with a "
        "1.": lambda real, T: batch_mask(real, T)[:, 0],
        "A position counts as padding when any text has padding there. Each text should have its own "
        "mask.": lambda real, T: spread(causal(real, T) & keys_of(real.all(dim=0, keepdim=True)), real, T),
        "The columns are the queries' own positions only. There should be one for each of the S "
        "keys.": lambda real, T: batch_mask(real, T)[..., real.size(1) - T :],
        "There is a row for each of the S positions. Only the last T of them ask.": lambda real, T: (
            batch_mask(real, real.size(1))
        ),
        "The table holds numbers; make it bool, with True where a query may look.": [
            lambda real, T: batch_mask(real, T).float(),
            lambda real, T: batch_mask(real, T).long(),
            lambda real, T: torch.zeros(batch_mask(real, T).shape, device=real.device).masked_fill(
                ~batch_mask(real, T), -math.inf
            ),
        ],
    },
    signs={
        "Some query sees padding.": lambda case, got, expected: bool((got & ~keys_of(case[0])).any()),
        "Some query sees a key after its own position. Query i stands at position S - T + "
        "i.": lambda case, got, expected: bool((got & ~causal(*case)).any()),
        "Some query does not see a key that is real and not after it.": lambda case, got, expected: bool(
            (expected & ~got).any()
        ),
    },
)

# ---------------------------------------------------------------- 3.11 heads that look back

PREVIOUS, INDUCTION = "previous_token_scores(maps)", "induction_scores(repeated, n)"


def both_scores(answer, maps, repeated, n):
    score_previous, score_induction = answer
    return {PREVIOUS: score_previous(maps), INDUCTION: score_induction(repeated, n)}


def weights_back(maps, first, last, back):
    """What the queries first .. last give to the key `back` places before: (L, H, last - first + 1)."""
    t = torch.arange(first, last + 1, device=maps.device)
    return maps[..., t, t - back]


def previous_token_scores(maps):
    return weights_back(maps, 1, maps.size(-1) - 1, 1).mean(dim=-1)


def induction_scores(maps, n):
    return weights_back(maps, n, 2 * n - 1, n - 1).mean(dim=-1)


def previous(first=1, last=-1, back=1, end=lambda weights: weights.mean(dim=-1)):
    """Previous-token scores from other queries, of another key, or with another end than the mean."""
    return lambda maps: end(weights_back(maps, first, maps.size(-1) + last, back))


def induction(first=0, last=-1, back=-1, end=lambda weights, n: weights.mean(dim=-1)):
    """The same for induction scores, counted from n, 2n and n."""
    return lambda maps, n: end(weights_back(maps, n + first, 2 * n + last, n + back), n)


def with_inductions(*wrong, alike=()):
    """A wrong previous_token_scores is named with what often goes with it in the other function."""
    others = (induction_scores, induction(first=-1), induction(back=0), *alike)
    return [(one, other) for one in wrong for other in others]


def with_previous(*wrong):
    return [(previous_token_scores, one) for one in wrong]


OTHER_MEANS = [  # of (L, H, n), none of which leaves (L, H)
    lambda weights, n=None: weights.mean(dim=0),
    lambda weights, n=None: weights.mean(dim=1),
    lambda weights, n=None: weights.mean(dim=(0, 1)),
    lambda weights, n=None: weights.mean(),
    lambda weights, n=None: weights,
]


def nothing_of(maps, n=None):
    return torch.zeros_like(maps[..., 0, 0])


def first_two(maps, n=2):
    return maps.diagonal(offset=1 - n).mean(dim=-1)


def second_half(maps):
    T = maps.size(-1)
    return weights_back(maps, max(T // 2, 1), T - 1, 1).mean(dim=-1)


def example_map():
    """The map of six tokens that the exercise shows as an example."""
    rows = [[1.0], [0.4, 0.6], [0.1, 0.7, 0.2], [0.1, 0.6, 0.1, 0.2], [0.0, 0.1, 0.8, 0.1]]
    rows.append([0.2, 0.1, 0.0, 0.4, 0.2, 0.1])
    return torch.tensor([[row + [0.0] * (6 - len(row)) for row in rows]])[None]


def drawn_maps(draw, L, H, T):
    scores = 2 * draw.normal(L, H, T, T)
    return softmax(scores.masked_fill(~causal_mask(T, T), -math.inf), -1)


def is_off(key, got, expected):
    """Whether a result has the right shape and dtype and other numbers."""
    mine, right = got[key], expected[key]
    alike = mine.shape == right.shape and mine.dtype == right.dtype
    return alike and not torch.allclose(mine, right, rtol=1e-4, atol=1e-4)


LOOKING_BACK = Exercise(
    right=(previous_token_scores, induction_scores),
    run=both_scores,
    cases=lambda draw: [
        (torch.tensor([[[[1.0, 0.0], [0.25, 0.75]]]]), example_map(), 3),
        (example_map()[..., :3, :3], drawn_maps(draw, 1, 1, 4), 2),
        (example_map(), drawn_maps(draw, 1, 3, 8), 4),
        (drawn_maps(draw, 2, 3, 7), drawn_maps(draw, 3, 2, 10), 5),
        (drawn_maps(draw, 4, 2, 5).transpose(0, 1), drawn_maps(draw, 4, 3, 12), 6),
        (drawn_maps(draw, 2, 4, draw.choice([6, 9])).double(), drawn_maps(draw, 2, 3, 8).double(), 4),
    ],
    mistakes={
        "previous_token_scores gives 0 everywhere. All weights above the diagonal are 0; the weight of query "
        "t on key t - 1 stands below it.": with_inductions(nothing_of, alike=[nothing_of]),
        "previous_token_scores reads the weight that a token gives to itself. The token before it is key t - "
        "1.": with_inductions(previous(first=0, back=0), previous(back=0)),
        "previous_token_scores goes two tokens back. The token just before query t is key t - "
        "1.": with_inductions(previous(first=2, back=2)),
        "previous_token_scores adds the weights up. It should be their mean.": with_inductions(
            previous(end=lambda w: w.sum(dim=-1)), alike=[induction(end=lambda w, n: w.sum(dim=-1))]
        ),
        "previous_token_scores counts the first query too, which has no token before it: the mean is over T "
        "- 1 weights.": with_inductions(
            lambda maps: previous(end=lambda w: w.sum(dim=-1))(maps) / maps.size(-1),
            alike=[induction(first, end=lambda w, n: w.sum(dim=-1) / (2 * n)) for first in (-1, 0)],
        ),
        "previous_token_scores leaves out a query too many. All count but the first, so the last one "
        "does.": with_inductions(previous(first=2), previous(last=-2)),
        "previous_token_scores counts the second half of the queries only. All count but the "
        "first.": with_inductions(second_half),
        "previous_token_scores reads column 0, the first token of the text, and not the token just "
        "before.": with_inductions(lambda maps: maps[..., 1:, 0].mean(dim=-1)),
        "previous_token_scores adds up all weights before the query's own. Only the token just before "
        "counts.": with_inductions(lambda maps: maps[..., 1:, :].tril(0).sum(dim=-1).mean(dim=-1)),
        "previous_token_scores takes a mean over other dimensions than the queries, or none. There should be "
        "one number for each layer and head.": [
            pair
            for end in OTHER_MEANS
            for pair in with_inductions(previous(end=end), alike=[induction(end=end)])
        ],
        "previous_token_scores takes the diagonal of layers and heads, the first two dimensions. Name the "
        "last two: dim1=-2, dim2=-1.": with_inductions(
            first_two, lambda maps: maps.diagonal(-1).mean(-1), alike=[first_two]
        ),
        "previous_token_scores has heads for rows and layers for columns. The shape should be (L, "
        "H).": with_inductions(
            lambda maps: previous_token_scores(maps).T, alike=[lambda maps, n: induction_scores(maps, n).T]
        ),
        "induction_scores gives 0 everywhere. All weights above the diagonal are 0; the weight of query "
        "t on key t - n + 1 stands below it.": with_previous(nothing_of),
        "induction_scores looks at the same token's first place, t - n. What followed it stands one further, "
        "at t - n + 1.": with_previous(induction(back=0)),
        "induction_scores looks at the token before the first occurrence, at t - n - 1. What followed it "
        "stands at t - n + 1.": with_previous(induction(first=1, back=1), induction(back=1)),
        "induction_scores goes one place too far, to t - n + 2. What followed the first occurrence stands at "
        "t - n + 1.": with_previous(induction(back=-2), induction(first=-2, back=-2)),
        "induction_scores counts query n - 1 too, which is in the first half: that diagonal is one entry "
        "longer. The queries are n to 2n - 1.": with_previous(induction(first=-1)),
        "induction_scores counts queries n - 1 to 2n - 2, one too early. They should be n to 2n - "
        "1.": with_previous(induction(first=-1, last=-2)),
        "induction_scores leaves out the last query. What followed its first occurrence is the first token "
        "of the second half, key n.": with_previous(induction(last=-2)),
        "induction_scores leaves out query n, the first of the second half. It counts too.": with_previous(
            induction(first=1)
        ),
        "induction_scores adds the weights up. It should be their mean.": with_previous(
            induction(end=lambda w, n: w.sum(dim=-1)), induction(first=-1, end=lambda w, n: w.sum(dim=-1))
        ),
        "induction_scores divides by T, as if all queries counted. Only the n of the second half "
        "do.": with_previous(
            induction(end=lambda w, n: w.sum(dim=-1) / (2 * n)),
            induction(first=-1, end=lambda w, n: w.sum(dim=-1) / (2 * n)),
        ),
        "induction_scores looks at the token just before the query. What followed the first occurrence "
        "stands at t - n + 1.": with_previous(
            lambda maps, n: weights_back(maps, n, 2 * n - 1, 1).mean(dim=-1),
            lambda maps, n: previous_token_scores(maps),
        ),
        "induction_scores reads the weight that a token gives to itself. The key should be t - n + "
        "1.": with_previous(
            lambda maps, n: weights_back(maps, n, 2 * n - 1, 0).mean(dim=-1),
            lambda maps, n: weights_back(maps, 0, 2 * n - 1, 0).mean(dim=-1),
        ),
        "induction_scores takes a mean over other dimensions than the queries, or none. There should be one "
        "number for each layer and head.": with_previous(*(induction(end=end) for end in OTHER_MEANS)),
        "induction_scores takes the diagonal of layers and heads, the first two dimensions. Name the last "
        "two: dim1=-2, dim2=-1.": with_previous(
            first_two, lambda maps, n: maps.diagonal(1 - n)[..., 1:].mean(-1)
        ),
        "induction_scores has heads for rows and layers for columns. The shape should be (L, "
        "H).": with_previous(lambda maps, n: induction_scores(maps, n).T),
    },
    signs={
        "previous_token_scores has a score above 1 or below 0. A mean of weights lies "
        "between.": lambda case, got, expected: (
            is_off(PREVIOUS, got, expected) and not bool(((got[PREVIOUS] >= 0) & (got[PREVIOUS] <= 1)).all())
        ),
        "previous_token_scores is wrong for two tokens already. Only one weight counts there, that of query "
        "1 on key 0.": lambda case, got, expected: is_off(PREVIOUS, got, expected) and case[0].size(-1) == 2,
        "previous_token_scores is right for two tokens and wrong for more. It is the mean of T - 1 weights, "
        "in row t and column t - 1.": lambda case, got, expected: is_off(PREVIOUS, got, expected),
        "induction_scores has a score above 1 or below 0. A mean of weights lies "
        "between.": lambda case, got, expected: (
            is_off(INDUCTION, got, expected)
            and not bool(((got[INDUCTION] >= 0) & (got[INDUCTION] <= 1)).all())
        ),
        "induction_scores is wrong. Mark in the map of the example which n weights it takes: one in each row "
        "from n to 2n - 1, in column t - n + 1.": lambda case, got, expected: is_off(
            INDUCTION, got, expected
        ),
    },
    errors={
        "It asks for a row or column that the map does not have. Queries and keys go from 0 to T - "
        "1.": lambda case, error: isinstance(error, IndexError) and "out of bounds" in str(error),
    },
)

check = checker(
    {
        "3.1": AVERAGE,
        "3.2": SOFTMAX,
        "3.3": CAUSAL_MASK,
        "3.4": LOOPS,
        "3.5": ATTENTION,
        "3.6": HEADS,
        "3.7": GROUPS,
        "3.8": WINDOW,
        "3.9": MULTI_HEAD,
        "3.10": BATCH_MASK,
        "3.11": LOOKING_BACK,
    }
)
