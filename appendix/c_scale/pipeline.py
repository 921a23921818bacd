"""Pipeline parallel: schedules and their waiting time, a pipeline by hand, and PyTorch's."""

# Written by `make export` from c_parallel.ipynb; change it there.

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from ch05_training.optimization import cross_entropy

from .common import collected_weights
from .parallel import my_rows, sum_gradients, total
from .tensor_parallel import grid

__all__ = [
    "schedule",
    "timeline",
    "Stage",
    "sum_tied",
    "receive",
    "pass_along",
    "pipeline",
    "data_pipeline",
]

# %% c_parallel.ipynb #6da453c0
def schedule(kind, stage, n_stages, n_micro):
    """What a stage does, in order: [("F" or "B", micro-batch)]. kind: "gpipe" or "1f1b", else KeyError."""
    forward, backward = ([(letter, m) for m in range(n_micro)] for letter in "FB")
    ahead = {"gpipe": n_micro, "1f1b": min(n_micro, n_stages - 1 - stage)}[kind]  # forwards before the pairs
    pairs = [step for pair in zip(forward[ahead:], backward) for step in pair]
    return forward[:ahead] + pairs + backward[n_micro - ahead :]


def timeline(orders, forward=1, backward=2):
    """When each stage does what: one list a stage of (letter, micro-batch, begin, end); units of one forward.

    A forward waits for that of the stage before, a backward for that of the stage after.
    """
    done, lines, free = {}, [[] for _ in orders], [0] * len(orders)
    while any(len(line) < len(order) for line, order in zip(lines, orders)):
        for stage, (line, order) in enumerate(zip(lines, orders)):
            letter, m = order[len(line)] if len(line) < len(order) else ("", 0)
            neighbour = (letter, stage - 1 if letter == "F" else stage + 1, m)
            if letter and (neighbour in done or not 0 <= neighbour[1] < len(orders)):
                begin = max(free[stage], done.get(neighbour, 0))
                free[stage] = begin + (forward if letter == "F" else backward)
                done[letter, stage, m] = free[stage]
                line.append((letter, m, begin, free[stage]))
    return lines

# %% c_parallel.ipynb #b3054fe5
class Stage(nn.Module):
    """A share of the blocks of a GPT, with what comes before the first or after the last of them.

    The first stage takes (B, T) int64, the others (B, T, D); the last gives (B, T, V), the others (B, T, D).
    ValueError for a number of layers that the stages do not divide.
    """

    def __init__(self, model, stage, n_stages):
        super().__init__()
        L = model.config.n_layers
        if L % n_stages:
            raise ValueError(f"n_layers={L} does not divide among {n_stages} stages; choose a divisor of {L}")
        self.first, self.last = stage == 0, stage == n_stages - 1
        mine = range(stage * L // n_stages, (stage + 1) * L // n_stages)
        self.blocks = nn.ModuleDict({str(number): model.blocks[number] for number in mine})
        self.rope = model.rope
        if self.first:
            self.embedding = model.embedding
        if self.last:
            self.norm, self.lm_head = model.norm, model.lm_head

    def forward(self, x):
        positions = torch.arange(x.size(1), device=x.device)  # (T,)
        if self.first:
            x = self.embedding(x, positions)  # (B, T) -> (B, T, D)
        cos_sin = None if self.rope is None else self.rope.cos_sin(positions, x.dtype)
        for block in self.blocks.values():
            x = block(x, cos_sin=cos_sin)  # (B, T, D)
        return self.lm_head(self.norm(x)) if self.last else x


def sum_tied(stage, tied, group):
    """First and last stage add up the gradients of their copies of one tied matrix."""
    if not tied or stage.first == stage.last:
        return
    mine = (stage.embedding.token if stage.first else stage.lm_head).weight.grad  # (V, D)
    other = torch.empty_like(mine)
    peer = dist.get_process_group_ranks(group)[-1 if stage.first else 0]  # the other end of the pipeline
    both = [dist.P2POp(dist.isend, mine.clone(), peer), dist.P2POp(dist.irecv, other, peer)]
    for transfer in dist.batch_isend_irecv(both):  # both at once: neither waits for the other to begin
        transfer.wait()
    mine += other

# %% c_parallel.ipynb #ea461bdc
def receive(empty, sender):
    """The tensor that process `sender` sends, written into `empty`."""
    dist.recv(empty, sender)
    return empty


def pass_along(stage, micro_batches, n_targets, group):
    """GPipe's order over [(inputs, targets)], each (B, T). The loss of the last stage, 0 of the others."""
    rank, ranks = dist.get_rank(group), dist.get_process_group_ranks(group)
    before, after = ranks[rank - 1], ranks[(rank + 1) % len(ranks)]
    weight = next(stage.blocks.parameters())  # for its width, dtype and device
    kept, sent, loss = [], [], weight.new_zeros(())
    for x, targets in micro_batches:
        if not stage.first:
            x = receive(weight.new_empty(*x.shape, weight.size(-1)), before).requires_grad_()  # (B, T, D)
        y = stage(x)
        if stage.last:
            y = cross_entropy(y, targets, reduction="sum") / n_targets
            loss += y.detach()
        else:
            sent.append(dist.isend(y.detach(), after))
        kept.append((x, y))
    for x, y in kept:
        y.backward(None if stage.last else receive(torch.empty_like(y), after))
        if not stage.first:
            sent.append(dist.isend(x.grad, before))
    for transfer in sent:
        transfer.wait()
    return loss

# %% c_parallel.ipynb #4f6ab70e
def pipeline(model, micro_batches=4, schedule=None, group=None, data=None):
    """Each process of `group` is a stage. schedule: PyTorch's ScheduleGPipe or Schedule1F1B; None: by hand.

    data: the group of those processes that hold the same stage for other rows, or None.
    """
    group = dist.group.WORLD if group is None else group
    rank, n_stages, device = dist.get_rank(group), dist.get_world_size(group), model.lm_head.weight.device
    stage, n_targets = Stage(model, rank, n_stages), torch.ones((), device=device)

    def loss_of(logits, targets):
        return cross_entropy(logits, targets, reduction="sum") / n_targets

    if schedule is not None:
        wrapped = PipelineStage(stage, rank, n_stages, device, group=group)
        runner = schedule(wrapped, micro_batches, loss_of, scale_grads=False)

    def backward(inputs, targets):
        nonlocal n_targets
        n_targets = (targets != -100).sum()  # of the whole batch, which every process is given here
        if data is not None:
            inputs, targets = my_rows(inputs, data), my_rows(targets, data)
        if (B := len(inputs)) % micro_batches:
            raise ValueError(f"{B} windows do not divide among {micro_batches} micro-batches; use a multiple")
        if schedule is None:
            pieces = list(zip(inputs.chunk(micro_batches), targets.chunk(micro_batches)))
            loss = pass_along(stage, pieces, n_targets, group)
        else:
            losses = []
            runner.step(*[inputs] * stage.first, target=targets if stage.last else None, losses=losses)
            loss = sum(losses, model.lm_head.weight.new_zeros(()))  # of the last stage
        sum_tied(stage, model.config.tie_weights, group)
        if data is not None:
            sum_gradients(stage, data)
        return total(loss)  # over all rows; of the other stages it is 0

    return stage, backward, lambda: collected_weights(stage)

# %% c_parallel.ipynb #247bdcf3
def data_pipeline(model):
    """Two stages, each of them held by half of the processes for its own rows."""
    mesh = grid(model, ("data", "stage"))
    return pipeline(model, 2, Schedule1F1B, mesh["stage"].get_group(), mesh["data"].get_group())
