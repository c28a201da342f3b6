"""A reward model that is trained against the policy whose pictures it scores: Adv-GRPO (arXiv:2511.20256).

Each step: the pictures of the step are scored by the reward as it is; then the reward learns to put the
data's preferred picture of each prompt above them. What it cannot tell apart earns nothing, so that a flaw of
the reward is closed as soon as the policy draws it.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from training.tuning.data import plain_text
from training.tuning.errors import BadInput
from training.tuning.images.data import open_image
from training.tuning.images.online import Drawn, ImageOnline
from training.tuning.images.reward import prepare
from training.tuning.losses.adversarial import ADVERSARIAL
from training.tuning.methods.refl import preferred
from training.tuning.rewards.pictures import PictureReward

IMAGES = 64  # pictures in one forward pass


class Adversary:
    """The first reward of the list, in training."""

    def __init__(self, online: ImageOnline) -> None:
        source = online.rewards.sources[0]
        if not isinstance(source, PictureReward):
            problem = "the adversary is the list's first entry, which must be an image reward model"
            raise BadInput(problem, file=online.run.dir.run_file, field="reward.0")
        self.online = online
        self.reward = source.model.requires_grad_(True)
        self.loss = ADVERSARIAL[online.run.config.adversary]
        self.liked = self._liked()

    def beside(self, policy: nn.Module) -> nn.Module:
        """What a checkpoint must keep."""
        return nn.ModuleDict({"policy": policy, "reward": self.reward})

    @property
    def rates(self) -> list[tuple[Iterable[nn.Parameter], float]]:
        """The weights with their learning rate, for the optimizer."""
        return [(self.reward.parameters(), self.online.run.config.adversary_learning_rate)]

    def lets_learn(self, step: int) -> bool:
        """Whether the policy learns in this step."""
        return bool(step % self.online.run.config.policy_every == 0)

    def learn(self, drawn: Drawn) -> dict[str, float]:
        """Gradients of the mean loss over all pictures drawn. Returns it, and how often liked ones win."""
        count = drawn.rewards.shape[1]
        totals = {"adversary/loss": 0.0, "adversary/accuracy": 0.0}
        number = len(drawn.pictures)
        for start in range(0, number, IMAGES):
            at = range(start, min(start + IMAGES, number))
            prompts = [drawn.prompts[one // count] for one in at]
            real = prepare(self.reward.backbone, [open_image(self.liked[prompt]) for prompt in prompts])
            fake = prepare(self.reward.backbone, [drawn.pictures[one] for one in at])
            scores = self._scores(torch.cat([real, fake]), [*prompts, *prompts])
            losses = self.loss(scores[: len(at)], scores[len(at) :])
            (losses.sum() / number).backward()
            totals["adversary/loss"] += float(losses.detach().sum()) / number
            wins = scores[: len(at)] > scores[len(at) :]
            totals["adversary/accuracy"] += float(wins.sum()) / number
        return totals

    def _scores(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        distinct = list(dict.fromkeys(prompts))
        device = self.online.family.device
        owner = torch.tensor([distinct.index(prompt) for prompt in prompts], device=device)
        scores: Tensor = self.reward(pixels.to(device), owner, distinct)
        return scores

    def _liked(self) -> dict[str, Path]:
        """The file of the preferred picture of every prompt, the first row's if it has several."""
        run = self.online.run
        found: dict[str, Path] = {}
        for group in run.train:
            prompt = plain_text(group.prompt)
            if prompt not in found and (best := preferred(group)) is not None:
                found[prompt] = run.dir.media / str(group.candidates[best].image)
        for group in run.train:
            prompt = plain_text(group.prompt)
            if prompt in self.online.prompts and prompt not in found:
                problem = "no preferred picture for the adversary; give one to every prompt, or leave it out"
                raise BadInput(problem, file=run.dir.train_file, line=group.line)
        return found
