"""Losses, networks, metrics and re-ranking against values of the public code itself.

``public.json`` holds what the code that ``parity.csv`` names for each comparison gave when it was run, outside this
repository, on the inputs below (float64 unless the line says otherwise). Of a loss: its value, then of each gradient
its norm and a weighted sum. A new comparison is a function here, its values there, and a line of ``parity.csv``.
"""

import json
from collections.abc import Callable
from pathlib import Path

import parity
import pytest
import torch
from nets import drawn, filled

import clustering
import evaluate
import losses
import protocols
import rerank
import video
from loading.views import Views
from models import Output
from papers import caj, cal, clip_reid, cluster_contrast, light_mbn
from recipes import RECIPES

VALUES = json.loads(Path(__file__).with_name("public.json").read_text(encoding="utf-8"))
RELEASED, FEATURES = VALUES.get("values", {}), VALUES.get("features", {})
OURS: dict[str, Callable[[], list]] = {}


def numbers(*shape: int, phase: int, scale: float = 1.0, grad: bool = False) -> torch.Tensor:
    """The same everywhere: of `nets.drawn`, times `scale`."""
    count = int(torch.tensor(shape).prod())
    return (scale * drawn(count, phase)).view(shape).requires_grad_(grad)


def feats(phase: int = 1, scale: float = 4.0) -> torch.Tensor:
    """Features of twelve images of four identities."""
    return numbers(12, 16, phase=phase, scale=scale, grad=True)


def logits(phase: int = 2) -> torch.Tensor:
    return numbers(12, 5, phase=phase, scale=6.0, grad=True)


def parts(phase: int = 3) -> torch.Tensor:
    return numbers(12, 5, 8, phase=phase, grad=True)


LABELS = torch.arange(4).repeat_interleave(3)


def told(loss: torch.Tensor, *inputs: torch.Tensor) -> list[float]:
    """A loss and its gradients in a few numbers."""
    found = [float(loss.detach())]
    for gradient in torch.autograd.grad(loss, inputs):
        flat = gradient.double().flatten()
        found += [float(flat.norm()), float(flat @ drawn(len(flat), 9))]
    return found


def output(feat=None, logit=None, part=None) -> Output:
    first = feat if feat is not None else torch.zeros(12, 1)
    listed = [() if each is None else each if isinstance(each, tuple) else (each,) for each in (logit, feat)]
    return Output(first[0] if isinstance(first, tuple) else first, *listed, part)


def comparison(name: str):
    """Register a function that answers with our values of the comparison `name`."""

    def register(function):
        OURS[name] = function
        return function

    return register


# ---------------------------------------------------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------------------------------------------------


@comparison("triplet")
def triplet():
    x = feats()
    return [
        value
        for loss in (losses.TripletLoss(0.3), losses.TripletLoss(None), losses.TripletLoss(0.3, normalize=True))
        for value in told(loss(output(x), LABELS), x)
    ]


@comparison("triplet of torchreid")
def triplet_of_torchreid():
    x = feats()
    return told(losses.TripletLoss(0.3)(output(x), LABELS), x)


@comparison("triplet of Pyramid")
def triplet_of_pyramid():
    x = feats()
    return told(losses.TripletLoss(1.4)(output(x), LABELS), x)


@comparison("harder examples")
def harder_examples():
    x = feats()
    return told(losses.TripletLoss(0.3, hard_factor=0.2)(output(x), LABELS), x)


@comparison("label smoothing")
def label_smoothing():
    x = logits()
    return told(losses.IDLoss(0.1)(output(logit=x), LABELS), x)


@comparison("label smoothing of fast-reid")
def label_smoothing_of_fast_reid():
    """Its epsilon is ours with epsilon N / (N - 1)."""
    x = logits()
    return told(losses.IDLoss(0.1 * 5 / 4)(output(logit=x), LABELS), x)


@comparison("center loss")
def center_loss():
    """With the step of the centers: weight 5e-4, rate 0.5."""
    x, loss = feats(), losses.CenterLoss(4, 16, sgd_lr=0.5).double()
    with torch.no_grad():
        loss.centers.copy_(numbers(4, 16, phase=6))
    found = told(loss(output(x), LABELS), x, loss.centers)
    (5e-4 * loss(output(x), LABELS)).backward()
    torch.optim.SGD(loss.parameters(), lr=loss.sgd_lr / 5e-4).step()
    return [*found, *loss.centers.detach().flatten()[:6].tolist()]


def classified(loss: losses.CosineClassifier) -> list[float]:
    """The value and gradients of a margin softmax with weights of this file."""
    x, loss = feats(), loss.double()
    with torch.no_grad():
        loss.weight.copy_(numbers(5, 16, phase=7))
    return told(loss(Output(x, (), (), None), LABELS), x, loss.weight)


