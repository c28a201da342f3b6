"""The HTTP API of projects, imports, judging and exports, under /api/v1/. One service call each."""

import uuid
from typing import Any

from django.core.files.storage import default_storage
from django.db.models import QuerySet
from django.http import FileResponse, HttpResponse
from django.urls import path
from django.utils import timezone
from django.utils.translation import gettext
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, status
from rest_framework.decorators import api_view, parser_classes, throttle_classes
from rest_framework.pagination import CursorPagination
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import serializers, services
from annotation.browsing import audit_of, members_of
from annotation.errors import Conflict, Invalid, NotFound
from annotation.feedback import render_feedback
from annotation.models import (
    AuditEntry,
    ExportJob,
    ImportJob,
    Invitation,
    Lease,
    Media,
    Project,
    ProjectQuerySet,
    User,
)
from annotation.permissions import Action, find
from annotation.throttling import JudgingThrottle

REJECTED_AT_ONCE = 1000
AFTER = OpenApiParameter("after", OpenApiTypes.UUID, description="a lease in hand: give the one behind it")
NEXT = OpenApiParameter(
    "next", OpenApiTypes.INT, enum=[1], description="the reply carries the next comparison"
)
AFTER_LINE = OpenApiParameter("after_line", OpenApiTypes.INT, description="rejected rows behind it")
HTML = OpenApiParameter("html", OpenApiTypes.INT, enum=[1], description="texts also as safe HTML")


def user_of(request: Request) -> User:
    """Who asks. The permission class has refused everybody who did not say."""
    assert isinstance(request.user, User)
    return request.user


def find_project(request: Request, pk: int, action: Action) -> Project:
    """Outsiders get a 404, members without the right a 403."""
    return find(Project.objects.all(), user_of(request), action, pk=pk)


def lease_behind(request: Request) -> uuid.UUID | None:
    if (value := request.query_params.get("after")) is None:
        return None
    try:
        return uuid.UUID(value)
    except ValueError as error:
        raise Invalid({"after": gettext("%(value)r is not the id of a lease.") % {"value": value}}) from error


def present_lease(request: Request, lease: Lease) -> dict[str, Any]:
    return services.present(lease, html=request.query_params.get("html") == "1")


@extend_schema(
    request=None, parameters=[AFTER, HTML], responses={200: serializers.PresentedLeaseSerializer, 204: None}
)
@api_view(["POST"])
@throttle_classes([JudgingThrottle])
def next_comparison(request: Request, pk: int) -> Response:
    """Lease the next comparison for this user; 204 only when nothing is left for them."""
    behind = lease_behind(request)
    after = services.lease_of(lease_id=behind, annotator=user_of(request)) if behind else None
    found = Project(pk=pk)  # the service locks the membership, which says whether it exists for this person
    lease = services.next_lease(project=found, user=user_of(request), after=after, now=timezone.now())
    if lease is None:
        return Response(status=status.HTTP_204_NO_CONTENT)
    return Response(present_lease(request, lease))


@extend_schema(
    request=serializers.AnswerSerializer,
    parameters=[NEXT, AFTER, HTML],
    responses={201: serializers.JudgementReplySerializer},
)
@api_view(["POST"])
@throttle_classes([JudgingThrottle])
def judgement(request: Request, lease: uuid.UUID) -> Response:
    """Store the answer to a leased comparison, exactly once."""
    answer = serializers.read_answer(request.data)
    stored, following = services.submit_judgement(
        lease_id=lease,
        annotator=user_of(request),
        now=timezone.now(),
        want_next=request.query_params.get("next") == "1",
        after=lease_behind(request),
        **answer,
    )
    reply = serializers.judgement_reply(stored, present_lease(request, following) if following else None)
    if "feedback" in reply and request.query_params.get("html") == "1":
        reply["feedback"]["html"] = render_feedback(reply["feedback"])
    return Response(reply, status=status.HTTP_201_CREATED)


