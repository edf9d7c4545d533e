"""The page of a diagnosis: verdicts on all combinations, then every layer of each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.diagnosis import (
    DEAD_ABOVE,
    EXPLODING_ABOVE,
    SATURATED_ABOVE,
    SATURATION_MARGIN,
    VANISHING_BELOW,
    LayerHealth,
    Verdict,
    overall,
    percent,
    short,
    times,
)
from models.diagnosis_drawing import (
    DECADES,
    course,
    drawable,
    histogram,
    ratios,
    shared_range,
)
from models.diagnosis_networks import DiagnosedNetwork
from models.encoders import EncoderConfig
from models.external import ExternalEncoderConfig
from models.vit import VitEncoderConfig
from pages import style
from pages.html import render

LIGHT = {
    **style.LIGHT,
    "forward": "#0a5fa8",
    "backward": "#b4480a",
    "band": "#dcebe1",
    "healthy": "#0b6b3a",
    "vanishing": "#3d4fb0",
    "exploding": "#b3261e",
    "saturated": "#86358f",
    "dead": "#4a4f57",
}
DARK = {
    **style.DARK,
    "forward": "#6cb6ff",
    "backward": "#f0935a",
    "band": "#1f3329",
    "healthy": "#6fd39b",
    "vanishing": "#a9b6ff",
    "exploding": "#ff9d94",
    "saturated": "#e59cf0",
    "dead": "#b9bfc7",
}
SIGNS: dict[Verdict, str] = {
    "healthy": "✓",
    "vanishing": "↓",
    "exploding": "↑",
    "saturated": "⊣",
    "dead": "∅",
}

_HEADLINES: dict[Verdict, str] = {
    "healthy": "Signals and gradients pass through {} of the encoder",
    "vanishing": "Signals or gradients vanish in {} of the encoder",
    "exploding": "Signals or gradients explode in {} of the encoder",
    "saturated": "Most activations are saturated in {} of the encoder",
    "dead": "Most units are dead in {} of the encoder",
}
_SHOWN_ZEROS = 0.01
"""Share of zeros beyond which a histogram leaves them out, since they would be its only bar."""


def render_diagnosis(
    own: DiagnosedNetwork,
    grids: Mapping[str, Sequence[DiagnosedNetwork]],
    *,
    name: str,
    facts: Sequence[tuple[str, str]],
    config_text: str,
    command: str,
    version: str,
) -> str:
    """The whole page as HTML.

    Args:
        own: the encoder as its config has it.
        grids: heading -> a network with each initializer and, for each of these, each activation.
        name: of the config.
        facts: names and values below the headline.
        config_text: the encoder's config, resolved.
        command: what writes this page again.
        version: of Underlayer.
    """
    verdict, extent = overall(own.layers)
    shown = [_grid(f"grid{number}", *item) for number, item in enumerate(grids.items())]
    context = {
        "light": LIGHT,
        "dark": DARK,
        "contents": [
            ("glance", "At a glance"),
            ("own", "The encoder as configured"),
            *((grid["name"], grid["title"]) for grid in shown),
            ("criteria", "Criteria"),
            ("provenance", "What was run"),
        ],
        "version": version,
        "name": name,
        "headline": _HEADLINES[verdict].format(extent),
        "facts": facts,
        "signs": SIGNS,
        "own": _details("own-layers", own),
        "own_text": describe(own.config),
        "grids": shown,
        "criteria": _criteria(),
        "decades": DECADES,
        "config_text": config_text,
        "command": command,
    }
    return render(Path(__file__).with_name("templates"), "diagnosis.html.j2", context)


def describe(config: EncoderConfig) -> str:
    """What an encoder is, in sentences."""
    if isinstance(config, ExternalEncoderConfig):
        return f"An encoder by {config.module}."
    if isinstance(config, VitEncoderConfig):
        return f"A vit encoder of {config.depth} blocks of width {config.width}."
    widths = config.widths
    sizes = (
        f"{len(widths)} × {widths[0]}"
        if len(widths) > 1 and len(set(widths)) == 1
        else ", ".join(map(str, widths))
    )
    norm = f"{config.norm} norm" if config.norm != "none" else "no norm"
    text = f"A {config.kind} encoder of widths {sizes} with {norm}."
    if config.norm != "none":
        text += (
            " The norm sets the scale of every layer anew, so that the scale of the weights hardly "
            "shows; encoder.norm=none shows what it hides."
        )
    return text


def _grid(name: str, title: str, networks: Sequence[DiagnosedNetwork]) -> dict[str, Any]:
    details = [_details(f"{name}-{number}", network) for number, network in enumerate(networks)]
    activations = list(dict.fromkeys(network.config.activation for network in networks))
    width = len(activations)
    return {
        "name": name,
        "title": title,
        "text": describe(networks[0].config),
        "activations": activations,
        "rows": [details[start : start + width] for start in range(0, len(details), width)],
    }


def _details(name: str, network: DiagnosedNetwork) -> dict[str, Any]:
    """What the template shows of a network; `name` is the id of its layers."""
    layers = network.layers
    verdict, extent = overall(layers)
    pictures: dict[str, Any] = {}
    for kind, samples, share_of_zeros in (
        ("forward", [layer.outputs for layer in layers], max(layer.zeros for layer in layers)),
        (
            "backward",
            [layer.gradients for layer in layers],
            max((layer.gradients == 0).double().mean().item() for layer in layers),
        ),
    ):
        without_zeros = share_of_zeros > _SHOWN_ZEROS
        values = [drawable(sample, without_zeros=without_zeros) for sample in samples]
        limits = shared_range(values)
        pictures[kind] = [histogram(one, limits, kind) for one in values]
        zeros = ", zeros left out" if without_zeros else ""
        pictures[f"{kind}_range"] = f"{_signed(limits[0])} to {_signed(limits[1])}{zeros}"
    return {
        "id": name,
        "initializer": network.initializer,
        "activation": network.config.activation,
        "verdict": verdict,
        "extent": extent,
        "course": course(layers),
        "forward_range": pictures["forward_range"],
        "backward_range": pictures["backward_range"],
        "layers": [
            {
                "name": layer.name,
                "verdict": layer.verdict,
                "criterion": criterion(layer),
                "forward": pictures["forward"][number],
                "backward": pictures["backward"][number],
                "ratios": ratios(layer),
                "figures": _figures(layer),
            }
            for number, layer in enumerate(layers)
        ],
    }


def criterion(layer: LayerHealth) -> str:
    """By which figures a layer has its verdict."""
    if layer.findings:
        return "; ".join(text for _, text in layer.findings)
    return f"both ratios between {times(VANISHING_BELOW)} and {times(EXPLODING_ABOVE)}"


def _figures(layer: LayerHealth) -> Mapping[str, str]:
    figures = {
        "mean": _signed(layer.mean),
        "std": short(layer.std),
        "signal": times(layer.signal_ratio),
        "gradient norm": f"{short(layer.gradient)} ({times(layer.gradient_ratio)})",
        "by parameters": short(layer.parameter_gradient),
    }
    if layer.zeros > 0:
        figures["zero"] = percent(layer.zeros)
        figures["dead"] = percent(layer.dead)
    if layer.saturated is not None:
        figures["saturated"] = percent(layer.saturated)
    return figures


def _signed(value: float) -> str:
    return short(value).replace("-", "−", 1) if value < 0 else short(value)


def _criteria() -> list[tuple[Verdict, str, str]]:
    """Each verdict, when a layer has it, and what to do."""
    return [
        (
            "dead",
            f"More than {percent(DEAD_ABOVE)} of the units are zero for every image (of channels: "
            "at every position).",
            "No gradient passes a dead unit. Draw weights around zero (he), or take an activation "
            "that does not die, such as leaky_relu or gelu.",
        ),
        (
            "saturated",
            f"More than {percent(SATURATED_ABOVE)} of the outputs of a sigmoid or tanh lie within "
            f"{percent(SATURATION_MARGIN)} of its range from either end.",
            "Hardly any gradient passes there. Draw smaller weights (glorot), or normalize before "
            "the activation.",
        ),
        (
            "vanishing",
            f"The signal is less than {VANISHING_BELOW:g} of the input’s, or the gradient less "
            f"than {VANISHING_BELOW:g} of the top layer’s.",
            "What tells images apart, or what the loss says, is lost on the way. Draw larger "
            "weights (he before the ReLU family, glorot before tanh), normalize, or add residual "
            "connections; prefer tanh or relu to sigmoid.",
        ),
        (
            "exploding",
            f"The signal is more than {EXPLODING_ABOVE:g} times the input’s, or the gradient more "
            f"than {EXPLODING_ABOVE:g} times the top layer’s; or a value is not finite.",
            "The first steps are far too large. Draw smaller weights, or normalize.",
        ),
        ("healthy", "None of these.", "Nothing: the start is sound. Training may still go wrong."),
    ]
