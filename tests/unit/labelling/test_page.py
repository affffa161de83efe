"""The server of the labelling page: whom it answers, what it shows to whom, and what it keeps."""

import io as text_io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from otrain_core.figures.galleries import robust_limits
from otrain_core.labelling.page import Labelling, create_app, is_loopback
from otrain_core.labelling.sources import Source, Training
from otrain_core.labelling.store import LabelStore
from tests.unit.answers import all_answers
from tests.unit.synthetic_cube import make_cube

N = 24


class NoMaps:
    """Grad-CAM that is not ready at first, and then says which class."""

    def __init__(self):
        self.asked = 0

    def get(self, key, model, cutout):
        assert cutout["cube"].shape == (1, 32, 32, 4)
        self.asked += 1
        heat = np.zeros((32, 32), np.float32)
        heat[20, 10] = 1
        return {"map": heat, "called": 1, "fallback": False} if self.asked > 1 else None


@pytest.fixture
def work(tmp_path):
    cube = make_cube(N)
    scores = np.linspace(0.3, 0.7, N)
    trained = [Training("otrain2/seed1", scores, 0.5, np.ones(N, bool), tmp_path / "model.keras")]
    trained += [Training("paper/seed1", 1 - scores, 0.5, np.zeros(N, bool))]
    return Labelling([Source("tiny", "builtin", cube, trained)], LabelStore(tmp_path / "labels.sqlite"))


@pytest.fixture
def page(work):
    return create_app(work, maps=NoMaps()).test_client()


def next_for(page, who, **sent):
    found = page.post("/api/next", json={"who": who} | sent)
    assert found.status_code == 200, found.json
    return [one["id"] for one in found.json["candidates"]]


def answer(page, name, label, who, key):
    return page.post("/api/answer", json={"id": name, "label": label, "who": who, "key": f"key-{key:05d}"})


def test_two_people_see_different_candidates_first(page, work):
    anna = next_for(page, "anna")
    bo = next_for(page, "bo")
    assert len(anna) == len(bo) == 4 and not set(anna) & set(bo)
    assert next_for(page, "anna") == anna  # still hers
    assert not set(next_for(page, "anna", have=anna)) & {*anna, *bo}
    # When nothing else is left, each sees those of the other, and that somebody answered.
    for key, name in enumerate(work.why):
        answer(page, name, "True", "bo", key)
    again = page.post("/api/next", json={"who": "anna"}).json["candidates"]
    assert len(again) == 4 and again[0]["answers"][0]["who"] == "bo"
    assert next_for(page, "bo") == []


def test_both_answers_are_kept_and_disagreement_is_shown(page, work):
    (name, *_) = next_for(page, "anna")
    assert answer(page, name, "True", "anna", 1).json["agreed"] == "True"
    found = answer(page, name, "False", "bo", 2).json
    assert found["disagree"] and found["agreed"] == "left out"
    assert [(one["who"], one["label"]) for one in found["answers"]] == [("anna", "True"), ("bo", "False")]
    state = page.get("/api/state?who=anna").json
    assert (state["answered"], state["mine"], state["people"]) == (1, 1, {"anna": 1, "bo": 1})
    assert state["reasons"]["people disagree"] == 1 and [one["id"] for one in state["last"]] == [name]
    # Who has answered can settle it; a third person makes two of three.
    assert next_for(page, "anna", reasons=["people disagree"]) == [name]
    assert name not in next_for(page, "anna", reasons=["uncertain"])
    assert answer(page, name, "True", "cy", 3).json["agreed"] == "True"
    sheet = page.get("/labels.csv").text.splitlines()
    assert len(sheet) == 4 and sheet[0] == "telescope,pipeline,image,candid,x,y,label,before,who,when"
    answer(page, name, "withdrawn", "bo", 4)
    assert page.get(f"/api/candidate/{name}").json["disagree"] is False


def test_an_answer_that_was_sent_twice_counts_once(page, work):
    (name, *_) = next_for(page, "anna")
    for _ in range(2):
        assert answer(page, name, "True", "anna", 1).status_code == 200
    assert len(all_answers(work.store.path)) == 1


