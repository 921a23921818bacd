"""The workbook: exercises.ipynb is made from solutions.ipynb by nbgrader's own preprocessors.

What stands between ### BEGIN SOLUTION and ### END SOLUTION becomes a stub. What the heading of an exercise
says of it (stars, minutes, lines, points) is compared with its cells.
"""

import copy
import re

from ch01_tokenization.pieces import entries, source_of
from notebooks.files import FOLDERS, ROOT, read_notebook, write_notebook
from notebooks.links import BADGE_PATTERN, badge, course_settings

SOLUTION = re.compile(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", flags=re.S)
PARTS = ("**Predict.**", "<summary>Hint 1: ", "<summary>Hint 2: ", "<summary>Hint 3: ", "**Think it over.**")


def masters(root=ROOT):
    """The notebooks with solutions, relative to the root, chapters before appendices."""
    paths = [root / folder / "solutions.ipynb" for folder in FOLDERS]
    return [path.relative_to(root) for path in paths if path.exists()]


def exercises_of(solutions, path, settings):
    """What nbgrader would release of a notebook of solutions: stubs in place of answers, no outputs.

    path: of the exercises, for their badge.
    """
    from nbgrader.preprocessors import CheckCellMetadata, ClearOutput, ClearSolutions, LockCells

    notebook, resources = copy.deepcopy(solutions), {}
    for preprocessor in (LockCells, ClearSolutions, ClearOutput, CheckCellMetadata):
        notebook, resources = preprocessor().preprocess(notebook, resources)
    title = notebook.cells[0]
    title.source = BADGE_PATTERN.sub(lambda _: badge(path, settings), title.source)
    return notebook


def write_exercises(root=ROOT):
    """Write every exercises.ipynb; returns their paths."""
    settings, written = course_settings(root), []
    for master in masters(root):
        path = master.with_name("exercises.ipynb")
        write_notebook(exercises_of(read_notebook(root / master), path, settings), root / path)
        written.append(path)
    return written


def workbook_problems(root=ROOT):
    """What is wrong with the workbook, a sentence each."""
    settings = course_settings(root)
    for master in masters(root):
        path, solutions = master.with_name("exercises.ipynb"), read_notebook(root / master)
        made = exercises_of(solutions, path, settings)
        if not (root / path).exists() or read_notebook(root / path).cells != made.cells:
            yield f"{path} is not what {master.name} makes; run: make exercises"
        for entry, cells in sections(solutions):
            yield from (f"{master}: {entry.number} {problem}" for problem in entry_problems(entry, cells))
        yield from (f"{master}: {problem}" for problem in title_problems(solutions))


def sections(notebook):
    """[(entry, its cells)] of a notebook of exercises."""
    found = entries(notebook)
    headings = tuple(f"## {entry.number} " for entry in found)
    starts = [n for n, cell in enumerate(notebook.cells) if cell.source.startswith(headings)]
    ends = [*starts[1:], len(notebook.cells)]
    return [(entry, notebook.cells[start:end]) for entry, start, end in zip(found, starts, ends, strict=True)]


def entry_problems(entry, cells):
    """What an exercise lacks, or says wrongly about itself."""
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    yield from (f"lacks {part!r}" for part in PARTS if part not in text)
    lines = sum(solution_lines(source) for source in entry.code)
    if lines != entry.lines:
        yield f"says {entry.lines} lines, and its solution has {lines}"
    if not 1 <= entry.stars <= 5:
        yield f"has {entry.stars} stars"
    if entry.check is None or f'check("{entry.number}", ' not in source_of(entry.check):
        yield "has no cell that calls its check"
    elif (points := entry.check["metadata"]["nbgrader"]["points"]) != entry.points:
        yield f"says {entry.points} points, and nbgrader gives {points}"


def solution_lines(source):
    """How many lines of code stand in the solution of a cell."""
    lines = "\n".join(SOLUTION.findall(source)).splitlines()
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)


def title_problems(notebook):
    """The numbers on the title page."""
    found, title = entries(notebook), notebook.cells[0].source
    for row in (
        f"| **Exercises** | {len(found)}, {sum(entry.points for entry in found)} points |",
        f"| **To work** | {sum(entry.minutes for entry in found)} minutes, ",
    ):
        if row not in title:
            yield f"its title page should say {row!r}"
