"""Chapter 6: the cache changes nothing but the work, sampling follows the probabilities, text stays whole."""

import itertools
import math
import sys
from fractions import Fraction
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ch01_tokenization import figures as ch01_figures
from ch01_tokenization.figures import draw_matrix, draw_merge_tree, draw_tokens, printable, token_boxes
from ch01_tokenization.tokenizer import BPETokenizer
from ch04_transformer.transformer import GPT, GPTConfig
from ch06_inference import figures
from ch06_inference.convert import config_from_hf, from_hf
from ch06_inference.generation import (
    KVCache,
    LayerCache,
    cache_bytes,
    generate,
    generate_steps,
    newer_half,
    pad_left,
    penalise_repeats,
    sample_next,
    skip_padding,
    top_k_filter,
    top_p_filter,
)
from ch06_inference.inference import decode_pieces, stream, surprises
from ch06_inference.maps import (
    attention_maps,
    browse_attention,
    first_token_scores,
    induction_scores,
    plot_attention,
    previous_token_scores,
)

LLAMA = {"norm": "rmsnorm", "activation": "swiglu"}
KINDS = [
    {"position": position, "n_kv_heads": kv, "backend": backend} | style
    for position, kv, style in (
        ("learned", None, {"bias": True}),
        ("learned", 2, {}),
        ("sinusoidal", None, {"norm_position": "post"}),
        ("sinusoidal", 1, {}),
        ("rope", None, {}),
        ("rope", 2, LLAMA),
        ("rope", 1, LLAMA | {"tie_weights": False}),
    )
    for backend in ("sdpa", "eager")
]
ROTARY = [kind for kind in KINDS if kind["position"] == "rope"]
IDS = [f"{kind['position']}-{kind['n_kv_heads'] or 4}-{kind['backend']}" for kind in KINDS]


def make_model(context=16, vocab_size=50, d_model=32, n_heads=4, n_layers=2, **kind):
    torch.manual_seed(0)
    config = GPTConfig(vocab_size, context, d_model, n_heads, n_layers, init_std=0.2, **kind)
    return GPT(config).eval()


def in_pieces(model, ids, sizes, cache, padding=None):
    found = []
    for piece in ids.split(sizes, dim=1):
        told = () if padding is None else skip_padding(cache.length, piece.size(1), padding)
        found.append(model(piece, cache, *told))
    return torch.cat(found, dim=1)


def close(a, b, tolerance=1e-5):
    """Equal to `tolerance`, relative to the largest number where that is above 1."""
    return a.shape == b.shape and (a - b).abs().max() <= tolerance * max(1, b.abs().max().item())


def window_starts(n_prompt, n_new, context):
    """Where the window of each step begins: beyond the context, the model goes on with the newer half."""
    start, starts = 0, []
    for length in range(n_prompt, n_prompt + n_new):
        if length - start > context:
            start = length - max(1, context // 2)
        starts.append(start)
    return starts


# ---------------------------------------------------------------- the cache


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
@pytest.mark.parametrize("sizes", [[16], [1] * 16, [5, 1, 10], [15, 1], [1, 15]], ids=str)
@torch.no_grad()
# guards against: positions that restart with a cache
# guards against: several tokens into a cache without a causal mask
def test_cached_logits_equal_uncached(kind, sizes):
    model = make_model(**kind)
    for seed in range(2):  # a second prompt starts afresh
        ids = torch.randint(50, (3, 16), generator=torch.Generator().manual_seed(seed))
        cache = KVCache(model.config)
        pieces = in_pieces(model, ids, sizes, cache)
        assert cache.length == 16 and close(pieces, model(ids))


def bf16_tolerance(logits, n_layers=2):
    """bfloat16 keeps 8 bits, so a rounding is 2**-9 of a number; about 4 a layer, and those of the output."""
    return (4 * n_layers + 4) * 2**-9 * logits.abs().max().item()


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
@pytest.mark.parametrize("sizes", [[16], [1] * 16, [5, 1, 10]], ids=str)
@torch.no_grad()
def test_cached_logits_equal_uncached_in_bfloat16(kind, sizes):
    model, ids = make_model(**kind).bfloat16(), torch.randint(50, (3, 16))
    cache, whole = KVCache(model.config), model(ids)
    pieces = in_pieces(model, ids, sizes, cache)
    assert pieces.dtype == cache[0].keys.dtype == cache[1].values.dtype == torch.bfloat16
    assert (pieces - whole).abs().max() <= bf16_tolerance(whole)
    # a tolerance that says something: one position off is far outside of it
    shifted = model(ids.roll(1, 1))
    assert (shifted - whole).abs().max() > 5 * bf16_tolerance(whole)


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
@pytest.mark.parametrize("prompt_length", [1, 15, 16, 17, 30])
# guards against: a window that is off by one
# guards against: several tokens into a cache without a causal mask
def test_cached_generation_equals_uncached_beyond_the_context(kind, prompt_length):
    model, ids = make_model(**kind).double(), torch.randint(50, (2, prompt_length))
    with_cache = generate(model, ids, 30, temperature=0)
    assert with_cache.shape == (2, prompt_length + 30) and torch.equal(with_cache[:, :prompt_length], ids)
    assert torch.equal(with_cache, generate(model, ids, 30, temperature=0, use_cache=False))


@pytest.mark.parametrize("context", [1, 2, 3, 7])
@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_generation_in_small_contexts_follows_the_windows(context, use_cache):
    model, ids = make_model(context=context, **ROTARY[2]).double(), torch.randint(50, (2, 4))
    text = generate(model, ids, 20, temperature=0, use_cache=use_cache)
    for n, start in enumerate(window_starts(4, 20, context), 4):
        assert n - start <= context
        assert torch.equal(text[:, n], model(text[:, start:n])[:, -1].argmax(-1))


@pytest.mark.parametrize("kind", KINDS[::2], ids=IDS[::2])
@torch.no_grad()
def test_generation_in_bfloat16_beyond_the_context(kind):
    """Each token is the best of the uncached logits, or as good as the best to the 8 bits of bfloat16."""
    model, ids = make_model(**kind).bfloat16(), torch.randint(50, (2, 9))
    text = generate(model, ids, 30, temperature=0)
    for n, start in enumerate(window_starts(9, 30, 16), 9):
        logits = model(text[:, start:n])[:, -1].float()
        lost = logits.amax(-1) - logits.gather(-1, text[:, n : n + 1]).squeeze(-1)
        assert (lost <= 2 * bf16_tolerance(logits)).all()


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
@pytest.mark.parametrize("sizes", [[9], [1] * 9, [2, 6, 1]], ids=str)
@torch.no_grad()
# guards against: logits read at the padding
# guards against: positions that restart with a cache
def test_rows_of_different_lengths_equal_the_rows_alone(kind, sizes):
    model = make_model(**kind)
    rows = [torch.randint(50, (n,)) for n in (4, 9, 1, 6)]
    ids, padding = pad_left(rows, pad_id=7)
    batch = in_pieces(model, ids, sizes, KVCache(model.config, capacity=2), padding=padding)
    positions, mask = skip_padding(0, 9, padding)
    uncached = model(ids, positions=positions, mask=mask)
    for row, n_padding, cached, plain in zip(rows, padding.tolist(), batch, uncached, strict=True):
        alone = model(row[None])[0]
        assert close(cached[n_padding:], alone) and close(plain[n_padding:], alone)
    assert batch.isfinite().all()  # the filling may see nothing, which is no division by zero


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
@pytest.mark.parametrize("use_cache", [True, False])
# guards against: logits read at the padding
def test_generated_rows_of_different_lengths_equal_the_rows_alone(kind, use_cache):
    model = make_model(**kind).double()
    rows = [torch.randint(50, (n,)) for n in (3, 8, 1, 5)]
    ids, padding = pad_left(rows, pad_id=7)
    batch = generate(model, ids, 8, temperature=0, padding=padding, use_cache=use_cache)
    assert torch.equal(batch[:, :8], ids)
    for row, continued in zip(rows, batch):
        alone = generate(model, row[None], 8, temperature=0)[0]
        assert torch.equal(continued[8:], alone[len(row) :])


@pytest.mark.parametrize("kind", KINDS[::3], ids=IDS[::3])
@pytest.mark.parametrize("prompts", [(3, 8, 1, 14), (20, 2, 17, 40), (5, 5)], ids=str)
@pytest.mark.parametrize("use_cache", [True, False])
def test_padded_rows_beyond_the_context_equal_the_rows_alone(kind, prompts, use_cache):
    """Each row goes on with its newer half when it is full itself: its neighbours do not matter."""
    model, rows = make_model(**kind).double(), [torch.randint(50, (n,)) for n in prompts]
    ids, padding = pad_left(rows, pad_id=7)
    batch = generate(model, ids, 40, temperature=0, padding=padding, use_cache=use_cache)
    for row, continued in zip(rows, batch, strict=True):
        alone = generate(model, row[None], 40, temperature=0)[0]
        assert torch.equal(continued[ids.size(1) :], alone[len(row) :])


def test_filling_that_no_row_needs_changes_nothing():
    model, ids = make_model(**ROTARY[2]).double(), torch.randint(50, (2, 9))
    filled = torch.cat([torch.zeros(2, 4, dtype=torch.long), ids], dim=1)
    text = generate(model, filled, 40, temperature=0, padding=torch.tensor([4, 4]))
    assert torch.equal(text[:, 4:], generate(model, ids, 40, temperature=0))


def test_newer_half_by_hand():
    assert newer_half(torch.tensor([0, 1, 30]), 33, 32).tolist() == [17, 1, 30]
    for n_tokens, n_read in ((32, 32), (33, 16), (100, 16)):
        assert n_tokens - newer_half(torch.tensor([0]), n_tokens, 32).item() == n_read
    assert newer_half(torch.tensor([0]), 2, 1).tolist() == [1]


@pytest.mark.parametrize("kind", KINDS[::3], ids=IDS[::3])
@pytest.mark.parametrize("use_cache", [True, False])
# guards against: a batch that stops when one row does
def test_rows_with_different_lengths_and_ends(kind, use_cache):
    model = make_model(context=32, vocab_size=12, **kind).double()
    rows = [torch.randint(12, (n,)) for n in (3, 8, 1, 5, 2)]
    eos = generate(model, rows[0][None], 6, temperature=0)[0, -1].item()  # so that row 0 ends, and early
    ids, padding = pad_left(rows)
    options = {"temperature": 0, "eos_id": eos, "use_cache": use_cache}
    batch = generate(model, ids, 20, padding=padding, **options)[:, 8:]
    lengths = []
    for row, continued in zip(rows, batch.tolist()):
        alone = generate(model, row[None], 20, **options)[0, len(row) :].tolist()
        lengths.append(len(alone))
        assert continued == alone + [eos] * (len(continued) - len(alone))
        assert eos not in alone[:-1] and (alone[-1] == eos or len(alone) == 20)
    assert lengths[0] <= 6 and len(set(lengths)) > 1 and batch.size(1) == max(lengths)


@pytest.mark.parametrize("kind", KINDS[::3], ids=IDS[::3])
@pytest.mark.parametrize("capacity", [0, 1, 3, 256])
@torch.no_grad()
def test_growing_changes_nothing(kind, capacity):
    model, ids = make_model(context=20, **kind), torch.randint(50, (2, 20))
    cache, whole, seen, past = KVCache(model.config, capacity), model(ids), [], None
    for t in range(20):
        assert close(model(ids[:, t : t + 1], cache)[:, 0], whole[:, t])
        layer = cache[1]
        seen.append(layer.capacity)
        assert layer.keys.size(2) == layer.values.size(2) == layer.capacity and layer.length == t + 1
        if past is not None:  # what was there is still there, wherever it lies now
            assert torch.equal(layer.keys[:, :, :t], past[0]) and torch.equal(layer.values[:, :, :t], past[1])
        past = [tensor[:, :, : t + 1].clone() for tensor in (layer.keys, layer.values)]
    doublings = {0: [1, 2, 4, 8, 16, 20], 1: [1, 2, 4, 8, 16, 20], 3: [3, 6, 12, 20], 256: [20]}[capacity]
    assert sorted(set(seen)) == doublings and seen == sorted(seen)
    assert all(capacity >= n for n, capacity in enumerate(seen, 1))


def test_growing_to_a_long_piece_doubles_until_it_fits():
    layer = LayerCache(limit=100, capacity=3)
    layer.append(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4))
    keys, values = layer.append(torch.zeros(1, 1, 19, 4), torch.zeros(1, 1, 19, 4))
    assert layer.capacity == 24 and keys.shape == values.shape == (1, 1, 21, 4)
    assert keys[0, 0, :, 0].tolist() == [1] * 2 + [0] * 19


