"""Appendix F: answers that are right in another way, and answers that are wrong in a typical way."""

VARIANTS = {
    "F.1": """def paired_test(losses, baseline):
    d = torch.tensor(losses, dtype=torch.float64) - torch.tensor(baseline, dtype=torch.float64)
    error = d.std() / len(d) ** 0.5
    return d.mean().item(), error.item(), (d.mean() / error).item()
""",
    "F.2": """def how_many_seeds(sd, difference):
    ratio = sd / abs(difference)
    n = 7.84 * ratio * ratio + 2
    whole = int(n)
    return whole if whole == n else whole + 1
""",
    "F.3": """def key(settings):
    copy = dict(settings)
    copy.pop("name", None)
    hasher = hashlib.sha256()
    hasher.update(bytes(json.dumps(copy, sort_keys=True), "utf-8"))
    return hasher.digest()[:8].hex()


def missing(wanted, finished):
    by_key = {}
    for settings in wanted:
        by_key.setdefault(key(settings), settings)
    return [settings for digest, settings in by_key.items() if digest not in finished]
""",
    "F.4": """def corrected(p_values):
    def one(p):
        smaller = [q for q in p_values if q <= p]
        values = [(sum(r >= q for r in p_values)) * q for q in smaller]
        return min(1.0, max(values))

    return [one(p) for p in p_values]
""",
    "F.5": """def power_law(sizes, losses, floor):
    columns = torch.stack([torch.ones_like(sizes), -sizes.log()], dim=1)
    height, alpha = torch.linalg.lstsq(columns, (losses - floor).log().unsqueeze(1)).solution.flatten()
    return math.exp(height), float(alpha)
""",
    "F.6": """def best_size(law, flops):
    def slope(x):
        N = math.exp(x)
        D = flops / 6 / N
        return law["beta"] * law["B"] / D ** law["beta"] - law["alpha"] * law["A"] / N ** law["alpha"]

    low, high = -60.0, 60.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return math.exp(low), flops / 6 / math.exp(low)
""",
}

