"""Forms of the pages. They check shapes; what may be done is decided by the services."""

from typing import Any

from django import forms

from annotation.errors import Invalid
from annotation.models import Project
from annotation.permissions import Role
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
        label="Name", max_length=150, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )
    role = forms.ChoiceField(choices=Role, initial=Role.ANNOTATOR)
    create = forms.BooleanField(
        required=False, label="Create the account if there is none, and show a one-time sign-in link"
    )


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
