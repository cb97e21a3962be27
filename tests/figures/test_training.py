"""Training curves of attention MIL."""

import boards
import prints

from wsibench import figures


def test_training_curves():
    fig = figures.training_curves(boards.curves(["uni", "phikon"]))
    prints.assert_printable(fig, ["uni", "epoch"])
    assert "10 fits an encoder" in fig.alt