def test_a_layer_on_its_own_keeps_every_token():
    """The limit of the context is the model's: a layer past it loses nothing in silence."""
    layer, tokens = LayerCache(limit=4, capacity=2), torch.randn(1, 2, 7, 8)
    for t in range(7):
        keys, values = layer.append(tokens[:, :, t : t + 1], -tokens[:, :, t : t + 1])
    assert torch.equal(keys, tokens) and torch.equal(values, -tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    "kind", [{}, {"n_kv_heads": 1, "position": "rope"}, {"n_layers": 3, "n_kv_heads": 2}], ids=str
)
@torch.no_grad()
def test_the_bytes_are_those_of_the_formula(kind, dtype):
    model = make_model(context=20, **kind).to(dtype)
    cache = KVCache(model.config, capacity=5)
    assert cache.n_bytes == 0 and cache.length == 0
    for t, capacity in ((5, 5), (1, 10), (5, 20), (9, 20)):
        model(torch.randint(50, (3, t)), cache)
        assert cache.n_bytes == cache_bytes(model.config, 3, capacity, dtype)
    heads = kind.get("n_kv_heads", 4)
    assert cache.n_bytes == 2 * kind.get("n_layers", 2) * 3 * heads * 20 * 8 * dtype.itemsize
    assert cache.length == 20


def test_cache_bytes_by_hand():
    config = GPTConfig(10, 8, d_model=12, n_heads=6, n_layers=5, n_kv_heads=3)
    assert cache_bytes(config, 7, 11) == 2 * 5 * 7 * 3 * 11 * 2 * 4
    assert cache_bytes(config, 7, 11, torch.bfloat16) == cache_bytes(config, 7, 11) // 2


@torch.no_grad()
def test_a_full_cache_says_so_and_stays_as_it_was():
    model, ids = make_model(), torch.randint(50, (1, 16))
    cache = KVCache(model.config)
    whole = model(ids, cache)
    with pytest.raises(ValueError, match="17 tokens are more than context_length=16"):
        model(torch.randint(50, (1, 1)), cache)
    assert cache.length == 16
    cache.rewind(10)
    with pytest.raises(ValueError, match="17 tokens are more than context_length=16"):
        model(torch.randint(50, (1, 7)), cache)
    assert close(model(ids[:, 10:], cache), whole[:, 10:])


@pytest.mark.parametrize("rows", [(1, 3), (3, 1)], ids=str)
@pytest.mark.parametrize("capacity", [3, 256])
@torch.no_grad()
def test_another_batch_size_is_refused(rows, capacity):
    """Also when the cache must grow for it."""
    model = make_model()
    cache, ids = KVCache(model.config, capacity), torch.randint(50, (3, 5))
    model(ids[: rows[0], :3], cache)
    with pytest.raises(
        ValueError, match=f"the cache holds {rows[0]} rows and {rows[1]} came; make a new one"
    ):
        model(ids[: rows[1], 3:], cache)
    assert cache.length == 3
    whole = model(ids[: rows[0]])
    assert close(model(ids[: rows[0], 3:], cache), whole[:, 3:])  # and goes on


@pytest.mark.parametrize("kind", KINDS[::3], ids=IDS[::3])
@pytest.mark.parametrize("length", [0, 1, 6, 12])
@torch.no_grad()
# guards against: positions that restart with a cache
def test_rewind_and_go_on_equals_a_fresh_cache(kind, length):
    model, (ids, others) = make_model(**kind), torch.randint(50, (2, 2, 16))
    cache = KVCache(model.config, capacity=4)
    model(others, cache)
    cache.rewind(0)
    model(ids[:, :12], cache)
    cache.rewind(length)
    assert cache.length == length
    text = torch.cat([ids[:, :length], others[:, length:]], dim=1)
    assert close(model(others[:, length:], cache), model(text)[:, length:])


