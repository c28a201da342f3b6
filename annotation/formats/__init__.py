"""Files in and out: one module per format, and what they share.

A format reads rows into groups (`annotation.formats.schema`) and writes a group as rows. `holds` says what
it can hold; `fit` cuts a group down to that, and what is left out is counted. What the rows are packed in
(JSONL, JSON, Parquet, CSV, a zip) is nobody's business here: see `archive` and `packing`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from annotation.errors import Invalid
from annotation.formats import (
    arena,
    argilla,
    groups,
    helpsteer2,
    helpsteer3,
    hh_rlhf,
    hpdv2,
    imagereward,
    label_studio,
    oasst,
    pick_a_pic,
    table,
    trl,
    ultrafeedback,
)
from annotation.formats.fitting import Holds, LeftOut, fit

Row = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """`read(rows, content=…)` gives groups, `content` being "text" or "image"; `write(group)` rows.

    Where there is a `key`, rows that follow one another with an equal one are read together; elsewhere each
    stands for itself. `container` is what an export is packed in unless somebody asks for another, and
    `pictures` are columns that hold their bytes in Parquet.
    """

    title: str | Promise
    read: Callable[..., list[Row]]
    write: Callable[[Row], Iterator[Row]]
    holds: Holds
    key: Callable[[Row], object] | None = None
    container: str = "jsonl"
    from_csv: bool = False
    pictures: tuple[str, ...] = ()

    def rows_of(self, group: Row, left_out: LeftOut, *, all_kinds: bool = False) -> Iterator[Row]:
        """A group as rows; what they cannot hold is counted in `left_out`."""
        for part in fit(group, self.holds, left_out, all_kinds=all_kinds):
            yield from self.write(part)


FORMATS: dict[str, Format] = {
    "groups": Format(
        _("Groups: everything that is known of a comparison"), groups.read, groups.write, groups.HOLDS
    ),
    "trl": Format(_("TRL: preferences, thumbs, prompts, steps"), trl.read, trl.write, trl.HOLDS),
    "label-studio": Format(
        _("Label Studio tasks"), label_studio.read, label_studio.write, label_studio.HOLDS, container="json"
    ),
    "argilla": Format(_("Argilla records"), argilla.read, argilla.write, argilla.HOLDS),
    "arena": Format(_("LMArena battles"), arena.read, arena.write, arena.HOLDS, from_csv=True),
    "pick-a-pic": Format(
        _("Pick-a-Pic pairs"),
        pick_a_pic.read,
        pick_a_pic.write,
        pick_a_pic.HOLDS,
        pictures=("jpg_0", "jpg_1"),
    ),
    "hpdv2": Format(_("HPDv2 rankings"), hpdv2.read, hpdv2.write, hpdv2.HOLDS, container="json"),
    "imagereward": Format(
        _("ImageReward rankings"), imagereward.read, imagereward.write, imagereward.HOLDS, container="json"
    ),
    "hh-rlhf": Format(_("HH-RLHF transcripts"), hh_rlhf.read, hh_rlhf.write, hh_rlhf.HOLDS),
    "ultrafeedback": Format(
        _("UltraFeedback ratings"), ultrafeedback.read, ultrafeedback.write, ultrafeedback.HOLDS
    ),
    "helpsteer2": Format(
        _("HelpSteer2 ratings"), helpsteer2.read, helpsteer2.write, helpsteer2.HOLDS, key=helpsteer2.key
    ),
    "helpsteer3": Format(_("HelpSteer3 preferences"), helpsteer3.read, helpsteer3.write, helpsteer3.HOLDS),
    "oasst": Format(_("OpenAssistant trees"), oasst.read, oasst.write, oasst.HOLDS, key=oasst.key),
    "csv": Format(
        _("A table for spreadsheets (CSV)"),
        table.read,
        table.write,
        table.HOLDS,
        key=table.key,
        container="csv",
        from_csv=True,
    ),
}


def find_format(name: str, *, modality: str | None = None) -> Format:
    """The format of that name. Raises `Invalid` that names those that there are (for this modality)."""
    fitting = [other for other, form in FORMATS.items() if modality in (None, *form.holds.modalities)]
    if name in fitting:
        return FORMATS[name]
    problem = f"{name!r} is no format"
    if name in FORMATS:
        problem = f"{name} holds no {modality}s, which this project compares"
    raise Invalid({"format": f"{problem}; supported: {', '.join(fitting)}."})
