"""Settings of Sphinx: `make docs` builds the pages, without a network and with warnings as errors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

import tensorchain
from tensorchain.models.listing import ListingType

# The page for implementers shows the hooks that `dir` leaves out.
del ListingType.__dir__

project = "tensorchain"
author = "tensorchain developers"
copyright = author  # noqa: A001
release = version = tensorchain.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    # Of docs/extensions.
    "command_line",
    "docstrings",
    "examples",
    "formulas",
    "gallery",
    "measured",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "extensions", "paper"]
# Docstrings put names of the code between single backticks.
default_role = "code"

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 100

highlight_language = "text"
html_theme = "furo"
html_title = f"tensorchain {release}"
html_show_sourcelink = False
html_copy_source = False
html_static_path = [str(Path(__file__).parent / "static")]
html_css_files = ["narrow.css"]
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "monokai"
