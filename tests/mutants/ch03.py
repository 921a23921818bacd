"""Chapter 3: answers that are right in another way, and answers that are wrong in a typical way."""

VARIANTS = {
    "3.2": """def softmax(x, dim):
    return torch.exp(x - torch.logsumexp(x, dim=dim, keepdim=True))
""",
    "3.3": """def causal_mask(T):
    rows = [[j <= i for j in range(T)] for i in range(T)]
    return torch.tensor(rows)
""",
}
MUTANTS = {
    "3.2": [
        ("overflow", "(x - x.amax(dim=dim, keepdim=True)).exp()", "x.exp()"),
        ("sum of the whole tensor", "exponentials.sum(dim=dim, keepdim=True)", "exponentials.sum()"),
        (
            "along the last dimension",
            "def softmax(x, dim):\n    return torch.exp(x - x.logsumexp(-1, keepdim=True))",
        ),
        (
            "along the first dimension",
            "def softmax(x, dim):\n    return torch.exp(x - x.logsumexp(0, keepdim=True))",
        ),
        ("0 / 0", "x.amax(dim=dim, keepdim=True)", "x.max()"),
        (
            "log-softmax",
            "return exponentials / exponentials.sum(dim=dim, keepdim=True)",
            "return x - x.logsumexp(dim, keepdim=True)",
        ),
        ("stops with an error", "keepdim=True)).exp()", "keepdim=False)).exp()"),
        ("changes its arguments", "exponentials = (", "x -= x.mean()\n    exponentials = ("),
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
    ],
}
