"""Writing answers. Every answer has its own random numbers, so it does not matter what it is batched with."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from training.tuning.text.attention import ordinary_attention
from training.tuning.text.models import TextModel


class SeededSampler(LogitsProcessor):
    """Replaces each row's logits by certainty about one token, sampled with that row's own random number."""

    def __init__(self, uniforms: Float[Tensor, "B steps"], *, temperature: float, top_p: float) -> None:
        self.uniforms = uniforms
        self.temperature = temperature
        self.top_p = top_p
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        """Scores (B, V) in, scores with one finite entry per row out."""
        chosen = sample_tokens(
            scores, self.uniforms[:, self.step], temperature=self.temperature, top_p=self.top_p
        )
        self.step += 1
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


@torch.no_grad()
def generate(
    model: TextModel,
    prompts: Sequence[Sequence[int]],
    *,
    keys: Sequence[str],
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
) -> list[str]:
    """The answers to prompts given as tokens. ``keys`` seed one answer each."""
    width = max(len(prompt) for prompt in prompts)
    padding = model.tokenizer.pad_token_id if model.tokenizer.pad_token_id is not None else model.end_ids[0]
    ids = torch.tensor([[padding] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    sampler = SeededSampler(
        uniforms(keys, max_new_tokens).to(model.device), temperature=temperature, top_p=top_p
    )
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
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                logits_processor=LogitsProcessorList([sampler]),
                generation_config=settings,
            )
    finally:
        inner.generation_config = kept
        inner.train(training)
    return [_decode(model.tokenizer, row.tolist(), end_ids) for row in written[:, width:]]


def _decode(tokenizer: Any, ids: list[int], end_ids: list[int]) -> str:
    stop = next((at for at, token in enumerate(ids) if token in end_ids), len(ids))
    return str(tokenizer.decode(ids[:stop], skip_special_tokens=True))