def test_reasons_and_cubes_can_be_chosen(page):
    assert len(next_for(page, "anna", reasons=["disagreeing"])) == 4
    assert next_for(page, "anna", reasons=["suspected label"]) == []
    assert next_for(page, "anna", cube="tiny/other") == []
    assert len(next_for(page, "anna", cube="tiny/builtin")) == 4


def test_pictures_are_stretched_as_in_the_galleries(page, work):
    name = next(name for name, (one, row) in work.places.items() if np.isnan(one.cube["cube"][row, 0, 0, 0]))
    source, row = work.places[name]
    for channel, title in enumerate(("difference", "science", "reference")):
        answered = page.get(f"/image/{name}/{title}.png")
        assert answered.mimetype == "image/png"
        picture = np.asarray(Image.open(text_io.BytesIO(answered.data)))[::-1].astype(int)  # first row below
        cutout = source.cube["cube"][row, :, :, channel]
        low, high = robust_limits(cutout)
        expected = np.clip(255 * (cutout - low) / (high - low), 0, 255)
        known = np.isfinite(cutout)
        assert np.abs(picture[known] - expected[known][:, None]).max() <= 1
        assert (picture[~known] == (0xD9, 0xC2, 0xA0)).all() and not known.all()
    assert page.get(f"/image/{name}/mask.png").status_code == 404
    assert page.get("/image/nobody/science.png").status_code == 404


def test_grad_cam_comes_when_it_is_ready(page, work):
    name = next(iter(work.why))
    assert page.get(f"/image/{name}/gradcam.png").status_code == 202
    answered = page.get(f"/image/{name}/gradcam.png")
    assert answered.status_code == 200 and answered.headers["X-Called"] == "True"
    assert answered.headers["X-Training"] == "otrain2/seed1"
    picture = np.asarray(Image.open(text_io.BytesIO(answered.data)))[::-1].astype(int)
    assert picture[20, 10].sum() > picture[25, 25].sum() + 100


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        ({"id": "nobody"}, 422, "not in the cubes that are open"),
        ({"label": "maybe"}, 422, "one of True, False, unsure"),
        ({"who": "<script>"}, 422, "a name of 1 to 40"),
        ({"key": "short"}, 422, "8 to 64"),
        ({"who": 7}, 400, "an object with the texts"),
    ],
)
def test_unusable_answers(page, work, sent, status, message):
    whole = {"id": next(iter(work.why)), "label": "True", "who": "anna", "key": "key-00001"}
    found = page.post("/api/answer", json=whole | sent)
    assert found.status_code == status and message in found.json["error"]
    assert all_answers(work.store.path) == []


