"""SOLIDER's Swin transformer against figures of the released one."""

from functools import partial

import parity
import pytest
import torch
from nets import drawn, filled

import architectures
import recipes
from networks import backbones, swin

SMALL = partial(swin.Swin, 8, (2, 2, 2, 2), (1, 2, 4, 8))


def images(height, width):
    return drawn(2 * 3 * height * width, 7).view(2, 3, height, width).float()


def test_map_of_the_released_network():
    """tinyvision/SOLIDER-REID 8c08e1c, model/backbones/swin_transformer.py, SwinTransformer(embed_dims=8, depths=(2, 2,
    2, 2), num_heads=(1, 2, 4, 8), semantic_weight=0.2), filled as here; mmcv and cv2, which it does not call, left out.
    Maps of 25x9, 13x5, 7x3 and 4x2: every stage pads, merging too, and the last shifts within a single window."""
    close = parity.largest(__file__, "test_map_of_the_released_network")
    found = filled(SMALL())(images(100, 36))
    assert found.shape == (2, 64, 4, 2)
    expected = torch.tensor([2.338244, 3.253191, 2.702434, 1.692531])
    torch.testing.assert_close(found[1, 10, :, 1], expected, rtol=0, atol=close)
    pooled = torch.tensor([[-1.141202, 0.230496, 0.801451], [-0.960610, 0.117557, 0.510112]])
    torch.testing.assert_close(found.mean(dim=(2, 3))[:, 20:23], pooled, rtol=0, atol=close)


def test_windows_come_back_to_where_they_were():
    x = torch.arange(2 * 14 * 21 * 3).view(2, 14, 21, 3)
    windows = swin.windows_of(x)
    assert windows.shape == (2, 6, 49, 3)
    assert torch.equal(windows[:, 1].view(2, 7, 7, 3), x[:, :7, 7:14])
    assert torch.equal(swin.map_of(windows, 14, 21), x)


def test_rolled_windows_keep_the_ends_of_the_map_apart():
    """Two positions of a window attend to each other if they are as far apart in the map as they are in the window."""
    height, width = 14, 7
    place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).view(1, height, width, 2)
    within = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    windows = swin.windows_of(place.roll((-3, -3), dims=(1, 2)))[0]  # (windows, 49, 2): where each came from
    mask = swin.rolled_mask(height, width, torch.device("cpu"))[:, 0]
    apart = windows[:, :, None] - windows[:, None] != within[:, None] - within[None]
    assert torch.equal(mask, torch.where(apart.any(dim=3), -100.0, 0.0))


@pytest.fixture
def solider(monkeypatch):
    monkeypatch.setitem(backbones.HERE, "test_swin", (SMALL, None, None))
    torch.manual_seed(0)
    return architectures.SOLIDER(num_pids=5, backbone="test_swin")


def test_what_is_learned_and_what_is_compared(solider):
    out = solider.train()(images(64, 32))
    sum(x.square().sum() for x in (*out.logits, *out.feats)).backward()
    still = {name for name, p in solider.named_parameters() if p.grad is None or not p.grad.any()}
    frozen = {name for name, p in solider.named_parameters() if not p.requires_grad}
    assert (
        still
        == frozen
        == {"bottleneck.bias"}
        | {
            f"base.semantic_embed_{letter}.{i}.{kind}"
            for letter in "wb"
            for i in range(3)
            for kind in ("weight", "bias")
        }
    )
    found = solider.eval()(images(64, 32))
    assert torch.equal(found.embedding, found.feats[0]) and found.embedding.shape == (2, 64)  # before the neck


def test_the_semantic_weight_is_an_option_of_the_row(solider):
    recipe = recipes.RECIPES["solider_swin_tiny"]
    other = recipe.with_(backbone="test_swin", options={"semantic_weight": 1.0}).model(5)
    other.load_state_dict(solider.state_dict())
    embeddings = [model.eval()(images(64, 32)).embedding for model in (solider, other)]
    assert not torch.allclose(*embeddings, atol=1e-4)
    with pytest.raises(ValueError, match=r"recipe solider_swin_tiny .*--backbone solider_swin_tiny, "):
        recipe.with_(backbone="resnet18").model(5)


def test_low_precision(solider):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = solider.train()(images(64, 32).to(memory_format=torch.channels_last))
    assert out.embedding.isfinite().all() and out.logits[0].isfinite().all()
