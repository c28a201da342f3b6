"""Who may open what: every address and method against every role, outsiders, strangers and tokens.

A new address or method needs its line in PAGES or API below; without it a test here fails. The lines are
written by hand and not taken from `annotation.permissions`: they say what is meant.
"""

import re
from collections.abc import Iterator
from http.cookies import SimpleCookie
from typing import Any, NamedTuple

import pytest
from django.db import transaction
from django.urls import URLResolver, get_resolver, reverse
from rest_framework.test import APIClient

from annotation import services
from annotation.models import User
from tests.annotation.factories import make_project
from tests.webapp.access_world import NOBODY, OUTSIDER, ROLES, SIGNED_IN, World, make_world

pytestmark = pytest.mark.django_db
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

MANAGING = ("owner", "manager")
BROWSING = (*MANAGING, "reviewer", "viewer")
JUDGING = (*MANAGING, "reviewer", "annotator")
WATCHING = (*MANAGING, "viewer")
REVIEWING = (*MANAGING, "reviewer")
OWNING = ("owner",)
SITE_MANAGERS = ("owner", OUTSIDER)  # the project's manager is an annotator of the site
EVERYBODY = (*SIGNED_IN, NOBODY)
BOTH_FOR_EVERYBODY = {"GET": EVERYBODY, "POST": EVERYBODY}


class Route(NamedTuple):
    """The rows that its address names, who gets through with each method, and what is sent."""

    rows: dict[str, Any]
    who: dict[str, tuple[str, ...]]
    scopes: dict[str, str] = {}
    body: dict[str, Any] = {}
    stranger: int | None = None  # what outsiders get instead of a 404
    says: int | None = None  # what those get who get through, where it is no success


def of_project(**who: tuple[str, ...]) -> Route:
    return Route({"pk": "project"}, who)


def api(row: str | None, key: str = "pk", body: dict[str, Any] | None = None, **who: Any) -> Route:
    """Methods as METHOD=(roles, scope)."""
    rows = {key: row} if row else {}
    allowed = {method: roles for method, (roles, _) in who.items()}
    return Route(rows, allowed, {method: scope for method, (_, scope) in who.items()}, body or {})


def in_project(row: str, key: str = "", body: dict[str, Any] | None = None, **who: Any) -> Route:
    """An address that names a row of a project beside the project."""
    route = api("project", body=body, **who)
    return route._replace(rows=route.rows | {key or row: row})


def of_member(body: dict[str, Any] | None = None, **who: Any) -> Route:
    return in_project("annotator", "user", body, **who)


