"""The checks of predict.py before torch is loaded: model file, output, pictures and display."""

import argparse
import importlib.util
import os
from pathlib import Path

from neural_lib.data import pictures
from neural_lib.data.catalog import identify
from neural_lib.evaluation import annotate
from neural_lib.evaluation.report_files import ReportFiles
from neural_lib.prediction import marking, sort
from neural_lib.prediction.window import is_display_available
from neural_lib.records import is_kept, owner_of
from neural_lib.system.errors import UserError
from neural_lib.system.files import check_input, check_output, check_output_folder, remove_abandoned

ONNX_PACKAGES = ("onnx", "onnxscript")
EXPORT_SUFFIXES = (".html", ".htm", ".onnx")
DRAW_PAGE = "draw.html"  # the page of --draw, in its output folder


def prepare(args: argparse.Namespace) -> tuple[Path | None, pictures.PictureFiles, bool]:
    """The path of the output, or None; the pictures to read; whether to open windows, or with --draw a browser.

    args: parsed by predict.py. Raises UserError if an argument can't be used.
    """
    if args.dataset is not None:
        identify(args.dataset)  # raises UserError for an unknown one
    check_input(args.model, "--model", "train a network first, with train.py")
    show = _check_display(args)
    output = _check_output(args)
    to_read = pictures.find(args.pictures, args.recursive, is_excluded=annotate.is_montage)
    if args.sort_into is not None:
        sort.check(args.sort_into, args.pictures, to_read.files)
    if args.key is not None:
        return output, marking.check(args.key, output, to_read), show
    for each in to_read.files if output else []:
        if annotate.is_output(Path(os.path.realpath(each)), Path(os.path.realpath(output))):
            raise UserError(f"--output {output}: might replace {each}, a picture to read; choose another name")
    return output, to_read, show


def _check_output(args: argparse.Namespace) -> Path | None:
    """The path of the output, or None. Raises UserError if nothing can be written there."""
    if args.evaluate:
        model = Path(os.path.realpath(args.model)) if Path(args.model).is_symlink() else Path(args.model)
        owner, folder = owner_of(model.parent, default=model.name), args.output or model.parent
        if not args.output and is_kept(model, model.with_name(owner)):
            folder = model.with_suffix("")  # model-epoch-10, beside the report of model.pth
        elif not args.output and owner != model.name:
            raise UserError(f"--model {model}: the report beside it is of {owner}; give --output, another folder")
        return check_output_folder(folder, "--output")
    if args.key is not None:
        return marking.check_folder(args.output or marking.FOLDER)
    option, path, suffixes = "--output", args.output or "output/predictions.png", annotate.SUFFIXES
    if args.draw:
        path, suffixes = check_output_folder(args.output or "output", option) / DRAW_PAGE, EXPORT_SUFFIXES
    elif args.export:
        option, path, suffixes = "--export", args.export, EXPORT_SUFFIXES
    elif args.sort_into is not None or args.json and not args.output:
        return None
    path = check_output(path, option, suffixes)
    if path in ReportFiles.of_all_data_sets(path.parent):
        raise UserError(f"{option} {path}: is reserved for a file of the report; choose another name")
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing and path.suffix.lower() == ".onnx":
        raise UserError(f"{option} {path}: needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    remove_abandoned(path)
    return path


def _check_display(args: argparse.Namespace) -> bool:
    """True to open windows, or a browser. Raises UserError if --show is given and there is no display for windows."""
    if args.draw:
        return args.show is not False
    if args.mode not in ("test images", "pictures") or args.show is False:
        return False
    if not args.show and (args.json or args.sort_into is not None):
        return False
    show = is_display_available()
    if args.show and not show:
        raise UserError("--show: no display to open a window on; without --show the picture is only written")
    return show
