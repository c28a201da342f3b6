"""Text jobs: writing answers and scoring them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.shared import PRIMARY, Config
from training.tuning.config.text import GenerationKeys


class GenerateConfig(GenerationKeys):
    """Answers to prompts. Takes no judgements, so ties and both-bad do not arise."""

    samples_per_prompt: int = Field(
        1, ge=1, title="Answers per prompt", description="Independent samples.", json_schema_extra=PRIMARY
    )
    temperature: float = Field(
        1.0, ge=0, title="Temperature", description="0 is greedy decoding.", json_schema_extra=PRIMARY
    )
    top_p: float = Field(
        1.0, gt=0, le=1, title="Top-p", description="Sample from the smallest set of tokens with this mass."
    )
    max_new_tokens: int = Field(
        256, ge=1, title="Longest answer", description="In tokens.", json_schema_extra=PRIMARY
    )
    batch_size: int = Field(
        16, ge=1, title="Batch size", description="Answers written at once. Samples do not depend on it."
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", title="Precision", description="Arithmetic of the model."
    )
    best_of: int = Field(
        1, ge=1, title="Best of", description="Of this many samples the one with the highest reward is kept."
    )
    guidance: Literal["none", "models", "segments"] = Field(
        "none",
        title="Guidance",
        description="models: the models of the reward list are added to every token's log-probabilities, "
        "times their weights (arXiv:2410.08193). segments: parts of an answer are accepted by their reward "
        "(arXiv:2406.16306).",
    )
    segment_goal: float | None = Field(
        None, title="Goal", description="For segments: the reward that a whole answer shall have."
    )
    segment_horizon: int = Field(
        128, ge=1, title="Horizon", description="For segments: tokens after which the goal is asked for."
    )
    segment_entropy: float = Field(
        3.0, ge=0, title="Entropy", description="For segments: nats of uncertainty at which one ends."
    )
    segment_alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        title="Start",
        description="For segments: 0 asks for the prompt's reward, 1 the goal.",
    )
    segment_beta: float = Field(
        0.7, gt=0, title="Patience", description="For segments: how far below the threshold is forgiven."
    )

    @model_validator(mode="after")
    def _keys_have_a_use(self) -> Self:
        segments = self.guidance == "segments"
        if segments != (self.segment_goal is not None):
            raise ValueError('segment_goal belongs to the guidance "segments", which needs it')
        for key in ("segment_horizon", "segment_entropy", "segment_alpha", "segment_beta"):
            if getattr(self, key) != type(self).model_fields[key].default and not segments:
                raise ValueError(f'{key} has a use only with the guidance "segments"')
        if self.best_of > 1 and self.guidance != "none":
            raise ValueError("best_of and guidance use the rewards differently; take one of them")
        if self.guidance != "none" and self.generation == "server":
            raise ValueError(
                "guidance changes every token, which a server does not let us; it needs local generation"
            )
        if segments and self.top_p != 1:
            raise ValueError("segments are sampled without top_p")
        return self


class ScoringKeys(Config):
    """How candidates are read."""

    batch_size: int = Field(16, ge=1, title="Batch size", description="Groups scored at once.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", title="Precision", description="Arithmetic of the model."
    )
    max_length: int | None = Field(
        1024, ge=8, title="Longest sequence", description="Tokens; longer answers are cut at the end."
    )
    context: str | None = Field(
        None,
        min_length=1,
        title="Context",
        description="What to judge by (a principle, a person), for a reward model that was trained with "
        "conditions; or whose taste counts, for one of ideal points (empty: everybody's).",
        json_schema_extra=PRIMARY,
    )


class ScoreConfig(ScoringKeys):
    """Scores of candidates by a reward model or a list of rewards. Judgements are ignored, so ties and
    both-bad do not arise.
    """

    passes: int = Field(
        0,
        ge=0,
        le=256,
        title="Passes with dropout",
        description="Score that many times with a reward model of one output, each time without other parts "
        "of what its head reads: an ensemble, which says how sure the model is. 0: once.",
    )
    dropout: float = Field(
        0.1, gt=0, lt=1, title="Dropout", description="For passes: the share of numbers that is left out."
    )
    features: int = Field(
        0,
        ge=0,
        le=1024,
        title="Features",
        description="Numbers that are kept of each answer's states, a random projection: what the next "
        "questions are designed with. 0: none.",
        json_schema_extra=PRIMARY,
    )
    surface: bool = Field(
        False,
        title="Surface features",
        description="Keep, as features too, what can be seen of each answer without a model: length, "
        "repetition, what it takes from the prompt, signs.",
    )
    select: Literal["none", "best", "top_share", "rejection", "pairs", "sure_pairs"] = Field(
        "none",
        title="Select",
        description="What selected.jsonl holds, beside the scores. best: each prompt's best answer "
        "(arXiv:2304.06767). top_share: the best share of all answers. rejection: answers accepted as if "
        "drawn from the optimal policy, ranked (arXiv:2309.06657). pairs: best and worst of each prompt "
        "unless they are equal (arXiv:2405.07863). sure_pairs: of these, a share that the members of an "
        "ensemble or the passes agree about (arXiv:2409.11212).",
        json_schema_extra=PRIMARY,
    )
    share: float = Field(
        0.2, gt=0, le=1, title="Share", description="For top_share and sure_pairs: how much is kept."
    )
    judged_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Judged share",
        description="For sure_pairs: how many of the pairs are people's, of the rows that have judgements.",
    )
    keep: int = Field(8, ge=1, title="Keep", description="For rejection: answers kept of each prompt.")
    beta: float = Field(
        0.5, gt=0, title="Beta", description="For rejection: the smaller, the more only the best is kept."
    )

    @model_validator(mode="after")
    def _nothing_without_use(self) -> Self:
        uses = {"share": ("top_share", "sure_pairs"), "keep": ("rejection",), "beta": ("rejection",)}
        for key, selections in (uses | {"judged_share": ("sure_pairs",)}).items():
            if getattr(self, key) != type(self).model_fields[key].default and self.select not in selections:
                named = " or ".join(f'"{one}"' for one in selections)
                raise ValueError(f"{key} has a use only with the selection {named}")
        if self.dropout != type(self).model_fields["dropout"].default and not self.passes:
            raise ValueError("dropout has a use only with passes")
        return self


class ProbeKeys(Config):
    """What an evaluation of a reward tries beside the rows that it was given."""

    reverse_order: bool = Field(
        True,
        title="Both orders",
        description="Score every row with its candidates in reverse too: does the preference change?",
    )
    like_prompts: float | None = Field(
        0.6,
        gt=0,
        le=1,
        title="Like prompts",
        description="Prompts that share this much of their wording are contrasted: each should prefer its "
        "own answer (arXiv:2309.16155). Empty: none.",
        json_schema_extra=PRIMARY,
    )


class EvaluateConfig(ScoringKeys, ProbeKeys):
    """How right a reward is on answers that it has not seen. A tie or both-bad is half a vote for each side;
    rows that most people call a tie count for calibration alone.
    """

    attacked_prompts: int = Field(
        200,
        ge=0,
        title="Attacked prompts",
        description="At so many prompts, openers without an answer (a colon, “Solution”) are scored against "
        "the right answer (arXiv:2507.08794). 0: none.",
        json_schema_extra=PRIMARY,
    )


class ImageEvaluateConfig(ProbeKeys):
    """How right an image reward is on pictures that it has not seen. A tie or both-bad is half a vote for
    each side; rows that most people call a tie count for calibration alone.
    """

    batch_size: int = Field(16, ge=1, title="Batch size", description="Groups scored at once.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", title="Precision", description="Arithmetic of the model."
    )
