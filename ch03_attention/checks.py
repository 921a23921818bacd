"""The checks of chapter 3's exercises: what is right, on which inputs, and the usual mistakes by name."""

# Written by hand: what learners get wrong, in words.

import torch

from ch01_tokenization.checking import Exercise, checker

from .attention import causal_mask, softmax

__all__ = ["check"]


def plain_softmax(x, dim):
    return x.exp() / x.exp().sum(dim=dim, keepdim=True)


def shifted_by_all(x, dim):
    exponentials = (x - x.max()).exp()
    return exponentials / exponentials.sum(dim=dim, keepdim=True)


SOFTMAX = Exercise(
    right=softmax,
    cases=lambda draw: [
        (torch.tensor([0.0, 1.0]), 0),
        (draw.normal(2, 3), 0),
        (draw.normal(2, 3), 1),
        (draw.normal(2, 3, 4), -1),
        (torch.tensor([100.0, 99.0]), 0),
        (torch.tensor([[0.0, 1.0], [200.0, 201.0]]), -1),
        (10 * draw.normal(5, 6), draw.choice([0, 1])),
    ],
    mistakes={
        "The exponentials overflow: exp of a large score is infinite in float32.": plain_softmax,
        "It divides by the sum of the whole tensor, not of each row along dim.": [
            lambda x, dim: (x - x.max()).exp() / (x - x.max()).exp().sum(),
            lambda x, dim: (x - x.amax(dim, True)).exp() / (x - x.amax(dim, True)).exp().sum(),
        ],
        "It sums along the last dimension, whatever dim says.": lambda x, dim: softmax(x, -1),
        "It sums along the first dimension, whatever dim says.": lambda x, dim: softmax(x, 0),
        "It subtracts the largest score of the whole tensor, so a row of small scores ends as 0 / 0; take "
        "the largest of each row.": shifted_by_all,
        "Shares are what they should be in logarithms: this is the log-softmax.": lambda x, dim: softmax(
            x, dim
        ).log(),
    },
    signs={
        "The shares along dim should have the sum 1.": lambda case, got, expected: (
            not torch.allclose(got.sum(case[1]), expected.sum(case[1]))
        ),
    },
)

CAUSAL_MASK = Exercise(
    right=causal_mask,
    cases=lambda draw: [(1,), (2,), (3,), (draw.whole(4, 9),)],
    mistakes={
        "A token may look at itself: the diagonal should be True.": lambda T: causal_mask(T).tril(-1),
        "The table lies on its side: rows are queries and columns are keys.": lambda T: causal_mask(T).T,
        "True should mean that a query may look; here it means that it may not.": lambda T: ~causal_mask(T),
        "Every query sees one key too many, the one behind it.": lambda T: torch.ones(
            T, T, dtype=torch.bool
        ).tril(1),
        "A query sees all earlier keys, not only itself.": lambda T: torch.eye(T, dtype=torch.bool),
        "The table holds numbers; make it bool, with True where a query may look.": lambda T: causal_mask(
            T
        ).float(),
    },
)

check = checker({"3.2": SOFTMAX, "3.3": CAUSAL_MASK})
