"""Appendix C: answers that are right in another way, and answers that are wrong in a typical way."""

RECOMPUTE_HEAD = """class Recompute(torch.autograd.Function):
    @staticmethod
    def forward(context, function, x):
        context.function = function
        context.kept = x.detach().clone()
        context.state = torch.get_rng_state()
        return function(x)

    @staticmethod
    def backward(context, gradient):
"""
TILE_HEAD = """def tile_gradients(q, k, v, output, gradient, lse):
    n, d = q.shape
    m = k.shape[0]
"""
RING_BY_CHUNKS = """def ring_all_reduce(table):
    n = len(table)
    ranks, tables = torch.arange(n, device=table.device), []
    for half in range(2):
        for s in range(n - 1):
            chunks = (ranks + half - s) % n
            sent = table[ranks, chunks]
            table = table.clone()
            to = (ranks + 1) % n
            table[to, chunks] = sent if half else table[to, chunks] + sent
            tables.append(table)
    return tables
"""

VARIANTS = {
    "C.1": """def step_bytes(n_parameters, tokens, n_layers, d_model, kept=16, checkpointed=False):
    total = 0
    for part in ("weight", "gradient", "mean", "mean of squares"):
        total += 4 * n_parameters
    vector = 4 * d_model * tokens
    if not checkpointed:
        for layer in range(n_layers):
            total += kept * vector
        return total
    inputs = sum(vector for layer in range(n_layers))
    return total + inputs + kept * vector
""",
    "C.2": RECOMPUTE_HEAD
    + """
        x = context.kept.requires_grad_()
        before = torch.get_rng_state()
        try:
            torch.set_rng_state(context.state)
            with torch.enable_grad():
                loss = (context.function(x) * gradient).sum()
                loss.backward()
        finally:
            torch.set_rng_state(before)
        return None, x.grad
""",
    "C.3": """def combine(gradients, n_targets):
    shares = torch.tensor([float(n) for n in n_targets], device=gradients[0].device)
    shares = shares / shares.sum().clamp(min=1)
    stacked = torch.stack([g.nan_to_num() for g in gradients])
    return torch.einsum("r,r...->...", shares.to(stacked.dtype), stacked)
""",
    "C.4": TILE_HEAD
    + """
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for i in range(n):
        delta = output[i] @ gradient[i]
        for j in range(m):
            p = torch.exp((q[i] @ k[j]) / d**0.5 - lse[i])
            ds = p * (gradient[i] @ v[j] - delta) / d**0.5
            dv[j] += p * gradient[i]
            dq[i] += ds * k[j]
            dk[j] += ds * q[i]
    return dq, dk, dv
""",
    "C.5": """def split_feed_forward(x, up, down, n_ranks):
    W = up.shape[0]
    parts = []
    for r in range(n_ranks):
        own = torch.zeros(W, dtype=x.dtype, device=x.device)
        own[r * (W // n_ranks) : (r + 1) * (W // n_ranks)] = 1
        parts.append((F.gelu(x @ up.T) * own) @ down.T)
    return parts
""",
    "C.6": """def windows_of_rank(n_windows, batch_size, rank, world_size):
    if batch_size % world_size != 0:
        raise ValueError("the batch cannot be shared evenly")
    result, window = [], 0
    while window + batch_size <= n_windows:
        batch = [window + i for i in range(batch_size)]
        share = batch_size // world_size
        pieces = [batch[i : i + share] for i in range(0, batch_size, share)]
        result.append(pieces[rank])
        window += batch_size
    return result
""",
    "C.7": RING_BY_CHUNKS,
    "C.8": """def pipeline(n_stages, n_micro_batches):
    ticks = n_stages + n_micro_batches - 1
    schedule = torch.full((n_stages, ticks), -1)
    for stage in range(n_stages):
        for m in range(n_micro_batches):
            schedule[stage, stage + m] = m
    return schedule, float((schedule == -1).float().mean())
""",
    "C.9": """def save_interval(save_seconds, mean_hours, n_gpus):
    failures_a_second = n_gpus / (60 * 60 * mean_hours)
    t = (2 * save_seconds / failures_a_second) ** 0.5
    return t, (2 * save_seconds * failures_a_second) ** 0.5
""",
}

