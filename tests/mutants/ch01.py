"""Chapter 1: answers that are right in another way, and answers that are wrong in a typical way."""

VARIANTS = {
    "1.1": """def vocabulary(text):
    ids = {}
    for character in sorted(text):
        if character not in ids:
            ids[character] = len(ids)
    return ids


def encode(text, ids):
    result = []
    for character in text:
        try:
            result.append(ids[character])
        except KeyError:
            result.append(len(ids))
    return result
""",
    "1.2": """def count_bytes(text):
    limits = [0x80, 0x800, 0x10000]
    return len(text) + sum(ord(character) >= limit for character in text for limit in limits)
""",
    "1.3": """def count_pairs(words):
    counts = {}
    for word in words:
        for i in range(1, len(word)):
            pair = (word[i - 1], word[i])
            counts[pair] = counts.get(pair, 0) + words[word]
    return counts
""",
    "1.4": """def merge_pair(tokens, pair):
    merged = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged
""",
    "1.5": """def learn_merges(word_counts, n_merges):
    words = {tuple(bytes([byte]) for byte in word): count for word, count in word_counts.items()}
    merges = []
    while len(merges) < n_merges:
        counts = {}
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + count
        if not counts:
            raise ValueError("nothing left to merge")
        _, best = sorted((count, pair) for pair, count in counts.items())[-1]
        merges.append(best)
        new_words = {}
        for word, count in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            new_words[tuple(merged)] = count
        words = new_words
    return merges
""",
    "1.6": """def merge_by_rank(word, ranks):
    tokens = [word[i : i + 1] for i in range(len(word))]
    for left, right in sorted(ranks, key=lambda pair: ranks[pair]):  # all merges, in the order of training
        merged = []
        for token in tokens:
            if merged and merged[-1] == left and token == right:
                merged[-1] = left + right
            else:
                merged.append(token)
        tokens = merged
    return tokens
""",
    "1.7": """def decode_bytes(ids, vocab):
    result = b""
    for index in ids:
        token = vocab.get(index)
        if token is None:
            raise ValueError("unknown id")
        result += token
    return result
""",
    "1.8": """def whole_characters(chunks):
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    texts = []
    for chunk in chunks:
        texts.append(decoder.decode(chunk))
    texts.append(decoder.decode(b"", final=True))
    return texts
""",
    "1.9": """def split_special(text, tokens):
    parts, ordinary, place = [], "", 0
    while place < len(text):
        here = [token for token in tokens if text.startswith(token, place)]
        if here:
            longest = max(here, key=len)
            parts += [ordinary, longest] if ordinary else [longest]
            ordinary, place = "", place + len(longest)
        else:
            ordinary, place = ordinary + text[place], place + 1
    return parts + [ordinary] if ordinary else parts
""",
    "1.10": """def bytes_per_token(texts, ids):
    tokens = [token for each in ids for token in each]
    return len("".join(texts).encode()) / len(tokens)
""",
    "1.11": """def count_words(texts, pattern):
    split = regex.compile(pattern)
    counts = {}
    for words in map(split.finditer, texts):
        for match in words:
            word = bytes(match.group(), "utf-8")
            counts[word] = counts.get(word, 0) + 1
    return counts
""",
}

GOOD_ENCODE = """


def encode(text, ids):
    return [ids.get(character, len(ids)) for character in text]
"""

