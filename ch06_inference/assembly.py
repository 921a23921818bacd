"""All six chapters as one: from texts to a trained model in a folder, and back from the folder."""

# Written by hand: folders, reports and names of models teach nothing about language models.

import io
import itertools
import math
import time
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from .figures import plot_attention
from .folders import holds_weights, newest_run, run_around, what_is_there
from .maps import attention_maps
from .pretrained import load_gpt2, load_smollm2
from .previous_chapters import (
    GPT,
    BPETokenizer,
    GPTConfig,
    TokenDataset,
    TrainConfig,
    Trainer,
    checkpoint_paths,
    count_parameters,
    load_checkpoint,
    naming,
    newest_checkpoint,
    pick_device,
    plot_history,
    read_checkpoint,
    step_of,
    token_boxes,
    use_course_style,
    whose_pieces,
    write_whole,
)
from .streaming import stream, surprises
from .terminal import program, say
from .texts import (
    OVERFITTED,
    check_length,
    check_unchanged,
    load_texts,
    record_texts,
    texts_of_run,
    train_tokenizer,
)

__all__ = [
    "PRESETS",
    "preset_settings",
    "train_gpt",
    "fit",
    "watch_first_loss",
    "new_run_folder",
    "report",
    "save_figure",
    "run_settings",
    "load_tokenizer",
    "load_run",
    "load_any",
]


_LLAMA = dict(norm="rmsnorm", activation="swiglu", position="rope")
# name: (model, training). "cpu" takes one to three minutes on 2 cores; "tiny" is for tests.
PRESETS = {
    "cpu": (
        dict(_LLAMA, vocab_size=2048, context_length=128, d_model=128, n_heads=4, n_layers=3),
        dict(steps=1400, warmup_steps=50, eval_every=700, checkpoint_every=350),
    ),
    "cuda": (
        dict(_LLAMA, vocab_size=4096, context_length=256, d_model=384, n_heads=6, n_layers=6, dropout=0.2),
        dict(steps=2000, batch_size=32, grad_accum=2, max_lr=1e-3, warmup_steps=100),
    ),
    "tiny": (
        dict(_LLAMA, vocab_size=512, context_length=32, d_model=32, n_heads=2, n_layers=2),
        dict(steps=20, batch_size=4, warmup_steps=2, eval_every=0, checkpoint_every=10),
    ),
}


def preset_settings(name):
    """The (GPTConfig, TrainConfig) of a preset; ValueError when there is none of that name."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"  # a Mac's GPU too gets the smaller one
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is unknown; choose one of auto, {', '.join(PRESETS)}")
    model, training = PRESETS[name]
    return GPTConfig(**model), TrainConfig(**training)


def train_gpt(model_config, train_config, out=Path("runs"), resume=None, texts=None):
    """From texts to a trained GPT, through all six chapters; returns the folder of the run.

    resume: the folder of a run that goes on from its newest checkpoint; otherwise a new one is made in `out`.
    texts: a Texts, as load_texts gives it: the plays by default, or those of the run that goes on.
    """
    texts = texts or (texts_of_run(resume) if resume else load_texts())  # chapter 1
    if resume:
        tokenizer = load_tokenizer(resume)
    else:
        tokenizer = train_tokenizer(texts.train.values(), model_config.vocab_size)
        model_config = replace(model_config, vocab_size=tokenizer.n_vocab)  # fewer for a very short text
    context = model_config.context_length
    parts = ((texts.train, texts.name), (texts.held_out, f"{texts.name}, held out"))
    streams = [TokenDataset.from_texts(part.values(), tokenizer, 1, name) for part, name in parts]
    if resume:  # another text is known as such even when it is too short for the context
        before = read_checkpoint(newest_checkpoint(run := resume))[1]["extra"]["data"]
        here = dict(zip(("train", "val"), (data.fingerprint for data in streams), strict=True))
        check_unchanged(run, texts, before, here)
    check_length(texts, tokenizer, context)
    train_data, val_data = (  # chapter 5
        TokenDataset(data.token_ids, context, data.n_bytes, data.name) for data in streams
    )
    torch.manual_seed(train_config.seed)
    model = GPT(model_config)  # chapters 2, 3 and 4
    run = resume or new_run_folder(out)
    if not resume:  # first of all what a checkpoint is worth nothing without
        with naming(run / "tokenizer.json"):
            tokenizer.save(run / "tokenizer.json")
        record_texts(run, texts)
    trainer = Trainer(model, train_config, train_data, val_data, run_dir=run)  # chapter 5
    if resume:
        trainer.resume()
        record_texts(run, texts)  # the same, but they may have moved
    report(run, fit(trainer).eval(), tokenizer, trainer.history, texts)  # chapter 6
    return run


def fit(trainer):
    """Train, and say what with and how long; when it is stopped, how to go on. Returns the model."""
    began, model, run = time.perf_counter(), trainer.state.model, trainer.folder.path
    precision = str(trainer.precision).removeprefix("torch.")
    print(f"Training {count_parameters(model):,} parameters on {trainer.device} in {precision}, into {run}")
    try:
        trainer.fit(watch=lambda history: watch_first_loss(history, model.config))
    except (KeyboardInterrupt, SystemExit) as stopped:
        if saved := checkpoint_paths(run):
            command = f'{program()} train --resume "{run.as_posix()}"'
            stopped.add_note(f"step {step_of(saved[-1])} is saved; go on with: {command}")
        raise
    print(f"Trained in {time.perf_counter() - began:.0f} s.")
    return model


def watch_first_loss(history, config):
    """Chapter 5's alarm: a model that has learned nothing yet has a loss near ln V; more is a warning."""
    loss, uniform = history[-1]["loss"], math.log(config.vocab_size)
    if len(history) == 1 and loss > uniform + 0.5:
        warnings.warn(
            f"the first loss is {loss:.2f}, where a uniform guess among {config.vocab_size} tokens has "
            f"ln V = {uniform:.2f}: the initial weights are too large; give a smaller --init-std",
            stacklevel=2,
        )


