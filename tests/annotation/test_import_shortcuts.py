"""The short ways that imports take for most rows end where the long ones do; reading is ahead of storing."""

import hashlib
import json

import pytest
from django.db import connection
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from annotation import services
from annotation.formats.records import _parse_any, parse_row
from annotation.formats.schema import RowError, _check_group, check_group
from annotation.models import Comparison, Media, SourceResult
from annotation.services import imports
from annotation.services.comparisons import content_of
from annotation.services.copying import copy_columns
from tests.annotation.files import GOOD, jsonl, start

TEXTS = st.one_of(
    st.text(max_size=8), st.sampled_from(["a", "b", " ", "\t\n", "\x00", "\ud800", "é😀", "\\u0000"])
)
JSON = st.recursive(
    st.one_of(TEXTS, st.none(), st.booleans(), st.integers(), st.floats()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)


def outcome(function, *arguments, **values):
    try:
        return repr(function(*arguments, **values))
    except RowError as error:
        return error.field, error.reason


@st.composite
def lines(draw):
    """JSON objects as others write them, some with a byte too many or too few."""
    row = draw(st.dictionaries(TEXTS, JSON, max_size=4))
    try:
        raw = json.dumps(row, ensure_ascii=draw(st.booleans())).encode(errors="replace")
    except ValueError:
        raw = b"{}"
    place = draw(st.integers(0, len(raw)))
    return (
        raw[:place]
        + draw(st.sampled_from([b"", b"", b"\\", b'"', b"\x00", b"\xff", b",", b"9"]))
        + raw[place:]
    )


@settings(max_examples=300, deadline=None)
@given(lines())
@example(b'{"a": 1e999}')
@example(b'{"a": [{"b": 1E400}]}')
@example(b'{"a": NaN}')
@example(b'{"a": "b", "a": "c"}')
@example(b'{"a": "\\ud800"}')
@example(b'{"a": "\\u0000"}')
@example(b'\x0b{"a": "b"}\xc2\xa0')
@example(b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}")
@example(b'{"a": "b"} {"a": "b"}')
@example(b"")
def test_a_line_is_read_as_python_reads_it(raw):
    assert outcome(parse_row, raw) == outcome(_parse_any, raw)


PARTS = st.sampled_from(["a", "b", "", " ", None, 1, True, ["a"], [{"role": "user", "content": "a"}], b"a"])
CANDIDATES = st.one_of(
    PARTS,
    st.fixed_dictionaries(
        {},
        optional={"text": PARTS, "source": st.one_of(PARTS, st.just("s" * 201)), "image": PARTS, "x": PARTS},
    ),
    st.fixed_dictionaries({"text": st.sampled_from(["a", "b"])}),
)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "prompt": PARTS,
        "candidates": st.one_of(PARTS, st.lists(CANDIDATES, max_size=3)),
        "judgements": st.sampled_from([[], None, 0, [{"choice": 0}], [{"choice": 5}]]),
        "meta": st.sampled_from([{}, None, [], {"a": None, "b": [1.5, {"c": None}]}, {1: 2}]),
        "reference": PARTS,
        "x": PARTS,
    },
)
MANY = [{"text": str(n)} for n in range(101)]


@settings(max_examples=500, deadline=None)
@given(ROWS, st.sampled_from(["text", "image"]))
@example(
    {"prompt": "p", "candidates": [{"text": "a", "source": "m"}, {"text": "b"}], "meta": {"k": None}}, "text"
)
@example({"prompt": "p", "candidates": [{"text": "a"}, {"text": "a"}]}, "text")
@example({"prompt": "p", "candidates": [{"text": "a"}]}, "text")
@example({"prompt": "p", "candidates": []}, "text")
@example({"prompt": "p", "candidates": MANY}, "text")
@example({"prompt": "p", "candidates": MANY[:100]}, "text")
@example({"prompt": "p", "candidates": [{"text": "a"}, {"text": "b"}]}, "image")
def test_a_plain_row_is_checked_like_any_other(row, content):
    assert outcome(check_group, row, content=content) == outcome(_check_group, row, content=content)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20))
