"""python tests/mutants [CHAPTER..]: try every wrong answer on its check; exit code 1 unless all are named."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from mutants import FOLDERS, table  # noqa: E402


def main(names):
    asked = [f for f in FOLDERS if not names or any(Path(f).name.startswith(name) for name in names)]
    lines, faults = table(asked)
    print("\n".join(lines + faults))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
