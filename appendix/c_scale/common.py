"""What all ways of training need: joining the processes, one problem, and its model put together again.

Written by hand.
"""

import gc
import os
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from ch04_transformer.transformer import GPT, GPTConfig

SMALL = dict(vocab_size=64, context_length=16, d_model=32, n_layers=4)
MODELS = {
    "gpt2": GPTConfig(**SMALL, n_heads=4, bias=True),
    "llama": GPTConfig(
        **SMALL,
        n_heads=8,
        n_kv_heads=4,
        norm="rmsnorm",
        activation="swiglu",
        position="rope",
        tie_weights=False,
    ),
}
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def process_group(timeout=60):
    """Join the processes that torchrun started, leave them at the end.

    NCCL and one GPU each, as PyTorch's default device, where this machine has enough of them; else gloo and
    the CPU. timeout: seconds that anything may wait for another process. ConnectionError when torchrun
    started nothing, when the others do not come, and when one of them ends or stays away.
    """
    settings = {name: os.environ.get(name, "") for name in VARIABLES}
    started = "start it with: python -m torch.distributed.run --standalone --nproc-per-node 2 ..."
    missing = [name for name, value in settings.items() if not value]
    if missing:
        raise ConnectionError(f"{', '.join(missing)} not set, so this process knows of no others; {started}")
    del settings["MASTER_ADDR"]
    numbers = [int(value) if value.isdecimal() else -1 for value in settings.values()]
    if not (0 <= numbers[0] < numbers[1] and 0 < numbers[2] < 65_536):
        told = ", ".join(f"{name}={value}" for name, value in settings.items())
        raise ConnectionError(f"{told}: expected a rank from 0, below the world size, and a port; {started}")
    on_gpu = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if on_gpu else "cpu")
    if on_gpu:
        torch.cuda.set_device(device)
        torch.set_default_device(device)
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(seconds=timeout))
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        reason = re.sub(r"^\[\S*\] ", "", str(error).strip()).splitlines()[0].split(". ")[0].rstrip(".")
        master = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ConnectionError(
            f"another process has ended or did not answer within {timeout} s (master {master}): {reason}"
        ) from error
    gc.collect()  # a DistributedDataParallel that still holds the group could wait for its threads forever
    dist.destroy_process_group()


def named_exit(error):
    """One line for an error, with the rank that it happened on; leaves with status 1."""
    print(f"rank {os.environ.get('RANK', '?')}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)  # no goodbye: the others may be waiting for what will not come


@dataclass(frozen=True)
class Problem:
    """A model and the batches that it is trained on: the same, whichever processes do it."""

    config: GPTConfig
    batch_size: int = 8  # windows in one step, over all processes
    steps: int = 20
    lr: float = 3e-3
    dtype: torch.dtype = torch.float64

    def model(self, device):
        """The GPT with its first weights, the same in every process."""
        torch.manual_seed(0)
        with torch.device("cpu"):  # a GPU would draw other numbers
            model = GPT(self.config)
        return model.to(device, self.dtype)

    def batches(self):
        """Pairs of inputs and targets, each (B, T) int64; row b has its last b T / B targets hidden."""
        numbers = torch.Generator("cpu").manual_seed(1)
        V, T, B = self.config.vocab_size, self.config.context_length, self.batch_size
        for _ in range(self.steps):
            starts = torch.randint(V, (B, 1), generator=numbers, device="cpu")
            strides = torch.randint(1, 4, (B, 1), generator=numbers, device="cpu")
            places, rows = torch.arange(T + 1, device="cpu"), torch.arange(B, device="cpu")[:, None]
            ids = (starts + strides * places) % V  # (B, T + 1)
            hidden = places[:-1] >= T - rows * T // B  # (B, T)
            yield ids[:, :-1], ids[:, 1:].masked_fill(hidden, -100)


def count(tensors):
    """How many numbers of these tensors lie in this process."""
    return sum((t.to_local() if hasattr(t, "to_local") else t).numel() for t in tensors)


def full_weights(model):
    """{name: tensor} of a model with DTensors in it, each put together from its parts. All call it."""
    state = model.state_dict()
    return {name: w.full_tensor() if hasattr(w, "full_tensor") else w for name, w in state.items()}


def joined_weights(model, column, row, group):
    """{name: tensor} of a model whose layers of these names are split by hand. All of `group` call it."""
    whole = {}
    for name, value in model.state_dict().items():
        *_, layer, kind = name.split(".")
        if layer in column or (layer in row and kind == "weight"):
            parts = [torch.empty_like(value) for _ in range(dist.get_world_size(group))]
            dist.all_gather(parts, value.contiguous(), group=group)
            value = torch.cat(parts, dim=0 if layer in column else 1)
        whole[name] = value
    return whole


def collected_weights(stage):
    """{name: tensor} of the whole model, from the stages of all processes, on the CPU. All call it."""
    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, {name: w.cpu() for name, w in stage.state_dict().items()})
    return {name: w for part in parts for name, w in part.items()}
