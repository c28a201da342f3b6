"""Text methods that train on answers which the policy writes as it goes, scored by rewards."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.shared import PRIMARY, Config
from training.tuning.config.text import GenerationKeys, ProcessKeys, SampleKeys, TextTrainConfig


class RolloutKeys(GenerationKeys):
    """How answers are written during training."""

    max_new_tokens: int = Field(128, ge=1, title="Longest answer", description="Most tokens of an answer.")
    temperature: float = Field(
        1.0,
        gt=0,
        title="Temperature",
        description="Of sampling; log-probabilities in the loss are those at this temperature.",
    )
    generation_batch_size: int = Field(
        64, ge=1, title="Answers at once", description="Written at once. Answers do not depend on it."
    )
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        title="Micro-batch size",
        description="Prompts with their answers per forward pass; empty: as many as fit a fixed budget. "
        "Changes memory, not results.",
    )


class SamplingConfig(TextTrainConfig, RolloutKeys, SampleKeys):
    """Keys of all methods whose policy writes as it learns. Judgements are not used, so ties and both-bad do
    not arise.
    """

    learning_rate: float = Field(
        1e-5,
        gt=0,
        title="Learning rate",
        description="Peak learning rate. 1e-5 suits LoRA on models of billions of weights; small models take "
        "1e-3.",
        json_schema_extra=PRIMARY,
    )
    batch_size: int = Field(8, ge=1, title="Batch size", description="Prompts per step.")
    max_length: int | None = Field(
        None,
        ge=8,
        title="Longest sequence",
        description="Tokens of prompt and answer together. Null: the model's context.",
    )

    @model_validator(mode="after")
    def _a_server_takes_adapters(self) -> Self:
        if self.generation == "server" and self.lora is None:
            raise ValueError("generation=server needs lora: the server is sent adapters, not whole models")
        return self


class OnlineConfig(SamplingConfig):
    """Keys that all methods on rewards share. Ties and both-bad do not arise."""

    missing_end_penalty: float = Field(
        0.0,
        ge=0,
        title="Missing end",
        description="Taken off the reward of an answer that did not end within the longest answer.",
    )


class GroupKeys(Config):
    """Methods that compare several answers to a prompt with one another."""

    num_generations: int = Field(
        8,
        ge=2,
        title="Answers per prompt",
        description="Compared with one another.",
    )
    updates: int = Field(
        1, ge=1, title="Updates per step", description="Passes over the answers of a step, each an update."
    )


PolicyLoss = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo", "troll", "nft", "w_reinforce"]


class GRPOConfig(OnlineConfig, ProcessKeys, GroupKeys):
    """Group relative policy optimisation and its variants."""

    loss: PolicyLoss = Field(
        "grpo",
        title="Loss",
        description="grpo (arXiv:2402.03300). dr_grpo: no division by length and deviation "
        "(arXiv:2503.20783). dapo: mean over tokens, wider upper clip (arXiv:2503.14476). gspo: ratio "
        "of whole "
        "answers (arXiv:2507.18071). cispo: weights clipped in place of gradients (arXiv:2506.13585). troll: "
        "trust region per token (arXiv:2510.03817). nft: supervised, with wrong answers too "
        "(arXiv:2505.18116; rewards 0 or 1). w_reinforce: wrong answers count ten times right ones "
        "(arXiv:2506.01347; rewards 0 or 1).",
    )
    beta: float = Field(
        0.04,
        ge=0,
        title="Beta",
        description="Weight of the KL divergence from the start.",
        json_schema_extra=PRIMARY,
    )
    kl: Literal["k1", "k2", "k3"] = Field(
        "k3",
        title="KL estimate",
        description="In the loss. k3 as in the paper pulls like the forward divergence; k2 has the "
        "gradient of "
        "the reverse one; k1 is added to the reward instead, which has it too.",
    )
    clip: float | None = Field(
        None,
        gt=0,
        lt=1,
        title="Clip",
        description="The ratio may change by this share; empty: as the loss has it.",
    )
    clip_high: float | None = Field(
        None,
        gt=0,
        title="Clip above",
        description="The ratio may rise by this share; empty: as the loss has it.",
    )
    trust_region: float = Field(
        0.05, gt=0, title="Trust region", description="Largest KL of a token's step, for the loss troll."
    )
    positive_weight: float = Field(
        0.1,
        ge=0,
        title="Weight of right answers",
        description="For the loss w_reinforce; wrong ones weigh 1.",
    )
    resample: int = Field(
        0,
        ge=0,
        title="Resample",
        description="Times that prompts whose answers all score the same are replaced by others (DAPO's "
        "dynamic "
        "sampling).",
    )
    overlong_buffer: int = Field(
        0,
        ge=0,
        title="Overlong buffer",
        description="Tokens before the longest answer over which a penalty grows to 1 (DAPO); 0: none.",
    )
    entropy_weight: float | None = Field(
        None,
        ge=0,
        title="Weight of entropy",
        description="Weigh each answer's loss by the softmax, among the prompt's answers, of its advantage "
        "plus this times its mean entropy per token; empty: all count alike.",
    )
    entropy_temperature: float = Field(
        1.0, gt=0, title="Temperature of weights", description="Of that softmax; the larger, the more alike."
    )
    mastered: Literal["none", "forward_kl", "js_divergence"] = Field(
        "none",
        title="Mastered prompts",
        description="Prompts whose answers score 1 nearly always at the start are rehearsed on stored "
        "answers "
        "with this divergence, and not trained on otherwise (DPH-RL, arXiv:2509.07430).",
    )
    mastered_weight: float = Field(
        0.05, gt=0, title="Weight of rehearsal", description="Of the divergence on mastered prompts."
    )

    @model_validator(mode="after")
    def _options_have_a_use(self) -> Self:
        uses = {"trust_region": {"troll"}, "positive_weight": {"w_reinforce"}}
        for name, losses in uses.items():
            if self.is_changed(name) and self.loss not in losses:
                raise ValueError(f'{name} has no use with the loss "{self.loss}"')
        if self.loss in ("nft", "w_reinforce", "troll") and (self.clip or self.clip_high):
            raise ValueError(f'the loss "{self.loss}" does not clip')
        if self.entropy_weight is None and self.is_changed("entropy_temperature"):
            raise ValueError("entropy_temperature needs entropy_weight")
        if self.entropy_weight is not None and self.loss in ("nft", "w_reinforce"):
            raise ValueError(f'the loss "{self.loss}" has no advantages to weigh answers by')
        if self.overlong_buffer >= self.max_new_tokens:
            raise ValueError("overlong_buffer must be shorter than max_new_tokens")
        if self.mastered == "none" and self.is_changed("mastered_weight"):
            raise ValueError("mastered_weight needs mastered")
        return self


class RLOOConfig(OnlineConfig, ProcessKeys, GroupKeys):
    """REINFORCE with the other answers as baseline."""

    num_generations: int = Field(
        4,
        ge=2,
        title="Answers per prompt",
        description="Each is compared with the others.",
    )
    beta: float = Field(
        0.05,
        ge=0,
        title="Beta",
        description="Weight of the KL divergence from the start, taken off the reward.",
        json_schema_extra=PRIMARY,
    )
    clip: float = Field(
        0.2, gt=0, lt=1, title="Clip", description="The ratio of an action may change by this share."
    )
    actions: Literal["answers", "tokens"] = Field(
        "answers",
        title="Actions",
        description="answers: a whole answer is one action. tokens: each token is one, and earns what comes "
        "from it on; for rewards that credit single tokens.",
    )


class PPOConfig(OnlineConfig, ProcessKeys):
    """Proximal policy optimisation with a value head."""

    batch_size: int = Field(32, ge=1, title="Batch size", description="Prompts per step, an answer each.")
    beta: float = Field(
        0.05,
        ge=0,
        title="Beta",
        description="Weight of the KL divergence from the start, taken off the reward of every token.",
        json_schema_extra=PRIMARY,
    )
    kl_target: float | None = Field(
        None,
        gt=0,
        title="KL target",
        description="Nats per answer that beta is steered to; empty: beta stays.",
    )
    kl_horizon: int = Field(
        10_000, ge=1, title="KL horizon", description="Answers over which beta is steered; for the KL target."
    )
    loss: Literal["clip", "apa"] = Field(
        "clip",
        title="Loss",
        description="clip: PPO (arXiv:1707.06347). apa: squared distance of the log-ratio to the start "
        "from the "
        "advantage over beta (arXiv:2306.02231); its rewards have no KL term.",
    )
    updates: int = Field(4, ge=1, title="Passes", description="Passes over the answers of a step.")
    minibatches: int = Field(1, ge=1, title="Updates per pass", description="Each on a share of the answers.")
    gamma: float = Field(1.0, gt=0, le=1, title="Gamma", description="Discount per token.")
    lam: float = Field(0.95, ge=0, le=1, title="Lambda", description="Of generalised advantages.")
    clip: float = Field(0.2, gt=0, lt=1, title="Clip", description="The ratio may change by this share.")
    value_clip: float = Field(
        0.2, gt=0, title="Value clip", description="How far a value may move for its loss to fall."
    )
    value_weight: float = Field(0.1, ge=0, title="Weight of the value loss", description="In the whole loss.")
    value_learning_rate: float = Field(
        1e-3, gt=0, title="Learning rate of the value head", description="Peak; it follows the schedule."
    )
    kl: Literal["sampled", "full"] = Field(
        "sampled",
        title="Divergence",
        description="What beta weighs at every token. sampled: the log-ratio of the token that was written. "
        "full: the KL divergence over the whole vocabulary (arXiv:2505.22338), with less noise.",
    )
    whiten_rewards: bool = Field(
        False, title="Whiten rewards", description="Scale rewards to variance one; their mean stays."
    )

    @model_validator(mode="after")
    def _splits(self) -> Self:
        if self.minibatches > self.batch_size:
            raise ValueError("minibatches must not be more than batch_size")
        if self.loss == "apa" and self.kl_target is not None:
            raise ValueError('kl_target has no use with the loss "apa"')
        if self.loss == "apa" and self.kl == "full":
            raise ValueError('kl has no use with the loss "apa", whose rewards have no KL term')
        if self.loss == "apa" and self.beta == 0:
            raise ValueError('the loss "apa" needs a beta above 0')
        return self


class OnlineDPOConfig(OnlineConfig, ProcessKeys):
    """DPO on pairs of the policy's own answers, judged by the rewards as training goes."""

    beta: float = Field(
        0.1,
        gt=0,
        title="Beta",
        description="Weight of the pull towards the start: smaller moves further.",
        json_schema_extra=PRIMARY,
    )
    loss: Literal["sigmoid", "ipo"] = Field(
        "sigmoid", title="Loss", description="sigmoid: DPO. ipo: squared distance to 1 / (2 beta)."
    )
    labels: Literal["best", "sampled"] = Field(
        "best",
        title="Labels",
        description="best: the higher reward wins. sampled: it wins with Bradley-Terry's probability, as a "
        "person would say it.",
    )
    second: Literal["policy", "reference"] = Field(
        "policy",
        title="Second answer",
        description="policy: both by the policy (online DPO, arXiv:2402.04792). reference: by the "
        "start, as XPO "
        "does (arXiv:2405.21046).",
    )
    alpha: float = Field(
        0.0,
        ge=0,
        title="Exploration",
        description="XPO's weight on the start's answers; needs second=reference.",
    )

    @model_validator(mode="after")
    def _options_have_a_use(self) -> Self:
        if self.alpha and self.second != "reference":
            raise ValueError("alpha needs second=reference")
        return self


