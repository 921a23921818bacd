"""Appendix A: what a tensor is and where its numbers lie, broadcasting, entropy, and a self-test."""

# Written by `make export` from a_foundations.ipynb; change it there.

import torch
import torch.nn.functional as F
from torch import nn

__all__ = [
    "right_answers",
    "agrees",
    "which_to_read",
    "reading_list",
    "strides_of",
    "describe",
    "broadcast_shape",
    "entropy",
    "cross_entropy_of",
    "kl_divergence",
]

# %% a_foundations.ipynb #12b81bc6
def right_answers():
    """{section: {question: answer}} of the self-test, found by running what it asks."""
    x, w = torch.arange(12).view(3, 4), torch.tensor([1.0, 3.0], requires_grad=True)
    found = {"Tensors": {"element": x[1, 2], "reduced": x[:, 1:3].sum(dim=0, keepdim=True).shape}}
    y = x.T
    y[0, 1] = 100
    found["Memory"] = {"strides": y.stride(), "shared": x[1, 0]}
    stretched, outer = torch.ones(8, 1, 5) + torch.ones(3, 1), torch.ones(5) - torch.ones(5, 1)
    found["Broadcasting"] = {"stretched": stretched.shape, "outer": outer.shape}
    product = torch.tensor([[1, 2], [3, 4]]) @ torch.tensor([10, 1])
    found["Matrices"] = {"product": product, "weight": nn.Linear(3, 5).weight.shape}
    p = torch.tensor([1 / 2, 1 / 4, 1 / 4])
    perplexity = F.cross_entropy(torch.zeros(1, 8), torch.tensor([0])).exp()
    found["Probability"] = {"entropy": -(p * p.log2()).sum(), "perplexity": perplexity}
    ((2 * w[0] + 1) ** 2 + 2 * w[1] ** 2).backward()
    found["Derivatives"] = {"chain": w.grad[0], "twice": w.grad[1]}
    found["Modules and optimizers"] = {"step": w.detach()[0] - 0.1 * 0.5}
    kinds = [torch.float16, torch.bfloat16]
    overflow = [kind for kind in kinds if torch.tensor(70_000.0).to(kind).isinf()]
    found["Kinds of numbers"] = {"overflow": str(overflow[0]).removeprefix("torch.")}
    return found

# %% a_foundations.ipynb #d1fa450f
def agrees(given, right):
    """Whether an answer of the self-test is right: a word, or numbers to two digits after the point."""
    if given is None or isinstance(right, str):
        return given is not None and str(given).strip().lower().removeprefix("torch.") == right
    try:
        given, right = (torch.as_tensor(a, dtype=torch.float64).flatten() for a in (given, right))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return given.shape == right.shape and torch.allclose(given, right, rtol=0, atol=0.005)


def which_to_read(answers):
    """The sections of appendix A with a question that is not answered rightly: a list of their headings.

    answers: {question: answer}, None where there is none. Raises ValueError for a question that the
    self-test does not have.
    """
    sections = right_answers()
    unknown = sorted(set(answers) - {question for asked in sections.values() for question in asked})
    if unknown:
        raise ValueError(f"the self-test has no question {unknown[0]!r}; keep the names that its cells give")
    return [
        section
        for section, asked in sections.items()
        if not all(agrees(answers.get(question), right) for question, right in asked.items())
    ]


def reading_list(answers):
    """What to read and what to skip in appendix A, as Markdown with links."""
    to_read = which_to_read(answers)
    lines = [f"* [{section}](#{section.replace(' ', '-')})" for section in to_read]
    skipped = [section for section in right_answers() if section not in to_read]
    heading = "Read these sections:" if to_read else "Nothing to read here. Go to chapter 1."
    return "\n".join([heading, "", *lines, "", f"Skip: {', '.join(skipped) or 'none'}."])

# %% a_foundations.ipynb #15c2d37b
def strides_of(shape):
    """The strides of a contiguous tensor of this shape, counted in numbers: a tuple as long as shape."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)  # PyTorch counts an empty dimension like one of size 1
    return tuple(strides)


def describe(tensor):
    """One line on a tensor: shape, stride, dtype, device, whether it is contiguous, bytes of its numbers.

    Of numbers that several indices share, as after expand, the bytes count each one.
    """
    order = "contiguous" if tensor.is_contiguous() else "not contiguous"
    kind = str(tensor.dtype).removeprefix("torch.")
    place = f"{kind} on {tensor.device}, {order}, {tensor.nbytes:,} bytes"
    return f"{tuple(tensor.shape)} stride {tensor.stride()} {place}"

# %% a_foundations.ipynb #c636c728
def broadcast_shape(a, b):
    """The shape that two shapes broadcast to, a tuple. Raises ValueError where PyTorch refuses."""
    dimensions = max(len(a), len(b))
    a, b = ((1,) * (dimensions - len(shape)) + tuple(shape) for shape in (a, b))
    for first, second in zip(a, b):
        if first != second and 1 not in (first, second):
            raise ValueError(f"{a} and {b} do not broadcast: {first} meets {second}")
    return tuple(second if first == 1 else first for first, second in zip(a, b))

# %% a_foundations.ipynb #f6707754
def entropy(p):
    """The expected surprise of distributions p (..., V), in nats: (...). Shannon 1948, section 6.

    A probability of 0 counts nothing.
    """
    return -torch.xlogy(p, p).sum(dim=-1)  # xlogy(a, b): a log b, and 0 where a is 0


def cross_entropy_of(p, q):
    """The expected surprise, in nats, of who believes q while things happen by p: (..., V) -> (...).

    Infinite where something can happen that q gives 0.
    """
    return -torch.xlogy(p, q).sum(dim=-1)


def kl_divergence(p, q):
    """What believing q costs while things happen by p, in nats: cross-entropy less entropy.

    (..., V) -> (...); Kullback and Leibler 1951.
    """
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(dim=-1)
