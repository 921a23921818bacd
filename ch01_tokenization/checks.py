"""The checks of chapter 1's exercises: what is right, on which inputs, and the usual mistakes by name."""

# Written by hand: what learners get wrong, in words.

import codecs
import re
import unicodedata
from collections import Counter
from itertools import accumulate, chain

import regex

from .checking import Exercise, checker
from .merging import learn_merges, merge_by_rank, merge_table
from .splitting import GPT2_SPLIT_PATTERN, special_pattern
from .streams import split_words
from .tokenizer import CharTokenizer

__all__ = ["check"]


def letters(draw, alphabet, low, high):
    """A str of low to high letters of an alphabet."""
    return "".join(draw.choice(alphabet) for _ in range(draw.whole(low, high)))


def split(text):
    """ "a bc d" -> [b"a", b"bc", b"d"]."""
    return [token.encode() for token in text.split()]


# ---------------------------------------------------------------- 1.1


def vocabulary(text):
    return CharTokenizer(text).ids


def encode(text, ids):
    return [ids.get(character, len(ids)) for character in text]


def run_characters(answer, text, other, ids):
    its_vocabulary, its_encode = answer
    return {"vocabulary(text)": its_vocabulary(text), "encode(other, ids)": its_encode(other, ids)}


def character_case(text, other):
    return text, other, vocabulary(text)


def numbered(characters, start=0):
    return {character: index for index, character in enumerate(characters, start)}


def extended(text, ids):
    ids = dict(ids)
    return [ids.setdefault(character, len(ids)) for character in text]


def words_numbered(text):
    return numbered(sorted(set(text.split())))


def words_encoded(text, ids):
    return [ids.get(word, len(ids)) for word in text.split()]


CHARACTERS = Exercise(
    right=(vocabulary, encode),
    run=run_characters,
    cases=lambda draw: [
        character_case("ba", "ab"),
        character_case("aab", "bb"),
        character_case("ab", "ac"),
        character_case("ab", "cdc"),
        character_case("", ""),
        character_case("", "a"),
        character_case(" b\n", "b "),
        character_case("aB", "Ba"),
        character_case("aéB 🐚", "é🐚?"),
        character_case("qxhdzvmwbk", "kbz"),
        character_case(letters(draw, "hgfedcba ", 20, 30), letters(draw, "abcdexyz", 9, 15)),
        character_case(letters(draw, "nopqrstuvw", 40, 50), letters(draw, "nopuvwxyz", 9, 15)),
    ],
    mistakes={
        "Ids go by the first place of a character in the text; they should go by the sorted order of "
        "the characters.": (
            lambda text: numbered(dict.fromkeys(text)),
            encode,
        ),
        "Ids go by how often a character occurs; they should go by the sorted order of the characters.": (
            lambda text: numbered(character for character, _ in Counter(text).most_common()),
            encode,
        ),
        "Capital letters are sorted in among the small ones; sorted by itself puts them in the order that "
        "is asked for.": [
            (lambda text, key=key: numbered(sorted(set(text), key=key)), encode)
            for key in (str.lower, lambda character: (character.lower(), character))
        ],
        "The dict says how often each character occurs; number the characters.": (
            lambda text: dict(Counter(text)),
            encode,
        ),
        "It takes words; it should take single characters.": [
            (vocabulary_of, encode_with)
            for vocabulary_of, encode_with in (
                (words_numbered, words_encoded),
                (words_numbered, encode),
                (vocabulary, words_encoded),
            )
        ],
        "White space at the ends of a text is lost; it is made of characters too.": [
            (lambda text: vocabulary(text.strip()), lambda text, ids: encode(text.strip(), ids)),
            (lambda text: vocabulary(text.strip()), encode),
            (vocabulary, lambda text, ids: encode(text.strip(), ids)),
        ],
        "The id 0 counts as False in a condition, so the first character is taken for unknown.": (
            vocabulary,
            lambda text, ids: [ids.get(character) or len(ids) for character in text],
        ),
        "A set has no order, so the ids are in none; sort the characters before they are numbered.": [
            (lambda text: numbered(set(text)), encode),
            (lambda text: numbered({character for character in text}), encode),
        ],
        "A character that comes twice is numbered twice, which leaves holes in the ids; take each "
        "character once.": [
            (lambda text: numbered(sorted(text)), encode),
            (lambda text: numbered(text), encode),
        ],
        "Ids begin at 1; they should begin at 0.": (lambda text: numbered(sorted(set(text)), 1), encode),
        "The vocabulary goes from ids to characters; it should go from characters to ids.": (
            lambda text: dict(enumerate(sorted(set(text)))),
            encode,
        ),
        "The vocabulary is a list of characters; it should be a dict that gives the id of each.": (
            lambda text: sorted(set(text)),
            encode,
        ),
        "The ids are code points of Unicode; number the characters of the text themselves, from 0.": [
            (lambda text: {character: ord(character) for character in text}, encode),
            (vocabulary, lambda text, ids: [ord(character) for character in text]),
        ],
        "A character that has no id stops it with a KeyError; it should become the id len(ids).": (
            vocabulary,
            lambda text, ids: [ids[character] for character in text],
        ),
        "A character that has no id is left out; it should become the id len(ids), so that its place "
        "is kept.": (
            vocabulary,
            lambda text, ids: [ids[character] for character in text if character in ids],
        ),
        "A character that has no id becomes some other number than len(ids).": [
            (
                vocabulary,
                lambda text, ids, other=other: [ids.get(character, other(ids)) for character in text],
            )
            for other in (
                lambda ids: -1,
                lambda ids: 0,
                lambda ids: None,
                lambda ids: len(ids) - 1,
                lambda ids: len(ids) + 1,
            )
        ],
        "Each unknown character gets an id of its own; all of them should share one, len(ids).": (
            vocabulary,
            extended,
        ),
    },
    signs={
        "encode should give one id for each character of the text.": lambda case, got, expected: (
            len(got["encode(other, ids)"]) != len(case[1])
        ),
        "The vocabulary should have each character of the "
        "text once, and no others.": lambda case, got, expected: set(got["vocabulary(text)"]) != set(case[0]),
    },
    errors={
        "The dict may be empty, and then there is no largest id; what is unknown becomes len(ids), "
        "here 0.": lambda case, error: isinstance(error, ValueError) and case[1] and not case[2],
    },
)


# ---------------------------------------------------------------- 1.2


def count_bytes(text):
    return len(text.encode())


def by_limits(*limits):
    """A count with other limits than UTF-8's: a character costs a byte more from each of them."""
    return lambda text: sum(1 + sum(ord(character) >= limit for limit in limits) for character in text)


