"""The checks of appendix G's exercises: what is right, on which inputs, and the usual mistakes by name."""

# Written by hand: what learners get wrong, in words.

import torch
import torch.nn.functional as F
from torch import nn

from appendix.g_finetuning.classifier import last_real
from appendix.g_finetuning.lora import LoRALinear
from appendix.g_finetuning.policy import group_advantages, grpo_loss, k3_divergence
from appendix.g_finetuning.preferences import dpo_loss, sequence_logprobs
from appendix.g_finetuning.supervised import answer_example
from ch01_tokenization.checking import Exercise, checker

__all__ = ["check"]


# ---------------------------------------------------------------- G.1 what counts in an answer


def flawed_targets(
    ignored=lambda n: n - 1, ignore=-100, inputs=lambda ids: ids[:-1], shift=1, tail=lambda a: a
):
    def targets(prompt_ids, answer_ids):
        ids = [*prompt_ids, *answer_ids]
        n = max(0, ignored(len(prompt_ids)))
        return inputs(ids), [ignore] * n + tail([*prompt_ids, *answer_ids][n + shift :])

    return targets


TARGETS = Exercise(
    right=lambda prompt_ids, answer_ids: tuple(answer_example(prompt_ids, answer_ids)),
    cases=lambda draw: [
        ([7, 8], [5, 2]),
        ([7], [2]),
        ([7, 8, 9], [2]),
        ([7], [5, 4, 2]),
        ([7, 8, 2], [8, 5, 2]),
        *(
            ([draw.whole(3, 90) for _ in range(n)], [draw.whole(3, 90) for _ in range(m)])
            for n, m in ((draw.whole(4, 6), draw.whole(7, 9)), (draw.whole(7, 9), draw.whole(3, 5)))
        ),
    ],
    mistakes={
        "The answer's first token has no target: it is said at the prompt's last position, so there are one "
        "fewer -100 than the prompt has tokens.": flawed_targets(lambda n: n),
        "One token of the prompt has a target. The first that counts is the answer's first.": flawed_targets(
            lambda n: n - 2
        ),
        "The whole prompt has targets. Only the tokens of the answer count.": flawed_targets(lambda n: 0),
        "The targets are the inputs themselves. A target is the token that comes next.": [
            flawed_targets(shift=0, tail=lambda ids: ids[:-1]),
            lambda p, a: ([*p, *a][:-1], ([-100] * len(p) + [*a])[:-1]),
        ],
        "The inputs have the last token too. Nothing comes after it, so it is not read.": [
            flawed_targets(inputs=lambda ids: ids),
            lambda p, a: ([*p, *a], [-100] * len(p) + [*a]),
            lambda p, a: ([*p, *a], [-100] * (len(p) - 1) + [*a, -100]),
        ],
        "What does not count is 0 here. 0 is the id of a token; -100 is what the loss leaves out.": [
            flawed_targets(ignore=0)
        ],
        "What does not count is -1 here; the loss leaves out -100.": flawed_targets(ignore=-1),
        "The end token has no target, or it is missing: the model would never learn to stop.": [
            lambda p, a: (([*p, *a])[:-1], [-100] * (len(p) - 1) + [*a[:-1], -100]),
            lambda p, a: ([*p, *a][:-2], [-100] * (len(p) - 1) + [*a[:-1]]),
        ],
        "The inputs are the prompt alone. The model reads the answer too, up to its last token but one.": [
            lambda p, a: ([*p], [-100] * (len(p) - 1) + [*a])
        ],
        "What counts is decided by the ids. A token of the answer counts also where the prompt has it too: "
        "its place decides.": lambda p, a: ([*p, *a][:-1], [-100 if t in p else t for t in [*p, *a][1:]]),
    },
    signs={
        "Inputs and targets have different lengths: each position has one of both.": (
            lambda case, got, expected: len(got[0]) != len(got[1])
        ),
        "The inputs are right, and the targets are not.": (
            lambda case, got, expected: got[0] == expected[0] and got[1] != expected[1]
        ),
        "The targets are right, and the inputs are not.": (
            lambda case, got, expected: got[1] == expected[1] and got[0] != expected[0]
        ),
    },
)


# ---------------------------------------------------------------- G.2 the last real token


def at_columns(columns):
    def pick(vectors, lengths):
        rows = torch.arange(len(vectors), device=vectors.device)
        return vectors[rows, columns(vectors, lengths)]

    return pick