@pytest.mark.parametrize("length", [-1, 6])
def test_rewind_needs_so_many_tokens(length):
    model = make_model()
    cache = KVCache(model.config)
    model(torch.randint(50, (1, 5)), cache)
    with pytest.raises(ValueError, match=f"cannot rewind to {length} tokens: the cache holds 5"):
        cache.rewind(length)
    assert cache.length == 5


@pytest.mark.parametrize("held", [1, 5, 8])
@torch.no_grad()
def test_a_cache_given_to_generate_steps_holds_the_beginning_of_the_text(held):
    model, ids = make_model(**ROTARY[0]).double(), torch.randint(50, (2, 9))
    cache = KVCache(model.config)
    model(ids[:, :held], cache)
    steps = torch.stack(list(generate_steps(model, ids, 6, cache=cache, temperature=0)), dim=1)
    assert torch.equal(steps, generate(model, ids, 6, temperature=0)[:, 9:])
    assert cache.length == 14  # all but the last token are in it
    text = torch.cat([ids, steps], dim=1)
    with pytest.raises(ValueError, match="17 tokens are more than context_length=16"):
        list(generate_steps(model, text, 6, cache=cache, temperature=0))  # the 15th and 16th go in


def test_a_cache_with_the_whole_text_leaves_nothing_to_read():
    model, ids = make_model(), torch.randint(50, (1, 12))
    cache = KVCache(model.config)
    model(ids, cache)
    with pytest.raises(IndexError):
        next(generate_steps(model, ids, 6, cache=cache))


@pytest.mark.parametrize("kind", KINDS[::3], ids=IDS[::3])
@pytest.mark.parametrize("held", [1, 20, 29])
@pytest.mark.parametrize("penalty", [0.7, 1.1, 1.5])
@torch.no_grad()
def test_the_penalty_sees_what_is_in_the_cache(kind, held, penalty):
    """The same 30 ids, the first of them given through a cache: the same continuation."""
    model, ids = make_model(context=64, **kind).double(), torch.randint(50, (3, 30))
    cache, options = KVCache(model.config), {"temperature": 0, "repetition_penalty": penalty}
    model(ids[:, :held], cache)
    steps = torch.stack(list(generate_steps(model, ids, 20, cache=cache, **options)), dim=1)
    assert torch.equal(steps, generate(model, ids, 20, **options)[:, 30:])
    assert torch.equal(steps, generate(model, ids, 20, use_cache=False, **options)[:, 30:])
    assert not torch.equal(steps, generate(model, ids, 20, temperature=0)[:, 30:])


@torch.no_grad()
def test_turns_of_a_conversation_equal_the_conversation_read_anew():
    """One cache for several turns, as a chat keeps it; whatever was put in between."""
    model, text = make_model(context=64, **ROTARY[2]).double(), torch.randint(50, (1, 7))
    cache, options = KVCache(model.config), {"temperature": 0, "repetition_penalty": 1.2}
    for _ in range(4):
        anew = generate(model, text, 6, **options)
        steps = torch.stack(list(generate_steps(model, text, 6, cache=cache, **options)), dim=1)
        assert torch.equal(anew[:, text.size(1) :], steps)
        text = torch.cat([anew, torch.randint(50, (1, 3))], dim=1)
    cache.rewind(10)  # a turn is taken back
    text = text[:, :20]
    steps = torch.stack(list(generate_steps(model, text, 6, cache=cache, **options)), dim=1)
    assert torch.equal(generate(model, text, 6, **options)[:, 20:], steps)


# ---------------------------------------------------------------- rows of different lengths


def test_pad_left():
    ids, padding = pad_left([[1, 2], torch.tensor([3]), (4, 5, 6)], pad_id=9)
    assert ids.tolist() == [[9, 1, 2], [9, 9, 3], [4, 5, 6]] and padding.tolist() == [1, 2, 0]
    assert ids.dtype == padding.dtype == torch.long
    ids, padding = pad_left([[1, 2], [3, 4]])
    assert ids.tolist() == [[1, 2], [3, 4]] and padding.tolist() == [0, 0]


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.5}, {"top_k": 5, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
# guards against: temperature 0, and a top-k out of range or with ties
def test_temperature_zero_is_greedy(options, dtype):
    logits = torch.stack([torch.randperm(50) for _ in range(40)]).to(dtype) - 25
    assert torch.equal(sample_next(logits, temperature=0, **options), logits.argmax(-1))
    assert torch.equal(sample_next(logits, temperature=0.0, **options), logits.argmax(-1))


COLD = [1e-3, 1e-10, 1e-30, 1e-37, 1e-38, 1e-39, 1e-45, 1e-46, 1e-100, 1e-320, 5e-324]


@pytest.mark.parametrize("temperature", COLD)
@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.5}, {"top_k": 5, "top_p": 1.0}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
# guards against: temperature 0, and a top-k out of range or with ties
def test_however_cold_it_is_greedy(temperature, options, dtype):
    logits = torch.stack([torch.randperm(50) for _ in range(40)]).to(dtype) - 25
    assert torch.equal(sample_next(logits, temperature, **options), logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e-46, 1e-320])
def test_a_very_low_temperature_generates(temperature):
    model, ids = make_model(), torch.randint(50, (2, 5))
    for options in ({}, {"top_k": 5}, {"top_p": 0.9}, {"repetition_penalty": 1.2}):
        greedy = generate(model, ids, 30, temperature=0, **options)
        assert torch.equal(generate(model, ids, 30, temperature=temperature, **options), greedy)


@pytest.mark.parametrize("temperature", [1e10, 1e38, 1e39, 1e300])
def test_however_hot_it_is_even(temperature):
    logits = torch.tensor([0.0, 5.0, -20.0, 7.0]).expand(20_000, -1)
    draws = sample_next(logits, temperature, generator=torch.Generator().manual_seed(0))
    found, degrees = chi_squared(draws, [0.25] * 4)
    assert found < chi_squared_limit(degrees)


@pytest.mark.parametrize("kind", KINDS[::3], ids=IDS[::3])
@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.5}], ids=str)
@torch.no_grad()
def test_greedy_generation_is_the_argmax_at_every_step(kind, options):
    model, ids = make_model(**kind).double(), torch.randint(50, (2, 3))
    by_hand = ids
    for _ in range(12):
        by_hand = torch.cat([by_hand, model(by_hand)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(generate(model, ids, 12, temperature=0, **options), by_hand)
    assert torch.equal(generate(model, ids, 12, top_k=1), by_hand)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 9, 1000])
# guards against: temperature 0, and a top-k out of range or with ties
def test_top_k_keeps_exactly_k(k):
    rows = [[1.0, 1, 1, 1, 0, 0, 0, 0], [0.0, 1, 2, 3, 4, 5, 6, 7], [3.0] * 8, [7.0, 6, 5, 4, 3, 2, 1, 0]]
    logits = torch.tensor(rows)
    filtered = top_k_filter(logits, k)
    kept = filtered.isfinite()
    assert kept.sum(-1).tolist() == [min(k, 8)] * 4
    assert kept[1].tolist() == [i >= 8 - k for i in range(8)]
    assert kept[3].tolist() == [i < k for i in range(8)]
    assert torch.equal(filtered[kept], logits[kept]) and (filtered[~kept] == -math.inf).all()
    for row, dropped in zip(logits, ~kept):  # what is kept is never worse than what is not
        assert not dropped.any() or row[~dropped].min() >= row[dropped].max()
    assert logits.tolist() == rows  # the argument is left alone


