"""Additions as text: problems, their answers, and a strict checker."""

# Written by `make export` from g_rewards.ipynb; change it there.

import random

import torch

from .previous_chapters import CharTokenizer

__all__ = [
    "END",
    "ADDING",
    "addition_problems",
    "split_problems",
    "right_answer",
    "score",
    "encode_problems",
    "worked_problems",
    "answers_in",
]

# %% g_rewards.ipynb #e2bac612
END = "\n"  # what ends an answer
ADDING = CharTokenizer(f"0123456789+={END}")  # one id for each character that is needed


def addition_problems(low=10, high=99):
    """Every problem with two numbers of that range, as text that ends with "=": a list of str."""
    return [f"{a}+{b}=" for a in range(low, high + 1) for b in range(low, high + 1)]


def split_problems(problems, n_held_out, seed=0):
    """(problems to train on, held-out ones), both shuffled; no problem is in both, but its mirror may be."""
    shuffled = random.Random(seed).sample(problems, len(problems))
    return shuffled[n_held_out:], shuffled[:n_held_out]


def right_answer(problem):
    """The answer to "37+48=", without an end: "85"."""
    a, b = problem.removesuffix("=").split("+")
    return str(int(a) + int(b))


def score(problem, text):
    """1.0 if the text is the right answer and its end, character by character; 0.0 for anything else."""
    return float(text == right_answer(problem) + END)

# %% g_rewards.ipynb #39ad314a
def encode_problems(problems):
    """Problems of equal length -> ids (Q, P), int64."""
    return torch.tensor([ADDING.encode(problem) for problem in problems])


def worked_problems(problems, n_new=4):
    """Problems with their right answers, filled up with ends: ids (Q, P + n_new), int64."""
    rows = [problem + right_answer(problem).ljust(n_new, END) for problem in problems]
    return torch.tensor([ADDING.encode(row) for row in rows])


def answers_in(token_ids, mask):
    """The answers as text, ends included: ids and mask (B, T) -> a list of B str."""
    return [ADDING.decode(row[kept].tolist()) for row, kept in zip(token_ids.cpu(), mask.cpu())]
