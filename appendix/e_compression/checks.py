"""The checks of appendix E's exercises: what is right, on which inputs, and the usual mistakes by name."""

# Written by hand: what learners get wrong, in words.

import functools
import math

import torch
import torch.nn.functional as F

from ch01_tokenization.checking import Exercise, checker

from .q4_1 import encode_q4_1
from .quantization import quantize_absmax, round_trip

__all__ = ["check"]


# ---------------------------------------------------------------- E.1 one scale for all


def absmax(weights, bits):
    q = quantize_absmax(weights, bits)
    return q.codes, q.scale


def flawed_absmax(
    top=lambda bits: 2 ** (bits - 1) - 1,
    largest=lambda w: w.abs().max(),
    to_whole=torch.round,
    scale_out=lambda scale: scale,
):
    def quantise(weights, bits):
        limit = top(bits)
        scale = largest(weights) / limit
        codes = to_whole(weights / scale).clamp(-limit, limit).to(torch.int8)
        return codes, scale_out(scale)

    return quantise


def run_absmax(answer, weights, bits):
    codes, scale = answer(weights, bits)
    return {"the codes": codes, "the scale": scale}


ABSMAX = Exercise(
    right=absmax,
    run=run_absmax,
    cases=lambda draw: [
        (torch.tensor([7.0, 2.0]), 4),
        (torch.tensor([-7.0, 2.6]), 4),
        (torch.tensor([0.3, -1.4, 0.0, 0.75]), 4),
        (torch.tensor([[3.0, -6.0], [1.0, 0.4]]), 3),
        (draw.normal(5, 6) - 1.5, 8),
        (draw.normal(3, 4, 2) - 1, draw.choice([3, 5, 6])),
    ],
    mistakes={
        "The scale is divided by 2^(bits-1), which is one more than the largest code, 2^(bits-1) - 1.": [
            flawed_absmax(top=lambda bits: 2 ** (bits - 1)),
            lambda w, bits: absmax_apart(w, bits, 2 ** (bits - 1)),
        ],
        "The codes go up to 2^bits - 1 here, as if none were negative. Half of them are: the largest is "
        "2^(bits-1) - 1.": [
            flawed_absmax(top=lambda bits: 2**bits - 1),
            lambda w, bits: absmax_apart(w, bits, 2**bits - 1),
        ],
        "In Python 2 ^ n is not a power. That is 2 ** n.": flawed_absmax(top=lambda bits: 2 ^ (bits - 1) - 1),
        "The largest code is 127 whatever `bits` is.": flawed_absmax(top=lambda bits: 127),
        "The largest weight is taken, but a negative one may be larger in size: the maximum of the sizes.": [
            flawed_absmax(largest=torch.max),
            lambda w, bits: (
                (w / (w.max() / (2 ** (bits - 1) - 1))).round().to(torch.int8),
                w.max() / (2 ** (bits - 1) - 1),
            ),
            lambda w, bits: (
                (w / (max(w) / (2 ** (bits - 1) - 1))).round().to(torch.int8),
                max(w) / (2 ** (bits - 1) - 1),
            ),
        ],
        "What is behind the point is cut off. It should be rounded to the nearest whole number before the "
        "cast to int8.": flawed_absmax(to_whole=torch.trunc),
        "The numbers are rounded down, negative ones away from zero. Round to the nearest.": flawed_absmax(
            to_whole=torch.floor
        ),
        "A half goes to the wrong neighbour. It goes to the even one, as with torch.round.": [
            flawed_absmax(to_whole=lambda steps: (steps + 0.5).floor()),
            flawed_absmax(to_whole=lambda steps: (steps.abs() + 0.5).floor() * steps.sign()),
        ],
        "The scale is upside down: it should be weight per code, the largest size divided by the largest "
        "code.": flawed_absmax(scale_out=lambda scale: 1 / scale),
        "Smallest to largest weight is spread over the codes. Here the scale comes from the largest size "
        "alone.": flawed_absmax(largest=lambda w: (w.max() - w.min()) / 2),
        "The usual size of a weight makes the scale, so the large ones are cut off. The largest size makes "
        "it.": [
            flawed_absmax(largest=lambda w: w.abs().mean()),
            flawed_absmax(largest=torch.std),
        ],
        "The codes are the weights rounded; they are to be divided by the scale first.": [
            lambda w, bits: (w.round().to(torch.int8), absmax(w, bits)[1]),
            lambda w, bits: (
                w.round().clamp(1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1).to(torch.int8),
                absmax(w, bits)[1],
            ),
        ],
        "The codes and the scale have changed places.": lambda w, bits: absmax(w, bits)[::-1],
    },
    errors={
        "It should return two things, the codes and the scale.": lambda case, error: (
            "unpack" in str(error) or "0-d tensor" in str(error)
        ),
    },
    signs={
        "There should be one scale for the whole tensor, of shape ().": lambda case, got, expected: (
            got["the scale"].shape != ()
        ),
        "The codes should be int8.": lambda case, got, expected: got["the codes"].dtype != torch.int8,
        "Codes times scale should be nearly the weights, and is not.": lambda case, got, expected: bool(
            ((got["the codes"] * got["the scale"] - case[0]).abs() > 0.51 * expected["the scale"]).any()
        ),
    },
)


