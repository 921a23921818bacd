"""The checks of appendix F's exercises: what is right, on which inputs, and the usual mistakes by name."""

# Written by hand: what learners get wrong, in words.

import hashlib
import json
import math
import statistics

import torch

from ch01_tokenization.checking import Exercise, checker

from .comparing import holm, paired_difference
from .scaling_laws import LossLaw

__all__ = ["check"]


TENSORS = "Among the results is a tensor, and floats are asked for: .item() makes one."


def some_tensor(case, got, expected):
    return any(isinstance(value, torch.Tensor) for value in got)


# ---------------------------------------------------------------- F.1 a difference, and its error


def paired_test(losses, baseline):
    d = paired_difference(losses, baseline)
    error = d.sd / math.sqrt(d.n)
    return d.mean, error, d.mean / error


def flawed_test(take=lambda a, b: a - b, error=lambda d, n: statistics.stdev(d) / math.sqrt(n), t=None):
    def test(losses, baseline):
        d = [take(a, b) for a, b in zip(losses, baseline)]
        mean, spread = sum(d) / len(d), error(d, len(d))
        return mean, spread, t(mean, spread, len(d)) if t else mean / spread

    return test


def unpaired_test(losses, baseline):
    mean = statistics.mean(losses) - statistics.mean(baseline)
    error = math.sqrt((statistics.variance(losses) + statistics.variance(baseline)) / len(losses))
    return mean, error, mean / error if error else math.inf


TEST = Exercise(
    right=paired_test,
    cases=lambda draw: [
        ([1.0, 1.0], [2.0, 4.0]),
        ([4.0, 6.0, 5.0], [7.0, 7.0, 7.0]),
        ([3.0, 1.0, 2.0, 5.0], [2.5, 1.5, 0.5, 1.0]),
        *(
            ([draw.real(3, 5) for _ in range(n)], [draw.real(3, 5) for _ in range(n)])
            for n in (draw.whole(5, 7), draw.whole(8, 11))
        ),
    ],
    mistakes={
        "The sign is turned round: the difference is the variant's loss minus the baseline's.": flawed_test(
            lambda a, b: b - a
        ),
        "The differences are made positive. A gain and a loss must be able to cancel.": flawed_test(
            lambda a, b: abs(a - b)
        ),
        "The variance is divided by n. It is divided by n - 1, since the mean came from the same numbers.": (
            flawed_test(error=lambda d, n: statistics.pstdev(d) / math.sqrt(n))
        ),
        "This error is the standard deviation of single differences: the mean of n scatters by √n less.": (
            flawed_test(error=lambda d, n: statistics.stdev(d))
        ),
        "The standard deviation is divided by n, and not by the square root of n.": flawed_test(
            error=lambda d, n: statistics.stdev(d) / n
        ),
        "The variance is not brought back to nats by a square root.": [
            flawed_test(error=lambda d, n: statistics.variance(d) / n),
            flawed_test(error=lambda d, n: statistics.variance(d) / math.sqrt(n)),
        ],
        "The two lists are treated as if their seeds had nothing in common: the error must come from the "
        "differences of the pairs.": unpaired_test,
        "t is the mean divided by the standard deviation. It is divided by the standard error.": flawed_test(
            t=lambda mean, error, n: mean / (error * math.sqrt(n))
        ),
        "The order is mean, standard error, t; the last two are swapped.": lambda losses, baseline: (
            paired_test(losses, baseline)[0],
            *paired_test(losses, baseline)[:0:-1],
        ),
        "The second number is the standard deviation of the differences, and not the standard error.": (
            flawed_test(error=lambda d, n: statistics.stdev(d), t=lambda mean, sd, n: mean / sd * n**0.5)
        ),
        "t has lost its sign.": flawed_test(t=lambda mean, error, n: abs(mean / error)),
        "t is multiplied by √n once too often: the standard error has it already.": flawed_test(
            t=lambda mean, error, n: mean / error * math.sqrt(n)
        ),
    },
    signs={
        TENSORS: some_tensor,
        "The mean is right and the standard error is not.": (
            lambda case, got, expected: (
                math.isclose(got[0], expected[0], abs_tol=1e-6)
                and not math.isclose(got[1], expected[1], rel_tol=1e-4)
            )
        ),
        "Mean and standard error are right, and t is not the one divided by the other.": (
            lambda case, got, expected: (
                math.isclose(got[0], expected[0], abs_tol=1e-6)
                and math.isclose(got[1], expected[1], rel_tol=1e-4)
                and not math.isclose(got[2], expected[2], rel_tol=1e-4)
            )
        ),
    },
)


