"""The Bradley-Terry loss of reward models."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def bradley_terry_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    target: Float[Tensor, " B"],
    *,
    lead: Float[Tensor, " B"] | float = 0.0,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " B"]:
    """−p log σ(r_w − r_l − m) − (1 − p) log σ(r_l − r_w − m): Eq. 1 of arXiv:2009.01325.

    Arguments, all (B,): the two scores, and the probability p that ``chosen`` is preferred: 1 for a clear
    preference, 1/2 for a tie. ``lead`` is m, by how much the preferred score shall be higher (Llama 2, Eq. 2
    of arXiv:2307.09288). ``label_smoothing`` is ε, the assumed share of flipped labels: p(1 − ε) + (1 − p)ε
    stands for p. Returns (B,); the caller weights and reduces.
    """
    margin = chosen - rejected
    target = target * (1 - label_smoothing) + (1 - target) * label_smoothing
    return -target * F.logsigmoid(margin - lead) - (1 - target) * F.logsigmoid(-margin - lead)


def centring(chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """(r_w + r_l)²: pins the offset of each prompt, which Bradley-Terry leaves free (arXiv:2312.09244).

    Without it the members of an ensemble cannot be compared. Added to the loss with a small coefficient.
    """
    return (chosen + rejected) ** 2
