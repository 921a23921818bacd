"""A reader's own pieces in place of the course's: COURSE_MINE=1 switches it on."""

# Written by hand: reading notebooks and replacing names teaches nothing about language models.

import ast
import contextlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Entry", "entries", "namespace"]

ROOT = Path(__file__).resolve().parent.parent
HEADING = re.compile(r"## (\d+\.\d+[a-z]?) (.+)")
FACTS = re.compile(r"^(★+)☆* · (\d+) minutes? · (\d+) lines? · (\d+) points?$", flags=re.M)


@dataclass
class Entry:
    """One exercise of a notebook."""

    number: str
    title: str
    stars: int
    minutes: int
    lines: int
    points: int
    code: list = field(default_factory=list)  # the cells in which the answer is written
    own: list = field(default_factory=list)  # other code cells, the reader's own experiments among them
    check: dict | None = None  # the cell that calls check(...)


def source_of(cell):
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def entries(notebook):
    """The exercises of a notebook, a dict as in its JSON."""
    found = []
    for cell in notebook["cells"]:
        text, marks = source_of(cell), cell["metadata"].get("nbgrader", {})
        if (
            cell["cell_type"] == "markdown"
            and (heading := HEADING.match(text))
            and (facts := FACTS.search(text))
        ):
            found.append(Entry(*heading.groups(), len(facts[1]), *map(int, facts.groups()[1:])))
        elif cell["cell_type"] == "code" and found:
            if marks.get("grade"):
                found[-1].check = cell
            else:
                (found[-1].code if marks.get("solution") else found[-1].own).append(text)
    return found


def namespace(chapter, sources, course=True):
    """What the definitions of code cells make: {name: value}; nothing else that stands in them is run.

    chapter: the folder, for `previous_chapters`. course: whether imports from the course are made. What fails
    is left out: whoever needs it hears of it by a NameError.
    """
    names = {"__name__": f"{chapter}.exercises"}
    for number, source in enumerate(sources):
        with contextlib.suppress(SyntaxError):
            for node in ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.M)).body:
                if wanted := definition(node, chapter, course):
                    with contextlib.suppress(Exception):
                        code = ast.Module([wanted], [])
                        exec(compile(code, f"<{chapter}, cell {number}>", "exec"), names)
    return names


def definition(node, chapter, course):
    """A statement that defines or imports something, made fit for this place; None for all others."""
    if isinstance(node, ast.ImportFrom):
        ours = node.module == "previous_chapters" or node.module.startswith("ch0")
        if node.module.endswith(".checks") or (ours and not course):
            return None
        if node.module == "previous_chapters":
            node.module = f"{chapter}.previous_chapters"
        return node
    kept = ast.Import | ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
    return node if isinstance(node, kept) else None


def read_entries(path):
    return entries(json.loads(Path(path).read_text(encoding="utf-8")))
