"""Texts of any size: pieces that can be encoded one by one, and a memory for what has been encoded."""

# Written by `make export` from ch01_deeper.ipynb; change it there.

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

import regex

from .splitting import GPT2_SPLIT_PATTERN, special_pattern

__all__ = [
    "GPT4_SPLIT_PATTERN",
    "COVERING",
    "find_pieces",
    "Remembered",
    "join_surrogates",
    "safe_segments",
    "split_words",
    "count_words",
    "special_patterns",
    "disallowed_message",
    "check_special_tokens",
]

# %% ch01_deeper.ipynb #0aefffcb
# White space and what follows it. Python's re counts \x1c to \x1f as white space, the split patterns do not.
_PIECE = re.compile(r"[^\S\x1c-\x1f]*[\S\x1c-\x1f]+|\s+")
_LONG_SPACE = re.compile(r"\s\s(?!\S)")


def find_pieces(text, pattern):
    """Pieces of a text, larger than words, that can be split into words one by one with the same result.

    They are known for GPT-2's pattern. For any other the whole text is the one piece.
    """
    if pattern != GPT2_SPLIT_PATTERN:
        return [text]
    if "\0" in text or _LONG_SPACE.search(text):
        return _PIECE.findall(text)
    # A cut in front of white space is right when what comes before is none, and inside of a run of two that
    # a word follows. So here every space and line break may be cut at, which needs no regular expression.
    return text.replace(" ", "\0 ").replace("\n", "\0\n").split("\0")

# %% ch01_deeper.ipynb #2f960f00
class Remembered(dict):
    """{key: compute(key)}: what is missing is computed, and kept while it is short.

    When there are too many keys, all are forgotten, so that the memory is bounded.
    """

    def __init__(self, compute, max_keys=100_000, max_length=30):
        self.compute, self.max_keys, self.max_length = compute, max_keys, max_length

    def __missing__(self, key):
        value = tuple(self.compute(key))
        if len(key) <= self.max_length:
            if len(self) >= self.max_keys:
                self.clear()
            self[key] = value
        return value

# %% ch01_deeper.ipynb #72b27ac0
def join_surrogates(text):
    """str -> str: two halves of a surrogate pair become their character, one alone U+FFFD, as in tiktoken."""
    try:
        text.encode("utf-8")  # fails for halves, and for nothing else
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

# %% ch01_deeper.ipynb #48f99210
# GPT-4's, "cl100k_base" in tiktoken. (?i:...) ignores case; a + behind ? or + means: do not look back.
GPT4_SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|"
    r" ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)

# %% ch01_deeper.ipynb #bfaf7b4e
# (?r) searches from the right.
_SAFE_CUT = regex.compile(r"(?r)(?<=[\p{L}\p{N}])(?=[^\p{L}\p{M}\p{N}'])|(?<=\S)(?=[^\S\r\n])")


def safe_segments(texts, special_tokens=(), pattern=GPT2_SPLIT_PATTERN):
    """A str, or an iterable of str, as one text -> segments of it that can be encoded one by one.

    A segment ends where no word of GPT-2's or GPT-4's pattern goes across, and never inside a special token.
    Text without such a place is held back until one comes. For another pattern all text is, since nothing
    is known of its words. ValueError for what is not text, and for a dict, whose keys are not its texts.
    """
    known = pattern in (GPT2_SPLIT_PATTERN, GPT4_SPLIT_PATTERN)
    special, longest = special_pattern(frozenset(special_tokens)), max(map(len, special_tokens), default=1)
    held, half, wanted = "", "", 0
    for chunk in [texts] if isinstance(texts, str) or not isinstance(texts, Iterable) else texts:
        if not isinstance(chunk, str) or isinstance(texts, dict):
            raise ValueError(f"expected a str or an iterable of str, as plays.values(), got {texts!r:.60}")
        chunk = half + chunk
        half = chunk[-1:] if "\ud800" <= chunk[-1:] < "\udc00" else ""  # the other half may still come
        held += join_surrogates(chunk.removesuffix(half))
        if known and len(held) >= wanted:
            cut = _last_cut(held, special, longest)
            if cut:
                yield held[:cut]
            held = held[cut:]
            wanted = 0 if cut else 2 * len(held)  # no place yet: look again when there is twice as much
    if held + half:
        yield held + join_surrogates(half)


def _last_cut(text, special, longest):
    """The last safe place to cut a text that may go on; 0 when there is none."""
    for match in _SAFE_CUT.finditer(text, 0, max(0, len(text) - longest + 1)):
        cut = match.start()
        near = special.finditer(text, max(0, cut - longest + 1), cut + longest - 1, overlapped=True)
        if not any(found.start() < cut < found.end() for found in near):
            return cut
    return 0

# %% ch01_deeper.ipynb #a1fae947
COVERING = r"end it with |.|\s, and use no (group)"


def split_words(text, split):
    """str, compiled split pattern -> list of str: the matches, which together must be the text.

    ValueError for a pattern that loses text, since no decoding could bring it back.
    """
    words = split.findall(text)
    if "".join(words) != text:
        raise ValueError(f"pattern {split.pattern!r} does not cover {text[:30]!r}; {COVERING}")
    return words


def count_words(texts, pattern=GPT2_SPLIT_PATTERN, special_tokens=()):
    """A str or an iterable of str -> Counter {word as bytes: how often}, words being the pattern's matches.

    Special tokens separate words and are not counted.
    """
    split, special, pieces = regex.compile(pattern), special_pattern(frozenset(special_tokens)), Counter()
    for segment in safe_segments(texts, special_tokens, pattern):
        for part in special.split(segment)[::2]:  # without the special tokens themselves
            pieces.update(find_pieces(part, pattern))
    words = defaultdict(int)
    for piece, count in pieces.items():
        for word in split_words(piece, split):
            words[word] += count
    return Counter({word.encode(): count for word, count in words.items()})

# %% ch01_deeper.ipynb #d581c799
def special_patterns(every, allowed, disallowed):
    """The two arguments of `BPETokenizer.encode` -> (pattern of what is allowed, pattern of what is not).

    every: frozenset of the tokenizer's special tokens. ValueError for a str other than "all", and for an
    allowed token that the tokenizer does not have.
    """
    allowed = every if allowed == "all" else frozenset(allowed)
    if not allowed <= every:
        raise ValueError(f"{min(allowed - every)!r} is not a special token here, only {sorted(every)[:20]}")
    if disallowed == "all":
        return special_pattern(allowed), _pattern_without(every, allowed)
    return special_pattern(allowed), special_pattern(frozenset(disallowed))


def disallowed_message(token, known):
    """What to say of a special token in a text that may not hold it; known: whether it has an id."""
    advice = "as text pass disallowed_special=()"
    if known:
        advice += f", to encode it as one id pass allowed_special={{{token!r}}}"
    return f"the text holds the special token {token!r}; to encode it {advice}"


@functools.lru_cache(maxsize=64)
def _pattern_without(every, allowed):
    return special_pattern(every - allowed)


def check_special_tokens(tokens):
    """ValueError unless `tokens` is a collection, in an order, of different texts that are not empty.

    What holds half a surrogate pair is not text, and would never be found.
    """
    counts = Counter([""] if isinstance(tokens, str | set) else [*tokens])
    if not all(isinstance(t, str) and t and n == 1 and t == join_surrogates(t) for t, n in counts.items()):
        raise ValueError(f"special_tokens={tokens!r:.90} must be a tuple of different texts, none empty")
