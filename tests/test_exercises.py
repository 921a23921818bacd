"""The workbook: what its checks accept, what they refuse and how, and what makes it out of its solutions."""

import copy
import json
import sys
from functools import partial
from pathlib import Path

import nbformat
import notebooks as tools
import progress
import pytest
import torch
from copies import run
from mutants import Bench, code_of, judged, wrong_answers
from notebooks import workbook

from ch01_tokenization import checking
from ch01_tokenization.checking import Diagnosis, Draw, Exercise, checker, diagnose
from ch01_tokenization.pieces import PIECES, entries, read_entries

FOLDERS = [path.parent.as_posix() for path in workbook.masters()]
NUMBERS = [
    (chapter, e.number)
    for chapter in FOLDERS
    for e in read_entries(tools.ROOT / chapter / "solutions.ipynb")
]
benches = {}


def bench_of(chapter):
    """The exercises of a chapter, made ready once."""
    if chapter not in benches:
        benches[chapter] = Bench(chapter)
    return benches[chapter]


# ---------------------------------------------------------------- the exercises


def test_there_are_enough_of_them():
    by_folder = {folder: [n for f, n in NUMBERS if f == folder] for folder in FOLDERS}
    assert list(by_folder) == list(tools.FOLDERS) and len(NUMBERS) >= 48
    for folder, numbers in by_folder.items():
        chapter = folder in tools.CHAPTERS
        assert len(numbers) >= (6 if chapter else 4)
        assert numbers == list(bench_of(folder).checks.check.exercises), folder
        begin = f"{int(folder[2:4])}." if chapter else f"{Path(folder).name[0].upper()}."
        assert all(number.startswith(begin) for number in numbers)


@pytest.mark.parametrize("chapter, number", NUMBERS)
def test_right_answers_pass_and_wrong_ones_are_named(chapter, number):
    """The solution, a variant of it, and five mutants or more; `make mutants` shows them as a table."""
    bench, (variants, mutants) = bench_of(chapter), wrong_answers(chapter)
    faults = list(judged(bench, number, bench.entries[number], variants, mutants, seed=0))
    assert not faults, "\n\n".join(faults)


@pytest.mark.parametrize("chapter, number", NUMBERS)
def test_every_mistake_is_told_from_the_others(chapter, number):
    exercise = bench_of(chapter).checks.check.exercises[number]
    for words, ways in exercise.mistakes.items():
        for wrong in ways if isinstance(ways, list) else [ways]:
            said = diagnose(exercise, wrong, seed=1)
            assert said and said.startswith(words), (words, said)


@pytest.mark.parametrize("chapter, number", NUMBERS)
def test_what_is_no_answer_at_all_is_refused_in_words(chapter, number):
    exercise = bench_of(chapter).checks.check.exercises[number]
    check, n = bench_of(chapter).checks.check, len(exercise.right) if isinstance(exercise.right, tuple) else 1

    def nothing(*arguments, **options):
        return None

    def fails(*arguments, **options):
        return arguments[99]

    def endless(*arguments, **options):
        while True:
            try:
                arguments = arguments
            except BaseException:
                pass

    for answer in (None, 3, "text", nothing, fails, endless, torch.zeros(2)):
        with pytest.raises(Diagnosis, match="not yet") as caught:
            check(number, *[answer] * n, seed=0)
        assert len(str(caught.value)) < 2000, str(caught.value)


@pytest.mark.parametrize("chapter", FOLDERS)
def test_imports_come_from_earlier_chapters_alone(chapter):
    """What a reader's piece imports must not need the module into which it is put."""
    notebook = tools.read_notebook(tools.ROOT / chapter / "solutions.ipynb")
    cells = [cell.source for cell in notebook.cells if "imports" in tools.tags(cell)]
    before_the_check = cells[0].split(f"from {tools.dotted(chapter)}.checks import check")[0]
    assert len(cells) == 1 and "previous_chapters" in before_the_check
    ours = [line for line in cells[0].splitlines() if "ch0" in line and ".checks" not in line]
    assert not ours or chapter in tools.APPENDICES


def steps_of(path, monkeypatch):
    """(cell, what runs it) of each code cell but the set-up's, in the notebook's folder, as in its kernel."""
    monkeypatch.chdir(path.parent)
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.delitem(sys.modules, "previous_chapters", raising=False)  # of another folder
    names = {"__name__": "__main__"}
    for cell in tools.read_notebook(path).cells:
        if cell.cell_type == "code" and not tools.is_setup(cell):
            yield cell, partial(exec, compile(cell.source, "<cell>", "exec"), names)
    sys.modules.pop("previous_chapters", None)


