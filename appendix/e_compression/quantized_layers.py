"""Layers whose weights are kept in 8 or 4 bits, and a GPT that is made of them."""

# Written by `make export` from e_compression.ipynb; change it there.

import copy

import torch
import torch.nn.functional as F
from torch import nn

from .quantization import Quantized, dequantize, pack_nibbles, quantize_groups, unpack_nibbles

__all__ = [
    "QuantizedLinear",
    "block_matrices",
    "map_matrices",
    "QuantizedEmbedding",
    "quantized",
    "stored_bytes",
]

# %% e_compression.ipynb #d4e7f98d
class QuantizedLinear(nn.Module):
    """x (..., in) -> x W^T + bias (..., out), with W kept in few bits and turned into floats when it is used.

    weight: (out, in) float. bits 8: symmetric, a scale for each group. bits 4, 3, 2: with a minimum, two
    codes to a byte (so 3 and 2 save nothing here over 4). group_size: None takes a whole row. Scales are
    float16. ValueError for other bits, and for a group_size that does not divide `in`.
    """

    def __init__(self, weight, bias=None, bits=8, group_size=None):
        super().__init__()
        if bits not in (8, 4, 3, 2):
            raise ValueError(f"bits={bits} must be 8, 4, 3 or 2")
        q = quantize_groups(weight.detach(), bits, group_size, symmetric=bits == 8)
        self.bits, self.bias = bits, bias
        codes = q.codes if bits == 8 else pack_nibbles(q.codes)  # (out, in / g, g), or g / 2 where packed
        self.register_buffer("codes", codes)
        self.register_buffer("scale", q.scale.half())  # (out, in / g, 1)
        self.register_buffer("minimum", None if q.minimum is None else q.minimum.half())

    def rows(self, index):
        """Some rows of W as float32: index of any shape -> (*index.shape, in)."""
        codes = self.codes[index] if self.bits == 8 else unpack_nibbles(self.codes[index])
        minimum = None if self.minimum is None else self.minimum[index].float()
        return dequantize(Quantized(codes, self.scale[index].float(), minimum)).flatten(-2)

    @property
    def weight(self):
        """All of W as float32, (out, in), made anew each time."""
        return self.rows(slice(None))

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype), self.bias)

# %% e_compression.ipynb #b20b709f
def block_matrices(model):
    """{name: the nn.Linear} of a GPT's blocks, without the output layer."""
    layers = model.named_modules()
    return {name: m for name, m in layers if isinstance(m, nn.Linear) and m is not model.lm_head}


@torch.no_grad()
def map_matrices(model, change):
    """A copy of a GPT in which each weight matrix of the blocks is change(matrix), still in floats."""
    copied = copy.deepcopy(model)
    for layer in block_matrices(copied).values():
        layer.weight.copy_(change(layer.weight))
    return copied

# %% e_compression.ipynb #f3fd91cd
class QuantizedEmbedding(nn.Module):
    """Rows of a QuantizedLinear's matrix: token_ids (..., T) -> (..., T, D) float32."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def forward(self, token_ids):
        return self.matrix.rows(token_ids)

# %% e_compression.ipynb #4a430ca7
def quantized(model, bits=8, group_size=None, head_bits=8):
    """A copy of a GPT with QuantizedLinear for every nn.Linear, for inference.

    head_bits: of the output layer and of the embedding, one scale a row; None leaves the two as they are.
    Where they are one matrix they stay one. The model is not changed. ValueError as for QuantizedLinear.
    """
    matrices = [*block_matrices(model).values(), model.lm_head, model.embedding.token]
    copied = copy.deepcopy(model, {id(m.weight): m.weight for m in matrices})  # all but these matrices
    for name, layer in block_matrices(copied).items():
        copied.set_submodule(name, QuantizedLinear(layer.weight, layer.bias, bits, group_size))
    if head_bits is None:
        return copied
    head, table = copied.lm_head, copied.embedding.token
    copied.lm_head = QuantizedLinear(head.weight, head.bias, head_bits)
    matrix = copied.lm_head if model.config.tie_weights else QuantizedLinear(table.weight, bits=head_bits)
    copied.embedding.token = QuantizedEmbedding(matrix)
    return copied


def stored_bytes(model):
    """Bytes of a model's tensors as they are kept, one that has several names counted once."""
    return sum({t.data_ptr(): t.nbytes for t in model.state_dict().values()}.values())
