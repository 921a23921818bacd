"""The tools that keep notebooks and modules in step: what is exported, folded, counted and refused."""

import ast
import re
import sys
from pathlib import Path

import nbformat
import notebooks as tools
import pytest
from copies import run
from notebooks import export, guards, reading, rules, running

code, markdown = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell


def notebook_of(*cells):
    return nbformat.v4.new_notebook(cells=[code(c) if isinstance(c, str) else c for c in cells])


def exported(tmp_path, *cells, name="n.ipynb", folder="ch09_tiny"):
    """Export a notebook of these cells; returns {module: text}."""
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    nbformat.write(notebook_of(*cells), place / name)
    return {
        path.name: path.read_text(encoding="utf-8") for path in export.export_notebook(place / name, place)
    }


# ---------------------------------------------------------------- notebook -> module


def test_a_module_imports_what_it_uses_and_nothing_else(tmp_path):
    cells = [
        "import math\nimport os, json\nimport torch.nn.functional as F\nfrom torch import nn, optim\n"
        "from ch04_transformer.transformer import GPT",
        "#| default_exp shapes\nfrom previous_chapters import COLORS, show",
        "#| export\n#| doc Circles.\nclass Circle(nn.Module):\n"
        "    def area(self, r):\n        return math.pi * F.relu(r), GPT",
        "#| export other\ndef name():\n    return [COLORS for math in ()]",
    ]
    modules = exported(tmp_path, *cells)
    head = modules["shapes.py"].split("__all__")[0]
    assert head.startswith('"""Circles."""\n\n# Written by `make export` from n.ipynb; change it there.\n\n')
    assert head.endswith(
        "import math\n\nimport torch.nn.functional as F\nfrom torch import nn\n\n"
        "from ch04_transformer.transformer import GPT\n\n"
    )
    assert (
        "from .previous_chapters import COLORS\n" in modules["other.py"]
        and "import math" not in modules["other.py"]
    )
    assert "#|" not in modules["shapes.py"] + modules["other.py"]


def test_a_module_imports_from_the_modules_beside_it(tmp_path):
    exported(tmp_path, "#| export fast\ndef merge(word):\n    return word", name="deeper.ipynb")
    (tmp_path / "ch09_tiny" / "fields.py").write_text("Size = int\n")
    modules = exported(
        tmp_path,
        "from fast import merge\nfrom fields import Size\nimport numpy",
        "#| export first\nLIMIT: Size = 3\ndef plain(word):\n    return word",
        "#| export second\ndef both(word):\n    return plain(merge(word)), LIMIT",
        "#| export third\n#| offers plain, merge\ndef nothing():\n    return ''",
    )
    assert "from .fields import Size\n" in modules["first.py"]
    assert "from .fast import merge\nfrom .first import LIMIT, plain\n" in modules["second.py"]
    assert "from .fast import merge\nfrom .first import plain\n" in modules["third.py"]
    assert not any("numpy" in text for text in modules.values())


def test_modules_of_the_exporter_can_be_imported(tmp_path):
    finds = "def find(name):\n    '''A spec.'''\n    return importlib.util.find_spec(name)"
    exported(tmp_path, "import importlib\nimport importlib.util", f"#| export found\n#| doc Finds.\n{finds}")
    assert (
        run(sys.executable, "-c", "from ch09_tiny.found import find; print(find('json').name)", cwd=tmp_path)
        == "json\n"
    )


def test_a_name_from_nowhere_is_an_error(tmp_path):
    with pytest.raises(
        NameError, match="lost.py uses Circle, which no cell of the notebook exports or imports"
    ):
        exported(tmp_path, "class Circle: ...", "#| export lost\ndef make():\n    return Circle()")


def test_no_two_cells_define_one_name_in_a_module():
    for path in tools.notebook_paths():
        for module, cells in export.exported_cells(tools.read_notebook(tools.ROOT / path)).items():
            names = [
                node.name
                for cell in cells
                for node in ast.parse(cell.source).body
                if isinstance(node, ast.FunctionDef | ast.ClassDef)
            ]
            assert len(set(names)) == len(names), (path, module)


