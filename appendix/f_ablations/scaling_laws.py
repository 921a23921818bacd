"""Power laws of the loss in parameters and tokens: fitted, predicted from, and asked for the best size."""

# Written by `make export` from f_scaling.ipynb; change it there.

import math
from typing import NamedTuple

import torch
from torch.nn.functional import huber_loss

__all__ = [
    "POWERS",
    "STARTS",
    "PowerLaw",
    "fit_power_law",
    "LossLaw",
    "fit_loss_law",
    "bootstrap_laws",
    "lowest_of_parabola",
]

# %% f_scaling.ipynb #122f1b40
class PowerLaw(NamedTuple):
    """loss(x) = E + A / x^alpha. Kaplan et al. 2020, section 1.2, with a floor E."""

    E: float
    A: float
    alpha: float

    def loss(self, x):
        return self.E + self.A / x**self.alpha


def fit_power_law(x, losses, n_floors=400):
    """The PowerLaw that is nearest to losses (K,) at x (K,), in the mean square.

    E is tried at n_floors values from 0 to just below the lowest loss. For each, log(loss - E) against log x
    is a straight line, fitted by least squares; the E whose curve is nearest to the losses is taken.
    """
    x, losses = (torch.as_tensor(values, dtype=torch.float64) for values in (x, losses))  # (K,), (K,)
    floors = losses.min() * torch.linspace(0, 0.999, n_floors, dtype=torch.float64)  # (F,)
    rest = (losses - floors.unsqueeze(1)).log()  # (F, K)
    away = x.log() - x.log().mean()  # (K,)
    slopes = (rest * away).sum(dim=1) / (away**2).sum()  # (F,)
    heights = rest.mean(dim=1) - slopes * x.log().mean()  # (F,): log A
    curves = floors.unsqueeze(1) + (heights.unsqueeze(1) + slopes.unsqueeze(1) * x.log()).exp()  # (F, K)
    best = ((curves - losses) ** 2).sum(dim=1).argmin()
    return PowerLaw(floors[best].item(), heights[best].exp().item(), -slopes[best].item())

# %% f_scaling.ipynb #0d139d15
class LossLaw(NamedTuple):
    """loss(N, D) = E + A / N^alpha + B / D^beta. Hoffmann et al. 2022, section 3.3, equation 2."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, N, D):
        return self.E + self.A / N**self.alpha + self.B / D**self.beta

    def best_size(self, flops):
        """The N with the least loss when 6 N D = flops. Hoffmann et al. 2022, equation 4."""
        G = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        return G * (flops / 6) ** (self.beta / (self.alpha + self.beta))


POWERS = ((0.2, 10.0), (0.5, 100.0))
STARTS = tuple(LossLaw(E, A, A, power, power) for E in (1.0, 3.0) for power, A in POWERS)


def fit_loss_law(N, D, losses, starts=STARTS, delta=1e-3):
    """The LossLaw of losses (K,) at N (K,) and D (K,), by L-BFGS on the Huber loss of the log of the loss.

    starts: LossLaws to begin at; the best end is taken. Hoffmann et al. 2022, section 3.3 and appendix D.
    """
    n, d, target = (torch.as_tensor(values, dtype=torch.float64).log() for values in (N, D, losses))  # (K,)
    ends = []
    for start in starts:
        theta = torch.tensor(start, dtype=torch.float64).log().requires_grad_()  # (5,): all stay positive
        settings = dict(max_iter=300, tolerance_grad=1e-10, line_search_fn="strong_wolfe")
        optimizer = torch.optim.LBFGS([theta], **settings)

        def objective(theta=theta, optimizer=optimizer):
            optimizer.zero_grad()
            e, a, b, alpha, beta = *theta[:3], *theta[3:].exp()
            terms = torch.stack([e.expand_as(n), a - alpha * n, b - beta * d])  # (3, K): logs of the terms
            loss = huber_loss(terms.logsumexp(dim=0), target, delta=delta) / delta
            loss.backward()
            return loss

        optimizer.step(objective)
        ends.append((objective().item(), LossLaw(*theta.detach().exp().tolist())))
    return min(ends)[1]

# %% f_scaling.ipynb #d82cd100
def bootstrap_laws(losses, n=40, seed=0):
    """(the LossLaw of all losses, [LossLaws of n resamplings]). losses: {(N, D): [one of every seed]}.

    Each resampling draws as many seeds of each pair as there are, with replacement. It knows the noise of
    the seeds; that the formula itself may be wrong, it does not know.
    """
    points = [(N, D, loss) for (N, D), values in losses.items() for loss in values]
    law = fit_loss_law(*zip(*points))
    generator, laws = torch.Generator().manual_seed(seed), []
    for _ in range(n):
        drawn = []
        for (N, D), values in losses.items():
            picks = torch.randint(len(values), (len(values),), generator=generator)
            drawn += [(N, D, values[pick]) for pick in picks.tolist()]
        laws.append(fit_loss_law(*zip(*drawn), starts=[law]))
    return law, laws

# %% f_scaling.ipynb #ffcefb63
def lowest_of_parabola(N, losses):
    """The N at which a parabola in log N, fitted to losses (K,) by least squares, is lowest.

    nan when it opens downwards: no best size is among them. Hoffmann et al. 2022, section 3.2.
    """
    x, y = (torch.as_tensor(values, dtype=torch.float64) for values in (N, losses))
    x = x.log()  # (K,)
    powers = torch.stack([x**0, x, x**2], dim=1)  # (K, 3)
    _, slope, curvature = torch.linalg.lstsq(powers, y.unsqueeze(1)).solution.squeeze(1)
    return math.exp(-slope / (2 * curvature)) if curvature > 0 else math.nan
