"""Small copies of the images of a page, one file each: a page of all queries loads only those that are looked at."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

import visualize
from machine import files

HEIGHT = 192  # pixels at most: Market-1501's images are 128 high, and a phone shows 96
FRAMES = 12  # of a tracklet, evenly from the first to the last
QUALITY = 85  # of JPEG


class Thumbnail(NamedTuple):
    """`file` lies in the folder of thumbnails and holds `frames` pictures of (width, height) side by side."""

    file: str
    width: int
    height: int
    frames: int


def write(paths: Sequence[visualize.ImagePath], folder: Path) -> list[Thumbnail]:
    """A thumbnail of each image, or of each tuple of frames, in `folder`.

    A file has its name from the path of the image, so that the page of before stays whole until the new one is there.
    FileNotFoundError or ValueError that name an image that cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(lambda path: _write(path, folder), paths))


def remove_others(folder: Path, thumbnails: Iterable[Thumbnail]) -> None:
    """Remove the thumbnails of an earlier page."""
    kept = {thumbnail.file for thumbnail in thumbnails}
    for old in folder.glob("*.jpg"):
        if old.name not in kept:
            old.unlink(missing_ok=True)


def _write(path: visualize.ImagePath, folder: Path) -> Thumbnail:
    frames = path if isinstance(path, tuple) else (path,)
    shown = [frames[round(i * (len(frames) - 1) / (FRAMES - 1))] for i in range(FRAMES)]
    shown[FRAMES // 2] = visualize.one_path(frames)  # what stands still, and has the activation map
    shown = list(frames) if len(frames) <= FRAMES else shown
    images = [visualize.open_image(frame) for frame in shown]
    width, height = images[0].size
    height, width = min(height, HEIGHT), max(1, min(round(width * min(1, HEIGHT / height)), 4 * HEIGHT))
    strip = Image.new("RGB", (width * len(images), height))
    for i, image in enumerate(images):
        image = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
        strip.paste(image, (i * width, 0))
    name = hashlib.sha256("\0".join(map(str, frames)).encode(errors="surrogateescape")).hexdigest()[:16]
    with files.replace(folder / f"{name}.jpg", sync=False) as file:
        strip.save(file, "JPEG", quality=QUALITY)
    return Thumbnail(f"{name}.jpg", width, height, len(images))
