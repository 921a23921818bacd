"""Cutting text before it is merged: into words, and at special tokens."""

# Written by `make export` from ch01_tokenization.ipynb; change it there.

import functools

import regex

__all__ = [
    "GPT2_SPLIT_PATTERN",
    "special_pattern",
]

# %% ch01_tokenization.ipynb #6fed9320
# Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", and OpenAI's released code.
GPT2_SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# %% ch01_tokenization.ipynb #44098f87
@functools.lru_cache(maxsize=64)
def special_pattern(tokens):
    r"""frozenset of special tokens -> compiled pattern that finds them, where several fit the longest.

    Its `split` turns text into [text, token, text, ..., text]. Compiling is slow, so patterns are remembered.
    """
    if not tokens:
        return regex.compile(r"(\A(?!))")  # finds nothing
    return regex.compile(r"(\L<tokens>)", tokens=tokens)
