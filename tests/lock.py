"""Write constraints.txt, and its copy for uv in pyproject.toml, for every Python and platform: `make lock`.

The versions come from uv's universal resolution: one file, in which markers say what is for which Python
and which platform. Then every pair of PLATFORMS and PYTHONS is resolved once more from these versions, with
wheels only, so that no reader has to compile anything. Needs a network.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11.0", "3.11.2", "3.12", "3.13", "3.14", "3.15")
PLATFORMS = (
    "x86_64-manylinux_2_28",
    "aarch64-manylinux_2_28",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
)
HEAD = """\
# The exact versions that CI runs, with all they need, for Python 3.11 to 3.15 on Linux, macOS and Windows.
# Written by: make lock
"""
BLOCK = re.compile(r"^constraint-dependencies = \[\n.*?^\]\n", flags=re.MULTILINE | re.DOTALL)


def resolve(constraints, *options):
    """What `uv pip compile` makes of requirements-dev.txt under the text `constraints`, and what uv said."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "requirements-dev.txt", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "constraints.txt")
        file.write_text(constraints, encoding="utf-8")
        return subprocess.run(
            [*command, "--no-header", "--no-annotate", "--constraints", str(file), *options],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"},  # PyTorch has no wheel for an older one
        )


def uv_block(constraints):
    """The text of constraints.txt -> the setting of pyproject.toml that says the same to uv."""
    pins = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    return "constraint-dependencies = [\n" + "".join(f'    "{pin}",\n' for pin in pins) + "]\n"


def write(constraints, root=ROOT):
    """Write both places of the lock."""
    (root / "constraints.txt").write_text(constraints, encoding="utf-8")
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    block = uv_block(constraints)
    (root / "pyproject.toml").write_text(BLOCK.sub(lambda _: block, text), encoding="utf-8")


def main():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["course"]
    before = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    write(HEAD)  # uv reads pyproject.toml too, and the old versions must not hold the new ones back
    done = resolve("\n".join(settings["torch"]), "--universal", "--python-version", PYTHONS[0])
    if done.returncode:
        write(before)
        print(done.stderr, file=sys.stderr)
        return 1
    write(HEAD + done.stdout)
    return int(not all([has_wheels(HEAD + done.stdout, *pair) for pair in product(PLATFORMS, PYTHONS)]))


def has_wheels(constraints, platform, python):
    """Whether the lock can be installed there without compiling anything; prints the answer."""
    options = ["--python-platform", platform, "--python-version", python, "--only-binary", ":all:"]
    done = resolve(constraints, *options)
    answer = "no solution: " + done.stderr if done.returncode else "wheels for all"
    print(f"{platform:24} Python {python:7} {answer}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
