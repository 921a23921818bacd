"""Training on many ranks: the losses of one, checkpoints for any number, faults that lose nothing."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore

from appendix.c_scale.distributed_trainer import check_divisible, micro_batches
from appendix.c_scale.ranks import Ranks, rank_here, warn_of_shared_store
from appendix.c_scale.shards import read_record, shard_paths, write_record
from appendix.c_scale.train_distributed import export, parse
from ch05_training.data import TokenDataset
from ch05_training.files import read_checkpoint
from ch05_training.folder import alone_in, checkpoint_paths
from ch05_training.training import TrainConfig
from ch06_inference import assembly, gpt

ROOT = Path(__file__).resolve().parent.parent
MODULE = "appendix.c_scale.train_distributed"
# 12 windows a step: 6 for each of 2 ranks, in two micro-batches; 3 for each of 4
SETTINGS = "--batch-size 4 --grad-accum 3 --steps 20 --eval-every 10 --checkpoint-every 10".split()
TINY = ["train", "--preset", "tiny", "--device", "cpu", *SETTINGS]

# A process that has imported all that takes seconds, and forks the ranks of one job after another.
SERVER = f"""
import faulthandler, gc, json, os, resource, signal, sys, time, traceback
import torch
from {MODULE} import main
from appendix.c_scale import train_distributed
torch.set_num_threads(1)
HOLDERS = "DistributedDataParallel", "Reducer"  # that end the process group with Python's lock: a deadlock
gc.freeze()  # or each process would copy what it looks through
print("ready", flush=True)

