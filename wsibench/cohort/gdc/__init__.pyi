from .acquisition import (
    Project as Project,
    acquire as acquire,
    expected as expected,
    fetch_slide as fetch_slide,
    read_pairing as read_pairing,
    read_slides as read_slides,
    remote_files as remote_files,
    report as report,
)
