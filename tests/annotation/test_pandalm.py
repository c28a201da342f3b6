"""PandaLM's 700 human-judged pairs: imported, and its three annotators' answers replayed over the API.

The file lies beside the repository (`../shared/data`) and is not copied into it.
"""

import json
import uuid
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from annotation import services
from annotation.models import Comparison, Judgement, User
from tests.annotation import factories
from tests.annotation.conftest import api_client
from tests.annotation.files import jsonl, run
from tests.annotation.quality.rows import summary_of

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


def test_imported_as_three_annotators(project, rows):
    """All 700 pairs with their 2,100 judgements, as a file of groups."""
    groups = [
        as_group(row)
        | {"judgements": [{"annotator": name, "choice": CHOICE[row[name]]} for name in ANNOTATORS]}
        for row in rows
    ]
    job = run(project, jsonl(*groups), "groups")
    assert (job.status, job.accepted) == ("done", 700)
    assert_agreement(project, rows)


def assert_agreement(project, rows):
    """Against the definitions, computed from the file: pairs of annotators; Krippendorff's observed over
    expected disagreement (every unit has three values, so no weights are needed); Cohen's and Fleiss'
    kappa from the shares of each answer."""
    pairs = list(combinations(ANNOTATORS, 2))
    same = {pair: sum(row[pair[0]] == row[pair[1]] for row in rows) / len(rows) for pair in pairs}
    raw = sum(same.values()) / 3
    values = Counter(row[name] for row in rows for name in ANNOTATORS)
    n = sum(values.values())
    expected = sum(values[a] * values[b] for a in values for b in values if a != b) / (n * (n - 1))
    by_chance = sum((count / n) ** 2 for count in values.values())
    summary = summary_of(project)
    (question,) = summary["questions"]
    assert (question["units"], question["judgements"], question["pairs"]) == (
        len(rows),
        3 * len(rows),
        3 * len(rows),
    )
    assert question["raw"]["value"] == pytest.approx(raw, abs=1e-12)
    assert question["alpha"]["value"] == pytest.approx(1 - (1 - raw) / expected, abs=1e-12)
    assert question["fleiss"]["value"] == pytest.approx((raw - by_chance) / (1 - by_chance), abs=1e-12)
    for found in (question["raw"], question["alpha"], question["fleiss"]):
        assert found["low"] < found["value"] < found["high"]
    names = dict(User.objects.values_list("pk", "username"))
    kappas = {
        tuple(sorted(names[row[side]].removeprefix("import:") for side in ("first", "second"))): row["kappa"]
        for row in summary["pairs"]
    }
    for (a, b), agreed in same.items():
        shares = [Counter(row[name] for row in rows) for name in (a, b)]
        chance = sum(shares[0][value] * shares[1][value] for value in values) / len(rows) ** 2
        assert kappas[a, b]["value"] == pytest.approx((agreed - chance) / (1 - chance), abs=1e-12)
        assert kappas[a, b]["low"] < kappas[a, b]["value"] < kappas[a, b]["high"]
    people = {names[row["annotator"]].removeprefix("import:"): row for row in summary["annotators"]}
    assert {name: row["judgements"] for name, row in people.items()} == dict.fromkeys(ANNOTATORS, len(rows))
    for name, row in people.items():
        mine = [agreed for pair, agreed in same.items() if name in pair]
        assert row["agreement"]["value"] == pytest.approx(sum(mine) / 2, abs=1e-12)
        if row["position"]:  # known where people saw them here; sides were drawn by a fair coin
            assert abs(row["position"]["value"] - 0.5) < 4 * 0.5 / row["position"]["n"] ** 0.5
