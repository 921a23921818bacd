"""The loss, AdamW, the schedule, clipping, and the device and precision that a run takes."""

# Written by `make export` from ch05_training.ipynb; change it there.

import functools
import math
import sys

import torch

from .previous_chapters import GPT, GPTConfig, LearnedPositionalEmbedding, TokenEmbedding

__all__ = [
    "NegativeLogLikelihood",
    "cross_entropy",
    "perplexity",
    "bits_per_byte",
    "AdamW",
    "parameter_groups",
    "warmup_cosine",
    "clip_grad_norm_",
    "practice_run",
    "mps_agrees",
    "pick_device",
    "pick_precision",
]

# %% ch05_training.ipynb #2438896d
class NegativeLogLikelihood(torch.autograd.Function):
    """-ln p of the right token of each row, with its gradient, guess minus truth, in one pass.

    logits: (N, V) float, targets: (N,) int64, smoothing: float -> (N,). The gradient is written over what was
    kept for it, so there can be one backward pass for each forward pass.
    """

    @staticmethod
    def forward(context, logits, targets, smoothing):
        log_p = logits.log_softmax(dim=-1)  # (N, V): surprises, but for the sign
        context.save_for_backward(log_p, targets)
        context.smoothing = smoothing
        surprise = -log_p.gather(1, targets.unsqueeze(1)).squeeze(1)  # (N,)
        if smoothing:
            surprise = (1 - smoothing) * surprise - smoothing * log_p.mean(dim=-1)
        return surprise

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        log_p, targets = context.saved_tensors
        guess = log_p.exp_()  # (N, V), in place
        guess[torch.arange(len(targets), device=targets.device), targets] -= 1 - context.smoothing
        if context.smoothing:
            guess -= context.smoothing / guess.size(-1)
        return guess.mul_(gradient.unsqueeze(1)), None, None  # (N, V) * (N, 1)

# %% ch05_training.ipynb #ce17f5dc
def cross_entropy(logits, targets, label_smoothing=0.0, ignore_index=-100, reduction="mean"):
    """Mean (or "sum") surprise in nats.

    logits: (..., V), targets: (...) int64 -> scalar, float32 for 16-bit logits.

    Targets equal to ignore_index count neither in the sum nor in the mean; when all are, the loss is 0.
    Label smoothing: Szegedy et al. 2016, section 7. Equal to torch.nn.functional.cross_entropy but for that
    last case, which there is NaN. ValueError when the shapes do not fit. One backward pass for each call, see
    `NegativeLogLikelihood`.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} do not fit targets {tuple(targets.shape)}")
    logits, targets = logits.flatten(0, -2), targets.flatten()  # (N, V), (N,)
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    kept = targets != ignore_index
    surprise = NegativeLogLikelihood.apply(logits, targets.where(kept, 0), label_smoothing)  # (N,)
    total = surprise.where(kept, 0.0).sum()
    return {"sum": total, "mean": total / kept.sum().clamp(min=1)}[reduction]

# %% ch05_training.ipynb #51ae9835
def perplexity(loss):
    """exp(loss), for a loss in nats a token; infinity where a float cannot hold it."""
    return math.exp(loss) if loss < 700 else math.inf


def bits_per_byte(total_nats, n_bytes):
    """The total surprise of a text in bits, divided by its length in bytes of UTF-8."""
    return total_nats / math.log(2) / n_bytes

# %% ch05_training.ipynb #713935b4
class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay: Loshchilov and Hutter 2019, algorithm 2. Equal to torch.optim.AdamW.

    params: parameters, or groups such as parameter_groups makes. lr: learning rate, which a schedule may
    change in optimizer.param_groups before each step. ValueError for values out of range.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        if not (lr >= 0 and all(0 <= beta < 1 for beta in betas) and eps > 0 and weight_decay >= 0):
            rule = "lr >= 0, betas in [0, 1), eps > 0, weight_decay >= 0"
            raise ValueError(f"expected {rule}; got {lr=}, {betas=}, {eps=}, {weight_decay=}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
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

# %% ch05_training.ipynb #965aa529
def parameter_groups(model, weight_decay):
    """Two groups for AdamW: matrices of linear layers, with decay; norms, biases and embeddings, without."""
    kept = {
        id(p)
        for m in model.modules()
        if isinstance(m, TokenEmbedding | LearnedPositionalEmbedding)
        for p in m.parameters()
    }
    matrices = [p for p in model.parameters() if p.dim() >= 2 and id(p) not in kept]
    others = [p for p in model.parameters() if p.dim() < 2 or id(p) in kept]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]

# %% ch05_training.ipynb #5c01a670
def warmup_cosine(step, max_lr, min_lr, warmup_steps, total_steps):
    """The learning rate of step 0 .. total_steps - 1: linear to max_lr, then a cosine towards min_lr.

    Loshchilov and Hutter 2017, section 3, without restarts.
    """
    if step < warmup_steps:
        return max_lr * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return min_lr + 0.5 * (max_lr - min_lr) * (1 + math.cos(math.pi * progress))

# %% ch05_training.ipynb #31802d20
@torch.no_grad()
def clip_grad_norm_(params, max_norm):
    """Scale all gradients, together, to a norm of at most max_norm, in place.

    Returns the norm before (scalar tensor); 0 when there is no gradient.

    Pascanu et al. 2013, section 3.2. Equal to torch.nn.utils.clip_grad_norm_.
    """
    gradients = [p.grad for p in params if p.grad is not None]
    if not gradients:
        return torch.tensor(0.0)
    norm = torch.stack(torch._foreach_norm(gradients)).norm()  # of the norms: of all numbers together
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm

# %% ch05_training.ipynb #5be0936f
def practice_run(device):
    """{what: numbers} of three training steps of a tiny GPT on a device: losses, gradients, weights after.

    The first weights and the batch are made on the CPU, and are the same each time. The caller's random
    numbers, grad mode and defaults stay as they are and make no difference.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.inference_mode(False):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the GPU as well
        sizes = {"d_model": 32, "n_heads": 2, "n_kv_heads": 1, "n_layers": 2, "init_std": 0.1}
        model = GPT(GPTConfig(64, 32, norm="rmsnorm", activation="swiglu", position="rope", **sizes))
        model, ids = model.to(device, torch.float32), torch.randint(64, (4, 33)).to(device)  # (B, T + 1)
        optimizer, seen = AdamW(parameter_groups(model, 0.1), lr=1e-2), {}
        for step in (1, 2, 3):
            loss = cross_entropy(model(ids[:, :-1]), ids[:, 1:])
            loss.backward()
            norm = clip_grad_norm_(list(model.parameters()), 1.0)
            gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
            here = {"loss": loss.detach(), "gradient norm": norm, "clipped gradient": gradient}
            seen |= {f"the {name} of step {step}": value.cpu().double() for name, value in here.items()}
            optimizer.step()
            optimizer.zero_grad()
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        return seen | {"the vector of all weights after step 3": weights.cpu().double()}


