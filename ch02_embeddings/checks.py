"""The checks of chapter 2's exercises: what is right, on which inputs, and the usual mistakes by name."""

# Written by hand: what learners get wrong, in words.

import math

import torch
import torch.nn.functional as F
from torch import nn

from ch01_tokenization.checking import Exercise, checker

from .embeddings import InputEmbedding, TokenEmbedding, angles_at, sinusoids
from .rotation import rotate_pairs

__all__ = ["check"]


def proportional(a, b):
    """Whether two tensors differ by a factor only."""
    return torch.isclose((a * b).sum() ** 2, a.square().sum() * b.square().sum(), rtol=1e-4)


# ---------------------------------------------------------------- 2.1


class RowTaken(Exception):
    """A row was taken out of a table that is to be multiplied."""


class Closed(torch.Tensor):
    """A table from which no row can be taken."""

    TAKING = {
        torch.Tensor.__getitem__,
        F.embedding,
        *(
            getattr(place, name)
            for place in (torch, torch.Tensor)
            for name in ("index_select", "gather", "take", "take_along_dim", "select")
        ),
    }

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in cls.TAKING and isinstance(args[1 if func is F.embedding else 0], Closed):
            raise RowTaken("this table is only for multiplying; no row can be taken from it")
        with torch._C.DisableTorchFunctionSubclass():  # what is computed from it is open again
            result = func(*args, **kwargs or {})
            return result.as_subclass(cls) if func is torch.Tensor.detach else result


def with_closed_table(answer, token_ids, table):
    found = answer(token_ids, table.as_subclass(Closed))
    if not isinstance(found, torch.Tensor):
        return found
    found = found.as_subclass(torch.Tensor)
    if not table.requires_grad or found.shape != (*token_ids.shape, table.size(1)):
        return found
    arrives = torch.arange(1.0, 1 + found.numel(), dtype=found.dtype, device=found.device).view(found.shape)
    gradient = torch.zeros_like(table)
    if found.requires_grad:
        (gradient,) = torch.autograd.grad((found * arrives).sum(), table)
    return {"vectors": found, "the gradient of the table": gradient}


def ones_at(ids, size, table):
    """(..., T) -> (..., T, size): a 1 at each id that has a place."""
    return (ids.unsqueeze(-1) == torch.arange(size, device=ids.device)).to(table.dtype)


def ids_with_last(draw, below, *shape):
    """Drawn ids, the largest one among them."""
    ids = draw.ids(below, *shape)
    ids[-1, 0] = below - 1
    return ids


