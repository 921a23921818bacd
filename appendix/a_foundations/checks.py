"""The checks of appendix A's exercises: what is right, on which inputs, and the usual mistakes by name."""

# Written by hand: what learners get wrong, in words.

import math

import torch
from torch import nn

from ch01_tokenization.checking import Exercise, checker

from .tensors import cross_entropy_of, entropy, kl_divergence, strides_of

__all__ = ["check"]


# ---------------------------------------------------------------- A.1 the strides of a transposed view


def exchanged(values, first, second):
    values = list(values)
    values[first], values[second] = values[second], values[first]
    return tuple(values)


def transposed_strides(shape, first, second):
    return exchanged(strides_of(shape), first, second)


def from_the_left(shape):
    return tuple(math.prod(shape[:dim]) for dim in range(len(shape)))


def exchanged_by_number(shape, first, second):
    """Compares the dimensions with 0, 1, 2, ..., so that negative ones are never met."""
    strides, places = strides_of(shape), {first: second, second: first}
    return tuple(strides[places.get(dim, dim)] for dim in range(len(shape)))


def drawn_shape(draw, n):
    """n different sizes of 2 or more, so that no two dimensions can be taken for each other."""
    sizes = [2, 3, 4, 5, 6, 7]
    draw.random.shuffle(sizes)
    return tuple(sizes[:n])


STRIDES = Exercise(
    right=transposed_strides,
    cases=lambda draw: [
        ((2, 3), 0, 1),
        ((4,), 0, 0),
        ((2, 3, 4), 1, 2),
        ((2, 3, 4), 0, 1),
        ((2, 3, 4), 0, 2),
        ((2, 3, 4), -1, -2),
        ((3, 1, 5, 2), 0, 3),
        ((2, 5, 3, 4), 1, 2),
        (drawn_shape(draw, 4), 1, 2),
        (drawn_shape(draw, 4), -1, 0),
        (drawn_shape(draw, 5), draw.whole(0, 1), draw.whole(2, 3)),
    ],
    mistakes={
        "These are the strides before the transposition. It exchanges those of two dimensions.": (
            lambda shape, first, second: strides_of(shape)
        ),
        "These are the strides of a fresh tensor in the new shape, that is, of a copy. A view stays in the "
        "old storage: take the strides of the old shape, then exchange two of them.": (
            lambda shape, first, second: strides_of(exchanged(shape, first, second))
        ),
        "This is a shape. A stride says how many cells further the next index is.": [
            lambda shape, first, second: tuple(shape),
            exchanged,
        ],
        "The strides grow from left to right here. Rows lie one after the other, so the last dimension has "
        "stride 1, and each one before it skips all that come after.": [
            lambda shape, first, second: exchanged(from_the_left(shape), first, second),
            lambda shape, first, second: from_the_left(shape),
            lambda shape, first, second: strides_of(shape[::-1])[::-1],
            lambda shape, first, second: exchanged(strides_of(shape)[::-1], first, second),
        ],
        "The first size is multiplied in and the last one is not. A stride is the product of the sizes after "
        "its dimension.": lambda shape, first, second: exchanged(strides_of((1, *shape[:-1])), first, second),
        "A negative dimension loses its sign. It counts from the end: -1 is the last one.": (
            lambda shape, first, second: exchanged(strides_of(shape), abs(first), abs(second))
        ),
        "A negative dimension is not found among 0, 1, 2, ... Add the number of dimensions to it.": (
            exchanged_by_number
        ),
        "A dimension's own size is multiplied into its stride. Only the sizes after it count, so the last "
        "one has stride 1.": lambda shape, first, second: exchanged(
            [math.prod(shape[dim:]) for dim in range(len(shape))], first, second
        ),
        "The strides are multiples of the right ones, as if they were in bytes. PyTorch counts numbers.": [
            lambda shape, first, second, size=size: tuple(
                size * stride for stride in transposed_strides(shape, first, second)
            )
            for size in (2, 4, 8)
        ],
        "All dimensions have changed places. Only the two that are named do.": [
            lambda shape, first, second: strides_of(shape)[::-1],
            lambda shape, first, second: tuple(sorted(strides_of(shape))),
        ],
        "Each stride is the next size alone. To get to the next index, all sizes after it have to be "
        "skipped: their product.": lambda shape, first, second: exchanged([*shape[1:], 1], first, second),
        "The sizes after a dimension are added up. What they hold together is their product.": (
            lambda shape, first, second: exchanged(
                [sum(shape[dim + 1 :]) or 1 for dim in range(len(shape))], first, second
            )
        ),
        "The last two dimensions change places, whichever are named.": (
            lambda shape, first, second: (
                exchanged(strides_of(shape), -1, -2) if len(shape) > 1 else strides_of(shape)
            )
        ),
        "The first two dimensions change places, whichever are named.": (
            lambda shape, first, second: (
                exchanged(strides_of(shape), 0, 1) if len(shape) > 1 else strides_of(shape)
            )
        ),
    },
    signs={
        "There should be one stride for each dimension.": lambda case, got, expected: (
            len(got) != len(case[0])
        ),
        "Apart from their order these should be the strides of the old shape, and they are not. The last is "
        "1, and each one before is multiplied by one size more.": lambda case, got, expected: (
            sorted(got) != sorted(expected)
        ),
        "The dimensions that do not change places should keep their strides.": lambda case, got, expected: (
            any(
                got[dim] != expected[dim]
                for dim in range(len(case[0]))
                if dim not in (case[1] % len(case[0]), case[2] % len(case[0]))
            )
        ),
    },
)


# ---------------------------------------------------------------- A.2 the shape of a sum of many


def shape_of_sum(shapes, align="right", refuse=True, pick="other"):
    """Broadcasting; wrong by its options."""
    dimensions, result = max(len(shape) for shape in shapes), []
    ones = [(1,) * (dimensions - len(shape)) for shape in shapes]
    full = [one + tuple(s) if align == "right" else tuple(s) + one for one, s in zip(ones, shapes)]
    for sizes in zip(*full):
        stretched = {size for size in sizes if size != 1}
        if refuse and len(stretched) > 1:
            raise ValueError(f"sizes {sizes}")
        if pick == "other":
            result.append(min(stretched) if stretched else 1)
        else:
            result.append({"largest": max, "last": lambda sizes: sizes[-1]}[pick](sizes))
    return tuple(result)


def two_at_a_time(shapes):
    """Each shape is compared with its neighbour only."""
    for a, b in zip(shapes, shapes[1:]):
        shape_of_sum([a, b])
    return shape_of_sum(shapes, refuse=False, pick="largest")


def unstretched(shapes, same_length):
    """Refuses what has different lengths, or different sizes."""
    if len({len(shape) for shape in shapes}) > 1 and same_length:
        raise ValueError("different lengths")
    if len(set(map(tuple, shapes))) > 1 and not same_length:
        raise ValueError("different shapes")
    return shape_of_sum(shapes)


def all_are_stretched(shapes):
    """Refuses the size 0, or takes it for a size that stretches."""
    return shape_of_sum([tuple(size or 1 for size in shape) for shape in shapes])


def without_zeros(shapes, alone):
    """Refuses a size of 0: everywhere, or only beside a 1."""
    dimensions = max(len(shape) for shape in shapes)
    for sizes in zip(*((1,) * (dimensions - len(shape)) + tuple(shape) for shape in shapes)):
        if 0 in sizes and (alone or 1 in sizes):
            raise ValueError("a size of 0")
    return shape_of_sum(shapes)


def truncated(shapes, dimensions):
    """Pads to the dimensions given, and goes as far as the shortest shape."""
    columns = zip(*((1,) * (dimensions - len(shape)) + tuple(shape) for shape in shapes))
    return sum((shape_of_sum([(size,) for size in sizes]) for sizes in columns), ())


def drawn_shapes(draw, fits):
    """Three or four shapes that fit, or that do not in one dimension."""
    full = drawn_shape(draw, draw.whole(3, 4))
    shapes = [full[draw.whole(0, 2) :] for _ in range(draw.whole(2, 3))]
    shapes = [tuple(draw.choice((1, size)) for size in shape) for shape in shapes]
    shapes.insert(draw.whole(0, 2), tuple(full))
    if not fits:
        shapes.append((full[-1] + 1,))
    return (shapes,)