@functools.cache
def mps_agrees(tolerance=1e-4):
    """Does a `practice_run` on a Mac's GPU give the CPU's numbers? If not, the reason goes to stderr, once.

    Each difference is measured by its norm, as a share of the CPU's norm. Rounding in float32 makes up to
    1e-5, an operation that is wrong, or done in 16 bits, about 1e-3: the tolerance is between. An error on
    the device counts as a difference.
    """
    try:
        right, found = practice_run("cpu"), practice_run("mps")
        off = {what: ((found[what] - right[what]).norm() / right[what].norm()).item() for what in right}
        wrong = [what for what in off if not off[what] <= tolerance]  # written so that NaN is wrong too
        if not wrong:
            return True
        by = f"{off[wrong[0]]:.1e} of it, more than rounding's {tolerance:.0e}"
        reason = f"{wrong[0]} differs from the CPU's by {by}"
    except Exception as error:
        reason = f"a training step fails there: {(str(error).splitlines() or [type(error).__name__])[0]}"
    force = "force it with device='mps', or --device mps"
    print(f"auto stays on the CPU although there is mps: {reason}; {force}", file=sys.stderr)
    return False

# %% ch05_training.ipynb #b0564ef4
def pick_device(name="auto"):
    """The device of a name; "auto": cuda when there is one, else mps when `mps_agrees`, else cpu.

    ValueError when the device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() and mps_agrees() else "cpu")
    try:
        number = torch.zeros(1, device=name)
        number.item()  # the device meta holds no numbers
        return number.device
    except (RuntimeError, AssertionError) as error:
        why, other = str(error).splitlines()[0], "use device='cpu', or --device cpu"
        raise ValueError(f"device {name!r} is not available here ({why}); {other}") from None


def pick_precision(name, device):
    """The dtype of a name; "auto": bfloat16 on CUDA from capability 8.0, float16 below, else float32."""
    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
