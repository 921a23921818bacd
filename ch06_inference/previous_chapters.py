"""What chapters 1 to 5 built and chapter 6 uses. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ch01_tokenization.pieces  # noqa: E402, F401, a reader's own, if they are asked for
from ch01_tokenization.corpus import load_plays, package_file, split_plays  # noqa: E402
from ch01_tokenization.exchange import byte_of_character  # noqa: E402
from ch01_tokenization.figures import (  # noqa: E402
    COLORS,
    draw_matrix,
    draw_pipeline,
    draw_tokens,
    printable,
    show,
    token_boxes,
    use_course_style,
)
from ch01_tokenization.pieces import whose_pieces  # noqa: E402
from ch01_tokenization.splitting import GPT2_SPLIT_PATTERN, special_pattern  # noqa: E402
from ch01_tokenization.tokenizer import BPETokenizer  # noqa: E402
from ch03_attention.attention import causal_mask  # noqa: E402
from ch04_transformer.fields import Bounds, Count, NotNegative, Positive, Size, check_fields  # noqa: E402
from ch04_transformer.transformer import GPT, GPTConfig, count_parameters  # noqa: E402
from ch05_training.config import check_compiler  # noqa: E402
from ch05_training.curves import plot_history  # noqa: E402
from ch05_training.data import TokenDataset  # noqa: E402
from ch05_training.files import naming, read_checkpoint, write_whole  # noqa: E402
from ch05_training.folder import checkpoint_paths, newest_checkpoint, step_of  # noqa: E402
from ch05_training.training import (  # noqa: E402
    TrainConfig,
    Trainer,
    bits_per_byte,
    load_checkpoint,
    perplexity,
    pick_device,
)

__all__ = [
    "BPETokenizer",
    "Bounds",
    "COLORS",
    "Count",
    "GPT",
    "GPT2_SPLIT_PATTERN",
    "GPTConfig",
    "NotNegative",
    "Positive",
    "Size",
    "TokenDataset",
    "TrainConfig",
    "Trainer",
    "bits_per_byte",
    "byte_of_character",
    "causal_mask",
    "check_compiler",
    "checkpoint_paths",
    "check_fields",
    "count_parameters",
    "draw_matrix",
    "draw_pipeline",
    "draw_tokens",
    "load_checkpoint",
    "load_plays",
    "naming",
    "newest_checkpoint",
    "package_file",
    "perplexity",
    "pick_device",
    "plot_history",
    "printable",
    "read_checkpoint",
    "show",
    "special_pattern",
    "split_plays",
    "step_of",
    "token_boxes",
    "use_course_style",
    "whose_pieces",
    "write_whole",
]
