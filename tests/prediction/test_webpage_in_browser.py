"""The page that predict.py --export writes, in a real browser: drawn on, given pictures, looked at."""

import base64
import io
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import made_up
import numpy as np
import pytest
import torch
from conftest import requests_of
from PIL import Image
from test_webpage import NAMES, recogniser_of

from neural_lib.data import custom
from neural_lib.data.images import load_images
from neural_lib.networks import build_network
from neural_lib.prediction import webpage
from neural_lib.prediction.recogniser import Answer, Recogniser

# in percent of the sheet, from the left and from the top
ONE = [[(52, 15), (50, 50), (48, 85)]]
SEVEN = [[(25, 20), (75, 20), (60, 50), (42, 85)], [(35, 52), (72, 50)]]
ZERO = [[(50, 15), (30, 30), (27, 55), (40, 82), (60, 82), (73, 55), (70, 30), (50, 15)]]


def export(recogniser: Recogniser, path: Path) -> Path:
    path.write_text(webpage.to_html(recogniser, webpage.model_of(recogniser)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def digits(digits_model) -> Recogniser:
    return Recogniser.load(digits_model, "cpu")


@pytest.fixture(scope="module")
def digits_page(digits, tmp_path_factory) -> Path:
    return export(digits, tmp_path_factory.mktemp("page") / "digits.html")


@pytest.fixture
def opened(open_page, digits_page):
    """The browser with the digits' page."""
    return open_page(digits_page)


@pytest.fixture(scope="module")
def photos() -> Recogniser:
    """A network for photos with as many classes as names."""
    arch_args = {"numChannels": 3, "classes": len(NAMES), "image_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = build_network("vgg-small", **arch_args).state_dict()
    saved = replace(made_up.make_checkpoint("cifar10", "vgg-small"), arch_args=arch_args, state_dict=weights,
                    classes=NAMES, dataset="own <i>set")  # fmt: skip
    return Recogniser(saved, torch.device("cpu"))


def draw(browser, strokes: list[list[tuple[int, int]]], kind: str = "mouse", lift: bool = True) -> None:
    """Draw on the sheet with pointer events as the browser makes them."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    left, top, width = browser.execute_script(
        """sheet.scrollIntoView({block: "nearest"});
        const {left, top, width} = sheet.getBoundingClientRect();
        return [left, top, width];"""
    )
    builder = ActionBuilder(browser, mouse=PointerInput(kind, kind), duration=20)
    pen = builder.pointer_action
    for (x, y), *others in strokes:
        pen.move_to_location(round(left + x * width / 100), round(top + y * width / 100)).pointer_down()
        for x, y in others:
            pen.move_to_location(round(left + x * width / 100), round(top + y * width / 100))
        if lift:
            pen.pointer_up()
    builder.perform()


def drop(browser, *files: tuple[str, bytes]) -> None:
    """Drop files, name and content, on the page."""
    browser.execute_script(
        """const dataTransfer = new DataTransfer();
        for (const [name, content] of arguments[0]) {
            const bytes = Uint8Array.from(atob(content), (byte) => byte.charCodeAt(0));
            dataTransfer.items.add(new File([bytes], name));
        }
        document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));""",
        [(name, base64.b64encode(content).decode()) for name, content in files],
    )


def wait_until(is_so) -> None:
    for _ in range(300):
        if is_so():
            return
        time.sleep(0.03)
    raise AssertionError("it has not happened")


def downloaded(browser, name: str, act) -> Path:
    """The file that act makes the page save, once all of it is on the disk.

    Chromium reserves the name with an empty file and replaces that by the download, which is whole then.
    """
    path = browser.downloads / name
    path.unlink(missing_ok=True)
    act()
    wait_until(lambda: path.exists() and path.stat().st_size > 0)
    return path


def answer_of(browser) -> str:
    """The answer, once there is one."""
    answer = browser.find_element("id", "answer")
    wait_until(lambda: answer.text and answer.text != "looking …")
    return answer.text


def bars_of(browser) -> list[tuple[str, str]]:
    """Names and percentages in the chart."""
    parts = [[item.find_element("css selector", name).text for name in (".name", ".percent")]
             for item in browser.find_elements("css selector", "#bars li")]  # fmt: skip
    return [tuple(part) for part in parts]


def drawing_of(browser) -> np.ndarray:
    uri = browser.execute_script("return small.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def agrees(text: str, answer: Answer) -> bool:
    """True if the page says what the recogniser does, but for half a point of the probability."""
    name, _, rest = text.partition(", ")
    probability = float(rest.split(" %")[0]) / 100
    is_same = name.endswith(answer.label) and abs(probability - answer.probability) < 0.005
    return is_same and ("?" not in rest) == answer.is_sure


# --- opened ---


def test_it_opens_without_a_request_and_empty(opened, digits_page):
    assert requests_of(opened, digits_page) == []
    assert not bars_of(opened) and not opened.find_element("id", "answer").text
    assert not opened.find_element("id", "seen").is_displayed()
    assert "Write one character here" in opened.find_element("css selector", ".hint").text
    for name in ("undo", "clear", "save"):
        assert not opened.find_element("id", name).is_enabled()


@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_the_screen(opened, width):
    metrics = {"width": width, "height": 664, "deviceScaleFactor": 2, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        draw(opened, SEVEN)
        answer_of(opened)
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        answer = opened.find_element("id", "answer").rect
        assert answer["y"] + answer["height"] < 664  # seen without scrolling
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_names_are_text_and_nothing_else(open_page, photos, tmp_path):
    browser = open_page(export(photos, tmp_path / "photos.html"))
    assert not browser.find_elements("css selector", "b, i") and "own <i>set" in browser.title
    drop(browser, ("any.png", png(np.zeros((40, 50, 3), np.uint8))))
    answer_of(browser)
    assert {name for name, _ in bars_of(browser)} < set(NAMES) and len(bars_of(browser)) == 5


# --- drawn on ---


@pytest.mark.parametrize("strokes", [ONE, SEVEN, ZERO], ids=["1", "7", "0"])
@pytest.mark.parametrize("kind", ["mouse", *(pytest.param(each, marks=pytest.mark.slow) for each in ("touch", "pen"))])
def test_a_drawing_is_read_as_predict_py_reads_it(opened, digits, strokes, kind):
    draw(opened, strokes, kind)
    text = answer_of(opened)
    expected = digits.read(drawing_of(opened), top=5)
    assert agrees(text, expected)
    assert [name for name, _ in bars_of(opened)] == [each.label for each in expected.top]


def test_the_picture_that_the_network_sees_is_shown(opened, digits):
    draw(opened, SEVEN)
    answer_of(opened)
    pixels = opened.execute_script(
        "const {width, height} = pixels; return [...pixels.getContext('2d').getImageData(0, 0, width, height).data]"
    )
    seen = np.reshape(pixels, (28, 28, 4))
    assert np.abs(seen[..., :3] - digits.read(drawing_of(opened)).seen[..., None].astype(int)).max() <= 1
    assert (seen[..., 3] == 255).all()


def test_no_answer_is_given_while_the_pen_is_down(opened):
    draw(opened, ONE)
    answer_of(opened)
    draw(opened, ZERO, lift=False)
    time.sleep(1)  # longer than the pen has to rest
    assert len(bars_of(opened)) == 5 and not opened.find_element("id", "answer").text
    assert "unsettled" in opened.find_element("id", "answers").get_attribute("class")
    opened.execute_script("sheet.dispatchEvent(new PointerEvent('pointercancel', {pointerId: pointer}))")
    answer_of(opened)
    assert "unsettled" not in opened.find_element("id", "answers").get_attribute("class")


def test_a_dot_is_ink(opened):
    draw(opened, [[(50, 50)]])
    answer_of(opened)
    assert 150 < (drawing_of(opened)[..., 0] < 128).sum() < 210  # a disc of 15 pixels


def test_undo_brings_back_what_a_picture_or_clear_took_away(opened):
    draw(opened, SEVEN)
    before = drawing_of(opened)
    opened.find_element("id", "clear").click()
    opened.find_element("id", "undo").click()
    assert np.array_equal(drawing_of(opened), before)
    drop(opened, ("any.png", png(np.zeros((40, 50, 3), np.uint8))))
    wait_until(lambda: not np.array_equal(drawing_of(opened), before))
    opened.find_element("id", "undo").click()
    assert np.array_equal(drawing_of(opened), before)


def test_a_second_finger_draws_nothing(opened):
    draw(opened, ONE, lift=False)
    before = drawing_of(opened)
    opened.execute_script("""
        const {left, top} = sheet.getBoundingClientRect();
        for (const [type, at] of [["pointerdown", 20], ["pointermove", 90]]) {
            sheet.dispatchEvent(new PointerEvent(type, {pointerId: 77, clientX: left + at, clientY: top + at}));
        }""")
    assert np.array_equal(drawing_of(opened), before)
    opened.execute_script("sheet.dispatchEvent(new PointerEvent('pointercancel', {pointerId: pointer}))")


def test_undo_and_clear_as_buttons_and_keys(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    body = opened.find_element("tag name", "body")
    draw(opened, SEVEN[:1])
    one = drawing_of(opened)
    for undo in (
        lambda: opened.find_element("id", "undo").click(),
        lambda: body.send_keys("u"),
        lambda: ActionChains(opened).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform(),
    ):
        draw(opened, SEVEN[1:])
        assert not np.array_equal(drawing_of(opened), one)
        undo()
        assert np.array_equal(drawing_of(opened), one)
    for clear in (lambda: opened.find_element("id", "clear").click(), lambda: body.send_keys("c")):
        draw(opened, ONE)
        answer_of(opened)
        clear()
        assert (drawing_of(opened) == 255).all()
        assert not bars_of(opened) and not opened.find_element("id", "answer").text


def test_a_drawing_is_saved(opened, digits):
    draw(opened, ZERO)
    text = answer_of(opened)
    body = opened.find_element("tag name", "body")
    path = downloaded(opened, "drawing.png", lambda: body.send_keys("s"))
    assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), drawing_of(opened))
    assert agrees(text, digits.read(path))


def test_the_answer_is_told_to_screen_readers(opened):
    answer = opened.find_element("id", "answer")
    assert answer.get_attribute("aria-live") == "polite"
    draw(opened, ZERO)
    text = answer_of(opened)
    assert text.startswith(bars_of(opened)[0][0]) and bars_of(opened)[0][1] in text
    for each in opened.find_elements("css selector", "canvas"):
        assert each.get_attribute("role") == "img" and each.get_attribute("aria-label")


def test_a_scribble_is_unsure(opened, digits):
    generator = np.random.default_rng(1)
    draw(opened, [[tuple(point) for point in generator.integers(5, 95, (25, 2)).tolist()]])
    text = answer_of(opened)
    assert not digits.read(drawing_of(opened)).is_sure
    assert "? (" in text


# --- given pictures ---


def test_dropped_test_images_are_read_as_predict_py_reads_them(opened, digits):
    images = load_images("digits", "", train=False).images[:50, 0].numpy()
    right = 0
    for number, image in enumerate(images):
        opened.execute_script("clear()")
        drop(opened, (f"{number}.png", png(image)))
        text = answer_of(opened)
        right += agrees(text, digits.read(image))
    assert right >= 49


@pytest.mark.parametrize("name", ["rgb.jpg", "transparent.png", "turned.jpg", "large.png"])
def test_a_picture_is_read_as_predict_py_reads_it(opened, digits, tmp_path, name):
    image = load_images("digits", "", train=False).images[3, 0].numpy()
    sheet = Image.new("L", (60, 80), 230)
    sheet.paste(Image.fromarray(255 - image).point(lambda value: value * 0.8), (10, 30))
    sheet, path = sheet.resize((300, 400), Image.Resampling.BICUBIC), tmp_path / name
    if name == "rgb.jpg":
        sheet.convert("RGB").save(path, quality=80)
    elif name == "transparent.png":
        Image.merge("LA", [Image.new("L", sheet.size, 0), sheet.point(lambda value: 230 - value)]).save(path)
    elif name == "turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        sheet.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    else:
        sheet.resize((1500, 2000), Image.Resampling.BICUBIC).save(path)
    opened.find_element("id", "file").send_keys(str(path))
    assert agrees(answer_of(opened), digits.read(path))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [2, 49])
@pytest.mark.parametrize("arch", ["lenet", "lenet-slim", "vgg-small"])
def test_every_network_reads_pictures(open_page, tmp_path, arch, classes, channels):
    placement = {} if channels == 3 else made_up.make_checkpoint("digits").placement
    recogniser = recogniser_of(arch, channels, classes, size=32 if channels == 3 else 28, placement=placement)
    browser = open_page(export(recogniser, tmp_path / "page.html"))
    image = load_images("digits", "", train=False).images[5, 0].numpy()
    pixels = np.stack([image, image // 2, 255 - image], axis=-1) if channels == 3 else image
    drop(browser, ("picture.png", png(pixels)))
    assert agrees(answer_of(browser), recogniser.read(pixels)) and len(bars_of(browser)) == min(classes, 5)


def test_a_file_that_is_no_picture_is_named(opened):
    draw(opened, ONE)
    answer_of(opened)
    drop(opened, ("notes.txt", b"no picture"))
    message = "notes.txt: no picture that this browser can read; try PNG or JPEG"
    wait_until(lambda: opened.find_element("id", "message").text == message)
    assert len(bars_of(opened)) == 5  # the drawing stays


def test_one_of_several_pictures_is_read_and_that_is_said(opened):
    drop(opened, *[("first.png", png(load_images("digits", "", train=False).images[0, 0].numpy()))] * 2)
    wait_until(lambda: opened.find_element("id", "message").text == "only first.png is read: one picture at a time")
    answer_of(opened)


def test_what_is_no_file_is_said_to_be_none(opened):
    opened.execute_script(
        "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: new DataTransfer(), bubbles: true}))"
    )
    message = "that is no file; open or drop a picture"
    wait_until(lambda: opened.find_element("id", "message").text == message)


def test_a_picture_is_pasted(opened, digits):
    image = load_images("digits", "", train=False).images[1, 0].numpy()
    opened.execute_script(
        """const bytes = Uint8Array.from(atob(arguments[0]), (byte) => byte.charCodeAt(0));
        const clipboardData = new DataTransfer();
        clipboardData.items.add(new File([bytes], "image.png"));
        window.dispatchEvent(new ClipboardEvent("paste", {clipboardData}));""",
        base64.b64encode(png(image)).decode(),
    )
    assert agrees(answer_of(opened), digits.read(image))


def test_a_picture_of_many_specks_is_read(opened):
    pixels = np.full((1024, 1024), 255, np.uint8)
    pixels[::2, ::2] = 0
    drop(opened, ("halftone.png", png(pixels)))
    answer_of(opened)
    assert not opened.find_element("id", "message").text


def test_without_javascript_it_says_what_to_do(browser, digits_page):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(digits_page.as_uri())
        assert "save the file, and open it in a browser" in browser.find_element("tag name", "body").text
        assert not browser.find_element("id", "choose").is_enabled()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_blank_picture_shows_no_ink(opened):
    drop(opened, ("blank.png", png(np.full((50, 60, 3), 200, np.uint8))))
    assert answer_of(opened).startswith("no ink found; ") and not bars_of(opened)


def test_a_stroke_after_a_picture_begins_a_new_sheet(opened, digits):
    drop(opened, ("0.png", png(load_images("digits", "", train=False).images[0, 0].numpy())))
    answer_of(opened)
    draw(opened, SEVEN)
    assert agrees(answer_of(opened), digits.read(drawing_of(opened)))
    assert drawing_of(opened).shape[0] == 280


# --- collected ---


@pytest.fixture
def collecting(opened):
    """The browser with the digits' page, which asks for characters."""
    opened.find_element("id", "collect").click()
    return opened


@pytest.fixture(scope="module")
def hiragana_page(tmp_path_factory) -> Path:
    placement = made_up.make_checkpoint("digits").placement
    recogniser = recogniser_of("lenet-slim", 1, 2, placement=placement, glyphs=["お", "き"], dataset="signs")
    recogniser = Recogniser(replace(recogniser.saved, classes=["long o", "ki"]), recogniser.device)
    return export(recogniser, tmp_path_factory.mktemp("page") / "hiragana.html")


def ask_for(browser, characters: str, rounds: int = 1, writer: str = "") -> None:
    """Fill in what is asked for."""
    from selenium.webdriver.common.keys import Keys

    for name, text in (("characters", characters), ("rounds", str(rounds)), ("writer", writer)):
        field = browser.find_element("id", name)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text or Keys.DELETE, Keys.TAB)


