"""What a corrected answer says about each token of the answer that was corrected. Torch-free."""

from collections.abc import Sequence
from difflib import SequenceMatcher


def correction_rewards(answer: Sequence[int | str], corrected: Sequence[int | str]) -> list[int]:
    """+1 for each token of ``answer`` until it first differs from ``corrected``, then −1 where it differs.

    After the first difference a token that stands in the correction too, in the same order, gets 0: it may be
    right, but it follows what is not. Sequence to sequence reward modelling (arXiv:2409.00162) rewards the
    tokens of a policy so against a model's rewrite; here a person wrote it. Tokens are ids or pieces of text;
    an unchanged answer gets +1 everywhere.
    """
    rewards: list[int] = []
    before = 1
    for operation, start, end, *_ in SequenceMatcher(None, answer, corrected, autojunk=False).get_opcodes():
        if operation != "equal":
            before = 0
        rewards += [before if operation == "equal" else -1] * (end - start)
    return rewards
