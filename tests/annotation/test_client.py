"""The client against a real server."""

import json

import pytest

from annotation import services
from annotation.client import ApiError, Client
from tests.annotation import factories

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_project_from_the_first_file_to_the_last(live_server, tmp_path):
    manager = factories.make_user("manager", username="mona")
    factories.make_user(username="anna")
    mona = Client(live_server.url, services.issue_token(user=manager))
    project = mona.create_project("Answers", "text")["id"]
    assert mona.add_member(project, "anna", "annotator")["role"] == "annotator"
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"q{n}", "responses": ["a", "b"]}) + "\n" for n in range(3))
    )
    job = mona.import_file(project, path, "trl", skip_duplicates=True)
    services.run_import(job["id"])
    assert mona.wait("imports", job["id"])["accepted"] == 3
    from annotation.models import User

    with Client(live_server.url, services.issue_token(user=User.objects.get(username="anna"))) as anna:
        shown = anna.next(project)
        stored = anna.judge(shown["lease"], {"choice": 0, "strength": 3}, want_next=True)
        assert anna.undo(stored["judgement"])["lease"] != shown["lease"]
        with pytest.raises(ApiError) as refusal:
            anna.judge(stored["next"]["lease"], {"choice": 7})
        assert (refusal.value.status, list(refusal.value.errors)) == (400, ["choice"])
        anna.judge(stored["next"]["lease"], {"choice": "tie"})
        assert anna.skip(anna.next(project)["lease"], "unclear")["state"] == "skipped"
        with pytest.raises(ApiError, match="403"):
            anna.export(project, "groups")
    rows = list(mona.rows(f"projects/{project}/judgements/", state="standing"))
    assert [row["answer"] for row in rows] == [{"choice": "tie"}]
    job = mona.export(project, "groups", filters={"judged": True})
    services.run_export(job["id"])
    (line,) = mona.download(mona.wait("exports", job["id"])["download"]).splitlines()
    assert json.loads(line)["judgements"][0]["choice"] == "tie"
    mona.close()
