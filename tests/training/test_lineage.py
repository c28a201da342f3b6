"""From a checkpoint back to people and code; what is marked when somebody takes back what they said."""

import pytest

from annotation import services as annotation_services
from annotation.models import User
from tests.annotation.conftest import page_client
from tests.training import factories
from training import services
from training.lineage import lineage_of, taken_back
from training.models import Run, Snapshot

pytestmark = pytest.mark.django_db


@pytest.fixture
def trained(project, base):
    """A reward model on people's judgements, and a policy that it rewarded and that started from the base."""
    people = {"import0": 10, "import1": 10}
    reward = factories.queued_run(project, base, method="reward_model")
    Snapshot.objects.filter(pk=reward.snapshot_id).update(people=people)
    model = factories.finish(reward)
    rewards = [{"model": f"checkpoint:{model.pk}"}, {"rule": "words"}]
    policy = factories.finish(factories.queued_run(project, base, method="grpo", reward=rewards))
    return model, policy


def test_a_snapshot_remembers_whose_judgements_it_holds(project, base):
    factories.add_judged(project, prompts=3, votes=2, start=50)
    run = services.create_run(by=project.created_by, project=project, method="dpo", base="tiny", config={})
    services.freeze_snapshot(snapshot_id=run.snapshot_id)
    assert Snapshot.objects.get(pk=run.snapshot_id).people == {"import0": 13, "import1": 3}


def test_everything_that_had_a_part(trained, as_manager):
    model, policy = trained
    graph = as_manager.get(f"/api/v1/checkpoints/{policy.pk}/lineage/").json()
    ids = {node["id"] for node in graph["nodes"]}
    made, learnt = f"run:{policy.run_id}", f"run:{model.run_id}"
    assert ids == {
        f"checkpoint:{policy.pk}",
        f"checkpoint:{model.pk}",
        made,
        learnt,
        f"snapshot:{policy.run.snapshot_id}",
        f"snapshot:{model.run.snapshot_id}",
        "model:tiny",
        "rule:words",
    }
    edges = {(edge["node"], edge["origin"], edge["role"]) for edge in graph["edges"]}
    assert (made, f"checkpoint:{model.pk}", "rewarded by") in edges
    assert (made, "rule:words", "rewarded by") in edges
    assert (learnt, "model:tiny", "started from") in edges
    people = next(node for node in graph["nodes"] if node["id"] == f"snapshot:{model.run.snapshot_id}")
    assert people["facts"]["people"] == {"import0": 10, "import1": 10}
    assert graph["taken_back"] == 0


def test_deleting_what_somebody_said_marks_everything_downstream(trained, project, base):
    """The reward model learnt from them, the policy from the reward model; a later run did not."""
    model, policy = trained
    assert taken_back(project) == {}
    somebody = User.objects.get(username__endswith="import0")
    annotation_services.delete_judgements(project=project, user=somebody)
    later = factories.finish(factories.queued_run(project, base))
    Snapshot.objects.filter(pk=later.run.snapshot_id).update(people={"import0": 1})
    assert taken_back(project) == {model.pk: 1, policy.pk: 1}
    graph = lineage_of(policy)
    assert graph.taken_back == 1
    facts = {node.id: node.facts for node in graph.nodes}[f"snapshot:{model.run.snapshot_id}"]
    assert facts["people"] == {"import1": 10}
    page = page_client(project.created_by).get(f"/projects/{project.pk}/models/").content.decode()
    assert page.count("learnt from 1 person who has since deleted what they said") == 2
    assert Run.objects.count() == 3
