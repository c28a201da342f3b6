"""Asking for runs: what is accepted, what is refused and in which words."""

import pytest

from annotation.errors import Conflict, Invalid
from tests.annotation.factories import add_texts, make_project, make_user
from tests.training import factories
from training import browsing, datasets, services, tasks
from training.models import Checkpoint, Run, Snapshot
from training.services import executing
from training.services.errors import RunFailed
from training.tuning.registry import get_method

pytestmark = pytest.mark.django_db


@pytest.fixture
def ask(manager, project, base):
    """create_run with something right for everything that is not given."""

    def ask(**values):
        given = {"by": manager, "project": project, "method": "dpo", "base": "tiny", "config": {}}
        return services.create_run(**given | values)

    return ask


@pytest.fixture
def inspected(monkeypatch):
    monkeypatch.setattr(executing, "inspect", lambda run: {"groups": 10, "pairs": 10, "rows": []})


def refusal(call, **values) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        call(**values)
    return refused.value.errors


def checkpoint_of(run: Run) -> Checkpoint:
    Run.objects.filter(pk=run.pk).update(status="done")
    return Checkpoint.objects.create(run=run, storage_key="x", sha256="0" * 64, size=1)


def test_run_is_prepared_after_the_commit(ask, monkeypatch, django_capture_on_commit_callbacks):
    sent = []
    monkeypatch.setattr(tasks.prepare_run, "delay", lambda **values: sent.append(values))
    with django_capture_on_commit_callbacks(execute=True):
        run = ask(config={"beta": 0.3}, eval_fraction=0.2, seed=7, filters={"annotators": ["import0"]})
    assert sent == [{"run_id": run.pk}]
    assert (run.status, run.method, run.seed) == ("preparing", "dpo", 7)
    assert (run.config["beta"], run.config["lora"]["r"]) == (0.3, 16)  # with the defaults of today
    assert (run.snapshot.eval_fraction, run.snapshot.seed) == (0.2, 7)
    assert run.snapshot.filters == {"annotators": ["import0"]}


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        ({"method": "dopo"}, "method", "There is no method"),
        ({"method": "diffusion_dpo"}, "method", "does not work on this project"),
        ({"method": "generate"}, "method", "There is no method"),
        ({"base": None}, "base", "needs a model"),
        ({"base": "nothing"}, "base", "there are: tiny"),
        ({"base": "checkpoint:99"}, "base", "no model"),
        ({"base": "checkpoint:x"}, "base", "no model"),
        ({"config": {"beta": -1}}, "config.beta", "greater than 0"),
        ({"config": {"lora": {"r": "x"}}}, "config.lora.r", "valid integer"),
        ({"config": {"nonsense": 1}}, "config.nonsense", "unknown key"),
        ({"config": {"loss": "ipo", "label_smoothing": 0.1}}, "config", "label_smoothing"),
        ({"config": []}, "config", "must be an object"),
        ({"eval_fraction": 1}, "eval_fraction", "less than 1"),
        ({"seed": -1}, "seed", "whole number"),
        ({"seed": 2**63}, "seed", "whole number"),
        ({"filters": {"nonsense": 1}}, "filters.nonsense", "unknown key"),
        ({"method": "sft", "reward": [{"model": "tiny"}]}, "reward", "takes no reward"),
        ({"reward": [{"rule": "length", "nonsense": 1}]}, "reward.0.nonsense", "unknown key"),
        ({"reward": ["tiny"]}, "reward.0", "must be an object"),
    ],
)
def test_refused(ask, values, field, words):
    errors = refusal(ask, **values)
    assert list(errors) == [field]
    assert words in errors[field]
    assert not Run.objects.exists()
    assert not Snapshot.objects.exists()


def test_python_rewards_are_for_the_command_line(ask):
    reward = [{"python": "os:system"}]
    assert "command line only" in refusal(ask, reward=reward, over_http=True)["reward.0.python"]
    assert "takes no reward" in refusal(ask, method="sft", reward=reward)["reward"]


def test_rewards_of_a_method_that_takes_them(base, run, manager):
    """Entries are checked without a worker: rules and their arguments, and whose models are named."""
    method = get_method("score")
    own = f"checkpoint:{checkpoint_of(run).pk}"

    def check(reward, *, by=manager, earlier_steps=0):
        services.naming.check_reward(
            by=by, reward=reward, method=method, over_http=True, earlier_steps=earlier_steps
        )

    check([{"model": "tiny"}, {"model": own, "weight": 2}, {"rule": "length:20", "transform": "sigmoid"}])
    check([{"model": {"step": 0}}, {"step": 1}], earlier_steps=2)
    for by, entry, field in (
        (manager, {"model": "nothing"}, "reward.0.model"),
        (make_user("manager"), {"model": own}, "reward.0.model"),
        (manager, {"rule": "pattern:("}, "reward.0.rule"),
        (manager, {"rule": "words", "gate": {"entry": 0, "least": 1}}, "reward.0.gate.entry"),
        (manager, {"model": {"step": 0}}, "reward.0.model"),
        (manager, {"python": "os:system"}, "reward.0.python"),
    ):
        assert list(refusal(check, reward=[entry], by=by)) == [field]


