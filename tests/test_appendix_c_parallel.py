"""Appendix C, many processes: every way of training equals one process, and what goes wrong is named.

The processes are real: torchrun starts two or four, which talk over gloo on this machine.
"""

import json
import linecache
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from appendix.c_scale.common import MODELS, Problem, process_group
from appendix.c_scale.everywhere import kept_cells, needed, on_every_rank, reasons, torchrun
from appendix.c_scale.parallel import one_process, ring_all_reduce, train
from appendix.c_scale.pipeline import Stage, schedule, timeline
from appendix.c_scale.run_parallel import METHODS, parse
from appendix.c_scale.tensor_parallel import check_divides

ROOT = Path(__file__).resolve().parent.parent
MODULE = ("-m", "appendix.c_scale.run_parallel")
ON_TWO = ("data", "ddp", "fsdp", "tensor", "tensor-plan", "pipeline", "gpipe")
ON_FOUR = ("data", "fsdp", "tensor", "pipeline", "1f1b", "fsdp-tensor", "data-pipeline")
TIED, UNTIED = 53_440, 50_464  # weights of the two models


@pytest.fixture(scope="module")
def references():
    return {name: train(Problem(config), one_process) for name, config in MODELS.items()}


FORKS = """
import json, os, signal, socket, sys
from appendix.c_scale import run_parallel
from appendix.c_scale.common import Problem

def run_rank(settings, arguments, victim, file):
    os.environ.update(settings)
    os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), 2)
    batches = Problem.batches
    def until_killed(problem):
        for number, pair in enumerate(batches(problem)):
            if number == 2 and settings["RANK"] == victim:
                os.kill(os.getpid(), signal.SIGKILL)
            yield pair
    Problem.batches = until_killed
    try:
        run_parallel.main(["--methods", *arguments])
    finally:
        sys.stderr.flush()
        os._exit(0)

for name, (size, ranks, arguments, victim) in json.loads(sys.argv[1]).items():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    settings = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = {}
    for rank in ranks:
        file = f"{name} {rank}"
        pid = os.fork()
        if not pid:
            run_rank(settings | {"RANK": str(rank)}, arguments, victim, file)
        started[rank] = pid
    for rank, pid in started.items():
        with open(f"{name} {rank} status", "w") as written:
            written.write(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
"""
RUNS = {  # processes, those that are started, arguments, the rank that is killed in the third step
    "four": (4, [0, 1, 2, 3], [*ON_FOUR, "--out", "gpt2.pt"], ""),
    "silent": (2, [1], ["data", "--timeout", "2"], ""),
    "uneven": (2, [0, 1], ["data", "--batch-size", "7"], ""),
    "micro": (2, [0, 1], ["1f1b", "--batch-size", "6"], ""),
    **{f"dead {way}": (2, [0, 1], [way], "1") for way in ("data", "fsdp", "tensor", "1f1b")},
}


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    """The folder in which RUNS were done, all of them by forks of one process: they import PyTorch once.

    Without torchrun, which would end the others itself when one fails.
    """
    folder = tmp_path_factory.mktemp("forked")
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", FORKS, json.dumps(RUNS)]
    subprocess.run(
        command, cwd=folder, env=os.environ | settings, check=True, timeout=400, stdout=subprocess.DEVNULL
    )
    return folder


@pytest.fixture(scope="module")
def ended(forked):
    """{run: [(exit status, its own lines on stderr) of each rank]}."""

    def end(name):
        text = (forked / name).read_text()
        said = [line for line in text.splitlines() if line.startswith("rank ")]
        return int((forked / f"{name} status").read_text()), said

    return {name: [end(f"{name} {rank}") for rank in ranks] for name, (_, ranks, _, _) in RUNS.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory, forked, ended):
    """{(model, processes): {method: result}}: Llama's kind with two processes, GPT-2's with four."""
    file = tmp_path_factory.mktemp("results") / "llama.pt"
    printed = torchrun(2, *MODULE, "--model", "llama", "--out", file, "--methods", *ON_TWO)
    assert all(f"{method} " in printed for method in ON_TWO)
    assert ended["four"] == [(0, [])] * 4
    return {("llama", 2): torch.load(file), ("gpt2", 4): torch.load(forked / "gpt2.pt")}


CASES = [("llama", 2, method) for method in ON_TWO] + [("gpt2", 4, method) for method in ON_FOUR]


@pytest.mark.parametrize(("model", "world", "method"), CASES)
def test_twenty_steps_equal_those_of_one_process(references, results, model, world, method):
    """The rows differ in how many targets count, so a mean of means would be found."""
    reference, result = references[model], results[model, world][method]
    assert len(result["losses"]) == 20
    torch.testing.assert_close(
        torch.tensor(result["losses"]), torch.tensor(reference["losses"]), rtol=0, atol=1e-5
    )
    assert result["weights"].keys() == reference["weights"].keys()
    for name, weight in reference["weights"].items():
        torch.testing.assert_close(result["weights"][name], weight, rtol=0, atol=1e-5, msg=name)


