"""What chapters 1 and 2 built and chapter 3 uses. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ch01_tokenization.pieces  # noqa: E402, F401, a reader's own, if they are asked for
from ch01_tokenization.figures import COLORS, draw_matrix, draw_pipeline, draw_tokens, show, use_course_style  # noqa: E402
from ch02_embeddings.embeddings import InputEmbedding, RotaryEmbedding  # noqa: E402

__all__ = [
    "COLORS",
    "InputEmbedding",
    "RotaryEmbedding",
    "draw_matrix",
    "draw_pipeline",
    "draw_tokens",
    "show",
    "use_course_style",
]
