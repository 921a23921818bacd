"""Looking at batches and texts: tokens beside their targets, shifts, and text that two splits share."""

# Written by `make export` from b_debugging.ipynb; change it there.

__all__ = [
    "show_batch",
    "shift_agreement",
    "shared_ngrams",
]

# %% b_debugging.ipynb #919ac941
def show_batch(inputs, targets, tokenizer, n_rows=2, n_tokens=10):
    """The first tokens of the first rows, each over its target, as text. -100 is shown as (ignored).

    inputs, targets: (B, T) int64. tokenizer: anything with decode([id]).
    """
    lines = []
    for row in zip(inputs[:n_rows, :n_tokens].tolist(), targets[:n_rows, :n_tokens].tolist()):
        cells = [[repr(tokenizer.decode([i])) if i >= 0 else "(ignored)" for i in ids] for ids in row]
        widths = [max(len(a), len(b)) for a, b in zip(*cells)]
        for name, line in zip(("inputs ", "targets"), cells):
            lines.append(f"{name} " + " ".join(f"{cell:{width}}" for cell, width in zip(line, widths)))
    return "\n".join(lines)


def shift_agreement(inputs, targets, shifts=(-1, 0, 1, 2)):
    """{k: how many of the targets at t are the input at t + k}, as shares; right is 1.0 at k = 1.

    inputs, targets: (B, T) int64, T more than the largest shift. Targets of -100 do not count.
    """
    T, shares = inputs.size(1), {}
    for k in shifts:
        moved = inputs[:, max(k, 0) : T + min(k, 0)]  # (B, T) -> (B, T - |k|)
        asked = targets[:, max(-k, 0) : T - max(k, 0)]  # (B, T) -> (B, T - |k|)
        shares[k] = (moved == asked)[asked != -100].double().mean().item()
    return shares

# %% b_debugging.ipynb #391124f5
def shared_ngrams(seen, asked, n=8):
    """The share of the runs of n tokens in `asked`, (N,), that occur in `seen`, (M,); 0.0 for none at all."""
    known, runs = (list(zip(*(ids[i:].tolist() for i in range(n)))) for ids in (seen, asked))
    known = set(known)
    return sum(run in known for run in runs) / max(1, len(runs))
