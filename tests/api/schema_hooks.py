"""What Schemathesis cannot know of these verbs; it reads this file by itself (SCHEMATHESIS_HOOKS)."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    """One value of a list, written into a query, is the list of that value: it is no case of a wrong type."""
    lists = {
        parameter.name
        for parameter in case.operation.query
        if parameter.definition.get("schema", {}).get("type") == "array"
    }
    return all(isinstance(value, list) for name, value in (case.query or {}).items() if name in lists)
