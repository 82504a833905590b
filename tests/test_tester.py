"""The tester: means over trials and splits, and what the closing table says."""

import pytest
import torch

import datasets
import tester
from recipes import RECIPES
from tester import Features, Options


class Pixels(torch.nn.Module):
    """A network whose embedding is the mean colour: images can be made whose ranking is known."""

    def forward(self, images, views=None):
        import models

        return models.Output(images.mean(dim=(2, 3)))


def sample(folder, name, shade, pid, camid):
    from PIL import Image

    Image.new("RGB", (16, 32), (shade, shade, shade)).save(folder / f"{name}.png")
    return datasets.Sample(str(folder / f"{name}.png"), pid, camid)


def made(folder, trials=True):
    """One query of shade 100; trial 0 has its match nearest, trial 1 behind a wrong image."""
    query = (sample(folder, "q", 100, 1, 3),)
    near, far = sample(folder, "near", 101, 1, 1), sample(folder, "far", 140, 1, 1)
    wrong = sample(folder, "wrong", 120, 2, 1)
    galleries = ((near, wrong), (far, wrong))
    return datasets.Splits("market", (), query, galleries[0], trials=galleries if trials else ())


def evaluated(splits, **options):
    recipe = RECIPES["bot"].with_(image_size=(32, 16), metric="euclidean")
    return tester.Tester(recipe, {"market": splits}, Options(**options), device=torch.device("cpu"))


def test_trials_are_averaged(tmp_path):
    found = evaluated(made(tmp_path))(Pixels())["market"]
    assert found["mAP"] == pytest.approx((1 + 1 / 2) / 2) and found["rank1"] == pytest.approx(0.5)
    assert found["num_runs"] == 2 and found["rank1_std"] == pytest.approx(2**-0.5)
    assert evaluated(made(tmp_path, trials=False))(Pixels())["market"]["mAP"] == 1


def test_mean_and_std_by_hand():
    runs = [{k: v for k in tester.NUMBERS} | {"num_query": 1, "num_gallery": 2, "num_valid": 1, "cmc": [v, 1.0]}
            for v in (0.2, 0.6)]  # fmt: skip
    found = tester.mean_and_std(runs)
    assert found["mAP"] == pytest.approx(0.4) and found["mAP_std"] == pytest.approx(0.08**0.5)
    assert found["cmc"] == pytest.approx([0.4, 1.0])
    assert "40.00 ± 28.28" in tester.splits_table({"viper": found})


def test_the_table_keeps_published_results_in_their_own_column():
    metrics = {"mAP": 0.5, "mINP": 0.2, "rank1": 0.6, "rank5": 0.7, "rank10": 0.8, "num_query": 10, "num_valid": 9,
               "rank1_interval": [0.5, 0.7]}  # fmt: skip
    text = tester.table({"market": metrics}, "market", RECIPES["bot"])
    row = next(line for line in text.splitlines() if line.startswith("market2market"))
    assert row.split() == ["market2market", "60.00", "70.00", "80.00", "50.00", "20.00", "9", "94.5", "/", "85.9"]
    assert "1 queries without a match" in text and "reid-strong-baseline" in text
    assert "94.5" not in tester.table({"market": metrics}, "duke", RECIPES["bot"])


def test_only_keeps_rows_together():
    features = Features(tuple("abc"), torch.eye(3), torch.arange(3.0)[:, None, None])
    part = features.only([2, 0])
    assert part.samples == ("c", "a") and part.embeddings[0, 2] == 1 and part.parts.flatten().tolist() == [2, 0]
