"""Chapter 4: answers that are right in another way, and answers that are wrong in a typical way."""

LAYER_NORM = """class LayerNorm(nn.Module):
    def __init__(self, d_model, eps=1e-5, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.eps = eps

    def forward(self, x):
"""
RMS_NORM = """class RMSNorm(nn.Module):
    def __init__(self, d_model, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x):
"""
TIED = """class TiedModel(nn.Module):
    def __init__(self, vocab_size, d_model):
        super().__init__()
        self.token = nn.Embedding(vocab_size, d_model)
        self.norm = nn.LayerNorm(d_model)
"""
NO_LAYERS = """
    def forward(self, token_ids):
"""
BACKWARD = """def layer_norm_backward(x, weight, grad_output, eps):
    B, T, D = x.shape
    grad_x, grad_weight, grad_bias = torch.zeros_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
    for b in range(B):
        for t in range(T):
            deviations = x[b, t] - x[b, t].sum() / D
            s = ((deviations @ deviations) / D + eps) ** 0.5
            n = deviations / s
            slopes = (torch.eye(D, device=x.device, dtype=x.dtype) - 1 / D - torch.outer(n, n) / D) / s
            grad_x[b, t] = slopes @ (grad_output[b, t] * weight)
            grad_weight += grad_output[b, t] * n
            grad_bias += grad_output[b, t]
    return grad_x, grad_weight, grad_bias
"""

