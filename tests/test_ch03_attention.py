"""Chapter 3: attention equals PyTorch's and never sees the future."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ch02_embeddings.embeddings import RotaryEmbedding
from ch03_attention.attention import (
    MultiHeadAttention,
    causal_mask,
    fused_attention,
    join_heads,
    scaled_dot_product_attention,
    sliding_window_mask,
    softmax,
    split_heads,
)
from ch06_inference.inference import LayerCache


def make_attention(backend="sdpa", n_kv_heads=4, rope=False, dropout=0.0):
    torch.manual_seed(1)
    turner = RotaryEmbedding(4, 64) if rope else None
    return MultiHeadAttention(16, 4, n_kv_heads, dropout, rope=turner, backend=backend)


def test_softmax_equals_pytorch_and_does_not_overflow():
    x = torch.randn(3, 4, 5) * 100
    for dim in (0, 1, -1):
        assert torch.allclose(softmax(x, dim), torch.softmax(x, dim), atol=1e-6)
    assert softmax(torch.tensor([1e4, 0.0]), -1).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (5, 5), (3, 7)])
def test_function_equals_pytorch(dtype, tolerance, masked, T, S):
    q, k, v = (torch.randn(2, 3, n, 4, dtype=dtype, requires_grad=True) for n in (T, S, S))
    mask = causal_mask(T, S) if masked else None
    results = []
    for attend in (
        lambda: scaled_dot_product_attention(q, k, v, mask)[0],
        lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
    ):
        output = attend()
        results.append((output, *torch.autograd.grad(output.square().sum(), (q, k, v))))
    for ours, theirs in zip(*results):
        assert torch.allclose(ours, theirs, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_module_equals_pytorch(dtype, tolerance, backend):
    ours = MultiHeadAttention(12, 4, bias=True, backend=backend).to(dtype)
    theirs = nn.MultiheadAttention(12, 4, batch_first=True, dtype=dtype)
    projections = (ours.q_proj, ours.k_proj, ours.v_proj)
    theirs.in_proj_weight.data = torch.cat([p.weight for p in projections]).detach()
    theirs.in_proj_bias.data = torch.cat([p.bias for p in projections]).detach()
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    x = torch.randn(2, 7, 12, dtype=dtype, requires_grad=True)
    y = ours(x)
    reference = theirs(x, x, x, attn_mask=~causal_mask(7), need_weights=False)[0]
    assert torch.allclose(y, reference, atol=tolerance)
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in (y, reference)]
    assert torch.allclose(*gradients, atol=10 * tolerance)


@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("T", [1, 5])
def test_eager_equals_sdpa(rope, n_kv_heads, T):
    x = torch.randn(2, T, 16)
    eager, sdpa = (make_attention(backend, n_kv_heads, rope) for backend in ("eager", "sdpa"))
    for mask in (None, sliding_window_mask(T, 2), torch.ones(T, T, dtype=torch.bool)):
        assert torch.allclose(eager(x, mask), sdpa(x, mask), atol=1e-6)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("n_kv_heads", [4, 1])
@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_no_output_sees_the_future(backend, n_kv_heads, rope, cached):  # known bug 1
    attention = make_attention(backend, n_kv_heads, rope)
    x = torch.randn(2, 8, 16, requires_grad=True)
    changed = torch.cat([x[:, :5], torch.randn(2, 3, 16)], dim=1)

    def run(x):
        if not cached:
            return attention(x)
        cache = LayerCache(8)
        return torch.cat([attention(piece, cache=cache) for piece in x.split([3, 1, 4], dim=1)], dim=1)

    assert torch.allclose(run(x)[:, :5], run(changed)[:, :5], atol=1e-6)
    assert (run(x)[:, 5:] - run(changed)[:, 5:]).abs().max() > 1e-3
    if not cached:
        gradient = torch.autograd.grad(run(x)[:, 4].sum(), x)[0]
        assert (gradient[:, 5:] == 0).all() and (gradient[:, :5] != 0).any()


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_dropout_is_on_in_training_and_off_in_evaluation(backend):  # known bug 2
    attention, x = make_attention(backend, dropout=0.5), torch.randn(2, 6, 16)
    for _ in range(2):  # and back again
        attention.train()
        assert not torch.equal(attention(x), attention(x))
        attention.eval()
        assert torch.equal(attention(x), attention(x))
    assert torch.allclose(attention(x), make_attention(backend)(x), atol=1e-6)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_mask_is_aligned_with_the_cache(backend):  # known bugs 3 and 9
    attention, x = make_attention(backend, rope=True), torch.randn(1, 7, 16)
    for sizes in ([7], [1] * 7, [4, 3], [2, 2, 3]):
        cache = LayerCache(16)
        pieces = [attention(piece, cache=cache) for piece in x.split(sizes, dim=1)]
        assert torch.allclose(torch.cat(pieces, dim=1), attention(x), atol=1e-6)
    assert causal_mask(2, 5).tolist() == [[True] * 4 + [False], [True] * 5]


def test_heads_are_split_by_dimension_and_not_by_token():  # known bug 4
    x = torch.arange(8).view(1, 2, 4)
    assert split_heads(x, 2)[0, 0].tolist() == [[0, 1], [4, 5]]
    assert torch.equal(join_heads(split_heads(x, 2)), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_row_that_may_see_nothing_gives_zeros(dtype):  # known bug 5
    q, k, v = (torch.randn(1, 2, 3, 4, dtype=dtype, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[True, False, False], [False, False, False], [True, True, True]])
    output, weights = scaled_dot_product_attention(q, k, v, mask)
    assert (output[:, :, 1] == 0).all() and output.isfinite().all()
    assert torch.allclose(weights.sum(-1).float(), torch.tensor([1.0, 0.0, 1.0]).expand(1, 2, 3), atol=1e-2)
    output.sum().backward()
    assert all(t.grad.isfinite().all() for t in (q, k, v))
    assert torch.allclose(fused_attention(q, k, v, mask).float(), output.float(), atol=2e-2)


@pytest.mark.parametrize("window", [1, 2, 3, 9])
def test_window_counts_the_position_itself(window):  # known bug 6
    mask = sliding_window_mask(5, window)
    for i in range(5):
        assert [j for j in range(5) if mask[i, j]] == list(range(max(0, i - window + 1), i + 1))
    assert torch.equal(sliding_window_mask(2, window, S=5), mask[3:])  # with a cache: the last two rows


def test_projections_need_not_be_square():  # known bug 13
    attention = MultiHeadAttention(24, 6, n_kv_heads=2)
    assert attention.k_proj.weight.shape == (8, 24) and attention(torch.randn(1, 3, 24)).shape == (1, 3, 24)


def test_weights_are_returned_and_sum_to_one():
    attention, x = make_attention(n_kv_heads=2), torch.randn(2, 6, 16)
    output, weights = attention(x, return_weights=True)
    assert weights.shape == (2, 4, 6, 6) and torch.allclose(weights.sum(-1), torch.ones(2, 4, 6))
    assert torch.allclose(output, attention(x), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MultiHeadAttention(10, 3), "d_model=10 is not divisible by n_heads=3"),
        (lambda: MultiHeadAttention(12, 4, 3), "n_heads=4 is not divisible by n_kv_heads=3"),
        (lambda: MultiHeadAttention(12, 4, backend="flash"), "backend='flash' is unknown"),
        (lambda: sliding_window_mask(4, 0), "window=0 is below 1"),
        (lambda: make_attention()(torch.randn(1, 3, 16), torch.ones(3, 3)), "the mask is torch.float32"),
        (lambda: make_attention("eager")(torch.randn(1, 3, 16), causal_mask(4)), r"\(4, 4\) does not fit"),
        (lambda: make_attention("sdpa")(torch.randn(1, 3, 16), causal_mask(4)), r"\(4, 4\) does not fit"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