@pytest.mark.parametrize(
    ("p", "kept"), [(1e-9, 1), (0.5, 1), (0.51, 2), (0.79, 2), (0.9, 3), (0.99, 4), (1.0, 4)]
)
# guards against: top-p that drops the token at the threshold
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, kept):
    probabilities = torch.tensor([[0.05, 0.5, 0.15, 0.3], [0.3, 0.05, 0.5, 0.15]])
    filtered = top_p_filter(probabilities.log(), p)
    assert filtered.isfinite().sum(-1).tolist() == [kept, kept]
    least = probabilities.sort(descending=True).values[:, kept - 1 : kept]
    assert torch.equal(filtered.isfinite(), probabilities >= least)
    assert torch.equal(filtered[filtered.isfinite()], probabilities.log()[filtered.isfinite()])


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=6, max_size=6), min_size=1, max_size=4),
    st.fractions(min_value=Fraction(1, 10**6), max_value=1),
)
@settings(max_examples=300)
# guards against: top-p that drops the token at the threshold
def test_top_p_equals_a_loop(weights, p):
    filtered = top_p_filter(torch.tensor(weights).float().log() + 3, float(p))
    for row, kept in zip(weights, filtered.isfinite()):
        reached, n = Fraction(0), 0
        for weight in sorted(row, reverse=True):
            assume(abs(reached - p) > 1e-6 or reached == p == 1)  # nearer than float32 can tell
            if reached >= p:
                break
            reached, n = reached + Fraction(weight, sum(row)), n + 1
        assert kept.sum() == n >= 1
        values = torch.tensor(row)
        assert kept.all() or values[kept].min() >= values[~kept].max()


# guards against: top-p that drops the token at the threshold
@given(st.lists(st.integers(1, 60), min_size=2, max_size=9), st.integers(0, 8), st.floats(-12, 12))
@settings(max_examples=400)
def test_top_p_at_the_edge_equals_exact_fractions(weights, n, shift):
    """p is what the best n + 1 add up to, exactly: they are enough, however the sums are rounded."""
    ordered, n = sorted(weights, reverse=True), min(n, len(weights) - 1)
    reached = Fraction(sum(ordered[: n + 1]), sum(weights))
    kept = top_p_filter((torch.tensor(weights).double().log() + shift).float()[None], float(reached))
    assert kept.isfinite().sum() == n + 1


