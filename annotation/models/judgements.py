"""Who holds which slot of a comparison, and what they said.

A slot is open, leased or judged; the unique constraints on `Lease` guarantee that no slot and no annotator is
counted twice, whatever the services do."""

import uuid
from datetime import datetime, timedelta
from typing import ClassVar

from django.db import models
from django.db.models import ExpressionWrapper, F, Q, Value
from django.db.models.lookups import LessThan
from django.utils.translation import gettext_lazy as _

from annotation.models.audit import audited
from annotation.models.comparisons import Comparison
from annotation.models.people import User
from annotation.models.projects import AnnotatorGroup
from annotation.permissions import ProjectRows


class LeaseQuerySet(ProjectRows["Lease"]):
    project_path = "comparison__project"

    def live(self) -> "LeaseQuerySet":
        return self.filter(state__in=Lease.LIVE)

    def open_of(self, *, project: int, annotator: int) -> "LeaseQuerySet":
        """What this person holds in this project, oldest first, with the comparisons."""
        mine = self.filter(state=Lease.State.OPEN, annotator=annotator, comparison__project=project)
        mine = mine.exclude(kind__in=Lease.BESIDE_THE_QUEUE)
        return mine.select_related("comparison").order_by("created_at", "pk")

    def in_hands_of(self, user: User) -> "LeaseQuerySet":
        """What this person is to judge themselves, so that its sources stay hidden from them."""
        return self.filter(annotator=user, state=Lease.State.OPEN)

    def lapsed(self, *, now: datetime) -> "LeaseQuerySet":
        """Those that somebody else should get. For a duel nobody waits, and its asker may be late."""
        return self.filter(state=Lease.State.OPEN, expires_at__lt=now).exclude(kind=Kind.DUEL)

    def to_present(self) -> "LeaseQuerySet":
        """With all that `annotation.services.present` reads."""
        return self.select_related("comparison__project").prefetch_related("comparison__candidates__image")


class Kind(models.TextChoices):
    """Why somebody was asked. Only `regular` fills slots; an annotator is never told which it is."""

    REGULAR = "regular", _("regular")
    GOLD = "gold", _("gold question")
    REPEAT = "repeat", _("repeat")
    REVIEW = "review", _("review")
    QUALIFICATION = "qualification", _("test before the work")
    JUDGE = "judge", _("by a model")
    DUEL = "duel", _("duel in the arena")  # of leases only: what is said there is a regular judgement


class Lease(models.Model):
    """A comparison in one person's hands, with the order that they see (a permutation).

    A regular lease holds a slot of the comparison; other kinds have none.
    """

    Kind = Kind

    class State(models.TextChoices):
        OPEN = "open", _("open")
        JUDGED = "judged", _("judged")
        SKIPPED = "skipped", _("skipped")
        EXPIRED = "expired", _("expired")
        UNDONE = "undone", _("undone")
        SET_ASIDE = "aside", _("set aside")  # its judgement does not count, and the slot was opened again

    LIVE = (State.OPEN, State.JUDGED)
    # Asked for by themselves: not what comes next in their queue, and no part of their quota.
    BESIDE_THE_QUEUE = (Kind.REVIEW, Kind.DUEL)
    # The comparison does not come to this person again.
    HAD = (State.OPEN, State.JUDGED, State.SKIPPED, State.SET_ASIDE)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # Every index is written to twice for each answer, so that only those are here that a query needs.
    comparison = models.ForeignKey(
        Comparison,
        on_delete=models.CASCADE,
        related_name="leases",
        db_index=False,  # `lease_had`
    )
    annotator = models.ForeignKey(
        User,
        on_delete=models.PROTECT,
        related_name="leases",
        db_index=False,  # `lease_open_of_annotator`
    )
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.REGULAR)
    slot = models.PositiveSmallIntegerField(null=True, blank=True)
    reserved_for = models.ForeignKey(
        AnnotatorGroup,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,  # `lease_reserved`
    )
    order = models.JSONField(help_text="candidate indices as shown, left to right")
    state = models.CharField(max_length=8, choices=State, default=State.OPEN)
    template_version = models.PositiveIntegerField(default=1, help_text="of the questions that were shown")
    redo_of = models.ForeignKey(
        "Judgement",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        db_index=False,  # `lease_redo`
        help_text="the judgement that was taken back for this lease",
    )
    skip_reason = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[LeaseQuerySet] = LeaseQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["comparison", "annotator", "kind"],
                condition=Q(state__in=["open", "judged"]),
                name="lease_one_each",
            ),
            models.CheckConstraint(
                condition=Q(kind="regular") ^ Q(slot=None), name="lease_slot_only_if_regular"
            ),
            models.UniqueConstraint(
                fields=["comparison", "slot"],
                condition=Q(state__in=["open", "judged"]),
                name="lease_slot_once",
            ),
        ]
        indexes = [
            models.Index(fields=["expires_at"], condition=Q(state="open"), name="lease_expiry"),
            models.Index(
                fields=["annotator", "created_at"], condition=Q(state="open"), name="lease_open_of_annotator"
            ),
            models.Index(fields=["comparison", "annotator"], include=["state"], name="lease_had"),
            models.Index(
                fields=["reserved_for"], condition=Q(reserved_for__isnull=False), name="lease_reserved"
            ),
            models.Index(fields=["redo_of"], condition=Q(redo_of__isnull=False), name="lease_redo"),
        ]

    def __str__(self) -> str:
        return f"lease {self.id}"