PAGES: dict[str, Route] = {
    "healthz": Route({}, {"GET": EVERYBODY}),
    "readyz": Route({}, {"GET": EVERYBODY}),
    "metrics": Route({}, {"GET": EVERYBODY}, says=404),  # where no METRICS_TOKEN is set
    "api-schema": Route({}, {"GET": EVERYBODY}),
    "set_language": Route({}, {"POST": EVERYBODY}),
    "annotation:sign_in": Route({}, {"GET": EVERYBODY, "POST": EVERYBODY}),
    "annotation:link": Route({}, {"GET": EVERYBODY}, says=403),  # without a secret in it
    "annotation:sign_out": Route({}, {"POST": EVERYBODY}),
    "annotation:home": Route({}, {"GET": SIGNED_IN}),
    "annotation:preview": Route({}, {"POST": SIGNED_IN}),
    "annotation:template_preview": Route({}, {"POST": SIGNED_IN}),
    "annotation:template_editor": Route({}, {"POST": SIGNED_IN}),
    "annotation:theme": Route({}, {"POST": EVERYBODY}),
    "annotation:keys": Route({}, {"GET": SIGNED_IN, "POST": SIGNED_IN}),
    "annotation:project_new": Route({}, {"GET": SITE_MANAGERS, "POST": SITE_MANAGERS}),
    "annotation:project": of_project(GET=ROLES),
    "annotation:project_edit": of_project(GET=MANAGING, POST=MANAGING),
    "annotation:members": of_project(GET=MANAGING, POST=MANAGING),
    "annotation:member_link": Route({"pk": "project", "user": "annotator"}, {"POST": OWNING}),
    "annotation:member_remove": Route({"pk": "project", "user": "annotator"}, {"POST": MANAGING}),
    "annotation:hand_over": Route({"pk": "project", "user": "annotator"}, {"GET": OWNING, "POST": OWNING}),
    "annotation:withdraw": of_project(GET=JUDGING, POST=JUDGING),
    "annotation:invitation": Route({"secret": "invitation_secret"}, BOTH_FOR_EVERYBODY),
    "annotation:invite": of_project(POST=MANAGING),
    "annotation:invitation_revoke": Route({"pk": "project", "invitation": "invitation"}, {"POST": MANAGING}),
    "annotation:tokens": Route({}, {"GET": SIGNED_IN, "POST": SIGNED_IN}),
    "annotation:token_revoke": Route({"pk": "token"}, {"POST": SIGNED_IN}),
    "annotation:audit": of_project(GET=OWNING),
    "annotation:member": Route({"pk": "project", "user": "annotator"}, {"GET": MANAGING, "POST": MANAGING}),
    "annotation:member_pause": Route({"pk": "project", "user": "annotator"}, {"POST": MANAGING}),
    "annotation:member_resume": Route({"pk": "project", "user": "annotator"}, {"POST": MANAGING}),
    "annotation:member_set_aside": Route({"pk": "project", "user": "annotator"}, {"POST": MANAGING}),
    "annotation:restore": Route({"pk": "project", "record": "aside"}, {"POST": MANAGING}),
    "annotation:assignment": of_project(GET=MANAGING, POST=MANAGING),
    "annotation:consent_text": of_project(POST=MANAGING),
    "annotation:consent": of_project(GET=JUDGING, POST=JUDGING),
    "annotation:changes": of_project(GET=MANAGING),
    "annotation:groups": of_project(GET=MANAGING, POST=MANAGING),
    "annotation:group": Route({"pk": "project", "group": "group"}, {"GET": MANAGING, "POST": MANAGING}),
    "annotation:group_remove": Route({"pk": "project", "group": "group"}, {"POST": MANAGING}),
    "annotation:gold": of_project(GET=MANAGING),
    "annotation:gold_remove": Route({"pk": "project", "answer": "gold"}, {"POST": MANAGING}),
    "annotation:overlap": Route({"pk": "project", "comparison": "comparison"}, {"POST": MANAGING}),
    "annotation:gold_set": Route(
        {"pk": "project", "comparison": "comparison"}, {"GET": MANAGING, "POST": MANAGING}
    ),
    "annotation:skipped": of_project(GET=MANAGING),
    "annotation:review": Route(
        {"pk": "project"}, {"GET": REVIEWING, "POST": REVIEWING}, body={"lease": "review_lease"}
    ),
    "annotation:guidelines": of_project(GET=ROLES),
    "annotation:judge": of_project(GET=JUDGING),
    "annotation:judge_submit": Route({"pk": "project"}, {"POST": JUDGING}, body={"lease": "lease"}),
    "annotation:judge_skip": Route({"pk": "project"}, {"POST": JUDGING}, body={"lease": "lease"}),
    "annotation:judge_undo": Route({"pk": "project"}, {"POST": JUDGING}, body={"judgement": "judgement"}),
    "annotation:history": of_project(GET=JUDGING),
    "annotation:session": of_project(GET=JUDGING),
    "annotation:imports": of_project(GET=MANAGING, POST=MANAGING),
    "annotation:import": Route({"pk": "import"}, {"GET": MANAGING}),
    "annotation:import_rejected": Route({"pk": "import"}, {"GET": MANAGING}),
    "annotation:exports": of_project(GET=MANAGING, POST=MANAGING),
    "annotation:data": of_project(GET=BROWSING),
    "annotation:webhooks": of_project(GET=MANAGING, POST=MANAGING),
    "annotation:webhook": Route({"pk": "project", "webhook": "webhook"}, {"GET": MANAGING}),
    "annotation:webhook_action": Route(
        {"pk": "project", "webhook": "webhook", "action": "rotate"}, {"POST": MANAGING}
    ),
    "annotation:judgements": of_project(GET=BROWSING),
    "annotation:judgement_edit": Route(
        {"pk": "project", "judgement": "judgement"}, {"GET": MANAGING, "POST": MANAGING}
    ),
    "annotation:comparison_edit": Route(
        {"pk": "project", "comparison": "comparison"}, {"GET": MANAGING, "POST": MANAGING}
    ),
    "annotation:comparison_delete": Route({"pk": "project", "comparison": "comparison"}, {"POST": MANAGING}),
    "annotation:comparison": Route({"pk": "project", "comparison": "comparison"}, {"GET": BROWSING}),
    "annotation:candidate_image": Route(
        {"pk": "picture_project", "comparison": "picture", "index": 0}, {"GET": BROWSING}
    ),
    "annotation:prompt_image": Route(
        {"pk": "picture_project", "comparison": "picture", "number": 0}, {"GET": BROWSING}
    ),
    "annotation:quality": of_project(GET=BROWSING),
    "annotation:agreement": of_project(GET=BROWSING),
    "annotation:quality_annotator": Route(
        {"pk": "project", "user": "annotator"}, {"GET": (*BROWSING, "annotator")}
    ),
    "annotation:leaderboard": of_project(GET=BROWSING),
    "training:overview": of_project(GET=WATCHING),
    "training:runs": of_project(GET=WATCHING),
    "training:run_new": of_project(GET=MANAGING, POST=MANAGING),
    "training:compare": of_project(GET=WATCHING),
    "training:run": Route({"pk": "run"}, {"GET": WATCHING}),
    "training:run_progress": Route({"pk": "run"}, {"GET": WATCHING}),
    "training:run_sample": Route({"pk": "run", "name": "abc.png"}, {"GET": WATCHING}),
    "training:run_gallery": Route({"pk": "scoring"}, {"GET": WATCHING}),
    "training:run_picture": Route({"pk": "drawing", "name": "0.png"}, {"GET": WATCHING}),
    "training:run_action": Route({"pk": "run", "action": "cancel"}, {"POST": MANAGING}),
    "training:job_new": Route({"pk": "project", "job": "generate"}, {"GET": MANAGING, "POST": MANAGING}),
    "training:run_suggestions": Route({"pk": "run"}, {"POST": MANAGING}),
    "training:run_priorities": Route({"pk": "run"}, {"POST": MANAGING}),
    "training:run_comparisons": Route({"pk": "run"}, {"POST": MANAGING}),
    "training:models": of_project(GET=WATCHING, POST=OWNING),
    "training:checkpoint_download": Route({"pk": "checkpoint"}, {"GET": MANAGING}),
    "training:checkpoint_upload": Route({"pk": "checkpoint"}, {"POST": MANAGING}),
    "training:matches": of_project(GET=WATCHING, POST=MANAGING),
    "training:match": Route({"pk": "match"}, {"GET": WATCHING}),
    "training:arena": of_project(GET=ROLES, POST=JUDGING),
    "training:arena_models": of_project(POST=MANAGING),
    "training:duel": Route({"pk": "duel"}, {"GET": JUDGING}),
    "training:duel_vote": Route({"pk": "duel"}, {"POST": JUDGING}),
    "training:duel_action": Route({"pk": "duel", "action": "leave"}, {"POST": JUDGING}),
    "training:schedules": of_project(GET=WATCHING, POST=MANAGING),
    "training:round": Route({"pk": "round"}, {"GET": WATCHING}),
    "training:round_action": Route({"pk": "round", "action": "cancel"}, {"POST": MANAGING}),
    "training:schedule_action": Route({"pk": "schedule", "action": "disable"}, {"POST": MANAGING}),
}

