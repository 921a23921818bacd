"""What the checks of the exercises are made of: they run an answer, compare it, and say what is wrong.

An `Exercise` has the right answer, cases to try it on, and the usual mistakes, each with its diagnosis. A
learner's answer that differs from the right one is compared with the mistakes: the one that gives the same
results in every case is named, with the smallest case that shows it.
"""

# Written by hand: checking answers teaches nothing about language models.

import contextlib
import copy
import functools
import inspect
import io
import linecache
import math
import numbers
import queue
import random
import re
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .pieces import digest_of_source

__all__ = ["Diagnosis", "Draw", "Exercise", "checker", "diagnose", "same"]

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
OURS = (str(ROOT / "ch0"), str(ROOT / "appendix"), *LIBRARIES, "<frozen")
RETURNS_NONE = "It returns None. Does every way through it end with a return?"
NOTHING_YET = (
    "Nothing is here to check: {} is not written yet. Put your code in place of raise NotImplementedError(), "
    "run that cell, then this one."
)


class Diagnosis(AssertionError):
    """A check that did not pass, and why. A notebook shows the words without a traceback."""

    def _render_traceback_(self):
        return str(self).splitlines()


class Draw:
    """Random inputs, other ones in every check, so that no list of constants passes."""

    def __init__(self, seed):
        self.random, self.generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def whole(self, low, high):
        """A whole number from low to high, both included."""
        return self.random.randint(low, high)

    def real(self, low, high):
        """A float between low and high."""
        return self.random.uniform(low, high)

    def choice(self, options):
        """One of the options."""
        return self.random.choice(options)

    def normal(self, *shape):
        """A float32 tensor of normally distributed numbers."""
        return torch.randn(*shape, generator=self.generator)

    def ids(self, below, *shape):
        """An int64 tensor of ids 0 .. below - 1."""
        return torch.randint(below, shape, generator=self.generator)


def call(answer, *case):
    """How most answers are run: a function, on the arguments of a case."""
    return answer(*case)


@dataclass(frozen=True)
class Exercise:
    """What a check needs to know about an exercise.

    right: the right answer. cases(draw): a list of tuples of arguments, the smallest first; the last ones are
    drawn. mistakes: {diagnosis: a wrong answer, or a list of several}. run(answer, *case): what is compared;
    most answers are just called. An exercise with several answers hands them over as a tuple. signs:
    {diagnosis: sign(case, got, expected)}, asked in order when an answer is wrong in a way that is none of
    the mistakes; a sign that fails on what it is given says no. errors: {diagnosis: sign(case, error)}, the
    same for an answer that stops with an error. refuses: the errors that the right answer
    raises in some cases. inputs_stay: whether an answer must leave its arguments as they are. steps: how many
    lines of an answer may run in one case, and endless asks what may be wrong when more do.
    """

    right: Callable | tuple
    cases: Callable
    mistakes: dict
    run: Callable = call
    signs: dict = field(default_factory=dict)
    errors: dict = field(default_factory=dict)
    tolerance: float = 1e-4
    refuses: tuple = ()
    inputs_stay: bool = True
    steps: int = 100_000
    endless: str = "Is there a loop whose condition never becomes false?"


@dataclass(frozen=True)
class Raised:
    """An outcome that is an error."""

    error: BaseException

    def __repr__(self):
        return f"{type(self.error).__name__}: {self.error}"[:300]


def checker(exercises):
    """{number: Exercise} -> the function that the notebooks call: check("3.4", answer)."""

    def check(number, *answers, seed=None):
        """Try an answer on drawn inputs; a Diagnosis (an AssertionError) says what is not right yet."""
        exercise = exercises[number]
        answer = answers if isinstance(exercise.right, tuple) else answers[0]
        words = apart(lambda park: diagnose(exercise, answer, seed, park))
        if words:
            raise Diagnosis(f"{number}: not yet. {words}")
        digests = ", ".join(sorted({cell_digest(each) for each in answers} - {""}))
        print(f"{number} passed." + f" ({digests})" * bool(digests))

    check.exercises = exercises
    return check


# ---------------------------------------------------------------- running what a learner wrote


