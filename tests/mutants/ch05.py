"""Chapter 5: answers that are right in another way, and answers that are wrong in a typical way."""

ADAMW_HEAD = """class AdamW(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
"""
ADAMW_VARIANT = (
    ADAMW_HEAD
    + """
    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for w in [w for w in group["params"] if w.grad is not None]:
                memory = self.state[w]
                memory.setdefault("g", []).append(w.grad.detach().clone())
                t = len(memory["g"])
                m = sum((1 - b1) * b1 ** (t - 1 - i) * g for i, g in enumerate(memory["g"]))
                v = sum((1 - b2) * b2 ** (t - 1 - i) * g * g for i, g in enumerate(memory["g"]))
                scale = (1 - b2**t) ** 0.5 / (1 - b1**t)
                update = scale * m / (v.sqrt() + group["eps"] * (1 - b2**t) ** 0.5)
                w.data = w.data - group["lr"] * (group["weight_decay"] * w.data + update)
"""
)
FIT_VARIANT = """def fit(model, optimizer, batches):
    losses = []
    for step in range(len(batches)):
        x, y = batches[step]
        log_p = model(x).log_softmax(-1)  # (B, T, V)
        loss = -log_p.gather(-1, y.unsqueeze(-1)).mean()
        loss.backward()
        losses += [float(loss)]
        optimizer.step()
        for p in model.parameters():
            p.grad = None
    return losses
"""
STEP_VARIANT = """def train_step(model, optimizer, batches, max_norm):
    summed, n = 0.0, 0
    model.zero_grad()
    for x, y in batches:
        log_p = model(x).log_softmax(-1)  # (B, T, V)
        counted = y.ne(-100)
        picked = log_p[counted].gather(-1, y[counted].unsqueeze(-1))
        (-picked.sum()).backward()
        summed, n = summed - picked.sum().item(), n + int(counted.sum())
    for p in model.parameters():
        p.grad = p.grad / max(n, 1)
    norm = nn.utils.clip_grad_norm_(list(model.parameters()), max_norm)
    optimizer.step()
    return summed / max(n, 1), float(norm)
"""
SCALER_VARIANT = """class LossScaler:
    def __init__(self, scale=65536.0, interval=2000):
        self.scale, self.interval, self.good_steps = scale, interval, 0

    def scaled(self, loss):
        return self.scale * loss

    def step(self, optimizer):
        grads = [p.grad for g in optimizer.param_groups for p in g["params"]]
        grads = [g for g in grads if g is not None]
        fine = not any(torch.isnan(g).any() or torch.isinf(g).any() for g in grads)
        for g in grads:
            g.copy_(g / self.scale)
        if fine:
            optimizer.step()
            self.good_steps = (self.good_steps + 1) % self.interval
            if self.good_steps == 0:
                self.scale *= 2
        else:
            self.good_steps = 0
            self.scale *= 0.5
        return fine
"""
MEASURED_VARIANT = """def fit_and_measure(model, optimizer, batches, held_out, every):
    def measure():
        model.eval()
        with torch.no_grad():
            logits = [model(x).transpose(1, 2) for x, _ in held_out]  # (B, V, T) each
            pairs = zip(logits, (y for _, y in held_out))
            surprises = [F.cross_entropy(z, y, reduction="none").flatten() for z, y in pairs]
        return torch.cat(surprises).mean().item()

    losses, measured = [], []
    for step, (x, y) in enumerate(batches):
        model.train()
        loss = F.cross_entropy(model(x).transpose(1, 2), y)  # (B, V, T), (B, T)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % every == 0:
            measured.append(measure())
    return losses, measured
"""
BEST_VARIANT = """def fit_to_best(model, optimizer, batches, held_out):
    states, measured = [], []
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x).transpose(1, 2), y).backward()
        optimizer.step()
        with torch.no_grad():
            measured.append(F.cross_entropy(model(held_out[0]).transpose(1, 2), held_out[1]).item())
        weights = {name: w.clone() for name, w in model.state_dict().items()}
        states.append((weights, copy.deepcopy(optimizer.state_dict())))
    weights, memory = states[measured.index(min(measured))]
    model.load_state_dict(weights)
    optimizer.load_state_dict(memory)
    return measured
"""
BIGRAM_VARIANT = """def bigram_loss(train_ids, held_out_ids, vocab_size, virtual):
    counts, firsts = {}, {}
    train, held_out = train_ids.tolist(), held_out_ids.tolist()
    for a, b in zip(train, train[1:]):
        counts[a, b] = counts.get((a, b), 0) + 1
        firsts[a] = firsts.get(a, 0) + 1
    total = 0.0
    for a, b in zip(held_out, held_out[1:]):
        above = counts.get((a, b), 0) + virtual
        below = firsts.get(a, 0) + virtual * vocab_size
        total += math.log(below) - math.log(above)
    return total / (len(held_out) - 1)
"""

