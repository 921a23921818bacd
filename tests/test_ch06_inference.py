"""Chapter 6: the cache changes nothing but the work, and sampling follows the probabilities."""

import math

import pytest
import torch

from ch04_transformer.transformer import GPT, GPTConfig
from ch06_inference.inference import (
    KVCache,
    attention_maps,
    generate,
    plot_attention,
    sample_next,
    stream,
    top_k_filter,
    top_p_filter,
)

KINDS = [
    {"position": "learned"},
    {"position": "sinusoidal"},
    {"position": "rope"},
    {"position": "rope", "n_kv_heads": 2, "norm": "rmsnorm", "activation": "swiglu"},
    {"position": "rope", "n_kv_heads": 1, "backend": "eager"},
]


def make_model(context=16, vocab_size=50, **kind):
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size, context, d_model=32, n_heads=4, n_layers=2, init_std=0.2, **kind)).eval()


# ---------------------------------------------------------------- the cache


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [[16], [1] * 16, [5, 1, 10], [15, 1]])
@torch.no_grad()
def test_cached_logits_equal_uncached(kind, sizes):  # known bugs 8 and 9
    model, ids = make_model(**kind), torch.randint(50, (3, 16))
    for _ in range(2):  # a second prompt starts afresh
        cache = KVCache(model.config)
        pieces = torch.cat([model(piece, cache) for piece in ids.split(sizes, dim=1)], dim=1)
        assert cache.length == 16 and torch.allclose(pieces, model(ids), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt_length", [1, 15, 16, 30])
def test_cached_generation_equals_uncached_beyond_the_context(kind, prompt_length):  # known bugs 6 and 9
    model, ids = make_model(**kind).double(), torch.randint(50, (2, prompt_length))
    with_cache = generate(model, ids, 40, temperature=0)
    assert with_cache.shape == (2, prompt_length + 40)
    assert torch.equal(with_cache, generate(model, ids, 40, temperature=0, use_cache=False))


def test_a_full_cache_says_so():
    model = make_model()
    cache = KVCache(model.config)
    model(torch.randint(50, (1, 16)), cache)
    with pytest.raises(ValueError, match="17 tokens are more than context_length=16"):
        model(torch.randint(50, (1, 1)), cache)
    with pytest.raises(ValueError, match="17 tokens are more than the cache's 16"):
        cache[0].append(torch.zeros(1, 4, 1, 8), torch.zeros(1, 4, 1, 8))


# ---------------------------------------------------------------- sampling


def test_temperature_zero_is_greedy():  # known bug 24
    logits = torch.randn(5, 50)
    assert torch.equal(sample_next(logits, temperature=0), logits.argmax(-1))
    model, ids = make_model(), torch.randint(50, (2, 3))
    by_hand = ids
    for _ in range(10):
        by_hand = torch.cat([by_hand, model(by_hand)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(generate(model, ids, 10, temperature=0), by_hand)


@pytest.mark.parametrize("k", [1, 3, 8, 1000])
def test_top_k_keeps_exactly_k(k):  # known bug 24
    logits = torch.tensor([[1.0, 1, 1, 1, 0, 0, 0, 0], [0.0, 1, 2, 3, 4, 5, 6, 7]])
    kept = top_k_filter(logits, k).isfinite()
    assert kept.sum(-1).tolist() == [min(k, 8)] * 2
    assert kept[1].tolist() == [i >= 8 - k for i in range(8)]


@pytest.mark.parametrize(
    ("p", "kept"), [(1e-9, 1), (0.5, 1), (0.51, 2), (0.79, 2), (0.9, 3), (0.99, 4), (1.0, 4)]
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, kept):  # known bug 25
    probabilities = torch.tensor([[0.05, 0.5, 0.15, 0.3], [0.3, 0.05, 0.5, 0.15]])
    filtered = top_p_filter(probabilities.log(), p)
    assert filtered.isfinite().sum(-1).tolist() == [kept, kept]
    least = probabilities.sort(descending=True).values[:, kept - 1 : kept]
    assert torch.equal(filtered.isfinite(), probabilities >= least)


def test_top_p_after_top_k_sees_renormalised_probabilities():  # known bug 25
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    # of the best two the first has 0.571, so it reaches 0.55 alone; of all four it does not
    draws = sample_next(
        logits.expand(500, -1), top_k=2, top_p=0.55, generator=torch.Generator().manual_seed(0)
    )
    assert (draws == 0).all()


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.5}, {"top_k": 4}, {"top_p": 0.8}, {"top_k": 5, "top_p": 0.9}]
)
def test_frequencies_follow_the_probabilities(options):  # known bug 26
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -2.0]])
    wanted = logits / options.get("temperature", 1.0)
    wanted = top_k_filter(wanted, options["top_k"]) if "top_k" in options else wanted
    wanted = (top_p_filter(wanted, options["top_p"]) if "top_p" in options else wanted).softmax(-1)[0]
    draws = sample_next(logits.expand(20_000, -1), **options, generator=torch.Generator().manual_seed(0))
    seen = torch.bincount(draws, minlength=6).float()
    assert (seen[wanted == 0] == 0).all()
    expected = 20_000 * wanted[wanted > 0]
    chi_squared = ((seen[wanted > 0] - expected).square() / expected).sum().item()
    assert (
        chi_squared < 20.5
    )  # 5 degrees of freedom: a true sampler exceeds it once in 1,000 seeds, and the seed is fixed


