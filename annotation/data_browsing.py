"""The data pages' reads: filters, full-text search, and pages by position, fast in a million rows too."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any, Final

from django.contrib.postgres.search import SearchQuery
from django.db.models import Count, Exists, F, Func, JSONField, OuterRef, Prefetch, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from annotation.browsing import candidates_in_order
from annotation.models import Candidate, Comparison, Judgement, Lease, Project, PromptWords, User

PAGE: Final = 50
MOST_COUNTED: Final = 10_000
MOST_FOUND: Final = 2000  # by a search; of words in more comparisons some stand on every page


@dataclass(frozen=True)
class Page:
    """Some rows, and the positions for the links to those before and behind, None at the ends."""

    rows: list[Any]
    before: int | None
    after: int | None


def page_of(
    rows: QuerySet[Any],
    key: str,
    *,
    before: int | None = None,
    after: int | None = None,
    descending: bool = False,
) -> Page:
    """The rows behind a value of the unique column `key`, or those before one, in the order of the column."""
    start = before if before is not None else after
    backwards = before is not None
    falling = descending != backwards
    if start is not None:
        rows = rows.filter(**{f"{key}__{'lt' if falling else 'gt'}": start})
    found = list(rows.order_by(f"-{key}" if falling else key)[: PAGE + 1])
    more, found = len(found) > PAGE, found[:PAGE]
    if backwards:
        found.reverse()
    has_before = more if backwards else after is not None and bool(found)
    has_after = bool(found) if backwards else more
    return Page(
        rows=found,
        before=getattr(found[0], key) if has_before else None,
        after=getattr(found[-1], key) if has_after else None,
    )


def count_of(rows: QuerySet[Any]) -> int:
    """How many there are, counted in their order and no further than one beyond `MOST_COUNTED`."""
    return rows.values("pk")[: MOST_COUNTED + 1].count()


def comparisons_of(project: Project, filters: Mapping[str, Any]) -> QuerySet[Comparison]:
    """A project's comparisons that pass the filters of the page, without an order.

    `q` are words of the prompt, as a web search takes them. `against` names a person: those where somebody
    else said something else than they did. Of what is about candidates, `candidates_of` says what it means.
    """
    found: QuerySet[Comparison] = Comparison.objects.filter(project=project)
    standing = Judgement.objects.standing().filter(comparison=OuterRef("pk"))
    if q := filters.get("q"):
        found = _with_words(found, project, q)
    if use := filters.get("use"):
        found = found.filter(held_out=use == "held-out")
    if against := filters.get("against"):
        found = found.filter(pk__in=_few_or_all(_disagreements_of(against)))
    if by := filters.get("by"):
        theirs = Judgement.objects.standing().filter(annotator__in=_people(by))
        found = found.filter(pk__in=theirs.values("comparison"))
    if filters.get("preferred"):
        found = found.filter(Exists(standing))  # nothing to count for the others
    if filters.get("preferred") or filters.get("source"):
        found = found.filter(Exists(candidates_of(filters).filter(comparison=OuterRef("pk"))))
    if since := filters.get("since"):
        found = found.filter(created_at__gte=_midnight(since))
    if until := filters.get("until"):
        found = found.filter(created_at__lt=_midnight(until))
    state = filters.get("state")
    if state == "waiting":
        found = found.filter(open_slots__gt=0)
    elif state == "judged":
        held = Lease.objects.filter(comparison=OuterRef("pk"), state=Lease.State.OPEN)
        found = found.filter(~Exists(held), Exists(standing), open_slots=0)
    elif state == "unjudged":
        # Of those that nobody has in hand every slot is open; most others need no further look.
        in_hand = Lease.objects.filter(comparison__project=project, state=Lease.State.OPEN)
        untouched = Q(open_slots=F("needed")) | Q(pk__in=in_hand.values("comparison"))
        found = found.filter(untouched, ~Exists(standing))
    elif state == "split":
        other = Judgement.objects.standing().filter(
            ~Q(choice=OuterRef("choice")), comparison=OuterRef("comparison")
        )
        found = found.filter(Exists(standing.filter(Exists(other))))
    return found


def for_table(rows: QuerySet[Comparison]) -> QuerySet[Comparison]:
    """With candidates, standing judgements, and `judgement_count`."""
    own = Judgement.objects.standing().filter(comparison=OuterRef("pk")).order_by().values("comparison")
    counted = Coalesce(Subquery(own.annotate(n=Count("pk")).values("n")), 0)
    return rows.annotate(judgement_count=counted).prefetch_related(candidates_in_order(), _what_stands())


def for_gallery(rows: QuerySet[Comparison], filters: Mapping[str, Any]) -> QuerySet[Comparison]:
    """With the candidates that pass the filters, and standing judgements."""
    shown = candidates_of(filters).select_related("image").order_by("index")
    return rows.prefetch_related(Prefetch("candidates", queryset=shown), _what_stands())


def _what_stands() -> Prefetch:
    return Prefetch("judgements", queryset=Judgement.objects.standing().order_by("created_at", "pk"))


def candidates_of(filters: Mapping[str, Any]) -> QuerySet[Candidate]:
    """The candidates that pass the filters about them, of all comparisons and without an order.

    Those of the `source`, with an `outcome` those that somebody preferred, or not, or where nobody won;
    `preferred` in this share of the judgements, in percent, or more.
    """
    found: QuerySet[Candidate] = Candidate.objects.all()
    said = Judgement.objects.standing().filter(comparison=OuterRef("comparison")).order_by()
    own = _own_index()
    if source := filters.get("source"):
        found = found.filter(source=source)
        if outcome := filters.get("outcome"):
            neither = Q(choice="tie") | Q(choice="both_bad")
            wanted = {
                "won": said.filter(choice=own),
                "lost": said.exclude(neither).exclude(choice=own).filter(choice__isnull=False),
                "tied": said.filter(neither),
            }
            found = found.filter(Exists(wanted[outcome]))
    if percent := filters.get("preferred"):
        counted = said.values("comparison").annotate(n=Count("pk")).values("n")
        chosen = Coalesce(Subquery(counted.filter(choice=own)), 0)
        found = found.annotate(chosen=chosen).filter(chosen__gte=Subquery(counted) * percent / 100.0)
    return found


def _own_index() -> Func:
    """A candidate's index as a judgement's choice holds it."""
    return Func(OuterRef("index"), function="to_jsonb", output_field=JSONField())


def in_hands_among(comparisons: Iterable[Comparison], user: User) -> set[int]:
    """Which of these this person is to judge themselves."""
    held = Lease.objects.in_hands_of(user).filter(comparison__in=comparisons)
    return set(held.values_list("comparison_id", flat=True))


@dataclass(frozen=True)
class Card:
    """A candidate of the gallery, and how many of the judgements of its comparison preferred it."""

    comparison: Comparison
    candidate: Candidate
    chosen: int
    judged: int
    hide_source: bool


def cards_of(page: Page, user: User) -> list[Card]:
    """The candidates of a page of comparisons that were read `for_gallery`."""
    hidden = in_hands_among(page.rows, user)
    return [
        Card(
            comparison,
            candidate,
            chosen=sum(said.choice == candidate.index for said in comparison.judgements.all()),
            judged=len(comparison.judgements.all()),
            hide_source=comparison.pk in hidden,
        )
        for comparison in page.rows
        for candidate in comparison.candidates.all()
    ]


def _few_or_all(comparisons: QuerySet[Any, Any]) -> list[int] | QuerySet[Any, Any]:
    """Numbers of comparisons as they are where they are few, else the query for them: how many there are
    decides whether to begin with them, and the planner cannot know it.
    """
    few = list(comparisons.order_by()[: MOST_FOUND + 1])
    return few if len(few) <= MOST_FOUND else comparisons


def _with_words(found: QuerySet[Comparison], project: Project, q: str) -> QuerySet[Comparison]:
    """Those with these words."""
    query = SearchQuery(q, config="simple", search_type="websearch")
    words = PromptWords.objects.filter(project=project, words=query).values_list("comparison", flat=True)
    return found.filter(pk__in=_few_or_all(words))


def _people(name: str) -> list[int]:
    """The user of this name, and the one in whose name judgements were imported."""
    return list(User.objects.filter(username__in=[name, f"import:{name}"]).values_list("pk", flat=True))


def _disagreements_of(username: str) -> QuerySet[Judgement, Any]:
    """The comparisons of their judgements with which another person's does not agree."""
    others = Judgement.objects.standing().filter(
        ~Q(annotator=OuterRef("annotator")), ~Q(choice=OuterRef("choice")), comparison=OuterRef("comparison")
    )
    theirs = Judgement.objects.standing().filter(annotator__in=_people(username))
    return theirs.filter(Exists(others)).values_list("comparison", flat=True)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, tzinfo=timezone.get_current_timezone())


def judgements_of(project: Project, filters: Mapping[str, Any]) -> QuerySet[Judgement]:
    """A project's judgements that pass the filters of the page, without an order."""
    found = Judgement.objects.filter(comparison__project=project)
    if by := filters.get("by"):
        found = found.filter(annotator__in=_people(by))
    if kind := filters.get("kind"):
        found = found.filter(kind=kind)
    if since := filters.get("since"):
        found = found.filter(created_at__gte=_midnight(since))
    if until := filters.get("until"):
        found = found.filter(created_at__lt=_midnight(until))
    counts = {"standing": Q(undone_at=None, set_aside_at=None)}
    counts |= {"aside": Q(set_aside__isnull=False), "undone": Q(undone_at__isnull=False)}
    if state := filters.get("state"):
        found = found.filter(counts[state])
    return found.select_related("annotator", "comparison")
