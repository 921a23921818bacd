"""An idea that helps: a table of pairs beside the model, whose row for a token is added to the logits.

What often follows a token is then learned by that row alone, at once, and the model is left with the rest.
The table begins with zeros, so that the first guesses are the model's own.
"""

from torch import nn

from appendix.f_ablations.harness import Variant


class WithPairs(nn.Module):
    """A GPT and a table of pairs: token_ids (B, T) -> logits (B, T, V)."""

    def __init__(self, model):
        super().__init__()
        self.model, V = model, model.config.vocab_size
        self.pairs = nn.Embedding(V, V)
        nn.init.zeros_(self.pairs.weight)

    def forward(self, token_ids):
        return self.model(token_ids) + self.pairs(token_ids)  # (B, T, V)


IDEA = Variant("table of pairs", change=WithPairs)
