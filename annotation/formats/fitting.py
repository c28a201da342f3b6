"""What a format can hold, and a group cut down to it. What does not fit is counted by reason, never lost
silently.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final, Literal

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop

from annotation.formats.schema import MAX_CANDIDATES
from annotation.prompts import pictures_of

Row = dict[str, Any]
LeftOut = dict[str, int]
Texts = Literal["any", "chat", "plain"]

KINDS: Final = ("regular", "gold", "repeat", "review", "qualification", "judge")
FACTS: Final = frozenset(
    {"annotator", "annotator_group", "kind", "order", "template_version", "seconds", "at"}
)
# Kinds of answers, and the words under which those that do not fit are counted.
WORDS: Final = {
    "choice": gettext_noop("choices"),
    "tie": gettext_noop("ties"),
    "both_bad": gettext_noop("both bad"),
    "strength": gettext_noop("strengths"),
    "aspects": gettext_noop("choices by aspect"),
    "turns": gettext_noop("choices by turn"),
    "ranking": gettext_noop("rankings"),
    "partial": gettext_noop("rankings of only some candidates"),
    "ratings": gettext_noop("ratings"),
    "thumbs": gettext_noop("thumbs"),
    "rubric": gettext_noop("rubrics"),
    "tags": gettext_noop("tags"),
    "critique": gettext_noop("critiques"),
    "corrections": gettext_noop("corrections"),
    "context": gettext_noop("contexts"),
    "span": gettext_noop("marks of spans"),
    "box": gettext_noop("marks of boxes"),
    "point": gettext_noop("marks of points"),
    "step": gettext_noop("marks of steps"),
    "severity": gettext_noop("severities of marks"),
}
FACT_WORDS: Final = {
    "annotator": gettext_lazy("annotators"),
    "annotator_group": gettext_lazy("their groups"),
    "kind": gettext_lazy("kinds of judgements"),
    "order": gettext_lazy("sides"),
    "seconds": gettext_lazy("seconds"),
    "at": gettext_lazy("times"),
    "template_version": gettext_lazy("template versions"),
}
ANSWERS: Final = frozenset(WORDS)
MARKS: Final = ("span", "box", "point", "step")


@dataclass(frozen=True)
class Holds:
    """One format's limits. `answers` and `facts` are subsets of ANSWERS and FACTS.

    `prompts` and `texts`: "any" text or messages; "chat": either, but one message is the same as its text;
    "plain": texts only. `kinds` are the judgements that it is meant for. `pairs`: two candidates at most;
    more become pairs. `needs` is an answer without which no other is held;
    `one_judge`: at most one judgement of the kind `judge`. `ratings` names the aspects of one with its own.
    """

    answers: frozenset[str]
    facts: frozenset[str] = frozenset()
    prompts: Texts = "any"
    texts: Texts = "any"
    prompt_pictures: bool = False
    roles: frozenset[str] | None = None
    candidates: tuple[int, int] = (1, MAX_CANDIDATES)
    pairs: bool = False
    modalities: tuple[str, ...] = ("text", "image")
    kinds: tuple[str, ...] = ("regular", "review")
    ratings: frozenset[str] | None = None
    sources: bool = False
    meta: bool = False
    reference: bool = False
    unjudged: bool = False
    needs: str | None = None
    one_judge: bool = False


def in_words(holds: Holds) -> tuple[str, str]:
    """What a format holds, for people: its answers, and what it knows beside them."""
    answers = [_(words) for name, words in WORDS.items() if name in holds.answers]
    beside = [str(FACT_WORDS[name]) for name in FACT_WORDS if name in holds.facts]
    beside += [_("pictures in prompts")] if holds.prompt_pictures else []
    beside += [_("sources")] if holds.sources else []
    beside += [_("other columns")] if holds.meta else []
    beside += [_("references")] if holds.reference else []
    return ", ".join(answers), ", ".join(beside)


def count(left_out: LeftOut, reason: str, number: int = 1) -> None:
    left_out[reason] = left_out.get(reason, 0) + number


def fit(group: Row, holds: Holds, left_out: LeftOut, *, all_kinds: bool = False) -> Iterator[Row]:
    """The group as the format can hold it: one, none, or its pairs. `all_kinds`: also unusual judgements."""
    judgements = group.get("judgements", [])
    if not all_kinds:
        judgements = _of_kinds(judgements, holds, left_out)
    bare = holds.candidates[0] == 0 and not group["candidates"]  # a prompt alone, which nobody can judge
    if not judgements and not holds.unjudged and not bare:
        count(left_out, gettext_noop("without a judgement"))
        return
    kept = _contents(group, holds, left_out)
    if kept is None:
        return
    low, high = holds.candidates
    if len(kept["candidates"]) < low:
        count(left_out, f"comparisons of fewer than {low}")
        return
    parts = [kept | {"judgements": judgements}]
    if holds.pairs and len(kept["candidates"]) > 2:
        count(left_out, gettext_noop("comparisons of more than two, as such: written as pairs"))
        parts = list(_pairs_of(parts[0]))
    elif len(kept["candidates"]) > high:
        count(left_out, f"comparisons of more than {high}")
        return
    for part in parts:
        fitting = [_answers(item, holds, len(part["candidates"]), left_out) for item in part["judgements"]]
        part["judgements"] = [item for item in fitting if item is not None]
        if part["judgements"] or holds.unjudged or bare:
            yield part


def _of_kinds(judgements: list[Row], holds: Holds, left_out: LeftOut) -> list[Row]:
    kept, judged = [], False
    for item in judgements:
        kind = item.get("kind", "regular")
        if kind not in holds.kinds or (kind == "judge" and holds.one_judge and judged):
            count(left_out, f"judgements of kind {kind}")
            continue
        judged = judged or kind == "judge"
        kept.append(item)
    return kept


def _contents(group: Row, holds: Holds, left_out: LeftOut) -> Row | None:
    """Prompt, candidates and what stands beside them; None if the texts themselves do not fit."""
    if pictures_of(group["prompt"]) and not holds.prompt_pictures:
        count(left_out, gettext_noop("comparisons with pictures in the prompt"))
        return None
    prompt = plain_of(group["prompt"], holds.prompts)
    candidates = [dict(item) for item in group["candidates"]]
    for item in candidates:
        if "text" in item:
            item["text"] = plain_of(item["text"], holds.texts)
        if not holds.sources:
            item.pop("source", None)
    texts = [item["text"] for item in candidates if "text" in item]
    if (holds.prompts == "plain" and isinstance(prompt, list)) or (
        holds.texts == "plain" and any(isinstance(text, list) for text in texts)
    ):
        count(left_out, gettext_noop("conversations"))
        return None
    messages = [message for text in (prompt, *texts) if isinstance(text, list) for message in text]
    if holds.roles is not None and any(message["role"] not in holds.roles for message in messages):
        count(left_out, "conversations with other roles than " + " and ".join(sorted(holds.roles)))
        return None
    kept: Row = {"prompt": prompt, "candidates": candidates}
    if group.get("meta"):
        kept |= {"meta": group["meta"]} if holds.meta else {}
    if group.get("reference") is not None:
        if holds.reference:
            kept["reference"] = group["reference"]
        else:
            count(left_out, gettext_noop("references"))
    return kept


def plain_of(text: Any, texts: Texts) -> Any:
    """A single message as its text, where the format makes no difference between them."""
    if (
        texts != "any"
        and isinstance(text, list)
        and len(text) == 1
        and text[0]["role"] in ("user", "assistant")
    ):
        return text[0]["content"]
    return text


def _answers(item: Row, holds: Holds, k: int, left_out: LeftOut) -> Row | None:
    """What the format holds of a judgement; None if nothing is left of it."""
    item = _in_other_words(item, holds, k)
    kept = {name: item[name] for name in FACTS & holds.facts if item.get(name) is not None}
    if (choice := item.get("choice")) is not None:
        name = choice if isinstance(choice, str) else "choice"
        if name in holds.answers:
            kept["choice"] = choice
        else:
            count(left_out, WORDS[name])
    for name in WORDS.keys() - {"choice", "tie", "both_bad", "partial", "severity", *MARKS}:
        if item.get(name) in (None, [], {}):
            continue
        if name in holds.answers and (name != "strength" or "choice" in kept):
            kept[name] = item[name]
        elif name != "strength" or "choice" in kept:
            count(left_out, WORDS[name])
    if "ranking" in kept and "partial" not in holds.answers and sum(map(len, kept["ranking"])) < k:
        count(left_out, WORDS["partial"])
        del kept["ranking"]
    if "ratings" in kept and holds.ratings is not None:
        kept["ratings"] = _known_ratings(kept["ratings"], holds.ratings, left_out)
        if not any(kept["ratings"]):
            del kept["ratings"]
    if item.get("marks") is not None:
        kept |= _marks(item["marks"], holds, left_out)
    said = kept.keys() & (WORDS.keys() - {"context"} | {"marks"})
    if said and (holds.needs is None or holds.needs in said):
        return kept
    for name in said:
        count(left_out, f"{WORDS[name]} without a choice")
    if not item.keys() & (WORDS.keys() | {"marks"}):
        count(left_out, gettext_noop("without a choice"))
    return None


def _in_other_words(item: Row, holds: Holds, k: int) -> Row:
    """A ranking of two as a choice, and a choice as a ranking, where the format has only the other."""
    if "ranking" not in holds.answers and "choice" in holds.answers and item.get("ranking") and k == 2:
        ranking = item["ranking"]
        rest = {name: value for name, value in item.items() if name != "ranking"}
        if len(ranking) == 2 and len(ranking[0]) == 1:
            return {"choice": ranking[0][0]} | rest
        if len(ranking) == 1 and len(ranking[0]) == 2:
            return {"choice": "tie"} | rest
    if "choice" not in holds.answers and "ranking" in holds.answers and item.get("ranking") is None:
        choice = item.get("choice")
        rest = {name: value for name, value in item.items() if name not in ("choice", "strength")}
        if isinstance(choice, int) and k > 1:
            return rest | {"ranking": [[choice], [index for index in range(k) if index != choice]]}
        if choice == "tie":
            return rest | {"ranking": [list(range(k))]}
    return item


def _known_ratings(ratings: list[Row | None], known: frozenset[str], left_out: LeftOut) -> list[Row]:
    found = []
    for item in ratings:
        found.append({name: value for name, value in (item or {}).items() if name in known})
        if other := len(item or {}) - len(found[-1]):
            count(left_out, "ratings of other aspects than " + ", ".join(sorted(known)), other)
    return found


def _marks(marks: list[Row], holds: Holds, left_out: LeftOut) -> Row:
    kept = []
    for mark in marks:
        if mark["type"] not in holds.answers:
            count(left_out, WORDS[mark["type"]])
            continue
        if "severity" in mark and "severity" not in holds.answers:
            count(left_out, WORDS["severity"])
            mark = {name: value for name, value in mark.items() if name != "severity"}
        kept.append(mark)
    # No marks at all say that there is nothing to mark.
    return {"marks": kept} if kept or (not marks and holds.answers & set(MARKS)) else {}


def _pairs_of(group: Row) -> Iterator[Row]:
    """Every two candidates with the judgements that say something about them."""
    for i, j in combinations(range(len(group["candidates"])), 2):
        judgements = [pair for item in group["judgements"] if (pair := _of_pair(item, i, j)) is not None]
        yield group | {
            "candidates": [group["candidates"][i], group["candidates"][j]],
            "judgements": judgements,
        }


def _of_pair(item: Row, i: int, j: int) -> Row | None:
    places = {i: 0, j: 1}
    choice = item.get("choice")
    tiers = {index: tier for tier, indices in enumerate(item.get("ranking") or ()) for index in indices}
    if isinstance(choice, int) and choice not in places and not tiers.keys() >= places.keys():
        return None
    pair = {name: item[name] for name in FACTS - {"order"} | {"context", "critique", "tags"} if name in item}
    if item.get("order") is not None:
        pair["order"] = [places[index] for index in item["order"] if index in places]
    if tiers.keys() >= places.keys():
        better = i if tiers[i] < tiers[j] else j
        return pair | {"choice": "tie" if tiers[i] == tiers[j] else places[better]}
    if choice is None:
        return None
    pair["choice"] = places[choice] if isinstance(choice, int) else choice
    return pair | ({"strength": item["strength"]} if item.get("strength") else {})
