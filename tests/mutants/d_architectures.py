"""Appendix D: answers that are right in another way, and answers that are wrong in a typical way."""

VARIANTS = {
    "D.1": """def paired_difference(ours, baseline):
    d = torch.tensor(ours, dtype=torch.float64) - torch.tensor(baseline, dtype=torch.float64)
    return d.mean().item(), (d.std() / len(d) ** 0.5).item()
""",
    "D.2": """def top_k_gates(router_logits, top_k):
    smallest = router_logits.sort(dim=-1, descending=True).values[:, top_k - 1 : top_k]
    kept = router_logits.masked_fill(router_logits < smallest, float("-inf"))
    return torch.softmax(kept, dim=-1)
""",
    "D.3": """def switch_balance(probabilities, chosen):
    N, E = probabilities.shape
    loss = 0.0
    for i in range(E):
        share = (chosen == i).sum().item() / chosen.numel()
        loss = loss + share * probabilities[:, i].sum() / N
    return E * loss
""",
    "D.4": """def stretched_angles(T, head_dim, theta, method, factor):
    table = torch.zeros(T, head_dim // 2, dtype=torch.float64)
    for p in range(T):
        for i in range(head_dim // 2):
            base = theta * factor ** (head_dim / (head_dim - 2)) if method == "ntk" else theta
            angle = p / base ** (2 * i / head_dim)
            table[p, i] = angle / factor if method == "interpolate" else angle
    return table
""",
    "D.5": """def reach(mask, n_layers):
    seen = [{j for j, may in enumerate(row) if may} for row in mask.tolist()]
    heard = [{i} for i in range(len(seen))]
    for _ in range(n_layers):
        heard = [set().union(*(heard[m] for m in row)) for row in seen]
    return [i - min(positions) for i, positions in enumerate(heard)]
""",
    "D.6": """def doubling_scan(a, u):
    if len(u) == 1:
        return u
    odd = len(u) % 2
    pair_a, pair_u = a[1::2] * a[: len(a) - odd : 2], u[1::2] + a[1::2] * u[: len(u) - odd : 2]
    ends = doubling_scan(pair_a, pair_u)
    h = torch.empty_like(u)
    h[1::2] = ends
    h[0] = u[0]
    h[2::2] = u[2::2] + a[2::2] * ends[: len(h[2::2])]
    return h
""",
    "D.7": """def ssm_step(state, x, delta, A, B, C):
    kept = torch.exp(torch.einsum("bd,dn->bdn", delta, A)) * state
    new = kept + torch.einsum("bd,bn,bd->bdn", delta, B, x)
    return torch.einsum("bdn,bn->bd", new, C), new
""",
}

