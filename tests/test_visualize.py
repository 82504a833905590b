"""Pictures: sizes, colours, order, and the page that holds them."""

import builtins
import html.parser
import math
import os
import re
from collections import namedtuple
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import visualize
from machine import files

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


class Ranking(NamedTuple):
    """What `details.Ranking` holds."""

    query: int
    ap: float
    first_hit: int | None
    num_hits: int
    index: tuple
    distance: tuple
    mark: tuple
    rank: tuple


FIRST = Ranking(0, 0.5, 2, 1, (4, 1, 2), (0.2, 0.3, 0.4), ("wrong", "right", "wrong"), (1, 2, 3))
SECOND = Ranking(1, 1.0, 1, 2, (2, 3, 4), (0.1, 0.2, 0.3), ("right", "right", "wrong"), (1, 2, 3))
THIRD = Ranking(2, math.nan, None, 0, (0, 1), (0.1, 0.2), ("wrong", "wrong"), (1, 2))
UNKNOWN = Ranking(0, math.nan, None, 0, (2, 3), (0.1, 0.2), (None, None), (1, 2))


def tiles_of(gallery, marks, ranks=None, captions=None):
    """A tile for each mark, at distances 0.1, 0.2, ..."""
    ranks, captions = ranks or range(1, len(marks) + 1), captions or [""] * len(marks)
    rows = zip(gallery, marks, ranks, captions, strict=False)
    return [visualize.Tile(g.path, (i + 1) / 10, *rest) for i, (g, *rest) in enumerate(rows)]


def border_colours(strip, marks, box=(128, 256), title=False):
    """The colour in the middle of the left border of each gallery tile."""
    tile = box[0] + 2 * visualize.BORDER
    left = visualize.MARGIN + tile + visualize.QUERY_GAP
    y = visualize.MARGIN + 22 + (30 if title else 0) + box[1] // 2
    return [strip.getpixel((left + i * (tile + visualize.GAP) + 2, y)) for i in range(len(marks))]


def test_strip_has_a_border_of_the_right_colour_round_each_image(samples):
    query, gallery = samples
    marks = ["right", "wrong", "junk", None]
    strip = visualize.ranked_strip(query[0].path, tiles_of(gallery, marks))
    assert border_colours(strip, marks)[:3] == [RIGHT, WRONG, JUNK]
    assert border_colours(strip, marks)[3] == visualize.PAPER  # without labels: a thin frame only
    tile = 128 + 2 * visualize.BORDER
    assert strip.width == 2 * visualize.MARGIN + 5 * tile + visualize.QUERY_GAP + 3 * visualize.GAP
    assert strip.getpixel((visualize.MARGIN + 2, 150)) == visualize.QUERY


def test_marks_differ_without_colour(samples):
    """Right, wrong and junk are other shapes, not only other colours: the white strokes in the corner of the image."""
    query, gallery = samples
    Image.new("RGB", (32, 64), (0, 0, 0)).save(gallery[0].path)
    shapes = []
    for mark in ("right", "wrong", "junk"):
        strip = visualize.ranked_strip(query[0].path, tiles_of(gallery, [mark]))
        right = strip.width - visualize.MARGIN - visualize.BORDER
        corner = strip.crop((right - 40, visualize.MARGIN + 28, right, visualize.MARGIN + 68))
        shapes.append(np.asarray(corner.convert("L")) > 230)
    assert all((shapes[i] != shapes[j]).sum() > 10 for i in range(3) for j in range(i))


def test_strip_writes_what_it_is_given(samples):
    """Title, captions and ranks change the picture; a jump in ranks widens it; a wide image keeps its aspect ratio."""
    query, gallery = samples

    def draw(ranks=None, captions=None, **options):
        tiles = tiles_of(gallery, ["right", "wrong"], ranks, captions)
        return visualize.ranked_strip(query[0].path, tiles, **options)

    plain = draw()
    assert draw(title="AP 50 %").height == plain.height + 30
    assert draw(captions=["id 1", "id 2"]).height > plain.height
    assert draw(ranks=[1, 9]).width == plain.width + visualize.QUERY_GAP - visualize.GAP
    assert draw(ranks=[None, 1]).width == plain.width
    assert draw(ranks=[5, 6]).tobytes() != plain.tobytes()  # of the same size, with other numbers
    narrow = draw(box=(64, 128))
    assert border_colours(narrow, [1, 1], (64, 128)) == [RIGHT, WRONG]


