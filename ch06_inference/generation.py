"""Sampling, the key/value cache, and the loop that generates: token ids in, token ids out."""

# Written by `make export` from ch06_inference.ipynb; change it there.

import math

import torch

from .previous_chapters import causal_mask

__all__ = [
    "top_k_filter",
    "top_p_filter",
    "sample_next",
    "penalise_repeats",
    "LayerCache",
    "KVCache",
    "cache_bytes",
    "pad_left",
    "skip_padding",
    "newer_half",
    "replace_filling",
    "generate_steps",
    "generate",
]

# %% ch06_inference.ipynb #19e84b5a
def top_k_filter(logits, k):
    """Keep the k largest logits of each row, exactly k even when some are equal; the others become -inf.

    (B, V) -> (B, V). A k above V keeps all.
    """
    best = logits.topk(min(k, logits.size(-1)), dim=-1)  # values and indices, (B, k) each
    return torch.full_like(logits, -math.inf).scatter(-1, best.indices, best.values)

# %% ch06_inference.ipynb #b3502180
def top_p_filter(logits, p):
    """Keep the smallest set of tokens whose probabilities reach p, at least one; the others become -inf.

    (B, V) -> (B, V). Holtzman et al. 2020, section 3.1. ValueError for a p outside (0, 1].
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p={p} must be above 0 and at most 1; leave it out to keep all tokens")
    ordered, order = logits.sort(dim=-1)  # (B, V) each, the worst first
    rest = ordered.float().softmax(dim=-1).cumsum(dim=-1)  # (B, V): each token and all that are worse
    dropped = rest < (1 - p) * (1 + 1e-6)  # with room for rounding: a millionth
    dropped[..., -1] = False  # the best always stays
    return logits.masked_fill(torch.empty_like(dropped).scatter(-1, order, dropped), -math.inf)

# %% ch06_inference.ipynb #3b338eab
def sample_next(logits, temperature=1.0, top_k=None, top_p=None, generator=None):
    """Choose the next token of each row: logits (B, V) -> token ids (B,).

    Temperature 0 takes the most probable. Otherwise: divide by the temperature, keep the top k, of these the
    top p, draw. ValueError for a temperature that is negative or not finite, a top_k below 1, and a top_p
    outside (0, 1].
    """
    if not 0 <= temperature < math.inf or (top_k is not None and top_k < 1):
        raise ValueError(f"temperature={temperature} must be finite and at least 0, top_k={top_k} at least 1")
    if temperature == 0:
        return logits.argmax(dim=-1)  # (B, V) -> (B,); the filters always keep the best
    logits = logits.float() / max(temperature, 1e-20)  # (B, V); in 32 bits 1e-46 would be 0
    if top_k is not None:
        logits = top_k_filter(logits, top_k)
    if top_p is not None:
        logits = top_p_filter(logits, top_p)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(-1)  # (B, V) -> (B,)

# %% ch06_inference.ipynb #e60e4035
def penalise_repeats(logits, token_ids, penalty):
    """Make tokens that occurred already less probable: logits (B, V), token_ids (B, T) -> (B, V).

    A positive logit is divided by `penalty`, a negative one multiplied: Keskar et al. 2019, section 4.1.
    1 changes nothing; 1.1 to 1.3 is usual. ValueError for a penalty outside 0.001 to 1,000.
    """
    if not 0.001 <= penalty <= 1000:
        raise ValueError(f"repetition_penalty={penalty} must be 0.001 to 1,000; 1.2 is usual, 1 does nothing")
    seen = logits.gather(-1, token_ids)  # (B, T)
    return logits.scatter(-1, token_ids, torch.where(seen > 0, seen / penalty, seen * penalty))

# %% ch06_inference.ipynb #0103552c
class LayerCache:
    """Keys and values of one attention layer, in memory that is set aside beforehand.

    Room for `capacity` tokens at first; when it is used up it doubles, until `limit`. ValueError for more or
    fewer rows than it holds.
    """

    def __init__(self, limit, capacity=256):
        self.limit, self.capacity, self.length = limit, max(1, min(capacity, limit)), 0
        self.keys = self.values = None  # (B, Hkv, capacity, d), once their shape is known

    def append(self, keys, values):
        """The keys and values of the next T tokens, (B, Hkv, T, d) -> of all so far, (B, Hkv, S, d)."""
        start, end = self.length, self.length + keys.size(2)
        if self.keys is not None and len(keys) != len(self.keys):
            raise ValueError(f"the cache holds {len(self.keys)} rows and {len(keys)} came; make a new one")
        if self.keys is None or end > self.capacity:
            self.reserve(keys, end)
        self.keys[:, :, start:end], self.values[:, :, start:end] = keys, values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    @torch.inference_mode(False)  # memory made in inference mode could not be written to outside of it
    def reserve(self, like, n_tokens):
        """Set memory aside for `n_tokens` or more, shaped like `like` (B, Hkv, T, d), and move there."""
        while self.capacity < n_tokens:
            self.capacity *= 2
        self.capacity = max(n_tokens, min(self.capacity, self.limit))
        B, H, _, d = like.shape
        shape, n = (B, H, self.capacity, d), self.length
        keys, values = like.new_empty(shape), like.new_empty(shape)
        if n:
            keys[:, :, :n], values[:, :, :n] = self.keys[:, :, :n], self.values[:, :, :n]
        self.keys, self.values = keys, values

# %% ch06_inference.ipynb #9b49ebed
class KVCache:
    """The keys and values of every layer of a GPT: give it to `model(token_ids, cache)` with new tokens only.

    capacity: tokens for which memory is set aside at first. The model refuses what would pass its context.
    """

    def __init__(self, config, capacity=256):
        self.layers = [LayerCache(config.context_length, capacity) for _ in range(config.n_layers)]

    def __getitem__(self, layer):
        return self.layers[layer]

    @property
    def length(self):
        """How many tokens it holds."""
        return self.layers[0].length

    @property
    def n_bytes(self):
        """The memory it has set aside."""
        return sum(t.nbytes for layer in self.layers for t in (layer.keys, layer.values) if t is not None)

    def rewind(self, length):
        """Keep only the first `length` tokens. ValueError when there are fewer."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind to {length} tokens: the cache holds {self.length}")
        for layer in self.layers:
            layer.length = length  # what comes behind is overwritten

