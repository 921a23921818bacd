"""A text as batches: windows in random order to train on, all of them in order to measure on."""

# Written by `make export` from ch05_training.ipynb; change it there.

import functools
import hashlib

import numpy as np
import torch

__all__ = [
    "epoch_order",
    "TokenDataset",
]

# %% ch05_training.ipynb #ae562145
@functools.lru_cache(maxsize=4)  # the same epoch is asked for at every step
def epoch_order(n_tokens, context_length, epoch, seed):
    """Where the windows of an epoch begin, in the order in which they come."""
    N, T, generator = n_tokens, context_length, torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    n_windows = (N - T) // T  # as many as fit wherever the first begins
    offset = torch.randint(N - n_windows * T, (), generator=generator, device="cpu").item()
    order = torch.randperm(n_windows, generator=generator, device="cpu")
    return (offset + order * T).tolist()

# %% ch05_training.ipynb #c7cfee2e
class TokenDataset:
    """A stream of token ids, (N,) of any integer type, as windows of context_length.

    n_bytes: of the text, for bits per byte. ValueError for fewer tokens than two windows.
    """

    def __init__(self, token_ids, context_length, n_bytes=None, name="the text"):
        token_ids = np.asarray(token_ids)  # a list, a tensor, a file mapped into memory
        if len(token_ids) < 2 * context_length:
            few = f"{len(token_ids)} tokens are too few for context_length={context_length}"
            raise ValueError(f"{few}; give at least {2 * context_length} or a shorter context")
        self.token_ids = torch.from_numpy(token_ids.astype(np.int64, casting="same_kind"))  # no floats
        self.context_length, self.n_bytes, self.name = context_length, n_bytes, name
        self.n_windows = (len(token_ids) - context_length) // context_length  # in an epoch

    @classmethod
    def from_texts(cls, texts, tokenizer, context_length, name="the text"):
        """A list of texts as one stream, <|endoftext|> around each. ValueError for a single str."""
        if isinstance(texts, str):
            raise ValueError("expected a list of texts, got a str; write [text]")
        ids, n_bytes = [tokenizer.eot_token], 0
        for text in texts:
            ids += [*tokenizer.encode_ordinary(text), tokenizer.eot_token]
            n_bytes += len(text.encode())
        return cls(ids, context_length, n_bytes, name)

    @functools.cached_property
    def fingerprint(self):
        """Which text this is: its name, how many tokens, and a digest of the ids."""
        digest = hashlib.sha256(self.token_ids.numpy()).hexdigest()
        return {"name": self.name, "tokens": len(self.token_ids), "sha256": digest}

    def windows(self, first, count, seed=0):
        """Windows number first .. first + count - 1 of endless epochs: inputs and targets, (count, T)."""
        N, T, windows = len(self.token_ids), self.context_length, []
        for number in range(first, first + count):
            epoch, place = divmod(number, self.n_windows)
            start = epoch_order(N, T, epoch, seed)[place]
            windows.append(self.token_ids[start : start + T + 1])
        windows = torch.stack(windows)  # (count, T + 1)
        return windows[:, :-1], windows[:, 1:]

    def batch(self, step, batch_size, seed=0):
        """Batch number `step`: inputs and targets, each (B, T)."""
        return self.windows(step * batch_size, batch_size, seed)

    def in_order(self, batch_size):
        """Every token but the first as a target once: inputs and targets (B, T), the last shorter."""
        T, ids = self.context_length, self.token_ids
        whole = (len(ids) - 1) // T * T
        inputs, targets = (part.view(-1, T) for part in (ids[:whole], ids[1 : whole + 1]))  # (W, T)
        yield from zip(inputs.split(batch_size), targets.split(batch_size))
        if whole < len(ids) - 1:
            yield ids[whole:-1].unsqueeze(0), ids[whole + 1 :].unsqueeze(0)  # (1, less than T)
