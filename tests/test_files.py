import os
import stat

import pytest

from neural_lib.errors import UserError
from neural_lib.files import atomic_write, check_output


def test_atomic_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old and longer")
    with atomic_write(path) as handle:
        handle.write(b"new")
        assert path.read_bytes() == b"old and longer"  # until the block ends
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out.bin"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as handle:
        handle.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.bin"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "written"):
        pass
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "written")]
    assert modes[0] == modes[1]


def test_check_output_makes_missing_folders_and_no_file(tmp_path):
    path = check_output(tmp_path / "a" / "b" / "plot.png", "--plot", (".png",))
    assert path.parent.is_dir()
    assert os.listdir(path.parent) == []


def test_an_ending_counts_in_any_case(tmp_path):
    assert check_output(tmp_path / "PLOT.PNG", "--plot", (".png",))


@pytest.mark.parametrize(
    "name, message",
    [
        ("", "is a folder"),
        ("file/model.pth", "can't write there"),
        ("plot.xyz", r"end the name in \.png, \.pdf"),
        ("plot", r"end the name in"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(tmp_path, name, message):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        check_output(tmp_path / name, "--plot", () if "model" in name else (".png", ".pdf"))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="/proc, read-only even for root, is Linux's")
def test_a_read_only_place_is_refused():
    with pytest.raises(UserError, match="--model /proc/model.pth: can't write there"):
        check_output("/proc/model.pth", "--model")
