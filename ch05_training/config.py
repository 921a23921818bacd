"""Whether torch.compile works on this machine, and why not. Written by hand, since it teaches nothing."""

import functools
import os
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path

import torch


@functools.cache
def check_compiler(device):
    """ValueError, with the cause, when torch.compile does not work on a device. It is tried, on one line.

    That takes seconds, most of them for what the first real compilation then need not load again.
    """
    new = float(time.time_ns())  # a line that was never compiled before: no cache may answer
    try:
        with warnings.catch_warnings(action="ignore"):  # an error says it all
            torch.compile(lambda x: x + new, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:
        raise ValueError(f"{why_not_compiled(str(error))}, or give compile=False") from None


def why_not_compiled(text):
    """The cause and a way out, as the beginning of a sentence, from the text of an error of torch.compile."""
    said = text.split("\nSet TORCH")[0].split("Output:\n")[-1]  # by the compiler, if there was one
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["the compiler said nothing"]
    line = next((line for line in lines if "error:" in line or "cannot find" in line), lines[0])[:300]
    if "No working C++ compiler" in text or "Failed to find C compiler" in text:
        return f"compile=True needs a C++ compiler such as g++ that works, and has none ({line}); install one"
    places = {
        Path(torch.__file__).parent: "move the course and its .venv to a path without one",
        Path(sysconfig.get_path("include")): "move Python to a path without one",
        Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")): "set TORCHINDUCTOR_CACHE_DIR to one without",
        Path(tempfile.gettempdir()): "set TMPDIR to one without",
    }
    for place, remedy in places.items():
        if " " in str(place) and place.as_posix() in text.replace("\\", "/"):
            return f"compile=True fails because of the space in {str(place)!r} ({line}); {remedy}"
    if "Python.h" in said:
        return f"compile=True needs Python's headers ({line}); install them (Debian, Ubuntu: python3-dev)"
    return f"compile=True does not work here ({line}); fix that"
