"""The program: torchrun ... -m appendix.c_scale.train_distributed train or export. Written by hand.

It trains the course's GPT on any number of GPUs and machines, with the options of chapter 6's program, and
gives that program's losses. The run folder must be on a file system that all machines see.
"""

import contextlib
import os
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import matplotlib
import torch
import tyro

from ch01_tokenization.tokenizer import BPETokenizer
from ch04_transformer.fields import Positive
from ch04_transformer.transformer import GPT, GPTConfig, count_parameters
from ch05_training.config import check_compiler
from ch05_training.data import TokenDataset
from ch05_training.files import naming
from ch05_training.folder import alone_in, checkpoint_paths, step_of
from ch05_training.training import TrainConfig
from ch06_inference.assembly import load_run, new_run_folder, preset_settings, report, watch_first_loss
from ch06_inference.folders import what_is_there
from ch06_inference.gpt import Defaults, TrainCommand, with_own_defaults
from ch06_inference.terminal import Lasting, on_one_line, prepare_streams, say
from ch06_inference.texts import (
    check_length,
    check_unchanged,
    fewer_steps,
    fewer_tokens,
    load_texts,
    record_texts,
    say_many_passes,
    texts_of_run,
    train_tokenizer,
    with_steps,
)

from .distributed_trainer import DistributedTrainer, check_divisible
from .ranks import Ranks, ToldByAll, first_line, is_loss_of_a_rank, meet, rank_here
from .shards import (
    all_paths,
    export_shards,
    newest_record,
    newest_whole_shards,
    read_record,
    shard_paths,
    train_config,
)

PROGRAM = "appendix.c_scale.train_distributed"


# ---------------------------------------------------------------- train


@dataclass(frozen=True)
class DistributedCommand(TrainCommand):
    """Train a GPT on all processes that torchrun starts: they share out the windows of each step."""

    # none: each process holds the whole model (DDP); full: a part of it (fully_shard)
    shard: Literal["none", "full"] = "none"
    # the folder of the run: begun there, or gone on with; a restart by torchrun then finds it again
    run_dir: Path | None = None
    timeout: Positive = 600.0  # seconds that a process waits for another

    def run(self):
        ranks = meet(self.train.device, self.timeout)
        out = Lasting(sys.stdout if ranks.first else open(os.devnull, "w"))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(Lasting(sys.stderr)):
            trainer, prepared = self.trainer(ranks)
            model = train(trainer, self.shard)
            trainer.model = None  # DDP holds the process group too; see Ranks.leave
            ranks.leave()
            if ranks.first:
                finish(trainer, model, *prepared)

    def trainer(self, ranks):
        """The DistributedTrainer of each rank, and on rank 0 (tokenizer, texts); what fails, fails on all."""
        with ranks.together():
            if self.train.compile:
                check_compiler(ranks.device)
            check_divisible(self.train, ranks.size)
        mine = [asdict(self.model), asdict(self.train), self.shard]
        with ranks.together():
            check_same_options(mine, ranks.share(mine))
        prepared = settings = None
        with ranks.together():
            if ranks.first:
                prepared = run, model, config, *_ = self.prepare()
                settings = run, asdict(model), asdict(config), bool(all_paths(run))
        run, model, config, goes_on = ranks.share(settings)
        model, config = GPTConfig(**model), TrainConfig(**config)
        with ranks.together():
            if not run.is_dir():
                why = "every machine must see the folder of the run; name one with --run-dir"
                raise FileNotFoundError(f"{run} is not there; {why}")
        streams = prepared[3] if prepared else (None, None)
        data = []
        for stream in streams:
            facts = ranks.share(stream and (stream.n_bytes, stream.name))
            ids = ranks.share_ids(stream and stream.token_ids)
            data.append(TokenDataset(ids, model.context_length, *facts))
        torch.manual_seed(config.seed)
        trainer = DistributedTrainer(GPT(model), config, *data, run, ranks, self.shard)
        if goes_on:
            step = trainer.resume().state.step
            if step >= config.steps and "resume" in self.typed:
                raise ToldByAll(f"{run} is at step {step} already; to go on ask for more, with --steps")
            print(f"Going on with {run} after step {step}.")
        return trainer, prepared and prepared[4:]

    def prepare(self):
        """On rank 0: the run's folder, begun, GPTConfig, TrainConfig, both streams, tokenizer, texts."""
        model, config, run = self.model, self.train, self.resume
        if (folder := run or self.out).exists() and not folder.is_dir():
            raise FileExistsError(f"{folder} is a file; name a folder with --{'run-dir' if run else 'out'}")
        record = newest_record(run) if run else None
        if record is not None:
            texts = texts_of_run(run, self.text, self.held_out)
            tokenizer = BPETokenizer.load(run / "tokenizer.json")
        else:
            texts = load_texts(self.text, self.held_out)
        print(*texts.remarks, sep="\n", end="\n" if texts.remarks else "")
        if record is None:
            if texts.source and "vocab_size" not in self.typed:
                model = replace(model, vocab_size=fewer_tokens(texts, model.vocab_size))
            if texts.source and "steps" not in self.typed:
                config = fewer_steps(texts, config, model.context_length, self.typed)
            tokenizer = train_tokenizer(texts.train.values(), model.vocab_size)
            model = replace(model, vocab_size=tokenizer.n_vocab)
        if "steps" in self.typed:
            say_many_passes(texts, config, model.context_length)
        parts = ((texts.train, texts.name), (texts.held_out, f"{texts.name}, held out"))
        streams = [TokenDataset.from_texts(part.values(), tokenizer, 1, name) for part, name in parts]
        if record is not None:
            here = dict(zip(("train", "val"), (stream.fingerprint for stream in streams), strict=True))
            check_unchanged(run, texts, record["data"], here)
        check_length(texts, tokenizer, model.context_length)
        run = run or new_run_folder(self.out)
        with alone_in(run), naming(run / "tokenizer.json"):  # or another's run would get this tokenizer
            if record is None:
                tokenizer.save(run / "tokenizer.json")
            record_texts(run, texts)
        return run, model, config, streams, tokenizer, texts


