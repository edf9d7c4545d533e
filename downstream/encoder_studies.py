"""A study of several encoders: pretrain those that are not there yet, then a curve for each.

The curves share their draws of labels, and the rows of controls that do not depend on weights.
"""

from collections.abc import Sequence
from pathlib import Path

from downstream.arms import (
    EQUAL_COMPUTE,
    RANDOM,
    WITHOUT_ENCODER,
    Arm,
    ArmConfig,
    ShortArm,
    is_pretrained,
)
from downstream.audit_file import make_audit_file
from downstream.config import CurveConfig, StudySettings
from downstream.gallery_making import make_gallery
from downstream.ranks import ALONE, Ranks
from downstream.results import RESULTS, Row, read_rows
from downstream.study import run_study
from downstream.study_config import EncoderSource, PretrainingSource, StudyConfig
from downstream.study_folder import ENCODER_CURVES
from downstream.summary import write_summary
from models.artifact import ArtifactHeader, read_artifact
from training.errors import InputError
from training.race import RaceConfig, output_of, run_race

PRETRAINING = "pretraining"
_ARTIFACT = "encoder.safetensors"


def run_encoder_studies(
    config: StudyConfig, *, overwrite: bool, ranks: Ranks = ALONE
) -> list[Path] | None:
    """Compute what is missing in runs_dir/name: pretraining runs, then the rows of every curve.

    Args:
        overwrite: begin the curves anew; pretraining runs that are there are kept.
        ranks: the processes that share the rows of each curve; the first one alone pretrains.
    Returns:
        The folder of each encoder's curve, with its summary.json, in the config's order; None
        where a signal ended it.
    Raises:
        InputError, DataError, ModelError: one line; a pretraining run that failed says why in the
            file that the message names.
    """
    _check_sources(config)
    folder = Path(config.runs_dir, config.name)
    races = {
        label: _race(label, source, folder / PRETRAINING)
        for label, source in config.encoders.items()
        if isinstance(source, PretrainingSource)
    }
    if ranks.owner:
        pretrained = all(_pretrain(label, race) for label, race in races.items())
        ranks.tell(pretrained)
    else:
        pretrained = ranks.hear()
    if not pretrained:
        return None
    finished: list[tuple[ArtifactHeader, Path]] = []
    for label, source in config.encoders.items():
        paths = _artifacts(source, races.get(label))
        header = read_artifact(Path(paths[0]))
        curve = _curve(config, label, paths, folder / ENCODER_CURVES)
        known = _shared_rows(header, finished)
        rows = run_study(curve, overwrite=overwrite, known=known, ranks=ranks)
        if rows is None:
            return None
        if ranks.owner:
            make_gallery(rows)
            make_audit_file(rows)
            write_summary(rows)
        finished.append((header, rows))
    return [rows for _, rows in finished]


def _check_sources(config: StudyConfig) -> None:
    """Check that all artifacts and pretraining configs are there, before anything takes long."""
    for label, source in config.encoders.items():
        if not isinstance(source, PretrainingSource):
            for path in (source,) if isinstance(source, str) else source:
                read_artifact(Path(path))
        elif not Path(source.pretrain).is_file():
            raise InputError(
                f"encoders.{label}.pretrain: {source.pretrain}: no such file; give a config of "
                "`python -m pretrain`"
            )


def _race(label: str, source: PretrainingSource, runs: Path) -> RaceConfig:
    """Return the pretraining runs of an encoder, one for each seed."""
    return RaceConfig(
        base=source.pretrain,
        runs_dir=str(runs),
        overrides=source.overrides,
        variants={label: ()},
        seeds=source.seeds,
    )


def _pretrain(label: str, race: RaceConfig) -> bool:
    """Run what is not finished of an encoder's pretraining; return False where it was stopped."""
    result = run_race(race, jobs=1)
    if result.failed and not result.stopped:
        run = result.failed[0]
        said = output_of(race, run)
        last = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise InputError(
            f"encoders.{label}: pretraining {run} failed: {''.join(last).removeprefix('error: ')} "
            f"(all it said is in {said}; to replace a run delete {Path(race.runs_dir, run)})"
        )
    return not result.stopped


def _artifacts(source: EncoderSource, race: RaceConfig | None) -> tuple[str, ...]:
    """Return the paths of an encoder's artifacts, given or pretrained."""
    if race is not None:
        return tuple(str(Path(race.runs_dir, name, _ARTIFACT)) for name in race.runs())
    assert not isinstance(source, PretrainingSource)
    return (source,) if isinstance(source, str) else source


def _curve(config: StudyConfig, label: str, paths: tuple[str, ...], folder: Path) -> CurveConfig:
    shared = {name: getattr(config, name) for name in StudySettings.model_fields}
    arms: list[ShortArm | ArmConfig] = []
    for arm in config.arms:
        if isinstance(arm, ArmConfig) and arm.encoder == label:
            arms.append(arm.model_copy(update={"encoder": None}))
        elif not isinstance(arm, ArmConfig) or arm.encoder in (None, RANDOM):
            arms.append(arm)
    own = {"name": label, "runs_dir": str(folder), "arms": tuple(arms)}
    return CurveConfig(**{**shared, **own}, encoder=paths)


def _knows_no_pretraining(arm: Arm) -> bool:
    """Whether rows depend on an encoder's spec and input alone."""
    # Not even on its length, which that of equal compute has.
    return not is_pretrained(arm) and arm != EQUAL_COMPUTE


def _shared_rows(
    header: ArtifactHeader, finished: Sequence[tuple[ArtifactHeader, Path]]
) -> list[Row]:
    """Return rows of other curves that are this one's too: nothing in them depends on weights."""
    shared: dict[object, Row] = {}
    for other, folder in finished:
        alike = (other.spec, other.input) == (header.spec, header.input)
        for row in read_rows(folder / RESULTS, Row):
            if row.arm in WITHOUT_ENCODER or (alike and _knows_no_pretraining(row.arm)):
                shared.setdefault(row.key, row)
    return list(shared.values())
