"""The checks of chapter 4's exercises: what is right, on which inputs, and the usual mistakes by name."""

# Written by hand: what learners get wrong, in words.

import math
import operator
import warnings
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from ch01_tokenization.checking import Exercise, checker

from .counting import parameter_formula
from .transformer import GPTConfig, LayerNorm, RMSNorm, SwiGLU, TransformerBlock, initialise

__all__ = ["check"]


def gradient_at(output, leaf):
    """Of a weighted sum of the output, at a tensor that it may depend on; 0 where nothing arrives."""
    if not (output.requires_grad and leaf.requires_grad):
        return torch.zeros_like(leaf)
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype, device=output.device)
    result = (output * weights.view(output.shape)).sum()
    (gradient,) = torch.autograd.grad(result, [leaf], allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient


def output_right_gradient_wrong(case, got, expected):
    return case[-1].startswith("gradient")


CUT_OFF = (
    "The result is right, but its gradient is not: something on the way is cut off from it (detach, item, "
    "no_grad, or a new tensor made of numbers)."
)
NUMPY = {
    "A gradient cannot pass through numpy; compute with PyTorch's functions alone.": (
        lambda case, error: "Can't call numpy()" in str(error)
    )
}
DIMENSION = {
    "x may be a single vector, with no dimension in front: count from the end. The D numbers lie along "
    "dimension -1.": (lambda case, error: isinstance(error, IndexError) and "Dimension out" in str(error))
}

# ---------------------------------------------------------------- 4.1 and 4.3: norms


def run_layer_norm(answer, x, weight, bias, eps, compared):
    norm = answer(x.size(-1), eps, bias is not None).to(x)
    with torch.no_grad():
        norm.weight.copy_(weight)
        if bias is not None:
            norm.bias.copy_(bias)
    if compared == "output":
        return norm(x)
    leaf = x.clone().requires_grad_()
    return gradient_at(norm(leaf), leaf if compared == "gradient at x" else norm.weight)


def layer_norm_like(forward):
    """A LayerNorm with another forward(x, weight, bias, eps); bias is 0 where there is none."""

    class Mistaken(LayerNorm):
        def forward(self, x):
            bias = torch.zeros_like(self.weight) if self.bias is None else self.bias
            return forward(x, self.weight, bias, self.eps)

    return Mistaken


def centred(x, dim=-1):
    return x - x.mean(dim, keepdim=True)


def variance(x, dim=-1):
    return x.var(dim, keepdim=True, unbiased=False)


def deviation(x):
    """The mean distance from the mean."""
    return centred(x).abs().mean(-1, keepdim=True)


def normalised(x, eps):
    return centred(x) / (variance(x) + eps).sqrt()


def token_dimensions(x):
    """All dimensions but the last one; of a single vector its only one."""
    return tuple(range(x.dim() - 1)) or (0,)


def mean_and_variance(case, got):
    """Whether `got` is an output of a layer norm with weight 1 and bias 0 and a tiny eps."""
    x, weight, bias, eps, compared = case
    plain = bool((weight == 1).all()) and (bias is None or not bias.any())
    return plain and eps < 0.01 and compared == "output" and bool(variance(x).min() > 0.01)


def layer_norm_cases(draw):
    pair, four = torch.tensor([0.0, 4.0]), torch.tensor([1.0, 2.0, 3.0, 6.0])
    one, zero = torch.ones(2), torch.zeros(2)
    a, b, c = draw.normal(2, 5), draw.normal(3, 2, 4), draw.normal(2, 1, 3)
    w, v, u = 2 + draw.normal(5), 2 + draw.normal(4), 2 + draw.normal(3)
    return [
        (pair, one, zero, 1e-5, "output"),
        (pair, one, zero, 12.0, "output"),
        (four, torch.ones(4), torch.zeros(4), 1e-5, "output"),
        (four, torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.zeros(4), 1e-5, "output"),
        (four, torch.ones(4), torch.tensor([10.0, 20.0, 30.0, 40.0]), 1e-5, "output"),
        (four, torch.ones(4), None, 1e-5, "output"),
        (torch.full((3,), 5.0), torch.ones(3), torch.zeros(3), 1e-5, "output"),
        (torch.tensor([[0.0, 2.0], [3.0, 9.0]]), one, zero, 1e-5, "output"),
        (torch.tensor([[0.0, 1.0, 5.0], [9.0, 6.0, 6.0]]), torch.ones(3), torch.zeros(3), 1e-5, "output"),
        (four + 3000, torch.ones(4), None, 1e-5, "output"),
        (four.double(), v.double(), None, 0.5, "output"),
        (pair.half(), one.half(), zero.half(), 12.0, "output"),
        (a, w, draw.normal(5), 1e-5, "output"),
        (b + 20, v, draw.normal(4), draw.real(0.5, 1), "output"),
        (3 * b.transpose(0, 1), v, None, 1e-5, "output"),
        (c, u, draw.normal(3), 0.1, "gradient at x"),
        (c, u, draw.normal(3), 0.1, "gradient at weight"),
    ]


LAYER_NORM = Exercise(
    right=LayerNorm,
    run=run_layer_norm,
    cases=layer_norm_cases,
    mistakes={
        "The mean of the squares less the square of the mean: far from 0 these are two large numbers, and "
        "their difference has lost its digits. Square the deviations.": layer_norm_like(
            lambda x, w, b, eps: (
                centred(x)
                / (x.square().mean(-1, True) - x.mean(-1, True).square() + eps).clamp(min=eps).sqrt()
                * w
                + b
            )
        ),
        "The sum of the squares is divided by D - 1; this variance is their mean, so divide it by D.": [
            layer_norm_like(lambda x, w, b, eps: centred(x) / (x.var(-1, keepdim=True) + eps).sqrt() * w + b),
            layer_norm_like(lambda x, w, b, eps: centred(x) / (x.std(-1, keepdim=True) + eps) * w + b),
        ],
        "eps is added after the root is taken; it belongs to the variance, before the root.": layer_norm_like(
            lambda x, w, b, eps: centred(x) / (variance(x).sqrt() + eps) * w + b
        ),
        "eps is not used, or not the one that __init__ was given: use self.eps.": [
            layer_norm_like(lambda x, w, b, eps: centred(x) / variance(x).sqrt() * w + b),
            layer_norm_like(lambda x, w, b, eps: normalised(x, 1e-5) * w + b),
        ],
        "Only the mean is divided, since / comes before -: put x less its mean in brackets.": [
            layer_norm_like(lambda x, w, b, eps: x - x.mean(-1, True) / (variance(x) + eps).sqrt() * w + b),
            layer_norm_like(lambda x, w, b, eps: (x - x.mean(-1, True) / (variance(x) + eps).sqrt()) * w + b),
        ],
        "It divides by the weight too; the normalised numbers are multiplied by it.": layer_norm_like(
            lambda x, w, b, eps: normalised(x, eps) / w + b
        ),
        "It divides by the mean of the deviations without their signs; square them, take the mean, then "
        "the root.": [
            layer_norm_like(lambda x, w, b, eps: centred(x) / (deviation(x) + eps) * w + b),
            layer_norm_like(lambda x, w, b, eps: centred(x) / deviation(x) * w + b),
        ],
        "It divides by the variance; divide by its root, the standard deviation.": layer_norm_like(
            lambda x, w, b, eps: centred(x) / (variance(x) + eps) * w + b
        ),
        "The mean is not subtracted before the squares are "
        "taken, nor from x: this is RMS norm.": layer_norm_like(
            lambda x, w, b, eps: x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w + b
        ),
        "The squares are those of x itself; take them of x less its mean.": layer_norm_like(
            lambda x, w, b, eps: centred(x) / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w + b
        ),
        "The divisor is right, but x itself is divided; subtract the mean first.": layer_norm_like(
            lambda x, w, b, eps: x / (variance(x) + eps).sqrt() * w + b
        ),
        "Mean and variance are taken over all numbers of the tensor; each vector along the last "
        "dimension has its own.": [
            layer_norm_like(
                lambda x, w, b, eps: (x - x.mean()) / (x.var(unbiased=False) + eps).sqrt() * w + b
            ),
            layer_norm_like(
                lambda x, w, b, eps: F.layer_norm(x, x.shape[1:] or x.shape, None, None, eps) * w + b
            ),
        ],
        "Mean and variance are taken across the tokens; take them over the D numbers of each token, the "
        "last dimension.": [
            layer_norm_like(lambda x, w, b, eps: centred(x, 0) / (variance(x, 0) + eps).sqrt() * w + b),
            layer_norm_like(
                lambda x, w, b, eps: (lambda d: centred(x, d) / (variance(x, d) + eps).sqrt() * w + b)(
                    token_dimensions(x)
                )
            ),
        ],
        "The bias is added before the weight multiplies; multiply first, then add.": layer_norm_like(
            lambda x, w, b, eps: (normalised(x, eps) + b) * w
        ),
        "The weight is not used; multiply the normalised numbers by it.": [
            layer_norm_like(lambda x, w, b, eps: normalised(x, eps) + b),
            layer_norm_like(lambda x, w, b, eps: normalised(x, eps)),
        ],
        "No gradient reaches the weight: it is used, but as numbers that are not learned.": layer_norm_like(
            lambda x, w, b, eps: normalised(x, eps) * w.detach() + b
        ),
        "Mean and variance have lost the last dimension, so they meet the wrong numbers or do not fit; "
        "keep it, with size 1.": [
            layer_norm_like(
                lambda x, w, b, eps: (x - x.mean(-1)) / (x.var(-1, unbiased=False) + eps).sqrt() * w + b
            ),
            layer_norm_like(
                lambda x, w, b, eps: centred(x) / (x.var(-1, unbiased=False) + eps).sqrt() * w + b
            ),
            layer_norm_like(
                lambda x, w, b, eps: (lambda c: c / (c.square().mean(-1) + eps).sqrt() * w + b)(
                    x - x.mean(-1)
                )
            ),
        ],
        "The bias is not used; it is added at the end.": layer_norm_like(
            lambda x, w, b, eps: normalised(x, eps) * w
        ),
    },
    signs={
        "With weight 1 and bias 0 the numbers of each "
        "vector should have the mean 0.": lambda case, got, expected: (
            mean_and_variance(case, got) and bool(got.mean(-1).abs().max() > 1e-3)
        ),
        "With weight 1 and bias 0 the numbers of each vector should have the variance 1.": (
            lambda case, got, expected: (
                mean_and_variance(case, got) and bool((variance(got) - 1).abs().max() > 1e-2)
            )
        ),
        CUT_OFF: output_right_gradient_wrong,
    },
    errors={
        "Whether there is a bias cannot be asked of its numbers; ask whether self.bias is None.": (
            lambda case, error: "Boolean value of Tensor" in str(error)
        ),
        **DIMENSION,
        **NUMPY,
    },
)


def run_rms_norm(answer, x, weight, eps, compared):
    norm = answer(x.size(-1), eps)
    if compared == "learned":
        return {name: p.detach() for name, p in norm.named_parameters() if p.requires_grad}
    norm = norm.to(x)
    norm.load_state_dict({"weight": weight})
    if compared == "output":
        return norm(x)
    leaf = x.clone().requires_grad_()
    return gradient_at(norm(leaf), leaf if compared == "gradient at x" else norm.weight)


def rms_norm_like(forward):
    """An RMSNorm with another forward(x, weight, eps)."""

    class Mistaken(RMSNorm):
        def forward(self, x):
            return forward(x, self.weight, self.eps)

    return Mistaken


def mean_square(x, dim=-1):
    return x.square().mean(dim, keepdim=True)


def rms_norm_cases(draw):
    pair, one = torch.tensor([1.0, 7.0]), torch.ones(2)
    half = torch.tensor([2.0, -2.0, 2.0, 2.0]).half()
    a, b, c = draw.normal(2, 5), draw.normal(3, 2, 4), draw.normal(2, 1, 3)
    w, v, u = 2 + draw.normal(5), 2 + draw.normal(4), 2 + draw.normal(3)
    return [
        (pair, one, 1e-5, "learned"),
        (pair, one, 1e-5, "output"),
        (pair, one, 11.0, "output"),
        (pair, torch.tensor([2.0, 3.0]), 1e-5, "output"),
        (torch.zeros(3), torch.ones(3), 1e-5, "output"),
        (torch.tensor([[3.0, 4.0], [0.0, 1.0]]), one, 1e-5, "output"),
        (a.double(), w.double(), 0.5, "output"),
        (half, torch.ones(4).half(), 12.0, "output"),
        (a, w, 1e-5, "output"),
        (b + 2, v, draw.real(0.5, 1), "output"),
        (3 * b.transpose(0, 1), v, 1e-5, "output"),
        (c, u, 0.1, "gradient at x"),
        (c, u, 0.1, "gradient at weight"),
    ]


class PlainWeight(RMSNorm):
    """Its weight is a tensor that is not learned."""

    def __init__(self, d_model, eps=1e-5):
        super().__init__(d_model, eps)
        del self.weight
        self.weight = torch.ones(d_model)


class FrozenWeight(RMSNorm):
    def __init__(self, d_model, eps=1e-5):
        super().__init__(d_model, eps)
        self.weight.requires_grad_(False)


class WeightOfZeros(RMSNorm):
    def __init__(self, d_model, eps=1e-5):
        super().__init__(d_model, eps)
        self.weight.data.zero_()


class OneWeight(RMSNorm):
    def __init__(self, d_model, eps=1e-5):
        super().__init__(d_model, eps)
        self.weight = nn.Parameter(torch.ones(1))


RMS_NORM = Exercise(
    right=RMSNorm,
    run=run_rms_norm,
    cases=rms_norm_cases,
    mistakes={
        "Nothing is learned: weight is missing, a plain tensor, or has requires_grad off; it should be "
        "an nn.Parameter.": [PlainWeight, FrozenWeight],
        "The weight starts at 0, so the result is 0; it starts at 1.": WeightOfZeros,
        "The weight is a single number; each of the d_model dimensions has its own.": OneWeight,
        "The mean is subtracted first: this is layer norm. RMS norm leaves the mean where it is.": [
            rms_norm_like(lambda x, w, eps: normalised(x, eps) * w),
            rms_norm_like(lambda x, w, eps: centred(x) / (mean_square(x) + eps).sqrt() * w),
        ],
        "It divides by a standard deviation, which is taken around the mean; the root mean square is "
        "taken around 0.": [
            rms_norm_like(lambda x, w, eps: x / (variance(x) + eps).sqrt() * w),
            rms_norm_like(lambda x, w, eps: x / (x.var(-1, keepdim=True) + eps).sqrt() * w),
        ],
        "It divides by the root of the sum of the squares, the length of the vector; take their mean in "
        "place of the sum.": (
            [
                rms_norm_like(lambda x, w, eps: x / (x.square().sum(-1, keepdim=True) + eps).sqrt() * w),
                rms_norm_like(lambda x, w, eps: x / (x.norm(dim=-1, keepdim=True) + eps) * w),
            ]
        ),
        "No gradient reaches the weight: it is used, but as numbers that are not learned.": rms_norm_like(
            lambda x, w, eps: F.rms_norm(x, w.shape, w.detach(), eps)
        ),
        "The mean square has lost the last dimension, so it divides the wrong numbers or does not fit; "
        "keep it, with size 1.": (
            rms_norm_like(lambda x, w, eps: x / (x.square().mean(-1) + eps).sqrt() * w)
        ),
        "It divides by the mean square itself; take its root.": rms_norm_like(
            lambda x, w, eps: x / (mean_square(x) + eps) * w
        ),
        "It divides by the mean of the numbers without their signs; square them, take the mean, then "
        "the root.": rms_norm_like(lambda x, w, eps: x / (x.abs().mean(-1, keepdim=True) + eps) * w),
        "eps is added after the root is taken; it belongs "
        "to the mean square, before the root.": rms_norm_like(
            lambda x, w, eps: x / (mean_square(x).sqrt() + eps) * w
        ),
        "eps is not used, or not the one that __init__ was given.": [
            rms_norm_like(lambda x, w, eps: x / mean_square(x).sqrt() * w),
            rms_norm_like(lambda x, w, eps: F.rms_norm(x, w.shape, w, 1e-5)),
            rms_norm_like(lambda x, w, eps: x / x.square().mean().sqrt() * w),
            rms_norm_like(lambda x, w, eps: x / x.square().mean().sqrt()),
        ],
        "The mean square is taken over all numbers of the tensor; each vector along the last dimension "
        "has its own.": rms_norm_like(lambda x, w, eps: x / (x.square().mean() + eps).sqrt() * w),
        "The mean square is taken across the tokens; take it over the D numbers of each token, the last "
        "dimension.": [
            rms_norm_like(lambda x, w, eps: x / (mean_square(x, 0) + eps).sqrt() * w),
            rms_norm_like(lambda x, w, eps: x / (mean_square(x, token_dimensions(x)) + eps).sqrt() * w),
        ],
        "It divides by the weight too; the normalised numbers are multiplied by it.": rms_norm_like(
            lambda x, w, eps: F.rms_norm(x, w.shape, None, eps) / w
        ),
        "The weight is not used; multiply the normalised numbers by it.": rms_norm_like(
            lambda x, w, eps: F.rms_norm(x, w.shape, None, eps)
        ),
    },
    signs={
        "The norm learns one thing, a parameter with "
        "the name weight, of d_model ones.": lambda case, got, expected: case[-1] == "learned",
        "With weight 1 the mean of the squares of the result should be 1.": lambda case, got, expected: (
            case[3] == "output"
            and bool((case[1] == 1).all())
            and case[2] < 0.01
            and bool((mean_square(got) - 1).abs().max() > 1e-2)
        ),
        CUT_OFF: output_right_gradient_wrong,
    },
    errors=DIMENSION | NUMPY,
)

# ---------------------------------------------------------------- 4.2: the gradient of layer norm


def layer_norm_backward(x, weight, grad_output, eps):
    with torch.enable_grad():
        leaves = [x.detach().clone(), weight.detach().clone(), torch.zeros_like(weight)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        output = F.layer_norm(leaves[0], weight.shape, leaves[1], leaves[2], eps)
        return torch.autograd.grad(output, leaves, grad_output)


def at_x(gradient):
    """The right gradients of weight and bias, and another one at x: gradient(g, n, s), g being that at n."""
    return of_parts(lambda w, grad, n, s: (gradient(grad * w, n, s), grad * n, grad))


def of_parts(parts):
    """Gradients from parts(weight, grad_output, n, s): at x, and those of weight and bias before the sums."""

    def wrong(x, weight, grad_output, eps):
        s = (variance(x) + eps).sqrt()
        at_x, at_weight, at_bias = parts(weight, grad_output, centred(x) / s, s)
        return at_x, at_weight.sum((0, 1)), at_bias.sum((0, 1))

    return wrong


def gradient_at_x(g, n, s):
    return (g - means(g) - n * means(g, n)) / s


def other_gradients(change):
    """The right gradients after change(gradients, x, n, grad_output)."""

    def wrong(x, weight, grad_output, eps):
        s = (variance(x) + eps).sqrt()
        n = centred(x) / s
        right = (
            gradient_at_x(grad_output * weight, n, s),
            (grad_output * n).sum((0, 1)),
            grad_output.sum((0, 1)),
        )
        return change(right, x, n, grad_output)

    return wrong


def means(*factors):
    product = math.prod(factors[1:], start=factors[0])
    return product.mean(-1, keepdim=True)


def with_other_normalised(normalise, divisor):
    """The right formulas, but n and s are computed in another way from (x, eps)."""

    def wrong(x, weight, grad_output, eps):
        n, s, g = normalise(x, eps), divisor(x, eps), grad_output * weight
        tokens = (0, 1)
        return gradient_at_x(g, n, s), (grad_output * n).sum(tokens), grad_output.sum(tokens)

    return wrong


def of_three_terms(terms):
    """Another gradient at x; terms(weight, s): factor of grad_output and divisor in each term."""

    def gradient(w, grad, n, s):
        (a, p), (b, q), (c, r) = terms(w, s)
        return grad * a / p - means(grad * b) / q - n * means(grad * c, n) / r, grad * n, grad

    return of_parts(gradient)


MIXED = [(0, 0, 1), (1, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1)]


def unbiased(x, eps):
    return (x.var(-1, keepdim=True) + eps).sqrt()


LAYER_NORM_BACKWARD = Exercise(
    right=layer_norm_backward,
    cases=lambda draw: [
        (torch.tensor([[[1.0, 2.0, 6.0]]]), torch.ones(3), torch.tensor([[[1.0, 0.0, 0.0]]]), 1e-5),
        (torch.tensor([[[0.0, 2.0]]]), torch.ones(2), torch.tensor([[[1.0, 0.0]]]), 3.0),
        (
            torch.tensor([[[1.0, 2.0, 6.0]]]),
            torch.tensor([1.0, 2.0, 3.0]),
            torch.tensor([[[1.0, 2.0, 0.0]]]),
            1e-5,
        ),
        (torch.tensor([[[1.0, 2.0, 6.0], [4.0, 0.0, 2.0]]]), torch.ones(3), torch.ones(1, 2, 3), 1e-5),
        (draw.normal(2, 3, 5), 2 + draw.normal(5), draw.normal(2, 3, 5), 1e-5),
        (draw.normal(3, 2, 4), 2 + draw.normal(4), draw.normal(3, 2, 4), draw.real(0.5, 1)),
        (2 * draw.normal(3, 5, 7) + 3, 1 + draw.normal(7), draw.normal(3, 5, 7), 0.1),
    ],
    mistakes={
        "The gradient at x lacks the way through the mean: the mean of g is to be subtracted.": at_x(
            lambda g, n, s: (g - n * means(g, n)) / s
        ),
        "The gradient at x lacks the way through the divisor s, or has the product of two means in it, "
        "which is 0. Subtract n times the mean of the products g n.": at_x(
            lambda g, n, s: (g - means(g)) / s
        ),
        "Mean and divisor are treated as if they did not depend on x. They do, and x also acts through "
        "them.": at_x(lambda g, n, s: g / s),
        "The gradient at x is not divided by s.": at_x(lambda g, n, s: g - means(g) - n * means(g, n)),
        "Only a part of the gradient at x is divided by s; the whole difference is, so put it in brackets.": [
            of_three_terms(lambda w, s, those=those: [(w, s if each else 1) for each in those])
            for those in MIXED
        ],
        "g stands in three places of the gradient at x; in one or two of them the factor weight is "
        "missing.": [
            of_three_terms(lambda w, s, those=those: [(w if each else 1, s) for each in those])
            for those in MIXED
        ],
        "The weight multiplies the whole gradient at x; it is a factor of g, inside both means.": of_parts(
            lambda w, grad, n, s: (w * gradient_at_x(grad, n, s), grad * n, grad)
        ),
        "The gradient at weight or bias is a sum of g, which has the factor weight; take grad_output "
        "itself.": [
            of_parts(
                lambda w, grad, n, s, p=p, q=q: (gradient_at_x(grad * w, n, s), grad * n * w**p, grad * w**q)
            )
            for p, q in ((1, 0), (0, 1), (1, 1))
        ],
        "The gradient at x is multiplied by s; divide by it.": at_x(
            lambda g, n, s: (g - means(g) - n * means(g, n)) * s
        ),
        "The gradient at x is divided by s squared; divide it by s once.": at_x(
            lambda g, n, s: (g - means(g) - n * means(g, n)) / s**2
        ),
        "The gradient at x takes sums over the D numbers where it should take means.": at_x(
            lambda g, n, s: (g - g.sum(-1, True) - n * (g * n).sum(-1, True)) / s
        ),
        "The gradient at x adds the way through the divisor; both corrections are subtracted.": at_x(
            lambda g, n, s: (g - means(g) + n * means(g, n)) / s
        ),
        "The way through the divisor takes the mean of g alone; take the mean of g n.": at_x(
            lambda g, n, s: (g - means(g) - n * means(g)) / s
        ),
        "The way through the divisor is the mean of g n; it lacks the factor n in front.": at_x(
            lambda g, n, s: (g - means(g) - means(g, n)) / s
        ),
        "The gradient at x takes its means over the whole tensor; take them over the D numbers of each "
        "vector.": at_x(lambda g, n, s: (g - g.mean() - n * (g * n).mean()) / s),
        "The gradient at x goes back through n without the weight: the gradient at n is grad_output "
        "times weight.": of_parts(lambda w, grad, n, s: (gradient_at_x(grad, n, s), grad * n, grad)),
        "The gradient at x uses x less its mean in place of n; divide by s first.": at_x(
            lambda g, n, s: (g - means(g) - n * s * means(g, n * s)) / s
        ),
        "The gradient at weight is taken with x, or with x less its mean; the weight multiplies n.": [
            other_gradients(
                lambda gradients, x, n, grad: (gradients[0], (grad * x).sum((0, 1)), gradients[2])
            ),
            other_gradients(
                lambda gradients, x, n, grad: (gradients[0], (grad * centred(x)).sum((0, 1)), gradients[2])
            ),
        ],
        "The gradient at weight is that of the bias; the weight "
        "multiplies n, so n is a factor in it.": other_gradients(
            lambda gradients, x, n, grad: (gradients[0], gradients[2], gradients[2])
        ),
        "The gradients at weight and bias are means over the tokens; each token adds its share, so they "
        "are sums.": other_gradients(
            lambda gradients, x, n, grad: (gradients[0], (grad * n).mean((0, 1)), grad.mean((0, 1)))
        ),
        "The gradients at weight and bias are not summed over "
        "the tokens; both have the shape (D,).": other_gradients(
            lambda gradients, x, n, grad: (gradients[0], grad * n, grad)
        ),
        "The gradients at weight and bias are summed over one dimension; sum over B and T, which leaves "
        "(D,).": [
            other_gradients(lambda gradients, x, n, grad, d=d: (gradients[0], (grad * n).sum(d), grad.sum(d)))
            for d in (0, 1)
        ],
        "The gradients come in another order: first at x, then at weight, then at the bias.": [
            other_gradients(lambda gradients, x, n, grad, o=o: tuple(gradients[i] for i in o))
            for o in ((0, 2, 1), (1, 2, 0), (1, 0, 2), (2, 1, 0), (2, 0, 1))
        ],
        "The squares are summed and divided by D - 1; this variance is their mean.": with_other_normalised(
            lambda x, eps: centred(x) / unbiased(x, eps), unbiased
        ),
        "eps is left out; it is added to the variance, and s is the root of both.": with_other_normalised(
            lambda x, eps: normalised(x, 0), lambda x, eps: variance(x).sqrt()
        ),
        "eps is added after the root is taken; it belongs to the variance, before the root.": (
            with_other_normalised(
                lambda x, eps: centred(x) / (variance(x).sqrt() + eps),
                lambda x, eps: variance(x).sqrt() + eps,
            )
        ),
        "s is the variance itself; it is the root of the variance and eps.": with_other_normalised(
            lambda x, eps: centred(x) / (variance(x) + eps), lambda x, eps: variance(x) + eps
        ),
        "In n only the mean is divided by s, since / comes before -: put x less its mean in brackets.": (
            with_other_normalised(
                lambda x, eps: x - x.mean(-1, True) / (variance(x) + eps).sqrt(),
                lambda x, eps: (variance(x) + eps).sqrt(),
            )
        ),
        "Mean and variance are taken over more or other numbers than the D of one vector, which lie along "
        "the last dimension.": [
            with_other_normalised(
                lambda x, eps, d=d: centred(x, d) / (variance(x, d) + eps).sqrt(),
                lambda x, eps, d=d: (variance(x, d) + eps).sqrt(),
            )
            for d in (0, 1, (0, 1), (0, 1, 2))
        ],
    },
    signs={
        "The gradients at x and at weight are both wrong, and n is in both: look at n and s first.": (
            lambda case, got, expected: (
                not any(torch.allclose(got[n], expected[n], 1e-4, 1e-4) for n in (0, 1))
            )
        ),
        "Adding a constant to a vector does not change the output, so the gradient at x should have the "
        "sum 0 over each vector.": (lambda case, got, expected: bool(got[0].sum(-1).abs().max() > 1e-3)),
        "Stretching a vector hardly changes the output, so the sum of n times the gradient at x should "
        "be 0 for each vector.": (
            lambda case, got, expected: (
                case[3] < 1e-3 and bool((got[0] * normalised(case[0], case[3])).sum(-1).abs().max() > 1e-2)
            )
        ),
    },
)

# ---------------------------------------------------------------- 4.4: GELU


ROOT = math.sqrt(2 / math.pi)


def run_gelu(answer, x):
    if not x.requires_grad:
        return answer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of numbers taken out of a tensor; the check says it
        return gradient_at(answer(x), x)


def tanh_form(root=ROOT, factor=0.044715, power=3):
    return lambda x: 0.5 * x * (1 + torch.tanh(root * (x + factor * x**power)))


GELU = Exercise(
    right=lambda x: F.gelu(x, approximate="tanh"),
    run=run_gelu,
    cases=lambda draw: [
        (torch.tensor([0.0, 2.0]),),
        (torch.tensor([-1.0, 1.0]),),
        (torch.tensor([-2.5, 2.5]),),
        (torch.tensor([-100.0, 100.0]),),
        (2 * draw.normal(2, 3),),
        (2 * draw.normal(4, 2, 3).double(),),
        (3 * draw.normal(5, 4).T,),
        (torch.tensor([-1.0, 0.0, 2.0]).requires_grad_(),),
    ],
    mistakes={
        "This is the exact form, with erf. It differs from the tanh form by up to 0.0005: write the "
        "tanh form.": F.gelu,
        "x is squared; it should be x to the power of 3.": tanh_form(power=2),
        "The term with x to the power of 3 is left out.": tanh_form(factor=0),
        "The 0.044715 is another number.": [
            tanh_form(factor=f) for f in (0.44715, 0.0044715, 0.04715, 0.04475, 0.447, 0.045)
        ],
        "The third power stands outside the bracket that is multiplied by the root of 2 / pi.": lambda x: (
            0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * x + 0.044715 * x**3))
        ),
        "0.044715 is added to x; it multiplies the third power.": lambda x: (
            0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715) * x**3))
        ),
        "0.044715 is raised to the third power with x; only x is.": tanh_form(factor=0.044715**3),
        "The factor in front of the bracket should be the root of 2 / pi, with all its digits.": [
            tanh_form(root=root)
            for root in (
                2 / math.pi,
                math.sqrt(2) / math.pi,
                math.sqrt(math.pi / 2),
                math.sqrt(2 * math.pi),
                1,
                math.sqrt(2),
                math.sqrt(2 / 3.14),
                0.8,
                0.79,
            )
        ],
        "Half of x is missing as the factor in front: this gives twice as much.": lambda x: (
            2 * tanh_form()(x)
        ),
        "x is missing as the factor in front: this is only the share by which x is multiplied.": lambda x: (
            0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        ),
        "The bracket around 1 and the tanh is missing: half of x multiplies the sum of both.": lambda x: (
            0.5 * x + torch.tanh(ROOT * (x + 0.044715 * x**3))
        ),
        "1 is not added to the tanh.": lambda x: (
            0.5 * x * torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        ),
        "The tanh is subtracted from 1; it should be added.": lambda x: x - tanh_form()(x),
        "The sigmoid stands where the tanh should.": lambda x: (
            0.5 * x * (1 + torch.sigmoid(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        ),
        "This is SiLU, with the sigmoid of x.": F.silu,
        "This is the form with the sigmoid of 1.702 x, a rougher one than GPT-2's.": lambda x: (
            x * torch.sigmoid(1.702 * x)
        ),
        "This is ReLU.": F.relu,
    },
    signs={
        CUT_OFF: lambda case, got, expected: case[0].requires_grad,
        "GELU of 0 should be 0.": lambda case, got, expected: bool((got[case[0] == 0].abs() > 1e-5).any()),
        "GELU of a large positive number should be nearly the number itself.": lambda case, got, expected: (
            not got.isnan().any() and not torch.allclose(got[case[0] >= 2], case[0][case[0] >= 2], rtol=0.05)
        ),
        "GELU of a very negative number should be nearly 0.": lambda case, got, expected: bool(
            (got[case[0] < -4].abs() > 0.01).any()
        ),
    },
    errors=NUMPY,
    tolerance=1e-5,
)

