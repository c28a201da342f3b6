"""The task template of a project: what is asked about each comparison, and which answers fit.

A template is a list of questions, at most one of each type. It is stored in the project; every version that
was ever saved is kept, and a judgement names the one that it was given under.
"""

from annotation.template.answers import check_answer
from annotation.template.parsing import (
    DEFAULT_QUESTIONS,
    can_be_judged,
    find_question,
    load_questions,
    parse_questions,
    template_schema,
)
from annotation.template.questions import BOTH_BAD, KEYS, MOST_RANKED, TIE

__all__ = [
    "BOTH_BAD",
    "DEFAULT_QUESTIONS",
    "KEYS",
    "MOST_RANKED",
    "TIE",
    "can_be_judged",
    "check_answer",
    "find_question",
    "load_questions",
    "parse_questions",
    "template_schema",
]