def check_same_options(mine, first):
    """ValueError that names the first option in which a rank differs from rank 0."""
    for here, there in zip(mine[:2], first[:2], strict=True):
        for name, value in here.items():
            if value != there[name]:
                raise ValueError(f"{name}={value!r}, but rank 0 has {there[name]!r}; give all the same")
    if mine[2] != first[2]:
        raise ValueError(f"shard={mine[2]!r}, but rank 0 has {first[2]!r}; give all the same")


def train(trainer, shard):
    """Train, and say what with and how long; when it is stopped, how to go on. Returns the model."""
    began, ranks, model = time.perf_counter(), trainer.ranks, trainer.state.model
    how = f"on {ranks.size} {'process' if ranks.size == 1 else 'processes'}, {ranks.device.type}"
    precision, ways = str(trainer.precision).removeprefix("torch."), {"none": "whole", "full": "sharded"}
    what = f"{count_parameters(model):,} parameters, {ways[shard]}, {how} in {precision}"
    print(f"Training {what}, into {trainer.run_dir}", flush=True)
    try:
        trainer.fit(watch=(lambda history: watch_first_loss(history, model.config)) if ranks.first else None)
    except (KeyboardInterrupt, SystemExit) as stopped:
        if ranks.first and (saved := shard_paths(trainer.run_dir)):
            command = f'the same command with --resume "{trainer.run_dir.as_posix()}"'
            stopped.add_note(f"step {step_of(saved[-1])} is saved; go on with: {command}")
        raise
    print(f"Trained in {time.perf_counter() - began:.0f} s.")
    return model


def finish(trainer, model, tokenizer, texts):
    """On rank 0, when the others have gone: checkpoints for one process, and chapter 6's report."""
    run = trainer.run_dir
    export(run)
    model, _ = load_run(run, str(trainer.ranks.device))
    report(run, model, tokenizer, trainer.history, texts)


# ---------------------------------------------------------------- export


@dataclass(frozen=True)
class ExportCommand:
    """Write a run's newest checkpoint, and its best, for the single-process program of chapter 6."""

    run_dir: tyro.conf.Positional[Path]  # the folder of the run

    def run(self):
        if not all_paths(self.run_dir):
            raise FileNotFoundError(what_is_there(self.run_dir))
        print(*(f"written: {path}" for path in export(self.run_dir)), sep="\n")


def export(run):
    """The new checkpoints/step-*.safetensors of a run: its best, if that is kept, and the newest."""
    path, record = newest_whole_shards(run, Ranks())
    best = (record["best"] or {}).get("step")
    earlier = [other for other in shard_paths(run) if step_of(other) == best and other != path]
    there = {step_of(path) for path in checkpoint_paths(run)}
    written = [export_shards(run, other, read_record(other)) for other in earlier if best not in there]
    return written + [export_shards(run, path, record)]


