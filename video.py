"""Tracklets: the feature of many frames, from the features that an image model gives of each.

Which frames are read is decided in `loaders.py`; what is here only pools over time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from functions.distances import full_precision
from models import Model, Output, choose

if TYPE_CHECKING:
    from loading.views import Views

T = TypeVar("T")


class Tracklet(Model):
    """An image model over tracklets: every frame on its own, then each field of the Output pooled over time; or, of a
    network that is made for it (`Model.head`), what it describes of the frames, and the Output is of the mean.

    pooling: of embedding, feats and parts, or of what is described.
        "avg"; "max": over the frames, as torchreid tests (torchreid/engine/video/softmax.py at f8cd150);
        "attention": weighted by a_t = softmax_t(w . embedding_t + b), with w = 0 at first: the average. Temporal
        attention as in Gao and Nevatia (arXiv:1805.02104) without its convolutions, which are made for
        maps of one size (models/ResNet.py of jiyanggao/Video-Person-ReID at 5475c97).
    logits are averaged (or weighted): for a linear classifier those of the averaged feature. Their maximum would
        belong to no feature, so pooling "max" averages them too.

    Takes, with B tracklets:
        (B, T, 3, H, W); frames that `views.there` (B, T) says are not there do not go through the network;
        a `loaders.Tracklets`, whose frames come in chunks (tests of tracklets of any length). Where it cuts a tracklet
            into several clips, its feature is the mean of theirs;
        (B, 3, H, W): images; the image model's own answer.

    In a state dict the image model's tensors keep their names (with `attention.` added), so that weights trained on
    images serve for tracklets and the other way round.
    """

    def __init__(self, image_model: Model, pooling: str = "avg"):
        super().__init__()
        self.pooling = choose("temporal pooling", pooling, {name: name for name in ("avg", "max", "attention")})
        self.image_model = image_model
        if pooling == "attention":
            self.attention = nn.Linear(image_model.embedding_dim, 1)
            nn.init.zeros_(self.attention.weight)
            nn.init.zeros_(self.attention.bias)
        self.training = image_model.training
        self.renames = image_model.renames
        self.shown, self.stripes = image_model.shown, image_model.stripes
        self.num_pids = image_model.num_pids
        self.embedding_dim = image_model.embedding_dim
        self.feat_dims = image_model.feat_dims
        self.register_load_state_dict_post_hook(_without_image_model)

    def trunk(self) -> Iterator[nn.Parameter]:
        """The image model's."""
        return self.image_model.trunk()

    def layers(self, group: str) -> list[nn.Parameter]:
        """The image model's, and the attention, which is new."""
        return super().layers(group) if group in ("new", "attention") else self.image_model.layers(group)

    def compared(self, embedding: Tensor) -> Tensor:
        """As the image model's, of the mean over time."""
        return self.image_model.compared(embedding)

    def feature_map(self, images: Tensor, views: Views | None = None) -> Tensor:
        """Of images, as the image model's."""
        return self.image_model.feature_map(images, views)

    @property
    def soft_parts(self) -> bool:
        """As those of the image model."""
        return self.image_model.soft_parts

    def begin_stage(self, stage: int) -> None:
        """Told to the image model."""
        self.image_model.begin_stage(stage)

    def unread(self, stage: int) -> Iterable[nn.Parameter]:
        """Of the network of its frames."""
        return self.image_model.unread(stage)

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The image model's, under its own names, then the attention's."""
        state = self.image_model.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        if self.pooling == "attention":
            self.attention.state_dict(destination=state, prefix=f"{prefix}attention.", keep_vars=keep_vars)
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Called by `load_state_dict` before the children's tensors are looked for: gives them their full names."""
        for key in [key for key in state_dict if key.startswith(prefix)]:
            if not (self.pooling == "attention" and key.startswith(f"{prefix}attention.")):
                state_dict[f"{prefix}image_model.{key[len(prefix) :]}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, images: Tensor, views: Views | None = None) -> Output:
        if not torch.is_tensor(images):
            return self.tracklets(images.chunks(), images.lengths, images.clips, views)
        if images.ndim == 4:
            return self.image_model(images, views)
        lengths = (images.shape[1],) * len(images)
        if views is None or views.there is None:
            return self.tracklets((images.flatten(0, 1),), lengths, (1,) * len(images), views)
        lengths = tuple(views.there.sum(dim=1).tolist())
        return self.tracklets((images[views.there],), lengths, (1,) * len(images), views._replace(there=None))

    def tracklets(
        self, chunks: Iterable[Tensor], lengths: Sequence[int], clips: Sequence[int], views: Views | None
    ) -> Output:
        """Output of B tracklets from their frames in order, (n, 3, H, W) per chunk.

        lengths (C,): frames of each clip; clips (B,): clips of each tracklet, C in all; views: of tracklets,
            or None.
        """
        if views is not None:
            frames = [sum(part) for part in _split(lengths, clips)]
            alike = len(set(frames)) == 1  # then nothing has to be copied to the device, nor waited for
            times: Any = frames[0] if alike else torch.tensor(frames, device=views.camera.device)
            views = views.each(lambda field: field.repeat_interleave(times))  # (n,)
        image_model = self.image_model
        answers: list[Any] = []
        start = 0
        for images in chunks:
            end = start + len(images)
            here = None if views is None else views.each(itemgetter(slice(start, end)))
            if image_model.described is None:
                answers.append(image_model(images, here))
            else:
                answers.append(image_model.described(*image_model.maps(images, here)))
            start = end
        if image_model.described is not None:
            return _each(lambda x: _of_tracklets(x, clips), image_model.head(self.pooled(_joined(answers), lengths)))
        outputs = answers
        embedding = _joined([o.embedding for o in outputs])
        weights = self.weights(embedding, lengths) if self.pooling == "attention" else None

        def pooled(values: Tensor, how: Callable[..., Tensor]) -> Tensor:  # (n, ...) -> (B, ...)
            return _of_tracklets(_of_clips(values, lengths, how, weights), clips)

        average = torch.mean if weights is None else torch.sum
        how = torch.amax if self.pooling == "max" else average
        logits, feats = (
            tuple(_joined(each) for each in zip(*(getattr(o, field) for o in outputs), strict=True))
            for field in ("logits", "feats")
        )
        parts = None if outputs[0].parts is None else pooled(_joined([o.parts for o in outputs]), how)
        return Output(
            pooled(embedding, how),
            tuple(pooled(x, average) for x in logits),
            tuple(pooled(x, how) for x in feats),
            parts,
        )

    def pooled(self, frames: Tensor, lengths: Sequence[int]) -> Tensor:
        """What is described of the frames of each clip, (n, D) -> (C, D)."""
        if self.pooling == "attention":
            return _of_clips(frames, lengths, torch.sum, self.weights(frames, lengths))
        return _of_clips(frames, lengths, torch.amax if self.pooling == "max" else torch.mean)

    def weights(self, embedding: Tensor, lengths: Sequence[int]) -> Tensor:
        """Attention of each frame, (n, D) -> (n,), summing to 1 over the frames of a clip."""
        scores = self.attention(embedding.float())[:, 0]
        return torch.cat([part.softmax(dim=0) for part in scores.split(list(lengths))])


def _without_image_model(model: nn.Module, keys: Any) -> None:
    """What `load_state_dict` of a Tracklet found missing or unexpected, under the names of the state dict."""
    for names in keys:  # two lists, changed in place
        names[:] = [name.replace("image_model.", "", 1) for name in names]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors))


