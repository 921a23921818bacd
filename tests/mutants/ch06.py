"""Chapter 6: answers that are right in another way, and answers that are wrong in a typical way."""

VARIANTS = {
    "6.1": """def probabilities(logits, temperature):
    if not temperature:
        return F.one_hot(logits.max(dim=1).indices, logits.shape[1]).to(logits)
    scaled = logits / temperature
    return torch.exp(scaled - torch.logsumexp(scaled, dim=1, keepdim=True))
""",
    "6.2": """def top_k_filter(logits, k):
    rank = logits.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return torch.where(rank < k, logits, torch.tensor(-math.inf, device=logits.device, dtype=logits.dtype))
""",
    "6.3": """def top_p_filter(logits, p):
    filtered = torch.full_like(logits, float("-inf"))
    for row, (scores, shares) in enumerate(zip(logits, logits.double().softmax(dim=-1))):
        reached = 0.0
        for place in shares.argsort(descending=True).tolist():
            if reached >= p * (1 - 1e-7) and p < 1:
                break
            filtered[row, place] = scores[place]
            reached += shares[place].item()
    return filtered
""",
    "6.4": """def sample_next(logits, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature == 0:
        return logits.max(dim=-1).indices
    scaled = logits / temperature
    if top_k:
        scaled = keep_k(scaled, top_k)
    if top_p:
        scaled = keep_p(scaled, top_p)
    noise = torch.rand(scaled.shape, generator=generator, device=scaled.device)
    return (scaled - (-noise.log()).log()).argmax(dim=-1)
""",
    "6.5": """class LayerCache:
    def __init__(self, capacity):
        self.room = capacity
        self.length = 0

    def append(self, keys, values):
        T = keys.shape[2]
        if not hasattr(self, "keys"):
            sizes = (*keys.shape[:2], self.room, keys.shape[3])
            self.keys = torch.zeros(sizes, dtype=keys.dtype, device=keys.device)
            self.values = torch.zeros_like(self.keys)
        for t in range(T):
            self.keys[:, :, self.length] = keys[:, :, t]
            self.values[:, :, self.length] = values[:, :, t]
            self.length += 1
        return self.keys.narrow(2, 0, self.length).clone(), self.values.narrow(2, 0, self.length).clone()
""",
    "6.6": """@torch.inference_mode()
def generate(model, token_ids, max_new_tokens, pick, cache):
    if max_new_tokens == 0:
        return token_ids
    B, T = token_ids.shape
    ids = token_ids.new_zeros(B, T + max_new_tokens)
    ids[:, :T] = token_ids
    read = cache.length
    for t in range(T, T + max_new_tokens):
        ids[:, t] = pick(model(ids[:, read:t], cache=cache)[:, -1, :])
        read = t
    return ids
""",
    "6.7": """def pad_left(rows, pad_id):
    T = max(map(len, rows))
    token_ids = torch.full((len(rows), T), pad_id)
    padding = torch.zeros(len(rows), dtype=torch.long)
    for b, row in enumerate(rows):
        padding[b] = T - len(row)
        token_ids[b, T - len(row) :] = torch.tensor(row)
    return token_ids, padding


def skip_padding(earlier, T, padding):
    S = earlier + T
    positions = torch.zeros(len(padding), T, dtype=torch.long, device=padding.device)
    mask = torch.zeros(len(padding), 1, T, S, dtype=torch.bool, device=padding.device)
    for b, n in enumerate(padding.tolist()):
        for t in range(T):
            positions[b, t] = max(0, earlier + t - n)
            for s in range(S):
                mask[b, 0, t, s] = n <= s <= earlier + t
    return positions, mask
""",
    "6.8": """def chat_ids(tokenizer, messages):
    def ids_of(text):
        return tokenizer.encode_ordinary(text)

    start, end = (tokenizer.special_tokens[f"<|im_{name}|>"] for name in ("start", "end"))
    parts = []
    for role, text in messages:
        parts.append([start] + ids_of(role) + ids_of("\\n") + ids_of(text) + [end] + ids_of("\\n"))
    parts.append([start] + ids_of("assistant") + ids_of("\\n"))
    return sum(parts, [])


def answer_ids(ids, next_id, end, max_new_tokens):
    text = ids.copy()
    while len(text) < len(ids) + max_new_tokens and (index := next_id(text)) != end:
        text = text + [index]
    return text[len(ids) :]
""",
    "6.9": """def split_c_attn(weight):
    D = weight.shape[0]
    return tuple(weight[:, n * D : (n + 1) * D].T.contiguous() for n in range(3))


def to_interleaved(weight, head_dim):
    result = torch.empty_like(weight)
    for first in range(0, len(weight), head_dim):
        head = weight[first : first + head_dim]
        result[first : first + head_dim : 2] = head[: head_dim // 2]
        result[first + 1 : first + head_dim : 2] = head[head_dim // 2 :]
    return result
""",
    "6.10": """@torch.no_grad()
def surprisal(model, token_ids):
    C, T = model.config.context_length, len(token_ids) - 1
    result = torch.zeros(T, device=token_ids.device)
    start = done = 0
    while done < T:
        end = min(start + C, T)
        logits = model(token_ids[start:end].unsqueeze(0)).squeeze(0).to(torch.float32)
        nats = F.cross_entropy(logits, token_ids[start + 1 : end + 1], reduction="none")
        result[done:end] = nats[done - start :]
        start, done = start + C // 2, end
    return result
""",
    "6.11": """def decode_block(block):
    import struct

    step, smallest = struct.unpack("<2e", block[:4])
    weights = torch.empty(32)
    for i, byte in enumerate(block[4:]):
        high, low = divmod(byte, 16)
        weights[i], weights[i + 16] = smallest + step * low, smallest + step * high
    return weights
""",
}
MUTANTS = {
    "6.1": [
        ("multiplies by the temperature", "logits / temperature", "logits * temperature"),
        (
            "divides the probabilities",
            "(logits / temperature).softmax(dim=-1)",
            "logits.softmax(dim=-1) / temperature",
        ),
        ("temperature changes nothing", "(logits / temperature)", "logits"),
        ("goes down the columns", ".softmax(dim=-1)", ".softmax(dim=0)"),
        (
            "overflow",
            "def probabilities(logits, temperature):\n"
            "    if temperature == 0:\n        return F.one_hot(logits.argmax(-1), "
            "logits.shape[-1]).float()\n"
            "    weights = torch.exp(logits / temperature)\n    return weights / weights.sum(-1, "
            "keepdim=True)",
        ),
        ("divides by zero", "if temperature == 0:", "if temperature < 0:"),
        (
            "equally good tokens share",
            "def probabilities(logits, temperature):\n    if temperature == 0:\n"
            "        temperature = 1e-9\n    return torch.softmax(logits / temperature, dim=-1)",
        ),
        (
            "returns the ids",
            "return torch.zeros_like(logits).scatter(-1, best, 1.0)",
            "return best.squeeze(-1)",
        ),
        (
            "only one row",
            "def probabilities(logits, temperature):\n    if temperature == 0:\n"
            "        return torch.where(logits == logits.max(), 1.0, 0.0)\n    return F.softmax(logits / "
            "temperature, dim=1)",
        ),
        (
            "Expected the dtype float32, got int64",
            "return torch.zeros_like(logits).scatter(-1, best, 1.0)",
            "return F.one_hot(best.squeeze(-1), logits.size(-1))",
        ),
        (
            "should have the sum 1",
            "(logits / temperature).softmax(dim=-1)",
            "(logits.softmax(dim=-1)) ** (1 / temperature)",
        ),
        (
            "changes its arguments",
            "return (logits / temperature)",
            "logits /= temperature\n    return logits",
        ),
        ("stops before the softmax", "(logits / temperature).softmax(dim=-1)", "logits / temperature"),
        ("logarithms", ".softmax(dim=-1)", ".log_softmax(dim=-1)"),
        ("small temperature is taken for 0", "if temperature == 0:", "if temperature < 0.1:"),
        ("should be the first", "logits.argmax(dim=-1, keepdim=True)", "logits.topk(1).indices"),
        (
            "should be the first",
            "def probabilities(logits, temperature):\n    if not temperature:\n        last = "
            "logits.size(-1) - 1 - logits.flip(-1).argmax(-1)\n        return F.one_hot(last, "
            "logits.size(-1)).float()\n    return torch.softmax(logits / temperature, dim=-1)",
        ),
    ],
    "6.2": [
        (
            "Equal logits slip through",
            "def top_k_filter(logits, k):\n    kth = torch.topk(logits, min(k, logits.shape[-1]))[0][:, -1]\n"
            "    out = logits.clone()\n    out[logits < kth[:, None]] = -math.inf\n    return out",
        ),
        (
            "Equal logits are lost",
            "def top_k_filter(logits, k):\n    if k >= logits.shape[-1]:\n        return logits\n"
            "    bar = logits.sort(-1, descending=True)[0][:, k]\n"
            "    return logits.masked_fill(logits <= bar[:, None], float('-inf'))",
        ),
        ("become 0", "torch.full_like(logits, -math.inf)", "torch.zeros_like(logits)"),
        ("keeps the smallest", "dim=-1)  # values and", "dim=-1, largest=False)  # values and"),
        (
            "the other way round",
            "def top_k_filter(logits, k):\n    best = logits.topk(min(k, logits.size(-1))).indices\n"
            "    return logits.scatter(-1, best, -math.inf)",
        ),
        (
            "best rows of every column",
            "def top_k_filter(logits, k):\n    best = logits.topk(min(k, len(logits)), dim=0)\n"
            "    return torch.full_like(logits, -math.inf).scatter(0, best.indices, best.values)",
        ),
        (
            "returns only the k best",
            "return dropped.scatter(-1, best.indices, best.values)",
            "return best.values",
        ),
        ("A k above V", "min(k, logits.size(-1))", "k"),
        (
            "one token fewer than k",
            "def top_k_filter(logits, k):\n    kth = logits.sort(-1).values[:, -min(k, logits.size(-1)), "
            "None]\n"
            "    return torch.where(logits > kth, logits, -math.inf)",
        ),
        (
            "but not the k best",
            "def top_k_filter(logits, k):\n    out = logits.clone()\n    out[:, k:] = -math.inf\n    return "
            "out",
        ),
        ("one token fewer than k", "min(k, logits.size(-1))", "min(max(k - 1, 1), logits.size(-1))"),
        ("one token more than k", "min(k, logits.size(-1))", "min(k + 1, logits.size(-1))"),
        ("returns probabilities", "best.values)  # (B, V)", "best.values).softmax(-1)"),
        (
            "moved to the front",
            "def top_k_filter(logits, k):\n    values = logits.sort(dim=-1, descending=True).values\n"
            "    values[:, k:] = -math.inf\n    return values",
        ),
        (
            "changes its arguments",
            "def top_k_filter(logits, k):\n    rank = logits.argsort(-1, descending=True).argsort(-1)\n"
            "    logits[rank >= k] = -math.inf\n    return logits",
        ),
        (
            "the k best of the whole batch",
            "def top_k_filter(logits, k):\n    flat = logits.reshape(-1)\n"
            "    keep = flat.argsort(descending=True)[:k]\n    out = torch.full_like(flat, -math.inf)\n"
            "    out[keep] = flat[keep]\n    return out.view(logits.shape)",
        ),
        ("very negative number", "torch.full_like(logits, -math.inf)", "torch.full_like(logits, -100.0)"),
        (
            "very negative number",
            "torch.full_like(logits, -math.inf)",
            "torch.full_like(logits, torch.finfo(logits.dtype).min)",
        ),
        (
            "A k above V drops everything",
            "best = logits.topk(min(k, logits.size(-1)), dim=-1)",
            "if k > logits.size(-1):\n        return torch.full_like(logits, -math.inf)\n    best = "
            "logits.topk(k, dim=-1)",
        ),
        (
            "Equal logits slip through",
            "def top_k_filter(logits, k):\n    return logits.masked_fill(logits < "
            "logits.topk(k).values[..., -1:], -math.inf)",
        ),
        ("has become a probability", "best = logits.topk(", "best = logits.softmax(-1).topk("),
        ("has another dtype", "torch.full_like(logits, -math.inf)", "torch.full(logits.shape, -math.inf)"),
        (
            "float32, whatever comes",
            "def top_k_filter(logits, k):\n    out = torch.full(logits.shape, -math.inf)\n    for b, row in "
            "enumerate(logits):\n        places = row.argsort(descending=True)[:k]\n        out[b, places] "
            "= row[places].float()\n    return out",
        ),
        (
            "another one than before",
            "def top_k_filter(logits, k):\n    places = logits.argsort(dim=-1, descending=True)[:, :k]\n    "
            "return torch.full_like(logits, -math.inf).scatter(-1, places, logits)",
        ),
    ],
    "6.3": [
        (
            "that crosses p is dropped",
            "def top_p_filter(logits, p):\n"
            "    values, order = logits.sort(dim=-1, descending=True)\n    sums = "
            "values.softmax(-1).cumsum(-1)\n"
            "    drop = sums > p\n    drop[:, 0] = False\n"
            "    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -math.inf)",
        ),
        (
            "nothing is left",
            "def top_p_filter(logits, p):\n    values, order = logits.sort(dim=-1, descending=True)\n"
            "    drop = values.softmax(-1).cumsum(-1) > p\n"
            "    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -math.inf)",
        ),
        (
            "Rounding decides",
            "def top_p_filter(logits, p):\n    values, order = logits.sort(dim=-1, descending=True)\n"
            "    shares = values.softmax(-1)\n    drop = shares.cumsum(-1) - shares >= p\n"
            "    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -math.inf)",
        ),
        ("Rounding decides", " * (1 + 1e-6)", ""),
        (
            "as they stand",
            "def top_p_filter(logits, p):\n    shares = logits.softmax(-1)\n"
            "    return logits.masked_fill(shares.cumsum(-1) - shares >= p, -math.inf)",
        ),
        (
            "used in the original one",
            "def top_p_filter(logits, p):\n    ordered = logits.sort(dim=-1, "
            "descending=True).values.softmax(-1)\n"
            "    before = ordered.cumsum(-1) - ordered\n    return logits.masked_fill(before >= p, "
            "-math.inf)",
        ),
        (
            "goes the wrong way",
            "torch.empty_like(dropped).scatter(-1, order, dropped)",
            "dropped.gather(-1, order)",
        ),
        (
            "The result is sorted",
            "return logits.masked_fill(dropped",
            "return logits.sort(dim=-1).values.masked_fill(dropped.gather(-1, order)",
        ),
        (
            "compares each probability",
            "dropped = worse < (1 - p) * (1 + 1e-6)",
            "dropped = ordered.softmax(dim=-1) < p",
        ),
        ("become 0", "logits.masked_fill(dropped, -math.inf)", "logits.masked_fill(dropped, 0.0)"),
        ("returns probabilities", "-math.inf)  # (B, V)", "-math.inf).softmax(-1)"),
        (
            "adds up logits",
            "def top_p_filter(logits, p):\n    values, order = logits.sort(dim=-1, descending=True)\n"
            "    drop = values.cumsum(-1) - values >= p\n"
            "    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -math.inf)",
        ),
        ("here it is p", "(1 - p) * (1 + 1e-6)", "p"),
        ("keeps everything", "dropped = worse < (1 - p) * (1 + 1e-6)", "dropped = worse < 0"),
        (
            "kept logit has changed",
            "logits.masked_fill(dropped, -math.inf)",
            "logits.log_softmax(dim=-1).masked_fill(dropped, -math.inf)",
        ),
        ("stops with an error", "dropped[:, -1] = False", "dropped[-1] = Fals"),
        ("whole last row", "dropped[:, -1] = False", "dropped[-1] = False"),
        ("down the columns", "ordered.softmax(dim=-1)", "ordered.softmax(dim=0)"),
        (
            "down the columns",
            "def top_p_filter(logits, p):\n    v, o = logits.sort(0)\n    drop = v.softmax(0).cumsum(0) < "
            "(1 - p) * (1 + 1e-6)\n    drop[-1] = False\n    return "
            "logits.masked_fill(torch.empty_like(drop).scatter(0, o, drop), -math.inf)",
        ),
        ("adds up logits", "ordered.softmax(dim=-1)", "ordered"),
        ("very negative number", "(dropped, -math.inf)", "(dropped, -1e9)"),
        ("nothing is left", "    dropped[:, -1] = False  # the best always stays\n", ""),
        ("Rounding decides", "worse < (1 - p) * (1 + 1e-6)", "worse <= 1 - p"),
        ("that crosses p is dropped", "1e-6", "1e-3"),
        (
            "Rounding decides",
            "def top_p_filter(logits, p):\n    v, o = logits.double().sort(-1, descending=True)\n    n = "
            "(v.softmax(-1).cumsum(-1) < p - 1e-9).sum(-1, keepdim=True) + 1\n    return "
            "logits.masked_fill(o.argsort(-1) >= n, -math.inf)",
        ),
    ],
    "6.4": [
        ("multinomial gets logits", "logits.softmax(dim=-1), 1", "logits, 1"),
        ("takes probabilities", "logits.softmax(dim=-1), 1", "logits.log_softmax(dim=-1), 1"),
        (
            "always takes the best",
            "drawn = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)",
            "drawn = logits.softmax(dim=-1).argmax(dim=-1, keepdim=True)",
        ),
        ("The temperature changes nothing", "logits = logits / temperature", "scaled = logits / temperature"),
        ("It multiplies by the temperature", "logits / temperature", "logits * temperature"),
        (
            "divides by zero",
            "if temperature == 0:\n        return logits.argmax(dim=-1)  # (B, V) -> (B,)\n    ",
            "",
        ),
        (
            "The filters get probabilities",
            "def sample_next(logits, temperature=1.0, top_k=None, top_p=None, generator=None):\n"
            "    if temperature == 0:\n        return logits.argmax(dim=-1)\n"
            "    p = torch.softmax(logits / temperature, dim=-1)\n"
            "    if top_k:\n        p = keep_k(p, top_k)\n"
            "    if top_p:\n        p = keep_p(p, top_p)\n    p = p.masked_fill(p == -math.inf, 0)\n"
            "    return torch.multinomial(p / p.sum(-1, keepdim=True), 1, generator=generator)[:, 0]",
        ),
        ("top_k changes nothing", "logits = keep_k(", "keep_k("),
        ("top_p changes nothing", "logits = keep_p(", "keep_p("),
        (
            "Top p comes before top k",
            "if top_k is not None:\n        logits = keep_k(logits, top_k)  # (B, V)\n    if top_p is not "
            "None:\n"
            "        logits = keep_p(logits, top_p)  # (B, V)",
            "if top_p is not None:\n        logits = keep_p(logits, top_p)\n"
            "    if top_k is not None:\n        logits = keep_k(logits, top_k)",
        ),
        (
            "comes after the filters",
            "def sample_next(logits, temperature=1.0, top_k=None, top_p=None, generator=None):\n"
            "    if temperature == 0:\n        return logits.argmax(-1)\n    if top_k:\n        logits = "
            "keep_k(logits, top_k)\n"
            "    if top_p:\n        logits = keep_p(logits, top_p)\n    shares = torch.softmax(logits / "
            "temperature, -1)\n"
            "    return torch.multinomial(shares, 1, generator=generator)[:, 0]",
        ),
        ("shape (B, 1)", "return drawn.squeeze(-1)", "return drawn"),
        ("does not hand the generator", ", generator=generator)", ")"),
        (
            "One row is drawn for the whole batch",
            "drawn = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)",
            "drawn = torch.multinomial(logits[0].softmax(dim=-1), 1, "
            "generator=generator).expand(len(logits), 1)",
        ),
        (
            "a filter should have dropped",
            "logits = keep_k(logits, top_k)",
            "logits = keep_k(logits, top_k + 1)",
        ),
        ("in other shares", "logits.softmax(dim=-1), 1", "logits.softmax(dim=-1).sqrt(), 1"),
        ("changes its arguments", "logits = logits / temperature", "logits /= temperature"),
        (
            "more ids than a row has tokens",
            "logits.softmax(dim=-1), 1, generator=generator)",
            "logits.softmax(dim=-1), len(logits), generator=generator)[:, :1]",
        ),
        ("The exponentials overflow", "logits.softmax(dim=-1)", "logits.exp()"),
        ("down the columns", "logits.softmax(dim=-1)", "logits.softmax(dim=0)"),
        ("stops with an error: RuntimeError: shape", "drawn.squeeze(-1)", "drawn.view(len(drawn), 2)"),
        (
            "stops with an error: RuntimeError",
            "logits = logits / temperature",
            "logits = logits / torch.tensor([temperature, temperature])",
        ),
        ("takes probabilities", "logits.softmax(dim=-1), 1", "(logits * 0 + math.inf).softmax(dim=-1), 1"),
        ("only one is used when both", "    if top_p is not None:", "    elif top_p is not None:"),
        ("left of top_p", "keep_p(logits, top_p)", "keep_p(logits, 1 - top_p)"),
        ("dimension of the rows is lost", "drawn.squeeze(-1)", "drawn.squeeze()"),
        (
            "a seed of its own",
            "generator=generator)  # (B, V)",
            "generator=torch.Generator(logits.device).manual_seed(0))  # (B, V)",
        ),
        (
            "a seed of its own",
            "drawn = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)",
            "torch.manual_seed(0)\n    drawn = torch.multinomial(logits.softmax(dim=-1), 1)",
        ),
        (
            "Temperature 0 draws too",
            "if temperature == 0:\n        return logits.argmax(dim=-1)  # (B, V) -> (B,)\n    logits = "
            "logits / temperature",
            "logits = logits / max(temperature, 1e-8)",
        ),
        (
            "Temperature 0 draws too",
            "if temperature == 0:\n",
            "if temperature == 0:\n        torch.multinomial(logits.softmax(dim=-1), 1, "
            "generator=generator)\n",
        ),
        ("first of equally good tokens", "logits.argmax(dim=-1)", "logits.topk(1).indices[:, 0]"),
        (
            "another id comes out",
            "logits = logits / temperature",
            "logits = (logits / temperature).sort(dim=-1, descending=True).values",
        ),
    ],
    "6.5": [
        (
            "memory grows",
            "class LayerCache:\n    def __init__(self, capacity):\n        self.length, self.keys, "
            "self.values = 0, None, None\n\n"
            "    def append(self, keys, values):\n        if self.length:\n"
            "            keys = torch.cat([self.keys[:, :, : self.length], keys], dim=2)\n"
            "            values = torch.cat([self.values[:, :, : self.length], values], dim=2)\n"
            "        self.keys, self.values, self.length = keys, values, keys.shape[2]\n        return "
            "keys, values",
        ),
        ("only the new", "return self.keys[:, :, :end], self.values[:, :, :end]", "return keys, values"),
        (
            "whole memory",
            "class LayerCache:\n    def __init__(self, capacity):\n        self.capacity, self.length = "
            "capacity, 0\n"
            "        self.keys = None\n\n    def append(self, keys, values):\n        end = self.length + "
            "keys.size(2)\n"
            "        if self.keys is None:\n            B, H, _, d = keys.shape\n"
            "            self.keys = keys.new_zeros(B, H, self.capacity, d)\n            self.values = "
            "torch.zeros_like(self.keys)\n"
            "        self.keys[:, :, self.length : end] = keys\n        self.values[:, :, self.length : "
            "end] = values\n"
            "        self.length = end\n        return self.keys, self.values",
        ),
        ("length stays 0", "self.length = end", "length = end"),
        ("that came last", "self.length = end", "self.length = keys.size(2)"),
        ("counts calls", "self.length = end", "self.length += 1"),
        ("number of rows", "self.length = end", "self.length += len(keys)"),
        (
            "values returned are keys",
            "self.values[:, :, start:end] = values",
            "self.values[:, :, start:end] = keys",
        ),
        (
            "Keys and values have changed places",
            "return self.keys[:, :, :end], self.values[:, :, :end]",
            "return self.values[:, :, :end], self.keys[:, :, :end]",
        ),
        (
            "does not rewind",
            "class LayerCache:\n    def __init__(self, capacity):\n        self.capacity, self.length, "
            "self.end = capacity, 0, 0\n\n"
            "    def append(self, keys, values):\n        if self.end == 0:\n            B, H, _, d = "
            "keys.shape\n"
            "            self.keys = keys.new_zeros(B, H, self.capacity, d)\n            self.values = "
            "torch.zeros_like(self.keys)\n"
            "        self.keys[:, :, self.end : self.end + keys.size(2)] = keys\n"
            "        self.values[:, :, self.end : self.end + keys.size(2)] = values\n        self.end += "
            "keys.size(2)\n"
            "        self.length = self.end\n        return self.keys[:, :, : self.end], self.values[:, :, "
            ": self.end]",
        ),
        (
            "memory is float32",
            "class LayerCache:\n    def __init__(self, capacity):\n        self.capacity, self.length, "
            "self.keys = capacity, 0, None\n\n"
            "    def append(self, keys, values):\n        B, H, T, d = keys.shape\n        if self.keys is "
            "None:\n"
            "            self.keys = torch.zeros(B, H, self.capacity, d, device=keys.device)\n"
            "            self.values = torch.zeros(B, H, self.capacity, d, device=keys.device)\n"
            "        self.keys[:, :, self.length : self.length + T] = keys\n"
            "        self.values[:, :, self.length : self.length + T] = values\n        self.length += T\n"
            "        return self.keys[:, :, : self.length], self.values[:, :, : self.length]",
        ),
        (
            "memory aside anew, and what was there is lost",
            "if self.keys is None:\n            B, H, _, d = keys.shape\n"
            "            self.keys = keys.new_empty(B, H, self.capacity, d)\n            self.values = "
            "values.new_empty(B, H, self.capacity, d)",
            "if True:\n            B, H, _, d = keys.shape\n            self.keys = keys.new_zeros(B, H, "
            "self.capacity, d)\n"
            "            self.values = values.new_zeros(B, H, self.capacity, d)",
        ),
        (
            "to the beginning",
            "B, H, _, d = keys.shape\n            self.keys = keys.new_empty(B, H, self.capacity, d)\n"
            "            self.values = values.new_empty(B, H, self.capacity, d)\n        self.keys[:, :, "
            "start:end] = keys\n"
            "        self.values[:, :, start:end] = values",
            "B, H, _, d = keys.shape\n"
            "            self.keys = keys.new_zeros(B, H, self.capacity, d)\n            self.values = "
            "torch.zeros_like(self.keys)\n"
            "        self.keys[:, :, : keys.size(2)] = keys\n        self.values[:, :, : keys.size(2)] = "
            "values",
        ),
        (
            "Expected the shape (1, 1, 2, 1), got (1, 2, 1, 1)",
            "class LayerCache:\n    def __init__(self, capacity):\n"
            "        self.capacity, self.length, self.keys = capacity, 0, None\n\n"
            "    def append(self, keys, values):\n        B, H, T, d = keys.shape\n"
            "        if self.keys is None:\n            self.keys = keys.new_zeros(B, self.capacity, H, d)\n"
            "            self.values = keys.new_zeros(B, self.capacity, H, d)\n"
            "        start, self.length = self.length, self.length + T\n"
            "        self.keys[:, start : self.length] = keys.transpose(1, 2)\n"
            "        self.values[:, start : self.length] = values.transpose(1, 2)\n"
            "        return tuple(t[:, : self.length].transpose(1, 2) for t in (self.keys, self.values))",
        ),
        (
            "stops with an error",
            "self.keys = self.values = None  # (B, Hkv, capacity, d), once the sizes are known\n",
            "\n",
        ),
        (
            "one and the same memory",
            "self.values = values.new_empty(B, H, self.capacity, d)",
            "self.values = self.keys",
        ),
        (
            "land behind what is handed",
            "class LayerCache:\n    def __init__(self, capacity):\n        self.capacity, self.length, "
            "self.keys = capacity, 0, None\n\n    def append(self, keys, values):\n        B, H, T, d = "
            "keys.shape\n        if self.keys is None:\n            self.keys = keys.new_zeros(B, H, "
            "self.capacity, d)\n            self.values = torch.zeros_like(self.keys)\n        self.length "
            "+= T\n        self.keys[:, :, self.length : self.length + T] = keys\n        self.values[:, :, "
            "self.length : self.length + T] = values\n        return self.keys[:, :, : self.length], "
            "self.values[:, :, : self.length]",
        ),
        (
            "does not hand out what it was given",
            "return self.keys[:, :, :end], self.values[:, :, :end]",
            "return self.keys[:, :, : end - 1], self.values[:, :, : end - 1]",
        ),
    ],
    "6.6": [
        ("reads the whole text again", "token_ids[:, cache.length :]", "token_ids"),
        (
            "also where they were off before the call",
            "def generate(model, token_ids, max_new_tokens, pick, cache):\n"
            "    torch.set_grad_enabled(False)\n    for _ in range(max_new_tokens):\n"
            "        logits = model(token_ids[:, cache.length :], cache)\n"
            "        token_ids = torch.cat([token_ids, pick(logits[:, -1]).unsqueeze(1)], dim=1)\n"
            "    torch.set_grad_enabled(True)\n    return token_ids",
        ),
        (
            "works without the cache",
            "def generate(model, token_ids, max_new_tokens, pick, cache):\n"
            "    for _ in range(max_new_tokens):\n        with torch.no_grad():\n            logits = "
            "model(token_ids)\n"
            "        token_ids = torch.cat((token_ids, pick(logits[:, -1])[:, None]), 1)\n    return "
            "token_ids",
        ),
        ("also the first", "token_ids[:, cache.length :]", "token_ids[:, -1:]"),
        (
            "though the cache may hold its beginning",
            "def generate(model, token_ids, max_new_tokens, pick, cache):\n"
            "    new = token_ids\n    for _ in range(max_new_tokens):\n        with torch.no_grad():\n"
            "            new = pick(model(new, cache)[:, -1]).unsqueeze(1)\n        token_ids = "
            "torch.cat([token_ids, new], dim=1)\n"
            "    return token_ids",
        ),
        (
            "reads the last token too",
            "    return token_ids",
            "    with torch.no_grad():\n        model(token_ids[:, cache.length :], cache)\n"
            "    return token_ids",
        ),
        (
            "returns only the new tokens",
            "def generate(model, token_ids, max_new_tokens, pick, cache):\n    out = []\n"
            "    for _ in range(max_new_tokens):\n        with torch.no_grad():\n"
            "            out.append(pick(model(token_ids[:, cache.length :], cache)[:, -1]))\n"
            "        token_ids = torch.cat([token_ids, out[-1][:, None]], dim=1)\n"
            "    return token_ids[:, token_ids.size(1) - max_new_tokens :]",
        ),
        ("first position read", "[:, -1]  # (B, n, V)", "[:, 0]  # (B, n, V)"),
        ("whatever pick says", "pick(logits)", "logits.argmax(dim=-1)"),
        ("Gradients are kept", "with torch.no_grad():", "if True:"),
        ("one token too few", "range(max_new_tokens)", "range(1, max_new_tokens)"),
        ("one token too many", "range(max_new_tokens)", "range(max_new_tokens + 1)"),
        ("pick takes logits (B, V)", "[:, -1]  # (B, n, V)", "  # (B, n, V)"),
        (
            "should be those of token_ids, unchanged",
            "def generate(model, token_ids, max_new_tokens, pick, cache):\n    ids = token_ids\n"
            "    with torch.no_grad():\n        for _ in range(max_new_tokens):\n"
            "            ids = torch.cat([pick(model(ids[:, cache.length :], cache)[:, -1])[:, None], ids], "
            "dim=1)\n    return ids",
        ),
        (
            "the model reads more or less",
            "    for _ in range(max_new_tokens):",
            "    length = token_ids.size(1) - 1\n"
            "    if max_new_tokens and not cache.length and length:\n        with torch.no_grad():\n"
            "            model(token_ids[:, :length], cache)\n    for _ in range(max_new_tokens):",
        ),
        (
            "in the first call",
            "def generate(model, token_ids, max_new_tokens, pick, cache):\n    logits = model(token_ids[:, "
            "cache.length :], cache)\n    with torch.no_grad():\n        for i in "
            "range(max_new_tokens):\n            new = pick(logits[:, -1])[:, None]\n            token_ids "
            "= torch.cat([token_ids, new], 1)\n            if i < max_new_tokens - 1:\n                "
            "logits = model(new, cache)\n    return token_ids",
        ),
        ("one token too early", "cache.length :", "cache.length - 1 :"),
        ("pick gets probabilities", "pick(logits)", "pick(logits.softmax(-1))"),
        (
            "gradients off for good",
            "def generate(model, token_ids, max_new_tokens, pick, cache):\n    "
            "torch.set_grad_enabled(False)\n    for _ in range(max_new_tokens):\n        logits = "
            "model(token_ids[:, cache.length :], cache)[:, -1]\n        token_ids = torch.cat([token_ids, "
            "pick(logits)[:, None]], dim=1)\n    return token_ids",
        ),
    ],
    "6.7": [
        ("filled up at the right", "[pad_id] * n + row", "row + [pad_id] * n"),
        (
            "holds the lengths",
            "torch.tensor(padding)  # (B, T)",
            "torch.tensor([len(row) for row in rows])  # (B, T)",
        ),
        ("always 0", "[pad_id] * n", "[0] * n"),
        (
            "count from the first column",
            "columns[earlier:] - padding.unsqueeze(1)",
            "columns[earlier:].expand(len(padding), -1)",
        ),
        ("negative positions", "positions.clamp(min=0), mask", "positions, mask"),
        ("start again at 0", "columns[earlier:] - padding", "columns[:T] - padding"),
        ("given for all columns", "columns[earlier:] - padding", "columns - padding"),
        (
            "should hide them and the filling",
            "causal_mask(T, earlier + T, padding.device) & real[:, None, None]",
            "real[:, None, None].expand(-1, 1, T, -1)",
        ),
        ("does not hide the filling", "& real[:, None, None]", "& torch.ones_like(real)[:, None, None]"),
        ("first real token too", "columns >= padding", "columns > padding"),
        ("shows the filling", "columns >= padding", "columns < padding"),
        ("True means hidden", "min=0), mask", "min=0), ~mask"),
        ("no dimension for the heads", "real[:, None, None]", "real[:, None]"),
        (
            "new columns only",
            "def skip_padding(earlier, T, padding):\n    columns = torch.arange(T, device=padding.device)\n"
            "    real = columns >= padding[:, None]\n    positions = (columns + earlier - padding[:, "
            "None]).clamp(min=0)\n"
            "    return positions, causal_mask(T, T, padding.device) & real[:, None, None]",
        ),
        (
            "sees itself and nothing before",
            "causal_mask(T, earlier + T, padding.device)",
            "torch.ones(T, earlier + T, dtype=torch.bool, device=padding.device).tril()",
        ),
        (
            "begin at 1",
            "columns[earlier:] - padding.unsqueeze(1)",
            "columns[earlier:] - padding.unsqueeze(1) + 1",
        ),
        (
            "as a query and not as a key",
            "def skip_padding(earlier, T, padding):\n    columns = torch.arange(earlier + T, "
            "device=padding.device)\n"
            "    real = columns[earlier:] >= padding[:, None]\n    positions = (columns[earlier:] - "
            "padding[:, None]).clamp(min=0)\n"
            "    return positions, causal_mask(T, earlier + T, padding.device) & real[:, None, :, None]",
        ),
        ("mask of the prompt: Expected the dtype bool, got float32", "min=0), mask", "min=0), mask.float()"),
        (
            "padding counts the ids that are pad_id",
            "torch.tensor(padding)  # (B, T)",
            "(torch.tensor(filled) == pad_id).sum(1)  # (B, T)",
        ),
        (
            "does not see itself",
            "causal_mask(T, earlier + T, padding.device)",
            "(columns < columns[earlier:, None])",
        ),
        ("one of the two is enough", "& real[:, None, None]", "| real[:, None, None]"),
        (
            "takes the last columns",
            "columns >= padding.unsqueeze(1)",
            "columns < earlier + T - padding.unsqueeze(1)",
        ),
        ("counted backwards", "positions.clamp(min=0)", "positions.abs()"),
    ],
    "6.8": [
        (
            "What a user types becomes special",
            "def chat_ids(tokenizer, messages):\n    text = ''\n    for role, words in messages:\n"
            "        text += f'<|im_start|>{role}\\n{words}<|im_end|>\\n'\n    text += "
            "'<|im_start|>assistant\\n'\n"
            "    return tokenizer.encode(text, allowed_special='all')",
        ),
        (
            "ordinary characters",
            "def chat_ids(tokenizer, messages):\n    text = ''.join(f'<|im_start|>{r}\\n{t}<|im_end|>\\n' "
            "for r, t in messages)\n"
            "    return tokenizer.encode_ordinary(text + '<|im_start|>assistant\\n')",
        ),
        ("encode refuses", 'tokenizer.encode_ordinary(f"{role}', 'tokenizer.encode(f"{role}'),
        (
            "ends before the assistant's turn",
            'return [*ids, start, *tokenizer.encode_ordinary("assistant\\n")]',
            "return ids",
        ),
        ("closed at once", 'encode_ordinary("assistant\\n")]', 'encode_ordinary("assistant\\n"), end]'),
        ("behind the assistant's role", '"assistant\\n"', '"assistant"'),
        ("opened without a role", '*tokenizer.encode_ordinary("assistant\\n")]', "]"),
        ("line break behind <|im_end|> is missing", 'end, *tokenizer.encode_ordinary("\\n")]', "end]"),
        ("roles are missing", 'f"{role}\\n{text}"', "text"),
        ("something else than a line break", 'f"{role}\\n{text}"', 'f"{role}: {text}"'),
        (
            "Messages are not ended",
            ', end, *tokenizer.encode_ordinary("\\n")]',
            ', *tokenizer.encode_ordinary("\\n")]',
        ),
        ("Only the last message", "for role, text in messages:", "for role, text in [messages[-1]]:"),
        ("in the role of the user", 'f"{role}\\n{text}"', 'f"user\\n{text}"'),
        (
            "includes the end",
            "        if index == end:\n            break\n        answer.append(index)\n",
            "        answer.append(index)\n        if index == end:\n            break\n",
        ),
        ("goes on behind its end", "        if index == end:\n            break\n", ""),
        ("asked with the same ids", "next_id([*ids, *answer])", "next_id(ids)"),
        ("begins with the prompt", "    return answer", "    return ids + answer"),
        (
            "changes the list",
            "def answer_ids(ids, next_id, end, max_new_tokens):\n    answer = []\n    for _ in "
            "range(max_new_tokens):\n"
            "        index = next_id(ids)\n        if index == end:\n            break\n        "
            "answer.append(index)\n        ids.append(index)\n"
            "    return answer",
        ),
        ("one token too many", "range(max_new_tokens)", "range(max_new_tokens + 1)"),
        ("asked on", "            break\n", "            continue\n"),
        ("Special tokens are not where they belong", "ids += [start, *token", "ids += [start, start, *token"),
        (
            "Expected a list, got a tensor",
            'return [*ids, start, *tokenizer.encode_ordinary("assistant\\n")]',
            'return torch.tensor([*ids, start, *tokenizer.encode_ordinary("assistant\\n")])',
        ),
        (
            "There are lists in the list",
            'def chat_ids(tokenizer, messages):\n    start, end = tokenizer.special_tokens["<|im_start|>"], '
            'tokenizer.special_tokens["<|im_end|>"]\n    ids = []\n    for role, text in messages:\n        '
            'ids.append(start)\n        ids.append(tokenizer.encode_ordinary(role + "\\n" + text))\n        '
            'ids.append(end)\n        ids.append(tokenizer.encode_ordinary("\\n"))\n    '
            'ids.append(start)\n    ids.append(tokenizer.encode_ordinary("assistant\\n"))\n    return ids',
        ),
        ("the last id alone", "next_id([*ids, *answer])", "next_id((ids + answer)[-1:])"),
        ("the answer alone", "next_id([*ids, *answer])", "next_id(list(answer))"),
        ("asked on and on", "for _ in range(max_new_tokens):", "while True:"),
        ("Role and text have changed places", 'f"{role}\\n{text}"', 'f"{text}\\n{role}"'),
        ("goes on behind its end", "index == end", "index is end"),
    ],
    "6.9": [
        ("lie on their side", "return queries.t(), keys.t(), values.t()", "return queries, keys, values"),
        ("along the wrong dimension", "weight.chunk(3, dim=1)", "weight.t().chunk(3, dim=1)"),
        (
            "in another shape",
            "def split_c_attn(weight):\n    D = len(weight)\n    q, k, v = weight.reshape(3, D, D)\n    "
            "return q, k, v",
        ),
        (
            "every third column",
            "def split_c_attn(weight):\n    return weight[:, ::3].T, weight[:, 1::3].T, weight[:, 2::3].T",
        ),
        (
            "order of the three",
            "return queries.t(), keys.t(), values.t()",
            "return keys.t(), queries.t(), values.t()",
        ),
        ("from interleaved to half-split", "(-1, 2, head_dim // 2)", "(-1, head_dim // 2, 2)"),
        ("taken as one", "(-1, 2, head_dim // 2)", "(1, 2, -1)"),
        ("rows are as they were", "return pairs.flatten(0, 2)", "return halves.flatten(0, 2)"),
        (
            "as wholes",
            "def to_interleaved(weight, head_dim):\n    heads = weight.unflatten(0, (-1, head_dim))\n"
            "    return heads.roll(head_dim // 2, dims=1).flatten(0, 1)",
        ),
        ("second half first", "pairs.flatten(0, 2)", "pairs.flip(2).flatten(0, 2)"),
        (
            "mixes heads",
            "def to_interleaved(weight, head_dim):\n    return weight.unflatten(0, (-1, "
            "head_dim)).transpose(0, 1).flatten(0, 1)",
        ),
        (
            "rearranges columns",
            "def to_interleaved(weight, head_dim):\n    if weight.dim() == 1:\n"
            "        return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten()\n"
            "    return weight.unflatten(1, (-1, 2, head_dim // 2)).transpose(2, 3).flatten(1, 3)",
        ),
        ("keep the split dimensions", "return pairs.flatten(0, 2)", "return pairs"),
        ("stops with an error", "pairs.flatten(0, 2)", "pairs.view(weight.shape)"),
        (
            "in another shape",
            "queries, keys, values = weight.chunk(3, dim=1)",
            "queries, keys, values = weight.reshape(3, len(weight), len(weight))",
        ),
        (
            "come as one tensor",
            "return queries.t(), keys.t(), values.t()",
            "return torch.stack([queries.t(), keys.t(), values.t()])",
        ),
        (
            "Expected the dtype float64, got float32",
            "def to_interleaved(weight, head_dim):\n    out = torch.zeros(weight.shape)\n    half = "
            "head_dim // 2\n    for first in range(0, len(weight), head_dim):\n        for r in "
            "range(half):\n            out[first + 2 * r], out[first + 2 * r + 1] = weight[first + r], "
            "weight[first + r + half]\n    return out",
        ),
    ],
    "6.10": [
        (
            "switches gradients on at its end",
            "def surprisal(model, token_ids):\n    torch.set_grad_enabled(False)\n"
            "    C = model.config.context_length\n    s, T = C // 2, len(token_ids) - 1\n"
            "    out, done, start = [], 0, 0\n    while done < T:\n        end = min(start + C, T)\n"
            "        z = model(token_ids[None, start:end])[0].float()\n"
            '        nats = F.cross_entropy(z, token_ids[start + 1:end + 1], reduction="none")\n'
            "        out.append(nats[done - start:])\n        done, start = end, start + s\n"
            "    torch.set_grad_enabled(True)\n    return torch.cat(out)",
        ),
        ("token that was just read", "window[1:, None]", "window[:-1, None]"),
        ("the wrong sign", "found = -log_p", "found = log_p"),
        (
            "bits, with the logarithm of base 2",
            "squeeze(-1)  # (n, V) -> (n, 1) -> (n,)",
            "squeeze(-1) / math.log(2)",
        ),
        (
            "its surprise infinite",
            "logits.float().log_softmax(dim=-1)",
            "logits.float().softmax(dim=-1).log()",
        ),
        (
            "no such help",
            "logits.float().log_softmax(dim=-1)",
            "(logits.float().softmax(dim=-1) + 1e-9).log()",
        ),
        (
            "The windows do not overlap",
            "def surprisal(model, token_ids):\n    C, found = model.config.context_length, []\n"
            "    for i in range(0, len(token_ids) - 1, C):\n"
            "        part = token_ids[i : i + C + 1]\n        with torch.no_grad():\n"
            "            logits = model(part[:-1].unsqueeze(0))[0].float()\n"
            "        found.append(F.cross_entropy(logits, part[1:], reduction='none'))\n"
            "    return torch.cat(found)",
        ),
        ("come twice", "found if start == 0 else found[context - stride :]", "found"),
        ("the older half counts here", "found[context - stride :]", "found[:stride]"),
        (
            "judged anew in the later window",
            "def surprisal(model, token_ids):\n"
            "    C, T = model.config.context_length, len(token_ids) - 1\n"
            "    out = torch.zeros(T, device=token_ids.device)\n    start = 0\n    while True:\n"
            "        end = min(start + C, T)\n        with torch.no_grad():\n"
            "            logits = model(token_ids[None, start:end])[0].float()\n"
            "        out[start:end] = F.cross_entropy(logits, "
            "token_ids[start + 1 : end + 1], reduction='none')\n        if end == T:\n"
            "            return out\n        start += C // 2",
        ),
        ("With an odd C", "found[context - stride :]", "found[stride:]"),
        ("Of the last window", "found[context - stride :]", "found[-stride:]"),
        (
            "The last tokens are missing",
            "len(token_ids) - 1 - (context - stride)",
            "len(token_ids) - context",
        ),
        (
            "ends after one window",
            "def surprisal(model, token_ids):\n    C = model.config.context_length\n"
            "    ids = token_ids[: C + 1]\n    with torch.no_grad():\n"
            "        logits = model(ids[None, :-1])[0].float()\n"
            "    return F.cross_entropy(logits, ids[1:], reduction='none')",
        ),
        ("more tokens than its context has", "model(window[None, :-1])[0]", "model(window[None])[0, :-1]"),
        (
            "more tokens than its context has",
            "def surprisal(model, token_ids):\n    with torch.no_grad():\n"
            "        logits = model(token_ids[None, :-1])[0].float()\n"
            "    return F.cross_entropy(logits, token_ids[1:], reduction='none')",
        ),
        ("a batch of one row", "model(window[None, :-1])[0]", "model(window[:-1])"),
        ("in bfloat16", "logits.float().log_softmax(dim=-1)", "logits.log_softmax(dim=-1).float()"),
        ("in bfloat16", "logits.float().log_softmax(dim=-1)", "logits.log_softmax(dim=-1)"),
        ("keep gradients", "with torch.no_grad():", "if True:"),
        ("switched off afterwards", "context, nats =", "torch.set_grad_enabled(False)\n    context, nats ="),
        (
            "begin with <|endoftext|> here",
            "window = token_ids[start : start + context + 1]",
            "window = token_ids[start : start + context + 1].clone()\n        window[0] = token_ids[0]",
        ),
        (
            "as many tokens before it as fit",
            "def surprisal(model, token_ids):\n    C, out = model.config.context_length, []\n"
            "    for t in range(1, len(token_ids)):\n        with torch.no_grad():\n"
            "            logits = model(token_ids[None, max(0, t - C) : t])[0, -1].float()\n"
            "        out.append(-logits.log_softmax(-1)[token_ids[t]])\n"
            "    return torch.stack(out)",
        ),
        ("one number, for the whole text", "return torch.cat(nats)", "return torch.cat(nats).mean()"),
        (
            "one number for each window",
            "def surprisal(model, token_ids):\n    C, out = model.config.context_length, []\n"
            "    s = C // 2\n    for start in range(0, max(1, len(token_ids) - 1 - (C - "
            "s)), s):\n        part = token_ids[start : start + C + 1]\n"
            "        with torch.no_grad():\n"
            "            logits = model(part[None, :-1])[0].float()\n"
            "        out.append(F.cross_entropy(logits, part[1:]))\n"
            "    return torch.stack(out)",
        ),
        ("as many tokens before it as fit", "stride = context // 2", "stride = 1"),
        ("The first C tokens are right", "stride = context // 2", "stride = context - 1"),
        ("over the places", "log_softmax(dim=-1)", "log_softmax(dim=0)"),
        ("most probable token", "-log_p.gather(-1, window[1:, None]).squeeze(-1)", "-log_p.max(-1).values"),
        ("a dimension too many", "return torch.cat(nats)", "return torch.cat(nats).unsqueeze(0)"),
        ("surprises below 0", "logits.float().log_softmax(dim=-1)", "logits.float().softmax(dim=-1)"),
        ("one token short", "start + context + 1]", "start + context]"),
    ],
    "6.11": [
        (
            "next to each other here",
            "np.concatenate([pairs & 15, pairs >> 4])",
            "np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)",
        ),
        (
            "the high half comes first",
            "def decode_block(block):\n    step, smallest = np.frombuffer(block, np.float16, "
            "2).astype(np.float32)\n    numbers = [int(c, 16) for c in block[4:].hex()]\n"
            "    return smallest + step * np.array(numbers, np.float32)",
        ),
        ("The high halves come first", "[pairs & 15, pairs >> 4]", "[pairs >> 4, pairs & 15]"),
        ("have changed places", "step, smallest = np", "smallest, step = np"),
        ("in the other order", "block[:4], np.float16", "block[:4], '>f2'"),
        (
            "turned into whole numbers",
            "np.frombuffer(block[:4], np.float16)",
            "np.frombuffer(block[:4], np.uint16)",
        ),
        (
            "read as bfloat16",
            "def decode_block(block):\n"
            "    step, smallest = torch.frombuffer(bytearray(block[:4]), "
            "dtype=torch.bfloat16).float()\n"
            "    n = torch.tensor([b & 15 for b in block[4:]] + [b >> 4 for b in block[4:]])\n"
            "    return smallest + step * n",
        ),
        (
            "from 8 down and up",
            "smallest + step * numbers",
            "smallest + step * (numbers.astype(np.float32) - 8)",
        ),
        ("smallest value is left out", "return smallest + step * numbers", "return step * numbers"),
        ("multiplied by the step", "smallest + step * numbers", "(smallest + numbers) * step"),
        ("rounded to float16", ".astype(np.float32)", ""),
        (
            "rounded to float16",
            "def decode_block(block):\n"
            "    step, smallest = torch.frombuffer(bytearray(block[:4]), dtype=torch.float16)\n"
            "    n = torch.tensor([b % 16 for b in block[4:]] + [b // 16 for b in block[4:]])\n"
            "    return (smallest + step * n).float()",
        ),
        ("sixteen times too large", "pairs >> 4", "pairs & 240"),
        ("whole byte here", "[pairs & 15, pairs >> 4]", "[pairs, pairs >> 4]"),
        ("have no sign", "block[4:], np.uint8", "block[4:], np.int8"),
        ("from the wrong bytes", "block[4:], np.uint8", "block[2:18], np.uint8"),
        ("from the wrong bytes", "block[4:], np.uint8", "block, np.uint8"),
        ("one half of the numbers", "np.concatenate([pairs & 15, pairs >> 4])", "pairs & 15"),
        ("taken as one number", "np.concatenate([pairs & 15, pairs >> 4])", "pairs"),
        ("These are the numbers 0 to 15", "return smallest + step * numbers", "return numbers"),
        (
            "float64; it should be float32",
            "def decode_block(block):\n    import struct\n"
            "    step, smallest = struct.unpack('<ee', block[:4])\n"
            "    numbers = [b & 15 for b in block[4:]] + [b >> 4 for b in block[4:]]\n"
            "    return np.array([smallest + step * n for n in numbers])",
        ),
        (
            "The result is a list",
            "def decode_block(block):\n    import struct\n"
            "    step, smallest = struct.unpack('<ee', block[:4])\n"
            "    numbers = [b & 15 for b in block[4:]] + [b >> 4 for b in block[4:]]\n"
            "    return [smallest + step * n for n in numbers]",
        ),
        ("come as a table", "np.concatenate([", "np.stack(["),
        ("above the largest value", "smallest + step * numbers", "smallest + step * (numbers + 1)"),
        (
            "below the smallest value",
            "smallest + step * numbers",
            "smallest + step * (numbers - np.float32(1))",
        ),
        ("more than sixteen different", "pairs & 15", "pairs & 31"),
        (
            "second float is taken",
            "smallest + step * numbers",
            "step + (smallest - step) * numbers / np.float32(15)",
        ),
        (
            "not in the right places",
            "numbers = np.concatenate([pairs & 15, pairs >> 4])",
            "numbers = np.concatenate([pairs & 15, pairs >> 4])[::-1]",
        ),
        (
            "Bytes cannot do what arrays can",
            "np.frombuffer(block[:4], np.float16)",
            "block[:4].view(np.float16)",
        ),
        (
            "Bytes cannot do what arrays can",
            "np.concatenate([pairs & 15, pairs >> 4])",
            "np.concatenate([block[4:] & 15, block[4:] >> 4])",
        ),
    ],
}
