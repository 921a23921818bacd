"""What results over several seeds say about a difference, and what they cannot say."""

# Written by `make export` from f_ablations.ipynb; change it there.

import math
import statistics
from typing import NamedTuple

import torch

__all__ = [
    "NORMAL",
    "mean_sd",
    "student_cdf",
    "quantile",
    "Difference",
    "paired_difference",
    "sign_flip_p",
    "seeds_needed",
    "holm",
    "in_words",
    "Row",
    "compare",
    "table",
]

# %% f_ablations.ipynb #3d85b93a
def mean_sd(values):
    """Mean and sample standard deviation (n - 1 in the denominator); the deviation of one number is nan."""
    values = torch.as_tensor(values, dtype=torch.float64)
    return values.mean().item(), (values.std().item() if len(values) > 1 else math.nan)

# %% f_ablations.ipynb #45be9a3b
def student_cdf(t, df, n=20_000):
    """How probable it is that Student's t with df degrees of freedom is at most t.

    With t = sqrt(df) tan(angle) the density becomes cos(angle) ** (df - 1); its area is summed, by midpoints.
    """

    def area(upto):
        width = (upto + math.pi / 2) / n
        angles = -math.pi / 2 + width * (torch.arange(n, dtype=torch.float64) + 0.5)
        return (angles.cos() ** (df - 1)).sum().item() * width

    return area(math.atan(t / math.sqrt(df))) / area(math.pi / 2)


def quantile(cdf, p, low=-1e4, high=1e4):
    """The number that a variable with this rising cdf stays under with probability p; by bisection."""
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if cdf(middle) < p else (low, middle)
    return middle

# %% f_ablations.ipynb #b3d25db8
class Difference(NamedTuple):
    """A variant minus the baseline on the same seeds, nats a token: below 0 is better."""

    mean: float
    sd: float  # of the differences of single seeds
    n: int
    low: float  # the interval that holds the true difference in 95 % of all experiments
    high: float
    p: float  # how often a difference as large comes about when there is none


def paired_difference(losses, baseline, level=0.95):
    """Student's paired t-test: a Difference, from two lists of losses, one of each for every seed."""
    differences = torch.tensor(losses, dtype=torch.float64) - torch.tensor(baseline, dtype=torch.float64)
    n = len(differences)
    mean, sd = mean_sd(differences)
    if not sd > 0:  # a single seed, or a run without a finite loss: nothing is known; or equal numbers
        p = math.nan if math.isnan(sd) else float(mean == 0)
        return Difference(mean, sd, n, *((-math.inf, math.inf) if math.isnan(sd) else (mean, mean)), p)
    error = sd / math.sqrt(n)
    reach = quantile(lambda t: student_cdf(t, n - 1), (1 + level) / 2) * error
    p = 2 * (1 - student_cdf(abs(mean) / error, n - 1))
    return Difference(mean, sd, n, mean - reach, mean + reach, p)

# %% f_ablations.ipynb #376017e0
def sign_flip_p(differences):
    """p by trying all 2^n ways to swap variant and baseline within seeds: the share with as large a sum.

    Exact, and no bell curve is assumed; with n seeds it cannot be below 2 / 2^n. Fisher 1935, section 21.
    """
    d = torch.as_tensor(differences, dtype=torch.float64)  # (n,)
    n = len(d)
    signs = 1 - 2 * (torch.arange(2**n).unsqueeze(1) >> torch.arange(n) & 1).double()  # (2^n, n)
    sums = (signs @ d).abs()  # (2^n,)
    return (sums >= d.sum().abs() - 1e-12).double().mean().item()

# %% f_ablations.ipynb #a5078c33
def seeds_needed(sd, difference, power=0.8, level=0.05):
    """How many paired seeds show a true difference with probability `power`, when differences scatter by sd.

    ((z_level/2 + z_power) sd / difference)^2, with the normal distribution, and two more for not knowing sd.
    """
    z = sum(quantile(NORMAL.cdf, p, -9, 9) for p in (1 - level / 2, power))
    return math.ceil((z * sd / abs(difference)) ** 2) + 2 if difference else math.inf


NORMAL = statistics.NormalDist()


def holm(p_values):
    """p-values made larger for being several, in the same order. Holm 1979: the smallest times m, the next m - 1."""
    m, adjusted, largest = len(p_values), [math.nan] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(m), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (m - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted

# %% f_ablations.ipynb #8032bcc8
def in_words(difference, p, level=0.05):
    """The verdict on a Difference, with p made larger for several comparisons: helps, hurts, or cannot tell."""
    d = difference
    if math.isnan(d.sd):
        return "cannot tell: " + ("one seed is not enough" if d.n == 1 else "a training diverged")
    if d.sd == 0 and d.mean == 0:
        return "no difference: the same losses"
    if p < level:
        return "helps" if d.mean < 0 else "hurts"
    more = seeds_needed(d.sd, d.mean, level=level) - d.n
    return f"cannot tell: about {max(1, more):,} more seeds would be needed"


class Row(NamedTuple):
    """A variant in the table: losses of its seeds, its difference to the baseline, and the verdict."""

    name: str
    losses: list
    difference: Difference | None
    p: float  # adjusted by Holm
    verdict: str


def compare(results, baseline="baseline"):
    """Results of `run` as Rows, the baseline first. Only seeds that both have are compared."""
    losses = {}
    for result in results:
        losses.setdefault(result["variant"], {})[tuple(result["seeds"])] = result["held_out"]
    if baseline not in losses:
        raise ValueError(f"no result is called {baseline!r}; there are {', '.join(losses)}")
    base, rows = losses.pop(baseline), {}
    for name, mine in losses.items():
        seeds = [seed for seed in mine if seed in base]
        rows[name] = paired_difference([mine[s] for s in seeds], [base[s] for s in seeds])
    known = [name for name in rows if not math.isnan(rows[name].p)]
    adjusted = dict(zip(known, holm([rows[name].p for name in known])))
    return [Row(baseline, list(base.values()), None, math.nan, "")] + [
        Row(name, list(losses[name].values()), d, adjusted.get(name, math.nan), in_words(d, adjusted.get(name)))
        for name, d in rows.items()
    ]


def table(rows):
    """Rows as text."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':{width}}  n   loss     sd   difference and 95 % interval       p"]
    for name, losses, d, p, verdict in rows:
        mean, sd = mean_sd(losses)
        line = f"{name:{width}} {len(losses):2}  {mean:.3f}  {sd:.3f}"
        if d:
            line += f"   {d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]  {p:.4f}  {verdict}"
        lines.append(line)
    return "\n".join(lines)
