"""Embeddings of images of people from an exported model alone: needs onnxruntime, numpy and Pillow, nothing else.

    from embed import Embedder
    embedder = Embedder()                    # of the folder that this file is in: model.onnx and card.json
    features = embedder(["a.jpg", "b.jpg"])  # (2, D) float32
    embedder.distance(features, features)    # (2, 2), small is alike

or, for a file features.npz: python embed.py a.jpg b.jpg ...
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Embedder:
    """The model of an exported folder; model: the file in it, such as model_int8.onnx; providers: of onnxruntime.

    Attributes: `card`, all that is told of the model; `dim`, `image_size` (H, W), `metric`, `threshold` (the distance
    up to which two images are held to show one person, None where none was learnt).
    """

    def __init__(
        self,
        folder: str | os.PathLike = HERE,
        model: str = "model.onnx",
        providers: Sequence[str] = ("CPUExecutionProvider",),
        batch_size: int = 32,
    ):
        self.card = json.loads((Path(folder) / "card.json").read_text(encoding="utf-8"))
        self.dim, self.metric, self.threshold = (self.card[name] for name in ("dim", "metric", "threshold"))
        self.image_size = tuple(self.card["image_size"])
        self.batch_size = batch_size
        self.session = onnxruntime.InferenceSession(str(Path(folder) / model), providers=list(providers))

    def __call__(self, images: Any, *, bgr: bool = False) -> np.ndarray:
        """Embeddings (N, D) float32 of a list of paths, Pillow images or arrays (H, W, 3) uint8; bgr: of the arrays."""
        if isinstance(images, (str, os.PathLike, Image.Image)) or getattr(images, "ndim", 4) < 4:
            images = [images]
        if not hasattr(images, "__iter__"):
            raise ValueError(f"images are a {type(images).__name__}: expected a list of paths or images")
        rows: list[np.ndarray] = []
        images = iter(images)
        while batch := list(itertools.islice(images, self.batch_size)):  # no more of them in memory than these
            start = len(rows) * self.batch_size
            pixels = [self.pixels(f"image {start + i}", image, bgr) for i, image in enumerate(batch)]
            rows.append(self.run(np.stack(pixels)))
        if not rows:
            raise ValueError("there is no image: the list is empty")
        return np.concatenate(rows)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Embeddings (N, D) of images (N, H, W, 3) uint8 RGB of `image_size`."""
        return self.session.run(None, {"images": pixels})[0]

    def pixels(self, name: str, image: Any, bgr: bool = False) -> np.ndarray:
        """One image as (H, W, 3) uint8 RGB of `image_size`."""
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
                raise ValueError(f"{name} is {image.dtype} {image.shape}, expected (H, W, 3) uint8 with pixels")
            image = Image.fromarray(np.ascontiguousarray(image[..., ::-1] if bgr else image))
        elif bgr:
            raise ValueError(f"bgr=True is said of arrays, and {name} tells the order of its channels itself")
        elif isinstance(image, (str, os.PathLike)):
            image = Image.open(image)
        elif not isinstance(image, Image.Image):
            raise ValueError(
                f"{name} is a {type(image).__name__}, expected a path, a Pillow image or an array (H, W, 3)"
            )
        if image.mode == "F" or image.mode.startswith("I"):
            raise ValueError(f"{name} is grey of more than 8 bits: save it with 8")
        image = ImageOps.exif_transpose(image).convert("RGB")
        height, width = self.image_size
        if image.size != (width, height):
            image = image.resize((width, height), FILTERS[self.card["interpolation"]])
        return np.asarray(image)

    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Distances (N, M) between embeddings (N, D) and (M, D) by the model's metric."""
        if self.metric == "cosine":
            return np.clip(1 - a @ b.T, 0, 2)  # they have unit length
        square = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
        return np.sqrt(np.maximum(square, 0))


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python embed.py IMAGE ...   writes features.npz")
    embedded = Embedder()(sys.argv[1:])
    np.savez("features.npz", features=embedded, paths=np.array(sys.argv[1:]))
    print(f"features.npz: {embedded.shape[0]} embeddings of {embedded.shape[1]} numbers")
