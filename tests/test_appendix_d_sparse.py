"""Appendix D, sparse attention: masks, their reach, blocks that are not computed, a cache that rolls."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from appendix.d_architectures.latent import replace_attention
from appendix.d_architectures.sparse import (
    RollingCache,
    RollingLayer,
    SparseAttention,
    block_sparse_attention,
    from_blocks,
    local_global_blocks,
    reachable,
    strided_mask,
    to_blocks,
    window_pattern,
)
from appendix.d_architectures.trials import small_data, trial
from ch03_attention.attention import causal_mask, sliding_window_mask
from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.config import TrainConfig
from ch06_inference.generation import KVCache


def drawn(*shape, seed=0):
    """Three float64 tensors that require gradients."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


def small(**changes):
    sizes = dict(vocab_size=61, context_length=32, d_model=24, n_heads=2, n_layers=2, position="rope")
    return GPTConfig(**sizes | changes)


# ---------------------------------------------------------------- masks


@given(T=st.integers(1, 40), stride=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_strided_mask_pair_by_pair(T, stride):
    mask = strided_mask(T, stride)
    for i in range(T):
        for j in range(T):
            allowed = j <= i and (i - j < stride or (i - j) % stride == 0)
            assert mask[i, j].item() == allowed


@given(n=st.integers(1, 12), local=st.integers(1, 4), n_global=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_local_and_global_blocks_block_by_block(n, local, n_global):
    blocks = local_global_blocks(n, local, n_global)
    for i in range(n):
        for j in range(n):
            assert blocks[i, j].item() == (j <= i and (i - j < local or j < n_global))


@given(T=st.integers(1, 30), block=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_blocks_to_pairs_and_back(T, block, seed):
    mask = torch.rand(T, T, generator=torch.Generator().manual_seed(seed)) < 0.1
    blocks = to_blocks(mask, block)
    n = -(-T // block)
    assert blocks.shape == (n, n)
    for a in range(n):
        for b in range(n):
            tile = mask[a * block : (a + 1) * block, b * block : (b + 1) * block]
            assert blocks[a, b].item() == tile.any().item()
    pairs = from_blocks(blocks, T, block)
    i = torch.arange(T)
    assert torch.equal(pairs, blocks[i[:, None] // block, i[None, :] // block] & causal_mask(T))


def test_reach_counts_layers():
    T = 24
    for n_layers in (1, 2, 3):
        expected = sliding_window_mask(T, 4 * n_layers - n_layers + 1)
        assert torch.equal(reachable(sliding_window_mask(T, 4), n_layers), expected)
    assert torch.equal(reachable(strided_mask(T, 5), 2), causal_mask(T))
    assert not torch.equal(reachable(strided_mask(T, 5), 1), causal_mask(T))
    assert torch.equal(reachable(causal_mask(T), 0), torch.eye(T, dtype=torch.bool))


def test_reach_is_where_a_change_arrives():
    """A GPT of two layers under a mask: logits depend on exactly the tokens that can be reached."""
    torch.manual_seed(0)
    T, mask = 20, from_blocks(local_global_blocks(5, 1, 1), 20, 4)
    mask &= strided_mask(T, 3)
    model = GPT(small()).double().eval()
    vectors = torch.randn(1, T, 24, dtype=torch.float64, requires_grad=True)
    x, angles = vectors, model.rope.cos_sin(torch.arange(T), torch.float64)
    for block in model.blocks:
        x = block(x, mask[None, None], cos_sin=angles)
    arrived = torch.stack(
        [torch.autograd.grad(x[0, t].pow(2).sum(), vectors, retain_graph=True)[0][0].abs().sum(-1) > 0
         for t in range(T)]
    )  # fmt: skip
    assert torch.equal(arrived, reachable(mask, 2))


# ---------------------------------------------------------------- blocks that are not computed


@given(
    T=st.integers(1, 40), block=st.integers(1, 11), share=st.floats(0, 1), heads=st.integers(1, 3),
    seed=st.integers(0, 999),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_block_sparse_equals_masked_attention_with_gradients(T, block, share, heads, seed):
    n = -(-T // block)
    blocks = torch.rand(n, n, generator=torch.Generator().manual_seed(seed)) < share
    q, k, v = drawn(2, heads, T, 4, seed=seed)
    mask = from_blocks(blocks | torch.eye(n, dtype=torch.bool), T, block)
    expected = F.scaled_dot_product_attention(q, k, v, mask)
    found = block_sparse_attention(q, k, v, blocks, block)
    assert torch.allclose(found, expected, atol=1e-12)
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    gradients = [torch.autograd.grad(x, (q, k, v), upstream) for x in (found, expected)]
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(("T", "window", "block"), [(37, 9, 8), (32, 8, 8), (30, 1, 7), (29, 40, 4)])
def test_a_window_inside_of_blocks(T, window, block):
    q, k, v = drawn(1, 2, T, 6)
    mask = sliding_window_mask(T, window)
    found = block_sparse_attention(q, k, v, to_blocks(mask, block), block, lambda i, j: i - j < window)
    assert torch.allclose(found, F.scaled_dot_product_attention(q, k, v, mask), atol=1e-12)


def test_strided_attention_in_blocks():
    q, k, v = drawn(2, 26, 4)
    mask = strided_mask(26, 6)

    def rule(i, j):
        return (i - j < 6) | ((i - j) % 6 == 0)

    found = block_sparse_attention(q, k, v, to_blocks(mask, 4), 4, rule)
    assert torch.allclose(found, F.scaled_dot_product_attention(q, k, v, mask), atol=1e-12)


def test_gradcheck():
    q, k, v = drawn(1, 7, 2)
    blocks = local_global_blocks(3, 1, 1)
    assert torch.autograd.gradcheck(lambda *qkv: block_sparse_attention(*qkv, blocks, 3), (q, k, v))


def test_values_may_have_another_size():
    q, k, _ = drawn(2, 10, 4)
    v = torch.randn(2, 10, 3, dtype=torch.float64)
    blocks = local_global_blocks(3, 2, 0)
    expected = F.scaled_dot_product_attention(q, k, v, from_blocks(blocks, 10, 4))
    assert torch.allclose(block_sparse_attention(q, k, v, blocks, 4), expected, atol=1e-12)


def test_a_mask_of_another_size_is_refused():
    q, k, v = drawn(1, 9, 2)
    with pytest.raises(ValueError, match="9 positions are 3 blocks of 4"):
        block_sparse_attention(q, k, v, torch.ones(2, 2, dtype=torch.bool), 4)


def test_it_equals_flex_attention():
    T, block = 64, 16
    q, k, v = (x.detach().float() for x in drawn(1, 2, T, 8))
    blocks = local_global_blocks(4, 1, 1)

    def rule(b, h, i, j):
        return (j <= i) & blocks[i // block, j // block]

    block_mask = create_block_mask(rule, None, None, T, T, device="cpu", BLOCK_SIZE=block)
    assert torch.equal(block_mask.to_dense()[0, 0].bool(), blocks)
    with warnings.catch_warnings(action="ignore"):  # not compiled
        expected = flex_attention(q, k, v, block_mask=block_mask)
    assert torch.allclose(block_sparse_attention(q, k, v, blocks, block), expected, atol=1e-5)


def test_it_computes_what_is_there_and_no_more(monkeypatch):
    computed, kernel = [], F.scaled_dot_product_attention

    def counting(q, k, v, mask):
        computed.append(q[..., 0].numel() * k.size(-2))
        return kernel(q, k, v, mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counting)
    q, k, v = drawn(64, 4)
    blocks = local_global_blocks(8, 2, 1)
    block_sparse_attention(q, k, v, blocks, 8)
    assert sum(computed) == blocks.sum().item() * 64 < 64 * 64 / 2


# ---------------------------------------------------------------- in a GPT


def windowed(window, **changes):
    torch.manual_seed(0)
    model = GPT(small(**changes)).double().eval()
    return replace_attention(model, lambda layer: SparseAttention(layer, window_pattern(window)))


def ids(B, T, seed=0):
    return torch.randint(61, (B, T), generator=torch.Generator().manual_seed(seed))


def test_sparse_attention_is_the_mask():
    torch.manual_seed(0)
    plain = GPT(small()).double().eval()
    mask = sliding_window_mask(20, 5)[None, None]
    with torch.no_grad():
        assert torch.allclose(windowed(5)(ids(2, 20)), plain(ids(2, 20), mask=mask), atol=1e-12)
        weights = windowed(5).attention_weights(ids(2, 20))
    assert torch.equal(weights[0, 0, 0] > 0, sliding_window_mask(20, 5))


def test_a_mask_comes_on_top_of_the_pattern():
    model, also = windowed(5), strided_mask(20, 2)
    also &= torch.rand(20, 20, generator=torch.Generator().manual_seed(0)).gt(0.5) | torch.eye(20).bool()
    torch.manual_seed(0)
    plain = GPT(small()).double().eval()
    both = (also & sliding_window_mask(20, 5))[None, None]
    with torch.no_grad():
        assert torch.allclose(model(ids(1, 20), mask=also[None, None]), plain(ids(1, 20), mask=both))


@pytest.mark.parametrize("window", [1, 2, 5, 40])
@pytest.mark.parametrize("chunks", [[1] * 30, [30], [7, 1, 1, 9, 1, 11], [2, 28]])
@pytest.mark.parametrize("n_kv_heads", [1, 2])
def test_the_rolling_cache_equals_the_whole_text_and_the_full_cache(window, chunks, n_kv_heads):
    model, token_ids = windowed(window, n_kv_heads=n_kv_heads), ids(2, 30)
    rolling, full = RollingCache(model.config, window), KVCache(model.config)
    with torch.no_grad():
        expected = model(token_ids)
        for cache in (rolling, full):
            parts = [model(part, cache) for part in token_ids.split(chunks, dim=1)]
            assert torch.allclose(torch.cat(parts, dim=1), expected, atol=1e-10)
            assert cache.length == 30
    assert rolling.n_bytes == 2 * 2 * 2 * n_kv_heads * window * 12 * 8


def test_one_token_at_a_time_needs_no_mask():
    """A plain model on a rolling cache: what the cache gives back is the window."""
    torch.manual_seed(0)
    plain = GPT(small()).double().eval()
    cache = RollingCache(plain.config, 6)
    with torch.no_grad():
        parts = [plain(part, cache) for part in ids(1, 25).split(1, dim=1)]
        assert torch.allclose(torch.cat(parts, dim=1), windowed(6)(ids(1, 25)), atol=1e-10)


def test_a_rolling_layer_by_hand():
    layer, places = RollingLayer(3), []
    for token in range(5):
        row = torch.full((1, 1, 1, 1), float(token))
        keys, values = layer.append(row, -row)
        places.append(keys.flatten().tolist())
        assert torch.equal(values, -keys)
    assert places == [[0], [0, 1], [0, 1, 2], [3, 1, 2], [3, 4, 2]]
    more = torch.arange(5.0, 7).view(1, 1, 2, 1)
    assert layer.append(more, more)[0].flatten().tolist() == [3, 4, 5, 6]
    assert layer.keys.flatten().tolist() == [6, 4, 5]


# ---------------------------------------------------------------- what the notebook measured, another seed


def test_without_attention_the_loss_is_higher_and_a_window_hardly_costs():
    tokenizer, train_data, held_out = small_data(context_length=32)
    config = GPTConfig(tokenizer.n_vocab, 32, d_model=32, n_heads=2, n_layers=2, position="rope")
    recipe = TrainConfig(steps=120, batch_size=8, max_lr=2e-2, warmup_steps=20, device="cpu", seed=11)
    losses = {}
    for window in (1, 8, 32):
        pattern = window_pattern(window)

        def make(pattern=pattern):
            return replace_attention(GPT(config), lambda layer: SparseAttention(layer, pattern))

        losses[window] = trial(make, recipe, train_data, held_out).held_out
    assert losses[1] > losses[32] + 0.03 and abs(losses[8] - losses[32]) < 0.08
