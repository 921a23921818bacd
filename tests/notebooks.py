"""What keeps the notebooks, the modules made from them and the repository's URL in step.

    python tests/notebooks.py export [PATH..]   write the chapters' modules from their notebooks
    python tests/notebooks.py execute [PATH..]  run notebooks in fresh kernels and store their outputs
    python tests/notebooks.py check             list what is wrong; exit code 1 if anything is
    python tests/notebooks.py badges            write the URL of pyproject.toml into badges and set-up cells

`make` has a target of the same name for each; test_repository.py asserts what `check` says of the code.
"""

import ast
import re
import sys
import tempfile
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = (
    "ch01_tokenization",
    "ch02_embeddings",
    "ch03_attention",
    "ch04_transformer",
    "ch05_training",
    "ch06_inference",
)
# Course machinery that teaches nothing, so it is written by hand and in no notebook.
HAND_WRITTEN = {"__init__.py", "previous_chapters.py", "checks.py", "figures.py", "fields.py"}

BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({url})"
BADGE_PATTERN = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")
REMOTE_IMAGE = re.compile(
    r"!\[[^\]]*\]\(\s*<?https?://[^)]*\)|<img[^>]+src\s*=\s*[\"']?https?://[^>]*>", re.IGNORECASE
)
SETUP = """# Set-up: finds the course or fetches it, and installs what is missing. Safe to run twice.
import os
import subprocess
import sys
from pathlib import Path

CHAPTER = "{folder}"
FILES = {files}
REPOSITORY, REVISION = "{repository}", "{revision}"
hosts = [place for place in (Path("/content"), Path("/kaggle/working")) if place.is_dir()]  # Colab, Kaggle
home = (hosts or [Path.cwd()])[0]
notebook = Path(globals().get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME") or ".").resolve()
above = [Path.cwd(), *Path.cwd().parents, *notebook.parents, home]
courses = [place for folder in above for place in (folder, folder / "course")
           if (place / CHAPTER / "previous_chapters.py").exists()]  # fmt: skip
if not courses:
    courses = [home / "course"]
    print(f"Fetching the course into {{courses[0]}} ...", flush=True)
    clone = ["git", "clone", "--quiet", "--depth=1", "--branch", REVISION, REPOSITORY, str(courses[0])]
    try:
        subprocess.run(clone, check=True, env=os.environ | {{"GIT_TERMINAL_PROMPT": "0"}})
    except (OSError, subprocess.CalledProcessError):
        way_out = f"with a network and a free name, in a terminal: git clone {{REPOSITORY}} '{{courses[0]}}'"
        raise RuntimeError(f"the course is not here and could not be fetched; {{way_out}}") from None
os.chdir(courses[0] / CHAPTER)
sys.modules.pop("previous_chapters", None)  # in case this kernel was in another chapter before
install = [sys.executable, "tests/install.py", "--missing", *FILES]
done = subprocess.run(install, cwd=courses[0], stderr=subprocess.PIPE, text=True)
if done.returncode:
    print(done.stderr)
    raise RuntimeError((done.stderr.strip().splitlines() or ["the installation was stopped"])[-1])"""

# What every chapter needs, and the chapters that read the pre-trained model besides.
REQUIREMENTS = ("requirements.txt", "requirements-data.txt")
USE_PRETRAINED = ("ch06_inference",)


def notebook_paths(root=ROOT):
    """Every notebook of the repository, sorted; hidden folders, runs/ and mine/ are not part of it."""
    paths = (path.relative_to(root) for path in root.rglob("*.ipynb"))
    return sorted(
        path
        for path in paths
        if not any(part.startswith(".") or part in ("runs", "mine") for part in path.parts)
    )


def read_notebook(path):
    return nbformat.read(path, as_version=4)


def write_notebook(notebook, path):
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


# ---------------------------------------------------------------- the URL, kept in one place


