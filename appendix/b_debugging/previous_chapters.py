"""What chapters 1 to 6 built and appendix B uses. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ch01_tokenization.figures import COLORS, show, use_course_style  # noqa: E402
from ch05_training.optimization import AdamW, cross_entropy  # noqa: E402

__all__ = [
    "AdamW",
    "COLORS",
    "cross_entropy",
    "show",
    "use_course_style",
]
