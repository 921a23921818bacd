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
    names = sorted(path.stem for path in HERE.glob("bench_*.py"))
    names = [name for name in names if not wanted or any(word in name for word in wanted)]
    if not names:
        print(
            f"error: no benchmark is named {wanted}; there are {sorted(p.stem for p in HERE.glob('bench_*.py'))}"
        )
        return 2
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    for name in names:
        importlib.import_module(name).run(quick)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
