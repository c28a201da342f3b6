"""Rewards that fall on single tokens of sampled answers: the sources of entries with a ``credit``.

Each has ``credit(answers) -> list[Tensor]``: for every answer a reward of each of its tokens (T,), without
the entry's weight and without a gradient. Places are found by characters where the source reads the text
(segments, quotations), and by tokens where it reads the policy's own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.tuning.data import Text
from training.tuning.errors import BadInput
from training.tuning.plan import split
from training.tuning.rewards.credit import (
    CorrectionCredit,
    CritiqueCredit,
    SegmentCredit,
    TokenCredit,
)
from training.tuning.rewards.implicit import ImplicitReward, is_policy
from training.tuning.rewards.sources import LearnedReward, Precision, RuleReward
from training.tuning.rewards.tokens import (
    Span,
    at_ends,
    clipped_steps,
    correction_rewards,
    find_quote,
    min_form_credit,
    span_rewards,
    step_differences,
)
from training.tuning.text.batches import GroupBatch, make_batch
from training.tuning.text.generation import batches_of, generate
from training.tuning.text.loading import load_for_use
from training.tuning.text.models import TextModel
from training.tuning.text.rewrites import CRITIQUE, REWRITE, about_answer, read_critique
from training.tuning.text.setup import TOKEN_BUDGET, open_group_tokenizer
from training.tuning.text.steps import last_token, segments_of
from training.tuning.text.tokens import EncodedGroup, Unusable

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sampled:
    """An answer as the policy wrote it: tokens, their text, and which of its characters each token holds."""

    prompt: Text
    prompt_ids: list[int]
    text: str
    ids: list[int]
    offsets: list[Span]


class Credited(ABC):
    """A source of token rewards. ``models`` are those that read the policy's tokens as they are."""

    models: Sequence[TextModel] = ()

    @abstractmethod
    def credit(self, answers: Sequence[Sampled]) -> list[Tensor]:
        """A reward of every token (T,) of every answer."""


class TokenRatios(Credited):
    """Log-ratios of a tuned policy to its reference (RTO)."""

    def __init__(self, source: ImplicitReward, transform: Transform) -> None:
        self.policy, self.reference = source.policy, source.reference
        self.models = (self.policy, self.reference)
        self.transform = transform

    def credit(self, answers: Sequence[Sampled]) -> list[Tensor]:
        """transform(log π − log π_ref) of every token."""
        groups = [_as_sampled(one.prompt_ids, one.ids, self.policy) for one in answers]
        return _read(
            self.policy,
            groups,
            lambda batch: self.transform(
                self.policy.token_logprobs(batch) - self.reference.token_logprobs(batch)
            ),
        )


class SegmentScores(Credited):
    """Scores of segments, of a process reward model or a rule, at the segments' last tokens."""

    def __init__(
        self, source: LearnedReward | RuleReward, settings: SegmentCredit, transform: Transform
    ) -> None:
        self.source, self.settings, self.transform = source, settings, transform
        learned = isinstance(source, LearnedReward)
        if learned and (source.info.kind != "steps" or settings.by is not None):  # type: ignore[union-attr]
            raise BadInput(
                'the credit "segments" needs a rule, or a process reward model; a model has the segments of '
                'its training, so leave "by" out',
                field="reward",
            )
        self.by = source.info.segments if isinstance(source, LearnedReward) else settings.by or "steps"

    def credit(self, answers: Sequence[Sampled]) -> list[Tensor]:
        """The settings' form of every segment's score."""
        found = []
        for answer, scores in zip(answers, self._scores(answers), strict=True):
            spans = segments_of(answer.text, self.by)[: len(scores)]
            ends = [last_token(answer.offsets, span) for span in spans]
            kept = [at for at, end in enumerate(ends) if end is not None]
            values = self._formed(self.transform(scores[kept]))
            found.append(at_ends(len(answer.ids), [end for end in ends if end is not None], values))
        return found

    def _scores(self, answers: Sequence[Sampled]) -> list[Tensor]:
        if isinstance(self.source, LearnedReward):
            return self.source.segment_logits([one.prompt for one in answers], [one.text for one in answers])
        pieces = [[one.text[start:end] for start, end in segments_of(one.text, self.by)] for one in answers]
        prompts = [one.prompt for one, own in zip(answers, pieces, strict=True) for _ in own]
        flat = [piece for own in pieces for piece in own]
        outputs = self.source.measure(prompts, flat).outputs[:, 0] if flat else torch.zeros(0)
        return list(outputs.split([len(own) for own in pieces]))

    def _formed(self, scores: Tensor) -> Tensor:
        settings = self.settings
        if settings.how == "sign":
            return torch.where(scores > 0, 1.0, -1.0)
        if settings.how == "min_form" and settings.temperature is not None:
            return min_form_credit(scores, temperature=settings.temperature)
        if settings.how == "clip" and settings.threshold is not None:
            return clipped_steps(scores, threshold=settings.threshold)
        return step_differences(scores) if settings.how == "delta" else scores


