"""What chapters 1 to 3 built and chapter 4 uses. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ch01_tokenization.pieces  # noqa: E402, F401, a reader's own, if they are asked for
from ch01_tokenization.corpus import load_plays, split_plays  # noqa: E402
from ch01_tokenization.figures import COLORS, draw_pipeline, show, use_course_style  # noqa: E402
from ch02_embeddings.embeddings import InputEmbedding, RotaryEmbedding  # noqa: E402
from ch03_attention.attention import MultiHeadAttention, sliding_window_mask  # noqa: E402

__all__ = [
    "COLORS",
    "InputEmbedding",
    "MultiHeadAttention",
    "RotaryEmbedding",
    "draw_pipeline",
    "load_plays",
    "show",
    "sliding_window_mask",
    "split_plays",
    "use_course_style",
]
