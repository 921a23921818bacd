"""How many parameters a GPT has, from its configuration alone."""

# Written by `make export` from ch04_transformer.ipynb; change it there.

__all__ = [
    "parameter_formula",
]

# %% ch04_transformer.ipynb #a0846488
def parameter_formula(config):
    """How many parameters each part of a GPT has, from its configuration alone: {part: count}."""
    c, D, W = config, config.d_model, config.ff_width
    kv = c.kv_heads * D // c.n_heads  # width of the keys, and of the values
    bias = int(c.bias)
    n_norms = 2 * c.n_layers + (c.norm_position == "pre")
    attention = 2 * D * D + 2 * D * kv + bias * (2 * D + 2 * kv)
    wide = 2 if c.activation == "swiglu" else 1  # matrices from D to W; one more goes back
    feed_forward = (wide + 1) * D * W + bias * (wide * W + D)
    return {
        "token embedding": c.vocab_size * D,
        "positions": c.context_length * D if c.position == "learned" else 0,
        "attention": c.n_layers * attention,
        "feed-forward": c.n_layers * feed_forward,
        "norms": n_norms * D * (1 + (bias if c.norm == "layernorm" else 0)),
        "output layer": 0 if c.tie_weights else c.vocab_size * D,
    }
