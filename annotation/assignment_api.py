"""The HTTP API of assignment: settings, groups, members' limits, consent, known answers, review, skipped.

One service call each; under /api/v1/ like `annotation.api`.
"""

from typing import Any

from django.urls import path
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import generics, status
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import assignment_serializers as serializers
from annotation import services
from annotation.api import AFTER, HTML, ByNumber, find_project, lease_behind, present_lease, user_of
from annotation.errors import NotFound
from annotation.models import AnnotatorGroup, BulkChange, GoldAnswer, Lease, Project, SetAside
from annotation.permissions import Action
from annotation.serializers import PresentedLeaseSerializer


@extend_schema(methods=["GET"], responses=serializers.AssignmentSerializer)
@extend_schema(
    methods=["PATCH"], request=serializers.AssignmentSerializer, responses=serializers.AssignmentSerializer
)
@api_view(["GET", "PATCH"])
def assignment(request: Request, pk: int) -> Response:
    """How the project's work is handed out; PATCH changes what is named."""
    found = find_project(request, pk, Action.EDIT)
    if request.method == "PATCH":
        values = _checked(serializers.AssignmentSerializer(data=request.data, partial=True))
        found = services.update_assignment(project=found, **values)
    return Response(serializers.AssignmentSerializer(found).data)


def _checked(serializer: Any) -> dict[str, Any]:
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


@extend_schema(responses=serializers.StandingSerializer)
@api_view(["GET"])
def standing(request: Request, pk: int) -> Response:
    """What this user may still do in the project, and what stands in the way."""
    found = find_project(request, pk, Action.SEE)
    return Response(services.standing(project=found, user=user_of(request), now=timezone.now()))


@extend_schema(
    methods=["GET"], operation_id="annotator_groups_list", responses=serializers.GroupSerializer(many=True)
)
@extend_schema(
    methods=["POST"], request=serializers.GroupSerializer, responses={201: serializers.GroupSerializer}
)
@api_view(["GET", "POST"])
def groups(request: Request, pk: int) -> Response:
    """The groups of annotators; POST makes one."""
    found = find_project(request, pk, Action.PEOPLE)
    if request.method == "POST":
        values = _checked(serializers.GroupSerializer(data=request.data))
        group = services.save_group(project=found, **values)
        return Response(serializers.GroupSerializer(group).data, status=status.HTTP_201_CREATED)
    return Response(serializers.GroupSerializer(found.annotator_groups.all(), many=True).data)


@extend_schema(methods=["PATCH"], request=serializers.GroupSerializer, responses=serializers.GroupSerializer)
@extend_schema(methods=["DELETE"], responses={204: None})
@api_view(["PATCH", "DELETE"])
def group(request: Request, pk: int, group: int) -> Response:
    """Change a group of annotators, or dissolve it: its members stay, and slots that waited for it are open
    to everybody."""
    found = find_project(request, pk, Action.PEOPLE)
    known = _group(found, group)
    if request.method == "DELETE":
        services.remove_group(project=found, group=known)
        return Response(status=status.HTTP_204_NO_CONTENT)
    values = _checked(serializers.GroupSerializer(data=request.data, partial=True))
    before = {name: getattr(known, name) for name in ("name", "attributes", "reserved_labels")}
    changed = services.save_group(project=found, group=known, **before | values)
    return Response(serializers.GroupSerializer(changed).data)


def _group(project: Project, pk: int) -> AnnotatorGroup:
    known = project.annotator_groups.filter(pk=pk).first()
    if known is None:
        raise NotFound(_("There is no such group in this project."))
    return known


@extend_schema(methods=["GET"], responses=serializers.MemberStateSerializer)
@extend_schema(
    methods=["PATCH"], request=serializers.MemberChangeSerializer, responses=serializers.MemberStateSerializer
)
@extend_schema(methods=["DELETE"], responses={204: None})
@api_view(["GET", "PATCH", "DELETE"])
def member(request: Request, pk: int, user: int) -> Response:
    """One member's group, limits and state; PATCH changes what is named, DELETE takes them out."""
    found = find_project(request, pk, Action.PEOPLE)
    if request.method == "DELETE":
        member = services.member_of(found, user)
        services.remove_member(project=found, user=member.user, by=user_of(request))
        return Response(status=status.HTTP_204_NO_CONTENT)
    if request.method == "PATCH":
        values = _checked(serializers.MemberChangeSerializer(data=request.data, partial=True))
        if values.get("group") is not None:
            values["group"] = _group(found, values["group"])
        services.update_member(project=found, user=user, now=timezone.now(), **values)
    return _member(found, user)


def _member(project: Project, user: int) -> Response:
    return Response(serializers.MemberStateSerializer(services.member_of(project, user)).data)


@extend_schema(request=serializers.PauseSerializer, responses=serializers.MemberStateSerializer)
@api_view(["POST"])
def pause(request: Request, pk: int, user: int) -> Response:
    """Hand no more work to a member; what they hold goes back to others."""
    found = find_project(request, pk, Action.PEOPLE)
    values = _checked(serializers.PauseSerializer(data=request.data))
    services.pause_member(project=found, user=user, now=timezone.now(), **values)
    return _member(found, user)


