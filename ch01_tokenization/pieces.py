"""A reader's own pieces in place of the course's: the environment variable COURSE_MINE switches it on.

Once this module is imported and the switch is on, each of PIECES is taken from the reader's notebook of
exercises when it passes its check there, and from the course when it does not. COURSE_MINE=1 looks into
mine/ and then into the course's own folders; COURSE_MINE=FOLDER looks into another folder, which holds
ch01_tokenization/exercises.ipynb and so on.
"""

# Written by hand: reading notebooks and replacing names teaches nothing about language models.

import ast
import contextlib
import hashlib
import importlib
import importlib.machinery
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from . import fitting

__all__ = ["PIECES", "digest_of_source", "entries", "namespace", "read_entries", "source_of", "whose_pieces"]

ROOT = Path(__file__).resolve().parent.parent
SWITCH = "COURSE_MINE"
SETUP = ("# @title Set-up", "# Set-up")
HEADING = re.compile(r"## ((?:\d+|[A-Z])\.\d+[a-z]?) (.+)")
FACTS = re.compile(r"^(★+)☆* · (\d+) minutes? · (\d+) lines? · (\d+) points?$", flags=re.M)


@dataclass(frozen=True)
class Piece:
    """What a reader's `answer` to exercise `number` takes the place of: `name` in the module `home`."""

    number: str
    answer: str
    home: str
    name: str = ""  # the same as `answer`
    fit: object = None  # fit(answer, module) -> what is put in, where the two are not called alike

    @property
    def target(self):
        return self.name or self.answer


PIECES = (
    Piece("1.5", "learn_merges", "ch01_tokenization.merging", fit=fitting.learn_merges),
    Piece("1.6", "merge_by_rank", "ch01_tokenization.merging", fit=fitting.merge_by_rank),
    Piece(
        *("1.7", "decode_bytes", "ch01_tokenization.tokenizer", "BPETokenizer.decode_bytes"),
        fit=fitting.decode_bytes,
    ),
    Piece("2.4", "sinusoids", "ch02_embeddings.embeddings"),
    Piece("2.6", "rotate_pairs", "ch02_embeddings.rotation", fit=fitting.rotate_pairs),
    Piece("3.2", "softmax", "ch03_attention.attention"),
    Piece("3.3", "causal_mask", "ch03_attention.attention", fit=fitting.causal_mask),
    Piece("3.5", "scaled_dot_product_attention", "ch03_attention.attention", fit=fitting.attention),
    Piece("3.6", "split_heads", "ch03_attention.attention"),
    Piece("3.6", "join_heads", "ch03_attention.attention"),
    Piece("4.1", "LayerNorm", "ch04_transformer.transformer"),
    Piece("4.3", "RMSNorm", "ch04_transformer.transformer"),
    Piece("4.5", "SwiGLU", "ch04_transformer.transformer"),
    Piece("5.2", "cross_entropy", "ch05_training.optimization", fit=fitting.cross_entropy),
    Piece("5.4", "AdamW", "ch05_training.optimization"),
    Piece("5.5", "warmup_cosine", "ch05_training.optimization"),
    Piece("5.6", "clip_grad_norm_", "ch05_training.optimization"),
    Piece("5.7", "train_step", "ch05_training.step", fit=fitting.train_step),
    Piece("6.2", "top_k_filter", "ch06_inference.generation"),
    Piece("6.3", "top_p_filter", "ch06_inference.generation"),
    Piece("6.4", "sample_next", "ch06_inference.generation"),
    Piece("6.5", "LayerCache", "ch06_inference.generation", fit=fitting.layer_cache),
    Piece("6.6", "generate", "ch06_inference.generation", "generate_steps", fitting.generate_steps),
    Piece("6.12f", "GPT", "ch04_transformer.transformer", fit=fitting.gpt),
)


# ---------------------------------------------------------------- reading notebooks of exercises


@dataclass
class Entry:
    """One exercise of a notebook."""

    number: str
    title: str
    stars: int
    minutes: int
    lines: int
    points: int
    code: list = field(default_factory=list)  # the cells in which the answer is written
    own: list = field(default_factory=list)  # other code cells, the reader's own experiments among them
    check: dict | None = None  # the cell that calls check(...)


