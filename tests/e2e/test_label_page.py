"""The labelling page in a real browser: keys, two people at the same time, reload, and a killed server."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from otrain_core.io import digest
from otrain_core.labelling.store import LabelStore
from otrain_core.plan.sheets import read_labels
from tests.unit.answers import all_answers
from tests.unit.synthetic_results import write_results
from tests.unit.tiny_network import tiny_network


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A run with trainings but without networks, so without Grad-CAM."""
    root = tmp_path_factory.mktemp("results")
    write_results(root, quality=1.5)
    return root


@pytest.fixture(scope="module")
def results_with_network(tmp_path_factory):
    """A run with an untrained network."""

    root = tmp_path_factory.mktemp("with_network")
    model = root / "network.keras"
    tiny_network("otrain2", size=32, channels=("difference",), normalise="mad-asinh").save(model)
    write_results(root, quality=1.5, model=model)
    return root


@contextmanager
def serving(results, database, *, port=0, more=(), **environment):
    """Start a server with further arguments; yields its address and process."""
    command = [sys.executable, "-m", "otrain_core.cli.main", "label", "serve", "--json", "--port", str(port), *more]
    command += ["--results", str(results), "--database", str(database)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    try:
        record = json.loads(process.stdout.readline())
        yield record["url"], process
    finally:
        process.kill()
        process.wait()


@contextmanager
def person(browser, url, name):
    """Open the page of one person in a separate browser; all its requests stay on this machine."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    page.set_default_timeout(30_000)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if not elsewhere(request.url, url) else None)
    page.goto(url)
    page.fill("#name", name)
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel-difference img")
    try:
        yield page
        assert wrong == []
    finally:
        context.close()


def elsewhere(address, url):
    return address.startswith((url, "blob:", "data:"))


def shown(page):
    return page.locator("#facts dd").nth(2).inner_text()


def press(page, key):
    """Press a key and wait until another candidate is shown."""
    before = shown(page)
    page.keyboard.press(key)
    wait_for(lambda: shown(page) != before)
    return before


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


def said(database, who=None):
    return {row["candid"]: row["label"] for row in LabelStore(database).answers() if who in (None, row["who"])}


def test_keys_pictures_reload_and_sheet(browser, results, tmp_path):
    database = tmp_path / "labels.sqlite"
    before = digest(results / "tiny/builtin/cube.npz")
    with serving(results, database) as (url, _), person(browser, url, "anna") as page:
        for panel in ("difference", "science", "reference"):
            image = f"document.querySelector('#panel-{panel} img')"
            wait_for(lambda image=image: page.evaluate(f"{image}.complete && {image}.naturalWidth === 32"))
        given = {
            press(page, key): label for key, label in (("t", "True"), ("f", "False"), ("u", "unsure"), ("F", "False"))
        }
        assert len(given) == 4
        wait_for(lambda: said(database) == given)
        # Go back to the last candidate: it shows the answer, and a new answer replaces it.
        page.keyboard.press("ArrowLeft")
        last = shown(page)
        assert "you: False" in page.inner_text("#said") and given[last] == "False"
        press(page, "t")
        wait_for(lambda: said(database) == given | {last: "True"})
        # Undo returns to it and removes the answer; the previous answer stays.
        page.keyboard.press("z")
        wait_for(lambda: last not in said(database))
        assert shown(page) == last and page.inner_text("#said") == ""
        press(page, "ArrowRight")  # skip it without an answer
        press(page, "f")
        wait_for(lambda: len(said(database)) == 4)
        page.wait_for_selector("#done:has-text('4 by you')")
        page.reload()
        page.wait_for_selector("#panel-difference img")
        assert shown(page) not in said(database) and "anna 4" in page.inner_text("#people")
        page.keyboard.press("z")  # also after a reload: the last answer
        wait_for(lambda: len(said(database)) == 3)
        # One reason can be chosen.
        for reason in ("uncertain", "against the label", "suspected label", "recent night"):
            page.uncheck(f"#reasons input[value='{reason}']")
        wait_for(
            lambda: page.inner_text("#why").startswith("disagreeing") or "\ndisagreeing" in page.inner_text("#why")
        )
        # Scores can be hidden.
        assert page.is_visible("#scores")
        page.keyboard.press("h")
        assert not page.is_visible("#scores") and not page.is_visible("#label")
        with page.expect_download() as download:
            page.click("text=Label sheet")
        download.value.save_as(tmp_path / "labels.csv")
    rows = read_labels(tmp_path / "labels.csv")
    assert {row["candid"]: row["label"] for row in rows} == said(database) and len(rows) == 3
    assert {row["who"] for row in rows} == {"anna"} and all(row["when"] and row["before"] for row in rows)
    assert len(all_answers(database)) == 8  # including changed and withdrawn answers
    assert digest(results / "tiny/builtin/cube.npz") == before


def test_two_people_at_once(browser, results, tmp_path):
    database = tmp_path / "labels.sqlite"
    with (
        serving(results, database) as (url, _),
        person(browser, url, "anna") as anna,
        person(browser, url, "bo") as bo,
    ):
        assert shown(anna) != shown(bo)
        hers, his = set(), set()
        for _ in range(6):  # alternate, so that both work at the same time
            hers.add(press(anna, "t"))
            his.add(press(bo, "f"))
        assert len(hers) == len(his) == 6 and not hers & his
        wait_for(lambda: len(said(database)) == 12)
        assert set(said(database, "anna")) == hers and set(said(database, "bo")) == his
        anna.wait_for_selector("#people:has-text('bo 6')")
        # Both answer for the same candidate: both answers are kept, and each sees the other's only after answering.
        name = anna.evaluate("seen[0].id")
        bo.evaluate(
            "async (name) => { seen.push(await call(`api/candidate/${name}`)); at = seen.length - 1; draw(); }", name
        )
        assert bo.inner_text("#said") == "answered by anna"
        bo.evaluate("say('False')")
        bo.wait_for_selector("#said:has-text('people disagree')")
        assert "anna: True" in bo.inner_text("#said") and "left out" in bo.inner_text("#said")
        wait_for(lambda: bo.inner_text("[data-count='people disagree']").strip() == "1")
        rows = [row["label"] for row in LabelStore(database).answers() if row["candidate"] == name]
        assert rows == ["True", "False"]


def test_nothing_is_lost_when_the_server_is_killed(browser, results, tmp_path):
    database = tmp_path / "labels.sqlite"
    with serving(results, database) as (url, process), person(browser, url, "anna") as page:
        wait_for(lambda: page.evaluate("ahead.length") > 3)
        first = press(page, "t")
        wait_for(lambda: not page.evaluate("outbox().length"))
        process.send_signal(signal.SIGKILL)  # immediately after the answer was stored
        process.wait()
        assert said(database) == {first: "True"}
        second = press(page, "f")  # the server is gone; the next candidate was loaded before
        page.wait_for_selector("#trouble:has-text('1 answer is kept in this browser')")
        third = press(page, "u")
        page.wait_for_selector("#trouble:has-text('2 answers are kept in this browser')")
        with serving(results, database, port=int(url.rsplit(":", 1)[1].strip("/"))) as (again, _):
            assert again == url
            wait_for(lambda: said(database) == {first: "True", second: "False", third: "unsure"}, 30)
            page.wait_for_selector("#trouble", state="hidden")
        # When no further candidate is loaded, the page keeps the current one and continues when the server is back.
        for _ in range(page.evaluate("ahead.length")):
            press(page, "ArrowRight")
        assert page.evaluate("ahead.length") == 0
        fourth = shown(page)
        page.keyboard.press("t")
        page.wait_for_selector("#trouble:has-text('1 answer is kept')")
        assert shown(page) == fourth
        with serving(results, database, port=int(url.rsplit(":", 1)[1].strip("/"))):
            wait_for(lambda: shown(page) != fourth and said(database).get(fourth) == "True", 30)
            wait_for(lambda: page.evaluate("ahead.length") > 0)
        # The browser also keeps an answer after a reload.
        fifth = press(page, "f")
        page.wait_for_selector("#trouble:has-text('1 answer is kept')")
        with serving(results, database, port=int(url.rsplit(":", 1)[1].strip("/"))):
            page.reload()
            wait_for(lambda: said(database).get(fifth) == "False", 30)
    assert len(all_answers(database)) == 5


def test_first_page_comes_before_grad_cam(browser, results_with_network, tmp_path):
    with serving(results_with_network, tmp_path / "labels.sqlite") as (url, process):
        with person(browser, url, "anna") as page:
            # The candidate is shown before TensorFlow is loaded.
            assert page.inner_text("#panel-gradcam") == "being computed"
            page.wait_for_selector("#panel-gradcam img", timeout=120_000)
            caption = page.inner_text("#panels figure:nth-child(4) figcaption")
            assert "speak" in caption and ("True" in caption or "False" in caption)
        workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        process.send_signal(signal.SIGKILL)
        process.wait()
        # The process of Grad-CAM ends with the server.
        wait_for(lambda: not any(alive(int(worker)) for worker in workers))
        assert workers


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_token_is_asked_for_where_others_can_come(results, browser, tmp_path):
    command = [
        sys.executable,
        "-m",
        "otrain_core.cli.main",
        "label",
        "serve",
        "--json",
        "--port",
        "0",
        "--host",
        "0.0.0.0",
    ]
    command += ["--results", str(results), "--database", str(tmp_path / "labels.sqlite")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{json.loads(process.stdout.readline())['url'].rsplit(':', 1)[1]}"
        address, token = url.split("?token=")
        assert len(token) >= 32
        context = browser.new_context()
        page = context.new_page()
        assert page.goto(address).status == 401
        assert page.goto(url).status == 200 and page.url == address  # the token does not stay in the address
        page.fill("#name", "anna")
        page.keyboard.press("Enter")
        page.wait_for_selector("#panel-difference img")
        context.close()
    finally:
        process.kill()
        process.wait()
