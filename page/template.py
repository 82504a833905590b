"""A page from its parts: one file that needs no other and no network, but the pictures that it names."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from machine import files

HERE = Path(__file__).parent


def filled(name: str, title: str, data: Mapping[str, Any], body: str = "") -> str:
    """``<name>.html`` with its title, the style, what all pages share and ``<name>.js``.

    data: what the scripts know; what is no number becomes null. body: HTML that is there without them.
    """
    packed = json.dumps(_plain(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    parts = {
        "title": html.escape(files.printable(title)),
        "style": (HERE / "style.css").read_text("utf-8"),
        "body": body,
        "data": packed.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"),
        "script": "\n".join((HERE / f"{each}.js").read_text("utf-8") for each in ("charts", name)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], (HERE / f"{name}.html").read_text("utf-8"))


def _plain(value: Any) -> Any:
    """`value` for JSON, with null for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
