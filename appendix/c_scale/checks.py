"""The checks of appendix C's exercises: what is right, on which inputs, and the usual mistakes by name."""

# Written by hand: what learners get wrong, in words.

import math

import torch
import torch.nn.functional as F

from ch01_tokenization.checking import Exercise, checker

__all__ = ["check"]


# ---------------------------------------------------------------- C.1 bytes of a step


def step_bytes(n_parameters, tokens, n_layers, d_model, kept=16, checkpointed=False):
    units = n_layers + kept if checkpointed else n_layers * kept
    return 16 * n_parameters + 4 * tokens * d_model * units


def flawed_bytes(per_parameter=4, number=4, saved=lambda L, kept: L + kept, plain=lambda L, kept: L * kept):
    def count(n_parameters, tokens, n_layers, d_model, kept=16, checkpointed=False):
        units = (saved if checkpointed else plain)(n_layers, kept)
        return number * (per_parameter * n_parameters + tokens * d_model * units)

    return count


BYTES = Exercise(
    right=step_bytes,
    cases=lambda draw: [
        (1, 0, 1, 1),
        (0, 1, 1, 1),
        (0, 1, 1, 1, 5),
        (0, 1, 3, 1),
        (0, 1, 1, 1, 16, True),
        (0, 1, 3, 1, 5, True),
        (10, 3, 2, 4),
        (10, 3, 2, 4, 16, True),
        *(
            tuple(draw.whole(2, 90) for _ in range(3)) + (draw.whole(91, 300), draw.whole(6, 40), flag)
            for flag in (False, True)
        ),
    ],
    mistakes={
        "There is one number too few for each parameter: weight, gradient, and AdamW keeps two means.": [
            flawed_bytes(3)
        ],
        "Only the weights are counted. Each has a gradient too, and two means of AdamW.": flawed_bytes(1),
        "AdamW's two means are missing: beside weight and gradient there are two more numbers for each "
        "parameter.": flawed_bytes(2),
        "These are numbers, not bytes: a float32 has 4 bytes.": flawed_bytes(number=1),
        "float32 has 4 bytes, not 2.": flawed_bytes(number=2),
        "A float32 has 32 bits, and these are 4 bytes, not 8.": flawed_bytes(number=8),
        "Checkpointed, the inputs of the blocks are counted, but not the one block that is computed again "
        "with all that it keeps.": flawed_bytes(saved=lambda L, kept: L),
        "Checkpointed, the block that is computed again is counted, but not the inputs that all blocks "
        "keep.": (flawed_bytes(saved=lambda L, kept: kept)),
        "Checkpointing makes no difference: is the last argument used?": flawed_bytes(
            saved=lambda L, kept: L * kept
        ),
        "Only one block's activations are counted: all n_layers keep theirs.": [
            flawed_bytes(plain=lambda L, kept: kept),
            flawed_bytes(plain=lambda L, kept: kept, saved=lambda L, kept: 1 + kept),
        ],
        "One block keeps `kept` units, and that need not be 16.": [
            flawed_bytes(plain=lambda L, kept: L * 16),
            flawed_bytes(plain=lambda L, kept: L * 16, saved=lambda L, kept: L + 16),
        ],
        "Checkpointed, the inputs are added to everything that the blocks keep. They are kept in its "
        "place.": (flawed_bytes(saved=lambda L, kept: L + L * kept)),
    },
    signs={
        "The parameters are counted right, and the activations are not.": (
            lambda case, got, expected: case[1] > 0 and got != expected
        ),
    },
)


# ---------------------------------------------------------------- C.2 checkpointing by hand


class Recompute(torch.autograd.Function):
    @staticmethod
    def forward(context, function, x):
        context.function, context.state = function, torch.get_rng_state()
        context.save_for_backward(x)
        return function(x)

    @staticmethod
    def backward(context, gradient):
        now = torch.get_rng_state()
        torch.set_rng_state(context.state)
        x = context.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = context.function(x)
        torch.set_rng_state(now)
        torch.autograd.backward(y, gradient)
        return None, x.grad


def flawed_recompute(noted=True, put_back=True, gradient=True, parameters=True, keeps=False):
    class Flawed(torch.autograd.Function):
        @staticmethod
        def forward(context, function, x):
            context.function, context.state = function, torch.get_rng_state()
            context.save_for_backward(x)
            if keeps:
                context.x = x.detach().requires_grad_()
                with torch.enable_grad():
                    context.y = function(context.x)
                return context.y.detach()
            return function(x)

        @staticmethod
        def backward(context, upstream):
            now = torch.get_rng_state()
            if keeps:
                torch.autograd.backward(context.y, upstream)
                return None, context.x.grad
            if noted:
                torch.set_rng_state(context.state)
            x = context.saved_tensors[0].detach().requires_grad_()
            with torch.enable_grad():
                y = context.function(x)
            if put_back:
                torch.set_rng_state(now)
            upstream = upstream if gradient else torch.ones_like(upstream)
            if not parameters:
                return None, torch.autograd.grad(y, x, upstream)[0]
            torch.autograd.backward(y, upstream)
            return None, x.grad

    return Flawed