LAST = Exercise(
    right=last_real,
    cases=lambda draw: [
        (torch.tensor([[[1.0], [2.0]]]), torch.tensor([1])),
        (torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]]), torch.tensor([3, 1])),
        (draw.normal(2, 3, 4), torch.tensor([2, 3])),
        (draw.normal(4, 7, 3), torch.tensor([draw.whole(1, 6) for _ in range(4)])),
        (draw.normal(5, 6, 2).double(), torch.tensor([1, 4, draw.whole(2, 3), 5, 3])),
    ],
    mistakes={
        "The last column is taken for every row. In a shorter row that is the filling.": [
            lambda vectors, lengths: vectors[:, -1],
            lambda vectors, lengths: vectors[:, lengths.max() - 1],
        ],
        "The column is one too far: the first token is in column 0, the last real one in lengths - 1.": [
            at_columns(lambda vectors, lengths: lengths.clamp(max=vectors.size(1) - 1)),
            at_columns(lambda vectors, lengths: lengths % vectors.size(1)),
            at_columns(lambda vectors, lengths: lengths),
        ],
        "The first token's vector is taken. It has read nothing but itself.": lambda vectors, lengths: (
            vectors[:, 0]
        ),
        "All real tokens are averaged. Only the last of them is asked for.": lambda vectors, lengths: (
            torch.stack([row[:n].mean(dim=0) for row, n in zip(vectors, lengths.tolist())])
        ),
        "Each row's column is taken from all rows: the result has B too many dimensions. Index with rows and "
        "columns together.": lambda vectors, lengths: vectors[:, lengths - 1],
        "The column is counted from the right: -lengths is the first real token of a row that is filled up "
        "on the left.": at_columns(lambda vectors, lengths: vectors.size(1) - lengths),
        "The shortest row decides for all. Each row has a column of its own.": lambda vectors, lengths: (
            vectors[:, lengths.min() - 1]
        ),
        "The real vectors are added up. Only the last of them is asked for.": lambda vectors, lengths: (
            torch.stack([row[:n].sum(dim=0) for row, n in zip(vectors, lengths.tolist())])
        ),
        "The dimension of size 1 is still there: the result is (B, D).": lambda vectors, lengths: last_real(
            vectors, lengths
        ).unsqueeze(1),
    },
)


# ---------------------------------------------------------------- G.3 a layer of low rank


def right_forward(x, W, A, B, alpha):
    return right_layer(W, A, B, alpha)(x)


def right_merge(W, A, B, alpha):
    return right_layer(W, A, B, alpha).weight


def right_layer(W, A, B, alpha):
    """The course's own layer, with these matrices."""
    n_out, n_in = W.shape
    linear = nn.Linear(n_in, n_out, bias=False, dtype=W.dtype, device=W.device)
    layer = LoRALinear(linear, len(A), alpha).requires_grad_(False)
    layer.linear.weight.data, layer.A.data, layer.B.data = W, A, B
    return layer


def with_scale(scale, base=1.0):
    """Both functions, with another factor; base: how much of W is left."""

    def forward(x, W, A, B, alpha):
        return base * x @ W.T + scale(alpha, W, A, B) * ((x @ A.T) @ B.T)

    def merge(W, A, B, alpha):
        return base * W + scale(alpha, W, A, B) * (B @ A)

    return forward, merge


def run_lora(answers, x, W, A, B, alpha):
    forward, merge = answers
    return {"forward": forward(x, W, A, B, alpha), "merged": merge(W, A, B, alpha)}


def lora_case(draw, *lead, n_in, n_out, rank, alpha, dtype=torch.float32):
    shapes = (lead + (n_in,), (n_out, n_in), (rank, n_in), (n_out, rank))
    return tuple(draw.normal(*shape).to(dtype) for shape in shapes) + (alpha,)