def from_planes(draw, n):
    """n characters of all four lengths."""
    ranges = [(0x20, 0x7E), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    return "".join(chr(draw.whole(*draw.choice(ranges))) for _ in range(n))


BYTES = Exercise(
    right=count_bytes,
    cases=lambda draw: [
        ("a",),
        ("é",),
        ("数",),
        ("🐚",),
        ("",),
        (" ",),
        ("aa",),
        ("a b",),
        ("\x7f",),
        ("\x80",),
        ("\u07ff",),
        ("\u0800",),
        ("\uffff",),
        ("\U00010000",),
        ("aé",),
        ("café 🐚",),
        ("数" + from_planes(draw, 12),),
        ("🐚" + from_planes(draw, 17) + "é",),
    ],
    mistakes={
        "It counts characters; an é is one character and two bytes.": len,
        "A character that is not ASCII is taken for two bytes; there "
        "are also some of three and four.": by_limits(0x80),
        "No character gets more than three bytes; those from U+10000 on have four.": by_limits(0x80, 0x800),
        "A code point below 256 is taken for one byte; in UTF-8 one byte ends at 127.": [
            by_limits(0x100, 0x800, 0x10000),
            by_limits(0x100, 0x10000),
            by_limits(0x100, 0x10000, 0x1000000),
            lambda text: sum((ord(character).bit_length() + 7) // 8 for character in text),
            lambda text: sum(max(1, (ord(character).bit_length() + 7) // 8) for character in text),
        ],
        "A limit is off by one: the last code points of one, two and three bytes are U+007F, U+07FF "
        "and U+FFFF.": [
            by_limits(*limits)
            for off in (-1, 1)
            for limits in (
                (0x80 + off, 0x800 + off, 0x10000 + off),
                (0x80 + off, 0x800, 0x10000),
                (0x80, 0x800 + off, 0x10000),
                (0x80, 0x800, 0x10000 + off),
            )
        ],
        "Several rows of the table are added for one character; each character falls into one row.": [
            lambda text: (
                sum(
                    sum(ord(c) < limit and n for n, limit in ((1, 0x80), (2, 0x800), (3, 0x10000)))
                    for c in text
                )
                + 4 * sum(ord(c) >= 0x10000 for c in text)
            ),
            lambda text: sum(
                sum(n for n, limit in ((1, 0), (2, 0x80), (3, 0x800), (4, 0x10000)) if ord(c) >= limit)
                for c in text
            ),
        ],
        "Only the first character is counted; add up those of the whole text.": lambda text: count_bytes(
            text[:1]
        ),
        "Only the last character is counted; add up those of the whole text.": lambda text: count_bytes(
            text[-1:]
        ),
        "It gives the bytes of the longest character; add up those of the whole text.": lambda text: max(
            map(count_bytes, text), default=0
        ),
        "A character that comes twice is counted once; add up all of them.": lambda text: sum(
            map(count_bytes, set(text))
        ),
        "White space is left out; a space is a character too.": [
            lambda text: count_bytes("".join(text.split())),
            lambda text: count_bytes(text.strip()),
        ],
        "It counts as UTF-16 does, two bytes or four a character.": lambda text: len(
            text.encode("utf-16-le")
        ),
        "It counts as UTF-32 does, four bytes for every character.": lambda text: 4 * len(text),
        "It gives a number for each character; it should give their sum.": lambda text: [
            count_bytes(character) for character in text
        ],
    },
    signs={
        "It has fewer bytes than characters; each "
        "character takes at least one.": lambda case, got, expected: got < len(case[0]),
        "It has more than four bytes for each character; four is the most.": lambda case, got, expected: (
            got > 4 * len(case[0])
        ),
    },
)


# ---------------------------------------------------------------- 1.3


def count_pairs(
    words, times=lambda count: count, pairs=lambda word: zip(word, word[1:]), key=lambda pair: pair
):
    counts = Counter()
    for word, count in words.items():
        for pair in pairs(word):
            counts[key(pair)] += times(count)
    return dict(counts)


def not_added(words):
    return {pair: count for word, count in words.items() for pair in zip(word, word[1:])}


def apart_pairs(word):
    """Pairs that do not share a token: of aaa only the first."""
    place = 0
    while place < len(word) - 1:
        yield word[place : place + 2]
        place += 2 if place < len(word) - 2 and word[place : place + 2] == word[place + 1 : place + 3] else 1


def no_count_yet(words):
    if count_pairs(words):
        raise KeyError
    return {}


def run_count(answer, words):
    counts = answer(words)
    return dict(counts) if isinstance(counts, dict) else counts


def drawn_words(draw, n):
    """{tuple of tokens: how often}, with tokens of one and two bytes."""
    return {
        tuple(draw.choice([b"a", b"b", b"c", b"ab", b" d"]) for _ in range(draw.whole(1, 6))): draw.whole(
            2, 9
        )
        for _ in range(n)
    }


PAIRS = Exercise(
    right=count_pairs,
    run=run_count,
    cases=lambda draw: [
        ({(b"a", b"b"): 1},),
        ({(b"a", b"b"): 3},),
        ({(b"a", b"b", b"c"): 1},),
        ({(b"b", b"a"): 2, (b"a", b"b"): 3},),
        ({(b"a", b"a", b"a"): 2},),
        ({(b"a", b"b"): 2, (b"a", b"b", b"a"): 3},),
        ({(b"a", b"b", b"a", b"b"): 2},),
        ({(b"ab", b"c"): 1, (b"a", b"bc"): 1},),
        ({(b"a",): 4, (b"b",): 5},),
        ({},),
        (drawn_words(draw, 5),),
        ({(b"a", b"b", b"a", b"b", b"b", b"b"): 2} | drawn_words(draw, 7),),
    ],
    mistakes={
        "Each word is counted once; a pair occurs as often as its word does.": [
            lambda words: count_pairs(words, times=lambda count: 1),
            lambda words: count_pairs(
                words, times=lambda count: 1, pairs=lambda word: set(zip(word, word[1:]))
            ),
        ],
        "A pair that comes twice in a word is counted once; every place counts.": lambda words: count_pairs(
            words, pairs=lambda word: set(zip(word, word[1:]))
        ),
        "A count replaces those before it, of the same word or of another; add them up.": not_added,
        "Pairs that overlap are counted once; in aaa both pairs count.": lambda words: count_pairs(
            words, pairs=apart_pairs
        ),
        "It counts pairs across the border of two words; a pair stands inside of one word.": [
            lambda words: dict(
                Counter(
                    zip(
                        row := list(chain.from_iterable(word for word, n in words.items() for _ in range(n))),
                        row[1:],
                    )
                )
            ),
            lambda words: dict(Counter(zip(row := list(chain.from_iterable(words)), row[1:]))),
        ],
        "The order of the two tokens is lost; (a, b) and (b, a) are different pairs.": lambda words: (
            count_pairs(words, key=lambda pair: tuple(sorted(pair)))
        ),
        "The key is the two tokens joined; it should be the tuple (left, right), since ab c and a bc "
        "are different pairs.": (lambda words: count_pairs(words, key=lambda pair: pair[0] + pair[1])),
        "The two tokens have changed places; the key should be (left, right).": lambda words: count_pairs(
            words, key=lambda pair: pair[::-1]
        ),
        "Pairs that occur seldom are left out; each pair of the words should be there, also one that "
        "occurs once.": [
            lambda words, least=least: {
                pair: count for pair, count in count_pairs(words).items() if count >= least
            }
            for least in (2, 3)
        ],
        "The first pair of each word is missing.": lambda words: count_pairs(
            words, pairs=lambda word: zip(word[1:], word[2:])
        ),
        "The last pair of each word is missing.": lambda words: count_pairs(
            words, pairs=lambda word: zip(word, word[1:-1])
        ),
        "The last token is paired with the first; a word does not go round in a circle.": [
            lambda words: count_pairs(words, pairs=lambda word: zip(word, word[1:] + word[:1])),
            lambda words: count_pairs(
                words, pairs=lambda word: ((word[i - 1], word[i]) for i in range(len(word)))
            ),
        ],
        "Tokens are taken two by two; a token is in two pairs, one with each neighbour.": lambda words: (
            count_pairs(words, pairs=lambda word: zip(word[::2], word[1::2]))
        ),
        "A pair that is met for the first time has no count yet, and adding to it is a KeyError; "
        "begin with 0.": no_count_yet,
        "It counts tokens, and should count pairs of neighbours.": lambda words: count_pairs(
            words, pairs=lambda word: word
        ),
        "It counts pairs of tokens that are not neighbours too.": lambda words: count_pairs(
            words, pairs=lambda word: ((a, b) for i, a in enumerate(word) for b in word[i + 1 :])
        ),
    },
    signs={
        "The tokens of a pair are str; keep them bytes, since a token may be half a "
        "character.": lambda case, got, expected: any(isinstance(half, str) for pair in got for half in pair),
        "There is a pair that stands in none of the words.": lambda case, got, expected: (
            not set(got) <= set(expected)
        ),
        "A pair of the words is missing.": lambda case, got, expected: set(got) < set(expected),
        "The counts are too small: add up the counts of "
        "all words and all places.": lambda case, got, expected: all(
            got[pair] <= count for pair, count in expected.items()
        ),
    },
)


# ---------------------------------------------------------------- 1.4


def merge_pair(tokens, pair, fits=None, most=None, made=None):
    """What `merge_pair` does; `fits`, `most` and `made` are for the wrong answers."""
    fits = fits or (lambda left, right: (left, right) == pair)
    merged, place = [], 0
    while place < len(tokens):
        if place < len(tokens) - 1 and most != 0 and fits(tokens[place], tokens[place + 1]):
            merged.append(made or tokens[place] + tokens[place + 1])
            place, most = place + 2, None if most is None else most - 1
        else:
            merged.append(tokens[place])
            place += 1
    return merged


def merge_from_right(tokens, pair):
    merged, place = [], len(tokens)
    while place > 0:
        fits = tuple(tokens[max(place - 2, 0) : place]) == pair
        merged.append(pair[0] + pair[1] if fits else tokens[place - 1])
        place -= 2 if fits else 1
    return merged[::-1]


def merge_overlapping(tokens, pair):
    """Every place is merged, also where two overlap: aaa -> aa, aa."""
    merged = []
    for place, token in enumerate(tokens):
        if tuple(tokens[place : place + 2]) == pair:
            merged.append(pair[0] + pair[1])
        elif place == 0 or tuple(tokens[place - 1 : place + 1]) != pair:
            merged.append(token)
    return merged


def right_half_stays(tokens, pair):
    """The merged token is put before the right half, which is not skipped."""
    found = [tuple(tokens[place : place + 2]) == pair for place in range(len(tokens))]
    return [pair[0] + pair[1] if here else token for here, token in zip(found, tokens)]


def last_is_lost(tokens, pair):
    merged, place = [], 0
    while place < len(tokens) - 1:
        fits = tuple(tokens[place : place + 2]) == pair
        merged.append(pair[0] + pair[1] if fits else tokens[place])
        place += 2 if fits else 1
    return merged


def last_is_lost_and_right_stays(tokens, pair):
    return right_half_stays(tokens, pair)[:-1]


def beyond_the_end(tokens, pair):
    merged = merge_pair(tokens, pair)
    if tokens and (merged[-1] == tokens[-1]):
        raise IndexError
    return merged


def shortened(tokens, pair):
    tokens = list(tokens)
    for place in range(len(tokens) - 1):
        if (tokens[place], tokens[place + 1]) == pair:
            tokens[place : place + 2] = [pair[0] + pair[1]]
    return tokens


def shortened_later(tokens, pair):
    tokens = list(tokens)
    for place in range(len(tokens) - 1):
        if tokens[place] == pair[0] and tokens[place + 1] == pair[1]:
            tokens[place : place + 2] = [pair[0] + pair[1]]
    return tokens


def ends_count(tokens, pair):
    """What a token ends with is taken for a token, so that aaa becomes one: aaa."""
    merged = []
    for token in tokens:
        if merged and merged[-1].endswith(pair[0]) and token == pair[1]:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


def run_merge(answer, tokens, pair):
    """Whether the list is a new one is asked for the pair (x, y) only, which stands nowhere."""
    merged = answer(tokens, pair)
    return "the list that was passed in" if merged is tokens and pair == (b"x", b"y") else merged


def the_same_list(nothing_to_do):
    """A wrong answer that hands back its argument where there is nothing to do."""
    return lambda tokens, pair: tokens if nothing_to_do(tokens, pair) else merge_pair(tokens, pair)


def when(fits):
    """Two wrong answers: the tokens that are there become one, or the pair's bytes take their place."""
    return [
        lambda tokens, pair, made=made: merge_pair(
            tokens,
            pair,
            lambda left, right: fits(left, right, pair),
            made=pair[0] + pair[1] if made else None,
        )
        for made in (False, True)
    ]


def drawn_merge(draw, low, high):
    names = [b"a", b"b", b"ab", b"ba", b"c"]
    tokens = [draw.choice(names) for _ in range(draw.whole(low, high))]
    place = draw.whole(0, len(tokens) - 2)
    return tokens, (tokens[place], tokens[place + 1])


MERGE = Exercise(
    right=merge_pair,
    run=run_merge,
    cases=lambda draw: [
        (split("a b"), (b"a", b"b")),
        (split("b a"), (b"a", b"b")),
        (split("a c"), (b"a", b"b")),
        (split("a b c"), (b"a", b"b")),
        (split("c a b"), (b"a", b"b")),
        (split("a b a b"), (b"a", b"b")),
        (split("a a a"), (b"a", b"a")),
        (split("a a a a"), (b"a", b"a")),
        (split("a bc"), (b"ab", b"c")),
        (split("c b d"), (b"a", b"b")),
        ([b" a", b"b c"], (b" a", b"b c")),
        (split("a"), (b"a", b"a")),
        ([], (b"a", b"b")),
        ([], (b"x", b"y")),
        (split("a"), (b"x", b"y")),
        (split("a b"), (b"x", b"y")),
        (split("ab c ab c ab"), (b"ab", b"c")),
        (split("a b b a b a b"), (b"a", b"b")),
        drawn_merge(draw, 8, 12),
        drawn_merge(draw, 13, 20),
    ],
    mistakes={
        "It merges from right to left, so aaa becomes a, aa; go from left to right.": merge_from_right,
        "A token is used twice: after a merge, go on behind both of its halves.": [
            merge_overlapping,
            right_half_stays,
        ],
        "Only the first occurrence is merged; merge all of them.": lambda tokens, pair: merge_pair(
            tokens, pair, most=1
        ),
        "It compares the bytes of the two tokens joined; a bc is another pair than ab c, though it "
        "spells the same.": (
            lambda tokens, pair: merge_pair(
                tokens, pair, lambda left, right: left + right == pair[0] + pair[1]
            )
        ),
        "The order of the two tokens does not matter to it; (a, b) and (b, a) are different pairs.": when(
            lambda left, right, pair: sorted((left, right)) == sorted(pair)
        ),
        "It looks at the left token only; both must be those of the pair.": when(
            lambda left, right, pair: left == pair[0]
        ),
        "It looks at the right token only; both must be those of the pair.": when(
            lambda left, right, pair: right == pair[1]
        ),
        "One matching half is enough for it; both must be those of the pair.": when(
            lambda left, right, pair: left == pair[0] or right == pair[1]
        ),
        "The last token is lost when it is not merged.": [last_is_lost, last_is_lost_and_right_stays],
        "It asks what stands behind the last token, where nothing is.": beyond_the_end,
        "It shortens the list and still goes on to where it ended before.": [shortened, shortened_later],
        "The pair is put in as a tuple; its two tokens should be joined into one.": [
            lambda tokens, pair: merge_pair(tokens, pair, made=pair),
            lambda tokens, pair: merge_pair(tokens, pair, made=list(pair)),
        ],
        "The result is a tuple; make it a list.": lambda tokens, pair: tuple(merge_pair(tokens, pair)),
        "The result is all the bytes in one; it should be the list of tokens.": lambda tokens, pair: b"".join(
            tokens
        ),
        "Nothing is merged.": [lambda tokens, pair: list(tokens), lambda tokens, pair: tokens],
        "With nothing to merge it returns the very list that was passed in; return a new one, or a "
        "change to the one changes the other.": [
            the_same_list(lambda tokens, pair: pair not in zip(tokens, tokens[1:])),
            the_same_list(lambda tokens, pair: len(tokens) < 2),
            the_same_list(lambda tokens, pair: not tokens),
        ],
        "The halves have changed places in the new token; it should be left + right.": (
            lambda tokens, pair: merge_pair(tokens, pair, made=pair[1] + pair[0])
        ),
        "What a token ends with is taken for a token; compare whole tokens.": ends_count,
    },
    signs={
        "Bytes are lost or added: joined, the tokens should "
        "give the same bytes as before.": lambda case, got, expected: b"".join(got) != b"".join(case[0]),
        "The pair still stands somewhere in the result.": lambda case, got, expected: (
            case[1] in zip(got, got[1:])
        ),
    },
)


# ---------------------------------------------------------------- 1.5


def single_bytes(word):
    return [bytes([byte]) for byte in word]


def characters(word):
    return [character.encode() for character in word.decode("utf-8", "replace")]


def learned(word_counts, n_merges):
    try:
        return learn_merges(word_counts, n_merges)
    except ValueError:
        raise ValueError("no pair is left") from None


def by_rule(counts):
    return max(counts, key=lambda pair: (counts[pair], pair))


def trained(
    word_counts,
    n_merges,
    choose=by_rule,
    times=lambda n: n,
    merge=merge_pair,
    pairs=None,
    least=1,
    refuse=True,
    start=single_bytes,
):
    """`learn_merges`, with a place for each mistake."""
    words = [(start(word), count) for word, count in word_counts.items()]
    pairs, merges = pairs or (lambda word: zip(word, word[1:])), []
    while len(merges) < n_merges:
        counts = Counter()
        for word, count in words:
            for pair in pairs(word):
                counts[tuple(pair)] += times(count)
        counts = {pair: n for pair, n in counts.items() if n >= least}
        if not counts:
            if refuse:
                raise ValueError
            break
        merges.append(best := choose(counts))
        words = [(merge(word, best), count) for word, count in words]
    return merges


def updated(word_counts, n_merges, choose=by_rule, subtract=True, every=False, least=1):
    """`learn_merges` with counts that are kept up to date, for the words that change or for all."""
    words = [(single_bytes(word), count) for word, count in word_counts.items()]
    counts, merges = Counter(), []
    for word, count in words:
        for pair in zip(word, word[1:]):
            counts[pair] += count
    while len(merges) < n_merges:
        left = {pair: count for pair, count in counts.items() if count >= least}
        if not left:
            raise ValueError
        merges.append(best := choose(left))
        for n, (word, count) in enumerate(words):
            merged = merge_pair(word, best)
            words[n] = merged, count
            if every or len(merged) < len(word):
                for pair in zip(word, word[1:]):
                    counts[pair] -= count * subtract
                for pair in zip(merged, merged[1:]):
                    counts[pair] += count
    return merges


def joined_words(word_counts, n_merges, times=lambda count: count):
    return trained({b"".join(word * times(count) for word, count in word_counts.items()): 1}, n_merges)


def counted_across(word_counts, n_merges, times=lambda count: count):
    """Counts across the borders of words, and merges inside of them."""
    words, merges = [(single_bytes(word), count) for word, count in word_counts.items()], []
    while len(merges) < n_merges:
        row = [token for word, count in words for token in word * times(count)]
        if len(row) < 2:
            raise ValueError
        merges.append(best := by_rule(Counter(zip(row, row[1:]))))
        words = [(merge_pair(word, best), count) for word, count in words]
    return merges


def stale(word_counts, n_merges):
    """Counts once and takes the most frequent pairs of bytes, without merging."""
    counts = Counter()
    for word, count in word_counts.items():
        for pair in zip(word, word[1:]):
            counts[bytes(pair[:1]), bytes(pair[1:])] += count
    if len(counts) < n_merges:
        raise ValueError
    return sorted(counts, key=lambda pair: (counts[pair], pair), reverse=True)[:n_merges]


def no_error(word_counts, n_merges):
    return trained(word_counts, n_merges, refuse=False)


def other_error(word_counts, n_merges):
    merges = no_error(word_counts, n_merges)
    return merges if len(merges) == n_merges else merges[n_merges]


def last_counted(counts):
    return max(reversed(list(counts)), key=counts.get)


def tied(case, got, expected):
    counts = count_pairs({tuple(single_bytes(word)): count for word, count in case[0].items()})
    return got[0] != expected[0] and counts[got[0]] == counts[expected[0]]


def drawn_counts(draw, n, alphabet, low, high):
    return {letters(draw, alphabet, low, high).encode(): draw.whole(2, 9) for _ in range(n)}


TRAINER = Exercise(
    right=learned,
    steps=400_000,
    refuses=(ValueError,),
    cases=lambda draw: [
        ({b"ab": 1}, 1),
        ({b"ab": 1}, 0),
        ({b"ab": 1, b"cd": 1}, 1),
        ({b"cd": 1, b"ab": 1}, 1),
        ({b"ab": 5, b"cd": 1, b"cde": 1}, 1),
        ({b"abc": 2}, 2),
        ({b"abc": 2, b"bcd": 3}, 2),
        ({b"ab": 3, b"aaa": 2}, 1),
        ({b"ababab": 2, b"cd": 5}, 1),
        ({b"ab": 1}, 2),
        ({b"a": 2, b"b": 3}, 1),
        ({}, 1),
        ({"aé".encode(): 2}, 1),
        ({b" the": 3, b" to": 2}, 1),
        ({b"aaaaa": 2}, 3),
        ({b"ab" * 5: 2, b"bc": 9, b"cde": 8}, 4),
        ({b"bc": 19, b"ab": 8, b"abc": 2, b"aba": 2}, 3),
        (drawn_counts(draw, 6, "ab", 2, 7), 4),
        ({b"abcd": 12} | drawn_counts(draw, 12, "abcd", 2, 6), 7),
    ],
    mistakes={
        "A tie goes to the pair that was counted first; it should go to the pair that sorts last.": [
            lambda words, n: trained(words, n, choose=lambda counts: max(counts, key=counts.get)),
            lambda words, n: updated(words, n, choose=lambda counts: max(counts, key=counts.get)),
        ],
        "A tie goes to the pair that was counted last; it should go to the pair that sorts last.": [
            lambda words, n: trained(words, n, choose=last_counted),
            lambda words, n: updated(words, n, choose=last_counted),
        ],
        "A tie goes to the pair that sorts first; it should go "
        "to the one that sorts last.": lambda words, n: trained(
            words, n, choose=lambda counts: min(counts, key=lambda pair: (-counts[pair], pair))
        ),
        "A tie goes by the bytes of the joined token; compare the "
        "pairs (left, right) themselves.": lambda words, n: trained(
            words,
            n,
            choose=lambda counts: max(counts, key=lambda pair: (counts[pair], pair[0] + pair[1])),
        ),
        "A tie goes to the longer token; it should go to the pair that sorts last.": lambda words, n: trained(
            words,
            n,
            choose=lambda counts: max(counts, key=lambda pair: (counts[pair], len(pair[0] + pair[1]), pair)),
        ),
        "The pair that sorts last comes first; counts should decide, "
        "and the order only among equals.": lambda words, n: trained(words, n, choose=max),
        "The rarest pair comes first; it should be the most frequent one.": [
            lambda words, n: trained(
                words, n, choose=lambda counts: min(counts, key=lambda pair: (counts[pair], pair))
            ),
            lambda words, n: trained(words, n, choose=lambda counts: min(counts, key=counts.get)),
        ],
        "Each word counts once; a pair occurs as often as its word does.": lambda words, n: trained(
            words, n, times=lambda count: 1
        ),
        "A pair that comes several times in a word counts once; every place counts.": lambda words, n: (
            trained(words, n, pairs=lambda word: set(zip(word, word[1:])))
        ),
        "Overlapping pairs count once; in aaa both pairs count, "
        "though only one can be merged.": lambda words, n: trained(words, n, pairs=apart_pairs),
        "Pairs cross from one word into the next; count and merge inside of each word.": [
            joined_words,
            lambda words, n: joined_words(words, n, lambda count: 1),
            counted_across,
            lambda words, n: counted_across(words, n, lambda count: 1),
        ],
        "It begins with characters; at the start each byte is a token, and an é has two of them.": (
            lambda words, n: trained(words, n, start=characters)
        ),
        "A space is taken for a border; a word may hold spaces, and they are merged like other bytes.": [
            lambda words, n: trained(
                words, n, pairs=lambda word: (pair for pair in zip(word, word[1:]) if b" " not in pair)
            ),
            lambda words, n: trained(words, n, start=lambda word: single_bytes(word.strip())),
        ],
        "A token is used twice: after a merge, go on behind both of its halves.": [
            lambda words, n: trained(words, n, merge=right_half_stays),
            lambda words, n: trained(words, n, merge=merge_overlapping),
        ],
        "A pair whose count has fallen to 0 is still chosen; it stands nowhere any more.": (
            lambda words, n: updated(words, n, least=0)
        ),
        "All merges come from one count of the untouched bytes; merge after each choice, and count "
        "again.": stale,
        "The pairs that a merge breaks up stay in the counts; count the words as they are after each "
        "merge.": [
            lambda words, n: updated(words, n, subtract=False),
            lambda words, n: updated(words, n, subtract=False, every=True),
            lambda words, n: trained(words, n, merge=lambda word, pair: word),
        ],
        "When no pair is left it returns fewer merges; it should raise a ValueError.": no_error,
        "When no pair is left it stops with an error of another kind; make it a ValueError.": other_error,
        "A pair that occurs once is not merged; the rule has no least count.": lambda words, n: trained(
            words, n, least=2
        ),
        "It merges from right to left inside of a word; go from left to right.": lambda words, n: trained(
            words, n, merge=merge_from_right
        ),
        "Only the first occurrence of the pair in each word is merged; merge all of them.": lambda words, n: (
            trained(words, n, merge=lambda word, pair: merge_pair(word, pair, most=1))
        ),
        "The last token of a word is lost when a pair is merged in it; keep it.": lambda words, n: trained(
            words, n, merge=last_is_lost
        ),
        "It returns the new tokens; it should return the pairs "
        "(left, right) that make them.": lambda words, n: [left + right for left, right in learned(words, n)],
        "It learns one merge more than n_merges.": lambda words, n: trained(words, n + 1),
    },
    signs={
        "A merge is a list; make each a tuple (left, right).": lambda case, got, expected: any(
            isinstance(pair, list) for pair in got
        ),
        "Bytes are given as numbers; a token is bytes, "
        "so take bytes([number]).": lambda case, got, expected: any(
            isinstance(half, int) for pair in got for half in pair
        ),
        "Tokens are str; they should be bytes, since a "
        "token may be half a character.": lambda case, got, expected: any(
            isinstance(half, str) for pair in got for half in pair
        ),
        "A pair wins that is only as frequent as the right one; among equals the one that sorts last "
        "should win.": tied,
        "The first merge should be the most frequent pair of the untouched words, and is another one.": (
            lambda case, got, expected: got[0] != expected[0]
        ),
        "A pair is learned twice.": lambda case, got, expected: len(set(got)) < len(got),
        "The first merges are right and a later one is not: every count should be that of the words "
        "as merged so far.": (
            lambda case, got, expected: got[0] == expected[0] and len(got) == len(expected)
        ),
    },
)


# ---------------------------------------------------------------- 1.6


def by_rank(word, ranks):
    """The library's encoder, which takes characters for tokens, on bytes."""
    table, tokens = merge_table(sorted(ranks, key=ranks.get))
    spelling = {character: token for token, character in tokens.items()}
    return [spelling[character] for character in merge_by_rank(word.decode("latin-1"), table)]


def greedy(word, ranks):
    parts = []
    for byte in single_bytes(word):
        parts.append(byte)
        if tuple(parts[-2:]) in ranks:
            parts[-2:] = [parts[-2] + parts[-1]]
    return parts


def greedy_back(word, ranks):
    parts = []
    for byte in single_bytes(word):
        parts.append(byte)
        while tuple(parts[-2:]) in ranks:
            parts[-2:] = [parts[-2] + parts[-1]]
    return parts


def repeated(word, ranks, choose, merge=merge_pair, rounds=None, start=single_bytes):
    """Merge the chosen pair until none is left."""
    parts = start(word)
    while rounds != 0 and (known := [pair for pair in zip(parts, parts[1:]) if pair in ranks]):
        pair = choose(known)
        if pair is None:
            break
        parts, rounds = merge(parts, pair), None if rounds is None else rounds - 1
    return parts


def lowest(word, ranks, **options):
    return repeated(word, ranks, lambda known: min(known, key=ranks.get), **options)


def round_by_round(word, ranks):
    parts = single_bytes(word)
    while known := [pair for pair in zip(parts, parts[1:]) if pair in ranks]:
        for pair in sorted(known, key=ranks.get):
            parts = merge_pair(parts, pair)
    return parts


def below(word, ranks, limit):
    """Ranks are compared with a number that stands for none."""
    parts = single_bytes(word)
    while len(parts) > 1:
        best = min(zip(parts, parts[1:]), key=lambda pair: ranks.get(pair, limit))
        if best not in ranks:
            break
        parts = merge_pair(parts, best)
    return parts


def without_end(word, ranks, default):
    parts = single_bytes(word)
    while len(parts) > 1:
        place = min(range(len(parts) - 1), key=lambda n: ranks.get((parts[n], parts[n + 1]), default))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def longest_tokens(word, ranks):
    tokens, parts = {left + right for left, right in ranks}, []
    while word:
        n = max(n for n in range(1, len(word) + 1) if n == 1 or word[:n] in tokens)
        parts.append(word[:n])
        word = word[n:]
    return parts


def replayed(word, pairs):
    parts = single_bytes(word)
    for pair in pairs:
        parts = merge_pair(parts, pair)
    return parts


def without_zero(word, ranks):
    return lowest(word, {pair: rank for pair, rank in ranks.items() if rank})


def shuffled(draw, ranks):
    return {pair: ranks[pair] for pair in sorted(ranks, key=lambda pair: draw.real(0, 1))}


def drawn_ranks(draw, n):
    """Ranks as training makes them, in any order, and a word that needs them."""
    words = {b"abab": 2, b"aabbccacbabc": 2} | drawn_counts(draw, 9, "abc", 3, 7)
    ranks = {pair: rank for rank, pair in enumerate(learn_merges(words, n))}
    return letters(draw, "abc", 12, 18).encode() + b"zab", shuffled(draw, ranks)


def rank_table(*pairs):
    """ "h e", "s h" -> {(b"h", b"e"): 0, (b"s", b"h"): 1}."""
    return {tuple(split(pair)): rank for rank, pair in enumerate(pairs)}


RANKS = Exercise(
    right=by_rank,
    cases=lambda draw: [
        (b"ab", rank_table("a b")),
        (b"she", rank_table("h e", "s h")),
        (b"abc", dict(reversed(rank_table("b c", "a b").items()))),
        (b"bca", dict(reversed(rank_table("c a", "b ca").items()))),
        (b"bcd", rank_table("c d", "b cd")),
        (b"abc", rank_table("b c", "a bc", "a b")),
        (b"aaa", rank_table("a a")),
        (b"aaaa", rank_table("a a", "aa aa")),
        (b"abcab", rank_table("a b", "b c", "ab c")),
        (b"abxab", rank_table("a b", "x ab")),
        (b"xyz", rank_table("a b")),
        (b"", rank_table("a b")),
        (b"b", rank_table("a b")),
        (b"ba", {}),
        (b"abcd", rank_table("a b", "ab c", "c d")),
        (b"cab", rank_table("b c", "a b", "c a")),
        ("é".encode(), rank_table("a b")),
        ("é".encode() * 2, {(b"\xc3", b"\xa9"): 300_000}),
        drawn_ranks(draw, 8),
        drawn_ranks(draw, 11),
    ],
    mistakes={
        "It merges from left to right, as it meets the pairs; ask for the lowest rank in the whole "
        "word first.": [
            greedy,
            greedy_back,
            lambda word, ranks: repeated(word, ranks, lambda known: known[0]),
        ],
        "It takes the pair of highest rank; the lowest was learned first, so it goes first.": [
            lambda word, ranks: repeated(word, ranks, lambda known: max(known, key=ranks.get)),
            lambda word, ranks: replayed(word, sorted(ranks, key=ranks.get, reverse=True)),
        ],
        "It takes the merges in the order of the dictionary; take "
        "them in the order of their ranks.": lambda word, ranks: replayed(word, ranks),
        "It takes the merges in the order of their spelling; take them in the order of their ranks.": [
            lambda word, ranks: replayed(word, sorted(ranks)),
            lambda word, ranks: repeated(word, ranks, min),
        ],
        "It makes all merges that it finds in one round; ask again after each merge, since a new pair may "
        "have a lower rank.": round_by_round,
        "A rank is greater than the number that stands for none; ask whether the pair is in ranks, or "
        "take an infinite one.": [
            lambda word, ranks: below(word, ranks, 50_000),
            lambda word, ranks: below(word, ranks, len(ranks)),
        ],
        "It begins with characters; at the start each byte is a token, and an é has two of them.": (
            lambda word, ranks: lowest(word, ranks, start=characters)
        ),
        "It takes the longest token that fits; tokens are made by "
        "merges, the lowest rank first.": longest_tokens,
        "The merge of rank 0 is never made: 0 counts as False in a condition.": without_zero,
        "It stops after one merge; go on until no pair of neighbours has a rank.": lambda word, ranks: lowest(
            word, ranks, rounds=1
        ),
        "It stops after one place; go on until no pair of neighbours has a rank.": lambda word, ranks: lowest(
            word, ranks, rounds=1, merge=lambda parts, pair: merge_pair(parts, pair, most=1)
        ),
        "It goes on when no pair has a rank any more; a pair without a rank is not merged.": [
            lambda word, ranks: without_end(word, ranks, len(ranks) + 99),
            lambda word, ranks: without_end(word, ranks, -1),
            lambda word, ranks: without_end(word, ranks, 0),
        ],
        "In a row of equal tokens it merges from the right; go from left to right.": lambda word, ranks: (
            lowest(word, ranks, merge=merge_from_right)
        ),
        "It returns a tuple; make it a list.": lambda word, ranks: tuple(by_rank(word, ranks)),
        "A token of one byte comes as a number; make it bytes.": [
            lambda word, ranks: [token[0] if len(token) == 1 else token for token in by_rank(word, ranks)],
            lambda word, ranks: list(word),
        ],
        "Nothing is merged.": lambda word, ranks: single_bytes(word),
    },
    signs={
        "A merged pair is put in as a tuple; join its two tokens into one.": lambda case, got, expected: any(
            isinstance(token, tuple) for token in got
        ),
        "The tokens should be bytes, also those of a single byte.": lambda case, got, expected: any(
            not isinstance(token, bytes) for token in got
        ),
        "Bytes are lost or added: joined, the tokens should give the word.": lambda case, got, expected: (
            b"".join(got) != case[0]
        ),
        "There is an empty token; an empty word has no tokens.": lambda case, got, expected: b"" in got,
        "Two neighbours still have a rank; go on until no pair has one.": lambda case, got, expected: any(
            pair in case[1] for pair in zip(got, got[1:])
        ),
        "There is a token that no merge makes.": lambda case, got, expected: any(
            len(token) > 1 and token not in {left + right for left, right in case[1]} for token in got
        ),
    },
)


# ---------------------------------------------------------------- 1.7


def decode_bytes(ids, vocab):
    try:
        return b"".join([vocab[index] for index in ids])
    except KeyError as error:
        raise ValueError(f"{error} is not an id") from None


def drawn_vocab(draw):
    tokens = [b"a", b" the", "é".encode()[:1], "é".encode()[1:], b"\xff", b"\n", b"ing"]
    numbers = sorted(range(3, 40), key=lambda number: draw.real(0, 1))
    return dict(zip(numbers, tokens))


def drawn_ids(draw, n):
    vocab = drawn_vocab(draw)
    return [draw.choice(list(vocab)) for _ in range(n)], vocab


def joined_as_text(ids, vocab, errors):
    return "".join(vocab[index].decode("utf-8", errors) for index in ids).encode()


def refused_by(ids, vocab, error):
    if not set(ids) <= set(vocab):
        raise error
    return decode_bytes(ids, vocab)


def by_place(ids, tokens, error):
    """Tokens by their places; an error for other ids, and with None only for those behind the end."""
    if any(not -len(tokens) * (error is None) <= index < len(tokens) for index in ids):
        raise error or IndexError
    return b"".join(tokens[index] for index in ids)


SMALL = {0: b"a", 1: b"b", 2: b"ab"}

DECODE = Exercise(
    right=decode_bytes,
    refuses=(ValueError,),
    cases=lambda draw: [
        ([2], SMALL),
        ([0, 2], SMALL),
        ([1, 0, 1], SMALL),
        ([], SMALL),
        ([3], SMALL),
        ([0, -1], SMALL),
        ([9, 4], {4: b"d", 9: b"i"}),
        ([4, 9], {9: b"i", 4: b"d"}),
        ([0], {0: b"\xc3", 1: b"\xa9"}),
        ([0, 1], {0: b"\xc3", 1: b"\xa9"}),
        drawn_ids(draw, 9),
        drawn_ids(draw, 14),
    ],
    mistakes={
        "An id that is not in vocab stops it with an error of another kind; it should be a ValueError.": [
            lambda ids, vocab, error=error: refused_by(ids, vocab, error)
            for error in (KeyError, IndexError, TypeError, AssertionError, RuntimeError, Exception)
        ],
        "The error is returned as if it were a result; raise it.": lambda ids, vocab: (
            decode_bytes(ids, vocab) if set(ids) <= set(vocab) else ValueError()
        ),
        "An id that is not in vocab is left out; it should raise a ValueError, or the text changes "
        "silently.": [
            lambda ids, vocab: b"".join(vocab.get(index, b"") for index in ids),
            lambda ids, vocab: b"".join(vocab.get(index, b"") for index in reversed(ids)),
        ],
        "An id that is not in vocab becomes a sign; it should raise a ValueError.": [
            lambda ids, vocab, sign=sign: b"".join(vocab.get(index, sign) for index in ids)
            for sign in (b"?", b"\xef\xbf\xbd", b"\xff", b"\0", b"<unk>", b"<|unk|>")
        ],
        "It gives a str; keep to bytes, since a token may be half a character.": [
            lambda ids, vocab, errors=errors: decode_bytes(ids, vocab).decode("utf-8", errors)
            for errors in ("replace", "ignore", "strict")
        ]
        + [lambda ids, vocab: "".join(str(vocab[index], "utf-8", "replace") for index in ids)],
        "Each token goes through text on its way, and half a character does not survive that; join "
        "the bytes.": [
            lambda ids, vocab, errors=errors: joined_as_text(ids, vocab, errors)
            for errors in ("replace", "ignore", "strict")
        ],
        "It gives a list of tokens; join them.": lambda ids, vocab: [vocab[index] for index in ids],
        "The ids themselves become bytes; look each one up in vocab.": [
            lambda ids, vocab: bytes(ids),
            lambda ids, vocab: bytes(abs(index) for index in ids),
        ],
        "It takes an id for a place in the list of tokens; ids need not be in order, nor without gaps.": [
            lambda ids, vocab, order=order, error=error: by_place(ids, order(vocab), error)
            for order in (
                lambda vocab: list(vocab.values()),
                lambda vocab: [vocab[index] for index in sorted(vocab)],
            )
            for error in (IndexError, ValueError, None)
        ],
        "The tokens are joined with something between them; put nothing there.": [
            lambda ids, vocab, between=between: between.join(vocab[index] for index in ids)
            for between in (b" ", b"|", b"\n", b",", b", ")
        ],
        "The tokens come in reverse order.": lambda ids, vocab: decode_bytes(ids[::-1], vocab),
        "The tokens come in the order of vocab; they should come in the order of ids.": lambda ids, vocab: (
            b"".join(token for index, token in vocab.items() if index in ids)
        ),
    },
    signs={
        "The result is too short: each id should add the bytes of its token.": lambda case, got, expected: (
            len(got) < len(expected)
        ),
        "The result is too long: each id should add the bytes of "
        "its token, and nothing else.": lambda case, got, expected: len(got) > len(expected),
    },
)


# ---------------------------------------------------------------- 1.8


def whole_characters(chunks, errors="replace"):
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    return [*[decoder.decode(chunk) for chunk in chunks], decoder.decode(b"", final=True)]


def all_or_nothing(chunks):
    texts, held = [], b""
    for chunk in chunks:
        held += chunk
        try:
            texts.append(held.decode())
            held = b""
        except UnicodeDecodeError:
            texts.append("")
    return [*texts, held.decode("utf-8", "replace")]


def strict_front(chunks):
    """Keeps what the first error points at, for good."""
    texts, held = [], b""
    for chunk in chunks:
        held += chunk
        try:
            texts.append(held.decode())
            held = b""
        except UnicodeDecodeError as error:
            texts.append(held[: error.start].decode())
            held = held[error.start :]
    return [*texts, held.decode("utf-8", "replace")]


def length_by_table(byte):
    """How long a character is that begins with a byte; 0 for a byte that begins none."""
    rows = (0, 0x7F, 1), (0xC2, 0xDF, 2), (0xE0, 0xEF, 3), (0xF0, 0xF4, 4)
    return next((n for low, high, n in rows if low <= byte <= high), 0)


def waiting(
    chunks, length=length_by_table, back=3, add=lambda held, chunk: held + chunk, cut=None, last=None
):
    """Walks back to where the last character begins; the other arguments are for the wrong answers."""
    texts, held = [], b""
    for chunk in chunks:
        held, n = add(held, chunk), 0
        for step, byte in enumerate(reversed(held[-back:]), 1):
            if not 0x80 <= byte <= 0xBF:
                n = step if length(byte) > step else 0
                break
        text, held = cut(held, n) if cut else (held[: len(held) - n], held[len(held) - n :])
        texts.append(text.decode("utf-8", "replace"))
    return [*texts, last(held) if last else held.decode("utf-8", "replace")]


def in_another_row(low, high, n):
    """Takes characters that begin with low to high for n bytes long."""
    return lambda chunks: waiting(
        chunks, length=lambda byte: n if low <= byte <= high else length_by_table(byte)
    )


def waiting_for_any(chunks):
    """Waits for as many bytes as the first byte says, whatever they are."""
    texts, held, missing = [], b"", 0
    for chunk in chunks:
        texts.append("")
        for byte in chunk:
            missing = (missing or length_by_table(byte) or 1) - 1
            held += bytes([byte])
            if not missing:
                texts[-1] += held.decode("utf-8", "replace")
                held = b""
    return [*texts, held.decode("utf-8", "replace")]


def a_chunk_late(chunks):
    texts = whole_characters(chunks)
    return ["", *texts[:-2], "".join(texts[-2:])] if len(texts) > 1 else texts


def all_so_far(chunks):
    return list(accumulate(whole_characters(chunks)))


def cut_up(draw, text, cut=None):
    """The bytes of a text in chunks of 0 to 3 bytes, the last `cut` bytes missing."""
    spelling = text.encode()[:cut]
    chunks = []
    while spelling:
        n = draw.whole(0, 3)
        chunks.append(spelling[:n])
        spelling = spelling[n:]
    return chunks


STREAM = Exercise(
    right=lambda chunks: whole_characters(chunks),
    cases=lambda draw: [
        ([b"a"],),
        ([b"\xc3", b"\xa9"],),
        ([b"\xc3"],),
        ([b"a\xc3", b"\xa9b"],),
        ([b"a ", b"\nb"],),
        ([b"\xc2", b"\x80"],),
        ([b"\xdf", b"\xbf"],),
        ([b"\xe0\xa0", b"\x80"],),
        ([b"\xef\xbc", b"\x81"],),
        ([b"\xef\xbf", b"\xbf"],),
        ([b"\xf0\x90\x80", b"\x80"],),
        ([b"\xf1\x80\x80", b"\x80"],),
        ([b"\xf4\x8f\xbf", b"\xbf"],),
        ([b"\xf0\x9f", b"\x90", b"\x9a"],),
        ([b"a\xf0", b"\x9f\x90"],),
        ([b"", b"a", b""],),
        ([],),
        (["é".encode(), "数🐚".encode()],),
        ([b"\xe6", b"\x95", b"\xb0\xe6", b"\x95\xb0"],),
        ([b"\xc3", b"a", b"b"],),
        ([b"\xe2", b"a", b"b"],),
        ([b"\xf0\x9fa"],),
        ([b"\xf0", b"a", b"b"],),
        ([b"a\x80", b"b"],),
        (cut_up(draw, letters(draw, "aé数🐚", 6, 9) + "é🐚"),),
        (cut_up(draw, "數" + letters(draw, "bèन🏴", 9, 12) + "🐚", -draw.whole(1, 3)),),
    ],
    mistakes={
        "Each chunk is decoded by itself, so a character that is cut in two becomes U+FFFD; hold its "
        "bytes back.": lambda chunks: [
            *[chunk.decode("utf-8", "replace") for chunk in chunks],
            "",
        ],
        "Half a character is thrown away; hold its bytes back until the rest comes.": lambda chunks: [
            *[chunk.decode("utf-8", "ignore") for chunk in chunks],
            "",
        ],
        "A chunk that ends in the middle of a character stops it with an error.": [
            lambda chunks: [*[chunk.decode() for chunk in chunks], ""],
            lambda chunks: [*[chunk.decode() for chunk in chunks]],
        ],
        "All that is held back waits until every byte of it can be decoded; the whole characters in "
        "front should come at "
        "once, and a byte that is wrong should not stop what follows.": all_or_nothing,
        "One wrong byte holds up everything after it; what can never become a character should come "
        "at once as U+FFFD.": (strict_front),
        "Everything comes at the end; a character should come with the chunk that completes it.": [
            lambda chunks: [*[""] * len(chunks), b"".join(chunks).decode("utf-8", "replace")],
            lambda chunks: [b"".join(chunks).decode("utf-8", "replace")],
        ],
        "Every text comes one chunk late.": a_chunk_late,
        "With nothing to hold back, held[:-0] is empty, since -0 is 0; treat that case by itself.": [
            lambda chunks: waiting(chunks, cut=lambda held, n: (held[:-n], held[-n:])),
            lambda chunks: waiting(chunks, cut=lambda held, n: (held[:-n], held[-n:] if n else b"")),
        ],
        "What was held back is lost when the next chunk comes; put it in front of the chunk.": (
            lambda chunks: waiting(chunks, add=lambda held, chunk: chunk)
        ),
        "What was held back is put behind the next chunk; put it in front.": lambda chunks: waiting(
            chunks, add=lambda held, chunk: chunk + held
        ),
        "It does not walk back far enough: up to three bytes of a character may be there.": (
            lambda chunks: waiting(chunks, back=1)
        ),
        "It does not wait for the fourth byte of a character; the table goes up to four bytes, and the way "
        "back up to three.": [in_another_row(0xF0, 0xF4, 3), lambda chunks: waiting(chunks, back=2)],
        "It does not wait for characters of four bytes.": [in_another_row(0xF0, 0xF4, n) for n in (1, 2)],
        "A first byte falls into the wrong row of the table; look at both ends of each row.": [
            in_another_row(low, high, n)
            for low, high, lengths in (
                (0xC2, 0xC2, (1,)),
                (0xDF, 0xDF, (1, 3)),
                (0xE0, 0xE0, (1, 2)),
                (0xEF, 0xEF, (1, 2, 4)),
                (0xF0, 0xF0, (1, 3)),
                (0xF1, 0xF4, (1, 3)),
                (0xF4, 0xF4, (1, 3)),
            )
            for n in lengths
        ],
        "What can never become a character is left out; it should be U+FFFD.": lambda chunks: [
            *whole_characters(chunks, "ignore")[:-1],
            whole_characters(chunks)[-1],
        ],
        "After a first byte it waits for a number of bytes, whatever they are; one that is not from 0x80 "
        "to 0xBF ends the waiting.": waiting_for_any,
        "Every byte that is held back at the end becomes a U+FFFD; decode them together, which gives "
        "one.": lambda chunks: waiting(chunks, last=lambda held: "\ufffd" * len(held)),
        "What is held back when the chunks end is lost; it should come as U+FFFD at the end.": [
            lambda chunks: [*whole_characters(chunks)[:-1], ""],
            lambda chunks: whole_characters(chunks, "ignore"),
        ],
        "The text after the last chunk is missing: there should be one text for each chunk, and one more.": [
            lambda chunks: whole_characters(chunks)[:-1],
            lambda chunks: (lambda texts: texts if texts[-1] else texts[:-1])(whole_characters(chunks)),
        ],
        "Empty texts are left out; keep them, one text for each chunk and one more.": [
            lambda chunks: [text for text in whole_characters(chunks) if text],
            lambda chunks: [text for text in whole_characters(chunks)[:-1] if text],
            lambda chunks: (lambda texts: [*filter(None, texts[:-1]), texts[-1]])(whole_characters(chunks)),
        ],
        "An empty chunk is passed over; it should have a text too, which may be empty.": lambda chunks: (
            whole_characters([chunk for chunk in chunks if chunk])
        ),
        "It gives single characters; give one text for each chunk.": [
            lambda chunks: list("".join(whole_characters(chunks))),
            lambda chunks: [*"".join(whole_characters(chunks)[:-1]), whole_characters(chunks)[-1]],
        ],
        "What is held back at the end is put to the last chunk's "
        "text; give it a text of its own.": lambda chunks: (lambda texts: [*texts[:-2], "".join(texts[-2:])])(
            whole_characters(chunks)
        ),
        "It gives all texts so far with every chunk; give only what is new.": [
            all_so_far,
            lambda chunks: [*all_so_far(chunks)[:-1], whole_characters(chunks)[-1]],
        ],
    },
    signs={
        "There should be one text for each chunk, and one more.": lambda case, got, expected: (
            len(got) != len(case[0]) + 1
        ),
        "Half a character is shown as U+FFFD, though its other half comes.": lambda case, got, expected: (
            "\ufffd" in "".join(got) and "\ufffd" not in "".join(expected)
        ),
        "Joined, the texts should be what the bytes decode to with errors='replace', and are "
        "something else.": (lambda case, got, expected: "".join(got) != "".join(expected)),
        "The characters are right, but some come too early or too late.": lambda case, got, expected: (
            "".join(got) == "".join(expected)
        ),
    },
)


# ---------------------------------------------------------------- 1.9


def split_special(text, tokens, keep_empty=False):
    parts = special_pattern(frozenset(tokens)).split(text)
    return parts if keep_empty else [part for part in parts if part]


def cut_by(order, escape=re.escape, group="({})"):
    """By a pattern of the tokens in some order."""

    def answer(text, tokens):
        if not tokens:
            return [text] if text else []
        pattern = group.format("|".join(map(escape, order(tokens))))
        return [part for part in re.split(pattern, text) if part]

    return answer


def token_after_token(order, again=False):
    """Cuts at all places of one token, then of the next."""

    def answer(text, tokens):
        parts = [text] if text else []
        for token in order(tokens):
            parts = [
                piece
                for part in parts
                for piece in (
                    [part] if part in tokens and not again else re.split(f"({re.escape(token)})", part)
                )
                if piece
            ]
        return parts

    return answer


def as_given(tokens):
    return list(tokens)


def longest_first(tokens):
    return sorted(tokens, key=len, reverse=True)


def shortest_first(tokens):
    return sorted(tokens, key=len)


def drawn_special(draw, n):
    names = ["<|a|>", "<|a|>b", "<|end|>", "[SEP]", "a", " b", "<|", "\n"]
    return "".join(draw.choice(names) for _ in range(n)), ["<|a|>", "[SEP]", "<|end|>", "<|a|>b"]


def one_only(text, tokens):
    """Cuts at the first special token only."""
    parts = split_special(text, tokens, keep_empty=True)
    return [part for part in [*parts[:2], "".join(parts[2:])] if part]


def with_text_before(text, tokens):
    parts = [*split_special(text, tokens, keep_empty=True), ""]
    return [left + right for left, right in zip(parts[::2], parts[1::2]) if left + right]


SPECIAL = Exercise(
    right=lambda text, tokens: split_special(text, tokens),
    cases=lambda draw: [
        ("a<s>b", ["<s>"]),
        ("<s>", ["<s>"]),
        ("<s><s>a", ["<s>"]),
        ("a|b", ["|"]),
        ("a<|e|>b", ["<|e|>"]),
        ("[A]A", ["[A]"]),
        ("a.b", ["."]),
        ("a<s>b<t>", ["<s>", "<t>"]),
        ("<s>2", ["<s>", "<s>2"]),
        ("<s>2", ["<s>2", "<s>"]),
        ("a<s>2", ["<s>2", "<s>"]),
        (" a <s> b\n", ["<s>"]),
        ("xabcdx", ["ab", "bcd"]),
        ("abcx", ["bc", "ab", "c"]),
        ("ab", []),
        ("", []),
        ("", ["<s>"]),
        ("<s>\n<s>", ["<s>"]),
        ("a<S>", ["<s>"]),
        ("plain", ["<s>"]),
        ("she<|endoftext|>sea<|endoftext|>", ["<|endoftext|>", "<|padding|>"]),
        drawn_special(draw, 12),
        ("<|a|>b<|a|>" + drawn_special(draw, 9)[0], ["<|a|>", "[SEP]", "<|a|>b", "<|end|>"]),
    ],
    mistakes={
        "Signs such as | and [ ] mean something in a regular expression; escape the tokens.": [
            cut_by(order, escape=lambda token: token) for order in (as_given, longest_first)
        ],
        "The first of tokens that fits is taken; where several begin at the same place, take the longest.": [
            cut_by(as_given),
        ],
        "The shortest token that fits is taken; where several begin at the same place, take the longest.": [
            cut_by(shortest_first),
            cut_by(sorted),
        ],
        "It cuts at all places of one token before it looks for the next; go through the text from "
        "left to right.": [
            token_after_token(order) for order in (as_given, longest_first, shortest_first, sorted)
        ],
        "The special tokens are lost; keep each as a part of its own.": [
            cut_by(order, group="(?:{})") for order in (longest_first, as_given)
        ],
        "Empty parts are in the result; leave them out.": [
            lambda text, tokens: split_special(text, tokens, keep_empty=True),
            lambda text, tokens: split_special(text, tokens) or [""],
        ],
        "Only the special tokens are there; keep the text between them too.": lambda text, tokens: [
            part for part in split_special(text, tokens) if part in tokens
        ],
        "A special token stays in one part with the text before "
        "it; give it a part of its own.": with_text_before,
        "It cuts at the first special token and no further.": one_only,
        "Special tokens that are neighbours come as one part; "
        "give each a part of its own.": lambda text, tokens: cut_by(longest_first, group="((?:{})+)")(
            text, tokens
        ),
        "Every character is a part; text between special tokens stays together.": lambda text, tokens: [
            piece for part in split_special(text, tokens) for piece in ([part] if part in tokens else part)
        ],
        "A part of white space alone is left out; it is text too.": lambda text, tokens: [
            part for part in split_special(text, tokens) if part.strip()
        ],
        "Capital and small letters are the same to it; <S> is another text than <s>.": cut_by(
            longest_first, group="(?i:({}))"
        ),
        "The tokens stand in square brackets, which fit any one of the signs in them; use round ones.": [
            cut_by(order, group="([{}])") for order in (as_given, longest_first)
        ],
        "White space at the ends of the parts is lost.": lambda text, tokens: [
            part.strip() for part in split_special(text, tokens) if part.strip()
        ],
        "A special token is cut again at a shorter one inside of it; leave it whole.": [
            token_after_token(order, again=True) for order in (as_given, longest_first)
        ],
        "Without special tokens it should give the text as one part, and does something else.": [
            lambda text, tokens, cut=cut: split_special(text, tokens) if tokens else cut(text)
            for cut in (lambda text: [], list, lambda text: ["", *text, ""])
        ],
    },
    signs={
        "Text is lost or added: joined, the parts should give the text.": lambda case, got, expected: (
            "".join(got) != case[0]
        ),
        "There is an empty part; leave it out.": lambda case, got, expected: "" in got,
        "A special token is still in a longer part.": lambda case, got, expected: any(
            token in part and part not in case[1] for part in got for token in case[1]
        ),
    },
)


# ---------------------------------------------------------------- 1.10


def bytes_per_token(texts, ids):
    return sum(len(text.encode()) for text in texts) / sum(map(len, ids))


def drawn_texts(draw, n):
    texts = [letters(draw, "abé数🐚 ", 3, 12) for _ in range(n)]
    return texts, [[draw.whole(0, 999) for _ in range(draw.whole(1, 8))] for _ in texts]


RATIO = Exercise(
    right=bytes_per_token,
    cases=lambda draw: [
        (["ab"], [[7]]),
        (["é"], [[7]]),
        (["a"], [[3, 4]]),
        (["the sea", "a"], [[5], [6]]),
        (["abcd", "🐚"], [[256], [1, 2, 3, 4]]),
        (["aa", "bb", ""], [[8, 8], [9], []]),
        (["数字 a", *drawn_texts(draw, 4)[0]][:4], [[1, 1], [2], [3, 4, 5], [6, 7, 8, 9, 9]]),
        (["é数 the sea", "sea sea sea é"], [[4, 5, 5, draw.whole(1, 9)], [draw.whole(1, 9), 2]]),
        tuple([*part, *more] for part, more in zip((["the shell 🐚"], [[2, 2, 3]]), drawn_texts(draw, 5))),
    ],
    mistakes={
        "It counts characters; count bytes, so that all languages are measured alike.": lambda texts, ids: (
            sum(map(len, texts)) / sum(map(len, ids))
        ),
        "It is upside down: tokens per byte.": lambda texts, ids: 1 / bytes_per_token(texts, ids),
        "It is the mean of the ratios of single texts; divide all bytes by all tokens, so that long "
        "texts count more.": [
            lambda texts, ids: (
                sum(len(text.encode()) / len(each) for text, each in zip(texts, ids) if each)
                / sum(map(bool, ids))
            ),
            lambda texts, ids: (
                sum(len(text.encode()) / max(len(each), 1) for text, each in zip(texts, ids)) / len(texts)
            ),
            lambda texts, ids: (
                sum(len(text.encode()) / len(each) for text, each in zip(texts, ids)) / len(texts)
            ),
        ],
        "It counts characters, and takes the mean of single texts.": lambda texts, ids: (
            sum(len(text) / max(len(each), 1) for text, each in zip(texts, ids)) / len(texts)
        ),
        "The texts are joined with something between them, which is counted too.": [
            lambda texts, ids, between=between: bytes_per_token([between.join(texts)], ids)
            for between in (" ", "\n", ", ")
        ],
        "It adds up the ids; count them.": lambda texts, ids: (
            sum(len(text.encode()) for text in texts) / max(sum(chain.from_iterable(ids)), 1)
        ),
        "It is tokens per word, the fertility; here bytes per token are asked for.": lambda texts, ids: (
            sum(map(len, ids)) / sum(len(text.split()) for text in texts)
        ),
        "Only the first text is measured; take all of them.": lambda texts, ids: bytes_per_token(
            texts[:1], ids[:1]
        ),
        "Only the last text is measured; take all of them.": lambda texts, ids: bytes_per_token(
            texts[-1:], ids[-1:]
        ),
        "A text without tokens counts as one token; it adds none.": lambda texts, ids: (
            sum(len(text.encode()) for text in texts) / sum(max(len(each), 1) for each in ids)
        ),
        "It divides by the number of texts; divide by the number of tokens.": lambda texts, ids: (
            sum(len(text.encode()) for text in texts) / len(ids)
        ),
        "It divides by the number of different ids; every token counts.": lambda texts, ids: (
            sum(len(text.encode()) for text in texts) / len(set(chain.from_iterable(ids)))
        ),
        "It divides without a remainder; the ratio need not be whole.": lambda texts, ids: (
            bytes_per_token(texts, ids) // 1
        ),
        "It is rounded; leave the ratio as it is.": [
            lambda texts, ids: float(round(bytes_per_token(texts, ids))),
            lambda texts, ids: round(bytes_per_token(texts, ids), 1),
            lambda texts, ids: round(bytes_per_token(texts, ids), 2),
        ],
    },
)

# ---------------------------------------------------------------- 1.11


def count_words(texts, pattern):
    split = regex.compile(pattern)
    return Counter(word.encode() for text in texts for word in split_words(text, split))


def counted_by(cut=regex.findall, text=lambda text: text, word=lambda word: word.encode(), among=list):
    """A count with something else in place of: the cutting, the text, a word, the words of a text."""
    return lambda texts, pattern: dict(
        Counter(word(each) for each_text in texts for each in among(cut(pattern, text(each_text))))
    )


def run_words(answer, texts, pattern):
    counts = answer(texts, pattern)
    return dict(counts) if isinstance(counts, dict) else counts


def added_by(add):
    """A count in which the counts of each text come to those before in another way than by adding."""

    def answer(texts, pattern):
        counts = {}
        for text in texts:
            counts = add(counts, count_words([text], pattern))
        return dict(counts)

    return answer


def as_share(texts, pattern):
    counts = count_words(texts, pattern)
    return {word: count / counts.total() for word, count in counts.items()}


def letters_only(cut):
    """The words of which something is left when only letters count."""
    return [word for word in cut if word.strip().isalpha()]


def bytes_cut(pattern, text):
    return regex.findall(pattern.encode(), text.encode())


def with_ends(pattern, text):
    return [word for line in text.splitlines(keepends=True) for word in regex.findall(pattern, line)]


def without_ends(pattern, text):
    return [word for line in text.splitlines() for word in regex.findall(pattern, line)]


def counted_inside(within):
    """Counts by str.count in the texts that within(text, texts) gives."""
    return lambda texts, pattern: {
        word: sum(each.count(word.decode()) for each in within(text, texts))
        for text in texts
        for word in count_words([text], pattern)
    }


def whole_words(draw, n):
    words = [" sea", "she", " She", "'s", ",", "\n", "\n\n", "  ", " é", "数", " 🐚", "7", " 42", "-", "sea "]
    return "".join(draw.choice(words) for _ in range(n))


LETTER_BY_LETTER, SPACE_IN_FRONT, SPACE_APART = r"[a-z]|[^a-z]", r"\s?\S+|\s+", r"\p{L}+|\P{L}"
WORDS = Exercise(
    right=count_words,
    run=run_words,
    cases=lambda draw: [
        (["a"], GPT2_SPLIT_PATTERN),
        ([], GPT2_SPLIT_PATTERN),
        (["a b"], GPT2_SPLIT_PATTERN),
        (["ab"], GPT2_SPLIT_PATTERN),
        (["aa"], LETTER_BY_LETTER),
        (["a", "a"], GPT2_SPLIT_PATTERN),
        (["a", "b"], GPT2_SPLIT_PATTERN),
        ([" a a", " a"], GPT2_SPLIT_PATTERN),
        ([" a", " a a"], GPT2_SPLIT_PATTERN),
        (["A a"], GPT2_SPLIT_PATTERN),
        (["é"], GPT2_SPLIT_PATTERN),
        (["数 🐚"], GPT2_SPLIT_PATTERN),
        (["a, 7"], GPT2_SPLIT_PATTERN),
        (["a  b"], GPT2_SPLIT_PATTERN),
        (["a\nb"], GPT2_SPLIT_PATTERN),
        (["a\n\n b\n"], GPT2_SPLIT_PATTERN),
        ([" a "], GPT2_SPLIT_PATTERN),
        ([""], GPT2_SPLIT_PATTERN),
        (["\u212b"], GPT2_SPLIT_PATTERN),  # the unit angstrom, which NFC makes a letter
        (["a\r\nb"], GPT2_SPLIT_PATTERN),
        (["she's", "", "she"], GPT2_SPLIT_PATTERN),
        (["a1, b", "b"], SPACE_IN_FRONT),
        (["aé b7", "b7"], SPACE_APART),
        ([whole_words(draw, 9), whole_words(draw, 14)], GPT2_SPLIT_PATTERN),
        (["she é", whole_words(draw, 12), whole_words(draw, 8), "sea she"], GPT2_SPLIT_PATTERN),
        ([whole_words(draw, 11), " sea", whole_words(draw, 7)], SPACE_IN_FRONT),
    ],
    mistakes={
        "Characters are normalised, or line ends are rewritten; a word is taken as it stands in the text.": [
            counted_by(cut=lambda pattern, text: regex.findall(pattern, unicodedata.normalize("NFC", text))),
            counted_by(cut=lambda pattern, text: regex.findall(pattern, text.replace("\r\n", "\n"))),
        ],
        "The texts are cut at white space, which is lost; cut them with the pattern.": [
            counted_by(cut=lambda pattern, text: text.split()),
            counted_by(cut=lambda pattern, text: text.split(" ")),
        ],
        "It counts characters; cut each text into words first.": counted_by(cut=lambda pattern, text: text),
        "The texts are joined before they are cut, so that the last word of one grows together with the "
        "first of the next; cut each by itself.": lambda texts, pattern: count_words(
            ["".join(texts)], pattern
        ),
        "The texts are joined with something between them, which is counted too; cut each by itself.": [
            lambda texts, pattern, between=between: count_words([between.join(texts)], pattern)
            for between in (" ", "\n", "\n\n", "<|endoftext|>")
        ],
        "White space is stripped from the words; a word keeps its leading space, and white space alone "
        "is a word too.": [
            counted_by(word=lambda word: word.strip().encode()),
            counted_by(word=lambda word: word.lstrip().encode()),
            counted_by(word=lambda word: word.lstrip(" ").encode()),
            counted_by(word=lambda word: word.strip(" ").encode()),
            counted_by(word=lambda word: word.replace(" ", "").encode()),
            counted_by(
                word=lambda word: word.strip().encode(), among=lambda cut: [w for w in cut if w.strip()]
            ),
        ],
        "Words of white space alone are left out; they are words too.": counted_by(
            among=lambda cut: [word for word in cut if word.strip()]
        ),
        "White space at the ends of a text is stripped before it is cut; it belongs to the text.": [
            counted_by(text=str.strip),
            counted_by(text=str.rstrip),
            counted_by(text=str.lstrip),
        ],
        "Capital letters become small ones; count the words as they stand there.": [
            counted_by(text=str.lower),
            counted_by(text=str.casefold),
        ],
        "Only words of letters are counted; numbers, signs and white space are words too.": [
            counted_by(among=letters_only),
            counted_by(among=lambda cut: [word for word in cut if word.isalpha()]),
        ],
        "The words in the dict are str; they should be bytes.": counted_by(word=str),
        "The words in the dict are tuples; each should be one bytes object.": [
            counted_by(word=lambda word: tuple(word.encode())),
            counted_by(word=lambda word: tuple(bytes([byte]) for byte in word.encode())),
            counted_by(word=tuple),
        ],
        "The words are encoded in another way than in UTF-8.": [
            counted_by(word=lambda word, encoding=encoding, errors=errors: word.encode(encoding, errors))
            for encoding, errors in (
                ("ascii", "ignore"),
                ("ascii", "replace"),
                ("latin-1", "ignore"),
                ("latin-1", "replace"),
                ("utf-16", "strict"),
                ("utf-16-le", "strict"),
                ("utf-32", "strict"),
                ("utf-8-sig", "strict"),
            )
        ],
        "A word that comes twice in a text is counted once; every place counts.": counted_by(among=set),
        "Every word has the count 1; add 1 at each place where it stands.": lambda texts, pattern: (
            dict.fromkeys(count_words(texts, pattern), 1)
        ),
        "The counts of a text replace those of the texts before; add them up.": added_by(
            lambda counts, new: counts | dict(new)
        ),
        "Of the counts in the single texts it takes the largest, as | does with two Counters; add "
        "them up.": added_by(lambda counts, new: Counter(counts) | new),
        "Only the first text is counted; count the words of all.": lambda texts, pattern: count_words(
            texts[:1], pattern
        ),
        "Only the last text is counted; count the words of all.": lambda texts, pattern: count_words(
            texts[-1:], pattern
        ),
        "Only the first word of each text is counted; count all matches.": counted_by(
            among=lambda cut: cut[:1]
        ),
        "It takes what regex.split leaves between the words; the words are what the pattern matches.": [
            counted_by(cut=regex.split),
            counted_by(cut=lambda pattern, text: [each for each in regex.split(pattern, text) if each]),
        ],
        "The pattern is another one than that in the argument, which should be used.": [
            counted_by(cut=lambda pattern, text, other=other: regex.findall(other, text))
            for other in (GPT2_SPLIT_PATTERN, r" ?\w+| ?[^\w\s]+|\s+", r"\s?\w+|\W")
        ],
        "It looks for words of letters, digits and underscores; use the pattern that is handed in.": [
            counted_by(cut=lambda pattern, text, other=other: regex.findall(other, text))
            for other in (r"\w+", r"\b\w+\b", r" ?\w+", r" ?\p{L}+")
        ],
        "The text is cut as bytes, where a character that is not ASCII is several letters or none; cut it as "
        "str, and encode the words.": counted_by(cut=bytes_cut, word=bytes),
        "The texts are cut into lines first, and their ends are lost; cut the whole text.": [
            counted_by(cut=without_ends)
        ],
        "The texts are cut into lines first, and no word can reach over the end of one; cut the whole "
        "text.": counted_by(cut=with_ends),
        "A word is also counted where it stands inside of another; count the matches of the pattern.": [
            counted_inside(within) for within in (lambda text, texts: [text], lambda text, texts: texts)
        ]
        + [
            lambda texts, pattern: {
                word: " ".join(texts).count(word.decode()) for word in count_words(texts, pattern)
            }
        ],
        "Each count is too large by 1; the first place of a word gives 1.": lambda texts, pattern: {
            word: count + 1 for word, count in count_words(texts, pattern).items()
        },
        "Each count is too small by 1; the first place of a word counts too.": lambda texts, pattern: {
            word: count - 1 for word, count in count_words(texts, pattern).items()
        },
        "It gives shares of all words; give how often each word occurs.": as_share,
    },
    signs={
        "The words in the dict should be bytes.": lambda case, got, expected: (
            not all(isinstance(word, bytes) for word in got)
        ),
        "Here are no words, and the dict has some; are they left from an earlier call? Begin with "
        "an empty one in each.": lambda case, got, expected: got and not expected,
        "There is an empty word; the pattern never matches the empty text.": lambda case, got, expected: (
            b"" in got
        ),
        "The words are right, but not how often they occur.": lambda case, got, expected: (
            got.keys() == expected.keys()
        ),
        "Bytes are lost or added: each byte of the texts should stand in one word.": (
            lambda case, got, expected: (
                sum(len(word) * n for word, n in got.items())
                != sum(len(word) * n for word, n in expected.items())
            )
        ),
        "No byte is lost, but the words are others than what the pattern matches in the single texts.": (
            lambda case, got, expected: got.keys() != expected.keys()
        ),
    },
    errors={
        "The module re does not know all of this pattern, such as \\p{L}; use the module regex.": (
            lambda case, error: "bad escape \\p" in str(error).lower()
        ),
        "The text is encoded before it is cut; cut it as str, and encode the words.": lambda case, error: (
            "string pattern on a bytes-like" in str(error)
        ),
        "The pattern is a str; regex.findall(pattern, text) takes it as it is.": lambda case, error: (
            "'str' object has no attribute 'find" in str(error)
        ),
        "A word that is new has no count yet to which 1 could be added; a Counter begins at 0, and so "
        "does counts.get(word, 0).": lambda case, error: isinstance(error, KeyError),
        "Here is a list of several texts or words, and one alone is needed; take them one by "
        "one.": lambda case, error: (
            isinstance(error, TypeError | AttributeError)
            and any(part in str(error) for part in ("'list' object has no attr", "got 'list'", "not 'list'"))
        ),
    },
)

check = checker(
    {
        "1.1": CHARACTERS,
        "1.2": BYTES,
        "1.3": PAIRS,
        "1.4": MERGE,
        "1.5": TRAINER,
        "1.6": RANKS,
        "1.7": DECODE,
        "1.8": STREAM,
        "1.9": SPECIAL,
        "1.10": RATIO,
        "1.11": WORDS,
    }
)
