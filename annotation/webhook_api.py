"""Webhooks over the API."""

from typing import Any

from django.db.models import QuerySet
from django.urls import path
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers, status
from rest_framework.decorators import api_view
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import services
from annotation.data_api import user_of
from annotation.models import Project, Webhook, WebhookDelivery
from annotation.permissions import Action, find
from annotation.serializers import StrictSerializer

EVENTS = [event for event in Webhook.Event.values if event != Webhook.Event.TEST]


class WebhookSerializer(StrictSerializer):
    id = serializers.IntegerField(read_only=True)
    url = serializers.CharField(max_length=500)
    events = serializers.ListField(child=serializers.ChoiceField(EVENTS), min_length=1)
    is_active = serializers.BooleanField(required=False, default=True)
    secret = serializers.CharField(read_only=True, help_text="signs the messages: HMAC-SHA256")
    created_at = serializers.DateTimeField(read_only=True)


class WebhookChangeSerializer(StrictSerializer):
    url = serializers.CharField(max_length=500, required=False)
    events = serializers.ListField(child=serializers.ChoiceField(EVENTS), min_length=1, required=False)
    is_active = serializers.BooleanField(required=False)


class DeliverySerializer(serializers.ModelSerializer):
    class Meta:
        model = WebhookDelivery
        fields = [
            "id",
            "event",
            "payload",
            "status",
            "attempts",
            "next_at",
            "answer",
            "created_at",
            "delivered_at",
        ]


class Webhooks(APIView):
    """A project's webhooks."""

    @extend_schema(responses=WebhookSerializer(many=True))
    def get(self, request: Request, pk: int) -> Response:
        project = find(Project.objects.all(), user_of(request), Action.EDIT, pk=pk)
        return Response(WebhookSerializer(project.webhooks.order_by("pk"), many=True).data)

    @extend_schema(request=WebhookSerializer, responses={201: WebhookSerializer})
    def post(self, request: Request, pk: int) -> Response:
        """Tell an address about events from now on."""
        project = find(Project.objects.all(), user_of(request), Action.EDIT, pk=pk)
        serializer = WebhookSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        values = serializer.validated_data
        added = services.add_webhook(
            project=project, by=user_of(request), url=values["url"], events=values["events"]
        )
        if not values["is_active"]:
            added = services.update_webhook(webhook=added, is_active=False)
        return Response(WebhookSerializer(added).data, status=status.HTTP_201_CREATED)


class OneWebhook(APIView):
    @extend_schema(request=WebhookChangeSerializer, responses=WebhookSerializer)
    def patch(self, request: Request, pk: int) -> Response:
        """Change where, about what, or whether messages are sent."""
        webhook = find(Webhook.objects.all(), user_of(request), Action.EDIT, pk=pk)
        serializer = WebhookChangeSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        changed = services.update_webhook(webhook=webhook, **serializer.validated_data)
        return Response(WebhookSerializer(changed).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, pk: int) -> Response:
        """Forget it and the log of its messages."""
        find(Webhook.objects.all(), user_of(request), Action.EDIT, pk=pk).delete()
        return Response(status=status.HTTP_204_NO_CONTENT)


@extend_schema(request=None, responses=WebhookSerializer)
@api_view(["POST"])
def webhook_rotate(request: Request, pk: int) -> Response:
    """A new secret; for a day messages carry signatures of both."""
    webhook = find(Webhook.objects.all(), user_of(request), Action.EDIT, pk=pk)
    return Response(WebhookSerializer(services.rotate_secret(webhook=webhook, now=timezone.now())).data)


class NewestFirst(CursorPagination):
    ordering = "-pk"


class Deliveries(generics.ListAPIView):
    """What a webhook was told, newest first."""

    serializer_class = DeliverySerializer
    pagination_class = NewestFirst

    def get_queryset(self) -> QuerySet[WebhookDelivery]:
        if getattr(self, "swagger_fake_view", False):
            return WebhookDelivery.objects.none()
        webhook: Any = find(Webhook.objects.all(), user_of(self.request), Action.EDIT, pk=self.kwargs["pk"])
        return WebhookDelivery.objects.filter(webhook=webhook)


urlpatterns = [
    path("projects/<int:pk>/webhooks/", Webhooks.as_view(), name="project-webhooks"),
    path("webhooks/<int:pk>/", OneWebhook.as_view(), name="webhook-detail"),
    path("webhooks/<int:pk>/rotate/", webhook_rotate, name="webhook-rotate"),
    path("webhooks/<int:pk>/deliveries/", Deliveries.as_view(), name="webhook-deliveries"),
]
