"""Forms from the methods' schemas: what they show is what they mean."""

import pytest
from django import forms

from training import schema_forms
from training.tuning.registry import METHODS, get_method


class SchemaForm(forms.Form):
    def __init__(self, data, schema):
        super().__init__(data)
        self.fields |= schema_forms.fields_of(schema)


def typed(initial: dict) -> dict:
    """What a browser would send for a form that shows these values."""
    texts = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in initial.items()
    }
    texts = {name: value if value != {} else "" for name, value in texts.items()}
    return {name: str(value) for name, value in texts.items() if value is not None and value is not False}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_untouched_form_means_the_defaults(method):
    schema = method.config.model_json_schema()
    form = SchemaForm(typed(schema_forms.initial_of(schema)), schema)
    assert form.is_valid(), form.errors
    config = schema_forms.config_of(schema, form.cleaned_data)
    assert method.config.model_validate(config) == method.config()
    assert schema_forms.changes_of(schema, method.config().model_dump(mode="json")) == {}


@pytest.mark.parametrize(
    "method", [m for m in METHODS if m.purpose == "train"], ids=lambda method: method.name
)
def test_three_keys_stand_first(method):
    schema = method.config.model_json_schema()
    names = schema_forms.primary_names(schema)
    assert len(names) == 3
    assert set(names) <= schema_forms.fields_of(schema).keys()


def test_changed_values_come_through():
    schema = get_method("dpo").config.model_json_schema()
    changed = typed(schema_forms.initial_of(schema)) | {
        "config_beta": "0.3",
        "config_max_steps": "40",
        "config_loss": "ipo",
        "config_lora_r": "4",
        "config_lora_target_modules": "q_proj, v_proj",
        "config_max_length": "",
    }
    form = SchemaForm(changed, schema)
    assert form.is_valid(), form.errors
    config = schema_forms.config_of(schema, form.cleaned_data)
    expected = {
        "beta": 0.3,
        "max_steps": 40,
        "loss": "ipo",
        "lora.r": 4,
        "lora.target_modules": ["q_proj", "v_proj"],
        "max_length": None,
    }
    assert schema_forms.changes_of(schema, config) == expected
    again = typed(schema_forms.initial_of(schema, config))
    form = SchemaForm(again, schema)
    assert form.is_valid()
    assert schema_forms.config_of(schema, form.cleaned_data) == config


def test_section_switched_off_is_null():
    schema = get_method("dpo").config.model_json_schema()
    without = typed(schema_forms.initial_of(schema))
    del without["config_lora"]
    form = SchemaForm(without, schema)
    assert form.is_valid()
    assert schema_forms.config_of(schema, form.cleaned_data)["lora"] is None
    assert schema_forms.initial_of(schema, {"lora": None})["config_lora"] is False


def test_unknown_type_is_an_error():
    with pytest.raises(TypeError, match="Odd"):
        schema_forms.fields_of({"properties": {"odd": {"title": "Odd", "type": "object"}}})


def test_names_with_numbers():
    schema = get_method("dpo").config.model_json_schema()
    untouched = typed(schema_forms.initial_of(schema))
    form = SchemaForm(untouched | {"config_annotator_weights": "anna=0.5, ben = 2"}, schema)
    assert form.is_valid(), form.errors
    assert form.cleaned_data["config_annotator_weights"] == {"anna": 0.5, "ben": 2.0}
    field = form.fields["config_annotator_weights"]
    assert field.prepare_value({"anna": 0.5, "ben": 2.0}) == "anna=0.5, ben=2"
    for wrong in ("anna", "=3", "anna=much"):
        assert not SchemaForm(untouched | {"config_annotator_weights": wrong}, schema).is_valid()


def test_one_word_of_a_list_is_a_list_of_one():
    schema = get_method("reward_model").config.model_json_schema()
    fields = schema_forms.fields_of(schema)
    assert fields["config_attributes"].clean("helpfulness") == ["helpfulness"]
    assert fields["config_attributes"].clean("") == []
    assert fields["config_lora_target_modules"].clean("all-linear") == "all-linear"
