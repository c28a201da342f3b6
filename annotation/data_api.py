"""The API's look at comparisons and judgements, and changes by hand. One service call each."""

from typing import Any

from django.db.models import QuerySet
from django.urls import path
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, status
from rest_framework.decorators import api_view
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import data_serializers as shapes
from annotation import services
from annotation.browsing import candidates_in_order
from annotation.data_browsing import comparisons_of, judgements_of
from annotation.data_forms import DataFilterForm, JudgementFilterForm
from annotation.data_serializers import filters_of
from annotation.models import Comparison, Judgement, Lease, Project, User
from annotation.permissions import Action, find


def _parameters(form: type[DataFilterForm | JudgementFilterForm]) -> list[OpenApiParameter]:
    return [
        OpenApiParameter(
            name,
            OpenApiTypes.DATE if name in ("since", "until") else OpenApiTypes.STR,
            description=str(field.label),
            enum=[value for value, _ in getattr(field, "choices", ()) if value] or None,
        )
        for name, field in form.base_fields.items()
    ]


def user_of(request: Request) -> User:
    assert isinstance(request.user, User)
    return request.user


def _in_hand(user: User) -> set[int]:
    return set(Lease.objects.in_hands_of(user).values_list("comparison_id", flat=True))


class InOrder(CursorPagination):
    ordering = "rank"


class Newest(CursorPagination):
    ordering = "-pk"


class Comparisons(generics.ListAPIView):
    """A project's comparisons in the order in which they were added, filtered as on the page."""

    serializer_class = shapes.ComparisonSerializer
    pagination_class = InOrder

    @extend_schema(parameters=_parameters(DataFilterForm))
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)

    def get_queryset(self) -> QuerySet[Comparison]:
        if getattr(self, "swagger_fake_view", False):
            return Comparison.objects.none()
        project = find(Project.objects.all(), user_of(self.request), Action.BROWSE, pk=self.kwargs["pk"])
        rows = comparisons_of(project, filters_of(DataFilterForm, self.request.query_params))
        return rows.prefetch_related(candidates_in_order())

    def get_serializer_context(self) -> dict[str, Any]:
        fake = getattr(self, "swagger_fake_view", False)
        in_hand = set() if fake else _in_hand(user_of(self.request))
        return {**super().get_serializer_context(), "in_hand": in_hand}


class Judgements(generics.ListAPIView):
    """A project's judgements, newest first, filtered as on the page."""

    serializer_class = shapes.StoredJudgementSerializer
    pagination_class = Newest

    @extend_schema(parameters=_parameters(JudgementFilterForm))
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)

    def get_queryset(self) -> QuerySet[Judgement]:
        if getattr(self, "swagger_fake_view", False):
            return Judgement.objects.none()
        project = find(Project.objects.all(), user_of(self.request), Action.BROWSE, pk=self.kwargs["pk"])
        return judgements_of(project, filters_of(JudgementFilterForm, self.request.query_params))


class OneComparison(APIView):
    """One comparison, in canonical order."""

    @extend_schema(responses=shapes.ComparisonSerializer)
    def get(self, request: Request, pk: int) -> Response:
        return self._shown(request, find(Comparison.objects.all(), user_of(request), Action.BROWSE, pk=pk))

    @extend_schema(request=shapes.ComparisonEditSerializer, responses=shapes.ComparisonSerializer)
    def patch(self, request: Request, pk: int) -> Response:
        """Change prompt and texts, as long as nobody has judged them; or what it is used for."""
        comparison = find(Comparison.objects.all(), user_of(request), Action.EDIT, pk=pk)
        serializer = shapes.ComparisonEditSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return self._shown(
            request, services.edit_comparison(comparison=comparison, **serializer.validated_data)
        )

    @extend_schema(responses={204: None})
    def delete(self, request: Request, pk: int) -> Response:
        """Delete it with everything that was said about it."""
        comparison = find(Comparison.objects.all(), user_of(request), Action.EDIT, pk=pk)
        services.delete_comparison(comparison=comparison)
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _shown(self, request: Request, comparison: Comparison) -> Response:
        context = {"in_hand": _in_hand(user_of(request))}
        return Response(shapes.ComparisonSerializer(comparison, context=context).data)


class OneJudgement(APIView):
    """One judgement, in canonical indices."""

    @extend_schema(responses=shapes.StoredJudgementSerializer)
    def get(self, request: Request, pk: int) -> Response:
        rows = Judgement.objects.select_related("annotator")
        found = find(rows, user_of(request), Action.BROWSE, pk=pk)
        return Response(shapes.StoredJudgementSerializer(found).data)

    @extend_schema(request=shapes.CorrectionSerializer, responses=shapes.StoredJudgementSerializer)
    def patch(self, request: Request, pk: int) -> Response:
        """Put another answer in its place; what it said before and the reason are kept."""
        judgement = find(Judgement.objects.all(), user_of(request), Action.EDIT, pk=pk)
        serializer = shapes.CorrectionSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        corrected = services.correct_judgement(
            judgement=judgement, by=user_of(request), now=timezone.now(), **serializer.validated_data
        )
        return Response(shapes.StoredJudgementSerializer(corrected).data)


@extend_schema(request=shapes.ReasonSerializer, responses=shapes.StoredJudgementSerializer)
@api_view(["POST"])
def judgement_set_aside(request: Request, pk: int) -> Response:
    """Let it no longer count; its slot is open for others."""
    judgement = find(Judgement.objects.all(), user_of(request), Action.EDIT, pk=pk)
    serializer = shapes.ReasonSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    services.set_aside_judgement(
        judgement=judgement, by=user_of(request), now=timezone.now(), **serializer.validated_data
    )
    judgement.refresh_from_db()
    return Response(shapes.StoredJudgementSerializer(judgement).data)


@extend_schema(request=shapes.SuggestionsSerializer, responses={201: shapes.StoredSuggestionsSerializer})
@api_view(["POST"])
def suggestions(request: Request, pk: int) -> Response:
    """Store what a model says about comparisons; annotators see it if the project shows suggestions."""
    project = find(Project.objects.all(), user_of(request), Action.EDIT, pk=pk)
    serializer = shapes.SuggestionsSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    stored = services.add_suggestions(project=project, now=timezone.now(), **serializer.validated_data)
    return Response({"stored": stored}, status=status.HTTP_201_CREATED)


urlpatterns = [
    path("projects/<int:pk>/suggestions/", suggestions, name="project-suggestions"),
    path("projects/<int:pk>/comparisons/", Comparisons.as_view(), name="project-comparisons"),
    path("projects/<int:pk>/judgements/", Judgements.as_view(), name="project-judgements"),
    path("comparisons/<int:pk>/", OneComparison.as_view(), name="comparison-detail"),
    path("judgements/<int:pk>/", OneJudgement.as_view(), name="judgement-detail"),
    path("judgements/<int:pk>/set-aside/", judgement_set_aside, name="judgement-set-aside"),
]
