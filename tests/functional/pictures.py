"""Small pictures to compare: discs of different size, re-encoded as an import would."""

import io

from PIL import Image, ImageDraw

from annotation.services.media import store_image


def disc(radius: int, colour: str, size: int = 64) -> bytes:
    image = Image.new("RGB", (size, size), "#f4d35e")
    box = (size // 2 - radius, size // 2 - radius, size // 2 + radius, size // 2 + radius)
    ImageDraw.Draw(image).ellipse(box, fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def picture_groups(n: int, *, k: int = 2) -> list[dict]:
    colours = ("#d7263d", "#2e86ab", "#1b998b", "#2d3047")
    return [
        {
            "prompt": f"a red disc, number {i}",
            "candidates": [
                {"image": store_image(disc(10 + 10 * c + i, colours[c])), "source": f"secret-model-{c}"}
                for c in range(k)
            ],
        }
        for i in range(n)
    ]