class NashMDConfig(OnlineConfig, ProcessKeys):
    """Nash-MD: the policy that no other is preferred to."""

    beta: float = Field(
        0.05,
        gt=0,
        title="Beta",
        description="Weight of the KL divergence from the start in the game.",
        json_schema_extra=PRIMARY,
    )
    mixture: float = Field(
        0.125,
        ge=0,
        le=1,
        title="Mixture",
        description="The opponent is the policy to the power of 1 - mixture times the start to the power of "
        "mixture: 0 is self-play, 1 always the start.",
    )
    preference: Literal["bradley_terry", "probabilities"] = Field(
        "bradley_terry",
        title="Preference",
        description="How scores become the probability that an answer wins. bradley_terry: by the difference "
        "of two rewards. probabilities: they say it themselves, as those of a general preference model do "
        "(reward_model, loss general_preference).",
    )


class BestOfNConfig(OnlineConfig, ProcessKeys):
    """Supervised fine-tuning on the best of the policy's own answers."""

    learning_rate: float = Field(
        2e-5, gt=0, title="Learning rate", description="Peak learning rate.", json_schema_extra=PRIMARY
    )
    num_generations: int = Field(
        8,
        ge=2,
        title="Answers per prompt",
        description="Of which the best are kept.",
    )
    keep: Literal["best", "share"] = Field(
        "best",
        title="Keep",
        description="best: the best answer of each prompt. share: the best of all answers of a step, which "
        "needs rewards that compare across prompts.",
    )
    share: float = Field(
        0.125, gt=0, le=1, title="Share", description="Of a step's answers that are kept, with keep=share."
    )
    beta: float = Field(
        0.0,
        ge=0,
        title="Beta",
        json_schema_extra=PRIMARY,
        description="Taken off the reward times the log-ratio to the start.",
    )

    @model_validator(mode="after")
    def _share_has_a_use(self) -> Self:
        if self.is_changed("share") and self.keep != "share":
            raise ValueError("share has no use unless keep=share")
        return self
