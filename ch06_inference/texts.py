"""The texts of a run: the plays, or a reader's own, and a part held out. Hand-written: it teaches nothing."""

import json
import os
import re
from bisect import bisect_left
from dataclasses import dataclass, replace
from pathlib import Path

from .previous_chapters import BPETokenizer, load_plays, split_plays, write_whole

PROMPTS = ("JULIET:\n", "[Enter HAMLET]\n\nHAMLET:\n", "ACT V\n\n")  # for a model of the plays
LINE = "ROMEO:\nO love, O life! O love, O life!"  # whose attention is drawn
ENDINGS = (".txt", ".md")  # of the files that are read from a folder
PASSES = 4  # are nearly worth new text; many more learn it by heart (Muennighoff et al. 2023)
SHARE = 0.1  # of an own text that is held out, unless something else is asked for
OVERFITTED = "the text is too short for so many steps; give fewer --steps, more text, or --dropout 0.2"
RECORD = "data.json"  # in the folder of a run: where its texts came from


@dataclass(frozen=True)
class Texts:
    """Texts to train on, and texts held out to measure on, which training never sees: {name: text} each."""

    train: dict
    held_out: dict
    name: str = "the plays"
    prompts: tuple = PROMPTS  # what a trained model continues in its report
    line: str = LINE
    source: dict | None = None  # what load_texts needs to read them again; None for the plays
    remarks: tuple = ()  # what was taken, and what was passed over

    @property
    def noun(self):
        """What the texts are, in the program's sentences."""
        return "text" if self.source else "plays"

    @property
    def hint(self):
        """A prompt as an option that any shell passes on unchanged."""
        prompt = self.prompts[0] if self.source else "ROMEO:"
        return "" if re.search(r"""["'\\$`!%\n]""", prompt) else f' --prompt "{prompt}"'


def load_texts(text=None, held_out=None):
    """The plays; or a file, or all .txt and .md files of a folder, with a part held out.

    held_out: a share above 0 and below 1, as a number or a str, or another file or folder. ValueError and
    OSError say in one sentence what cannot be read, and what to do.
    """
    if text is None:
        if held_out is not None:
            raise ValueError("--held-out goes with --text; the plays have three of their own held out")
        return Texts(*split_plays(load_plays()))
    path, share = Path(text).expanduser(), SHARE if held_out is None else _as_share(held_out)
    texts, remark = read_texts(path)
    if share is None:
        held_path = Path(held_out).expanduser()
        held, held_remark = read_texts(held_path)
        train = {name: text for name, text in texts.items() if text not in held.values()}
        _check_apart(train, held, path, held_path)
    else:
        train, held, held_remark = split_texts(texts, share)
    prompts = beginnings(held)
    source = {
        "text": str(path.resolve()),
        "held_out": str(held_path.resolve()) if share is None else share,
        "held_out_of": [str(Path(name).resolve()) for name in held],
        "prompts": prompts,
        "line": "\n".join([prompts[0]] * 2),  # twice: a head that looks for repetitions finds one
    }
    remarks = (f"Text: {remark}", f"Held out: {held_remark}")
    return Texts(train, held, str(text), tuple(prompts), source["line"], source, remarks)


def _as_share(held_out):
    """A number above 0 and below 1, or None for what is the name of a file or folder."""
    try:
        share = float(str(held_out))
    except ValueError:
        if re.fullmatch(r"\d+([.,]\d+)? ?%?", held_out := str(held_out)) and not Path(held_out).exists():
            rule = f"with a point and without a percent sign, such as {SHARE}"
            raise ValueError(f"--held-out {held_out}: write a share {rule}") from None
        return None
    if not 0 < share < 1:
        raise ValueError(f"--held-out {held_out} must be above 0 and below 1, or name a file or folder")
    return share


def _check_apart(train, held, path, held_path):
    """ValueError when a held-out text is part of the texts that are trained on: it would measure nothing."""
    if not train:
        raise ValueError(f"{held_path} holds all of {path}; hold out a part, as by --held-out {SHARE}")
    for name, text in held.items():
        for other, whole in train.items():
            if text.strip() in whole:
                raise ValueError(f"{name}, held out, stands word for word in {other}; hold out another text")


# ---------------------------------------------------------------- files


