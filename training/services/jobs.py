"""Jobs: models write answers, and rewards score candidates. What was written becomes comparisons."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation.errors import Conflict, Invalid
from annotation.formats.schema import check_text
from annotation.models import Candidate, Comparison, Project, User
from annotation.prompts import pictures_of
from annotation.services import add_comparisons, add_suggestions
from annotation.services.groups import check_filters, read_groups
from annotation.services.media import store_image
from annotation.services.suggestions import MOST_AT_ONCE
from annotation.template import find_question
from annotation.template.questions import MOST_RANKED
from training import datasets
from training.models import Run, Snapshot
from training.services import naming, queue
from training.services.creating import check_config, check_seed
from training.services.results import comparison_of, open_result, open_snapshot, rows_of, scores_of

GENERATE: Final = {"text": "generate", "image": "image_generate"}
SCORE: Final = {"text": "score", "image": "image_score"}
SCORED_KEYS: Final = ("prompt", "candidates", "reference")


def create_generation(
    *,
    by: User,
    project: Project,
    base: str,
    prompts: Sequence[Any] | None = None,
    improve: Comparison | None = None,
    config: dict[str, Any] | None = None,
    reward: Sequence[Any] = (),
    seed: int = 0,
) -> Run:
    """A run that answers these prompts, or every prompt of the project, with a model.

    `generations_of` reads what it wrote, `add_answers` has it judged. With `best_of` or a `search` in the
    config the `reward` chooses what is kept. `improve`: a comparison of pictures of the project, whose prompt
    is drawn anew; what is drawn is then judged beside its candidates.
    """
    if improve is not None:
        prompts = [improve.prompt]
    asked = project_prompts(project) if prompts is None else prompts
    if not asked:
        raise Invalid({"prompts": _("There are no prompts to answer.")})
    for number, prompt in enumerate(asked):
        try:
            check_text(prompt)
        except ValueError as error:
            raise Invalid({f"prompts.{number}": str(error)}) from None
    more = {} if improve is None else {"improves": improve.pk}
    rows = ({"prompt": prompt, "meta": {"row": number, **more}} for number, prompt in enumerate(asked))
    name = GENERATE[project.modality]
    return create_job(
        by=by, project=project, name=name, base=base, rows=rows, config=config, reward=reward, seed=seed
    )


def project_prompts(project: Project) -> list[Any]:
    """Every prompt of the project once, in order; none that is held out, none with pictures."""
    comparisons = Comparison.objects.filter(project=project, held_out=False).order_by("-rank", "pk")
    each_once = dict(comparisons.values_list("prompt_key", "prompt"))
    return [prompt for prompt in reversed(each_once.values()) if not pictures_of(prompt)]


def create_scoring(
    *,
    by: User,
    project: Project,
    base: str | None = None,
    groups: Sequence[dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
    reward: Sequence[Any] = (),
    seed: int = 0,
) -> Run:
    """A run that scores the candidates of these group rows, or of the whole project, with a reward model
    (`base`) or a list of rewards; `scores_of` reads them.

    Images are given as in `judged_groups`: {"image": name, "storage_key": …}.
    """
    if bool(base) == bool(reward):
        raise Invalid({"base": _("Name a reward model as base, or give a reward list.")})
    rows = _candidates_of(project) if groups is None else iter(groups)
    first = next(rows, None)
    if first is None:
        raise Invalid({"groups": _("There are no candidates to score.")})
    return create_job(
        by=by,
        project=project,
        name=SCORE[project.modality],
        base=base,
        rows=_from_the_first(first, rows),
        config=config,
        reward=reward,
        seed=seed,
    )


def _from_the_first(first: Any, rows: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rows


def _candidates_of(project: Project) -> Iterator[dict[str, Any]]:
    """The project's groups without what people said; `meta.comparison` is the comparison's number."""
    groups = read_groups(project=project, before=timezone.now(), filters=check_filters({}), with_numbers=True)
    for group in datasets.without_pictured_prompts(groups, []):
        if group["candidates"]:
            kept = {key: group[key] for key in SCORED_KEYS if key in group}
            yield kept | {"meta": {"comparison": group["number"]}}


def create_job(
    *,
    by: User,
    project: Project,
    name: str,
    base: str | None,
    rows: Iterable[dict[str, Any]],
    config: dict[str, Any] | None,
    reward: Sequence[Any],
    seed: int,
) -> Run:
    """A queued run of the job of this name on these rows."""
    method = naming.method_for(project, name, purpose="job")
    given = check_config(method, config or {})
    check_seed(seed)
    naming.check_reward(by=by, reward=list(reward), method=method, over_http=True)
    if given.get("best_of", 1) > 1 and not reward:
        raise Invalid({"reward": _("best_of keeps the answers with the highest reward: give rewards.")})
    if given.get("search", "none") != "none" and not reward:
        raise Invalid({"reward": _("This search needs rewards: give at least one.")})
    source = naming.find_base(by=by, name=base, method=method) if base or not reward else {}
    frozen = datasets.store_rows(rows)
    with transaction.atomic():
        snapshot = Snapshot.objects.create(
            project=project,
            cutoff=Now(),
            seed=seed,
            sha256=frozen.sha256,
            storage_key=frozen.storage_key,
            counts=frozen.counts,
            frozen_at=Now(),
        )
        run = Run.objects.create(
            project=project,
            method=method.name,
            reward=list(reward),
            config=given,
            seed=seed,
            snapshot=snapshot,
            status=Run.Status.DRAFT,
            device_kind=settings.RUN_DEVICE_KIND,
            created_by=by,
            **source,
        )
        queue.enqueue(Run.objects.filter(pk=run.pk))
    run.refresh_from_db()
    return run


@transaction.atomic
def add_answers(*, run: Run) -> dict[str, int]:
    """Queue what a generation run wrote for judging, once: a comparison for each prompt.

    How many were `added`, and how many prompts were not: with fewer than two different answers (`alike`).
    """
    run = Run.objects.select_for_update(no_key=True, of=("self",)).select_related("project").get(pk=run.pk)
    if not run.writes_answers or run.status != Run.Status.DONE:
        raise Conflict(_("Run %(id)s has written no answers that could be judged.") % {"id": run.pk})
    if Comparison.objects.filter(project=run.project_id, meta__generation=run.pk).exists():
        raise Conflict(_("The answers of run %(id)s are queued already.") % {"id": run.pk})
    source = naming.name_of_base(run)
    groups, alike = [], 0
    with open_result(run) as result:
        for row in rows_of(result, "generations.jsonl"):
            before = _improved(run, row)
            written = [{**content_of(result, one), "source": source} for one in row["candidates"]]
            found = [*before, *written]
            contents = [{key: one[key] for key in one if key != "source"} for one in found]
            different = [at for at, item in enumerate(contents) if item not in contents[:at]]
            if len(different) < 2:
                alike += 1
                continue
            candidates = [found[at] for at in different]
            meta = {"generation": run.pk}
            if not before and (
                chains := row.get("meta", {}).get("chains")
            ):  # how pictures were drawn, for `d3po`
                meta["chains"] = chains | {"seeds": [chains["seeds"][at] for at in different]}
            groups.append({"prompt": row["prompt"], "candidates": candidates, "meta": meta})
    if groups:
        add_comparisons(project=run.project, groups=groups)
    return {"added": len(groups), "alike": alike}


@transaction.atomic
def suggest_scores(*, run: Run) -> int:
    """Store what a scoring of the project says as suggestions: the best candidate, or their order. How many.

    Annotators see them where the project shows suggestions. A later scoring with the same rewards replaces
    them; comparisons that could not be scored get none.
    """
    project = run.project
    kinds = [kind for kind in ("choice", "ranking") if find_question(project.questions, kind)]
    if not run.gives_scores or run.status != Run.Status.DONE:
        raise Conflict(_("Run %(id)s has no scores.") % {"id": run.pk})
    if not kinds:
        raise Conflict(_("The project asks neither for a choice nor for a ranking."))
    numbers = [comparison_of(row) for row in frozen_rows(run)]
    here = set(Comparison.objects.filter(project=project).values_list("pk", flat=True))
    found = [
        {"comparison": number, "answer": _answer_of(scores, kinds, project.questions)}
        for number, scores in zip(numbers, scores_of(run), strict=True)
        if number in here and len(scores) > 1 and None not in scores
    ]
    found = [item for item in found if item["answer"]]
    for start in range(0, len(found), MOST_AT_ONCE):
        part = found[start : start + MOST_AT_ONCE]
        add_suggestions(project=project, model=_scorer(run), suggestions=part, now=timezone.now())
    return len(found)


def frozen_rows(run: Run) -> list[dict[str, Any]]:
    with open_snapshot(run) as frozen:
        return list(rows_of(frozen, "train.jsonl"))


def _answer_of(scores: list[Any], kinds: list[str], questions: list[dict[str, Any]]) -> dict[str, Any]:
    """The best candidate, a tie where several are and ties are asked for; and all in order."""
    best = [at for at, score in enumerate(scores) if score == max(scores)]
    answer: dict[str, Any] = {}
    if "choice" in kinds:
        question = find_question(questions, "choice") or {}
        if len(best) == 1:
            answer["choice"] = best[0]
        elif question.get("tie"):
            answer["choice"] = "tie"
    if "ranking" in kinds and len(scores) <= MOST_RANKED:
        tiers = sorted(set(scores), reverse=True)
        answer["ranking"] = [[at for at, score in enumerate(scores) if score == tier] for tier in tiers]
    return answer


def _scorer(run: Run) -> str:
    """What the suggestions are signed with."""
    rewards = [str(entry.get("model") or entry.get("rule")) for entry in run.reward]
    return (naming.name_of_base(run) or " + ".join(rewards))[:140]


def _improved(run: Run, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The pictures beside which these were to be drawn; none, unless `create_generation` was told so."""
    if (number := row.get("meta", {}).get("improves")) is None:
        return []
    shown = Candidate.objects.filter(comparison__project=run.project_id, comparison=number)
    pictured = shown.exclude(image=None).select_related("image").order_by("index")
    return [{"image": one.image, "source": one.source} for one in pictured]


def content_of(result: Any, candidate: dict[str, Any]) -> dict[str, Any]:
    """{"text"} or {"image": Media}; pictures of the same bytes are the same Media."""
    if "image" not in candidate:
        return {"text": candidate["text"]}
    return {"image": store_image(result.read(f"media/{candidate['image']}"))}
