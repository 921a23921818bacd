"""Appendix B: answers that are right in another way, and answers that are wrong in a typical way."""

VARIANTS = {
    "B.1": """def lost_updates(weight, update):
    lost = asked = 0
    for w, u, moved in zip(weight.flatten(), update.flatten(), (weight + update).flatten()):
        if u.item() != 0:
            asked += 1
            lost += moved.item() == w.item()
    return lost / asked if asked else 0.0
""",
    "B.2": """def log_sum_exp(x, dim):
    rows = x.movedim(dim, -1)
    largest = rows.max(dim=-1).values.clamp(min=-1e30)
    return largest + torch.log(torch.exp(rows - largest[..., None]).sum(-1))
""",
    "B.3": """def leaked_rows(train_ids, rows, n):
    leaked = []
    for number, row in enumerate(rows):
        for i in range(len(row) - n + 1):
            if any(train_ids[j : j + n] == row[i : i + n] for j in range(len(train_ids) - n + 1)):
                leaked.append(number)
                break
    return leaked
""",
    "B.4": """def blind_floor(inputs, targets):
    counted = targets != -100
    a, b = inputs[counted], targets[counted]
    if len(a) == 0:
        return 0.0
    total = 0.0
    for token in a.unique():
        n = torch.bincount(b[a == token]).double()
        n = n[n > 0]
        total -= (n * (n / n.sum()).log()).sum().item()
    return total / len(a)
""",
    "B.5": """def record(model, x):
    found = []
    names = {module: name for name, module in model.named_modules()}

    def see(module, arguments, output):
        distance = output - output.mean()
        found.append((names[module], float((distance**2).mean() ** 0.5)))

    leaves = [module for module in names if not len(list(module.children()))]
    hooks = [module.register_forward_hook(see) for module in leaves]
    try:
        model(x)
        return found
    finally:
        [hook.remove() for hook in hooks]
""",
    "B.6": """def block_norms(model):
    squares = {number: 0.0 for number in range(len(model.blocks))}
    for name, w in model.named_parameters():
        parts = name.split(".")
        if parts[0] == "blocks" and w.grad is not None:
            squares[int(parts[1])] += float(w.grad.norm()) ** 2
    return {number: square**0.5 for number, square in squares.items()}
""",
    "B.7": """def sees_the_future(model, token_ids):
    mode, T = model.training, token_ids.shape[1]
    model.eval()
    try:
        before, leaks = model(token_ids), []
        for t in range(T - 1):
            for s in range(t + 1, T):
                other = token_ids.clone()
                other[0, s] = 0 if token_ids[0, s] != 0 else 1
                if (model(other)[0, t] - before[0, t]).abs().max() > 1e-5:
                    leaks.append(t)
                    break
        return leaks
    finally:
        model.train(mode)
""",
    "B.8": """def causal_attention(q, k, v):
    rows = []
    for t in range(len(q)):
        scores = (k[: t + 1] @ q[t]) * q.shape[1] ** -0.5
        share = torch.exp(scores - scores.max())
        rows.append((share / share.sum()) @ v[: t + 1])
    return torch.stack(rows)
""",
}