@pytest.mark.parametrize(
    ("shares", "p", "kept"),
    [
        ((0.5, 0.3, 0.1, 0.1), 0.8, 2),
        ((0.5, 0.3, 0.1, 0.1), 0.9, 3),
        ((0.4, 0.4, 0.2), 0.8, 2),
        ((0.4, 0.4, 0.2), 0.81, 3),
        ((0.7, 0.2, 0.1), 0.9, 2),
        ((0.6, 0.3, 0.1), 0.9, 2),
        ((0.1,) * 10, 0.7, 7),
        ((0.1,) * 10, 0.3, 3),
        ((0.001,) * 1000, 0.95, 950),
        ((0.99, 0.01), 0.99, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
# guards against: top-p that drops the token at the threshold
def test_top_p_of_sums_that_are_rounded(shares, p, kept, dtype):
    logits = torch.tensor(shares, dtype=torch.float64).log().to(dtype)
    for shift in (0, 1, -7.3):
        assert top_p_filter(logits[None] + shift, p).isfinite().sum() == kept
        assert top_p_filter(logits + shift, p).isfinite().sum() == kept  # one row, without a batch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [0.1, 1, 5, 100], ids=str)
# guards against: top-p that drops the token at the threshold
def test_top_p_one_changes_nothing(dtype, scale):
    logits = (scale * torch.randn(3, 50_257)).to(dtype)
    for p in (1, 1.0):
        assert torch.equal(top_p_filter(logits, p), logits)
    logits[:, ::2] = -math.inf  # after a top-k, say
    assert torch.equal(top_p_filter(logits, 1.0), logits)


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.9, 0.99, 0.999, 0.99999, 0.9999999])
@pytest.mark.parametrize("scale", [0.1, 1, 3, 10])
def test_top_p_of_a_large_vocabulary_equals_float64(p, scale):
    """Told apart to a hundred-thousandth of what is left out, so that p near 1 keeps its tail."""
    logits = scale * torch.randn(4, 50_257)
    ordered = logits.double().softmax(-1).sort(descending=True).values
    before = ordered.cumsum(-1) - ordered
    kept = top_p_filter(logits, p).isfinite().sum(-1)
    least, most = ((before < 1 - (1 - p) * margin).sum(-1).clamp(min=1) for margin in (1 + 1e-5, 1 - 1e-5))
    assert (least <= kept).all() and (kept <= most).all()


# guards against: top-p that drops the token at the threshold
def test_top_p_after_top_k_sees_renormalised_probabilities():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    # of the best two the first has 0.571, so it reaches 0.55 alone; of all four it does not
    draws = sample_next(
        logits.expand(500, -1), top_k=2, top_p=0.55, generator=torch.Generator().manual_seed(0)
    )
    assert (draws == 0).all()


def filtered_softmax(logits, temperature=1.0, top_k=None, top_p=None):
    """The probabilities that sample_next should follow, by loops over Python numbers."""
    weights = {index: math.exp(logit / temperature) for index, logit in enumerate(logits)}
    best_first = sorted(weights, key=weights.get, reverse=True)[:top_k]
    total, kept, reached = sum(weights[index] for index in best_first), [], 0.0
    for index in best_first:
        if top_p is not None and reached >= top_p:
            break
        kept.append(index)
        reached += weights[index] / total
    total = sum(weights[index] for index in kept)
    return [weights[index] / total if index in kept else 0.0 for index in range(len(logits))]


def chi_squared_limit(degrees):
    """What chi-squared exceeds once in 1,000 times, by Wilson and Hilferty's approximation."""
    return degrees * (1 - 2 / (9 * degrees) + 3.09 * math.sqrt(2 / (9 * degrees))) ** 3


def chi_squared(draws, probabilities):
    """(chi-squared, degrees of freedom); ids that are expected less than 5 times count as one."""
    n, counts = len(draws), torch.bincount(draws, minlength=len(probabilities)).tolist()
    assert all(count == 0 for count, p in zip(counts, probabilities) if p == 0)
    cells = [(count, n * p) for count, p in zip(counts, probabilities) if n * p >= 5]
    rare = [(count, n * p) for count, p in zip(counts, probabilities) if 0 < n * p < 5]
    if rare and sum(expected for _, expected in rare) >= 5:
        cells.append(tuple(map(sum, zip(*rare))))
    return sum((count - expected) ** 2 / expected for count, expected in cells), len(cells) - 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 4},
        {"top_k": 12, "temperature": 1.5},
        {"top_p": 0.8},
        {"top_p": 0.95, "temperature": 0.7},
        {"top_k": 5, "top_p": 0.9},
        {"top_k": 20, "top_p": 0.6, "temperature": 1.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_vocab", [6, 40])
# guards against: sampling from logarithms
def test_frequencies_follow_the_filtered_softmax(options, n_vocab):
    logits = 1.5 * torch.randn(n_vocab, generator=torch.Generator().manual_seed(n_vocab))
    generator = torch.Generator().manual_seed(0)
    draws = sample_next(logits.expand(20_000, -1), **options, generator=generator)
    found, degrees = chi_squared(draws, filtered_softmax(logits.tolist(), **options))
    assert degrees >= 1 and found < chi_squared_limit(degrees)
    if options:  # a test that cannot fail says nothing: the plain softmax is told apart
        plain = logits.softmax(-1).tolist()
        assert chi_squared(draws, plain)[0] > chi_squared_limit(n_vocab - 1)


def test_the_limit_of_chi_squared_is_that_of_the_tables():
    for degrees, limit in ((3, 16.27), (5, 20.52), (10, 29.59), (39, 72.05)):
        assert abs(chi_squared_limit(degrees) - limit) < 0.05 * limit


def test_each_row_is_drawn_from_its_own_probabilities():
    logits = torch.tensor([[0.0, 1, 2, 3], [3.0, 2, 1, 0]]).repeat_interleave(10_000, dim=0)
    draws = sample_next(logits, top_k=3, generator=torch.Generator().manual_seed(0)).view(2, -1)
    for row, some in zip(logits[::10_000], draws):
        found, degrees = chi_squared(some, filtered_softmax(row.tolist(), top_k=3))
        assert found < chi_squared_limit(degrees)


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.2, 3.0])
def test_penalise_repeats_equals_a_loop(penalty):
    logits, ids = torch.randn(4, 12), torch.randint(12, (4, 9))
    wanted = logits.tolist()
    for row, seen in zip(wanted, ids.tolist()):
        for index in set(seen):  # once, however often it occurred
            row[index] = row[index] / penalty if row[index] > 0 else row[index] * penalty
    before = logits.clone()
    assert torch.allclose(penalise_repeats(logits, ids, penalty), torch.tensor(wanted), atol=1e-6)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("penalty", [0.001, 0.01, 30.0, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_an_extreme_penalty_stays_finite(penalty, dtype):
    model, ids = make_model().to(dtype), torch.randint(50, (2, 5))
    logits = 30 * torch.randn(4, 12)
    assert penalise_repeats(logits, torch.randint(12, (4, 30)), penalty).isfinite().all()
    for options in ({}, {"top_p": 0.9}, {"temperature": 0}):
        text = generate(model, ids, 40, repetition_penalty=penalty, **options)
        assert text.shape == (2, 45) and (text < 50).all()


@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_the_penalty_sees_the_whole_text(use_cache):
    model, ids = make_model(**ROTARY[0]).double(), torch.randint(50, (2, 5))
    text = generate(model, ids, 25, temperature=0, repetition_penalty=1.7, use_cache=use_cache)
    for n, start in enumerate(window_starts(5, 25, 16), 5):
        logits = model(text[:, start:n])[:, -1]
        assert torch.equal(text[:, n], penalise_repeats(logits, text[:, :n], 1.7).argmax(-1))
    assert not torch.equal(text, generate(model, ids, 25, temperature=0))


@torch.no_grad()
def test_the_penalty_of_a_16_bit_model_is_computed_in_32_bits():
    """Rounded to 16 bits again, penalised logits are often equal, and the first of them would win."""
    model, ids = make_model(context=64, vocab_size=500).bfloat16(), torch.randint(500, (16, 5))
    text = generate(model, ids, 40, temperature=0, repetition_penalty=1.05, use_cache=False)
    for n in range(5, 45):
        logits = model(text[:, :n], last_only=True)[:, -1].float()
        assert torch.equal(text[:, n], penalise_repeats(logits, text[:, :n], 1.05).argmax(-1))


def test_the_filling_is_not_penalised():
    model = make_model(vocab_size=12, **ROTARY[0]).double()
    rows = [torch.tensor([3]), torch.randint(12, (8,))]
    for pad_id in range(12):
        ids, padding = pad_left(rows, pad_id)
        options = {"temperature": 0, "repetition_penalty": 3.0}
        batch = generate(model, ids, 8, padding=padding, **options)
        assert torch.equal(batch[0, 8:], generate(model, rows[0][None], 8, **options)[0, 1:])


@pytest.mark.parametrize("options", [{}, {"top_k": 10}, {"top_p": 0.9}, {"temperature": 1.5}], ids=str)
def test_a_generator_makes_it_reproducible(options):
    model, ids = make_model(), torch.randint(50, (2, 3))
    a, b, c = (
        generate(model, ids, 20, generator=torch.Generator().manual_seed(seed), **options)
        for seed in (1, 1, 2)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    generate(model, ids, 5, generator=torch.Generator().manual_seed(1), **options)
    assert torch.equal(torch.get_rng_state(), before)  # only the generator moves


class Counting(nn.Module):
    """Says the id after the last one, so a row that starts at 3 ends (id 9) after 6 steps."""

    @property
    def config(self):
        return GPTConfig(10, 16, 2, 1, 1)

    def forward(self, ids, cache=None, positions=None, mask=None, last_only=False):
        return F.one_hot((ids + 1) % 10, 10).float() * 100


@pytest.mark.parametrize("temperature", [0, 1.0])
# guards against: a batch that stops when one row does
def test_each_row_stops_at_its_own_end(temperature):
    options = {"eos_id": 9, "use_cache": False, "temperature": temperature}
    ids = generate(Counting(), torch.tensor([[3], [7], [9]]), 100, **options)
    # the end counts when it is generated; one in the prompt is only text
    assert ids[:2, :7].tolist() == [[3, 4, 5, 6, 7, 8, 9], [7, 8, 9, 9, 9, 9, 9]]
    assert ids[2].tolist() == [9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9] and (ids[:2, 7:] == 9).all()
    assert ids.size(1) == 11
    ids = generate(Counting(), torch.tensor([[3], [7]]), 4, **options)
    assert ids.tolist() == [[3, 4, 5, 6, 7], [7, 8, 9, 9, 9]]


# guards against: ids that the tokenizer cannot decode
def test_ids_that_the_tokenizer_does_not_know_are_never_chosen():
    class Padded(Counting):
        def forward(self, *args, **kwargs):
            logits = torch.zeros(1, 1, 10)
            logits[..., 7:] = 100.0
            return logits

    ids = torch.tensor([[3]])
    for options in ({"temperature": 0}, {}, {"top_k": 1}, {"top_p": 0.1}):
        steps = generate_steps(Padded(), ids, 50, use_cache=False, n_vocab=7, **options)
        assert all(step.item() < 7 for step in steps)
        steps = generate_steps(Padded(), ids, 50, use_cache=False, **options)
        assert all(step.item() >= 7 for step in steps)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_left_alone(training):
    model = make_model(dropout=0.5).train(training)
    ids = generate(model, torch.randint(50, (1, 3)), 5)
    assert model.training == training and not ids.requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"temperature": -1.0},
            "temperature=-1.0 must be finite and at least 0",
            # guards against: temperature 0, and a top-k out of range or with ties
        ),
        ({"temperature": math.inf}, "temperature=inf must be finite and at least 0"),
        ({"temperature": math.nan}, "temperature=nan must be finite and at least 0"),
        ({"top_k": 0}, "top_k=0 at least 1"),
        ({"top_p": math.nan}, "top_p=nan must be above 0 and at most 1"),
        ({"top_p": -0.0}, "top_p=-0.0 must be above 0 and at most 1"),
        ({"repetition_penalty": math.nan}, "repetition_penalty=nan must be 0.001 to 1,000"),
        ({"repetition_penalty": math.inf}, "repetition_penalty=inf must be 0.001 to 1,000"),
        ({"repetition_penalty": 1e39}, r"repetition_penalty=1e\+39 must be 0.001 to 1,000"),
        ({"repetition_penalty": 1e-46}, "repetition_penalty=1e-46 must be 0.001 to 1,000"),
        ({"top_p": 95}, "top_p=95 must be above 0 and at most 1; leave it out to keep all tokens"),
        (
            {"repetition_penalty": 0},
            "repetition_penalty=0 must be 0.001 to 1,000; 1.2 is usual, 1 does nothing",
        ),
        ({"eos_id": 50}, "eos_id=50 is not one of this model.s ids; take the tokenizer.s eot_token"),
        ({"padding": torch.tensor([3])}, r"padding=\[3\] leaves no token in a row, or is negative"),
    ],
    ids=str,
)
@pytest.mark.parametrize("use_cache", [True, False])
def test_what_would_go_wrong_in_silence_is_refused(options, message, use_cache):
    with pytest.raises(ValueError, match=message):
        generate(make_model(), torch.zeros(1, 3, dtype=torch.long), 2, use_cache=use_cache, **options)


def test_padding_of_an_empty_row_is_refused():
    """pad_left fills it up, and then there is nothing to go on from."""
    ids, padding = pad_left([[1, 2], torch.tensor([], dtype=torch.long)])
    with pytest.raises(ValueError, match=r"padding=\[0, 2\] leaves no token in a row"):
        generate(make_model(), ids, 3, padding=padding)


# ---------------------------------------------------------------- the same as transformers


def theirs(kind):
    torch.manual_seed(0)
    shared = {"vocab_size": 61, "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": None}
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=4, **shared)).eval()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    heads = {"num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": kind == "tied"}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **shared)).eval()


def converted(reference):
    config = config_from_hf(reference.config.to_dict())
    model = GPT(config).eval()
    model.load_state_dict(from_hf(reference.state_dict(), config))
    return model


def greedy(reference, ids, max_new_tokens, **options):
    """transformers takes ids that equal pad_token_id for filling, unless there is a mask."""
    options = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0} | options
    return reference.generate(ids, max_new_tokens=max_new_tokens, do_sample=False, **options)


