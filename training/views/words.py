"""What the scripts of the run pages say, in the person's language; they fill in `{step}` and the like."""

from django.contrib.humanize.templatetags.humanize import intcomma
from django.utils.translation import gettext as _

from annotation.numbers import duration
from training.models import Run


def chart_words() -> dict[str, str]:
    """By the name under which `static/js/charts.js` knows them."""
    return {
        "loss": _("Loss"),
        "accuracy": _("Accuracy"),
        "margin": _("Margin"),
        "accuracy_majority": _("Accuracy against the majority"),
        "logps": _("Log-probability of preferred and rejected"),
        "gradient_norm": _("Gradient norm"),
        "learning_rate": _("Learning rate"),
        "training": _("training"),
        "held_out": _("held out"),
        "chosen": _("preferred"),
        "rejected": _("rejected"),
        "step": _("step {step}"),
        "at": _("at {step}"),
        "summary": _("{name} from {first} to {last} at step {step}"),
    }


def running_sentence(run: Run, *, eta_seconds: float | None) -> str:
    """How far a running run is, and how long it will still take."""
    if not run.total_steps:
        return _("Getting ready: loading the model and the data.")
    steps = {"step": intcomma(run.step), "total": intcomma(run.total_steps)}
    if eta_seconds is None:
        return _("Step %(step)s of %(total)s") % steps
    said = _("Step %(step)s of %(total)s, about %(time)s left")
    return said % (steps | {"time": duration(eta_seconds)})