# django-allauth's pages are about the person who asks; these show something to strangers, the others do not.
THEIRS_FOR_ALL = {
    "account_inactive",
    "socialaccount_login_cancelled",
    "socialaccount_login_error",
}
THEIRS = THEIRS_FOR_ALL | {
    "account_login",
    "account_reauthenticate",
    "mfa_authenticate",
    "mfa_index",
    "mfa_reauthenticate",
    "mfa_activate_totp",
    "mfa_deactivate_totp",
    "mfa_view_recovery_codes",
    "mfa_generate_recovery_codes",
    "mfa_download_recovery_codes",
    "socialaccount_connections",
    "socialaccount_signup",
    "openid_connect_login",
    "openid_connect_callback",
}
LISTED = (SIGNED_IN, "read")  # everybody sees the list of what is theirs
IN_PROJECT = {"project": "project"}
API: dict[str, Route] = {
    "project-list": api(
        None, body={"name": "x", "modality": "text"}, GET=LISTED, POST=(SITE_MANAGERS, "manage")
    ),
    "project-detail": api("project", GET=(ROLES, "read"), PATCH=(MANAGING, "manage")),
    "project-template-versions": api("project", GET=(ROLES, "read")),
    "project-members": api("project", GET=(MANAGING, "manage"), POST=(MANAGING, "manage")),
    "project-invitations": api("project", GET=(MANAGING, "manage"), POST=(MANAGING, "manage")),
    "invitation-detail": api("invitation", DELETE=(MANAGING, "manage")),
    "project-audit": api("project", GET=(OWNING, "manage")),
    "project-history": api("project", GET=(JUDGING, "judge")),
    "project-imports": api("project", POST=(MANAGING, "manage")),
    "project-suggestions": api("project", POST=(MANAGING, "manage")),
    "project-webhooks": api("project", GET=(MANAGING, "manage"), POST=(MANAGING, "manage")),
    "webhook-detail": api("webhook", PATCH=(MANAGING, "manage"), DELETE=(MANAGING, "manage")),
    "webhook-rotate": api("webhook", POST=(MANAGING, "manage")),
    "webhook-deliveries": api("webhook", GET=(MANAGING, "manage")),
    "project-comparisons": api("project", GET=(BROWSING, "read")),
    "project-judgements": api("project", GET=(BROWSING, "read")),
    "project-quality": api("project", GET=(BROWSING, "read")),
    "project-consensus": api("project", GET=(BROWSING, "read")),
    "project-annotators": api("project", GET=(BROWSING, "read")),
    "project-leaderboard": api("project", GET=(BROWSING, "read")),
    "project-slips": api("project", GET=(BROWSING, "read")),
    "project-disputed": api("project", GET=(BROWSING, "read")),
    "project-annotator-pairs": api("project", GET=(BROWSING, "read")),
    "comparison-detail": api(
        "comparison", GET=(BROWSING, "read"), PATCH=(MANAGING, "manage"), DELETE=(MANAGING, "manage")
    ),
    "judgement-detail": api("judgement", GET=(BROWSING, "read"), PATCH=(MANAGING, "manage")),
    "judgement-set-aside": api("judgement", POST=(MANAGING, "manage")),
    "import-detail": api("import", GET=(MANAGING, "manage")),
    "project-exports": api("project", POST=(MANAGING, "read")),
    "export-detail": api("export", GET=(MANAGING, "read")),
    "export-download": api("export", GET=(MANAGING, "read")),
    "lease-media": api("picture_lease", "lease", GET=(JUDGING, "judge")),
    "lease-prompt-media": api("picture_lease", "lease", GET=(JUDGING, "judge")),
    "project-next": api("project", POST=(JUDGING, "judge")),
    "lease-judgement": api(
        "lease",
        "lease",
        {"client_id": "00000000-0000-4000-8000-000000000001", "choice": 0},
        POST=(JUDGING, "judge"),
    ),
    "lease-renew": api("lease", "lease", POST=(JUDGING, "judge")),
    "lease-skip": api("lease", "lease", POST=(JUDGING, "judge")),
    "judgement-undo": api("judgement", POST=(JUDGING, "judge")),
    "project-assignment": api("project", GET=(MANAGING, "manage"), PATCH=(MANAGING, "manage")),
    "project-standing": api("project", GET=(ROLES, "read")),
    "annotator-groups": api(
        "project", body={"name": "x"}, GET=(MANAGING, "manage"), POST=(MANAGING, "manage")
    ),
    "annotator-group": in_project("group", PATCH=(MANAGING, "manage"), DELETE=(MANAGING, "manage")),
    "project-member": of_member(
        GET=(MANAGING, "manage"), PATCH=(MANAGING, "manage"), DELETE=(MANAGING, "manage")
    ),
    "member-pause": of_member(POST=(MANAGING, "manage")),
    "member-resume": of_member(POST=(MANAGING, "manage")),
    "member-set-aside": of_member(body={"reason": "x"}, POST=(MANAGING, "manage")),
    "set-aside-restore": in_project("aside", "record", POST=(MANAGING, "manage")),
    "consent-text": api("project", body={"text": "x"}, GET=(ROLES, "read"), PUT=(MANAGING, "manage")),
    "consent": api("project", body={"version": 1}, POST=(JUDGING, "judge")),
    "withdrawal": api(
        "project", body={"judgements": "keep"}, POST=(JUDGING, "judge"), DELETE=(JUDGING, "judge")
    ),
    "member-hand-over": of_member(POST=(OWNING, "manage")),
    "gold-answers": api("project", GET=(MANAGING, "manage"), POST=(MANAGING, "manage")),
    "gold-answer": in_project("gold", "answer", DELETE=(MANAGING, "manage")),
    "project-priorities": api("project", POST=(MANAGING, "manage")),
    "project-overlap": api("project", POST=(MANAGING, "manage")),
    "review-next": api("project", POST=(REVIEWING, "judge")),
    "project-changes": api("project", GET=(MANAGING, "manage")),
    "project-skipped": api("project", GET=(MANAGING, "manage")),
    "api-runs": api(
        None, body=IN_PROJECT | {"method": "x", "base": "y"}, GET=LISTED, POST=(MANAGING, "train")
    )._replace(stranger=400),
    "api-generations": api(None, body=IN_PROJECT | {"base": "y"}, POST=(MANAGING, "train"))._replace(
        stranger=400
    ),
    "api-scorings": api(None, body=IN_PROJECT | {"base": "y"}, POST=(MANAGING, "train"))._replace(
        stranger=400
    ),
    "api-evaluations": api(None, body=IN_PROJECT | {"base": "y"}, POST=(MANAGING, "train"))._replace(
        stranger=400
    ),
    "api-run-report": api("run", GET=(WATCHING, "read"))._replace(says=409),  # it trains
    "api-run-overoptimisation": api("run", GET=(WATCHING, "read")),
    "api-checkpoint-evaluations": api("checkpoint", GET=(WATCHING, "read")),
    "api-run-suggestions": api("run", POST=(MANAGING, "train")),
    "api-run-priorities": api("run", POST=(MANAGING, "train")),
    "api-run-comparisons": api("run", POST=(MANAGING, "train")),
    "api-run": api("run", GET=(WATCHING, "read")),
    "api-run-metrics": api("run", GET=(WATCHING, "read")),
    "api-run-cancel": api("run", POST=(MANAGING, "train")),
    "api-run-start": api("run", POST=(MANAGING, "train")),
    "api-run-retry": api("run", POST=(MANAGING, "train")),
    "api-checkpoints": api(None, GET=LISTED),
    "api-checkpoint-download": api("checkpoint", GET=(MANAGING, "train")),
    "api-checkpoint-uploads": api(
        "checkpoint",
        body={"repository": "us/our-model"},
        GET=(MANAGING, "train"),
        POST=(MANAGING, "train"),
    ),
    "api-models": api(None, GET=(SITE_MANAGERS, "train"), POST=(SITE_MANAGERS, "train")),
    "api-matches": api(
        None, body=IN_PROJECT | {"left": "x", "right": "y"}, GET=LISTED, POST=(MANAGING, "train")
    )._replace(stranger=400),
    "api-match": api("match", GET=(WATCHING, "read")),
    "api-arena": api(
        "project", body={"models": ["tiny", "small"]}, GET=(ROLES, "read"), PUT=(MANAGING, "train")
    ),
    "api-arena-leaderboard": api("project", GET=(BROWSING, "read")),
    "api-duels": api("project", body={"prompt": "x"}, POST=(JUDGING, "judge")),
    "api-duel": api("duel", GET=(JUDGING, "judge"), DELETE=(JUDGING, "judge")),
    "api-duel-more": api("duel", body={"prompt": "x"}, POST=(JUDGING, "judge")),
    "api-duel-retry": api("duel", POST=(JUDGING, "judge")),
    "api-schedules": api(
        None, body=IN_PROJECT | {"name": "x", "plan": []}, GET=LISTED, POST=(MANAGING, "train")
    )._replace(stranger=400),
    "api-schedule": api(
        "schedule", GET=(WATCHING, "read"), PATCH=(MANAGING, "train"), DELETE=(MANAGING, "train")
    ),
    "api-rounds": api(None, GET=LISTED),
    "api-round": api("round", GET=(WATCHING, "read")),
    "api-round-retry": api("round", POST=(MANAGING, "train")),
    "api-round-cancel": api("round", POST=(MANAGING, "train")),
    "api-checkpoint-lineage": api("checkpoint", GET=(MANAGING, "train")),
    "api-checkpoint-promotion": api("checkpoint", POST=(MANAGING, "train")),
}
EXTRA_KEYS = {"lease-media": {"position": 0}, "lease-prompt-media": {"number": 0}}


