"""Rewards of single tokens: from segments, corrections, critiques, steps and tuned policies.

Every function gives one number for each of the T tokens of an answer, (T,), without a gradient; their sum is
the reward of the answer. What a method adds besides (a penalty per token, whitening) is its own.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from jaxtyping import Float
from torch import Tensor

Span = tuple[int, int]  # characters, from and to


def at_ends(length: int, ends: Sequence[int], values: Float[Tensor, " S"]) -> Float[Tensor, " T"]:
    """The value of each segment as a reward of its last token; those of segments that end together add up.

    With values of ±w by the class of a segment these are the rewards of fine-grained RLHF (arXiv:2306.01693).
    """
    return torch.zeros(length).index_add_(0, torch.tensor(ends, dtype=torch.long), values.cpu().float())


def correction_rewards(answer: Sequence[int], predicted: Sequence[int]) -> Float[Tensor, " T"]:
    """A corrector's view of each token (Seq2Seq reward modelling, arXiv:2409.00162).

    ``predicted[t]`` is the token that it would write after the answer's own first t. As long as the two agree
    that is its rewrite, and tokens get 1; from where they part, −1 where it would write another one, else 0.
    """
    same = [own == other for own, other in zip(answer, predicted, strict=True)]
    parted = same.index(False) if False in same else len(same)
    return torch.tensor([1.0] * parted + [0.0 if agrees else -1.0 for agrees in same[parted:]])


def span_rewards(offsets: Sequence[Span], good: Sequence[Span], poor: Sequence[Span]) -> Float[Tensor, " T"]:
    """1 for tokens of praised spans, −1 for those of criticised ones, else 0 (Text2Grad, arXiv:2505.22338).

    ``offsets`` are the tokens' characters. A token in both kinds of spans gets 0.
    """

    def inside(spans: Sequence[Span]) -> Tensor:
        return torch.tensor(
            [float(any(start < to and since < end for since, to in spans)) for start, end in offsets]
        )

    return inside(good) - inside(poor)


def find_quote(text: str, quote: str, *, least: float = 0.8) -> Span | None:
    """Where a critique's quotation stands in the answer, as it is or nearly so; None if it does not.

    ``least`` is the share of the quotation's characters that must be found, in order and close together.
    """
    if (at := text.find(quote)) >= 0 and quote:
        return at, at + len(quote)
    blocks = [
        one for one in SequenceMatcher(None, text, quote, autojunk=False).get_matching_blocks() if one.size
    ]
    if not blocks or sum(one.size for one in blocks) < least * len(quote):
        return None
    start, end = blocks[0].a, blocks[-1].a + blocks[-1].size
    return (start, end) if end - start <= len(quote) / least else None


def min_form_credit(rewards: Float[Tensor, " S"], *, temperature: float) -> Float[Tensor, " S"]:
    """r_i · softmax(−r / T)_i: the worst step gets the credit (PURE, arXiv:2504.15275).

    As T falls the sum goes to the smallest reward, which no number of easy steps can buy off.
    """
    return rewards * (-rewards / temperature).softmax(dim=0)


def clipped_steps(rewards: Float[Tensor, " S"], *, threshold: float) -> Float[Tensor, " S"]:
    """min(r − η, 0): good steps earn nothing, so repeating them does not pay (arXiv:2410.15115)."""
    return (rewards - threshold).clamp(max=0)


def step_differences(rewards: Float[Tensor, " S"]) -> Float[Tensor, " S"]:
    """r_s − r_{s+1}, the last step's kept: the sum is the first step's reward (arXiv:2410.15115)."""
    return torch.cat([rewards[:-1] - rewards[1:], rewards[-1:]])
