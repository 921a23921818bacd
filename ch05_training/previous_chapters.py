"""What chapters 1 to 4 built and chapter 5 uses. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ch01_tokenization.pieces  # noqa: E402, F401, a reader's own, if they are asked for
from ch01_tokenization.corpus import load_plays, split_plays  # noqa: E402
from ch01_tokenization.figures import COLORS, draw_matrix, draw_pipeline, show, use_course_style  # noqa: E402
from ch01_tokenization.tokenizer import BPETokenizer  # noqa: E402
from ch02_embeddings.embeddings import LearnedPositionalEmbedding, TokenEmbedding  # noqa: E402
from ch04_transformer.accounting import forward_flops  # noqa: E402
from ch04_transformer.fields import Count, NotNegative, Positive, Share, Size, check_fields  # noqa: E402
from ch04_transformer.transformer import GPT, GPTConfig, count_parameters  # noqa: E402

__all__ = [
    "BPETokenizer",
    "COLORS",
    "Count",
    "GPT",
    "GPTConfig",
    "LearnedPositionalEmbedding",
    "NotNegative",
    "Positive",
    "Share",
    "Size",
    "TokenEmbedding",
    "check_fields",
    "count_parameters",
    "draw_matrix",
    "draw_pipeline",
    "forward_flops",
    "load_plays",
    "split_plays",
    "show",
    "use_course_style",
]