# ---------------------------------------------------------------- F.2 how many seeds


def how_many(formula, whole=math.ceil):
    return lambda sd, difference: whole(formula(sd, difference))


SEEDS = Exercise(
    right=how_many(lambda sd, d: (2.8 * sd / d) ** 2 + 2),
    cases=lambda draw: [
        (1.0, 1.0),
        (1.0, -1.0),
        (1.0, 0.5),
        (0.05, 0.02),
        (0.0, 0.3),
        (0.011, 0.1),
        *((draw.real(0.05, 0.2), draw.choice((-1, 1)) * draw.real(0.02, 0.06)) for _ in range(3)),
    ],
    mistakes={
        "The number is rounded down, or to the nearest. Rounded up, the seeds are enough.": [
            how_many(lambda sd, d: (2.8 * sd / d) ** 2 + 2, int),
            how_many(lambda sd, d: (2.8 * sd / d) ** 2 + 2, round),
        ],
        "The 2 is missing that is for not knowing the noise.": how_many(lambda sd, d: (2.8 * sd / d) ** 2),
        "The ratio is not squared: half the difference takes four times the seeds.": how_many(
            lambda sd, d: 2.8 * sd / abs(d) + 2
        ),
        "A negative difference gives fewer seeds than a positive one of the same size.": [
            how_many(lambda sd, d: 2.8 * sd / d + 2),
            lambda sd, d: max(2, math.ceil((2.8 * sd / max(d, 1e9 * -d)) ** 2 + 2)),
            lambda sd, d: math.ceil((2.8 * sd / d) ** 2 + 2) if d > 0 else 2,
        ],
        "The ratio is upside down: more noise must ask for more seeds.": (
            lambda sd, d: math.ceil((2.8 * d / sd) ** 2 + 2) if sd else 2
        ),
        "2.8 is not squared with the ratio.": how_many(lambda sd, d: 2.8 * (sd / d) ** 2 + 2),
        "1.96 alone finds the difference in every second experiment: the factor is 2.8.": how_many(
            lambda sd, d: (1.96 * sd / d) ** 2 + 2
        ),
        "The number is doubled, as for two sides without pairs.": how_many(
            lambda sd, d: 2 * (2.8 * sd / d) ** 2 + 2
        ),
        "The 2 is added after rounding something else up, or twice.": [
            how_many(lambda sd, d: (2.8 * sd / d) ** 2 + 4),
            lambda sd, d: math.ceil((2.8 * sd / d) ** 2 + 3),
        ],
        "The 2 is added before squaring.": how_many(lambda sd, d: (2.8 * sd / abs(d) + 2) ** 2),
    },
    signs={
        "Fewer than the two seeds that any standard deviation needs.": lambda case, got, expected: got < 2,
    },
)


# ---------------------------------------------------------------- F.3 what is still to be trained


def digest(settings, drop=("name",), order=True, n=16, method=hashlib.sha256):
    rest = {field: value for field, value in settings.items() if field not in drop}
    return method(json.dumps(rest, sort_keys=order).encode()).hexdigest()[:n]


def flawed_key(**changes):
    def key(settings):
        return digest(settings, **changes)

    return key, missing_by(key)


def missing_by(key):
    def missing(wanted, finished):
        seen, result = set(finished), []
        for settings in wanted:
            if key(settings) not in seen:
                seen.add(key(settings))
                result.append(settings)
        return result

    return missing


def popping_key(settings):
    settings.pop("name", None)
    return digest(settings)


