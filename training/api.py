"""The HTTP API of models, runs, checkpoints, matches and schedules, under /api/v1/."""

import hashlib
import json
from typing import Any

from django.db.models import QuerySet
from django.http import FileResponse, HttpResponse
from django.urls import path
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api import find_project
from annotation.errors import Invalid, NotFound
from annotation.models import Project, User
from annotation.permissions import Action, check_site, find
from training import lineage, serializers, services
from training.models import BaseModel, Checkpoint, Match, Round, Run, Schedule

AFTER = OpenApiParameter(
    "after",
    OpenApiTypes.INT,
    description="rows of later steps only; the newest step may still get its evaluation",
)
PROJECT = OpenApiParameter("project", OpenApiTypes.INT, description="of this project only")
ZIP = OpenApiResponse(OpenApiTypes.BINARY, description="a zip of result/")
PAGE = 200  # newest rows of a list


def listed(request: Request, model: Any, *related: str) -> QuerySet[Any]:
    """The newest rows in the projects whose training this user may watch, perhaps of one project."""
    rows = model.objects.visible_to(user_of(request), Action.WATCH).select_related(*related)
    if (project := wanted_project(request)) is not None:
        rows = rows.filter(project=project)
    return rows.order_by("-pk")[:PAGE]


def wanted_project(request: Request) -> int | None:
    """The id in ?project=, if it is there."""
    value = request.query_params.get("project")
    if value is not None and (not value.isdecimal() or len(value) > 18):
        raise Invalid({"project": _("%(value)r is not the id of a project.") % {"value": value}})
    return None if value is None else int(value)


def user_of(request: Request) -> User:
    """The user; the default permission has let nobody else in."""
    assert isinstance(request.user, User)
    return request.user


def valid(serializer: Any) -> dict[str, Any]:
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def own_project(request: Request, data: dict[str, Any]) -> Project:
    try:
        return find_project(request, data.pop("project"), Action.TRAIN)
    except NotFound as error:
        raise Invalid({"project": str(error)}) from None


RUN_ROWS = ("base", "base_checkpoint", "snapshot", "checkpoint", "project")


@extend_schema(methods=["GET"], parameters=[PROJECT], responses=serializers.RunSerializer(many=True))
@extend_schema(
    methods=["POST"],
    request=serializers.RunRequestSerializer,
    responses={201: serializers.RunSerializer},
)
@api_view(["GET", "POST"])
def runs(request: Request) -> Response:
    """The runs of your projects, newest first; or start one."""
    if request.method == "GET":
        return Response(serializers.RunSerializer(listed(request, Run, *RUN_ROWS), many=True).data)
    data = valid(serializers.RunRequestSerializer(data=request.data))
    project = own_project(request, data)
    run = services.create_run(by=user_of(request), project=project, over_http=True, **data)
    return Response(serializers.RunSerializer(run).data, status=status.HTTP_201_CREATED)


@extend_schema(responses=serializers.RunSerializer)
@api_view(["GET"])
def run(request: Request, pk: int) -> Response:
    """A run, and how far it is."""
    found = find(Run.objects.select_related(*RUN_ROWS), user_of(request), Action.WATCH, pk=pk)
    return Response(serializers.RunSerializer(found).data)


@extend_schema(parameters=[AFTER], responses={200: serializers.MetricsSerializer, 304: None})
@api_view(["GET"])
def metrics(request: Request, pk: int) -> HttpResponse:
    """The run's metrics; with an ETag, so that asking again costs little."""
    found = find(Run.objects.select_related("project"), user_of(request), Action.WATCH, pk=pk)
    body = {
        "status": found.status,
        "step": found.step,
        "total_steps": found.total_steps,
        "metrics": services.metrics_of(found, after=_step(request)),
    }
    tag = f'"{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("If-None-Match") == tag:
        return HttpResponse(status=status.HTTP_304_NOT_MODIFIED, headers=headers)
    return Response(body, headers=headers)


@extend_schema(request=None, responses={202: serializers.RunSerializer})
@api_view(["POST"])
def cancel(request: Request, pk: int) -> Response:
    """Cancel a run: at once if it waits; a running one saves and stops."""
    return _change(request, pk, services.cancel_run)


@extend_schema(request=None, responses={202: serializers.RunSerializer})
@api_view(["POST"])
def start(request: Request, pk: int) -> Response:
    """Start a draft."""
    return _change(request, pk, services.start_run)


