"""Appendix A: shapes, strides and information equal PyTorch's, and the self-test names the right sections."""

import gc
import re
import weakref

import nbformat
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from notebooks.files import ROOT
from torch import nn
from torch.distributions import Categorical
from torch.distributions import kl_divergence as reference_kl

from appendix.a_foundations.tensors import (
    broadcast_shape,
    cross_entropy_of,
    describe,
    entropy,
    kl_divergence,
    reading_list,
    right_answers,
    strides_of,
    which_to_read,
)

NOTEBOOK = nbformat.read(ROOT / "appendix/a_foundations/a_foundations.ipynb", as_version=4)
SECTIONS = right_answers()
QUESTIONS = [(section, question) for section, asked in SECTIONS.items() for question in asked]
SHAPES = st.lists(st.integers(0, 4), max_size=5).map(tuple)


def all_right():
    return {question: right for asked in SECTIONS.values() for question, right in asked.items()}


# ---------------------------------------------------------------- shapes and strides


@given(SHAPES)
def test_strides_are_pytorchs(shape):
    assert strides_of(shape) == torch.empty(shape).stride()


@given(SHAPES, SHAPES)
def test_shapes_broadcast_as_in_pytorch(a, b):
    try:
        expected = tuple((torch.empty(a) + torch.empty(b)).shape)
    except RuntimeError:
        with pytest.raises(ValueError, match="do not broadcast"):
            broadcast_shape(a, b)
    else:
        assert broadcast_shape(a, b) == expected


def test_a_refusal_names_the_shapes_and_the_sizes_that_meet():
    with pytest.raises(ValueError, match=r"\(8, 5, 12\) and \(1, 8, 5\) do not broadcast: 5 meets 8"):
        broadcast_shape((8, 5, 12), (8, 5))


@pytest.mark.parametrize(
    "tensor, line",
    [
        (torch.zeros(2, 3), "(2, 3) stride (3, 1) float32 on cpu, contiguous, 24 bytes"),
        (torch.zeros(2, 3).T, "(3, 2) stride (1, 3) float32 on cpu, not contiguous, 24 bytes"),
        (torch.zeros(3, 1).expand(3, 4), "(3, 4) stride (1, 0) float32 on cpu, not contiguous, 48 bytes"),
        (torch.tensor(7), "() stride () int64 on cpu, contiguous, 8 bytes"),
        (torch.ones(4, dtype=torch.bool)[::2], "(2,) stride (2,) bool on cpu, not contiguous, 2 bytes"),
        (
            torch.ones(1000, dtype=torch.bfloat16, device="meta"),
            "(1000,) stride (1,) bfloat16 on meta, contiguous, 2,000 bytes",
        ),
    ],
)
def test_describe_says_what_pytorch_says(tensor, line):
    assert describe(tensor) == line


# ---------------------------------------------------------------- information


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([(), (3,), (2, 3)]))
def test_information_equals_pytorchs_distributions(seed, V, batch):
    draw = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(*batch, V, generator=draw, dtype=torch.float64).softmax(dim=-1) for _ in range(2))
    theirs_p, theirs_q = Categorical(probs=p), Categorical(probs=q)
    for ours, theirs in (
        (entropy(p), theirs_p.entropy()),
        (kl_divergence(p, q), reference_kl(theirs_p, theirs_q)),
        (cross_entropy_of(p, q), theirs_p.entropy() + reference_kl(theirs_p, theirs_q)),
    ):
        assert ours.shape == batch
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    assert (kl_divergence(p, q) >= -1e-12).all()


def test_the_example_by_hand():
    p, q = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], dtype=torch.float64)
    bit = torch.tensor(2.0, dtype=torch.float64).log()
    for nats, bits in ((entropy(p), 1.5), (cross_entropy_of(p, q), 1.75), (kl_divergence(p, q), 0.25)):
        assert abs(nats / bit - bits) < 1e-12


def test_what_is_impossible_counts_nothing_unless_the_model_alone_rules_it_out():
    certain, even = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    assert entropy(certain) == 0
    assert torch.isclose(kl_divergence(certain, even), torch.tensor(2.0).log())
    assert kl_divergence(certain, certain) == 0
    assert kl_divergence(even, certain).isinf() and cross_entropy_of(even, certain).isinf()


# ---------------------------------------------------------------- the self-test


def test_with_no_answers_every_section_is_to_be_read():
    nothing = dict.fromkeys(all_right())
    assert which_to_read(nothing) == which_to_read({}) == list(SECTIONS)
    assert reading_list(nothing).endswith("Skip: none.")


def test_with_all_answers_right_nothing_is_to_be_read():
    assert which_to_read(all_right()) == []
    assert "Nothing to read" in reading_list(all_right())


