"""A mixture of experts in place of the feed-forward layer: router, dispatch and balance loss."""

# Written by `make export` from d_architectures.ipynb; change it there.

import math

import torch
from torch import nn

from .previous_chapters import GPT, SwiGLU, count_parameters, initialise, summed_loss

__all__ = [
    "route",
    "dispatch",
    "dropped_share",
    "balance_loss",
    "MixtureOfExperts",
    "mixture_gpt",
    "mixtures",
    "loss_with_balance",
    "active_parameters",
]

# %% d_architectures.ipynb #5dc5b813
def route(router_logits, top_k, renormalise=True):
    """Which experts a token goes to: logits (N, E) -> probabilities (N, E), gates (N, k), chosen (N, k).

    Softmax in at least float32, then the top_k largest; renormalise: gates add up to 1, as in Mixtral (Jiang
    et al. 2024, section 2.1). Without, a gate is the probability: Fedus et al. 2021, equation 2.
    """
    dtype = torch.promote_types(router_logits.dtype, torch.float32)
    probabilities = router_logits.softmax(dim=-1, dtype=dtype)  # (N, E)
    gates, chosen = probabilities.topk(top_k, dim=-1)  # (N, k), (N, k)
    return probabilities, gates / gates.sum(dim=-1, keepdim=True) if renormalise else gates, chosen

# %% d_architectures.ipynb #df140e7a
def dispatch(x, experts, gates, chosen):
    """Each expert on the tokens that chose it: x (N, D), gates and chosen (N, k) -> (N, D).

    No token is dropped, and an expert that nobody chose does not run.
    """
    n_experts, top_k = len(experts), chosen.size(-1)
    order = chosen.flatten().argsort(stable=True)  # (N k,): choices, by expert
    counts = chosen.flatten().bincount(minlength=n_experts).tolist()
    tokens, gates = (order // top_k).split(counts), gates.flatten()[order].split(counts)
    out = torch.zeros_like(x)  # (N, D)
    for expert, place, gate in zip(experts, tokens, gates):
        if len(place):
            rows = gate.unsqueeze(-1) * expert(x[place])  # (n, 1) * (n, D)
            out.index_add_(0, place, rows.to(out.dtype))
    return out

# %% d_architectures.ipynb #33e85cc1
def dropped_share(load, capacity_factor):
    """Share of the choices that a capacity would drop; load: choices of each expert, (E,), whole numbers."""
    capacity = math.floor(capacity_factor * load.sum().item() / len(load))
    return ((load - capacity).clamp(min=0).sum() / load.sum()).item()

# %% d_architectures.ipynb #9f2b7955
def balance_loss(probabilities, chosen):
    """1 when the choices are spread evenly, up to E / k when all fall on the same k: a scalar.

    probabilities (N, E), chosen (N, k). Fedus et al. 2021, equations 4 to 6, with f the share of all choices.
    """
    n_experts = probabilities.size(-1)
    counts = chosen.flatten().bincount(minlength=n_experts)  # (E,): no gradient
    f = counts.to(probabilities.dtype) / chosen.numel()  # (E,)
    return n_experts * (f * probabilities.mean(dim=0)).sum()

# %% d_architectures.ipynb #784faeb7
class MixtureOfExperts(nn.Module):
    """top_k of n_experts SwiGLU layers for each token: x (..., D) -> (..., D), of the same dtype. Dropless.

    After a forward pass, balance_loss is that of its tokens, with its graph, and load the choices of each
    expert, (E,) int64. Shazeer et al. 2017, section 2; gates as in `route`.
    """

    def __init__(self, d_model, d_ff, n_experts, top_k, renormalise=True):
        super().__init__()
        self.router = nn.Linear(d_model, n_experts, bias=False)
        self.experts = nn.ModuleList([SwiGLU(d_model, d_ff) for _ in range(n_experts)])
        self.top_k, self.renormalise = top_k, renormalise
        self.balance_loss = self.load = None

    def forward(self, x):
        tokens = x.reshape(-1, x.size(-1))  # (..., D) -> (N, D)
        probabilities, gates, chosen = route(self.router(tokens), self.top_k, self.renormalise)
        self.balance_loss = balance_loss(probabilities, chosen)
        self.load = chosen.flatten().bincount(minlength=len(self.experts))  # (E,)
        return dispatch(tokens, self.experts, gates, chosen).view(x.shape)  # (N, D) -> (..., D)

# %% d_architectures.ipynb #5f5cacca
def mixture_gpt(config, n_experts, top_k, d_ff, renormalise=True):
    """A GPT of this GPTConfig with a MixtureOfExperts in each block; d_ff: width of one expert."""
    model = GPT(config)
    for block in model.blocks:
        block.feed_forward = MixtureOfExperts(config.d_model, d_ff, n_experts, top_k, renormalise)
    initialise(model)
    return model


def mixtures(model):
    """The MixtureOfExperts layers of a model, in order: a list."""
    return [module for module in model.modules() if isinstance(module, MixtureOfExperts)]


def loss_with_balance(model, inputs, targets, label_smoothing, weight=0.01):
    """For train_step's loss_of: the summed loss, and weight times each layer's balance loss a target."""
    loss = summed_loss(model, inputs, targets, label_smoothing)
    balance = sum(layer.balance_loss for layer in mixtures(model))
    return loss + weight * (targets != -100).sum() * balance


def active_parameters(model):
    """Parameters that work for one token: all but those of the experts that it is not sent to."""
    idle = 0
    for layer in mixtures(model):
        n_experts = len(layer.experts)
        idle += count_parameters(layer.experts) * (n_experts - layer.top_k) // n_experts
    return count_parameters(model) - idle
