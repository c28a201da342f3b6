"""Signed messages that are sent until they are accepted, and never to where they must not go."""

import hashlib
import hmac
import json
import threading
import uuid
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from django.utils import timezone

from annotation import services
from annotation.errors import Invalid
from annotation.fetching import FetchRefused, allowed_address, check_url, fetch, is_public
from annotation.models import Webhook, WebhookDelivery
from annotation.services import webhooks
from tests.annotation import factories
from tests.annotation.files import GOOD, jsonl, run

pytestmark = pytest.mark.django_db


class Receiver(BaseHTTPRequestHandler):
    """Keeps what it gets, and answers as the test says."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers), body))
        self.answer(self.server.statuses.pop(0) if self.server.statuses else 200)

    def do_GET(self):
        self.server.got.append((dict(self.headers), self.path))
        status, headers, body = self.server.pages.get(self.path, (404, {}, b""))
        self.answer(status, headers, body)

    def answer(self, status, headers=(), body=b"ok"):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def receiver(settings):
    settings.OUTGOING_PRIVATE_HOSTS = ["127.0.0.1"]
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    server.got, server.statuses, server.pages = [], [], {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def webhook(project, manager, receiver):
    webhooks._forget_listeners()
    events = ["judgement.created", "comparison.completed", "import.finished", "export.finished"]
    yield services.add_webhook(project=project, by=manager, url=f"{receiver.url}/hook?x=1", events=events)
    webhooks._forget_listeners()


def listen(*_arguments):
    webhooks._forget_listeners()


def test_a_message_is_signed_with_its_time(webhook, receiver, project, annotator):
    factories.add_texts(project, 1)
    listen()
    judgement = factories.judge(annotator, project, "tie")
    assert services.deliver_due(now=timezone.now()) == 2
    (headers, body), (_, completed) = receiver.got
    seconds, digest = (part.split("=")[1] for part in headers["Tiebreak-Signature"].split(","))
    expected = hmac.new(webhook.secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    assert digest == expected
    assert abs(int(seconds) - timezone.now().timestamp()) < 60
    message = json.loads(body)
    assert (message["event"], message["project"]) == ("judgement.created", project.pk)
    assert message["data"]["judgement"] == judgement.pk
    assert (message["data"]["annotator"], message["data"]["answer"]) == ("anna", {"choice": "tie"})
    assert json.loads(completed)["data"] == {"comparison": judgement.comparison_id}
    assert services.deliver_due(now=timezone.now() + timedelta(days=1)) == 0


def test_a_comparison_is_complete_with_its_last_judgement(webhook, project, annotator):
    services.update_project(project=project, labels_per_comparison=2)
    factories.add_texts(project, 1)
    (other,) = factories.add_annotators(project, 1)
    listen()
    factories.judge(annotator, project)
    assert not WebhookDelivery.objects.filter(event="comparison.completed").exists()
    factories.judge(other, project)
    assert WebhookDelivery.objects.filter(event="comparison.completed").count() == 1


def test_refused_messages_are_sent_again_later_and_given_up(webhook, receiver, project):
    receiver.statuses = [500, 302, 200]
    services.send_to([webhook], event="test", data={})
    now = timezone.now()
    assert services.deliver_due(now=now) == 0
    assert services.deliver_due(now=now) == 0  # not before its pause is over
    delivery = WebhookDelivery.objects.get()
    assert (delivery.attempts, delivery.answer) == (1, "500 ok")
    assert webhooks.FIRST_PAUSE <= delivery.next_at - now < webhooks.FIRST_PAUSE + timedelta(seconds=5)
    later = delivery.next_at
    assert services.deliver_due(now=later) == 0  # redirects are not followed
    delivery.refresh_from_db()
    assert delivery.attempts == 2
    assert services.deliver_due(now=delivery.next_at) == 1
    delivery.refresh_from_db()
    assert (delivery.status, delivery.attempts) == ("delivered", 3)
    assert len({headers["Tiebreak-Delivery"] for headers, _ in receiver.got}) == 1
    services.send_to([webhook], event="test", data={})
    WebhookDelivery.objects.filter(status="waiting").update(attempts=webhooks.ATTEMPTS - 1)
    receiver.statuses = [500]
    services.deliver_due(now=timezone.now())
    assert WebhookDelivery.objects.order_by("-pk").first().status == "failed"


def test_rotation_signs_with_both_secrets_for_a_day(webhook):
    old, now = webhook.secret, timezone.now()
    services.rotate_secret(webhook=webhook, now=now)

    def signatures(moment):
        return webhooks.signature(webhook, b"{}", now=moment).split(",")[1:]

    def signed(secret, moment):
        text = f"{int(moment.timestamp())}.{{}}".encode()
        return "v1=" + hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()

    assert signatures(now) == [signed(webhook.secret, now), signed(old, now)]
    later = now + timedelta(days=2)
    assert signatures(later) == [signed(webhook.secret, later)]


def test_imports_and_exports_tell(webhook, project):
    run(project, jsonl(GOOD))
    job = services.start_export(project=project, by=project.created_by, format="groups")
    services.run_export(job.pk)
    rows = WebhookDelivery.objects.order_by("pk").values_list("event", "payload__data")
    assert [(event, data["status"]) for event, data in rows] == [
        ("import.finished", "done"),
        ("export.finished", "done"),
    ]


def test_a_webhook_that_is_off_hears_nothing(webhook, project, annotator):
    services.update_webhook(webhook=webhook, is_active=False)
    factories.add_texts(project, 1)
    factories.judge(annotator, project)
    assert not WebhookDelivery.objects.exists()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "http://127.0.0.2/",
        "https://a:b@example.org/",
        "https://[::1]/",
        "/path",
        "http://x y/",
    ],
)
def test_addresses_that_are_refused(project, manager, url):
    with pytest.raises(Invalid):
        services.add_webhook(project=project, by=manager, url=url, events=["import.finished"])


def test_pages_and_api(webhook, receiver, manager_page, as_manager, project):
    address = f"/projects/{project.pk}/webhooks/"
    assert receiver.url in manager_page.get(address).content.decode()
    assert manager_page.post(address, {"url": "http://10.0.0.1/", "events": ["test"]}).status_code == 400
    assert manager_page.post(f"{address}{webhook.pk}/test/").status_code == 302
    services.deliver_due(now=timezone.now())
    assert "delivered" in manager_page.get(f"{address}{webhook.pk}/").content.decode()
    api = f"/api/v1/webhooks/{webhook.pk}/"
    assert as_manager.patch(api, {"is_active": False}).json()["is_active"] is False
    assert as_manager.post(f"{api}rotate/").json()["secret"] != webhook.secret
    (delivery,) = as_manager.get(f"{api}deliveries/").json()["results"]
    assert (delivery["event"], delivery["status"]) == ("test", "delivered")
    body = {"url": f"{receiver.url}/two", "events": ["export.finished"]}
    assert as_manager.post(f"/api/v1/projects/{project.pk}/webhooks/", body).status_code == 201
    assert (
        as_manager.post(f"/api/v1/projects/{project.pk}/webhooks/", {**body, "events": ["odd"]}).status_code
        == 400
    )
    assert as_manager.delete(api).status_code == 204
    assert Webhook.objects.count() == 1


# Fetching


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "::1",
     "fe80::1",      "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
     "ff02::1"],
)  # fmt: skip
def test_addresses_of_no_public_host(address):
    assert not is_public(address)


def test_public_addresses():
    assert all(map(is_public, ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"]))


def test_a_name_that_means_another_address_later_is_checked_where_it_is_connected_to(monkeypatch, settings):
    """DNS rebinding: whatever the first look-up said, the address that is connected to is the checked one."""
    answers = iter(["93.184.216.34", "127.0.0.1"])
    look_up = lambda host, port, **kind: [(2, 1, 6, "", (next(answers), port))]
    monkeypatch.setattr("annotation.fetching.socket.getaddrinfo", look_up)
    assert allowed_address("rebind.example", 80) == "93.184.216.34"
    with pytest.raises(FetchRefused, match="no public host"):
        fetch("http://rebind.example/", hosts=["rebind.example"], limit=10)


def test_one_private_address_of_several_is_enough(monkeypatch):
    both = [(2, 1, 6, "", ("93.184.216.34", 80)), (10, 1, 6, "", ("::1", 80, 0, 0))]
    monkeypatch.setattr("annotation.fetching.socket.getaddrinfo", lambda *a, **k: both)
    with pytest.raises(FetchRefused, match="no public host"):
        allowed_address("two.example", 80)


def test_fetching_follows_redirects_only_to_named_hosts(receiver):
    receiver.pages = {
        "/a": (302, {"Location": "/b"}, b""),
        "/b": (200, {}, b"picture"),
        "/out": (302, {"Location": "http://localhost:1/x"}, b""),
        "/loop": (302, {"Location": "/loop"}, b""),
        "/large": (200, {}, b"x" * 1000),
    }
    ask = lambda path: fetch(receiver.url + path, hosts=["127.0.0.*"], limit=100)
    assert ask("/a") == b"picture"
    for path, words in [
        ("/out", "nothing is fetched"),
        ("/loop", "leads on"),
        ("/large", "more than 100 bytes"),
    ]:
        with pytest.raises(FetchRefused, match=words):
            ask(path)
    with pytest.raises(FetchRefused, match="status 404"):
        ask("/none")
    with pytest.raises(FetchRefused, match="nothing is fetched"):
        fetch(receiver.url + "/a", hosts=[], limit=100)
    with pytest.raises(FetchRefused, match="name or password"):
        check_url(f"http://user:{uuid.uuid4()}@example.org/")


def test_pictures_by_address_need_the_allowlist(manager, receiver, settings):
    from tests.annotation.files import png, rejected

    receiver.pages = {"/a.png": (200, {}, png()), "/b.png": (200, {}, png(colour="blue"))}
    project = factories.make_project(by=manager, modality="image")
    urls = [f"{receiver.url}/{name}.png" for name in "ab"]
    data = jsonl({"prompt": "p", "chosen": urls[0], "rejected": urls[1]})
    ((_, field, reason),) = rejected(run(project, data))
    assert (field, "IMPORT_URL_ALLOWLIST" in reason, receiver.got) == ("candidates.0.image", True, [])
    settings.IMPORT_URL_ALLOWLIST = ["127.0.0.1"]
    assert run(project, data).accepted == 1