def read_text(path):
    """A UTF-8 file as str, without a byte-order mark and with \\n after each line. ValueError otherwise."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        why = f"{path} cannot be read ({error.strerror})"
        raise type(error)(f"{why}; name a file or folder of text") from None
    way_out = "save it as UTF-8 and try again"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path} is not UTF-8 but UTF-16 or UTF-32; {way_out}")
    if b"\0" in data:
        raise ValueError(f"{path} is not UTF-8 text: it holds zero bytes; name a file of text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte {error.start:,} is {data[error.start]:#04x}"
        raise ValueError(f"{path} is not UTF-8 ({where}: {error.reason}); {way_out}") from None
    if not text.strip():
        raise ValueError(f"{path} is empty: the text is empty; name a file with some")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_texts(path):
    """({name: text}, a sentence that says what was taken) of a file, or of a folder and those in it."""
    if not path.is_dir():
        text = read_text(path)
        return {str(path): text}, f"{path}, {len(text):,} characters"
    texts, passed_over, others = {}, [], 0
    for file in _files_in(path, passed_over):
        if not file.name.lower().endswith(ENDINGS) or not file.is_file():
            others += 1
            continue
        try:
            text = read_text(file)
        except (ValueError, OSError) as error:
            passed_over.append(str(error).split(";")[0])
            continue
        if text in texts.values():
            passed_over.append(f"{file} is a copy of another")
        else:
            texts[str(file)] = text
    passed_over += [f"{_counted(others, 'file')} of other kinds"] if others else []
    if not texts:
        found = "; ".join(passed_over[-3:]) or "it is empty"
        raise ValueError(f"{path} holds no text in files that end in {' or '.join(ENDINGS)} ({found})")
    remark = f"{_counted(len(texts), 'file')} of {path}, {sum(map(len, texts.values())):,} characters"
    if len(passed_over) > 10:
        passed_over[9:] = [f"{len(passed_over) - 9} more"]
    return texts, remark + "".join(f"\n  passed over: {what}" for what in passed_over)


def _files_in(folder, passed_over):
    """The files of a folder and of those in it, in the order of their names; hidden ones are left out."""

    def note(error):
        passed_over.append(f"{error.filename} cannot be read ({error.strerror})")

    for place, folders, files in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


# ---------------------------------------------------------------- what is held out


def split_texts(texts, share):
    """Hold out a share: (training texts, held-out texts, a sentence that says which).

    Of several texts, whole ones from the end, where they make up at least half of the share without passing
    it. Otherwise the end of every text, from the beginning of a line.
    """
    wanted, held = share * sum(map(len, texts.values())), {}
    for name in reversed(texts):
        if sum(map(len, held.values())) + len(texts[name]) <= wanted:
            held[name] = texts[name]
    if sum(map(len, held.values())) >= wanted / 2:
        train = {name: text for name, text in texts.items() if name not in held}
        held = dict(reversed(held.items()))
        names = ", ".join(list(held)[:3]) + (", ..." if len(held) > 3 else "")
        return train, held, f"{_counted(len(held), 'whole file')} ({names})"
    cuts = {name: _cut(text, share) for name, text in texts.items()}
    train = {name: text[: cuts[name]] for name, text in texts.items() if cuts[name]}
    held = {name: text[cuts[name] :] for name, text in texts.items() if cuts[name] < len(text)}
    of_what = "the text" if len(texts) == 1 else "each text"
    return train, held, f"the end of {of_what}, {sum(map(len, held.values())):,} characters in all"


def _cut(text, share):
    """Where the held-out end of a text begins: after a line break, if there is one near."""
    place = len(text) - round(share * len(text))
    line = text.rfind("\n", 0, place) + 1
    return line if place - line <= len(text) * share / 2 else place


def beginnings(texts, count=3, length=24):
    """Some beginnings of lines of the texts, far from each other, as prompts."""
    text, found = "\n".join(texts.values()), []
    for number in range(count):
        place = number * len(text) // count
        line = text.find("\n", place) + 1
        near = line if line and line - place < 10 * length else place
        start = re.compile(r"\S|$").search(text, near).start()
        words = text[start : start + length].split("\n")[0]
        shorter = words.rsplit(" ", 1)[0] if len(words) == length else words  # no word cut in half
        found.append((shorter or words).rstrip() or text.strip()[:length].split("\n")[0].rstrip())
    return list(dict.fromkeys(found))


# ---------------------------------------------------------------- as tokens


def train_tokenizer(texts, vocab_size):
    """A BPETokenizer of vocab_size ids; of fewer, which it says, when a short text has no more to merge."""
    print(f"Training a tokenizer of {vocab_size} tokens on {_counted(len(texts), 'text')} ...", flush=True)

    def attempt(size):
        try:
            return BPETokenizer.train(texts, size)
        except ValueError:
            return None

    tokenizer = attempt(vocab_size)
    if tokenizer or vocab_size <= 257:  # the bytes and <|endoftext|>: so many there are for any text
        return tokenizer or BPETokenizer.train(texts, vocab_size)  # or its error
    most = 257 + bisect_left(range(258, vocab_size), True, key=lambda size: attempt(size) is None)
    print(f"The text is so short that it gives no more than {most} tokens: vocab_size={most}.", flush=True)
    return attempt(most)


def _counted(number, noun):
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def check_length(texts, tokenizer, context_length):
    """ValueError when one of the two parts is shorter than two contexts: it says how much more is needed."""
    for part, what in ((texts.train, "the part to train on"), (texts.held_out, "the part held out")):
        n_characters, needed = sum(map(len, part.values())), 2 * context_length
        if n_characters > 100 * needed:  # more than enough: tokens are not that long
            continue
        n_tokens = 1 + sum(len(tokenizer.encode_ordinary(text)) + 1 for text in part.values())
        if n_tokens < needed:
            more = round((needed - n_tokens) * n_characters / n_tokens / 10 + 1) * 10
            share = "" if part is texts.train else ", a larger --held-out"
            shorter = f", or a --context-length of {n_tokens // 2} at most" if n_tokens >= 2 else ""
            raise ValueError(
                f"{texts.name} is too short: {what} has {n_tokens} tokens, and context_length="
                f"{context_length} needs {needed}, about {more:,} characters more in that part; "
                f"give more text{share}{shorter}"
            )


# ---------------------------------------------------------------- what follows the size of a text


def fewer_tokens(texts, vocab_size, least=512):
    """A vocabulary for a short text: one token for 80 characters to train on, which it says.

    Between `least` and vocab_size, and a multiple of 64. A rarer token has too few examples to learn from.
    """
    n_characters = sum(map(len, texts.train.values()))
    size = min(vocab_size, max(least, n_characters // 80 // 64 * 64))
    if size < vocab_size:
        instead = f"a vocabulary of {size} tokens instead of {vocab_size}"
        print(f"The text is short: {instead}; to ask for more give --vocab-size.", flush=True)
    return size


def passes_of(texts, config, context_length):
    """How many times a training reads its text. A token is taken to be 3 bytes, as in the plays."""
    n_tokens = sum(len(text.encode()) for text in texts.train.values()) / 3
    return config.steps * config.batch_size * config.grad_accum * context_length / n_tokens


def fewer_steps(texts, config, context_length, typed=(), least=100):
    """A TrainConfig that reads a short text PASSES times at most, which it says, but in `least` steps."""
    passes = passes_of(texts, config, context_length)
    steps = max(least, round(config.steps * PASSES / passes))
    if steps >= config.steps:
        return config
    instead = f"{steps} steps instead of {config.steps}"
    print(f"The text is short: {instead}; to ask for more give --steps.", flush=True)
    return with_steps(config, steps, typed)


def with_steps(config, steps, typed=()):
    """A TrainConfig with other `steps`, which all that is counted in steps follows, but for what was typed.

    The warm-up is a tenth of them at most, and there are four evaluations and checkpoints at least; 0, which
    means none before the end, stays.
    """
    quarter = -(-steps // 4)
    most = {"warmup_steps": steps // 10, "eval_every": quarter, "checkpoint_every": quarter}
    follow = {name: min(getattr(config, name), most[name]) for name in most if name not in typed}
    return replace(config, steps=steps, **follow)


def say_many_passes(texts, config, context_length):
    """A word when a training reads its text so often that it learns it by heart."""
    passes = passes_of(texts, config, context_length)
    if passes > PASSES + 0.5:
        reads = f"{config.steps} steps read the {texts.noun} about {passes:.0f} times"
        print(f"{reads}; after {PASSES} times a model begins to learn by heart.", flush=True)


# ---------------------------------------------------------------- what a run remembers


def record_texts(run, texts):
    """Write into the folder of a run where its texts came from; nothing for the plays."""
    if texts.source:
        write_whole(Path(run) / RECORD, json.dumps(texts.source, indent=2).encode())


def recorded(run):
    """Where the texts of a run came from, as load_texts made it; {} for the plays."""
    path = Path(run) / RECORD
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); name the text of the run with --text") from None


def texts_of_run(run, text=None, held_out=None):
    """The texts of a run, read again; or others in their place, which Trainer.resume then compares."""
    source = {} if text and held_out is not None else recorded(run)
    held_out = source.get("held_out") if held_out is None else held_out
    if text is None and source and not os.path.exists(source["text"]):
        raise FileNotFoundError(f"the text of {run} is not at {source['text']} any more; name it with --text")
    return load_texts(text or source.get("text"), held_out)


def check_unchanged(run, texts, before, here):
    """ValueError when a run would go on with other texts than before, and what is other about them.

    before, here: {"train": fingerprint of a TokenDataset, "val": such a one}.
    """
    if all(before[part]["sha256"] == here[part]["sha256"] for part in here):
        return
    then, now = recorded(run), texts.source or {}
    if then.get("text") != now.get("text"):
        names = [f"{data['train']['name']} ({data['train']['tokens']:,} tokens)" for data in (before, here)]
        what = f"{run} was trained with {names[0]}, but this is {names[1]}"
    elif then.get("held_out") != now.get("held_out"):
        parts = f"{then.get('held_out')} of {texts.name}, not {now.get('held_out')}"
        what = f"{run} holds out {parts}: what it was trained on would be measured on; leave out --held-out"
        raise ValueError(what)
    else:
        what = f"{texts.name} has changed since {run} was trained"
    raise ValueError(f"{what}; give it the same text, or start a new run")
