"""Forms of the pages about assignment. Shares are entered in percent, as people say them."""

from typing import Any

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from annotation.forms import PageForm
from annotation.models import AnnotatorGroup, Comparison, GoldAnswer, Member, Project, QueueStrategy
from annotation.quality_words import answer_words
from annotation.services.gold import OPEN_ENDED
from annotation.template import TIE, find_question
from annotation.template.questions import BOTH_BAD
from annotation.wording import in_words

LARGEST = 2**31 - 1


def share(label: Any, help_text: Any, *, most: int = 50, required: bool = True) -> forms.FloatField:
    return forms.FloatField(label=label, help_text=help_text, min_value=0, max_value=most, required=required)


def limit(label: Any, help_text: Any) -> forms.IntegerField:
    return forms.IntegerField(
        label=label, help_text=help_text, min_value=0, max_value=LARGEST, required=False
    )


class AssignmentForm(PageForm):
    """How the work is handed out. Empty limits are none; an empty pass mark is no test."""

    queue_strategy = forms.ChoiceField(
        label=gettext_lazy("What comes first"), choices=QueueStrategy.choices, widget=forms.RadioSelect
    )
    quota = limit(gettext_lazy("Answers of one person"), gettext_lazy("At most; empty: no limit."))
    daily_cap = limit(
        gettext_lazy("Answers of one person on one day"), gettext_lazy("At most; empty: no limit.")
    )
    gold_rate = share(
        gettext_lazy("Gold questions, percent"),
        gettext_lazy("So much of what is shown has a known answer. Nothing tells people which."),
    )
    repeat_rate = share(
        gettext_lazy("Repeats, percent"),
        gettext_lazy("So much of what is shown are comparisons that the person has judged before."),
    )
    repeat_distance = forms.IntegerField(
        label=gettext_lazy("Answers before a repeat"),
        help_text=gettext_lazy("So many answers lie between a comparison and its repeat, at least."),
        min_value=1,
        max_value=10_000,
    )
    pass_mark = share(
        gettext_lazy("Right answers to pass the test, percent"),
        gettext_lazy("Before the first work; empty: no test. Its questions are under Known answers."),
        most=100,
        required=False,
    )
    test_attempts = forms.IntegerField(label=gettext_lazy("Attempts at the test"), min_value=1, max_value=100)
    skip_reasons = forms.CharField(
        label=gettext_lazy("Reasons to skip"),
        help_text=gettext_lazy("One on each line. People may write another one, or none."),
        required=False,
        max_length=20_000,
        widget=forms.Textarea(attrs={"rows": 5}),
    )
    review_overrules = forms.BooleanField(
        label=gettext_lazy("Models learn a reviewer's answer instead of the annotators'"),
        required=False,
    )

    @property
    def changes(self) -> dict[str, Any]:
        """As the service wants them."""
        data = dict(self.cleaned_data)
        for name in ("gold_rate", "repeat_rate", "pass_mark"):
            data[name] = None if data[name] is None else data[name] / 100
        data["skip_reasons"] = data["skip_reasons"].splitlines()
        return data

    @staticmethod
    def initial_of(project: Project) -> dict[str, Any]:
        values = {name: getattr(project, name) for name in AssignmentForm.base_fields}
        for name in ("gold_rate", "repeat_rate", "pass_mark"):
            values[name] = None if values[name] is None else f"{100 * values[name]:.6g}"
        return values | {"skip_reasons": "\n".join(project.skip_reasons)}


class ConsentTextForm(PageForm):
    text = forms.CharField(
        label=gettext_lazy("Text to agree to before the first task"),
        help_text=gettext_lazy("Markdown. A change is asked for again; empty: nothing is asked."),
        required=False,
        max_length=100_000,
        widget=forms.Textarea(attrs={"rows": 10, "class": "code"}),
    )


class GroupForm(PageForm):
    name = forms.CharField(label=gettext_lazy("Name"), max_length=100)
    attributes = forms.CharField(
        label=gettext_lazy("Attributes"),
        help_text=gettext_lazy("One on each line, such as: language = de"),
        required=False,
        max_length=5000,
        widget=forms.Textarea(attrs={"rows": 3}),
    )
    reserved_labels = forms.IntegerField(
        label=gettext_lazy("Judgements of each comparison that only this group gives"),
        help_text=gettext_lazy("Counts for comparisons added from now on."),
        min_value=0,
        max_value=1000,
        initial=0,
    )

    def clean_attributes(self) -> dict[str, str]:
        found = {}
        for line in self.cleaned_data["attributes"].splitlines():
            key, equals, value = line.partition("=")
            if line.strip() and (not equals or not key.strip()):
                raise forms.ValidationError(
                    _("“%(line)s” has no name and value with = between them.") % {"line": line}
                )
            if line.strip():
                found[key.strip()] = value.strip()
        return found

    @staticmethod
    def initial_of(group: AnnotatorGroup) -> dict[str, Any]:
        lines = [f"{key} = {value}" for key, value in sorted(group.attributes.items())]
        return {"name": group.name, "attributes": "\n".join(lines), "reserved_labels": group.reserved_labels}


