"""A GPT with its training and its sampling in plain Python: only math, random, and the engine."""

# Written by `make export` from a_one_page.ipynb; change it there.

import math
import random

from .engine import Value, dot

__all__ = [
    "linear",
    "add",
    "rms_norm",
    "gelu",
    "softmax",
    "attend",
    "surprise",
    "new_weights",
    "TinyGPT",
    "loss_of",
    "TinyAdamW",
    "train",
    "draw",
    "sample",
]

# %% a_one_page.ipynb #8594c7b0
def linear(rows, x):
    """A matrix (out, in), as a list of rows, times a vector (in): out Values."""
    return [dot(row, x) for row in rows]


def add(x, y):
    """Two vectors of the same length, number by number."""
    return [a + b for a, b in zip(x, y, strict=True)]

# %% a_one_page.ipynb #6016bb19
def rms_norm(x, weight, eps=1e-5):
    """A vector over its root mean square, times weight: Zhang and Sennrich 2019, equation 4."""
    scale = (dot(x, x) / len(x) + eps) ** -0.5
    return [a * scale * w for a, w in zip(x, weight, strict=True)]


def gelu(x):
    """GELU of one Value, by tanh: Hendrycks and Gimpel 2016, section 2."""
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())

# %% a_one_page.ipynb #45577b98
def softmax(scores):
    """Shares, positive and 1 in sum. The highest score is taken off first, so that no exp overflows."""
    highest = max(score.data for score in scores)
    exponentials = [(score - highest).exp() for score in scores]
    share = sum(exponentials) ** -1
    return [e * share for e in exponentials]


def attend(query, keys, values):
    """One query (d), S keys (S, d) and values (S, d) -> d Values: Vaswani et al. 2017, equation 1."""
    weights = softmax([dot(query, key) * len(query) ** -0.5 for key in keys])
    return [dot(weights, column) for column in zip(*values)]

# %% a_one_page.ipynb #26de6775
def surprise(logits, target):
    """-ln of the probability that softmax gives to number `target`, in nats."""
    highest = max(z.data for z in logits)
    return sum((z - highest).exp() for z in logits).log() + highest - logits[target]

# %% a_one_page.ipynb #a1weights
def new_weights(vocab_size, context_length, d_model, n_layers, d_ff, seed):
    """{name as in the course's state_dict: rows of Values}; a vector is a single row.

    Matrices are N(0, 2 / (5 d_model)), smaller where a layer writes into the stream; norms are 1.
    """
    rng, D, std = random.Random(seed), d_model, math.sqrt(2 / (5 * d_model))
    small = std / math.sqrt(2 * n_layers)

    def matrix(rows, columns, std=std):
        return [[Value(rng.gauss(0, std)) for _ in range(columns)] for _ in range(rows)]

    def ones():
        return [[Value(1.0) for _ in range(D)]]

    weights = {
        "embedding.token.weight": matrix(vocab_size, D),
        "embedding.position.weight": matrix(context_length, D),
        "norm.weight": ones(),
    }
    for n in range(n_layers):
        weights |= {
            f"blocks.{n}.norm1.weight": ones(),
            f"blocks.{n}.attention.q_proj.weight": matrix(D, D),
            f"blocks.{n}.attention.k_proj.weight": matrix(D, D),
            f"blocks.{n}.attention.v_proj.weight": matrix(D, D),
            f"blocks.{n}.attention.out_proj.weight": matrix(D, D, small),
            f"blocks.{n}.norm2.weight": ones(),
            f"blocks.{n}.feed_forward.up_proj.weight": matrix(d_ff, D),
            f"blocks.{n}.feed_forward.down_proj.weight": matrix(D, d_ff, small),
        }
    return weights

