"""What chapters 1 to 5 built and chapter 6 uses. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ch01_tokenization.corpus import load_plays, split_plays  # noqa: E402
from ch01_tokenization.figures import COLORS, draw_matrix, draw_pipeline, draw_tokens, use_course_style  # noqa: E402
from ch01_tokenization.tokenizer import BPETokenizer  # noqa: E402
from ch04_transformer.transformer import GPT, GPTConfig, count_parameters  # noqa: E402
from ch05_training.data import TokenDataset  # noqa: E402
from ch05_training.training import (  # noqa: E402
    TrainConfig,
    Trainer,
    load_checkpoint,
    newest_checkpoint,
    pick_device,
    plot_history,
    read_checkpoint,
)

__all__ = [
    "BPETokenizer",
    "COLORS",
    "GPT",
    "GPTConfig",
    "TokenDataset",
    "TrainConfig",
    "Trainer",
    "count_parameters",
    "draw_matrix",
    "draw_pipeline",
    "draw_tokens",
    "load_checkpoint",
    "load_plays",
    "newest_checkpoint",
    "pick_device",
    "plot_history",
    "read_checkpoint",
    "split_plays",
    "use_course_style",
]
