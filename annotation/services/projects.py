"""Projects and who belongs to them."""

from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from annotation.errors import Conflict, Invalid, NotAllowed
from annotation.models import Comparison, Lease, Member, Project, TemplateVersion, User
from annotation.services import queue
from annotation.template import parse_questions


@transaction.atomic
def create_project(
    *,
    by: User,
    name: str,
    modality: str,
    guidelines: str = "",
    questions: object = None,
    labels_per_comparison: int = 1,
) -> Project:
    """A project of which its creator is a manager."""
    if not by.is_manager:
        raise NotAllowed("Only managers create projects; ask one to create it, or to make you a manager.")
    project = Project(
        name=name.strip(),
        modality=modality,
        guidelines=guidelines,
        questions=parse_questions(questions, modality=modality),
        labels_per_comparison=labels_per_comparison,
        created_by=by,
    )
    _save(project)
    _keep_template(project)
    Member.objects.create(project=project, user=by, role=Member.Role.MANAGER)
    return project


@transaction.atomic
def update_project(*, project: Project, **changes: Any) -> Project:
    """Change name, guidelines, questions, labels_per_comparison or lease_minutes.

    A changed template is a new version; the old ones are kept. How many labels are wanted counts for
    comparisons added from now on.
    """
    project = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    if unknown := changes.keys() - {
        "name",
        "guidelines",
        "questions",
        "labels_per_comparison",
        "lease_minutes",
    }:
        raise Invalid(dict.fromkeys(sorted(unknown), "cannot be changed."))
    if "questions" in changes:
        changes["questions"] = parse_questions(changes["questions"], modality=project.modality)
        project.template_version += changes["questions"] != project.questions
    for field, value in changes.items():
        setattr(project, field, value)
    _save(project)
    _keep_template(project)
    return project


def _keep_template(project: Project) -> None:
    """The version that is in force is among those that are kept."""
    TemplateVersion.objects.get_or_create(
        project=project, version=project.template_version, defaults={"questions": project.questions}
    )


def _save(project: Project) -> None:
    try:
        project.full_clean()
    except ValidationError as error:
        raise Invalid({name: " ".join(messages) for name, messages in error.message_dict.items()}) from error
    project.save()


@transaction.atomic
def add_member(*, project: Project, username: str, role: str, by: User) -> Member:
    """Give a user a role in a project, or change it. A project keeps at least one manager."""
    if role not in Member.Role.values:
        raise Invalid({"role": f"{role!r} is no role; use manager or annotator."})
    user = User.objects.filter(username=username, is_active=True).first()
    if user is None:
        raise Invalid({"username": f"There is no user {username!r}; create the account first."})
    if role == Member.Role.ANNOTATOR:
        _keep_a_manager(project, without=user)
    member, created = Member.objects.get_or_create(project=project, user=user, defaults={"role": role})
    if not created and member.role != role:
        member.role = role
        member.save(update_fields=["role"])
    return member


@transaction.atomic
def remove_member(*, project: Project, user: User, by: User) -> None:
    """Take a user out of a project. Their judgements stay; comparisons in their hands go back."""
    held = Comparison.objects.filter(
        project=project, leases__annotator=user, leases__state=Lease.State.OPEN
    ).values_list("pk", flat=True)
    queue.give_back(comparisons=list(held), annotator=user)
    _keep_a_manager(project, without=user)
    Member.objects.filter(project=project, user=user).delete()


def _keep_a_manager(project: Project, *, without: User) -> None:
    managers = project.members.select_for_update().filter(role=Member.Role.MANAGER).order_by("pk")
    left = [member for member in managers if member.user_id != without.pk]
    if not left and project.members.filter(user=without, role=Member.Role.MANAGER).exists():
        raise Conflict("A project keeps at least one manager; make somebody else a manager first.")
