"""Random templates, candidates, and answers that fit them (hypothesis)."""

from typing import Any

from hypothesis import strategies as st

from annotation.template import plain_text, steps_of, turns_of
from annotation.template.parsing import parse_questions

NAMES = ("helpfulness", "honesty", "tone", "übersicht", "a-1")
WORDS = st.sampled_from(["one", "zwei", "三", "أربعة", "fünf 🙂", "six.", "7)", "`x = 1`"])
SENTENCE = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)
LINES = st.lists(
    st.tuples(st.sampled_from(["", "", "Step 1: ", "2. ", "\n"]), SENTENCE), min_size=1, max_size=4
)
PLAIN = LINES.map(lambda lines: "\n".join(mark + words for mark, words in lines))
CHAT = st.lists(SENTENCE, min_size=1, max_size=5).map(
    lambda turns: [
        {"role": "assistant" if number % 2 == 0 else "user", "content": turn}
        for number, turn in enumerate(turns)
    ]
)
TEXTS = st.one_of(PLAIN, CHAT)


@st.composite
def options(draw, *, least: int = 1) -> list[dict[str, Any]]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=least, max_size=3))
    return [{"name": name, "title": draw(st.sampled_from(["", "A title"]))} for name in names]


@st.composite
def scales(draw) -> list[dict[str, Any]]:
    made = []
    for option in draw(options()):
        low = draw(st.integers(-2, 2))
        made.append(option | {"min": low, "max": low + draw(st.integers(1, 6))})
    return made


@st.composite
def question(draw, kind: str, modality: str) -> dict[str, Any]:
    flag = st.booleans()
    extra: dict[str, Any] = {
        "choice": lambda: {name: draw(flag) for name in ("strength", "tie", "both_bad", "worst")},
        "aspects": lambda: {"aspects": draw(options()), "strength": draw(flag), "tie": draw(flag)},
        "ranking": lambda: {"ties": draw(flag), "partial": draw(flag)},
        "ratings": lambda: {"aspects": draw(scales())},
        "rubric": lambda: {"criteria": [{"name": o["name"], "text": "?"} for o in draw(options())]},
        "tags": lambda: {"options": draw(options())},
        "marks": lambda: {
            "kinds": draw(
                st.lists(
                    st.sampled_from(["span", "step"] if modality == "text" else ["box", "point"]),
                    unique=True,
                    min_size=1,
                )
            ),
            "categories": draw(options(least=0)),
            "severities": draw(options(least=0)),
        },
        "turns": lambda: {"tie": draw(flag)},
    }.get(kind, dict)()
    required = {} if kind == "context" else {"required": draw(flag)}
    return {"type": kind} | required | extra


@st.composite
def templates(draw, modality: str = "text") -> list[dict[str, Any]]:
    """A valid template in stored form."""
    kinds = ["choice", "aspects", "ranking", "ratings", "thumbs", "rubric", "tags", "critique", "marks"]
    kinds += ["correction", "turns"] if modality == "text" else []
    chosen = draw(st.lists(st.sampled_from(kinds), unique=True, min_size=1, max_size=5))
    questions = [draw(question(kind, modality)) for kind in chosen]
    if "ranking" in chosen:
        questions = [one | {"worst": False} if one["type"] == "choice" else one for one in questions]
    if draw(st.booleans()):
        questions.append({"type": "context", "text": draw(st.sampled_from(["", "Be brief."]))})
    return parse_questions(questions, modality=modality)


@st.composite
def answers(draw, template: list[dict[str, Any]], texts: list[Any]) -> dict[str, Any]:
    """An answer that fits, in presented positions; it may leave out what is not required."""
    given: dict[str, Any] = {}
    for one in template:
        wanted = one.get("required", False) or draw(st.booleans())
        if one["type"] in ANSWER and wanted:
            given |= ANSWER[one["type"]](draw, one, texts)
    return given


def _pick(draw, k: int, *words: str) -> Any:
    return draw(st.sampled_from([*range(k), *words]))


def _choice(draw, one, texts):
    k = len(texts)
    if k < 2:
        return {}
    words = [word for word, offered in (("tie", one["tie"]), ("both_bad", one["both_bad"])) if offered]
    choice = _pick(draw, k, *words)
    given = {"choice": choice}
    if isinstance(choice, int) and one["strength"] and draw(st.booleans()):
        given["strength"] = draw(st.integers(1, 3))
    if isinstance(choice, int) and one["worst"]:
        worst = draw(st.sampled_from([i for i in range(k) if i != choice]))
        others = draw(st.permutations([i for i in range(k) if i not in (choice, worst)]))
        given["ranking"] = [[choice], *([list(others)] if others else []), [worst]]
    return given


