"""AutoAugment: a learned policy of operations on whole images, with Pillow's arithmetic.

Cubuk, Zoph, Mane, Vasudevan, Le. AutoAugment: Learning Augmentation Strategies from Data. CVPR 2019; the policy that
was learned on ImageNet.
Strengths, filters and fill as JDAI-CV/fast-reid c9bc3ce, data/transforms/autoaugment.py.
"""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

# Each sub-policy: two times (operation, probability, strength of 0 to 10)
IMAGENET: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)
FILL = (128, 128, 128)
PLAIN: dict[str, Callable[[Image.Image], Image.Image]] = {
    "autocontrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
    "invert": ImageOps.invert,
}
ENHANCED: dict[str, Callable[[Image.Image], ImageEnhance._Enhance]] = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}


def draw(u: np.ndarray, probability: float) -> np.ndarray:
    """Uniform u (B, 8) -> (B, 7) int64: sub-policy or -1 for none; then of its two operations whether each happens,
    whether it is turned the other way, and whether its filter is bicubic, not bilinear."""
    chosen = (u[:, 1] * len(IMAGENET)).astype(np.int64)
    happens = np.array([[p for _, p, _ in pair] for pair in IMAGENET])[chosen]  # (B, 2)
    chosen = np.where(u[:, 0] < probability, chosen, -1)
    return np.column_stack([chosen, u[:, 2:4] < happens, u[:, 4:] < 0.5]).astype(np.int64)


def apply(images: Tensor, draws: np.ndarray) -> Tensor:
    """images (B, H, W, 3) uint8, draws (B, 7) -> the same with the chosen operations; waits for the images' device."""
    rows = np.flatnonzero(draws[:, 0] >= 0)
    if not len(rows):
        return images
    index = torch.from_numpy(rows).to(images.device)
    changed = [
        augmented(Image.fromarray(pixels), *row)
        for pixels, row in zip(images[index].cpu().numpy(), draws[rows].tolist(), strict=True)
    ]
    return images.index_copy(0, index, torch.from_numpy(np.stack(changed)).to(images.device))


def augmented(image: Image.Image, chosen: int, *choices: int) -> np.ndarray:
    """`image` after the two operations of sub-policy `chosen`, with `choices` as in `draw`: (H, W, 3) uint8."""
    for i, (name, _, strength) in enumerate(IMAGENET[chosen]):
        happens, turned, bicubic = choices[i::2]
        if happens:
            image = operate(image, name, strength / 10, bool(turned), bool(bicubic))
    return np.asarray(image)


def operate(image: Image.Image, name: str, level: float, turned: bool, bicubic: bool) -> Image.Image:
    """One operation at `level` of 0 to 1."""
    sign = -1 if turned else 1
    resample = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    if name in PLAIN:
        return PLAIN[name](image)
    if name in ENHANCED:
        return ENHANCED[name](image).enhance(1.8 * level + 0.1)
    if name == "posterize":
        return ImageOps.posterize(image, int(4 * level) + 4)
    if name == "solarize":
        return ImageOps.solarize(image, int(256 * level))
    if name == "rotate":
        return image.rotate(sign * 30 * level, resample, fillcolor=FILL)
    matrix = (1, sign * 0.3 * level, 0, 0, 1, 0)  # shear_x
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=FILL)