@pytest.mark.parametrize("kind", ["gpt2", "tied", "untied"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_generation_equals_transformers(kind, use_cache):
    reference = theirs(kind)
    model, ids = converted(reference), torch.randint(61, (3, 7))
    assert torch.equal(
        generate(model, ids, 40, temperature=0, use_cache=use_cache), greedy(reference, ids, 40)
    )


@pytest.mark.parametrize("kind", ["gpt2", "tied", "untied"])
# guards against: logits read at the padding
def test_greedy_generation_of_padded_rows_equals_transformers(kind):
    reference = theirs(kind)
    ids, padding = pad_left([torch.randint(61, (n,)) for n in (2, 9, 5)])
    mask = (torch.arange(9) >= padding[:, None]).long()
    wanted = greedy(reference, ids, 40, attention_mask=mask)
    assert torch.equal(generate(converted(reference), ids, 40, temperature=0, padding=padding), wanted)
    assert not torch.equal(greedy(reference, ids, 40), wanted)  # the filling would matter


@pytest.mark.parametrize("kind", ["gpt2", "tied"])
def test_ends_and_penalties_equal_transformers(kind):
    reference, ids = theirs(kind), torch.randint(61, (4, 5))
    model, plain = converted(reference), greedy(reference, ids, 30)
    eos = plain[1, 12].item()
    wanted = greedy(reference, ids, 30, eos_token_id=eos, pad_token_id=eos)
    assert torch.equal(generate(model, ids, 30, temperature=0, eos_id=eos), wanted)
    assert not torch.equal(wanted, plain)
    wanted = greedy(reference, ids, 30, repetition_penalty=1.3)
    assert torch.equal(generate(model, ids, 30, temperature=0, repetition_penalty=1.3), wanted)
    assert not torch.equal(wanted, plain)


# ---------------------------------------------------------------- text


@pytest.fixture(scope="module")
def speaker(tokenizer):
    return make_model(vocab_size=tokenizer.n_vocab)


class Scripted(nn.Module):
    """Says the given ids, one after another."""

    def __init__(self, script, n_vocab):
        super().__init__()
        self.config = GPTConfig(n_vocab, 64, 2, 1, 1)
        self.lm_head, self.script = nn.Linear(2, n_vocab, bias=False), iter(script)

    def forward(self, ids, cache=None, positions=None, mask=None, last_only=False):
        logits = F.one_hot(torch.tensor([[next(self.script)]]), self.config.vocab_size).float()
        return 100 * logits.expand(len(ids), -1, -1)


PROMPTS = ["", "HAMLET:", "<|endoftext|>", "\ud83d", "a\udc1a\x00", "é🐚 " * 30, " ", "\n\n", "x" * 500]


@pytest.mark.parametrize("prompt", PROMPTS, ids=ascii)
@pytest.mark.parametrize("use_cache", [True, False])
def test_stream_takes_any_prompt(speaker, tokenizer, prompt, use_cache):
    generator = torch.Generator().manual_seed(0)
    pieces = list(stream(speaker, tokenizer, prompt, 30, generator=generator, use_cache=use_cache))
    assert all(pieces) and all(isinstance(piece, str) for piece in pieces)
    "".join(pieces).encode()  # no half surrogates, so it can be printed


@pytest.mark.parametrize("prompt", ["HAMLET:\n", "", "a <|endoftext|> b", "O love, " * 20])
@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_p": 0.9}, {}], ids=str)
# guards against: special tokens merged, miscounted or injected
# guards against: bytes that pass through text
def test_stream_joins_to_what_generate_gives(speaker, tokenizer, prompt, options):
    eot = tokenizer.eot_token
    prompt_ids = tokenizer.encode_ordinary(prompt) or [eot]
    assert prompt == "" or eot not in prompt_ids
    ids = torch.tensor([prompt_ids])
    options = options | {"eos_id": eot}
    whole = generate(speaker, ids, 60, **options, generator=torch.Generator().manual_seed(0))
    new = [index for index in whole[0, ids.size(1) :].tolist() if index != eot]
    pieces = stream(speaker, tokenizer, prompt, 60, **options, generator=torch.Generator().manual_seed(0))
    assert "".join(pieces) == tokenizer.decode(new)


@pytest.mark.parametrize("text", ["é🐚数", "a\u0301é", "naïve 🐚🐚", "ß" * 5])
# guards against: bytes that pass through text
def test_no_character_is_cut(tokenizer, text):
    """One byte a token, and yet each piece is whole characters."""
    script = [*text.encode(), tokenizer.eot_token]
    pieces = list(stream(Scripted(script, tokenizer.n_vocab), tokenizer, "x", 100, use_cache=False))
    assert pieces == list(text)


def test_stream_ends_at_the_end_of_text(tokenizer):
    script = [*b"ab", tokenizer.eot_token, *b"cd"]
    assert list(stream(Scripted(script, tokenizer.n_vocab), tokenizer, "", 100, use_cache=False)) == [
        "a",
        "b",
    ]
    script = [*b"abcd", *"é".encode()[:1]]
    pieces = stream(Scripted(script, tokenizer.n_vocab), tokenizer, "", 5, use_cache=False)
    assert "".join(pieces) == "abcd\ufffd"  # broken off in the middle of a character


# guards against: ids that the tokenizer cannot decode
def test_stream_never_says_ids_that_only_pad_the_vocabulary(tokenizer):
    n_vocab = tokenizer.n_vocab + 40
    model = make_model(vocab_size=n_vocab, tie_weights=False)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.n_vocab :] = 0
        model.lm_head.weight[: tokenizer.n_vocab] *= 0.01
        model.norm.weight.zero_()
        model.lm_head.weight[tokenizer.eot_token] = 0
    options = {"generator": torch.Generator().manual_seed(0), "temperature": 1.0}
    assert "".join(stream(model, tokenizer, "O", 60, **options))  # else: token id ... is outside
    drawn = generate(model, torch.tensor([[1]]), 200, generator=torch.Generator().manual_seed(0))
    assert (drawn >= tokenizer.n_vocab).any()  # without the limit they are drawn


def test_no_new_tokens_are_none(speaker, tokenizer):
    assert list(stream(speaker, tokenizer, "a", 0)) == []
    ids = torch.randint(10, (2, 3))
    assert torch.equal(generate(speaker, ids, 0), ids)


@given(
    st.lists(st.integers(0, 255) | st.sampled_from([0xC3, 0xA9, 0xE2, 0x82, 0xF0, 0x9F, 0xFF]), max_size=20)
)
@settings(max_examples=300)
# guards against: bytes that pass through text
def test_pieces_of_any_bytes_join_to_the_decoded_bytes(some):
    spelled = SimpleNamespace(decode_bytes=bytes)
    pieces = list(decode_pieces(spelled, some))
    assert "".join(pieces) == bytes(some).decode("utf-8", "replace") and all(pieces)


def test_pieces_come_as_soon_as_they_are_whole(tokenizer):
    arrived = []

    def ids():
        for byte in "aé!".encode():
            arrived.append(byte)
            yield byte

    seen = [(piece, len(arrived)) for piece in decode_pieces(tokenizer, ids())]
    assert seen == [("a", 1), ("é", 3), ("!", 4)]


@torch.no_grad()
def surprise_by_hand(model, ids, start, t):
    return -model(ids[None, start:t])[0, -1].float().log_softmax(-1)[ids[t]].item()


@pytest.mark.parametrize("context", [1, 2, 7, 16])
@pytest.mark.parametrize("n_tokens", [1, 2, 7, 8, 15, 16, 17, 24, 25, 60])
def test_surprises_equal_a_computation_token_by_token(tokenizer, context, n_tokens):
    model = make_model(context=context, vocab_size=tokenizer.n_vocab)
    text = "".join(itertools.islice(itertools.cycle("Romeo, é!\n"), n_tokens * 4))
    while len(tokenizer.encode_ordinary(text)) > n_tokens:
        text = text[:-1]
    ids = torch.tensor([tokenizer.eot_token, *tokenizer.encode_ordinary(text)])
    tokens, nats = surprises(model, tokenizer, text)
    assert b"".join(tokens) == text.encode() and len(tokens) == len(nats) == len(ids) - 1
    assert nats.dtype == torch.float32
    stride = max(1, context // 2)
    for t in range(1, len(ids)):
        start = stride * max(0, math.ceil((t - context) / stride))
        assert t - start <= context and (start == 0 or t - start >= context / 2)
        assert abs(nats[t - 1] - surprise_by_hand(model, ids, start, t)) < 1e-4


# guards against: special tokens merged, miscounted or injected
def test_surprises_of_special_tokens_are_those_of_text(speaker, tokenizer):
    tokens, nats = surprises(speaker, tokenizer, "a<|endoftext|>")
    assert b"".join(tokens) == b"a<|endoftext|>" and len(tokens) > 3 and nats.isfinite().all()


def test_surprises_of_nothing(speaker, tokenizer):
    with pytest.raises(ValueError, match="the text is empty"):
        surprises(speaker, tokenizer, "")


# ---------------------------------------------------------------- looking inside


@pytest.fixture
def drawn():
    yield
    plt.close("all")


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("text", ["Enter HAMLET", "a\nb <|endoftext|>", "é🐚"])
@torch.no_grad()
def test_attention_maps(speaker, tokenizer, text):
    tokens, maps = attention_maps(speaker, tokenizer, text)
    ids = tokenizer.encode_ordinary(text)
    assert maps.shape == (2, 4, len(tokens), len(tokens)) and len(tokens) == len(ids)
    assert torch.allclose(maps, speaker.attention_weights(torch.tensor([ids]))[:, 0])
    assert torch.allclose(maps.sum(-1), torch.ones(2, 4, len(ids)), atol=1e-5)
    assert (maps.triu(1) == 0).all()
    assert not set("".join(tokens)) & set(" \n")
    large = plot_attention(tokens, maps, layer=1, head=2).axes[0]
    assert [label.get_text() for label in large.get_xticklabels()] == tokens
    assert [label.get_text() for label in large.get_yticklabels()] == tokens
    assert torch.allclose(torch.tensor(large.images[0].get_array()), maps[1, 2])
    assert "layer 1" in large.get_title() and "head 2" in large.get_title()


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize(("L", "H"), [(2, 4), (1, 1), (4, 2), (5, 2), (30, 9)])
@pytest.mark.parametrize("T", [1, 5, 40])
def test_the_grid_shows_every_head_at_its_place(L, H, T):
    maps = torch.rand(L, H, T, T)
    figure = plot_attention(["x"] * T, maps)
    (axes,) = figure.axes
    deep = L > 2 * H  # lies on its side
    assert (axes.get_ylabel(), axes.get_xlabel()) == (("head", "layer") if deep else ("layer", "head"))
    assert [label.get_text() for label in axes.get_yticklabels()] == [str(n) for n in range(H if deep else L)]
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(n) for n in range(L if deep else H)]
    shown = torch.tensor(axes.images[0].get_array().astype(float).filled(math.nan))
    heads = torch.zeros_like(shown, dtype=torch.bool)
    for layer, head in itertools.product(range(L), range(H)):
        row, column = (head, layer) if deep else (layer, head)
        top, left = (round(ticks[n] - (T - 1) / 2) for ticks, n in
                     ((axes.get_yticks(), row), (axes.get_xticks(), column)))  # fmt: skip
        place = (slice(top, top + T), slice(left, left + T))
        assert torch.allclose(shown[place].float(), maps[layer, head])
        assert not heads[place].any()
        heads[place] = True
    assert torch.equal(heads, shown.isfinite())  # nothing is drawn between them


@pytest.mark.parametrize("text", ["", "x " * 20])
def test_attention_maps_of_too_little_or_too_much(speaker, tokenizer, text):
    with pytest.raises(ValueError, match=r"the text has \d+ tokens; this model looks at 1 to 16 at once"):
        attention_maps(speaker, tokenizer, text)


def ink(figure):
    """The share of a figure's pixels that are darker than its paper, inside its first axes."""
    figure.canvas.draw()
    pixels = (
        torch.tensor(memoryview(figure.canvas.buffer_rgba()).tolist())[..., :3].float().mean(-1)
    )  # (Y, X)
    box = figure.axes[0].get_window_extent()
    height = pixels.size(0)
    inside = pixels[int(height - box.y1) : int(height - box.y0), int(box.x0) : int(box.x1)]
    return (inside < 128).float().mean().item()


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize(("L", "H"), [(3, 4), (2, 1), (30, 9)])
@pytest.mark.parametrize("T", [5, 16, 40])
def test_the_grid_is_full_of_heads(L, H, T):
    """Dark heads make a dark picture: it is not mostly gaps, and none of its room is empty."""
    figure = plot_attention(["x"] * T, torch.ones(L, H, T, T))
    shown = figure.axes[0].images[0].get_array()
    assert 0.65 < 1 - shown.mask.mean() < 1 or (L, H) == (1, 1)
    assert ink(figure) > 0.6
    assert ink(plot_attention(["x"] * T, torch.zeros(L, H, T, T))) < 0.05
    width, height = figure.get_size_inches()
    assert 1 < width < 14 and 1 < height < 14


@pytest.mark.usefixtures("drawn")
def test_one_head_is_dark_where_it_looks():
    maps = torch.zeros(2, 3, 8, 8)
    maps[1, 2] = torch.eye(8)
    figure = plot_attention(list("abcdefgh"), maps, 1, 2)
    (axes, bar) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == ("is looked at", "looks", "weight")
    assert axes.images[0].get_clim() == (0, 1) and 0.08 < ink(figure) < 0.18  # an eighth
    assert ink(plot_attention(list("abcdefgh"), maps, 0, 0)) < 0.02


@pytest.mark.parametrize(("layer", "head"), [(2, 0), (-1, 0), (0, None), (0, 4), (None, 1), (0.5, 0)])
def test_heads_that_do_not_exist(layer, head):
    with pytest.raises(ValueError, match=f"layer={layer}, head={head}: give both, 0 to 1 and 0 to 3, or"):
        plot_attention(["a", "b", "c"], torch.zeros(2, 4, 3, 3), layer, head)


def test_the_tokens_are_those_of_the_maps():
    with pytest.raises(ValueError, match="2 tokens do not label maps of 3"):
        plot_attention(["a", "b"], torch.zeros(2, 4, 3, 3))


@pytest.mark.usefixtures("drawn")
def test_browsing_without_widgets_is_the_grid(monkeypatch):
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: None)
    maps = torch.rand(2, 3, 2, 2)
    figure = browse_attention(["a", "b"], maps)
    assert not plt.get_fignums()  # or a notebook would show it twice: it is the result of the cell
    grid = plot_attention(["a", "b"], maps)
    shown, wanted = (f.axes[0].images[0].get_array().filled(-1) for f in (figure, grid))
    assert (shown == wanted).all()


