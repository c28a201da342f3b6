"""How work is handed out: settings, groups, one member, known answers, consent, skipped, review."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import Count, Q
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation import services
from annotation.assignment_forms import (
    AssignmentForm,
    ConsentTextForm,
    GoldForm,
    GroupForm,
    MemberSettingsForm,
    ReasonForm,
    SetAsideForm,
    plain_answer,
)
from annotation.browsing import changes_of, comparison_in_full
from annotation.errors import Conflict, Invalid
from annotation.models import AnnotatorGroup, GoldAnswer, Lease, Member, Project, SetAside
from annotation.permissions import Action
from annotation.transfer_forms import KnownAnswersForm
from annotation.views.access import SignedIn, project_for

PAGE_SIZE = 50


@login_required
@require_http_methods(["GET", "POST"])
def assignment(request: SignedIn, pk: int) -> HttpResponse:
    """Strategy, limits, checks, the test, and the text to agree to."""
    project = project_for(request, pk, Action.EDIT)
    initial = AssignmentForm.initial_of(project)
    form = AssignmentForm(request.POST or None, initial=initial)
    if form.is_valid():
        try:
            services.update_assignment(project=project, **form.changes)
        except Invalid as error:
            form.refuse(error)
        else:
            messages.info(request, _("Saved."))
            return redirect("annotation:assignment", pk)
    text = services.consent_text(project)
    context = {
        "project": project,
        "form": form,
        "changes": changes_of(project),
        "consent_text": text,
        "consent_form": ConsentTextForm(initial={"text": text.text if text else ""}),
        "consents": text.consents.count() if text else 0,
        "known": project.gold_answers.aggregate(
            gold=Count("pk", filter=Q(purpose=GoldAnswer.Purpose.GOLD)),
            test=Count("pk", filter=Q(purpose=GoldAnswer.Purpose.QUALIFICATION)),
        ),
    }
    return render(request, "annotation/assignment.html", context)


@login_required
@require_GET
def changes(request: SignedIn, pk: int) -> HttpResponse:
    """How far changes to many rows are; the pages that begin them ask for this again and again."""
    project = project_for(request, pk, Action.EDIT)
    context = {"project": project, "changes": changes_of(project)}
    return render(request, "annotation/_changes.html", context)


@login_required
@require_POST
def consent_text(request: SignedIn, pk: int) -> HttpResponse:
    """A new text to agree to, or none."""
    project = project_for(request, pk, Action.EDIT)
    form = ConsentTextForm(request.POST)
    if form.is_valid():
        text = services.publish_consent_text(project=project, by=request.user, **form.cleaned_data)
        said = (
            _("Version %(version)s is asked for.") % {"version": text.version}
            if text
            else _("Nothing is asked.")
        )
        messages.info(request, said)
    else:
        messages.error(request, " ".join(map(str, form.errors["text"])))
    return redirect("annotation:assignment", pk)


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def consent(request: SignedIn, pk: int) -> HttpResponse:
    """The text to agree to, for an annotator before the first task."""
    project = project_for(request, pk, Action.JUDGE)
    text = services.consent_text(project)
    if services.member_of(project, request.user.pk).withdrawn_at is not None:
        return redirect("annotation:withdraw", pk)
    if request.method == "POST":
        version = request.POST.get("version", "")
        number = int(version) if version.isdecimal() and len(version) < 10 else 0
        try:
            services.give_consent(project=project, user=request.user, version=number, now=timezone.now())
        except Conflict as error:
            messages.error(request, str(error))
            return redirect("annotation:consent", pk)
        return redirect("annotation:judge", pk)
    given = text.consents.filter(user=request.user, withdrawn_at=None).first() if text else None
    return render(request, "annotation/consent.html", {"project": project, "text": text, "given": given})


@login_required
@require_http_methods(["GET", "POST"])
def groups(request: SignedIn, pk: int) -> HttpResponse:
    """The groups of annotators, and a new one."""
    project = project_for(request, pk, Action.PEOPLE)
    form = GroupForm(request.POST or None)
    if form.is_valid():
        try:
            services.save_group(project=project, **form.cleaned_data)
        except Invalid as error:
            form.refuse(error)
        else:
            return redirect("annotation:groups", pk)
    found = project.annotator_groups.annotate(people=Count("members")).order_by("name")
    context = {"project": project, "form": form, "groups": found, "changes": changes_of(project)}
    return render(request, "annotation/groups.html", context)


@login_required
@require_http_methods(["GET", "POST"])
def group(request: SignedIn, pk: int, group: int) -> HttpResponse:
    """One group: its form and its members."""
    project = project_for(request, pk, Action.PEOPLE)
    known = get_object_or_404(AnnotatorGroup, project=project, pk=group)
    form = GroupForm(request.POST or None, initial=GroupForm.initial_of(known))
    if form.is_valid():
        try:
            services.save_group(project=project, group=known, **form.cleaned_data)
        except Invalid as error:
            form.refuse(error)
        else:
            messages.info(request, _("Saved."))
            return redirect("annotation:groups", pk)
    people = known.members.select_related("user").order_by("user__username", "pk")
    context = {"project": project, "group": known, "form": form, "people": people}
    return render(request, "annotation/group.html", context)


@login_required
@require_POST
def group_remove(request: SignedIn, pk: int, group: int) -> HttpResponse:
    project = project_for(request, pk, Action.PEOPLE)
    known = get_object_or_404(AnnotatorGroup, project=project, pk=group)
    services.remove_group(project=project, group=known)
    messages.info(request, _("The group is dissolved; its members stay."))
    return redirect("annotation:groups", pk)


@login_required
@require_http_methods(["GET", "POST"])
def member(request: SignedIn, pk: int, user: int) -> HttpResponse:
    """One member: where they stand, their group and limits; pausing, and setting aside what they said."""
    project = project_for(request, pk, Action.PEOPLE)
    found = services.member_of(project, user)
    form = MemberSettingsForm(
        request.POST or None, project=project, initial=MemberSettingsForm.initial_of(found)
    )
    if form.is_valid():
        services.update_member(project=project, user=user, now=timezone.now(), **form.cleaned_data)
        messages.info(request, _("Saved."))
        return redirect("annotation:member", pk, user)
    return _member_page(request, project, found, form=form)


def _member_page(request: SignedIn, project: Project, found: Member, **context: Any) -> HttpResponse:
    context = {
        "form": MemberSettingsForm(project=project, initial=MemberSettingsForm.initial_of(found)),
        "pause_form": ReasonForm(prefix="pause"),
        "aside_form": SetAsideForm(prefix="aside"),
    } | context
    context |= {
        "project": project,
        "member": found,
        "changes": changes_of(project),
        "standing": services.standing(project=project, user=found.user, now=timezone.now()),
        "set_asides": SetAside.objects.filter(project=project, annotator=found.user).select_related(
            "created_by"
        ),
    }
    status = 400 if any(form.is_bound for name, form in context.items() if name.endswith("form")) else 200
    return render(request, "annotation/member.html", context, status=status)


@login_required
@require_POST
def member_pause(request: SignedIn, pk: int, user: int) -> HttpResponse:
    project = project_for(request, pk, Action.PEOPLE)
    form = ReasonForm(request.POST, prefix="pause")
    if not form.is_valid():
        return _member_page(request, project, services.member_of(project, user), pause_form=form)
    services.pause_member(project=project, user=user, now=timezone.now(), **form.cleaned_data)
    messages.info(request, _("Paused. What they had open went back to others."))
    return redirect("annotation:member", pk, user)


@login_required
@require_POST
def member_resume(request: SignedIn, pk: int, user: int) -> HttpResponse:
    project = project_for(request, pk, Action.PEOPLE)
    services.resume_member(project=project, user=user)
    messages.info(request, _("They may work again."))
    return redirect("annotation:member", pk, user)


@login_required
@require_POST
def member_set_aside(request: SignedIn, pk: int, user: int) -> HttpResponse:
    project = project_for(request, pk, Action.PEOPLE)
    form = SetAsideForm(request.POST, prefix="aside")
    if not form.is_valid():
        return _member_page(request, project, services.member_of(project, user), aside_form=form)
    record = services.set_aside(
        project=project, user=user, by=request.user, now=timezone.now(), **form.cleaned_data
    )
    if not record.unfinished_change():
        sentence = ngettext(
            "%(count)s judgement is set aside; its comparison is open for others.",
            "%(count)s judgements are set aside; their comparisons are open for others.",
            record.count,
        )
        messages.info(request, sentence % {"count": record.count})
    return redirect("annotation:member", pk, user)


@login_required
@require_POST
def restore(request: SignedIn, pk: int, record: int) -> HttpResponse:
    project = project_for(request, pk, Action.PEOPLE)
    known = get_object_or_404(SetAside, project=project, pk=record)
    try:
        restored = services.restore(record=known, by=request.user, now=timezone.now())
    except Conflict as error:
        messages.error(request, str(error))
    else:
        if not restored.unfinished_change():
            messages.info(request, _("They count again."))
    return redirect("annotation:member", pk, known.annotator_id)


@login_required
@require_GET
def gold(request: SignedIn, pk: int) -> HttpResponse:
    """The known answers, and how often people met them."""
    project = project_for(request, pk, Action.EDIT)
    answered = Q(
        comparison__judgements__kind__in=["gold", "qualification"], comparison__judgements__undone_at=None
    )
    found = project.gold_answers.select_related("comparison").annotate(
        asked=Count("comparison__judgements", filter=answered)
    )
    page = Paginator(found.order_by("purpose", "pk"), PAGE_SIZE).get_page(request.GET.get("page"))
    rows = [(answer, plain_answer(answer)) for answer in page]
    context = {
        "project": project,
        "page": page,
        "rows": rows,
        "upload": KnownAnswersForm(modality=project.modality),
    }
    return render(request, "annotation/gold.html", context)


@login_required
@require_http_methods(["GET", "POST"])
def gold_set(request: SignedIn, pk: int, comparison: int) -> HttpResponse:
    """Say what the right answer to one comparison is."""
    project = project_for(request, pk, Action.EDIT)
    shown = get_object_or_404(comparison_in_full(project), pk=comparison)
    known = GoldAnswer.objects.filter(comparison=shown).first()
    initial = GoldForm.initial_of(known) if known else None
    form = GoldForm(request.POST or None, project=project, comparison=shown, initial=initial)
    if form.is_valid():
        try:
            services.set_gold_answer(project=project, comparison_id=shown.pk, by=request.user, **form.values)
        except Invalid as error:
            form.refuse(error)
        else:
            messages.info(request, _("Saved."))
            return redirect("annotation:gold", pk)
    context = {"project": project, "comparison": shown, "known": known, "form": form}
    return render(request, "annotation/gold_set.html", context)


@login_required
@require_POST
def gold_remove(request: SignedIn, pk: int, answer: int) -> HttpResponse:
    project = project_for(request, pk, Action.EDIT)
    try:
        services.remove_gold_answer(project=project, gold_answer_id=answer)
    except Conflict as error:
        messages.error(request, str(error))
    return redirect("annotation:gold", pk)


@login_required
@require_GET
def skipped(request: SignedIn, pk: int) -> HttpResponse:
    """What people skipped and why, newest first; one reason alone with `?reason=`."""
    project = project_for(request, pk, Action.PEOPLE)
    found = Lease.objects.filter(comparison__project=project, state=Lease.State.SKIPPED)
    reasons = found.values("skip_reason").annotate(number=Count("pk")).order_by("-number", "skip_reason")[:20]
    reason = request.GET.get("reason")
    if reason is not None:
        found = found.filter(skip_reason=reason)
    rows = found.select_related("comparison", "annotator").order_by("-closed_at", "pk")
    page = Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))
    query = request.GET.copy()
    query.pop("page", None)
    context = {
        "project": project,
        "page": page,
        "reasons": reasons,
        "reason": reason,
        "query": query.urlencode(),
    }
    return render(request, "annotation/skipped.html", context)
