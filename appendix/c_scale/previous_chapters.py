"""What chapters 1 to 6 built and appendix C uses. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ch01_tokenization.figures import COLORS, show, use_course_style  # noqa: E402
from ch03_attention.attention import check_inputs, fused_attention, sliding_window_mask  # noqa: E402
from ch03_attention.tiles import absorb_block, tiled_attention  # noqa: E402
from ch04_transformer.accounting import forward_flops, saved_bytes, training_memory  # noqa: E402
from ch04_transformer.counting import parameter_formula  # noqa: E402
from ch04_transformer.transformer import GPT, GPTConfig  # noqa: E402
from ch05_training.config import check_compiler  # noqa: E402
from ch05_training.optimization import cross_entropy  # noqa: E402

__all__ = [
    "COLORS",
    "GPT",
    "GPTConfig",
    "absorb_block",
    "check_compiler",
    "check_inputs",
    "cross_entropy",
    "forward_flops",
    "fused_attention",
    "parameter_formula",
    "saved_bytes",
    "show",
    "sliding_window_mask",
    "tiled_attention",
    "training_memory",
    "use_course_style",
]