def press(browser, *ids: str) -> None:
    for each in ids:
        browser.find_element("id", each).click()


def prompt_of(browser) -> str:
    return " ".join(browser.find_element("id", "prompt").text.split())


def are_enabled(browser, *ids: str) -> list[bool]:
    return [browser.find_element("id", each).is_enabled() for each in ids]


def saved_zip(browser, name: str = "drawings.zip") -> Path:
    """The zip that the page saves."""
    return downloaded(browser, name, browser.find_element("id", "zip").click)


def pictures_in(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: np.asarray(Image.open(archive.open(name)).convert("RGB")) for name in archive.namelist()}


def asks_before_leaving(browser) -> bool:
    return browser.execute_script(
        """const event = new Event("beforeunload", {cancelable: true});
        window.dispatchEvent(event);
        return event.defaultPrevented;"""
    )


def test_drawings_are_saved_as_a_zip_to_train_on(collecting):
    ask_for(collecting, "7 a A / CON", rounds=2, writer="Mia: 2")
    labels, drawn = ["7", "a", "A-1", "_", "_CON"], {}
    for number in range(10):
        label, glyph = labels[number % 5], "7aA/"[number % 5] if number % 5 < 4 else "CON"
        words = f"Write {glyph} {number + 1} of 10"
        assert prompt_of(collecting) == (words if label == glyph else f"{words} saved in the folder {label}")
        draw(collecting, [ONE, SEVEN, ZERO][number % 3])
        drawn[f"{label}/Mia_ 2-{number // 5 + 1}.png"] = drawing_of(collecting)
        assert collecting.find_element("id", "number").text == f"({number + 1} drawing{'s' * (number > 0)})"
        press(collecting, "next")
    assert prompt_of(collecting) == "That was the last one. Save the drawings."
    assert are_enabled(collecting, "next", "skip", "back", "zip") == [False, False, True, True]
    found = pictures_in(path := saved_zip(collecting, "drawings-Mia_ 2.zip"))
    assert found.keys() == drawn.keys() and all(np.array_equal(found[name], drawn[name]) for name in drawn)
    assert found["7/Mia_ 2-1.png"].shape == (280, 280, 3)
    collection = custom.load(str(path), custom.Request(writing=True), use_cache=False)
    assert sorted(collection.classes) == sorted(labels) and len(collection.images) == 10
    for name, label in zip(collection.names, collection.labels, strict=True):
        assert name.split("/")[-2] == collection.classes[label]
    assert (collection.images.reshape(10, -1).max(axis=1) > 200).all()  # there is ink in each


