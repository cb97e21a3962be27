from .slides import Slide as Slide, open_slide as open_slide
from .tiles import (
    TilingTask as TilingTask,
    expected as expected,
    not_applicable as not_applicable,
    read_tiles as read_tiles,
    tasks as tasks,
    tile_slide as tile_slide,
    tile_slides as tile_slides,
    tiled_slides as tiled_slides,
)
from .tissue import (
    MASK_MPP as MASK_MPP,
    Thumbnail as Thumbnail,
    choose_tiles as choose_tiles,
    find_tiles as find_tiles,
    physical_grid as physical_grid,
    thumbnail as thumbnail,
    thumbnails as thumbnails,
    tissue_mask as tissue_mask,
)
