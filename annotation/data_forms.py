"""Forms of the data pages: what to look at, and changes by hand."""

import json
from typing import Any

from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from annotation.forms import PageForm
from annotation.models import Comparison, Judgement
from annotation.services.overlap import MOST_LABELS
from annotation.transfer_forms import DateInput

KINDS = [(value, label) for value, label in Judgement.Kind.choices if value != Judgement.Kind.DUEL]


class DataFilterForm(PageForm):
    q = forms.CharField(
        label=_("Words of the prompt"),
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"type": "search"}),
    )
    state = forms.ChoiceField(
        label=_("State"),
        required=False,
        choices=[
            ("", _("All")),
            ("waiting", _("Waiting")),
            ("unjudged", _("Nobody judged it")),
            ("judged", _("Fully judged")),
            ("split", _("People disagree")),
        ],
    )
    use = forms.ChoiceField(
        required=False,
        label=_("Used for"),
        choices=[("", _("Anything")), ("training", _("Training")), ("held-out", _("Evaluation only"))],
    )
    by = forms.CharField(
        label=_("Judged by"),
        required=False,
        max_length=150,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    source = forms.CharField(
        label=_("Source"),
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    outcome = forms.ChoiceField(
        label=_("That source"),
        required=False,
        choices=[
            ("", _("However judged")),
            ("won", _("Was preferred")),
            ("lost", _("Lost")),
            ("tied", _("Neither")),
        ],
    )
    preferred = forms.TypedChoiceField(
        required=False,
        label=_("Preferred by at least"),
        choices=[
            ("", _("However judged")),
            (1, _("Somebody")),
            (50, _("Half")),
            (75, _("Three quarters")),
            (100, _("Everybody")),
        ],
        coerce=int,
        empty_value=None,
    )
    since = forms.DateField(label=_("From"), required=False, widget=DateInput)
    until = forms.DateField(label=_("Until before"), required=False, widget=DateInput)
    view = forms.CharField(required=False, widget=forms.HiddenInput)
    against = forms.CharField(
        label=_("Others disagree with"),
        required=False,
        max_length=150,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )


class JudgementFilterForm(PageForm):
    by = forms.CharField(
        label=_("By"), required=False, max_length=150, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )
    kind = forms.ChoiceField(label=_("Kind"), required=False, choices=[("", _("All")), *KINDS])
    state = forms.ChoiceField(
        label=_("State"),
        required=False,
        choices=[
            ("", _("All")),
            ("standing", _("Counts")),
            ("aside", _("Set aside")),
            ("undone", _("Taken back")),
        ],
    )
    since = forms.DateField(label=_("Given from"), required=False, widget=DateInput)
    until = forms.DateField(label=_("Given before"), required=False, widget=DateInput)


class ContentForm(PageForm):
    """The prompt and the candidates' texts. Conversations are edited as the JSON that they are."""

    held_out = forms.BooleanField(
        required=False, label=_("For evaluation only: never part of a training snapshot")
    )

    def __init__(self, *args: Any, comparison: Comparison, **kwargs: Any) -> None:
        self.texts = {"prompt": comparison.prompt}
        self.texts |= {
            f"candidate_{item.index}": item.text
            for item in comparison.candidates.all()
            if item.image_id is None
        }
        initial = {name: _as_words(text) for name, text in self.texts.items()}
        super().__init__(*args, initial=initial | {"held_out": comparison.held_out}, **kwargs)
        for name in self.texts:
            number = name.removeprefix("candidate_")
            label = gettext("Prompt") if name == "prompt" else gettext("Candidate %s") % (int(number) + 1)
            area = forms.Textarea(attrs={"rows": 8, "dir": "auto"})
            self.fields[name] = forms.CharField(label=label, strip=False, widget=area)

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        for name, text in self.texts.items():
            if name in data and isinstance(text, str):
                data[name] = data[name].replace("\r\n", "\n")  # as browsers send line ends
            elif name in data:
                try:
                    data[name] = json.loads(data[name])
                except ValueError as error:
                    self.add_error(name, gettext("This is no JSON: %s") % error)
        return data

    def changes(self, comparison: Comparison) -> dict[str, Any]:
        """What `edit_comparison` is to change: nothing that stayed as it was."""
        data = self.cleaned_data
        changes: dict[str, Any] = {}
        if data["held_out"] != comparison.held_out:
            changes["held_out"] = data["held_out"]
        changed = {name for name, text in self.texts.items() if data[name] != text}
        if "prompt" in changed:
            changes["prompt"] = data["prompt"]
        if changed - {"prompt"}:
            count = comparison.candidates.count()
            changes["texts"] = [data.get(f"candidate_{index}") for index in range(count)]
        return changes


def _as_words(text: Any) -> str:
    return text if isinstance(text, str) else json.dumps(text, ensure_ascii=False, indent=2)


class CorrectionForm(PageForm):
    """A judgement's answers, as JSON in canonical indices, and why they are changed."""

    answer = forms.JSONField(
        label=_("Answers"),
        help_text=_("Candidates count from 0, in their own order."),
        widget=forms.Textarea(attrs={"rows": 10, "class": "code", "spellcheck": "false"}),
    )
    reason = forms.CharField(label=_("Why"), max_length=500)

    @staticmethod
    def initial_of(judgement: Judgement) -> dict[str, Any]:
        said = {"choice": judgement.choice, "strength": judgement.strength, **judgement.answers}
        said.pop("context", None)
        return {"answer": {name: value for name, value in said.items() if value is not None}}

    def clean_answer(self) -> dict[str, Any]:
        answer = self.cleaned_data["answer"]
        if not isinstance(answer, dict):
            raise forms.ValidationError(gettext("This must be an object."))
        return answer


class ReasonForm(PageForm):
    reason = forms.CharField(label=_("Why"), max_length=500)


class OverlapForm(PageForm):
    """How many people judge a comparison."""

    labels = forms.IntegerField(
        label=_("How many people judge it"),
        help_text=_("Who has judged it already is counted; what is given stays."),
        min_value=1,
        max_value=MOST_LABELS,
    )