@extend_schema(request=None, responses={202: serializers.RunSerializer})
@api_view(["POST"])
def retry(request: Request, pk: int) -> Response:
    """Run a failed or cancelled run again, from its newest checkpoint."""
    return _change(request, pk, services.retry_run)


def _change(request: Request, pk: int, change: Any) -> Response:
    found = find(Run.objects.select_related(*RUN_ROWS), user_of(request), Action.TRAIN, pk=pk)
    change(run=found)
    return Response(serializers.RunSerializer(found).data, status=status.HTTP_202_ACCEPTED)


@extend_schema(request=serializers.GenerationRequestSerializer, responses={201: serializers.RunSerializer})
@api_view(["POST"])
def generations(request: Request) -> Response:
    """Have a model answer prompts; with `best_of` in the config the reward chooses. The result is a run."""
    data = valid(serializers.GenerationRequestSerializer(data=request.data))
    project = own_project(request, data)
    return made_run(services.create_generation(by=user_of(request), project=project, **data))


@extend_schema(request=serializers.ScoringRequestSerializer, responses={201: serializers.RunSerializer})
@api_view(["POST"])
def scorings(request: Request) -> Response:
    """Have candidates scored by a reward model or a list of rewards; the run's result has `scores.jsonl`."""
    data = valid(serializers.ScoringRequestSerializer(data=request.data))
    project = own_project(request, data)
    if data["groups"] is not None and project.modality == Project.Modality.IMAGE:
        problem = _("are texts; pictures are scored where they are: leave this out.")
        raise Invalid({"groups": problem})
    return made_run(services.create_scoring(by=user_of(request), project=project, **data))


def made_run(made: Run) -> Response:
    return Response(serializers.RunSerializer(made).data, status=status.HTTP_201_CREATED)


@extend_schema(request=None, responses={201: serializers.AddedAnswersSerializer})
@api_view(["POST"])
def run_comparisons(request: Request, pk: int) -> Response:
    """Queue the answers that a generation wrote for judging, once."""
    found = find(Run.objects.all(), user_of(request), Action.TRAIN, pk=pk)
    return Response(services.add_answers(run=found), status=status.HTTP_201_CREATED)


@extend_schema(request=None, responses={201: serializers.SuggestedScoresSerializer})
@api_view(["POST"])
def run_suggestions(request: Request, pk: int) -> Response:
    """Store the best candidates by a scoring of the project as suggestions to annotators."""
    found = find(Run.objects.select_related("project", *RUN_ROWS), user_of(request), Action.TRAIN, pk=pk)
    return Response({"suggested": services.suggest_scores(run=found)}, status=status.HTTP_201_CREATED)


@extend_schema(request=serializers.PrioritiesRequestSerializer, responses=serializers.PrioritiesSerializer)
@api_view(["POST"])
def run_priorities(request: Request, pk: int) -> Response:
    """Order the queue by what the members of the scoring's ensemble would learn most from."""
    found = find(Run.objects.select_related("project", *RUN_ROWS), user_of(request), Action.TRAIN, pk=pk)
    data = valid(serializers.PrioritiesRequestSerializer(data=request.data))
    return Response(services.prioritise(run=found, **data))


@extend_schema(parameters=[PROJECT], responses=serializers.CheckpointSerializer(many=True))
@api_view(["GET"])
def checkpoints(request: Request) -> Response:
    """The models that came out of your projects' runs, newest first."""
    found = Checkpoint.objects.visible_to(user_of(request), Action.WATCH).of_models()
    if (project := wanted_project(request)) is not None:
        found = found.filter(run__project=project)
    return Response(serializers.CheckpointSerializer(found.order_by("-pk")[:PAGE], many=True).data)


@extend_schema(responses={(200, "application/zip"): ZIP})
@api_view(["GET"])
def download(request: Request, pk: int) -> FileResponse:
    """The result as a zip: weights, tokenizer, model card."""
    rows = Checkpoint.objects.select_related("run__project")
    found = find(rows, user_of(request), Action.TRAIN, pk=pk)
    file, name = services.open_checkpoint(found)
    return FileResponse(file, as_attachment=True, filename=name, content_type="application/zip")