def run_recompute(answer, x, weight, upstream, dropout, before):
    """A function with a weight and dropout, forward and backward; the weight has a gradient before."""
    x, runs = x.clone().requires_grad_(), []
    weight = weight.clone().requires_grad_()
    if before:
        weight.grad = torch.ones_like(weight)

    def function(x):
        runs.append(torch.is_grad_enabled())
        return F.dropout(torch.tanh(x @ weight), dropout)

    torch.manual_seed(int(1000 * x.detach().abs().sum()))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        y = answer.apply(function, x * 1.0)
    runs_forward = len(runs)
    torch.rand(3)  # the generator goes on between the two passes
    y.backward(upstream)
    after = torch.rand(2)
    return {
        "the result": y.detach(),
        "how often the function ran in the forward pass": runs_forward,
        "how often the function ran in all": len(runs),
        "the gradient of x": x.grad,
        "the gradient of the weight": weight.grad,
        "the next random numbers": after,
        "nothing but x is kept": sum(kept) <= x.numel(),
    }


RECOMPUTE = Exercise(
    right=Recompute,
    run=run_recompute,
    cases=lambda draw: [
        (torch.tensor([[1.0]]), torch.tensor([[0.5]]), torch.tensor([[1.0]]), 0.0, False),
        (torch.tensor([[1.0]]), torch.tensor([[0.5]]), torch.tensor([[2.0]]), 0.0, False),
        (torch.tensor([[1.0]]), torch.tensor([[0.5]]), torch.tensor([[2.0]]), 0.0, True),
        (draw.normal(3, 20), draw.normal(20, 30), draw.normal(3, 30), 0.5, False),
        (draw.normal(4, 15), draw.normal(15, 25), draw.normal(4, 25), 0.4, True),
    ],
    mistakes={
        "The second run draws other random numbers than the first: set the generator to the state that "
        "it had "
        "before the first run.": [
            flawed_recompute(noted=False),
            flawed_recompute(noted=False, put_back=False),
        ],
        "The generator is left where the second run has put it. Set it back to where backward found it.": (
            flawed_recompute(put_back=False)
        ),
        "The gradient that comes in is not used: the result may be a part of a longer computation.": (
            flawed_recompute(gradient=False)
        ),
        "The gradient of x is right, and the parameters inside get none. torch.autograd.backward adds to the "
        ".grad of all of them; torch.autograd.grad does not.": flawed_recompute(parameters=False),
        "The function runs once only, so everything inside was kept from the forward pass on.": (
            flawed_recompute(keeps=True)
        ),
    },
    errors={
        "Inside of backward PyTorch keeps nothing for gradients unless it is told to: run the function under "
        "torch.enable_grad().": lambda case, error: "does not require grad" in str(error),
        "forward has two arguments after the context, so backward returns two values: None for the function, "
        "and the gradient of x.": lambda case, error: "incorrect number of gradients" in str(error),
    },
    signs={
        "The gradient of x arrives, times something: is it added up twice?": (
            lambda case, got, expected: torch.allclose(
                got["the gradient of x"], 2 * expected["the gradient of x"]
            )
        ),
        "The weight had a gradient before, and it was thrown away: gradients are added up.": (
            lambda case, got, expected: (
                case[4]
                and torch.allclose(
                    got["the gradient of the weight"] + 1, expected["the gradient of the weight"]
                )
            )
        ),
        "The gradient of x is zero: was the graph of the second run cut?": (
            lambda case, got, expected: not got["the gradient of x"].any()
        ),
    },
)


# ---------------------------------------------------------------- C.3 the mean of unequal parts


def combine(gradients, n_targets):
    total = sum(n_targets)
    parts = [n / max(1, total) * g for g, n in zip(gradients, n_targets) if n]
    return torch.stack(parts).sum(dim=0) if parts else torch.zeros_like(gradients[0])


def weighted(weight, divide, skip=True):
    def average(gradients, n_targets):
        used = [(g, n) for g, n in zip(gradients, n_targets) if n or not skip]
        total = torch.zeros_like(gradients[0])
        for g, n in used:
            total = total + weight(n) * g
        return total / divide(n_targets)

    return average


