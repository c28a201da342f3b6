"""Log-probabilities of answers: float32, at answer positions only, and without a tensor of all logits."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Float32 logits that exist at one time, in elements: 32 MiB.
CHUNK_ELEMENTS = 1 << 23


def token_logprobs(
    states: Float[Tensor, "C H"],
    weight: Float[Tensor, "V H"],
    bias: Float[Tensor, " V"] | None,
    targets: Int[Tensor, " C"],
    *,
    dtype: torch.dtype,
) -> Float[Tensor, " C"]:
    """log softmax(states · weightᵀ + bias)[targets], in float32 (float64 if ``dtype`` is).

    The matrix product is computed in ``dtype``; the softmax over chunks of rows. Nothing of size C × V is
    kept: if only the states need a gradient it is computed along with the values, else logits are computed
    once more.
    """
    return _TokenLogprobs.apply(states, weight, bias, targets, dtype)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        head = weight.to(dtype)
        need_states, need_head = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
        gradients = torch.empty_like(states) if need_states and not need_head else None
        values = states.new_empty(len(targets), dtype=_wide(dtype))
        for rows in _chunks(len(targets), len(weight)):
            log_p = _log_softmax(states[rows].to(dtype), head, bias)
            values[rows] = log_p.gather(1, targets[rows, None])[:, 0]
            if gradients is not None:
                gradients[rows] = _one_minus_p(log_p, targets[rows]).to(dtype) @ head
        ctx.dtype, ctx.has_bias = dtype, bias is not None
        if gradients is not None:
            ctx.save_for_backward(gradients)
        else:
            ctx.save_for_backward(states, weight, targets, *([bias] if bias is not None else []))
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        if len(ctx.saved_tensors) == 1:
            (gradients,) = ctx.saved_tensors
            return (gradients * grad[:, None]).to(gradients.dtype), None, None, None, None
        states, weight, targets, *rest = ctx.saved_tensors
        bias = rest[0] if ctx.has_bias else None
        head = weight.to(ctx.dtype)
        grad_states = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for rows in _chunks(len(targets), len(weight)):
            part = states[rows].to(ctx.dtype)
            slope = _one_minus_p(_log_softmax(part, head, bias), targets[rows]) * grad[rows, None]
            if grad_bias is not None:
                grad_bias += slope.sum(0).to(grad_bias.dtype)
            slope = slope.to(ctx.dtype)
            if grad_states is not None:
                grad_states[rows] = (slope @ head).to(states.dtype)
            if grad_weight is not None:
                grad_weight += (slope.T @ part).to(weight.dtype)
        return grad_states, grad_weight, grad_bias, None, None


@torch.no_grad()
def token_log_sum_squares(
    states: Float[Tensor, "C H"],
    weight: Float[Tensor, "V H"],
    bias: Float[Tensor, " V"] | None,
    *,
    dtype: torch.dtype,
) -> Float[Tensor, " C"]:
    """log Σ_v p_v² of the next token's distribution, without a gradient: 0 where it is certain."""
    head = weight.to(dtype)
    parts = [
        torch.logsumexp(2 * _log_softmax(states[rows].to(dtype), head, bias), dim=1)
        for rows in _chunks(len(states), len(weight))
    ]
    return torch.cat(parts) if parts else states.new_empty(0, dtype=_wide(dtype))


def token_kl(
    states: Float[Tensor, "C H"],
    weight: Float[Tensor, "V H"],
    bias: Float[Tensor, " V"] | None,
    reference_states: Float[Tensor, "C H"],
    reference_weight: Float[Tensor, "V H"],
    *,
    dtype: torch.dtype,
) -> Float[Tensor, " C"]:
    """KL(π_ref ‖ π) of the next token's distribution, over the whole vocabulary; the reference gets no
    gradient.
    """

    def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
        return (log_q.exp() * (log_q - log_p)).sum(1)

    other = reference_states, reference_weight, bias
    return token_divergence((states, weight, bias), other, kl, dtype=dtype)


