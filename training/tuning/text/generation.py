"""Writing answers. Every answer has its own random numbers, so it does not matter what it is batched with."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from training.tuning.errors import BadInput
from training.tuning.text.attention import ordinary_attention
from training.tuning.text.models import TextModel
from training.tuning.text.pictures import Picture, PictureReader


@dataclass(frozen=True)
class Answer:
    """A sampled answer: its tokens, the end token with them if the model wrote one (``ended``).

    ``logprobs[t]`` is the log-probability of token t under the model at the sampling temperature (1 for
    greedy decoding), before ``top_p`` cut anything.
    """

    ids: list[int]
    logprobs: list[float]
    ended: bool


# From the mask of the prompts to what changes the logits of every step.
Guided = Callable[[Tensor], LogitsProcessor]


class SeededSampler(LogitsProcessor):
    """Replaces each row's logits by certainty about one token, sampled with that row's own random number.

    ``logprobs`` collects the (B,) log-probabilities of what was sampled, step by step.
    """

    def __init__(self, uniforms: Float[Tensor, "B steps"], *, temperature: float, top_p: float) -> None:
        self.uniforms = uniforms
        self.temperature = temperature
        self.top_p = top_p
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        """Scores (B, V) in, scores with one finite entry per row out."""
        step = len(self.logprobs)
        chosen = sample_tokens(scores, self.uniforms[:, step], temperature=self.temperature, top_p=self.top_p)
        tempered = torch.log_softmax(scores.float() / (self.temperature or 1.0), dim=1)
        self.logprobs.append(tempered.gather(1, chosen[:, None])[:, 0])
        certain = torch.full_like(scores, float("-inf"))
        return certain.scatter_(1, chosen[:, None], 0.0)


def sample_tokens(
    logits: Float[Tensor, "B V"], uniforms: Float[Tensor, " B"], *, temperature: float, top_p: float
) -> Tensor:
    """One token per row (B,) by inverting the cumulative distribution; temperature 0 is the likeliest token.

    With ``top_p`` below 1 the smallest set of tokens whose mass reaches it is kept and renormalised.
    """
    if temperature == 0:
        return logits.argmax(dim=1)
    mass = torch.softmax(logits.double() / temperature, dim=1)
    if top_p < 1:
        ordered, order = mass.sort(dim=1, descending=True, stable=True)
        ordered[ordered.cumsum(dim=1) - ordered >= top_p] = 0
        mass = torch.zeros_like(mass).scatter_(1, order, ordered)
    total = mass.cumsum(dim=1)
    found = torch.searchsorted(total, uniforms.double()[:, None] * total[:, -1:], right=True)[:, 0]
    return found.clamp_(max=logits.shape[1] - 1)


def uniforms(keys: Sequence[str], count: int) -> Float[Tensor, "B steps"]:
    """``count`` random numbers in [0, 1) for every key, which determines them."""
    rows = []
    for key in keys:
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
        rows.append(torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return torch.stack(rows)


def batches_of(
    prompts: Sequence[Sequence[int]], *, context: int, max_new_tokens: int, size: int
) -> Iterator[tuple[list[int], int]]:
    """(indices of prompts, longest answer) of each batch, such that no prompt's answer leaves the context.

    Prompts that leave less room than ``max_new_tokens`` go together only with prompts of the same length.
    """
    rooms: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        rooms[min(max_new_tokens, context - len(prompt))].append(index)
    for room, indices in rooms.items():
        for at in range(0, len(indices), size):
            yield indices[at : at + size], room


def generate(
    model: TextModel,
    prompts: Sequence[Sequence[int]],
    *,
    keys: Sequence[str],
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    guided: Guided | None = None,
    pictures: Sequence[Sequence[Picture]] = (),
) -> list[str]:
    """The answers to prompts given as tokens, as texts. ``keys`` seed one answer each; the rest is as for
    ``sample_answers``.
    """
    answers = sample_answers(
        model,
        prompts,
        keys=keys,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        guided=guided,
        pictures=pictures,
    )
    return [text_of(answer, model) for answer in answers]


def text_of(answer: Answer, model: TextModel) -> str:
    """The answer without its end token."""
    ids = answer.ids[:-1] if answer.ended else answer.ids
    return str(model.tokenizer.decode(ids, skip_special_tokens=True))


@torch.no_grad()
def sample_answers(
    model: TextModel,
    prompts: Sequence[Sequence[int]],
    *,
    keys: Sequence[str],
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    guided: Guided | None = None,
    pictures: Sequence[Sequence[Picture]] = (),
) -> list[Answer]:
    """One answer for each key. There are as many keys as prompts, or k times as many: k answers in a row to
    each prompt, which is then read once. ``guided``, from the mask (B, T) of the prompts, changes the logits.
    A model with a ``server`` has its answers written there. ``pictures`` are each prompt's, if any has.
    """
    copies, left = divmod(len(keys), len(prompts))
    if left:
        raise ValueError(f"{len(keys)} keys for {len(prompts)} prompts: give every prompt equally many")
    _check_pictures(model, prompts, pictures)
    seen = [one for own in pictures for one in own]
    if model.server is not None and guided is None:
        if seen:
            raise BadInput(
                "prompts with pictures are answered by local generation", field="config.generation"
            )
        return model.server.sample(
            model,
            prompts,
            keys=keys,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
        )
    width = max(len(prompt) for prompt in prompts)
    padding = model.tokenizer.pad_token_id if model.tokenizer.pad_token_id is not None else model.end_ids[0]
    ids = torch.tensor([[padding] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    ids, mask = ids.to(model.device), mask.to(model.device)
    sampler = SeededSampler(
        uniforms(keys, max_new_tokens).to(model.device), temperature=temperature, top_p=top_p
    )
    repeated = [one for own in pictures for _ in range(copies) for one in own]
    inner, end_ids = model.inner, model.end_ids
    kept, training = inner.generation_config, inner.training
    # The model's own defaults (penalties, other temperatures) would be mixed in silently.
    inner.generation_config = GenerationConfig()
    inner.eval()
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=end_ids,
        pad_token_id=padding,
        use_cache=True,
    )
    try:
        with ordinary_attention(inner):
            written = inner.generate(
                input_ids=ids.repeat_interleave(copies, dim=0),
                attention_mask=mask.repeat_interleave(copies, dim=0),
                logits_processor=LogitsProcessorList(
                    [*([guided(mask.repeat_interleave(copies, dim=0))] if guided else []), sampler]
                ),
                generation_config=settings,
                **(_prompt_cache(model, ids, mask, copies, seen) or model.vision_inputs(repeated)),
            )
    finally:
        inner.generation_config = kept
        inner.train(training)
    logprobs = torch.stack(sampler.logprobs, dim=1).tolist()
    return [
        _answer(row, values, end_ids)
        for row, values in zip(written[:, width:].tolist(), logprobs, strict=True)
    ]


def _check_pictures(
    model: TextModel, prompts: Sequence[Sequence[int]], pictures: Sequence[Sequence[Picture]]
) -> None:
    """BadInput where the places of pictures stand in a prompt and nobody gave the pictures."""
    if model.processor is None or pictures:
        return
    place = PictureReader(model.processor).token_id
    if any(place in prompt for prompt in prompts):
        raise BadInput("this work is not done on prompts with pictures; leave such rows out", field="prompt")


def _prompt_cache(
    model: TextModel, ids: Tensor, mask: Tensor, copies: int, pictures: Sequence[Picture]
) -> dict[str, Any]:
    """What all answers to a prompt share, read once: keys and values of its tokens but the last."""
    if copies == 1 or ids.shape[1] == 1 or model.layout != "shared":
        return {}
    positions = (mask.cumsum(dim=1) - 1).clamp_(min=0)
    cache = model.inner.base_model(
        input_ids=ids[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=positions[:, :-1],
        use_cache=True,
        **model.vision_inputs(pictures),
    ).past_key_values
    cache.batch_repeat_interleave(copies)
    return {"past_key_values": cache}


def _answer(ids: list[int], logprobs: list[float], end_ids: list[int]) -> Answer:
    stop = next((at + 1 for at, token in enumerate(ids) if token in end_ids), None)
    return Answer(ids=ids[:stop], logprobs=logprobs[:stop], ended=stop is not None)
