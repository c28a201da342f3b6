"""Static files as production serves them, after `collectstatic`."""

import json
import re

import pytest
from django.conf import settings
from django.core.management import call_command
from django.test import override_settings

IMPORT = re.compile(r"""\b(?:import|export)\b[^;'"]*?["'](\.{1,2}/[^"']+)["']""")
HASHED = re.compile(r"\.[0-9a-f]{12}\.js$")


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    root = tmp_path_factory.mktemp("static")
    hashed = {"BACKEND": "webapp.static_files.HashedFiles"}
    with override_settings(STATIC_ROOT=root, STORAGES=settings.STORAGES | {"staticfiles": hashed}):
        call_command("collectstatic", interactive=False, verbosity=0)
    return root


def test_settings_use_it():
    """Tests themselves serve plain files; what ships is in the settings of the product."""
    from webapp import settings as product

    assert product.STORAGES["staticfiles"]["BACKEND"] == "webapp.static_files.HashedFiles"


def test_every_import_is_of_a_hashed_file(collected):
    paths = json.loads((collected / "staticfiles.json").read_text())["paths"]
    scripts = {name: collected / hashed for name, hashed in paths.items() if name.startswith("js/")}
    assert len(scripts) > 25
    found = []
    for name, path in scripts.items():
        original = IMPORT.findall((collected / name).read_text())
        imports = IMPORT.findall(path.read_text())
        assert len(imports) == len(original), name
        for target in imports:
            assert HASHED.search(target), f"{name} imports {target}"
            assert (path.parent / target).resolve().is_file(), f"{name} imports {target}"
        found += imports
    assert len(found) > 30


def test_they_are_compressed(collected):
    paths = json.loads((collected / "staticfiles.json").read_text())["paths"]
    for name in ("js/judge.js", "css/tiebreak.css", "vendor/htmx.min.js"):
        assert (collected / f"{paths[name]}.gz").stat().st_size < (collected / paths[name]).stat().st_size
