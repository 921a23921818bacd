"""What models reach that only count: the losses that a GPT has to beat."""

# Written by `make export` from ch05_deeper.ipynb; change it there.

import math
from collections import Counter

import torch

__all__ = [
    "bigram_losses",
    "unigram_of",
    "baseline_losses",
]

# %% ch05_deeper.ipynb #0ccf5791
def bigram_losses(seen, asked, vocab_size, priors):
    """{prior: nats a token} of tables of pairs, counted in the ids `seen`, on the ids `asked`; each (N,).

    prior: virtual counts, alpha in the text; a Dirichlet prior (MacKay and Peto 1995, section 3).
    """
    V, unigram = vocab_size, unigram_of(seen, vocab_size)
    pairs = Counter((seen[:-1] * V + seen[1:]).tolist())
    n_ab = torch.tensor([pairs[pair] for pair in (asked[:-1] * V + asked[1:]).tolist()])  # (N - 1,)
    n_a = torch.bincount(seen[:-1], minlength=V)[asked[:-1]]  # (V,) -> (N - 1,)
    p_b = unigram[asked[1:]]  # (V,) -> (N - 1,)
    return {alpha: -((n_ab + alpha * p_b) / (n_a + alpha)).log().mean().item() for alpha in priors}


def unigram_of(seen, vocab_size):
    """How probable each token is, from the ids `seen`, each counted once more than it occurs: (V,)."""
    counts = torch.bincount(seen, minlength=vocab_size) + 1.0
    return counts / counts.sum()

# %% ch05_deeper.ipynb #9bd83d15
def baseline_losses(train_data, val_data, vocab_size):
    """What models that only count reach on val_data: {"uniform", "unigram", "bigram": nats a token}.

    Both are TokenDatasets. The bigram's prior is the best on the last tenth of train_data.
    """
    seen, asked = train_data.token_ids, val_data.token_ids
    cut = len(seen) - max(2, len(seen) // 10)
    tried = bigram_losses(seen[:cut], seen[cut:], vocab_size, (1, 3, 10, 30, 100, 300, 1000))
    best = min(tried, key=tried.get)
    return {
        "uniform": math.log(vocab_size),
        "unigram": -unigram_of(seen, vocab_size)[asked[1:]].log().mean().item(),
        "bigram": bigram_losses(seen, asked, vocab_size, [best])[best],
    }
