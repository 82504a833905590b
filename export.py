"""A network as files that need nothing of this suite: ``--mode export``.

``model.onnx`` and ``model.pt2`` take images (N, H, W, 3) uint8 RGB of the network's size and answer with embeddings:
normalisation and neck are inside, and where embeddings are compared by cosine their unit length. What makes an image of
that size is in ``embed.py``, beside ``card.json``, which says what the model is. All are compared with the network on
images before any takes its place. Or, with ``--format torchreid``, the weights under the names of torchreid.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import itertools
import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import architectures
import checkpoints
import models
import tester
from config import Recipe, applies
from datasets import Sample, Splits
from embedder import comparison, threshold_file
from machine import files, fingerprint
from machine.progress import Progress
from machine.version import VERSION, commit
from rebuild import Loaded

TOLERANCE = 1e-4  # of an embedding's length, between a file and the network
CHECKED = 64  # images that a file is compared on
CALIBRATED = 128  # images that set the ranges of int8
OPSET = 20  # of ONNX: the sampling grid of HACNN is one operation


class Exported(nn.Module):
    """images (N, H, W, 3) uint8 RGB -> embeddings (N, D) float32, as they are compared."""

    def __init__(self, model: models.Model, recipe: Recipe, flip: bool):
        super().__init__()
        self.model, self.flip, self.unit = model, flip, recipe.metric == "cosine"
        self.mean: Tensor
        self.std: Tensor
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(recipe, name)).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        feature = self.model(x).embedding
        if self.flip:
            feature = (feature + self.model(x.flip(3)).embedding) / 2
        feature = self.model.compared(feature)
        return F.normalize(feature, dim=1) if self.unit else feature


class Job(NamedTuple):
    """What is exported: `loaded` from `weights`, tested as `tested` does; `samples`: images to compare the files on."""

    loaded: Loaded
    weights: Path
    tested: tester.Tester
    samples: Sequence[Sample]

    @property
    def network(self) -> Exported:
        """Of the CPU, in the plain memory format."""
        model = self.loaded.model.to("cpu").to(memory_format=torch.contiguous_format)
        return Exported(model, self.tested.recipe, self.tested.options.flip).eval()

    def compared(self, features: Tensor) -> Tensor:
        """Embeddings of a test as the files give them."""
        return F.normalize(features, dim=1) if self.tested.recipe.metric == "cosine" else features


def images_of(sets: Mapping[str, Splits]) -> list[Sample]:
    """Query images of the sets, of a tracklet its frames, each as a sample of its own; as many as are compared on."""
    found = (Sample(frame, 0, 0) for splits in sets.values() for sample in splits.query for frame in sample.frames)
    return list(itertools.islice(found, CHECKED))


def check_asked(kind: str, int8: bool, folder: bool, sets: bool) -> None:
    """ValueError, or RuntimeError for a missing package, if an export cannot be as asked: before anything is read.

    kind: --format; folder: images of --gallery_path are given; sets: data sets are.
    """
    if folder and (int8 or sets or kind == "torchreid"):
        what = "--quantize is measured on a data set" if int8 else "--format torchreid looks at no image"
        what = "the files are compared on images of one kind, those of the data set" if sets else what
        raise ValueError(f"{what}: leave out --gallery_path")
    if int8 and not sets:
        raise ValueError("--quantize int8 says what it costs on a data set: give one, such as --market_path DIR")
    if kind == "onnx":
        needed("onnx", "onnxruntime")


def needed(*names: str) -> None:
    """RuntimeError that says what to install if one of these packages is missing."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(
            f"--mode export needs {' and '.join(missing)}, which the suite itself does without: "
            f"python -m pip install {' '.join(missing)}"
        )


