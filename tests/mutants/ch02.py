"""Chapter 2: answers that are right in another way, and answers that are wrong in a typical way."""

VARIANTS = {
    "2.1": """def lookup(token_ids, table):
    B, T = token_ids.shape
    one_hot = torch.zeros(B, T, len(table), dtype=table.dtype, device=table.device)
    for b in range(B):
        for t in range(T):
            one_hot[b, t, token_ids[b, t]] = 1
    return torch.einsum("btv,vd->btd", one_hot, table)
""",
    "2.2": """def lookup_gradient(output_grad, token_ids, vocab_size):
    B, T, D = output_grad.shape
    gradient = output_grad.new_zeros(vocab_size, D)
    for b in range(B):
        for t in range(T):
            gradient[token_ids[b, t]] += output_grad[b, t]
    return gradient
""",
    "2.3": """def nearest(table, token_id, k):
    own = table[token_id]
    cosines = []
    for i, row in enumerate(table):
        if i != token_id:
            cosines.append((float(row @ own / (row.norm() * own.norm())), i))
    best = sorted(cosines, reverse=True)[:k]
    return torch.tensor([i for _, i in best], device=table.device)
""",
    "2.4": """def sinusoids(positions, d_model):
    if d_model % 2 == 1:
        raise ValueError("d_model must be even")
    out = torch.empty(*positions.shape, d_model, dtype=torch.float64, device=positions.device)
    for i in range(d_model // 2):
        out[..., 2 * i] = torch.sin(positions.double() / 10000 ** (2 * i / d_model))
        out[..., 2 * i + 1] = torch.cos(positions.double() / 10000 ** (2 * i / d_model))
    return out
""",
    "2.5": """def step_matrix(k, pair, d_model, theta):
    w = 1 / theta ** (2 * pair / d_model)
    turn = torch.tensor([[0.0, w], [-w, 0.0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(k * turn)
""",
    "2.6": """def rotate_pairs(x, cos_sin):
    pairs = x.unflatten(-1, (-1, 2))
    c, s = cos_sin.unbind(-1)
    matrix = torch.stack([torch.stack([c, -s], dim=-1), torch.stack([s, c], dim=-1)], dim=-2)
    return (matrix @ pairs.unsqueeze(-1)).squeeze(-1).reshape(x.shape)
""",
    "2.7": """def scores_by_distance(q, k, distances, speeds):
    arrows = torch.complex(q[0::2], q[1::2]) * torch.complex(k[0::2], -k[1::2])
    return torch.stack([(arrows * torch.exp(1j * distance * speeds)).real.sum() for distance in distances])
""",
    "2.8": """def to_half_split(weight):
    d = len(weight)
    order = [i for i in range(d) if i % 2 == 0] + [i for i in range(d) if i % 2 == 1]
    return weight[order]


def to_interleaved(weight):
    out = torch.empty_like(weight)
    half = len(weight) // 2
    for i in range(half):
        out[2 * i] = weight[i]
        out[2 * i + 1] = weight[half + i]
    return out
""",
    "2.9": """def embed(token_ids, start, token_table, position_table, sinusoidal):
    scale = token_table.shape[1] ** 0.5 if sinusoidal else 1
    texts = []
    for text in token_ids:
        rows = [scale * token_table[token] + position_table[start + t] for t, token in enumerate(text)]
        texts.append(torch.stack(rows))
    return torch.stack(texts)
""",
    "2.10": """class BothEnds(nn.Module):
    def __init__(self, vocab_size, d_model):
        super().__init__()
        self.token = nn.Embedding(vocab_size, d_model)
        self.output = nn.Linear(d_model, vocab_size, bias=False)
        self.token.weight.data.normal_(0, 0.02)
        self.output.weight = self.token.weight

    def embed(self, token_ids):
        return self.token(token_ids)

    def logits(self, x):
        return self.output(x)
""",
    "2.11": """def sees_order(layer, x, order):
    here, there = layer(x), layer(x[order])
    for new, old in enumerate(order.tolist()):
        if (there[new] - here[old]).abs().max() > 1e-5 + 1e-5 * here[old].abs().max():
            return True
    return False
""",
}
MUTANTS = {
    "2.1": [
        ("come out of a matrix product", "def lookup(token_ids, table):\n    return table[token_ids]"),
        (
            "come out of a matrix product",
            "def lookup(token_ids, table):\n    return F.embedding(token_ids, table)",
        ),
        ("one place for each row", ", num_classes=table.size(0)", ""),
        ("same dtype on both sides", ".to(table.dtype)", ".float()"),
        (
            "where a token stands",
            "def lookup(token_ids, table):\n    B, T = token_ids.shape\n    one_hot = torch.eye(T, "
            "len(table), dtype=table.dtype)\n"
            "    return (one_hot @ table).repeat(B, 1, 1)",
        ),
        ("added up", "@ table", ".sum(dim=1) @ table"),
        (
            "row before its own",
            "F.one_hot(token_ids, num_classes=table.size(0))",
            "F.one_hot(token_ids, len(table)).roll(-1, -1)",
        ),
        ("stops with an error", "one_hot.to(table.dtype)", "one_hot"),
        (
            "product with the table is missing",
            "return one_hot.to(table.dtype) @ table",
            "return one_hot.to(table.dtype)",
        ),
        ("columns of the table", "@ table", "@ table.T"),
        (
            "row behind its own",
            "F.one_hot(token_ids, num_classes=table.size(0))",
            "F.one_hot((token_ids + 1) % len(table), len(table))",
        ),
        (
            "same token should get the same vector",
            "return one_hot.to(table.dtype) @ table",
            "return one_hot.to(table.dtype) @ table * torch.arange(1, 1 + "
            "token_ids.size(1)).unsqueeze(1).to(table.dtype)",
        ),
        ("No gradient comes back to the table", "@ table", "@ table.detach()"),
        (
            "No gradient comes back to the table",
            "def lookup(token_ids, table):\n    rows = table.tolist()\n"
            "    return torch.tensor([[rows[i] for i in text] for text in token_ids.tolist()], "
            "dtype=table.dtype)",
        ),
        (
            "NumPy does not carry them",
            "def lookup(token_ids, table):\n    one_hot = F.one_hot(token_ids, len(table)).numpy()\n"
            "    return torch.from_numpy(one_hot @ table.numpy()).to(table.dtype)",
        ),
    ],
    "2.2": [
        (
            "last share",
            "def lookup_gradient(output_grad, token_ids, vocab_size):\n"
            "    gradient = torch.zeros(vocab_size, output_grad.size(-1), dtype=output_grad.dtype)\n"
            "    for text, grads in zip(token_ids, output_grad):\n"
            "        for i, g in zip(text, grads):\n            gradient[i] = g\n    return gradient",
        ),
        (
            "last share",
            "def lookup_gradient(output_grad, token_ids, vocab_size):\n"
            "    gradient = torch.zeros(vocab_size, output_grad.size(-1), dtype=output_grad.dtype)\n"
            "    gradient[token_ids] += output_grad\n    return gradient",
        ),
        (
            "last share",
            "def lookup_gradient(output_grad, token_ids, vocab_size):\n"
            "    gradient = output_grad.new_zeros(vocab_size, output_grad.size(-1))\n"
            "    for text, arrived in zip(token_ids, output_grad):\n"
            "        gradient[text] += arrived\n    return gradient",
        ),
        ("wrong sign", "return one_hot", "return -one_hot"),
        (
            "mean of its shares",
            "return one_hot.T.to(arrived.dtype) @ arrived",
            "return one_hot.T.to(arrived.dtype) @ arrived / one_hot.sum(0).clamp(min=1).unsqueeze(1)",
        ),
        ("counts how often", "@ arrived", "@ torch.ones_like(arrived)"),
        ("only rows for tokens that occur", ", num_classes=vocab_size", ""),
        (
            "derivatives of all tokens",
            "one_hot.T.to(arrived.dtype) @ arrived",
            "arrived.sum(0).repeat(vocab_size, 1)",
        ),
        (
            "first text of the batch",
            "def lookup_gradient(output_grad, token_ids, vocab_size):\n"
            "    gradient = torch.zeros(vocab_size, output_grad.size(-1), dtype=output_grad.dtype)\n"
            "    return gradient.index_add(0, token_ids[0], output_grad[0])",
        ),
        ("mean over the batch", "@ arrived", "@ arrived / output_grad.size(0)"),
        (
            "Expected the dtype",
            "return one_hot.T.to(arrived.dtype) @ arrived",
            "return one_hot.T.float() @ arrived.float()",
        ),
        ("not looked up should have the gradient 0", "@ arrived  #", "@ arrived + 0.1  #"),
        ("all arrive", "@ arrived  #", "@ arrived.clamp(min=0)  #"),
        (
            "Rows and columns have changed places",
            "one_hot.T.to(arrived.dtype) @ arrived",
            "(one_hot.T.to(arrived.dtype) @ arrived).T",
        ),
        ("flattened in different orders", "token_ids.flatten()", "token_ids.T.flatten()"),
    ],
    "2.3": [
        ("token itself is in the list", "    cosines[token_id] = -math.inf  # below every cosine\n", ""),
        ("token itself is in the list", "-math.inf", "0"),
        (
            "too small by 1",
            "def nearest(table, token_id, k):\n    others = torch.cat([table[:token_id], "
            "table[token_id + 1 :]])\n"
            "    cosines = F.normalize(others, dim=1) @ F.normalize(table[token_id], dim=0)\n    return "
            "cosines.argsort(descending=True)[:k]",
        ),
        ("dot products", "F.normalize(table, dim=1)", "table"),
        ("columns of the table are brought", "F.normalize(table, dim=1)", "F.normalize(table, dim=0)"),
        (
            "tips of the rows",
            "def nearest(table, token_id, k):\n    d = ((table - table[token_id]) ** 2).sum(1)\n    "
            "d[token_id] = 1e9\n    return d.argsort()[:k]",
        ),
        (
            "farthest rows",
            "cosines[token_id] = -math.inf  # below every cosine\n    return cosines.topk(k)",
            "return cosines.topk(k, largest=False)",
        ),
        ("opposite direction", "rows @ rows[token_id]", "(rows @ rows[token_id]).abs()"),
        ("These are the cosines", ".indices", ".values"),
        ("nearest last", ".indices", ".indices.flip(0)"),
        ("their order is not", ".indices", ".indices.sort().values"),
        ("Expected a tensor", ".indices", ".indices.tolist()"),
        ("token itself is in the list", "-math.inf", "-1"),
        ("Softmax is no way", "F.normalize(table, dim=1)", "F.softmax(table, dim=1)"),
        (
            "something else than its length",
            "F.normalize(table, dim=1)",
            "table / table.abs().sum(1, keepdim=True)",
        ),
        (
            "something else than its length",
            "rows @ rows[token_id]",
            "(table @ table[token_id]) / (table**2).sum(1)",
        ),
    ],
    "2.4": [
        (
            "All sines come first",
            "torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)",
            "torch.cat([angles.sin(), angles.cos()], dim=-1)",
        ),
        ("cosine of each pair stands before", "[angles.sin(), angles.cos()]", "[angles.cos(), angles.sin()]"),
        (
            "have different speeds",
            "def sinusoids(positions, d_model):\n    if d_model % 2:\n        raise ValueError\n"
            "    out = torch.zeros(*positions.shape, d_model, dtype=torch.float64)\n    for j in "
            "range(d_model):\n"
            "        f = torch.sin if j % 2 == 0 else torch.cos\n        out[..., j] = "
            "f(positions.double() / 10000 ** (j / d_model))\n    return out",
        ),
        ("slow down too little", "-even / d_model", "-even / 2 / d_model"),
        ("slow down too much", "-even / d_model", "-2 * even / d_model"),
        ("Later pairs turn faster", "-even / d_model", "even / d_model"),
        (
            "lose their digits",
            "positions.unsqueeze(-1) * 10000.0 ** (-even / d_model)",
            "(positions.unsqueeze(-1) / torch.pow(10000, even.float() / d_model)).double()",
        ),
        ("from the exponents on", "even / d_model)", "(even / d_model).float().double())"),
        (
            "lose their digits",
            "return torch.stack([angles.sin(), angles.cos()], dim=-1)",
            "angles = positions.unsqueeze(-1).float() * (10000.0 ** (-even.float() / d_model))\n"
            "    return torch.stack([angles.sin().double(), angles.cos().double()], dim=-1)",
        ),
        (
            "numbers the positions by itself",
            "positions.unsqueeze(-1)",
            "torch.arange(positions.numel()).view(positions.shape).unsqueeze(-1)",
        ),
        ("one too large", "positions.unsqueeze(-1)", "(positions + 1).unsqueeze(-1)"),
        ("base is another one", "10000.0", "1000.0"),
        ("Expected the dtype float64", ".flatten(-2)", ".flatten(-2).float()"),
        (
            "odd d_model should be refused",
            'raise ValueError(f"expected an even d_model, got {d_model}")',
            "d_model -= 1",
        ),
        ("squares should add up to 1", "[angles.sin(), angles.cos()]", "[angles.sin(), angles.sin()]"),
        ("turn by one radian", "-even / d_model", "-(even + 2) / d_model"),
        (
            "odd d_model should be refused with",
            'raise ValueError(f"expected an even d_model, got {d_model}")',
            "pass",
        ),
        (
            "odd d_model should be refused, with",
            "def sinusoids(positions, d_model):\n    assert d_model % 2 == 0\n"
            "    i = torch.arange(d_model // 2, dtype=torch.float64)\n"
            "    a = positions.unsqueeze(-1) / 10000 ** (2 * i / d_model)\n"
            "    return torch.stack([a.sin(), a.cos()], -1).flatten(-2)",
        ),
        (
            "odd d_model should be refused, with",
            "def sinusoids(positions, d_model):\n"
            "    out = torch.zeros(*positions.shape, d_model, dtype=torch.float64)\n"
            "    i = torch.arange(0, d_model, 2, dtype=torch.float64)\n"
            "    angles = positions.unsqueeze(-1) / 10000 ** (i / d_model)\n"
            "    out[..., 0::2] = angles.sin()\n    out[..., 1::2] = angles.cos()\n    return out",
        ),
        ("lose their digits", "positions.unsqueeze(-1)", "positions.float().unsqueeze(-1)"),
        ("rounded to whole numbers", "-even / d_model", "-(even // d_model)"),
    ],
    "2.5": [
        ("k positions back", "[[cos, sin], [-sin, cos]]", "[[cos, -sin], [sin, cos]]"),
        ("takes one step", "angle = k * theta", "angle = theta"),
        ("turns by k radians", "k * theta ** (-2 * pair / d_model)", "k"),
        ("base 10,000", "theta **", "10000.0 **"),
        ("is too large", "-2 * pair", "-pair"),
        ("turn faster than pair 0", "-2 * pair", "2 * pair"),
        ("changed places in the matrix", "[[cos, sin], [-sin, cos]]", "[[-sin, cos], [cos, sin]]"),
        (
            "in degrees",
            "math.cos(angle), math.sin(angle)",
            "math.cos(angle * math.pi / 180), math.sin(angle * math.pi / 180)",
        ),
        ("Expected the dtype float64", ", dtype=torch.float64", ""),
        ("mirror", "[-sin, cos]", "[sin, -cos]"),
        ("another angle", "-2 * pair / d_model", "-2 * pair // d_model"),
        ("not a turn", "[-sin, cos]", "[sin, cos]"),
        ("keeps lengths", "[[cos, sin], [-sin, cos]]", "[[cos, 0], [0, cos]]"),
        ("sign of k is lost", "angle = k *", "angle = abs(k) *"),
        ("changed places in the matrix", "[[cos, sin], [-sin, cos]]", "[[sin, cos], [cos, -sin]]"),
        ("mirror and not a turn", "[[cos, sin], [-sin, cos]]", "[[-cos, sin], [sin, cos]]"),
        (
            "and mirrors the hand",
            "return torch.tensor([[cos, sin], [-sin, cos]]",
            "cos, sin = math.cos(angle + 1), math.sin(angle + 1)\n"
            "    return torch.tensor([[cos, sin], [sin, -cos]]",
        ),
    ],
    "2.6": [
        (
            "first half of the dimensions",
            "def rotate_pairs(x, cos_sin):\n    a, b = x.chunk(2, dim=-1)\n    cos, sin = "
            "cos_sin.unbind(-1)\n"
            "    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)",
        ),
        (
            "first half of the dimensions",
            "def rotate_pairs(x, cos_sin):\n    half = x.size(-1) // 2\n"
            "    cos, sin = cos_sin[..., 0].repeat_interleave(2, -1), cos_sin[..., "
            "1].repeat_interleave(2, -1)\n"
            "    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin",
        ),
        ("is 2 times what it should be", "turned.flatten(-2)", "turned.flatten(-2) * 2"),
        (
            "turns the other way",
            "[a * cos - b * sin, a * sin + b * cos]",
            "[a * cos + b * sin, b * cos - a * sin]",
        ),
        ("Cosine and sine have changed places", "cos, sin = cos_sin[..., 0]", "sin, cos = cos_sin[..., 0]"),
        (
            "after it was turned",
            "    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)",
            "    a = a * cos - b * sin\n    b = a * sin + b * cos\n    turned = torch.stack([a, b], dim=-1)",
        ),
        (
            "put back in another order",
            "def rotate_pairs(x, cos_sin):\n    a, b = x[..., ::2], x[..., 1::2]\n    cos, sin = "
            "cos_sin.unbind(-1)\n"
            "    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)",
        ),
        ("Both terms with a sine are added", "a * cos - b * sin", "a * cos + b * sin"),
        ("number by number", "[a * cos - b * sin, a * sin + b * cos]", "[a * cos, b * sin]"),
        (
            "angles of the first one",
            "cos_sin[..., 0], cos_sin[..., 1]",
            "cos_sin[..., :1, :, 0], cos_sin[..., :1, :, 1]",
        ),
        (
            "angle of the first one",
            "cos_sin[..., 0], cos_sin[..., 1]",
            "cos_sin[..., :1, 0], cos_sin[..., :1, 1]",
        ),
        ("No gradient comes back", "return turned.flatten(-2)", "return turned.flatten(-2).detach()"),
        ("stops with an error", "x[..., 0::2], x[..., 1::2]", "x[:, 0::2], x[:, 1::2]"),
        (
            "after it was turned",
            "def rotate_pairs(x, cos_sin):\n    x = x.clone()\n    cos, sin = cos_sin.unbind(-1)\n"
            "    x[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin\n"
            "    x[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos\n    return x",
        ),
        (
            "changes its arguments",
            "    return turned.flatten(-2)",
            "    with torch.no_grad():\n        x[..., :1] = 0\n    return turned.flatten(-2)",
        ),
        ("keeps the length", "a * sin + b * cos]", "b * cos]"),
        ("number of each pair have changed places", "a, b = x[..., 0::2]", "b, a = x[..., 0::2]"),
        (
            "number of each pair have changed places",
            "[a * cos - b * sin, a * sin + b * cos]",
            "[a * sin + b * cos, a * cos - b * sin]",
        ),
        (
            "twice its angle",
            "    turned =",
            "    cos, sin = cos * cos - sin * sin, 2 * cos * sin\n    turned =",
        ),
        (
            "a cosine and a sine already",
            "cos_sin[..., 0], cos_sin[..., 1]",
            "cos_sin[..., 0].cos(), cos_sin[..., 1].sin()",
        ),
        ("part of the gradient", "a, b = x[..., 0::2]", "a, b = x.data[..., 0::2]"),
        (
            "NumPy does not carry them",
            "x[..., 0::2], x[..., 1::2]",
            "map(torch.tensor, (x.numpy()[..., 0::2], x.numpy()[..., 1::2]))",
        ),
    ],
    "2.7": [
        ("wrong sign", "distances.unsqueeze(-1) * speeds", "-distances.unsqueeze(-1) * speeds"),
        ("sign of the distance is lost", "distances.unsqueeze(-1)", "distances.abs().unsqueeze(-1)"),
        (
            "distance makes no difference",
            "    return turned.flatten(-2) @ k",
            "    c, d = k[0::2], k[1::2]\n"
            "    other = torch.stack([c * angles.cos() - d * angles.sin(), c * angles.sin() + d * "
            "angles.cos()], dim=-1)\n"
            "    return (turned * other).flatten(-2).sum(-1)",
        ),
        ("speed of the first", "* speeds", "* speeds[0].expand(len(speeds))"),
        (
            "two halves of the vectors",
            "def scores_by_distance(q, k, distances, speeds):\n    angles = distances.unsqueeze(-1) * "
            "speeds\n    a, b = q.chunk(2)\n"
            "    turned = [a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()]\n  "
            "  return torch.cat(turned, dim=-1) @ k",
        ),
        ("another order than those of k", "turned.flatten(-2)", "turned.transpose(-2, -1).flatten(-2)"),
        ("Both terms with a sine are added", "a * angles.cos() - b", "a * angles.cos() + b"),
        (
            "part with the sine is missing",
            "def scores_by_distance(q, k, distances, speeds):\n    dots = q[0::2] * k[0::2] + q[1::2] "
            "* k[1::2]\n"
            "    return torch.stack([(dots * torch.cos(n * speeds)).sum() for n in distances])",
        ),
        ("square root of their number", "@ k", "@ k / len(k) ** 0.5"),
        ("one by one", "turned.flatten(-2) @ k", "(turned * k.view(-1, 2)).sum(-1)"),
        (
            "twice as far as at 1",
            "distances.unsqueeze(-1)",
            "distances.sign().abs().clamp(min=1).unsqueeze(-1)",
        ),
        ("score should be the dot product", "distances.unsqueeze(-1)", "(distances + 1).unsqueeze(-1)"),
        ("above the product of the two lengths", "a * angles.cos()", "a * angles.exp()"),
        ("Expected the dtype", "@ k", ".double() @ k.double()"),
        (
            "speeds of its own",
            "    angles =",
            "    speeds = 10000.0 ** (-torch.arange(0, len(q), 2) / len(q))\n    angles =",
        ),
        (
            "numbers the distances by itself",
            "distances.unsqueeze(-1)",
            "torch.arange(len(distances)).unsqueeze(-1)",
        ),
        ("divided by the speeds", "distances.unsqueeze(-1) *", "distances.unsqueeze(-1) /"),
        (
            "twice what they should be",
            "def scores_by_distance(q, k, distances, speeds):\n    def turned(v, angles):\n"
            "        a, b, c, s = v[0::2], v[1::2], angles.cos(), angles.sin()\n"
            "        return torch.stack([a * c - b * s, a * s + b * c], dim=-1).flatten(-2)\n\n"
            "    angles = distances.unsqueeze(-1) * speeds\n"
            "    return (turned(q, angles) * turned(k, -angles)).sum(-1)",
        ),
        (
            "distance makes no difference",
            "def scores_by_distance(q, k, distances, speeds):\n    return (q @ k).expand(len(distances))",
        ),
    ],
    "2.8": [
        (
            "directions have changed places",
            "def to_half_split(weight):\n    return weight.view(2, -1, weight.size(1)).transpose(0, "
            "1).reshape(weight.shape)\n\n"
            "def to_interleaved(weight):\n    return weight.view(-1, 2, weight.size(1)).transpose(0, "
            "1).reshape(weight.shape)",
        ),
        (
            "Both functions put even rows first",
            "def to_half_split(weight):\n    return torch.cat([weight[0::2], "
            "weight[1::2]])\n\nto_interleaved = to_half_split",
        ),
        (
            "take rows from the two halves in turn",
            "def to_half_split(weight):\n    half = len(weight) // 2\n"
            "    return torch.stack([weight[(i % 2) * half + i // 2] for i in range(len(weight))])\n\n"
            "def to_interleaved(weight):\n    return to_half_split(weight)",
        ),
        (
            "order of columns",
            "def to_half_split(weight):\n    return torch.cat([weight[:, 0::2], weight[:, 1::2]], dim=1)\n\n"
            "def to_interleaved(weight):\n    order = list(range(0, weight.size(1), 2)) + list(range(1, "
            "weight.size(1), 2))\n"
            "    return weight[:, torch.tensor(order).argsort()]",
        ),
        ("Odd rows come first", "[weight[0::2], weight[1::2]]", "[weight[1::2], weight[0::2]]"),
        (
            "to_interleaved changes nothing",
            "torch.stack([first, second], dim=1).flatten(0, 1)",
            "torch.cat([first, second])",
        ),
        ("second half runs backwards", "weight[1::2]", "weight[1::2].flip(0)"),
        ("lost or stands twice", "torch.stack([first, second], dim=1)", "torch.stack([first, first], dim=1)"),
        ("Expected the shape", ".flatten(0, 1)", ".flatten(1)"),
        (
            "changes its arguments",
            "def to_half_split(weight):\n    weight[:] = torch.cat([weight[0::2], weight[1::2]])\n"
            "    return weight\n\ndef to_interleaved(weight):\n"
            "    a, b = weight.clone().chunk(2)\n    weight[0::2], weight[1::2] = a, b\n"
            "    return weight",
        ),
        (
            "changes its arguments",
            "def to_half_split(weight):\n    weight[:] = torch.cat([weight[0::2], weight[1::2]])\n"
            "    return weight\n\ndef to_interleaved(weight):\n    a, b = weight.chunk(2)\n"
            "    return torch.stack([a, b], dim=1).flatten(0, 1)",
        ),
        (
            "Expected the dtype",
            "[weight[0::2], weight[1::2]]",
            "[weight.float()[0::2], weight.float()[1::2]]",
        ),
    ],
    "2.9": [
        ("begin at 0 again", "[start : start + T]", "[:T]"),
        ("gets the position start", "position_table[start : start + T]", "position_table[start]"),
        ("one too large", "[start : start + T]", "[start + 1 : start + 1 + T]"),
        (
            "count the texts of the batch",
            "position_table[start : start + T]",
            "position_table[start : start + len(token_ids)].unsqueeze(1)",
        ),
        ("chosen by token id", "position_table[start : start + T]", "position_table[token_ids]"),
        ("never scaled", "x * math.sqrt(D)", "x"),
        ("always scaled", "    if sinusoidal:\n        x = x * math.sqrt(D)", "    x = x * math.sqrt(D)"),
        (
            "positions and all",
            "def embed(token_ids, start, token_table, position_table, sinusoidal):\n    T, D = "
            "token_ids.size(1), token_table.size(1)\n"
            "    x = token_table[token_ids] + position_table[torch.arange(start, start + T)]\n    "
            "return x * D**0.5 if sinusoidal else x",
        ),
        ("by another number", "math.sqrt(D)", "math.sqrt(len(token_table))"),
        ("d_model itself", "math.sqrt(D)", "D"),
        ("divided by the square root", "x * math.sqrt(D)", "x / math.sqrt(D)"),
        ("wrong way round", "if sinusoidal", "if not sinusoidal"),
        ("token rows alone", "x + position_table[start : start + T]", "x"),
        ("are multiplied. They should be added", "x + position_table", "x * position_table"),
        (
            "wrong in others",
            "return x + position_table[start : start + T]",
            "x = x.clone()\n    x[0] += position_table[start : start + T]\n    return x",
        ),
        (
            "Expected the shape",
            "return x + position_table[start : start + T]",
            "return torch.cat([x, position_table[start : start + T].expand_as(x)], dim=-1)",
        ),
        ("by another number", "math.sqrt(D)", "2"),
        ("by another number", "math.sqrt(D)", "(D / 2)"),
        ("by another number", "math.sqrt(D)", "int(math.sqrt(D))"),
        (
            "rows of the position table are scaled",
            "        x = x * math.sqrt(D)",
            "        position_table = position_table * math.sqrt(D)",
        ),
        (
            "rows of the position table are scaled",
            "        x = x * math.sqrt(D)",
            "        position_table = position_table / math.sqrt(D)",
        ),
        ("as many positions as texts", "T, D = token_ids.size(1)", "T, D = len(token_ids)"),
        ("chosen by token id", "position_table[start : start + T]", "position_table[token_ids + start]"),
        ("ends at T", "[start : start + T]", "[start:T]"),
    ],
    "2.10": [
        (
            "two tables",
            "class BothEnds(nn.Module):\n    def __init__(self, vocab_size, d_model):\n        "
            "super().__init__()\n"
            "        self.token = nn.Parameter(torch.randn(vocab_size, d_model) * 0.02)\n"
            "        self.output = nn.Parameter(self.token.detach().clone())\n\n"
            "    def embed(self, token_ids):\n        return self.token[token_ids]\n\n    def "
            "logits(self, x):\n        return x @ self.output.T",
        ),
        (
            "constant is added",
            "class BothEnds(nn.Module):\n    def __init__(self, vocab_size, d_model):\n        "
            "super().__init__()\n"
            "        self.token = nn.Embedding(vocab_size, d_model)\n        "
            "nn.init.normal_(self.token.weight, std=0.02)\n"
            "        self.output = nn.Linear(d_model, vocab_size)\n        self.output.weight = "
            "self.token.weight\n\n"
            "    def embed(self, token_ids):\n        return self.token(token_ids)\n\n    def "
            "logits(self, x):\n        return self.output(x)",
        ),
        ("No gradient reaches", "self.weight.T", "self.weight.data.T"),
        (
            "from the rows that are looked up",
            "F.embedding(token_ids, self.weight)",
            "torch.tensor(self.weight[token_ids].tolist())",
        ),
        ("numbers that are too large", "std=0.02", "std=1.0"),
        (
            "when the module was made",
            "class BothEnds(nn.Module):\n    def __init__(self, vocab_size, d_model):\n        "
            "super().__init__()\n"
            "        self.weight = nn.Parameter(torch.normal(0.0, 0.02, (vocab_size, d_model)))\n"
            "        self.output = self.weight.T\n\n"
            "    def embed(self, token_ids):\n        return self.weight[token_ids]\n\n"
            "    def logits(self, x):\n        return x @ self.output",
        ),
        ("one number everywhere", "nn.init.normal_(self.weight, std=0.02)", "nn.init.zeros_(self.weight)"),
        (
            "plain tensor",
            "nn.Parameter(torch.empty(vocab_size, d_model))",
            "torch.empty(vocab_size, d_model)",
        ),
        ("come out as probabilities", "x @ self.weight.T", "F.softmax(x @ self.weight.T, dim=-1)"),
        ("divided by the square root", "self.weight.T", "self.weight.T / x.size(-1) ** 0.5"),
        ("stops with an error", "self.weight.T", "self.weight"),
        (
            "and no more",
            "        nn.init.normal_(self.weight, std=0.02)",
            "        nn.init.normal_(self.weight, std=0.02)\n        self.scale = "
            "nn.Parameter(torch.ones(()))",
        ),
        ("mean that is not 0", "std=0.02", "mean=1.0, std=0.02"),
        (
            "never set",
            "nn.init.normal_(self.weight, std=0.02)",
            "self.weight.data = torch.full((vocab_size, d_model), math.nan)",
        ),
        (
            "mean that is not 0",
            "nn.init.normal_(self.weight, std=0.02)",
            "self.weight.data = torch.randn(vocab_size, d_model).abs() * 0.033",
        ),
        (
            "in several rows",
            "nn.init.normal_(self.weight, std=0.02)",
            "self.weight.data = torch.randn(1, d_model).repeat(vocab_size, 1) * 0.02",
        ),
        (
            "another distribution",
            "nn.init.normal_(self.weight, std=0.02)",
            "h = 0.02 * math.sqrt(3)\n        nn.init.uniform_(self.weight, -h, h)",
        ),
        ("too small", "std=0.02", "std=0.01"),
        (
            "too small",
            "nn.init.normal_(self.weight, std=0.02)",
            "nn.init.trunc_normal_(self.weight, std=0.02, a=-0.02, b=0.02)",
        ),
        ("Expected the dtype float64", "x @ self.weight.T", "x.float() @ self.weight.float().T"),
        (
            "stops in float64",
            "class BothEnds(nn.Module):\n    def __init__(self, vocab_size, d_model):\n"
            "        super().__init__()\n"
            "        self.weight = nn.Parameter(torch.randn(vocab_size, d_model) * 0.02)\n"
            "        self.eye = torch.eye(vocab_size)\n\n    def embed(self, token_ids):\n"
            "        return self.eye[token_ids] @ self.weight\n\n    def logits(self, x):\n"
            "        return x @ self.weight.T",
        ),
        (
            "set aside as padding",
            "F.embedding(token_ids, self.weight)",
            "F.embedding(token_ids, self.weight, padding_idx=0)",
        ),
        (
            "in several rows",
            "nn.init.normal_(self.weight, std=0.02)",
            "self.weight.data = 0.02 * torch.ones(vocab_size, d_model) * (-1) ** torch.arange(d_model)",
        ),
    ],
    "2.11": [
        ("compared row by row", "layer(x)[order]", "layer(x)"),
        (
            "equality in every bit",
            "def sees_order(layer, x, order):\n    return not bool((layer(x[order]) == "
            "layer(x)[order]).all())",
        ),
        ("wrong way round", "return not torch", "return torch"),
        ("move back in place of forward", "layer(x)[order]", "layer(x)[torch.argsort(order)]"),
        (
            "compares the inputs",
            "def sees_order(layer, x, order):\n    return not torch.allclose(x[order], x)",
        ),
        (
            "or the same sum",
            "def sees_order(layer, x, order):\n    a, b = layer(x[order]), layer(x)\n    return not "
            "torch.allclose(a.sum(0), b.sum(0), atol=1e-5)",
        ),
        ("It says False for every layer", "layer(x[order])", "layer(x)[order]"),
        (
            "Expected a bool",
            "return not torch.allclose(moved_before, moved_after, atol=1e-5)",
            "return ((moved_before - moved_after).abs() > 1e-5).any()",
        ),
        (
            "come out in some order",
            "def sees_order(layer, x, order):\n    first, second = layer(x), layer(x[order])\n"
            "    return not torch.allclose(first.sort(dim=0).values, second.sort(dim=0).values, atol=1e-5)",
        ),
        (
            "equality in every bit",
            "def sees_order(layer, x, order):\n    return layer(x[order]).tolist() != "
            "[layer(x)[i].tolist() for i in order]",
        ),
        (
            "order of its own",
            "def sees_order(layer, x, order):\n"
            "    return not torch.allclose(layer(x.flip(0)), layer(x).flip(0), atol=1e-5)",
        ),
        (
            "order of its own",
            "    moved_before",
            "    order = torch.arange(len(x))\n    order[0], order[1] = 1, 0\n    moved_before",
        ),
        (
            "order of its own",
            "def sees_order(layer, x, order):\n"
            "    return not torch.allclose(layer(x.roll(1, 0)), layer(x).roll(1, 0), atol=1e-5)",
        ),
        ("one row or one column only", "(moved_before, moved_after,", "(moved_before[0], moved_after[0],"),
        ("one row or one column only", "(moved_before, moved_after,", "(moved_before[-1], moved_after[-1],"),
        (
            "one row or one column only",
            "(moved_before, moved_after,",
            "(moved_before[:, 0], moved_after[:, 0],",
        ),
        (
            "one direction",
            "return not torch.allclose(moved_before, moved_after, atol=1e-5)",
            "return (moved_before - moved_after).max().item() > 1e-5",
        ),
        (
            "only when every number differs",
            "return not torch.allclose(moved_before, moved_after, atol=1e-5)",
            "return (~torch.isclose(moved_before, moved_after, atol=1e-5)).all().item()",
        ),
        ("too wide", "atol=1e-5", "atol=1e-1"),
        (
            "too wide",
            "return not torch.allclose(moved_before, moved_after, atol=1e-5)",
            "return not torch.equal(moved_before.round(decimals=1), moved_after.round(decimals=1))",
        ),
        ("too narrow", ", atol=1e-5", ""),
        (
            "lengths or sums of the rows",
            "return not torch.allclose(moved_before, moved_after, atol=1e-5)",
            "return bool((moved_before.norm(dim=1) - moved_after.norm(dim=1)).abs().max() > 1e-5)",
        ),
        (
            "True for every layer",
            "return not torch.allclose(moved_before, moved_after, atol=1e-5)",
            "return True",
        ),
    ],
}
