"""Colour and infrared: balanced batches, the two stems, and the built-in set with infrared cameras, end to end."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
import trees
from PIL import Image

import datasets
import evaluate
import loaders
import losses
import main
import models
import train
from loading.samplers import balanced_batches
from loading.views import Views
from synthetic import sets
from weights import importing

# batches ----------------------------------------------------------------------------------------------------------


def people(seed=0, num=9):
    """(labels, groups): 1 to 9 colour and 1 to 6 infrared images of each person, in a random order."""
    rng = np.random.default_rng(seed)
    pairs = [(pid, group) for pid in range(num) for group in (0, 1) for _ in range(rng.integers(1, (10, 7)[group]))]
    labels, groups = np.array(pairs)[rng.permutation(len(pairs))].T
    return labels, groups


@pytest.mark.parametrize("p, k", [(4, 2), (3, 4), (9, 1)])
def test_every_batch_has_p_people_with_k_images_of_each_light(p, k):
    labels, groups = people()
    batches = balanced_batches(labels, groups, p, k, seed=1, epoch=2, steps=30)
    assert batches.shape == (30, 2 * p * k)
    for batch in batches.numpy():
        rows = batch.reshape(p, 2, k)
        assert all(len(set(labels[row].ravel())) == 1 for row in rows) and len(set(labels[rows[:, 0, 0]])) == p
        assert (groups[rows[:, 0]] == 0).all() and (groups[rows[:, 1]] == 1).all()
        for i, row in enumerate(rows.reshape(-1, k)):  # an image comes twice only if there are fewer than k
            has = np.sum((labels == labels[row[0]]) & (groups == i % 2))
            assert len(set(row)) == min(k, has)
    seen = Counter(labels[batches.numpy()].ravel())
    assert max(seen.values()) - min(seen.values()) <= 2 * k


def test_balanced_batches_are_a_function_of_seed_and_epoch():
    labels, groups = people()
    first = balanced_batches(labels, groups, 4, 2, 1, 0, 5)
    assert torch.equal(first, balanced_batches(torch.tensor(labels), groups.tolist(), 4, 2, 1, 0, 5))
    assert not torch.equal(first, balanced_batches(labels, groups, 4, 2, 1, 1, 5))
    assert not torch.equal(first, balanced_batches(labels, groups, 4, 2, 2, 0, 5))


def test_the_number_of_batches_is_that_of_the_released_sampler():
    """utils.py: int(N / (P K)) + 1 with N images of the larger modality; SYSU-MM01: 22,258 + 11,909, P = 8, K = 4."""
    groups = np.repeat([0, 1], [22_258, 11_909])
    labels = np.concatenate([np.arange(22_258) % 395, np.arange(11_909) % 395])
    assert len(balanced_batches(labels, groups, 8, 4, 0, 0)) == 22_258 // 32 + 1 == 696


def test_a_person_of_one_light_is_not_drawn():
    labels, groups = [0, 0, 1, 1, 2, 2, 2], [0, 1, 0, 1, 0, 0, 0]
    drawn = balanced_batches(labels, groups, 2, 1, 0, 0, 20)
    assert set(drawn.flatten().tolist()) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="has 2 of 3: lower --p"):
        balanced_batches(labels, groups, 3, 1, 0, 0)
    with pytest.raises(ValueError, match="both colour and infrared"):
        balanced_batches([0, 0, 1, 1], [0, 0, 0, 0], 2, 1, 0, 0)


# the network ------------------------------------------------------------------------------------------------------


def two_streams(**options) -> models.TwoStreamAGW:
    torch.manual_seed(0)
    return models.TwoStreamAGW(**({"num_pids": 5, "backbone": "resnet18", "non_local": (0, 1, 1, 0)} | options))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(5, 3, 64, 32, generator=torch.Generator().manual_seed(0))


VIEWS = Views(torch.tensor([3, 1, 2, 6, 5]), torch.tensor([True, False, False, True, False]))
INFRARED = torch.tensor([0, 3])


def plain_twin(model, stem) -> models.AGW:
    """AGW with the trunk of `model` and one of its stems."""
    twin = models.AGW(num_pids=5, backbone="resnet18", non_local=(0, 1, 1, 0))
    state = model.state_dict()
    for name in [name for name in state if name.startswith("base.infrared.")]:
        infrared = state.pop(name)
        if stem == "infrared":
            state[name.replace("infrared.", "")] = infrared
    twin.load_state_dict(state)
    twin.global_pool = model.global_pool
    return twin.eval()


def test_each_light_goes_through_its_own_stem_and_one_trunk(images):
    model = two_streams().eval()
    torch.nn.init.normal_(model.base.infrared.conv1.weight, std=0.1)
    with torch.no_grad():
        found = model(images, VIEWS).embedding
        colour, infrared = (plain_twin(model, stem)(images).embedding for stem in ("colour", "infrared"))
        expected = torch.where(VIEWS.infrared[:, None], infrared, colour)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(images).embedding, colour, atol=1e-5, rtol=1e-5)
        first = model(images[:1], VIEWS.each(lambda field: field[:1])).embedding
        torch.testing.assert_close(first, infrared[:1], atol=1e-5, rtol=1e-5)
    assert (colour - infrared).abs().max() > 0.1


def test_both_stems_start_alike_and_part_in_training(images):
    model = two_streams().train()
    assert torch.equal(model.base.conv1.weight, model.base.infrared.conv1.weight)
    assert model.base.conv1.weight is not model.base.infrared.conv1.weight
    output = model(images, VIEWS)
    (output.logits[0].logsumexp(dim=1).sum() + output.feats[0].square().sum()).backward()
    assert not torch.equal(model.base.conv1.weight.grad, model.base.infrared.conv1.weight.grad)
    for stem, rows in ((model.base, (~VIEWS.infrared).nonzero()[:, 0]), (model.base.infrared, INFRARED)):
        mean = two_streams().base.conv1(images[rows]).mean(dim=(0, 2, 3))  # batch norm saw its own light alone
        torch.testing.assert_close(stem.bn1.running_mean, 0.1 * mean, atol=1e-5, rtol=1e-4)
    assert not model.global_pool.p.requires_grad and float(model.global_pool.p.detach()) == 3.0


def test_released_names_are_understood(images, tmp_path):
    """embed_net of Cross-Modal-Re-ID-baseline holds three whole networks; `net` is its key in the file."""
    source = two_streams().eval()
    torch.nn.init.normal_(source.base.infrared.conv1.weight, std=0.1)
    net = {}
    for name, tensor in source.state_dict().items():
        if name == "global_pool.p":
            continue
        stem, inner = name.startswith("base.infrared."), name.removeprefix("base.").removeprefix("infrared.")
        if inner.startswith(("conv1.", "bn1.")):
            inner = f"thermal_module.thermal.{inner}" if stem else f"visible_module.visible.{inner}"
        elif inner.startswith("layer"):
            net[f"visible_module.visible.{inner}"] = net[f"thermal_module.thermal.{inner}"] = torch.zeros(1)  # unused
            inner = f"base_resnet.base.{inner}"
        net[inner.replace(".g.", ".g.0.")] = tensor
    net["base_resnet.base.conv1.weight"] = net["base_resnet.base.bn1.weight"] = torch.zeros(1)
    torch.save({"net": net, "epoch": 3}, tmp_path / "sysu_best.t")
    model = two_streams()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.2)
    report = importing.import_weights(model, tmp_path / "sysu_best.t")
    assert not report.missing, report
    with torch.no_grad():
        assert torch.equal(model.eval()(images, VIEWS).embedding, source(images, VIEWS).embedding)


def test_weights_of_a_plain_network_start_both_stems(tmp_path):
    model, plain = two_streams(), two_streams().base.state_dict()
    plain = {
        name: torch.randn(t.shape) if t.is_floating_point() else t
        for name, t in plain.items()
        if not name.startswith(("infrared.", "NL_"))
    }
    torch.save(plain, tmp_path / "resnet.pth")
    importing.import_weights(model, tmp_path / "resnet.pth", start=True)
    for stem in (model.base, model.base.infrared):
        assert torch.equal(stem.conv1.weight, plain["conv1.weight"])
        assert torch.equal(stem.bn1.running_var, plain["bn1.running_var"])
    assert torch.equal(model.base.layer2[0].conv1.weight, plain["layer2.0.conv1.weight"])


# the loader -------------------------------------------------------------------------------------------------------

SIZES = {"num_train_pids": 8, "num_val_pids": 2, "num_test_pids": 8, "per_camera": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("infrared") / "set"
    return sets.INFRARED.make(root, processes=1, progress=False, **SIZES)


@pytest.fixture(scope="module")
def splits(folder):
    return datasets.load_splits("sysu", folder)


def train_loader(splits, **options) -> loaders.TrainLoader:
    data = datasets.combine([splits])
    defaults = {"image_size": (64, 32), "p": 5, "k": 2, "pad": 2, "erase": 0.0, "progress": False}
    return trees.train_loader(
        data.samples, data.labels, camids=data.cameras, infrared=data.infrared, **(defaults | options)
    )


def test_the_loader_balances_and_signs_infrared_cameras(splits):
    loader = train_loader(splits, steps=4)
    assert loader.batch_size == 20 and "5 identities x 2 images of each light" in loader.description
    for images, labels, views in loader.epoch(0):
        assert len(images) == 20 and Counter(views.infrared.tolist()) == {True: 10, False: 10}
        assert set(views.camera[views.infrared].tolist()) <= {2, 5} and set(Counter(labels.tolist()).values()) == {4}
    tests = trees.eval_loader(splits.query, image_size=(64, 32), infrared=splits.infrared, progress=False)
    assert all(views.infrared.all() for _, views in tests)
    tests = trees.eval_loader(splits.gallery, image_size=(64, 32), infrared=splits.infrared, progress=False)
    assert torch.cat([views.camera for _, views in tests]).tolist() == [sample.camid for sample in splits.gallery]


def test_without_infrared_cameras_camids_stay(splits):
    loader = train_loader(splits, steps=2)
    plain = trees.train_loader(splits.train, loader.labels, image_size=(64, 32), batch_size=8, progress=False)
    assert all(views.infrared is None for _, _, views in plain.epoch(0))


# the built-in set -------------------------------------------------------------------------------------------------


def test_the_built_in_set_is_read_as_planned(splits):
    assert [splits.count(subset) for subset in ("train", "query", "gallery")] == [
        (10, 10 * 6 * 2, 6),
        (8, 8 * 2 * 2, 2),
        (8, 8 * 4, 4),
    ]
    assert splits.protocol == "sysu" and splits.infrared == {3, 6} == set(sets.INFRARED_CAMERAS)


def test_infrared_pictures_are_grey_and_show_dark_cloth_bright(splits):
    for sample in splits.train[::5]:
        pixels = np.asarray(Image.open(sample.path), np.int16)
        assert (np.ptp(pixels, axis=2).max() <= 4) == (sample.camid in splits.infrared)
    black, white = np.zeros((4, 4, 3), np.float32), np.ones((4, 4, 3), np.float32)
    assert sets.infrared(black).min() > sets.infrared(white).max() + 0.2


def test_a_picture_depends_on_its_own_numbers_alone(folder, tmp_path):
    sizes = SIZES | {"num_train_pids": 2, "num_val_pids": 1, "num_test_pids": 1}
    other = sets.INFRARED.make(tmp_path / "set", processes=2, progress=False, **sizes)
    names = [path.relative_to(other) for path in other.rglob("*.jpg")]
    assert len(names) == 4 * 6 * 2 and all((folder / n).read_bytes() == (other / n).read_bytes() for n in names)
    assert sets.INFRARED.ensure(other, progress=False, **sizes) == other


def test_rgbir_through_the_command_line(folder, tmp_path):
    words = ["--sysu_path", str(folder), "--output_path", str(tmp_path)]
    small = "--backbone resnet18 --pretrained none --image_size 64 32 --epochs 1 --steps 2 --p 4 --k 2".split()
    small += "--num_queries 2 --amp none".split()
    assert main.main(["--mode", "train", "--recipe", "agw_rgbir", *words, *small]) == 0
    assert main.main(["--mode", "test", "--weights", str(tmp_path / "model.pt"), *words]) == 0
    first, again = (
        json.loads((tmp_path / name).read_text())["sysu"] for name in ("metrics.json", "metrics_model.json")
    )
    assert again["mAP"] == pytest.approx(first["mAP"], abs=1e-6) and again["num_query"] == 32


def test_rgbir_trains_and_tests_end_to_end(splits):
    """Balanced batches, cross-entropy and weighted triplet; new people are found from infrared in colour."""
    torch.manual_seed(0)
    num_pids = datasets.combine([splits]).num_pids
    loader, model = train_loader(splits, steps=8), two_streams(num_pids=num_pids)

    def mean_ap():
        tests = [
            trees.eval_loader(
                part, image_size=(64, 32), batch_size=32, infrared=splits.infrared, cache="ram", progress=False
            )
            for part in (splits.query, splits.gallery)
        ]
        features = [evaluate.extract(model, each)[0] for each in tests]
        pids, camids = ([[getattr(s, of) for s in each.samples] for each in tests] for of in ("pid", "camid"))
        return evaluate.evaluate_features(*features, *pids, *camids, metric="cosine", protocol=splits.protocol).mAP

    before = mean_ap()
    criterion = losses.Criterion(id=(1, losses.IDLoss(0.0)), triplet=(1, losses.WeightedRegularizedTriplet()))
    optimizer, means = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True), []
    for epoch in range(3):
        model.train()
        means.append(
            train.train_one_epoch(
                model, criterion, loader.epoch(epoch), [optimizer], train.Span(epoch, loader.steps(epoch))
            )["loss"]
        )
    assert means[0] > means[1] > means[2] and means[2] < 0.7 * means[0]
    assert mean_ap() > before + 0.05
