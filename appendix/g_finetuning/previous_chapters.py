"""What chapters 1 to 6 built and appendix G uses. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ch01_tokenization.corpus import load_plays, package_file, split_plays  # noqa: E402
from ch01_tokenization.figures import COLORS, show, use_course_style  # noqa: E402
from ch01_tokenization.tokenizer import BPETokenizer, CharTokenizer  # noqa: E402
from ch04_transformer.transformer import GPT, GPTConfig, count_parameters  # noqa: E402
from ch05_training.config import TrainConfig  # noqa: E402
from ch05_training.data import TokenDataset  # noqa: E402
from ch05_training.files import read_checkpoint, write_checkpoint  # noqa: E402
from ch05_training.optimization import AdamW, clip_grad_norm_, cross_entropy  # noqa: E402
from ch05_training.step import evaluate, train_step  # noqa: E402
from ch05_training.training import TrainState  # noqa: E402
from ch06_inference.chat import chat_ids, frame_ids  # noqa: E402
from ch06_inference.generation import KVCache, generate, pad_left  # noqa: E402

__all__ = [
    "COLORS",
    "GPT",
    "AdamW",
    "BPETokenizer",
    "CharTokenizer",
    "GPTConfig",
    "KVCache",
    "TokenDataset",
    "TrainConfig",
    "TrainState",
    "chat_ids",
    "clip_grad_norm_",
    "count_parameters",
    "cross_entropy",
    "evaluate",
    "frame_ids",
    "generate",
    "load_plays",
    "package_file",
    "pad_left",
    "read_checkpoint",
    "show",
    "split_plays",
    "train_step",
    "use_course_style",
    "write_checkpoint",
]
