"""An idea that helps: each position gets a share of the vector of the token before it, too.

To find the token before it, a position must first learn to look there. Here it need not: the vector comes
along, each of its numbers times a weight that is learned. In RWKV this is called token shift.
"""

import torch
from torch import nn

from appendix.f_ablations.harness import Variant


class ShiftedEmbedding(nn.Module):
    """embedding(token_ids) plus a share of the same one position earlier: (B, T) -> (B, T, D)."""

    def __init__(self, embedding, d_model):
        super().__init__()
        self.embedding = embedding
        self.share = nn.Parameter(torch.full((d_model,), 0.5))

    @property
    def token(self):
        return self.embedding.token

    def forward(self, token_ids, positions=None):
        x = self.embedding(token_ids, positions)  # (B, T, D)
        before = nn.functional.pad(x[:, :-1], (0, 0, 1, 0))  # (B, T, D): zeros, then all but the last
        return x + self.share * before


def change(model):
    model.embedding = ShiftedEmbedding(model.embedding, model.config.d_model)


IDEA = Variant("share of the token before", change=change)
