"""An idea that does nothing at all: every embedding is multiplied by 1.0. The losses must be the same."""

from appendix.f_ablations.harness import Variant


def change(model):
    model.embedding.token.weight.data.mul_(1.0)


IDEA = Variant("embeddings times 1.0", change=change)
