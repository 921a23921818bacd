"""Appendix A, the page: the engine against PyTorch, and the page against the course's own GPT."""

import ast
import gc
import math
import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from notebooks.files import code_lines

from appendix.a_foundations import engine, one_page
from appendix.a_foundations.engine import Value, dot
from appendix.a_foundations.one_page import (
    TinyAdamW,
    TinyGPT,
    draw,
    loss_of,
    sample,
    softmax,
    surprise,
    train,
)
from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.baselines import baseline_losses
from ch05_training.optimization import AdamW, cross_entropy, parameter_groups
from ch06_inference.generation import KVCache, generate

ALPHABET = "\n " + "".join(map(chr, range(ord("A"), ord("Z") + 1)))
LINES = ["ROMEO", "JULIET", "FIRST LORD", "X", "KING HENRY", "ARIEL", "MOTH", "SECOND LORD"]
MODULES = [Path(module.__file__) for module in (engine, one_page)]


@pytest.fixture(scope="module")
def names(plays):
    """Names to learn from and held-out ones, as the notebook draws them."""
    speaker = re.compile(r"^([A-Z][A-Z ]+):$", flags=re.M)
    found = sorted({name for play in plays.values() for name in speaker.findall(play)})
    random.Random(0).shuffle(found)
    return found[len(found) // 5 :], found[: len(found) // 5]


def tiny(**changes):
    options = dict(vocab_size=28, context_length=24, d_model=8, n_heads=2, n_layers=2, d_ff=12) | changes
    return TinyGPT(**options)


# ---------------------------------------------------------------- the engine

CHOICES = (
    lambda f, a, b, c: a + b,
    lambda f, a, b, c: a - b,
    lambda f, a, b, c: 2 + a,
    lambda f, a, b, c: 2 - a,
    lambda f, a, b, c: -a,
    lambda f, a, b, c: 0.5 * a * b,
    lambda f, a, b, c: a / (2 + b * b),
    lambda f, a, b, c: 3 / (1 + a**2),
    lambda f, a, b, c: (1 + b * b) ** -0.5,
    lambda f, a, b, c: f.tanh(a * b - c),
    lambda f, a, b, c: f.exp(f.tanh(a)),
    lambda f, a, b, c: f.log(1 + a * a),
    lambda f, a, b, c: f.dot([a, b, c], [b, a, a]),
)
OURS = SimpleNamespace(tanh=Value.tanh, exp=Value.exp, log=Value.log, dot=dot)
TORCH = SimpleNamespace(
    tanh=torch.tanh, exp=torch.exp, log=torch.log, dot=lambda a, b: torch.stack(a) @ torch.stack(b)
)


def random_graph(f, leaves, choices):
    """An expression in which each number may be used any number of times; kept small by tanh."""
    made = list(leaves)
    for kind, i, j, k in choices:
        operands = (made[place % len(made)] for place in (i, j, k))
        made.append(CHOICES[kind](f, *operands))
        if len(made) % 3 == 0:
            made[-1] = f.tanh(made[-1])
    return sum((f.tanh(number) for number in made[-4:]), 0.0 * made[0])


def differences(numbers, choices):
    """How far value and gradients are from PyTorch's, relative to 1 plus their size."""
    leaves = [Value(x) for x in numbers]
    tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in numbers]
    result, reference = random_graph(OURS, leaves, choices), random_graph(TORCH, tensors, choices)
    result.backward()
    gradients = torch.autograd.grad(reference, tensors, materialize_grads=True)
    pairs = [(result.data, reference.item())]
    pairs += [(leaf.grad, gradient.item()) for leaf, gradient in zip(leaves, gradients, strict=True)]
    return max(abs(ours - theirs) / (1 + abs(theirs)) for ours, theirs in pairs)


def test_gradients_equal_pytorchs_on_300_random_graphs():
    used, worst = set(), 0.0
    for seed in range(300):
        rng = random.Random(seed)
        choices = [
            (rng.randrange(len(CHOICES)), *(rng.randrange(1000) for _ in range(3)))
            for _ in range(rng.randint(1, 40))
        ]
        used |= {choice[0] for choice in choices}
        worst = max(worst, differences([rng.uniform(-2, 2) for _ in range(4)], choices))
    assert worst < 1e-10
    assert used == set(range(len(CHOICES)))


@given(
    numbers=st.lists(st.floats(-3, 3), min_size=1, max_size=4),
    choices=st.lists(
        st.tuples(st.integers(0, len(CHOICES) - 1), *[st.integers(0, 99)] * 3), min_size=1, max_size=12
    ),
)
def test_gradients_equal_pytorchs_on_whatever_is_drawn(numbers, choices):
    assert differences(numbers, choices) < 1e-10


