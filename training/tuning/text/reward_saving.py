"""Results of reward models: the public format, ``reward.json``, and ``calibration.json``."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from training.tuning.calibration import Bin
from training.tuning.config import RewardModelConfig
from training.tuning.rewards.info import FILE, RewardInfo, RewardKind, write_info
from training.tuning.rewards.spec import Aggregate
from training.tuning.rundir import write_json
from training.tuning.text.models import TextModel
from training.tuning.text.personal import PersonalObjective, save_taste
from training.tuning.text.reward_evaluation import Evaluation
from training.tuning.text.reward_objectives import Cuts, Objective, RatingObjective
from training.tuning.text.reward_training import Moments
from training.tuning.text.saving import save_result


def info_of(
    config: RewardModelConfig,
    objective: Objective,
    model: TextModel,
    *,
    moments: Moments | None,
    evaluation: Evaluation | None,
) -> RewardInfo:
    """What ``reward.json`` says of a trained model."""
    kind: RewardKind = "ensemble" if config.members > 1 else "scalar"
    names: list[str] = []
    weights: list[float] = []
    link: dict[str, float | list[float]] = {}
    if isinstance(objective, RatingObjective):
        kind, names = "attributes", objective.names
        weights = (
            [config.attribute_weights.get(name, 0.0) for name in names] if config.attribute_weights else []
        )
    elif isinstance(objective, PersonalObjective):
        kind = "personal"
    elif config.loss == "general_preference":
        kind, link = "preference", {"tau": config.preference_temperature}
    elif isinstance(objective.link, Cuts):
        link = {"cuts": objective.link().detach().tolist()}
    elif config.ties in ("rao_kupper", "davidson"):
        link = {"tie_rate": config.tie_rate}
    spread = [value if value > 0 else 1.0 for value in moments.std] if moments else []
    return RewardInfo(
        kind=kind,
        outputs=objective.outputs,
        names=names,
        aggregate=Aggregate(name="aggregate", how=config.aggregate, penalty=config.penalty),
        weights=weights,
        shift=moments.mean if moments else [],
        scale=[1 / value for value in spread] if config.normalise == "standardise" else [],
        members=list(model.members),
        condition=config.condition,
        temperature=evaluation.temperature() if evaluation else None,
        link=link,
        taste=objective.taste if isinstance(objective, PersonalObjective) else None,
    )


def save_reward(
    model: TextModel,
    info: RewardInfo,
    config: RewardModelConfig,
    objective: Objective,
    *,
    bins: Sequence[Bin],
) -> Callable[[Path], None]:
    """A writer of the result. Members with adapters get a folder each, in peft's format."""
    write_model = save_result(model, precision=config.precision, merged=config.merged)

    def write(folder: Path) -> None:
        write_model(folder)
        write_info(folder, info)
        if isinstance(objective, PersonalObjective):
            save_taste(folder, objective.link)
        if bins:
            write_json(folder / "calibration.json", {"bins": [asdict(one) for one in bins]})

    return write


def _taste_note(info: RewardInfo) -> str:
    if info.taste is None:
        return ""
    if info.taste.kind == "ideal_point":
        return (
            "The outputs are a point f(y); a person's score is minus its distance from f(softmax(w) P), with "
            "their row w of `weights` and the `prototypes` P of `personal.safetensors`."
        )
    if info.taste.kind == "variational":
        return (
            "The outputs are f(y); a person's reward is their product with what the linear layer `decoder` "
            "of `personal.safetensors` makes of their row z of `mean`."
        ) + (
            " Their score is the mean of sigmoid(reward - reward of r) over the rows r of `references`."
            if info.taste.references
            else ""
        )
    return (
        f"The {info.outputs} outputs are rewards; the score is their mean by the softmax of what `router` in "
        "`personal.safetensors` (two linear layers, a ReLU between them) makes of the prompt's last state."
    )


def reward_notes(info: RewardInfo) -> list[str]:
    """Sentences for the card: how the outputs become a score."""
    how = {
        "scalar": "The one output is the score.",
        "ensemble": f"The {info.outputs} outputs are members of an ensemble; the score is their "
        f"{info.aggregate.how}.",
        "attributes": f"The outputs are {', '.join(info.names)}, in this order.",
        "preference": "The outputs are embeddings whose blocks (0, 1), (2, 3), … give the preference "
        "s(i, j) = sum of v_i1 v_j2 - v_i2 v_j1; the probability that i is preferred is sigmoid(s / tau).",
        "personal": _taste_note(info),
        "steps": "The output at the last token of a step says whether it is right.",
    }
    notes = [f"{how[info.kind]} `{FILE}` says so for programs."]
    if info.members:
        notes.append("Each member is an adapter in a folder of its own: " + ", ".join(info.members) + ".")
    if info.shift:
        notes.append(f"Scores are normalised: subtract `shift`, multiply by `scale`, as `{FILE}` gives them.")
    if info.temperature is not None:
        notes.append(f"On held-out pairs sigmoid(margin / {info.temperature:.3g}) is best calibrated.")
    return notes
