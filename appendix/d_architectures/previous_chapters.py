"""What chapters 1 to 6 built and appendix D uses. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from appendix.c_scale.memory import peak_bytes  # noqa: E402
from ch01_tokenization.corpus import load_plays, split_plays  # noqa: E402
from ch01_tokenization.figures import COLORS, show, use_course_style  # noqa: E402
from ch01_tokenization.tokenizer import BPETokenizer  # noqa: E402
from ch02_embeddings.embeddings import RotaryEmbedding  # noqa: E402
from ch03_attention.attention import (  # noqa: E402
    causal_mask,
    fused_attention,
    join_heads,
    sliding_window_mask,
    split_heads,
)
from ch04_transformer.accounting import saved_bytes  # noqa: E402
from ch04_transformer.transformer import (  # noqa: E402
    GPT,
    FeedForward,
    GPTConfig,
    RMSNorm,
    SwiGLU,
    count_parameters,
    initialise,
    make_norm,
)
from ch05_training.baselines import unigram_of  # noqa: E402
from ch05_training.config import TrainConfig, check_compiler  # noqa: E402
from ch05_training.data import TokenDataset  # noqa: E402
from ch05_training.optimization import AdamW, clip_grad_norm_, cross_entropy  # noqa: E402
from ch05_training.step import evaluate, summed_loss, train_step  # noqa: E402
from ch05_training.training import TrainState  # noqa: E402
from ch06_inference.generation import KVCache, cache_bytes, generate  # noqa: E402

__all__ = [
    "COLORS",
    "GPT",
    "AdamW",
    "BPETokenizer",
    "FeedForward",
    "GPTConfig",
    "KVCache",
    "RMSNorm",
    "RotaryEmbedding",
    "SwiGLU",
    "TokenDataset",
    "TrainConfig",
    "TrainState",
    "cache_bytes",
    "causal_mask",
    "clip_grad_norm_",
    "check_compiler",
    "count_parameters",
    "cross_entropy",
    "evaluate",
    "fused_attention",
    "generate",
    "initialise",
    "join_heads",
    "load_plays",
    "make_norm",
    "peak_bytes",
    "saved_bytes",
    "show",
    "sliding_window_mask",
    "split_heads",
    "split_plays",
    "summed_loss",
    "train_step",
    "unigram_of",
    "use_course_style",
]
