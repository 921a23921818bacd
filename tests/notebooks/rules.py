"""What can be wrong, one sentence each."""

import ast
import functools
import re
import tempfile
from pathlib import Path

from notebooks.export import export_all
from notebooks.files import (
    FOLDERS,
    HAND_WRITTEN,
    ROOT,
    dotted,
    is_setup,
    is_workbook,
    lines_of,
    notebook_paths,
    python_of,
    read_notebook,
    tags,
)
from notebooks.guards import guard_problems
from notebooks.links import BADGE_PATTERN, badge, course_settings, readme_line, setup_source
from notebooks.reading import long_cell_problems, minutes, sitting_problems
from notebooks.running import folded_metadata
from notebooks.workbook import workbook_problems

REMOTE_IMAGE = re.compile(
    r"!\[[^\]]*\]\(\s*<?https?://[^)]*\)|<img[^>]+src\s*=\s*[\"']?https?://[^>]*>", re.IGNORECASE
)
LINK_TO_A_FILE = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def problems(root=ROOT):
    """Every rule of the repository that something breaks, one sentence each; an empty list when all is well.

    For authors: `make check`. A reader who runs, saves and changes notebooks breaks many of these, and his
    code may be right all the same; what `make test` asks of it is code_problems.
    """
    settings = course_settings(root)
    found = list(code_problems(root))
    for path in notebook_paths(root):
        found += [
            f"{path}: {problem}" for problem in notebook_problems(read_notebook(root / path), path, settings)
        ]
    found += [
        f"README.md: {line.strip()[:80]!r} has another address or another time to read; run: make badges"
        for line in lines_of(root / "README.md")
        if line != readme_line(line, settings, root)
    ]
    found += workbook_problems(root)
    found += link_problems(root)
    return found


def code_problems(root=ROOT):
    """What is wrong with the code, whatever the notebooks have stored."""
    return [
        *module_problems(root),
        *previous_chapters_problems(root),
        *import_problems(root),
        *guard_problems(root),
    ]