@comparison("ArcFace of Tiny")
def arcface():
    return classified(losses.ArcFace(16, 5, label_smoothing=0.1))


@comparison("cosine margins of fast-reid")
def cosine_margins():
    """CosSoftmax and CircleSoftmax, without smoothing."""
    return [*classified(losses.CosFace(16, 5, 30.0, 0.35)), *classified(losses.CircleSoftmax(16, 5, 64.0, 0.35))]


@comparison("pairwise circle loss of fast-reid")
def pairwise_circle():
    x = feats()
    return told(losses.CircleLoss(0.25, 128.0)(output(x), LABELS), x)


@comparison("multi-similarity of LightMBN")
def multi_similarity():
    x = feats()
    return [value for m in (0.7, 0.1) for value in told(light_mbn.MultiSimilarity(m)(output(x), LABELS), x)]


@comparison("squared difference of CAJ")
def squared_difference():
    x, settings = feats(), ((1.0, 1.0), (2.0, 0.5))
    return [value for each in settings for value in told(caj.SquaredDifference(*each)(output(x), LABELS), x)]


@comparison("AlignedReID's losses")
def aligned():
    """The global one; the local one with hard samples by the global distance, and by its own."""
    x, y = feats(), parts()
    found = told(losses.TripletLoss(0.3)(output(x), LABELS), x)
    for mine in ("global", "local"):
        found += told(losses.AlignedTriplet(0.3, mine=mine)(output(x, part=y), LABELS), y)
    return found


@comparison("AlignedReID++'s losses")
def aligned_plus():
    x, y = feats(), parts()
    local = losses.AlignedTriplet(0.3, normalize_parts=True)(output(x, part=y), LABELS)
    return [*told(losses.TripletLoss(0.3)(output(x), LABELS), x), *told(local, y)]


@comparison("AlignedReID's mutual losses")
def mutual():
    """Of both networks: probabilities, and global distances."""
    a, b, x, y = logits(), logits(4), feats(), feats(5)
    kl = losses.MutualKL()(output((x, y), (a, b)), LABELS)
    return [*told(kl, a, b), *told(losses.MutualDistance()(output((x, y)), LABELS), x, y)]


CLOTHES = torch.tensor([0, 1, 0, 2, 3, 4, 5, 5, 5, 6, 7, 7])  # worn in the twelve images
WEARERS = (0, 0, 1, 1, 1, 2, 3, 3)


@comparison("CAL's losses")
def cal_losses():
    """What the clothes classifier learns by, its weights after a step of Adam, and what the network learns by then."""
    x, loss = feats(), cal.ClothesAdversary(WEARERS, 16).double()
    with torch.no_grad():
        loss.weight.copy_(numbers(8, 16, phase=7))
    views = Views(torch.zeros(12, dtype=torch.int64), clothes=CLOTHES)
    found = told(loss.ahead(output(x.detach()), LABELS, views), loss.weight)
    loss.ahead(output(x.detach()), LABELS, views).backward()
    loss.own_optimizer(1.0).step()
    return [*found, *loss.weight.detach().flatten()[:6].tolist(), *told(loss(output(x), LABELS, views), x)]


@comparison("clips of CAL")
def cal_clips():
    """In training, of the last maps of the frames of four clips: what the losses read, and the gradient of its sum."""
    with torch.device("meta"):
        model = RECIPES["cal_video"].model(0)
    model.base = torch.nn.Identity()
    model = filled(model.to_empty(device="cpu")).double().train()
    maps = numbers(4, 3, 2048, 4, 2, phase=12, scale=2.0, grad=True)  # clips, frames
    feature = video.Tracklet(model)(maps).feats[0]
    return [*few([feature]), *told((feature * numbers(4, 2048, phase=13)).sum(), maps)]


class Sentences(torch.nn.Module):
    """The prompts of five identities and a text tower of two blocks, under CLIP-ReID's own names."""

    def __init__(self):
        super().__init__()
        self.prompt_learner = clip_reid.PromptLearner(5, width=64)
        self.text_encoder = clip_reid.TextEncoder(width=64, depth=2, dim=48)

    def forward(self, labels):
        return self.text_encoder(self.prompt_learner(labels))


NAMED = torch.tensor([0, 0, 1, 2, 2, 4, 4, 4])


@comparison("texts of CLIP-ReID")
def texts():
    found = filled(Sentences())(NAMED).detach().double()
    norm = found.norm()  # the sum in its units: it is small, and rounding has the size of what is added up
    return [*found[[0, 2, 5]].flatten()[:12].tolist(), float(norm), float(found.flatten() @ drawn(8 * 48, 9) / norm)]