# %% a_one_page.ipynb #35288c58
class TinyGPT:
    """A decoder-only transformer: the course's GPT with norm="rmsnorm", and its other defaults.

    weights: see new_weights. ValueError for n_heads that do not divide d_model.
    """

    def __init__(self, vocab_size, context_length, d_model, n_heads, n_layers, d_ff, seed=0):
        if d_model % n_heads:
            raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}; choose a divisor")
        self.context_length, self.head_dim, self.n_layers = context_length, d_model // n_heads, n_layers
        self.weights = new_weights(vocab_size, context_length, d_model, n_layers, d_ff, seed)

    def new_cache(self):
        """Keys and values of each layer, none so far. A new line of text needs a new one."""
        return [([], []) for _ in range(self.n_layers)]

    def __call__(self, token_id, cache):
        """The logits of the token after `token_id`: vocab_size Values. The cache grows by one.

        IndexError for more tokens than context_length.
        """
        w, d, position = self.weights, self.head_dim, len(cache[0][0])
        x = add(w["embedding.token.weight"][token_id], w["embedding.position.weight"][position])
        for n, (keys, values) in enumerate(cache):
            block = f"blocks.{n}."
            h = rms_norm(x, w[block + "norm1.weight"][0])
            q, k, v = (linear(w[block + f"attention.{name}_proj.weight"], h) for name in "qkv")
            keys.append(k)
            values.append(v)
            heads = []  # d numbers of each head, one after the other
            for i in range(0, len(q), d):
                heads += attend(q[i : i + d], [k[i : i + d] for k in keys], [v[i : i + d] for v in values])
            x = add(x, linear(w[block + "attention.out_proj.weight"], heads))
            h = rms_norm(x, w[block + "norm2.weight"][0])
            h = [gelu(a) for a in linear(w[block + "feed_forward.up_proj.weight"], h)]
            x = add(x, linear(w[block + "feed_forward.down_proj.weight"], h))
        return linear(w["embedding.token.weight"], rms_norm(x, w["norm.weight"][0]))

# %% a_one_page.ipynb #6fbc133f
def loss_of(model, lines, alphabet):
    """Mean surprise in nats a character, as a Value; the line break that ends a line counts too.

    alphabet: a str that holds every character and the line break; a character's place in it is its id.
    """
    losses = []
    for line in lines:
        ids, cache = [alphabet.index(c) for c in f"\n{line}\n"], model.new_cache()
        losses += [surprise(model(now, cache), after) for now, after in zip(ids, ids[1:])]
    return sum(losses) / len(losses)

# %% a_one_page.ipynb #1325a57a
class TinyAdamW:
    """Adam with decoupled weight decay on the matrices of linear layers.

    Loshchilov and Hutter 2019, algorithm 2. weights: those of a TinyGPT.
    """

    def __init__(self, weights, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.betas, self.eps, self.steps, self.weights = betas, eps, 0, []
        for name, rows in weights.items():
            decay = weight_decay if "_proj" in name else 0.0
            self.weights += [(value, decay) for row in rows for value in row]
        self.m, self.v = [0.0] * len(self.weights), [0.0] * len(self.weights)

    def step(self, lr):
        """One update of every weight; the gradients are 0 afterwards."""
        self.steps += 1
        (beta1, beta2), t, m, v = self.betas, self.steps, self.m, self.v
        for i, (w, decay) in enumerate(self.weights):
            m[i] = beta1 * m[i] + (1 - beta1) * w.grad
            v[i] = beta2 * v[i] + (1 - beta2) * w.grad**2
            w.data -= lr * decay * w.data
            w.data -= lr * (m[i] / (1 - beta1**t)) / (math.sqrt(v[i] / (1 - beta2**t)) + self.eps)
            w.grad = 0.0

# %% a_one_page.ipynb #a753165d
def train(model, lines, alphabet, steps, batch_size=2, max_lr=0.01, seed=0, progress=range):
    """Train a TinyGPT in place on `steps` batches of lines; returns the loss of each.

    lines: a list of str. progress: makes of the number of steps what is looped over, as tqdm.trange.
    ValueError for fewer lines than batch_size.
    """
    optimizer, rng, losses = TinyAdamW(model.weights), random.Random(seed), []
    for w, _ in optimizer.weights:
        w.grad = 0.0  # of an earlier backward
    for step in progress(steps):
        loss = loss_of(model, rng.sample(lines, batch_size), alphabet)
        loss.backward()
        optimizer.step(max_lr * min(1, (step + 1) / 20) * (1 - step / steps))
        losses.append(loss.data)
    return losses

# %% a_one_page.ipynb #6904de51
def draw(probabilities, u):
    """The index of the piece that u in [0, 1) falls on, when the unit stick is cut by the probabilities."""
    end = 0.0
    for index, p in enumerate(probabilities):
        end += p
        if u < end:
            return index
    return index  # the last, where rounding left a gap


def sample(model, alphabet, rng, temperature=1.0):
    """A new line, at most context_length characters. rng: has random(), such as random.Random(0).

    A temperature below 1 prefers the probable; 0 is a ZeroDivisionError.
    """
    cache, line, now = model.new_cache(), "", alphabet.index("\n")
    for _ in range(model.context_length):
        shares = softmax([z / temperature for z in model(now, cache)])
        now = draw([share.data for share in shares], rng.random())
        if alphabet[now] == "\n":
            break
        line += alphabet[now]
    return line