@pytest.mark.parametrize("chapter", FOLDERS)
def test_the_solutions_run_from_their_first_cell_to_their_last(chapter, monkeypatch):
    ran = [step() for _, step in steps_of(tools.ROOT / chapter / "solutions.ipynb", monkeypatch)]
    assert len(ran) > 2 * len(bench_of(chapter).entries)  # an answer and its check, each


@pytest.mark.parametrize("chapter", FOLDERS)
def test_the_exercises_stop_at_the_first_stub_and_at_each(chapter, monkeypatch):
    """As a learner has them: all runs but the checks, and each says that there is nothing yet."""
    for cell, step in steps_of(tools.ROOT / chapter / "exercises.ipynb", monkeypatch):
        if cell.metadata.get("nbgrader", {}).get("grade"):
            with pytest.raises(Diagnosis, match="Nothing is here to check"):
                step()
        else:
            step()


def test_a_stub_is_told_without_a_traceback():
    """In Jupyter, where a check's error is shown as its words alone."""
    from nbclient import NotebookClient

    folder = tools.ROOT / "ch03_attention"
    notebook, place = tools.read_notebook(folder / "exercises.ipynb"), {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place, allow_errors=True).execute()
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        errors = [output for output in cell.outputs if output.output_type == "error"]
        if cell.metadata.get("nbgrader", {}).get("grade"):
            assert len(errors) == 1 and "Nothing is here to check" in errors[0].evalue, cell.source
            assert not any("Traceback" in line for line in errors[0].traceback)
        else:
            assert not errors, (cell.source, errors)


def test_the_exercises_are_what_the_solutions_make(tmp_path):
    assert list(workbook.workbook_problems()) == []
    for chapter in FOLDERS:
        text = (tools.ROOT / chapter / "exercises.ipynb").read_text(encoding="utf-8")
        assert "BEGIN SOLUTION" not in text and '"outputs": []' in text
    for name in (*tools.CHAPTERS, "appendix", "pyproject.toml"):
        (tmp_path / name).symlink_to(tools.ROOT / name)
    chapter = FOLDERS[0]
    (tmp_path / chapter).unlink()
    (tmp_path / chapter).mkdir()
    solutions = tools.read_notebook(tools.ROOT / chapter / "solutions.ipynb")
    tools.write_notebook(solutions, tmp_path / chapter / "solutions.ipynb")
    assert any("run: make exercises" in problem for problem in workbook.workbook_problems(tmp_path))
    workbook.write_exercises(tmp_path / ".")
    assert not list(workbook.workbook_problems(tmp_path))


@pytest.mark.parametrize("change, problem", [
    ((" lines ·", "1 lines ·"), "lines, and its solution has"),
    ((" points\n", "9 points\n"), "points, and nbgrader gives"),
    (("**Predict.**", "Predict."), "lacks '**Predict.**'"),
    (("Hint 2: ", "Second: "), "Hint 2"),
])  # fmt: skip
def test_what_an_exercise_says_of_itself_is_compared(change, problem):
    notebook = tools.read_notebook(tools.ROOT / "ch03_attention" / "solutions.ipynb")
    for cell in notebook.cells:
        cell.source = cell.source.replace(*change)
    found = [p for entry, cells in workbook.sections(notebook) for p in workbook.entry_problems(entry, cells)]
    assert any(problem in each for each in found), found


# ---------------------------------------------------------------- the engine


def double(x):
    return 2 * x


DOUBLE = Exercise(
    right=double,
    cases=lambda draw: [(torch.tensor([1.0]),), (draw.normal(3),), (draw.normal(2, 3),)],
    mistakes={"It squares.": lambda x: x * x, "It halves.": [lambda x: x / 2, lambda x: x * 0.5 + 1e-9]},
    signs={"A number has lost its sign.": lambda case, got, expected: (got * expected < 0).any()},
    steps=2000,
)  # fmt: skip
check = checker({"0.1": DOUBLE})


def words_for(answer, exercise=DOUBLE):
    with pytest.raises(Diagnosis) as caught:
        checker({"0.1": exercise})("0.1", answer)
    return str(caught.value)


def test_a_right_answer_passes_whatever_it_is_called(capsys):
    check("0.1", lambda anything: anything + anything)
    assert capsys.readouterr().out.startswith("0.1 passed.")


