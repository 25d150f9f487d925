"""Sphinx: the workbook as a site. Notebooks are shown as they were run; nothing is fetched."""

project = "What does CLIP look at?"
extensions = ["myst_nb"]
html_title = project
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = [("enlarge.js", {"defer": "defer"})]
html_show_sphinx = html_show_copyright = html_copy_source = False
html_use_index = False
html_show_search_summary = False  # it would fetch pages, which a browser refuses on file://
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#005b94", "color-brand-content": "#005b94"},
    "dark_css_variables": {"color-brand-primary": "#8cc8ff", "color-brand-content": "#8cc8ff"},
    "navigation_with_keys": True,
}
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # of widgets, the live pages are shown
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_heading_anchors = 3
myst_enable_extensions: list[str] = []  # a dollar is a dollar
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"
suppress_warnings = ["mystnb.unknown_mime_type", "misc.highlighting_failure"]