@extend_schema(request=None, responses=serializers.LeaseStateSerializer)
@api_view(["POST"])
@throttle_classes([JudgingThrottle])
def renew(request: Request, lease: uuid.UUID) -> Response:
    """Keep an open comparison for another full term."""
    renewed = services.renew_lease(lease_id=lease, annotator=user_of(request), now=timezone.now())
    return Response(serializers.LeaseStateSerializer(renewed).data)


@extend_schema(request=serializers.SkipSerializer, responses=serializers.LeaseStateSerializer)
@api_view(["POST"])
@throttle_classes([JudgingThrottle])
def skip(request: Request, lease: uuid.UUID) -> Response:
    """Put a comparison back for others; it does not come to this person again."""
    serializer = serializers.SkipSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    reason, now = serializer.validated_data["reason"], timezone.now()
    skipped = services.skip_lease(lease_id=lease, annotator=user_of(request), reason=reason, now=now)
    return Response(serializers.LeaseStateSerializer(skipped).data)


@extend_schema(request=None, parameters=[HTML], responses=serializers.PresentedLeaseSerializer)
@api_view(["POST"])
@throttle_classes([JudgingThrottle])
def undo(request: Request, pk: int) -> Response:
    """Take a judgement back, once; the same comparison comes back in the same order."""
    lease = services.undo_judgement(judgement_id=pk, annotator=user_of(request), now=timezone.now())
    return Response(present_lease(request, lease))


@extend_schema(responses=serializers.HistorySerializer(many=True))
@api_view(["GET"])
def history(request: Request, pk: int) -> Response:
    """One's own last twenty answers, newest first. To change one, undo it and answer the lease that comes."""
    project = find_project(request, pk, Action.JUDGE)
    return Response(services.history(project=project, user=user_of(request)))


class ByNumber(CursorPagination):
    ordering = "pk"


class Newest(CursorPagination):
    ordering = ("-at", "-pk")


class Projects(generics.ListAPIView):
    """The projects of this user; POST creates one from a task template."""

    serializer_class = serializers.ProjectSerializer
    pagination_class = ByNumber

    def get_queryset(self) -> ProjectQuerySet:
        return Project.objects.visible_to(user_of(self.request))

    @extend_schema(request=serializers.ProjectSerializer, responses={201: serializers.ProjectSerializer})
    def post(self, request: Request) -> Response:
        serializer = serializers.ProjectSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        created = services.create_project(by=user_of(request), **serializer.validated_data)
        return Response(serializers.ProjectSerializer(created).data, status=status.HTTP_201_CREATED)


@extend_schema(methods=["GET"], responses=serializers.ProjectSerializer)
@extend_schema(
    methods=["PATCH"], request=serializers.ProjectChangesSerializer, responses=serializers.ProjectSerializer
)
@api_view(["GET", "PATCH"])
def project(request: Request, pk: int) -> Response:
    """One project of this user. PATCH changes its settings; a changed template is a new version."""
    found = find_project(request, pk, Action.SEE if request.method == "GET" else Action.EDIT)
    if request.method == "PATCH":
        serializer = serializers.ProjectChangesSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        found = services.update_project(project=found, **serializer.validated_data)
    return Response(serializers.ProjectSerializer(found).data)


@extend_schema(responses=serializers.TemplateVersionSerializer(many=True))
@api_view(["GET"])
def template_versions(request: Request, pk: int) -> Response:
    """Every task template that the project has had; a judgement names its version."""
    versions = find_project(request, pk, Action.SEE).template_versions.order_by("version")
    return Response(serializers.TemplateVersionSerializer(versions, many=True).data)


@extend_schema(methods=["GET"], responses=serializers.MemberSerializer(many=True))
@extend_schema(
    methods=["POST"], request=serializers.MemberSerializer, responses={201: serializers.MemberSerializer}
)
@api_view(["GET", "POST"])
def members(request: Request, pk: int) -> Response:
    """Who belongs to the project. POST gives a user a role in it, or changes it."""
    found = find_project(request, pk, Action.PEOPLE)
    if request.method == "GET":
        return Response(serializers.MemberSerializer(members_of(found), many=True).data)
    serializer = serializers.MemberSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    username, role = serializer.validated_data["user"]["username"], serializer.validated_data["role"]
    member = services.add_member(project=found, username=username, role=role, by=user_of(request))
    return Response(serializers.MemberSerializer(member).data, status=status.HTTP_201_CREATED)