@pytest.mark.usefixtures("drawn")
def test_browsing_with_widgets(monkeypatch):
    stub = SimpleNamespace(
        IntSlider=lambda *values: values, interactive=lambda show, **sliders: (show, sliders)
    )
    monkeypatch.setitem(sys.modules, "ipywidgets", stub)
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: stub)
    shown = []
    monkeypatch.setattr(figures, "show", lambda alt: shown.append((alt, plt.gcf().axes[0].get_title())))
    show, sliders = browse_attention(["a", "b"], torch.rand(2, 3, 2, 2))
    assert sliders == {"layer": (0, 0, 1), "head": (0, 0, 2)}  # value, least, most
    show(1, 2)
    assert len(shown) == 1 and all("layer 1" in text and "head 2" in text for text in shown[0])


@pytest.mark.usefixtures("drawn")
def test_browsing_with_the_real_widgets(monkeypatch):
    widgets = pytest.importorskip("ipywidgets")
    shown = []
    monkeypatch.setattr(figures, "show", lambda alt: shown.append((alt, plt.gcf().axes[0].get_title())))
    view = browse_attention(["a", "b"], torch.rand(2, 3, 2, 2))
    layer, head = (w for w in view.children if isinstance(w, widgets.IntSlider))
    assert (layer.min, layer.max, head.min, head.max) == (0, 1, 0, 2)
    assert view.kwargs == {} or set(view.kwargs) == {"layer", "head"}


def hand_made_maps(T):
    """(1, 3, T, T): a head that looks at the token before, one at the first, one evenly at all it may see."""
    before = torch.eye(T).roll(-1, dims=1).tril()
    before[0, 0] = 1
    first = torch.zeros(T, T)
    first[:, 0] = 1
    even = torch.ones(T, T).tril() / torch.arange(1, T + 1).unsqueeze(1)
    return torch.stack([before, first, even])[None]