# ---------------------------------------------------------------- options


@dataclass(frozen=True)
class First(Defaults):
    """The options that are read first."""

    run_dir: Path | None = None
    out: Path = Path("runs")


def folder_of(first):
    """The folder of the run that goes on, or that a restart must find again; None for a new one.

    Without --resume and --run-dir, under torchrun, it is named as torchrun's --rdzv-id, which --standalone
    makes up. ValueError when torchrun is to restart what has no name.
    """
    if first.resume or first.run_dir:
        return first.resume or first.run_dir
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if name != "none":
        return first.out / name
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        how = "name its folder with --run-dir, or give torchrun --standalone or --rdzv-id"
        raise ValueError(f"after a restart the run could not be found again; {how}")


def parse(arguments):
    """Command-line arguments -> a command. As in chapter 6, the settings of a run are then the defaults."""
    first = First()
    if arguments[:1] == ["train"]:
        first, _ = tyro.cli(First, args=arguments[1:], return_unknown_args=True, add_help=False)
    run = folder_of(first)
    record = newest_record(run) if run else None
    if first.resume and record is None:
        raise FileNotFoundError(what_is_there(first.resume))
    if record is not None:
        model, training = GPTConfig(**record["model"]), train_config(record)
    else:
        model, training = preset_settings(first.preset)
        if first.steps.isdecimal() and int(first.steps):
            training = with_steps(training, int(first.steps))
    options = [argument.split("=")[0][2:] for argument in arguments if argument.startswith("--")]
    typed = tuple(option.replace("-", "_") for option in options)
    if not {"-h", "--help"} & set(arguments):  # whose text is in the source of the classes
        model, training = with_own_defaults(model), with_own_defaults(training)
    default = DistributedCommand(model, training, first.preset, resume=run, typed=typed)
    choices = Annotated[DistributedCommand, tyro.conf.subcommand("train", prefix_name=False, default=default)]
    choices |= Annotated[ExportCommand, tyro.conf.subcommand("export", prefix_name=False)]

    @dataclass(frozen=True)
    class Program:
        """Train a GPT on many GPUs and machines; or take such a run back to one process."""

        command: tyro.conf.OmitArgPrefixes[choices]

    return tyro.cli(Program, prog=f"python -m {PROGRAM}", args=arguments).command


@contextlib.contextmanager
def silent():
    """Inside, nothing is said."""
    with open(os.devnull, "w") as nowhere:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield


def main(arguments=None):
    """Run a command. An error is one sentence on standard error, of one rank, and exit code 2."""
    prepare_streams()
    matplotlib.use("Agg")
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    with warnings.catch_warnings():
        for known in ("Glyph .* missing from", "torch.distributed is disabled", "`broadcast_buffers`"):
            warnings.filterwarnings("ignore", known)
        warnings.showwarning = lambda message, *_, **__: rank or say(f"warning: {on_one_line(message)}")
        try:
            with silent() if local else contextlib.nullcontext():
                command = parse(sys.argv[1:] if arguments is None else arguments)
            rank_here()
        except (ValueError, OSError) as error:  # each process has it: one of each machine says it
            local or say(f"error: {on_one_line(error)}")
            sys.exit(2)
        try:
            command.run()
            sys.stdout.flush()
        except (ValueError, OSError, FloatingPointError) as error:
            known_to_all = isinstance(error, ToldByAll | FloatingPointError)
            if rank == 0 or not known_to_all:
                named = rank == 0 or isinstance(error, ConnectionError)
                say(f"error: {'' if named else f'rank {rank}: '}{on_one_line(error)}")
            sys.exit(2)
        except RuntimeError as error:
            if not is_loss_of_a_rank(error):
                raise
            saved = "what is saved stays; torchrun --max-restarts goes on from the last checkpoint"
            late = "; if the other is only slow, give a longer --timeout" if "imed out" in str(error) else ""
            say(f"error: rank {rank} lost the connection to another ({first_line(error)}){late}; {saved}")
            sys.exit(1)
        except (KeyboardInterrupt, SystemExit) as stopped:
            if notes := getattr(stopped, "__notes__", []):
                say("\nstopped" + "".join(f": {note}" for note in notes))
            sys.exit(130 if isinstance(stopped, KeyboardInterrupt) else stopped.code)


if __name__ == "__main__" and __package__:
    main()
