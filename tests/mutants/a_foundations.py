"""Appendix A: answers that are right in another way, and answers that are wrong in a typical way."""

VARIANTS = {
    "A.1": """def transposed_strides(shape, first, second):
    n = len(shape)
    order = list(range(n))
    order[first % n], order[second % n] = order[second % n], order[first % n]
    return tuple(math.prod(shape[dim + 1 :]) for dim in order)
""",
    "A.2": """def shape_of_sum(shapes):
    backwards = []
    for place in range(1, max(map(len, shapes)) + 1):
        sizes = {shape[-place] for shape in shapes if len(shape) >= place} - {1}
        if len(sizes) > 1:
            raise ValueError("does not fit")
        backwards.append(sizes.pop() if sizes else 1)
    return tuple(reversed(backwards))
""",
    "A.3": """def unbroadcast(gradient, shape):
    full = (1,) * (gradient.dim() - len(shape)) + tuple(shape)
    dims = [dim for dim in range(gradient.dim()) if full[dim] == 1]
    return (gradient.sum(dim=dims) if dims else gradient).reshape(shape)
""",
    "A.4": """def draw_tokens(p, darts):
    drawn = []
    for row, dart in zip(p.tolist(), darts.tolist()):
        for token, probability in enumerate(row):
            dart -= probability
            if dart < 0:
                break
        drawn.append(token)
    return torch.tensor(drawn, device=p.device)
""",
    "A.5": """def in_bits(p, q):
    happens = p > 0
    own = torch.where(happens, p * p.log2(), 0.0)
    other = torch.where(happens, p * q.log2(), 0.0)
    return -own.sum(-1), -other.sum(-1), (own - other).sum(-1)
""",
    "A.6": """def slopes(w, b, x, t):
    for_w = for_b = torch.zeros_like(w)
    for x_n, t_n in zip(x, t):
        y = (w * x_n + b).tanh()
        link = 2 * (y - t_n) * (1 - y * y) / x.numel()
        for_w, for_b = for_w + link * x_n, for_b + link
    return for_w, for_b
""",
    "A.7": """def divide(a, b):
    reciprocal = Node(1 / b.data, (b,), (-1 / b.data**2,))
    return Node(a.data * reciprocal.data, (a, reciprocal), (reciprocal.data, a.data))
""",
    "A.8": """def backward(result):
    order, done = [], set()
    stack = [(result, False)]
    while stack:
        node, left = stack.pop()
        if left:
            order.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack.extend((parent, False) for parent in node.parents)
    result.grad = 1.0
    for node in reversed(order):
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad = parent.grad + node.grad * slope
""",
    "A.9": """class AverageSGD:
    def __init__(self, parameters, lr, beta=0.9):
        self.all = [*parameters]
        self.lr, self.beta = lr, beta
        self.past = []

    def zero_grad(self):
        for p in self.all:
            p.grad = None

    def step(self):
        self.past.append([None if p.grad is None else p.grad.clone() for p in self.all])
        for n, p in enumerate(self.all):
            if p.grad is None:
                continue
            total = weight = 0.0
            for age, gradients in enumerate(reversed(self.past)):
                if gradients[n] is not None:
                    total = total + self.beta**age * gradients[n]
                    weight += self.beta**age
            p.data.sub_(self.lr * total / weight)
""",
}

