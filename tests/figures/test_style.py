"""House style: stable colours, and saved files with the same bytes each time."""

import subprocess
import sys

import boards
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from boards import BOARD
from PIL import Image

from wsibench import figures


def test_colours_are_kept_by_encoder():
    everyone = [*boards.ENCODERS, *boards.CONTROLS, "mine", "yours", "theirs"]
    full = figures.palette(everyone)
    assert len(set(full.values())) == len(everyone)
    assert figures.palette(["uni"])["uni"] == full["uni"]
    assert figures.palette(reversed(everyone)) == full
    many = figures.palette([f"own-{i}" for i in range(30)])
    assert len(many) == 30


def test_saved_bytes_do_not_depend_on_the_settings(tmp_path):
    names, board = [], BOARD[BOARD["probe"] == "ridge"]
    for i, size in enumerate((10, 14)):
        with mpl.rc_context({"font.size": size, "savefig.dpi": 72, "axes.grid": True}):
            fig = figures.forest(board, boards.null(board))
            names.append(figures.save(fig, tmp_path / str(i) / "forest", study_key=boards.STUDY_KEY))
    for one, other in zip(*names, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.suffix


def test_saved_files_hold_key_text_and_numbers(tmp_path):
    fig = figures.forest(BOARD)
    pdf, png, csv = figures.save(fig, tmp_path / "forest", study_key=boards.STUDY_KEY)
    with Image.open(png) as picture:
        assert boards.STUDY_KEY in picture.info["Source"]
        assert picture.info["Description"] == fig.alt
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert boards.STUDY_KEY.encode() in pdf.read_bytes()
    assert b"/Type3" not in pdf.read_bytes()
    data = pd.read_csv(csv, dtype={"study_key": str})
    assert (data["study_key"] == boards.STUDY_KEY).all()
    assert np.allclose(data["mean_rho"], BOARD["mean_rho"], rtol=1e-12)


def test_catalogue_does_not_load_matplotlib():
    code = (
        "import sys, wsibench.figures; assert 'pandas' not in sys.modules; "
        "from wsibench.figures.catalogue import catalogue; assert len(catalogue()) > 15; "
        "print([m for m in ('matplotlib', 'torch') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