def course_settings(root=ROOT):
    """The [tool.course] table of pyproject.toml: repository and revision."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["course"]


def badge(path, settings):
    github = settings["repository"].removeprefix("https://github.com/")
    return BADGE.format(
        url=f"https://colab.research.google.com/github/{github}/blob/{settings['revision']}/{path.as_posix()}"
    )


def setup_source(path, settings):
    """The set-up cell of the notebook at `path` (relative to the root): the same but for folder and data."""
    files = REQUIREMENTS + (("requirements-pretrained.txt",) if path.parent.name in USE_PRETRAINED else ())
    listed = ", ".join(f'"{name}"' for name in files)
    return SETUP.format(folder=path.parent.as_posix(), files=f"[{listed}]", **settings)


def is_setup(cell):
    return cell.cell_type == "code" and cell.source.startswith("# Set-up:")


def write_badges(root=ROOT):
    settings = course_settings(root)
    for path in notebook_paths(root):
        notebook = read_notebook(root / path)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = BADGE_PATTERN.sub(badge(path, settings), cell.source)
            elif is_setup(cell):
                cell.source = setup_source(path, settings)
        write_notebook(notebook, root / path)
    readme = root / "README.md"
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        lines = [_readme_line(line, settings) for line in text.splitlines()]
        readme.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _readme_line(line, settings):
    """A README line whose Colab and Binder links and clone command point at the repository of `settings`."""
    github = settings["repository"].removeprefix("https://github.com/")
    link = rf"https://colab.research.google.com/github/{github}/blob/{settings['revision']}/\1"
    line = re.sub(r"https://colab\.research\.google\.com/github/[^/]+/[^/]+/blob/[^/]+/([^)\s]+)", link, line)
    binder = rf"https://mybinder.org/v2/gh/{github}/{settings['revision']}?"
    line = re.sub(r"https://mybinder\.org/v2/gh/[^?]+\?", lambda _: binder, line)
    return re.sub(r"git clone \S+", f"git clone {settings['repository']}", line)


# ---------------------------------------------------------------- notebook -> module


def export_chapter(notebook_path, folder):
    """Write the modules of one notebook into `folder`, whose name must be the chapter's.

    A line that starts with `# (in the module) ` is code in the module and a comment in the notebook: a
    module must import what a notebook has from its other cells. Imports from the chapter's own folder
    become relative, which nbdev refuses in a notebook and writes for one-line imports only.
    """
    from nbdev.export import nb_export
    from nbdev.maker import ModuleMaker

    class OneModule(ModuleMaker):
        """nbdev appends to an existing file when a notebook has a second module.

        Here each is written anew.
        """

        def __init__(self, *args, is_new=True, **kwargs):
            super().__init__(*args, is_new=True, **kwargs)
            self.hdr = f"# %% {notebook_path.name}"
            self.dest2nb = notebook_path.name

    def imports(cell):
        if cell.cell_type == "code":
            cell.set_source(re.sub(r"^# \(in the module\) ?", "", cell.source, flags=re.MULTILINE))

    nb_export(str(notebook_path), lib_path=str(folder), procs=[imports], mod_maker=OneModule)
    for path in folder.glob("*.py"):
        if path.name not in HAND_WRITTEN:
            text = path.read_text(encoding="utf-8")
            path.write_text(
                re.sub(rf"^from {folder.name}\.", "from .", text, flags=re.MULTILINE), encoding="utf-8"
            )


def export_all(root=ROOT, destination=None, only=()):
    """Export every chapter that has a notebook; returns the paths written, relative to `destination`."""
    destination = destination or root
    written = []
    for notebook in only or notebook_paths(root):
        if notebook.stem != notebook.parent.name:  # exercises and solutions export nothing
            continue
        folder = destination / notebook.parent
        folder.mkdir(parents=True, exist_ok=True)
        before = set(folder.glob("*.py")) if destination != root else set()
        export_chapter(root / notebook, folder)
        written += sorted(path.relative_to(destination) for path in set(folder.glob("*.py")) - before)
    return [path for path in written if path.name not in HAND_WRITTEN]


# ---------------------------------------------------------------- running and storing


def clean_notebook(notebook):
    """Drop what would differ from run to run or hide a fault: progress bars, widget state, run times."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            _join_streams(cell)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "code":
            cell.outputs = [
                output for output in cell.outputs if not (_is_progress(output) or _is_widget(output))
            ]
    return notebook


def _join_streams(cell):
    """A text printed piece by piece is stored as one output."""
    joined = []
    for output in cell.outputs:
        last = joined[-1] if joined else {}
        if output.output_type == "stream" and output.get("name") == last.get("name"):
            last.text += output.text
        else:
            joined.append(output)
    cell.outputs = joined


def _is_progress(output):
    """tqdm writes to stderr with carriage returns, and a line break when it closes.

    A real warning has text.
    """
    return (
        output.output_type == "stream"
        and output.name == "stderr"
        and ("\r" in output.text or not output.text.strip())
    )


def _is_widget(output):
    """A widget needs a live kernel; a stored one would be an empty place in the page."""
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def execute(path, root=ROOT):
    """Run one notebook in a fresh kernel, from its own folder, and store its outputs."""
    from nbclient import NotebookClient

    notebook = read_notebook(root / path)
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str((root / path).parent)}},
    )
    client.execute()
    write_notebook(clean_notebook(notebook), root / path)


