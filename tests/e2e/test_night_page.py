"""The page of a night in a real browser."""

import pytest

from otrain_core.night.ledger import Ledger
from otrain_core.night.page import write_page
from tests.unit.night.detections import detection, store

NIGHTS = ("2024-02-28", "2024-02-29")


@pytest.fixture
def nights(tmp_path):
    """Pages of two nights, each with an object called real, one called bogus, and one fixed on the detector."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for k, night in enumerate(NIGHTS):
        items = [detection(1, "real"), detection(1, "bogus", ra=10.05, real=0, probability=0.1)]
        items += [detection(1, "hot", ra=10.1, x=5.0, real=0)]
        store(ledger, 2 * k + 1, items, night=night)
        store(ledger, 2 * k + 2, [detection(2, "hot", ra=10.2, x=5.0, real=0)], night=night)
        write_page(tmp_path / night, night, ledger, about={}, false_alarms=0.01)
    ledger.close()
    return [(tmp_path / night / "index.html") for night in NIGHTS]


def is_open(page):
    """Groups of the page that can be folded, and whether each is open."""
    return page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('details')].map(e => [e.dataset.group, e.open]))"
    )


def test_groups_stay_open_when_the_page_reloads_itself(browser, nights, tmp_path):
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(nights[0].as_uri())
    assert is_open(page) == {"Called bogus": False, "Fixed on the detector": False}
    page.click("summary:has-text('Called bogus')")
    page.wait_for_function("Object.values(sessionStorage).includes('open')")
    page.reload()
    assert is_open(page) == {"Called bogus": True, "Fixed on the detector": False}
    page.goto(nights[1].as_uri())
    assert is_open(page) == {"Called bogus": False, "Fixed on the detector": False}
    page.goto(nights[0].as_uri())
    page.click("summary:has-text('Called bogus')")
    page.wait_for_function("!Object.values(sessionStorage).includes('open')")
    page.reload()
    assert is_open(page) == {"Called bogus": False, "Fixed on the detector": False} and errors == []
    context.close()
