"""From pixels to embeddings: the whole tile, resampled once, and the same vector every time."""

import numpy as np
import pytest
import torch
from PIL import Image

from wsibench import models
from wsibench.encoders import ENCODERS, encoder


def noise(px: int, n: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, px, px, 3), np.uint8))


@pytest.mark.parametrize("name", ["uni", "medsiglip", "h-optimus-0", "phikon", "dinov2-large", "colour", "random-vit"])
@pytest.mark.parametrize("px", [256, 449])
def test_the_whole_tile_is_resampled_once_as_pillow_does(name, px):
    record, tiles = encoder(name), noise(px)
    got = models.square(tiles, record).permute(0, 2, 3, 1).numpy()
    how = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[record.interpolation]
    for tile, resampled in zip(tiles.numpy(), got, strict=True):
        reference = np.asarray(Image.fromarray(tile).resize((record.px, record.px), how))
        difference = np.abs(reference.astype(int) - resampled)
        assert difference.max() <= 2  # of 255: intermediate rounding
        assert difference.mean() < 0.25


@pytest.mark.parametrize("record", ENCODERS.values(), ids=lambda record: record.name)
def test_a_tile_of_the_encoders_own_size_is_not_resampled(record):
    tiles = noise(record.px, 1)
    assert torch.equal(models.square(tiles, record).permute(0, 2, 3, 1), tiles)


@pytest.mark.parametrize("name", ["colour", "texture", "random-vit"])
def test_an_embedding_depends_on_its_tile_alone(name):
    model, tiles = models.load(encoder(name)), noise(224, 3)
    together = model(tiles)
    assert together.shape == (3, encoder(name).dim)
    assert together.dtype == torch.float32
    torch.testing.assert_close(model(tiles[1:2]), together[1:2], atol=1e-5, rtol=1e-5)


def test_the_random_vit_is_the_same_in_every_process_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = models.load(encoder("random-vit"))(noise(224))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(models.load(encoder("random-vit"))(noise(224)), first)
