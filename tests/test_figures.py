"""What is in the figures: boxes, labels, axes, and how much of them is ink."""

import base64
import io
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from notebooks import notebook_paths

from ch01_tokenization import figures

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [ROOT / path for path in notebook_paths()]


@pytest.fixture(autouse=True)
def course_style():
    with plt.rc_context():
        figures.use_course_style()
        yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    """Of each figure that was shown: (axes, alternative text)."""
    found = []
    monkeypatch.setattr(figures, "show", lambda alt: found.append((plt.gca(), alt)))
    return found


def pixels(axes):
    """The inside of some axes as it is drawn: (height, width, 3), from 0 to 1, the first row at the top."""
    canvas = axes.figure.canvas
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3] / 255
    box = axes.get_window_extent().extents.round().astype(int)
    height = picture.shape[0]
    return picture[height - box[3] : height - box[1], box[0] : box[2]]


def darkness(picture):
    """The mean of 0 for white, 1 for black."""
    return 1 - picture.mean()


def lightness(color):
    """What a black-and-white printer makes of a colour: 0 black, 1 white."""
    return np.dot(to_rgb(color), (0.2126, 0.7152, 0.0722))


def boxes(axes):
    return [patch for patch in axes.patches if isinstance(patch, plt.Rectangle)]


def extent(box):
    return box.get_x(), box.get_x() + box.get_width()


# ---------------------------------------------------------------- every figure


def test_a_figure_carries_its_words_and_is_closed(monkeypatch):
    displayed = []
    monkeypatch.setattr(figures, "display", lambda figure, metadata: displayed.append((figure, metadata)))
    figure, _ = plt.subplots()
    figures.show("a line that rises")
    assert displayed == [(figure, {"image/png": {"alt": "a line that rises"}})]
    assert not plt.get_fignums()  # or a notebook shows it a second time


def test_each_stage_has_a_colour_of_its_own():
    assert len({figures.COLORS[color] for _, _, color in figures.STAGES}) == 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_stored_figure_is_blank(path):
    """At least one in two hundred of its pixels has ink, and not all have."""
    for number, cell in enumerate(nbformat.read(path, 4).cells):
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/png"):
                image = plt.imread(io.BytesIO(base64.b64decode(picture)))[..., :3]
                inked = (image < 0.9).any(axis=-1).mean()
                assert 0.005 < inked < 0.95, f"cell {number}: {inked:.1%} of the pixels have ink"


# ---------------------------------------------------------------- the pipeline


@pytest.mark.parametrize("chapter", range(1, 7))
def test_the_pipeline_lights_one_box(shown, chapter):
    figures.draw_pipeline(chapter)
    axes, alt = shown[0]
    for number, box in enumerate(boxes(axes), start=1):
        color = figures.COLORS[figures.STAGES[number - 1][2]] if number == chapter else "white"
        assert to_rgb(box.get_facecolor()) == to_rgb(color)
    assert len(boxes(axes)) == 6 and f"Box {chapter}, {figures.STAGES[chapter - 1][0]}, is filled" in alt
    names = [text for text in axes.texts if text.get_text()[:1].isdigit()]
    assert [text.get_text() for text in names] == [
        f"{n} {s[0]}" for n, s in enumerate(figures.STAGES, start=1)
    ]
    for text, box in zip(names, boxes(axes)):
        left, right = extent(box)
        assert left < text.get_position()[0] < right
        assert abs(lightness(text.get_color()) - lightness(box.get_facecolor()[:3])) > 0.25  # can be read
    inside = np.array_split(pixels(axes), 6, axis=1)
    assert np.argmax([darkness(part) for part in inside]) == chapter - 1
    arrows = [text for text in axes.texts if not text.get_text()]
    assert len(arrows) == 5


# ---------------------------------------------------------------- tokens


def test_each_token_has_a_box_of_its_length_with_its_text():
    tokens = ["she", " sells", b" sea", "\n", "shells"]
    axes = figures.token_boxes(tokens, title="a line")
    labels = [text.get_text() for text in axes.texts]
    assert labels == ["she", "·sells", "·sea", "↵", "shells"] and axes.get_title(loc="left") == "a line"
    for label, text, box in zip(labels, axes.texts, boxes(axes), strict=True):
        left, right = extent(box)
        assert right - left == len(label) and text.get_position()[0] == (left + right) / 2
        assert box.get_y() < text.get_position()[1] < box.get_y() + box.get_height()
    rows = [box.get_y() for box in boxes(axes)]
    assert rows[0] == rows[1] == rows[2] == rows[3] and rows[4] < rows[3]  # the line break ends its line
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for box in boxes(axes):
        assert low < box.get_x() and extent(box)[1] < high
        assert bottom < box.get_y() and box.get_y() + box.get_height() < top


