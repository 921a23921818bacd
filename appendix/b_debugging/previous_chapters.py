"""What chapters 1 to 6 built and appendix B uses. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ch01_tokenization.corpus import load_plays, split_plays  # noqa: E402
from ch01_tokenization.figures import COLORS, draw_matrix, show, use_course_style  # noqa: E402
from ch01_tokenization.tokenizer import BPETokenizer  # noqa: E402
from ch03_attention.attention import causal_mask  # noqa: E402
from ch04_transformer.transformer import GPT, GPTConfig  # noqa: E402
from ch05_training.baselines import baseline_losses  # noqa: E402
from ch05_training.data import TokenDataset  # noqa: E402
from ch05_training.optimization import AdamW, cross_entropy  # noqa: E402
from ch05_training.training import TrainConfig, TrainState, evaluate, train_step  # noqa: E402

__all__ = [
    "AdamW",
    "BPETokenizer",
    "COLORS",
    "GPT",
    "GPTConfig",
    "TokenDataset",
    "TrainConfig",
    "TrainState",
    "baseline_losses",
    "causal_mask",
    "cross_entropy",
    "draw_matrix",
    "evaluate",
    "load_plays",
    "show",
    "split_plays",
    "train_step",
    "use_course_style",
]
