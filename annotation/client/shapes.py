"""What the client's callers look into most."""

from typing import Any, TypeAlias, TypedDict

Row: TypeAlias = dict[str, Any]


class Candidate(TypedDict, total=False):
    position: int
    text: Any
    image: str


class Shown(TypedDict, total=False):
    """A comparison in one's hands; candidates in presented order."""

    lease: str
    expires_at: str
    comparison: int
    prompt: Any
    candidates: list[Candidate]
    questions: list[dict[str, Any]]
    suggestions: list[dict[str, Any]]
    judgements: list[dict[str, Any]]  # for reviewers


class Stored(TypedDict, total=False):
    """The reply to an answer; `next` if it was asked for, None where nothing is left."""

    judgement: int
    lease: str
    comparison: int
    next: Shown | None