def test_a_generator_makes_it_reproducible():
    model, ids = make_model(), torch.randint(50, (2, 3))
    a, b, c = (generate(model, ids, 20, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_each_row_stops_at_its_own_end():  # known bug 27
    class Counting(torch.nn.Module):
        """Says the id after the last one, so a row that starts at 3 ends (id 9) after 6 steps."""

        config = GPTConfig(10, 16, 2, 1, 1)

        def forward(self, ids, cache=None):
            return torch.nn.functional.one_hot((ids + 1) % 10, 10).float() * 100

    ids = generate(Counting(), torch.tensor([[3], [7]]), 100, eos_id=9, use_cache=False, temperature=0)
    assert ids.tolist() == [[3, 4, 5, 6, 7, 8, 9], [7, 8, 9, 9, 9, 9, 9]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be at least 0"),
        ({"temperature": math.nan}, "temperature=nan must be at least 0"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"top_p": 1.5}, "top_p=1.5 must be above 0"),
    ],
)
def test_bad_sampling_arguments(options, message):  # known bug 24
    with pytest.raises(ValueError, match=message):
        sample_next(torch.randn(1, 5), **options)


def test_an_empty_batch_of_tokens():
    with pytest.raises(ValueError, match=r"shape \(1, 0\): \(B, T\) with at least one token"):
        generate(make_model(), torch.zeros(1, 0, dtype=torch.long), 5)


# ---------------------------------------------------------------- text


@pytest.fixture(scope="module")
def speaker(tokenizer):
    return make_model(vocab_size=tokenizer.n_vocab)


@pytest.mark.parametrize("prompt", ["", "HAMLET:", "<|endoftext|>", "\ud83d", "é🐚 " * 30])
def test_stream_takes_any_prompt(speaker, tokenizer, prompt):
    pieces = list(stream(speaker, tokenizer, prompt, 30, generator=torch.Generator().manual_seed(0)))
    assert all(pieces) and all(isinstance(piece, str) for piece in pieces)


def test_stream_joins_to_what_generate_gives(speaker, tokenizer):  # known bug 33
    ids = torch.tensor([tokenizer.encode("HAMLET:\n")])
    options = {"temperature": 1.0, "eos_id": tokenizer.eot_token}
    whole = generate(speaker, ids, 60, **options, generator=torch.Generator().manual_seed(0))[
        0, ids.size(1) :
    ].tolist()
    pieces = stream(speaker, tokenizer, "HAMLET:\n", 60, generator=torch.Generator().manual_seed(0))
    assert "".join(pieces) == tokenizer.decode([index for index in whole if index != tokenizer.eot_token])


def test_attention_maps(speaker, tokenizer):
    tokens, maps = attention_maps(speaker, tokenizer, "Enter HAMLET")
    assert maps.shape == (2, 4, len(tokens), len(tokens))
    assert len(plot_attention(tokens, maps).axes) == 8
    large = plot_attention(tokens, maps, layer=1, head=2).axes[0]
    assert [label.get_text() for label in large.get_xticklabels()] == tokens