def test_classes_of_the_network_are_asked_for_in_rounds(open_page, hiragana_page):
    browser = open_page(hiragana_page)
    press(browser, "collect")
    assert browser.find_element("id", "characters").get_attribute("value") == "お き"
    prompts = []
    for _ in range(3):
        prompts.append(prompt_of(browser))
        draw(browser, SEVEN)
        press(browser, "next")
    assert prompts == ["Write お long o 1 of 20", "Write き ki 2 of 20", "Write お long o 3 of 20"]
    assert set(pictures_in(saved_zip(browser))) == {"long o/1.png", "long o/2.png", "ki/1.png"}
    # by name or character, with a comma or not, once; a no-break space belongs to a name
    ask_for(browser, "x, ki お,\nき long\u00a0o x ,")
    for prompt in ("Write x 1 of 4", "Write き ki 2 of 4", "Write お long o 3 of 4"):
        assert prompt_of(browser) == prompt
        press(browser, "next" if "x" not in prompt else "skip")
    ask_for(browser, " ")
    assert browser.find_element("id", "characters").get_attribute("value") == "お き"


def test_a_drawing_that_is_gone_back_to_can_be_written_again(collecting):
    ask_for(collecting, "1 7 0")
    assert are_enabled(collecting, "back", "skip", "next", "zip") == [False, True, False, False]  # an empty sheet
    draw(collecting, ONE)
    one = drawing_of(collecting)
    assert are_enabled(collecting, "back", "skip", "next", "zip") == [False, False, True, True]
    press(collecting, "next")
    draw(collecting, ZERO)
    press(collecting, "undo")
    draw(collecting, SEVEN)
    press(collecting, "back")
    assert np.array_equal(drawing_of(collecting), one)
    press(collecting, "clear")
    draw(collecting, ZERO)
    zero = drawing_of(collecting)
    press(collecting, "next")
    assert prompt_of(collecting) == "Write 7 2 of 3"
    seven = drawing_of(collecting)
    assert not np.array_equal(seven, zero)
    press(collecting, "next", "skip")
    found = pictures_in(saved_zip(collecting))
    assert found.keys() == {"1/1.png", "7/1.png"}
    assert np.array_equal(found["1/1.png"], zero) and np.array_equal(found["7/1.png"], seven)
    press(collecting, "back", "back", "clear", "skip")  # a drawing that was kept is taken back
    draw(collecting, ONE)  # the one that was skipped
    assert pictures_in(saved_zip(collecting)).keys() == {"1/1.png", "0/1.png"}


