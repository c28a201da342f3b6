"""The figures of the quality pages over the API, for whoever may see those pages."""

from typing import Any

from django.urls import path
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import quality_pages
from annotation import quality_serializers as serializers
from annotation.api import find_project
from annotation.permissions import Action

BY_LENGTH = OpenApiParameter("by_length", bool, description="points at equal length of the texts")
NO_SUMMARY: dict[str, Any] = {
    "judgements": 0, "questions": [], "position": None, "places": [], "length": None, "ties": None,
}  # fmt: skip
NO_BOARD: dict[str, Any] = {"rows": [], "table": [], "tie_rate": None, "length_effect": None}


@extend_schema(responses=serializers.QualitySerializer)
@api_view(["GET"])
def quality(request: Request, pk: int) -> Response:
    """How far people agree, question by question, and what they lean to."""
    report = quality_pages.read_report(find_project(request, pk, Action.BROWSE))
    shown = NO_SUMMARY | (report["summary"] or {})
    shown["questions"] = quality_pages.question_rows(report["summary"])
    shown["slips"] = (report["fits"] or {}).get("flipped_total", 0)
    return Response(serializers.QualitySerializer(report | shown).data)


@extend_schema(responses=serializers.AnnotatorsSerializer)
@api_view(["GET"])
def annotators(request: Request, pk: int) -> Response:
    """Everybody who judged, most judgements first."""
    report = quality_pages.read_report(find_project(request, pk, Action.BROWSE))
    shown = report | {"annotators": quality_pages.annotator_rows(report)}
    return Response(serializers.AnnotatorsSerializer(shown).data)


@extend_schema(parameters=[BY_LENGTH], responses=serializers.LeaderboardSerializer)
@api_view(["GET"])
def leaderboard(request: Request, pk: int) -> Response:
    """Sources by strength, best first, and who beats whom."""
    report = quality_pages.read_report(find_project(request, pk, Action.BROWSE))
    by_length = request.query_params.get("by_length") in ("1", "true")
    board = quality_pages.board_of(report, by_length=by_length) or NO_BOARD
    return Response(serializers.LeaderboardSerializer(report | board).data)


urlpatterns = [
    path("projects/<int:pk>/quality/", quality, name="project-quality"),
    path("projects/<int:pk>/quality/annotators/", annotators, name="project-annotators"),
    path("projects/<int:pk>/quality/leaderboard/", leaderboard, name="project-leaderboard"),
]