def patterns(resolver: URLResolver, namespace: str = "", start: str = "") -> Iterator[tuple[str, str]]:
    """Names and routes of every address."""
    for entry in resolver.url_patterns:
        if isinstance(entry, URLResolver):
            inner = f"{namespace}{entry.namespace}:" if entry.namespace else namespace
            yield from patterns(entry, inner, start + str(entry.pattern))
        else:
            yield f"{namespace}{entry.name}", start + str(entry.pattern)


@pytest.fixture
def world(settings, tmp_path) -> World:
    storage = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": tmp_path}}
    settings.STORAGES = {**settings.STORAGES, "default": storage}
    return make_world(tmp_path)


def filled(world: World, given: Any, who: str) -> Any:
    """The row that a table's entry names, for this person; else the entry itself."""
    known = isinstance(given, str) and (given in world.rows or (given, "owner") in world.rows)
    return world.row(given, who if who in SIGNED_IN else "owner") if known else given


def address_of(world: World, name: str, who: str) -> str:
    route = PAGES[name] if name in PAGES else API[name]
    keys = {**route.rows, **EXTRA_KEYS.get(name, {})}
    return reverse(name, kwargs={key: filled(world, given, who) for key, given in keys.items()})


def ask(world: World, name: str, method: str, who: str, client: Any = None) -> Any:
    """What this person gets; nothing that it changes stays."""
    route = PAGES[name] if name in PAGES else API[name]
    address = address_of(world, name, who)
    client = client or (world.pages if name in PAGES else world.apis)[who]
    body = {key: filled(world, given, who) for key, given in route.body.items()} if method != "GET" else None
    cookies = client.cookies.output()
    with transaction.atomic():
        response = getattr(client, method.lower())(address, body)
        transaction.set_rollback(True)
    client.cookies = SimpleCookie(cookies.replace("Set-Cookie: ", ""))
    return response


