"""The colours of all pages and figures, by role, in two themes.

Figures are drawn in the light colours; `pages.figures.inline_svg` turns those into CSS variables of
their roles, so a role's colour must be unique within a page's light theme. A page may add roles.
"""

LIGHT = {
    "page": "#fbfaf8",
    "panel": "#f3f1ec",
    "ink": "#1c2024",
    "muted": "#565d66",
    "rule": "#d9d6cf",
    "accent": "#1d4ed0",
}
DARK = {
    "page": "#14171b",
    "panel": "#1d2126",
    "ink": "#eceae6",
    "muted": "#a9b0b9",
    "rule": "#383e46",
    "accent": "#8fb0ff",
}
