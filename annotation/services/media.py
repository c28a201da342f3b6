"""Images in the storage, one object for equal bytes."""

import hashlib
from collections.abc import Callable
from typing import Any

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage

from annotation.formats.images import Picture, reencode
from annotation.models import Media
from annotation.prompts import Prompt, pictures_of, with_pictures


def store_image(data: bytes) -> Media:
    """Re-encode a picture and keep it; one of ours stays as it is. Raises `BadImage`."""
    known = Media.objects.filter(sha256=hashlib.sha256(data).hexdigest()).first()
    return known or _keep(reencode(data))


def pictures_of_prompt(prompt: Prompt) -> list[Media]:
    """The pictures in a stored prompt, in their order; nothing is read where there are none."""
    names = pictures_of(prompt)
    found = {media.sha256: media for media in Media.objects.filter(sha256__in=names)} if names else {}
    return [found[name] for name in names]


def shown_prompt(prompt: Prompt, address: Callable[[int], str]) -> Prompt:
    """A stored prompt for somebody to look at: picture number n lies at `address(n)`, and no name is told."""
    pictures = pictures_of_prompt(prompt)

    def part_of(number: int, _name: str) -> dict[str, Any]:
        picture = pictures[number]
        return {"url": address(number), "width": picture.width, "height": picture.height}

    return with_pictures(prompt, part_of)


def _keep(picture: Picture) -> Media:
    sha256 = hashlib.sha256(picture.png).hexdigest()
    if known := Media.objects.filter(sha256=sha256).first():
        return known
    key = _save(f"media/{sha256[:2]}/{sha256}.png", picture.png)
    values = {"storage_key": key, "width": picture.width, "height": picture.height, "size": len(picture.png)}
    return Media.objects.get_or_create(sha256=sha256, defaults=values)[0]


def _save(key: str, content: bytes) -> str:
    """Store under exactly this key. A shorter file under it was left by somebody who died while writing."""
    if default_storage.exists(key):
        if default_storage.size(key) == len(content):
            return key
        default_storage.delete(key)
    stored = default_storage.save(key, ContentFile(content))
    if stored != key:  # somebody else was faster with the same bytes
        default_storage.delete(stored)
    return key
