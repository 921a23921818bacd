"""How much of the library checks its arguments instead of teaching: at most a tenth of each module.

A guard is a line that raises or asserts, with the if or except above it and all that is in there, a function
named check_..., and a call of one. Docstrings, comments and empty lines count neither here nor there.
"""

import ast
import functools

from notebooks.files import FOLDERS, HAND_WRITTEN, ROOT, code_lines

LIMIT = 0.10


@functools.cache
def guard_lines(source):
    """The numbers of the lines of Python source that belong to guards."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if _is_guard(node):
            end = (
                node.body[-1].end_lineno if isinstance(node, ast.If) else node.end_lineno
            )  # without its else
            found.update(range(node.lineno, end + 1))
    return found & code_lines(source)


def _is_guard(node):
    if isinstance(node, ast.Raise | ast.Assert):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return ast.unparse(node.value.func).split(".")[-1].lstrip("_").startswith("check_")
    if isinstance(node, ast.FunctionDef):
        return node.name.lstrip("_").startswith("check_")
    return isinstance(node, ast.If | ast.ExceptHandler) and isinstance(node.body[-1], ast.Raise)


def guards_by_module(root=ROOT):
    """{path: (lines of guards, lines of code)} of every exported module."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).glob("*.py"))]
    sources = {path: path.read_text(encoding="utf-8") for path in paths if path.name not in HAND_WRITTEN}
    return {
        str(path.relative_to(root)): (len(guard_lines(source)), len(code_lines(source)))
        for path, source in sources.items()
    }


def guard_problems(root=ROOT):
    """The modules of which more than a tenth is guards, one sentence each."""
    for name, (guards, lines) in guards_by_module(root).items():
        if guards > LIMIT * lines:
            yield f"{name}: {guards} of {lines} lines are guards, and {LIMIT:.0%} are the limit"
