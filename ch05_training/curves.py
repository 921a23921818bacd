"""Loss curves: a figure that is drawn anew while a run goes on, and the history of a run. Written by hand."""

import math
import time

import matplotlib.pyplot as plt

from .previous_chapters import COLORS


class LivePlot:
    """A figure in a notebook that is drawn anew while numbers come in.

    LivePlot(draw, alt)(...) calls draw(...), which returns matplotlib's axes or figure, at most once in
    `seconds`; with finished=True always. Outside of a notebook it draws and shows nothing.

    alt: what there is to see in the end, in a sentence, for whoever cannot see it.
    """

    def __init__(self, draw, alt, seconds=2.0):
        self.draw, self.seconds, self.handle, self.drawn_at = draw, seconds, None, time.monotonic()
        self.metadata = {"image/png": {"alt": alt}}

    def __call__(self, *data, finished=False):
        if not finished and time.monotonic() - self.drawn_at < self.seconds:
            return
        from IPython.display import display

        drawn = self.draw(*data)
        figure = getattr(drawn, "figure", None) or drawn
        plt.close(figure)  # or the notebook shows it a second time, at the end of the cell
        if "inline" not in plt.get_backend():
            return
        if self.handle:
            self.handle.update(figure, metadata=self.metadata)
        else:
            self.handle = display(figure, metadata=self.metadata, display_id=True)
        self.drawn_at = time.monotonic()


def plot_history(history, vocab_size, axes=None, baselines=None):
    """The loss curve: training loss, held-out loss, and the losses of guesses. Returns the axes.

    baselines: {name: nats a token}, such as baseline_losses gives; without it, the uniform guess alone.
    """
    if axes is None:
        _, axes = plt.subplots(figsize=(7, 3.2))
    steps, losses = [m["step"] for m in history], [m["loss"] for m in history]
    axes.plot(steps, losses, color=COLORS["train"], linewidth=0.8, label="training")
    held_out = [(m["step"], m["val_loss"]) for m in history if "val_loss" in m]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o--", color=COLORS["validation"], label="held-out text")
    for name, nats in (baselines or {f"uniform, ln {vocab_size}": math.log(vocab_size)}).items():
        axes.axhline(nats, color=COLORS["reference"], linewidth=0.8, linestyle=(0, (1, 2)))
        axes.text(1.01, nats, name, transform=axes.get_yaxis_transform(), va="center", color="#555555")
    axes.set(xlabel="step", ylabel="loss (nats a token)", title="Loss")
    axes.legend()
    return axes
