"""Install packages with pip; say before what is coming, and after a failure what failed and what else to do.

    python tests/install.py FILE [pip option]...     all of a requirements file, for make
    python tests/install.py --missing FILE [FILE]... only what this Python lacks, for a notebook's set-up cell

A failure is pip's own words followed by one sentence, and exit code 1. Environment variables: COMMAND is what
the reader typed ("make gpt"), for the way out; TORCH=cpu asks for PyTorch's CPU build, from TORCH_CPU_INDEX.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
KEPT = ("torch", "numpy", "jupyterlab")  # Colab has its own, made for its GPU: never replaced from a notebook

# ---------------------------------------------------------------- before


def has_nvidia_card():
    """Whether this machine shows an NVIDIA card (on WSL the driver's program is not on the path)."""
    places = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/usr/lib/wsl/lib/nvidia-smi")
    return bool(shutil.which("nvidia-smi")) or any(map(os.path.exists, places))


def announcement(command):
    """What a Linux machine without an NVIDIA card should know before the download; None elsewhere."""
    if sys.platform != "linux" or has_nvidia_card() or installed("torch"):
        return None
    return (
        "This machine shows no NVIDIA card, and on Linux PyTorch brings all that such cards need: "
        "2.8 GB to download, 5.1 GB on the disk.\nPyTorch's CPU build does the same here with 0.3 GB "
        "and 1.3 GB. "
        f"To take it, press Ctrl-C now and run: {command} TORCH=cpu"
    )


def installed(package):
    """The installed version of a package, "" when there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


# ---------------------------------------------------------------- after

# What pip writes to standard error, the surest sign first: (pattern, what failed, the way out).
SIGNS = (
    (
        "No module named pip",
        "{prefix} has no pip, as when uv has made it",
        "go on with uv as the README says, or install anew: make clean, then {command}",
    ),
    (
        "DO NOT MATCH THE HASHES",
        "a file differs from the one that {file} names by its hash",
        "get it afresh: {pip} cache purge, and git checkout {file} if you changed it, then {command}",
    ),
    (
        r"No space left on device|\[Errno 28\]|not enough space on the disk",
        "the disk is full: {free:.1f} GB are free in this folder",
        "free 6 GB, or take PyTorch's CPU build, which needs 2: {command} TORCH=cpu",
    ),
    (
        "externally-managed-environment|Permission denied|Access is denied",
        "pip may not write into {prefix}",
        "make the folder yours, or clone the course to where you may write",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED|SSLError",
        "the package index showed a certificate that is not trusted here, as a company's proxy does",
        "name the company's certificates: {pip} config set global.cert FILE; or take another network",
    ),
    (
        "NewConnectionError|ConnectTimeoutError|ReadTimeoutError|NameResolutionError|ProxyError|ProtocolError"
        "|Connection aborted|Read timed out|IncompleteRead|Temporary failure in name resolution",
        "the package index could not be reached",
        "go online, or name a proxy or a mirror (HTTPS_PROXY=..., or {pip} config set "
        "global.index-url ...), then {command}; what was downloaded is kept",
    ),
)
CONFLICT = (
    "ResolutionImpossible|conflicting dependencies|resolution-too-deep",
    "the versions that were asked for do not go together on Python {python}",
    "take the newest version of everything: {command} PINS=",
)
# The second: a single package that cannot be installed has no build of the version in constraints.txt.
NO_BUILD = re.compile(
    r"No matching distribution found for (\S+)|Cannot install (\S+) because|Failed to build[^\w]+([\w.-]+)"
)
OTHER = (
    "pip could not install {file}, and its last words above say why",
    "take the newest version of everything: {command} PINS=; or its commands one by one, README "
    "'Without make'",
)


def no_build(package, system=None):
    """(what failed, the way out) where a package has no build; system is that of sysconfig.get_platform()."""
    system = system or sysconfig.get_platform()
    macos = re.match(r"macosx-(\d+)[\d.]*-(\w+)", system)
    if macos and macos[2] == "x86_64":
        return (
            "PyTorch ended its builds for Macs with an Intel processor at 2.2",
            "use Colab, as the README says",
        )
    if macos and int(macos[1]) < 14:
        return (
            f"the pinned version of {package} needs macOS 14, and this is {macos[1]}",
            "update macOS, or take the newest versions that fit: {command} PINS=",
        )
    if system == "win-arm64":
        return f"{package} has no build for Windows on Arm", "install Python for x86-64, which runs there too"
    if system.startswith("linux") and platform.libc_ver()[0] != "glibc":
        return f"{package} has no build for a Linux without glibc", "use Debian, Ubuntu or one like them"
    return (
        f"{package} has no build for Python {platform.python_version()} on {system}",
        "name a Python from 3.11 to 3.15: make clean, then {command} PYTHON=python3.13; or take the newest "
        "version of everything: {command} PINS=",
    )


def diagnosis(said, file, command=None):
    """pip's words on standard error -> one sentence: what failed, and a way out that can help.

    command: what the reader typed; None in a notebook, where the cell can be run again.
    """
    failed, way_out = OTHER if not re.search(CONFLICT[0], said) else CONFLICT[1:]
    missing = NO_BUILD.search(said)
    if missing:
        failed, way_out = no_build(next(filter(None, missing.groups())).replace("{", "{{").replace("}", "}}"))
    for pattern, *sign in SIGNS:
        # without a network there are no versions to choose from; where some are listed, there was one
        if re.search(pattern, said) and not (missing and "(from versions: " in said.replace(": none)", "")):
            failed, way_out = sign
            break
    way_out = way_out if command else "when that is mended, run this cell again"
    return f"error: {failed}; {way_out}".format(
        file=file,
        command=command,
        pip=f'"{Path(sys.executable).as_posix()}" -m pip',
        prefix=sys.prefix,
        free=shutil.disk_usage(".").free / 1e9,
        python=platform.python_version(),
    )


# ---------------------------------------------------------------- pip


def pip(options, file, command=None):
    """Run `pip install`. Its bars and its complaints go to the terminal, and after a failure our sentence."""
    line = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options]
    said = []
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        for text in process.stderr:
            said.append(text)
            print(text, end="", file=sys.stderr, flush=True)
    if process.returncode:
        print(diagnosis("".join(said), file, command), file=sys.stderr)
        sys.exit(1)


def install(file, options, command):
    """Install a requirements file for make."""
    switch = os.environ.get("TORCH", "")
    if switch not in ("", "cpu"):
        sys.exit(f"error: TORCH={switch} is unknown; give TORCH=cpu for PyTorch's CPU build, or leave it out")
    if "torch" in names(file):
        # who has the CPU build keeps it, also when an update brings another version
        if switch == "cpu" or installed("torch").endswith("+cpu"):
            index = os.environ.get("TORCH_CPU_INDEX") or CPU_INDEX
            # pip would take the CUDA build that is there for good enough
            cuda = sys.platform == "linux" and installed("torch") and not installed("torch").endswith("+cpu")
            force = ["--force-reinstall"] if cuda else []
            pip(["--no-deps", *force, "--index-url", index, "torch", *options], file, command)
        elif news := announcement(command):
            print(news, flush=True)
            time.sleep(10 if sys.stdin.isatty() else 0)
    pip(["-r", file, *options], file, command)


# ---------------------------------------------------------------- from a notebook


def names(file):
    """The packages that a requirements file names, without the files it includes."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return [re.match(r"[\w.-]+", line)[0] for line in lines if re.match(r"\w", line)]


def lacking(file):
    """The packages of a requirements file that are not here, neither installed nor to be imported."""
    found = importlib.util.find_spec
    return [name for name in names(file) if not installed(name) and not found(name.replace("-", "_"))]


def install_missing(files):
    """Install what is lacking of some requirements files; this Python's torch and numpy stay as they are."""
    if lost := [name for name in ("torch", "numpy") if not installed(name)]:
        sys.exit(
            f"error: the Python of this notebook, {sys.executable}, has no {' and no '.join(lost)}; "
            "open the notebook with: make lab, in the course's folder"
        )
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder, "kept.txt")
        kept.write_text("".join(f"{name}==={installed(name)}\n" for name in ("torch", "numpy")))
        for file in files:
            wanted = [name for name in lacking(file) if name not in KEPT]
            if not wanted:
                continue
            print(f"Installing {', '.join(wanted)} ...", flush=True)
            is_data = "--hash" in Path(file).read_text(encoding="utf-8")
            pip(["--quiet", *(["--no-deps", "-r", file] if is_data else ["-c", str(kept), *wanted])], file)


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["--missing"]:
            install_missing(sys.argv[2:])
        else:
            install(sys.argv[1], sys.argv[2:], os.environ.get("COMMAND") or "make gpt")
    except KeyboardInterrupt:
        sys.exit(130)
