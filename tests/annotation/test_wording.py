"""Keys and answers in words, and Markdown that is safe to show."""

import pytest

from annotation.choices import choices_for, describe, letter
from annotation.markdown import first_line, render_content, render_markdown
from annotation.models import Judgement
from annotation.templatetags.annotation_tags import as_shown, canonical
from annotation.wording import in_words


def test_seven_keys():
    question = {"strength": True, "tie": True, "both_bad": True}
    keys = {choice.key: (choice.choice, choice.strength) for choice in choices_for(question, 2)}
    assert keys == {"1": (0, 3), "2": (0, 2), "3": (0, 1), "0": ("tie", None),
                    "5": (1, 1), "6": (1, 2), "7": (1, 3), "b": ("both_bad", None)}  # fmt: skip
    assert [choice.key for choice in choices_for(question, 4)] == ["1", "2", "3", "4", "0", "b"]
    assert [choice.key for choice in choices_for(dict.fromkeys(question, False), 2)] == ["1", "2"]


def test_answers_in_words():
    described = [
        describe(*answer) for answer in ((0, 3), (1, 2), (2, None), ("tie", None), ("both_bad", None))
    ]
    assert described == ["A much better", "B better", "C better", "Tie", "Both bad"]


def test_answers_of_other_kinds_in_words():
    answers = {
        "aspects": {"tone": {"choice": 1, "strength": 2}, "length": {"choice": "tie"}},
        "ranking": [[1], [0, 2]],
        "ratings": [{"tone": 4, "length": 0}, {}, None],
        "thumbs": [1, None, 0],
        "rubric": [{"cites": True}, {"cites": False}, {}],
        "tags": ["rude", "wrong"],
        "critique": "x" * 61,
        "corrections": [None, "better", None],
        "marks": [
            {"candidate": 0, "type": "span", "start": 0, "end": 1},
            {"candidate": 2, "type": "step", "step": 0, "first_error": False},
            {"candidate": 2, "type": "step", "step": 1, "first_error": True},
        ],
        "turns": [{"turn": 0, "choice": 0}],
        "context": "not an answer",
    }
    assert list(in_words(answers, letter)) == [
        "tone: B, length: tie",
        "B > A = C",
        "A: tone 4 length 0",
        "A: good, C: bad",
        "A: cites ✓, B: cites ✗",
        "rude, wrong",
        "“" + "x" * 59 + "…”",
        "B corrected",
        "C: first error in step 2, 1 mark",
        "turn 1: A",
    ]
    assert list(in_words({"marks": [], "corrections": [None]}, letter)) == ["no marks"]


def test_a_judgement_in_words():
    judgement = Judgement(order=[1, 0], choice=1, strength=3, answers={"thumbs": [0, 1]})
    assert as_shown(judgement) == "A much better; A: good, B: bad"
    assert canonical(judgement) == "2; 1: bad, 2: good"
    judgement.choice = judgement.strength = None
    assert (as_shown(judgement), canonical(judgement)) == ("A: good, B: bad", "1: bad, 2: good")
    judgement.answers = {}
    assert (as_shown(judgement), canonical(judgement)) == ("No choice", "no choice")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("<b onclick=x>", "<p>&lt;b onclick=x&gt;</p>\n"),
        ("[a](javascript:alert(1))", "<p>[a](javascript:alert(1))</p>\n"),
        ("# Title", "<h3>Title</h3>\n"),
        (
            "![a](http://e.org/a.png)",
            '<p><a href="http://e.org/a.png" rel="noopener noreferrer nofollow">a</a></p>\n',
        ),
    ],
)
def test_markdown_is_safe(text, html):
    assert render_markdown(text) == html


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("$x^2$", '<math display="inline"><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow></math>'),
        (r"\(y_1\)", '<math display="inline"><mrow><msub><mi>y</mi><mn>1</mn></msub></mrow></math>'),
        ("$$\ni\n$$", '<math display="block"><mrow><mi>i</mi></mrow></math>'),
        (r"\[ a \]", '<math display="block"><mrow><mi>a</mi></mrow></math>'),
        ("from $5 to $6", "<p>from $5 to $6</p>"),
        ("`$x$`", "<code>$x$</code>"),
        (r"$\left( x$", r"<code>\left( x</code>"),  # what cannot be read stays as it was written
        (r"$\href{javascript:alert(1)}{x}$", "<mi>x</mi>"),
    ],
)
def test_formulas(text, part):
    html = render_markdown(text)
    assert part in html
    assert "javascript" not in html


def test_code_is_coloured_by_class():
    html = render_markdown("```python\ndef f(): pass\n```\n\n```nonsense\n<x>\n```")
    assert '<span class="k">def</span>' in html
    assert "&lt;x&gt;" in html
    assert "style" not in html


def test_conversations():
    messages = [{"role": "user", "content": "*Hi*"}, {"role": "<x>", "content": "there"}]
    html = render_content(messages)
    assert '<section class="turn turn-user"><p class="role">Person</p><p><em>Hi</em></p>' in html
    assert '<p class="role">&lt;x&gt;</p>' in html
    assert first_line(messages) == "there"