Head = tuple[Tensor, Tensor, Tensor | None]  # states (C, H), weight (V, H), bias (V,)


def token_divergence(
    own: Head, other: Head, divergence: Callable[[Tensor, Tensor], Tensor], *, dtype: torch.dtype
) -> Float[Tensor, " C"]:
    """``divergence(log_p, log_q)`` (C,) of two models' next-token distributions; the other gets no gradient.

    Rows of padding by which one vocabulary is longer are left out. Chunks are computed once more in the
    backward pass, so that no tensor of all logits is kept.
    """
    (states, weight, bias), (other_states, other_weight, other_bias) = own, other
    size = min(len(weight), len(other_weight))

    def part(states: Tensor, weight: Tensor, bias: Tensor | None, rows: slice) -> Tensor:
        log_p = F.log_softmax(_logits(states.to(dtype), weight[:size].to(dtype), _cut(bias, size)), dim=1)
        with torch.no_grad():
            head = other_weight[:size].to(dtype)
            log_q = F.log_softmax(_logits(other_states[rows].to(dtype), head, _cut(other_bias, size)), dim=1)
        return divergence(log_p, log_q)

    parts = [
        checkpoint(part, states[rows], weight, bias, rows, use_reentrant=False)
        for rows in _chunks(len(states), size)
    ]
    return torch.cat(parts) if parts else states.new_empty(0, dtype=_wide(dtype))


def _cut(bias: Tensor | None, size: int) -> Tensor | None:
    return None if bias is None else bias[:size]


def _logits(states: Tensor, head: Tensor, bias: Tensor | None) -> Tensor:
    logits = (states @ head.T).to(_wide(states.dtype))
    return logits if bias is None else logits + bias.to(logits.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _log_softmax(states: Tensor, head: Tensor, bias: Tensor | None) -> Tensor:
    return _logits(states, head, bias).log_softmax(dim=1)


def _one_minus_p(log_p: Tensor, targets: Tensor) -> Tensor:
    """Slope of the target's log-probability in the logits: one at the target, minus the probabilities."""
    slope = log_p.exp_().neg_()
    slope[torch.arange(len(targets), device=targets.device), targets] += 1
    return slope


def _chunks(rows: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    return [slice(at, min(at + size, rows)) for at in range(0, rows, size)]


def chosen_logprobs(
    states: Float[Tensor, "C H"],
    weight: Float[Tensor, "V H"],
    bias: Float[Tensor, " V"] | None,
    columns: Int[Tensor, "C K"],
    *,
    dtype: torch.dtype,
) -> Float[Tensor, "C K"]:
    """log softmax(states · weightᵀ + bias) at K columns of every row; logits are computed again for "
    "gradients."""
    found = []
    for rows in _chunks(len(states), len(weight)):

        def of_rows(part: Tensor, rows: slice = rows) -> Tensor:
            return _log_softmax(part.to(dtype), weight.to(dtype), bias).gather(1, columns[rows])

        found.append(checkpoint(of_rows, states[rows], use_reentrant=False))
    return torch.cat(found)


@torch.no_grad()
def likeliest_tokens(
    states: Float[Tensor, "C H"],
    weight: Float[Tensor, "V H"],
    bias: Float[Tensor, " V"] | None,
    *,
    count: int,
    dtype: torch.dtype,
) -> Int[Tensor, "C K"]:
    """The ``count`` columns with the largest logits of every row, largest first."""
    most = min(count, len(weight))
    return torch.cat(
        [
            _log_softmax(states[rows].to(dtype), weight.to(dtype), bias).topk(most, dim=1).indices
            for rows in _chunks(len(states), len(weight))
        ]
    )


def per_candidate(values: Float[Tensor, " C"], counts: list[int]) -> Float[Tensor, " N"]:
    """Sums over each candidate's tokens, in the order in which they lie."""
    return torch.stack([part.sum() for part in values.split(counts)])
