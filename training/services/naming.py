"""How runs name what they start from: `demo-text` is a registered model, `checkpoint:12` a result."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.utils.translation import gettext as _

from annotation.errors import Invalid
from annotation.models import Project, User
from annotation.permissions import Action
from training.models import BaseModel, Checkpoint, Run
from training.tuning.registry import METHODS, Method
from training.tuning.rewards.spec import BadReward, parse_rewards

REWARD_MODELS = ("reward_model", "process_reward_model", "image_reward_model", "early_reward_model")
SCORERS = ("score", "image_score", "evaluate", "image_evaluate")
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def register_base_model(*, by: User, name: str, modality: str, location: str) -> BaseModel:
    """A model that runs may start from: a folder in transformers or diffusers format, or a hub id.

    A folder is looked at: it must exist, hold a model, and hold its weights as safetensors.
    """
    errors = {}
    name, location = name.strip(), location.strip()
    if not name or ":" in name or len(name) > 100:
        errors["name"] = _("must have 1 to 100 characters and no colon.")
    elif BaseModel.objects.filter(name=name).exists():
        errors["name"] = _('A model named "%(name)s" is registered already; choose another name.') % {
            "name": name
        }
    if modality not in Project.Modality.values:
        errors["modality"] = _("%(modality)r is no modality; use text or image.") % {"modality": modality}
    if problem := _problem_of(location):
        errors["location"] = problem
    if errors:
        raise Invalid(errors)
    return BaseModel.objects.create(name=name, modality=modality, location=location, created_by=by)


def _problem_of(location: str) -> str:
    """What is wrong with a location, or nothing. Hub ids are not looked up: workers may be elsewhere."""
    folder = Path(location)
    if not folder.is_absolute():
        return "" if HUB_ID.fullmatch(location) else _("must be an absolute path or a hub id.")
    if not folder.is_dir():
        return _("There is no folder %(location)s.") % {"location": location}
    if not any(
        (folder / name).is_file() for name in ("config.json", "model_index.json", "adapter_config.json")
    ):
        return _("%(location)s is no model folder: it has neither config.json nor model_index.json.") % {
            "location": location
        }
    files = [path for path in folder.rglob("*") if path.is_file()]
    if any(path.suffix == ".safetensors" for path in files):
        return ""
    if pickles := [path for path in files if path.suffix in PICKLES]:
        return _("%(file)s is a pickle, which can run code when it is read; convert it to safetensors.") % {
            "file": pickles[0]
        }
    return _("%(location)s holds no .safetensors file; give the folder of a model in the public format.") % {
        "location": location
    }


def method_for(project: Project, name: str, *, purpose: str = "train") -> Method:
    """The method of this name that works on the project's material."""
    methods = [method for method in METHODS if method.purpose == purpose]
    fitting = [method.name for method in methods if method.modality == project.modality]
    for method in methods:
        if method.name == name and method.modality == project.modality:
            return method
        if method.name == name:
            message = _("%(name)s does not work on this project's material; use one of %(others)s.")
            raise Invalid({"method": message % {"name": name, "others": ", ".join(fitting)}})
    raise Invalid(
        {
            "method": _('There is no method "%(name)s"; there are %(names)s.')
            % {"name": name, "names": ", ".join(fitting)}
        }
    )


def find_base(*, by: User, name: str | None, method: Method, field: str = "base") -> dict[str, Any]:
    """`{"base": BaseModel}` or `{"base_checkpoint": Checkpoint}`; Invalid if none is there or fits."""
    if not name:
        raise Invalid(
            {field: _("%(name)s needs a model to start from; name a registered one.") % {"name": method.name}}
        )
    if name.startswith("checkpoint:"):
        return {"base_checkpoint": _find_checkpoint(by=by, name=name, method=method, field=field)}
    base = BaseModel.objects.filter(name=name).first()
    if base is None:
        known = BaseModel.objects.filter(modality=method.modality).order_by("name")
        names = ", ".join(known.values_list("name", flat=True)[:20]) or _("none yet")
        raise Invalid(
            {
                field: _('No model named "%(name)s" is registered; there are: %(names)s.')
                % {"name": name, "names": names}
            }
        )
    if base.modality != method.modality:
        raise Invalid({field: _material(name, method)})
    return {"base": base}


