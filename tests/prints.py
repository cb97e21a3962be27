"""Checks of printed figures: texts are there, readable, on the page and do not overlap."""

from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


def visible(fig):
    """Every text that can be seen, with its extent in px."""
    renderer = FigureCanvasAgg(fig).get_renderer()
    # Ticks beyond an axis' limits exist, but are not drawn.
    hidden = set()
    for axis in (axis for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        beyond = [tick for tick in axis.get_major_ticks() if not low - 1e-9 <= tick.get_loc() <= high + 1e-9]
        hidden |= {label for tick in beyond for label in (tick.label1, tick.label2)}
    texts = [text for text in fig.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text, text.get_window_extent(renderer)) for text in texts if text not in hidden]


def assert_says(fig, labels):
    """The labels stand on the figure, which has a text and numbers of its own."""
    texts = {text.get_text() for text in fig.findobj(Text)}
    assert set(labels) <= texts
    assert len(fig.alt) > 60
    assert len(fig.data)


def assert_printed_size(fig):
    """One or two columns wide, no higher than a page, in type that can be read."""
    width, height = fig.get_size_inches() * 25.4
    assert width == pytest.approx(89) or width == pytest.approx(183)
    assert height <= 170.1
    assert all(5 <= text.get_fontsize() <= 7 for text, _ in visible(fig))


def assert_labels_apart(fig):
    """Labels neither overlap nor leave the page."""
    found = visible(fig)
    page = fig.bbox.padded(1)
    for text, box in found:
        assert page.x0 <= box.x0 <= box.x1 <= page.x1, text
        assert page.y0 <= box.y0 <= box.y1 <= page.y1, text
    for (one, a), (other, b) in combinations(found, 2):
        shared = [min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)]
        assert min(shared) <= 1.5, f"{one.get_text()!r} over {other.get_text()!r}"


def assert_printable(fig, labels):
    """All of the above."""
    assert_says(fig, labels)
    assert_printed_size(fig)
    assert_labels_apart(fig)


def texts(ax):
    """Texts within a panel."""
    return [text.get_text() for text in ax.texts]
