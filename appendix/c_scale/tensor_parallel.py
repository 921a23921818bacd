"""Tensor parallel: linear layers split by columns and by rows, by hand and by PyTorch's plan."""

# Written by `make export` from c_parallel.ipynb; change it there.

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from .common import full_weights, joined_weights
from .parallel import all_processes, fsdp, one_process, total

__all__ = [
    "COLUMN",
    "ROW",
    "Enter",
    "Leave",
    "my_part",
    "ColumnLinear",
    "RowLinear",
    "check_divides",
    "layers_to_split",
    "tensor_parallel",
    "split_by_plan",
    "tensor_plan",
    "grid",
    "fsdp_tensor",
]

# %% c_parallel.ipynb #3544a151
class Enter(torch.autograd.Function):
    """f of Shoeybi et al. 2019, section 3: nothing forward; the sum over the group backward."""

    @staticmethod
    def forward(context, x, group):
        context.group = group
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient):
        return total(gradient, context.group), None


class Leave(torch.autograd.Function):
    """g of the same: the sum over the group forward; nothing backward."""

    @staticmethod
    def forward(context, x, group):
        return total(x, group)

    @staticmethod
    def backward(context, gradient):
        return gradient, None

# %% c_parallel.ipynb #bd51a09e
def my_part(parameter, dim, group):
    """This process's part of a parameter, cut along `dim`, as a new parameter."""
    part = parameter.detach().chunk(dist.get_world_size(group), dim)[dist.get_rank(group)]
    return nn.Parameter(part.clone())


class ColumnLinear(nn.Module):
    """Some outputs of an nn.Linear, whole: (..., d_in) -> (..., d_out / N). Its input comes from Enter."""

    def __init__(self, linear, group):
        super().__init__()
        self.weight = my_part(linear.weight, 0, group)  # (d_out / N, d_in)
        self.bias = None if linear.bias is None else my_part(linear.bias, 0, group)  # (d_out / N,)

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class RowLinear(nn.Module):
    """All outputs of an nn.Linear, from some of its inputs and a sum: (..., d_in / N) -> (..., d_out)."""

    def __init__(self, linear, group):
        super().__init__()
        self.weight, self.bias = my_part(linear.weight, 1, group), linear.bias  # (d_out, d_in / N), (d_out,)
        self.group = group

    def forward(self, x):
        y = Leave.apply(F.linear(x, self.weight), self.group)
        return y if self.bias is None else y + self.bias

# %% c_parallel.ipynb #71196dba
COLUMN = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
ROW = ("out_proj", "down_proj")


def check_divides(config, N):
    """ValueError unless N processes can share the heads and the hidden numbers evenly."""
    sizes = {"n_heads": config.n_heads, "n_kv_heads": config.kv_heads, "d_ff": config.ff_width}
    for name, size in sizes.items():
        if size % N:
            raise ValueError(f"{name}={size} does not divide among {N} processes; choose a divisor of {size}")


def layers_to_split(model):
    """The attention and the feed-forward layer of every block."""
    return [layer for block in model.blocks for layer in (block.attention, block.feed_forward)]


def tensor_parallel(model, group=None):
    """Heads and hidden numbers shared among the processes, each of which sees the whole batch."""
    check_divides(model.config, dist.get_world_size(group))

    def enter(layer, arguments):
        return Enter.apply(arguments[0], group), *arguments[1:]

    for layer in layers_to_split(model):
        layer.register_forward_pre_hook(enter)
        for name, linear in list(layer.named_children()):
            if name in COLUMN + ROW:
                setattr(layer, name, (ColumnLinear if name in COLUMN else RowLinear)(linear, group))
    module, backward, _ = one_process(model)
    return module, backward, lambda: joined_weights(model, COLUMN, ROW, group)

# %% c_parallel.ipynb #f785696d
def split_by_plan(model, mesh):
    """Every block's linear layers become DTensors, split by column or by row over a mesh of one dimension."""
    check_divides(model.config, mesh.size())
    for layer in layers_to_split(model):
        names = [name for name, _ in layer.named_children()]
        plan = {name: ColwiseParallel() for name in names if name in COLUMN}
        parallelize_module(layer, mesh, plan | {name: RowwiseParallel() for name in names if name in ROW})


def tensor_plan(model):
    """Tensor parallel as PyTorch does it."""
    split_by_plan(model, all_processes(model))
    module, backward, _ = one_process(model)
    return module, backward, lambda: full_weights(model)

# %% c_parallel.ipynb #ced4235b
def grid(model, names):
    """A mesh of N / 2 x 2 processes with these names for its dimensions. ValueError for odd N and 2."""
    N = dist.get_world_size()
    if N < 4 or N % 2:
        raise ValueError(f"a mesh of {' x '.join(names)} needs 4, 6, 8, ... processes, and there are {N}")
    return init_device_mesh(model.lm_head.weight.device.type, (N // 2, 2), mesh_dim_names=names)


def fsdp_tensor(model):
    """Matrices split between two processes, and what each then has sharded over the others."""
    mesh = grid(model, ("data", "tensor"))
    split_by_plan(model, mesh["tensor"])
    return fsdp(model, mesh["data"])
