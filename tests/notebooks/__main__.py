"""Keep the notebooks and the modules made from them in step.

    python tests/notebooks export [PATH..]   write the chapters' modules from their notebooks
    python tests/notebooks execute [PATH..]  run notebooks in fresh kernels and store their outputs
    python tests/notebooks check             list what is wrong; exit code 1 if anything is
    python tests/notebooks badges            write badges, set-up cells, reading times and what is folded
    python tests/notebooks exercises         write exercises.ipynb from solutions.ipynb, in every chapter
    python tests/notebooks sittings          list minutes, words, lines and cells of every notebook

`make` has a target of the same name for each; test_repository.py asserts what `check` says of the code.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # tests/ and the root

from notebooks.export import export_all  # noqa: E402
from notebooks.files import notebook_paths  # noqa: E402
from notebooks.links import write_badges  # noqa: E402
from notebooks.reading import table_of_sittings  # noqa: E402
from notebooks.rules import problems  # noqa: E402
from notebooks.running import execute  # noqa: E402
from notebooks.workbook import write_exercises  # noqa: E402


def main(arguments):
    command, *paths = arguments or ["help"]
    paths = [Path(path) for path in paths]
    if command == "export":
        export_all(only=paths)
    elif command == "execute":
        for path in paths or [path for path in notebook_paths() if path.stem != "exercises"]:
            print(f"executing {path}", flush=True)
            execute(path)
    elif command == "check":
        found = problems()
        print("\n".join(found) or "notebooks, modules and badges are in step")
        return bool(found)
    elif command == "badges":
        write_badges()
    elif command == "exercises":
        print(*write_exercises(), sep="\n")
    elif command == "sittings":
        print(table_of_sittings())
    else:
        print(__doc__)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
