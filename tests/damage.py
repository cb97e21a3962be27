"""Damage to slide files."""

from pathlib import Path

import tifffile


def patch_tag(path: Path, name: str, byte: int, value: int) -> None:
    """Overwrite one byte of a tag's 12-byte entry in the first page of a TIFF."""
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].tags[name].offset
    content = bytearray(path.read_bytes())
    content[offset + byte] = value
    path.write_bytes(content)
