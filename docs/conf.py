"""Sphinx settings. The Markdown files here are the pages; two reference pages are filled from the code (see filled.py)."""

import os
import sys
from pathlib import Path

import loradar

sys.path.insert(0, str(Path(__file__).parent))
# pages run `loradar` as a command
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

project = "loradar"
author = "The loradar maintainers"
project_copyright = author
version = release = loradar.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "filled"]
html_theme = "furo"
html_title = f"loradar {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False

myst_heading_anchors = 3
# a page that runs its code: an error in it fails the build
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_show_tb = True
nb_merge_streams = True

# examples of answers are shortened by dots
suppress_warnings = ["misc.highlighting_failure"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
