"""The list of methods. Torch-free: `methods/NAME.py`, with `train` and `inspect`, loads when a run starts."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from training.tuning.config import (
    BestOfNConfig,
    Config,
    DiffusionDPOConfig,
    DPOConfig,
    GenerateConfig,
    GRPOConfig,
    ImageGenerateConfig,
    ImageRewardModelConfig,
    ImageScoreConfig,
    OnlineDPOConfig,
    PPOConfig,
    RewardModelConfig,
    RLOOConfig,
    ScoreConfig,
    SFTConfig,
)

Modality = Literal["text", "image"]
Feedback = Literal[
    "choice", "ranking", "rating", "step", "thumbs", "correction", "demonstration", "prompt", "candidates"
]


@dataclass(frozen=True)
class Method:
    """One entry. ``feedback`` says what a row must bring for the method to use it, one of these at least:

    choice, ranking: judgements between candidates (also ``chosen``/``rejected`` columns); rating: points for
    attributes; step: marked steps of an answer; thumbs: a judgement of one candidate (also ``label``);
    correction: a rewritten answer; demonstration: an answer without judgement; prompt: a prompt is enough;
    candidates: candidates, judged or not.

    ``reward`` says whether the method takes a ``reward`` list: ``none``, ``optional`` or ``required``.
    """

    name: str
    title: str
    paper: str | None
    modality: Modality
    feedback: tuple[Feedback, ...]
    config: type[Config]
    purpose: Literal["train", "job"]
    summary: str
    reward: Literal["none", "optional", "required"] = "none"

    def load(self, which: Literal["train", "inspect"]) -> Callable[..., Any]:
        """The function itself, from the module named like the method. Imports torch."""
        return getattr(import_module(f"training.tuning.methods.{self.name}"), which)

    def describe(self) -> dict[str, Any]:
        """What ``python -m training.tuning methods --json`` prints."""
        return {
            "name": self.name,
            "title": self.title,
            "paper": self.paper,
            "modality": self.modality,
            "feedback": list(self.feedback),
            "purpose": self.purpose,
            "summary": self.summary,
            "reward": self.reward,
            "config": self.config.model_json_schema(),
        }


METHODS = [
    Method(
        name="sft",
        title="Supervised fine-tuning",
        paper="arXiv:2203.02155",
        modality="text",
        feedback=("demonstration", "choice", "ranking", "thumbs", "correction"),
        config=SFTConfig,
        purpose="train",
        summary="Imitates good answers. Use it first, when the model does not yet answer in the right form.",
    ),
    Method(
        name="reward_model",
        title="Reward model",
        paper="arXiv:2009.01325",
        modality="text",
        feedback=("choice", "ranking"),
        config=RewardModelConfig,
        purpose="train",
        summary="Learns to score an answer as your annotators would. Use it to rank, filter and monitor.",
    ),
    Method(
        name="dpo",
        title="Direct preference optimisation",
        paper="arXiv:2305.18290",
        modality="text",
        feedback=("choice", "ranking"),
        config=DPOConfig,
        purpose="train",
        summary="Makes preferred answers likelier, straight from comparisons. The first choice for tuning on "
        "them.",
    ),
    Method(
        name="grpo",
        title="Group relative policy optimisation",
        paper="arXiv:2402.03300",
        modality="text",
        feedback=("prompt",),
        config=GRPOConfig,
        purpose="train",
        summary="Writes several answers to each prompt and makes those likelier that score above the others. "
        "The first choice for tuning on a reward.",
        reward="required",
    ),
    Method(
        name="rloo",
        title="REINFORCE, leave one out",
        paper="arXiv:2402.14740",
        modality="text",
        feedback=("prompt",),
        config=RLOOConfig,
        purpose="train",
        summary="Like GRPO with whole answers as steps and the KL divergence in the reward. Few options to "
        "choose.",
        reward="required",
    ),
    Method(
        name="ppo",
        title="Proximal policy optimisation",
        paper="arXiv:2009.01325",
        modality="text",
        feedback=("prompt",),
        config=PPOConfig,
        purpose="train",
        summary="The classic of tuning on human feedback: one answer per prompt, and a learned value of "
        "every "
        "token as baseline.",
        reward="required",
    ),
    Method(
        name="online_dpo",
        title="Online DPO",
        paper="arXiv:2402.04792",
        modality="text",
        feedback=("prompt",),
        config=OnlineDPOConfig,
        purpose="train",
        summary="DPO on the policy's own answers, two to a prompt, judged by a reward as training goes.",
        reward="required",
    ),
    Method(
        name="best_of_n",
        title="Best of n",
        paper="arXiv:2304.06767",
        modality="text",
        feedback=("prompt",),
        config=BestOfNConfig,
        purpose="train",
        summary="Writes n answers to each prompt and imitates the best (RAFT). Robust, and easy to follow.",
        reward="required",
    ),
    Method(
        name="generate",
        title="Write answers",
        paper=None,
        modality="text",
        feedback=("prompt",),
        config=GenerateConfig,
        purpose="job",
        summary="Answers prompts with a model, for the next comparison.",
    ),
    Method(
        name="score",
        title="Score answers",
        paper=None,
        modality="text",
        feedback=("candidates",),
        config=ScoreConfig,
        purpose="job",
        summary="Scores candidates with a reward model, or with a list of rewards; picks the best, or pairs.",
        reward="optional",
    ),
    Method(
        name="image_reward_model",
        title="Image reward model",
        paper="arXiv:2305.01569",
        modality="image",
        feedback=("choice", "ranking"),
        config=ImageRewardModelConfig,
        purpose="train",
        summary="Learns to score a picture as your annotators would. Without a base it starts from nothing.",
    ),
    Method(
        name="diffusion_dpo",
        title="Diffusion-DPO",
        paper="arXiv:2311.12908",
        modality="image",
        feedback=("choice", "ranking"),
        config=DiffusionDPOConfig,
        purpose="train",
        summary="Makes an image model draw more of what was preferred, straight from comparisons.",
    ),
    Method(
        name="image_generate",
        title="Draw pictures",
        paper=None,
        modality="image",
        feedback=("prompt",),
        config=ImageGenerateConfig,
        purpose="job",
        summary="Draws pictures for prompts with a model, for the next comparison.",
    ),
    Method(
        name="image_score",
        title="Score pictures",
        paper=None,
        modality="image",
        feedback=("candidates",),
        config=ImageScoreConfig,
        purpose="job",
        summary="Scores pictures with an image reward model.",
    ),
]


def get_method(name: str) -> Method:
    """The method of this name. KeyError, naming what exists, if there is none."""
    for method in METHODS:
        if method.name == name:
            return method
    raise KeyError(f'there is no method "{name}"; there are {", ".join(method.name for method in METHODS)}')
