"""Time programs side by side, so that what is printed is a ratio and not a property of the machine.

A benchmark file is called bench_<chapter>.py and has one function `run(quick)`. `quick` asks for sizes that
end in seconds: the tests call it so, to see that the benchmarks still work. They assert no time.

A candidate that raises an error is reported in its row, and the others go on.
"""

import gc
import statistics
import time

problems = []  # (what, error) of all that went wrong in this process, for the end of `make bench`


class NotPossible(Exception):
    """What a candidate raises when this machine lacks something that it needs. Nobody's code is at fault."""


def needs_compiler(device):
    """NotPossible when torch.compile does not work here, for example in a path with a space."""
    from ch05_training.config import check_compiler  # here, so that chapter 1 is timed without torch

    try:
        check_compiler(device)
    except ValueError as error:
        raise NotPossible(str(error)) from None


def lazily(make, *arguments, **options):
    """A candidate that is made when it is first called, to warm up: if it cannot be made, it alone fails."""
    made = []

    def candidate():
        if not made:
            made.append(make(*arguments, **options))
        return made[0]()

    return candidate


def sentence(error):
    """An error on one line: what kind of failure it is, and the first line of what it says."""
    if isinstance(error, NotPossible):
        return f"not possible here: {error}"
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return f"failed: {type(error).__name__}: {first}"


def measure(candidates, rounds=5):
    """Call every candidate once to warm up, then all of them in turn, `rounds` times.

    candidates: {name: callable without arguments}. Returns {name: [seconds, one per round]}, and the error
    in the place of the list for a candidate that raised one, which is not called again. Taking turns means
    that a machine which is slow for a while is slow for everybody.
    """
    times = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, function in candidates.items():
            if isinstance(times[name], Exception):
                continue
            gc.collect()
            start = time.perf_counter()
            try:
                function()
            except Exception as error:
                times[name] = error.with_traceback(None)  # which would keep what it was working on
                continue
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times, name, reference):
    """Median over the rounds of one candidate's time divided by the reference's in the same round."""
    return statistics.median(a / b for a, b in zip(times[name], times[reference]))


def compare(title, candidates, reference, rounds=5, goals=None, work=None, unit="items"):
    """Measure, print a table, and return {name: time divided by the reference's}.

    goals: {name: the largest ratio that is wanted}. work: how many `unit` one call handles, for a column of
    rates; a number, or {name: number} where candidates handle different amounts. What failed has no ratio,
    and when the reference failed, nothing has one. It is kept in `problems`.
    """
    times = measure(candidates, rounds)
    failed = {name: error for name, error in times.items() if isinstance(error, Exception)}
    problems.extend((f"{title}: {name}", error) for name, error in failed.items())
    compared = [name for name in candidates if name not in failed and reference not in failed]
    ratios = {name: ratio(times, name, reference) for name in compared}
    width, wide = max(map(len, candidates)), max(8, len(reference) + 2)
    print(f"\n{title}")
    print(f"  {'':{width}}  {'median s':>10}  {f'/ {reference}':>{wide}}")
    for name in candidates:
        if name in failed:
            print(f"  {name:{width}}  {sentence(failed[name])}", flush=True)
            continue
        seconds = statistics.median(times[name])
        line = f"  {name:{width}}  {seconds:10.4f}  "
        line += f"{ratios[name]:{wide}.2f}" if name in ratios else f"{'-':>{wide}}"
        if work is not None:
            amount = work[name] if isinstance(work, dict) else work
            line += f"  {amount / seconds:14,.0f} {unit}/s"
        if name in (goals or {}) and name in ratios:
            reached = "reached" if ratios[name] <= goals[name] else "MISSED"
            line += f"  goal at most {goals[name]:.2f}: {reached}"
        print(line, flush=True)
    return ratios
