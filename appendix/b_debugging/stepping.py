"""What a step of training does to a model, watched from outside."""

# Written by hand: most of it puts back what a step has changed.

import contextlib
import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .evidence import Finding
from .pairing import data_faults
from .probes import first_tensor, logits_of, relative_change


@dataclass
class Trial:
    """What one call of step() did: forward passes with a gradient, and steps of optimizers."""

    forwards: list = field(default_factory=list)  # {"training", "ids", "logits", "slopes"}
    steps: list = field(default_factory=list)  # {"optimizer", "before", "gradients", "after"}


@contextlib.contextmanager
def observed(model):
    """Within it, every forward pass of the model and every step of an optimizer goes into a Trial."""
    trial = Trial()

    def forward(module, args, kwargs, output):
        logits = output.logits if hasattr(output, "logits") else first_tensor(output)
        if logits.requires_grad:
            ids = first_tensor([*args, *kwargs.values()])
            seen = {"training": module.training, "ids": ids, "logits": logits.detach(), "slopes": None}
            logits.register_hook(lambda slopes: seen.update(slopes=slopes.detach()))
            trial.forwards.append(seen)

    def before(optimizer, args, kwargs):
        held = [p for group in optimizer.param_groups for p in group["params"]]
        trial.steps.append(
            {
                "optimizer": optimizer,
                "before": {p: p.detach().clone() for p in held},
                "gradients": {p: p.grad.detach().clone() for p in held if p.grad is not None},
                "state": copy.deepcopy(optimizer.state_dict()),
            }
        )

    def after(optimizer, args, kwargs):
        trial.steps[-1]["after"] = {p: p.detach().clone() for p in trial.steps[-1]["before"]}

    handles = [
        model.register_forward_hook(forward, with_kwargs=True),
        register_optimizer_step_pre_hook(before),
        register_optimizer_step_post_hook(after),
    ]
    try:
        yield trial
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def weights_put_back(model, trials):
    """At the end, weights, gradients, modes, buffers and the optimizers' states are as at the beginning."""
    weights = {p: p.detach().clone() for p in model.parameters()}
    gradients = {p: None if p.grad is None else p.grad.detach().clone() for p in model.parameters()}
    buffers = {b: b.clone() for b in model.buffers()}
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        first = {}
        for taken in [taken for trial in trials for taken in trial.steps]:
            first.setdefault(taken["optimizer"], taken)
        for optimizer, taken in first.items():
            optimizer.load_state_dict(taken["state"])
            weights = taken["before"] | weights
        with torch.no_grad():
            for tensor, value in (weights | buffers).items():
                tensor.copy_(value)
        for p, gradient in gradients.items():
            p.grad = gradient
        for module, training in modes.items():
            module.training = training


def step_faults(model, batch, step):
    """Findings about training, from watching step() at work, at least twice; then all is put back."""
    before, trials = copy.deepcopy(model), []
    with weights_put_back(model, trials):
        marks = {}
        for turn in range(2):
            with observed(model) as trial:
                trials.append(trial)
                for _ in range(16):  # a step may gather gradients over several calls
                    if not trial.steps:
                        step()
            for p in model.parameters() if not turn else ():
                if p.grad is not None and p.grad.any():
                    marks[p] = 1e4 * torch.randn_like(p)
                    p.grad.copy_(marks[p])
        first, second = trials
        if not first.steps:
            yield Finding(
                "no optimizer step",
                "sixteen calls of step() did not call optimizer.step()",
                "Call it after backward().",
            )
            return
        findings = [
            *parameter_findings(model, first),
            *loss_findings(first),
            *mark_findings(second, marks),
            *mode_findings(before, first),
            *size_findings(model, before, batch, trials),
        ]
    yield from findings


def together(tensors, keys):
    return torch.cat([tensors[k].double().flatten() for k in keys]) if keys else torch.zeros(1)


def cosine(a, b):
    return (a @ b / (a.norm() * b.norm() + 1e-30)).item()


def parameter_findings(model, trial):
    held = {p for taken in trial.steps for p in taken["before"]}
    wanted = {p: name for name, p in model.named_parameters() if p.requires_grad}
    missing = [name for p, name in wanted.items() if p not in held]
    if missing:
        text = f"{len(missing)} of {len(wanted)} parameters are not in the optimizer, as {missing[0]}"
        yield Finding(
            "optimizer holds other parameters",
            text,
            "Make the optimizer from model.parameters(), after the model is built and moved.",
        )


