"""What the first chapter starts from: the look of the figures. Imports only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ch01_tokenization.pieces  # noqa: E402, F401, a reader's own, if they are asked for
from ch01_tokenization.figures import (  # noqa: E402
    COLORS,
    draw_matrix,
    draw_merge_tree,
    draw_pipeline,
    draw_tokens,
    show,
    use_course_style,
)

__all__ = [
    "COLORS",
    "draw_matrix",
    "draw_merge_tree",
    "draw_pipeline",
    "draw_tokens",
    "show",
    "use_course_style",
]
