"""How the report looks: the pages' palette with a role for each arm; the arms' names and marks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from downstream.arms import is_pretrained
from pages import style

LIGHT = {
    **style.LIGHT,
    "arm-1": "#1034cc",
    "arm-2": "#00785a",
    "arm-3": "#a62806",
    "arm-4": "#a0148c",
    "arm-5": "#2b2e33",
    "arm-6": "#8a6000",
    "arm-7": "#b02460",
    "arm-8": "#3b6b1f",
    "class-1": "#2f6fd0",
    "class-2": "#d2620a",
    "class-3": "#2a8f3c",
    "class-4": "#c8202f",
    "class-5": "#8a4fc7",
    "class-6": "#7a4a2b",
    "class-7": "#cf4a9c",
    "class-8": "#6b6f76",
    "class-9": "#868100",
    "class-10": "#0f8794",
}
DARK = {
    **style.DARK,
    "arm-1": "#6f92ff",
    "arm-2": "#46e6c2",
    "arm-3": "#ea8a5e",
    "arm-4": "#f6abff",
    "arm-5": "#8f959d",
    "arm-6": "#e0b24a",
    "arm-7": "#ff8fb8",
    "arm-8": "#a3d17c",
    "class-1": "#6fa8ff",
    "class-2": "#ff9a45",
    "class-3": "#5fd074",
    "class-4": "#ff6f78",
    "class-5": "#c19aff",
    "class-6": "#c8946c",
    "class-7": "#ff97d4",
    "class-8": "#b0b6bf",
    "class-9": "#d6d04c",
    "class-10": "#49d3e0",
}
CLASS_ROLES = tuple(role for role in LIGHT if role.startswith("class-"))
"""Colours of classes, told apart as points and not as text."""


@dataclass(frozen=True)
class ArmStyle:
    """How one arm is named and drawn; colour, marker and line each tell it from the others."""

    label: str
    role: str
    marker: str
    line: str | tuple[float, tuple[float, ...]]
    pretrained: bool

    @property
    def color(self) -> str:
        """Hex colour in the light theme."""
        return LIGHT[self.role]


_DASHED = (0, (5.0, 2.0))
_DASH_DOT = (0, (6.0, 1.8, 1.4, 1.8))
_DOTTED = (0, (1.4, 1.6))

_KNOWN = {
    "finetuned": ArmStyle("pretrained, fine-tuned", "arm-1", "o", "solid", True),
    "frozen": ArmStyle("pretrained, frozen", "arm-2", "s", "solid", True),
    "scratch": ArmStyle("from scratch", "arm-3", "^", _DASHED, False),
    "scratch_equal_compute": ArmStyle("scratch, equal compute", "arm-6", "<", _DASHED, False),
    "random_frozen": ArmStyle("random, frozen", "arm-4", "D", _DASH_DOT, False),
    "raw_logistic": ArmStyle("raw pixels", "arm-5", "X", _DOTTED, False),
    "raw_svm": ArmStyle("raw pixels, SVM", "arm-6", "v", _DOTTED, False),
    "raw_neighbours": ArmStyle("raw pixels, neighbours", "arm-7", "P", _DOTTED, False),
    "hog_svm": ArmStyle("HOG, SVM", "arm-8", "p", _DOTTED, False),
}
_FURTHER_ROLES = ("arm-6", "arm-7", "arm-8", "arm-3", "arm-5", "arm-1", "arm-4", "arm-2")
_FURTHER_MARKERS = ("v", "P", "p", "h", "<", ">", "*")


def arm_styles(arms: list[str]) -> dict[str, ArmStyle]:
    """Style of each arm; arms that have no style of their own share the remaining ones in turn."""
    others = [arm for arm in arms if arm not in _KNOWN]
    styles = {arm: _KNOWN[arm] for arm in arms if arm in _KNOWN}
    for position, arm in enumerate(others):
        pretrained = is_pretrained(arm)
        role = _FURTHER_ROLES[position % len(_FURTHER_ROLES)]
        marker = _FURTHER_MARKERS[position % len(_FURTHER_MARKERS)]
        line = _DASH_DOT if pretrained else _DOTTED
        styles[arm] = ArmStyle(arm.replace("_", " "), role, marker, line, pretrained)
    return {arm: styles[arm] for arm in arms}


_HOW = {"finetuned": "fine-tuned", "frozen": "frozen"}
_LINES: dict[str, str | tuple[float, tuple[float, ...]]] = {"finetuned": "solid", "frozen": _DASHED}
_SERIES_ROLES = ("arm-1", "arm-2", "arm-6", "arm-7", "arm-8")
_SERIES_MARKERS = ("o", "s", "v", "P", "p", "h", "<")


def series_styles(series: Sequence[tuple[str, str]]) -> list[ArmStyle]:
    """Styles of the arms of several studies, each a key such as "gan/frozen" and its arm.

    Controls look as in a report of one study; a pretrained arm has its study's colour and mark,
    whole where it is fine-tuned and dashed where it is frozen.
    """
    studies = list(dict.fromkeys(key.split("/")[0] for key, arm in series if is_pretrained(arm)))
    styles = []
    for key, arm in series:
        known = arm_styles([arm])[arm]
        if not is_pretrained(arm):
            own = key.split("/")[0]
            if key != arm:  # one of several of the name, told apart by its study's mark
                place = studies.index(own) if own in studies else 0
                mark = _SERIES_MARKERS[place % len(_SERIES_MARKERS)]
                known = replace(known, label=f"{own}: {known.label}", marker=mark)
            styles.append(known)
            continue
        place = studies.index(key.split("/")[0])
        styles.append(
            ArmStyle(
                f"{studies[place]}, {_HOW.get(arm, arm.replace('_', ' '))}",
                _SERIES_ROLES[place % len(_SERIES_ROLES)],
                _SERIES_MARKERS[place % len(_SERIES_MARKERS)],
                _LINES.get(arm, _DASH_DOT),
                True,
            )
        )
    return styles
