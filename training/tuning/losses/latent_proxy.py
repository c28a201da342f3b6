"""What a reward model of latents learns from one of pictures."""

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor


def ranking_distillation(proxy: Float[Tensor, "V N"], expert: Float[Tensor, "V N"]) -> Float[Tensor, " N"]:
    """Σ over pairs of V pictures of KL(softmax of their expert scores ‖ the same of the proxy's), (N,).

    Only differences of scores of one prompt count: RG-LCD, arXiv:2403.11027.
    """
    total = torch.zeros_like(proxy[0])
    for one, other in combinations(range(len(proxy)), 2):
        said = torch.stack([proxy[one], proxy[other]]).log_softmax(dim=0)
        meant = torch.stack([expert[one], expert[other]]).log_softmax(dim=0).detach()
        total = total + (meant.exp() * (meant - said)).sum(dim=0)
    return total
