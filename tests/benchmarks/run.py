"""Run the chapters' benchmarks: `make bench`, or `python tests/benchmarks/run.py [--quick] [ch01 ...]`.

What fails is reported and the rest goes on. At the end all of it is named again, and the exit code is 1 if
anything failed; it stays 0 for what this machine cannot do, such as compiling where there is no compiler.
"""

import importlib
import os
import platform
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

import harness  # noqa: E402


def main(arguments):
    quick = "--quick" in arguments
    wanted = [argument for argument in arguments if not argument.startswith("-")]
    there_are = sorted(path.stem for path in HERE.glob("bench_*.py"))
    names = [name for name in there_are if not wanted or any(word in name for word in wanted)]
    if not names:
        print(f"error: no benchmark is named {' or '.join(wanted)}; there are {', '.join(there_are)}")
        return 2
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores, Python {platform.python_version()}")
    harness.problems.clear()
    for name in names:
        try:
            importlib.import_module(name).run(quick)
        except Exception as error:
            harness.problems.append((f"the rest of {name}", error))
            print(f"\n{name} {harness.sentence(error)}", flush=True)
    return summary(harness.problems)


def summary(problems):
    """Name what went wrong, if anything did; returns the exit code."""
    if problems:
        print("\nNot measured:")
    for what, error in problems:
        print(f"  {what}: {harness.sentence(error)}")
    return int(any(not isinstance(error, harness.NotPossible) for _, error in problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
