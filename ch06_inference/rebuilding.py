"""The checks of exercise 6.12, a GPT from an empty notebook: what is right, and the usual mistakes."""

# Written by hand: what learners get wrong, in words.

import copy
import dataclasses
import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from ch01_tokenization.checking import Draw, Exercise, same
from ch02_embeddings.embeddings import RotaryEmbedding, angles_at
from ch02_embeddings.rotation import rotate_pairs
from ch03_attention.attention import MultiHeadAttention
from ch04_transformer.transformer import GPT, GPTConfig, RMSNorm, SwiGLU, TransformerBlock, make_rope

from .generation import KVCache, LayerCache

__all__ = ["STAGES"]

LLAMA = dict(norm="rmsnorm", activation="swiglu", position="rope")
OWN_STEPS = 2_000_000  # lines: training runs a whole model many times


# ---------------------------------------------------------------- weights for both, ours and the learner's


@torch.no_grad()
def random_weights(module, seed):
    """A state dict for a part of the course: matrices of a size that keeps numbers near 1, norms near 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, old in module.state_dict().items():
        drawn = torch.randn(old.shape, generator=generator)
        weights[name] = 1 + drawn / 3 if old.dim() == 1 else drawn * 1.5 / math.sqrt(old.size(-1))
    if "lm_head.weight" in weights and module.config.tie_weights:
        weights["lm_head.weight"] = weights["embedding.token.weight"]
    return weights


@functools.lru_cache(maxsize=64)  # every mistake asks for the same ones
def weights_of(part, config, seed):
    return random_weights(part(config), seed)


def fitted(module, weights, device):
    """The module with these weights. LookupError when its parameters have other names or shapes."""
    if not isinstance(module, nn.Module):
        raise RuntimeError("the class should be a subclass of nn.Module, and call super().__init__()")
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if missing := wanted.keys() - own.keys():
        extra = f"; there is {', '.join(sorted(own.keys() - wanted.keys()))}" * bool(
            own.keys() - wanted.keys()
        )
        raise LookupError(f"it has no parameter {', '.join(sorted(missing))}{extra}")
    if extra := own.keys() - wanted.keys():
        raise LookupError(
            f"it has parameters or buffers that should not be there: {', '.join(sorted(extra))}"
        )
    for name in wanted:
        if own[name] != wanted[name]:
            raise LookupError(f"{name} should have the shape {wanted[name]}, and has {own[name]}")
    first = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        if weights[other] is not weights[name]:
            raise RuntimeError(f"{other} and {name} are one and the same parameter; they should be two")
    module.load_state_dict(weights)
    return module.to(device).eval()


@functools.lru_cache(maxsize=16)
def shared(part, config, seed, device):
    return fitted(part(config), weights_of(part, config, seed), device)


def is_ours(answer):
    """Whether this is a part of the course, or a mistake that is made like it and only runs differently."""
    return answer.__module__ == __name__ and "__init__" not in vars(answer)


def made(answer, part, config, seed, device):
    """The answer's module with the weights of this seed. One of ours is made once and changes its class."""
    if not is_ours(answer):
        return fitted(answer(config), weights_of(part, config, seed), device)
    module = shared(part, config, seed, device)
    module.__class__ = answer
    return module


RESULTS = {}  # of the course's parts and of the mistakes, each on the few cases that there are


def key_of(value):
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), tuple(value.flatten().tolist()), value.device
    if isinstance(value, dict):
        return tuple((name, key_of(each)) for name, each in value.items())
    return tuple(map(key_of, value)) if isinstance(value, list) else value


def remembered(run):
    """run(answer, *case), which tries each of our own answers only once on a case."""

    @functools.wraps(run)
    def first_time(answer, *case):
        parts = answer if isinstance(answer, tuple) else (answer,)
        if not all(each is KVCache or getattr(each, "__module__", "") == __name__ for each in parts):
            return run(answer, *case)
        key = parts, tuple(map(key_of, case))
        if key not in RESULTS:
            RESULTS[key] = run(answer, *case)
        return RESULTS[key]

    return first_time


def few(cases):
    """Cases that are drawn as one of four sets, so that what is remembered of them helps the next check."""
    return lambda draw: cases(Draw(draw.whole(1, 4)))


def in_pieces(module, x, pieces, cache):
    """What a module makes of x, cut along T into pieces that come one after the other."""
    return torch.cat([module(piece, cache) for piece in x.split(pieces, dim=1)], dim=1)


# ---------------------------------------------------------------- a: RMSNorm


def run_norm(answer, x, weight, eps):
    norm = answer(x.size(-1), eps)
    at_first = fitted(
        norm, norm.state_dict() if "weight" in norm.state_dict() else {"weight": weight}, x.device
    )(x)
    result = {
        "with the initial weight": at_first,
        "with this weight": fitted(norm, {"weight": weight}, x.device)(x),
    }
    start = torch.zeros_like(x, requires_grad=True)
    of_sum = norm(x + start)
    if isinstance(of_sum, torch.Tensor) and of_sum.shape == x.shape:
        total = (of_sum * torch.linspace(-1, 1, x.numel(), device=x.device).view_as(x)).sum()
        gradient = torch.autograd.grad(total, start, allow_unused=True)[0] if total.requires_grad else None
        result["gradient at x"] = torch.zeros_like(x) if gradient is None else gradient
    return result


def norm_by(formula, start=torch.ones):
    """A norm class with another formula(x, weight, eps)."""

    class Norm(nn.Module):
        def __init__(self, d_model, eps=1e-5):
            super().__init__()
            self.weight, self.eps = nn.Parameter(start(d_model)), eps

        def forward(self, x):
            return formula(x, self.weight, self.eps)

    return Norm


def mean_square(x, dim=-1):
    return x.square().mean(dim=dim, keepdim=True)


RMS_NORM = Exercise(
    right=RMSNorm,
    run=run_norm,
    cases=lambda draw: [
        (torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), 1e-5),
        (torch.tensor([[3.0, 4.0], [30.0, 40.0]]), torch.tensor([1.0, 2.0]), 1e-5),
        (torch.tensor([0.3, 0.4]), torch.tensor([1.0, 2.0]), 0.5),
        (torch.zeros(3), torch.ones(3), 1e-5),
        (draw.normal(2, 3, 5), draw.normal(5), 1e-5),
        (3 * draw.normal(3, 4, 6), draw.normal(6), draw.real(0.1, 0.3)),
    ],
    mistakes={
        "The mean is subtracted, as layer norm does. RMS norm leaves the mean in.": norm_by(
            lambda x, w, eps: F.layer_norm(x, w.shape, w, None, eps)
        ),
        "It divides by the mean square itself; the root of it is missing.": norm_by(
            lambda x, w, eps: x / (mean_square(x) + eps) * w
        ),
        "It divides by the length of the vector, the root of the sum of squares. Take the mean of "
        "the squares.": [
            norm_by(lambda x, w, eps: x / (x.square().sum(-1, True) + eps).sqrt() * w),
            norm_by(lambda x, w, eps: F.normalize(x, dim=-1) * w),
            norm_by(lambda x, w, eps: x / (x.norm(dim=-1, keepdim=True) + eps) * w),
        ],
        "eps is not used as it was given: it belongs under the root.": [
            norm_by(lambda x, w, eps: x / (mean_square(x).sqrt() + eps) * w),
            norm_by(lambda x, w, eps: x / (mean_square(x) + 1e-5).sqrt() * w),
            norm_by(lambda x, w, eps: x / mean_square(x).sqrt() * w),
        ],
        "One mean is taken over all tokens. Each vector needs its own.": norm_by(
            lambda x, w, eps: x / (x.square().mean() + eps).sqrt() * w
        ),
        "The mean loses its dimension, so vectors are divided by the sizes of other ones. Keep it, "
        "with size 1.": norm_by(lambda x, w, eps: x / (x.square().mean(-1) + eps).sqrt() * w),
        "The weight is not used.": norm_by(lambda x, w, eps: F.rms_norm(x, w.shape, None, eps)),
        "The weight should begin as ones.": [
            norm_by(lambda x, w, eps: F.rms_norm(x, w.shape, w, eps), torch.zeros),
            norm_by(lambda x, w, eps: F.rms_norm(x, w.shape, 1 + w, eps), torch.zeros),
        ],
        "It multiplies by the root mean square where it should divide.": norm_by(
            lambda x, w, eps: x * (mean_square(x) + eps).sqrt() * w
        ),
        "The mean is taken first and then squared. Square the numbers first.": norm_by(
            lambda x, w, eps: x / (x.mean(-1, True).square() + eps).sqrt() * w
        ),
        "It divides by the mean of the absolute values. The root of the mean square is larger.": norm_by(
            lambda x, w, eps: x / (x.abs().mean(-1, True) + eps) * w
        ),
        "It divides by the standard deviation, which is measured from the mean. The squares of x itself "
        "are meant.": [
            norm_by(lambda x, w, eps: x / (x.var(-1, keepdim=True) + eps).sqrt() * w),
            norm_by(lambda x, w, eps: x / (x.var(-1, keepdim=True, correction=0) + eps).sqrt() * w),
        ],
        "The root mean square is detached, so its part of the gradient is missing.": norm_by(
            lambda x, w, eps: x / (mean_square(x) + eps).sqrt().detach() * w
        ),
    },
    signs={
        "At the start it is wrong, and right with a given weight. Is the weight ones at first?": (
            lambda case, got, expected: (
                close(got, expected, "with this weight")
                and not close(got, expected, "with the initial weight")
            )
        ),
        "It is right with the initial weight, and wrong with another one: multiply by the weight last.": (
            lambda case, got, expected: close(got, expected, "with the initial weight")
        ),
    },
)