def write(job: Job, folder: Path, int8: bool, calibration: Sequence[Sample]) -> list[str]:
    """The folder of an export, all of it or nothing; returns lines on what was found and written.

    int8: model_int8.onnx too, whose ranges are those of the images `calibration`, with its loss of mAP on each set of
        the job. Raises ValueError where a file does not give the network's embeddings.
    """
    needed("onnx", "onnxruntime")
    lines = []
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export_", dir=folder) as made:
        new = Path(made)
        expected = job.tested.features(job.loaded.model, list(job.samples), "images to compare on")
        rows = job.compared(expected.embeddings)
        network = job.network
        pixels = torch.zeros((2, *job.tested.recipe.image_size, 3), dtype=torch.uint8)
        to_onnx(network, pixels, new / "model.onnx")
        (new / "card.json").write_text(json.dumps(card(job)), encoding="utf-8")
        shutil.copyfile(Path(__file__).with_name("exported") / "embed.py", new / "embed.py")
        embedder = loaded_embed(new).Embedder(new)
        paths = [frame for sample in expected.samples for frame in sample.frames]  # one each
        difference = relative(torch.from_numpy(embedder(paths)), rows)
        lines.append(f"{'model.onnx':<14}{told(difference, len(paths))}; {speeds(embedder, network, paths)}")
        check(difference, "model.onnx")
        alone = np.concatenate([embedder([path]) for path in paths[:3]])
        check(relative(torch.from_numpy(alone), rows[:3]), "model.onnx, one image at a time,")
        lines.append(pt2(network, pixels, new, embedder, paths, rows))
        cost = quantized(job, new, calibration, lines) if int8 else {}
        whole = card(job) | {"difference": difference, "images_compared": len(paths), **cost}
        whole["files"] = {
            path.name: fingerprint.of_file(path) for path in sorted(new.glob("*")) if path.name.startswith("model")
        }
        (new / "card.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        del embedder  # Windows moves no file that is open
        for path in sorted(new.iterdir()):
            os.replace(path, folder / path.name)
    return lines


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest distance between two rows, in lengths of the expected one."""
    return ((found - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-12)).max().item()


def told(difference: float, count: int) -> str:
    """In words."""
    return f"largest relative difference from the network {difference:.1e} on {count} images"


def check(difference: float, name: str) -> None:
    """ValueError where a file gives other embeddings than its network."""
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{name} differs from the network by {difference:.1e} of an embedding's length, and {TOLERANCE:g} is "
            "allowed: nothing is written. Report it with the recipe, or use embedder.py"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' own talk."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def to_onnx(network: Exported, pixels: Tensor, path: Path) -> None:
    """The network as ONNX, with a free number of images, by torch's exporter from a trace: its other one needs one more
    package and twenty times as long, and gives the same numbers. ValueError for a network that cannot be."""
    batch = {name: {0: "batch"} for name in ("images", "embeddings")}
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["embeddings"], "dynamic_axes": batch}
    try:
        with quiet(), torch.no_grad():
            torch.onnx.export(network, (pixels,), str(path), opset_version=OPSET, dynamo=False, **names)
    except Exception as error:  # of the exporter anything
        why = " ".join(str(error).split())[:160]
        raise ValueError(
            f"torch {torch.__version__} cannot write {type(network.model).__name__} as ONNX ({type(error).__name__}: "
            f"{why}): nothing is written; use embedder.py"
        ) from error


def pt2(network: Exported, pixels: Tensor, new: Path, embedder: Any, paths: Sequence[str], rows: Tensor) -> str:
    """Write model.pt2; returns a line on it, or why there is none: not every network can be had with a free batch."""
    size = {"images": {0: torch.export.Dim("batch", min=1, max=65536)}}
    reason = ""
    for strict in (False, True):  # some networks go through one of them alone
        try:
            with quiet(), torch.no_grad():
                program = torch.export.export(network, (pixels,), dynamic_shapes=size, strict=strict)
                torch.export.save(program, new / "model.pt2")
                again = torch.export.load(new / "model.pt2").module()
                images = torch.from_numpy(np.stack([embedder.pixels("", path) for path in paths]))
                found = (
                    torch.cat([again(part) for part in (images[:1], images[1:])]) if len(images) > 1 else again(images)
                )
        except Exception as error:  # of torch's compiler anything
            (new / "model.pt2").unlink(missing_ok=True)
            reason = " ".join(str(error).split())[:160]
            continue
        difference = relative(found, rows)
        check(difference, "model.pt2")
        return f"{'model.pt2':<14}{told(difference, len(paths))}"
    return (
        f"{'model.pt2':<14}is left out: torch.export cannot keep the number of images free for this network ({reason})"
    )


def loaded_embed(folder: Path) -> Any:
    """The module embed.py of a folder, as whoever receives it imports it."""
    spec = importlib.util.spec_from_file_location("exported_embed", folder / "embed.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def speeds(embedder: Any, network: Exported, paths: Sequence[str]) -> str:
    """Images per second of ONNX beside torch, in words; decoded images, batches of 32."""
    pixels = np.stack([embedder.pixels("", path) for path in paths[:32]])
    found = []
    with torch.inference_mode():
        for run in (lambda: embedder.run(pixels), lambda: network(torch.from_numpy(pixels))):
            run()
            began = time.perf_counter()
            run()
            found.append(len(pixels) / (time.perf_counter() - began))
    return f"{found[0]:.0f} images/s, torch {found[1]:.0f} ({torch.get_num_threads()} threads)"


# ---------------------------------------------------------------------------------------------------------------------
# The card
# ---------------------------------------------------------------------------------------------------------------------


def card(job: Job) -> dict[str, Any]:
    """What a person or a program has to know of the model, as plain values."""
    recipe, trained_on = job.tested.recipe, data_of(job.loaded) or "data that the weight file does not tell"
    sha = fingerprint.of_file(job.weights)
    return {
        "network": " ".join(
            dict.fromkeys((recipe.name, recipe.backbone if applies(recipe, "backbone") else ""))
        ).strip(),
        "title": recipe.title,
        "paper": recipe.paper,
        "input": "images (N, H, W, 3) uint8 RGB of image_size; embed.py resizes, normalisation is inside",
        "image_size": list(recipe.image_size),
        "interpolation": recipe.test_filter,
        "dim": job.loaded.model.embedding_dim,
        "metric": recipe.metric,
        "unit_length": recipe.metric == "cosine",
        "flip": job.tested.options.flip,
        "threshold": threshold(job, sha),
        "results": results(job.weights, sha),
        "trained_on": trained_on,
        "weights": job.weights.name,
        "weights_sha256": sha,
        "licence": f"The weights follow the terms of the images they were trained on ({trained_on}) and of who trained "
        "them; most re-ID data sets are offered for non-commercial research. embed.py is under the MIT licence.",
        "made_by": f"version {VERSION} {commit()}".strip(),
        "date": time.strftime("%Y-%m-%d"),
    }


def data_of(loaded: Loaded) -> str:
    """The sets that a network was trained on, where its weight file says so; else ""."""
    return "" if loaded.epoch is None else loaded.trained_on


def threshold(job: Job, sha: str) -> float | None:
    """The one that --details left beside the weights, if it is of them and of this comparison."""
    try:
        kept = json.loads(threshold_file(job.weights).read_text(encoding="utf-8"))
        same = kept["weights_sha256"] == sha and kept["compared"] == comparison(job.tested)
        return float(kept["threshold"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


SHOWN = ("mAP", "mINP", "rank1", "rank5", "rank10", "num_query", "num_gallery")


def results(weights: Path, sha: str) -> list[dict[str, Any]]:
    """What metrics*.json beside the weights say of these very weights, each with its data and how it was measured."""
    found = []
    for path in sorted(weights.parent.glob("metrics*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError, TypeError):
            for name, entry in json.loads(path.read_text(encoding="utf-8")).items():
                measured = entry["measured"]
                if measured["weights_sha256"] == sha:
                    how = {
                        key: measured[key] for key in ("protocol", "metric", "image_size", "data", "options", "date")
                    }
                    found.append({"set": name} | {key: entry[key] for key in SHOWN} | {"measured": how})
    return found


# ---------------------------------------------------------------------------------------------------------------------
# int8
# ---------------------------------------------------------------------------------------------------------------------


def quantized(job: Job, new: Path, calibration: Sequence[Sample], lines: list[str]) -> dict[str, Any]:
    """Write model_int8.onnx; returns what it costs, for the card, and adds that to `lines`."""
    from onnxruntime import quantization

    embed = loaded_embed(new)
    whole = embed.Embedder(new)
    frames = [sample.frames[0] for sample in calibration[:CALIBRATED]]

    class Images(quantization.CalibrationDataReader):
        """One image at a time."""

        def __init__(self):
            self.left = iter(frames)

        def get_next(self):
            path = next(self.left, None)
            return None if path is None else {"images": whole.pixels("", path)[None]}

    kinds = {"weight_type": quantization.QuantType.QInt8, "activation_type": quantization.QuantType.QUInt8}
    with quiet():
        quantization.shape_inference.quant_pre_process(
            new / "model.onnx", new / "shaped.onnx", skip_symbolic_shape=True
        )
        quantization.quantize_static(
            new / "shaped.onnx",
            new / "model_int8.onnx",
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # processors without VNNI add products of 8 bits in 16, which overflow
            **kinds,
        )
    (new / "shaped.onnx").unlink()
    small = embed.Embedder(new, "model_int8.onnx")
    sizes = [files.size_text((new / name).stat().st_size) for name in ("model.onnx", "model_int8.onnx")]
    cost = {}
    for name, splits in job.tested.splits.items():
        found = {}
        for kind, embedder in (("float32", whole), ("int8", small)):
            count = len(splits.query) + len(splits.gallery)
            with Progress(count, f"{name} in {kind}", shown=job.tested.options.progress) as progress:
                sides = [tester.Features(side, embedded(embedder, side, progress), None)
                         for side in (splits.query, splits.gallery)]  # fmt: skip
            query, gallery = sides
            found[kind] = job.tested.metrics(query, gallery, job.tested.labels(name, query, gallery))
        mAP, rank1 = ({kind: 100 * each[key] for kind, each in found.items()} for key in ("mAP", "rank1"))
        lines.append(
            f"{'int8':<14}{name}: mAP {mAP['int8']:.2f}, {mAP['int8'] - mAP['float32']:+.2f} against "
            f"{mAP['float32']:.2f} in float32 (rank-1 {rank1['int8']:.2f} against {rank1['float32']:.2f}); "
            f"{sizes[1]} instead of {sizes[0]}, ranges of {len(frames)} images"
        )
        cost[name] = {kind: {key: each[key] for key in ("mAP", "rank1")} for kind, each in found.items()}
    return {"int8": cost}


def embedded(embedder: Any, samples: Sequence[Sample], progress: Progress, step: int = 256) -> Tensor:
    """Embeddings (N, D) of `samples` by an exported model; `progress` is told of each."""
    rows = []
    for start in range(0, len(samples), step):
        rows.append(torch.from_numpy(embedder([sample.path for sample in samples[start : start + step]])))
        progress.update(len(rows[-1]))
    return torch.cat(rows)


# ---------------------------------------------------------------------------------------------------------------------
# torchreid's names
# ---------------------------------------------------------------------------------------------------------------------

SET_NAMES = {"market": "market1501", "duke": "dukemtmcreid"}  # in the names of torchreid's released files


def torchreid_key(loaded: Loaded) -> tuple[str, models.Model]:
    """torchreid's name of a network, and that network of `architectures.NETWORKS` with the weights in it.

    Names and shapes of all weights, and what it answers to an image, have to be the same; ValueError where torchreid
    has no such network: its loader would take what fits and say "successfully".
    """
    model = loaded.model.to("cpu").to(memory_format=torch.contiguous_format).eval()  # as the other will be, to the bit
    size = loaded.recipe.image_size
    state = model.state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    networks: dict[str, Any] = architectures.NETWORKS
    for key, make in networks.items():
        kind: Any = getattr(make, "func", make)
        asked: dict[str, Any] = getattr(make, "keywords", {})
        if type(model) is not kind or ("backbone" in asked and asked["backbone"] != loaded.recipe.backbone):
            continue
        more = {"image_size": size} if "image_size" in inspect.signature(kind).parameters else {}
        with torch.device("meta"):
            theirs = make(num_pids=model.num_pids, **more)
        if {name: tuple(value.shape) for name, value in theirs.state_dict().items()} != shapes:
            continue
        theirs = make(num_pids=model.num_pids, **more).eval()
        theirs.load_state_dict(state)
        with torch.inference_mode():
            if torch.equal(theirs(image).embedding, model(image).embedding):
                return key, theirs
    raise ValueError(
        f"--format torchreid: torchreid has no network that is recipe {loaded.recipe.name} with these options, and its "
        "loader would drop what it does not know without an error; export ONNX instead (leave out --format)"
    )


def write_torchreid(loaded: Loaded, folder: Path) -> list[str]:
    """``<network>_<training set>.pt`` in `folder`, which torchreid's ``load_pretrained_weights`` loads whole, and so
    boxmot and StrongSORT, which tell the network by the name of the file. Returns lines on it."""
    key, network = torchreid_key(loaded)
    state = OrderedDict((theirs(name), value) for name, value in network.state_dict().items())
    sets = [SET_NAMES.get(name, name) for name in data_of(loaded).split("+") if name]
    path = folder / f"{files.safe_name('_'.join([key, *sets]))}.pt"
    checkpoints.save(path, {"state_dict": state, "epoch": loaded.epoch or 0})
    again = {name: tensor for name, tensor in torch.load(path, weights_only=True)["state_dict"].items()}
    whole = all(torch.equal(again[theirs(name)], value) for name, value in loaded.model.state_dict().items())
    if not whole or len(again) != len(state):
        raise ValueError(f"{path} was not written as it is: the disk is damaged")
    height, width = loaded.recipe.image_size
    lines = [
        f"{'torchreid':<14}{path}: all {len(state)} tensors of its {key}, {network.num_pids} identities",
        f"{'':<14}to be tested at {height}x{width}, {loaded.recipe.metric} distance",
    ]
    if not network.num_pids:
        lines.append(f"{'':<14}without an identity classifier, which a test does not read; no embedding needs it")
    return lines


def theirs(name: str) -> str:
    """torchreid's name of a tensor of ours (f8cd150): trunks stand at the root, PCB's reduction is conv5."""
    name = name.removeprefix("base.")
    return f"conv5.layers.{name.removeprefix('reduction.0.')}" if name.startswith("reduction.0.") else name