def everywhere_key(settings):
    def without(value):
        if isinstance(value, dict):
            return {field: without(part) for field, part in value.items() if field != "name"}
        return [without(part) for part in value] if isinstance(value, list) else value

    return digest(without(settings))


def run_keys(answers, *case):
    key, missing = answers
    kind, *arguments = case
    if kind == "key":
        return {"key": key(*arguments)}
    wanted, finished = arguments
    finished = {digest(settings) for settings in finished}
    before = set(finished)
    result = missing(wanted, finished)
    return {"missing": result, "finished unchanged": finished == before}


A, B = {"name": "a", "lr": 0.01, "seed": 1}, {"name": "b", "lr": 0.03, "seed": 1}
KEYS = Exercise(
    right=(digest, missing_by(digest)),
    run=run_keys,
    cases=lambda draw: [
        ("key", {"lr": 1}),
        ("key", {"name": "x", "lr": 1}),
        ("key", {"seed": 1, "lr": 0.5, "model": {"width": 8, "depth": 2}}),
        ("key", {"lr": 1, "model": {"name": "rope"}}),
        ("key", {"seed": draw.whole(0, 9), "name": "q", "budget": [draw.whole(1, 9), 2]}),
        ("missing", [A], []),
        ("missing", [A], [A]),
        ("missing", [A, B], [B]),
        ("missing", [B, A], []),
        ("missing", [A, B, A], []),
        ("missing", [A, B, A | {"name": "c"}], []),
        ("missing", [A | {"name": "c"}, B], [A]),
        (
            "missing",
            [{"lr": x, "seed": 1} for x in (draw.real(0, 1), draw.real(1, 2), 5)],
            [{"seed": 1, "lr": 5}],
        ),
    ],
    mistakes={
        "The name is part of the key: a variant that is only renamed would be trained again.": flawed_key(
            drop=()
        ),
        "The fields are not sorted: the same settings in another order get another key.": flawed_key(
            order=False
        ),
        "The seed is left out of the key: all seeds would share one result.": flawed_key(
            drop=("name", "seed")
        ),
        "The whole digest is returned, and not its first 16 digits.": flawed_key(n=64),
        "The key has 8 digits, and not 16.": flawed_key(n=8),
        "The digest is another one than SHA-256.": [
            flawed_key(method=hashlib.md5),
            flawed_key(method=hashlib.sha1),
            flawed_key(method=hashlib.sha512),
        ],
        "Names inside of inner dicts are left out, too. Only the one at the top changes no result.": (
            everywhere_key,
            missing_by(everywhere_key),
        ),
        "The same training stands twice in the list. Its second place is no further training.": (
            digest,
            lambda wanted, finished: [s for s in wanted if digest(s) not in finished],
        ),
        "Twins are found by comparing the settings, names included, and not by their keys.": (
            digest,
            lambda wanted, finished: [
                s for n, s in enumerate(wanted) if digest(s) not in finished and s not in wanted[:n]
            ],
        ),
        "What is finished is returned, and not what is missing.": (
            digest,
            lambda wanted, finished: [s for s in wanted if digest(s) in finished],
        ),
        "Keys are returned. The settings themselves are asked for.": (
            digest,
            lambda wanted, finished: [digest(s) for s in missing_by(digest)(wanted, finished)],
        ),
        "The order of the list is lost.": (
            digest,
            lambda wanted, finished: sorted(missing_by(digest)(wanted, finished), key=lambda s: s["lr"]),
        ),
        "Of two settings with the same key the last is returned, and not the first.": (
            digest,
            lambda wanted, finished: list(
                {digest(s): s for s in wanted if digest(s) not in finished}.values()
            ),
        ),
        "Nothing is compared with the finished keys: everything is trained again.": (
            digest,
            lambda wanted, finished: missing_by(digest)(wanted, set()),
        ),
    },
    signs={
        "`finished` was changed: new keys go into a copy.": lambda case, got, expected: (
            not got.get("finished unchanged", True)
        ),
        "The key is not the first 16 hexadecimal digits of SHA-256 over the sorted JSON without the name.": (
            lambda case, got, expected: "key" in got
        ),
        "Settings are missing from the list, or there are too many.": lambda case, got, expected: (
            len(got["missing"]) != len(expected["missing"])
        ),
    },
)


