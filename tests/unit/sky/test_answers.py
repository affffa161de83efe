import threading
from types import SimpleNamespace

import pytest

from otrain_core.errors import ConfigError
from otrain_core.sky import answers


def ask(fetch, cache, **parameters):
    return answers.answer(fetch, service="gaia", parameters=parameters or {"ra": 1.5}, cache=cache)


def give(text):
    def fetch(attempt, path):
        path.write_text(text)

    return fetch


def refuse(attempt, path):
    path.write_text("half an answ")
    raise OSError("no route to host")


@pytest.fixture
def pauses(monkeypatch):
    found = []
    monkeypatch.setattr(answers, "time", SimpleNamespace(sleep=found.append))
    return found


def test_a_cached_answer_is_not_requested_again(tmp_path, pauses):
    first = ask(give("one"), tmp_path)
    assert first.parent == tmp_path and first.name.startswith("gaia-") and first.suffix == ".csv"
    assert ask(refuse, tmp_path) == first and first.read_text() == "one"
    other = ask(give("two"), tmp_path, ra=1.6)
    assert other != first and other.read_text() == "two"
    assert pauses == []


def test_failures_are_tried_again(tmp_path, pauses):
    attempts = []

    def fetch(attempt, path):
        attempts.append(attempt)
        give("one")(attempt, path) if attempt == 2 else refuse(attempt, path)

    assert ask(fetch, tmp_path).read_text() == "one"
    assert attempts == [0, 1, 2]
    assert pauses == [answers.WAIT, 2 * answers.WAIT]


def test_a_failed_query_gives_one_sentence_and_leaves_no_file(tmp_path, pauses):
    with pytest.raises(
        ConfigError, match=r"gaia \(ra 1.5\): no answer after 4 attempts \(OSError: no route to host\)"
    ) as caught:
        ask(refuse, tmp_path, ra=1.5, columns=["a"])
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert pauses == [answers.WAIT, 2 * answers.WAIT, 4 * answers.WAIT]


def test_two_jobs_at_once_share_the_cache(tmp_path):
    together, results, errors = threading.Barrier(4, timeout=30), [], []

    def fetch(attempt, path):
        together.wait()  # all four ask before one has its answer
        path.write_text("the same")

    def job():
        try:
            results.append(ask(fetch, tmp_path).read_text())
        except Exception as error:
            errors.append(error)

    jobs = [threading.Thread(target=job) for _ in range(4)]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join()
    assert not errors and results == ["the same"] * 4
    assert len(list(tmp_path.iterdir())) == 1
