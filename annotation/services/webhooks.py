"""Webhooks: signed messages about what happens in a project, sent again until they are accepted.

A message is a row, written in the transaction of what it tells about, so that neither comes without the
other. A light task sends what is due. The signature is `t=SECONDS,v1=HEX`, HEX being the HMAC-SHA256 of
`SECONDS.BODY` under the secret; a receiver compares it and refuses old times. The delivery's id is the same
in every attempt.
"""

import hashlib
import hmac
import json
import secrets
import time
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _
from kombu.exceptions import OperationalError

from annotation.errors import Invalid
from annotation.fetching import FetchRefused, allowed_address, check_url, post
from annotation.models import Comparison, Judgement, Lease, Project, User, Webhook, WebhookDelivery

MOST_WEBHOOKS: Final = 20
ATTEMPTS: Final = 12
FIRST_PAUSE: Final = timedelta(seconds=10)  # doubled with each attempt: all of them take some eleven hours
SECONDS: Final = 10.0  # that a receiver has
CLAIM: Final = timedelta(minutes=2)  # a delivery whose worker died is sent again after this
BOTH_SECRETS: Final = timedelta(days=1)
KEEP: Final = timedelta(days=30)
MOST_AT_ONCE: Final = 200
KNOWN_FOR: Final = 1.0  # seconds


@transaction.atomic
def add_webhook(*, project: Project, by: User, url: str, events: list[str]) -> Webhook:
    """An address to tell about these events. Its secret is made here, and shown to managers."""
    if project.webhooks.count() >= MOST_WEBHOOKS:
        raise Invalid({"url": _("A project has %s webhooks at most.") % MOST_WEBHOOKS})
    values = {"url": _checked_url(url), "events": _checked_events(events)}
    transaction.on_commit(_forget_listeners)
    return Webhook.objects.create(project=project, created_by=by, secret=secrets.token_hex(32), **values)


def update_webhook(
    *,
    webhook: Webhook,
    url: str | None = None,
    events: list[str] | None = None,
    is_active: bool | None = None,
) -> Webhook:
    """Change where, about what, or whether messages are sent."""
    if url is not None:
        webhook.url = _checked_url(url)
    if events is not None:
        webhook.events = _checked_events(events)
    if is_active is not None:
        webhook.is_active = is_active
    webhook.save(update_fields=["url", "events", "is_active"])
    _forget_listeners()
    return webhook


def rotate_secret(*, webhook: Webhook, now: datetime) -> Webhook:
    """A new secret. For a day messages are signed with both, so that receivers have time to change."""
    webhook.old_secret, webhook.secret, webhook.rotated_at = webhook.secret, secrets.token_hex(32), now
    webhook.save(update_fields=["secret", "old_secret", "rotated_at"])
    return webhook


def _checked_url(url: str) -> str:
    try:
        parts = check_url(url)
        allowed_address((parts.hostname or "").lower(), parts.port or 443)
    except FetchRefused as error:
        raise Invalid({"url": _("The address %s.") % error}) from error
    return url


def _checked_events(events: list[str]) -> list[str]:
    if unknown := [event for event in events if event not in Webhook.Event.values]:
        raise Invalid({"events": _("%s is no event.") % unknown[0]})
    if not events:
        raise Invalid({"events": _("Name one event at least.")})
    return sorted(set(events))


def tell_of_judgement(judgement: Judgement, *, project: int) -> None:
    """Emit that it was given, and that its comparison is complete if it is. Cheap where nobody listens."""
    if project not in _listeners():
        return
    said = {"choice": judgement.choice, "strength": judgement.strength, **judgement.answers}
    data = {
        "judgement": judgement.pk,
        "comparison": judgement.comparison_id,
        "annotator": judgement.annotator.username,
        "kind": judgement.kind,
        "answer": {name: value for name, value in said.items() if value is not None},
    }
    emit(project=project, event=Webhook.Event.JUDGEMENT_CREATED, data=data)
    waiting = Lease.objects.filter(
        comparison=judgement.comparison_id, state=Lease.State.OPEN, slot__isnull=False
    )
    full = Comparison.objects.filter(pk=judgement.comparison_id, open_slots=0, needed__gt=0)
    if judgement.kind == Judgement.Kind.REGULAR and full.exists() and not waiting.exists():
        done = {"comparison": judgement.comparison_id}
        emit(project=project, event=Webhook.Event.COMPARISON_COMPLETED, data=done)


