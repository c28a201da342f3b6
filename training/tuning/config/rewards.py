"""Text reward models."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.shared import PRIMARY, BestKeys, TextPairKeys, TieModel
from training.tuning.config.text import ProcessKeys, TextTrainConfig

# Losses of single scores, whose members make an ensemble.
SCALAR_LOSSES = {"bradley_terry", "plackett_luce", "best_of_k", "ordinal"}
# Losses that read pairs.
PAIR_LOSSES = {"bradley_terry", "ordinal", "general_preference"}
# Losses of people who differ.
PERSONAL_LOSSES = {"ideal_point", "mixture", "variational"}


class RewardModelConfig(TextTrainConfig, ProcessKeys, TextPairKeys, BestKeys):
    """Reward model. A tie counts half for each side, or as ``ties`` says; both-bad is left out unless
    ``both_bad`` says half.
    """

    loss: Literal[
        "bradley_terry",
        "plackett_luce",
        "best_of_k",
        "ordinal",
        "regression",
        "general_preference",
        "ideal_point",
        "mixture",
        "variational",
    ] = Field(
        "bradley_terry",
        title="Loss",
        description="bradley_terry: pairs (arXiv:2009.01325). plackett_luce: whole rankings. best_of_k: the "
        "choice among all candidates (arXiv:1909.08593). ordinal: how much better, from strength. "
        "regression: the ratings of attributes (arXiv:2406.08673). general_preference: preferences that may "
        "be cyclic (arXiv:2410.02197). ideal_point: each annotator likes what lies near a point of their "
        "own, which mixes shared prototypes (arXiv:2406.08469). mixture: several rewards, weighed by the "
        "prompt (arXiv:2505.24846). variational: a latent for each annotator, which an encoder infers from a "
        "few of their pairs (arXiv:2408.10075).",
        json_schema_extra=PRIMARY,
    )
    ties: TieModel = Field(  # type: ignore[assignment]
        "half",
        title="Ties",
        description="half: a tie counts as half a vote for each side. drop: it is left out. rao_kupper, "
        "davidson: it has a probability of its own (arXiv:2409.17431), with the loss bradley_terry.",
    )
    tie_rate: float = Field(
        3.0,
        gt=0,
        title="Tie rate",
        description="nu of Rao-Kupper (above 1) or Davidson: of equal answers, 3 and 1 make half the "
        "judgements ties.",
    )
    margin: float = Field(
        0.0,
        ge=0,
        title="Margin",
        description="The score of the preferred answer must be higher by this much per point of strength "
        "(arXiv:2307.09288); a judgement without a strength has one point.",
    )
    centring: float = Field(
        0.0,
        ge=0,
        title="Centring",
        description="Coefficient of the squared sum of both scores (arXiv:2312.09244): keeps scores near 0, "
        "so that members of an ensemble can be compared. 0.01 is usual.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, title="Label smoothing", description="Assumed share of flipped labels."
    )
    start_head: Literal["random", "zero"] = Field(
        "random",
        title="Start of the head",
        description="zero: all scores start equal, and the loss at its known value.",
    )
    members: int = Field(
        1,
        ge=1,
        le=64,
        title="Members",
        description="Reward models of one ensemble on one backbone (arXiv:2310.02743).",
    )
    member_kind: Literal["heads", "adapters"] = Field(
        "heads",
        title="What members have",
        description="heads: a head of their own. adapters: a LoRA adapter and a head of their own, which "
        "differ more and take a pass each.",
    )
    bootstrap: bool = Field(
        False,
        title="Bootstrap",
        description="Each member sees its own sample of the groups, drawn with replacement: members disagree "
        "more where data is scarce.",
    )
    aggregate: Literal["mean", "min", "median", "mean_variance", "mean_std"] = Field(
        "mean",
        title="Aggregate",
        description="How members become one score. min: the worst case. mean_variance, mean_std: the mean "
        "less a penalty for disagreement (arXiv:2310.02743, arXiv:2312.09244).",
    )
    penalty: float = Field(
        0.5,
        ge=0,
        title="Penalty",
        description="Lambda of mean_variance and mean_std.",
    )
    attributes: list[str] = Field(
        [],
        title="Attributes",
        description="For regression: the ratings to learn, each an output; empty: all that the data has.",
    )
    attribute_weights: dict[str, float] = Field(
        {},
        title="Weights of attributes",
        description="How attributes add up to one score; those not named count 0. Empty: the mean of all.",
    )
    dimensions: int = Field(
        4,
        ge=2,
        le=1024,
        multiple_of=2,
        title="Dimensions",
        description="Of general preferences, of the space of ideal points, or of what a latent's rewards "
        "read; even.",
    )
    preference_temperature: float = Field(
        0.1, gt=0, title="Temperature", description="Of general preferences: smaller is more decided."
    )
    prototypes: int = Field(
        2,
        ge=1,
        le=64,
        title="Prototypes",
        description="Of ideal points, or the rewards of a mixture: kinds of people that are told apart.",
    )
    fit: Literal["all", "people"] = Field(
        "all",
        title="Fit",
        description="people: from a base of the same loss; its rewards stay, and what is learnt is who this "
        "data's people are (ideal_point, variational), or under which prompt which reward counts (mixture).",
    )
    people_learning_rate: float = Field(
        5e-3,
        gt=0,
        title="Learning rate of people",
        description="Peak, for prototypes and people's shares of them, for the router of a mixture, or for "
        "encoder, decoder and latents.",
    )
    latent: int = Field(
        4, ge=1, le=1024, title="Size of the latent", description="Numbers that say what somebody likes."
    )
    context_pairs: int = Field(
        8,
        ge=1,
        le=256,
        title="Pairs for the encoder",
        description="Somebody's latent is inferred from one to so many of their other pairs while it learns.",
    )
    latent_kl: float = Field(
        1e-4,
        ge=0,
        title="KL of the latent",
        description="How much each pair pulls the latent towards the prior. One over the number of pairs of "
        "a person makes the evidence bound, but so much pull early in training leaves latents unused.",
    )
    scaled: bool = Field(
        False,
        title="Scaled rewards",
        description="Scores of variational are how likely the person prefers the answer to others of the "
        "data, 0 to 1, so that people's scores have one scale.",
    )
    router_entropy: float = Field(
        0.5, ge=0, title="Entropy of the router", description="Pulls a mixture's weights towards equal ones."
    )
    router_temperature: float = Field(
        1.0,
        gt=0,
        title="Temperature of the router",
        description="For a mixture with fit people: the smaller, the more a pair's best reward counts.",
    )
    condition: Literal["none", "context", "annotator", "annotator_group"] = Field(
        "none",
        title="Depends on",
        description="What of a judgement the model reads too, as text before the prompt: its context (a "
        "criterion or principle), who gave it, or that person's group (arXiv:2407.14916).",
    )
    correction: Literal["none", "peer_review", "flip", "margin", "smooth"] = Field(
        "none",
        title="Wrong labels",
        description="peer_review: two members train each other on the pairs that they believe "
        "(arXiv:2505.10597). flip, margin, smooth: the rewards of this run, an ensemble say, judge the pairs "
        "before training: those they contradict are turned round, lead by what they find, or are softened "
        "(arXiv:2401.06080).",
    )
    noise_rate: float = Field(
        0.2,
        gt=0,
        lt=1,
        title="Share of wrong labels",
        description="For peer_review: the share left out of each batch. For flip and smooth: the share of "
        "all pairs, those with the lowest strength.",
    )
    sources: Literal["alike", "min_norm"] = Field(
        "alike",
        title="Sources",
        description="min_norm: the sources of preferences (meta.source of a row) are weighed in each step so "
        "that none is trained against (arXiv:2312.07401).",
    )
    normalise: Literal["none", "zero_mean", "standardise"] = Field(
        "none",
        title="Normalise scores",
        description="After training: zero_mean subtracts a bias so that reference answers average 0 "
        "(arXiv:2009.01325); standardise also makes their variance 1 (arXiv:1909.08593). Each member or "
        "attribute on its own.",
    )
    normalise_on: Literal["candidates", "references"] = Field(
        "candidates",
        title="Reference answers",
        description="Answers that scores are normalised on: the rows' candidates, or their reference.",
    )

    @model_validator(mode="after")
    def _keys_have_a_use(self) -> Self:
        loss = self.loss
        modelled = self.ties in ("rao_kupper", "davidson")
        _refuse(modelled and loss != "bradley_terry", f'ties "{self.ties}" needs the loss "bradley_terry"')
        _refuse(self.ties == "rao_kupper" and self.tie_rate <= 1, "the tie_rate of rao_kupper is above 1")
        _refuse(self.tie_rate != 3.0 and not modelled, 'tie_rate needs "ties": "rao_kupper" or "davidson"')
        for key in ("margin", "centring", "label_smoothing"):
            given = bool(getattr(self, key))
            _refuse(given and loss != "bradley_terry", f'{key} needs the loss "bradley_terry"')
            _refuse(given and modelled and key != "centring", f"{key} needs ties half or drop")
        _refuse(bool(self.margin) and self.pairs == "majority", "margin needs pairs each or soft")
        _refuse(loss == "ordinal" and self.pairs == "majority", "the loss ordinal needs pairs each or soft")
        whole = loss in ("plackett_luce", "best_of_k", "regression")
        _refuse(whole and self.is_changed("judges"), f"{loss} reads all judgements: leave judges out")
        self._check_members()
        self._check_attributes()
        self._check_corrections()
        self._check_people()
        return self

    def _check_members(self) -> None:
        several = self.members > 1
        _refuse(several and self.loss not in SCALAR_LOSSES, f"{self.loss} has no members")
        for key in ("member_kind", "bootstrap", "aggregate", "penalty"):
            changed = getattr(self, key) != type(self).model_fields[key].default
            _refuse(changed and not several, f"{key} has a use only with members above 1")
        adapters = self.member_kind == "adapters"
        _refuse(adapters and self.lora is None, "members with adapters need lora")
        _refuse(adapters and self.merged, "an ensemble of adapters cannot be merged")
        _refuse(adapters and self.gradient_checkpointing, "gradient_checkpointing needs members with heads")

    def _check_attributes(self) -> None:
        regression = self.loss == "regression"
        _refuse(bool(self.attributes) and not regression, 'attributes need the loss "regression"')
        _refuse(
            bool(self.attribute_weights) and not regression, 'attribute_weights need the loss "regression"'
        )
        unknown = sorted(set(self.attribute_weights) - set(self.attributes))
        _refuse(
            bool(unknown and self.attributes), f"attribute_weights names {', '.join(unknown)}, no attribute"
        )

    def _check_corrections(self) -> None:
        given = self.correction != "none"
        _refuse(given and self.loss != "bradley_terry", f'{self.correction} needs the loss "bradley_terry"')
        peers = self.correction == "peer_review"
        _refuse(peers and self.members != 2, "peer_review needs two members")
        uses_rate = self.correction in ("peer_review", "flip", "smooth")
        _refuse(self.noise_rate != 0.2 and not uses_rate, "noise_rate needs peer_review, flip or smooth")
        weighed = self.sources == "min_norm"
        _refuse(weighed and self.loss != "bradley_terry", 'min_norm needs the loss "bradley_terry"')
        _refuse(weighed and self.members > 1, "min_norm needs one member")
        placed = self.normalise_on != "candidates" and self.normalise == "none"
        _refuse(placed, "normalise_on has a use only with normalise")

    def _check_people(self) -> None:
        loss = self.loss
        given = {key for key in ("fit", "people_learning_rate") if self.is_changed(key)}
        _refuse(bool(given) and loss not in PERSONAL_LOSSES, f"{', '.join(sorted(given))}: for the losses "
                "ideal_point, mixture and variational")  # fmt: skip
        _refuse(self.is_changed("prototypes") and loss not in ("ideal_point", "mixture"),
                "prototypes: for the losses ideal_point and mixture")  # fmt: skip
        _refuse(self.is_changed("dimensions") and loss not in ("general_preference", "ideal_point",
                "variational"), 'dimensions need the loss "general_preference", "ideal_point" or '
                '"variational"')  # fmt: skip
        given = {key for key in ("latent", "context_pairs", "latent_kl", "scaled") if self.is_changed(key)}
        _refuse(
            bool(given) and loss != "variational", f"{', '.join(sorted(given))}: for the loss variational"
        )
        fitted = self.fit == "people" and (self.is_changed("context_pairs") or self.scaled)
        _refuse(fitted, "context_pairs and scaled are what the base has: leave them out with fit people")
        bare = self.lora is None or self.merged
        _refuse(loss == "variational" and bare, "variational needs lora that is not merged: its encoder "
                "reads answers as the model without it does")  # fmt: skip
        routed = loss == "mixture"
        _refuse(self.is_changed("router_entropy") and not (routed and self.fit == "all"),
                'router_entropy needs the loss "mixture" and fit "all"')  # fmt: skip
        _refuse(self.is_changed("router_temperature") and not (routed and self.fit == "people"),
                'router_temperature needs the loss "mixture" and fit "people"')  # fmt: skip
        if loss in PERSONAL_LOSSES:
            _refuse(self.start_head == "zero", f"{loss} learns nothing from outputs that are all the same")
            _refuse(
                self.normalise != "none", f"{loss} gives people scores of their own, which are not normalised"
            )
        named = loss in ("ideal_point", "variational")
        _refuse(named and self.condition != "none", f"{loss} goes without conditions")


def _refuse(wrong: bool, message: str) -> None:
    if wrong:
        raise ValueError(message)


class ProcessRewardModelConfig(TextTrainConfig, ProcessKeys, BestKeys):
    """Process reward model: is each step of an answer right? Ties and both-bad do not arise."""

    segments: Literal["steps", "sentences", "clauses"] = Field(
        "steps",
        title="Segments",
        description="What is judged. steps: as people marked them. sentences, clauses: wrong where somebody "
        "marked a span in them (fine-grained reward models, arXiv:2306.01693).",
    )
    category: str | None = Field(
        None,
        min_length=1,
        title="Category",
        description="For sentences and clauses: only spans of this category make them wrong; empty: all do.",
    )

    score: Literal["min", "product", "last"] = Field(
        "min",
        title="Score of an answer",
        description="How its steps become one score: the worst step (arXiv:2312.08935), all of them "
        "(arXiv:2305.20050), or the last.",
        json_schema_extra=PRIMARY,
    )
    members: int = Field(
        1, ge=1, le=64, title="Members", description="Heads of an ensemble; scores are read from their mean."
    )
    metric_for_best: Literal["eval/accuracy", "eval/accuracy_wrong", "eval/loss"] = Field(  # type: ignore[assignment]
        "eval/loss", title="Best by", description="The evaluation value that decides."
    )

    @model_validator(mode="after")
    def _category_has_a_use(self) -> Self:
        if self.category is not None and self.segments == "steps":
            raise ValueError('category needs "segments": "sentences" or "clauses"')
        return self
