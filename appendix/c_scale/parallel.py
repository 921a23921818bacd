"""Processes that train one model together: the ring, data parallel by hand, DDP and FSDP."""

# Written by `make export` from c_parallel.ipynb; change it there.

from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ch05_training.optimization import AdamW, parameter_groups
from ch05_training.step import summed_loss

from .common import count, full_weights

__all__ = [
    "ring_all_reduce",
    "train",
    "one_process",
    "my_rows",
    "total",
    "sum_gradients",
    "data_parallel",
    "averaged",
    "ddp",
    "all_processes",
    "fsdp",
]

# %% c_parallel.ipynb #b157e41d
def ring_all_reduce(lists):
    """The sum of N lists of numbers by a ring: (what each process ends with, how many numbers each sent).

    lists: one for each process, all of one length. Patarasuk and Yuan 2009.
    """
    N, length = len(lists), len(lists[0])
    parts = [[mine[i * length // N : (i + 1) * length // N] for i in range(N)] for mine in lists]
    sent = [0] * N
    for turn in range(2 * N - 2):
        adding = turn < N - 1  # first round the ring: collect sums; second: hand the finished ones on
        chosen = [(rank - turn) % N if adding else (rank + 1 - (turn - N + 1)) % N for rank in range(N)]
        moving = [parts[rank][chosen[rank]] for rank in range(N)]  # all send at the same time
        for rank, numbers in enumerate(moving):
            to, i = (rank + 1) % N, chosen[rank]
            parts[to][i] = [a + b for a, b in zip(parts[to][i], numbers)] if adding else numbers
            sent[rank] += len(numbers)
    return [sum(mine, []) for mine in parts], sent

# %% c_parallel.ipynb #051b6ea0
def train(problem, way):
    """Train one model in some `way`: {"losses", "weights", "held": numbers that this process keeps}.

    On PyTorch's default device. held: how many weights, and how many of AdamW's moments.
    """
    device = torch.get_default_device()
    model = problem.model(device)
    module, backward, weights = way(model)
    mine = set(module.parameters())
    groups = parameter_groups(model, weight_decay=0.1)  # of the whole model: a stage cannot know what is tied
    groups = [group | {"params": [w for w in group["params"] if w in mine]} for group in groups]
    optimizer, losses = AdamW(groups, lr=problem.lr), []
    for inputs, targets in problem.batches():
        optimizer.zero_grad()
        losses.append(backward(inputs.to(device), targets.to(device)).item())
        optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("m", "v")]
    return {"losses": losses, "weights": weights(), "held": (count(mine), count(moments))}


def one_process(model):
    """The way of a single process, which all others must equal."""

    def backward(inputs, targets):
        loss = summed_loss(model, inputs, targets, 0.0) / (targets != -100).sum()
        loss.backward()
        return loss.detach()

    return model, backward, model.state_dict

# %% c_parallel.ipynb #8466f7e3
def my_rows(tensor, group=None):
    """This process's rows of a batch: (B, ...) -> (B / N, ...). ValueError for a B that N does not divide."""
    N = dist.get_world_size(group)
    if len(tensor) % N:
        raise ValueError(f"{len(tensor)} windows do not divide among {N} processes; use a multiple of {N}")
    return tensor.chunk(N)[dist.get_rank(group)]


def total(number, group=None):
    """The sum of a tensor over the processes, in a new tensor without a gradient."""
    number = number.detach().clone()
    dist.all_reduce(number, group=group)
    return number


def sum_gradients(module, group=None):
    """Every gradient becomes the sum over the processes."""
    for w in module.parameters():
        dist.all_reduce(w.grad, group=group)


def data_parallel(model):
    """Each process takes its rows; gradients are summed. Goyal et al. 2017, section 3."""
    for w in model.parameters():
        dist.broadcast(w.detach(), src=0)

    def backward(inputs, targets):
        inputs, targets = my_rows(inputs), my_rows(targets)  # (B, T) -> (B / N, T)
        n_targets = total((targets != -100).sum())
        loss = summed_loss(model, inputs, targets, 0.0) / n_targets
        loss.backward()
        sum_gradients(model)
        return total(loss)

    return model, backward, model.state_dict

# %% c_parallel.ipynb #ebe5de0a
def averaged(parallel, micro_batches=1, group=None, wait=nullcontext):
    """`backward` for a module that itself takes the *mean* of the gradients over the N processes of a group.

    micro_batches: pieces of this process's rows, one after the other; all but the last inside `wait()`.
    """

    def backward(inputs, targets):
        inputs, targets = my_rows(inputs, group), my_rows(targets, group)  # (B, T) -> (B / N, T)
        n_targets, losses = total((targets != -100).sum(), group), []
        pieces = list(zip(inputs.chunk(micro_batches), targets.chunk(micro_batches)))
        for number, (x, y) in enumerate(pieces, start=1):
            with nullcontext() if number == len(pieces) else wait():
                losses.append(summed_loss(parallel, x, y, 0.0) / n_targets)
                (losses[-1] * dist.get_world_size(group)).backward()  # the mean of N times this is the sum
        return total(sum(losses), group)

    return backward


def ddp(model, micro_batches=2, synchronise_always=False, hook=None):
    """PyTorch's data parallel. hook(None, bucket): sends a bucket of gradients in place of DDP; a future."""
    parallel = DistributedDataParallel(model)
    if hook is not None:
        parallel.register_comm_hook(None, hook)
    wait = nullcontext if synchronise_always else parallel.no_sync
    return model, averaged(parallel, micro_batches, wait=wait), model.state_dict

# %% c_parallel.ipynb #5ef64072
def all_processes(model):
    """The mesh of all processes, on the kind of device that the model is on."""
    return init_device_mesh(model.lm_head.weight.device.type, (dist.get_world_size(),))


def fsdp(model, mesh=None):
    """Each process keeps a part of every tensor (FSDP2). mesh: those that share; None: all."""
    mesh = all_processes(model) if mesh is None else mesh
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)  # what is left: embeddings, last norm, head
    return model, averaged(model, group=mesh.get_group()), lambda: full_weights(model)