MUTANTS = {
    "A.1": [
        (
            "strides before the transposition",
            "    strides[first], strides[second] = strides[second], strides[first]\n",
            "",
        ),
        (
            "fresh tensor in the new shape",
            """def transposed_strides(shape, first, second):
    shape = list(shape)
    shape[first], shape[second] = shape[second], shape[first]
    strides, step = [], 1
    for size in shape[::-1]:
        strides = [step] + strides
        step *= size
    return tuple(strides)
""",
        ),
        (
            "This is a shape",
            """def transposed_strides(shape, first, second):
    strides = list(shape)
    strides[first], strides[second] = strides[second], strides[first]
    return tuple(strides)
""",
        ),
        ("grow from left to right", "reversed(range(len(shape)))", "range(len(shape))"),
        (
            "own size is multiplied",
            "        strides[dim] = step\n        step *= shape[dim]",
            "        step *= shape[dim]\n        strides[dim] = step",
        ),
        ("in bytes", "[0] * len(shape), 1", "[0] * len(shape), 4"),
        ("in bytes", "return tuple(strides)", "return tuple(8 * stride for stride in strides)"),
        (
            "All dimensions have changed places",
            "    strides[first], strides[second] = strides[second], strides[first]\n",
            "    strides.reverse()\n",
        ),
        ("next size alone", "step *= shape[dim]", "step = shape[dim]"),
        (
            "are added up",
            """def transposed_strides(shape, first, second):
    strides = []
    for n in range(len(shape)):
        after = shape[n + 1 :]
        strides.append(sum(after) if after else 1)
    strides[first], strides[second] = strides[second], strides[first]
    return tuple(strides)
""",
        ),
        (
            "last two dimensions change places",
            "    strides[first], strides[second] = strides[second], strides[first]\n",
            "    strides[-2:] = strides[-2:][::-1]\n",
        ),
        (
            "first two dimensions change places",
            "    strides[first], strides[second] = strides[second], strides[first]\n",
            "    strides[:2] = strides[:2][::-1]\n",
        ),
        ("Expected a tuple, got a list", "return tuple(strides)", "return strides"),
        ("one stride for each dimension", "return tuple(strides)", "return tuple(strides + [step])"),
        (
            "strides before the transposition",
            "= strides[second], strides[first]",
            "= strides[first], strides[second]",
        ),
        ("strides of the old shape, and they are not", "step *= shape[dim]", "step *= shape[dim] + 1"),
        (
            "do not change places should keep",
            "    strides[first], strides[second] = strides[second], strides[first]\n",
            "    strides.append(strides.pop(0))\n",
        ),
        (
            "grow from left to right",
            """def transposed_strides(shape, first, second):
    strides = [1]
    for size in shape[:0:-1]:
        strides.append(strides[-1] * size)
    strides[first], strides[second] = strides[second], strides[first]
    return tuple(strides)
""",
        ),
        (
            "first size is multiplied in",
            """def transposed_strides(shape, first, second):
    strides = [1]
    for size in reversed(shape[:-1]):
        strides.insert(0, strides[0] * size)
    strides[first], strides[second] = strides[second], strides[first]
    return tuple(strides)
""",
        ),
        (
            "loses its sign",
            """def transposed_strides(shape, first, second):
    strides = [1]
    for size in shape[:0:-1]:
        strides.insert(0, strides[0] * size)
    first, second = abs(first), abs(second)
    strides[first], strides[second] = strides[second], strides[first]
    return tuple(strides)
""",
        ),
        (
            "not found among 0, 1, 2",
            """def transposed_strides(shape, first, second):
    strides = [1]
    for size in shape[:0:-1]:
        strides.insert(0, strides[0] * size)
    order = [second if n == first else first if n == second else n for n in range(len(shape))]
    return tuple(strides[n] for n in order)
""",
        ),
    ],
    "A.2": [
        (
            "aligned at their left",
            "(1,) * (dimensions - len(shape)) + tuple(shape)",
            "tuple(shape) + (1,) * (dimensions - len(shape))",
        ),
        (
            "never refuses",
            '                raise ValueError(f"{size} meets {result[dim]}")\n',
            "                pass\n",
        ),
        (
            "never refuses",
            """def shape_of_sum(shapes):
    n = max(len(s) for s in shapes)
    return tuple(max(s[i - n] for s in shapes if len(s) >= n - i) for i in range(n))
""",
        ),
        (
            "0 is treated like 1",
            "            if size != 1:\n                result[dim] = size",
            "            result[dim] = max(result[dim], size)",
        ),
        (
            "larger size is taken",
            """def shape_of_sum(shapes):
    n = max(len(s) for s in shapes)
    out = []
    for sizes in zip(*[(1,) * (n - len(s)) + tuple(s) for s in shapes]):
        if len(set(sizes) - {1}) > 1:
            raise ValueError("no")
        out.append(max(sizes))
    return tuple(out)
""",
        ),
        (
            "size of the last shape",
            "            if size != 1:\n                result[dim]",
            "            if True:\n                result[dim]",
        ),
        (
            "different lengths are refused",
            "    for shape in shapes:\n",
            "    for shape in shapes:\n        if len(shape) != dimensions:\n"
            "            raise ValueError('lengths')\n",
        ),
        (
            "Only equal shapes pass",
            "if size != 1 and result[dim] not in (1, size):",
            "if tuple(shape) != tuple(shapes[0]):",
        ),
        (
            "first two shapes",
            """def shape_of_sum(shapes):
    a, b = (shapes[0], shapes[1]) if len(shapes) > 1 else (shapes[0], ())
    n = max(len(a), len(b))
    a, b = [1] * (n - len(a)) + list(a), [1] * (n - len(b)) + list(b)
    out = []
    for x, y in zip(a, b):
        if x != y and 1 not in (x, y):
            raise ValueError
        out.append(y if x == 1 else x)
    return tuple(out)
""",
        ),
        (
            "compared with the next one only",
            """def shape_of_sum(shapes):
    n = max(len(s) for s in shapes)
    full = [[1] * (n - len(s)) + list(s) for s in shapes]
    for a, b in zip(full, full[1:]):
        for x, y in zip(a, b):
            if x != y and x != 1 and y != 1:
                raise ValueError("no")
    return tuple(max(column) for column in zip(*full))
""",
        ),
        (
            "0 is treated like 1",
            """def shape_of_sum(shapes):
    n = max(len(s) for s in shapes)
    result = []
    for i in range(-n, 0):
        sizes = {s[i] for s in shapes if len(s) >= -i and s[i] > 1}
        if len(sizes) > 1:
            raise ValueError("no")
        result.append(max(sizes, default=1))
    return tuple(result)
""",
        ),
        ("Expected a tuple, got a list", "return tuple(result)", "return result"),
        (
            "that of a single number",
            "max(len(shape) for shape in shapes)",
            "max(len(shape) for shape in shapes if shape)",
        ),
        ("fit, and are refused", "not in (1, size)", "!= size"),
        ("stops with an error", "raise ValueError(", "raise RuntimeError("),
        ("as many dimensions as the longest", "return tuple(result)", "return tuple(result[1:])"),
        ("should have that size", "result[dim] = size", "result[dim] = size + 1"),
        (
            "0 is treated like 1",
            """def shape_of_sum(shapes):
    n = max(len(s) for s in shapes)
    full = [(1,) * (n - len(s)) + tuple(s) for s in shapes]
    out = []
    for sizes in zip(*full):
        others = set(sizes) - {1}
        if len(others) > 1:
            raise ValueError('no')
        out.append((others.pop() if others else 1) or 1)
    return tuple(out)
""",
        ),
        (
            "0 is refused",
            """def shape_of_sum(shapes):
    n = max(len(s) for s in shapes)
    full = [(1,) * (n - len(s)) + tuple(s) for s in shapes]
    out = []
    for sizes in zip(*full):
        others = set(sizes) - {1}
        if len(others) > 1 or 0 in others:
            raise ValueError('no')
        out.append(others.pop() if others else 1)
    return tuple(out)
""",
        ),
        (
            "0 is refused",
            """def shape_of_sum(shapes):
    n = max(len(s) for s in shapes)
    full = [(1,) * (n - len(s)) + tuple(s) for s in shapes]
    out = []
    for sizes in zip(*full):
        others = set(sizes) - {1}
        if any(size not in (1, max(sizes)) for size in sizes):
            raise ValueError('no')
        out.append(max(sizes))
    return tuple(out)
""",
        ),
        (
            "that of the first shape",
            """def shape_of_sum(shapes):
    n = len(shapes[0])
    full = [(1,) * (n - len(s)) + tuple(s) for s in shapes]
    out = []
    for sizes in zip(*full):
        others = set(sizes) - {1}
        if len(others) > 1:
            raise ValueError('no')
        out.append(others.pop() if others else 1)
    return tuple(out)
""",
        ),
        (
            "aligned at their left",
            """def shape_of_sum(shapes):
    n = 0
    full = [(1,) * (n - len(s)) + tuple(s) for s in shapes]
    out = []
    for sizes in zip(*full):
        others = set(sizes) - {1}
        if len(others) > 1:
            raise ValueError('no')
        out.append(others.pop() if others else 1)
    return tuple(out)
""",
        ),
        (
            "in reverse order",
            """def shape_of_sum(shapes):
    n = max(len(s) for s in shapes)
    full = [(1,) * (n - len(s)) + tuple(s) for s in shapes]
    out = []
    for sizes in zip(*full):
        others = set(sizes) - {1}
        if len(others) > 1:
            raise ValueError('no')
        out.append(others.pop() if others else 1)
    return tuple(out[::-1])
""",
        ),
    ],
    "A.3": [
        ("stretched dimensions are averaged", ".sum(dim=dim, keepdim=True)", ".mean(dim=dim, keepdim=True)"),
        (
            "slopes are averaged",
            """def unbroadcast(gradient, shape):
    small = unbroadcast_sum(gradient, shape)
    return small * small.numel() / gradient.numel()


def unbroadcast_sum(gradient, shape):
    return gradient.sum_to_size(shape)
""",
        ),
        ("in front are averaged", "gradient.sum(dim=0)", "gradient.mean(dim=0)"),
        (
            "not over those that had size 1",
            "    for dim, size in enumerate(shape):\n        if size == 1:\n"
            "            gradient = gradient.sum(dim=dim, keepdim=True)  # a dimension that was stretched\n",
            "",
        ),
        (
            "not over those in front",
            "    while gradient.dim() > len(shape):\n"
            "        gradient = gradient.sum(dim=0)  # a dimension that the small tensor did not have\n"
            "    for dim, size in enumerate(shape):",
            "    for dim, size in zip(range(-len(shape), 0), shape):",
        ),
        (
            "comes back as it is",
            """def unbroadcast(gradient, shape):
    return gradient
""",
        ),
        (
            "comes back as it is",
            "    while gradient.dim() > len(shape):\n",
            "    return gradient\n    while gradient.dim() > len(shape):\n",
        ),
        ("disappears in the sum", "sum(dim=dim, keepdim=True)", "sum(dim=dim)"),
        (
            "keepdim=True",
            """def unbroadcast(gradient, shape):
    for _ in range(gradient.dim() - len(shape)):
        gradient = gradient.sum(0)
    dims = [d for d in range(len(shape)) if shape[d] == 1]
    return gradient.sum(dim=dims) if dims else gradient
""",
        ),
        (
            "takes the first slope",
            """def unbroadcast(gradient, shape):
    while gradient.dim() > len(shape):
        gradient = gradient[0]
    for dim, size in enumerate(shape):
        if size == 1:
            gradient = gradient.narrow(dim, 0, 1)
    return gradient
""",
        ),
        (
            "sum of the whole gradient",
            """def unbroadcast(gradient, shape):
    return torch.full(shape, gradient.sum().item(), dtype=gradient.dtype, device=gradient.device)
""",
        ),
        ("last dimensions are summed away", "gradient.sum(dim=0)", "gradient.sum(dim=-1)"),
        (
            "largest slope is kept",
            """def unbroadcast(gradient, shape):
    while gradient.dim() > len(shape):
        gradient = gradient.amax(dim=0)
    for dim, size in enumerate(shape):
        if size == 1:
            gradient = gradient.amax(dim=dim, keepdim=True)
    return gradient
""",
        ),
        (
            "sum first",
            """def unbroadcast(gradient, shape):
    return gradient.reshape(shape)
""",
        ),
        ("dtype float64", "    return gradient\n", "    return gradient.float()\n"),
        ("should have the sum of the gradient", "    return gradient\n", "    return gradient + 1\n"),
        ("Expected the shape (2,), got (1,)", "if size == 1", "if size <= 2"),
        (
            "Nothing was stretched in this case",
            "    return gradient\n",
            "    return gradient.flip(0) if gradient.dim() == 1 else gradient\n",
        ),
        (
            "counted from the left",
            """def unbroadcast(gradient, shape):
    for dim, size in enumerate(shape):
        if size == 1:
            gradient = gradient.sum(dim, keepdim=True)
    while gradient.dim() > len(shape):
        gradient = gradient.sum(0)
    return gradient
""",
        ),
        (
            "dimensions move up",
            """def unbroadcast(gradient, shape):
    for dim in range(gradient.dim() - len(shape)):
        gradient = gradient.sum(dim)
    for dim, size in enumerate(shape):
        if size == 1:
            gradient = gradient.sum(dim, keepdim=True)
    return gradient
""",
        ),
        (
            "Only one dimension in front",
            "    while gradient.dim()",
            "    if gradient.dim()",
        ),
        (
            "empty tuple of dimensions",
            """def unbroadcast(gradient, shape):
    gradient = gradient.sum(tuple(range(gradient.dim() - len(shape))))
    for dim, size in enumerate(shape):
        if size == 1:
            gradient = gradient.sum(dim, keepdim=True)
    return gradient
""",
        ),
        (
            "empty tuple of dimensions",
            """def unbroadcast(gradient, shape):
    extra = gradient.dim() - len(shape)
    dims = list(range(extra)) + [extra + n for n, size in enumerate(shape) if size == 1]
    return gradient.sum(dims).reshape(shape)
""",
        ),
        (
            "by their order in the storage",
            """def unbroadcast(gradient, shape):
    n = math.prod(shape)
    return gradient.reshape(-1, n).sum(0).reshape(shape)
""",
        ),
        (
            "by their order in the storage",
            """def unbroadcast(gradient, shape):
    n = math.prod(shape)
    return gradient.reshape(n, -1).sum(1).reshape(shape)
""",
        ),
    ],
    "A.4": [
        ("boundary is given to the part on its left", "ends <= darts", "ends < darts"),
        (
            "boundary is given to the part on its left",
            """def draw_tokens(p, darts):
    return torch.searchsorted(p.cumsum(1), darts[:, None])[:, 0]
""",
        ),
        (
            "most probable token",
            """def draw_tokens(p, darts):
    return torch.max(p, dim=-1).indices
""",
        ),
        ("compared with the probabilities", "p.cumsum(dim=1)", "p"),
        (
            "compared with the probabilities",
            """def draw_tokens(p, darts):
    drawn = []
    for row, dart in zip(p, darts):
        token = 0
        for number, probability in enumerate(row):
            if probability > dart:
                token = number
                break
        drawn.append(token)
    return torch.tensor(drawn, device=p.device)
""",
        ),
        ("one too large", ".sum(dim=1)", ".sum(dim=1) + 1"),
        ("one too small", ".sum(dim=1)", ".sum(dim=1) - 1"),
        ("goes down the batch", "p.cumsum(dim=1)", "p.cumsum(dim=0)"),
        ("given the first dart", "darts[:, None]", "darts[0]"),
        ("thrown at the first row", "p.cumsum(dim=1)", "p[0].cumsum(dim=0)"),
        ("laid out by size", "p.cumsum(dim=1)", "p.sort(dim=1, descending=True).values.cumsum(dim=1)"),
        (
            "laid out by size",
            """def draw_tokens(p, darts):
    p, order = p.sort(dim=1, descending=True)
    places = (p.cumsum(1) <= darts[:, None]).sum(1)
    return order[torch.arange(len(p), device=p.device), places]
""",
        ),
        ("laid out from the right", "p.cumsum(dim=1)", "p.flip(1).cumsum(dim=1)"),
        ("parts on the right of the dart", "ends <= darts", "ends > darts"),
        (
            "where the part ends",
            "return (ends <= darts[:, None]).sum(dim=1)",
            "return torch.where(ends > darts[:, None], ends, 2).amin(dim=1)",
        ),
        ("need a dimension more", "darts[:, None]", "darts"),
        (
            "wants a dart for each row",
            """def draw_tokens(p, darts):
    return torch.searchsorted(p.cumsum(1), darts, right=True)
""",
        ),
        ("dtype int64", "(ends <= darts[:, None]).sum(dim=1)", "(ends <= darts[:, None]).sum(dim=1).float()"),
        (
            "first part that has no length",
            "(ends <= darts[:, None])",
            "((ends <= darts[:, None]) & (ends > 0))",
        ),
        ("between 0 and V - 1", ".sum(dim=1)", ".sum(dim=1) + 3 * (darts > 0.85)"),
        (
            "end that is nearest",
            "return (ends <= darts[:, None]).sum(dim=1)",
            "return (ends - darts[:, None]).abs().argmin(dim=1)",
        ),
        (
            "compared with the probabilities",
            "return (ends <= darts[:, None]).sum(dim=1)",
            "return (p - darts[:, None]).abs().argmin(dim=1)",
        ),
        (
            "equally long",
            "return (ends <= darts[:, None]).sum(dim=1)",
            "return (darts * p.size(1)).long()",
        ),
        (
            "one too large",
            "return (ends <= darts[:, None]).sum(dim=1)",
            "return (ends - p < darts[:, None]).sum(dim=1)",
        ),
        (
            "gives the last token",
            """def draw_tokens(p, darts):
    drawn = []
    for row, dart in zip(p, darts):
        for token, end in enumerate(row.cumsum(0)):
            if dart < end:
                place = token
        drawn.append(place)
    return torch.tensor(drawn, device=p.device)
""",
        ),
    ],
    "A.5": [
        (
            "These are nats",
            """def in_bits(p, q):
    h = -torch.xlogy(p, p).sum(-1)
    c = -torch.xlogy(p, q).sum(-1)
    return h, c, c - h
""",
        ),
        (
            "These are nats",
            """def in_bits(p, q):
    h = -torch.xlogy(p, p).sum(-1) * math.log(2)
    c = -torch.xlogy(p, q).sum(-1) * math.log(2)
    return h, c, c - h
""",
        ),
        (
            "to the base 10",
            """def in_bits(p, q):
    h = -torch.where(p > 0, p * p.log10(), 0).sum(-1)
    c = -torch.where(p > 0, p * q.log10(), 0).sum(-1)
    return h, c, c - h
""",
        ),
        ("signs are the wrong way round", "entropy = -torch.xlogy(p, p)", "entropy = torch.xlogy(p, p)"),
        (
            "signs are the wrong way round",
            """def in_bits(p, q):
    h = torch.xlogy(p, p).sum(-1) / math.log(2)
    c = torch.xlogy(p, q).sum(-1) / math.log(2)
    return h, c, c - h
""",
        ),
        ("divergence has the wrong sign", "cross_entropy - entropy", "entropy - cross_entropy"),
        ("In the cross-entropy p and q", "torch.xlogy(p, q)", "torch.xlogy(q, p)"),
        (
            "In the divergence p and q",
            "cross_entropy - entropy",
            "torch.xlogy(q, q / p).sum(-1) / math.log(2)",
        ),
        (
            "not a number. Put the 0 there",
            """def in_bits(p, q):
    h = -(p * torch.log2(p)).sum(dim=-1)
    c = -(p * torch.log2(q)).sum(dim=-1)
    return h, c, (p * torch.log2(p / q)).sum(dim=-1)
""",
        ),
        (
            "not a number. Put the 0 there",
            "-torch.xlogy(p, p).sum(dim=-1) / math.log(2)",
            "-(p * p.log2()).sum(dim=-1)",
        ),
        ("A small number inside", "torch.xlogy(p, q)", "torch.xlogy(p, q + 1e-9)"),
        (
            "A small number inside",
            """def in_bits(p, q):
    eps = 1e-10
    h = -(p * (p + eps).log2()).sum(-1)
    c = -(p * (q + eps).log2()).sum(-1)
    return h, c, c - h
""",
        ),
        (
            "left out of the sum",
            """def in_bits(p, q):
    both = (p > 0) & (q > 0)
    own, other = torch.where(p > 0, p * p.log2(), 0), torch.where(both, p * q.log2(), 0)
    return -own.sum(-1), -other.sum(-1), (own - other).sum(-1)
""",
        ),
        (
            "sum goes over all distributions",
            """def in_bits(p, q):
    h = -torch.xlogy(p, p).sum() / math.log(2)
    c = -torch.xlogy(p, q).sum() / math.log(2)
    return h, c, c - h
""",
        ),
        (
            "mean of the V summands",
            """def in_bits(p, q):
    h = -torch.xlogy(p, p).mean(-1) / math.log(2)
    c = -torch.xlogy(p, q).mean(-1) / math.log(2)
    return h, c, c - h
""",
        ),
        (
            "averages over the batch",
            "return entropy, cross_entropy, cross_entropy - entropy",
            "return entropy.mean(), cross_entropy.mean(), (cross_entropy - entropy).mean()",
        ),
        (
            "Expected 3 results, got 2",
            "return entropy, cross_entropy, cross_entropy - entropy",
            "return entropy, cross_entropy",
        ),
        ("divergence is wrong", "cross_entropy - entropy", "cross_entropy / entropy"),
        (
            "once too often",
            """def in_bits(p, q):
    h = -torch.xlogy(p, p).sum(-1) / math.log(2) / math.log(2)
    c = -torch.xlogy(p, q).sum(-1) / math.log(2) / math.log(2)
    return h, c, c - h
""",
        ),
        (
            "first two results have changed",
            """def in_bits(p, q):
    h = -torch.xlogy(p, p).sum(-1) / math.log(2)
    c = -torch.xlogy(p, q).sum(-1) / math.log(2)
    return c, h, c - h
""",
        ),
        (
            "entropy is that of q",
            """def in_bits(p, q):
    h = -torch.xlogy(q, q).sum(-1) / math.log(2)
    c = -torch.xlogy(p, q).sum(-1) / math.log(2)
    return h, c, c - h
""",
        ),
        (
            "without their weights",
            """def in_bits(p, q):
    return -p.log2().sum(-1), -q.log2().sum(-1), (p / q).log2().sum(-1)
""",
        ),
        (
            "without their weights",
            """def in_bits(p, q):
    h = -torch.xlogy(p, p).sum(-1) / math.log(2)
    c = -torch.xlogy(p, q).sum(-1) / math.log(2)
    return h, c, torch.log2(p / q).sum(-1)
""",
        ),
        (
            "whole sum becomes 0",
            """def in_bits(p, q):
    h = -(p * p.log2()).sum(-1).nan_to_num(0)
    c = -(p * q.log2()).sum(-1).nan_to_num(0)
    return h, c, c - h
""",
        ),
        (
            "replaced by 1",
            """def in_bits(p, q):
    s = torch.where(p > 0, p, 1.0)
    h = -(s * s.log2()).sum(-1)
    c = -(s * q.log2()).sum(-1)
    return h, c, c - h
""",
        ),
        (
            "These are nats",
            """def in_bits(p, q):
    h = -torch.xlogy(p, p).sum(-1) / math.log(2)
    c = -torch.xlogy(p, q).sum(-1) / math.log(2)
    return h, c, (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)
""",
        ),
        (
            "shape without the last",
            """def in_bits(p, q):
    h = -torch.xlogy(p, p).sum(-1, keepdim=True) / math.log(2)
    c = -torch.xlogy(p, q).sum(-1, keepdim=True) / math.log(2)
    return h, c, c - h
""",
        ),
        (
            "shape without the last",
            """def in_bits(p, q):
    h = -torch.xlogy(p, p).sum(-1) / math.log(2)
    c = -torch.xlogy(p, q).sum(-1) / math.log(2)
    return h.tolist(), c.tolist(), (c - h).tolist()
""",
        ),
        (
            "along the last one: dim=-1",
            """def in_bits(p, q):
    h = -torch.xlogy(p, p).sum(1) / math.log(2)
    c = -torch.xlogy(p, q).sum(1) / math.log(2)
    return h, c, c - h
""",
        ),
    ],
    "A.6": [
        ("sum of squares", " / len(x)", ""),
        ("The 2 of the square", "2 * (y - t)", "(y - t)"),
        ("slope of tanh is missing", "at_y * (1 - y**2)", "at_y"),
        (
            "computed from z",
            """def slopes(w, b, x, t):
    z = w * x + b
    at_z = 2 * (z.tanh() - t) * (1 - z**2)
    return (at_z * x).mean(), at_z.mean()
""",
        ),
        ("1 - y, without the square", "1 - y**2", "1 - y"),
        ("slope of a sigmoid", "(1 - y**2)", "y * (1 - y)"),
        ("sign is the wrong way round", "(y - t)", "(t - y)"),
        ("loss itself is in the chain", "2 * (y - t)", "(y - t) ** 2"),
        ("without y - t in it", "2 * (y - t)", "2 * torch.ones_like(y)"),
        ("has no x in it", "(at_z * x).sum()", "at_z.sum()"),
        ("has w in it in place of x", "(at_z * x).sum()", "(at_z * w).sum()"),
        ("slope for b has an x", "at_z.sum()  #", "(at_z * x).sum()  #"),
        ("slope for b has b in it", "at_z.sum()  #", "(at_z * b).sum()  #"),
        ("changed places", "return (at_z * x).sum(), at_z.sum()", "return at_z.sum(), (at_z * x).sum()"),
        ("averaged before they are multiplied", "(at_z * x).sum()", "at_z.sum() * x.mean()"),
        ("a slope for each example", "return (at_z * x).sum(), at_z.sum()", "return at_z * x, at_z"),
        (
            "links of the chain are added",
            """def slopes(w, b, x, t):
    y = torch.tanh(w * x + b)
    at_z = 2 * (y - t) + (1 - y**2)
    return (at_z + x).mean(), at_z.mean()
""",
        ),
        ("for b is right, and the one for w is not", "(at_z * x).sum()", "(at_z * x**2).sum()"),
        ("for w is right, and the one for b is not", "at_z.sum()  #", "at_z.sum() + 1  #"),
        (
            "divided by N twice",
            "return (at_z * x).sum(), at_z.sum()",
            "return (at_z * x).mean(), at_z.mean()",
        ),
        (
            "tanh is applied twice",
            "1 - y**2",
            "1 - torch.tanh(y) ** 2",
        ),
        (
            "slope of tanh is another one",
            "(1 - y**2)",
            "((1 - y) ** 2)",
        ),
        (
            "slope of tanh is another one",
            "(1 - y**2)",
            "(1 + y**2)",
        ),
        (
            "slope of tanh is another one",
            "(1 - y**2)",
            "(y**2)",
        ),
        (
            "sign is the wrong way round",
            "(1 - y**2)",
            "(y**2 - 1)",
        ),
        (
            "b is missing",
            "torch.tanh(w * x + b)",
            "torch.tanh(w * x)",
        ),
        (
            "no tanh in it",
            """def slopes(w, b, x, t):
    at_z = 2 * (w * x + b - t) / len(x)
    return (at_z * x).sum(), at_z.sum()
""",
        ),
        (
            "a slope for each example",
            "at_z.sum()  #",
            "at_z  #",
        ),
        (
            "Expected the shape (), got (1,)",
            "return (at_z * x).sum(), at_z.sum()",
            "return (at_z * x).sum(0, keepdim=True), at_z.sum(0, keepdim=True)",
        ),
    ],
    "A.7": [
        ("for b has the wrong sign", "-a.data / b.data**2", "a.data / b.data**2"),
        ("for b has no square", "-a.data / b.data**2", "-a.data / b.data"),
        ("for b has no a in it", "-a.data / b.data**2", "-(b.data**-2)"),
        ("that of multiplication", "(1 / b.data, -a.data / b.data**2)", "(b.data, a.data)"),
        ("that of multiplication", "-a.data / b.data**2", "-a.data"),
        ("not 1 / b", "(1 / b.data,", "(b.data,"),
        ("not 1 / b", "(1 / b.data,", "(1.0,"),
        ("changed places", "(1 / b.data, -a.data / b.data**2)", "(-a.data / b.data**2, 1 / b.data)"),
        (
            "divides b by a",
            """def divide(a, b):
    return Node(b.data / a.data, (b, a), (1 / a.data, -b.data / a.data**2))
""",
        ),
        ("divides b by a", "Node(a.data / b.data,", "Node(b.data / a.data,"),
        ("rounded down", "Node(a.data / b.data,", "Node(a.data // b.data,"),
        (
            "adds to the grad",
            """def divide(a, b):
    a.grad += 1 / b.data
    b.grad -= a.data / b.data**2
    return Node(a.data / b.data, (a, b), (1 / b.data, -a.data / b.data**2))
""",
        ),
        ("Only one of the two parents", "(a, b), (1 / b.data, -a.data / b.data**2)", "(a,), (1 / b.data,)"),
        ("Nothing finds its way back", ", (a, b), (1 / b.data, -a.data / b.data**2)", ""),
        ("as many slopes as parents", "(1 / b.data, -a.data / b.data**2)", "(1 / b.data,)"),
        ("Its value is a.data", "Node(a.data / b.data,", "Node(a / b,"),
        (
            "should be a Node",
            "return Node(a.data / b.data, (a, b), (1 / b.data, -a.data / b.data**2))",
            "return a.data / b.data",
        ),
        ("value is not a / b", "Node(a.data / b.data,", "Node(a.data * b.data,"),
        ("slope for b is not", "-a.data / b.data**2", "-a.data / (b.data**2 + 1)"),
        ("Both slopes are divided by b squared", "(1 / b.data,", "(a.data / b.data**2,"),
        (
            "parents should be nodes",
            "(a, b), (1 / b.data, -a.data / b.data**2)",
            "(a.data, b.data), (1 / b.data, -a.data / b.data**2)",
        ),
        (
            "parents should be nodes",
            "(a, b), (1 / b.data, -a.data / b.data**2)",
            "(1 / b.data, -a.data / b.data**2), (a, b)",
        ),
        (
            "Nothing finds its way back",
            "(a, b), (1 / b.data, -a.data / b.data**2)",
            "(Node(a.data), Node(b.data)), (1 / b.data, -a.data / b.data**2)",
        ),
        (
            "Nothing finds its way back",
            "(a, b), (1 / b.data, -a.data / b.data**2)",
            "(a, b), (a.grad / b.data, -a.grad * a.data / b.data**2)",
        ),
        (
            "divides by a somewhere",
            """def divide(a, b):
    value = a.data / b.data
    return Node(value, (a, b), (value / a.data, -value / b.data))
""",
        ),
        (
            "It changes a.",
            """def divide(a, b):
    a.data = a.data / b.data
    return a
""",
        ),
        (
            "grad of the result is set",
            """def divide(a, b):
    result = Node(a.data / b.data, (a, b), (1 / b.data, -a.data / b.data**2))
    result.grad = 1.0
    return result
""",
        ),
        (
            "no a in it",
            "-a.data / b.data**2",
            "-1 / b.data",
        ),
    ],
    "A.8": [
        (
            "is replaced where it should grow",
            "parent.grad += node.grad * slope",
            "parent.grad = node.grad * slope",
        ),
        (
            "before its own grad is complete",
            """def backward(result):
    result.grad = 1.0
    visited, stack = {result}, [result]
    while stack:
        node = stack.pop()
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += slope * node.grad
            if parent not in visited:
                visited.add(parent)
                stack.append(parent)
""",
        ),
        (
            "before its own grad is complete",
            """def backward(result):
    result.grad = 1.0
    visited, queue = [result], [result]
    for node in queue:
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += slope * node.grad
            if parent not in visited:
                visited.append(parent)
                queue.append(parent)
""",
        ),
        ("Every grad is still 0", "result.grad, ready = 1.0, [result]", "ready = [result]"),
        (
            "Only the parents of the result",
            """def backward(result):
    order, done, stack = [], set(), [(result, False)]
    while stack:
        node, left = stack.pop()
        if left:
            order.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack.extend((parent, False) for parent in node.parents)
    result.grad = 1.0
    for node in order:
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += node.grad * slope
""",
        ),
        ("slopes are not used", "node.grad * slope", "node.grad"),
        ("gets the slope alone", "node.grad * slope", "slope"),
        (
            "both slopes",
            "zip(node.parents, node.slopes)",
            "dict(zip(node.parents, node.slopes)).items()",
        ),
        (
            "served once",
            """def backward(result):
    order, done, stack = [], set(), [(result, False)]
    while stack:
        node, left = stack.pop()
        if left:
            order.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack.extend((parent, False) for parent in node.parents)
    result.grad = 1.0
    for node in reversed(order):
        for parent, slope in {p: s for p, s in zip(node.parents, node.slopes)}.items():
            parent.grad += node.grad * slope
""",
        ),
        (
            "Only the parents of the result",
            """def backward(result):
    result.grad = 1.0
    for parent, slope in zip(result.parents, result.slopes):
        parent.grad += slope * result.grad
""",
        ),
        (
            "Only the result gets",
            """def backward(result):
    result.grad = 1.0
""",
        ),
        (
            "Every grad is still 0",
            """def backward(result):
    pass
""",
        ),
        (
            "not come to an end",
            """def backward(result):
    result.grad = 1.0
    stack = [(result, 1.0)]
    while stack:
        node, arrived = stack.pop()
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += arrived * slope
            stack.append((parent, arrived * slope))
""",
        ),
        (
            "deeper than Python",
            """def backward(result):
    order, seen = [], set()

    def visit(node):
        if node not in seen:
            seen.add(node)
            for parent in node.parents:
                visit(parent)
            order.append(node)

    visit(result)
    result.grad = 1.0
    for node in reversed(order):
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += node.grad * slope
""",
        ),
        (
            "has the attributes data",
            "parent.grad += node.grad * slope",
            "parent.gradient += node.grad * slope",
        ),
        (
            "grad of the result should be 1",
            "result.grad, ready = 1.0, [result]",
            "result.grad, ready = 2.0, [result]",
        ),
        (
            "hands on all of its grad again",
            """def backward(result):
    result.grad, stack, budget = 1.0, [result], 5000
    while stack and budget:
        budget -= 1
        node = stack.pop()
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += node.grad * slope
            stack.append(parent)
""",
        ),
        (
            "first use of a node",
            "            if parent not in uses:\n"
            "                uses[parent] = 0\n"
            "                found.append(parent)\n"
            "            uses[parent] += 1",
            "            if parent not in uses:\n"
            "                uses[parent] = 0\n"
            "                found.append(parent)\n"
            "            else:\n"
            "                uses[parent] += 1",
        ),
        (
            "once for each path",
            "            if parent not in uses:\n"
            "                uses[parent] = 0\n"
            "                found.append(parent)\n"
            "            uses[parent] += 1",
            "            uses[parent] = uses.get(parent, 0) + 1\n            found.append(parent)",
        ),
        (
            "follows one parent",
            """def backward(result):
    node = result
    node.grad = 1.0
    while node.parents:
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += node.grad * slope
        node = node.parents[0]
""",
        ),
        (
            "follows one parent",
            """def backward(result):
    node = result
    node.grad = 1.0
    while node.parents:
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += node.grad * slope
        node = node.parents[-1]
""",
        ),
        (
            "grad and slope are added",
            "node.grad * slope",
            "node.grad + slope",
        ),
        (
            "Only the result gets",
            "parent.grad += node.grad * slope",
            "parent.grad *= node.grad * slope",
        ),
    ],
    "A.9": [
        ("not corrected for its beginning", " / (1 - self.beta**self.t)", ""),
        ("The gradient is added in full", "(1 - self.beta) * parameter.grad", "parameter.grad"),
        (
            "steps are those of momentum",
            """class AverageSGD:
    def __init__(self, parameters, lr, beta=0.9):
        self.parameters, self.lr, self.beta = list(parameters), lr, beta
        self.velocity = [torch.zeros_like(p) for p in self.parameters]

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None

    def step(self):
        with torch.no_grad():
            for p, v in zip(self.parameters, self.velocity):
                if p.grad is None:
                    continue
                v.mul_(self.beta).add_(p.grad)
                p.sub_(self.lr * v)
""",
        ),
        (
            "changed places. beta is the weight",
            "                    average *= self.beta\n"
            "                    average += (1 - self.beta) * parameter.grad",
            "                    average *= 1 - self.beta\n"
            "                    average += self.beta * parameter.grad",
        ),
        ("does not fade", "                    average *= self.beta\n", ""),
        ("goes uphill", "parameter -= self.lr", "parameter += self.lr"),
        (
            "not kept from step to step",
            "                    average *= self.beta\n"
            "                    average += (1 - self.beta) * parameter.grad",
            "                    average = self.beta * average + (1 - self.beta) * parameter.grad",
        ),
        (
            "divided average is stored",
            "                    parameter -= self.lr * average / (1 - self.beta**self.t)",
            "                    average /= 1 - self.beta**self.t\n"
            "                    parameter -= self.lr * average",
        ),
        ("t is one too large", "lr, beta, 0\n", "lr, beta, 1\n"),
        ("steps are those of momentum", "self.beta**self.t", "self.beta"),
        ("Old gradients are still there", "            parameter.grad = None", "            pass"),
        ("one too large", "self.t += 1\n", "self.t += 1 + (self.t == 0)\n"),
        ("do not change", "parameter -= self.lr * average", "parameter = parameter - self.lr * average"),
        ("beta is 0.9", "beta=0.9", "beta=0.99"),
        ("stays as it is", "                if parameter.grad is not None:\n", "                if True:\n"),
        ("may not be changed in place", "with torch.no_grad():", "if True:"),
        ("divides by 0", "        self.t += 1\n", ""),
        ("divides by 0", "lr, beta, 0\n", "lr, beta, -1\n"),
        ("t should be 1 in the first step", "self.t += 1\n", "self.t += 1 / (1 - self.beta**self.t)\n"),
        (
            "not there when a step asks",
            "        self.averages = [torch.zeros_like(parameter) for parameter in self.parameters]\n",
            "",
        ),
        ("do not change", "list(parameters), lr, beta, 0", "parameters, lr, beta, 0"),
        (
            "first step should be that of plain SGD",
            "(1 - self.beta) * parameter.grad",
            "2 * (1 - self.beta) * parameter.grad",
        ),
        ("a later one is not", "self.beta**self.t", "self.beta ** (self.t**2)"),
        (
            "divisor is another one",
            "(1 - self.beta**self.t)",
            "(1 - self.beta * self.t)",
        ),
        (
            "divisor is another one",
            "(1 - self.beta**self.t)",
            "(1 - self.beta) ** self.t",
        ),
        (
            "multiplied by 1 - beta",
            " / (1 - self.beta**self.t)",
            " * (1 - self.beta**self.t)",
        ),
        (
            "once for each parameter",
            "        self.t += 1\n"
            "        with torch.no_grad():\n"
            "            for parameter, average in zip(self.parameters, self.averages):\n",
            "        with torch.no_grad():\n"
            "            for parameter, average in zip(self.parameters, self.averages):\n"
            "                self.t += 1\n",
        ),
        (
            "begins with the first gradient",
            "                    average *= self.beta\n"
            "                    average += (1 - self.beta) * parameter.grad\n",
            "                    old = average if self.t > 1 else parameter.grad\n"
            "                    average.copy_(self.beta * old + (1 - self.beta) * parameter.grad)\n",
        ),
        (
            "beta is 0.9 here",
            "list(parameters), lr, beta, 0",
            "list(parameters), lr, 0.9, 0",
        ),
        (
            "lr is not used",
            "self.lr * average",
            "average",
        ),
        (
            "grad of 0 is not None",
            "            parameter.grad = None",
            "            if parameter.grad is not None:\n                parameter.grad.zero_()",
        ),
        (
            "cannot be filled with zeros",
            "            parameter.grad = None",
            "            parameter.grad.zero_()",
        ),
        (
            "ends the step",
            "                if parameter.grad is not None:\n",
            "                if parameter.grad is None:\n"
            "                    return\n"
            "                if True:\n",
        ),
        (
            "averages of others",
            "zip(self.parameters, self.averages)",
            "zip([p for p in self.parameters if p.grad is not None], self.averages)",
        ),
        (
            "share one average",
            """class AverageSGD:
    def __init__(self, parameters, lr, beta=0.9):
        self.parameters, self.lr, self.beta, self.t, self.average = list(parameters), lr, beta, 0, 0

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self):
        self.t += 1
        for p in self.parameters:
            if p.grad is not None:
                self.average = self.beta * self.average + (1 - self.beta) * p.grad
                p -= self.lr * self.average / (1 - self.beta**self.t)
""",
        ),
    ],
}
