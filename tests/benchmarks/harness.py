"""Time programs side by side, so that what is printed is a ratio and not a property of the machine.

A benchmark file is called bench_<chapter>.py and has one function `run(quick)`. `quick` asks for sizes that
end in seconds: the tests call it so, to see that the benchmarks still work. They assert no time.
"""

import gc
import statistics
import time


def measure(candidates, rounds=5):
    """Call every candidate once to warm up, then all of them in turn, `rounds` times.

    candidates: {name: callable without arguments}. Returns {name: [seconds, one per round]}. Taking turns
    means that a machine which is slow for a while is slow for everybody.
    """
    times = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, function in candidates.items():
            gc.collect()
            start = time.perf_counter()
            function()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times, name, reference):
    """Median over the rounds of one candidate's time divided by the reference's in the same round."""
    return statistics.median(a / b for a, b in zip(times[name], times[reference]))


def compare(title, candidates, reference, rounds=5, goals=None, work=None, unit="items"):
    """Measure, print a table, and return {name: time divided by the reference's}.

    goals: {name: the largest ratio that is wanted}. work: how many `unit` one call handles, for a column of
    rates; a number, or {name: number} where candidates handle different amounts.
    """
    times = measure(candidates, rounds)
    ratios = {name: ratio(times, name, reference) for name in candidates}
    width = max(map(len, candidates))
    print(f"\n{title}")
    print(f"  {'':{width}}  {'median s':>10}  {f'/ {reference}':>{max(8, len(reference) + 2)}}")
    for name in candidates:
        seconds = statistics.median(times[name])
        line = f"  {name:{width}}  {seconds:10.4f}  {ratios[name]:{max(8, len(reference) + 2)}.2f}"
        if work is not None:
            amount = work[name] if isinstance(work, dict) else work
            line += f"  {amount / seconds:14,.0f} {unit}/s"
        if name in (goals or {}):
            reached = "reached" if ratios[name] <= goals[name] else "MISSED"
            line += f"  goal at most {goals[name]:.2f}: {reached}"
        print(line, flush=True)
    return ratios
