"""Show a trained network's answers to your pictures, or to test images.

    python predict.py page.jpg scan.tif folder/     # your pages, pictures
    python predict.py inbox/ --sort-into sorted/    # copies, a folder per class
    python predict.py scans/ --key key.csv          # marked: right or wrong
    python predict.py --draw                        # draw in your browser
    python predict.py                               # ten test images
    python predict.py --evaluate                    # all test images: report
    python predict.py --export page.html            # for any browser
    python predict.py --export model.onnx           # for other programs
    python predict.py --sheet s.pdf --labels 'a b'  # to print, write on
    python predict.py --collect scans/ --into abc/  # what they wrote, by label

Network, class names and data set are read from the model file.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from neural_lib.data.catalog import DATASETS, identify, is_text, title_of
from neural_lib.prediction import INVERT, ORDERS
from neural_lib.system import cli
from neural_lib.system.environment import DEVICES, tune_for_cpu
from neural_lib.system.errors import UserError

NO_FOLDER = (".png", ".jpg", ".json", ".pdf", ".html")  # a name with one of these endings was meant as a file
SAMPLES = 10  # all test images if there are fewer
MAX_SAMPLES = 1000  # at 174 x 234 pixels a sample, viewers can't open a picture of more
# the modes in which an option has an effect; in others it is refused
GOES_WITH = {
    "--dataset": ("test images", "--evaluate"),
    "--labels-from-names": ("test images", "--evaluate"),
    "--output": ("test images", "--evaluate", "pictures", "--key", "--draw"),
    "--min-probability": ("pictures", "--key", "--export", "--draw"),
    "--title": ("--export", "--draw"),
    "--into": ("--collect",),
    **dict.fromkeys(("--labels", "--labels-from", "--copies"), ("--sheet",)),
    **dict.fromkeys(("--invert", "--order"), ("pictures", "--key")),
    **dict.fromkeys(("--json", "--show-input", "--single", "--sort-into"), ("pictures",)),
}

log = logging.getLogger("neural_lib")


def parse_args(argv=None) -> argparse.Namespace:
    """The options and the `mode` that they ask for. Raises UserError if an option or a combination is wrong."""
    parser = cli.ArgumentParser(__doc__, usage="%(prog)s [options] [PICTURE ...]")
    add = parser.add_argument
    add("pictures", nargs="*", metavar="PICTURE", help="file or folder of pictures (png, jpg, tif, gif, ...)")
    add("-m", "--model", default="output/model.pth", help="model file that train.py wrote (default: %(default)s)")
    add(
        "-o",
        "--output",
        help="annotated picture to write (default: output/predictions.png; none with --json and --sort-into); with "
        "--evaluate the folder of the report (default: the model's), with --draw that of draw.html (default: output), "
        "with --key that of the marks (default: marks)",
    )
    add(
        "--show",
        action=argparse.BooleanOptionalAction,
        help="show the images one by one: any key for the next, q or Esc to end (default: if there is a display); with "
        "--draw open the page (default: yes)",
    )
    add("--device", choices=DEVICES, default="auto", help="default: auto, an accelerator if there is one")

    _add_picture_options(parser.add_argument_group("for your pictures").add_argument)

    add = parser.add_argument_group("for test images").add_argument
    add("--evaluate", action="store_true", help="score all test images and write a report")
    add(
        "-n", "--samples", type=int, default=SAMPLES, help="test images to show, drawn at random (default: %(default)s)"
    )
    add("--seed", type=int, default=42, help="random seed of that draw (default: %(default)s)")
    names = ", ".join(DATASETS)
    add("-d", "--dataset", metavar="NAME", help=f"{names}, or your folder or file (default: the model's)")
    add("--data", metavar="DIR", help="folder of the data sets (default: training's, else data)")
    add("--labels-from-names", action="store_true", help="the names of your files tell their classes: cat.12.jpg")
    add("--no-cache", action="store_true", help="neither read nor write the cache of your decoded images")

    add = parser.add_argument_group("to share the network").add_argument
    add(
        "--export",
        metavar="FILE",
        help="write the network as page.html, a page that reads drawings and pictures in any browser, or as model.onnx "
        "for other programs; checked first",
    )
    add("--title", default="", metavar="TEXT", help="title of that page (default: one that names the data set)")

    _add_sheet_options(parser.add_argument_group("to print sheets, collect from them, and mark").add_argument)
    return check_args(parser, parser.parse_args(argv))


def _add_picture_options(add: Callable[..., object]) -> None:
    add("-r", "--recursive", action="store_true", help="look into subfolders too")
    add(
        "--order",
        choices=ORDERS,
        default="rows",
        help="how a page is read: rows, left to right (default), or columns, right to left",
    )
    add("--single", action="store_true", help="each picture holds one character, not a page")
    add(
        "--min-probability",
        type=float,
        metavar="P",
        help="mark answers that are less probable than P with a ? (default: 0.5 + 0.2 / classes: 0.6 for two classes, "
        "0.52 for ten); pictures unlike all training images have it in any case",
    )
    add("--invert", choices=INVERT, default="auto", help="yes: dark on light; no: light on dark (default: auto)")
    add(
        "--top",
        type=int,
        default=3,
        metavar="N",
        help="classes to list, the most probable first (default: %(default)s)",
    )
    add(
        "--show-input",
        action="store_true",
        help="show beside a single character the network's input; beside a photo also a heat map of what decided",
    )
    add("--json", action="store_true", help="one JSON object per picture on stdout, the log on stderr")
    add(
        "--sort-into",
        metavar="DIR",
        help="copy each picture into a folder of its class there, an unsure one into unsure/, and list them in "
        "answers.csv; begun again, it sorts the rest; implies --single",
    )
    add("--draw", action="store_true", help="open a page to draw on in the browser, as --export writes it")


def _add_sheet_options(add: Callable[..., object]) -> None:
    add("--sheet", metavar="FILE", help="write A4 pages of boxes to print, as a PDF; without labels: an answer sheet")
    add("--labels", metavar="TEXT", help="characters to write, such as 'a b c', or a text file with one on each line")
    add("--labels-from", metavar="NAME", choices=DATASETS, help="characters to write: the classes of a data set")
    add(
        "--copies",
        type=int,
        default=10,
        metavar="N",
        help="boxes for each character, or boxes of the answer sheet (default: %(default)s)",
    )
    add("--collect", action="store_true", help="cut out what is written on the sheets that the pictures show")
    add(
        "--into",
        metavar="DIR",
        help="with --collect: a folder of pictures for each label there, as train.py --writing takes them; sheets.csv "
        "lists them; begun again, it collects the rest",
    )
    add(
        "--key",
        metavar="FILE",
        help="mark the characters of pages and answer sheets: a table with the columns number and expected, or a text "
        "file with a character on each line; unsure answers are to be looked at, never wrong",
    )


def check_args(parser: cli.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    """Add `mode` to the parsed options. Raises UserError if they don't go together."""
    modes = {
        "pictures": args.pictures and args.key is None and not args.collect,
        "--key": args.key is not None,
        "--draw": args.draw,
        "--evaluate": args.evaluate,
        "--export": args.export is not None,
        "--sheet": args.sheet is not None,
        "--collect": args.collect,
    }
    requested = [mode for mode, value in modes.items() if value] or ["test images"]
    if len(requested) > 1:
        advice = "give one command for each"
        if requested == ["pictures", "--sheet"] and args.labels:
            advice = 'several labels are one text: --labels "a b c"'
        parser.error(f"{' and '.join(requested)} don't go together; {advice}")
    args.mode = requested[0]
    for option, goes_with in GOES_WITH.items():
        name = option.strip("-").replace("-", "_")
        value = getattr(args, name)
        if args.mode not in goes_with and value != parser.get_default(name) and value is not False:
            parser.error(f"{option} doesn't go with {args.mode}, but with {' or '.join(goes_with)}")
    if not 1 <= args.samples <= MAX_SAMPLES:
        parser.error(f"--samples must be from 1 to {MAX_SAMPLES}, not {args.samples}")
    if args.mode == "--key" and not args.pictures:
        parser.error("--key needs pictures to mark: files or folders")
    if args.mode == "--key" and (args.show or args.top != parser.get_default("top")):
        parser.error("--show and --top don't go with --key")
    if args.mode in ("--evaluate", "--draw", "--key") and Path(args.output or "").suffix in NO_FOLDER:
        parser.error(f"--output {args.output}: with {args.mode} it names a folder")
    if args.export == "":
        parser.error("--export needs the name of a file")
    if args.title and Path(args.export or "").suffix.lower() == ".onnx":
        parser.error(f"--title is for a page, and --export {args.export} is none")
    if not is_text(args.title):
        parser.error(f"--title {args.title!r}: is not UTF-8, or has control characters")
    if "" in args.pictures:
        parser.error("a PICTURE needs a name")
    if args.seed < 0:
        parser.error(f"--seed must be 0 or more, not {args.seed}")
    if args.min_probability is not None and not 0 <= args.min_probability <= 1:
        parser.error(f"--min-probability must be from 0 to 1, not {args.min_probability}")
    if args.sort_into is not None:
        if args.output or args.show or args.show_input:
            parser.error("--output, --show and --show-input don't go with --sort-into, which draws no picture")
        if args.order != parser.get_default("order"):
            parser.error("--order doesn't go with --sort-into, which takes each picture as one thing")
        args.single = True
    if args.single and args.order != parser.get_default("order"):
        parser.error("--order doesn't go with --single, for a single character has no order")
    if args.collect and not (args.pictures and args.into):
        parser.error("--collect needs scans, and --into, the folder to collect their characters in")
    if args.labels is not None and args.labels_from:
        parser.error("--labels and --labels-from don't go together")
    if args.copies < 1:
        parser.error(f"--copies must be 1 or more, not {args.copies}")
    if args.top < 1:
        parser.error(f"--top must be 1 or more, not {args.top}")
    return args


