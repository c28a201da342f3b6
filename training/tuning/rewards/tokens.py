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


def segment_rewards(
    length: int, ends: Sequence[int], good: Sequence[bool], *, weight: float
) -> Float[Tensor, " T"]:
    """±w at the last token of each segment, by the class that a classifier gave it (arXiv:2306.01693).

    ``ends`` are the places of the segments' last tokens; rewards of several kinds of segments (sub-sentences
    for relevance, sentences for factuality) add up. A score of the whole answer is a reward of its last
    token.
    """
    rewards = torch.zeros(length)
    for end, is_good in zip(ends, good, strict=True):
        rewards[end] += weight if is_good else -weight
    return rewards


def correction_rewards(
    answer: Sequence[int], rewrite: Sequence[int], predicted: Sequence[int]
) -> Float[Tensor, " T"]:
    """A corrector's view of each token (Seq2Seq reward modelling, arXiv:2409.00162).

    ``rewrite`` is the answer as the corrector writes it, ``predicted[t]`` the token that it expects after the
    answer's own first t. Tokens get 1 until answer and rewrite part; from there −1 where the prediction
    is another token than the answer's, else 0.
    """
    same = 0
    while same < min(len(answer), len(rewrite)) and answer[same] == rewrite[same]:
        same += 1
    later = [-1.0 if answer[at] != predicted[at] else 0.0 for at in range(same, len(answer))]
    if later:
        later[0] = -1.0  # where they part, the rewrite is the prediction
    return torch.tensor([1.0] * same + later)


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
