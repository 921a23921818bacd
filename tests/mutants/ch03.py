"""Chapter 3: answers that are right in another way, and answers that are wrong in a typical way."""

VARIANTS = {
    "3.1": """def average_of_the_past(x):
    T = x.size(0)
    weights = torch.ones(T, T, dtype=x.dtype, device=x.device).tril()
    weights = weights / weights.sum(dim=1, keepdim=True)
    return weights @ x
""",
    "3.2": """def softmax(x, dim):
    return torch.exp(x - torch.logsumexp(x, dim=dim, keepdim=True))
""",
    "3.3": """def causal_mask(T):
    rows = [[j <= i for j in range(T)] for i in range(T)]
    return torch.tensor(rows)
""",
    "3.4": """def attention_by_loops(q, k, v):
    T, d = q.shape
    output = torch.zeros_like(v)
    for i in range(T):
        total = 0.0
        for j in range(i + 1):
            dot = 0.0
            for n in range(d):
                dot += q[i, n].item() * k[j, n].item()
            share = math.exp(dot / d**0.5)
            total += share
            output[i] += share * v[j]
        output[i] /= total
    return output
""",
    "3.5": """def scaled_dot_product_attention(q, k, v, mask=None):
    scores = torch.einsum("...td,...sd->...ts", q, k) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = torch.where(mask, scores, float("-inf"))
    weights = torch.softmax(scores, dim=-1).nan_to_num(0.0)
    return torch.einsum("...ts,...se->...te", weights, v), weights
""",
    "3.6": """def split_heads(x, head_dim):
    return torch.stack(x.split(head_dim, dim=-1), dim=1)


def join_heads(x):
    return torch.cat(list(x.unbind(dim=1)), dim=-1)
""",
    "3.7": """def grouped_attention(q, k, v):
    B, H, T, d = q.shape
    n_kv_heads = k.size(1)
    q = q.reshape(B, n_kv_heads, H // n_kv_heads, T, d)
    scores = torch.einsum("bgrtd,bgsd->bgrts", q, k) / d**0.5
    output = torch.einsum("bgrts,bgsd->bgrtd", scores.softmax(dim=-1), v)
    return output.reshape(B, H, T, d)
""",
    "3.8": """def sliding_window_mask(T, window):
    everything = torch.ones(T, T, dtype=torch.bool)
    return everything.tril() & everything.triu(1 - window)
""",
    "3.9": """def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads):
    T = x.shape[1]
    future = torch.ones(T, T, device=x.device).triu(1) * -1e9
    result = 0
    d = w_q.shape[0] // n_heads
    for h in range(n_heads):
        own = slice(h * d, (h + 1) * d)
        q, k, v = (F.linear(x, w[own]) for w in (w_q, w_k, w_v))
        scores = q @ k.mT / d**0.5 + future
        result = result + F.linear(scores.softmax(dim=-1) @ v, w_o[:, own])
    return result
""",
    "3.10": """def batch_mask(real, T):
    B, S = real.shape
    mask = torch.zeros(B, 1, T, S, dtype=torch.bool, device=real.device)
    for b in range(B):
        for i in range(T):
            for j in range(S - T + i + 1):
                mask[b, 0, i, j] = real[b, j]
    return mask
""",
    "3.11": """def previous_token_scores(maps):
    return maps.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=-1)


def induction_scores(maps, n):
    L, H, T, _ = maps.shape
    scores = torch.zeros(L, H, dtype=maps.dtype, device=maps.device)
    for t in range(n, T):
        scores += maps[:, :, t, t - n + 1]
    return scores / n
""",
}

