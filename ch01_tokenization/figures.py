"""One look for every figure of the course, written by hand.

It draws what the chapters teach and teaches nothing.

The colours are Okabe and Ito's, which people who are colour-blind can tell apart; each also differs in
lightness, so that a figure survives a black-and-white printer. The same thing has the same colour in every
chapter.
"""

import matplotlib
import matplotlib.pyplot as plt
from IPython.display import display

COLORS = {
    "token": "#E69F00",  # text and tokens
    "position": "#009E73",  # positions
    "attention": "#0072B2",  # attention
    "model": "#56B4E9",  # the transformer
    "train": "#D55E00",  # training
    "validation": "#0072B2",  # held-out text
    "reference": "#777777",  # baselines and reference libraries
    "generate": "#CC79A7",  # generated text
}
STAGES = (
    ("tokenization", "text to ids", "token"),
    ("embeddings", "ids to vectors", "position"),
    ("attention", "vectors look\nat each other", "attention"),
    ("transformer", "blocks of attention", "model"),
    ("training", "guesses to loss", "train"),
    ("inference", "guesses to text", "generate"),
)
PLAIN = {"parse_math": False}  # a "$" in somebody's text is a dollar, not the beginning of a formula


def use_course_style():
    """Set matplotlib's defaults for the whole notebook."""
    matplotlib.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.figsize": (7, 3.2),
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "axes.titlesize": 11,
            "font.size": 10,
            "legend.frameon": False,
            "image.cmap": "Blues",
            "image.interpolation": "nearest",
        }
    )


def show(alt):
    """Show the current figure, and close it.

    alt: what there is to see, in a sentence, for whoever cannot see it. It is stored with the image, and is
    not the caption, which says what the figure means.
    """
    display(plt.gcf(), metadata={"image/png": {"alt": alt}})
    plt.close()


def draw_pipeline(chapter):
    """Show the six chapters as six boxes, the one of `chapter` (1 to 6) lit."""
    figure, axes = plt.subplots(figsize=(9, 1.5))
    for number, (name, what, color) in enumerate(STAGES, start=1):
        here = number == chapter
        box = plt.Rectangle(
            (number - 1, 0),
            0.84,
            1,
            facecolor=COLORS[color] if here else "white",
            edgecolor="black",
            linewidth=2.5 if here else 0.8,
        )
        axes.add_patch(box)
        middle = number - 1 + 0.42
        ink = "white" if here and name == "attention" else "black"  # on the one dark colour
        weight = "bold" if here else "normal"
        name = f"{number} {name}"
        axes.text(middle, 0.68, name, color=ink, ha="center", va="center", weight=weight, fontsize=9)
        axes.text(middle, 0.3, what, color=ink, ha="center", va="center", fontsize=8)
        if number < len(STAGES):
            axes.annotate("", (number - 0.01, 0.5), (number - 0.16, 0.5), arrowprops={"arrowstyle": "->"})
    axes.set(xlim=(-0.05, len(STAGES) - 0.1), ylim=(-0.05, 1.05))
    axes.axis("off")
    names = ", ".join(name for name, _, _ in STAGES)
    show(f"Six boxes joined by arrows: {names}. Box {chapter}, {STAGES[chapter - 1][0]}, is filled.")


def draw_tokens(tokens, title="", per_line=60, shades=None):
    """Show tokens as boxes, see `token_boxes`; the alternative text names them all."""
    token_boxes(tokens, title, per_line, shades)
    shown = " | ".join(printable(token) for token in tokens)
    show(f"{title}{': ' if title else ''}{len(tokens)} tokens as boxes: {shown}")


def token_boxes(tokens, title="", per_line=60, shades=None):
    """Draw tokens as boxes, one after another; returns the axes.

    A space is drawn as a raised dot, a line break as an arrow that ends the line. Bytes that are no text, and
    characters that the font lacks, are drawn as hexadecimal numbers.

    tokens: list of str or bytes. per_line: characters in a line before the next one starts. shades: a number
    from 0 (white) to 1 (dark) for each token; without it two shades alternate.
    """
    shown = [printable(token) for token in tokens]
    shades = [0.15 + 0.35 * (index % 2) for index in range(len(tokens))] if shades is None else shades
    places, row, column = [], 0, 0
    for token in shown:
        if column and column + len(token) > per_line:
            row, column = row + 1, 0
        places.append((row, column))
        row, column = (row + 1, 0) if token.endswith("↵") else (row, column + len(token))
    width = max(column + len(token) for (_, column), token in zip(places, shown, strict=True))
    last_row = places[-1][0]
    _, axes = plt.subplots(figsize=(0.125 * width + 0.2, 0.3 * (last_row + 1) + (0.3 if title else 0)))
    palette = matplotlib.colors.LinearSegmentedColormap.from_list("tokens", ["white", COLORS["token"]])
    for token, (row, column), shade in zip(shown, places, shades, strict=True):
        box = plt.Rectangle(
            (column, -row), len(token), 0.84, facecolor=palette(shade), edgecolor="black", linewidth=0.5
        )
        axes.add_patch(box)
        axes.text(
            column + len(token) / 2,
            0.4 - row,
            token,
            ha="center",
            va="center",
            family="monospace",
            fontsize=9,
            **PLAIN,
        )
    axes.set(xlim=(-0.2, width + 0.2), ylim=(-last_row - 0.15, 0.95))
    axes.set_title(_title(title), loc="left", **PLAIN)
    axes.axis("off")
    return axes