def _listeners() -> frozenset[int]:
    """The projects with an active webhook, as they were a moment ago: judging asks with every answer."""
    if time.monotonic() > _known["until"]:
        rows = Webhook.objects.filter(is_active=True).order_by().values_list("project_id", flat=True)
        _known["projects"], _known["until"] = frozenset(rows.distinct()), time.monotonic() + KNOWN_FOR
    return _known["projects"]


def _forget_listeners() -> None:
    _known["until"] = 0.0


_known: dict[str, Any] = {"projects": frozenset(), "until": 0.0}


def emit(*, project: int, event: str, data: dict[str, Any]) -> None:
    """Tell a project's webhooks. Call it in the transaction of what happened."""
    listening = Webhook.objects.filter(project=project, is_active=True, events__contains=[event])
    send_to(list(listening), event=event, data=data)


def send_to(webhooks: list[Webhook], *, event: str, data: dict[str, Any]) -> None:
    """Queue a message for these addresses."""
    now = timezone.now()
    rows = [
        WebhookDelivery(
            webhook=webhook,
            event=event,
            payload={"event": event, "project": webhook.project_id, "at": now.isoformat(), "data": data},
            next_at=now,
            created_at=now,
        )
        for webhook in webhooks
    ]
    if rows:
        WebhookDelivery.objects.bulk_create(rows)
        transaction.on_commit(_wake)


def _wake() -> None:
    from annotation import tasks

    try:
        tasks.deliver_webhooks.delay()
    except OperationalError:
        return  # the periodic task finds the rows


def deliver_due(*, now: datetime) -> int:
    """Send what is due; how many messages were accepted. Safe to call at the same time."""
    delivered = 0
    for _number in range(MOST_AT_ONCE):
        delivery = _claim(now)
        if delivery is None:
            break
        delivered += _deliver(delivery, now=timezone.now())
    return delivered


@transaction.atomic
def _claim(now: datetime) -> WebhookDelivery | None:
    """The next due delivery, put off for everybody else while it is being sent."""
    due = WebhookDelivery.objects.filter(status=WebhookDelivery.Status.WAITING, next_at__lte=now)
    delivery = due.select_for_update(skip_locked=True, of=("self",)).order_by("next_at", "pk").first()
    if delivery is not None:
        delivery.attempts += 1
        delivery.next_at = now + CLAIM
        delivery.save(update_fields=["attempts", "next_at"])
    return delivery


def _deliver(delivery: WebhookDelivery, *, now: datetime) -> bool:
    webhook = delivery.webhook
    body = json.dumps({"id": delivery.pk, **delivery.payload}, separators=(",", ":")).encode()
    headers = {
        "Content-Type": "application/json",
        "Tiebreak-Event": delivery.event,
        "Tiebreak-Delivery": str(delivery.pk),
        "Tiebreak-Signature": signature(webhook, body, now=now),
    }
    try:
        status, reply = post(webhook.url, body, headers, seconds=SECONDS)
        accepted, answer = 200 <= status < 300, f"{status} {reply[:200].decode('utf-8', 'replace')}"
    except FetchRefused as error:
        accepted, answer = False, f"The address {error}"
    delivery.answer = answer.replace("\x00", "").strip()[:300]
    if accepted:
        delivery.status, delivery.delivered_at = WebhookDelivery.Status.DELIVERED, now
    elif delivery.attempts >= ATTEMPTS or not webhook.is_active:
        delivery.status = WebhookDelivery.Status.FAILED
    else:
        delivery.next_at = now + FIRST_PAUSE * 2 ** (delivery.attempts - 1)
    delivery.save(update_fields=["answer", "status", "delivered_at", "next_at"])
    return accepted


def signature(webhook: Webhook, body: bytes, *, now: datetime) -> str:
    """`t=SECONDS,v1=HEX`, with a second `v1` of the old secret for a day after a rotation."""
    seconds = str(int(now.timestamp()))
    keys = [webhook.secret]
    if webhook.old_secret and webhook.rotated_at and now < webhook.rotated_at + BOTH_SECRETS:
        keys.append(webhook.old_secret)
    signed = [
        hmac.new(key.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest() for key in keys
    ]
    return ",".join([f"t={seconds}", *(f"v1={digest}" for digest in signed)])


def forget_old_deliveries(*, now: datetime) -> None:
    """The log goes back a month."""
    ended = ~Q(status=WebhookDelivery.Status.WAITING)
    WebhookDelivery.objects.filter(ended, created_at__lt=now - KEEP).delete()
