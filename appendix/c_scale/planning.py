"""From a model, a cluster and a layout to memory, time, communication and cost, by formula."""

# Written by `make export` from c_planning.ipynb; change it there.

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, NamedTuple

from ch04_transformer.accounting import forward_flops
from ch04_transformer.counting import parameter_formula
from ch04_transformer.fields import Size, check_fields
from ch04_transformer.transformer import GPTConfig

__all__ = [
    "LLAMA3",
    "MODELS",
    "GIB",
    "HARDWARE",
    "gpt",
    "llama",
    "token_flops",
    "Hardware",
    "Layout",
    "layer_split",
    "telling_stages",
    "stage_parameters",
    "layer_activations",
    "stage_memory",
    "gpu_memory",
    "ring_bytes",
    "communication",
    "link",
    "bubble",
    "step_seconds",
    "Plan",
    "fault",
    "plan",
    "divisors",
    "fitting_plans",
]

# %% c_planning.ipynb #3fd3ed3a
def gpt(d_model, n_layers, n_heads, vocab_size=50257, context_length=2048):
    """The shape of GPT-3 and of Megatron's models, as a GPTConfig. Brown et al. 2020, section 2.1."""
    return GPTConfig(vocab_size, context_length, d_model, n_heads, n_layers, bias=True)


def llama(d_model, n_layers, n_heads, n_kv_heads, d_ff, vocab_size=32000, context_length=4096):
    """The shape of the Llama models, as a GPTConfig. Touvron et al. 2023, Llama 2, section 2.2."""
    new = dict(norm="rmsnorm", activation="swiglu", position="rope", tie_weights=False)
    return GPTConfig(vocab_size, context_length, d_model, n_heads, n_layers, n_kv_heads, d_ff, **new)


LLAMA3 = dict(vocab_size=128256, context_length=8192)
MODELS = {
    "GPT-2 124M": GPTConfig.preset("gpt2-small"),
    "GPT-2 350M": GPTConfig.preset("gpt2-medium"),
    "GPT-3 175B": gpt(12288, 96, 96),  # Brown et al. 2020, table 2.1
    "Llama 1 65B": llama(8192, 80, 64, 64, 22016, context_length=2048),
    "Llama 2 7B": llama(4096, 32, 32, 32, 11008),
    "Llama 2 13B": llama(5120, 40, 40, 40, 13824),
    "Llama 2 70B": llama(8192, 80, 64, 8, 28672),
    "Llama 3 8B": llama(4096, 32, 32, 8, 14336, **LLAMA3),  # Dubey et al. 2024, table 3
    "Llama 3 70B": llama(8192, 80, 64, 8, 28672, **LLAMA3),
    "Llama 3 405B": llama(16384, 126, 128, 8, 53248, **LLAMA3),
}

# %% c_planning.ipynb #706ce77d
def token_flops(config, recompute=False):
    """FLOPs of a training step for one token, in a text of context_length tokens: a float.

    Three forward passes; with recomputation a fourth, of the blocks. Scores are counted for all T x T pairs.
    Narayanan et al. 2021, section 5.1; Kaplan et al. 2020, section 2.1.
    """
    T = config.context_length
    parts = {part: count / T for part, count in forward_flops(config, 1, T).items()}
    total = sum(parts.values())
    return 3 * total + (total - parts["output layer"] if recompute else 0)

# %% c_planning.ipynb #b24b99a0
GIB = 2**30


class Hardware(NamedTuple):
    """A GPU with its links. Bandwidths: bytes a second out of one GPU, one direction."""

    peak: float  # FLOPs a second of dense 16-bit matrix products
    memory: float  # bytes
    nvlink: float  # to a GPU of the same machine
    network: float  # to other machines, the share of one GPU
    price: float  # dollars an hour, an assumption
    gpus_per_node: int = 8


HARDWARE = {  # NVIDIA's data sheets of the GPU, and of the machine in brackets
    "T4": Hardware(65e12, 15 * GIB, 16e9, 1.5625e9, price=0.5, gpus_per_node=4),  # (AWS g4dn.12xlarge)
    "V100": Hardware(125e12, 32 * GIB, 150e9, 6.25e9, price=1.0),  # (DGX-1: 4 x 100 Gbit/s)
    "A100-40": Hardware(312e12, 40 * GIB, 300e9, 25e9, price=1.3),  # (DGX A100: 8 x 200 Gbit/s)
    "A100": Hardware(312e12, 80 * GIB, 300e9, 25e9, price=1.75),  # (DGX A100)
    "H100": Hardware(989.4e12, 80 * GIB, 450e9, 50e9, price=3.0),  # (DGX H100: 8 x 400 Gbit/s)
    "H200": Hardware(989.4e12, 140 * GIB, 450e9, 50e9, price=3.5),  # (DGX H200)
    "B200": Hardware(2250e12, 179 * GIB, 900e9, 50e9, price=5.0),  # (DGX B200)
}