@pytest.mark.parametrize("section, question", QUESTIONS, ids=lambda name: name)
@pytest.mark.parametrize("wrong", [None, 0.123, (9, 9, 9), "float64", "", [], True, {}], ids=repr)
def test_one_wrong_answer_leads_to_its_section(section, question, wrong):
    assert which_to_read({**all_right(), question: wrong}) == [section]
    assert f"[{section}](#" in reading_list({**all_right(), question: wrong})


@pytest.mark.parametrize(
    "question, given_as",
    [
        ("element", [6, 6.0, torch.tensor(6), [6]]),
        ("reduced", [(1, 2), [1, 2], torch.Size([1, 2])]),
        ("entropy", [1.5, 3 / 2, 1.503]),
        ("perplexity", [8, 8.0]),
        ("overflow", ["float16", "Float16", " float16 ", "Torch.float16", torch.float16, torch.half]),
    ],
)
def test_right_answers_count_however_they_are_written(question, given_as):
    for answer in given_as:
        assert which_to_read({**all_right(), question: answer}) == [], answer


@pytest.mark.parametrize(
    "question, near", [("step", 0.94), ("step", 0.96), ("perplexity", 7.99), ("entropy", 1.51)]
)
def test_a_number_that_is_wrong_in_its_second_digit_is_wrong(question, near):
    assert len(which_to_read({**all_right(), question: near})) == 1


def test_a_number_too_large_for_a_float_is_wrong_too():
    assert which_to_read({**all_right(), "element": 10**400}) == ["Tensors"]


def test_an_unknown_question_is_named():
    with pytest.raises(ValueError, match="no question 'entorpy'"):
        which_to_read({**all_right(), "entorpy": 1.5})


def test_the_questions_are_those_of_the_notebook_and_left_open():
    code = "\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code")
    asked = re.findall(r'^answers\["(\w+)"\] = (\w+)', code, flags=re.M)
    assert asked == [(question, "None") for _, question in QUESTIONS]


def test_links_lead_to_headings_and_the_stored_output_says_read_all():
    text = "\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## (.+)$", text, flags=re.M)
    links = re.findall(r"\[(.+?)\]\(#(.+?)\)", reading_list({}))
    assert [section for section, _ in links] == [heading for heading in headings if heading in SECTIONS]
    assert all(anchor == section.replace(" ", "-") for section, anchor in links)
    outputs = [o.data["text/markdown"] for c in NOTEBOOK.cells for o in c.get("outputs", []) if "data" in o
               and "text/markdown" in o.data]  # fmt: skip
    assert ["".join(output) for output in outputs] == [reading_list({})]


def test_chapter_1_sends_readers_here():
    first = nbformat.read(ROOT / "ch01_tokenization/ch01_tokenization.ipynb", as_version=4).cells[0].source
    assert "self-test" in first and "(../appendix/a_foundations/a_foundations.ipynb)" in first


# ---------------------------------------------------------------- common mistakes


def test_softmax_sums_to_one_along_its_dimension_only():
    table = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for dim in (0, 1):
        shares = table.softmax(dim=dim)
        assert torch.allclose(shares.sum(dim=dim), torch.ones(()))
        assert not torch.allclose(shares.sum(dim=1 - dim), torch.ones(()))


@pytest.mark.parametrize("clear", [True, False])
def test_gradients_add_up_without_zero_grad(clear):
    w = torch.tensor(3.0, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    for _ in range(3):
        if clear:
            optimizer.zero_grad()
        (w**2).backward()
    assert w.grad == (6 if clear else 18)


def test_a_plain_list_hides_its_modules():
    class Stack(nn.Module):
        def __init__(self, container):
            super().__init__()
            self.layers = container([nn.Linear(2, 2), nn.Linear(2, 2)])

    assert len(list(Stack(list).parameters())) == len(Stack(list).state_dict()) == 0
    assert len(list(Stack(nn.ModuleList).parameters())) == len(Stack(nn.ModuleList).state_dict()) == 4


def test_cross_entropy_takes_logits():
    logits, came = torch.tensor([[30.0, 0.0, 0.0]]), torch.tensor([0])
    expected = cross_entropy_of(F.one_hot(came, 3).float(), logits.softmax(dim=-1))
    assert torch.allclose(F.cross_entropy(logits, came), expected, atol=1e-6)
    assert F.cross_entropy(logits.softmax(dim=-1), came) > 0.5


class Hung:
    """Something to hang on a graph, and to see go."""


@pytest.mark.parametrize("keep, alive", [(lambda loss: loss, True), (lambda loss: loss.item(), False)])
def test_a_kept_loss_keeps_its_graph(keep, alive):
    layer = nn.Linear(3, 1)
    hidden = torch.tanh(layer(torch.ones(2, 3)))
    hidden.grad_fn.metadata["hung"] = Hung()  # lives as long as this node of the graph
    node = weakref.ref(hidden.grad_fn.metadata["hung"])
    kept = [keep(hidden.square().mean())]
    del hidden
    gc.collect()
    assert (node() is not None) == alive and len(kept) == 1
