"""Exercise 6.12: answers that are right in another way, and answers that are wrong in a typical way."""

# ruff: noqa: E501  (edits are quoted as they stand)

NORM = """class RMSNorm(nn.Module):
    def __init__(self, d_model, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x):
        {}
"""
ANGLES = """def rotary_angles(positions, head_dim, theta):
    speeds = torch.tensor([theta ** (-2 * j / head_dim) for j in range(head_dim // 2)], device=positions.device)
    return torch.outer(positions.float(), speeds)


"""
COMPLEX = """def rotate(x, angles):
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).reshape(x.shape).type_as(x)
"""
ROTATE = """def rotate(x, angles):
    even, odd = x[..., ::2], x[..., 1::2]
    result = torch.empty_like(x)
    {}
    return result
"""
ATTENTION = """class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, head_dim = config, config.d_model // config.n_heads
        self.q_proj = nn.Linear(config.d_model, config.n_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(config.d_model, config.kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(config.d_model, config.kv_heads * head_dim, bias=False)
        self.out_proj = nn.Linear(config.n_heads * head_dim, config.d_model, bias=False)

    def forward(self, x, cache=None):
        c, (B, T, D) = self.config, x.shape
        d, past = D // c.n_heads, 0 if cache is None else cache.length
        q = self.q_proj(x).reshape(B, T, c.n_heads, d).permute(0, 2, 1, 3)
        k = self.k_proj(x).reshape(B, T, c.kv_heads, d).permute(0, 2, 1, 3)
        v = self.v_proj(x).reshape(B, T, c.kv_heads, d).permute(0, 2, 1, 3)
        angles = rotary_angles(torch.arange(T, device=x.device) + past, d, c.rope_theta)
        q, k = rotate(q, angles), rotate(k, angles)
        if cache is not None:
            k, v = cache.append(k, v)
        mask = torch.arange(past + T, device=x.device) <= torch.arange(past, past + T, device=x.device)[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return self.out_proj(y.permute(0, 2, 1, 3).reshape(B, T, D))
"""
FEED_FORWARD = """class SwiGLU(nn.Module):
    def __init__(self, d_model, d_ff):
        super().__init__()
        for name in ("gate_proj", "up_proj"):
            setattr(self, name, nn.Linear(d_model, d_ff, bias=False))
        self.down_proj = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x):
        gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(gate * torch.sigmoid(gate) * up)
"""
BLOCK = """class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.feed_forward = SwiGLU(config.d_model, config.ff_width)
        self.attention = Attention(config)
        self.norm1, self.norm2 = (RMSNorm(config.d_model, config.norm_eps) for _ in range(2))

    def forward(self, x, cache=None):
        for norm, layer in ((self.norm1, lambda y: self.attention(y, cache)), (self.norm2, self.feed_forward)):
            x = layer(norm(x)) + x
        return x
"""
MODEL = """class Embedding(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, config.d_model)


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList()
        for _ in range(config.n_layers):
            self.blocks.append(Block(config))
        self.norm = RMSNorm(config.d_model, eps=config.norm_eps)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.apply(self.draw)
        with torch.no_grad():
            for block in self.blocks:
                block.attention.out_proj.weight.div_((2 * config.n_layers) ** 0.5)
                block.feed_forward.down_proj.weight.div_((2 * config.n_layers) ** 0.5)
        if config.tie_weights:
            self.embedding.token.weight = self.lm_head.weight

    def draw(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data = torch.randn_like(module.weight) * self.config.weight_std

    def forward(self, token_ids, cache=None):
        past = cache.length if cache is not None else 0
        if past + token_ids.shape[1] > self.config.context_length:
            raise ValueError("too long")
        x = self.embedding.token.weight[token_ids]
        caches = [cache[i] for i in range(len(self.blocks))] if cache is not None else [None] * len(self.blocks)
        for block, layer_cache in zip(self.blocks, caches):
            x = block(x, cache=layer_cache)
        return self.norm(x) @ self.lm_head.weight.T
"""
TRAIN = """def train(model, batches):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    def step(batch):
        inputs, targets = batch
        optimizer.zero_grad(set_to_none=False)
        log_p = model(inputs).log_softmax(dim=-1)
        counted = targets != -100
        loss = -log_p[counted].gather(-1, targets[counted][:, None]).mean()
        loss.backward()
        optimizer.step()
        return float(loss)
    return list(map(step, batches))
"""
SPEAK = """class LayerCache:
    def __init__(self):
        self.parts = []

    @property
    def length(self):
        return sum(k.shape[2] for k, _ in self.parts)

    def append(self, k, v):
        self.parts.append((k, v))
        return tuple(torch.cat(each, dim=2) for each in zip(*self.parts))


class Cache(list):
    def __init__(self, config):
        super().__init__(LayerCache() for _ in range(config.n_layers))

    @property
    def length(self):
        return self[-1].length


def continue_text(model, token_ids, n):
    cache, out = Cache(model.config), [token_ids]
    with torch.inference_mode():
        while len(out) <= n:
            out.append(model(out[-1], cache)[:, -1:].topk(1).indices[..., 0])
    return torch.cat(out, dim=1)
"""
VARIANTS = {
    "6.12a": NORM.format("return x / x.pow(2).mean(-1, keepdim=True).add(self.eps).sqrt() * self.weight"),
    "6.12b": ANGLES + COMPLEX,
    "6.12c": ATTENTION,
    "6.12d": FEED_FORWARD,
    "6.12e": BLOCK,
    "6.12f": MODEL,
    "6.12g": TRAIN,
    "6.12h": SPEAK,
}


