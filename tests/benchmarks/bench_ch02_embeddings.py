"""Chapter 2: rotary positions against transformers', lookups against nn.Embedding and one-hot products."""

import torch
import torch.nn.functional as F
from harness import compare
from torch import nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ch02_embeddings.embeddings import RotaryEmbedding, TokenEmbedding

# (B, H, T, d) of queries and keys, and the ratio that is wanted for the course's own layout: a training batch
# of the course, a long text through the nine heads of SmolLM2, and one token of a chat.
ROTARY = [((16, 4, 128, 64), 0.6), ((4, 9, 1024, 64), 0.6), ((1, 9, 1, 64), None)]
# (vocab_size, d_model, number of ids): a small model of the course, and GPT-2 small.
TABLES = [(4096, 256, 2048), (50_257, 768, 256)]


def repeat(function, times):
    """A callable that calls `function` so many times: one call may be too short for a clock."""
    return lambda: [function() for _ in range(times)]


def rotary(shape, goal, backward, rounds):
    """Turn queries and keys. transformers gets its cosines ready-made: it has one set for all layers."""
    B, H, T, d = shape
    q, k = (
        torch.randn(B, T, H, d).transpose(1, 2).requires_grad_(backward) for _ in range(2)
    )  # (B, H, T, d)
    positions = torch.arange(T)
    angles = torch.outer(positions.double(), 10000.0 ** (-torch.arange(0, d, 2).double() / d)).repeat(1, 2)
    cos, sin = angles.cos().float().unsqueeze(0), angles.sin().float().unsqueeze(0)  # (1, T, d)
    ropes = {
        layout: RotaryEmbedding(d, T, interleaved=layout == "interleaved")
        for layout in ("interleaved", "halves")
    }
    ways = {
        layout: lambda rope=rope: (rope(q, positions), rope(k, positions)) for layout, rope in ropes.items()
    }
    ways["transformers"] = lambda: apply_rotary_pos_emb(q, k, cos, sin)

    def once(way):
        turned = way()
        if backward:
            torch.autograd.grad(turned, (q, k), [x.detach() for x in turned])

    times = max(1, 2_000_000 // q.numel()) if T > 1 else 200
    candidates = {name: repeat(lambda way=way: once(way), times) for name, way in ways.items()}
    what = "forward and backward" if backward else "forward"
    goals = {"interleaved": goal} if goal else None
    compare(
        f"Rotary positions, {what}, q and k {shape}, {times} times", candidates, "transformers", rounds, goals
    )


def lookup(vocab_size, d_model, n_ids, rounds):
    ours, theirs = TokenEmbedding(vocab_size, d_model), nn.Embedding(vocab_size, d_model)
    ids = torch.randint(vocab_size, (n_ids,))
    candidates = {
        "TokenEmbedding": repeat(lambda: ours(ids), 100),
        "nn.Embedding": repeat(lambda: theirs(ids), 100),
        "one-hot @ table": lambda: F.one_hot(ids, vocab_size).float() @ theirs.weight,
    }
    work = {"TokenEmbedding": 100 * n_ids, "nn.Embedding": 100 * n_ids, "one-hot @ table": n_ids}
    title = f"Lookup of {n_ids} ids in a table ({vocab_size}, {d_model}), 100 times; one-hot once"
    with torch.no_grad():
        compare(title, candidates, "nn.Embedding", rounds, {"TokenEmbedding": 1.1}, work, "ids")


def run(quick):
    torch.manual_seed(0)
    rounds = 3 if quick else 15
    for shape, goal in ROTARY[::2] if quick else ROTARY:
        for backward in (False, True):
            rotary(shape, goal, backward, rounds)
    for sizes in TABLES[:1] if quick else TABLES:
        lookup(*sizes, rounds)
