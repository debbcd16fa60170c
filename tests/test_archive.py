import io
import random
import zipfile

import pytest
import torch

from neural_lib import archive
from neural_lib.errors import UserError

KIND = archive.Kind("neural_lib thing", 2, (1, 2), "thing", "--thing", "make one", "make another", unsummed=(1,))


@pytest.fixture
def path(tmp_path):
    archive.save({"weights": torch.arange(300.0), "names": ["a", "b"]}, tmp_path / "thing.pth", KIND)
    return tmp_path / "thing.pth"


def test_what_is_read_is_what_was_written(path):
    content = archive.load(path, KIND)
    assert torch.equal(content["weights"], torch.arange(300.0)) and content["names"] == ["a", "b"]
    assert (content["format"], content["format_version"]) == ("neural_lib thing", 2)


def test_others_read_it_as_the_zip_archive_that_it_is(path):
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.arange(300.0))
    assert zipfile.ZipFile(path).testzip() is None
    assert zipfile.ZipFile(path).comment.startswith(b"neural_lib sha256 ")


def test_a_flipped_bit_is_noticed_in_every_byte(path):
    whole = path.read_bytes()
    chance = random.Random(0)
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(UserError, match="--thing .*thing.pth: "):
            archive.load(path, KIND)


def test_a_flipped_bit_in_its_numbers_is_nothing_that_torch_notices(path):
    whole = bytearray(path.read_bytes())
    whole[whole.index(torch.arange(300.0).numpy().tobytes()) + 40] ^= 1
    assert not torch.equal(torch.load(io.BytesIO(whole), weights_only=True)["weights"], torch.arange(300.0))


def test_a_file_that_ends_too_soon_is_refused_wherever_it_ends(path):
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 50), *range(len(whole) - 120, len(whole))]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="is damaged"):
            archive.load(path, KIND)


def test_a_version_from_before_the_checksum_needs_none(path):
    torch.save({"format": KIND.format, "format_version": 1, "names": []}, path)
    assert archive.load(path, KIND)["names"] == []
    torch.save({"format": KIND.format, "format_version": 2, "names": []}, path)
    with pytest.raises(UserError, match="is damaged or was changed: it lacks its checksum"):
        archive.load(path, KIND)


def test_another_kind_of_file_is_no_such_thing(path, tmp_path):
    other = archive.Kind("neural_lib other", 1, (1,), "other", "--other", "make another", "mend it")
    with pytest.raises(UserError, match="--other .*thing.pth: holds data, but is no other of train.py; make another"):
        archive.load(path, other)
