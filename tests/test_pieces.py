"""A GPT of a reader's own pieces: which are taken, which are not and why, and that it trains and speaks."""

import json
import os
import subprocess
import sys

import nbformat
import notebooks as tools
import pytest
from copies import run
from mutants import wrong_answers
from notebooks import workbook

from ch01_tokenization import pieces

VARIANTS, MUTANTS = {}, {}
for master in workbook.masters():
    found = wrong_answers(master.parent.name)
    VARIANTS |= found[0]
    MUTANTS |= found[1]


def desk(folder, changes=()):
    """A reader's folder of exercises, answered by the variants; changes: {number: code} in their place."""
    answers = VARIANTS | dict(changes)
    for master in workbook.masters():
        notebook = tools.read_notebook(tools.ROOT / master.with_name("exercises.ipynb"))
        for _, cells in workbook.sections(notebook):
            code = [cell for cell in cells if cell.metadata.get("nbgrader", {}).get("solution")]
            number = code[0].metadata.nbgrader.grade_id.removeprefix("exercise-").replace("-", ".", 1)
            for cell in code:
                cell.source += f"\n\n\n{answers[number]}" if cell is code[-1] else ""
        (folder / master.parent).mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, folder / master.parent / "exercises.ipynb")
    return folder


def whose(printed):
    """{number: whose it is} of the lines that say so."""
    rows = (line.split(maxsplit=2) for line in printed.splitlines())
    return {row[0]: row[2] for row in rows if len(row) == 3 and row[2].startswith(("yours", "the course"))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, plays):
    """(folder of the reader's, what `train` printed, the run) with all pieces the reader's own."""
    folder = desk(tmp_path_factory.mktemp("mine"))
    text = folder / "a text.txt"
    text.write_text(plays["hamlet"][:60_000], encoding="utf-8")
    command = ["-m", "ch06_inference.gpt", "train", "--preset", "tiny", "--text", str(text)]
    printed = run(sys.executable, *command, "--out", str(folder / "runs"), COURSE_MINE=str(folder))
    return folder, printed, next((folder / "runs").iterdir())


def test_each_piece_is_asked_for_by_an_exercise():
    entries = {e.number: e for m in workbook.masters() for e in pieces.read_entries(tools.ROOT / m)}
    for number in {piece.number for piece in pieces.PIECES}:
        call = pieces.source_of(entries[number].check)
        assert f'check("{number}", {", ".join(pieces.answers_to(number))})' in call


def test_a_gpt_of_the_readers_own_pieces_trains_and_speaks(trained):
    folder, printed, made = trained
    found = whose(printed)
    assert found.keys() == {piece.number for piece in pieces.PIECES} and set(found.values()) == {"yours"}
    assert f"All {len(pieces.PIECES)} pieces of this GPT are your own code" in printed
    history = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    assert history[-1]["val_loss"] < history[0]["loss"] - 0.2
    assert (made / "attention.png").exists() and len((made / "samples.txt").read_text(encoding="utf-8")) > 200


def test_the_courses_code_reads_what_it_trained(trained):
    _, _, made = trained
    options = ["--model", str(made), "--prompt", "HAMLET:", "--max-new-tokens", "20"]
    assert "HAMLET:" in run(sys.executable, "-m", "ch06_inference.gpt", "generate", *options)


def test_the_second_time_the_checks_are_remembered(trained):
    folder, _, _ = trained
    command = [sys.executable, "-c", "import ch04_transformer.previous_chapters"]
    printed = run(*command, COURSE_MINE=str(folder))
    assert "Checking" not in printed and whose(printed)["3.2"] == "yours"
    assert run(*command) == "" and run(*command, COURSE_MINE="0") == ""


HEAD = "def causal_mask(T):\n    "
BROKEN = {
    "a wrong answer": (HEAD + "return torch.ones(T, T).tril(-1).bool()", "not yet. A token may"),
    "nothing": (HEAD + "raise NotImplementedError()", "not yet. Nothing is here to check"),
    "no end": (HEAD + "while True:\n        T = T", "not yet. It has not come to an end"),
    "not Python": ("def causal_mask(T:\n", "'causal_mask' is not defined"),
    "another name": ("def mask(T):\n    return T", "not yet. Nothing is here to check"),
    "the end of the process": ("import os\n" + HEAD + "os._exit(3)", "the checks could not be run"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_piece_is_the_courses_and_it_says_why(kind, tmp_path):
    code, why = BROKEN[kind]
    folder = desk(tmp_path, {"3.3": code})
    script = (
        "import ch04_transformer.previous_chapters, ch03_attention.attention as a\n"
        "from ch01_tokenization.pieces import whose_pieces\n"
        "print(a.causal_mask(2).tolist(), whose_pieces())"
    )
    printed = run(sys.executable, "-c", script, COURSE_MINE=str(folder))
    found = whose(printed)
    assert found["3.3"].startswith(f"the course’s: {why}"), found
    assert "[[True, False], [True, True]]" in printed
    if kind != "the end of the process":
        others = {number for number, words in found.items() if words != "yours"}
        assert others == {"3.3"} and "23 of 24 pieces" in printed and "causal_mask (3.3)" in printed


def test_experiments_in_a_notebook_are_not_run(tmp_path):
    folder = desk(tmp_path)
    path = folder / "ch03_attention" / "exercises.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for source in (
        f"open({str(tmp_path / 'ran')!r}, 'w')",
        f"x = open({str(tmp_path / 'ran')!r}, 'w')",
        "%time 3",
    ):
        notebook.cells.append(nbformat.v4.new_code_cell(source))
    nbformat.write(notebook, path)
    names = pieces.own_names("ch03_attention", path, "3.9")
    assert "softmax" in names and "x" not in names and not (tmp_path / "ran").exists()


def test_a_folder_that_is_not_there_is_one_sentence():
    command = [sys.executable, "-m", "ch06_inference.gpt", "--help"]

    done = subprocess.run(
        command, cwd=tools.ROOT, capture_output=True, text=True, env=os.environ | {"COURSE_MINE": "nowhere"}
    )
    assert done.returncode == 1 and done.stderr.startswith(
        "error: COURSE_MINE='nowhere': expected 1, or a folder"
    )


def test_what_the_settings_ask_for_and_a_piece_lacks_is_said(trained):
    folder, _, _ = trained
    script = (
        "import ch05_training.previous_chapters as p\n"
        "from ch01_tokenization.pieces import whose_pieces\n"
        "gpt2 = dict(vocab_size=9, context_length=8, d_model=8, n_heads=2, n_layers=1)\n"
        "llama = gpt2 | dict(norm='rmsnorm', activation='swiglu', position='rope')\n"
        "print(type(p.GPT(p.GPTConfig(**llama))).__module__)\n"
        "print(type(p.GPT(p.GPTConfig(**gpt2))).__module__, whose_pieces())"
    )
    printed = run(sys.executable, "-c", script, COURSE_MINE=str(folder))
    assert "\nch01_tokenization.fitting\n" in printed and "GPT (for what the settings ask" in printed
