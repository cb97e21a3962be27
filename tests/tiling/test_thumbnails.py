"""Thumbnails: an unreadable slide costs its own picture alone."""

import numpy as np
import pandas as pd
import pytest

from wsibench.core import SlideError
from wsibench.tiling import Thumbnail, thumbnails


def test_an_unreadable_slide_is_an_error_in_place_of_its_picture(write_svs, tmp_path):
    image = np.full((800, 1200, 3), 243, np.uint8)
    image[200:600, 200:600] = (196, 120, 170)
    (tmp_path / "bad.svs").write_bytes(write_svs(image, 0.5).read_bytes()[:300])
    slides = pd.DataFrame(
        {"slide_id": ["bad", "good"], "path": [str(tmp_path / "bad.svs"), str(tmp_path / "slide.svs")], "mpp": ["", ""]}
    )
    made = thumbnails(slides)
    assert isinstance(made["bad"], SlideError)
    picture = made["good"]
    assert isinstance(picture, Thumbnail)
    assert picture.size_um == (600, 400)
    assert picture.image.shape == (400, 600, 3)
    assert picture.tissue_mm2 == pytest.approx(0.04, rel=0.1)