SHAPES = Exercise(
    right=shape_of_sum,
    refuses=(ValueError,),
    cases=lambda draw: [
        ([(2,)],),
        ([(1,), (3,)],),
        ([(3,), (1,)],),
        ([(2,), (3,)],),
        ([(3,), (2, 3)],),
        ([(2, 3), (2,)],),
        ([(4, 1), (4,)],),
        ([(3, 1), (4,), (2, 1, 1)],),
        ([(4,), (1,), (3,)],),
        ([(), (2, 1)],),
        ([()],),
        ([(0,), (1,)],),
        ([(0, 2)],),
        ([(1, 3), (0, 1), (3,)],),
        ([(2,), (0,)],),
        drawn_shapes(draw, True),
        drawn_shapes(draw, False),
        drawn_shapes(draw, True),
    ],
    mistakes={
        "The shapes are aligned at their left ends. They meet at the right, and the shorter ones get 1s in "
        "front.": [
            lambda shapes: shape_of_sum(shapes, align="left"),
            lambda shapes: shape_of_sum(shapes, align="left", pick="largest"),
            lambda shapes: truncated(shapes, 0),
        ],
        "The number of dimensions is that of the first shape. The longest one decides.": (
            lambda shapes: truncated(shapes, len(shapes[0]))
        ),
        "The dimensions come out in reverse order.": lambda shapes: shape_of_sum(shapes)[::-1],
        "It never refuses. Two sizes that differ, and of which none is 1, do not fit.": [
            lambda shapes: shape_of_sum(shapes, refuse=False, pick="largest"),
            lambda shapes: shape_of_sum(shapes, refuse=False, pick="last"),
            lambda shapes: shape_of_sum(shapes, refuse=False),
        ],
        "The larger size is taken. A 1 is stretched to the other size, and that may be 0.": (
            lambda shapes: shape_of_sum(shapes, pick="largest")
        ),
        "The size of the last shape is taken, even when it is 1.": (
            lambda shapes: shape_of_sum(shapes, pick="last")
        ),
        "Shapes of different lengths are refused. The shorter ones get 1s in front.": (
            lambda shapes: unstretched(shapes, same_length=True)
        ),
        "Only equal shapes pass. A size of 1 is stretched to the other size.": (
            lambda shapes: unstretched(shapes, same_length=False)
        ),
        "Only the first two shapes count. There may be any number of them.": lambda shapes: shape_of_sum(
            shapes[:2]
        ),
        "Each shape is compared with the next one only. A 1 between two others hides that they do not "
        "fit.": two_at_a_time,
        "A size of 0 is treated like 1. It is a size like others, and does not stretch.": [
            all_are_stretched,
            lambda shapes: tuple(size or 1 for size in shape_of_sum(shapes)),
        ],
        "A size of 0 is refused. It is a size like others, to which a 1 is stretched.": [
            lambda shapes: without_zeros(shapes, alone=True),
            lambda shapes: without_zeros(shapes, alone=False),
        ],
    },
    signs={
        "There should be as many dimensions as the longest shape has.": lambda case, got, expected: (
            len(got) != len(expected)
        ),
        "A dimension where all sizes are 1 should have size 1.": lambda case, got, expected: any(
            mine != right == 1 for mine, right in zip(got, expected)
        ),
        "A dimension in which some size is not 1 should have that size.": lambda case, got, expected: any(
            mine != right != 1 for mine, right in zip(got, expected)
        ),
    },
    errors={
        "An empty shape is a shape as well, that of a single number, and so is a list of a single shape.": (
            lambda case, error: (
                (() in case[0] or len(case[0]) == 1)
                and (not isinstance(error, ValueError) or "empty" in str(error))
            )
        ),
        "These shapes fit, and are refused.": lambda case, error: isinstance(error, ValueError),
    },
)


# ---------------------------------------------------------------- A.3 the way back from broadcasting


def unbroadcast(gradient, shape):
    return gradient.sum_to_size(shape)


def in_front(gradient, shape, how="sum"):
    """Only the dimensions in front that shape lacks."""
    while gradient.dim() > len(shape):
        gradient = getattr(gradient, how)(dim=0)
    return gradient


def of_size_1(gradient, shape, how="sum", keepdim=True):
    """Only the dimensions in which shape has size 1."""
    lacking = gradient.dim() - len(shape)
    for dim in reversed(range(len(shape))):
        if shape[dim] == 1:
            gradient = getattr(gradient, how)(dim=lacking + dim, keepdim=keepdim)
    return gradient


def numbers_move(gradient, shape):
    """Sums over dimension 0, then 1, ..., although the dimensions move up after each sum."""
    for dim in range(gradient.dim() - len(shape)):
        gradient = gradient.sum(dim=dim)
    return of_size_1(gradient, shape)


def only_one_in_front(gradient, shape):
    if gradient.dim() > len(shape):
        gradient = gradient.sum(dim=0)
    for dim, size in enumerate(shape):
        if size == 1:
            gradient = gradient.sum(dim=dim, keepdim=True)
    return gradient


def from_the_first(gradient, shape):
    """Counts the dimensions of shape from the left of the gradient, before those in front are gone."""
    for dim, size in enumerate(shape):
        if size == 1:
            gradient = gradient.sum(dim=dim, keepdim=True)
    return in_front(gradient, shape)


def empty_tuple(gradient, shape, at_once):
    """PyTorch takes an empty tuple of dimensions for all of them."""
    extra = gradient.dim() - len(shape)
    if at_once:
        ones = [extra + dim for dim, size in enumerate(shape) if size == 1]
        return gradient.sum(dim=[*range(extra), *ones]).reshape(shape)
    return from_the_first(gradient.sum(dim=tuple(range(extra))), shape)


def first_of_each(gradient, shape):
    """One place in place of the sum of all."""
    gradient = gradient[(0,) * (gradient.dim() - len(shape))]
    for dim, size in enumerate(shape):
        gradient = gradient.narrow(dim, 0, size)
    return gradient


UNBROADCAST = Exercise(
    right=unbroadcast,
    cases=lambda draw: [
        (torch.tensor([1.0, 2.0]), (1,)),
        (torch.tensor([1.0, 2.0]), (2,)),
        (torch.tensor([1.0, 2.0]), ()),
        (torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]), (3,)),
        (torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]), (2, 1)),
        (torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]), (1, 3)),
        (torch.tensor([[1.0, 2.0, 3.0]]), (1, 3)),
        (draw.normal(4, 2, 3) + 1, (2, 1)),
        (draw.normal(4, 3, 2).double() - 1, (4, 1, 2)),
        (draw.normal(2, draw.whole(3, 5), 2, 4) + 2, (1, 1)),
        (draw.normal(draw.whole(2, 3), 4, 5) + 1, (5,)),
    ],
    mistakes={
        "The slopes are averaged. A number that was used in several places moves all of them, so its slopes "
        "add up.": lambda gradient, shape: in_front(of_size_1(gradient, shape, "mean"), shape, "mean"),
        "The dimensions in front are averaged, and their slopes should add up, like those of the "
        "others.": lambda gradient, shape: in_front(of_size_1(gradient, shape), shape, "mean"),
        "The stretched dimensions are averaged, and their slopes should add up, like those in "
        "front.": lambda gradient, shape: in_front(of_size_1(gradient, shape, "mean"), shape),
        "It sums over the dimensions in front that shape lacks, and not over those that had size 1 and were "
        "stretched.": in_front,
        "It sums over the dimensions of size 1, and not over those in front that shape lacks.": [
            of_size_1,
            lambda gradient, shape: of_size_1(gradient, shape) if gradient.dim() == len(shape) else gradient,
        ],
        "The gradient comes back as it is. What was stretched has to be added up again.": (
            lambda gradient, shape: gradient
        ),
        "A dimension of size 1 disappears in the sum. Keep it: keepdim=True.": lambda gradient, shape: (
            in_front(gradient, shape)
            if 1 not in shape
            else of_size_1(in_front(gradient, shape), shape, keepdim=False)
        ),
        "It takes the first slope of each number that was stretched, and loses the others. They add "
        "up.": first_of_each,
        "Every number gets the sum of the whole gradient. It should get the slopes of the places where it "
        "was used.": [
            lambda gradient, shape: gradient.sum().expand(shape),
            lambda gradient, shape: (
                gradient.sum() * torch.ones(shape, dtype=gradient.dtype, device=gradient.device)
            ),
        ],
        "The last dimensions are summed away until the number of dimensions fits. Those in front are what "
        "the small tensor lacked.": lambda gradient, shape: of_size_1(
            gradient.sum(dim=tuple(range(len(shape), gradient.dim())))
            if gradient.dim() > len(shape)
            else gradient,
            shape,
        ),
        "After each sum the dimensions move up, so that the next one in front is dimension 0 again.": (
            numbers_move
        ),
        "Only one dimension in front is summed away. There may be several.": only_one_in_front,
        "The dimensions of shape are counted from the left of the gradient. Shapes meet at the right: sum "
        "over those in front first.": from_the_first,
        "PyTorch takes an empty tuple of dimensions for all of them. Where there is nothing to sum over, do "
        "not sum.": [
            lambda gradient, shape: empty_tuple(gradient, shape, at_once=False),
            lambda gradient, shape: empty_tuple(gradient, shape, at_once=True),
        ],
        "reshape puts numbers together by their order in the storage, whichever dimension they belong to. "
        "Sum over each dimension that was stretched.": [
            lambda gradient, shape: gradient.reshape(-1, math.prod(shape)).sum(dim=0).reshape(shape),
            lambda gradient, shape: gradient.reshape(math.prod(shape), -1).sum(dim=1).reshape(shape),
        ],
        "The largest slope is kept. All of them count: they add up.": lambda gradient, shape: in_front(
            of_size_1(gradient, shape, "amax"), shape, "amax"
        ),
    },
    signs={
        "Nothing was stretched in this case, so the gradient should come back as it is.": (
            lambda case, got, expected: case[0].shape == expected.shape
        ),
        "The numbers of the result should have the sum of the gradient.": lambda case, got, expected: (
            not torch.isclose(got.sum(), case[0].sum(), rtol=1e-4, atol=1e-4)
        ),
    },
    errors={
        "The tensor has fewer dimensions than shape when it is asked for one of them. Is a dimension of size "
        "1 summed away without keepdim=True?": lambda case, error: isinstance(error, IndexError),
        "view and reshape keep every number, and here there have to be fewer: sum first.": (
            lambda case, error: "is invalid for input of size" in str(error)
        ),
    },
)


