"""The program: python -m ch06_inference.gpt train, generate, chat, attention, evaluate or export."""

# Written by hand: parsing options teaches nothing about language models.

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import matplotlib
import torch
import tyro

from .assembly import (
    PRESETS,
    PROMPTS,
    load_any,
    load_run,
    new_run_folder,
    preset_settings,
    run_settings,
    train_gpt,
)
from .chat import SYSTEM_PROMPT, chat
from .maps import attention_maps, plot_attention
from .pretrained import save_pretrained
from .previous_chapters import (
    Bounds,
    Count,
    GPTConfig,
    NotNegative,
    Positive,
    Size,
    TrainConfig,
    Trainer,
    bits_per_byte,
    check_fields,
    load_plays,
    perplexity,
    split_plays,
    use_course_style,
)
from .streaming import stream, surprises

__all__ = [
    "COMMANDS",
    "TrainCommand",
    "Sampling",
    "GenerateCommand",
    "say_meanwhile",
    "ChatCommand",
    "AttentionCommand",
    "read_text",
    "EvaluateCommand",
    "ExportCommand",
    "Defaults",
    "parse",
    "main",
    "PRESETS",
    "PROMPTS",
    "Trainer",
    "load_run",
    "new_run_folder",
]


@dataclass(frozen=True)
class TrainCommand:
    """Train a GPT on Shakespeare's plays; everything is written to a folder of its own under --out."""

    model: tyro.conf.OmitArgPrefixes[GPTConfig]
    train: tyro.conf.OmitArgPrefixes[TrainConfig]
    # auto (cuda when there is a GPU, else cpu), cpu, cuda or tiny: sets the defaults of the options below
    preset: str = "auto"
    out: Path = Path("runs")  # where the folders of runs are made
    # go on with this run from its newest checkpoint; its settings are then the defaults of the options below
    resume: Path | None = None

    def run(self):
        train_gpt(self.model, self.train, self.out, self.resume)


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen."""

    max_new_tokens: Size = 200  # how many tokens to add at most
    temperature: NotNegative = 0.8  # 0 is greedy
    top_k: Size | None = None  # draw from the k most probable tokens only
    # draw from the smallest set of tokens that reaches this probability
    top_p: Annotated[float, Bounds(above=0, highest=1)] | None = 0.95
    repetition_penalty: Positive = 1.0  # above 1: avoid what was said already; 1.2 is usual
    seed: Count | None = None  # the same seed gives the same text

    def __post_init__(self):
        check_fields(self)

    def options(self, model):
        """As keywords of stream and Chat."""
        generator = torch.Generator(model.lm_head.weight.device)
        generator.seed() if self.seed is None else generator.manual_seed(self.seed)
        names = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty")
        return {name: getattr(self, name) for name in names} | {"generator": generator}


@dataclass(frozen=True)
class GenerateCommand:
    """Continue a prompt with a trained model, to standard output."""

    sampling: tyro.conf.OmitArgPrefixes[Sampling] = field(default_factory=Sampling)
    model: str = "newest"  # newest (run in runs/), the folder of a run, smollm2, or a folder of GPT-2
    prompt: str = ""  # what to continue, with \n for a line break; empty: the beginning of a text
    device: str = "auto"  # auto, cpu, cuda, ...

    def run(self):
        model, tokenizer = load_any(self.model, self.device)
        prompt = self.prompt.replace("\\n", "\n")  # a shell passes the two characters on
        prompt = prompt.encode("utf-8", "replace").decode()  # what cannot be printed becomes a question mark
        n_tokens, context = len(tokenizer.encode_ordinary(prompt)), model.config.context_length
        if n_tokens > context:
            print(
                f"the prompt has {n_tokens} tokens; the model sees the last {context // 2}", file=sys.stderr
            )
        pieces = stream(model, tokenizer, prompt, **self.sampling.options(model))
        print(prompt + next(pieces, ""), end="", flush=True)  # bad options fail before the first output
        for piece in pieces:
            print(piece, end="", flush=True)
        print()


def say_meanwhile(text):
    """A word to somebody who waits at a terminal; nothing when the output goes to a file or a program."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class ChatCommand:
    """Talk with SmolLM2, a real chat model, through the code of this course."""

    # greedy, with a light penalty against loops: so small a model loses its way when it draws by chance
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = field(
        default_factory=lambda: Sampling(temperature=0, top_p=None, repetition_penalty=1.1)
    )
    model: str = "smollm2"  # a model whose tokenizer knows <|im_start|> and <|im_end|>
    system: str = SYSTEM_PROMPT  # what the model is told about itself
    device: str = "auto"  # auto, cpu, cuda, ...

    def run(self):
        say_meanwhile("loading ...")
        model, tokenizer = load_any(self.model, self.device)
        chat(model, tokenizer, system=self.system, **self.sampling.options(model))