VARIANTS = {
    "4.1": LAYER_NORM
    + """
        squares, mean = (x * x).mean(-1, keepdim=True), x.mean(-1, keepdim=True)
        std, _ = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        x = (x - mean) * torch.rsqrt(std + self.eps)
        x = torch.einsum("...d,d->...d", x, self.weight)
        if self.bias is not None:
            x = x + self.bias
        return x
""",
    "4.2": BACKWARD,
    "4.3": RMS_NORM
    + """
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return self.weight * x * torch.rsqrt(length**2 / x.shape[-1] + self.eps)
""",
    "4.4": """def gelu(x):
    twice = math.sqrt(8 / math.pi) * x * (1 + 0.044715 * x * x)
    return x * torch.sigmoid(twice)
""",
    "4.5": """class SwiGLU(nn.Module):
    def __init__(self, d_model, d_ff, bias=False):
        super().__init__()
        sizes = dict(down_proj=(d_ff, d_model), up_proj=(d_model, d_ff), gate_proj=(d_model, d_ff))
        for name, size in sizes.items():
            setattr(self, name, nn.Linear(*size, bias=bias))

    def forward(self, x):
        gate = self.gate_proj(x)
        return self.down_proj(self.up_proj(x) * gate / (1 + torch.exp(-gate)))
""",
    "4.6": """def block(x, norm1, attention, norm2, feed_forward):
    stream = x
    for norm, layer in ((norm1, attention), (norm2, feed_forward)):
        stream = torch.add(layer(norm(stream)), stream)
    return stream
""",
    "4.7": """def gpt_parameters(
    vocab_size, context_length, d_model, n_layers, n_heads, n_kv_heads, d_ff, bias, tie_weights
):
    def linear(wide, out):
        return out * (wide + (1 if bias else 0))

    head_dim, norms = d_model // n_heads, (2 * n_layers + 1) * (2 if bias else 1)
    block = linear(d_model, d_model) * 2 + linear(d_model, d_ff) + linear(d_ff, d_model)
    for _ in range(2 * n_kv_heads):
        block += linear(d_model, head_dim)
    return d_model * ((1 if tie_weights else 2) * vocab_size + context_length + norms) + n_layers * block
""",
    "4.8": """def first_loss(vocab_size, d_model, weight_std):
    return -math.log(1 / vocab_size) + sum(weight_std**2 / 2 for _ in range(d_model))

def weight_std(above, d_model):
    return (above / d_model * 2) ** 0.5
""",
    "4.9": """def initial_std(name, d_model, n_layers):
    last = name.split(".")[-2] in {"out_proj", "down_proj"}
    return (0.4 / d_model / (2 * n_layers if last else 1)) ** 0.5
""",
    "4.10": TIED
    + "        pass\n"
    + NO_LAYERS
    + """        x = self.norm(self.token(token_ids))
        return torch.einsum("btd,vd->btv", x, self.token.weight)
""",
}
MUTANTS = {
    "4.1": [
        (
            "has lost its digits",
            LAYER_NORM + "        mean = x.mean(dim=-1, keepdim=True)\n"
            "        variance = ((x**2).mean(dim=-1, keepdim=True) - mean**2).clamp(min=0)\n"
            "        result = (x - mean) / torch.sqrt(variance + self.eps) * self.weight\n"
            "        return result if self.bias is None else result + self.bias\n",
        ),
        (
            "divided by D - 1",
            LAYER_NORM
            + "        out = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + self.eps).sqrt()\n"
            "        out = out * self.weight\n"
            "        return out + self.bias if self.bias is not None else out",
        ),
        ("divided by D - 1", "(variance + self.eps).sqrt()", "(x.std(dim=-1, keepdim=True) + self.eps)"),
        ("after the root", "(variance + self.eps).sqrt()", "(variance.sqrt() + self.eps)"),
        ("eps is not used", "(variance + self.eps)", "variance"),
        ("eps is not used", "self.eps).sqrt()", "1e-5).sqrt()"),
        ("by its root", "(variance + self.eps).sqrt()", "(variance + self.eps)"),
        ("this is RMS norm", "centred = x - x.mean(dim=-1, keepdim=True)", "centred = x"),
        ("squares are those of x itself", "centred.square()", "(x * x)"),
        ("x itself is divided", "scaled = centred", "scaled = x"),
        (
            "all numbers of the tensor",
            LAYER_NORM + "        m, v = x.mean(), ((x - x.mean()) ** 2).mean()\n"
            "        out = (x - m) / torch.sqrt(v + self.eps) * self.weight\n"
            "        return out if self.bias is None else out + self.bias",
        ),
        (
            "across the tokens",
            LAYER_NORM + "        m, v = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)\n"
            "        out = (x - m) / torch.sqrt(v + self.eps) * self.weight\n"
            "        return out if self.bias is None else out + self.bias",
        ),
        (
            "bias is added before the weight",
            LAYER_NORM + "        n = x - x.mean(-1, keepdim=True)\n"
            "        n = n / (x.var(-1, False, keepdim=True) + self.eps) ** 0.5\n"
            "        return (n if self.bias is None else n + self.bias) * self.weight",
        ),
        ("weight is not used", ".sqrt() * self.weight", ".sqrt()"),
        ("bias is not used", "scaled if self.bias is None else scaled + self.bias", "scaled"),
        ("stops with an error", "scaled if self.bias is None else scaled + self.bias", "scaled + self.bias"),
        (
            "should have the mean 0",
            "x.mean(dim=-1, keepdim=True)  #",
            "x.median(dim=-1, keepdim=True).values / 2  #",
        ),
        ("should have the variance 1", "variance = centred.square()", "variance = centred.abs()"),
        ("reaches the weight", "* self.weight  #", "* self.weight.detach()  #"),
        (
            "lost the last dimension",
            "centred.square().mean(dim=-1, keepdim=True)",
            "centred.square().mean(-1)",
        ),
        (
            "lost the last dimension",
            LAYER_NORM + "        m, v = x.mean(-1), x.var(-1, unbiased=False)\n"
            "        out = (x - m) / torch.sqrt(v + self.eps) * self.weight\n"
            "        return out if self.bias is None else out + self.bias",
        ),
        ("something on the way is cut off", "(variance + self.eps)", "(variance.detach() + self.eps)"),
        (
            "changes its arguments",
            "centred = x - x.mean(dim=-1, keepdim=True)",
            "x -= x.mean(dim=-1, keepdim=True)\n        centred = x",
        ),
        ("Expected the dtype float64", "return scaled", "scaled = scaled.float()\n        return scaled"),
        ("returns None", "return scaled if", "scaled if"),
        ("count from the end", "x.mean(dim=-1, keepdim=True)  #", "x.mean(dim=1, keepdim=True)  #"),
        (
            "Only the mean is divided",
            LAYER_NORM + "        mean, v = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)\n"
            "        out = x - mean / (v + self.eps).sqrt() * self.weight\n"
            "        return out if self.bias is None else out + self.bias",
        ),
        ("Expected the dtype float16", "centred = x - x", "x = x.float()\n        centred = x - x"),
        ("divides by the weight too", ".sqrt() * self.weight", ".sqrt() / self.weight"),
        (
            "without their signs",
            "variance = centred.square().mean(dim=-1, keepdim=True)  # (..., 1)\n"
            "        scaled = centred / (variance + self.eps).sqrt()",
            "scaled = centred / (abs(centred).mean(-1, True) + self.eps)",
        ),
        (
            "ask whether self.bias is None",
            "return scaled if self.bias is None else scaled + self.bias",
            "if self.bias:\n            scaled = scaled + self.bias\n        return scaled",
        ),
        (
            "something on the way is cut off",
            "centred = x - x",
            "x = torch.tensor(x.detach().numpy())\n        centred = x - x",
        ),
    ],
    "4.2": [
        ("less its mean; the weight", "(grad_output * n).sum", "(grad_output * centred).sum"),
        ("lacks the way through the mean", "g - mean_g - n", "g - n"),
        ("lacks the way through the divisor", "(g - mean_g - n * mean_gn)", "(g - mean_g)"),
        ("did not depend on x", "(g - mean_g - n * mean_gn)", "g"),
        ("is not divided by s", "n * mean_gn) / s", "n * mean_gn)"),
        ("multiplied by s; divide", "n * mean_gn) / s", "n * mean_gn) * s"),
        ("s squared", "n * mean_gn) / s", "n * mean_gn) / (s * s)"),
        (
            "sums over the D numbers",
            "mean_g = g.mean(dim=-1, keepdim=True)  # (B, T, 1)\n    mean_gn = (g * n).mean",
            "mean_g = g.sum(dim=-1, keepdim=True)\n    mean_gn = (g * n).sum",
        ),
        ("both corrections are subtracted", "g - mean_g - n", "g - mean_g + n"),
        ("mean of g alone", "(g * n).mean", "g.mean"),
        ("lacks the factor n", "- n * mean_gn", "- mean_gn"),
        (
            "over the whole tensor",
            "g.mean(dim=-1, keepdim=True)  # (B, T, 1)\n    mean_gn = (g * n).mean(dim=-1, keepdim=True)",
            "g.mean()\n    mean_gn = (g * n).mean()",
        ),
        ("without the weight", "g = grad_output * weight", "g = grad_output"),
        (
            "x less its mean in place of n",
            BACKWARD.replace("torch.outer(n, n)", "torch.outer(deviations, deviations)"),
        ),
        ("less its mean; the weight", "(grad_output * n).sum", "(grad_output * x).sum"),
        ("n is a factor in it", "(grad_output * n).sum", "grad_output.sum"),
        (
            "they are sums",
            "grad_output.sum(dim=(0, 1))  # (B, T, D) -> (D,)\n    grad_weight = (grad_output * n).sum",
            "grad_output.mean(dim=(0, 1))\n    grad_weight = (grad_output * n).mean",
        ),
        (
            "not summed over the tokens",
            "grad_output.sum(dim=(0, 1))  # (B, T, D) -> (D,)\n"
            "    grad_weight = (grad_output * n).sum(dim=(0, 1))",
            "grad_output\n    grad_weight = grad_output * n",
        ),
        (
            "summed over one dimension",
            "grad_output.sum(dim=(0, 1))  # (B, T, D) -> (D,)\n"
            "    grad_weight = (grad_output * n).sum(dim=(0, 1))",
            "grad_output.sum(0)\n    grad_weight = (grad_output * n).sum(0)",
        ),
        (
            "in another order",
            "return grad_x, grad_weight, grad_bias",
            "return grad_x, grad_bias, grad_weight",
        ),
        ("divided by D - 1", "centred.square().mean(dim=-1, keepdim=True)", "x.var(dim=-1, keepdim=True)"),
        ("eps is left out", "+ eps)", ")"),
        ("should have the sum 0", "g - mean_g - n", "g - 2 * mean_g - n"),
        ("should be 0 for each vector", "- n * mean_gn", "- n * mean_gn / 2"),
        ("Result 3 of 3", "grad_bias = grad_output.sum", "grad_bias = 2 * grad_output.sum"),
        ("Expected 3 results, got 2", "return grad_x, grad_weight, grad_bias", "return grad_x, grad_weight"),
        ("take grad_output itself", "(grad_output * n).sum", "(grad_output * weight * n).sum"),
        ("take grad_output itself", "grad_bias = grad_output.sum", "grad_bias = (weight * grad_output).sum"),
        ("s is the variance itself", "+ eps).sqrt()", "+ eps)"),
        ("In n only the mean", "n = centred / s", "n = x - x.mean(dim=-1, keepdim=True) / s"),
        (
            "over more or other numbers",
            "x.mean(dim=-1, keepdim=True)  # (B, T, D)\n    s = (centred.square().mean(dim=-1, ",
            "x.mean(dim=1, keepdim=True)\n    s = (centred.square().mean(dim=1, ",
        ),
        (
            "over more or other numbers",
            "x.mean(dim=-1, keepdim=True)  # (B, T, D)\n    s = (centred.square().mean(dim=-1, keepdim=True)",
            "x.mean()\n    s = (centred.square().mean()",
        ),
        (
            "a part of the gradient at x is divided",
            "(g - mean_g - n * mean_gn) / s",
            "g - mean_g - n * mean_gn / s",
        ),
        (
            "a part of the gradient at x is divided",
            "(g - mean_g - n * mean_gn) / s",
            "(g - mean_g) / s - n * mean_gn",
        ),
        ("factor weight is missing", "(g - mean_g", "(grad_output - mean_g"),
        (
            "multiplies the whole gradient at x",
            BACKWARD.replace(
                "slopes @ (grad_output[b, t] * weight)", "(slopes @ grad_output[b, t]) * weight"
            ),
        ),
        (
            "has the product of two means",
            "(g * n).mean(dim=-1, keepdim=True)",
            "g.mean(-1, True) * n.mean(-1, True)",
        ),
        ("eps is added after the root", "keepdim=True) + eps).sqrt()", "keepdim=True)).sqrt() + eps"),
        ("look at n and s first", "s = (centred.square()", "s = (x.square()"),
        ("Expected the dtype float32", "return grad_x, grad_weight", "return grad_x.double(), grad_weight"),
    ],
    "4.3": [
        ("eps is not used", RMS_NORM + "        return x / x.pow(2).mean().sqrt()"),
        (
            "this is layer norm",
            "mean_square = x.square()",
            "x = x - x.mean(-1, keepdim=True)\n        mean_square = x.square()",
        ),
        (
            "taken around the mean",
            RMS_NORM
            + "        return self.weight * x / torch.sqrt(x.var(dim=-1, keepdim=True, unbiased=False) + "
            "self.eps)",
        ),
        ("length of the vector", "x.square().mean(", "x.square().sum("),
        (
            "length of the vector",
            RMS_NORM + "        return self.weight * x / (x.norm(dim=-1, keepdim=True) + self.eps)",
        ),
        ("take its root", "self.eps).sqrt()", "self.eps)"),
        (
            "without their signs",
            RMS_NORM + "        return x / (x.abs().mean(-1, keepdim=True) + self.eps) * self.weight",
        ),
        ("after the root", "(mean_square + self.eps).sqrt()", "(mean_square.sqrt() + self.eps)"),
        ("eps is not used", "(mean_square + self.eps)", "mean_square"),
        ("eps is not used", "self.eps = eps", "self.eps = 1e-5"),
        ("all numbers of the tensor", "x.square().mean(dim=-1, keepdim=True)", "x.square().mean()"),
        ("across the tokens", "x.square().mean(dim=-1, keepdim=True)", "x.square().mean(dim=0)"),
        ("weight is not used", ".sqrt() * self.weight", ".sqrt()"),
        ("Nothing is learned", "nn.Parameter(torch.ones(d_model))", "torch.ones(d_model)"),
        ("starts at 0", "torch.ones(d_model)", "torch.zeros(d_model)"),
        (
            "learns one thing",
            "self.eps = eps",
            "self.eps = eps\n        self.bias = nn.Parameter(torch.zeros(d_model))",
        ),
        (
            "learns one thing",
            RMS_NORM.replace("weight", "gain")
            + "        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.gain",
        ),
        ("a single number", "torch.ones(d_model)", "torch.ones(1)"),
        ("should be 1.", "x.square().mean(dim=-1, keepdim=True)", "x.square().amax(dim=-1, keepdim=True)"),
        ("something on the way is cut off", "(mean_square + self.eps)", "(mean_square.data + self.eps)"),
        ("lost the last dimension", "mean(dim=-1, keepdim=True)", "mean(dim=-1)"),
        ("reaches the weight", ".sqrt() * self.weight", ".sqrt() * self.weight.data"),
        ("no attribute", "self.eps = eps", "pass"),
        ("count from the end", "mean(dim=-1, keepdim=True)", "mean(dim=-2, keepdim=True)"),
        ("Expected the dtype float16", "mean_square = x", "x = x.float()\n        mean_square = x"),
        ("requires_grad off", "torch.ones(d_model))", "torch.ones(d_model), requires_grad=False)"),
        ("divides by the weight too", ".sqrt() * self.weight", ".sqrt() / self.weight"),
    ],
    "4.4": [
        ("bracket around 1", "(1 + torch.tanh(inner))", "1 + torch.tanh(inner)"),
        ("exact form", "def gelu(x):\n    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))"),
        ("x is squared", "x**3", "x**2"),
        ("is left out", "(x + 0.044715 * x**3)", "x"),
        ("is another number", "0.044715", "0.44715"),
        ("outside the bracket", "(x + 0.044715 * x**3)", "x + 0.044715 * x**3"),
        ("should be the root of 2 / pi", "math.sqrt(2 / math.pi)", "math.sqrt(2) / math.pi"),
        ("should be the root of 2 / pi", "math.sqrt(2 / math.pi) *", ""),
        ("gives twice as much", "0.5 * x *", "x *"),
        ("only the share", "0.5 * x *", "0.5 *"),
        ("1 is not added", "(1 + torch.tanh(inner))", "torch.tanh(inner)"),
        ("subtracted from 1", "1 + torch", "1 - torch"),
        ("sigmoid stands", "torch.tanh", "torch.sigmoid"),
        ("This is SiLU", "def gelu(x):\n    return x / (1 + torch.exp(-x))"),
        ("1.702", "def gelu(x):\n    return x * torch.sigmoid(1.702 * x)"),
        ("This is ReLU", "def gelu(x):\n    return x.clamp(min=0)"),
        ("of 0 should be 0", "0.5 * x * (", "0.5 * (x + 1) * ("),
        ("large positive number should be", "0.5 * x * (", "0.7 * x * ("),
        (
            "NaN",
            "def gelu(x):\n    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)\n"
            "    e = torch.exp(2 * inner)\n    return 0.5 * x * (1 + (e - 1) / (e + 1))",
        ),
        ("cut off", "inner =", "x = x.data\n    inner ="),
        (
            "cut off",
            "def gelu(x):\n    root = (2 / math.pi) ** 0.5\n    numbers = x.flatten().tolist()\n"
            "    out = [v / 2 * (1 + math.tanh(root * (v + 0.044715 * v**3))) for v in numbers]\n"
            "    return torch.tensor(out, dtype=x.dtype).view(x.shape)",
        ),
        ("cannot pass through numpy", "inner =", "x = torch.from_numpy(x.numpy())\n    inner ="),
        ("0.044715 is added to x", "(x + 0.044715 * x**3)", "(x + 0.044715) * x**3"),
        ("raised to the third power with x", "0.044715 * x**3", "(0.044715 * x) ** 3"),
        ("is another number", "0.044715", "0.045"),
        ("with all its digits", "math.sqrt(2 / math.pi)", "0.8"),
        ("with all its digits", "math.pi", "3.14"),
    ],
    "4.5": [
        ("Expected the shape (2,), got (3,)", "return self.down_proj(hidden)", "return hidden"),
        (
            "to up_proj's result",
            "F.silu(self.gate_proj(x)) * self.up_proj(x)",
            "self.gate_proj(x) * F.silu(self.up_proj(x))",
        ),
        (
            "to the product",
            "F.silu(self.gate_proj(x)) * self.up_proj(x)",
            "F.silu(self.gate_proj(x) * self.up_proj(x))",
        ),
        ("applied to both", "* self.up_proj(x)", "* F.silu(self.up_proj(x))"),
        ("There is no silu", "F.silu(self.gate_proj(x))", "self.gate_proj(x)"),
        ("passes a sigmoid", "F.silu(", "torch.sigmoid("),
        ("another function", "F.silu(", "F.gelu("),
        ("are added", "F.silu(self.gate_proj(x)) * self", "F.silu(self.gate_proj(x)) + self"),
        ("up_proj is not used", " * self.up_proj(x)", ""),
        ("gate_proj is not used", "F.silu(self.gate_proj(x))", "F.silu(self.up_proj(x))"),
        ("at the end", "return self.down_proj(hidden)", "return F.silu(self.down_proj(hidden))"),
        (
            "have biases where bias is False",
            "self.gate_proj = nn.Linear(d_model, d_ff, bias=bias)\n"
            "        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)\n"
            "        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)",
            "self.gate_proj = nn.Linear(d_model, d_ff)\n"
            "        self.up_proj = nn.Linear(d_model, d_ff)\n"
            "        self.down_proj = nn.Linear(d_ff, d_model)",
        ),
        (
            "have no biases",
            "self.gate_proj = nn.Linear(d_model, d_ff, bias=bias)\n"
            "        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)\n"
            "        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)",
            "self.gate_proj = nn.Linear(d_model, d_ff, bias=False)\n"
            "        self.up_proj = nn.Linear(d_model, d_ff, False)\n"
            "        self.down_proj = nn.Linear(d_ff, d_model, False)",
        ),
        (
            "have a bias where bias is False",
            "nn.Linear(d_ff, d_model, bias=bias)",
            "nn.Linear(d_ff, d_model)",
        ),
        (
            "have no bias where bias is True",
            "nn.Linear(d_ff, d_model, bias=bias)",
            "nn.Linear(d_ff, d_model, bias=False)",
        ),
        (
            "should have the names",
            "class SwiGLU(nn.Module):\n    def __init__(self, d_model, d_ff, bias=False):\n"
            "        super().__init__()\n"
            "        self.w1, self.w3 = nn.Linear(d_model, d_ff, bias), nn.Linear(d_model, d_ff, bias)\n"
            "        self.w2 = nn.Linear(d_ff, d_model, bias)\n\n    def forward(self, x):\n"
            "        return self.w2(F.silu(self.w1(x)) * self.w3(x))",
        ),
        (
            "from the wrong width",
            "self.down_proj = nn.Linear(d_ff, d_model",
            "self.down_proj = nn.Linear(d_model, d_ff",
        ),
        (
            "something on the way is cut off",
            "F.silu(self.gate_proj(x))",
            "F.silu(self.gate_proj(x)).detach()",
        ),
        ("stops with an error", "super().__init__()", "pass"),
        ("both factors of the product", "self.up_proj(x)  #", "self.gate_proj(x)  #"),
        ("the block does that", "return self.down_proj(hidden)", "return x + self.down_proj(hidden)"),
        ("applied to x", "F.silu(self.gate_proj(x))", "self.gate_proj(F.silu(x))"),
        (
            "applied to down_proj's result; it belongs",
            "F.silu(self.gate_proj(x)) * self.up_proj(x)  # (..., D) -> (..., d_ff)\n"
            "        return self.down_proj(hidden)",
            "self.gate_proj(x) * self.up_proj(x)\n        return F.silu(self.down_proj(hidden))",
        ),
        (
            "one layer under two names",
            "self.up_proj = nn.Linear(d_model, d_ff, bias=bias)",
            "self.up_proj = self.gate_proj",
        ),
    ],
    "4.6": [
        (
            "as it was at the beginning",
            "def block(x, norm1, attention, norm2, feed_forward):\n    n = norm1(x)\n"
            "    x = x + attention(n)\n    return x + feed_forward(norm2(n))",
        ),
        (
            "without the stream",
            "def block(x, norm1, attention, norm2, feed_forward):\n    h = attention(norm1(x))\n"
            "    return h + x + feed_forward(norm2(h))",
        ),
        (
            "norms before the layers and after the sums",
            "def block(x, norm1, attention, norm2, feed_forward):\n"
            "    x = norm1(x + attention(norm1(x)))\n    return norm2(x + feed_forward(norm2(x)))",
        ),
        ("Which of these numbers", "x + feed_forward(norm2(x))", "x * feed_forward(norm2(x))"),
        (
            "This is post-norm",
            "def block(x, norm1, attention, norm2, feed_forward):\n    x = norm1(attention(x) + x)\n"
            "    return norm2(feed_forward(x) + x)",
        ),
        (
            "stream itself is normalised",
            "def block(x, norm1, attention, norm2, feed_forward):\n    x = norm1(x)\n"
            "    x = x + attention(x)\n    x = norm2(x)\n    return x + feed_forward(x)",
        ),
        ("stream itself is normalised", "x = x + attention(norm1(x))", "x = norm1(x) + attention(norm1(x))"),
        ("norm1 is used twice", "norm2(x)", "norm1(x)"),
        ("norm2 is used twice", "norm1(x)", "norm2(x)"),
        (
            "changed places",
            "def block(x, norm1, attention, norm2, feed_forward):\n    x = x + attention(norm2(x))\n"
            "    return x + feed_forward(norm1(x))",
        ),
        (
            "as it was at the beginning",
            "def block(x, norm1, attention, norm2, feed_forward):\n"
            "    return x + attention(norm1(x)) + feed_forward(norm2(x))",
        ),
        (
            "adds to the original x",
            "def block(x, norm1, attention, norm2, feed_forward):\n    h = x + attention(norm1(x))\n"
            "    return x + feed_forward(norm2(h))",
        ),
        (
            "Both plus signs",
            "def block(x, norm1, attention, norm2, feed_forward):\n"
            "    return feed_forward(norm2(attention(norm1(x))))",
        ),
        ("plus sign at attention", "x = x + attention", "x = attention"),
        ("plus sign at feed-forward", "return x + feed_forward", "return feed_forward"),
        (
            "one plus sign around both",
            "def block(x, norm1, attention, norm2, feed_forward):\n    h = attention(norm1(x))\n"
            "    return x + feed_forward(norm2(h))",
        ),
        (
            "attention is first",
            "def block(x, norm1, attention, norm2, feed_forward):\n    x = x + feed_forward(norm1(x))\n"
            "    return x + attention(norm2(x))",
        ),
        ("no norm in front of attention", "attention(norm1(x))", "attention(x)"),
        ("no norm in front of feed-forward", "feed_forward(norm2(x))", "feed_forward(x)"),
        (
            "what the layers give",
            "def block(x, norm1, attention, norm2, feed_forward):\n    x = x + norm1(attention(x))\n"
            "    return x + norm2(feed_forward(x))",
        ),
        (
            "once more at the end",
            "return x + feed_forward(norm2(x))",
            "return norm2(x + feed_forward(norm2(x)))",
        ),
        ("half is missing", "return x + feed_forward(norm2(x))", "return x"),
        ("changes its arguments", "x = x + attention", "x += attention"),
        (
            "Which of these numbers",
            "return x + feed_forward(norm2(x))",
            "return 2 * (x + feed_forward(norm2(x)))",
        ),
        (
            "called exactly once",
            "def block(x, norm1, attention, norm2, feed_forward):\n"
            "    return x + attention(norm1(x)) + feed_forward(norm2(x + attention(norm1(x))))",
        ),
        ("cut off", "attention(norm1(x))", "attention(norm1(x)).detach()"),
        (
            "cannot pass through numpy",
            "x = x + attention(norm1(x))",
            "x = torch.from_numpy(x.numpy() + attention(norm1(x)).numpy())",
        ),
    ],
    "4.7": [
        (
            "counted twice",
            "return total if tie_weights else total + vocab_size * d_model",
            "return total + vocab_size * d_model",
        ),
        (
            "it is not counted",
            "return total if tie_weights else total + vocab_size * d_model",
            "return total",
        ),
        ("wrong way round", "total if tie_weights else", "total if not tie_weights else"),
        ("as wide as the queries", "kv = n_kv_heads * d_model // n_heads", "kv = d_model"),
        (
            "both are that narrow",
            "2 * d_model * d_model + 2 * d_model * kv",
            "3 * d_model * d_model + d_model * kv\n    kv = kv if not bias else (d_model + kv) // 2",
        ),
        ("as narrow as keys and values", "2 * d_model * d_model + 2 * d_model * kv", "4 * d_model * kv"),
        ("Biases are not counted", "if bias:", "if False:"),
        ("Biases are counted where", "if bias:", "if True:"),
        ("biases of the norms are not", "norm += d_model", "pass"),
        ("biases of the norms are counted where", "norm = d_model", "norm = d_model * (1 if bias else 2)"),
        ("biases of attention are not", "attention += 2 * d_model + 2 * kv", "pass"),
        ("biases of the feed-forward layer are not", "feed_forward += d_ff + d_model", "pass"),
        ("they are narrower too", "attention += 2 * d_model + 2 * kv", "attention += 4 * d_model"),
        ("two biases of one width", "feed_forward += d_ff + d_model", "feed_forward += d_model * 2"),
        ("it has none", "return total if", "total += vocab_size * bool(bias)\n    return total if"),
        ("after the last block is missing", "+ 2 * norm) + norm", "+ 2 * norm)"),
        ("one is counted", "+ 2 * norm) + norm", "+ norm) + norm"),
        ("norms are not counted", "+ 2 * norm) + norm", ")"),
        ("once for each block", "+ 2 * norm) + norm", "+ 3 * norm)"),
        ("positions is not counted", " + context_length * d_model", ""),
        ("token embedding is not counted", "total = vocab_size * d_model +", "total ="),
        ("there are n_layers", "n_layers * (attention", "(attention"),
        ("make four matrices", "2 * d_model * d_model + 2", "d_model * d_model + 2"),
        ("One of the two matrices", "2 * d_model * d_ff", "d_model * d_ff"),
        ("as SwiGLU has", "2 * d_model * d_ff", "3 * d_model * d_ff"),
        ("width is d_ff", "kv = n_kv_heads", "d_ff = 4 * d_model\n    kv = n_kv_heads"),
        ("once for each head", "n_layers * (attention", "n_layers * (n_heads * attention"),
        ("is in the blocks", "feed_forward = 2 * d_model * d_ff", "feed_forward = 2 * d_model * d_ff + 3"),
        ("Something outside the blocks", "total = vocab_size", "total = 1 + vocab_size"),
        (
            "Expected a number, got a tensor",
            "return total if",
            "total = torch.tensor(total)\n    return total if",
        ),
        (
            "an int is asked for",
            "kv = n_kv_heads * d_model // n_heads",
            "kv = n_kv_heads * d_model / n_heads",
        ),
        ("A part of the blocks", "+ feed_forward + 2 * norm) + norm", "+ feed_forward) + 3 * norm"),
        (
            "A part of the blocks",
            "(attention + feed_forward + 2 * norm)",
            "attention + feed_forward + 2 * norm",
        ),
        ("counts as one number", "context_length * d_model", "context_length"),
        ("too many biases, or too few", "attention += 2 * d_model", "attention += d_model"),
        ("too many biases, or too few", "feed_forward += d_ff + d_model", "feed_forward += d_ff"),
        ("inside and outside the blocks", "+ 2 * norm) + norm", "+ 2 * norm) + d_model"),
    ],
    "4.8": [
        ("base 2", "math.log(", "math.log2("),
        ("base 10", "math.log(", "math.log10("),
        ("ln V alone", " + variance / 2", ""),
        ("half of it is what counts", "variance / 2", "variance"),
        ("is not squared", "weight_std**2", "weight_std"),
        ("d_model is missing in first_loss", "d_model * weight_std**2", "weight_std**2"),
        ("D is squared with s", "d_model * weight_std**2", "(d_model * weight_std) ** 2"),
        ("is subtracted", "+ variance", "- variance"),
        ("wrong sign in front of ln V", "math.log(vocab_size)", "-math.log(vocab_size)"),
        (
            "uses the standard deviation of the logits",
            "d_model * weight_std**2",
            "math.sqrt(d_model) * weight_std",
        ),
        ("gives the variance s squared", "math.sqrt(2 * above / d_model)", "2 * above / d_model"),
        ("2 is missing", "2 * above", "above"),
        ("wrong side", "2 * above / d_model", "above / 2 / d_model"),
        ("d_model is missing in weight_std", "2 * above / d_model", "2 * above"),
        ("divide inside the root", "math.sqrt(2 * above / d_model)", "math.sqrt(2 * above) / d_model"),
        ("default of the course", "2 * above / d_model", "0.4 / d_model"),
        ("d_model multiplies", "2 * above / d_model", "2 * above * d_model"),
        ("at least ln V", "math.log(vocab_size)", "math.log(vocab_size / 2)"),
        ("Of the two parts", "math.log(vocab_size)", "math.log(1 + vocab_size)"),
        ("is not negative", "return math.sqrt", "return -math.sqrt"),
        ("does not come out", "2 * above / d_model", "5 * above / d_model"),
        (
            "got a tensor",
            "return math.log(vocab_size) + variance / 2",
            "return torch.tensor(math.log(vocab_size) + variance / 2)",
        ),
    ],
    "4.9": [
        ("each block adds twice", "math.sqrt(2 * n_layers)", "math.sqrt(n_layers)"),
        ("divide by the root", "std / math.sqrt(2 * n_layers)", "std / (2 * n_layers)"),
        ("outside the root", "math.sqrt(2 * n_layers)", "(2 * math.sqrt(n_layers))"),
        ("start larger", "std / math.sqrt(2 * n_layers)", "std * math.sqrt(2 * n_layers)"),
        ("Nothing is scaled", "return std / math.sqrt(2 * n_layers)", "pass"),
        ("Every matrix is scaled", 'if name.endswith(("out_proj.weight", "down_proj.weight")):', "if True:"),
        (
            "All matrices of the blocks",
            'name.endswith(("out_proj.weight", "down_proj.weight"))',
            '"proj" in name',
        ),
        (
            "second matrix of the feed-forward layer is not",
            '("out_proj.weight", "down_proj.weight")',
            '"out_proj.weight"',
        ),
        ("output of attention is not", '("out_proj.weight", "down_proj.weight")', '"down_proj.weight"'),
        (
            "output layer is scaled",
            '("out_proj.weight", "down_proj.weight")',
            '("out_proj.weight", "down_proj.weight", "lm_head.weight")',
        ),
        ("embedding is scaled", "if name.endswith(", 'if "embedding" in name or name.endswith('),
        ("up_proj or gate_proj is scaled", '"down_proj.weight"', '"up_proj.weight"'),
        (
            "number of the block",
            "std / math.sqrt(2 * n_layers)",
            'std / math.sqrt(2 * (1 + int(name.split(".")[1])))',
        ),
        ("This is the variance", "std = math.sqrt(2 / (5 * d_model))", "std = 2 / (5 * d_model)"),
        ("starts from 0.02", "math.sqrt(2 / (5 * d_model))", "0.02"),
        ("inside the root", "math.sqrt(2 / (5 * d_model))", "math.sqrt(2 / 5 * d_model)"),
        ("Queries, keys or values", '"down_proj.weight")', '"down_proj.weight", "q_proj.weight")'),
        ("up_proj or gate_proj", '"down_proj.weight")', '"down_proj.weight", "gate_proj.weight")'),
        ("should be the root of 2 n_layers", "math.sqrt(2 * n_layers)", "math.sqrt(2 * n_layers + 1)"),
        ("is to start with the default", "2 / (5 * d_model)", "1 / d_model"),
        ("is positive", "math.sqrt(2 / (5 * d_model))", "-math.sqrt(2 / (5 * d_model))"),
        ("returns None", "    return std\n", "    std\n"),
        (
            "in some blocks only",
            'name.endswith(("out_proj.weight", "down_proj.weight"))',
            'name in ("blocks.3.attention.out_proj.weight", "blocks.3.feed_forward.down_proj.weight")',
        ),
        (
            "in some blocks only",
            'name.endswith(("out_proj.weight", "down_proj.weight"))',
            'name[9:].startswith(("attention.out", "feed_forward.down"))',
        ),
        (
            "in some blocks only",
            'name.endswith(("out_proj.weight", "down_proj.weight"))',
            'name in [f"blocks.{i}.{layer}_proj.weight" for i in range(10)\n'
            '                for layer in ("attention.out", "feed_forward.down")]',
        ),
        ("ends in .weight", '("out_proj.weight", "down_proj.weight")', '("out_proj", "down_proj")'),
    ],
    "4.10": [
        (
            "learned and not used",
            TIED
            + "        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)\n"
            + NO_LAYERS
            + "        return self.norm(self.token(token_ids)) @ self.token.weight.T",
        ),
        ("after one step they are not", "self.norm(x)", "self.norm(self.norm(x))"),
        ("These are not the dot products", "self.norm(x)", "x / 8"),
        (
            "matrix of its own",
            "        self.lm_head.weight = self.token.weight  # the same object, not a copy\n",
            "",
        ),
        (
            "matrix of its own",
            "self.lm_head.weight = self.token.weight",
            "self.lm_head.weight = nn.Parameter(self.token.weight.clone())",
        ),
        (
            "matrix of its own",
            "self.lm_head.weight = self.token.weight",
            "self.lm_head.load_state_dict(self.token.state_dict())",
        ),
        (
            "they are two parameters",
            "self.lm_head.weight = self.token.weight",
            "self.lm_head.weight.data = self.token.weight.data",
        ),
        (
            "they are two parameters",
            "self.lm_head.weight = self.token.weight",
            "self.lm_head.weight = nn.Parameter(self.token.weight)",
        ),
        (
            "comes from the output layer",
            TIED
            + "        pass\n"
            + NO_LAYERS
            + "        return self.norm(self.token(token_ids)) @ self.token.weight.data.T",
        ),
        ("comes from the embedding", "x = self.token(token_ids)", "x = self.token(token_ids).detach()"),
        ("norm before the output layer", "self.lm_head(self.norm(x))", "self.lm_head(x)"),
        ("has a bias", "vocab_size, bias=False)", "vocab_size)"),
        (
            "result is shares",
            "self.lm_head(self.norm(x))",
            "torch.softmax(self.lm_head(self.norm(x)), dim=-1)",
        ),
        (
            "logarithms of shares",
            "self.lm_head(self.norm(x))",
            "F.log_softmax(self.lm_head(self.norm(x)), dim=-1)",
        ),
        ("last token alone", "return self.lm_head(self.norm(x))", "return self.lm_head(self.norm(x))[:, -1]"),
        (
            "more than the matrix and the norm",
            TIED
            + "        self.scale = nn.Parameter(torch.ones(()))\n"
            + NO_LAYERS
            + "        return self.norm(self.token(token_ids)) @ self.token.weight.T",
        ),
        (
            "stops with an error",
            TIED
            + "        pass\n"
            + NO_LAYERS
            + "        return self.norm(self.token(token_ids)) @ self.token.weight",
        ),
        (
            "gradient at the embedding is not the sum",
            "x = self.token(token_ids)",
            "x = (self.token(token_ids) + self.token(token_ids).detach()) / 2",
        ),
        (
            "matrix of its own",
            TIED
            + "        self.matrix = self.token.weight.clone()\n"
            + NO_LAYERS
            + "        return self.norm(self.token(token_ids)) @ self.matrix.T",
        ),
        (
            "matrix of its own",
            TIED
            + "        self.register_buffer('matrix', self.token.weight.detach().clone())\n"
            + NO_LAYERS
            + "        return self.norm(self.token(token_ids)) @ self.matrix.T",
        ),
        (
            "rows of the embedding are normalised",
            TIED
            + "        pass\n"
            + NO_LAYERS
            + "        return self.token(token_ids) @ self.norm(self.token.weight).T",
        ),
        (
            "when forward is called",
            TIED
            + "        self.out = nn.Linear(d_model, vocab_size, bias=False)\n"
            + NO_LAYERS
            + "        self.out.weight = self.token.weight\n"
            "        return self.out(self.norm(self.token(token_ids)))",
        ),
        (
            "No gradient arrives",
            "return self.lm_head(self.norm(x))",
            "return torch.tensor(self.lm_head(self.norm(x)).detach().numpy())",
        ),
        (
            "No gradient arrives",
            "self.lm_head.weight = self.token.weight",
            "self.lm_head.weight = self.token.weight.requires_grad_(False)",
        ),
    ],
}
