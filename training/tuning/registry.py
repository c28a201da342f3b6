"""The list of methods. Torch-free: `methods/NAME.py`, with `train` and `inspect`, loads when a run starts."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from training.tuning.config import (
    AdjointMatchingConfig,
    BestOfNConfig,
    Config,
    CoPGConfig,
    CPOConfig,
    CRDConfig,
    D3POConfig,
    DDPOConfig,
    DiffusionDPOConfig,
    DiffusionKTOConfig,
    DiffusionNFTConfig,
    DiffusionSharpeningConfig,
    DistillationConfig,
    DPOConfig,
    DPOKConfig,
    DraftConfig,
    FlowGRPOConfig,
    GenerateConfig,
    GoalDPOConfig,
    GRPOConfig,
    ImageGenerateConfig,
    ImageRewardModelConfig,
    ImageScoreConfig,
    ImageSFTConfig,
    KTOConfig,
    NashMDConfig,
    OnlineDPOConfig,
    ORPOConfig,
    PPOConfig,
    ProcessRewardModelConfig,
    R0Config,
    REDIConfig,
    ReFLConfig,
    RewardModelConfig,
    RLOOConfig,
    ScoreConfig,
    SELMConfig,
    SePPOConfig,
    SFTConfig,
    SimPOConfig,
    SRPOConfig,
    TDPOConfig,
    UFTConfig,
    VARDConfig,
    VRPOConfig,
    WRPOConfig,
)

Modality = Literal["text", "image"]
Feedback = Literal[
    "choice",
    "ranking",
    "rating",
    "step",
    "span",
    "thumbs",
    "correction",
    "demonstration",
    "prompt",
    "candidates",
]


@dataclass(frozen=True)
class Method:
    """One entry. ``feedback`` says what a row must bring for the method to use it, one of these at least:

    choice, ranking: judgements between candidates (also ``chosen``/``rejected`` columns); rating: points for
    attributes; step: marked steps of an answer; span: marked spans; thumbs: a judgement of one candidate
    (also ``label``); correction: a rewritten answer; demonstration: an answer without judgement; prompt: a
    prompt is enough; candidates: candidates, judged or not.

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
        feedback=("demonstration", "choice", "ranking", "thumbs", "correction", "span"),
        config=SFTConfig,
        purpose="train",
        summary="Imitates good answers. Use it first, when the model does not yet answer in the right form.",
    ),
    Method(
        name="reward_model",
        title="Reward model",
        paper="arXiv:2009.01325",
        modality="text",
        feedback=("choice", "ranking", "rating"),
        config=RewardModelConfig,
        purpose="train",
        summary="Learns to score an answer as your annotators would. Use it to rank, filter and monitor.",
        reward="optional",
    ),
    Method(
        name="process_reward_model",
        title="Process reward model",
        paper="arXiv:2305.20050",
        modality="text",
        feedback=("step", "span"),
        config=ProcessRewardModelConfig,
        purpose="train",
        summary="Learns which steps of an answer are right. Use it to find errors and to rank solutions.",
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
        reward="optional",
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
        name="nash_md",
        title="Nash-MD",
        paper="arXiv:2312.00886",
        modality="text",
        feedback=("prompt",),
        config=NashMDConfig,
        purpose="train",
        summary="Looks for the policy that no other is preferred to. For preferences that no single score "
        "can express, such as cyclic ones.",
        reward="required",
    ),
    Method(
        name="distillation",
        title="On-policy distillation",
        paper="arXiv:2306.13649",
        modality="text",
        feedback=("prompt",),
        config=DistillationConfig,
        purpose="train",
        summary="A student writes, and a teacher (the one model of the reward list) says at every token what "
        "it would have written. For small models that shall behave like a large one.",
        reward="required",
    ),
    Method(
        name="tdpo",
        title="Token-level DPO",
        paper="arXiv:2404.11999",
        modality="text",
        feedback=("choice", "ranking"),
        config=TDPOConfig,
        purpose="train",
        summary="DPO that also holds the policy near the reference token by token. Use it when "
        "answers drift or repeat themselves.",
    ),
    Method(
        name="goal_dpo",
        title="DPO towards a goal",
        paper="arXiv:2410.08067",
        modality="text",
        feedback=("rating",),
        config=GoalDPOConfig,
        purpose="train",
        summary="Names the rating it wants in the prompt, so that good and bad answers both teach.",
        reward="optional",
    ),
    Method(
        name="selm",
        title="Self-exploring DPO",
        paper="arXiv:2405.19332",
        modality="text",
        feedback=("choice", "ranking"),
        config=SELMConfig,
        purpose="train",
        summary="DPO for rounds: pushes down what the model says anyway, so that its next answers explore.",
    ),
    Method(
        name="wrpo",
        title="Weighted-reward DPO",
        paper="arXiv:2412.03187",
        modality="text",
        feedback=("rating",),
        config=WRPOConfig,
        purpose="train",
        summary="Learns from rated answers of other models beside its own. For bringing models together.",
    ),
    Method(
        name="vrpo",
        title="Variance-reduced DPO",
        paper="arXiv:2504.03784",
        modality="text",
        feedback=("choice", "ranking"),
        config=VRPOConfig,
        purpose="train",
        summary="DPO on people's choices, steadied by a judge's opinions of more pairs.",
    ),
    Method(
        name="kto",
        title="Kahneman-Tversky optimisation",
        paper="arXiv:2402.01306",
        modality="text",
        feedback=("thumbs", "choice", "ranking"),
        config=KTOConfig,
        purpose="train",
        summary="Learns from single answers called good or bad. Use it for thumbs, or when good and bad are "
        "unequal in number.",
    ),
    Method(
        name="orpo",
        title="Odds ratio preference optimisation",
        paper="arXiv:2403.07691",
        modality="text",
        feedback=("choice", "ranking"),
        config=ORPOConfig,
        purpose="train",
        summary="Imitation and preference in one stage, without a reference. Use it on a base model.",
    ),
    Method(
        name="simpo",
        title="SimPO",
        paper="arXiv:2405.14734",
        modality="text",
        feedback=("choice", "ranking"),
        config=SimPOConfig,
        purpose="train",
        summary="Preferences by the mean log-probability per token, without a reference: long answers are no "
        "cheaper than short ones.",
    ),
    Method(
        name="cpo",
        title="Contrastive preference optimisation",
        paper="arXiv:2401.08417",
        modality="text",
        feedback=("choice", "ranking"),
        config=CPOConfig,
        purpose="train",
        summary="DPO without a reference, held by imitation of the preferred answers.",
    ),
    Method(
        name="redi",
        title="Reinforcement distillation",
        paper="arXiv:2505.24850",
        modality="text",
        feedback=("choice", "ranking"),
        config=REDIConfig,
        purpose="train",
        summary="After imitation, learns from wrong answers too: imitates the good ones and unlearns the bad "
        "ones more weakly.",
    ),
    Method(
        name="uft",
        title="Unified fine-tuning",
        paper="arXiv:2410.21438",
        modality="text",
        feedback=("demonstration", "rating", "thumbs", "choice", "ranking", "correction"),
        config=UFTConfig,
        purpose="train",
        summary="Demonstrations and feedback of any kind in one stage: every answer moves to its score.",
    ),
    Method(
        name="copg",
        title="Contrastive policy gradient",
        paper="arXiv:2406.19185",
        modality="text",
        feedback=("rating",),
        config=CoPGConfig,
        purpose="train",
        summary="Policy gradient on rated answers that anybody may have written.",
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
        reward="optional",
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
        name="ddpo",
        title="DDPO",
        paper="arXiv:2305.13301",
        modality="image",
        feedback=("prompt",),
        config=DDPOConfig,
        purpose="train",
        summary="Draws pictures, scores them, and makes the denoising steps of the better ones likelier. "
        "For any reward of pictures.",
        reward="required",
    ),
    Method(
        name="diffusion_kto",
        title="Diffusion-KTO",
        paper="arXiv:2404.04465",
        modality="image",
        feedback=("thumbs", "choice", "ranking"),
        config=DiffusionKTOConfig,
        purpose="train",
        summary="Learns from single pictures that were liked or disliked. Use it for thumbs, or when likes "
        "and dislikes are unequal in number.",
    ),
    Method(
        name="d3po",
        title="D3PO",
        paper="arXiv:2311.13231",
        modality="image",
        feedback=("choice", "ranking"),
        config=D3POConfig,
        purpose="train",
        summary="Learns from comparisons of pictures that this model drew, at every step of drawing them. "
        "Draw them with eta first.",
    ),
    Method(
        name="image_sft",
        title="Supervised training on pictures",
        paper="arXiv:2501.13918",
        modality="image",
        feedback=("choice", "ranking", "thumbs", "rating", "demonstration"),
        config=ImageSFTConfig,
        purpose="train",
        summary="Imitates pictures that were preferred, or those that score well, the better the more. "
        "Robust, and easy to follow.",
        reward="optional",
    ),
    Method(
        name="seppo",
        title="SePPO",
        paper="arXiv:2410.05255",
        modality="image",
        feedback=("choice", "ranking", "thumbs"),
        config=SePPOConfig,
        purpose="train",
        summary="Learns from good pictures alone: its own earlier ones take the place of bad ones. For "
        "collections without comparisons.",
    ),
    Method(
        name="diffusion_sharpening",
        title="Diffusion-Sharpening",
        paper="arXiv:2502.12146",
        modality="image",
        feedback=("candidates", "demonstration"),
        config=DiffusionSharpeningConfig,
        purpose="train",
        summary="Draws the same picture from several noises, scores what comes out, and learns the noise "
        "that did best. Better pictures without more steps of drawing.",
        reward="required",
    ),
    Method(
        name="diffusion_nft",
        title="DiffusionNFT",
        paper="arXiv:2509.16117",
        modality="image",
        feedback=("prompt",),
        config=DiffusionNFTConfig,
        purpose="train",
        summary="Draws pictures, scores them, and moves towards the good and away from the bad without "
        "keeping how they were drawn. The quickest way to a reward.",
        reward="required",
    ),
    Method(
        name="crd",
        title="Centred reward distillation",
        paper="arXiv:2603.14128",
        modality="image",
        feedback=("prompt",),
        config=CRDConfig,
        purpose="train",
        summary="Like DiffusionNFT as a regression on rewards, held by what the model draws with guidance: "
        "less that looks good to the reward alone.",
    ),
    Method(
        name="draft",
        title="DRaFT",
        paper="arXiv:2309.17400",
        modality="image",
        feedback=("prompt",),
        config=DraftConfig,
        purpose="train",
        summary="Follows a reward's gradient through the last denoising steps, or all: AlignProp too.",
        reward="required",
    ),
    Method(
        name="refl",
        title="Reward feedback learning (ReFL)",
        paper="arXiv:2304.05977",
        modality="image",
        feedback=("prompt", "choice", "ranking"),
        config=ReFLConfig,
        purpose="train",
        summary="Follows a reward's gradient through one late denoising step; from preferred pictures, too.",
        reward="required",
    ),
    Method(
        name="srpo",
        title="Semantic relative preference (SRPO)",
        paper="arXiv:2509.06942",
        modality="image",
        feedback=("prompt",),
        config=SRPOConfig,
        purpose="train",
        summary="Follows the gradient of a reward for wanted words less unwanted ones, at any noise level.",
        reward="required",
    ),
    Method(
        name="adjoint_matching",
        title="Adjoint matching",
        paper="arXiv:2409.08861",
        modality="image",
        feedback=("prompt",),
        config=AdjointMatchingConfig,
        purpose="train",
        summary="Draws what the base draws, weighted by a reward: its gradient without the usual bias.",
        reward="required",
    ),
    Method(
        name="vard",
        title="Value-based reinforcement (VARD)",
        paper="arXiv:2505.15791",
        modality="image",
        feedback=("prompt",),
        config=VARDConfig,
        purpose="train",
        summary="Learns what a noisy picture will be worth, and follows that: for rewards of any kind.",
        reward="required",
    ),
    Method(
        name="r0",
        title="Rewards alone (R0)",
        paper="arXiv:2503.13070",
        modality="image",
        feedback=("prompt",),
        config=R0Config,
        purpose="train",
        summary="Several rewards of equal say, through all steps of a model that needs few.",
        reward="required",
    ),
    Method(
        name="dpok",
        title="DPOK",
        paper="arXiv:2305.16381",
        modality="image",
        feedback=("prompt",),
        config=DPOKConfig,
        purpose="train",
        summary="Policy gradient on denoising steps, held near the start by a KL divergence, with a learned "
        "baseline.",
        reward="required",
    ),
    Method(
        name="flow_grpo",
        title="Flow-GRPO",
        paper="arXiv:2505.05470",
        modality="image",
        feedback=("prompt",),
        config=FlowGRPOConfig,
        purpose="train",
        summary="Compares the pictures of a prompt with one another and trains some of their steps. The "
        "first choice for flow models such as Stable Diffusion 3 and FLUX.",
        reward="required",
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
        reward="optional",
    ),
    Method(
        name="image_score",
        title="Score pictures",
        paper=None,
        modality="image",
        feedback=("candidates",),
        config=ImageScoreConfig,
        purpose="job",
        summary="Scores pictures with an image reward model, or with a list of rewards.",
        reward="optional",
    ),
]


def get_method(name: str) -> Method:
    """The method of this name. KeyError, naming what exists, if there is none."""
    for method in METHODS:
        if method.name == name:
            return method
    raise KeyError(f'there is no method "{name}"; there are {", ".join(method.name for method in METHODS)}')