# ---------------------------------------------------------------- A.4 a dart for each row


def draw_tokens(p, darts):
    return (p.cumsum(dim=1) <= darts[:, None]).sum(dim=1)


def drawn_distributions(draw, B, V, dtype):
    """Rows of sixteenths with some of them 0, and darts that also hit boundaries: exact in any float."""
    rows = []
    for _ in range(B):
        counts = [0] * V
        for _ in range(16):
            counts[draw.whole(0, V - 1)] += 1
        rows.append(counts)
    darts = [draw.whole(0, 31) / 32 for _ in range(B)]
    return torch.tensor(rows, dtype=dtype) / 16, torch.tensor(darts, dtype=dtype)


DARTS = Exercise(
    right=draw_tokens,
    cases=lambda draw: [
        (torch.tensor([[0.5, 0.5]]), torch.tensor([0.25])),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([0.75])),
        (torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([0.5])),
        (torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([0.0])),
        (torch.tensor([[0.0, 0.5, 0.0, 0.5]]), torch.tensor([0.0])),
        (torch.tensor([[0.0, 0.5, 0.0, 0.5]]), torch.tensor([0.5])),
        (torch.tensor([[0.25, 0.5, 0.25]]), torch.tensor([0.875])),
        (torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]), torch.tensor([0.625, 0.125])),
        (torch.tensor([[0.75, 0.0, 0.25], [0.0, 0.0, 1.0]]), torch.tensor([0.8125, 0.0])),
        drawn_distributions(draw, 7, 4, torch.float32),
        drawn_distributions(draw, draw.whole(8, 12), 6, torch.float64),
        drawn_distributions(draw, 40, 5, torch.float32),
    ],
    mistakes={
        "A dart on a boundary is given to the part on its left. It belongs to the right one, and what has "
        "the probability 0 is never drawn.": [
            lambda p, darts: (p.cumsum(dim=1) < darts[:, None]).sum(dim=1),
            lambda p, darts: (p.cumsum(dim=1) >= darts[:, None]).long().argmax(dim=1),
        ],
        "The dart 0 hits a first part that has no length. What has the probability 0 is never drawn.": (
            lambda p, darts: ((p.cumsum(dim=1) <= darts[:, None]) & (p.cumsum(dim=1) > 0)).sum(dim=1)
        ),
        "It gives the most probable token, whatever the dart. Then nothing else would ever be drawn.": (
            lambda p, darts: p.argmax(dim=1)
        ),
        "The dart is compared with the probabilities. Compare it with the ends of the parts, their "
        "cumulative sum.": [
            lambda p, darts: (p <= darts[:, None]).sum(dim=1),
            lambda p, darts: (p > darts[:, None]).long().argmax(dim=1),
            lambda p, darts: (p < darts[:, None]).sum(dim=1),
            lambda p, darts: (p - darts[:, None]).abs().argmin(dim=1),
        ],
        "It takes the end that is nearest to the dart. The part that is hit has the first end beyond it.": (
            lambda p, darts: (p.cumsum(dim=1) - darts[:, None]).abs().argmin(dim=1)
        ),
        "It gives the last token, whatever the dart. Stop at the first end beyond the dart.": (
            lambda p, darts: torch.full_like(darts, p.size(1) - 1, dtype=torch.int64)
        ),
        "All parts are taken to be equally long. Each is as long as its probability.": (
            lambda p, darts: (darts * p.size(1)).long()
        ),
        "The number is one too large. Count the parts that end at or before the dart; counting begins at "
        "0.": [
            lambda p, darts: draw_tokens(p, darts) + 1,
            lambda p, darts: (draw_tokens(p, darts) + 1).clamp(max=p.size(1) - 1),
            lambda p, darts: (p.cumsum(dim=1) - p < darts[:, None]).sum(dim=1),
            lambda p, darts: (p.cumsum(dim=1) - p <= darts[:, None]).sum(dim=1),
        ],
        "The number is one too small.": [
            lambda p, darts: draw_tokens(p, darts) - 1,
            lambda p, darts: (draw_tokens(p, darts) - 1).clamp(min=0),
        ],
        "The cumulative sum goes down the batch. Each row is a distribution of its own: dim=1.": (
            lambda p, darts: (p.cumsum(dim=0) <= darts[:, None]).sum(dim=1)
        ),
        "All rows are given the first dart. Each has one of its own.": lambda p, darts: draw_tokens(
            p, darts[:1].expand(len(darts))
        ),
        "All darts are thrown at the first row. Each row is a distribution of its own.": (
            lambda p, darts: draw_tokens(p[:1].expand(len(darts), -1), darts)
        ),
        "The parts are laid out by size. They lie in the order of the tokens.": [
            lambda p, darts: draw_tokens(p.sort(dim=1).values, darts),
            lambda p, darts: draw_tokens(p.sort(dim=1, descending=True).values, darts),
            lambda p, darts: (
                p.argsort(dim=1, descending=True)
                .gather(1, draw_tokens(p.sort(dim=1, descending=True).values, darts)[:, None])
                .squeeze(1)
            ),
        ],
        "The parts are laid out from the right, the last token first.": [
            lambda p, darts: draw_tokens(p.flip(1), darts),
            lambda p, darts: p.size(1) - 1 - draw_tokens(p.flip(1), darts),
        ],
        "The parts on the right of the dart are counted. Count those that lie wholly on its left.": (
            lambda p, darts: (p.cumsum(dim=1) > darts[:, None]).sum(dim=1)
        ),
        "This is where the part ends, and not its number.": lambda p, darts: p.cumsum(dim=1).gather(
            1, draw_tokens(p, darts)[:, None]
        )[:, 0],
        "This is the probability of the part, and not its number.": lambda p, darts: p.gather(
            1, draw_tokens(p, darts)[:, None]
        )[:, 0],
    },
    signs={
        "Every token should lie between 0 and V - 1.": lambda case, got, expected: (
            got.min() < 0 or got.max() >= case[0].size(1)
        ),
        "A token with the probability 0 was drawn.": lambda case, got, expected: (
            case[0].gather(1, got.long()[:, None]) == 0
        ).any(),
        "Some darts on a boundary go to the wrong part.": lambda case, got, expected: all(
            (case[0][row].cumsum(0) == case[1][row]).any() for row in (got != expected).nonzero().flatten()
        ),
    },
    errors={
        "The ends are (B, V) and the darts (B,), so the darts need a dimension more: darts[:, None].": (
            lambda case, error: "must match the size" in str(error)
        ),
        "torch.searchsorted wants a dart for each row, as a tensor (B, 1).": lambda case, error: (
            "searchsorted" in str(error)
        ),
    },
)