def test_drawings_that_are_not_saved_are_not_left_unasked(collecting):
    assert not asks_before_leaving(collecting)
    ask_for(collecting, "1 7")
    draw(collecting, ONE)
    assert asks_before_leaving(collecting)
    press(collecting, "next")
    saved_zip(collecting)
    assert not asks_before_leaving(collecting)
    press(collecting, "read")
    draw(collecting, SEVEN)
    assert not asks_before_leaving(collecting)  # what is only read is not collected
    press(collecting, "collect")
    draw(collecting, SEVEN)
    press(collecting, "read")
    assert asks_before_leaving(collecting)
    press(collecting, "collect")
    assert pictures_in(saved_zip(collecting)).keys() == {"1/1.png", "7/1.png"}  # those saved before, too
    press(collecting, "clear")
    assert asks_before_leaving(collecting)


def test_another_writer_starts_with_no_drawing(collecting):
    ask_for(collecting, "1 7", writer="mia")
    draw(collecting, ONE)
    press(collecting, "next", "restart")
    alert = collecting.switch_to.alert
    assert alert.text == "The drawings are not saved. Delete them?"
    alert.dismiss()
    assert collecting.find_element("id", "number").text == "(1 drawing)"
    press(collecting, "restart")
    collecting.switch_to.alert.accept()
    assert prompt_of(collecting) == "Write 1 1 of 2" and (drawing_of(collecting) == 255).all()
    assert collecting.find_element("id", "writer").get_attribute("value") == ""
    assert are_enabled(collecting, "zip", "restart") == [False, False] and not asks_before_leaving(collecting)


