"""The tester: means over trials and splits, and what the closing table says."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

import check
import datasets
import details
import evaluate
import pictures
import protocols
import rerank
import tester
from machine.memory import Budget
from recipes import RECIPES
from tester import Features, Options


class Pixels(torch.nn.Module):
    """A network whose embedding is the mean colour: images can be made whose ranking is known."""

    shown, stripes, soft_parts = "the mean", (), False

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


# ---------------------------------------------------------------- one number wherever it is shown

SHADES = {  # (shade, pid, camid): mean colours are the features, so every distance is known
    "market1501": ([(50, 1, 1), (90, 2, 1), (200, 3, 2)],
                   [(50, 1, 1), (52, 2, 2), (47, 1, 2), (52, 1, 3), (92, 2, 2), (150, 3, 1), (190, 4, 1)]),
    "none": ([(50, 1, 1), (90, 2, 1), (200, 3, 1)],
             [(55, 1, 1), (52, 2, 1), (44, 1, 1), (92, 2, 1), (150, 3, 1), (190, 4, 1)]),
    "sysu": ([(50, 1, 3), (90, 2, 6), (200, 3, 3)],
             [(51, 1, 2), (52, 2, 2), (47, 4, 1), (52, 1, 4), (92, 2, 2), (150, 3, 1), (190, 3, 2), (195, 4, 5)]),
    "cuhk03": ([(50, 1, 1), (90, 2, 1)], [(51, 2, 2), (52, 1, 2), (58, 1, 2), (92, 2, 2), (95, 3, 1)]),
}  # fmt: skip


def shaded(folder, protocol, **more):
    """A set of grey images under `protocol`; in set "none" there is one camera, and the queries are in the gallery."""
    query, gallery = (
        tuple(sample(folder, f"{side}{i}", *row) for i, row in enumerate(rows))
        for side, rows in zip("qg", SHADES[protocol], strict=True)
    )
    gallery = (*query, *gallery) if protocol == "none" else gallery
    return datasets.Splits("market", (), query, gallery, protocol=protocol, **more)


def embedded(samples):
    """The features that `Pixels` gives to these images: three equal numbers, normalised as the recipe does."""
    from PIL import Image

    recipe = RECIPES["bot"]
    shades = torch.tensor([[float(Image.open(s.path).getpixel((0, 0))[0])] for s in samples])
    return (shades / 255 - torch.tensor([recipe.mean])) / torch.tensor([recipe.std])


def expected(splits, query=None, **options):
    """Metrics of `evaluate_features` for the images of `splits`."""
    sides = splits.query, splits.gallery
    features = [embedded(side) for side in sides]
    features[0] = features[0] if query is None else query
    pids, camids, paths = ([[getattr(s, field) for s in side] for side in sides] for field in ("pid", "camid", "path"))
    items = {"query_items": paths[0], "gallery_items": paths[1]}
    return evaluate.evaluate_features(*features, *pids, *camids, protocol=splits.protocol, **items, **options)


def assert_same(found, wanted):
    assert (found["mAP"], found["mINP"]) == pytest.approx((wanted.mAP, wanted.mINP), abs=1e-9)
    assert found["cmc"] == pytest.approx(wanted.cmc.tolist(), abs=1e-9) and found["num_valid"] == wanted.num_valid
    assert found["rank1"] == found["cmc"][0] and found["rank10"] == found["cmc"][9]


@pytest.mark.parametrize("protocol", list(SHADES))
@pytest.mark.parametrize("reranked", [None, {"k1": 3, "k2": 2, "lambda_value": 0.3}])
def test_one_number_wherever_it_is_shown(tmp_path, monkeypatch, protocol, reranked):
    monkeypatch.setattr(tester, "GRID", rerank.Grid((3,), (1, 2), (0.3,)))
    splits = shaded(tmp_path, protocol)
    made = evaluated(splits, rerank=reranked, search=True, top_k=4)
    found = made(Pixels())["market"]
    assert_same(found, expected(splits))
    if reranked:
        assert_same(found["reranked"], expected(splits, rerank=reranked))
        assert {key: found["reranked"][key] for key in reranked} == reranked
    for trial in found["search"]:
        parameters = {key: trial[key] for key in ("k1", "k2", "lambda_value")}
        again = expected(splits, rerank=parameters)
        assert (trial["mAP"], trial["rank1"]) == pytest.approx((again.mAP, again.cmc[0].item()), abs=1e-9)
    assert found["search"][0]["mAP"] == max(trial["mAP"] for trial in found["search"])
    shown = expected(splits, rerank=reranked)
    rows = [row for row in made.last["market"].lists.choose("given") if row.num_hits]
    assert [row.ap for row in rows] == pytest.approx(shown.ap.tolist(), abs=1e-9)
    assert made.last["market"].metrics["mAP"] == pytest.approx(shown.mAP, abs=1e-9)
    assert datasets.check_queries(splits.query, splits.gallery, protocol).num_valid == found["num_valid"] == len(rows)
    (line,) = [x for x in check.report(splits, decode=False).facts if x.startswith(f"protocol {protocol} (used)")]
    assert f"{len(rows)} of {len(splits.query)} queries can be answered" in line


def test_the_tied_list(tmp_path):
    """Right and wrong image at one distance: AP is 7 / 12 everywhere, not the 5 / 6 of another order."""
    rows = [(100, 1, 1)], [(110, 1, 2), (110, 2, 2), (120, 1, 2)]
    query, gallery = (tuple(sample(tmp_path, f"{s}{i}", *r) for i, r in enumerate(x)) for s, x in zip("qg", rows))  # noqa: B905
    splits = datasets.Splits("market", (), query, gallery)
    made = evaluated(splits, top_k=3)
    assert made(Pixels())["market"]["mAP"] == pytest.approx(7 / 12)
    (row,) = made.last["market"].lists.choose()
    assert row.ap == pytest.approx(7 / 12) and row.mark == ("wrong", "right", "right") and row.first_hit == 2
    (page,) = pages(made, Pixels(), tmp_path / "pages")
    assert data_of(page)["views"][0]["rows"][0][0] == pytest.approx(7 / 12, abs=1e-6)


def pages(made, model, folder, **wanted):
    return pictures.pages([pictures.Source(made, model)], folder, pictures.Wanted(**wanted))


def data_of(page):
    """What the page knows."""
    text = page.read_text("utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


@pytest.mark.parametrize("protocol", list(SHADES))
def test_the_page_shows_the_order_that_was_measured_last(tmp_path, protocol):
    """Re-ranked first and, to switch to, before; without re-ranking the one order there is."""
    splits = shaded(tmp_path, protocol)
    parameters = {"k1": 3, "k2": 2, "lambda_value": 0.3}
    for name, options in {"plain": {}, "reranked": {"rerank": parameters}}.items():
        made = evaluated(splits, top_k=4, show_junk=True, **options)
        (page,) = pages(made, Pixels(), tmp_path / name, order="given")  # evaluates first
        data, shown = data_of(page), made.last["market"]
        for view, each in zip(data["views"], [shown, *filter(None, [shown.before])], strict=True):
            assert {number["key"]: number["value"] for number in view["numbers"]}["mAP"] == each.metrics["mAP"]
            rows = each.lists.choose("given", num=99)
            assert [row[0] for row in view["rows"]] == pytest.approx([row.ap for row in rows], abs=1e-6, nan_ok=True)
        assert data["views"][0]["numbers"][1]["value"] == pytest.approx(expected(splits, **options).mAP, abs=1e-9)
        assert ("re-ranked with k1 3, k2 2, lambda_value 0.3" in data["note"]) == bool(options)
        assert f"{len(splits.query)} of {len(splits.query)} queries" in data["note"]
    assert [view["name"] for view in data["views"]] == ["re-ranked", f"{made.recipe.metric} distance"]
    assert data["views"][1]["numbers"][1]["value"] == pytest.approx(expected(splits).mAP, abs=1e-9)


def test_two_networks_stand_beside_each_other_query_by_query(tmp_path):
    class Rows(Pixels):
        def forward(self, images, views=None):
            output = super().forward(images)
            return output._replace(embedding=-output.embedding.abs().sqrt())

    splits = shaded(tmp_path, "market1501")
    sources = [
        pictures.Source(evaluated(splits, top_k=4), model, name) for name, model in (("a", Pixels()), ("b", Rows()))
    ]
    (page,) = pictures.pages(sources, tmp_path / "pages", pictures.Wanted())
    data = data_of(page)
    assert [view["name"].split(":")[0] for view in data["views"]] == ["a", "b"]
    assert all(len(view["rows"]) == len(splits.query) for view in data["views"])
    assert pictures.apart(Path("x/model.pt"), Path("y/model.pt")) == ["x/model.pt", "y/model.pt"]
    assert pictures.apart(Path("x/a.pt"), Path("y/b.pt")) == ["a.pt", "b.pt"]


def test_a_page_has_all_queries_and_the_maps_and_paths_of_the_network(tmp_path):
    """Whatever is drawn as strips; activation maps of as many images as are allowed: queries, then their first hits."""

    class Mapped(Pixels):
        shown, stripes = "the pixels", (2,)

        def feature_map(self, images, views=None):
            return images

    splits = shaded(tmp_path, "market1501")
    made = evaluated(splits, top_k=4)
    (page,) = pages(made, Mapped(), tmp_path / "pages", what=("ranks", "actmap"), num_queries=1)
    data = data_of(page)
    view = data["views"][0]
    assert data["queries"] == len(view["rows"]) == 3 and len(list((page.parent / "ranks").iterdir())) == 1
    (maps,) = data["maps"]
    assert view["stripes"] == [2] and len(maps["of"]) == len(data["images"]["name"]) and maps["size"][0] <= 24
    assert set(view["histogram"]) == {"edges", "same", "other"} and view["cameras"]["mAP"]
    assert sum(view["histogram"]["same"]) == pytest.approx(1) == pytest.approx(sum(view["histogram"]["other"]))
    for most in (0, 1, 3, 4, 6):
        few = data_of(pages(made, Mapped(), tmp_path / "few", what=("actmap", "ranks"), num_maps=most)[0])
        assert len(few["maps"][0]["of"]) == most
        order = [row.query for row in made.last["market"].lists.choose(num=3)]  # the worst first; then their hits
        order += [query for query in range(3) if query not in order]
        first = [rows[3][rows[5].index("r")] for rows in (few["views"][0]["rows"][q] for q in order) if "r" in rows[5]]
        expected = dict.fromkeys([*order, *first])
        assert set(few["maps"][0]["of"]) >= {str(i) for i in list(expected)[:most]}


def test_a_set_without_a_query_of_the_kind_asked_for_does_not_keep_the_others_from_their_pages(tmp_path, capsys):
    good = made(tmp_path, trials=False)
    bad = dataclasses.replace(good, gallery=made(tmp_path).trials[1])
    tested = evaluated(good, top_k=2)
    tested.splits = {"market": good, "duke": bad}
    (page,) = pages(tested, Pixels(), tmp_path, only="wrong")
    assert page == tmp_path / "duke" / "index.html" and data_of(page)["start"] == {"sort": "ap", "rank1": "wrong"}
    assert "market: no page: 0 of 1 queries with a wrong first image" in capsys.readouterr().out
    drawn = pages(tested, Pixels(), tmp_path, what=("curves",))
    assert [path.parent.name for path in drawn] == ["market", "duke"] and all(path.is_file() for path in drawn)


def test_the_images_of_a_test_are_looked_at_once_for_all_that_is_told_of_them(tmp_path, monkeypatch):
    tested, seen = evaluated(made(tmp_path)), []
    of_samples = tester.fingerprint.of_samples
    monkeypatch.setattr(tester.fingerprint, "of_samples", lambda samples: seen.append(1) or of_samples(samples))
    data = tested.conditions("market")["data"]
    assert tested.digest() and tested.conditions("market")["data"] == data and len(seen) == 2


# ---------------------------------------------------------------- options


def test_query_expansion_and_multi_query(tmp_path):
    splits = shaded(tmp_path, "market1501")
    found = evaluated(splits, expansion=(2, 1.0))(Pixels())["market"]
    features = [embedded(side) for side in (splits.query, splits.gallery)]
    wanted = expected(splits, evaluate.expand_queries(*features, 2, 1.0), metric="cosine")
    assert_same(found, wanted)

    class Longer(Pixels):  # lengths say nothing: what is expanded has length 1
        def forward(self, images, views=None):
            output = super().forward(images)
            return output._replace(embedding=1000 * output.embedding)

    assert_same(evaluated(splits, expansion=(2, 1.0))(Longer())["market"], wanted)
    more = tuple((s, sample(tmp_path, f"m{i}", 255 - 10 * i, s.pid, s.camid)) for i, s in enumerate(splits.query))
    both = dataclasses.replace(splits, multi_query=more)
    mean = torch.stack([embedded(group).mean(0) for group in more])
    found = evaluated(both, multi_query="mean")(Pixels())["market"]
    assert_same(found, expected(splits, mean))
    assert found["mAP"] != pytest.approx(expected(splits).mAP)
    with pytest.raises(ValueError, match="gt_bbox"):
        evaluated(splits, multi_query="mean")(Pixels())


@pytest.mark.parametrize("scale", [0.0, 1e-9])
def test_one_feature_for_all_images_is_no_result(tmp_path, scale):
    class Collapsed(Pixels):
        def forward(self, images, views=None):
            output = super().forward(images)
            return output._replace(embedding=5 + scale * output.embedding)

    with pytest.raises(ValueError, match="all 10 query and gallery images of market have the same feature.*--lr"):
        evaluated(shaded(tmp_path, "market1501"))(Collapsed())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_counted_and_named_in_every_mode(tmp_path, value):
    class Broken(Pixels):
        def forward(self, images, views=None):
            embedding = super().forward(images).embedding
            return super().forward(images)._replace(embedding=embedding.where(embedding < embedding[0, 0] + 1, value))

    splits = shaded(tmp_path, "none")
    with pytest.raises(ValueError, match=r"2 of 3 query features are NaN, infinite .*q1.png, .*q2.png"):
        evaluated(splits).features(Broken(), splits.query, "query")
    with pytest.raises(ValueError, match="2 of 3 query of market features are NaN"):
        evaluated(splits)(Broken())


def test_mean_and_std_are_flags_that_reach_training_test_and_metrics(tmp_path):
    import cli
    import training

    words = "--recipe bot --mean 0.5 0.4 0.3 --std 0.25 0.5 1 --image_size 32 16".split()
    args, recipe = cli.parse(words)
    recipe = cli.customised(recipe, cli.overrides(args))
    trained = training.augmentation_of(recipe)
    assert (trained.mean, trained.std) == (recipe.mean, recipe.std) == ((0.5, 0.4, 0.3), (0.25, 0.5, 1.0))
    made = tester.Tester(recipe, {"market": shaded(tmp_path, "market1501")}, Options(), device=torch.device("cpu"))
    (images, _), *_ = made.loader(made.splits["market"].query, "market")
    expected = (torch.tensor([50.0, 90, 200])[:, None] / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor(recipe.std)
    torch.testing.assert_close(images.mean(dim=(2, 3)), expected)
    measured = made.conditions("market")
    assert (measured["mean"], measured["std"]) == (recipe.mean, recipe.std)


def test_more_neighbours_than_images_are_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(ValueError, match="--query_expansion 8 .* the gallery of market has: 7"):
        evaluated(shaded(tmp_path, "market1501"), expansion=(8, 3.0))


def any_number_tells(monkeypatch):
    """Let a figure be told from any number of pairs."""
    monkeypatch.setattr(details, "PAIRS_TO_TELL", 1)
    monkeypatch.setattr(details, "pairs_needed", lambda rate: 1)


def test_what_a_small_sample_does_not_carry_is_not_told(tmp_path):
    """Twelve pairs tell no rate at 1e-4 and three queries no interval: null, and a dash with what it would take."""
    splits = shaded(tmp_path, "market1501")
    found = evaluated(splits, details=True, max_rank=2)(Pixels())["market"]
    assert found["rank1_interval"] is found["mAP_interval"] is found["mINP_interval"] is None
    assert found["cmc"] == [found["rank1"], pytest.approx(expected(splits).cmc[1].item())]
    assert [found[f"rank{k}"] for k in (5, 10)] == [pytest.approx(expected(splits).cmc[k - 1].item()) for k in (5, 10)]
    same = found["verification"]
    assert same["pairs_of_one"] + same["pairs_of_two"] == 20 and same["eer"] is None and same["eer_threshold"] is None
    assert [rate["tpr"] for rate in same["rates"]] == [rate["threshold"] for rate in same["rates"]] == [None] * 4
    assert [rate["pairs_needed"] for rate in same["rates"]] == [100_000, 10_000, 1_000, 100]
    text = tester.table({"market": found}, "market", {})
    assert "equal error rate –" in text and "100 of each are needed" in text and "rank-1 – to –" in text


@pytest.mark.parametrize(("of_one", "of_two", "told"), [(99, 5_000, 0), (100, 99, 0), (100, 100, 1), (500, 9_999, 2),
                                                        (500, 100_000, 4)])  # fmt: skip
def test_a_rate_is_told_from_ten_errors_at_that_rate(of_one, of_two, told):
    counts = details.VerificationCounts(protocols.Labels([1], [1], [1], [2]))
    counts.found[0][0, 100], counts.found[0][1, 200] = of_one, of_two
    same = counts.plain()
    assert [rate["tpr"] for rate in same["rates"]] == [None] * (4 - told) + [1.0] * told
    assert same["eer"] == (0 if told else None)
    text = "\n".join(tester.verification_lines("own", same))
    assert text.count("100.0 % at FPR") == told and ("needed" in text) == (told < 4)


def test_pairs_of_one_kind_alone_do_not_end_a_test():
    counts = details.VerificationCounts(protocols.Labels([1], [1], [1], [2]))
    counts.found[0][0, 100] = 5
    assert counts.plain()["eer"] is None and counts.plain()["pairs_of_two"] == 0


def test_a_page_says_how_its_queries_were_compared(tmp_path):
    splits = shaded(tmp_path, "market1501")
    for options, words in (({}, ()), ({"expansion": (2, 3.0)}, ("query expansion with k 2, alpha 3.0",))):
        made = evaluated(splits, top_k=3, **options)
        made(Pixels())
        (page,) = pages(made, Pixels(), tmp_path / "pages")
        text = page.read_text("utf-8")
        assert all(each in text for each in words) and ("expansion" in text) == bool(options)


def test_details_come_from_the_same_pass(tmp_path, monkeypatch):
    splits, passes = shaded(tmp_path, "market1501"), []
    measure = evaluate.distance_blocks
    monkeypatch.setattr(evaluate, "distance_blocks", lambda *a, **k: passes.append(k) or measure(*a, **k))
    made = evaluated(splits, details=True, top_k=3)
    any_number_tells(monkeypatch)
    found = made(Pixels())["market"]
    pages(made, Pixels(), tmp_path / "pages")
    assert len(passes) == 1  # metrics, details and the page
    labels = protocols.Labels.of(splits.query, splits.gallery)
    features = (side.embeddings for side in made.query_and_gallery(Pixels(), "market"))
    blocks = [(0, 3, evaluate.pairwise_distance(*features))]
    same, pairs = details.verification(blocks, labels), details.camera_pairs(blocks, labels)
    assert found["verification"]["eer"] == pytest.approx(same.eer)
    assert [rate["tpr"] for rate in found["verification"]["rates"]] == pytest.approx(same.tpr.tolist())
    for row, wanted in zip(found["camera_pairs"]["mAP"], pairs.mAP.tolist(), strict=True):
        assert [value or 0 for value in row] == pytest.approx([0 if value != value else value for value in wanted])


def test_trials_have_details_search_and_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(tester, "GRID", rerank.Grid((2,), (1,), (0.3, 0.5)))
    any_number_tells(monkeypatch)
    splits = made(tmp_path)
    tested = evaluated(splits, details=True, search=True, top_k=2)
    found = tested(Pixels())["market"]
    parts = [dataclasses.replace(splits, gallery=gallery, trials=()) for gallery in splits.trials]
    for trial in found["search"]:
        parameters = {key: trial[key] for key in ("k1", "k2", "lambda_value")}
        assert trial["mAP"] == pytest.approx(sum(expected(part, rerank=parameters).mAP for part in parts) / 2)
    assert found["camera_pairs"]["mAP"] == [[pytest.approx(0.75)]]
    # 1 and 40 apart are the same person, 20 and 20 are not: half of the pairs are on the wrong side of any threshold
    assert 0 < found["verification"]["eer"] <= 0.5
    assert tested.last["market"].metrics["mAP"] == 1
    (page,) = pages(tested, Pixels(), tmp_path / "pages")
    assert "the first of 2 galleries" in page.read_text(encoding="utf-8")


def test_parameters_chosen_on_validation_people_re_rank_the_test_set(tmp_path, monkeypatch):
    monkeypatch.setattr(tester, "GRID", rerank.Grid((2, 3), (1, 2), (0.3, 0.7)))
    (tmp_path / "val").mkdir()
    splits, validation = shaded(tmp_path, "market1501"), shaded(tmp_path / "val", "market1501")
    made = evaluated(splits, search=True, top_k=3)
    made.splits = {"market": splits, "market_val": dataclasses.replace(validation, name="market_val")}
    found = made(Pixels())
    assert list(found) == ["market", "market_val"] and "search" not in found["market"]
    best = {key: found["market_val"]["search"][0][key] for key in ("k1", "k2", "lambda_value")}
    assert {key: found["market"]["reranked"][key] for key in best} == best
    assert_same(found["market"]["reranked"], expected(splits, rerank=best))
    assert made.last["market"].reranked == best


def test_unreadable_images_are_left_out_everywhere_and_named(tmp_path, capsys):
    splits = shaded(tmp_path, "market1501")
    broken = next(s for s in splits.gallery if s.pid == 3)
    Path(broken.path).write_bytes(b"no image")
    made = evaluated(splits, skip_bad=True, top_k=3)
    found = made(Pixels())["market"]
    rest = dataclasses.replace(splits, gallery=tuple(s for s in splits.gallery if s != broken))
    assert_same(found, expected(rest))
    assert found["left_out"] == {"gallery": [broken.path]}
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert line.startswith("gallery of market: 1 of ") and line.endswith(f"are left out: {broken.path}")
    assert found["num_gallery"] == len(rest.gallery) and made.last["market"].gallery == rest.gallery


def test_the_budget_reaches_everything(tmp_path):
    splits = shaded(tmp_path, "sysu")
    options = {"details": True, "top_k": 3, "rerank": {"k1": 3, "k2": 1, "lambda_value": 0.3}, "expansion": (2, 1.0)}
    little, plenty = (evaluated(splits, budget=Budget(gb), **options)(Pixels())["market"] for gb in (1e-9, 1))
    assert little["mAP"] == pytest.approx(plenty["mAP"]) and little["verification"] == plenty["verification"]
    assert little["reranked"]["mAP"] == pytest.approx(plenty["reranked"]["mAP"])


def test_draws_are_of_the_protocol_that_draws(tmp_path):
    splits = shaded(tmp_path, "market1501")
    with pytest.raises(ValueError, match="--draws is of protocol cuhk03, and market is tested by protocol market1501"):
        evaluated(splits, draws=100)
    with pytest.raises(ValueError, match="--draws_per_query is of protocol cuhk03"):
        evaluated(splits, draws_per_query=True)
    drawn = evaluated(splits, draws=100, draws_per_query=True, protocol="cuhk03")
    found = drawn(Pixels())["market"]
    assert 0 < found["mAP_drawn"] <= 1 and drawn.conditions("market")["options"]["draws"] == 100
    assert "mAP over the drawn galleries" in tester.table({"market": found}, "market", {})
    assert "draws" not in evaluated(splits).conditions("market")["options"]


def test_images_without_labels(tmp_path):
    splits = shaded(tmp_path, "none")
    plain = evaluated(splits)
    query, gallery = (plain.features(Pixels(), side, "") for side in (splits.query[:1], splits.gallery))
    (row,) = plain.nearest(query, gallery, 3)
    shown = [Path(gallery.samples[i].path).name for i in row.index]
    assert shown[0] == "g1.png" and set(shown[1:]) == {"g0.png", "g2.png"}  # itself is left out
    assert list(row.distance) == sorted(row.distance) and row.mark == (None,) * 3
    (row,) = evaluated(splits, expansion=(2, 1.0)).nearest(query, gallery, 3)
    q = evaluate.expand_queries(query.embeddings, gallery.embeddings, 2, 1.0)
    wanted = evaluate.pairwise_distance(q, gallery.embeddings, "cosine")[0, list(row.index)]
    assert list(row.distance) == pytest.approx(wanted.tolist(), abs=1e-6)
    with pytest.raises(ValueError, match="--query_expansion make new embeddings"):
        tester.Tester(RECIPES["aligned"].with_(test_distance="local"), {}, Options(expansion=(2, 1.0)), device="cpu")


# ---------------------------------------------------------------- what is said of it


def test_mean_and_std_by_hand():
    runs = [{k: v for k in tester.NUMBERS} | {"num_query": 1, "num_gallery": 2, "num_valid": 1, "cmc": [v, 1.0]}
            for v in (0.2, 0.6)]  # fmt: skip
    found = tester.mean_and_std(runs)
    assert found["mAP"] == pytest.approx(0.4) and found["mAP_std"] == pytest.approx(0.08**0.5)
    assert found["cmc"] == pytest.approx([0.4, 1.0])
    assert "40.00 ± 28.28" in tester.runs_table({"viper": found})
    one = tester.mean_and_std(runs[:1])
    assert one["mAP_std"] is None and "20.00 ± –" in tester.runs_table({"viper": one})


def test_the_table_keeps_published_results_in_their_own_column():
    metrics = {"mAP": 0.5, "mINP": 0.2, "rank1": 0.6, "rank5": 0.7, "rank10": 0.8, "rank20": 0.9, "num_query": 10,
               "num_valid": 9, "rank1_interval": [0.5, 0.7]}  # fmt: skip
    bot = RECIPES["bot"]
    theirs = {"market": tester.beside(bot, bot, ["market"], "market", {})}
    text = tester.table({"market": metrics}, "market", theirs)
    row = next(line for line in text.splitlines() if line.startswith("market2market"))
    expected = ["market2market", "60.00", "70.00", "80.00", "90.00", "50.00", "20.00", "9", "94.5", "/", "85.9"]
    assert row.split() == expected
    assert "1 queries without a match" in text and "reid-strong-baseline" in text
    small = dataclasses.replace(bot, backbone="resnet18", image_size=(64, 32))
    text = tester.table({"market": metrics}, "market", {"market": tester.beside(bot, small, ["market"], "market", {})})
    assert (
        "94.5" not in text and "nothing is published of this run; the nearest, resnet18, has image_size 256 128" in text
    )
    assert tester.beside(bot, bot, ["duke"], "market", {}) == tester.Beside()  # nobody printed that


def test_weights_of_which_nobody_says_what_they_were_trained_on_are_called_by_their_file():
    metrics = {"mAP": 0.5, "mINP": 0.2, **{f"rank{r}": 0.6 for r in (1, 5, 10, 20)}, "num_query": 9, "num_valid": 9}
    file = "a_file_with_a_name_that_is_longer_than_the_column.pth"
    text = tester.table({"market": metrics | {"images_per_second": 1234.5}}, file, {})
    head, row, *notes = text.splitlines()
    assert row.startswith(f"{file} on market ") and row.index("60.00") + 5 == head.index("rank-1") + 6
    assert "market: 1,234 images/s from file to feature" in notes
    assert tester.table({"market": metrics}, "market+duke", {}).splitlines()[1].startswith("market+duke2market ")


def test_only_keeps_rows_together():
    features = Features(tuple("abc"), torch.eye(3), torch.arange(3.0)[:, None, None])
    part = features.only([2, 0])
    assert part.samples == ("c", "a") and part.embeddings[0, 2] == 1 and part.parts.flatten().tolist() == [2, 0]