def loss_findings(trial):
    """Findings from the slope at the logits, (p - y) times the weight of a target: its sign, its sum."""
    total, signs, n = 0.0, 0, 0
    for seen in trial.forwards:
        slopes, p = seen["slopes"], seen["logits"].float().softmax(-1)
        if slopes is None or slopes.dim() != 3 or slopes.size(-1) < 3:
            continue
        n += 1
        targets = slopes.abs().argmax(-1)  # (B, T): the entry p - 1 is the largest
        at = slopes.gather(-1, targets[..., None])[..., 0].double()
        sure = 1 - p.gather(-1, targets[..., None])[..., 0].double()
        used = (at != 0) & (sure > 1e-3)
        total += (at[used].abs() / sure[used]).sum().item()
        signs += at[used].sign().sum().item()
        seen["targets"] = targets.masked_fill(at == 0, -100)
    if signs > 0:
        yield Finding(
            "loss is negated",
            "the gradient at the right token's logit is positive: a step makes it less likely",
            "Minimise the loss itself, not its negative.",
        )
    if n > 1 and abs(total - n) < 0.15 * n:
        yield Finding(
            "micro-batches not averaged",
            f"in a step of {n} micro-batches the weights of all targets add up to {total:.2f}, not to 1",
            "Divide each loss by the number of micro-batches, or by all targets of the step.",
        )
    for seen in trial.forwards[:1]:
        if "targets" in seen and seen["ids"].shape == seen["targets"].shape:
            yield from data_faults(seen["ids"], seen["targets"])


def mark_findings(trial, marks):
    gradients = {p: g for taken in trial.steps[:1] for p, g in taken["gradients"].items() if p in marks}
    likeness = cosine(together(gradients, list(gradients)), together(marks, list(gradients)))
    if likeness > 0.9:
        yield Finding(
            "gradients of earlier steps remain",
            f"what stood in .grad before a step is in the gradient that it takes: cosine {likeness:.2f}",
            "Call optimizer.zero_grad() once in every step.",
        )


def mode_findings(before, trial):
    ids = next((seen["ids"] for seen in trial.forwards if not seen["training"]), None)
    if ids is None:
        return
    twin = copy.deepcopy(before).train()
    with torch.no_grad():
        change = relative_change(logits_of(twin, ids), logits_of(twin, ids))
    if change > 1e-6:
        yield Finding(
            "trained in evaluation mode",
            "the step calls the model with training=False, and the model has dropout",
            "Call model.train() before the step, and after each evaluation.",
        )


def batch_loss(model, batch):
    logits = logits_of(model, batch[0])
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[1].flatten(), ignore_index=-100)


def size_findings(model, before, batch, trials):
    """Findings about the step itself: whether there is one, its direction, its size."""
    first = trials[0].steps[0]
    held = [p for p in model.parameters() if p in first["gradients"]]
    if not held:  # of an optimizer that has other parameters than the model's, nothing can be said
        return
    gradient, change = together(first["gradients"], held), together(changes_of(first), held)
    lengths = [together(changes_of(trial.steps[0]), held).norm() for trial in trials if trial.steps]
    if gradient.any() and not any(lengths):
        text = "two steps leave every weight as it is, though there is a gradient"
        yield Finding("weights do not move", text, "Look at the learning rate.")
        return
    if cosine(gradient, change) > 0.1:
        text = f"the weights change along the gradient, cosine {cosine(gradient, change):.2f}"
        yield Finding("steps go uphill", text, "A step goes against the gradient; look for maximize=True.")
    matrices = [p for p in held if p.dim() > 1 and first["before"][p].any()]
    ratios = sorted((changes_of(first)[p].norm() / first["before"][p].norm()).item() for p in matrices)
    ratio = ratios[len(ratios) // 2] if ratios else 0.0
    true, rise = 0.0, 0.0
    if batch[1] is not None and (batch[1] != -100).any():
        true, rise = gradient_and_rise(before, batch, [first["after"].get(p) for p in model.parameters()])
    if ratio > 0.5 or (ratio > 0.15 and rise > 0.3):
        text = f"one step changes the matrices by {ratio:.0%} of their size (median), the loss by {rise:+.2f}"
        yield Finding(
            "steps too large", text, "Lower the learning rate, or warm up: a few percent are healthy."
        )
    if true > 1e-3 and gradient.norm() < 1e-3 * min(1.0, true):
        text = (
            f"the optimizer is given a gradient of norm {gradient.norm():.1e}; the loss has one of {true:.2f}"
        )
        yield Finding("gradient too small for the step", text, "Unscale before clipping: scaler.unscale_.")


def changes_of(taken):
    return {p: taken["after"][p] - taken["before"][p] for p in taken["before"]}


def gradient_and_rise(before, batch, weights):
    """(norm of the gradient of the loss on a batch, how much that loss rises when weights are others)."""
    twin = copy.deepcopy(before).eval()
    loss = batch_loss(twin, batch)
    wanted = [p for p in twin.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    norm = torch.cat([g.double().flatten() for g in gradients if g is not None]).norm().item()
    with torch.no_grad():
        for p, new in zip(twin.parameters(), weights):
            p.copy_(p if new is None else new)
        return norm, (batch_loss(twin, batch) - loss).item()