LORA = Exercise(
    right=(right_forward, right_merge),
    run=run_lora,
    cases=lambda draw: [
        tuple(torch.tensor(part) for part in ([[3.0, 5.0]], [[1.0, 0.0]], [[1.0, 2.0]], [[1.0]])) + (3.0,),
        lora_case(draw, 2, n_in=3, n_out=4, rank=2, alpha=5.0),
        lora_case(draw, 2, 3, n_in=6, n_out=4, rank=3, alpha=7.0),
        lora_case(draw, n_in=5, n_out=7, rank=2, alpha=draw.real(3, 6)),
        lora_case(draw, 4, n_in=5, n_out=3, rank=draw.choice([2, 4]), alpha=9.0, dtype=torch.float64),
    ],
    mistakes={
        "The factor is alpha. It is alpha divided by the rank.": with_scale(lambda alpha, W, A, B: alpha),
        "The factor alpha / rank is missing.": with_scale(lambda alpha, W, A, B: 1.0),
        "The factor divides by B's rows or A's columns. The rank is the number of A's rows.": [
            with_scale(lambda alpha, W, A, B: alpha / len(B)),
            with_scale(lambda alpha, W, A, B: alpha / A.size(1)),
        ],
        "The factor is the rank divided by alpha. It is the other way round.": with_scale(
            lambda alpha, W, A, B: len(A) / alpha
        ),
        "The factor is alpha times the rank. It is alpha divided by the rank.": with_scale(
            lambda alpha, W, A, B: alpha * len(A)
        ),
        "The factor is alpha over the square root of the rank; here it is alpha over the rank.": with_scale(
            lambda alpha, W, A, B: alpha / len(A) ** 0.5
        ),
        "W itself is missing: the adapter is added to what the layer gives.": with_scale(
            lambda alpha, W, A, B: alpha / len(A), base=0.0
        ),
        "The adapter is subtracted. It is added.": with_scale(lambda alpha, W, A, B: -alpha / len(A)),
        "The adapter has no effect: what comes out is W's part alone.": with_scale(
            lambda alpha, W, A, B: 0.0
        ),
        "The factor multiplies W too. It belongs to the adapter alone.": [
            (
                lambda x, W, A, B, alpha: alpha / len(A) * (x @ W.T + (x @ A.T) @ B.T),
                lambda W, A, B, alpha: alpha / len(A) * (W + B @ A),
            )
        ],
    },
    signs={
        "The forward pass is right, and the merged matrix is not.": (
            lambda case, got, expected: torch.allclose(got["forward"], expected["forward"], atol=1e-4)
        ),
        "The merged matrix is right, and the forward pass is not.": (
            lambda case, got, expected: torch.allclose(got["merged"], expected["merged"], atol=1e-4)
        ),
    },
)


# ---------------------------------------------------------------- G.4 how probable an answer is


def right_logprob(logits, token_ids, mask):
    return sequence_logprobs(lambda ids: logits[:, : ids.size(1)], token_ids, mask)


def flawed_logprob(scores=None, shift=1, reduce=None, sign=1.0, masked=None):
    scores = scores or (lambda logits: logits.log_softmax(dim=-1))
    reduce = reduce or (lambda chosen, m: (chosen * m).sum(dim=-1))
    masked = masked or (lambda mask: mask[:, shift:])

    def logprob(logits, token_ids, mask):
        T = token_ids.size(1)
        chosen = scores(logits[:, : T - shift]).gather(-1, token_ids[:, shift:].unsqueeze(-1)).squeeze(-1)
        return sign * reduce(chosen, masked(mask))

    return logprob


def answer_case(draw, B, T, V):
    mask = torch.zeros(B, T, dtype=torch.bool)
    for row in range(B):
        start = draw.whole(1, T - 3)
        mask[row, start : draw.whole(start + 2, T - 1)] = True
    return draw.normal(B, T, V), draw.ids(V, B, T), mask


