"""The report in a headless browser, at the widths of a desktop and a phone, in light and in dark mode."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from core.report import behavior_figures, weight_figures
from core.report.page import write_page
from tests.core.report.synthetic import write_run
from tests.scripts.browser import find, install, look, started

LOOKS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
CONTRAST = Path(__file__).with_name("contrast.js")


@pytest.fixture(scope="module", autouse=True)
def quick_figures() -> Iterator[None]:
    """Draw figures of the usual sizes, without PNG files, t-SNE and the search for free places of labels."""
    save = Figure.savefig

    def save_svg(figure: Figure, file: Path, *, format: str, **options: Any) -> None:
        save(figure, file, format=format, **options) if format == "svg" else file.write_bytes(b"")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Figure, "savefig", save_svg)
        monkeypatch.setattr(behavior_figures, "label_points", lambda *_: None)
        monkeypatch.setattr(weight_figures, "map_neighbors", lambda components_PC, seed: components_PC[:, :2])
        yield


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a run with a long name, published numbers and a damaged file, so that every part is there."""
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
    assert len(images) == 15 and all(natural > 0 and 250 < shown <= width and alt for natural, shown, alt in images)
    backgrounds = chrome.execute_script(
        "return [...document.images].map(image => getComputedStyle(image).backgroundColor)"
    )
    assert set(backgrounds) == {"rgb(255, 255, 255)"}, "figures need a white background"


@pytest.mark.parametrize("width, scheme", LOOKS)
def test_text_has_enough_contrast(chrome, page, width, scheme):
    look(chrome, page, width, scheme)
    chrome.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width, (
        "the opened details are wider than the window"
    )
    worst = chrome.execute_script(CONTRAST.read_text())
    assert len(worst) > 100
    assert not [entry for entry in worst if entry["ratio"] < 4.5]
    luminance = chrome.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, luminance.strip("rgb()").split(","))) < 60) == (scheme == "dark")


def column(chrome: Chrome, number: int) -> list[str]:
    """Return the texts of one column of the table of sources, from the top."""
    return [
        row.find_elements(By.CSS_SELECTOR, "th, td")[number].text
        for row in chrome.find_elements(By.CSS_SELECTOR, "#sources tbody tr")
    ]


def header(chrome: Chrome, label: str):
    """Return the number of a column, its header, and the button in the header."""
    heads = chrome.find_elements(By.CSS_SELECTOR, "#sources thead th")
    number = [head.text.strip("↑↓ ") for head in heads].index(label)
    return number, heads[number], heads[number].find_element(By.TAG_NAME, "button")


def test_a_click_sorts_by_number_and_a_second_click_reverses_the_order(chrome, page):
    look(chrome, page, 1280, "light")
    rows = json.loads((page.parents[1] / "metrics.json").read_text())["table"]
    by_mean = [row["source"] for row in sorted(rows, key=lambda row: -row["accuracy_mean"])]
    _, head, button = header(chrome, "mean %")
    button.click()
    assert column(chrome, 0) == by_mean and head.get_attribute("aria-sort") == "descending"
    button.click()
    assert column(chrome, 0) == by_mean[::-1] and head.get_attribute("aria-sort") == "ascending"


def test_missing_values_come_last_in_both_orders(chrome, page):
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


def test_wide_tables_scroll_in_their_own_box_and_keep_the_names_of_rows_visible(chrome, page):
    look(chrome, page, 390, "light")
    scrolled, left = chrome.execute_script(
        """const box = document.querySelector("#sources .scroll");
           const left = element => element.getBoundingClientRect().left;
           box.scrollLeft = 300;
           return [box.scrollLeft, left(box.querySelector("tbody th")) - left(box)]"""
    )
    assert scrolled == 300 and 0 <= left < 3


def bottom(chrome: Chrome, selector: str) -> float:
    """Return where the first element that matches ends, in CSS pixels from the top of the page."""
    rect = chrome.find_element(By.CSS_SELECTOR, selector).rect
    return rect["y"] + rect["height"]


@pytest.fixture(scope="module")
def whole_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a run without problems, whose first screen is not pushed down by a list of them."""
    return write_page(write_run(tmp_path_factory.mktemp("whole") / "run"))


def test_the_first_screen_of_a_desktop_holds_the_answer_its_numbers_and_a_figure(chrome, whole_page):
    look(chrome, whole_page, 1280, "light")
    for selector in (".overview", "nav", "#verdict .headline", "#verdict .keys", "#verdict img"):
        assert bottom(chrome, selector) < 900, selector


def test_the_first_screen_of_a_phone_holds_the_answer(chrome, whole_page):
    look(chrome, whole_page, 390, "dark")
    for selector in (".overview", "nav", "#verdict .headline"):
        assert bottom(chrome, selector) < 844, selector


def test_explanations_of_tables_are_visible_without_a_click(chrome, page):
    look(chrome, page, 390, "light")
    hidden = [term.text for term in chrome.find_elements(By.CSS_SELECTOR, ".terms dd") if not term.is_displayed()]
    assert not hidden and len(chrome.find_elements(By.CSS_SELECTOR, ".terms dd")) > 40
