"""Which device trains. Written by hand, since it teaches nothing."""

import functools
import sys

import torch

from .optimization import AdamW, clip_grad_norm_, cross_entropy, parameter_groups
from .previous_chapters import GPT, GPTConfig


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
