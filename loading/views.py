"""What a network and its losses are told of a batch of images beside their pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Views(NamedTuple):
    """Of B images or tracklets; each field on the device of the images.

    camera (B,) int64: the camera's label among those of the training set, from 0; -1 for a camera it does not have.
    infrared (B,) bool: whether the image was taken in infrared light; None where no camera is infrared.
    there (B, T) bool: which frames exist of tracklets that were filled up to T frames; None where all do.
    label (B,) int64: the identity that an image trains, for a network that `reads_labels`; None otherwise.
    clothes (B,) int64: label of the clothes worn among those of the training set, from 0, no two people's alike; None
        where the data set does not say, and in a test. Losses may read it (`takes_views`), no network does: see `told`.
    """

    camera: Tensor
    infrared: Tensor | None = None
    there: Tensor | None = None
    label: Tensor | None = None
    clothes: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Views:
        """Every field that is there changed alike, for instance to some of its rows."""
        return Views(change(self.camera), *(None if field is None else change(field) for field in self[1:]))

    def told(self) -> Views:
        """What a network is told: all but the labels that a test does not have."""
        return self if self.clothes is None else self._replace(clothes=None)
