"""Appendix E: answers that are right in another way, and answers that are wrong in a typical way."""

VARIANTS = {
    "E.1": """def absmax(weights, bits):
    top = 1
    for _ in range(bits - 2):
        top = 2 * top + 1
    scale = max(weights.max(), -weights.min()) / top
    return torch.round(weights / scale).to(torch.int8), scale
""",
    "E.2": """def through_groups(weights, bits, group_size):
    result = weights.clone()
    for row in result:
        for start in range(0, len(row), group_size):
            group = row[start : start + group_size]
            low, high = group.min().item(), group.max().item()
            if low < high:
                step = (high - low) / (2**bits - 1)
                group.copy_(low + step * torch.round((group - low) / step))
    return result
""",
    "E.3": """def pack(codes):
    packed = torch.zeros((len(codes) + 1) // 2, dtype=torch.uint8, device=codes.device)
    for place, code in enumerate(codes.tolist()):
        packed[place // 2] += code * 16 ** (place % 2)
    return packed


def unpack(packed, n):
    codes = torch.empty(n, dtype=torch.uint8, device=packed.device)
    codes[0::2] = packed % 16
    codes[1::2] = (packed // 16)[: n // 2]
    return codes
""",
    "E.4": """def encode_block(weights):
    low, high = weights.min(), weights.max()
    block = torch.zeros(20, dtype=torch.uint8, device=weights.device)
    block[0:2] = ((high - low) / 15).reshape(1).half().view(torch.uint8)
    block[2:4] = low.reshape(1).half().view(torch.uint8)
    for i, w in enumerate(weights):
        code = 0 if high == low else int((w - low) / (high - low) * 15 + 0.5)
        block[4 + i % 16] += code * 16 ** (i // 16)
    return block
""",
    "E.5": """class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context, x, top):
        context.save_for_backward(x)
        context.top = top
        return torch.round(x.clamp(-top, top))

    @staticmethod
    def backward(context, gradient):
        x = context.saved_tensors[0].round()
        outside = (x > context.top) | (x < -context.top)
        return gradient.masked_fill(outside, 0), None
""",
    "E.6": """def teacher_loss(student_logits, teacher_logits, temperature):
    p = torch.softmax(teacher_logits.detach() / temperature, dim=1)
    cross = F.cross_entropy(student_logits / temperature, p)
    entropy = F.cross_entropy(teacher_logits.detach() / temperature, p)
    return (cross - entropy) * temperature * temperature
""",
    "E.7": """def global_masks(matrices, share):
    sizes = sorted(size for m in matrices for size in m.abs().flatten().tolist())
    gone = set(sizes[: round(share * len(sizes))])
    masks = []
    for m in matrices:
        kept = [size not in gone for size in m.abs().flatten().tolist()]
        masks.append(torch.tensor(kept, device=m.device).reshape(m.shape))
    return masks
""",
    "E.8": """def head_scores(outputs, gradients):
    slopes = torch.einsum("bhtd,bhtd->bh", outputs, gradients)
    return sum(slope.abs() for slope in slopes) / len(slopes)
""",
}

