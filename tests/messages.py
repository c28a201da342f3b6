"""Messages for people, in code and in `locale/`: `python -m tests.messages` brings the .po files up to date.

Templates go through Django's own translator to Python-like source, so that one extractor reads both. Titles
and summaries of the tuning methods come from their registry, which knows no Django; what their options say
stays English. Nothing here needs gettext's programs.
"""

import io
import subprocess
from pathlib import Path
from typing import Final

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from django.utils.translation import templatize

from training.tuning.registry import METHODS

ROOT: Final = Path(__file__).parents[1]
LOCALE: Final = ROOT / "locale"
LACKING: Final = LOCALE / "libraries"  # messages of Django and allauth that have no translation there
LANGUAGES: Final = ("de", "fr", "es", "pt", "zh_Hans", "ja", "hi", "ar")
KEYWORDS: Final = {
    "_": None,
    "gettext": None,
    "gettext_lazy": None,
    "gettext_noop": None,
    "ngettext": (1, 2),
    "ngettext_lazy": (1, 2),
    "pgettext": ((1, "c"), 2),
    "pgettext_lazy": ((1, "c"), 2),
    "npgettext": ((1, "c"), 2, 3),
}
COMMENT: Final = "# Tiebreak's messages; `make messages` brings this file up to date."
# Dates and addresses in the header would only make differences.
EMPTY_HEADERS: Final = (
    *(b'"Project-Id-', b'"Report-Msgid-', b'"POT-Creation-', b'"PO-Revision-'),
    *(b'"Last-Translator', b'"Language-Team', b'"Generated-By'),
)


def sources() -> list[Path]:
    """Python and templates of the product, whether or not they are committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.html"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    parts = ("annotation/", "training/", "webapp/", "templates/")
    return [ROOT / path for path in sorted(listed) if path.startswith(parts) and (ROOT / path).exists()]


def messages() -> Catalog:
    """Every message of the code, without its places."""
    catalog = Catalog(charset="utf-8")
    for path in sources():
        text = path.read_text()
        if path.suffix == ".html":
            text = f"(\n{templatize(text)}\n)"  # brackets: its indentation means nothing
        for _line, found, _comments, context in extract("python", io.BytesIO(text.encode()), KEYWORDS):
            catalog.add(found, context=context)
    for method in METHODS:
        catalog.add(method.title)
        catalog.add(method.summary)
    return catalog


def path_of(language: str, folder: Path = LOCALE) -> Path:
    return folder / language / "LC_MESSAGES" / "django.po"


def read(language: str, folder: Path = LOCALE) -> Catalog:
    with path_of(language, folder).open("rb") as file:
        return read_po(file, locale=language, domain="django")


def update(language: str, wanted: Catalog) -> Catalog:
    """The language's catalog with exactly the wanted messages; what was translated stays so."""
    path = path_of(language)
    known = read(language) if path.exists() else Catalog(language)
    new = Catalog(language, header_comment=COMMENT, fuzzy=False, charset="utf-8")
    for message in wanted:
        if not message.id:
            continue
        old = known.get(message.id, context=message.context)
        kept = old.string if old is not None and type(old.id) is type(message.id) else None
        new.add(
            message.id, kept or message.string or "", context=message.context, flags=message.flags - {"fuzzy"}
        )
    return new


def po_bytes(catalog: Catalog) -> bytes:
    out = io.BytesIO()
    write_po(out, catalog, width=110, no_location=True, sort_output=True)
    kept = (line for line in out.getvalue().splitlines(keepends=True) if not line.startswith(EMPTY_HEADERS))
    return b"".join(kept)


class _Messages(list[Message]):
    """What `write_mo` reads of a catalog."""

    charset = "utf-8"


def mo_bytes(catalog: Catalog) -> bytes:
    """What is translated, compiled. The header has what gettext reads, and no date."""
    charset, plural = "Content-Type: text/plain; charset=utf-8", f"Plural-Forms: {catalog.plural_forms}"
    header = Message("", f"Language: {catalog.locale_identifier}\n{charset}\n{plural}\n")
    done = [message for message in catalog if message.id and _is_translated(message.string)]
    out = io.BytesIO()
    write_mo(out, _Messages([header, *done]))  # type: ignore[arg-type]
    return out.getvalue()


def main() -> None:
    wanted = messages()
    for language in LANGUAGES:
        path = path_of(language)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(po_bytes(update(language, wanted)))
        fresh = read(language)
        path.with_suffix(".mo").write_bytes(mo_bytes(fresh))
        missing = sum(not _is_translated(message.string) for message in fresh if message.id)
        print(f"{language}: {len(fresh)} messages, {missing} to translate")  # noqa: T201
    for folder in sorted(LACKING.iterdir()):
        path, lacking = path_of(folder.name, LACKING), read(folder.name, LACKING)
        path.write_bytes(po_bytes(lacking))
        path.with_suffix(".mo").write_bytes(mo_bytes(read(folder.name, LACKING)))


def _is_translated(string: str | tuple[str, ...]) -> bool:
    return bool(string) if isinstance(string, str) else all(string)


if __name__ == "__main__":
    import os

    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    django.setup()
    main()