@extend_schema(request=None, responses=serializers.MemberStateSerializer)
@api_view(["POST"])
def resume(request: Request, pk: int, user: int) -> Response:
    """Let a paused member work again."""
    found = find_project(request, pk, Action.PEOPLE)
    services.resume_member(project=found, user=user)
    return _member(found, user)


@extend_schema(request=serializers.SetAsideRequestSerializer, responses={201: serializers.SetAsideSerializer})
@api_view(["POST"])
def set_aside(request: Request, pk: int, user: int) -> Response:
    """Let a member's judgements no longer count and open their slots for others; nothing is deleted."""
    found = find_project(request, pk, Action.PEOPLE)
    values = _checked(serializers.SetAsideRequestSerializer(data=request.data))
    record = services.set_aside(project=found, user=user, by=user_of(request), now=timezone.now(), **values)
    return Response(serializers.SetAsideSerializer(record).data, status=status.HTTP_201_CREATED)


@extend_schema(request=None, responses=serializers.SetAsideSerializer)
@api_view(["POST"])
def restore(request: Request, pk: int, record: int) -> Response:
    """Let judgements that were set aside count again."""
    found = find_project(request, pk, Action.PEOPLE)
    known = SetAside.objects.filter(project=found, pk=record).first()
    if known is None:
        raise NotFound(_("There is nothing of this number set aside in this project."))
    restored = services.restore(record=known, by=user_of(request), now=timezone.now())
    return Response(serializers.SetAsideSerializer(restored).data)


@extend_schema(methods=["GET"], responses={200: serializers.ConsentTextSerializer, 204: None})
@extend_schema(
    methods=["PUT"],
    request=serializers.ConsentTextRequestSerializer,
    responses={200: serializers.ConsentTextSerializer, 204: None},
)
@api_view(["GET", "PUT"])
def consent_text(request: Request, pk: int) -> Response:
    """The text to agree to before the first task; PUT publishes a new version, an empty text asks nothing.
    204 where nothing is asked."""
    found = find_project(request, pk, Action.EDIT if request.method == "PUT" else Action.SEE)
    if request.method == "PUT":
        values = _checked(serializers.ConsentTextRequestSerializer(data=request.data))
        text = services.publish_consent_text(project=found, by=user_of(request), **values)
    else:
        text = services.consent_text(found)
    if text is None:
        return Response(status=status.HTTP_204_NO_CONTENT)
    return Response(serializers.ConsentTextSerializer(text).data)


@extend_schema(request=serializers.ConsentSerializer, responses={201: serializers.ConsentSerializer})
@api_view(["POST"])
def consent(request: Request, pk: int) -> Response:
    """Agree to the version of the text that one has read."""
    found = find_project(request, pk, Action.JUDGE)
    version = _checked(serializers.ConsentSerializer(data=request.data))["version"]
    services.give_consent(project=found, user=user_of(request), version=version, now=timezone.now())
    return Response({"version": version}, status=status.HTTP_201_CREATED)


@extend_schema(methods=["POST"], request=serializers.WithdrawSerializer, responses=serializers.GoneSerializer)
@extend_schema(methods=["DELETE"], responses={204: None})
@api_view(["POST", "DELETE"])
def withdrawal(request: Request, pk: int) -> Response:
    """Withdraw from a project, and keep or delete what one said there; DELETE takes part again."""
    found, user = find_project(request, pk, Action.JUDGE), user_of(request)
    if request.method == "DELETE":
        services.take_part_again(project=found, user=user)
        return Response(status=status.HTTP_204_NO_CONTENT)
    wish = _checked(serializers.WithdrawSerializer(data=request.data))["judgements"]
    services.withdraw(project=found, user=user, now=timezone.now())
    if wish == "keep":
        return Response({"deleted": 0, "unfinished": False})
    change = services.delete_judgements(project=found, user=user)
    return Response({"deleted": change.done, "unfinished": change.status in change.UNFINISHED})


@extend_schema(request=None, responses=serializers.MemberStateSerializer)
@api_view(["POST"])
def hand_over(request: Request, pk: int, user: int) -> Response:
    """Make this member an owner in one's own place; whoever asks stays as a manager."""
    found = find_project(request, pk, Action.OWN)
    services.hand_over(project=found, to=services.member_of(found, user).user, by=user_of(request))
    return _member(found, user)


class GoldAnswers(generics.ListAPIView):
    """The known answers of a project; POST sets one, or replaces it."""

    serializer_class = serializers.GoldAnswerSerializer
    pagination_class = ByNumber
    queryset = GoldAnswer.objects.none()

    def get_queryset(self) -> Any:
        found = find_project(self.request, self.kwargs["pk"], Action.EDIT)
        return GoldAnswer.objects.filter(project=found)

    @extend_schema(
        request=serializers.GoldAnswerSerializer, responses={201: serializers.GoldAnswerSerializer}
    )
    def post(self, request: Request, pk: int) -> Response:
        found = find_project(request, pk, Action.EDIT)
        values = _checked(serializers.GoldAnswerSerializer(data=request.data))
        answers = dict(values.pop("answer"))
        stored = services.set_gold_answer(project=found, by=user_of(request), answers=answers, **values)
        return Response(serializers.GoldAnswerSerializer(stored).data, status=status.HTTP_201_CREATED)


