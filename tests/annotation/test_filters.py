"""What exports are asked for: times, agreement, parts of a split, and one judgement in place of many."""

import json
import math
from datetime import timedelta

import pytest
from django.utils import timezone

from annotation import services
from annotation.errors import Invalid
from annotation.formats.packing import CONTAINERS
from annotation.models import QualityReport, User
from annotation.services.aggregating import aggregate, log_odds
from annotation.services.quality import refresh_quality, reliabilities
from annotation.splitting import split_score
from tests.annotation import factories
from tests.annotation.files import jsonl, run
from tests.annotation.test_exports import export, rows_of

pytestmark = pytest.mark.django_db


def group(prompt, choices, **more):
    """A pair that ann, bob, … judged."""
    said = [
        {"annotator": who, "choice": c} for who, c in zip(("ann", "bob", "cyn", "dan"), choices, strict=False)
    ]
    return {"prompt": prompt, "candidates": [{"text": "a"}, {"text": "b"}], "judgements": said, **more}


def prompts(project, **filters):
    return [row["prompt"] for row in rows_of(export(project, **filters)[1])]


def test_agreement(project):
    run(
        project,
        jsonl(group("all", [0, 0, 0]), group("most", [0, 0, 1]), group("none", [0, 1, "tie"])),
        "groups",
    )
    assert prompts(project, min_agreement=1) == ["all"]
    assert prompts(project, min_agreement=0.6) == ["all", "most"]
    assert prompts(project, max_agreement=0.5) == ["none"]


def test_times(project, annotator):
    factories.add_texts(project, 1)
    factories.judge(annotator, project)
    now = timezone.now()
    hour = timedelta(hours=1)
    assert prompts(project, judged=True, until=now.isoformat()) == ["Question 0?"]
    assert prompts(project, judged=True, until=(now - hour).isoformat()) == []
    with pytest.raises(Invalid, match="until"):
        export(project, since=now.isoformat(), until=(now - hour).isoformat())


def test_parts_of_a_split_are_by_prompt_and_complete(project):
    names = [f"q{n}" for n in range(40)]
    run(project, jsonl(*(group(name, [0]) for name in [*names, *names])), "groups")
    held_out = prompts(project, part="eval", eval_fraction=0.3, seed=5)
    assert set(held_out) == {name for name in names if split_score(name, seed=5) < 0.3}
    assert len(held_out) == 2 * len(set(held_out))
    assert sorted([*held_out, *prompts(project, part="train", eval_fraction=0.3, seed=5)]) == sorted(
        names * 2
    )
    assert prompts(project, part="eval", eval_fraction=0.3, seed=6) != held_out


def test_majority(project):
    rows = [group("clear", [0, 0, 1]), group("even", [0, 1]), group("ties", ["tie", "tie", 1])]
    run(project, jsonl(*rows), "groups")
    found = rows_of(export(project, consensus="majority")[1])
    plain = {"annotator": "majority", "kind": "regular"}
    assert [row["judgements"] for row in found] == [[plain | {"choice": 0}], [], [plain | {"choice": "tie"}]]


def test_reliable_people_weigh_more(project):
    """ann and bob always agree; cyn and dan answer as if by chance, and outvote nobody."""
    plain = [group(f"q{n}", [n % 2, n % 2, (n // 2) % 2, (n // 4) % 2]) for n in range(8)]
    run(project, jsonl(*plain, group("last", [0, None, 1, 1])), "groups")
    known = reliabilities(project)
    assert set(known) == {"ann", "bob", "cyn", "dan"}
    assert min(known["ann"], known["bob"]) > 0.75 > max(known["cyn"], known["dan"])
    found = {row["prompt"]: row["judgements"] for row in rows_of(export(project, consensus="weighted")[1])}
    assert [found[f"q{n}"][0]["choice"] for n in range(8)] == [n % 2 for n in range(8)]


def test_weights_are_those_of_the_report(project):
    """What is kept counts, although the answers say the opposite: ann alone outvotes the two others."""
    run(project, jsonl(group("q", [0, 1, 1])), "groups")
    refresh_quality(now=timezone.now())
    people = User.objects.filter(username__in=["import:ann", "import:bob", "import:cyn"]).order_by("username")
    shares = zip(people, (0.95, 0.6, 0.6), strict=True)
    kept = {"reliability": [{"annotator": user.pk, "dawid_skene": share} for user, share in shares]}
    QualityReport.objects.filter(project=project).update(fits=kept)
    # ln(2 · 0.95 / 0.05) = 3.64 against 2 · ln(2 · 0.6 / 0.4) = 2.20
    assert rows_of(export(project, consensus="weighted")[1])[0]["judgements"][0]["choice"] == 0
    assert rows_of(export(project, consensus="majority")[1])[0]["judgements"][0]["choice"] == 1


def test_log_odds_by_hand():
    assert log_odds(0.8, 2) == pytest.approx(math.log(4))  # ln((2 − 1) 0.8 / 0.2)
    assert log_odds(0.5, 3) == pytest.approx(math.log(2))
    assert log_odds(0.2, 3) == 0  # worse than chance says nothing


def test_other_answers_are_put_together():
    said = [
        {"ratings": [{"help": 4}, {"help": 1}], "thumbs": [1, 0], "tags": ["long"], "ranking": [[0], [1]]},
        {"ratings": [{"help": 2}, None], "thumbs": [1, 1], "tags": ["long", "odd"], "ranking": [[0, 1]]},
        {"kind": "judge", "thumbs": [0, 0]},
    ]
    both = {"candidates": [{}, {}], "judgements": said}
    (one,) = aggregate(both, weigh=lambda item, answers: 1.0, name="majority")
    assert one["ratings"] == [{"help": 3}, {"help": 1}]
    assert one["thumbs"] == [1, None]
    assert (one["tags"], one["ranking"]) == (["long"], [[0], [1]])


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_come_back(project, manager, container):
    run(project, jsonl(group("=1+1", [0, "tie"]), group('"quoted",\nlines', [1])), "groups")
    form = "csv" if container == "csv" else "groups"
    job = services.start_export(project=project, by=manager, format=form, container=container)
    services.run_export(job.pk)
    job.refresh_from_db()
    from django.core.files.storage import default_storage

    with default_storage.open(job.storage_key) as file:
        data = file.read()
    copy = factories.make_project(by=manager)
    again = run(copy, data, form)
    assert (again.rejected, again.accepted) == (0, 2)
    assert json.dumps(rows_of(export(copy)[1])) == json.dumps(rows_of(export(project)[1]))
    if container == "csv":
        assert b"'=1+1" in data


def test_skipped_duplicates(project):
    rows = [group("p", [0]), group("p", [1]), group("q", [0])]
    job = run(project, jsonl(*rows), "groups", skip_duplicates=True)
    assert (job.accepted, job.duplicates, project.comparisons.count()) == (2, 1, 2)
    again = run(project, jsonl(*rows), "groups", skip_duplicates=True)
    assert (again.accepted, again.duplicates, project.comparisons.count()) == (0, 3, 2)
