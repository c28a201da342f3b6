"""Test rows, made through the services so that they are as real ones are."""

import uuid
from itertools import count

from django.utils import timezone

from annotation import services
from annotation.models import Comparison, Judgement, Project, User

_numbers = count(1)
NOW = timezone.now()


def make_user(role: str = "annotator", **values) -> User:
    return services.create_user(username=values.pop("username", f"user{next(_numbers)}"), role=role, **values)


def make_project(*, by: User | None = None, **values) -> Project:
    by = by or make_user("manager")
    return services.create_project(by=by, **{"name": "Answers", "modality": "text"} | values)


def add_annotators(project: Project, n: int) -> list[User]:
    users = [make_user() for _ in range(n)]
    for user in users:
        services.add_member(project=project, username=user.username, role="annotator", by=project.created_by)
    return users


def text_groups(n: int, *, k: int = 2, start: int = 0) -> list[dict]:
    return [
        {
            "prompt": f"Question {i}?",
            "candidates": [{"text": f"Answer {i}.{c}", "source": f"secret-model-{c}"} for c in range(k)],
        }
        for i in range(start, start + n)
    ]


def add_texts(project: Project, n: int, **values) -> list[Comparison]:
    return services.add_comparisons(project=project, groups=text_groups(n), **values)


def judge(annotator: User, project: Project, choice: int | str = 0) -> Judgement:
    """Their answer to what they get next; `choice` is a presented position."""
    lease = services.next_lease(project=project, user=annotator, now=timezone.now())
    assert lease is not None
    answer = {"lease_id": lease.pk, "annotator": annotator, "client_id": uuid.uuid4(), "choice": choice}
    return services.submit_judgement(**answer, now=timezone.now())[0]
