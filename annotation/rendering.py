"""Candidates' texts as annotators see them: Markdown, or what was written where places in it are marked."""

from typing import Any

from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from annotation.markdown import ROLES, render_content, render_markdown
from annotation.template import find_question
from annotation.template.texts import Text, plain_text, steps_of


def render_candidate(text: Text, questions: list[dict[str, Any]]) -> SafeString:
    """Safe HTML. Characters are marked in the text as it was written, so that every offset is exact.

    Steps keep their Markdown where no characters are marked.
    """
    marks = find_question(questions, "marks")
    kinds = marks["kinds"] if marks else []
    if "span" in kinds:
        return _as_written(text, steps_of(text) if "step" in kinds else [])
    if "step" in kinds:
        return _in_steps(text)
    return render_content(text)


def _in_steps(text: Text) -> SafeString:
    words = plain_text(text)
    steps = [
        format_html('<li class="step" data-step="{}">{}</li>', i, render_markdown(words[start:end]))
        for i, (start, end) in enumerate(steps_of(text))
    ]
    return format_html('<ol class="worked">{}</ol>', mark_safe("".join(steps)))  # noqa: S308 - safe parts


def _as_written(text: Text, steps: list[tuple[int, int]]) -> SafeString:
    """Every character of the plain text once, in order; attributes tell who speaks."""
    messages = [(text, "")] if isinstance(text, str) else [(turn["content"], turn["role"]) for turn in text]
    parts, at = [], 0
    for words, role in messages:
        inner = _steps_in(words, [(i, start - at, end - at) for i, (start, end) in enumerate(steps)])
        parts.append(
            format_html('<span class="said" data-role="{}">{}</span>', ROLES.get(role, role), inner)
            if role
            else inner
        )
        at += len(words) + 1
    return format_html('<div class="plain">{}</div>', mark_safe("\n".join(parts)))  # noqa: S308 - safe parts


def _steps_in(words: str, steps: list[tuple[int, int, int]]) -> SafeString:
    parts, at = [], 0
    for i, start, end in steps:
        if not 0 <= start < end <= len(words):
            continue  # of another message
        parts += [
            escape(words[at:start]),
            format_html('<span class="step" data-step="{}">{}</span>', i, words[start:end]),
        ]
        at = end
    return mark_safe("".join([*parts, escape(words[at:])]))  # noqa: S308 - every part is escaped
