"""What chapters 1 to 6 built and appendix A uses. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ch01_tokenization.corpus import load_plays  # noqa: E402
from ch01_tokenization.figures import COLORS, show, use_course_style  # noqa: E402
from ch04_transformer.transformer import GPT, GPTConfig  # noqa: E402
from ch06_inference.generation import KVCache  # noqa: E402

__all__ = [
    "COLORS",
    "GPT",
    "GPTConfig",
    "KVCache",
    "load_plays",
    "show",
    "use_course_style",
]
