"""What a program says, to terminals, files and pipes. Written by hand, since it teaches nothing."""

import contextlib
import os
import sys
from pathlib import Path

from tqdm import tqdm


def prepare_streams():
    """Where a character cannot be read or written, a stand-in; where a stream was closed before, nothing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")


@contextlib.contextmanager
def or_to_nowhere(stream):
    """After an error of the system, all that is written to a stream goes nowhere."""
    try:
        yield
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Lasting:
    """A stream that may break, by a closed pipe or a full disk, and does not end the program by that."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        with or_to_nowhere(self.stream):
            self.stream.write(text)
        return len(text)

    def flush(self):
        with or_to_nowhere(self.stream):
            self.stream.flush()


def say(text):
    """A line on standard error, above a progress bar if there is one."""
    tqdm.write(text, file=Lasting(sys.stderr))


def say_meanwhile(text):
    """A word to somebody who waits at a terminal; nothing when the output goes to a file or a program."""
    if sys.stderr.isatty():
        say(text)


def program():
    """How to start the program, as a line that can be pasted here: with the Python of .venv, or any other."""
    python, root = Path(sys.executable or "python"), Path(__file__).resolve().parent.parent
    folder = python.parent.parent
    ours = Path.cwd().resolve() == root == folder.parent.resolve() and folder.name == ".venv"
    name = Path(".venv", python.parent.name, "python") if ours else "python"
    return f"{name} -m ch06_inference.gpt"


def on_one_line(error):
    """The text of an exception or a warning, on one line."""
    return " ".join(str(error).split("\n"))
