"""`%autoreload`: an action or flow that was imported by name follows its module, as plain functions do.

autoreload has rules for how an old object becomes a new one, and none for objects that are no
functions. Runs that were started keep what they were started with.
"""

from __future__ import annotations

import sys
from typing import Any

from ..functions import Function


def _are_ours(old: Any, new: Any) -> bool:
    return isinstance(old, Function) and type(old) is type(new)


def _update(old: Any, new: Any) -> None:
    vars(old).update(vars(new))


_RULE = (_are_ours, _update)


def _rules() -> list[Any]:
    """The rules of autoreload; none as long as nobody has loaded it."""
    rules = getattr(sys.modules.get("IPython.extensions.autoreload"), "UPDATE_RULES", None)
    return rules if isinstance(rules, list) else []


def follow() -> None:
    """Adds our rule, if autoreload is there."""
    rules = _rules()
    if rules and _RULE not in rules:
        rules.append(_RULE)


def unfollow() -> None:
    """Takes it back."""
    rules = _rules()
    if _RULE in rules:
        rules.remove(_RULE)