LOGPROB = Exercise(
    right=right_logprob,
    cases=lambda draw: [
        (torch.tensor([[[0.0, 2.0], [5.0, 0.0]]]), torch.tensor([[0, 1]]), torch.tensor([[False, True]])),
        (
            draw.normal(1, 4, 3),
            torch.tensor([[2, 0, 1, 1]]),
            torch.tensor([[False, False, True, True]]),
        ),
        (draw.normal(2, 3, 4), draw.ids(4, 2, 3), torch.tensor([[False, True, False], [False] * 3])),
        (
            torch.tensor([[[0.0, 200.0], [0.0, -200.0]]]),
            torch.tensor([[1, 0]]),
            torch.tensor([[False, True]]),
        ),
        answer_case(draw, 3, 6, 5),
        answer_case(draw, 4, 7, 11),
    ],
    mistakes={
        "Each token is judged by the logits at its own position. There the model has read it already; the "
        "position before is the one that guesses it.": flawed_logprob(shift=0),
        "The mask is not shifted along with the tokens: it begins at the same token as they do.": [
            flawed_logprob(masked=lambda mask: mask[:, :-1])
        ],
        "The prompt's tokens are counted too. Only those where the mask is True are.": flawed_logprob(
            masked=lambda mask: torch.ones_like(mask[:, 1:])
        ),
        "The mean over the answer is taken. The log-probability of a text is the sum.": flawed_logprob(
            reduce=lambda chosen, m: (chosen * m).sum(dim=-1) / m.sum(dim=-1).clamp(min=1)
        ),
        "Logits are added up. They become log-probabilities by a log-softmax over the vocabulary.": [
            flawed_logprob(scores=lambda logits: logits)
        ],
        "Probabilities are added up. The probability of a text is a product, and its logarithm a sum of "
        "logarithms.": flawed_logprob(scores=lambda logits: logits.softmax(dim=-1)),
        "The sign is turned round: this is the loss. The log-probability is negative.": flawed_logprob(
            sign=-1.0
        ),
        "The softmax runs over the positions. It should over the vocabulary, the last one.": flawed_logprob(
            scores=lambda logits: logits.log_softmax(dim=1)
        ),
        "The rows are added up too. Each row has a result of its own, (B,).": flawed_logprob(
            reduce=lambda chosen, m: (chosen * m).sum()
        ),
        "The probability is returned; its logarithm is asked for.": flawed_logprob(
            reduce=lambda chosen, m: (chosen * m).sum(dim=-1).exp()
        ),
        "The softmax is computed first and its logarithm then. A probability far below 1 is 0 in 32 bits, "
        "and its logarithm infinite; log_softmax does both in one.": [
            flawed_logprob(scores=lambda logits: logits.softmax(dim=-1).log()),
            flawed_logprob(scores=lambda logits: (logits.exp() / logits.exp().sum(-1, keepdim=True)).log()),
            flawed_logprob(scores=lambda logits: logits - logits.exp().sum(-1, keepdim=True).log()),
        ],
        "The mask is turned round: True marks the answer.": flawed_logprob(masked=lambda mask: ~mask[:, 1:]),
    },
    signs={
        "A log-probability is above 0. The logarithm of a probability never is.": (
            lambda case, got, expected: got.shape == expected.shape and bool((got > 1e-6).any())
        ),
    },
)


# ---------------------------------------------------------------- G.5 rather this than that


def flawed_dpo(margin=None, loss=None):
    margin = margin or (lambda c, r, rc, rr, beta: beta * ((c - rc) - (r - rr)))
    loss = loss or (lambda m: -F.logsigmoid(m))
    return lambda c, r, rc, rr, beta: loss(margin(c, r, rc, rr, beta))


def dpo_case(draw, n, spread=3.0):
    return tuple(spread * draw.normal(n) - 5 for _ in range(4)) + (draw.real(0.2, 0.9),)


def numbers(*values):
    return tuple(torch.tensor([float(value)]) for value in values)


