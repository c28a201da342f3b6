"""Markdown of guidelines, prompts and answers as HTML that is safe to show.

Whoever wrote the text is a stranger: raw HTML is escaped by the parser, and what it made is sanitised
again. Images are shown as links, because a picture that the browser fetches tells its host who reads.
"""

from functools import lru_cache
from html import escape

import nh3
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import Truncator
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

TAGS = {
    *(
        "p",
        "br",
        "hr",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "li",
        "blockquote",
        "pre",
        "code",
        "em",
    ),
    *("strong", "s", "a", "table", "thead", "tbody", "tr", "th", "td", "span"),
}
ATTRIBUTES = {
    "a": {"href", "title"},
    "span": {"class"},
    "code": {"class"},
    "ol": {"start"},
    "th": {"class"},
    "td": {"class"},
}
SCHEMES = {"http", "https", "mailto"}
ROLES = {"user": "Person", "assistant": "Assistant", "system": "Instructions", "tool": "Tool"}
HIGHLIGHT_LIMIT = 20_000  # characters; longer code is shown plainly rather than slowly


def _highlight(code: str, language: str, _attributes: str) -> str:
    """The code with pygments' short classes, or "" to let the parser escape it."""
    if not language or len(code) > HIGHLIGHT_LIMIT:
        return ""
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return ""
    return highlight(code, lexer, HtmlFormatter(nowrap=True))


class _Renderer(RendererHTML):
    """Pictures become links, headings fit under the page's own, cells are aligned by class, not by style."""

    def image(self, tokens, index, options, env):
        source = escape(str(tokens[index].attrs.get("src", "")))
        return f'<a href="{source}">{escape(tokens[index].content) or source}</a>'

    def renderToken(self, tokens, index, options, env):
        token = tokens[index]
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"
        if style := token.attrs.pop("style", None):
            token.attrSet("class", "align-" + str(style).partition(":")[2])
        return super().renderToken(tokens, index, options, env)


_parser = MarkdownIt(
    "commonmark",
    {"html": False, "linkify": False, "breaks": True, "highlight": _highlight},
    renderer_cls=_Renderer,
).enable(["table", "strikethrough"])


@lru_cache(maxsize=512)
def _render(text: str) -> str:
    return nh3.clean(
        _parser.render(text),
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes=SCHEMES,
        link_rel="noopener noreferrer nofollow",
    )


def render_markdown(text: str) -> SafeString:
    """Safe HTML for a Markdown text, with code highlighted by CSS classes."""
    return mark_safe(_render(text))  # noqa: S308 - sanitised by nh3 just above


def render_content(content: str | list[dict[str, str]]) -> SafeString:
    """Safe HTML for a prompt or answer: a text, or a list of {role, content} messages."""
    if isinstance(content, str):
        return render_markdown(content)
    return mark_safe("".join(_turn(message) for message in content))  # noqa: S308 - made of safe parts


def _turn(message: dict[str, str]) -> SafeString:
    role = message.get("role", "")
    return format_html(
        '<section class="turn turn-{}"><p class="role">{}</p>{}</section>',
        role if role in ROLES else "other",
        ROLES.get(role, role),
        render_markdown(message.get("content", "")),
    )


def first_line(content: str | list[dict[str, str]], length: int = 120) -> str:
    """The beginning of a prompt or answer on one line, for tables."""
    text = content if isinstance(content, str) else content[-1].get("content", "") if content else ""
    return Truncator(" ".join(text.replace("**", "").replace("`", "").split())).chars(length)