@pytest.mark.parametrize("kind", range(len(CHOICES)))
def test_each_operation_equals_pytorchs(kind):
    for x in (-1.3, 0.4, 2.0):
        leaves = [Value(x), Value(0.7), Value(-0.2)]
        tensors = [torch.tensor(leaf.data, dtype=torch.float64, requires_grad=True) for leaf in leaves]
        result, reference = CHOICES[kind](OURS, *leaves), CHOICES[kind](TORCH, *tensors)
        result.backward()
        gradients = torch.autograd.grad(reference, tensors, materialize_grads=True, allow_unused=True)
        assert math.isclose(result.data, reference.item(), rel_tol=1e-12)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            assert math.isclose(leaf.grad, gradient.item(), rel_tol=1e-12, abs_tol=1e-15)


def test_the_example_of_the_notebook():
    a, b = Value(2), Value(3)
    u = a * b
    v = u + a
    loss = v**2
    loss.backward()
    assert (loss.data, v.grad, u.grad, a.grad, b.grad) == (64, 16, 16, 64, 32)


def test_a_leaf_adds_up_and_what_is_between_does_not():
    a = Value(3.0)
    u = a * a
    loss = u * u
    for times in (1, 2, 3):
        loss.backward()
        assert (u.grad, a.grad) == (18, times * 108)


def test_two_losses_may_share_a_graph():
    ours, theirs = Value(2.0), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    for x in (ours, theirs):
        shared = x * x
        first, second = shared * 3, shared * 5
        first.backward(**({} if x is ours else {"retain_graph": True}))
        second.backward()
    assert ours.grad == theirs.grad.item() == 32


def test_each_number_passes_on_once():
    x = start = Value(1.0)
    for _ in range(500):  # by paths it would be 2 ** 500 visits
        x = x + x
    x.backward()
    assert start.grad == 2.0**500


def test_a_deep_graph_needs_no_recursion():
    deep = start = Value(1.0)
    for _ in range(50_000):
        deep = deep + 1.0
    deep.backward()
    assert start.grad == 1
    del deep  # freeing it does not recurse either


def test_a_graph_is_freed_without_the_collector():
    class Marked(Value):
        __slots__ = ("__weakref__",)

    import weakref

    gc.disable()
    try:
        inner = Marked(2.0)
        outer = inner * inner + 1
        outer.backward()
        gone = weakref.ref(inner)
        del inner, outer
        assert gone() is None
    finally:
        gc.enable()


def test_dot_refuses_lists_of_different_length():
    with pytest.raises(ValueError, match="dot of 3 and 2 values"):
        dot([Value(1.0)] * 3, [Value(1.0)] * 2)


@pytest.mark.parametrize(
    "mistake", [lambda x: x**x, lambda x: 2**x, lambda x: x < 1, lambda x: math.exp(x), lambda x: x + "1"]
)
def test_what_has_no_slope_is_refused(mistake):
    with pytest.raises(TypeError):
        mistake(Value(2.0)).backward()


# ---------------------------------------------------------------- the page, by itself


def test_it_is_at_most_200_lines_with_an_engine_of_about_60():
    lines = [len(code_lines(path.read_text(encoding="utf-8"))) for path in MODULES]
    assert lines[0] <= 70 and sum(lines) <= 200


def test_it_imports_only_math_and_random():
    for path in MODULES:
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add("." * node.level + (node.module or ""))
        assert found <= {"math", "random", ".engine"}, path


def test_a_fresh_model_guesses_evenly():
    assert abs(loss_of(tiny(), LINES, ALPHABET).data / math.log(28) - 1) < 0.1


