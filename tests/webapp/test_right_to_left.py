"""What Arabic turns round, and what it must not."""

import pytest
from django.utils.translation import override

from annotation.answer_form import render_form
from annotation.numbers import number
from annotation.template import DEFAULT_QUESTIONS
from training.templatetags.training_tags import figure


def test_a_minus_stays_before_its_number():
    with override("ar"):
        assert number(-0.5, 1) == "\u200e−0,5"
        assert number(0.5, 1) == "0,5"
        assert figure(-0.1234) == "\u200e−0,123"
    assert number(-0.5, 1) == "−0.5"
    assert figure(-0.1234) == "−0.123"


@pytest.mark.parametrize(("language", "arrows"), [("en", "←→"), ("ar", "→←")])
def test_arrows_point_to_the_sides(language, arrows):
    with override(language):
        form = render_form({"questions": DEFAULT_QUESTIONS, "candidates": [{}, {}]})
    assert "".join(character for character in form if character in "←→") == arrows


@pytest.mark.django_db
def test_every_language_is_called_by_its_own_name(client):
    with override("en"):  # the request leaves its own language behind
        page = client.get("/sign-in/", headers={"accept-language": "ar"}).content.decode()
    assert '<html lang="ar" dir="rtl">' in page
    assert [name in page for name in (">English<", ">Deutsch<", ">日本語<", ">العربيّة<")] == [True] * 4
