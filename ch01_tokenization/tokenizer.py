"""Text to token ids and back: the character tokenizer, and byte-level byte-pair encoding (BPE)."""

# Written by `make export` from ch01_tokenization.ipynb; change it there.

from itertools import chain
from operator import index

import regex

from .exchange import read_gpt2_files, read_tokenizer, tables_of_encoding, tiktoken_encoding, write_tokenizer
from .merging import check_tables, learn_merges, merge_by_rank, merge_table
from .splitting import GPT2_SPLIT_PATTERN
from .streams import (
    Remembered,
    check_special_tokens,
    count_words,
    disallowed_message,
    find_pieces,
    join_surrogates,
    safe_segments,
    special_patterns,
    split_words,
)

__all__ = [
    "CharTokenizer",
    "BPETokenizer",
    "GPT2_SPLIT_PATTERN",
]

# %% ch01_tokenization.ipynb #b512d8c3
class CharTokenizer:
    """One token id for each character of the training text. KeyError for any other character or id."""

    def __init__(self, text):
        self.characters = dict(enumerate(sorted(set(text))))
        self.ids = {character: index for index, character in self.characters.items()}

    @property
    def n_vocab(self):
        """The number of ids."""
        return len(self.characters)

    def encode(self, text):
        """str -> list of int."""
        return [self.ids[character] for character in text]

    def decode(self, ids):
        """list of int -> str."""
        return "".join(self.characters[index] for index in ids)

