"""A network whose kernels a GPU replays from a CUDA graph, so that the processor need not start each of them.

Small networks and small batches wait for those starts: MobileNetV2 has some 1,500 in a step. What a graph holds is what
ran while it was captured: shapes, choices of the host and its random numbers are fixed in it. So a network that draws
on the host is refused, and every graph is compared with the network itself before it is used.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from machine import processes

MOST = 4  # graphs at a time: each keeps the memory of a step
TOLERANCE = 1e-2  # ||difference|| / ||value|| of outputs and gradients: other kernels may round bfloat16 otherwise


class Unfit(Exception):
    """Why a network cannot be replayed."""


class Replayed(nn.Module):
    """`model` as it trains, called with (images, views): a graph for each shape that comes twice and for each set of
    layers that are open. On a CPU, and where it cannot be replayed, the model runs as it is; `say` is told which, once.

    The tensors of an Output hold until the next call. Gradients, statistics of batch norms and the random numbers of
    the device are those of the model itself, to the rounding of its kernels. `forget` is for whoever changes the model
    in another way than by opening layers.
    """

    def __init__(self, model: nn.Module, say: Callable[[str], None] = print):
        super().__init__()
        self.model, self.say = model, say
        self.said: set[str] = set()
        self.forget()

    def forget(self) -> None:
        """Drop all graphs."""
        self.graphs: dict[tuple, Callable] = {}
        self.read: dict[tuple, set[int]] = {}  # of a first batch: which tensors of its Output the losses read

    def forward(self, images: Tensor, views):
        if not (self.able(images, views) and torch.is_grad_enabled()):
            return self.model(images, views)
        key = (images.shape, *self.moving())
        if key in self.graphs:
            return self.graphs[key](images, views)
        if key in self.read and len(self.graphs) < MOST:
            self.graphs[key] = self.captured(images, views, self.read[key])
            return self.graphs[key](images, views)
        output = self.model(images, views)
        if key not in self.read:
            note_readers(output, self.read.setdefault(key, set()))
        return output

    @staticmethod
    def able(images: Tensor, views) -> bool:
        """Whether a batch is of a kind that is tried: on a GPU, no tracklets, no infrared images."""
        return images.is_cuda and views.camera.is_cuda and not any(field is not None for field in views[1:])

    def moving(self) -> tuple:
        """Which parameters there are and which of them, and of the statistics, move."""
        parameters = tuple((parameter.requires_grad, parameter.data_ptr()) for parameter in self.model.parameters())
        return parameters, tuple(module.training for module in self.model.modules())

    def captured(self, images: Tensor, views, read: set[int]) -> Callable:
        """A graph for batches like this one; the model itself if there cannot be one. Nothing is moved by it."""
        kept = [buffer.clone() for buffer in self.model.buffers()]
        drawn = random.getstate(), np.random.get_state()
        shape = "x".join(map(str, images.shape))
        try:
            with (
                torch.random.fork_rng([images.device] if images.is_cuda else []),
                uncached(images.device.type),
                warnings.catch_warnings(),
            ):
                warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # of the capture itself
                refuse_draws_of_the_host(self.model, images, views, kept)
                refuse_unread_layers(self.model, images, views, read)
                graph: Callable = Graph(self.model, images, views)
                compare(graph, self.model, images, views, kept)
            text = f"CUDA graph: the network is replayed for batches of {shape}."
        except (RuntimeError, AssertionError, Unfit) as error:
            graph = self.model
            if images.is_cuda:
                end_capture()
            text = f"CUDA graph: none for batches of {shape}: {str(error).splitlines()[0]}"
        finally:
            put_back(self.model, kept)
            random.setstate(drawn[0])
            np.random.set_state(drawn[1])
        if text not in self.said:
            self.said.add(text)
            self.say(text)
        return graph


class Graph:
    """Forward and backward pass of `model` on batches like (images, views), replayed on what it is called with."""

    def __init__(self, model: nn.Module, images: Tensor, views):
        self.views, self.output = views, None
        inputs = (images.clone(), views.camera.clone())
        self.replay: Any = torch.cuda.make_graphed_callables(Body(model, self), inputs, allow_unused_input=True)

    def __call__(self, images: Tensor, views):
        tensors = self.replay(images, views.camera)
        return processes.with_fields(self.output, list(tensors))


class Body(nn.Module):
    """`model` from tensors to tensors; what it answers with is left in `graph.output`, without a graph of autograd."""

    def __init__(self, model: nn.Module, graph: Graph):
        super().__init__()
        self.model = model
        self.note = [graph]  # no submodule

    def forward(self, images: Tensor, camera: Tensor) -> tuple[Tensor, ...]:
        [graph] = self.note
        output = self.model(images, graph.views._replace(camera=camera))
        tensors = processes.fields(output)
        graph.output = processes.with_fields(output, [tensor.detach() for tensor in tensors])
        return tuple(tensors)


def uncached(device: str):
    """autocast as it is around the call, without the casts of weights that it has kept.

    In a graph they would stay those of its first step, and their part of autograd's graph belongs to another stream.
    """
    torch.clear_autocast_cache()
    kind, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return torch.autocast(device, kind, enabled=enabled, cache_enabled=False)


def end_capture() -> None:
    """After a capture that failed: one that ends well tells the generator of random numbers that it is over."""
    with contextlib.suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.zeros(1, device="cuda")


def put_back(model: nn.Module, buffers: Sequence[Tensor]) -> None:
    """The model's buffers as they were."""
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)