# ---------------------------------------------------------------- F.4 twenty p-values


def flawed_holm(factor=lambda m, rank: m - rank, monotone=True, bound=True, reverse=False):
    def corrected(p_values):
        m, largest, result = len(p_values), 0.0, [0.0] * len(p_values)
        for rank, place in enumerate(sorted(range(m), key=p_values.__getitem__, reverse=reverse)):
            value = factor(m, rank) * p_values[place]
            value = min(1.0, value) if bound else value
            largest = max(largest, value) if monotone else value
            result[place] = largest
        return result

    return corrected


def hochberg(p_values):
    m, smallest, result = len(p_values), 1.0, [0.0] * len(p_values)
    order = sorted(range(m), key=p_values.__getitem__)
    for rank in reversed(range(m)):
        smallest = min(smallest, (m - rank) * p_values[order[rank]])
        result[order[rank]] = smallest
    return result


def false_discovery(p_values):
    m, smallest, result = len(p_values), 1.0, [0.0] * len(p_values)
    order = sorted(range(m), key=p_values.__getitem__)
    for rank in reversed(range(m)):
        smallest = min(smallest, m / (rank + 1) * p_values[order[rank]])
        result[order[rank]] = smallest
    return result


HOLM = Exercise(
    right=holm,
    cases=lambda draw: [
        ([0.2],),
        ([0.01, 0.03],),
        ([0.03, 0.02],),
        ([0.01, 0.04, 0.03],),
        ([0.6, 0.7],),
        ([0.5, 0.001, 0.9],),
        ([0.02, 0.02, 0.02],),
        ([],),
        ([draw.real(0, 0.2) for _ in range(5)],),
        ([draw.real(0, 1) for _ in range(7)],),
    ],
    mistakes={
        "Every value is multiplied by m. That is Bonferroni; Holm's next ones are multiplied by less.": (
            flawed_holm(lambda m, rank: m)
        ),
        "A larger p came out below a smaller one: keep the largest result so far.": flawed_holm(
            monotone=False
        ),
        "A probability came out above 1.": flawed_holm(bound=False),
        "The largest is multiplied by m and the smallest by 1. It is the other way round.": [
            flawed_holm(lambda m, rank: rank + 1),
            flawed_holm(reverse=True),
            flawed_holm(reverse=True, monotone=False),
        ],
        "The results come out sorted. They belong into the order of the input.": lambda p: sorted(holm(p)),
        "The factors are one too small: the smallest is multiplied by m, and the largest by 1.": flawed_holm(
            lambda m, rank: max(1, m - rank - 1)
        ),
        "The factors are one too large: the smallest is multiplied by m, and the largest by 1.": flawed_holm(
            lambda m, rank: m - rank + 1
        ),
        "The factors follow the order of the input. They go by the size of p.": [
            lambda p: [min(1.0, (len(p) - place) * value) for place, value in enumerate(p)],
            lambda p: [
                min(1.0, max((len(p) - i) * value for i, value in enumerate(p[: place + 1])))
                for place in range(len(p))
            ],
        ],
        "The factors are m / rank, as for the false discovery rate.": [
            flawed_holm(lambda m, rank: m / (rank + 1)),
            false_discovery,
        ],
        "Going from the largest down and keeping the smallest is Hochberg's correction. Holm's goes up and "
        "keeps the largest.": hochberg,
        "The values are as they were: nothing is corrected.": lambda p: list(p),
    },
    signs={
        "A corrected value is below the plain one.": lambda case, got, expected: any(
            q < p - 1e-9 for q, p in zip(got, case[0])
        ),
        "The list has another length than the input.": lambda case, got, expected: len(got) != len(case[0]),
    },
)


# ---------------------------------------------------------------- F.5 a power law