def main(argv=None) -> int:
    """Run the command and return its exit status."""
    # ---- arguments and files, before torch is loaded
    args = parse_args(argv)
    cli.set_up_logging(leave_stdout=args.json)
    tune_for_cpu()  # before NumPy and OpenCV are loaded
    if args.mode == "--sheet":
        from neural_lib.prediction.printing import print_sheet

        print_sheet(args.sheet, args.labels, args.labels_from, args.copies)
        return 0
    if args.mode == "--collect":
        from neural_lib.prediction.collect import collect

        collect(args.pictures, args.recursive, args.into)
        return 0
    from neural_lib.prediction.command import prepare

    output, to_read, show = prepare(args)
    from neural_lib import checkpoint
    from neural_lib.data.download import is_available
    from neural_lib.prediction import modes
    from neural_lib.prediction.recogniser import Recogniser
    from neural_lib.prediction.sort import sorting
    from neural_lib.system import devices

    # ---- model: everything about the network comes from its file
    log.info("loading the model %s...", args.model)
    saved = checkpoint.load(args.model)
    exports = args.mode in ("--export", "--draw")
    device, reason = devices.select_device("cpu" if exports else args.device)
    recogniser = Recogniser(saved, device, args.min_probability)
    reason = "export runs on the CPU" if exports else reason
    log.info("%s trained on %s, computing on %s (%s)", saved.arch, title_of(saved.dataset), device, reason)

    # ---- run the mode
    if args.mode == "--key":
        from neural_lib.prediction.marking import mark_pictures

        mark_pictures(recogniser, to_read, args.key, output, args.invert, args.order)
        return 0
    if args.mode == "pictures":
        is_sorting = args.sort_into is not None
        with sorting(args.sort_into, saved.classes) if is_sorting else contextlib.nullcontext() as into:
            modes.recognise_pictures(
                recogniser, to_read, output, invert=args.invert, order=None if args.single else args.order,
                top=args.top, as_json=args.json, show_input=args.show_input, show=show, into=into,
            )  # fmt: skip
        return 0

    dataset = saved.dataset if args.dataset is None else identify(args.dataset)
    trained_from = saved.training.get("data", "")
    data = args.data or (trained_from if trained_from and is_available(dataset, trained_from) else "data")
    use_cache = not args.no_cache
    if args.draw:
        modes.draw(recogniser, output, data, use_cache, show, args.title)
        return 0
    if args.export:
        modes.export(recogniser, output, data, use_cache, args.title)
        return 0
    parts = modes.load_test_images(saved, dataset, data, use_cache, args.labels_from_names, with_train=args.evaluate)
    count = len(parts.test)
    if args.mode == "test images" and args.samples > count and args.samples != SAMPLES:
        raise UserError(f"--samples {args.samples}: {title_of(dataset)} has {count:,} test images; ask for fewer")
    if args.evaluate:
        from neural_lib.evaluation import report  # scikit-learn and matplotlib, a second to import

        parts, model_path = parts.to(device), Path(args.model)
        is_complete = report.evaluate_model(saved, recogniser.model, dataset, parts, output, model_path)
        return 0 if is_complete else 1
    modes.show_test_images(recogniser, parts.test, min(args.samples, count), args.seed, output, show)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, "predict.py"))
