"""Small networks with the names of large ones, and files of them."""

import copy
import re
import zlib

import torch
from torch import nn

import checkpoints
import cli
import main as suite
import models
import recipes

LEGACY = {"_use_new_zipfile_serialization": False}


class Block(nn.Module):
    def __init__(self, width, ibn=False):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        if ibn:
            halves = {"IN": nn.InstanceNorm2d(width // 2, affine=True), "BN": nn.BatchNorm2d(width // 2)}
            self.bn1 = nn.ModuleDict(halves)


class Backbone(nn.Module):
    """The names of a torchvision ResNet, `blocks` blocks in each layer."""

    def __init__(self, blocks=1, width=4, ibn=False, num_classes=0):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(2)
        for i in range(1, 5):
            setattr(self, f"layer{i}", nn.Sequential(*(Block(width, ibn) for _ in range(blocks))))
        if num_classes:
            self.fc = nn.Linear(width, num_classes)
        self.embedding_dim = width


class Net(models.Model):
    """The names of our BagOfTricks: base, bottleneck, classifier."""

    def __init__(self, num_pids=5, blocks=1, width=4, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.base = Backbone(blocks, width)
        self.bottleneck = nn.BatchNorm1d(width)
        self.classifier = nn.Linear(width, num_pids, bias=False)
        self.embedding_dim, self.feat_dims = width, (width,)
        for buffer in self.buffers():  # running statistics that differ from those of a new network
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)


def backbone_of(state):
    return {key[len("base.") :]: value for key, value in state.items() if key.startswith("base.")}


def assert_equal_states(model, other, but=()):
    theirs = other.state_dict()
    for key, value in model.state_dict().items():
        assert key.startswith(tuple(but)) or torch.equal(value, theirs[key]), key


def randomised(build, num_pids, seed):
    """A network in which no two tensors are equal, on new weights for each seed."""
    torch.manual_seed(seed)
    with torch.device("meta"):
        model = build(num_pids=num_pids)
    model.to_empty(device="cpu")
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
        else:
            value.fill_(seed if name.endswith("num_batches_tracked") else 0)
    return model


def renamed(*rules):
    """our state dict -> theirs: the first rule (pattern, replacement) whose pattern matches; other names stay."""

    def rename(state):
        result = {}
        for name, value in state.items():
            pattern, new = next(((p, r) for p, r in rules if re.search(p, name)), ("^", ""))
            result[re.sub(pattern, new, name)] = value
        assert len(result) == len(state)
        return result

    return rename


def own_checkpoint(path, **changed):
    """A checkpoint of this suite at `path`; changed: entries of its own, None for those to leave out."""
    description = {"recipe": "osnet_x0_25", "overrides": {"image_size": [64, 32]}, "num_pids": 5, "trained_on": ["own"]}
    model = recipes.RECIPES["osnet_x0_25"].model(5)
    state = checkpoints.header(description | {"seed": 0, "amp": "none"}, 3) | {"model": model.state_dict()} | changed
    checkpoints.save(path, {name: value for name, value in state.items() if value is not None})
    return model


def loaded(path, *words, data=None):
    """What --mode test makes of the weights at `path`."""
    args, recipe = cli.parse(["--mode", "test", "--weights", str(path), *words])
    run = suite.Run(torch.device("cpu"), "none", False, path.parent)
    before, given = copy.copy(run), cli.overrides(args)
    found = suite.load_for_test(args, recipe, given, run, None, data)
    assert run == before
    return found


def drawn(count, phase):
    """`count` numbers between -0.5 and 0.5 that are the same on every machine and with every torch."""
    return (torch.sin(12.9898 * torch.arange(count, dtype=torch.float64) + phase) * 43758.5453) % 1 - 0.5


def filled(module):
    """`module` in eval mode with weights that its names decide, so that a released network can be given the same."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                numbers = drawn(value.numel(), zlib.crc32(name.encode()) % 1000).view(value.shape)
                scale = value.dim() == 1 and name.endswith(("weight", "running_var"))
                value.copy_(numbers + 1 if scale else numbers)
    return module.eval()