MUTANTS = {
    "3.1": [
        ("mean of all rows", "x[: t + 1].mean(dim=0)", "x.mean(dim=0)"),
        ("own vector counts too", "x[: t + 1].mean(dim=0)", "x[:t].mean(dim=0) if t else x[0]"),
        ("own vector counts too", "x[: t + 1]", "x[:t]"),
        ("one row too many", "x[: t + 1]", "x[: t + 2]"),
        ("all that follow it", "x[: t + 1]", "x[t:]"),
        ("divide each by the number", ".mean(dim=0)", ".sum(dim=0)"),
        (
            "divided by T",
            """def average_of_the_past(x):
    T = x.size(0)
    return torch.ones(T, T).tril() @ x / T
""",
        ),
        (
            "divided by t",
            """def average_of_the_past(x):
    sums = torch.cumsum(x, 0)
    return sums / torch.arange(x.size(0)).unsqueeze(1)
""",
        ),
        ("mean before it", "x[: t + 1].mean(dim=0)", "(rows[-1] + x[t]) / 2 if rows else x[t]"),
        (
            "changes its arguments",
            """def average_of_the_past(x):
    for t in range(x.size(0)):
        x[t] = x[: t + 1].mean(dim=0)
    return x
""",
        ),
        ("one number a token", ".mean(dim=0)", ".mean()"),
        (
            "rows, dim=0",
            """def average_of_the_past(x):
    return torch.stack([x[:, : n + 1].mean(1) for n in range(x.size(1))], 1)
""",
        ),
        ("Only the row before", "x[: t + 1]", "x[max(t - 1, 0) : t + 1]"),
        ("Row 0 should stay as it is", "return torch.stack(rows)", "return torch.stack(rows).flip(0)"),
        ("last row should be the mean", ".mean(dim=0)", ".median(dim=0).values"),
        ("stops with an error", ".mean(dim=0)", ".mean(dim=2)"),
        (
            "means already",
            """def average_of_the_past(x):
    out = x.clone()
    for t in range(len(x)):
        out[t] = out[: t + 1].mean(dim=0)
    return out
""",
        ),
        (
            "dtype float64",
            """def average_of_the_past(x):
    out = torch.zeros(x.shape)
    for t in range(len(x)):
        out[t] = x[: t + 1].mean(0)
    return out
""",
        ),
        ("dtype float64", ".mean(dim=0)", ".float().mean(dim=0)"),
    ],
    "3.2": [
        ("overflow: exp", "(x - x.amax(dim=dim, keepdim=True)).exp()", "x.exp()"),
        (
            "overflow: exp",
            """def softmax(x, dim):
    e = math.e ** x.to(torch.float64)
    return (e / e.sum(dim, keepdim=True)).to(x.dtype)
""",
        ),
        ("sum of the whole tensor", "exponentials.sum(dim=dim, keepdim=True)", "exponentials.sum()"),
        (
            "last dimension, whatever",
            """def softmax(x, dim):
    return torch.exp(x - x.logsumexp(-1, keepdim=True))
""",
        ),
        (
            "first dimension, whatever",
            """def softmax(x, dim):
    return torch.exp(x - x.logsumexp(0, keepdim=True))
""",
        ),
        ("0 / 0", "x.amax(dim=dim, keepdim=True)", "x.max()"),
        ("not the largest of the row", "x.amax(", "x.mean("),
        (
            "log-softmax",
            "return exponentials / exponentials.sum(dim=dim, keepdim=True)",
            "return x - x.logsumexp(dim, keepdim=True)",
        ),
        ("Take exponentials first", ").exp()", ")"),
        (
            "gets the smallest here",
            "(x - x.amax(dim=dim, keepdim=True)).exp()",
            "(x.amin(dim=dim, keepdim=True) - x).exp()",
        ),
        (
            "These are the exponentials",
            "exponentials / exponentials.sum(dim=dim, keepdim=True)",
            "exponentials",
        ),
        (
            "should have the sum 1",
            "exponentials.sum(dim=dim, keepdim=True)",
            "(exponentials.sum(dim=dim, keepdim=True) + 1)",
        ),
        (
            "not in the proportion",
            "(x - x.amax(dim=dim, keepdim=True)).exp()",
            "2 ** (x - x.amax(dim=dim, keepdim=True))",
        ),
        ("Rows and columns get mixed up", "keepdim=True)).exp()", "keepdim=False)).exp()"),
        ("stops with an error", "x.amax(dim=dim, keepdim=True)", "x.max(dim=dim, keepdim=True)"),
        (
            "changes its arguments",
            "exponentials = (",
            """x -= x.mean()
    exponentials = (""",
        ),
        (
            "got float64",
            "exponentials = (x -",
            """x = x.double()
    exponentials = (x -""",
        ),
        (
            "dtype float64, got",
            "exponentials = (x -",
            """x = x.float()
    exponentials = (x -""",
        ),
        (
            "works along dimension 1",
            "exponentials = (x -",
            """if dim == -1:
        dim = 1
    exponentials = (x -""",
        ),
        (
            "Rows and columns get mixed up",
            """def softmax(x, dim):
    e = torch.exp(x - x.max(dim).values.unsqueeze(-1))
    return e / e.sum(dim)[..., None]
""",
        ),
        ("all 0, or one is infinite", "x.amax(dim=dim, keepdim=True)", "1000"),
    ],
    "3.3": [
        ("diagonal should be True", ".tril()", ".tril(-1)"),
        ("lies on its side", ".tril()", ".triu()"),
        (
            "may not",
            "return torch.ones(T, T, dtype=torch.bool).tril()",
            "return torch.ones(T, T, dtype=torch.bool).triu(1)",
        ),
        ("one key too many", ".tril()", ".tril(1)"),
        ("not only itself", "torch.ones(T, T, dtype=torch.bool).tril()", "torch.eye(T).bool()"),
        ("make it bool", "dtype=torch.bool", "dtype=torch.float32"),
        (
            "make it bool",
            "torch.ones(T, T, dtype=torch.bool).tril()",
            'torch.full((T, T), float("-inf")).triu(1)',
        ),
        ("Everyone may look", ".tril()", ""),
        ("key before it only", ".tril()", ".tril().triu(-1)"),
        ("may see a key after it", ".tril()", ".tril().flip(0)"),
        ("may not see a key that", ".tril()", ".tril().triu(-2)"),
        ("Expected the shape", ".tril()", ".tril()[None]"),
    ],
    "3.4": [
        (
            "still get a share",
            """def attention_by_loops(q, k, v):
    T, d = q.shape
    output = torch.zeros(T, d, device=q.device)
    for i in range(T):
        scores = [float(q[i] @ k[j]) / d**0.5 if j <= i else 0.0 for j in range(T)]
        for j in range(T):
            output[i] += math.exp(scores[j]) / sum(math.exp(s) for s in scores) * v[j]
    return output
""",
        ),
        (
            "added up",
            """def attention_by_loops(q, k, v):
    output = torch.zeros_like(v)
    for i in range(len(q)):
        shares = [math.exp(q[i] @ k[j] / math.sqrt(q.size(1))) for j in range(i + 1)]
        for j in range(i + 1):
            output[i] = shares[j] / sum(shares) * v[j]
    return output
""",
        ),
        (
            "gives everything",
            """def attention_by_loops(q, k, v):
    rows = []
    for i in range(len(q)):
        rows.append(v[max(range(i + 1), key=lambda j: float(q[i] @ k[j]))])
    return torch.stack(rows)
""",
        ),
        ("not divided by the root of d", " / math.sqrt(d)", ""),
        ("not by its root", "math.sqrt(d)", "d"),
        ("root of T", "math.sqrt(d)", "math.sqrt(T)"),
        (
            "sees all tokens",
            """def attention_by_loops(q, k, v):
    rows = []
    for one in q:
        shares = torch.tensor([math.exp(one @ key / len(one) ** 0.5) for key in k])
        rows.append(sum(s * value for s, value in zip(shares / shares.sum(), v)))
    return torch.stack(rows)
""",
        ),
        (
            "does not look at itself",
            """def attention_by_loops(q, k, v):
    out = torch.zeros_like(v)
    for i in range(len(q)):
        e = [math.exp(q[i] @ k[j] / q.size(1) ** 0.5) for j in range(i)]
        for j in range(i):
            out[i] += e[j] / sum(e) * v[j]
    return out
""",
        ),
        (
            "right after it",
            """def attention_by_loops(q, k, v):
    out = torch.zeros_like(v)
    for i in range(len(q)):
        e = [math.exp(q[i] @ key / q.size(1) ** 0.5) for key in k[: i + 2]]
        for j in range(len(e)):
            out[i] += e[j] / sum(e) * v[j]
    return out
""",
        ),
        (
            "future leaks in",
            """for j in range(i + 1)]
    """,
            """for j in range(T)]
    """,
        ),
        ("changed places", "q[i] @ k[j]", "q[j] @ k[i]"),
        ("what is handed over is in v", "weights[j] * v[j]", "weights[j] * k[j]"),
        ("not divided by their sum", "exponential / sum(exponentials)", "exponential"),
        (
            "not divided by their sum",
            """def attention_by_loops(q, k, v):
    out = torch.zeros_like(v)
    for i in range(len(q)):
        for j in range(i + 1):
            out[i] += math.exp(q[i] @ k[j]) * v[j]
    return out
""",
        ),
        (
            "scores themselves serve",
            "weights = [exponential / sum(exponentials) for exponential in exponentials]",
            "weights = scores",
        ),
        ("own value", "weights[j] * v[j]", "weights[j] * v[i]"),
        ("same weight", "float(q[i] @ k[j])", "float(q[i] @ k[i])"),
        (
            "divides the weights",
            """def attention_by_loops(q, k, v):
    out = torch.zeros_like(v)
    for i in range(len(q)):
        e = [math.exp(q[i] @ k[j]) for j in range(i + 1)]
        for j in range(i + 1):
            out[i] += e[j] / sum(e) / math.sqrt(q.size(1)) * v[j]
    return out
""",
        ),
        (
            "lies between the smallest and the largest",
            "exponential / sum(exponentials)",
            "exponential / exponentials[0]",
        ),
        (
            "sees only itself, with the weight 1",
            "exponential / sum(exponentials)",
            "exponential / (1 + sum(exponentials))",
        ),
        (
            "Expected the shape",
            "sum(weights[j] * v[j] for j in range(i + 1))",
            "sum(weights[j] * v[j] for j in range(i + 1)).sum()",
        ),
        ("Expected a tensor", "torch.stack(rows)", "rows"),
        (
            "sum of no terms",
            """def attention_by_loops(q, k, v):
    rows = []
    for i in range(len(q)):
        e = [math.exp(q[i] @ k[j] / q.size(1) ** 0.5) for j in range(i)]
        rows.append(sum(e[j] / sum(e) * v[j] for j in range(i)))
    return torch.stack(rows)
""",
        ),
        ("scores themselves serve", "math.exp(score) for", "score for"),
        (
            "not added up",
            """def attention_by_loops(q, k, v):
    T, d = q.shape
    rows = []
    for i in range(T):
        e = [(q[i] * k[j] / math.sqrt(d)).exp() for j in range(i + 1)]
        rows.append(sum(e[j] / sum(e) * v[j] for j in range(i + 1)))
    return torch.stack(rows)
""",
        ),
        (
            "dtype float64",
            """def attention_by_loops(q, k, v):
    T, d = q.shape
    out = torch.zeros(T, d, device=q.device)
    for i in range(T):
        weights = torch.softmax(torch.stack([q[i] @ k[j] for j in range(i + 1)]) / d**0.5, 0)
        for j in range(i + 1):
            out[i] += weights[j] * v[j]
    return out
""",
        ),
    ],
    "3.5": [
        (
            "scores that nothing divides",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    scores = q @ k.mT
    if mask:
        scores = scores.masked_fill(~mask, -1e9)
    weights = scores.softmax(-1)
    return weights @ v, weights
""",
        ),
        (
            "A key that may be seen has the weight 0",
            """if mask is not None:
        scores""",
            """mask = mask if mask is not None else torch.ones_like(scores).tril().bool()
    if mask is not None:
        scores""",
        ),
        ("not divided by the root of d", "(q / math.sqrt(q.size(-1)))", "q"),
        ("not by its root", "math.sqrt(q.size(-1))", "q.size(-1)"),
        ("root of another size", "math.sqrt(q.size(-1))", "math.sqrt(q.size(-2))"),
        ("root of another size", "q / math.sqrt(q.size(-1))", "q / k.size(-2) ** 0.5"),
        ("over the queries", "dim=-1", "dim=-2"),
        ("upside down", "scores.masked_fill(~mask", "scores.masked_fill(mask"),
        (
            "upside down",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    s = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(mask, -math.inf)
    w = s.softmax(-1)
    return w @ v, w
""",
        ),
        (
            "mask is not used",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    weights = (q @ k.mT / math.sqrt(k.shape[-1])).softmax(-1)
    return weights @ v, weights
""",
        ),
        (
            "comes after the softmax, so",
            "scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)",
            "pass",
        ),
        (
            "divided by its sum",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    w = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    if mask is not None:
        w = w * mask
        w = w / w.sum(-1, keepdim=True)
    return w @ v, w
""",
        ),
        (
            "very negative",
            """torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1)  # (..., T, S)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)""",
            """1e-9)
    weights = torch.softmax(scores, dim=-1)  # (..., T, S)
    if mask is not None:
        weights = weights""",
        ),
        (
            "NaN",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    s = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    w = s.softmax(-1)
    return w @ v, w
""",
        ),
        ("looks evenly", "weights = weights.masked_fill(~mask, 0.0)", "weights = weights"),
        ("changed places", "return weights @ v, weights", "return weights, weights @ v"),
        (
            "These are the scores",
            "return weights @ v, weights",
            "return weights @ v, q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))",
        ),
        (
            "divides the weights",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    s = q @ k.mT
    if mask is not None:
        s = s.masked_fill(~mask, -1e9)
    w = s.softmax(-1) / q.shape[-1] ** 0.5
    w = w if mask is None else w * mask
    return w @ v, w
""",
        ),
        (
            "A forbidden key has a weight",
            """torch.finfo(scores.dtype).min)
""",
            """-3.0)
    mask = torch.ones_like(scores).bool() if mask is not None else None
""",
        ),
        (
            "should have the sum 1, unless",
            "weights = torch.softmax(scores, dim=-1)",
            "weights = torch.sigmoid(scores)",
        ),
        (
            "not their product with v",
            "return weights @ v, weights",
            "return weights @ v.abs().sqrt(), weights",
        ),
        ("Expected a tuple", "return weights @ v, weights", "return weights @ v"),
        (
            "row that may see nothing is NaN",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    s = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    w = s.softmax(-1)
    if w.isnan().all():
        w = torch.zeros_like(w)
    return w @ v, w
""",
        ),
        (
            "row that may see nothing is NaN",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    s = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None and not mask.any():
        return torch.zeros_like(s) @ v, torch.zeros_like(s)
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    w = s.softmax(-1)
    return w @ v, w
""",
        ),
        (
            "row that may see nothing is NaN",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    s = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    w = s.softmax(-1)
    if mask is not None and not mask[..., 0, :].any():
        w[..., 0, :] = 0
    return w @ v, w
""",
        ),
        (
            "row that may see nothing is NaN",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    s = q @ k.mT / q.shape[-1] ** 0.5
    mask = torch.ones_like(s).bool() if mask is None else mask
    w = s.masked_fill(~mask, -math.inf).softmax(-1)
    w = torch.where(mask.any(-2, keepdim=True), w, 0.0)
    return w @ v, w
""",
        ),
        (
            "Equal scores give equal weights",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    s = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -1e9)
    w = s.softmax(-1)
    if mask is not None:
        w = torch.where(w.amax(-1, keepdim=True) == w.amin(-1, keepdim=True), 0.0, w)
    return w @ v, w
""",
        ),
        ("is not low enough", "torch.finfo(scores.dtype).min", "-50"),
        (
            "exponentials overflow",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    e = (q @ k.mT / q.shape[-1] ** 0.5).exp()
    if mask is not None:
        e = e * mask
    total = e.sum(-1, keepdim=True)
    w = torch.where(total > 0, e / total, 0.0)
    return w @ v, w
""",
        ),
        (
            "smaller by a fixed number",
            "scores.masked_fill(~mask, torch.finfo(scores.dtype).min)",
            "scores - 100 * (~mask)",
        ),
        (
            "smaller by a fixed number",
            "scores.masked_fill(~mask, torch.finfo(scores.dtype).min)",
            "scores + torch.zeros(mask.shape).masked_fill(~mask, -1000)",
        ),
        (
            "exponentials overflow",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    e = (q @ k.mT / q.shape[-1] ** 0.5).exp()
    if mask is not None:
        e = torch.where(mask, e, 0)
    w = (e / e.sum(-1, keepdim=True)).nan_to_num()
    return w @ v, w
""",
        ),
        (
            "nothing is left to divide",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    w = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    if mask is not None:
        w = w * mask
        total = w.sum(-1, keepdim=True)
        w = torch.where(total > 0, w / total, 0.0)
    return w @ v, w
""",
        ),
        ("These are the scores", "return weights @ v, weights", "return weights @ v, scores"),
        (
            "0, as the output is",
            """def scaled_dot_product_attention(q, k, v, mask=None):
    s = q @ k.mT / q.shape[-1] ** 0.5
    w = (s if mask is None else s.masked_fill(~mask, -math.inf)).softmax(-1)
    return (w @ v).nan_to_num(0.0), w
""",
        ),
        ("root of another size", "math.sqrt(q.size(-1))", "math.sqrt(v.size(-1))"),
        (
            "although the mask allows it",
            "weights = weights.masked_fill(~mask, 0.0)",
            "weights = weights.masked_fill(~mask | (weights < 0.6), 0.0)",
        ),
        ("stops with an error", "k.transpose(-2, -1)", "k.transpose(0, 1)"),
    ],
    "3.6": [
        (
            "split_heads goes straight",
            """def split_heads(x, head_dim):
    B, T, width = x.shape
    return x.view(B, width // head_dim, T, head_dim)
""",
        ),
        (
            "split_heads goes straight",
            """def split_heads(x, head_dim):
    B, T, width = x.shape
    return x.view(B, width // head_dim, T, head_dim)


def join_heads(x):
    B, H, T, d = x.shape
    return x.reshape(B, T, H * d)
""",
        ),
        ("split_heads takes head_dim", "width // head_dim, head_dim)  #", "head_dim, width // head_dim)  #"),
        (
            "deals the numbers out",
            "pieces = x.reshape(B, T, width // head_dim, head_dim)",
            "pieces = x.reshape(B, T, head_dim, width // head_dim).mT",
        ),
        ("stops at (B, T, H, d)", "return pieces.transpose(1, 2)", "return pieces"),
        ("before the batch", "return pieces.transpose(1, 2)", "return pieces.permute(2, 0, 1, 3)"),
        (
            "join_heads goes straight",
            "x.transpose(1, 2).flatten(-2)",
            "x.reshape(x.size(0), x.size(2), x.size(1) * x.size(3))",
        ),
        (
            "join_heads lets the numbers",
            """def join_heads(x):
    return torch.stack(list(x.unbind(1)), dim=-1).flatten(-2)
""",
        ),
        ("join_heads adds", "x.transpose(1, 2).flatten(-2)", "x.sum(1)"),
        ("join_heads takes the mean", "x.transpose(1, 2).flatten(-2)", "x.mean(dim=1)"),
        (
            "stops with an error",
            "x.transpose(1, 2).flatten(-2)",
            "x.transpose(1, 2).view(x.size(0), x.size(2), -1)",
        ),
        (
            "split_heads has other numbers",
            "return pieces.transpose(1, 2)",
            "return pieces[:, :, :1].repeat(1, 1, width // head_dim, 1).transpose(1, 2)",
        ),
        (
            "join_heads has other numbers",
            "x.transpose(1, 2).flatten(-2)",
            "x[:, :1].transpose(1, 2).repeat(1, 1, x.size(1), 1).flatten(-2)",
        ),
        (
            "dtype float64",
            """def split_heads(x, head_dim):
    return x.float().unflatten(-1, (-1, head_dim)).transpose(1, 2)


def join_heads(x):
    return x.float().transpose(1, 2).flatten(-2)
""",
        ),
        ("join_heads(heads): ", "x.transpose(1, 2).flatten(-2)", "x.flip(1).transpose(1, 2).flatten(-2)"),
    ],
    "3.7": [
        (
            "divide h by that",
            """def grouped_attention(q, k, v):
    n = k.shape[1]
    heads = [F.scaled_dot_product_attention(q[:, h], k[:, h // n], v[:, h // n]) for h in range(q.shape[1])]
    return torch.stack(heads, dim=1)
""",
        ),
        (
            "softmax goes over the queries",
            "return F.scaled_dot_product_attention(q, k, v)",
            "return (q @ k.mT / q.size(-1) ** 0.5).softmax(2) @ v",
        ),
        (
            "Neighbours should share",
            """def grouped_attention(q, k, v):
    n = q.size(1) // k.size(1)
    k, v = k.repeat(1, n, 1, 1), v.repeat(1, n, 1, 1)
    return F.scaled_dot_product_attention(q, k, v)
""",
        ),
        (
            "Neighbours should share",
            """def grouped_attention(q, k, v):
    n = q.size(1) // k.size(1)
    return F.scaled_dot_product_attention(q, torch.cat([k] * n, dim=1), torch.cat([v] * n, dim=1))
""",
        ),
        (
            "another order than those of v",
            "v = v.repeat_interleave(queries_per_key, dim=1)",
            "v = v.repeat(1, queries_per_key, 1, 1)",
        ),
        (
            "first key/value head",
            """def grouped_attention(q, k, v):
    k, v = k[:, 0:1].expand(-1, q.size(1), -1, -1), v[:, 0:1].expand(-1, q.size(1), -1, -1)
    return F.scaled_dot_product_attention(q, k, v)
""",
        ),
        (
            "key/value heads are averaged",
            """def grouped_attention(q, k, v):
    k, v = k.mean(1, keepdim=True), v.mean(1, keepdim=True)
    return (q @ k.mT / q.size(-1) ** 0.5).softmax(-1) @ v
""",
        ),
        (
            "query heads of a group are averaged",
            "    return F.scaled",
            """    q = q.unflatten(1, (-1, queries_per_key)).mean(2).repeat_interleave(queries_per_key, dim=1)
    return F.scaled""",
        ),
        (
            "in one softmax",
            """def grouped_attention(q, k, v):
    B, H, T, d = q.shape
    k, v = k.reshape(B, 1, -1, d), v.reshape(B, 1, -1, d)
    return (q @ k.transpose(2, 3) / math.sqrt(d)).softmax(-1) @ v
""",
        ),
        ("no mask here", "attention(q, k, v)  #", "attention(q, k, v, is_causal=True)  #"),
        ("not divided by the root", "attention(q, k, v)  #", "attention(q, k, v, scale=1.0)  #"),
        ("not by its root", "attention(q, k, v)  #", "attention(q, k, v, scale=1 / q.size(-1))  #"),
        (
            "Only the first Hkv",
            """def grouped_attention(q, k, v):
    return F.scaled_dot_product_attention(q[:, : k.size(1)], k, v)
""",
        ),
        (
            "Some heads are right",
            "k = k.repeat_interleave(queries_per_key, dim=1)",
            """k = k.repeat_interleave(queries_per_key, dim=1).roll(1, 1)
    v = v.roll(0, 1)""",
        ),
        (
            "values come from other heads",
            "v = v.repeat_interleave(queries_per_key, dim=1)",
            "v = v.flip(1).repeat_interleave(queries_per_key, dim=1)",
        ),
        (
            "ordinary attention",
            "attention(q, k, v)  #",
            "attention(q if queries_per_key > 1 else q.flip(1), k, v)  #",
        ),
        (
            "stops with an error",
            "    k = k.repeat_interleave(queries_per_key, dim=1)",
            "    k = k.repeat_interleave(queries_per_key, dim=2)",
        ),
        (
            "all others the last one",
            """def grouped_attention(q, k, v):
    heads = []
    for h in range(q.size(1)):
        g = min(h, k.size(1) - 1)
        heads.append(F.scaled_dot_product_attention(q[:, h], k[:, g], v[:, g]))
    return torch.stack(heads, dim=1)
""",
        ),
        ("repeated Hkv times", "q.size(1) // k.size(1)", "k.size(1)"),
        ("repeated twice", "q.size(1) // k.size(1)", "2"),
        (
            "its value should come out",
            "return F.scaled_dot_product_attention(q, k, v)",
            "return (q @ k.mT / q.size(-1) ** 0.5).softmax(1) @ v",
        ),
    ],
    "3.8": [
        ("one key too many", "distance < window", "distance <= window"),
        ("one key too few", "distance < window", "distance < window - 1"),
        ("does not see its own position", "distance >= 0", "distance > 0"),
        (
            "does not see its own position",
            "(distance >= 0) & (distance < window)",
            "(distance >= 1) & (distance <= window)",
        ),
        ("into the future too", "(distance >= 0) & (distance < window)", "distance.abs() < window"),
        ("into the future too", "(distance >= 0) & (distance < window)", "distance < window"),
        ("lies in the future", "positions[:, None] - positions", "positions - positions[:, None]"),
        ("sees all of the past", " & (distance < window)", ""),
        (
            "may not",
            "return (distance >= 0) & (distance < window)",
            "return ~((distance >= 0) & (distance < window))",
        ),
        (
            "wrong way round",
            "(distance >= 0) & (distance < window)",
            "(distance >= 0) & (distance >= window)",
        ),
        (
            "cut into blocks",
            """def sliding_window_mask(T, window):
    mask = torch.zeros(T, T, dtype=torch.bool)
    for i in range(T):
        mask[i, i // window * window : i + 1] = True
    return mask
""",
        ),
        (
            "first `window` positions",
            """def sliding_window_mask(T, window):
    mask = torch.zeros(T, T, dtype=torch.bool)
    mask[:, :window] = True
    return mask.tril()
""",
        ),
        ("single key is seen", "(distance >= 0) & (distance < window)", "distance == window - 1"),
        ("make it bool", "(distance < window)", "(distance < window) * 1"),
        (
            "where there are fewer than",
            """def sliding_window_mask(T, window):
    mask = torch.zeros(T, T, dtype=torch.bool)
    for i in range(window - 1, T):
        mask[i, i - window + 1 : i + 1] = True
    return mask
""",
        ),
        ("more than `window` keys", "distance < window", "distance < window + 2"),
        ("fewer keys than it may", "distance < window", "distance < window) & (distance % 2 == 0"),
        ("may see a key after it", "(distance >= 0)", "(distance >= -1)"),
        (
            "diagonal that cuts off",
            """def sliding_window_mask(T, window):
    return torch.ones(T, T).bool().tril().triu(window - 1)
""",
        ),
        ("No key is seen at all", "(distance >= 0)", "(distance <= -window)"),
        (
            "counts from the end",
            """def sliding_window_mask(T, window):
    mask = torch.zeros(T, T, dtype=torch.bool)
    for i in range(T):
        for w in range(window):
            mask[i, i - w] = True
    return mask
""",
        ),
    ],
    "3.9": [
        (
            "heads of one token look at each other",
            """def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads):
    q, k, v = (F.linear(x, w).unflatten(-1, (n_heads, -1)) for w in (w_q, w_k, w_v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).flatten(2) @ w_o.T
""",
        ),
        ("A single token should give", "return output @ w_o.T", "return (output @ w_o.T).relu() - 1"),
        (
            "multiplied by the matrices as they are",
            """def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads):
    B, T, D = x.shape
    q, k, v = ((x @ w).view(B, T, n_heads, -1).transpose(1, 2) for w in (w_q, w_k, w_v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.transpose(1, 2).reshape(B, T, D) @ w_o
""",
        ),
        (
            "multiplied by the matrices as they are",
            """def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads):
    B, T, D = x.shape
    q, k, v = ((x @ w).view(B, T, n_heads, -1).transpose(1, 2) for w in (w_q, w_k, w_v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.linear(out.transpose(1, 2).flatten(2), w_o)
""",
        ),
        ("takes w_o as it is", "output @ w_o.T", "output @ w_o"),
        ("product with w_o is missing", "output @ w_o.T", "output"),
        ("no causal mask", "scores.masked_fill(~allowed, -math.inf)", "scores"),
        ("mask is upside down", "scores.masked_fill(~allowed", "scores.masked_fill(allowed"),
        ("mask is upside down", ".tril()", ".triu()"),
        ("No token sees itself", ".tril()", ".tril(-1)"),
        (
            "comes after the softmax",
            "torch.softmax(scores.masked_fill(~allowed, -math.inf), dim=-1)",
            "torch.softmax(scores, dim=-1).masked_fill(~allowed, 0)",
        ),
        ("still gets a share", "-math.inf", "1e-9"),
        ("over the queries", "dim=-1", "dim=-2"),
        ("not divided by the root of d", " / math.sqrt(d)", ""),
        ("not by its root", "math.sqrt(d)", "d"),
        ("root of d_model", "math.sqrt(d)", "math.sqrt(D)"),
        (
            "cut by going straight",
            """def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads):
    B, T, D = x.shape
    q, k, v = (F.linear(x, w).view(B, n_heads, T, -1) for w in (w_q, w_k, w_v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.linear(out.reshape(B, T, -1), w_o)
""",
        ),
        (
            "joined by going straight",
            "(weights @ v).transpose(1, 2).flatten(-2)",
            "(weights @ v).reshape(B, T, -1)",
        ),
        (
            "dealt out to the heads in turn",
            """def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads):
    B, T, D = x.shape
    q, k, v = (F.linear(x, w).view(B, T, -1, n_heads).permute(0, 3, 1, 2) for w in (w_q, w_k, w_v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.linear(out.permute(0, 2, 3, 1).flatten(2), w_o)
""",
        ),
        (
            "n_heads is used as the length",
            """def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads):
    B, T, D = x.shape
    q, k, v = (F.linear(x, w).view(B, T, -1, n_heads).transpose(1, 2) for w in (w_q, w_k, w_v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.linear(out.transpose(1, 2).flatten(2), w_o)
""",
        ),
        (
            "only one head",
            """def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads):
    q, k, v = x @ w_q.T, x @ w_k.T, x @ w_v.T
    return F.scaled_dot_product_attention(q, k, v, is_causal=True) @ w_o.T
""",
        ),
        ("H · d is taken to be D", "d = w_q.size(0) // n_heads", "d = D // n_heads"),
        ("H · d is taken to be D", ".flatten(-2)", ".reshape(B, T, D)"),
        ("Queries and keys", "q @ k.transpose(-2, -1)", "k @ q.transpose(-2, -1)"),
        (
            "Keys and values",
            """def multi_head_attention(x, w_q, w_v, w_k, w_o, n_heads):
    B, T, D = x.shape
    q, k, v = ((x @ w.T).view(B, T, n_heads, -1).transpose(1, 2) for w in (w_q, w_k, w_v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2) @ w_o.T
""",
        ),
        ("queries serve as keys", "x @ w_k.T", "x @ w_q.T"),
        ("keys serve as values", "x @ w_v.T", "x @ w_k.T"),
        ("right after it", ".tril()", ".tril(1)"),
        ("first token is wrong already", ".tril()", ".tril().flip(0)"),
        (
            "nothing is left to divide",
            "torch.softmax(scores.masked_fill(~allowed, -math.inf), dim=-1)",
            "torch.softmax(scores, dim=-1) * allowed"
            " / (torch.softmax(scores, dim=-1) * allowed).sum(-1, keepdim=True)",
        ),
        ("is not low enough", "-math.inf", "-50"),
        ("is not low enough", "-math.inf", "-10"),
        (
            "very low ones all 0",
            "torch.softmax(scores.masked_fill(~allowed, -math.inf), dim=-1)",
            "scores.exp() * allowed / (scores.exp() * allowed).sum(-1, keepdim=True)",
        ),
        (
            "numbers of the heads take turns",
            "(weights @ v).transpose(1, 2)",
            "(weights @ v).permute(0, 2, 3, 1)",
        ),
        ("over the heads", "dim=-1", "dim=1"),
        ("lie on their side", "weights @ v", "weights.mT @ v"),
        (
            "slice of x",
            """def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads):
    d = x.size(-1) // n_heads
    out = []
    for h in range(n_heads):
        own = slice(h * d, (h + 1) * d)
        q, k, v = (x[..., own] @ w[own, own].T for w in (w_q, w_k, w_v))
        out.append(F.scaled_dot_product_attention(q, k, v, is_causal=True))
    return torch.cat(out, dim=-1) @ w_o.T
""",
        ),
        ("right with one head", ".transpose(1, 2).flatten(-2)", ".flip(1).transpose(1, 2).flatten(-2)"),
        ("right with one head", "dim=-1)  #", "dim=-1).mean(1, keepdim=True)  #"),
        ("first token is right and later", ".tril()", ".tril().triu(-1)"),
        ("where it is not", "math.sqrt(d)", "math.sqrt(D // n_heads)"),
        ("stops with an error", "k.transpose(-2, -1)", "k.transpose(0, 1)"),
    ],
    "3.10": [
        (
            "every query sees the future",
            "causal & real[:, None, None]",
            "real[:, None, None].expand(-1, -1, T, -1)",
        ),
        ("Padding can be seen", "causal & real[:, None, None]", "causal.expand(real.size(0), 1, T, S)"),
        ("joined by *or*", "causal & real", "causal | real"),
        ("last one stands at the last key", "keys[S - T :]", "keys[:T]"),
        ("does not see its own position", "keys <= queries", "keys < queries"),
        ("right after it too", "keys <= queries[:, None]", "keys <= queries[:, None] + 1"),
        ("decide about columns", "real[:, None, None]", "real[:, None, S - T :, None]"),
        (
            "rows of padding are emptied too",
            "return causal & real[:, None, None]",
            "return causal & real[:, None, None] & real[:, None, S - T :, None]",
        ),
        ("may not", "return causal & real[:, None, None]", "return ~(causal & real[:, None, None])"),
        ("stands for a real token", "& real", "& ~real"),
        ("lies on its side", "keys <= queries", "keys >= queries"),
        ("dimension for the heads is missing", "real[:, None, None]", "real[:, None]"),
        (
            "any text has padding",
            "causal & real[:, None, None]",
            "(causal & real.all(0)).expand(real.size(0), 1, T, S)",
        ),
        (
            "queries' own positions only",
            "return causal & real[:, None, None]",
            "return torch.ones(T, T).bool().tril() & real[:, None, None, -T:]",
        ),
        ("Only the last T of them ask", "keys[S - T :]", "keys"),
        ("make it bool", "causal & real[:, None, None]", "causal * real[:, None, None].float()"),
        (
            "Some query sees padding",
            "causal & real[:, None, None]",
            "causal & (real[:, None, None] | (keys == queries[:, None]))",
        ),
        (
            "after its own position",
            "return causal & real[:, None, None]",
            "return (causal | (keys == S - 1)) & real[:, None, None]",
        ),
        (
            "real and not after it",
            "return causal & real[:, None, None]",
            "return causal & real[:, None, None] & (keys > 0)",
        ),
        (
            "mask of one of them",
            "return causal & real[:, None, None]",
            "return (causal & real[0]).expand(real.size(0), 1, T, S)",
        ),
        (
            "mask of one of them",
            "return causal & real[:, None, None]",
            "return (causal & real[-1:])[None].repeat(real.size(0), 1, 1, 1)",
        ),
        (
            "when any text has a token",
            "return causal & real[:, None, None]",
            "return (causal & real.any(0)).expand(real.size(0), 1, T, S)",
        ),
        ("stand at position T + i", "keys[S - T :]", "torch.arange(T, 2 * T)"),
    ],
    "3.11": [
        (
            "previous_token_scores gives 0 everywhere",
            "maps[..., t, t - 1].mean(dim=-1)",
            "maps.diagonal(1, dim1=-2, dim2=-1).mean(dim=-1)",
        ),
        (
            "previous_token_scores gives 0 everywhere",
            "maps[..., t, t - 1].mean(dim=-1)",
            "maps.transpose(-2, -1)[..., t, t - 1].mean(dim=-1)",
        ),
        (
            "previous_token_scores reads the weight that a token gives to itself",
            "maps[..., t, t - 1].mean(dim=-1)",
            "maps.diagonal(0, dim1=-2, dim2=-1).mean(dim=-1)",
        ),
        (
            "goes two tokens back",
            "maps[..., t, t - 1].mean(dim=-1)",
            "maps.diagonal(-2, dim1=-2, dim2=-1).mean(dim=-1)",
        ),
        (
            "previous_token_scores adds the weights up",
            "maps[..., t, t - 1].mean(dim=-1)",
            "maps[..., t, t - 1].sum(dim=-1)",
        ),
        ("counts the first query too", "torch.arange(1, maps.size(-1)", "torch.arange(maps.size(-1)"),
        ("leaves out a query too many", "torch.arange(1, maps.size(-1)", "torch.arange(1, maps.size(-1) - 1"),
        ("leaves out a query too many", "torch.arange(1, ", "torch.arange(2, "),
        (
            "counts the second half of the queries only",
            "torch.arange(1, maps.size(-1)",
            "torch.arange(maps.size(-1) // 2, maps.size(-1)",
        ),
        ("reads column 0", "maps[..., t, t - 1].mean(dim=-1)", "maps[:, :, 1:, 0].mean(dim=2)"),
        ("all weights before", "maps[..., t, t - 1].mean(dim=-1)", "maps.tril(-1).sum(-1)[..., 1:].mean(-1)"),
        (
            "previous_token_scores takes a mean over other",
            "maps[..., t, t - 1].mean(dim=-1)",
            "maps[..., t, t - 1].mean(dim=(0, 1))",
        ),
        (
            "previous_token_scores takes a mean over other",
            "maps[..., t, t - 1].mean(dim=-1)",
            "maps[..., t, t - 1]",
        ),
        (
            "previous_token_scores takes the diagonal of layers and heads",
            "maps[..., t, t - 1].mean(dim=-1)",
            "maps.diagonal(offset=-1).mean(dim=-1)",
        ),
        (
            "previous_token_scores has heads for rows",
            "maps[..., t, t - 1].mean(dim=-1)",
            "maps[..., t, t - 1].mean(dim=-1).T",
        ),
        (
            "previous_token_scores has a score above 1",
            "maps[..., t, t - 1].mean(dim=-1)",
            "maps[..., t, t - 1].mean(dim=-1) * 10",
        ),
        (
            "wrong for two tokens already",
            "maps[..., t, t - 1].mean(dim=-1)",
            "1 - maps[..., t, t - 1].mean(dim=-1)",
        ),
        (
            "right for two tokens and wrong for more",
            "maps[..., t, t - 1].mean(dim=-1)",
            "maps[..., t, t - 1].amax(dim=-1)",
        ),
        ("does not have", "maps[..., t, t - 1]", "maps[..., t, t + 1]"),
        (
            "induction_scores gives 0 everywhere",
            "maps[..., t, t - n + 1].mean(dim=-1)",
            "maps.diagonal(n - 1, dim1=-2, dim2=-1).mean(dim=-1)",
        ),
        (
            "same token's first place",
            "maps[..., t, t - n + 1].mean(dim=-1)",
            "maps.diagonal(-n, dim1=-2, dim2=-1).mean(dim=-1)",
        ),
        ("same token's first place", "t - n + 1]", "t - n]"),
        ("before the first occurrence", "t - n + 1]", "t - n - 1]"),
        ("to t - n + 2", "t - n + 1]", "t - n + 2]"),
        (
            "counts query n - 1 too",
            "maps[..., t, t - n + 1].mean(dim=-1)",
            "maps.diagonal(-n + 1, dim1=-2, dim2=-1).mean(dim=-1)",
        ),
        (
            "counts queries n - 1 to 2n - 2",
            "maps[..., t, t - n + 1].mean(dim=-1)",
            "maps.diagonal(1 - n, -2, -1)[..., :-1].mean(-1)",
        ),
        (
            "leaves out the last query",
            "maps[..., t, t - n + 1].mean(dim=-1)",
            "maps[..., n:, :n].diagonal(1, -2, -1).mean(-1)",
        ),
        ("leaves out query n, the first", "torch.arange(n, 2 * n", "torch.arange(n + 1, 2 * n"),
        (
            "induction_scores adds the weights up",
            "maps[..., t, t - n + 1].mean(dim=-1)",
            "maps[..., t, t - n + 1].sum(dim=-1)",
        ),
        ("divides by T", "torch.arange(n, 2 * n", "torch.arange(2 * n"),
        ("induction_scores looks at the token just before", "t - n + 1]", "t - 1]"),
        ("induction_scores reads the weight that a token gives to itself", "t - n + 1]", "t]"),
        (
            "induction_scores takes a mean over other",
            "maps[..., t, t - n + 1].mean(dim=-1)",
            "maps[..., t, t - n + 1].mean(dim=1)",
        ),
        (
            "induction_scores takes the diagonal of layers and heads",
            "maps[..., t, t - n + 1].mean(dim=-1)",
            "maps.diagonal(1 - n)[..., 1:].mean(dim=-1)",
        ),
        (
            "induction_scores has heads for rows",
            "maps[..., t, t - n + 1].mean(dim=-1)",
            "maps[..., t, t - n + 1].mean(dim=-1).T",
        ),
        (
            "induction_scores has a score above 1",
            "maps[..., t, t - n + 1].mean(dim=-1)",
            "maps[..., t, t - n + 1].mean(dim=-1) * 10",
        ),
        (
            "Mark in the map of the example",
            "maps[..., t, t - n + 1].mean(dim=-1)",
            "maps[..., t, t - n + 1].median(dim=-1).values",
        ),
        (
            "Mark in the map of the example",
            "maps[..., t, t - n + 1].mean(dim=-1)",
            "maps[..., n:, :].amax(dim=-1).mean(dim=-1)",
        ),
        ("does not have", "t - n + 1]", "t + n - 1]"),
        (
            "stops with an error",
            "maps[..., t, t - n + 1].mean(dim=-1)",
            "maps.diagonal(offset=1 - n, dim1=-1, dim2=-1)",
        ),
        (
            "previous_token_scores adds the weights up",
            """def previous_token_scores(maps):
    return maps.diagonal(-1, -2, -1).sum(-1)


def induction_scores(maps, n):
    return maps.diagonal(1 - n, -2, -1)[..., 1:].sum(-1)
""",
        ),
        (
            "dtype float64",
            """def previous_token_scores(maps):
    L, H, T, _ = maps.shape
    scores = torch.zeros(L, H, device=maps.device)
    for t in range(1, T):
        scores += maps[:, :, t, t - 1] / (T - 1)
    return scores


def induction_scores(maps, n):
    return maps.diagonal(1 - n, -2, -1)[..., 1:].mean(-1)
""",
        ),
        (
            "counts the first query too",
            """def previous_token_scores(maps):
    L, H, T, _ = maps.shape
    return torch.stack([maps[:, :, t, t - 1] for t in range(T)]).mean(0)


def induction_scores(maps, n):
    return torch.stack([maps[:, :, t, t - n + 1] for t in range(2 * n)]).mean(0)
""",
        ),
        (
            "changes its arguments",
            """def previous_token_scores(maps):
    return maps.diagonal(-1, dim1=-2, dim2=-1).mean(-1)


def induction_scores(maps, n):
    maps[..., :n, :] = 0
    return maps.diagonal(1 - n, dim1=-2, dim2=-1).sum(-1) / n
""",
        ),
    ],
}