# %% ch06_inference.ipynb #60923cba
def cache_bytes(config, batch_size, n_tokens, dtype=torch.float32):
    """Keys and values x layers x rows x key/value heads x tokens x head size x bytes a number."""
    head_dim = config.d_model // config.n_heads
    return 2 * config.n_layers * batch_size * config.kv_heads * n_tokens * head_dim * dtype.itemsize

# %% ch06_inference.ipynb #8cfad851
def pad_left(rows, pad_id=0):
    """Rows of ids of different lengths -> token_ids (B, T), and padding (B,): how many fill a row's left."""
    rows = [torch.as_tensor(row) for row in rows]
    padding = max(map(len, rows)) - torch.tensor([len(row) for row in rows])  # (B,)
    filled = [torch.cat([row.new_full((n,), pad_id), row]) for row, n in zip(rows, padding.tolist())]
    return torch.stack(filled), padding

# %% ch06_inference.ipynb #f0358255
def skip_padding(earlier, T, padding):
    """Positions (B, T) and a causal mask (B, 1, T, S) for rows whose left is filled up; S = earlier + T.

    T columns come behind `earlier` ones; padding: (B,) int64, how many of a row only fill it.
    """
    columns = torch.arange(earlier + T, device=padding.device)  # (S,)
    real = (columns >= padding.unsqueeze(1))[:, None, None]  # (B, S) -> (B, 1, 1, S)
    positions = (columns[earlier:] - padding.unsqueeze(1)).clamp(min=0)  # (B, T)
    return positions, causal_mask(T, earlier + T, padding.device) & real  # (B, 1, T, S)

