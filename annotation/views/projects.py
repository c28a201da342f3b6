"""Home, the project's own page, its settings and its members."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation import services
from annotation.browsing import judged_slots, members_of, projects_of
from annotation.errors import Conflict, Invalid, NotAllowed
from annotation.forms import InvitationForm, MemberForm, NewProjectForm, ProjectForm
from annotation.markdown import render_markdown
from annotation.models import Project, User
from annotation.permissions import ALLOWED, Action, check_site
from annotation.views.access import SignedIn, project_for
from annotation.views.templates import edited_template

PREVIEW_LIMIT = 100_000  # characters


@login_required
@require_GET
def home(request: SignedIn) -> HttpResponse:
    return render(request, "annotation/home.html", {"projects": projects_of(request.user)})


@login_required
@require_GET
def project(request: SignedIn, pk: int) -> HttpResponse:
    """Who may browse sees the five answers, annotators what is asked of them."""
    shown = project_for(request, pk, Action.SEE)
    progress = services.progress(project=shown, user=request.user, now=timezone.now())
    browses = shown.members.filter(user=request.user, role__in=ALLOWED[Action.BROWSE]).exists()
    context = {"project": shown, "progress": progress, "judged": judged_slots(shown, progress)}
    return render(request, f"annotation/{'project' if browses else 'project_annotator'}.html", context)


@login_required
@require_http_methods(["GET", "POST"])
def project_new(request: SignedIn) -> HttpResponse:
    check_site(request.user, Action.CREATE_PROJECT)
    form, editor = NewProjectForm(request.POST or None), edited_template(request)
    if "op" not in request.POST and form.is_valid():
        try:
            created = _create(request.user, form, editor["questions"])
        except Invalid as error:
            _refuse(form, error)
        else:
            words = _("The project is there. Next: import what is to be compared, and add people.")
            messages.info(request, words)
            return redirect("annotation:imports", created.pk)
    return render(request, "annotation/project_form.html", editor | {"form": form})


@transaction.atomic
def _create(user: User, form: NewProjectForm, questions: list[dict[str, Any]]) -> Project:
    data = form.cleaned_data
    created = services.create_project(
        by=user,
        name=data["name"],
        modality=data["modality"],
        guidelines=data["guidelines"],
        questions=questions,
        labels_per_comparison=data["labels_per_comparison"],
    )
    return services.update_project(project=created, lease_minutes=data["lease_minutes"])


def _refuse(form: ProjectForm, error: Invalid) -> None:
    """What is wrong with the questions stands at their own fields."""
    others = {path: words for path, words in error.errors.items() if not path.startswith("questions")}
    if others != error.errors:
        form.add_error(None, _("The questions are not complete; see what is said at their fields."))
    form.refuse(Invalid(others))


@login_required
@require_http_methods(["GET", "POST"])
def project_edit(request: SignedIn, pk: int) -> HttpResponse:
    edited = project_for(request, pk, Action.EDIT)
    form = ProjectForm(request.POST or None, initial=ProjectForm.initial_of(edited))
    editor = edited_template(request, edited)
    if "op" not in request.POST and form.is_valid():
        try:
            services.update_project(project=edited, questions=editor["questions"], **form.cleaned_data)
        except Invalid as error:
            _refuse(form, error)
        else:
            messages.info(request, _("Saved."))
            return redirect("annotation:project_edit", pk)
    return render(request, "annotation/project_form.html", editor | {"project": edited, "form": form})


@login_required
@require_POST
def preview(request: SignedIn) -> HttpResponse:
    """Markdown as annotators will see it."""
    return HttpResponse(render_markdown(request.POST.get("guidelines", "")[:PREVIEW_LIMIT]))


@login_required
@require_http_methods(["GET", "POST"])
def members(request: SignedIn, pk: int) -> HttpResponse:
    """Who belongs to the project; the form adds somebody who has an account, or changes their role."""
    managed = project_for(request, pk, Action.PEOPLE)
    form = MemberForm(request.POST or None)
    added = None
    if form.is_valid():
        try:
            added = services.add_member(project=managed, by=request.user, **form.cleaned_data)
        except (Invalid, Conflict, NotAllowed) as error:
            form.refuse(error) if isinstance(error, Invalid) else form.add_error(None, str(error))
        else:
            form = MemberForm()
    return members_page(request, managed, form=form, added=added)


def members_page(request: SignedIn, managed: Project, **shown: object) -> HttpResponse:
    """The page, with what was just done on it."""
    context: dict[str, object] = {
        "project": managed,
        "form": MemberForm(),
        "invitation_form": InvitationForm(),
        "members": members_of(managed),
        "invitations": managed.invitations.standing(now=timezone.now()).order_by("-created_at", "-pk"),
    }
    return render(request, "annotation/members.html", context | shown)


@login_required
@never_cache  # the answer holds a sign-in link
@require_POST
def member_link(request: SignedIn, pk: int, user: int) -> HttpResponse:
    """A new one-time link for an annotator who lost theirs. Nobody gets a link into a manager's account."""
    managed = project_for(request, pk, Action.PEOPLE)
    member = get_object_or_404(managed.members.select_related("user"), user=user)
    if not request.user.is_manager or member.user.is_manager or member.user.is_superuser:
        raise PermissionDenied(_("Links are made by managers of the site, for annotators only."))
    link = services.sign_in_link(user=member.user, base_url=request.build_absolute_uri("/"))
    return members_page(request, managed, added=member, link=link)


@login_required
@require_POST
def member_remove(request: SignedIn, pk: int, user: int) -> HttpResponse:
    managed = project_for(request, pk, Action.PEOPLE)
    member = get_object_or_404(managed.members.select_related("user"), user=user)
    try:
        services.remove_member(project=managed, user=member.user, by=request.user)
    except (Conflict, NotAllowed) as error:
        messages.error(request, str(error))
    else:
        messages.info(
            request,
            _("%(name)s is no longer a member. Their judgements stay.") % {"name": member.user.username},
        )
    if member.user_id == request.user.pk:
        return redirect("annotation:home")
    return redirect("annotation:members", pk)
