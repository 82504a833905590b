"""How an image file becomes pixels: the one place that opens one, for networks, pictures and the data-set doctor."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from PIL import Image

# What the endings of `parsers.base.IMAGE_SUFFIXES` promise, and what is often named .jpg by mistake. Pillow knows more,
# and hands an EPS to Ghostscript, whatever its name.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
ORIENTATION, BITS, PHOTOMETRIC = 274, 258, 262  # tags of EXIF and TIFF
TURNS = {  # EXIF 2.32, 4.6.5: the value of Orientation, and what sets the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Picture(NamedTuple):
    """An image in RGB, 8 bits, upright; `remarks`: what had to be decided to make it so, in words."""

    rgb: Image.Image
    remarks: tuple[str, ...] = ()


class Held(str):
    """The name of an image that is in memory already and stands in the place of a path: `read` opens no file for it.

    image: as Pillow opened or made it.
    """

    __slots__ = ("image",)
    image: Image.Image

    def __new__(cls, name: str, image: Image.Image) -> Held:
        held = super().__new__(cls, name)
        held.image = image
        return held


def read(path: str | os.PathLike) -> Picture:
    """The first image of a file of one of FORMATS, told by its content, whatever its name; or one that is `Held`.

    8-bit images are converted as Pillow converts them (transparency is dropped). Grey of more bits keeps its highest 8,
    as Pillow does with 16-bit colour. Float grey has its white at 1, or at 255 where a value is above 2. An EXIF
    orientation is followed, and a damaged EXIF block passed over.
    Raises: OSError and others from Pillow if the file is missing, truncated or no image (`reason` puts it in words);
        ValueError if its numbers do not say what is white.
    """
    if isinstance(path, Held):
        return _picture(path.image)
    with open(path, "rb", opener=_open_now) as file:
        return _picture(Image.open(file, formats=FORMATS))  # no `draft`: it would be faster and change pixels


def _picture(image: Image.Image) -> Picture:
    tags = dict(getattr(image, "tag_v2", {}))  # before loading, which changes them
    turned = tags.get(ORIENTATION) in TURNS  # Pillow turns a TIFF itself while it loads
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow's reader of EXIF raises anything for a damaged block
        turn = None
    deep = image.mode == "F" or image.mode.startswith("I")
    remarks = [f"{'float' if image.mode == 'F' else 'more than 8 bits of'} grey"] if deep else []
    if deep:
        image = _grey(image, tags)
    image = image.convert("RGB") if image.mode != "RGB" else image
    if turn is not None:
        image = image.transpose(turn)
    return Picture(image, (*remarks, "turned by EXIF") if turned or turn is not None else tuple(remarks))


def reason(error: Exception, path: str | os.PathLike) -> str:
    """Why `read` raised `error`, in words, without the path."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image, or a damaged one"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _open_now(path: str, flags: int) -> int:
    """Opens a file without waiting for somebody to write into it, should it be a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _grey(image: Image.Image, tags: dict) -> Image.Image:
    """Grey of mode F, I or I;16 in 8 bits."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    bits = tags.get(BITS, (16,))[0]
    if image.mode == "F":
        white = 1.0 if high <= 2 else 255.0  # twice white: a filter may have overshot
        fits, grey = low >= -white and high <= 2 * white, np.rint(values.clip(0, white) * (255 / white))
    else:
        shift = bits - 8 if bits <= 16 else 8 if high > 255 else 0
        fits, grey = low >= 0 and high < 256 << shift, values >> shift
    if not fits:
        raise ValueError(f"grey from {low} to {high}, of which nobody knows what is white: save it with 8 bits")
    grey = grey.astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(PHOTOMETRIC) == 0 else grey)