def test_the_seed_decides_how_the_weights_begin():
    first, again, other = (
        [v.data for rows in tiny(seed=seed).weights.values() for row in rows for v in row]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_every_weight_gets_a_gradient():
    model = tiny()
    loss_of(model, LINES, ALPHABET).backward()
    longest = max(map(len, LINES)) + 1
    for name, rows in model.weights.items():
        rows = rows[:longest] if "position" in name else rows
        assert all(value.grad != 0 for row in rows for value in row), name


def test_the_optimizer_leaves_no_gradient_behind():
    model = tiny()
    optimizer = TinyAdamW(model.weights)
    loss_of(model, LINES[:2], ALPHABET).backward()
    optimizer.step(0.01)
    assert all(value.grad == 0 for rows in model.weights.values() for row in rows for value in row)


def test_no_logit_sees_the_future():
    model = tiny()
    for other in ("ROMZZ", "ROMEOEO"):
        runs = []
        for line in ("ROMEO", other):
            cache = model.new_cache()
            runs.append([[z.data for z in model(ALPHABET.index(c), cache)] for c in line])
        assert runs[0][:3] == runs[1][:3]
    assert runs[0][2] != runs[0][3]


def test_a_line_does_not_depend_on_the_one_before():
    model = tiny()
    alone = [loss_of(model, [line], ALPHABET).data * (len(line) + 1) for line in LINES]
    together = loss_of(model, LINES, ALPHABET).data
    assert math.isclose(together, sum(alone) / sum(len(line) + 1 for line in LINES), rel_tol=1e-12)


def test_softmax_and_surprise_do_not_overflow():
    scores = [Value(1000.0), Value(0.0), Value(999.0)]
    assert math.isclose(sum(share.data for share in softmax(scores)), 1)
    assert surprise(scores, 1).data == pytest.approx(1000.3133, abs=1e-4)


def test_training_is_the_same_in_every_run():
    weights = []
    for seed in (0, 0, 1):
        model = tiny()
        losses = train(model, LINES, ALPHABET, steps=3, seed=seed)
        weights.append((losses, [v.data for rows in model.weights.values() for row in rows for v in row]))
    assert weights[0] == weights[1] != weights[2]


def test_training_begins_without_the_gradients_of_an_earlier_backward():
    weights = []
    for stale in (False, True):
        model = tiny()
        if stale:
            loss_of(model, LINES[2:4], ALPHABET).backward()
        train(model, LINES, ALPHABET, steps=2)
        weights.append([v.data for rows in model.weights.values() for row in rows for v in row])
    assert weights[0] == weights[1]


def test_training_learns_two_names_by_heart():
    model = tiny(d_model=8, n_layers=1)
    losses = train(model, ["ROMEO", "ARIEL"], ALPHABET, steps=80, max_lr=0.05)
    assert losses[-1] < 0.4 < losses[0]
    said = {sample(model, ALPHABET, random.Random(seed), temperature=0.2) for seed in range(12)}
    assert said == {"ROMEO", "ARIEL"}


def test_training_asks_progress_for_its_steps():
    asked = []
    losses = train(tiny(), LINES, ALPHABET, 2, progress=lambda steps: asked.append(steps) or range(steps))
    assert asked == [2] and len(losses) == 2


def test_draw_takes_the_piece_on_which_the_point_falls():
    shares = [0.5, 0.25, 0.25]
    assert [draw(shares, u) for u in (0.0, 0.49, 0.5, 0.74, 0.75, 0.999)] == [0, 0, 1, 1, 2, 2]
    assert draw([0.5, 0.4999], 0.99995) == 1  # rounding left a gap at the end


@pytest.mark.parametrize(
    "mistake, error",
    [
        (lambda: tiny(d_model=8, n_heads=3), ValueError),
        (lambda: loss_of(tiny(), ["A" * 24], ALPHABET), IndexError),
        (lambda: loss_of(tiny(), ["romeo"], ALPHABET), ValueError),
        (lambda: train(tiny(), LINES[:1], ALPHABET, steps=1), ValueError),
        (lambda: sample(tiny(), ALPHABET, random.Random(0), temperature=0), ZeroDivisionError),
    ],
)
def test_what_would_go_wrong_silently_is_refused(mistake, error):
    with pytest.raises(error):
        mistake()


# ---------------------------------------------------------------- the page, against the course's GPT


def to_tensors(model, what="data"):
    state = {}
    for name, rows in model.weights.items():
        table = torch.tensor([[getattr(value, what) for value in row] for row in rows], dtype=torch.float64)
        state[name] = table[0] if "norm" in name else table
    return state | {"lm_head.weight": state["embedding.token.weight"]}


def as_batch(lines):
    ids = [torch.tensor([ALPHABET.index(c) for c in f"\n{line}\n"]) for line in lines]
    rows = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100)  # (B, T + 1)
    return rows[:, :-1].clamp(min=0), rows[:, 1:]


def both(n_heads, n_layers, backend="sdpa", seed=0):
    """A TinyGPT and the course's GPT with its weights, moved away from the special values they begin with."""
    sizes = dict(vocab_size=28, context_length=24, d_model=8, n_heads=n_heads, n_layers=n_layers, d_ff=12)
    model, rng = TinyGPT(**sizes, seed=seed), random.Random(seed)
    for rows in model.weights.values():
        for value in (value for row in rows for value in row):
            value.data += rng.gauss(0, 0.2)
    course = GPT(GPTConfig(**sizes, norm="rmsnorm", backend=backend)).double()
    course.load_state_dict(to_tensors(model))
    return model, course


def furthest(tensors, references):
    assert set(tensors) >= set(references)
    return max((tensors[name] - reference).abs().max().item() for name, reference in references.items())


