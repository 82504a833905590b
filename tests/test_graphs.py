"""`machine.graphs` without a GPU: the function itself stands for its capture. What a GPU answers is checked by
benchmarks/gpu.py."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from loading.views import Views
from machine import graphs
from models import Output

VIEWS = Views(torch.zeros(6, dtype=torch.int64))


class Network(nn.Module):
    """A small network with statistics; `host` draws on the host, `unread` has a layer that only the embedding reads."""

    def __init__(self, host: bool = False, unread: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)
        self.apart = nn.Linear(8, 8) if unread else None
        self.host = host

    def forward(self, images, views):
        x = self.norm(self.first(images.mean((2, 3)) @ torch.ones(3, 5)))
        if self.host:
            x = x * (random.random() > 0.5)
        return Output(x if self.apart is None else self.apart(x), (self.second(x),), (x,))


@pytest.fixture
def captured(monkeypatch):
    """Replayed takes batches on the CPU; `captured.count` captures were made, `captured.shift` is added to answers."""

    class Capture:
        count, shift = 0, 0.0

    def make(body, inputs, allow_unused_input):
        Capture.count += 1
        body(*inputs)
        return lambda *given: [tensor + Capture.shift for tensor in body(*given)]

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    monkeypatch.setattr(graphs.Replayed, "able", staticmethod(lambda images, views: True))
    return Capture


def step(network, images) -> list[torch.Tensor]:
    """Gradients of a loss that reads the logits."""
    network.zero_grad(set_to_none=True)
    network(images, VIEWS).logits[0].square().mean().backward()
    return [parameter.grad for parameter in network.parameters()]


def test_replayed_network_learns_what_the_network_learns(captured):
    said: list[str] = []
    model, twin = Network(), Network()
    replayed = graphs.Replayed(model, said.append)
    torch.manual_seed(3)
    for _ in range(4):
        images = torch.randn(6, 3, 4, 2)
        before = torch.get_rng_state()
        for found, expected in zip(step(replayed, images), step(twin, images), strict=True):
            assert torch.equal(found, expected)
        assert torch.equal(torch.get_rng_state(), before)
    assert captured.count == 1 and len(said) == 1 and "replayed for batches of 6x3x4x2" in said[0]
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), twin.buffers(), strict=True))


@pytest.mark.parametrize(
    "network, shift, reason",
    [
        (Network(host=True), 0.0, "draws random numbers on the host"),
        (Network(unread=True), 0.0, "act on nothing that a loss reads"),
        (Network(), 1.0, "outputs are"),
    ],
)
def test_network_that_a_graph_would_change_runs_as_it_is(captured, network, shift, reason):
    captured.shift = shift
    said: list[str] = []
    replayed = graphs.Replayed(network, said.append)
    for _ in range(3):
        step(replayed, torch.randn(6, 3, 4, 2))
    assert len(said) == 1 and reason in said[0]
    [kept] = replayed.graphs.values()
    assert kept is network


def test_each_set_of_open_layers_and_each_stage_has_a_graph_of_its_own(captured):
    model = Network()
    replayed = graphs.Replayed(model, lambda text: None)
    for frozen in (False, True):
        model.first.requires_grad_(not frozen)
        for _ in range(3):
            step(replayed, torch.randn(6, 3, 4, 2))
    assert captured.count == 2
    replayed.forget()
    for _ in range(2):
        step(replayed, torch.randn(6, 3, 4, 2))
    assert captured.count == 3


def test_batch_that_comes_once_is_not_captured(captured):
    replayed = graphs.Replayed(Network(), lambda text: None)
    for size in (4, 6, 4):
        step(replayed, torch.randn(6, 3, size, 2))
    assert captured.count == 1


def test_no_graph_on_a_cpu():
    replayed = graphs.Replayed(Network(), lambda text: pytest.fail(text))
    for _ in range(3):
        assert step(replayed, torch.randn(6, 3, 4, 2))[0] is not None