def close(got, expected, key, tolerance=1e-4):
    """Whether a part of a result is right."""
    return got[key].shape == expected[key].shape and torch.allclose(
        got[key], expected[key], rtol=tolerance, atol=tolerance
    )


# ---------------------------------------------------------------- b: rotary angles and rotation


def rotary_angles(positions, head_dim, theta):
    return angles_at(positions, head_dim, theta).float()


def rotate(x, angles):
    return rotate_pairs(x, torch.stack([angles.cos(), angles.sin()], dim=-1))


def run_rotary(answer, x, positions, theta):
    angles_of, turn = answer
    angles = rotary_angles(positions, x.size(-1), theta)
    many = torch.randn(64, *x.shape[-2:], generator=torch.Generator().manual_seed(0)).to(x.device).bfloat16()
    half = turn(many.clone(), angles)
    result = {
        "angles": angles_of(positions, x.size(-1), theta),
        "rotated": turn(x, angles),
        "rotated, for a bfloat16 x": half.new_zeros(half.shape),  # its shape and dtype
    }
    if half.shape == many.shape:
        exact = rotate(many.float(), angles)
        off, least = ((t.float() - exact).square().mean() for t in (half, exact.bfloat16()))
        result["for a bfloat16 x only the result is rounded"] = bool(off < 1.5 * least)
    return result


def angles_by(exponent=lambda j, d: -2 * j / d, place=lambda p: p, base=lambda theta: theta):
    """Other angles: (positions, head_dim, theta) -> (T, d/2)."""

    def angles(positions, head_dim, theta):
        j = torch.arange(head_dim // 2, device=positions.device)
        return place(positions).unsqueeze(1) * base(theta) ** exponent(j, head_dim)

    return angles, rotate


def rotation_by(formula, cut="pairs", join="pairs"):
    """Another rotation: formula(a, b, cos, sin) -> (a', b')."""

    def turn(x, angles):
        a, b = (x[..., 0::2], x[..., 1::2]) if cut == "pairs" else x.chunk(2, dim=-1)
        new = formula(a, b, angles.cos(), angles.sin())
        return (torch.stack(new, dim=-1).flatten(-2) if join == "pairs" else torch.cat(new, dim=-1)).to(
            x.dtype
        )

    return rotary_angles, turn


def turned(a, b, cos, sin):
    return a * cos - b * sin, a * sin + b * cos


def rounded_first(x, angles):
    a, b = x[..., 0::2], x[..., 1::2]
    new = turned(a, b, angles.cos().to(x.dtype), angles.sin().to(x.dtype))
    return torch.stack(new, dim=-1).flatten(-2).to(x.dtype)


ROTARY = Exercise(
    right=(rotary_angles, rotate),
    run=run_rotary,
    cases=lambda draw: [
        (torch.tensor([[1.0, 0.0]]), torch.tensor([1]), 100.0),
        (torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 2.0, 3.0, 4.0]]), torch.tensor([0, 2]), 100.0),
        (draw.normal(2, 3, 4, 6), torch.arange(4), 10000.0),
        (draw.normal(1, 2, 3, 8), torch.arange(3) + draw.whole(5, 20), float(draw.whole(50, 500))),
    ],
    mistakes={
        "It turns the other way: pair (1, 0) should go to (cos, sin).": rotation_by(
            lambda a, b, cos, sin: (a * cos + b * sin, b * cos - a * sin)
        ),
        "It pairs number j with number j + d/2. Here neighbours are a pair: 0 with 1, 2 with 3.": rotation_by(
            turned, "halves", "halves"
        ),
        "The pairs are turned, but not put back next to each other: all first numbers stand before "
        "all second ones.": (rotation_by(turned, join="halves")),
        "The speeds grow along the vector. They should fall: the exponent of theta is negative.": angles_by(
            lambda j, d: 2 * j / d
        ),
        "The exponent of pair j is j/d; it should be 2j/d, with a minus sign.": angles_by(
            lambda j, d: -j / d
        ),
        "The exponent of pair j is 4j/d; it should be 2j/d, with a minus sign. Is the 2 there "
        "twice?": angles_by(lambda j, d: -4 * j / d),
        "Positions are counted from 1. Use them as they are given.": angles_by(place=lambda p: p + 1),
        "Positions start at 0, whatever the argument says.": angles_by(
            place=lambda p: torch.arange(len(p), device=p.device)
        ),
        "The base is 10000, whatever theta says.": angles_by(base=lambda theta: 10000.0),
        "A pair should keep its length. The sign in one of the two sums is wrong.": [
            rotation_by(lambda a, b, cos, sin: (a * cos + b * sin, a * sin + b * cos)),
            rotation_by(lambda a, b, cos, sin: (a * cos - b * sin, b * cos - a * sin)),
            rotation_by(lambda a, b, cos, sin: (a * cos - b * sin, a * sin - b * cos)),
        ],
        "The second number of a pair is computed from the new first one. It needs the old one.": rotation_by(
            lambda a, b, cos, sin: (a * cos - b * sin, (a * cos - b * sin) * sin + b * cos)
        ),
        "For a bfloat16 x the angles, or their sines and cosines, are rounded to bfloat16 too. Turn first, "
        "and round the result.": [
            (rotary_angles, lambda x, angles: rotate(x, angles.to(x.dtype))),
            (rotary_angles, rounded_first),
        ],
        "Degrees and radians are mixed up. The angles are in radians, which torch.cos takes too.": [
            (rotary_angles, lambda x, angles: rotate(x, angles.deg2rad())),
            (rotary_angles, lambda x, angles: rotate(x, angles.rad2deg())),
            (lambda *given: rotary_angles(*given).rad2deg(), rotate),
            (lambda *given: rotary_angles(*given).deg2rad(), rotate),
        ],
        "Pairs are counted from 1. The first pair is j = 0, and its speed is 1.": angles_by(
            lambda j, d: -2 * (j + 1) / d
        ),
        "Sine and cosine have changed places.": rotation_by(lambda a, b, cos, sin: turned(a, b, sin, cos)),
    },
    signs={
        "The angles are right and the rotation keeps no lengths: each pair should keep its a² + b².": (
            lambda case, got, expected: (
                close(got, expected, "angles")
                and not torch.allclose(got["rotated"].norm(dim=-1), expected["rotated"].norm(dim=-1), 1e-3)
            )
        ),
    },
)


# ---------------------------------------------------------------- c: attention


class CourseAttention(MultiHeadAttention):
    def __init__(self, config):
        super().__init__(config.d_model, config.n_heads, config.n_kv_heads, rope=make_rope(config))

    def forward(self, x, cache=None):
        return super().forward(x, cache=cache)