def printable(token, family="monospace"):
    """A token (str or bytes) as a label: a space is a raised dot, a line break an arrow.

    Bytes that are no text, and a token with characters that the font lacks, become hexadecimal numbers.
    """
    try:
        text = token.decode() if isinstance(token, bytes) else token
    except UnicodeDecodeError:
        return token.hex(" ").upper()
    return _label(text.replace(" ", "·").replace("\n", "↵"), family)


def _label(text, family=None):
    """A text that the font has, or else its bytes as hexadecimal numbers."""
    has = _font(family).get_char_index
    if all(has(ord(character)) for character in text):
        return text
    return text.encode("utf-8", "surrogatepass").hex(" ").upper()


def _title(text):
    """A text of one or more lines in which U+FFFD stands for what the font lacks."""
    has = _font().get_char_index
    return "".join(character if character == "\n" or has(ord(character)) else "\ufffd" for character in text)


def _font(family=None):
    """matplotlib's font of a family; None is that of titles and of the labels of axes."""
    manager = matplotlib.font_manager
    return manager.get_font(manager.findfont(manager.FontProperties(family=family)))


def draw_merge_tree(words, merges):
    """Show BPE on a few words: letters at the bottom, a fork at the height of the merge that made it.

    words: list of str. merges: [(left, right)] in the order in which they were learned.
    """
    width = 0.5 * sum(map(len, words)) + 0.6 * len(words) + 0.8
    _, axes = plt.subplots(figsize=(width, 0.42 * len(merges) + 1))
    start = 0
    for word in words:
        nodes = [(character, start + place, 0) for place, character in enumerate(word)]  # token, x, height
        for _, x, _ in nodes:
            axes.text(
                x, -0.25, printable(word[x - start]), ha="center", va="top", family="monospace", **PLAIN
            )
        for height, pair in enumerate(merges, start=1):
            place = 0
            while place + 1 < len(nodes):
                (left, x, low), (right, x2, low2) = nodes[place : place + 2]
                if (left, right) == pair:
                    axes.plot([x, x, x2, x2], [low, height, height, low2], color="black", linewidth=1.2)
                    middle = (x + x2) / 2
                    label = {"facecolor": COLORS["token"], "edgecolor": "black", "boxstyle": "round,pad=0.2"}
                    axes.text(middle, height, printable(left + right), ha="center", va="center", bbox=label,
                              family="monospace", fontsize=9, **PLAIN)  # fmt: skip
                    nodes[place : place + 2] = [(left + right, middle, height)]
                place += 1
        start += len(word) + 1
    axes.set(ylim=(-1, len(merges) + 0.5), xlim=(-0.7, start - 1.3), ylabel="merge")
    axes.set_yticks(range(1, len(merges) + 1))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    made = ", ".join(
        f"{height} makes {printable(left + right)}" for height, (left, right) in enumerate(merges, 1)
    )
    show(f"The words {', '.join(map(printable, words))} as trees over their letters; merge {made}.")


def draw_matrix(
    matrix, rows=None, columns=None, title="", axes=None, numbers=False, vmin=None, vmax=None, cmap="Blues"
):
    """A matrix as a heat map: row and column labels, and on request its numbers. Returns matplotlib's image.

    matrix: (R, C) tensor or array. rows, columns: lists of R and C labels, or None. A label with characters
    that the font lacks is drawn as hexadecimal numbers.
    """
    values = matrix.detach().float().cpu().numpy() if hasattr(matrix, "detach") else matrix
    if axes is None:
        _, axes = plt.subplots(figsize=(0.5 * values.shape[1] + 2, 0.4 * values.shape[0] + 1.2))
    image = axes.imshow(values, vmin=vmin, vmax=vmax, cmap=cmap, aspect="auto")
    axes.set_title(_title(title), **PLAIN)
    if columns is not None:
        columns = [_label(str(label)) for label in columns]
        upright = 90 if max(map(len, columns)) > 3 else 0
        axes.set_xticks(range(len(columns)), columns, rotation=upright, **PLAIN)
    if rows is not None:
        axes.set_yticks(range(len(rows)), [_label(str(label)) for label in rows], **PLAIN)
    if numbers:
        low, high = image.get_clim()
        for r in range(values.shape[0]):
            for c in range(values.shape[1]):
                dark = (values[r, c] - low) / (high - low or 1) > 0.6
                axes.text(
                    c,
                    r,
                    f"{values[r, c]:.2g}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "black",
                )
    return image