# ---------------------------------------------------------------- A.5 entropy, cross-entropy, divergence


def in_bits(p, q):
    bit = math.log(2)
    return entropy(p) / bit, cross_entropy_of(p, q) / bit, kl_divergence(p, q) / bit


def plain_bits(p, q, shift=0.0):
    """By the formulas as they stand, with no care for 0; or with a small number added inside."""
    h = -(p * (p + shift).log2()).sum(dim=-1)
    cross = -(p * (q + shift).log2()).sum(dim=-1)
    return h, cross, cross - h


def by_quotient(p, q, shift=0.0):
    h, cross, _ = plain_bits(p, q, shift)
    return h, cross, (p * ((p + shift) / (q + shift)).log2()).sum(dim=-1)


def clamped_bits(p, q, floor):
    h = -(p * p.clamp(min=floor).log2()).sum(dim=-1)
    cross = -(p * q.clamp(min=floor).log2()).sum(dim=-1)
    return h, cross, cross - h


def without_infinities(p, q):
    return tuple(torch.nan_to_num(each, nan=0.0, posinf=0.0) for each in plain_bits(p, q))


def one_by_one(p, q):
    """Every summand that is not finite is left out."""
    h, cross = (torch.nan_to_num(p * x.log2(), nan=0.0, neginf=0.0) for x in (p, q))
    return -h.sum(dim=-1), -cross.sum(dim=-1), (h - cross).sum(dim=-1)


def zero_too_late(p, q, infinite):
    """The 0 is put in place of the whole sum; what is infinite may become the largest float."""
    h, cross, _ = plain_bits(p, q)
    h, cross = (torch.nan_to_num(each, nan=0.0, posinf=infinite) for each in (h, cross))
    return h, cross, cross - h


def weight_of_1(p, q):
    """A p of 0 is replaced by 1, in the weights too."""
    s = torch.where(p > 0, p, 1.0)
    h, cross = -(s * s.log2()).sum(dim=-1), -(s * q.log2()).sum(dim=-1)
    return h, cross, cross - h


def drawn_pair(draw, *shape, dtype=torch.float32):
    """Two tables of distributions; p has zeros in places."""
    p, q = (draw.normal(*shape).to(dtype).softmax(dim=-1) for _ in range(2))
    p = p * (torch.rand(*shape, generator=draw.generator) < 0.7)
    p[..., 0] += 0.1
    return p / p.sum(dim=-1, keepdim=True), q


def scaled(factor, which=(0, 1, 2)):
    return lambda p, q: tuple(
        each * factor if number in which else each for number, each in enumerate(in_bits(p, q))
    )


BITS = Exercise(
    right=in_bits,
    cases=lambda draw: [
        (torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5])),
        (torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])),
        (torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.5, 0.25])),
        (torch.tensor([0.75, 0.125, 0.125]), torch.tensor([0.25, 0.5, 0.25])),
        (torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])),
        (torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.75, 0.0])),
        (torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])),
        drawn_pair(draw, 2, 3),
        drawn_pair(draw, 3, draw.whole(4, 6), dtype=torch.float64),
        drawn_pair(draw, 2, 3, 5),
    ],
    mistakes={
        "These are nats. A bit is ln 2 nats: take the logarithm to the base 2, or divide by ln 2.": [
            scaled(math.log(2)),
            scaled(math.log(2) ** 2),
            *(scaled(math.log(2), (number,)) for number in range(3)),
            lambda p, q: (
                in_bits(p, q)[0] * math.log(2),
                in_bits(p, q)[1],
                in_bits(p, q)[1] - in_bits(p, q)[0] * math.log(2),
            ),
        ],
        "It is divided by ln 2 once too often: log2 gives bits already.": scaled(1 / math.log(2)),
        "The first two results have changed places. The entropy comes first.": lambda p, q: (
            in_bits(p, q)[1],
            in_bits(p, q)[0],
            in_bits(p, q)[2],
        ),
        "The entropy is that of q. It should be that of p.": [
            lambda p, q: (in_bits(q, q)[0], *in_bits(p, q)[1:]),
            lambda p, q: (in_bits(q, q)[0], in_bits(p, q)[1], in_bits(p, q)[1] - in_bits(q, q)[0]),
        ],
        "The logarithms are added up without their weights p.": [
            lambda p, q: (-p.log2().sum(dim=-1), -q.log2().sum(dim=-1), (p / q).log2().sum(dim=-1)),
            lambda p, q: (-p.log2().sum(dim=-1), -q.log2().sum(dim=-1), (p.log2() - q.log2()).sum(dim=-1)),
            lambda p, q: (*in_bits(p, q)[:2], (p / q).log2().sum(dim=-1)),
        ],
        "The whole sum becomes 0 where one summand is not a number. Put the 0 in place of that summand, "
        "before the sum.": [
            lambda p, q, infinite=infinite: zero_too_late(p, q, infinite) for infinite in (None, math.inf)
        ],
        "Where p is 0 it is replaced by 1, also as a weight. What never happens has the weight 0.": (
            weight_of_1
        ),
        "The logarithm is to the base 10. Bits need the base 2.": scaled(math.log10(2)),
        "The signs are the wrong way round. Logarithms of probabilities are negative, and surprise is not.": [
            scaled(-1),
            scaled(-1, (0, 1)),
            scaled(-1, (0,)),
            scaled(-1, (1,)),
            lambda p, q: (-in_bits(p, q)[0], in_bits(p, q)[1], in_bits(p, q)[1] + in_bits(p, q)[0]),
            lambda p, q: (in_bits(p, q)[0], -in_bits(p, q)[1], -in_bits(p, q)[1] - in_bits(p, q)[0]),
        ],
        "The divergence has the wrong sign. It is the cross-entropy less the entropy, and never "
        "negative.": scaled(-1, (2,)),
        "In the cross-entropy p and q have changed places. Things happen by p, and the logarithm is that of "
        "q.": [
            lambda p, q: (in_bits(p, q)[0], in_bits(q, p)[1], in_bits(p, q)[2]),
            lambda p, q: (in_bits(p, q)[0], in_bits(q, p)[1], in_bits(q, p)[1] - in_bits(p, q)[0]),
        ],
        "In the divergence p and q have changed places. Things happen by p.": [
            lambda p, q: (*in_bits(p, q)[:2], in_bits(q, p)[2]),
            lambda p, q: (*in_bits(p, q)[:2], in_bits(p, q)[1] - in_bits(q, q)[0]),
        ],
        "p and q have changed places in all three.": lambda p, q: in_bits(q, p),
        "Where p is 0 the summand is 0, and 0 times the logarithm of 0 is not a number. Put the 0 there, or "
        "use torch.xlogy.": [
            plain_bits,
            by_quotient,
            lambda p, q: (in_bits(p, q)[0], *plain_bits(p, q)[1:]),
            lambda p, q: (plain_bits(p, q)[0], in_bits(p, q)[1], plain_bits(p, q)[2]),
            lambda p, q: (*in_bits(p, q)[:2], by_quotient(p, q)[2]),
            lambda p, q: (*plain_bits(p, q)[:2], in_bits(p, q)[2]),
        ],
        "A small number inside of the logarithm keeps it finite, also where it should be infinite: what can "
        "happen and q rules out.": [
            lambda p, q, method=method, small=small: method(p, q, small)
            for small in (1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, torch.finfo(torch.float32).tiny)
            for method in (plain_bits, by_quotient, clamped_bits)
        ],
        "What q rules out is left out of the sum. If it can happen, the cross-entropy is infinite.": [
            without_infinities,
            one_by_one,
        ],
        "The sum goes over all distributions of the batch. Each has its own: sum over the last "
        "dimension.": lambda p, q: tuple(each.sum() for each in in_bits(p, q)),
        "It averages over the batch. Each distribution has its own result.": lambda p, q: tuple(
            each.mean() for each in in_bits(p, q)
        ),
        "It takes the mean of the V summands. Their weights are in p already: take the sum.": lambda p, q: (
            tuple(each / p.size(-1) for each in in_bits(p, q))
        ),
        "The sum goes over the first dimension. The distributions lie along the last one.": [
            lambda p, q: (
                tuple(-torch.xlogy(a, b).sum(dim=0) / math.log(2) for a, b in ((p, p), (p, q)))
                + ((torch.xlogy(p, p) - torch.xlogy(p, q)).sum(dim=0) / math.log(2),)
            ),
        ],
    },
    signs={
        "Each result should be a tensor with the dtype of p, and its shape without the last dimension.": (
            lambda case, got, expected: any(
                not isinstance(mine, torch.Tensor) or (mine.shape, mine.dtype) != (right.shape, right.dtype)
                for mine, right in zip(got, expected)
            )
        ),
        "The entropy of p is wrong.": lambda case, got, expected: (
            len(got) == 3 and not torch.allclose(got[0], expected[0], rtol=1e-4, atol=1e-4)
        ),
        "The cross-entropy is infinite where q rules out what can happen.": lambda case, got, expected: (
            len(got) == 3
            and expected[1].isinf().any()
            and not torch.equal(got[1].isinf(), expected[1].isinf())
        ),
        "The cross-entropy is wrong.": lambda case, got, expected: (
            len(got) == 3 and not torch.allclose(got[1], expected[1], rtol=1e-4, atol=1e-4)
        ),
        "The divergence is wrong. It is the cross-entropy less the entropy.": lambda case, got, expected: (
            len(got) == 3
        ),
    },
    errors={
        "p may have one dimension, or three. The distributions lie along the last one: dim=-1.": (
            lambda case, error: isinstance(error, IndexError) and "out of range" in str(error)
        ),
    },
)


