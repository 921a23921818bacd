"""Run the chapters' benchmarks: `make bench`, or `python tests/benchmarks/run.py [--quick] [ch01 ...]`."""

import importlib
import os
import platform
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]


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
    for name in names:
        importlib.import_module(name).run(quick)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
