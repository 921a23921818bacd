"""The program: python -m appendix.f_ablations.try_idea FILE finds out whether the idea in a file helps.

The file is Python and ends with IDEA = Variant("a name", ...); it may hold functions and classes that the
idea needs. Examples are in appendix/f_ablations/ideas.
"""

# Written by hand: reading somebody's file and saying what is wrong with it teaches nothing about ablations.

import hashlib
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import torch
import tyro

from ch06_inference.terminal import on_one_line, prepare_streams

from .comparing import compare, table
from .harness import BASE, Budget, Variant, run, start_variant

RULE = 'an idea file ends with IDEA = Variant("a name", ...), from appendix.f_ablations.harness'


class BadIdea(ValueError):
    """An idea file that cannot be tried, and why."""


def load_idea(path):
    """The Variant in an idea file. BadIdea says in a sentence what is wrong with it."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadIdea(f"{path} cannot be read ({error}); {RULE}") from None
    idea = getattr(module_of(path), "IDEA", None)
    if idea is None:
        raise BadIdea(f"{path} has no IDEA; {RULE}")
    if not isinstance(idea, Variant):
        raise BadIdea(f"IDEA in {path} is a {type(idea).__name__}; {RULE}")
    if idea.name == BASE.name:
        raise BadIdea(f"the idea in {path} is called {idea.name!r}, as what it is compared with; rename it")
    return replace(idea, version=idea.version + hashlib.sha256(text.encode()).hexdigest()[:16])


def module_of(path):
    """The file, run as a module; an error in it is named with its line."""
    name = f"idea_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise BadIdea(f"{path} does not end in .py; {RULE}")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where its functions find it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadIdea(f"{path}, line {line_in(path, error)}: {on_one_line(said(error))}") from None
    return module


def line_in(path, error):
    """The last line of a file that an error passed through; of a SyntaxError, its own."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    trace, line = error.__traceback__, "?"
    while trace:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == str(path) else line
        trace = trace.tb_next
    return line


def said(error):
    return f"{type(error).__name__}: {error}"


@torch.no_grad()
def check_idea(idea, base=BASE, path=""):
    """BadIdea when an idea cannot be trained, or when its results would mean nothing."""
    where = f"the idea {idea.name!r}"
    try:
        settings, _ = [variant.configs(base, 10**9, 0)[0] for variant in (base, idea)]
    except ValueError as error:
        raise BadIdea(str(error)) from None
    ids = torch.randint(settings.vocab_size, (2, settings.context_length))
    try:
        first, second = (start_variant(idea, base, 10**9, (0, 0))[0].model for _ in range(2))
        device = next(first.parameters()).device
        logits = first.eval()(ids.to(device))  # (B, T, V)
    except Exception as error:
        line = f", line {line_in(path, error)}".replace(", line ?", "")
        raise BadIdea(f"{where} does not run{line}: {on_one_line(said(error))}") from None
    wanted = (*ids.shape, settings.vocab_size)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != wanted:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise BadIdea(f"{where} must return logits of shape {wanted}, and returns {got}")
    if not same_weights(first, second):
        raise BadIdea(
            f"{where} has other weights each time under the same seed; draw them with torch's own generator"
        )
    if not torch.allclose(logits, first(ids.to(device)), atol=1e-4):
        raise BadIdea(f"{where} draws random numbers when it is measured; draw them if self.training alone")
    half = settings.context_length // 2
    other = ids.clone()
    other[:, half:] = (ids[:, half:] + 1) % settings.vocab_size
    if not torch.allclose(logits[:, :half], first(other.to(device))[:, :half], atol=1e-4):
        raise BadIdea(f"{where} looks at the future: later tokens change earlier logits; keep it causal")
    try:
        with torch.enable_grad():
            second.train()(ids.to(device)).sum().backward()
    except Exception as error:
        raise BadIdea(f"{where} cannot be trained: {on_one_line(said(error))}") from None


def same_weights(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def run_idea(path, seeds=5, budget=None, folder="runs/ablations", base=BASE, data=None):
    """Train the idea in a file and the baseline under seeds 0 .. seeds - 1: the Rows that compare them."""
    idea = load_idea(path)
    check_idea(idea, base, path)
    plain = replace(base, name=BASE.name)
    return compare(run([plain, idea], range(seeds), budget or Budget(tokens=40_000), folder, base, data))


def main(
    idea: tyro.conf.Positional[Path],
    /,
    seeds: int = 5,
    tokens: float | None = None,
    flops: float | None = None,
    seconds: float | None = None,
    folder: Path = Path("runs/ablations"),
):
    """Find out whether an idea helps, by training with it and without it under several seeds.

    Args:
        idea: the file that ends with IDEA = Variant("a name", ...).
        seeds: how many trainings with it, and as many without.
        tokens: what each training may spend. Without any budget: 40,000 tokens.
        flops: the same in FLOPs.
        seconds: the same in seconds of this machine.
        folder: where results are kept; a command that was stopped goes on from there.
    """
    if seeds < 1:
        raise BadIdea(f"--seeds {seeds} must be at least 1; 5 are a good beginning")
    given = dict(tokens=tokens, flops=flops, seconds=seconds)
    budget = Budget(**given) if any(amount is not None for amount in given.values()) else None
    rows = run_idea(idea, seeds, budget, folder)
    print(table(rows))
    print(f"{rows[1].name}: {rows[1].verdict}")


def command_line(arguments=None):
    prepare_streams()
    try:
        tyro.cli(main, prog="python -m appendix.f_ablations.try_idea", args=arguments)
    except (ValueError, OSError) as error:
        print(f"error: {on_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    command_line()
