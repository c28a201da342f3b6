"""What the registry says of a method."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from training.tuning.config import Config

Modality = Literal["text", "image"]
Feedback = Literal[
    "choice",
    "ranking",
    "rating",
    "step",
    "span",
    "thumbs",
    "correction",
    "demonstration",
    "prompt",
    "candidates",
]


@dataclass(frozen=True)
class Method:
    """One entry. ``feedback`` says what a row must bring for the method to use it, one of these at least:

    choice, ranking: judgements between candidates (also ``chosen``/``rejected`` columns); rating: points for
    attributes; step: marked steps of an answer; span: marked spans; thumbs: a judgement of one candidate
    (also ``label``); correction: a rewritten answer; demonstration: an answer without judgement; prompt: a
    prompt is enough; candidates: candidates, judged or not.

    ``reward`` says whether the method takes a ``reward`` list: ``none``, ``optional`` or ``required``.
    """

    name: str
    title: str
    paper: str | None
    modality: Modality
    feedback: tuple[Feedback, ...]
    config: type[Config]
    purpose: Literal["train", "job"]
    summary: str
    reward: Literal["none", "optional", "required"] = "none"

    def load(self, which: Literal["train", "inspect"]) -> Callable[..., Any]:
        """The function itself, from the module named like the method. Imports torch."""
        return getattr(import_module(f"training.tuning.methods.{self.name}"), which)

    def describe(self) -> dict[str, Any]:
        """What ``python -m training.tuning methods --json`` prints."""
        return {
            "name": self.name,
            "title": self.title,
            "paper": self.paper,
            "modality": self.modality,
            "feedback": list(self.feedback),
            "purpose": self.purpose,
            "summary": self.summary,
            "reward": self.reward,
            "config": self.config.model_json_schema(),
        }
