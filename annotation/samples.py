"""A made-up comparison, on which the template editor shows what annotators will see."""

from typing import Any

from django.templatetags.static import static
from django.utils.translation import gettext as _

from annotation.answer_form import render_form
from annotation.markdown import render_content, render_markdown
from annotation.rendering import render_candidate
from annotation.template import find_question
from annotation.template.texts import context_of


def sample_item(questions: list[dict[str, Any]], *, modality: str, count: int) -> dict[str, Any]:
    """As `annotation.services.present` gives it, with the HTML; it belongs to no lease."""
    item: dict[str, Any] = {
        "lease": "",
        "prompt": _("How long should I boil an egg?") if modality == "text" else _("a mountain by the sea"),
        "questions": questions,
        "candidates": [_candidate(questions, modality, position) for position in range(count)],
    }
    for candidate in item["candidates"]:
        if "text" in candidate:
            candidate["html"] = render_candidate(candidate["text"], questions)
    item["prompt_html"] = render_content(item["prompt"])
    item["context_html"] = render_markdown(context_of(questions, {}) or "")
    item["form_html"] = render_form(item)
    return item


def _candidate(questions: list[dict[str, Any]], modality: str, position: int) -> dict[str, Any]:
    if modality == "image":
        return {
            "position": position,
            "image": static(f"images/sample-{position % 2}.svg"),
            "width": 320,
            "height": 240,
        }
    texts = (
        _("1. Put the egg into boiling water.\n2. Wait **seven minutes**.\n3. Rinse it with cold water."),
        _("1. Take a large pot.\n2. Three minutes are always enough.\n3. Serve it hot."),
    )
    text = texts[position % 2]
    if find_question(questions, "turns") is None:
        return {"position": position, "text": text}
    follow = [
        {"role": "user", "content": _("And a large one?")},
        {"role": "assistant", "content": _("A minute more.")},
    ]
    return {"position": position, "text": [{"role": "assistant", "content": text}, *follow]}
