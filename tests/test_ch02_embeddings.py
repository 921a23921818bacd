"""Chapter 2: embeddings and positions equal their references."""

import math

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ch02_embeddings.embeddings import (
    InputEmbedding,
    LearnedPositionalEmbedding,
    RotaryEmbedding,
    SinusoidalPositionalEncoding,
    TokenEmbedding,
)


def test_token_embedding_equals_pytorch_and_one_hot():
    ours, theirs, ids = TokenEmbedding(50, 16), nn.Embedding(50, 16), torch.randint(50, (2, 7))
    theirs.weight.data.copy_(ours.weight.data)
    assert torch.equal(ours(ids), theirs(ids))
    assert torch.allclose(ours(ids), nn.functional.one_hot(ids, 50).float() @ ours.weight)
    ours(ids).square().sum().backward()
    theirs(ids).square().sum().backward()
    assert torch.equal(ours.weight.grad, theirs.weight.grad)


@pytest.mark.parametrize("wrong", [50, -1])
def test_token_id_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"token id {wrong} is outside the vocabulary of 50 ids"):
        TokenEmbedding(50, 16)(torch.tensor([[3, wrong]]))


def test_sinusoidal_equals_the_formula_at_any_length():
    encoding = SinusoidalPositionalEncoding(64, 100)
    for p in (0, 1, 99, 100, 5000):
        formula = [f(p / 10000 ** (2 * i / 64)) for i in range(32) for f in (math.sin, math.cos)]
        assert torch.allclose(encoding(torch.tensor([p]))[0], torch.tensor(formula), atol=1e-6)
    assert encoding(torch.arange(6).view(2, 3)).shape == (2, 3, 64)
    assert not list(encoding.parameters()) and not encoding.state_dict()


def test_learned_positions_end():
    table = LearnedPositionalEmbedding(8, 4)
    assert torch.equal(table(torch.arange(8)), table.weight)
    with pytest.raises(ValueError, match="position 8 is outside the 8 learned positions"):
        table(torch.arange(9))


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotary_scores_depend_on_the_distance_only(interleaved):
    rope = RotaryEmbedding(16, 512, interleaved=interleaved)
    q, k = torch.randn(1, 16), torch.randn(1, 16)
    scores = [(rope(q, torch.tensor([p])) @ rope(k, torch.tensor([p - 5])).T).item() for p in (5, 77, 511)]
    other = (rope(q, torch.tensor([9])) @ rope(k, torch.tensor([8])).T).item()
    assert max(scores) - min(scores) < 1e-4 and abs(other - scores[0]) > 1e-3


@pytest.mark.parametrize("theta", [10000.0, 100000.0])
def test_rotary_equals_llama(theta):  # known bug 10
    q, k = torch.randn(2, 4, 9, 16), torch.randn(2, 4, 9, 16)
    positions = torch.arange(100, 109)
    angles = torch.outer(positions.float(), theta ** (-torch.arange(0, 16, 2).float() / 16))
    cos, sin = (f(torch.cat([angles, angles], dim=-1)).unsqueeze(0) for f in (torch.cos, torch.sin))
    q_llama, k_llama = apply_rotary_pos_emb(q, k, cos, sin)
    half = RotaryEmbedding(16, 200, theta, interleaved=False)
    assert torch.allclose(half(q, positions), q_llama, atol=1e-4)
    assert torch.allclose(half(k, positions), k_llama, atol=1e-4)
    order = torch.cat([torch.arange(0, 16, 2), torch.arange(1, 16, 2)])  # interleaved -> half-split
    interleaved = RotaryEmbedding(16, 200, theta)
    assert torch.allclose(interleaved(q, positions)[..., order], half(q[..., order], positions), atol=1e-6)
    assert (interleaved(q, positions) - half(q, positions)).abs().max() > 0.1  # position 0 would hide it


def test_rotary_takes_positions_for_each_row_and_keeps_the_dtype():
    rope, x = RotaryEmbedding(8, 64), torch.randn(2, 3, 5, 8)
    positions = torch.stack([torch.arange(5), torch.arange(7, 12)])
    both = rope(x, positions)
    for row in range(2):
        assert torch.equal(both[row], rope(x[row], positions[row]))
    assert rope(x.bfloat16(), positions).dtype == torch.bfloat16
    for wrong in (64, -1):
        with pytest.raises(ValueError, match=f"position {wrong} is outside the 64 rotary positions"):
            rope(x, torch.tensor([0, 1, 2, 3, wrong]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RotaryEmbedding(7, 16), "head_dim=7 is odd"),
        (lambda: SinusoidalPositionalEncoding(7, 16), "d_model=7 is odd"),
        (lambda: InputEmbedding(10, 8, 16, "alibi"), "position='alibi' is unknown"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rope"])
def test_input_embedding_adds_positions_and_drops_in_training_only(position):
    front, ids = InputEmbedding(10, 8, 16, position, dropout=0.5), torch.tensor([[3, 3]])
    front.eval()
    x = front(ids, torch.arange(2))
    assert torch.equal(x[0, 0], x[0, 1]) == (position == "rope")
    assert torch.equal(x, front(ids, torch.arange(2)))
    front.train()
    assert (front(ids, torch.arange(2)) == 0).any()
