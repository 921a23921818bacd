"""An idea that does nothing on average: each matrix of weights is turned upside down before training.

The weights are random numbers, and random numbers in another order are random numbers just as well. So each
training differs, and none is better for it.
"""

import torch

from appendix.f_ablations.harness import Variant


@torch.no_grad()
def change(model):
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.copy_(parameter.flip(0))


IDEA = Variant("weights upside down", change=change)
