"""The repository itself: one source for every definition, and rules that catch what breaks it."""

import re
import sys
from pathlib import Path

import nbformat
import notebooks as tools
import pytest
from copies import copy_of_the_repository, run

ROOT = tools.ROOT
NOTEBOOKS = tools.notebook_paths()


# ---------------------------------------------------------------- the rules hold here


def test_nothing_is_out_of_step():
    """The code; what notebooks have stored is for `make check`, since a reader runs and saves them."""
    assert tools.code_problems() == []


def test_every_chapter_is_there():
    """And every appendix: none of them is left out of the list that the tools work by."""
    there = {path.parent.as_posix() for path in NOTEBOOKS}
    assert there == set(tools.FOLDERS)
    for folder in tools.FOLDERS:
        assert Path(folder, f"{Path(folder).name}.ipynb") in NOTEBOOKS
        assert (ROOT / folder / "previous_chapters.py").exists()


def test_nbval_runs_every_notebook():
    """But for the workbooks: the exercises stop at the first stub, and test_exercises.py runs both."""
    options = ["-m", "pytest", "--collect-only", "-q", "-n0", "-p", "no:cacheprovider"]
    collected = run(sys.executable, *options, *[str(path) for path in (ROOT.glob("[!.]*")) if path.is_dir()])
    found = {Path(line.split("::")[0]) for line in collected.splitlines() if ".ipynb::" in line}
    assert found == {path for path in NOTEBOOKS if path.stem not in ("exercises", "solutions")}


def test_the_same_headings_in_every_chapter():
    wanted = ["Where we are", "The problem first", "The finished piece", "Proof", "Common mistakes"]
    wanted += ["Summary", "Test yourself", "Exercises", "Further reading"]
    for path in (path for path in NOTEBOOKS if path.stem == path.parent.name):
        text = "\n".join(
            c.source for c in tools.read_notebook(ROOT / path).cells if c.cell_type == "markdown"
        )
        headings = re.findall(r"^## (.*)$", text, flags=re.M)
        assert [heading for heading in headings if heading in wanted] == wanted, path
        assert 5 <= text.count("<details><summary>") - text.count("<summary>Answer") <= 10, path


def test_cell_ids_are_there_and_unique():
    for path in NOTEBOOKS:
        ids = [cell.id for cell in tools.read_notebook(ROOT / path).cells]
        assert len(set(ids)) == len(ids), path


def test_the_names_of_design_are_importable():
    from ch01_tokenization.tokenizer import BPETokenizer, CharTokenizer  # noqa: F401
    from ch02_embeddings.embeddings import InputEmbedding, RotaryEmbedding, TokenEmbedding  # noqa: F401
    from ch03_attention.attention import MultiHeadAttention, causal_mask, softmax  # noqa: F401
    from ch04_transformer.transformer import GPT, GPTConfig, LayerNorm, RMSNorm, TransformerBlock  # noqa: F401
    from ch05_training.training import AdamW, TrainConfig, Trainer, bits_per_byte  # noqa: F401
    from ch06_inference.inference import KVCache, generate, plot_attention, stream  # noqa: F401

    assert {"train", "encode", "encode_iterable", "decode", "save", "load", "gpt2"} <= set(dir(BPETokenizer))


def definitions(folder):
    """(name, path) of each public class and function at the top level of the modules of a folder.

    The checks of the exercises, and what fits a reader's pieces in, name theirs as what they are about.
    """
    about_others = ("checks.py", "fitting.py", "rebuilding.py")
    for path in (path for path in sorted((ROOT / folder).glob("*.py")) if path.name not in about_others):
        text = path.read_text(encoding="utf-8")
        yield from ((name, path) for name in re.findall(r"^(?:class|def) ([A-Za-z]\w*)", text, flags=re.M))


def test_a_definition_is_written_once():
    """No two chapters define one name, and what an appendix teaches has no name that a chapter teaches.

    But for the page of appendix A, which is the whole algorithm once more.
    """
    seen = {}
    for name, path in (found for chapter in tools.CHAPTERS for found in definitions(chapter)):
        assert name not in seen, f"{name} is defined in {seen[name]} and in {path}"
        seen[name] = path
    taught = {name: path for name, path in seen.items() if path.name not in tools.HAND_WRITTEN}
    for name, path in (found for appendix in tools.APPENDICES for found in definitions(appendix)):
        if path.name not in {*tools.HAND_WRITTEN, "one_page.py"}:
            assert name not in taught, f"{name} is defined in {taught[name]} and in {path}"


