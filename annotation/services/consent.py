"""The text that annotators agree to before their first task, by version, and who agreed to which, when."""

from datetime import datetime

from django.db import transaction
from django.db.models import F
from django.utils.translation import gettext as _

from annotation.errors import Conflict, Invalid
from annotation.models import Consent, ConsentText, Member, Project, User

LONGEST = 100_000


def consent_text(project: Project) -> ConsentText | None:
    """The text in force, or None where nothing is asked."""
    return ConsentText.objects.filter(project=project, version=F("project__consent_version")).first()


@transaction.atomic
def publish_consent_text(*, project: Project, text: str, by: User) -> ConsentText | None:
    """Ask everybody to agree to this text before their next task; an empty one asks nothing any more.

    The same text again changes nothing. Earlier versions and who agreed to them are kept.
    """
    project = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    text = text.strip()
    if len(text) > LONGEST:
        raise Invalid({"text": _("has more than 100,000 characters.")})
    current = consent_text(project)
    if text == (current.text if current else ""):
        return current
    published = None
    if text:
        last = project.consent_texts.order_by("-version").values_list("version", flat=True).first()
        published = ConsentText.objects.create(
            project=project, version=(last or 0) + 1, text=text, created_by=by
        )
    project.consent_version = published.version if published else 0
    project.save(update_fields=["consent_version"])
    return published


@transaction.atomic
def give_consent(*, project: Project, user: User, version: int, now: datetime) -> Consent:
    """Agree to the version that this person was shown; again, and nothing changes."""
    text = consent_text(project)
    if text is None or text.version != version:
        raise Conflict(_("The text has changed meanwhile; please read it again."))
    consent, _created = Consent.objects.get_or_create(text=text, user=user, defaults={"given_at": now})
    if consent.withdrawn_at is not None:
        consent.given_at, consent.withdrawn_at = now, None
        consent.save(update_fields=["given_at", "withdrawn_at"])
    Member.objects.filter(project=project, user=user).update(consented_version=version)
    return consent
