"""Keys and answers in words, and Markdown that is safe to show."""

import pytest

from annotation.choices import choices_for, describe
from annotation.markdown import first_line, render_content, render_markdown


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