PREFERENCE = Exercise(
    right=dpo_loss,
    cases=lambda draw: [
        (*numbers(-1, -1, -2, -1), 0.5),
        (*numbers(-1, -3, -1, -2), 0.5),
        (*numbers(-4, -3, -2, -5), 0.25),
        (*numbers(-1, -900, -201, -700), 0.5),
        (*numbers(-401, -100, -1, -100), 0.5),
        dpo_case(draw, 3),
        dpo_case(draw, 5),
    ],
    mistakes={
        "The reference is left out. It counts how much more probable each answer became.": flawed_dpo(
            lambda c, r, rc, rr, beta: beta * (c - r)
        ),
        "Chosen and rejected are exchanged: the loss would raise the rejected answer.": flawed_dpo(
            lambda c, r, rc, rr, beta: beta * ((r - rr) - (c - rc))
        ),
        "beta is missing.": flawed_dpo(lambda c, r, rc, rr, beta: (c - rc) - (r - rr)),
        "The gains are added. The loss compares them: the difference is needed.": flawed_dpo(
            lambda c, r, rc, rr, beta: beta * ((c - rc) + (r - rr))
        ),
        "The margin is divided by beta. It is multiplied.": flawed_dpo(
            lambda c, r, rc, rr, beta: ((c - rc) - (r - rr)) / beta
        ),
        "The sigmoid of the margin is returned. The loss is minus its logarithm.": flawed_dpo(
            loss=torch.sigmoid
        ),
        "The minus sign is missing: a loss is smaller where the margin is larger.": flawed_dpo(
            loss=F.logsigmoid
        ),
        "The sigmoid is computed first and its logarithm then. Far below 0 the sigmoid is 0 in 32 bits, and "
        "the loss infinite; F.logsigmoid does both in one.": [
            flawed_dpo(loss=lambda m: -torch.sigmoid(m).log()),
            flawed_dpo(loss=lambda m: -(1 / (1 + (-m).exp())).log()),
            flawed_dpo(loss=lambda m: (1 + (-m).exp()).log()),
        ],
        "The mean over the pairs is returned. Each pair has a loss of its own, (B,).": flawed_dpo(
            loss=lambda m: -F.logsigmoid(m).mean()
        ),
        "The margin itself is taken as the loss, without the logistic function.": flawed_dpo(
            loss=lambda m: -m
        ),
        "The reference is added. It is subtracted from the policy's log-probability.": flawed_dpo(
            lambda c, r, rc, rr, beta: beta * ((c + rc) - (r + rr))
        ),
        "The square of the margin stands where the logistic function should.": flawed_dpo(
            loss=lambda m: (m - 1) ** 2
        ),
    },
    signs={
        "Far below 0 the loss is cut off: something was added to the sigmoid, or it was held between bounds. "
        "F.logsigmoid needs neither.": (
            lambda case, got, expected: (
                got.shape == expected.shape and bool(((expected > 100) & (got < 0.9 * expected)).all())
            )
        ),
        "A loss is below 0: minus the logarithm of a probability never is.": (
            lambda case, got, expected: got.shape == expected.shape and bool((got < -1e-6).any())
        ),
    },
)


# ---------------------------------------------------------------- G.6 better than the group


def flawed_advantages(mean=None, deviation=None):
    mean = mean or (lambda r: r.mean(dim=1, keepdim=True))
    deviation = deviation or (lambda r: r.std(dim=1, keepdim=True) + 1e-6)
    return lambda rewards: (rewards - mean(rewards)) / deviation(rewards)


ADVANTAGES = Exercise(
    right=group_advantages,
    cases=lambda draw: [
        (torch.tensor([[1.0, 0.0], [0.0, 4.0]]),),
        (torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 5.0]]),),
        (torch.tensor([[2.0, 2.0, 2.0, 2.0], [3.0, 1.0, 0.0, 0.0]]),),
        (draw.normal(3, 5) * draw.real(2, 4) + 1,),
        ((draw.normal(4, 6) + torch.tensor([[0.0], [3.0], [5.0], [9.0]])).double(),),
    ],
    mistakes={
        "The mean and deviation are those of all rewards. Each group, a row, has its own.": [
            flawed_advantages(lambda r: r.mean(), lambda r: r.std() + 1e-6)
        ],
        "The mean is that of all rewards. Each group, a row, has its own.": flawed_advantages(
            mean=lambda r: r.mean()
        ),
        "The deviation is that of all rewards. Each group, a row, has its own.": flawed_advantages(
            deviation=lambda r: r.std() + 1e-6
        ),
        "Mean and deviation are taken along the columns. A group is a row.": flawed_advantages(
            lambda r: r.mean(dim=0, keepdim=True), lambda r: r.std(dim=0, keepdim=True) + 1e-6
        ),
        "The division by the standard deviation is missing.": flawed_advantages(deviation=lambda r: 1.0),
        "The mean is not subtracted: answers below the average would be rewarded too.": flawed_advantages(
            mean=lambda r: 0.0
        ),
        "The variance is divided by. Its root, the standard deviation, is asked for.": flawed_advantages(
            deviation=lambda r: r.var(dim=1, keepdim=True) + 1e-6
        ),
        "The deviation divides by G. PyTorch's std, which divides by G - 1, is asked for.": flawed_advantages(
            deviation=lambda r: r.std(dim=1, keepdim=True, correction=0) + 1e-6
        ),
        "A group of equal rewards divides 0 by 0. Add 1e-6 to the deviation.": flawed_advantages(
            deviation=lambda r: r.std(dim=1, keepdim=True)
        ),
        "The range of the group is divided by, not its standard deviation.": flawed_advantages(
            deviation=lambda r: r.amax(dim=1, keepdim=True) - r.amin(dim=1, keepdim=True) + 1e-6
        ),
        "The median is subtracted, not the mean.": flawed_advantages(
            mean=lambda r: r.median(dim=1, keepdim=True).values
        ),
        "The sign is turned round: the better answer has the larger advantage.": lambda rewards: (
            -(group_advantages(rewards))
        ),
        "The best reward of the group is subtracted, not the mean.": flawed_advantages(
            mean=lambda r: r.amax(dim=1, keepdim=True)
        ),
    },
    signs={
        "A row does not have the mean 0.": (
            lambda case, got, expected: (
                got.shape == expected.shape and bool((got.mean(dim=1).abs() > 1e-3).any())
            )
        ),
    },
)


