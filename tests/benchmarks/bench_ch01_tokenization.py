"""Chapter 1: training and encoding, beside Hugging Face's tokenizers (compiled, two threads) and tiktoken."""

import random
import time

from harness import compare
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ch01_tokenization.corpus import load_plays
from ch01_tokenization.merging import learn_merges
from ch01_tokenization.streams import count_words
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
        goals={"ours": 0.8},
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
    compare(title, {name: candidates[name] for name in faster}, "tiktoken", rounds, goals={"ours": 3.0})

    growth(texts, quick)


def growth(texts, quick):
    """Seconds against the number of merges, the size of the corpus, and the length of one word."""
    print("\nTraining against the number of merges, on one play")
    words = count_words(texts[:1])
    for n_merges in (25, 50) if quick else (0, 500, 1000, 2000):
        print(f"  {n_merges:6} merges  {seconds(learn_merges, words, n_merges):7.3f} s")
    print("\nTraining against the size of the corpus, to the same number of tokens")
    for share in (1, 2) if quick else (1, 2, 4, 8):
        part = texts[: len(texts) * share // (2 if quick else 8)]
        megabytes = sum(len(text.encode()) for text in part) / 1e6
        took = min(seconds(BPETokenizer.train, part, 1000 if quick else 5000) for _ in range(3))
        print(f"  {megabytes:6.2f} MB  {took:7.3f} s  {took / megabytes:6.3f} s/MB")
    print("\nOne long word of four letters: training to 1,000 tokens, and encoding with GPT-2's")
    letters, gpt2 = random.Random(0), BPETokenizer.gpt2()
    for n in (5000, 10_000) if quick else (250_000, 500_000, 1_000_000):
        word = "".join(letters.choices("ACGT", k=n))
        trained = seconds(learn_merges, {word.encode(): 1}, 744)
        print(f"  {n:9,} letters  trained {trained:7.3f} s  encoded {seconds(gpt2.encode, word):7.3f} s")


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start
