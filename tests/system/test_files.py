import atexit
import errno
import logging
import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import filelock
import pytest
from conftest import ROOT

from neural_lib.system.errors import UserError
from neural_lib.system.files import (
    ABANDONED_AFTER,
    Writer,
    atomic_write,
    check_input,
    check_output,
    check_output_folder,
    locked,
    remove_abandoned,
    remove_empty_folders,
    write_file,
)


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


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, lambda: b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["out.bin"]


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


def test_a_suffix_is_accepted_in_any_case(tmp_path):
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
        check_input(tmp_path / "pipe", "--model", hint="train first")


def test_a_link_to_itself_is_replaced(tmp_path):
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    with atomic_write(check_output(tmp_path / "loop.pth", "--model", (".pth",))) as handle:
        handle.write(b"new")
    assert (tmp_path / "loop.pth").read_bytes() == b"new"


def test_an_input_that_cannot_be_read_is_refused_with_the_advice_given(tmp_path):
    missing = "can't be read \\(No such file or directory\\)"
    for path, reason in ((tmp_path, "is a folder, not a file"), (tmp_path / "none", missing)):
        with pytest.raises(UserError, match=f"^--model {path}: {reason}; train first$"):
            check_input(path, "--model", hint="train first")
    (model := tmp_path / "model.pth").touch()
    with pytest.raises(UserError, match=f"^--model {tmp_path}: is a folder, not a file; give {model}$"):
        check_input(tmp_path, "--model", hint="train first")


