"""The repository's URL, kept in one place: badges, set-up cells and the README follow pyproject.toml."""

import re
import tomllib
from pathlib import Path

from ch01_tokenization.pieces import entries
from notebooks.files import (
    FOLDERS,
    ROOT,
    is_setup,
    is_workbook,
    notebook_paths,
    read_notebook,
    write_notebook,
)
from notebooks.reading import minutes, with_reading_time
from notebooks.running import fold

BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({url})"
BADGE_PATTERN = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")
SETUP = """# @title Set-up: finds the course or fetches it, and installs what is missing. Safe to run twice.
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
        advice = f"with a network and a free name, in a terminal: git clone {{REPOSITORY}} '{{courses[0]}}'"
        raise RuntimeError(f"the course is not here and could not be fetched; {{advice}}") from None
os.chdir(courses[0] / CHAPTER)
sys.modules.pop("previous_chapters", None)  # in case this kernel was in another chapter before
install = [sys.executable, "tests/install.py", "--missing", *FILES]
done = subprocess.run(install, cwd=courses[0], stderr=subprocess.PIPE, text=True)
if done.returncode:
    print(done.stderr)
    raise RuntimeError((done.stderr.strip().splitlines() or ["the installation was stopped"])[-1])"""

# What every chapter needs, and the chapters that read the pre-trained model besides.
REQUIREMENTS = ("requirements.txt", "requirements-data.txt")
USE_PRETRAINED = ("ch06_inference", "e_compression", "g_finetuning")


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


def write_badges(root=ROOT):
    """Bring everything up to date that is written into notebooks and README by a rule."""
    settings = course_settings(root)
    for path in notebook_paths(root):
        notebook = read_notebook(root / path)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = BADGE_PATTERN.sub(badge(path, settings), cell.source)
            elif is_setup(cell):
                cell.source = setup_source(path, settings)
        write_notebook(with_reading_time(fold(notebook)), root / path)
    readme = root / "README.md"
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        lines = [readme_line(line, settings, root) for line in text.splitlines()]
        readme.write_text("\n".join(lines) + "\n", encoding="utf-8")


def readme_line(line, settings, root=ROOT):
    """A README line as it has to be.

    Its Colab and Binder links and clone command point at the repository of `settings`, and a row of the map
    that links a notebook says how many minutes it takes to read.
    """
    row = re.match(r"\| [^|]*\]\(([\w/]+\.ipynb)\)", line)
    if row and (root / row[1]).exists():
        notebook, worked = read_notebook(root / row[1]), is_workbook(Path(row[1]))
        n = sum(entry.minutes for entry in entries(notebook)) if worked else minutes(notebook)
        line = re.sub(r"\| \d+ min \|", f"| {n} min |", line, count=1)
        line = re.sub(r"\| \d+ exercises", f"| {len(entries(notebook))} exercises", line, count=1)
    if re.search(r"\w+ exercises in all, \w+ hours of work", line):
        paths = [root / folder / "solutions.ipynb" for folder in FOLDERS]
        found = [entry for path in paths if path.exists() for entry in entries(read_notebook(path))]
        hours = round(sum(entry.minutes for entry in found) / 60)
        all_of_them = f"{len(found)} exercises in all, {hours} hours of work"
        line = re.sub(r"\w+ exercises in all, \w+ hours of work", all_of_them, line)
    github = settings["repository"].removeprefix("https://github.com/")
    link = rf"https://colab.research.google.com/github/{github}/blob/{settings['revision']}/\1"
    line = re.sub(r"https://colab\.research\.google\.com/github/[^/]+/[^/]+/blob/[^/]+/([^)\s]+)", link, line)
    binder = rf"https://mybinder.org/v2/gh/{github}/{settings['revision']}?"
    line = re.sub(r"https://mybinder\.org/v2/gh/[^?]+\?", lambda _: binder, line)
    return re.sub(r"git clone \S+", f"git clone {settings['repository']}", line)
