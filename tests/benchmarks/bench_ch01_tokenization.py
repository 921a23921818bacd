"""Chapter 1: training and encoding, beside Hugging Face's tokenizers (compiled, two threads) and tiktoken."""

import time

from harness import compare
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ch01_tokenization.corpus import load_plays
from ch01_tokenization.merging import learn_merges, learn_merges_naively
from ch01_tokenization.splitting import count_words
from ch01_tokenization.tokenizer import BPETokenizer


def train_reference(texts, vocab_size):
    """Byte-level BPE of the library `tokenizers`, with GPT-2's split pattern."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def run(quick):
    texts = list(load_plays().values())[: 2 if quick else None]
    megabytes, vocab_size = sum(len(text.encode()) for text in texts) / 1e6, 1000 if quick else 10_000
    rounds = 1 if quick else 7

    compare(
        f"Training on {megabytes:.1f} MB to {vocab_size:,} tokens",
        {
            "ours": lambda: BPETokenizer.train(texts, vocab_size),
            "tokenizers": lambda: train_reference(texts, vocab_size),
        },
        reference="tokenizers",
        rounds=rounds,
        goals={"ours": 0.9},
    )

    trained, reference = BPETokenizer.train(texts, vocab_size), train_reference(texts, vocab_size)
    compiled = trained.to_tiktoken()

    def encode_ours():
        """With an empty cache, as in a new process."""
        fresh = BPETokenizer(trained.vocab, trained.merges, trained.special_tokens)
        return [fresh.encode(text) for text in texts]

    candidates = {
        "ours": encode_ours,
        "tokenizers": lambda: [reference.encode(text).ids for text in texts],
        "tokenizers, batch": lambda: [encoding.ids for encoding in reference.encode_batch(texts)],
        "tokenizers, batch_fast": lambda: [encoding.ids for encoding in reference.encode_batch_fast(texts)],
        "tiktoken": lambda: [compiled.encode(text) for text in texts],
    }
    title = f"Encoding {megabytes:.1f} MB"
    compare(title, candidates, "tokenizers", rounds, goals={"ours": 0.5}, work=megabytes, unit="MB")
    faster = ("ours", "tiktoken")
    compare(title, {name: candidates[name] for name in faster}, "tiktoken", rounds, goals={"ours": 4.0})

    growth(texts, quick)


def growth(texts, quick):
    """Seconds against the number of merges, plain and fast; and against the size of the corpus."""
    print("\nThe plain trainer and the fast one, on one play: seconds")
    words = count_words(texts[:1])
    for n_merges in (25, 50) if quick else (50, 100, 200, 400):
        plain, fast = seconds(learn_merges_naively, words, n_merges), seconds(learn_merges, words, n_merges)
        print(
            f"  {n_merges:6} merges  plain {plain:8.3f}  fast {fast:8.3f}  plain / fast {plain / fast:6.1f}"
        )
    print("\nTraining against the size of the corpus, to the same number of tokens")
    for share in (1, 2) if quick else (1, 2, 4, 8):
        part = texts[: len(texts) * share // (2 if quick else 8)]
        megabytes = sum(len(text.encode()) for text in part) / 1e6
        took = min(seconds(BPETokenizer.train, part, 1000 if quick else 5000) for _ in range(3))
        print(f"  {megabytes:6.2f} MB  {took:7.3f} s  {took / megabytes:6.3f} s/MB")


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start