def no_guard(gradients, n_targets):
    return sum(n * g for g, n in zip(gradients, n_targets) if n) / sum(n_targets)


NAN = math.nan

COMBINE = Exercise(
    right=combine,
    cases=lambda draw: [
        ([torch.tensor([2.0])], [3]),
        ([torch.tensor([2.0]), torch.tensor([6.0])], [1, 3]),
        ([torch.tensor([2.0]), torch.tensor([6.0])], [1, 0]),
        ([torch.tensor([2.0]), torch.tensor([NAN])], [1, 0]),
        ([torch.tensor([NAN]), torch.tensor([2.0]), torch.tensor([4.0])], [0, 1, 2]),
        ([torch.tensor([NAN, NAN])], [0]),
        ([torch.tensor([NAN]), torch.tensor([NAN])], [0, 0]),
        ([draw.normal(2, 3) for _ in range(3)], [draw.whole(1, 4), draw.whole(5, 9), draw.whole(10, 20)]),
        ([draw.normal(4) for _ in range(4)], [draw.whole(1, 4), 0, draw.whole(5, 9), draw.whole(10, 20)]),
    ],
    mistakes={
        "This is the plain mean over the ranks, in which a rank with few targets counts as much as one with "
        "many.": [
            weighted(lambda n: 1, len, skip=False),
            weighted(lambda n: 1, lambda ns: max(1, sum(n > 0 for n in ns))),
        ],
        "The gradients are added up: they are of means, so the sum is too large.": [
            weighted(lambda n: 1, lambda ns: 1, skip=False),
            weighted(lambda n: 1, lambda ns: 1),
        ],
        "Each gradient is multiplied by its number of targets, and the sum is not divided by all targets.": [
            weighted(lambda n: n, lambda ns: 1),
            weighted(lambda n: n, lambda ns: 1, skip=False),
        ],
        "The weighted sum is divided by the number of ranks, not by the number of targets.": [
            weighted(lambda n: n, len),
            weighted(lambda n: n, len, skip=False),
        ],
        "A rank without targets may have NaN, and 0 times NaN is NaN: leave it out.": [
            weighted(lambda n: n, lambda ns: max(1, sum(ns)), skip=False),
            weighted(lambda n: n, sum, skip=False),
        ],
        "The gradients are treated as those of sums. They are of means: multiply each by its number of "
        "targets first.": [
            weighted(lambda n: 1, lambda ns: max(1, sum(ns))),
            weighted(lambda n: 1, lambda ns: max(1, sum(ns)), skip=False),
        ],
        "With no targets at all it divides by 0; the result should be zeros.": [
            weighted(lambda n: n, sum),
            no_guard,
        ],
    },
    signs={
        "NaN from a rank that has no targets gets into the result.": (
            lambda case, got, expected: bool(got.isnan().any())
        ),
    },
)


# ---------------------------------------------------------------- C.4 back through a tile


def tile_gradients(q, k, v, output, gradient, lse):
    return tile_with()(q, k, v, output, gradient, lse)


def tile_with(
    scale=lambda d: d**-0.5,
    back=None,
    weights_of=lambda s, lse: (s - lse.unsqueeze(1)).exp(),
    delta_of=lambda o, g, p, dp: (o * g).sum(1, keepdim=True),
    dscores_of=lambda p, dp, delta: p * (dp - delta),
    order=(0, 1, 2),
):
    def gradients(q, k, v, output, gradient, lse):
        d = q.size(1)
        p = weights_of(q @ k.T * scale(d), lse)
        dp = gradient @ v.T
        ds = dscores_of(p, dp, delta_of(output, gradient, p, dp)) * (back or scale)(d)
        three = ds @ k, ds.T @ q, p.T @ gradient
        return tuple(three[place] for place in order)

    return gradients


def tile_case(draw, n, m, d, e, more, dtype=torch.float32):
    """A tile of m keys, of m + more in all."""
    q, gradient = draw.normal(n, d), draw.normal(n, e)
    keys, values = draw.normal(m + more, d), draw.normal(m + more, e)
    scores = q @ keys.T / math.sqrt(d)
    output, lse = scores.softmax(dim=1) @ values, scores.logsumexp(dim=1)
    return tuple(x.to(dtype) for x in (q, keys[:m], values[:m], output, gradient, lse))


def numbers(*values):
    return tuple(torch.tensor(value) for value in values)


