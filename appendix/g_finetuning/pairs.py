"""Questions and answers: read, freed of copies, and split so that no question is on both sides."""

# Written by `make export` from g_finetuning.ipynb; change it there.

import random
import re
from typing import NamedTuple

import yaml

from .previous_chapters import package_file

__all__ = [
    "Pair",
    "read_pairs",
    "load_pairs",
    "word_set",
    "alike",
    "question_groups",
    "split_pairs",
]

# %% g_finetuning.ipynb #8f2d49e0
class Pair(NamedTuple):
    """A question, its answer, and the topic: the name of the file in which they stand."""

    topic: str
    question: str
    answer: str


def read_pairs():
    """Every conversation of chatterbot-corpus in English as a Pair, copies included.

    The first turn is the question and the second the answer. What comes after, other answers or a longer
    talk, is left out. Line breaks and runs of spaces become one space.
    """
    pairs = []
    for path in sorted(package_file("chatterbot_corpus", "data", "english").glob("*.yml")):
        for question, answer, *_ in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            pairs.append(Pair(path.stem, " ".join(question.split()), " ".join(answer.split())))
    return pairs

# %% g_finetuning.ipynb #2dbde3b5
def load_pairs(longest=100):
    """The pairs without copies, in order, those with at most `longest` characters on each side."""
    return [pair for pair in dict.fromkeys(read_pairs()) if max(map(len, pair[1:])) <= longest]


def word_set(text):
    """The words of a text in lower case, without punctuation: a frozenset of str."""
    return frozenset(re.findall(r"\w+", text.lower()))


def alike(a, b, threshold=0.7):
    """Do two sets share most of their members? Those in both over those in either: Jaccard's index."""
    return len(a & b) >= threshold * len(a | b)


def question_groups(questions, threshold=0.7):
    """{question: number of its group}. Alike questions are in one group, and so are those alike to them."""
    sets, group = {question: word_set(question) for question in questions}, {}
    for new, (question, words) in enumerate(sets.items()):
        near = {group[other] for other in group if alike(words, sets[other], threshold)}
        group = {other: new if number in near else number for other, number in group.items()}
        group[question] = new
    return group

# %% g_finetuning.ipynb #816ada76
def split_pairs(pairs, share=0.2, seed=0):
    """(training pairs, held-out pairs): whole groups of alike questions, drawn until `share` is held out."""
    group = question_groups(pair.question for pair in pairs)
    order, held_out, n = sorted(set(group.values())), set(), 0
    random.Random(seed).shuffle(order)
    for number in order:
        if n < share * len(pairs):
            held_out.add(number)
            n += sum(group[pair.question] == number for pair in pairs)
    return tuple([p for p in pairs if (group[p.question] in held_out) == side] for side in (False, True))