MUTANTS = {
    "F.1": [
        ("sign is turned round", "mine - plain for", "plain - mine for"),
        ("differences are made positive", "[mine - plain for", "[abs(mine - plain) for"),
        ("divided by n.", "/ (n - 1)", "/ n"),
        ("standard deviation of single differences", "math.sqrt(variance / n)", "math.sqrt(variance)"),
        ("not by the square root of n", "math.sqrt(variance / n)", "math.sqrt(variance) / n"),
        ("brought back to nats", "math.sqrt(variance / n)", "variance / n"),
        ("divided by the standard error", "mean / error\n", "mean / math.sqrt(variance)\n"),
        ("lost its sign", "return mean, error, mean / error", "return mean, error, abs(mean) / error"),
        (
            "once too often",
            "return mean, error, mean / error",
            "return mean, error, mean / error * math.sqrt(n)",
        ),
        (
            "nothing in common",
            """def paired_test(losses, baseline):
    a, b = torch.tensor(losses, dtype=torch.float64), torch.tensor(baseline, dtype=torch.float64)
    error = ((a.var() + b.var()) / len(a)).sqrt().item()
    mean = (a.mean() - b.mean()).item()
    return mean, error, mean / error
""",
        ),
        ("the mean is right and the standard error is not".capitalize(), "(n - 1)", "(n + 1)"),
        ("not the one divided by the other", "mean, error, mean / error", "mean, error, error / mean"),
        ("a tensor, and floats", "return mean, error", "return torch.tensor(mean), error"),
        ("last two are swapped", "return mean, error, mean / error", "return mean, mean / error, error"),
        (
            "second number is the standard deviation",
            "return mean, error, mean / error",
            "return mean, math.sqrt(variance), mean / error",
        ),
    ],
    "F.2": [
        ("rounded down", "math.ceil(", "math.floor("),
        ("rounded down, or to the nearest", "math.ceil(", "round("),
        ("2 is missing", " ** 2 + 2)", " ** 2)"),
        ("not squared: half", "(2.8 * sd / difference) ** 2", "abs(2.8 * sd / difference)"),
        ("negative difference gives fewer", "(2.8 * sd / difference) ** 2", "(2.8 * sd / difference)"),
        (
            "upside down",
            "return math",
            "if sd == 0:\n        return 2\n    sd, difference = difference, sd\n    return math",
        ),
        ("2.8 is not squared", "(2.8 * sd / difference) ** 2", "2.8 * (sd / difference) ** 2"),
        ("1.96 alone", "2.8", "1.96"),
        ("doubled", "math.ceil((", "math.ceil(2 * ("),
        ("or twice", "** 2 + 2)", "** 2 + 3)"),
        ("before squaring", "(2.8 * sd / difference) ** 2 + 2", "(2.8 * sd / abs(difference) + 2) ** 2"),
        ("too small by 4", " ** 2 + 2)", " ** 2 - 2)"),
    ],
    "F.3": [
        ("name is part of the key", ' if field != "name"}', "}"),
        ("not sorted", ", sort_keys=True", ""),
        ("seed is left out", 'field != "name"', 'field not in ("name", "seed")'),
        ("whole digest", "hexdigest()[:16]", "hexdigest()"),
        ("8 digits", "[:16]", "[:8]"),
        ("another one than SHA-256", "sha256", "md5"),
        ("another one than SHA-256", "sha256", "sha1"),
        ("stands twice", "            seen.add(key(settings))\n", ""),
        ("What is finished is returned", "if key(settings) not in seen", "if key(settings) in finished"),
        ("Keys are returned", "result.append(settings)", "result.append(key(settings))"),
        (
            "order of the list is lost",
            "    return result",
            '    return sorted(result, key=lambda s: s["lr"])',
        ),
        ("everything is trained again", "set(finished), []", "set(), []"),
        ("`finished` was changed", "set(finished), []", "finished, []"),
        ("argument", "rest = {field: value for", 'settings.pop("name", None)\n    rest = {field: value for'),
        ("not the first 16 hexadecimal digits", "[:16]", "[-16:]"),
        (
            "not by their keys",
            """def key(settings):
    rest = {field: value for field, value in settings.items() if field != "name"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def missing(wanted, finished):
    result = []
    for settings in wanted:
        if key(settings) not in finished and settings not in result:
            result.append(settings)
    return result
""",
        ),
    ],
    "F.4": [
        ("That is Bonferroni", "(m - rank) *", "m *"),
        (
            "keep the largest result",
            "max(largest, min(1.0, (m - rank) * p_values[place]))",
            "min(1.0, (m - rank) * p_values[place])",
        ),
        ("above 1", "min(1.0, (m - rank) * p_values[place])", "(m - rank) * p_values[place]"),
        ("the other way round", "(m - rank) *", "(rank + 1) *"),
        ("come out sorted", "    return result", "    return sorted(result)"),
        ("one too small", "(m - rank) *", "max(1, m - rank - 1) *"),
        ("one too large", "(m - rank) *", "(m - rank + 1) *"),
        ("follow the order of the input", "sorted(range(m), key=lambda place: p_values[place])", "range(m)"),
        ("false discovery rate", "(m - rank) *", "m / (rank + 1) *"),
        ("nothing is corrected", "    return result", "    return list(p_values)"),
        ("other way round", "place: p_values[place])", "place: -p_values[place])"),
        ("below the plain one", "(m - rank) * p_values", "(m - rank) / m * p_values"),
    ],
    "F.5": [
        ("floor is not subtracted", "(losses - floor).log()", "losses.log()"),
        ("ln L - ln E", "(losses - floor).log()", "(losses.log() - (math.log(floor) if floor else 0))"),
        ("wrong sign: the slope", "-slope.item()", "slope.item()"),
        ("is ln A", ".exp().item()", ".item()"),
        (
            "are swapped",
            "return (y.mean() - slope * x.mean()).exp().item(), -slope.item()",
            "return -slope.item(), (y.mean() - slope * x.mean()).exp().item()",
        ),
        ("sizes have no logarithm", "sizes.log()", "sizes"),
        ("through the origin", "away = x - x.mean()", "away = x"),
        ("floor is added", "losses - floor", "losses + floor"),
        ("wrong sign of the slope", "y.mean() - slope", "y.mean() + slope"),
        ("is taken for A", "(y.mean() - slope * x.mean()).exp()", "(losses - floor).mean()"),
        (
            "smallest and the largest",
            """def power_law(sizes, losses, floor):
    x, y = sizes.log(), (losses - floor).log()
    order = sizes.argsort()
    a, b = order[0], order[-1]
    alpha = -(y[b] - y[a]) / (x[b] - x[a])
    return (y[a] + alpha * x[a]).exp().item(), alpha.item()
""",
        ),
        ("alpha is right", "slope * x.mean()", "slope * x.min()"),
        ("a tensor, and floats", "-slope.item()", "-slope"),
    ],
    "F.6": [
        ("are swapped", "return N, flops / 6 / N", "return flops / 6 / N, N"),
        ("6 is missing", "(flops / 6)", "flops"),
        ("do not use up", "return N, flops / 6 / N", "return N, flops / N"),
        ("which is that of D", "** (beta / (alpha", "** (alpha / (alpha"),
        ("square root of C", "(beta / (alpha + beta))", "0.5"),
        ("come down with", "(alpha * A / (beta * B))", "(A / B)"),
        ("upside down", "(alpha * A / (beta * B))", "(beta * B / (alpha * A))"),
        ("not raised to 1", "(alpha * A / (beta * B)) ** (1 / (alpha + beta))", "alpha * A / (beta * B)"),
        ("factor is missing", "N = G * ", "N = "),
        ("not to one over it", "** (1 / (alpha + beta))", "** (alpha + beta)"),
        ("equally many", "return N, flops / 6 / N", "return (flops / 6) ** 0.5, (flops / 6) ** 0.5"),
        ("not the budget", "return N, flops / 6 / N", "return N, 1000 * flops / 6 / N"),
        ("another size has a lower loss", "N = G * ", "N = 2 * G * "),
    ],
}