@extend_schema(methods=["GET"], responses=serializers.HubUploadSerializer(many=True))
@extend_schema(
    methods=["POST"],
    request=serializers.HubUploadRequestSerializer,
    responses={202: serializers.HubUploadSerializer},
)
@api_view(["GET", "POST"])
def uploads(request: Request, pk: int) -> Response:
    """Copies of a result on a model hub; or ask for one, private unless you say otherwise."""
    rows = Checkpoint.objects.of_models().select_related("run__project")
    found = find(rows, user_of(request), Action.TRAIN, pk=pk)
    if request.method == "GET":
        return Response(serializers.HubUploadSerializer(found.uploads.order_by("-pk"), many=True).data)
    data = valid(serializers.HubUploadRequestSerializer(data=request.data))
    made = services.create_upload(by=user_of(request), checkpoint=found, **data)
    return Response(serializers.HubUploadSerializer(made).data, status=status.HTTP_202_ACCEPTED)


@extend_schema(methods=["GET"], responses=serializers.BaseModelSerializer(many=True))
@extend_schema(
    methods=["POST"],
    request=serializers.BaseModelRequestSerializer,
    responses={201: serializers.BaseModelSerializer},
)
@api_view(["GET", "POST"])
def models(request: Request) -> Response:
    """The registered models that runs may start from; or register one."""
    check_site(user_of(request), Action.REGISTER_MODEL)
    if request.method == "GET":
        return Response(serializers.BaseModelSerializer(BaseModel.objects.order_by("name"), many=True).data)
    data = valid(serializers.BaseModelRequestSerializer(data=request.data))
    registered = services.register_base_model(by=user_of(request), **data)
    return Response(serializers.BaseModelSerializer(registered).data, status=status.HTTP_201_CREATED)


MATCH_ROWS = ("project", "left_run__base", "right_run__base")


@extend_schema(methods=["GET"], parameters=[PROJECT], responses=serializers.MatchSerializer(many=True))
@extend_schema(
    methods=["POST"],
    request=serializers.MatchRequestSerializer,
    responses={201: serializers.MatchSerializer},
)
@api_view(["GET", "POST"])
def matches(request: Request) -> Response:
    """Blind comparisons of two models; or queue one."""
    if request.method == "GET":
        return Response(serializers.MatchSerializer(listed(request, Match, *MATCH_ROWS), many=True).data)
    data = valid(serializers.MatchRequestSerializer(data=request.data))
    project = own_project(request, data)
    made = services.create_match(by=user_of(request), project=project, **data)
    return Response(serializers.MatchSerializer(made).data, status=status.HTTP_201_CREATED)


@extend_schema(responses=serializers.MatchSerializer)
@api_view(["GET"])
def match(request: Request, pk: int) -> Response:
    """A match and its win rate, with an interval."""
    found = find(Match.objects.select_related(*MATCH_ROWS), user_of(request), Action.WATCH, pk=pk)
    return Response(serializers.MatchSerializer(found).data)


@extend_schema(methods=["GET"], parameters=[PROJECT], responses=serializers.ScheduleSerializer(many=True))
@extend_schema(
    methods=["POST"],
    request=serializers.ScheduleRequestSerializer,
    responses={201: serializers.ScheduleSerializer},
)
@api_view(["GET", "POST"])
def schedules(request: Request) -> Response:
    """Plans of runs that start by themselves; or make one."""
    if request.method == "GET":
        return Response(serializers.ScheduleSerializer(listed(request, Schedule), many=True).data)
    data = valid(serializers.ScheduleRequestSerializer(data=request.data))
    project = own_project(request, data)
    made = services.create_schedule(by=user_of(request), project=project, **data)
    return Response(serializers.ScheduleSerializer(made).data, status=status.HTTP_201_CREATED)


@extend_schema(methods=["GET"], responses=serializers.ScheduleSerializer)
@extend_schema(
    methods=["PATCH"],
    request=serializers.ScheduleChangeSerializer,
    responses=serializers.ScheduleSerializer,
)
@extend_schema(methods=["DELETE"], responses={204: None})
@api_view(["GET", "PATCH", "DELETE"])
def schedule(request: Request, pk: int) -> Response:
    """A schedule; switch it on or off, or remove it."""
    rows = Schedule.objects.select_related("project")
    action = Action.WATCH if request.method == "GET" else Action.TRAIN
    found = find(rows, user_of(request), action, pk=pk)
    if request.method == "DELETE":
        services.delete_schedule(schedule=found)
        return Response(status=status.HTTP_204_NO_CONTENT)
    if request.method == "PATCH":
        data = valid(serializers.ScheduleChangeSerializer(data=request.data))
        services.set_enabled(schedule=found, enabled=data["enabled"])
    return Response(serializers.ScheduleSerializer(found).data)


