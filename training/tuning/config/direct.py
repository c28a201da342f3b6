"""Text methods that tune on people's answers directly."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.shared import PRIMARY, Config, TextPairKeys, TieModel
from training.tuning.config.text import SampleKeys, ShardKeys, TextTrainConfig

# What the losses of `dpo` know besides beta.
SMOOTHED = {"sigmoid", "sigmoid_norm", "robust", "exo_pair", "aot", "aot_unpaired"}
# Those that read the difference of the two scores alone: f-divergences and margins change that difference.
OF_DIFFERENCE = {
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "ipo_norm", "robust", "exo_pair", "discopop",
}  # fmt: skip
# Those whose value depends on all pairs of a step together.
OF_WHOLE_BATCH = {"aot", "aot_unpaired", "bco_pair"}


def refuse(condition: object, message: str) -> None:
    """ValueError with the message if the condition holds: keys that cannot go together."""
    if condition:
        raise ValueError(message)


class SFTConfig(TextTrainConfig, ShardKeys, SampleKeys):
    """Supervised fine-tuning on answers. Ties: see ``ties``. Both bad: that judgement is left out."""

    learning_rate: float = Field(
        2e-4, gt=0, title="Learning rate", description="Peak learning rate.", json_schema_extra=PRIMARY
    )
    train_on: Literal["preferred", "all", "rewrites", "critiques"] = Field(
        "preferred",
        title="Answers",
        description="preferred: corrections if there are any, else the answers that won the vote or got a "
        "thumb up; rows without judgements are demonstrations and always used. all: every answer. "
        "rewrites: a corrector, from worse answers to corrections or preferred ones (arXiv:2409.00162). "
        "critiques: a critic that quotes what people marked (arXiv:2505.22338).",
        json_schema_extra=PRIMARY,
    )
    praise: list[str] = Field(
        [],
        title="Praise",
        description="For critiques: the categories of marks that say something good; others are criticism.",
    )
    loss: Literal["nll", "dft"] = Field(
        "nll",
        title="Loss",
        description="nll: negative log-likelihood. dft: each token's weighted by its own probability, so "
        "that "
        "what the model finds absurd does not rule it (arXiv:2508.05629).",
    )
    ties: Literal["drop", "all"] = Field(
        "drop",
        title="Ties",
        description="When the vote is tied: drop leaves the group out, all trains on the tied.",
    )

    @model_validator(mode="after")
    def _praise_has_a_use(self) -> Self:
        refuse(self.praise and self.train_on != "critiques", 'praise needs "train_on": "critiques"')
        return self


class ReferenceKeys(Config):
    """How strongly, and how, the reference holds the policy."""

    learning_rate: float = Field(
        5e-5,
        gt=0,
        title="Learning rate",
        description="Peak learning rate. 5e-5 suits LoRA on models of billions of weights; small models take "
        "1e-3.",
        json_schema_extra=PRIMARY,
    )
    beta: float = Field(
        0.1,
        gt=0,
        title="Beta",
        description="Weight of the pull towards the reference: smaller moves further.",
        json_schema_extra=PRIMARY,
    )
    reference: Literal["cached", "live"] = Field(
        "cached",
        title="Reference",
        description="cached: the reference's log-probabilities are computed once before training. live: at "
        "every "
        "step. Same values; cached is faster and, without LoRA, needs half the memory.",
    )


class NllKeys(Config):
    """Losses that are also trained to write the chosen answer."""

    nll_weight: float = Field(
        1.0,
        ge=0,
        title="Weight of imitation",
        description="Times the mean negative log-likelihood per token of the chosen answer; 0: none.",
    )


class TokenKeys(Config):
    """Which tokens of an answer count how much, in the policy's and the reference's sums alike."""

    ld_alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        title="Length desensitising",
        description="Weight of the tokens by which an answer is longer than the other one (LD-DPO, "
        "arXiv:2409.06411). Empty or 1: all tokens count alike.",
    )
    focus: Literal["all", "marks", "edits"] = Field(
        "all",
        title="Tokens that count",
        description="all of them. marks: those that annotators marked (all of an answer without marks). "
        "edits: "
        "those in which the two answers differ.",
    )
    rest_weight: float = Field(
        0.0, ge=0, le=1, title="Weight of the rest", description="Of the other tokens, with marks or edits."
    )

    @model_validator(mode="after")
    def _rest_has_a_use(self) -> Self:
        refuse(
            self.rest_weight and self.focus == "all",
            'rest_weight needs "focus": "marks" or "edits"',
        )
        return self


class DPOConfig(TextTrainConfig, ShardKeys, TextPairKeys, ReferenceKeys, TokenKeys, SampleKeys):
    """Direct preference optimisation. Ties and both-bad are left out unless the config says otherwise."""

    loss: Literal[
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_unpaired",
        "apo_zero",
        "apo_down",
        "discopop",
        "sigmoid_norm",
        "ipo_norm",
    ] = Field(
        "sigmoid",
        title="Loss",
        description="sigmoid: DPO (arXiv:2305.18290); sigmoid_norm on means per token. hinge: SLiC "
        "(2305.10425). ipo: squared distance to 1 / (2 beta) (2310.12036); ipo_norm on means per token. "
        "exo_pair: EXO (2402.00856). nca_pair: NCA (2402.05369). robust: label flips at a known rate "
        "(2403.00409). bco_pair: BCO with its running reward shift (2404.04656). sppo_hard: SPPO "
        "(2405.00675). aot, aot_unpaired: order of quantiles over the batch (2406.05882). apo_zero, "
        "apo_down: anchored (2408.06266). discopop: DiscoPOP (2406.08414).",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        title="Label smoothing",
        description="Assumed share of flipped labels: conservative DPO with sigmoid and aot; needed by "
        "robust and exo_pair.",
    )
    discopop_tau: float = Field(
        0.05, gt=0, title="DiscoPOP temperature", description="Only with the loss discopop."
    )
    f_divergence: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = Field(
        "reverse_kl",
        title="Divergence",
        description="What keeps the policy near the reference (f-DPO, arXiv:2309.16240), with losses of the "
        "difference of two rewards.",
    )
    alpha_divergence: float = Field(
        0.5,
        title="Alpha",
        description="Only with alpha_divergence: 1 is the reverse, 0 the forward KL divergence.",
    )
    on_policy_weighting: bool = Field(
        False,
        title="On-policy weighting",
        description="Pairs count by how likely the policy would write both answers itself (WPO, "
        "arXiv:2406.11827).",
    )
    margin: float = Field(
        0.0,
        ge=0,
        title="Margin",
        description="The reward of the preferred answer must be higher by this much per point of strength "
        "(ODPO, arXiv:2402.10571); a judgement without a strength has one point.",
    )
    ties: TieModel = Field(  # type: ignore[assignment]
        "drop",
        title="Ties",
        description="drop: a tie is left out. half: it counts as half a vote for each side. rao_kupper, "
        "davidson: it has a probability of its own (arXiv:2409.17431), with the loss sigmoid.",
    )
    tie_rate: float = Field(
        3.0,
        gt=0,
        title="Tie rate",
        description="nu of Rao-Kupper (above 1) or Davidson: of equal answers, 3 and 1 make half the "
        "judgements ties.",
    )
    guidance: float = Field(
        0.5,
        ge=0,
        title="Guidance",
        description="With an already tuned policy as reward: how much its token rewards decide how far "
        "each token "
        "may move (TGDPO, arXiv:2506.14574).",
    )
    group_step: float | None = Field(
        None,
        gt=0,
        title="Group robustness",
        description="Step size of the weights of annotator groups (GR-DPO, arXiv:2405.20304): the groups "
        "that fare worst count more. Empty: everybody counts alike.",
    )
    sync_reference_every: int | None = Field(
        None,
        ge=1,
        title="Move the reference every",
        description="Steps after which the reference moves towards the policy (TR-DPO, arXiv:2404.09656); "
        "with a live reference. Empty: it stays.",
    )
    sync_reference_mix: float = Field(
        0.6, gt=0, le=1, title="Share of the move", description="How far the reference moves; 1: all the way."
    )

    @model_validator(mode="after")
    def _keys_have_a_use(self) -> Self:
        loss, given = self.loss, self.model_fields_set
        refuse(
            self.label_smoothing and loss not in SMOOTHED,
            f'label_smoothing does not work with the loss "{loss}", only with {_list(SMOOTHED)}',
        )
        refuse(
            not self.label_smoothing and loss in ("robust", "exo_pair"),
            f'the loss "{loss}" needs a label_smoothing above 0, the assumed share of flipped labels (the '
            "authors of EXO take 0.001)",
        )
        refuse(
            "discopop_tau" in given and loss != "discopop" and self.discopop_tau != 0.05,
            'discopop_tau works with the loss "discopop" only',
        )
        different = self.f_divergence != "reverse_kl"
        refuse(
            different and loss not in OF_DIFFERENCE,
            f'f_divergence does not work with the loss "{loss}", only with {_list(OF_DIFFERENCE)}',
        )
        refuse(
            self.alpha_divergence != 0.5 and self.f_divergence != "alpha_divergence",
            'alpha_divergence needs "f_divergence": "alpha_divergence"',
        )
        refuse(
            self.margin and (loss not in OF_DIFFERENCE or self.pairs != "each"),
            f'margin needs "pairs": "each" and one of the losses {_list(OF_DIFFERENCE)}',
        )
        refuse(
            self.sync_reference_every and self.reference != "live",
            'a reference that moves cannot be cached: set "reference": "live"',
        )
        return self

    @model_validator(mode="after")
    def _ties_fit_the_loss(self) -> Self:
        modelled = self.ties in ("rao_kupper", "davidson")
        refuse(
            modelled and (self.loss != "sigmoid" or self.label_smoothing or self.margin),
            f'ties "{self.ties}" go with the loss "sigmoid", without label_smoothing or margin',
        )
        refuse(self.ties == "rao_kupper" and self.tie_rate <= 1, "the tie_rate of rao_kupper is above 1")
        refuse(self.tie_rate != 3.0 and not modelled, 'tie_rate needs "ties": "rao_kupper" or "davidson"')
        return self

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        refuse(
            self.loss in ("aot", "aot_unpaired")
            and (self.pairs != "majority" or self.ties != "drop" or self.both_bad != "drop"),
            f'the loss "{self.loss}" sorts pairs, which must count alike: it needs "pairs": "majority" and '
            "drops ties and both-bad",
        )
        refuse(
            self.group_step and (self.loss in OF_WHOLE_BATCH or self.pairs != "each"),
            f'group_step needs "pairs": "each" and another loss than {_list(OF_WHOLE_BATCH)}',
        )
        refuse(
            self.on_policy_weighting and self.loss in OF_WHOLE_BATCH,
            f"on_policy_weighting does not work with the losses {_list(OF_WHOLE_BATCH)}",
        )
        return self


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))