def got_through(response: Any, route: Route) -> bool:
    if route.says:
        return response.status_code == route.says
    refused = response.status_code in (401, 403, 404)
    return not (refused or re.match(r"/sign-in/\?next=", response.get("Location", "")))


def test_every_address_has_a_line():
    found = dict(patterns(get_resolver()))
    assert found.keys() == PAGES.keys() | API.keys() | THEIRS
    assert {name for name, route in found.items() if route.startswith("api/v1/")} == API.keys()


def test_every_method_has_a_line(world):
    wrong = []
    for name, route in {**PAGES, **API}.items():
        answered = {method for method in METHODS if ask(world, name, method, "owner").status_code != 405}
        if answered != set(route.who):
            wrong.append(f"{name} answers to {sorted(answered)}, but its line says {sorted(route.who)}")
    assert not wrong, "\n".join(wrong)


def test_pages_of_the_account(world):
    wrong = []
    for name in sorted(THEIRS):
        address = reverse(name, kwargs={"provider_id": "sso"} if name.startswith("openid") else {})
        for who in (NOBODY, "annotator"):
            for method in ("get", "post"):
                response = getattr(world.pages[who], method)(address)
                shows = response.status_code == 200 and name not in THEIRS_FOR_ALL
                if response.status_code >= 500 or (shows and who == NOBODY):
                    wrong.append(f"{who} {method} {name}: {response.status_code}")
    assert not wrong, "\n".join(wrong)


