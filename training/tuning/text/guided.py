"""Decoding that rewards steer: token by token with autoregressive rewards, or segment by segment.

Both are for one language model and need no training.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LogitsProcessor

from training.tuning.data import Text
from training.tuning.errors import BadInput
from training.tuning.rewards.compose import Rewards
from training.tuning.rewards.selection import acceptance, segment_start, segment_threshold
from training.tuning.text.attention import ordinary_attention
from training.tuning.text.generation import sample_tokens, uniforms
from training.tuning.text.models import Frozen, TextModel

SHORTEST, LONGEST, TRIES = 4, 64, 20  # tokens of a segment, and proposals for it (arXiv:2406.16306)


def guided_logits(
    base: Float[Tensor, "B V"],
    guides: Sequence[Float[Tensor, "B V"]],
    weights: Sequence[float],
    *,
    own: float = 1.0,
) -> Float[Tensor, "B V"]:
    """own · log π_base + Σ_i α_i log π_i: GenARM, arXiv:2410.08193. Softmax gives the next token's
    probabilities. With own = 1 − α it is the geometric mixture of Nash-MD.

    Arguments are logits. An autoregressive reward is a language model trained on preferences without a
    reference; α = 1/β. A uniform guide, or α = 0, changes nothing.
    """
    total = own * base.log_softmax(dim=1)
    for logits, weight in zip(guides, weights, strict=True):
        total = total + weight * logits.log_softmax(dim=1)
    return total


class Guide(LogitsProcessor):
    """Adds the guides' log-probabilities to a batch's logits while it is written; keeps their caches.

    Guides are read ``within`` a block, such as the one in which a policy is what it started from.
    """

    def __init__(
        self,
        models: Sequence[TextModel],
        weights: Sequence[float],
        mask: Tensor,
        *,
        own: float = 1.0,
        within: Frozen = contextlib.nullcontext,
    ) -> None:
        self.models = models
        self.weights = weights
        self.mask = mask
        self.own = own
        self.within = within
        self.caches: list[Any] = [None] * len(models)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        """Tokens so far (B, T) and logits (B, V) in, guided logits out."""
        new = input_ids.shape[1] - self.mask.shape[1]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), new)], dim=1)
        guides = [self._logits(number, input_ids).to(scores) for number in range(len(self.models))]
        return guided_logits(scores, guides, self.weights, own=self.own)

    def _logits(self, number: int, input_ids: Tensor) -> Tensor:
        inner, cache = self.models[number].inner, self.caches[number]
        positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)
        since = 0 if cache is None else -1
        with self.within(), ordinary_attention(inner):
            output = inner(
                input_ids=input_ids[:, since:],
                attention_mask=self.mask,
                position_ids=positions[:, since:],
                past_key_values=cache,
                use_cache=True,
            )
        self.caches[number] = output.past_key_values
        logits: Tensor = output.logits[:, -1]
        return logits


def check_same_tokens(model: TextModel, guide: TextModel) -> None:
    """BadInput unless both mean the same by every token."""
    if model.tokenizer.get_vocab() != guide.tokenizer.get_vocab():
        raise BadInput(
            "a guide must have the tokens of the model that writes", file=guide.base, field="reward"
        )


@dataclass(frozen=True)
class Segments:
    """Settings of segment-level rejection sampling (CARDS, arXiv:2406.16306).

    A segment ends before a token whose distribution has an entropy of ``entropy`` nats or more. The prefix to
    its end is accepted with probability min(1, exp((r − τ) / ``beta``)), where τ rises from
    (1 − ``alpha``) r(prompt) + ``alpha`` · ``goal`` to ``goal`` within ``horizon`` tokens.
    """

    goal: float
    horizon: int
    entropy: float
    alpha: float
    beta: float


@torch.no_grad()
def write_by_segments(
    model: TextModel,
    ids: Sequence[int],
    prompt: Text,
    rewards: Rewards,
    settings: Segments,
    *,
    key: str,
    max_new_tokens: int,
    temperature: float,
) -> str:
    """An answer to a prompt given as tokens and text; after ``TRIES`` rejections the best seen is taken."""
    start = segment_start(rewards.prompt_score(prompt), settings.goal, alpha=settings.alpha)
    answer: list[int] = []
    ended = False
    while not ended and len(answer) < max_new_tokens:
        best: tuple[float, list[int], bool] | None = None
        for attempt in range(TRIES):
            own = f"{key}/{len(answer)}/{attempt}"
            limit = min(LONGEST, max_new_tokens - len(answer))
            segment, ends = _draw(model, [*ids, *answer], own, limit, settings.entropy, temperature)
            text = _decode(model, [*answer, *segment])
            score = float(rewards.score([prompt], [text], unusable=-torch.inf)[0])
            if best is None or score > best[0]:
                best = (score, segment, ends)
            goal = segment_threshold(
                start, settings.goal, tokens=len(answer) + len(segment), horizon=settings.horizon
            )
            chance = float(uniforms([f"{own}/accept"], 1)[0, 0])
            if chance < acceptance(score, goal, beta=settings.beta):
                best = (score, segment, ends)
                break
        assert best is not None
        answer += best[1]
        ended = best[2]
    return _decode(model, answer)


def _draw(
    model: TextModel, ids: list[int], key: str, limit: int, entropy: float, temperature: float
) -> tuple[list[int], bool]:
    """One segment, without the end token, and whether that came after it."""
    chances = uniforms([key], limit + 1).to(model.device)
    segment: list[int] = []
    cache, fed = None, torch.tensor([ids], device=model.device)
    with ordinary_attention(model.inner):
        while len(segment) < limit:
            output = model.inner(input_ids=fed, past_key_values=cache, use_cache=True)
            logits, cache = output.logits[:, -1].float(), output.past_key_values
            log_p = logits.log_softmax(dim=1)
            unsure = float(-(log_p.exp() * log_p).sum()) >= entropy
            if unsure and len(segment) >= SHORTEST:
                return segment, False
            chosen = sample_tokens(logits, chances[:, len(segment)], temperature=temperature, top_p=1.0)
            if int(chosen) in model.end_ids:
                return segment, True
            segment.append(int(chosen))
            fed = chosen[:, None]
    return segment, False


def _decode(model: TextModel, ids: list[int]) -> str:
    return str(model.tokenizer.decode(ids, skip_special_tokens=True))