def test_long_lines_of_tokens_are_broken_without_overlap():
    axes = figures.token_boxes(["token"] * 30, per_line=42)
    by_row = {}
    for box in boxes(axes):
        by_row.setdefault(box.get_y(), []).append(extent(box))
    assert [len(row) for row in by_row.values()] == [8, 8, 8, 6] and max(
        r for row in by_row.values() for _, r in row
    ) <= 42
    for row in by_row.values():
        assert all(right <= left for (_, right), (left, _) in zip(row, row[1:]))


def test_shades_go_from_white_to_dark():
    axes = figures.token_boxes(["a", "b", "c"], shades=[0.0, 0.5, 1.0])
    greys = [lightness(box.get_facecolor()[:3]) for box in boxes(axes)]
    assert greys[0] > 0.99 > greys[1] > greys[2] and greys[2] == pytest.approx(
        lightness(figures.COLORS["token"])
    )
    first, second, *_ = boxes(figures.token_boxes(["a", "b", "c", "d"]))
    assert first.get_facecolor() != second.get_facecolor()  # without shades two alternate


def test_tokens_are_said_in_words(shown):
    figures.draw_tokens(["she", " sells\n"], title="two")
    assert shown[0][1] == "two: 2 tokens as boxes: she | ·sells↵"


# ---------------------------------------------------------------- merges


def test_the_merge_tree_has_axes_letters_and_labels_at_their_heights(shown):
    figures.draw_merge_tree(["she", "shells"], [("h", "e"), ("s", "he"), ("l", "l")])
    axes, alt = shown[0]
    assert (
        axes.get_ylabel() == "merge" and list(axes.get_yticks()) == [1, 2, 3] and not len(axes.get_xticks())
    )
    letters = [text.get_text() for text in axes.texts if text.get_position()[1] < 0]
    assert "".join(letters) == "sheshells"
    made = sorted(
        (text.get_position()[1], text.get_text()) for text in axes.texts if text.get_position()[1] > 0
    )
    assert made == [(1, "he"), (1, "he"), (2, "she"), (2, "she"), (3, "ll")]
    assert len(axes.lines) == 5 and all(
        max(line.get_ydata()) == height for line, height in zip(axes.lines, [1, 2, 1, 2, 3])
    )
    assert "1 makes he, 2 makes she, 3 makes ll" in alt


# ---------------------------------------------------------------- matrices


def test_a_matrix_is_drawn_as_it_is():
    matrix = np.array([[0.0, 0.25, 1.0], [0.5, 0.0, 0.75]])
    image = figures.draw_matrix(matrix, ["one", "two"], ["a", "b", "c"], title="weights", numbers=True)
    axes = image.axes
    assert (image.get_array() == matrix).all() and axes.get_title() == "weights"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    assert list(axes.get_xticks()) == [0, 1, 2] and list(axes.get_yticks()) == [0, 1]
    numbers = {text.get_position(): text for text in axes.texts}
    for r in range(2):
        for c in range(3):
            text = numbers[c, r]
            cell = image.cmap(image.norm(matrix[r, c]))[:3]
            assert float(text.get_text()) == matrix[r, c]
            assert abs(lightness(text.get_color()) - lightness(cell)) > 0.25  # can be read


def test_larger_is_darker_in_a_matrix():
    grey = [lightness(plt.get_cmap()(value)[:3]) for value in np.linspace(0, 1, 20)]
    assert grey[0] > 0.9 and grey[-1] < 0.25 and all(a > b for a, b in zip(grey, grey[1:]))


@pytest.mark.parametrize("n", [4, 16, 60])
def test_a_matrix_has_the_ink_of_its_numbers(n):
    """A causal pattern fills half of its square and leaves the other half white, whatever its size."""
    axes = figures.draw_matrix(np.tri(n), vmin=0, vmax=1, axes=plt.subplots(figsize=(4, 4))[1]).axes
    picture = pixels(axes)
    dark = (picture.mean(axis=-1) < 0.6).mean()
    assert dark == pytest.approx((n + 1) / (2 * n), abs=0.05)
    half = picture.shape[0] // 2
    assert (
        darkness(picture[half:, :half]) > 0.5 > 0.1 > darkness(picture[:half, half:])
    )  # lower left, upper right


def test_a_matrix_may_be_a_tensor_with_gradients():
    import torch

    weights = torch.eye(3, dtype=torch.bfloat16, requires_grad=True)
    assert (figures.draw_matrix(weights).get_array() == np.eye(3)).all()
