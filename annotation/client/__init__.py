"""A small client of the HTTP API, of the standard library alone: `Client("https://…", token)`.

A method for each call. What may be repeated without harm is sent again when it got no answer; what may
not, such as starting a run, is not. Refusals are `ApiError` with the server's sentence and its field paths.
"""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

from annotation.client.connection import ROOT, ApiError, Connection, query_of
from annotation.client.shapes import Candidate, Row, Shown, Stored

__all__ = ["ApiError", "Candidate", "Client", "Row", "Shown", "Stored"]

POLL: Final = 0.5  # seconds
UNFINISHED: Final = ("queued", "running")


class Client:
    """One connection, for one thread. A context manager."""

    def __init__(self, url: str, token: str, *, timeout: float = 60.0) -> None:
        self._connection = Connection(url, token, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    # Projects and people

    def projects(self) -> Iterator[Row]:
        return self.rows("projects/")

    def create_project(self, name: str, modality: str, **values: Any) -> Row:
        return self.call("POST", "projects/", {"name": name, "modality": modality, **values})

    def project(self, project: int) -> Row:
        return self.call("GET", f"projects/{project}/")

    def change_project(self, project: int, **values: Any) -> Row:
        return self.call("PATCH", f"projects/{project}/", values)

    def template_versions(self, project: int) -> list[Row]:
        return self.call("GET", f"projects/{project}/template-versions/")

    def audit(self, project: int, **filters: Any) -> Iterator[Row]:
        return self.rows(f"projects/{project}/audit/", **filters)

    def members(self, project: int) -> list[Row]:
        return self.call("GET", f"projects/{project}/members/")

    def add_member(self, project: int, username: str, role: str) -> Row:
        return self._post(f"projects/{project}/members/", {"username": username, "role": role})

    def member(self, project: int, user: int) -> Row:
        return self.call("GET", f"projects/{project}/members/{user}/")

    def change_member(self, project: int, user: int, **values: Any) -> Row:
        """`group`, `quota`, `daily_cap`, `excused`."""
        return self.call("PATCH", f"projects/{project}/members/{user}/", values)

    def remove_member(self, project: int, user: int) -> None:
        self.call("DELETE", f"projects/{project}/members/{user}/")

    def hand_over(self, project: int, user: int) -> Row:
        """Make this member an owner in one's own place."""
        return self.call("POST", f"projects/{project}/members/{user}/hand-over/")

    def pause_member(self, project: int, user: int, reason: str = "") -> Row:
        return self._post(f"projects/{project}/members/{user}/pause/", {"reason": reason})

    def resume_member(self, project: int, user: int) -> Row:
        return self._post(f"projects/{project}/members/{user}/resume/")

    def set_aside(self, project: int, user: int, reason: str, *, since: str | None = None) -> Row:
        """Let a member's judgements no longer count; `changes` says how far that is."""
        body = {"reason": reason, "since": since}
        return self.call("POST", f"projects/{project}/members/{user}/set-aside/", body)

    def restore(self, project: int, record: int) -> Row:
        """Let what was set aside count again."""
        return self.call("POST", f"projects/{project}/set-aside/{record}/restore/")

    def changes(self, project: int) -> Iterator[Row]:
        """Changes to many rows, made in the background, and how far each is."""
        return self.rows(f"projects/{project}/changes/")

    def wait_for_changes(self, project: int, *, seconds: float = 600.0) -> list[Row]:
        """Every change to the project once none is under way. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while True:
            found = list(self.changes(project))
            if not any(change["status"] in UNFINISHED for change in found):
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"The changes to project {project} have not ended after {seconds:g} seconds."
                )
            time.sleep(POLL)

    def invitations(self, project: int) -> list[Row]:
        return self.call("GET", f"projects/{project}/invitations/")

    def invite(self, project: int, role: str, note: str = "") -> Row:
        """The invitation, with the `link` to send."""
        return self.call("POST", f"projects/{project}/invitations/", {"role": role, "note": note})

    def revoke_invitation(self, invitation: int) -> None:
        self.call("DELETE", f"invitations/{invitation}/")

    # Assignment

    def assignment(self, project: int) -> Row:
        return self.call("GET", f"projects/{project}/assignment/")

    def change_assignment(self, project: int, **values: Any) -> Row:
        return self.call("PATCH", f"projects/{project}/assignment/", values)

    def groups(self, project: int) -> list[Row]:
        return self.call("GET", f"projects/{project}/annotator-groups/")

    def add_group(self, project: int, name: str, **values: Any) -> Row:
        """`attributes` and `reserved_labels` are options."""
        return self.call("POST", f"projects/{project}/annotator-groups/", {"name": name, **values})

    def change_group(self, project: int, group: int, **values: Any) -> Row:
        return self.call("PATCH", f"projects/{project}/annotator-groups/{group}/", values)

    def remove_group(self, project: int, group: int) -> None:
        self.call("DELETE", f"projects/{project}/annotator-groups/{group}/")

    def consent_text(self, project: int) -> Row | None:
        return self.call("GET", f"projects/{project}/consent-text/")

    def publish_consent_text(self, project: int, text: str) -> Row | None:
        return self.call("PUT", f"projects/{project}/consent-text/", {"text": text})

    def give_consent(self, project: int, version: int) -> Row:
        return self._post(f"projects/{project}/consent/", {"version": version})

    def gold(self, project: int) -> Iterator[Row]:
        return self.rows(f"projects/{project}/gold/")

    def set_gold(self, project: int, comparison: int, answer: Mapping[str, Any], **values: Any) -> Row:
        """A known answer, in canonical indices; `purpose` and `explanation` are options."""
        return self._post(f"projects/{project}/gold/", {"comparison": comparison, "answer": answer, **values})

    def remove_gold(self, project: int, answer: int) -> None:
        self.call("DELETE", f"projects/{project}/gold/{answer}/")

    def set_priority(self, project: int, comparisons: Sequence[int], priority: int) -> Row:
        body = {"comparisons": list(comparisons), "priority": priority}
        return self._post(f"projects/{project}/priorities/", body)

    def set_overlap(self, project: int, comparisons: Sequence[int], labels: int) -> Row:
        """Have comparisons judged by so many people."""
        body = {"comparisons": list(comparisons), "labels": labels}
        return self._post(f"projects/{project}/overlap/", body)

    def skipped(self, project: int) -> Iterator[Row]:
        return self.rows(f"projects/{project}/skipped/")

    # In and out

    def import_file(self, project: int, path: Path, format: str, **options: bool | str) -> Row:
        """Upload a file; the job, as it is queued. `held_out`, `skip_duplicates` and `use` are options."""
        fields = {"format": format} | {name: str(value).lower() for name, value in options.items()}
        return self._connection.upload(f"projects/{project}/imports/", path, fields)

    def import_job(self, job: int, *, after_line: int | None = None) -> Row:
        """How far an import is, and its rejected rows."""
        return self.call("GET", f"imports/{job}/{query_of({'after_line': after_line})}")

    def export(self, project: int, format: str, **options: Any) -> Row:
        """Ask for a file; `filters` and `container` are options."""
        return self.call("POST", f"projects/{project}/exports/", {"format": format, **options})

    def export_job(self, job: int) -> Row:
        return self.call("GET", f"exports/{job}/")

    def export_file(self, job: int, to: Path) -> Path:
        return self.save(f"{ROOT}exports/{job}/download/", to)

    def wait(self, kind: Literal["imports", "exports"], job: int, *, seconds: float = 600.0) -> Row:
        """The job when it has ended. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while (found := self.call("GET", f"{kind}/{job}/"))["status"] in UNFINISHED:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Job {job} has not ended after {seconds:g} seconds.")
            time.sleep(POLL)
        return found

    def download(self, path: str) -> bytes:
        """What lies at a path that the server named: an export's file, a comparison's picture."""
        return self._connection.send("GET", path, None, again=True)

    def save(self, path: str, to: Path) -> Path:
        """The same, written into a file as it comes; the file is there once it is whole."""
        return self._connection.save(path, to)

    def suggest(self, project: int, model: str, suggestions: Sequence[Mapping[str, Any]]) -> Row:
        """Store what a model says: `{comparison, answer}` each, in canonical indices."""
        body = {"model": model, "suggestions": list(suggestions)}
        return self._post(f"projects/{project}/suggestions/", body)

    def webhooks(self, project: int) -> list[Row]:
        return self.call("GET", f"projects/{project}/webhooks/")

    def add_webhook(self, project: int, url: str, events: Sequence[str], **values: Any) -> Row:
        body = {"url": url, "events": list(events), **values}
        return self.call("POST", f"projects/{project}/webhooks/", body)

    def change_webhook(self, webhook: int, **values: Any) -> Row:
        return self.call("PATCH", f"webhooks/{webhook}/", values)

    def remove_webhook(self, webhook: int) -> None:
        self.call("DELETE", f"webhooks/{webhook}/")

    def rotate_secret(self, webhook: int) -> Row:
        return self.call("POST", f"webhooks/{webhook}/rotate/")

    def deliveries(self, webhook: int) -> Iterator[Row]:
        return self.rows(f"webhooks/{webhook}/deliveries/")

    # What is there

    def comparisons(self, project: int, **filters: Any) -> Iterator[Row]:
        return self.rows(f"projects/{project}/comparisons/", **filters)

    def comparison(self, comparison: int) -> Row:
        return self.call("GET", f"comparisons/{comparison}/")

    def edit_comparison(self, comparison: int, **values: Any) -> Row:
        """`prompt`, `texts`, `held_out`."""
        return self.call("PATCH", f"comparisons/{comparison}/", values)

    def delete_comparison(self, comparison: int) -> None:
        self.call("DELETE", f"comparisons/{comparison}/")

    def judgements(self, project: int, **filters: Any) -> Iterator[Row]:
        return self.rows(f"projects/{project}/judgements/", **filters)

    def judgement(self, judgement: int) -> Row:
        return self.call("GET", f"judgements/{judgement}/")

    def correct_judgement(self, judgement: int, answer: Mapping[str, Any], reason: str) -> Row:
        return self.call("PATCH", f"judgements/{judgement}/", {"answer": answer, "reason": reason})

    def set_aside_judgement(self, judgement: int, reason: str) -> Row:
        return self.call("POST", f"judgements/{judgement}/set-aside/", {"reason": reason})

    # Quality

    def quality(self, project: int) -> Row:
        return self.call("GET", f"projects/{project}/quality/")

    def annotators(self, project: int) -> Row:
        return self.call("GET", f"projects/{project}/quality/annotators/")

    def annotator_pairs(self, project: int) -> Iterator[Row]:
        """Cohen's kappa of each two annotators."""
        return self.rows(f"projects/{project}/quality/pairs/")

    def slips(self, project: int) -> Iterator[Row]:
        """Judgements that look flipped, least likely first."""
        return self.rows(f"projects/{project}/quality/slips/")

    def disputed(self, project: int) -> Iterator[Row]:
        """Comparisons about which least is settled."""
        return self.rows(f"projects/{project}/quality/disputed/")

    def consensus(self, project: int) -> Iterator[Row]:
        """What is probably right about each comparison, and how sure that is."""
        return self.rows(f"projects/{project}/quality/consensus/")

    def leaderboard(self, project: int, *, by_length: bool = False) -> Row:
        query = query_of({"by_length": "true" if by_length else None})
        return self.call("GET", f"projects/{project}/quality/leaderboard/{query}")

    # Judging

    def standing(self, project: int) -> Row:
        """What one may still do in a project, and what stands in the way."""
        return self.call("GET", f"projects/{project}/standing/")

    def next(self, project: int, *, after: str | None = None) -> Shown | None:
        """The next comparison for this user; None: nothing is left. `after`: the one behind this lease."""
        return cast(Shown | None, self._post(f"projects/{project}/next/{query_of({'after': after})}"))

    def next_review(self, project: int, *, after: str | None = None) -> Shown | None:
        """The next comparison whose judges disagree, with what they said; None when nothing waits."""
        return cast(Shown | None, self._post(f"projects/{project}/review/next/{query_of({'after': after})}"))

    def judge(
        self, lease: str, answer: Mapping[str, Any], *, client_id: str | None = None, want_next: bool = False
    ) -> Stored:
        """Answer what one holds, candidates as presented positions."""
        body = {"client_id": client_id or str(uuid.uuid4()), **answer}
        query = query_of({"next": 1 if want_next else None})
        return cast(Stored, self._post(f"leases/{lease}/judgement/{query}", body))

    def renew(self, lease: str) -> Row:
        return self._post(f"leases/{lease}/renew/")

    def skip(self, lease: str, reason: str = "") -> Row:
        return self._post(f"leases/{lease}/skip/", {"reason": reason})

    def undo(self, judgement: int) -> Shown:
        return cast(Shown, self.call("POST", f"judgements/{judgement}/undo/"))

    def history(self, project: int) -> list[Row]:
        """One's last twenty answers, newest first."""
        return self.call("GET", f"projects/{project}/history/")

    def picture(self, lease: str, position: int) -> bytes:
        return self.download(f"{ROOT}leases/{lease}/media/{position}")

    def prompt_picture(self, lease: str, number: int) -> bytes:
        return self.download(f"{ROOT}leases/{lease}/prompt-media/{number}")

    def withdraw(self, project: int, judgements: Literal["keep", "delete"]) -> Row:
        """Take no longer part, and keep or delete what one said."""
        return self.call("POST", f"projects/{project}/withdrawal/", {"judgements": judgements})

    def take_part_again(self, project: int) -> None:
        self.call("DELETE", f"projects/{project}/withdrawal/")

    # Tuning

    def models(self) -> list[Row]:
        return self.call("GET", "models/")

    def register_model(self, name: str, modality: str, location: str) -> Row:
        body = {"name": name, "modality": modality, "location": location}
        return self.call("POST", "models/", body)

    def runs(self, project: int | None = None) -> list[Row]:
        return self.call("GET", f"runs/{query_of({'project': project})}")

    def start_run(self, project: int, method: str, base: str, **values: Any) -> Row:
        """With `start=False` a draft, for `start_draft`."""
        return self.call("POST", "runs/", {"project": project, "method": method, "base": base, **values})

    def generate(self, project: int, base: str, **values: Any) -> Row:
        """A run that answers prompts; `prompts`, `config`, `reward` and `seed` are options."""
        return self.call("POST", "generations/", {"project": project, "base": base, **values})

    def score(self, project: int, **values: Any) -> Row:
        """A run that scores candidates by a `base` or a `reward` list; `groups` and `config` are options."""
        return self.call("POST", "scorings/", {"project": project, **values})

    def evaluate(self, project: int, **values: Any) -> Row:
        """A run that says how right a `base` or a `reward` list is; `groups` and `config` are options."""
        return self.call("POST", "evaluations/", {"project": project, **values})

    def report(self, run: int) -> Row:
        """What an evaluation found."""
        return self.call("GET", f"runs/{run}/report/")

    def overoptimisation(self, run: int) -> Row:
        """The proxy, the gold reward and people against the root of the KL."""
        return self.call("GET", f"runs/{run}/overoptimisation/")

    def evaluations(self, checkpoint: int) -> list[Row]:
        """The reports on a reward model, newest first."""
        return self.call("GET", f"checkpoints/{checkpoint}/evaluations/")

    def run(self, run: int) -> Row:
        return self.call("GET", f"runs/{run}/")

    def metrics(self, run: int, *, after: int | None = None) -> Any:
        return self.call("GET", f"runs/{run}/metrics/{query_of({'after': after})}")

    def start_draft(self, run: int) -> Row:
        return self.call("POST", f"runs/{run}/start/")

    def cancel_run(self, run: int) -> Row:
        return self.call("POST", f"runs/{run}/cancel/")

    def retry_run(self, run: int) -> Row:
        return self.call("POST", f"runs/{run}/retry/")

    def queue_answers(self, run: int) -> Row:
        """Have what a generation wrote judged."""
        return self.call("POST", f"runs/{run}/comparisons/")

    def suggest_scores(self, run: int) -> Row:
        """Make suggestions of what a scoring found best."""
        return self.call("POST", f"runs/{run}/suggestions/")

    def prioritise(self, run: int, **values: Any) -> Row:
        """Order the queue by what a scoring's ensemble would learn most from; `by` and `at_least`.

        By `last_layer`, `design` or `errors` it needs a scoring with `features` and no ensemble."""
        return self._post(f"runs/{run}/priorities/", values)

    def checkpoints(self, project: int | None = None) -> list[Row]:
        return self.call("GET", f"checkpoints/{query_of({'project': project})}")

    def checkpoint(self, checkpoint: int, to: Path) -> Path:
        """The zip of a checkpoint's result, written into a file."""
        return self.save(f"{ROOT}checkpoints/{checkpoint}/download/", to)

    def lineage(self, checkpoint: int) -> Row:
        """All that had a part in a checkpoint, as a graph."""
        return self.call("GET", f"checkpoints/{checkpoint}/lineage/")

    def promote(self, checkpoint: int) -> Row:
        """Make a checkpoint its project's champion."""
        return self.call("POST", f"checkpoints/{checkpoint}/promotion/")

    def uploads(self, checkpoint: int) -> list[Row]:
        return self.call("GET", f"checkpoints/{checkpoint}/uploads/")

    def upload(self, checkpoint: int, repository: str, *, private: bool = True) -> Row:
        """Have a checkpoint copied to a model hub."""
        body = {"repository": repository, "private": private}
        return self.call("POST", f"checkpoints/{checkpoint}/uploads/", body)

    def matches(self, project: int | None = None) -> list[Row]:
        return self.call("GET", f"matches/{query_of({'project': project})}")

    def start_match(self, project: int, left: str, right: str, **values: Any) -> Row:
        return self.call("POST", "matches/", {"project": project, "left": left, "right": right, **values})

    def match(self, match: int) -> Row:
        return self.call("GET", f"matches/{match}/")

    def schedules(self, project: int | None = None) -> list[Row]:
        return self.call("GET", f"schedules/{query_of({'project': project})}")

    def add_schedule(self, project: int, name: str, plan: Sequence[Any], **values: Any) -> Row:
        """`every_judgements` or `cron` says when."""
        body = {"project": project, "name": name, "plan": list(plan), **values}
        return self.call("POST", "schedules/", body)

    def schedule(self, schedule: int) -> Row:
        return self.call("GET", f"schedules/{schedule}/")

    def switch_schedule(self, schedule: int, *, enabled: bool) -> Row:
        return self.call("PATCH", f"schedules/{schedule}/", {"enabled": enabled})

    def remove_schedule(self, schedule: int) -> None:
        self.call("DELETE", f"schedules/{schedule}/")

    def rounds(self, project: int | None = None) -> list[Row]:
        return self.call("GET", f"rounds/{query_of({'project': project})}")

    def round(self, round: int) -> Row:
        return self.call("GET", f"rounds/{round}/")

    def retry_round(self, round: int) -> Row:
        return self.call("POST", f"rounds/{round}/retry/")

    def cancel_round(self, round: int) -> Row:
        return self.call("POST", f"rounds/{round}/cancel/")

    # The arena

    def arena(self, project: int) -> Row:
        """Whether the project's arena is open, and for those who may know it who answers there."""
        return self.call("GET", f"projects/{project}/arena/")

    def set_arena(self, project: int, models: Sequence[str], **values: Any) -> Row:
        return self.call("PUT", f"projects/{project}/arena/", {"models": list(models), **values})

    def arena_leaderboard(self, project: int) -> Row:
        return self.call("GET", f"projects/{project}/arena/leaderboard/")

    def ask(self, project: int, prompt: str) -> Row:
        """Ask two models that are not named; look at `duel` until its comparison is there, and judge that."""
        return self._post(f"projects/{project}/duels/", {"prompt": prompt})

    def duel(self, duel: int) -> Row:
        return self.call("GET", f"duels/{duel}/")

    def say_more(self, duel: int, prompt: str) -> Row:
        return self._post(f"duels/{duel}/more/", {"prompt": prompt})

    def retry_duel(self, duel: int) -> Row:
        return self._post(f"duels/{duel}/retry/")

    def leave_duel(self, duel: int) -> None:
        self.call("DELETE", f"duels/{duel}/")

    # Everything else

    def rows(self, path: str, **filters: Any) -> Iterator[Row]:
        """Every row of a list, page by page: `rows("projects/7/judgements/", by="anna")`."""
        return self._connection.rows(path, filters)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The reply's JSON; None for 204."""
        return self._connection.call(method, path, body)

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """A POST that changes nothing when it comes twice."""
        return self._connection.call("POST", path, body, again=True)