def note_readers(output, read: set[int]) -> None:
    """Let `read` hold, once the losses have sent their gradients back, the positions of the tensors that got one."""
    for position, tensor in enumerate(processes.fields(output)):
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient, position=position: read.add(position))


def refuse_unread_layers(model: nn.Module, images: Tensor, views, read: set[int]) -> None:
    """Unfit if a layer acts on no tensor that a loss reads: it has no gradient, and would get one of zeros, with which
    an optimiser lets it decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    outputs = processes.fields(model(images, views))
    reached: list[set[int]] = []
    for tensor in outputs:
        slopes: Sequence[Tensor | None] = [None] * len(parameters)
        if tensor.requires_grad:
            slopes = torch.autograd.grad(tensor.sum(), parameters, retain_graph=True, allow_unused=True)
        reached.append({i for i, slope in enumerate(slopes) if slope is not None})
    moved = set().union(*(each for i, each in enumerate(reached) if i in read))
    if set().union(*reached) - moved:
        raise Unfit("some of its layers act on nothing that a loss reads")


def refuse_draws_of_the_host(model: nn.Module, images: Tensor, views, buffers: Sequence[Tensor]) -> None:
    """Unfit if the model answers otherwise where the host's generators stand elsewhere and the device's do not."""
    answers = []
    for seed in range(3):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        torch.cuda.manual_seed(0)
        with torch.no_grad():
            answers.append([tensor.double() for tensor in processes.fields(model(images, views))])
        put_back(model, buffers)
    if any(apart(each, answers[0]) > TOLERANCE for each in answers[1:]):
        raise Unfit("the network draws random numbers on the host, which a graph would repeat")


def compare(graph: Callable, model: nn.Module, images: Tensor, views, buffers: Sequence[Tensor]) -> None:
    """Unfit unless outputs, gradients and statistics of the graph are the model's, on other images than it was made
    with."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    answers = []
    for call in (model, graph):
        put_back(model, buffers)
        torch.manual_seed(1)
        images_ = torch.randn_like(images)
        outputs = processes.fields(call(images_, views))
        moving = [output for output in outputs if output.requires_grad]
        torch.manual_seed(2)
        slopes = [torch.randn_like(output) for output in moving]
        gradients = torch.autograd.grad(moving, parameters, slopes, allow_unused=True)
        statistics = [buffer.clone() for buffer in model.buffers() if buffer.is_floating_point()]
        answers.append(([o.detach().clone() for o in outputs], [g.clone() for g in gradients if g is not None],
                        statistics))  # fmt: skip
    for what, expected, found in zip(("outputs", "gradients", "statistics"), *answers, strict=True):
        if len(expected) != len(found):
            found = [value for value in found if bool(value.any())]  # a graph gives zeros where nothing flows
        difference = apart(found, expected) if len(expected) == len(found) else float("inf")
        if not difference <= TOLERANCE:
            raise Unfit(f"its {what} are {difference:.1e} away from the network's own")


def apart(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """||found - expected|| / ||expected|| of all tensors together."""
    pairs = list(zip(found, expected, strict=True))
    if not pairs:
        return 0.0
    away = torch.stack([(a.double() - b.double()).square().sum() for a, b in pairs]).sum()
    return float((away / torch.stack([b.double().square().sum() for _, b in pairs]).sum().clamp(min=1e-30)).sqrt())
