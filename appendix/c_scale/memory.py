"""What a training step keeps in memory, by formula and measured, and three ways to keep less."""

# Written by `make export` from c_scale.ipynb; change it there.

import bisect
import math

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from .previous_chapters import parameter_formula

__all__ = [
    "block_memory",
    "activation_memory",
    "step_memory",
    "peak_bytes",
    "checkpointed_logits",
    "checkpointed_memory",
    "OffloadedActivations",
    "OffloadedOptimizer",
    "largest_micro_batch",
]

# %% c_scale.ipynb #c4c257bb
def block_memory(config, batch_size, T, precision="float32", device="cpu"):
    """Bytes that one block keeps for the backward pass in training, as PyTorch 2.13 does it: {part: bytes}.

    config: a GPTConfig; (B, T) tokens without a mask; precision "float32", or "bfloat16" or "float16" for
    autocast (KeyError for another); device "cpu", or "cuda" for a GPU that has the fused kernels. Older
    PyTorch, such as 2.6, has no fused kernel on the CPU for fewer key heads than query heads: it keeps more.
    """
    c, D, W, H, N = config, config.d_model, config.ff_width, config.n_heads, batch_size * T
    kv, wide = c.kv_heads * D // H, 2 if c.activation == "swiglu" else 1
    half = {"float32": False, "bfloat16": True, "float16": True}[precision]
    cpu = torch.device(device).type == "cpu"
    e = 2 if half else 4  # bytes of a number that a matrix multiplies
    mask = e if cpu else 1  # bytes of a number in a dropout mask
    table = batch_size * H * T * T  # numbers in the weights of all heads
    composed = c.norm == "rmsnorm" and cpu  # of several operations, and so keeps two copies
    norm = N * (4 * D * (1 + composed) + (4 if c.norm == "rmsnorm" else 8))
    attention, scores = N * D * e * (3 if half else 1), 0  # the input of the projections
    if c.backend == "eager":
        attention += N * (4 * D + 2 * H) * e + T * T
        scores = table * (3 * e + (mask if c.dropout else 0))
    elif c.dropout and cpu:  # the fused kernel has no dropout there
        attention += N * (3 * D * 4 + D * e)
        scores = table * 3 * 4
    else:
        attention += N * ((2 * D + 2 * kv) * e + 4 * H)
    matrices = 2 * D * D + 2 * D * kv + (wide + 1) * D * W
    return {
        "norms": 2 * norm,
        "attention": attention,
        "scores": scores,
        "feed-forward": N * e * ((wide if half else 1) * D + 2 * wide * W),
        "dropout": 2 * N * D * mask if c.dropout else 0,
        "16-bit weights": e * matrices if half else 0,
    }

