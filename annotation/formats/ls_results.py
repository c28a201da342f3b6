"""The controls of Label Studio: a `result` list as answers, and answers as one."""

from typing import Any, Final

from annotation.formats.reading import list_of, number_of, object_of
from annotation.formats.schema import RowError

Row = dict[str, Any]
ASPECT, TURN = "aspect-", "turn-"
PLACES: Final = {"box": "rectanglelabels", "point": "keypointlabels"}
REGIONS: Final = {"labels", "hypertextlabels", "paragraphlabels", *PLACES.values()}
PER_CENT: Final = 100


def read_results(results: list[Any], names: list[str], kept: list[Row], field: str) -> Row:
    """The answers in a result list. Results of controls that mean nothing here are appended to `kept`."""
    answers: Row = {}
    for number, item in enumerate(results):
        where = f"{field}.{number}"
        value = object_of(object_of(item, where).get("value") or {}, f"{where}.value")
        if not _read_one(item, value, names, answers, where):
            kept.append(item)
    return answers


def _read_one(item: Row, value: Row, names: list[str], answers: Row, field: str) -> bool:
    """Add what one result says; False if nobody here knows what it means."""
    control, kind = str(item.get("from_name", "")), item.get("type")
    place = _place_of(item, names)
    if kind == "pairwise":
        _add_choice(answers, control, _selected(value, names, item, field))
    elif kind == "ranker":
        answers["ranking"] = _ranking(value, names, field)
    elif kind in ("rating", "number"):
        number = number_of(value.get(kind), f"{field}.value.{kind}")
        if control == "strength":
            answers["strength"] = number
        elif place is None:
            return False
        else:
            _listed(answers, "ratings", len(names), place, {})[control] = number
    elif kind == "choices":
        return _read_choices(
            control, list_of(value.get("choices"), f"{field}.value.choices"), place, names, answers
        )
    elif kind == "textarea":
        text = "\n".join(map(str, list_of(value.get("text"), f"{field}.value.text")))
        if place is None:
            answers["critique"] = "\n".join(filter(None, [answers.get("critique"), text]))
        else:
            _listed(answers, "corrections", len(names), place, text)
    elif kind in REGIONS and (place is not None or len(names) == 1):
        answers.setdefault("marks", []).append(_mark(kind, value, place or 0, field))
    else:
        return False
    return True


def _place_of(item: Row, names: list[str]) -> int | None:
    to_name = item.get("to_name")
    return names.index(to_name) if to_name in names else None


def _selected(value: Row, names: list[str], item: Row, field: str) -> int:
    """Left is the first, or what the control names first in `to_name`."""
    sides = [name for name in str(item.get("to_name", "")).replace(" ", "").split(",") if name in names]
    sides = sides if len(sides) == 2 else names[:2]
    if value.get("selected") not in ("left", "right") or len(sides) != 2:
        raise RowError(f"{field}.value.selected", "must be left or right, of two candidates")
    return names.index(sides[value["selected"] == "right"])


def _add_choice(answers: Row, control: str, choice: int | str) -> None:
    if control.startswith(ASPECT):
        answers.setdefault("aspects", {}).setdefault(control.removeprefix(ASPECT), {})["choice"] = choice
    elif control.startswith(TURN) and control.removeprefix(TURN).isdecimal():
        turn = int(control.removeprefix(TURN))
        answers.setdefault("turns", []).append({"turn": turn, "choice": choice})
    else:
        answers["choice"] = choice


def _ranking(value: Row, names: list[str], field: str) -> list[list[int]]:
    """One bucket is an order; several, in their order, are the places of a ranking with ties."""
    buckets = object_of(value.get("ranker"), f"{field}.value.ranker")
    places = []
    for bucket, ids in buckets.items():
        if bucket.startswith("_"):
            continue
        found = [str(item) for item in list_of(ids, f"{field}.value.ranker.{bucket}")]
        if unknown := [item for item in found if item not in names]:
            raise RowError(f"{field}.value.ranker.{bucket}", f"{unknown[0]!r:.40} is no candidate")
        places.append([names.index(item) for item in found])
    if len(places) == 1:
        return [[index] for index in places[0]]
    return [place for place in places if place]


def _read_choices(control: str, chosen: list[Any], place: int | None, names: list[str], answers: Row) -> bool:
    said = [str(item) for item in chosen]
    if control == "tags":
        answers["tags"] = said
    elif control == "thumbs" and place is not None and said in (["up"], ["down"]):
        _listed(answers, "thumbs", len(names), place, int(said == ["up"]))
    elif control in ("rubric", "rubric-not") and place is not None:
        ticked = _listed(answers, "rubric", len(names), place, {})
        ticked |= dict.fromkeys(said, control == "rubric")
    elif control.startswith("strength-") and len(said) == 1 and said[0].isdecimal():
        aspect = control.removeprefix("strength-")
        answers.setdefault("aspects", {}).setdefault(aspect, {})["strength"] = int(said[0])
    elif len(said) == 1 and said[0].lower().replace(" ", "_") in ("tie", "both_bad"):
        _add_choice(answers, control, said[0].lower().replace(" ", "_"))
    elif len(said) == 1 and said[0] in names:
        _add_choice(answers, control, names.index(said[0]))
    elif len(said) == 1 and said[0] in ("left", "right") and len(names) == 2:
        _add_choice(answers, control, int(said[0] == "right"))
    else:
        return False
    return True