def absmax_apart(weights, bits, limit):
    """The wrong largest code in the scale, and nothing cut off before the cast."""
    scale = weights.abs().max() / limit
    return (weights / scale).round().to(torch.int8), scale


# ---------------------------------------------------------------- E.2 groups with a minimum


def through_groups(weights, bits, group_size):
    return round_trip(weights, bits, group_size)


def flawed_groups(
    top=lambda bits: 2**bits - 1,
    cut=lambda w, g: w.unflatten(1, (-1, g)),
    join=lambda groups: groups.flatten(1),
    low=lambda groups: groups.amin(dim=2, keepdim=True),
    guard=True,
    to_whole=torch.round,
    back=lambda codes, scale, low: low + scale * codes,
):
    def through(weights, bits, group_size):
        groups = cut(weights, group_size)
        smallest, largest = low(groups), groups.amax(dim=2, keepdim=True)
        scale = (largest - smallest) / top(bits)
        steps = (groups - smallest) / (scale.where(scale > 0, 1) if guard else scale)
        return join(back(to_whole(steps), scale, smallest))

    return through


def strided(weights, group_size):
    """Every (C / g)-th weight of a row in one group."""
    return weights.unflatten(1, (group_size, -1)).transpose(1, 2)


def across(dim):
    """Minimum and maximum of (R, C / g, g) along another dimension than the last."""

    def through(weights, bits, group_size):
        groups = weights.unflatten(1, (-1, group_size))
        low, high = groups.amin(dim, keepdim=True), groups.amax(dim, keepdim=True)
        scale = (high - low) / (2**bits - 1)
        return (low + scale * ((groups - low) / scale.where(scale > 0, 1)).round()).flatten(1)

    return through


