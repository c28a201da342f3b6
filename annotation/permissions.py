"""Who may do what: one table of roles and actions, and the questions that pages, API and services ask it.

A project's members have a `Role`, which allows them `Action`s. Whoever comes with an API token may moreover
do only what the token's scopes cover, and only in its project if it names one. `visible_to(user, action)` of
every QuerySet, `find` and `check` look at both, so that no view has to. `SITE` is about what no project has.
"""

import enum
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from django.db.models import Model, Q, QuerySet, TextChoices
from django.utils.text import get_text_list
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop

from annotation.errors import NotAllowed, NotFound

if TYPE_CHECKING:
    from annotation.models import User

Row = TypeVar("Row", bound=Model)


class Role(TextChoices):
    """What somebody is in a project."""

    OWNER = "owner", gettext_lazy("owner")
    MANAGER = "manager", gettext_lazy("manager")
    REVIEWER = "reviewer", gettext_lazy("reviewer")
    ANNOTATOR = "annotator", gettext_lazy("annotator")
    VIEWER = "viewer", gettext_lazy("viewer")


class SiteRole(TextChoices):
    """What somebody is outside of projects."""

    MANAGER = "manager", gettext_lazy("manager")
    ANNOTATOR = "annotator", gettext_lazy("annotator")


class Scope(TextChoices):
    """What an API token may be used for."""

    READ = "read", gettext_lazy("read")
    JUDGE = "judge", gettext_lazy("judge")
    MANAGE = "manage", gettext_lazy("manage")
    TRAIN = "train", gettext_lazy("train")

    @classmethod
    def all(cls) -> list[str]:
        return list(cls.values)


class Action(enum.Enum):
    SEE = "see"  # that the project exists, its guidelines, one's own progress
    JUDGE = "judge"  # take comparisons, answer, skip, undo, one's own history
    REVIEW = "review"  # the review queue: decide where people disagree
    BROWSE = "browse"  # comparisons with their sources and everybody's judgements; quality
    EXPORT = "export"  # files with all that was said
    EDIT = "edit"  # settings, template, imports; prompts, comparisons and judgements; webhooks
    PEOPLE = "people"  # members and invitations, groups, pausing, qualification
    OWN = "own"  # who the owners are; the audit log
    WATCH = "watch"  # runs, models, matches and schedules, and how they do
    TRAIN = "train"  # start and stop runs, matches and schedules; download models
    CREATE_PROJECT = "create project"
    REGISTER_MODEL = "register model"  # and see the registered ones


_MANAGING = (Role.OWNER, Role.MANAGER)
ALLOWED: Final[dict[Action, tuple[Role, ...]]] = {
    Action.SEE: tuple(Role),
    Action.JUDGE: (*_MANAGING, Role.REVIEWER, Role.ANNOTATOR),
    Action.REVIEW: (*_MANAGING, Role.REVIEWER),
    Action.BROWSE: (*_MANAGING, Role.REVIEWER, Role.VIEWER),
    Action.EXPORT: _MANAGING,
    Action.EDIT: _MANAGING,
    Action.PEOPLE: _MANAGING,
    Action.OWN: (Role.OWNER,),
    Action.WATCH: (*_MANAGING, Role.VIEWER),
    Action.TRAIN: _MANAGING,
}
SITE: Final[dict[Action, tuple[SiteRole, ...]]] = {
    Action.CREATE_PROJECT: (SiteRole.MANAGER,),
    Action.REGISTER_MODEL: (SiteRole.MANAGER,),
}
SCOPE_OF: Final[dict[Action, Scope]] = {
    Action.SEE: Scope.READ,
    Action.JUDGE: Scope.JUDGE,
    Action.REVIEW: Scope.JUDGE,
    Action.BROWSE: Scope.READ,
    Action.EXPORT: Scope.READ,
    Action.EDIT: Scope.MANAGE,
    Action.PEOPLE: Scope.MANAGE,
    Action.OWN: Scope.MANAGE,
    Action.WATCH: Scope.READ,
    Action.TRAIN: Scope.TRAIN,
    Action.CREATE_PROJECT: Scope.MANAGE,
    Action.REGISTER_MODEL: Scope.TRAIN,
}
_SITE_REFUSALS: Final = {
    Action.CREATE_PROJECT: gettext_noop(
        "Only managers of the site create projects; ask one to create it, or to make you a manager."
    ),
    Action.REGISTER_MODEL: gettext_noop(
        "Only managers of the site see and register models; ask one of them."
    ),
}


class ProjectRows(QuerySet[Row]):
    """Rows that belong to projects. Base of every QuerySet that pages and API read from."""

    project_path = "project"  # from a row to its project; empty for projects themselves

    def visible_to(self, user: "User", action: Action = Action.SEE) -> Self:
        """Those to which this person may do this. `NotAllowed` if their token is not meant for it."""
        _check_scope(user, action)
        return self.filter(_membership(user, ALLOWED[action], self.project_path))

    def of_members(self, user: "User") -> Self:
        """Those in this person's projects, whatever they may do there."""
        return self.filter(_membership(user, tuple(Role), self.project_path))


def _membership(user: "User", roles: tuple[Role, ...], path: str) -> Q:
    prefix = f"{path}__" if path else ""
    mine = Q(**{f"{prefix}members__user": user, f"{prefix}members__role__in": roles})
    if user.token is not None and user.token.project_id is not None:
        mine &= Q(**{path or "pk": user.token.project_id})
    return mine


def find(rows: ProjectRows[Row], user: "User", action: Action, **which: Any) -> Row:
    """One of these rows, if this person may do this to it.

    `NotFound` for outsiders, who do not learn whether it exists; `NotAllowed` for members whose role is not
    enough.
    """
    wanted = rows.filter(**which)
    if (found := wanted.visible_to(user, action).first()) is not None:
        return found
    if wanted.of_members(user).exists():
        raise NotAllowed(refusal(action))
    raise NotFound(_("It does not exist, or you are not a member of its project."))


def check(user: "User", action: Action, *, role: str, project: int) -> None:
    """Where the membership is at hand already: `NotAllowed` or `NotFound` as `find` would raise."""
    _check_scope(user, action)
    if user.token is not None and user.token.project_id not in (None, project):
        raise NotFound(_("It does not exist, or your token is for another project."))
    if role not in ALLOWED[action]:
        raise NotAllowed(refusal(action))


def check_site(user: "User", action: Action) -> None:
    """For what is outside of projects. A token for one project is not for this."""
    _check_scope(user, action)
    if user.role not in SITE[action]:
        raise NotAllowed(_(_SITE_REFUSALS[action]))
    if user.token is not None and user.token.project_id is not None:
        raise NotAllowed(_("This token is for one project only; make one for all of yours."))


def refusal(action: Action) -> str:
    """Who may, for those who may not."""
    names = get_text_list([str(role.label) for role in ALLOWED[action]], _("or"))
    return _("Your role in this project does not allow this; you would have to be %(roles)s.") % {
        "roles": names
    }


def _check_scope(user: "User", action: Action) -> None:
    token = user.token
    if token is not None and SCOPE_OF[action].value not in token.scopes:
        message = _("This token lacks the scope “%(scope)s”; make one that has it under “API tokens”.")
        raise NotAllowed(message % {"scope": SCOPE_OF[action].value})
