"""The report in a real headless browser: at a desk's and a phone's width, in light and in dark."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from core.report.page import write_page
from tests.core.report.synthetic import write_run
from tests.scripts.browser import find, install, look, started

LOOKS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
CONTRAST = Path(__file__).with_name("contrast.js")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything, a long name, published numbers and a missing file, so that the page has all its parts."""
    settings = {"task.data.dataset": "cifar100", "output_dir": "outputs/" + "a_very_long_name_without_any_space_" * 4}
    folder = write_run(tmp_path_factory.mktemp("browser") / "run", settings=settings)
    (folder / "scores" / "finetuned.npz").write_bytes(b"damaged")
    return write_page(folder)


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    if not find() and (reason := install()):
        pytest.skip(reason)
    with started(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize("width, scheme", LOOKS)
def test_nothing_is_wider_than_the_window_and_nothing_fails(chrome, page, width, scheme):
    look(chrome, page, width, scheme)
    assert chrome.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    assert chrome.execute_script("return document.documentElement.clientWidth") == width
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
    cut = chrome.execute_script(
        """const isCut = element => element.getBoundingClientRect().right > innerWidth + 0.5;
           return [...document.querySelectorAll("body *")]
               .filter(element => !element.closest(".scroll") && isCut(element))
               .map(element => element.outerHTML.slice(0, 80))"""
    )
    assert not cut
    assert not [entry for entry in chrome.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@pytest.mark.parametrize("width, scheme", LOOKS)
def test_every_figure_is_loaded_and_fits_its_card(chrome, page, width, scheme):
    look(chrome, page, width, scheme)
    images = chrome.execute_script(
        "return [...document.images].map(image => [image.naturalWidth, image.clientWidth, image.alt])"
    )
    assert len(images) == 12 and all(natural > 0 and 250 < shown <= width and alt for natural, shown, alt in images)
    backgrounds = chrome.execute_script(
        "return [...document.images].map(image => getComputedStyle(image).backgroundColor)"
    )
    assert set(backgrounds) == {"rgb(255, 255, 255)"}, "figures are drawn for a light card"


@pytest.mark.parametrize("width, scheme", LOOKS)
def test_text_can_be_told_from_what_is_behind_it(chrome, page, width, scheme):
    look(chrome, page, width, scheme)
    chrome.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width, (
        "opened details are wider than the window"
    )
    worst = chrome.execute_script(CONTRAST.read_text())
    assert len(worst) > 100
    assert not [entry for entry in worst if entry["ratio"] < 4.5]
    luminance = chrome.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, luminance.strip("rgb()").split(","))) < 60) == (scheme == "dark")


def column(chrome: Chrome, number: int) -> list[str]:
    """Texts of one column of the table over sources, from the top."""
    return [
        row.find_elements(By.CSS_SELECTOR, "th, td")[number].text
        for row in chrome.find_elements(By.CSS_SELECTOR, "#sources tbody tr")
    ]


def header(chrome: Chrome, label: str):
    """(number of the column, its header, the button in it)."""
    heads = chrome.find_elements(By.CSS_SELECTOR, "#sources thead th")
    number = [head.text.strip("↑↓ ") for head in heads].index(label)
    return number, heads[number], heads[number].find_element(By.TAG_NAME, "button")


def test_a_click_sorts_by_number_and_a_second_turns_the_order(chrome, page):
    look(chrome, page, 1280, "light")
    rows = json.loads((page.parents[1] / "metrics.json").read_text())["table"]
    by_mean = [row["source"] for row in sorted(rows, key=lambda row: -row["accuracy_mean"])]
    _, head, button = header(chrome, "mean %")
    button.click()
    assert column(chrome, 0) == by_mean and head.get_attribute("aria-sort") == "descending"
    button.click()
    assert column(chrome, 0) == by_mean[::-1] and head.get_attribute("aria-sort") == "ascending"


def test_what_is_absent_is_last_in_either_order(chrome, page):
    look(chrome, page, 1280, "light")
    number, _, button = header(chrome, "std %")
    for _ in range(2):
        button.click()
        assert column(chrome, number)[-1] == "–" and column(chrome, 0)[-1] == "ensemble"


def test_words_are_sorted_as_words_with_the_keyboard_too(chrome, page):
    look(chrome, page, 1280, "light")
    _, head, button = header(chrome, "source")
    before = column(chrome, 0)
    button.send_keys(Keys.ENTER)
    assert column(chrome, 0) == sorted(before) != before and head.get_attribute("aria-sort") == "ascending"


def test_wide_tables_scroll_inside_their_own_box_with_the_name_of_the_row_in_sight(chrome, page):
    look(chrome, page, 390, "light")
    scrolled, left = chrome.execute_script(
        """const box = document.querySelector("#sources .scroll");
           const left = element => element.getBoundingClientRect().left;
           box.scrollLeft = 300;
           return [box.scrollLeft, left(box.querySelector("tbody th")) - left(box)]"""
    )
    assert scrolled == 300 and 0 <= left < 3


def test_the_verdict_is_in_sight_without_scrolling_a_page(chrome, page):
    look(chrome, page, 1280, "light")
    first = chrome.find_element(By.CSS_SELECTOR, "#verdict li")
    assert first.rect["y"] < 900
