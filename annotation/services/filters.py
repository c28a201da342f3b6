"""Which groups and judgements an export holds, and how judgements are put together."""

from typing import Annotated, Any, Final, Literal

from django.utils.translation import gettext_lazy as _
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from annotation.errors import Invalid
from annotation.splitting import split_score

UserName = Annotated[str, Field(pattern=r"^[^\x00]+$", max_length=150)]
Kind = Literal["regular", "gold", "repeat", "review", "qualification", "judge"]
Share = Annotated[float, Field(ge=0, le=1)]
VOTES: Final = ("regular", "review")
Consensus = Literal["each", "majority", "weighted"]


class GroupFilters(BaseModel):
    """Which groups and which of their judgements; left out: all but what is held out."""

    model_config = ConfigDict(extra="forbid")

    held_out: bool = Field(False, description="with the comparisons that are for evaluation only")
    judged: bool | None = Field(
        None, description="true: only groups with a judgement; false: only those without"
    )
    annotators: list[UserName] | None = Field(
        None, min_length=1, description="only their judgements, by user name"
    )
    kinds: list[Kind] | None = Field(
        None, min_length=1, description="only judgements of these kinds; left out: regular, review and judge"
    )
    reviews: Literal["overrule", "beside"] | None = Field(
        None,
        description="whether a reviewer's answer takes the place of the annotators', or stands beside them;"
        " left out: as the project says where models learn from it, and beside them in exports",
    )
    since: AwareDatetime | None = Field(None, description="only judgements given at this time or later")
    until: AwareDatetime | None = Field(None, description="only judgements given before this time")
    min_agreement: Share | None = Field(
        None, description="only groups whose commonest choice has at least this share of the regular choices"
    )
    max_agreement: Share | None = Field(None, description="only groups where it has at most this share")
    consensus: Consensus = Field(
        "each",
        description="each judgement as it is; or one for each group, by majority, or weighted with how "
        "reliable the annotators are",
    )
    part: Literal["train", "eval"] | None = Field(
        None, description="only the prompts of one part of a split by prompt"
    )
    eval_fraction: Share = Field(0.1, description="the share of the prompts that are in the part `eval`")
    seed: int = Field(0, description="of the split")

    @model_validator(mode="after")
    def _in_order(self) -> "GroupFilters":
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError(str(_("`until` must lie after `since`")))
        return self

    def passes(self, group: dict[str, Any]) -> bool:
        """Whether a group passes what the database does not look at."""
        if self.part is not None:
            is_eval = split_score(group["prompt"], seed=self.seed) < self.eval_fraction
            if is_eval != (self.part == "eval"):
                return False
        if self.min_agreement is None and self.max_agreement is None:
            return True
        share = agreement_of(group["judgements"])
        low, high = self.min_agreement or 0, 1 if self.max_agreement is None else self.max_agreement
        return share is not None and low <= share <= high


def agreement_of(judgements: list[dict[str, Any]]) -> float | None:
    """The share of the commonest choice among the regular ones; None if nobody chose."""
    regular = [item for item in judgements if item.get("kind", "regular") in VOTES]
    choices = [item["choice"] for item in regular if item.get("choice") is not None]
    return max(map(choices.count, choices)) / len(choices) if choices else None


def check_filters(filters: object) -> GroupFilters:
    """Raises `Invalid` with paths such as filters.since."""
    try:
        return GroupFilters.model_validate(filters)
    except ValidationError as error:
        found = {".".join(map(str, ("filters", *item["loc"]))): item for item in error.errors()}
        words = {
            "extra_forbidden": _("is not known; known: %(names)s.")
            % {"names": ", ".join(GroupFilters.model_fields)}
        }
        raise Invalid({path: words.get(item["type"], item["msg"]) for path, item in found.items()}) from error