class MemberSettingsForm(PageForm):
    group = forms.ModelChoiceField(
        label=gettext_lazy("Group"), queryset=AnnotatorGroup.objects.none(), required=False
    )
    quota = limit(gettext_lazy("Answers at most"), gettext_lazy("Empty: as the project says."))
    daily_cap = limit(gettext_lazy("Answers on one day at most"), gettext_lazy("Empty: as the project says."))

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        groups: Any = self.fields["group"]
        groups.queryset = project.annotator_groups.order_by("name")
        groups.empty_label = _("None")
        if project.pass_mark is not None:
            self.fields["excused"] = forms.BooleanField(
                label=_("Has passed the test, or is excused from it"), required=False
            )

    @staticmethod
    def initial_of(member: Member) -> dict[str, Any]:
        values = {"group": member.group_id, "quota": member.quota, "daily_cap": member.daily_cap}
        return values | {"excused": member.qualified_at is not None}


class ReasonForm(PageForm):
    reason = forms.CharField(label=gettext_lazy("Reason"), max_length=500)


class SetAsideForm(ReasonForm):
    since = forms.DateTimeField(
        label=gettext_lazy("Only what they said from then on"),
        help_text=gettext_lazy("Empty: all that they ever said here."),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )


class GoldForm(PageForm):
    """The known answer to one comparison; candidates by their own numbers."""

    purpose = forms.ChoiceField(
        label=gettext_lazy("Used as"),
        choices=[
            (GoldAnswer.Purpose.GOLD, gettext_lazy("A gold question, mixed in with the work")),
            (GoldAnswer.Purpose.QUALIFICATION, gettext_lazy("A question of the test before the first work")),
        ],
        widget=forms.RadioSelect,
        initial=GoldAnswer.Purpose.GOLD,
    )
    explanation = forms.CharField(
        label=gettext_lazy("Explanation"),
        help_text=gettext_lazy("Markdown, shown after an answer of the test."),
        required=False,
        max_length=10_000,
        widget=forms.Textarea(attrs={"rows": 4}),
    )

    def __init__(self, *args: Any, project: Project, comparison: Comparison, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        judgements = comparison.judgements.standing().select_related("annotator").order_by("pk")
        self.said = {f"judgement:{one.pk}": one for one in judgements}
        options = [
            (key, _("What %(name)s said") % {"name": one.annotator.username})
            for key, one in self.said.items()
        ]
        if (question := find_question(project.questions, "choice")) is not None:
            count = comparison.candidates.count()
            direct = [
                (str(index), _("Candidate %(number)s") % {"number": index + 1}) for index in range(count)
            ]
            direct += [(TIE, _("Tie"))] if question["tie"] else []
            direct += [(BOTH_BAD, _("Both bad"))] if question["both_bad"] else []
            options = direct + options
        self.fields["answer"] = forms.ChoiceField(
            label=_("The right answer"), choices=options, widget=forms.RadioSelect
        )
        self.order_fields(["answer", "purpose", "explanation"])

    @property
    def values(self) -> dict[str, Any]:
        """As the service wants them."""
        data = dict(self.cleaned_data)
        answer = data.pop("answer")
        if (judgement := self.said.get(answer)) is not None:
            beside = {"context", *OPEN_ENDED}
            answers = {key: value for key, value in judgement.answers.items() if key not in beside}
            return data | {"choice": judgement.choice, "answers": answers}
        return data | {"choice": int(answer) if answer.isdecimal() else answer}

    @staticmethod
    def initial_of(gold: GoldAnswer) -> dict[str, Any]:
        return {
            "purpose": gold.purpose,
            "explanation": gold.explanation,
            "answer": None if gold.choice is None else str(gold.choice),
        }


def plain_answer(gold: GoldAnswer) -> str:
    """A known answer in a table, by the candidates' own numbers, counted from 1."""
    phrases = list(in_words(gold.answers, lambda index: f"{index + 1}"))
    if isinstance(gold.choice, int):
        phrases.insert(0, f"{gold.choice + 1}")
    elif gold.choice is not None:
        phrases.insert(0, answer_words(gold.choice))
    return "; ".join(phrases)
