"""The navigation of the site: the sections of docs/index.md and the pages that they list, in their order."""

import re
from pathlib import Path
from typing import Any

_LISTED = re.compile(r"^- \[(?P<title>[^]]+)\]\((?P<page>[\w./-]+\.md)\)")


def navigation(index: str) -> list[dict[str, Any]]:
    """Pages of the first list, then a section for each further heading.

    >>> navigation("# A\\n- [B](b.md): it.\\n## Decisions\\n- [1 C](adr/c.md)\\n")
    [{'Overview': 'index.md'}, {'B': 'b.md'}, {'Decisions': [{'1 C': 'adr/c.md'}]}]
    """
    nav: list[dict[str, Any]] = [{"Overview": "index.md"}]
    pages = nav
    for line in index.splitlines():
        if line.startswith("## "):
            pages = []
            nav.append({line.removeprefix("## "): pages})
        listed = _LISTED.match(line)
        if listed is not None:
            pages.append({listed["title"]: listed["page"]})
    return nav


def on_config(config: Any) -> Any:
    """Called by mkdocs before it looks for pages."""
    config["nav"] = navigation((Path(config["docs_dir"]) / "index.md").read_text(encoding="utf-8"))
    return config
