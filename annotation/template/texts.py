"""Texts that people mark: their characters, the steps of a worked answer, the turns of a chat.

Offsets count characters (Unicode code points, as Python does; not UTF-16 units) of `plain_text`.
"""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

Text = str | list[dict[str, str]]
NUMBERED: Final = re.compile(
    r"[ \t]{0,3}(?:#{1,6}\s+)?(?:\*\*|__)?(?:step\s+)?(\d{1,3})\s*[.:)]", re.IGNORECASE
)
FENCES: Final = ("```", "~~~", "$$")


def plain_text(text: Text) -> str:
    """The words of a text or of messages, one turn per line."""
    return text if isinstance(text, str) else "\n".join(message["content"] for message in text)


def steps_of(text: Text) -> list[tuple[int, int]]:
    """Where the steps of a worked answer begin and end, without the white space around them.

    Several messages of the assistant are a step each. A single text is split before lines that are numbered
    from 0 or 1 on ("Step 1:", "2.", "**3)**"), what comes first belonging to the first of them; without such
    numbers at blank lines; without blank lines at every line. Code and displayed formulas stay whole.
    """
    if isinstance(text, str):
        return list(_trimmed(text, _starts(text), 0))
    turns = list(_spoken(text))
    if len(turns) == 1:
        start, content = turns[0]
        return list(_trimmed(content, _starts(content), start))
    return [span for start, content in turns for span in _trimmed(content, [0], start)]


def turns_of(text: Text) -> int:
    """How many turns of the assistant a candidate holds."""
    return 1 if isinstance(text, str) else len(list(_spoken(text)))


def _spoken(messages: list[dict[str, str]]) -> Iterator[tuple[int, str]]:
    """Where in the plain text the assistant's messages begin, and what they say."""
    start = 0
    for message in messages:
        if message["role"] == "assistant":
            yield start, message["content"]
        start += len(message["content"]) + 1


def _starts(text: str) -> list[int]:
    lines = list(_open_lines(text))
    numbered = list(_numbered(lines))
    if len(numbered) >= 2:
        return [0, *numbered[1:]]
    paragraphs = [
        start for (_, before), (start, line) in pairwise(lines) if line.strip() and not before.strip()
    ]
    return [0, *(paragraphs or [start for start, line in lines if line.strip()][1:])]


def _open_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not inside code or a displayed formula, with where they begin."""
    start, inside = 0, ""
    for line in text.splitlines(keepends=True):
        fence = next((fence for fence in FENCES if line.lstrip().startswith(fence)), "")
        if not inside:
            yield start, line
            closed_at_once = fence == "$$" and line.strip().endswith("$$") and len(line.strip()) > 2
            inside = "" if closed_at_once else fence
        elif fence == inside or (inside == "$$" and line.rstrip().endswith("$$")):
            inside = ""
        start += len(line)


def _numbered(lines: list[tuple[int, str]]) -> Iterator[int]:
    """Where the numbers 1, 2, 3, … (or 0, 1, 2, …) begin a line; numbers out of turn are no steps."""
    wanted: set[int] = {0, 1}
    for start, line in lines:
        match = NUMBERED.match(line)
        if match and int(match[1]) in wanted:
            wanted = {int(match[1]) + 1}
            yield start


def _trimmed(text: str, starts: list[int], offset: int) -> Iterator[tuple[int, int]]:
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        part = text[start:end]
        if part.strip():
            left = start + len(part) - len(part.lstrip())
            yield offset + left, offset + left + len(part.strip())


def context_of(questions: list[dict[str, Any]], meta: dict[str, Any]) -> str | None:
    """What the template's context question shows with a comparison; None where it asks for none."""
    question = next((question for question in questions if question["type"] == "context"), None)
    if question is None:
        return None
    own = meta.get("context", "")
    own = own if isinstance(own, str) else json.dumps(own, ensure_ascii=False, indent=1)
    return "\n\n".join(part for part in (question["text"], own) if part.strip())