def test_other_characters_and_fewer_rounds_lose_no_drawing(collecting):
    ask_for(collecting, "1 7", rounds=2)
    for _ in range(4):
        draw(collecting, SEVEN)
        press(collecting, "next")
    ask_for(collecting, "7 0")
    assert prompt_of(collecting) == "Write 0 2 of 2"  # the first one that is missing
    draw(collecting, ZERO)
    expected = {"1/1.png", "1/2.png", "7/1.png", "7/2.png", "0/1.png"}
    assert pictures_in(saved_zip(collecting)).keys() == expected


def test_keys_collect(collecting):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    ask_for(collecting, "n b s k u c", writer="nbskuc")  # typed, not pressed
    assert collecting.find_element("id", "writer").get_attribute("value") == "nbskuc"
    body = collecting.find_element("tag name", "body")
    body.send_keys("n", Keys.ENTER, "b")  # nothing is written yet
    assert prompt_of(collecting) == "Write n 1 of 6"
    draw(collecting, ONE)
    for keys, number in ((Keys.ENTER, 2), ("b", 1), ("n", 2), ("k", 3)):
        body.send_keys(keys)
        assert prompt_of(collecting).endswith(f"{number} of 6")
    draw(collecting, SEVEN)
    collecting.find_element("id", "undo").send_keys(Keys.ENTER)  # presses that button and nothing else
    assert prompt_of(collecting) == "Write s 3 of 6" and not (drawing_of(collecting) == 255).all()
    draw(collecting, SEVEN)  # takes the focus from the button
    ActionChains(collecting).send_keys(Keys.ENTER).perform()
    assert prompt_of(collecting) == "Write k 4 of 6"
    path = downloaded(collecting, "drawings-nbskuc.zip", lambda: body.send_keys("s"))
    assert pictures_in(path).keys() == {"n/nbskuc-1.png", "s/nbskuc-1.png"}
    press(collecting, "read")
    body.send_keys("k", "k", Keys.ENTER)  # buttons that are not there
    press(collecting, "collect")
    assert prompt_of(collecting) == "Write k 4 of 6"


