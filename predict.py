"""Show what a trained network sees: in your own pictures, or in test images.

    python predict.py scan1.png photo.jpg folder/   # recognise what they show
    python predict.py --draw                        # write with the mouse
    python predict.py                               # ten test images
    python predict.py --evaluate                    # train.py's report
    python predict.py --export model.onnx           # for other programs

Network and class names are those of the checkpoint, and so is the data set,
unless another one is named.
"""

import argparse
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from neural_lib import answers, cli, datasets, devices, display, downloads, export, machine, pictures, report, resume
from neural_lib.errors import RunError, UserError
from neural_lib.files import Writer, atomic_write, check_input, check_output, check_output_folder, sweep

if TYPE_CHECKING:
    from neural_lib.checkpoint import Checkpoint
    from neural_lib.datasets import DatasetInfo
    from neural_lib.recogniser import Recogniser

NO_FOLDER = (".png", ".jpg", ".json", ".pdf")  # what ends so was meant as a file
MOST_SAMPLES = 1000  # more would make one picture too large for viewers, at 174 x 234 pixels a sample
INVERT = ("auto", "yes", "no")
SHOWING = ("test images", "pictures")  # modes in which --show opens windows
# what an option goes with that promises something which other modes would not keep; the rest does no harm anywhere. A
# mode is an option, or pictures that are named
GOES_WITH = {
    "--dataset": ("test images", "--evaluate"),
    "--output": ("test images", "--evaluate", "pictures", "--draw"),
    **dict.fromkeys(("--invert", "--json"), ("pictures",)),
}

log = logging.getLogger("neural_lib")


