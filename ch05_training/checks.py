"""The checks of chapter 5's exercises: what is right, on which inputs, and the usual mistakes by name."""

# Written by hand: what learners get wrong, in words.

import copy
import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from ch01_tokenization.checking import Exercise, checker, same

from .optimization import (
    AdamW,
    bits_per_byte,
    clip_grad_norm_,
    cross_entropy,
    parameter_groups,
    perplexity,
    warmup_cosine,
)

__all__ = ["check"]


def numbers(values):
    """A list of floats as one tensor, so that a difference is told in numbers; anything else as it is."""
    floats = isinstance(values, list) and all(isinstance(value, float) for value in values)
    return torch.tensor(values) if floats else values


def detached(value):
    return value.detach() if isinstance(value, torch.Tensor) else value


def tiny_model(embedding, output, dropout=0.0):
    """Token ids, any shape (...) -> logits (..., V), with these weights, (V, D) each."""
    layers = nn.Embedding(*embedding.shape), nn.Dropout(dropout), nn.Linear(*output.shape[::-1], bias=False)
    model = nn.Sequential(*layers).to(embedding.device)
    with torch.no_grad():
        model[0].weight.copy_(embedding)
        model[2].weight.copy_(output)
    return model


def weights_of(model):
    return [p.detach().clone() for p in model.parameters()]


def loss_of(model, inputs, targets, reduction="mean"):
    return F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), reduction=reduction)


def alike(got, expected, key):
    return all(a is b or torch.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(got[key], expected[key]))


# ---------------------------------------------------------------- 5.1 windows


def windows(token_ids, context_length, starts):
    every = token_ids.unfold(0, context_length + 1, 1)[starts]  # (N - T, T + 1) -> (B, T + 1)
    return every[:, :-1], every[:, 1:]


def cut(inputs_at, targets_at):
    """Windows whose inputs and targets begin that many tokens behind the start."""
    return lambda token_ids, context_length, starts: tuple(
        torch.stack([token_ids[start + place :][:context_length] for start in starts])
        for place in (inputs_at, targets_at)
    )


def turned_round(token_ids, context_length, starts):
    inputs, _ = windows(token_ids, context_length, starts)
    return inputs, inputs.roll(-1, 1)


def other_starts(change):
    """change(start, context_length, row) -> another start."""
    return lambda ids, T, starts: windows(ids, T, [change(start, T, row) for row, start in enumerate(starts)])