def test_the_problem_can_tell_ways_apart(references):
    """The model learns, its weights move by far more than the tolerance, and rows are not equally full."""
    for name, config in MODELS.items():
        problem = Problem(config)
        losses = references[name]["losses"]
        assert losses[-1] < losses[0] - 0.5
        start = problem.model("cpu").state_dict()
        moved = [(references[name]["weights"][key] - start[key]).abs().max() for key in start]
        assert min(moved) > 1e-3 or name == "gpt2"  # of GPT-2's, the keys' biases stay
        assert sorted(moved)[-5] > 1e-2
        _, targets = next(problem.batches())
        assert len({(row != -100).sum().item() for row in targets}) == 8
    assert MODELS["gpt2"].tie_weights and MODELS["gpt2"].bias and MODELS["gpt2"].position == "learned"
    assert MODELS["llama"].position == "rope" and MODELS["llama"].kv_heads < MODELS["llama"].n_heads


def test_what_each_rank_holds(results):
    """In numbers: weights and AdamW's two moments of each."""
    four, two = results["gpt2", 4], results["llama", 2]
    assert four["data"]["held"] == [(TIED, 2 * TIED)] * 4
    assert two["ddp"]["held"] == [(UNTIED, 2 * UNTIED)] * 2
    weights = [held for held, _ in four["fsdp"]["held"]]
    assert sum(weights) == TIED and max(weights) < 1.1 * TIED / 4
    # a block, without what stays whole: norms, biases of the row layers
    whole = 64 * 32 + 16 * 32 + 2 * 32 + 4 * (4 * 32 + 2 * 32)
    assert [held for held, _ in four["tensor"]["held"]] == [whole + (TIED - whole) // 4] * 4
    assert sum(held for held, _ in four["pipeline"]["held"]) == TIED + 64 * 32  # the tied matrix, twice
    assert sum(held for held, _ in two["pipeline"]["held"]) == UNTIED
    assert sum(held for held, _ in four["data-pipeline"]["held"]) == 2 * (TIED + 64 * 32)
    for found in (four, two):
        assert all(moments == 2 * held for r in found.values() for held, moments in r["held"])


def test_ring_adds_numbers_that_the_processes_do_not_divide():
    sums, sent = ring_all_reduce([[1, 2, 3, 4, 5], [10, 20, 30, 40, 50]])
    assert sums == [[11, 22, 33, 44, 55]] * 2 and sum(sent) == 2 * 5


def test_ring_adds_and_sends_less_than_twice():
    for N in (1, 2, 3, 4, 7):
        lists = torch.arange(N * 2 * N).view(N, 2 * N).tolist()
        sums, sent = ring_all_reduce(lists)
        assert sums == [[sum(column) for column in zip(*lists, strict=True)]] * N
        assert sent == [2 * (N - 1) * 2] * N  # 2 (N - 1) / N of 2 N numbers


@pytest.mark.parametrize("kind", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("p", "m"), [(1, 3), (2, 1), (2, 5), (4, 2), (4, 8), (5, 5)])
def test_schedules_are_possible_and_wait_as_the_formula_says(kind, p, m):
    orders = [schedule(kind, stage, p, m) for stage in range(p)]
    lines = timeline(orders, forward=1, backward=2)
    times = {
        (letter, stage, number): (begin, end)
        for stage, line in enumerate(lines)
        for letter, number, begin, end in line
    }
    assert len(times) == 2 * p * m
    for (letter, stage, number), (begin, _) in times.items():
        before = (letter, stage - 1 if letter == "F" else stage + 1, number)
        assert begin >= times.get(before, (0, 0))[1]
        assert letter == "F" or begin >= times["F", stage, number][1]
    for line in lines:
        assert all(first[3] <= second[2] for first, second in zip(line, line[1:], strict=False))
    end = max(end for _, end in times.values())
    assert end == 3 * (m + p - 1)  # of which a stage works for 3 m
    if kind == "1f1b":
        for stage, order in enumerate(orders):
            kept = [sum(1 if letter == "F" else -1 for letter, _ in order[:i]) for i in range(2 * m)]
            assert max(kept) == min(m, p - stage)


def test_a_schedule_of_another_name_is_refused():
    with pytest.raises(KeyError, match="GPipe"):
        schedule("GPipe", 0, 2, 4)


# ---------------------------------------------------------------- faults


def test_what_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="n_heads=4 does not divide among 3"):
        check_divides(MODELS["gpt2"], 3)
    with pytest.raises(ValueError, match="n_kv_heads=4 does not divide among 8"):
        check_divides(MODELS["llama"], 8)
    with pytest.raises(ValueError, match="n_layers=4 does not divide among 3 stages"):
        Stage(Problem(MODELS["gpt2"]).model("cpu"), 0, 3)


def test_no_rendezvous(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConnectionError, match="RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set"):
        with process_group():
            pass
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(
        ConnectionError, match="^WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set.*nproc-per-node"
    ):
        with process_group():
            pass


