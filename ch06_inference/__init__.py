"""The program of chapter 6 as a package; an old Python is refused in one sentence."""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "error: this is Python %d.%d and the course needs 3.11 or newer; run it with: .venv/bin/python"
        % sys.version_info[:2]
    )

try:
    import ch01_tokenization.pieces  # noqa: F401, a reader's own, if they are asked for
except ValueError as wrong_folder:
    sys.exit("error: %s" % wrong_folder)
