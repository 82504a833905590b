"""Pictures of what a model does: ranked strips with an HTML report, augmented batches, curves, activation maps.

Everything here is handed tensors, samples and paths; no checkpoint is opened and no model is run. Pictures of people
are drawn with Pillow; curves need matplotlib, which is imported where it is used.
"""

from __future__ import annotations

import functools
import html
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PAPER = (255, 255, 255)
INK = (32, 33, 36)
FAINT = (110, 114, 120)
EMPTY = (238, 239, 241)  # beside an image that does not fill its box
QUERY = (38, 70, 120)
MARKS = {"right": (0, 148, 88), "wrong": (212, 42, 40), "junk": (150, 153, 158), None: (205, 208, 212)}

BORDER = 6  # pixels
GAP = 10  # between gallery images
QUERY_GAP = 34  # between the query and the first gallery image
MARGIN = 16

ImageFile = str | os.PathLike


# ============ small drawing tools ============


@functools.lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _one_path(path: ImageFile | tuple[ImageFile, ...]) -> ImageFile:
    """The image of a sample: of a tracklet, its middle frame."""
    return path[len(path) // 2] if isinstance(path, tuple) else path


def _open(path: ImageFile) -> Image.Image:
    """The image as RGB, of a tracklet its middle frame.

    ValueError or FileNotFoundError that name the file if it is missing, truncated or no image.
    """
    path = _one_path(path)
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"no image at {path}: was the data set moved since it was read?") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"cannot read the image {path} ({error}): copy it again or remove it.") from error


