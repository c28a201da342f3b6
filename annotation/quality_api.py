"""The figures of the quality pages over the API, for whoever may see those pages."""

from typing import Any

from django.urls import path
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.decorators import api_view
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import quality_pages
from annotation import quality_serializers as serializers
from annotation.api import ByNumber, find_project
from annotation.models import Judgement, Project, QualityReport, QualityUnit
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


class SomeAtATime(LimitOffsetPagination):
    default_limit = 100
    max_limit = 500


class ReportList(generics.ListAPIView):
    """A list of the report, some at a time; the page of the project shows its beginning."""

    pagination_class = SomeAtATime
    queryset = Judgement.objects.none()  # for the types of the address alone

    def report(self) -> tuple[Project, dict[str, Any]]:
        project = find_project(self.request, self.kwargs["pk"], Action.BROWSE)
        return project, quality_pages.read_report(project)


class Slips(ReportList):
    """Judgements that look flipped, least likely first: a thousand at most, and none taken back since."""

    serializer_class = serializers.SlipSerializer

    def get_queryset(self) -> Any:
        project, report = self.report()
        return quality_pages.slips(project, report["fits"], limit=None)


class Disputed(ReportList):
    """What least is settled about, by the entropy of what may be right: a thousand comparisons at most."""

    serializer_class = serializers.DisputedSerializer

    def get_queryset(self) -> Any:
        project, report = self.report()
        return quality_pages.disputed(project, report["fits"], limit=None)


class Consensus(generics.ListAPIView):
    """What is probably right about every comparison that was judged, and how sure that is."""

    serializer_class = serializers.ConsensusSerializer
    pagination_class = ByNumber
    queryset = QualityUnit.objects.none()

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        project = find_project(request, self.kwargs["pk"], Action.BROWSE)
        units = self.paginate_queryset(QualityUnit.objects.filter(project=project)) or []
        report = QualityReport.objects.filter(project=project).values_list("fits", flat=True).first()
        rows = quality_pages.consensus_rows(units, report)
        return self.get_paginated_response(self.get_serializer(rows, many=True).data)


class AnnotatorPairs(ReportList):
    """Kappa of each two annotators for each question, those who share most first."""

    serializer_class = serializers.AnnotatorPairSerializer

    def get_queryset(self) -> Any:
        return quality_pages.pair_rows(self.report()[1])


urlpatterns = [
    path("projects/<int:pk>/quality/", quality, name="project-quality"),
    path("projects/<int:pk>/quality/annotators/", annotators, name="project-annotators"),
    path("projects/<int:pk>/quality/leaderboard/", leaderboard, name="project-leaderboard"),
    path("projects/<int:pk>/quality/slips/", Slips.as_view(), name="project-slips"),
    path("projects/<int:pk>/quality/disputed/", Disputed.as_view(), name="project-disputed"),
    path("projects/<int:pk>/quality/consensus/", Consensus.as_view(), name="project-consensus"),
    path("projects/<int:pk>/quality/pairs/", AnnotatorPairs.as_view(), name="project-annotator-pairs"),
]