MUTANTS = {
    "C.1": [
        ("one number too few for each parameter", "4 * (4 * n_parameters", "4 * (3 * n_parameters"),
        ("two means are missing", "4 * (4 * n_parameters", "4 * (2 * n_parameters"),
        ("Only the weights are counted", "4 * (4 * n_parameters", "4 * (n_parameters"),
        ("numbers, not bytes", "return 4 * (4 * n", "return (4 * n"),
        ("4 bytes, not 2", "return 4 * (4 * n", "return 2 * (4 * n"),
        ("4 bytes, not 8", "return 4 * (4 * n", "return 8 * (4 * n"),
        ("not the one block that is computed again", "n_layers + kept if", "n_layers if"),
        ("not the inputs that all blocks keep", "n_layers + kept if", "kept if"),
        ("makes no difference", "n_layers + kept if checkpointed else ", ""),
        ("Only one block's activations", "else n_layers * kept", "else kept"),
        ("that need not be 16", "else n_layers * kept", "else n_layers * 16"),
        ("They are kept in its place", "n_layers + kept if", "n_layers + n_layers * kept if"),
        ("The parameters are counted right", "tokens * d_model * units", "tokens * d_model**2 * units"),
        (
            "It returns None",
            "return 4 * (4 * n_parameters + tokens * d_model * units)",
            "print(4 * (4 * n_parameters + tokens * d_model * units))",
        ),
    ],
    "C.2": [
        ("draws other random numbers", "        torch.set_rng_state(context.random_state)\n", ""),
        ("left where the second run has put it", "        torch.set_rng_state(now)\n", ""),
        (
            "The gradient that comes in is not used",
            "backward(y, gradient)",
            "backward(y, torch.ones_like(y))",
        ),
        (
            "the parameters inside get none",
            "torch.autograd.backward(y, gradient)\n        return None, x.grad",
            "return None, torch.autograd.grad(y, x, gradient)[0]",
        ),
        ("under torch.enable_grad()", "with torch.enable_grad():", "if True:"),
        ("backward returns two values", "return None, x.grad", "return x.grad"),
        ("backward returns two values", "return None, x.grad", "return None, None, x.grad"),
        (
            "runs once only",
            """class Recompute(torch.autograd.Function):
    @staticmethod
    def forward(context, function, x):
        with torch.enable_grad():
            context.x = x.detach().requires_grad_()
            context.y = function(context.x)
        return context.y.detach()

    @staticmethod
    def backward(context, gradient):
        context.y.backward(gradient)
        return None, context.x.grad
""",
        ),
        (
            "it was thrown away",
            "            y = context.function(x)",
            "            y = context.function(x)\n"
            "        for cell in context.function.__closure__:\n"
            "            if isinstance(cell.cell_contents, torch.Tensor):\n"
            "                cell.cell_contents.grad = None",
        ),
        ("is it added up twice", "return None, x.grad", "return None, x.grad + x.grad"),
        ("The gradient of x is zero", "return None, x.grad", "return None, torch.zeros_like(x)"),
        ("stops with an error", "return None, x.grad", "return None, context.saved_tensors[1]"),
    ],
    "C.3": [
        (
            "plain mean over the ranks",
            "def combine(gradients, n_targets):\n    return sum(gradients) / len(gradients)\n",
        ),
        ("The gradients are added up", "def combine(gradients, n_targets):\n    return sum(gradients)\n"),
        ("not divided by all targets", " / max(1, sum(n_targets))", ""),
        ("divided by the number of ranks", "max(1, sum(n_targets))", "len(n_targets)"),
        ("0 times NaN is NaN", "        if n:\n            total", "        if True:\n            total"),
        ("treated as those of sums", "total + n * gradient", "total + gradient"),
        ("With no targets at all it divides by 0", "max(1, sum(n_targets))", "sum(n_targets)"),
        (
            "With no targets at all it divides by 0",
            """def combine(gradients, n_targets):
    pairs = [(g, n) for g, n in zip(gradients, n_targets) if n > 0]
    return sum(g * (n / sum(n_targets)) for g, n in pairs) + torch.zeros_like(gradients[0]) / sum(n_targets)
""",
        ),
        (
            "changes its arguments",
            """def combine(gradients, n_targets):
    total = gradients[0]
    total *= n_targets[0]
    for g, n in zip(gradients[1:], n_targets[1:]):
        total += n * g
    return total / sum(n_targets)
""",
        ),
        ("Expected the shape", "return total / ", "return total.sum() / "),
        (
            "plain mean over the ranks",
            """def combine(gradients, n_targets):
    used = [g for g, n in zip(gradients, n_targets) if n]
    return torch.stack(used).mean(dim=0) if used else torch.zeros_like(gradients[0])
""",
        ),
        (
            "With no targets at all it divides by 0",
            """def combine(gradients, n_targets):
    shares = [n / sum(n_targets) for n in n_targets]
    return sum(w * g for w, g in zip(shares, gradients) if w)
""",
        ),
    ],
    "C.4": [
        (
            "sum 1 over this tile",
            "weights = (q @ k.T * scale - lse.unsqueeze(1)).exp()",
            "weights = (q @ k.T * scale).softmax(dim=1)",
        ),
        (
            "delta is summed over this tile",
            "delta = (output * gradient).sum(dim=1, keepdim=True)",
            "delta = (weights * dweights).sum(dim=1, keepdim=True)",
        ),
        ("delta is missing", "weights * (dweights - delta)", "weights * dweights"),
        ("not divided by the root of d before", "q @ k.T * scale", "q @ k.T"),
        ("on its way to dq and dk", "(dweights - delta) * scale", "(dweights - delta)"),
        ("divided by d, not by its root", "1 / math.sqrt(q.size(1))", "1 / q.size(1)"),
        ("not multiplied by the weights", "weights * (dweights - delta)", "(dweights - delta)"),
        (
            "in another order",
            "return dscores @ k, dscores.T @ q, weights.T @ gradient",
            "return dscores.T @ q, dscores @ k, weights.T @ gradient",
        ),
        (
            "lse is not taken off",
            "weights = (q @ k.T * scale - lse.unsqueeze(1)).exp()",
            "weights = (q @ k.T * scale).exp()",
        ),
        (
            "divided by lse",
            "weights = (q @ k.T * scale - lse.unsqueeze(1)).exp()",
            "weights = (q @ k.T * scale).exp() / lse.unsqueeze(1)",
        ),
        ("the mean of output * gradient", "gradient).sum(dim=1", "gradient).mean(dim=1"),
        ("delta has the wrong sign", "dweights - delta", "dweights + delta"),
        ("one sum over all rows", ".sum(dim=1, keepdim=True)  # (n, e)", ".sum()  # (n, e)"),
        ("dv is right, so the weights are", "dweights - delta", "dweights - 2 * delta"),
        ("dv is wrong", "weights.T @ gradient  #", "weights.T @ output  #"),
    ],
    "C.5": [
        (
            "cut along D",
            """def split_feed_forward(x, up, down, n_ranks):
    xs, ups = x.chunk(n_ranks, dim=1), up.chunk(n_ranks, dim=1)
    return [F.linear(F.gelu(F.linear(a, b)), down) for a, b in zip(xs, ups)]
""",
        ),
        (
            "takes a share of it",
            """def split_feed_forward(x, up, down, n_ranks):
    whole = F.linear(F.gelu(F.linear(x, up)), down)
    return [whole / n_ranks] * n_ranks
""",
        ),
        (
            "without a share for each rank",
            """def split_feed_forward(x, up, down, n_ranks):
    return [F.linear(F.gelu(F.linear(x, up)), down) for rank in range(n_ranks)]
""",
        ),
        ("The GELU between", "F.gelu(F.linear(x, my_up))", "F.linear(x, my_up)"),
        ("another activation", "F.gelu(", "F.relu("),
        (
            "another activation",
            "F.gelu(F.linear(x, my_up))",
            "F.gelu(F.linear(x, my_up), approximate='tanh')",
        ),
        (
            "every n_ranks-th hidden number",
            """def split_feed_forward(x, up, down, n_ranks):
    parts = []
    for rank in range(n_ranks):
        hidden = F.gelu(x @ up[rank::n_ranks].T)
        parts.append(hidden @ down[:, rank::n_ranks].T)
    return parts
""",
        ),
        ("do not belong together", "down.chunk(n_ranks, dim=1)):", "down.chunk(n_ranks, dim=1)[::-1]):"),
        ("wrong order", "return parts", "return parts[::-1]"),
        ("added up already", "return parts", "return [torch.stack(parts).sum(dim=0)]"),
        ("Expected a list", "return parts", "return torch.stack(parts)"),
        (
            "right sum, and they are not what",
            "return parts",
            "whole = sum(parts)\n"
            "    return [p + (i - (n_ranks - 1) / 2) * whole for i, p in enumerate(parts)]",
        ),
        ("not the output of the whole layer", "parts.append(F.linear", "parts.append(2 * F.linear"),
        ("stops with an error", "down.chunk(n_ranks, dim=1)", "down.chunk(n_ranks, dim=0)"),
    ],
    "C.6": [
        (
            "reads the whole batch",
            "list(range(start, start + share))",
            "list(range(start - rank * share, start - rank * share + batch_size))",
        ),
        (
            "every world_size-th window",
            """def windows_of_rank(n_windows, batch_size, rank, world_size):
    if batch_size % world_size:
        raise ValueError("uneven")
    steps = n_windows // batch_size
    return [list(range(s * batch_size + rank, (s + 1) * batch_size, world_size)) for s in range(steps)]
""",
        ),
        (
            "batch_size is that of all ranks together",
            """def windows_of_rank(n_windows, batch_size, rank, world_size):
    if batch_size % world_size:
        raise ValueError("uneven")
    steps, start = n_windows // (batch_size * world_size), rank * batch_size
    return [[start + s * batch_size * world_size + i for i in range(batch_size)] for s in range(steps)]
""",
        ),
        (
            "shared among the ranks first",
            """def windows_of_rank(n_windows, batch_size, rank, world_size):
    if batch_size % world_size:
        raise ValueError("uneven")
    share, steps = batch_size // world_size, n_windows // batch_size
    start = rank * steps * share
    return [list(range(start + s * share, start + (s + 1) * share)) for s in range(steps)]
""",
        ),
        (
            "do not fill a batch",
            "return [list(range(start, start + share)) for start in starts]",
            "starts = range(rank * share, -(-n_windows // batch_size) * batch_size, batch_size)\n"
            "    return [list(range(start, min(start + share, n_windows))) for start in starts]",
        ),
        (
            "refused with a ValueError",
            "    if batch_size % world_size:\n"
            '        raise ValueError(f"batch_size={batch_size} is not divisible by '
            'world_size={world_size}")\n',
            "",
        ),
        (
            "counted from 0",
            "list(range(start, start + share))",
            "[i for i in range(start - share, start) if i < n_windows]",
        ),
        (
            "the start does not move on",
            "list(range(start, start + share))",
            "list(range(rank * share, rank * share + share))",
        ),
        (
            "this rank's share only",
            "for start in starts]",
            "for start in [rank * share + s * share for s in range(n_windows // batch_size)]]",
        ),
        (
            "One batch too few",
            "n_windows // batch_size * batch_size, batch",
            "(n_windows - 1) // batch_size * batch_size, batch",
        ),
        (
            "one list for each step",
            "return [list(range(start, start + share)) for start in starts]",
            "return [i for start in starts for i in range(start, start + share)]",
        ),
        (
            "The number of steps is another one",
            "for start in starts]",
            "for start in [*starts, *starts]]",
        ),
        ("another number of windows", "start + share)) for", "start + share + 1)) for"),
    ],
    "C.7": [
        ("Only the first half", "range(2 * (n - 1))", "range(n - 1)"),
        (
            "In the second half the receiver adds",
            "new[receiver, chunk] = table[r, chunk]",
            "new[receiver, chunk] = new[receiver, chunk] + table[r, chunk]",
        ),
        ("neighbour on the other side", "receiver = (r + 1) % n", "receiver = (r - 1) % n"),
        ("In the second half rank r sends chunk (r - s)", "chunk = (r + 1 - s) % n", "chunk = (r - s) % n"),
        ("In the first half rank r sends chunk (r + s)", "chunk = (r - s) % n", "chunk = (r + s) % n"),
        (
            "In the second half rank r sends chunk (r + 1 + s)",
            "chunk = (r + 1 - s) % n",
            "chunk = (r + 1 + s) % n",
        ),
        ("number of the step is not used", "chunk = (r - s) % n", "chunk = r"),
        ("number of the step is not used", "chunk = (r + 1 - s) % n", "chunk = (r + 1) % n"),
        (
            "All tables are the last one",
            "        tables.append(new)\n        table = new",
            "        if not tables:\n            kept = new\n        kept.copy_(new)\n"
            "        tables.append(kept)\n        table = new",
        ),
        (
            "All tables are the last one",
            """def ring_all_reduce(table):
    summed = table.sum(dim=0).repeat(len(table), 1)
    return [summed for _ in range(2 * (len(table) - 1))]
""",
        ),
        (
            "All tables are the last one",
            "new, s = table.clone(), step % (n - 1)",
            "new, s = table, step % (n - 1)",
        ),
        ("one after each step", "return tables", "return tables[-1:]"),
        (
            "The last table is right",
            "return tables",
            "return [tables[-1] * 0 + i for i in range(len(tables) - 1)] + tables[-1:]",
        ),
        ("not every rank has the sum", "new[receiver, chunk] = table[r, chunk]", "pass"),
    ],
    "C.8": [
        ("idle time to the working time", "(n_stages - 1) / n_ticks", "(n_stages - 1) / n_micro_batches"),
        ("one stage too many", "(n_stages - 1) / n_ticks", "n_stages / n_ticks"),
        ("in which the stages work", "(n_stages - 1) / n_ticks", "n_micro_batches / n_ticks"),
        ("number of idle entries, not a share", "(n_stages - 1) / n_ticks", "idle.sum().item()"),
        ("is a percentage", "(n_stages - 1) / n_ticks", "100 * (n_stages - 1) / n_ticks"),
        (
            "one tick too many",
            "n_ticks = n_micro_batches + n_stages - 1",
            "n_ticks = n_micro_batches + n_stages",
        ),
        (
            "has not passed the others",
            "n_ticks = n_micro_batches + n_stages - 1",
            "n_ticks = n_micro_batches",
        ),
        (
            "only s ticks later",
            """def pipeline(n_stages, n_micro_batches):
    n_ticks = n_micro_batches + n_stages - 1
    row = [t if t < n_micro_batches else -1 for t in range(n_ticks)]
    return torch.tensor([row] * n_stages), (n_stages - 1) / n_ticks
""",
        ),
        (
            "counted from 1",
            "return schedule.masked_fill(idle, -1)",
            "return (schedule + 1).masked_fill(idle, -1)",
        ),
        ("they should be -1", "masked_fill(idle, -1)", "masked_fill(idle, 0)"),
        ("a negative number other than -1", "schedule.masked_fill(idle, -1)", "schedule"),
        ("Rows are ticks", "schedule.masked_fill(idle, -1)", "schedule.masked_fill(idle, -1).T"),
        ("in reverse order", "schedule.masked_fill(idle, -1)", "schedule.masked_fill(idle, -1).flip(0)"),
        ("The schedule is right", "(n_stages - 1) / n_ticks", "n_stages / (3 * n_ticks)"),
        ("The share is right", "masked_fill(idle, -1)", "masked_fill(idle, -2)"),
        ("Expected the dtype int64", "masked_fill(idle, -1)", "masked_fill(idle, -1).float()"),
    ],
    "C.9": [
        ("number of GPUs is not used", " * 3600 / n_gpus", " * 3600"),
        ("gets longer here", " * 3600 / n_gpus", " * 3600 * n_gpus"),
        ("Hours are not turned", "mean_hours * 3600 / n_gpus", "mean_hours / n_gpus"),
        ("3,600 seconds, not 60", "* 3600 /", "* 60 /"),
        ("factor 2 under the root is missing", "math.sqrt(2 * save", "math.sqrt(save"),
        ("it belongs under it", "math.sqrt(2 * save", "2 * math.sqrt(save"),
        (
            "The root is missing",
            "math.sqrt(2 * save_seconds * between_failures)",
            "2 * save_seconds * between_failures",
        ),
        ("half of what it should be", " + interval / (2 * between_failures)", ""),
        ("half of what it should be", "save_seconds / interval + interval", "interval"),
        ("in the middle of one", "interval / (2 * between_failures)", "interval / between_failures"),
        (
            "not in the lost share",
            "interval / (2 * between_failures)",
            "interval / (2 * between_failures * n_gpus)",
        ),
        (
            "The interval is in hours",
            "return interval, ",
            "return interval / 3600, ",
        ),
        (
            "is a percentage",
            "save_seconds / interval + interval / (2 * between_failures)",
            "100 * (save_seconds / interval + interval / (2 * between_failures))",
        ),
        ("The interval is right", "save_seconds / interval + interval", "save_seconds / interval - interval"),
        ("The lost share is right", "return interval, ", "return round(interval, -2) + 50, "),
        (
            "should have 2 entries",
            "return interval, save_seconds / interval + interval / (2 * between_failures)",
            "return (interval,)",
        ),
    ],
}