TILE = Exercise(
    right=tile_gradients,
    cases=lambda draw: [
        numbers([[0.0]], [[1.0]], [[2.0]], [[3.0]], [[1.0]], [math.log(2)]),
        numbers([[1.0]], [[1.0]], [[2.0]], [[3.0]], [[2.0]], [2.0]),
        numbers([[1.0, 2.0]], [[1.0, 0.5]], [[2.0]], [[3.0]], [[2.0]], [2.0]),
        tile_case(draw, 2, 3, 4, 5, 3),
        tile_case(draw, 3, 2, 5, 4, 0),
        tile_case(draw, 4, 3, 2, 6, 5, torch.float64),
    ],
    mistakes={
        "The weights have the sum 1 over this tile: they are from a softmax of its scores. The other keys of "
        "the row are in lse only.": [
            tile_with(weights_of=lambda s, lse: s.softmax(dim=1)),
            tile_with(
                weights_of=lambda s, lse: s.softmax(dim=1),
                delta_of=lambda o, g, p, dp: (p * dp).sum(1, keepdim=True),
            ),
        ],
        "delta is summed over this tile. It belongs to the whole row: take it from output and gradient.": (
            tile_with(delta_of=lambda o, g, p, dp: (p * dp).sum(1, keepdim=True))
        ),
        "delta is missing: a softmax takes the mean off the derivatives of its weights.": tile_with(
            delta_of=lambda o, g, p, dp: 0
        ),
        "The scores are not divided by the root of d before the exponential.": [
            tile_with(scale=lambda d: 1.0, back=lambda d: d**-0.5),
            tile_with(scale=lambda d: 1.0),
        ],
        "The derivative of the scores is not divided by the root of d on its way to dq and dk.": tile_with(
            back=lambda d: 1.0
        ),
        "The scores are divided by d, not by its root.": [
            tile_with(scale=lambda d: 1 / d),
            tile_with(scale=lambda d: 1 / d, back=lambda d: d**-0.5),
        ],
        "The derivative of the scores is not multiplied by the weights.": tile_with(
            dscores_of=lambda p, dp, delta: dp - delta
        ),
        "The three gradients are in another order than dq, dk, dv.": [
            tile_with(order=(2, 1, 0)),
            tile_with(order=(1, 0, 2)),
            tile_with(order=(0, 2, 1)),
            tile_with(order=(1, 2, 0)),
            tile_with(order=(2, 0, 1)),
        ],
        "lse is not taken off the scores, so these are exponentials and not weights.": tile_with(
            weights_of=lambda s, lse: s.exp()
        ),
        "The exponentials are divided by lse. It is a logarithm: subtract it from the scores, or divide "
        "by its "
        "exponential.": tile_with(weights_of=lambda s, lse: s.exp() / lse.unsqueeze(1)),
        "delta is the mean of output * gradient over the row; it should be their sum.": tile_with(
            delta_of=lambda o, g, p, dp: (o * g).mean(1, keepdim=True)
        ),
        "delta has the wrong sign: it is taken off the derivative of the weights.": tile_with(
            dscores_of=lambda p, dp, delta: p * (dp + delta)
        ),
        "delta is one sum over all rows; each row has its own.": tile_with(
            delta_of=lambda o, g, p, dp: (o * g).sum()
        ),
    },
    signs={
        "dv is right, so the weights are. Look at the way from the weights to the scores.": (
            lambda case, got, expected: torch.allclose(got[2], expected[2], atol=1e-5)
        ),
        "dv is wrong, and it needs the weights and the gradient only.": (
            lambda case, got, expected: not torch.allclose(got[2], expected[2], atol=1e-5)
        ),
    },
)


# ---------------------------------------------------------------- C.5 a layer on two machines


def split_feed_forward(x, up, down, n_ranks):
    pieces = zip(up.chunk(n_ranks), down.chunk(n_ranks, dim=1))
    return [F.linear(F.gelu(F.linear(x, a)), b) for a, b in pieces]


def cut_other(x, up, down, n_ranks):
    """Cut along D: each rank has a part of every hidden sum."""
    width = up.size(1) // n_ranks
    parts = []
    for r in range(n_ranks):
        own = slice(r * width, (r + 1) * width)
        parts.append(F.linear(F.gelu(F.linear(x[:, own], up[:, own])), down))
    return parts


def whole_then_cut(x, up, down, n_ranks):
    return [F.linear(F.gelu(F.linear(x, up)), down) / n_ranks for _ in range(n_ranks)]


def layer(activation=F.gelu, pieces=lambda up, down, n: (up.chunk(n), down.chunk(n, dim=1)), end=list):
    return lambda x, up, down, n: end(
        [F.linear(activation(F.linear(x, a)), b) for a, b in zip(*pieces(up, down, n))]
    )


def strided(up, down, n):
    return [up[r::n] for r in range(n)], [down[:, r::n] for r in range(n)]


def crossed(up, down, n):
    return up.chunk(n), down.chunk(n, dim=1)[::-1]


