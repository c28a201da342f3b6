"""How a person likes to work."""

from typing import Any

from annotation.keys import check_keys
from annotation.models import User


def move_keys(*, user: User, keys: dict[str, Any]) -> dict[str, str]:
    """Store where this person's keys of the judging page are; the ones that were moved."""
    user.keys = check_keys(keys)
    user.save(update_fields=["keys"])
    return user.keys