def _material(name: str, method: Method) -> str:
    """The model is of the other kind: of pictures, not of texts, or the other way round."""
    if method.modality == "image":
        said = _('"%(name)s" is a model of texts, and %(method)s works on pictures.')
    else:
        said = _('"%(name)s" is a model of pictures, and %(method)s works on texts.')
    return said % {"name": name, "method": method.name}


def _checkpoint_named(*, by: User, name: str, method: Method, field: str) -> Checkpoint:
    number = name.removeprefix("checkpoint:")
    found = Checkpoint.objects.visible_to(by, Action.TRAIN).of_models().select_related("run__project")
    checkpoint = found.filter(pk=int(number)).first() if number.isdecimal() and len(number) < 19 else None
    if checkpoint is None:
        raise Invalid({field: _('There is no model "%(name)s" among your projects.') % {"name": name}})
    if checkpoint.run.project.modality != method.modality:
        raise Invalid({field: _material(name, method)})
    return checkpoint


def _find_checkpoint(*, by: User, name: str, method: Method, field: str) -> Checkpoint:
    checkpoint = _checkpoint_named(by=by, name=name, method=method, field=field)
    scores = checkpoint.run.method in REWARD_MODELS
    if method.name in SCORERS and not scores:
        raise Invalid(
            {
                field: _('"%(name)s" was made by %(maker)s; %(method)s needs a reward model.')
                % {"name": name, "maker": checkpoint.run.method, "method": method.name}
            }
        )
    if scores and method.name not in (*SCORERS, *REWARD_MODELS):
        raise Invalid(
            {
                field: _('"%(name)s" is a reward model: it scores and cannot be used by %(method)s.')
                % {"name": name, "method": method.name}
            }
        )
    return checkpoint


def name_of_base(run: Run) -> str:
    """As it was given: `demo-text` or `checkpoint:12`."""
    if run.base_checkpoint_id:
        return f"checkpoint:{run.base_checkpoint_id}"
    return run.base.name if run.base else ""


def check_reward(
    *, by: User, reward: list[Any], method: Method, over_http: bool, earlier_steps: int = 0
) -> None:
    """Raise Invalid for an entry that is not understood or names no model of this person, and if the method
    has no use for rewards, or none and needs some.

    In a schedule an entry, or its model, may be `{"step": number}`: what an earlier step will make.
    """
    if over_http:
        for number, entry in enumerate(reward):
            if isinstance(entry, dict) and "python" in entry:
                message = _("Python functions are accepted on the command line only; use a model or a rule.")
                raise Invalid({f"reward.{number}.python": message})
    named = [_with_a_name(entry, earlier_steps) for entry in reward]
    try:
        entries = parse_rewards(named, modality="image" if method.modality == "image" else "text")
    except BadReward as error:
        raise Invalid({error.field: error.message}) from None
    if reward and method.reward == "none":
        raise Invalid(
            {
                "reward": _("%(name)s learns from judgements and takes no reward; leave it out.")
                % {"name": method.name}
            }
        )
    if not reward and method.reward == "required":
        raise Invalid(
            {"reward": _("%(name)s needs rewards: a list of models and rules.") % {"name": method.name}}
        )
    for number, entry in enumerate(entries):
        if entry.model is not None and named[number] is reward[number]:
            # What is asked about a picture is a language model that sees.
            kind = method if entry.ask is None else replace(method, modality="text")
            find_reward_model(by=by, name=entry.model, method=kind, field=f"reward.{number}.model")


def _with_a_name(entry: Any, earlier_steps: int) -> Any:
    """The entry itself; one that names an earlier step, with a stand-in for what that will make."""
    if not isinstance(entry, dict):
        return entry
    step = entry.get("model", entry)
    if not isinstance(step, dict) or step.keys() != {"step"} or step["step"] not in range(earlier_steps):
        return entry
    return {**({} if step is entry else entry), "model": "step"}


def find_reward_model(*, by: User, name: str, method: Method, field: str) -> None:
    """Raise Invalid unless a registered model, or a checkpoint of this person's projects, has this name and
    is about the method's material: a reward model, or a policy, which rewards what it makes likelier.
    """
    if name.startswith("checkpoint:"):
        _checkpoint_named(by=by, name=name, method=method, field=field)
    else:
        find_base(by=by, name=name, method=method, field=field)
