"""How somebody's part in a project ends or passes on: withdrawing from it, and handing it over."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from annotation import services
from annotation.errors import Conflict
from annotation.forms import WithdrawForm
from annotation.models import BulkChange, Judgement
from annotation.permissions import Action
from annotation.views.access import SignedIn, project_for


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def withdraw(request: SignedIn, pk: int) -> HttpResponse:
    """For an annotator: stop working here, keep or delete what one said, and take part again."""
    project = project_for(request, pk, Action.JUDGE)
    if "again" in request.POST:
        services.take_part_again(project=project, user=request.user)
        messages.info(request, _("Welcome back."))
        return redirect("annotation:project", pk)
    form = WithdrawForm(request.POST or None)
    if form.is_valid():
        services.withdraw(project=project, user=request.user, now=timezone.now())
        if form.cleaned_data["judgements"] == WithdrawForm.DELETE:
            change = services.delete_judgements(project=project, user=request.user)
            sentence = ngettext(
                "%(count)s judgement is deleted.", "%(count)s judgements are deleted.", change.done
            )
            messages.info(request, sentence % {"count": change.done})
        return redirect("annotation:withdraw", pk)
    mine = BulkChange.objects.filter(
        project=project, kind=BulkChange.Kind.DELETE, status__in=BulkChange.UNFINISHED
    )
    context = {
        "project": project,
        "form": form,
        "deleting": mine.filter(subject__annotator=request.user.pk).exists(),
        "member": services.member_of(project, request.user.pk),
        "count": Judgement.objects.filter(comparison__project=project, annotator=request.user).count(),
    }
    return render(request, "annotation/withdraw.html", context)


@login_required
@require_http_methods(["GET", "POST"])
def hand_over(request: SignedIn, pk: int, user: int) -> HttpResponse:
    """For an owner: what follows from making this member the owner in their place, and doing it."""
    project = project_for(request, pk, Action.OWN)
    member = get_object_or_404(project.members.select_related("user"), user=user)
    if request.method == "POST":
        try:
            services.hand_over(project=project, to=member.user, by=request.user)
        except Conflict as error:
            messages.error(request, str(error))
        else:
            words = _("%(name)s owns the project now, and you are a manager.")
            messages.info(request, words % {"name": member.user.username})
        return redirect("annotation:members", pk)
    return render(request, "annotation/hand_over.html", {"project": project, "member": member})
