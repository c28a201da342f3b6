"""Which code makes a run."""

import os
import subprocess
from functools import cache

from django.conf import settings


@cache
def code_version() -> str:
    """TIEBREAK_VERSION if an image sets it, else the commit of the checkout, else nothing."""
    if version := os.environ.get("TIEBREAK_VERSION"):
        return version[:64]
    command = ["git", "-C", str(settings.BASE_DIR), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()[:64] if found.returncode == 0 else ""