def apart(work):
    """work(park) in a thread of its own; park(words) ends it with these words, wherever it is and for good.

    A loop without end cannot be left by an exception, since `except:` might catch it. Its thread is put to
    sleep instead.
    """
    results = queue.SimpleQueue()

    def park(words):
        results.put((words, None))
        sys.settrace(None)
        threading.Event().wait()

    def run():
        try:
            results.put((work(park), None))
        except BaseException as error:  # a fault of the check itself
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    words, error = results.get()
    if error:
        raise error
    return words


def outcome(run, answer, case, steps=None, park=None):
    """What run(answer, *case) returns, or Raised(error); the lines that a learner's code runs are counted.

    What it prints is not shown. Loops inside one call of a C function, such as list(itertools.count()), run
    no lines and are not counted.
    """
    left, before, screen, dtype = steps, sys.gettrace(), sys.stdout, torch.get_default_dtype()

    def count(frame, event, argument, lines=1):
        nonlocal left
        left -= lines
        if left < 0:
            put_back()
            park()
        return count

    def enter(frame, event, argument):
        if not frame.f_code.co_filename.startswith(OURS):
            return count(frame, event, argument)
        count(frame, event, argument, lines=0.01)  # what PyTorch calls within itself is not the learner's

    def put_back():
        sys.settrace(before)
        sys.stdout = screen
        torch.set_default_dtype(dtype)

    try:
        sys.stdout = Nowhere()
        if park:
            sys.settrace(enter)
        return run(answer, *case)
    except BaseException as error:
        return Raised(error)
    finally:
        put_back()


class Nowhere(io.TextIOBase):
    """Takes what is printed and keeps nothing."""

    def write(self, text):
        return len(text)


# ---------------------------------------------------------------- finding out what is wrong


