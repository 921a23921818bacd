"""The benchmarks run, and their ratios are what they say. No time is asserted: `make bench` prints them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent / "benchmarks"
sys.path.insert(0, str(FOLDER))

import harness  # noqa: E402
import run  # noqa: E402


@pytest.mark.parametrize("path", sorted(FOLDER.glob("bench_*.py")), ids=lambda path: path.stem)
def test_each_benchmark_runs(path):
    command = [sys.executable, str(FOLDER / "run.py"), "--quick", path.stem]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert re.search(r"^ +.* \d+\.\d\d", finished.stdout, flags=re.M), finished.stdout


def test_candidates_take_turns_after_a_warm_up():
    order = []
    times = harness.measure({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b"] * 4  # one round to warm up
    assert [len(rounds) for rounds in times.values()] == [3, 3]


def test_a_ratio_is_the_median_within_rounds():
    times = {"a": [1.0, 2.0, 30.0], "b": [2.0, 2.0, 10.0]}
    assert harness.ratio(times, "a", "b") == 1.0


def test_goals_are_said_to_be_reached_or_missed(capsys, monkeypatch):
    monkeypatch.setattr(harness, "measure", lambda *_: {"a": [1.0], "b": [2.0], "peer": [1.6]})
    ratios = harness.compare("title", {"a": 0, "b": 0, "peer": 0}, "peer", goals={"a": 0.9, "b": 0.9}, work=8)
    printed = capsys.readouterr().out
    assert ratios == {"a": 0.625, "b": 1.25, "peer": 1.0}
    assert re.search(r"a .* 0\.62 .* 8 items/s .*goal at most 0\.90: reached", printed)
    assert re.search(r"b .* 1\.25 .* 4 items/s .*goal at most 0\.90: MISSED", printed)


def test_an_unknown_benchmark_is_named(capsys):
    assert run.main(["ch99"]) == 2
    assert "no benchmark is named ch99; there are bench_ch01_tokenization" in capsys.readouterr().out


# ---------------------------------------------------------------- what fails, and what goes on


@pytest.fixture(autouse=True)
def no_problems():
    harness.problems.clear()


def broken(message="no such operation\nand a second line", error=RuntimeError):
    raise error(message)


def rows(printed):
    """{name: the rest of its row} of a table."""
    return dict(re.findall(r"^  (\w+) +(.*)$", printed, flags=re.M))


def test_a_failing_candidate_is_reported_and_left_out(capsys):
    goals = {"bad": 1.0, "good": 1e9}
    candidates = {"bad": broken, "good": lambda: None, "peer": lambda: None}
    ratios = harness.compare("title", candidates, "peer", rounds=2, goals=goals, work=8)
    table = rows(capsys.readouterr().out)
    assert list(ratios) == ["good", "peer"] and ratios["peer"] == 1.0
    assert table["bad"] == "failed: RuntimeError: no such operation"
    assert "items/s" in table["good"] and "reached" in table["good"] and "items/s" in table["peer"]
    [(what, error)] = harness.problems
    assert what == "title: bad" and isinstance(error, RuntimeError) and error.__traceback__ is None


def test_a_candidate_may_fail_in_a_later_round(capsys):
    calls = {"late": 0, "good": 0}

    def count(name, last):
        calls[name] += 1
        if calls[name] == last:
            broken("out of memory")

    candidates = {"late": lambda: count("late", 3), "good": lambda: count("good", None)}
    assert harness.compare("title", candidates, "good", rounds=5) == {"good": 1.0}
    assert calls == {"late": 3, "good": 6}  # it is not called again
    assert rows(capsys.readouterr().out)["late"] == "failed: RuntimeError: out of memory"


def test_when_the_reference_fails_there_are_seconds_and_no_ratios(capsys):
    goals = {"good": 1.0}
    assert harness.compare("title", {"good": lambda: None, "peer": broken}, "peer", 2, goals, work=8) == {}
    table = rows(capsys.readouterr().out)
    assert table["peer"].startswith("failed: ") and re.match(r"0\.\d{4} +-  .* items/s$", table["good"])


def test_when_all_fail_the_table_says_so(capsys):
    assert harness.compare("title", {"one": broken, "peer": broken}, "peer") == {}
    assert all(row.startswith("failed: ") for row in rows(capsys.readouterr().out).values())


def test_an_interrupt_stops_the_benchmark():
    with pytest.raises(KeyboardInterrupt):
        harness.measure({"a": lambda: broken(error=KeyboardInterrupt)})


def test_a_candidate_that_cannot_be_made_fails_alone(capsys):
    made = []

    def make(name, fails=False):
        made.append(name)
        return broken() if fails else lambda: None

    candidates = {"bad": harness.lazily(make, "bad", fails=True), "good": harness.lazily(make, "good")}
    assert not made
    assert list(harness.compare("title", candidates, "good", rounds=3)) == ["good"]
    assert made == ["bad", "good"]  # each once, when it warms up
    assert rows(capsys.readouterr().out)["bad"] == "failed: RuntimeError: no such operation"


def test_what_this_machine_cannot_compile_is_not_a_failure(monkeypatch, capsys):
    monkeypatch.setattr(
        "ch05_training.config.check_compiler", lambda device: broken("no compiler", ValueError)
    )
    candidates = {"compiled": lambda: harness.needs_compiler("cpu"), "eager": lambda: None}
    assert list(harness.compare("title", candidates, "eager", rounds=1)) == ["eager"]
    assert rows(capsys.readouterr().out)["compiled"] == "not possible here: no compiler"
    monkeypatch.setattr("ch05_training.config.check_compiler", lambda device: None)
    harness.needs_compiler("cpu")


def test_compiled_candidates_ask_for_a_compiler(monkeypatch):
    """Before anything is made, so that a machine without one is not reported as a failure of ours."""
    import bench_ch04_transformer
    import bench_ch05_training

    for module in (bench_ch04_transformer, bench_ch05_training):
        monkeypatch.setattr(
            module, "needs_compiler", lambda device: broken("no compiler", harness.NotPossible)
        )
    with pytest.raises(harness.NotPossible):
        bench_ch04_transformer.compiled_step(None, None)
    with pytest.raises(harness.NotPossible):
        bench_ch05_training.trainer_loop(None, None, 1, 1, compile=True)


FAKES = {
    "bench_a_fails": "import harness\n"
    "def run(quick):\n"
    "    candidates = {'bad': lambda: 1 / 0, 'peer': lambda: None}\n"
    "    harness.compare('first', candidates, 'peer', 1)\n"
    "    harness.compare('second', {'peer': lambda: None}, 'peer', 1)\n",
    "bench_b_stops": "def run(quick):\n    raise OSError('no disk')\n",
    "bench_c_is_missing": "import a_package_that_nobody_has\n",
    "bench_d_cannot": "import harness\n"
    "def cannot():\n"
    "    raise harness.NotPossible('no compiler')\n"
    "def run(quick):\n"
    "    harness.compare('third', {'compiled': cannot, 'peer': lambda: None}, 'peer', 1)\n",
    "bench_e_works": "def run(quick):\n    print('all is well')\n",
    "bench_f_is_stopped": "def run(quick):\n    raise KeyboardInterrupt\n",
}


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    for name, source in FAKES.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in FAKES:
        sys.modules.pop(name, None)


def test_all_benchmarks_run_and_what_failed_is_named_at_the_end(fakes, capsys):
    assert run.main(["_a_", "_b_", "_c_", "_d_", "_e_"]) == 1
    printed = capsys.readouterr().out
    assert "second\n" in printed and "all is well\n" in printed
    assert "bench_b_stops failed: OSError: no disk\n" in printed
    assert printed.split("Not measured:\n")[1].splitlines() == [
        "  first: bad: failed: ZeroDivisionError: division by zero",
        "  the rest of bench_b_stops: failed: OSError: no disk",
        "  the rest of bench_c_is_missing: failed: ModuleNotFoundError: "
        "No module named 'a_package_that_nobody_has'",
        "  third: compiled: not possible here: no compiler",
    ]


def test_the_exit_code_is_0_for_what_is_not_possible_here(fakes, capsys):
    assert run.main(["_d_", "_e_"]) == 0
    assert capsys.readouterr().out.endswith(
        "Not measured:\n  third: compiled: not possible here: no compiler\n"
    )
    assert run.main(["_e_"]) == 0
    assert "Not measured" not in capsys.readouterr().out


def test_an_interrupt_stops_all(fakes):
    with pytest.raises(KeyboardInterrupt):
        run.main(["_f_"])
