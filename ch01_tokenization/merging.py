"""Byte pairs: how merges are learned in a time that hardly depends on their number, and replayed by rank."""

# Written by `make export` from ch01_deeper.ipynb; change it there.

import bisect
import heapq
from collections import Counter, defaultdict
from itertools import repeat
from operator import add

from tqdm import tqdm

__all__ = [
    "NOTHING",
    "NO_TOKEN",
    "lay_out",
    "index_pairs",
    "replace_pair",
    "neighbours",
    "PairQueue",
    "learn_merges",
    "merge_table",
    "check_tables",
    "merge_by_rank",
    "merge_long_word",
]

# %% ch01_deeper.ipynb #420d6998
NOTHING = ""  # stands where no token begins, and between words
NO_TOKEN = "\U0010ffff"  # greater than every token, so that it is never the smallest


def lay_out(word_counts):
    """{word as bytes: how often} -> (row of tokens, weights), all words in one row with NOTHING behind each.

    A token is one character; at the start it is a byte. The weight of a place is how often its word occurs.
    """
    row, weights = [], []
    for word, count in sorted(word_counts.items()):  # what is alike lies side by side: a tenth faster
        row += [*word.decode("latin-1"), NOTHING]  # Latin-1 gives the byte n the character n
        weights += [count] * (len(word) + 1)
    return row, weights

# %% ch01_deeper.ipynb #aa22cc87
def index_pairs(row, weights):
    """Where each pair of neighbours begins, and how often it occurs: {pair: places}, {pair: count}."""
    places = defaultdict(list)
    for place, pair in enumerate(map(add, row, row[1:])):
        places[pair].append(place)
    places = {pair: found for pair, found in places.items() if len(pair) == 2}  # without the words' edges
    return places, {pair: sum(map(weights.__getitem__, found)) for pair, found in places.items()}

# %% ch01_deeper.ipynb #15ddb1ea
def replace_pair(begins, ends, places, pair, token, length):
    """Merge `pair` into `token` at those of `places` where it still stands, from left to right.

    begins, ends: for each place in the row, the token that begins or ends there; length: {token: number of
    bytes}. Returns the places where `token` now begins.
    """
    left, right = pair
    to_right, to_end = length[left], length[token] - 1
    merged = []
    for place in places:
        if begins[place] == left and begins[place + to_right] == right:
            begins[place] = ends[place + to_end] = token
            begins[place + to_right] = NOTHING
            merged.append(place)
    return merged

# %% ch01_deeper.ipynb #068ead78
def neighbours(begins, ends, merged, token, length):
    """The pairs that a merge has made: {pair with the new `token`: the places where it stands}."""
    size, before, behind = length[token], defaultdict(list), defaultdict(list)
    for place in merged:
        before[ends[place - 1]].append(place)
        behind[begins[place + size]].append(place)
    before.pop(NOTHING, None), behind.pop(NOTHING, None)
    found = {left + token: [place - length[left] for place in places] for left, places in before.items()}
    return found | {token + right: places for right, places in behind.items()}  # token + token: once

# %% ch01_deeper.ipynb #17da89d1
class PairQueue:
    """Pairs by count. `pop` gives the most frequent, among equals the one that sorts last by `key`.

    A count may fall at any time, and never rises. So pairs wait in one unsorted list for each count; only the
    list of the highest count is sorted, and a pair whose count has fallen then moves to another list.
    """

    def __init__(self, counts, key):
        self.counts, self.key = counts, key
        self.waiting, self.levels = defaultdict(list), []  # {count: pairs}, and a heap of its keys
        self.top, self.best = None, []  # the highest count, and its pairs in order
        for pair in counts:
            self.push(pair)

    def push(self, pair):
        count = self.counts[pair]
        if count == self.top:
            bisect.insort(self.best, pair, key=self.key)
        elif count:
            if count not in self.waiting:
                heapq.heappush(self.levels, -count)
            self.waiting[count].append(pair)

    def pop(self):
        """The next pair, which leaves the queue; None when there is none."""
        while self.best or self.levels:
            if not self.best:
                self.top = -heapq.heappop(self.levels)
                self.best = sorted(self.waiting.pop(self.top), key=self.key)
            pair = self.best.pop()
            if self.counts[pair] == self.top:
                return pair
            self.push(pair)  # its count has fallen
        return None