LOOKUP = Exercise(
    # what the course does, on a table that has been opened
    right=lambda token_ids, table: F.embedding(token_ids, table.as_subclass(torch.Tensor)),
    run=with_closed_table,
    errors={
        "Gradients must come back to the table, and NumPy does not carry them. Stay with tensors.": (
            lambda case, error: "call numpy()" in str(error)
        ),
    },
    cases=lambda draw: [
        (torch.tensor([[1]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
        (torch.tensor([[0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
        (torch.tensor([[2, 0, 2]]), draw.normal(3, 2)),
        (torch.tensor([[2, 1]]), draw.normal(3, 4).double()),
        (ids_with_last(draw, 7, 2, 5), draw.normal(7, 3)),
        (ids_with_last(draw, 6, 5, 4), draw.normal(6, 2)),
        (draw.ids(5, 2, 3), draw.normal(7, 4)),
        (ids_with_last(draw, 5, 3, 2), draw.normal(5, 4).requires_grad_()),
    ],
    mistakes={
        "No gradient comes back to the table. The product should be of tensors, and of the table itself.": (
            lambda ids, table: ones_at(ids, len(table), table) @ table.detach()
        ),
        "It takes rows out of the table by indexing. Here the same rows should come out of a "
        "matrix product.": (lambda ids, table: table[ids]),
        "The one-hot vectors are as long as the largest id asks for. They need one place for each row "
        "of the table, used or not.": (lambda ids, table: ones_at(ids, int(ids.max()) + 1, table) @ table),
        "The one-hot vectors are float32, whatever the table is. A product needs the same dtype on "
        "both sides.": (lambda ids, table: ones_at(ids, len(table), table).float() @ table),
        "It looks up where a token stands, not which token it is.": (
            lambda ids, table: (
                ones_at(torch.arange(ids.size(1), device=ids.device).expand(ids.shape), len(table), table)
                @ table
            )
        ),
        "The vectors of a text are added up. Each token should keep a vector of its own.": [
            lambda ids, table: (ones_at(ids, len(table), table) @ table).sum(dim=1),
            lambda ids, table: (ones_at(ids, len(table), table) @ table).sum(dim=1, keepdim=True),
        ],
        "Each id gets the row before its own. Ids count from 0, and so do rows.": (
            lambda ids, table: ones_at((ids - 1) % len(table), len(table), table) @ table
        ),
        "Each id gets the row behind its own. Ids count from 0, as rows do.": (
            lambda ids, table: ones_at((ids + 1) % len(table), len(table), table) @ table
        ),
        "These are the one-hot vectors themselves. The product with the table is missing.": (
            lambda ids, table: ones_at(ids, len(table), table)
        ),
    },
    signs={
        "These are columns of the table. Its rows should be picked.": lambda case, got, expected: torch.equal(
            got[0, 0], case[1][:, case[0][0, 0]]
        ),
        "The same token should get the same vector, wherever it stands.": lambda case, got, expected: any(
            not torch.allclose(got[case[0] == i], got[case[0] == i][:1].expand_as(got[case[0] == i]))
            for i in case[0].unique()
        ),
    },
)

# ---------------------------------------------------------------- 2.2


def summed_by_row(output_grad, token_ids, vocab_size):
    table = output_grad.new_zeros(vocab_size, output_grad.size(-1))  # (V, D)
    return table.index_add(0, token_ids.flatten(), output_grad.flatten(0, 1))


def row_by_row(join):
    """A wrong gradient: join(the derivatives that belong to a row, (n, D)) -> (D,)."""

    def gradient(output_grad, token_ids, vocab_size):
        parts = [output_grad[token_ids == i] for i in range(vocab_size)]  # (n, D) each
        return torch.stack(
            [join(part) if len(part) else output_grad.new_zeros(output_grad.size(-1)) for part in parts]
        )

    return gradient


last_share = row_by_row(lambda part: part[-1])

LOOKUP_GRADIENT = Exercise(
    right=summed_by_row,
    cases=lambda draw: [
        (torch.tensor([[[1.0, 2.0]]]), torch.tensor([[1]]), 3),
        (torch.tensor([[[1.0, 2.0], [30.0, 40.0]]]), torch.tensor([[1, 1]]), 3),
        (torch.tensor([[[1.0, 2.0]], [[30.0, 40.0]]]), torch.tensor([[0], [1]]), 2),
        (torch.tensor([[[1.0, 2.0]], [[30.0, 40.0]]]), torch.tensor([[1], [1]]), 2),
        (torch.tensor([[[1.0], [-1.0], [5.0]]]), torch.tensor([[0, 0, 2]]), 4),
        (draw.normal(2, 9, 3), draw.ids(5, 2, 9), 7),
        (draw.normal(4, 6, 2).double(), draw.ids(3, 4, 6), 5),
    ],
    mistakes={
        "A row that was looked up more than once keeps only its last share; it should get the sum of all.": [
            last_share,
            row_by_row(lambda part: part[0]),
            lambda grad, ids, size: sum(last_share(g, i, size) for g, i in zip(grad.split(1), ids.split(1))),
            lambda grad, ids, size: sum(
                last_share(g, i, size) for g, i in zip(grad.split(1, dim=1), ids.split(1, dim=1))
            ),
        ],
        "A row that was looked up more than once gets the mean of its shares. It should "
        "get their sum.": row_by_row(lambda part: part.mean(dim=0)),
        "It counts how often each row was looked up, and leaves out the derivatives in output_grad.": (
            lambda grad, ids, size: (
                ids.flatten()
                .bincount(minlength=size)
                .to(grad.dtype)
                .unsqueeze(1)
                .expand(size, grad.size(-1))
                .clone()
            )
        ),
        "There are only rows for tokens that occur. The gradient has the shape of the table, with zeros "
        "for rows that were not used.": [
            lambda grad, ids, size: summed_by_row(grad, ids, size)[ids.unique()],
            lambda grad, ids, size: summed_by_row(grad, ids, int(ids.max()) + 1),
        ],
        "Every row gets the derivatives of all tokens. A row should get those of the places where it "
        "was looked up.": [
            lambda grad, ids, size: grad.sum(dim=(0, 1)).expand(size, -1).clone(),
            lambda grad, ids, size: summed_by_row(
                grad.sum(dim=(0, 1), keepdim=True).expand_as(grad), ids, size
            ),
        ],
        "Only the first text of the batch counts. All texts read the same table, so all send it "
        "their shares.": (lambda grad, ids, size: summed_by_row(grad[:1], ids[:1], size)),
        "Ids and derivatives are flattened in different orders, so a row gets those of other places.": (
            lambda grad, ids, size: summed_by_row(grad, ids.T.reshape(ids.shape), size)
        ),
        "This is the mean over the batch. Here the shares of all texts are added.": (
            lambda grad, ids, size: summed_by_row(grad, ids, size) / len(ids)
        ),
    },
    signs={
        "A row that was not looked up should have the gradient 0.": lambda case, got, expected: bool(
            got[[i for i in range(case[2]) if i not in case[1]]].any()
        ),
        "The shares should all arrive: each column of the result has the same sum as that column of "
        "output_grad.": (
            lambda case, got, expected: (
                not torch.allclose(got.sum(dim=0), case[0].sum(dim=(0, 1)), atol=1e-4)
                and not proportional(got, expected)
            )
        ),
    },
)

# ---------------------------------------------------------------- 2.3


def closeness(table, token_id):
    return F.cosine_similarity(table, table[token_id : token_id + 1], dim=1)  # (V,)


def best(scores, token_id, k, own=-math.inf):
    """The k ids with the largest scores, that of the token itself replaced."""
    scores = scores.clone()
    scores[token_id] = own
    return scores.topk(k).indices


def nearest(table, token_id, k):
    return best(closeness(table, token_id), token_id, k)


def without_ties(draw, size, dim):
    """Rows of different lengths, whose cosines with any one of them are all clearly different."""
    while True:
        rows = draw.normal(size, dim)
        rows = rows * torch.tensor([0.3, 1.0, 4.0])[draw.ids(3, size)].unsqueeze(1)
        cosines = (F.normalize(rows, dim=1) @ F.normalize(rows, dim=1).T).sort(dim=1).values
        if cosines.diff(dim=1).min() > 1e-3:
            return rows


def shortened(table, token_id, k):
    keep = [i for i in range(len(table)) if i != token_id]
    return closeness(table, token_id)[keep].topk(k).indices


NEAREST = Exercise(
    right=nearest,
    cases=lambda draw: [
        (torch.tensor([[1.0, 0.0], [1.0, 1.0]]), 0, 1),
        (torch.tensor([[3.0, 1.0], [9.0, -9.0], [1.0, 0.0]]), 0, 1),  # a long row at a wide angle
        (torch.tensor([[1.0, 0.0], [-3.0, 1.0], [0.0, 2.0]]), 0, 2),
        (torch.tensor([[1.0, 0.0], [-1.0, 2.0], [-2.0, 1.0]]), 0, 1),  # only wide angles
        (torch.tensor([[5.0, 1.0], [1.0, 2.0], [5.0, 6.0], [0.0, 3.0], [-4.0, -1.0]]), 1, 3),
        (torch.tensor([[0.1, 1.0], [0.3, 1.5], [-0.5, 3.0]]), 0, 1),  # columns of different size
        (torch.tensor([[1.0, 0.0], [-2.0, 0.0]]), 0, 1),  # the opposite direction, cosine -1
        (torch.tensor([[1.0, 0.0], [-2.0, 0.0]]), 1, 1),
        (without_ties(draw, 7, 3), draw.whole(0, 5), 4),
        (without_ties(draw, 9, 4), draw.whole(3, 7), 5),
    ],
    mistakes={
        "The token itself is in the list. It is always its own nearest, so leave it out.": [
            lambda table, i, k: closeness(table, i).topk(k).indices,
            lambda table, i, k: best(closeness(table, i), i, k, 0.0),
            lambda table, i, k: best(closeness(table, i), i, k, -1.0),
        ],
        "The ids are places in a table from which a row was taken out, so all behind it are too "
        "small by 1.": shortened,
        "It compares dot products, so long rows win. The cosine looks at directions only.": [
            lambda table, i, k: best(table @ table[i], i, k),
            lambda table, i, k: best(table @ F.normalize(table, dim=1)[i], i, k),
        ],
        "The columns of the table are brought to length 1. It should be the rows.": (
            lambda table, i, k: best(F.normalize(table, dim=0) @ F.normalize(table, dim=0)[i], i, k)
        ),
        "A row is divided by something else than its length. Its length is the square root of the sum of "
        "its squares.": [
            lambda table, i, k: best(F.normalize(table, p=1, dim=1) @ table[i], i, k),
            lambda table, i, k: best(table / table.square().sum(dim=1, keepdim=True) @ table[i], i, k),
        ],
        "Softmax is no way to bring a row to length 1: it loses the signs. Divide by the length.": (
            lambda table, i, k: best(table.softmax(dim=1) @ table.softmax(dim=1)[i], i, k)
        ),
        "It measures the distance between the tips of the rows; asked for is the angle between them.": (
            lambda table, i, k: best(-(table - table[i]).norm(dim=1), i, k)
        ),
        "These are the farthest rows. The largest cosine belongs to the nearest one.": [
            lambda table, i, k: best(-closeness(table, i), i, k),
            lambda table, i, k: (-closeness(table, i)).topk(k).indices,
        ],
        "Rows in the opposite direction are listed as near. A cosine below 0 says unlike.": (
            lambda table, i, k: best(closeness(table, i).abs(), i, k)
        ),
        "These are the cosines. Asked for are the ids of the rows that they belong to.": (
            lambda table, i, k: closeness(table, i)[nearest(table, i, k)]
        ),
        "The right ids, with the nearest last. It should come first.": lambda table, i, k: nearest(
            table, i, k
        ).flip(0),
    },
    signs={
        "The token itself should not be among its neighbours.": lambda case, got, expected: bool(
            (got == case[1]).any()
        ),
        "The same id stands in the list twice.": lambda case, got, expected: len(got.unique()) < len(got),
        "These ids are right, but their order is not: the largest cosine comes first.": (
            lambda case, got, expected: torch.equal(got.sort().values, expected.sort().values)
        ),
    },
)

# ---------------------------------------------------------------- 2.4


def refuse_odd(d_model):
    if d_model % 2:
        raise ValueError(f"expected an even d_model, got {d_model}")


def clock_table(positions, d_model):
    """The course's, which says of an odd d_model only what the exercise does."""
    refuse_odd(d_model)
    return sinusoids(positions, d_model)


def clock(positions, d_model, base=10000.0, step=2, sign=-1, dtype=torch.float64):
    """The sinusoidal table in pieces that can be wrong: -> sines, cosines (..., D/2) each."""
    refuse_odd(d_model)
    speeds = base ** (
        sign * step * torch.arange(d_model // 2, dtype=dtype, device=positions.device) / d_model
    )
    angles = positions.unsqueeze(-1).to(dtype) * speeds
    return angles.sin(), angles.cos()


def by_division(positions, d_model):
    """The same in float32, with a division, which rounds differently: -> sines, cosines (..., D/2) each."""
    refuse_odd(d_model)
    even = torch.arange(0, d_model, 2, device=positions.device)
    angles = positions.unsqueeze(-1) / 10000 ** (even / d_model)
    return angles.sin(), angles.cos()


def alternating(a, b):
    return torch.stack([a, b], dim=-1).flatten(-2)


def one_speed_each(positions, d_model):
    """A hand for each dimension in place of one for each pair."""
    refuse_odd(d_model)
    j = torch.arange(d_model, device=positions.device)
    angles = positions.unsqueeze(-1) * 10000.0 ** (-j.double() / d_model)
    return torch.where(j % 2 == 0, angles.sin(), angles.cos())


def twice_as_far(positions, d_model):
    """The exponent 2i, with an i that is already even."""
    return alternating(*clock(positions, d_model, step=4))


def numbered(positions, d_model):
    count = torch.arange(positions.numel(), device=positions.device).view(positions.shape)
    return sinusoids(count, d_model)


def with_odd(positions, d_model, cut=None):
    """A clock that takes an odd d_model too, with a pair that is cut off or left out."""
    even = torch.arange(0, d_model, 2, dtype=torch.float64, device=positions.device)
    angles = positions.unsqueeze(-1) * 10000.0 ** (-even / d_model)
    return alternating(angles.sin(), angles.cos())[..., : cut(d_model) if cut else None]


SINUSOIDS = Exercise(
    right=clock_table,
    refuses=(ValueError,),
    cases=lambda draw: [
        (torch.tensor([1]), 2),
        (torch.tensor([3]), 4),
        (torch.tensor([0, 1, 2]), 4),
        (torch.tensor(5), 6),
        (torch.tensor([7, 2]), 8),
        (torch.tensor([1_234_567]), 6),
        (torch.tensor([20_000_001]), 4),  # float32 does not have this number
        (torch.tensor([1, 2]), 5),
        (draw.ids(500, 2, 3), 10),
        (10 + draw.ids(3000, 5), 2 * draw.whole(6, 9)),
    ],
    mistakes={
        "All sines come first and then all cosines. They should alternate: sine and cosine of pair 0, "
        "then of pair 1.": (
            lambda p, d: sinusoids(p, d).unflatten(-1, (-1, 2)).transpose(-2, -1).flatten(-2)
        ),
        "The cosine of each pair stands before the sine. Dimension 0 should hold a sine.": (
            lambda p, d: sinusoids(p, d).unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        ),
        "The sine and the cosine of a pair have different speeds. A pair is one hand, so both take the "
        "same angle.": one_speed_each,
        "The hands slow down too little from pair to pair. For pair i the exponent is 2i / d_model.": (
            lambda p, d: alternating(*clock(p, d, step=1))
        ),
        "The hands slow down too much from pair to pair. Is the exponent doubled twice?": twice_as_far,
        "Later pairs turn faster. Dividing by a power of 10,000 makes each slower than the one before.": (
            lambda p, d: alternating(*clock(p, d, sign=1))
        ),
        "Far out the angles lose their digits: they are computed in float32 and should be in float64.": [
            lambda p, d: alternating(*clock(p, d, dtype=torch.float32)).double(),
            lambda p, d: alternating(*(part.double() for part in by_division(p, d))),
        ],
        "It numbers the positions by itself, from 0. They are given, and need not begin at 0 or "
        "be in order.": [
            numbered,
            lambda p, d: sinusoids(torch.arange(len(p), device=p.device), d),
        ],
        "Every position is one too large; positions count from 0.": lambda p, d: sinusoids(p + 1, d),
        "The base is another one. The speeds are powers of 10,000.": [
            lambda p, d: alternating(*clock(p, d, base=1000.0)),
            lambda p, d: alternating(*clock(p, d, base=math.e)),
        ],
        "All pairs turn by one radian at each position. Are the exponents rounded to whole numbers?": (
            lambda p, d: alternating(*clock(p, d, step=0))
        ),
        "An odd d_model should be refused with a ValueError.": [
            with_odd,
            lambda p, d: with_odd(p, d, cut=lambda d: d),
            lambda p, d: with_odd(p, d, cut=lambda d: d - d % 2),
            lambda p, d: sinusoids(p, d - d % 2),
        ],
    },
    errors={
        "An odd d_model should be refused, with a ValueError and before anything else.": (
            lambda case, error: case[1] % 2
        ),
    },
    signs={
        "Sine and cosine of one pair do not belong to the same angle: their squares should add up to 1.": (
            lambda case, got, expected: (
                (got.unflatten(-1, (-1, 2)).square().sum(dim=-1) - 1).abs().max() > 1e-3
            )
        ),
        "Right for small positions and not for large ones. Is every step in float64, from the "
        "exponents on?": (lambda case, got, expected: case[0].max() > 100_000),
        "The first pair should turn by one radian at each position, and does not.": (
            lambda case, got, expected: not torch.allclose(got[..., :2], expected[..., :2], atol=1e-3)
        ),
    },
)

# ---------------------------------------------------------------- 2.5


def speed_of(pair, d_model, theta):
    return theta ** (-2 * pair / d_model)


def turned_by(angle):
    """What takes (sin, cos) of any angle to those of an angle that is larger."""
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)


def by_two_points(k, pair, d_model, theta):
    """The step from positions 1 and 2, solved for the matrix."""
    here = torch.tensor([1, 2])
    angles = angles_at(torch.stack([here, here + k]), d_model, theta)[..., pair]  # (2, 2): before and after
    before, after = torch.stack(
        [angles.sin(), angles.cos()], dim=1
    )  # (2, 2) each, a column for each position
    return after @ torch.linalg.inv(before)


STEP_MATRIX = Exercise(
    right=by_two_points,
    cases=lambda draw: [
        (1, 0, 2, 10000.0),
        (2, 1, 4, 100.0),
        (0, 1, 4, 50.0),
        (-3, 1, 6, 20.0),
        (draw.whole(2, 6), draw.whole(1, 2), 6, draw.real(20.0, 50.0)),
        (draw.whole(3, 9), draw.whole(1, 3), 8, draw.real(20.0, 50.0)),
    ],
    mistakes={
        "This matrix goes k positions back. On position 0 it should give (sin kω, cos kω).": (
            lambda k, pair, d, theta: turned_by(-k * speed_of(pair, d, theta))
        ),
        "The sign of k is lost. With a k below 0 the hand goes back.": (
            lambda k, pair, d, theta: turned_by(abs(k) * speed_of(pair, d, theta))
        ),
        "It takes one step, whatever k says.": lambda k, pair, d, theta: turned_by(speed_of(pair, d, theta)),
        "It turns by k radians, which is right for pair 0 only. Other pairs "
        "are slower.": lambda k, pair, d, theta: turned_by(k),
        "It works with the base 10,000, whatever theta says.": (
            lambda k, pair, d, theta: turned_by(k * speed_of(pair, d, 10000.0))
        ),
        "The speed of the pair is too large: the exponent should be -2 * pair / d_model.": (
            lambda k, pair, d, theta: turned_by(k * speed_of(pair / 2, d, theta))
        ),
        "Later pairs turn faster than pair 0; the exponent should be below 0.": (
            lambda k, pair, d, theta: turned_by(k / speed_of(pair, d, theta))
        ),
        "Sines and cosines have changed places in the matrix. For k = 0 it should change nothing.": [
            lambda k, pair, d, theta: turned_by(k * speed_of(pair, d, theta)).flip(0),
            lambda k, pair, d, theta: turned_by(k * speed_of(pair, d, theta)).flip(1),
        ],
        "This is a mirror and not a turn. For k = 0 the matrix should change nothing.": [
            lambda k, pair, d, theta: turned_by(k * speed_of(pair, d, theta)) * torch.tensor([[1.0], [-1.0]]),
            lambda k, pair, d, theta: turned_by(k * speed_of(pair, d, theta)) * torch.tensor([[-1.0, 1.0]]),
        ],
        "It takes the speed for an angle in degrees. Here all angles are in radians.": (
            lambda k, pair, d, theta: turned_by(math.radians(k * speed_of(pair, d, theta)))
        ),
        "Both sines have the same sign, so this is not a turn: lengths change.": (
            lambda k, pair, d, theta: (
                turned_by(k * speed_of(pair, d, theta)) * torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
            )
        ),
    },
    signs={
        "It keeps lengths, and mirrors the hand in place of turning it.": lambda case, got, expected: (
            torch.allclose(got @ got.T, torch.eye(2).double(), atol=1e-3) and torch.det(got) < 0
        ),
        "A turn, by another angle than k times the speed of the pair.": lambda case, got, expected: (
            torch.allclose(got @ got.T, torch.eye(2).double(), atol=1e-3)
        ),
        "A turn keeps lengths: every column should have the length 1.": (
            lambda case, got, expected: not torch.allclose(got.norm(dim=0), expected.norm(dim=0), atol=1e-3)
        ),
    },
)

# ---------------------------------------------------------------- 2.6


def with_gradient(answer, x, cos_sin):
    """What is turned; where x is to be learned, also what flows back."""
    turned = answer(x, cos_sin)
    if not x.requires_grad or not isinstance(turned, torch.Tensor) or turned.shape != x.shape:
        return turned
    arrives = torch.arange(1.0, 1 + x.numel(), dtype=x.dtype, device=x.device).view(x.shape)
    gradient = torch.zeros_like(x)
    if turned.requires_grad:
        (gradient,) = torch.autograd.grad((turned * arrives).sum(), x)
    return {"turned": turned, "the gradient of x": gradient}


def circle(angles):
    """Angles -> (cos, sin) in a new last dimension."""
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def turned_wrongly(make):
    """make(a, b, cos, sin) -> the two numbers of each pair."""
    return lambda x, cos_sin: alternating(*make(x[..., 0::2], x[..., 1::2], *cos_sin.unbind(-1)))


def halved(x):
    """Half-split pairs, written as interleaved ones."""
    return alternating(*x.chunk(2, dim=-1))


def with_a_turned_half(x, cos_sin):
    """The rotation of the other layout, with the angles of this one."""
    cos, sin = cos_sin.repeat_interleave(2, dim=-2).unbind(-1)  # (..., T, d) each
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def one_after_the_other(a, b, cos, sin):
    a = a * cos - b * sin
    return a, a * sin + b * cos


ROTATE_PAIRS = Exercise(
    right=rotate_pairs,
    run=with_gradient,
    errors={
        "Gradients must come back to x, and NumPy does not carry them. Stay with tensors.": (
            lambda case, error: "call numpy()" in str(error)
        ),
    },
    cases=lambda draw: [
        (torch.tensor([[2.0, 1.0]]), torch.tensor([[[0.0, 1.0]]])),  # a quarter turn
        (torch.tensor([[2.0, 1.0]]), torch.tensor([[[0.6, 0.8]]])),
        (torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[[0.6, 0.8], [0.0, 1.0]]])),
        (draw.normal(2, 4), circle(torch.tensor([[0.5, 0.1], [1.0, 0.2]]))),
        (draw.normal(3, 5, 4).double(), circle(draw.normal(5, 2).double())),
        (draw.normal(2, 3, 5, 6), circle(3 * draw.normal(2, 1, 5, 3))),
        (draw.normal(2, 5, 3, 8).transpose(1, 2), circle(3 * draw.normal(5, 4))),
        (draw.normal(3, 4).requires_grad_(), circle(draw.normal(3, 2))),
    ],
    mistakes={
        "It pairs the first half of the dimensions with the second. Here neighbours are a pair: 0 with "
        "1, 2 with 3.": [
            lambda x, cos_sin: rotate_pairs(x, cos_sin, interleaved=False),
            lambda x, cos_sin: halved(rotate_pairs(x, cos_sin, interleaved=False)),
            with_a_turned_half,
        ],
        "It turns the other way: a quarter turn should take (2, 1) to (-1, 2).": (
            lambda x, cos_sin: rotate_pairs(x, cos_sin * cos_sin.new_tensor([1.0, -1.0]))
        ),
        "Cosine and sine have changed places. In cos_sin the cosine comes first.": (
            lambda x, cos_sin: rotate_pairs(x, cos_sin.flip(-1))
        ),
        "The second number of a pair is computed from the first one after it was turned. Both need the "
        "old values.": (turned_wrongly(one_after_the_other)),
        "Turned rightly and put back in another order: all first numbers, then all second ones. The "
        "places should be those of x.": (
            lambda x, cos_sin: rotate_pairs(x, cos_sin).unflatten(-1, (-1, 2)).transpose(-2, -1).flatten(-2)
        ),
        "Both terms with a sine are added. A turn subtracts the one in the first number "
        "of each pair.": turned_wrongly(lambda a, b, cos, sin: (a * cos + b * sin, a * sin + b * cos)),
        "The first and the second number of each pair have changed places, before the turn or after it.": [
            turned_wrongly(lambda a, b, cos, sin: (b * cos - a * sin, b * sin + a * cos)),
            turned_wrongly(lambda a, b, cos, sin: (a * sin + b * cos, a * cos - b * sin)),
        ],
        "Each pair turns by twice its angle.": turned_wrongly(
            lambda a, b, cos, sin: (
                a * (cos**2 - sin**2) - b * 2 * cos * sin,
                a * 2 * cos * sin + b * (cos**2 - sin**2),
            )
        ),
        "It takes the cosine and the sine of what are a cosine and a sine already.": (
            lambda x, cos_sin: rotate_pairs(
                x, torch.stack([cos_sin[..., 0].cos(), cos_sin[..., 1].sin()], -1)
            )
        ),
        "It multiplies number by number. A turn mixes the two numbers of a pair.": turned_wrongly(
            lambda a, b, cos, sin: (a * cos, b * sin)
        ),
        "Every position turns by the angles of the first one.": (
            lambda x, cos_sin: rotate_pairs(x, cos_sin[..., :1, :, :].expand_as(cos_sin).contiguous())
        ),
        "Every pair turns by the angle of the first one.": (
            lambda x, cos_sin: rotate_pairs(x, cos_sin[..., :1, :].expand_as(cos_sin).contiguous())
        ),
        "No gradient comes back to x. Values that leave the tensor, or are detached, cannot be "
        "learned from.": (lambda x, cos_sin: rotate_pairs(x.detach(), cos_sin)),
        "A part of the gradient does not come back to x. Does it go through .data, or through a number "
        "that is detached?": [
            turned_wrongly(lambda a, b, cos, sin: (a.detach() * cos - b * sin, a.detach() * sin + b * cos)),
            turned_wrongly(lambda a, b, cos, sin: (a * cos - b.detach() * sin, a * sin + b.detach() * cos)),
        ],
    },
    signs={
        "A turn keeps the length of each pair, and here lengths change.": lambda case, got, expected: (
            not torch.allclose(*(t.unflatten(-1, (-1, 2)).norm(dim=-1) for t in (got, expected)), atol=1e-3)
            and not proportional(got, expected)
        ),
    },
)

# ---------------------------------------------------------------- 2.7


def turned_apart(q, k, distances, speeds):
    """Scores of q at distance + 40 and k at 40, for each distance: both are turned, as in a model."""
    here, there = (
        circle(p.unsqueeze(-1) * speeds.double()) for p in (distances + 40, torch.full_like(distances, 40))
    )
    turned_q, turned_k = (
        rotate_pairs(x.double().expand(len(distances), -1), angles) for x, angles in ((q, here), (k, there))
    )
    return (turned_q * turned_k).sum(dim=-1).to(q.dtype)


def only_cosines(q, k, distances, speeds):
    products = (q * k).unflatten(-1, (-1, 2)).sum(dim=-1)  # (d/2,)
    return (products * (distances.unsqueeze(-1) * speeds).cos()).sum(dim=-1)


def at_angles(q, k, angles):
    """Scores when q is turned by the angles (N, d/2) and k is not."""
    (a, b), (c, d) = q.double().view(-1, 2).T, k.double().view(-1, 2).T  # (d/2,) each
    return (angles.cos() @ (a * c + b * d) + angles.sin() @ (a * d - b * c)).to(q.dtype)


def at_own_speeds(q, k, distances, speeds):
    own = 10000.0 ** (-torch.arange(0, len(q), 2, device=q.device).double() / len(q))
    return at_angles(q, k, distances.unsqueeze(-1) * own)


SCORES_BY_DISTANCE = Exercise(
    right=turned_apart,
    cases=lambda draw: [
        (torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([0]), torch.tensor([math.pi / 2])),
        (torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([1]), torch.tensor([math.pi / 2])),
        (torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([1, -1, 2]), torch.tensor([0.5])),
        (draw.normal(4), draw.normal(4), torch.tensor([0, 1, -3]), torch.tensor([1.0, 0.1])),
        (draw.normal(6), draw.normal(6), draw.ids(30, 5) - 15, torch.tensor([1.0, 0.3, 0.1])),
        (draw.normal(8), draw.normal(8), 1 + draw.ids(30, 3), torch.tensor([1.0, 0.5, 0.2, 0.05])),
    ],
    mistakes={
        "The distance has the wrong sign. It says how far q stands behind k, so 1 means that q comes "
        "one position later.": (lambda q, k, distances, speeds: turned_apart(q, k, -distances, speeds)),
        "Before and behind count the same: the sign of the distance is lost.": (
            lambda q, k, distances, speeds: turned_apart(q, k, distances.abs(), speeds)
        ),
        "The distance makes no difference. Either nothing is turned, or both vectors are, by the same "
        "angles.": (lambda q, k, distances, speeds: turned_apart(q, k, 0 * distances, speeds)),
        "It makes speeds of its own, as powers of 10,000. They are given.": at_own_speeds,
        "It numbers the distances by itself, from 0. They are given, and may be below 0.": (
            lambda q, k, distances, speeds: turned_apart(
                q, k, torch.arange(len(distances), device=q.device), speeds
            )
        ),
        "The distances are divided by the speeds. An angle is distance times speed.": (
            lambda q, k, distances, speeds: at_angles(q, k, distances.unsqueeze(-1).double() / speeds)
        ),
        "The angles are twice what they should be. Is k turned as well, the other way?": (
            lambda q, k, distances, speeds: turned_apart(q, k, 2 * distances, speeds)
        ),
        "All pairs turn with the speed of the first. Each has its own.": (
            lambda q, k, distances, speeds: turned_apart(q, k, distances, speeds[:1].expand_as(speeds))
        ),
        "The pairs are taken from the two halves of the vectors. Here neighbours are a pair.": (
            lambda q, k, distances, speeds: turned_apart(halved(q), halved(k), distances, speeds)
        ),
        "The numbers of the turned q stand in another order than those of k.": (
            lambda q, k, distances, speeds: turned_apart(q, halved(k), distances, speeds)
        ),
        "Both terms with a sine are added. In the first number of a pair it is subtracted.": (
            lambda q, k, distances, speeds: (
                only_cosines(q, k, distances, speeds)
                + (q.view(-1, 2) * k.view(-1, 2).flip(-1)).sum(dim=-1)
                @ (distances.unsqueeze(-1) * speeds).sin().T
            )
        ),
        "Each dot product is multiplied by a cosine, and the part with the sine is missing. A "
        "turn has both.": only_cosines,
        "The scores are divided by the square root of their number of dimensions. Here they are plain "
        "dot products.": (
            lambda q, k, distances, speeds: turned_apart(q, k, distances, speeds) / math.sqrt(len(q))
        ),
        "These are the scores of the pairs, one by one. The score of the vectors is their sum.": (
            lambda q, k, distances, speeds: torch.stack(
                [
                    turned_apart(q[2 * i : 2 * i + 2], k[2 * i : 2 * i + 2], distances, speeds[i : i + 1])
                    for i in range(len(speeds))
                ],
                dim=-1,
            )
        ),
        "Every distance counts as 1. At distance 2 a pair turns twice as far as at 1.": (
            lambda q, k, distances, speeds: turned_apart(q, k, torch.ones_like(distances), speeds)
        ),
    },
    signs={
        "At distance 0 both are turned alike, so the score should be the dot product of q and k.": (
            lambda case, got, expected: (
                not torch.allclose(got[case[2] == 0], expected[case[2] == 0], atol=1e-4)
            )
        ),
        "A turn keeps lengths, so no score can be above the product of the two lengths.": (
            lambda case, got, expected: bool((got.abs() > case[0].norm() * case[1].norm() + 1e-3).any())
        ),
    },
)

# ---------------------------------------------------------------- 2.8


def to_half_split(weight):
    return (
        weight.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
    )  # (d, D) -> (d/2, 2, D) -> (2, d/2, D) -> (d, D)


def to_interleaved(weight):
    return (
        weight.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
    )  # (d, D) -> (2, d/2, D) -> (d/2, 2, D) -> (d, D)


def both_ways(answers, weight):
    given, seen = weight.clone(), {}
    for name, answer in zip(("to_half_split(weight)", "to_interleaved(weight)"), answers):
        own = given.clone()  # what one of them changes is nothing to the other
        seen[name] = answer(own)
        if not torch.equal(own, given):
            weight.copy_(own)
    return seen


def odd_first(weight):
    return torch.cat([weight[1::2], weight[0::2]])


def backwards(weight):
    return torch.cat([weight[0::2], weight[1::2].flip(0)])


def on_columns(change):
    return lambda weight: change(weight.T).T


LAYOUTS = Exercise(
    right=(to_half_split, to_interleaved),
    run=both_ways,
    cases=lambda draw: [
        (torch.tensor([[0.0, 0.5], [1.0, 1.5], [2.0, 2.5], [3.0, 3.5]]),),
        (torch.tensor([[0.0, 0.5], [1.0, 1.5], [2.0, 2.5], [3.0, 3.5], [4.0, 4.5], [5.0, 5.5]]),),
        (draw.normal(8, 6).double(),),
        (draw.normal(2 * draw.whole(5, 7), 4),),
    ],
    mistakes={
        "The two directions have changed places.": (to_interleaved, to_half_split),
        "Both functions put even rows first. The way back undoes that, and is not the same again.": (
            to_half_split,
            to_half_split,
        ),
        "Both functions take rows from the two halves in turn. One should do that, the other "
        "should undo it.": (
            to_interleaved,
            to_interleaved,
        ),
        "It changes the order of columns. The numbers of q come from the rows of the matrix.": (
            on_columns(to_half_split),
            on_columns(to_interleaved),
        ),
        "Odd rows come first. The first half should hold the first numbers of the pairs, in the even rows.": [
            (odd_first, to_interleaved),
            (odd_first, lambda w: to_interleaved(w.roll(len(w) // 2, 0))),
        ],
        "to_half_split is right, and to_interleaved changes nothing.": (to_half_split, lambda w: w.clone()),
        "Nothing changes its place.": (lambda w: w.clone(), lambda w: w.clone()),
        "The two halves change places as they are, and no pair is taken apart.": [
            (lambda w: w.roll(len(w) // 2, 0), lambda w: w.roll(len(w) // 2, 0)),
        ],
        "The second half runs backwards. Both halves should list the pairs in the same order.": [
            (backwards, lambda w: to_interleaved(torch.cat([w[: len(w) // 2], w[len(w) // 2 :].flip(0)]))),
            (backwards, to_interleaved),
        ],
    },
    signs={
        "Some row is lost or stands twice. Each row should have exactly one place in the result.": (
            lambda case, got, expected: (
                all(got[key].shape == expected[key].shape for key in expected)
                and any(
                    (got[key].sort(dim=0).values != expected[key].sort(dim=0).values).any()
                    for key in expected
                )
            )
        ),
    },
)

# ---------------------------------------------------------------- 2.9


def by_the_course(token_ids, start, token_table, position_table, sinusoidal):
    kind = "sinusoidal" if sinusoidal else "learned"
    front = InputEmbedding(len(token_table), token_table.size(1), len(position_table), kind).to(token_table)
    with torch.no_grad():
        front.token.weight.copy_(token_table)
        (front.position.table if sinusoidal else front.position.weight).copy_(position_table)
        return front(token_ids, torch.arange(start, start + token_ids.size(1), device=token_ids.device))


def summed(positions=None, tokens=None, total=None, rows=None):
    """A wrong answer, by what differs: positions(ids, start), or a factor (D, is_sinusoidal) of token rows,
    of the sum, or of position rows."""

    def embed(token_ids, start, token_table, position_table, sinusoidal):
        D, T = token_table.size(1), token_ids.size(1)
        right = torch.arange(start, start + T, device=token_ids.device)
        factor = tokens(D, sinusoidal) if tokens else math.sqrt(D) if sinusoidal else 1.0
        places = positions(token_ids, start) if positions else right
        position_rows = F.embedding(places, position_table) * (rows(D, sinusoidal) if rows else 1.0)
        x = F.embedding(token_ids, token_table) * factor + position_rows
        return x * total(D, sinusoidal) if total else x

    return embed


def scaled_positions(tokens, rows):
    """A wrong answer: with sinusoidal positions, D to the power of `rows` multiplies the position rows."""
    return summed(
        tokens=lambda D, sinusoidal: D**tokens if sinusoidal else 1.0,
        rows=lambda D, sinusoidal: D**rows if sinusoidal else 1.0,
    )


def sliced(last):
    """A wrong answer: the position rows are start .. last(token_ids, start) - 1."""

    def embed(token_ids, start, token_table, position_table, sinusoidal):
        factor = math.sqrt(token_table.size(1)) if sinusoidal else 1.0
        positions = position_table[start : last(token_ids, start)]
        return F.embedding(token_ids, token_table) * factor + positions

    return embed


def without_tokens(case):
    token_ids, start, _, position_table, _ = case
    return position_table[start : start + token_ids.size(1)]


EMBED = Exercise(
    right=by_the_course,
    cases=lambda draw: [
        (
            torch.tensor([[1]]),
            0,
            torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
            torch.tensor([[10.0, 20.0], [30.0, 40.0]]),
            False,
        ),
        (
            torch.tensor([[1]]),
            1,
            torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
            torch.tensor([[10.0, 20.0], [30.0, 40.0]]),
            False,
        ),
        (torch.tensor([[0]]), 1, torch.ones(1, 6), torch.arange(18.0).view(3, 6), True),
        (
            torch.tensor([[0, 0]]),
            0,
            torch.tensor([[1.0]]),
            torch.tensor([[10.0], [20.0], [30.0], [40.0]]),
            False,
        ),
        (torch.tensor([[0, 1], [1, 0]]), 2, draw.normal(2, 3), draw.normal(9, 3), False),
        (draw.ids(7, 3, 5), draw.whole(2, 6), draw.normal(7, 8), draw.normal(12, 8), True),
        (draw.ids(7, 2, 4), draw.whole(2, 6), draw.normal(7, 6), draw.normal(11, 6), False),
        (draw.ids(5, 4, 1), draw.whole(5, 9), draw.normal(5, 3), draw.normal(10, 3), False),
    ],
    mistakes={
        "The positions begin at 0 again. They should go on at start, behind the tokens that were "
        "there before.": summed(lambda ids, start: torch.arange(ids.size(1), device=ids.device)),
        "Every token gets the position start. Each one behind it stands one further.": summed(
            lambda ids, start: torch.full((ids.size(1),), start, device=ids.device)
        ),
        "Every position is one too large: the first new token stands at start.": summed(
            lambda ids, start: torch.arange(ids.size(1), device=ids.device) + start + 1
        ),
        "The positions count the texts of the batch. They should count the tokens within each text.": summed(
            lambda ids, start: (
                (torch.arange(len(ids), device=ids.device) + start).unsqueeze(1).expand(ids.shape)
            )
        ),
        "There are as many positions as texts. There should be as many as each text has tokens.": sliced(
            lambda ids, start: start + len(ids)
        ),
        "The slice of the position table ends at T. It should hold T rows, from start on.": sliced(
            lambda ids, start: ids.size(1)
        ),
        "The rows of the position table are chosen by token id. They should be chosen by position.": [
            summed(lambda ids, start: ids),
            summed(lambda ids, start: ids + start),
        ],
        "The token rows are never scaled. With sinusoidal positions they are multiplied by the square "
        "root of d_model.": (summed(tokens=lambda D, sinusoidal: 1.0)),
        "The token rows are always scaled. With learned positions they should stay as they are.": summed(
            tokens=lambda D, sinusoidal: math.sqrt(D)
        ),
        "The sum is scaled, positions and all. Only the token rows should be.": summed(
            tokens=lambda D, sinusoidal: 1.0, total=lambda D, sinusoidal: math.sqrt(D) if sinusoidal else 1.0
        ),
        "The rows of the position table are scaled. Only the token rows should be.": [
            scaled_positions(0.5, -0.5),
            scaled_positions(0.0, -0.5),
            scaled_positions(0.0, 0.5),
        ],
        "The token rows are multiplied by d_model itself; it should be the square root.": summed(
            tokens=lambda D, sinusoidal: float(D) if sinusoidal else 1.0
        ),
        "The token rows are divided by the square root of d_model. They are too small already, "
        "so multiply.": summed(tokens=lambda D, sinusoidal: 1 / math.sqrt(D) if sinusoidal else 1.0),
        "The scaling is the wrong way round: it is for sinusoidal positions.": summed(
            tokens=lambda D, sinusoidal: 1.0 if sinusoidal else math.sqrt(D)
        ),
        "These are the token rows alone. The rows of the positions should be added.": [
            lambda ids, start, tokens, positions, sinusoidal: (
                F.embedding(ids, tokens) * (math.sqrt(tokens.size(1)) if sinusoidal else 1.0)
            ),
            lambda ids, start, tokens, positions, sinusoidal: F.embedding(ids, tokens),
        ],
    },
    signs={
        "Tokens and positions are multiplied. They should be added.": lambda case, got, expected: (
            torch.allclose(got[0, 0], case[2][case[0][0, 0]] * case[3][case[1]])
        ),
        "With sinusoidal positions the token rows are multiplied by another number than the square root "
        "of d_model.": (
            lambda case, got, expected: (
                case[4] and proportional(got - without_tokens(case), expected - without_tokens(case))
            )
        ),
        "It is right in the first text and wrong in others. Every text of the batch has the "
        "same positions.": (lambda case, got, expected: torch.allclose(got[0], expected[0])),
    },
)

# ---------------------------------------------------------------- 2.10


class OneTable(nn.Module):
    """Both ends of a model with the course's embedding."""

    def __init__(self, vocab_size, d_model):
        super().__init__()
        self.token = TokenEmbedding(vocab_size, d_model)

    def embed(self, token_ids):
        return self.token(token_ids)

    def logits(self, x):
        return x @ self.token.weight.T


class TwoTables(nn.Module):
    def __init__(self, vocab_size, d_model, bias=False):
        super().__init__()
        self.token, self.output = TokenEmbedding(vocab_size, d_model), nn.Linear(d_model, vocab_size, bias)

    def embed(self, token_ids):
        return self.token(token_ids)

    def logits(self, x):
        return self.output(x)


class SharedWithConstant(TwoTables):
    def __init__(self, vocab_size, d_model):
        super().__init__(vocab_size, d_model, bias=True)
        self.output.weight = self.token.weight


class DetachedEnd(OneTable):
    def logits(self, x):
        return x @ self.token.weight.detach().T


class DetachedStart(OneTable):
    def embed(self, token_ids):
        return super().embed(token_ids).detach()


def started(fill):
    """One table that starts with what fill(weight) puts into it."""

    class Started(OneTable):
        def __init__(self, vocab_size, d_model):
            super().__init__(vocab_size, d_model)
            with torch.no_grad():
                fill(self.token.weight)

    return Started


class Padded(OneTable):
    """Row 0 gets no gradient from the input end."""

    def embed(self, token_ids):
        return F.embedding(token_ids, self.token.weight, padding_idx=0)


class NotLearned(OneTable):
    def __init__(self, vocab_size, d_model):
        super().__init__(vocab_size, d_model)
        table = self.token.weight.detach().clone()
        del self.token.weight
        self.token.weight = table


class Shares(OneTable):
    def logits(self, x):
        return super().logits(x).softmax(dim=-1)


class LogShares(OneTable):
    def logits(self, x):
        return super().logits(x).log_softmax(dim=-1)


class ScaledEnd(OneTable):
    def logits(self, x):
        return super().logits(x) / math.sqrt(x.size(-1))


def kind_of_start(table):
    """What the numbers of a new table, some thousands, are like."""
    spread, mean, distinct = table.std().item(), table.mean().item(), table[:9].unique().numel()
    if not math.isfinite(spread):
        return "numbers that are not finite"
    if distinct == 1:
        return "one number everywhere"
    if distinct < 0.9 * table[:9].numel():
        return "numbers that repeat"
    if abs(mean) > 0.1 * spread:
        return "numbers whose mean is not 0"
    if not 0.018 < spread < 0.022:
        return f"a standard deviation {'below' if spread < 0.02 else 'above'} 0.02"
    beyond = (table.abs() > 2 * spread).double().mean().item()  # 0.0455 of normally distributed numbers
    return "numbers as asked" if 0.025 < beyond < 0.07 else "numbers that are not normally distributed"


def both_ends(answer, table, token_ids, x):
    """What a model of one table does before and after one step of training."""
    (V, D), device = table.shape, table.device
    model = answer(V, D).double().float().to(table)  # a module may be moved after it was made
    parameters = list(model.parameters())
    seen = {"the numbers to learn": sum(p.numel() for p in parameters)}
    if not parameters:
        return seen
    if len(x) == 1:  # one case is enough for that
        seen["what the table starts with"] = kind_of_start(next(answer(100, 50).parameters()).detach())
    with torch.no_grad():
        for parameter in parameters:
            fitting = [t for t in (table, table.T) if t.shape == parameter.shape]
            parameter.copy_(fitting[0]) if fitting else parameter.zero_()
    rows, scores = model.embed(token_ids), model.logits(x)
    seen |= {"embed(token_ids)": rows.detach(), "logits(x)": scores.detach()}
    model.zero_grad()
    loss = torch.zeros((), device=device, requires_grad=True)
    for result in (rows, scores):
        loss = loss + (result * torch.arange(1.0, 1 + result.numel(), device=device).view(result.shape)).sum()
    loss.backward()
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    seen["embed(token_ids) after one step"] = model.embed(token_ids).detach()
    seen["logits(x) after one step"] = model.logits(x).detach()
    return seen


BOTH_ENDS = Exercise(
    right=OneTable,
    run=both_ends,
    errors={
        "It works in float32 and stops in float64. Does it use a tensor that is not moved with "
        "the module?": lambda case, error: case[0].dtype == torch.float64,
    },
    cases=lambda draw: [
        (
            torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
            torch.tensor([1]),
            torch.tensor([[1.0, 0.0, 1.0]]),
        ),
        (draw.normal(4, 3), torch.tensor([0, draw.whole(1, 3)]), draw.normal(5, 3)),
        (draw.normal(7, 4), draw.ids(7, 2, 3) * torch.tensor([0, 1, 1]), draw.normal(2, 3, 4)),
        (draw.normal(5, 2).double(), draw.ids(5, 3), draw.normal(4, 2).double()),
    ],
    mistakes={
        "There are two tables, and training moves each by itself. Both ends should read the same one: "
        "share it, do not copy it.": TwoTables,
        "A constant is added to each score. The output should be dot products and "
        "nothing else.": SharedWithConstant,
        "No gradient reaches the table from the output end. Training should move it "
        "from both ends.": DetachedEnd,
        "No gradient reaches the table from the rows that are looked up. Training should move it "
        "from both ends.": DetachedStart,
        "The table starts with numbers that are too large. Their standard deviation should be 0.02; "
        "what PyTorch starts with is larger.": started(nn.init.normal_),
        "The table starts with numbers that are too small. Their standard deviation should be 0.02.": (
            started(lambda weight: nn.init.normal_(weight, std=0.002))
        ),
        "The numbers at the start have a mean that is not 0. They should lie around 0, half of them "
        "below it.": started(lambda weight: nn.init.normal_(weight, mean=1.0, std=0.02)),
        "At the start the same numbers stand in several rows. Each number should be "
        "drawn by itself.": started(lambda weight: weight.copy_(0.02 * torch.randn_like(weight[:1]))),
        "The numbers at the start have the right size and another distribution. They should be "
        "normally distributed.": started(lambda weight: nn.init.uniform_(weight, -0.0346, 0.0346)),
        "The table starts with one number everywhere, so all tokens are alike. It should start "
        "at random.": started(nn.init.zeros_),
        "Row 0 learns nothing from being looked up. Is it set aside as padding? Here it is a row like all "
        "others.": Padded,
        "The table is a plain tensor, and the module has nothing to learn. Register it as "
        "a parameter.": NotLearned,
        "The scores come out as probabilities. Logits are the scores before softmax.": [Shares, LogShares],
        "The scores are divided by the square root of d_model. Here they should be plain "
        "dot products.": ScaledEnd,
    },
    signs={
        "The module should learn vocab_size times d_model numbers and no more.": (
            lambda case, got, expected: got["the numbers to learn"] != expected["the numbers to learn"]
        ),
        "The output uses what the table was when the module was made. The module may be moved to "
        "another device or "
        "dtype later, so read the table when logits are computed.": lambda case, got, expected: (
            not torch.allclose(got["logits(x)"], expected["logits(x)"], atol=1e-3)
            and torch.equal(got["logits(x)"], got["logits(x) after one step"])
        ),
        "The table starts with numbers that were never set. Draw them.": lambda case, got, expected: (
            got["what the table starts with"] == "numbers that are not finite"
        ),
        "What training does to the table should show at both ends, "
        "and does not.": lambda case, got, expected: torch.equal(
            got["logits(x)"], got["logits(x) after one step"]
        ),
    },
)

# ---------------------------------------------------------------- 2.11


class Layer:
    """A layer to try, with a name that can be shown: rule(x (T, D)) -> (T, D)."""

    def __init__(self, name, rule):
        self.name, self.rule = name, rule

    def __call__(self, x):
        return self.rule(x)

    def __repr__(self):
        return self.name

    def __eq__(self, other):
        return self.name == getattr(other, "name", None)

    __hash__ = None


def attend(x):
    weights = (x @ x.T).softmax(dim=1)  # (T, D) @ (D, T) -> (T, T)
    return weights @ x  # (T, T) @ (T, D) -> (T, D)


def one_by_one(x):
    """The same sum in each row, added up in the order of the rows."""
    total = torch.zeros_like(x[0])
    for row in x:
        total = total + row
    return total.expand_as(x).clone()


def placed(x):
    return attend(x + torch.arange(len(x), device=x.device).unsqueeze(1))


ALONE = Layer("each row by itself", lambda x: x.square())
ATTEND = Layer("attention without positions", attend)
PLACED = Layer("attention with positions", placed)
RUNNING = Layer("the sum of all rows so far", lambda x: x.cumsum(dim=0))
TOTAL = Layer("the sum of all rows", one_by_one)
BEFORE = Layer("the row before", lambda x: x.roll(1, dims=0))


def doubled(row):
    """x with one row twice as large, whatever stands in it."""

    def rule(x):
        return torch.cat([x[:row], 2 * x[row : row + 1], x[row + 1 :]])

    return rule


FIRST = Layer("the first row doubled", doubled(0))
THIRD = Layer("the third row doubled", doubled(2))
LEFT = Layer("in the first column the sum so far", lambda x: torch.cat([x[:, :1].cumsum(0), x[:, 1:]], 1))
RIGHT = Layer("in the last column the sum so far", lambda x: torch.cat([x[:, :-1], x[:, -1:].cumsum(0)], 1))
SLIGHT = Layer(
    "0.0003 more in each row", lambda x: x + 0.0003 * torch.arange(len(x), device=x.device).unsqueeze(1)
)
SIGNS = Layer(
    "every second row with the other sign",
    lambda x: x * (1 - 2 * (torch.arange(len(x), device=x.device).unsqueeze(1) % 2)),
)


def sees_order(layer, x, order):
    places = {int(old): new for new, old in enumerate(order)}  # where each row went
    before, after = layer(x), layer(x[order])
    return any(not torch.allclose(before[i], after[places[i]], atol=1e-5) for i in range(len(x)))


def close(a, b):
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-5)


def two_moved(x):
    """The first two rows have changed places."""
    return torch.cat([x[:2].flip(0), x[2:]])


SEES_ORDER = Exercise(
    right=sees_order,
    cases=lambda draw: [
        (ALONE, torch.tensor([[1.0], [2.0]]), torch.tensor([1, 0])),
        (RUNNING, torch.tensor([[1.0], [2.0]]), torch.tensor([1, 0])),
        (ALONE, torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1, 2, 0])),
        (TOTAL, torch.tensor([[0.1], [0.2], [0.3]], dtype=torch.float64), torch.tensor([2, 1, 0])),
        (TOTAL, torch.tensor([[1.1], [2.2], [-3.3]]), torch.tensor([2, 1, 0])),
        (FIRST, torch.tensor([[4.0], [0.0]]), torch.tensor([1, 0])),  # only what becomes smaller
        (FIRST, torch.tensor([[0.0], [4.0]]), torch.tensor([1, 0])),  # only what becomes larger
        (LEFT, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0])),
        (RIGHT, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0])),
        (THIRD, torch.tensor([[1.0], [2.0], [4.0], [7.0], [9.0]]), torch.tensor([0, 2, 1, 3, 4])),
        (SLIGHT, torch.tensor([[0.1], [0.2]]), torch.tensor([1, 0])),
        (SIGNS, torch.tensor([[1.0, -1.0], [2.0, -2.0]]), torch.tensor([1, 0])),
        (BEFORE, torch.tensor([[1.0, 0.0], [2.0, 3.0], [4.0, 5.0]]), torch.tensor([0, 2, 1])),
        (FIRST, torch.ones(2, 1), torch.tensor([1, 0])),  # rows that are alike
        (FIRST, torch.tensor([[1.0], [2.0], [4.0], [7.0], [11.0]]), torch.tensor([0, 3, 1, 4, 2])),
        (ATTEND, draw.normal(4, 3), torch.tensor([1, 2, 3, 0])),
        (PLACED, torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]), torch.tensor([2, 1, 0])),
        (ATTEND, draw.normal(5, 2), torch.tensor([2, 0, 4, 1, 3])),
        (TOTAL, draw.normal(6, 4), torch.tensor([3, 4, 5, 0, 1, 2])),
    ],
    mistakes={
        "The results are compared row by row, though the rows have moved. Move the rows of the first "
        "result in the same way.": (lambda layer, x, order: not close(layer(x[order]), layer(x))),
        "It asks for equality in every bit. Sums in another order round differently, so compare with "
        "a tolerance.": (lambda layer, x, order: not torch.equal(layer(x[order]), layer(x)[order])),
        "The answer is the wrong way round. True should mean that the order makes a difference.": (
            lambda layer, x, order: not sees_order(layer, x, order)
        ),
        "The rows of the first result move back in place of forward. Both need the same order.": (
            lambda layer, x, order: not close(layer(x[order]), layer(x)[order.argsort()])
        ),
        "It compares the inputs and not what the layer makes of them.": [
            lambda layer, x, order: not close(x[order], x),
            lambda layer, x, order: not close(layer(x), x),
        ],
        "It asks only whether the same rows, or the same sum, come out in some order. What matters is "
        "what each single row receives.": (
            lambda layer, x, order: not close(layer(x[order]).sum(dim=0), layer(x).sum(dim=0))
        ),
        "It looks at one row or one column only. Every number counts.": [
            lambda layer, x, order: not close(layer(x[order])[0], layer(x)[order][0]),
            lambda layer, x, order: not close(layer(x[order])[-1], layer(x)[order][-1]),
            lambda layer, x, order: not close(layer(x[order])[:, 0], layer(x)[order][:, 0]),
            lambda layer, x, order: not close(layer(x[order])[:, -1], layer(x)[order][:, -1]),
        ],
        "It compares lengths or sums of the rows. Every number counts by itself.": [
            lambda layer, x, order: not close(layer(x[order]).norm(dim=1), layer(x)[order].norm(dim=1)),
            lambda layer, x, order: not close(layer(x[order]).sum(dim=1), layer(x)[order].sum(dim=1)),
        ],
        "It says True only when every number differs. One that differs is enough.": (
            lambda layer, x, order: not layer(x[order]).isclose(layer(x)[order], atol=1e-5).any().item()
        ),
        "Only differences in one direction count. A number that has become smaller is another one too, "
        "and so is one that has become larger.": [
            lambda layer, x, order: (layer(x[order]) - layer(x)[order]).max().item() > 1e-5,
            lambda layer, x, order: (layer(x)[order] - layer(x[order])).max().item() > 1e-5,
        ],
        "The tolerance is too wide, and small differences are lost. Rounding changes far less than 0.0001.": [
            lambda layer, x, order: not torch.allclose(layer(x[order]), layer(x)[order], atol=1e-1),
        ],
        "The tolerance is too narrow near 0, and rounding is taken for a difference. Set atol.": (
            lambda layer, x, order: not torch.allclose(layer(x[order]), layer(x)[order])
        ),
        "It moves the rows in an order of its own. The order to try is given.": [
            lambda layer, x, order: not close(layer(x.flip(0)), layer(x).flip(0)),
            lambda layer, x, order: not close(layer(x.roll(1, 0)), layer(x).roll(1, 0)),
            lambda layer, x, order: not close(layer(two_moved(x)), two_moved(layer(x))),
        ],
        "It says True for every layer.": lambda layer, x, order: True,
        "It says False for every layer. Does the layer get the rows in the other order once, before it "
        "works on them?": (lambda layer, x, order: False),
    },
    signs={
        "It says that this layer sees the order, and each row receives the same in both.": (
            lambda case, got, expected: got is True and expected is False
        ),
        "It says that this layer does not see the order, and some row receives something else.": (
            lambda case, got, expected: got is False and expected is True
        ),
    },
)

check = checker(
    {
        "2.1": LOOKUP,
        "2.2": LOOKUP_GRADIENT,
        "2.3": NEAREST,
        "2.4": SINUSOIDS,
        "2.5": STEP_MATRIX,
        "2.6": ROTATE_PAIRS,
        "2.7": SCORES_BY_DISTANCE,
        "2.8": LAYOUTS,
        "2.9": EMBED,
        "2.10": BOTH_ENDS,
        "2.11": SEES_ORDER,
    }
)
