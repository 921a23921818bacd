"""Magnitude pruning: the smallest weights become 0 and stay 0 in training."""

# Written by `make export` from e_smaller.ipynb; change it there.

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

from .quantized_layers import block_matrices, stored_bytes

__all__ = [
    "magnitude_mask",
    "Masked",
    "pruned",
    "sparse_bytes",
]

# %% e_smaller.ipynb #168f3d04
def magnitude_mask(weight, sparsity):
    """True for the weights to keep: all but the share `sparsity` of the smallest in size. Any shape, bool.

    Exactly round(sparsity * numel) are False. ValueError for a share that is not 0 to 1. Han et al. 2015.
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity={sparsity} must be 0 to 1; 50 % is 0.5")
    order = weight.detach().abs().flatten().argsort(stable=True)
    mask = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[: round(sparsity * len(order))]] = False
    return mask.view(weight.shape)

# %% e_smaller.ipynb #0912f54e
class Masked(nn.Module):
    """For parametrize: a weight times its mask, (out, in) bool."""

    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


def pruned(model, sparsity, together=False):
    """A copy of a GPT in which a share of the weights of its blocks is 0, also after training.

    together: the smallest of all matrices as one; else the same share of each matrix.
    """
    model = copy.deepcopy(model)
    layers = list(block_matrices(model).values())
    masks = [magnitude_mask(layer.weight, sparsity) for layer in layers]
    if together:
        every = torch.cat([layer.weight.flatten() for layer in layers])
        pieces = magnitude_mask(every, sparsity).split([layer.weight.numel() for layer in layers])
        masks = [piece.view(layer.weight.shape) for piece, layer in zip(pieces, layers)]
    for layer, mask in zip(layers, masks):
        parametrize.register_parametrization(layer, "weight", Masked(mask))
    return model

# %% e_smaller.ipynb #ef45e366
def sparse_bytes(model, bits=32):
    """Bytes of a pruned GPT: a bit for every weight of its blocks, `bits` for each that is not 0.

    The rest of the model is counted as it is. First `settle` it, or the masks are counted as well.
    """
    matrices = [layer.weight for layer in block_matrices(model).values()]
    total = sum(w.numel() + bits * w.count_nonzero().item() for w in matrices) // 8
    return total + stored_bytes(model) - sum(w.nbytes for w in matrices)
