"""Stage 2 of the README: an emptied chapter can be imported, and its tests fail one by one."""

import ast
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import notebooks as tools
import pytest
from copies import commit_all, copy_of_the_repository, run
from empty import RAISE, emptied, functions

NOTEBOOK = Path("ch03_attention/ch03_attention.ipynb")
TESTS = [path.relative_to(tools.ROOT).as_posix() for path in sorted(tools.ROOT.glob("tests/test_ch0*.py"))]
# Packages of requirements-dev.txt that Colab lacks; of these the reader installs hypothesis alone.
NOT_ON_COLAB = ("execnet", "jupytext", "nbdev", "nbval", "ruff", "xdist")


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """Environment variables with which Python cannot import what Colab lacks."""
    folder = tmp_path_factory.mktemp("blocker")
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {NOT_ON_COLAB}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
    )
    return {"PYTHONPATH": str(folder)}


def pytest_command(*arguments):
    """The README's command, without the plugins that Colab lacks and pytest would load here."""
    off = [f"-pno:{plugin}" for plugin in ("nbval", "xdist", "xdist.looponfail", "cacheprovider")]
    return [sys.executable, "-m", "pytest", "-o", "addopts=", *off, "-q", *arguments]


def outcomes(root, environment, *tests):
    """Run tests: {id: None when it passed, else the message of the error}."""
    report = root / "report.xml"
    quick = ["-pno:logging", "--tb=no", "--no-summary"]  # what makes thousands of failures slow
    command = pytest_command(*quick, f"--junitxml={report}", *tests)
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode in (0, 1), done.stdout[-3000:]  # 1: some tests failed; 2: a file was not collected
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname').replace('.', '/')}.py::{case.get('name')}"
        found[name] = next((part.get("message") for part in case if part.tag != "properties"), None)
    return found


def empty(root, *chapters, **environment):
    """Run tests/empty.py in a copy of the repository."""
    command = [sys.executable, "tests/empty.py", *chapters]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ | environment)


@pytest.fixture
def copy(tmp_path):
    """A git repository with the files of this one."""
    return commit_all(copy_of_the_repository(tmp_path / "copy"))


def snapshot(root):
    return {path: path.read_bytes() for path in root.glob("ch0*/*.*")}


# ---------------------------------------------------------------- all chapters, and one function


def test_an_emptied_course_fails_test_by_test(copy, colab):
    """Every test is still collected; all that call the course's code fail, each by itself."""
    printed = run(*pytest_command("--collect-only", *TESTS), cwd=copy, **colab)
    intact = [line for line in printed.splitlines() if "::" in line]
    done = empty(copy, *tools.CHAPTERS, **colab)
    assert done.returncode == 0, done.stderr
    found = outcomes(copy, colab, *TESTS)
    assert list(found) == intact
    assert {name.split("::")[0] for name in found} == set(TESTS)
    passed = [name for name, message in found.items() if message is None]
    assert len(passed) < len(found) / 20, (
        passed
    )  # those of what is written by hand, and of the tests' own helpers
    others = [name for name, message in found.items() if message and "NotImplementedError" not in message]
    assert len(others) < len(found) / 20, others  # those that run a program or a compiler


def test_a_function_that_is_written_again_passes_its_tests(copy, colab):
    """As at home: write in the notebook, export, run the chapter's tests."""
    assert empty(copy, "ch02_embeddings", "ch03_attention").returncode == 0  # some tests use both
    notebook = tools.read_notebook(copy / NOTEBOOK)
    cell = next(cell for cell in notebook.cells if "\ndef softmax(" in cell.source and RAISE in cell.source)
    body = "e = (x - x.amax(dim, keepdim=True)).exp()\n    return e / e.sum(dim, keepdim=True)"
    cell.source = cell.source.replace(RAISE, body)
    tools.write_notebook(notebook, copy / NOTEBOOK)
    tools.export_all(copy, only=[NOTEBOOK])
    found = outcomes(copy, colab, "tests/test_ch03_attention.py")
    passed = {name for name, message in found.items() if message is None}
    assert passed == {name for name in found if "::test_softmax_" in name} and len(passed) > 5


def test_a_test_of_each_chapter_passes_on_colab(colab):
    """The command of the README without nbval, xdist, nbdev and jupytext, on the intact course."""
    names = [
        "test_ch01_tokenization.py::test_clean_play_by_example",
        "test_ch02_embeddings.py::test_what_would_be_wrong_in_silence",
        "test_ch03_attention.py::test_softmax_of_the_largest_numbers",
        "test_ch04_transformer.py::test_norms_take_each_vector_alone",
        "test_ch05_recipe.py::test_perplexity_and_bits_per_byte",
        "test_ch05_training.py::test_every_field_is_checked",
        "test_ch06_convert.py::test_rotary_rows_there_and_back",
        "test_ch06_deeper.py::test_tuning_measures_on_its_own",
        "test_ch06_gpt.py::test_options_come_from_the_dataclasses",
        "test_ch06_inference.py::test_top_k_keeps_exactly_k",
        "test_ch06_pretrained.py::test_export_of_each_kind",
    ]
    assert [f"tests/{name.split('::')[0]}" for name in names] == TESTS
    printed = run(*pytest_command(*[f"tests/{name}" for name in names]), **colab)
    assert " passed" in printed and "skipped" not in printed


# ---------------------------------------------------------------- the tool