def start(job):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(job["log"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(log, number)
        sys.stdin = open(os.devnull)
        faulthandler.dump_traceback_later(400, exit=True)  # where one hangs
        os.environ.update(job["env"])
        if job["limit"]:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
        if not job["report"]:  # which takes longer than the training
            train_distributed.report = lambda *_: None
        if job["eager"]:  # traced and run as it is: Inductor takes a minute
            train_distributed.check_compiler = lambda device: None
            compile = torch.nn.Module.compile
            torch.nn.Module.compile = lambda module: compile(module, backend="eager")
        if job["dies"]:
            step = train_distributed.DistributedTrainer.take_step
            def take_step(self, asked):
                if self.state.step == job["dies"]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(self, asked)
            train_distributed.DistributedTrainer.take_step = take_step
        destroy = torch.distributed.destroy_process_group
        def destroy_process_group():
            held = [type(o).__name__ for o in gc.get_objects() if type(o).__name__ in HOLDERS]
            assert not held, f"still there: {{held}}"
            destroy()
        torch.distributed.destroy_process_group = destroy_process_group
        main(job["arguments"])
        code = 0
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

for line in sys.stdin:
    jobs, codes, end = json.loads(line), {{}}, time.monotonic() + 420
    pids = [start(job) for job in jobs]
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    print(json.dumps([codes[pid] for pid in pids]), flush=True)
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """ranks(arguments, size) -> (exit codes, what all of them said) of the program on `size` ranks."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    with subprocess.Popen([sys.executable, "-c", SERVER], **pipes) as server:
        assert server.stdout.readline() == "ready\n"

        def run(arguments, size, env=(), others=(), limits=None, report=False, eager=False, dies=None):
            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            shared = dict(WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port))
            shared |= dict(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0") | dict(env)
            logs = [tmp_path_factory.mktemp("log") / "log" for _ in range(size)]
            jobs = [
                dict(
                    arguments=[*map(str, arguments), *(others if rank else ())],
                    env={} if size == 1 else shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    log=str(log),
                    limit=(limits or {}).get(rank),
                    report=report,
                    eager=eager,
                    dies=(dies or {}).get(rank),
                )
                for rank, log in enumerate(logs)
            ]
            server.stdin.write(json.dumps(jobs) + "\n")
            server.stdin.flush()
            codes = json.loads(server.stdout.readline())
            return codes, "".join(log.read_text(errors="replace") for log in logs)

        yield run
        server.stdin.close()
        server.wait(timeout=60)


@pytest.fixture(scope="module")
def text(plays, tmp_path_factory):
    """A file with the beginning of a play."""
    path = tmp_path_factory.mktemp("text") / "play.txt"
    path.write_text(plays["hamlet"][:20_000], encoding="utf-8")
    return path


def train_alone(text, out, *arguments, report=False):
    """A run of the single-process program; the report takes longer than the training."""
    with pytest.MonkeyPatch.context() as patch:
        if not report:
            patch.setattr(assembly, "report", lambda *_: None)
        gpt.main([*TINY, "--text", str(text), "--out", str(out), *arguments])
    return next(out.iterdir())


@pytest.fixture(scope="module")
def single(text, tmp_path_factory):
    """The run of the single-process program."""
    return train_alone(text, tmp_path_factory.mktemp("single"), report=True)


@pytest.fixture(scope="module")
def sharded(ranks, text, tmp_path_factory):
    """The same run on two ranks, with all sharded."""
    run = tmp_path_factory.mktemp("sharded") / "run"
    codes, said = ranks([*TINY, "--text", text, "--run-dir", run, "--shard", "full"], 2)
    assert codes == [0, 0], said
    return run


def history(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_history(run, other, tolerance=1e-5):
    here, there = history(run), history(other)
    assert [m["step"] for m in here] == [m["step"] for m in there] == list(range(1, len(there) + 1))
    for a, b in zip(here, there, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"tokens_per_s"}:
            scale = math.exp(b["val_loss"]) if name == "val_perplexity" else 1
            assert a[name] == pytest.approx(b[name], rel=0, abs=tolerance * scale), name


def back_to_step_10(run, folder):
    """A copy of a run that was killed between its first checkpoint and its last."""
    copy = shutil.copytree(run, folder / "copy")
    for path in [*shard_paths(copy), *checkpoint_paths(copy)]:
        if path.stem != "step-000010":
            path.unlink() if path.is_file() else shutil.rmtree(path)
    if shard_paths(copy):
        shutil.rmtree(copy / "checkpoints", ignore_errors=True)
    return copy


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fails(outcome, *words, code=2):
    """Every rank ended with an exit code, and one line `error: ...` has all words."""
    codes, said = outcome
    assert set(codes) == {code} and "Traceback" not in said, said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and all(str(word) in lines[0] for word in words), said


# ---------------------------------------------------------------- the same training


@pytest.mark.parametrize("size, shard", [(1, "none"), (2, "none"), (4, "full")])
def test_losses_are_those_of_one_process(ranks, single, text, tmp_path, size, shard):
    run = tmp_path / "run"
    arguments = [*TINY, "--text", text, "--run-dir", run, "--shard", shard]
    codes, said = ranks(arguments, size, report=size == 2)
    assert codes == [0] * size, said
    assert said.count("Trained in") == 1  # rank 0 alone speaks
    assert_same_history(run, single, 0 if size == 1 else 1e-5)
    if size == 2:  # samples and pictures too
        assert {path.name for path in run.iterdir()} == {path.name for path in single.iterdir()} | {"shards"}
    (_, here), (_, there) = (read_checkpoint(checkpoint_paths(r)[-1]) for r in (run, single))
    assert here["model"] == there["model"] and here["extra"].keys() == there["extra"].keys()
    for name, weight in there["weights"].items():
        torch.testing.assert_close(here["weights"][name], weight, rtol=0, atol=1e-4)


def test_losses_are_those_of_one_process_with_all_sharded(sharded, single):
    assert_same_history(sharded, single)


def test_one_rank_drops_out_what_one_process_does(ranks, text, tmp_path):
    arguments = ["--dropout", "0.2", "--steps", "5", "--warmup-steps", "1"]
    alone = train_alone(text, tmp_path / "single", *arguments)
    codes, said = ranks([*TINY, "--text", text, *arguments, "--run-dir", tmp_path / "run"], 1)
    assert codes == [0], said
    assert_same_history(tmp_path / "run", alone, 0)


@pytest.mark.parametrize("shard", ["none", "full"])
def test_compiled_blocks_give_the_same_losses(ranks, text, single, tmp_path, shard):
    arguments = [*TINY, "--text", text, "--run-dir", tmp_path / "run", "--shard", shard, "--compile"]
    codes, said = ranks(arguments, 2, eager=True)
    assert codes == [0, 0], said
    assert_same_history(tmp_path / "run", single)


def test_float16_with_its_scaler(ranks, text, tmp_path):
    arguments = ["--precision", "float16", "--steps", "5", "--warmup-steps", "1"]
    alone = train_alone(text, tmp_path / "single", *arguments)
    arguments = [*TINY, "--text", text, *arguments, "--run-dir", tmp_path / "run", "--shard", "full"]
    codes, said = ranks(arguments, 2)
    assert codes == [0, 0], said
    one, two = history(alone), history(tmp_path / "run")
    assert [m["scale"] for m in one] == [m["scale"] for m in two] and one[0]["scale"] > 1
    assert [m["loss"] for m in one] == pytest.approx([m["loss"] for m in two], abs=1e-2)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 12])
def test_no_window_is_left_out_or_taken_twice(size):
    data, config = TokenDataset(torch.arange(500), 8), TrainConfig(batch_size=4, grad_accum=3)
    shares = [micro_batches(data, 24, config, Ranks(rank, size)) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1  # as many passes on every rank
    assert all(len(inputs) <= 4 for share in shares for inputs, _ in share)
    inputs = torch.cat([inputs for share in shares for inputs, _ in share])
    targets = torch.cat([targets for share in shares for _, targets in share])
    whole = data.windows(24, 12, config.seed)
    assert torch.equal(inputs, whole[0]) and torch.equal(targets, whole[1])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 12])
def test_each_pass_over_the_text_takes_each_window_once_over_all_ranks(size):
    data, config = TokenDataset(torch.arange(121 * 8), 8), TrainConfig(batch_size=4, grad_accum=3)
    for first in range(0, 360, 120):  # three passes of 10 steps
        starts = sorted(
            start
            for step in range(first, first + 120, 12)
            for rank in range(size)
            for inputs, _ in micro_batches(data, step, config, Ranks(rank, size))
            for start in inputs[:, 0].tolist()
        )
        assert starts == list(range(starts[0], starts[0] + 120 * 8, 8))  # side by side over the whole text


# ---------------------------------------------------------------- checkpoints for any number of ranks


@pytest.mark.parametrize("size, shard", [(4, "none"), (1, "none"), (3, "full")])
def test_a_run_goes_on_with_another_number_of_ranks(ranks, sharded, single, tmp_path, size, shard):
    run = back_to_step_10(sharded, tmp_path)
    codes, said = ranks(["train", "--resume", run, "--shard", shard], size)
    assert codes == [0] * size and "after step 10." in said, said
    assert_same_history(run, single)


def test_export_gives_the_single_process_program_its_checkpoint(ranks, sharded, single, tmp_path, capsys):
    run = back_to_step_10(sharded, tmp_path)
    codes, said = ranks(["export", run], 1)
    assert codes == [0] and "step-000010.safetensors" in said, said
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "report", lambda *_: None)
        gpt.main(["train", "--resume", str(run)])
    assert_same_history(run, single)
    capsys.readouterr()
    gpt.main(["generate", "--model", str(run), "--prompt", "HAMLET", "--max-new-tokens", "5"])
    assert capsys.readouterr().out.startswith("HAMLET")


def test_export_writes_the_best_checkpoint_too(sharded, tmp_path):
    run = shutil.copytree(sharded, tmp_path / "copy")
    shutil.rmtree(run / "checkpoints")
    path = run / "shards" / "step-000020"
    write_record(path, read_record(path) | {"best": {"step": 10, "val_loss": 1.0}})
    assert [path.stem for path in export(run)] == ["step-000010", "step-000020"]
    assert checkpoint_paths(run) == [run / f"checkpoints/step-0000{step}.safetensors" for step in (10, 20)]


def test_a_run_of_the_single_process_program_goes_on(ranks, single, tmp_path):
    run = back_to_step_10(single, tmp_path)
    codes, said = ranks(["train", "--resume", run, "--shard", "full"], 2)
    assert codes == [0, 0], said
    assert_same_history(run, single)


# ---------------------------------------------------------------- torchrun: kill -9, SIGTERM


LONG = [*TINY, "--steps", "60", "--eval-every", "20", "--checkpoint-every", "7", "--keep-checkpoints", "3"]


@pytest.fixture(scope="module")
def undisturbed(text, tmp_path_factory):
    return train_alone(text, tmp_path_factory.mktemp("undisturbed"), *LONG[len(TINY) :])


@contextlib.contextmanager
def torchrun(run, text, log, restarts):
    """torchrun with two processes; killed with them if it is still there at the end."""
    arguments = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts), "-m", MODULE]
    command = [sys.executable, "-m", "torch.distributed.run", *arguments, *LONG]
    command += ["--text", str(text), "--run-dir", str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(log, "w") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
    try:
        yield process
    finally:
        for pid in [*children(process.pid), process.pid] if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        process.wait(timeout=60)


def children(pid):
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, timeout=60)
    return [int(line) for line in listed.stdout.split()]


def wait_for_step(run, step, process, seconds=300):
    """Until metrics.jsonl has a line for a step; how many it then has."""
    end, path = time.monotonic() + seconds, run / "metrics.jsonl"
    while not path.exists() or (lines := path.read_text().count("\n")) < step:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.002)
    return lines


def test_kill_9_of_a_rank_loses_the_steps_since_the_checkpoint_and_no_more(text, undisturbed, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    with torchrun(run, text, log, restarts=3) as process:
        wait_for_step(run, 16, process)
        os.kill(children(process.pid)[1], signal.SIGKILL)
        assert process.wait(timeout=400) == 0, log.read_text()
    said = log.read_text()
    went_on = [int(line.split()[-1][:-1]) for line in said.splitlines() if line.startswith("Going on with")]
    assert len(went_on) == 1 and went_on[0] >= 14 and (went_on[0] % 7 == 0 or went_on[0] in (20, 40)), said
    assert_same_history(run, undisturbed)


def test_sigterm_saves_and_the_same_command_goes_on(text, undisturbed, tmp_path, ranks):
    run, log = tmp_path / "run", tmp_path / "log"
    with torchrun(run, text, log, restarts=0) as process:
        wait_for_step(run, 16, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=400) != 0
    last = history(run)[-1]["step"]
    assert shard_paths(run)[-1].name == f"step-{last:06}" and 16 <= last < 60
    assert f"step {last} is saved; go on with" in log.read_text()
    codes, said = ranks([*LONG, "--text", text, "--run-dir", run], 2)
    assert codes == [0, 0] and f"after step {last}." in said, said
    assert_same_history(run, undisturbed)


# ---------------------------------------------------------------- faults: named, and nothing lost


def damage(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "harm, name", [(damage, "__1_0.distcp"), (Path.unlink, "__0_0.distcp"), (Path.unlink, "record.json")]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    ranks, sharded, single, tmp_path, harm, name
):
    run = shutil.copytree(sharded, tmp_path / "copy")
    shutil.rmtree(run / "checkpoints")
    harm(run / "shards" / "step-000020" / name)
    codes, said = ranks(["train", "--resume", run], 2)
    assert codes == [0, 0], said
    assert said.count("warning: ") == 1 and str(Path("step-000020", name)) in said and "going back" in said
    assert_same_history(run, single)


def test_without_a_whole_checkpoint_nothing_is_written(ranks, sharded, tmp_path):
    run = back_to_step_10(sharded, tmp_path)
    damage(run / "shards" / "step-000010" / "__0_0.distcp")
    before = snapshot(run)
    fails(ranks(["train", "--resume", run], 2), Path("step-000010", "__0_0.distcp"), "damaged")
    assert snapshot(run) == before
    damage(run / "shards" / "step-000010" / "record.json")
    before = snapshot(run)
    fails(ranks(["train", "--run-dir", run], 2), "record.json is damaged")
    assert snapshot(run) == before


def test_what_does_not_fit_is_named(ranks, sharded, text, tmp_path):
    run = back_to_step_10(sharded, tmp_path)
    before = snapshot(run)
    fails(ranks(["train", "--resume", run, "--d-model", "64"], 2), "d_model=32", "d_model=64")
    fails(ranks(["train", "--resume", run, "--n-layers", "3"], 1), "n_layers=2", "n_layers=3")
    fails(ranks(["train", "--resume", run, "--batch-size", "3"], 2), "batch_size=3", "8 or 10")
    fails(ranks(["train", "--resume", run, "--steps", "10"], 2), run, "at step 10 already", "--steps")
    fails(ranks(["train", "--resume", tmp_path / "none"], 2), tmp_path, "is not a run")
    other = tmp_path / "other.txt"
    other.write_text(text.read_text(encoding="utf-8") + "And more.\n", encoding="utf-8")
    fails(ranks(["train", "--resume", run, "--text", other], 2), "was trained with", other.name)
    original = text.read_bytes()
    try:
        text.write_bytes(original + b"More.\n")
        fails(ranks(["train", "--resume", run], 2), text.name, "has changed since")
    finally:
        text.write_bytes(original)
    fails(ranks(["train", "--resume", run], 2, others=["--max-lr", "0.1"]), "rank 1", "max_lr=0.1")
    assert snapshot(run) == before


def test_a_run_dir_that_is_a_file_or_in_use_is_named(ranks, text, tmp_path):
    arguments = [*TINY, "--text", text, "--run-dir"]
    fails(ranks([*arguments, text], 2), f"{text} is a file", "--run-dir")
    (run := tmp_path / "run").mkdir()
    (run / "tokenizer.json").write_text("another's")
    with alone_in(run):
        fails(ranks([*arguments, run], 2), "another process trains in", run)
    assert (run / "tokenizer.json").read_text() == "another's"
    fails(ranks([*arguments, tmp_path / "new"], 1, limits={0: 2000}), "tokenizer.json", "File too large")


def test_windows_that_cannot_be_shared_evenly():
    check_divisible(TrainConfig(batch_size=4, grad_accum=3), 6)
    with pytest.raises(ValueError, match="batch_size=4 times grad_accum=3 .* 12, .* 8 ranks .* 8 or 16"):
        check_divisible(TrainConfig(batch_size=4, grad_accum=3), 8)


def test_a_missing_rendezvous(ranks, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert rank_here() == (0, 1, 0)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match="RANK is set, but WORLD_SIZE and MASTER_ADDR and MASTER_PORT "):
        rank_here()
    alone = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    alone |= {"MASTER_PORT": "1", "TORCHELASTIC_USE_AGENT_STORE": "False"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
    command = [sys.executable, "-m", MODULE, *TINY, "--timeout", "2"]
    result = subprocess.run(
        command, env=environment | alone, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    said = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 2 and len(said) == 1, result.stderr
    assert "rank 1 of 2 did not meet the others at 127.0.0.1:1 " in said[0] and "2 s: --timeout" in said[0]


def test_a_rank_that_dies_is_missed_by_the_others(ranks, text, tmp_path):
    arguments = [*TINY, "--text", text, "--run-dir", tmp_path / "run", "--checkpoint-every", "5"]
    codes, said = ranks(arguments, 2, dies={1: 7})
    assert codes == [1, -9] and "error: rank 0 lost the connection to another" in said, said
    assert "Traceback" not in said
    assert [path.name for path in shard_paths(tmp_path / "run")] == ["step-000005"]


@pytest.mark.parametrize("options, name", [([], "job-7"), (["--out", "o"], "o"), (["--run-dir", "r"], "r")])
def test_a_restart_finds_its_folder_by_the_name_that_torchrun_has(monkeypatch, options, name):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-7")
    assert name in parse(["train", *options]).resume.parts
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert parse(["train"]).resume is None
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ValueError, match="after a restart .* --run-dir"):
        parse(["train"])


@pytest.mark.filterwarnings("error")
def test_a_store_that_keeps_dead_addresses_is_warned_of(monkeypatch):
    several = dict(WORLD_SIZE="4", LOCAL_WORLD_SIZE="2", TORCHELASTIC_MAX_RESTARTS="3")
    for name, value in (several | dict(TORCHELASTIC_USE_AGENT_STORE="True")).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserWarning, match="several machines will fail.*TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        warn_of_shared_store()
    for name, value in dict(LOCAL_WORLD_SIZE="4", TORCHELASTIC_MAX_RESTARTS="0").items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            warn_of_shared_store()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    warn_of_shared_store()


def test_a_full_disk_under_one_rank(ranks, text, tmp_path):
    run = tmp_path / "run"
    arguments = [*TINY, "--text", text, "--run-dir", run, "--shard", "full"]
    outcome = ranks(arguments, 2, limits={1: 50_000})
    fails(outcome, "step-000010 could not be written by rank 1", "File too large")
    assert [path.name for path in (run / "shards").iterdir()] == []


def test_a_loss_that_is_not_finite_stops_all_ranks(ranks, text, tmp_path):
    arguments = [*TINY, "--text", text, "--run-dir", tmp_path / "run", "--max-lr", "1e30"]
    fails(ranks(arguments, 2), "at step", "first module whose output is not finite", "last good checkpoint")