def devices():
    """Where answers are tried: on the CPU, and on a GPU where there is one."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def diagnose(exercise, answer, seed=None, park=None):
    """What is not right yet about an answer, in words; None when nothing is."""
    if words := not_an_answer(exercise, answer):
        return words
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    for device in devices():
        if words := diagnose_on(device, exercise, answer, seed, park):
            return words if device == "cpu" else f"On the GPU (right on the CPU): {words}"


def not_an_answer(exercise, answer):
    """Words for an answer of another kind than the right one."""
    given, right = ((a if isinstance(a, tuple) else (a,)) for a in (answer, exercise.right))
    if len(given) != len(right):
        return f"The check takes {len(right)} of your definitions and got {len(given)}."
    for mine, wanted in zip(given, right):
        if callable(wanted) and not callable(mine):
            return f"Hand over the function itself, without calling it; this is {a_kind(mine)}."
        if inspect.isclass(wanted) and not inspect.isclass(mine):
            return f"This exercise asks for a class; this is {a_kind(mine)}."
    return None


class Trials:
    """The cases of one check, what the right answer makes of them and, once asked for, each mistake."""

    def __init__(self, exercise, device, seed):
        self.exercise = exercise
        self.cases = [to_device(case, device) for case in exercise.cases(Draw(seed))]

    def outcomes(self, answer):
        return [outcome(self.exercise.run, answer, copied(case)) for case in self.cases]

    @functools.cached_property
    def expected(self):
        results = self.outcomes(self.exercise.right)
        for result in results:
            if isinstance(result, Raised) and not isinstance(result.error, self.exercise.refuses):
                raise result.error  # a fault of the check
        return results

    @functools.cached_property
    def mistakes(self):
        """(diagnosis, what this wrong answer gives in each case), for every way to make every mistake."""
        ways = [(d, w if isinstance(w, list) else [w]) for d, w in self.exercise.mistakes.items()]
        return [(diagnosis, self.outcomes(wrong)) for diagnosis, several in ways for wrong in several]


def diagnose_on(device, exercise, answer, seed, park):
    trials = Trials(exercise, device, seed)
    cases, expected, got, first = trials.cases, trials.expected, [], None
    for case, right in zip(cases, expected):
        mine, shown = copied(case), described(exercise, case)
        endless = (
            f"It has not come to an end after {exercise.steps:,} steps. {exercise.endless}\n"
            f"    for       {shown}"
        )
        park_here = (lambda words=endless: park(words)) if park else None
        got.append(outcome(exercise.run, answer, mine, exercise.steps, park_here))
        if stub := open_stub(got[-1]):
            return NOTHING_YET.format(stub)
        changed = exercise.inputs_stay and not same(mine, case, 0)
        if first is None and (changed or not same(got[-1], right, exercise.tolerance)):
            first = len(got) - 1, changed
    if first is None:
        return None
    number, changed = first
    at = cases[number], got[number], expected[number]
    right_value = same(at[1], at[2], exercise.tolerance)
    wrong = [not same(mine, right, exercise.tolerance) for mine, right in zip(got, expected)]
    words = None if right_value else named_mistake(trials, got, wrong, number)
    if words is None and changed:
        words = "It changes its arguments. Whoever calls it still needs them: compute something new instead."
        return f"{words}\n    for       {described(exercise, at[0])}"
    words = (
        words
        or other_kind(got, expected, number, exercise.tolerance, at[0], exercise.errors)
        or seen_sign(exercise, *at)
    )
    words = words or pattern_of_all(got, expected) or difference(at[1], at[2], exercise.tolerance)
    return f"{words}\n{evidence(exercise, *at)}"


def named_mistake(trials, got, wrong_cases, number):
    """The diagnosis of the mistake that gives what the answer gave: in case `number`, and in the most others.

    Of the cases in which the answer is wrong it must explain more than half.
    """
    best, words = 0, None
    for diagnosis, results in trials.mistakes:
        alike = [same(result, mine, trials.exercise.tolerance) for result, mine in zip(results, got)]
        explained = sum(a for a, is_wrong in zip(alike, wrong_cases) if is_wrong)
        if (
            alike[number]
            and 2 * explained > sum(wrong_cases)
            and sum(alike) > best
            and sure(results, got, alike)
        ):
            best, words = sum(alike), diagnosis
    return words


def sure(results, got, alike):
    """Whether a likeness is more than an error of the same type.

    Two errors say little, unless they have the same words or a value is alike too.
    """
    pairs = [(result, mine) for result, mine, a in zip(results, got, alike) if a]
    values = [result for result, _ in pairs if not isinstance(result, Raised)]
    return bool(values) or all(repr(result) == repr(mine) for result, mine in pairs)


def seen_sign(exercise, case, got, expected):
    """The first diagnosis whose sign is there."""
    for words, sign in exercise.signs.items():
        with contextlib.suppress(Exception):
            if sign(case, got, expected):
                return words
    return None


def open_stub(result):
    """The name of the function that is still a stub and ended a call; "" for any other outcome."""
    error = result.error if isinstance(result, Raised) else None
    if not isinstance(error, NotImplementedError) or str(error):
        return ""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return "" if frame.f_code.co_filename.startswith(OURS) else frame.f_code.co_qualname


def common_error(error):
    """Words for errors whose own words do not help a beginner; None for all others."""
    if 'required "forward" function' in str(error):
        return (
            "The class has no method forward. Is its name spelled right, and is it indented into the class?"
        )
    if re.search(r"bitwise_xor|operand type.*\^", str(error)):
        return "In Python ^ is not a power: x to the power 2 is x ** 2."
    *_, (frame, _) = traceback.walk_tb(error.__traceback__) if error.__traceback__ else [(None, 0)]
    if frame and frame.f_code.co_filename.endswith(("checks.py", "rebuilding.py")):  # the check used a result
        if "NoneType" in str(error):
            return RETURNS_NONE
        if isinstance(error, TypeError | AttributeError | ValueError):
            return "What it returns is of another kind than the exercise asks for, and could not be used."
    return None


def other_kind(got, expected, number, tolerance, case=(), errors=None):
    """What can be said about a result that is not even of the right kind; None when it is."""
    mine, right = got[number], expected[number]
    if isinstance(mine, Raised):
        for words, sign in (errors or {}).items():
            with contextlib.suppress(Exception):
                if sign(case, mine.error):
                    return f"{words}\n    error     {mine}{line_of(mine.error)}"
        if words := common_error(mine.error):
            return f"{words}\n    error     {mine}{line_of(mine.error)}"
        return f"It stops with an error: {mine}{line_of(mine.error)}"
    if isinstance(right, Raised):
        return f"It should refuse this with {with_article(type(right.error).__name__)}, and gives a result."
    if mine is None:
        return RETURNS_NONE
    if kind_of(mine) != kind_of(right):
        return difference(mine, right, tolerance)
    values = [each for each in got if not isinstance(each, Raised)]
    if len(values) > 2 and all(same(values[0], each, tolerance) for each in values[1:]):
        if not all(same(expected[0], each, tolerance) for each in expected[1:]):
            return "It gives the same result for every input. Does it use its arguments?"
    kinds = [
        (each.shape, each.dtype) if isinstance(each, torch.Tensor) else kind_of(each)
        for each in (mine, right)
    ]
    return None if kinds[0] == kinds[1] else difference(mine, right, tolerance)


def difference(mine, right, tolerance):
    """How a wrong value differs from the right one, in one sentence."""
    if isinstance(right, torch.Tensor) and isinstance(mine, torch.Tensor):
        return tensor_difference(mine, right, tolerance)
    if kind_of(mine) != kind_of(right):
        return f"Expected {a_kind(right)}, got {a_kind(mine)}."
    if isinstance(right, (list, tuple)) and not is_plain(right):
        if len(mine) != len(right):
            return f"Expected {len(right)} results, got {len(mine)}."
        for place, (m, r) in enumerate(zip(mine, right)):
            if not same(m, r, tolerance):
                return f"Result {place + 1} of {len(right)}: {difference(m, r, tolerance)}"
    if isinstance(right, dict):
        for key in right:
            if key not in mine:
                return f"Nothing under the key {key!r}."
            if not same(mine[key], right[key], tolerance):
                return f"{key}: {difference(mine[key], right[key], tolerance)}"
        extra = next(iter(mine.keys() - right.keys()))
        return f"The key {extra!r} should not be there."
    if isinstance(right, (int, float)) and not isinstance(right, bool):
        return tensor_difference(torch.tensor(float(mine)), torch.tensor(float(right)), tolerance)
    if hasattr(right, "__len__") and len(mine) != len(right):
        return f"The result should have {counted(len(right), 'entry', 'entries')} and has {len(mine)}."
    if isinstance(right, (list, tuple)):
        place = next(n for n, (m, r) in enumerate(zip(mine, right)) if not same(m, r, tolerance))
        return f"Entry {place} should be another one."
    return "The result is another one."


def tensor_difference(mine, right, tolerance):
    if mine.shape != right.shape:
        if mine.numel() == right.numel() and mine.dim() == 2 and same(mine.T, right, tolerance):
            return "Rows and columns have changed places."
        return f"Expected the shape {tuple(right.shape)}, got {tuple(mine.shape)}."
    if mine.device != right.device:
        places = f"The result is on {mine.device}, the input on {right.device}"
        return f"{places}; name the device of what it makes."
    if mine.dtype != right.dtype:
        return f"Expected the dtype {bare(right.dtype)}, got {bare(mine.dtype)}."
    if mine.dtype == torch.bool:
        if same(~mine, right, 0):
            return "True and False have changed places."
        return f"{int((mine != right).sum())} of {right.numel()} entries are wrong."
    a, b = mine.detach().double().cpu(), right.detach().double().cpu()
    if a.isnan().any() and not b.isnan().any():
        return "There are numbers that are not a number (NaN)."
    if a.isinf().any() and not b.isinf().any():
        return "There are infinite numbers."
    if words := pattern(a.flatten(), b.flatten()):
        return words
    if mine.dim() == 2 and mine.size(0) == mine.size(1) > 1 and same(a.T, b, tolerance):
        return "Rows and columns have changed places."
    if b.numel() > 1 and same(a.flatten().sort()[0], b.flatten().sort()[0], tolerance):
        return "The numbers are right, but not in the right places."
    if b.numel() == 1:
        return f"The result is too {'large' if float(a.flatten()[0]) > float(b.flatten()[0]) else 'small'}."
    n_wrong = int((~torch.isclose(a, b, rtol=tolerance, atol=tolerance)).sum())
    return f"{n_wrong} of {b.numel()} numbers {'is' if n_wrong == 1 else 'are'} wrong."


def pattern(a, b, every="Every number"):
    """Words for float64 numbers a that are those of b times a factor, or plus a summand; None for others."""
    if len(b.unique()) < 2 or not (a.isfinite().all() and b.isfinite().all()) or not b.any():
        return None
    if not a.any():
        return f"{every} is 0."
    there = b != 0
    if not a[~there].any() and len(b[there].unique()) > 1:
        ratios = a[there] / b[there]
        factor = float(ratios[0])
        if float((ratios - factor).abs().max()) < 1e-3 * abs(factor):
            if abs(factor + 1) < 1e-3:
                return f"{every} has the wrong sign."
            if abs(factor - 1) < 0.01:
                return f"{every} is nearly right. Is a constant rounded, or a number in too few bits?"
            return f"{every} is {factor:.4g} times what it should be."
    apart = a - b
    if float(apart.max() - apart.min()) < 1e-3 * float(apart.abs().max()):
        return f"{every} is too {'large' if float(apart[0]) > 0 else 'small'} by {abs(float(apart[0])):.4g}."
    return None


def pattern_of_all(got, expected):
    """The same for the results of all cases that are single numbers, or are tensors of one pattern."""
    pairs = [(number_of(a), number_of(b)) for a, b in zip(got, expected)]
    if all(a is not None and b is not None for a, b in pairs):
        return pattern(*torch.tensor(pairs, dtype=torch.float64).T, every="Every result")
    found = set()
    for a, b in zip(got, expected):
        if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape):
            return None
        if a.numel() > 1 and a.is_floating_point():
            found.add(pattern(a.detach().double().cpu().flatten(), b.detach().double().cpu().flatten()))
    return found.pop() if len(found) == 1 else None


def number_of(value):
    """A number, or a tensor of one, as a float; None for anything else."""
    if isinstance(value, torch.Tensor) and value.numel() == 1 and value.dtype != torch.bool:
        return float(value)
    return float(value) if kind_of(value) is float else None


def same(a, b, tolerance=1e-4):
    """Whether two outcomes are equal: of the same kinds, shapes and dtypes, numbers within the tolerance."""
    if isinstance(a, Raised) or isinstance(b, Raised):
        return isinstance(a, Raised) and isinstance(b, Raised) and isinstance(a.error, type(b.error))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
            return False
        if a.is_floating_point() and tolerance:
            return torch.allclose(a.detach(), b.detach(), rtol=tolerance, atol=tolerance, equal_nan=True)
        return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
    if kind_of(a) != kind_of(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key], tolerance) for key in a)
    if isinstance(a, float) or isinstance(b, float):
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) or (a != a and b != b)
    with contextlib.suppress(Exception):
        return bool(a == b) or (not_comparable(a) and type(a) is type(b))
    return False


def not_comparable(a):
    """Objects that are equal only to themselves: modules, generators, functions."""
    return type(a).__eq__ is object.__eq__


# ---------------------------------------------------------------- words


def kind_of(value):
    """Kinds that are told apart: whole numbers and floats are one."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):  # NumPy's too
        return float
    subclasses = (kind for kind in (dict, list, tuple, torch.Tensor) if isinstance(value, kind))
    return next(subclasses, type(value))


