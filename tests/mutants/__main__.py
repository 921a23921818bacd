"""python tests/mutants [CHAPTER..]: try every wrong answer on its check; exit code 1 unless all are named."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from mutants import CHAPTERS, table  # noqa: E402


def main(names):
    lines, faults = table([c for c in CHAPTERS if not names or any(c.startswith(name) for name in names)])
    print("\n".join(lines + faults))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
