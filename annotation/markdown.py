"""Markdown of guidelines, prompts and answers as HTML that is safe to show.

Whoever wrote the text is a stranger: raw HTML is escaped by the parser, and what it made is sanitised
again. Images are shown as links, because a picture that the browser fetches tells its host who reads.
"""

from functools import lru_cache
from html import escape
from typing import Any

import nh3
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from latex2mathml.converter import convert as convert_to_mathml
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.texmath import texmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from annotation.prompts import Prompt, pictures_of, words_of

TAGS = frozenset(
    [
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
        "strong",
        "s",
        "a",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "span",
    ]
)
MATH_TAGS = frozenset(
    [
        "math",
        "mrow",
        "mi",
        "mo",
        "mn",
        "mtext",
        "mspace",
        "mfrac",
        "msqrt",
        "mroot",
        "msub",
        "msup",
        "msubsup",
        "mover",
        "munder",
        "munderover",
        "mtable",
        "mtr",
        "mtd",
        "mstyle",
        "mpadded",
        "mphantom",
        "menclose",
    ]
)
MATH_ATTRIBUTES = {
    "math": {"display"},
    "mo": {"stretchy", "fence", "form", "accent", "largeop", "movablelimits", "lspace", "rspace"},
    "mi": {"mathvariant"},
    "mspace": {"width"},
    "mfrac": {"linethickness"},
    "mtd": {"columnalign"},
    "mstyle": {"displaystyle", "scriptlevel"},
    "menclose": {"notation"},
}
ATTRIBUTES = {
    "a": {"href", "title"},
    "span": {"class"},
    "code": {"class"},
    "ol": {"start"},
    "th": {"class"},
    "td": {"class"},
    **MATH_ATTRIBUTES,
}
SCHEMES = {"http", "https", "mailto"}
ROLES = {
    "user": gettext_lazy("Person"),
    "assistant": gettext_lazy("Assistant"),
    "system": gettext_lazy("Instructions"),
    "tool": gettext_lazy("Tool"),
}
HIGHLIGHT_LIMIT = 20_000  # characters; longer code is shown plainly rather than slowly
FORMULA_LIMIT = 2_000  # characters; a longer formula is shown as it was written


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


def _formula(tex: str, *, block: bool) -> str:
    """MathML of a LaTeX formula; the formula as it was written where it cannot be read."""
    as_written = f"<code>{escape(tex)}</code>"
    if len(tex) > FORMULA_LIMIT:
        return as_written
    try:
        return convert_to_mathml(tex, display="block" if block else "inline")
    except Exception:  # noqa: BLE001 - its dozen errors share no class, and strangers write the formulas
        return as_written


def _math(parser: MarkdownIt) -> None:
    r"""Formulas between $…$, $$…$$, \(…\) and \[…\]. A price is no formula: "$5 and $6"."""
    dollarmath_plugin(parser, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    texmath_plugin(parser, delimiters="brackets")
    for name in ("math_inline", "math_inline_double", "math_block", "math_block_eqno"):
        parser.add_render_rule(name, _render_formula)


def _render_formula(_renderer, tokens, index, _options, _env):
    token = tokens[index]
    formula = _formula(token.content.strip(), block=token.type != "math_inline")
    return f"<p>{formula}</p>\n" if token.block else formula


_parser = MarkdownIt(
    "commonmark",
    {"html": False, "linkify": False, "breaks": True, "highlight": _highlight},
    renderer_cls=_Renderer,
).enable(["table", "strikethrough"])
_math(_parser)


@lru_cache(maxsize=512)
def _render(text: str) -> str:
    return nh3.clean(
        _parser.render(text),
        tags=TAGS | MATH_TAGS,
        attributes=ATTRIBUTES,
        url_schemes=SCHEMES,
        link_rel="noopener noreferrer nofollow",
    )


def render_markdown(text: str) -> SafeString:
    """Safe HTML for a Markdown text, with code highlighted by CSS classes."""
    return mark_safe(_render(text))  # noqa: S308 - sanitised by nh3 just above


def render_content(content: Prompt) -> SafeString:
    """Safe HTML for a prompt or answer: a text, or a list of {role, content} messages.

    A picture in it is shown where its part has an `url` on this site, and named where it has none.
    """
    if isinstance(content, str):
        return render_markdown(content)
    return mark_safe("".join(_turn(message) for message in content))  # noqa: S308 - made of safe parts


def _turn(message: dict[str, Any]) -> SafeString:
    role = message.get("role", "")
    said = message.get("content", "")
    parts = said if isinstance(said, list) else [{"type": "text", "text": said}]
    return format_html(
        '<section class="turn turn-{}"><p class="role">{}</p>{}</section>',
        role if role in ROLES else "other",
        ROLES.get(role, role),
        mark_safe("".join(_part(part) for part in parts)),  # noqa: S308 - made of safe parts
    )


def _part(part: dict[str, Any]) -> SafeString:
    if part["type"] != "image":
        return render_markdown(part["text"])
    if "url" not in part:
        return format_html('<p class="muted">[{}]</p>', _("picture"))
    return format_html(
        '<img class="of-prompt" src="{}" width="{}" height="{}" alt="{}">',
        part["url"],
        part["width"],
        part["height"],
        _("Picture in the prompt"),
    )


def first_line(content: Prompt, length: int = 120) -> str:
    """The beginning of a prompt or answer on one line, for tables."""
    text = (
        content if isinstance(content, str) else words_of(content[-1].get("content", "")) if content else ""
    )
    text = text or (f"[{_('picture')}]" if pictures_of(content) else "")
    return Truncator(" ".join(text.replace("**", "").replace("`", "").split())).chars(length)