def test_scores_of_hand_made_heads():
    T = 6
    maps = hand_made_maps(T)
    assert torch.equal(maps.sum(-1), torch.ones(1, 3, T))
    even = sum(1 / n for n in range(2, T + 1)) / (T - 1)
    assert torch.allclose(previous_token_scores(maps), torch.tensor([[1.0, 1 / (T - 1), even]]))
    assert torch.allclose(first_token_scores(maps), torch.tensor([[1 / (T - 1), 1.0, even]]))


@pytest.mark.parametrize(("n_tokens", "n_rows"), [(5, 1), (50, 4)])
def test_induction_scores_of_heads_that_are_known(n_tokens, n_rows):
    """A stub whose head 0 looks at what followed the same token, head 1 at that token, head 2 evenly."""
    seen = []

    def attention_weights(ids):
        seen.append(ids)
        B, T = ids.shape
        maps = hand_made_maps(T)[0, 2].expand(2, B, 3, T, T).clone()  # (L, B, H, T, T)
        for t in range(T // 2, T):
            for head, target in ((0, t - T // 2 + 1), (1, t - T // 2)):
                maps[1, :, head, t] = 0
                maps[1, :, head, t, target] = 1
        return maps

    weight = torch.zeros(30, 2)
    stub = SimpleNamespace(
        lm_head=SimpleNamespace(weight=weight),
        config=SimpleNamespace(vocab_size=30),
        attention_weights=attention_weights,
    )
    scores = induction_scores(stub, n_tokens, n_rows, generator=torch.Generator().manual_seed(0))
    even = sum(1 / (t + 1) for t in range(n_tokens, 2 * n_tokens)) / n_tokens
    assert torch.allclose(scores, torch.tensor([[even] * 3, [1.0, 0.0, even]]))
    (ids,) = seen
    assert ids.shape == (n_rows, 2 * n_tokens) and torch.equal(*ids.chunk(2, dim=1)) and ids.max() < 30


def test_induction_scores_of_a_model(speaker):
    a, b = (induction_scores(speaker, 8, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    assert a.shape == (2, 4) and torch.equal(a, b) and ((a >= 0) & (a <= 1)).all()


# ---------------------------------------------------------------- text in figures is text

AWKWARD = [
    "$",
    "$$",
    "$a$",
    "cost $$",
    r"\$",
    "\\",
    r"\frac",
    "_x_",
    "a^2",
    "$\\sqrt{",
    "{",
    "%",
    "&",
    "#",
    "~",
]
MISSING = {
    "北京": "E5 8C 97 E4 BA AC",
    "\t": "09",
    "\x00": "00",
    "\r": "0D",
    "a\u0590": "61 D6 90",
    b"\xc3": "C3",
}


def drawn_texts(figure):
    """All texts of a figure as they are drawn, (text, whether it is read as mathematics)."""
    figure.canvas.draw()  # a parser of mathematics would raise here
    texts = [t for t in figure.findobj(plt.Text) if t.get_text()]
    return {t.get_text(): t._preprocess_math(t.get_text()) for t in texts}


@pytest.fixture
def shown(monkeypatch):
    figures_shown = []
    monkeypatch.setattr(
        ch01_figures, "display", lambda figure, **_: figures_shown.append(drawn_texts(figure))
    )
    return figures_shown


@pytest.mark.usefixtures("drawn")
@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.parametrize("title", AWKWARD)
def test_a_dollar_is_a_dollar_in_every_figure(title, shown):
    tokens = [*AWKWARD, title]
    draw_tokens(tokens, title=title)
    draw_merge_tree([title, "she$"], [("e", "$"), ("$", "$")])
    shown.append(drawn_texts(token_boxes(tokens, title=title).figure))
    shown.append(drawn_texts(draw_matrix(torch.rand(16, 16), tokens, tokens, title=title).figure))
    shown.append(drawn_texts(plot_attention(tokens, torch.rand(1, 1, 16, 16), 0, 0)))
    for texts in shown:
        assert all(read == (text, False) for text, read in texts.items() if text in (title, *AWKWARD))
    labels = [printable(token) for token in tokens]
    assert set(labels) <= set(shown[0]) and set(labels) <= set(shown[2]) and set(tokens) <= set(shown[3])
    assert set(printable(letter) for letter in title) <= set(shown[1])


@pytest.mark.usefixtures("drawn")
@pytest.mark.filterwarnings("error:Glyph")
def test_what_the_font_lacks_is_written_in_hexadecimal(shown):
    draw_tokens(list(MISSING), title="北京")
    assert set(MISSING.values()) <= set(shown[0]) and "\ufffd\ufffd" in shown[0]
    labels = [token for token in MISSING if isinstance(token, str)]
    axes = draw_matrix(torch.rand(5, 5), labels, labels, title="a\n北").axes
    axes.figure.canvas.draw()
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == [MISSING[label] for label in labels]
    assert axes.get_title() == "a\n\ufffd"


@pytest.mark.usefixtures("drawn")
@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.parametrize("text", ["cost $$", "$a$", "é🐚", "北", "a\tb", "\\ $x_1^2$ {"])
def test_attention_of_any_text_is_drawn(speaker, tokenizer, text):
    tokens, maps = attention_maps(speaker, tokenizer, text)
    pieces = [tokenizer.decode_bytes([index]) for index in tokenizer.encode_ordinary(text)]
    assert tokens == [printable(piece) for piece in pieces]
    for figure in (plot_attention(tokens, maps, 0, 0), plot_attention(tokens, maps)):
        texts = drawn_texts(figure)
        assert all(read == (label, False) for label, read in texts.items() if label in tokens)


# ---------------------------------------------------------------- other devices


class Elsewhere(nn.Module):
    """A model on a device that is not the CPU (the meta device): it only says where its inputs are."""

    def __init__(self):
        super().__init__()
        self.config, self.devices = GPTConfig(600, 16, 2, 1, 1), set()
        self.lm_head = nn.Linear(2, 600, bias=False, device="meta")

    def forward(self, ids, *others, **options):
        self.devices |= {ids.device.type}
        return torch.zeros(*ids.shape, 600)

    def attention_weights(self, ids):
        self.devices |= {ids.device.type}
        return torch.zeros(1, len(ids), 1, ids.size(1), ids.size(1))


@pytest.mark.parametrize(
    "look",
    [
        lambda model, tokenizer: attention_maps(model, tokenizer, "a text"),
        lambda model, tokenizer: induction_scores(model, 4, generator=torch.Generator().manual_seed(0)),
    ],
    ids=["maps", "induction"],
)
def test_ids_go_to_the_device_of_the_model(tokenizer, look):
    model = Elsewhere()
    look(model, tokenizer)
    assert model.devices == {"meta"}


@pytest.mark.parametrize("read", [surprises, lambda *given: next(stream(*given, 5, use_cache=False))])
def test_a_text_is_read_on_the_device_of_the_model(tokenizer, read):
    model = Elsewhere()
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):  # its numbers do not come back
        read(model, tokenizer, "a text")
    assert model.devices == {"meta"}


@pytest.mark.parametrize("kind", KINDS[::3], ids=IDS[::3])
@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_stays_on_its_device(kind, use_cache):
    """On the meta device, where an operation that mixes devices raises."""
    with torch.device("meta"):
        model = make_model(**kind)
    ids = torch.zeros(2, 5, dtype=torch.long, device="meta")
    text = generate(model, ids, 20, temperature=0, repetition_penalty=1.2, use_cache=use_cache)
    assert text.device.type == "meta" and text.shape == (2, 25)
    first = next(generate_steps(model, ids, 5, eos_id=3, use_cache=use_cache, temperature=0))
    assert first.device.type == "meta"
    positions, mask = skip_padding(3, 2, torch.tensor([1, 0], device="meta"))
    assert positions.device.type == mask.device.type == "meta" and mask.shape == (2, 1, 2, 5)


def test_a_tokenizer_without_an_end_of_text_streams_what_follows_a_prompt():
    tokenizer = BPETokenizer({index: bytes([index]) for index in range(256)}, [])
    torch.manual_seed(0)
    model = GPT(GPTConfig(256, 16, d_model=16, n_heads=2, n_layers=1)).eval()
    assert "".join(stream(model, tokenizer, "ab", 5, temperature=0))
    with pytest.raises(KeyError, match="endoftext"):
        next(stream(model, tokenizer, "", 5))
