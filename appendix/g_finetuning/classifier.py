"""A language model as a classifier: a head on the vector of the last real token."""

# Written by `make export` from g_lora.ipynb; change it there.

import math

import torch
from torch import nn

__all__ = [
    "pad_rows",
    "last_real",
    "final_vectors",
    "Classifier",
    "wilson",
]

# %% g_lora.ipynb #9381bf7c
def pad_rows(rows, pad_id=0):
    """Rows of ids -> token_ids (B, T), filled up on the right, and lengths (B,), both int64."""
    lengths = torch.tensor([len(row) for row in rows])
    if lengths.min() < 1:
        raise ValueError(f"row {lengths.argmin().item()} has no token; give each row one or more")
    T = lengths.max().item()
    return torch.tensor([[*row, *[pad_id] * (T - len(row))] for row in rows]), lengths


def last_real(vectors, lengths):
    """The vector of each row's last real token: vectors (B, T, D), lengths (B,) int64 -> (B, D)."""
    rows = torch.arange(len(vectors), device=vectors.device)
    return vectors[rows, lengths - 1]  # a pair of indices for each row

# %% g_lora.ipynb #705ac332
def final_vectors(model, token_ids):
    """What a GPT's output layer reads: token_ids (B, T) -> (B, T, D)."""
    x, cos_sin = model.embed(token_ids)
    for block in model.blocks:
        x = block(x, cos_sin=cos_sin)  # (B, T, D)
    return model.norm(x)


class Classifier(nn.Module):
    """Scores of the classes from the last real token's vector: (B, T) and lengths (B,) -> (B, n_classes).

    The head begins at zero: all classes alike. Radford et al. 2018, section 3.2.
    """

    def __init__(self, model, n_classes):
        super().__init__()
        self.model, self.head = model, nn.Linear(model.config.d_model, n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, token_ids, lengths):
        vectors = final_vectors(self.model, token_ids)  # (B, T, D)
        return self.head(last_real(vectors, lengths))  # (B, D) -> (B, n_classes)

# %% g_lora.ipynb #4525c089
def wilson(right, n, z=1.96):
    """The interval (low, high) of true accuracies for `right` of n. Wilson 1927.

    z = 1.96: 95 of 100 such intervals hold the truth.
    """
    share, room = right / n, z * z / n
    half = z * math.sqrt(share * (1 - share) / n + room / (4 * n))
    return (share + room / 2 - half) / (1 + room), (share + room / 2 + half) / (1 + room)