class JudgementQuerySet(ProjectRows["Judgement"]):
    project_path = "comparison__project"

    def standing(self) -> "JudgementQuerySet":
        """Those that were neither taken back nor set aside."""
        return self.filter(undone_at=None, set_aside_at=None)

    def standing_at(self, moment: datetime) -> "JudgementQuerySet":
        """Those that stood at that moment, whatever happened later."""
        # Asked for each comparison: an index on the time alone, which a plan without statistics likes, would
        # be read whole each time. The sum keeps it out.
        given_at = ExpressionWrapper(
            F("created_at") + Value(timedelta(0)), output_field=models.DateTimeField()
        )
        return self.filter(
            Q(undone_at=None) | Q(undone_at__gte=moment),
            Q(set_aside_at=None) | Q(set_aside_at__gte=moment),
            LessThan(given_at, moment),
        )


class Judgement(models.Model):
    """One person's answer. `choice`, `strength` and `answers` are canonical; `order` says what was shown."""

    Kind = Kind

    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="judgements")
    annotator = models.ForeignKey(
        User,
        on_delete=models.PROTECT,
        related_name="judgements",
        db_index=False,  # `judgement_history`
    )
    group = models.ForeignKey(
        AnnotatorGroup,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        db_index=False,  # `judgement_of_group`
        help_text="that the annotator belonged to",
    )
    lease = models.OneToOneField(
        Lease, null=True, blank=True, on_delete=models.PROTECT, related_name="judgement"
    )
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.REGULAR)
    order = models.JSONField(null=True, help_text="as shown; unknown for some imported judgements")
    choice = models.JSONField(null=True, help_text='a candidate index, "tie" or "both_bad"')
    strength = models.PositiveSmallIntegerField(null=True, blank=True)
    answers = models.JSONField(default=dict, help_text="the template's other answers")
    suggestions = models.JSONField(
        null=True, blank=True, help_text="of models, that stood beside it: {by, answer}, canonical"
    )
    differences = models.JSONField(
        null=True, blank=True, help_text="of each correction from its candidate, word by word"
    )
    template_version = models.PositiveIntegerField()
    seconds = models.FloatField(
        null=True, blank=True, help_text="from the lease's first display to the answer"
    )
    created_at = models.DateTimeField()
    undone_at = models.DateTimeField(null=True, blank=True)
    set_aside_at = models.DateTimeField(null=True, blank=True)
    set_aside = models.ForeignKey(
        "SetAside",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="judgements",
        db_index=False,  # `judgement_set_aside`
    )
    # A repeated request gets the same reply.
    client_id = models.UUIDField()
    request_digest = models.CharField(max_length=64)
    wanted_next = models.BooleanField(default=False)
    next_lease = models.ForeignKey(Lease, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    next_expires_at = models.DateTimeField(
        null=True, blank=True, help_text="of the next lease, as it was told"
    )

    objects: ClassVar[JudgementQuerySet] = JudgementQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        triggers = audited(
            "judgement",
            project="(SELECT c.project_id FROM annotation_comparison c"
            " WHERE c.id = (whole ->> 'comparison_id')::bigint)",
            ignored=("next_lease_id", "next_expires_at", "wanted_next"),
            inserts=False,  # the row says who judged and when
        )
        constraints = [
            models.UniqueConstraint(fields=["client_id", "annotator"], name="judgement_client_id_once"),
            models.UniqueConstraint(
                fields=["comparison", "annotator", "kind"],
                condition=Q(undone_at=None),
                name="judgement_one_each",
            ),
            models.CheckConstraint(
                condition=Q(strength=None) | Q(strength__range=(1, 3)), name="judgement_strength_1_to_3"
            ),
        ]
        indexes = [
            models.Index(fields=["annotator", "-created_at"], name="judgement_history"),
            models.Index(fields=["created_at"], name="judgement_cutoff"),
            models.Index(fields=["group"], condition=Q(group__isnull=False), name="judgement_of_group"),
            models.Index(
                fields=["set_aside"], condition=Q(set_aside__isnull=False), name="judgement_set_aside"
            ),
        ]

    def __str__(self) -> str:
        return f"judgement {self.pk}"