SPLIT = Exercise(
    right=split_feed_forward,
    cases=lambda draw: [
        (*numbers([[1.0, 2.0]], [[1.0, 0.5], [-1.0, 1.0]], [[2.0, 3.0], [1.0, -1.0]]), 2),
        (torch.tensor([[1.0]]), torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0, 3.0]]), 1),
        (draw.normal(1, 2), draw.normal(4, 2), draw.normal(2, 4), 2),
        (draw.normal(3, 2), draw.normal(8, 2), draw.normal(2, 8), 2),
        (draw.normal(5, 6), draw.normal(12, 6), draw.normal(6, 12), 3),
        (draw.normal(5, 4), draw.normal(16, 4), draw.normal(4, 16), 4),
    ],
    mistakes={
        "The matrices are cut along D, so each rank has a part of every hidden number, and the GELU of a "
        "part "
        "is not a part of the GELU.": cut_other,
        "Every rank computes the whole output and takes a share of it. Nothing is saved: each should use its "
        "own rows of up and columns of down.": whole_then_cut,
        "These are the whole outputs, without a share for each rank: their sum is n_ranks times too large.": (
            lambda x, up, down, n: [F.linear(F.gelu(F.linear(x, up)), down) for _ in range(n)]
        ),
        "The GELU between the two matrices is missing.": layer(lambda hidden: hidden),
        "There is another activation than F.gelu with its default.": [
            layer(F.relu),
            layer(F.silu),
            layer(torch.tanh),
            layer(lambda hidden: F.gelu(hidden, approximate="tanh")),
        ],
        "Rank r has every n_ranks-th hidden number. It should have a block of neighbours, rank 0 the "
        "first.": (layer(pieces=strided)),
        "The ranks' parts of up and of down do not belong together: a hidden number meets another one's "
        "column.": layer(pieces=crossed),
        "The ranks are in the wrong order.": layer(end=lambda parts: parts[::-1]),
        "The parts are added up already; return each rank's part in a list.": layer(
            end=lambda parts: [sum(parts)]
        ),
    },
    signs={
        "The parts have the right sum, and they are not what each rank computes from its own hidden "
        "numbers.": (lambda case, got, expected: torch.allclose(sum(got), sum(expected), atol=1e-4)),
        "The sum of the parts is not the output of the whole layer.": (
            lambda case, got, expected: not torch.allclose(sum(got), sum(expected), atol=1e-4)
        ),
    },
)


# ---------------------------------------------------------------- C.6 who reads what