# %% ch01_deeper.ipynb #f389f8a1
def learn_merges(word_counts, n_merges, progress=False):
    """The `n_merges` most frequent merges, in order (Sennrich et al. 2016, section 3.2, on bytes).

    word_counts: {word as bytes: how often}. Returns [(left bytes, right bytes)]. The most frequent pair
    comes first; a tie goes to the pair that sorts last. The time grows with the bytes of the different
    words, times a logarithm, however long a word is. ValueError when no pair is left before `n_merges`.
    """
    begins, weights = lay_out(word_counts)
    ends = begins.copy()
    places, counts = index_pairs(begins, weights)
    spelling = {chr(byte): bytes([byte]) for byte in range(256)}  # token -> its bytes
    length, known, merges = dict.fromkeys(spelling, 1), set(spelling.values()), []
    queue = PairQueue(counts, key=lambda pair: (spelling[pair[0]], spelling[pair[1]]))
    bar = tqdm(total=n_merges, desc="merges", disable=not progress)
    while len(merges) < n_merges:
        pair = queue.pop()
        if pair is None:
            raise ValueError(
                f"no pair is left after {len(merges)} merges of {n_merges}; "
                f"train on more text, or with a vocab_size smaller by {n_merges - len(merges)}"
            )
        left, right = pair
        joined = spelling[left] + spelling[right]
        if joined in known:
            continue
        merges.append((spelling[left], spelling[right]))
        token = chr(255 + len(merges))
        spelling[token], length[token] = joined, len(joined)
        known.add(joined)
        merged = replace_pair(begins, ends, places.pop(pair), pair, token, length)
        for new, found in neighbours(begins, ends, merged, token, length).items():
            places[new], counts[new] = found, sum(map(weights.__getitem__, found))
            old = (right if new[0] == token else new[0]) + (left if new[1] == token else new[1])
            counts[old] -= counts[new]  # each new pair stands where an older one stood
            queue.push(new)
        counts[pair] = 0
        bar.update()
    bar.close()
    return merges

# %% ch01_deeper.ipynb #11a31a85
def merge_table(merges):
    """Merges [(bytes, bytes)] in rank order -> ({pair: token} and back, {bytes: token}).

    A token is one character: the bytes are the characters 0 to 255, the merge of rank r is character
    256 + r. KeyError for a merge of parts that do not exist yet.
    """
    table, tokens = {}, {bytes([byte]): chr(byte) for byte in range(256)}
    for rank, (left, right) in enumerate(merges):
        pair, token = tokens[left] + tokens[right], chr(256 + rank)
        if left + right in tokens:
            raise ValueError(f"merge {rank} makes {left + right!r} again; each token is made by one merge")
        table[pair], table[token], tokens[left + right] = token, pair, token
    return table, tokens


def check_tables(vocab, special_tokens):
    """ValueError unless each id is 0 or more and stands for one token, and each token has one id."""
    ids, tokens = Counter([*vocab, *special_tokens.values()]), Counter(vocab.values())
    wrong = [index for index, n in ids.items() if n > 1 or index < 0] + [
        t for t, n in tokens.items() if n > 1
    ]
    if wrong:
        raise ValueError(f"{wrong[0]!r} must be an id of 0 or more with one token, or a token with one id")

# %% ch01_deeper.ipynb #046b3396
def merge_by_rank(word, table):
    """Merge a word until no pair is in the table, the merge of lowest rank first -> list of tokens.

    word: str of one character per token; table: as `merge_table` makes it.
    """
    if len(word) > 50:
        return merge_long_word(word, table)
    get, parts = table.get, list(word)
    made = list(map(get, map(add, word, word[1:]), repeat(NO_TOKEN)))  # what each pair of neighbours becomes
    while made:
        token = min(made)
        if token == NO_TOKEN:
            break
        place = made.index(token)
        parts[place] = token
        del parts[place + 1], made[place]
        if place > 0:  # a merge changes what its two neighbours can become, and nothing else
            made[place - 1] = get(parts[place - 1] + token, NO_TOKEN)
        if place < len(made):
            made[place] = get(token + parts[place + 1], NO_TOKEN)
    return parts

# %% ch01_deeper.ipynb #b321c8f1
def merge_long_word(word, table):
    """What `merge_by_rank` says, in a time that grows with the word's length, times a logarithm."""
    begins, length = [*word, NOTHING], dict.fromkeys(word, 1)
    ends, places = begins.copy(), defaultdict(list)
    for place, pair in enumerate(map(add, word, word[1:])):
        if pair in table:
            places[table[pair]].append(place)
    waiting = list(places)
    heapq.heapify(waiting)
    while waiting:
        token = heapq.heappop(waiting)
        left, right = pair = table[token]
        length[token] = length[left] + length[right]
        merged = replace_pair(begins, ends, places.pop(token), pair, token, length)
        for new, found in neighbours(begins, ends, merged, token, length).items():
            if new in table:  # its rank is higher than this one, so its turn is still to come
                places[table[new]] = found
                heapq.heappush(waiting, table[new])
    return [token for token in begins if token != NOTHING]