def test_each_mode_has_its_sheet_and_only_one_is_read(opened):
    draw(opened, SEVEN)
    text, seven = answer_of(opened), drawing_of(opened)
    opened.execute_script("globalThis.reads = 0; const old = answerTo; answerTo = (...all) => (reads++, old(...all));")
    press(opened, "collect")
    assert (drawing_of(opened) == 255).all() and not opened.find_element("id", "answers").is_displayed()
    draw(opened, ONE)
    one = drawing_of(opened)
    time.sleep(1)  # longer than the pen has to rest
    assert opened.execute_script("return reads") == 0
    drop(opened, ("any.png", png(np.zeros((40, 50, 3), np.uint8))))
    message = "pictures are not collected; choose Read to have one read"
    wait_until(lambda: opened.find_element("id", "message").text == message)
    press(opened, "read")
    assert answer_of(opened) == text and np.array_equal(drawing_of(opened), seven)
    press(opened, "collect")
    assert np.array_equal(drawing_of(opened), one)
    press(opened, "clear", "undo")
    assert np.array_equal(drawing_of(opened), one)
    press(opened, "undo")
    assert (drawing_of(opened) == 255).all()


@pytest.mark.parametrize("width", [320, 1200])
def test_collecting_fits_the_screen_and_is_told_to_screen_readers(opened, width):
    metrics = {"width": width, "height": 664, "deviceScaleFactor": 2, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        press(opened, "collect")
        ask_for(opened, "x" * 300, writer="y" * 40)
        opened.execute_script("scrollTo(0, 0)")
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        ask_for(opened, "7 0")
        draw(opened, SEVEN)
        opened.execute_script("scrollTo(0, 0)")
        for name in ("prompt", "sheet", "next"):
            place = opened.find_element("id", name).rect
            assert place["y"] + place["height"] < 664  # seen without scrolling
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert opened.find_element("id", "prompt").get_attribute("role") == "status"
    assert [opened.find_element("id", each).get_attribute("aria-pressed") for each in ("read", "collect")] == [
        "false", "true"
    ]  # fmt: skip


def test_collecting_asks_for_nothing_from_elsewhere(collecting, digits_page):
    draw(collecting, ONE)
    saved_zip(collecting)
    assert [url for url in requests_of(collecting, digits_page) if not url.startswith("blob:")] == []


# --- photos ---


@pytest.fixture(scope="module")
def photos_page(photos, tmp_path_factory) -> Path:
    return export(photos, tmp_path_factory.mktemp("page") / "photos.html")


@pytest.fixture
def opened_photos(open_page, photos_page):
    """The browser with the page for photos."""
    return open_page(photos_page)


def made_up_photos(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (20 + 35 * number, 45, 3), dtype=np.uint8) for number in range(count)]


