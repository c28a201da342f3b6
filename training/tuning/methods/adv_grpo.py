"""Flow-GRPO with a reward that is trained against the policy: Adv-GRPO (Mao et al., arXiv:2511.20256).

1. As ``flow_grpo``: draw pictures, score them, compare each with the others of its prompt, train the steps.
2. In every step the list's first reward model also learns to tell the preferred picture of each prompt, from
   the data, from the pictures just drawn (images/adversary.py); the policy itself may learn less often.
"""

from typing import Any

from training.tuning.images.adversary import Adversary
from training.tuning.images.prompts import preview_prompts
from training.tuning.methods.flow_grpo import optimise
from training.tuning.run import Run


def train(run: Run) -> None:
    """Train a policy and the reward against one another. See the module for the steps."""
    optimise(run, against=Adversary)


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