MUTANTS = {
    "E.1": [
        ("2^(bits-1), which is one more", "2 ** (bits - 1) - 1", "2 ** (bits - 1)"),
        (
            "2^(bits-1), which is one more",
            "def absmax(weights, bits):\n"
            "    scale = weights.abs().max() / 2 ** (bits - 1)\n"
            "    return torch.round(weights / scale).to(torch.int8), scale\n",
        ),
        ("as if none were negative", "2 ** (bits - 1) - 1", "2**bits - 1"),
        ("127 whatever", "2 ** (bits - 1) - 1", "127"),
        ("larger in size", "weights.abs().max()", "weights.max()"),
        (
            "larger in size",
            "def absmax(weights, bits):\n"
            "    scale = max(weights.flatten().tolist()) / (2 ** (bits - 1) - 1)\n"
            "    codes = torch.round(weights / scale).to(torch.int8)\n"
            "    return codes, torch.tensor(scale, device=weights.device)\n",
        ),
        ("cut off. It should be rounded", ".round()", ""),
        ("rounded down", ".round()", ".floor()"),
        ("not a power", "2 ** (bits - 1) - 1", "2 ^ (bits - 1) - 1"),
        ("wrong neighbour", "(weights / scale).round()", "(weights / scale + 0.5).floor()"),
        (
            "larger in size",
            "def absmax(weights, bits):\n"
            "    scale = max(weights) / (2 ** (bits - 1) - 1)\n"
            "    return torch.round(weights / scale).to(torch.int8), scale\n",
        ),
        ("upside down", "torch.int8), scale", "torch.int8), 1 / scale"),
        ("Smallest to largest", "weights.abs().max()", "(weights.max() - weights.min()) / 2"),
        ("usual size", "weights.abs().max()", "weights.abs().mean()"),
        ("divided by the scale first", "(weights / scale).round()", "weights.round()"),
        (
            "changed places",
            "return codes.clamp(-top, top).to(torch.int8), scale",
            "return scale, codes.to(torch.int8)",
        ),
        ("one scale for the whole tensor", "weights.abs().max()", "weights.abs().amax(-1, keepdim=True)"),
        ("should be int8", ".to(torch.int8)", ""),
        ("should be int8", "torch.int8", "torch.uint8"),
        ("two things", "return codes.clamp(-top, top).to(torch.int8), scale", "return scale"),
    ],
    "E.2": [
        ("one step fewer", "(2**bits - 1)", "2**bits"),
        ("no code is negative", "(2**bits - 1)", "(2 ** (bits - 1) - 1)"),
        ("A whole row shares", "(-1, group_size)", "(1, -1)"),
        (
            "whole tensor shares",
            "low, high = groups.amin(dim=2, keepdim=True), groups.amax(dim=2, keepdim=True)",
            "low, high = weights.min(), weights.max()",
        ),
        (
            "neighbours in a column",
            "def through_groups(weights, bits, group_size):\n"
            "    g = weights.T.reshape(-1, group_size)\n"
            "    low, high = g.amin(1, True), g.amax(1, True)\n"
            "    s = (high - low) / (2**bits - 1)\n"
            "    left = low + s * ((g - low) / s.where(s > 0, 1)).round()\n"
            "    return left.view(weights.shape[::-1]).T\n",
        ),
        (
            "from all over the row",
            "def through_groups(weights, bits, group_size):\n"
            "    g = weights.view(len(weights), group_size, -1)\n"
            "    low, high = g.amin(1, True), g.amax(1, True)\n"
            "    s = (high - low) / (2**bits - 1)\n"
            "    left = low + s * ((g - low) / s.where(s > 0, 1)).round()\n"
            "    return left.view(weights.shape)\n",
        ),
        ("`group_size` groups", "(-1, group_size)", "(group_size, -1)"),
        (
            "wrong dimension",
            "low, high = groups.amin(dim=2, keepdim=True), groups.amax(dim=2, keepdim=True)",
            "low, high = groups.amin(dim=1, keepdim=True), groups.amax(dim=1, keepdim=True)",
        ),
        (
            "wrong dimension",
            "low, high = groups.amin(dim=2, keepdim=True), groups.amax(dim=2, keepdim=True)",
            "low, high = groups.amin(dim=(0, 1), keepdim=True), groups.amax(dim=(0, 1), keepdim=True)",
        ),
        (
            "wrong dimension",
            "low, high = groups.amin(dim=2, keepdim=True), groups.amax(dim=2, keepdim=True)",
            "low, high = groups.amin(dim=0, keepdim=True), groups.amax(dim=0, keepdim=True)",
        ),
        ("not added back", "(low + scale * codes)", "(scale * codes)"),
        ("taken to be 0", "groups.amin(dim=2, keepdim=True)", "torch.zeros_like(groups[..., :1])"),
        ("scale of 0", "scale.where(scale > 0, 1)", "scale"),
        ("These are the codes", "(low + scale * codes)", "codes"),
        ("cut off behind the point", ".round()", ".floor()"),
        ("Nothing is rounded", ".round()", ""),
        (
            "symmetric kind",
            "def through_groups(weights, bits, group_size):\n"
            "    g = weights.unflatten(1, (-1, group_size))\n"
            "    top = 2 ** (bits - 1) - 1\n"
            "    s = (g.abs().amax(2, True) / top).clamp(min=1e-9)\n"
            "    return (s * (g / s).round()).flatten(1)\n",
        ),
        ("largest weight of each group", ".round()", ".round().clamp(0, 2 ** (bits - 1))"),
        ("Expected the shape", ".flatten(1)  #", "  #"),
    ],
    "E.3": [
        (
            "Here neighbours share",
            "codes[0::2] | (codes[1::2] << 4)",
            "codes[: len(codes) // 2] | (codes[len(codes) // 2 :] << 4)",
        ),
        ("into the high bits", "codes[0::2] | (codes[1::2] << 4)", "codes[1::2] | (codes[0::2] << 4)"),
        ("two overlap", "(codes[1::2] << 4)", "codes[1::2]"),
        ("two overlap", "codes[0::2] | (codes[1::2] << 4)", "codes[0::2] + codes[1::2]"),
        ("another number of bits", "<< 4", "<< 3"),
        ("another number of bits", "<< 4", "<< 5"),
        (
            "last one is lost",
            """def pack(codes):
    m = len(codes) // 2
    return codes[: 2 * m : 2] | (codes[1 : 2 * m : 2] << 4)


def unpack(packed, n):
    return torch.stack([packed & 15, packed >> 4], dim=1).flatten()[:n]
""",
        ),
        (
            "last one is lost",
            """def pack(codes):
    packed = torch.zeros((len(codes) + 1) // 2, dtype=torch.uint8)
    for i in range(len(codes) // 2):
        packed[i] = codes[2 * i] + 16 * codes[2 * i + 1]
    return packed


def unpack(packed, n):
    return torch.stack([packed & 15, packed >> 4], dim=1).flatten()[:n]
""",
        ),
        (
            "one low code more",
            """def pack(codes):
    return codes[0::2] + 16 * codes[1::2]


def unpack(packed, n):
    return torch.stack([packed & 15, packed >> 4], dim=1).flatten()[:n]
""",
        ),
        ("keeps only the bits", "codes[0::2] | (codes", "codes[0::2] & (codes"),
        ("before the first", "(0, len(codes) % 2)", "(len(codes) % 2, 0)"),
        ("keeps only the first", "codes[0::2] | (codes[1::2] << 4)", "codes[0::2]"),
        (
            "should alternate",
            "torch.stack([packed & 15, packed >> 4], dim=1)",
            "torch.cat([packed & 15, packed >> 4])",
        ),
        ("should alternate", "dim=1", "dim=0"),
        ("before the low one", "[packed & 15, packed >> 4]", "[packed >> 4, packed & 15]"),
        ("leaves the upper", "packed & 15", "packed"),
        ("16 times too large", "packed >> 4", "packed & 240"),
        ("gives the added 0", "[:n]", ""),
        ("(n + 1) // 2 bytes", "codes[0::2] | (codes[1::2] << 4)", "codes"),
        (
            "Expected the dtype uint8",
            "codes[0::2] | (codes[1::2] << 4)",
            "codes[0::2] + 16 * codes[1::2].long()",
        ),
    ],
    "E.4": [
        ("fifteen steps", "/ 15", "/ 16"),
        ("before the scale", "[d, m]", "[m, d]"),
        ("Neighbours share", "codes[:16] | (codes[16:] << 4)", "codes[::2] | (codes[1::2] << 4)"),
        ("in the high four bits", "codes[:16] | (codes[16:] << 4)", "(codes[:16] << 4) | codes[16:]"),
        ("not moved up", "(codes[16:] << 4)", "codes[16:]"),
        ("Only the first sixteen", "codes[:16] | (codes[16:] << 4)", "codes[:16]"),
        ("bfloat16", ".half()", ".bfloat16()"),
        ("where the minimum", "[d, m]", "[d, weights.max()]"),
        ("begin at 0", "(weights - m) / d", "weights / d"),
        ("largest size", "(weights.max() - m) / 15", "weights.abs().max() / 15"),
        ("largest size", "weights.max() - m", "weights.abs().max()"),
        ("exact ones", "/ 15\n", "/ 15\n    m, d = m.half().float(), d.half().float()\n"),
        ("exact ones", "/ 15\n", "/ 15\n    d = d.half().float()\n"),
        ("exact ones", "/ 15\n", "/ 15\n    m = m.half().float()\n"),
        ("one number of the result", ".half().view(torch.uint8)", ".half()"),
        ("one number of the result", ".half().view(torch.uint8)", ".to(torch.uint8)"),
        (
            "shape () cannot be read",
            "torch.stack([d, m]).half().view(torch.uint8)",
            "d.half().view(torch.uint8), m.half().view(torch.uint8)",
        ),
        ("What is behind the point", ".round()", ""),
        (
            "floats come first",
            "torch.cat([torch.stack([d, m]).half().view(torch.uint8), pairs])",
            "torch.cat([pairs, torch.stack([d, m]).half().view(torch.uint8)])",
        ),
        ("a byte of its own", "pairs])", "codes])"),
        ("four bytes each", ".half()", ""),
        ("codes behind them are not", "codes[:16] | (codes[16:] << 4)", "codes[16:] ^ codes[:16].flip(0)"),
        ("lower byte first", ".view(torch.uint8)", ".view(torch.uint8).view(2, 2).flip(1).flatten()"),
    ],
    "E.5": [
        ("No gradient passes", "gradient * inside, None", "torch.zeros_like(gradient), None"),
        ("passes everywhere", "gradient * inside, None", "gradient, None"),
        ("not used", "gradient * inside, None", "inside.float(), None"),
        ("other way round", "gradient * inside, None", "gradient.masked_fill(inside, 0), None"),
        ("exactly at top", "rounded.abs() <= top", "rounded.abs() < top"),
        ("before rounding", "rounded.abs() <= top", "x.abs() <= top"),
        ("Only numbers above", "rounded.abs() <= top", "rounded <= top"),
        ("not cut off at -top and top", "rounded.clamp(-top, top)", "rounded"),
        ("cut off, and not rounded", "return rounded.clamp", "return x.clamp"),
        ("cut off at 0", "rounded.clamp(-top, top)", "rounded.clamp(0, top)"),
        ("at top alone", "rounded.clamp(-top, top)", "rounded.clamp(max=top)"),
        ("down to -top - 1", "rounded.clamp(-top, top)", "rounded.clamp(-top - 1, top)"),
        ("becomes 0", "rounded.clamp(-top, top)", "rounded.masked_fill(rounded.abs() > top, 0)"),
        ("is a tuple", "(inside,) = context", "inside = context"),
        ("as many values as forward", "gradient * inside, None", "gradient * inside, 0"),
        ("as many values as forward", "gradient * inside, None", "None, gradient * inside"),
        (
            "takes tensors alone",
            """class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context, x, top):
        context.save_for_backward(x.round(), top)
        return x.round().clamp(-top, top)

    @staticmethod
    def backward(context, gradient):
        rounded, top = context.saved_tensors
        return gradient * (rounded.abs() <= top), None
""",
        ),
        (
            "multiplied by the rounded",
            """class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context, x, top):
        y = x.round().clamp(-top, top)
        context.save_for_backward(y)
        return y

    @staticmethod
    def backward(context, gradient):
        return gradient * context.saved_tensors[0], None
""",
        ),
        ("gradient is cut off", "gradient * inside, None", "gradient.clamp(-1, 1), None"),
        ("gradient is rounded", "gradient * inside, None", "(gradient * inside).round(), None"),
        ("as many values as forward", "gradient * inside, None", "gradient * inside"),
        ("get its gradient as it came", "gradient * inside, None", "gradient * inside / 2, None"),
        ("get a gradient of 0", "gradient * inside, None", "gradient * (0.1 + 0.9 * inside), None"),
    ],
    "E.6": [
        ("factor T² is missing", "temperature**2 * ", ""),
        ("factor is T.", "temperature**2", "temperature"),
        ("divided by T²", "temperature**2 * ", "temperature**-2 * "),
        (
            "over the rows. It should go over the vocabulary",
            """def teacher_loss(student_logits, teacher_logits, temperature):
    log_p = F.log_softmax(teacher_logits.detach() / temperature, 0)
    log_q = F.log_softmax(student_logits / temperature, 0)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
""",
        ),
        (
            "over the rows. It should go over the vocabulary",
            """def teacher_loss(student_logits, teacher_logits, temperature):
    log_p = F.log_softmax(teacher_logits.detach() / temperature, 0)
    log_q = F.log_softmax(student_logits / temperature, 0)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(0).mean()
""",
        ),
        ("mean over the vocabulary", ".sum(dim=-1)  #", ".sum(dim=0)  #"),
        (
            "out of the softmax",
            """def teacher_loss(student_logits, teacher_logits, temperature):
    log_p = teacher_logits.detach().log_softmax(-1) / temperature
    log_q = student_logits.log_softmax(-1) / temperature
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
""",
        ),
        (
            "out of the softmax",
            """def teacher_loss(student_logits, teacher_logits, temperature):
    log_p = teacher_logits.detach().log_softmax(-1)
    p, q = log_p.exp() / temperature, student_logits.log_softmax(-1)
    return temperature**2 * (p * (log_p - q)).sum(-1).mean()
""",
        ),
        (
            "changed places",
            "log_p.exp() * (log_p - log_q)",
            "log_q.exp() * (log_q - log_p)",
        ),
        ("sign is turned round", "(log_p - log_q)", "(log_q - log_p)"),
        ("student's own probabilities", "log_p.exp() *", "log_q.exp() *"),
        ("N times V", ".sum(dim=-1)  #", "  #"),
        ("rows are summed up", "divergence.mean()", "divergence.sum()"),
        (
            "multiplied by the temperature",
            """def teacher_loss(student_logits, teacher_logits, temperature):
    log_p = (teacher_logits.detach() * temperature).log_softmax(dim=-1)
    log_q = (student_logits * temperature).log_softmax(dim=-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()
""",
        ),
        ("for the teacher only", "(student_logits / temperature)", "student_logits"),
        ("for the student only", "(teacher_logits.detach() / temperature)", "teacher_logits.detach()"),
        (
            "not used inside",
            """def teacher_loss(student_logits, teacher_logits, temperature):
    p = teacher_logits.detach().softmax(-1)
    kl = p * (teacher_logits.detach().log_softmax(-1) - student_logits.log_softmax(-1))
    return kl.sum(-1).mean() * temperature**2
""",
        ),
        ("cross-entropy", "(log_p - log_q)", "(-log_q)"),
        ("gradient is not stopped", ".detach()", ""),
        (
            "Logits are compared",
            """def teacher_loss(student_logits, teacher_logits, temperature):
    difference = (teacher_logits.detach() - student_logits) / temperature
    return temperature**2 * (difference**2).sum(dim=1).mean()
""",
        ),
        (
            "after the softmax",
            """def teacher_loss(student_logits, teacher_logits, temperature):
    p = (teacher_logits.detach() / temperature).softmax(-1)
    q = (student_logits / temperature).softmax(-1)
    return temperature**2 * (p * (p.log() - q.log())).sum(-1).mean()
""",
        ),
        ("shape ()", "divergence.mean()", "divergence"),
        ("No gradient reaches", "(student_logits / temperature)", "(student_logits.detach() / temperature)"),
    ],
    "E.7": [
        (
            "same share",
            """def global_masks(matrices, share):
    masks = []
    for m in matrices:
        kept = torch.ones(m.numel(), dtype=torch.bool)
        kept[m.abs().flatten().argsort()[: round(share * m.numel())]] = False
        masks.append(kept.view(m.shape))
    return masks
""",
        ),
        ("largest go", "sizes.argsort()[:", "(-sizes).argsort()[:"),
        ("largest go", ".argsort()", ".argsort(descending=True)"),
        ("True stands for what goes", "part.view", "~part.view"),
        ("with their signs", "matrix.abs().flatten()", "matrix.flatten()"),
        ("share is what is kept", "round(share * len(sizes))", "round((1 - share) * len(sizes))"),
        ("One weight too many", "round(share * len(sizes))", "round(share * len(sizes)) + 1"),
        ("One weight too few", "round(share * len(sizes))", "max(round(share * len(sizes)) - 1, 0)"),
        (
            "share of the largest size",
            """def global_masks(matrices, share):
    limit = share * max(m.abs().max() for m in matrices)
    return [m.abs() >= limit for m in matrices]
""",
        ),
        (
            "taken for the limit",
            """def global_masks(matrices, share):
    return [m.abs() >= share for m in matrices]
""",
        ),
        ("Nothing goes", "] = False", "] = True"),
        (
            "pruned matrices",
            "[part.view(matrix.shape) for part, matrix in zip(parts, matrices)]",
            "[part.view(matrix.shape) * matrix for part, matrix in zip(parts, matrices)]",
        ),
        ("masks of numbers", "dtype=torch.bool", "dtype=torch.float32"),
        ("masks of numbers", "dtype=torch.bool", "dtype=torch.int64"),
        (
            "share of 0",
            """def global_masks(matrices, share):
    sizes = torch.cat([m.abs().flatten() for m in matrices]).sort().values
    limit = sizes[round(share * len(sizes)) - 1]
    return [m.abs() > limit for m in matrices]
""",
        ),
        ("one long mask", "return [part", "return kept\n    return [part"),
        ("one long mask", "part.view(matrix.shape)", "part"),
        ("Another number of weights goes", "round(share * len(sizes))", "round(1.9 * share * len(sizes))"),
        (
            "changes its arguments",
            "    parts =",
            "    for matrix in matrices:\n        matrix.abs_()\n    parts =",
        ),
        ("one that stays", "sizes.argsort()", "sizes.argsort().argsort()"),
    ],
    "E.8": [
        ("sizes are missing", ".abs()", ""),
        ("before the sum over positions", "(outputs * gradients)", "(outputs * gradients).abs()"),
        (
            "before the sum over positions",
            "def head_scores(outputs, gradients):\n"
            "    return (outputs.abs() * gradients.abs()).sum(3).sum(2).mean(0)\n",
        ),
        ("cancel each other", "slopes.abs().mean(dim=0)", "slopes.mean(dim=0).abs()"),
        ("cancel each other", "slopes.abs().mean(dim=0)", "slopes.sum(dim=0).abs()"),
        ("outputs are not used", "(outputs * gradients)", "gradients.abs()"),
        ("gradients are not used", "(outputs * gradients)", "outputs.abs()"),
        (
            "summed before they are multiplied",
            "(outputs * gradients).sum(dim=(2, 3))",
            "outputs.sum(dim=(2, 3)) * gradients.sum(dim=(2, 3))",
        ),
        ("root taken", ".sum(dim=(2, 3))", ".norm(dim=(2, 3))"),
        ("examples are summed up", ".mean(dim=0)", ".sum(dim=0)"),
        ("outputs are not used", "(outputs * gradients)", "gradients"),
        ("gradients are not used", "(outputs * gradients)", "outputs"),
        ("derivative is their sum", ".sum(dim=(2, 3))", ".mean(dim=(2, 3))"),
        ("squared", "slopes.abs()", "slopes.square()"),
        ("squared", "slopes.abs().mean(dim=0)", "(slopes**2).mean(dim=0) ** 0.5"),
        ("one number for each example", ".mean(dim=0)", ".mean(dim=1)"),
        ("one row for each", ".mean(dim=0)", ""),
        (
            "divided by their sum",
            "return slopes.abs().mean(dim=0)",
            "return slopes.abs().mean(dim=0) / slopes.abs().mean(dim=0).sum()",
        ),
        (
            "position by position",
            "def head_scores(outputs, gradients):\n"
            "    return (outputs * gradients).sum(dim=-1).abs().sum(dim=-1).mean(dim=0)\n",
        ),
        ("score for each position", ".sum(dim=(2, 3))", ".sum(dim=3)"),
        ("become one number", "slopes.abs().mean(dim=0)", "slopes.abs().mean()"),
    ],
}
