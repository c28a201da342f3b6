"""The HTTP API of the arena: ask two models that are not named, judge, and learn which they were."""

from typing import Any

from django.urls import path
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api import find_project
from annotation.models import Lease
from annotation.permissions import ALLOWED, Action
from annotation.quality.leaderboard import as_data
from annotation.serializers import PresentedLeaseSerializer, StrictSerializer
from annotation.services import member_of, present
from training import arena_browsing, services
from training.api import user_of, valid
from training.models import Arena, Duel

STATES = [*Duel.Status.values, "judged"]


class ArenaSerializer(StrictSerializer):
    models = serializers.ListField(child=serializers.CharField(), help_text="names as runs have them")
    is_open = serializers.BooleanField(default=True)
    config = serializers.DictField(
        required=False, help_text="of the generation runs; left out: as it is", child=serializers.JSONField()
    )


class StandingArenaSerializer(serializers.Serializer):
    """`models` and `config` are null for those who may not see the project's models."""

    is_open = serializers.BooleanField()
    models = serializers.ListField(child=serializers.CharField(), allow_null=True)
    config = serializers.DictField(allow_null=True)


class QuestionSerializer(StrictSerializer):
    prompt = serializers.CharField()


class DuelSerializer(serializers.Serializer):
    """`models`, in the order in which the answers were shown, is null until the asker has judged."""

    id = serializers.IntegerField()
    project = serializers.IntegerField()
    status = serializers.ChoiceField(STATES)
    turns = serializers.ListField(child=serializers.CharField(), help_text="what was asked")
    comparison = PresentedLeaseSerializer(allow_null=True, help_text="judge its lease")
    models = serializers.ListField(child=serializers.CharField(), allow_null=True)
    created_at = serializers.DateTimeField()


class PointsSerializer(serializers.Serializer):
    leaderboard = serializers.JSONField(allow_null=True, help_text="as that of the project")


@extend_schema(methods=["GET"], responses=StandingArenaSerializer)
@extend_schema(methods=["PUT"], request=ArenaSerializer, responses=StandingArenaSerializer)
@api_view(["GET", "PUT"])
def arena(request: Request, pk: int) -> Response:
    """Whether the project's arena is open and who answers in it. PUT makes it, or changes it."""
    project = find_project(request, pk, Action.SEE if request.method == "GET" else Action.TRAIN)
    if request.method == "PUT":
        services.set_arena(by=user_of(request), project=project, **valid(ArenaSerializer(data=request.data)))
    found = Arena.objects.filter(project=project).first()
    watches = member_of(project, user_of(request).pk).role in ALLOWED[Action.WATCH]
    names = [one.name for one in services.contenders_of(found)] if found else []
    return Response(
        {
            "is_open": found is not None and found.is_open,
            "models": names if watches else None,
            "config": (found.config if found else {}) if watches else None,
        }
    )


@extend_schema(responses=PointsSerializer)
@api_view(["GET"])
def arena_leaderboard(request: Request, pk: int) -> Response:
    """Points of the arena's models with intervals; null before the first judgement."""
    project = find_project(request, pk, Action.BROWSE)
    found = Arena.objects.filter(project=project).first()
    return Response({"leaderboard": as_data(services.standings(found)) if found else None})


@extend_schema(request=QuestionSerializer, responses={201: DuelSerializer})
@api_view(["POST"])
def duels(request: Request, pk: int) -> Response:
    """Ask two models of the arena; what you asked before and did not judge is left."""
    project = find_project(request, pk, Action.JUDGE)
    data = valid(QuestionSerializer(data=request.data))
    made = services.ask(project=project, user=user_of(request), now=timezone.now(), **data)
    return _shown(request, made.pk, status.HTTP_201_CREATED)


@extend_schema(methods=["GET"], responses=DuelSerializer)
@extend_schema(methods=["DELETE"], responses={204: None})
@api_view(["GET", "DELETE"])
def duel(request: Request, pk: int) -> Response:
    """One of your own questions; its comparison when both answers are there. DELETE leaves it unjudged."""
    if request.method == "DELETE":
        services.abandon(duel=services.duel_of(pk=pk, user=user_of(request)))
        return Response(status=status.HTTP_204_NO_CONTENT)
    return _shown(request, pk)


@extend_schema(request=QuestionSerializer, responses={202: DuelSerializer})
@api_view(["POST"])
def duel_more(request: Request, pk: int) -> Response:
    """Go on with the conversation before you judge it."""
    found = services.duel_of(pk=pk, user=user_of(request))
    data = valid(QuestionSerializer(data=request.data))
    services.say_more(duel=found, user=user_of(request), message=data["prompt"])
    return _shown(request, pk, status.HTTP_202_ACCEPTED)


@extend_schema(request=None, responses={202: DuelSerializer})
@api_view(["POST"])
def duel_retry(request: Request, pk: int) -> Response:
    """Have the same two models answer once more after one failed."""
    services.try_again(duel=services.duel_of(pk=pk, user=user_of(request)), user=user_of(request))
    return _shown(request, pk, status.HTTP_202_ACCEPTED)


def _shown(request: Request, pk: int, code: int = status.HTTP_200_OK) -> Response:
    found = services.duel_of(pk=pk, user=user_of(request))
    judged = services.is_judged(found)
    shown: dict[str, Any] = {
        "id": found.pk,
        "project": found.arena.project_id,
        "status": "judged" if judged else found.status,
        "turns": list(found.turns.order_by("number").values_list("message", flat=True)),
        "comparison": None,
        "models": arena_browsing.outcome_of(found).names if judged else None,
        "created_at": found.created_at,
    }
    if found.lease is not None and (judged or services.can_be_judged(found)):
        shown["comparison"] = present(Lease.objects.to_present().get(pk=found.lease.pk))
    return Response(shown, status=code)


urlpatterns = [
    path("projects/<int:pk>/arena/", arena, name="api-arena"),
    path("projects/<int:pk>/arena/leaderboard/", arena_leaderboard, name="api-arena-leaderboard"),
    path("projects/<int:pk>/duels/", duels, name="api-duels"),
    path("duels/<int:pk>/", duel, name="api-duel"),
    path("duels/<int:pk>/more/", duel_more, name="api-duel-more"),
    path("duels/<int:pk>/retry/", duel_retry, name="api-duel-retry"),
]