def test_nothing_judged_yet(manager, base):
    project = make_project(by=manager)
    add_texts(project, 3)
    errors = refusal(services.create_run, by=manager, project=project, method="dpo", base="tiny", config={})
    assert errors["method"] == (
        "dpo learns from choices between candidates or rankings; this project has nothing of the kind yet."
    )


def test_feedback_that_the_method_cannot_use(manager, base):
    """Thumbs on single answers are no choices."""
    from annotation.services import add_comparisons

    project = make_project(by=manager)
    judgement = {"annotator": "a", "kind": "regular", "order": [0], "choice": None, "thumbs": [1]}
    group = {"prompt": "p", "candidates": [{"text": "t", "source": ""}], "judgements": [judgement]}
    add_comparisons(project=project, groups=[group])
    assert services.feedback_of(project) == {"prompt", "thumbs"}
    errors = refusal(services.create_run, by=manager, project=project, method="dpo", base="tiny", config={})
    assert errors["method"].endswith("this project has thumbs up or down.")


def test_every_kind_of_feedback_is_recognised(manager):
    from annotation.services import add_comparisons

    project = make_project(by=manager)
    said = {
        "choice": {"choice": 0},
        "ranking": {"ranking": [[0], [1]]},
        "rating": {"ratings": [{"a": 1}, {}]},
        "thumbs": {"thumbs": [1, None]},
        "correction": {"corrections": ["x", None]},
        "step": {"marks": [{"candidate": 0, "type": "step", "step": 0, "first_error": True}]},
        "aspect": {"aspects": {"tone": {"choice": 1}}},
        "turn": {"turns": [{"turn": 0, "choice": 1}]},
    }
    for number, (kind, answer) in enumerate(said.items()):
        judgement = {"annotator": "a", "kind": "regular", "order": [0, 1]} | answer
        candidates = [{"text": "t"}, {"text": "u"}]
        group = {"prompt": f"p{number}", "candidates": candidates, "judgements": [judgement]}
        add_comparisons(project=project, groups=[group])
        assert services.feedback_of(project) == {"prompt"} | set(list(said)[: number + 1]), kind


def test_an_aspect_needs_choices_by_aspect(ask, manager):
    from annotation.services import add_comparisons

    errors = refusal(ask, config={"aspect": "tone"})
    assert errors == {"config.aspect": "Nobody compared candidates in any aspect in this project."}
    errors = refusal(ask, config={"rating_margin": 1})
    assert errors == {"config.rating_margin": "Nobody rated candidates in this project."}
    errors = refusal(ask, config={"turns": True})
    assert errors == {"config.turns": "Nobody compared candidates turn by turn in this project."}
    project = make_project(by=manager, questions=[{"type": "aspects", "aspects": [{"name": "tone"}]}])
    judgement = {"annotator": "a", "order": [0, 1], "aspects": {"tone": {"choice": 1}}}
    group = {"prompt": "p", "candidates": [{"text": "t"}, {"text": "u"}], "judgements": [judgement]}
    add_comparisons(project=project, groups=[group])
    assert ask(project=project, config={"aspect": "tone"}).method == "dpo"
    assert "method" in refusal(ask, project=project, config={})
    allowed = {choice.method.name for choice in browsing.method_choices(project) if choice.allowed}
    assert {"dpo", "reward_model"} <= allowed


def test_prepared_run_is_queued(ask, inspected):
    run = ask()
    services.prepare_run(run_id=run.pk)
    run.refresh_from_db()
    assert (run.status, run.preview["groups"]) == ("queued", 10)
    assert run.snapshot.counts["judgements"] == 10


def test_draft_waits_for_its_start(ask, inspected):
    run = ask(start=False)
    services.prepare_run(run_id=run.pk)
    run.refresh_from_db()
    assert (run.status, run.queued_at) == ("draft", None)
    services.start_run(run=run)
    assert run.status == "queued"
    with pytest.raises(Conflict):
        services.start_run(run=run)


def test_empty_snapshot_fails_the_run(ask, inspected):
    run = ask(filters={"since": "2999-01-01T00:00:00Z"})
    services.prepare_run(run_id=run.pk)
    run.refresh_from_db()
    assert (run.status, run.error) == ("failed", "No judgement passes the filters of this run; loosen them.")


def test_bad_data_fails_the_run_before_it_is_queued(ask, monkeypatch):
    def inspect(run):
        raise RunFailed("data/train.jsonl, line 1: is odd")

    monkeypatch.setattr(executing, "inspect", inspect)
    run = ask()
    services.prepare_run(run_id=run.pk)
    run.refresh_from_db()
    assert (run.status, run.error) == ("failed", "data/train.jsonl, line 1: is odd")


def test_preparation_that_always_breaks_ends(ask, monkeypatch):
    def inspect(run):
        raise OSError("no space left on device")

    monkeypatch.setattr(executing, "inspect", inspect)
    run = ask()
    for _ in range(3):
        with pytest.raises(OSError, match="no space"):
            services.prepare_run(run_id=run.pk)
    services.prepare_run(run_id=run.pk)
    run.refresh_from_db()
    assert run.status == "failed"
    assert "tried 3 times" in run.error


