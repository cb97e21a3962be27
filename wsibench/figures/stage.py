"""The stage: draw the plates that apply to a study and are due."""

import base64
import html
import io
from pathlib import Path
from typing import Any

import pandas as pd

from wsibench.core import Artefact, Study, meta_path, read_meta, writing
from wsibench.figures.plates import PLATES, applying, leaderboard_copy

SCREEN_DPI, PRINT_DPI = 110, 300
MOST_PNG_BYTES = 500_000


def not_applicable(study: Study) -> str | None:
    """Why the study has nothing to draw, or None."""
    return None


def expected(study: Study) -> list[Artefact]:
    """Three files a figure, and the copy of the leaderboard.

    Raises
    ------
    NotReady
        When an earlier stage that applies to the study has not been done.
    """
    artefacts = [artefact for plate in PLATES for artefact in plate.artefacts(study)]
    return [*artefacts, *leaderboard_copy(study)]


def draw(study: Study) -> pd.DataFrame:
    """Draw the figures of the study that are due, and take away those that no longer apply.

    Returns
    -------
    DataFrame
        One row a figure: figure, what it shows, files.
    """
    for plate in PLATES:
        artefacts = plate.artefacts(study)
        if not artefacts:
            _take_away(plate.files(study))
        elif any(artefact.due() for artefact in artefacts):
            from wsibench.figures import making, style

            fig = getattr(making, plate.name)(study)
            style.save(fig, study.figures / plate.name, study_key=study.key, key=artefacts[0].key)
    for artefact in leaderboard_copy(study):
        if artefact.due():
            with writing(artefact) as temporary:
                temporary.write_bytes(study.leaderboard_csv.read_bytes())
    rows = [
        {"figure": plate.name, "what it shows": plate.title, "files": f"{study.figures / plate.name}.{{pdf,png,csv}}"}
        for plate in applying(study)
    ]
    return pd.DataFrame(rows, columns=["figure", "what it shows", "files"])


def saved(study: Study) -> list[Any]:
    """The drawn figures with their alternative texts, for a notebook to display."""
    from IPython.display import HTML

    pages = []
    for plate in applying(study):
        png = study.figures / f"{plate.name}.png"
        alt = html.escape(read_meta(png)["facts"]["alt"], quote=True)
        source, width_px = inline(png.read_bytes())
        caption = f"<b>{html.escape(plate.title)}.</b> {html.escape(plate.caption)}"
        image = f'<img alt="{alt}" width="{width_px}" src="{source}">'
        pages.append(HTML(f"<figure>{image}<figcaption>{caption}</figcaption></figure>"))
    return pages


def inline(png: bytes, *, dpi: int = PRINT_DPI) -> tuple[str, int]:
    """A picture for a page: its data URI, and its width on a screen (px).

    Pictures of tissue become JPEG, which is five times smaller.
    """
    from PIL import Image

    data, kind = png, "png"
    with Image.open(io.BytesIO(png)) as picture:
        width_px = round(picture.width * SCREEN_DPI / dpi)
        if len(data) > MOST_PNG_BYTES:
            buffer = io.BytesIO()
            picture.convert("RGB").save(buffer, "JPEG", quality=85)
            data, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", width_px


def _take_away(files: list[Path]) -> None:
    # A figure of an earlier study.yaml, left beside the present ones, would be taken for one of them.
    for path in files:
        if meta_path(path).exists():
            path.unlink(missing_ok=True)
            meta_path(path).unlink()