@extend_schema(responses={204: None})
@api_view(["DELETE"])
def gold_answer(request: Request, pk: int, answer: int) -> Response:
    """Forget a known answer; what people answered to it stays."""
    found = find_project(request, pk, Action.EDIT)
    services.remove_gold_answer(project=found, gold_answer_id=answer)
    return Response(status=status.HTTP_204_NO_CONTENT)


@extend_schema(request=serializers.PrioritySerializer, responses=serializers.PriorityReplySerializer)
@api_view(["POST"])
def priorities(request: Request, pk: int) -> Response:
    """Set the priority of comparisons; higher comes first where the project's strategy says so."""
    found = find_project(request, pk, Action.EDIT)
    values = _checked(serializers.PrioritySerializer(data=request.data))
    wanted = dict.fromkeys(values["comparisons"], values["priority"])
    return Response({"changed": services.set_priorities(project=found, priorities=wanted)})


@extend_schema(request=serializers.OverlapSerializer, responses=serializers.PriorityReplySerializer)
@api_view(["POST"])
def overlap(request: Request, pk: int) -> Response:
    """Have comparisons judged by more people, or by fewer."""
    found = find_project(request, pk, Action.EDIT)
    values = _checked(serializers.OverlapSerializer(data=request.data))
    return Response({"changed": services.set_overlap(project=found, **values)})


@extend_schema(request=None, parameters=[AFTER, HTML], responses={200: PresentedLeaseSerializer, 204: None})
@api_view(["POST"])
def next_review(request: Request, pk: int) -> Response:
    """Lease the next comparison whose judges disagree, with what they said; the answer decides. 204 when
    nothing waits."""
    found = find_project(request, pk, Action.REVIEW)
    after = lease_behind(request)
    lease = services.next_review(project=found, user=user_of(request), after=after, now=timezone.now())
    if lease is None:
        return Response(status=status.HTTP_204_NO_CONTENT)
    return Response(present_lease(request, lease))


class Changes(generics.ListAPIView):
    """Changes to many rows of the project, oldest first, and how far each is."""

    serializer_class = serializers.BulkChangeSerializer
    pagination_class = ByNumber
    queryset = BulkChange.objects.none()

    def get_queryset(self) -> Any:
        found = find_project(self.request, self.kwargs["pk"], Action.EDIT)
        return BulkChange.objects.filter(project=found)


class Skipped(generics.ListAPIView):
    """What people skipped, and why."""

    serializer_class = serializers.SkippedSerializer
    pagination_class = ByNumber
    queryset = Lease.objects.none()

    def get_queryset(self) -> Any:
        found = find_project(self.request, self.kwargs["pk"], Action.PEOPLE)
        skipped = Lease.objects.filter(comparison__project=found, state=Lease.State.SKIPPED)
        return skipped.select_related("annotator")


urlpatterns = [
    path("projects/<int:pk>/assignment/", assignment, name="project-assignment"),
    path("projects/<int:pk>/standing/", standing, name="project-standing"),
    path("projects/<int:pk>/annotator-groups/", groups, name="annotator-groups"),
    path("projects/<int:pk>/annotator-groups/<int:group>/", group, name="annotator-group"),
    path("projects/<int:pk>/members/<int:user>/", member, name="project-member"),
    path("projects/<int:pk>/members/<int:user>/pause/", pause, name="member-pause"),
    path("projects/<int:pk>/members/<int:user>/resume/", resume, name="member-resume"),
    path("projects/<int:pk>/members/<int:user>/set-aside/", set_aside, name="member-set-aside"),
    path("projects/<int:pk>/set-aside/<int:record>/restore/", restore, name="set-aside-restore"),
    path("projects/<int:pk>/consent-text/", consent_text, name="consent-text"),
    path("projects/<int:pk>/consent/", consent, name="consent"),
    path("projects/<int:pk>/withdrawal/", withdrawal, name="withdrawal"),
    path("projects/<int:pk>/members/<int:user>/hand-over/", hand_over, name="member-hand-over"),
    path("projects/<int:pk>/gold/", GoldAnswers.as_view(), name="gold-answers"),
    path("projects/<int:pk>/gold/<int:answer>/", gold_answer, name="gold-answer"),
    path("projects/<int:pk>/priorities/", priorities, name="project-priorities"),
    path("projects/<int:pk>/overlap/", overlap, name="project-overlap"),
    path("projects/<int:pk>/review/next/", next_review, name="review-next"),
    path("projects/<int:pk>/changes/", Changes.as_view(), name="project-changes"),
    path("projects/<int:pk>/skipped/", Skipped.as_view(), name="project-skipped"),
]
