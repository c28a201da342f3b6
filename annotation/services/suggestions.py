"""What models suggest: judgements of the kind `judge`, shown to annotators where the project says so.

They come with an imported file, over the API, or from a scoring. A judgement keeps which suggestions stood
beside it.
"""

import uuid
from datetime import datetime
from typing import Any, Final

from django.db import transaction
from django.utils.translation import gettext as _

from annotation.errors import Invalid
from annotation.models import Comparison, Judgement, Kind, Lease, Project
from annotation.services.answers import known_answer
from annotation.services.comparisons import annotator_name, import_users
from annotation.template import presented_answer

MOST_AT_ONCE: Final = 1000
CHECKS: Final = (Kind.REVIEW, Kind.QUALIFICATION)  # nothing is suggested to who decides or is tested


@transaction.atomic
def add_suggestions(*, project: Project, model: str, suggestions: list[dict[str, Any]], now: datetime) -> int:
    """Store a model's answers, each `{"comparison": id, "answer": {…}}` in canonical indices; how many.

    An earlier suggestion of the same model for a comparison is replaced, and kept as taken back.
    """
    if not model.strip() or len(model) > 140:
        raise Invalid({"model": _("must be a name of 140 characters at most.")})
    if len(suggestions) > MOST_AT_ONCE:
        raise Invalid(
            {
                "suggestions": _("are %(n)s; send %(most)s at most at once.")
                % {"n": len(suggestions), "most": MOST_AT_ONCE}
            }
        )
    ids = [item["comparison"] for item in suggestions]
    if len(set(ids)) != len(ids):
        raise Invalid({"suggestions": _("name a comparison twice.")})
    found = Comparison.objects.filter(project=project).in_bulk(ids)
    rows, errors = [], {}
    user = import_users({model.strip()})[model.strip()]
    for number, item in enumerate(suggestions):
        comparison = found.get(item["comparison"])
        if comparison is None:
            errors[f"suggestions.{number}.comparison"] = _("is no comparison of this project.")
            continue
        try:
            columns = known_answer(project, comparison, item["answer"])
        except Invalid as error:
            errors |= {f"suggestions.{number}.answer.{path}": text for path, text in error.errors.items()}
            continue
        row = Judgement(
            comparison=comparison,
            annotator=user,
            kind=Kind.JUDGE,
            **columns,
            template_version=project.template_version,
            created_at=now,
            client_id=uuid.uuid4(),
            request_digest="",
        )
        rows.append(row)
    if errors:
        raise Invalid(errors)
    earlier = Judgement.objects.filter(comparison__in=ids, annotator=user, kind=Kind.JUDGE, undone_at=None)
    earlier.update(undone_at=now)
    Judgement.objects.bulk_create(rows)
    return len(rows)


def suggestions_for(lease: Lease, project: Project) -> list[dict[str, Any]]:
    """What stands beside this comparison for who holds it: `{"by", "answer"}`, in canonical indices.

    Those that were there when it was handed out, so that nothing changes under somebody's eyes.
    """
    if not project.show_suggestions or lease.kind in CHECKS:
        return []
    stored = Judgement.objects.standing_at(lease.created_at).filter(
        comparison=lease.comparison_id, kind=Kind.JUDGE
    )
    return [
        {"by": annotator_name(item.annotator.username), "answer": _answer(item)}
        for item in stored.select_related("annotator").order_by("pk")
    ]


def _answer(judgement: Judgement) -> dict[str, Any]:
    said = {"choice": judgement.choice, "strength": judgement.strength, **judgement.answers}
    return {name: value for name, value in said.items() if value is not None}


def as_shown(suggestions: list[dict[str, Any]], order: list[int]) -> list[dict[str, Any]]:
    """The same in presented positions."""
    return [{**item, "answer": presented_answer(item["answer"], order)} for item in suggestions]
