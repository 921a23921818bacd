"""Trains variants of one model over many seeds, on equal budgets; every result stays on disk."""

# Written by `make export` from f_ablations.ipynb; change it there.

import contextlib
import functools
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from appendix.d_architectures.trials import small_data
from ch04_transformer.accounting import forward_flops
from ch04_transformer.fields import Positive, check_fields
from ch05_training.files import write_whole
from ch05_training.machines import pick_device

from .comparing import compare, table
from .previous_chapters import GPT, GPTConfig, TrainConfig, TrainState, count_parameters, evaluate, train_step

__all__ = [
    "BASE",
    "Variant",
    "Budget",
    "cost_of_step",
    "start_variant",
    "take_steps",
    "seconds_of_step",
    "train_variant",
    "code_of",
    "settings_of",
    "key_of",
    "read_result",
    "Job",
    "jobs_of",
    "run",
    "steps_for",
    "ablate",
]

# %% f_ablations.ipynb #54d71285
@dataclass(frozen=True)
class Variant:
    """What is changed about the base, and its name.

    model, train: fields of GPTConfig and TrainConfig that get other values. change: a function that gets the
    new model and changes it in place, or returns another nn.Module. cost: FLOPs of a step, as a multiple of
    what the formula counts, when `change` adds work. version: any text; another one means another result.
    """

    name: str
    model: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)
    change: Callable | None = None
    cost: float = 1.0
    version: str = ""

    def configs(self, base, steps, data_seed):
        """(GPTConfig, TrainConfig): the base's fields, then this variant's. ValueError names a bad one."""
        if not self.train.keys().isdisjoint({"steps", "seed"}):
            raise ValueError(f"variant {self.name!r}: steps and seed come from the budget and from `seeds`")
        try:
            return (
                GPTConfig(**base.model | self.model),
                TrainConfig(**base.train | self.train | {"steps": steps, "seed": data_seed}),
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"variant {self.name!r}: {str(error).split('__init__() ')[-1]}") from None


BASE = Variant(
    "baseline",
    model=dict(vocab_size=512, context_length=32, d_model=32, n_heads=2, n_layers=2),
    train=dict(batch_size=8, max_lr=1e-2, warmup_steps=60),
)

# %% f_ablations.ipynb #3b083480
@dataclass(frozen=True)
class Budget:
    """What each training may spend: tokens, FLOPs or seconds, one of the three."""

    tokens: Positive | None = None
    flops: Positive | None = None
    seconds: Positive | None = None

    def __post_init__(self):
        check_fields(self)
        if len(self.given) != 1:
            raise ValueError(f"a budget is tokens, flops or seconds, one of them; got {self}")

    @property
    def given(self):
        """{what: how much}, a single pair."""
        return {name: amount for name, amount in vars(self).items() if amount is not None}

    def steps(self, **cost_of_step):
        """How many steps it pays for; cost_of_step: tokens=, flops= and seconds= of one. At least 1."""
        ((name, amount),) = self.given.items()
        return max(1, int(amount / cost_of_step[name] + 1e-9))


def cost_of_step(variant, base):
    """{"tokens", "flops"} of one step. FLOPs: 3 forward passes, chapter 4, times variant.cost."""
    model, train = variant.configs(base, steps=10**9, data_seed=0)
    T, windows = model.context_length, train.batch_size * train.grad_accum
    flops = 3 * variant.cost * sum(forward_flops(model, windows, T).values())
    return {"tokens": windows * T, "flops": flops}

# %% f_ablations.ipynb #80dd93b2
def start_variant(variant, base, steps, seeds):
    """(TrainState, TrainConfig): weights drawn under seeds[0]; batches and dropout under seeds[1]."""
    init_seed, data_seed = seeds
    model_config, config = variant.configs(base, steps, data_seed)
    torch.manual_seed(init_seed)
    model = GPT(model_config)
    if variant.change:
        changed = variant.change(model)
        if not isinstance(changed, torch.nn.Module | None):
            raise TypeError(f"change must return an nn.Module or nothing, not a {type(changed).__name__}")
        model = model if changed is None else changed
    state = TrainState.start(model, config)
    state.model.train()
    return state, config


def take_steps(state, config, data):
    """Train to config.steps: the losses, nats a token. Ends early when a loss is no longer finite."""
    losses, A = [], config.grad_accum
    try:
        while state.step < config.steps:
            numbers = range(state.step * A, state.step * A + A)
            batches = [data.batch(number, config.batch_size, config.seed) for number in numbers]
            losses.append(train_step(state, batches, config)["loss"])
    except FloatingPointError:
        losses.append(math.inf)
    return losses


def seconds_of_step(variant, base, data, n=6):
    """Seconds of one step here: the least of n, after one more, on a model that is thrown away."""
    state, config = start_variant(variant, base, 10**9, (0, 0))
    times = []
    for last in range(1, n + 2):
        began = time.perf_counter()
        take_steps(state, replace(config, steps=last, warmup_steps=0), data)
        times.append(time.perf_counter() - began)
    return min(times[1:])

# %% f_ablations.ipynb #dafa6787
def train_variant(variant, seeds, steps, data, base=BASE):
    """Train one variant under one pair of seeds and measure it: the result, as JSON can hold it.

    held_out: nats a token on data[1]; infinite when training diverged.
    """
    state, config = start_variant(variant, base, steps, seeds)
    began = time.perf_counter()
    losses = take_steps(state, config, data[0])
    seconds = time.perf_counter() - began
    measured = {"loss": math.inf} if losses[-1] == math.inf else evaluate(state.model, data[1])
    spent = {name: cost * len(losses) for name, cost in cost_of_step(variant, base).items()}
    return {
        "steps": steps,
        **spent,
        "seconds": seconds,
        "parameters": count_parameters(state.model),
        "losses": losses,
        "held_out": measured["loss"],
        "bits_per_byte": measured.get("bits_per_byte"),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }

