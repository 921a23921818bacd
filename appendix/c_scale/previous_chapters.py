"""What chapters 1 to 6 built and appendix C uses. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ch01_tokenization.figures import COLORS, show, use_course_style  # noqa: E402
from ch04_transformer.transformer import GPT, GPTConfig  # noqa: E402
from ch05_training.optimization import AdamW, cross_entropy, parameter_groups  # noqa: E402
from ch05_training.step import summed_loss  # noqa: E402

__all__ = [
    "COLORS",
    "GPT",
    "AdamW",
    "GPTConfig",
    "cross_entropy",
    "parameter_groups",
    "show",
    "summed_loss",
    "use_course_style",
]