GROUPS = Exercise(
    right=through_groups,
    cases=lambda draw: [
        (torch.tensor([[0.0, 1.0, 3.0, 3.6]]), 2, 4),
        (torch.tensor([[-2.0, -1.2, 0.0, 1.0]]), 2, 4),
        (torch.tensor([[0.0, 1.0, 10.0, 40.0]]), 2, 2),
        (torch.tensor([[0.0, 1.0, 1.2, 10.0, 15.0, 40.0], [5.0, 6.0, 9.0, -1.0, -4.0, -5.0]]), 2, 3),
        (torch.tensor([[2.5, 2.5, 2.5, 0.0, 1.0, 3.0]]), 2, 3),
        (draw.normal(6, 12) * 2 + 1, 3, 4),
        (draw.normal(8, 40), draw.choice([2, 4]), 8),
    ],
    mistakes={
        "The range is divided by 2^bits. There are 2^bits codes, and one step fewer between them.": (
            flawed_groups(top=lambda bits: 2**bits)
        ),
        "The range is divided into 2^(bits-1) - 1 steps. With a minimum no code is negative, and there are "
        "2^bits - 1.": flawed_groups(top=lambda bits: 2 ** (bits - 1) - 1),
        "A whole row shares one scale. Cut it into groups first.": lambda w, bits, g: round_trip(w, bits),
        "The whole tensor shares one scale and one minimum. Each group of a row has its own.": [
            lambda w, bits, g: round_trip(w.reshape(1, -1), bits).view(w.shape),
            lambda w, bits, g: flawed_groups(cut=lambda w, g: w.reshape(1, 1, -1))(w, bits, g).view(w.shape),
        ],
        "The groups are neighbours in a column. They should be neighbours in a row.": [
            lambda w, bits, g: round_trip(w.T, bits, g).T,
            lambda w, bits, g: round_trip(w.T.reshape(-1, g), bits).view(w.T.shape).T,
        ],
        "Each group has weights from all over the row. A group is `group_size` neighbours.": flawed_groups(
            cut=strided, join=lambda groups: groups.transpose(1, 2).flatten(1)
        ),
        "There are `group_size` groups in a row, where each should have `group_size` members.": (
            lambda w, bits, g: round_trip(w, bits, w.size(1) // g)
        ),
        "Minimum and maximum are taken along the wrong dimension. They are those of the members of one "
        "group: the last of (R, C / g, g).": [across(0), across(1), across((0, 1)), across((0, 2))],
        "The minimum is not added back.": flawed_groups(back=lambda codes, scale, low: scale * codes),
        "The smallest weight of a group is taken to be 0. Codes begin at the group's own minimum.": (
            lambda w, bits, g: flawed_groups(low=lambda groups: torch.zeros_like(groups[..., :1]))(w, bits, g)
        ),
        "This is the symmetric kind, without a minimum: half of the codes stay unused in a group that lies "
        "on one side.": lambda w, bits, g: round_trip(w, bits, g, symmetric=True),
        "A group whose weights are all equal has a scale of 0, and dividing by it gives no number.": [
            flawed_groups(guard=False),
            lambda w, bits, g: flawed_groups(guard=False)(w, bits, g).nan_to_num(0.0),
        ],
        "These are the codes. Go back: the minimum plus scale times code.": flawed_groups(
            back=lambda codes, scale, low: codes
        ),
        "The steps are cut off behind the point in place of rounded.": flawed_groups(to_whole=torch.trunc),
        "Nothing is rounded, so the weights come back as they were.": lambda w, bits, g: w.clone(),
    },
    signs={
        "The smallest weight of each group should be kept.": lambda case, got, expected: (
            not torch.allclose(*(x.unflatten(1, (-1, case[2])).amin(2) for x in (got, case[0])), atol=1e-4)
        ),
        "The largest weight of each group should be kept.": lambda case, got, expected: (
            not torch.allclose(*(x.unflatten(1, (-1, case[2])).amax(2) for x in (got, case[0])), atol=1e-4)
        ),
        "Each group may have 2^bits values at most, and one here has more.": lambda case, got, expected: any(
            len(group.unique()) > 2 ** case[1] for group in got.unflatten(1, (-1, case[2])).flatten(0, 1)
        ),
    },
)


# ---------------------------------------------------------------- E.3 neighbours in a byte


def pack(codes):
    codes = F.pad(codes, (0, len(codes) % 2))
    return codes[0::2] | (codes[1::2] << 4)


def unpack(packed, n):
    return torch.stack([packed & 15, packed >> 4], dim=1).flatten()[:n]


def packed_by(first=0, shift=4, pad=True, halves=False, front=False):
    def packing(codes):
        odd = len(codes) % 2
        if pad:
            codes = F.pad(codes, (odd, 0) if front else (0, odd))
        pairs = codes.chunk(2) if halves else (codes[first::2], codes[1 - first :: 2])
        size = min(map(len, pairs))
        return pairs[0][:size] | (pairs[1][:size] << shift)

    return packing


def run_nibbles(answer, codes):
    packing, unpacking = answer
    return {"packed": packing(codes), "unpacked": unpacking(pack(codes), len(codes))}


NIBBLES = Exercise(
    right=(pack, unpack),
    run=run_nibbles,
    cases=lambda draw: [
        (torch.tensor([1, 15], dtype=torch.uint8),),
        (torch.tensor([5, 12, 7], dtype=torch.uint8),),
        (torch.tensor([3], dtype=torch.uint8),),
        (torch.tensor([1, 2, 3, 4], dtype=torch.uint8),),
        (draw.ids(16, 9).to(torch.uint8),),
        (draw.ids(16, 2 * draw.whole(5, 8)).to(torch.uint8),),
    ],
    mistakes={
        "pack puts the first half of the codes into the low bits and the second half into the high ones. "
        "Here neighbours share a byte.": [
            (packed_by(halves=True), unpack),
            (packed_by(halves=True), lambda p, n: torch.cat([p & 15, p >> 4])[:n]),
        ],
        "pack puts the first of two neighbours into the high bits. It belongs into the low ones.": [
            (packed_by(first=1), unpack),
            (packed_by(first=1), lambda p, n: torch.stack([p >> 4, p & 15], 1).flatten()[:n]),
        ],
        "The second code is not moved up by four bits, so the two overlap.": [
            (packed_by(shift=0), unpack),
            (lambda codes: pairs_of(codes)[0] + pairs_of(codes)[1], unpack),
        ],
        "The second code is moved up by another number of bits than four.": [
            (packed_by(shift=shift), unpack) for shift in (1, 2, 3, 5)
        ],
        "With an odd number of codes the last one is lost.": [
            (packed_by(pad=False), unpack),
            (lambda c: F.pad(pack(c[: len(c) // 2 * 2]), (0, len(c) % 2)), unpack),
        ],
        "With an odd number of codes there is one low code more than high ones. Add the 0 first.": (
            lambda codes: codes[0::2] | (codes[1::2] << 4),
            unpack,
        ),
        "& keeps only the bits that both codes have. | puts the two together.": (
            lambda codes: pairs_of(codes)[0] & (pairs_of(codes)[1] << 4),
            unpack,
        ),
        "With an odd number of codes the 0 is put before the first. It belongs behind the last.": (
            packed_by(front=True),
            unpack,
        ),
        "pack keeps only the first of two neighbours.": (lambda codes: pairs_of(codes)[0], unpack),
        "unpack gives all low codes and then all high ones. They should alternate.": (
            pack,
            lambda p, n: torch.cat([p & 15, p >> 4])[:n],
        ),
        "unpack gives the high code of each byte before the low one.": (
            pack,
            lambda p, n: torch.stack([p >> 4, p & 15], 1).flatten()[:n],
        ),
        "unpack leaves the upper four bits in the low code.": (
            pack,
            lambda p, n: torch.stack([p, p >> 4], 1).flatten()[:n],
        ),
        "unpack does not move the high code down: it is 16 times too large.": (
            pack,
            lambda p, n: torch.stack([p & 15, p & 240], 1).flatten()[:n],
        ),
        "unpack gives the added 0 too. Only the first n codes were there.": (
            pack,
            lambda p, n: torch.stack([p & 15, p >> 4], 1).flatten(),
        ),
    },
    signs={
        "pack should give (n + 1) // 2 bytes.": lambda case, got, expected: (
            got["packed"].shape != expected["packed"].shape
        ),
        "unpack should give n codes.": lambda case, got, expected: len(got["unpacked"]) != len(case[0]),
        "What unpack gives is not the codes that were packed.": lambda case, got, expected: (
            not torch.equal(got["unpacked"].long(), case[0].long())
        ),
    },
)


def pairs_of(codes):
    return F.pad(codes, (0, len(codes) % 2)).view(-1, 2).unbind(1)


# ---------------------------------------------------------------- E.4 a block for a file


def flawed_block(
    steps=15,
    order=lambda d, m: (d, m),
    pair=lambda codes: codes[:16] | (codes[16:] << 4),
    guard=True,
    halves=lambda pair: pair.half(),
    scale=lambda w: w.max() - w.min(),
    stored_first="",
    to_whole=torch.round,
    subtract=True,
    clamp=True,
    join=lambda floats, pairs: torch.cat([floats, pairs]),
):
    def encode(weights):
        m = weights.min()
        d = scale(weights) / steps
        d_used, m_used = (x.half().float() if name in stored_first else x for name, x in (("d", d), ("m", m)))
        steps_up = weights - m_used if subtract else weights
        codes = to_whole(steps_up / (d_used.where(d_used > 0, 1) if guard else d_used))
        codes = (codes.clamp(0, 15) if clamp else codes).to(torch.uint8)
        return join(halves(torch.stack(order(d, m))).view(torch.uint8), pair(codes))

    return encode


def numbers_of(weights):
    """Scale and minimum, float32: (2,)."""
    return torch.stack([(weights.max() - weights.min()) / 15, weights.min()])


@functools.cache
def telling_block():
    """Weights whose codes differ with the rounded scale, or with the rounded minimum, and no tie is near."""
    for seed in range(10_000):
        weights = torch.randn(32, generator=torch.Generator().manual_seed(seed)) + 20
        steps = (weights - weights.min()) / ((weights.max() - weights.min()) / 15)
        if ((steps % 1 - 0.5).abs() > 1e-3).all():
            right = encode_q4_1(weights)
            if not any(torch.equal(flawed_block(stored_first=x)(weights), right) for x in ("d", "m", "dm")):
                return weights
    raise AssertionError("no block tells the two apart")


def away_from_ties(weights):
    """The same weights, those moved a little whose code would be nearly a tie; the ends stay."""
    low, step = weights.min(), (weights.max() - weights.min()) / 15
    part = (weights - low) / step % 1
    return torch.where((part - 0.5).abs() < 0.01, weights + 0.1 * step, weights)


BLOCK = Exercise(
    right=encode_q4_1,
    cases=lambda draw: [
        (torch.arange(32) % 16 * 1.0,),
        (torch.arange(32) * -0.5,),
        (torch.arange(32) ** 1.5 / 10 - 3,),
        (torch.full((32,), 2.5),),
        (telling_block().clone(),),
        (away_from_ties(draw.normal(32) * 2),),
        (away_from_ties(draw.normal(32) * 0.1 + draw.real(-1, 1)),),
    ],
    mistakes={
        "The range is divided by 16. Sixteen codes have fifteen steps between them.": [
            flawed_block(steps=16, clamp=clamp) for clamp in (True, False)
        ],
        "The minimum is stored before the scale. Bytes 0 and 1 are the scale.": flawed_block(
            order=lambda d, m: (m, d)
        ),
        "Neighbours share a byte. Byte i should have weight i and weight i + 16.": flawed_block(
            pair=lambda codes: codes[0::2] | (codes[1::2] << 4)
        ),
        "The first half of the weights is in the high four bits. It belongs into the low ones.": flawed_block(
            pair=lambda codes: codes[16:] | (codes[:16] << 4)
        ),
        "The second sixteen codes are not moved up by four bits.": [
            flawed_block(pair=lambda codes: codes[:16] | codes[16:]),
            flawed_block(pair=lambda codes: codes[:16] + codes[16:]),
        ],
        "Every code has a byte of its own. Two of them go into one.": flawed_block(pair=lambda codes: codes),
        "The two floats take four bytes each. As float16 they take two.": flawed_block(
            halves=lambda pair: pair
        ),
        "Only the first sixteen codes are stored.": flawed_block(pair=lambda codes: codes[:16]),
        "The two floats are stored as bfloat16. Q4_1 has float16.": flawed_block(
            halves=lambda pair: pair.bfloat16()
        ),
        "The largest weight is stored where the minimum should be.": flawed_block(
            order=lambda d, m: (d, m + 15 * d)
        ),
        "The codes begin at 0 and not at the minimum: it has to be subtracted first.": [
            flawed_block(subtract=False, clamp=clamp) for clamp in (True, False)
        ],
        "The scale comes from the largest size. Here it is the range, largest minus smallest, in fifteen "
        "steps.": [flawed_block(scale=lambda w: w.abs().max(), clamp=clamp) for clamp in (True, False)],
        "The codes are found with the rounded scale or minimum. Find them with the exact ones, and round "
        "afterwards.": [flawed_block(stored_first=names) for names in ("dm", "d", "m")],
        "Scale and minimum are one number of the result each. They should be two bytes each: "
        ".half().view(torch.uint8).": [
            lambda w: torch.cat([numbers_of(w).half(), encode_q4_1(w)[4:]]),
            lambda w: torch.cat([numbers_of(w).to(torch.uint8), encode_q4_1(w)[4:]]),
            lambda w: torch.cat([numbers_of(w).half().to(torch.uint8), encode_q4_1(w)[4:]]),
        ],
        "What is behind the point is cut off in place of rounded.": flawed_block(to_whole=torch.trunc),
        "The codes stand before the two floats. The floats come first.": flawed_block(
            join=lambda floats, pairs: torch.cat([pairs, floats])
        ),
    },
    errors={
        "A tensor of shape () cannot be read as two bytes. Give it a dimension first: torch.stack([d, m]).": (
            lambda case, error: "self.dim() cannot be 0 to view" in str(error)
        ),
    },
    signs={
        "Bytes 0 and 1 should be the scale as a float16, the lower byte first.": lambda case, got, expected: (
            not torch.equal(got[:2], expected[:2])
        ),
        "Bytes 2 and 3 should be the minimum as a float16, the lower byte first.": (
            lambda case, got, expected: not torch.equal(got[2:4], expected[2:4])
        ),
        "The two floats are right, and the codes behind them are not.": lambda case, got, expected: (
            not torch.equal(got[4:], expected[4:])
        ),
    },
)


# ---------------------------------------------------------------- E.5 a gradient through rounding


def straight_through(
    inside=lambda x, top: x.round().abs() <= top,
    forward_of=lambda x, top: x.round().clamp(-top, top),
    slope=lambda gradient, inside: gradient * inside,
):
    class Through(torch.autograd.Function):
        @staticmethod
        def forward(context, x, top):
            context.save_for_backward(inside(x, top))
            return forward_of(x, top)

        @staticmethod
        def backward(context, gradient):
            return slope(gradient, context.saved_tensors[0]), None

    return Through


def run_through(answer, x, top, upstream):
    x = x.clone().requires_grad_()
    y = answer.apply(x * 1.0, top)
    y.backward(upstream)
    return {"the result": y.detach(), "the gradient of x": x.grad}


THROUGH = Exercise(
    right=straight_through(),
    run=run_through,
    cases=lambda draw: [
        (torch.tensor([2.3]), 7, torch.tensor([1.0])),
        (torch.tensor([2.3]), 7, torch.tensor([-4.0])),
        (torch.tensor([1.2, 9.0, -9.0]), 7, torch.tensor([1.0, 2.0, 3.0])),
        (torch.tensor([0.4, 6.6, 7.4, 7.6, -7.0, -9.0]), 7, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        (torch.tensor([0.4, 1.4, -1.2, 1.7]), 1, torch.tensor([1.0, 2.0, 3.0, 4.0])),
        (draw.normal(4, 5) * 3, draw.choice([3, 4]), draw.normal(4, 5)),
        (draw.normal(3, 2, 6) * 5, 7, draw.normal(3, 2, 6)),
    ],
    mistakes={
        "No gradient passes. That is the true slope of rounding; the estimator pretends that there was "
        "none.": straight_through(slope=lambda gradient, inside: gradient * 0),
        "The gradient passes everywhere. Where a number was cut off it should be 0.": straight_through(
            slope=lambda gradient, inside: gradient
        ),
        "The gradient that comes in is not used: backward should multiply with it.": straight_through(
            slope=lambda gradient, inside: inside.to(gradient.dtype)
        ),
        "The gradient passes where numbers were cut off, and only there. It is the other way round.": (
            straight_through(slope=lambda gradient, inside: gradient * ~inside)
        ),
        "Numbers that are exactly at top get no gradient. The ends are included.": straight_through(
            inside=lambda x, top: x.round().abs() < top
        ),
        "Whether a number lies outside is decided before rounding: 7.4 rounds to 7, which is inside.": (
            straight_through(inside=lambda x, top: x.abs() <= top)
        ),
        "Only numbers above top are seen as cut off. Those below -top are too.": straight_through(
            inside=lambda x, top: x.round() <= top
        ),
        "The result is rounded, and not cut off at -top and top.": straight_through(
            forward_of=lambda x, top: x.round()
        ),
        "The result is cut off, and not rounded.": straight_through(
            forward_of=lambda x, top: x.clamp(-top, top)
        ),
        "The result is cut off at 0. Negative numbers go down to -top.": straight_through(
            forward_of=lambda x, top: x.round().clamp(0, top)
        ),
        "The result is cut off at top alone. Negative numbers stop at -top.": straight_through(
            forward_of=lambda x, top: x.round().clamp(max=top)
        ),
        "The result goes down to -top - 1. The lowest is -top.": straight_through(
            forward_of=lambda x, top: x.round().clamp(-top - 1, top)
        ),
        "A number that is too large in size becomes 0. It should become top or -top.": straight_through(
            forward_of=lambda x, top: x.round() * (x.round().abs() <= top)
        ),
        "The gradient is multiplied by the rounded numbers. The slope that is pretended is 1.": (
            straight_through(
                inside=lambda x, top: x.round().clamp(-top, top), slope=lambda gradient, kept: gradient * kept
            )
        ),
        "The gradient is cut off too. What is cut off is x; a gradient passes whole or not at all.": [
            straight_through(slope=lambda gradient, inside: gradient.clamp(-1, 1)),
            straight_through(slope=lambda gradient, inside: gradient.clamp(-1, 1) * inside),
        ],
        "The gradient is rounded. It should pass as it is.": [
            straight_through(slope=lambda gradient, inside: gradient.round() * inside),
        ],
    },
    errors={
        "backward should return as many values as forward has arguments behind the context: that of x, and "
        "None.": lambda case, error: (
            "incorrect number of gradients" in str(error) or "gradient different than None" in str(error)
        ),
        "context.saved_tensors is a tuple, even of one: (inside,) = context.saved_tensors.": (
            lambda case, error: "converted to an index" in str(error) or "'tuple'" in str(error)
        ),
        "save_for_backward takes tensors alone. A number is kept as context.top = top.": (
            lambda case, error: "can only save variables" in str(error)
        ),
    },
    signs={
        "A number that was not cut off should get its gradient as it came.": lambda case, got, expected: (
            not torch.allclose(
                got["the gradient of x"][case[0].round().abs() <= case[1]],
                case[2][case[0].round().abs() <= case[1]],
            )
        ),
        "A number that was cut off should get a gradient of 0.": lambda case, got, expected: bool(
            got["the gradient of x"][case[0].round().abs() > case[1]].any()
        ),
    },
)


# ---------------------------------------------------------------- E.6 what a teacher adds


def flawed_teacher(
    power=2,
    student=lambda z, T: z / T,
    teacher=lambda z, T: z / T,
    weigh=lambda log_p, log_q: log_p.exp() * (log_p - log_q),
    mean=lambda each: each.sum(dim=-1).mean(),
    detach=True,
):
    def loss(student_logits, teacher_logits, temperature):
        teacher_logits = teacher_logits.detach() if detach else teacher_logits
        log_p = teacher(teacher_logits, temperature).log_softmax(dim=-1)
        log_q = student(student_logits, temperature).log_softmax(dim=-1)
        return temperature**power * mean(weigh(log_p, log_q))

    return loss


def over_rows(add):
    """Softmax along dimension 0."""

    def loss(student_logits, teacher_logits, temperature):
        log_p = (teacher_logits.detach() / temperature).log_softmax(dim=0)
        log_q = (student_logits / temperature).log_softmax(dim=0)
        return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim=add).mean()

    return loss


def right_teacher(student_logits, teacher_logits, temperature):
    """PyTorch's, for comparison."""
    log_q = (student_logits / temperature).log_softmax(dim=-1)
    p = (teacher_logits.detach() / temperature).softmax(dim=-1)
    return temperature**2 * F.kl_div(log_q, p, reduction="batchmean")


def run_teacher(answer, student_logits, teacher_logits, temperature):
    student, teacher = (logits.clone().requires_grad_() for logits in (student_logits, teacher_logits))
    loss = answer(student, teacher, temperature)
    if isinstance(loss, torch.Tensor) and loss.requires_grad and loss.dim() == 0:
        loss.backward()
    return {
        "the loss": loss,
        "the gradient of the student": torch.zeros(0) if student.grad is None else student.grad,
        "the teacher gets a gradient": teacher.grad is not None,
    }


TEACHER = Exercise(
    right=right_teacher,
    run=run_teacher,
    cases=lambda draw: [
        (torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]]), 1.0),
        (torch.zeros(1, 2), torch.tensor([[math.log(9), 0.0]]), 2.0),
        (torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [3.0, 0.0]]), 1.0),
        (2 * draw.normal(4, 5), 2 * draw.normal(4, 5), 1.0),
        (2 * draw.normal(3, 7), 2 * draw.normal(3, 7), draw.choice([2.0, 3.0])),
        (200 * draw.normal(3, 4), 200 * draw.normal(3, 4), 1.5),
    ],
    mistakes={
        "The factor T² is missing.": flawed_teacher(power=0),
        "The factor is T. It should be T².": flawed_teacher(power=1),
        "It is divided by T² and should be multiplied by it.": flawed_teacher(power=-2),
        "The softmax goes over the rows. It should go over the vocabulary, the last dimension.": [
            over_rows(0),
            over_rows(-1),
        ],
        "The sum goes over the rows and the mean over the vocabulary. It is the other way round.": (
            flawed_teacher(mean=lambda each: each.sum(dim=0).mean())
        ),
        "The temperature divides what comes out of the softmax. It should divide the logits.": [
            flawed_teacher(power=1, student=lambda z, T: z, teacher=lambda z, T: z),
            lambda s, t, T: flawed_teacher(
                student=lambda z, T: z,
                teacher=lambda z, T: z,
                weigh=lambda p, q: (p / T).exp() * (p - q) / T,
            )(s, t, T),
        ],
        "Student and teacher have changed places: the teacher's probabilities are the weights of the sum.": [
            flawed_teacher(weigh=lambda log_p, log_q: log_q.exp() * (log_q - log_p)),
        ],
        "The sign is turned round: a divergence is never negative.": flawed_teacher(
            weigh=lambda log_p, log_q: log_p.exp() * (log_q - log_p)
        ),
        "The student's own probabilities are the weights of the sum. They should be the teacher's.": (
            flawed_teacher(weigh=lambda log_p, log_q: log_q.exp() * (log_p - log_q))
        ),
        "The mean goes over all N times V entries. Sum over the tokens of the vocabulary, and take the mean "
        "over the N rows.": flawed_teacher(mean=lambda each: each.mean()),
        "The rows are summed up. It should be their mean.": flawed_teacher(mean=lambda each: each.sum()),
        "The logits are multiplied by the temperature. They should be divided by it.": flawed_teacher(
            student=lambda z, T: z * T, teacher=lambda z, T: z * T
        ),
        "The temperature is used for the teacher only.": flawed_teacher(student=lambda z, T: z),
        "The temperature is used for the student only.": flawed_teacher(teacher=lambda z, T: z),
        "The temperature is not used inside the two softmaxes.": flawed_teacher(
            student=lambda z, T: z, teacher=lambda z, T: z
        ),
        "This is the cross-entropy. The teacher's own entropy, the sum of p ln p, is to be added to it.": (
            flawed_teacher(weigh=lambda log_p, log_q: -log_p.exp() * log_q)
        ),
        "The teacher's gradient is not stopped: detach its logits.": flawed_teacher(detach=False),
        "Logits are compared, and not the probabilities that they give.": (
            lambda s, t, T: T**2 * ((s - t.detach()) / T).square().sum(dim=-1).mean()
        ),
        "The probabilities' logarithms are taken after the softmax. For large logits a probability becomes "
        "0, and its logarithm infinite: log_softmax.": lambda s, t, T: (
            T**2
            * (
                (t.detach() / T).softmax(-1)
                * ((t.detach() / T).softmax(-1).log() - (s / T).softmax(-1).log())
            )
            .sum(-1)
            .mean()
        ),
    },
    signs={
        "The loss should be one number, a tensor of shape ().": lambda case, got, expected: (
            got["the loss"].shape != ()
        ),
        "No gradient reaches the student.": lambda case, got, expected: (
            got["the gradient of the student"].numel() == 0
        ),
        "The teacher should get no gradient.": lambda case, got, expected: got["the teacher gets a gradient"],
        "A divergence is never negative, and this loss is.": lambda case, got, expected: bool(
            got["the loss"] < -1e-5
        ),
    },
)


