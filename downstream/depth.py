"""How deep to reuse: accuracy of a linear head on the lowest one, two, ... frozen stages.

Yosinski et al. 2014, "How transferable are features in deep neural networks?", with a random
encoder's stages as the control.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, field_validator

from downstream.arms import Label
from downstream.config import CurveConfig, CurveDataConfig
from downstream.features import FeaturesConfig
from downstream.heads.build import StudyHeadConfig
from downstream.heads.problems import Inference
from downstream.heads.softmax import SoftmaxConfig
from downstream.ranks import ALONE, Ranks
from downstream.results import RESULTS, Row, read_rows
from downstream.rows_config import RowsConfig
from downstream.statistics import Interval, in_percent, mean_interval
from downstream.study import run_study
from models.artifact import read_artifact


class DepthConfig(RowsConfig):
    """Accuracy by number of reused stages, for one encoder or several."""

    encoders: Annotated[
        dict[Label, str | Annotated[tuple[str, ...], Field(min_length=1)]], Field(min_length=1)
    ] = Field(
        description="label -> path of an encoder.safetensors, or of several pretraining seeds"
    )
    allow_external: bool = Field(
        False, description="import and run the code that an encoder of kind external names"
    )
    data: CurveDataConfig
    budget: PositiveInt = Field(1000, description="number of labels that a head sees in all")
    draws: PositiveInt = Field(
        5,
        description="choices of labelled images, the same for every head; 2 or more for intervals",
    )
    features: FeaturesConfig = Field(
        FeaturesConfig(), description="as in a study; the stages are those up to each depth"
    )
    head: StudyHeadConfig = SoftmaxConfig()

    @field_validator("features")
    @classmethod
    def _all_stages(cls, features: FeaturesConfig) -> FeaturesConfig:
        if features.stages is not None:
            raise ValueError(
                f"found stages {list(features.stages)}; leave them null: each depth has its own"
            )
        return features


@dataclass(frozen=True)
class Depth:
    """Accuracies, fractions in [0, 1], of heads on all stages up to one.

    Fields:
        encoder: its label in the config.
        stages: how many are reused; upto: the name of the topmost.
        inference: of the pretrained encoder's heads.
    """

    encoder: str
    stages: int
    upto: str
    pretrained: Interval
    random: Interval
    inference: Inference


def run_depth(config: DepthConfig, *, overwrite: bool, ranks: Ranks = ALONE) -> list[Depth] | None:
    """Compute the heads that are missing in runs_dir/name; write depth.json when all are there.

    Each depth of each encoder is a study of its own in a folder below.

    Args:
        ranks: the processes that share the heads of each depth.
    Returns:
        The depths of the encoders in turn, lowest first, or None where a signal ended it.
    Raises:
        InputError, DataError, ModelError: one line.
    """
    folder = Path(config.runs_dir, config.name)
    depths = []
    for label, encoder in config.encoders.items():
        header = read_artifact(Path(encoder if isinstance(encoder, str) else encoder[0]))
        names = tuple(stage.name for stage in header.stages)
        for number, upto in enumerate(names, start=1):
            study = CurveConfig(
                name=f"{label}-{upto}",
                runs_dir=str(folder),
                seed=config.seed,
                encoder=encoder,
                allow_external=config.allow_external,
                data=config.data,
                budgets=(config.budget,),
                draws=config.draws,
                arms=("frozen", "random_frozen"),
                features=config.features.model_copy(update={"stages": names[:number]}),
                head=config.head,
                workers=config.workers,
            )
            rows_folder = run_study(study, overwrite=overwrite, ranks=ranks)
            if rows_folder is None:
                return None
            rows = read_rows(rows_folder / RESULTS, Row)
            pretrained, random = (
                mean_interval({(r.draw, r.seed): r.accuracy for r in rows if r.arm == arm})
                for arm in ("frozen", "random_frozen")
            )
            (inference,) = {row.inference for row in rows if row.arm == "frozen"}
            depths.append(Depth(label, number, upto, pretrained, random, inference))
    if ranks.owner:
        text = json.dumps([asdict(depth) for depth in depths], indent=2) + "\n"
        (folder / "depth.json").write_text(text, encoding="utf-8")
    return depths


def depth_table(depths: list[Depth]) -> str:
    """Return the depths as a Markdown table, in percent."""
    lines = [
        "| encoder | stages reused | pretrained, % ± 95 % | random, % ± 95 % | |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {depth.encoder} | {depth.stages}, up to {depth.upto} "
        f"| {in_percent(depth.pretrained)} | {in_percent(depth.random)} "
        f"| {depth.inference} |"
        for depth in depths
    ]
    return "\n".join(lines)