def source_of(cell):
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def entries(notebook):
    """The exercises of a notebook, which is a dict as in its JSON."""
    found = []
    for cell in notebook["cells"]:
        text, marks = source_of(cell), cell["metadata"].get("nbgrader", {})
        if cell["cell_type"] == "markdown" and (heading := HEADING.match(text)):
            if facts := FACTS.search(text):
                found.append(Entry(*heading.groups(), len(facts[1]), *map(int, facts.groups()[1:])))
        elif cell["cell_type"] == "code" and found:
            if marks.get("grade"):
                found[-1].check = cell
            else:
                (found[-1].code if marks.get("solution") else found[-1].own).append(text)
    return found


def read_notebook(path):
    """The JSON of a notebook; ValueError when it is none."""
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
        assert isinstance(notebook["cells"], list)
    except (ValueError, KeyError, TypeError, AssertionError):
        raise ValueError(f"{path} is not a notebook, or not a whole one") from None
    return notebook


def read_entries(path):
    """The exercises in a file."""
    return entries(read_notebook(path))


def namespace(chapter, sources, course=True):
    """What the definitions in code cells make: {name: value}; nothing else that stands in them is run.

    chapter: the folder, for `previous_chapters`. course: whether imports from the course are made. What fails
    is left out: whoever needs it hears of it by a NameError.
    """
    names = {"__name__": f"{chapter}.exercises"}
    for number, source in enumerate(sources):
        with contextlib.suppress(SyntaxError):
            for node in ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.M)).body:
                if wanted := definition(node, chapter, course):
                    with contextlib.suppress(Exception):
                        code = ast.Module([wanted], [])
                        exec(compile(code, f"<{chapter}, cell {number}>", "exec"), names)
    return names


def definition(node, chapter, course):
    """A statement that defines or imports something, made fit for this place; None for all others."""
    if isinstance(node, ast.ImportFrom):
        module = node.module or ""
        ours = module == "previous_chapters" or module.startswith(("ch0", "appendix."))
        if module.endswith(".checks") or (ours and not course):
            return None
        if module == "previous_chapters":
            node.module = f"{chapter}.previous_chapters"
        return node
    if isinstance(node, ast.Import):
        return None if node.names[0].name == "previous_chapters" else node
    return node if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign) else None


def digest_of_source(source):
    """Eight letters that stand for what code says, whatever its comments and empty lines."""
    with contextlib.suppress(SyntaxError):
        source = ast.unparse(ast.parse(source))
    return hashlib.sha256(source.encode()).hexdigest()[:8]


# ---------------------------------------------------------------- whose piece is taken


def chapter_of(number):
    """The folder of the chapter in which an exercise is."""
    return next(ROOT.glob(f"ch{int(number.split('.')[0]):02}_*")).name


def notebook_of(chapter, folder=None):
    """The reader's notebook of exercises of a chapter, or None."""
    places = [Path(folder)] if folder else [ROOT / "mine", ROOT]
    paths = [place / chapter / "exercises.ipynb" for place in places]
    return next((path for path in paths if path.exists()), None)


def own_names(chapter, path, number, course=True):
    """What a reader's notebook defines down to the end of exercise `number`; course: see namespace."""
    sources, here = [], ""
    for cell in read_notebook(path)["cells"]:
        if cell["cell_type"] == "markdown" and (heading := HEADING.match(source_of(cell))):
            if here == number:
                break
            here = heading[1]
        if cell["cell_type"] != "code":
            continue
        marks, tags = cell["metadata"].get("nbgrader", {}), cell["metadata"].get("tags", [])
        if marks.get("solution") or {"imports", "given"} & set(tags):
            sources.append(source_of(cell))
        elif not marks.get("grade") and not source_of(cell).startswith(SETUP):
            sources.append(without_values(source_of(cell)))  # an experiment: it may take long
    return namespace(chapter, sources, course)


def without_values(source):
    """The imports, functions and classes of a cell."""
    with contextlib.suppress(SyntaxError):
        kept = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef
        body = [node for node in ast.parse(source).body if isinstance(node, kept)]
        return ast.unparse(ast.Module(body, []))
    return ""


def answers_to(number):
    """The names that exercise `number` asks for, in the order in which its check takes them."""
    return [piece.answer for piece in PIECES if piece.number == number]


def verdicts(folder=None):
    """{number: None when the reader's answer passes, else why not} of every exercise that makes a piece."""
    found = {}
    for number in dict.fromkeys(piece.number for piece in PIECES):
        chapter = chapter_of(number)
        path = notebook_of(chapter, folder)
        found[number] = "there is no notebook" if path is None else verdict(number, chapter, path)
    return found


