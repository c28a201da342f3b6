"""Forms of the pages. They check shapes; what may be done is decided by the services."""

from typing import Any, cast

from django import forms
from django.utils.translation import gettext_lazy as _

from annotation.errors import Invalid
from annotation.models import AuditEntry, Project, User
from annotation.permissions import Role, Scope
from annotation.template import find_question
from annotation.template.questions import ChoiceQuestion


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
        label="Name",
        max_length=150,
        widget=forms.TextInput(attrs={"autocomplete": "username", "autofocus": True}),
    )
    password = forms.CharField(
        strip=False, max_length=200, widget=forms.PasswordInput(attrs={"autocomplete": "current-password"})
    )


class ProjectForm(PageForm):
    """Name, guidelines and the template of a project."""

    name = forms.CharField(max_length=200)
    guidelines = forms.CharField(
        required=False,
        max_length=100_000,
        help_text="Markdown. Annotators can open them beside the work.",
        widget=forms.Textarea(attrs={"rows": 14, "class": "code"}),
    )
    question = forms.CharField(label="The question", max_length=500, initial="Which answer is better?")
    strength = forms.BooleanField(
        required=False, initial=True, label="Ask how much better: much, plainly or slightly"
    )
    tie = forms.BooleanField(required=False, initial=True, label="Offer “tie”")
    both_bad = forms.BooleanField(required=False, initial=True, label="Offer “both bad”")
    labels_per_comparison = forms.IntegerField(
        label="Judgements per comparison",
        min_value=1,
        max_value=100,
        initial=1,
        help_text="By different people. Counts for comparisons added from now on.",
    )
    lease_minutes = forms.IntegerField(
        label="Minutes for one comparison",
        min_value=1,
        max_value=1440,
        initial=20,
        help_text="A comparison that somebody opened and left goes to others after this time.",
    )

    @property
    def template(self) -> list[dict[str, Any]]:
        """The task template in the API's form."""
        data = self.cleaned_data
        question = ChoiceQuestion(
            text=data["question"], strength=data["strength"], tie=data["tie"], both_bad=data["both_bad"]
        )
        return [question.model_dump()]

    def template_over(self, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The stored template with its choice as this form says, and its other questions as they are."""
        data = self.cleaned_data
        choice = {name: data[name] for name in ("strength", "tie", "both_bad")} | {"text": data["question"]}
        return [question | choice if question["type"] == "choice" else question for question in questions]

    @staticmethod
    def initial_of(project: Project) -> dict[str, Any]:
        question = find_question(project.questions, "choice") or ChoiceQuestion().model_dump()
        return {
            "name": project.name,
            "guidelines": project.guidelines,
            "question": question["text"],
            "strength": question["strength"],
            "tie": question["tie"],
            "both_bad": question["both_bad"],
            "labels_per_comparison": project.labels_per_comparison,
            "lease_minutes": project.lease_minutes,
        }


class NewProjectForm(ProjectForm):
    modality = forms.ChoiceField(
        label="What is compared",
        choices=[("text", "Texts"), ("image", "Pictures")],
        widget=forms.RadioSelect,
        initial="text",
    )
    field_order = ("name", "modality")


class MemberForm(PageForm):
    username = forms.CharField(
        label=_("Name"), max_length=150, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )
    role = forms.ChoiceField(label=_("Role"), choices=Role, initial=Role.ANNOTATOR)


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


class DataFilterForm(PageForm):
    q = forms.CharField(
        label="Prompt contains",
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"type": "search"}),
    )
    state = forms.ChoiceField(
        required=False,
        choices=[
            ("", "All"),
            ("waiting", "Waiting"),
            ("judged", "Fully judged"),
            ("split", "People disagree"),
        ],
    )
    use = forms.ChoiceField(
        required=False,
        label="Used for",
        choices=[("", "Anything"), ("training", "Training"), ("held-out", "Evaluation only")],
    )
    against = forms.CharField(
        label="Others disagree with",
        required=False,
        max_length=150,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
