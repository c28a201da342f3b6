"""What a reward model learns that shall tell liked pictures from drawn ones."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from training.tuning.losses.bradley_terry import bradley_terry_loss


def pairs_loss(liked: Float[Tensor, " P"], drawn: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """−log σ(r(liked) − r(drawn)): PickScore's cross-entropy with the liked picture as the choice."""
    return bradley_terry_loss(liked, drawn, torch.ones_like(liked))


def hinge_loss(liked: Float[Tensor, " P"], drawn: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """½ [max(0, 1 − r(liked)) + max(0, 1 + r(drawn))]: 0 once they are two apart around 0."""
    return (F.relu(1 - liked) + F.relu(1 + drawn)) / 2


ADVERSARIAL = {"pairs": pairs_loss, "hinge": hinge_loss}
