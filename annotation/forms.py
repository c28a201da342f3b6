"""Forms of the pages. They check shapes; what may be done is decided by the services."""

from typing import Any, cast

from django import forms
from django.utils.translation import gettext_lazy as _

from annotation.errors import Invalid
from annotation.keys import LABELS, whole_map
from annotation.models import AuditEntry, Project, User
from annotation.permissions import Role, Scope


class PageForm(forms.Form):
    """Names refused fields as the services do. Django tells screen readers which fields are wrong."""

    required_css_class = "required"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, label_suffix="")  # type: ignore[misc]

    def refuse(self, error: Invalid) -> None:
        """Show what a service refused beside the field, or on top where the form has no such field."""
        for path, message in error.errors.items():
            name = path.replace(".", "_")
            self.add_error(name if name in self.fields else None, message)


class SignInForm(PageForm):
    username = forms.CharField(
        label=_("Name"),
        max_length=150,
        widget=forms.TextInput(attrs={"autocomplete": "username", "autofocus": True}),
    )
    password = forms.CharField(
        label=_("Password"),
        strip=False,
        max_length=200,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )


class ProjectForm(PageForm):
    """Name and guidelines of a project; its template has a form of its own (`annotation.template_form`)."""

    name = forms.CharField(label=_("Name"), max_length=200)
    guidelines = forms.CharField(
        label=_("Guidelines"),
        required=False,
        max_length=100_000,
        help_text=_("Markdown. Annotators can open them beside the work."),
        widget=forms.Textarea(attrs={"rows": 14, "class": "code"}),
    )
    labels_per_comparison = forms.IntegerField(
        label=_("Judgements per comparison"),
        min_value=1,
        max_value=100,
        initial=1,
        help_text=_("By different people. Counts for comparisons added from now on."),
    )
    show_suggestions = forms.BooleanField(
        required=False,
        label=_("Show annotators what models said"),
        help_text=_("Judgements keep which suggestions stood beside them."),
    )
    lease_minutes = forms.IntegerField(
        label=_("Minutes for one comparison"),
        min_value=1,
        max_value=1440,
        initial=20,
        help_text=_("A comparison that somebody opened and left goes to others after this time."),
    )

    @staticmethod
    def initial_of(project: Project) -> dict[str, Any]:
        return {
            "name": project.name,
            "guidelines": project.guidelines,
            "labels_per_comparison": project.labels_per_comparison,
            "show_suggestions": project.show_suggestions,
            "lease_minutes": project.lease_minutes,
        }


class NewProjectForm(ProjectForm):
    show_suggestions = None  # type: ignore[assignment]  # there are none yet
    modality = forms.ChoiceField(
        label=_("What is compared"),
        choices=[("text", _("Texts")), ("image", _("Pictures"))],
        widget=forms.RadioSelect,
        initial="text",
    )
    field_order = ("name", "modality")


class MemberForm(PageForm):
    username = forms.CharField(
        label=_("Name"), max_length=150, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )
    role = forms.ChoiceField(label=_("Role"), choices=Role, initial=Role.ANNOTATOR)


class WithdrawForm(PageForm):
    KEEP, DELETE = "keep", "delete"
    judgements = forms.ChoiceField(
        label=_("What you said here"),
        choices=[(KEEP, _("stays, and others may learn from it")), (DELETE, _("is deleted"))],
        widget=forms.RadioSelect,
    )


class InvitationForm(PageForm):
    prefix = "invite"
    role = forms.ChoiceField(label=_("Role"), choices=Role, initial=Role.ANNOTATOR)
    note = forms.CharField(
        label=_("For whom"), required=False, max_length=100, help_text=_("Only for you and other managers.")
    )


class JoinForm(PageForm):
    """A new account of an invited person."""

    username = forms.CharField(
        label=_("Name"), max_length=150, widget=forms.TextInput(attrs={"autocomplete": "username"})
    )
    password = forms.CharField(
        label=_("Password"),
        strip=False,
        max_length=200,
        help_text=_("Ten characters at least."),
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )


class TokenForm(PageForm):
    name = forms.CharField(label=_("What it is for"), max_length=100)
    scopes = forms.MultipleChoiceField(
        label=_("What it may do"), choices=Scope, widget=forms.CheckboxSelectMultiple, initial=["read"]
    )
    project = forms.ModelChoiceField(
        Project.objects.none(), label=_("Only in"), required=False, empty_label=_("all of my projects")
    )
    days = forms.IntegerField(
        label=_("Days until it ends"), required=False, min_value=1, max_value=3650, initial=90,
        help_text=_("Empty: it does not end by itself."),
    )  # fmt: skip

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        projects = cast(forms.ModelChoiceField, self.fields["project"])
        projects.queryset = Project.objects.visible_to(user).order_by("name", "pk")


class AuditFilterForm(PageForm):
    subject = forms.ChoiceField(
        label=_("What"), required=False, choices=[("", _("Anything")), *AuditEntry.Subject.choices]
    )
    change = forms.ChoiceField(
        label=_("Change"), required=False, choices=[("", _("Any")), *AuditEntry.Change.choices]
    )
    actor = forms.CharField(label=_("By"), required=False, max_length=150)
    since = forms.DateField(label=_("Since"), required=False, widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(label=_("Until"), required=False, widget=forms.DateInput(attrs={"type": "date"}))


class KeysForm(PageForm):
    """A field for each key of the judging page, with the key that this person presses for it."""

    def __init__(self, *args: Any, moved: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for key, pressed in whole_map(moved).items():
            self.fields[f"key_{key}"] = forms.CharField(
                label=LABELS[key],
                max_length=1,
                initial=pressed,
                widget=forms.TextInput(
                    attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}
                ),
            )

    @property
    def chosen(self) -> dict[str, str]:
        return {name.removeprefix("key_"): value for name, value in self.cleaned_data.items()}

    def refuse_keys(self, error: Invalid) -> None:
        for key, message in error.errors.items():
            self.add_error(f"key_{key}", message)