@extend_schema(parameters=[PROJECT], responses=serializers.RoundSerializer(many=True))
@api_view(["GET"])
def rounds(request: Request) -> Response:
    """What schedules have started, newest first, step by step."""
    found = listed(request, Round).prefetch_related("steps")
    return Response(serializers.RoundSerializer(found, many=True).data)


@extend_schema(responses=serializers.RoundSerializer)
@api_view(["GET"])
def one_round(request: Request, pk: int) -> Response:
    """One round with its steps."""
    found = find(Round.objects.all(), user_of(request), Action.WATCH, pk=pk)
    return Response(serializers.RoundSerializer(found).data)


@extend_schema(request=None, responses=serializers.RoundSerializer)
@api_view(["POST"])
def round_retry(request: Request, pk: int) -> Response:
    """Go on from the step that failed, stopped or was cancelled."""
    found = find(Round.objects.all(), user_of(request), Action.TRAIN, pk=pk)
    services.retry_round(round_id=found.pk)
    found.refresh_from_db()
    return Response(serializers.RoundSerializer(found).data)


@extend_schema(request=None, responses=serializers.RoundSerializer)
@api_view(["POST"])
def round_cancel(request: Request, pk: int) -> Response:
    """End a round; what its steps made stays."""
    found = find(Round.objects.all(), user_of(request), Action.TRAIN, pk=pk)
    services.cancel_round(round_id=found.pk)
    found.refresh_from_db()
    return Response(serializers.RoundSerializer(found).data)


@extend_schema(responses=serializers.LineageSerializer)
@api_view(["GET"])
def checkpoint_lineage(request: Request, pk: int) -> Response:
    """All that had a part in a checkpoint, as a graph: runs, data, annotators, rewards, code."""
    rows = Checkpoint.objects.select_related("run__project", "run__snapshot", "run__base")
    found = find(rows, user_of(request), Action.TRAIN, pk=pk)
    return Response(lineage.lineage_of(found).as_data())


@extend_schema(request=None, responses={201: serializers.PromotionSerializer})
@api_view(["POST"])
def promotion(request: Request, pk: int) -> Response:
    """Make a checkpoint the project's champion by hand."""
    rows = Checkpoint.objects.select_related("run__project")
    found = find(rows, user_of(request), Action.TRAIN, pk=pk)
    made = services.promote(checkpoint=found, by=user_of(request))
    return Response(serializers.PromotionSerializer(made).data, status=status.HTTP_201_CREATED)


def _step(request: Request) -> int:
    value = request.query_params.get("after", "-1")
    try:
        return max(-1, min(int(value), 2**31 - 1))
    except ValueError:
        raise Invalid({"after": _("%(value)r is not a step.") % {"value": value}}) from None


urlpatterns = [
    path("runs/", runs, name="api-runs"),
    path("runs/<int:pk>/", run, name="api-run"),
    path("runs/<int:pk>/metrics/", metrics, name="api-run-metrics"),
    path("runs/<int:pk>/cancel/", cancel, name="api-run-cancel"),
    path("runs/<int:pk>/start/", start, name="api-run-start"),
    path("runs/<int:pk>/retry/", retry, name="api-run-retry"),
    path("runs/<int:pk>/comparisons/", run_comparisons, name="api-run-comparisons"),
    path("runs/<int:pk>/suggestions/", run_suggestions, name="api-run-suggestions"),
    path("runs/<int:pk>/priorities/", run_priorities, name="api-run-priorities"),
    path("generations/", generations, name="api-generations"),
    path("scorings/", scorings, name="api-scorings"),
    path("checkpoints/", checkpoints, name="api-checkpoints"),
    path("checkpoints/<int:pk>/download/", download, name="api-checkpoint-download"),
    path("checkpoints/<int:pk>/uploads/", uploads, name="api-checkpoint-uploads"),
    path("models/", models, name="api-models"),
    path("matches/", matches, name="api-matches"),
    path("matches/<int:pk>/", match, name="api-match"),
    path("schedules/", schedules, name="api-schedules"),
    path("schedules/<int:pk>/", schedule, name="api-schedule"),
    path("rounds/", rounds, name="api-rounds"),
    path("rounds/<int:pk>/", one_round, name="api-round"),
    path("rounds/<int:pk>/retry/", round_retry, name="api-round-retry"),
    path("rounds/<int:pk>/cancel/", round_cancel, name="api-round-cancel"),
    path("checkpoints/<int:pk>/lineage/", checkpoint_lineage, name="api-checkpoint-lineage"),
    path("checkpoints/<int:pk>/promotion/", promotion, name="api-checkpoint-promotion"),
]
