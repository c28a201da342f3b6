"""Models: registered ones, what was trained from them, and their downloads."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import FileResponse, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from annotation.errors import Invalid
from annotation.views.access import SignedIn, managed_project
from training import browsing, services
from training.forms import ModelForm
from training.models import Checkpoint


@login_required
@require_http_methods(["GET", "POST"])
def models(request: SignedIn, pk: int) -> HttpResponse:
    """The lineage from registered models to the newest checkpoints; and registering one."""
    project = managed_project(request, pk)
    form = ModelForm(request.POST or None)
    if request.method == "POST" and not request.user.is_manager:
        raise PermissionDenied("Only managers of the site register models; ask one of them.")
    if form.is_valid():
        try:
            model = services.register_base_model(
                by=request.user, modality=project.modality, **form.cleaned_data
            )
        except Invalid as error:
            form.refuse(error)
        else:
            messages.info(request, f"{model.name} is registered; runs may start from it.")
            return redirect("training:models", pk)
    context = {"project": project, "form": form, "lineage": browsing.lineage_of(project)}
    return render(request, "training/models.html", context, status=400 if form.is_bound else 200)


@login_required
@require_GET
def checkpoint_download(request: SignedIn, pk: int) -> FileResponse:
    """The result as a zip, with its model card."""
    checkpoint = get_object_or_404(Checkpoint.objects.select_related("run__project"), pk=pk)
    managed_project(request, checkpoint.run.project_id)
    file, name = services.open_checkpoint(checkpoint)
    return FileResponse(file, as_attachment=True, filename=name, content_type="application/zip")