# ---------------------------------------------------------------- A.6 a chain of slopes, by hand


def slopes(w, b, x, t):
    w, b = (each.detach().clone().requires_grad_() for each in (w, b))
    loss = (torch.tanh(w * x + b) - t).square().mean()
    return torch.autograd.grad(loss, (w, b))


def by_parts(at_y=None, at_z=None, over="mean"):
    """The chain with other links: at_y(y, t), at_z(y, z), and how examples are put together."""
    at_y, at_z = at_y or (lambda y, t: 2 * (y - t)), at_z or (lambda y, z: 1 - y**2)

    def wrong(w, b, x, t):
        z = w * x + b
        y = torch.tanh(z)
        both = at_y(y, t) * at_z(y, z) * x, at_y(y, t) * at_z(y, z)
        return tuple(getattr(each, over)() for each in both)

    return wrong


def product_of_means(w, b, x, t):
    y = torch.tanh(w * x + b)
    at_z = (2 * (y - t) * (1 - y**2)).mean()
    return at_z * x.mean(), at_z


def mean_of_each_link(w, b, x, t):
    y = torch.tanh(w * x + b)
    at_z = (2 * (y - t)).mean() * (1 - y**2).mean()
    return at_z * x.mean(), at_z


def added_links(w, b, x, t):
    y = torch.tanh(w * x + b)
    return (2 * (y - t) + (1 - y**2) + x).mean(), (2 * (y - t) + (1 - y**2)).mean()


def for_each_example(w, b, x, t, which=(0, 1)):
    y = torch.tanh(w * x + b)
    at_z = 2 * (y - t) * (1 - y**2) / len(x)
    return tuple(each if n in which else each.sum() for n, each in enumerate((at_z * x, at_z)))


def a_line(w, b, x, t):
    at_y = 2 * (w * x + b - t) / len(x)
    return (at_y * x).sum(), at_y.sum()


def without_b(w, b, x, t):
    return slopes(w, torch.zeros_like(b), x, t)


def is_right(mine, right):
    return mine.shape == right.shape and torch.isclose(mine, right, rtol=1e-4, atol=1e-4)


def drawn_neuron(draw, N, dtype=torch.float32):
    w, b = (torch.tensor(draw.real(0.4, 0.9) * draw.choice((-1, 1)), dtype=dtype) for _ in range(2))
    return w, b, draw.normal(N).to(dtype), (draw.normal(N) / 2).to(dtype) + 0.1


CHAIN = Exercise(
    right=slopes,
    cases=lambda draw: [
        (*torch.tensor([1.0, 0.0]), torch.tensor([2.0]), torch.tensor([0.0])),
        (*torch.tensor([0.5, 0.25]), torch.tensor([1.0]), torch.tensor([1.0])),
        (*torch.tensor([0.5, 0.25]), torch.tensor([1.0, -2.0]), torch.tensor([1.0, 0.0])),
        (*torch.tensor([-0.5, 0.0]), torch.tensor([1.0, 0.5, 2.0]), torch.tensor([0.5, -0.5, 0.25])),
        drawn_neuron(draw, 3),
        drawn_neuron(draw, draw.whole(4, 6)),
        drawn_neuron(draw, draw.whole(7, 9), torch.float64),
    ],
    mistakes={
        "The slopes are those of the sum of squares. The loss is their mean: divide by N.": by_parts(
            over="sum"
        ),
        "The 2 of the square is missing: its slope is 2 (y - t).": [
            by_parts(at_y=lambda y, t: y - t),
            by_parts(at_y=lambda y, t: y - t, over="sum"),
        ],
        "The slope of tanh is missing in the chain: 1 - y².": [
            by_parts(at_z=lambda y, z: torch.ones_like(y)),
            by_parts(at_z=lambda y, z: torch.ones_like(y), over="sum"),
        ],
        "The slope of tanh is computed from z. It is 1 - tanh² z, so 1 - y².": by_parts(
            at_z=lambda y, z: 1 - z**2
        ),
        "The slope of tanh is taken to be 1 - y, without the square.": by_parts(at_z=lambda y, z: 1 - y),
        "The slope of tanh is another one. It is 1 - y²: the square is that of y, and it is subtracted.": [
            by_parts(at_z=lambda y, z: (1 - y) ** 2),
            by_parts(at_z=lambda y, z: 1 + y**2),
            by_parts(at_z=lambda y, z: y**2),
        ],
        "tanh is applied twice. y is tanh z already, so that its slope is 1 - y².": by_parts(
            at_z=lambda y, z: 1 - y.tanh() ** 2
        ),
        "It is divided by N twice. mean() divides by N as well.": by_parts(
            at_y=lambda y, t: 2 * (y - t) / len(y)
        ),
        "b is missing in z = w x + b.": without_b,
        "There is no tanh in it: y is z here.": a_line,
        "That is the slope of a sigmoid, y (1 - y). The slope of tanh is 1 - y².": by_parts(
            at_z=lambda y, z: y * (1 - y)
        ),
        "A sign is the wrong way round: the slopes are 2 (y - t) for the square, and 1 - y² for "
        "tanh.": by_parts(at_y=lambda y, t: 2 * (t - y)),
        "It is the chain of (y - t)² without y - t in it. The slope of a square depends on where one "
        "is.": by_parts(at_y=lambda y, t: 2 * torch.ones_like(y)),
        "The loss itself is in the chain, (y - t)², in place of its slope 2 (y - t).": by_parts(
            at_y=lambda y, t: (y - t) ** 2
        ),
        "The slope for w has no x in it. z moves x times as much as w.": lambda w, b, x, t: (
            slopes(w, b, x, t)[1],
            slopes(w, b, x, t)[1],
        ),
        "The slope for w has w in it in place of x. z moves x times as much as w.": lambda w, b, x, t: (
            slopes(w, b, x, t)[1] * w,
            slopes(w, b, x, t)[1],
        ),
        "The slope for b has an x in it. z moves just as much as b.": lambda w, b, x, t: (
            slopes(w, b, x, t)[0],
            slopes(w, b, x, t)[0],
        ),
        "The slope for b has b in it. z moves just as much as b.": lambda w, b, x, t: (
            slopes(w, b, x, t)[0],
            slopes(w, b, x, t)[1] * b,
        ),
        "The two slopes have changed places. The one for w comes first.": lambda w, b, x, t: slopes(
            w, b, x, t
        )[::-1],
        "Examples are averaged before they are multiplied. Each example is a path: multiply along it first, "
        "then add the paths.": [product_of_means, mean_of_each_link],
        "The links of the chain are added. Along a path slopes multiply.": added_links,
        "There is a slope for each example. They all lead to the same w and b, so their paths add up: sum.": [
            for_each_example,
            lambda w, b, x, t: for_each_example(w, b, x, t, which=(0,)),
            lambda w, b, x, t: for_each_example(w, b, x, t, which=(1,)),
        ],
    },
    signs={
        "The slope for b is right, and the one for w is not.": lambda case, got, expected: (
            got[0].shape == expected[0].shape and is_right(got[1], expected[1])
        ),
        "The slope for w is right, and the one for b is not.": lambda case, got, expected: (
            got[1].shape == expected[1].shape and is_right(got[0], expected[0])
        ),
    },
)