VARIANTS = {
    "5.1": """def windows(token_ids, context_length, starts):
    places = torch.tensor(starts, device=token_ids.device).unsqueeze(1)  # (B, 1)
    places = places + torch.arange(context_length, device=token_ids.device)  # (B, T)
    return token_ids[places], token_ids[places + 1]
""",
    "5.2": """def cross_entropy(logits, targets, ignore_index=-100):
    logits = logits.float()
    total, n = logits.sum() * 0, 0
    for z, t in zip(logits.flatten(0, -2), targets.flatten().tolist()):
        if t != ignore_index:
            total = total + torch.logsumexp(z, 0) - z[t]
            n += 1
    return total / max(1, n)
""",
    "5.3": """def cross_entropy_grad(logits, targets):
    gradient = torch.zeros_like(logits)
    counted = [n for n, t in enumerate(targets.tolist()) if t != -100]
    for n in counted:
        gradient[n] = (logits[n] - logits[n].logsumexp(0)).exp() / len(counted)
        gradient[n, targets[n]] -= 1 / len(counted)
    return gradient
""",
    "5.4": ADAMW_VARIANT,
    "5.5": """def warmup_cosine(step, max_lr, min_lr, warmup_steps, total_steps):
    if step >= total_steps:
        return min_lr
    if step + 1 <= warmup_steps:
        return max_lr / warmup_steps * (step + 1)
    half = math.pi / 2 * (step - warmup_steps) / (total_steps - warmup_steps)
    share = math.cos(half) ** 2
    return share * max_lr + (1 - share) * min_lr
""",
    "5.6": """def clip_grad_norm_(params, max_norm):
    params = [p for p in params if p.grad is not None]
    norm = torch.tensor(sum((p.grad.double() ** 2).sum().item() for p in params) ** 0.5, dtype=torch.float32)
    for p in params:
        p.grad *= min(1.0, max_norm / (norm.item() + 1e-12))
    return norm.to(params[0].grad.device) if params else norm
""",
    "5.7": STEP_VARIANT,
    "5.8": SCALER_VARIANT,
    "5.9": FIT_VARIANT,
    "5.10": MEASURED_VARIANT,
    "5.11": BEST_VARIANT,
    "5.12": """def perplexity(total_nats, n_tokens):
    return math.e ** (total_nats / n_tokens)


def bits_per_byte(total_nats, n_bytes):
    return math.log2(math.e) * (total_nats / n_bytes)
""",
    "5.13": """def decay_groups(model, weight_decay):
    embedded = [id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)]
    linear = [id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)]
    with_decay, without = [], []
    for p in model.parameters():
        if id(p) in linear and id(p) not in embedded:
            with_decay.append(p)
        else:
            without.append(p)
    return [dict(params=with_decay, weight_decay=weight_decay), dict(params=without, weight_decay=0)]
""",
    "5.14": BIGRAM_VARIANT,
}
MUTANTS = {
    "5.1": [
        ("Only the first start", "for start in starts]", "for start in starts[:1]]"),
        ("inputs themselves", "rows[:, 1:]", "rows[:, :-1]"),
        ("have changed places", "return rows[:, :-1], rows[:, 1:]", "return rows[:, 1:], rows[:, :-1]"),
        (
            "two tokens ahead",
            """def windows(token_ids, context_length, starts):
    T = context_length
    x = torch.stack([token_ids[s : s + T] for s in starts])
    return x, torch.stack([token_ids[s + 2 : s + 2 + T] for s in starts])""",
        ),
        (
            "turned round",
            """def windows(token_ids, context_length, starts):
    x = torch.stack([token_ids[s : s + context_length] for s in starts])
    return x, torch.cat([x[:, 1:], x[:, :1]], dim=1)""",
        ),
        ("T - 1 inputs", "start + context_length + 1]", "start + context_length]"),
        (
            "numbers of windows",
            "token_ids[start : start + context_length + 1]",
            "token_ids[start * context_length :][: context_length + 1]",
        ),
        (
            "one after the other",
            "for start in starts]",
            "for start in range(0, len(starts) * context_length, context_length)]",
        ),
        (
            "Each column is a window",
            "torch.stack(rows)",
            "torch.stack(rows)\n    return rows[:, :-1].T, rows[:, 1:].T",
        ),
        ("whole windows", "return rows[:, :-1], rows[:, 1:]", "return rows"),
        (
            "not in the order",
            """def windows(token_ids, context_length, starts):
    rows = torch.stack([token_ids[s : s + context_length + 1] for s in sorted(starts)])
    return rows[:, :-1], rows[:, 1:]""",
        ),
        ("targets are not", "rows[:, 1:]", "rows[:, 1:].flip(1)"),
        ("Expected a tuple", "return rows[:, :-1], rows[:, 1:]", "return [rows[:, :-1], rows[:, 1:]]"),
        ("stops with an error", "torch.stack(rows)", "torch.cat(rows)"),
        (
            "tokens before the inputs",
            """def windows(token_ids, context_length, starts):
    T = context_length
    x = torch.stack([token_ids[s : s + T] for s in starts])
    return x, torch.stack([token_ids[s - 1 : s - 1 + T] for s in starts])""",
        ),
        ("should have the same shape", "rows[:, 1:]", "rows[:, -1]"),
        ("should have the same shape", "rows[:, 1:]", "rows[:, 2:]"),
        (
            "should be int64",
            "return rows[:, :-1], rows[:, 1:]",
            "return rows[:, :-1].int(), rows[:, 1:].int()",
        ),
    ],
    "5.2": [
        (
            "leaves the range",
            "logits.log_softmax(dim=-1)",
            "(logits.exp() / logits.exp().sum(-1, keepdim=True)).log()",
        ),
        ("leaves the range", "logits.log_softmax(dim=-1)", "torch.log(torch.softmax(logits, dim=-1))"),
        ("floored", "logits.log_softmax(dim=-1)", "torch.log(torch.softmax(logits, dim=-1) + 1e-9)"),
        (
            "token 0 were right",
            ".where(counted, 0.0).sum()",
            ".sum()\n    counted = torch.ones_like(targets)",
        ),
        ("counted in the division", "counted.sum().clamp(min=1)", "targets.numel()"),
        ("This is the sum", "return total / counted.sum().clamp(min=1)", "return total"),
        ("whatever ignore_index says", "targets != ignore_index", "targets != -100"),
        ("NaN. It should be 0", "counted.sum().clamp(min=1)", "counted.sum()"),
        (
            "mean of each row first",
            """def cross_entropy(logits, targets, ignore_index=-100):
    if logits.dim() == 2:
        logits, targets = logits.float()[None], targets[None]
    counted = targets != ignore_index
    log_p = logits.log_softmax(-1)
    right = -log_p.gather(-1, targets.where(counted, 0)[..., None])[..., 0]
    return ((right * counted).sum(-1) / counted.sum(-1).clamp(min=1)).mean()""",
        ),
        ("wrong dimension", "log_softmax(dim=-1)", "log_softmax(dim=1)"),
        ("sign is the other one", "surprise = -log_p", "surprise = log_p"),
        ("to the base 2", "return total", "total = total / math.log(2)\n    return total"),
        ("taken for logarithms", "logits.log_softmax(dim=-1)", "logits"),
        ("surprise for each target", ".where(counted, 0.0).sum()", ".where(counted, 0.0)\n    return total"),
        (
            "cut off",
            "return total",
            "total = torch.tensor(total.item(), device=total.device)\n    return total",
        ),
        (
            "changes its arguments",
            """def cross_entropy(logits, targets, ignore_index=-100):
    logits = logits.float()
    counted = targets != ignore_index
    targets[~counted] = 0
    surprise = logits.logsumexp(-1) - logits.gather(-1, targets[..., None])[..., 0]
    return (surprise * counted).sum() / counted.sum().clamp(min=1)""",
        ),
        ("stops with an error", "targets.where(counted, 0)", "targets"),
        (
            "got a number",
            "return total / counted.sum().clamp(min=1)",
            "return (total / counted.sum().clamp(min=1)).item()",
        ),
        (
            "wrong when some do not",
            "counted.sum().clamp(min=1)",
            "(counted.sum().clamp(min=1) + (~counted).sum() * 2)",
        ),
        (
            "largest logit of the whole tensor",
            "logits.log_softmax(dim=-1)",
            "logits - logits.max() - (logits - logits.max()).exp().sum(-1, keepdim=True).log()",
        ),
        ("taken twice", "logits.log_softmax(dim=-1)", "logits.softmax(dim=-1).log_softmax(dim=-1)"),
        (
            "returns a new 0",
            "    right = targets.where",
            "    if not counted.any():\n        return torch.tensor(0.0, device=logits.device)\n"
            "    right = targets.where",
        ),
        (
            "should be a tensor then too",
            "    right = targets.where",
            "    if not counted.any():\n        return 0.0\n    right = targets.where",
        ),
    ],
    "5.3": [
        ("sign is the other one", "logits.softmax(dim=-1) - one_hot", "one_hot - logits.softmax(dim=-1)"),
        ("The loss is a mean", "return gradient / counted.sum().clamp(min=1)", "return gradient"),
        ("number of all rows", "counted.sum().clamp(min=1)", "len(logits)"),
        ("N times V", "counted.sum().clamp(min=1)", "logits.numel()"),
        ("is not 0", "gradient * counted.unsqueeze(-1)", "gradient"),
        (
            "Only the right token",
            "gradient * counted.unsqueeze(-1)",
            "gradient * counted.unsqueeze(-1) * one_hot",
        ),
        ("These are the probabilities", "logits.softmax(dim=-1) - one_hot", "logits.softmax(dim=-1)"),
        ("wrong dimension", "logits.softmax(dim=-1)", "logits.softmax(dim=0)"),
        (
            "exp of a large logit",
            "logits.softmax(dim=-1)",
            "logits.exp() / logits.exp().sum(dim=-1, keepdim=True)",
        ),
        ("divides by 0", "counted.sum().clamp(min=1)", "counted.sum()"),
        ("stops with an error", "targets.where(counted, 0)", "targets"),
        ("sum 0", "logits.softmax(dim=-1) - one_hot", "logits.sigmoid() - one_hot"),
        (
            "should be negative",
            "logits.softmax(dim=-1) - one_hot",
            "logits.softmax(dim=-1) - one_hot.roll(1, -1)",
        ),
        ("divides by V", "counted.sum().clamp(min=1)", "logits.size(-1)"),
        (
            "own derivatives",
            """def cross_entropy_grad(logits, targets):
    p, counted = logits.softmax(-1), targets != -100
    return p * (1 - p) * counted[:, None] / counted.sum().clamp(min=1)""",
        ),
        ("Logarithms of probabilities", "logits.softmax(dim=-1)", "logits.log_softmax(dim=-1)"),
        ("logits themselves", "logits.softmax(dim=-1) - one_hot", "logits - one_hot"),
    ],
    "5.4": [
        ("m starts at 0", 'state["m"] / (1 - beta1 ** state["step"])', 'state["m"]'),
        ("v starts at 0", 'state["v"] / (1 - beta2 ** state["step"])', 'state["v"]'),
        (
            "neither is corrected",
            "lr * m / (v.sqrt()",
            'lr * state["m"] / (state["v"].sqrt()',
        ),
        (
            "Steps are counted from 1",
            'state["step"] += 1',
            "pass",
        ),
        (
            "goes through the gradient",
            ADAMW_HEAD
            + """
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                s = self.state[w]
                if not s:
                    s["t"], s["m"], s["v"] = 0, torch.zeros_like(w), torch.zeros_like(w)
                s["t"] += 1
                g = w.grad + group["weight_decay"] * w
                b1, b2 = group["betas"]
                s["m"].mul_(b1).add_(g, alpha=1 - b1)
                s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
                m, v = s["m"] / (1 - b1 ** s["t"]), s["v"] / (1 - b2 ** s["t"])
                w -= group["lr"] * m / (v.sqrt() + group["eps"])
""",
        ),
        (
            "not multiplied by the learning rate",
            '1 - lr * group["weight_decay"]',
            '1 - group["weight_decay"]',
        ),
        ("Nothing decays", 'w.mul_(1 - lr * group["weight_decay"])', "pass"),
        (
            "after its step",
            '                w.mul_(1 - lr * group["weight_decay"])\n                w.sub_(lr * m / '
            '(v.sqrt() + group["eps"]))',
            '                w.sub_(lr * m / (v.sqrt() + group["eps"]))\n                w.mul_(1 - lr * '
            'group["weight_decay"])',
        ),
        (
            "decays too",
            "                if w.grad is None:\n",
            "                if w.grad is None:\n                    w.mul_(1 - lr * "
            'group["weight_decay"])\n',
        ),
        ("inside the root", '(v.sqrt() + group["eps"])', '(v + group["eps"]).sqrt()'),
        ("eps plays no part", 'group["eps"]))', "1e-8))"),
        ("without the root", "v.sqrt()", "v"),
        ("mean of the squared gradient", "w.grad**2", "w.grad.abs()"),
        ("changed places", "lr, (beta1, beta2)", "lr, (beta2, beta1)"),
        ("weight 1 - beta", "(1 - beta1) * w.grad", "w.grad"),
        ("up the slope", "w.sub_(lr", "w.add_(lr"),
        ("share one pair", "state = self.state[w]", "state = self.state['all']"),
        ("start anew", "if not state:", "if True:"),
        (
            "One count of calls",
            ADAMW_VARIANT.replace(
                "def step(self):", "def step(self):\n        self.t = getattr(self, 't', 0) + 1"
            ).replace("scale = ", "t = self.t\n                scale = "),
        ),
        (
            "once for every weight",
            ADAMW_VARIANT.replace(
                "scale = ", "t = self.t = getattr(self, 't', 0) + 1\n                scale = "
            ),
        ),
        (
            "settings of the first",
            "for group in self.param_groups:",
            "for group in [{**self.param_groups[0], 'params': each['params']} for each in "
            "self.param_groups]:",
        ),
        (
            "has no effect. Read",
            'lr, (beta1, beta2) = group["lr"], group["betas"]',
            'lr, (beta1, beta2) = group.setdefault("first", group["lr"]), group["betas"]',
        ),
        (
            "forgotten its means",
            "state = self.state[w]",
            "self.mine = getattr(self, 'mine', {})\n                state = self.mine.setdefault(w, {})",
        ),
        (
            "have not moved",
            'w.sub_(lr * m / (v.sqrt() + group["eps"]))',
            'w = w - lr * m / (v.sqrt() + group["eps"])',
        ),
        ("stops with an error", "if w.grad is None:", "if w is None:"),
        (
            "those of the first group",
            'group["lr"], group["betas"]',
            'group["lr"], self.param_groups[0]["betas"]',
        ),
        (
            "rate is that of the first",
            'group["lr"], group["betas"]',
            'self.param_groups[0]["lr"], group["betas"]',
        ),
        ("read from self.defaults", 'group["lr"], group["betas"]', 'self.defaults["lr"], group["betas"]'),
        ("read from self.defaults", 'group["weight_decay"]', 'self.defaults["weight_decay"]'),
        ("stops at the first weight", "continue", "return"),
        ("stops at the first weight", "continue", "break"),
        ("taken for zeros", "continue", "w.grad = torch.zeros_like(w)"),
        (
            "goes up where it has no gradient",
            ADAMW_HEAD
            + """
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for w in group["params"]:
                s = self.state[w]
                t = s["t"] = s.get("t", 0) + 1
                if w.grad is None:
                    continue
                b1, b2 = group["betas"]
                s["m"] = b1 * s.get("m", 0) + (1 - b1) * w.grad
                s["v"] = b2 * s.get("v", 0) + (1 - b2) * w.grad**2
                w *= 1 - group["lr"] * group["weight_decay"]
                w -= group["lr"] * s["m"] / (1 - b1**t) / ((s["v"] / (1 - b2**t)).sqrt() + group["eps"])
""",
        ),
        ("makes the weight larger", "1 - lr * group", "1 + lr * group"),
        ("t is one too large", "step=0, m=", "step=1, m="),
        ("Here it is (1 - beta)**t", '1 - beta2 ** state["step"]', '(1 - beta2) ** state["step"]'),
        (
            "Here it is 1 - beta * t",
            """                m = state["m"] / (1 - beta1 ** state["step"])
                v = state["v"] / (1 - beta2 ** state["step"])
""",
            """                m = state["m"] / (1 - beta1 * state["step"])
                v = state["v"] / (1 - beta2 * state["step"])
""",
        ),
        (
            "corrections are exchanged",
            ADAMW_VARIANT.replace("scale = ", "b2, b1 = b1, b2\n                scale = ")
            .replace("for w in [", "saved = b1, b2\n            for w in [")
            .replace("memory = self", "b1, b2 = saved\n                memory = self"),
        ),
        (
            "beta and 1 - beta are exchanged",
            """                state["m"] = beta1 * state["m"] + (1 - beta1) * w.grad
                state["v"] = beta2 * state["v"] + (1 - beta2) * w.grad**2
""",
            """                state["m"] = (1 - beta1) * state["m"] + beta1 * w.grad
                state["v"] = (1 - beta2) * state["v"] + beta2 * w.grad**2
""",
        ),
    ],
    "5.5": [
        ("first step has the rate 0", "(step + 1) / warmup_steps", "step / warmup_steps"),
        ("never reached", "(step + 1) / warmup_steps", "(step + 1) / (warmup_steps + 1)"),
        (
            "has min_lr already",
            "max(1, total_steps - warmup_steps)",
            "max(1, total_steps - 1 - warmup_steps)",
        ),
        (
            "progress from step 0",
            "(step - warmup_steps) / max(1, total_steps - warmup_steps)",
            "step / total_steps",
        ),
        ("straight line", "(1 + math.cos(math.pi * progress)) / 2", "(1 - progress)"),
        ("quarter of a wave", "(1 + math.cos(math.pi * progress)) / 2", "math.cos(math.pi * progress / 2)"),
        ("whole wave", "math.pi * progress", "2 * math.pi * progress"),
        ("runs from 1 to -1", "(1 + math.cos(math.pi * progress)) / 2", "math.cos(progress * math.pi)"),
        ("Halve it", "(1 + math.cos(math.pi * progress)) / 2", "(1 + math.cos(math.pi * progress))"),
        ("should fall", "1 + math.cos", "1 - math.cos"),
        ("min_lr has no effect", "min_lr + (max_lr - min_lr)", "max_lr"),
        ("starts above max_lr", "(max_lr - min_lr)", "max_lr"),
        (
            "starts from min_lr",
            "max_lr * (step + 1) / warmup_steps",
            "min_lr + (max_lr - min_lr) * (step + 1) / warmup_steps",
        ),
        ("no warm-up", "max_lr * (step + 1) / warmup_steps", "max_lr"),
        (
            "comes up again",
            "min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))",
            "(step - warmup_steps) / max(1, total_steps - warmup_steps)",
        ),
        (
            "divides by 0",
            """def warmup_cosine(step, max_lr, min_lr, warmup_steps, total_steps):
    rising = (step + 1) / warmup_steps
    falling = (1 + math.cos(math.pi * min(1, (step - warmup_steps) / (total_steps - warmup_steps)))) / 2
    return max_lr * rising if step < warmup_steps else min_lr + (max_lr - min_lr) * falling""",
        ),
        ("warm-up is not right", "(step + 1) / warmup_steps", "((step + 1) / warmup_steps) ** 2"),
        ("returns None", "    return min_lr + ", "    min_lr + "),
        ("length of the fall alone", "(step - warmup_steps) /", "step /"),
        ("divided by total_steps", "max(1, total_steps - warmup_steps)", "total_steps"),
        ("one step early", "(step - warmup_steps) /", "(step + 1 - warmup_steps) /"),
        ("counted from 1", "    if step < warmup", "    step -= 1\n    if step < warmup"),
        ("from 0 to 1. It", "math.pi * progress", "progress"),
        ("A sine was taken", "math.cos(math.pi", "math.sin(math.pi"),
        (
            "cut off at min_lr",
            "min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2",
            "max(min_lr, max_lr * (1 + math.cos(math.pi * progress)) / 2)",
        ),
        ("max_lr plays no part", "min_lr + (max_lr - min_lr) * ", ""),
        (
            "rate is 0. It should",
            "    progress =",
            "    if step >= total_steps:\n        return 0.0\n    progress =",
        ),
    ],
    "5.6": [
        (
            "by itself",
            """@torch.no_grad()
def clip_grad_norm_(params, max_norm):
    squares = []
    for p in params:
        if p.grad is not None:
            norm = p.grad.norm()
            squares.append(norm**2)
            if norm > max_norm:
                p.grad *= max_norm / norm
    return sum(squares, torch.tensor(0.0)).sqrt()""",
        ),
        ("cut off at max_norm", "gradient.mul_(max_norm / norm)", "gradient.clamp_(-max_norm, max_norm)"),
        ("scaled up", "if norm > max_norm:", "if norm > 0:"),
        ("scaled up", "if norm > max_norm:", "if True:"),
        ("after the clipping", "return norm", "return norm.clamp(max=max_norm)"),
        (
            "norms of the parameters are added",
            "torch.stack([gradient.norm() for gradient in gradients]).norm()",
            "sum(g.norm() for g in gradients)",
        ),
        (
            "root is missing",
            "torch.stack([gradient.norm() for gradient in gradients]).norm()",
            "sum(g.pow(2).sum() for g in gradients)",
        ),
        (
            "largest number",
            "torch.stack([gradient.norm() for gradient in gradients]).norm()",
            "max(g.abs().max() for g in gradients)",
        ),
        (
            "absolute values",
            "torch.stack([gradient.norm() for gradient in gradients]).norm()",
            "sum(g.abs().sum() for g in gradients)",
        ),
        ("as before", "gradient.mul_(max_norm / norm)", "gradient = gradient * max_norm / norm"),
        ("whatever max_norm says", "max_norm / norm", "1 / norm"),
        (
            "gone through once",
            """@torch.no_grad()
def clip_grad_norm_(params, max_norm):
    norm = sum(((p.grad**2).sum() for p in params if p.grad is not None), torch.tensor(0.0)).sqrt()
    for p in params:
        if p.grad is not None and norm > max_norm:
            p.grad.mul_(max_norm / norm)
    return norm""",
        ),
        ("Return the norm before", "return norm", "return (max_norm / norm).clamp(max=1)"),
        ("stops with an error", " if p.grad is not None]", "]"),
        ("stops with an error", "    if not gradients:\n        return torch.tensor(0.0)\n", ""),
        ("wrong factor", "max_norm / norm", "max_norm / norm**2"),
        ("direction has changed", "gradient.mul_(max_norm / norm)", "gradient.tanh_()"),
        ("got a number", "return norm", "return norm.item()"),
        ("square of the norm", "if norm > max_norm:", "if norm**2 > max_norm:"),
        ("one parameter alone", "if norm > max_norm:", "if any(g.norm() > max_norm for g in gradients):"),
        (
            "stops at the first parameter",
            "    gradients = [p.grad for p in params if p.grad is not None]\n",
            "    gradients = []\n    for p in params:\n        if p.grad is None:\n            break\n"
            "        gradients.append(p.grad)\n",
        ),
        (
            "has become zeros",
            "    gradients = [p.grad for p in params if p.grad is not None]\n",
            "    params = list(params)\n    for p in params:\n        if p.grad is None:\n"
            "            p.grad = torch.zeros_like(p)\n    gradients = [p.grad for p in params]\n",
        ),
        ("without dimensions", "return norm", "return norm[None]"),
        ("should be float32", "return norm", "return norm.double()"),
    ],
    "5.7": [
        ("from before this step", "    optimizer.zero_grad()\n", ""),
        (
            "cleared at the end only",
            STEP_VARIANT.replace("    model.zero_grad()\n", "").replace(
                "    return", "    model.zero_grad()\n    return"
            ),
        ),
        (
            "before every micro-batch",
            "        logits = model",
            "        optimizer.zero_grad()\n        logits = model",
        ),
        (
            "averages the means",
            'loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / n_targets',
            "loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()) / len(batches)",
        ),
        (
            "means of the micro-batches are added",
            """def train_step(model, optimizer, batches, max_norm):
    optimizer.zero_grad()
    total = 0
    for x, y in batches:
        loss = F.cross_entropy(model(x).transpose(1, 2), y)
        loss.backward()
        total += loss.item()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return total / len(batches), norm.item()""",
        ),
        ("divides by all targets", "(targets != -100).sum().item()", "targets.numel()"),
        ("number of rows", "(targets != -100).sum().item()", "len(targets)"),
        (
            "number of micro-batches. Divide",
            "max(1, sum((targets != -100).sum().item() for _, targets in batches))",
            "len(batches)",
        ),
        ("that of a sum", 'reduction="sum") / n_targets', 'reduction="sum")'),
        (
            "step for every micro-batch",
            "        total += loss.item()",
            "        norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)\n        "
            "optimizer.step()\n        optimizer.zero_grad()\n        total += loss.item()\n    return "
            "total, norm.item()",
        ),
        (
            "after every micro-batch",
            "        total += loss.item()",
            "        total += loss.item()\n        norm = nn.utils.clip_grad_norm_(model.parameters(), "
            "max_norm)\n    optimizer.step()\n    return total, norm.item()",
        ),
        (
            "as if nothing had been clipped",
            "    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)\n    optimizer.step()",
            "    optimizer.step()\n    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)",
        ),
        (
            "as if nothing had been clipped",
            "clip_grad_norm_(model.parameters(), max_norm)",
            "clip_grad_norm_(model.parameters(), 1e9)",
        ),
        (
            "one after clipping",
            "    optimizer.step()",
            "    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()\n    "
            "optimizer.step()",
        ),
        ("last micro-batch. It", "total += loss.item()", "total = loss.item()"),
        ("loss returned is a sum", "return total,", "return total * n_targets,"),
        ("divided once more", "return total,", "return total / len(batches),"),
        ("tuple of two floats", "return total, norm.item()", "return total"),
        ("No weight has moved", "    optimizer.step()\n", ""),
        ("Expected a number", "return total, norm.item()", "return torch.tensor(total), norm"),
        ("norm of the first step: Expected a number", "return total, norm.item()", "return total, norm"),
        ("not the mean over all", "return total,", "return total / 3,"),
        ("gradient that the step uses is not", "        loss.backward()", "        (3 * loss).backward()"),
        (
            "divides 0 by 0",
            "max(1, sum((targets != -100).sum().item() for _, targets in batches))",
            "sum((targets != -100).sum().item() for _, targets in batches)",
        ),
        (
            "0 times NaN",
            'reduction="sum") / n_targets',
            'reduction="mean") * (targets != -100).sum() / n_targets',
        ),
        ("the norm that it returns is not", "norm.item()", "norm.item() * 2"),
        ("tuple of two floats", "return total, norm.item()", "return [total, norm.item()]"),
        ("tuple of two floats", "return total, norm.item()", "return {'loss': total, 'norm': norm.item()}"),
        ("have changed places", "return total, norm.item()", "return norm.item(), total"),
        (
            "one backward, after the loop",
            "        loss.backward()\n        total += loss.item()\n",
            "        total = total + loss\n    total.backward()\n    total = total.item()\n",
        ),
        (
            "for the last piece only",
            "        loss.backward()\n        total += loss.item()\n",
            "        total += loss.item()\n    loss.backward()\n",
        ),
        ("nothing is left of", "    norm = nn", "    optimizer.zero_grad()\n    norm = nn"),
        (
            "step for every micro-batch",
            "        total += loss.item()",
            "        total += loss.item()\n        norm = nn.utils.clip_grad_norm_(model.parameters(), "
            "max_norm)\n        optimizer.step()\n    return total, norm.item()",
        ),
        (
            "counted while the pieces go by",
            """def train_step(model, optimizer, batches, max_norm):
    optimizer.zero_grad()
    n, total = 0, 0.0
    for x, y in batches:
        n += (y != -100).sum().item()
        loss = F.cross_entropy(model(x).transpose(1, 2), y, reduction="sum") / max(n, 1)
        loss.backward()
        total += loss.item()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return total, norm.item()""",
        ),
    ],
    "5.8": [
        ("still carry the scale", "            p.grad.div_(self.scale)", "            pass"),
        ("is not multiplied", "return loss * self.scale", "return loss"),
        (
            "spoils the weights",
            "            return False\n        optimizer.step()",
            "            optimizer.step()\n            return False\n        optimizer.step()",
        ),
        (
            "replaced by 0",
            "            self.scale, self.good_steps = self.scale / 2, 0\n",
            "            for p in params:\n                p.grad.nan_to_num_(0, 0, 0)\n            "
            "optimizer.step()\n            self.scale, self.good_steps = self.scale / 2, 0\n",
        ),
        ("the scale stays", "self.scale / 2, 0", "self.scale, 0"),
        ("bad step the scale is doubled", "self.scale / 2, 0", "self.scale * 2, 0"),
        (
            "NaN passes",
            "all(p.grad.isfinite().all() for p in params)",
            "all(not p.grad.isinf().any() for p in params)",
        ),
        (
            "infinite gradient passes",
            "all(p.grad.isfinite().all() for p in params)",
            "all((p.grad == p.grad).all() for p in params)",
        ),
        (
            "Minus infinity",
            "all(p.grad.isfinite().all() for p in params)",
            "all((p.grad < math.inf).all() for p in params)",
        ),
        (
            "one parameter only",
            "all(p.grad.isfinite().all() for p in params)",
            "params[0].grad.isfinite().all()",
        ),
        (
            "one parameter only",
            SCALER_VARIANT.replace(
                "fine = not any(torch.isnan(g).any() or torch.isinf(g).any() for g in grads)",
                "fine = True\n        for g in grads:\n            fine = bool(g.isfinite().all())",
            ),
        ),
        (
            "does not set the count back",
            "self.scale, self.good_steps = self.scale / 2, 0",
            "self.scale = self.scale / 2",
        ),
        (
            "goes on doubling",
            "if self.good_steps == self.interval:\n            self.scale, self.good_steps = self.scale "
            "* 2, 0",
            "if self.good_steps >= self.interval:\n            self.scale = self.scale * 2",
        ),
        ("never grows", "self.scale * 2, 0", "self.scale, 0"),
        ("good step too late", "if self.good_steps == self.interval:", "if self.good_steps > self.interval:"),
        (
            "They carry the old one",
            """class LossScaler:
    def __init__(self, scale=65536.0, interval=2000):
        self.scale, self.interval, self.good_steps = scale, interval, 0

    def scaled(self, loss):
        return self.scale * loss

    def step(self, optimizer):
        grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        fine = all(bool(g.isfinite().all()) for g in grads)
        self.good_steps = self.good_steps + 1 if fine else 0
        if not fine:
            self.scale /= 2
        elif self.good_steps == self.interval:
            self.scale, self.good_steps = 2 * self.scale, 0
        for g in grads:
            g /= self.scale
        if fine:
            optimizer.step()
        return fine""",
        ),
        ("this returns None", "        return True", "        pass"),
        ("wrong way round", SCALER_VARIANT.replace("return fine", "return not fine")),
        ("even when it has skipped", SCALER_VARIANT.replace("return fine", "return True")),
        ("stops with an error", " if p.grad is not None]", "]"),
        ("the scale is not", "self.scale * 2, 0", "self.scale * 3, 0"),
        ("some of its numbers", "p.grad.isfinite().all()", "p.grad.isfinite().any()"),
        (
            "does not find a gradient",
            "p.grad.isfinite().all()",
            "(p.grad.isfinite().all() or len(params) == 2)",
        ),
        ("first number of each", "p.grad.isfinite().all()", "p.grad.flatten()[0].isfinite()"),
        ("optimizer's groups only", "in optimizer.param_groups for", "in optimizer.param_groups[:1] for"),
        (
            "stops at the first parameter",
            '        params = [p for group in optimizer.param_groups for p in group["params"] '
            "if p.grad is not None]\n",
            """        params = []
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    break
                params.append(p)
""",
        ),
        (
            "step for each group",
            "        optimizer.step()\n",
            "        for group in optimizer.param_groups:\n            optimizer.step()\n",
        ),
        ("clears the gradients", "        return True", "        optimizer.zero_grad()\n        return True"),
        ("changes the loss itself", "return loss * self.scale", "loss *= self.scale\n        return loss"),
        ("divides the loss", "return loss * self.scale", "return loss / self.scale"),
        ("multiplied by the scale once more", "p.grad.div_(self.scale)", "p.grad.mul_(self.scale)"),
        (
            "Look at the gradients themselves",
            """class LossScaler:
    def __init__(self, scale=65536.0, interval=2000):
        self.scale, self.interval, self.good_steps = scale, interval, 0

    def scaled(self, loss):
        self.fine = bool(loss.isfinite())
        return loss * self.scale

    @torch.no_grad()
    def step(self, optimizer):
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad /= self.scale
        if not self.fine:
            self.scale, self.good_steps = self.scale / 2, 0
            return False
        optimizer.step()
        self.good_steps += 1
        if self.good_steps == self.interval:
            self.scale, self.good_steps = self.scale * 2, 0
        return True""",
        ),
        ("half of 1 is 0.5", "self.scale / 2, 0", "self.scale // 2, 0"),
        ("half of 1 is 0.5", "self.scale / 2, 0", "max(1.0, self.scale / 2), 0"),
        ("counted as a good one", "self.scale / 2, 0", "self.scale / 2, self.good_steps + 1"),
        (
            "never meets `interval` again",
            "self.scale, self.good_steps = self.scale * 2, 0",
            "self.scale *= 2",
        ),
    ],
    "5.9": [
        ("still added", "        optimizer.zero_grad()\n", ""),
        ("still added", "    losses = []\n", "    losses = []\n    optimizer.zero_grad = lambda: None\n"),
        (
            "The weights never move",
            "        optimizer.zero_grad()\n        loss.backward()\n",
            "        loss.backward()\n        optimizer.zero_grad()\n",
        ),
        (
            "for some batches",
            FIT_VARIANT.replace(
                "for p in model.parameters():", "for p in model.parameters() if step % 2 else ():"
            ),
        ),
        ("The weights never move", "        optimizer.step()\n", ""),
        (
            "once, at the end",
            "        optimizer.step()\n        losses.append(loss.item())\n",
            "        losses.append(loss.item())\n    optimizer.step()\n",
        ),
        ("losses are tensors", "loss.item()", "loss"),
        ("losses are tensors", "loss.item()", "loss.detach()"),
        ("ends after the first batch", "    return losses", "        return losses"),
        ("returns None", "    return losses", ""),
        (
            "after its step",
            FIT_VARIANT.replace("        losses += [float(loss)]\n", "").replace(
                "        for p",
                "        losses.append(F.cross_entropy(model(x).transpose(1, 2), y).item())\n        for p",
            ),
        ),
        ("The loss is a sum", "targets.flatten())", "targets.flatten(), reduction='sum')"),
        ("replaced by the inputs", "targets.flatten())", "inputs.flatten())"),
        (
            "steps that are wrong",
            "        optimizer.step()\n",
            "        optimizer.step()\n        optimizer.step()\n",
        ),
    ],
    "5.10": [
        ("trains on without dropout", "            model.train()\n", ""),
        ("trains on without dropout", "            model.train()\n", "    model.train()\n"),
        ("measured with dropout", "            model.eval()\n", "            model.train()\n"),
        ("measured with dropout", MEASURED_VARIANT.replace("        model.eval()\n", "")),
        (
            "mode from the beginning",
            "    losses, measured = [], []\n    model.train()",
            "    losses, measured = [], []\n    model.eval()",
        ),
        (
            "mean of the means",
            MEASURED_VARIANT.replace(
                "torch.cat(surprises).mean().item()",
                "sum(s.mean().item() for s in surprises) / len(surprises)",
            ),
        ),
        (
            "that of the last piece",
            "                    total += F.cross_entropy(model(x).flatten(0, 1), y.flatten(), "
            'reduction="sum").item()\n                    count += y.numel()',
            "                    total = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), "
            'reduction="sum").item()\n                    count = y.numel()',
        ),
        ("sum over tokens", "total / count", "total"),
        ("whatever `every` says", "if step % every == 0:", "if step:"),
        ("after the first step of each", "enumerate(batches, start=1)", "enumerate(batches)"),
        ("not cleared any more", "        optimizer.zero_grad()\n", ""),
        (
            "learns from the held-out",
            "            model.train()\n",
            "            optimizer.zero_grad()\n            for x, y in held_out:\n                "
            "F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()\n            "
            "optimizer.step()\n            model.train()\n",
        ),
        (
            "training losses are not",
            "        losses.append(loss.item())",
            "        losses.append(loss.item() / 2)",
        ),
        ("held-out losses are not", "total / count", "total / (count + 1)"),
        ("tuple of two lists", "return losses, measured", "return losses + measured"),
        ("tuple of two lists", "return losses, measured", "return [losses, measured]"),
        ("have changed places", "return losses, measured", "return measured, losses"),
        (
            "after the first piece",
            "                    count += y.numel()\n",
            "                    count += y.numel()\n                    model.train()\n",
        ),
    ],
    "5.11": [
        (
            "the last one, not the best",
            'copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})',
            '{"model": model.state_dict(), "optimizer": optimizer.state_dict()}',
        ),
        ("the last one, not the best", "copy.deepcopy({", "dict({"),
        (
            "the last one, not the best",
            'copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})',
            '{"model": model.state_dict().copy(), "optimizer": optimizer.state_dict().copy()}',
        ),
        (
            "optimizer does not",
            'copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})',
            '{"model": copy.deepcopy(model.state_dict()), "optimizer": optimizer.state_dict()}',
        ),
        ("optimizer does not", '    optimizer.load_state_dict(best["optimizer"])\n', ""),
        ("the model does not", '    model.load_state_dict(best["model"])\n', ""),
        ("the model does not", BEST_VARIANT.replace("w.clone()", "w")),
        ("highest held-out loss", BEST_VARIANT.replace("min(measured)", "max(measured)")),
        (
            "kept before the step",
            BEST_VARIANT.replace(
                "measured.index(min(measured))", "max(0, measured.index(min(measured)) - 1)"
            ),
        ),
        (
            "best loss in training",
            "measured[-1] < lowest:\n            lowest = measured[-1]",
            "loss.item() < lowest:\n            lowest = loss.item()",
        ),
        ("to the first step", "if measured[-1] < lowest:", "if len(measured) == 1:"),
        (
            "should train to the end",
            '    model.load_state_dict(best["model"])\n    optimizer.load_state_dict(best["optimizer"])\n',
            '        else:\n            model.load_state_dict(best["model"])\n            '
            'optimizer.load_state_dict(copy.deepcopy(best["optimizer"]))\n    '
            'model.load_state_dict(best["model"])\n    optimizer.load_state_dict(best["optimizer"])\n',
        ),
        (
            "not those with the lowest",
            '    optimizer.load_state_dict(best["optimizer"])\n',
            '    optimizer.load_state_dict(best["optimizer"])\n    optimizer.step()\n',
        ),
        (
            "memory does not belong",
            'optimizer.load_state_dict(best["optimizer"])\n',
            "optimizer.state.clear()\n",
        ),
        ("stops with an error", "best = copy", "the_best = copy"),
        (
            "made the held-out loss smaller",
            BEST_VARIANT.replace(
                "measured.index(min(measured))",
                "max(i for i in range(1, len(measured)) if measured[i] < measured[i - 1])",
            ),
        ),
        ("is the lowest loss noted", "            lowest = measured[-1]\n", ""),
        ("What it returns should be all", "return measured", "return lowest"),
        ("What it returns should be all", "return measured", "return measured[: 1 + measured.index(lowest)]"),
    ],
    "5.12": [
        ("exchanged", "total_nats / math.log(2) / n_bytes", "total_nats * math.log(2) / n_bytes"),
        ("still nats per byte", "total_nats / math.log(2) / n_bytes", "total_nats / n_bytes"),
        ("not divided by its bytes", "total_nats / math.log(2) / n_bytes", "total_nats / math.log(2)"),
        (
            "Bytes are divided by bits",
            "total_nats / math.log(2) / n_bytes",
            "n_bytes / (total_nats / math.log(2))",
        ),
        ("counted as 8 bits", "total_nats / math.log(2) / n_bytes", "total_nats / math.log(2) / n_bytes / 8"),
        ("taken of the sum", "math.exp(total_nats / n_tokens)", "math.exp(total_nats)"),
        ("power of 2", "math.exp(total_nats / n_tokens)", "2 ** (total_nats / n_tokens)"),
        ("mean loss, in nats", "math.exp(total_nats / n_tokens)", "total_nats / n_tokens"),
        ("exponential is divided", "math.exp(total_nats / n_tokens)", "math.exp(total_nats) / n_tokens"),
        ("sign is wrong", "math.exp(total_nats / n_tokens)", "math.exp(-total_nats / n_tokens)"),
        ("perplexity below 1", "math.exp(total_nats / n_tokens)", "math.log(total_nats / n_tokens)"),
        ("stops with an error", "math.exp(total_nats / n_tokens)", "(total_nats / n_tokens).exp()"),
        (
            "long text is too much",
            "total_nats / math.log(2) / n_bytes",
            "math.log2(math.exp(total_nats)) / n_bytes",
        ),
    ],
    "5.13": [
        *(
            (
                words,
                "def decay_groups(model, weight_decay):\n"
                "    L = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}\n"
                f"    E = [m.weight for m in model.{which}() if isinstance(m, nn.Embedding)]{cut}\n"
                f"    dec = lambda p: id(p) in L and not any({test} for e in E)\n"
                "    ps = list(model.parameters())\n"
                '    return [{"params": [p for p in ps if dec(p)], "weight_decay": weight_decay},\n'
                '            {"params": [p for p in ps if not dec(p)], "weight_decay": 0.0}]',
            )
            for words, which, cut, test in (
                ("also one within another module", "children", "", "p is e"),
                ("also one within another module", "modules", "[:1]", "p is e"),
                ("Shared is the same object", "modules", "", "p.shape == e.shape and torch.equal(p, e)"),
            )
        ),
        (
            "stand in front of the rest",
            "def decay_groups(model, weight_decay):\n"
            "    emb = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]\n"
            "    e = {id(p) for p in emb}\n"
            "    mats = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)} - e\n"
            "    rest = [p for p in model.parameters() if id(p) not in mats | e]\n"
            "    mats = [p for p in model.parameters() if id(p) in mats]\n"
            '    return [{"params": mats, "weight_decay": weight_decay},\n'
            '            {"params": emb + rest, "weight_decay": 0.0}]',
        ),
        ("their weights are matrices too", " - embeddings", ""),
        (
            "shares its weight with the embedding makes it decay",
            "matrices = {p for p in model.parameters() if p.dim() == 2} - embeddings",
            "matrices = {m.weight for m in model.modules() if isinstance(m, nn.Linear)}",
        ),
        (
            "stands in both groups",
            """def decay_groups(model, weight_decay):
    decayed, others = [], []
    for m in model.modules():
        if isinstance(m, nn.Linear):
            decayed.append(m.weight)
            if m.bias is not None:
                others.append(m.bias)
        elif isinstance(m, (nn.Embedding, nn.LayerNorm)):
            others.extend(m.parameters())
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]""",
        ),
        (
            "whichever of the two layers comes first",
            """def decay_groups(model, weight_decay):
    groups = [{"params": [], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, p in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        decays = isinstance(module, nn.Linear) and p.dim() == 2
        groups[0 if decays else 1]["params"].append(p)
    return groups""",
        ),
        (
            "biases of linear layers decay",
            "matrices = {p for p in model.parameters() if p.dim() == 2} - embeddings",
            "matrices = {p for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters()}\n"
            "    matrices -= embeddings",
        ),
        (
            "Everything but the biases",
            "matrices = {p for p in model.parameters() if p.dim() == 2} - embeddings",
            'matrices = {p for name, p in model.named_parameters() if not name.endswith("bias")}',
        ),
        (
            "weights of the norms decay",
            "matrices = {p for p in model.parameters() if p.dim() == 2} - embeddings",
            'matrices = {p for name, p in model.named_parameters() if "weight" in name} - embeddings',
        ),
        ("Everything but the embeddings", " if p.dim() == 2}", "}"),
        (
            "Both groups have the decay",
            '"weight_decay": 0.0',
            '"weight_decay": weight_decay',
        ),
        ("always the same number", '"weight_decay": weight_decay', '"weight_decay": 0.1'),
        (
            "stand in the group without decay",
            'if p in matrices], "weight_decay": weight_decay},\n        {"params": [p for p in '
            "model.parameters() if p not in matrices]",
            'if p not in matrices], "weight_decay": weight_decay},\n        {"params": [p for p in '
            "model.parameters() if p in matrices]",
        ),
        (
            "only the layers at the top",
            """def decay_groups(model, weight_decay):
    yes, no = [], []
    for layer in model:
        for p in layer._parameters.values():
            if p is None:
                continue
            tied = any(p is m.weight for m in model.modules() if isinstance(m, nn.Embedding))
            (yes if isinstance(layer, nn.Linear) and p.dim() == 2 and not tied else no).append(p)
    no = [p for i, p in enumerate(no) if all(p is not q for q in no[:i])]
    return [{"params": yes, "weight_decay": weight_decay}, {"params": no, "weight_decay": 0.0}]""",
        ),
        (
            "These are pairs",
            """def decay_groups(model, weight_decay):
    embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    yes = [pair for pair in model.named_parameters() if pair[1].dim() > 1 and pair[1] not in embeddings]
    no = [pair for pair in model.named_parameters() if pair[1].dim() < 2 or pair[1] in embeddings]
    return [{"params": yes, "weight_decay": weight_decay}, {"params": no, "weight_decay": 0.0}]""",
        ),
        (
            "in the order of `model.parameters()`",
            "return [",
            "yes = sorted(matrices, key=lambda p: -p.numel())\n    no = [p for p in model.parameters() if "
            'p not in matrices]\n    no.sort(key=lambda p: p.dim())\n    return [{"params": yes, '
            '"weight_decay": weight_decay}, {"params": no, "weight_decay": 0.0}]\n    return [',
        ),
        (
            "in neither group",
            "if p not in matrices]",
            "if p in embeddings]",
        ),
        (
            "there should be a list of parameters",
            "[p for p in model.parameters() if p in matrices]",
            "matrices",
        ),
        (
            "`in` compares a tensor",
            "matrices = {p for p in model.parameters() if p.dim() == 2} - embeddings",
            "embeddings = list(embeddings)\n    matrices = [p for p in model.parameters() if p.dim() == 2]\n"
            "    matrices = [p for p in matrices if p not in embeddings]",
        ),
        ("Nothing under the key 'weight_decay'", ', "weight_decay": 0.0', ""),
        (
            "None is among the parameters",
            """def decay_groups(model, weight_decay):
    embeddings = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    yes, no = [], []
    for m in model.modules():
        if isinstance(m, nn.Linear):
            if m.weight not in embeddings:
                yes.append(m.weight)
            no.append(m.bias)
        elif isinstance(m, (nn.Embedding, nn.LayerNorm)):
            no += m.parameters()
    return [{"params": yes, "weight_decay": weight_decay}, {"params": no, "weight_decay": 0.0}]""",
        ),
        (
            "such as a copy or its `.data`",
            "[p for p in model.parameters() if p in matrices]",
            "[p.data for p in model.parameters() if p in matrices]",
        ),
        (
            "a list of two groups",
            """def decay_groups(model, weight_decay):
    embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    groups = {}
    for p in model.parameters():
        groups.setdefault(weight_decay if p.dim() == 2 and p not in embeddings else 0.0, []).append(p)
    return [{"params": params, "weight_decay": decay} for decay, params in groups.items()]""",
        ),
    ],
    "5.14": [
        (
            "counted in the held-out ids",
            "pairs = train_ids[:-1] * vocab_size + train_ids[1:]",
            "pairs = held_out_ids[:-1] * vocab_size + held_out_ids[1:]",
        ),
        (
            "measures the loss on the training ids",
            "-p[held_out_ids[:-1], held_out_ids[1:]]",
            "-p[train_ids[:-1], train_ids[1:]]",
        ),
        ("not below the line", " + virtual * vocab_size)", ")"),
        ("`virtual` is added once", "virtual * vocab_size", "virtual"),
        (
            "never occurred has probability 0",
            "p = (counts + virtual) / (counts.sum(dim=1, keepdim=True) + virtual * vocab_size)",
            "p = counts / counts.sum(dim=1, keepdim=True)",
        ),
        ("never occurred has probability 0", "(counts + virtual)", "counts"),
        ("This is the sum", "surprise.mean()", "surprise.sum()"),
        ("base 2", ".log()", ".log2()"),
        ("There is one pair less", "surprise.mean()", "(surprise.sum() / len(held_out_ids))"),
        (
            "its last place included",
            BIGRAM_VARIANT.replace(
                "    total = 0.0\n", "    firsts = {a: train.count(a) for a in train}\n    total = 0.0\n"
            ),
        ),
        (
            "Row and column",
            "-p[held_out_ids[:-1], held_out_ids[1:]]",
            "-p[held_out_ids[1:], held_out_ids[:-1]]",
        ),
        (
            "which token comes before another",
            "train_ids[:-1] * vocab_size + train_ids[1:]",
            "train_ids[1:] * vocab_size + train_ids[:-1]",
        ),
        (
            "the second token begins a pair, not the first",
            "counts.sum(dim=1, keepdim=True)",
            "counts.sum(dim=1)",
        ),
        (
            "two texts have changed places",
            "    pairs =",
            "    train_ids, held_out_ids = held_out_ids, train_ids\n    pairs =",
        ),
        (
            "Pairs that never occurred in the training ids are passed over",
            BIGRAM_VARIANT.replace(
                "    for a, b in zip(held_out, held_out[1:]):\n",
                "    for a, b in zip(held_out, held_out[1:]):\n        if (a, b) not in counts:\n"
                "            continue\n",
            ),
        ),
        (
            "begins no pair in the training",
            BIGRAM_VARIANT.replace(
                "    for a, b in zip(held_out, held_out[1:]):\n",
                "    for a, b in zip(held_out, held_out[1:]):\n        if a not in firsts:\n"
                "            continue\n",
            ),
        ),
        (
            "is the unigram",
            """def bigram_loss(train_ids, held_out_ids, vocab_size, virtual):
    counts = torch.bincount(train_ids, minlength=vocab_size) + virtual
    return -(counts / counts.sum()).log()[held_out_ids[1:]].mean().item()""",
        ),
        (
            "several times is counted once",
            "counts = torch.bincount(pairs, minlength=vocab_size**2).view(vocab_size, vocab_size)",
            "counts = torch.zeros(vocab_size, vocab_size, device=pairs.device)\n    "
            "counts[train_ids[:-1], train_ids[1:]] += 1",
        ),
        (
            "Only every second pair",
            BIGRAM_VARIANT.replace("zip(train, train[1:])", "zip(train[::2], train[1::2])"),
        ),
        (
            "whatever `virtual` says",
            BIGRAM_VARIANT.replace("+ virtual\n", "+ 1\n").replace("+ virtual *", "+"),
        ),
        (
            "`virtual` is shared out among",
            "(counts + virtual) / (counts.sum(dim=1, keepdim=True) + virtual * vocab_size)",
            "(counts + virtual / vocab_size) / (counts.sum(dim=1, keepdim=True) + virtual)",
        ),
        ("`vocab_size`, and any", BIGRAM_VARIANT.replace("* vocab_size", "* len(set(train))")),
        (
            "pair among all pairs",
            "counts.sum(dim=1, keepdim=True) + virtual * vocab_size",
            "counts.sum() + virtual * vocab_size**2",
        ),
        ("divided by the number of all pairs", "counts.sum(dim=1, keepdim=True)", "counts.sum()"),
        (
            "logarithm of the mean",
            "-p[held_out_ids[:-1], held_out_ids[1:]].log()",
            "-p[held_out_ids[:-1], held_out_ids[1:]].mean().log()",
        ),
        ("perplexity, e to the loss", "surprise.mean()", "surprise.mean().exp()"),
        ("sign is wrong", "-p[", "p["),
        ("got a tensor", ".item()", ""),
        (
            "without an exponential",
            "surprise = -p[held_out_ids[:-1], held_out_ids[1:]].log()",
            "surprise = F.cross_entropy(p[held_out_ids[:-1]], held_out_ids[1:])",
        ),
        (
            "a comes second",
            BIGRAM_VARIANT.replace("firsts[a] = firsts.get(a, 0) + 1", "firsts[b] = firsts.get(b, 0) + 1"),
        ),
        ("for each pair of the table", "virtual * vocab_size", "virtual * vocab_size**2"),
        (
            "comes several times counts once",
            BIGRAM_VARIANT.replace(
                "    total = 0.0\n    for a, b in zip(held_out, held_out[1:]):",
                "    total, held_out = 0.0, set(zip(held_out, held_out[1:]))\n    for a, b in held_out:",
            ).replace("(len(held_out) - 1)", "len(held_out)"),
        ),
        (
            "not below the line",
            BIGRAM_VARIANT.replace("virtual * vocab_size", "0").replace(
                "math.log(below) - math.log(above)", "-math.log(above / below)"
            ),
        ),
        (
            "never occurred has probability 0",
            BIGRAM_VARIANT.replace(
                "above = counts.get((a, b), 0) + virtual", "above = counts.get((a, b), 0)"
            ),
        ),
        (
            "A probability is 0, or",
            BIGRAM_VARIANT.replace("firsts.get(a, 0) + virtual * vocab_size", "firsts.get(b, 0)").replace(
                "counts.get((a, b), 0) + virtual", "counts.get((a, b), 0)"
            ),
        ),
        (
            "does not occur in the training",
            BIGRAM_VARIANT.replace("counts.get((a, b), 0) + virtual\n", "counts[a, b] + virtual\n"),
        ),
        ("never occurred has probability 0", "(counts + virtual)", "(counts + virtual * (counts > 0))"),
        ("some probability is above 1", "counts.sum(dim=1, keepdim=True) + virtual * vocab_size", "1"),
        (
            "begins no pair in the training",
            "surprise.mean()",
            "(surprise * (len(train_ids) > 1)).mean()",
        ),
        (
            "each token should be equally probable",
            "    pairs =",
            "    if len(train_ids) < 2:\n        return 1.0\n    pairs =",
        ),
        ("returns None", "return surprise", "surprise"),
    ],
}
