"""MotionNFT: an editor of pictures learns to move things as it is told (Wan et al., arXiv:2512.10284).

1. A row is an instruction, a picture to edit, and one that shows the edit: two frames of a film.
2. Per step: edit each picture ``num_generations`` times without noise on the way. The reward compares the
   optical flow from picture to edit with that from picture to target: how far, which way, and whether
   anything moved at all; beside it the rewards of the list, such as a vision-language model's score.
3. Train as DiffusionNFT does, with advantages divided by their own group's spread. Groups that are good
   already, or whose edits hardly differ, teach nothing.

The reward was checked against the authors' code and against a published summary of the paper; thresholds and
the share of the two rewards are those of the code alone.
"""

from typing import Any

import torch
from torch import Tensor

from training.tuning.config import MotionNFTConfig
from training.tuning.images.edits import EditOnline, why_no_edit
from training.tuning.images.loading import load_for_sampling
from training.tuning.images.online import Drawn
from training.tuning.images.preview import preview
from training.tuning.methods.diffusion_nft import learn
from training.tuning.run import Run


def train(run: Run) -> None:
    """Train an editor on motion. See the module for the steps."""
    config: MotionNFTConfig = run.config

    def teaches(drawn: Drawn) -> Tensor:
        return undecided(drawn.rewards, most_mean=config.most_mean, least_std=config.least_std)

    learn(EditOnline(run, reference=config.anchor > 0), scale="group", teaches=teaches)


def undecided(rewards: Tensor, *, most_mean: float, least_std: float) -> Tensor:
    """Which groups of rewards (G, k) teach: below this mean, and apart by more than this; (G,)."""
    return (rewards.mean(dim=1) < most_mean) & (rewards.std(dim=1, unbiased=False) > least_std)


def inspect(run: Run) -> dict[str, Any]:
    """The edits as the policy will see them."""
    family = load_for_sampling(run.base, device=torch.device("cpu"), edits=True)
    reasons = why_no_edit(run, family, run.train)
    return preview(run.train, reasons=reasons, pairs=lambda group: [], count_tokens=family.count_tokens)
