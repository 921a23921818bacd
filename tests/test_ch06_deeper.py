"""Chapter 6, deeper: the order in which weights lie changes times and nothing else."""

import copy

import pytest
import torch

import ch06_inference.weights_first as module
from ch04_transformer.transformer import GPT, GPTConfig
from ch06_inference.generation import generate
from ch06_inference.weights_first import WeightsFirst, tune_for_decode


def linear_layers(model):
    return [m for m in model.modules() if isinstance(m, torch.nn.Linear | WeightsFirst)]


@pytest.fixture
def fastest(monkeypatch):
    """Say which of the three ways is the fastest: "row by row", "weights first" or "column by column"."""

    def choose(name):
        def seconds(layers, x):
            if isinstance(layers[0], WeightsFirst):
                return 1.0 if name == "weights first" else 2.0
            by_row = layers[0].weight.is_contiguous()
            return 1.0 if name == {True: "row by row", False: "column by column"}[by_row] else 2.0

        monkeypatch.setattr(module, "seconds", seconds)

    return choose


WAYS = ["row by row", "weights first", "column by column"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "kind", [{}, {"bias": True}, {"norm": "rmsnorm", "activation": "swiglu", "position": "rope"}]
)
def test_every_order_gives_the_same_numbers(fastest, way, kind):
    fastest(way)
    model = GPT(GPTConfig(50, 64, d_model=32, n_heads=4, n_layers=2, n_kv_heads=2, **kind)).double().eval()
    tuned, ids = tune_for_decode(copy.deepcopy(model)), torch.randint(50, (2, 40))
    layers = linear_layers(tuned)
    assert {isinstance(layer, WeightsFirst) for layer in layers} == {way == "weights first"}
    assert {layer.weight.is_contiguous() for layer in layers} == {way != "column by column"}
    with torch.no_grad():
        for T in (1, 2, 40):  # 2 rows of 40 are too many for WeightsFirst
            assert (tuned(ids[:, :T]) - model(ids[:, :T])).abs().max() < 1e-12
    assert torch.equal(
        generate(tuned, ids[:, :5], 20, temperature=0), generate(model, ids[:, :5], 20, temperature=0)
    )


@pytest.mark.parametrize("way", WAYS)
def test_weights_and_their_names_stay(fastest, way):
    """The tied matrix too: it is still one, so that training after it moves both ends."""
    fastest(way)
    model = GPT(GPTConfig(50, 16, d_model=32, n_heads=4, n_layers=2))
    tuned = tune_for_decode(copy.deepcopy(model))
    assert tuned.lm_head.weight is tuned.embedding.token.weight
    before, after = model.state_dict(), tuned.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    ids = torch.randint(50, (1, 8))
    for m in (model, tuned):
        m(ids).sum().backward()
    for before, after in zip(model.parameters(), tuned.parameters()):
        assert torch.allclose(before.grad, after.grad, atol=1e-5)


@pytest.mark.parametrize("n_rows", [1, 2, 8, 32, 33])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 0.02)], ids=str)
def test_weights_first_equals_a_linear_layer(n_rows, bias, dtype, tolerance):
    layer = torch.nn.Linear(48, 20, bias=bias, dtype=dtype)
    first, x = WeightsFirst(layer), torch.randn(n_rows, 1, 48, dtype=dtype)
    assert first(x).shape == (n_rows, 1, 20) and first.weight is layer.weight
    assert torch.allclose(first(x), layer(x), rtol=tolerance, atol=tolerance)


def test_a_small_gain_changes_nothing(monkeypatch):
    """So that two runs on a busy machine do not differ for a few percent."""
    monkeypatch.setattr(
        module, "seconds", lambda layers, x: 0.95 if isinstance(layers[0], WeightsFirst) else 1.0
    )
    model = tune_for_decode(torch.nn.Sequential(torch.nn.Linear(4, 8)))
    assert type(model[0]) is torch.nn.Linear and model[0].weight.is_contiguous()


def test_tuning_measures_on_its_own():
    """Without a stand-in: whatever wins here, the numbers are the same."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Linear(256, 64))
    tuned, x = tune_for_decode(copy.deepcopy(model), n_rows=2), torch.randn(2, 64)
    assert torch.allclose(tuned(x), model(x), atol=1e-4)