@extend_schema(methods=["GET"], responses=serializers.InvitationSerializer(many=True))
@extend_schema(
    methods=["POST"],
    request=serializers.InvitationSerializer,
    responses={201: serializers.InvitationSerializer},
)
@api_view(["GET", "POST"])
def invitations(request: Request, pk: int) -> Response:
    """Invitations that still work. POST makes one; its `link` is in this reply only."""
    found, now = find_project(request, pk, Action.PEOPLE), timezone.now()
    if request.method == "GET":
        standing = found.invitations.standing(now=now).order_by("pk")
        return Response(serializers.InvitationSerializer(standing, many=True).data)
    serializer = serializers.InvitationSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    made, secret = services.invite(project=found, by=user_of(request), now=now, **serializer.validated_data)
    link = services.invitation_link(secret=secret, base_url=request.build_absolute_uri("/"))
    reply = serializers.InvitationSerializer(made, context={"link": link}).data
    return Response(reply, status=status.HTTP_201_CREATED)


@extend_schema(responses={204: None})
@api_view(["DELETE"])
def invitation(request: Request, pk: int) -> Response:
    """Take an invitation back."""
    found = find(Invitation.objects.all(), user_of(request), Action.PEOPLE, pk=pk)
    services.revoke_invitation(invitation=found)
    return Response(status=status.HTTP_204_NO_CONTENT)


class Audit(generics.ListAPIView):
    """What was changed in the project, by whom and when, newest first."""

    serializer_class = serializers.AuditEntrySerializer
    pagination_class = Newest

    @extend_schema(parameters=[serializers.AuditFilterSerializer])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)

    def get_queryset(self) -> QuerySet[AuditEntry]:
        if getattr(self, "swagger_fake_view", False):
            return AuditEntry.objects.none()
        found = find_project(self.request, self.kwargs["pk"], Action.OWN)
        chosen = serializers.AuditFilterSerializer(data=self.request.query_params)
        chosen.is_valid(raise_exception=True)
        return audit_of(found, **chosen.validated_data)


@extend_schema(
    request={"multipart/form-data": serializers.ImportRequestSerializer},
    responses={202: serializers.ImportJobSerializer},
)
@api_view(["POST"])
@parser_classes([MultiPartParser])
def imports(request: Request, pk: int) -> Response:
    """Upload a file whose rows become comparisons; a worker reads it."""
    found = find_project(request, pk, Action.EDIT)
    serializer = serializers.ImportRequestSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    job = services.start_import(project=found, by=user_of(request), **serializer.validated_data)
    return Response(_import_job(request, job), status=status.HTTP_202_ACCEPTED)


@extend_schema(
    parameters=[AFTER_LINE],
    responses=serializers.ImportJobSerializer,
)
@api_view(["GET"])
def import_job(request: Request, pk: int) -> Response:
    """How far an import is, and each rejected row with its reason."""
    return Response(_import_job(request, find(ImportJob.objects.all(), user_of(request), Action.EDIT, pk=pk)))


def _import_job(request: Request, job: ImportJob) -> dict[str, Any]:
    after = request.query_params.get("after_line", "0")
    if not after.isdecimal() or len(after) > 9:
        raise Invalid({"after_line": gettext("%(value)r is not the number of a line.") % {"value": after}})
    rows = job.rejected_rows.filter(line__gt=int(after)).order_by("line", "pk")[:REJECTED_AT_ONCE]
    return serializers.ImportJobSerializer(job, context={"rejected_rows": rows}).data


@extend_schema(request=serializers.ExportRequestSerializer, responses={202: serializers.ExportJobSerializer})
@api_view(["POST"])
def exports(request: Request, pk: int) -> Response:
    """Have a worker write the project's groups into a file."""
    found = find_project(request, pk, Action.EXPORT)
    serializer = serializers.ExportRequestSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    job = services.start_export(project=found, by=user_of(request), **serializer.validated_data)
    return Response(serializers.ExportJobSerializer(job).data, status=status.HTTP_202_ACCEPTED)


