"""What the report says was run: data by content, versions, commands and configs."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from downstream.report_drawing import count
from downstream.report_pretraining import Pretraining
from downstream.report_study import StudyFiles
from downstream.source_labels import source_labels


def identity(study: StudyFiles, encoders: Sequence[Pretraining]) -> list[tuple[str, str]]:
    """What was trained and tested on, by content."""
    environment = study.environment
    facts = [("Seed of the study", str(environment["seed"]))]
    for key, name in (("train", "Labelled images"), ("test", "Test images")):
        split = environment["data"][key]
        facts.append(
            (
                name,
                f"{count(split['images'])} of {split['dataset'] or 'an unnamed set'}, "
                f"fingerprint {split['fingerprint']}",
            )
        )
    for encoder, known in zip(encoders, environment["encoders"], strict=True):
        trained_on = known["trained_on"]
        told = source_labels(trained_on)
        facts.append(
            (
                f"Encoder {encoder.path}",
                f"pretraining seed {known['seed']}; SHA-256 {known['sha256']}; trained on "
                f"{count(trained_on['images'])} images of "
                f"{trained_on.get('dataset') or 'an unnamed set'}, fingerprint "
                f"{trained_on['fingerprint']}{f', with {told}' if told else ''}",
            )
        )
    return facts


_VERSION_ROWS = (
    ("underlayer", "Underlayer"),
    ("git_commit", "Commit"),
    ("python", "Python"),
    ("torch", "PyTorch"),
    ("accelerate", "Accelerate"),
    ("platform", "Platform"),
    ("device_name", "Device"),
    ("ranks", "Ranks"),
    ("threads", "Threads"),
)


def versions(
    study: StudyFiles, encoders: Sequence[Pretraining]
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Column headers and rows: the study's environment beside that of each pretraining run."""
    columns = [("Study", study.environment)]
    columns += [(str(e.path.parent), e.environment) for e in encoders if e.environment]
    rows = [
        (label, [str(found.get(key) or "not known") for _, found in columns])
        for key, label in _VERSION_ROWS
    ]
    return [name for name, _ in columns], rows


def commands(study: StudyFiles, encoders: Sequence[Pretraining]) -> str:
    """Command lines that run everything again under other names, from the resolved configs."""
    again = []
    for encoder in encoders:
        if encoder.header:
            folder = encoder.path.parent
            config = folder / "config.yaml"
            again.append(["python", "-m", "pretrain", str(config), f"name={folder.name}-again"])
    folder = Path(study.config.runs_dir, study.config.name)
    again.append(
        [
            "python",
            "-m",
            "downstream",
            "curve",
            str(folder / "config.yaml"),
            f"name={study.config.name}-again",
        ]
    )
    return "\n".join(shlex.join(command) for command in again)


def configs(study: StudyFiles, encoders: Sequence[Pretraining]) -> list[tuple[str, str, str]]:
    """Id, heading and text of each resolved config."""
    found = [("config-study", "Config of the study", study.config_text)]
    for number, encoder in enumerate(encoders):
        if encoder.header and encoder.header.config:
            text = yaml.safe_dump(dict(encoder.header.config), sort_keys=False, allow_unicode=True)
            heading = f"Config of the pretraining run {encoder.path.parent}"
            found.append((f"config-encoder-{number}", heading, text))
    return found
