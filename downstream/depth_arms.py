"""Arms for each depth of an encoder: a head on the lowest one, two, ... of its stages."""

from pathlib import Path

from downstream.arms import RANDOM, ArmConfig, ShortArm, random_twin
from downstream.config import CurveConfig
from models.artifact import read_artifact

EACH_DEPTH = "frozen_each_depth"


def depth_arm(stage: str) -> str:
    """Return the name of the arm whose head sees the stages up to one."""
    return f"frozen_{stage}"


def expand_depths(config: CurveConfig) -> CurveConfig:
    """Return the config with an arm for each depth, and its random twin, for `frozen_each_depth`.

    Raises:
        ModelError: the encoder cannot be read.
    """
    if EACH_DEPTH not in config.arms:
        return config
    names = [stage.name for stage in read_artifact(Path(config.encoders()[0])).stages]
    wanted = config.features.stages
    names = [name for name in names if wanted is None or name in wanted]
    arms: list[ShortArm | ArmConfig] = [arm for arm in config.arms if arm != EACH_DEPTH]
    for number, upto in enumerate(names, start=1):
        name, stages = depth_arm(upto), tuple(names[:number])
        arms.append(ArmConfig(name=name, stages=stages))
        arms.append(ArmConfig(name=random_twin(name), encoder=RANDOM, stages=stages))
    return config.model_copy(update={"arms": tuple(arms)})
