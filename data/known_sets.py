"""The sets that `python -m data fetch` knows: where they officially lie, and how they are known.

Checksums are those that are published: Fashion-MNIST's are of the unpacked contents (its Debian
package compresses them anew); MNIST's, KMNIST's, STL-10's and SVHN's md5 are torchvision's; CIFAR's
md5 stand on its page; MedMNIST's in its package, version 3. A set without one is not offered.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from data.bundled_sets import FASHION_MNIST
from data.sources import About


@dataclass(frozen=True, slots=True)
class Checksum:
    """How a file is known to be the right one.

    `unpacked_bytes` is given where the digest is of the contents of a `.gz`, so many bytes.
    """

    kind: Literal["md5", "sha256"]
    digest: str
    unpacked_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class KnownSet:
    """A set of images as its authors offer it.

    Fields:
        about: what `about.json` will say.
        images: how many there are, in words.
        addresses: folders on the web, tried in turn; each ends with a slash.
        files: what lies in each of them.
        query: what a file's address ends with.
        members: of a single `.tar.gz`, the paths of what is unpacked from it.
        debian_package: one that holds the files too.
    """

    about: About
    images: str
    addresses: tuple[str, ...]
    files: Mapping[str, Checksum]
    query: str = ""
    members: tuple[str, ...] = ()
    debian_package: str | None = None

    @property
    def place(self) -> str:
        """What `pack` is given, below the folder: one file, or "" for the folder itself."""
        only = next(iter(self.files))
        return only if only.endswith(".npz") else ""


def _idx(*digests: str) -> dict[str, Checksum]:
    names = (
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    )
    return {name: Checksum("md5", digest) for name, digest in zip(names, digests, strict=True)}


def _medmnist(
    name: str, md5: str, counts: tuple[int, int, int], classes: str, licence: str = "CC BY 4.0"
) -> KnownSet:
    train, val, test = counts
    return KnownSet(
        about=About(
            name=name,
            source=f"MedMNIST v2, {name}, https://medmnist.com",
            licence=licence,
            classes=classes.split("; "),
        ),
        images=f"{train:,} training, {val:,} validation and {test:,} test images",
        addresses=("https://zenodo.org/records/10519652/files/",),
        files={f"{name}.npz": Checksum("md5", md5)},
        query="?download=1",
    )


_ORGANS = (
    "bladder; femur-left; femur-right; heart; kidney-left; kidney-right; liver; lung-left; "
    "lung-right; pancreas; spleen"
)
_SVHN = "http://ufldl.stanford.edu/housenumbers/"
_SVHN_FILES = {
    "train_32x32.mat": Checksum("md5", "e26dedcc434d2e4c54c9b2d4a06d8373"),
    "test_32x32.mat": Checksum("md5", "eb5a983be6a315427106f1b164d9cef3"),
}

KNOWN_SETS: dict[str, KnownSet] = {
    "fashion-mnist": KnownSet(
        about=FASHION_MNIST,
        images="60,000 training and 10,000 test images",
        # One bucket: by https, and the website that the README links to, which has only http.
        addresses=(
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        files={
            "train-images-idx3-ubyte.gz": Checksum(
                "sha256",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                47_040_016,
            ),
            "train-labels-idx1-ubyte.gz": Checksum(
                "sha256",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                60_008,
            ),
            "t10k-images-idx3-ubyte.gz": Checksum(
                "sha256",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                7_840_016,
            ),
            "t10k-labels-idx1-ubyte.gz": Checksum(
                "sha256",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                10_008,
            ),
        },
        debian_package="dataset-fashion-mnist",
    ),
    "mnist": KnownSet(
        about=About(
            name="mnist",
            source="MNIST, Y. LeCun, C. Cortes, C. Burges, http://yann.lecun.com/exdb/mnist/",
        ),
        images="60,000 training and 10,000 test images",
        addresses=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
        files=_idx(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "kmnist": KnownSet(
        about=About(
            name="kmnist",
            source="KMNIST, CODH, adapted from Kuzushiji Dataset, http://codh.rois.ac.jp/kmnist/",
            licence="CC BY-SA 4.0",
            classes=["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"],
        ),
        images="60,000 training and 10,000 test images",
        addresses=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        files=_idx(
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
    ),
    "cifar10": KnownSet(
        about=About(
            name="cifar10",
            source="CIFAR-10, A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
        images="50,000 training and 10,000 test images",
        addresses=("https://www.cs.toronto.edu/~kriz/",),
        files={"cifar-10-binary.tar.gz": Checksum("md5", "c32a1d4ab5d03f1284b67883e8d87530")},
        members=(
            *(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)),
            "cifar-10-batches-bin/test_batch.bin",
            "cifar-10-batches-bin/batches.meta.txt",
        ),
    ),
    "cifar100": KnownSet(
        about=About(
            name="cifar100",
            source="CIFAR-100, A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
        images="50,000 training and 10,000 test images",
        addresses=("https://www.cs.toronto.edu/~kriz/",),
        files={"cifar-100-binary.tar.gz": Checksum("md5", "03b5dce01913d631647c71ecec9e9cb8")},
        members=(
            "cifar-100-binary/train.bin",
            "cifar-100-binary/test.bin",
            "cifar-100-binary/fine_label_names.txt",
        ),
    ),
    "stl10": KnownSet(
        about=About(
            name="stl10",
            source="STL-10, A. Coates, H. Lee, A. Y. Ng, https://cs.stanford.edu/~acoates/stl10/",
        ),
        images="5,000 training, 8,000 test and 100,000 unlabelled images",
        addresses=("http://ai.stanford.edu/~acoates/stl10/",),
        files={"stl10_binary.tar.gz": Checksum("md5", "91f7769df0f17e558f3565bffb0c7dfb")},
        members=tuple(
            f"stl10_binary/{name}"
            for name in (
                "train_X.bin",
                "train_y.bin",
                "test_X.bin",
                "test_y.bin",
                "unlabeled_X.bin",
                "class_names.txt",
            )
        ),
    ),
    "svhn": KnownSet(
        about=About(name="svhn", source=f"SVHN, Y. Netzer et al., {_SVHN}"),
        images="73,257 training and 26,032 test images",
        addresses=(_SVHN,),
        files=_SVHN_FILES,
    ),
    "svhn-extra": KnownSet(
        about=About(name="svhn-extra", source=f"SVHN, Y. Netzer et al., {_SVHN}"),
        images="73,257 training, 26,032 test and 531,131 extra images",
        addresses=(_SVHN,),
        files={
            **_SVHN_FILES,
            "extra_32x32.mat": Checksum("md5", "a93ce644f1a588dc4d68dda5feec44a7"),
        },
    ),
    "pathmnist": _medmnist(
        "pathmnist",
        "a8b06965200029087d5bd730944a56c1",
        (89_996, 10_004, 7_180),
        "adipose; background; debris; lymphocytes; mucus; smooth muscle; normal colon mucosa; "
        "cancer-associated stroma; colorectal adenocarcinoma epithelium",
    ),
    "dermamnist": _medmnist(
        "dermamnist",
        "0744692d530f8e62ec473284d019b0c7",
        (7_007, 1_003, 2_005),
        "actinic keratoses and intraepithelial carcinoma; basal cell carcinoma; "
        "benign keratosis-like lesions; dermatofibroma; melanoma; melanocytic nevi; "
        "vascular lesions",
        licence="CC BY-NC 4.0",
    ),
    "octmnist": _medmnist(
        "octmnist",
        "c68d92d5b585d8d81f7112f81e2d0842",
        (97_477, 10_832, 1_000),
        "choroidal neovascularization; diabetic macular edema; drusen; normal",
    ),
    "pneumoniamnist": _medmnist(
        "pneumoniamnist",
        "28209eda62fecd6e6a2d98b1501bb15f",
        (4_708, 524, 624),
        "normal; pneumonia",
    ),
    "retinamnist": _medmnist(
        "retinamnist", "bd4c0672f1bba3e3a89f0e4e876791e4", (1_080, 120, 400), "0; 1; 2; 3; 4"
    ),
    "breastmnist": _medmnist(
        "breastmnist",
        "750601b1f35ba3300ea97c75c52ff8f6",
        (546, 78, 156),
        "malignant; normal, benign",
    ),
    "bloodmnist": _medmnist(
        "bloodmnist",
        "7053d0359d879ad8a5505303e11de1dc",
        (11_959, 1_712, 3_421),
        "basophil; eosinophil; erythroblast; immature granulocytes; lymphocyte; monocyte; "
        "neutrophil; platelet",
    ),
    "tissuemnist": _medmnist(
        "tissuemnist",
        "ebe78ee8b05294063de985d821c1c34b",
        (165_466, 23_640, 47_280),
        "Collecting Duct, Connecting Tubule; Distal Convoluted Tubule; "
        "Glomerular endothelial cells; Interstitial endothelial cells; Leukocytes; Podocytes; "
        "Proximal Tubule Segments; Thick Ascending Limb",
    ),
    "organamnist": _medmnist(
        "organamnist", "68e3f8846a6bd62f0c9bf841c0d9eacc", (34_561, 6_491, 17_778), _ORGANS
    ),
    "organcmnist": _medmnist(
        "organcmnist", "b9ceb9546e10131b32923c5bbeaea2b1", (12_975, 2_392, 8_216), _ORGANS
    ),
    "organsmnist": _medmnist(
        "organsmnist", "9ab87b696fb54e2a387ebe992d6ed5f1", (13_932, 2_452, 8_827), _ORGANS
    ),
}