def test_a_mistake_is_named_with_the_smallest_case():
    words = words_for(lambda x: x**2)
    assert words.startswith("0.1: not yet. It squares.\n") and "It halves" not in words
    assert "x = [1.0]" in words and "yours     [1.0]" in words and "expected  [2.0]" in words


def endless(x):
    while True:
        try:
            x = x + 0
        except BaseException:
            pass


def generator(x):
    return sum(1 for _ in iter(int, 1))


def recursion(x):
    return recursion(x)


@pytest.mark.parametrize("answer", [endless, generator])
def test_a_loop_without_end_is_left(answer):
    assert "not come to an end after 2,000 steps" in words_for(answer)
    check("0.1", double)  # and the screen, the tracing and the next check are as before
    assert sys.gettrace() is None or "coverage" in repr(sys.gettrace())


def test_an_exercise_may_ask_its_own_question_of_a_loop_without_end():
    exercise = Exercise(
        right=double, cases=lambda draw: [(1,)], mistakes={}, steps=2000, endless="Is it each path?"
    )
    with pytest.raises(AssertionError, match=r"after 2,000 steps\. Is it each path\?\n"):
        checker({"0.2": exercise})("0.2", endless)


def loud(x):
    print("x" * 5_000_000)
    return 2 * x


def test_what_an_answer_prints_is_not_shown(capsys):
    check("0.1", loud)
    assert len(capsys.readouterr().out) < 100


def changes(x):
    x *= 2
    return x


def leaves(x):
    sys.exit(3)


@pytest.mark.parametrize("answer, words", [
    (recursion, "RecursionError"),
    (leaves, "SystemExit"),
    (changes, "It changes its arguments."),
    (lambda x: None, "It returns None."),
    (lambda x: (2 * x).tolist(), "Expected a tensor of shape (1,), got a list."),
    (lambda x: 2 * x[None], "Expected the shape (1,), got (1, 1)."),
    (lambda x: 2 * x.double(), "Expected the dtype float32, got float64."),
    (lambda x: torch.tensor([2.0]), "It gives the same result for every input."),
    (lambda x: -2 * x, "A number has lost its sign."),
    (lambda x: 2 * x + 1, "Every number is too large by 1."),
    (lambda x: 6 * x, "Every number is 3 times what it should be."),
    (lambda x: 2 * x / 0, "There are infinite numbers."),
    (lambda x: 0 * x / 0, "There are numbers that are not a number (NaN)."),
    (lambda: 2, "TypeError"),
    (lambda x: 2 * x[:1], "Expected the shape (3,), got (1,)."),
    (double(3), "Hand over the function itself, without calling it"),
])  # fmt: skip
def test_the_engine_has_words_of_its_own(answer, words):
    assert words in words_for(answer)


