"""What every objective with a generator and a discriminator is told of them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.generators import ConvGeneratorConfig, GeneratorConfig
from pretrain.adversarial import AdversarialLossConfig, NonSaturating
from pretrain.agreement import AgreementConfig, NoAgreement
from pretrain.discriminator_inputs import DiscriminatorInputsConfig
from pretrain.gradient_penalty import NoPenalty, PenaltyConfig
from pretrain.rotation import RotationConfig

Exported = Literal["discriminator", "ema_discriminator", "encoder"]

GROUP = 4
"""Images that `minibatch_std` compares."""


class PlayersConfig(BaseModel):
    """What generator and discriminator are, and what they minimize."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generator: GeneratorConfig = ConvGeneratorConfig()
    loss: AdversarialLossConfig = NonSaturating()
    penalty: PenaltyConfig = NoPenalty()
    d_steps: int = Field(
        1, ge=1, description="the generator is trained in every so many steps, the other in each"
    )
    inputs: DiscriminatorInputsConfig = DiscriminatorInputsConfig()
    minibatch_std: bool = Field(
        False,
        description="show the discriminator how much four images differ (Karras et al. 2018)",
    )
    ema: float = Field(
        0.999, ge=0, lt=1, description="decay of the averages of generator and discriminator"
    )
    rotation: RotationConfig = RotationConfig()
    reconstruction: float = Field(
        0.0,
        ge=0,
        description="weight of the squared error of the images, before `inputs` changed them, as "
        "a decoder restores them from the discriminator's last stage (Liu et al. 2021, FastGAN)",
    )
    agreement: AgreementConfig = NoAgreement()
    export: Exported = Field(
        "discriminator",
        description="whose stages are kept: the discriminator's, those of its moving average, or "
        "the inference encoder's",
    )
    reference: str | None = Field(
        None,
        description="encoder.safetensors on whose features samples are compared with real images; "
        "null: an encoder with random weights, the same in all runs",
    )