# %% f_ablations.ipynb #89e2d042
def code_of(function):
    """What a function or a class does, as nested lists: byte code, constants, names, what it encloses."""

    def steady(value):
        if hasattr(value, "__code__"):
            return code_of(value)
        if isinstance(value, torch.Tensor):
            return value.tolist()
        return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)

    def of_code(code):
        inner = [of_code(part) if hasattr(part, "co_code") else steady(part) for part in code.co_consts]
        return [code.co_code.hex(), *code.co_names, inner]

    if isinstance(function, functools.partial):
        return [code_of(function.func), *map(steady, function.args), repr(function.keywords)]
    if isinstance(function, type):
        parts = vars(function).items()
        return [steady(part) for name, part in parts if hasattr(part, "__code__") or name[0] != "_"]
    values = [cell.cell_contents for cell in function.__closure__ or ()]
    values += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return [of_code(function.__code__), *map(steady, values)]


def settings_of(variant, seeds, budget, data, base):
    """All that a result depends on but for the machine: two trainings alike in this are the same."""
    model, train = variant.configs(base, steps=10**9, data_seed=seeds[1])
    if model.context_length != (T := data[0].context_length):
        raise ValueError(f"{variant.name!r}: context_length={model.context_length}, and the data has {T}")
    return {
        "model": asdict(model),
        "train": asdict(train) | {"steps": None, "device": pick_device(train.device).type},
        "change": code_of(variant.change) if variant.change else None,
        "cost": variant.cost,
        "version": variant.version,
        "seeds": list(seeds),
        "budget": budget.given,
        "texts": [part.fingerprint | {"context_length": part.context_length} for part in data],
    }


def key_of(settings):
    """A digest of settings: 16 hexadecimal digits, the name of the result's file."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

# %% f_ablations.ipynb #45be9a3b
def read_result(path):
    """The result in a file; None when there is none, or when it is damaged, which is said."""
    path = Path(path)
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_bytes())
        if key_of(result["settings"]) == path.stem and {"held_out", "losses", "steps"} <= result.keys():
            return result
        problem = "it does not belong to its name"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
    print(f"{path.name} is damaged ({problem}); this training is done again")
    return None

# %% f_ablations.ipynb #b3d25db8
class Job(NamedTuple):
    """One training of the table, and the file of its result."""

    variant: Variant
    seeds: tuple
    settings: dict
    path: Path


def jobs_of(variants, seeds, budget, folder, base, data):
    """Every variant under every seed as Jobs, seed by seed. ValueError when two variants share a name."""
    names = [variant.name for variant in variants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two variants are called {twice[0]!r}; give each a name of its own")
    jobs = []
    for seed in seeds:
        pair = (seed, seed) if isinstance(seed, int) else tuple(seed)
        for variant in variants:
            settings = settings_of(variant, pair, budget, data, base)
            jobs.append(Job(variant, pair, settings, Path(folder) / f"{key_of(settings)}.json"))
    return jobs

# %% f_ablations.ipynb #1eaf96e8
def run(variants, seeds, budget, folder, base=BASE, data=None):
    """Train each variant under each seed, unless its result is in `folder`: a list of results.

    seeds: whole numbers, or pairs (seed of the weights, seed of the batches). data: (training, held-out)
    TokenDatasets. A run that was killed goes on with what is missing; several processes share the work.
    """
    model = base.configs(base, 10**9, 0)[0]
    data = data or small_data(model.context_length, model.vocab_size)[1:]
    jobs, done, steps = jobs_of(variants, seeds, budget, folder, base, data), {}, {}
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(jobs), desc="training", unit="run", mininterval=1) as bar:
        for patience in (0, -1):  # seconds: leave what another process is at, then wait for it
            for number in [n for n in range(len(jobs)) if n not in done]:
                job, name = jobs[number], jobs[number].variant.name
                with contextlib.suppress(Timeout), FileLock(f"{job.path}.lock", timeout=patience):
                    result = read_result(job.path)
                    if result is None:
                        steps[name] = steps.get(name) or steps_for(job.variant, budget, data, base)
                        result = train_variant(job.variant, job.seeds, steps[name], data, base)
                        result |= {"seeds": list(job.seeds), "settings": job.settings}
                        write_whole(job.path, json.dumps(result).encode())
                    steps[name] = result["steps"]  # the other seeds train as long
                    done[number] = result | {"variant": name}
                    bar.update()
    return [done[number] for number in range(len(jobs))]


def steps_for(variant, budget, data, base):
    """How many steps a budget pays for; a step's time is measured when the budget is seconds."""
    cost = cost_of_step(variant, base)
    if budget.seconds:
        cost["seconds"] = seconds_of_step(variant, base, data[0])
    return budget.steps(**cost)

# %% f_ablations.ipynb #a84694c7
def ablate(variants, seeds, budget, folder, base=BASE, data=None):
    """Train the base and all variants under all seeds, and print the table: its Rows."""
    plain = replace(base, name="baseline")
    rows = compare(run([plain, *variants], seeds, budget, folder, base, data))
    print(table(rows))
    return rows
