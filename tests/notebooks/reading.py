"""How long a notebook takes to read, and how long its cells are.

180 words a minute, 8 seconds a line of code. Not counted: code that is folded (set-up and drawing, see
running.py), comments and empty lines. A docstring is prose.
"""

import re

from notebooks.files import (
    ROOT,
    code_lines,
    docstring_lines,
    is_workbook,
    notebook_paths,
    python_of,
    read_notebook,
    tags,
)

WORDS_A_MINUTE, SECONDS_A_LINE = 180, 8
MINUTES, CELLS, LINES_A_CELL, LINES_A_CLASS = 90, 120, 40, 100
TO_READ = re.compile(r"(\| \*\*To read\*\* \| )\d+( minutes)")


def words_of(text):
    """How many words a markdown text has: no HTML tags, no addresses, no rules of tables."""
    text = re.sub(r"<[^>\n]*>|\]\([^)]*\)", " ", text)
    return len(re.findall(r"\S*[^\W_]\S*", text))


def count(notebook):
    """(words, lines of code) that a reader of a notebook reads."""
    words = lines = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            words += words_of(cell.source)
        elif cell.cell_type == "code" and "hide-input" not in tags(cell):
            source = python_of(cell)
            lines += len(code_lines(source))
            shown = source.splitlines()
            words += words_of(" ".join(shown[number - 1] for number in docstring_lines(source)))
    return words, lines


def minutes(notebook):
    words, lines = count(notebook)
    return round(words / WORDS_A_MINUTE + lines * SECONDS_A_LINE / 60)


def with_reading_time(notebook):
    """The notebook with its minutes on the title page."""
    title = notebook.cells[0]
    title.source = TO_READ.sub(rf"\g<1>{minutes(notebook)}\g<2>", title.source)
    return notebook


def cell_lines(notebook):
    """[(lines of code, the cell, whether it is a whole class)] of every code cell, longest first."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            whole_class = len(re.findall(r"^(?:@dataclass.*\n)?class |^def ", cell.source, flags=re.M)) == 1
            whole_class = whole_class and bool(re.search(r"^class ", cell.source, flags=re.M))
            found.append((len(code_lines(python_of(cell))), cell, whole_class))
    return sorted(found, key=lambda entry: -entry[0])


def sitting_problems(notebook):
    """What makes a notebook more than one sitting, as sentences."""
    if minutes(notebook) > MINUTES:
        yield f"takes {minutes(notebook)} minutes to read, and {MINUTES} are the limit; move some to deeper"
    if len(notebook.cells) > CELLS:
        yield f"has {len(notebook.cells)} cells, and {CELLS} are the limit"


def long_cell_problems(notebook):
    """Cells that are too long: one class may be shown whole."""
    classes = 0
    for lines, cell, whole_class in cell_lines(notebook):
        name = f"the cell that begins with {cell.source.strip().splitlines()[0][:40]!r}" if lines else ""
        classes += whole_class and lines > LINES_A_CELL
        limit = LINES_A_CLASS if whole_class and classes == 1 else LINES_A_CELL
        if lines > limit:
            yield f"{name} has {lines} lines of code, and {limit} are the limit; split it"


def table_of_sittings(root=ROOT):
    lines = [f"{'':44}{'minutes':>8}{'words':>8}{'lines':>7}{'cells':>7}{'longest':>9}"]
    for path in (path for path in notebook_paths(root) if not is_workbook(path)):
        notebook = read_notebook(root / path)
        words, code = count(notebook)
        longest = cell_lines(notebook)[0][0]
        row = f"{minutes(notebook):8}{words:8,}{code:7}{len(notebook.cells):7}{longest:9}"
        lines.append(f"{str(path):44}{row}")
    return "\n".join(lines)