def _aspects(draw, one, texts):
    if len(texts) < 2:
        return {}
    made = {}
    for aspect in one["aspects"]:
        if one["required"] or draw(st.booleans()):
            made[aspect["name"]] = {"choice": _pick(draw, len(texts), *(["tie"] if one["tie"] else []))}
            if one["strength"] and isinstance(made[aspect["name"]]["choice"], int):
                made[aspect["name"]]["strength"] = draw(st.sampled_from([None, 1, 2, 3]))
    return {"aspects": made}


def _ranking(draw, one, texts):
    k = len(texts)
    if k < 2:
        return {}
    ranked = list(draw(st.permutations(range(k))))
    if one["partial"]:
        ranked = ranked[: draw(st.integers(2, k))]
    ranks: list[list[int]] = [[ranked[0]]]
    for index in ranked[1:]:
        if one["ties"] and draw(st.booleans()):
            ranks[-1].append(index)
        else:
            ranks.append([index])
    return {"ranking": ranks}


def _each(key, entry):
    def make(draw, one, texts):
        return {key: [entry(draw, one) for _ in texts]}

    return make


def _rating(draw, one):
    kept = [scale for scale in one["aspects"] if one["required"] or draw(st.booleans())]
    return {scale["name"]: draw(st.integers(scale["min"], scale["max"])) for scale in kept}


def _criteria(draw, one):
    kept = [line for line in one["criteria"] if one["required"] or draw(st.booleans())]
    return {line["name"]: draw(st.booleans()) for line in kept}


def _thumb(draw, one):
    return draw(st.sampled_from([0, 1] if one["required"] else [0, 1, None]))


def _tags(draw, one, texts):
    names = st.sampled_from([option["name"] for option in one["options"]])
    return {"tags": draw(st.lists(names, unique=True, min_size=1 if one["required"] else 0))}


def _critique(draw, one, texts):
    return {"critique": draw(SENTENCE)}


def _corrections(draw, one, texts):
    corrected = [draw(st.one_of(st.none(), TEXTS)) for _ in texts]
    return {"corrections": [draw(TEXTS), *corrected[1:]] if one["required"] else corrected}


def _turns(draw, one, texts):
    counts = sorted((turns_of(text) for text in texts), reverse=True)
    if len(texts) < 2 or not counts[1]:
        return {}
    made = []
    for turn in range(counts[1]):
        if one["required"] or draw(st.booleans()):
            able = [index for index, text in enumerate(texts) if turns_of(text) > turn]
            made.append(
                {"turn": turn, "choice": draw(st.sampled_from([*able, *(["tie"] if one["tie"] else [])]))}
            )
    return {"turns": draw(st.permutations(made))}


def _marks(draw, one, texts):
    made: list[dict[str, Any]] = []
    for candidate, text in enumerate(texts):
        for kind in one["kinds"]:
            for place in _places(draw, kind, text):
                mark = {"candidate": candidate, "type": kind} | place
                for key in ("categories", "severities"):
                    if one[key]:
                        name = {"categories": "category", "severities": "severity"}[key]
                        mark[name] = draw(st.sampled_from([option["name"] for option in one[key]]))
                if mark.keys() - {"candidate", "type", "step"} and mark not in made:
                    made.append(mark)
    return {"marks": draw(st.permutations(made))}


SHARE = st.sampled_from([0.0, 0.125, 0.25, 0.5])


def _places(draw, kind: str, text: Any) -> list[dict[str, Any]]:
    if not draw(st.booleans()):
        return []
    if kind == "box":
        return [{"box": [draw(SHARE), draw(SHARE), 0.25, 0.5]}]
    if kind == "point":
        return [{"point": [draw(SHARE), draw(SHARE)]}]
    if kind == "span":
        length = len(plain_text(text))
        start = draw(st.integers(0, length - 1))
        return [{"start": start, "end": draw(st.integers(start + 1, length))}]
    steps = len(steps_of(text))
    if not steps:
        return []
    first = draw(st.integers(0, steps - 1))
    marked = draw(st.lists(st.integers(0, first), unique=True))
    return [{"step": step} for step in marked if step != first] + [{"step": first, "first_error": True}]


ANSWER = {
    "choice": _choice,
    "aspects": _aspects,
    "ranking": _ranking,
    "ratings": _each("ratings", _rating),
    "thumbs": _each("thumbs", _thumb),
    "rubric": _each("rubric", _criteria),
    "tags": _tags,
    "critique": _critique,
    "correction": _corrections,
    "marks": _marks,
    "turns": _turns,
}
