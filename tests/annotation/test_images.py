"""Pictures are decoded within limits and written anew."""

import io
import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin

from annotation.formats.images import BadImage, reencode


def encoded(image, format="PNG", **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def decoded(picture):
    return Image.open(io.BytesIO(picture.png))


def huge_png(width, height):
    """The header of a picture of that size, and next to no data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(20_000, 10_000), (10_000, 6_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_before_decoding(width, height, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("a pixel was decoded"))
    with pytest.raises(BadImage, match="pixels; 50,000,000 at most"):
        reencode(huge_png(width, height))


def test_metadata_is_gone():
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "model: secret-model")
    exif = Image.Exif()
    exif[0x010F] = "secret-camera"
    data = encoded(Image.new("RGB", (4, 4), "red"), pnginfo=info, exif=exif, icc_profile=b"secret-profile")
    picture = reencode(data)
    assert b"secret" in data
    assert b"secret" not in picture.png
    assert not decoded(picture).info


def test_orientation_is_applied():
    image = Image.new("RGB", (4, 2), "white")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise
    picture = reencode(encoded(image, exif=exif))
    assert (picture.width, picture.height) == (2, 4)
    assert decoded(picture).getpixel((1, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_modes_of_png(mode):
    white = {"1": 1, "LA": (255, 255), "RGB": (255,) * 3, "RGBA": (255,) * 4, "I;16": 65535}
    image = Image.new(mode, (3, 3), white.get(mode, 255))
    if mode == "P":
        image = Image.new("RGB", (3, 3), "white").convert("P")
    picture = decoded(reencode(encoded(image)))
    assert (picture.mode, picture.getpixel((1, 1))) == ("RGB", (255, 255, 255))


def test_sixteen_bits_are_scaled():
    assert decoded(reencode(encoded(Image.new("I;16", (1, 1), 32896)))).getpixel((0, 0)) == (128, 128, 128)


def test_cmyk():
    picture = decoded(reencode(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")))
    assert picture.getpixel((4, 4)) == (255, 255, 255)


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (1, 1), (255, 0, 0, 0))
    assert decoded(reencode(encoded(clear))).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    assert decoded(reencode(encoded(palette, transparency=0))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animations_are_refused(format):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    with pytest.raises(BadImage, match="animated"):
        reencode(data)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_truncated(format):
    image = Image.effect_noise((64, 64), 50).convert("RGB")
    data = encoded(image, format)
    with pytest.raises(BadImage, match="cannot be"):
        reencode(data[: len(data) // 2])


@pytest.mark.parametrize("format", ["TIFF", "ICO", "PPM"])
def test_other_kinds_are_refused(format):
    with pytest.raises(BadImage, match="not a picture of a known kind"):
        reencode(encoded(Image.new("RGB", (16, 16)), format))


def test_reencoding_is_stable():
    once = reencode(encoded(Image.effect_noise((16, 16), 50)))
    assert reencode(once.png) == once
