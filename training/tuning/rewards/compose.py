"""Rewards together: sources opened, scored, transformed, gated, weighted and added up."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.data import Text
from training.tuning.errors import BadInput
from training.tuning.rewards import spec
from training.tuning.rewards.contrast import ContrastReward
from training.tuning.rewards.credited import Credited, Sampled, open_credited
from training.tuning.rewards.implicit import ImplicitReward, is_policy
from training.tuning.rewards.rules import RULES
from training.tuning.rewards.sources import (
    LearnedReward,
    Measured,
    PixelSource,
    Precision,
    RuleReward,
    Source,
)
from training.tuning.rewards.transforms import aggregate, log_sigmoid_centred, sigmoid_centred, standardise


@dataclass(frozen=True)
class Scored:
    """``total`` is what to maximise; ``parts`` and ``scores`` hold a column per entry: what it added, and its
    score before transforms. NaN where ``why`` gives a reason, by candidate.
    """

    total: Float[Tensor, " N"]
    parts: Float[Tensor, "N E"]
    scores: Float[Tensor, "N E"]
    why: dict[int, str]

    def metrics(self, labels: Sequence[str]) -> dict[str, float]:
        """Means for ``metrics.jsonl``: ``reward``, ``reward_std``, and ``reward/<label>`` of every entry."""
        kept = ~self.total.isnan()
        total = self.total.detach()[kept]
        values = {"reward": float(total.mean()), "reward_std": float(total.std(unbiased=False))}
        return values | {
            f"reward/{label}": float(column[kept].mean())
            for label, column in zip(labels, self.scores.detach().unbind(dim=1), strict=True)
        }


@dataclass(frozen=True)
class Credits:
    """Scored answers of N with all their C tokens: ``whole`` is the part of ``scored.total`` that belongs to
    answers as a whole, ``tokens`` what falls on single tokens; each answer's sum up to its total.
    """

    scored: Scored
    whole: Float[Tensor, " N"]
    tokens: Float[Tensor, " C"]


class Rewards:
    """A ``reward`` list with its sources open."""

    def __init__(self, entries: Sequence[spec.RewardEntry], sources: Sequence[Source | Credited]) -> None:
        self.entries = list(entries)
        self.sources = list(sources)
        self.multipliers = {
            number: entry.weight
            for number, entry in enumerate(self.entries)
            if isinstance(entry.gate, spec.Constraint)
        }

    @property
    def labels(self) -> list[str]:
        """A name for every entry, none twice."""
        names = [entry.label for entry in self.entries]
        return [f"{name}-{at}" if names.count(name) > 1 else name for at, name in enumerate(names)]

    @property
    def needs_references(self) -> bool:
        """Whether ``score`` must be given answers of the reference policy."""
        return any(entry.needs_references for entry in self.entries)

    def score(
        self,
        prompts: Sequence[Text],
        candidates: Sequence[Any],
        *,
        references: Sequence[Sequence[Any]] | None = None,
        unusable: float | None = None,
    ) -> Float[Tensor, " N"]:
        """The totals. ``unusable`` replaces the score of a candidate that cannot be read (an empty answer);
        without it such a candidate is BadInput.
        """
        found = self.parts(prompts, candidates, references=references)
        if found.why and unusable is None:
            at, reason = next(iter(found.why.items()))
            raise BadInput(reason, field=f"candidates.{at}")
        return found.total if unusable is None else found.total.nan_to_num(nan=unusable)

    def parts(
        self,
        prompts: Sequence[Text],
        candidates: Sequence[Any],
        *,
        references: Sequence[Sequence[Any]] | None = None,
    ) -> Scored:
        """The totals with what each entry gave. ``references[n]``: answers of the reference policy to prompt
        n, as many for each; needed if ``needs_references``.
        """
        measured = [source.measure(prompts, candidates) for source in self.uncredited()]
        centres = self.reference_scores(prompts, references) if self.needs_references else None
        return self.combine(measured, prompts, centres)

    def score_pixels(self, prompts: Sequence[Text], pixels: Float[Tensor, "N 3 H W"]) -> Scored:
        """``parts`` of pictures in -1..1 that are being drawn: the totals have a gradient to them."""
        measured = [source.measure_pixels(prompts, pixels) for source in self.differentiable()]
        return self.combine(measured, prompts, None)

    def differentiable(self) -> list[PixelSource]:
        """The sources, if pictures can be measured by all of them with a gradient. Raises BadInput."""
        if self.needs_references:
            raise BadInput("a comparison with reference answers has no gradient to a picture", field="reward")
        found = []
        for number, source in enumerate(self.sources):
            if not isinstance(source, PixelSource) or not source.differentiable:
                able = ", ".join(rule.name for rule in RULES if rule.of_pixels)
                raise BadInput(
                    f"{self.labels[number]} has no gradient; image reward models have one, the rules {able}, "
                    "and functions that say differentiable = True",
                    field=f"reward.{number}",
                )
            found.append(source)
        return found

    def credit(
        self, answers: Sequence[Sampled], *, references: Sequence[Sequence[Any]] | None = None
    ) -> Credits:
        """``parts`` of sampled answers, and what of it falls on which token."""
        prompts, texts = [one.prompt for one in answers], [one.text for one in answers]
        shrunk = 1 / (1 + sum(self.multipliers.values()))
        device = torch.device("cpu")
        measured: list[Measured] = []
        dense = [torch.zeros(len(one.ids)) for one in answers]
        for entry, source in zip(self.entries, self.sources, strict=True):
            if not isinstance(source, Credited):
                measured.append(source.measure(prompts, texts))
                device = measured[-1].outputs.device
                continue
            found = [one.cpu().float() for one in source.credit(answers)]
            dense = [own + entry.weight * shrunk * more for own, more in zip(dense, found, strict=True)]
            measured.append(Measured(torch.stack([one.sum() for one in found])[:, None]))
        centres = self.reference_scores(prompts, references) if self.needs_references else None
        measured = [Measured(one.outputs.to(device), one.why) for one in measured]
        scored = self.combine(measured, prompts, centres)
        sums = torch.stack([one.sum() for one in dense]).to(scored.total)
        return Credits(scored, scored.total - sums, torch.cat(dense).to(scored.total))

    def uncredited(self) -> list[Source]:
        """The sources, if all of them score whole candidates. Raises BadInput."""
        found = [source for source in self.sources if not isinstance(source, Credited)]
        if len(found) < len(self.sources):
            raise BadInput(
                "credit is for methods that train on answers which the policy writes; leave it out here",
                field="reward",
            )
        return found

    def prompt_score(self, prompt: Text) -> float:
        """The total of a prompt without an answer."""
        if self.needs_references or self.multipliers:
            raise BadInput("centred transforms and constraints do not score prompts", field="reward")
        measured = [source.measure_prompt(prompt) for source in self.uncredited()]
        return float(self.combine(measured, [prompt], None).total[0])

    def reference_scores(
        self, prompts: Sequence[Text], references: Sequence[Sequence[Any]] | None
    ) -> dict[int, Tensor]:
        """Scores (N, M) of reference answers for every entry that is centred on them."""
        if references is None or len({len(own) for own in references}) != 1 or not references[0]:
            raise BadInput(
                "a centred transform needs reference answers, as many for every prompt", field="reward"
            )
        repeated = [prompt for prompt, own in zip(prompts, references, strict=True) for _ in own]
        flat = [answer for own in references for answer in own]
        found = {}
        for number, (entry, source) in enumerate(zip(self.entries, self.sources, strict=True)):
            if entry.needs_references and not isinstance(source, Credited):
                scores = self._reduced(number, source.measure(repeated, flat), repeated)
                found[number] = scores.view(len(prompts), -1)
        return found

    def combine(
        self, measured: Sequence[Measured], prompts: Sequence[Text], centres: dict[int, Tensor] | None
    ) -> Scored:
        """Reduce, transform, gate, weigh and add what the sources measured; multipliers are updated."""
        device = measured[0].outputs.device
        scores = [self._reduced(at, one, prompts).to(device) for at, one in enumerate(measured)]
        parts = []
        for number, entry in enumerate(self.entries):
            value = scores[number]
            for step in entry.transform if entry.credit is None else []:  # else their parts were transformed
                if not isinstance(step, spec.REDUCING):
                    value = transformed(value, step, (centres or {}).get(number))
            if isinstance(entry.gate, spec.Threshold):
                other = scores[entry.gate.entry]
                open_ = _within(other, entry.gate.least, entry.gate.most)
                value = torch.where(open_, value, torch.full_like(value, entry.gate.otherwise))
                value = torch.where(other.isnan(), other, value)
            parts.append(self.multipliers.get(number, entry.weight) * value)
        total = torch.stack(parts).sum(dim=0) / (1 + sum(self.multipliers.values()))
        self._update_multipliers(scores)
        why = {at: reason for one in reversed(measured) for at, reason in one.why.items()}
        return Scored(total, torch.stack(parts, dim=1), torch.stack(scores, dim=1), why)

    def state(self) -> dict[str, float]:
        """What a checkpoint must keep: the multipliers of constraints."""
        return {str(number): value for number, value in self.multipliers.items()}

    def load_state(self, state: dict[str, float]) -> None:
        """Put back what ``state`` gave."""
        self.multipliers = {int(number): value for number, value in state.items()}

    def _reduced(self, number: int, measured: Measured, prompts: Sequence[Text]) -> Tensor:
        steps = self.entries[number].transform
        first = steps[0] if steps else None
        if isinstance(first, spec.Aggregate):
            return aggregate(measured.outputs, how=first.how, penalty=first.penalty)
        if isinstance(first, spec.Attributes):
            if len(first.weights) != measured.outputs.shape[1]:
                raise BadInput(
                    f"{len(first.weights)} weights for {measured.outputs.shape[1]} outputs",
                    field=f"reward.{number}.transform",
                )
            return measured.outputs @ measured.outputs.new_tensor(first.weights)
        source = self.sources[number]
        return (
            measured.outputs[:, 0]
            if isinstance(source, Credited)
            else source.reduce(measured.outputs, prompts)
        )

    def _update_multipliers(self, scores: Sequence[Tensor]) -> None:
        for number in self.multipliers:
            gate = self.entries[number].gate
            assert isinstance(gate, spec.Constraint)
            mean = float(scores[number].detach().nanmean())
            self.multipliers[number] = max(0.0, self.multipliers[number] + gate.rate * (gate.least - mean))


def transformed(scores: Float[Tensor, " N"], step: Any, references: Tensor | None) -> Float[Tensor, " N"]:
    """One transform of an entry's scores; NaN stays NaN."""
    if isinstance(step, spec.Sigmoid):
        return torch.sigmoid(step.scale * scores)
    if isinstance(step, spec.LogSigmoid):
        return torch.nn.functional.logsigmoid(step.scale * scores)
    if isinstance(step, spec.Clip):
        return scores.clamp(step.low, step.high)
    if isinstance(step, spec.Affine):
        return step.scale * scores + step.shift
    if isinstance(step, spec.Standardise):
        kept = ~scores.isnan()
        return scores.masked_scatter(kept, standardise(scores[kept]))
    assert references is not None
    if isinstance(step, spec.SigmoidCentred):
        return sigmoid_centred(scores, references, scale=step.scale)
    assert isinstance(step, spec.LogSigmoidCentred)
    return log_sigmoid_centred(scores, references, percentile=step.percentile)


