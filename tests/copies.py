"""Copies of the repository, for tests that change one."""

import os
import shutil
import subprocess

from notebooks import ROOT


def run(*command, cwd=ROOT, **environment):
    """What a command prints; AssertionError with the end of its output when it fails."""
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | environment,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def copy_of_the_repository(folder):
    """The files of the repository as git sees them, uncommitted ones included."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    return folder


def commit_all(folder):
    """Make a git repository of a folder, with one commit that holds all its files."""
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    run(*git, "init", "--quiet", cwd=folder)
    run(*git, "add", "--all", cwd=folder)
    run(*git, "commit", "--quiet", "--message", "as it is", cwd=folder)
    return folder
