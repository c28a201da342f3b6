"""The HTTP API of projects, imports, judging and exports, under /api/v1/. One service call each."""

import uuid
from typing import Any

from django.urls import path
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import serializers, services
from annotation.errors import Invalid, NotAllowed, NotFound
from annotation.models import Lease, Member, Project

AFTER = OpenApiParameter("after", OpenApiTypes.UUID, description="a lease in hand: give the one behind it")
NEXT = OpenApiParameter(
    "next", OpenApiTypes.INT, enum=[1], description="the reply carries the next comparison"
)
HTML = OpenApiParameter("html", OpenApiTypes.INT, enum=[1], description="texts also as safe HTML")


def find_project(request: Request, pk: int, *, manage: bool = False) -> Project:
    """Outsiders get a 404, members without the right a 403."""
    project = Project.objects.visible_to(request.user).filter(pk=pk).first()
    if project is None:
        raise NotFound("There is no such project.")
    if manage and not project.members.filter(user=request.user, role=Member.Role.MANAGER).exists():
        raise NotAllowed("Only managers of the project may do this.")
    return project


def _after(request: Request) -> uuid.UUID | None:
    if (value := request.query_params.get("after")) is None:
        return None
    try:
        return uuid.UUID(value)
    except ValueError as error:
        raise Invalid({"after": f"{value!r} is not the id of a lease."}) from error


def _present(request: Request, lease: Lease) -> dict[str, Any]:
    return services.present(lease, html=request.query_params.get("html") == "1")


@extend_schema(
    request=None, parameters=[AFTER, HTML], responses={200: serializers.PresentedLeaseSerializer, 204: None}
)
@api_view(["POST"])
def next_comparison(request: Request, pk: int) -> Response:
    """Lease the next comparison for this user; 204 only when nothing is left for them."""
    behind = _after(request)
    after = services.lease_of(lease_id=behind, annotator=request.user) if behind else None
    # The service locks the membership, which says whether the project exists for this person.
    lease = services.next_lease(project=Project(pk=pk), user=request.user, after=after, now=timezone.now())
    if lease is None:
        return Response(status=status.HTTP_204_NO_CONTENT)
    return Response(_present(request, lease))


@extend_schema(
    request=serializers.AnswerSerializer,
    parameters=[NEXT, AFTER, HTML],
    responses={201: serializers.JudgementReplySerializer},
)
@api_view(["POST"])
def judgement(request: Request, lease: uuid.UUID) -> Response:
    """Store the answer to a leased comparison, exactly once."""
    serializer = serializers.AnswerSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    stored, following = services.submit_judgement(
        lease_id=lease,
        annotator=request.user,
        now=timezone.now(),
        want_next=request.query_params.get("next") == "1",
        after=_after(request),
        **serializer.validated_data,
    )
    reply = serializers.judgement_reply(stored, _present(request, following) if following else None)
    return Response(reply, status=status.HTTP_201_CREATED)


@extend_schema(request=None, responses=serializers.LeaseStateSerializer)
@api_view(["POST"])
def renew(request: Request, lease: uuid.UUID) -> Response:
    """Keep an open comparison for another full term."""
    renewed = services.renew_lease(lease_id=lease, annotator=request.user, now=timezone.now())
    return Response(serializers.LeaseStateSerializer(renewed).data)


@extend_schema(request=serializers.SkipSerializer, responses=serializers.LeaseStateSerializer)
@api_view(["POST"])
def skip(request: Request, lease: uuid.UUID) -> Response:
    """Put a comparison back for others; it does not come to this person again."""
    serializer = serializers.SkipSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    reason = serializer.validated_data["reason"]
    skipped = services.skip_lease(lease_id=lease, annotator=request.user, reason=reason, now=timezone.now())
    return Response(serializers.LeaseStateSerializer(skipped).data)


@extend_schema(request=None, parameters=[HTML], responses=serializers.PresentedLeaseSerializer)
@api_view(["POST"])
def undo(request: Request, pk: int) -> Response:
    """Take a judgement back, once; the same comparison comes back in the same order."""
    lease = services.undo_judgement(judgement_id=pk, annotator=request.user, now=timezone.now())
    return Response(_present(request, lease))


urlpatterns = [
    path("projects/<int:pk>/next/", next_comparison, name="project-next"),
    path("leases/<uuid:lease>/judgement/", judgement, name="lease-judgement"),
    path("leases/<uuid:lease>/renew/", renew, name="lease-renew"),
    path("leases/<uuid:lease>/skip/", skip, name="lease-skip"),
    path("judgements/<int:pk>/undo/", undo, name="judgement-undo"),
]