def _listed(answers: Row, name: str, k: int, place: int, value: Any) -> Any:
    """The entry of one candidate in a list with one for each; `value` if there is none yet."""
    entries = answers.setdefault(name, [None] * k)
    if entries[place] is None:
        entries[place] = value
    return entries[place]


def _mark(kind: str, value: Row, place: int, field: str) -> Row:
    labels = value.get(kind) or value.get("labels") or [None]
    mark: Row = {"candidate": place}
    if kind == PLACES["box"]:
        sides = [
            number_of(value.get(name), f"{field}.value.{name}") for name in ("x", "y", "width", "height")
        ]
        mark |= {"type": "box", "box": [side / PER_CENT for side in sides]}
    elif kind == PLACES["point"]:
        sides = [number_of(value.get(name), f"{field}.value.{name}") for name in ("x", "y")]
        mark |= {"type": "point", "point": [side / PER_CENT for side in sides]}
    else:
        offsets = value.get("globalOffsets") or value
        start, end = (number_of(offsets.get(name), f"{field}.value.{name}") for name in ("start", "end"))
        mark |= {"type": "span", "start": start, "end": end}
    return mark | ({"category": str(labels[0])} if labels[0] is not None else {})


def write_results(judgement: Row, names: list[str]) -> list[Row]:
    """The result list of a judgement."""
    results: list[Row] = []

    def add(control: str, kind: str, value: Row, place: int | None = None) -> None:
        to_name = (
            ",".join(names[:2]) if kind == "pairwise" else names[place] if place is not None else "prompt"
        )
        results.append({"from_name": control, "to_name": to_name, "type": kind, "value": value})

    def add_choice(control: str, choice: int | str) -> None:
        if isinstance(choice, int) and len(names) == 2:
            add(control, "pairwise", {"selected": ("left", "right")[choice]})
        else:
            add(control, "choices", {"choices": [names[choice] if isinstance(choice, int) else choice]})

    if judgement.get("choice") is not None:
        add_choice("choice", judgement["choice"])
    if judgement.get("strength") is not None:
        add("strength", "rating", {"rating": judgement["strength"]})
    for name, said in judgement.get("aspects", {}).items():
        add_choice(f"{ASPECT}{name}", said["choice"])
        if said.get("strength") is not None:
            add(f"strength-{name}", "choices", {"choices": [str(said["strength"])]})
    for said in judgement.get("turns", []):
        add_choice(f"{TURN}{said['turn']}", said["choice"])
    if judgement.get("ranking"):
        tiers = [[names[index] for index in tier] for tier in judgement["ranking"]]
        strict = len(tiers) > 1 and all(len(tier) == 1 for tier in tiers)
        buckets = (
            {"rank": [name for tier in tiers for name in tier]}
            if strict
            else {str(n): tier for n, tier in enumerate(tiers, 1)}
        )
        # One place that several share would read as an order.
        add("ranking", "ranker", {"ranker": buckets if len(buckets) > 1 or strict else {**buckets, "2": []}})
    if judgement.get("tags"):
        add("tags", "choices", {"choices": judgement["tags"]})
    if judgement.get("critique"):
        add("critique", "textarea", {"text": [judgement["critique"]]})
    for place in range(len(names)):
        for control, kind, value in _of_candidate(judgement, place):
            add(control, kind, value, place)
    return results


def _of_candidate(judgement: Row, place: int) -> list[tuple[str, str, Row]]:
    """What was said about one candidate alone."""

    def entry(name: str) -> Any:
        return judgement[name][place] if judgement.get(name) else None

    found: list[tuple[str, str, Row]] = []
    found += [(name, "rating", {"rating": value}) for name, value in (entry("ratings") or {}).items()]
    if entry("thumbs") is not None:
        found.append(("thumbs", "choices", {"choices": ["up" if entry("thumbs") else "down"]}))
    for control, ticked in (("rubric", True), ("rubric-not", False)):
        if criteria := [name for name, value in (entry("rubric") or {}).items() if value is ticked]:
            found.append((control, "choices", {"choices": criteria}))
    if entry("corrections") is not None:
        found.append(("correction", "textarea", {"text": [entry("corrections")]}))
    return found + [_region(mark) for mark in judgement.get("marks", []) if mark["candidate"] == place]


def _region(mark: Row) -> tuple[str, str, Row]:
    label = [mark["category"]] if mark.get("category") is not None else []
    if mark["type"] == "span":
        return "marks", "labels", {"start": mark["start"], "end": mark["end"], "labels": label}
    names = ("x", "y", "width", "height")
    sides = mark.get("box") or mark["point"]
    value = {name: side * PER_CENT for name, side in zip(names, sides, strict=False)}
    kind = PLACES[mark["type"]]
    return "marks", kind, {**value, kind: label}
