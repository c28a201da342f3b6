"""Models: registered ones, what was trained from them, and their downloads."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import FileResponse, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation.errors import Conflict, Invalid
from annotation.permissions import Action, check_site, find
from annotation.views.access import SignedIn, project_for
from training import browsing, services
from training.forms import ModelForm, UploadForm
from training.models import Checkpoint


@login_required
@require_http_methods(["GET", "POST"])
def models(request: SignedIn, pk: int) -> HttpResponse:
    """The lineage from registered models to the newest checkpoints; and registering one."""
    project = project_for(request, pk, Action.WATCH, to_post=Action.TRAIN)
    form = ModelForm(request.POST or None)
    if request.method == "POST":
        check_site(request.user, Action.REGISTER_MODEL)
    if form.is_valid():
        try:
            model = services.register_base_model(
                by=request.user, modality=project.modality, **form.cleaned_data
            )
        except Invalid as error:
            form.refuse(error)
        else:
            messages.info(
                request, _("%(name)s is registered; runs may start from it.") % {"name": model.name}
            )
            return redirect("training:models", pk)
    context = {"project": project, "form": form, "lineage": browsing.lineage_of(project)}
    return render(request, "training/models.html", context, status=400 if form.is_bound else 200)


@login_required
@require_POST
def checkpoint_upload(request: SignedIn, pk: int) -> HttpResponse:
    """Ask for a copy of the result on a model hub."""
    rows = Checkpoint.objects.of_models().select_related("run__project")
    checkpoint = find(rows, request.user, Action.TRAIN, pk=pk)
    form = UploadForm(request.POST)
    if form.is_valid():
        try:
            services.create_upload(by=request.user, checkpoint=checkpoint, **form.cleaned_data)
        except (Invalid, Conflict) as error:
            messages.error(request, str(error))
    else:
        messages.error(request, _("A repository is an owner and a name, as in owner/name."))
    return redirect(checkpoint.run)


@login_required
@require_GET
def checkpoint_download(request: SignedIn, pk: int) -> FileResponse:
    """The result as a zip, with its model card; with ``?for=interfaces`` the adapter as they read it."""
    checkpoint = find(Checkpoint.objects.select_related("run__project"), request.user, Action.TRAIN, pk=pk)
    if request.GET.get("for") == "interfaces":
        lora, name = services.open_interface_file(checkpoint)
        return FileResponse(lora, as_attachment=True, filename=name, content_type="application/octet-stream")
    file, name = services.open_checkpoint(checkpoint)
    return FileResponse(file, as_attachment=True, filename=name, content_type="application/zip")
