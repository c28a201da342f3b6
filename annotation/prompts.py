"""Prompts with pictures: messages whose content is a list of parts, as vision models read them.

A part is `{"type": "text", "text": …}` or `{"type": "image", "image": name}`; the name is a file's in a row,
the SHA-256 of the stored picture in the database, and an address for whoever is shown it.
"""

from collections.abc import Callable
from typing import Any

Prompt = str | list[dict[str, Any]]
Part = dict[str, Any]


def words_of(content: str | list[Part]) -> str:
    """What a message's content says, without its pictures."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def pictures_of(prompt: Prompt) -> list[Any]:
    """The names of the pictures in a prompt, in their order."""
    return [part["image"] for part in _parts(prompt) if part["type"] == "image"]


def _parts(prompt: Prompt) -> list[Part]:
    if isinstance(prompt, str):
        return []
    contents = (message["content"] for message in prompt)
    return [part for content in contents if isinstance(content, list) for part in content]


def with_pictures(prompt: Prompt, part_of: Callable[[int, Any], Part]) -> Prompt:
    """The prompt with `part_of(number, name)` in the place of each picture, counted from 0."""
    if not pictures_of(prompt):
        return prompt
    number = -1

    def other(part: Part) -> Part:
        nonlocal number
        if part["type"] != "image":
            return part
        number += 1
        return {"type": "image", **part_of(number, part["image"])}

    assert not isinstance(prompt, str)
    return [
        message | {"content": [other(part) for part in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in prompt
    ]