def power_law(sizes, losses, floor, log=torch.log, below=True):
    x, y = log(sizes), log(losses - floor)
    design = torch.stack([torch.ones_like(x), x], dim=1)
    height, slope = torch.linalg.lstsq(design, y.unsqueeze(1)).solution.squeeze(1)
    return height.exp().item(), -slope.item()


def flawed_law(change=lambda A, alpha: (A, alpha), floor=lambda losses, floor: floor, x=lambda s: s):
    return lambda sizes, losses, low: change(*power_law(x(sizes), losses, floor(losses, low)))


def half_logarithmic(sizes, losses, floor):
    return power_law(sizes.exp(), losses, floor)


def through_ends(sizes, losses, floor):
    a, b = sizes.argmin(), sizes.argmax()
    alpha = ((losses[a] - floor).log() - (losses[b] - floor).log()) / (sizes[b].log() - sizes[a].log())
    return ((losses[a] - floor) * sizes[a] ** alpha).item(), alpha.item()


def on_losses(sizes, losses, floor):
    x, y = sizes.log(), losses.log() - (math.log(floor) if floor else 0)
    away = x - x.mean()
    slope = (away * y).sum() / (away**2).sum()
    return (y.mean() - slope * x.mean()).exp().item(), -slope.item()


def uncentred(sizes, losses, floor):
    x, y = sizes.log(), (losses - floor).log()
    slope = (x * y).sum() / (x * x).sum()
    return (y.mean() - slope * x.mean()).exp().item(), -slope.item()


def some_losses(draw, n):
    sizes = torch.tensor([draw.real(1, 3) * 3**k for k in range(n)], dtype=torch.float64)
    noise = 1 + 0.05 * draw.normal(n).double()
    floor = draw.real(1, 2)
    return sizes, floor + draw.real(4, 9) * sizes ** -draw.real(0.2, 0.7) * noise.clamp(0.8, 1.2), floor


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


LAW = Exercise(
    right=power_law,
    cases=lambda draw: [
        (doubles(1, 2), doubles(6, 4), 2.0),
        (doubles(1, 4, 16), doubles(4, 3, 2.5), 2.0),
        (doubles(2, 8), doubles(4, 2), 0.0),
        (doubles(1, 10, 100), doubles(5, 3, 2.5), 1.0),
        some_losses(draw, 4),
        some_losses(draw, 6),
    ],
    mistakes={
        "The floor is not subtracted before the logarithm.": flawed_law(floor=lambda losses, low: 0.0),
        "ln L - ln E is not ln(L - E): subtract first, then take the logarithm.": on_losses,
        "alpha has the wrong sign: the slope of the line is -alpha.": flawed_law(lambda A, a: (A, -a)),
        "The first number is ln A. The height of the line goes through exp.": flawed_law(
            lambda A, a: (math.log(A), a)
        ),
        "The two numbers are swapped: A comes first, then alpha.": flawed_law(lambda A, a: (a, A)),
        "The sizes have no logarithm: the line is one over ln N.": half_logarithmic,
        "The line goes through the smallest and the largest size. Least squares uses all.": through_ends,
        "The line is forced through the origin: take the mean of ln N away before the slope.": uncentred,
        "The floor is added, and not subtracted.": flawed_law(floor=lambda losses, low: -low),
        "The height was found with the wrong sign of the slope.": lambda s, losses, low: (
            math.exp(((losses - low).log().mean() - power_law(s, losses, low)[1] * s.log().mean()).item()),
            power_law(s, losses, low)[1],
        ),
        "The mean of what is left above the floor is taken for A.": lambda s, losses, low: (
            (losses - low).mean().item(),
            power_law(s, losses, low)[1],
        ),
        "Logarithms of base 10 were undone by exp.": flawed_law(lambda A, a: (A ** (1 / math.log(10)), a)),
    },
    signs={
        TENSORS: some_tensor,
        "alpha is right, and A is not.": lambda case, got, expected: (
            math.isclose(got[1], expected[1], rel_tol=1e-4)
            and not math.isclose(got[0], expected[0], rel_tol=1e-4)
        ),
        "alpha is negative, though larger models have the smaller loss.": lambda case, got, expected: (
            got[1] < 0
        ),
    },
)


