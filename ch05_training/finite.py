"""Where in a model the first number that is not finite comes from. Written by hand."""

import math

import torch


@torch.no_grad()
def first_not_finite(model, batches):
    """The first module of which an output is not finite, in words: "... is not finite: name (class)".

    batches: a list of what the model is called with. A module ends after those inside it: the innermost
    comes first.
    """
    found = []

    def look(name, module, output):
        output = output[0] if isinstance(output, tuple) else output
        if isinstance(output, torch.Tensor) and not output.isfinite().all():
            found.append(f"{name or 'the model'} ({type(module).__name__})")

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: look(name, module, output))
        for name, module in model.named_modules()
    ]
    try:
        for inputs in batches:
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    where = found[0] if found else "none: it arose in the loss or in the backward pass"
    return f"first module whose output is not finite: {where}"


def check_finite(metrics, state, batches, autocast):
    """FloatingPointError, with what and where, when the loss or the norm of the gradients is not finite.

    In float16 an infinite gradient is the scaler's business, which then takes no step.
    """
    names = ["loss"] if state.scaler.is_enabled() else ["loss", "grad_norm"]
    bad = [name for name in names if not math.isfinite(metrics[name])]
    if bad:
        device = next(state.model.parameters()).device
        with autocast:
            where = first_not_finite(state.model, [inputs.to(device) for inputs, _ in batches])
        raise FloatingPointError(f"the {bad[0]} is {metrics[bad[0]]} at step {metrics['step']}; {where}")