def test_an_error_is_shown_with_the_line_it_arose_in(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def answer(x):\n    y = x + 1\n    return y['one']\n")
    monkeypatch.syspath_prepend(tmp_path)
    import mine

    words = words_for(mine.answer)
    assert "stops with an error" in words and "in line   3: return y['one']" in words


def test_a_fault_of_the_check_itself_is_not_the_learners():
    broken = Exercise(right=lambda x: x["key"], cases=lambda draw: [(1,)], mistakes={})
    with pytest.raises(TypeError):
        checker({"0.1": broken})("0.1", lambda x: x)
    refuses = Exercise(
        right=lambda x: int("x"), cases=lambda draw: [(1,)], mistakes={}, refuses=(ValueError,)
    )
    checker({"0.1": refuses})("0.1", lambda x: float("y"))
    with pytest.raises(Diagnosis, match="It should refuse this with a ValueError"):
        checker({"0.1": refuses})("0.1", lambda x: x)


def test_a_class_is_asked_for_and_a_function_given():
    exercise = Exercise(right=dict, cases=lambda draw: [()], mistakes={})
    assert "This exercise asks for a class" in words_for(double, exercise)


def test_answers_run_on_a_gpu_too(monkeypatch):
    """Where there is one; here a second name for the CPU stands for it, and sees one number less exactly."""
    moved = []
    monkeypatch.setattr(checking, "devices", lambda: ["cpu", "cuda"])
    monkeypatch.setattr(checking, "to_device", lambda case, device: moved.append(device) or case)
    check("0.1", double)
    assert set(moved) == {"cpu", "cuda"}
    calls = []

    def wrong_the_second_time(x):
        calls.append(x)
        return 2 * x if len(calls) <= 3 else x * x

    assert words_for(wrong_the_second_time).startswith("0.1: not yet. On the GPU (right on the CPU): ")


def test_inputs_are_drawn_anew(monkeypatch):
    seen = []
    for _ in range(2):
        check("0.1", lambda x: seen.append(x) or 2 * x)
    assert not torch.equal(seen[1], seen[4]) and torch.equal(seen[0], seen[3])
    assert torch.equal(Draw(3).normal(2), Draw(3).normal(2))


# ---------------------------------------------------------------- progress


@pytest.fixture
def desk(tmp_path):
    """A folder with the exercises of chapter 3, of which the first is solved and checked."""
    solved = tools.read_notebook(tools.ROOT / "ch03_attention" / "solutions.ipynb")
    fresh = tools.read_notebook(tools.ROOT / "ch03_attention" / "exercises.ipynb")
    first = entries(solved)[0].number.replace(".", "-")
    for cell, right in zip(fresh.cells, solved.cells, strict=True):
        if cell.id.startswith(f"e{first}-"):
            cell.source = right.source
            if cell.cell_type == "code":
                cell.outputs = copy.deepcopy(right.outputs)
    (tmp_path / "ch03_attention").mkdir()
    tools.write_notebook(fresh, tmp_path / "ch03_attention" / "exercises.ipynb")
    return tmp_path


def test_progress_reads_what_the_checks_have_printed(desk):
    first, *others = read_entries(desk / "ch03_attention" / "exercises.ipynb")
    lines = list(progress.report(desk))
    rest = sum(entry.minutes for entry in others)
    assert f": 1 of {len(others) + 1}; {first.minutes} minutes done, {rest} left" in lines[0]
    assert lines[1].endswith("passed") and lines[2].endswith("min")
    assert lines[-1] == f"In all {first.minutes} minutes done, {rest} left."


def test_progress_sees_a_change_and_a_failure(desk):
    path = desk / "ch03_attention" / "exercises.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code = next(cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("solution"))
    code.source = "# a remark\n" + code.source
    nbformat.write(notebook, path)
    assert list(progress.report(desk))[1].endswith("passed")  # a remark changes nothing
    code.source += "\nx = 1"
    failed = [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade")][1]
    failed.outputs = [nbformat.v4.new_output("error", ename="Diagnosis", evalue="not yet", traceback=[])]
    nbformat.write(notebook, path)
    lines = list(progress.report(desk))
    assert lines[1].endswith("changed since") and lines[2].endswith("not yet")


def test_progress_runs_nothing_and_says_what_is_damaged(desk, tmp_path):
    path = desk / "ch03_attention" / "exercises.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] += f"\nopen({str(tmp_path / 'ran')!r}, 'w')"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    printed = run(sys.executable, "tests/progress.py", str(desk), cwd=tools.ROOT)
    assert "In all" in printed and not (tmp_path / "ran").exists()
    path.write_text("{", encoding="utf-8")
    assert "is not a notebook" in run(sys.executable, "tests/progress.py", str(desk), cwd=tools.ROOT)


# ---------------------------------------------------------------- the table of mutants


def test_an_edit_must_fit_once():
    assert code_of(("words", "a", "b"), "xax") == ("words", "xbx")
    with pytest.raises(AssertionError, match="stands 2 times"):
        code_of(("words", "a", "b"), "aa")


def test_the_table_says_what_is_wrong():
    bench = bench_of("ch03_attention")
    entry = bench.entries["3.3"]
    variants, mutants = (
        {"3.3": "def causal_mask(T):\n    return 0"},
        {"3.3": [("no such words", ".tril()", ".tril(1)")]},
    )
    faults = "\n".join(judged(bench, "3.3", entry, variants, mutants, seed=0))
    assert "the variant is refused" in faults and "5 are the least" in faults and "no such words" in faults


def test_the_readme_shows_what_a_check_says():
    text = (tools.ROOT / "README.md").read_text(encoding="utf-8")
    wrong = "def causal_mask(T):\n    return torch.ones(T, T, dtype=torch.bool).tril(-1)"
    assert f"```\n{bench_of('ch03_attention').verdict('3.3', wrong)}\n```" in text
    n, pieces_named = len(NUMBERS), len(PIECES)
    assert f"{n} exercises in all" in text and f"There are {pieces_named} pieces" in text