def new_run_folder(out):
    """A new folder under `out`, named by the time."""
    name = time.strftime("%Y-%m-%d-%H%M%S")
    for suffix in itertools.chain([""], (f"-{number}" for number in itertools.count(2))):
        try:
            (out / f"{name}{suffix}").mkdir(parents=True)
            return out / f"{name}{suffix}"
        except FileExistsError:
            continue


def report(run, model, tokenizer, history, texts):
    """Print the result and some passages; write samples.txt and three pictures into the run's folder."""
    measured = [metrics for metrics in history if "val_loss" in metrics]
    last, best = measured[-1], min(measured, key=lambda metrics: metrics["val_loss"])
    print(
        f"Held-out {texts.noun}: loss {last['val_loss']:.3f} nats a token, "
        f"perplexity {last['val_perplexity']:.1f}, {last['val_bits_per_byte']:.3f} bits per byte"
    )
    if last["val_loss"] > (uniform := math.log(model.config.vocab_size)):
        print(
            f"That is worse than a uniform guess, which has ln V = {uniform:.3f} nats: nothing that the model"
        )
        print(f"learned helps with the held-out {texts.noun}.")
    if best["val_loss"] < last["val_loss"] - 0.02:
        earlier = f"at step {best['step']}, {best['val_bits_per_byte']:.3f} bits per byte"
        print(f"It was better {earlier}: {OVERFITTED}")
        for path in (path for path in checkpoint_paths(run) if step_of(path) == best["step"]):
            print(f'That checkpoint is kept: --model "{path.as_posix()}" takes it.')
    if whose_pieces():
        print(whose_pieces())
    generator = torch.Generator(model.lm_head.weight.device).manual_seed(0)
    options = dict(max_new_tokens=100, temperature=0.8, top_p=0.95, generator=generator)
    passages = [prompt + "".join(stream(model, tokenizer, prompt, **options)) for prompt in texts.prompts]
    rule = "-" * 60
    print(rule, *(f"{passage}\n{rule}" for passage in passages), sep="\n")
    print(f"Checkpoints, samples and pictures (loss, attention, a passage) are in {run}")
    print(f'Let it speak: {program()} generate --model "{run.as_posix()}"{texts.hint}')
    write_whole(run / "samples.txt", ("\n\n".join(passages) + "\n").encode())
    use_course_style()
    save_figure(plot_history(history, model.config.vocab_size).figure, run / "loss.png")
    ids = tokenizer.encode_ordinary(texts.line)
    line = tokenizer.decode(ids[: model.config.context_length])  # all of it, unless the context is tiny
    save_figure(plot_attention(*attention_maps(model, tokenizer, line)), run / "attention.png")
    tokens, nats = surprises(model, tokenizer, passages[0])
    boxes = token_boxes(tokens, shades=(nats / 10).clamp(max=1).tolist())
    save_figure(boxes.figure, run / "sample.png")
    plt.close("all")


def save_figure(figure, path):
    """Write a figure as a picture, whole or not at all; the ending of its name says of which kind."""
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:], dpi=150)
    write_whole(path, picture.getvalue())


def run_settings(run):
    """The (GPTConfig, TrainConfig) that the newest checkpoint of a run was trained with."""
    if not checkpoint_paths(run):
        raise FileNotFoundError(what_is_there(run))
    path = newest_checkpoint(run)
    record = read_checkpoint(path)[1]
    if "train" not in record["extra"]:
        raise ValueError(f"{path} does not say how it was trained, so its training cannot go on")
    trained = record["extra"]["train"]
    return GPTConfig(**record["model"]), TrainConfig(**trained | {"betas": tuple(trained["betas"])})


def load_tokenizer(run):
    """The tokenizer of a run; FileNotFoundError when the folder is not a whole run."""
    newest_checkpoint(run)
    return BPETokenizer.load(run / "tokenizer.json")


def load_run(run, device="auto"):
    """The model (in evaluation mode) and the tokenizer of a run, or of one checkpoint of it."""
    path = Path(run)
    tokenizer = load_tokenizer(run_around(path) or path)
    path = path if path.is_file() else newest_checkpoint(path)
    model = GPT(GPTConfig(**read_checkpoint(path)[1]["model"]))
    load_checkpoint(path, model)
    return model.to(pick_device(device)).eval(), tokenizer


def load_any(name, device="auto"):
    """The (GPT, BPETokenizer) that a name stands for.

    "newest": the newest run in runs/, which is said. "smollm2": the chat model that comes as a package. The
    folder of a run, or one of the checkpoints in it.
    A folder or file with weights in Hugging Face's layout, or a name that begins with gpt2: load_gpt2.
    FileNotFoundError for anything else: it says what was found there.
    """
    if name == "smollm2":
        return load_smollm2(device=device)
    path = newest_run() if name == "newest" else Path(name)
    if name == "newest":
        say(f"the newest run: {path}")
    if checkpoint_paths(path) or path in checkpoint_paths(path.parent.parent):
        return load_run(path, device)
    if holds_weights(path) or (name.startswith("gpt2") and not path.exists()):
        return load_gpt2(name, device=device)
    raise FileNotFoundError(what_is_there(path))
