"""The client against a real server."""

import http.client
import json
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from annotation import services
from annotation.client import ApiError, Client, connection
from annotation.models import BulkChange
from tests.annotation import factories

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_project_from_the_first_file_to_the_last(live_server, tmp_path):
    manager = factories.make_user("manager", username="mona")
    factories.make_user(username="anna")
    mona = Client(live_server.url, services.issue_token(user=manager))
    project = mona.create_project("Answers", "text")["id"]
    assert mona.add_member(project, "anna", "annotator")["role"] == "annotator"
    assert [row["id"] for row in mona.projects()] == [project]
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
    content = mona.download(mona.wait("exports", job["id"])["download"])
    assert json.loads(content)["judgements"][0]["choice"] == "tie"
    assert mona.export_file(job["id"], tmp_path / "groups.jsonl").read_bytes() == content
    mona.close()


def test_handing_over_and_withdrawing(live_server):
    """What an owner and an annotator do at the end of a project."""
    owner, other = factories.make_user("manager", username="mona"), factories.make_user("manager")
    project = factories.make_project(by=owner)
    (anna,) = factories.add_annotators(project, 1)
    factories.add_texts(project, 2)
    factories.judge(anna, project)
    mona = Client(live_server.url, services.issue_token(user=owner))
    mona.add_member(project.pk, other.username, "manager")
    people = {row["username"]: row["user"] for row in mona.members(project.pk)}
    assert mona.hand_over(project.pk, people[other.username])["role"] == "owner"
    with Client(live_server.url, services.issue_token(user=anna)) as hers:
        assert hers.withdraw(project.pk, "delete") == {"deleted": 1, "unfinished": False}
        assert hers.standing(project.pk)["blocked"] == "withdrawn"
        hers.take_part_again(project.pk)
        assert hers.standing(project.pk)["blocked"] is None
    (change,) = mona.wait_for_changes(project.pk)
    assert (change["kind"], change["status"], change["done"]) == ("delete", "done", 1)
    assert list(mona.judgements(project.pk)) == []
    assert [*mona.slips(project.pk), *mona.disputed(project.pk), *mona.annotator_pairs(project.pk)] == []
    mona.close()


def test_waiting_for_changes_ends(live_server, monkeypatch):
    """Nobody makes this change, so it is under way for ever."""
    project = factories.make_project()
    BulkChange.objects.create(project=project, kind=BulkChange.Kind.SET_ASIDE)
    monkeypatch.setattr("annotation.client.POLL", 0.01)
    with (
        Client(live_server.url, services.issue_token(user=project.created_by)) as client,
        pytest.raises(TimeoutError, match="have not ended after"),
    ):
        client.wait_for_changes(project.pk, seconds=0.05)


class Deaf(BaseHTTPRequestHandler):
    """Reads every request and hangs up on the first two; then 503, then an answer."""

    seen: ClassVar[list[str]] = []

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append(self.path)
        if len(self.seen) < 3:
            self.close_connection = True
            return
        self.send_response(503 if len(self.seen) == 3 else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST = answer

    def log_message(self, *_said: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch):
    """`serve(handler)`: a client of a server whose requests the handler answers."""
    monkeypatch.setattr(connection, "PAUSE", 0.001)
    with ExitStack() as stack:

        def serve(handler: type[BaseHTTPRequestHandler]) -> Client:
            server = stack.enter_context(HTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return stack.enter_context(Client(f"http://127.0.0.1:{server.server_port}", "token", timeout=60))

        yield serve


@pytest.fixture
def deaf_client(serve):
    Deaf.seen.clear()
    return serve(Deaf)


def test_what_is_harmless_is_sent_until_it_is_answered(deaf_client):
    assert deaf_client.next(1) == {}
    assert len(Deaf.seen) == 4


def test_what_is_not_harmless_is_sent_once(deaf_client):
    with pytest.raises(http.client.RemoteDisconnected):
        deaf_client.start_run(1, "dpo", "model")
    with pytest.raises(http.client.RemoteDisconnected):
        deaf_client.create_project("Answers", "text")
    with pytest.raises(ApiError, match="503"):
        deaf_client.undo(1)
    assert len(Deaf.seen) == 3


class Broken(BaseHTTPRequestHandler):
    """Ends its first reply in the middle; keeps what it was sent."""

    whole = bytes(range(256)) * 1000
    seen: ClassVar[list[bytes]] = []

    def do_GET(self) -> None:
        self.seen.append(b"")
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.whole)))
        self.end_headers()
        self.wfile.write(self.whole[: 70_000 if len(self.seen) == 1 else None])
        self.close_connection = True

    def do_POST(self) -> None:
        self.seen.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    log_message = Deaf.log_message


@pytest.fixture
def broken_client(serve, monkeypatch):
    monkeypatch.setattr(connection, "BLOCK", 50_000)
    Broken.seen.clear()
    return serve(Broken)


def test_a_file_is_there_once_it_is_whole(broken_client, tmp_path):
    assert broken_client.checkpoint(1, tmp_path / "result.zip").read_bytes() == Broken.whole
    assert len(Broken.seen) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["result.zip"]


def test_a_file_is_sent_in_blocks(broken_client, tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    path.write_bytes(Broken.whole)
    monkeypatch.setattr(Path, "read_bytes", None)  # it may not fit into memory
    broken_client.import_file(1, path, "csv")
    (body,) = Broken.seen
    assert body.count(Broken.whole) == 1
    assert b'name="format"\r\n\r\ncsv\r\n' in body
    assert body.rstrip().endswith(b"--")


def test_an_address_that_is_none():
    with pytest.raises(ValueError, match=r"'example\.org' is not the address of a site"):
        Client("example.org", "token")