# ---------------------------------------------------------------- A.7 and A.8 nodes of a graph


class Node:
    """As in the exercise."""

    def __init__(self, data, parents=(), slopes=()):
        self.data, self.parents, self.slopes = data, parents, slopes
        self.grad = 0.0


def slope_to(node, target):
    """The slope of node for target, over all paths."""
    if node is target:
        return 1.0
    return sum(
        slope * slope_to(parent, target) for parent, slope in zip(node.parents, node.slopes, strict=True)
    )


def divided(divide, a, b):
    """What is compared in A.7."""
    x, y = Node(a), Node(b)
    result, itself = divide(x, y), divide(y, y)
    return {
        "the value": result.data,
        "the slope for a": slope_to(result, x),
        "the slope for b": slope_to(result, y),
        "the slope of b / b": slope_to(itself, y),
        "grad of a, of b and of the result": [x.grad, y.grad, result.grad],
        "a and b afterwards": [x.data, y.data],
    }


def divide(a, b):
    return Node(a.data / b.data, (a, b), (1 / b.data, -a.data / b.data**2))


def division(value=None, for_a=None, for_b=None, parents=lambda a, b: (a, b)):
    """A division with another value or other slopes, from numbers a and b."""
    value, for_a = value or (lambda a, b: a / b), for_a or (lambda a, b: 1 / b)
    for_b = for_b or (lambda a, b: -a / b**2)
    return lambda a, b: Node(
        value(a.data, b.data), parents(a, b), (for_a(a.data, b.data), for_b(a.data, b.data))
    )


def adds_up_itself(a, b):
    result = divide(a, b)
    for parent, slope in zip(result.parents, result.slopes):
        parent.grad += slope
    return result


def in_place(a, b):
    a.data /= b.data
    return a


def grad_of_1(a, b):
    result = divide(a, b)
    result.grad = 1.0
    return result


