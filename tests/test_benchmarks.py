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