# ---------------------------------------------------------------- E.7 the smallest, wherever they are


def masks_by(
    sizes=torch.abs,
    number=lambda share, total: round(share * total),
    together=True,
    descending=False,
    flip=False,
):
    def decide(values, share):
        kept = torch.ones(len(values), dtype=torch.bool, device=values.device)
        kept[values.argsort(descending=descending)[: number(share, len(values))]] = False
        return ~kept if flip else kept

    def masks(matrices, share):
        flat = [sizes(matrix).flatten() for matrix in matrices]
        if not together:
            return [decide(values, share).view(m.shape) for values, m in zip(flat, matrices)]
        parts = decide(torch.cat(flat), share).split([len(values) for values in flat])
        return [part.view(matrix.shape) for part, matrix in zip(parts, matrices)]

    return masks


def below(threshold):
    """Kept is what is not below a threshold that comes from all sizes and the share."""

    def masks(matrices, share):
        limit = threshold(torch.cat([m.abs().flatten() for m in matrices]), share)
        return [m.abs() >= limit for m in matrices]

    return masks


def masks_of(dtype, matrices, share):
    return [mask.to(dtype) for mask in masks_by()(matrices, share)]


def last_that_goes(sizes, share):
    return sizes.sort().values[round(share * len(sizes)) - 1]


