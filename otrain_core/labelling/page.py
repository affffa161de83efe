"""The labelling page: a small web server that shows candidates and keeps what people say of them."""

from __future__ import annotations

import hmac
import io
import ipaddress
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from otrain_core.cubes.labels import agreed, word
from otrain_core.errors import OtrainError
from otrain_core.labelling.maps import GradCamMaps, cutout_png, map_png
from otrain_core.labelling.reasons import REASONS, describe, identity, worth_a_look
from otrain_core.labelling.sources import Source
from otrain_core.labelling.store import LabelStore, StoreError, check_person

if TYPE_CHECKING:
    from flask import Flask

FILES = Path(__file__).with_name("templates")
PEOPLE_DISAGREE = "people disagree"
HELD = 300.0  # seconds for which a candidate shown to one person is shown to others last
SHOWN = ("difference", "science", "reference")
_LAST = 30  # answers of a person that stand ready for a step back
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Labelling:
    """What the page shows and to whom: the candidates, the answers about them, and who looks at what.

    Parameters
    ----------
    sources : sequence of Source
    store : LabelStore
    most : int
        Candidates shown for one reason from one cube at most.
    """

    def __init__(self, sources: Sequence[Source], store: LabelStore, *, most: int = 200):
        self.store = store
        # Every candidate of the cubes can be answered, also one that a page opened before asks about.
        self.places = {identity(one, row): (one, row) for one in sources for row in range(len(one))}
        lists = [[(one, *item) for item in worth_a_look(one, most=most).items()] for one in sources]
        turns = max(map(len, lists), default=0)
        mixed = [part[turn] for turn in range(turns) for part in lists if turn < len(part)]
        self.why = {identity(one, row): reasons for one, row, reasons in mixed}
        self.cubes = [one.name for one in sources]
        self._held: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def answers(self) -> dict[str, list[dict[str, Any]]]:
        """Answers that hold, by candidate."""
        by_candidate: dict[str, list[dict[str, Any]]] = {}
        for row in self.store.answers():
            by_candidate.setdefault(row["candidate"], []).append(row)
        return by_candidate

    def candidate(self, name: str, answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
        """All that is known of a candidate.

        Raises
        ------
        OtrainError
            There is none of that name in the cubes.
        """
        if name not in self.places:
            raise OtrainError("this candidate is not in the cubes that are open here")
        given = [{key: row[key] for key in ("who", "label", "when")} for row in answers.get(name, ())]
        said = [row["label"] for row in given]
        return {
            "id": name,
            **describe(*self.places[name]),
            "why": self.why.get(name, {}),
            "answers": given,
            "disagree": len(set(said)) > 1,
            "agreed": word(agreed(said)) if said else "",
            "gradcam": self._model(name) is not None,
        }

    def next_ones(
        self, who: str, *, count: int, have: Sequence[str] = (), reasons: Sequence[str] = (), cube: str = ""
    ) -> list[dict[str, Any]]:
        """Candidates for a person: first those that nobody answered or looks at, then those of others.

        What the person answered does not come again, but where people disagree and that is asked for.
        """
        answers, now = self.answers(), time.monotonic()
        wanted = set(reasons) & {*REASONS, PEOPLE_DISAGREE} or set(REASONS)
        split = {name for name, given in answers.items() if len({row["label"] for row in given}) > 1}
        known = set(have)
        with self._lock:
            first: list[str] = []
            later: list[str] = []
            for name in [*self.why, *(name for name in split if name in self.places and name not in self.why)]:
                settle = name in split and PEOPLE_DISAGREE in wanted
                if name in known or not (settle or wanted & self.why.get(name, {}).keys()):
                    continue
                if cube and self.places[name][0].name != cube:
                    continue
                people = {row["who"] for row in answers.get(name, ())}
                if who in people and not settle:
                    continue
                holder, until = self._held.get(name, ("", 0.0))
                taken = people or (holder not in ("", who) and until > now)
                (later if taken else first).append(name)
            chosen = (first + later)[:count]
            for name in chosen:
                self._held[name] = (who, now + HELD)
        return [self.candidate(name, answers) for name in chosen]

    def state(self, who: str) -> dict[str, Any]:
        """How far the work has come: of all, and of every person; and the last answers of this person."""
        answers = self.answers()
        mine = [row for given in answers.values() for row in given if row["who"] == who]
        last = sorted(mine, key=lambda row: row["number"])[-_LAST:]
        people = Counter(row["who"] for given in answers.values() for row in given)
        counts = Counter(reason for reasons in self.why.values() for reason in reasons)
        split = sum(len({row["label"] for row in given}) > 1 for name, given in answers.items() if name in self.places)
        return {
            "total": len(self.why),
            "answered": sum(name in answers for name in self.why),
            "mine": sum(row["candidate"] in self.why for row in mine),
            "people": dict(people.most_common()),
            "reasons": {name: counts[name] for name in REASONS} | {PEOPLE_DISAGREE: split},
            "meanings": REASONS | {PEOPLE_DISAGREE: "people gave different answers"},
            "cubes": self.cubes,
            "last": [self.candidate(row["candidate"], answers) for row in last if row["candidate"] in self.places],
        }

    def answer(self, name: str, *, label: str, who: str, key: str) -> dict[str, Any]:
        """Keep an answer; the candidate with all answers about it."""
        candidate = self.candidate(name, {})
        self.store.add(candidate, label=label, who=who, key=key)
        with self._lock:
            self._held.pop(name, None)
        return self.candidate(name, self.answers())

    def pixels(self, name: str, channel: str):
        """Pixels of one channel, None where the cube has no such channel."""
        source, row = self.places[name]
        channels = [str(one) for one in source.cube["channels"]]
        return source.cube["cube"][row, :, :, channels.index(channel)] if channel in channels else None

    def _model(self, name: str) -> Path | None:
        source, _ = self.places[name]
        return next((one.model for one in source.trainings if one.model), None)

    def grad_cam(self, name: str, maps: GradCamMaps) -> dict[str, Any] | None:
        """See `GradCamMaps.get`."""
        source, row = self.places[name]
        model = self._model(name)
        if model is None:
            return {"error": "no trained network (model.keras) here"}
        n = len(source)
        one = {
            key: value[row : row + 1] if value.shape[:1] == (n,) and key != "channels" else value
            for key, value in source.cube.items()
            if key in ("cube", "channels", "pixel_scale", "seeing")
        }
        found = maps.get(name, model, one)
        by = next(training.name for training in source.trainings if training.model)
        return found if found is None else found | {"training": by}


def create_app(work: Labelling, *, token: str | None = None, maps: GradCamMaps | None = None) -> Flask:
    """The web application.

    Without a token it answers requests for this machine by its loopback names only, so that no page elsewhere can
    have a name of its own lead here. With one, nothing is answered without it. Answers are taken from the page
    itself alone: as JSON, which no form of another site can send, and from the same origin.

    Parameters
    ----------
    work : Labelling
    token : str, optional
    maps : GradCamMaps, optional

    Returns
    -------
    flask.Flask
    """
    from flask import Flask

    app = Flask("otrain_label", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = 64 * 1024
    app.json.sort_keys = False  # type: ignore[attr-defined]  # reasons keep their order
    _add_guard(app, token)
    _add_errors(app)
    _add_files(app)
    _add_answers(app, work)
    _add_pictures(app, work, maps or GradCamMaps())
    return app


def _add_guard(app: Flask, token: str | None) -> None:
    """Who is answered, and what every answer forbids the browser."""
    from flask import Response, abort, redirect, request

    def cookie() -> str:
        return f"otrain-label-{request.environ.get('SERVER_PORT', '')}"  # cookies are shared by all ports of a host

    @app.before_request
    def guard():
        host, origin = _address(f"//{request.host}"), request.headers.get("Origin")
        if token is None and not is_loopback(host.hostname or "" if host else ""):
            abort(403, "this page is open to the machine it runs on only, by the name localhost")
        if token is not None:
            if request.path == "/" and hmac.compare_digest(request.args.get("token", "").encode(), token.encode()):
                answer = redirect("/")  # so that the token stays in no history
                answer.set_cookie(cookie(), token, httponly=True, samesite="Lax", max_age=30 * 86400)
                return answer
            if not hmac.compare_digest(request.cookies.get(cookie(), "").encode(), token.encode()):
                abort(401, "open the address with the token that `otrain label serve` printed")
        foreign = request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none")
        if foreign and not (request.method == "GET" and request.path == "/"):
            abort(403, "not from another site")
        if origin is not None and ((site := _address(origin)) is None or site.netloc != request.host):
            abort(403, "not from another site")
        if request.method == "POST" and not request.is_json:
            abort(415, "JSON is needed")
        return None

    @app.after_request
    def protect(answer: Response) -> Response:
        answer.headers.update(_HEADERS)
        answer.headers.setdefault("Cache-Control", "no-store")
        return answer


def _add_errors(app: Flask) -> None:
    """Every refusal is one sentence, as JSON."""
    from flask import jsonify

    @app.errorhandler(OtrainError)
    def refused(error: OtrainError):
        return jsonify(error=str(error)), 503 if isinstance(error, StoreError) else 422

    for code in (400, 401, 403, 404, 405, 413, 415, 500):
        app.register_error_handler(code, lambda error: (jsonify(error=error.description), error.code))


def _add_files(app: Flask) -> None:
    """The page itself."""
    from flask import send_from_directory

    @app.get("/")
    def page():
        return send_from_directory(FILES, "label.html")

    @app.get("/<any('label.js', 'label.css'):name>")
    def file(name: str):
        return send_from_directory(FILES, name)


def _add_answers(app: Flask, work: Labelling) -> None:
    """What is asked and answered: the state, the next candidates, answers, and the sheet."""
    from flask import Response, abort, jsonify, request

    def body(*names: str, lists: Sequence[str] = (), texts: Sequence[str] = ()) -> dict[str, Any]:
        """What was sent: `names` are texts that must be there, `lists` of texts and `texts` may be."""
        try:
            sent = request.get_json(silent=True)
        except RecursionError:  # of thousands of brackets
            sent = None
        if not isinstance(sent, dict) or not all(isinstance(sent.get(name), str) for name in names):
            abort(400, f"an object with the texts {', '.join(names)} is needed")
        for name in lists:
            sent[name] = sent.get(name) or []
            if not isinstance(sent[name], list) or not all(isinstance(text, str) for text in sent[name]):
                abort(400, f"{name}: a list of texts is needed")
        for name in texts:
            sent[name] = sent.get(name) or ""
            if not isinstance(sent[name], str):
                abort(400, f"{name}: a text is needed")
        return sent

    @app.get("/api/state")
    def state():
        return jsonify(work.state(request.args.get("who", "")))

    @app.post("/api/next")
    def next_ones():
        sent = body("who", lists=("have", "reasons"), texts=("cube",))
        found = work.next_ones(
            check_person(sent["who"]), count=4, cube=sent["cube"], have=sent["have"], reasons=sent["reasons"]
        )
        return jsonify(candidates=found)

    @app.get("/api/candidate/<name>")
    def candidate(name: str):
        return jsonify(work.candidate(name, work.answers()))

    @app.post("/api/answer")
    def answer():
        sent = body("id", "label", "who", "key")
        return jsonify(work.answer(sent["id"], label=sent["label"], who=sent["who"], key=sent["key"]))

    @app.get("/labels.csv")
    def sheet():
        text = io.StringIO()
        work.store.write_sheet(text)
        return Response(text.getvalue(), mimetype="text/csv", headers={"Content-Disposition": "attachment"})


def _add_pictures(app: Flask, work: Labelling, maps: GradCamMaps) -> None:
    """Cutouts and Grad-CAM maps as PNG."""
    from flask import Response, abort, jsonify

    @app.get("/image/<name>/<any(difference, science, reference):channel>.png")
    def image(name: str, channel: str):
        pixels = work.pixels(name, channel) if name in work.places else None
        if pixels is None:
            abort(404, f"no channel {channel} of this candidate")
        return Response(cutout_png(pixels), mimetype="image/png", headers={"Cache-Control": "private, max-age=86400"})

    @app.get("/image/<name>/gradcam.png")
    def grad_cam(name: str):
        if name not in work.places:
            abort(404, "no such candidate")
        found = work.grad_cam(name, maps)
        if found is None:
            return jsonify(state="not ready"), 202
        if "error" in found:
            abort(404, found["error"])
        said = {"X-Called": word(found["called"]), "X-Training": found["training"]}
        said |= {"X-Fallback": "1"} if found["fallback"] else {}
        pixels = next(plane for plane in (work.pixels(name, one) for one in SHOWN) if plane is not None)
        return Response(map_png(pixels, found["map"]), mimetype="image/png", headers=said)


def _address(text: str) -> SplitResult | None:
    """Parts of an address, None where it is none."""
    try:
        parts = urlsplit(text)
        _ = parts.hostname, parts.port
    except ValueError:
        return None
    return parts


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine, as seen from itself alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
