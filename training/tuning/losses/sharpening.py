"""Diffusion-Sharpening: the noise that a picture is best drawn from. In the form of the authors' code.

Several noises of one picture are rolled a few deterministic steps each, and scored by the mean reward of the
clean pictures on the way.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def best_and_worst(scores: Float[Tensor, "B n"]) -> tuple[Tensor, Tensor]:
    """Which noise of each picture did best, and which worst, (B,) each; of equals the first."""
    return scores.argmax(dim=1), scores.argmin(dim=1)


def sharpening_dpo_loss(
    policy_best: Float[Tensor, " B"],
    policy_worst: Float[Tensor, " B"],
    reference_best: Float[Tensor, " B"],
    reference_worst: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    """-ln σ(β ((e_ref_b - e_ref_w) - (e_b - e_w))): no ½ as in Diffusion-DPO, so that at the reference the
    slope in the best noise's error is β/2.

    Arguments, (B,): denoising errors of the best and the worst noise, each the mean over its steps. The gap
    of rewards that the authors add is a constant. Returns (B,); the caller reduces.
    """
    return -F.logsigmoid(beta * ((reference_best - reference_worst) - (policy_best - policy_worst)))