MASKS = Exercise(
    right=masks_by(),
    cases=lambda draw: [
        ([torch.tensor([1.0, 2.0])], 0.5),
        ([torch.tensor([1.0, -5.0])], 0.5),
        ([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], 0.5),
        ([torch.tensor([1.0, -5.0]), torch.tensor([2.0, 3.0, -0.5])], 0.4),
        ([torch.tensor([[1.0, -5.0]]), torch.tensor([[2.0], [3.0]])], 0.0),
        ([torch.tensor([[1.0, -5.0, 6.0]]), torch.tensor([[2.0], [3.0]])], 1.0),
        ([draw.normal(3, 4), 3 * draw.normal(5, 2), draw.normal(7)], 0.3),
        ([5 * draw.normal(4, 3, 2), draw.normal(6, 5)], draw.choice([0.25, 0.7, 0.9])),
    ],
    mistakes={
        "Each matrix loses the same share. All weights should compete together.": masks_by(together=False),
        "The largest go and the smallest stay. It should be the other way round.": masks_by(descending=True),
        "True stands for what goes. It should stand for what is kept.": masks_by(flip=True),
        "The weights are compared with their signs, so that the most negative go first. Compare sizes.": (
            masks_by(sizes=lambda m: m)
        ),
        "The share is what is kept here. It should be what goes.": [
            masks_by(number=lambda share, total: round((1 - share) * total)),
            masks_by(number=lambda share, total: total - round(share * total)),
        ],
        "One weight too many goes.": [
            masks_by(number=lambda share, total: round(share * total) + 1),
            below(
                lambda sizes, share: float(sizes.sort().values[: round(share * len(sizes)) + 1][-1]) * 1.00001
            ),
        ],
        "One weight too few goes.": masks_by(number=lambda share, total: max(0, round(share * total) - 1)),
        "The share of the largest size is the limit. Count weights: the share of them that goes.": below(
            lambda sizes, share: share * sizes.max()
        ),
        "The share itself is taken for the limit of sizes. It says how many of the weights go.": below(
            lambda sizes, share: share
        ),
        "Nothing goes at all.": masks_by(number=lambda share, total: 0),
        "These are the pruned matrices. Asked for are the masks, True where a weight is kept.": (
            lambda matrices, share: [m * mask for m, mask in zip(matrices, masks_by()(matrices, share))]
        ),
        "These are masks of numbers, 0 and 1. They should be bool.": [
            functools.partial(masks_of, dtype)
            for dtype in (torch.float32, torch.int32, torch.int64, torch.uint8)
        ],
        "With a share of 0 nothing should go. The place n - 1 is then the last, that of the largest size.": (
            lambda matrices, share: [
                m.abs() > last_that_goes(torch.cat([m.abs().flatten() for m in matrices]), share)
                for m in matrices
            ]
        ),
        "This is one long mask. There should be one for each matrix, in its shape.": [
            lambda matrices, share: torch.cat([m.flatten() for m in masks_by()(matrices, share)]),
            lambda matrices, share: [m.flatten() for m in masks_by()(matrices, share)],
        ],
    },
    signs={
        "There should be a mask for each matrix, of its shape.": lambda case, got, expected: (
            [m.shape for m in got] != [m.shape for m in case[0]]
        ),
        "Another number of weights goes than round(share * total).": lambda case, got, expected: (
            sum(int(m.sum()) for m in got) != sum(int(m.sum()) for m in expected)
        ),
        "A weight goes that is larger in size than one that stays.": lambda case, got, expected: True,
    },
)