def a_kind(value):
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if value is None:
        return "None"
    if kind_of(value) is float:
        return "a number"
    name = type(value).__name__
    return with_article({"str": "string", "bytes": "bytes object"}.get(name, name))


def counted(n, one, many):
    return f"{n} {one if n == 1 else many}"


def with_article(name):
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def bare(dtype):
    return str(dtype).removeprefix("torch.")


def is_plain(value):
    """A list or tuple of what is shown best as a whole: numbers, strings, bytes."""
    return all(isinstance(each, (int, float, str, bytes, type(None))) for each in value)


def is_large(tensor):
    """Whether a tensor is better shown by its shape, and by the first place that differs."""
    return tensor.numel() > (40 if tensor.dim() < 3 else 12)


def shown(value):
    """A value in a few lines at most."""
    if isinstance(value, torch.Tensor):
        if is_large(value):
            return f"a tensor of shape {tuple(value.shape)}, {bare(value.dtype)}"
        digits = value.detach().cpu()
        digits = digits.double().round(decimals=4) if digits.is_floating_point() else digits
        text = str(digits.tolist()) if value.dim() else f"{digits.item():.6g}"
        return (
            text
            if value.dim() < 2
            else text.replace("], [", "],\n" + " " * 14 + "[")
            if value.dim() == 2
            else text
        )
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (tuple, list)) and any(isinstance(each, torch.Tensor) for each in value):
        return "(" + ", ".join(shown(each) for each in value) + ")"
    if isinstance(value, dict) and any(isinstance(each, torch.Tensor) for each in value.values()):
        text = "{" + ", ".join(f"{key}: {shown(each)}" for key, each in value.items()) + "}"
        return text if len(text) <= 300 else f"a dictionary with the keys {', '.join(map(str, value))}"
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:200]} ... ({len(text)} characters)"