def open_rewards(
    entries: Sequence[spec.RewardEntry],
    *,
    modality: spec.Modality,
    device: torch.device,
    precision: Precision = "fp32",
    max_length: int | None = 1024,
) -> Rewards:
    """Open every source of a checked list. Raises BadInput for what cannot be opened."""
    options: dict[str, Any] = {"modality": modality, "device": device, "precision": precision}
    return Rewards(entries, [_open_entry(entry, max_length=max_length, **options) for entry in entries])


def _open_entry(
    entry: spec.RewardEntry,
    *,
    modality: spec.Modality,
    device: torch.device,
    precision: Precision,
    max_length: int | None,
) -> Source | Credited:
    def plain() -> Source:
        return open_source(
            entry, modality=modality, device=device, precision=precision, max_length=max_length
        )

    if entry.credit is None:
        return plain()
    if modality == "image":
        raise BadInput("credit is for text: pictures have no tokens", field="reward")

    def transform(values: Tensor) -> Tensor:
        for step in entry.transform:
            values = transformed(values, step, None)
        return values

    return open_credited(entry, plain, transform, device=device, precision=precision)


def open_source(
    entry: spec.RewardEntry,
    *,
    modality: spec.Modality,
    device: torch.device,
    precision: Precision,
    max_length: int | None,
) -> Source:
    """The source of one entry."""
    if entry.rule is not None:
        return RuleReward.of_rule(entry.rule, modality=modality)
    if entry.python is not None:
        return RuleReward.of_function(entry.python)
    assert entry.model is not None
    if modality == "image":
        if entry.annotator is not None:
            raise BadInput("reward models of pictures know no annotators", file=entry.model, field="reward")
        return _open_pictures(entry, entry.model, device=device, precision=precision)
    if Path(entry.model).is_dir() and is_policy(entry.model):
        if entry.annotator is not None:
            raise BadInput("a tuned policy knows no annotators", file=entry.model, field="reward")
        return ImplicitReward(entry.model, device=device, precision=precision, max_length=max_length)
    return LearnedReward(
        entry.model, device=device, precision=precision, max_length=max_length, annotator=entry.annotator
    )


def _open_pictures(
    entry: spec.RewardEntry, folder: str, *, device: torch.device, precision: Precision
) -> Source:
    """A model of pictures, plain or asked, compared to other prompts or not."""
    source: Source
    if entry.ask is not None:
        from training.tuning.rewards.asked import AskedReward

        source = AskedReward(folder, entry.ask, device=device, precision=precision)
    else:
        from training.tuning.rewards.pictures import PictureReward

        source = PictureReward(folder, device=device, precision=precision)
    return source if entry.contrast is None else ContrastReward(source, entry.contrast)


def _within(values: Tensor, least: float | None, most: float | None) -> Tensor:
    inside = torch.ones_like(values, dtype=torch.bool)
    if least is not None:
        inside &= values >= least
    if most is not None:
        inside &= values <= most
    return inside
