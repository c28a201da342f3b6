"""The interface in the reader's language: chosen in a menu or by the browser; its numbers, its direction."""

import pytest
from django.urls import reverse
from django.utils import translation

from annotation import numbers
from annotation.choices import choices_for, describe
from tests.annotation.conftest import page_client
from tests.annotation.factories import add_texts, make_project, make_user

pytestmark = pytest.mark.django_db


def test_menu_before_signing_in(client):
    """Without script: a form whose buttons name the languages; the choice is kept in a cookie."""
    page = client.get(reverse("annotation:sign_in")).content.decode()
    assert '<html lang="en"' in page
    assert '<button class="link" name="language" value="de" lang="de">Deutsch</button>' in page
    reply = client.post(reverse("set_language"), {"language": "de", "next": reverse("annotation:sign_in")})
    assert reply["Location"] == reverse("annotation:sign_in")
    page = client.get(reply["Location"]).content.decode()
    assert '<html lang="de"' in page
    assert "Anmelden" in page
    elsewhere = client.post(reverse("set_language"), {"language": "de", "next": "https://evil.example/"})
    assert "evil" not in elsewhere["Location"]


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("pt-BR,pt;q=0.9,en;q=0.5", "pt"),
        ("zh-CN", "zh-hans"),
        ("fr-CH", "fr"),
        ("nl,en;q=0.5", "en"),
    ],
)
def test_language_of_the_browser(client, asked, got):
    page = client.get(reverse("annotation:sign_in"), headers={"Accept-Language": asked}).content.decode()
    assert f'<html lang="{got}"' in page


def test_direction(client):
    page = client.get(reverse("annotation:sign_in"), headers={"Accept-Language": "ar"}).content.decode()
    assert '<html lang="ar" dir="rtl">' in page


def test_numbers():
    """As each language writes them; the same digits everywhere."""
    written = {}
    for language in ("en", "de", "fr"):
        with translation.override(language):
            written[language] = (numbers.number(1234.56, 1), numbers.percent(0.125), numbers.duration(3725))
    assert written["en"] == ("1,234.6", "12 %", "1 h 2 min")
    assert written["de"] == ("1.234,6", "12 %", "1 h 2 min")
    assert written["fr"][0].replace("\xa0", " ").replace("\u202f", " ") == "1 234,6"
    with translation.override("ar"):
        assert "".join(filter(str.isdigit, numbers.number(1234.56, 1))).isascii()


def test_judging_page():
    """Buttons, help and the question that a template has by default."""
    user = make_user("manager")
    project = make_project(by=user)
    add_texts(project, 1)
    client = page_client(user)
    client.cookies["django_language"] = "de"
    page = client.get(reverse("annotation:judge", args=[project.pk])).content.decode()
    for words in (
        "Welche Antwort ist besser?",
        "Gleichstand",
        "Beide schlecht",
        "Überspringen",
        "Richtlinien",
    ):
        assert words in page
    assert ">Which answer" not in page


def test_answers_in_words():
    question = {"strength": True, "tie": True, "both_bad": True}
    with translation.override("de"):
        said = [describe(0, 3), describe(1, 1), describe("tie", None), describe(None, None)]
        keys = [(choice.key, choice.name, choice.word) for choice in choices_for(question, 2)]
    assert said == ["A viel besser", "B etwas besser", "Gleich", "Keine Wahl"]
    assert keys[0] == ("1", "A", "viel")
    assert [key for key, _name, _word in keys] == ["1", "2", "3", "0", "5", "6", "7", "b"]


def test_errors_of_the_api(client):
    refused = client.get(
        "/api/v1/projects/", headers={"Authorization": "Token none", "Accept-Language": "de"}
    )
    assert refused.json()["detail"].startswith("Das Token gilt nicht")
