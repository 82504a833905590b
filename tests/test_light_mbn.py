"""LightMBN: its drop block and its loss against slow versions, its parts at length 1."""

import pytest
import torch
import torch.nn.functional as F

import evaluate
import export
import models
from loading import augmentation
from loading.views import Views
from papers import light_mbn
from recipes import RECIPES


def small(**fields):
    return RECIPES["light_mbn"].with_(
        **{"backbone": "osnet_x0_25", "image_size": (64, 32), "pretrained": "none"} | fields
    )


def slow_multi_similarity(feats, labels, margin, alpha=2.0, beta=40.0, threshold=0.5):
    """Anchor by anchor, pair by pair: Eq. (11), (12) and (15) of Wang et al., CVPR 2019."""
    x, total, n = F.normalize(feats, dim=1), 0.0, len(feats)
    for i in range(n):
        all_positive = [float(x[i] @ x[k]) for k in range(n) if labels[k] == labels[i]]
        all_positive = [s for s in all_positive if s < 1 - 1e-5]
        all_negative = [float(x[i] @ x[k]) for k in range(n) if labels[k] != labels[i]]
        if not all_positive:
            continue
        negative = [s for s in all_negative if s > min(all_positive) - margin]
        positive = [s for s in all_positive if s < max(all_negative) + margin]
        if positive and negative:
            pull, push = (torch.tensor(each, dtype=torch.float64) - threshold for each in (positive, negative))
            total += (1 + (-alpha * pull).exp().sum()).log() / alpha + (1 + (beta * push).exp().sum()).log() / beta
    return float(total) / n


@pytest.mark.parametrize("margin", [0.7, 0.1, 0.0])
def test_multi_similarity_is_that_of_single_pairs(margin):
    torch.manual_seed(0)
    skipped = 0
    for _ in range(20):
        centres = torch.randn(3, 6, dtype=torch.float64)
        feats, labels = centres.repeat_interleave(4, 0), torch.arange(3).repeat_interleave(4)
        feats = feats + 0.4 * torch.randn_like(feats)
        feats[1] = feats[0]  # one image twice
        ours = light_mbn.multi_similarity(feats, labels, margin)
        assert float(ours) == pytest.approx(slow_multi_similarity(feats, labels, margin), abs=1e-12)
        skipped += float(ours) < float(light_mbn.multi_similarity(feats, labels, 2.0))
    assert skipped or margin == 0.7, "the margin never left a pair out"


def test_an_anchor_without_another_image_is_left_out():
    """All images of an identity are one: the released code takes the minimum of nothing there."""
    feats = torch.eye(4).repeat_interleave(2, 0).requires_grad_()
    loss = light_mbn.MultiSimilarity(0.7)(models.Output(feats, (), (feats,)), torch.arange(4).repeat_interleave(2))
    loss.backward()
    assert float(loss.detach()) == 0 and not feats.grad.any()


def slow_drop(feature_map, ratio):
    """Image by image, as attention.py of LightMBN 1f4ec0d has it."""
    result = feature_map.clone()
    for image in result:
        strength = image.square().sum(0)  # (h, w)
        rows = sorted(range(len(strength)), key=lambda y: float(strength[y].max()))
        for y in rows[-round(ratio * len(rows)) :]:
            image[:, y] = 0
    return result


def test_the_strongest_rows_are_dropped_and_only_in_training():
    torch.manual_seed(0)
    maps = torch.randn(5, 6, 24, 8, requires_grad=True)
    dropped = light_mbn.drop_top(maps, 0.33)
    assert torch.equal(dropped, slow_drop(maps.detach(), 0.33))
    assert (dropped.detach().abs().sum((1, 3)) == 0).sum(1).tolist() == [8] * 5
    dropped.sum().backward()
    assert torch.equal(maps.grad, (dropped != 0).float()), "gradients flow through what is kept alone"
    model = small().model(5).eval()
    with torch.no_grad():
        given = model.maps(torch.randn(4, 3, 64, 32))
        whole = model.answer(*given).embedding
        model.drop = 0.99
        assert torch.equal(model.answer(*given).embedding, whole)
        assert model.train().answer(*given).feats[1].isfinite().all()
        assert not torch.equal(model.answer(*given).feats[1], model.eval().answer(*given).feats[1])


def test_each_feature_is_of_length_one_after_the_mean_with_the_mirror_image():
    torch.manual_seed(0)
    model = small().model(0).eval()
    images = torch.randn(3, 3, 64, 32)
    loader = [(images, Views(torch.zeros(3, dtype=torch.int64)))]
    with torch.no_grad():
        plain, mirrored = (model(x).embedding.unflatten(1, (7, 512)) for x in (images, images.flip(3)))
    expected = F.normalize(plain + mirrored, dim=2).flatten(1)
    found = evaluate.extract(model, loader, flip=True)[0]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, F.normalize(plain, dim=2).flatten(1), atol=1e-3)
    torch.testing.assert_close(evaluate.extract(model, loader)[0], F.normalize(plain, dim=2).flatten(1))
    both = models.Mutual([model, small().model(0).eval()], answers=0)
    torch.testing.assert_close(
        both.compared(torch.cat((plain, mirrored), 1).flatten(1)).square().sum(1), torch.full((3,), 14.0)
    )


def test_seven_identity_losses_and_three_metric_ones_are_summed():
    """loss/__init__.py, LossFunction.compute, at 0.5*CrossEntropy+0.5*MSLoss."""
    torch.manual_seed(0)
    recipe = small()
    model, criterion, labels = recipe.model(4).train(), recipe.losses(4), torch.arange(4).repeat_interleave(2)
    output = model(torch.randn(8, 3, 64, 32))
    terms = criterion(output, labels)
    assert list(terms) == ["id", "similarity"] and len(output.logits) == 7 and len(output.feats) == 3
    id_loss = sum(F.cross_entropy(x, labels, label_smoothing=0.1) for x in output.logits)
    metric = sum(light_mbn.multi_similarity(x, labels, 0.7) for x in output.feats)
    assert float(terms["id"].detach()) == pytest.approx(0.5 * float(id_loss.detach()))
    assert float(terms["similarity"].detach()) == pytest.approx(0.5 * float(metric.detach()))
    wider = recipe.with_(options=recipe.options | {"similarity_margin": 0.1}).losses(4)(output, labels)
    assert float(wider["similarity"].detach()) != pytest.approx(float(terms["similarity"].detach()))
    with pytest.raises(ValueError, match="reduction is 'half'"):
        light_mbn.MultiSimilarity(reduction="half")


@pytest.mark.parametrize("backbone", ["osnet_ain_x1_0", "densenet121", "resnest14d"])
def test_a_trunk_that_cannot_be_divided_is_named(backbone):
    with pytest.raises(ValueError, match=f"'{backbone}' does not have. Use --backbone osnet_x1_0"):
        small(backbone=backbone).outline(5)


def test_an_exported_network_gives_the_features_that_a_test_compares():
    """Of uint8 images: mean with the mirror image, each part at length 1, the whole at length 1 for cosines."""
    torch.manual_seed(0)
    recipe, images = small(), torch.randint(0, 256, (3, 64, 32, 3), dtype=torch.uint8)
    model = recipe.model(0).eval()
    loader = [(augmentation.normalise(images, recipe.mean, recipe.std), Views(torch.zeros(3, dtype=torch.int64)))]
    with torch.no_grad():
        found = export.Exported(model, recipe, flip=True)(images)
    expected = F.normalize(evaluate.extract(model, loader, flip=True)[0], dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.unflatten(1, (7, 512)).norm(dim=2), torch.full((3, 7), 7**-0.5))