def test_check_output_folder_makes_it_and_refuses_what_is_none(tmp_path):
    assert check_output_folder(tmp_path / "a" / "runs", "--logdir").is_dir()
    (tmp_path / "file").touch()
    for path, message in (("", "--logdir needs the name of a folder"), (tmp_path / "file", "file: is a file"),
                          (tmp_path / "file" / "runs", "can't write there")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            check_output_folder(path, "--logdir")


def test_folders_made_for_outputs_are_removed_if_they_stay_empty(tmp_path):
    check_output(tmp_path / "empty" / "inner" / "plot.png", "--plot", (".png",))
    path = check_output(tmp_path / "used" / "inner" / "plot.png", "--plot", (".png",))
    path.touch()
    remove_empty_folders()
    assert os.listdir(tmp_path) == ["used"] and path.exists()


# --- temporary files of killed processes ---


def test_only_old_temporary_files_of_the_same_output_are_removed(tmp_path):
    """Age decides, not the process identifier in the name: it may be of another container's process."""
    stale = [".plot.png.12.0123abcd.tmp", f".plot.png.{os.getpid()}.0123abcd.tmp", ".plot.png.0123abcd.tmp"]
    others = [".other.png.12.0123abcd.tmp", "plot.png", "plot.png.tmp", ".plot.png.12.0123abcd", ".plot.png.x.tmp"]
    fresh = [".plot.png.0123abce.tmp", f".plot.png.{os.getpid()}.0123abce.tmp"]
    long_ago = time.time() - 2 * ABANDONED_AFTER
    for name in stale + others + fresh:
        (tmp_path / name).touch()
        if name not in fresh:
            os.utime(tmp_path / name, (long_ago, long_ago))
    folder = tmp_path / ".plot.png.12.0123abcf.tmp"
    (folder / "matplotlib").mkdir(parents=True)
    os.utime(folder, (long_ago, long_ago))
    remove_abandoned(tmp_path / "plot.png")
    assert sorted(os.listdir(tmp_path)) == sorted(others + fresh)


# --- locks ---

HOLD = """
import sys
from pathlib import Path
from neural_lib.system.files import locked
with locked(Path("model.pth"), "--model"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold(tmp_path) -> subprocess.Popen:
    """Another process that holds the lock on model.pth until it reads a line or is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("end", ["finished", "killed"])
def test_only_one_process_holds_a_lock_and_it_ends_with_the_process(tmp_path, end):
    path, process = tmp_path / "model.pth", hold(tmp_path)
    with pytest.raises(UserError, match="--model .*model.pth: another run is writing there"), locked(path, "--model"):
        pass
    if end == "killed":
        process.kill()
    process.communicate("\n" if end == "finished" else None)
    with locked(path, "--model"):
        assert os.listdir(tmp_path) == [".model.pth.lock"]
    assert os.listdir(tmp_path) == []


def test_a_lock_is_released_when_the_block_raises(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError), locked(tmp_path / "model.pth", "--model"):
            raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    with locked(tmp_path / "model.pth", "--model"):
        pass
    assert "model.pth can't be locked" in caplog.text and "let no other run write there" in caplog.text


# --- writes that fail without ending the run ---


def test_a_failed_write_is_a_warning_and_is_retried(tmp_path, caplog, monkeypatch):
    writer, made = Writer(), []
    plot, page, model = (tmp_path / name for name in ("plot.png", "report.html", "model.pth"))
    plot.write_bytes(b"old")

    def make_plot() -> bytes:
        made.append(len(made))
        if len(made) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return b"drawn"

    def make_page() -> bytes:
        raise ValueError("no such\nbackend")  # as a library may

    assert not writer.write(plot, make_plot) and not writer.write(page, make_page)
    assert writer.write(model, lambda: b"whole") and model.read_bytes() == b"whole"
    assert plot.read_bytes() == b"old"
    writer.retry()
    assert not writer.finish()
    assert plot.read_bytes() == b"drawn" and list(writer.pending) == [page]
    assert [(level, text) for _, level, text in caplog.record_tuples] == [
        (logging.WARNING, f"{plot}: No space left on device; trying again later"),
        (logging.WARNING, f"{page}: ValueError: no such backend; trying again later"),
        (logging.WARNING, f"{plot}: No space left on device; trying again later"),
        (logging.WARNING, f"{page}: ValueError: no such backend; trying again later"),
        (logging.ERROR, f"{page}: ValueError: no such backend; it was not written"),
    ]
    for error in (KeyboardInterrupt, BrokenPipeError):  # a signal; the log's closed pipe
        with pytest.raises(error):
            writer.write(plot, lambda error=error: (_ for _ in ()).throw(error))


def test_an_error_inside_a_write_keeps_its_own_file_name(tmp_path, caplog):
    writer, path = Writer(), tmp_path / "report.html"
    with pytest.raises(FileNotFoundError) as caught, atomic_write(path):
        (tmp_path / "template.html").read_text()
    assert caught.value.filename == str(tmp_path / "template.html")
    assert not writer.write(path, lambda: (tmp_path / "template.html").read_bytes())
    assert f"{path}: No such file or directory ({tmp_path / 'template.html'}); trying again" in caplog.text
    assert os.listdir(tmp_path) == []


def test_a_file_counts_as_written_only_if_the_last_write_succeeded(tmp_path):
    writer, path = Writer(), tmp_path / "model.pth"
    assert not writer.is_written(path)
    assert writer.write(path, lambda: b"first") and writer.is_written(path)

    def fail():
        raise OSError(28, "No space left on device")

    assert not writer.write(path, fail) and not writer.is_written(path)
    assert path.read_bytes() == b"first"
    assert not writer.finish()
    assert writer.write(path, lambda: b"third") and writer.is_written(path)


# --- without a writable temporary folder ---


@pytest.mark.parametrize("is_fallback", [True, False])
def test_temporary_files_are_made_beside_the_output_if_there_is_no_other_place(tmp_path, monkeypatch, is_fallback):
    at_exit = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(atexit, "register", lambda *call: at_exit.append(call))
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path)] if is_fallback else ["/no/folder"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", "")
    for name in ("model.pth", "plot.png"):  # one folder for both
        check_output(f"new/{name}", "--output", (".pth", ".png"))
    (folder,) = (tmp_path / "new").iterdir()
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(folder)
    tempfile.mkstemp()
    remove_empty_folders()
    ((remove, *arguments),) = at_exit
    remove(*arguments)
    assert os.listdir(tmp_path) == []  # the command was refused, so its output's folder is gone, too


def test_an_existing_temporary_folder_is_used(tmp_path, monkeypatch):
    before = tempfile.gettempdir()
    check_output(tmp_path / "model.pth", "--output", (".pth",))
    assert tempfile.gettempdir() == before and os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_system_that_is_read_only_but_for_the_outputs_trains_and_exports(run_python, tmp_path):
    code = """
import logging, sys, tempfile
tempfile._candidate_tempdir_list = lambda: ["/no/folder"]
import predict, train
from neural_lib.system import cli
model = ["-m", "out/model.pth"]
status = cli.run(train.main, "train.py", ["-d", "digits", "--epochs", "1", "--logdir", "out/runs", *model])
for options in (["--evaluate"], ["--export", "out/page.html"], ["--export", "out/model.onnx"], ["-o", "out/few.png"]):
    status = status or cli.run(predict.main, "predict.py", [*options, *model])
logging.getLogger("torch._inductor").warning("slow")
sys.exit(status)
"""
    done = run_python("-c", code, MPLCONFIGDIR="/proc/no/folder", TMPDIR="/no/folder")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("[WARNING] ") for line in lines) and len(set(lines)) == len(lines)
    assert sum("Matplotlib created a temporary cache directory" in line for line in lines) == 1
    assert lines[-1] == "[WARNING] torch: slow"
    assert os.listdir(tmp_path) == ["out"]
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]