MUTANTS = {
    "D.1": [
        ("baseline less ours", "mine - other for", "other - mine for"),
        ("so divide by the root of n", "math.sqrt(variance / n)", "math.sqrt(variance)"),
        ("variance is divided by n;", "/ (n - 1)", "/ n"),
        ("divide it by the root of n", "math.sqrt(variance / n)", "math.sqrt(variance) / n"),
        ("its root is missing", "math.sqrt(variance / n)", "variance / n"),
        ("without their signs", "[mine - other for", "[abs(mine - other) for"),
        ("added up; their mean", "return mean,", "return sum(differences),"),
        (
            "in the other order",
            "return mean, math.sqrt(variance / n)",
            "return math.sqrt(variance / n), mean",
        ),
        (
            "Take the spread of the differences",
            """def paired_difference(ours, baseline):
    a, b = torch.tensor(ours).double(), torch.tensor(baseline).double()
    return (a.mean() - b.mean()).item(), ((a.var() + b.var()) / len(a)).sqrt().item()
""",
        ),
        ("standard error is not", "(difference - mean) ** 2", "abs(difference - mean)"),
        ("standard error is right, the mean is not", "return mean,", "return differences[0],"),
        ("Does every way through it end with a return", "return mean, math.sqrt(variance / n)", "pass"),
    ],
    "D.2": [
        ("not renormalised", "values = values / values.sum(dim=-1, keepdim=True)", "values = values"),
        (
            "Nothing is left out",
            "return torch.zeros_like(probabilities).scatter(-1, chosen, values)",
            "return probabilities",
        ),
        ("over the tokens", "router_logits.softmax(dim=-1)", "router_logits.softmax(dim=0)"),
        ("smallest scores", ".topk(top_k, dim=-1)", ".topk(top_k, dim=-1, largest=False)"),
        (
            "first places",
            "return torch.zeros_like(probabilities).scatter(-1, chosen, values)",
            "return F.pad(values, (0, probabilities.size(-1) - top_k))",
        ),
        ("Only the k gates", "torch.zeros_like(probabilities).scatter(-1, chosen, values)", "values"),
        (
            "exp(0) is 1",
            "return torch.zeros_like(probabilities).scatter(-1, chosen, values)",
            "return torch.zeros_like(probabilities).scatter(-1, chosen, values).softmax(dim=-1)",
        ),
        (
            "softmax is taken twice",
            "values = values / values.sum(dim=-1, keepdim=True)",
            "values = values.softmax(dim=-1)",
        ),
        ("All gates of the batch", "values.sum(dim=-1, keepdim=True)", "values.sum()"),
        (
            "all get the same share",
            "values = values / values.sum(dim=-1, keepdim=True)",
            "values = torch.ones_like(values) / top_k",
        ),
        (
            "more or fewer gates",
            "probabilities.topk(top_k, dim=-1)",
            "probabilities.topk(max(1, top_k - 1), dim=-1)",
        ),
        (
            "with no softmax before",
            """def top_k_gates(router_logits, top_k):
    values, chosen = router_logits.topk(top_k, dim=-1)
    values = values / values.sum(dim=-1, keepdim=True)
    return torch.zeros_like(router_logits).scatter(-1, chosen, values)
""",
        ),
    ],
    "D.3": [
        ("here E is missing", "n_experts * (f.to", "(f.to"),
        ("not as a share", "counts / chosen.numel()", "counts"),
        ("divided by the number of tokens", "chosen.numel()", "len(chosen)"),
        (
            "sum has become a mean",
            "probabilities.mean(dim=0)).sum()",
            "probabilities.mean(dim=0)).mean()",
        ),
        ("P is their mean", "probabilities.mean(dim=0)", "probabilities.sum(dim=0)"),
        ("P is squared", "f.to(probabilities.dtype) *", "probabilities.mean(dim=0) *"),
        (
            "nothing could be learned",
            "probabilities.mean(dim=0)).sum()",
            "probabilities.mean(dim=0).detach()).sum()",
        ),
        (
            "over the experts, where",
            "f.to(probabilities.dtype) * probabilities.mean(dim=0)",
            "f.to(probabilities.dtype) * probabilities.mean()",
        ),
        (
            "count what `chosen` says",
            "counts = torch.bincount(chosen.flatten()",
            "chosen = probabilities.argmax(dim=1)\n    counts = torch.bincount(chosen",
        ),
        (
            "only the first choice",
            "counts = torch.bincount(chosen.flatten()",
            "chosen = chosen[:, 0]\n    counts = torch.bincount(chosen",
        ),
        (
            "did not choose it are left out",
            "probabilities.mean(dim=0)",
            "torch.zeros_like(probabilities).scatter(1, chosen, probabilities.gather(1, chosen)).mean(dim=0)",
        ),
        ("multiplied by the number of tokens", "return n_experts", "return len(probabilities)"),
        ("minus it would reward", "return n_experts", "return -n_experts"),
        ("fewer places than", ", minlength=n_experts", ""),
        (
            "its gradient at the probabilities is not",
            "return n_experts * (f.to(probabilities.dtype) * probabilities.mean(dim=0)).sum()",
            "loss = n_experts * (f.to(probabilities.dtype) * probabilities.mean(dim=0)).sum()\n"
            "    return loss + probabilities.sum() - probabilities.sum().detach()",
        ),
        (
            "beside the wrong ones",
            """def switch_balance(probabilities, chosen):
    E = probabilities.size(-1)
    counts = torch.unique(chosen, return_counts=True)[1]
    f = (counts / chosen.numel()).to(probabilities.dtype)
    P = probabilities.mean(dim=0)
    return E * sum(f[i] * P[i] for i in range(len(f)))
""",
        ),
    ],
    "D.4": [
        ("Divide", "positions / factor", "positions * factor"),
        ("rounds the positions", "positions / factor", "positions // factor"),
        ("the factor has the power", "factor ** (head_dim / (head_dim - 2))", "factor"),
        ("changed places", "head_dim / (head_dim - 2)", "(head_dim - 2) / head_dim"),
        (
            "only the factor has one",
            "theta * factor ** (head_dim / (head_dim - 2))",
            "(theta * factor) ** (head_dim / (head_dim - 2))",
        ),
        ("divides the base", "theta * factor **", "theta / factor **"),
        ("changes the positions too", 'if method == "interpolate":', 'if method in ("interpolate", "ntk"):'),
        ("-2 i / d", "-2 * pairs", "-pairs"),
        ("lost its minus", "-2 * pairs", "2 * pairs"),
        (
            "method is not looked at",
            """def stretched_angles(T, head_dim, theta, method, factor):
    speeds = 1 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    return torch.arange(T, dtype=torch.float64)[:, None] * speeds
""",
        ),
        ("counts for the method none", 'if method == "interpolate":', 'if method != "ntk":'),
        (
            "have changed places: interpolate",
            'if method == "interpolate":\n        positions = positions / factor\n    if method == "ntk":',
            'if method == "ntk":\n        positions = positions / factor\n    if method == "interpolate":',
        ),
        (
            "interpolate changes the base",
            "        positions = positions / factor\n",
            "        theta = theta * factor\n",
        ),
        (
            "interpolate changes the base",
            'positions = positions / factor\n    if method == "ntk":',
            'pass\n    if method != "none":',
        ),
        ("divided by the number of pairs", "* pairs / head_dim", "* pairs / len(pairs)"),
        (
            "1 / factor, 2 / factor",
            "positions = positions / factor",
            "positions = torch.linspace(0, T / factor, T, dtype=torch.float64)",
        ),
        ("begin at 1", "torch.arange(T, dtype=torch.float64)", "torch.arange(1, T + 1, dtype=torch.float64)"),
        (
            "stands there twice",
            "return torch.outer(positions, theta ** (-2 * pairs / head_dim))",
            "return torch.outer(positions, theta ** (-2 * pairs / head_dim)).repeat_interleave(2, 1)",
        ),
        (
            "not the angles",
            "return torch.outer(positions, theta ** (-2 * pairs / head_dim))",
            "return torch.outer(positions, theta ** (-2 * pairs / head_dim)).cos()",
        ),
        (
            "has the speed 1",
            "pairs = torch.arange(head_dim // 2, dtype=torch.float64)",
            "pairs = torch.arange(head_dim // 2, dtype=torch.float64) + 1",
        ),
    ],
    "D.5": [
        ("of one layer, whatever", "for _ in range(n_layers - 1):", "for _ in range(0):"),
        ("one layer too many", "range(n_layers - 1)", "range(n_layers)"),
        ("one layer too few", "reached = mask\n", "reached = torch.eye(len(mask), device=mask.device)\n"),
        ("squares what was reached", "mask.float() @ reached.float()", "reached.float() @ reached.float()"),
        ("earliest positions themselves", "[i - j for i, j in enumerate(earliest)]", "earliest"),
        (
            "counts how many",
            "return [i - j for i, j in enumerate(earliest)]",
            "return (reached.sum(dim=1) - 1).tolist()",
        ),
        (
            "looks down the columns",
            "return [i - j for i, j in enumerate(earliest)]",
            "return [max(i for i in range(len(mask)) if reached[i, j]) - j for j in range(len(mask))]",
        ),
        ("one too many in every place", "[i - j for", "[i - j + 1 for"),
        (
            "cannot begin before the text",
            """def reach(mask, n_layers):
    result = []
    for i, row in enumerate(mask.tolist()):
        result.append(min(i, n_layers * (i - row.index(True))))
    return result
""",
        ),
        (
            "Every result is 0",
            "earliest = reached.int()",
            "earliest = reached.T.int()",
        ),
        (
            "nearest position",
            "return [i - j for i, j in enumerate(earliest)]",
            "near = [[j for j in range(i) if row[j]] for i, row in enumerate(reached.tolist())]\n"
            "    return [i - row[-1] if row else 0 for i, row in enumerate(near)]",
        ),
        (
            "by a nearer one the next layer",
            """def reach(mask, n_layers):
    first = [row.index(True) for row in mask.tolist()]
    result = []
    for i in range(len(first)):
        j = i
        for _ in range(n_layers):
            j = first[j]
        result.append(i - j)
    return result
""",
        ),
        ("result is negative", "[i - j for i, j", "[j - i for i, j"),
    ],
    "D.6": [
        ("stops after one round", "reach *= 2", "break"),
        ("first round is missing", "reach = 1", "reach = 2"),
        ("round too early", "while reach < len(u):", "while 2 * reach < len(u):"),
        ("not brought up to date", "        a = torch.cat([a[:reach], new_a])\n", ""),
        (
            "a of the new round",
            "new_u = u[reach:] + a[reach:] * u[:-reach]  # (T - reach, D)\n        "
            "new_a = a[reach:] * a[:-reach]",
            "new_a = a[reach:] * a[:-reach]\n        new_u = u[reach:] + new_a * u[:-reach]",
        ),
        (
            "earlier a is multiplied",
            "u[reach:] + a[reach:] * u[:-reach]",
            "u[reach:] + a[:-reach] * u[:-reach]",
        ),
        ("in the wrong order", "u[reach:] + a[reach:] * u[:-reach]", "u[:-reach] + a[:-reach] * u[reach:]"),
        (
            "without a: the old state",
            """def doubling_scan(a, u):
    return torch.cumsum(u, dim=0)
""",
        ),
        (
            "can be 0",
            """def doubling_scan(a, u):
    p = torch.cumprod(a, dim=0)
    return p * torch.cumsum(u / p, dim=0)
""",
        ),
        (
            "too slow for this text",
            """def doubling_scan(a, u):
    h = [u[0]]
    for t in range(1, len(u)):
        h.append(a[t] * h[-1] + u[t])
    return torch.stack(h)
""",
        ),
        ("come to an end", "reach *= 2", "reach *= 1"),
        (
            "in at the front",
            """def doubling_scan(a, u):
    reach = 1
    while reach < len(u):
        u = u + a * torch.roll(u, reach, dims=0)
        a = a * torch.roll(a, reach, dims=0)
        reach *= 2
    return u
""",
        ),
        ("products of a are added up", "new_a = a[reach:] * a[:-reach]", "new_a = a[reach:] + a[:-reach]"),
        ("only half of a step", "return u", "return a"),
        (
            "changes its arguments",
            "reach = 1\n",
            "reach = 1\n    u[0] = u[0]; u[0] += 1; u[0] -= 1; u[-1] *= 1.0; a[0] = 0\n",
        ),
    ],
    "D.7": [
        (
            "read from the old state",
            "    state = a * state + u\n    return (state * C.unsqueeze(1)).sum(dim=-1), state",
            "    new = a * state + u\n    return (state * C.unsqueeze(1)).sum(dim=-1), new",
        ),
        ("no exponential", "(delta.unsqueeze(-1) * A).exp()", "delta.unsqueeze(-1) * A"),
        ("that of A alone", "(delta.unsqueeze(-1) * A).exp()", "A.exp()"),
        ("that of delta, without A", "(delta.unsqueeze(-1) * A).exp()", "(-delta).exp().unsqueeze(-1)"),
        ("would leave a trace", "(delta * x).unsqueeze(-1)", "x.unsqueeze(-1)"),
        ("without B, which says", "* B.unsqueeze(1)", "* torch.ones_like(B).unsqueeze(1)"),
        ("without x", "(delta * x)", "delta"),
        ("lost a sign", "(delta.unsqueeze(-1) * A).exp()", "(-delta.unsqueeze(-1) * A).exp()"),
        ("old state is lost", "state = a * state + u", "state = u"),
        ("added up without C", "(state * C.unsqueeze(1)).sum(dim=-1)", "state.sum(dim=-1)"),
        ("y is their sum", ".sum(dim=-1), state", ".mean(dim=-1), state"),
        ("only the old state fades", "state = a * state + u", "state = a * (state + u)"),
        (
            "exact solution",
            "(delta * x).unsqueeze(-1) * B",
            "((delta.unsqueeze(-1) * A).exp() - 1) / A * x.unsqueeze(-1) * B",
        ),
        (
            "weighted by 1 - exp",
            "(delta * x).unsqueeze(-1) * B",
            "(1 - (delta.unsqueeze(-1) * A).exp()) * x.unsqueeze(-1) * B",
        ),
        (
            "taken for a logarithm",
            "(delta.unsqueeze(-1) * A).exp()",
            "(-delta.unsqueeze(-1) * A.exp()).exp()",
        ),
        ("softplus again", "    a = (delta", "    delta = F.softplus(delta)\n    a = (delta"),
        ("x is added to y", ".sum(dim=-1), state", ".sum(dim=-1) + x, state"),
        ("returned times C", ".sum(dim=-1), state", ".sum(dim=-1), state * C.unsqueeze(1)"),
        ("B writes, C reads", "    a = (delta", "    B, C = C, B\n    a = (delta"),
        (
            "y first",
            "return (state * C.unsqueeze(1)).sum(dim=-1), state",
            "return state, (state * C.unsqueeze(1)).sum(dim=-1)",
        ),
        (
            "old state is returned",
            "    state = a * state + u\n    return (state * C.unsqueeze(1)).sum(dim=-1), state",
            "    new = a * state + u\n    return (new * C.unsqueeze(1)).sum(dim=-1), state",
        ),
        (
            "y is not",
            "(state * C.unsqueeze(1)).sum(dim=-1), state",
            "(state * C.unsqueeze(1)).amax(dim=-1), state",
        ),
        ("changes its arguments", "state = a * state + u", "state.mul_(a).add_(u)"),
    ],
}
