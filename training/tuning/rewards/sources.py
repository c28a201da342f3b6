"""Where scores come from: one interface for learned models, tuned policies, rules and functions.

A source has ``measure(prompts, candidates) -> Measured``; N prompts stand beside N candidates, a prompt once
for each of its candidates. Candidates are texts (or messages), or PIL images.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.data import Text, plain_text
from training.tuning.errors import BadInput
from training.tuning.images.data import to_pixels
from training.tuning.plan import split
from training.tuning.rewards.info import RewardInfo, read_info
from training.tuning.rewards.rules import find_pixel_rule, find_rule
from training.tuning.rewards.spec import Modality
from training.tuning.rewards.transforms import one_score
from training.tuning.text.batches import GroupBatch, make_batch
from training.tuning.text.loading import load_for_use
from training.tuning.text.models import TextModel
from training.tuning.text.personal import load_taste, width_of
from training.tuning.text.probe import check_reading
from training.tuning.text.setup import TOKEN_BUDGET, open_tokenizer
from training.tuning.text.steps import last_token, score_of_steps, segments_of
from training.tuning.text.tokens import EncodedGroup, GroupTokenizer, Unusable

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Measured:
    """Outputs (N, T) of one source; NaN rows where ``why`` (by candidate) gives a reason."""

    outputs: Float[Tensor, "N T"]
    why: dict[int, str] = field(default_factory=dict)


def join(parts: Sequence[Measured]) -> Measured:
    """What was measured batch by batch as one."""
    why: dict[int, str] = {}
    done = 0
    for part in parts:
        why |= {done + at: reason for at, reason in part.why.items()}
        done += len(part.outputs)
    return Measured(torch.cat([part.outputs for part in parts]), why)


@runtime_checkable
class Source(Protocol):
    """What measures candidates, or a prompt alone. ``reduce`` makes one score of each row of outputs."""

    def measure(self, prompts: Sequence[Text], candidates: Sequence[Any]) -> Measured: ...

    def measure_prompt(self, prompt: Text) -> Measured: ...

    def reduce(self, outputs: Tensor, prompts: Sequence[Text]) -> Tensor: ...


@runtime_checkable
class PixelSource(Source, Protocol):
    """A source of images; where it is ``differentiable``, pictures can be measured with a gradient."""

    @property
    def differentiable(self) -> bool: ...

    def measure_pixels(self, prompts: Sequence[Text], pixels: Float[Tensor, "N 3 H W"]) -> Measured: ...


class LearnedReward:
    """A text reward model on disk: a result of ``reward_model``, or any sequence classifier in its format."""

    def __init__(
        self,
        folder: str | None,
        *,
        device: torch.device,
        precision: Precision = "fp32",
        max_length: int | None = 1024,
        annotator: str | None = None,
        passes: int = 0,
        dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.annotator = annotator
        self.model: TextModel = load_for_use(folder, kind="reward", precision=precision, device=device)
        check_reading(self.model, kind="reward")
        self.tokenizer = open_tokenizer(folder, kind="reward", max_length=max_length)
        if isinstance(self.tokenizer, GroupTokenizer):
            self.tokenizer.with_offsets = True
        self.info = read_info(self.model.base) or RewardInfo(
            outputs=self.model.inner.config.num_labels if not self.model.members else 1
        )
        self.taste = load_taste(self.info, self.model) if self.info.taste is not None else None
        users = self.info.taste.users if self.info.taste is not None else []
        if annotator is not None and annotator not in users:
            raise BadInput(f'this reward model knows no annotator "{annotator}"', file=self.model.base)
        self.masks = self._masks(passes, dropout, seed) if passes else None

    def _masks(self, passes: int, dropout: float, seed: int) -> Tensor:
        """Monte-Carlo dropout on what the head reads (T, H): each pass is one function of all answers."""
        if self.info.kind != "scalar" or self.info.outputs != 1 or self.model.members:
            raise BadInput("passes need a reward model with one output", file=self.model.base)
        more = {name: getattr(self.info, name) * passes for name in ("shift", "scale")}
        self.info = RewardInfo(kind="ensemble", outputs=passes, **more)
        size = (passes, width_of(self.model))
        kept = torch.rand(size, generator=torch.Generator().manual_seed(seed)) >= dropout
        return (kept / (1 - dropout)).to(self.model.device)

    @torch.no_grad()
    def measure(self, prompts: Sequence[Text], candidates: Sequence[Any]) -> Measured:
        """The normalised outputs. Candidates of one prompt that stand together share its tokens."""
        why: dict[int, str] = {}
        columns = self.info.outputs if self.taste is None else 1
        outputs = torch.full((len(prompts), columns), torch.nan, device=self.model.device)
        for rows, tokens, batch in self._batches(prompts, candidates, why):
            if self.info.kind == "steps":
                outputs[rows] = self._of_steps(batch, tokens, [candidates[at] for at in rows])
            else:
                outputs[rows] = self._outputs(batch)
        return Measured(outputs, why)

    @torch.no_grad()
    def features(self, prompts: Sequence[Text], candidates: Sequence[Any], *, count: int) -> Tensor:
        """What a linear reward could read of each answer (N, ``count``): the mean of its states, projected.

        The projection is the same for every model of the same width; distances keep to 1/√count (Johnson and
        Lindenstrauss, 1984). NaN where an answer cannot be read.
        """
        width = width_of(self.model)
        random = torch.randn((width, count), generator=torch.Generator().manual_seed(0)) / count**0.5
        projection = (random if count < width else torch.eye(width)).to(self.model.device)
        found = torch.full((len(prompts), projection.shape[1]), torch.nan, device=self.model.device)
        for rows, _, batch in self._batches(prompts, candidates, {}):
            states = self.model.states(batch).float()
            ends = zip(batch.first.tolist(), batch.last.tolist(), strict=True)
            found[rows] = (
                torch.stack([states[start : end + 1].mean(dim=0) for start, end in ends]) @ projection
            )
        return found

    def _batches(
        self, prompts: Sequence[Text], candidates: Sequence[Any], why: dict[int, str]
    ) -> Iterator[tuple[list[int], list[EncodedGroup], GroupBatch]]:
        """The candidates that can be read, by their places, laid out together."""
        groups: list[tuple[list[int], EncodedGroup]] = []
        for _, run in groupby(range(len(prompts)), key=lambda at: prompts[at]):
            groups += self._encode(list(run), prompts, candidates, why)
        sizes = [tokens.size for _, tokens in groups]
        for micro in split(range(len(groups)), sizes, most=None, budget=TOKEN_BUDGET):
            tokens = [groups[index][1] for index in micro]
            batch = make_batch(
                tokens,
                causal=self.model.layout != "separate",
                device=self.model.device,
                position_offset=self.model.position_offset,
            )
            yield [at for index in micro for at in groups[index][0]], tokens, batch

    def _outputs(self, batch: GroupBatch) -> Tensor:
        """Normalised outputs (N, T), or what they are worth to the annotator (N, 1)."""
        if self.masks is not None:
            read = self.model.reads(batch)
            passes = [self.model.score_head(read * mask.to(read)) for mask in self.masks]
            return self._normalised(torch.cat(passes, dim=1))
        if self.taste is None:
            return self._normalised(self.model.outputs(batch))
        read = self.taste.read(self.model, batch)
        return self.taste.scores(self.model, read, [self.annotator] * len(read))[:, None]

    def _of_steps(
        self, batch: GroupBatch, groups: Sequence[EncodedGroup], candidates: Sequence[Any]
    ) -> Tensor:
        """A process reward model's score of every candidate, in each of the outputs (N, T)."""
        logits = self._step_logits(batch, groups, candidates)
        scores = [score_of_steps(own, self.info.step_rule) for own in logits]
        return torch.stack(scores)[:, None].expand(-1, self.info.outputs)

    def _step_logits(
        self, batch: GroupBatch, groups: Sequence[EncodedGroup], candidates: Sequence[Any]
    ) -> list[Tensor]:
        """The logits (S,) of the segments of every candidate that its tokens reach, members averaged."""
        states, first = self.model.states(batch), batch.first.tolist()
        starts = [start for group in groups for start in group.starts]
        offsets = [own for group in groups for own in group.offsets or []]
        found = []
        for number, candidate in enumerate(candidates):
            spans = segments_of(_plain(candidate), self.info.segments)
            ends = [last_token(offsets[number], span) for span in spans]
            at = [first[number] + starts[number] + end for end in ends if end is not None]
            # An answer that was cut within its first step is read at its last token.
            read = states[at or [int(batch.last[number])]]
            logits = self.model.score_head(read.to(torch.promote_types(read.dtype, torch.float32)))
            found.append(logits.mean(dim=1))
        return found

    @torch.no_grad()
    def segment_logits(self, prompts: Sequence[Text], candidates: Sequence[Any]) -> list[Tensor]:
        """The logits (S,) of every candidate's segments; none of a candidate that cannot be read."""
        found = [torch.zeros(0, device=self.model.device)] * len(prompts)
        groups: list[tuple[list[int], EncodedGroup]] = []
        for at in range(len(prompts)):
            groups += self._encode([at], prompts, candidates, {})
        for micro in split(
            range(len(groups)), [one.size for _, one in groups], most=None, budget=TOKEN_BUDGET
        ):
            tokens = [groups[index][1] for index in micro]
            rows = [groups[index][0][0] for index in micro]
            batch = make_batch(tokens, causal=True, device=self.model.device)
            for at, own in zip(
                rows, self._step_logits(batch, tokens, [candidates[at] for at in rows]), strict=True
            ):
                found[at] = own
        return found

    @torch.no_grad()
    def measure_prompt(self, prompt: Text) -> Measured:
        """The outputs at the end of a prompt, before any answer."""
        if not isinstance(self.tokenizer, GroupTokenizer):
            raise BadInput("an encoder scores no prompt without an answer", file=self.model.base)
        ids = self.tokenizer.prompt_ids(prompt)
        shared = len(ids) - 1 if self.model.layout == "shared" else 0
        pictures = self.tokenizer.pictures(prompt)
        group = EncodedGroup(prefix=ids[:shared], blocks=[ids[shared:]], starts=[0], pictures=pictures)
        batch = make_batch([group], causal=True, device=self.model.device)
        return Measured(self._outputs(batch))

    def reduce(self, outputs: Tensor, prompts: Sequence[Text]) -> Tensor:
        """One score for each row, as ``reward.json`` says."""
        info = self.info
        if info.kind in ("steps", "personal"):
            return outputs[:, 0]
        if info.kind == "preference":
            return mean_preference(outputs, prompts, temperature=float(info.link["tau"]))  # type: ignore[arg-type]
        return one_score(outputs, info)

    def _normalised(self, outputs: Tensor) -> Tensor:
        shift = outputs.new_tensor(self.info.shift or [0.0])
        return (outputs - shift) * outputs.new_tensor(self.info.scale or [1.0])

    def _encode(
        self, rows: list[int], prompts: Sequence[Text], candidates: Sequence[Any], why: dict[int, str]
    ) -> list[tuple[list[int], EncodedGroup]]:
        """A group of candidates, or, if one of them cannot be used, each of the others on its own."""
        try:
            return [(rows, self.tokenizer.encode(prompts[rows[0]], [candidates[at] for at in rows]))]
        except Unusable as reason:
            if len(rows) == 1:
                why[rows[0]] = str(reason)
                return []
        return [one for at in rows for one in self._encode([at], prompts, candidates, why)]


