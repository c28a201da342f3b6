"""Answers in words on the judging page: after one of the test, and what people said, for who reviews it."""

from typing import Any

from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from annotation.choices import describe, letter
from annotation.wording import in_words


def answer_in_words(answer: dict[str, Any]) -> str:
    """An answer in presented positions, as a short sentence."""
    phrases = list(in_words(answer, letter))
    if answer.get("choice") is not None:
        phrases.insert(0, describe(answer["choice"], answer.get("strength")))
    return "; ".join(phrases)


def render_said(judgements: list[dict[str, Any]]) -> SafeString:
    """`annotation.services.reviewing.conflicting_judgements` as safe HTML, with buttons to take each over."""
    said = [
        {
            "number": judgement["annotator"],
            "words": answer_in_words({**judgement, "critique": None}),
            "critique": judgement.get("critique"),
        }
        for judgement in judgements
    ]
    return render_to_string("annotation/_said.html", {"said": said})


def render_feedback(feedback: dict[str, Any]) -> SafeString:
    """`annotation.services.qualification.feedback` as safe HTML."""
    words = answer_in_words(feedback["expected"])
    return render_to_string("annotation/_feedback.html", {"feedback": feedback, "words": words})