def _export(request: Request, pk: int) -> ExportJob:
    return find(ExportJob.objects.all(), user_of(request), Action.EXPORT, pk=pk)


@extend_schema(responses=serializers.ExportJobSerializer)
@api_view(["GET"])
def export_job(request: Request, pk: int) -> Response:
    """How far an export is, and where its file lies when it is done."""
    return Response(serializers.ExportJobSerializer(_export(request, pk)).data)


@extend_schema(responses={(200, "application/octet-stream"): OpenApiTypes.BINARY})
@api_view(["GET"])
def export_download(request: Request, pk: int) -> FileResponse:
    """The finished file."""
    job = _export(request, pk)
    if job.status != ExportJob.Status.DONE:
        raise Conflict(
            gettext("The export is %(status)s; its file is there when it is done.")
            % {"status": job.get_status_display()}
        )
    return FileResponse(default_storage.open(job.storage_key), as_attachment=True, filename=job.file_name)


@extend_schema(responses={(200, "image/png"): OpenApiTypes.BINARY})
@api_view(["GET"])
@throttle_classes([JudgingThrottle])
def media(request: Request, lease: uuid.UUID, position: int) -> HttpResponse:
    """An image of a comparison in this person's hands. Nothing in the reply tells where else it occurs."""
    return _picture(services.lease_image(lease_id=lease, position=position, annotator=user_of(request)))


@extend_schema(responses={(200, "image/png"): OpenApiTypes.BINARY})
@api_view(["GET"])
@throttle_classes([JudgingThrottle])
def prompt_media(request: Request, lease: uuid.UUID, number: int) -> HttpResponse:
    """A picture of the prompt of a comparison in this person's hands, counted from 0."""
    image = services.lease_prompt_image(lease_id=lease, number=number, annotator=user_of(request))
    return _picture(image)


def _picture(image: Media | None) -> HttpResponse:
    if image is None:
        raise NotFound(gettext("There is no such image."))
    with default_storage.open(image.storage_key, "rb") as file:
        response = HttpResponse(file.read(), content_type="image/png")
    response["Cache-Control"] = "private, max-age=1200"  # under an address that only this lease has
    response["X-Content-Type-Options"] = "nosniff"
    response["Content-Disposition"] = "inline"
    return response


urlpatterns = [
    path("projects/", Projects.as_view(), name="project-list"),
    path("projects/<int:pk>/", project, name="project-detail"),
    path("projects/<int:pk>/template-versions/", template_versions, name="project-template-versions"),
    path("projects/<int:pk>/members/", members, name="project-members"),
    path("projects/<int:pk>/invitations/", invitations, name="project-invitations"),
    path("invitations/<int:pk>/", invitation, name="invitation-detail"),
    path("projects/<int:pk>/audit/", Audit.as_view(), name="project-audit"),
    path("projects/<int:pk>/imports/", imports, name="project-imports"),
    path("imports/<int:pk>/", import_job, name="import-detail"),
    path("projects/<int:pk>/exports/", exports, name="project-exports"),
    path("exports/<int:pk>/", export_job, name="export-detail"),
    path("exports/<int:pk>/download/", export_download, name="export-download"),
    path("leases/<uuid:lease>/media/<int:position>", media, name="lease-media"),
    path("leases/<uuid:lease>/prompt-media/<int:number>", prompt_media, name="lease-prompt-media"),
    path("projects/<int:pk>/next/", next_comparison, name="project-next"),
    path("projects/<int:pk>/history/", history, name="project-history"),
    path("leases/<uuid:lease>/judgement/", judgement, name="lease-judgement"),
    path("leases/<uuid:lease>/renew/", renew, name="lease-renew"),
    path("leases/<uuid:lease>/skip/", skip, name="lease-skip"),
    path("judgements/<int:pk>/undo/", undo, name="judgement-undo"),
]
