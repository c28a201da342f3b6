"""Forms of what goes in and out."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from annotation.formats import FORMATS
from annotation.formats.packing import CONTAINERS
from annotation.forms import PageForm


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
    skip_duplicates = forms.BooleanField(
        required=False, label=_("Leave out rows with the same prompt and candidates as another")
    )
    held_out = forms.BooleanField(
        required=False, label=_("For evaluation only: never part of a training snapshot")
    )

    def __init__(self, *args: Any, modality: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["format"].choices = format_choices(modality)  # type: ignore[attr-defined]


class ExportForm(PageForm):
    format = forms.ChoiceField(label=_("Format"))
    container = forms.ChoiceField(
        label=_("Packed as"),
        required=False,
        choices=[("", _("what the format is usually packed in")), *((name, name) for name in CONTAINERS)],
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
        return ({"judged": True} if data["judged"] else {}) | ({"held_out": True} if data["held_out"] else {})