def mean_preference(vectors: Float[Tensor, "N D"], prompts: Sequence[Text], *, temperature: float) -> Tensor:
    """Mean probability of each candidate to be preferred to the others of its prompt, (N,); ½ if it is alone.

    The score s̄ of general preference optimisation (arXiv:2410.02197).
    """
    from training.tuning.losses.general_preference import preference_scores

    scores = vectors.new_full((len(vectors),), 0.5)
    for _, run in groupby(range(len(prompts)), key=lambda at: prompts[at]):
        rows = list(run)
        if len(rows) > 1:
            first = vectors[rows].repeat_interleave(len(rows), dim=0)
            second = vectors[rows].repeat(len(rows), 1)
            wins = torch.sigmoid(preference_scores(first, second) / temperature)
            scores[rows] = (wins.view(len(rows), -1).sum(dim=1) - 0.5) / (len(rows) - 1)
    return scores


def find_function(name: str) -> Any:
    """``module:function``. BadInput if it is not there."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"{name} cannot be imported: {error}", file="run.json", field="reward") from None


class RuleReward:
    """A rule of ``rules.py``, or a function ``score(prompts, candidates) -> list[float]``.

    A function of pictures that has the attribute ``differentiable = True`` is called as
    ``score(prompts, pixels)`` instead, with a tensor (N, 3, H, W) in -1..1, and returns a tensor (N,).
    """

    def __init__(
        self,
        score: Callable[[Sequence[Any], Sequence[Any]], Sequence[float]],
        name: str,
        of_pixels: Callable[[Sequence[Any], Tensor], Tensor] | None = None,
    ) -> None:
        self.score = score
        self.name = name
        self.of_pixels = of_pixels

    @property
    def differentiable(self) -> bool:
        """Whether ``measure_pixels`` works."""
        return self.of_pixels is not None

    @classmethod
    def of_rule(cls, name: str, *, modality: Modality) -> "RuleReward":
        """A rule's function, one candidate after the other."""
        rule = find_rule(name, modality=modality)
        pixel_rule = find_pixel_rule(name) if modality == "image" else None

        def score(prompts: Sequence[Any], candidates: Sequence[Any]) -> list[float]:
            pairs = zip(prompts, candidates, strict=True)
            return [rule(_plain(prompt), _plain(candidate)) for prompt, candidate in pairs]

        return cls(score, name, pixel_rule and (lambda prompts, pixels: pixel_rule(pixels)))

    @classmethod
    def of_function(cls, name: str) -> "RuleReward":
        """``module:function``. BadInput if it is not there."""
        score = find_function(name)
        if not getattr(score, "differentiable", False):
            return cls(score, name)

        def one_by_one(prompts: Sequence[Any], images: Sequence[Any]) -> list[float]:
            pairs = zip(prompts, images, strict=True)
            return [float(score([prompt], to_pixels(image)[None])) for prompt, image in pairs]

        return cls(one_by_one, name, score)

    def measure(self, prompts: Sequence[Text], candidates: Sequence[Any]) -> Measured:
        """One output per candidate."""
        values = list(self.score(list(prompts), list(candidates)))
        if len(values) != len(candidates):
            raise BadInput(
                f"{self.name} gave {len(values)} scores for {len(candidates)} candidates", field="reward"
            )
        return Measured(torch.tensor([float(value) for value in values], dtype=torch.float32)[:, None])

    def measure_pixels(self, prompts: Sequence[Text], pixels: Float[Tensor, "N 3 H W"]) -> Measured:
        """The same of pictures in -1..1, with a gradient. BadInput where there is none."""
        if self.of_pixels is None:
            raise BadInput(f"{self.name} has no gradient", field="reward")
        return Measured(self.of_pixels(list(prompts), pixels).float()[:, None])

    def measure_prompt(self, prompt: Text) -> Measured:
        """The output of an empty answer."""
        return self.measure([prompt], [""])

    def reduce(self, outputs: Tensor, prompts: Sequence[Text]) -> Tensor:
        """The one output."""
        return outputs[:, 0]


def _plain(content: Any) -> Any:
    """Texts and messages as text; images as they are."""
    is_messages = isinstance(content, list)
    return plain_text(content) if is_messages else content
