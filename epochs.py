"""What may change from epoch to epoch: a hook that is called before each one, and what each stage trains with.

Methods that label their own images (clusters of features), or that train a part on features computed once, need a look
at the whole training set before an epoch. A `Hook` gets it and answers with what the epoch is to train on. The loop in
``train`` knows no hook by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from losses import Criterion


class Moment(NamedTuple):
    """What a hook sees before an epoch. Of n training samples, in the order of the loader.

    labels (n,) int64: their identities as the data set has them; an unsupervised method leaves them alone.
    cameras (n,) int64: as the network knows them.
    features: () -> embeddings (n, D) float32 on the CPU: every sample in its test form (resized, not augmented, not
        mirrored) through `model` in eval mode. Computed anew by each call; of several processes each computes a part
        and all get the whole, so all of them must call it equally often.
    model: as it is now, in eval mode. criteria: of each stage; that of the stage is criteria[stage].
    """

    epoch: int  # from 0
    stage: int  # from 0
    first: bool  # whether the epoch is the first of its stage
    seed: int
    labels: Tensor
    cameras: Tensor
    features: Callable[[], Tensor]
    model: nn.Module
    criteria: tuple[Criterion, ...]


class Answer(NamedTuple):
    """What a hook answers; it holds from this epoch on until the next answer, or until a stage with another loader.

    labels (n,) int64: the label of each sample, from 0; -1: left out. None: the data set's.
    inputs (n, ...): what the network gets of each sample in place of its image. None: the image, decoded and augmented.
    features (m, D): handed with the labels to every loss that has `begin_epoch(features, labels)`, such as a memory.
    told: numbers for the line of the epoch in the log, such as that of the clusters.
    """

    labels: Tensor | None = None
    inputs: Tensor | None = None
    features: Tensor | None = None
    told: Mapping[str, float] = {}


class Hook:
    """What is called before each epoch. A recipe names the class (`Recipe.hook`): its constructor gets the fields and
    options that it names.

    It remembers nothing from one epoch to the next: a run that was killed and resumed makes a new one. What must last
    is the answer, which is kept with the run as it is, the weights, and the states of the losses. What it draws at
    random comes from `moment.seed` and `moment.epoch`. It is not asked again where an epoch goes on in its middle.
    """

    def begin_epoch(self, moment: Moment) -> Answer | None:
        """What `moment.epoch` trains on; None: what the epoch before did. Of several processes all are asked, and the
        labels of the main one count."""
        raise NotImplementedError


class Phase(NamedTuple):
    """What the epochs of a stage train with."""

    recipe: Any  # config.Recipe, as the stage changes it
    criterion: Criterion
    loader: Any


def unseen(*_) -> Tensor:
    """In place of `Between.features` where a caller of ``train.fit`` gives none."""
    raise ValueError("the hook asks for features, and this training was given no way to compute them")


@dataclass(frozen=True)
class Between:
    """What happens between the epochs of a run.

    hook: asked before each epoch. features: (model, loader, stop) -> embeddings (n, D) of the loader's samples, see
    `Moment`. phases: of each stage, where one of them changes the recipe; equal phases are the same objects.
    """

    hook: Hook | None = None
    features: Callable[..., Tensor] = unseen
    phases: tuple[Phase, ...] = field(default=())


def checked(answer: Answer, count: int, num_pids: int, who: str) -> Answer:
    """`answer` of the hook `who` for `count` samples; ValueError if it does not fit them, or the `num_pids` classifiers
    of the network (0: it has none)."""
    labels, inputs = answer.labels, answer.inputs
    for name, rows in (("labels", labels), ("inputs", inputs)):
        if rows is not None and len(rows) != count:
            raise ValueError(
                f"{who} answered {len(rows):,} {name} for {count:,} training samples: they must be as many"
            )
    if labels is not None:
        labels = torch.as_tensor(labels, dtype=torch.int64).cpu()
        highest = int(labels.max())
        if highest < 0:
            raise ValueError(f"{who} left out all of the {count:,} training samples: there is nothing to train on")
        if 0 < num_pids <= highest:
            raise ValueError(
                f"{who} answered label {highest}, and the network classifies {num_pids:,} identities: a method that "
                "labels its images itself needs losses without classifiers (--id_weight 0)"
            )
    if inputs is not None and not bool(torch.isfinite(inputs).all()):
        raise ValueError(f"{who} answered inputs that are not finite")
    return answer._replace(labels=labels, inputs=None if inputs is None else inputs.detach().cpu())
