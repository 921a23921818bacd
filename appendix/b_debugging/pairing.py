"""What can be seen in a batch without a model."""

# Written by `make export` from b_zoo.ipynb; change it there.

from .evidence import Finding

__all__ = [
    "data_faults",
    "agreement",
    "padding_faults",
    "shift_faults",
]

# %% b_zoo.ipynb #a02ceb50
def data_faults(inputs, targets):
    """Findings about a batch alone: inputs (B, T) and targets (B, T), or None; -100 does not count."""
    if targets is not None:
        yield from shift_faults(inputs, targets)
        yield from padding_faults(targets)


def agreement(inputs, targets, k):
    """(share of counted targets that are the input k places later, how many were compared)."""
    T = targets.size(1)
    t, i = targets[:, max(0, -k) : T - max(0, k)], inputs[:, max(0, k) : T - max(0, -k)]
    counted = t != -100
    n = counted.sum().item()
    return ((t == i) & counted).sum().item() / max(1, n), n


def padding_faults(targets):
    """Findings about rows that end in one id over and over, in runs of different lengths, all counted."""
    runs = []  # (id, how often it ends the row)
    for row in targets.tolist():
        n = next((n for n, token in enumerate(reversed(row)) if token != row[-1]), len(row))
        alone = n < len(row) and row[-1] != -100 and row[-1] not in row[: len(row) - n]
        runs += [(row[-1], n)] if alone and n >= 3 else []
    ids = [token for token, _ in runs]
    most = max(set(ids), key=ids.count, default=None)
    lengths = [n for token, n in runs if token == most]
    if len(lengths) >= max(2, len(targets) / 4) and len(set(lengths)) > 1:
        share = sum(lengths) / targets.numel()
        text = f"{len(lengths)} of {len(targets)} rows end in id {most} over and over: {share:.0%} of targets"
        yield Finding("padding counts in the loss", text, "Set the targets at padding to -100.")

# %% b_zoo.ipynb #4d62ad4b
def shift_faults(inputs, targets):
    """Findings about which input a target is: it should be the next one."""
    B, T = inputs.shape
    shares = {k: agreement(inputs, targets, k) for k in range(-3, 5) if abs(k) < T}
    best = max(shares, key=lambda k: shares[k][0])
    share, n = shares[best]
    right = shares[1][0] if T > 1 and shares[1][1] else 1.0
    if share > 0.95 and right < 0.8 and n >= 2:
        names = {0: "targets not shifted", -1: "targets shifted the wrong way"}
        text = f"target t is input t{best:+d} in {share:.0%} of the places, and input t+1 in {right:.0%}"
        advice = "Cut windows of T + 1 ids; inputs are [:-1], targets [1:]."
        yield Finding(names.get(best, f"targets shifted by {best}"), text, advice)
    elif right < 0.5 and B > 1 and T > 3:
        fits = (targets[:, None, :-1] == inputs[None, :, 1:]).float().mean(-1) > 0.95  # (B, B)
        if fits.any(-1).float().mean() > 0.5 and not fits.diagonal().any():
            row = fits.any(-1).int().argmax().item()
            text = f"the targets of row {row} go on from the inputs of row {fits[row].int().argmax().item()}"
            yield Finding("targets of other rows", text, "Shuffle inputs and targets in one order.")
