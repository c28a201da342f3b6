"""Forms of the training pages. They check shapes; what may be done is decided by the services."""

import json
from collections.abc import Sequence
from typing import Any

from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from annotation.errors import Invalid
from annotation.forms import PageForm
from annotation.models import Comparison, Project
from training import browsing, reward_forms, schema_forms, services
from training.models import Arena, Run
from training.services.duels import MOST_CHARACTERS
from training.services.naming import REWARD_MODELS, SCORERS
from training.tuning.registry import Method

EVAL_SHARES = [("0.1", "10 %"), ("0.2", "20 %"), ("0.3", "30 %"), ("0", _("none"))]
# A picture is improved by the best of several, unless somebody says otherwise.
IMPROVING = {f"{schema_forms.PREFIX}_search": "best_of_n", f"{schema_forms.PREFIX}_samples_per_prompt": 2}
MOST_BYTES = 20_000_000  # of a file of rows


def offer(form: forms.Form, name: str, choices: Sequence[Any]) -> None:
    """Set the choices of a field that has some."""
    field = form.fields[name]
    assert isinstance(field, forms.ChoiceField)
    field.choices = choices


class MethodForm(PageForm):
    """A method's keys from its schema, rewards, and a seed."""

    def __init__(self, *args: Any, project: Project, method: Method, like: Run | None = None) -> None:
        self.schema = method.config.model_json_schema()
        config = like.config if like else None
        given = (
            schema_forms.initial_of(self.schema, config) | initial_of(like) | reward_forms.initial_of(like)
        )
        super().__init__(*args, initial=given)
        self.fields |= schema_forms.fields_of(self.schema) | reward_forms.fields_of(project, method)

    @property
    def rewards(self) -> list[forms.BoundField]:
        """What the method is to maximise, or a job scores with."""
        return [self[name] for name in self.fields if name.startswith("reward_")]

    @property
    def more(self) -> list[forms.BoundField]:
        """The keys that do not stand first, and the seed."""
        shown = schema_forms.primary_names(self.schema)
        names = [name for name in schema_forms.fields_of(self.schema) if name not in shown]
        return [*(self[name] for name in names), self["seed"]]

    @property
    def more_is_wrong(self) -> bool:
        return any(bound.errors for bound in self.more)


class RunForm(MethodForm):
    """A training run: what to start from, the method's keys from its schema, and which data."""

    base = forms.ChoiceField(label=_("Start from"))
    eval_fraction = forms.ChoiceField(
        label=_("Keep for evaluation"),
        choices=EVAL_SHARES,
        initial=EVAL_SHARES[0][0],
        help_text=_("This share of the prompts is never trained on; the curves of eval values come from it."),
    )
    annotators = forms.MultipleChoiceField(
        required=False,
        label=_("Only judgements by"),
        widget=forms.CheckboxSelectMultiple,
        help_text=_("Nobody chosen: everybody's."),
    )
    min_agreement = forms.FloatField(
        required=False,
        min_value=0,
        max_value=1,
        label=_("Agreement of at least"),
        help_text=_("Only comparisons whose commonest answer has this share of the votes, from 0 to 1."),
        widget=forms.NumberInput(attrs={"step": "any"}),
    )
    min_seconds = forms.FloatField(
        required=False,
        min_value=0,
        label=_("Not faster than"),
        help_text=_("Leaves out judgements given in fewer seconds."),
        widget=forms.NumberInput(attrs={"step": "any"}),
    )
    seed = forms.IntegerField(
        label=_("Seed"), initial=0, min_value=0, help_text=_("The same seed gives the same run.")
    )
    shuffle_labels = forms.BooleanField(
        required=False,
        label=_("Shuffle the labels: a control"),
        help_text=_("What is learnt from random labels must not be better than chance."),
    )

    def __init__(self, *args: Any, project: Project, method: Method, like: Run | None = None) -> None:
        super().__init__(*args, project=project, method=method, like=like)
        bases = browsing.base_choices(project, scorers=method.name in REWARD_MODELS)
        self.has_base = bool(bases)
        offer(self, "base", bases)
        people = project.members.order_by("user__username").values_list("user__username", flat=True)
        offer(self, "annotators", [(name, name) for name in people])

    @property
    def primary(self) -> list[forms.BoundField]:
        """What stands first: the keys that the schema marks."""
        return [self[name] for name in schema_forms.primary_names(self.schema)]

    @property
    def data_fields(self) -> list[forms.BoundField]:
        names = ("eval_fraction", "annotators", "min_agreement", "min_seconds", "shuffle_labels")
        return [self[name] for name in names]

    @property
    def data_is_wrong(self) -> bool:
        return any(bound.errors for bound in self.data_fields)

    @property
    def request(self) -> dict[str, Any]:
        """What `create_run` takes."""
        data = self.cleaned_data
        filters = {name: data[name] for name in ("annotators", "min_agreement", "min_seconds") if data[name]}
        return {
            "base": data["base"],
            "config": schema_forms.config_of(self.schema, data),
            "reward": reward_forms.rewards_of(data),
            "filters": filters,
            "eval_fraction": float(data["eval_fraction"]),
            "seed": data["seed"],
            "shuffle_labels": data["shuffle_labels"],
        }

    def refuse(self, error: Invalid) -> None:
        """Fields of filters have no prefix here, and rewards have rows."""
        plain = Invalid({path.removeprefix("filters."): text for path, text in error.errors.items()})
        super().refuse(reward_forms.place_errors(plain, self.cleaned_data))