# %% ch01_tokenization.ipynb #6d3c59eb
class BPETokenizer:
    """Byte-level byte-pair encoding, id for id what tiktoken does with the same tables.

    vocab: {id: bytes}; merges: [(bytes, bytes)] in rank order; special_tokens: {str: id}. drop_unknown: a
    byte without an id is left out of what is encoded, as in some published vocabularies. KeyError for a byte
    (unless drop_unknown) or a merged token without an id; ValueError for an id with two meanings.
    (Sennrich et al. 2016, section 3.2; on bytes: Radford et al. 2019, section 2.2.)
    """

    def __init__(self, vocab, merges, special_tokens=None, pattern=GPT2_SPLIT_PATTERN, drop_unknown=False):
        self.vocab, self.merges, self.special_tokens = dict(vocab), list(merges), dict(special_tokens or {})
        self.pattern, self._split = pattern, regex.compile(pattern)
        check_special_tokens(self.special_tokens)
        check_tables(self.vocab, self.special_tokens)
        self._special = frozenset(self.special_tokens)
        ids = {token: index for index, token in self.vocab.items()}
        self._table, tokens = merge_table(self.merges)
        missing = [token for token in tokens if len(token) == 1 and token not in ids] if drop_unknown else []
        self.unknown = b"".join(missing)
        self._ids = {character: ids[token] for token, character in tokens.items() if token not in missing}
        self._bytes = self.vocab | {index: token.encode() for token, index in self.special_tokens.items()}
        self._words, self._pieces = Remembered(self._encode_word), Remembered(self._encode_piece)

    @classmethod
    def train(
        cls, texts, vocab_size, special_tokens=("<|endoftext|>",), pattern=GPT2_SPLIT_PATTERN, progress=False
    ):
        """Learn a vocabulary of `vocab_size` ids: 256 bytes, then merges, then the special tokens.

        texts: a str or an iterable of str, taken as one text however it is cut. ValueError for a vocab_size
        that is too small, or too large for the text, for bad special tokens, and for a pattern that loses
        text.
        """
        special_tokens = special_tokens or ()
        check_special_tokens(special_tokens)
        smallest = 256 + len(special_tokens)  # the bytes and the special tokens
        if not isinstance(vocab_size, int) or vocab_size < smallest:
            raise ValueError(f"vocab_size={vocab_size!r} must be a whole number of at least {smallest}")
        words = count_words(texts, pattern, special_tokens)
        merges = learn_merges(words, vocab_size - smallest, progress)
        tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
        special = {token: len(tokens) + n for n, token in enumerate(special_tokens)}
        return cls(dict(enumerate(tokens)), merges, special, pattern)

    @property
    def n_vocab(self):
        """The number of ids, special tokens included: what a model needs as vocab_size."""
        return max(self._bytes) + 1

    @property
    def eot_token(self):
        """The id of <|endoftext|>. KeyError when the tokenizer was trained without it."""
        return self.special_tokens["<|endoftext|>"]

    def encode(self, text, allowed_special=frozenset(), disallowed_special="all"):
        """str -> list of ids. Both arguments take a set of special tokens or "all", as in tiktoken.

        ValueError when the text holds a special token that is disallowed. One that is neither is ordinary
        text.
        """
        return self._encode(text, *special_patterns(self._special, allowed_special, disallowed_special))

    def _encode(self, text, allowed, disallowed):
        if found := disallowed.search(text):
            raise ValueError(disallowed_message(found[0], found[0] in self.special_tokens))
        ids = []
        for number, part in enumerate(allowed.split(join_surrogates(text))):
            ids += [self.special_tokens[part]] if number % 2 else self.encode_ordinary(part)
        return ids

    def encode_ordinary(self, text):
        """str -> list of ids; special tokens are taken as ordinary text."""
        pieces = find_pieces(join_surrogates(text), self.pattern)
        return list(chain.from_iterable(map(self._pieces.__getitem__, pieces)))

    def _encode_piece(self, piece):
        return chain.from_iterable(map(self._words.__getitem__, split_words(piece, self._split)))

    def _encode_word(self, word):
        spelling = word.encode().translate(None, delete=self.unknown)
        return map(self._ids.__getitem__, merge_by_rank(spelling.decode("latin-1"), self._table))

    def encode_iterable(self, chunks, allowed_special=frozenset(), disallowed_special="all"):
        """Chunks of text -> ids, one by one: what `encode` gives for the joined text, in constant memory.

        Constant for GPT-2's and GPT-4's pattern, see `safe_segments`; for another the text is gathered first.
        """
        patterns = special_patterns(self._special, allowed_special, disallowed_special)
        for segment in safe_segments(chunks, self.special_tokens, self.pattern):
            yield from self._encode(segment, *patterns)

    def decode_bytes(self, ids):
        """ids (a list, or a tensor of one dimension) -> bytes.

        They need not be valid UTF-8: a token may hold half a character. ValueError for an id that is not in
        the vocabulary.
        """
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        try:
            return b"".join([self._bytes[index(number)] for number in ids])
        except KeyError as error:
            raise ValueError(f"token id {error} is not one of the ids 0 to {self.n_vocab - 1}") from None

    def decode(self, ids, errors="replace"):
        """ids -> str.

        Bytes that are not valid UTF-8 become U+FFFD, or a UnicodeDecodeError with errors="strict".
        """
        return self.decode_bytes(ids).decode("utf-8", errors=errors)

    def save(self, path):
        """Write the tables as JSON; the file appears whole or not at all."""
        write_tokenizer(path, self)

    @classmethod
    def load(cls, path):
        """Read what `save` wrote. ValueError when the file is of another kind, cut short or altered."""
        return cls(*read_tokenizer(path))

    def to_tiktoken(self, name="from-scratch"):
        """The same tokenizer as a tiktoken.Encoding. ValueError when tiktoken would give other ids."""
        return tiktoken_encoding(self, name)

    @classmethod
    def from_tiktoken(cls, encoding):
        """A tiktoken.Encoding as a tokenizer of this chapter, with equal ids."""
        return cls(*tables_of_encoding(encoding))

    @classmethod
    def gpt2(cls):
        """GPT-2's tokenizer: 50,257 ids, read from a data package, with no network."""
        return cls(*read_gpt2_files())
