"""Appendix E, quantization: codes and scales, the bytes of a GGUF file, packed layers, and what they cost."""

import copy

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from appendix.d_architectures.trials import small_data, trial
from appendix.e_compression.q4_1 import decode_q4_1, decode_q8_0, encode_q4_1
from appendix.e_compression.quantization import (
    bits_per_weight,
    dequantize,
    pack_nibbles,
    quantize_absmax,
    quantize_groups,
    quantize_minmax,
    round_trip,
    unpack_nibbles,
)
from appendix.e_compression.quantized_layers import (
    QuantizedEmbedding,
    QuantizedLinear,
    block_matrices,
    map_matrices,
    quantized,
    stored_bytes,
)
from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.config import TrainConfig
from ch05_training.step import evaluate
from ch06_inference.generation import generate

Q4_1, Q8_0 = gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0


def draw(*shape, seed=0, dtype=torch.float64):
    """Numbers whose rows differ in size."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.rand(*shape[:-1], 1, generator=generator, dtype=dtype) * 4
    return torch.randn(*shape, generator=generator, dtype=dtype) * sizes.exp()


def small_gpt(**changes):
    torch.manual_seed(0)
    sizes = dict(vocab_size=50, context_length=16, d_model=64, n_heads=4, n_layers=2)
    return GPT(GPTConfig(**sizes | changes)).eval()


LLAMA = dict(norm="rmsnorm", activation="swiglu", position="rope", n_kv_heads=2, d_ff=96)


# ---------------------------------------------------------------- codes and scales


def test_by_hand():
    q = quantize_absmax(torch.tensor([0.3, -1.4, 0.0, 0.75]), bits=4)
    assert q.codes.tolist() == [2, -7, 0, 4] and q.codes.dtype == torch.int8 and q.minimum is None
    assert q.scale.item() == pytest.approx(0.2)
    q = quantize_minmax(torch.tensor([1.0, 1.3, 1.6, 2.5]), bits=4)
    assert q.codes.tolist() == [0, 3, 6, 15] and q.codes.dtype == torch.uint8
    assert dequantize(q).tolist() == pytest.approx([1.0, 1.3, 1.6, 2.5])


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("quantize", [quantize_absmax, quantize_minmax])
@pytest.mark.parametrize("dim", [None, 0, 1])
def test_nothing_moves_by_more_than_half_a_step(quantize, bits, dim):
    w = draw(7, 30, seed=bits)
    q = quantize(w, bits, dim)
    assert q.scale.shape == {None: (), 0: (1, 30), 1: (7, 1)}[dim]
    assert ((dequantize(q) - w).abs() <= q.scale / 2 * (1 + 1e-9)).all()
    if quantize is quantize_absmax:
        assert q.codes.abs().max() == 2 ** (bits - 1) - 1
    else:
        assert q.codes.min() == 0 and q.codes.max() == 2**bits - 1


def test_half_a_step_is_reached():
    """The bound could not be smaller: a weight in the middle of two codes moves by half a step."""
    q = quantize_absmax(torch.tensor([0.5, 7.0]), bits=4)
    assert (dequantize(q)[0] - 0.5).abs() == pytest.approx(q.scale.item() / 2)


def test_zeros_and_equal_numbers_are_kept():
    w = torch.tensor([[0.0, 0.0, 0.0], [2.5, 2.5, 2.5], [-1e-30, 0.0, 1e-30], [3.0, -1.0, 2.0]])
    for quantize in (quantize_absmax, quantize_minmax):
        left = dequantize(quantize(w, 4, dim=1))
        assert left.isfinite().all() and torch.allclose(left[:2], w[:2])
    assert dequantize(quantize_absmax(torch.tensor([0.0, 0.3, -5.0]), 2))[0] == 0


@pytest.mark.parametrize("bits", [8, 5, 4, 3, 2])
def test_absmax_equals_fake_quantize(bits):
    w = draw(6, 40, seed=bits, dtype=torch.float32)
    q, top = quantize_absmax(w, bits, dim=1), 2 ** (bits - 1) - 1
    zeros = torch.zeros(6, dtype=torch.int32)
    theirs = torch.fake_quantize_per_channel_affine(w, q.scale.flatten(), zeros, 0, -top, top)
    assert (theirs - dequantize(q)).abs().le(1e-5 * q.scale * top).all()


def test_a_group_is_quantised_by_itself():
    w = draw(5, 24)
    for symmetric, quantize in ((True, quantize_absmax), (False, quantize_minmax)):
        q = quantize_groups(w, 4, 8, symmetric)
        assert q.codes.shape == (5, 3, 8) and q.scale.shape == (5, 3, 1)
        alone = quantize(w[2, 8:16], 4)
        assert torch.equal(q.codes[2, 1], alone.codes) and q.scale[2, 1].item() == alone.scale.item()
        assert round_trip(w, 4, 8, symmetric).shape == w.shape
    assert quantize_groups(w, 4).codes.shape == (5, 1, 24)  # no size: a whole row


@pytest.mark.parametrize("group_size, bits", [(5, 4), (48, 4), (8, 1), (8, 9), (8, 0)])
def test_groups_that_cannot_be(group_size, bits):
    with pytest.raises(ValueError, match=f"rows of 24 weights into groups of {group_size} with bits={bits}"):
        quantize_groups(torch.zeros(2, 24), bits, group_size)


def test_error_falls_with_bits_and_with_smaller_groups():
    w = draw(50, 96, seed=3)
    error = {
        (b, g): (round_trip(w, b, g) - w).square().mean().item() for b in (2, 3, 4, 8) for g in (8, 32, 96)
    }
    for g in (8, 32, 96):
        assert error[2, g] > 3 * error[3, g] > 9 * error[4, g] > 900 * error[8, g]
    for b in (2, 3, 4, 8):
        assert error[b, 8] < 0.9 * error[b, 32] < 0.81 * error[b, 96]


def test_an_outlier_hurts_its_own_group_only():
    w = draw(1, 64, seed=1)
    spoilt = w.clone()
    spoilt[0, 40] = 1e4
    assert torch.equal(round_trip(spoilt, 4, 32)[0, :32], round_trip(w, 4, 32)[0, :32])
    error = [(round_trip(x, 4, 64) - x)[0, :32].square().mean() for x in (w, spoilt)]
    assert error[1] > 20 * error[0]


def test_the_same_grid_again_costs_nothing():
    w = draw(20, 64, seed=2)
    once = round_trip(w, 4, 32)
    assert torch.allclose(round_trip(once, 4, 32), once, atol=1e-12, rtol=0)
    assert (round_trip(once, 4, 64) - once).square().mean() > 1e-4 * once.square().mean()


def test_bits_per_weight():
    assert bits_per_weight(4, 32) == 5 and bits_per_weight(8, 32, symmetric=True) == 8.5
    assert bits_per_weight(3, 64, symmetric=True, scale_bits=32) == 3.5


def test_nibbles():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(pack_nibbles(unpack_nibbles(every)), every)
    assert pack_nibbles(torch.tensor([5, 7, 12, 0], dtype=torch.uint8)).tolist() == [197, 7]
    codes = torch.randint(16, (3, 4, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert pack_nibbles(codes).shape == (3, 4, 5) and torch.equal(unpack_nibbles(pack_nibbles(codes)), codes)
    with pytest.raises(ValueError, match="9 codes in a row"):
        pack_nibbles(codes[..., :9])
    with pytest.raises(ValueError, match="4 codes in a row, torch.int8"):
        pack_nibbles(quantize_absmax(draw(4), 4).codes)  # -1 would set all the bits of its neighbour


# ---------------------------------------------------------------- the bytes of a GGUF file


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(32,), (1, 64), (7, 96), (2, 3, 32)])
def test_q4_1_and_q8_0_are_ggufs(seed, shape):
    w = draw(*shape, seed=seed, dtype=torch.float32)
    for kind, decode in ((Q4_1, decode_q4_1), (Q8_0, decode_q8_0)):
        theirs = gguf.quantize(w.numpy(), kind)
        assert np.array_equal(decode(torch.from_numpy(theirs)).numpy(), gguf.dequantize(theirs, kind))
    assert np.array_equal(encode_q4_1(w).numpy(), gguf.quantize(w.numpy(), Q4_1))


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_q4_1_of_odd_blocks_is_ggufs():
    w = torch.zeros(8, 32)
    w[1] = 2.5  # all equal
    w[2, 7] = -1.0  # one outlier
    w[3] = torch.arange(32) - 16.0
    w[4] = torch.arange(32) / 31 * 15
    w[5, 0] = 3e6  # a scale above the largest half
    w[6] = torch.arange(32) * 1e5 - 1e6  # and a minimum below the smallest
    w[7] = torch.arange(32) * 1e-9  # a scale below the smallest half
    ours = encode_q4_1(w)
    assert np.array_equal(ours.numpy(), gguf.quantize(w.numpy(), Q4_1))
    assert torch.equal(decode_q4_1(ours)[:2], w[:2]) and not decode_q4_1(ours)[5:7].isfinite().all()


def test_q4_1_of_halves_is_ggufs():
    """Which way a weight in the middle of two codes goes hangs on ggml's order of arithmetic."""
    steps = torch.cat([torch.tensor([0.0, 15.0]), torch.arange(30) % 15 + 0.5])  # (32,)
    scales = torch.rand(500, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    w = torch.cat([steps * 1.0, *(steps * scales)]).view(-1, 32)
    assert decode_q4_1(encode_q4_1(w))[0, 2:5].tolist() == [1, 2, 3]  # up, all of them
    assert np.array_equal(encode_q4_1(w).numpy(), gguf.quantize(w.numpy(), Q4_1))


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_q4_1_decodes_any_bytes_as_gguf_does():
    data = torch.randint(256, (50, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert np.array_equal(decode_q4_1(data).numpy(), gguf.dequantize(data.numpy(), Q4_1), equal_nan=True)


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize("bits, group_size", [(8, None), (8, 16), (4, 16), (4, None), (3, 8), (2, 48)])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_equals_round_trip(bits, group_size, bias):
    torch.manual_seed(bits)
    linear, x = nn.Linear(48, 5, bias=bias), torch.randn(2, 3, 48)
    layer = QuantizedLinear(linear.weight, linear.bias, bits, group_size)
    coarse = round_trip(linear.weight.detach(), bits, group_size, symmetric=bits == 8)
    assert layer.weight.shape == (5, 48) and torch.allclose(layer.weight, coarse, atol=2e-4)
    assert torch.equal(layer(x), F.linear(x, layer.weight, linear.bias))
    index = torch.tensor([[4, 0]])
    assert torch.equal(layer.rows(index), layer.weight[index])
    kept = bits_per_weight(max(bits, 4), group_size or 48, symmetric=bits == 8) * 5 * 48 / 8
    assert sum(buffer.nbytes for buffer in layer.buffers()) == pytest.approx(kept)
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("bits", [1, 5, 6, 16, 32])
def test_bits_that_a_layer_does_not_have(bits):
    with pytest.raises(ValueError, match=f"bits={bits} must be 8, 4, 3 or 2"):
        QuantizedLinear(torch.zeros(2, 8), bits=bits)


@pytest.mark.parametrize("changes", [{}, LLAMA, LLAMA | dict(tie_weights=False), dict(bias=True)])
@pytest.mark.parametrize("bits, group_size", [(8, None), (4, 32)])
@torch.no_grad()
def test_quantized_model(changes, bits, group_size):
    model = small_gpt(**changes)
    before, ids = copy.deepcopy(model.state_dict()), torch.randint(50, (2, 11))
    small = quantized(model, bits, group_size)
    assert not any(isinstance(layer, nn.Linear) for layer in small.modules())
    assert isinstance(small.embedding.token, QuantizedEmbedding)
    assert (small.embedding.token.matrix is small.lm_head) == model.config.tie_weights
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    reference = map_matrices(model, lambda w: round_trip(w, bits, group_size, symmetric=bits == 8))
    for matrix in {reference.lm_head.weight, reference.embedding.token.weight}:
        matrix.copy_(round_trip(matrix, 8, symmetric=True))
    gap, moved = ((other(ids) - small(ids)).abs().max() for other in (reference, model))
    assert gap < 0.1 * moved  # scales are rounded to 16 bits
    again = quantized(GPT(model.config).eval(), bits, group_size)
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(ids), small(ids))
    assert generate(small, ids[:, :3], max_new_tokens=4, temperature=0).shape == (2, 7)


def test_norms_of_the_copy_are_its_own():
    """Training the model on must not change a copy that was made before."""
    model = small_gpt()
    small = quantized(model)
    with torch.no_grad():
        model.norm.weight.fill_(3)
    assert (small.norm.weight == 1).all()


def test_head_may_stay_in_floats():
    model = small_gpt()
    small = quantized(model, 4, 32, head_bits=None)
    assert isinstance(small.lm_head, nn.Linear) and small.lm_head.weight is small.embedding.token.weight
    assert len(block_matrices(model)) == 12 and not block_matrices(small)


def test_stored_bytes():
    model = small_gpt()
    n_blocks, n_table = 2 * 12 * 64 * 64, 50 * 64
    n_rest = sum(p.numel() for p in model.parameters()) - n_blocks - n_table
    assert stored_bytes(model) == 4 * (n_blocks + n_table + n_rest)  # the tied matrix once
    bits = n_blocks * bits_per_weight(4, 32) + n_table * bits_per_weight(8, 64, symmetric=True) + 32 * n_rest
    assert stored_bytes(quantized(model, 4, 32)) == pytest.approx(bits / 8)


def test_map_matrices_leaves_the_rest():
    model = small_gpt()
    changed = map_matrices(model, torch.zeros_like)
    assert all((layer.weight == 0).all() for layer in block_matrices(changed).values())
    assert torch.equal(changed.lm_head.weight, model.lm_head.weight)
    assert all(layer.weight.any() for layer in block_matrices(model).values())


# ---------------------------------------------------------------- what it costs


def test_fewer_bits_cost_more():
    """Another seed and another size than the notebook's."""
    _, train_data, held_out = small_data(context_length=32, n_plays=2, n_held_out=6_000)
    config = GPTConfig(vocab_size=512, context_length=32, d_model=32, n_heads=2, n_layers=2)
    recipe = TrainConfig(
        steps=120, max_lr=1e-2, warmup_steps=10, batch_size=16, seed=12, device="cpu", precision="float32"
    )
    model, _, floats, _ = trial(lambda: GPT(config), recipe, train_data, held_out)

    def added(bits):
        return evaluate(quantized(model, bits, None if bits == 8 else 32), held_out)["loss"] - floats

    eight, four, three, two = map(added, (8, 4, 3, 2))
    assert abs(eight) < 0.003 and max(abs(eight), four) < three and two > 1.5 * three