@pytest.mark.parametrize("size, shown", [((200, 100), (128, 64)), ((50, 400), (32, 256)), ((64, 128), (128, 256))])
def test_an_image_of_any_shape_keeps_its_shape(samples, size, shown):
    """(width, height) of a red image in its box of 128 x 256."""
    query, gallery = samples
    Image.new("RGB", size, (255, 0, 0)).save(gallery[0].path)
    strip = np.asarray(visualize.ranked_strip(query[0].path, tiles_of(gallery, [None]))).astype(int)
    red = (strip[:, strip.shape[1] // 2 :, 0] > 200) & (strip[:, strip.shape[1] // 2 :, 1] < 60)
    assert (red.any(0).sum(), red.any(1).sum()) == shown


def test_an_unreadable_image_is_named(samples, tmp_path):
    query, gallery = samples
    data = (tmp_path / "g0.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    for name, error in (("gone", FileNotFoundError), ("cut", ValueError), ("text", ValueError)):
        tile = visualize.Tile(tmp_path / f"{name}.jpg", 0.1, "right", 1)
        with pytest.raises(error, match=rf"{name}\.jpg"):
            visualize.ranked_strip(query[0].path, [tile])


# ============ the report ============


class Reader(html.parser.HTMLParser):
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


def test_the_page_draws_what_it_is_given_in_that_order(samples, tmp_path):
    query, gallery = samples
    out = tmp_path / "out"
    page = visualize.Page("Title", "2 of 3 queries, worst first", {"mAP": torch.tensor(0.75), "queries": 3368})
    path = visualize.draw_ranks(out, [FIRST, SECOND], query, gallery, page)
    read = Reader(path)
    assert path == out / "index.html"
    assert read.images == ["ranks/0001_q1.png", "ranks/0002_q2.png"] == read.links
    assert all((out / image).stat().st_size > 1000 for image in read.images)
    text = " | ".join(read.words)
    assert all(words in text for words in ("Title", "75.0 %", "3,368", "2 of 3 queries, worst first", "id 1  cam 1"))
    assert text.index("AP 50.0 %") < text.index("AP 100.0 %")
    assert "first hit at rank 2" in text and "2 matches in the gallery" in text
    assert "http" not in path.read_text("utf-8").replace("http-equiv", "")  # nothing from the network
    assert border_colours(Image.open(out / "ranks/0001_q1.png"), range(3)) == [WRONG, RIGHT, WRONG]


def test_an_earlier_report_in_the_folder_is_gone(samples, tmp_path):
    query, gallery = samples
    visualize.draw_ranks(tmp_path, [FIRST, SECOND], query, gallery)
    visualize.draw_ranks(tmp_path, [THIRD], query, gallery)
    assert [path.name for path in (tmp_path / "ranks").iterdir()] == ["0001_q3.png"]
    assert "no match in the gallery" in Reader(tmp_path / "index.html").words


def test_junk_stands_in_grey_at_its_place_and_is_explained(samples, tmp_path):
    query, gallery = samples
    junk = FIRST._replace(index=(0, 4, 1), mark=("junk", "wrong", "right"), rank=(None, 1, 2))
    words = Reader(visualize.draw_ranks(tmp_path, [junk], query, gallery)).words
    assert "not counted (dash)" in words
    assert border_colours(Image.open(tmp_path / "ranks/0001_q1.png"), range(3)) == [JUNK, WRONG, RIGHT]
    words = Reader(visualize.draw_ranks(tmp_path, [FIRST], query, gallery)).words
    assert "not counted (dash)" not in words and "same identity (check)" in words


def test_without_labels(samples, tmp_path):
    query, gallery = samples
    page = Reader(visualize.draw_ranks(tmp_path, [UNKNOWN], query, gallery, visualize.Page(labelled=False)))
    text = " ".join(page.words)
    assert page.images == ["ranks/0001_q1.png"]
    assert all(words not in text for words in ("AP", "first hit", "no match", "cam 1", "identity"))
    assert border_colours(Image.open(tmp_path / "ranks/0001_q1.png"), range(2)) == [visualize.PAPER] * 2


def test_names_from_the_disk_are_escaped(samples, tmp_path):
    query, gallery = samples
    path = person(tmp_path / "<b>&'x' é.jpg", (0, 0, 0))
    title = visualize.Page("a < b & c")
    page = Reader(visualize.draw_ranks(tmp_path / "o", [FIRST], [Sample(path, 1, 1)], gallery, title))
    assert "a < b & c" in page.words and "<b>&'x' é.jpg" in page.words
    assert page.images == ["ranks/0001__b___x__é.png"] and (tmp_path / "o" / page.images[0]).exists()


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not have")
@pytest.mark.parametrize("name", [b"new\nline", b"\xff\xfe", b"\x01\t", "\u2028世界".encode(), b'"quoted"', b"x" * 250])
def test_any_name_can_be_drawn_and_stands_on_one_line(tmp_path, name):
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    Image.new("L", (8, 16), 90).save(path, "PNG")
    unlabelled = visualize.Page(labelled=False)
    page = Reader(
        visualize.draw_ranks(tmp_path / "o", [UNKNOWN], [Sample(path, 1, 1)], [Sample(path, 1, 1)] * 4, unlabelled)
    )
    assert files.printable(os.fsdecode(name)) in page.words
    assert (tmp_path / "o" / page.images[0]).exists()


def test_a_page_that_cannot_be_drawn_leaves_the_one_before(samples, tmp_path):
    query, gallery = samples
    before = visualize.draw_ranks(tmp_path / "o", [FIRST, SECOND], query, gallery).read_text("utf-8")
    Path(query[1].path).unlink()
    with pytest.raises(FileNotFoundError, match="q2.jpg"):
        visualize.draw_ranks(tmp_path / "o", [THIRD, SECOND], query, gallery)
    assert (tmp_path / "o/index.html").read_text("utf-8") == before
    assert all((tmp_path / "o" / image).exists() for image in Reader(tmp_path / "o/index.html").images)


def test_strips_of_a_page_are_at_one_scale(samples, tmp_path):
    """A strip of fewer images is narrower on the page too, by as much as it has fewer pixels."""
    query, gallery = samples
    path = visualize.draw_ranks(tmp_path, [FIRST, THIRD], query, gallery)
    wide, narrow = (Image.open(tmp_path / name).width for name in ("ranks/0001_q1.png", "ranks/0002_q3.png"))
    assert re.findall(r'<img [^>]*style="width:([\d.]+)%"', path.read_text("utf-8")) == [f"{100 * narrow / wide:.2f}"]


def test_figures_are_linked_relative_to_the_page(samples, tmp_path):
    query, gallery = samples
    figures = visualize.Page(figures={"Training": person(tmp_path / "curves.png", (0, 0, 0))})
    page = Reader(visualize.draw_ranks(tmp_path / "out", [FIRST], query, gallery, figures))
    assert page.images[-1] == "../curves.png" and "Training" in page.words


def test_a_tracklet_shows_its_middle_frame(samples, tmp_path):
    """As the query and in the gallery: the picture is the one of the middle frame alone."""
    query, gallery = samples

    def tracklet(sample):
        return sample._replace(path=(query[1].path, sample.path, query[2].path))

    def drawn(folder, query, gallery):
        visualize.draw_ranks(tmp_path / folder, [FIRST], query, gallery)
        return np.asarray(Image.open(tmp_path / folder / "ranks/0001_q1.png"))

    frames = drawn("frames", [tracklet(query[0])], [tracklet(sample) for sample in gallery])
    assert np.array_equal(frames, drawn("images", query, gallery))


def test_nothing_to_draw_says_what_was_looked_for(samples, tmp_path):
    query, gallery = samples
    with pytest.raises(ValueError, match="no query to draw: queries with a wrong first image"):
        page = visualize.Page(chosen="queries with a wrong first image")
        visualize.draw_ranks(tmp_path, [], query, gallery, page)


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
    line = Image.new("L", (30000, 1))  # as wide as the sheet can be, not as the image is
    assert visualize.activation_map(features, line, height=64).size == (3 * 4 * 64 + 2 * visualize.GAP, 64)

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
