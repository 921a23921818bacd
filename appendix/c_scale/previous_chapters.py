"""What chapters 1 to 6 built and appendix C uses. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ch01_tokenization.figures import COLORS, show, use_course_style  # noqa: E402
from ch01_tokenization.tokenizer import BPETokenizer  # noqa: E402
from ch04_transformer.fields import Positive  # noqa: E402
from ch04_transformer.transformer import GPT, GPTConfig, count_parameters  # noqa: E402
from ch05_training.checkpoint import load_checkpoint  # noqa: E402
from ch05_training.config import check_compiler  # noqa: E402
from ch05_training.data import TokenDataset  # noqa: E402
from ch05_training.files import (  # noqa: E402
    random_states,
    read_checkpoint,
    set_random_states,
    weights_of,
    write_whole,
)
from ch05_training.finite import check_finite  # noqa: E402
from ch05_training.folder import (  # noqa: E402
    RunFolder,
    alone_in,
    checkpoint_paths,
    read_history,
    step_of,
    tensorboard,
    write_history,
)
from ch05_training.interrupts import interrupts_wait, stop  # noqa: E402
from ch05_training.machines import pick_device  # noqa: E402
from ch05_training.optimization import (  # noqa: E402
    bits_per_byte,
    clip_grad_norm_,
    cross_entropy,
    perplexity,
    pick_precision,
)
from ch05_training.resuming import check_same_model, warn_of_rising_rate  # noqa: E402
from ch05_training.training import TrainConfig, Trainer, TrainState  # noqa: E402
from ch06_inference.assembly import (  # noqa: E402
    load_run,
    new_run_folder,
    preset_settings,
    report,
    watch_first_loss,
)
from ch06_inference.folders import what_is_there  # noqa: E402
from ch06_inference.gpt import Defaults, TrainCommand, with_own_defaults  # noqa: E402
from ch06_inference.terminal import Lasting, on_one_line, prepare_streams, say  # noqa: E402
from ch06_inference.texts import (  # noqa: E402
    check_length,
    check_unchanged,
    fewer_steps,
    fewer_tokens,
    load_texts,
    record_texts,
    say_many_passes,
    texts_of_run,
    train_tokenizer,
    with_steps,
)

__all__ = [
    "BPETokenizer",
    "COLORS",
    "Defaults",
    "GPT",
    "GPTConfig",
    "Lasting",
    "Positive",
    "RunFolder",
    "TokenDataset",
    "TrainCommand",
    "TrainConfig",
    "TrainState",
    "Trainer",
    "alone_in",
    "bits_per_byte",
    "check_compiler",
    "check_finite",
    "check_length",
    "check_same_model",
    "check_unchanged",
    "checkpoint_paths",
    "clip_grad_norm_",
    "count_parameters",
    "cross_entropy",
    "fewer_steps",
    "fewer_tokens",
    "interrupts_wait",
    "load_checkpoint",
    "load_run",
    "load_texts",
    "new_run_folder",
    "on_one_line",
    "perplexity",
    "pick_device",
    "pick_precision",
    "prepare_streams",
    "preset_settings",
    "random_states",
    "read_checkpoint",
    "read_history",
    "record_texts",
    "report",
    "say",
    "say_many_passes",
    "set_random_states",
    "show",
    "step_of",
    "stop",
    "tensorboard",
    "texts_of_run",
    "train_tokenizer",
    "use_course_style",
    "warn_of_rising_rate",
    "watch_first_loss",
    "weights_of",
    "what_is_there",
    "with_own_defaults",
    "with_steps",
    "write_history",
    "write_whole",
]
