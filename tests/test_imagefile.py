"""The one decoding rule, against Pillow's own conversions where Pillow converts, and against the numbers where not."""

import os
import random
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

import check
import visualize
from loading.store import decode
from machine import imagefile

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (40, 20, 3), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (40, 20)).astype(np.uint16)


def pixels(path):
    return np.asarray(imagefile.read(path).rgb)


def png16(path, values):
    """A PNG of 16 bits per channel, (H, W) grey or (H, W, 3), of which Pillow writes only the first."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if values.ndim == 2 else 2, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
            file.write(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))
    return path


@pytest.mark.parametrize("mode, ending", [
    ("1", "png"), ("L", "png"), ("LA", "png"), ("P", "png"), ("RGB", "png"), ("RGBA", "png"), ("RGB", "bmp"),
    ("L", "jpg"), ("RGB", "jpg"), ("CMYK", "jpg"), ("P", "gif"), ("RGBA", "webp"), ("CMYK", "tif"), ("YCbCr", "tif"),
])  # fmt: skip
def test_eight_bits_are_converted_as_pillow_converts_them(tmp_path, mode, ending):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(COLOURS).convert(mode).save(path)
    assert np.array_equal(pixels(path), np.asarray(Image.open(path).convert("RGB")))
    assert imagefile.read(path).remarks == ()


def test_sixteen_bits_of_grey_are_those_of_colour(tmp_path):
    """Pillow reads 16-bit colour by its high bytes, and clips 16-bit grey to white."""
    grey, colour = png16(tmp_path / "grey.png", GREY16), png16(tmp_path / "rgb.png", np.stack([GREY16] * 3, 2))
    assert np.array_equal(pixels(grey), np.asarray(Image.open(colour).convert("RGB")))
    assert np.array_equal(pixels(grey)[..., 0], GREY16 >> 8)
    Image.fromarray(GREY16).save(tmp_path / "grey.tif")
    (tmp_path / "grey.pgm").write_bytes(b"P5 20 40 65535\n" + GREY16.astype(">u2").tobytes())
    Image.fromarray(GREY16.astype(np.int32)).save(tmp_path / "deep.tif")
    for name in ("grey.tif", "grey.pgm", "deep.tif"):
        assert np.array_equal(pixels(tmp_path / name), pixels(grey)), name
    Image.fromarray(GREY16).save(tmp_path / "negative.tif", tiffinfo={262: 0})  # white is zero
    assert np.array_equal(pixels(tmp_path / "negative.tif"), 255 - pixels(grey))
    Image.fromarray(COLOURS[..., 0].astype(np.int32)).save(tmp_path / "narrow.tif")  # 8 bits in 32
    assert np.array_equal(pixels(tmp_path / "narrow.tif")[..., 0], COLOURS[..., 0])


def test_float_grey(tmp_path):
    grey = COLOURS[..., 0]
    for name, values in (("unit.tif", grey / 255), ("bytes.tif", grey.astype(float)), ("over.tif", grey / 255)):
        values = values.astype(np.float32)
        values[0, 0] = {"over.tif": 1.04}.get(name, values[0, 0])  # a filter has overshot
        Image.fromarray(values).save(tmp_path / name)
    assert np.array_equal(pixels(tmp_path / "unit.tif")[..., 0], grey)
    assert np.array_equal(pixels(tmp_path / "bytes.tif"), np.asarray(Image.open(tmp_path / "bytes.tif").convert("RGB")))
    assert pixels(tmp_path / "over.tif")[0, 0, 0] == 255
    assert np.array_equal(pixels(tmp_path / "over.tif")[1:, :, 0], grey[1:])


@pytest.mark.parametrize("values", [
    np.full((4, 4), 3e4, np.float32), np.full((4, 4), -9, np.float32), np.full((4, 4), np.nan, np.float32),
    np.full((4, 4), -1, np.int32), np.full((4, 4), 2**17, np.int32),
])  # fmt: skip
def test_numbers_without_a_white_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="white: save it with 8 bits"):
        imagefile.read(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_pillows_own(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{ending}"
    Image.fromarray(COLOURS).save(path, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    assert np.array_equal(pixels(path), np.asarray(upright))
    assert pixels(path).shape[:2] == ((40, 20) if orientation < 5 else (20, 40))
    assert imagefile.read(path).remarks == (("turned by EXIF",) if orientation > 1 else ())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("block", [b"II*\0\xff\xff\xff\x7f", b"no EXIF"])
def test_a_damaged_exif_block_is_no_orientation(tmp_path, block):
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + block)
    Image.fromarray(COLOURS).save(tmp_path / "b.jpg")
    assert np.array_equal(pixels(tmp_path / "a.jpg"), pixels(tmp_path / "b.jpg"))


def test_every_reader_follows_the_rule(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
    upright = pixels(tmp_path / "a.png")
    assert np.array_equal(decode(str(tmp_path / "a.png"), upright.shape[:2]), upright)
    assert np.array_equal(np.asarray(visualize.open_image(tmp_path / "a.png")), upright)


@pytest.mark.parametrize("format, name", [("EPS", "a.jpg"), ("ICNS", "b.png"), ("PCX", "c.bmp"), ("TGA", "d.jpg")])
def test_only_listed_formats_are_read_whatever_the_name(tmp_path, monkeypatch, format, name):
    """Pillow hands an EPS to Ghostscript, by its content."""
    from PIL import EpsImagePlugin

    run = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: run.append(a) or Image.new("RGB", (4, 4)))
    Image.new("RGB", (64, 64)).save(tmp_path / name, format)
    with pytest.raises(Image.UnidentifiedImageError) as raised:
        imagefile.read(tmp_path / name)
    assert "JPEG, PNG, BMP" in imagefile.reason(raised.value, tmp_path / name) and not run
    Image.new("RGB", (64, 64)).save(tmp_path / "real.jpg", "GIF")  # a wrong name alone is no fault
    assert imagefile.read(tmp_path / "real.jpg").rgb.size == (64, 64)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    ended = []

    def look():
        with pytest.raises(Image.UnidentifiedImageError):
            imagefile.read(tmp_path / "a.jpg")
        ended.append(True)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(20)
    assert ended


def test_the_doctor_says_how_images_were_read(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    for part, pid in (("bounding_box_train", 2), ("query", 1), ("bounding_box_test", 1)):
        for camera in (1, 2):
            (tmp_path / part).mkdir(exist_ok=True)
            Image.fromarray(COLOURS).save(tmp_path / part / f"{pid:04}_c{camera}s1_000001_00.jpg", exif=exif)
    png16(tmp_path / "query/0001_c3s1_000001_00.png", GREY16)
    png16(tmp_path / "query/0001_c4s1_000001_00.png", GREY16 >> 4)  # 12 bits in 16: all dark
    Image.fromarray(COLOURS).save(tmp_path / "query/0001_c5s1_000001_00.jpg", "EPS")
    report = check.examine("market", tmp_path)
    assert any(line.startswith("6 images are turned by EXIF: ") for line in report.facts)
    assert any(line.startswith("2 images are more than 8 bits of grey: ") for line in report.facts)
    assert any(line.startswith("1 images show next to nothing") and "c4s1" in line for line in report.warnings)
    assert any("1 of 9 images cannot be read" in line and "c5s1" in line for line in report.problems)


@pytest.mark.filterwarnings("ignore")
def test_a_mutated_image_is_read_or_refused_in_one_line(tmp_path, long):
    rng, exif = random.Random(0), Image.Exif()
    exif[274] = 6
    whole = []
    for ending in ("jpg", "png", "tif", "webp", "gif", "bmp", "ppm"):
        Image.fromarray(COLOURS).save(tmp_path / f"a.{ending}", **({} if ending in ("gif", "bmp") else {"exif": exif}))
        whole.append((tmp_path / f"a.{ending}").read_bytes())
    for values in (GREY16, GREY16.astype(np.int32), (GREY16 / 65535).astype(np.float32)):
        Image.fromarray(values).save(tmp_path / "a.tif")
        whole.append((tmp_path / "a.tif").read_bytes())
    path, ends = tmp_path / "mutated.jpg", set()
    for _ in range(10_000 if long else 100):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.choice((1, 2, 5))):
            data[rng.randrange(rng.choice((64, len(data))))] = rng.randrange(256)
        path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)
        try:
            assert imagefile.read(path).rgb.mode == "RGB"
            ends.add("read")
        except MemoryError:
            raise
        except Exception as error:
            said = imagefile.reason(error, path)
            assert said and said.isprintable(), said
            ends.add("refused")
    assert ends == {"read", "refused"}