MUTANTS = {
    "B.1": [
        (
            "has nothing to lose",
            "lost = asked & (weight + update == weight)",
            "lost = weight + update == weight",
        ),
        ("divided by all numbers", "max(1, asked.sum().item())", "weight.numel()"),
        (
            "a wider format",
            "(weight + update == weight)",
            "(weight.float() + update.float() == weight.float())",
        ),
        ("Nearly equal counts", "(weight + update == weight)", "torch.isclose(weight + update, weight)"),
        ("the updates that arrive", "(weight + update == weight)", "(weight + update != weight)"),
        ("how many are lost", " / max(1, asked.sum().item())", ""),
        ("divides by zero", "max(1, asked.sum().item())", "asked.sum().item()"),
        (
            "changes its arguments",
            "lost = asked & (weight + update == weight)",
            "before = weight.clone()\n    weight += update\n    lost = asked & (weight == before)",
        ),
        (
            "Expected a number, got a tensor",
            "return lost.sum().item() / max(1, asked.sum().item())",
            "return lost[asked].float().mean()",
        ),
        ("Updates below 0 are left out", "asked = update != 0", "asked = update > 0"),
    ],
    "B.2": [
        (
            "Exponentials of large numbers",
            """def log_sum_exp(x, dim):
    return torch.log(torch.exp(x).sum(dim))
""",
        ),
        ("never added again", " + largest.squeeze(dim)", ""),
        (
            "minus infinity minus itself",
            "    largest = torch.where(largest.isinf(), 0.0, largest)  # nothing to subtract\n",
            "",
        ),
        (
            "the largest of all",
            """def log_sum_exp(x, dim):
    largest = x.max()
    return (x - largest).exp().sum(dim=dim).log() + largest
""",
        ),
        (
            "kept, with size 1",
            "(x - largest).exp().sum(dim=dim).log() + largest.squeeze(dim)",
            "(x - largest).exp().sum(dim=dim, keepdim=True).log() + largest",
        ),
        (
            "always works along the last",
            """def log_sum_exp(x, dim):
    largest = x.amax(-1, keepdim=True)
    largest = largest.clamp(min=-1e30)
    return (x - largest).exp().sum(-1).log() + largest[..., 0]
""",
        ),
        ("logarithm of the mean", ".sum(dim=dim).log()", ".mean(dim=dim).log()"),
        (
            "largest number alone",
            "(x - largest).exp().sum(dim=dim).log() + largest.squeeze(dim)",
            "x.max(dim=dim).values",
        ),
        (
            "The logarithm is missing",
            "return (x - largest).exp().sum(dim=dim).log() + largest.squeeze(dim)",
            "return x.exp().sum(dim)",
        ),
        (
            "of each exponential",
            "(x - largest).exp().sum(dim=dim).log() + largest.squeeze(dim)",
            "x.exp().log().sum(dim)",
        ),
        (
            "counts as 0",
            """def log_sum_exp(x, dim):
    x = torch.where(x == -math.inf, torch.zeros_like(x), x)
    largest = x.amax(dim, keepdim=True)
    return (x - largest).exp().sum(dim).log() + largest.squeeze(dim)
""",
        ),
        ("drops every dimension of size 1", "largest.squeeze(dim)", "largest.squeeze()"),
    ],
    "B.3": [
        ("order of the tokens", "tuple(ids[i : i + n])", "tuple(sorted(ids[i : i + n]))"),
        (
            "Single tokens are looked up",
            """def leaked_rows(train_ids, rows, n):
    known = set(train_ids)
    return [k for k, row in enumerate(rows) if any(token in known for token in row)]
""",
        ),
        (
            "all of it stands in the text",
            """def leaked_rows(train_ids, rows, n):
    found = []
    for k, row in enumerate(rows):
        m = len(row)
        if m >= n and any(train_ids[i : i + m] == row for i in range(len(train_ids) - m + 1)):
            found.append(k)
    return found
""",
        ),
        ("pieces of n that do not overlap", "range(len(ids) - n + 1)", "range(0, len(ids) - n + 1, n)"),
        ("The last run is left out", "range(len(ids) - n + 1)", "range(len(ids) - n)"),
        ("shorter than n", "range(len(ids) - n + 1)", "range(len(ids))"),
        ("that have not leaked", "if runs(row) & seen", "if not runs(row) & seen"),
        (
            "A True or False for each row",
            "[number for number, row in enumerate(rows) if runs(row) & seen]",
            "[len(runs(row) & seen) > 0 for row in rows]",
        ),
        ("The rows themselves", "[number for number, row", "[row for number, row"),
        ("counted from 1", "enumerate(rows)", "enumerate(rows, 1)"),
        (
            "once for each of its runs",
            """def leaked_rows(train_ids, rows, n):
    seen = [train_ids[i : i + n] for i in range(len(train_ids) - n + 1)]
    found = []
    for number, row in enumerate(rows):
        for i in range(len(row) - n + 1):
            if row[i : i + n] in seen:
                found.append(number)
    return found
""",
        ),
        (
            "n + 1 tokens",
            """def leaked_rows(train_ids, rows, n):
    n = n + 1
    seen = {tuple(train_ids[i : i + n]) for i in range(len(train_ids) - n + 1)}
    return [k for k, row in enumerate(rows)
            if any(tuple(row[i : i + n]) in seen for i in range(len(row) - n + 1))]
""",
        ),
        ("Every run of a row must stand", "if runs(row) & seen", "if runs(row) <= seen"),
        ("joined to a string", "tuple(ids[i : i + n])", '"".join(map(str, ids[i : i + n]))'),
        (
            "joined to a string",
            """def leaked_rows(train_ids, rows, n):
    text = " ".join(map(str, train_ids))
    runs = [[" ".join(map(str, row[i : i + n])) for i in range(len(row) - n + 1)] for row in rows]
    return [number for number, row in enumerate(runs) if any(run in text for run in row)]
""",
        ),
        (
            "the number of its first place",
            "[number for number, row in enumerate(rows) if",
            "[rows.index(row) for row in rows if",
        ),
    ],
    "B.4": [
        ("The input does not count", "n_ab[a, b] / n_a[a]", "Counter(y for _, y in pairs)[b] / len(pairs)"),
        ("counts here like a token", " if b != -100]", "]"),
        ("counts in n_a", "Counter(a for a, _ in pairs)", "Counter(inputs.flatten().tolist())"),
        ("divided by all places", "max(1, len(pairs))", "inputs.numel()"),
        ("logarithms to the base 2", "math.log(", "math.log2("),
        ("number of all pairs", "n_ab[a, b] / n_a[a]", "n_ab[a, b] / len(pairs)"),
        (
            "Each kind of pair weighs the same",
            "for a, b in pairs) / max(1, len(pairs))",
            "for a, b in n_ab) / max(1, len(n_ab))",
        ),
        ("This is the sum", " / max(1, len(pairs))", ""),
        ("a loss is not below 0", "return -sum", "return sum"),
        (
            "how often the *target* occurs",
            "n_ab[a, b] / n_a[a]",
            "n_ab[a, b] / Counter(y for _, y in pairs)[b]",
        ),
        (
            "Each input token weighs the same",
            """def blind_floor(inputs, targets):
    keep = targets != -100
    a, b = inputs[keep], targets[keep]
    entropies = []
    for token in a.unique():
        p = torch.bincount(b[a == token]).double()
        p = p[p > 0] / p.sum()
        entropies.append(-(p * p.log()).sum().item())
    return sum(entropies) / max(1, len(entropies))
""",
        ),
        (
            "perplexity",
            "return -sum(math.log(n_ab[a, b] / n_a[a]) for a, b in pairs) / max(1, len(pairs))",
            "return math.exp(-sum(math.log(n_ab[a, b] / n_a[a]) for a, b in pairs) / max(1, len(pairs)))",
        ),
        ("The target 0 is left out", "if b != -100", "if b > 0"),
        (
            "keys of the Counter tensors",
            "inputs.flatten().tolist(), targets.flatten().tolist()",
            "inputs.flatten(), targets.flatten()",
        ),
        (
            "Each row has counts of its own",
            """def blind_floor(inputs, targets):
    if inputs.dim() > 1:
        return sum(blind_floor(i, t) for i, t in zip(inputs, targets)) / len(inputs)
    pairs = [(a, b) for a, b in zip(inputs.tolist(), targets.tolist()) if b != -100]
    n_ab, n_a = Counter(pairs), Counter(a for a, _ in pairs)
    return -sum(math.log(n_ab[a, b] / n_a[a]) for a, b in pairs) / max(1, len(pairs))
""",
        ),
    ],
    "B.5": [
        ("The hooks stay on the model", "            hook.remove()", "            pass"),
        (
            "After an error the hooks stay",
            """    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
""",
            """    model(x)
    for hook in hooks:
        hook.remove()
""",
        ),
        ("Modules that have modules inside", "if not list(module.children()):", "if True:"),
        ("one less than there are numbers", "correction=0", "correction=1"),
        (
            "the name of the last module",
            "def see(module, arguments, output, name=name):",
            "def see(module, arguments, output):",
        ),
        (
            "The error is swallowed",
            "    finally:\n",
            "    except RuntimeError:\n        pass\n    finally:\n",
        ),
        ("This is the variance", "output.std(correction=0)", "output.var(correction=0)"),
        ("without the mean taken away", "output.std(correction=0)", "(output**2).mean().sqrt()"),
        ("is the mean of the output", "output.std(correction=0)", "output.mean()"),
        ("along the last dimension only", "output.std(correction=0)", "output.std(-1, correction=0).mean()"),
        (
            "one entry here",
            """def record(model, x):
    found, hooks = {}, []
    for name, module in model.named_modules():
        if len(list(module.children())) == 0:
            def see(module, arguments, output, name=name):
                found[name] = output.std(correction=0).item()
            hooks.append(module.register_forward_hook(see))
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return list(found.items())
""",
        ),
        ("The std is a tensor", "output.std(correction=0).item()", "output.std(correction=0)"),
    ],
    "B.6": [
        (
            "The norms of the parameters are added",
            "math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))",
            "sum((g.norm().item() for g in gradients), 0.0)",
        ),
        (
            "the root is missing",
            "math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))",
            "sum((g.square().sum().item() for g in gradients), 0.0)",
        ),
        (
            "block 10 and 11",
            """def block_norms(model):
    norms = {}
    for number in range(len(model.blocks)):
        total = 0.0
        for name, w in model.named_parameters():
            if name.startswith("blocks." + str(number)) and w.grad is not None:
                total += (w.grad**2).sum().item()
        norms[number] = total**0.5
    return norms
""",
        ),
        (
            "is missing. It has the norm 0.0",
            "        norms[number] =",
            "        if gradients:\n            norms[number] =",
        ),
        (
            "the norms of the weights",
            "[w.grad for w in block.parameters() if w.grad is not None]",
            "list(block.parameters())",
        ),
        ("keys are strings", "norms[number]", "norms[str(number)]"),
        ("counted from 1", "enumerate(model.blocks)", "enumerate(model.blocks, 1)"),
        ("its grad is None then", " if w.grad is not None]", "]"),
        (
            "absolute values are added",
            "math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))",
            "float(sum(gradient.abs().sum().item() for gradient in gradients))",
        ),
        (
            "largest norm of a parameter",
            "math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))",
            "max([g.norm().item() for g in gradients], default=0.0)",
        ),
        ("opposite ones cancel", "gradient.square().sum().item()", "gradient.sum().item() ** 2"),
        (
            "The gradients have changed",
            "    norms = {}\n",
            "    norms = {}\n    for w in model.parameters():\n"
            "        w.grad = torch.zeros_like(w) if w.grad is None else w.grad\n",
        ),
    ],
    "B.7": [
        ("when its own token moves it", "for t in range(s) if", "for t in range(s + 1) if"),
        ("Dropout is still on", "    model.eval()\n", ""),
        ("stays in eval mode", "    model.train(was_training)\n", ""),
        ("ends in train mode", "model.train(was_training)", "model.train()"),
        (
            "Only the last token is changed",
            """def sees_the_future(model, token_ids):
    mode = model.training
    model.eval()
    before = model(token_ids)
    changed = token_ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % before.shape[-1]
    after = model(changed)
    model.train(mode)
    moved = (before - after).abs().amax(-1)[0] > 1e-5
    return [t for t in range(token_ids.shape[1] - 1) if moved[t]]
""",
        ),
        (
            "Only the next token is looked at",
            "for t in range(s) if moved[t]",
            "for t in range(max(0, s - 1), s) if moved[t]",
        ),
        (
            "are seen by earlier ones",
            "found.update(t for t in range(s) if moved[t])",
            "found.update([s] if any(moved[t] for t in range(s)) else [])",
        ),
        (
            "Moves of later positions count",
            "for t in range(s) if moved[t]",
            "for t in range(len(moved)) if moved[t] and t != s",
        ),
        (
            "A True or False for each position",
            "return sorted(found)",
            "return [t in found for t in range(token_ids.size(1))]",
        ),
        ("whether there is a leak", "return sorted(found)", "return len(found) > 0"),
        ("Position 0 is never looked at", "for t in range(s) if", "for t in range(1, s) if"),
        ("changes its arguments", "changed = token_ids.clone()", "changed = token_ids"),
        ("stops at the first position", "return sorted(found)", "return sorted(found)[:1]"),
        ("replaced by the same id", "(changed[0, s] + 1) % before.size(-1)", "0"),
        ("replaced by the same id", "(changed[0, s] + 1) % before.size(-1)", "1"),
        ("the absolute value is missing", "[0].abs().amax", "[0].amax"),
        ("A small change is overlooked", "1e-5", "1e-3"),
        (
            "The positions are tensors",
            "return sorted(found)",
            "return [torch.tensor(t) for t in sorted(found)]",
        ),
    ],
    "B.8": [
        ("still divided by d", "math.sqrt(d)", "d"),
        ("runs along the queries", "softmax(dim=-1)", "softmax(dim=0)"),
        (
            "comes after the softmax, so the future",
            """def causal_attention(q, k, v):
    T, d = q.shape
    weights = (q @ k.T / d**0.5).softmax(dim=1)
    visible = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()
    return weights.masked_fill(~visible, 0.0) @ v
""",
        ),
        (
            "the factor, and the mask",
            """def causal_attention(q, k, v):
    T, d = q.shape
    weights = (q @ k.T / d).softmax(dim=1)
    visible = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()
    return (weights * visible) @ v
""",
        ),
        (
            "All three faults",
            """def causal_attention(q, k, v):
    T, d = q.shape
    scores = q @ k.T / d
    weights = scores.softmax(dim=0)
    visible = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()
    weights = weights.masked_fill(~visible, 0.0)
    return weights @ v
""",
        ),
        (
            "which runs along the queries",
            """def causal_attention(q, k, v):
    T, d = q.shape
    weights = torch.softmax(q @ k.T / math.sqrt(d), 0)
    return torch.tril(weights) @ v
""",
        ),
        (
            "the factor, and the direction",
            """def causal_attention(q, k, v):
    T, d = q.shape
    visible = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()
    return (q @ k.T / d).masked_fill(~visible, -math.inf).softmax(dim=0) @ v
""",
        ),
        ("not divided at all", " / math.sqrt(d)", ""),
        ("Nothing is masked", "    scores = scores.masked_fill(~visible, -math.inf)\n", ""),
        (
            "upside down",
            "~visible, -math.inf",
            "visible & ~torch.eye(T, dtype=torch.bool, device=q.device), -math.inf",
        ),
        ("does not see itself", ".tril()", ".tril(-1)"),
        ("set to 0, which is a score", "-math.inf", "0.0"),
        ("root of the number of tokens", "math.sqrt(d)", "math.sqrt(T)"),
        ("multiplied by the root of d", "k.T / math.sqrt(d)", "k.T * math.sqrt(d)"),
        ("have changed places", "q @ k.T", "k @ q.T"),
    ],
}
