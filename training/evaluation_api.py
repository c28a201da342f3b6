"""The HTTP API of what is known of rewards and models: evaluations and their reports."""

from django.urls import path
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.errors import Invalid
from annotation.models import Project
from annotation.permissions import Action, find
from training import serializers, services
from training.api import made_run, own_project, user_of, valid
from training.models import Checkpoint, Run


@extend_schema(request=serializers.EvaluationRequestSerializer, responses={201: serializers.RunSerializer})
@api_view(["POST"])
def evaluations(request: Request) -> Response:
    """Have a reward evaluated on answers that it has not seen; the run's report says how right it is."""
    data = valid(serializers.EvaluationRequestSerializer(data=request.data))
    project = own_project(request, data)
    if data["groups"] is not None and project.modality == Project.Modality.IMAGE:
        raise Invalid({"groups": _("are texts; pictures are scored where they are: leave this out.")})
    return made_run(services.create_evaluation(by=user_of(request), project=project, **data))


@extend_schema(responses=serializers.ReportSerializer)
@api_view(["GET"])
def run_report(request: Request, pk: int) -> Response:
    """What an evaluation found."""
    found = find(Run.objects.all(), user_of(request), Action.WATCH, pk=pk)
    return Response({"run": found.pk, "report": services.report_of(found)})


@extend_schema(responses=serializers.ReportSerializer(many=True))
@api_view(["GET"])
def checkpoint_evaluations(request: Request, pk: int) -> Response:
    """The reports on a reward model, newest first."""
    rows = Checkpoint.objects.of_models().select_related("run__project")
    found = find(rows, user_of(request), Action.WATCH, pk=pk)
    made = services.evaluations_of(found)
    return Response([{"run": one.pk, "report": services.report_of(one)} for one in made])


@extend_schema(responses=serializers.OveroptimisationSerializer)
@api_view(["GET"])
def run_overoptimisation(request: Request, pk: int) -> Response:
    """The proxy, the gold reward and people against the root of the KL, and where to stop."""
    found = find(Run.objects.select_related("project"), user_of(request), Action.WATCH, pk=pk)
    return Response({"run": found.pk, "curves": services.overoptimisation_of(found)})


urlpatterns = [
    path("evaluations/", evaluations, name="api-evaluations"),
    path("runs/<int:pk>/report/", run_report, name="api-run-report"),
    path("runs/<int:pk>/overoptimisation/", run_overoptimisation, name="api-run-overoptimisation"),
    path("checkpoints/<int:pk>/evaluations/", checkpoint_evaluations, name="api-checkpoint-evaluations"),
]
