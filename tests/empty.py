"""Stage 2 of a chapter: empty its exported functions, to write them again yourself.

    python tests/empty.py ch03_attention [CHAPTER..]

Every function and method in the cells that begin with `#| export` keeps its decorators, its signature and its
docstring; the body becomes `raise NotImplementedError`. The same is done to the chapter's modules, so nothing
has to be exported. A chapter with uncommitted changes is left as it is.
"""

import ast
import subprocess
import sys
from os.path import basename, relpath
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

from notebooks import (  # noqa: E402
    CHAPTERS,
    HAND_WRITTEN,
    ROOT,
    is_workbook,
    read_notebook,
    write_notebook,
)

RAISE = "raise NotImplementedError"


def functions(node):
    """The functions and methods below a syntax node, in order; what is inside a function belongs to it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        else:
            yield from functions(child)


def emptied(source):
    """Python source with the body of every function replaced; all else is the same, letter for letter."""
    lines = source.split("\n")
    for function in reversed(list(functions(ast.parse(source)))):
        start, end, head = body_range(function, lines)
        lines[start:end] = [(head or " " * (function.col_offset + 3)) + f" {RAISE}"]
    return "\n".join(lines)


def body_range(function, lines):
    """(start, end, head): lines[start:end] are the body without its docstring, with the comments around it.

    head is what stands before a body that is on the line of the signature, and usually empty.
    """
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not statements:  # only a docstring
        return function.end_lineno, function.end_lineno, ""
    nodes = [node for node in ast.walk(statements[0]) if hasattr(node, "lineno")]
    start, column = min((node.lineno - 1, node.col_offset) for node in nodes)  # a decorator comes first
    head = lines[start].encode()[:column].decode().rstrip(" @")
    above = function.body[0].end_lineno if len(statements) < len(function.body) else function.lineno
    while not head and start > above and is_comment(lines[start - 1]):
        start -= 1
    end = function.end_lineno
    while end < len(lines) and is_comment(lines[end], deeper_than=function.col_offset):
        end += 1
    while not lines[end - 1].strip():
        end -= 1
    return start, end, head


def is_comment(line, deeper_than=-1):
    """Whether a line is empty, or a comment that is indented by more than `deeper_than` columns."""
    text = line.lstrip()
    return not text or (text.startswith("#") and len(line) - len(text) > deeper_than)


def empty_file(path):
    """Empty a module, or the exported cells of a notebook."""
    if path.suffix == ".py":
        path.write_text(emptied(path.read_text(encoding="utf-8")), encoding="utf-8")
        return
    notebook = read_notebook(path)
    for cell in notebook.cells:
        if cell.source.startswith("#| export"):
            cell.source = emptied(cell.source)
    write_notebook(notebook, path)


def git(*arguments):
    """The lines that a git command prints about this repository."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def refusal(chapters):
    """Why these chapters cannot be emptied, in one sentence; None when they can."""
    for name in chapters or ["nothing"]:
        if name not in CHAPTERS:
            return f"{name} is not a chapter; name one or more of {', '.join(CHAPTERS)}"
    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *chapters)
    except (OSError, subprocess.CalledProcessError):
        return "git does not know this folder, so it could not bring ours back; get the course with git clone"
    if not changed:
        return None
    name = changed[0][3:]
    start_over = f"git checkout {relpath(ROOT / name.split('/')[0])}"
    return f"{name} has changes; keep them with git commit or git stash, or start over with: {start_over}"


def main(chapters):
    """Empty chapters, and say how to go on; returns the exit code."""
    if chapters in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    chapters = [basename(name.rstrip("/\\")) for name in chapters]  # as Tab completes them
    if reason := refusal(chapters):
        print(f"error: {reason}", file=sys.stderr)
        return 2
    for chapter in chapters:
        names = [name for name in git("ls-files", "--", chapter) if name.endswith((".ipynb", ".py"))]
        names = [n for n in names if basename(n) not in HAND_WRITTEN and not is_workbook(Path(n))]
        for name in names:
            empty_file(ROOT / name)
        tests = " ".join(relpath(path) for path in sorted(ROOT.glob(f"tests/test_{chapter[:4]}*.py")))
        print(f"emptied: {', '.join(names)}")
        print("  write in the notebook and run: make export (on Colab: write in the modules)")
        print(f"  test, up to the first that fails: {sys.orig_argv[0]} -m pytest -o addopts= -q -x {tests}")
        print(f"  ours come back, and yours go, with: git checkout {relpath(ROOT / chapter)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