def module_problems(root=ROOT):
    """Modules that differ from their notebook, and modules that no notebook makes."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            fresh = export_all(root, Path(folder))
        except NameError as error:
            yield str(error)
            return
        for path in fresh:
            if without_imports(root / path) != without_imports(Path(folder) / path):
                yield f"{path} is out of step with its notebook; run: make export"
        for folder in FOLDERS:
            for path in sorted((root / folder).glob("*.py")):
                if path.name not in HAND_WRITTEN and path.relative_to(root) not in fresh:
                    yield f"{path.relative_to(root)} comes from no notebook; delete it or write it in one"


def without_imports(path):
    """The lines of a module but for its import block; a module that is not there has none.

    A chapter that was emptied (tests/empty.py) keeps its imports for whoever writes it again. That no import
    is missing and none too many is ruff's business.
    """
    text = "\n".join(lines_of(path))
    return re.sub(r"(?<=change it there\.\n).*?(?=\n__all__ = )", "", text, count=1, flags=re.S)


def previous_chapters_problems(root=ROOT):
    """A previous_chapters.py may hold a docstring, imports, `__all__` and the sys.path line, no more."""
    for folder in FOLDERS:
        path = root / folder / "previous_chapters.py"
        if not path.exists():
            yield f"{folder} has no previous_chapters.py"
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            text = ast.unparse(node)
            allowed = isinstance(node, ast.Import | ast.ImportFrom) or text.startswith(
                ("__all__", "sys.path.insert")
            )
            if not allowed and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                yield f"{folder}/previous_chapters.py line {node.lineno}: not an import: {text[:60]}"


def import_problems(root=ROOT):
    """A chapter may import from itself and from earlier chapters only, an appendix from all chapters."""
    for number, folder in enumerate(FOLDERS):
        sources = [
            (path.name, path.read_text(encoding="utf-8")) for path in sorted((root / folder).glob("*.py"))
        ]
        for path in sorted((root / folder).glob("*.ipynb")):
            code = [python_of(cell) for cell in read_notebook(path).cells if cell.cell_type == "code"]
            sources.append((path.name, "\n".join(code)))
        for name, source in sources:
            for module in imported(source):
                if any(f"{module}.".startswith(f"{dotted(later)}.") for later in FOLDERS[number + 1 :]):
                    yield f"{folder}/{name}: imports {module}, which is a later chapter"


@functools.cache
def imported(source):
    """The modules that Python source imports, or imports from."""
    modules = []
    for node in ast.walk(ast.parse(source)):
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    return modules


def link_problems(root=ROOT):
    """Links in notebooks and in the README to files of the repository that are not there."""
    texts = {Path("README.md"): "\n".join(lines_of(root / "README.md"))}
    for path in notebook_paths(root):
        cells = read_notebook(root / path).cells
        texts[path] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for path, text in texts.items():
        for target in LINK_TO_A_FILE.findall(re.sub(r"`[^`]*`|\$[^$]*\$", "", text)):
            if not (root / path.parent / target).exists():
                yield f"{path} links to {target}, which is not there"


def notebook_problems(notebook, path, settings):
    """What is wrong with one notebook, as sentences."""
    if "widgets" in notebook.metadata:
        yield "holds widget metadata; run: make execute"
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    badges = BADGE_PATTERN.findall(text)
    if badges != [badge(path, settings)]:
        yield f"needs exactly one Colab badge, for {settings['repository']}; run: make badges"
    if [cell.source for cell in notebook.cells if is_setup(cell)] != [setup_source(path, settings)]:
        yield "needs exactly one set-up cell, the one of tests/notebooks/links.py; run: make badges"
    for image in REMOTE_IMAGE.findall(BADGE_PATTERN.sub("", text)):
        yield f"shows a remote image, {image}; draw it with code"
    yield from long_cell_problems(notebook)
    if not is_workbook(path):
        yield from sitting_problems(notebook)
        if f"| **To read** | {minutes(notebook)} minutes |" not in notebook.cells[0].source:
            yield "has other minutes on its title page than it takes to read; run: make badges"
    yield from folding_problems(notebook)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        name = f"code cell {number} ({cell.source.strip().splitlines()[0][:40]!r})"
        if cell.execution_count is None and path.stem != "exercises":
            yield f"{name} has no stored execution; run: make execute NB={path}"
        if re.search(r"# noqa|^# \(in the module\)", cell.source, flags=re.M):
            yield f"{name} has a comment for the linter or the exporter, which see for themselves"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"{name} stored an error"
            elif output.output_type == "stream" and output.name == "stderr":
                yield f"{name} stored output on stderr: {output.text.strip()[:60]!r}"
            else:
                yield from (f"{name}: {problem}" for problem in figure_problems(output))


def figure_problems(output):
    """A figure says in words what there is to see, for whoever cannot see it."""
    for kind in (kind for kind in output.get("data", {}) if kind.startswith("image/")):
        alt = output.get("metadata", {}).get(kind, {}).get("alt", "")
        if len(alt.split()) < 5 or re.search(r"\.(png|jpe?g|svg)$", alt.strip(), flags=re.I):
            yield f"a figure has the alternative text {alt!r}; say in five words or more what it shows"


def folding_problems(notebook):
    """Predictions and answers are folded, so that the question comes first, and nothing else is."""
    cells = notebook.cells
    for number, cell in enumerate(cells):
        name = f"cell {number} ({cell.source.strip()[:40]!r})"
        if dict(cell.metadata) != folded_metadata(cell):
            yield f"{name} has other metadata than its tags {tags(cell)} ask for; run: make badges"
        if cell.cell_type == "markdown":
            if re.search(r"\*\*Predict, then run\.?\*\*", cell.source):
                following = next((c for c in cells[number + 1 :] if c.cell_type == "code"), None)
                if following is None or "hide-output" not in tags(following):
                    yield f"{name} asks for a prediction; the code cell after it needs the tag hide-output"
            if cell.source.count("<details") != cell.source.count("</details>"):
                yield f"{name} opens a <details> that it does not close"
        elif "hide-output" in tags(cell):
            answer = cells[number + 1].source if number + 1 < len(cells) else ""
            if not answer.startswith("<details><summary>Answer</summary>"):
                yield f"{name} is a prediction; the cell after it begins with a folded answer"
        elif "hide-input" in tags(cell) and "#| export" in cell.source:
            yield f"{name} is exported and folded; what is exported is there to be read"
