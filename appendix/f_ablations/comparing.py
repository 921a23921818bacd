"""What results over several seeds say about a difference, and what they cannot say."""

# Written by `make export` from f_ablations.ipynb; change it there.

import functools
import math
import statistics
from typing import NamedTuple

import torch

from .previous_chapters import COLORS

__all__ = [
    "mean_sd",
    "student_cdf",
    "student_quantile",
    "Difference",
    "paired_difference",
    "sign_flip_p",
    "seeds_needed",
    "holm",
    "in_words",
    "Row",
    "compare",
    "table",
    "plot_rows",
]

# %% f_ablations.ipynb #283632cd
def mean_sd(values):
    """Mean and sample standard deviation (n - 1 below); the deviation of a single number is nan."""
    values = torch.as_tensor(values, dtype=torch.float64)
    return values.mean().item(), (values.std().item() if len(values) > 1 else math.nan)

# %% f_ablations.ipynb #b25a990b
def student_cdf(t, df, n=2_000):
    """How probable it is that Student's t with df degrees of freedom is at most t.

    With t = sqrt(df) tan(angle) the density becomes cos(angle) ** (df - 1); its area is summed, by midpoints.
    """

    def area(upto):
        width = (upto + math.pi / 2) / n
        angles = -math.pi / 2 + width * (torch.arange(n, dtype=torch.float64) + 0.5)
        return (angles.cos() ** (df - 1)).sum().item() * width

    return area(math.atan(t / math.sqrt(df))) / area(math.pi / 2)


@functools.cache
def student_quantile(p, df):
    """The number that Student's t stays under with probability p; by bisection."""
    low, high = -1e4, 1e4
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, df) < p else (low, middle)
    return middle

# %% f_ablations.ipynb #f2ba8fcb
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
    differences = [mine - plain for mine, plain in zip(losses, baseline, strict=True)]
    n = len(differences)
    mean, sd = mean_sd(differences)
    if math.isnan(sd):  # one seed, or a training that diverged
        return Difference(mean, sd, n, -math.inf, math.inf, math.nan)
    if sd == 0:
        return Difference(mean, sd, n, mean, mean, float(mean == 0))
    error = sd / math.sqrt(n)
    reach = student_quantile((1 + level) / 2, n - 1) * error
    p = max(0.0, 2 * (1 - student_cdf(abs(mean) / error, n - 1)))
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

# %% f_ablations.ipynb #f489e008
def seeds_needed(sd, difference, power=0.8, level=0.05):
    """How many paired seeds show a true difference with probability `power`, when differences scatter by sd.

    ((z_level/2 + z_power) sd / difference)^2 of the normal distribution, and two more for not knowing sd.
    """
    normal = statistics.NormalDist()
    z = normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)
    return math.ceil((z * sd / abs(difference)) ** 2 + 2) if difference else math.inf

# %% f_ablations.ipynb #ab16a263
def holm(p_values):
    """p-values made larger for being several, in the same order: the smallest times m, the next m - 1, ...

    Holm 1979, section 2. Compared with 0.05, at most 5 % of such lists have a false alarm anywhere.
    """
    m, adjusted, largest = len(p_values), [math.nan] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(m), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (m - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted

# %% f_ablations.ipynb #3eaf17f8
def in_words(difference, p, level=0.05):
    """The verdict on a Difference, with p made larger for several comparisons."""
    if difference.n < 2:
        return "cannot tell: one seed is not enough"
    if math.isnan(difference.sd):
        return "cannot tell: a training diverged"
    if difference.sd == difference.mean == 0:
        return "no difference: the same losses"
    if p < level:
        return "helps" if difference.mean < 0 else "hurts"
    more = max(1, seeds_needed(difference.sd, difference.mean, level=level) - difference.n)
    return f"cannot tell: about {more:,} more seed{'s' * (more > 1)} would be needed"


class Row(NamedTuple):
    """A variant in the table: losses of its seeds, its difference to the baseline, and the verdict."""

    name: str
    losses: list
    difference: Difference | None
    p: float  # adjusted by Holm
    verdict: str

# %% f_ablations.ipynb #71c93aba
def compare(results, baseline="baseline"):
    """Results of `run` as Rows, the baseline first. Only seeds that both have are compared.

    results: dicts with "variant", "seeds" and "held_out". ValueError when none is the baseline's.
    """
    losses = {}
    for result in results:
        losses.setdefault(result["variant"], {})[tuple(result["seeds"])] = result["held_out"]
    if baseline not in losses:
        raise ValueError(f"no result is called {baseline!r}; there are {', '.join(losses)}")
    base, differences = losses.pop(baseline), {}
    for name, mine in losses.items():
        seeds = [seed for seed in mine if seed in base]
        differences[name] = paired_difference([mine[s] for s in seeds], [base[s] for s in seeds])
    known = [name for name, d in differences.items() if not math.isnan(d.p)]
    p = dict(zip(known, holm([differences[name].p for name in known])))
    rows = [Row(baseline, list(base.values()), None, math.nan, "")]
    for name, d in differences.items():
        adjusted = p.get(name, math.nan)
        rows.append(Row(name, list(losses[name].values()), d, adjusted, in_words(d, adjusted)))
    return rows


def table(rows):
    """Rows as text."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':{width}}  n   loss     sd    difference, 95 % interval        p"]
    for name, losses, d, p, verdict in rows:
        mean, sd = mean_sd(losses)
        line = f"{name:{width}} {len(losses):2}  {mean:.3f}  {sd:.3f}"
        if d:
            line += f"   {d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]  {p:.4f}  {verdict}"
        lines.append(line)
    return "\n".join(lines)

# %% f_ablations.ipynb #fd77bb39
def plot_rows(rows, axes):
    """Each variant's differences on one line: a dot a seed, and the mean with its interval in black."""
    base = rows[0]
    for height, row in enumerate(reversed(rows[1:])):
        d = row.difference
        axes.errorbar(d.mean, height, xerr=d.high - d.mean, color="black", fmt="s", markersize=4, capsize=4)
        if len(row.losses) == len(base.losses):
            seeds = [mine - plain for mine, plain in zip(row.losses, base.losses)]
            axes.plot(seeds, [height + 0.25] * len(seeds), "o", alpha=0.5, color=COLORS["validation"])
    axes.axvline(0, color=COLORS["reference"], linewidth=0.8)
    axes.set(yticks=range(len(rows) - 1), yticklabels=[row.name for row in reversed(rows[1:])])
    axes.set(ylim=(-0.5, len(rows) - 1.2), xlabel=f"held-out loss minus that of {base.name} (nats a token)")