# ---------------------------------------------------------------- G.7 no further than this


def right_clipped(new_logp, old_logp, advantages, mask, clip=0.2):
    return grpo_loss(new_logp, old_logp, old_logp, advantages, mask, clip)


def flawed_clipped(ratio=None, gain=None, mean=None, sign=-1.0):
    ratio = ratio or (lambda new, old: (new - old).exp())
    gain = gain or (lambda r, A, clip: torch.minimum(r * A, r.clamp(1 - clip, 1 + clip) * A))
    mean = mean or (lambda g, m: (g.where(m, 0.0).sum(dim=1) / m.sum(dim=1)).mean())

    def loss(new_logp, old_logp, advantages, mask, clip=0.2):
        return sign * mean(gain(ratio(new_logp, old_logp), advantages.unsqueeze(1), clip), mask)

    return loss


def one_token(ratio, advantage, clip=0.2):
    new = torch.tensor([[ratio]]).log()
    return new, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1, dtype=torch.bool), clip


def policy_case(draw, B, T, clip):
    lengths = torch.tensor([1, T, *(draw.whole(2, T - 1) for _ in range(B - 2))])
    mask = torch.arange(T) < lengths.unsqueeze(1)
    old = -draw.normal(B, T).abs()
    new = old + 0.6 * draw.normal(B, T)
    return new.masked_fill(~mask, 7.0), old.masked_fill(~mask, -9.0), 2 * draw.normal(B), mask, clip


CLIPPED = Exercise(
    right=right_clipped,
    cases=lambda draw: [
        one_token(1.5, 1.0),
        one_token(1.5, -1.0),
        one_token(0.5, 1.0),
        one_token(0.5, -1.0),
        one_token(1.5, 2.0, 0.3),
        (
            torch.tensor([[1.0, 2.0, 1.5], [1.0, 9.0, 9.0]]).log(),
            torch.zeros(2, 3),
            torch.tensor([-1.0, 3.0]),
            torch.tensor([[True, True, True], [True, False, False]]),
            0.2,
        ),
        (
            torch.tensor([[0.5, 200.0]]),
            torch.zeros(1, 2),
            torch.tensor([-1.0]),
            torch.tensor([[True, False]]),
            0.2,
        ),
        policy_case(draw, 4, 6, 0.2),
        policy_case(draw, 5, 7, 0.4),
    ],
    mistakes={
        "The ratio is never clipped.": flawed_clipped(gain=lambda r, A, clip: r * A),
        "The clipped ratio counts always. Of both products the smaller one counts, so that a bad token that "
        "has become more probable counts in full.": flawed_clipped(
            gain=lambda r, A, clip: r.clamp(1 - clip, 1 + clip) * A
        ),
        "The larger of both products is taken. It is the smaller.": flawed_clipped(
            gain=lambda r, A, clip: torch.maximum(r * A, r.clamp(1 - clip, 1 + clip) * A)
        ),
        "The smaller ratio is taken, and multiplied then. With a negative advantage that is the other one: "
        "compare the products.": flawed_clipped(
            gain=lambda r, A, clip: torch.minimum(r, r.clamp(1 - clip, 1 + clip)) * A
        ),
        "The ratio is upside down: the newer policy is above.": flawed_clipped(
            lambda new, old: (old - new).exp()
        ),
        "The difference of the log-probabilities is taken: the exponential is missing.": flawed_clipped(
            lambda new, old: new - old
        ),
        "The log-probabilities are divided. The ratio of the probabilities is the exponential of their "
        "difference.": flawed_clipped(lambda new, old: new / old),
        "The minus sign is missing: a loss is made smaller, and the gain should grow.": flawed_clipped(
            sign=1.0
        ),
        "The mean is over all tokens of all answers at once. First over the tokens of each answer, then over "
        "the answers.": flawed_clipped(mean=lambda g, m: g.where(m, 0.0).sum() / m.sum()),
        "Each answer's sum is divided by T. It is divided by the number of its own tokens.": flawed_clipped(
            mean=lambda g, m: g.where(m, 0.0).mean(dim=1).mean()
        ),
        "The tokens of an answer are added up. Their mean is asked for.": flawed_clipped(
            mean=lambda g, m: g.where(m, 0.0).sum(dim=1).mean()
        ),
        "The mask is not used: what stands behind the end of an answer counts.": flawed_clipped(
            mean=lambda g, m: g.mean(dim=1).mean()
        ),
        "The ratio is clipped from above alone. It is brought into 1 - clip to 1 + clip.": flawed_clipped(
            gain=lambda r, A, clip: torch.minimum(r * A, r.clamp(max=1 + clip) * A)
        ),
        "The bounds are -clip and clip. They lie around 1.": flawed_clipped(
            gain=lambda r, A, clip: torch.minimum(r * A, r.clamp(-clip, clip) * A)
        ),
        "The product with the advantage is clipped. The ratio is, before it is multiplied.": flawed_clipped(
            gain=lambda r, A, clip: torch.minimum(r * A, (r * A).clamp(1 - clip, 1 + clip))
        ),
        "clip is always 0.2 here. It is an argument.": lambda new, old, A, mask, clip=0.2: right_clipped(
            new, old, A, mask
        ),
        "The gain is multiplied by the mask. Infinite times 0 is not a number: put 0 there with where or "
        "masked_fill.": flawed_clipped(mean=lambda g, m: ((g * m).sum(dim=1) / m.sum(dim=1)).mean()),
        "The answers are added up. The mean over them is asked for.": flawed_clipped(
            mean=lambda g, m: (g.where(m, 0.0).sum(dim=1) / m.sum(dim=1)).sum()
        ),
    },
    signs={
        "The result is infinite or not a number. What stands where the mask is False may be of any size.": (
            lambda case, got, expected: not bool(torch.isfinite(got))
        ),
    },
)