class JobForm(MethodForm):
    """Answers written or candidates scored: the model, the job's keys from its schema, and rewards."""

    base = forms.ChoiceField(label=_("Model"))
    rows = forms.FileField(
        label=_("Rows"),
        required=False,
        help_text=_(
            "A JSONL file of groups with judgements or verified answers, or of benchmark rows with “chosen” "
            "and “rejected”. None: what the project knows of prompts that the reward was not trained on."
        ),
    )
    prompts = forms.CharField(
        label=_("Prompts"),
        required=False,
        max_length=1_000_000,
        help_text=_("One on each line. Empty: every prompt of the project."),
        widget=forms.Textarea(attrs={"rows": 6, "dir": "auto"}),
    )
    seed = forms.IntegerField(
        label=_("Seed"), initial=0, min_value=0, help_text=_("The same seed gives the same result.")
    )

    def __init__(
        self, *args: Any, project: Project, method: Method, improve: Comparison | None = None, base: str = ""
    ) -> None:
        super().__init__(*args, project=project, method=method)
        self.initial["base"] = base
        if method.name != "evaluate":
            del self.fields["rows"]
        bases = browsing.base_choices(project, scorers=method.name in SCORERS)
        self.has_base = bool(bases)
        if improve is not None:
            del self.fields["prompts"]
            self.initial.update(IMPROVING)
        if method.name in SCORERS:
            del self.fields["prompts"]
            self.fields["base"].required = False
            self.fields["base"].label = _("Reward model")
        nothing = [("", _("none: the rewards below"))] if method.name in SCORERS else []
        offer(self, "base", [*nothing, *bases])

    @property
    def main(self) -> list[forms.BoundField]:
        """What stands first: the model, the prompts, and the keys that the schema marks."""
        names = [name for name in ("base", "rows", "prompts") if name in self.fields]
        return [self[name] for name in [*names, *schema_forms.primary_names(self.schema)]]

    @property
    def request(self) -> dict[str, Any]:
        """What `create_generation`, `create_scoring` or `create_evaluation` takes."""
        data = self.cleaned_data
        found = {
            "base": data["base"],
            "config": schema_forms.config_of(self.schema, data),
            "reward": reward_forms.rewards_of(data),
            "seed": data["seed"],
        }
        if "prompts" in data:
            lines = [line.strip() for line in data["prompts"].splitlines() if line.strip()]
            found["prompts"] = lines or None
        if data.get("rows"):
            found["groups"] = data["rows"]
        return found

    def clean_rows(self) -> list[dict[str, Any]] | None:
        """The rows of the file."""
        file = self.cleaned_data["rows"]
        if file is None:
            return None
        if file.size > MOST_BYTES:
            raise forms.ValidationError(gettext("The file is larger than 20 MB; send it by the API."))
        found = []
        for number, line in enumerate(file.read().splitlines(), start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError:  # no JSON, or no UTF-8
                row = line
            if row is not None and not isinstance(row, dict):
                raise forms.ValidationError(
                    gettext("Line %(number)s is no JSON object.") % {"number": number}
                )
            found += [row] if row else []
        return found

    def refuse(self, error: Invalid) -> None:
        """Rewards have rows; what is wrong with a line of the file stands at the file."""
        placed = {}
        for path, text in error.errors.items():
            head = path.partition(".")[0]
            at_file = head in ("groups", "rows") and "rows" in self.fields
            placed["rows" if at_file else path] = f"{path}: {text}" if at_file and path != head else text
        super().refuse(reward_forms.place_errors(Invalid(placed), self.cleaned_data))


def initial_of(like: Run | None) -> dict[str, Any]:
    """A run's own values, for one more like it."""
    if like is None:
        return {}
    snapshot = like.snapshot
    shares = [value for value, _label in EVAL_SHARES if float(value) == snapshot.eval_fraction]
    base = (
        f"checkpoint:{like.base_checkpoint_id}" if like.base_checkpoint_id else like.base and like.base.name
    )
    return {
        "base": base,
        "eval_fraction": shares[0] if shares else EVAL_SHARES[0][0],
        "seed": like.seed,
        "shuffle_labels": snapshot.shuffle_labels,
        **{name: snapshot.filters.get(name) for name in ("annotators", "min_agreement", "min_seconds")},
    }


class ModelForm(PageForm):
    """A model that runs may start from."""

    name = forms.CharField(label=_("Name"), max_length=100, help_text=_("Runs name the model by it."))
    location = forms.CharField(
        label=_("Where it is"),
        max_length=500,
        help_text=_("A folder that the workers can read, in transformers or diffusers format, or a hub id."),
    )


class UploadForm(PageForm):
    """A copy of a result on a model hub."""

    repository = forms.CharField(
        label=_("Repository"), max_length=200, help_text=_("An owner and a name, as in owner/name.")
    )
    private = forms.BooleanField(label=_("Private"), required=False, initial=True)


class MatchForm(PageForm):
    """Two models to be compared blind."""

    left = forms.ChoiceField(label=_("Model"))
    right = forms.ChoiceField(label=_("Against"))
    samples_per_prompt = forms.IntegerField(
        label=_("Answers per prompt"),
        initial=1,
        min_value=1,
        max_value=20,
        help_text=_("Each is one comparison."),
    )

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        models = browsing.base_choices(project, scorers=False)
        self.has_two = sum(len(choices) for _label, choices in models) > 1
        for name in ("left", "right"):
            offer(self, name, models)
        if not self.is_bound and models:
            self.initial.setdefault("left", models[-1][1][0][0])


class ArenaForm(PageForm):
    """Which models take part in the arena, and whether it is open."""

    models = forms.MultipleChoiceField(label=_("Models that answer"), widget=forms.CheckboxSelectMultiple)
    is_open = forms.BooleanField(
        label=_("Open"), required=False, help_text=_("While it is closed nobody can ask anything new.")
    )

    def __init__(self, *args: Any, project: Project, arena: Arena | None) -> None:
        taking_part = [one.name for one in services.contenders_of(arena)] if arena else []
        super().__init__(*args, initial={"models": taking_part, "is_open": arena is None or arena.is_open})
        groups = browsing.base_choices(project, scorers=False)
        self.has_two = sum(len(choices) for _label, choices in groups) > 1
        offer(self, "models", [choice for _label, choices in groups for choice in choices])


class PromptForm(PageForm):
    """What somebody asks in the arena."""

    prompt = forms.CharField(
        label=_("Your prompt"),
        max_length=MOST_CHARACTERS,
        widget=forms.Textarea(attrs={"rows": 4, "dir": "auto"}),
    )


class GalleryForm(PageForm):
    """What to look at of what a job gave; where it gave no scores, by words alone."""

    q = forms.CharField(
        label=_("Words of the prompt"),
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"type": "search"}),
    )
    order = forms.ChoiceField(
        label=_("Order"),
        required=False,
        choices=[
            ("highest", _("Highest score first")),
            ("lowest", _("Lowest score first")),
            ("given", _("As they came")),
        ],
    )
    at_least = forms.FloatField(label=_("Score at least"), required=False)
    at_most = forms.FloatField(label=_("Score at most"), required=False)

    def __init__(self, *args: Any, has_scores: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not has_scores:
            for name in ("order", "at_least", "at_most"):
                del self.fields[name]
