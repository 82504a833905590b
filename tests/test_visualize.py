"""Pictures: sizes, colours, order, and the page that holds them."""

import builtins
import html.parser
import math
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import visualize

Sample = namedtuple("Sample", "path pid camid")
RIGHT, WRONG, JUNK = (visualize.MARKS[mark] for mark in ("right", "wrong", "junk"))


def person(path, colour, size=(32, 64)):
    image = Image.new("RGB", size, (180, 180, 180))
    draw = ImageDraw.Draw(image)
    draw.ellipse((size[0] * 0.35, 4, size[0] * 0.65, 16), fill=(220, 180, 150))
    draw.rectangle((size[0] * 0.25, 18, size[0] * 0.75, size[1] - 4), fill=colour)
    image.save(path)
    return str(path)


@pytest.fixture
def samples(tmp_path):
    """Three queries of identity 1, 2, 3 on camera 1, and a gallery of which the first is query 0's own camera."""
    colours = {1: (200, 30, 30), 2: (30, 120, 200), 3: (40, 160, 60), 4: (90, 90, 90)}

    def make(name, pid, camid):
        return Sample(person(tmp_path / f"{name}.jpg", colours[pid]), pid, camid)

    query = [make(f"q{pid}", pid, 1) for pid in (1, 2, 3)]
    gallery = [
        make(f"g{i}", pid, camid) for i, (pid, camid) in enumerate([(1, 1), (1, 2), (2, 2), (2, 3), (4, 2), (4, 3)])
    ]
    return query, gallery