# ---------------------------------------------------------------- 4.5: SwiGLU


def run_swiglu(answer, x, d_ff, bias, compared):
    layer = answer(x.size(-1), d_ff, bias) if bias else answer(x.size(-1), d_ff)
    if compared == "shapes of the parameters":
        return {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    layer = layer.to(x)
    with torch.no_grad():
        for number, name in enumerate(("gate_proj", "up_proj", "down_proj")):
            for kind in ("weight", "bias"):
                parameter = getattr(getattr(layer, name), kind)
                if parameter is None:
                    continue
                waves = torch.arange(parameter.numel(), device=x.device, dtype=x.dtype) + 1 + 7 * number
                parameter.copy_((1.3 * waves).sin().view(parameter.shape))
    if compared == "output":
        return layer(x)
    leaf = x.clone().requires_grad_()
    return gradient_at(layer(leaf), leaf if compared == "gradient at x" else layer.gate_proj.weight)


def swiglu_like(hidden):
    """A SwiGLU with another hidden(gate, up)."""

    class Mistaken(SwiGLU):
        def forward(self, x):
            return self.down_proj(hidden(self.gate_proj(x), self.up_proj(x)))

    return Mistaken


def swiglu_with(gate=None, up=None, down=None):
    """A SwiGLU with biases as gate, up and down say; None: as asked."""

    class Mistaken(SwiGLU):
        def __init__(self, d_model, d_ff, bias=False):
            super().__init__(d_model, d_ff, True)
            for layer, kept in ((self.gate_proj, gate), (self.up_proj, up), (self.down_proj, down)):
                if not (bias if kept is None else kept):
                    layer.bias = None

    return Mistaken


def swiglu_by(forward):
    """A SwiGLU with another forward(layers, x)."""

    class Mistaken(SwiGLU):
        def forward(self, x):
            return forward(self, x)

    return Mistaken


class OneLayerTwice(SwiGLU):
    def __init__(self, d_model, d_ff, bias=False):
        super().__init__(d_model, d_ff, bias)
        self.up_proj = self.gate_proj


SWIGLU = Exercise(
    right=SwiGLU,
    run=run_swiglu,
    cases=lambda draw: [
        (torch.tensor([1.0, 2.0]), 3, False, "shapes of the parameters"),
        (torch.tensor([1.0, 2.0]), 3, True, "shapes of the parameters"),
        (torch.tensor([1.0, 2.0]), 3, False, "output"),
        (torch.tensor([1.0, 2.0]), 3, True, "output"),
        (draw.normal(2, 3), 5, False, "output"),
        (draw.normal(3, 2, 4).double(), 6, True, "output"),
        (draw.normal(1, 2, 3), 2, False, "gradient at x"),
        (draw.normal(1, 2, 3), 2, False, "gradient at gate_proj.weight"),
    ],
    mistakes={
        "silu is applied to up_proj's result; the gate is gate_proj's, so silu belongs there.": swiglu_like(
            lambda gate, up: gate * F.silu(up)
        ),
        "silu is applied to the product; apply it to the gate alone, then multiply.": swiglu_like(
            lambda gate, up: F.silu(gate * up)
        ),
        "silu is applied to both; the result of up_proj stays as it is.": swiglu_like(
            lambda gate, up: F.silu(gate) * F.silu(up)
        ),
        "There is no silu; it is applied to gate_proj's result.": swiglu_like(lambda gate, up: gate * up),
        "The gate passes a sigmoid; SwiGLU uses silu, which is x times the sigmoid of x.": swiglu_like(
            lambda gate, up: gate.sigmoid() * up
        ),
        "The gate passes another function than silu.": [
            swiglu_like(lambda gate, up, f=f: f(gate) * up)
            for f in (F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.relu, torch.tanh)
        ],
        "The gate and up are added; multiply them number by number.": swiglu_like(
            lambda gate, up: F.silu(gate) + up
        ),
        "The result of up_proj is not used.": swiglu_like(lambda gate, up: F.silu(gate)),
        "The result of gate_proj is not used.": [
            swiglu_like(lambda gate, up: F.silu(up)),
            swiglu_like(lambda gate, up: F.silu(up) * up),
        ],
        "silu is applied at the end, to down_proj's result as well.": swiglu_by(
            lambda layers, x: F.silu(SwiGLU.forward(layers, x))
        ),
        "silu is applied to down_proj's result; it belongs to the gate, before the product.": swiglu_by(
            lambda layers, x: F.silu(layers.down_proj(layers.gate_proj(x) * layers.up_proj(x)))
        ),
        "silu is applied to x; it belongs to gate_proj's result.": [
            swiglu_by(lambda m, x: m.down_proj(m.gate_proj(F.silu(x)) * m.up_proj(x))),
            swiglu_by(lambda m, x: m.down_proj(m.gate_proj(F.silu(x)) * m.up_proj(F.silu(x)))),
        ],
        "x is added to the result; the block does that, outside of this layer.": swiglu_by(
            lambda layers, x: x + SwiGLU.forward(layers, x)
        ),
        "gate_proj's result is both factors of the product; the second is up_proj's.": swiglu_like(
            lambda gate, up: F.silu(gate) * gate
        ),
        "gate_proj and up_proj are one layer under two names; make two layers.": OneLayerTwice,
        "The layers have biases where bias is False; hand bias on to each nn.Linear.": swiglu_with(
            True, True, True
        ),
        "The layers have no biases where bias is True; hand bias on to each nn.Linear.": swiglu_with(
            False, False, False
        ),
        "One or two of the layers have a bias where bias is False; all three follow the argument.": [
            swiglu_with(*(True if n in others else None for n in range(3)))
            for others in ((0,), (1,), (2,), (0, 1))
        ],
        "One or two of the layers have no bias where bias is True; all three follow the argument.": [
            swiglu_with(*(False if n in others else None for n in range(3)))
            for others in ((0,), (1,), (2,), (0, 1))
        ],
    },
    signs={
        "The layers should have the names gate_proj, up_proj "
        "and down_proj, and be there all three.": lambda case, got, expected: (
            isinstance(got, dict)
            and {name.split(".")[0] for name in got} != {"gate_proj", "up_proj", "down_proj"}
        ),
        "A layer leads from the wrong width or to the wrong one: gate_proj and up_proj go from d_model "
        "to d_ff, down_proj comes back.": (
            lambda case, got, expected: isinstance(got, dict) and got.keys() == expected.keys()
        ),
        CUT_OFF: output_right_gradient_wrong,
    },
    errors=NUMPY,
)

# ---------------------------------------------------------------- 4.6: the block


class Part:
    """A part of a block that says what it does, and knows how often it was called."""

    def __init__(self, words, function):
        self.words, self.function, self.calls = words, function, 0

    def __call__(self, x):
        self.calls += 1
        return self.function(x)

    def __repr__(self):
        return self.words


def run_block(answer, x, norm1, attention, norm2, feed_forward, compared="result"):
    parts = {"norm1": norm1, "attention": attention, "norm2": norm2, "feed_forward": feed_forward}
    if compared == "gradient at x":
        leaf = x.clone().requires_grad_()
        return gradient_at(answer(leaf, *parts.values()), leaf)
    result = answer(x, *parts.values())
    return result if compared == "result" else {name: part.calls for name, part in parts.items()}


def block(x, norm1, attention, norm2, feed_forward):
    parts = SimpleNamespace(pre=True, norm1=norm1, norm2=norm2, feed_forward=feed_forward, drop=lambda x: x)
    parts.attention = lambda x, *others, **more: attention(x)
    return TransformerBlock.forward(parts, x)


def post_norm(x, norm1, attention, norm2, feed_forward):
    x = norm1(x + attention(x))
    return norm2(x + feed_forward(x))


def from_the_normalised(x, norm1, attention, norm2, feed_forward):
    x = norm1(x)
    x = norm2(x + attention(x))
    return x + feed_forward(x)


def parallel(x, norm1, attention, norm2, feed_forward):
    return x + attention(norm1(x)) + feed_forward(norm2(x))


def with_parts(change):
    """The right block, of changed parts."""
    return lambda x, *parts: block(x, *change(*parts))


def same_stream(x):
    return x


HALVE = Part("halve", lambda x: x / 2)
TRIPLE = Part("times 3", lambda x: 3 * x)
LESS_1 = Part("minus 1", lambda x: x - 1)
SQUARE = Part("square", lambda x: x * x)
MEAN_OF_EARLIER = Part(
    "mean over the tokens so far",
    lambda x: x.cumsum(1) / torch.arange(1, x.size(1) + 1, device=x.device)[:, None],
)
LAYER = Part("layer norm", lambda x: F.layer_norm(x, x.shape[-1:]))
RMS = Part("RMS norm, doubled", lambda x: 2 * F.rms_norm(x, x.shape[-1:]))
WAVE = Part("2 cos(3 x)", lambda x: 2 * torch.cos(3 * x))

BLOCK = Exercise(
    right=block,
    run=run_block,
    cases=lambda draw: [
        (torch.tensor([[[4.0], [2.0]]]), HALVE, TRIPLE, LESS_1, SQUARE),
        (torch.tensor([[[1.0, 3.0]]]), LESS_1, SQUARE, HALVE, TRIPLE),
        (draw.normal(2, 3, 4), LAYER, MEAN_OF_EARLIER, RMS, WAVE),
        (draw.normal(3, 2, 5), RMS, WAVE, LAYER, SQUARE),
        (torch.tensor([[[4.0], [2.0]]]), HALVE, TRIPLE, LESS_1, SQUARE, "number of calls"),
        (torch.tensor([[[4.0], [2.0]]]), HALVE, TRIPLE, LESS_1, SQUARE, "gradient at x"),
    ],
    mistakes={
        "This is post-norm: the norms stand on the stream, after the plus signs. Put each in front of "
        "its layer.": post_norm,
        "The stream itself is normalised, and the layer is added to that; keep the stream as it is and "
        "normalise only what goes into the layer.": [
            from_the_normalised,
            lambda x, n1, a, n2, f: (lambda h: n2(h) + f(n2(h)))(x + a(n1(x))),
            lambda x, n1, a, n2, f: (lambda h: h + f(n2(h)))(n1(x) + a(n1(x))),
            lambda x, n1, a, n2, f: (lambda h: h + f(h))(n2(x + a(n1(x)))),
        ],
        "norm1 is used twice; feed-forward has a norm of its own, norm2.": with_parts(
            lambda n1, a, n2, f: (n1, a, n1, f)
        ),
        "norm2 is used twice; attention has a norm of its own, norm1.": with_parts(
            lambda n1, a, n2, f: (n2, a, n2, f)
        ),
        "The two norms have changed places: norm1 stands before "
        "attention, norm2 before feed-forward.": with_parts(lambda n1, a, n2, f: (n2, a, n1, f)),
        "Feed-forward works on the stream as it was at the beginning; let it have what attention has "
        "already added to.": [
            parallel,
            lambda x, n1, a, n2, f: x + a(n1(x)) + f(n2(n1(x))),
            lambda x, n1, a, n2, f: x + a(n1(x)) + f(n1(x)),
        ],
        "Feed-forward works on what attention gives, without the stream; let it have the sum of both.": [
            lambda x, n1, a, n2, f: (lambda h: x + h + f(n2(h)))(a(n1(x))),
        ],
        "There are norms before the layers and after the sums; in pre-norm there are only those before.": [
            lambda x, n1, a, n2, f: (lambda h: n2(h + f(n2(h))))(n1(x + a(n1(x)))),
        ],
        "What attention adds is lost at the second plus "
        "sign: it adds to the original x.": lambda x, n1, a, n2, f: x + f(n2(x + a(n1(x)))),
        "Both plus signs are missing: the layers replace "
        "the stream, and should add to it.": lambda x, n1, a, n2, f: f(n2(a(n1(x)))),
        "The plus sign at attention is missing; its result is added to the stream.": lambda x, n1, a, n2, f: (
            lambda h: h + f(n2(h))
        )(a(n1(x))),
        "The plus sign at feed-forward is missing; "
        "its result is added to the stream.": lambda x, n1, a, n2, f: f(n2(x + a(n1(x)))),
        "There is one plus sign around both layers; each layer has its own.": lambda x, n1, a, n2, f: (
            x + f(n2(a(n1(x))))
        ),
        "Feed-forward comes before attention; attention is first.": [
            lambda x, n1, a, n2, f: block(x, n2, f, n1, a),
            lambda x, n1, a, n2, f: block(x, n1, f, n2, a),
        ],
        "There is no norm in front of attention.": with_parts(lambda n1, a, n2, f: (same_stream, a, n2, f)),
        "There is no norm in front of feed-forward.": with_parts(
            lambda n1, a, n2, f: (n1, a, same_stream, f)
        ),
        "There are no norms at all.": with_parts(lambda n1, a, n2, f: (same_stream, a, same_stream, f)),
        "The norms are applied to what the layers give; "
        "apply each to what goes into its layer.": lambda x, n1, a, n2, f: (lambda h: h + n2(f(h)))(
            x + n1(a(x))
        ),
        "x is added a second time at the end.": lambda x, *parts: x + block(x, *parts),
        "The stream is normalised once more at the end; the last norm of the model stands outside the "
        "block.": (lambda x, n1, a, n2, f: n2(block(x, n1, a, n2, f))),
        "The feed-forward half is missing.": lambda x, n1, a, n2, f: x + a(n1(x)),
    },
    signs={
        "The result is right, but not every part is called exactly once. What you need twice, keep under a "
        "name.": (lambda case, got, expected: case[-1] == "number of calls"),
        CUT_OFF: output_right_gradient_wrong,
        "In the example of the text attention adds 6, the stream is then 10, and feed-forward adds 81. "
        "Which of these numbers does your code make?": (lambda case, got, expected: str(case[1]) == "halve"),
    },
    errors=NUMPY,
)

# ---------------------------------------------------------------- 4.7: how many parameters


def gpt_parameters(
    vocab_size, context_length, d_model, n_layers, n_heads, n_kv_heads, d_ff, bias, tie_weights
):
    sizes = dict(n_heads=n_heads, n_layers=n_layers, n_kv_heads=n_kv_heads, d_ff=d_ff)
    config = GPTConfig(vocab_size, context_length, d_model, **sizes, bias=bias, tie_weights=tie_weights)
    return sum(parameter_formula(config).values())


def run_count(
    answer, vocab_size, context_length, d_model, n_layers, n_heads, n_kv_heads, d_ff, bias, tie_weights
):
    sizes = (vocab_size, context_length, d_model, n_layers, n_heads, n_kv_heads, d_ff)
    count = answer(*sizes, bias, tie_weights)
    return operator.index(count) if isinstance(count, float) else count


def blocks_without(*parts):
    """A count in which these parts of the blocks are there once, and not in each block."""

    def difference(c):
        sizes = {
            "attention": 2 * (c.D + c.bias) * (c.D + c.kv),
            "feed-forward": 2 * c.D * c.d_ff + c.bias * (c.D + c.d_ff),
            "norms": 2 * c.D * (1 + c.bias),
        }
        return -(c.n_layers - 1) * sum(sizes[part] for part in parts)

    return more_by(difference)


NAMES = ("V", "context", "D", "n_layers", "n_heads", "kv_heads", "d_ff", "bias", "tied")


def more_by(difference):
    """The right count and difference(c), where c has the NAMES, and kv, the width of the keys."""

    def wrong(*case):
        c = SimpleNamespace(**dict(zip(NAMES, case, strict=True)))
        c.kv = c.kv_heads * c.D // c.n_heads
        return gpt_parameters(*case) + difference(c)

    return wrong


def with_arguments(**changes):
    """The right count of other sizes: {argument: function of all of them}."""

    def wrong(*case):
        arguments = dict(zip(NAMES, case, strict=True))
        return gpt_parameters(*(arguments | {name: f(arguments) for name, f in changes.items()}).values())

    return wrong


def small_sizes(*, kv_heads=4, bias=False, tied=True):
    return (10, 9, 8, 11, 4, kv_heads, 20, bias, tied)


def a_block_more_or_less(case, got, expected):
    """Whether the difference divides by the number of layers and by no coincidence."""
    return got != expected and (got - expected) % case[3] == 0


def drawn_sizes(draw, bias, tied):
    heads, kv_heads, width = draw.choice([(4, 2), (6, 3), (6, 2)])[:2] + (draw.whole(3, 9),)
    return (
        draw.whole(50, 99),
        draw.whole(20, 40),
        heads * width,
        11,
        heads,
        kv_heads,
        draw.whole(41, 99),
        bias,
        tied,
    )


GPT_PARAMETERS = Exercise(
    right=gpt_parameters,
    run=run_count,
    cases=lambda draw: [
        small_sizes(),
        small_sizes(tied=False),
        small_sizes(kv_heads=2),
        small_sizes(bias=True),
        small_sizes(kv_heads=1, bias=True, tied=False),
        drawn_sizes(draw, False, True),
        drawn_sizes(draw, True, False),
        (50257, 1024, 768, 12, 12, 12, 3072, True, True),
    ],
    mistakes={
        "A tied matrix is counted twice; it is one matrix, under two names.": with_arguments(
            tied=lambda c: False
        ),
        "An untied output layer has a matrix of its own, and it is not counted.": with_arguments(
            tied=lambda c: True
        ),
        "tie_weights is read the wrong way round: the matrix counts twice where it is True.": with_arguments(
            tied=lambda c: not c["tied"]
        ),
        "Keys and values are counted as wide as the "
        "queries; they have only n_kv_heads heads.": with_arguments(kv_heads=lambda c: c["n_heads"]),
        "Only one of keys and values is counted with the width of n_kv_heads heads; both are that "
        "narrow.": more_by(lambda c: c.n_layers * (c.D - c.kv) * (c.D + c.bias)),
        "The matrices of queries and outputs are counted as narrow as keys and values; they are D times D.": [
            more_by(lambda c: -2 * c.n_layers * c.D * (c.D - c.kv)),
            more_by(lambda c: -2 * c.n_layers * (c.D + c.bias) * (c.D - c.kv)),
        ],
        "Biases are not counted.": with_arguments(bias=lambda c: False),
        "Biases are counted where bias is False.": with_arguments(bias=lambda c: True),
        "The biases of the norms are not counted.": more_by(lambda c: -c.bias * c.D * (2 * c.n_layers + 1)),
        "The biases of the norms are counted where bias is False.": more_by(
            lambda c: (not c.bias) * c.D * (2 * c.n_layers + 1)
        ),
        "The biases of attention are not counted.": more_by(
            lambda c: -c.bias * c.n_layers * 2 * (c.D + c.kv)
        ),
        "The biases of the feed-forward layer are not counted.": more_by(
            lambda c: -c.bias * c.n_layers * (c.D + c.d_ff)
        ),
        "The biases of keys and values are counted with d_model numbers; with fewer heads they are "
        "narrower too.": more_by(lambda c: c.bias * c.n_layers * 2 * (c.D - c.kv)),
        "The feed-forward layer is given two biases of one width; the first has d_ff numbers, the "
        "second d_model.": [
            more_by(lambda c: c.bias * c.n_layers * (c.D - c.d_ff)),
            more_by(lambda c: c.bias * c.n_layers * (c.d_ff - c.D)),
        ],
        "The output layer is given a bias; it has none.": [
            more_by(lambda c: c.V),
            more_by(lambda c: c.bias * c.V),
            more_by(lambda c: c.bias * (not c.tied) * c.V),
        ],
        "The norm after the last block is missing.": [
            more_by(lambda c: -c.D * (1 + c.bias)),
        ],
        "Each block has two norms; one is counted.": more_by(lambda c: -c.n_layers * c.D * (1 + c.bias)),
        "The norms are not counted: each has d_model weights, and with bias as many biases.": [
            more_by(lambda c: -(2 * c.n_layers + 1) * c.D * (1 + c.bias)),
            more_by(lambda c: -2 * c.n_layers * c.D * (1 + c.bias)),
        ],
        "The last norm is counted once for each block; there is one in the model.": more_by(
            lambda c: (c.n_layers - 1) * c.D * (1 + c.bias)
        ),
        "A part of the blocks is counted once; each of the n_layers blocks has its own.": [
            blocks_without("norms"),
            blocks_without("feed-forward"),
            blocks_without("attention"),
            blocks_without("feed-forward", "norms"),
            blocks_without("attention", "norms"),
            blocks_without("attention", "feed-forward"),
        ],
        "A row of the embedding or of the table of positions counts as one number; it has d_model.": [
            more_by(lambda c: -c.context * (c.D - 1)),
            more_by(lambda c: -c.V * (c.D - 1)),
            more_by(lambda c: -(c.context + c.V) * (c.D - 1)),
        ],
        "The table of positions is not counted.": more_by(lambda c: -c.context * c.D),
        "The token embedding is not counted.": more_by(lambda c: -c.V * c.D),
        "One block is counted; there are n_layers.": with_arguments(n_layers=lambda c: 1),
        "The output projection of attention is missing: queries, keys, values and output make four "
        "matrices.": [
            more_by(lambda c: -c.n_layers * c.D * c.D),
            more_by(lambda c: -c.n_layers * c.D * (c.D + c.bias)),
        ],
        "One of the two matrices of the feed-forward layer is missing.": [
            more_by(lambda c: -c.n_layers * c.D * c.d_ff),
            more_by(lambda c: -c.n_layers * (c.D * c.d_ff + c.bias * c.D)),
            more_by(lambda c: -c.n_layers * (c.D * c.d_ff + c.bias * c.d_ff)),
        ],
        "The feed-forward layer has three matrices here, as SwiGLU has; GPT-2's has two.": [
            more_by(lambda c: c.n_layers * c.D * c.d_ff),
            more_by(lambda c: c.n_layers * (c.D + c.bias) * c.d_ff),
        ],
        "The feed-forward layer is counted with a width of 4 d_model; its width is d_ff.": with_arguments(
            d_ff=lambda c: 4 * c["D"]
        ),
        "The matrices of attention are counted once for each head; the matrix of all heads together is "
        "D times D.": [
            more_by(lambda c: c.n_layers * (c.n_heads - 1) * 2 * c.D * (c.D + c.kv)),
            more_by(lambda c: c.n_layers * (c.n_heads - 1) * 2 * (c.D + c.bias) * (c.D + c.kv)),
        ],
    },
    signs={
        "Without biases all is right. With them the difference divides by n_layers: a layer inside the "
        "blocks has too many biases, or too few.": lambda case, got, expected: (
            case[7] and a_block_more_or_less(case, got, expected)
        ),
        "Without biases all is right. Ask of every linear layer and norm, inside and outside the blocks, how "
        "many numbers it gives.": lambda case, got, expected: case[7],
        "What is missing or too much is in the blocks: "
        "the difference divides by n_layers.": a_block_more_or_less,
        "Something outside the blocks is not right (the embedding, the positions, the last norm or the "
        "output layer), and perhaps something inside them too.": (
            lambda case, got, expected: isinstance(got, int) and got != expected
        ),
    },
    errors={
        "The count is a float, and an int is asked for: divide with // and it stays whole.": (
            lambda case, error: "interpreted as an integer" in str(error)
        )
    },
    tolerance=1e-9,
)

# ---------------------------------------------------------------- 4.8: the first loss


def first_loss(vocab_size, d_model, weight_std):
    size = torch.tensor(d_model**0.5 * weight_std, dtype=torch.float64)  # of the logits
    factor = torch.distributions.LogNormal(torch.zeros_like(size), size).mean  # of e to the power of a logit
    return -math.log(1 / vocab_size) + float(factor.log())


def weight_std(above, d_model):
    return math.sqrt(2 * above / d_model)


def run_first_loss(answers, function, arguments):
    return answers[("first_loss", "weight_std").index(function)](*arguments)


def both(loss=first_loss, std=weight_std):
    return (loss, std)


FIRST_LOSS = Exercise(
    right=(first_loss, weight_std),
    run=run_first_loss,
    tolerance=1e-5,
    cases=lambda draw: [
        ("first_loss", (2, 4, 0.5)),
        ("first_loss", (1000, 64, 0.06)),
        ("first_loss", (256, 4, 1.0)),
        ("first_loss", (draw.whole(100, 60000), draw.whole(20, 900), draw.real(0.02, 0.08))),
        ("first_loss", (draw.whole(100, 60000), draw.whole(20, 90), draw.real(0.1, 0.2))),
        ("weight_std", (0.5, 4)),
        ("weight_std", (0.2, 128)),
        ("weight_std", (draw.real(0.1, 0.9), draw.whole(20, 900))),
        ("weight_std", (draw.real(2, 3), draw.whole(2, 9))),
    ],
    mistakes={
        "The logarithm has the base 2; a loss in nats is the natural logarithm.": both(
            lambda V, D, s: math.log2(V) + D * s * s / 2
        ),
        "The logarithm has the base 10; a loss in nats is the natural logarithm.": both(
            lambda V, D, s: math.log10(V) + D * s * s / 2
        ),
        "first_loss gives ln V alone; the size of the logits is not in it.": both(
            lambda V, D, s: math.log(V)
        ),
        "The variance of the logits is added in full; half of it is what counts.": both(
            lambda V, D, s: math.log(V) + D * s * s
        ),
        "weight_std is not squared in first_loss; the variance of a logit is D times s squared.": both(
            lambda V, D, s: math.log(V) + D * s / 2
        ),
        "d_model is missing in first_loss: a logit is the sum of D products, so its variance has the "
        "factor D.": both(lambda V, D, s: math.log(V) + s * s / 2),
        "In first_loss D is squared with s; the variance is D times s squared.": both(
            lambda V, D, s: math.log(V) + (D * s) ** 2 / 2
        ),
        "Half of the variance is subtracted; larger logits make the loss higher.": both(
            lambda V, D, s: math.log(V) - D * s * s / 2
        ),
        "first_loss has the wrong sign in front of ln V: minus the logarithm of 1 / V is plus ln V.": both(
            lambda V, D, s: math.log(1 / V) + D * s * s / 2
        ),
        "first_loss uses the standard deviation of the logits; half of their variance is added.": both(
            lambda V, D, s: math.log(V) + math.sqrt(D) * s / 2
        ),
        "weight_std gives the variance s squared; take its root.": both(std=lambda a, D: 2 * a / D),
        "The factor 2 is missing in weight_std: above is half of the variance.": both(
            std=lambda a, D: math.sqrt(a / D)
        ),
        "The factor 2 is on the wrong side in weight_std: twice above is D times s squared.": both(
            std=lambda a, D: math.sqrt(a / (2 * D))
        ),
        "d_model is missing in weight_std: the wider the model, the smaller its weights.": both(
            std=lambda a, D: math.sqrt(2 * a)
        ),
        "In weight_std the root is taken before dividing by d_model; divide inside the root.": both(
            std=lambda a, D: math.sqrt(2 * a) / D
        ),
        "weight_std gives the default of the course whatever above is.": both(
            std=lambda a, D: math.sqrt(2 / (5 * D))
        ),
        "In weight_std d_model multiplies; divide by it.": both(std=lambda a, D: math.sqrt(2 * a * D)),
    },
    signs={
        "No weights make an untrained model better than equal "
        "shares: the first loss is at least ln V.": lambda case, got, expected: (
            case[0] == "first_loss" and float(got) < math.log(case[1][0]) - 1e-3
        ),
        "A standard deviation is not negative.": lambda case, got, expected: (
            case[0] == "weight_std" and float(got) < 0
        ),
        "With this standard deviation first_loss does not "
        "come out `above` nats higher than ln V.": lambda case, got, expected: case[0] == "weight_std",
        "Of the two parts of first_loss, ln V and half of the variance of the logits, at least one is "
        "not right.": (lambda case, got, expected: case[0] == "first_loss"),
    },
)

# ---------------------------------------------------------------- 4.9: how large weights start


class Recorder:
    """Stands for a matrix and remembers with which standard deviation it is drawn."""

    def dim(self):
        return 2

    def normal_(self, std):
        self.std = std


def initial_std(name, d_model, n_layers):
    matrix, config = Recorder(), GPTConfig(1, 1, d_model, n_heads=1, n_layers=n_layers)
    initialise(SimpleNamespace(config=config, named_parameters=lambda: [(name, matrix)]))
    return matrix.std


def std_where(is_scaled, factor=lambda n_layers: math.sqrt(2 * n_layers)):
    """Scaled by another factor, or where is_scaled(name)."""
    return lambda name, d_model, n_layers: (
        math.sqrt(2 / (5 * d_model)) / (factor(n_layers) if is_scaled(name) else 1)
    )


def writes(name):
    return "out_proj" in name or "down_proj" in name


def in_blocks(those):
    """Scaled as it should be, but only in the blocks whose number is one of those."""
    return std_where(lambda name: writes(name) and those(int(name.split(".")[1])))


def by_place(name, d_model, n_layers):
    """Scaled by the number of the block in its name."""
    number = int(name.split(".")[1]) + 1 if name.startswith("blocks") else 1
    return math.sqrt(2 / (5 * d_model)) / (math.sqrt(2 * number) if writes(name) else 1)


def initial_std_cases(draw):
    D, n_layers = 10 * draw.whole(2, 90), draw.whole(3, 40)
    block = f"blocks.{draw.whole(1, n_layers - 2)}."
    names = ["embedding.token.weight", "embedding.position.weight", "lm_head.weight"]
    names += [block + f"attention.{name}_proj.weight" for name in ("q", "k", "v", "out")]
    names += [block + f"feed_forward.{name}_proj.weight" for name in ("gate", "up", "down")]
    return [
        ("blocks.0.attention.q_proj.weight", 10, 8),
        ("blocks.0.attention.out_proj.weight", 10, 8),
        ("blocks.0.feed_forward.down_proj.weight", 10, 8),
        ("blocks.0.feed_forward.up_proj.weight", 10, 8),
        ("embedding.token.weight", 10, 8),
        ("lm_head.weight", 10, 8),
        ("blocks.3.attention.out_proj.weight", 10, 8),
        ("blocks.11.attention.out_proj.weight", 10, 12),
        ("blocks.10.feed_forward.down_proj.weight", 10, 12),
        *((name, D, n_layers) for name in names),
    ]


INITIAL_STD = Exercise(
    right=initial_std,
    tolerance=1e-5,
    cases=initial_std_cases,
    mistakes={
        "The factor is the root of n_layers; each block adds "
        "twice, so there are 2 n_layers additions.": std_where(writes, lambda n_layers: math.sqrt(n_layers)),
        "It divides by 2 n_layers itself; the standard deviation of a sum grows with the root, so "
        "divide by the root.": std_where(writes, lambda n_layers: 2 * n_layers),
        "The 2 stands outside the root; the factor is the root of 2 n_layers.": std_where(
            writes, lambda n_layers: 2 * math.sqrt(n_layers)
        ),
        "The matrices that write into the stream start larger; they should start smaller.": std_where(
            writes, lambda n_layers: 1 / math.sqrt(2 * n_layers)
        ),
        "Nothing is scaled; the matrices that write into the stream start smaller. Mind that each name ends "
        "in .weight.": std_where(lambda name: False),
        "The scale is there in some blocks only; all blocks have it, also those with a number of two "
        "digits.": [
            in_blocks(lambda number: number == 3),
            in_blocks(lambda number: number == 0),
            in_blocks(lambda number: number > 0),
            in_blocks(lambda number: number < 10),
        ],
        "Every matrix is scaled; only those that write into the stream are.": std_where(lambda name: True),
        "All matrices of the blocks are scaled; only the two that write into the stream are.": [
            std_where(lambda name: name.startswith("blocks")),
            std_where(lambda name: "proj" in name),
        ],
        "The second matrix of the feed-forward layer is not "
        "scaled; it too writes into the stream.": std_where(lambda name: "out_proj" in name),
        "The output of attention is not scaled; it too writes into the stream.": std_where(
            lambda name: "down_proj" in name
        ),
        "The output layer is scaled; it reads the stream, after the last block.": std_where(
            lambda name: writes(name) or "lm_head" in name
        ),
        "The embedding is scaled; it is the beginning of the stream.": std_where(
            lambda name: writes(name) or "embedding" in name
        ),
        "Queries, keys or values are scaled; they are not added to the stream, and out_proj writes into "
        "it.": [
            std_where(
                lambda name, letters=letters: (
                    writes(name) or name.split(".")[-2][0] in letters and "_proj" in name
                )
            )
            for letters in ("q", "k", "v", "qk", "qkv")
        ],
        "up_proj or gate_proj is scaled; they make the wide vector, and down_proj writes into the stream.": [
            std_where(lambda name: writes(name) or "gate_proj" in name),
            std_where(lambda name: writes(name) or "gate_proj" in name or "up_proj" in name),
            std_where(lambda name: "out_proj" in name or "up_proj" in name),
            std_where(lambda name: writes(name) or "up_proj" in name),
        ],
        "The factor follows the number of the block; it is the same in every block.": by_place,
        "This is the variance; take its root.": [
            lambda name, D, n: initial_std(name, D, n) ** 2,
            lambda name, D, n: initial_std(name, D, n) * math.sqrt(2 / (5 * D)),
        ],
        "It starts from 0.02; start from the root of 2 / (5 "
        "d_model), which gets smaller with width.": lambda name, D, n: (
            0.02 / (math.sqrt(2 * n) if writes(name) else 1)
        ),
        "It starts from the root of 2 / 5, times d_model or without it; d_model divides, inside the root.": [
            lambda name, D, n: math.sqrt(2 / 5 * D) / (math.sqrt(2 * n) if writes(name) else 1),
            lambda name, D, n: math.sqrt(2 / 5) / (math.sqrt(2 * n) if writes(name) else 1),
            lambda name, D, n: math.sqrt(2 / 5) / D / (math.sqrt(2 * n) if writes(name) else 1),
        ],
    },
    signs={
        "A standard deviation is positive.": lambda case, got, expected: got <= 0,
        "This matrix writes into the stream; its default is right, and what it is divided by should be "
        "the root of 2 n_layers.": (lambda case, got, expected: writes(case[0])),
        "This matrix is to start with the default, unscaled: the root of 2 / (5 d_model).": (
            lambda case, got, expected: not writes(case[0])
        ),
    },
)

# ---------------------------------------------------------------- 4.10: tied weights


class TiedModel(nn.Module):
    """What the exercise asks for, and, by its settings, what it does not."""

    def __init__(self, vocab_size, d_model, tie="object", cut="", normed="vectors", after=None):
        super().__init__()
        self.token, self.norm = nn.Embedding(vocab_size, d_model), nn.LayerNorm(d_model)
        self.cut, self.normed, self.after = cut, normed, after
        self.lm_head = nn.Linear(d_model, vocab_size, bias=tie == "bias")
        if tie == "memory":
            self.lm_head.weight.data = self.token.weight.data
        elif tie == "unused":
            self.unused = nn.Parameter(torch.zeros(vocab_size, d_model))
        if tie not in ("copy", "memory"):
            self.lm_head.weight = self.token.weight

    def forward(self, token_ids):
        x = F.embedding(token_ids, self.token.weight.detach() if self.cut == "input" else self.token.weight)
        weight = self.lm_head.weight.detach() if self.cut == "output" else self.lm_head.weight
        x = self.norm(x) if self.normed == "vectors" else x
        weight = self.norm(weight) if self.normed == "rows" else weight
        logits = F.linear(x, weight, self.lm_head.bias)
        return self.after(logits) if self.after else logits


def tied_with(**settings):
    """A class whose models have these settings of TiedModel."""

    class Mistaken(TiedModel):
        def __init__(self, vocab_size, d_model):
            super().__init__(vocab_size, d_model, **settings)

    return Mistaken


class TiesInForward(TiedModel):
    def __init__(self, vocab_size, d_model):
        super().__init__(vocab_size, d_model, tie="copy")

    def forward(self, token_ids):
        self.lm_head.weight = self.token.weight
        return super().forward(token_ids)


class ClonesEarly(nn.Module):
    """Its output layer has the numbers with which the embedding starts."""

    def __init__(self, vocab_size, d_model):
        super().__init__()
        self.token, self.norm = nn.Embedding(vocab_size, d_model), nn.LayerNorm(d_model)
        self.matrix = self.token.weight.clone()

    def forward(self, token_ids):
        return F.linear(self.norm(self.token(token_ids)), self.matrix)


class ClonesAndCuts(ClonesEarly):
    def forward(self, token_ids):
        return F.linear(self.norm(self.token(token_ids)), self.matrix.detach())


def run_tied(answer, weight, token_ids, targets, compared):
    with torch.random.fork_rng(devices=[]):  # a copy of the first numbers is then alike in every answer
        torch.default_generator.manual_seed(0)
        model = answer(*weight.shape).to(weight.device)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.shape == weight.shape:
                parameter.copy_(weight)
            elif parameter.dim() == 1 and parameter is not model.norm.weight:
                parameter.zero_()
    if compared == "number of parameters":
        before = sum(parameter.numel() for parameter in model.parameters())
        model(token_ids)
        after = sum(parameter.numel() for parameter in model.parameters())
        return {"in the new model": before, "after a call": after}
    logits = model(token_ids)
    if compared == "logits":
        return logits
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = [None] * len(parameters)
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    found = [g for p, g in zip(parameters, gradients) if p is model.token.weight]
    if compared == "gradient at the embedding":
        return torch.zeros_like(weight) if not found or found[0] is None else found[0]
    with torch.no_grad():  # a step of training
        for parameter, gradient in zip(parameters, gradients):
            if gradient is not None:
                parameter.sub_(0.5 * gradient)
        return model(token_ids)


TIED = Exercise(
    right=tied_with(),
    run=run_tied,
    cases=lambda draw: (
        [
            (
                torch.tensor([[1.0, 2.0, 6.0], [0.0, 3.0, 2.0]]),
                torch.tensor([[0]]),
                torch.tensor([[1]]),
                compared,
            )
            for compared in (
                "logits",
                "number of parameters",
                "gradient at the embedding",
                "logits after a step",
            )
        ]
        + [
            (draw.normal(7, 5), draw.ids(7, 2, 3), draw.ids(7, 2, 3), compared)
            for compared in (
                "logits",
                "number of parameters",
                "gradient at the embedding",
                "logits after a step",
            )
        ]
    ),
    mistakes={
        "The output layer has a matrix of its own, perhaps a copy. It should be the embedding's "
        "parameter, the same object.": [tied_with(tie="copy"), ClonesEarly, ClonesAndCuts],
        "The two matrices become one only when forward is called; who lists the parameters before gets "
        "both. Tie them in __init__.": TiesInForward,
        "The two matrices share their numbers, but they are two parameters: each has its own gradient, "
        "and both are listed. Make them one object.": (tied_with(tie="memory")),
        "There is a matrix that is learned and not used, besides the one that is used twice; leave it "
        "out.": tied_with(tie="unused"),
        "No gradient comes from the output layer: the matrix is cut off from it there.": tied_with(
            cut="output"
        ),
        "No gradient comes from the embedding: the matrix is cut off from it there.": tied_with(cut="input"),
        "The norm before the output layer is left out.": tied_with(normed=""),
        "The rows of the embedding are normalised, and the vectors are not; the norm is for the vectors "
        "before the output layer.": tied_with(normed="rows"),
        "The output layer has a bias; a logit is a dot product and nothing more.": tied_with(tie="bias"),
        "The result is shares; logits are wanted, before the softmax.": tied_with(
            after=lambda logits: logits.softmax(-1)
        ),
        "The result is logarithms of shares; logits are wanted, before the softmax.": tied_with(
            after=lambda logits: logits.log_softmax(-1)
        ),
        "The logits are those of the last token alone; every position has its own.": tied_with(
            after=lambda logits: logits[:, -1]
        ),
    },
    signs={
        "model.parameters() lists more than the matrix and the "
        "norm; nothing else should be learned.": lambda case, got, expected: (
            case[-1] == "number of parameters" and max(got.values()) > max(expected.values())
        ),
        "model.parameters() lists less than the matrix and the norm.": lambda case, got, expected: (
            case[-1] == "number of parameters" and min(got.values()) < min(expected.values())
        ),
        "No gradient arrives at the embedding: the logits are cut off from it (detach, numpy, no_grad), or "
        "its requires_grad is off.": lambda case, got, expected: (
            case[-1] == "gradient at the embedding" and not got.any()
        ),
        "The logits are right, but the gradient at the embedding is not the sum of what comes from both "
        "uses.": (lambda case, got, expected: case[-1] == "gradient at the embedding"),
        "Before training the logits are right, and after one step they are not: something learned is "
        "used in another way than it should be.": (
            lambda case, got, expected: case[-1] == "logits after a step"
        ),
        "These are not the dot products of the normalised vectors with the rows of the embedding.": (
            lambda case, got, expected: case[-1] == "logits"
        ),
    },
)

check = checker(
    {
        "4.1": LAYER_NORM,
        "4.2": LAYER_NORM_BACKWARD,
        "4.3": RMS_NORM,
        "4.4": GELU,
        "4.5": SWIGLU,
        "4.6": BLOCK,
        "4.7": GPT_PARAMETERS,
        "4.8": FIRST_LOSS,
        "4.9": INITIAL_STD,
        "4.10": TIED,
    }
)
