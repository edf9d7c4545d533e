"""The trained classifier's file: the same predictions after a round trip, and refusal of others."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from models.artifact import TrainedOn, load_encoder, read_artifact, save_encoder
from models.classifier_file import Calibration, load_classifier, read_classifier, save_classifier
from models.encoders import ConvEncoderConfig, InputContract, build_encoder
from models.errors import ModelError
from models.heads import Classifier

CONTRACT = InputContract(channels=1, height=12, width=10, mean=(0.2,), std=(0.4,))
IMAGES = torch.randint(0, 256, (7, 1, 12, 10), generator=torch.Generator().manual_seed(1))
IMAGES = IMAGES.to(torch.uint8)


@pytest.fixture
def artifact(tmp_path):
    encoder = build_encoder(ConvEncoderConfig(widths=(4, 6)), CONTRACT, seed=3)
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, encoder, trained_on={"fingerprint": "ab", "images": 9}, config={"seed": 3})
    return path


def saved(tmp_path, artifact, *, temperature=1.0, flip_average=False):
    classifier = Classifier(load_encoder(artifact), 3, stages=["stage1", "stage2"], grid=2, seed=5)
    path = tmp_path / "model.safetensors"
    save_classifier(
        path,
        classifier,
        encoder=read_artifact(artifact),
        classes=("coat", "bag", "boot"),
        calibration=Calibration(temperature=temperature, labels=30),
        trained_on=TrainedOn(fingerprint="cd", images=40),
        config={"labels": 40},
        decisions={"mode": "frozen"},
        flip_average=flip_average,
    )
    return path, classifier.eval()


def test_a_loaded_classifier_gives_the_probabilities_of_the_saved_one(tmp_path, artifact):
    path, classifier = saved(tmp_path, artifact, temperature=2.5)
    model = load_classifier(path)
    with torch.no_grad():
        wanted = (classifier(IMAGES.float() / 255) / 2.5).softmax(dim=1)
    assert torch.allclose(model.probabilities(IMAGES), wanted, atol=1e-6)
    assert model.classes == ("coat", "bag", "boot")
    assert model.probabilities(IMAGES[:0]).shape == (0, 3)
    assert read_classifier(path).decisions == {"mode": "frozen"}


def test_flip_averaged_logits_do_not_see_which_way_an_image_looks(tmp_path, artifact):
    path, _ = saved(tmp_path, artifact, flip_average=True)
    model = load_classifier(path)
    mirrored = model.probabilities(IMAGES.flip(3))
    assert torch.allclose(model.probabilities(IMAGES), mirrored, atol=1e-6)
    plain, _ = saved(tmp_path, artifact)
    alone = load_classifier(plain)
    assert not torch.allclose(
        alone.probabilities(IMAGES), alone.probabilities(IMAGES.flip(3)), atol=1e-4
    )


def test_images_that_do_not_fit_are_refused(tmp_path, artifact):
    model = load_classifier(saved(tmp_path, artifact)[0])
    with pytest.raises(ModelError, match="1x12x10"):
        model.probabilities(IMAGES[:, :, :-1])
    with pytest.raises(ModelError, match="uint8"):
        model.probabilities(IMAGES.float())


def test_an_encoder_is_not_taken_for_a_classifier_nor_the_other_way(tmp_path, artifact):
    with pytest.raises(ModelError, match="not a trained classifier"):
        load_classifier(artifact)
    with pytest.raises(ModelError, match="not an encoder artifact"):
        load_encoder(saved(tmp_path, artifact)[0])


def test_files_that_were_tampered_with_are_refused(tmp_path, artifact):
    path, _ = saved(tmp_path, artifact)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["underlayer_classifier"])

    def refused(**changes):
        content = {**tensors, **changes.pop("tensors", {})}
        text = json.dumps({**header, **changes})
        save_file(content, path, metadata={"underlayer_classifier": text})
        with pytest.raises(ModelError) as caught:
            load_classifier(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
        return str(caught.value)

    assert "damaged weights" in refused(tensors={"head.linear.bias": torch.ones(3)})
    assert "asks for" in refused(tensors={"head.linear.bias": torch.ones(4)})
    assert "format 9" in refused(format_version=9)
    older = refused(format_version=1)
    assert "format 1" in older and "format 2" in older and "train it again" in older
    assert "output" in refused(output={"kind": "regression", "means": [0.0], "scales": [1.0]})
    assert "stage9" in refused(head={"stages": ["stage9"], "grid": 2, "flip_average": False})
