"""The loss, AdamW, the schedule, clipping, and the precision that a run takes."""

# Written by `make export` from ch05_training.ipynb; change it there.

import math
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from .previous_chapters import LearnedPositionalEmbedding, TokenEmbedding

__all__ = [
    "cross_entropy",
    "perplexity",
    "bits_per_byte",
    "AdamW",
    "parameter_groups",
    "warmup_cosine",
    "clip_grad_norm_",
    "pick_precision",
]

# %% ch05_training.ipynb #9026b0ab
def cross_entropy(logits, targets, label_smoothing=0.0, ignore_index=-100, reduction="mean"):
    """Mean (or "sum") surprise in nats.

    logits: (..., V), targets: (...) int64 -> scalar, float32 for 16-bit logits. Targets equal to ignore_index
    do not count. Label smoothing: Szegedy et al. 2016, section 7. Equal to torch.nn.functional.cross_entropy,
    but 0, not NaN, when nothing counts. ValueError when the shapes do not fit.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} do not fit targets {tuple(targets.shape)}")
    dtype = torch.promote_types(logits.dtype, torch.float32)  # at least float32
    log_p = logits.log_softmax(dim=-1, dtype=dtype)  # (..., V)
    counted = targets != ignore_index
    right = targets.where(counted, 0).unsqueeze(-1)  # (..., 1)
    surprise = -log_p.gather(-1, right).squeeze(-1)  # (...)
    if label_smoothing:
        surprise = (1 - label_smoothing) * surprise - label_smoothing * log_p.mean(dim=-1)
    total = surprise.where(counted, 0.0).sum()
    return {"sum": total, "mean": total / counted.sum().clamp(min=1)}[reduction]

# %% ch05_training.ipynb #51ae9835
def perplexity(loss):
    """exp(loss), for a loss in nats a token; infinity where a float cannot hold it."""
    return math.exp(loss) if loss < 700 else math.inf


def bits_per_byte(total_nats, n_bytes):
    """The total surprise of a text in bits, divided by its length in bytes of UTF-8."""
    return total_nats / math.log(2) / n_bytes

# %% ch05_training.ipynb #26842801
class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay: Loshchilov and Hutter 2019, algorithm 2. Equal to torch.optim.AdamW.

    params: parameters, or groups of them. ValueError for values out of range.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        if not (lr >= 0 and all(0 <= beta < 1 for beta in betas) and eps > 0 and weight_decay >= 0):
            rule = "lr >= 0, betas in [0, 1), eps > 0, weight_decay >= 0"
            raise ValueError(f"expected {rule}; got {lr=}, {betas=}, {eps=}, {weight_decay=}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for w in group["params"]:
                if w.grad is None:
                    continue
                state = self.state[w]
                if not state:
                    state.update(step=0, m=torch.zeros_like(w), v=torch.zeros_like(w))
                state["step"] += 1
                m, v, t = state["m"], state["v"], state["step"]
                w.mul_(1 - lr * group["weight_decay"])
                m.lerp_(w.grad, 1 - beta1)  # m + (1 - beta1) (g - m), which is the formula above
                v.mul_(beta2).addcmul_(w.grad, w.grad, value=1 - beta2)
                denominator = (v / (1 - beta2**t)).sqrt_().add_(group["eps"])
                w.addcdiv_(m, denominator, value=-lr / (1 - beta1**t))

# %% ch05_training.ipynb #afca72db
def parameter_groups(model, weight_decay):
    """Two groups for AdamW: matrices of linear layers, with decay; norms, biases and embeddings, without."""
    embeddings = (nn.Embedding, TokenEmbedding, LearnedPositionalEmbedding)
    kept = {p for m in model.modules() if isinstance(m, embeddings) for p in m.parameters()}
    kept |= {p for p in model.parameters() if p.dim() < 2}
    return [
        {"params": [p for p in model.parameters() if p not in kept], "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p in kept], "weight_decay": 0.0},
    ]

# %% ch05_training.ipynb #4ea8a516
def warmup_cosine(step, max_lr, min_lr, warmup_steps, total_steps):
    """The learning rate of step 0 .. total_steps - 1: linear to max_lr, then a cosine towards min_lr.

    It would be min_lr one step after the last. Loshchilov and Hutter 2017, section 3, without restarts.
    """
    if step < warmup_steps:
        return max_lr * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return min_lr + 0.5 * (max_lr - min_lr) * (1 + math.cos(math.pi * progress))

# %% ch05_training.ipynb #3b74973c
@torch.no_grad()
def clip_grad_norm_(params, max_norm):
    """Scale all gradients, together, to a norm of at most max_norm, in place; returns the norm before.

    params: one parameter or an iterable; an iterator that is used up is warned of. Pascanu et al. 2013,
    section 3.2. Equal to torch.nn.utils.clip_grad_norm_.
    """
    given = [params] if isinstance(params, torch.Tensor) else list(params)
    if not given and isinstance(params, Iterator):
        warnings.warn("nothing was clipped: the iterator of parameters is used up; give a list", stacklevel=2)
    gradients = [p.grad for p in given if p.grad is not None]
    if not gradients:
        return torch.tensor(0.0)
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    for gradient in gradients:
        gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm

# %% ch05_training.ipynb #fc087b26
def pick_precision(name, device):
    """The dtype of a name; "auto": bfloat16 on CUDA from capability 8.0, float16 below, else float32."""
    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