class Corrections(Credited):
    """Where a corrector would have written what the policy did, and where not."""

    def __init__(self, folder: str, *, device: torch.device, precision: Precision) -> None:
        self.model = load_for_use(folder, kind="causal", precision=precision, device=device)
        self.tokenizer = open_group_tokenizer(folder, max_length=None)
        self.models = (self.model,)

    def credit(self, answers: Sequence[Sampled]) -> list[Tensor]:
        """``correction_rewards`` of the likeliest token after each beginning of the answer."""
        readable, groups = [], []
        for number, one in enumerate(answers):
            asked = _asked(self.tokenizer, one, REWRITE)
            if asked is not None and len(asked) + len(one.ids) <= self.tokenizer.context:
                readable.append(number)
                groups.append(_as_sampled(asked, one.ids, self.model))

        def predict(batch: GroupBatch) -> Tensor:
            return self.model.likeliest(self.model.answer_states(batch), count=1)[:, 0]

        found = [torch.zeros(len(one.ids)) for one in answers]
        for number, predicted in zip(readable, _read(self.model, groups, predict), strict=True):
            found[number] = correction_rewards(answers[number].ids, predicted.tolist())
        return found


class Critiques(Credited):
    """What a critic quotes as good or poor."""

    def __init__(
        self, folder: str, settings: CritiqueCredit, *, device: torch.device, precision: Precision
    ) -> None:
        self.model = load_for_use(folder, kind="causal", precision=precision, device=device)
        self.tokenizer = open_group_tokenizer(folder, max_length=None)
        self.settings = settings

    def credit(self, answers: Sequence[Sampled]) -> list[Tensor]:
        """``span_rewards`` of the quotations that stand in the answers."""
        found = []
        for one, critique in zip(answers, self.write(answers), strict=True):
            good, poor = (
                [span for quote in quotes if (span := find_quote(one.text, quote)) is not None]
                for quotes in read_critique(critique)
            )
            found.append(span_rewards(one.offsets, good, poor))
        return found

    def write(self, answers: Sequence[Sampled]) -> list[str]:
        """The likeliest critique of every answer; an empty one where the answer leaves no room for it."""
        asked = {number: _asked(self.tokenizer, one, CRITIQUE) for number, one in enumerate(answers)}
        prompts = {number: ids for number, ids in asked.items() if ids is not None}
        critiques = [""] * len(answers)
        numbers = list(prompts)
        for indices, room in batches_of(
            list(prompts.values()),
            context=self.tokenizer.context,
            max_new_tokens=self.settings.max_new_tokens,
            size=32,
        ):
            own = [numbers[index] for index in indices]
            texts = generate(
                self.model,
                [prompts[number] for number in own],
                keys=[str(number) for number in own],
                max_new_tokens=room,
                temperature=0.0,
            )
            for number, text in zip(own, texts, strict=True):
                critiques[number] = text
        return critiques


def open_credited(
    entry: Any, source: Callable[[], Any], transform: Transform, *, device: torch.device, precision: Precision
) -> Credited:
    """The token rewards of an entry. ``source`` opens what the entry would be without credit."""
    credit = entry.credit
    if isinstance(credit, SegmentCredit):
        opened = source()
        if isinstance(opened, ImplicitReward):
            raise BadInput('the credit "segments" needs a process reward model or a rule', file=entry.model)
        return SegmentScores(opened, credit, transform)
    if not is_policy(entry.model):
        raise BadInput(f'the credit "{credit.name}" needs a language model', file=entry.model)
    if isinstance(credit, TokenCredit):
        return TokenRatios(source(), transform)
    if isinstance(credit, CorrectionCredit):
        return Corrections(entry.model, device=device, precision=precision)
    return Critiques(entry.model, credit, device=device, precision=precision)


def _asked(tokenizer: Any, one: Sampled, request: str) -> list[int] | None:
    try:
        ids: list[int] = tokenizer.prompt_ids(about_answer(one.prompt, one.text, request))
    except Unusable:  # too long for the critic: nothing is said about the answer
        return None
    return ids


def _as_sampled(prompt: list[int], answer: list[int], model: TextModel) -> EncodedGroup:
    """One answer's tokens as they are, for a model that shares prefixes or does not."""
    if model.layout == "shared":
        return EncodedGroup(prefix=prompt, blocks=[answer], starts=[0])
    return EncodedGroup(prefix=[], blocks=[[*prompt, *answer]], starts=[len(prompt)])


@torch.no_grad()
def _read(
    model: TextModel, groups: Sequence[EncodedGroup], values: Callable[[GroupBatch], Tensor]
) -> list[Tensor]:
    """What ``values`` gives for every answer token, (T,) by answer."""
    found: list[Tensor] = []
    for micro in split(range(len(groups)), [one.size for one in groups], most=None, budget=TOKEN_BUDGET):
        batch = make_batch([groups[index] for index in micro], causal=True, device=model.device)
        found += values(batch).split(batch.counts)
    return found
