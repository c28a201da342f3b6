"""The task template of a project: what is asked about each comparison, and which answers fit.

A template is a list of questions, at most one of each type. It is stored in the project; every version that
was ever saved is kept, and a judgement names the one that it was given under.
"""

from annotation.template.answers import NOT_ANSWERS, check_answer, presented_answer, stored_answer
from annotation.template.checks import Shown
from annotation.template.differences import aligned_difference, differences_of
from annotation.template.parsing import (
    DEFAULT_QUESTIONS,
    can_be_judged,
    find_question,
    load_questions,
    most_candidates,
    parse_questions,
    template_schema,
)
from annotation.template.positions import rename_candidates, to_canonical, to_presented
from annotation.template.questions import BOTH_BAD, KEYS, MOST_RANKED, TIE
from annotation.template.shapes import answer_schema, inlined
from annotation.template.texts import context_of, plain_text, steps_of, turns_of

__all__ = [
    "BOTH_BAD",
    "DEFAULT_QUESTIONS",
    "KEYS",
    "MOST_RANKED",
    "NOT_ANSWERS",
    "TIE",
    "Shown",
    "aligned_difference",
    "answer_schema",
    "can_be_judged",
    "check_answer",
    "context_of",
    "differences_of",
    "find_question",
    "inlined",
    "load_questions",
    "most_candidates",
    "parse_questions",
    "plain_text",
    "presented_answer",
    "rename_candidates",
    "steps_of",
    "stored_answer",
    "template_schema",
    "to_canonical",
    "to_presented",
    "turns_of",
]
