"""What chapters 1 to 6 built and appendix C uses. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ch01_tokenization.figures import COLORS, show, use_course_style  # noqa: E402

__all__ = [
    "COLORS",
    "show",
    "use_course_style",
]