def test_data_packages_are_pinned_by_hash():
    lines = [
        line for line in tools.lines_of(ROOT / "requirements-data.txt") if line and not line.startswith("#")
    ]
    assert len(lines) == 3 and all(
        re.fullmatch(r"[\w-]+==[\d.]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines
    )


# guards against: a comparison without an assert
def test_no_test_compares_without_asserting():
    """Every test asserts something, by itself or by calling a function of its file that does."""
    import ast

    for path in sorted((ROOT / "tests").glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        asserting = {name for name, node in functions.items() if _asserts(node, set())}
        for name in (name for name in functions if name.startswith("test_")):
            assert name in asserting or _asserts(functions[name], asserting), f"{path.name}: {name}"


def _asserts(function, asserting):
    """Whether a function asserts, expects an error, or calls one of the functions named `asserting`."""
    import ast

    nodes = list(ast.walk(function))
    calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    return any(isinstance(node, ast.Assert) for node in nodes) or bool(
        calls & (asserting | {"pytest.raises", "torch.testing.assert_close", "fails"})
    )


def test_ci_runs_what_the_readme_says_and_what_authors_check():
    lines = [line.strip() for line in tools.lines_of(ROOT / ".ci" / "run")]
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make check", "make test"]
    assert "make check test PYTHON=python" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


# ---------------------------------------------------------------- the rules catch what breaks them


@pytest.fixture
def broken(tmp_path):
    """A copy of the repository to break."""
    return copy_of_the_repository(tmp_path / "copy")


NOTEBOOK = Path("ch03_attention/ch03_attention.ipynb")


def edit(change):
    """A breakage that changes the parsed notebook of chapter 3."""

    def apply(root):
        notebook = tools.read_notebook(root / NOTEBOOK)
        change(notebook)
        nbformat.write(notebook, root / NOTEBOOK)

    return apply


def append(name, text):
    """A breakage that adds text to a file, new or old."""

    def apply(root):
        with open(root / name, "a", encoding="utf-8") as file:
            file.write(text)

    return apply


def first_code(notebook):
    return next(cell for cell in notebook.cells if cell.cell_type == "code" and not tools.is_setup(cell))


def add_definition(notebook):
    notebook.cells.append(nbformat.v4.new_code_cell("#| export\ndef forgotten(): ...", execution_count=1))


def add_code(source):
    """A breakage that adds a code cell to the notebook of chapter 3."""
    return edit(lambda nb: nb.cells.append(nbformat.v4.new_code_cell(source, execution_count=1)))


def add_stderr(notebook):
    first_code(notebook).outputs = [nbformat.v4.new_output("stream", name="stderr", text="Warning: no")]


BREAKAGES = {
    "out of step with its notebook": [
        append("ch03_attention/attention.py", "\nx = 1\n"),
        edit(add_definition),
    ],
    "comes from no notebook": [append("ch03_attention/extra.py", "x = 1\n")],
    "not an import": [append("ch03_attention/previous_chapters.py", "def mine():\n    pass\n")],
    "has no previous_chapters.py": [lambda root: (root / "ch02_embeddings/previous_chapters.py").unlink()],
    "which is a later chapter": [
        append("ch03_attention/previous_chapters.py", "from ch04_transformer.transformer import GPT\n"),
        add_code("import ch05_training.training"),
    ],
    "has no stored execution": [edit(lambda nb: first_code(nb).update(execution_count=None))],
    "shows a remote image": [
        edit(
            lambda nb: nb.cells.append(nbformat.v4.new_markdown_cell("![a cat](https://example.org/cat.png)"))
        ),
        edit(
            lambda nb: nb.cells.append(
                nbformat.v4.new_markdown_cell('<img src="https://example.org/cat.png">')
            )
        ),
    ],
    "holds widget metadata": [edit(lambda nb: nb.metadata.update(widgets={"application/x": {}}))],
    "needs exactly one Colab badge": [
        edit(lambda nb: nb.cells[0].update(source=nb.cells[0].source.replace("blob/main", "blob/old"))),
        edit(lambda nb: nb.cells[0].update(source="# No badge")),
    ],
    "needs exactly one set-up cell": [edit(lambda nb: nb.cells.pop(1))],
    "stored output on stderr": [edit(add_stderr)],
    "lines of code, and 40 are the limit": [add_code("x = 1\n" * 41)],
    "lines are guards, and 10% are the limit": [
        append("ch03_attention/attention.py", "\ndef f(x):\n" + "    assert x\n" * 50)
    ],
    "minutes to read, and 90 are the limit": [
        edit(lambda nb: nb.cells.append(nbformat.v4.new_markdown_cell("word " * 180 * 91)))
    ],
    "other minutes on its title page": [
        edit(lambda nb: nb.cells[0].update(source=re.sub(r"\d+ minutes", "1 minutes", nb.cells[0].source)))
    ],
    "a comment for the linter or the exporter": [
        add_code("import os  # noqa: F401"),
        add_code("# (in the module) import os"),
    ],
    "other metadata than its tags": [edit(lambda nb: first_code(nb).metadata.update(collapsed=True))],
    "which no cell of the notebook exports or imports": [add_code("#| export\ndef f():\n    return nowhere")],
    "which is not there": [
        append("README.md", "\n[a chapter](ch09_dreams/ch09_dreams.ipynb)\n"),
        edit(lambda nb: nb.cells.append(nbformat.v4.new_markdown_cell("[next](../ch04/ch04.ipynb#norms)"))),
    ],
    "README.md: ": [append("README.md", "\ngit clone https://example.org/elsewhere\n")],
}


@pytest.mark.parametrize(
    ("message", "breakage"),
    [(message, change) for message, changes in BREAKAGES.items() for change in changes],
)
def test_every_rule_catches_its_breakage(broken, message, breakage):
    breakage(broken)
    assert any(message in problem for problem in tools.problems(broken)), message


def test_badges_follow_the_url(broken):
    pyproject = broken / "pyproject.toml"
    text = pyproject.read_text(encoding="utf-8")
    moved = re.sub(r'repository = "[^"]*"', 'repository = "https://github.com/someone/elsewhere"', text)
    pyproject.write_text(moved.replace('revision = "main"', 'revision = "v2"'), encoding="utf-8")
    before = tools.problems()
    assert len(tools.problems(broken)) > 2 * len(tools.CHAPTERS)
    tools.write_badges(broken)
    assert tools.problems(broken) == before
    notebook = (broken / NOTEBOOK).read_text(encoding="utf-8")
    assert f"someone/elsewhere/blob/v2/{NOTEBOOK.as_posix()}" in notebook and '\\"v2\\"' in notebook
    tools.export_all(broken)
    assert tools.problems(broken) == before


def test_execute_stores_outputs_and_drops_noise(tmp_path):
    code = "import sys\nprint('a', flush=True)\nprint('b')\nprint('\\r 50%', file=sys.stderr)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)], metadata={"widgets": {}})
    identity = notebook.cells[0].id
    nbformat.write(notebook, tmp_path / "n.ipynb")
    tools.execute(Path("n.ipynb"), tmp_path)
    cell = tools.read_notebook(tmp_path / "n.ipynb").cells[0]
    assert cell.id == identity and cell.execution_count == 1
    assert [(output.name, output.text) for output in cell.outputs] == [("stdout", "a\nb\n")]
    assert "widgets" not in tools.read_notebook(tmp_path / "n.ipynb").metadata


def test_nothing_names_this_machine_or_a_registry():
    forbidden = re.compile(
        "|".join(
            ["/" + "work/", "/" + "root/", "pypi" + r"\.org", "npm" + r"js\.", "files\\.python" + "hosted"]
        )
    )
    for name in filter(
        None, run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    ):
        if (ROOT / name).is_file() and not name.endswith(".png"):
            match = forbidden.search((ROOT / name).read_text(encoding="utf-8", errors="replace"))
            assert match is None, f"{name} names {match[0]}"
