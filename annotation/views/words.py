"""What the judging page's script says, in the person's language. `%s` is a number or a name."""

from typing import Any

from django.utils.translation import gettext as _


def page_words() -> dict[str, Any]:
    """By the name under which the script knows them."""
    return {
        "answer": _("Answer %s"),
        "picture": _("Picture %s"),
        "next": _("Next comparison. Answers: %s."),
        "fold": _("Fold"),
        "unfold": _("Unfold"),
        "nothing_left": _("Nothing is left for you here."),
        "fetching": _("Fetching the next comparison…"),
        "line_is_down": _(
            "The next comparison appears as soon as the line is back. "
            "Your answers are kept on this device until then."
        ),
        "undo_later": _("The line is down; undo again when it is back."),
        "taken_back": _("Taken back. The same comparison again."),
        "too_different": _("The two answers have too little in common to mark differences."),
        "same_words": _("The two answers have the same words."),
        "only_two": _("Differences are marked between two answers only."),
        "marks": {"on": _("Differences are marked."), "off": _("Marks are off.")},
        "states": {
            "saving": _("saving"),
            "saved": _("saved ✓"),
            "retrying": _("retrying · answers kept here: %s"),
            "signed-out": _("not saved: sign in again"),
        },
        "drawers": {
            "guidelines": _("Guidelines"),
            "history": _("Your last judgements"),
            "session": _("Your session"),
        },
        "break_is_due": _("%s minutes of work: time for a break?"),
        "still_to_answer": _("Still to answer:"),
        "too_short": _("The text needs at least %s characters."),
        "best_is_worst": _("The best answer cannot be the worst as well."),
        "span": _("text"),
        "box": _("box"),
        "point": _("point"),
        "step": _("step"),
        "first_error": _("first error"),
        "behind_error": _("This step comes after the first error; it is not labelled."),
        "remove": _("Remove"),
        "removed": _("Removed."),
    }