@pytest.mark.parametrize("n_heads, n_layers, backend", [(2, 2, "sdpa"), (1, 1, "eager"), (4, 3, "eager")])
def test_loss_and_every_gradient_equal_the_courses(n_heads, n_layers, backend):
    model, course = both(n_heads, n_layers, backend)
    loss = loss_of(model, LINES, ALPHABET)
    loss.backward()
    inputs, targets = as_batch(LINES)
    course_loss = cross_entropy(course(inputs), targets)
    course_loss.backward()
    assert abs(loss.data - course_loss.item()) < 1e-10
    gradients = {name: weight.grad for name, weight in course.named_parameters()}
    assert furthest(to_tensors(model, "grad"), gradients) < 1e-10
    assert min(gradient.abs().max() for gradient in gradients.values()) > 1e-5


def test_five_steps_equal_the_courses():
    model, course = both(2, 2)
    optimizer, course_optimizer = TinyAdamW(model.weights), AdamW(parameter_groups(course, 0.1))
    before = to_tensors(model)
    for step in range(5):
        batch, lr = LINES[step : step + 3], 0.01 * (step + 1)
        loss = loss_of(model, batch, ALPHABET)
        loss.backward()
        inputs, targets = as_batch(batch)
        course_loss = cross_entropy(course(inputs), targets)
        course_optimizer.zero_grad()
        course_loss.backward()
        for group in course_optimizer.param_groups:
            group["lr"] = lr
        optimizer.step(lr)
        course_optimizer.step()
        assert abs(loss.data - course_loss.item()) < 1e-9
        assert furthest(to_tensors(model), course.state_dict()) < 1e-9
    assert furthest(before, course.state_dict()) > 0.01


def test_the_run_of_the_notebook_beats_the_table_of_pairs_on_names_it_never_saw(names):
    """Made by the course's code, in a tenth of the time: the page's run is the same, step for step."""
    lines, held_out = names
    assert not set(lines) & set(held_out)
    assert set("".join(lines)) | {"\n"} == set(ALPHABET) >= set("".join(held_out))

    def stream(names):
        text = "\n" + "\n".join(names) + "\n"
        return SimpleNamespace(token_ids=torch.tensor([ALPHABET.index(c) for c in text]))

    bigram = baseline_losses(stream(lines), stream(held_out), len(ALPHABET))["bigram"]
    sizes = dict(vocab_size=28, context_length=24, d_model=16, n_heads=4, n_layers=1, d_ff=32)
    model, course = TinyGPT(**sizes), GPT(GPTConfig(**sizes, norm="rmsnorm")).double()
    course.load_state_dict(to_tensors(model))
    optimizer, rng, losses = AdamW(parameter_groups(course, 0.1)), random.Random(0), []
    for step in range(900):
        inputs, targets = as_batch(rng.sample(lines, 2))
        loss = cross_entropy(course(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * min(1, (step + 1) / 20) * (1 - step / 900)
        optimizer.step()
        losses.append(loss.item())
    page_losses = train(model, lines, ALPHABET, 900, progress=lambda steps: range(30))
    assert page_losses == pytest.approx(losses[:30], abs=1e-8)
    inputs, targets = as_batch(held_out)
    assert cross_entropy(course(inputs), targets).item() < bigram - 0.02 < math.log(28) - 0.5


def test_initial_weights_are_as_wide_as_the_courses():
    model, course = tiny(d_model=32, d_ff=64), GPT(GPTConfig(28, 24, 32, 2, 2, d_ff=64, norm="rmsnorm"))
    ours = to_tensors(model)
    assert set(ours) == set(course.state_dict())
    for name, reference in course.state_dict().items():
        assert ours[name].shape == reference.shape
        if "norm" in name:
            assert (ours[name] == 1).all() and (reference == 1).all()
        else:
            assert ours[name].std().item() == pytest.approx(reference.std().item(), rel=0.2)


@torch.no_grad()
def course_sample(course, rng, temperature):
    cache, line, now = KVCache(course.config), "", ALPHABET.index("\n")
    for _ in range(course.config.context_length):
        logits = course(torch.tensor([[now]]), cache)[0, -1]  # (V,)
        ends = (logits / temperature).softmax(dim=-1).cumsum(dim=-1)  # (V,)
        now = min(int(torch.searchsorted(ends, rng.random(), right=True)), len(ALPHABET) - 1)
        if ALPHABET[now] == "\n":
            break
        line += ALPHABET[now]
    return line


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_same_random_numbers_give_the_same_characters(temperature):
    model, course = both(2, 2)
    said = [sample(model, ALPHABET, random.Random(seed), temperature) for seed in range(8)]
    assert said == [course_sample(course, random.Random(seed), temperature) for seed in range(8)]
    assert len(set(said)) > 4
    assert all(len(line) <= 24 for line in said)


def test_the_most_probable_characters_are_those_that_generate_takes():
    model, course = both(2, 2)
    cache, ids = model.new_cache(), [0]
    for _ in range(12):
        logits = [z.data for z in model(ids[-1], cache)]
        ids.append(logits.index(max(logits)))
    assert generate(course, torch.tensor([[0]]), 12, temperature=0)[0].tolist() == ids
