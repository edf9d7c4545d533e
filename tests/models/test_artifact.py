"""The encoder artifact: exact round trip, fixed bytes, and refusal of everything else."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from models.artifact import artifact_hash, load_encoder, read_artifact, save_encoder
from models.encoders import ConvEncoderConfig, DenseEncoderConfig, InputContract, build_encoder
from models.errors import ModelError
from models.residual import ResidualEncoderConfig

CONTRACT = InputContract(channels=3, height=20, width=17, mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3))
FACTS = {
    "trained_on": {"fingerprint": "ab" * 32, "images": 8000, "dataset": "small"},
    "config": {"name": "trial", "seed": 11, "encoder": {"widths": [4, 6], "dropout": 0.0}},
    "metrics": {"steps": 20, "loss": 0.25},
}


def trained_encoder(config=None):
    encoder = build_encoder(config or ConvEncoderConfig(widths=(4, 6), stem=3), CONTRACT, seed=2)
    encoder.train()
    for seed in range(3):
        encoder(torch.rand(8, 3, 20, 17, generator=torch.Generator().manual_seed(seed)))
    return encoder


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, trained_encoder(), **FACTS)
    return path


def rewrite(path, change):
    """Save the artifact again with `change(tensors, header)` applied."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["underlayer"])
    change(tensors, header)
    save_file(tensors, path, metadata={"underlayer": json.dumps(header)})


def refusal(path):
    """The message with which loading fails, checked to be one line that names the file."""
    with pytest.raises(ModelError) as caught:
        load_encoder(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    "config",
    [
        ConvEncoderConfig(widths=(4, 6), blocks=2, stem=3, activation="silu", dropout=0.1),
        ConvEncoderConfig(widths=(8,), norm="group"),
        ConvEncoderConfig(
            widths=(8,), dropout={"kind": "spatial", "rate": 0.2}, initializer="dirac"
        ),
        ResidualEncoderConfig(
            stem=3, widths=(4, 6), stochastic_depth=0.2, zero_init_residual=False
        ),
        ResidualEncoderConfig(
            stem=4, widths=(4, 8), activation_order="pre", norm="rms", activation="silu"
        ),
        DenseEncoderConfig(widths=(12, 5)),
        DenseEncoderConfig(widths=(12, 5), activation="selu", dropout={"kind": "alpha"}),
    ],
)
def test_outputs_survive_bit_for_bit(tmp_path, config):
    encoder = trained_encoder(config).to(memory_format=torch.channels_last)
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, encoder, **FACTS)
    loaded = load_encoder(path)
    assert not loaded.training
    assert loaded.config == config and loaded.input == CONTRACT
    images = torch.rand(4, 3, 20, 17)
    encoder = encoder.eval().to(memory_format=torch.contiguous_format)
    for name, features in encoder.stages(images).items():
        assert torch.equal(loaded.stages(images)[name], features)


def test_a_file_from_before_there_were_kinds_of_dropout_loads(artifact):
    def as_before(tensors, header):
        del header["spec"]["spectral_norm"]
        header["spec"]["dropout"] = 0.1

    before = load_encoder(artifact)
    rewrite(artifact, as_before)
    after = load_encoder(artifact)
    assert after.config.dropout.rate == 0.1
    images = torch.rand(4, 3, 20, 17)
    assert torch.equal(after(images), before(images))


def test_header_tells_the_whole_story(artifact):
    header = read_artifact(artifact)
    assert header.format_version == 1
    assert [(stage.name, stage.shape) for stage in header.stages] == [
        ("stem", (3, 20, 17)),
        ("stage1", (4, 10, 9)),
        ("stage2", (6, 5, 5)),
    ]
    assert header.trained_on.model_dump() == FACTS["trained_on"]
    assert header.config == FACTS["config"] and header.metrics == FACTS["metrics"]
    assert header.seed == 11
    assert header.input == CONTRACT


def test_equal_encoders_give_equal_bytes(artifact, tmp_path):
    again = tmp_path / "again.safetensors"
    save_encoder(again, trained_encoder(), **FACTS)
    assert again.read_bytes() == artifact.read_bytes()
    assert artifact_hash(again) == artifact_hash(artifact)
    save_encoder(again, trained_encoder(), **FACTS, seed=12)
    assert artifact_hash(again) != artifact_hash(artifact)


def test_replacing_leaves_one_whole_file(artifact):
    save_encoder(artifact, trained_encoder(), **FACTS, seed=5)
    assert read_artifact(artifact).seed == 5
    assert list(artifact.parent.iterdir()) == [artifact]


def test_loading_leaves_the_global_generator(artifact):
    before = torch.get_rng_state()
    load_encoder(artifact)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_no_artifact_is_refused(artifact, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("these are not the weights you are looking for\n")
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    assert "not a safetensors file" in refusal(text)
    assert "not a safetensors file" in refusal(empty)
    assert "not an encoder artifact" in refusal(foreign)
    assert "is a folder" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("keep", [4, 100, -1])
def test_a_truncated_file_is_refused(artifact, keep):
    artifact.write_bytes(artifact.read_bytes()[:keep])
    assert "not a safetensors file" in refusal(artifact)


def test_a_changed_weight_is_noticed(artifact):
    content = bytearray(artifact.read_bytes())
    content[-5] ^= 1
    artifact.write_bytes(content)
    assert "damaged weights" in refusal(artifact)


def test_another_format_version_is_refused_whatever_else_it_holds(artifact):
    rewrite(artifact, lambda tensors, header: header.update(format_version=2, novelty=[1]))
    message = refusal(artifact)
    assert "format 2" in message and "reads format 1" in message
    with pytest.raises(ModelError, match="format 2"):
        read_artifact(artifact)


def test_tensors_must_be_those_of_the_spec(artifact):
    original = artifact.read_bytes()
    name = "blocks.stage1.0.weight"

    def check(change, *wanted):
        artifact.write_bytes(original)
        rewrite(artifact, change)
        message = refusal(artifact)
        for part in wanted:
            assert part in message

    check(lambda t, h: t.pop(name), "lacks", name)
    check(lambda t, h: t.update(extra=torch.zeros(2)), "unknown", "'extra'")
    check(lambda t, h: t.update({name: t[name][:2].clone()}), name, "(2, 3, 3, 3)", "(4, 3, 3, 3)")
    check(lambda t, h: t.update({name: t[name].double()}), name, "F64", "F32")
    check(lambda t, h: h["stages"].pop(), "stages")


def test_a_damaged_header_is_refused(artifact):
    original = artifact.read_bytes()
    for change in (
        lambda t, h: h["spec"].update(widths=[10**18]),
        lambda t, h: h["spec"].update(kind="transformer"),
        lambda t, h: h.pop("input"),
        lambda t, h: h.update(surprise=1),
        lambda t, h: h.clear(),
    ):
        artifact.write_bytes(original)
        rewrite(artifact, change)
        refusal(artifact)
