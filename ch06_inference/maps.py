"""Looking inside: attention maps of every head, pictures of them, and scores of what heads look at."""

# Written by `make export` from ch06_inference.ipynb; change it there.

import torch

from .figures import browse_attention, plot_attention
from .previous_chapters import printable

__all__ = [
    "attention_maps",
    "previous_token_scores",
    "first_token_scores",
    "induction_scores",
    "browse_attention",
    "plot_attention",
]

# %% ch06_inference.ipynb #3131d06a
def attention_maps(model, tokenizer, text):
    """The tokens of a text, a list of T labels, and the weights of every layer and head, (L, H, T, T).

    ValueError for an empty text, and one longer than the context.
    """
    ids, context = tokenizer.encode_ordinary(text), model.config.context_length
    if not 0 < len(ids) <= context:
        raise ValueError(f"the text has {len(ids)} tokens; this model looks at 1 to {context} at once")
    maps = model.attention_weights(torch.tensor([ids], device=model.lm_head.weight.device))  # (L, 1, H, T, T)
    tokens = [printable(tokenizer.decode_bytes([index])) for index in ids]
    return tokens, maps[:, 0].float().cpu()  # (L, H, T, T)

# %% ch06_inference.ipynb #23c6395a
def previous_token_scores(maps):
    """How much each head looks at the token before: (L, H, T, T) -> (L, H), 0 to 1."""
    return maps.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=-1)  # weights [t, t - 1]


def first_token_scores(maps):
    """How much each head looks at the very first token: (L, H, T, T) -> (L, H), 0 to 1."""
    return maps[..., 1:, 0].mean(dim=-1)


@torch.no_grad()
def induction_scores(model, n_tokens=50, n_rows=4, generator=None):
    """How much each head looks at what followed the same token the last time: (L, H), 0 to 1.

    On rows of random tokens, written twice: the prefix matching score of Olsson et al. 2022.
    """
    device, V = model.lm_head.weight.device, model.config.vocab_size
    half = torch.randint(V, (n_rows, n_tokens), generator=generator).to(device)  # (R, n)
    maps = model.attention_weights(torch.cat([half, half], dim=1))  # (L, R, H, 2n, 2n)
    looks_back = maps.diagonal(offset=1 - n_tokens, dim1=-2, dim2=-1)  # weights [t, t - n + 1], t >= n - 1
    return looks_back[..., 1:].mean(dim=(1, -1)).float().cpu()  # (L, R, H, n) -> (L, H)