# %% ch06_inference.ipynb #6ffb1f70
def newer_half(begins, T, context):
    """Where in T columns a row is read from, (B,) -> (B,): if it is full, half a context before the end."""
    return torch.where(T - begins > context, T - max(1, context // 2), begins)

# %% ch06_inference.ipynb #89ee3877
def replace_filling(token_ids, padding):
    """token_ids (B, T) with each row's last token in place of what fills it up at the left.

    ValueError for a padding that leaves no token in a row, or is negative.
    """
    if not ((padding >= 0) & (padding < token_ids.size(1))).all():
        raise ValueError(f"padding={padding.tolist()} leaves no token in a row, or is negative; use pad_left")
    columns = torch.arange(token_ids.size(1), device=token_ids.device)  # (T,)
    return token_ids.where(columns >= padding.unsqueeze(1), token_ids[:, -1:])  # (B, T)

# %% ch06_inference.ipynb #6806b927
def generate_steps(model, token_ids, max_new_tokens, eos_id=None, use_cache=True, padding=None, cache=None,
                   n_vocab=None, repetition_penalty=1.0, **sampling):  # fmt: skip
    """Yield the next ids (B,), at most max_new_tokens times; `generate` says what most arguments mean.

    token_ids: (B, T), the whole text. cache: a KVCache that holds its first tokens, fewer than T. It is
    filled on the way: all but the last token that came out are then in it, and the model refuses what would
    pass its context. n_vocab: ids from there on are never chosen.
    """
    if eos_id is not None and eos_id not in range(model.config.vocab_size):
        raise ValueError(f"eos_id={eos_id} is not one of this model's ids; take the tokenizer's eot_token")
    context, own_cache, start, where = model.config.context_length, cache is None, 0, {}
    if own_cache and use_cache:
        cache = KVCache(model.config, token_ids.size(1) + max_new_tokens)
    finished = torch.zeros(len(token_ids), dtype=torch.bool, device=token_ids.device)  # (B,)
    begins = torch.zeros(len(token_ids), dtype=torch.long)  # (B,), on the CPU
    if padding is not None:
        token_ids, begins = replace_filling(token_ids, padding), padding.cpu()
    for _ in range(max_new_tokens):
        if own_cache and token_ids.size(1) - start > context:  # full: some rows go on with half a context
            begins = newer_half(begins, token_ids.size(1), context)
            start = begins.min().item()  # the first column that is read
            if use_cache:
                cache.rewind(0)
        held = cache.length if cache is not None else 0
        new = token_ids[:, start + held :]  # (B, those that are not in the cache)
        if padding is not None:
            left = (begins - start).to(token_ids.device)  # (B,): the filling of each row
            where["positions"], where["mask"] = skip_padding(held, new.size(1), left)
        with torch.inference_mode():  # no_grad with less to remember, and so about a tenth faster
            logits = model(new, cache, last_only=True, **where)[:, -1, :n_vocab].float()  # (B, V)
        if repetition_penalty != 1:
            logits = penalise_repeats(logits, token_ids, repetition_penalty)
        next_ids = sample_next(logits, **sampling)  # (B, V) -> (B,)
        if eos_id is not None:
            next_ids = next_ids.masked_fill(finished, eos_id)
            finished |= next_ids == eos_id
        yield next_ids
        if eos_id is not None and finished.all():
            return
        token_ids = torch.cat([token_ids, next_ids.unsqueeze(1)], dim=1)  # (B, T + 1)

# %% ch06_inference.ipynb #817f8f20
def generate(model, token_ids, max_new_tokens, temperature=1.0, top_k=None, top_p=None, eos_id=None,
             use_cache=True, generator=None, padding=None, repetition_penalty=1.0):  # fmt: skip
    """Continue each row: token_ids (B, T) -> (B, T + n), n = max_new_tokens, or fewer if all rows end.

    temperature 0 is greedy; top_k and top_p filter; repetition_penalty above 1 avoids what was said, in all
    of the text; eos_id ends a row, which is then filled with it; padding (B,) is that of pad_left. A row that
    passes context_length goes on with its newest context_length // 2 tokens. Call model.eval() first.
    ValueError for an eos_id that the model does not have, and what replace_filling, sample_next,
    penalise_repeats refuse.
    """
    options = dict(temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
    options |= dict(padding=padding, repetition_penalty=repetition_penalty)
    steps = generate_steps(model, token_ids, max_new_tokens, eos_id, use_cache, **options)
    return torch.cat([token_ids, *(step.unsqueeze(1) for step in steps)], dim=1)  # (B, T + n)