def test_who_gets_through(world):
    wrong = []
    for name, route in {**PAGES, **API}.items():
        for method, allowed in route.who.items():
            for who in EVERYBODY:
                response = ask(world, name, method, who)
                expected = {True} if who in allowed else _refusals(name, route, who)
                found = True if got_through(response, route) else response.status_code
                if response.status_code >= 500 or (
                    found not in expected and response.status_code not in expected
                ):
                    wrong.append(f"{who} {method} {name}: {response.status_code}, not {expected}")
    assert not wrong, "\n".join(wrong)


def _refusals(name: str, route: Route, who: str) -> set[Any]:
    if who == NOBODY:
        return {401} if name in API else {302}
    if who == OUTSIDER and route.rows:
        return {404}
    if who == OUTSIDER and route.stranger:
        return {route.stranger}
    return {403}


def test_tokens_reach_as_far_as_their_scopes(world):
    """The owner with a token of each single scope, and with one for another project."""
    owner = world.users["owner"]
    elsewhere = make_project(by=owner, name="Elsewhere")
    clients = {scope: token_client(owner, scopes=[scope]) for scope in ("read", "judge", "manage", "train")}
    abroad = token_client(owner, project=elsewhere)
    wrong = []
    for name, route in API.items():
        for method, needed in route.scopes.items():
            for scope, client in clients.items():
                status = ask(world, name, method, "owner", client).status_code
                if (status in (401, 403, 404)) != (scope != needed) or (scope != needed and status != 403):
                    wrong.append(f"{scope} {method} {name}: {status}, and {needed} is needed")
            status = ask(world, name, method, "owner", abroad).status_code
            if route.rows and status != 404:
                wrong.append(f"a token for another project: {method} {name}: {status}")
    assert not wrong, "\n".join(wrong)


def token_client(user: User, **values: Any) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {services.issue_token(user=user, **values)}")
    return client


@pytest.mark.parametrize(
    "name", ["project-list", "api-runs", "api-checkpoints", "api-matches", "api-schedules"]
)
def test_lists_hold_only_what_one_may_see(world, name):
    watching = ROLES if name == "project-list" else WATCHING
    for who in SIGNED_IN:
        body = ask(world, name, "GET", who).json()
        rows = body["results"] if isinstance(body, dict) else body
        assert bool(rows) == (who in watching), who
    abroad = token_client(
        world.users["owner"], project=make_project(by=world.users["owner"], name="Elsewhere")
    )
    body = ask(world, name, "GET", "owner", abroad).json()
    rows = body["results"] if isinstance(body, dict) else body
    assert [row["name"] for row in rows] == (["Elsewhere"] if name == "project-list" else [])