def edits(code, *changes):
    """(words, old, new) -> (words, the variant's code so edited)."""
    for words, old, new in changes:
        assert code.count(old) == 1, f"{old!r} stands {code.count(old)} times"
        yield words, code.replace(old, new)


MUTANTS = {
    "6.12a": [
        ("mean is subtracted", "mean_square = ", "x = x - x.mean(-1, keepdim=True)\n        mean_square = "),
        ("root of it is missing", "x * torch.rsqrt(mean_square + self.eps)", "x / (mean_square + self.eps)"),
        (
            "length of the vector",
            NORM.format("return x / (x.norm(dim=-1, keepdim=True) + self.eps) * self.weight"),
        ),
        ("length of the vector", "x.square().mean(", "x.square().sum("),
        (
            "belongs under the root",
            NORM.format("return x / (x.pow(2).mean(-1, True).sqrt() + self.eps) * self.weight"),
        ),
        ("belongs under the root", "mean_square + self.eps", "mean_square"),
        ("belongs under the root", "        self.eps = eps", "        self.eps = 1e-5"),
        ("over all tokens", "x.square().mean(dim=-1, keepdim=True)", "x.square().mean()"),
        ("weight is not used", " * self.weight", ""),
        ("begin as ones", "torch.ones(d_model)", "torch.zeros(d_model)"),
        (
            "begin as ones",
            NORM.replace("torch.ones", "torch.zeros").format(
                "return x * (x.square().mean(-1, True) + self.eps).rsqrt() * (1 + self.weight)"
            ),
        ),
        ("where it should divide", "torch.rsqrt(", "torch.sqrt("),
        ("wrong with another one", " * self.weight", " + self.weight - 1"),
        (
            "no parameter weight",
            "self.weight = nn.Parameter(torch.ones(d_model))",
            "self.weight = torch.ones(d_model)",
        ),
        ("loses its dimension", "mean(dim=-1, keepdim=True)", "mean(dim=-1)"),
        (
            "is detached",
            "torch.rsqrt(mean_square + self.eps)",
            "torch.rsqrt(mean_square + self.eps).detach()",
        ),
        ("then squared", "x.square().mean(dim=-1, keepdim=True)", "x.mean(dim=-1, keepdim=True) ** 2"),
        (
            "absolute values",
            NORM.format("return x / (x.abs().mean(-1, keepdim=True) + self.eps) * self.weight"),
        ),
        ("standard deviation", "x.square().mean(dim=-1, keepdim=True)", "x.var(dim=-1, keepdim=True)"),
        ("right with a given weight", "torch.ones(d_model)", "torch.randn(d_model)"),
    ],
    "6.12b": [
        (
            "turns the other way",
            "[a * cos - b * sin, a * sin + b * cos]",
            "[a * cos + b * sin, b * cos - a * sin]",
        ),
        (
            "turns the other way",
            ANGLES + COMPLEX.replace("ones_like(angles), angles", "ones_like(angles), -angles"),
        ),
        (
            "number j with number j + d/2",
            ANGLES
            + """def rotate(x, angles):
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    a, b = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-b, a], dim=-1) * sin).to(x.dtype)
""",
        ),
        (
            "not put back next to each other",
            "pairs = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)  # (..., T, d/2, 2)\n    return pairs.flatten(-2)",
            "pairs = torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)\n    return pairs",
        ),
        ("The speeds grow", "theta ** (-torch.arange", "theta ** (torch.arange"),
        (
            "is j/d",
            "torch.arange(0, head_dim, 2, device=positions.device)",
            "torch.arange(head_dim // 2, device=positions.device)",
        ),
        ("4j/d", "theta ** (-torch", "theta ** (-2 * torch"),
        ("counted from 1", "return positions.unsqueeze(1)", "return (1 + positions.unsqueeze(1))"),
        (
            "whatever the argument says",
            "positions.unsqueeze(1) *",
            "torch.arange(len(positions), device=positions.device).unsqueeze(1) *",
        ),
        ("whatever theta says", "speeds = theta **", "speeds = 10000.0 **"),
        ("keep its length", "a * sin + b * cos], dim", "a * sin - b * cos], dim"),
        (
            "sign in one of the two",
            ANGLES
            + ROTATE.format(
                "result[..., ::2] = even * angles.cos() + odd * angles.sin()\n    result[..., 1::2] = even * angles.sin() + odd * angles.cos()"
            ),
        ),
        (
            "needs the old one",
            ANGLES
            + ROTATE.format(
                "even = even * angles.cos() - odd * angles.sin()\n    odd = even * angles.sin() + odd * angles.cos()\n"
                "    result[..., ::2], result[..., 1::2] = even, odd"
            ),
        ),
        ("changed places", "cos, sin = angles.cos(), angles.sin()", "cos, sin = angles.sin(), angles.cos()"),
        ("Expected the dtype bfloat16", "pairs.flatten(-2).to(x.dtype)", "pairs.flatten(-2)"),
        (
            "Expected the dtype float32",
            "return positions.unsqueeze(1) * speeds",
            "return positions.unsqueeze(1).double() * speeds",
        ),
        (
            "Degrees and radians",
            "return positions.unsqueeze(1) * speeds",
            "return (positions.unsqueeze(1) * speeds).rad2deg()",
        ),
        ("keeps no lengths", "a * sin + b * cos], dim", "b], dim"),
        (
            "changes its arguments",
            ANGLES
            + """def rotate(x, angles):
    even, odd = x[..., ::2].clone(), x[..., 1::2].clone()
    x[..., ::2] = even * angles.cos() - odd * angles.sin()
    x[..., 1::2] = even * angles.sin() + odd * angles.cos()
    return x
""",
        ),
        (
            "and round the result",
            "cos, sin = angles.cos(), angles.sin()",
            "cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)",
        ),
        (
            "and round the result",
            ANGLES
            + ROTATE.format(
                "cos, sin = torch.cos(angles.type_as(x)), torch.sin(angles.type_as(x))\n"
                "    result[..., ::2], result[..., 1::2] = even * cos - odd * sin, even * sin + odd * cos"
            ),
        ),
        (
            "Degrees and radians",
            "cos, sin = angles.cos(), angles.sin()",
            "cos, sin = (angles * math.pi / 180).cos(), (angles * math.pi / 180).sin()",
        ),
        (
            "counted from 1. The first pair",
            "torch.arange(0, head_dim, 2, device=positions.device)",
            "torch.arange(2, head_dim + 1, 2, device=positions.device)",
        ),
    ],
    "6.12c": [
        ("not divided by the root of head_dim", " / math.sqrt(self.head_dim)", ""),
        ("divide by its root", "math.sqrt(self.head_dim)", "self.head_dim"),
        ("root of d_model", "math.sqrt(self.head_dim)", "math.sqrt(self.q_proj.in_features)"),
        *edits(
            ATTENTION,
            ("no causal mask", "attn_mask=mask, ", ""),
            ("too few keys", "attn_mask=mask, ", "is_causal=True, "),
            ("With a cache the causal mask is missing", "attn_mask=mask", "is_causal=cache is None"),
            ("own successor", "device=x.device) <=", "device=x.device) - 1 <="),
            ("on its side", "x.device) <= torch", "x.device) >= torch"),
            ("stops with an error", "enable_gqa=True)", ")"),
            ("Nothing is rotated", "q, k = rotate(q, angles), rotate(k, angles)", "pass"),
            (
                "mixes tokens",
                "q = self.q_proj(x).reshape(B, T, c.n_heads, d).permute(0, 2, 1, 3)",
                "q = self.q_proj(x).reshape(B, c.n_heads, T, d)",
            ),
            ("wrong order", "y.permute(0, 2, 1, 3).reshape(B, T, D)", "y.reshape(B, T, D)"),
            ("without a cache: Expected", "y.permute(0, 2, 1, 3).reshape(B, T, D)", "y"),
        ),
        ("does not see itself", "~may_see, -math.inf", "~may_see.tril(past - 1), -1e30"),
        ("still gets a share", "scores.masked_fill(~may_see, -math.inf)", "scores.masked_fill(~may_see, 0)"),
        (
            "mask comes after the softmax",
            "scores.masked_fill(~may_see, -math.inf).softmax(dim=-1)",
            "scores.softmax(dim=-1) * may_see",
        ),
        (
            "over the queries",
            ".masked_fill(~may_see, -math.inf).softmax(dim=-1)",
            ".masked_fill(~may_see, -1e30).softmax(dim=-2)",
        ),
        (
            "start again at 0",
            "torch.arange(past, past + T, device=x.device)",
            "torch.arange(T, device=x.device)",
        ),
        (
            "T too large",
            """        q, k = rotate(q, angles), rotate(k, angles)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, Hkv, T, d) -> (B, Hkv, S, d)
""",
            """        k = rotate(k, angles)
        if cache is not None:
            k, v = cache.append(k, v)
            angles = rotary_angles(torch.arange(T, device=x.device) + cache.length, self.head_dim, self.theta)
        q = rotate(q, angles)
""",
        ),
        (
            "0, 1, 0, 1",
            "(t.repeat_interleave(q.size(1) // t.size(1), dim=1)",
            "(t.repeat(1, q.size(1) // t.size(1), 1, 1)",
        ),
        (
            "mixes tokens",
            "t.view(B, T, -1, self.head_dim).transpose(1, 2)",
            "t.view(B, -1, T, self.head_dim)",
        ),
        (
            "every n-th number",
            "t.view(B, T, -1, self.head_dim).transpose(1, 2)",
            "t.view(B, T, self.head_dim, -1).permute(0, 3, 1, 2)",
        ),
        (
            "values are rotated too",
            "q, k = rotate(q, angles), rotate(k, angles)",
            "q, k, v = (rotate(t, angles) for t in (q, k, v))",
        ),
        ("Only the queries", "rotate(q, angles), rotate(k, angles)", "rotate(q, angles), k"),
        ("does not go through out_proj", "return self.out_proj(mixed)", "return mixed"),
        (
            "mix the projected keys",
            "self.q_proj(x), self.k_proj(x), self.v_proj(x)",
            "self.q_proj(x), self.k_proj(x), self.k_proj(x)",
        ),
        (
            "Repeated heads go into the cache",
            "if cache is not None:",
            "k, v = (t.repeat_interleave(q.size(1) // t.size(1), dim=1) for t in (k, v))\n        if cache is not None:",
        ),
        ("Nothing goes into the cache", "k, v = cache.append(k, v)", "past = 0"),
        ("first token is right", "q @ k.transpose(-2, -1) /", "-q @ k.transpose(-2, -1) /"),
        (
            "first token is right",
            "self.theta = config.d_model // config.n_heads, config.rope_theta",
            "self.theta = config.d_model // config.n_heads, 7.0",
        ),
        ("Even the first token", "self.k_proj(x), self.v_proj(x)", "self.k_proj(x), self.v_proj(x).relu()"),
        (
            "should not be there: q_proj.bias",
            "self.q_proj = nn.Linear(config.d_model, config.d_model, bias=False)",
            "self.q_proj = nn.Linear(config.d_model, config.d_model)",
        ),
        (
            "k_proj.weight should have the shape",
            "self.k_proj = nn.Linear(config.d_model, kv_width, bias=False)",
            "self.k_proj = nn.Linear(config.d_model, config.d_model, bias=False)",
        ),
        (
            "no parameter out_proj.weight",
            "self.out_proj = nn.Linear(config.d_model, config.d_model, bias=False)",
            "self.o_proj = self.out_proj_ = nn.Linear(config.d_model, config.d_model, bias=False)",
        ),
        *edits(
            ATTENTION,
            ("does not see itself", "device=x.device) <=", "device=x.device) <"),
            ("or its meaning", "attn_mask=mask", "attn_mask=~mask"),
            ("as ones and zeros", "attn_mask=mask", "attn_mask=mask.float()"),
            ("config.rope_theta", "d, c.rope_theta", "d, 10_000"),
            (
                "keys that are not rotated",
                """        q, k = rotate(q, angles), rotate(k, angles)
        if cache is not None:
            k, v = cache.append(k, v)
""",
                """        if cache is not None:
            k, v = cache.append(k, v)
        q, k = rotate(q, angles), rotate(k, rotary_angles(torch.arange(past + T), d, c.rope_theta))
""",
            ),
            (
                "goes into the cache as keys".replace("goes", "go"),
                "k, v = cache.append(k, v)",
                "v, k = cache.append(v, k)",
            ),
        ),
        ("There is no softmax", ".masked_fill(~may_see, -math.inf).softmax(dim=-1)", " * may_see"),
        (
            "in a way of their own",
            ATTENTION.replace(", c.n_heads, d).permute(0, 2, 1, 3)", ", d, c.n_heads).permute(0, 3, 1, 2)")
            .replace(", c.kv_heads, d).permute(0, 2, 1, 3)", ", d, c.kv_heads).permute(0, 3, 1, 2)")
            .replace("y.permute(0, 2, 1, 3)", "y.permute(0, 2, 3, 1)"),
        ),
        ("config.n_kv_heads is None", "config.kv_heads", "config.n_kv_heads"),
    ],
    "6.12d": [
        (
            "on the wrong one",
            "F.silu(self.gate_proj(x)) * self.up_proj(x)",
            "self.gate_proj(x) * F.silu(self.up_proj(x))",
        ),
        ("gate is a sigmoid", "F.silu(", "torch.sigmoid("),
        ("gate is GELU", "F.silu(", "F.gelu("),
        ("gate is ReLU", "F.silu(", "torch.relu("),
        ("are added", "* self.up_proj(x)", "+ self.up_proj(x)"),
        (
            "after the product",
            "F.silu(self.gate_proj(x)) * self.up_proj(x)",
            "F.silu(self.gate_proj(x) * self.up_proj(x))",
        ),
        ("no activation", "F.silu(self.gate_proj(x))", "self.gate_proj(x)"),
        ("is not used", " * self.up_proj(x)", ""),
        ("is not used", "F.silu(self.gate_proj(x)) * self.up_proj(x)", "F.silu(self.up_proj(x))"),
        ("input is added", "return self.down_proj(hidden)", "return x + self.down_proj(hidden)"),
        (
            "should not be there",
            "self.down_proj = nn.Linear(d_ff, d_model, bias=False)",
            "self.down_proj = nn.Linear(d_ff, d_model)",
        ),
        (
            "down_proj.weight should have the shape",
            "nn.Linear(d_ff, d_model, bias=False)",
            "nn.Linear(d_model, d_ff, bias=False)",
        ),
        *edits(
            FEED_FORWARD, ("gate is a sigmoid", "gate * torch.sigmoid(gate) * up", "torch.sigmoid(gate) * up")
        ),
        (
            "at the very end",
            """hidden = F.silu(self.gate_proj(x)) * self.up_proj(x)  # (..., D) -> (..., d_ff)
        return self.down_proj(hidden)""",
            "return F.silu(self.down_proj(self.gate_proj(x) * self.up_proj(x)))",
        ),
        (
            "one and the same parameter",
            "self.up_proj = nn.Linear(d_model, d_ff, bias=False)",
            "self.up_proj = self.gate_proj",
        ),
    ],
    "6.12e": [
        (
            "come after the sums",
            """x = x + self.attention(self.norm1(x), cache)  # (B, T, D)
        return x + self.feed_forward(self.norm2(x))""",
            """x = self.norm1(x + self.attention(x, cache))
        return self.norm2(x + self.feed_forward(x))""",
        ),
        (
            "past the norm untouched",
            "x = x + self.attention(self.norm1(x), cache)",
            "x = self.norm1(x)\n        x = x + self.attention(x, cache)",
        ),
        (
            "what a layer returns",
            """x = x + self.attention(self.norm1(x), cache)  # (B, T, D)
        return x + self.feed_forward(self.norm2(x))""",
            """x = x + self.norm1(self.attention(x, cache))
        return x + self.norm2(self.feed_forward(x))""",
        ),
        ("attention replaces its input", "x = x + self.attention(", "x = self.attention("),
        ("feed-forward layer replaces", "return x + self", "return self"),
        *edits(
            BLOCK,
            ("Nothing is added", "layer(norm(x)) + x", "layer(norm(x))"),
            (
                "past the norm untouched",
                "            x = layer(norm(x)) + x",
                "            x = norm(x)\n            x = layer(x) + x",
            ),
            ("A norm is missing", "layer(norm(x)) + x", "layer(x) + x"),
            ("does not reach the attention", "self.attention(y, cache)", "self.attention(y)"),
        ),
        ("norm2 never", "self.norm2(x)", "self.norm1(x)"),
        (
            "norm1 and norm2 have changed places",
            """self.attention(self.norm1(x), cache)  # (B, T, D)
        return x + self.feed_forward(self.norm2(x))""",
            """self.attention(self.norm2(x), cache)
        return x + self.feed_forward(self.norm1(x))""",
        ),
        (
            "read the sum after the attention",
            """x = x + self.attention(self.norm1(x), cache)  # (B, T, D)
        return x + self""",
            """return x + self.attention(self.norm1(x), cache) + self""",
        ),
        (
            "original input is added twice",
            """x = x + self.attention(self.norm1(x), cache)  # (B, T, D)
        return x + self.feed_forward(self.norm2(x))""",
            """y = x + self.attention(self.norm1(x), cache)
        return x + self.feed_forward(self.norm2(y))""",
        ),
        (
            "feed-forward layer comes first",
            """x = x + self.attention(self.norm1(x), cache)  # (B, T, D)
        return x + self.feed_forward(self.norm2(x))""",
            """x = x + self.feed_forward(self.norm2(x))
        return x + self.attention(self.norm1(x), cache)""",
        ),
        ("does not reach the attention", "self.norm1(x), cache)", "self.norm1(x))"),
        ("feed_forward.gate_proj.weight should have the shape", "config.ff_width", "4 * config.d_model"),
        (
            "it has no parameter norm1.weight, norm2.weight",
            BLOCK.replace("self.norm1, self.norm2 =", "self.norms =").replace(
                "self.norm1,", "RMSNorm(config.d_model),"
            ),
        ),
        ("changes its arguments", "x = x + self.attention", "x += self.attention"),
        ("do not get config.norm_eps", BLOCK.replace(", config.norm_eps)", ")")),
        (
            "as nn.LayerNorm does",
            "self.norm2 = RMSNorm(config.d_model, config.norm_eps)",
            "self.norm2 = nn.LayerNorm(config.d_model, config.norm_eps, bias=False)",
        ),
        (
            "one and the same parameter",
            "self.norm2 = RMSNorm(config.d_model, config.norm_eps)",
            "self.norm2 = self.norm1",
        ),
    ],
    "6.12f": [
        (
            "results are probabilities",
            "self.lm_head(self.norm(x))",
            "self.lm_head(self.norm(x)).softmax(dim=-1)",
        ),
        (
            "one and the same block",
            "[Block(config) for _ in range(config.n_layers)]",
            "[Block(config)] * config.n_layers",
        ),
        (
            "same object, not a copy",
            'self.lm_head.weight = self.embedding["token"].weight',
            'self.lm_head.weight.data = self.embedding["token"].weight.data.clone()',
        ),
        ("also where config.tie_weights is False", "if config.tie_weights:", "if True:"),
        ("cache of layer 0", "cache[i]", "cache[0]"),
        ("does not reach the blocks", "block(x, None if cache is None else cache[i])", "block(x)"),
        ("Only one of the blocks", "enumerate(self.blocks)", "enumerate(self.blocks[:1])"),
        ("should be refused", "            raise ValueError(", "            print("),
        (
            "earlier and new ones together",
            "token_ids.size(1) + (0 if cache is None else cache.length)",
            "token_ids.size(1)",
        ),
        ("logits: Expected the shape", "self.lm_head(self.norm(x))", "self.lm_head(self.norm(x))[:, -1]"),
        ("last token alone", "self.lm_head(self.norm(x))", "self.lm_head(self.norm(x[:, -1:]))"),
        (
            "root of d_model",
            'x = self.embedding["token"](token_ids)',
            'x = self.embedding["token"](token_ids) * math.sqrt(self.config.d_model)',
        ),
        ("model.config is not the configuration", MODEL.replace("self.config", "self.settings")),
        ("norm weights should stay ones", "if weight.dim() == 2:", "if True:"),
        ("start too large", "config.weight_std / shrink", "config.weight_std"),
        ("The initial down_proj", '("out_proj.weight", "down_proj.weight")', '("out_proj.weight",)'),
        ("There are two in each layer", "math.sqrt(2 * config.n_layers)", "math.sqrt(config.n_layers)"),
        ("divide by its root", "math.sqrt(2 * config.n_layers)", "(2 * config.n_layers)"),
        ("linear layers is not config.weight_std", "config.weight_std / shrink", "0.02 / shrink"),
        *edits(
            MODEL,
            ("token embedding is not config.weight_std", "(nn.Linear, nn.Embedding)", "nn.Linear"),
            ("before the output layer is missing", "self.norm(x) @", "x @"),
            (
                "is detached",
                "self.embedding.token.weight[token_ids]",
                "self.embedding.token.weight[token_ids].detach()",
            ),
        ),
        (
            "no parameter embedding.token.weight",
            MODEL.replace("self.embedding.token", "self.table").replace(
                "self.embedding = Embedding(config)",
                "self.table = nn.Embedding(config.vocab_size, config.d_model)",
            ),
        ),
        (
            "should not be there: blocks.0.norm3.weight",
            "        for name, weight in self.named_parameters():\n",
            "        self.blocks[0].norm3 = RMSNorm(config.d_model)\n        for name, weight in self.named_parameters():\n",
        ),
        (
            "It stops with an error",
            "enumerate(self.blocks):",
            "enumerate(self.blocks):\n            x = x[i]",
        ),
        ("They still fit", "if n_tokens > self", "if n_tokens >= self"),
        ("last norm does not get", "RMSNorm(config.d_model, config.norm_eps)", "RMSNorm(config.d_model)"),
        ("refuses tokens that fit", "n_tokens = token_ids.size(1)", "n_tokens = token_ids.numel()"),
        (
            "not with a ValueError",
            """        if n_tokens > self.config.context_length:
            raise ValueError(f"{n_tokens} tokens are more than context_length={self.config.context_length}")
""",
            "        assert n_tokens <= self.config.context_length\n",
        ),
        ("the token embedding is not", "if weight.dim() == 2:", "if False:"),
        (
            "evenly from an interval",
            "nn.init.normal_(weight, std=config.weight_std / shrink)",
            "nn.init.uniform_(weight, -(3**0.5) * config.weight_std / shrink, 3**0.5 * config.weight_std / shrink)",
        ),
        ("without gradients, so nothing", "    def forward(", "    @torch.no_grad()\n    def forward("),
        (
            "lm_head.weight should have the shape",
            "nn.Linear(config.d_model, config.vocab_size",
            "nn.Linear(config.vocab_size, config.d_model",
        ),
        ("how many times too large", "math.sqrt(2 * config.n_layers)", "math.sqrt(config.n_heads)"),
    ],
    "6.12g": [
        ("never set to 0", "        optimizer.zero_grad()\n", ""),
        (
            "weights do not change",
            "optimizer.zero_grad()\n        loss.backward()",
            "loss.backward()\n        optimizer.zero_grad()",
        ),
        ("weights do not change", "loss.backward()", "pass"),
        (
            "new optimizer is made",
            "logits = model(inputs)",
            "optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)\n        logits = model(inputs)",
        ),
        (
            "the batch before",
            "optimizer.zero_grad()\n        loss.backward()\n        optimizer.step()",
            "optimizer.step()\n        optimizer.zero_grad()\n        loss.backward()",
        ),
        ("take the mean", "targets.flatten())", "targets.flatten(), reduction='sum')"),
        (
            "those after the steps",
            "losses.append(loss.item())",
            "losses.append(F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item())",
        ),
        ("make them floats", "loss.item()", "loss"),
        ("One number comes out", "return losses", "return loss.item()"),
        ("is SGD", "torch.optim.AdamW(", "torch.optim.SGD("),
        ("by default, 0.001", ", lr=3e-3", ""),
        ("ten times what it should be", "lr=3e-3", "lr=3e-2"),
        (
            "do not fit the targets",
            "logits.flatten(0, 1), targets.flatten()",
            "logits.view(len(logits), logits.size(2), -1), targets",
        ),
        ("gets probabilities", "logits.flatten(0, 1)", "logits.softmax(dim=-1).flatten(0, 1)"),
        (
            "shifted a second time",
            "logits.flatten(0, 1), targets.flatten()",
            "logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten()",
        ),
        (
            "last token of each row",
            "logits.flatten(0, 1), targets.flatten()",
            "logits[:, -1], targets[:, -1]",
        ),
        *edits(
            TRAIN,
            (
                "as if their loss was 0",
                "loss = -log_p[counted].gather(-1, targets[counted][:, None]).mean()",
                "loss = -(log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * counted).mean()",
            ),
        ),
        ("weights afterwards are not", "loss.backward()", "(-loss).backward()"),
        (
            "Even the first loss is wrong",
            "logits.flatten(0, 1), targets",
            "logits.flatten(0, 1) / 2, targets",
        ),
        (
            "Only one loss is in the list",
            "        losses.append(loss.item())\n    return",
            "    losses.append(loss.item())\n    return",
        ),
        (
            "table of pairs",
            "for inputs, targets in batches:",
            "for inputs, targets in batches:\n        if len(losses) == 4:\n            optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)",
        ),
        ("It stops with an error", "for inputs, targets in batches:", "for i in range(len(batches)):"),
        ("which also lets weights decay", "torch.optim.AdamW", "torch.optim.Adam"),
        ("but not the weight decay", "lr=3e-3", "lr=3e-3, weight_decay=0.1"),
        (
            "should weigh the same",
            "loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())",
            "loss = sum(F.cross_entropy(z, t) for z, t in zip(logits, targets)) / len(logits)",
        ),
        ("losses are rounded", "loss.item()", "round(loss.item(), 2)"),
        ("a list of floats, one for each", "return losses", "return torch.tensor(losses)"),
        ("a list of floats, one for each", "return losses", "return dict(enumerate(losses))"),
        ("after the first batch", "    return losses", "        return losses"),
        ("list of losses is empty", "    for inputs", "    print(sum(1 for _ in batches))\n    for inputs"),
        ("losses are in bits", "loss.item()", "loss.item() / math.log(2)"),
        (
            "A copy of the model",
            "optimizer, losses =",
            "import copy\n    model = copy.deepcopy(model)\n    optimizer, losses =",
        ),
        (
            "Only some of the weights",
            "torch.optim.AdamW(model.parameters()",
            "torch.optim.AdamW(model.lm_head.parameters()",
        ),
        ("One number comes out", "return losses", "return sum(losses) / len(losses)"),
    ],
    "6.12h": [
        (
            "Only the new tokens",
            "cache, new = Cache(model.config), token_ids",
            "cache, new = Cache(model.config), token_ids\n    token_ids = token_ids[:, :0]",
        ),
        ("Only the last token", "    return token_ids\n", "    return token_ids[:, -1:]\n"),
        ("is not used", "logits = model(new, cache)[:, -1]", "logits = model(token_ids)[:, -1]"),
        ("whole text goes in again", "model(new, cache)", "model(token_ids, cache)"),
        (
            "before the newest goes in",
            "token_ids = torch.cat([token_ids, new], dim=1)",
            "last = token_ids[:, -1:]\n        token_ids = torch.cat([token_ids, new], dim=1)\n        new = last",
        ),
        (
            "has forgotten the text",
            "logits = model(new, cache)",
            "cache = Cache(model.config)\n        logits = model(new, cache)",
        ),
        ("One token too many", "range(n)", "range(n + 1)"),
        ("One token is missing", "range(n)", "range(1, n)"),
        ("first position", "model(new, cache)[:, -1]", "model(new, cache)[:, 0]"),
        ("least probable", "argmax", "argmin"),
        (
            "like the first one",
            "new = logits.argmax(dim=-1, keepdim=True)",
            "new = logits.argmax(dim=-1, keepdim=True)[:1].expand(len(logits), 1)",
        ),
        (
            "only the new keys and values",
            """            k = torch.cat([self.keys, k], dim=2)  # (B, Hkv, S, d)
            v = torch.cat([self.values, v], dim=2)  # (B, Hkv, S, d)
        self.keys, self.values, self.length = k, v, k.size(2)
""",
            """            self.keys = torch.cat([self.keys, k], dim=2)
            self.values = torch.cat([self.values, v], dim=2)
        else:
            self.keys, self.values = k, v
        self.length += k.size(2)
""",
        ),
        (
            "only the new keys and values",
            """            k = torch.cat([self.keys, k], dim=2)  # (B, Hkv, S, d)
            v = torch.cat([self.values, v], dim=2)  # (B, Hkv, S, d)
        self.keys, self.values, self.length = k, v, k.size(2)
""",
            """            pass
        self.keys, self.values, self.length = k, v, self.length + k.size(2)
""",
        ),
        (
            "in front",
            """            k = torch.cat([self.keys, k], dim=2)  # (B, Hkv, S, d)
            v = torch.cat([self.values, v], dim=2)  # (B, Hkv, S, d)
""",
            """            k = torch.cat([k, self.keys], dim=2)
            v = torch.cat([v, self.values], dim=2)
""",
        ),
        (
            "joined along the heads",
            """            k = torch.cat([self.keys, k], dim=2)  # (B, Hkv, S, d)
            v = torch.cat([self.values, v], dim=2)  # (B, Hkv, S, d)
""",
            """            k = torch.cat([self.keys, k], dim=1)
            v = torch.cat([self.values, v], dim=1)
""",
        ),
        (
            "counts calls",
            "self.values, self.length = k, v, k.size(2)",
            "self.values, self.length = k, v, self.length + 1",
        ),
        (
            "counts rows",
            "self.values, self.length = k, v, k.size(2)",
            "self.values, self.length = k, v, self.length + len(k)",
        ),
        ("does not grow", "self.values, self.length = k, v, k.size(2)", "self.values = k, v"),
        (
            "share one cache",
            "[LayerCache() for _ in range(config.n_layers)]",
            "[LayerCache()] * config.n_layers",
        ),
        (
            "adds up all layers",
            "return self.layers[0].length",
            "return sum(each.length for each in self.layers)",
        ),
        ("values first", "        return k, v\n", "        return v, k\n"),
        *edits(
            SPEAK,
            ("stays 0", "sum(k.shape[2] for k, _ in self.parts)", "0"),
            (
                "share one cache",
                "super().__init__(LayerCache() for _ in range(config.n_layers))",
                "super().__init__([LayerCache()] * config.n_layers)",
            ),
            ("are not the most probable", "topk(1).indices[..., 0]", "topk(2).indices[..., 1]"),
        ),
        ("not kept at the beginning", "    return token_ids\n", "    return token_ids.flip(1)\n"),
        (
            "more than once",
            "cache, new = Cache(model.config), token_ids",
            "model(token_ids)\n    cache, new = Cache(model.config), token_ids",
        ),
        ("old values are lost", "v = torch.cat([self.values, v], dim=2)", "pass"),
        ("Values go the way of the keys", "torch.cat([self.values, v]", "torch.cat([self.values, v * 2]"),
        ("should return an int64 tensor", "    return token_ids\n", "    return token_ids.int()\n"),
        ("should return an int64 tensor", "    return token_ids\n", "    return token_ids.tolist()\n"),
        (
            "kept from call to call",
            "cache, new = Cache(model.config), token_ids",
            "kept = continue_text.__dict__\n    cache, new = kept.setdefault('cache', Cache(model.config)), token_ids",
        ),
        (
            "go in at once",
            "    for _ in range(n):\n",
            "    for t in range(new.size(1) - 1):\n        model(new[:, t : t + 1], cache)\n    new = new[:, -1:]\n    for _ in range(n):\n",
        ),
        ("too few caches", "config.n_layers", "config.n_heads"),
    ],
}