def test_cancelled_while_it_was_prepared(ask, inspected):
    run = ask()
    services.cancel_run(run=run)
    services.prepare_run(run_id=run.pk)
    run.refresh_from_db()
    assert run.status == "cancelled"


def test_cancel(run):
    services.cancel_run(run=run)
    assert (run.status, run.finished_at is not None) == ("cancelled", True)
    with pytest.raises(Conflict, match="has ended"):
        services.cancel_run(run=run)
    services.retry_run(run=run)
    assert (run.status, run.cancel_requested_at) == ("queued", None)
    with pytest.raises(Conflict, match="neither failed"):
        services.retry_run(run=run)


def test_cancel_running_is_a_request(run):
    services.claim_next(device_kind="cpu", worker="w")
    services.cancel_run(run=run)
    asked = run.cancel_requested_at
    services.cancel_run(run=run)
    assert (run.status, run.cancel_requested_at) == ("running", asked)


def test_checkpoint_as_base(ask, run):
    checkpoint = checkpoint_of(run)
    made = ask(base=f"checkpoint:{checkpoint.pk}")
    assert made.base_checkpoint == checkpoint
    assert services.name_of_base(made) == f"checkpoint:{checkpoint.pk}"


def test_checkpoint_of_a_strangers_project(project, base, run):
    checkpoint = checkpoint_of(run)
    stranger = make_user("manager")
    theirs = factories.judged_project(by=stranger)
    errors = refusal(
        services.create_run,
        by=stranger, project=theirs, method="dpo", base=f"checkpoint:{checkpoint.pk}", config={},
    )  # fmt: skip
    assert "no model" in errors["base"]


def test_reward_model_is_no_policy(ask, project, base, manager):
    scorer = checkpoint_of(factories.queued_run(project, base, method="reward_model"))
    policy = checkpoint_of(factories.queued_run(project, base, method="dpo"))
    assert "is a reward model" in refusal(ask, base=f"checkpoint:{scorer.pk}")["base"]
    groups = [{"prompt": "p", "candidates": [{"text": "a"}]}]
    score = {"by": manager, "project": project, "groups": groups}
    errors = refusal(services.create_scoring, base=f"checkpoint:{policy.pk}", **score)
    assert "needs a reward model" in errors["base"]
    made = services.create_scoring(base=f"checkpoint:{scorer.pk}", **score)
    assert (made.status, made.method) == ("queued", "score")


def test_rows_of_a_generation_are_no_model(ask, project, base):
    rows = checkpoint_of(factories.queued_run(project, base, method="generate"))
    assert "no model" in refusal(ask, base=f"checkpoint:{rows.pk}")["base"]


def test_generation_is_queued_at_once(manager, project, base):
    run = services.create_generation(by=manager, project=project, base="tiny", prompts=["a", "b"], seed=3)
    assert (run.status, run.method, run.seed) == ("queued", "generate", 3)
    assert run.snapshot.counts["groups"] == 2
    errors = refusal(services.create_generation, by=manager, project=project, base="tiny", prompts=[])
    assert list(errors) == ["prompts"]


def test_register_model(manager, tmp_path, base):
    def errors(**values):
        given = {"by": manager, "name": "new", "modality": "text", "location": base.location}
        return refusal(services.register_base_model, **given | values)

    assert "registered already" in errors(name="tiny")["name"]
    assert "no colon" in errors(name="checkpoint:1")["name"]
    assert "no modality" in errors(modality="sound")["modality"]
    assert "There is no folder" in errors(location="/nowhere")["location"]
    assert "absolute path" in errors(location="../models/tiny")["location"]
    assert "is no model folder" in errors(location=str(tmp_path))["location"]
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    assert "no .safetensors" in errors(location=str(tmp_path / "pickled"))["location"]
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin is a pickle" in errors(location=str(tmp_path / "pickled"))["location"]
    hub = services.register_base_model(by=manager, name="hub", modality="text", location="org/name")
    assert hub.location == "org/name"


def test_online_methods_use_every_prompt_and_nothing_else(manager, project, base):
    """Judged or not; what filters judgements has no use for them."""
    rewards = [{"rule": "words"}]
    given = {"by": manager, "project": project, "method": "grpo", "base": base.name, "config": {}}
    with pytest.raises(Invalid) as refused:
        services.create_run(**given, reward=rewards, filters={"min_seconds": 1})
    assert refused.value.errors.keys() == {"filters"}
    with pytest.raises(Invalid) as refused:
        services.create_run(**given)
    assert refused.value.errors == {"reward": "grpo needs rewards: a list of models and rules."}
    run = services.create_run(**given, reward=rewards, start=False)
    frozen = datasets.store_snapshot(run.snapshot)
    assert frozen.counts["groups"] == project.comparisons.filter(held_out=False).count() > 0
    assert frozen.counts["judgements"] == 0