def evidence(exercise, case, mine, right):
    """The case, what came and what should have come."""
    lines = [f"    for       {described(exercise, case)}"]
    where, mine, right = narrowed(mine, right, exercise.tolerance)
    lines += [f"    in        {where}"] * bool(where)
    place = first_difference(mine, right, exercise.tolerance)
    if place:
        lines += [
            f"    at        {list(place)}",
            f"    yours     {shown(mine[place])}",
            f"    expected  {shown(right[place])}",
        ]
    else:
        lines += [f"    yours     {shown(mine)}"] * (not isinstance(mine, Raised))
        lines += [f"    expected  {shown(right)}"]
    return "\n".join(lines)


def narrowed(mine, right, tolerance):
    """(where, mine, right): of a dictionary, or of several tensors, the first part that differs."""
    if isinstance(mine, dict) and isinstance(right, dict) and mine.keys() == right.keys():
        parts = [(str(key), mine[key], right[key]) for key in right]
    elif isinstance(mine, (list, tuple)) and isinstance(right, (list, tuple)) and len(mine) == len(right):
        parts = (
            []
            if is_plain(right)
            else [(f"result {n + 1}", m, r) for n, (m, r) in enumerate(zip(mine, right))]
        )
    else:
        parts = []
    wrong = (part for part in parts if not same(part[1], part[2], tolerance))
    return next(wrong, ("", mine, right))