def _split(values: Sequence[T], sizes: Sequence[int]) -> list[Sequence[T]]:
    """Consecutive parts of a sequence, of these sizes."""
    ends = itertools.accumulate(sizes)
    return [values[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _over_time(values: Tensor, lengths: Sequence[int], how: Callable[..., Tensor]) -> Tensor:
    """`how` (mean, sum, amax) of consecutive runs of rows: (n, ...), lengths (C,) -> (C, ...)."""
    if len(set(lengths)) == 1:
        return how(values.unflatten(0, (len(lengths), lengths[0])), dim=1)
    return torch.stack([how(part, dim=0) for part in values.split(list(lengths))])


def _of_clips(
    values: Tensor, lengths: Sequence[int], how: Callable[..., Tensor], weights: Tensor | None = None
) -> Tensor:
    """`how` of the frames of each clip, times their weights (n,): (n, ...), lengths (C,) -> (C, ...)."""
    values = full_precision(values)  # a mean over a hundred frames is too much for half precision
    if weights is not None:
        values = values * weights.view(-1, *(1,) * (values.ndim - 1))
    return _over_time(values, lengths, how)


def _of_tracklets(values: Tensor, clips: Sequence[int]) -> Tensor:
    """The mean over the clips of each tracklet: (C, ...), clips (B,) -> (B, ...)."""
    return values if max(clips) == 1 else _over_time(values, clips, torch.mean)


def _each(change: Callable[[Tensor], Tensor], output: Output) -> Output:
    """An Output of changed tensors."""
    parts = None if output.parts is None else change(output.parts)
    logits, feats = (tuple(map(change, several)) for several in (output.logits, output.feats))
    return Output(change(output.embedding), logits, feats, parts)


def for_tracklets(model: Model, pooling: str = "avg") -> Tracklet:
    """`model` as a `Tracklet`; itself if it is one."""
    return model if isinstance(model, Tracklet) else Tracklet(model, pooling)