@pytest.mark.parametrize(
    ("rank", "size", "port"),
    [("one", "2", "80"), ("2", "2", "80"), ("0", "0", "80"), ("0", "1", "0")],
)
def test_a_rendezvous_that_cannot_be(monkeypatch, rank, size, port):
    settings = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConnectionError, match=f"^RANK={rank}, WORLD_SIZE={size}, MASTER_PORT={port}: exp"):
        with process_group():
            pass


def test_a_master_that_does_not_answer(ended):
    ((status, (line,)),) = ended["silent"]
    assert status == 1
    assert line.startswith("rank 1: ConnectionError: another process")
    assert "did not answer within 2 s (master 127.0.0.1:" in line


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("uneven", "7 windows do not divide among 2 processes; use a multiple of 2"),
        ("micro", "6 windows do not divide among 4 micro-batches; use a multiple"),
    ],
)
def test_the_program_names_a_batch_that_does_not_divide(ended, fault, said):
    assert ended[fault] == [(1, [f"rank {rank}: ValueError: {said}"]) for rank in range(2)]


@pytest.mark.parametrize("fault", [name for name in RUNS if name.startswith("dead")])
def test_a_rank_that_dies_ends_the_others_with_a_named_error(ended, fault):
    (status, (line,)), killed = ended[fault]
    assert status == 1 and killed == (-signal.SIGKILL, [])
    assert line.startswith("rank 0: ConnectionError: another process has ended")


def test_torchrun_loses_patience_and_leaves_none_running(tmp_path, monkeypatch):
    python = tmp_path / "python"  # in the place of torchrun: says who it is, and sleeps
    python.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ChildProcessError, match="not done after 2 s"):
        torchrun(1, "any.py", patience=2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_reasons_are_read_from_what_torchrun_writes():
    failed = "  rank      : 1 (local_rank: 1)\n  exitcode  : 1"
    text = f"noise\nrank 0: ValueError: 7\nrank 1: ValueError: 7\n{failed}"
    assert reasons(text) == ["rank 0: ValueError: 7", "rank 1: ValueError: 7"]
    killed = "  rank      : 2 (local_rank: 2)\n  exitcode  : -9 (pid: 5)"
    assert reasons(f"{failed} (pid: 4)\n{killed}") == ["rank 2: ended by SIGKILL"]
    assert reasons("  rank      : 0 (local_rank: 0)\n  exitcode  : -15 (pid: 5)") == []


# ---------------------------------------------------------------- functions of a notebook


CELLS = [
    "import torch\nimport torch.distributed as dist",
    "def helper(x):\n    return x",
    "%matplotlib inline\n!ls",
    "def helper(x):\n    return x * factor",
    "def run():\n    return helper(torch.tensor(dist.get_rank() + 1)).item()",
]


def notebook():
    space = {"__name__": "__main__", "factor": 7, "unused": object()}
    for cell in CELLS:
        if not cell.startswith("%"):
            exec(cell, space)
    return space


def test_what_a_function_of_a_notebook_needs():
    imports, sources, values = needed("run", notebook(), CELLS)
    assert sorted(imports) == ["import torch as torch", "import torch.distributed as dist"]
    assert sources == [CELLS[3], CELLS[4]]  # the newest helper
    assert values == {"factor": 7}


def test_a_function_runs_on_every_rank():
    """That its errors are named is shown, and asserted, in the notebook."""
    space = notebook()
    assert on_every_rank(space["run"], 2, space=space, cells=CELLS) == [7, 14]


def test_cells_are_found_without_a_history(monkeypatch):
    """As under nbval, which keeps none: IPython has put them where tracebacks look for lines."""
    kept = {f"<cell {n}>": (len(c), None, c.splitlines(keepends=True), "") for n, c in enumerate(CELLS)}
    monkeypatch.setattr(linecache, "cache", kept | {__file__: (1, 2.0, ["def run():\n"], __file__)})
    assert kept_cells() == CELLS
    assert needed("run", notebook(), [*kept_cells(), ""])[1] == [CELLS[3], CELLS[4]]


def test_a_function_without_a_name_is_refused():
    with pytest.raises(ValueError, match="^<lambda>: expected a function with a name"):
        on_every_rank(lambda: 1, 2, space=notebook(), cells=CELLS)


@pytest.mark.parametrize("number", [0, -1, "two", 2.0])
def test_a_number_of_processes_that_cannot_be(number):
    with pytest.raises(ValueError, match="^n_processes=.*: expected a whole number of 1 or more"):
        torchrun(number, "any.py")


def test_every_method_is_tested():
    assert set(ON_TWO) | set(ON_FOUR) == set(METHODS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "0"], "--steps 0: expected 1 to 1000000"),
        (["--batch-size", "-8"], "--batch-size -8: expected 1 to"),
        (["--timeout", "99999999999999"], "--timeout 99999999999999: expected 1 to"),
        (["--out", "."], "--out .: is a folder; name a file"),
        (["--out", "/no/such/folder/results.pt"], "its folder does not exist"),
        (["--model", "bert"], "invalid choice: 'bert'"),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_is_trained(capsys, arguments, said):
    with pytest.raises(SystemExit) as stopped:
        parse(["--methods", "data", *arguments])
    assert stopped.value.code == 2 and said in capsys.readouterr().err
