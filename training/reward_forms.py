"""The rewards of a run in its form: a few rows for what is usual, a JSON list for everything.

A row is a model or a rule, its argument and its weight; the list is what the API takes, with transforms and
gates, and replaces the rows.
"""

from typing import Any, Final

from django import forms
from django.utils.translation import gettext_lazy as _

from annotation.errors import Invalid
from annotation.models import Project
from training import browsing
from training.models import Run
from training.tuning.registry import Method
from training.tuning.rewards.rules import RULES

ROWS: Final = 3
LIST: Final = "reward_list"
RULE: Final = "rule:"


class ListField(forms.JSONField):
    """Nothing is an empty field, not the word null."""

    def prepare_value(self, value: Any) -> Any:
        return "" if value is None else super().prepare_value(value)


def fields_of(project: Project, method: Method) -> dict[str, forms.Field]:
    """Form fields for the rewards; none for a method that takes none."""
    if method.reward == "none":
        return {}
    choices = [
        ("", "–"),
        *browsing.reward_choices(project),
        (_("Rules"), [(RULE + rule.name, f"{rule.name}: {rule.summary}") for rule in _rules(project)]),
    ]
    fields: dict[str, forms.Field] = {}
    for row in range(ROWS):
        fields[f"reward_{row}_source"] = forms.ChoiceField(
            choices=choices,
            required=row == 0 and method.reward == "required",
            label=_("Reward") if row == 0 else _("and"),
            help_text=_("A reward model or a rule; more is better.") if row == 0 else "",
        )
        fields[f"reward_{row}_argument"] = forms.CharField(
            required=False, max_length=200, label=_("Of the rule"), help_text=_rule_hint(project)
        )
        fields[f"reward_{row}_weight"] = forms.FloatField(
            required=False,
            label=_("Weight"),
            initial=1.0,
            widget=forms.NumberInput(attrs={"step": "any"}),
            help_text=_("Below zero: less is better."),
        )
    fields[LIST] = ListField(
        required=False,
        label=_("The whole list as JSON"),
        help_text=_("With transforms and gates, as the API takes it. Replaces the rows above."),
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
    )
    return fields


def initial_of(run: Run | None) -> dict[str, Any]:
    """An earlier run's rewards: rows if they fit, else the list."""
    if run is None or not run.reward:
        return {}
    rows = [_row_of(entry) for entry in run.reward]
    if len(rows) > ROWS or None in rows:
        return {LIST: run.reward}
    return {
        f"reward_{number}_{name}": value
        for number, row in enumerate(rows)
        if row is not None
        for name, value in row.items()
    }


def rewards_of(data: dict[str, Any]) -> list[Any]:
    """The list that `create_run` takes, from cleaned fields."""
    if data.get(LIST):
        given = data[LIST]
        return given if isinstance(given, list) else [given]
    entries = []
    for row in range(ROWS):
        source = data.get(f"reward_{row}_source")
        if not source:
            continue
        weight = data[f"reward_{row}_weight"]
        entries.append(_entry(source, data[f"reward_{row}_argument"], 1.0 if weight is None else weight))
    return entries


def place_errors(error: Invalid, data: dict[str, Any]) -> Invalid:
    """A refused entry, beside the field of its row."""
    if data.get(LIST):
        return Invalid(
            {LIST if path.startswith("reward") else path: text for path, text in error.errors.items()}
        )
    rows = [row for row in range(ROWS) if data.get(f"reward_{row}_source")]
    return Invalid({_field(path, rows, data): text for path, text in error.errors.items()})


def _field(path: str, rows: list[int], data: dict[str, Any]) -> str:
    head, *rest = path.split(".")
    if head != "reward":
        return path
    if not rest or not rest[0].isdecimal() or int(rest[0]) >= len(rows):
        return "reward_0_source"
    row = rows[int(rest[0])]
    return f"reward_{row}_{'argument' if data[f'reward_{row}_source'].startswith(RULE) else 'source'}"


def _entry(source: str, argument: str, weight: float) -> dict[str, Any]:
    if not source.startswith(RULE):
        return {"model": source, "weight": weight}
    name = source.removeprefix(RULE)
    return {"rule": f"{name}:{argument}" if argument else name, "weight": weight}


def _row_of(entry: Any) -> dict[str, Any] | None:
    """A row that gives this entry, or None if no row does."""
    if not isinstance(entry, dict) or not entry.keys() <= {"model", "rule", "weight"}:
        return None
    weight = entry.get("weight", 1.0)
    if "rule" not in entry:
        return {"source": entry.get("model"), "weight": weight}
    name, _sign, argument = entry["rule"].partition(":")
    return {"source": RULE + name, "argument": argument, "weight": weight}


def _rules(project: Project) -> list[Any]:
    return [rule for rule in RULES if rule.modality == project.modality]


def _rule_hint(project: Project) -> str:
    arguments = [f"{rule.name}: {rule.argument}" for rule in _rules(project) if rule.argument]
    return str(_("What some rules need (%(needs)s).") % {"needs": ", ".join(arguments)}) if arguments else ""
