"""The program: python -m ch06_inference.gpt train, generate, chat, attention, evaluate or export."""

# Written by hand: parsing options teaches nothing about language models.

import contextlib
import re
import sys
import warnings
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, get_type_hints

import matplotlib
import matplotlib.pyplot as plt
import torch
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg

from .assembly import (
    PRESETS,
    load_any,
    load_run,
    new_run_folder,
    preset_settings,
    run_settings,
    save_figure,
    train_gpt,
)
from .chat import SYSTEM_PROMPT, chat
from .figures import plot_attention
from .folders import newest_run, run_around
from .maps import attention_maps
from .pretrained import save_pretrained
from .previous_chapters import (
    Bounds,
    Count,
    GPTConfig,
    NotNegative,
    Positive,
    Size,
    TokenDataset,
    TrainConfig,
    Trainer,
    bits_per_byte,
    check_compiler,
    check_fields,
    newest_checkpoint,
    perplexity,
    pick_device,
    read_checkpoint,
    step_of,
    use_course_style,
)
from .streaming import stream, surprises
from .terminal import Lasting, on_one_line, or_to_nowhere, prepare_streams, say, say_meanwhile
from .texts import (
    LINE,
    PROMPTS,
    fewer_steps,
    fewer_tokens,
    load_texts,
    read_texts,
    recorded,
    say_many_passes,
    texts_of_run,
    with_steps,
)