@comparison("first stage of CLIP-ReID")
def first_stage():
    """The loss, its gradients by images and context vectors, and these after a step of Adam."""
    model, images = filled(Sentences()), numbers(8, 48, phase=31).float().requires_grad_()
    context = model.prompt_learner.cls_ctx
    loss = clip_reid.PromptContrast()(output((images, model(NAMED))), NAMED)
    found, before = told(loss, images, context), context.detach().clone()
    loss = clip_reid.PromptContrast()(output((images.detach(), model(NAMED))), NAMED)
    loss.backward()
    torch.optim.Adam([context], lr=3.5e-4, weight_decay=1e-4).step()
    moved = (context.detach() - before).double().flatten()
    found += [float(moved.norm()), float(moved @ drawn(len(moved), 9))]
    return [*found, *context.detach().flatten()[:6].tolist()]


@comparison("image-to-text loss of CLIP-ReID")
def image_to_text():
    images, loss = numbers(8, 48, phase=33).float().requires_grad_(), clip_reid.ImageToText(0.1)
    loss.begin_epoch(filled(Sentences())(torch.arange(5)).detach(), NAMED)
    return told(loss(output(images), NAMED), images)


# ---------------------------------------------------------------------------------------------------------------------
# Metrics and re-ranking
# ---------------------------------------------------------------------------------------------------------------------

DISTANCES = numbers(8, 40, phase=11) + 0.5
QUERY, GALLERY = torch.arange(8) % 5, torch.arange(40) % 7
QUERY_CAMERAS, GALLERY_CAMERAS = torch.arange(8) % 3, torch.arange(40) % 4
LIGHTS = torch.tensor([3, 6] * 4), torch.tensor([1, 2, 4, 5] * 10)  # of SYSU-MM01's queries and gallery


def measured(protocol: str, cameras=(QUERY_CAMERAS, GALLERY_CAMERAS)) -> list[float]:
    """mAP, mINP and ranks 1 to 20."""
    found = evaluate.rank_metrics(DISTANCES, QUERY, GALLERY, *cameras, max_rank=20, protocol=protocol)
    return [found.mAP, found.mINP, *found.cmc.tolist()]


@comparison("CMC and mAP of torchreid")
def market():
    mAP, _, *cmc = measured("market1501")
    return [mAP, *cmc]


@comparison("CMC, mAP and mINP of fast-reid")
def market_of_fast_reid():
    return measured("market1501")


@comparison("CMC, mAP and mINP of SYSU-MM01")
def sysu():
    return measured("sysu", LIGHTS)[: 2 + 7]  # seven identities in the gallery


@comparison("CMC, mAP and mINP of RegDB")
def regdb():
    return measured("market1501", (torch.ones(8, dtype=torch.int64), torch.full((40,), 2)))


@comparison("CMC and mAP of Simple-CCReID")
def clothes_changing():
    worn = torch.arange(8) // 3 % 2, torch.arange(40) // 5 % 3
    found = []
    for protocol in ("changed_clothes", "same_clothes", "market1501"):
        labels = protocols.Labels(QUERY, GALLERY, QUERY_CAMERAS, GALLERY_CAMERAS, protocol).wearing(worn)
        measured = evaluate.summarize(evaluate.rank_blocks([(0, 8, DISTANCES)], labels), 20)
        found += [measured.mAP, *measured.cmc.tolist()]
    return found


@comparison("CMC, mAP and mINP of LLCM")
def llcm():
    """Infrared images of cameras 1 to 3 ask for visible ones of cameras 1 to 4."""
    return measured("llcm", (QUERY_CAMERAS + 11, GALLERY_CAMERAS + 1))[: 2 + 7]


def points() -> tuple[torch.Tensor, torch.Tensor]:
    """Features of nine queries and of 51 gallery images around twelve places, float32."""
    places = numbers(12, 10, phase=21, scale=3.0)
    every = places.repeat(5, 1) + numbers(60, 10, phase=22, scale=1.5)
    return every[:9].float(), every[9:].float()


@comparison("re-ranking of features")
def features():
    found = rerank.k_reciprocal(*points(), k1=20, k2=6, lambda_value=0.3).double()
    return [*found[:, 7].tolist(), *found[3, :9].tolist(), float(found.flatten() @ drawn(found.numel(), 23))]


@comparison("re-ranking of distances")
def distances():
    """Of any distances, other parameters, no query expansion."""
    q, g = (torch.nn.functional.normalize(x, dim=1) for x in points())
    d = [torch.cdist(a, b) for a, b in ((q, g), (q, q), (g, g))]
    found = rerank.k_reciprocal_from_distances(*d, k1=8, k2=1, lambda_value=0.1).double()
    return [*found[:, 7].tolist(), *found[3, :9].tolist(), float(found.flatten() @ drawn(found.numel(), 23))]


