"""Chapter 3: attention equals PyTorch's, the tiles equal the whole, and nothing ever sees the future."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

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
from ch03_attention.tiles import absorb_block, tiled_attention

BACKENDS = ("eager", "sdpa")
DTYPES = [(torch.float32, 1e-6), (torch.float64, 1e-12)]


class Cache:
    """All that the module asks of a cache; chapter 6 has a faster one."""

    def __init__(self):
        self.length, self.k, self.v = 0, None, None

    def append(self, k, v):
        self.k = k if self.k is None else torch.cat([self.k, k], dim=2)
        self.v = v if self.v is None else torch.cat([self.v, v], dim=2)
        self.length = self.k.size(2)
        return self.k, self.v


def make_attention(backend="sdpa", n_kv_heads=4, rope=False, dropout=0.0, d_model=16, **options):
    torch.manual_seed(1)
    turner = RotaryEmbedding(options.get("head_dim", d_model // 4), 64) if rope else None
    return MultiHeadAttention(d_model, 4, n_kv_heads, dropout, rope=turner, backend=backend, **options)


def by_function(backend):
    """One signature for both functions: (q, k, v, mask) -> output."""
    return fused_attention if backend == "sdpa" else lambda *args: scaled_dot_product_attention(*args)[0]


def output_and_gradients(function, inputs):
    """The output of `function` and the gradients of its mean square with respect to `inputs`."""
    output = function()
    return (output, *torch.autograd.grad(output.square().mean(), inputs))


def assert_equal(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and (a - b).abs().max() <= tolerance


# ---------------------------------------------------------------- softmax


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax_equals_pytorch_and_does_not_overflow(dtype, tolerance, dim):
    torch.manual_seed(0)
    x = (torch.randn(3, 4, 5, dtype=dtype) * 300).requires_grad_()
    weights = torch.randn(3, 4, 5, dtype=dtype)
    for ours, theirs in zip(
        *((y, *torch.autograd.grad((y * weights).sum(), x)) for y in (softmax(x, dim), torch.softmax(x, dim)))
    ):
        assert torch.allclose(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_softmax_of_the_largest_numbers(dtype):
    largest = torch.finfo(dtype).max
    assert softmax(torch.tensor([largest, 0.0], dtype=dtype), -1).tolist() == [1.0, 0.0]
    assert softmax(torch.tensor([-largest, -largest], dtype=dtype), -1).tolist() == [0.5, 0.5]


# ---------------------------------------------------------------- equal to PyTorch


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("masked", ["no", "causal", "window", "random"])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 6), (5, 5), (3, 7), (17, 17)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_function_equals_pytorch(dtype, tolerance, masked, T, S, backend):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 5, dtype=dtype, requires_grad=True) for n in (T, S, S))
    random = torch.rand(2, 1, T, S) < 0.6
    random[..., 0] = True
    mask = {
        "no": torch.ones(1, 1, T, S, dtype=torch.bool),
        "causal": causal_mask(T, S)[None, None],
        "window": sliding_window_mask(T, 2, S)[None, None],
        "random": random,
    }[masked]
    ours = output_and_gradients(lambda: by_function(backend)(q, k, v, mask), (q, k, v))
    theirs = output_and_gradients(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask), (q, k, v))
    assert_equal(ours, theirs, tolerance)
    if masked == "no":  # None allows all, in both functions
        assert_equal([by_function(backend)(q, k, v)], ours[:1], tolerance)


@pytest.mark.parametrize("given", [None, "padding", "window", "one row"])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 6), (6, 6), (3, 7)])
def test_fused_causal_hides_the_future_on_top_of_the_mask(given, T, S):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 5) for n in (T, S, S))
    padding = torch.ones(2, 1, 1, S, dtype=torch.bool)
    padding[1, ..., S - 1 :] = False
    row = (torch.arange(S) > 0)[None, None, None]  # (1, 1, 1, S)
    mask = {"padding": padding, "window": sliding_window_mask(T, 2, S)[None, None], "one row": row}.get(given)
    causal = causal_mask(T, S)[None, None]
    whole = causal if mask is None else mask & causal
    assert_equal(
        [fused_attention(q, k, v, mask, causal=True)],
        [scaled_dot_product_attention(q, k, v, whole)[0]],
        1e-6,
    )


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("given", ["causal by itself", "causal", "window", "all"])
@pytest.mark.parametrize(("d_model", "T"), [(12, 7), (20, 1), (36, 33)])
def test_module_equals_pytorch(dtype, tolerance, backend, bias, given, d_model, T):
    """Output and the gradients of the input and of every parameter."""
    torch.manual_seed(0)
    ours = MultiHeadAttention(d_model, 4, bias=bias, backend=backend).to(dtype)
    theirs = nn.MultiheadAttention(d_model, 4, batch_first=True, bias=bias, dtype=dtype)
    projections = (ours.q_proj, ours.k_proj, ours.v_proj)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        if bias:
            theirs.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    mask = {"window": sliding_window_mask(T, 3), "all": torch.ones(T, T, dtype=torch.bool)}.get(
        given, causal_mask(T)
    )
    x = torch.randn(2, T, d_model, dtype=dtype, requires_grad=True)
    kinds = ("weight", "bias") if bias else ("weight",)
    parameters = [getattr(p, kind) for kind in kinds for p in (*projections, ours.out_proj)]
    y, gx, *gradients = output_and_gradients(
        lambda: ours(x, None if given == "causal by itself" else mask[None, None]), (x, *parameters)
    )
    gradients = [
        g for i in range(len(kinds)) for g in (torch.cat(gradients[4 * i : 4 * i + 3]), gradients[4 * i + 3])
    ]
    in_proj = [getattr(theirs, f"in_proj_{kind}") for kind in kinds]
    out_proj = [getattr(theirs.out_proj, kind) for kind in kinds]
    reference = output_and_gradients(
        lambda: theirs(x, x, x, attn_mask=~mask, need_weights=False)[0],
        (x, *(p for pair in zip(in_proj, out_proj) for p in pair)),
    )
    assert_equal((y, gx, *gradients), reference, tolerance)


def test_weights_equal_pytorch():
    torch.manual_seed(0)
    ours = MultiHeadAttention(12, 4).double()
    theirs = nn.MultiheadAttention(12, 4, batch_first=True, bias=False, dtype=torch.float64)
    theirs.in_proj_weight.data = torch.cat(
        [p.weight for p in (ours.q_proj, ours.k_proj, ours.v_proj)]
    ).detach()
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    reference = theirs(x, x, x, attn_mask=~causal_mask(7), average_attn_weights=False)[1]
    assert torch.allclose(ours(x, return_weights=True)[1], reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("T", [1, 2, 5, 31])
@pytest.mark.parametrize("given", ["none", "window", "all", "one row for all", "padding"])
def test_eager_equals_sdpa(dtype, tolerance, rope, n_kv_heads, T, given):
    torch.manual_seed(0)
    x = torch.randn(2, T, 16, dtype=dtype, requires_grad=True)
    padding = torch.ones(2, 1, 1, T, dtype=torch.bool)
    padding[1, ..., T // 2 + 1 :] = False
    mask = {
        "none": None,
        "window": sliding_window_mask(T, 2)[None, None],
        "all": torch.ones(1, 1, T, T, dtype=torch.bool),
        "one row for all": (torch.arange(T) < (T + 2) // 2)[None, None, None],
        "padding": padding,
    }[given]
    results = []
    for backend in BACKENDS:
        attention = make_attention(backend, n_kv_heads, rope).to(dtype)
        results.append(output_and_gradients(lambda a=attention: a(x, mask), (x, *attention.parameters())))
    assert_equal(*results, tolerance)


# ---------------------------------------------------------------- rotary positions inside attention


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_kv_heads", [4, 2])
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("batched", [False, True])
# guards against: rotary layouts mixed up
def test_rope_equals_llama_attention(backend, n_kv_heads, interleaved, batched):
    """Positions with gaps, so that turning by a wrong angle shows: only differences matter."""
    torch.manual_seed(0)
    d_model, head_dim = 32, 8
    config = LlamaConfig(
        hidden_size=d_model,
        num_attention_heads=4,
        num_key_value_heads=n_kv_heads,
        max_position_embeddings=128,
        attn_implementation="eager",
    )
    theirs = LlamaAttention(config, layer_idx=0).double().eval()
    rope = RotaryEmbedding(head_dim, 128, interleaved=interleaved).double()
    ours = MultiHeadAttention(d_model, 4, n_kv_heads, rope=rope, backend=backend).double()
    ours.load_state_dict({name.replace("o_proj", "out_proj"): w for name, w in theirs.state_dict().items()})
    positions = torch.tensor([[5, 6, 8, 20, 21, 90], [0, 1, 40, 41, 100, 127]])[: 2 if batched else 1]
    x = torch.randn(2, 6, d_model, dtype=torch.float64)
    tables = LlamaRotaryEmbedding(config).double()(x, positions)
    forbidden = torch.zeros(6, 6, dtype=torch.float64).masked_fill(~causal_mask(6), -math.inf)
    reference = theirs(x, position_embeddings=tables, attention_mask=forbidden[None, None])[0]
    positions = positions if batched else positions[0]
    if interleaved:
        assert (ours(x, positions=positions) - reference).abs().max() > 1e-3  # the layouts differ
        order = torch.arange(head_dim).view(2, -1).T.flatten()  # 0 4 1 5 2 6 3 7: halves to neighbours
        with torch.no_grad():
            for projection in (ours.q_proj, ours.k_proj):
                rows = projection.weight.view(-1, head_dim, d_model)[:, order]
                projection.weight.copy_(rows.reshape(-1, d_model))
    # not 1e-12: Llama computes its angles in float32
    assert torch.allclose(ours(x, positions=positions), reference, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rope_sees_differences_of_positions_only(backend):
    attention = make_attention(backend, rope=True)
    x, positions = torch.randn(2, 6, 16), torch.tensor([0, 1, 2, 5, 6, 11])
    y = attention(x, positions=positions)
    assert torch.allclose(attention(x, positions=positions + 50), y, atol=1e-5)
    assert not torch.allclose(attention(x, positions=2 * positions), y, atol=1e-3)
    assert torch.equal(attention(x), attention(x, positions=torch.arange(6)))
    batched = attention(x, positions=torch.stack([positions, 2 * positions]))
    assert torch.allclose(batched[0], y[0], atol=1e-6) and not torch.allclose(batched[1], y[1], atol=1e-3)


# ---------------------------------------------------------------- causality


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("sizes", [None, [3, 1, 4], [1] * 8, [8]])
# guards against: a mask with its meaning inverted
def test_no_output_sees_the_future(backend, n_kv_heads, rope, window, sizes):
    attention = make_attention(backend, n_kv_heads, rope)
    torch.manual_seed(0)
    x = torch.randn(2, 8, 16, requires_grad=True)

    def run(x):
        if sizes is None:
            return attention(x, None if window is None else sliding_window_mask(8, window)[None, None])
        cache, outputs = Cache(), []
        for piece in x.split(sizes, dim=1):
            T, S = piece.size(1), cache.length + piece.size(1)
            mask = None if window is None else sliding_window_mask(T, window, S)[None, None]
            outputs.append(attention(piece, mask, cache))
        return torch.cat(outputs, dim=1)

    with torch.no_grad():
        y = run(x)
        for t in range(7):
            changed = torch.cat([x[:, : t + 1], torch.randn(2, 7 - t, 16)], dim=1)
            difference = (run(changed) - y).abs().amax(dim=(0, 2))  # (8,)
            assert difference[: t + 1].max() < 1e-6 and difference[t + 1 :].min() > 1e-3
    if sizes is None:
        y = run(x)
        for t in range(8):
            gradient = (
                torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)[0].abs().amax(dim=(0, 2))
            )  # (8,)
            first = 0 if window is None else max(0, t - window + 1)
            assert (gradient[t + 1 :] == 0).all() and (gradient[:first] == 0).all()
            assert (gradient[first : t + 1] > 0).all()


def future_moves(attention, mask):
    """Whether outputs 0 to 4 of 8 move when only later inputs change."""
    torch.manual_seed(0)
    x, later = torch.randn(2, 8, 16), torch.randn(2, 3, 16)
    changed = torch.cat([x[:, :5], later], dim=1)
    return not torch.allclose(attention(x, mask)[:, :5], attention(changed, mask)[:, :5], atol=1e-6)


def reach(attention, mask):
    """(T, T) bool: does output i depend on input j?"""
    torch.manual_seed(0)
    x = torch.randn(2, 8, 16, requires_grad=True)
    outputs = attention(x, mask).sum(dim=(0, 2))  # (T,)
    rows = [torch.autograd.grad(y, x, retain_graph=True)[0].abs().amax(dim=(0, 2)) for y in outputs]
    return torch.stack(rows) > 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["window", "only itself", "no diagonal"])
def test_reach_finds_what_the_test_for_leaks_does_not(backend, name):
    attention = make_attention(backend)
    mask = {
        "window": sliding_window_mask(8, 2),
        "only itself": torch.eye(8, dtype=torch.bool),
        "no diagonal": causal_mask(8).tril(-1),
    }[name][None, None]
    assert not future_moves(attention, mask)
    assert not torch.equal(reach(attention, mask), causal_mask(8))
    assert torch.equal(reach(attention, None), causal_mask(8))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_a_mask_replaces_the_causal_one(backend, n_kv_heads):
    attention = make_attention(backend, n_kv_heads)
    padding = torch.ones(2, 1, 1, 8, dtype=torch.bool)
    padding[1, ..., 6:] = False
    assert future_moves(attention, padding) and not future_moves(attention, padding & causal_mask(8))
    assert reach(attention, padding).all()
    assert torch.equal(reach(attention, padding & causal_mask(8)), causal_mask(8))


# guards against: a mask with its meaning inverted
def test_the_causality_test_finds_an_inverted_mask():
    attention, x = make_attention("eager"), torch.randn(1, 8, 16, requires_grad=True)
    gradient = torch.autograd.grad(attention(x, ~causal_mask(8)[None, None])[:, 3].sum(), x)[0]
    assert (gradient[:, 4:] != 0).any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_kv_heads", [4, 2])
@pytest.mark.parametrize("sizes", [[7], [1] * 7, [4, 3], [2, 2, 3], [1, 6]])
# guards against: a causal mask aligned to the top left
# guards against: positions that restart with a cache
# guards against: several tokens into a cache without a causal mask
def test_mask_is_aligned_with_the_cache(backend, n_kv_heads, sizes):
    attention, x = make_attention(backend, n_kv_heads, rope=True), torch.randn(2, 7, 16)
    cache = Cache()
    pieces = [attention(piece, cache=cache) for piece in x.split(sizes, dim=1)]
    assert torch.allclose(torch.cat(pieces, dim=1), attention(x), atol=1e-6) and cache.length == 7


# guards against: a causal mask aligned to the top left
def test_causal_mask_is_aligned_at_the_end():
    assert causal_mask(2, 5).tolist() == [[True] * 4 + [False], [True] * 5]
    assert causal_mask(3).tolist() == [[True, False, False], [True, True, False], [True] * 3]


@pytest.mark.parametrize("window", [1, 2, 3, 5, 9])
@pytest.mark.parametrize(("T", "S"), [(5, 5), (2, 5), (1, 5)])
# guards against: a window that is off by one
def test_window_counts_the_position_itself(window, T, S):
    mask = sliding_window_mask(T, window, S)
    for i in range(T):
        place = S - T + i
        assert [j for j in range(S) if mask[i, j]] == list(range(max(0, place - window + 1), place + 1))


# ---------------------------------------------------------------- dropout and rows that see nothing


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_kv_heads", [4, 2])
# guards against: dropout that stays on in evaluation, or never comes back
def test_dropout_is_on_in_training_and_off_in_evaluation(backend, n_kv_heads):
    torch.manual_seed(0)
    attention, x = make_attention(backend, n_kv_heads, dropout=0.5), torch.randn(2, 6, 16)
    plain = make_attention(backend, n_kv_heads)(x)
    for _ in range(2):  # and back again
        attention.train()
        assert not torch.allclose(attention(x), attention(x))
        attention.eval()
        assert torch.equal(attention(x), attention(x))
        assert torch.allclose(attention(x), plain, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_keeps_the_mean(backend):
    torch.manual_seed(0)
    q, k, v = (torch.randn(4000, 1, 4, 8)[:1].expand(4000, -1, -1, -1) for _ in range(3))
    mean = by_function(backend)(q, k, v, causal_mask(4)[None, None], 0.25).mean(dim=0)
    exact = by_function(backend)(q[:1], k[:1], v[:1], causal_mask(4)[None, None])[0]
    assert (mean - exact).abs().max() < 0.15
    dropped = scaled_dot_product_attention(q[:2], k[:2], torch.eye(4).expand(2, 1, 4, 4), None, 0.25)
    kept = dropped[0] != 0
    assert torch.allclose(dropped[0][kept], dropped[1][kept] / 0.75) and not kept.all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("T", "d"), [(3, 4), (33, 16)])
# guards against: a row that may attend to nothing
def test_a_row_that_may_see_nothing_gives_zeros(dtype, backend, T, d):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, T, d).to(dtype).requires_grad_() for _ in range(3))
    mask = causal_mask(T)[None, None]
    mask[..., 1, :] = False
    output = by_function(backend)(q, k, v, mask)
    gradients = torch.autograd.grad(output.float().square().sum(), (q, k, v))
    assert (output[:, :, 1] == 0).all() and (output[:, :, 0] != 0).all()
    assert all(t.isfinite().all() for t in (output, *gradients)) and (gradients[0][:, :, 1] == 0).all()
    weights = scaled_dot_product_attention(q, k, v, mask)[1]
    sums = torch.ones(T)
    sums[1] = 0.0
    assert torch.allclose(weights.sum(-1).float(), sums.expand(1, 2, T), atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("backend", BACKENDS)
# guards against: a row that may attend to nothing
def test_module_with_a_row_of_padding_only(dtype, backend):
    attention = make_attention(backend, 2, rope=True).to(dtype)
    x = torch.randn(2, 4, 16).to(dtype).requires_grad_()
    mask = torch.tensor([[True] * 4, [False] * 4])[
        :, None, None
    ]  # (B, 1, 1, S): the second text is all padding
    y = attention(x, mask)
    gradients = torch.autograd.grad(y.float().sum(), (x, *attention.parameters()))
    assert (y[1] == 0).all() and y.isfinite().all() and all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_are_returned_and_sum_to_one(n_kv_heads, backend):
    attention, x = make_attention(backend, n_kv_heads), torch.randn(2, 6, 16)
    output, weights = attention(x, return_weights=True)
    assert weights.shape == (2, 4, 6, 6) and torch.allclose(weights.sum(-1), torch.ones(2, 4, 6))
    assert (weights >= 0).all() and (weights.triu(1) == 0).all()
    assert torch.allclose(output, attention(x), atol=1e-6)


# ---------------------------------------------------------------- heads


# guards against: heads split without a transpose
def test_heads_are_split_by_dimension_and_not_by_token():
    x = torch.arange(8).view(1, 2, 4)
    assert split_heads(x, 2)[0, 0].tolist() == [[0, 1], [4, 5]]
    x = torch.randn(2, 5, 12)
    assert torch.equal(join_heads(split_heads(x, 4)), x)
    assert torch.equal(split_heads(x, 4)[:, 1, 3], x[:, 3, 4:8])


@pytest.mark.parametrize("backend", BACKENDS)
def test_query_heads_share_neighbouring_key_heads(backend):
    """Heads 0 and 1 share key/value head 0, heads 2 and 3 share head 1: as full heads with repeated rows."""
    grouped, full = make_attention(backend, 2), make_attention(backend, 4)
    state = {**grouped.state_dict()}
    for name in ("k_proj.weight", "v_proj.weight"):
        state[name] = state[name].view(2, 4, 16).repeat_interleave(2, dim=0).reshape(16, 16)
    full.load_state_dict(state)
    x = torch.randn(2, 5, 16)
    assert torch.allclose(grouped(x), full(x), atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("d_model", "n_kv_heads", "head_dim"), [(24, 2, 6), (10, 4, 6), (10, 1, 2), (64, 4, 4)]
)
@pytest.mark.parametrize("rope", [False, True])
# guards against: projections that have to be square
def test_projections_need_not_be_square(backend, d_model, n_kv_heads, head_dim, rope):
    attention = make_attention(backend, n_kv_heads, rope, d_model=d_model, head_dim=head_dim)
    assert attention.q_proj.weight.shape == (4 * head_dim, d_model)
    assert attention.k_proj.weight.shape == attention.v_proj.weight.shape == (n_kv_heads * head_dim, d_model)
    assert attention.out_proj.weight.shape == (d_model, 4 * head_dim)
    x, cache = torch.randn(2, 7, d_model), Cache()
    y, weights = attention(x, return_weights=True)
    assert y.shape == x.shape and torch.allclose(attention(x), y, atol=1e-6)
    attention(x[:, :4], cache=cache)
    last, last_weights = attention(x[:, 4:], cache=cache, return_weights=True)  # 3 queries, 7 keys
    assert last_weights.shape == (2, 4, 3, 7) and torch.allclose(last_weights, weights[:, :, 4:], atol=1e-6)
    assert torch.allclose(last, y[:, 4:], atol=1e-6)


def test_values_may_have_another_size_than_keys():
    q, k, v = torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 7)
    outputs = [
        scaled_dot_product_attention(q, k, v, causal_mask(3, 5)[None])[0],
        tiled_attention(q, k, v, block=2),
    ]
    for output in (*outputs, fused_attention(q, k, v, causal=True)):
        assert output.shape == (2, 3, 7) and torch.allclose(output, outputs[0], atol=1e-6)


# ---------------------------------------------------------------- tiles


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block", [1, 3, 16, 64])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 9), (16, 16), (37, 37), (5, 21)])
def test_tiles_equal_the_whole(dtype, tolerance, causal, block, T, S):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, n, 6, dtype=dtype, requires_grad=True) for n in (T, S, S))
    mask = causal_mask(T, S)[None, None] if causal else None
    whole = output_and_gradients(lambda: scaled_dot_product_attention(q, k, v, mask)[0], (q, k, v))
    tiles = output_and_gradients(lambda: tiled_attention(q, k, v, block, causal), (q, k, v))
    assert_equal(tiles, whole, tolerance)


def test_tiles_do_not_overflow():
    q, k, v = (200 * torch.randn(1, 20, 8) for _ in range(3))
    whole = scaled_dot_product_attention(q, k, v, causal_mask(20)[None])[0]
    assert torch.allclose(tiled_attention(q, k, v, block=3), whole, rtol=1e-5)


@pytest.mark.parametrize("sizes", [[9], [1] * 9, [4, 5], [2, 3, 4]])
@pytest.mark.parametrize("order", ["rising", "falling", "random"])
def test_online_softmax_in_any_pieces(sizes, order):
    torch.manual_seed(0)
    scores, values = 30 * torch.randn(4, 9, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)
    if order != "random":
        scores = scores.sort(dim=-1, descending=order == "falling").values
    largest, total, mixed = torch.full((4, 1), -math.inf), torch.zeros(4, 1), torch.zeros(4, 3)
    for piece, rows in zip(scores.split(sizes, dim=-1), values.split(sizes)):
        largest, total, mixed = absorb_block(largest, total, mixed, piece, rows)
    assert torch.equal(largest, scores.amax(-1, keepdim=True))
    assert torch.allclose(mixed / total, scores.softmax(-1) @ values, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- 16 bits


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("T", "S"), [(5, 5), (2, 7), (40, 40)])
def test_large_queries_do_not_overflow_in_16_bits(dtype, causal, T, S):
    """q k^T would be 64 * 40 * 40 = 102,400; the largest float16 is 65,504. So q is divided first."""
    q, k = (torch.full((1, 2, n, 64), 40.0, dtype=dtype) for n in (T, S))
    v = torch.arange(float(S), dtype=dtype).view(1, 1, S, 1).expand(1, 2, S, 1)
    seen = causal_mask(T, S).sum(-1).tolist() if causal else [S] * T
    means = torch.tensor([(n - 1) / 2 for n in seen]).view(T, 1).expand(1, 2, T, 1)  # of 0 .. n - 1
    mask = causal_mask(T, S)[None, None] if causal else None
    for output in (
        scaled_dot_product_attention(q, k, v, mask)[0],
        fused_attention(q, k, v, causal=causal),
        tiled_attention(q, k, v, block=3, causal=causal),
    ):
        assert output.dtype == dtype and torch.allclose(output.float(), means, rtol=2e-2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize("causal", [True, False])
def test_three_ways_agree_in_16_bits(dtype, tolerance, causal):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 33, 16).to(dtype) for _ in range(3))
    mask = causal_mask(33)[None, None] if causal else None
    exact = scaled_dot_product_attention(q.double(), k.double(), v.double(), mask)[0]
    for output in (
        scaled_dot_product_attention(q, k, v, mask)[0],
        fused_attention(q, k, v, causal=causal),
        tiled_attention(q, k, v, block=7, causal=causal),
    ):
        assert (output.double() - exact).abs().max() < tolerance


# ---------------------------------------------------------------- positions, compiled, empty


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_kv_heads", [4, 2])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_angles_looked_up_once_are_the_positions(backend, n_kv_heads, batched, dtype):
    attention = make_attention(backend, n_kv_heads, rope=True).to(dtype)
    x, positions = torch.randn(2, 6, 16, dtype=dtype), torch.tensor([0, 1, 4, 5, 9, 11])
    positions = torch.stack([positions, positions + positions]) if batched else positions
    cos_sin = attention.rope.cos_sin(positions, dtype)
    assert torch.equal(attention(x, cos_sin=cos_sin), attention(x, positions=positions))
    assert not torch.allclose(attention(x, cos_sin=cos_sin), attention(x), atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_in_one_graph(backend, masked):
    attention = make_attention(backend, 2)
    compiled = torch.compile(attention, backend="eager", fullgraph=True, dynamic=True)
    for T in (5, 9):
        x = torch.randn(2, T, 16)
        mask = sliding_window_mask(T, 2)[None, None] if masked else None
        assert torch.allclose(compiled(x, mask), attention(x, mask), atol=1e-6)


def test_no_queries_give_no_outputs():
    q, k = torch.randn(1, 2, 0, 4), torch.randn(1, 2, 3, 4)
    for output in (
        scaled_dot_product_attention(q, k, k)[0],
        fused_attention(q, k, k, causal=True),
        tiled_attention(q, k, k),
    ):
        assert output.shape == (1, 2, 0, 4)


# ---------------------------------------------------------------- what would be wrong in silence is refused

THREE = (scaled_dot_product_attention, fused_attention, tiled_attention)


@pytest.mark.parametrize("function", THREE)
@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 2, 4, 8), (1, 2, 3, 8), (1, 2, 5, 8)],  # a value for each key
        [(2, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8)],  # one batch
        [(1, 2, 4, 8), (1, 2, 0, 8), (1, 2, 0, 8)],  # a key at all
    ],
)
def test_keys_and_values_that_do_not_fit(function, shapes):
    q, k, v = (torch.randn(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"k \(.*\), v \(.*\) do not fit q \(.*or are empty"):
        function(q, k, v)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(3, 3, dtype=torch.bool),  # (T, S), or (B, S)?
        torch.zeros(1, 1, 3, 3),  # PyTorch adds such a mask to the scores
    ],
)
def test_a_mask_that_could_mean_something_else(backend, mask):
    """The batch, the queries and the keys are three each."""
    message = (
        r"a mask \(.*3, 3\), torch\.\w+, for q \(3, 4, 3, 4\): expected bool and as many dimensions as q"
    )
    with pytest.raises(ValueError, match=message):
        make_attention(backend)(torch.randn(3, 3, 16), mask)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("B", "T", "shape"),
    [
        (2, 3, (3, 1, 1, 3)),
        (2, 3, (1, 1, 3, 8)),
        (2, 3, (1, 2, 3, 3)),
        (1, 3, (2, 1, 1, 3)),  # one text, two masks
        (2, 1, (1, 1, 3, 1)),  # one query, as with a cache, and a mask for three
    ],
)
def test_a_mask_stretches_no_score(backend, B, T, shape):
    """Wrong sizes in the batch, in queries, keys and heads: PyTorch speaks."""
    attention, mask = make_attention(backend), torch.ones(shape, dtype=torch.bool)
    with pytest.raises(RuntimeError, match="expanded size|broadcast shape|must match the size"):
        attention(torch.randn(B, T, 16), mask)


def test_sizes_that_would_be_wrong_in_silence():
    with pytest.raises(ValueError, match="d_model=10 is not divisible by n_heads=3; choose"):
        MultiHeadAttention(10, 3)
    with pytest.raises(ValueError, match="window=0: expected 1 or more"):
        sliding_window_mask(4, 0)
    for more_queries_than_keys in (
        lambda: causal_mask(6, 2),
        lambda: sliding_window_mask(6, 2, 2),
        lambda: fused_attention(torch.randn(3, 4), *torch.randn(2, 2, 4), causal=True),
        lambda: tiled_attention(torch.randn(3, 4), *torch.randn(2, 2, 4)),
    ):
        with pytest.raises(RuntimeError, match="negative dimension"):
            more_queries_than_keys()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sequence_beyond_the_rotary_table(backend):
    """Chapter 2 refuses it, and attention hands the right positions on, with a cache too."""
    attention = make_attention(backend, rope=True)  # 64 positions
    assert attention(torch.randn(1, 64, 16)).shape == (1, 64, 16)
    with pytest.raises((IndexError, ValueError)):
        attention(torch.randn(1, 65, 16))
    cache = Cache()
    attention(torch.randn(1, 64, 16), cache=cache)
    with pytest.raises((IndexError, ValueError)):
        attention(torch.randn(1, 1, 16), cache=cache)