# %% c_scale.ipynb #960e35b3
def activation_memory(config, batch_size, T, precision="float32", device="cpu"):
    """Bytes that a GPT keeps for the backward pass of its loss: {part: bytes}. Arguments: `block_memory`."""
    c, D, N, half = config, config.d_model, batch_size * T, precision != "float32"
    mask = 4 if torch.device(device).type == "cpu" else 1  # the embedding's, bytes of a number
    block = block_memory(c, batch_size, T, precision, device)
    parts = {part: c.n_layers * count for part, count in block.items()}
    parts["norms"] += block["norms"] // 2 if c.norm_position == "pre" else 0  # the last norm
    parts["dropout"] += N * D * mask if c.dropout else 0
    parts["16-bit weights"] += 2 * c.vocab_size * D if half else 0  # of the output layer
    positions = {"learned": 8 * T, "rope": 4 * T * D // c.n_heads, "sinusoidal": 0}[c.position]
    # the output layer's input, the log-probabilities, and ids and targets
    parts["output and loss"] = N * ((2 if half else 4) * D + 4 * c.vocab_size + 16) + positions
    return parts

# %% c_scale.ipynb #129df7bd
def step_memory(
    config, batch_size, T, precision="float32", device="cpu", checkpointed=False, offloaded=False
):
    """Bytes that a training step with AdamW holds at its fullest: {part: bytes}.

    Weights, gradients and AdamW's two means are float32, with autocast too. The activations are what is
    kept and, of what is short-lived, the derivatives in the loss. checkpointed: each block keeps its input
    alone (`checkpointed_logits`). offloaded: AdamW's means are elsewhere (`OffloadedOptimizer`).
    """
    n = sum(parameter_formula(config).values())
    if checkpointed:
        activations = checkpointed_memory(config, batch_size, T, 1, precision, device)
    else:
        activations = sum(activation_memory(config, batch_size, T, precision, device).values())
        activations += 8 * batch_size * T * config.vocab_size  # two tables, while the loss is derived
    return {
        "weights": 4 * n,
        "gradients": 4 * n,
        "optimizer": 0 if offloaded else 8 * n,
        "activations": activations,
    }

# %% c_scale.ipynb #fba64400
def peak_bytes(function, device="cpu"):
    """The most memory that function() holds at one time on a device, above what was there before it.

    On the CPU by PyTorch's profiler, which costs time; on a GPU by what the allocator has recorded.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = function()
    del result  # it had to live until the profiler had stopped
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.device_type() == DeviceType.CPU)
    return torch.tensor([0, *(change for _, change in changes)]).cumsum(0).max().item()

# %% c_scale.ipynb #10b05259
def checkpointed_logits(model, token_ids, segment=1, n_checkpointed=None, **options):
    """A GPT's logits, (B, T) -> (B, T, V), with blocks that keep their inputs alone: Chen et al. 2016.

    segment: how many blocks share one kept input. n_checkpointed: how many of the blocks, from the first on,
    are run so; None: all. options: of torch.utils.checkpoint, such as preserve_rng_state.
    """
    x, cos_sin = model.embed(token_ids)  # (B, T, D)
    blocks = list(model.blocks)
    stop = len(blocks) if n_checkpointed is None else n_checkpointed
    if segment < 1 or stop < 0:
        raise ValueError(f"segment is at least 1 and n_checkpointed at least 0, got {segment} and {stop}")

    def run(x, part):
        for block in part:
            x = block(x, cos_sin=cos_sin)  # (B, T, D)
        return x

    for start in range(0, stop, segment):
        part = blocks[start : min(start + segment, stop)]
        x = checkpoint(run, x, part, use_reentrant=False, **options)  # (B, T, D)
    return model.lm_head(model.norm(run(x, blocks[stop:])))  # (B, T, D) -> (B, T, V)

# %% c_scale.ipynb #9f556662
def checkpointed_memory(config, batch_size, T, segment=1, precision="float32", device="cpu"):
    """Bytes held at the fullest by activations when all blocks are checkpointed, `segment` at a time.

    For fused attention; where tables are kept ("scores"), their derivatives come on top for a moment.
    """
    c, N = config, batch_size * T
    whole = sum(activation_memory(c, batch_size, T, precision, device).values())
    block = sum(block_memory(c, batch_size, T, precision, device).values())
    inputs = 4 * N * c.d_model * math.ceil(c.n_layers / segment)
    outside = whole - c.n_layers * block + 8 * N * c.vocab_size  # embedding, last norm, loss
    derivatives = (4 if precision == "float32" else 2) * c.ff_width * (2 if c.activation == "swiglu" else 1)
    redone = min(segment, c.n_layers) * block + N * (4 * c.d_model + derivatives)
    return inputs + max(outside, redone)

# %% c_scale.ipynb #f49e9a70
class OffloadedActivations(torch.autograd.graph.saved_tensors_hooks):
    """Inside `with`, what is kept for the backward pass waits in the CPU's memory.

    not_moved: tensors that stay, such as a model's parameters. smallest: tensors below that many bytes stay.
    moved: bytes that went out so far; as many come back.
    """

    def __init__(self, not_moved=(), smallest=4096):
        self.moved = 0
        staying = {tensor.untyped_storage()._cdata for tensor in not_moved}

        def pack(tensor):
            if tensor.untyped_storage()._cdata in staying or tensor.nbytes < smallest:
                return tensor, tensor.device
            self.moved += tensor.nbytes
            return tensor.to("cpu", copy=True), tensor.device

        def unpack(packed):
            tensor, device = packed
            return tensor.to(device)  # for one that stayed, itself

        super().__init__(pack, unpack)

# %% c_scale.ipynb #157acfee
class OffloadedOptimizer:
    """An optimizer that lives in the CPU's memory, with weights of its own, for parameters anywhere.

    make: given the weights on the CPU, returns their optimizer. step() takes the gradients from the
    parameters, steps, and writes the weights back; moved: bytes that went out and back so far.
    """

    def __init__(self, parameters, make=torch.optim.AdamW):
        self.parameters, self.moved = list(parameters), 0
        self.weights = [p.detach().to("cpu", copy=True).requires_grad_() for p in self.parameters]
        self.optimizer = make(self.weights)

    @torch.no_grad()
    def step(self):
        pairs = [(p, w) for p, w in zip(self.parameters, self.weights) if p.grad is not None]
        self.optimizer.zero_grad()  # a parameter without a gradient stays as it is
        for parameter, weight in pairs:
            weight.grad = parameter.grad.to("cpu")
        self.optimizer.step()
        for parameter, weight in pairs:
            parameter.copy_(weight)
            self.moved += parameter.grad.nbytes + weight.nbytes

# %% c_scale.ipynb #41c5aa5e
def largest_micro_batch(config, T, memory, **options):
    """The most texts of T tokens whose training step fits into `memory` bytes; 0 when not even one does.

    options: those of `step_memory`. What is short-lived is not counted: leave a tenth of the memory free.
    """
    return bisect.bisect_right(
        range(1, 2**40), memory, key=lambda B: sum(step_memory(config, B, T, **options).values())
    )
