"""How a reader's piece is called in the place of the course's, where the two are not called alike.

Each function takes the reader's definition and the module that it goes into, and returns what is put in.
"""

# Written by hand: it only hands arguments on.

import functools

SAMPLING = {"temperature", "top_k", "top_p", "generator"}
USUAL = {"padding": None, "cache": None, "repetition_penalty": 1.0}
set_aside = set()  # pieces that a run could not use, since its settings ask for more


def learn_merges(mine, module):
    return lambda word_counts, n_merges, progress=False: mine(word_counts, n_merges)


def merge_by_rank(mine, module):
    """The library writes tokens as characters, the exercise as bytes."""
    tables = {}

    def ranks_of(table):
        if id(table) not in tables:
            spelling = {chr(byte): bytes([byte]) for byte in range(256)}
            merges = sorted((token, pair) for pair, token in table.items() if len(pair) == 2)
            for token, (left, right) in merges:
                spelling[token] = spelling[left] + spelling[right]
            pairs = [(spelling[left], spelling[right]) for _, (left, right) in merges]
            ranks = {pair: rank for rank, pair in enumerate(pairs)}
            tables[id(table)] = table, spelling, ranks, {token: letter for letter, token in spelling.items()}
        return tables[id(table)][1:]

    def merge(word, table):
        spelling, ranks, letters = ranks_of(table)
        return [letters[token] for token in mine(b"".join(map(spelling.__getitem__, word)), ranks)]

    return merge


def decode_bytes(mine, module):
    return lambda self, ids: mine(ids.tolist() if hasattr(ids, "tolist") else list(ids), self._bytes)


def rotate_pairs(mine, module):
    """Halves in place of pairs stay the course's, and 16-bit numbers are turned in 32 bits."""
    ours = module.rotate_pairs

    def rotate(x, cos_sin, interleaved=True):
        if not interleaved:
            return ours(x, cos_sin, interleaved)
        return mine(x.to(cos_sin.dtype), cos_sin).to(x.dtype)

    return rotate


def causal_mask(mine, module):
    """More keys than queries, as with a cache, stay the course's."""
    ours = module.causal_mask

    def mask(T, S=None, device=None):
        return ours(T, S, device) if S not in (None, T) else mine(T).to(device)

    return mask


def attention(mine, module):
    """Dropout stays the course's."""
    ours = module.scaled_dot_product_attention

    def attend(q, k, v, mask=None, dropout_p=0.0):
        return ours(q, k, v, mask, dropout_p) if dropout_p else mine(q, k, v, mask)

    return attend


def cross_entropy(mine, module):
    """Label smoothing stays the course's."""
    ours = module.cross_entropy

    def loss(logits, targets, label_smoothing=0.0, ignore_index=-100, reduction="mean"):
        if label_smoothing:
            return ours(logits, targets, label_smoothing, ignore_index, reduction)
        logits = logits if logits.element_size() >= 4 else logits.float()
        mean = mine(logits, targets, ignore_index)
        return mean if reduction == "mean" else mean * (targets != ignore_index).sum()

    return loss


def train_step(mine, module):
    """Float16 with its scaler, and label smoothing, stay the course's."""
    import torch

    ours = module.train_step

    def step(state, batches, config, loss_of=module.summed_loss):
        device = next(state.model.parameters()).device
        precision = module.pick_precision(config.precision, device)
        if precision == torch.float16 or config.label_smoothing:
            set_aside.add("train_step")
            return ours(state, batches, config, loss_of)
        for group in state.optimizer.param_groups:
            group["lr"] = config.rate(state.step)
        moved = [(inputs.to(device), targets.to(device)) for inputs, targets in batches]
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss, norm = mine(state.model, state.optimizer, moved, config.max_norm)
        state.step += 1
        state.windows += sum(len(inputs) for inputs, _ in batches)
        numbers = {"step": state.step, "loss": float(loss), "lr": group["lr"], "grad_norm": float(norm)}
        if not numbers["loss"] < float("inf"):
            raise FloatingPointError(f"the loss of step {state.step} is {numbers['loss']}")
        return numbers | {"scale": 1.0}

    return step


def layer_cache(mine, module):
    """The library's takes the most tokens that a model reads, and how many to begin with."""

    class LayerCache(mine):
        def __init__(self, limit, capacity=256):
            super().__init__(limit)

    return LayerCache


def generate_steps(mine, module):
    """The reader's loop, a few tokens at a time. Ragged batches, penalties and chats stay the course's."""
    ours = module.generate_steps

    @functools.wraps(ours)
    def steps(model, token_ids, max_new_tokens, eos_id=None, use_cache=True, n_vocab=None, **options):
        sampling = {name: options.pop(name) for name in SAMPLING & options.keys()}
        if not use_cache or any(options.get(name, usual) != usual for name, usual in USUAL.items()):
            options |= dict(eos_id=eos_id, use_cache=use_cache, n_vocab=n_vocab)
            yield from ours(model, token_ids, max_new_tokens, **options, **sampling)
            return

        def pick(logits):  # (B, V) -> (B,)
            return module.sample_next(logits[:, :n_vocab].float(), **sampling)

        context, start, left = model.config.context_length, 0, max_new_tokens
        cache, finished = module.KVCache(model.config, context), None
        while left > 0 and (finished is None or not finished.all()):
            if token_ids.size(1) - start > context:  # go on with the newest half
                start = token_ids.size(1) - max(1, context // 2)
                cache.rewind(0)
            n = min(left, 8, context - (token_ids.size(1) - start) + 1)
            longer = mine(model, token_ids[:, start:], n, pick, cache)  # (B, T + n)
            for next_ids in longer[:, token_ids.size(1) - start :].unbind(1):
                if eos_id is not None:
                    next_ids = next_ids if finished is None else next_ids.masked_fill(finished, eos_id)
                    finished = next_ids == eos_id if finished is None else finished | (next_ids == eos_id)
                token_ids, left = module.torch.cat([token_ids, next_ids.unsqueeze(1)], dim=1), left - 1
                yield next_ids
                if finished is not None and finished.all():
                    return

    return steps


def gpt(mine, module):
    """The reader's GPT is of Llama's kind; for settings that ask for more the course's is made."""
    ours = module.GPT

    class Mine(mine):
        def forward(self, token_ids, cache=None, positions=None, mask=None, last_only=False):
            if positions is not None or mask is not None:
                raise ValueError("your GPT of exercise 6.12 takes no positions and no mask")
            logits = super().forward(token_ids, cache)
            return logits[:, -1:] if last_only else logits

        def attention_weights(self, token_ids):
            """For pictures alone: the course's GPT with these weights says who looks at whom."""
            model = ours(self.config).to(token_ids.device)
            model.load_state_dict(self.state_dict())
            return model.attention_weights(token_ids)

    class GPT(ours):
        def __new__(cls, config):
            llama = (config.norm, config.norm_position, config.activation, config.position)
            if llama == ("rmsnorm", "pre", "swiglu", "rope") and not config.bias and not config.dropout:
                return Mine(config)
            set_aside.add("GPT")
            return super().__new__(cls)

    return GPT