@example("\\N")
@example("\\.")
@example("a\tb\nc\rd\\e")
@example("\\t\\n\\u0041")
@example("\x01\x1f\x7f\x85\u2028'\"")
@pytest.mark.django_db
def test_copied_texts_come_back(project, text):
    groups = [{"prompt": f"p{text}", "candidates": [{"text": f"a{text}", "source": text}, {"text": "b"}]}]
    groups[0] |= {"meta": {f"k{text}": [text, None, 1.5]}, "reference": text}
    (comparison,) = services.add_comparisons(project=project, groups=groups)
    assert (comparison.prompt, comparison.reference) == (f"p{text}", text)
    assert comparison.meta == {f"k{text}": [text, None, 1.5]}
    first, second = comparison.candidates.order_by("index")
    assert (first.text, first.source, second.text, second.source) == (f"a{text}", text, "b", "")


def test_kinds_of_fields_that_nobody_copies_are_refused():
    with pytest.raises(TypeError, match="sums"):
        copy_columns(SourceResult, {"project_id": [1], "key": ["k"], "sums": [b"1"]})


def test_keys_are_hashes_of_what_is_compared():
    prompt = [{"role": "user", "content": "é"}]
    content = content_of({"prompt": prompt, "candidates": [{"text": "a"}, {"image": Media(sha256="f" * 64)}]})
    assert content.prompt_key == hashlib.sha256(b'[{"content": "\\u00e9", "role": "user"}]').hexdigest()
    whole = b'[[{"content": "\\u00e9", "role": "user"}], ["a", "%s"]]' % (b"f" * 64)
    assert content.content_key == hashlib.sha256(whole).hexdigest()


@pytest.mark.django_db(transaction=True)
def test_only_the_end_of_an_import_waits_for_the_disk(project, monkeypatch):
    monkeypatch.setattr(imports, "CHUNK_LINES", 2)
    seen = []

    def noting(name, inner):
        def function(*arguments, **values):
            result = inner(*arguments, **values)
            with connection.cursor() as cursor:
                cursor.execute("SHOW synchronous_commit")
                seen.append((name, *cursor.fetchone()))
            return result

        return function

    monkeypatch.setattr(imports, "add_groups", noting("chunk", imports.add_groups))
    monkeypatch.setattr(imports, "emit", noting("end", imports.emit))
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = on")  # the tests' own server waits for nothing
    job = start(project, jsonl(*[{**GOOD, "prompt": f"q{n}"} for n in range(4)]))
    services.run_import(job.pk)
    connection.close()
    assert seen == [("chunk", "off"), ("chunk", "off"), ("end", "on")]


@pytest.mark.django_db
@pytest.mark.parametrize("number", [19, 20, 21, 25])
def test_rows_are_read_while_the_database_works(project, monkeypatch, number):
    """The next chunk at most, and none of it is lost, wherever the file ends."""
    monkeypatch.setattr(imports, "CHUNK_LINES", 10)
    read, begun, inner, commit = [], [], imports._read, imports._commit

    def reading(records, *rest):
        read.append(records[0].number)
        return inner(records, *rest)

    def committing(job, chunk, meanwhile):
        begun.append(len(read))
        done = commit(job, chunk, meanwhile)
        begun.append(len(read))
        return done

    monkeypatch.setattr(imports, "_read", reading)
    monkeypatch.setattr(imports, "_commit", committing)
    job = start(project, jsonl(*[{**GOOD, "prompt": f"q{n}"} for n in range(number)]))
    services.run_import(job.pk)
    assert begun[:2] == [10, min(20, number)]
    assert read == list(range(1, number + 1))
    prompts = list(Comparison.objects.order_by("rank").values_list("prompt", flat=True))
    assert prompts == [f"q{n}" for n in range(number)]
    job.refresh_from_db()
    assert (job.status, job.accepted, job.line) == ("done", number, number)
