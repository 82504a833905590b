"""The table of methods, and how a row gets into it."""

from __future__ import annotations

import sys
from pathlib import Path

from config import Recipe, checked

RECIPES: dict[str, Recipe] = {}


def row(base: Recipe | None = None, **fields) -> Recipe:
    """Add a row to the table; `base` is the row it differs from in `fields` only.

    ValueError that names file, line and row for a field or option that does not exist, a value that it cannot have, and
    a name that is taken.
    """
    caller = sys._getframe(1)
    place = f"{Path(caller.f_code.co_filename).name}:{caller.f_lineno}"
    name = fields.get("name", getattr(base, "name", "without a name"))
    try:
        recipe = checked(base, fields | {"place": place})
        if recipe.name in RECIPES:
            raise ValueError(f"two recipes are called {name}; the other is at {RECIPES[name].place}")
    except ValueError as error:
        raise ValueError(f"{place}, row {name}: {error}") from None
    RECIPES[recipe.name] = recipe
    return recipe
