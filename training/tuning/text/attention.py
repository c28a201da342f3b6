"""Attention that obeys the layout of a group batch, registered with transformers as ``tiebreak_groups``.

For a causal model each group takes two calls of scaled dot-product attention: the prefix with itself, and all
its blocks with the prefix and themselves under one small mask. For an encoder each block is one call.
Transformers hands keyword arguments through to the implementation; ``layout`` is one, and no mask is made
elsewhere.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from training.tuning.errors import BadInput
from training.tuning.text.batches import Layout, Segment
from training.tuning.text.last_layer import skip_unread

NAME = "tiebreak_groups"
Attend = Callable[..., Tensor]

# What models pass along that changes nothing here: positions are already in the queries and keys.
_HARMLESS = {"position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states"}


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """One layer. ``query`` is (1, heads, T, d), ``key`` and ``value`` (1, key heads, T, d); returns (1, T,
    heads, d).

    Raises BadInput for what the layout cannot honour, rather than attend to the wrong tokens.
    """
    unknown = sorted(name for name, value in others.items() if value is not None and name not in _HARMLESS)
    if unknown or attention_mask is not None or (layout.causal and is_causal is False):
        what = ", ".join(unknown) or "its own attention mask"
        raise BadInput(
            f"{type(module).__name__} uses {what}, which group batches do not support", field="base"
        )
    layout.calls += 1
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    attend = partial(F.scaled_dot_product_attention, dropout_p=dropout, scale=scaling)
    one_by_one = _causal if layout.causal else _bidirectional
    parts = one_by_one(attend, query, key, value, layout, sliding_window)
    return torch.cat(list(parts), dim=2).transpose(1, 2), None


# Both split rather than slice where they can: the gradient of a slice is as long as what it was cut from,
# and mostly zeros.


def _bidirectional(
    attend: Attend, query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None
) -> Iterator[Tensor]:
    """What every block gives, in order."""
    lengths = [length for segment in layout.segments for length in segment.blocks]
    _check_window(max(lengths), window)
    for own in zip(*(whole.split(lengths, dim=2) for whole in (query, key, value)), strict=True):
        yield attend(*own)


def _causal(
    attend: Attend, query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None
) -> Iterator[Tensor]:
    """What every group's prefix and then its blocks give, in order."""
    segments = layout.segments
    queries = iter(query.split([length for one in segments for length in (one.prefix, sum(one.blocks))], 2))
    keys, values = (whole.split([one.end - one.start for one in segments], dim=2) for whole in (key, value))
    for number, (segment, own_keys, own_values) in enumerate(zip(segments, keys, values, strict=True)):
        of_prefix, of_blocks = next(queries), next(queries)
        if segment.prefix:
            cut = window is not None and segment.prefix > window
            mask = _mask(layout, number, segment, window, query, of_prefix=True) if cut else None
            seen = own_keys[:, :, : segment.prefix], own_values[:, :, : segment.prefix]
            yield attend(of_prefix, *seen, attn_mask=mask, is_causal=not cut)
        mask = _mask(layout, number, segment, window, query, of_prefix=False)
        yield attend(of_blocks, own_keys, own_values, attn_mask=mask)


def _check_window(length: int, window: int | None) -> None:
    if window is not None and length > window:
        raise BadInput("encoders with a sliding window shorter than the text are not supported", field="base")


def _mask(
    layout: Layout, number: int, segment: Segment, window: int | None, like: Tensor, *, of_prefix: bool
) -> Tensor:
    """Additive mask of prefix with prefix, or of blocks with prefix and blocks; made once per batch."""
    reach = window if window is not None and window < segment.prefix + max(segment.blocks) else None
    key = (number, reach, of_prefix, like.dtype)
    if key not in layout.masks:
        allowed = visible(segment, window=reach, device=like.device)
        allowed = allowed[: segment.prefix, : segment.prefix] if of_prefix else allowed[segment.prefix :]
        additive = torch.zeros(allowed.shape, dtype=like.dtype, device=like.device)
        layout.masks[key] = additive.masked_fill_(~allowed, float("-inf"))
    return layout.masks[key]


def visible(segment: Segment, *, window: int | None, device: torch.device) -> Tensor:
    """(tokens, tokens) of one group: which keys a query may see. ``window`` counts logical positions."""
    lengths = torch.tensor([segment.prefix, *segment.blocks], device=device)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
    place = torch.cat([torch.arange(int(length), device=device) for length in lengths])
    position = place + segment.prefix * (owner > 0)
    allowed = (owner[None] == 0) | (owner[None] == owner[:, None])
    allowed &= position[None] <= position[:, None]
    if window is not None:
        allowed &= position[:, None] - position[None] < window
    return allowed


def read_groups(model: Any) -> None:
    """Let ``model`` (a transformers model) read group batches from now on.

    Not for one call at a time: with gradient checkpointing the backward pass runs the layers once more.
    """
    language = _language(model)
    language.set_attn_implementation(NAME)
    skip_unread(language, layers=language.config.get_text_config().num_hidden_layers)


def _language(model: Any) -> Any:
    """The part of a model that reads groups: a vision part keeps its own attention."""
    return getattr(model.base_model, "language_model", model)


@contextlib.contextmanager
def ordinary_attention(model: Any) -> Iterator[None]:
    """Let ``model`` read ordinary rows inside the block, as for generation."""
    language = _language(model)
    before = language.config._attn_implementation
    language.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        language.set_attn_implementation(before)


AttentionInterface.register(NAME, grouped_attention)
