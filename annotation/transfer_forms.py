"""Forms of what goes in and out."""

from datetime import UTC, datetime, time
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from annotation.formats import FORMATS
from annotation.formats.packing import CONTAINERS
from annotation.forms import PageForm
from annotation.models import ImportJob, Judgement


class DateInput(forms.DateInput):
    input_type = "date"


def format_choices(modality: str) -> list[tuple[str, Any]]:
    """The formats that this project's material fits into."""
    return [(name, form.title) for name, form in FORMATS.items() if modality in form.holds.modalities]


class ImportForm(PageForm):
    file = forms.FileField(
        label=_("File"),
        help_text=_(
            "JSONL, JSON, CSV or Parquet, also as .gz; or a .zip of one such file and the pictures it names."
        ),
        widget=forms.FileInput(attrs={"accept": ".jsonl,.json,.csv,.parquet,.gz,.zip"}),
    )
    format = forms.ChoiceField(label=_("Format"), initial="trl")
    use = forms.ChoiceField(
        label=_("The answers in the file are"),
        required=False,
        choices=ImportJob.Use.choices,
        initial=ImportJob.Use.JUDGEMENTS,
        help_text=_(
            "A right answer is the one judgement of its row, for any kind of question; a column “explanation”"
            " is shown after an answer of the test."
        ),
    )
    skip_duplicates = forms.BooleanField(
        required=False, label=_("Leave out rows with the same prompt and candidates as another")
    )
    held_out = forms.BooleanField(
        required=False, label=_("For evaluation only: never part of a training snapshot")
    )

    def __init__(self, *args: Any, modality: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["format"].choices = format_choices(modality)  # type: ignore[attr-defined]

    def clean_use(self) -> str:
        return self.cleaned_data["use"] or ImportJob.Use.JUDGEMENTS


class KnownAnswersForm(ImportForm):
    """Gold or test questions from a file; posted where other imports are."""

    use = forms.ChoiceField(
        label=_("Use them as"),
        choices=ImportJob.Use.choices[1:],
        help_text=_(
            "Each row says the right answer as if somebody had judged it, for any kind of question; a column"
            " “explanation” is shown after an answer of the test."
        ),
    )
    skip_duplicates = None  # type: ignore[assignment]  # an equal comparison of the project gets the answer
    held_out = None  # type: ignore[assignment]


class ExportForm(PageForm):
    format = forms.ChoiceField(label=_("Format"))
    container = forms.ChoiceField(
        label=_("Packed as"),
        required=False,
        choices=[("", _("what the format is usually packed in")), *((name, name) for name in CONTAINERS)],
    )
    consensus = forms.ChoiceField(
        label=_("Judgements"),
        required=False,
        choices=[
            ("each", _("each as it was given")),
            ("majority", _("one for each comparison, by majority")),
            ("weighted", _("one for each comparison, reliable people weighing more")),
        ],
    )
    since = forms.DateField(label=_("Given from"), required=False, widget=DateInput)
    until = forms.DateField(label=_("Given before"), required=False, widget=DateInput)
    annotators = forms.CharField(
        label=_("Only by"), required=False, max_length=2000, help_text=_("Names, with commas between them.")
    )
    kinds = forms.MultipleChoiceField(
        label=_("Only of these kinds"),
        required=False,
        choices=[(kind.value, kind.label) for kind in Judgement.Kind],
        widget=forms.CheckboxSelectMultiple,
    )
    min_agreement = forms.IntegerField(
        label=_("Agreement from (%)"), required=False, min_value=0, max_value=100
    )
    max_agreement = forms.IntegerField(
        label=_("Agreement to (%)"), required=False, min_value=0, max_value=100
    )
    part = forms.ChoiceField(
        label=_("Split by prompt"),
        required=False,
        choices=[("", _("all prompts")), ("train", _("those to train on")), ("eval", _("those held out"))],
    )
    eval_percent = forms.IntegerField(
        label=_("Share that is held out (%)"), required=False, min_value=0, max_value=100, initial=10
    )
    judged = forms.BooleanField(
        required=False, initial=True, label=_("Only comparisons that somebody judged")
    )
    held_out = forms.BooleanField(required=False, label=_("Also those that are for evaluation only"))

    def __init__(self, *args: Any, modality: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["format"].choices = format_choices(modality)  # type: ignore[attr-defined]

    @property
    def filters(self) -> dict[str, Any]:
        """In the API's form."""
        data = self.cleaned_data
        found: dict[str, Any] = {name: True for name in ("judged", "held_out") if data[name]}
        found |= {name: data[name] for name in ("kinds", "part") if data[name]}
        if data["consensus"] not in ("", "each"):
            found["consensus"] = data["consensus"]
        if names := [name.strip() for name in data["annotators"].split(",") if name.strip()]:
            found["annotators"] = names
        for name in ("since", "until"):
            if data[name]:
                found[name] = datetime.combine(data[name], time.min, UTC)
        for name in ("min_agreement", "max_agreement"):
            if data[name] is not None:
                found[name] = data[name] / 100
        if data["part"] and data["eval_percent"] is not None:
            found["eval_fraction"] = data["eval_percent"] / 100
        return found