def shown_of(browser) -> list[list[str]]:
    """File name and answer of each photo of the list, once all are there."""
    wait_until(lambda: not browser.execute_script("return isLooking"))
    return browser.execute_script(
        "return [...list.children].map((item) => [...item.querySelectorAll('span')].map((part) => part.textContent))"
    )


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("Network.prototype.answer = () => { throw new Error('this is the page'); }", id="worker"),
        pytest.param("worker.dispatchEvent(new Event('error'))", id="no worker"),
        pytest.param("worker = {postMessage() { this.onerror(); }}", id="a worker that fails"),
    ],
)
def test_photos_are_read_as_predict_py_reads_them(opened_photos, photos, script):
    opened_photos.execute_script(script)
    for number, pixels in enumerate(made_up_photos(3)):
        opened_photos.execute_script("clear()")
        drop(opened_photos, (f"{number}.png", png(pixels)))
        wait_until(lambda: bars_of(opened_photos))
        assert agrees(answer_of(opened_photos), photos.read(pixels))


def test_a_page_for_photos_opens_without_a_request(opened_photos, photos_page):
    drop(opened_photos, ("photo.png", png(made_up_photos(1)[0])))
    wait_until(lambda: bars_of(opened_photos))
    assert [url for url in requests_of(opened_photos, photos_page) if not url.startswith("blob:")] == []
    assert not opened_photos.find_element("id", "photos").is_displayed()  # one photo is no list


def test_several_photos_become_a_list(opened_photos, photos):
    given = {f"<b>&{number}.png": pixels for number, pixels in enumerate(made_up_photos(3))}
    drop(opened_photos, *((name, png(pixels)) for name, pixels in given.items()), ("notes.txt", b"no picture"))
    *read, unread = shown_of(opened_photos)
    assert [name for name, _ in read] == list(given)
    assert all(agrees(text, photos.read(pixels)) for (_, text), pixels in zip(read, given.values(), strict=True))
    assert unread == ["notes.txt", "no picture that this browser can read; try PNG or JPEG"]
    status = opened_photos.find_element("id", "status")
    assert status.text == "3 of 4 photos read" and status.get_attribute("role") == "status"
    assert not opened_photos.find_elements("css selector", "b")
    opened_photos.find_elements("css selector", "#list button")[3].click()
    assert opened_photos.find_element("id", "message").text == ": ".join(unread)
    assert not bars_of(opened_photos)