MUTANTS = {
    "1.1": [
        ("first place of a character", "sorted(set(text))", "dict.fromkeys(text)"),
        ("A set has no order", "sorted(set(text))", "set(text)"),
        ("numbered twice", "sorted(set(text))", "sorted(text)"),
        ("begin at 1", "enumerate(sorted(set(text)))", "enumerate(sorted(set(text)), start=1)"),
        ("from ids to characters", "{character: index for", "{index: character for"),
        ("list of characters", "def vocabulary(text):\n    return sorted(set(text))" + GOOD_ENCODE),
        (
            "code points",
            "{character: index for index, character in enumerate(sorted(set(text)))}",
            "{c: ord(c) for c in set(text)}",
        ),
        ("KeyError", "ids.get(character, len(ids))", "ids[character]"),
        ("left out", "for character in text]", "for character in text if character in ids]"),
        ("some other number", "ids.get(character, len(ids))", "ids.get(character, -1)"),
        ("some other number", "ids.get(character, len(ids))", "ids.get(character)"),
        ("changes its arguments", "ids.get(character, len(ids))", "ids.setdefault(character, len(ids))"),
        (
            "an id of its own",
            "    return [ids.get(character, len(ids)) for character in text]",
            "    ids = dict(ids)\n    for character in text:\n        if character not in ids:\n"
            "            ids[character] = len(ids)\n"
            "    return [ids[character] for character in text]",
        ),
        ("one id for each character", "for character in text]", "for character in sorted(set(text))]"),
        (
            "each character of the text once, and no others",
            "enumerate(sorted(set(text)))",
            'enumerate(sorted(set(text.replace(" ", ""))))',
        ),
        ("no largest id", "ids.get(character, len(ids))", "ids.get(character, max(ids.values()) + 1)"),
        (
            "White space at the ends",
            """def vocabulary(text):
    return {c: i for i, c in enumerate(sorted(set(text.strip())))}
def encode(text, ids):
    return [ids.get(c, len(ids)) for c in text.strip()]
""",
        ),
        ("White space at the ends", "set(text)", "set(text.strip())"),
        ("The id 0 counts as False", "ids.get(character, len(ids))", "ids.get(character) or len(ids)"),
        (
            "It takes words",
            """def vocabulary(text):
    return {c: i for i, c in enumerate(sorted(set(text.split())))}
def encode(text, ids):
    return [ids.get(c, len(ids)) for c in text.split()]
""",
        ),
        ("It takes words", "set(text)", "set(text.split())"),
        (
            "how often each character occurs",
            "{character: index for index, character in enumerate(sorted(set(text)))}",
            "{c: text.count(c) for c in sorted(set(text))}",
        ),
        ("Capital letters", "sorted(set(text))", "sorted(set(text), key=str.lower)"),
        (
            "how often a character occurs",
            "enumerate(sorted(set(text)))",
            "enumerate(c for c, n in Counter(text).most_common())",
        ),
    ],
    "1.2": [
        ("counts characters", "def count_bytes(text):\n    return len([character for character in text])"),
        (
            "is taken for two bytes",
            "def count_bytes(text):\n    return sum(1 if c.isascii() else 2 for c in text)",
        ),
        ("more than three bytes", "total += 4", "total += 3"),
        ("below 256", "code_point < 0x80:", "code_point < 0x100:"),
        ("off by one", "code_point < 0x80:", "code_point <= 0x80:"),
        ("off by one", "code_point < 0x800:", "code_point < 0x7FF:"),
        ("off by one", "code_point < 0x10000:", "code_point <= 65536:"),
        ("a number for each", "def count_bytes(text):\n    return [len(c.encode()) for c in text]"),
        ("Only the first", "    return total", "        return total\n    return 0"),
        ("Only the last", "    for character in text:\n", "    for character in text:\n        total = 0\n"),
        ("UTF-16", "def count_bytes(text):\n    return sum(2 if ord(c) < 65536 else 4 for c in text)"),
        ("UTF-32", "def count_bytes(text):\n    return sum(4 for c in text)"),
        ("fewer bytes than characters", "total += 1", "total += 0"),
        ("more than four bytes for each", "total += 4", "total += 6"),
        ("stops with an error", "ord(character)", "ord(text)"),
        (
            "Several rows",
            """def count_bytes(text):
    total = 0
    for c in text:
        if ord(c) < 128:
            total += 1
        if ord(c) < 2048:
            total += 2
        if ord(c) < 65536:
            total += 3
        else:
            total += 4
    return total
""",
        ),
        ("comes twice is counted once", "for character in text:", "for character in set(text):"),
        ("White space is left out", "for character in text:", "for character in ''.join(text.split()):"),
        (
            "of the longest character",
            """def count_bytes(text):
    return max([1 + (ord(c) > 127) + (ord(c) > 2047) + (ord(c) > 65535) for c in text], default=0)
""",
        ),
    ],
    "1.3": [
        ("Each word is counted once", "+= count", "+= 1"),
        (
            "twice in a word",
            "        for pair in zip(word, word[1:]):\n            counts[pair] += count",
            "        for pair in {(word[i], word[i + 1]) for i in range(len(word) - 1)}:\n"
            "            counts[pair] += count",
        ),
        ("replaces those before", "+= count", "= count"),
        ("order of the two tokens", "counts[pair]", "counts[min(pair), max(pair)]"),
        ("two tokens joined", "counts[pair]", 'counts[b"".join(pair)]'),
        (
            "last pair of each word",
            "zip(word, word[1:])",
            "[(word[i], word[i + 1]) for i in range(len(word) - 2)]",
        ),
        (
            "does not go round",
            "zip(word, word[1:])",
            "[(word[i], word[(i + 1) % len(word)]) for i in range(len(word))]",
        ),
        ("two by two", "zip(word, word[1:])", "[(word[i], word[i + 1]) for i in range(0, len(word) - 1, 2)]"),
        ("counts tokens", "zip(word, word[1:])", "word"),
        (
            "across the border",
            "def count_pairs(words):\n"
            "    row = [t for word, n in words.items() for _ in range(n) for t in word]\n"
            "    counts = Counter()\n    for i in range(len(row) - 1):\n"
            "        counts[row[i], row[i + 1]] += 1\n    return counts",
        ),
        (
            "overlap",
            "def count_pairs(words):\n    counts = Counter()\n    for word, count in words.items():\n"
            "        i = 0\n"
            "        while i < len(word) - 1:\n            counts[word[i], word[i + 1]] += count\n"
            "            i += 2 if word[i : i + 2] == word[i + 1 : i + 3] else 1\n    return counts",
        ),
        (
            "not neighbours",
            "zip(word, word[1:])",
            "[(a, b) for i, a in enumerate(word) for b in word[i + 1 :]]",
        ),
        ("changed places", "zip(word, word[1:])", "zip(word[1:], word)"),
        ("stands in none of the words", "counts[pair]", "counts[pair[0], pair[0] + pair[1]]"),
        (
            "A pair of the words is missing",
            "    return counts",
            "    return {p: n for p, n in counts.items() if p[0] != p[1]}",
        ),
        ("Expected a dict, got a list", "    return counts", "    return counts.most_common()"),
        (
            "met for the first time",
            """def count_pairs(words):
    counts = {}
    for word, count in words.items():
        for pair in zip(word, word[1:]):
            counts[pair] += count
    return counts
""",
        ),
        ("pair are str", "counts[pair]", "counts[pair[0].decode(), pair[1].decode()]"),
        ("occur seldom", "return counts", "return {p: n for p, n in counts.items() if n > 1}"),
        ("occur seldom", "return counts", "return {p: n for p, n in counts.items() if n > 2}"),
        ("first pair of each word", "zip(word, word[1:])", "list(zip(word, word[1:]))[1:]"),
    ],
    "1.4": [
        (
            "right to left",
            "def merge_pair(tokens, pair):\n    tokens = list(tokens)\n    i = len(tokens) - 2\n"
            "    while i >= 0:\n"
            "        if (tokens[i], tokens[i + 1]) == pair:\n"
            "            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]\n"
            "            i -= 1\n        i -= 1\n    return tokens",
        ),
        ("used twice", "place += 2", "place += 1"),
        (
            "first occurrence",
            "def merge_pair(tokens, pair):\n    for i in range(len(tokens) - 1):\n"
            "        if (tokens[i], tokens[i + 1]) == pair:\n"
            "            return tokens[:i] + [pair[0] + pair[1]] + tokens[i + 2 :]\n    return list(tokens)",
        ),
        (
            "compares the bytes",
            "tuple(tokens[place : place + 2]) == pair",
            'len(tokens[place : place + 2]) == 2 and b"".join(tokens[place : place + 2]) == pair[0] '
            "+ pair[1]",
        ),
        (
            "order of the two tokens does not matter",
            "tuple(tokens[place : place + 2]) == pair",
            "set(tokens[place : place + 2]) == set(pair) and sorted(tokens[place : place + 2]) == "
            "sorted(pair)",
        ),
        (
            "left token only",
            "tuple(tokens[place : place + 2]) == pair",
            "place + 1 < len(tokens) and tokens[place] == pair[0]",
        ),
        ("last token is lost", "while place < len(tokens):", "while place + 1 < len(tokens):"),
        ("as a tuple", "merged.append(pair[0] + pair[1])", "merged.append(pair)"),
        ("result is a tuple", "return merged", "return tuple(merged)"),
        ("all the bytes in one", "return merged", 'return b"".join(merged)'),
        (
            "changes its arguments",
            "def merge_pair(tokens, pair):\n    i = 0\n    while i < len(tokens) - 1:\n"
            "        if (tokens[i], tokens[i + 1]) == pair:\n"
            "            tokens[i] = tokens[i] + tokens.pop(i + 1)\n        i += 1\n    return tokens",
        ),
        ("not come to an end", "            place += 1", "            place += 0"),
        ("Bytes are lost or added", "merged.append(pair[0] + pair[1])", "merged.append(pair[0])"),
        (
            "still stands somewhere",
            "def merge_pair(tokens, pair):\n    tokens = list(tokens)\n    for _ in range(2):\n"
            "        for i in range(len(tokens) - 1):\n"
            "            if (tokens[i], tokens[i + 1]) == pair:\n"
            "                tokens[i : i + 2] = [pair[0] + pair[1]]\n"
            "                break\n    return tokens",
        ),
        (
            "behind the last token",
            """def merge_pair(tokens, pair):
    out = []
    i = 0
    while i < len(tokens):
        if tokens[i] == pair[0] and tokens[i + 1] == pair[1]:
            out.append(pair[0] + pair[1])
            i += 2
        else:
            out.append(tokens[i])
            i += 1
    return out
""",
        ),
        (
            "where it ended before",
            """def merge_pair(tokens, pair):
    for i in range(len(tokens) - 1):
        if (tokens[i], tokens[i + 1]) == pair:
            tokens = tokens[:i] + [pair[0] + pair[1]] + tokens[i + 2 :]
    return tokens
""",
        ),
        (
            "last token is lost",
            """def merge_pair(tokens, pair):
    out = []
    for i in range(len(tokens) - 1):
        out.append(pair[0] + pair[1] if (tokens[i], tokens[i + 1]) == pair else tokens[i])
    return out
""",
        ),
        (
            "Bytes are lost or added",
            """def merge_pair(tokens, pair):
    row = b" ".join(tokens).replace(b" ".join(pair), b"".join(pair))
    return row.split(b" ") if row else []
""",
        ),
        (
            "the very list",
            """def merge_pair(tokens, pair):
    if pair not in list(zip(tokens, tokens[1:])): return tokens
    out = []
    for t in tokens:
        if out and (out[-1], t) == pair: out[-1] += t
        else: out.append(t)
    return out
""",
        ),
        (
            "the very list",
            "    merged, place",
            "    if not tokens:\n        return tokens\n    merged, place",
        ),
        (
            "halves have changed places",
            "merged.append(pair[0] + pair[1])",
            "merged.append(pair[1] + pair[0])",
        ),
        (
            "What a token ends with",
            """def merge_pair(tokens, pair):
    out = []
    for t in tokens:
        if out and out[-1].endswith(pair[0]) and t == pair[1]: out[-1] += t
        else: out.append(t)
    return out
""",
        ),
        ("Nothing is merged", "def merge_pair(tokens, pair):\n    return tokens"),
    ],
    "1.5": [
        ("counted first", "key=lambda pair: (counts[pair], pair)", "key=lambda pair: counts[pair]"),
        (
            "sorts first",
            "max(choice, key=lambda pair: (counts[pair], pair))",
            "min(choice, key=lambda pair: (-counts[pair], pair))",
        ),
        ("bytes of the joined token", "(counts[pair], pair))", '(counts[pair], b"".join(pair)))'),
        ("counts should decide", "max(choice, key=lambda pair: (counts[pair], pair))", "max(choice)"),
        ("rarest pair", "max(choice, key", "min(choice, key"),
        (
            "Each word counts once",
            """def learn_merges(word_counts, n_merges):
    words = [[bytes([b]) for b in word] for word in word_counts]
    merges = []
    for _ in range(n_merges):
        counts = Counter(pair for word in words for pair in zip(word, word[1:]))
        if not counts:
            raise ValueError("no pair")
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [best[0] + best[1]]
                i += 1
    return merges
""",
        ),
        (
            "fewer merges",
            'raise ValueError(f"no pair is left after {len(merges)} merges of {n_merges}")',
            "break",
        ),
        ("error of another kind", "raise ValueError(", "raise IndexError("),
        ("occurs once is not merged", "if count]", "if count > 1]"),
        (
            "first occurrence of the pair in each word",
            "tokens[place : place + 2] = [joined]",
            "tokens[place : place + 2] = [joined]\n                        break",
        ),
        ("returns the new tokens", "merges.append(best)", "merges.append(best[0] + best[1])"),
        ("one merge more", "while len(merges) < n_merges:", "while len(merges) <= n_merges:"),
        (
            "untouched bytes",
            """def learn_merges(word_counts, n_merges):
    counts = Counter()
    for word, count in word_counts.items():
        for i in range(len(word) - 1):
            counts[word[i : i + 1], word[i + 1 : i + 2]] += count
    best = sorted(counts.items(), key=lambda item: (item[1], item[0]), reverse=True)
    if len(best) < n_merges:
        raise ValueError("too few")
    return [pair for pair, _ in best[:n_merges]]
""",
        ),
        (
            "cross from one word",
            """def learn_merges(word_counts, n_merges):
    row = [bytes([b]) for word, count in word_counts.items() for b in word * count]
    merges = []
    while len(merges) < n_merges:
        counts = Counter(zip(row, row[1:]))
        if not counts:
            raise ValueError("no pair")
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        merged = []
        for token in row:
            if merged and (merged[-1], token) == best:
                merged[-1] += token
            else:
                merged.append(token)
        row = merged
    return merges
""",
        ),
        (
            "Overlapping pairs count once",
            """def learn_merges(word_counts, n_merges):
    words = [([bytes([b]) for b in word], count) for word, count in word_counts.items()]
    merges = []
    while len(merges) < n_merges:
        counts = Counter()
        for word, count in words:
            before = None
            for pair in zip(word, word[1:]):
                if pair == before:
                    before = None
                    continue
                counts[pair] += count
                before = pair
        best = max(counts, key=lambda p: (counts[p], p))
        merges.append(best)
        for word, _ in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [best[0] + best[1]]
                i += 1
    return merges
""",
        ),
        ("given as numbers", "[bytes([byte]) for byte in word]", "list(word)"),
        (
            "right to left",
            "for place in range(len(tokens) - 1):",
            "for place in reversed(range(len(tokens) - 1)):",
        ),
        (
            "breaks up stay",
            "                for pair in zip(tokens, tokens[1:]):\n"
            "                    counts[pair] -= word_counts[word]\n",
            "",
        ),
        (
            "most frequent pair of the untouched words",
            "merges.append(best)",
            "merges.append(best[::-1])",
        ),
        (
            "a later one is not",
            "counts[pair] += word_counts[word]\n    return merges",
            "counts[pair] += 1\n    return merges",
        ),
        (
            "not come to an end",
            "for place in range(len(tokens) - 1):",
            "place = 0\n                while place < len(tokens) - 1:",
        ),
        (
            "changes its arguments",
            "counts[pair] += word_counts[word]\n    merges",
            "counts[pair] += word_counts[word]\n    word_counts[b''] = 0\n    words[b''] = []\n    merges",
        ),
        (
            "last token of a word is lost",
            """def learn_merges(word_counts, n_merges):
    words = {tuple(bytes([b]) for b in word): count for word, count in word_counts.items()}
    merges = []
    for _ in range(n_merges):
        counts = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                counts[pair] += count
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        new = Counter()
        for word, count in words.items():
            merged = []
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    merged.append(word[i] + word[i + 1])
                    i += 2
                else:
                    merged.append(word[i])
                    i += 1
            new[tuple(merged)] += count
        words = new
    return merges
""",
        ),
        (
            "Tokens are str",
            """def learn_merges(word_counts, n_merges):
    words = {tuple(word.decode()): count for word, count in word_counts.items()}
    counts = Counter()
    for word, count in words.items():
        for pair in zip(word, word[1:]):
            counts[pair] += count
    if n_merges > len(counts):
        raise ValueError("too few")
    return [pair for pair, _ in counts.most_common(n_merges)]
""",
        ),
        (
            "begins with characters",
            VARIANTS["1.5"].replace("bytes([byte]) for byte in word)", "c.encode() for c in word.decode())"),
        ),
        (
            "space is taken for a border",
            """def learn_merges(word_counts, n_merges):
    text = b" ".join(w for w, n in word_counts.items() for _ in range(n))
    t = [bytes([b]) for b in text]
    merges = []
    for _ in range(n_merges):
        counts = Counter(p for p in zip(t, t[1:]) if b" " not in p)
        if not counts: raise ValueError
        best = max(counts, key=lambda p: (counts[p], p))
        merges.append(best)
        m = []
        for x in t:
            if m and (m[-1], x) == best: m[-1] += x
            else: m.append(x)
        t = m
    return merges
""",
        ),
        ("A merge is a list", "merges.append(best)", "merges.append(list(best))"),
        (
            "counted last",
            VARIANTS["1.5"].replace(
                "_, best = sorted((count, pair) for pair, count in counts.items())[-1]",
                "best = max(reversed(counts), key=counts.get)",
            ),
        ),
        (
            "cross from one word",
            VARIANTS["1.5"]
            .replace(
                "for word, count in words.items():\n            for pair", "if words:\n            for pair"
            )
            .replace(
                "zip(word, word[1:])", "zip(row := [t for w, n in words.items() for t in w * n], row[1:])"
            )
            .replace("(pair, 0) + count", "(pair, 0) + 1"),
        ),
        (
            "used twice",
            VARIANTS["1.5"].replace(
                "merged[-1] += token", "merged[-1] += token\n                    merged.append(token)"
            ),
        ),
        ("fallen to 0", "counts.items() if count]", "counts.items()]"),
    ],
    "1.6": [
        (
            "from left to right",
            "def merge_by_rank(word, ranks):\n    parts = []\n    for byte in word:\n"
            "        parts.append(bytes([byte]))\n"
            "        while len(parts) > 1 and (parts[-2], parts[-1]) in ranks:\n"
            "            last = parts.pop()\n            parts[-1] += last\n    return parts",
        ),
        ("from left to right", "min(known, key=ranks.get)", "known[0]"),
        ("highest rank", "min(known, key=ranks.get)", "max(known, key=ranks.get)"),
        (
            "order of the dictionary",
            "def merge_by_rank(word, ranks):\n    tokens = [bytes([b]) for b in word]\n"
            "    for pair in ranks:\n        i = 0\n"
            "        while i < len(tokens) - 1:\n            if (tokens[i], tokens[i + 1]) == pair:\n"
            "                tokens[i : i + 2] = [pair[0] + pair[1]]\n            i += 1\n    return tokens",
        ),
        (
            "longest token that fits",
            "def merge_by_rank(word, ranks):\n"
            "    vocabulary = {a + b for a, b in ranks} | {bytes([b]) for b in word}\n    tokens = []\n"
            "    start = 0\n    while start < len(word):\n        end = len(word)\n"
            "        while word[start:end] not in vocabulary:\n"
            "            end -= 1\n        tokens.append(word[start:end])\n        start = end\n"
            "    return tokens",
        ),
        ("rank 0", "if pair in ranks]", "if ranks.get(pair)]"),
        (
            "stops after one merge",
            "            place += 1\n",
            "            place += 1\n        return tokens\n",
        ),
        (
            "from the right",
            "place = 0\n        while place < len(tokens) - 1:",
            "for place in reversed(range(len(tokens) - 1)):",
        ),
        ("returns a tuple", "return tokens", "return tuple(tokens)"),
        ("one byte comes as a number", "return tokens", "return [t if len(t) > 1 else t[0] for t in tokens]"),
        ("Nothing is merged", "if not known:", "if not known or len(known) < 99:"),
        (
            "not come to an end",
            "                tokens[place : place + 2] = [best[0] + best[1]]",
            "                tokens[place : place + 2] = list(best)",
        ),
        ("Two neighbours still have a rank", "if not known:", "if len(known) < 2:"),
        ("Bytes are lost or added", "[best[0] + best[1]]", "[best[0]]"),
        (
            "no merge makes",
            "return tokens",
            "return tokens if len(tokens) < 3 else [*tokens[:-2], tokens[-2] + tokens[-1]]",
        ),
        (
            "no pair has a rank any more",
            """def merge_by_rank(word, ranks):
    parts = [bytes([b]) for b in word]
    while len(parts) > 1:
        i = min(range(len(parts) - 1), key=lambda i: ranks.get((parts[i], parts[i + 1]), float("inf")))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts
""",
        ),
        (
            "tokens should be bytes, also",
            """def merge_by_rank(word, ranks):
    return list(word.decode())
""",
        ),
        (
            "finds in one round",
            """def merge_by_rank(word, ranks):
    t = [bytes([b]) for b in word]
    while True:
        known = [p for p in zip(t, t[1:]) if p in ranks]
        if not known: return t
        for best in sorted(known, key=ranks.get):
            out = []
            for x in t:
                if out and (out[-1], x) == best: out[-1] += x
                else: out.append(x)
            t = out
""",
        ),
        (
            "begins with characters",
            "[bytes([byte]) for byte in word]",
            "[c.encode() for c in word.decode('utf-8', 'replace')]",
        ),
        (
            "number that stands for none",
            """def merge_by_rank(word, ranks):
    t = [bytes([b]) for b in word]
    while True:
        best = min(zip(t, t[1:]), key=lambda p: ranks.get(p, 99), default=None)
        if best not in ranks: return t
        m = []
        for x in t:
            if m and (m[-1], x) == best: m[-1] += x
            else: m.append(x)
        t = m
""",
        ),
        ("number that stands for none", "if pair in ranks]", "if ranks.get(pair, 1000) < 1000]"),
        ("number that stands for none", "if pair in ranks]", "if ranks.get(pair, len(ranks)) < len(ranks)]"),
        ("order of their spelling", "min(known, key=ranks.get)", "min(known)"),
        ("put in as a tuple", "[best[0] + best[1]]", "[best]"),
        (
            "There is an empty token",
            "    tokens = [bytes",
            "    if len(word) < 2:\n        return [word]\n    tokens = [bytes",
        ),
    ],
    "1.7": [
        (
            "an error of another kind",
            "    unknown = [index for index in ids if index not in vocab]",
            "    unknown = []",
        ),
        (
            "is left out",
            '        raise ValueError(f"{unknown[0]} is not an id of the vocabulary")',
            "        ids = [index for index in ids if index in vocab]",
        ),
        (
            "becomes a sign",
            "def decode_bytes(ids, vocab):\n"
            "    return b''.join(vocab.get(i, '\\ufffd'.encode()) for i in ids)",
        ),
        (
            "gives a str",
            "vocab[index] for index in ids)",
            'vocab[index] for index in ids).decode("utf-8", errors="replace")',
        ),
        (
            "does not survive",
            'return b"".join(vocab[index] for index in ids)',
            'return "".join(vocab[index].decode("utf-8", "replace") for index in ids).encode("utf-8")',
        ),
        ("list of tokens", 'b"".join(vocab[index] for index in ids)', "[vocab[index] for index in ids]"),
        (
            "ids themselves",
            "def decode_bytes(ids, vocab):\n    if not set(ids) <= set(vocab):\n"
            "        raise ValueError\n    return bytes(ids)",
        ),
        (
            "a place in the list",
            "def decode_bytes(ids, vocab):\n    tokens = list(vocab.values())\n    result = b''\n"
            "    for i in ids:\n"
            "        if not 0 <= i < len(tokens):\n            raise ValueError('no such id')\n"
            "        result += tokens[i]\n    return result",
        ),
        ("something between", 'b"".join', 'b" ".join'),
        ("reverse order", "    return", "    ids = list(reversed(ids))\n    return"),
        ("too short", "for index in ids)", "for index in dict.fromkeys(ids))"),
        (
            "too long",
            'b"".join(vocab[index] for index in ids)',
            'b"".join(vocab[index] for index in ids) + b"\\n"',
        ),
        ("None", "    return b", "    b"),
        (
            "returned as if",
            """def decode_bytes(ids, vocab):
    result = b""
    for i in ids:
        if i not in vocab:
            return ValueError(f"unknown id {i}")
        result += vocab[i]
    return result
""",
        ),
        (
            "an error of another kind",
            """def decode_bytes(ids, vocab):
    assert all(i in vocab for i in ids), "unknown id"
    return b"".join(vocab[i] for i in ids)
""",
        ),
    ],
    "1.8": [
        (
            "decoded by itself",
            "def whole_characters(chunks):\n    return [c.decode(errors='replace') for c in chunks] + ['']",
        ),
        (
            "thrown away",
            "def whole_characters(chunks):\n    return [c.decode(errors='ignore') for c in chunks] + ['']",
        ),
        (
            "stops it with an error",
            "def whole_characters(chunks):\n    return [c.decode() for c in chunks] + ['']",
        ),
        (
            "waits until every byte",
            """def whole_characters(chunks):
    texts, held = [], b""
    for chunk in chunks:
        held += chunk
        try:
            text = held.decode("utf-8")
        except UnicodeDecodeError:
            text = ""
        else:
            held = b""
        texts.append(text)
    return texts + [held.decode("utf-8", errors="replace")]
""",
        ),
        (
            "One wrong byte holds up",
            """def whole_characters(chunks):
    texts, held = [], b""
    for chunk in chunks:
        held += chunk
        try:
            text, held = held.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            text, held = held[: error.start].decode("utf-8"), held[error.start :]
        texts.append(text)
    return texts + [held.decode("utf-8", errors="replace")]
""",
        ),
        (
            "Everything comes at the end",
            "def whole_characters(chunks):\n"
            "    return [''] * len(chunks) + [b''.join(chunks).decode(errors='replace')]",
        ),
        ("is lost", 'return [*texts, held.decode("utf-8", errors="replace")]', 'return [*texts, ""]'),
        (
            "after the last chunk is missing",
            'return [*texts, held.decode("utf-8", errors="replace")]',
            "return texts",
        ),
        ("Empty texts", "return [*texts, held", "return [*filter(None, texts), held"),
        (
            "single characters",
            'return [*texts, held.decode("utf-8", errors="replace")]',
            'return list("".join(texts) + held.decode("utf-8", "replace"))',
        ),
        (
            "all texts so far",
            "held = held[whole:]",
            "texts[-1] = (texts[-2] if len(texts) > 1 else '') + texts[-1]\n        held = held[whole:]",
        ),
        ("fourth byte of a character", "for back in (1, 2, 3):", "for back in (1, 2):"),
        (
            "what the bytes decode to",
            'texts.append(held[:whole].decode("utf-8", errors="replace"))',
            'texts.append(held[:whole].decode("utf-8", errors="replace").strip())',
        ),
        ("too early or too late", "length > back", "length >= back"),
        (
            "single characters",
            'texts.append(held[:whole].decode("utf-8", errors="replace"))',
            'texts += held[:whole].decode("utf-8", errors="replace")',
        ),
        (
            "An empty chunk is passed over",
            "    for chunk in chunks:\n",
            "    for chunk in chunks:\n        if not chunk:\n            continue\n",
        ),
        (
            "Expected a list, got a string",
            'return [*texts, held.decode("utf-8", errors="replace")]',
            'return "".join(texts) + held.decode("utf-8", errors="replace")',
        ),
        (
            "waits until every byte",
            """def whole_characters(chunks):
    out, held = [], b""
    for chunk in chunks:
        held += chunk
        text = held.decode("utf-8", "replace")
        if text.endswith("\\ufffd"):
            out.append("")
        else:
            out.append(text)
            held = b""
    return out + [held.decode("utf-8", "replace")]
""",
        ),
        (
            "One wrong byte holds up",
            """def whole_characters(chunks):
    out, held = [], b""
    for chunk in chunks:
        text = ""
        for byte in chunk:
            held += bytes([byte])
            try:
                text += held.decode()
                held = b""
            except UnicodeDecodeError:
                pass
        out.append(text)
    return out + [held.decode("utf-8", "replace")]
""",
        ),
        ("ends the waiting", "if not 0x80 <= first <= 0xBF:", "if length > back:"),
        (
            "ends the waiting",
            """def whole_characters(chunks):
    out = []; cur = b""; need = 0
    for c in chunks:
        s = ""
        for i in range(len(c)):
            b = c[i]
            if need:
                cur += c[i:i+1]; need -= 1
            else:
                cur = c[i:i+1]
                need = 3 if b >= 0xF0 else 2 if b >= 0xE0 else 1 if b >= 0xC2 else 0
            if need == 0:
                s += cur.decode("utf-8", "replace"); cur = b""
        out.append(s)
    return out + [cur.decode("utf-8", "replace")]
""",
        ),
        (
            "held[:-0]",
            """def whole_characters(chunks):
    out = []; held = b""
    for c in chunks:
        held += c
        wait = 0
        for back in (1,2,3):
            if back > len(held): break
            b = held[-back]
            if b >= 0xC0:
                n = 2 if b < 0xE0 else 3 if b < 0xF0 else 4
                if n > back: wait = back
                break
        out.append(held[:-wait].decode("utf-8", "replace"))
        held = held[-wait:]
    return out + [held.decode("utf-8", "replace")]
""",
        ),
        ("lost when the next chunk comes", "held += chunk", "held = chunk"),
        ("behind the next chunk", "held += chunk", "held = chunk + held"),
        ("fourth byte of a character", "4 if first >= 0xF0 else 3", "3"),
        ("characters of four bytes", "4 if first >= 0xF0 else 3 if", "1 if first >= 0xF0 else 3 if"),
        ("walk back far enough", "(1, 2, 3)", "(1,)"),
        (
            "Every byte that is held",
            'return [*texts, held.decode("utf-8", errors="replace")]',
            "return [*texts, '\\ufffd' * len(held)]",
        ),
        ("wrong row", "4 if first >= 0xF0", "4 if 0xF0 <= first < 0xF4"),
        ("wrong row", "4 if first >= 0xF0", "4 if first == 0xF0"),
        ("wrong row", "4 if first >= 0xF0", "4 if first > 0xF0"),
        ("wrong row", "3 if first >= 0xE0", "3 if 0xE0 <= first <= 0xEE"),
        ("wrong row", "3 if first >= 0xE0", "3 if first > 0xE0"),
        ("wrong row", "2 if first >= 0xC2", "2 if 0xC2 <= first <= 0xDE"),
        ("wrong row", "2 if first >= 0xC2", "2 if first >= 0xC3"),
        (
            "left out; it should be U+FFFD",
            'texts.append(held[:whole].decode("utf-8", errors="replace"))',
            'texts.append(held[:whole].decode("utf-8", errors="ignore"))',
        ),
        (
            "other half comes",
            'texts.append(held[:whole].decode("utf-8", errors="replace"))',
            'texts.append(held[: whole or 1].decode("utf-8", errors="replace"))',
        ),
    ],
    "1.9": [
        ("escape the tokens", "regex.escape(token) for", "token for"),
        ("first of tokens", "sorted(tokens, key=len, reverse=True)", "tokens"),
        ("shortest", "key=len, reverse=True", "key=len"),
        (
            "all places of one token",
            """def split_special(text, tokens):
    parts = [text]
    for token in tokens:
        new = []
        for part in parts:
            if part in tokens:
                new.append(part)
                continue
            pieces = part.split(token)
            for number, piece in enumerate(pieces):
                if number:
                    new.append(token)
                new.append(piece)
        parts = new
    return [part for part in parts if part]
""",
        ),
        ("special tokens are lost", 'f"({pattern})"', "pattern"),
        ("Empty parts are in", " if part]", "]"),
        ("Only the special tokens", 'regex.split(f"({pattern})", text)', "regex.findall(pattern, text)"),
        ("no further", 'f"({pattern})", text)', 'f"({pattern})", text, maxsplit=1)'),
        ("neighbours come as one part", 'f"({pattern})"', 'f"((?:{pattern})+)"'),
        ("Every character", 'f"({pattern})", text)', 'f"({pattern}|.)", text, flags=regex.DOTALL)'),
        (
            "White space",
            '[part for part in regex.split(f"({pattern})", text) if part]',
            '[p.strip() for p in regex.split(f"({pattern})", text) if p.strip()]',
        ),
        ("Without special tokens", "return [text] if text else []", "return list(text)"),
        ("Without special tokens", "    if not tokens:\n        return [text] if text else []\n", ""),
        ("Text is lost or added", 'f"({pattern})", text)', 'f"({pattern})", text.lower())'),
        (
            "still in a longer part",
            '[part for part in regex.split(f"({pattern})", text) if part]',
            '[p for p in regex.split(f"(?<!a)({pattern})", text) if p]',
        ),
        (
            "cut again",
            """def split_special(text, tokens):
    parts = [text]
    for token in sorted(tokens, key=len, reverse=True):
        new = []
        for part in parts:
            for i, piece in enumerate(part.split(token)):
                if i:
                    new.append(token)
                new.append(piece)
        parts = new
    return [part for part in parts if part]
""",
        ),
        ("Empty parts are in", "[text] if text else []", "[text]"),
        ("Capital and small", 'regex.split(f"({pattern})", text)', 'regex.split(f"(?i)({pattern})", text)'),
        ("white space alone", "if part]", "if part.strip()]"),
        (
            "square brackets",
            'regex.split(f"({pattern})", text)',
            'regex.split("([" + regex.escape("".join(tokens)) + "])", text)',
        ),
    ],
    "1.10": [
        ("counts characters; count bytes", 'text.encode("utf-8")', "text"),
        ("upside down", "n_bytes / n_tokens", "n_tokens / n_bytes"),
        (
            "mean of the ratios",
            "def bytes_per_token(texts, ids):\n"
            "    ratios = [len(t.encode()) / len(i) for t, i in zip(texts, ids) if i]\n"
            "    return sum(ratios) / len(ratios)",
        ),
        (
            "mean of the ratios",
            "def bytes_per_token(texts, ids):\n"
            "    return sum(len(t.encode()) / len(i) for t, i in zip(texts, ids)) / len(texts)",
        ),
        (
            "fertility",
            "return n_bytes / n_tokens",
            "n_words = sum(len(text.split()) for text in texts)\n    return n_tokens / n_words",
        ),
        ("number of texts", "sum(len(each) for each in ids)", "len(ids)"),
        ("different ids", "sum(len(each) for each in ids)", "len({token for each in ids for token in each})"),
        ("without a remainder", "n_bytes / n_tokens", "n_bytes // n_tokens"),
        ("rounded", "n_bytes / n_tokens", "round(n_bytes / n_tokens, 2)"),
        (
            "Only the first text",
            "def bytes_per_token(texts, ids):\n    for text, each in zip(texts, ids):\n"
            "        return len(text.encode()) / len(each)",
        ),
        ("stops with an error", "sum(len(each) for each in ids)", "sum(ids)"),
        ("The result is too large", 'text.encode("utf-8")', 'text.encode("utf-16-le")'),
        (
            "adds up the ids",
            """def bytes_per_token(texts, ids):
    return sum(len(text.encode()) for text in texts) / sum(token for each in ids for token in each)
""",
        ),
        (
            "joined with something",
            """def bytes_per_token(texts, ids):
    return len(" ".join(texts).encode()) / sum(map(len, ids))
""",
        ),
        ("counts as one token", "sum(len(each) for each in ids)", "sum(max(1, len(each)) for each in ids)"),
        (
            "Only the last text",
            """def bytes_per_token(texts, ids):
    for t, i in zip(texts, ids):
        b = len(t.encode()); n = len(i)
    return b / n
""",
        ),
    ],
    "1.11": [
        (
            "as it stands in the text",
            "import unicodedata\n\n\ndef count_words(texts, pattern):\n"
            "    return Counter(unicodedata.normalize('NFC', w).encode() for t in texts\n"
            "                   for w in regex.findall(pattern, t))",
        ),
        (
            "as it stands in the text",
            "def count_words(texts, pattern):\n    words = Counter()\n    for text in texts:\n"
            "        text = text.replace('\\r\\n', '\\n')\n"
            "        words.update(w.encode() for w in regex.findall(pattern, text))\n"
            "    return words",
        ),
        ("cut at white space", "regex.findall(pattern, text)", "text.split()"),
        ("It counts characters", "regex.findall(pattern, text)", "text"),
        ("grows together", "for text in texts:", 'for text in ["".join(texts)]:'),
        (
            "something between them",
            """def count_words(texts, pattern):
    text = "\\n".join(texts)
    return Counter(word.encode() for word in regex.findall(pattern, text))
""",
        ),
        ("keeps its leading space", 'word.encode("utf-8")', 'word.strip().encode("utf-8")'),
        ("keeps its leading space", 'word.encode("utf-8")', 'word.lstrip().encode("utf-8")'),
        (
            "white space alone are left out",
            "            counts[",
            "            if not word.isspace():\n                counts[",
        ),
        ("at the ends of a text", "(pattern, text)", "(pattern, text.strip())"),
        ("become small ones", 'word.encode("utf-8")', 'word.lower().encode("utf-8")'),
        ("are str", 'word.encode("utf-8")', "word"),
        (
            "should be one bytes object",
            'word.encode("utf-8")',
            'tuple(bytes([b]) for b in word.encode("utf-8"))',
        ),
        ("should be bytes.", 'word.encode("utf-8")', 'bytearray(word, "utf-8").hex()'),
        ("another way than in UTF-8", '"utf-8"', '"utf-16"'),
        (
            "twice in a text is counted once",
            "regex.findall(pattern, text)",
            "set(regex.findall(pattern, text))",
        ),
        ("count 1", "] += 1", "] = 1"),
        (
            "Expected a dict, got a set.",
            """def count_words(texts, pattern):
    return {word.encode() for text in texts for word in regex.findall(pattern, text)}
""",
        ),
        (
            "Expected a dict, got a list.",
            "    return counts",
            "    return counts.most_common()",
        ),
        (
            "replace those",
            """def count_words(texts, pattern):
    counts = {}
    for text in texts:
        counts.update(Counter(word.encode() for word in regex.findall(pattern, text)))
    return counts
""",
        ),
        (
            "takes the largest",
            """def count_words(texts, pattern):
    counts = Counter()
    for text in texts:
        counts |= Counter(word.encode() for word in regex.findall(pattern, text))
    return counts
""",
        ),
        ("Only the first text", "    return counts", "        return counts\n    return counts"),
        (
            "Only the last text",
            "    counts = Counter()\n    for text in texts:\n",
            "    counts = Counter()\n    for text in texts:\n        counts = Counter()\n",
        ),
        ("first word of each text", "regex.findall(pattern, text)", "regex.findall(pattern, text)[:1]"),
        ("regex.split leaves", "regex.findall", "regex.split"),
        ("than that in the argument", "findall(pattern, text)", "findall(gpt2_pattern, text)"),
        ("digits and underscores", "findall(pattern, text)", 'findall(r"\\w+", text)'),
        (
            "The module re",
            """import re


def count_words(texts, pattern):
    return Counter(word.encode() for text in texts for word in re.findall(pattern, text))
""",
        ),
        ("encoded before it is cut", "(pattern, text)", '(pattern, text.encode("utf-8"))'),
        (
            "cut as bytes",
            """def count_words(texts, pattern):
    return Counter(w for text in texts for w in regex.findall(pattern.encode(), text.encode()))
""",
        ),
        ("has no count yet", "counts = Counter()", "counts = {}"),
        (
            "one alone is needed",
            """def count_words(texts, pattern):
    return Counter(regex.findall(pattern, texts))
""",
        ),
        (
            "one alone is needed",
            """def count_words(texts, pattern):
    counts = Counter()
    for text in texts:
        counts.update(regex.findall(pattern, text).encode())
    return counts
""",
        ),
        (
            "their ends are lost",
            "for text in texts:",
            "for text in [line for t in texts for line in t.splitlines()]:",
        ),
        (
            "over the end of one",
            "for text in texts:",
            "for text in [line for t in texts for line in t.splitlines(True)]:",
        ),
        ("too large by 1", "] += 1", '] = counts.get(word.encode("utf-8"), 1) + 1'),
        (
            "too small by 1",
            """def count_words(texts, pattern):
    counts = {}
    for text in texts:
        for match in regex.finditer(pattern, text):
            word = match.group().encode()
            if word in counts:
                counts[word] += 1
            else:
                counts[word] = 0
    return counts
""",
        ),
        (
            "an empty word",
            """def count_words(texts, pattern):
    return Counter(word.encode() for text in texts for word in regex.split(f"({pattern})", text))
""",
        ),
        (
            "inside of another",
            """def count_words(texts, pattern):
    counts = Counter()
    for text in texts:
        for word in set(regex.findall(pattern, text)):
            counts[word.encode()] = text.count(word)
    return counts
""",
        ),
        (
            "inside of another",
            """def count_words(texts, pattern):
    words = {word for text in texts for word in regex.findall(pattern, text)}
    return {word.encode(): sum(text.count(word) for text in texts) for word in words}
""",
        ),
        (
            "from an earlier call",
            """counts = Counter()


def count_words(texts, pattern):
    for text in texts:
        for word in regex.findall(pattern, text):
            counts[word.encode()] += 1
    return counts
""",
        ),
        ("The pattern is a str;", "regex.findall(pattern, text)", "pattern.findall(text)"),
        ("not how often", "] += 1", "] += len(word)"),
        ("Bytes are lost or added", 'word.encode("utf-8")', 'word.replace(" ", "Ġ").encode("utf-8")'),
        ("No byte is lost", "findall(pattern, text)", "findall(pattern, text[::-1])"),
    ],
}