def first_difference(mine, right, tolerance):
    """The first place where two large tensors of one shape differ; None for what can be shown whole."""
    if not (isinstance(mine, torch.Tensor) and isinstance(right, torch.Tensor)):
        return None
    if mine.shape != right.shape or mine.dtype != right.dtype or not is_large(right):
        return None
    a, b = mine.detach().cpu(), right.detach().cpu()
    wrong = (
        ~torch.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        if a.is_floating_point()
        else a != b
    )
    places = wrong.nonzero()
    return tuple(places[0].tolist()) if len(places) else None


def described(exercise, case):
    """The arguments of a case, by their names."""
    function = exercise.run if exercise.run is not call else exercise.right
    with contextlib.suppress(TypeError, ValueError):
        names = list(inspect.signature(function).parameters)[exercise.run is not call :]
        return (
            ", ".join(f"{name} = {shown(value)}" for name, value in zip(names, case, strict=False))
            or "no input"
        )
    return shown(case)


def line_of(error):
    """Where in the learner's code an error arose, as the line itself; nothing when it arose elsewhere."""
    for entry in reversed(traceback.extract_tb(error.__traceback__)):
        if not entry.filename.startswith(OURS):
            return f"\n    in line   {entry.lineno}: {entry.line}" if entry.line else ""
    return ""


# ---------------------------------------------------------------- odds and ends


def copied(case):
    """A copy of the arguments, so that a call cannot change them; what is learned stays learnable."""
    return tuple(each.detach().clone().requires_grad_(each.requires_grad) if isinstance(each, torch.Tensor)
                 else copy.deepcopy(each) for each in case)  # fmt: skip


def to_device(value, device):
    """Tensors, also those in lists and tuples, on a device."""
    if isinstance(value, torch.Tensor):
        return value.detach().to(device).requires_grad_(value.requires_grad)
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(each, device) for each in value)
    return value


def cell_digest(answer):
    """A digest of the notebook cell in which a function or class was written; "" when there is none."""
    functions = (
        [f for f in vars(answer).values() if inspect.isfunction(f)] if inspect.isclass(answer) else [answer]
    )
    code = getattr(functions[0], "__code__", None) if functions else None
    source = "".join(linecache.getlines(code.co_filename)) if code else ""
    return digest_of_source(source) if source else ""
