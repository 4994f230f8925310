"""Hooks of mkdocs: the pages of the site that are not in docs/, and the notebook as a page.

Links are written for a git host, from file to file; here they are turned to where the site has
that file.
"""

from __future__ import annotations

import base64
import html
import json
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
NOTEBOOK = "notebook.ipynb"
# file of the repository -> page
OUTSIDE = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "studies/README.md": "studies.md",
}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(?=[)#])")
FENCED = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is outside of docs/, and the notebook as Markdown with its pictures."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    text, pictures = notebook_page(json.loads((ROOT / "docs" / NOTEBOOK).read_text("utf-8")))
    files.append(File.generated(config, "notebook.md", content=text))
    for name, content in pictures.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **kwargs: Any) -> str:
    """Turn links between files of the repository to the pages of the site."""
    pages = {f"docs/{file.src_uri}": file.src_uri for file in files}
    pages |= OUTSIDE | {f"docs/{NOTEBOOK}": "notebook.md"}
    own = page.file.src_uri
    source = {page: file for file, page in pages.items()}[own]

    def turned(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        if target not in pages or pages[target] == own:
            return link[1]  # no page, as mkdocs will say; or the notebook's own file
        return os.path.relpath(pages[target], posixpath.dirname(own) or ".")

    def turned_outside_code(text: str) -> str:
        parts, end = [], 0
        for code in FENCED.finditer(text):
            parts += [LINK.sub(turned, text[end : code.start()]), code[0]]
            end = code.end()
        return "".join([*parts, LINK.sub(turned, text[end:])])

    return turned_outside_code(markdown)


def notebook_page(notebook: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by the names that it uses."""
    parts, pictures = [], {}
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"pictures/notebook_{number}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![what the cell above shows]({name})")
            else:
                text = "".join(output.get("text") or data.get("text/plain", ""))
                shown = html.escape(text.rstrip())
                parts.append(f'<div class="output"><pre><code>{shown}</code></pre></div>')
    return "\n\n".join(parts) + "\n", pictures
