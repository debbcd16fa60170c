import os
import stat
from pathlib import Path

import pytest

from neural_lib.errors import UserError
from neural_lib.files import atomic_write, check_input, check_output


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


def test_a_link_is_followed_not_replaced(tmp_path):
    (tmp_path / "shelf").mkdir()
    (tmp_path / "model.pth").symlink_to(tmp_path / "shelf" / "real.pth")
    with atomic_write(check_output(tmp_path / "model.pth", "--model", (".pth",))) as handle:
        handle.write(b"new")
    assert (tmp_path / "model.pth").is_symlink()
    assert (tmp_path / "shelf" / "real.pth").read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are Unix's")
def test_a_pipe_or_a_device_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UserError, match="is a device or a pipe"):
            check_output(path, "--model", (path.suffix,))


@pytest.mark.parametrize(
    "name, message",
    [
        ("", "is a folder"),
        ("file/plot.png", "can't write there"),
        ("n" * 300 + ".png", "can't write there"),
        ("plot.xyz", r"end the name in \.png, \.pdf"),
        ("plot", r"end the name in"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(tmp_path, name, message):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        check_output(tmp_path / name, "--plot", (".png", ".pdf"))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="/proc, read-only even for root, is Linux's")
def test_a_read_only_place_is_refused():
    with pytest.raises(UserError, match="--model /proc/model.pth: can't write there"):
        check_output("/proc/model.pth", "--model", (".pth",))


def test_an_error_in_writing_names_the_file(tmp_path):
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "model.pth"):
        raise OSError(28, "No space left on device")  # as a write does, without a name
    assert caught.value.filename == str(tmp_path / "model.pth")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are Unix's")
def test_a_pipe_is_no_input(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a pipe, not a file; train first"):
        check_input(tmp_path / "pipe", "--model", otherwise="train first")


def test_a_link_to_itself_leads_nowhere_and_is_replaced(tmp_path):
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    with atomic_write(check_output(tmp_path / "loop.pth", "--model", (".pth",))) as handle:
        handle.write(b"new")
    assert (tmp_path / "loop.pth").read_bytes() == b"new"


def test_an_input_that_cannot_be_read_is_refused_with_the_advice_given(tmp_path):
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file or directory")):
        with pytest.raises(UserError, match=f"^--model {path}: can't be read \\({reason}\\); train first$"):
            check_input(path, "--model", otherwise="train first")
