"""From text to text: streaming, and the surprisal of a text."""

# Written by `make export` from ch06_inference.ipynb; change it there.

import codecs

import torch

from .generation import generate_steps

__all__ = [
    "decode_pieces",
    "until",
    "stream",
    "surprises",
]

# %% ch06_inference.ipynb #393927d3
def decode_pieces(tokenizer, ids):
    """An iterable of ids -> str pieces as soon as they are whole characters; joined they are the text.

    Bytes that never become a character turn into U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for index in ids:
        piece = decoder.decode(tokenizer.decode_bytes([index]))
        if piece:
            yield piece
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest

# %% ch06_inference.ipynb #c0241a8b
def until(stop_id, steps):
    """Steps of one row, (1,) each -> their ids, up to stop_id, which is left out."""
    for next_ids in steps:
        if next_ids.item() == stop_id:
            return
        yield next_ids.item()


def stream(model, tokenizer, prompt, max_new_tokens, **options):
    """Yield the continuation of a text piece by piece, as str; options are those of generate_steps.

    It ends at <|endoftext|>, and an empty prompt starts there. Special tokens in the prompt stay text.
    """
    eot = tokenizer.special_tokens.get("<|endoftext|>")
    ids = [tokenizer.encode_ordinary(prompt) or [tokenizer.eot_token]]
    ids = torch.tensor(ids, device=model.lm_head.weight.device)
    options = {"n_vocab": tokenizer.n_vocab, "eos_id": eot} | options
    yield from decode_pieces(tokenizer, until(eot, generate_steps(model, ids, max_new_tokens, **options)))

# %% ch06_inference.ipynb #7eeb9c3b
@torch.no_grad()
def surprises(model, tokenizer, text):
    """The tokens of a text and the surprisal of each, -log p: (list of T bytes, (T,) float32 tensor of nats).

    The first token is judged after <|endoftext|>. Windows overlap by half, so that each later token has at
    least half a context before it. ValueError for an empty text.
    """
    ids = [tokenizer.eot_token, *tokenizer.encode_ordinary(text)]
    if len(ids) < 2:
        raise ValueError("the text is empty; give at least one token")
    ids = torch.tensor(ids, device=model.lm_head.weight.device)  # (T + 1,)
    context, nats = model.config.context_length, []
    stride = max(1, context // 2)
    for start in range(0, max(1, len(ids) - 1 - (context - stride)), stride):
        window = ids[start : start + context + 1]  # (n + 1,)
        log_p = model(window[None, :-1])[0].float().log_softmax(dim=-1)  # (n, V)
        found = -log_p.gather(-1, window[1:, None]).squeeze(-1)  # (n,)
        nats.append(found if start == 0 else found[context - stride :])
    return [tokenizer.decode_bytes([index]) for index in ids[1:].tolist()], torch.cat(nats).cpu()
