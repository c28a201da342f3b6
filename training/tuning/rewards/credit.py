"""Where in an answer a reward falls: the ``credit`` of an entry of a ``reward`` list. Torch-free.

Without it an entry gives one score to the whole answer. With it every token gets a reward of its own; ``ppo``
(and ``rloo`` with ``actions: tokens``) train on them where they fall, other methods on their sum.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.shared import Config


class TokenCredit(Config):
    """Every token's log-ratio of a tuned policy to its reference: RTO (arXiv:2404.18922)."""

    name: Literal["tokens"]


class SegmentCredit(Config):
    """A score for each segment of the answer, at the segment's last token.

    The scores are a process reward model's (of the segments that it was trained on) or a rule's, read on each
    segment ``by`` itself. ``how``: ``plain`` as they are; ``sign`` 1 or −1 (fine-grained RLHF,
    arXiv:2306.01693); ``min_form`` weighed by softmax(−r / ``temperature``), so that the worst one counts
    (PURE, arXiv:2504.15275); ``clip`` min(r − ``threshold``, 0); ``delta`` the differences r_s − r_{s+1}
    (both arXiv:2410.15115).
    """

    name: Literal["segments"]
    by: Literal["steps", "sentences", "clauses"] | None = None
    how: Literal["plain", "sign", "min_form", "clip", "delta"] = "plain"
    temperature: float | None = Field(None, gt=0)
    threshold: float | None = None

    @model_validator(mode="after")
    def _keys_have_a_use(self) -> Self:
        for key, how in (("temperature", "min_form"), ("threshold", "clip")):
            if (getattr(self, key) is not None) != (self.how == how):
                raise ValueError(f'{key} belongs to "how": "{how}", which needs it')
        return self


class CorrectionCredit(Config):
    """1 for tokens as a corrector would write them, −1 from where it would not: arXiv:2409.00162.

    The model is what ``sft`` makes with ``train_on: rewrites``.
    """

    name: Literal["correction"]


class CritiqueCredit(Config):
    """1 for tokens that a critic quotes as good, −1 for those that it quotes as poor: arXiv:2505.22338.

    The model is what ``sft`` makes with ``train_on: critiques``; it writes ``max_new_tokens`` at most.
    """

    name: Literal["critique"]
    max_new_tokens: int = Field(256, ge=1)


Credit = Annotated[
    TokenCredit | SegmentCredit | CorrectionCredit | CritiqueCredit, Field(discriminator="name")
]
# These give scores of their own scale, which transforms may change one by one; the others give 1, −1 or 0.
SCALED = (TokenCredit, SegmentCredit)