# ---------------------------------------------------------------- what can be wrong


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
    found += [f"README.md: {line.strip()!r} does not point at {settings['repository']}; run: make badges"
              for line in _lines(root / "README.md") if line != _readme_line(line, settings)]  # fmt: skip
    return found


def code_problems(root=ROOT):
    """What is wrong with the code, whatever the notebooks have stored."""
    return [*module_problems(root), *previous_chapters_problems(root), *import_problems(root)]


def _lines(path):
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def module_problems(root=ROOT):
    """Modules that differ from their notebook, and modules that no notebook makes."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = export_all(root, Path(folder))
        for path in fresh:
            if _lines(root / path) != _lines(Path(folder) / path):
                yield f"{path} is out of step with its notebook; run: make export"
        for chapter in CHAPTERS:
            for path in sorted((root / chapter).glob("*.py")):
                if path.name not in HAND_WRITTEN and path.relative_to(root) not in fresh:
                    yield f"{path.relative_to(root)} comes from no notebook; delete it or write it in one"


def previous_chapters_problems(root=ROOT):
    """A previous_chapters.py may hold a docstring, imports, `__all__` and the sys.path line, no more."""
    for chapter in CHAPTERS:
        path = root / chapter / "previous_chapters.py"
        if not path.exists():
            yield f"{chapter} has no previous_chapters.py"
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            text = ast.unparse(node)
            allowed = isinstance(node, ast.Import | ast.ImportFrom) or text.startswith(
                ("__all__", "sys.path.insert")
            )
            if not allowed and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                yield f"{chapter}/previous_chapters.py line {node.lineno}: not an import: {text[:60]}"


def import_problems(root=ROOT):
    """A chapter may import from itself and from earlier chapters only."""
    for number, chapter in enumerate(CHAPTERS):
        sources = [
            (path.name, path.read_text(encoding="utf-8")) for path in sorted((root / chapter).glob("*.py"))
        ]
        for path in sorted((root / chapter).glob("*.ipynb")):
            code = [cell.source for cell in read_notebook(path).cells if cell.cell_type == "code"]
            sources.append(
                (
                    path.name,
                    "\n".join(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M) for source in code),
                )
            )
        for name, source in sources:
            for node in ast.walk(ast.parse(source)):
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                for module in modules:
                    top = module.split(".")[0]
                    if top in CHAPTERS and CHAPTERS.index(top) > number:
                        yield f"{chapter}/{name}: imports {module}, which is a later chapter"


def notebook_problems(notebook, path, settings):
    """What is wrong with one notebook, as sentences."""
    if "widgets" in notebook.metadata:
        yield "holds widget metadata; run: make execute"
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    badges = BADGE_PATTERN.findall(text)
    if badges != [badge(path, settings)]:
        yield f"needs exactly one Colab badge, for {settings['repository']}; run: make badges"
    if [cell.source for cell in notebook.cells if is_setup(cell)] != [setup_source(path, settings)]:
        yield "needs exactly one set-up cell, the one of tests/notebooks.py; run: make badges"
    for image in REMOTE_IMAGE.findall(BADGE_PATTERN.sub("", text)):
        yield f"shows a remote image, {image}; draw it with code"
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        name = f"code cell {number} ({cell.source.strip().splitlines()[0][:40]!r})"
        if cell.execution_count is None:
            yield f"{name} has no stored execution; run: make execute NB={path}"
        if code_lines(cell.source) > 40:
            yield f"{name} has {code_lines(cell.source)} lines of code, and 40 are the limit; split it"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"{name} stored an error"
            elif output.output_type == "stream" and output.name == "stderr":
                yield f"{name} stored output on stderr: {output.text.strip()[:60]!r}"


def code_lines(source):
    """How many lines of code a cell has: no comments, empty lines and docstrings."""
    tree = _without_docstrings(ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.M)))
    return len(ast.unparse(tree).splitlines())


def _without_docstrings(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and len(body) > 1 and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant):
                node.body = body[1:]
    return tree


def main(arguments):
    command, *paths = arguments or ["help"]
    if command == "export":
        export_all(only=[Path(path) for path in paths])
    elif command == "execute":
        for path in [Path(path) for path in paths] or notebook_paths():
            print(f"executing {path}", flush=True)
            execute(path)
    elif command == "check":
        found = problems()
        print("\n".join(found) or "notebooks, modules and badges are in step")
        return bool(found)
    elif command == "badges":
        write_badges()
    else:
        print(__doc__)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