def test_a_photo_of_the_list_is_seen_large_by_mouse_and_keyboard(opened_photos):
    from selenium.webdriver.common.keys import Keys

    drop(opened_photos, *((f"{number}.png", png(pixels)) for number, pixels in enumerate(made_up_photos(4))))
    texts = [text for _, text in shown_of(opened_photos)]
    buttons = opened_photos.find_elements("css selector", "#list button")
    chosen = (lambda: None, buttons[1].click, *(lambda at=at, key=key: buttons[at].send_keys(key)
              for at, key in ((2, Keys.ENTER), (3, Keys.SPACE))))  # fmt: skip
    sheets = set()
    for number, choose in enumerate(chosen):
        choose()
        assert answer_of(opened_photos) == texts[number]
        assert bars_of(opened_photos)[0][0] in texts[number]
        assert [each.get_attribute("aria-current") for each in buttons].index("true") == number
        shape = opened_photos.execute_script(
            "await new Promise((resolve) => setTimeout(resolve, 200)); return sheet.toDataURL()"
        )
        sheets.add(shape)
    assert len(sheets) == 4
    opened_photos.find_element("id", "clear").click()
    assert not opened_photos.find_elements("css selector", "#list li") and not bars_of(opened_photos)
    assert not opened_photos.find_element("id", "answer").text


def test_later_photos_join_the_list(opened_photos):
    for number, pixels in enumerate(made_up_photos(3)):
        drop(opened_photos, (f"{number}.png", png(pixels)))
    assert [name for name, _ in shown_of(opened_photos)] == ["0.png", "1.png", "2.png"]
    assert opened_photos.find_element("id", "status").text == "3 of 3 photos read"
    assert answer_of(opened_photos) == shown_of(opened_photos)[2][1]


def test_photos_that_are_cleared_while_they_are_looked_at_stay_away(opened_photos):
    drop(opened_photos, *((f"{number}.png", png(pixels)) for number, pixels in enumerate(made_up_photos(4))))
    opened_photos.find_element("id", "clear").click()
    assert shown_of(opened_photos) == [] and not bars_of(opened_photos)
    assert not opened_photos.find_element("id", "answer").text and not opened_photos.find_element("id", "status").text


def test_it_shows_that_it_is_working(opened_photos):
    opened_photos.execute_script("worker = {postMessage() {}}")  # one that never answers
    drop(opened_photos, *((f"{number}.png", png(pixels)) for number, pixels in enumerate(made_up_photos(2))))
    assert opened_photos.find_element("id", "answer").text == "looking …"
    assert opened_photos.find_element("id", "status").text == "looking at 2 photos"
    assert opened_photos.find_element("id", "done").is_displayed()
    animation = "return getComputedStyle(answers.querySelector('#answer'), '::before').animationName"
    assert opened_photos.execute_script(animation) == "turn"
    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    opened_photos.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        assert opened_photos.execute_script(animation) == "none"
    finally:
        opened_photos.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_list_fits_a_phone(opened_photos):
    metrics = {"width": 390, "height": 664, "deviceScaleFactor": 1, "mobile": True}
    opened_photos.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        drop(opened_photos, ("long" * 40 + ".png", png(made_up_photos(1)[0])), ("x" * 200, b"no picture"))
        assert len(shown_of(opened_photos)) == 2
        assert opened_photos.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        opened_photos.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_photo_that_is_seen_is_looked_at_next(opened_photos):
    given = made_up_photos(3)
    opened_photos.execute_script(
        "globalThis.asked = []; worker = {postMessage: (picture) => asked.push(picture.height)}"
    )
    drop(opened_photos, *((f"{number}.png", png(pixels)) for number, pixels in enumerate(given)))
    asked = "return asked"
    wait_until(lambda: opened_photos.execute_script(asked) == [len(given[0])])
    opened_photos.find_elements("css selector", "#list button")[2].click()
    opened_photos.execute_script("worker.onmessage({data: {problem: 'never mind'}})")
    wait_until(lambda: opened_photos.execute_script(asked) == [len(given[0]), len(given[2])])


def test_a_phone_has_a_button_for_its_camera(opened_photos, tmp_path):
    take, camera = (opened_photos.find_element("id", name) for name in ("take", "camera"))
    assert not take.is_displayed()  # with a mouse
    assert (camera.get_attribute("accept"), camera.get_attribute("capture")) == ("image/*", "environment")
    (tmp_path / "taken.png").write_bytes(png(made_up_photos(1)[0]))
    opened_photos.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        wait_until(take.is_displayed)
        opened_photos.execute_script("camera.onclick = () => { document.title = 'taking'; return false; }")
        take.click()
        assert opened_photos.title == "taking"
    finally:
        opened_photos.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    camera.send_keys(str(tmp_path / "taken.png"))
    wait_until(lambda: bars_of(opened_photos))


def test_a_drawn_page_has_no_camera_and_no_list(opened):
    assert not opened.find_elements("css selector", "#take, #camera, #photos")
    assert opened.execute_script("return typeof worker") == "undefined"
