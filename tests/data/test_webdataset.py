"""Packed shards are WebDataset shards: its own reader gives the same samples."""

import io

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from data.decode import decode_image
from data.pack import pack
from data.shards import expand_shards, iter_samples
from tests.data.tars import random_images


@pytest.mark.parametrize("labeled", [True, False])
@pytest.mark.parametrize("shape", [(12, 9), (12, 9, 3)])
def test_webdataset_reads_every_packed_shard(tmp_path, labeled, shape):
    images = random_images(11, *shape)
    arrays = {"images": images, "labels": np.arange(11) % 4} if labeled else {"images": images}
    np.savez(tmp_path / "x.npz", **arrays)
    pack(tmp_path / "x.npz", tmp_path / "set", shard_size=4)
    shards = expand_shards(str(tmp_path / "set" / "*.tar"))
    assert len(shards) == 3
    read = 0
    for shard in shards:
        theirs = list(wds.WebDataset(str(shard), shardshuffle=False))
        ours = list(iter_samples(shard))
        assert [t["__key__"] for t in theirs] == [s.key for s in ours]
        for their, our in zip(theirs, ours, strict=True):
            pixels = np.asarray(Image.open(io.BytesIO(their["png"])))
            decoded = decode_image(our.image, our.suffix)
            np.testing.assert_array_equal(np.atleast_3d(pixels).transpose(2, 0, 1), decoded)
            np.testing.assert_array_equal(pixels, images[read])
            label = int(their["cls"]) if "cls" in their else None
            assert label == our.label == (read % 4 if labeled else None)
            read += 1
    assert read == 11
