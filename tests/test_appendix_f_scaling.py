"""Appendix F, scaling laws: known laws are found again, noise is survived, a larger model is predicted."""

import math

import pytest
import torch

from appendix.d_architectures.trials import small_data
from appendix.f_ablations.comparing import mean_sd
from appendix.f_ablations.harness import Budget, Variant, run
from appendix.f_ablations.scaling_laws import (
    LossLaw,
    PowerLaw,
    bootstrap_laws,
    fit_loss_law,
    fit_power_law,
    lowest_of_parabola,
)

SIZES = (5_672, 9_660, 14_416, 26_232, 41_120)
TOKENS = (20_480, 40_960, 81_920)
GRID = [(N, D) for N in SIZES for D in TOKENS]
TRUE = LossLaw(E=2.5, A=60.0, B=400.0, alpha=0.5, beta=0.5)


@pytest.mark.parametrize("law", (PowerLaw(2.0, 2.0, 0.5), PowerLaw(0.0, 9.0, 0.1), PowerLaw(3.1, 80.0, 0.8)))
def test_a_power_law_is_found_again(law):
    x = [1.0, 4.0, 16.0, 64.0, 256.0]
    found = fit_power_law(x, [law.loss(value) for value in x], n_floors=2000)
    assert abs(found.E - law.E) < 0.02 and abs(found.alpha - law.alpha) < 0.02
    assert all(abs(found.loss(value) - law.loss(value)) < 0.03 for value in (*x, 1024.0))


def test_with_one_floor_it_is_the_line_of_least_squares():
    x, y = (
        torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64),
        torch.tensor([5.0, 4.0, 3.5], dtype=torch.float64),
    )
    found = fit_power_law(x, y, n_floors=1)
    design = torch.stack([torch.ones(3, dtype=torch.float64), x.log()], dim=1)
    height, slope = torch.linalg.lstsq(design, y.log().unsqueeze(1)).solution.flatten().tolist()
    assert found.E == 0 and abs(found.A - math.exp(height)) < 1e-9 and abs(found.alpha + slope) < 1e-9


@pytest.mark.parametrize("law", (TRUE, LossLaw(2.0, 30.0, 100.0, 0.35, 0.4)))
def test_a_law_of_two_variables_is_found_again(law):
    found = fit_loss_law(*zip(*GRID), [law.loss(N, D) for N, D in GRID])
    for N, D in (*GRID, (131_392, 81_920), (131_392, 400_000)):
        assert abs(found.loss(N, D) - law.loss(N, D)) < 0.02
    assert abs(found.alpha - law.alpha) < 0.05 and abs(found.beta - law.beta) < 0.05


def test_the_huber_loss_survives_a_training_that_went_wrong():
    losses = [TRUE.loss(N, D) for N, D in GRID]
    losses[4] += 2.0
    found = fit_loss_law(*zip(*GRID), losses)
    others = [abs(found.loss(N, D) - TRUE.loss(N, D)) for N, D in GRID]
    squares = fit_loss_law(*zip(*GRID), losses, delta=10.0)
    assert max(others) < 0.05 < max(abs(squares.loss(N, D) - TRUE.loss(N, D)) for N, D in GRID)


def test_the_best_size_has_the_least_loss():
    for law in (TRUE, LossLaw(1.0, 30.0, 200.0, 0.3, 0.6)):
        for C in (1e9, 1e12):
            N = law.best_size(C)
            best = law.loss(N, C / 6 / N)
            assert all(law.loss(N * by, C / 6 / N / by) > best for by in (0.9, 0.99, 1.01, 1.1))
    assert abs(LossLaw(1.0, 2.0, 2.0, 0.4, 0.4).best_size(600.0) - 10.0) < 1e-9


def test_the_bootstrap_scatters_as_the_noise_does():
    def noisy(seed, noise):
        generator = torch.Generator().manual_seed(seed)
        draws = {pair: noise * torch.randn(3, generator=generator, dtype=torch.float64) for pair in GRID}
        return {pair: (TRUE.loss(*pair) + draw).tolist() for pair, draw in draws.items()}

    spreads = []
    for noise in (0.01, 0.04):
        law, laws = bootstrap_laws(noisy(1, noise), n=12)
        predictions = [one.loss(131_392, 81_920) for one in laws]
        spreads.append(mean_sd(predictions)[1])
        assert abs(law.loss(131_392, 81_920) - TRUE.loss(131_392, 81_920)) < 6 * noise
    assert 0 < spreads[0] < spreads[1]
    exact, same = bootstrap_laws({pair: [TRUE.loss(*pair)] * 2 for pair in GRID}, n=2)
    assert all(abs(one.loss(131_392, 81_920) - exact.loss(131_392, 81_920)) < 1e-3 for one in same)


def test_the_lowest_point_of_a_parabola():
    N = [10.0, 20.0, 50.0, 200.0]
    assert abs(lowest_of_parabola(N, [3 + (math.log(n) - math.log(37)) ** 2 for n in N]) - 37) < 1e-4
    assert math.isnan(lowest_of_parabola(N, [3 - math.log(n) ** 2 for n in N]))


def test_a_larger_model_is_predicted_from_smaller_ones(tmp_path):
    """The notebook's headline on other seeds, with a third of its steps."""
    data, steps = small_data(32, 512)[1:], 100
    base = Variant(
        "baseline",
        model=dict(vocab_size=512, context_length=32, d_model=8, n_heads=1, n_layers=2, position="rope"),
        train=dict(batch_size=8, warmup_steps=25),
    )
    variants = [
        Variant(str(d), model=dict(d_model=d, n_heads=max(1, d // 16)), train=dict(max_lr=0.64 / d))
        for d in (8, 16, 32, 64)
    ]
    results = run(variants, (50, 51), Budget(tokens=steps * 256), tmp_path, base, data)
    means = [mean_sd([r["held_out"] for r in results if r["variant"] == v.name])[0] for v in variants]
    sizes = [next(r["parameters"] for r in results if r["variant"] == v.name) for v in variants]
    law = fit_power_law(sizes[:3], means[:3])
    assert means[0] > means[2] and abs(law.loss(sizes[3]) - means[3]) < 0.3
