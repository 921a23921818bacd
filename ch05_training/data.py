"""A text as batches: windows to train on, windows in order to measure on, and what counting reaches."""

# Written by `make export` from ch05_training.ipynb; change it there.

import functools
import hashlib
import math

import torch

__all__ = [
    "epoch_order",
    "TokenDataset",
    "baseline_losses",
]

# %% ch05_training.ipynb #d0cd6830
@functools.lru_cache(maxsize=4)  # the same epoch is asked for at every step
def epoch_order(n_windows, context_length, epoch, seed):
    """Where the windows of an epoch begin, and in which order they come: (offset, list of window numbers)."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    offset = torch.randint(context_length, (), generator=generator).item()
    return offset, torch.randperm(n_windows, generator=generator).tolist()

# %% ch05_training.ipynb #e1eb3e5a
class TokenDataset:
    """A stream of token ids as windows.

    token_ids: (N,) whole numbers of any integer type; n_bytes: the length of the text, for bits per byte.
    ValueError when they are floats, which would be cut down to ids, or fewer than two windows.
    """

    def __init__(self, token_ids, context_length, n_bytes=None, name="the text"):
        token_ids = torch.as_tensor(token_ids)
        if len(token_ids) < 2 * context_length:
            few = f"{len(token_ids)} tokens are too few for context_length={context_length}"
            raise ValueError(f"{few}; give at least {2 * context_length} or a shorter context")
        if token_ids.is_floating_point():
            raise ValueError(f"expected whole numbers as token_ids, got {token_ids.dtype}")
        self.token_ids = token_ids.long()
        self.context_length, self.n_bytes, self.name = context_length, n_bytes, name
        self.n_windows = (len(self.token_ids) - context_length) // context_length

    @classmethod
    def from_texts(cls, texts, tokenizer, context_length):
        """A list of texts, each between two <|endoftext|>, as one stream. ValueError for a single str."""
        if isinstance(texts, str):
            raise ValueError("expected a list of texts, got a str; write [text]")
        texts, ids = list(texts), [tokenizer.eot_token]
        for text in texts:
            ids += tokenizer.encode_ordinary(text)
            ids.append(tokenizer.eot_token)
        return cls(ids, context_length, n_bytes=sum(len(text.encode()) for text in texts))

    @functools.cached_property
    def fingerprint(self):
        """Which text this is: {"name", "tokens", "sha256"}, the last of the ids, in hexadecimal."""
        digest = hashlib.sha256(self.token_ids.numpy()).hexdigest()
        return {"name": self.name, "tokens": len(self.token_ids), "sha256": digest}

    def windows(self, first, count, seed=0):
        """Windows number first .. first + count - 1 of an endless shuffled order: two tensors (count, T)."""
        T, windows = self.context_length, []
        for index in range(first, first + count):
            epoch, place = divmod(index, self.n_windows)
            offset, order = epoch_order(self.n_windows, T, epoch, seed)
            start = offset + order[place] * T
            windows.append(self.token_ids[start : start + T + 1])
        windows = torch.stack(windows)  # (count, T + 1)
        return windows[:, :-1], windows[:, 1:]

    def batch(self, step, batch_size, seed=0):
        """Batch number `step`: inputs and targets, each (B, T). The same arguments give the same batch."""
        return self.windows(step * batch_size, batch_size, seed)

    def in_order(self, batch_size):
        """Every token but the first as a target exactly once.

        Yields inputs and targets (B, T), the last ones shorter.
        """
        T, N = self.context_length, len(self.token_ids) - 1
        whole = N // T
        inputs, targets = (self.token_ids[shift : shift + whole * T].view(whole, T) for shift in (0, 1))
        yield from zip(inputs.split(batch_size), targets.split(batch_size), strict=True)
        if N % T:
            yield self.token_ids[whole * T : -1].unsqueeze(0), self.token_ids[whole * T + 1 :].unsqueeze(0)

# %% ch05_training.ipynb #fe343b45
def baseline_losses(train_data, val_data, vocab_size):
    """What models that only count would reach on val_data: {name: nats a token}.

    "uniform"; "unigram", add-one counts; "bigram", mixed with the unigram by one virtual count (a Dirichlet
    prior, MacKay and Peto 1995). Both arguments are TokenDatasets.
    """
    V, seen, asked = vocab_size, train_data.token_ids, val_data.token_ids
    counts = torch.bincount(seen, minlength=V) + 1.0  # (V,)
    unigram = counts / counts.sum()
    pairs, n_pairs = torch.unique(seen[:-1] * V + seen[1:], return_counts=True)  # sorted, so can be searched
    wanted = asked[:-1] * V + asked[1:]  # (N - 1,)
    places = torch.searchsorted(pairs, wanted).clamp(max=len(pairs) - 1)
    n_wanted = n_pairs[places] * (pairs[places] == wanted)  # 0 for a pair never seen
    n_before = torch.bincount(seen[:-1], minlength=V)[asked[:-1]]
    bigram = (n_wanted + unigram[asked[1:]]) / (n_before + 1)
    return {
        "uniform": math.log(V),
        "unigram": -unigram[asked[1:]].log().mean().item(),
        "bigram": -bigram.log().mean().item(),
    }