#                          g0   g1   g2   g3   g4   g5
DISTANCES = torch.tensor([[0.1, 0.3, 0.4, 0.5, 0.2, 0.9],  # 1: junk, wrong, right: AP 1/2
                          [0.9, 0.8, 0.1, 0.2, 0.3, 0.4],  # 2: right, right: AP 1
                          [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])  # 3: not in the gallery  # fmt: skip


def border_colours(strip, marks, box=(128, 256), title=False):
    """The colour in the middle of the left border of each gallery tile."""
    tile = box[0] + 2 * visualize.BORDER
    left = visualize.MARGIN + tile + visualize.QUERY_GAP
    y = visualize.MARGIN + 22 + (30 if title else 0) + box[1] // 2
    return [strip.getpixel((left + i * (tile + visualize.GAP) + 2, y)) for i in range(len(marks))]


def test_strip_has_a_border_of_the_right_colour_round_each_image(samples):
    query, gallery = samples
    marks = ["right", "wrong", "junk", None]
    strip = visualize.ranked_strip(query[0].path, [g.path for g in gallery[:4]], DISTANCES[0][:4], marks)
    assert border_colours(strip, marks)[:3] == [RIGHT, WRONG, JUNK]
    assert border_colours(strip, marks)[3] == visualize.PAPER  # without labels: a thin frame only
    tile = 128 + 2 * visualize.BORDER
    assert strip.width == 2 * visualize.MARGIN + 5 * tile + visualize.QUERY_GAP + 3 * visualize.GAP
    assert strip.getpixel((visualize.MARGIN + 2, 150)) == visualize.QUERY


def test_marks_differ_without_colour():
    """The badges of right, wrong and junk are other shapes, not only other colours."""
    shapes = [np.asarray(visualize._badge(mark).convert("L").point(lambda v: 255 * (v > 230))) for mark in
              ("right", "wrong", "junk")]  # fmt: skip
    for i in range(3):
        for j in range(i):
            assert (shapes[i] != shapes[j]).mean() > 0.02


def test_strip_writes_what_it_is_given(samples):
    """Title, captions and ranks change the picture; a jump in ranks widens it; a wide image keeps its aspect ratio."""
    query, gallery = samples
    paths = [g.path for g in gallery[:2]]

    def draw(**options):
        return visualize.ranked_strip(query[0].path, paths, [0.1, 0.2], ["right", "wrong"], **options)

    plain = draw()
    assert draw(title="AP 50 %").height == plain.height + 30
    assert draw(captions=["id 1", "id 2"]).height > plain.height
    assert draw(ranks=[1, 9]).width == plain.width + visualize.QUERY_GAP - visualize.GAP
    assert draw(ranks=[None, 1]).width == plain.width
    assert not np.array_equal(draw(ranks=[1, 3])._repr_png_(), plain._repr_png_())
    narrow = draw(box=(64, 128))
    assert border_colours(narrow, [1, 1], (64, 128)) == [RIGHT, WRONG]

    Image.new("RGB", (200, 100), (255, 0, 0)).save(paths[0])
    fitted = visualize._fit(Image.open(paths[0]), (128, 256))
    red = np.asarray(fitted)[:, :, 1] < 60
    assert red.any(1).sum() == 64 and red.any(0).all()


def test_an_unreadable_image_is_named(samples, tmp_path):
    query, gallery = samples
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        visualize.ranked_strip(query[0].path, [tmp_path / "gone.jpg"], [0.1], ["right"])
    data = (tmp_path / "g0.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"(?i)cut\.jpg.*truncated"):
        visualize.ranked_strip(query[0].path, [tmp_path / "cut.jpg"], [0.1], ["right"])
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.jpg"):
        visualize.ranked_strip(tmp_path / "text.jpg", [], [], [])
    with pytest.raises(ValueError, match="expected as many"):
        visualize.ranked_strip(query[0].path, [gallery[0].path], [], [])


# ============ the report ============


class Page(html.parser.HTMLParser):
    """Pictures, links and text of a page; fails on tags that do not close in order."""

    VOID = {"meta", "img", "br"}

    def __init__(self, path):
        super().__init__()
        self.images, self.links, self.open, self.words = [], [], [], []
        self.feed(path.read_text("utf-8"))
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img" and values.get("src"):
            self.images.append(values["src"])
        if tag == "a":
            self.links.append(values["href"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] not in ("style", "script"):
            self.words.append(data.strip())


def test_report_lists_each_strip_worst_first(samples, tmp_path):
    query, gallery = samples
    out = tmp_path / "out"
    summary = {"mAP": torch.tensor(0.75), "queries": 3368}
    path = visualize.draw_ranks(out, query, gallery, DISTANCES, summary=summary, topk=3)
    page = Page(path)
    assert path == out / "index.html"
    assert page.images == ["ranks/0001_q1.png", "ranks/0002_q2.png"] == page.links  # q3 has no match, so no AP
    assert all((out / image).stat().st_size > 1000 for image in page.images)
    text = " | ".join(page.words)
    assert "75.0 %" in text and "3,368" in text and "2 of 3 queries, worst first" in text
    assert text.index("AP 50.0 %") < text.index("AP 100.0 %") and "first hit at rank 2" in text
    assert "http" not in path.read_text("utf-8").replace("http-equiv", "")  # nothing from the network

    strip = Image.open(out / "ranks/0001_q1.png")
    assert border_colours(strip, range(3)) == [WRONG, RIGHT, WRONG]  # g0, of the same camera, was removed


def test_other_orders_and_filters(samples, tmp_path):
    query, gallery = samples

    def drawn(**options):
        page = Page(visualize.draw_ranks(tmp_path / "out", query, gallery, DISTANCES, **options))
        assert sorted(p.name for p in (tmp_path / "out/ranks").iterdir()) == [image[6:] for image in page.images]
        return [image.split("_")[1][:-4] for image in page.images]

    assert drawn(order="best") == ["q2", "q1"]
    assert drawn(order="given") == ["q1", "q2", "q3"]
    assert sorted(drawn(order="random", seed=3)) == ["q1", "q2", "q3"]
    assert drawn(order="random", seed=3) == drawn(order="random", seed=3)
    assert drawn(only="wrong") == ["q1"]
    assert drawn(only="right", order="given") == ["q2"]
    assert drawn(num=1) == ["q1"]
    assert drawn(ap=torch.tensor([0.9, 0.1, math.nan])) == ["q2", "q1"]  # the caller's AP decides
    assert drawn(order="given", protocol="none", only="right") == ["q1", "q2"]  # g0 counts under this protocol


def test_rows_may_come_from_a_mapping_or_a_call(samples, tmp_path):
    query, gallery = samples
    asked = []

    def row(index):
        asked.append(index)
        return DISTANCES[index]

    visualize.draw_ranks(tmp_path / "a", query, gallery, row, order="given", num=2)
    assert asked == [0, 1]
    visualize.draw_ranks(tmp_path / "b", query, gallery, {1: DISTANCES[1]}, ap=[math.nan, 0.5, math.nan])
    assert [p.name for p in (tmp_path / "b/ranks").iterdir()] == ["0001_q2.png"]


def test_junk_is_shown_in_grey_only_if_asked(samples, tmp_path):
    query, gallery = samples
    visualize.draw_ranks(tmp_path, query, gallery, DISTANCES, show_junk=True, num=1, topk=3)
    strip = Image.open(tmp_path / "ranks/0001_q1.png")
    assert border_colours(strip, range(3)) == [JUNK, WRONG, RIGHT]


def test_the_first_hit_follows_where_none_of_the_topk_is_right(samples, tmp_path):
    query, gallery = samples
    judge = visualize._Judge(query, gallery, DISTANCES.flip(1), "market1501", True, 1, False)
    # query 1 now: g5 .1 junk? no: g5 0.1, g4 0.3, g3 0.4, g2 0.5, g1 0.2, g0 0.9 (junk)
    assert [(image.index, image.mark, image.rank) for image in judge(0).shown] == [(5, "wrong", 1), (1, "right", 2)]
    judge.topk = 2
    assert [image.index for image in judge(0).shown] == [5, 1]


def test_average_precision_and_ranks_equal_a_plain_loop():
    """Random labels, with ties, against the definition: mean of the precision at each hit, junk left out."""
    rng = np.random.default_rng(0)
    query = [Sample(f"q{i}", int(rng.integers(4)), int(rng.integers(3))) for i in range(20)]
    gallery = [Sample(f"g{i}", int(rng.integers(4)), int(rng.integers(3))) for i in range(30)]
    distances = torch.tensor(rng.integers(0, 8, (20, 30)) / 8.0)
    judge = visualize._Judge(query, gallery, distances, "market1501", True, 5, False)
    for i, sample in enumerate(query):
        kept = [g for g, other in enumerate(gallery) if (other.pid, other.camid) != (sample.pid, sample.camid)]
        kept.sort(key=lambda g: float(distances[i, g]))  # stable, as ours
        precisions, hits, first = [], 0, None
        for rank, g in enumerate(kept, 1):
            if gallery[g].pid == sample.pid:
                hits += 1
                first = first or rank
                precisions.append(hits / rank)
        entry = judge(i)
        assert entry.ap == pytest.approx(sum(precisions) / len(precisions)) and entry.first_hit == first
        assert entry.hits == hits and [image.index for image in entry.shown][:5] == kept[:5]


def test_sysu_removes_camera_2_for_queries_of_camera_3():
    gallery = [Sample(f"g{i}", 1, camid) for i, camid in enumerate((1, 2, 3))]
    judge = visualize._Judge([Sample("q", 1, 3)], gallery, torch.zeros(1, 3), "sysu", True, 5, False)
    assert judge.junk(Sample("q", 1, 3)).tolist() == [False, True, False]
    assert not judge.junk(Sample("q", 1, 6)).any()


def test_without_labels(samples, tmp_path):
    query, gallery = samples
    unknown = [Sample(sample.path, -1, -1) for sample in gallery]
    page = Page(visualize.draw_ranks(tmp_path, [unknown[2]], unknown, DISTANCES[1:2], labelled=False, num=1))
    assert page.images == ["ranks/0001_g2.png"]
    assert "AP" not in " ".join(page.words) and "first hit" not in " ".join(page.words)
    strip = Image.open(tmp_path / "ranks/0001_g2.png")
    assert border_colours(strip, range(5)) == [visualize.PAPER] * 5  # five: the query itself is not in its own ranking
    with pytest.raises(ValueError, match="no labels"):
        visualize.draw_ranks(tmp_path, query, gallery, DISTANCES, labelled=False, only="right")


def test_names_from_the_disk_are_escaped(samples, tmp_path):
    query, gallery = samples
    path = person(tmp_path / "<b>&'x' é.jpg", (0, 0, 0))
    page = Page(visualize.draw_ranks(tmp_path / "o", [Sample(path, 1, 1)], gallery, DISTANCES[:1], title="a < b & c"))
    assert "a < b & c" in page.words and "<b>&'x' é.jpg" in page.words
    assert page.images == ["ranks/0001__b___x__é.png"] and (tmp_path / "o" / page.images[0]).exists()


def test_figures_are_linked_relative_to_the_page(samples, tmp_path):
    query, gallery = samples
    person(tmp_path / "curves.png", (0, 0, 0))
    figures = {"Training": tmp_path / "curves.png"}
    page = Page(visualize.draw_ranks(tmp_path / "out", query, gallery, DISTANCES, figures=figures))
    assert page.images[-1] == "../curves.png" and "Training" in page.words


def test_a_tracklet_shows_its_middle_frame(samples, tmp_path):
    query, gallery = samples
    tracklet = Sample((query[1].path, query[0].path, query[2].path), 1, 1)
    visualize.draw_ranks(tmp_path, [tracklet], gallery, DISTANCES[:1])
    assert (tmp_path / "ranks/0001_q1.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"order": "worse"}, "order is 'worse', expected one of worst"),
        ({"only": "some"}, "only is 'some'"),
        ({"protocol": "market"}, "protocol is 'market'"),
        ({"ap": [0.1]}, "ap has shape"),
        ({"ap": [math.nan] * 3}, "no query to draw"),
    ],
)
def test_wrong_options(samples, tmp_path, options, words):
    query, gallery = samples
    with pytest.raises(ValueError, match=words):
        visualize.draw_ranks(tmp_path, query, gallery, DISTANCES, **options)
    with pytest.raises(ValueError, match=r"expected \(6,\)"):
        visualize.draw_ranks(tmp_path, query, gallery, DISTANCES[:, :5])
    with pytest.raises(ValueError, match="0 gallery images"):
        visualize.draw_ranks(tmp_path, query, [], DISTANCES)


# ============ batches and activation maps ============


def test_augmented_batch_undoes_the_normalisation(tmp_path):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    colours = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    images = (colours - torch.tensor(mean)) / torch.tensor(std)
    images = images[:, :, None, None].expand(-1, -1, 64, 32)
    path = visualize.augmented_batch(images, mean, std, tmp_path / "new" / "batch.png", k=4, height=64)
    sheet = Image.open(path)
    seen = {sheet.getpixel((x, y)) for x in range(0, sheet.width, 5) for y in range(0, sheet.height, 5)}
    wanted = {tuple((colour * 255).round().int().tolist()) for colour in colours}
    assert wanted <= seen and visualize.PAPER in seen
    assert sheet.getpixel((20, 20)) == tuple((colours[0] * 255).round().int().tolist())  # the first, top left
    assert sheet.getpixel((20 + 35, 20)) == tuple((colours[1] * 255).round().int().tolist())  # its row mate
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        visualize.augmented_batch(images[0], mean, std, tmp_path / "x.png")


def test_activation_map_is_brightest_where_the_energy_is(tmp_path):
    features = torch.zeros(16, 8, 4)
    features[3, 6, 1] = -5.0  # the sign does not matter: squares are summed
    features[:, 1, 2] = 0.5  # 16 * 0.25 = 4 < 25
    path = person(tmp_path / "p.jpg", (20, 40, 160))
    panel = visualize.activation_map(features, path, height=256)
    assert panel.size == (3 * 128 + 2 * visualize.GAP, 256)
    heat = np.asarray(panel)[:, 128 + visualize.GAP : 256 + visualize.GAP].sum(2)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert 6 * 32 <= y < 7 * 32 and 32 <= x < 64
    assert heat[48, 80] > heat[128, 80] + 50  # the second peak stands out of the ground too
    visualize.activation_map(torch.zeros(4, 8, 4), path)  # nothing active: no division by zero

    sheet = visualize.activation_maps(torch.stack([features] * 4), [path] * 4, tmp_path / "maps.png")
    assert Image.open(sheet).width > 3 * panel.width
    with pytest.raises(ValueError, match="expected as many"):
        visualize.activation_maps(features[None], [], tmp_path / "maps.png")
    with pytest.raises(ValueError, match=r"expected \(C, h, w\)"):
        visualize.activation_map(features[0], path)


# ============ curves ============

LOG = [
    {"epoch": e, "lr": 1e-3 / e, "id": 6 / e, "triplet": 0.3, "seconds": 2.0, "images_per_second": 100.0, "note": "x"}
    | ({"metrics": {"market": {"rank1": e / 10, "mAP": e / 20}}} if e % 2 == 0 else {})
    for e in range(1, 6)
]


def test_curves(tmp_path):
    pytest.importorskip("matplotlib")
    image = Image.open(visualize.curves(LOG, tmp_path / "new" / "curves.png"))
    assert image.size == (round(5.2 * 3 * 130), round(3.6 * 130))
    colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    for name in visualize.COLOURS[:2]:  # two terms
        assert tuple(int(name[i : i + 2], 16) for i in (1, 3, 5)) in colours
    without = [{k: v for k, v in line.items() if k != "metrics"} for line in LOG[:1]]
    assert Image.open(visualize.curves(without, tmp_path / "one.png")).width == round(5.2 * 2 * 130)
    with pytest.raises(ValueError, match="log is empty"):
        visualize.curves([], tmp_path / "x.png")


def test_cmc_curve_and_heatmap(tmp_path):
    pytest.importorskip("matplotlib")
    cmc = {"market": torch.linspace(0.6, 1, 50), "duke": [0.5, 0.6, 0.7]}
    assert Image.open(visualize.cmc_curve(cmc, tmp_path / "cmc.png")).size == (round(5.6 * 130), 4 * 130)
    with pytest.raises(ValueError, match="no CMC"):
        visualize.cmc_curve({}, tmp_path / "cmc.png")

    values = torch.tensor([[0.1, 0.2, math.nan], [0.3, 0.4, 0.35]])
    image = Image.open(visualize.heatmap(values, [10, 20, 30], [2, 6], tmp_path / "heat.png", title="mAP"))
    assert image.width > 300 and (253, 231, 36) in {c for _, c in image.convert("RGB").getcolors(1 << 24)}  # the best
    with pytest.raises(ValueError, match=r"expected \(1, 3\)"):
        visualize.heatmap(values, [10, 20, 30], [2], tmp_path / "heat.png")
    with pytest.raises(ValueError, match="every value is nan"):
        visualize.heatmap(values * math.nan, [10, 20, 30], [2, 6], tmp_path / "heat.png")


def test_without_matplotlib_one_message_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(RuntimeError, match="python -m pip install matplotlib"):
        visualize.curves(LOG, tmp_path / "x.png")
