"""The catalogs in `locale/`: every message of the code, translated, with what it names, and compiled."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import allauth
import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import read_mo
from django import conf as django_conf
from django.conf import settings
from django.contrib import auth as django_auth
from django.contrib import humanize as django_humanize
from django.utils.translation import to_locale

from tests import messages

NAMED = re.compile(r"%\(\w+\)[a-z]|%%|%[sd]|\{\w+\}")


@pytest.fixture(scope="module")
def wanted() -> Catalog:
    return messages.messages()


class Tags(HTMLParser):
    """The tags of a message with their attributes, in no order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)
        self.close()
        self.found.sort()

    def handle_starttag(self, tag, attrs):
        self.found.append(f"<{tag} {sorted(attrs)}>")

    def handle_endtag(self, tag):
        self.found.append(f"</{tag}>")


def problems(original: str, translated: str) -> list[str]:
    """What a translation lost or made up: names to fill in, tags, space at the ends, line breaks."""
    found: list[str] = []
    checks: dict[str, Callable[[str], object]] = {
        "names": lambda text: sorted(NAMED.findall(text)),
        "tags": lambda text: Tags(text).found,
        "start": lambda text: re.match(r"\s*", text)[0],
        "end": lambda text: re.search(r"\s*$", text)[0],
        "lines": lambda text: text.count("\n"),
    }
    for name, look in checks.items():
        if look(original) != look(translated):
            found.append(f"{name}: {original!r} -> {translated!r}")
    return found


@pytest.mark.parametrize(
    ("original", "translated", "wrong"),
    [
        ("%(n)s of %(all)s", "%(all)s davon %(n)s", []),
        ("%(n)s rows", "%(m)s Zeilen", ["names"]),
        ('<a href="{x}">run</a> 5', '<a href="{x}">Lauf</a> 5', []),
        ("<b>run</b>", "<strong>Lauf</strong>", ["tags"]),
        ("run ", "Lauf", ["end"]),
        ("a\nb", "a b", ["lines"]),
    ],
)
def test_checker(original, translated, wrong):
    assert [problem.partition(":")[0] for problem in problems(original, translated)] == wrong


def test_every_language_has_a_catalog():
    codes = [to_locale(code) for code, _name in settings.LANGUAGES]
    assert codes == ["en", *messages.LANGUAGES]


@pytest.mark.parametrize("language", messages.LANGUAGES)
def test_catalog(language, wanted):
    found = messages.read(language)
    have = {(message.context, message.id) for message in found if message.id}
    want = {(message.context, message.id) for message in wanted if message.id}
    assert have - want == set(), "no longer in the code: run `make messages`"
    assert want - have == set(), "not in the catalog: run `make messages`"
    wrong = []
    for message in filter(lambda message: message.id, found):
        assert not message.fuzzy, message.id
        strings = message.string if isinstance(message.string, tuple) else (message.string,)
        if isinstance(message.id, tuple):
            assert len(strings) == found.num_plurals, message.id
        assert all(strings), f"not translated: {message.id}"
        # A form of the plural may spell its number out; it must not name what the English does not.
        original = message.id[-1] if isinstance(message.id, tuple) else message.id
        for string in strings:
            found_here = problems(original, string)
            if isinstance(message.id, tuple) and set(NAMED.findall(string)) < set(NAMED.findall(original)):
                found_here = [problem for problem in found_here if not problem.startswith("names")]
            wrong += found_here
    assert wrong == []


@pytest.mark.parametrize("language", messages.LANGUAGES)
def test_compiled(language):
    path = messages.path_of(language)
    assert path.read_bytes() == messages.po_bytes(messages.read(language)), "run `make messages`"
    compiled = path.with_suffix(".mo").read_bytes()
    assert compiled == messages.mo_bytes(messages.read(language)), "run `make messages`"


@pytest.mark.parametrize("language", [folder.name for folder in messages.LACKING.iterdir()])
def test_what_libraries_lack(language):
    """Compiled; and gone from here once the library has it."""
    found = messages.read(language, messages.LACKING)
    path = messages.path_of(language, messages.LACKING)
    assert path.read_bytes() == messages.po_bytes(found), "run `make messages`"
    assert path.with_suffix(".mo").read_bytes() == messages.mo_bytes(found), "run `make messages`"
    for root in (django_conf, django_auth, django_humanize, allauth):
        theirs = Path(root.__file__).parent / "locale" / language / "LC_MESSAGES" / "django.mo"
        if theirs.exists():
            with theirs.open("rb") as file:
                known = read_mo(file)
            assert [one.id for one in found if one.id and known.get(one.id, one.context)] == []