def test_every_module_has_a_docstring_and_is_short():
    """But for the checks of the exercises, which may be as long as there are ways to be wrong."""
    paths = [path for folder in tools.FOLDERS for path in sorted((tools.ROOT / folder).glob("*.py"))]
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), path
        long = ("checks.py", "checking.py", "rebuilding.py")
        assert len(text.splitlines()) <= 450 or path.name in long, path


# ---------------------------------------------------------------- what is folded


def test_tags_fold_in_jupyterlab_and_on_colab():
    notebook = notebook_of(
        code("1", metadata={"tags": ["hide-output"], "scrolled": True}),
        code("2", metadata={"tags": ["hide-input"]}),
        code("3", metadata={"collapsed": True}),
        "# @title Set-up: finds the course",
    )
    output, source, neither, setup = [cell.metadata for cell in running.fold(notebook).cells]
    assert output == {"tags": ["hide-output"], "collapsed": True, "jupyter": {"outputs_hidden": True}}
    assert source == {"tags": ["hide-input"], "cellView": "form", "jupyter": {"source_hidden": True}}
    assert neither == {} and setup == source


def test_a_run_keeps_what_an_author_wrote_about_a_cell(tmp_path):
    kept = {"tags": ["hide-output"], "slideshow": {"slide_type": "slide"}, "nbgrader": {"grade": True}}
    figure = "import matplotlib.pyplot as plt\nfrom IPython.display import display\nplt.plot([1, 2])\n"
    alt = "A line that rises from one to two."
    show = f"display(plt.gcf(), metadata={{'image/png': {{'alt': {alt!r}}}}}); plt.close()"
    nbformat.write(notebook_of(code("print(1)", metadata=kept), figure + show), tmp_path / "n.ipynb")
    tools.execute(Path("n.ipynb"), tmp_path)
    first, second = tools.read_notebook(tmp_path / "n.ipynb").cells
    assert kept.items() <= dict(first.metadata).items() and first.metadata["collapsed"] is True
    images = [output for output in second.outputs if "image/png" in output.get("data", {})]
    assert [list(rules.figure_problems(image)) for image in images] == [[]]


@pytest.mark.parametrize("alt", [None, "", "figure.png", "a line that rises.png", "one two three four"])
def test_a_figure_without_words_is_refused(alt):
    metadata = {"image/png": {"alt": alt}} if alt is not None else {}
    output = nbformat.v4.new_output("display_data", {"image/png": "iVBO"}, metadata=metadata)
    assert any("alternative text" in problem for problem in rules.figure_problems(output))


FOLDED = {"tags": ["hide-output"], "collapsed": True, "jupyter": {"outputs_hidden": True}}
QUESTION, ANSWER = (
    "**Predict, then run.** What?",
    "<details><summary>Answer</summary>\n\nThat.\n\n</details>\n\nOn.",
)


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ([markdown(QUESTION), code("1", metadata=FOLDED), markdown(ANSWER)], None),
        ([markdown(QUESTION), code("1"), markdown(ANSWER)], "needs the tag hide-output"),
        ([markdown(QUESTION), code("1", metadata=FOLDED), markdown("That.")], "begins with a folded answer"),
        (
            [markdown(QUESTION), code("1", metadata={"tags": ["hide-output"]}), markdown(ANSWER)],
            "run: make badges",
        ),
        ([code("1", metadata={"collapsed": True})], "run: make badges"),
        ([markdown("<details><summary>1. Why?</summary>\nSo.")], "does not close"),
        (
            [code("#| export\nx = 1", metadata=running.FOLDED["hide-input"] | {"tags": ["hide-input"]})],
            "to be read",
        ),
    ],
)
def test_predictions_and_answers_are_folded(cells, problem):
    found = list(rules.folding_problems(notebook_of(*cells)))
    assert (found == []) if problem is None else any(problem in text for text in found)


# ---------------------------------------------------------------- what is counted


