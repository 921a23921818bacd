"""The program of chapter 6 as a package; an old Python is refused in one sentence."""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "error: this is Python %d.%d and the course needs 3.11 or newer; run it with: .venv/bin/python"
        % sys.version_info[:2]
    )