def windows_of_rank(n_windows, batch_size, rank, world_size):
    if batch_size % world_size:
        raise ValueError(f"batch_size={batch_size} is not divisible by world_size={world_size}")
    share = batch_size // world_size
    steps = range(n_windows // batch_size)
    return [[s * batch_size + rank * share + i for i in range(share)] for s in steps]


def reading(pick, steps=lambda n, batch, world: n // batch, check=True):
    def windows(n_windows, batch_size, rank, world_size):
        if check and batch_size % world_size:
            raise ValueError("uneven")
        every = steps(n_windows, batch_size, world_size)
        found = [pick(s, batch_size, rank, world_size, n_windows) for s in range(every)]
        return [[i for i in step if i < n_windows] for step in found]

    return windows


def block(s, batch, rank, world, n):
    share = batch // world
    return range(s * batch + rank * share, s * batch + (rank + 1) * share)


def tail(s, batch, rank, world, n):
    """Blocks, the last batch shared as far as it goes."""
    left = list(range(s * batch, min(n, (s + 1) * batch)))
    share = -(-len(left) // world)
    return left[rank * share : (rank + 1) * share]


def part_of_all(s, batch, rank, world, n):
    share = batch // world
    start = rank * (n // batch * batch // world) + s * share
    return range(start, start + share)


def up_to(n, batch, world):
    return -(-n // batch)


WINDOWS = Exercise(
    right=windows_of_rank,
    refuses=(ValueError,),
    cases=lambda draw: [
        (1, 1, 0, 1),
        (2, 2, 1, 2),
        (4, 4, 0, 2),
        (4, 4, 1, 2),
        (8, 4, 1, 2),
        (7, 4, 0, 2),
        (7, 4, 1, 2),
        (3, 4, 0, 2),
        (12, 3, 0, 2),
        (40, 6, 2, 3),
        (draw.whole(50, 70), 8, draw.whole(0, 3), 4),
        (draw.whole(50, 70), 12, draw.whole(1, 2), 3),
    ],
    mistakes={
        "Every rank reads the whole batch, so each window is read world_size times.": [
            reading(lambda s, batch, rank, world, n: range(s * batch, (s + 1) * batch)),
            reading(lambda s, batch, rank, world, n: range(s * batch, (s + 1) * batch), check=False),
        ],
        "Within a batch the rank takes every world_size-th window; it should take a consecutive piece.": [
            reading(lambda s, batch, rank, world, n: range(s * batch + rank, (s + 1) * batch, world)),
        ],
        "Each rank takes batch_size windows a step. batch_size is that of all ranks together.": [
            reading(
                lambda s, batch, rank, world, n: range(
                    (s * world + rank) * batch, (s * world + rank + 1) * batch
                ),
                lambda n, batch, world: n // (batch * world),
            ),
            reading(
                lambda s, batch, rank, world, n: range(
                    (s * world + rank) * batch, (s * world + rank + 1) * batch
                ),
            ),
        ],
        "The windows are shared among the ranks first, and each rank walks through a part of its own. In one "
        "step the ranks together should read one batch of neighbours.": reading(part_of_all),
        "The last windows do not fill a batch, and should be left out by every rank.": [
            reading(block, up_to),
            reading(tail, up_to),
        ],
        "A batch that cannot be shared evenly should be refused with a ValueError.": reading(
            block, check=False
        ),
        "Ranks are counted from 0.": reading(
            lambda s, batch, rank, world, n: block(s, batch, rank - 1, world, n)
        ),
        "Every step reads the same windows: the start does not move on.": reading(
            lambda s, batch, rank, world, n: block(0, batch, rank, world, n)
        ),
        "A step moves on by this rank's share only. It should move on by the whole batch.": reading(
            lambda s, batch, rank, world, n: range(
                rank * (batch // world) + s * (batch // world),
                rank * (batch // world) + (s + 1) * (batch // world),
            )
        ),
        "One batch too few: windows that just fill the last batch are used.": [
            reading(block, lambda n, batch, world: (n - 1) // batch),
            reading(block, lambda n, batch, world: n // batch - 1),
        ],
    },
    signs={
        "This should be one list for each step, with the window numbers in it.": (
            lambda case, got, expected: len(got) > 0 and not isinstance(got[0], list)
        ),
        "The number of steps is another one than that of whole batches.": (
            lambda case, got, expected: len(got) != len(expected)
        ),
        "In some step the rank reads another number of windows than batch_size / world_size.": (
            lambda case, got, expected: any(len(a) != len(b) for a, b in zip(got, expected))
        ),
    },
)


# ---------------------------------------------------------------- C.7 sums around a ring


def ring(first=lambda r, s, n: r - s, second=lambda r, s, n: r + 1 - s, to=1, halves=(1, 1)):
    def all_reduce(table):
        n, tables, table = len(table), [], table.clone()
        for half, chunk_of in enumerate((first, second)):
            if not halves[half]:
                continue
            for s in range(n - 1):
                old = table.clone()
                for r in range(n):
                    chunk, receiver = chunk_of(r, s, n) % n, (r + to) % n
                    arrived = old[r, chunk].clone()
                    table[receiver, chunk] = (
                        arrived if half and halves[1] == 1 else table[receiver, chunk] + arrived
                    )
                tables.append(table.clone())
        return tables

    return all_reduce


ring_all_reduce = ring()


def all_at_once(table):
    total = table.sum(dim=0, keepdim=True).expand_as(table).clone()
    return [total] * (2 * (len(table) - 1))


RING = Exercise(
    right=ring_all_reduce,
    cases=lambda draw: [
        (torch.tensor([[5.0]]),),
        (torch.tensor([[1.0, 2.0], [3.0, 4.0]]),),
        (torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [100.0, 200.0, 300.0]]),),
        (draw.normal(3, 3),),
        (draw.normal(5, 5),),
    ],
    mistakes={
        "Only the first half is there: each rank has the whole sum of one chunk and not yet of the "
        "others.": ring(halves=(1, 0)),
        "In the second half the receiver adds. The chunk that arrives is a whole sum already: it "
        "replaces.": ring(halves=(1, 2)),
        "The chunks go to the neighbour on the other side; rank r sends to rank (r + 1) mod n.": ring(to=-1),
        "In the second half rank r sends chunk (r - s). It has the sum of chunk (r + 1) to begin with.": ring(
            second=lambda r, s, n: r - s
        ),
        "In the first half rank r sends chunk (r + s); it should be (r - s), the one that it has just added "
        "to.": [
            ring(first=lambda r, s, n: r + s),
            ring(first=lambda r, s, n: r + s, second=lambda r, s, n: r + 1 + s),
        ],
        "In the second half rank r sends chunk (r + 1 + s); it should be (r + 1 - s), the one that has just "
        "arrived.": ring(second=lambda r, s, n: r + 1 + s),
        "In every step a rank sends the same chunk: the number of the step is not used.": [
            ring(first=lambda r, s, n: r, second=lambda r, s, n: r + 1),
            ring(first=lambda r, s, n: r),
            ring(second=lambda r, s, n: r + 1),
        ],
        "All tables are the last one. Either one tensor was put into the list each time and changed "
        "later, or "
        "the sum was taken at once. A table after each step is asked for.": all_at_once,
    },
    signs={
        "It should have 2 (n - 1) tables, one after each step.": (
            lambda case, got, expected: len(got) != len(expected)
        ),
        "The last table is right, and some step before it is not.": (
            lambda case, got, expected: torch.allclose(got[-1], expected[-1], atol=1e-4)
        ),
        "In the end not every rank has the sum of every chunk.": (
            lambda case, got, expected: not torch.allclose(got[-1], expected[-1], atol=1e-4)
        ),
    },
)


# ---------------------------------------------------------------- C.8 a pipeline and its bubble


def timetable(n_stages, n_micro_batches, shift=1, ticks=None, idle=-1):
    ticks = n_micro_batches + n_stages - 1 if ticks is None else ticks
    rows = [
        [t - shift * s if 0 <= t - shift * s < n_micro_batches else idle for t in range(ticks)]
        for s in range(n_stages)
    ]
    return torch.tensor(rows)


def pipeline(n_stages, n_micro_batches):
    schedule = timetable(n_stages, n_micro_batches)
    return schedule, (schedule < 0).sum().item() / schedule.numel()


def flawed_pipeline(share=lambda p, m: (p - 1) / (m + p - 1), table=timetable):
    return lambda p, m: (table(p, m), share(p, m))


PIPELINE = Exercise(
    right=pipeline,
    cases=lambda draw: [
        (1, 1),
        (1, 3),
        (2, 1),
        (2, 3),
        (3, 2),
        (4, 6),
        (draw.whole(3, 5), draw.whole(6, 12)),
        (draw.whole(6, 8), draw.whole(2, 5)),
    ],
    mistakes={
        "The share is that of the idle time to the working time. Divide by all ticks, the idle ones "
        "included.": (flawed_pipeline(lambda p, m: (p - 1) / m)),
        "The share counts one stage too many: each stage is idle for n_stages - 1 ticks.": [
            flawed_pipeline(lambda p, m: p / (m + p - 1)),
            flawed_pipeline(lambda p, m: p / (m + p)),
        ],
        "This is the share of time in which the stages work; the idle share is asked for.": flawed_pipeline(
            lambda p, m: m / (m + p - 1)
        ),
        "This is a number of idle entries, not a share.": [
            flawed_pipeline(lambda p, m: float(p * (p - 1))),
            flawed_pipeline(lambda p, m: p * (p - 1)),
            flawed_pipeline(lambda p, m: float(p - 1)),
        ],
        "The share is a percentage; a number between 0 and 1 is asked for.": flawed_pipeline(
            lambda p, m: 100 * (p - 1) / (m + p - 1)
        ),
        "There is one tick too many, in which every stage is idle.": [
            flawed_pipeline(table=lambda p, m: timetable(p, m, ticks=m + p)),
            flawed_pipeline(lambda p, m: (p - 1) / (m + p), lambda p, m: timetable(p, m, ticks=m + p)),
            flawed_pipeline(lambda p, m: p / (m + p), lambda p, m: timetable(p, m, ticks=m + p)),
        ],
        "The schedule ends when the first stage is done; the last micro-batch has not passed the others.": [
            flawed_pipeline(table=lambda p, m: timetable(p, m, ticks=m)),
            flawed_pipeline(lambda p, m: (p - 1) / m, lambda p, m: timetable(p, m, ticks=m)),
            lambda p, m: (
                timetable(p, m, ticks=m),
                (timetable(p, m, ticks=m) < 0).sum().item() / (p * m),
            ),
        ],
        "All stages work on the same micro-batch at the same tick. It reaches stage s only s ticks later.": (
            flawed_pipeline(table=lambda p, m: timetable(p, m, shift=0))
        ),
        "Micro-batches are counted from 1; the first one is number 0.": flawed_pipeline(
            table=lambda p, m: torch.where(timetable(p, m) < 0, -1, timetable(p, m) + 1)
        ),
        "Idle entries are 0, which is the number of the first micro-batch; they should be "
        "-1.": flawed_pipeline(table=lambda p, m: timetable(p, m, idle=0)),
        "Before its first micro-batch a stage is given a negative number other than -1, or after its "
        "last one "
        "a number that no micro-batch has.": flawed_pipeline(
            table=lambda p, m: torch.arange(m + p - 1) - torch.arange(p).unsqueeze(1)
        ),
        "Rows are ticks and columns are stages; it should be the other way round.": flawed_pipeline(
            table=lambda p, m: timetable(p, m).T.contiguous()
        ),
        "The stages are in reverse order: stage 0 is the first to work.": flawed_pipeline(
            table=lambda p, m: timetable(p, m).flip(0)
        ),
    },
    signs={
        "The schedule is right, and the share of idle entries is not.": (
            lambda case, got, expected: got[0].dtype == torch.int64 and torch.equal(got[0], expected[0])
        ),
        "The share is right, and the schedule is not.": (
            lambda case, got, expected: (
                got[0].dtype == torch.int64
                and got[0].shape == expected[0].shape
                and abs(got[1] - expected[1]) < 1e-6
            )
        ),
    },
)


# ---------------------------------------------------------------- C.9 how often to save


def save_interval(save_seconds, mean_hours, n_gpus):
    return flawed_interval()(save_seconds, mean_hours, n_gpus)


def flawed_interval(
    between=lambda hours, n: hours * 3600 / n,
    interval=lambda S, M: math.sqrt(2 * S * M),
    share=lambda S, t, M: S / t + t / (2 * M),
):
    def answer(save_seconds, mean_hours, n_gpus):
        M = between(mean_hours, n_gpus)
        t = interval(save_seconds, M)
        return t, share(save_seconds, t, M)

    return answer


INTERVAL = Exercise(
    right=save_interval,
    cases=lambda draw: [
        (4.0, 2.0, 1),
        (2.0, 1.0, 1),
        (4.0, 2.0, 9),
        (30.0, 50_000.0, 1000),
        (draw.real(20, 40), draw.real(30_000, 60_000), draw.whole(500, 900)),
        (draw.real(60, 90), draw.real(30_000, 60_000), draw.whole(5000, 9000)),
    ],
    mistakes={
        "The number of GPUs is not used: a run on n of them fails n times as often.": flawed_interval(
            lambda hours, n: hours * 3600
        ),
        "With more GPUs the time between failures gets longer here; it gets shorter.": flawed_interval(
            lambda hours, n: hours * 3600 * n
        ),
        "Hours are not turned into seconds.": flawed_interval(lambda hours, n: hours / n),
        "An hour has 3,600 seconds, not 60.": flawed_interval(lambda hours, n: hours * 60 / n),
        "The factor 2 under the root is missing.": flawed_interval(interval=lambda S, M: math.sqrt(S * M)),
        "The factor 2 stands before the root; it belongs under it.": flawed_interval(
            interval=lambda S, M: 2 * math.sqrt(S * M)
        ),
        "The root is missing.": flawed_interval(interval=lambda S, M: 2 * S * M),
        "The lost share is half of what it should be: saving takes time, and work is lost at each "
        "failure. At "
        "the best interval both are equal; add them.": flawed_interval(share=lambda S, t, M: S / t),
        "A failure throws away a whole interval here. On average it comes in the middle of "
        "one.": flawed_interval(share=lambda S, t, M: S / t + t / M),
        "The number of GPUs counts in the interval and not in the lost share: a failure of any of them "
        "stops the "
        "run.": lambda S, hours, n: (
            math.sqrt(2 * S * hours * 3600 / n),
            S / math.sqrt(2 * S * hours * 3600 / n)
            + math.sqrt(2 * S * hours * 3600 / n) / (2 * hours * 3600),
        ),
        "The interval is in hours; seconds are asked for.": lambda S, hours, n: (
            math.sqrt(2 * S / 3600 * hours / n),
            2 * math.sqrt(S / 3600 / (2 * hours / n)),
        ),
        "The lost share is a percentage; a number between 0 and 1 is asked for.": flawed_interval(
            share=lambda S, t, M: 100 * (S / t + t / (2 * M))
        ),
    },
    signs={
        "The interval is right, and the lost share is not.": (
            lambda case, got, expected: len(got) == 2 and math.isclose(got[0], expected[0], rel_tol=1e-4)
        ),
        "The lost share is right, and the interval is not.": (
            lambda case, got, expected: len(got) == 2 and math.isclose(got[1], expected[1], rel_tol=1e-4)
        ),
    },
)


check = checker(
    {
        "C.1": BYTES,
        "C.2": RECOMPUTE,
        "C.3": COMBINE,
        "C.4": TILE,
        "C.5": SPLIT,
        "C.6": WINDOWS,
        "C.7": RING,
        "C.8": PIPELINE,
        "C.9": INTERVAL,
    }
)
