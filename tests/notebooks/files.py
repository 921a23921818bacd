"""Which notebooks there are, and reading and writing them."""

import functools
import io
import pickle
import re
import tokenize
from ast import Constant, Expr, parse, walk
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent.parent
CHAPTERS = (
    "ch01_tokenization",
    "ch02_embeddings",
    "ch03_attention",
    "ch04_transformer",
    "ch05_training",
    "ch06_inference",
)
APPENDICES = (
    "appendix/a_foundations",
    "appendix/b_debugging",
    "appendix/c_scale",
    "appendix/d_architectures",
    "appendix/e_compression",
    "appendix/f_ablations",
    "appendix/g_finetuning",
)
FOLDERS = CHAPTERS + APPENDICES  # each may import from those before it
# Course machinery that teaches nothing, so it is written by hand and in no notebook.
HAND_WRITTEN = {
    *("__init__.py", "previous_chapters.py", "checks.py", "figures.py", "fields.py"),
    *("config.py", "curves.py", "files.py", "finite.py", "folder.py", "interrupts.py", "machines.py"),
    *("resuming.py", "inference.py", "assembly.py", "texts.py", "folders.py", "terminal.py", "gpt.py"),
    *("model_settings.py", "model_folder.py", "checking.py", "pieces.py", "fitting.py", "rebuilding.py"),
    *("common.py", "everywhere.py", "run_parallel.py"),
    *("train_distributed.py", "distributed_trainer.py", "ranks.py", "shards.py"),
    *("anatomy.py", "bugs.py", "heads.py", "parts.py", "specimens.py", "stepping.py", "whole.py"),
    "try_idea.py",
}
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def notebook_paths(root=ROOT):
    """Every notebook of the repository, sorted; hidden folders, runs/ and mine/ are not part of it."""
    paths = (path.relative_to(root) for path in root.rglob("*.ipynb"))
    return sorted(
        path
        for path in paths
        if not any(part.startswith(".") or part in ("runs", "mine") for part in path.parts)
    )


def dotted(folder):
    """The name by which a folder is imported: appendix/a_foundations -> appendix.a_foundations."""
    return str(folder).replace("/", ".")


def is_main_way(path):
    """Whether a notebook is a chapter itself: ch01_tokenization/ch01_tokenization.ipynb."""
    return path.stem == path.parent.name


def is_workbook(path):
    """Whether a notebook is worked in, and not read in one sitting."""
    return path.stem in ("exercises", "solutions")


def read_notebook(path):
    """A notebook of its own for every call; the same text is parsed once, since tests read it many times."""
    return pickle.loads(parsed(Path(path).read_text(encoding="utf-8")))


@functools.cache
def parsed(text):
    return pickle.dumps(nbformat.reads(text, as_version=4))


def write_notebook(notebook, path):
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def tags(cell):
    return cell.metadata.get("tags", [])


def is_setup(cell):
    return cell.cell_type == "code" and cell.source.startswith(("# @title Set-up:", "# Set-up:"))


def python_of(cell):
    """The source of a code cell without notebook commands (%magic, !shell), line for line."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.M)


@functools.cache
def docstring_lines(source):
    """The numbers of the lines of Python source that hold docstrings, or other strings that do nothing."""
    lines = set()
    for node in walk(parse(source)):
        if isinstance(node, Expr) and isinstance(node.value, Constant) and isinstance(node.value.value, str):
            lines.update(range(node.lineno, node.end_lineno + 1))
    return lines


@functools.cache
def code_lines(source):
    """The numbers of the lines of Python source that hold code: no empty lines, comments and docstrings."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(source)