# ---------------------------------------------------------------- F.6 the best size for a budget


def best_size(law, flops):
    N = LossLaw(law["E"], law["A"], law["B"], law["alpha"], law["beta"]).best_size(flops)
    return N, flops / (6 * N)


def flawed_size(G=None, power=None, budget=lambda C: C / 6, tokens=lambda C, N: C / 6 / N):
    def size(law, flops):
        A, B, a, b = (law[name] for name in ("A", "B", "alpha", "beta"))
        g = (G or (lambda A, B, a, b: (a * A / (b * B)) ** (1 / (a + b))))(A, B, a, b)
        N = g * budget(flops) ** (power or (lambda a, b: b / (a + b)))(a, b)
        return N, tokens(flops, N)

    return size


def law_of(A, B, alpha, beta, E=2.0):
    return {"E": E, "A": A, "B": B, "alpha": alpha, "beta": beta}


def some_law(draw):
    return law_of(
        draw.real(20, 60), draw.real(100, 300), draw.real(0.25, 0.35), draw.real(0.45, 0.6), draw.real(1, 2)
    )


SIZE = Exercise(
    right=best_size,
    cases=lambda draw: [
        (law_of(1.0, 1.0, 0.5, 0.5), 6.0),
        (law_of(1.0, 1.0, 0.5, 0.5), 600.0),
        (law_of(4.0, 1.0, 0.5, 0.5), 600.0),
        (law_of(1.0, 1.0, 0.25, 0.75), 6e4),
        (law_of(2.0, 3.0, 0.3, 0.4), 6e6),
        (some_law(draw), draw.real(1e6, 1e7)),
        (some_law(draw), draw.real(1e8, 1e9)),
    ],
    mistakes={
        "N and D are swapped.": lambda law, flops: best_size(law, flops)[::-1],
        "The 6 is missing: C = 6 N D.": [
            flawed_size(budget=lambda C: C, tokens=lambda C, N: C / N),
            flawed_size(budget=lambda C: C),
        ],
        "The tokens do not use up the budget: D = C / 6N.": [
            flawed_size(tokens=lambda C, N: C / N),
            flawed_size(tokens=lambda C, N: 20 * N),
        ],
        "The exponent of C is alpha's share, which is that of D. For N it is beta's.": flawed_size(
            power=lambda a, b: a / (a + b)
        ),
        "N grows as the square root of C whatever the law: that holds for alpha = beta alone.": flawed_size(
            power=lambda a, b: 0.5
        ),
        "alpha and beta are missing in the factor: they come down with the derivative.": flawed_size(
            G=lambda A, B, a, b: (A / B) ** (1 / (a + b))
        ),
        "The factor is upside down: a larger A asks for a larger model.": flawed_size(
            G=lambda A, B, a, b: (b * B / (a * A)) ** (1 / (a + b))
        ),
        "The factor is not raised to 1 / (alpha + beta).": flawed_size(G=lambda A, B, a, b: a * A / (b * B)),
        "The factor is missing: only for A = B and alpha = beta it is 1.": flawed_size(
            G=lambda A, B, a, b: 1.0
        ),
        "The factor is raised to alpha + beta, and not to one over it.": flawed_size(
            G=lambda A, B, a, b: (a * A / (b * B)) ** (a + b)
        ),
        "Parameters and tokens are taken as equally many.": lambda law, flops: ((flops / 6) ** 0.5,) * 2,
    },
    signs={
        "6 N D is not the budget.": lambda case, got, expected: (
            not math.isclose(6 * got[0] * got[1], case[1], rel_tol=1e-4)
        ),
        "The budget is spent, and another size has a lower loss.": lambda case, got, expected: True,
    },
)


check = checker({"F.1": TEST, "F.2": SEEDS, "F.3": KEYS, "F.4": HOLM, "F.5": LAW, "F.6": SIZE})
