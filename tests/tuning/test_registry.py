"""The list of methods: complete, importable, and free of torch until a run starts."""

import json
import subprocess
import sys

import pytest

from training.tuning.__main__ import main
from training.tuning.registry import METHODS, Method, get_method


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_entry_loads(method: Method) -> None:
    assert callable(method.load("train"))
    assert callable(method.load("inspect"))
    assert method.config()  # every key has a default


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_key_can_become_a_form_field(method: Method) -> None:
    schema = method.config.model_json_schema()
    assert schema["description"]
    assert schema["additionalProperties"] is False
    for name, field in schema["properties"].items():
        assert field["title"] != name, name
        assert field["description"], name
    assert 1 <= sum(bool(field.get("primary")) for field in schema["properties"].values()) <= 3


def test_ties_and_both_bad_are_described() -> None:
    for method in METHODS:
        words = json.dumps(method.config.model_json_schema()).lower()
        assert "tie" in words, method.name
        assert "both" in words, method.name


def test_methods_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == [method.name for method in METHODS]
    assert {"name", "title", "paper", "modality", "feedback", "config"} <= listed[0].keys()
    assert main(["methods"]) == 0
    assert "dpo" in capsys.readouterr().out


def test_listing_methods_loads_no_torch() -> None:
    code = (
        "import sys; from training.tuning.__main__ import main; main(['methods', '--json']);"
        "import training.tuning.data, training.tuning.pairs, training.tuning.rundir, training.tuning.plan;"
        "print(sorted({'torch', 'transformers', 'django', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_unknown_method() -> None:
    with pytest.raises(KeyError, match=r'no method "ppo2"; there are sft'):
        get_method("ppo2")