DIVIDE = Exercise(
    right=divide,
    run=divided,
    cases=lambda draw: [
        (6.0, 2.0),
        (5.0, -4.0),
        (-3.0, 0.5),
        (0.0, 2.0),
        (draw.real(2, 4), draw.real(5, 9)),
        (-draw.real(2, 4), draw.real(0.3, 0.6)),
        (draw.real(5, 9), -draw.real(1.2, 1.8)),
    ],
    mistakes={
        "The slope for b has the wrong sign. When b grows, a / b gets smaller, for a and b above 0.": [
            division(for_b=lambda a, b: a / b**2)
        ],
        "The slope for b has no square: it is -a / b².": [
            division(for_b=lambda a, b: -a / b),
            division(for_b=lambda a, b: a / b),
        ],
        "The slope for b has no a in it. The larger a is, the more a change of b matters.": [
            division(for_b=lambda a, b: -1 / b**2),
            division(for_b=lambda a, b: 1 / b**2),
            division(for_b=lambda a, b: -1 / b),
        ],
        "The slope for b is that of multiplication, or that of b alone. Write a / b as a times b to the "
        "power -1.": [
            division(for_b=lambda a, b: a),
            division(for_b=lambda a, b: -a),
            division(for_b=lambda a, b: 1 / a),
            division(for_a=lambda a, b: b, for_b=lambda a, b: a),
            division(for_b=lambda a, b: b),
        ],
        "The slope for a is not 1 / b. For a fixed b, a / b is a times the constant 1 / b.": [
            division(for_a=lambda a, b: b),
            division(for_a=lambda a, b: 1.0),
            division(for_a=lambda a, b: a / b),
            division(for_a=lambda a, b: 1 / b**2),
            division(for_a=lambda a, b: -1 / b),
        ],
        "The two slopes have changed places. They stand in the order of the parents.": [
            division(parents=lambda a, b: (b, a)),
        ],
        "It divides b by a.": [
            lambda a, b: divide(b, a),
            division(value=lambda a, b: b / a),
        ],
        "The quotient is rounded down: // in place of /.": division(value=lambda a, b: a // b),
        "It adds to the grad of a and b. That is the work of backward; a node only notes its slopes.": (
            adds_up_itself
        ),
        "Both slopes are divided by b squared. The one for a has no square.": division(
            for_a=lambda a, b: a / b**2, for_b=lambda a, b: -a / b**2
        ),
        "It divides by a somewhere, and a may be 0.": division(for_a=lambda a, b: a / b / a),
        "It changes a. Return a new node, and leave a as it is.": in_place,
        "The grad of the result is set. That is the work of backward, and it is 0 until then.": grad_of_1,
        "Only one of the two parents is noted. The result depends on both.": [
            lambda a, b: Node(a.data / b.data, (a,), (1 / b.data,)),
            lambda a, b: Node(a.data / b.data, (b,), (-a.data / b.data**2,)),
        ],
        "Nothing finds its way back to a and b. No parents are noted, or the parents are not a and b "
        "themselves, or the slopes are 0.": lambda a, b: Node(a.data / b.data),
    },
    signs={
        "The value is not a / b.": lambda case, got, expected: (
            not math.isclose(got["the value"], expected["the value"], rel_tol=1e-4, abs_tol=1e-4)
        ),
        "The value and the slope for a are right, and the slope for b is not.": lambda case, got, expected: (
            math.isclose(got["the slope for a"], expected["the slope for a"], rel_tol=1e-4)
            and not math.isclose(
                got["the slope for b"], expected["the slope for b"], rel_tol=1e-4, abs_tol=1e-4
            )
        ),
    },
    errors={
        "A Node stands where a number is needed. Its value is a.data.": lambda case, error: (
            "unsupported operand" in str(error) and "Node" in str(error)
        ),
        "The parents should be nodes, a and b themselves. A Node takes value, parents and slopes, "
        "in this order.": lambda case, error: "no attribute 'parents'" in str(error),
        "The result should be a Node, with data, parents and slopes.": lambda case, error: isinstance(
            error, AttributeError
        ),
        "There should be as many slopes as parents.": lambda case, error: "zip()" in str(error),
        "The parents and the slopes are tuples, also when there is a single one.": lambda case, error: (
            "not iterable" in str(error)
        ),
    },
)


def all_grads(backward, graph):
    """What is compared in A.8: the grads of all nodes, in the order in which they were computed."""
    nodes = []
    for parents, slopes_ in graph:
        nodes.append(Node(0.0, tuple(nodes[number] for number in parents), tuple(slopes_)))
    backward(nodes[-1])
    return torch.tensor([node.grad for node in nodes], dtype=torch.float64)


def backward(result):
    uses, found = {result: 0}, [result]
    while found:
        for parent in found.pop().parents:
            if parent not in uses:
                uses[parent] = 0
                found.append(parent)
            uses[parent] += 1
    result.grad, ready = 1.0, [result]
    while ready:
        node = ready.pop()
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += node.grad * slope
            uses[parent] -= 1
            if not uses[parent]:
                ready.append(parent)


def in_order(result):
    """Every node after all its parents."""
    order, seen, stack = [], {result}, [(result, iter(result.parents))]
    while stack:
        node, parents = stack[-1]
        for parent in parents:
            if parent not in seen:
                seen.add(parent)
                stack.append((parent, iter(parent.parents)))
                break
        else:
            order.append(node)
            stack.pop()
    return order


def handing_on(order, add=True, with_slope=True, with_grad=True, start=1.0):
    """backward along order(result), and wrong by its options."""

    def wrong(result):
        nodes = order(result)
        if start is not None:
            result.grad = start
        for node in nodes:
            for parent, slope in zip(node.parents, node.slopes):
                given = (node.grad if with_grad else 1.0) * (slope if with_slope else 1.0)
                parent.grad = parent.grad + given if add else given

    return wrong


def backwards(result):
    return in_order(result)[::-1]


def as_met(result, last=True):
    """Each node when it is first met, depth or breadth first."""
    order, waiting, seen = [], [result], {result}
    while waiting:
        node = waiting.pop() if last else waiting.pop(0)
        order.append(node)
        for parent in node.parents:
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return order


def preorder(result):
    order, seen, stack = [], set(), [result]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            order.append(node)
            stack += reversed(node.parents)
    return order


def once_for_each_parent(result):
    """A node that stands twice among the parents is taken once."""
    result.grad = 1.0
    for node in backwards(result):
        for parent, slope in dict(zip(node.parents, node.slopes)).items():
            parent.grad += node.grad * slope


def hands_on_its_total(result):
    """Every arrival is handed on at once, and with it what had arrived before."""
    result.grad, waiting, left = 1.0, [result], 5000
    while waiting and left:
        left -= 1
        node = waiting.pop()
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += node.grad * slope
            waiting.append(parent)


def first_use_missed(result):
    """A node's first use is not counted, so its count gets to 0 one arrival too early, or never."""
    uses, found = {result: 0}, [result]
    while found:
        for parent in found.pop().parents:
            if parent in uses:
                uses[parent] += 1
            else:
                uses[parent] = 0
                found.append(parent)
    result.grad, ready = 1.0, [result]
    while ready:
        node = ready.pop()
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += node.grad * slope
            uses[parent] -= 1
            if not uses[parent]:
                ready.append(parent)


def along_one_path(which):
    def wrong(result):
        node, result.grad = result, 1.0
        while node.parents:
            for parent, slope in zip(node.parents, node.slopes):
                parent.grad += node.grad * slope
            node = node.parents[which]

    return wrong


def added_along_the_path(result):
    result.grad = 1.0
    for node in backwards(result):
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += node.grad + slope


def parents_only(result):
    result.grad = 1.0
    for parent, slope in zip(result.parents, result.slopes):
        parent.grad += slope


def drawn_graph(draw, n):
    """n nodes, each used by a later one; slopes are halves, so that nothing grows out of hand."""
    graph, unused = [((), ()), ((), ())], [0, 1]
    for number in range(2, n):
        parents = [unused.pop(0) if unused and draw.whole(0, 1) else draw.whole(0, number - 1)]
        parents += [draw.whole(0, number - 1) for _ in range(draw.whole(0, 2))]
        unused = [other for other in unused if other not in parents] + [number]
        graph.append((tuple(parents), tuple(draw.choice((-1.5, -0.5, 0.5, 1.5, 2.0)) for _ in parents)))
    return ((*graph, (tuple(unused), tuple(draw.choice((0.5, 2.0, 3.0)) for _ in unused))),)


def chain(n, slope=1.0):
    return (((), ()), *(((number,), (slope,)) for number in range(n - 1)))


WALK = Exercise(
    right=backward,
    run=all_grads,
    steps=400_000,
    endless="Is a node walked through once for each path, or is there a loop that never ends?",
    cases=lambda draw: [
        ((((), ()),),),
        (chain(2, 3.0),),
        (chain(4, 2.0),),
        ((((), ()), ((0, 0), (2.0, 3.0))),),
        ((((), ()), ((0,), (2.0,)), ((0, 1), (1.0, 1.0))),),
        ((((), ()), ((0,), (5.0,)), ((1,), (2.0,)), ((1, 2), (1.0, 1.0))),),
        ((((), ()), ((0,), (5.0,)), ((1,), (2.0,)), ((2, 1), (1.0, 1.0))),),
        ((((), ()), ((0,), (3.0,)), ((1,), (2.0,)), ((2,), (5.0,)), ((1, 3, 2), (1.0, 1.0, 4.0))),),
        ((((), ()), ((), ()), ((0, 1), (2.0, 3.0)), ((2,), (4.0,)), ((2, 3, 0), (1.0, 1.0, 7.0))),),
        drawn_graph(draw, 7),
        drawn_graph(draw, draw.whole(9, 12)),
        drawn_graph(draw, 20),
        ((((), ()), *(((number, number), (0.5, 0.5)) for number in range(40))),),
        (chain(3000),),
    ],
    mistakes={
        "A grad is replaced where it should grow: paths add, so use +=.": [
            handing_on(backwards, add=False),
            handing_on(as_met, add=False),
        ],
        "Some node hands on before its own grad is complete. It has to wait until all nodes that were "
        "computed from it have handed on.": [
            handing_on(as_met),
            handing_on(lambda result: as_met(result, last=False)),
            handing_on(preorder),
        ],
        "Every grad is still 0. Begin with the result: its slope for itself is 1.": [
            handing_on(backwards, start=None),
            lambda result: None,
        ],
        "Only the parents of the result get a grad. It hands on to them, they to theirs, and so on back to "
        "the beginning; in another order nothing has arrived that could be handed on.": [
            handing_on(in_order),
            parents_only,
        ],
        "The slopes are not used. What is handed on is grad times slope.": handing_on(
            backwards, with_slope=False
        ),
        "Each parent gets the slope alone. What is handed on is the node's grad times the slope.": handing_on(
            backwards, with_grad=False
        ),
        "A node that occurs twice among the parents of another is served once. It is used twice, so both "
        "slopes count.": once_for_each_parent,
        "A node that is reached again hands on all of its grad again, the part that it had handed on before "
        "too.": hands_on_its_total,
        "Only the result gets a grad. To each parent's grad, grad times slope has to be added, and the grad "
        "of the result is 1 before that begins.": handing_on(lambda result: []),
        "The first use of a node is not counted. Its count gets to 0 one arrival too early, or never.": (
            first_use_missed
        ),
        "It follows one parent of each node only. All of them have to be walked through.": [
            along_one_path(0),
            along_one_path(-1),
        ],
        "grad and slope are added. Along a path they multiply.": added_along_the_path,
    },
    signs={
        "A node that another one uses twice should get both slopes.": lambda case, got, expected: (
            len(case[0]) == 2 and case[0][1][0] == (0, 0) and got[-1] == 1
        ),
        "The grad of the result should be 1.": lambda case, got, expected: got[-1] != 1,
        "Grads are right near the result and wrong further back. Is each node's grad complete before it "
        "hands on?": lambda case, got, expected: (
            len(case[0]) > 2
            and got[-1] == 1
            and all(got[number] == expected[number] for number in case[0][-1][0][-1:])
        ),
    },
    errors={
        "The graph is deeper than Python lets a function call itself. Keep what is still to be visited in a "
        "list.": lambda case, error: isinstance(error, RecursionError),
        "A node has the attributes data, parents, slopes and grad.": lambda case, error: isinstance(
            error, AttributeError
        ),
    },
)


# ---------------------------------------------------------------- A.9 an optimizer with a moving average


def optimizer(
    corrected=True,
    fresh=lambda beta: 1 - beta,
    old=lambda beta: beta,
    sign=-1,
    begin=0,
    remember=True,
    shared=False,
    keep_divided=False,
    clear=True,
    decayed=False,
    change=True,
    always_first=False,
    stuck=False,
    default=0.9,
    divisor=lambda beta, t: 1 - beta**t,
    for_each=False,
    none="skip",
    from_first=False,
    fixed=False,
    with_lr=True,
):
    """AverageSGD as it should be, and wrong by its options."""

    class AverageSGD:
        def __init__(self, parameters, lr, beta=default):
            self.parameters, self.lr, self.t = list(parameters), lr if with_lr else 1.0, begin
            self.beta = 0.9 if fixed else beta
            self.averages = [torch.zeros_like(parameter) for parameter in self.parameters]

        def zero_grad(self):
            if clear:
                for parameter in self.parameters:
                    if none == "zero" and parameter.grad is not None:
                        parameter.grad.zero_()
                    else:
                        parameter.grad = None

        @torch.no_grad()
        def step(self):
            self.t += not stuck
            last = 0.0
            place = -1
            for number, parameter in enumerate(self.parameters):
                self.t += for_each and number > 0
                if parameter.grad is None and none == "stop":
                    return
                if parameter.grad is None and none != "fade":
                    continue
                place = place + 1 if none == "shift" else number
                gradient = 0.0 if parameter.grad is None else parameter.grad
                before = last if shared and number else self.averages[place]
                average = old(self.beta) * before + fresh(self.beta) * gradient
                if from_first and not before.any():
                    average = gradient.clone()
                last = (average if shared == "whole" else average.mean()) if shared else average
                t = 1 if always_first else self.t
                divided = average / (divisor(self.beta, t) if corrected else 1)
                if remember:
                    for n in range(len(self.averages)) if shared == "whole" else (place,):
                        self.averages[n] = divided if keep_divided else average
                if change:
                    parameter += sign * self.lr * divided

    return AverageSGD


def several_steps(optimizer_class, weights, gradients, lr, beta):
    """What is compared in A.9: the weights after each step; gradients: a list for each step."""
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    options = {} if beta is None else {"beta": beta}
    trained = optimizer_class((parameter for parameter in parameters), lr, **options)
    record = {}
    for number, step in enumerate(gradients, start=1):
        trained.zero_grad()
        loss = sum((p * g).sum() for p, g in zip(parameters, step) if g is not None)
        loss.backward()
        trained.step()
        record[f"the weights after step {number}"] = [p.detach().clone() for p in parameters]
    return record


def drawn_training(draw, steps, lr, beta, dtype=torch.float32):
    shapes = (3,), (2, 4)
    weights = [draw.normal(*shape).to(dtype) for shape in shapes]
    return weights, [[draw.normal(*s).to(dtype) + 0.5 for s in shapes] for _ in range(steps)], lr, beta


def numbers(*values):
    return [torch.tensor([value]) for value in values]


OPTIMIZER = Exercise(
    right=optimizer(),
    run=several_steps,
    cases=lambda draw: [
        (numbers(10.0), [numbers(4.0)], 1.0, 0.5),
        (numbers(10.0), [numbers(4.0), numbers(2.0)], 1.0, 0.5),
        (numbers(10.0), [numbers(4.0), numbers(2.0), numbers(-8.0)], 0.5, 0.75),
        (numbers(1.0, 2.0), [numbers(4.0, -1.0), numbers(2.0, 3.0), numbers(1.0, 1.0)], 0.1, 0.8),
        (numbers(1.0, 2.0), [[torch.tensor([4.0]), None], [torch.tensor([2.0]), None]], 0.1, 0.75),
        (numbers(1.0, 2.0), [numbers(4.0, -1.0), [None, torch.tensor([3.0])]], 0.1, 0.75),
        (numbers(1.0), [numbers(1.0), numbers(2.0), numbers(4.0)], 0.1, None),
        drawn_training(draw, 3, 0.1, 0.9),
        drawn_training(draw, 5, draw.real(0.2, 0.5), draw.real(0.6, 0.8)),
        drawn_training(draw, 4, 0.3, 0.7, torch.float64),
    ],
    mistakes={
        "The average is not corrected for its beginning at 0: divide by 1 - beta to the power t.": optimizer(
            corrected=False
        ),
        "The steps are those of momentum, where each gradient counts in full. In an average it counts 1 - "
        "beta, and the division is by 1 - beta to the power t, with a t that grows.": [
            optimizer(fresh=lambda beta: 1.0, corrected=False),
            optimizer(always_first=True),
        ],
        "The gradient is added in full. In an average it counts 1 - beta, so that the weights have the sum "
        "that it is divided by.": optimizer(fresh=lambda beta: 1.0),
        "beta and 1 - beta have changed places. beta is the weight of the old average.": [
            optimizer(fresh=lambda beta: beta, old=lambda beta: 1 - beta),
            optimizer(fresh=lambda beta: beta, old=lambda beta: 1 - beta, corrected=False),
        ],
        "The old average does not fade: multiply it by beta.": [
            optimizer(old=lambda beta: 1.0),
            optimizer(old=lambda beta: 1.0, corrected=False),
        ],
        "The step goes uphill. Subtract, since the gradient says which way the loss rises.": optimizer(
            sign=1
        ),
        "The average is not kept from step to step, so that each step is one of plain SGD or a part of it.": [
            optimizer(remember=False),
            optimizer(remember=False, corrected=False),
            optimizer(remember=False, always_first=True),
        ],
        "The divided average is stored. Store it undivided, and divide for the step only.": optimizer(
            keep_divided=True
        ),
        "t is one too large. It is 1 in the first step.": optimizer(begin=1),
        "It divides by 0 in the first step: t is 0 there and should be 1.": [
            optimizer(begin=-1),
            optimizer(stuck=True),
        ],
        "Old gradients are still there: zero_grad sets the grad of each parameter to None.": optimizer(
            clear=False
        ),
        "All parameters share one average. Each needs its own.": [
            optimizer(shared=True),
            optimizer(shared="whole"),
        ],
        "The parameters do not change. Change them in place: parameter = ... would only give the name to "
        "another tensor. And keep a list of them, since they can be looped over once.": (
            optimizer(change=False)
        ),
        "The divisor is another one. It is 1 - beta to the power t, where only beta is raised to it.": [
            optimizer(divisor=lambda beta, t: 1 - beta * t),
            optimizer(divisor=lambda beta, t: (1 - beta) ** t),
            optimizer(divisor=lambda beta, t: beta**t),
        ],
        "The average is multiplied by 1 - beta to the power t. Divide by it.": optimizer(
            divisor=lambda beta, t: 1 / (1 - beta**t)
        ),
        "t grows once for each parameter. It counts the steps.": [
            optimizer(for_each=True),
        ],
        "The average begins with the first gradient. It begins with zeros, which the division makes up "
        "for.": [optimizer(from_first=True), optimizer(from_first=True, corrected=False)],
        "beta is 0.9 here, whatever is handed over.": optimizer(fixed=True),
        "lr is not used.": optimizer(with_lr=False),
        "A parameter whose grad should be None is moved on along its average. It should stay as it is. And a "
        "grad of 0 is not None.": [optimizer(none="zero"), optimizer(none="fade")],
        "A grad that is None ends the step for the parameters after it too. Skip that one only.": (
            optimizer(none="stop")
        ),
        "Where a grad is None, later parameters get the averages of others. Each keeps its own.": (
            optimizer(none="shift")
        ),
        "beta is 0.9 where nothing else is said.": [
            optimizer(default=default) for default in (0.0, 0.5, 0.8, 0.95, 0.99, 0.999)
        ],
    },
    signs={
        "The first step should be that of plain SGD: the division undoes the beginning at 0.": (
            lambda case, got, expected: any(
                not torch.allclose(mine, right, rtol=1e-4, atol=1e-4)
                for mine, right in zip(got["the weights after step 1"], expected["the weights after step 1"])
            )
        ),
        "The first step is right, and a later one is not. Is everything that a step needs kept for the next "
        "one?": lambda case, got, expected: True,
    },
    errors={
        "A parameter whose grad is None takes no part in a step and stays as it is.": lambda case, error: (
            "NoneType" in str(error) and any(g is None for step in case[1] for g in step)
        ),
        "Before the first backward every grad is None, so it cannot be filled with zeros. Set it to None.": (
            lambda case, error: "'NoneType' object has no attribute 'zero_'" in str(error)
        ),
        "While PyTorch records, a parameter may not be changed in place: with torch.no_grad().": (
            lambda case, error: "leaf Variable" in str(error)
        ),
        "1 - beta to the power t is 0 here. t should be 1 in the first step, and grow.": lambda case, error: (
            isinstance(error, ZeroDivisionError)
        ),
        "An average is not there when a step asks for it. Make one for each parameter in __init__.": (
            lambda case, error: isinstance(error, KeyError | AttributeError | IndexError)
        ),
    },
)


check = checker(
    {
        "A.1": STRIDES,
        "A.2": SHAPES,
        "A.3": UNBROADCAST,
        "A.4": DARTS,
        "A.5": BITS,
        "A.6": CHAIN,
        "A.7": DIVIDE,
        "A.8": WALK,
        "A.9": OPTIMIZER,
    }
)
