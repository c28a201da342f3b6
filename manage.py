#!/usr/bin/env python
"""Tiebreak's command line; `python manage.py up` starts everything."""

import os
import sys


def data_option(arguments: list[str]) -> str | None:
    """The value of `--data`. The settings need it before Django parses options."""
    for index, argument in enumerate(arguments):
        if argument.startswith("--data="):
            return argument.removeprefix("--data=")
        if argument == "--data" and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    if sys.argv[1:2] in (["up"], ["demo"], ["backup"], ["restore"]) and (folder := data_option(sys.argv[2:])):
        os.environ["TIEBREAK_DATA"] = os.path.abspath(os.path.expanduser(folder))
    try:
        from django.core.management import execute_from_command_line
    except ImportError as error:
        sys.exit(f"{error}. Run `make install` first, then `.venv/bin/python manage.py …`.")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
