"""Preferences that may be wrong, and preferences from several sources: which pairs to trust, and how much."""

import torch
from jaxtyping import Float
from torch import Tensor


def peer_choice(margins: Float[Tensor, "B 2"], noise_rate: float) -> Float[Tensor, "B 2"]:
    """Which pairs each of two reward models is trained on: those that the other believes (arXiv:2505.10597).

    Column m holds model m's margins r_w − r_l, with labels as they are given. Each model hands the other the
    share 1 − η of pairs with its largest margins, its smallest losses. Returns weights 0 and 1.
    """
    kept = round((1 - noise_rate) * len(margins))
    chosen = margins.argsort(dim=0, descending=True, stable=True)[:kept]
    weights = torch.zeros_like(margins).scatter(0, chosen, 1.0)
    return weights.flip(1)


def min_norm_weights(gradients: Float[Tensor, "T D"], *, rounds: int = 250) -> Float[Tensor, " T"]:
    """argmin_{λ in the simplex} ‖Σ_t λ_t g_t‖², by Frank-Wolfe with exact line search (MGDA).

    arXiv:2312.07401 weighs T sources of preferences with it; the g_t are gradients of each source's loss.
    The direction Σ λ_t g_t lowers every source's loss, or is 0 where none is left.
    """
    products = (gradients @ gradients.T).double()
    weights = torch.full((len(products),), 1 / len(products), dtype=products.dtype, device=products.device)
    for _ in range(rounds):
        slopes = products @ weights
        best = int(slopes.argmin())
        current = weights @ slopes
        if current - slopes[best] <= 1e-12 * products.diagonal().max():
            break
        apart = current - 2 * slopes[best] + products[best, best]
        step = ((current - slopes[best]) / apart).clamp(0, 1)
        weights = (1 - step) * weights
        weights[best] += step
    return weights.to(gradients.dtype)
