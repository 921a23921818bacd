"""Appendix D, state spaces: every form against every other, and the block against transformers' Mamba."""

import math

import pytest
import torch
import torch.nn.functional as F

from appendix.d_architectures import state_space
from appendix.d_architectures.state_space import (
    DiagonalSSM,
    LinearScan,
    MambaBlock,
    MambaLayer,
    SelectiveSSM,
    StateCache,
    causal_convolution,
    linear_scan,
    mamba_gpt,
    scan_by_doubling,
    scan_in_chunks,
    scan_in_steps,
    selective_scan,
    ssm_kernel,
    zero_order_hold,
)
from ch04_transformer.transformer import GPT, GPTConfig
from ch06_inference.generation import KVCache, generate, generate_steps

SCANS = [scan_in_steps, scan_by_doubling, scan_in_chunks, LinearScan.apply, linear_scan]
CONFIG = GPTConfig(vocab_size=23, context_length=40, d_model=12, n_heads=2, n_layers=2)


def draw(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_the_formula(a, u, state=None):
    """The recurrence as numbers, one after another."""
    h = torch.zeros_like(u[:, 0]) if state is None else state
    states = []
    for t in range(u.size(1)):
        h = a[:, t] * h + u[:, t]
        states.append(h)
    return torch.stack(states, dim=1)


# ---------------------------------------------------------------- the recurrence


@pytest.mark.parametrize("scan", SCANS, ids=lambda scan: scan.__name__)
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 7), (2, 13, 3), (3, 16, 2, 4), (1, 37, 2, 3)])
def test_all_scans_are_the_recurrence(scan, shape):
    a, u = draw(1, *shape).sigmoid(), draw(2, *shape)
    assert torch.allclose(scan(a, u), by_the_formula(a, u), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scan", SCANS, ids=lambda scan: scan.__name__)
@pytest.mark.parametrize("T", [1, 2, 5, 9])
def test_all_scans_have_the_gradient_of_the_recurrence(scan, T):
    a, u = draw(3, 2, T, 3).sigmoid().requires_grad_(), draw(4, 2, T, 3).requires_grad_()
    weights = draw(5, 2, T, 3)
    got = torch.autograd.grad((scan(a, u) * weights).sum(), [a, u], materialize_grads=True)
    right = torch.autograd.grad((by_the_formula(a, u) * weights).sum(), [a, u], materialize_grads=True)
    for one, other in zip(got, right):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_a_wide_scan_takes_the_other_way_and_is_the_same():
    a, u = draw(1, 2, 11, 64, 32).sigmoid().requires_grad_(), draw(2, 2, 11, 64, 32).requires_grad_()
    assert state_space.fastest_scan(a) is scan_in_steps
    assert state_space.fastest_scan(a[:1, :, :2]) is scan_in_chunks
    got, right = linear_scan(a, u), by_the_formula(a, u)
    assert torch.allclose(got, right, rtol=0, atol=1e-12)
    weights = draw(3, *u.shape)
    for one, other in zip(
        torch.autograd.grad((got * weights).sum(), [a, u]),
        torch.autograd.grad((right * weights).sum(), [a, u]),
    ):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("T", [1, 4, 7])
def test_gradcheck_of_the_scan_with_a_state(T):
    a, u, state = draw(1, 2, T, 3).sigmoid(), draw(2, 2, T, 3), draw(3, 2, 3)
    inputs = [tensor.requires_grad_() for tensor in (a, u, state)]
    assert torch.allclose(linear_scan(*inputs), by_the_formula(*inputs), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(linear_scan, inputs)


@pytest.mark.parametrize("chunk", [1, 2, 3, 8, 13, 50])
def test_any_chunk(chunk):
    a, u = draw(1, 2, 13, 3).sigmoid(), draw(2, 2, 13, 3)
    assert torch.allclose(scan_in_chunks(a, u, chunk), by_the_formula(a, u), rtol=0, atol=1e-12)


def test_a_scan_goes_on_from_the_state_of_its_first_half():
    a, u = draw(1, 2, 17, 3).sigmoid(), draw(2, 2, 17, 3)
    first = linear_scan(a[:, :9], u[:, :9])
    second = linear_scan(a[:, 9:], u[:, 9:], first[:, -1])
    assert torch.allclose(torch.cat([first, second], 1), by_the_formula(a, u), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scan", SCANS, ids=lambda scan: scan.__name__)
def test_a_long_scan_of_products_that_vanish_is_finite(scan):
    """The products of a underflow to 0; no form divides by them."""
    a = torch.full((1, 3000, 2), 0.01, requires_grad=True)
    u = torch.randn(1, 3000, 2, generator=torch.Generator().manual_seed(0))
    h = scan(a, u)
    h.sum().backward()
    assert h.isfinite().all() and a.grad.isfinite().all()
    assert torch.allclose(h[:, 1:], u[:, 1:] + 0.01 * h[:, :-1], atol=1e-5)


# ---------------------------------------------------------------- time-invariant


def test_zero_order_hold_is_the_exact_solution():
    """h' = A h + x with x held: against many small Euler steps."""
    A, delta = torch.tensor([-0.5, -2.0], dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    a, b = zero_order_hold(A, delta)
    h, n = torch.full((2,), 1.5, dtype=torch.float64), 200_000
    euler_a = (1 + A * delta / n) ** n  # n steps of h + (A h + x) delta / n from h: a linear map
    euler_b = (euler_a - 1) / A
    assert torch.allclose(a * h + b * 0.7, euler_a * h + euler_b * 0.7, atol=1e-5)
    assert torch.allclose(b, delta.expand(2), rtol=0.5)  # near delta, and nearer for a small one
    assert torch.allclose(zero_order_hold(A, delta / 1e4)[1], (delta / 1e4).expand(2), rtol=1e-4)


@pytest.mark.parametrize("T", [1, 2, 9, 64])
def test_kernel_convolution_and_recurrence_are_one(T):
    a, b, c, x = draw(1, 3, 4).sigmoid(), draw(2, 3, 4), draw(3, 3, 4), draw(4, 2, T, 3)
    kernel = ssm_kernel(a, b, c, T)
    u = b * x.unsqueeze(-1)
    y = (by_the_formula(a.expand_as(u), u) * c).sum(-1)
    summed = torch.stack([sum(kernel[:, k] * x[:, t - k] for k in range(t + 1)) for t in range(T)], dim=1)
    assert kernel.shape == (3, T)
    assert torch.allclose(summed, y, rtol=0, atol=1e-11)
    assert torch.allclose(causal_convolution(x, kernel), y, rtol=0, atol=1e-11)


@pytest.mark.parametrize("length", [10, 13, 40])
def test_a_kernel_longer_than_the_text_does_not_come_around(length):
    x, kernel = draw(1, 2, 9, 3), draw(2, 3, length)
    assert torch.allclose(causal_convolution(x, kernel), causal_convolution(x, kernel[:, :9]), atol=1e-12)


def test_gradcheck_of_the_convolution():
    a, b, c, x = draw(1, 2, 3).sigmoid(), draw(2, 2, 3), draw(3, 2, 3), draw(4, 2, 5, 2)

    def convolve(a, b, c, x):
        return causal_convolution(x, ssm_kernel(a, b, c, 5))

    assert torch.autograd.gradcheck(convolve, [tensor.requires_grad_() for tensor in (a, b, c, x)])


@pytest.mark.parametrize("T", [1, 7, 30])
def test_both_forms_of_the_diagonal_ssm_with_gradients(T):
    torch.manual_seed(0)
    ssm, x = DiagonalSSM(5, 3).double(), draw(1, 2, T, 5).requires_grad_()
    weights, results = draw(2, 2, T, 5), []
    for state in (None, torch.zeros(2, 5, 3, dtype=torch.float64)):
        y, last = ssm(x, state)
        results.append([y, *torch.autograd.grad((y * weights).sum(), [x, *ssm.parameters()])])
    assert last.shape == (2, 5, 3)
    for one, other in zip(*results):
        assert torch.allclose(one, other, rtol=0, atol=1e-11)


def test_a_long_kernel_neither_grows_nor_breaks():
    torch.manual_seed(0)
    ssm = DiagonalSSM(4, 16)
    a, b = zero_order_hold(-ssm.A_log.exp(), ssm.log_delta.exp().unsqueeze(-1))
    kernel = ssm_kernel(a, b, ssm.C, 30_000)
    assert ((a > 0) & (a < 1)).all() and kernel.isfinite().all()
    assert kernel[:, -1].abs().max() < 1e-6 < kernel[:, 0].abs().max()
    y, _ = ssm(torch.randn(1, 30_000, 4, generator=torch.Generator().manual_seed(1)))
    assert y.isfinite().all()
    y.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in ssm.parameters())


# ---------------------------------------------------------------- selective


def selective_by_the_formula(x, delta, A, B, C):
    """Algorithm 2 with loops over rows, positions, channels and states."""
    y = torch.zeros_like(x)
    for row in range(x.size(0)):
        for d in range(x.size(2)):
            for n in range(A.size(1)):
                h = 0.0
                for t in range(x.size(1)):
                    step = delta[row, t, d]
                    h = math.exp(step * A[d, n]) * h + step * B[row, t, n] * x[row, t, d]
                    y[row, t, d] += C[row, t, n] * h
    return y


def selective_inputs(T, Bt=2, D=3, N=2):
    x, delta = draw(1, Bt, T, D), F.softplus(draw(2, Bt, T, D))
    return x, delta, -draw(3, D, N).exp(), draw(4, Bt, T, N), draw(5, Bt, T, N)


@pytest.mark.parametrize("T", [1, 2, 7])
def test_selective_scan_is_algorithm_2(T):
    inputs = selective_inputs(T)
    y, last = selective_scan(*inputs)
    assert torch.allclose(y, selective_by_the_formula(*inputs), rtol=0, atol=1e-12)
    assert last.shape == (2, 3, 2)


def test_gradcheck_of_the_selective_scan():
    inputs = [tensor.requires_grad_() for tensor in (*selective_inputs(5), draw(6, 2, 3, 2))]
    assert torch.autograd.gradcheck(selective_scan, inputs)


def test_a_constant_choice_makes_the_selective_scan_time_invariant():
    """With delta, B and C the same at each token it is the convolution, by Mamba's b = delta B."""
    x, _, A, _, _ = selective_inputs(11)
    delta, B, C = torch.tensor([0.3, 0.1, 0.7]).double(), draw(7, 2), draw(8, 2)
    y, _ = selective_scan(x, delta.expand_as(x), A, B.expand(2, 11, 2), C.expand(2, 11, 2))
    kernel = ssm_kernel((delta[:, None] * A).exp(), delta[:, None] * B, C.expand(3, 2), 11)
    assert torch.allclose(y, causal_convolution(x, kernel), rtol=0, atol=1e-12)


def test_start_of_the_selective_ssm():
    torch.manual_seed(0)
    ssm = SelectiveSSM(200, 4, 3)
    at_rest = F.softplus(ssm.dt_proj.bias)
    assert 0.00099 < at_rest.min() < 0.002 and 0.05 < at_rest.max() < 0.1001
    assert torch.allclose(ssm.A_log.exp(), torch.arange(1.0, 5).expand(200, 4))


@pytest.mark.parametrize("T", [1, 5000])
def test_no_nan_for_any_length(T):
    torch.manual_seed(0)
    block = MambaBlock(8, d_state=4)
    y = block(10 * torch.randn(1, T, 8))
    y.square().mean().backward()
    assert y.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


# ---------------------------------------------------------------- the block


def blocks():
    torch.manual_seed(0)
    return {
        "selective": MambaBlock(6, d_state=3, dt_rank=2).double(),
        "fixed": MambaBlock(6, d_state=3, selective=False).double(),
        "no convolution": MambaBlock(6, d_state=3, d_conv=1).double(),
    }


@pytest.mark.parametrize("name", blocks())
def test_no_token_sees_the_future(name):
    block, x = blocks()[name], draw(1, 2, 9, 6)
    y = block(x)
    for t in range(8):
        changed = x.clone()
        changed[:, t + 1 :] = draw(2, 2, 8 - t, 6)
        z = block(changed)
        assert torch.allclose(z[:, : t + 1], y[:, : t + 1], rtol=0, atol=1e-12)
        assert not torch.allclose(z[:, t + 1], y[:, t + 1], atol=1e-6)
    assert not torch.allclose(block(draw(3, 2, 9, 6))[:, -1], y[:, -1])


@pytest.mark.parametrize("name", blocks())
def test_the_first_token_reaches_the_last(name):
    block, x = blocks()[name], draw(1, 1, 12, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(block(x)[0, -1].sum(), x)
    assert (gradient.abs().sum(-1) > 1e-12).all()


@pytest.mark.parametrize("name", blocks())
@pytest.mark.parametrize("parts", [[1] * 9, [5, 1, 1, 2], [9], [2, 7]])
def test_decoding_is_the_scan(name, parts):
    block, x = blocks()[name], draw(1, 2, 9, 6)
    cache = StateCache(GPTConfig(4, 4, 6, 1, n_layers=1))
    held, outputs = [], []
    for part in x.split(parts, dim=1):
        outputs.append(block(part, cache=cache[0]))
        held.append(cache.n_bytes)
    assert torch.allclose(torch.cat(outputs, 1), block(x), rtol=0, atol=1e-12)
    assert cache.length == 9 and len(set(held)) == 1
    inputs = block.conv1d.kernel_size[0] - 1
    assert held[0] == 2 * (12 * 3 + inputs * 12) * 8


def test_a_mask_is_refused():
    with pytest.raises(ValueError, match="no mask"):
        MambaBlock(6)(torch.zeros(1, 3, 6), mask=torch.ones(3, 3, dtype=torch.bool))


def test_mixed_precision_on_the_cpu():
    torch.manual_seed(0)
    for block in (MambaBlock(8, d_state=4), MambaBlock(8, d_state=4, selective=False)):
        x = torch.randn(2, 10, 8)
        with torch.autocast("cpu", torch.bfloat16):
            y = block(x)
        y.float().square().mean().backward()
        assert torch.allclose(y.float(), block(x), atol=0.05)
        assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


def name_here(name):
    """A parameter's name in transformers' mixer -> in our block."""
    inside = {"A_log": "A_log", "D": "skip"}.get(name, name)
    return inside if name.startswith(("in_proj", "conv1d", "out_proj")) else f"ssm.{inside}"


@pytest.mark.parametrize("T", [1, 3, 10])
@pytest.mark.parametrize("sizes", [(8, 4, 4, 2, 3), (16, 3, 2, 1, 1)])
def test_equal_to_transformers_mixer_with_gradients(T, sizes):
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    d_model, d_state, d_conv, expand, rank = sizes
    torch.manual_seed(1)
    config = MambaConfig(
        vocab_size=5,
        hidden_size=d_model,
        state_size=d_state,
        conv_kernel=d_conv,
        expand=expand,
        time_step_rank=rank,
        num_hidden_layers=1,
    )
    mixer = MambaMixer(config, layer_idx=0)
    block = MambaBlock(d_model, d_state, d_conv, expand, rank)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        mixer.dt_proj.bias.normal_()  # deltas of about 0.7, so that the state forgets and A has a gradient
    block.load_state_dict({name_here(name): tensor for name, tensor in mixer.state_dict().items()})
    x, weights, results = torch.randn(2, T, d_model), torch.randn(2, T, d_model), []
    names = [name for name, _ in mixer.named_parameters()]
    for model, own in ((mixer, names), (block, map(name_here, names))):
        parameters, leaf = dict(model.named_parameters()), x.clone().requires_grad_()
        y = model(leaf)
        gradients = torch.autograd.grad((y * weights).sum(), [leaf, *(parameters[name] for name in own)])
        results.append([y, *gradients])
    for one, other in zip(*results):
        assert (one - other).abs().max() <= 1e-5 * one.abs().max()
        assert T == 1 or one.abs().max() > 1e-5  # A has no part in the first output


# ---------------------------------------------------------------- in a GPT


def test_generating_with_states_is_generating_without():
    torch.manual_seed(0)
    model, prompt = mamba_gpt(CONFIG, d_state=4).double().eval(), torch.randint(23, (2, 7))
    cache = StateCache(CONFIG)
    with_states = torch.stack(list(generate_steps(model, prompt, 20, cache=cache, temperature=0)), dim=1)
    without = generate(model, prompt, 20, temperature=0, use_cache=False)[:, 7:]
    assert torch.equal(with_states, without)
    assert cache.length == 26


def test_cache_bytes_do_not_grow_and_those_of_attention_do():
    torch.manual_seed(0)
    mamba, gpt, sizes = mamba_gpt(CONFIG, d_state=4), GPT(CONFIG), []
    for T in (1, 39):
        states, pairs, ids = StateCache(CONFIG), KVCache(CONFIG, capacity=1), torch.randint(23, (1, T))
        mamba(ids, states), gpt(ids, pairs)
        sizes.append((states.n_bytes, pairs.n_bytes))
    assert sizes[0][0] == sizes[1][0] == 2 * (24 * 4 + 3 * 24) * 4
    assert sizes[1][1] > 30 * sizes[0][1]


def test_a_mamba_gpt_has_no_positions_and_knows_the_order():
    torch.manual_seed(0)
    model, ids = mamba_gpt(CONFIG, d_state=4), torch.tensor([[3, 1, 4, 1, 5]])
    assert all(isinstance(layer, MambaLayer) for layer in model.blocks) and len(model.blocks) == 2
    assert not torch.allclose(model(ids)[:, -1], model(ids[:, [1, 0, 2, 3, 4]])[:, -1], atol=1e-5)


def test_a_block_takes_the_place_of_attention():
    torch.manual_seed(0)
    model = GPT(CONFIG)
    for block in model.blocks:
        block.attention = MambaBlock(CONFIG.d_model, d_state=4)
    ids = torch.randint(23, (2, 9))
    cache = StateCache(CONFIG)
    parts = torch.cat([model(part, cache) for part in ids.split([4, 1, 4], dim=1)], dim=1)
    assert torch.allclose(parts, model(ids), atol=1e-5)


# ---------------------------------------------------------------- what selection is for


def copied_letters(selective, seed, steps=150, n_rows=32):
    """Share of letters that a small model copies out of noise, as in the notebook."""

    def texts(n):
        letters = torch.randint(4, (n, 3), generator=draws)
        places = torch.rand(n, 24, generator=draws).argsort(1)[:, :3].sort(1).values
        text = torch.full((n, 24), 4).scatter(1, places, letters)
        return torch.cat([text, torch.full_like(letters, 5)], dim=1), letters

    torch.manual_seed(seed)
    config = GPTConfig(vocab_size=6, context_length=27, d_model=24, n_heads=1, n_layers=2, norm="rmsnorm")
    model, draws = mamba_gpt(config, d_state=8, selective=selective), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * min(1, (step + 1) / 20) * (1 - step / steps)
        text, letters = texts(n_rows)
        loss = F.cross_entropy(model(text)[:, -3:].flatten(0, 1), letters.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    text, letters = texts(256)
    with torch.no_grad():
        return (model(text)[:, -3:].argmax(-1) == letters).float().mean().item()


def test_selection_copies_what_a_fixed_kernel_cannot_find():
    fixed, selective = (copied_letters(choice, seed=11) for choice in (False, True))
    assert fixed > 0.3, "it learns something"
    assert selective > fixed + 0.1