def test_a_store_that_cannot_be_written_asks_to_try_again(page, work):
    (name, *_) = next_for(page, "anna")
    work.store.path.unlink()
    assert answer(page, name, "True", "anna", 1).status_code == 503


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8765"}, 200),
        ({"Host": "127.0.0.1:9"}, 200),
        ({"Host": "[::1]:8765"}, 200),
        ({"Host": "evil.example"}, 403),  # a name that was made to point here (DNS rebinding)
        ({"Host": "localhost.evil.example:8765"}, 403),
        ({"Host": "192.168.1.7:8765"}, 403),
        ({"Host": "localhost:8765", "Origin": "http://localhost:8765"}, 200),
        ({"Host": "localhost:8765", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost:8765", "Origin": "http://localhost:9999"}, 403),
        ({"Host": "localhost:8765", "Origin": "null"}, 403),
        ({"Host": "localhost:8765", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "localhost:8765", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "localhost:8765", "Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_requests_from_elsewhere_are_refused(page, work, headers, status):
    name = next(iter(work.why))
    sent = {"id": name, "label": "True", "who": "anna", "key": "key-00001"}
    assert page.post("/api/answer", json=sent, headers=headers).status_code == status
    assert len(all_answers(work.store.path)) == (status == 200)
    assert page.get(f"/image/{name}/science.png", headers=headers).status_code == status


def test_a_form_of_another_site_cannot_answer(page, work):
    body = '{"id": "x", "label": "True", "who": "anna", "key": "key-00001"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert page.post("/api/answer", data=body, content_type=kind).status_code == 415
    assert page.post("/api/answer", data="{" * 70_000, content_type="application/json").status_code in (400, 413)


def test_headers_keep_other_sites_out(page):
    headers = page.get("/").headers
    assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin" and headers["Referrer-Policy"] == "no-referrer"
    assert "Access-Control-Allow-Origin" not in headers


def test_a_token_opens_the_page_and_nothing_else_does(work):
    app = create_app(work, token="a-secret-token", maps=NoMaps())
    stranger, guest = app.test_client(), app.test_client()
    name = next(iter(work.why))
    for path in (
        "/",
        "/label.js",
        "/api/state",
        f"/image/{name}/science.png",
        "/labels.csv",
        "/?token=wrong",
        "/?token=",
    ):
        assert stranger.get(path, headers={"Host": "observatory:8765"}).status_code == 401, path
    assert stranger.get("/labels.csv?token=a-secret-token").status_code == 401
    first = guest.get("/?token=a-secret-token", headers={"Host": "observatory:8765"})
    assert first.status_code == 302 and first.headers["Location"] == "/"
    assert "HttpOnly" in first.headers["Set-Cookie"] and "SameSite=Lax" in first.headers["Set-Cookie"]
    opened = app.test_client()
    opened.get("/?token=a-secret-token")
    assert opened.get("/").status_code == 200 and opened.get("/api/state").status_code == 200
    assert answer(opened, name, "True", "anna", 1).status_code == 200
    evil = {"Origin": "http://evil.example"}
    assert opened.post("/api/answer", json={}, headers=evil).status_code == 403


def test_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "", "localhost.example.org")))


def test_the_server_does_not_import_tensorflow():
    code = "import sys, otrain_core.labelling.page, otrain_core.labelling.reasons, otrain_core.cli.label; sys.exit('tensorflow' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


DEEP = "[" * 20_000 + "]" * 20_000


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/api/answer", DEEP),
        ("/api/next", DEEP),
        ("/api/next", '{"who": "anna", "have": ' + DEEP + "}"),
        ("/api/next", '{"who": "anna", "have": 5}'),
        ("/api/next", '{"who": "anna", "have": {"a": 1}}'),
        ("/api/next", '{"who": "anna", "reasons": "uncertain"}'),
        ("/api/next", '{"who": "anna", "reasons": [1]}'),
        ("/api/next", '{"who": "anna", "have": [["a"]]}'),
        ("/api/next", '{"who": "anna", "cube": [1]}'),
        ("/api/next", '{"who": null}'),
        ("/api/next", "null"),
        ("/api/next", "{"),
        ("/api/next", "\xff"),
        ("/api/answer", '{"id": ["x"], "label": "True", "who": "anna", "key": "key-00001"}'),
    ],
)
def test_what_is_not_as_the_page_sends_it_is_told(page, work, path, sent):
    found = page.post(path, data=sent.encode("latin1"), content_type="application/json")
    assert found.status_code == 400 and "needed" in found.json["error"]
    assert all_answers(work.store.path) == []


@pytest.mark.parametrize(
    "sent", [{"who": "anna\ud800"}, {"id": "\ud800"}, {"label": "\ud800"}, {"key": "key-\ud800123"}]
)
def test_texts_that_are_no_unicode_are_told(page, work, sent):
    whole = {"id": next(iter(work.why)), "label": "True", "who": "anna", "key": "key-00001"}
    assert page.post("/api/answer", json=whole | sent).status_code == 422
    assert all_answers(work.store.path) == []


@pytest.mark.parametrize(
    "headers",
    [{"Host": "[::1"}, {"Host": "localhost:x"}, {"Host": "localhost", "Origin": "http://["}, {"Origin": "null"}],
)
def test_addresses_that_are_none_are_refused(page, headers):
    assert page.get("/", headers=headers).status_code in (400, 403)


def test_answers_that_cannot_be_read_are_told(page, work):
    work.store.path.write_bytes(b"no database any more" * 500)
    for path in ("/api/state?who=anna", "/labels.csv", f"/api/candidate/{next(iter(work.why))}"):
        found = page.get(path)
        assert found.status_code == 503 and "the answers cannot be read" in found.json["error"]
