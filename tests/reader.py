"""A reader's own copies of the notebooks, and updates of the course that lose nothing.

    python tests/reader.py copy      copy every notebook into mine/ that is not there yet
    python tests/reader.py update    git pull; what the reader changed and it would overwrite moves to mine/

`make lab` and `make update` call them. git ignores mine/, so work in it is never in the way of an update, and
nothing in it is ever overwritten. The set-up cell of a copy changes into the chapter's own folder.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def copy_notebooks(root=ROOT):
    """Copy the notebooks that mine/ lacks; returns what there is to say about it, a line each."""
    mine, lines, copied = root / "mine", [], 0
    mine.mkdir(exist_ok=True)
    record = mine / ".copied.json"  # {notebook: digest of what was copied}
    try:
        digests = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there yet, or damaged: then nobody is told that a copy is old
        digests = {}
    for name, course in the_courses(root).items():
        copy = mine / name
        if not copy.exists():
            write_whole(copy, course)
            digests[name], copied = digest_of(course), copied + 1
        elif digests.get(name, digest_of(course)) != digest_of(course):
            lines.append(f"The course has a newer {name} than your mine/{name}; rename yours to get it.")
    write_whole(record, json.dumps(digests, indent=1).encode())
    return [f"{copied} notebooks copied to mine/."] * bool(copied) + lines


def the_courses(root):
    """{name: bytes} of the notebooks as the course has them, whatever the reader did to the files.

    Without the solutions of the exercises: nobody needs a copy of those.
    """
    try:
        listed = names(root, "ls-tree", "-r", "--name-only", "HEAD")
        found = sorted(name for name in listed if name.endswith(".ipynb") and not is_solution(name))
        return {name: git(root, "show", f"HEAD:./{name}").encode() for name in found}
    except GitFailed:  # a folder that was not cloned
        paths = sorted([*root.glob("ch*/*.ipynb"), *root.glob("appendix/*/*.ipynb")])
        found = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
        return {name: data for name, data in found.items() if not is_solution(name)}


def is_solution(name):
    return name.endswith("/solutions.ipynb")


def write_whole(path, data):
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def digest_of(notebook):
    """A digest of what the cells of a notebook (bytes) say, whatever they printed."""
    sources = [cell["source"] for cell in json.loads(notebook)["cells"]]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


class GitFailed(Exception):
    """Why git could not do what an update needs, in one sentence with the way out."""


def git(root, *arguments, way_out="see git's own words"):
    """The output of a git command in the course's folder; GitFailed with git's words and the way out."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, encoding="utf-8")
    except FileNotFoundError:
        raise GitFailed("git is not installed, and updates come through it; install git") from None
    if done.returncode:
        words = " ".join((done.stderr.strip() or done.stdout.strip() or "no reason given").split())
        raise GitFailed(f"git {arguments[0]} failed ({words}); {way_out}")
    return done.stdout


def names(root, *arguments):
    """The file names that a git command lists."""
    return set(git(root, *arguments, "-z").split("\0")) - {""}


def in_the_way(root):
    """The files that an update would write and that the reader changed, or made.

    With one file of a folder go all that were changed there: a notebook and its modules belong together.
    """
    new = names(root, "diff", "--name-only", "--no-renames", "HEAD", "@{upstream}")
    changed = names(root, "diff", "--name-only", "--no-renames", "HEAD")
    known = names(root, "ls-tree", "-r", "--name-only", "HEAD")
    folders = {Path(name).parent for name in new & changed} - {Path(".")}
    together = {name for name in changed & known if Path(name).parent in folders}
    made = new - known
    here = root.resolve()  # what a link leads to elsewhere is not touched
    files = [root / name for name in sorted((new & changed) | together | made)]
    return [f.relative_to(root).as_posix() for f in files if f.is_file() and f.resolve().is_relative_to(here)]


def move_away(root, files):
    """Move files of the reader's to a new folder in mine/ and put back what git has; returns the folder."""
    folder = root / "mine" / time.strftime("changed-%Y-%m-%d-%H%M%S")
    folder.mkdir(parents=True)  # an error when there is one of that second: nothing is overwritten
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, folder / name)
    known = names(root, "ls-tree", "-r", "--name-only", "HEAD")
    if tracked := [name for name in files if name in known]:
        git(root, "checkout", "HEAD", "--", *tracked)
    for name in set(files) - set(tracked):
        git(root, "reset", "--quiet", "--", name)  # in case it was staged
        (root / name).unlink()
    return folder


def update(root=ROOT):
    """Bring the course up to date; GitFailed says what is in the way. Only files in its way are touched."""
    git(root, "rev-parse", "--git-dir", way_out="clone the course anew, and copy mine/ and runs/ there")
    git(root, "rev-parse", "@{upstream}", way_out="go back to the course's branch with: git switch main")
    git(root, "fetch", way_out="an update needs a network, and the address that this shows: git remote -v")
    if git(root, "rev-parse", "HEAD") == git(root, "rev-parse", "@{upstream}"):
        print("The course is up to date.")
        return
    if int(git(root, "rev-list", "--count", "@{upstream}..HEAD")):
        way_out = "git pull --rebase --autostash joins them with the course's"
        raise GitFailed(f"this branch has commits of its own; {way_out}")
    if (root / git(root, "rev-parse", "--git-path", "MERGE_HEAD").strip()).exists():
        raise GitFailed("a merge was begun and not ended; leave it with: git merge --abort")
    if files := in_the_way(root):
        folder = move_away(root, files).relative_to(root).as_posix()
        print(f"{', '.join(files)}: the course has a newer one; yours is now in {folder}.")
    print(git(root, "merge", "--ff-only", "--no-overwrite-ignore", "@{upstream}"), end="")
    print("\n".join(copy_notebooks(root)))


def main(arguments):
    try:
        if arguments == ["copy"]:
            print("\n".join(copy_notebooks()))
        elif arguments == ["update"]:
            update()
        else:
            print(__doc__)
            return 2
    except (GitFailed, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