# ---------------------------------------------------------------- G.8 how far from the reference


def of_d(estimate):
    return lambda logp, reference_logp: estimate(reference_logp - logp)


K3 = Exercise(
    right=k3_divergence,
    cases=lambda draw: [
        (torch.tensor([0.5]).log(), torch.tensor([0.25]).log()),
        (torch.tensor([0.25]).log(), torch.tensor([0.5]).log()),
        (torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.0, -4.0]])),
        (-draw.normal(3, 4).abs(), -draw.normal(3, 4).abs()),
        (-draw.normal(5).abs().double(), -draw.normal(5).abs().double()),
    ],
    mistakes={
        "d is upside down: it is the reference minus the policy.": of_d(lambda d: (-d).exp() + d - 1),
        "This is ln p - ln q itself. It can be negative.": of_d(lambda d: -d),
        "This is ln q - ln p. The formula takes it as d and goes on.": of_d(lambda d: d),
        "The 1 is not subtracted: for equal probabilities the estimate must be 0.": of_d(
            lambda d: d.exp() - d
        ),
        "d is added where it is subtracted.": of_d(lambda d: d.exp() + d - 1),
        "d itself is missing from e^d - d - 1.": of_d(lambda d: d.exp() - 1),
        "This is half the square of d, Schulman's k2. k3 is asked for.": of_d(lambda d: d * d / 2),
        "The mean is returned. Each token has an estimate of its own.": of_d(
            lambda d: (d.exp() - d - 1).mean()
        ),
        "The sum is returned. Each token has an estimate of its own.": of_d(
            lambda d: (d.exp() - d - 1).sum()
        ),
        "Each term is weighted by the policy's probability. The tokens were drawn by it already.": (
            lambda logp, reference_logp: logp.exp() * (logp - reference_logp)
        ),
        "The sign is turned round: the estimate is never negative.": of_d(lambda d: -(d.exp() - d - 1)),
        "The absolute value of the difference is never negative either, but its mean is not the KL.": of_d(
            lambda d: d.abs()
        ),
    },
    signs={
        "An estimate is negative. k3 never is.": (
            lambda case, got, expected: got.shape == expected.shape and bool((got < -1e-6).any())
        ),
    },
)


check = checker(
    {
        "G.1": TARGETS,
        "G.2": LAST,
        "G.3": LORA,
        "G.4": LOGPROB,
        "G.5": PREFERENCE,
        "G.6": ADVANTAGES,
        "G.7": CLIPPED,
        "G.8": K3,
    }
)
