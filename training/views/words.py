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


def criteria_of(run: Run) -> dict[str, str]:
    """By what a scoring can put the queue in order, the usual way first; nothing for other runs.

    What reads features needs those that the scoring wrote; the others read the members of an ensemble.
    """
    by_members = {
        "batch_information": _("what all of them teach together"),
        "information": _("what each teaches by itself"),
        "disagreement": _("where the models of the ensemble differ"),
        "uncertainty": _("where the choice is most open"),
    }
    by_features = {
        "last_layer": _("what the answers so far leave open"),
        "design": _("what is least like what was asked"),
        "errors": _("what is like the reward's mistakes"),
        "worth": _("where a person is worth more than the judge"),
    }
    if not run.gives_scores:
        return {}
    has_features = run.config.get("features") or run.config.get("surface")
    return by_features if has_features else by_members