def test_the_modules_are_the_export_of_the_emptied_notebooks(copy):
    done = empty(copy, "ch03_attention", "ch06_inference")
    assert "git checkout ch06_inference" in done.stdout and "tests/test_ch06_gpt.py" in done.stdout
    assert list(tools.module_problems(copy)) == []
    changed = set(run("git", "diff", "--name-only", cwd=copy).split())
    assert {str(NOTEBOOK), "ch03_attention/attention.py", "ch06_inference/generation.py"} <= changed
    assert {name.split("/")[0] for name in changed} == {"ch03_attention", "ch06_inference"}
    assert not [name for name in changed if Path(name).name in tools.HAND_WRITTEN]
    run("git", "checkout", "ch03_attention", "ch06_inference", cwd=copy)
    assert run("git", "status", "--porcelain", cwd=copy) == ""


@pytest.mark.parametrize("name", [str(NOTEBOOK), "ch03_attention/attention.py"])
def test_uncommitted_work_is_left_alone(copy, name):
    """On Colab the reader writes in the module."""
    with open(copy / name, "a", encoding="utf-8") as file:
        file.write("\n")
    before = snapshot(copy)
    done = empty(copy, "ch02_embeddings", "ch03_attention")
    assert done.returncode == 2 and done.stdout == "" and snapshot(copy) == before
    assert done.stderr.startswith(f"error: {name} has changes; keep them with git commit or git stash, or ")
    assert (
        done.stderr.endswith("start over with: git checkout ch03_attention\n")
        and done.stderr.count("\n") == 1
    )
    assert empty(copy, "ch02_embeddings/").returncode == 0  # another is free, named as Tab completes it


@pytest.mark.parametrize("chapters", [["ch03"], ["ch02_embeddings", "ch99_rest"], ["tests"], []])
def test_an_unknown_chapter(copy, chapters):
    before = snapshot(copy)
    done = empty(copy, *chapters)
    assert done.returncode == 2 and snapshot(copy) == before
    assert " is not a chapter; name one or more of ch01_tokenization, " in done.stderr


def test_without_git_nothing_is_emptied(tmp_path):
    folder = copy_of_the_repository(tmp_path / "copy")
    before = snapshot(folder)
    done = empty(folder, "ch03_attention", GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert done.returncode == 2 and "get the course with git clone" in done.stderr
    assert snapshot(folder) == before


# ---------------------------------------------------------------- what is emptied, and what stays

BEFORE = '''
# above
@decorated(lambda x: x)
def long(
    a,  # the first
    b="é",
):  # the signature ends
    """What it does.

    # no comment
    """
    # a comment of the body

    @inner
    def nested():
        """Also."""
        return 1

    yield nested
    # the last comment of the body
# below


def short(x="é"): return x


class C(Base):
    """A class."""

    field: int = 1  # a field

    def no_docstring(self):  # stays
        return """a string
# inside"""  # goes

    # between

    @property
    async def second(self):
        "One line."
        if self:
            pass
        # deep

    def fourth(self):
        """Only a docstring."""
    # before the attribute
    attribute = [long(n) for n in range(3)]


if True:
    def indented():
        pass
'''

AFTER = '''
# above
@decorated(lambda x: x)
def long(
    a,  # the first
    b="é",
):  # the signature ends
    """What it does.

    # no comment
    """
    raise NotImplementedError
# below


def short(x="é"): raise NotImplementedError


class C(Base):
    """A class."""

    field: int = 1  # a field

    def no_docstring(self):  # stays
        raise NotImplementedError

    # between

    @property
    async def second(self):
        "One line."
        raise NotImplementedError

    def fourth(self):
        """Only a docstring."""
        raise NotImplementedError
    # before the attribute
    attribute = [long(n) for n in range(3)]


if True:
    def indented():
        raise NotImplementedError
'''


def exported_sources():
    """The exported cells and the modules of the course."""
    for path in sorted(tools.ROOT.glob("ch0*/*.*")):
        if path.suffix == ".py" and path.name not in tools.HAND_WRITTEN:
            yield path.read_text(encoding="utf-8")
        elif path.suffix == ".ipynb":
            cells = tools.read_notebook(path).cells
            yield from (cell.source for cell in cells if cell.source.startswith("#| export"))


def without_bodies(source):
    """The syntax tree of a source with the docstring of a function as its whole body, as text."""
    tree = ast.parse(source)
    for function in functions(tree):
        function.body = function.body[:1] if ast.get_docstring(function) else []
    return ast.dump(tree)


def test_emptied_by_example():
    assert emptied(BEFORE) == AFTER == emptied(AFTER)


def test_only_bodies_change():
    """The same signatures, docstrings and classes, and no new line but the one that raises."""
    for source in exported_sources():
        after = emptied(source)
        assert emptied(after) == after and without_bodies(after) == without_bodies(source)
        kept = [line for line in after.split("\n") if line.strip() != RAISE]
        assert len(after.split("\n")) - len(kept) == len(list(functions(ast.parse(source))))
        old = iter(source.split("\n"))
        assert all(line in old for line in kept)  # in the old order


def test_nothing_outside_of_a_function_is_lost():
    for source in exported_sources():
        outside = [lines_outside_of_functions(text) for text in (source, emptied(source))]
        assert outside[0] == outside[1]


def lines_outside_of_functions(source):
    inside = set()
    for function in functions(ast.parse(source)):
        inside |= set(range(function.lineno - 1, function.end_lineno))
    return [line for number, line in enumerate(source.split("\n")) if number not in inside]


def test_a_docstring_that_ends_like_a_comment():
    source = 'def f(x):\n    """One line.\n\n    # not a comment"""\n    # a comment\n    return x\n'
    wanted = f'def f(x):\n    """One line.\n\n    # not a comment"""\n    {RAISE}\n'
    assert emptied(source) == wanted == emptied(wanted)
