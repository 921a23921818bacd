"""Wrong answers to the exercises: typical mistakes, each with the words by which its check names it.

One module for each chapter, with VARIANTS, {number: code}, a right answer that is written differently, and
MUTANTS, {number: [(words, code) or (words, old, new), ...]}: whole code of an answer, or an edit of the
solution's. `words` is a part of the one diagnosis that must be given.
"""

import contextlib
import importlib
import io
import random
from pathlib import Path

from notebooks.files import FOLDERS, ROOT, dotted

from ch01_tokenization import checking
from ch01_tokenization.pieces import namespace, read_entries, source_of


class Kept:
    """The trials of the last exercise: all wrong answers meet the same cases, right answers and mistakes."""

    key, value, make = None, None, checking.Trials

    def __call__(self, exercise, device, seed):
        key = id(exercise), device, seed
        if key != self.key:
            self.key, self.value = key, self.make(exercise, device, seed)
        return self.value


checking.Trials = Kept()


def solutions(chapter):
    """The exercises of a chapter as solved."""
    return read_entries(ROOT / chapter / "solutions.ipynb")


def wrong_answers(chapter):
    """(VARIANTS, MUTANTS) of a chapter, whose wrong answers may be in several modules."""
    variants, mutants = {}, {}
    for path in sorted(Path(__file__).parent.glob(f"{Path(chapter).name[:4]}*.py")):
        module = importlib.import_module(f"mutants.{path.stem}")
        variants |= module.VARIANTS
        mutants |= module.MUTANTS
    return variants, mutants


def code_of(mutant, solution):
    """(words, code) of a mutant; an edit must fit the solution once. SyntaxError if it is not Python."""
    words, *edit = mutant
    if len(edit) == 2:
        old, new = edit
        assert solution.count(old) == 1, f"{old!r} stands {solution.count(old)} times in the solution"
        edit = [solution.replace(old, new)]
    compile(edit[0], "<mutant>", "exec")
    return words, edit[0]


class Bench:
    """The exercises of one chapter, ready to try answers on."""

    def __init__(self, chapter):
        self.chapter, self.entries = chapter, {entry.number: entry for entry in solutions(chapter)}
        self.checks = importlib.import_module(f"{dotted(chapter)}.checks")
        import nbformat

        notebook = nbformat.read(ROOT / chapter / "solutions.ipynb", as_version=4)
        imports = [source_of(cell) for cell in notebook.cells if "imports" in cell.metadata.get("tags", [])]
        self.before = imports
        for entry in self.entries.values():
            self.before += entry.own + entry.code

    def verdict(self, number, code=None, seed=None):
        """What the check of an exercise says of code in place of the solution; None when it passes."""
        own = [code] if code else self.entries[number].code  # last, since a later exercise may use its names
        names = namespace(dotted(self.chapter), [*self.before, *own])
        call = source_of(self.entries[number].check)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(call, names | {"check": lambda *a: self.checks.check(*a, seed=seed)})
        except AssertionError as error:
            return str(error)


def table(chapters=FOLDERS):
    """Lines of the table of mutants, and what is wrong with it."""
    lines, faults = [], []
    for chapter in chapters:
        if not (ROOT / chapter / "solutions.ipynb").exists():
            continue
        bench, (variants, mutants) = Bench(chapter), wrong_answers(chapter)
        for number, entry in bench.entries.items():
            found = list(judged(bench, number, entry, variants, mutants))
            faults += found
            n = len(mutants.get(number, []))
            lines.append(
                f"{number:6} {entry.title[:48]:50} {n:3} mutants, {n - len(found):3} named"
                + " <-" * bool(found)
            )
    return lines, faults


def judged(bench, number, entry, variants, mutants, seed=None):
    """What is wrong with the check of an exercise, a sentence each."""
    seed = random.getrandbits(32) if seed is None else seed
    exercise = bench.checks.check.exercises[number]
    said = [*exercise.mistakes, *exercise.signs, *exercise.errors]
    solution = "\n\n".join(entry.code)
    for name, code in (("the solution", None), ("the variant", variants.get(number))):
        if name == "the variant" and not code:
            yield f"{number}: there is no variant"
        elif words := bench.verdict(number, code, seed):
            yield f"{number}: {name} is refused: {words}"
    if len(mutants.get(number, [])) < 5:
        yield f"{number}: has {len(mutants.get(number, []))} mutants, and 5 are the least"
    for mutant in mutants.get(number, []):
        fragment, code = code_of(mutant, solution)
        words = bench.verdict(number, code, seed)
        if words is None:
            yield f"{number}: passes, and should be {fragment!r}:\n{code}"
        elif fragment not in words:
            yield f"{number}: should be {fragment!r}, and it says: {words}\n{code}"
        elif sum(each in words for each in said) > 1:
            yield f"{number}: names more than one mistake: {words}"
    for a in said:
        if any(a != b and a in b for b in said):
            yield f"{number}: the diagnosis {a!r} is a part of another one"
