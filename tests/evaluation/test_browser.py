"""Tests of report.html in a real browser."""

import time
from dataclasses import replace

import page_parts
import pytest
from conftest import requests_of
from page_parts import NAMES

from neural_lib.evaluation import report
from neural_lib.evaluation.report import Report


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page's file and report.json's content."""
    folder = tmp_path_factory.mktemp("grid")
    return folder / "report.html", page_parts.write(folder, page_parts.write_grid(folder))


@pytest.fixture
def opened(open_page, written):
    """The browser with the page just opened."""
    return open_page(written[0])


def elements(browser, selector: str) -> list:
    return browser.find_elements("css selector", selector)


def until(is_so) -> None:
    """Wait, for 5 seconds at most, until a function returns True."""
    end = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def shown_images(browser) -> list[int]:
    """The numbers of the images that are shown, read from their first two pixels."""
    return browser.execute_async_script("""
        const done = arguments[0], images = [...document.querySelectorAll("#images img:not(.heat)")];
        Promise.all(images.map((image) => image.decode())).then(() => done(images.map((image) => {
            const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const [high, , , , low] = context.getImageData(0, 0, 2, 1).data;
            return 256 * high + low;
        })));
    """)


def test_it_opens_without_a_request(opened, written):
    assert requests_of(opened, written[0]) == []


def test_a_click_on_a_cell_shows_its_images_the_most_confident_first(opened, written):
    scores, matrix = page_parts.scores(), written[1]["confusion_matrix"]
    cells = elements(opened, "#matrix button")
    assert len(cells) == sum(count > 0 for row in matrix for count in row)
    for button in [*cells[:2], cells[-1]]:  # two of one row, and the last
        truth, predicted = map(int, button.get_attribute("data-cell").split(","))
        button.click()
        count = matrix[truth][predicted]
        inside = (scores.labels == truth) & (scores.predictions == predicted)
        expected = sorted(inside.nonzero().flatten().tolist(), key=lambda index: -scores.probabilities[index])
        assert len(expected) == count and shown_images(opened) == expected[: report.MAX_IMAGES]
        captions = [element.text for element in elements(opened, "#images figcaption")]
        assert captions == [
            f'{100 * scores.probabilities[index]:.1f} %\n<i>"&{index}.png' for index in expected[: report.MAX_IMAGES]
        ]
        heading, what = opened.find_element("id", "shown").text, f"{NAMES[truth]} read as {NAMES[predicted]}"
        what = f"{NAMES[truth]}, right" if truth == predicted else what
        assert heading == f"{what}: {count} of {sum(matrix[truth])}"
        assert {image.get_attribute("alt") for image in elements(opened, "#images img")} == {what}
        assert [each.get_attribute("data-cell") for each in elements(opened, "#matrix [aria-pressed=true]")] == [
            f"{truth},{predicted}"
        ]


def test_the_most_confident_mistakes_are_shown_first_and_again_after_a_reset(opened):
    before, title = shown_images(opened), opened.find_element("id", "shown").text
    scores = page_parts.scores()
    assert all(scores.labels[index] != scores.predictions[index] for index in before)
    assert len(before) == report.MISTAKES_ON_PAGE and title == "The most confident mistakes"
    assert not opened.find_element("id", "reset").is_displayed()
    elements(opened, ".confusions button")[0].click()
    assert shown_images(opened) != before
    opened.find_element("id", "reset").click()
    assert (shown_images(opened), opened.find_element("id", "shown").text) == (before, title)
    assert not elements(opened, "#matrix [aria-pressed=true]")


def test_the_most_frequent_confusions_lead_to_their_images(opened, written):
    matrix = written[1]["confusion_matrix"]
    wrong = [(n, t, p) for t, row in enumerate(matrix) for p, n in enumerate(row) if t != p and n]
    button = elements(opened, ".confusions button")[0]
    count, truth, predicted = max(wrong)
    assert button.get_attribute("data-cell") == f"{truth},{predicted}" and count > report.MAX_IMAGES
    button.click()
    assert opened.find_element("id", "shown").text.endswith(f": {count} of {sum(matrix[truth])}")


@pytest.mark.parametrize("table", ["scores", "runs", "seeds"])
def test_sorting_sorts(opened, table):
    for column in range(len(elements(opened, f"#{table} thead th"))):
        heading = elements(opened, f"#{table} thead th")[column]
        orders = []
        for _ in range(2):
            heading.find_element("tag name", "button").click()
            orders.append(heading.get_attribute("aria-sort"))
            values = opened.execute_script(
                "return [...document.getElementById(arguments[0]).tBodies[0].rows]"
                ".map((row) => row.cells[arguments[1]]?.dataset.value || null)", table, column,
            )  # fmt: skip
            numbers = [float(value) for value in values if value is not None]
            assert numbers == sorted(numbers, reverse=orders[-1] == "descending") and len(numbers) > 1
            assert None not in values[: len(numbers)]  # a failed run has no value and stays last
        assert sorted(orders) == ["ascending", "descending"]
        assert len(elements(opened, f"#{table} [aria-sort]")) == 1


def test_nothing_is_squeezed_or_printed_over_something_else(open_page, tmp_path):
    of, path = page_parts.make_report(), "/somewhere/" + "a_long_name_without_a_blank/" * 6
    training, config = {"init": path, "val_images": 15_000}, of.saved.config | {"dataset": path}
    saved = replace(of.saved, classes=["ants", "bees"], config=config, training=training)
    scores = of.scores._replace(labels=of.scores.labels % 2, predictions=of.scores.predictions % 2)
    result = Report(saved, "digits", scores, of.images)
    (tmp_path / "report.html").write_text(result.html(), encoding="utf-8")
    page = open_page(tmp_path / "report.html")
    large, *values = elements(page, ".scores .large, .scores .value")
    assert len({each.rect["y"] for each in values}) == 1 and len(values) == 3  # side by side at 1,200 pixels
    assert 0 <= large.rect["y"] + large.rect["height"] - values[0].rect["y"] - values[0].rect["height"] < 10
    caption = elements(page, "#axes")[0]
    assert caption.rect["height"] < 25 and caption.rect["width"] > 200  # one line above two columns
    assert len(elements(page, ".settings li")) > 2
    for each in [*elements(page, ".settings li"), *elements(page, "dd"), *elements(page, "body")]:
        assert page.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth", each), each.text


def test_the_keyboard_does_what_a_click_does(opened):
    button = elements(opened, "#matrix button")[3]
    opened.execute_script("arguments[0].focus()", button)
    button.send_keys("\ue007")  # Enter
    assert button.get_attribute("aria-pressed") == "true"
    heading = elements(opened, "#scores thead button")[1]
    heading.send_keys(" ")
    assert elements(opened, "#scores thead th")[1].get_attribute("aria-sort") == "descending"


def test_names_are_text_and_nothing_else(opened):
    assert not elements(opened, "b") and len(elements(opened, "script")) == 4
    assert [each.text for each in elements(opened, "#scores tbody th")] == NAMES
    assert all(each.get_attribute("alt") for each in elements(opened, "img"))
    assert all(each.get_attribute("scope") for each in elements(opened, "th"))


def test_what_decided_is_shown_beside_each_mistake_once_it_is_asked_for(opened):
    heat = elements(opened, "#images .heat")
    assert len(heat) == report.MISTAKES_ON_PAGE and not any(each.is_displayed() for each in heat)
    opened.find_element("css selector", "#decided input").send_keys(" ")
    for each in heat:
        picture, shown = each.find_element("xpath", "preceding-sibling::img").rect, each.rect
        assert shown["x"] >= picture["x"] + picture["width"] and abs(shown["y"] - picture["y"]) < 2
        assert shown["width"] == pytest.approx(picture["width"], abs=1) and each.get_attribute("alt")
    elements(opened, "#matrix button")[0].click()  # the images of a cell have no such map
    opened.find_element("id", "reset").click()
    assert all(each.is_displayed() for each in elements(opened, "#images .heat"))
    opened.find_element("css selector", "#decided input").click()
    assert not any(each.is_displayed() for each in elements(opened, "#images .heat"))


@pytest.mark.parametrize("is_allowed", [True, False])
def test_a_click_on_a_file_copies_its_path(opened, is_allowed):
    opened.execute_script("""
        window.taken = [];
        const clipboard = {writeText: async (text) => {
            if (!arguments[0]) throw new Error("not allowed");
            window.taken.push(text);
        }};
        Object.defineProperty(navigator, "clipboard", {value: clipboard, configurable: true});
        document.execCommand = (command) => window.taken.push(document.activeElement.value);
    """, is_allowed)  # fmt: skip
    elements(opened, "#matrix button")[0].click()
    status = opened.find_element("id", "copied")
    files = [elements(opened, f"{place} .file")[0] for place in ("#images", ".suspects", ".pairs")]
    for button in files:
        opened.execute_script("document.getElementById('copied').textContent = ''")
        button.send_keys("\ue007")  # Enter
        until(lambda: status.text.startswith("copied: "))
        assert status.text == f"copied: {button.text}"
        assert opened.switch_to.active_element == button and status.get_attribute("role") == "status"
    assert opened.execute_script("return window.taken") == [button.text for button in files]
    assert files[1].text == '<i>"&7.png'


@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_the_screen(opened, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
