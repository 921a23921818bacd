"""All six chapters as one: from the plays to a trained model in a folder, and back from the folder."""

# Written by hand: folders, reports and names of models teach nothing about language models.

import itertools
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from .maps import attention_maps, plot_attention
from .pretrained import load_gpt2, load_smollm2
from .previous_chapters import (
    GPT,
    BPETokenizer,
    GPTConfig,
    TokenDataset,
    TrainConfig,
    Trainer,
    check_compiler,
    count_parameters,
    load_checkpoint,
    load_plays,
    newest_checkpoint,
    pick_device,
    plot_history,
    read_checkpoint,
    split_plays,
    token_boxes,
    use_course_style,
)
from .streaming import stream, surprises

__all__ = [
    "PRESETS",
    "PROMPTS",
    "preset_settings",
    "train_gpt",
    "fit",
    "new_run_folder",
    "report",
    "run_settings",
    "load_tokenizer",
    "load_run",
    "load_any",
]

_LLAMA = dict(norm="rmsnorm", activation="swiglu", position="rope")
# name: (model, training). "cpu" takes one to three minutes on 2 cores; "tiny" is for tests.
PRESETS = {
    "cpu": (
        dict(_LLAMA, vocab_size=2048, context_length=128, d_model=128, n_heads=4, n_layers=3, init_std=0.06),
        dict(steps=1400, warmup_steps=50, eval_every=350, checkpoint_every=350),
    ),
    "cuda": (
        dict(_LLAMA, vocab_size=4096, context_length=256, d_model=384, n_heads=6, n_layers=6,
             dropout=0.2, init_std=0.035),
        dict(steps=2000, batch_size=32, grad_accum=2, max_lr=1e-3, warmup_steps=100),
    ),
    "tiny": (
        dict(_LLAMA, vocab_size=512, context_length=32, d_model=32, n_heads=2, n_layers=2, init_std=0.06),
        dict(steps=20, batch_size=4, warmup_steps=2, eval_every=0, checkpoint_every=10),
    ),
}  # fmt: skip