# %% c_planning.ipynb #5146b4f4
@dataclass(frozen=True)
class Layout:
    """How a model lies on dp x tp x pp GPUs. ValueError names a field that cannot be."""

    dp: Size = 1  # data parallel: copies of the model, each with its own texts
    tp: Size = 1  # tensor parallel: pieces of each matrix
    pp: Size = 1  # pipeline: stages of blocks
    micro_batch: Size = 1  # texts that go through at once
    zero_stage: Literal[0, 1, 2, 3] = 1  # what the dp copies share out
    recompute: bool = False  # blocks keep only their input, and run forward twice
    interleave: Size = 1  # groups of blocks a stage: Narayanan et al. 2021, section 2.2.2
    sequence_parallel: bool = True  # tp cuts the norms' inputs too: Korthikanti et al. 2022, section 4.2.2

    def __post_init__(self):
        check_fields(self)

    @property
    def n_gpus(self):
        return self.dp * self.tp * self.pp

    def micro_batches(self, batch_size):
        """How many micro-batches a GPU sees in a step of batch_size texts."""
        return batch_size // (self.dp * self.micro_batch)

# %% c_planning.ipynb #a3486391
def layer_split(n_layers, pp):
    """How many blocks each of pp stages has, a list of ints; those that are left over go to inner stages."""
    inner = sorted(range(pp), key=lambda stage: -min(stage, pp - 1 - stage))
    return [n_layers // pp + (stage in inner[: n_layers % pp]) for stage in range(pp)]


def telling_stages(config, layout):
    """The stages one of which is the fullest: the first, the first of those with most blocks, the last."""
    split = layer_split(config.n_layers, layout.pp)
    return {0, split.index(max(split)), layout.pp - 1}


def stage_parameters(config, layout, stage):
    """The parameters that one GPU of a stage (0 to pp - 1) holds before ZeRO shares them out: a float.

    Norms are whole on each of the tp GPUs. A tied matrix is in the first and in the last stage. Not counted:
    copies of key/value heads where tp is larger than their number, and biases that tp does not cut.
    """
    c, parts, tp = config, parameter_formula(config), layout.tp
    share = layer_split(c.n_layers, layout.pp)[stage] / c.n_layers
    n = share * ((parts["attention"] + parts["feed-forward"]) / tp + parts["norms"])
    if stage == 0:
        n += parts["token embedding"] / tp + parts["positions"]
    if stage == layout.pp - 1 and (layout.pp > 1 or not c.tie_weights):
        n += c.vocab_size * c.d_model / tp
    return n

# %% c_planning.ipynb #d6e46eec
def layer_activations(config, layout):
    """Bytes that a block keeps of one token on one GPU, in 16 bits: a float.

    Without dropout, with grouped key/value heads and the fused kernel (backend="sdpa") as well. SwiGLU: gate,
    up and their product, 6 d_ff; PyTorch keeps 8 d_ff where nothing fuses it. Korthikanti et al. 2022,
    section 4, table 2.
    """
    c, D, tp = config, config.d_model, layout.tp
    around = tp if layout.sequence_parallel else 1  # by what the norms' surroundings are divided
    if layout.recompute:
        return 2 * D / around
    dropout, kv = c.dropout > 0, c.kv_heads * D // c.n_heads
    split = 4 * D + 4 * kv + (6 if c.activation == "swiglu" else 4) * c.ff_width
    scores = (2 + 3 * dropout) * c.n_heads * c.context_length if c.backend == "eager" else 0
    return (8 + 2 * dropout) * D / around + (split + scores) / tp

# %% c_planning.ipynb #8f4de181
def stage_memory(config, layout, batch_size, stage):
    """Bytes that one GPU of a stage holds: {part: bytes}. Mixed precision, AdamW, Megatron's schedules.

    batch_size: texts of a step, all GPUs together. Rajbhandari et al. 2020, section 3.1, and Korthikanti et
    al. 2022, sections 4.2.3 and 4.3. ZeRO-3 needs one block whole while it computes, and the next on its way.
    """
    c, y, n = config, layout, stage_parameters(config, layout, stage)
    n_layers, last = layer_split(c.n_layers, y.pp)[stage], stage == y.pp - 1
    begun = y.pp + (y.pp - 1 - 2 * stage) / y.interleave if y.interleave > 1 else y.pp - stage
    per_token = min(y.micro_batches(batch_size), begun) * n_layers * layer_activations(c, y)
    if y.recompute:  # the block that is being run again
        per_token += layer_activations(c, replace(y, recompute=False))
    if last:
        per_token += 4 * (c.d_model / (y.tp if y.sequence_parallel else 1) + c.vocab_size / y.tp)
    weights, gradients, optimizer = (y.dp if y.zero_stage >= least else 1 for least in (3, 2, 1))
    whole = 2 * 2 * n / n_layers if y.zero_stage == 3 and y.dp > 1 else 0
    return {
        "weights": 2 * n / weights + whole,
        "gradients": 2 * n / gradients,
        "optimizer": 12 * n / optimizer,
        "activations": y.micro_batch * c.context_length * per_token,
    }


def gpu_memory(config, layout, batch_size):
    """{part: bytes} of the GPU that holds most, as stage_memory has them."""
    stages = [stage_memory(config, layout, batch_size, s) for s in telling_stages(config, layout)]
    return max(stages, key=lambda parts: sum(parts.values()))

# %% c_planning.ipynb #7bec3a8d
def ring_bytes(n_bytes, n):
    """What each of n GPUs sends in a reduce-scatter or an all-gather of n_bytes; an all-reduce is both."""
    return n_bytes * (n - 1) / n


def communication(config, layout, batch_size):
    """Bytes that the busiest GPU sends in a step, in 16 bits: {"tensor", "pipeline", "data": bytes}.

    Narayanan et al. 2021, section 3; Rajbhandari et al. 2020, section 7, for each micro-batch.
    """
    c, y, m = config, layout, layout.micro_batches(batch_size)
    vectors = 2 * y.micro_batch * c.context_length * c.d_model
    reduces = (6 if y.recompute else 4) * max(layer_split(c.n_layers, y.pp))
    weights = 2 * max(stage_parameters(c, y, stage) for stage in telling_stages(c, y))
    passes = (2, 2, m + 1, 3 * m)[y.zero_stage]
    return {
        "tensor": m * reduces * 2 * ring_bytes(vectors, y.tp),
        "pipeline": m * y.interleave * 2 * vectors / y.tp if y.pp > 1 else 0.0,
        "data": passes * ring_bytes(weights, y.dp),
    }

# %% c_planning.ipynb #c794fcfc
def link(hardware, size, stride):
    """Bytes a second for each member of a group of `size` GPUs, `stride` numbers apart."""
    together = max(1, hardware.gpus_per_node // stride)
    return hardware.nvlink if size <= together else min(hardware.nvlink, together * hardware.network)

# %% c_planning.ipynb #32ec3f24
def bubble(pp, micro_batches, interleave=1):
    """The share of the time in which a stage of a pipeline waits. Narayanan et al. 2021, section 2.2."""
    return (pp - 1) / (interleave * micro_batches + pp - 1)

# %% c_planning.ipynb #aedd8d8b
def step_seconds(config, layout, hardware, batch_size, efficiency=0.5):
    """Where the time of a training step goes: {"compute", "tensor", "pipeline", "bubble", "data": seconds}.

    Left out: the optimizer, reading data, the time that a message takes to start, GPUs that are slower.
    """
    c, y, m = config, layout, layout.micro_batches(batch_size)
    sent = communication(c, y, batch_size)
    flops = batch_size * c.context_length * token_flops(c, y.recompute)
    slowest = max(layer_split(c.n_layers, y.pp)) * y.pp / c.n_layers
    compute = flops / y.n_gpus * slowest / (efficiency * hardware.peak)
    tensor = sent["tensor"] / link(hardware, y.tp, stride=1)
    data = sent["data"] / link(hardware, y.dp, stride=y.tp)
    border = hardware.nvlink if y.n_gpus <= hardware.gpus_per_node else hardware.network
    behind = compute * 2 / 3 / (m if y.zero_stage < 2 else 1)  # backward passes during which data are sent
    return {
        "compute": compute,
        "tensor": tensor,
        "pipeline": sent["pipeline"] / border,
        "bubble": (compute + tensor) * (y.pp - 1) / (y.interleave * m),
        "data": max(0.0, data - behind),
    }

# %% c_planning.ipynb #b5b50f5b
class Plan(NamedTuple):
    """What a layout costs: bytes of the fullest GPU, seconds of a step, MFU, days and dollars of the run."""

    layout: Layout
    memory: dict
    seconds: dict
    mfu: float
    days: float
    dollars: float


def fault(config, layout, hardware, n_gpus, batch_size):
    """Why a layout cannot be, in one sentence with the way out; "" if it can."""
    c, y = config, layout
    few, many = sorted((y.tp, c.kv_heads))
    gpus = f"dp x tp x pp = {y.dp} x {y.tp} x {y.pp} = {y.n_gpus}"
    rules = (
        (batch_size < 1, f"batch_size={batch_size} must be 1 text or more"),
        (y.n_gpus != n_gpus, f"{gpus}, and the cluster has {n_gpus} GPUs; change one of the three"),
        (c.n_heads % y.tp, f"tp={y.tp} does not divide n_heads={c.n_heads}; take a divisor"),
        (many % few, f"of tp={y.tp} and n_kv_heads={c.kv_heads} neither divides the other; change tp"),
        (
            y.pp * (y.interleave - 1) >= c.n_layers or y.pp > c.n_layers,
            f"pp={y.pp} x interleave={y.interleave} is more than the {c.n_layers} blocks; take less",
        ),
        (
            batch_size % (y.dp * y.micro_batch),
            f"a batch of {batch_size} texts cannot be cut into dp={y.dp} x micro_batch={y.micro_batch} "
            "equal parts; change one of the three",
        ),
        (
            y.interleave > 1 and y.micro_batches(batch_size) % y.pp,
            f"interleave={y.interleave} needs a multiple of pp={y.pp} micro-batches, and a GPU has "
            f"{y.micro_batches(batch_size)}; set interleave=1 or change dp or micro_batch",
        ),
    )
    if found := [sentence for broken, sentence in rules if broken]:
        return found[0]
    needed, there = sum(gpu_memory(c, y, batch_size).values()) / GIB, 0.9 * hardware.memory / GIB
    if needed > there:
        return (
            f"a GPU would hold {needed:.1f} GiB, {needed - there:.1f} more than the {there:.1f} that can be "
            "used; raise tp, pp or zero_stage, recompute, or take a smaller micro_batch"
        )
    return ""

# %% c_planning.ipynb #fdfa9ef0
def plan(config, layout, hardware, n_gpus, batch_size, n_tokens, efficiency=0.5):
    """The Plan of a run over n_tokens tokens; batch_size: texts of a step. ValueError: see `fault`."""
    if found := fault(config, layout, hardware, n_gpus, batch_size):
        raise ValueError(found)
    if not 0 < efficiency <= 1:
        raise ValueError(f"efficiency={efficiency} must be above 0 and at most 1; 0.5 is half of the peak")
    seconds = step_seconds(config, layout, hardware, batch_size, efficiency)
    step, tokens = sum(seconds.values()), batch_size * config.context_length
    mfu = tokens * token_flops(config) / (step * n_gpus * hardware.peak)
    days = n_tokens / tokens * step / 86400
    memory = gpu_memory(config, layout, batch_size)
    return Plan(layout, memory, seconds, mfu, days, days * 24 * n_gpus * hardware.price)


def divisors(n, limit):
    """The divisors of n up to limit, ascending."""
    return [d for d in range(1, min(n, limit) + 1) if n % d == 0]


def fitting_plans(config, hardware, n_gpus, batch_size, n_tokens, efficiency=0.5, max_tp=8):
    """All Plans of a cluster that fit, the fastest first, with micro_batch to 16, interleave 1 or the most.

    Of plans as fast as each other the one with fewer micro-batches comes first, then the lower zero_stage.
    """
    plans = []
    for tp, pp in product(divisors(n_gpus, max_tp), divisors(n_gpus, config.n_layers)):
        if n_gpus % (tp * pp):
            continue
        groups = {1, math.ceil(config.n_layers / pp)} if pp > 1 else {1}
        choices = product(range(4 if n_gpus > tp * pp else 1), (False, True), (1, 2, 4, 8, 16), groups)
        for zero_stage, recompute, size, v in choices:
            layout = Layout(n_gpus // (tp * pp), tp, pp, size, zero_stage, recompute, v)
            if not fault(config, layout, hardware, n_gpus, batch_size):
                plans.append(plan(config, layout, hardware, n_gpus, batch_size, n_tokens, efficiency))

    def rank(p):
        return -round(p.mfu, 3), p.layout.micro_batches(batch_size), p.layout.zero_stage

    return sorted(plans, key=rank)