def test_reading_time_is_counted_by_the_rule():
    words = markdown(
        "word " * 90 + "\n\n[two words](https://example.org/a/b) <b>bold</b>\n| --- | --- |\n$x = 1$"
    )
    lines = "# a comment\n\ndef f(x):\n    '''Five words in a docstring.'''\n"
    lines += "    return (\n        x\n    )\n%time f(1)"
    folded = code("x = 1\n" * 30, metadata={"tags": ["hide-input"]})
    notebook = notebook_of(words, lines, folded)
    assert reading.count(notebook) == (90 + 2 + 1 + 2 + 5, 5)
    assert reading.minutes(notebook) == round(100 / 180 + 5 * 8 / 60)
    notebook.cells.insert(0, markdown("# T\n| **To read** | 0 minutes |"))
    assert "| **To read** | 1 minutes |" in reading.with_reading_time(notebook).cells[0].source


def test_the_limits_of_a_sitting():
    assert any(
        "minutes to read" in p for p in reading.sitting_problems(notebook_of(markdown("word " * 180 * 91)))
    )
    assert any(
        "cells" in p for p in reading.sitting_problems(notebook_of(*[markdown("w") for _ in range(121)]))
    )
    long, whole = "x = 1\n" * 41, "class C:\n" + "    x = 1\n" * 99
    assert len(list(reading.long_cell_problems(notebook_of(long, whole)))) == 1
    assert (
        len(list(reading.long_cell_problems(notebook_of(whole, whole.replace("C", "D"))))) == 1
    )  # one is allowed
    assert len(list(reading.long_cell_problems(notebook_of("class C:\n" + "    x = 1\n" * 100)))) == 1


GUARDS = '''
def f(x):
    """Docstrings do not count; raise nothing."""
    if x < 0:
        message = "below"
        raise ValueError(message)
    elif x > 9:
        x = 9
    try:
        y = 1 / x
    except ZeroDivisionError:
        raise ValueError("zero") from None
    check_shape(y)
    assert y
    return y


def check_shape(y):
    return y
'''


def test_guards_are_counted_as_written():
    assert len(guards.guard_lines(GUARDS)) == 3 + 2 + 1 + 1 + 2
    assert len(guards.code_lines(GUARDS)) == 15


# ---------------------------------------------------------------- what notebooks and tests say of each other


def test_every_test_that_a_notebook_names_is_there():
    there = set()
    for path in (tools.ROOT / "tests").glob("test_*.py"):
        there |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), flags=re.M))
        there.add(path.stem)
    for path in tools.notebook_paths():
        cells = tools.read_notebook(tools.ROOT / path).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        assert set(re.findall(r"\btest_\w+", text)) <= there, path


# Bugs that from-scratch code of language models is known for. A test that catches one says so in a comment.
KNOWN_BUGS = (
    "a mask with its meaning inverted",
    "dropout that stays on in evaluation, or never comes back",
    "a causal mask aligned to the top left",
    "heads split without a transpose",
    "a row that may attend to nothing",
    "a window that is off by one",
    "logits read at the padding",
    "positions that restart with a cache",
    "several tokens into a cache without a causal mask",
    "rotary layouts mixed up",
    "weight tying that copies",
    "a first loss far from the logarithm of the vocabulary",
    "projections that have to be square",
    "the compiler's prefix in a checkpoint",
    "accumulation that weighs batches wrongly",
    "accumulation that loses batches",
    "clipping before unscaling, or not at all",
    "a schedule that starts at 0, divides by 0 or never peaks",
    "AdamW's epsilon or its decay in the wrong place",
    "ignored targets that reach the loss",
    "a number format that the device cannot do",
    "an evaluation that divides by 0, loses a batch or drops out",
    "a resumed run that goes another way",
    "temperature 0, and a top-k out of range or with ties",
    "top-p that drops the token at the threshold",
    "sampling from logarithms",
    "a batch that stops when one row does",
    "ids that the tokenizer cannot decode",
    "merging from left to right",
    "text split one way in training and another in encoding",
    "special tokens merged, miscounted or injected",
    "ties left to chance",
    "bytes that pass through text",
    "a comparison without an assert",
)


def test_every_known_bug_has_a_test():
    assert len(KNOWN_BUGS) == 34
    named = []
    for path in sorted((tools.ROOT / "tests").glob("test_*.py")):
        named += re.findall(r"^ *# guards against: (.*)$", path.read_text(encoding="utf-8"), flags=re.M)
    assert set(named) == set(KNOWN_BUGS)