def preset_settings(name):
    """The (GPTConfig, TrainConfig) of a preset; ValueError when there is none of that name."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"  # a Mac's GPU too gets the smaller one
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is unknown; choose one of auto, {', '.join(PRESETS)}")
    model, training = PRESETS[name]
    return GPTConfig(**model), TrainConfig(**training)


def train_gpt(model_config, train_config, out=Path("runs"), resume=None):
    """From the plays to a trained GPT, through all six chapters; returns the folder of the run.

    resume: the folder of a run that goes on from its newest checkpoint; otherwise a new one is made in `out`.
    """
    device = pick_device(train_config.device)  # what is not there is better known now than later
    if train_config.compile:
        check_compiler(device)
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; name a folder for the runs with --out")
    train_plays, held_out_plays = split_plays(load_plays())  # chapter 1
    if resume:
        tokenizer = load_tokenizer(resume)
    else:
        print(
            f"Training a tokenizer of {model_config.vocab_size} tokens on {len(train_plays)} plays ...",
            flush=True,
        )
        tokenizer = BPETokenizer.train(train_plays.values(), model_config.vocab_size)
    context = model_config.context_length
    train_data = TokenDataset.from_texts(train_plays.values(), tokenizer, context)  # chapter 5
    val_data = TokenDataset.from_texts(held_out_plays.values(), tokenizer, context)
    torch.manual_seed(train_config.seed)
    model = GPT(model_config)  # chapters 2, 3 and 4
    run = resume or new_run_folder(out)
    trainer = Trainer(model, train_config, train_data, val_data, run_dir=run)  # chapter 5
    if resume:
        trainer.resume()
        if trainer.step >= train_config.steps:
            raise ValueError(f"{run} is at step {trainer.step} already; to go on ask for more, with --steps")
    tokenizer.save(run / "tokenizer.json")
    report(run, fit(trainer).eval(), tokenizer, trainer.history)  # chapter 6
    return run


def fit(trainer):
    """Train, and say what with and how long; Ctrl-C says how to go on. Returns the model."""
    began, n_parameters = time.perf_counter(), count_parameters(trainer.model)
    precision = str(trainer.precision).removeprefix("torch.")
    print(f"Training {n_parameters:,} parameters on {trainer.device} in {precision}, into {trainer.run_dir}")
    try:
        trainer.fit()
    except KeyboardInterrupt:
        command = f'python -m ch06_inference.gpt train --resume "{trainer.run_dir.as_posix()}"'
        raise KeyboardInterrupt(f"step {trainer.step} is saved; go on with: {command}") from None
    print(f"Trained in {time.perf_counter() - began:.0f} s.")
    return trainer.model


def new_run_folder(out):
    """A new folder under `out`, named by the time."""
    name = time.strftime("%Y-%m-%d-%H%M%S")
    for suffix in itertools.chain([""], (f"-{number}" for number in itertools.count(2))):
        try:
            (out / f"{name}{suffix}").mkdir(parents=True)
            return out / f"{name}{suffix}"
        except FileExistsError:
            continue


PROMPTS = ("JULIET:\n", "[Enter HAMLET]\n\nHAMLET:\n", "ACT V\n\n")


def report(run, model, tokenizer, history):
    """Print the result and three passages; write samples.txt and three pictures into the run's folder."""
    last = [metrics for metrics in history if "val_loss" in metrics][-1]
    print(
        f"Held-out plays: loss {last['val_loss']:.3f} nats a token, perplexity {last['val_perplexity']:.1f}, "
        f"{last['val_bits_per_byte']:.3f} bits per byte"
    )
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    passages = []
    for prompt in PROMPTS:
        passages.append(
            prompt
            + "".join(stream(model, tokenizer, prompt, 100, temperature=0.8, top_p=0.95, generator=generator))
        )
        print(f"{'-' * 60}\n{passages[-1]}")
    print("-" * 60)
    (run / "samples.txt").write_text("\n\n".join(passages) + "\n", encoding="utf-8")
    use_course_style()
    axes = plot_history(history, model.config.vocab_size)
    axes.figure.savefig(run / "loss.png", dpi=150)
    ids = tokenizer.encode_ordinary("ROMEO:\nO love, O life! O love, O life!")
    line = tokenizer.decode(ids[: model.config.context_length])  # all of it, unless the context is tiny
    figure = plot_attention(*attention_maps(model, tokenizer, line))
    figure.savefig(run / "attention.png", dpi=150)
    tokens, nats = surprises(model, tokenizer, passages[0])
    axes = token_boxes(tokens, shades=(nats / 10).clamp(max=1).tolist())
    axes.figure.savefig(run / "sample.png", dpi=150)
    plt.close("all")
    print(f"Checkpoints, samples and pictures (loss, attention, a passage) are in {run}")
    print(f'Let it speak: python -m ch06_inference.gpt generate --model "{run.as_posix()}" --prompt "ROMEO:"')


def run_settings(run):
    """The (GPTConfig, TrainConfig) that the newest checkpoint of a run was trained with."""
    _, record = read_checkpoint(newest_checkpoint(run))
    trained = record["extra"]["train"]
    return GPTConfig(**record["model"]), TrainConfig(**trained | {"betas": tuple(trained["betas"])})


def load_tokenizer(run):
    """The tokenizer of a run; FileNotFoundError when the folder is not a whole run."""
    newest_checkpoint(run)
    return BPETokenizer.load(run / "tokenizer.json")


def load_run(run, device="auto"):
    """The model (in evaluation mode) and the tokenizer of a run."""
    run = Path(run)
    tokenizer, (model_config, _) = load_tokenizer(run), run_settings(run)
    model = GPT(model_config)
    load_checkpoint(newest_checkpoint(run), model)
    return model.to(pick_device(device)).eval(), tokenizer


def load_any(name, device="auto"):
    """The (GPT, BPETokenizer) that a name stands for.

    "newest": the newest run in runs/. "smollm2": the chat model that comes as a package. A folder or file
    with GPT-2's weights, or a name that begins with gpt2: load_gpt2. Any other folder: that of a run.
    """
    if name == "smollm2":
        return load_smollm2(device=device)
    path = Path(name)
    if name == "newest":
        runs = sorted({file.parents[1] for file in Path("runs").glob("*/checkpoints/step-*.safetensors")})
        if not runs:
            raise FileNotFoundError("runs/ holds no trained model; train one with: make gpt")
        path = runs[-1]
    if path.is_file() or list(path.glob("*.safetensors")) or (name.startswith("gpt2") and not path.exists()):
        return load_gpt2(name, device=device)
    return load_run(path, device)
