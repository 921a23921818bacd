"""The workbook in a classroom: nbgrader releases it, grades submissions of every kind, and gives feedback."""

import copy
import os
import subprocess
import sys

import pytest
from notebooks import ROOT, read_notebook, write_notebook

from ch01_tokenization.pieces import entries

CHAPTER = "ch03_attention"
CONFIG = """c = get_config()
c.CourseDirectory.course_id = "course"
c.ExecutePreprocessor.timeout = 60  # seconds a cell; what a check may take is counted in steps
c.Execute.timeout = 60
c.Execute.interrupt_on_timeout = True  # a cell that does not end costs its own points and no others
"""


def nbgrader(folder, *arguments):
    """Run a command of nbgrader in a folder; returns what it logs."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "JUPYTER_DATA_DIR": str(folder / "jupyter")}
    programs = os.path.dirname(sys.executable)  # nbgrader calls alembic, as in an activated environment
    environment["PATH"] = os.pathsep.join([programs, environment["PATH"]])
    environment |= {"JUPYTER_CONFIG_DIR": str(folder / "jupyter"), "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=folder, capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def answered(notebook, answers):
    """A released notebook with code in the cells that ask for it: {grade_id: source}."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell.source = answers.get(cell.metadata.get("nbgrader", {}).get("grade_id"), cell.source)
    return notebook


@pytest.fixture(scope="module")
def classroom(tmp_path_factory):
    """(folder, the marks): five submissions to the exercises of chapter 3, graded."""
    folder = tmp_path_factory.mktemp("class room")
    (folder / "nbgrader_config.py").write_text(CONFIG)
    (folder / "course").symlink_to(ROOT)
    source = folder / "source" / CHAPTER
    source.mkdir(parents=True)
    solutions = read_notebook(ROOT / CHAPTER / "solutions.ipynb")
    write_notebook(solutions, source / "exercises.ipynb")
    nbgrader(folder, "generate_assignment", CHAPTER)
    released = read_notebook(folder / "release" / CHAPTER / "exercises.ipynb")
    right = {
        cell.metadata.nbgrader.grade_id: cell.source
        for cell in solutions.cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }
    half = dict(list(right.items())[: len(right) // 2])
    endless = "def causal_mask(T):\n    while True:\n        try:\n            T = T\n"
    endless += "        except:\n            pass"
    loud = right["exercise-3-2"].replace("    ### BEGIN", '    print("x" * 200_000)\n    ### BEGIN')
    loud += '\n\nfor _ in range(20_000):\n    print("y" * 200)'
    no_tests = answered(released, right)
    no_tests.cells = [c for c in no_tests.cells if not c.metadata.get("nbgrader", {}).get("grade")]
    claims = answered(released, {c.metadata.nbgrader.grade_id: "print('passed')" for c in released.cells
                                 if c.metadata.get("nbgrader", {}).get("grade")})  # fmt: skip
    submissions = {
        "claims": claims,
        "right": answered(released, right),
        "half": answered(released, half),
        "endless": answered(released, right | {"exercise-3-3": endless}),
        "deleted": no_tests,
        "loud": answered(released, right | {"exercise-3-2": loud}),
    }
    for student, notebook in submissions.items():
        place = folder / "submitted" / student / CHAPTER
        place.mkdir(parents=True)
        write_notebook(notebook, place / "exercises.ipynb")
    nbgrader(folder, "autograde", CHAPTER, "--create")
    nbgrader(folder, "generate_feedback", CHAPTER)
    return folder


def marks(folder):
    """{student: {grade_id of a check: points}}."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}", "course") as book:
        return {
            submission.student.id: {
                grade.name: grade.score for n in submission.notebooks for grade in n.grades
            }
            for submission in book.assignment_submissions(CHAPTER)
        }


def test_what_is_released_are_the_exercises(classroom):
    released = read_notebook(classroom / "release" / CHAPTER / "exercises.ipynb")
    ours = read_notebook(ROOT / CHAPTER / "exercises.ipynb")
    assert [cell.id for cell in released.cells] == [cell.id for cell in ours.cells]
    assert [cell.source for cell in released.cells[1:]] == [cell.source for cell in ours.cells[1:]]


def test_marks(classroom):
    found = marks(classroom)
    points = {
        f"check-{entry.number.replace('.', '-')}": entry.points
        for entry in entries(read_notebook(ROOT / CHAPTER / "solutions.ipynb"))
    }
    nothing = dict.fromkeys(points, 0)
    assert found["right"] == found["loud"] == points
    assert found["deleted"] == found["claims"] == nothing  # no test is passed by taking it away
    assert found["endless"] == points | {"check-3-3": 0}
    half = list(points)[: len(points) // 2]
    assert found["half"] == {name: points[name] if name in half else 0 for name in points}


def test_feedback_says_why(classroom):
    page = (classroom / "feedback" / "endless" / CHAPTER / "exercises.html").read_text(encoding="utf-8")
    assert "It has not come to an end after" in page


def test_a_loud_answer_does_not_fill_the_disk(classroom):
    page = classroom / "autograded" / "loud" / CHAPTER / "exercises.ipynb"
    assert page.stat().st_size < 1_000_000
