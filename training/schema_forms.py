"""Form fields from a method's JSON schema, and the config that the filled-in form means.

A key `config.lora.r` is the field `config_lora_r`. A section that may be null (such as lora) has a checkbox
`config_lora` of its own. The values themselves are checked by the method's schema, in the service.
"""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

PREFIX = "config"


class WordsField(forms.CharField):
    """Words separated by commas: a list of texts, or for one word a text if the key takes that; none is null
    if the key may be null."""

    def __init__(self, *, may_be_one: bool, nullable: bool, **options: Any) -> None:
        super().__init__(**options)
        self.may_be_one, self.nullable = may_be_one, nullable

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        words = [word.strip() for word in (super().to_python(value) or "").split(",") if word.strip()]
        if not words and self.nullable:
            return None
        return words[0] if len(words) == 1 and self.may_be_one else words


class NumbersField(forms.CharField):
    """Names with a number each, as in `anna=0.5, ben=1`: a mapping."""

    def prepare_value(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return ", ".join(f"{name}={number:g}" for name, number in value.items())

    def to_python(self, value: Any) -> Any:
        numbers = {}
        for part in filter(None, (part.strip() for part in (super().to_python(value) or "").split(","))):
            name, found, number = part.rpartition("=")
            try:
                numbers[name.strip()] = float(number)
            except ValueError:
                name = ""
            if not (found and name.strip()):
                raise forms.ValidationError(
                    _("“%(part)s” is not a name and a number, as in anna=0.5."), params={"part": part}
                )
        return numbers


def fields_of(schema: dict[str, Any]) -> dict[str, forms.Field]:
    """Every key of the schema as a field, in the schema's order."""
    fields: dict[str, forms.Field] = {}
    for key, found in schema["properties"].items():
        name = f"{PREFIX}_{key}"
        if section := _section(found, schema):
            fields[name] = forms.BooleanField(
                required=False, label=found["title"], help_text=found["description"]
            )
            for inner, details in section["properties"].items():
                fields[f"{name}_{inner}"] = _field(details)
        else:
            fields[name] = _field(found)
    return fields


def primary_names(schema: dict[str, Any]) -> list[str]:
    """The fields that stand first; the others are folded away."""
    return [f"{PREFIX}_{key}" for key, found in schema["properties"].items() if found.get("primary")]


def initial_of(schema: dict[str, Any], config: dict[str, Any] | None = None) -> dict[str, Any]:
    """Values of the form for a config; for the schema's defaults if there is none."""
    initial: dict[str, Any] = {}
    for key, found in schema["properties"].items():
        name, value = f"{PREFIX}_{key}", found.get("default")
        if config and key in config:
            value = config[key]
        if section := _section(found, schema):
            inner = value if value is not None else found["default"] or {}
            initial[name] = value is not None
            for part, details in section["properties"].items():
                initial[f"{name}_{part}"] = inner.get(part, details.get("default"))
        else:
            initial[name] = value
    return initial


def config_of(schema: dict[str, Any], cleaned: dict[str, Any]) -> dict[str, Any]:
    """The config that a filled-in form means; an empty field is null."""
    config: dict[str, Any] = {}
    for key, found in schema["properties"].items():
        name = f"{PREFIX}_{key}"
        if section := _section(found, schema):
            parts = section["properties"]
            config[key] = {part: cleaned.get(f"{name}_{part}") for part in parts} if cleaned[name] else None
        elif name in cleaned:
            config[key] = cleaned[name]
    return config


def changes_of(schema: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Where a config differs from the schema's defaults, by paths such as lora.r."""
    changes: dict[str, Any] = {}
    for key, value in config.items():
        default = schema["properties"].get(key, {}).get("default")
        if isinstance(value, dict) and isinstance(default, dict):
            changes |= {f"{key}.{part}": inner for part, inner in value.items() if default.get(part) != inner}
        elif value != default:
            changes[key] = value
    return changes


def _section(found: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of a key whose value is an object or null."""
    for kind in found.get("anyOf", []):
        if reference := kind.get("$ref"):
            return schema["$defs"][reference.rsplit("/", 1)[1]]
    return None


def _field(found: dict[str, Any]) -> forms.Field:
    kinds = found.get("anyOf", [found])
    nullable = any(kind.get("type") == "null" for kind in kinds)
    real = next(kind for kind in kinds if kind.get("type") != "null")
    words: dict[str, Any] = {
        "label": found["title"],
        "help_text": found.get("description", ""),
        "required": not nullable,
    }
    if real.get("additionalProperties", {}).get("type") == "number":
        return NumbersField(**words | {"required": False})
    if any(kind.get("type") == "array" for kind in kinds):
        may_be_one = any(kind.get("type") == "string" for kind in kinds)
        required = not nullable and found.get("default") != []
        return WordsField(may_be_one=may_be_one, nullable=nullable, **words | {"required": required})
    if "enum" in real:
        choices = [(value, value) for value in real["enum"]]
        if nullable:
            return forms.TypedChoiceField(choices=[("", "–"), *choices], empty_value=None, **words)
        return forms.ChoiceField(choices=choices, **words)
    if real["type"] == "boolean":
        return forms.BooleanField(**words | {"required": False})
    if real["type"] == "integer":
        return forms.IntegerField(**words)
    if real["type"] == "number":
        return forms.FloatField(widget=forms.NumberInput(attrs={"step": "any"}), **words)
    if real["type"] == "string":
        return forms.CharField(**words, empty_value=None if nullable else "")
    raise TypeError(f"The key {found['title']!r} has a type that forms do not know: {real}.")
