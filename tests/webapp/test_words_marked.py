"""Every word of the templates is marked for translation."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.template.base import Lexer, TokenType

TEMPLATES = Path(__file__).parents[2] / "templates"
# Not words: the product's name, names of keys and formats, and code.
ALLOWED = {"Tiebreak", "UTC", "√KL"}
WORD = re.compile(r"[^\W\d_]{2,}")
READ_ALOUD = {"title", "placeholder", "aria-label", "aria-description", "alt", "label"}
CODE = {"code", "pre", "script", "style"}
CLASS_BLOCKS = {"block frame", "block body_class"}
# A fragment that stands inside a start tag.
ATTRIBUTES = {"annotation/_template_op.html"}
# Filters whose argument is shown.
SHOWN = re.compile(r"""\|(?:default|default_if_none|yesno|pluralize|add|join):(?:"([^"]*)"|'([^']*)')""")


def skeleton(source: str) -> tuple[str, list[str]]:
    """The template's HTML without what Django inserts, and the words inside its tags."""
    html, inside, skipping = [], [], ""
    for token in Lexer(source).tokenize():
        name = token.contents.split(" ")[0] if token.token_type is TokenType.BLOCK else ""
        if skipping:
            skipping = "" if name == skipping else skipping
        elif name in {"blocktranslate", "comment"}:
            skipping = f"end{name}"
        elif token.contents in CLASS_BLOCKS:
            skipping = "endblock"
        elif token.token_type is TokenType.TEXT:
            html.append(token.contents)
        elif token.token_type is not TokenType.COMMENT:
            inside += [a or b for a, b in SHOWN.findall(token.contents)]
    return "".join(html), inside


class Words(HTMLParser):
    """Collects text and attributes that a person reads."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.code: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.found += [values[name] for name in READ_ALOUD & values.keys() if values[name]]
        if tag == "input" and values.get("type") in {"submit", "button", "reset"}:
            self.found.append(values.get("value") or "")
        if tag in CODE:
            self.code.append(tag)

    def handle_endtag(self, tag):
        if self.code and self.code[-1] == tag:
            self.code.pop()

    def handle_data(self, data):
        if not self.code:
            self.found.append(data)


def unmarked(source: str) -> list[str]:
    html, inside = skeleton(source)
    words = Words()
    words.feed(html)
    words.close()
    texts = [" ".join(text.split()) for text in words.found + inside]
    return [text for text in texts if WORD.search(text) and text.strip(" ·") not in ALLOWED]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("<p>Hello</p>", ["Hello"]),
        ('<p title="Hello">{% translate "Hi" %} · Tiebreak</p>', ["Hello"]),
        ('{{ name|default:"nobody" }}', ["nobody"]),
        ("{% blocktranslate trimmed %}Hello <b>you</b>{% endblocktranslate %}<code>pip</code>1 %", []),
        ('<div{% if a %} class="wide"{% endif %} data-x="words">{{ name }}: {# note #}</div>', []),
    ],
)
def test_checker(source, found):
    assert unmarked(source) == found


@pytest.mark.parametrize(
    "path", sorted(str(path.relative_to(TEMPLATES)) for path in TEMPLATES.rglob("*.html"))
)
def test_templates_are_marked(path):
    source = (TEMPLATES / path).read_text()
    assert unmarked(f"<b {source}>" if path in ATTRIBUTES else source) == []
