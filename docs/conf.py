"""How `make site` builds these pages: Sphinx, MyST for Markdown, Furo for the looks.

Nothing is fetched from elsewhere, neither now nor by a reader's browser: no web fonts, no CDN. The
search index is a script beside the pages, so that it works from a folder as well.
"""

from __future__ import annotations

project = "Sentinel ext_proc"
author = "The authors of Sentinel ext_proc"
html_title = "Sentinel ext_proc"
language = "en"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns: list[str] = []

# Anchors are made and checked as GitHub makes them, so that a link works there and here.
myst_heading_anchors = 4
myst_enable_extensions = ["tasklist"]
nitpicky = True

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_use_index = False
html_show_copyright = False
html_show_sphinx = False
pygments_style = "tango"
pygments_dark_style = "monokai"
