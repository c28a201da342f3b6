"""Projects and who belongs to them."""

from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation.errors import Conflict, Invalid, NotAllowed
from annotation.models import Candidate, Member, Project, TemplateVersion, User
from annotation.permissions import ALLOWED, Action, Role, check_site
from annotation.services import reopening
from annotation.template import most_candidates, parse_questions


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
    """A project of which its creator is the owner."""
    check_site(by, Action.CREATE_PROJECT)
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
    Member.objects.create(project=project, user=by, role=Role.OWNER)
    return project


@transaction.atomic
def update_project(*, project: Project, **changes: Any) -> Project:
    """Change name, guidelines, questions, labels_per_comparison, lease_minutes or show_suggestions.

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
        "show_suggestions",
    }:
        raise Invalid(dict.fromkeys(sorted(unknown), _("cannot be changed.")))
    if "questions" in changes:
        changes["questions"] = parse_questions(changes["questions"], modality=project.modality)
        if changes["questions"] != project.questions:
            _check_numbers(project, changes["questions"])
        project.template_version += changes["questions"] != project.questions
    for field, value in changes.items():
        setattr(project, field, value)
    _save(project)
    _keep_template(project)
    return project


def _check_numbers(project: Project, questions: list[dict[str, Any]]) -> None:
    """Raise `Invalid` if the project has comparisons with more candidates than the template can ask about."""
    most = most_candidates(questions)
    many = Candidate.objects.filter(comparison__project=project)
    if most is not None and many.filter(index__gte=most).exists():
        number = next(n for n, question in enumerate(questions) if question["type"] == "ranking")
        problem = _("This project has comparisons of more than %(most)s candidates.") % {"most": most}
        raise Invalid({f"questions.{number}.type": problem})


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
    """Give a user a role in a project, or change it. Only owners make owners; one stays."""
    if role not in Role.values:
        raise Invalid(
            {
                "role": _("%(role)r is no role; use %(roles)s.")
                % {"role": role, "roles": ", ".join(Role.values)}
            }
        )
    user = User.objects.filter(username=username, is_active=True).first()
    if user is None:
        raise Invalid(
            {
                "username": _("There is no user %(username)r; create the account first.")
                % {"username": username}
            }
        )
    check_may_give(project, role, by=by)
    if role != Role.OWNER:
        _spare_owners(project, user, by=by)
    member, created = Member.objects.get_or_create(project=project, user=user, defaults={"role": role})
    if not created and member.role != role:
        member.role = role
        member.save(update_fields=["role"])
        if role not in ALLOWED[Action.JUDGE]:
            _take_back(project, user)
    return member


@transaction.atomic
def hand_over(*, project: Project, to: User, by: User) -> None:
    """An owner makes another member the owner in their own place, and stays as a manager."""
    _check_owner(project, by)
    if to.pk == by.pk:
        raise Conflict(_("You own this project already."))
    if not project.members.filter(user=to, user__is_active=True).exists():
        raise Conflict(_("Only somebody who is a member can own the project; add them first."))
    add_member(project=project, username=to.username, role=Role.OWNER, by=by)
    add_member(project=project, username=by.username, role=Role.MANAGER, by=by)


@transaction.atomic
def remove_member(*, project: Project, user: User, by: User) -> None:
    """Take a user out of a project. Their judgements stay; comparisons in their hands go back."""
    _take_back(project, user)
    _spare_owners(project, user, by=by)
    Member.objects.filter(project=project, user=user).delete()


def _take_back(project: Project, user: User) -> None:
    reopening.give_back(project=project.pk, annotator=user, now=timezone.now())


def _spare_owners(project: Project, user: User, *, by: User) -> None:
    """An owner is changed by owners only, and the last one by nobody. Locks the owners."""
    owners = project.members.select_for_update().filter(role=Role.OWNER).order_by("pk")
    left = [member.user_id for member in owners]
    if user.pk not in left:
        return
    _check_owner(project, by)
    if len(left) == 1:
        raise Conflict(_("A project keeps at least one owner; make somebody else an owner first."))


def check_may_give(project: Project, role: str, *, by: User) -> None:
    """Only owners make owners; who reached this at all may give the other roles."""
    if role == Role.OWNER:
        _check_owner(project, by)


def _check_owner(project: Project, by: User) -> None:
    if not project.members.filter(user=by, role__in=ALLOWED[Action.OWN]).exists():
        raise NotAllowed(_("Only owners of the project make owners, and only they change one."))
