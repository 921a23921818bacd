"""What a model is made of and what it costs: shapes, parameters, arithmetic and memory."""

# Written by `make export` from ch04_deeper.ipynb; change it there.

from typing import NamedTuple

import torch

from .counting import parameter_formula

__all__ = [
    "ShapeRow",
    "shape_of",
    "trace_shapes",
    "shape_table",
    "parameter_counts",
    "forward_flops",
    "training_memory",
    "saved_bytes",
]

# %% ch04_deeper.ipynb #0ed7c6eb
class ShapeRow(NamedTuple):
    """A call of a module: depth of the call, name, class, shape of the output, parameters of its own."""

    depth: int
    name: str
    kind: str
    shape: str
    parameters: int


def shape_of(output):
    """The shape of a tensor, or the shapes of all tensors in a tuple, list or dictionary, as a str."""
    if isinstance(output, torch.Tensor):
        return str(tuple(output.shape))
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return ", ".join(shape_of(item) for item in output)
    return type(output).__name__

# %% ch04_deeper.ipynb #147d524d
@torch.no_grad()
def trace_shapes(model, *inputs):
    """Call model(*inputs); returns a ShapeRow for each module that runs, in the order in which they start.

    Any nn.Module. A parameter that several modules share counts at the first of them.
    """
    rows, running, counted, hooks = [], [], set(), []

    def enter(name, module):
        own = {id(p): p.numel() for p in module.parameters(recurse=False) if id(p) not in counted}
        counted.update(own)
        running.append(len(rows))
        rows.append(ShapeRow(len(running) - 1, name, type(module).__name__, "", sum(own.values())))

    def leave(module, arguments, output):
        index = running.pop()
        rows[index] = rows[index]._replace(shape=shape_of(output))

    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda module, _, name=name: enter(name, module)))
        hooks.append(module.register_forward_hook(leave))
    try:
        model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return rows

# %% ch04_deeper.ipynb #e3994778
def shape_table(rows):
    """ShapeRows as text, a call inside a call indented, its name given from there on."""
    lines, inside = [f"{'module':30}{'class':28}{'output':24}{'parameters':>10}"], {}
    for row in rows:
        inside[row.depth] = row.name + "." if row.name else ""
        parent = inside.get(row.depth - 1, "")  # such as "blocks.0.": this call happens inside that one
        name = row.name.removeprefix(parent) or "(the model)"
        lines.append(
            f"{'  ' * row.depth + name:30}{row.kind:28}{row.shape:24}{row.parameters or '':>10}".rstrip()
        )
    return "\n".join(lines)

# %% ch04_deeper.ipynb #4ace51bd
def parameter_counts(model):
    """The numbers in each part of a GPT, as `parameter_formula` has them, measured; a tied matrix once."""
    patterns = {
        "token embedding": "embedding.token",
        "positions": "embedding.position",
        "attention": ".attention.",
        "feed-forward": ".feed_forward.",
        "norms": "norm",
        "output layer": "lm_head",
    }
    parameters = list(model.named_parameters())  # lists a tied matrix once, under its first name
    return {part: sum(p.numel() for name, p in parameters if key in name) for part, key in patterns.items()}

# %% ch04_deeper.ipynb #31a6c673
def forward_flops(config, batch_size, T):
    """Floating-point operations of the matrix products of a forward pass over (B, T) tokens: {part: count}.

    Scores are counted for all T x T pairs, as eager attention computes them; a kernel that skips the masked
    half does fewer. A training step takes three times as many in all. Kaplan et al. 2020, section 2.1.
    """
    c, D, tokens = config, config.d_model, batch_size * T
    kv = c.kv_heads * D // c.n_heads
    matrices = 3 if c.activation == "swiglu" else 2
    return {
        "attention": 2 * tokens * c.n_layers * (2 * D * D + 2 * D * kv),
        "scores and mixtures": 4 * tokens * T * c.n_layers * D,
        "feed-forward": 2 * tokens * c.n_layers * matrices * D * c.ff_width,
        "output layer": 2 * tokens * D * c.vocab_size,
    }

# %% ch04_deeper.ipynb #a12fc426
def training_memory(config, batch_size, T, bytes_per_number=4):
    """Bytes that a training step keeps: {part: bytes}. AdamW; attention by the fused kernel.

    ValueError for what is not counted: other norms, activations and places of the norm than GPT-2's, dropout,
    and eager attention. A few numbers per token and norm are left out.
    """
    counted = dict(norm="layernorm", activation="gelu", norm_position="pre", backend="sdpa", dropout=0)
    for name, value in counted.items():
        found = getattr(config, name)
        if found != value:
            raise ValueError(f"{name}={found!r} is not counted, only {value!r}; measure with saved_bytes")
    c, D, W = config, config.d_model, config.ff_width
    kv = c.kv_heads * D // c.n_heads  # width of the keys, and of the values
    n = sum(parameter_formula(c).values())
    per_token = c.n_layers * (6 * D + 2 * kv + 2 * W) + 2 * D + c.vocab_size
    parts = {"weights": n, "gradients": n, "AdamW's means": 2 * n, "activations": batch_size * T * per_token}
    return {part: bytes_per_number * count for part, count in parts.items()}

# %% ch04_deeper.ipynb #b7d710a7
def saved_bytes(function, not_counted=()):
    """Bytes of all tensors that PyTorch keeps for the backward pass of function(), each storage once.

    not_counted: tensors that are there anyway, such as the parameters of a model.
    """
    # _cdata: the address of a storage, by which we know it again
    skipped = {tensor.untyped_storage()._cdata for tensor in not_counted}
    kept = {}

    def see(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # holding it keeps its address from being used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        function()
    return sum(storage.nbytes() for address, storage in kept.items() if address not in skipped)
