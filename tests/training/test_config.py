"""Configs: what overrides mean, and that each mistake is one line with a remedy."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from training.config import difference, dump_config, first_difference, load_config
from training.errors import InputError
from training.names import RunName
from training.optimizers import AdamWConfig, MomentumConfig, OptimizerConfig, SGDConfig
from training.schedules import CosineSchedule, ScheduleConfig


class Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: str | tuple[str, ...]
    size: int | None = None


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: RunName = "x"
    names: dict[RunName, int] = {}
    steps: int = 10
    sizes: tuple[int, ...] = Field((1, 2), min_length=2)
    data: Data
    optimizer: OptimizerConfig = AdamWConfig(lr=3e-3, weight_decay=0.1)
    schedule: ScheduleConfig = CosineSchedule()


DATA = "data: {shards: a.tar}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def test_a_kind_alone_is_enough(path: Path) -> None:
    path.write_text(DATA)
    config = load_config(Config, path, ["optimizer.kind=sgd", "schedule.kind=linear"])
    assert config.optimizer == SGDConfig()
    assert config.schedule.kind == "linear"


def test_a_partial_mapping_keeps_the_rest_of_the_default(path: Path) -> None:
    path.write_text(DATA + "optimizer: {betas: [0.8, 0.9]}")
    config = load_config(Config, path, ["optimizer.lr=1e-2"])
    assert config.optimizer == AdamWConfig(lr=1e-2, weight_decay=0.1, betas=(0.8, 0.9))


@pytest.mark.parametrize("reverse", [False, True])
def test_another_kind_drops_what_belonged_to_the_first(path: Path, reverse: bool) -> None:
    path.write_text(DATA + "optimizer: {kind: adamw, lr: 0.1, betas: [0.8, 0.9]}")
    overrides = ["optimizer.kind=momentum", "optimizer.momentum=0.5"]
    config = load_config(Config, path, overrides[::-1] if reverse else overrides)
    assert config.optimizer == MomentumConfig(momentum=0.5)


def test_the_same_kind_again_drops_nothing(path: Path) -> None:
    path.write_text(DATA + "optimizer: {kind: sgd, lr: 0.7}")
    assert load_config(Config, path, ["optimizer.kind=sgd"]).optimizer == SGDConfig(lr=0.7)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (DATA + "stepz: 3", [], "{path}: stepz: unknown key; did you mean 'steps'? (known keys: "),
        (DATA, ["optimizer.lrr=3"], "override 'optimizer.lrr=3': optimizer.lrr: unknown key; did"),
        (
            DATA + "optimizer: {kind: addam}",
            [],
            "{path}: optimizer.kind: found 'addam'; did you mean 'adam'? (valid kinds: sgd, ",
        ),
        (DATA + "steps: many", [], "{path}: steps: found 'many'; should be a valid integer"),
        (DATA, ["schedule.warmup=1.5"], "schedule.warmup: found 1.5; should be a number of steps"),
        (DATA, ["optimizer=adam"], "optimizer: found 'adam'; should be a mapping, such as {{kind:"),
        ("data: {size: 3}", [], "{path}: data.shards: missing"),
        (DATA, ["data.shards={a: 1}"], "data.shards: found {{'a': 1}}; should be a valid string"),
        (DATA, ["data.shards.x=1"], "data.shards is 'a.tar', which has no key 'x'"),
        (DATA, ["steps"], "override 'steps': write key=value"),
        (DATA, ["name=a/b"], "name: found 'a/b'; should be letters, digits, dots, dashes and"),
        (DATA, ["names={a/b: 1}"], "names.a/b: found 'a/b'; should be letters, digits, dots"),
        (DATA, ["sizes=[1]"], "sizes: found [1]; give 2 values at least"),
        ("steps: [1", [], "{path}: is not valid YAML: line 1, column 10"),
        ("steps: 1\nsteps: 2", [], "{path}: is not valid YAML: line 2, column 1: the key 'steps'"),
        ("[1]", [], "{path}: found [1]; a config is a mapping"),
    ],
)
def test_mistakes_are_one_line(path: Path, text: str, overrides: list[str], message: str) -> None:
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_config(Config, path, overrides)
    assert message.format(path=path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file(path: Path) -> None:
    with pytest.raises(InputError, match="no such config file"):
        load_config(Config, path)


def test_dump_is_complete_and_reads_back(path: Path) -> None:
    path.write_text(DATA)
    config = load_config(Config, path, ["optimizer.eps=1e-7"])
    path.write_text(dump_config(config))
    assert load_config(Config, path) == config
    assert "weight_decay: 0.1" in path.read_text()


def test_first_difference_names_key_and_both_values() -> None:
    config = Config(data=Data(shards="a.tar"), name="one")
    other = config.model_copy(update={"optimizer": AdamWConfig(lr=0.5), "name": "two"})
    assert first_difference(config, dump_config(config)) is None
    found = first_difference(other, dump_config(config), ignore=["name"])
    assert found == ("optimizer.lr", "0.003", "0.5")


def test_a_difference_inside_a_list_of_mappings_is_named() -> None:
    now = {"encoders": [{"name": "a"}, {"name": "b", "labels": 3}], "sizes": [1, 2]}
    assert difference(now, now) is None
    assert difference(now, {**now, "sizes": [1, 3]}) == ("sizes", "[1, 3]", "[1, 2]")
    then = {**now, "encoders": [{"name": "a"}, {"name": "b", "labels": 5}]}
    assert difference(now, then) == ("encoders.1.labels", "5", "3")
    assert difference(now, {**now, "encoders": [{"name": "a"}]})[0] == "encoders.1"
    assert difference({"map": {}}, {"map": {"key": 1}}) == ("map", "{'key': 1}", "{}")


def test_numbers_are_those_of_yaml_1_2(path: Path) -> None:
    path.write_text("data: {shards: 10:20}\noptimizer: {lr: 1e-3}")
    config = load_config(Config, path, ["optimizer.weight_decay=.5", "steps=010"])
    assert (config.data.shards, config.steps) == ("10:20", 10)
    assert config.optimizer == AdamWConfig(lr=0.001, weight_decay=0.5)
