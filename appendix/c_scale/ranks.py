"""The processes that train together: how they meet, and what they tell each other. Written by hand."""

import contextlib
import gc
import os
import warnings
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from ch05_training.machines import pick_device

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # torchrun sets them in each process
LOST = ("onnection closed", "onnection reset", "onnection refused", "gloo", "roken pipe", "NCCL", "imed out")


@dataclass(frozen=True)
class Ranks:
    """One of `size` processes. Every method but the properties is called by all of them at the same place."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self):
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    def gathered(self, *numbers):
        """The numbers of every rank: (size, len(numbers)) float64, on the CPU."""
        mine = torch.tensor(numbers, dtype=torch.float64)
        if self.size == 1:
            return mine.unsqueeze(0)
        table = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(table, mine)
        return torch.stack(table)

    def objects(self, value):
        """The values of every rank, which pickle can hold, as a list."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def share(self, value):
        """The value of rank 0, on every rank."""
        if self.size > 1:
            dist.broadcast_object_list(box := [value], src=0)
            value = box[0]
        return value

    def share_ids(self, token_ids):
        """The int64 tensor (N,) of rank 0 on every rank; the others give None."""
        length = self.share(len(token_ids) if self.first else None)
        token_ids = token_ids if self.first else torch.empty(length, dtype=torch.int64)
        if self.size > 1:
            dist.broadcast(token_ids, src=0)
        return token_ids

    @contextlib.contextmanager
    def together(self):
        """What fails inside on one rank ends here on every rank, with the same error."""
        error = None
        try:
            yield
        except (ValueError, OSError, FloatingPointError) as raised:
            error = raised
        errors = self.objects(error and as_told(error))
        rank, told = next(((rank, error) for rank, error in enumerate(errors) if error), (0, None))
        if told:
            told.args = (told.args[0] if rank == 0 else f"on rank {rank}: {told.args[0]}",)
            raise told from None

    def leave(self):
        """The processes part: from here on, nothing is told any more.

        Nobody else may hold the process group then. Whoever lets go of it last waits for its threads, and a
        DistributedDataParallel does so with Python's lock, which those threads may need: both wait forever.
        """
        if self.size > 1:
            dist.barrier()
            gc.collect()
            dist.destroy_process_group()


class ToldByAll(ValueError):
    """An error that every rank knows of, so that rank 0 alone need print it."""


def as_told(error):
    return ToldByAll(str(error))


def rank_here():
    """(rank, number of ranks, rank on this machine) as torchrun sets them; (0, 1, 0) without it.

    ValueError when only a part of what is needed is set.
    """
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & set(os.environ):
        return 0, 1, 0
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        given = ", ".join(name for name in NEEDED if name not in missing) or "LOCAL_RANK"
        way_out = "start the program with torchrun, which sets all four"
        raise ValueError(f"{given} is set, but {' and '.join(missing)} is not; {way_out}")
    rank = int(os.environ["RANK"])
    return rank, int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", rank))


def warn_of_shared_store():
    """A warning when torchrun could not restart processes on several machines: PyTorch issue 135712.

    By default its agents keep one store for all attempts, in which new processes find addresses of dead ones.
    """
    size, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if size > here and shared and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        setting = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"
        warnings.warn(f"a restart on several machines will fail; start torchrun with {setting}", stacklevel=2)


def device_of_rank(device, size, local):
    """The device of a rank: of several GPUs, that whose number is the rank on this machine."""
    if size == 1:
        return device
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if local >= count:
            most = f"at most {count} processes: --nproc-per-node {count}, or --device cpu"
            raise ValueError(f"process {local} of this machine has no GPU; its {count} GPUs serve {most}")
        return torch.device("cuda", local)
    return torch.device("cpu")  # gloo and nccl know no others


def meet(device, timeout):
    """Wait until all ranks are there; returns the Ranks. ConnectionError after `timeout` seconds.

    device: a name, as in TrainConfig. Tensors on the CPU go by gloo and those on GPUs by NCCL.
    """
    rank, size, local = rank_here()
    if size > 1 and local < torch.cuda.device_count():
        torch.cuda.set_device(local)  # or each process would also take a little of the first GPU
    device = device_of_rank(pick_device(device), size, local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        return Ranks(device=device)
    warn_of_shared_store()
    try:
        seconds = timedelta(seconds=timeout)
        store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=seconds))
        if os.environ.get("LOCAL_WORLD_SIZE") == str(size):  # one torchrun, whose store outlives a restart
            store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=seconds)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        why = f"rank {rank} of {size} did not meet the others at {where}"
        way_out = f"start all of them, each with that address, or wait longer than {timeout:g} s: --timeout"
        raise ConnectionError(f"{why} ({first_line(error)}); {way_out}") from None
    return Ranks(rank, size, device)


def is_loss_of_a_rank(error):
    """Whether an exception says that another process is gone or does not answer."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in LOST)


def first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