# ---------------------------------------------------------------- E.8 would this head be missed


def scores_by(
    product=lambda o, g: o * g,
    inner=lambda x: x.sum(dim=(2, 3)),
    size=torch.abs,
    over=lambda x: x.mean(dim=0),
):
    return lambda outputs, gradients: over(size(inner(product(outputs, gradients))))


SCORES = Exercise(
    right=scores_by(),
    cases=lambda draw: [
        (torch.tensor([[[[2.0]]]]), torch.tensor([[[[-3.0]]]])),
        (torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[1.0, -3.0]]]])),
        (torch.tensor([[[[1.0, 2.0]]], [[[3.0, 0.0]]]]), torch.tensor([[[[1.0, 1.0]]], [[[-2.0, 5.0]]]])),
        (draw.normal(2, 3, 4, 5), draw.normal(2, 3, 4, 5)),
        (draw.normal(5, 4, 3, 2) + 0.5, draw.normal(5, 4, 3, 2)),
        (draw.normal(4, 2, 6, 3), draw.normal(4, 2, 6, 3)),
    ],
    mistakes={
        "The sizes are missing: a slope down counts as much as a slope up.": scores_by(size=lambda x: x),
        "The size is taken before the sum over positions and numbers. The derivative is the sum; its size "
        "comes after it.": [
            scores_by(product=lambda o, g: (o * g).abs()),
            scores_by(product=lambda o, g: o.abs() * g.abs()),
        ],
        "The examples are put together before the size is taken, so that they cancel each other.": [
            scores_by(size=lambda x: x, over=lambda x: x.mean(dim=0).abs()),
            scores_by(size=lambda x: x, over=lambda x: x.sum(dim=0).abs()),
        ],
        "The examples are summed up. It should be their mean.": scores_by(over=lambda x: x.sum(dim=0)),
        "The outputs are not used. The derivative with respect to the gate is output times gradient.": (
            [scores_by(product=lambda o, g: g), scores_by(product=lambda o, g: g.abs())]
        ),
        "The gradients are not used. A head that puts out much need not matter for the loss.": [
            scores_by(product=lambda o, g: o),
            scores_by(product=lambda o, g: o.abs()),
        ],
        "Outputs and gradients are summed before they are multiplied. Multiply number by number first.": (
            lambda o, g: (o.sum(dim=(2, 3)) * g.sum(dim=(2, 3))).abs().mean(dim=0)
        ),
        "The products are squared, summed, and the root taken. They should be summed with their signs.": (
            scores_by(inner=lambda x: x.norm(dim=(2, 3)))
        ),
        "The mean is taken over positions and numbers. The derivative is their sum.": scores_by(
            inner=lambda x: x.mean(dim=(2, 3))
        ),
        "The slopes are squared. Their size is asked for.": [
            scores_by(size=torch.square),
            scores_by(size=torch.square, over=lambda x: x.mean(dim=0).sqrt()),
        ],
        "There is one number for each example. It should be one for each head: the mean is over examples.": (
            scores_by(over=lambda x: x.mean(dim=1))
        ),
        "The mean over the examples is missing: one row for each of them is left.": scores_by(
            over=lambda x: x
        ),
        "There is a score for each position. The sum goes over the positions too.": scores_by(
            inner=lambda x: x.sum(dim=3)
        ),
        "All heads have become one number. There should be one for each.": scores_by(over=lambda x: x.mean()),
        "The scores are divided by their sum. They should stay as they are.": scores_by(
            over=lambda x: x.mean(dim=0) / x.mean(dim=0).sum()
        ),
        "The sizes are summed position by position. Sum over positions and numbers first, then take one "
        "size.": [
            scores_by(inner=lambda x: x.sum(dim=3), over=lambda x: x.sum(dim=2).mean(dim=0)),
            scores_by(inner=lambda x: x.sum(dim=2), over=lambda x: x.sum(dim=2).mean(dim=0)),
        ],
    },
    signs={
        "A score is a size, and one here is negative.": lambda case, got, expected: bool((got < 0).any()),
    },
)


check = checker(
    {
        "E.1": ABSMAX,
        "E.2": GROUPS,
        "E.3": NIBBLES,
        "E.4": BLOCK,
        "E.5": THROUGH,
        "E.6": TEACHER,
        "E.7": MASKS,
        "E.8": SCORES,
    }
)