@comparison("clusters of Cluster Contrast")
def clusters():
    """Labels by DBSCAN (0.5, 3) of Jaccard distances (8, 4), and what is at most 0.9 of them."""
    x = torch.nn.functional.normalize(torch.cat(points()))
    labels = clustering.dbscan(rerank.jaccard_neighbours(x, 8, 4, 0.5), 3)
    near = rerank.jaccard_neighbours(x, 8, 4, 0.9)
    found = torch.zeros(60, 60, dtype=torch.float64)
    found[torch.arange(60).repeat_interleave(near.start.diff()), near.col] = near.value.double()
    return [*labels.tolist(), *found[:, 7].tolist(), float(found.flatten() @ drawn(3600, 23))]


@comparison("memory of Cluster Contrast")
def memory():
    """Loss, gradient and the memory after it, of all images in turn and of the hardest."""
    values = []
    for hard in (False, True):
        x, loss = feats(), cluster_contrast.ClusterMemory(16, memory_hard=hard).double()
        loss.memory = torch.nn.functional.normalize(numbers(4, 16, phase=31))
        values += [*told(loss(output(x), LABELS), x), *loss.memory.flatten().tolist()]
    return values


# ---------------------------------------------------------------------------------------------------------------------


NETWORKS = {  # row -> size of the image; the others are compared outside the repository, see docs/parity.md
    "osnet_x0_25": (64, 32),
    "osnet_ibn_x1_0": (64, 32),
    "osnet_ain_x0_25": (64, 32),
    "hacnn": (160, 64),
    "mobilenetv2_x1_0": (64, 32),
    "shufflenet": (64, 32),
    "nasnsetmobile": (64, 32),
    "light_mbn": (96, 32),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_features_of_the_public_network(name):
    """Of weights that our names decide (`nets.filled`), which the public class got under its own: the first numbers of
    the embedding over its largest.

    In float64: under these weights MobileNetV2 makes 6e-2 of float32's rounding, which is another on each processor.
    """
    image = numbers(2, 3, *NETWORKS[name], phase=7)
    with torch.no_grad():
        found = filled(RECIPES[name].model(5)).double()(image).embedding
    found = (found / found.abs().max()).float()
    largest = parity.largest(__file__, f"test_features_of_the_public_network[{name}]")
    torch.testing.assert_close(found[:, :8].flatten(), torch.tensor(FEATURES[name]), rtol=0, atol=largest)


HEADS = ("pyramid", "pcb", "pcb_independent", "aligned", "aligned_pp", "cal", "cal_video")


def few(tensors) -> list[float]:
    """Of each tensor its norm, a weighted sum and the first numbers."""
    flat = [tensor.detach().double().flatten() for tensor in tensors]
    return [number for x in flat for number in (float(x.norm()), float(x @ drawn(len(x), 9)), *x[:3].tolist())]


def head_map() -> torch.Tensor:
    """A last map of a ResNet-50 or -101, 24 x 8 as of images of 384 x 128 with stride 1."""
    return numbers(2, 2048, 24, 8, phase=8, scale=2.0).float().clamp(min=0)


def head_output(name: str) -> list[float]:
    """What everything behind the trunk of a row makes of that map: features and parts, as a test compares them."""
    with torch.device("meta"):
        model = RECIPES[name].model(0)
    model.base = torch.nn.Identity()
    model = filled(model.to_empty(device="cpu"))
    with torch.no_grad():
        found = model(head_map())
    feature = found.embedding if name == "pcb" else torch.cat(found.feats or [found.embedding], dim=1)
    return few([feature, *([] if found.parts is None else [found.parts])])


@pytest.mark.parametrize("name", HEADS)
def test_head_of_the_public_network(name):
    """As `test_features_of_the_public_network`, of the layers behind the trunk."""
    ours, largest = head_output(name), parity.largest(__file__, f"test_head_of_the_public_network[{name}]")
    assert len(ours) == len(VALUES["heads"][name])
    for mine, theirs in zip(ours, VALUES["heads"][name], strict=True):
        assert mine == pytest.approx(theirs, rel=largest, abs=largest)


def test_every_comparison_has_its_values():
    assert OURS.keys() == RELEASED.keys() and NETWORKS.keys() == FEATURES.keys()


@pytest.mark.parametrize("name", OURS)
def test_values_of_the_public_code(name):
    ours, released = OURS[name](), RELEASED[name]
    largest = parity.largest(__file__, f"test_values_of_the_public_code[{name}]")
    assert len(ours) == len(released)
    for mine, theirs in zip(ours, released, strict=True):
        assert mine == pytest.approx(theirs, rel=largest, abs=largest)