@dataclass(frozen=True)
class AttentionCommand:
    """Draw what a model looks at while it reads a text: all heads, or the one that is named."""

    model: str = "newest"  # newest (run in runs/), the folder of a run, smollm2, or a folder of GPT-2
    text: str = "ROMEO:\\nO love, O life! O love, O life!"  # what it reads, with \n for a line break
    layer: int | None = None  # counted from 0; with --head
    head: int | None = None  # counted from 0; with --layer
    out: Path = Path("attention.png")  # where the picture goes
    device: str = "auto"  # auto, cpu, cuda, ...

    def run(self):
        if self.out.exists():
            raise FileExistsError(f"{self.out} exists already; name another picture with --out")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        model, tokenizer = load_any(self.model, self.device)
        tokens, maps = attention_maps(model, tokenizer, self.text.replace("\\n", "\n"))
        use_course_style()
        plot_attention(tokens, maps, self.layer, self.head).savefig(self.out, dpi=150)
        print(f"{self.out}: {len(tokens)} tokens, {maps.size(0)} layers, {maps.size(1)} heads")


def read_text(path):
    """A file of text in UTF-8, without the mark that some editors put at its beginning."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8 and try again") from None


@dataclass(frozen=True)
class EvaluateCommand:
    """Measure how well a model predicts a text: the held-out plays, or a file. Windows overlap by half."""

    model: str = "newest"  # newest (run in runs/), the folder of a run, smollm2, or a folder of GPT-2
    text: Path | None = None  # a file of text in UTF-8; without it, the plays that training never sees
    device: str = "auto"  # auto, cpu, cuda, ...

    def run(self):
        model, tokenizer = load_any(self.model, self.device)
        texts = list(split_plays(load_plays())[1].values()) if self.text is None else [read_text(self.text)]
        n_chars, context = sum(map(len, texts)), model.config.context_length
        say_meanwhile(f"reading {n_chars:,} characters, {context} tokens at a time ...")
        nats = torch.cat([surprises(model, tokenizer, text)[1] for text in texts])
        loss, n_bytes = nats.mean().item(), sum(len(text.encode()) for text in texts)
        bits = bits_per_byte(nats.sum().item(), n_bytes)
        print(
            f"{len(nats)} tokens: loss {loss:.3f} nats a token, perplexity {perplexity(loss):.1f}, "
            f"{bits:.3f} bits per byte"
        )


@dataclass(frozen=True)
class ExportCommand:
    """Write a trained model as a folder that transformers' AutoModelForCausalLM loads."""

    out: Path  # the new folder
    model: str = "newest"  # newest (run in runs/), or the folder of a run

    def run(self):
        print(f"written: {save_pretrained(load_any(self.model, 'cpu')[0], self.out)}")


COMMANDS = {
    "generate": GenerateCommand,
    "chat": ChatCommand,
    "attention": AttentionCommand,
    "evaluate": EvaluateCommand,
    "export": ExportCommand,
}


@dataclass(frozen=True)
class Defaults:
    """The two options of `train` that set the defaults of the others, and so are read first."""

    preset: str = "auto"
    resume: Path | None = None


def parse(arguments):
    """Command-line arguments -> one of the commands."""
    first = Defaults()
    if arguments[:1] == ["train"]:
        first, _ = tyro.cli(Defaults, args=arguments[1:], return_unknown_args=True, add_help=False)
    model, training = run_settings(first.resume) if first.resume else preset_settings(first.preset)
    default = TrainCommand(model, training, first.preset, resume=first.resume)
    choices = Annotated[TrainCommand, tyro.conf.subcommand("train", prefix_name=False, default=default)]
    for name, command in COMMANDS.items():
        choices |= Annotated[command, tyro.conf.subcommand(name, prefix_name=False)]

    @dataclass(frozen=True)
    class Program:
        """Train a GPT, let it speak, look into it; or talk with a real model."""

        command: tyro.conf.OmitArgPrefixes[choices]

    return tyro.cli(Program, prog="python -m ch06_inference.gpt", args=arguments).command


def main(arguments=None):
    """Run a command. An error is one sentence on standard error and exit code 2; Ctrl-C is exit code 130."""
    matplotlib.use("Agg")  # figures go to files; no window is needed
    try:
        parse(sys.argv[1:] if arguments is None else arguments).run()
    except BrokenPipeError:  # `... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        print(f"\nstopped{': ' if interrupt.args else ''}{interrupt}", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__" and __package__:  # as a program, and not in this notebook
    main()