WINDOWS = Exercise(
    right=windows,
    cases=lambda draw: [
        (torch.tensor([5, 3]), 1, [0]),
        (torch.tensor([7, 4, 9, 2, 8, 6]), 2, [1]),
        (torch.tensor([7, 4, 9, 2, 8, 6]), 2, [1, 0]),
        (torch.tensor([3, 1, 4, 15, 9, 2, 6, 5, 35, 8]), 3, [2, 0]),
        *((draw.ids(1000, 50), T, [draw.whole(2, 30 // T) for _ in range(5)]) for T in (3, 4)),
    ],
    mistakes={
        "The targets are the inputs themselves, so the model would learn to repeat. Each target is the token "
        "that comes after its input.": cut(0, 0),
        "Inputs and targets have changed places: a target is the token after its input, not the one "
        "before.": cut(1, 0),
        "The targets lie two tokens ahead of the inputs; they should lie one ahead.": cut(0, 2),
        "The targets are the tokens before the inputs. A target is what comes after.": [
            cut(0, -1),
            lambda ids, T, starts: (
                torch.stack([ids[start:][:T] for start in starts]),
                torch.stack([ids[start - 1 : start - 1 + T] for start in starts]),
            ),
        ],
        "The last target of each window is its own first input: the row was turned round. That target has to "
        "come from the text, one token further on.": turned_round,
        "There are T - 1 inputs in a row. For T inputs and T targets, cut T + 1 tokens.": [
            lambda ids, T, starts: tuple(part[:, :-1] for part in windows(ids, T, starts)),
        ],
        "The starts are read as numbers of windows. They are places in the text, counted in tokens.": [
            other_starts(lambda start, T, row: start * T),
        ],
        "It cuts the windows one after the other from the beginning of the text. They begin where "
        "`starts` says.": [
            other_starts(lambda start, T, row: row * T),
            other_starts(lambda start, T, row: row),
        ],
        "Each column is a window. The shape should be (B, T), with a row for each start.": [
            lambda ids, T, starts: tuple(part.T for part in windows(ids, T, starts)),
        ],
        "Only the first start is used. There should be a row for each.": [
            lambda ids, T, starts: windows(ids, T, starts[:1]),
            lambda ids, T, starts: windows(ids, T, starts[:1] * len(starts)),
        ],
        "This is one tensor with the whole windows. Give two tensors, the inputs and the targets.": [
            lambda ids, T, starts: ids.unfold(0, T + 1, 1)[starts],
        ],
    },
    signs={
        "Inputs and targets should be int64, as `token_ids` is.": lambda case, got, expected: any(
            mine.dtype != torch.int64 for mine in got
        ),
        "The inputs are right. The targets should have the same shape, (B, T): one for each input.": (
            lambda case, got, expected: torch.equal(got[0], expected[0]) and got[1].shape != expected[1].shape
        ),
        "The inputs are right and the targets are not: each target is the token that follows its "
        "input in the "
        "text.": lambda case, got, expected: torch.equal(got[0], expected[0]),
        "The rows are right, but they are not in the order of `starts`.": lambda case, got, expected: all(
            torch.equal(mine.sort(0)[0], right.sort(0)[0]) for mine, right in zip(got, expected)
        ),
    },
)


# ---------------------------------------------------------------- 5.2 the loss


def run_loss(answer, logits, targets, ignore_index=-100):
    logits = logits.requires_grad_()
    options = {} if ignore_index == -100 else {"ignore_index": ignore_index}
    loss = answer(logits, targets, **options)
    result = {"the loss": detached(loss)}
    if logits.dtype == torch.float32:  # 16-bit gradients are too coarse to compare
        usable = isinstance(loss, torch.Tensor) and loss.requires_grad and loss.dim() == 0
        result["its gradient"] = torch.autograd.grad(loss, logits)[0] if usable else None
    return result


def scored(change=lambda surprise, counted: surprise, mean=True, dim=-1, fixed=False, log_p=None):
    """A loss that goes wrong in one place; what does not count has a surprise of 0, before change(...)."""

    def answer(logits, targets, ignore_index=-100):
        logits = logits.float()
        counted = targets != (-100 if fixed else ignore_index)
        log = log_p(logits) if log_p else logits.log_softmax(dim)
        surprise = -log.gather(-1, targets.where(counted, 0).unsqueeze(-1)).squeeze(-1)
        surprise = change(surprise.where(counted, 0.0), counted)
        return surprise.sum() / counted.sum().clamp(min=1) if mean else surprise

    return answer


def token_0_scored(logits, targets, ignore_index=-100):
    return F.cross_entropy(logits.float().flatten(0, -2), targets.where(targets != ignore_index, 0).flatten())


def not_a_number(logits, targets, ignore_index=-100):
    return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), ignore_index=ignore_index)


def made_anew(nothing):
    """Right, but for what it returns when no target counts."""

    def answer(logits, targets, ignore_index=-100):
        counts = (targets != ignore_index).any()
        return cross_entropy(logits, targets, ignore_index=ignore_index) if counts else nothing()

    return answer


def by_rows(surprise, counted):
    means = surprise.sum(-1) / counted.sum(-1).clamp(min=1)
    return means.mean()


CROSS_ENTROPY = Exercise(
    right=cross_entropy,
    run=run_loss,
    cases=lambda draw: [
        (torch.tensor([[0.0, 0.0]]), torch.tensor([0])),
        (torch.tensor([[2.0, 1.0, 0.0, 0.0]]), torch.tensor([0])),
        (torch.tensor([[0.0, 2.0], [1.0, 1.0]]), torch.tensor([0, 1])),
        (torch.tensor([[0.0, 2.0], [3.0, 0.0]]), torch.tensor([1, -100])),
        (torch.tensor([[0.0, 2.0], [3.0, 0.0]]), torch.tensor([1, 0]), 0),
        (torch.tensor([[1.0, 2.0]]), torch.tensor([-100])),
        (torch.tensor([[0.0, 200.0]]), torch.tensor([0])),
        (torch.tensor([[0.0, 1.0], [0.0, 200.0]]), torch.tensor([0, 1])),
        (draw.normal(2, 3, 5), torch.tensor([[draw.whole(1, 4), -100, -100], [1, 0, draw.whole(0, 4)]])),
        (draw.normal(2, 3, 5), torch.tensor([[draw.whole(1, 4), 0, 0], [1, 2, draw.whole(1, 4)]]), 0),
        (draw.normal(4, 3).bfloat16(), draw.ids(3, 4)),
        (20 * draw.normal(3, 2, 6), draw.ids(6, 3, 2)),
    ],
    mistakes={
        "exp of a logit leaves the range of float32: it becomes infinite or 0, and so does the loss. "
        "Stay with "
        "logarithms: logsumexp or log_softmax.": [
            scored(log_p=lambda z: (z.exp() / z.exp().sum(-1, keepdim=True)).log()),
            scored(log_p=lambda z: z.softmax(-1).log()),
            scored(log_p=lambda z: z - z.exp().sum(-1, keepdim=True).log()),
        ],
        "A probability was floored by a small number before its logarithm, so a surprise can never be large. "
        "Stay with logarithms, and no floor is needed.": [
            scored(log_p=lambda z, floor=floor: (z.softmax(-1) + floor).log())
            for floor in (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
        ]
        + [
            scored(log_p=lambda z, floor=floor: z.softmax(-1).clamp(min=floor).log())
            for floor in (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
        ],
        "A target that does not count is scored as if token 0 were right. It should add nothing to "
        "the sum, and "
        "not be counted.": token_0_scored,
        "Targets that do not count add nothing to the sum, and yet they are counted in the division. "
        "Divide by "
        "the number of those that count.": scored(lambda s, counted: s.sum() / counted.numel(), mean=False),
        "This is the sum. Divide it by the number of targets that count.": scored(
            lambda s, counted: s.sum(), mean=False
        ),
        "It looks for -100, whatever ignore_index says.": scored(fixed=True),
        "It does not look at ignore_index, so every target counts.": [
            lambda logits, targets, ignore_index=-100: F.cross_entropy(
                logits.float().flatten(0, -2), targets.flatten(), ignore_index=-1
            ),
        ],
        "When nothing counts it divides 0 by 0, which is NaN. It should be 0.": not_a_number,
        "It takes the mean of each row first and then the mean of those, so a target in a row with "
        "few of them "
        "weighs more. Take one mean over all that count.": scored(by_rows, mean=False),
        "The probabilities are made along the wrong dimension. The vocabulary is the last one.": [
            scored(dim=0),
            scored(dim=1),
        ],
        "The surprise of a right answer is -log p, which is above 0. Here the sign is the other one.": [
            scored(lambda s, counted: -s),
        ],
        "The logarithm is to the base 2, which gives bits. The loss is in nats.": [
            scored(lambda s, counted: s / math.log(2)),
        ],
        "softmax has been taken twice: log_softmax and F.cross_entropy begin with the logits.": [
            scored(log_p=lambda z: z.softmax(-1).log_softmax(-1)),
            lambda logits, targets, ignore_index=-100: F.cross_entropy(
                logits.float().softmax(-1).flatten(0, -2), targets.flatten(), ignore_index=ignore_index
            ),
        ],
        "The largest logit of the whole tensor is subtracted from all. In a row of small logits every exp is "
        "0 then; each row needs its own largest.": [
            scored(log_p=lambda z: z - z.max() - (z - z.max()).exp().sum(-1, keepdim=True).log()),
            scored(log_p=lambda z: ((z - z.max()).exp() / (z - z.max()).exp().sum(-1, keepdim=True)).log()),
        ],
        "When no target counts it returns a new 0, cut off from the logits, and backward would stop with an "
        "error. Let that 0 be computed from the logits too.": made_anew(lambda: torch.tensor(0.0)),
        "When no target counts it returns a number. It should be a tensor then too.": [
            made_anew(lambda: 0.0),
            made_anew(lambda: 0),
        ],
        "The logits themselves are taken for logarithms of probabilities. Subtract logsumexp of the "
        "row first.": [
            scored(log_p=lambda z: z),
        ],
        "This is the mean of 1 - p. The loss is the mean of -log p.": scored(
            lambda s, counted: 1 - (-s).exp()
        ),
        "There is a surprise for each target. Their mean, one number, is what is wanted.": scored(mean=False),
        "The number is right, but it is cut off from the logits, so that no gradient flows. Keep it a tensor "
        "throughout, without item() or detach().": lambda *arguments, **options: cross_entropy(
            *arguments, **options
        ).detach(),
    },
    signs={
        "A loss below 0 is not possible: no probability is above 1.": lambda case, got, expected: (
            got["the loss"] < 0
        ),
        "The loss is right when every target "
        "counts, and wrong when some do not.": lambda case, got, expected: (
            case[1] == (case[2] if len(case) > 2 else -100)
        ).any(),
    },
)


# ---------------------------------------------------------------- 5.3 its gradient


def cross_entropy_grad(logits, targets):
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(cross_entropy(logits, targets), logits)[0]


def parts(combine, p_of=lambda z: z.softmax(-1)):
    """combine(p, one_hot, counted): softmax (N, V), one_hot (N, V), counted (N, 1) float."""

    def answer(logits, targets):
        counted = (targets != -100).unsqueeze(-1).float()
        one_hot = F.one_hot(targets.clamp(min=0), logits.size(-1))
        return combine(p_of(logits), one_hot, counted)

    return answer


CROSS_ENTROPY_GRAD = Exercise(
    right=cross_entropy_grad,
    cases=lambda draw: [
        (torch.tensor([[0.0, 0.0]]), torch.tensor([0])),
        (torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([1])),
        (torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([1, 0])),
        (torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([1, -100])),
        (torch.tensor([[1.0, 2.0]]), torch.tensor([-100])),
        (torch.tensor([[0.0, 200.0, 100.0]]), torch.tensor([0])),
        (draw.normal(4, 3), torch.tensor([-100, draw.whole(0, 2), draw.whole(0, 2), 1])),
        (3 * draw.normal(5, 7), draw.ids(7, 5)),
    ],
    mistakes={
        "The sign is the other one: it should be softmax minus one_hot, which is negative at the "
        "right token.": [
            parts(lambda p, one, c: (one - p) * c / c.sum().clamp(min=1)),
        ],
        "The loss is a mean, so its gradient must be divided by the number of targets that count.": [
            parts(lambda p, one, c: (p - one) * c),
        ],
        "It divides by the number of all rows. Divide by the number of targets that count.": [
            parts(lambda p, one, c: (p - one) * c / len(p)),
        ],
        "It divides by the number of all logits, N times V. The mean is over targets only.": [
            parts(lambda p, one, c: (p - one) * c / p.numel()),
        ],
        "It divides by V, the length of a row. Divide by the number of targets that count.": [
            parts(lambda p, one, c: (p - one) * c / p.size(1)),
        ],
        "These are softmax's own derivatives, p * (1 - p). With the logarithm of the loss they become p "
        "minus one_hot.": [
            parts(lambda p, one, c: p * (1 - p) * c / c.sum().clamp(min=1)),
            parts(lambda p, one, c: p * (one - p) * c / c.sum().clamp(min=1)),
        ],
        "Logarithms of probabilities stand where the probabilities should be: softmax, not log_softmax.": [
            parts(lambda p, one, c: (p - one) * c / c.sum().clamp(min=1), lambda z: z.log_softmax(-1)),
        ],
        "The logits themselves stand where their softmax should be.": [
            parts(lambda p, one, c: (p - one) * c / c.sum().clamp(min=1), lambda z: z),
        ],
        "The row of a target that does not count is not 0. It has no part in the loss, so its "
        "gradient is 0.": [
            parts(lambda p, one, c: (p - one) / c.sum().clamp(min=1)),
            parts(lambda p, one, c: (p - one * c) / c.sum().clamp(min=1)),
            parts(lambda p, one, c: (p - one) / len(p)),
            parts(lambda p, one, c: (p - one * c) / len(p)),
        ],
        "Only the right token has a gradient. Each wrong one has its probability.": [
            parts(lambda p, one, c: (p - 1) * one * c / c.sum().clamp(min=1)),
        ],
        "These are the probabilities, divided by the count. 1 has to be subtracted at the right token.": [
            parts(lambda p, one, c: p * c / c.sum().clamp(min=1)),
        ],
        "The probabilities are made along the wrong dimension; those of one row should have the sum 1.": [
            lambda logits, targets: (
                (logits.softmax(0) - F.one_hot(targets.clamp(min=0), logits.size(-1)))
                * (targets != -100).unsqueeze(-1)
                / (targets != -100).sum().clamp(min=1)
            ),
        ],
        "exp of a large logit is infinite in float32. Use softmax, which is made for that.": [
            lambda logits, targets: (
                (
                    logits.exp() / logits.exp().sum(-1, keepdim=True)
                    - F.one_hot(targets.clamp(min=0), logits.size(-1))
                )
                * (targets != -100).unsqueeze(-1)
                / (targets != -100).sum().clamp(min=1)
            ),
        ],
        "When nothing counts it divides by 0. All gradients should be 0 then.": [
            parts(lambda p, one, c: (p - one) * c / c.sum()),
        ],
        "This is the gradient at the probabilities, -1 / p. Ask what a change of a logit does.": [
            parts(lambda p, one, c: -one / p * c / c.sum().clamp(min=1)),
        ],
    },
    signs={
        "The numbers of a row should have the sum 0: what the right token gains, the others lose.": (
            lambda case, got, expected: bool((got.sum(-1).abs() > 1e-3).any())
        ),
        "At the right token the gradient should be negative: a larger logit there makes the loss smaller.": (
            lambda case, got, expected: bool((got.gather(-1, case[1].clamp(min=0)[:, None]) > 1e-6).any())
        ),
    },
)


# ---------------------------------------------------------------- 5.4 AdamW


def run_adamw(answer, weights, gradients, groups, lr_factor=1.0, reload=False):
    """Steps with these gradients; lr is multiplied by lr_factor after each, or the state saved and loaded."""

    def make():
        return answer(
            [{**g, "params": [params[i] for i in g["params"]]} for g in groups], lr=7.0, weight_decay=7.0
        )

    params = [nn.Parameter(w.clone()) for w in weights]
    optimizer, result = make(), {}
    for step, of_step in enumerate(gradients, start=1):
        for w, gradient in zip(params, of_step):
            w.grad = None if gradient is None else gradient.clone()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= lr_factor
        result[f"weights after step {step}"] = [w.detach().clone() for w in params]
        if reload:
            record = copy.deepcopy(optimizer.state_dict())
            optimizer = make()
            optimizer.load_state_dict(record)
    return result


def flawed_adamw(
    m_corrected=True, v_corrected=True, decay="first", eps="outside", root=True, square=True, count="each",
    memory="each", settings=("own",), zero_based=False, swapped=False, sign=1, one_minus="mv", rate="group",
    fresh=False, none="passed", power=lambda beta, t: beta**t, t_more=0, mix="right", decay_sign=1,
    power_of="mv",
):  # fmt: skip
    """An AdamW that is right but for what is given."""

    class Flawed(torch.optim.Optimizer):
        def __init__(self, params, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
            super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
            self.counted, self.memory, self.first_lr = 0, {}, [group["lr"] for group in self.param_groups]

        @torch.no_grad()
        def step(self):
            self.counted += count == "step"
            for number, group in enumerate(self.param_groups):
                for w in group["params"]:
                    if w.grad is None and none == "return":
                        return
                    if w.grad is None and none == "break":
                        break
                    if w.grad is not None or none == "zeros":
                        self.counted += count == "weight"
                        other = {"first": self.param_groups[0], "default": self.defaults}.get(settings[0], {})
                        keys = settings[1:] or other.keys() - {"params"}
                        self.move(w, group | {key: other[key] for key in keys}, number)
                    elif decay == "all":
                        w.mul_(1 - group["lr"] * group["weight_decay"])
                    elif none == "counted":
                        self.state[w].setdefault("early", 0)
                        self.state[w]["early"] += 1

        def move(self, w, group, number):
            lr, (beta1, beta2), decayed = group["lr"], group["betas"], group["weight_decay"]
            lr = self.first_lr[number] if rate == "first" else lr
            beta1, beta2 = (beta2, beta1) if swapped else (beta1, beta2)
            state = self.state[w] if memory == "each" else self.memory
            state = self.memory.setdefault(w, {}) if memory == "self" else state
            if "m" not in state or fresh:
                state.update(step=state.pop("early", 0), m=torch.zeros_like(w), v=torch.zeros_like(w))
            t = state["step"] = state["step"] + 1
            t = (t + state.get("early", 0) if count == "each" else self.counted) - zero_based + t_more
            gradient = torch.zeros_like(w) if w.grad is None else w.grad
            g = gradient + decayed * w if decay == "gradient" else gradient
            keep1, keep2 = (1 - beta1, 1 - beta2) if mix == "mean" else (beta1, beta2)
            m = state["m"] = keep1 * state["m"] + (1 - keep1 if "m" in one_minus else 1) * g
            v = state["v"] = keep2 * state["v"] + (1 - keep2 if "v" in one_minus else 1) * (
                g**2 if square else g.abs()
            )
            b1, b2 = (beta2, beta1) if mix == "correction" else (beta1, beta2)
            m_factor = 1 - (power(b1, t) if "m" in power_of else b1**t) if m_corrected else 1
            v_factor = 1 - (power(b2, t) if "v" in power_of else b2**t) if v_corrected else 1
            m = m / m_factor if m_factor else m * math.inf
            v = v / v_factor if v_factor else v * math.inf
            below = v.sqrt() + group["eps"] if root else v + group["eps"]
            if eps == "inside":
                below = (v + group["eps"]).sqrt()
            elif eps == "early":
                below = ((v * v_factor).sqrt() + group["eps"]) / v_factor**0.5
            elif eps == "none":
                below = v.sqrt()
            if decay in ("first", "all"):
                w.mul_(1 - decay_sign * lr * decayed)
            elif decay == "whole":
                w.mul_(1 - decayed)
            w.sub_(sign * lr * m / below)
            if decay == "last":
                w.mul_(1 - lr * decayed)

    return Flawed


def adamw_cases(draw):
    plain = dict(params=[0], lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    one, half, other = torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([-1.5])
    two_groups = [plain | dict(weight_decay=0.5), plain | dict(params=[1], lr=0.2)]
    mixed = [
        plain | dict(params=[1], weight_decay=draw.real(0.2, 0.6)),
        plain | dict(params=[0, 2], lr=0.3, betas=(0.6, 0.8), eps=0.1),
    ]
    three = [[draw.normal(2, 3), draw.normal(4), draw.normal(2, 3)] for _ in range(3)]
    three[1][1] = None
    return [
        ([one], [[half]], [plain]),
        ([one], [[half]], [plain | dict(weight_decay=0.5)]),
        ([one], [[half]], [plain | dict(eps=0.5)]),
        ([one], [[half], [other]], [plain]),
        ([one, other], [[half, one], [other, half]], [plain | dict(params=[0, 1])]),
        ([one, other], [[None, one], [half, one]], [plain | dict(params=[0, 1], weight_decay=0.5)]),
        ([one, other], [[half, one]], two_groups),
        ([one], [[half], [other]], [plain], 0.5),
        ([one], [[half], [other]], [plain], 1.0, True),
        (three[0], three[1:], mixed, 0.5),
    ]


ADAMW = Exercise(
    right=AdamW,
    run=run_adamw,
    cases=adamw_cases,
    mistakes={
        "The mean m starts at 0 and is too small in the first steps: it is not divided by 1 - beta1**t.": [
            flawed_adamw(m_corrected=False),
        ],
        "The mean v starts at 0 and is too small in the first steps: it is not divided by 1 - beta2**t.": [
            flawed_adamw(v_corrected=False),
        ],
        "Both means start at 0 and are too small in the first steps; neither is corrected for that.": [
            flawed_adamw(m_corrected=False, v_corrected=False),
        ],
        "t begins at 0, and 1 - beta**0 is 0. Steps are counted from 1.": flawed_adamw(zero_based=True),
        "The decay goes through the gradient, and so through both means. In AdamW it is apart: the "
        "weight itself "
        "shrinks, by lr times weight_decay times its value.": flawed_adamw(decay="gradient"),
        "Nothing decays: weight_decay has no effect.": flawed_adamw(decay="none"),
        "The decay is not multiplied by the learning rate.": flawed_adamw(decay="whole"),
        "The decay is applied to the weight after its step. First shrink the weight, then take the step.": [
            flawed_adamw(decay="last"),
        ],
        "A weight without a gradient decays too. It should be passed over altogether.": flawed_adamw(
            decay="all"
        ),
        "The decay makes the weight larger. The factor is 1 minus lr times weight_decay.": flawed_adamw(
            decay_sign=-1
        ),
        "It stops at the first weight without a gradient, so those after it are left out. Pass over that one "
        "only.": [flawed_adamw(none="return"), flawed_adamw(none="break")],
        "A gradient that is None is taken for zeros, so the weight moves and its means shrink. It should be "
        "passed over altogether.": flawed_adamw(none="zeros"),
        "The count of a weight goes up where it has no gradient, too.": flawed_adamw(none="counted"),
        "The correction should be 1 - beta**t: first the power, then the difference. Here it is "
        "(1 - beta)**t.": [
            flawed_adamw(power=lambda beta, t: 1 - (1 - beta) ** t, power_of=which) for which in ("mv", "v")
        ],
        "The correction should be 1 - beta**t, with a power. Here it is 1 - beta * t.": [
            flawed_adamw(power=lambda beta, t: beta * t, power_of=which) for which in ("mv", "v")
        ],
        "t is one too large. In the first step of a weight it is 1.": flawed_adamw(t_more=1),
        "The corrections are exchanged: m is divided by 1 - beta1**t, v by 1 - beta2**t.": flawed_adamw(
            mix="correction"
        ),
        "beta and 1 - beta are exchanged: the old mean has the weight beta, what is new has 1 - beta.": [
            flawed_adamw(mix="mean")
        ],
        "eps stands inside the root. Take the root of v first.": flawed_adamw(eps="inside"),
        "eps is added before v is corrected. Divide v by 1 - beta2**t, take the root, then add eps.": [
            flawed_adamw(eps="early"),
        ],
        "eps plays no part. It is added to the root.": flawed_adamw(eps="none"),
        "It divides by v itself, without the root.": flawed_adamw(root=False),
        "v should be the running mean of the squared gradient.": flawed_adamw(square=False),
        "beta1 and beta2 have changed places: beta1 is for the gradient, beta2 for its square.": flawed_adamw(
            swapped=True
        ),
        "The new gradient enters a running mean with the weight 1 - beta, not with 1.": [
            flawed_adamw(one_minus=kept) for kept in ("m", "v", "")
        ],
        "The weights move up the slope: the step has to be subtracted.": flawed_adamw(sign=-1),
        "All weights share one pair of means. Each weight needs its own, in self.state[w].": flawed_adamw(
            memory="one"
        ),
        "The means start anew at every step. They have to be kept from step to step, in self.state[w].": [
            flawed_adamw(fresh=True),
        ],
        "One count of calls serves all weights. Each weight needs its own t, since one without a gradient is "
        "passed over.": flawed_adamw(count="step"),
        "t goes up once for every weight. Each weight needs its own count of steps.": flawed_adamw(
            count="weight"
        ),
        "beta1 and beta2 are those of the first group. Each group has its own.": flawed_adamw(
            settings=("first", "betas")
        ),
        "The learning rate is that of the first group. Each group has its own.": flawed_adamw(
            settings=("first", "lr")
        ),
        "A setting is read from self.defaults. Those are for groups that give none; read it from the "
        "group.": [flawed_adamw(settings=("default", *keys)) for keys in (["lr"], ["weight_decay"], [])],
        "All groups get the settings of the first one. Each has its own.": flawed_adamw(settings=("first",)),
        "A learning rate that is changed between two steps has no effect. Read group['lr'] at each step.": [
            flawed_adamw(rate="first"),
        ],
        "After saving and loading its state_dict it has forgotten its means. Keep all that it remembers in "
        "self.state[w].": flawed_adamw(memory="self"),
    },
    signs={
        "The weights have not moved. They have to be changed in place.": lambda case, got, expected: all(
            torch.equal(before, after) for before, after in zip(case[0], got["weights after step 1"])
        ),
        "The first step is right and the second is not. Look at what is remembered from one to the other.": (
            lambda case, got, expected: all(
                torch.allclose(mine, right, atol=1e-4)
                for mine, right in zip(got["weights after step 1"], expected["weights after step 1"])
            )
        ),
    },
)


# ---------------------------------------------------------------- 5.5 the schedule


def schedule(
    first=1, fall=0, total=0, share=lambda p: 0.5 * (1 + math.cos(math.pi * p)), whole=False, from_min=False,
    clamp=True, floor=True, both=False,
):  # fmt: skip
    """A warm-up and a fall that go wrong in one place."""

    def rate(step, max_lr, min_lr, warmup_steps, total_steps):
        if both:  # as a formula for all steps at once
            rise = (step + 1) / warmup_steps
            progress = (step - warmup_steps) / (total_steps - warmup_steps)
            return (
                max_lr * rise
                if step < warmup_steps
                else min_lr + (max_lr - min_lr) * share(min(1.0, progress))
            )
        if step < warmup_steps:
            rise = (step + first) / (warmup_steps + (first == 1) * fall)
            return min_lr + (max_lr - min_lr) * rise if from_min else max_lr * rise
        since = step if whole else step - warmup_steps
        progress = since / max(1, total_steps + total - (0 if whole else warmup_steps))
        progress = min(1.0, progress) if clamp else progress
        return min_lr + (max_lr - min_lr) * share(progress) if floor else max_lr * share(progress)

    return rate


def half_wave(progress):
    return (1 + math.cos(math.pi * progress)) / 2


def falling(progress, share=half_wave, rate=lambda share, high, low: low + (high - low) * share):
    """The right warm-up, and a fall with another progress, share of the range, or rate."""

    def answer(step, high, low, warm, total):
        if step < warm:
            return high * (step + 1) / warm
        return rate(share(min(1.0, progress(step, warm, max(warm + 1, total)))), high, low)

    return answer


def done(step, warm, total):
    return (step - warm) / (total - warm)


SCHEDULE = Exercise(
    right=warmup_cosine,
    cases=lambda draw: [
        (0, 1.0, 0.0, 4, 8),
        (3, 1.0, 0.0, 4, 8),
        (4, 1.0, 0.0, 4, 8),
        (5, 1.0, 0.0, 4, 8),
        (6, 1.0, 0.0, 4, 8),
        (7, 1.0, 0.0, 4, 8),
        (8, 1.0, 0.0, 4, 8),
        (1, 1.0, 0.5, 4, 8),
        (6, 1.0, 0.5, 4, 8),
        (9, 1.0, 0.5, 4, 8),
        (0, 1.0, 0.5, 0, 1),
        (3, 1.0, 0.5, 4, 4),
        (draw.whole(11, 17), draw.real(2, 3), draw.real(0.5, 1), draw.whole(5, 9), 20),
        (draw.whole(1, 4), draw.real(2, 3), draw.real(0.5, 1), draw.whole(6, 9), 20),
    ],
    mistakes={
        "The first step has the rate 0, and is wasted. The warm-up should begin with max_lr / "
        "warmup_steps.": [
            schedule(first=0),
        ],
        "The peak is never reached in the warm-up: its last step should have max_lr.": schedule(fall=1),
        "The last step has min_lr already. That would come one step later, at total_steps.": schedule(
            total=-1
        ),
        "The cosine counts its progress from step 0. It begins where the warm-up ends.": schedule(whole=True),
        "The progress counts steps from 0, and divides by the length of the fall alone. Subtract "
        "warmup_steps from the step too.": falling(lambda step, warm, total: step / (total - warm)),
        "The progress is divided by total_steps. The fall has only total_steps - warmup_steps "
        "steps.": falling(lambda step, warm, total: (step - warm) / total),
        "The fall is one step early: step `warmup_steps` should still have all of max_lr.": [
            falling(lambda step, warm, total: (step + 1 - warm) / (total - warm)),
        ],
        "Steps are counted from 0. It takes them as counted from 1.": [
            lambda step, high, low, warm, total: warmup_cosine(step - 1, high, low, warm, total),
        ],
        "The angle of the cosine runs from 0 to 1. It should run from 0 to pi.": falling(
            done, lambda p: (1 + math.cos(p)) / 2
        ),
        "A sine was taken. It is the cosine that falls from 1 to -1 between 0 and pi.": [
            falling(done, lambda p: (1 + math.sin(math.pi * p)) / 2),
            falling(done, lambda p: math.sin(math.pi * p)),
            falling(done, lambda p: 1 - math.sin(math.pi / 2 * p)),
        ],
        "The cosine runs down to 0 and is cut off at min_lr. It should share out the range between the two, "
        "and arrive at min_lr at the end.": falling(
            done, rate=lambda share, high, low: max(low, high * share)
        ),
        "max_lr plays no part in the fall.": [
            falling(done, rate=lambda share, high, low: share),
            falling(done, rate=lambda share, high, low: low + (1 - low) * share),
        ],
        "After the last step the rate is 0. It should stay at min_lr.": [
            lambda step, high, low, warm, total: (
                0.0 if step >= total else warmup_cosine(step, high, low, warm, total)
            ),
        ],
        "The rate falls along a straight line. It should fall along a cosine.": schedule(
            share=lambda p: 1 - p
        ),
        "A quarter of a wave was taken, which falls fastest at its end. Take half a wave, from cos 0 "
        "to cos pi.": [
            schedule(share=lambda p: math.cos(math.pi / 2 * p)),
        ],
        "A whole wave was taken, so the rate comes up again. Take half a wave, from the angle 0 to pi.": [
            schedule(share=lambda p: 0.5 * (1 + math.cos(2 * math.pi * p))),
        ],
        "The cosine itself runs from 1 to -1, so the rate falls below min_lr. Shift and halve it: "
        "from 1 to 0.": [
            schedule(share=lambda p: math.cos(math.pi * p)),
        ],
        "1 + cos runs from 2 to 0, so the rate is too high. Halve it.": schedule(
            share=lambda p: 1 + math.cos(math.pi * p)
        ),
        "The cosine rises where it should fall.": schedule(share=lambda p: 0.5 * (1 - math.cos(math.pi * p))),
        "min_lr has no effect on the fall: it should end there, not at 0.": schedule(floor=False),
        "The fall ends at min_lr, but starts above max_lr: only the range between the two follows "
        "the cosine.": [
            lambda step, high, low, warm, total: (
                warmup_cosine(step, high, 0, warm, total) + low * (step >= warm)
            ),
        ],
        "The warm-up starts from min_lr. It should rise in equal steps from 0, the first of them "
        "being already "
        "above it.": schedule(from_min=True),
        "There is no warm-up: the rate begins at its peak.": [
            lambda step, high, low, warm, total: (
                high if step < warm else warmup_cosine(step, high, low, warm, total)
            ),
            lambda step, high, low, warm, total: warmup_cosine(step, high, low, 0, total),
        ],
        "After the last step the cosine comes up again. The rate should stay at min_lr.": schedule(
            clamp=False
        ),
        "It divides by 0 where there is no warm-up, or nothing but warm-up.": schedule(both=True),
    },
    signs={
        "A rate below 0 would move the weights up the slope.": lambda case, got, expected: got < 0,
        "No rate should be above max_lr.": lambda case, got, expected: got > case[1] * 1.0001,
        "The warm-up is not right: step s, counted from 0, has (s + 1) / warmup_steps of the peak.": (
            lambda case, got, expected: case[0] < case[3]
        ),
    },
)


# ---------------------------------------------------------------- 5.6 clipping


def run_clip(answer, gradients, max_norm, as_iterator=False):
    params = [
        nn.Parameter(torch.zeros(2)) if g is None else nn.Parameter(torch.zeros_like(g)) for g in gradients
    ]
    for p, gradient in zip(params, gradients):
        p.grad = gradient
    norm = answer(iter(params) if as_iterator else params, max_norm)
    norm = norm.cpu() if isinstance(norm, torch.Tensor) else norm
    return {"the norm returned": norm, "gradients after it": [p.grad for p in params]}


def clip(measure=None, factor=None, said="before", once=False):
    """Clipping with another measure(gradients), another factor(norm, max_norm), or another result."""

    @torch.no_grad()
    def answer(params, max_norm):
        gradients = [p.grad for p in params if p.grad is not None]
        norm = torch.stack([g.norm() for g in gradients]).norm() if gradients else torch.tensor(0.0)
        norm = measure(gradients) if measure and gradients else norm
        by = factor(norm, max_norm) if factor else (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients if not once else [p.grad for p in params if p.grad is not None]:
            gradient.mul_(by)
        if said == "after" and gradients:
            return torch.stack([g.norm() for g in gradients]).norm()
        return norm

    return answer


@torch.no_grad()
def clip_each(params, max_norm):
    gradients = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([g.norm() for g in gradients]).norm() if gradients else torch.tensor(0.0)
    for gradient in gradients:
        gradient.mul_((max_norm / (gradient.norm() + 1e-6)).clamp(max=1.0))
    return norm


def clip_if_one(params, max_norm):
    """Only if one gradient alone is too long."""
    params = list(params)
    one = any(p.grad.norm() > max_norm for p in params if p.grad is not None)
    return clip_grad_norm_(params, max_norm if one else math.inf)


def clip_some(params, max_norm):
    """Only the gradients before the first that is None."""
    return clip_grad_norm_(list(itertools.takewhile(lambda p: p.grad is not None, params)), max_norm)


def clip_zeros(params, max_norm):
    """Every None becomes a gradient of zeros."""
    params = list(params)
    for p in params:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    return clip_grad_norm_(params, max_norm)


@torch.no_grad()
def clip_values(params, max_norm):
    gradients = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([g.norm() for g in gradients]).norm() if gradients else torch.tensor(0.0)
    for gradient in gradients:
        gradient.clamp_(-max_norm, max_norm)
    return norm


CLIP = Exercise(
    right=clip_grad_norm_,
    run=run_clip,
    inputs_stay=False,
    cases=lambda draw: [
        ([torch.tensor([3.0, 4.0])], 1.0),
        ([torch.tensor([3.0, 4.0])], 2.0),
        ([torch.tensor([0.3, 0.4])], 1.0),
        ([torch.tensor([0.9, 1.2])], 2.0),
        ([torch.tensor([0.3, 0.4])], 0.3),
        ([torch.tensor([0.9]), torch.tensor([0.9])], 1.0),
        ([torch.tensor([3.0]), torch.tensor([-4.0])], 1.0),
        ([torch.tensor([6.0]), None, torch.tensor([8.0])], 5.0),
        ([torch.tensor([0.0, 0.0])], 1.0),
        ([torch.tensor([3.0]), torch.tensor([4.0])], 1.0, True),
        ([None], 1.0),
        ([5 * draw.normal(2, 3), None, 3 * draw.normal(4), draw.normal(2, 2, 2)], draw.real(0.5, 2), True),
        ([0.1 * draw.normal(3), 0.1 * draw.normal(2, 2)], 9.0),
    ],
    mistakes={
        "Each parameter's gradient is clipped by itself, which changes the direction of the step. "
        "There is one "
        "norm for all.": [
            clip_each,
            lambda params, max_norm: torch.stack(
                [nn.utils.clip_grad_norm_([p], max_norm) for p in params]
            ).norm(),
        ],
        "Single numbers are cut off at max_norm, which changes the direction. All have to be "
        "multiplied by one "
        "factor.": clip_values,
        "It clips when the square of the norm is above max_norm. Compare the norm itself.": [
            clip(factor=lambda norm, max_norm: max_norm / norm if norm**2 > max_norm else 1.0),
        ],
        "It clips only if the gradient of one parameter alone is above max_norm. Compare the norm of all of "
        "them.": [clip_if_one],
        "It stops at the first parameter without a gradient. Pass over that one only.": clip_some,
        "A gradient that is None has become zeros. Leave it None: a step would pass over that parameter.": [
            clip_zeros
        ],
        "Small gradients are scaled up to max_norm. They should stay as they are.": [
            clip(factor=lambda norm, max_norm: max_norm / (norm + 1e-6)),
            clip(factor=lambda norm, max_norm: max_norm / norm if norm > 0 else 1.0),
            clip(factor=lambda norm, max_norm: max_norm / norm),
        ],
        "It returns the norm after the clipping. The norm before tells how wild the gradient was.": [
            clip(said="after"),
        ],
        "The norms of the parameters are added. The norm of the long vector is the root of the sum "
        "of their squares.": [
            clip(measure=lambda gradients: torch.stack([g.norm() for g in gradients]).sum()),
        ],
        "The root is missing: this is the sum of the squares.": [
            clip(measure=lambda gradients: torch.stack([(g * g).sum() for g in gradients]).sum()),
        ],
        "This is the largest number, or the largest norm, among the gradients. The norm is the "
        "length of all of them as "
        "one vector.": [
            clip(measure=lambda gradients: torch.stack([g.abs().max() for g in gradients]).max()),
            clip(measure=lambda gradients: torch.stack([g.norm() for g in gradients]).max()),
        ],
        "The norm is taken of the sum of absolute values. It is the root of the sum of squares.": [
            clip(measure=lambda gradients: torch.stack([g.abs().sum() for g in gradients]).sum()),
        ],
        "The norm is right, but the gradients are as before. Change them in place.": [
            clip(factor=lambda norm, max_norm: 1.0),
        ],
        "Gradients are scaled to the norm 1, whatever max_norm says.": [
            clip(factor=lambda norm, max_norm: 1.0 if norm <= max_norm else 1 / norm),
            clip(factor=lambda norm, max_norm: (1 / (norm + 1e-6)).clamp(max=1.0)),
        ],
        "An iterator, such as model.parameters(), can be gone through once, and this goes through it "
        "twice: the "
        "second time nothing comes. Make a list first.": clip(once=True),
        "It returns the factor. Return the norm before the clipping.": [
            lambda params, max_norm: (max_norm / (clip_grad_norm_(params, max_norm) + 1e-6)).clamp(max=1.0),
        ],
    },
    signs={
        "The norm should be a tensor without dimensions.": lambda case, got, expected: (
            got["the norm returned"].dim() > 0
        ),
        "The norm should be float32, as the gradients are.": lambda case, got, expected: (
            got["the norm returned"].dtype != torch.float32
        ),
        "The gradients after it are right; the norm that it returns is not.": lambda case, got, expected: (
            torch.is_tensor(got["the norm returned"]) and alike(got, expected, "gradients after it")
        ),
        "The direction has changed: all gradients have to be multiplied by the same factor.": (
            lambda case, got, expected: changed_direction(case[0], got["gradients after it"])
        ),
        "The norm is right, but the gradients are "
        "multiplied by a wrong factor.": lambda case, got, expected: torch.allclose(
            got["the norm returned"], expected["the norm returned"]
        ),
    },
)


def changed_direction(before, after):
    a, b = (torch.cat([g.flatten() for g in gradients if g is not None]) for gradients in (before, after))
    return F.cosine_similarity(a, b, dim=0) < 0.999


# ---------------------------------------------------------------- 5.7 a step with accumulation


def run_step(answer, embedding, output, batches, max_norm):
    """A step, two on a single piece; before the first there are gradients left over."""
    model = tiny_model(embedding, output)
    waiting, most = set(), [0]

    def seen(module, inputs, logits):
        if logits.requires_grad:
            waiting.add(mine := object())
            most[0] = max(most[0], len(waiting))
            logits.register_hook(lambda gradient: waiting.discard(mine))

    model.register_forward_hook(seen)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    result = {}
    for number in ("first", "second")[: 1 + (len(batches) == 1)]:
        told = answer(model, optimizer, batches, max_norm)
        if told is None:
            return None
        if not (isinstance(told, tuple) and len(told) == 2):
            return {"what it returns": "not a tuple of two"}
        result |= {f"loss of the {number} step": told[0], f"norm of the {number} step": told[1]}
        result[f"weights after the {number} step"] = weights_of(model)
    return result | {"several pieces wait for their backward": most[0] > 2}  # one may be passed over


def train_step(model, optimizer, batches, max_norm):
    """All micro-batches as one: possible here, since this model reads each token by itself."""
    inputs, targets = (torch.cat([part.flatten() for part in each]) for each in zip(*batches))
    loss = cross_entropy(model(inputs), targets)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for p, gradient in zip(model.parameters(), gradients):
        p.grad = gradient
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss.item(), norm.item()


def micro_steps(
    clear="first", divide="counted", step="once", clipped="before", said="all", norm_said="before",
    late=False, least=1, backward="each", mean=False,
):  # fmt: skip
    """train_step, wrong in what is given. late: gradients of sums, divided at the end."""

    def answer(model, optimizer, batches, max_norm):
        params, norm = list(model.parameters()), torch.tensor(0.0)
        counts = [int((targets != -100).sum()) for _, targets in batches]
        sizes, rows = [targets.numel() for _, targets in batches], sum(len(inputs) for inputs, _ in batches)
        losses, whole, running = [], 0.0, 0
        if clear in ("first", "once", "between"):
            optimizer.zero_grad()
        for (inputs, targets), count in zip(batches, counts):
            running += count
            if clear == "each":
                optimizer.zero_grad()
            n = {"counted": sum(counts), "size": sum(sizes), "own": count * len(batches), "nothing": 1,
                 "own only": count, "batches": len(batches), "rows": rows,
                 "running": running}[divide]  # fmt: skip
            loss = loss_of(model, inputs, targets, "mean" if mean else "sum") * (count if mean else 1)
            loss = loss / (n if divide.startswith("own") else max(least, n))
            whole = whole + loss if backward == "end" else loss
            if backward == "each":
                (loss * (max(1, n) if late else 1)).backward()
            losses.append(loss.item())
            if clipped == "each":
                norm = nn.utils.clip_grad_norm_(params, max_norm)
            if step == "each":
                norm = nn.utils.clip_grad_norm_(params, max_norm)
                optimizer.step()
                if clear not in ("never", "once"):
                    optimizer.zero_grad()
        if backward != "each":
            whole.backward()
        if clear == "between":
            optimizer.zero_grad()
        if late:
            for p in params:
                p.grad /= max(1, sum(counts))
        if clipped == "before" and step != "each":
            norm = nn.utils.clip_grad_norm_(params, max_norm)
        if clipped == "none":
            norm = nn.utils.clip_grad_norm_(params, math.inf)
        if norm_said == "after":
            norm = nn.utils.clip_grad_norm_(params, math.inf)
        if step != "each":
            optimizer.step()
        if clipped == "late":
            norm = nn.utils.clip_grad_norm_(params, max_norm)
        if clear == "last":
            optimizer.zero_grad()
        means = sum(count * loss for count, loss in zip(counts, losses))
        told = {"all": sum(losses), "last": losses[-1], "mean": sum(losses) / len(losses),
                "sum": sum(losses) * sum(counts), "weighted": means / max(1, sum(counts))}[said]  # fmt: skip
        return told, norm.item()

    return answer


def micro_batches(draw, V, masks):
    """A micro-batch for each mask, a list of rows of 0 and 1: targets with 0 do not count."""
    batches = []
    for mask in masks:
        shape = (len(mask), len(mask[0]))
        counted = torch.tensor(mask) == 1
        batches.append((draw.ids(V, *shape), draw.ids(V, *shape).where(counted, -100)))
    return batches


def step_cases(draw):
    small = torch.tensor([[1.0], [-1.0]]), torch.tensor([[0.5], [0.0]])
    one, other = torch.tensor([[0]]), torch.tensor([[1]])
    uneven = [([[1, 1, 1], [1, 1, 0]]), ([[1, 0, 0], [0, 0, 0]]), ([[1, 1, 0], [0, 0, 0]])]
    with_empty = [([[1, 1], [1, 0]]), ([[0, 0], [0, 0]]), ([[1, 0], [0, 0]])]

    def weights():
        return draw.normal(5, 9), draw.normal(5, 9)

    return [
        (*small, [(one, other)], 100.0),
        (*small, [(one, other)], 0.1),
        (*small, [(one, other), (other, one)], 100.0),
        (*small, [(torch.tensor([[0, 0, 1]]), torch.tensor([[1, 0, 0]])), (other, one)], 100.0),
        (*small, [(torch.tensor([[0, 1]]), torch.tensor([[1, -100]]))], 100.0),
        (*weights(), micro_batches(draw, 5, uneven), 100.0),
        (*weights(), micro_batches(draw, 5, uneven), 0.2),
        (*weights(), micro_batches(draw, 5, with_empty), 100.0),
        (*small, [(torch.tensor([[0, 1]]), torch.tensor([[-100, -100]]))], 100.0),
    ]


STEP = Exercise(
    right=train_step,
    run=run_step,
    cases=step_cases,
    mistakes={
        "Gradients from before this step are still in .grad, and are added to. Clear them before the first "
        "backward.": [micro_steps(clear="never"), micro_steps(clear="never", late=True)],
        "The gradients are cleared at the end only. What a broken-off step left behind is still there at the "
        "beginning of this one, so clear first.": [
            micro_steps(clear="last"),
            micro_steps(clear="last", late=True),
        ],
        "The gradients are cleared before every micro-batch, so only the last one has an effect. "
        "Clear once.": [
            micro_steps(clear="each"),
        ],
        "It averages the means of the micro-batches, so a target in a small one weighs more. Divide "
        "sums by the "
        "number of targets that count in all of them.": [
            micro_steps(divide="own"),
        ],
        "The means of the micro-batches are added up. Divide sums by the number of targets that "
        "count in all.": [
            micro_steps(divide="own only"),
            micro_steps(divide="own only", said="mean"),
        ],
        "It divides by all targets. Those that are -100 do not count.": micro_steps(divide="size"),
        "It divides by the number of rows. Divide by the number of targets that count.": micro_steps(
            divide="rows"
        ),
        "It divides a sum by the number of micro-batches. Divide by the number of targets that count.": [
            micro_steps(divide="batches"),
        ],
        "The gradient is that of a sum. Divide by the number of targets that count, before backward.": [
            micro_steps(divide="nothing"),
            micro_steps(divide="nothing", said="weighted"),
        ],
        "It takes a step for every micro-batch. All of them together make one step.": [
            micro_steps(step="each"),
            micro_steps(step="each", clear="never"),
            micro_steps(step="each", clear="once"),
            micro_steps(step="each", divide="own only", said="mean"),
        ],
        "The gradients are clipped after every micro-batch. "
        "Clip once, when all have been added.": micro_steps(clipped="each"),
        "The norm is right, and yet the step is taken as if nothing had been clipped. Clip between the last "
        "backward and the step.": [micro_steps(clipped="none"), micro_steps(clipped="late")],
        "The norm is the one after clipping. Return what it was before.": micro_steps(norm_said="after"),
        "The loss returned is that of the last micro-batch. It should be the mean over all that count.": [
            micro_steps(said="last"),
        ],
        "The step is right, but the loss returned is a sum. It should be the mean over all that count.": [
            micro_steps(said="sum"),
        ],
        "The loss returned is divided once more, by the number of micro-batches.": micro_steps(said="mean"),
        "It should return a tuple of two floats, the loss and the norm.": lambda *arguments: 0.0,
        "The loss and the norm have changed places.": lambda *arguments: train_step(*arguments)[::-1],
        "When no target counts it divides 0 by 0. The loss should be 0 then.": micro_steps(least=0),
        "F.cross_entropy gives NaN for the mean of a piece in which nothing counts, and 0 times NaN is NaN. "
        "Use sums.": micro_steps(mean=True),
        "There is one backward, after the loop, so all pieces are kept in memory until then. Each piece has "
        "its own backward.": micro_steps(backward="end"),
        "backward is called for the last piece only. Each piece has its own.": micro_steps(backward="last"),
        "The gradients are cleared between the last backward and the step, so that nothing is left of "
        "them.": micro_steps(clear="between"),
        "Targets are counted while the pieces go by, so the first ones are divided by too small a number. "
        "Count them all before.": micro_steps(divide="running"),
    },
    signs={
        "No weight has moved. Is there a step, after backward?": lambda case, got, expected: all(
            torch.equal(a, b) for a, b in zip(got["weights after the first step"], case[:2])
        ),
        "The weights are right after the step, but the loss that it returns is not the mean over all "
        "targets that "
        "count.": lambda case, got, expected: (
            isinstance(got["loss of the first step"], float)
            and alike(got, expected, "weights after the first step")
            and not same(got["loss of the first step"], expected["loss of the first step"])
        ),
        "The weights are right after the step, and so is the loss; the norm that it returns is "
        "not.": lambda case, got, expected: (
            isinstance(got["norm of the first step"], float)
            and same(got["loss of the first step"], expected["loss of the first step"])
            and alike(got, expected, "weights after the first step")
        ),
        "The loss is right; the gradient that the step uses is not.": lambda case, got, expected: (
            not alike(got, expected, "weights after the first step")
            and math.isclose(got["loss of the first step"], expected["loss of the first step"], rel_tol=1e-4)
        ),
    },
)


# ---------------------------------------------------------------- 5.8 the scaler


def run_scaler(answer, weights, gradients, scale, interval):
    """Steps of SGD, with a loss whose gradients are `gradients`, a list for each step."""
    params = [nn.Parameter(w.clone()) for w in weights]
    groups = [{"params": each} for each in (params[:1], params[1:]) if each]
    optimizer, scaler, result = torch.optim.SGD(groups, lr=1.0), answer(scale, interval), {}
    for step, of_step in enumerate(gradients, start=1):
        for w in params:
            w.grad = None
        there = [(w, g) for w, g in zip(params, of_step) if g is not None]
        bad = [(w, g) for w, g in there if not g.isfinite().all()]
        loss = sum((w * g.nan_to_num(0.0, 0.0, 0.0)).sum() for w, g in there)  # finite, whatever they are
        before, scaled = loss.item(), scaler.scaled(loss)
        scaled.backward()
        for w, g in bad:
            w.grad = w.grad.where(g.isfinite(), g)
        taken = scaler.step(optimizer)
        result[f"step {step}, weights"] = [p.detach().clone() for p in params]
        result[f"step {step}, returned"] = taken_or_not(taken)
        result[f"step {step}, scale"] = scaler.scale
        result[f"step {step}, the loss itself"] = "as before" if loss.item() == before else loss.item()
        if not bad:
            result[f"step {step}, gradients after it"] = [p.grad for p in params]
    return result


def taken_or_not(taken):
    """A tensor of one bool as a bool."""
    single = isinstance(taken, torch.Tensor) and taken.dtype == torch.bool and taken.numel() == 1
    return bool(taken) if single else taken


class LossScaler:
    """PyTorch's scaler, spoken to as the exercise says."""

    def __init__(self, scale=65536.0, interval=2000):
        self.first, self.interval, self.scaler = scale, interval, None

    @property
    def scale(self):
        return self.scaler.get_scale() if self.scaler else self.first

    def scaled(self, loss):
        if self.scaler is None:
            self.scaler = torch.amp.GradScaler(
                loss.device.type, init_scale=self.first, growth_interval=self.interval
            )
        return self.scaler.scale(loss)

    def step(self, optimizer):
        before = self.scale
        self.scaler.step(optimizer)
        self.scaler.update()
        return self.scale >= before


def flawed_scaler(
    looks=lambda g: bool(g.isfinite().all()), unscale="before", skip=True, halve=0.5, double=2.0,
    forget="both", first_only=False, said=True, multiply=True, grow=True, last_only=False, growth="at",
    groups="all", at_none="passed", steps="once", clears=False, least=0.0, bad_counts=False,
):  # fmt: skip
    """A scaler that is right but for what is given."""

    class Flawed:
        def __init__(self, scale=65536.0, interval=2000):
            self.scale, self.interval, self.good_steps = scale, interval, 0

        def scaled(self, loss):
            if multiply == "divide":
                return loss / self.scale
            if multiply == "in place":
                loss *= self.scale
                return loss
            return loss * self.scale if multiply else loss

        @torch.no_grad()
        def step(self, optimizer):
            params = []
            for group in optimizer.param_groups[: 1 if groups == "first" else None]:
                for p in group["params"]:
                    if p.grad is None and at_none == "break":
                        break
                    params += [p] if p.grad is not None else []
            looked_at = params[:1] if first_only else params[-1:] if last_only else params
            finite, scale = all([looks(p.grad) for p in looked_at]), self.scale
            if not finite:
                scale = scale // 2 if halve == "floor" else max(least, scale * halve)
            if finite or bad_counts:
                self.good_steps += 1
            else:
                self.good_steps *= forget not in ("both", "bad")
            enough = self.good_steps >= self.interval + (growth == "late")
            if grow and finite and (self.good_steps == self.interval if growth == "once" else enough):
                scale *= double
                self.good_steps *= forget not in ("both", "grown")
            for p in params:
                if unscale != "never":
                    by = self.scale if unscale in ("before", "times") else scale
                    p.grad *= by if unscale == "times" else 1 / by
                if skip == "zeros":
                    p.grad.nan_to_num_(0.0, 0.0, 0.0)
            if finite or skip is not True:
                for _ in optimizer.param_groups if steps == "each group" else "1":
                    optimizer.step()
            if clears:
                optimizer.zero_grad()
            self.scale = scale
            return {True: finite, None: None, "not": not finite, "always": True}[said]

    return Flawed


def scaler_cases(draw):
    one, two, infinite, nan = (torch.tensor([x]) for x in (1.0, 2.0, math.inf, math.nan))
    drawn = [[draw.normal(2), draw.normal(3), None] for _ in range(5)]
    bad, other = draw.choice([(1, 3), (3, 1), (0, 3)])
    drawn[bad][1][draw.whole(1, 2)], drawn[other][0][draw.whole(0, 1)] = math.inf, math.nan
    return [
        ([one], [[two]], 8.0, 4),
        ([one], [[infinite]], 8.0, 4),
        ([one], [[nan]], 8.0, 4),
        ([one], [[-infinite]], 8.0, 4),
        ([one], [[two], [two]], 8.0, 2),
        ([one], [[infinite], [two]], 8.0, 4),
        ([one], [[two], [two], [two], [two], [two]], 8.0, 2),
        ([one], [[two], [infinite], [two], [two]], 8.0, 2),
        ([one, two], [[two, infinite]], 8.0, 4),
        ([one, two], [[nan, two]], 8.0, 4),
        ([one, two], [[two, None]], 8.0, 4),
        ([one], [[infinite]], 1.0, 4),
        ([one, one, two], [[two, None, infinite]], 8.0, 4),
        ([torch.tensor([1.0, 2.0])], [[torch.tensor([2.0, math.inf])]], 8.0, 4),
        ([torch.tensor([1.0, 2.0])], [[torch.tensor([math.nan, 2.0])]], 8.0, 4),
        ([draw.normal(2), draw.normal(3), draw.normal(2, 2)], drawn, 32.0, 2),
    ]


SCALER = Exercise(
    right=LossScaler,
    run=run_scaler,
    cases=scaler_cases,
    mistakes={
        "The gradients still carry the scale when the step is taken. Divide them by it before.": [
            flawed_scaler(unscale="never"),
        ],
        "The loss is not multiplied by the scale, although the gradients are divided by it.": flawed_scaler(
            multiply=False
        ),
        "It looks at the first of the optimizer's groups only. Each group has parameters.": flawed_scaler(
            groups="first"
        ),
        "It stops at the first parameter without a gradient, so those after it are left out. Pass over that "
        "one only.": flawed_scaler(at_none="break"),
        "It takes a step for each group. optimizer.step() moves the parameters of all groups.": flawed_scaler(
            steps="each group"
        ),
        "It clears the gradients. Whoever trains may still want to look at them.": flawed_scaler(clears=True),
        "scaled changes the loss itself, and whoever prints it then sees it many times too large. Return a "
        "new tensor.": flawed_scaler(multiply="in place"),
        "scaled divides the loss by the scale. Multiply: small gradients are what has to grow.": [
            flawed_scaler(multiply="divide")
        ],
        "The gradients are multiplied by the scale once more. Divide them by it.": flawed_scaler(
            unscale="times"
        ),
        "It does not find a gradient that is infinite or NaN. Look at the gradients themselves: the loss can "
        "be finite all the same.": flawed_scaler(looks=lambda g: True),
        "The scale is not halved where it is small or odd. A half of 1 is 0.5, and that is a scale too.": [
            flawed_scaler(halve="floor"),
            flawed_scaler(least=1.0),
        ],
        "A bad step is counted as a good one. It sets the count back to 0.": [
            flawed_scaler(bad_counts=True),
            flawed_scaler(bad_counts=True, growth="once"),
        ],
        "After a doubling the count goes on, and never meets `interval` again. It should begin at 0 "
        "again.": flawed_scaler(growth="once", forget="bad"),
        "The step is taken although a gradient is not finite, and spoils the weights. Skip it.": [
            flawed_scaler(skip=False),
        ],
        "Infinite gradients are replaced by 0 and the step is taken. It should be skipped.": flawed_scaler(
            skip="zeros"
        ),
        "After a gradient that is not finite the scale stays. Halve it, or the next one overflows too.": [
            flawed_scaler(halve=1.0),
        ],
        "After a bad step the scale is doubled. A smaller scale is what helps.": flawed_scaler(halve=2.0),
        "NaN passes for a good gradient. Neither inf nor NaN is finite.": [
            flawed_scaler(looks=lambda g: not g.isinf().any()),
        ],
        "An infinite gradient passes for a good one. Neither NaN nor inf is finite.": [
            flawed_scaler(looks=lambda g: not g.isnan().any()),
        ],
        "Minus infinity passes for a good gradient.": [
            flawed_scaler(looks=lambda g: not (g.isnan() | (g == math.inf)).any()),
        ],
        "It looks at the gradient of one parameter only. A single number that is not finite, "
        "anywhere, spoils the step.": [
            flawed_scaler(first_only=True),
            flawed_scaler(last_only=True),
        ],
        "It looks at the first number of each gradient only. Look at all of them.": [
            flawed_scaler(looks=lambda g: bool(g.flatten()[0].isfinite())),
        ],
        "A gradient passes for good when some of its numbers are finite. All of them have to be.": [
            flawed_scaler(looks=lambda g: bool(g.isfinite().any())),
        ],
        "A bad step does not set the count back. It is `interval` good steps in a row that count.": [
            flawed_scaler(forget="grown"),
        ],
        "Once the scale has been doubled it goes on doubling at each step. The count should begin "
        "again at 0.": [
            flawed_scaler(forget="bad"),
        ],
        "The count is never set back, neither by a bad step nor by a doubling.": flawed_scaler(
            forget="never"
        ),
        "The scale never grows. After `interval` good steps in a row it should double.": flawed_scaler(
            grow=False
        ),
        "The scale grows one good step too late.": flawed_scaler(growth="late"),
        "The scale is changed before the gradients are divided by it. They carry the old one.": [
            flawed_scaler(unscale="after"),
        ],
        "step should return whether a step was taken, True or False; this returns None.": flawed_scaler(
            said=None
        ),
        "What step returns is the wrong way round: True means that a step was taken.": flawed_scaler(
            said="not"
        ),
        "step returns True even when it has skipped.": flawed_scaler(said="always"),
    },
    signs={
        "A weight is infinite or NaN after a step: a bad gradient got through.": lambda case, got, expected: (
            any(not w.isfinite().all() for key in got if key.endswith("weights") for w in got[key])
        ),
        "The weights are right after each step; the scale is not.": lambda case, got, expected: all(
            alike(got, expected, key) for key in expected if key.endswith("weights")
        ),
    },
)


# ---------------------------------------------------------------- 5.9, 5.10, 5.11 broken loops


class Batches(list):
    """A list of (inputs, targets) that is shown in one line."""

    def __repr__(self):
        return f"{len(self)} drawn: inputs and targets {', '.join(str(tuple(x.shape)) for x, _ in self)}"


def run_fit(answer, embedding, output, batches):
    model = tiny_model(embedding, output)
    losses = answer(model, torch.optim.SGD(model.parameters(), lr=0.5), batches)
    if losses is None:
        return None
    return {"losses": numbers(losses), "weights at the end": weights_of(model)}


def fit(model, optimizer, batches):
    losses = []
    for inputs, targets in batches:
        loss = loss_of(model, inputs, targets)
        for p, gradient in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters()))):
            p.grad = gradient
        optimizer.step()
        losses.append(loss.item())
    return losses


def flawed_fit(clear="before", said="item", mean=True, step="each", target="given", again=False, first=False):
    def answer(model, optimizer, batches):
        losses = []
        if clear == "once":
            optimizer.zero_grad()
        for number, (inputs, targets) in enumerate(batches):
            if clear == "first":
                optimizer.zero_grad()
            loss = loss_of(model, inputs, targets if target == "given" else inputs, "mean" if mean else "sum")
            if clear == "before":
                optimizer.zero_grad()
            loss.backward()
            if clear == "between":
                optimizer.zero_grad()
            if step == "each":
                optimizer.step()
            if clear == "every second" and number % 2:
                optimizer.zero_grad()
            if again:
                loss = loss_of(model, inputs, targets)
            losses.append(loss.item() if said == "item" else loss)
            if first:
                return losses
        if step == "last":
            optimizer.step()
        return losses

    return answer


def fit_cases(draw):
    pair = torch.tensor([[0]]), torch.tensor([[1]])
    small = torch.tensor([[1.0], [-1.0]]), torch.tensor([[0.5], [0.0]])

    def drawn():
        return (
            draw.normal(5, 9),
            draw.normal(5, 9),
            Batches((draw.ids(5, 2, 3), draw.ids(5, 2, 3)) for _ in range(4)),
        )

    return [(*small, [pair]), (*small, [pair, pair]), (*small, [pair, pair, pair]), drawn(), drawn()]


FIT = Exercise(
    right=fit,
    run=run_fit,
    cases=fit_cases,
    mistakes={
        "Each gradient is still added to those of all earlier batches, and every step uses their sum. What "
        "backward adds to has to be cleared for every batch.": [
            flawed_fit(clear="once"),
            flawed_fit(clear="never"),
        ],
        "The weights never move. Either no step is taken, or the gradients are cleared between backward and "
        "step, so that it has nothing to use.": [flawed_fit(clear="between"), flawed_fit(step="none")],
        "The gradients are cleared for some batches and not for others.": flawed_fit(clear="every second"),
        "A step is taken once, at the end. There should be one for every batch.": [
            flawed_fit(step="last"),
            flawed_fit(step="last", clear="once"),
        ],
        "The losses are tensors. Keep their numbers, as item() gives them: a tensor that is not detached "
        "holds on to all that it was computed from.": [
            flawed_fit(said="tensor"),
        ],
        "Each loss is measured after its step. Keep the one that the step was taken for.": flawed_fit(
            again=True
        ),
        "The loss is a sum. It was a mean, and the learning rate is made for that.": flawed_fit(mean=False),
        "The targets have been replaced by the inputs.": flawed_fit(target="inputs"),
        "It ends after the first batch. Does the return stand inside the loop?": flawed_fit(first=True),
    },
    signs={
        "The first loss is right and later ones are not, so it is the steps that are wrong.": (
            lambda case, got, expected: torch.isclose(got["losses"][0], expected["losses"][0])
        ),
    },
)


def run_measured(answer, embedding, output, batches, held_out, every):
    """With dropout; the random numbers are the same for every answer."""
    model = tiny_model(embedding, output, dropout=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        told = answer(model, torch.optim.SGD(model.parameters(), lr=0.5), batches, held_out, every)
    if told is None:
        return None
    if not (isinstance(told, tuple) and len(told) == 2):
        return {"what it returns": "not a tuple of two"}
    return {"training losses": numbers(told[0]), "held-out losses": numbers(told[1])}


def flawed_measured(back=True, quiet=True, weigh="tokens", train="start", first=False, every_step=False,
                    learn=False, clear=True):  # fmt: skip
    """Training with measurements that goes wrong in one place."""

    def answer(model, optimizer, batches, held_out, every):
        losses, measured = [], []
        model.train(train != "never")
        for step, (inputs, targets) in enumerate(batches, start=1):
            if train == "late" and step > 1:
                model.train(step % every != 1)
            loss = loss_of(model, inputs, targets)
            if clear:
                optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if (step if not first else step - 1) % every == 0 or every_step:
                if quiet:
                    model.eval()
                pieces = []
                for piece in held_out:
                    with torch.no_grad():
                        pieces.append(loss_of(model, *piece, "sum").item())
                    model.train(model.training or quiet == "first")
                counts = [targets.numel() for _, targets in held_out]
                if weigh == "tokens":
                    measured.append(sum(pieces) / sum(counts))
                elif weigh == "last":
                    measured.append(pieces[-1] / counts[-1])
                elif weigh == "sum":
                    measured.append(sum(pieces))
                else:
                    measured.append(sum(p / n for p, n in zip(pieces, counts)) / len(counts))
                if learn:
                    optimizer.zero_grad()
                    for piece in held_out:
                        loss_of(model, *piece).backward()
                    optimizer.step()
                model.train(back)
        return losses, measured

    return answer


def fit_and_measure(model, optimizer, batches, held_out, every):
    """The right loop, with a copy of the model to measure on: this one never leaves training mode."""
    losses, measured, n = [], [], sum(targets.numel() for _, targets in held_out)
    model.train()
    for first in range(0, len(batches), every):
        part = batches[first : first + every]
        losses += fit(model, optimizer, part)
        if len(part) == every:
            still = copy.deepcopy(model).eval()
            with torch.no_grad():
                measured.append(sum(loss_of(still, *piece, "sum").item() for piece in held_out) / n)
    return losses, measured


def measured_cases(draw):
    def drawn(steps, every):
        batches = Batches((draw.ids(5, 2, 6), draw.ids(5, 2, 6)) for _ in range(steps))
        held_out = Batches([(draw.ids(5, 3, 6), draw.ids(5, 3, 6)), (draw.ids(5, 1, 2), draw.ids(5, 1, 2))])
        return 2 * draw.normal(5, 9), draw.normal(5, 9), batches, held_out, every

    return [drawn(1, 1), drawn(2, 1), drawn(3, 2), drawn(5, 2), drawn(6, 3)]


MEASURED = Exercise(
    right=fit_and_measure,
    run=run_measured,
    cases=measured_cases,
    mistakes={
        "After the first measurement the model trains on without dropout: it is still in evaluation mode.": [
            flawed_measured(back=False),
        ],
        "The held-out loss is measured with dropout. Measuring needs evaluation mode, training needs "
        "the other.": [
            flawed_measured(quiet=False),
        ],
        "The model is in evaluation mode from the beginning, so there is no dropout in training.": [
            flawed_measured(train="never", back=False),
            flawed_measured(train="never"),
        ],
        "The held-out loss is a mean of the means of its pieces. It was the mean over all tokens; "
        "leave that.": [
            flawed_measured(weigh="pieces"),
        ],
        "The held-out loss is that of the last piece. It was the mean over all tokens; leave that.": [
            flawed_measured(weigh="last"),
        ],
        "The held-out loss is a sum over tokens. It was their mean; leave that.": flawed_measured(
            weigh="sum"
        ),
        "The model learns from the held-out text. It is there to measure on.": flawed_measured(learn=True),
        "It measures after every step, whatever `every` says.": flawed_measured(every_step=True),
        "It measures after the first step of each `every`, not after the last.": flawed_measured(first=True),
        "Gradients of earlier batches are not cleared any more.": flawed_measured(clear=False),
        "The model is back in training mode after the first piece of the held-out text, so the others are "
        "measured with dropout.": flawed_measured(quiet="first"),
        "The two lists have changed places. The training losses come first.": lambda *arguments: (
            fit_and_measure(*arguments)[::-1]
        ),
        "It should return a tuple of two lists, the training losses and the held-out losses.": (
            lambda *arguments: []
        ),
    },
    signs={
        "The held-out losses are right; the training "
        "losses are not, from some step on.": lambda case, got, expected: torch.allclose(
            got["held-out losses"], expected["held-out losses"], atol=1e-4
        ),
        "The training losses are right; the held-out losses are not.": lambda case, got, expected: (
            torch.allclose(got["training losses"], expected["training losses"], atol=1e-4)
        ),
    },
)


def run_best(answer, embedding, output, batches, held_out):
    """After it, one more step, which shows whether the optimizer went back too."""
    model = tiny_model(embedding, output)
    optimizer = best_optimizer(model)
    measured = answer(model, optimizer, batches, held_out)
    if measured is None:
        return None
    result = {"held-out losses": numbers(measured), "weights at the end": weights_of(model)}
    optimizer.zero_grad()
    loss_of(model, *batches[0]).backward()
    optimizer.step()
    return result | {"weights after one more step": weights_of(model)}


def flawed_best(
    weights=copy.deepcopy, memory=copy.deepcopy, back="both", better=lambda new, best: new < best,
    when="after", judge="held out",
):  # fmt: skip
    """Training that goes back to its best state and goes wrong in one place."""

    def answer(model, optimizer, batches, held_out):
        measured, best, lowest, last = [], None, None, None
        for inputs, targets in batches:
            if when == "before":
                before = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
            loss = loss_of(model, inputs, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                measured.append(loss_of(model, *held_out).item())
            value = loss.item() if judge == "training" else measured[-1]
            last, compared = value, last if judge == "the last" else lowest
            if lowest is None or better(value, compared):
                lowest, best = value, (weights(model.state_dict()), memory(optimizer.state_dict()))
                best = before if when == "before" else best
            elif when == "at once":
                model.load_state_dict(best[0])
                optimizer.load_state_dict(copy.deepcopy(best[1]))
        if back in ("both", "model"):
            model.load_state_dict(best[0])
        if back in ("both", "optimizer"):
            optimizer.load_state_dict(best[1])
        return measured

    return answer


def fit_to_best(model, optimizer, batches, held_out):
    """The right one, by going the way again: first find the best step, then take as many."""
    start, memory = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    measured = []
    for batch in batches:
        fit(model, optimizer, [batch])
        with torch.no_grad():
            measured.append(loss_of(model, *held_out).item())
    model.load_state_dict(start)
    optimizer.load_state_dict(memory)
    fit(model, optimizer, batches[: 1 + measured.index(min(measured))])
    return measured


def best_cases(draw):
    def made(V, D, shape):
        """Batches of one token over and over; of a rule for the V others, that of the held-out text; of
        another rule; of both again. Drawn until the best step can be told from all that is easily
        taken for it."""
        while True:
            shift = draw.whole(1, V - 2)
            inputs = torch.arange(shape[0] * shape[1]).view(shape) % V
            right, wrong = (inputs, (inputs + shift) % V), (inputs, (inputs + shift + 1) % V)
            one_token = torch.full(shape, V), torch.full(shape, V)
            batches = Batches([one_token] * 4 + [right] * 3 + [wrong] * 5 + [right] * 2 + [wrong] * 2)
            case = 0.5 * draw.normal(V + 1, D), 0.5 * draw.normal(V + 1, D), batches, right
            if can_be_told(*case):
                return case

    return [made(3, 11, (1, 3)), made(5, 7, (2, 5))]


def can_be_told(embedding, output, batches, held_out):
    """Whether the first step, the last, the best and worst on held-out text, the best in training and the
    last that made the held-out loss smaller differ."""
    model = tiny_model(embedding, output)
    optimizer, training, measured = best_optimizer(model), [], []
    for batch in batches:
        training += fit(model, optimizer, [batch])
        measured.append(loss_of(model, *held_out).item())
    places = [measured.index(min(measured)), measured.index(max(measured)), training.index(min(training))]
    places += [step for step in range(1, len(measured)) if measured[step] < measured[step - 1]][-1:]
    lowest, next_to_it = sorted(measured)[:2]
    return len({*places, 0, len(batches) - 1}) == 6 and next_to_it - lowest > 1e-3


def best_optimizer(model):
    return torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.5, 0.9), weight_decay=0.0)


def shallow(state):
    return dict(state)


BEST = Exercise(
    right=fit_to_best,
    run=run_best,
    cases=best_cases,
    mistakes={
        "The state that is put back is the last one, not the best. What state_dict gives are the weights "
        "themselves, and later steps change them; keep a copy of them. And is the lowest loss noted?": [
            flawed_best(weights=shallow, memory=shallow),
            flawed_best(weights=shallow, memory=shallow, back="none"),
        ],
        "The model goes back to its best weights, and the optimizer does not: its means are those of "
        "the last step.": [
            flawed_best(back="model"),
            flawed_best(memory=shallow),
        ],
        "The optimizer goes back to the best step, and the model does not.": [
            flawed_best(weights=shallow),
            flawed_best(back="optimizer"),
        ],
        "It goes back to the step with the highest held-out loss.": flawed_best(
            better=lambda new, best: new > best
        ),
        "The state is kept before the step whose loss is the lowest. It is the step after which it "
        "was measured.": [
            flawed_best(when="before"),
        ],
        "It goes back to the best loss in training. The best is judged on the held-out text.": flawed_best(
            judge="training"
        ),
        "It goes back to the last step that made the held-out loss smaller than the step before. Compare "
        "with the lowest so far.": flawed_best(judge="the last"),
        "It goes back to the beginning, or to the first step.": flawed_best(better=lambda new, best: False),
        "It goes back each time the held-out loss rises. It should train to the end and go back once.": [
            flawed_best(when="at once"),
        ],
    },
    signs={
        "The state at the end is right. What it returns should be all held-out losses, one a step, a list of "
        "floats.": lambda case, got, expected: all(
            alike(got, expected, key) for key in expected if key != "held-out losses"
        ),
        "The weights at the end are not those with the lowest held-out loss.": lambda case, got, expected: (
            not alike(got, expected, "weights at the end")
        ),
        "The weights are the best, but the next step from there is another one: the optimizer's "
        "memory does not "
        "belong to them.": lambda case, got, expected: alike(got, expected, "weights at the end"),
    },
)


# ---------------------------------------------------------------- 5.12 two translations


def run_translations(answers, total_nats, n_tokens, n_bytes):
    return {"perplexity": answers[0](total_nats, n_tokens), "bits per byte": answers[1](total_nats, n_bytes)}


def perplexity_of(total_nats, n_tokens):
    return perplexity(total_nats / n_tokens)


TRANSLATIONS = Exercise(
    right=(perplexity_of, bits_per_byte),
    run=run_translations,
    cases=lambda draw: [
        (math.log(2), 1, 1),
        (2 * math.log(2), 1, 1),
        (2 * math.log(4), 2, 1),
        (2 * math.log(8), 2, 3),
        (1e5, 50_000, 200_000),
        *((draw.real(20, 30), draw.whole(7, 9), draw.whole(30, 40)) for _ in range(2)),
    ],
    mistakes={
        "Bits and nats are exchanged: a nat is 1 / ln 2 bits, which is more than one.": [
            (perplexity_of, lambda nats, n: nats * math.log(2) / n),
        ],
        "The bits per byte are still nats per byte.": [(perplexity_of, lambda nats, n: nats / n)],
        "The bits of the whole text are not divided by its bytes.": [
            (perplexity_of, lambda nats, n: nats / math.log(2))
        ],
        "Bytes are divided by bits. It is bits per byte.": [
            (perplexity_of, lambda nats, n: n * math.log(2) / nats)
        ],
        "A byte was counted as 8 bits. The bits of surprise are divided by the number of bytes.": [
            (perplexity_of, lambda nats, n: nats / math.log(2) / (8 * n)),
        ],
        "The perplexity is taken of the sum. It is exp of the mean, nats per token.": [
            (lambda nats, n: perplexity(nats), bits_per_byte),
        ],
        "The perplexity is a power of 2, but the loss is in nats: it takes e.": [
            (lambda nats, n: 2 ** (nats / n), bits_per_byte),
        ],
        "This is the mean loss, in nats per token. The perplexity is its exponential.": [
            (lambda nats, n: nats / n, bits_per_byte),
        ],
        "The exponential is divided by the number of tokens. Divide first, then take the exponential.": [
            (lambda nats, n: perplexity(nats) / n, bits_per_byte),
        ],
        "The sign is wrong: a surprise of 0 is a perplexity of 1, and more surprise is more.": [
            (lambda nats, n: math.exp(-nats / n), bits_per_byte),
        ],
    },
    errors={
        "The surprise of a long text is too much for an exponential. Take it of the mean only; bits need "
        "none.": lambda case, error: isinstance(error, OverflowError),
    },
    signs={
        "A perplexity below 1 is not possible.": lambda case, got, expected: got["perplexity"] < 0.999,
    },
)

# ---------------------------------------------------------------- 5.13 which weights decay


class Layers(nn.Sequential):
    """Layers that are looked at and never run, with a repr of one line."""

    def __repr__(self):
        told = ", ".join(self.told(layer) for layer in self)
        embeddings = {m.weight for m in self.modules() if isinstance(m, nn.Embedding)}
        tied = any(m.weight in embeddings for m in self.modules() if isinstance(m, nn.Linear))
        return f"Sequential({told})" + " with the embedding's weight in the output layer" * tied

    @staticmethod
    def told(layer):
        if isinstance(layer, nn.Linear):
            sizes = f"{layer.in_features}, {layer.out_features}"
            return f"Linear({sizes}{', bias=False' * (layer.bias is None)})"
        if isinstance(layer, nn.Embedding):
            return f"Embedding({layer.num_embeddings}, {layer.embedding_dim})"
        return f"LayerNorm({layer.normalized_shape[0]})" if isinstance(layer, nn.LayerNorm) else repr(layer)


def tied(model, output, embedding):
    """The model, the layer `output` of which has the weight of the layer `embedding` from now on."""
    model[output].weight = model[embedding].weight
    return model


def tied_inside():
    """A tie with an embedding that is within another module."""
    model = Layers(Layers(nn.Embedding(5, 3)), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0][0].weight
    return model


def equal_and_untied():
    """An output layer that starts as a copy of the embedding, and learns by itself."""
    model = Layers(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight.data.copy_(model[0].weight)
    return model


def tied_to(found, shared=lambda p, e: p is e):
    """Matrices of linear layers decay, unless shared with one of the embeddings' weights found(model)."""

    def answer(model, weight_decay):
        matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
        inner = [m.weight for m in found(model) if isinstance(m, nn.Embedding)]

        def decays(p):
            return id(p) in matrices and not any(p.shape == e.shape and shared(p, e) for e in inner)

        return [
            {"params": [p for p in model.parameters() if decays(p)], "weight_decay": weight_decay},
            {"params": [p for p in model.parameters() if not decays(p)], "weight_decay": 0.0},
        ]

    return answer


def first_embedding(model):
    return [m for m in model.modules() if isinstance(m, nn.Embedding)][:1]


def embeddings_in_front(model, weight_decay):
    groups = parameter_groups(model, weight_decay)
    embeddings = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    groups[1]["params"].sort(key=lambda p: p not in embeddings)
    return groups


def run_groups(answer, model, weight_decay):
    names = {id(p): name for name, p in model.named_parameters()}

    def named(value):
        if isinstance(value, dict):
            return {key: told(each) if key == "params" else each for key, each in value.items()}
        return value

    def told(params):
        return [told_one(p) for p in params] if isinstance(params, list) else f"a {type(params).__name__}"

    def told_one(p):
        if isinstance(p, torch.Tensor):
            return names.get(id(p), "a strange tensor")
        return f"a {type(p).__name__}"

    groups = answer(model, weight_decay)
    return [named(group) for group in groups] if isinstance(groups, list) else groups


def grouped(decays, everywhere=lambda model: list(model.parameters()), first=None, second=0.0, turn=False):
    """decays(p, kinds) -> bool, of a parameter and the kinds of layers in which it is."""

    def answer(model, weight_decay):
        kinds = {p: [] for p in model.parameters()}
        for m in model.modules():
            for p in m.parameters(recurse=False):
                kinds[p].append(type(m))
        with_decay = [p for p in everywhere(model) if decays(p, kinds[p])]
        without = [p for p in everywhere(model) if not decays(p, kinds[p])]
        groups = [
            {"params": with_decay, "weight_decay": weight_decay if first is None else first},
            {"params": without, "weight_decay": weight_decay if second is None else second},
        ]
        return groups[::-1] if turn else groups

    return answer


def right_kind(p, kinds):
    return p.dim() == 2 and nn.Embedding not in kinds


def by_layers(once=False):
    """Going from layer to layer: a tied weight is met twice."""

    def answer(model, weight_decay):
        with_decay, without, seen = [], [], set()
        for m in model.modules():
            for name, p in m.named_parameters(recurse=False):
                if once and p in seen:
                    continue
                seen.add(p)
                (with_decay if isinstance(m, nn.Linear) and name == "weight" else without).append(p)
        return [
            {"params": with_decay, "weight_decay": weight_decay},
            {"params": without, "weight_decay": 0.0},
        ]

    return answer


def twice_without(model, weight_decay):
    embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    params = [p for m in model.modules() for p in m.parameters(recurse=False)]
    return [
        {"params": [p for p in params if p.dim() == 2 and p not in embeddings], "weight_decay": weight_decay},
        {"params": [p for p in params if p.dim() < 2 or p in embeddings], "weight_decay": 0.0},
    ]


def changed_params(change):
    def answer(model, weight_decay):
        names = {p: name for name, p in model.named_parameters()}
        groups = parameter_groups(model, weight_decay)
        return [group | {"params": [change(names[p], p) for p in group["params"]]} for group in groups]

    return answer


def top_level(model):
    return [p for m in model.children() for p in m.parameters(recurse=False)]


def names_in(groups):
    return [name for group in groups for name in group["params"]]


def wrongly(kinds, wanted):
    """A sign: in the group with decay stands a parameter that should not be there, of these kinds."""

    def sign(case, got, expected):
        modules = dict(case[0].named_modules())
        extra = set(got[0]["params"]) - set(expected[0]["params"])
        of = [(modules[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in extra]
        return any(isinstance(m, kinds) and wanted(which) for m, which in of)

    return sign


def groups_case(draw, n_blocks, V, D, wide):
    """A small model with two embeddings, blocks within it, and an output layer that is tied or not."""
    blocks = [
        Layers(nn.LayerNorm(D), nn.Linear(D, wide), nn.Linear(wide, D, bias=False)) for _ in range(n_blocks)
    ]
    embeddings = nn.Embedding(V, D), nn.Embedding(V + 3, D)
    model = Layers(*embeddings, *blocks, nn.LayerNorm(D), nn.Linear(D, V, bias=False))
    return tied(model, -1, 0) if n_blocks % 2 else model, draw.real(0.02, 0.08)


GROUPS = Exercise(
    right=parameter_groups,
    run=run_groups,
    cases=lambda draw: [
        (Layers(nn.Linear(2, 3)), 0.5),
        (Layers(nn.Embedding(4, 2)), 0.5),
        (Layers(nn.LayerNorm(2), nn.Linear(2, 3, bias=False)), 0.2),
        (Layers(nn.LayerNorm(3), nn.Embedding(4, 3)), 0.5),
        (tied(Layers(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)), 1, 0), 0.2),
        (tied(Layers(nn.Linear(3, 5, bias=False), nn.Linear(3, 4), nn.Embedding(5, 3)), 0, 2), 0.2),
        (tied(Layers(nn.Embedding(4, 3), nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)), 2, 1), 0.2),
        (tied_inside(), 0.2),
        (equal_and_untied(), 0.2),
        (Layers(nn.Embedding(6, 4), Layers(nn.LayerNorm(4), nn.Linear(4, 7)), nn.Linear(7, 6)), 0.3),
        *(groups_case(draw, *sizes) for sizes in ((2, 9, 4, 5), (3, 11, 6, 7))),
    ],
    mistakes={
        "The embeddings decay, since their weights are matrices too. They belong in the second group; the "
        "number of dimensions does not tell a linear layer from an embedding.": [
            grouped(lambda p, kinds: p.dim() == 2),
        ],
        "The output layer that shares its weight with the embedding makes it decay. A weight that is an "
        "embedding's belongs in the second group, wherever else it is used.": [
            grouped(lambda p, kinds: p.dim() == 2 and nn.Linear in kinds),
        ],
        "A shared weight goes where the layer is that comes first. It is an embedding's, so it belongs in "
        "the second group, whichever of the two layers comes first.": by_layers(once=True),
        "Only the first embedding, or the outermost ones, are looked at for a shared weight. Any embedding "
        "of the model may share it, also one within another module.": [
            tied_to(lambda model: model.children()),
            tied_to(first_embedding),
        ],
        "Weights that only have equal numbers are taken for shared. Shared is the same object.": tied_to(
            lambda model: model.modules(), shared=torch.equal
        ),
        "The embeddings stand in front of the rest of the second group; its order is that of "
        "`model.parameters()`.": embeddings_in_front,
        "The weight that output layer and embedding share stands in both groups. Each parameter should stand "
        "in one of them, and an optimizer would refuse this.": by_layers(),
        "The weight that output layer and embedding share stands twice in the second group. Each parameter "
        "should be there once, as in `model.parameters()`.": twice_without,
        "The biases of linear layers decay too. Of a linear layer, only the matrix decays.": [
            grouped(lambda p, kinds: nn.Linear in kinds and nn.Embedding not in kinds),
            grouped(lambda p, kinds: nn.Linear in kinds),
        ],
        "The weights of the norms decay. They are vectors around 1, and belong in the second group.": [
            grouped(lambda p, kinds: right_kind(p, kinds) or (nn.LayerNorm in kinds and bool(p.any()))),
        ],
        "Everything but the biases decays. The weights of norms and embeddings should not.": [
            grouped(lambda p, kinds: p.dim() == 2 or (nn.LayerNorm in kinds and bool(p.any()))),
        ],
        "Everything but the embeddings decays. Norms and biases should not.": [
            grouped(lambda p, kinds: nn.Embedding not in kinds),
        ],
        "All parameters are in the group with decay.": grouped(lambda p, kinds: True),
        "The two groups have changed places. The one with decay comes first.": grouped(right_kind, turn=True),
        "The parameters have changed places: matrices of linear layers stand in the group without "
        "decay, and all others in the one with it.": grouped(lambda p, kinds: not right_kind(p, kinds)),
        "Both groups have the decay. In the second it is 0.": grouped(right_kind, second=None),
        "Neither group decays. In the first, the decay is `weight_decay`.": grouped(right_kind, first=0.0),
        "The decay of the first group is always the same number, whatever `weight_decay` says.": [
            grouped(right_kind, first=0.1),
            grouped(right_kind, first=0.01),
        ],
        "It sees only the layers at the top, and not those within another. model.modules() and "
        "model.parameters() go all the way down.": grouped(right_kind, everywhere=top_level),
        'These are names. Under "params" the parameters themselves are wanted.': [
            changed_params(lambda name, p: name),
        ],
        'These are pairs of a name and a parameter. Under "params" the parameters alone are wanted.': [
            changed_params(lambda name, p: (name, p)),
        ],
    },
    errors={
        "`in` compares a tensor with all in a list, number by number, and that fails. To ask whether it is "
        "the same parameter, look it up in a set, or compare with `is`.": lambda case, error: (
            isinstance(error, RuntimeError)
            and any(words in str(error) for words in ("Boolean value of Tensor", "The size of tensor"))
        ),
    },
    signs={
        "There should be a list of two groups, also when one of them has no parameters.": (
            lambda case, got, expected: len(got) != 2
        ),
        'Under "params" there should be a list of parameters.': lambda case, got, expected: any(
            not isinstance(group["params"], list) for group in got
        ),
        "None is among the parameters. A linear layer without a bias has None in its place.": (
            lambda case, got, expected: "a NoneType" in names_in(got)
        ),
        "A tensor is there that is no parameter of the model, such as a copy or its `.data`. The optimizer "
        "needs the parameters themselves.": lambda case, got, expected: "a strange tensor" in names_in(got),
        "A parameter stands more than once in the groups.": lambda case, got, expected: (
            len(set(names_in(got))) < len(names_in(got))
        ),
        "A parameter stands in neither group, so it would not be trained at all.": (
            lambda case, got, expected: bool(set(names_in(expected)) - set(names_in(got)))
        ),
        "Each group has the right parameters, but not in the order of `model.parameters()`.": (
            lambda case, got, expected: all(
                sorted(a["params"]) == sorted(b["params"]) and a["params"] != b["params"] or a == b
                for a, b in zip(got, expected)
            )
        ),
        "There is an embedding among the parameters that decay.": wrongly(nn.Embedding, lambda which: True),
        "There is a parameter of a norm among those that decay.": wrongly(nn.LayerNorm, lambda which: True),
        "There is a bias among the parameters that decay.": wrongly(nn.Linear, lambda which: which == "bias"),
        "The matrix of a linear layer is missing among those that decay.": lambda case, got, expected: bool(
            set(expected[0]["params"]) - set(got[0]["params"])
        ),
    },
)


# ---------------------------------------------------------------- 5.14 a baseline that only counts


def table_of(ids, V):
    """How often b follows a in the ids: (V, V), float64, a row for each a."""
    table = torch.zeros(V, V, dtype=torch.float64, device=ids.device)
    once = torch.ones(len(ids) - 1, dtype=torch.float64, device=ids.device)
    return table.index_put((ids[:-1], ids[1:]), once, accumulate=True)


def bigram(
    p_of=lambda n, v, V: (n + v) / (n.sum(1, keepdim=True) + v * V),
    loss=lambda p: -p.log().mean(),
    counted=lambda train, held_out: train,
    table=table_of,
    size=lambda train, held_out, V: V,
    turned=False,
):
    """A loss of pairs that goes wrong in one place. p_of(table, virtual, V) -> (V, V), loss(p (M - 1,))."""

    def answer(train_ids, held_out_ids, vocab_size, virtual):
        V = size(train_ids, held_out_ids, vocab_size)
        p = p_of(table(counted(train_ids, held_out_ids), vocab_size), virtual, V)
        a, b = held_out_ids[:-1], held_out_ids[1:]
        return loss(p[b, a] if turned else p[a, b]).item()

    return answer


def by_python(p):
    """The loss as math.log and / give it, with their errors."""
    total = 0.0
    for x in p.tolist():
        if not math.isfinite(x):
            raise ZeroDivisionError("float division by zero")
        total -= math.log(x)
    return torch.tensor(total / len(p))


def smoothed(n, v, V):
    return (n + v) / (n.sum(1, keepdim=True) + v * V)


def passed_over(seen):
    """Wrong answers that leave out the held-out pairs that are not seen(table), from the sum or the mean."""
    return [
        bigram(lambda n, v, V: smoothed(n, v, V).where(seen(n), 1.0)),
        bigram(lambda n, v, V: smoothed(n, v, V).where(seen(n), math.nan), loss=lambda p: -p.log().nanmean()),
    ]


def distinct_pairs(train_ids, held_out_ids, vocab_size, virtual):
    p = smoothed(table_of(train_ids, vocab_size), virtual, vocab_size)
    pairs = torch.stack([held_out_ids[:-1], held_out_ids[1:]]).unique(dim=1)
    return -p[pairs[0], pairs[1]].log().mean().item()


def each_pair_once(ids, V):
    return table_of(ids, V).clamp(max=1)


def every_second(ids, V):
    pairs = ids[: len(ids) // 2 * 2].view(-1, 2)
    return sum((table_of(pair, V) for pair in pairs), torch.zeros(V, V, dtype=torch.float64).to(ids.device))


def all_places(train_ids, held_out_ids, vocab_size, virtual):
    n_a = torch.bincount(train_ids, minlength=vocab_size).unsqueeze(1)
    p = (table_of(train_ids, vocab_size) + virtual) / (n_a + virtual * vocab_size)
    return -p[held_out_ids[:-1], held_out_ids[1:]].log().mean().item()


def single_tokens(places):
    def answer(train_ids, held_out_ids, vocab_size, virtual):
        counts = torch.bincount(train_ids, minlength=vocab_size).double() + virtual
        return -(counts / counts.sum())[held_out_ids[places]].log().mean().item()

    return answer


def shared_like_unigram(plus):
    def answer(train_ids, held_out_ids, vocab_size, virtual):
        counts = torch.bincount(train_ids, minlength=vocab_size).double() + plus
        table = table_of(train_ids, vocab_size)
        p = (table + virtual * counts / counts.sum()) / (table.sum(1, keepdim=True) + virtual)
        return -p[held_out_ids[:-1], held_out_ids[1:]].log().mean().item()

    return answer


def bigram_case(draw, V, N, M, virtual):
    """A text whose pairs come again; it lacks the last two tokens, and ends with what is asked for."""
    train, held_out = draw.ids(V - 2, N), draw.ids(V, M)
    held_out[0] = train[-1]
    return train, held_out, V, virtual


BIGRAM = Exercise(
    right=bigram(),
    cases=lambda draw: [
        (torch.tensor([0, 1]), torch.tensor([0, 1]), 2, 1.0),
        (torch.tensor([0, 1]), torch.tensor([0, 0]), 3, 0.5),
        (torch.tensor([0, 1, 0, 1, 0]), torch.tensor([0, 1, 0, 1, 2]), 4, 1.0),
        (torch.tensor([0, 1, 0, 2, 0, 1]), torch.tensor([0, 1, 2]), 3, 1.0),
        (torch.tensor([2, 2, 2, 1]), torch.tensor([2, 2, 1, 4]), 6, 0.1),
        (torch.tensor([3]), torch.tensor([0, 3, 1]), 5, 2.0),
        bigram_case(draw, 6, 50, 9, draw.real(0.2, 0.4)),
        bigram_case(draw, 7, 90, 13, draw.real(2.0, 3.0)),
    ],
    mistakes={
        "The pairs are counted in the held-out ids, the very text that is asked about. Count in the "
        "training ids.": bigram(counted=lambda train, held_out: held_out),
        "The pairs of both texts are counted. The held-out ids are for the question alone.": [
            bigram(
                table=lambda both, V: table_of(both[0], V) + table_of(both[1], V),
                counted=lambda train, held_out: (train, held_out),
            ),
            bigram(counted=lambda train, held_out: torch.cat([train, held_out])),
        ],
        "It measures the loss on the training ids. They are for counting; the mean is over the pairs of the "
        "held-out ids.": lambda train, held_out, V, virtual: bigram()(train, train, V, virtual),
        "The two texts have changed places. Count in the training ids, and ask about the held-out ids.": [
            lambda train, held_out, V, virtual: bigram()(held_out, train, V, virtual),
        ],
        "The virtual counts are added above and not below the line, so the probabilities after a token sum "
        "to more than 1.": [
            bigram(lambda n, v, V: (n + v) / n.sum(1, keepdim=True), loss=loss)
            for loss in (lambda p: -p.log().mean(), by_python)
        ],
        "Below the line `virtual` is added once. Each of the vocab_size tokens got that much, so it comes "
        "vocab_size times.": bigram(lambda n, v, V: (n + v) / (n.sum(1, keepdim=True) + v)),
        "A pair that never occurred has probability 0, and an infinite surprise. It has virtual counts, "
        "above the line as well as below.": [
            bigram(p_of, loss=loss)
            for p_of in (
                lambda n, v, V: n / (n.sum(1, keepdim=True) + v * V),
                lambda n, v, V: n / n.sum(1, keepdim=True),
            )
            for loss in (lambda p: -p.log().mean(), by_python)
        ],
        "A token that begins no pair in the training ids is passed over. By its virtual counts each token "
        "comes after it with the probability 1 / V.": passed_over(lambda n: n.sum(1, keepdim=True) > 0),
        "Pairs that never occurred in the training ids are passed over. They are what surprises most, and "
        "they count.": passed_over(lambda n: n > 0),
        "It adds 1 to each count, whatever `virtual` says.": [
            bigram(lambda n, v, V: (n + 1) / (n.sum(1, keepdim=True) + V)),
        ],
        "`virtual` is shared out among the tokens. Here each of them gets all of it.": [
            bigram(lambda n, v, V: (n + v / V) / (n.sum(1, keepdim=True) + v)),
        ],
        "The virtual counts are shared out like the unigram, as in the chapter. Here each token gets the "
        "same, `virtual`.": [shared_like_unigram(1), shared_like_unigram(0)],
        "Below the line stands how often a occurs, its last place included. The last token of the training "
        "ids has no next token, so it begins no pair.": all_places,
        "Row and column have changed places: this is how probable a is after b. It should be b "
        "after a.": bigram(turned=True),
        "The table says which token comes before another. Its row should be for the first token of a pair "
        "and its column for the second.": bigram(lambda n, v, V: (n.T + v) / (n.sum(0).unsqueeze(1) + v * V)),
        "Each count is divided by how often the second token begins a pair, not the first. With keepdim the "
        "sums are a column, (V, 1), and each stands beside its row.": bigram(
            lambda n, v, V: (n + v) / (n.sum(1) + v * V)
        ),
        "The pair is looked up the right way, but divided by how often b is second. The probability of b "
        "after a needs how often a is first.": bigram(
            lambda n, v, V: (n + v) / (n.sum(0, keepdim=True) + v * V)
        ),
        "The pairs are looked up the wrong way round: it takes the count of (b, a), divided by how often a "
        "is first.": bigram(lambda n, v, V: (n.T + v) / (n.sum(1, keepdim=True) + v * V)),
        "This is the probability of a pair among all pairs. Divide by the pairs that begin with a, not by "
        "all.": bigram(lambda n, v, V: (n + v) / (n.sum() + v * V**2)),
        "Pairs are counted, but divided by the number of all pairs. After a come only those that begin "
        "with a.": bigram(lambda n, v, V: (n + v) / (n.sum() + v * V)),
        "Single tokens are counted: this is the unigram. Count which token follows which.": [
            single_tokens(slice(1, None)),
            single_tokens(slice(None)),
        ],
        "A pair that comes several times is counted once. `table[a, b] += 1` with whole tensors a and b adds "
        "1 to each place once; bincount, or a loop, counts all.": bigram(table=each_pair_once),
        "Only every second pair is counted. Pairs overlap: the second token of one is the first of the "
        "next.": bigram(table=every_second),
        "The vocabulary is not all tokens of the training ids, or up to the largest; it has `vocab_size`, "
        "and any of them can come.": [
            bigram(size=lambda train, held_out, V: len(train.unique())),
            bigram(size=lambda train, held_out, V: int(train.max()) + 1),
            bigram(size=lambda train, held_out, V: len(torch.cat([train, held_out]).unique())),
        ],
        "A softmax is taken of counts or of probabilities; F.cross_entropy takes one too. Counts become "
        "probabilities by a division, without an exponential.": [
            bigram(lambda n, v, V: smoothed(n, v, V).softmax(1)),
            bigram(lambda n, v, V: (n + v).softmax(1)),
        ],
        "A count is divided by how often a comes second in a pair. It should be how often it comes "
        "first.": bigram(lambda n, v, V: (n + v) / (n.sum(0).unsqueeze(1) + v * V)),
        "Below the line `virtual` is added for each pair of the table. It comes vocab_size times, since only "
        "the pairs that begin with a are there.": bigram(
            lambda n, v, V: (n + v) / (n.sum(1, keepdim=True) + v * V**2)
        ),
        "A held-out pair that comes several times counts once. The mean is over all places, M - 1 of them.": [
            distinct_pairs,
        ],
        "This is the sum over the pairs. Divide it by their number.": bigram(loss=lambda p: -p.log().sum()),
        "It divides by the number of held-out ids. There is one pair less.": bigram(
            loss=lambda p: -p.log().sum() / (len(p) + 1)
        ),
        "The logarithm is to the base 2 or 10. Nats take the natural one.": [
            bigram(loss=lambda p: -p.log2().mean()),
            bigram(loss=lambda p: -p.log10().mean()),
        ],
        "This is the logarithm of the mean probability. Take the logarithm of each, then the mean.": [
            bigram(loss=lambda p: -p.mean().log()),
        ],
        "This is the perplexity, e to the loss.": bigram(loss=lambda p: (-p.log().mean()).exp()),
        "The sign is wrong: a surprise is -ln p, which is never below 0.": bigram(
            loss=lambda p: p.log().mean()
        ),
        "This is the mean probability. The loss is the mean of -ln p.": bigram(loss=lambda p: p.mean()),
    },
    errors={
        "A probability is 0, or a count by which it divides is. The virtual counts belong above and below "
        "the line, so that neither happens.": lambda case, error: (
            isinstance(error, ZeroDivisionError) or "math domain" in str(error)
        ),
        "It looks up a pair that does not occur in the training ids. Its count is 0.": (
            lambda case, error: isinstance(error, KeyError)
        ),
    },
    signs={
        "The mean surprise cannot be below 0: some probability is above 1.": (
            lambda case, got, expected: got < 0
        ),
        "When nothing was counted, each token should be equally probable, and the loss ln(vocab_size).": (
            lambda case, got, expected: len(case[0]) == 1
        ),
    },
)

check = checker(
    {
        "5.1": WINDOWS,
        "5.2": CROSS_ENTROPY,
        "5.3": CROSS_ENTROPY_GRAD,
        "5.4": ADAMW,
        "5.5": SCHEDULE,
        "5.6": CLIP,
        "5.7": STEP,
        "5.8": SCALER,
        "5.9": FIT,
        "5.10": MEASURED,
        "5.11": BEST,
        "5.12": TRANSLATIONS,
        "5.13": GROUPS,
        "5.14": BIGRAM,
    }
)