__all__ = [
    "COMMANDS",
    "TrainCommand",
    "Sampling",
    "GenerateCommand",
    "ChatCommand",
    "AttentionCommand",
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
    """Train a GPT on your own text, or on Shakespeare's plays; everything goes to a folder under --out."""

    model: tyro.conf.OmitArgPrefixes[GPTConfig]
    train: tyro.conf.OmitArgPrefixes[TrainConfig]
    # auto (cuda when there is a GPU, else cpu), cpu, cuda or tiny: sets the defaults of the options below
    preset: str = "auto"
    text: Path | None = None  # a file of text in UTF-8, or a folder of .txt and .md files; else the plays
    # of the text: a share to measure on, such as 0.1, which is usual; or a file or folder with another text
    held_out: str | None = None
    out: Path = Path("runs")  # where the folders of runs are made
    # go on with this run from its newest checkpoint; its settings are then the defaults of the options below
    resume: Path | None = None
    typed: tyro.conf.Suppress[tuple[str, ...]] = ()  # the options that were given: a short text keeps them

    def run(self):
        device = pick_device(self.train.device)  # what is not there is better known now than later
        if self.train.compile:
            check_compiler(device)
        if self.out.exists() and not self.out.is_dir():
            raise FileExistsError(f"{self.out} is a file; name a folder for the runs with --out")
        step = step_of(newest_checkpoint(self.resume)) if self.resume else 0
        if step >= self.train.steps:
            raise ValueError(f"{self.resume} is at step {step} already; to go on ask for more, with --steps")
        if self.resume:
            texts = texts_of_run(self.resume, self.text, self.held_out)
        else:
            texts = load_texts(self.text, self.held_out)
        out, err = Lasting(sys.stdout), Lasting(sys.stderr)  # a run is worth more than what it says
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            print(*texts.remarks, sep="\n", end="\n" if texts.remarks else "")
            model, config = self.model, self.train
            if texts.source and not self.resume and "vocab_size" not in self.typed:
                model = replace(model, vocab_size=fewer_tokens(texts, model.vocab_size))
            if texts.source and not self.resume and "steps" not in self.typed:
                config = fewer_steps(texts, config, model.context_length, self.typed)
            if "steps" in self.typed:
                say_many_passes(texts, config, model.context_length)
            train_gpt(model, config, self.out, self.resume, texts)


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
    model: str = "newest"  # newest (in runs/), a run's folder or checkpoint, smollm2, or a folder of GPT-2
    # what to continue, with \n for a line break and \\ for a backslash; empty: the beginning of a text
    prompt: str = ""
    device: str = "auto"  # auto, cpu, cuda, ...

    def run(self):
        model, tokenizer = load_any(self.model, self.device)
        prompt = unescaped(self.prompt)
        prompt = prompt.encode("utf-8", "replace").decode()  # half a character becomes a question mark
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


def unescaped(text):
    """The text of an option, where \\n stands for a line break and \\\\ for a backslash."""
    return re.sub(r"\\([\\n])", lambda found: "\n" if found[1] == "n" else "\\", text)


@dataclass(frozen=True)
class ChatCommand:
    """Talk with SmolLM2, a real chat model, through the code of this course."""

    # greedy, with a light penalty against loops: so small a model loses its way when it draws by chance
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = field(
        default_factory=lambda: Sampling(temperature=0, top_p=None, repetition_penalty=1.1)
    )
    model: str = "smollm2"  # a model whose tokenizer knows <|im_start|> and <|im_end|>
    system: str = SYSTEM_PROMPT  # what the model is told about itself, with \n for a line break
    device: str = "auto"  # auto, cpu, cuda, ...

    def run(self):
        say_meanwhile("loading ...")
        model, tokenizer = load_any(self.model, self.device)
        chat(model, tokenizer, system=unescaped(self.system), **self.sampling.options(model))


@dataclass(frozen=True)
class AttentionCommand:
    """Draw what a model looks at while it reads a text: all heads, or the one that is named."""

    model: str = "newest"  # newest (in runs/), a run's folder or checkpoint, smollm2, or a folder of GPT-2
    # what it reads, with \n for a line break and \\ for a backslash; else a line in the manner of its texts
    text: str | None = None
    layer: int | None = None  # counted from 0; with --head
    head: int | None = None  # counted from 0; with --layer
    out: Path = Path("attention.png")  # where the picture goes; .png, .jpg, .pdf or .svg says of which kind
    device: str = "auto"  # auto, cpu, cuda, ...

    def run(self):
        out = self.out if self.out.suffix else self.out.with_name(self.out.name + ".png")
        if out.suffix[1:].lower() not in FigureCanvasAgg.filetypes:
            kinds = "one that ends in .png, .jpg, .pdf or .svg"
            raise ValueError(f"{out}: pictures that end in {out.suffix!r} are unknown; name {kinds}")
        model, tokenizer = load_any(self.model, self.device)
        if self.text is None:
            ids = tokenizer.encode_ordinary(recorded(folder_of(self.model)).get("line", LINE))
            text = tokenizer.decode(ids[: model.config.context_length])
        else:
            text = unescaped(self.text)
        tokens, maps = attention_maps(model, tokenizer, text)
        use_course_style()
        figure = plot_attention(tokens, maps, self.layer, self.head)
        if out.exists():  # said last: whoever names another picture need not hear of something else then
            plt.close(figure)
            raise FileExistsError(f"{out} exists already; name another picture with --out")
        save_figure(figure, out)
        print(f"{out}: {len(tokens)} tokens, {maps.size(0)} layers, {maps.size(1)} heads")


def folder_of(model):
    """The folder that a --model names, or that its checkpoint is in, if there is one."""
    path = newest_run() if model == "newest" else Path(model)
    return run_around(path) or path


@dataclass(frozen=True)
class EvaluateCommand:
    """Measure how well a model predicts a text, by default the one held out. Windows overlap by half."""

    model: str = "newest"  # newest (in runs/), a run's folder or checkpoint, smollm2, or a folder of GPT-2
    # a file of text in UTF-8, or a folder of .txt and .md files; else what the run held out, or three plays
    text: Path | None = None
    device: str = "auto"  # auto, cpu, cuda, ...

    def run(self):
        model, tokenizer = load_any(self.model, self.device)
        if self.text is None:
            texts = held_out_of(folder_of(self.model), tokenizer, model.config.context_length)
        else:
            texts = list(read_texts(self.text)[0].values())
        n_chars, context = sum(map(len, texts)), model.config.context_length
        say_meanwhile(f"reading {n_chars:,} characters, {context} tokens at a time ...")
        nats = torch.cat([surprises(model, tokenizer, text)[1] for text in texts])
        loss, n_bytes = nats.mean().item(), sum(len(text.encode()) for text in texts)
        bits = bits_per_byte(nats.sum().item(), n_bytes)
        print(
            f"{len(nats)} tokens: loss {loss:.3f} nats a token, perplexity {perplexity(loss):.1f}, "
            f"{bits:.3f} bits per byte"
        )


def held_out_of(run, tokenizer, context_length):
    """The held-out texts of a run, and the three plays for any other model.

    ValueError when they changed since the training: what is held out now may have been trained on.
    """
    texts = texts_of_run(run)
    if texts.source:
        now = TokenDataset.from_texts(texts.held_out.values(), tokenizer, context_length).fingerprint
        then = read_checkpoint(newest_checkpoint(run))[1]["extra"]["data"]["val"]
        if now["sha256"] != then["sha256"]:
            raise ValueError(f"{texts.name} has changed since {run} was trained; name a text with --text")
    return list(texts.held_out.values())


@dataclass(frozen=True)
class ExportCommand:
    """Write a trained model as a folder that transformers' AutoModelForCausalLM and AutoTokenizer load."""

    out: Path  # the new folder
    model: str = "newest"  # newest (run in runs/), or the folder or a checkpoint of a run

    def run(self):
        model, tokenizer = load_any(self.model, "cpu")
        print(f"written: {save_pretrained(model, self.out, tokenizer)}")


COMMANDS = {
    "generate": GenerateCommand,
    "chat": ChatCommand,
    "attention": AttentionCommand,
    "evaluate": EvaluateCommand,
    "export": ExportCommand,
}


@dataclass(frozen=True)
class Defaults:
    """The options of `train` that set the defaults of the others, and so are read first."""

    preset: str = "auto"
    resume: Path | None = None
    steps: str = ""


def with_own_defaults(config):
    """The same settings in a class that has them as its defaults, so that an error names the right one."""
    cls, settings = type(config), vars(config)
    own = [(name, hint, settings[name]) for name, hint in get_type_hints(cls, include_extras=True).items()]
    return make_dataclass(cls.__name__, own, bases=(cls,), frozen=True)()


def parse(arguments):
    """Command-line arguments -> one of the commands."""
    first = Defaults()
    if arguments[:1] == ["train"]:
        first, _ = tyro.cli(Defaults, args=arguments[1:], return_unknown_args=True, add_help=False)
    model, training = run_settings(first.resume) if first.resume else preset_settings(first.preset)
    if not first.resume and first.steps.isdecimal() and int(first.steps):
        training = with_steps(training, int(first.steps))
    options = [argument.split("=")[0][2:] for argument in arguments if argument.startswith("--")]
    typed = tuple(option.replace("-", "_") for option in options)
    if not {"-h", "--help"} & set(arguments):  # whose text is in the source of the classes
        model, training = with_own_defaults(model), with_own_defaults(training)
    default = TrainCommand(model, training, first.preset, resume=first.resume, typed=typed)
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
    prepare_streams()
    matplotlib.use("Agg")  # figures go to files; no window is needed
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a picture shows a box instead
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {on_one_line(message)}")
        try:
            parse(sys.argv[1:] if arguments is None else arguments).run()
            sys.stdout.flush()
        except BrokenPipeError:  # `... | head` has read enough
            sys.exit(1)
        except (ValueError, OSError, FloatingPointError) as error:
            say(f"error: {on_one_line(error)}")
            sys.exit(2)
        except KeyError as error:
            if error.args != ("<|endoftext|>",):
                raise
            say("error: this model's tokenizer has no <|endoftext|>, to begin a text with; give a --prompt")
            sys.exit(2)
        except (KeyboardInterrupt, SystemExit) as stopped:
            interrupted = isinstance(stopped, KeyboardInterrupt)
            if interrupted or hasattr(stopped, "__notes__"):
                say("\nstopped" + "".join(f": {note}" for note in getattr(stopped, "__notes__", [])))
            sys.exit(130 if interrupted else stopped.code)
        finally:
            with or_to_nowhere(sys.stdout):
                sys.stdout.flush()


if __name__ == "__main__" and __package__:  # as a program, and not in this notebook
    main()