def parse_args(argv=None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("pictures", nargs="*", metavar="PICTURE", help="file or folder (png, jpg, bmp, tif, webp, gif) to recognise")
    add("-m", "--model", default="output/model.pth", help="checkpoint that train.py wrote (%(default)s)")
    add(
        "-o",
        "--output",
        help="annotated picture to write (output/predictions.png); with --json there is none without this option; "
        "with --evaluate the folder for the report's files (the model's own), with --draw for drawings (output)",
    )
    add(
        "--show",
        action=argparse.BooleanOptionalAction,
        help="show the images one by one: any key steps on, q or Esc ends (where there is a display)",
    )
    add("--device", choices=devices.DEVICES, default="auto", help="auto takes an accelerator where there is one")

    add = parser.add_argument_group("for pictures of your own").add_argument
    add("-r", "--recursive", action="store_true", help="look into folders within folders")
    add(
        "--invert", choices=INVERT, default="auto", help="yes: dark on light; no: light on dark; auto: the border tells"
    )
    add("--top", type=int, default=3, metavar="N", help="tell so many classes, the most probable first (%(default)s)")
    add("--show-input", action="store_true", help="show beside each picture what the network was given")
    add("--json", action="store_true", help="one JSON object a picture on stdout, the log on stderr")
    add("--draw", action="store_true", help="open a window to write in with the mouse")

    add = parser.add_argument_group("for test images").add_argument
    add("--evaluate", action="store_true", help="score all test images: a report, on the terminal and as files")
    add("-n", "--samples", type=int, default=10, help="test images to draw at random (%(default)s)")
    add("--seed", type=int, default=42, help="of that draw (%(default)s)")
    names = ", ".join(datasets.DATASETS)
    add("-d", "--dataset", choices=datasets.DATASETS, metavar="NAME", help=f"{names}; without this option the model's")
    add("--data", metavar="DIR", help="folder that holds the data sets (training's, or data)")

    add = parser.add_argument_group("for other programs").add_argument
    add("--export", metavar="FILE", help="write the network as ONNX, and compare it in OpenCV")
    return check_args(parser, parser.parse_args(argv))


def check_args(parser: cli.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    modes = {"pictures": args.pictures, "--draw": args.draw, "--evaluate": args.evaluate, "--export": args.export}
    asked = [mode for mode, given in modes.items() if given] or ["test images"]
    if len(asked) > 1:
        parser.error(f"{' and '.join(asked)} don't go together; give one command for each")
    args.mode = asked[0]
    for option, goes_with in GOES_WITH.items():
        name = option.strip("-").replace("-", "_")
        value = getattr(args, name)
        if args.mode not in goes_with and value != parser.get_default(name) and value is not False:
            parser.error(f"{option} doesn't go with {args.mode}, but with {' or '.join(goes_with)}")
    if not 1 <= args.samples <= MOST_SAMPLES:
        parser.error(f"--samples must be from 1 to {MOST_SAMPLES}, not {args.samples}")
    if args.mode in ("--evaluate", "--draw") and Path(args.output or "").suffix in NO_FOLDER:
        parser.error(f"--output {args.output}: with {args.mode} it names a folder")
    if "" in args.pictures:
        parser.error("a PICTURE needs a name")
    if args.seed < 0:
        parser.error(f"--seed must be 0 or more, not {args.seed}")
    if args.top < 1:
        parser.error(f"--top must be 1 or more, not {args.top}")
    return args


def main(argv=None) -> int:
    args = parse_args(argv)
    cli.set_up_logging(leave_stdout=args.json)
    devices.check_device(args.device)
    check_input(args.model, "--model", otherwise="train a network first, with train.py")
    show = can_show(args)
    output = check_output_of(args)
    found = find_pictures(args, output)

    machine.tune_for_cpu()
    from neural_lib import checkpoint
    from neural_lib.recogniser import Recogniser

    # network: everything about it comes from the checkpoint
    log.info("loading the model %s...", args.model)
    saved = checkpoint.load(args.model)
    device, reason = devices.select_device("cpu" if args.export else args.device)
    reason = "where a network is exported" if args.export else reason
    recogniser = Recogniser(saved, device)
    log.info("%s trained on %s, computing on %s (%s)", saved.arch, saved.dataset, device, reason)

    # data set: the model's own or another one with as many classes
    dataset = args.dataset or saved.dataset
    info = datasets.DATASETS.get(dataset)
    if info is None:
        raise UserError(f"--model {args.model}: its data set {dataset!r} is not one of {', '.join(datasets.DATASETS)}")
    if len(saved.classes) != len(info.classes):
        raise UserError(
            f"--model {args.model}: it tells {len(saved.classes)} classes apart, and {dataset} has {len(info.classes)}"
        )

    args.data = args.data or data_folder(saved, dataset)
    if args.mode == "pictures":
        return recognise_pictures(args, recogniser, info, found, output, show)
    if args.draw:
        return draw(recogniser, info, output)
    if args.export:
        return export_network(args, recogniser, info, output)

    images = test_images(args, recogniser, dataset)
    if args.evaluate:
        return evaluate(args, recogniser, dataset, images, output)
    return show_test_images(recogniser, images, output, show)


def data_folder(saved: "Checkpoint", dataset: str) -> str:
    """Where a data set is looked for if --data isn't given: where training found its own, else in data."""
    trained_from = saved.training.get("data", "")
    return trained_from if trained_from and datasets.is_there(dataset, trained_from) else "data"


def check_output_of(args: argparse.Namespace) -> Path | None:
    """Where the command's output goes, tried; None where a command has none. Raises UserError where it can't go."""
    if args.evaluate:
        model = Path(os.path.realpath(args.model)) if Path(args.model).is_symlink() else Path(args.model)
        if not args.output and (owner := resume.owner_of(model.parent, default=model.name)) != model.name:
            raise UserError(f"--model {model}: the report beside it is of {owner}; give --output, a folder for its own")
        return check_output_folder(args.output or model.parent, "--output")
    if args.draw:
        return check_output_folder(args.output or "output", "--output")
    if args.export:
        export.check_packages()
        return check_output(args.export, "--export", (".onnx",))
    if args.json and not args.output:
        return None

    from neural_lib import annotate

    path = check_output(args.output or "output/predictions.png", "--output", annotate.SUFFIXES)
    if path in report.ReportFiles.of_all_data_sets(path.parent):
        raise UserError(f"--output {path}: is where a picture of the report goes; choose another name")
    sweep(path)
    return path


def find_pictures(args: argparse.Namespace, output: Path | None) -> pictures.Found:
    """The pictures that are named, without what this command writes. Raises UserError where that can't be written."""
    if not output or not args.pictures:
        return pictures.find(args.pictures, args.recursive)

    from neural_lib import annotate, pages

    found = pictures.find(args.pictures, args.recursive, is_own=lambda file: pages.is_page(file, output))
    inputs = {os.path.realpath(each) for each in found.files}
    for page in pages.paths(output, len(found.files)):
        if os.path.realpath(page) in inputs:
            raise UserError(f"--output {page}: is one of the pictures to recognise; choose another name")
        sweep(check_output(page, "--output", annotate.SUFFIXES))
    return found


def can_show(args: argparse.Namespace) -> bool:
    """Whether to open windows. Raises UserError where one is asked for and none can be."""
    wanted = args.draw or args.show and args.mode in SHOWING
    if not wanted and (args.show is False or args.json or args.mode not in SHOWING):
        return False
    show = display.is_available()
    if args.draw and not show:
        raise UserError("--draw: no display here to open a window on; give picture files instead")
    if wanted and not show:
        raise UserError("--show: no display here to open a window on; without --show the picture is only written")
    return show


def recognise_pictures(
    args: argparse.Namespace,
    recogniser: "Recogniser",
    info: "DatasetInfo",
    found: pictures.Found,
    output: Path | None,
    show: bool,
) -> int:
    from tqdm import tqdm

    from neural_lib import annotate
    from neural_lib.own_pictures import NotRecognised, read_files
    from neural_lib.pages import PAGE, Pages

    saved, files = recogniser.saved, found.files
    for line in found.told():
        log.warning("%s", line)
    if not files:
        raise RunError("there is no picture to recognise; name files or folders that hold some")
    if args.invert != "auto" and info.placement is None:
        log.warning("--invert %s changes nothing: for %s pictures are taken as they are", args.invert, info.title)
    if args.json:
        told = answers.AnswersAsJson(saved)
    else:
        told = answers.AnswerTable(saved, files, args.top, shutil.get_terminal_size().columns)
    montage, tiles, recognised = Pages(output, len(files)) if output else None, [], 0
    with tqdm(total=len(files), unit=" pictures", leave=False, disable=None, dynamic_ncols=True) as bar:
        for result in read_files(recogniser, files, info, args.invert, args.top, 2 * annotate.TILE_WIDTH, bar.update):
            if isinstance(result, NotRecognised):
                log.warning("%s: %s", pictures.printable(result.path), result.reason)
                cli.tell(told.failure(*result))
                continue
            recognised += 1
            answer = result.answer
            cli.tell(told.answer(answer))
            seen = result.seen if args.show_input else None
            name, probability = saved.written(answer.labels[0]), answer.probabilities[0]
            tile = (result.thumbnail, name, probability, pictures.printable(answer.path.name), seen)
            if montage:
                montage.add(annotate.recognised(*tile))
            if show and len(tiles) < PAGE:
                tiles.append(tile)
    if not recognised:
        raise RunError("no picture was recognised; what is wrong with each is told above")
    written = montage.finish() if montage else []
    log.info("recognised %d of %d picture%s", recognised, len(files), "s" if len(files) > 1 else "")
    if written:
        log.info("wrote %s%s", written[0], f" to {written[-1].name}" if len(written) > 1 else "")

    if show:
        log.info("showing them one by one: any key steps on, q or Esc ends")
        display.show_one_by_one((annotate.recognised(*tile, scale=2) for tile in tiles), "recognised")
    return 0


def draw(recogniser: "Recogniser", info: "DatasetInfo", folder: Path) -> int:
    import numpy as np

    from neural_lib import drawing, ink, own_pictures

    saved = recogniser.saved
    if info.placement is None:
        raise UserError(f"--draw: this network knows {info.title}, photos, and can't read what is drawn")

    def read(picture: np.ndarray) -> drawing.Reading | None:
        try:
            return drawing.Reading(*own_pictures.read(recogniser, picture, info, invert="yes"))
        except ink.NoInk:
            return None

    def save(picture: np.ndarray, reading: drawing.Reading) -> str:
        def told(path: Path) -> str:
            best = answers.most_probable(reading.probabilities, drawing.TOP)
            return answers.as_json(saved, answers.Answer(path, *best))

        path = drawing.save(folder, picture, told)
        log.info("wrote %s and %s", path, path.with_suffix(".json").name)
        return path.name

    machine.compute_in_one_thread()
    recogniser.probabilities(recogniser.images([np.zeros((1, info.image_size, info.image_size), np.uint8)]))  # warm up
    log.info("write on the white with the mouse; keys: c clears, u undoes a stroke, s saves, q or Esc quits")
    display.run_board(drawing.DrawingBoard(saved, read, save), "draw")
    return 0


def export_network(args: argparse.Namespace, recogniser: "Recogniser", info: "DatasetInfo", path: Path) -> int:
    from tqdm import tqdm

    saved = recogniser.saved
    content = export.to_onnx(recogniser)
    if datasets.is_there(saved.dataset, args.data):
        images, which = test_images(args, recogniser, saved.dataset)[0], f"test images of {info.title}"
    else:
        images, which = export.noise(saved), f"images of noise, for {args.data} holds no {info.title}"
    with tqdm(total=len(images), unit=" images", leave=False, disable=None, dynamic_ncols=True) as bar:
        comparison = export.compare(content, recogniser, images, bar.update)
    export.check(comparison)
    log.info(
        "the same labels in OpenCV's dnn for %d %s; probabilities differ by at most %.0e",
        comparison.images, which, comparison.greatest,
    )  # fmt: skip
    with atomic_write(path) as handle:
        handle.write(content)
    log.info("wrote %s: %s -> %s; its metadata tell the normalisation", path, export.INPUT, export.OUTPUT)
    return 0


def test_images(args: argparse.Namespace, recogniser: "Recogniser", dataset: str) -> datasets.Images:
    """All test images or, where some are to be shown, so many at random, none twice; as the network takes them."""
    import numpy as np

    from neural_lib.convert import convert

    saved, info = recogniser.saved, datasets.DATASETS[dataset]
    if args.dataset and saved.classes != list(info.classes):
        own, theirs = (", ".join(names) for names in (saved.classes, info.classes))
        log.warning("the classes of %s are %s; this model calls them, in that order, %s", dataset, theirs, own)
    if args.mode == "test images" and args.samples > info.test_size:
        raise UserError(f"--samples {args.samples}: {dataset} has {info.test_size:,} test images; ask for fewer")
    try:
        images, labels = datasets.load_images(dataset, args.data, train=False)
    except downloads.DownloadError as error:
        raise RunError(f"{info.title} could not be had: {error}") from None
    if args.mode == "test images":
        chosen = np.random.default_rng(args.seed).choice(len(images), size=args.samples, replace=False)
        images, labels = images[chosen], labels[chosen]
    images, changes = convert(images, len(saved.mean), saved.image_size)
    if changes:
        log.warning("the images of %s are converted for this model: %s", dataset, ", ".join(changes))
    return datasets.Images(images, labels)


def evaluate(
    args: argparse.Namespace, recogniser: "Recogniser", dataset: str, images: datasets.Images, folder: Path
) -> int:
    from neural_lib.loaders import ImageTensors

    saved = recogniser.saved
    files = report.ReportFiles(folder, "--output", suffix="" if dataset == saved.dataset else f"-{dataset}")
    evaluation = report.score(saved, recogniser.model, ImageTensors(*images, recogniser.device))
    writer = Writer()
    report.log_scores(saved, evaluation)
    log.info("test accuracy: %.4f", evaluation.accuracy)
    records = report.records_of(saved, Path(os.path.realpath(args.model)).parent)
    report.write(files, saved, dataset, evaluation, images.images, writer, records)
    is_complete = writer.finish()
    report.log_written([path for path in files if path in writer.written])
    return 0 if is_complete else 1


def show_test_images(recogniser: "Recogniser", images: datasets.Images, path: Path, show: bool) -> int:
    from neural_lib import annotate

    saved = recogniser.saved
    probabilities, predictions = recogniser.probabilities(images.images).max(dim=1)
    annotations = []
    for image, truth, predicted, probability in zip(
        images.images, images.labels.tolist(), predictions.tolist(), probabilities.tolist(), strict=True
    ):
        log.info(
            "ground truth label: %s, predicted label: %s (%s)",
            saved.classes[truth],
            saved.classes[predicted],
            annotate.percent(probability),
        )
        pixels = annotate.pixels_of(image)
        annotations.append((pixels, saved.written(predicted), probability, saved.written(truth)))
    right = int((predictions == images.labels).sum())

    picture = annotate.encode(annotate.montage([annotate.annotate(*each) for each in annotations]), path.suffix)
    with atomic_write(path) as handle:
        handle.write(picture)
    log.info("%d of %d right; wrote %s", right, len(annotations), path)

    if show:
        log.info("showing them one by one: any key steps on, q or Esc ends")
        display.show_one_by_one((annotate.annotate(*each, scale=2) for each in annotations), "prediction")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, "predict.py"))
