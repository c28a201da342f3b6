"""The form of a schedule: its plan, from the few choices that most plans are made of.

Every other plan is for the API; see `training.services.steps`.
"""

from typing import Any, Final

from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from annotation.errors import Invalid
from annotation.forms import PageForm
from annotation.models import Project
from training import browsing
from training.forms import EVAL_SHARES, initial_of, offer
from training.models import Run
from training.services.naming import REWARD_MODELS
from training.services.steps import LAST_ROUND

SAVED: Final = "run:"  # a step that repeats a run
PLAIN: Final = "new:"  # a step with a method's defaults: new:<method>:<base>
GUARDRAILS: Final = {"length": [0.5, 2.0], "diversity": 0.8}  # of the promotion


class ScheduleForm(PageForm):
    """When, and up to two runs one after another; each like an earlier run, or with a method's defaults."""

    name = forms.CharField(label=_("Name"), max_length=100)
    every_judgements = forms.IntegerField(
        required=False, min_value=1, label=_("After every … new judgements"), help_text=_("Or a cron line:")
    )
    cron = forms.CharField(
        required=False,
        max_length=100,
        label=_("Cron line"),
        help_text=_("Minute, hour, day, month, weekday in UTC: 0 3 * * 1 is Mondays at three."),
    )
    first = forms.ChoiceField(label=_("First run"))
    then = forms.ChoiceField(label=_("Then"), required=False)
    ask = forms.BooleanField(
        required=False,
        label=_("Ask first what the reward model doubts"),
        help_text=_("Needs a first run that trains a reward model of several members."),
    )
    afterwards = forms.ChoiceField(
        label=_("Afterwards"),
        required=False,
        choices=[
            ("", _("nothing more")),
            ("match", _("compare the new model blind with the champion")),
            ("promote", _("compare it, and promote it if it is better and no guardrail is crossed")),
            ("keep_going", _("compare it, promote it if it is better, and keep going")),
        ],
        help_text=_(
            "To keep going, the champion answers again, and the next round learns what people say of it."
        ),
    )

    def __init__(self, *args: Any, project: Project) -> None:
        super().__init__(*args)
        self.project = project
        choices = _step_choices(project)
        self.has_step = bool(choices)
        offer(self, "first", choices)
        offer(self, "then", [("", _("nothing more")), *choices])

    @property
    def request(self) -> dict[str, Any]:
        """What `create_schedule` takes."""
        data = self.cleaned_data
        steps = [data[name] for name in ("first", "then") if data[name]]
        plan = [step_of(self.project, step) for step in steps]
        if data["ask"]:
            plan.append({"do": "score", "base": {"step": 0}, "then": "prioritise"})
        if data["afterwards"]:
            plan += following_steps(plan, len(steps) - 1, data["afterwards"])
        return {"plan": plan, **{name: data[name] for name in ("name", "every_judgements", "cron")}}

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        chosen = [data[name] for name in ("first", "then") if data.get(name)]
        plan = [step_of(self.project, step) for step in chosen]
        if data.get("ask") and plan and plan[0].get("config", {}).get("members", 1) < 2:
            self.add_error("ask", _("The first run trains no reward model of several members."))
        if data.get("afterwards") and plan and plan[-1]["method"] in REWARD_MODELS:
            self.add_error("afterwards", _("The last run trains a reward model, which answers nothing."))
        return data

    def refuse(self, error: Invalid) -> None:
        """Steps of the plan are the fields `first` and `then`."""
        fields = {"plan.0": "first", "plan.1": "then"}
        renamed = {".".join(path.split(".")[:2]): text for path, text in error.errors.items()}
        super().refuse(Invalid({fields.get(path, path): text for path, text in renamed.items()}))


def following_steps(plan: list[dict[str, Any]], trained: int, afterwards: str) -> list[dict[str, Any]]:
    """A blind match of what a step trains with the champion, or with its base; the promotion; and what keeps
    rounds going: the step learns from what is new, on from the champion, who writes what is judged next.
    """
    champion = {"champion": plan[trained]["base"]}
    steps: list[dict[str, Any]] = [{"do": "match", "left": {"step": trained}, "right": champion}]
    if afterwards == "match":
        return steps
    promotion = {"do": "promote", "model": {"step": trained}, "match": len(plan), "guardrails": GUARDRAILS}
    if afterwards == "promote":
        return [*steps, promotion]
    filters = plan[trained].get("filters", {}) | {"since": LAST_ROUND}
    plan[trained] |= {"base": champion, "filters": filters}
    pairs = {"samples_per_prompt": 2}
    generation = {"do": "generate", "base": champion, "config": pairs, "judge": True}
    return [*steps, promotion | {"go_on": True}, generation]


def step_of(project: Project, value: str) -> dict[str, Any]:
    """A step of a plan from a choice of the form."""
    if value.startswith(PLAIN):
        method, base = value.removeprefix(PLAIN).split(":", 1)
        return {"method": method, "base": base, "eval_fraction": float(EVAL_SHARES[0][0])}
    run = Run.objects.select_related("base", "snapshot").get(project=project, pk=value.removeprefix(SAVED))
    return {
        "method": run.method,
        "base": initial_of(run)["base"],
        "config": run.config,
        "filters": run.snapshot.filters,
        "eval_fraction": run.snapshot.eval_fraction,
        "seed": run.seed,
    }


def _step_choices(project: Project) -> list[tuple[str, list[tuple[str, str]]]]:
    methods = [choice.method for choice in browsing.method_choices(project)]
    runs = browsing.runs_of(project).filter(method__in=[method.name for method in methods])
    like = [
        (
            f"{SAVED}{run.pk}",
            gettext("Like run %(id)s: %(method)s, %(base)s")
            % {"id": run.pk, "method": run.method, "base": initial_of(run)["base"]},
        )
        for run in runs[:50]
    ]
    plain = [
        (f"{PLAIN}{method.name}:{name}", f"{gettext(method.title)}, {label}")
        for method in methods
        for _group, models in browsing.base_choices(project, scorers=method.name in REWARD_MODELS)
        for name, label in models
    ]
    groups = [(gettext("Like an earlier run"), like), (gettext("With default settings"), plain)]
    return [(label, choices) for label, choices in groups if choices]
