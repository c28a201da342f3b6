"""Pictures from strangers, decoded within limits and written anew: what is stored is our own encoding.

Metadata, colour profiles and whatever else rode along are gone; orientation is applied; transparency is laid
on white, so that everybody sees the same picture in light and dark.
"""

import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from django.conf import settings
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


class BadImage(Exception):
    """The picture cannot be used; the message says why."""


@dataclass(frozen=True)
class Picture:
    png: bytes
    width: int
    height: int


def reencode(data: bytes) -> Picture:
    """The picture as an RGB PNG without metadata. Its size is checked before a pixel is decoded."""
    image = _open(data)
    width, height = image.size
    if width * height > settings.IMAGE_MAX_PIXELS:
        raise BadImage(f"has {width} × {height} pixels; {settings.IMAGE_MAX_PIXELS:,} at most")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise BadImage(f"is animated ({frames} frames); give one picture")
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        plain = _to_rgb(upright)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise BadImage(f"cannot be decoded: {error}") from error
    out = BytesIO()
    plain.save(out, "PNG", compress_level=4)
    return Picture(out.getvalue(), *plain.size)


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is stricter
            return Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise BadImage(f"is not a picture of a known kind ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"has too many pixels; {settings.IMAGE_MAX_PIXELS:,} at most") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise BadImage(f"cannot be read: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """A copy with nothing but pixels. 16-bit greys are scaled, not clipped."""
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    rgb = image.convert("RGB")
    clean = Image.new("RGB", rgb.size)
    clean.paste(rgb)
    return clean