def verdict(number, chapter, path):
    """Why the reader's answer to an exercise is not taken; None when it passes its check."""
    try:
        home = next(piece.home for piece in PIECES if piece.number == number)
        names = own_names(chapter, path, number, course=home.startswith(chapter))
        check = importlib.import_module(f"{chapter}.checks").check
        check(number, *(names[name] for name in answers_to(number)))
    except KeyError as missing:
        return f"{missing} is not defined in {path.name}"
    except ValueError as error:
        return str(error)
    except AssertionError as error:
        return str(error).splitlines()[0].removeprefix(f"{number}: ")


def asked_verdicts(folder=None):
    """The verdicts, found in a process of its own, or remembered if nothing has changed since."""
    chapters = sorted({chapter_of(piece.number) for piece in PIECES})
    files = [path for chapter in chapters if (path := notebook_of(chapter, folder))]
    names = ("checking.py", "checks.py", "rebuilding.py")
    ours = [path for c in chapters for path in sorted((ROOT / c).glob("*.py")) if path.name in names]
    read = b"".join(path.read_bytes() for path in [*files, *ours])
    key = hashlib.sha256(read).hexdigest()
    memory = (Path(folder) if folder else ROOT / "mine") / ".pieces.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        remembered = json.loads(memory.read_text(encoding="utf-8"))
        if remembered["key"] == key:
            return remembered["verdicts"]
    print("Checking your pieces ...", flush=True)
    command = [sys.executable, "-m", "ch01_tokenization.pieces", *([str(folder)] if folder else [])]
    environment = {name: value for name, value in os.environ.items() if name != SWITCH}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", env=environment)
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return {piece.number: f"the checks could not be run: {why}" for piece in PIECES}
    with contextlib.suppress(OSError):
        memory.parent.mkdir(exist_ok=True)
        memory.write_text(json.dumps({"key": key, "verdicts": found}, indent=1), encoding="utf-8")
    return found


class Taken:
    """The pieces that were put in, and why the others were not."""

    def __init__(self, folder):
        self.folder, self.verdicts, self.names = folder, asked_verdicts(folder), {}
        self.homes = {piece.home for piece in PIECES}
        sys.meta_path.insert(0, self)
        for home in self.homes & sys.modules.keys():
            self.put_in(sys.modules[home])

    def find_spec(self, name, path=None, target=None):
        """Python asks this before it imports a module: after a home of pieces has run, they are put in."""
        if name not in self.homes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (run(module), self.put_in(module))
        return spec

    def put_in(self, module):
        """Put the pieces that pass in place of a module's own, and say of each whose it is."""
        for piece in (piece for piece in PIECES if piece.home == module.__name__):
            why = self.verdicts[piece.number]
            print(f"{piece.number:6}{piece.answer:30}{'yours' if why is None else f'the course’s: {why}'}")
            if why is None:
                mine = self.own(piece)
                mine = piece.fit(mine, module) if piece.fit else mine
                *inside, last = piece.target.split(".")
                setattr(getattr(module, inside[0]) if inside else module, last, mine)

    def own(self, piece):
        if piece.number not in self.names:
            chapter = chapter_of(piece.number)
            path, course = notebook_of(chapter, self.folder), piece.home.startswith(chapter)
            before = set(fitting.set_aside)  # what a notebook tries out itself does not count
            self.names[piece.number] = own_names(chapter, path, piece.number, course)
            fitting.set_aside &= before
        return self.names[piece.number][piece.answer]

    def summary(self):
        others = [f"{piece.answer} ({piece.number})" for piece in PIECES if self.verdicts[piece.number]]
        others += [
            f"{name} (for what the settings ask and yours lacks)" for name in sorted(fitting.set_aside)
        ]
        n = len(PIECES)
        if not others:
            return f"All {n} pieces of this GPT are your own code, from the tokenizer to the sampling."
        own = f"{n - len(others)} of {n} pieces of this GPT are your own code"
        return f"{own}; the course's are: {', '.join(others)}."


def whose_pieces():
    """How many pieces are the reader's, in one sentence; None when the switch is off."""
    return taken and taken.summary()


def switched_on():
    """The Taken of this process, or None. ValueError for a folder that is not there."""
    value = os.environ.get(SWITCH, "")
    if value in ("", "0"):
        return None
    if value != "1" and not Path(value).is_dir():
        rule = "expected 1, or a folder that holds ch01_tokenization/exercises.ipynb and so on"
        raise ValueError(f"{SWITCH}={value!r}: {rule}")
    return Taken(None if value == "1" else Path(value).resolve())


if __name__ == "__main__":
    print("\n" + json.dumps(verdicts(*sys.argv[1:])))
    sys.stdout.flush()
    os._exit(0)  # a thread with an endless loop may still be there
taken = switched_on()