class FlawedAttention(CourseAttention):
    """Attention written out, with one flaw."""

    flaw = ""

    def forward(self, x, cache=None):
        B, T, D = x.shape
        d, flaw, old = self.head_dim, self.flaw, 0 if cache is None else cache.length
        values = self.k_proj(x) if flaw == "keys as values" else self.v_proj(x)
        q, k, v = (self.split(t) for t in (self.q_proj(x), self.k_proj(x), values))
        q = self.q_proj(x).reshape(B, -1, T, d) if flaw == "view queries" else q
        places = torch.arange(T, device=x.device) + (0 if flaw == "restart" else old)
        late = T if flaw == "after" and cache is not None else 0
        turn = (
            (lambda t, late=0: t)
            if flaw == "no rotation"
            else (lambda t, late=0: self.rope(t, places + late))
        )
        if flaw == "theta":
            turn = lambda t, late=0: rotate(t, rotary_angles(places, d, 10000.0))  # noqa: E731
        q = turn(q, late) if flaw != "keys only" else q
        k = turn(k) if flaw not in ("queries only", "late rotation") else k
        v = turn(v) if flaw == "values too" else v
        if cache is not None:
            if flaw == "repeated in cache":
                k, v = (t.repeat_interleave(q.size(1) // t.size(1), dim=1) for t in (k, v))
            if flaw == "wrong way round":
                v, k = cache.append(v, k)
            all_keys, all_values = (k, v) if flaw == "wrong way round" else cache.append(k, v)
            if flaw != "new keys only":
                k, v = all_keys, all_values
        if flaw == "late rotation":
            k = self.rope(k, torch.arange(k.size(2), device=x.device))
        if flaw == "tiled heads":
            k, v = (t.repeat(1, q.size(1) // t.size(1), 1, 1) for t in (k, v))
        k, v = (t.repeat_interleave(q.size(1) // t.size(1), dim=1) for t in (k, v))
        root = {"no scale": 1.0, "scale d": d, "scale D": math.sqrt(D), "times": 1 / math.sqrt(d)}
        scores = q @ k.transpose(-2, -1) / root.get(flaw, math.sqrt(d))  # (B, H, T, S)
        S = k.size(-2)
        corner = {"top left": 0, "one less": S - T - 1, "one more": S - T + 1, "no mask": S}.get(flaw, S - T)
        corner = S if flaw == "no mask with cache" and cache is not None else corner
        sees = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(corner)
        sees = torch.ones_like(sees).triu(S - T) if flaw == "sideways" else sees
        sees = sees.tril(S - T - 1) if flaw in ("strict", "strict, NaN") else sees
        sees = ~sees if flaw == "inverted" else sees
        if flaw == "as numbers":
            scores = scores + sees
        else:
            least = -math.inf if flaw in ("strict", "strict, NaN", "inverted") else torch.finfo(x.dtype).min
            scores = scores.masked_fill(~sees, 0.0 if flaw in ("zeros", "no softmax") else least)
        weights = scores.softmax(dim=-2 if flaw == "over queries" else -1)
        weights = scores if flaw == "no softmax" else weights
        weights = weights.nan_to_num() if flaw in ("strict", "inverted") else weights
        if flaw == "mask after":
            weights = (q @ k.transpose(-2, -1) / math.sqrt(d)).softmax(dim=-1).masked_fill(~sees, 0.0)
        mixed = weights @ v  # (B, H, T, d)
        if flaw in ("no way back", "view all"):
            mixed = mixed.reshape(B, T, D)
        elif flaw == "turned all":
            mixed = mixed.permute(0, 2, 3, 1).reshape(B, T, D)
        else:
            mixed = mixed.transpose(1, 2).reshape(B, T, D)
        return mixed if flaw == "no out_proj" else self.out_proj(mixed)

    def split(self, t):
        B, T, _ = t.shape
        if self.flaw in ("view", "view all"):
            return t.reshape(B, -1, T, self.head_dim)
        if self.flaw in ("turned cut", "turned all"):
            return t.view(B, T, self.head_dim, -1).permute(0, 3, 1, 2)
        return t.view(B, T, -1, self.head_dim).transpose(1, 2)


def attention_with(*flaws):
    return [type("Attention", (FlawedAttention,), {"flaw": flaw}) for flaw in flaws]


@remembered
@torch.no_grad()
def run_attention(answer, x, n_heads, n_kv_heads, theta, pieces, seed):
    sizes = dict(d_model=x.size(-1), n_heads=n_heads, n_kv_heads=n_kv_heads, rope_theta=theta)
    config = GPTConfig(vocab_size=8, context_length=64, n_layers=1, **sizes, **LLAMA)
    module = made(answer, CourseAttention, config, seed, x.device)
    cache = LayerCache(64)
    result = {
        "without a cache": module(x),
        "piece by piece, with a cache": in_pieces(module, x, pieces, cache),
    }
    held = x.new_zeros(0) if cache.keys is None else cache.keys[:, :, : cache.length]
    return result | {"keys in the cache": held}


def seed_of(draw):
    return draw.whole(0, 10**6)


ATTENTION = Exercise(
    right=CourseAttention,
    run=run_attention,
    cases=few(
        lambda draw: [
            (draw.normal(1, 1, 2), 1, None, 100.0, [1], seed_of(draw)),
            (draw.normal(1, 2, 4), 1, 1, 100.0, [1, 1], seed_of(draw)),
            (draw.normal(1, 3, 8), 4, 2, 100.0, [1, 2], seed_of(draw)),
            (draw.normal(3, 5, 24), 6, 2, float(draw.whole(50, 500)), [2, 1, 2], seed_of(draw)),
        ]
    ),
    mistakes={
        "The scores are not divided by the root of head_dim.": attention_with("no scale", "times"),
        "The scores are divided by head_dim; divide by its root.": attention_with("scale d"),
        "The scores are divided by the root of d_model; head_dim is what counts, since a score is a sum of "
        "head_dim products.": attention_with("scale D"),
        "A token sees later tokens: no causal mask is at work.": attention_with("no mask"),
        "With a cache the causal mask is missing: tokens of one piece see each other's "
        "future.": attention_with("no mask with cache"),
        "With a cache a query sees too few keys. Query i of T new tokens sees the first S - T + i + "
        "1 of all S keys.": (attention_with("top left")),
        "Every query sees one key too many: its own successor.": attention_with("one more"),
        "A token does not see itself.": attention_with("one less", "strict", "strict, NaN"),
        "The mask lies on its side: a token sees itself and what comes after it.": attention_with("sideways"),
        "Masked scores become 0, and a score of 0 still gets a share. They should become minus infinity.": (
            attention_with("zeros")
        ),
        "The mask comes after the softmax, so the shares no longer have the sum 1. Mask the "
        "scores.": attention_with("mask after"),
        "The softmax runs over the queries. Each query shares its attention among the keys: the last "
        "dimension.": (attention_with("over queries")),
        "With a cache positions start again at 0. They go on at cache.length.": attention_with("restart"),
        "The queries' positions are read off the cache after the new keys have gone in, so they are "
        "T too large.": (attention_with("after")),
        "Each query head takes the wrong key/value head: with 4 and 2 heads, key heads should be "
        "used in the order "
        "0, 0, 1, 1, not 0, 1, 0, 1.": attention_with("tiled heads"),
        "The cut into heads mixes tokens: make (B, T, heads, head_dim) first, then exchange T and heads.": (
            attention_with("view", "view queries")
        ),
        "The cut into heads takes every n-th number. A head is head_dim numbers next to each "
        "other.": attention_with("turned cut"),
        "The heads are put together again in the wrong order: (B, H, T, d) needs T before H "
        "first.": attention_with("no way back"),
        "Heads are cut and put together in a way of their own. A head is head_dim numbers next to each "
        "other, of one token.": attention_with("view all", "turned all"),
        "True and False are exchanged in the mask, or its meaning: a token sees only what comes "
        "after it.": attention_with("inverted"),
        "The mask is added as ones and zeros. A key that may not be seen needs a score of minus "
        "infinity.": attention_with("as numbers"),
        "There is no softmax: values are mixed by the scores themselves.": attention_with("no softmax"),
        "The base of the angles is 10000, and should be config.rope_theta.": attention_with("theta"),
        "The cache gets keys that are not rotated. Append them rotated: each is then rotated only once.": (
            attention_with("late rotation")
        ),
        "The values go into the cache as keys, and the keys as values.": attention_with("wrong way round"),
        "The values are rotated too. Positions belong to queries and keys only.": attention_with(
            "values too"
        ),
        "Nothing is rotated: the attention does not know positions.": attention_with("no rotation"),
        "Only the queries are rotated, and not the keys.": attention_with("queries only"),
        "Only the keys are rotated, and not the queries.": attention_with("keys only"),
        "The output does not go through out_proj.": attention_with("no out_proj"),
        "The weights mix the projected keys; they should mix the values.": attention_with("keys as values"),
        "With a cache a token sees only the new keys. Go on with what cache.append returns.": attention_with(
            "new keys only"
        ),
        "Repeated heads go into the cache. Append the key/value heads first and repeat them afterwards: "
        "keeping few of them is what saves memory.": attention_with("repeated in cache"),
    },
    signs={
        "Nothing goes into the cache. Hand the new keys and values to cache.append.": (
            lambda case, got, expected: got["keys in the cache"].numel() == 0
        ),
        "The results are right, and the cache holds other keys. Append the rotated keys.": (
            lambda case, got, expected: (
                close(got, expected, "without a cache")
                and close(got, expected, "piece by piece, with a cache")
            )
        ),
        "Without a cache all is right, and with one it is not. Look at the positions, the mask, and what "
        "cache.append returns.": lambda case, got, expected: close(got, expected, "without a cache"),
        "The first token is right and later ones are not: look at the scores, the rotation and the mask.": (
            lambda case, got, expected: close(
                {"first": got["without a cache"][:, :1]},
                {"first": expected["without a cache"][:, :1]},
                "first",
            )
        ),
        "Even the first token is wrong, which should see only itself: look at the values, the heads, "
        "out_proj and the mask.": (
            lambda case, got, expected: got["without a cache"].shape == expected["without a cache"].shape
        ),
    },
    errors={
        "config.n_kv_heads is None when there are as many key/value heads as heads. config.kv_heads is "
        "always a number.": lambda case, error: case[2] is None and "NoneType" in str(error),
    },
)


# ---------------------------------------------------------------- d: SwiGLU


def swiglu_by(formula):
    """SwiGLU with another formula(gate, up, down) for its three layers."""
    forward = lambda self, x: formula(x, self.gate_proj, self.up_proj, self.down_proj)  # noqa: E731
    return type("SwiGLU", (SwiGLU,), {"forward": forward})


@torch.no_grad()
def run_swiglu(answer, x, d_ff, seed):
    module = answer(x.size(-1), d_ff)
    return fitted(module, random_weights(SwiGLU(x.size(-1), d_ff), seed), x.device)(x)


SWIGLU = Exercise(
    right=SwiGLU,
    run=run_swiglu,
    cases=lambda draw: [
        (torch.tensor([1.0, 2.0]), 3, seed_of(draw)),
        (draw.normal(2, 4), 3, seed_of(draw)),
        (draw.normal(2, 3, 5), 7, seed_of(draw)),
        (draw.normal(3, 2, 6), 8, seed_of(draw)),
    ],
    mistakes={
        "silu is on the wrong one of the two: it belongs to gate_proj, and up_proj stays as "
        "it is.": swiglu_by(lambda x, gate, up, down: down(gate(x) * F.silu(up(x)))),
        "The gate is a sigmoid. It should be silu, x times its sigmoid.": swiglu_by(
            lambda x, gate, up, down: down(gate(x).sigmoid() * up(x))
        ),
        "The gate is GELU. It should be silu, x times its sigmoid.": [
            swiglu_by(lambda x, gate, up, down: down(F.gelu(gate(x)) * up(x))),
            swiglu_by(lambda x, gate, up, down: down(F.gelu(gate(x), approximate="tanh") * up(x))),
        ],
        "The gate is ReLU. It should be silu, x times its sigmoid.": swiglu_by(
            lambda x, gate, up, down: down(gate(x).relu() * up(x))
        ),
        "The two are added; they should be multiplied.": swiglu_by(
            lambda x, gate, up, down: down(F.silu(gate(x)) + up(x))
        ),
        "silu comes after the product. It belongs to the gate alone.": swiglu_by(
            lambda x, gate, up, down: down(F.silu(gate(x) * up(x)))
        ),
        "silu comes at the very end. It belongs on the gate, before the product.": swiglu_by(
            lambda x, gate, up, down: F.silu(down(gate(x) * up(x)))
        ),
        "There is no activation, so two thirds of the layer only multiply.": swiglu_by(
            lambda x, gate, up, down: down(gate(x) * up(x))
        ),
        "One of the two wide layers is not used.": [
            swiglu_by(lambda x, gate, up, down: down(F.silu(up(x)))),
            swiglu_by(lambda x, gate, up, down: down(F.silu(gate(x)))),
            swiglu_by(lambda x, gate, up, down: down(F.silu(gate(x)) * gate(x))),
        ],
        "The input is added. That is the block's task, not this layer's.": swiglu_by(
            lambda x, gate, up, down: x + down(F.silu(gate(x)) * up(x))
        ),
    },
)


# ---------------------------------------------------------------- e: the block


class CourseBlock(TransformerBlock):
    def forward(self, x, cache=None):
        return super().forward(x, cache=cache)


def block_by(forward):
    """A block with another forward(self, x, attend), where attend is the attention with its cache."""

    def of_block(self, x, cache=None):
        return forward(self, x, lambda x: self.attention(x, cache=cache))

    return type("Block", (TransformerBlock,), {"forward": of_block})


@functools.lru_cache(maxsize=64)
def config_of(context_length, **sizes):
    return GPTConfig(context_length=context_length, **sizes, **LLAMA)


@remembered
@torch.no_grad()
def run_block(answer, x, n_heads, n_kv_heads, pieces, seed):
    config = config_of(
        64,
        vocab_size=8,
        n_layers=1,
        d_model=x.size(-1),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        norm_eps=0.1,
    )
    block = made(answer, CourseBlock, config, seed, x.device)
    return {
        "without a cache": block(x),
        "piece by piece, with a cache": in_pieces(block, x, pieces, LayerCache(64)),
    }


def without_cache(self, x, cache=None):
    return TransformerBlock.forward(self, x)


def second_half(self, x):
    return x + self.feed_forward(self.norm2(x))


class BlockWithoutEps(CourseBlock):
    def __init__(self, config):
        super().__init__(dataclasses.replace(config, norm_eps=1e-5))


def layer_norm_block(first, second, eps):
    """A block with nn.LayerNorm in place of one norm or of both."""

    def forward(self, x, attend):
        def norm(old, y, is_layer_norm):
            return F.layer_norm(y, y.shape[-1:], old.weight, None, eps) if is_layer_norm else old(y)

        x = x + attend(norm(self.norm1, x, first))
        return x + self.feed_forward(norm(self.norm2, x, second))

    return block_by(forward)


BLOCK = Exercise(
    right=CourseBlock,
    run=run_block,
    cases=few(
        lambda draw: [
            (draw.normal(1, 1, 2), 1, 1, [1], seed_of(draw)),
            (draw.normal(1, 2, 4), 2, 1, [1, 1], seed_of(draw)),
            (2 * draw.normal(2, 3, 8), 4, 2, [2, 1], seed_of(draw)),
            (2 * draw.normal(3, 5, 12), 6, 2, [2, 1, 2], seed_of(draw)),
        ]
    ),
    mistakes={
        "The norms come after the sums. They should come before the layers, and the stream itself "
        "stays as it is.": (
            block_by(lambda s, x, attend: s.norm2((y := s.norm1(x + attend(x))) + s.feed_forward(y)))
        ),
        "What is added to is the normalised vector. The stream goes past the norm untouched.": [
            block_by(lambda s, x, attend: (z := s.norm2((y := s.norm1(x)) + attend(y))) + s.feed_forward(z)),
            block_by(lambda s, x, attend: second_half(s, (y := s.norm1(x)) + attend(y))),
            block_by(lambda s, x, attend: (z := s.norm2(x + attend(s.norm1(x)))) + s.feed_forward(z)),
        ],
        "The norm is on what a layer returns. It belongs on what goes into the layer.": block_by(
            lambda s, x, attend: (y := x + s.norm1(attend(x))) + s.norm2(s.feed_forward(y))
        ),
        "The attention replaces its input. Add it to its input.": block_by(
            lambda s, x, attend: second_half(s, attend(s.norm1(x)))
        ),
        "The feed-forward layer replaces its input. Add it to its input.": block_by(
            lambda s, x, attend: s.feed_forward(s.norm2(x + attend(s.norm1(x))))
        ),
        "Nothing is added to anything: both residual connections are missing.": block_by(
            lambda s, x, attend: s.feed_forward(s.norm2(attend(s.norm1(x))))
        ),
        "norm1 is used twice, and norm2 never.": block_by(
            lambda s, x, attend: (y := x + attend(s.norm1(x))) + s.feed_forward(s.norm1(y))
        ),
        "norm1 and norm2 have changed places.": block_by(
            lambda s, x, attend: (y := x + attend(s.norm2(x))) + s.feed_forward(s.norm1(y))
        ),
        "The feed-forward layer reads what the attention read. It should read the sum after the attention.": [
            block_by(lambda s, x, attend: x + attend(s.norm1(x)) + s.feed_forward(s.norm2(x))),
            block_by(lambda s, x, attend: x + attend(s.norm1(x)) + s.feed_forward(s.norm1(x))),
        ],
        "A norm is missing: what goes into the attention and into the feed-forward layer is "
        "normalised first.": [
            block_by(lambda s, x, attend: second_half(s, x + attend(x))),
            block_by(lambda s, x, attend: (y := x + attend(s.norm1(x))) + s.feed_forward(y)),
            block_by(lambda s, x, attend: (y := x + attend(x)) + s.feed_forward(y)),
        ],
        "The feed-forward layer comes first. It should be the attention.": block_by(
            lambda s, x, attend: (y := x + s.feed_forward(s.norm2(x))) + attend(s.norm1(y))
        ),
        "The original input is added twice. The second sum begins with the result of the "
        "first one.": block_by(lambda s, x, attend: x + s.feed_forward(s.norm2(x + attend(s.norm1(x))))),
        "The norms do not get config.norm_eps.": BlockWithoutEps,
        "The norms subtract the mean, as nn.LayerNorm does. They should be your RMSNorm.": [
            layer_norm_block(first, second, eps)
            for first, second in ((True, True), (True, False), (False, True))
            for eps in (0.1, 1e-5)
        ],
        "The cache does not reach the attention.": type(
            "Block", (TransformerBlock,), {"forward": without_cache}
        ),
    },
    signs={
        "Without a cache all is right, and with one it is not: hand the cache on to the attention.": (
            lambda case, got, expected: close(got, expected, "without a cache")
        ),
    },
)


# ---------------------------------------------------------------- f: the GPT


class CourseGPT(GPT):
    def forward(self, token_ids, cache=None):
        return super().forward(token_ids, cache)

    def stream(self, token_ids, cache=None, layers=None):
        """What arrives at the last norm: (B, T, D)."""
        x, cos_sin = self.embed(token_ids, 0 if cache is None else cache.length)
        for layer, block in enumerate(self.blocks[:layers]):
            x = block(x, None, None if cache is None else cache[layer], cos_sin)
        return x


def gpt_by(forward=None, **methods):
    """A GPT with another forward(self, token_ids, cache=None), or other methods."""
    return type("GPT", (CourseGPT,), methods | ({"forward": forward} if forward else {}))


class OneBlock(CourseGPT):
    def __init__(self, config):
        super().__init__(config)
        self.blocks = nn.ModuleList([self.blocks[0]] * config.n_layers)


class OneCache(CourseGPT):
    def __init__(self, config):
        super().__init__(config)
        for block in self.blocks:  # positions grow with each layer
            block.attention.rope = RotaryEmbedding(config.d_model // config.n_heads, 64, config.rope_theta)

    def forward(self, token_ids, cache=None):
        if token_ids.size(1) + (0 if cache is None else cache.length) > self.config.context_length:
            raise ValueError("too many")
        x = self.embedding.token(token_ids)
        for block in self.blocks:
            x = block(x, None, None if cache is None else cache[0])
        return self.lm_head(self.norm(x))


class Untied(CourseGPT):
    def __init__(self, config):
        super().__init__(config)
        self.lm_head.weight = nn.Parameter(self.lm_head.weight.detach().clone())


class AlwaysTied(CourseGPT):
    def __init__(self, config):
        super().__init__(config)
        self.lm_head.weight = self.embedding.token.weight


class Limitless(CourseGPT):
    def forward(self, token_ids, cache=None):
        past = 0 if cache is None else cache.length
        positions = torch.arange(past, past + token_ids.size(1), device=token_ids.device)
        return GPT.forward(self, token_ids, cache, positions=positions)

    def embed(self, token_ids, earlier=0, positions=None):
        d, theta = self.config.d_model // self.config.n_heads, self.config.rope_theta
        angles = rotary_angles(positions, d, theta)
        return self.embedding(token_ids, positions), torch.stack([angles.cos(), angles.sin()], dim=-1)


class LimitPerCall(Limitless):
    def forward(self, token_ids, cache=None):
        if token_ids.size(1) > self.config.context_length:
            raise ValueError("too many")
        return super().forward(token_ids, cache)


class TooStrict(CourseGPT):
    def forward(self, token_ids, cache=None):
        if token_ids.size(1) + (0 if cache is None else cache.length) >= self.config.context_length:
            raise ValueError("too many")
        return super().forward(token_ids, cache)


class LastNormWithoutEps(CourseGPT):
    def __init__(self, config):
        super().__init__(config)
        self.norm.eps = 1e-5


SPREAD = ("out_proj", "down_proj")


def spreads(config, weights):
    """{part: the standard deviation of its weights over what it should be, 1.0 when near enough}."""
    found = {}
    for name, weight in weights.items():
        part = "the token embedding" if name.startswith("embedding") else name.split(".")[-2]
        part = "the norms" if "norm" in part else part
        if part == "the norms":
            ratio = 1.0 if torch.equal(weight, torch.ones_like(weight)) else 0.0
        else:
            right = config.weight_std / (math.sqrt(2 * config.n_layers) if part in SPREAD else 1)
            ratio = math.sqrt(weight.square().mean().item()) / right
        found.setdefault(part, 1.0)
        if abs(ratio - 1) > 0.12:
            found[part] = round(ratio, 2)
    return found


def has_tails(weights):
    """Whether the largest matrix has numbers far from 0, as a normal distribution has them."""
    weight = weights["embedding.token.weight"]
    return bool((weight.abs() > 2 * weight.square().mean().sqrt()).float().mean() > 0.02)


@functools.lru_cache(maxsize=16)
def fresh_weights(config, seed):
    """The state dict of a GPT as it begins."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CourseGPT(config).state_dict()


@remembered
def run_gpt(answer, sizes, token_ids, pieces, seed):
    config, result = config_of(**sizes), {}
    if is_ours(answer):
        model, initial = made(answer, CourseGPT, config, seed, token_ids.device), fresh_weights(config, seed)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = answer(config)
        state = model.state_dict() if isinstance(model, nn.Module) else {}
        initial = {name: weight.detach().clone() for name, weight in state.items()}
        fitted(model, weights_of(CourseGPT, config, seed), token_ids.device)
    if config.d_model >= 32:
        result["initial weights, times what they should be"] = spreads(config, initial)
        result["initial weights look normally distributed"] = has_tails(initial)
        return result
    if token_ids.size(1) <= config.context_length:
        logits = model(token_ids)
        result["logits"] = logits
        result["one matrix for embedding and lm_head"] = model.lm_head.weight is model.embedding.token.weight
        where = model.embedding.token.weight
        if isinstance(logits, torch.Tensor) and logits.dim() == 3:
            result["gradient at the embedding"] = torch.autograd.grad(logits.square().mean(), [where])[0]
        result["model.config is the configuration"] = getattr(model, "config", None) == config
    with torch.no_grad():
        result["logits, piece by piece with a cache"] = in_pieces(model, token_ids, pieces, KVCache(config))
    return result


def initial_by(part, factor=0.0, value=None):
    """A sign: an initial spread that is about `factor` too large; 0 for any other than it should be."""

    def sign(case, got, expected):
        config = config_of(**case[0])
        ratio = got["initial weights, times what they should be"][part]
        wanted = value(config) if value else factor
        return abs(ratio / wanted - 1) < 0.05 if wanted else ratio != 1.0

    return sign


def all_right_but_initial(got, expected):
    return all(
        torch.allclose(got[key], expected[key], 1e-3, 1e-3)
        for key in ("logits", "logits, piece by piece with a cache")
    )


def fits(case):
    sizes, token_ids, *_ = case
    return token_ids.size(1) <= sizes["context_length"]


def gpt_cases(draw):
    def sizes(V, C, D, H, kv, L, tie, **more):
        return (
            dict(
                vocab_size=V,
                context_length=C,
                d_model=D,
                n_heads=H,
                n_kv_heads=kv,
                n_layers=L,
                tie_weights=tie,
            )
            | more
        )

    last = sizes(13, 9, 24, 6, 3, 2, True, rope_theta=float(draw.whole(50, 500)), norm_eps=0.1)
    return [
        (sizes(3, 8, 2, 1, 1, 1, True, norm_eps=0.1), draw.ids(3, 1, 1), [1], seed_of(draw)),
        (sizes(3, 2, 4, 1, 1, 1, False), draw.ids(3, 2, 2), [1, 1], seed_of(draw)),
        (sizes(5, 3, 8, 4, 2, 2, True), draw.ids(5, 1, 3), [1, 2], seed_of(draw)),
        (sizes(5, 3, 4, 2, 1, 1, True), draw.ids(5, 1, 4), [4], seed_of(draw)),
        (sizes(5, 3, 4, 2, 1, 1, True), draw.ids(5, 1, 4), [2, 2], seed_of(draw)),
        (sizes(97, 8, 48, 4, 2, 3, True), draw.ids(97, 1, 3), [2, 1], seed_of(draw)),
        (sizes(89, 8, 48, 4, 4, 1, False, init_std=0.3), draw.ids(89, 1, 2), [2], seed_of(draw)),
        (last, draw.ids(13, 2, 8), [3, 5], seed_of(draw)),
    ]


WHOLE_GPT = Exercise(
    right=CourseGPT,
    run=run_gpt,
    cases=few(gpt_cases),
    refuses=(ValueError,),
    mistakes={
        "The norm before the output layer is missing.": gpt_by(
            lambda s, ids, cache=None: s.lm_head(s.stream(ids, cache))
        ),
        "The results are probabilities. Logits are what lm_head gives, without a softmax.": [
            gpt_by(lambda s, ids, cache=None: GPT.forward(s, ids, cache).softmax(-1)),
            gpt_by(lambda s, ids, cache=None: GPT.forward(s, ids, cache).log_softmax(-1)),
        ],
        "All layers are one and the same block. Make a new one for each layer.": OneBlock,
        "The embedding and lm_head should be one matrix when config.tie_weights says so: the same "
        "object, not a copy.": (Untied),
        "The embedding and lm_head are one matrix also where config.tie_weights is False.": AlwaysTied,
        "All layers use the cache of layer 0. Layer number i has cache[i].": OneCache,
        "The cache does not reach the blocks.": gpt_by(lambda s, ids, cache=None: GPT.forward(s, ids)),
        "Only one of the blocks is at work.": [
            gpt_by(lambda s, ids, cache=None: s.lm_head(s.norm(s.stream(ids, cache, layers=1)))),
        ],
        "More tokens than context_length should be refused with a ValueError.": Limitless,
        "Tokens in the cache count too: earlier and new ones together are at most "
        "context_length.": LimitPerCall,
        "Exactly context_length tokens are refused. They still fit; only more do not.": TooStrict,
        "The last norm does not get config.norm_eps.": LastNormWithoutEps,
        "The logits of the last token alone come out. Training needs those of all tokens.": gpt_by(
            lambda s, ids, cache=None: GPT.forward(s, ids, cache)[:, -1:]
        ),
        "The token vectors are multiplied by the root of d_model. Here they are used as they are.": gpt_by(
            embed=lambda s, ids, earlier=0, positions=None: (
                (pair := GPT.embed(s, ids, earlier, positions))[0] * math.sqrt(s.config.d_model),
                pair[1],
            )
        ),
    },
    signs={
        "model.config is not the configuration: keep it as it came, since others ask the model for it.": (
            lambda case, got, expected: got["model.config is the configuration"] is False
        ),
        "The norm weights should stay ones at the start. Only matrices are drawn.": initial_by("the norms"),
        "The initial standard deviation of the linear layers is not config.weight_std.": initial_by("q_proj"),
        "The initial standard deviation of the token embedding is not config.weight_std.": initial_by(
            "the token embedding"
        ),
        "The matrices that write into the stream, out_proj and down_proj, start too large: divide "
        "their standard "
        "deviation by the root of 2 n_layers.": initial_by(
            "out_proj", value=lambda c: math.sqrt(2 * c.n_layers)
        ),
        "The initial down_proj is not divided by the root of 2 n_layers, as out_proj is.": initial_by(
            "down_proj", value=lambda c: math.sqrt(2 * c.n_layers)
        ),
        "The residual projections are divided by the root of n_layers. There are two in each layer, "
        "so it is 2 "
        "n_layers.": initial_by("out_proj", factor=math.sqrt(2)),
        "The residual projections are divided by 2 n_layers; divide by its root.": initial_by(
            "out_proj", value=lambda c: 1 / math.sqrt(2 * c.n_layers)
        ),
        "The initial standard deviation of lm_head is not config.weight_std.": initial_by("lm_head"),
        "Initial weights are not as large as they should be. The numbers say how many times too "
        "large.": lambda case, got, expected: (
            got["initial weights, times what they should be"]
            != expected["initial weights, times what they should be"]
        ),
        "The initial weights are drawn evenly from an interval. A normal distribution is asked for.": (
            lambda case, got, expected: not got["initial weights look normally distributed"]
        ),
        "The logits are right and the gradient is not: something on the way is detached or computed "
        "without gradients.": (
            lambda case, got, expected: (
                all_right_but_initial(got, expected) and not close(got, expected, "gradient at the embedding")
            )
        ),
        "Without a cache the logits are right, and with one they are not.": (
            lambda case, got, expected: (
                close(got, expected, "logits")
                and not close(got, expected, "logits, piece by piece with a cache")
            )
        ),
    },
    errors={
        "The logits come without gradients, so nothing can be learned from them.": (
            lambda case, error: "does not require grad" in str(error)
        ),
        "Too many tokens are refused, but not with a ValueError.": lambda case, error: (
            isinstance(error, AssertionError) and not fits(case)
        ),
        "It refuses tokens that fit. Only the tokens of a row, T, and cache.length count.": (
            lambda case, error: isinstance(error, ValueError) and "unpack" not in str(error) and fits(case)
        ),
    },
)


# ---------------------------------------------------------------- g: training

TEXT = "she sells sea shells by the sea shore. the shells she sells are sea shells, for sure. "
LETTERS = sorted(set(TEXT))
IDS = torch.tensor([LETTERS.index(letter) for letter in TEXT])  # (N,)


def best_table_loss(ids):
    """The loss that no table of pairs can beat on this text, which is read in a circle: ids (N,) -> nats."""
    pairs = torch.zeros(len(LETTERS), len(LETTERS)).index_put(
        (ids, ids.roll(-1)), torch.ones(len(ids)), True
    )  # (V, V)
    shares = pairs / pairs.sum(dim=1, keepdim=True)  # (V, V)
    return -(pairs * shares.clamp(min=1e-9).log()).sum().item() / len(ids)


def text_batches(n_steps, n_rows, T, seed, device="cpu", uncounted=0):
    """n_steps times (inputs, targets), each (n_rows, T), cut out of the text, which is read in a circle."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_steps):
        starts = torch.randint(len(IDS), (n_rows, 1), generator=generator)  # (B, 1)
        windows = IDS[(starts + torch.arange(T + 1)) % len(IDS)]  # (B, T + 1)
        targets = windows[:, 1:].clone()
        for row in range(n_rows):  # another number in each row
            targets[row, : uncounted * row] = -100
        yield windows[:, :-1].to(device), targets.to(device)


def train(model, batches, make=lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3)):
    losses, optimizer = [], make(model)
    for inputs, targets in batches:
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def wrong_training(
    loss_of=None, order="zero backward step", report="before", make=None, last="", on_copy=False
):
    """(a wrong train, a GPT)."""

    def wrong(model, batches):
        model = copy.deepcopy(model) if on_copy else model
        make_it = make or (lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3))
        losses, optimizer = [], make_it(model)
        loss_now = loss_of or (
            lambda logits, targets: F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        )
        for inputs, targets in batches:
            loss = loss_now(model(inputs), targets)
            for each in order.split():
                if each == "new":
                    optimizer = make_it(model)
                {"zero": optimizer.zero_grad, "backward": loss.backward, "step": optimizer.step, "new": int}[
                    each
                ]()
            value = loss_now(model(inputs), targets) if report == "after" else loss
            others = {
                "tensor": loss.detach(),
                "sum": loss.item() * targets.numel(),
                "rounded": round(loss.item(), 2),
                "bits": loss.item() / math.log(2),
            }
            losses.append(others.get(report, value.item()))
            if last == "stops":
                break
        return {"number": losses[-1], "list": losses[-1:]}.get(last, losses)

    return wrong, CourseGPT


CHANGE = "the change of a token's vector, divided by 0.03"
DECAY = "weight decay, as seen on an unused token's vector"
CHANGED = "parameters that change"
LONG = 50  # steps from which a case is the long training


@remembered
def run_training(answer, n_steps, n_rows, T, uncounted, device_like, seed):
    train_with, model_class = answer
    long = n_steps >= LONG
    wanted = {"number of losses": n_steps, "below what a table of pairs can reach": True}
    if long and train_with.__module__ == __name__:  # known without trying: right, or one of the mistakes
        return wanted if train_with is train else None
    sizes = dict(d_model=32, n_heads=4, n_layers=2) if long else dict(d_model=16, n_heads=2, n_layers=1)
    config = config_of(32, vocab_size=len(LETTERS) + 1, n_kv_heads=2, tie_weights=False, **sizes)
    start = fresh_weights(config, seed)

    def losses_of(train_with, model_class, n_steps=n_steps):
        if model_class is CourseGPT:
            model = shared(CourseGPT, config, seed, device_like.device).train()
            model.load_state_dict(start)
            model.zero_grad()
        else:
            model = fitted(model_class(config), start, device_like.device).train()
        batches = text_batches(n_steps, n_rows, T, seed, device_like.device, uncounted)
        return train_with(model, batches), model

    if long and not same(losses_of(train_with, model_class, 3)[0], losses_of(train, CourseGPT, 3)[0], 2e-3):
        return None  # it is wrong from the first steps on, as shorter cases have shown
    losses, model = losses_of(train_with, model_class)
    if not long:
        new_weights = model.state_dict()
        old, new = (w["embedding.token.weight"].to(device_like.device) for w in (start, new_weights))
        used = next(text_batches(1, n_rows, T, seed))[0][0, 0]
        decay = (old[-1] - new[-1]).norm() / (old[-1].norm() * 3e-5 * n_steps)  # no text has the last token
        floats = isinstance(losses, list) and all(isinstance(each, float) for each in losses)
        rounded = floats and n_steps > 1 and all(abs(x * 1000 - round(x * 1000)) < 0.001 for x in losses)
        return {
            "losses": losses,
            CHANGE: (new - old)[used] / 0.03,
            DECAY: round(decay.item(), 1) / 100,
            "losses are rounded": rounded,
            CHANGED: sum(not torch.equal(w, new_weights[name].cpu()) for name, w in start.items()),
        }
    below = sum(losses[-5:]) / 5 < best_table_loss(IDS)
    return {"number of losses": len(losses), "below what a table of pairs can reach": below}


def mean_of_last_token(logits, targets):
    return F.cross_entropy(logits[:, -1], targets[:, -1])


def all_counted(logits, targets):
    right = targets.clamp(min=0).unsqueeze(-1)
    return -logits.log_softmax(-1).gather(-1, right).squeeze(-1).where(targets >= 0, 0.0).mean()


TRAINING = Exercise(
    right=(train, CourseGPT),
    run=run_training,
    steps=OWN_STEPS,
    tolerance=2e-3,
    cases=few(
        lambda draw: [
            (1, 1, 2, 0, torch.zeros(()), seed_of(draw)),
            (3, 3, 7, 2, torch.zeros(()), seed_of(draw)),
            (50, 6, 32, 0, torch.zeros(()), seed_of(draw)),
        ]
    ),
    mistakes={
        "The gradients are never set to 0, so each step also takes the gradients of all batches "
        "before.": wrong_training(order="backward step"),
        "The weights do not change. Is there a step for each batch, and does it find gradients: set "
        "to 0 before "
        "backward(), and not after it?": [
            wrong_training(order="zero backward"),
            wrong_training(order="zero"),
            wrong_training(order="backward zero step"),
        ],
        "A new optimizer is made for each batch, and forgets its running means.": wrong_training(
            order="new zero backward step"
        ),
        "Steps come in before backward(), so each one uses the gradients of the batch "
        "before.": wrong_training(order="step zero backward"),
        "The loss is the sum over the targets; take the mean.": [
            wrong_training(lambda z, t: F.cross_entropy(z.flatten(0, 1), t.flatten(), reduction="sum")),
            wrong_training(report="sum"),
        ],
        "The losses are those after the steps. Report what each step was computed from.": wrong_training(
            report="after"
        ),
        "The losses are tensors; make them floats, so that no memory hangs on them.": wrong_training(
            report="tensor"
        ),
        "One number comes out. Return a list with the loss of each batch.": wrong_training(last="number"),
        "The optimizer is SGD. It should be AdamW.": wrong_training(
            make=lambda model: torch.optim.SGD(model.parameters(), lr=3e-3)
        ),
        "Only one loss is in the list, the last. Put one in for each batch, within the loop.": (
            wrong_training(last="list")
        ),
        "It returns after the first batch: the return belongs behind the loop.": wrong_training(last="stops"),
        "The losses are in bits. Nats are asked for, as F.cross_entropy gives them.": wrong_training(
            report="bits"
        ),
        "The losses are rounded. Report them as they are.": wrong_training(report="rounded"),
        "A copy of the model is trained. The weights of the model that was handed in should change.": (
            wrong_training(on_copy=True)
        ),
        "The optimizer is Adam. It should be AdamW, which also lets weights decay.": wrong_training(
            make=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3)
        ),
        "Rows are averaged first, and then their means. Every counted target should weigh the same.": (
            wrong_training(lambda z, t: torch.stack([F.cross_entropy(*row) for row in zip(z, t)]).mean())
        ),
        "The learning rate is that of AdamW by default, 0.001. It should be 0.003.": wrong_training(
            make=lambda model: torch.optim.AdamW(model.parameters())
        ),
        "The learning rate is ten times what it should be: it is 0.003.": wrong_training(
            make=lambda model: torch.optim.AdamW(model.parameters(), lr=0.03)
        ),
        "The learning rate is a tenth of what it should be: it is 0.003.": wrong_training(
            make=lambda model: torch.optim.AdamW(model.parameters(), lr=0.0003)
        ),
        "The logits do not fit the targets: (B, T, V) was read as (B, V, T). Flatten B and T, or "
        "exchange the last "
        "two dimensions.": wrong_training(
            lambda z, t: F.cross_entropy(z.reshape(z.size(0), z.size(2), z.size(1)), t)
        ),
        "Only the last token of each row is learned from. Every position has a target.": wrong_training(
            mean_of_last_token
        ),
        "Targets of -100 are counted in the mean, as if their loss was 0.": wrong_training(all_counted),
        "The cross-entropy gets probabilities. It takes logits, and makes the softmax "
        "itself.": wrong_training(lambda z, t: F.cross_entropy(z.softmax(-1).flatten(0, 1), t.flatten())),
        "The targets are shifted a second time. They are already the next tokens.": wrong_training(
            lambda z, t: F.cross_entropy(z[:, :-1].flatten(0, 1), t[:, 1:].flatten())
        ),
    },
    signs={
        "The losses do not fall below what a table of pairs can reach, so the model learns too little.": (
            lambda case, got, expected: got.get("below what a table of pairs can reach") is False
        ),
        "The list of losses is empty. Batches can be read only once; a loop before the training takes all.": (
            lambda case, got, expected: got["losses"] == []
        ),
        "It should return a list of floats, one for each batch, and returns something else.": (
            lambda case, got, expected: (
                not isinstance(got["losses"], list) or not all(isinstance(x, float) for x in got["losses"])
            )
        ),
        "Only some of the weights change. The optimizer needs all of model.parameters().": (
            lambda case, got, expected: 0 < got[CHANGED] < expected[CHANGED]
        ),
        "The losses and steps are right, but not the weight decay. Leave it as AdamW has it.": (
            lambda case, got, expected: (
                same(got["losses"], expected["losses"], 2e-3)
                and close(got, expected, CHANGE, 2e-2)
                and got[DECAY] != expected[DECAY]
            )
        ),
        "The first loss is right and later ones are not: look at what happens between them.": (
            lambda case, got, expected: (
                math.isclose(got["losses"][0], expected["losses"][0], rel_tol=1e-3)
                and not same(got["losses"], expected["losses"], 2e-3)
            )
        ),
        "The first loss is right, and the weights afterwards are not: look at the gradients and the "
        "optimizer.": (lambda case, got, expected: same(got["losses"], expected["losses"], 2e-3)),
        "Even the first loss is wrong: look at how logits and targets meet.": (
            lambda case, got, expected: len(got["losses"]) == len(expected["losses"])
        ),
    },
)


# ---------------------------------------------------------------- h: sampling


class Reader(nn.Module):
    """A GPT that counts the tokens it reads in a row."""

    def __init__(self, config):
        super().__init__()
        self.gpt, self.config, self.calls = CourseGPT(config), config, []

    def forward(self, token_ids, cache=None):
        self.calls.append((token_ids.size(1), 0 if cache is None else cache.length))
        return self.gpt(token_ids, cache)


@functools.lru_cache(maxsize=16)
def reader_of(config, seed, device):
    reader = Reader(config)
    fitted(reader.gpt, weights_of(CourseGPT, config, seed), device)
    return reader.eval()


def continuation(cache_class=KVCache, feed=None, choose=None, join=None, extra=0):
    """(continue_text, a cache class), right but for what is given."""

    @torch.no_grad()
    def continue_text(model, token_ids, n):
        cache, ids, new = cache_class(model.config), token_ids, token_ids
        for _ in range(n + extra):
            logits = model(new, cache) if feed != "no cache" else model(ids)  # (B, T, V)
            next_ids = (choose or (lambda z: z[:, -1].argmax(-1, keepdim=True)))(logits)  # (B, 1)
            ids = torch.cat([ids, next_ids], dim=1)  # (B, T + 1)
            new = {"all": ids, "old": ids[:, -2:-1], "new cache": next_ids}.get(feed, next_ids)
            cache = cache_class(model.config) if feed == "new cache" else cache
        return ids[:, token_ids.size(1) :] if join == "new only" else ids[:, -1:] if join == "last" else ids

    return continue_text, cache_class


class GrowingLayer:
    """A layer's cache with torch.cat, and one flaw."""

    def __init__(self, flaw):
        self.flaw, self.length, self.keys, self.values = flaw, 0, None, None

    def append(self, keys, values):
        new = keys, values
        if self.keys is not None and self.flaw != "forgets":
            pairs = (
                ((keys, self.keys), (values, self.values))
                if self.flaw == "in front"
                else ((self.keys, keys), (self.values, values))
            )
            dim = 1 if self.flaw == "heads" else 2
            keys, values = (torch.cat(pair, dim=dim) for pair in pairs)
        self.keys, self.values = keys, values
        grown = {"calls": 1, "never": 0, "batch": len(new[0])}.get(self.flaw, new[0].size(2))
        self.length += grown
        if self.flaw == "old values":
            self.values = new[1]
            return keys, new[1]
        if self.flaw == "swapped":
            return values, keys
        return new if self.flaw == "returns new" else (keys, values)


def cache_with(flaw):
    class Growing:
        def __init__(self, config):
            one = GrowingLayer(flaw)
            self.layers = [one if flaw == "shared" else GrowingLayer(flaw) for _ in range(config.n_layers)]

        def __getitem__(self, layer):
            return self.layers[layer]

        @property
        def length(self):
            return sum(each.length for each in self.layers) if flaw == "sum" else self.layers[0].length

    return Growing


@remembered
@torch.no_grad()
def run_sampling(answer, token_ids, n, n_layers, seed):
    continue_text, cache_class = answer
    config = config_of(
        24, vocab_size=11, d_model=16, n_heads=2, n_kv_heads=1, n_layers=n_layers, tie_weights=False
    )
    device = token_ids.device
    model = reader_of(config, seed, device)
    model.calls = []
    generator, cache = torch.Generator().manual_seed(seed), cache_class(config)
    lengths, parts = [cache.length], []
    for T in (3, 1):
        shape = (2, n_layers, len(token_ids), 2, T, 4)
        for layer, (k, v) in enumerate(zip(*torch.randn(shape, generator=generator).to(device))):
            parts.append(cache[layer].append(k, v))
        lengths.append(cache.length)
    keys, values = parts[-1]
    result = {"cache.length": lengths, "all keys": keys, "all values": values}
    result["token ids"] = continue_text(model, token_ids, n)
    T, read = token_ids.size(1), sum(size for size, _ in model.calls)
    result["tokens in the model's first call"] = model.calls[0][0] if model.calls else 0
    result["tokens that the model reads"] = T + n - 1 if read <= T + n else read
    if n == 1:
        model.calls = model.calls[:1]
        continue_text(model, token_ids, n)
        result["tokens in the cache at the start"] = max((length for _, length in model.calls[:2]), default=0)
    return result


def one_row(logits):
    return logits[:1, -1].argmax(-1, keepdim=True).expand(len(logits), 1)


def first_place(logits):
    return logits[:, 0].argmax(-1, keepdim=True)


SAMPLING = Exercise(
    right=continuation(),
    run=run_sampling,
    cases=few(
        lambda draw: [
            (draw.ids(11, 1, 1), 1, 1, seed_of(draw)),
            (draw.ids(11, 1, 2), 3, 1, seed_of(draw)),
            (draw.ids(11, 2, 4), 4, 2, seed_of(draw)),
            (draw.ids(11, 3, 5), 6, 3, seed_of(draw)),
        ]
    ),
    mistakes={
        "Only the new tokens come out. The result begins with the tokens that were given.": continuation(
            join="new only"
        ),
        "Only the last token comes out. The result is the given tokens and all new ones.": continuation(
            join="last"
        ),
        "The cache is not used: the model reads the whole text again for every new token.": continuation(
            feed="no cache"
        ),
        "The whole text goes in again although the cache holds it already. After the first call only "
        "the newest "
        "token is new.": continuation(feed="all"),
        "The token before the newest goes in. The newest one is what the cache does not "
        "hold yet.": continuation(feed="old"),
        "A new cache is made for every token, and it has forgotten the text.": continuation(feed="new cache"),
        "One token too many comes out.": continuation(extra=1),
        "One token is missing at the end.": continuation(extra=-1),
        "The next token is read at the first position. It is the last one that has seen all.": continuation(
            choose=first_place
        ),
        "The least probable token is taken.": continuation(
            choose=lambda z: z[:, -1].argmin(-1, keepdim=True)
        ),
        "All rows go on like the first one. Each row has its own next token.": continuation(choose=one_row),
        "append returns only the new keys and values. It should put them behind the old ones and "
        "return all so far.": [
            continuation(cache_with("returns new")),
            continuation(cache_with("forgets")),
        ],
        "Old and new ones are joined along the heads. The tokens are dimension 2 of (B, Hkv, "
        "T, d).": continuation(cache_with("heads")),
        "New keys and values are put in front of the old ones. They go behind.": continuation(
            cache_with("in front")
        ),
        "cache.length counts calls. It should count tokens, and a call may bring several.": continuation(
            cache_with("calls")
        ),
        "cache.length stays 0, so positions start again with every call.": continuation(cache_with("never")),
        "cache.length counts rows of the batch. It should count tokens.": continuation(cache_with("batch")),
        "All layers share one cache. Each layer needs its own.": continuation(cache_with("shared")),
        "cache.length adds up all layers. Every layer holds the same tokens: the length of one is "
        "enough.": continuation(cache_with("sum")),
        "The old values are lost. Values are put behind the old ones, as keys are.": continuation(
            cache_with("old values")
        ),
        "append returns the values first. The keys come first.": continuation(cache_with("swapped")),
    },
    signs={
        "cache.length does not grow. It is the number of tokens so far.": lambda case, got, expected: (
            set(got["cache.length"]) == {0}
        ),
        "cache.length should be the number of tokens so far: 0, then 3 when three have come, then 4.": (
            lambda case, got, expected: got["cache.length"] != expected["cache.length"]
        ),
        "The keys are right and the values are not. Values go the way of the keys.": (
            lambda case, got, expected: (
                close(got, expected, "all keys") and not close(got, expected, "all values")
            )
        ),
        "append should return all keys and all values so far, old ones first, of the dtype in which they "
        "came.": lambda case, got, expected: (
            not same(got["all keys"], expected["all keys"])
            or not same(got["all values"], expected["all values"])
        ),
        "continue_text should return an int64 tensor of shape (B, T + n).": (
            lambda case, got, expected: (
                not isinstance(got["token ids"], torch.Tensor)
                or got["token ids"].dtype != torch.int64
                or got["token ids"].shape != expected["token ids"].shape
            )
        ),
        "The cache is not empty when a text begins: one is kept from call to call. Make a new one in each.": (
            lambda case, got, expected: got["tokens in the cache at the start"] != 0
        ),
        "The given tokens are not kept at the beginning of the result.": lambda case, got, expected: (
            not torch.equal(got["token ids"][:, : case[0].size(1)], case[0])
        ),
        "The given tokens should go in at once, all in the first call of the model.": (
            lambda case, got, expected: (
                torch.equal(got["token ids"], expected["token ids"])
                and got["tokens in the model's first call"] != case[0].size(1)
            )
        ),
        "The model reads some of the tokens more than once. With a cache each goes in once.": (
            lambda case, got, expected: (
                got["tokens that the model reads"] != expected["tokens that the model reads"]
            )
        ),
        "The cache is right; the tokens are not the most probable ones.": (
            lambda case, got, expected: not torch.equal(got["token ids"], expected["token ids"])
        ),
    },
    errors={
        "There are too few caches. Each of the config.n_layers layers needs one.": (
            lambda case, error: isinstance(error, IndexError) and "list index" in str(error)
        ),
    },
)

STAGES = {
    "6.12a": RMS_NORM,
    "6.12b": ROTARY,
    "6.12c": ATTENTION,
    "6.12d": SWIGLU,
    "6.12e": BLOCK,
    "6.12f": WHOLE_GPT,
    "6.12g": TRAINING,
    "6.12h": SAMPLING,
}
