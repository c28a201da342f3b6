"""PandaLM's 700 human-judged pairs: imported, and its three annotators' answers replayed over the API.

The file lies beside the repository (`../shared/data`) and is not copied into it.
"""

import json
import uuid
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from annotation import agreement, services
from annotation.models import Comparison, Judgement
from tests.annotation import factories
from tests.annotation.conftest import api_client
from tests.annotation.files import jsonl, run

PATH = Path(__file__).resolve().parents[3] / "shared" / "data" / "pandalm_human_pairs.json"
ANNOTATORS = ("annotator1", "annotator2", "annotator3")
CHOICE = {0: "tie", 1: 0, 2: 1}

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(not PATH.exists(), reason=f"PandaLM's file is not at {PATH}"),
]


def as_group(row):
    """Some responses are JSON booleans and some are empty; an import refuses both, so spell them out."""
    texts = [str(row[name]) if row[name] != "" else "(no answer)" for name in ("response1", "response2")]
    sources = row["cmp_key"].split("_")
    return {
        "prompt": "\n\n".join(part for part in (row["instruction"], row["input"]) if part),
        "candidates": [{"text": text, "source": source} for text, source in zip(texts, sources, strict=True)],
        "meta": {"idx": row["idx"]},
    }


@pytest.fixture(scope="module")
def rows():
    return json.loads(PATH.read_text())


@pytest.fixture
def project(manager):
    return factories.make_project(by=manager, labels_per_comparison=3)


def test_as_it_is_the_file_holds_rows_that_cannot_be_imported(project, rows):
    raw = [{"prompt": row["instruction"], "responses": [row["response1"], row["response2"]]} for row in rows]
    job = run(project, jsonl(*raw))
    reasons = Counter(row.reason.split(";")[0] for row in job.rejected_rows.all())
    assert (job.accepted, dict(reasons)) == (679, {"is empty": 15, "is true (a boolean)": 6})


@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_replay(project, rows, step):
    rows = rows[::step]
    groups = [as_group(row) for row in rows]
    contents = {(group["prompt"], *(item["text"] for item in group["candidates"])) for group in groups}
    duplicates = len(rows) - len(contents)
    job = run(project, jsonl(*groups), "groups")
    assert (job.status, job.accepted, job.rejected, job.duplicates) == ("done", len(rows), 0, duplicates)
    by_idx = {row["idx"]: row for row in rows}
    comparisons = Comparison.objects.prefetch_related("candidates")
    texts = {comparison.pk: [item.text for item in comparison.candidates.all()] for comparison in comparisons}
    idx_of = dict(Comparison.objects.values_list("pk", "meta__idx"))
    for name in ANNOTATORS:
        replay(project, name, {pk: by_idx[idx][name] for pk, idx in idx_of.items()}, texts)
    assert_stored_exactly(rows)
    assert_agreement(project, rows)


def replay(project, name, answers, texts):
    """One annotator's answers, through `next` and `judgement?next=1`, as a client would send them."""
    user = factories.make_user(username=name)
    services.add_member(project=project, username=name, role="annotator", by=project.created_by)
    client = api_client(user)
    shown = client.post(f"/api/v1/projects/{project.pk}/next/").json()
    while shown:
        choice = CHOICE[answers[shown["comparison"]]]
        if isinstance(choice, int):  # canonical in the file; the API wants the presented position
            presented = [candidate["text"] for candidate in shown["candidates"]]
            choice = presented.index(texts[shown["comparison"]][choice])
        body = {"client_id": str(uuid.uuid4()), "choice": choice}
        reply = client.post(f"/api/v1/leases/{shown['lease']}/judgement/?next=1", body)
        assert reply.status_code == 201
        shown = reply.json()["next"]


def assert_stored_exactly(rows):
    stored = Judgement.objects.values_list("comparison__meta__idx", "annotator__username", "choice")
    expected = [(row["idx"], name, CHOICE[row[name]]) for row in rows for name in ANNOTATORS]
    assert sorted(stored, key=str) == sorted(expected, key=str)
    assert set(Comparison.objects.values_list("open_slots", flat=True)) == {0}


def assert_agreement(project, rows):
    """Against the definitions, computed from the file: pairs of annotators, and Krippendorff's observed over
    expected disagreement (every unit has the same three values, so no weights are needed)."""
    pairs = [a == b for row in rows for a, b in combinations([row[name] for name in ANNOTATORS], 2)]
    values = Counter(row[name] for row in rows for name in ANNOTATORS)
    n = sum(values.values())
    expected = sum(values[a] * values[b] for a in values for b in values if a != b) / (n * (n - 1))
    alpha = 1 - (1 - sum(pairs) / len(pairs)) / expected
    found = agreement.summarise(project)
    assert (found.comparisons, found.judgements, found.pairs) == (len(rows), 3 * len(rows), 3 * len(rows))
    assert found.agreement == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert found.alpha == pytest.approx(alpha, abs=1e-12)
    assert found.low < found.agreement < found.high
    assert found.alpha_low < found.alpha < found.alpha_high
    table = agreement.annotators(project)
    assert [(row.name, row.judgements, row.compared) for row in table] == [
        (name, len(rows), len(rows)) for name in ANNOTATORS
    ]
    for row in table:
        others = [name for name in ANNOTATORS if name != row.name]
        mean = sum(item[row.name] == item[other] for item in rows for other in others) / (2 * len(rows))
        assert row.agreement.value == pytest.approx(mean, abs=1e-12)
        assert abs(row.first_side.value - 0.5) < 4 * 0.5 / row.sided**0.5  # sides were drawn by a fair coin