def _fit(image: Image.Image, box: tuple[int, int]) -> Image.Image:
    """`image` at its own aspect ratio, centred in a box of (width, height) pixels."""
    scale = min(box[0] / image.width, box[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new("RGB", box, EMPTY)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    canvas.paste(resized, ((box[0] - size[0]) // 2, (box[1] - size[1]) // 2))
    return canvas


@functools.lru_cache
def _badge(mark: str, size: int = 26) -> Image.Image:
    """A disc with a check, a cross or a dash: the verdict for readers to whom green and red are one colour."""
    big = 8 * size  # drawn large and reduced, which smooths the edges
    disc = Image.new("RGBA", (big, big), (0, 0, 0, 0))
    draw = ImageDraw.Draw(disc)
    draw.ellipse((0, 0, big - 1, big - 1), fill=PAPER)
    draw.ellipse((0.08 * big, 0.08 * big, 0.92 * big, 0.92 * big), fill=MARKS[mark])
    strokes = {
        "right": [((0.28, 0.52), (0.44, 0.68), (0.72, 0.34))],
        "wrong": [((0.33, 0.33), (0.67, 0.67)), ((0.67, 0.33), (0.33, 0.67))],
        "junk": [((0.28, 0.5), (0.72, 0.5))],
    }[mark]
    for stroke in strokes:
        points = [(x * big, y * big) for x, y in stroke]
        draw.line(points, fill=PAPER, width=round(0.11 * big), joint="curve")
    return disc.resize((size, size), Image.Resampling.LANCZOS)


def _shorten(text: str, width: float, font) -> str:
    """`text`, cut in the middle so that it takes no more than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(f"{text[: keep // 2]}…{text[-(keep - keep // 2) :]}") > width:
        keep -= 1
    return f"{text[: keep // 2]}…{text[-(keep - keep // 2) :]}"


def _distance_text(distance: float) -> str:
    return f"{distance:.3f}" if abs(distance) < 100 else f"{distance:.4g}"


def _to_file(image: Image.Image, path: ImageFile) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


# ============ ranked strip ============


def ranked_strip(
    query_path: ImageFile,
    gallery_paths: Sequence[ImageFile],
    distances: Sequence[float] | Tensor,
    marks: Sequence[str | None],
    *,
    ranks: Sequence[int | None] | None = None,
    captions: Sequence[str] | None = None,
    query_caption: str = "",
    title: str = "",
    box: tuple[int, int] = (128, 256),
) -> Image.Image:
    """A query and its nearest gallery images, nearest first.

    distances (k,): shown under each image. marks: "right" (green, check), "wrong" (red, cross), "junk" (grey, dash) or
    None (no labels: thin grey). ranks: the number over each image, 1 to k if not given; None where it has no rank
    (junk); where numbers are left out there is a wide gap. captions: a line under each distance, such as identity and
    camera. box: (width, height) in pixels of each image. Raises FileNotFoundError or ValueError that name an image that
    cannot be read.
    """
    values = [float(d) for d in distances]
    if not len(gallery_paths) == len(values) == len(marks):
        raise ValueError(f"{len(gallery_paths)} images, {len(values)} distances, {len(marks)} marks: expected as many.")
    captions, ranks = captions or [""] * len(values), ranks or range(1, len(values) + 1)
    jumps = _jumps(ranks)
    width, height = box
    tile = (width + 2 * BORDER, height + 2 * BORDER)
    has_captions = bool(query_caption) or any(captions)
    top = MARGIN + (30 if title else 0) + 22
    canvas_size = (
        2 * MARGIN + tile[0] + len(values) * (tile[0] + GAP) + (QUERY_GAP - GAP) * (bool(values) + sum(jumps)),
        top + tile[1] + (46 if has_captions else 28) + MARGIN // 2,
    )
    canvas = Image.new("RGB", canvas_size, PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        font = _font(18)
        draw.text((MARGIN, MARGIN), _shorten(title, canvas_size[0] - 2 * MARGIN, font), INK, font)

    _tile(canvas, (MARGIN, top), _open(query_path), box, QUERY)
    _centred(draw, MARGIN, top - 20, tile[0], "query", QUERY, 14)
    _centred(draw, MARGIN, top + tile[1] + 6, tile[0], query_caption, INK, 14)
    left = MARGIN + tile[0] + QUERY_GAP
    if values:
        draw.line((left - QUERY_GAP // 2, top, left - QUERY_GAP // 2, top + tile[1] - 1), fill=MARKS[None], width=1)
    for path, distance, mark, rank, jump, caption in zip(
        gallery_paths, values, marks, ranks, jumps, captions, strict=True
    ):
        if jump:
            _dots(draw, left + (QUERY_GAP - 2 * GAP) // 2, top + tile[1] // 2)
            left += QUERY_GAP - GAP
        _tile(canvas, (left, top), _open(path), box, MARKS[mark], thin=mark is None)
        if mark is not None:
            badge = _badge(mark)
            canvas.paste(badge, (left + tile[0] - badge.width - BORDER - 3, top + BORDER + 3), badge)
        _centred(draw, left, top - 20, tile[0], "junk" if rank is None else str(rank), FAINT, 14)
        _centred(draw, left, top + tile[1] + 6, tile[0], _distance_text(distance), INK, 15)
        _centred(draw, left, top + tile[1] + 26, tile[0], caption, FAINT, 13)
        left += tile[0] + GAP
    return canvas


def _jumps(ranks: Sequence[int | None]) -> list[bool]:
    """Before which images ranks were left out."""
    last, jumps = 0, []
    for rank in ranks:
        jumps.append(rank is not None and last > 0 and rank > last + 1)
        last = last if rank is None else rank
    return jumps


def _dots(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    for step in (-8, 0, 8):
        draw.ellipse((x + step - 2, y - 2, x + step + 2, y + 2), fill=FAINT)


def _tile(canvas: Image.Image, corner: tuple[int, int], image: Image.Image, box, colour, thin: bool = False) -> None:
    """An image with a border of `colour` around it; a thin one leaves the room of a full one."""
    outer = (*corner, corner[0] + box[0] + 2 * BORDER - 1, corner[1] + box[1] + 2 * BORDER - 1)
    draw = ImageDraw.Draw(canvas)
    if thin:
        draw.rectangle([outer[0] + 4, outer[1] + 4, outer[2] - 4, outer[3] - 4], fill=colour)
    else:
        draw.rectangle(outer, fill=colour)
    canvas.paste(_fit(image, box), (corner[0] + BORDER, corner[1] + BORDER))


def _centred(draw: ImageDraw.ImageDraw, left: int, top: int, width: int, text: str, colour, size: int) -> None:
    font = _font(size)
    text = _shorten(text, width, font)
    draw.text((left + (width - font.getlength(text)) / 2, top), text, colour, font)


# ============ the report: many strips and one page ============

ORDERS = ("worst", "best", "random", "given")
ONLY = ("all", "right", "wrong")


class Shown(NamedTuple):
    """One gallery image of a strip."""

    index: int  # in the gallery
    distance: float
    mark: str | None
    rank: int | None  # from 1, junk not counted; None: is junk


class Ranked(NamedTuple):
    """What the report says of one query."""

    index: int  # among the queries
    ap: float  # nan: no labels, or no match in the gallery
    first_hit: int | None  # rank of the first right image, from 1
    hits: int  # right images in the whole gallery
    shown: list[Shown]  # nearest first


def draw_ranks(
    out_dir: ImageFile,
    query: Sequence[Any],
    gallery: Sequence[Any],
    distances: Tensor | Mapping[int, Tensor] | Callable[[int], Tensor],
    *,
    ap: Tensor | Sequence[float] | None = None,
    topk: int = 10,
    order: str = "worst",
    only: str = "all",
    num: int = 20,
    protocol: str = "market1501",
    show_junk: bool = False,
    labelled: bool = True,
    title: str = "Ranked queries",
    summary: Mapping[str, Any] | None = None,
    figures: Mapping[str, ImageFile] | None = None,
    seed: int = 0,
) -> Path:
    """Draw the ranking of up to `num` queries into ``ranks/*.png`` and the page ``index.html``; returns the page.

    query, gallery: samples with `path` (or a tuple of frame paths), `pid`, `camid`. distances: (Q, G), or anything that
    gives the row (G,) of a query by index or by call. ap (Q,): average precision of each query, nan where it has no
    match; computed from the rows if None. order: "worst" and "best" by AP, "random" (by `seed`) or "given". only:
    "right" or "wrong" keeps queries whose first image is so. protocol: what is junk, and so removed from the ranking
    (evaluate.py): gallery images of the query's identity and camera ("market1501", "cuhk03"), of camera 2 for queries
    of camera 3 ("sysu"), or the query image itself ("none"); `show_junk` draws it in grey at its place instead.
    Where none of the topk images is right, the first right one follows after a gap. labelled=False: nothing is known
    of identities. summary: metrics for the head of the page. figures: other pictures for its end, title -> file.
    """
    for name, value, choices in (("order", order, ORDERS), ("only", only, ONLY)):
        if value not in choices:
            raise ValueError(f"{name} is '{value}', expected one of {', '.join(choices)}.")
    if not labelled and only != "all":
        raise ValueError(f"only is '{only}', but the images have no labels: nothing is known to be right or wrong.")
    out_dir = Path(out_dir)
    judge = _Judge(query, gallery, distances, protocol, labelled, topk, show_junk)
    ranked = list(_choose(judge, ap, order, only, num, seed))
    if not ranked:
        raise ValueError(f"no query to draw: none of {len(query)} has a first image that is {only}.")
    for old in (out_dir / "ranks").glob("[0-9][0-9][0-9][0-9]_*.png"):  # of an earlier report in this folder
        old.unlink()
    rows = []
    for position, entry in enumerate(ranked, 1):
        path = str(_one_path(query[entry.index].path))
        stem = re.sub(r"[^\w.-]", "_", Path(path).stem)[:60]
        strip = _draw(entry, query, gallery, labelled)
        file = _to_file(strip, out_dir / "ranks" / f"{position:04d}_{stem}.png")
        rows.append(_Row(entry, path, file.relative_to(out_dir).as_posix(), strip.width))
    page = out_dir / "index.html"
    chosen = _chosen_text(len(ranked), len(query), order if labelled else "given", only)
    page.write_text(_page(title, chosen, summary or {}, rows, query, figures or {}, out_dir, labelled), "utf-8")
    return page


class _Row(NamedTuple):
    """One query of the page."""

    entry: Ranked
    path: str
    file: str  # relative to the page
    width: int  # pixels


class _Judge:
    """Ranks the gallery for one query at a time: (Q, G) need never exist."""

    def __init__(self, query, gallery, distances, protocol: str, labelled: bool, topk: int, show_junk: bool):
        protocols = ("market1501", "cuhk03", "sysu", "none")
        if protocol not in protocols:
            raise ValueError(f"protocol is '{protocol}', expected one of {', '.join(protocols)}.")
        if not gallery or not query:
            raise ValueError(f"{len(query)} queries and {len(gallery)} gallery images: expected at least one of each.")
        self.query, self.gallery, self.distances = query, gallery, distances
        self.protocol, self.labelled, self.topk, self.show_junk = protocol, labelled, topk, show_junk
        self.pids = np.array([sample.pid for sample in gallery])
        self.camids = np.array([sample.camid for sample in gallery])
        self.paths = np.array([str(_one_path(sample.path)) for sample in gallery])

    def junk(self, sample) -> np.ndarray:
        """(G,) bool: what the protocol removes for this query."""
        if self.protocol == "none" or not self.labelled:
            return self.paths == str(_one_path(sample.path))
        if self.protocol == "sysu":
            return (self.camids == 2) & (sample.camid == 3)
        return ((self.pids == sample.pid) & (self.camids == sample.camid)) | (self.pids == -1)

    def __call__(self, index: int) -> Ranked:
        row = self.distances(index) if callable(self.distances) else self.distances[index]
        row = torch.as_tensor(row).detach().float().cpu().numpy()
        if row.shape != (len(self.gallery),):
            raise ValueError(f"distances of query {index} are {row.shape}, expected ({len(self.gallery)},).")
        sample = self.query[index]
        nearest = np.argsort(row, kind="stable")
        junk = self.junk(sample)[nearest]
        right = (self.pids[nearest] == sample.pid) & ~junk if self.labelled else np.zeros_like(junk)
        rank = np.cumsum(~junk)  # of each image, from 1, junk not counted
        hits = np.flatnonzero(right)
        ap = float(np.mean(np.arange(1, len(hits) + 1) / rank[hits])) if len(hits) else math.nan
        seen = (np.arange(len(nearest)) if self.show_junk else np.flatnonzero(~junk))[: self.topk]
        if len(hits) and not right[seen].any():
            seen = np.append(seen, hits[0])  # what the model should have found
        shown = []
        for i in seen:
            mark = None if not self.labelled else "junk" if junk[i] else "right" if right[i] else "wrong"
            shown.append(Shown(int(nearest[i]), float(row[nearest[i]]), mark, None if junk[i] else int(rank[i])))
        return Ranked(index, ap, int(rank[hits[0]]) if len(hits) else None, len(hits), shown)


def _choose(judge: _Judge, ap, order: str, only: str, num: int, seed: int) -> Iterator[Ranked]:
    """The queries to draw, in order. Queries without a match are left out where AP or a verdict decides."""
    indices = np.arange(len(judge.query))
    if judge.labelled and order in ("worst", "best"):
        if ap is None:
            ap = [judge(int(i)).ap for i in indices]
        values = np.asarray(torch.as_tensor(ap, dtype=torch.float64))
        if values.shape != indices.shape:
            raise ValueError(f"ap has shape {values.shape}, expected ({len(indices)},): nan for a query without match.")
        indices = indices[~np.isnan(values)]
        indices = indices[np.argsort(values[indices] * (1 if order == "worst" else -1), kind="stable")]
    elif order == "random":
        indices = np.random.default_rng(seed).permutation(indices)
    found = 0
    for i in indices:
        if found >= num:
            return
        entry = judge(int(i))
        if only == "all" or (entry.first_hit is not None and (entry.first_hit == 1) == (only == "right")):
            found += 1
            yield entry


def _draw(entry: Ranked, query, gallery, labelled: bool) -> Image.Image:
    sample = query[entry.index]
    found = [gallery[image.index] for image in entry.shown]
    paths = [_one_path(other.path) for other in found]
    return ranked_strip(
        _one_path(sample.path),
        paths,
        [image.distance for image in entry.shown],
        [image.mark for image in entry.shown],
        ranks=[image.rank for image in entry.shown],
        captions=[_who(other) if labelled else Path(path).name for other, path in zip(found, paths, strict=True)],
        query_caption=_who(sample) if labelled else Path(_one_path(sample.path)).name,
    )


def _who(sample) -> str:
    return f"id {sample.pid}  cam {sample.camid}"


def _verdict(entry: Ranked) -> tuple[str, ...]:
    if entry.first_hit is None:
        return ("no match in the gallery",)
    found = f"first hit at rank {entry.first_hit:,}", f"{entry.hits} match{'es' * (entry.hits > 1)} in the gallery"
    return (f"AP {100 * entry.ap:.1f} %", *found)


def _chosen_text(drawn: int, total: int, order: str, only: str) -> str:
    which = {"worst": ", worst first", "best": ", best first", "random": ", at random", "given": ""}[order]
    kind = {"all": "", "right": " with a right first image", "wrong": " with a wrong first image"}[only]
    return f"{drawn} of {total:,} queries{kind}{which}"


# ------------ index.html ------------

STYLE = """
:root { color-scheme: light dark; --ink: #202124; --faint: #5f6368; --paper: #f6f7f8; --card: #fff; --line: #dfe1e5 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --faint: #9aa0a6; --paper: #17181a; --card: #202124; --line: #3c4043 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1500px; padding: 2rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
h1 { font-size: 1.6rem; margin: 0 }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem }
p { margin: .25rem 0; color: var(--faint) }
dl { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0 2rem }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .5rem 1rem }
dt { color: var(--faint); font-size: .8rem }
dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums }
figure a { display: block; background: #fff }
figure { margin: 0 0 1rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  overflow: hidden }
figcaption { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: .5rem 1rem; align-items: baseline;
  font-variant-numeric: tabular-nums }
figcaption b { min-width: 1.5rem }
figcaption span { color: var(--faint) }
img { display: block; width: 100%; height: auto; background: #fff; cursor: zoom-in }
.small img { width: auto; max-width: 100% }
dialog { border: 0; padding: 0; max-width: 98vw; max-height: 98vh; background: #fff }
dialog::backdrop { background: rgba(0, 0, 0, .8) }
dialog img { width: auto; max-width: none; cursor: zoom-out }
.key { display: flex; gap: 1.25rem }
.key i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em }
"""

# without scripts a click opens the picture itself
SCRIPT = """
const box = document.querySelector('dialog'), large = box.querySelector('img');
document.querySelectorAll('figure a').forEach(link => link.addEventListener('click', event => {
  event.preventDefault(); large.src = link.href; box.showModal(); }));
box.addEventListener('click', () => box.close());
"""


def _page(title: str, chosen: str, summary, rows, query, figures, out_dir: Path, labelled: bool) -> str:
    """The report as one HTML page: no file but the pictures, no network."""
    text = html.escape
    parts = [f"<h1>{text(title)}</h1>", f"<p>{text(chosen)}</p>"]
    if summary:
        cells = "".join(f"<div><dt>{text(str(k))}</dt><dd>{text(_number(v))}</dd></div>" for k, v in summary.items())
        parts.append(f"<dl>{cells}</dl>")
    if labelled:
        names = {"right": "same identity (check)", "wrong": "other identity (cross)", "junk": "not counted (dash)"}
        shown = {image.mark for row in rows for image in row.entry.shown}
        key = [f'<span><i style="background:rgb{MARKS[m]}"></i>{names[m]}</span>' for m in names if m in shown]
        parts.append(f'<p class="key">{"".join(key)}</p>')
    parts.append("<h2>Queries</h2>" if figures else "")
    widest = max(row.width for row in rows)
    for position, (entry, path, file, width) in enumerate(rows, 1):
        facts = (Path(path).name, *((_who(query[entry.index]), *_verdict(entry)) if labelled else ()))
        spans = "".join(f"<span>{text(fact)}</span>" for fact in facts)
        caption = f"<figcaption><b>{position}</b>{spans}</figcaption>"
        parts.append(_figure(file, f"ranking of {Path(path).name}", caption, width / widest))
    for name, file in figures.items():
        relative = Path(os.path.relpath(file, out_dir)).as_posix()
        parts.append(f'<h2>{text(name)}</h2><div class="small">{_figure(relative, name)}</div>')
    body = "\n".join(filter(None, parts))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{text(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        f'<body>\n{body}\n<dialog><img alt=""></dialog>\n<script>{SCRIPT}</script>\n</body>\n</html>\n'
    )


def _figure(file: str, alt: str, caption: str = "", share: float = 1.0) -> str:
    """A picture that opens in full on a click; `share`: its part of the page's width, for all to be at one scale."""
    source, style = html.escape(file), "" if share == 1 else f' style="width:{100 * share:.2f}%"'
    image = f'<a href="{source}"><img src="{source}" alt="{html.escape(alt)}" loading="lazy"{style}></a>'
    return f"<figure>{caption}{image}</figure>"


def _number(value: Any) -> str:
    """Fractions in [0, 1] as percent, counts with thousands separated, the rest as it is."""
    value = value.item() if isinstance(value, (Tensor, np.generic)) else value
    if isinstance(value, float):
        return f"{100 * value:.1f} %" if 0 <= value <= 1 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


# ============ augmented batch ============


def augmented_batch(
    images: Tensor, mean: Sequence[float], std: Sequence[float], path: ImageFile, *, k: int = 4, height: int = 160
) -> Path:
    """What the network is fed: a normalised batch (B, 3, H, W) as a picture, `k` images of an identity side by side.

    mean, std: the normalisation to undo, for values in [0, 1]. height: of each image on the sheet, in pixels. The
    groups of `k` fill as many columns as make the sheet about 3 to 2.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (B, 3, H, W).")
    pixels = images.detach().float().cpu() * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()  # (B, H, W, 3)
    size = (max(1, round(height * images.shape[3] / images.shape[2])), height)
    groups = math.ceil(len(pixels) / k)
    group = (k * (size[0] + 3) - 3, size[1])
    columns = min(range(1, groups + 1), key=lambda c: _unevenness(c, groups, group))
    rows = math.ceil(groups / columns)
    sheet = Image.new("RGB", (columns * (group[0] + 14) + 18, rows * (group[1] + 14) + 18), PAPER)
    for i, array in enumerate(pixels):
        row, column = divmod(i // k, columns)
        corner = (16 + column * (group[0] + 14) + i % k * (size[0] + 3), 16 + row * (group[1] + 14))
        sheet.paste(Image.fromarray(array).resize(size, Image.Resampling.BICUBIC), corner)
    return _to_file(sheet, path)


def _unevenness(columns: int, groups: int, group: tuple[int, int]) -> float:
    """0 for a sheet of 3 to 2 without an empty place."""
    rows = math.ceil(groups / columns)
    return abs(math.log(columns * group[0] / (rows * group[1]) / 1.5)) + (columns * rows - groups) / groups


# ============ activation maps ============

# perceptually ordered from black over red to pale yellow, so that it also reads in grey
HEAT = (
    *((0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99)),
    *((212, 72, 66), (245, 125, 21), (250, 193, 39), (252, 255, 164)),
)


def activation_map(feature_map: Tensor, image: Image.Image | ImageFile, *, height: int = 256) -> Image.Image:
    """Image, activation map and both together, side by side.

    feature_map (C, h, w): the last convolutional features of this image. The map is the sum over channels of the
    squared activations, L2-normalised over positions, scaled to its own minimum and maximum: torchreid,
    tools/visualize_actmap.py at f8cd150.
    """
    if feature_map.dim() != 3:
        raise ValueError(f"the feature map has shape {tuple(feature_map.shape)}, expected (C, h, w).")
    image = image if isinstance(image, Image.Image) else _open(image)
    size = (max(1, round(height * image.width / image.height)), height)
    image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    energy = feature_map.detach().float().cpu().square().sum(0)  # (h, w)
    energy = energy / energy.norm().clamp(min=1e-12)
    energy = (energy - energy.min()) / (energy.max() - energy.min()).clamp(min=1e-12)
    heat = Image.fromarray((energy.numpy() * 255).round().astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    levels = np.linspace(0, 255, len(HEAT))
    table = np.stack([np.interp(np.arange(256), levels, channel) for channel in np.array(HEAT).T], axis=1)  # (256, 3)
    heat = Image.fromarray(table.round().astype(np.uint8)[np.asarray(heat)])
    panel = Image.new("RGB", (3 * size[0] + 2 * GAP, size[1]), PAPER)
    for i, part in enumerate((image, heat, Image.blend(image, heat, 0.6))):
        panel.paste(part, (i * (size[0] + GAP), 0))
    return panel


def activation_maps(
    feature_maps: Tensor, images: Sequence[Image.Image | ImageFile], path: ImageFile, *, columns: int = 3
) -> Path:
    """A sheet of `activation_map` panels; feature_maps (N, C, h, w), one image each."""
    if len(feature_maps) != len(images) or not len(images):
        raise ValueError(f"{len(feature_maps)} feature maps and {len(images)} images: expected as many, at least one.")
    panels = [activation_map(maps, image) for maps, image in zip(feature_maps, images, strict=True)]
    columns = min(columns, len(panels))
    width, height = max(p.width for p in panels), max(p.height for p in panels)
    space = 2 * MARGIN
    rows = math.ceil(len(panels) / columns)
    sheet = Image.new("RGB", (columns * (width + space), rows * (height + MARGIN) + MARGIN), PAPER)
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
        sheet.paste(panel, (MARGIN + column * (width + space), MARGIN + row * (height + MARGIN)))
    return _to_file(sheet, path)


# ============ curves ============

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c5c5c")  # Wong, Nature Methods 2011
LEGEND = {"framealpha": 0.85, "edgecolor": "none"}
NOT_A_TERM = ("epoch", "lr", "seconds", "images_per_second", "metrics")


def _figure_of(panels: int, width: float = 5.2, height: float = 3.6):
    """A matplotlib figure with `panels` axes in a row, without pyplot and its global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RuntimeError("curves need matplotlib: python -m pip install matplotlib") from None
    figure = Figure(figsize=(width * panels, height), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for axis in axes:
        axis.set_prop_cycle(color=COLOURS)
        axis.grid(color="#e3e5e8", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _to_png(figure, path: ImageFile) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def curves(log: Sequence[Mapping[str, Any]], path: ImageFile) -> Path:
    """Loss terms, learning rate, and rank-1 and mAP over the epochs, side by side.

    log: one dict per epoch, as in log.jsonl: "epoch" (from 1), "lr", one number per loss term, and, for epochs that
    were evaluated, "metrics": {data set: {"rank1", "mAP", ...}} in [0, 1].
    """
    if not log:
        raise ValueError("the log is empty: nothing was trained yet, so there are no curves to draw.")
    epochs = [line["epoch"] for line in log]
    evaluated = [line for line in log if line.get("metrics")]
    figure, axes = _figure_of(3 if evaluated else 2)
    numbers = (int, float)
    terms = dict.fromkeys(k for line in log for k, v in line.items() if k not in NOT_A_TERM and type(v) in numbers)
    for name in terms:
        _line(axes[0], epochs, [line.get(name, math.nan) for line in log], name)
    axes[0].set(title="Loss", xlabel="epoch", ylim=(0, None))
    if terms:
        axes[0].legend(**LEGEND)
    _line(axes[1], epochs, [line.get("lr", math.nan) for line in log], "lr")
    axes[1].set(title="Learning rate", xlabel="epoch", yscale="log")
    names = dict.fromkeys(name for line in evaluated for name in line["metrics"])
    for colour, name in zip(COLOURS * len(names), names, strict=False):
        for key, label, style in (("rank1", "rank-1", "-"), ("mAP", "mAP", "--")):
            values = [100 * line["metrics"].get(name, {}).get(key, math.nan) for line in evaluated]
            at = [line["epoch"] for line in evaluated]
            _line(axes[2], at, values, f"{name} {label}", color=colour, linestyle=style)
    if evaluated:
        axes[2].set(title="Evaluation (%)", xlabel="epoch", ylim=(0, 100))
        axes[2].legend(**LEGEND, loc="upper left", bbox_to_anchor=(1, 1))  # beside the panel: the lines fill it
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
    return _to_png(figure, path)


def _line(axis, x: Sequence[float], y: Sequence[float], label: str, **style) -> None:
    """A line; where there are few points, also the points, for one point alone draws no line."""
    axis.plot(x, y, label=label, linewidth=1.8, marker="o" if len(x) <= 15 else None, markersize=3.5, **style)


def cmc_curve(cmc: Mapping[str, Tensor | Sequence[float]], path: ImageFile, *, max_rank: int = 20) -> Path:
    """Cumulative matching characteristic of each entry, name -> (max_rank,) fractions, from rank 1."""
    if not cmc:
        raise ValueError("no CMC curve was given: expected at least one name with its values.")
    figure, (axis,) = _figure_of(1, 5.6, 4.0)
    lowest = 100.0
    for name, values in cmc.items():
        percent = 100 * np.asarray(torch.as_tensor(values, dtype=torch.float64))[:max_rank]
        lowest = min(lowest, float(percent.min()))
        _line(axis, range(1, len(percent) + 1), percent, f"{name} ({percent[0]:.1f} at rank 1)")
    axis.set(title="Cumulative matching characteristic", xlabel="rank", ylabel="queries matched (%)")
    axis.set_ylim(max(0, 10 * math.floor(lowest / 10) - 5 * (lowest > 10)), 100.5)
    axis.set_xlim(0.5, None)
    axis.set_xticks([1, *range(5, len(percent) + 1, 5)])
    axis.legend(**LEGEND, loc="lower right")
    return _to_png(figure, path)


def heatmap(
    values: Tensor | Sequence[Sequence[float]],
    xlabels: Sequence[Any],
    ylabels: Sequence[Any],
    path: ImageFile,
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> Path:
    """A table of numbers (rows, columns) as colours with the number in each cell, the largest one framed.

    For the search of re-ranking parameters: values in percent or fractions are printed as they come, one decimal for
    values above 1, else three. nan: not computed, left blank.
    """
    table = np.asarray(torch.as_tensor(values, dtype=torch.float64))
    if table.shape != (len(ylabels), len(xlabels)):
        raise ValueError(f"values have shape {table.shape}, expected ({len(ylabels)}, {len(xlabels)}) by the labels.")
    if np.isnan(table).all():
        raise ValueError("every value is nan: nothing was computed, so there is no heat map to draw.")
    figure, (axis,) = _figure_of(1, 1.8 + 0.75 * len(xlabels), 1.4 + 0.5 * len(ylabels))
    axis.grid(visible=False)
    image = axis.imshow(table, cmap="viridis", aspect="auto")
    form = "{:.1f}" if np.nanmax(np.abs(table)) > 1 else "{:.3f}"
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for (row, column), value in np.ndenumerate(table):
        if not math.isnan(value):
            colour = "black" if value > middle else "white"
            axis.text(column, row, form.format(value), ha="center", va="center", color=colour, fontsize=9)
    row, column = np.unravel_index(np.nanargmax(table), table.shape)
    frame = {"fill": False, "edgecolor": "#d55e00", "linewidth": 2.5}
    axis.add_patch(_rectangle((column - 0.5, row - 0.5), **frame))
    axis.set_xticks(range(len(xlabels)), [str(label) for label in xlabels])
    axis.set_yticks(range(len(ylabels)), [str(label) for label in ylabels])
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axis, pad=0.02)
    return _to_png(figure, path)


def _rectangle(corner: tuple[float, float], **style):
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, **style)
