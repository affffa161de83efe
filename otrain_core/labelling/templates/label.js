"use strict";
// An answer first goes to the outbox, which the browser keeps through reloads, and leaves it when the server has it.
const $ = (id) => document.getElementById(id);
const OUTBOX = "otrain-label-outbox";
const REFUSED = `${OUTBOX}-refused`;
const PANELS = [["difference", "Difference"], ["science", "Science"], ["reference", "Reference"], ["gradcam", "Grad-CAM"]];
let who = localStorage.getItem("otrain-label-who") || "";
let seen = []; // candidates in the order in which they were shown
let at = -1; // the one that is shown
let ahead = []; // candidates that come next, their images loading
let reasons = null; // those that are ticked
let fetching = null;
let sending = false;
let moving = false;
let away = false; // the server did not answer when candidates were asked for
let wish = 0; // counts changes of what is to be shown
let later = 0; // timer of the next try to go forward
let shown = 0; // counts candidates shown, so that what comes late is not drawn over another
const clicks = []; // ids in the order in which they were answered, for undo

const outbox = () => JSON.parse(localStorage.getItem(OUTBOX) || "[]");
const keep = (box) => localStorage.setItem(OUTBOX, JSON.stringify(box));
const current = () => seen[at];
const make = (tag, text, name) => Object.assign(document.createElement(tag), { textContent: text ?? "", className: name ?? "" });
const randomKey = () => [...crypto.getRandomValues(new Uint8Array(12))].map((n) => n.toString(16).padStart(2, "0")).join("");

function trouble(text) {
  $("trouble").textContent = text || "";
  $("trouble").hidden = !text;
}

async function call(path, sent) {
  const options = sent ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(sent) } : {};
  const answer = await fetch(path, options);
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error || answer.statusText), { status: answer.status });
  return found;
}

// What I said of a candidate: what still waits in the outbox, or else what the server knows.
function mine(candidate) {
  const waiting = outbox().filter((entry) => entry.who === who && entry.id === candidate.id).pop();
  const label = waiting ? waiting.label : candidate.answers.find((one) => one.who === who)?.label;
  return label === "withdrawn" ? undefined : label;
}

function say(label, candidate = current()) {
  if (!candidate) return;
  keep([...outbox(), { key: randomKey(), id: candidate.id, who, label }]);
  if (label !== "withdrawn") clicks.push(candidate.id);
  send();
}

async function send() {
  if (sending) return;
  sending = true;
  try {
    for (let box = outbox(); box.length; box = outbox()) {
      const entry = box[0];
      let found = null;
      try {
        found = await call("api/answer", entry);
      } catch (error) {
        if (error.status !== 422 && error.status !== 400) throw error;
        trouble(`An answer of ${entry.who} could not be kept (${error.message}); it stays in this browser and is sent again when the page is opened.`);
        keepAside([...refused(), entry]);
      }
      keep(outbox().filter((one) => one.key !== entry.key));
      if (found) update(found);
      if (!outbox().length) {
        refresh();
        fill();
        if (found) trouble("");
      }
    }
  } catch (error) {
    const n = outbox().length;
    trouble(`${error.status === 401 ? error.message : "The server does not answer"}; ${n} answer${n > 1 ? "s are" : " is"} kept in this browser and sent when it is back.`);
    setTimeout(send, 1500);
  } finally {
    sending = false;
  }
}

const refused = () => JSON.parse(localStorage.getItem(REFUSED) || "[]");
const keepAside = (entries) => localStorage.setItem(REFUSED, JSON.stringify(entries));

function update(candidate) {
  seen = seen.map((one) => (one.id === candidate.id ? candidate : one));
  if (current()?.id === candidate.id) drawAnswers();
}

async function load() {
  if (ahead.length > 6) return;
  const asked = wish;
  const have = [...seen.filter((one) => !mine(one)), ...ahead].map((one) => one.id);
  const settled = seen.filter((one) => mine(one)).map((one) => one.id);
  const waiting = outbox().map((one) => one.id);
  const found = await call("api/next", { who, have: [...have, ...settled, ...waiting], reasons: reasons ?? [], cube: $("cube").value });
  if (asked !== wish) return;
  const known = new Set([...seen, ...ahead].map((one) => one.id));
  for (const candidate of found.candidates.filter((one) => !known.has(one.id))) {
    ahead.push(candidate);
    for (const [channel] of PANELS) if (candidate.channels.includes(channel)) new Image().src = `image/${candidate.id}/${channel}.png`;
    if (candidate.gradcam) fetch(`image/${candidate.id}/gradcam.png`).catch(() => {});
  }
}

function fill() {
  if (fetching) return fetching;
  const job = load().then(() => { away = false; }).catch((error) => {
    away = !error.status;
    if (error.status) trouble(error.message);
  }).finally(() => { if (fetching === job) fetching = null; });
  fetching = job;
  return fetching;
}

async function forward() {
  if (moving) return;
  clearTimeout(later);
  moving = true; // a second key before the next candidate is there is not meant for this one
  if (at >= seen.length - 1 && !ahead.length) await fill();
  moving = false;
  if (at >= seen.length - 1 && ahead.length) seen.push(ahead.shift());
  if (at < seen.length - 1) {
    at += 1;
    draw();
  } else if (away) {
    if (!outbox().length) trouble("The server does not answer.");
    later = setTimeout(forward, 1500);
  } else {
    draw(true);
  }
  if (ahead.length < 4) fill();
}

function back() {
  clearTimeout(later);
  if (at > 0 || (at === 0 && $("main").hidden)) { at -= $("main").hidden ? 0 : 1; draw(); }
}

function undo() {
  let id = clicks.pop();
  id ??= seen.filter((one) => mine(one)).pop()?.id; // after a reload: the last of those that were answered before
  const index = seen.findIndex((one) => one.id === id);
  if (index < 0) return;
  clearTimeout(later);
  at = index;
  say("withdrawn");
  draw();
}

async function answer(label) {
  if (!current() || moving || $("main").hidden) return;
  say(label);
  drawAnswers();
  await forward();
}

function number(value, digits) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

function draw(end = false) {
  const candidate = current();
  const over = end || !candidate;
  $("main").hidden = over;
  $("empty").hidden = !over;
  $("empty").textContent = "Nothing more to look at for these reasons. Thank you!";
  if (over) return;
  shown += 1;
  drawPanels(candidate, shown);
  drawAnswers();
  $("why").replaceChildren(...Object.entries(candidate.why).map(([name, text]) => {
    const item = make("li");
    item.append(make("b", name), make("span", `: ${text}`, "telling"));
    return item;
  }));
  if (!$("why").children.length) $("why").append(make("li", "it was asked for"));
  const rows = candidate.scores.map((one) => {
    const row = make("tr");
    row.append(make("td", one.name), make("td", number(one.score, 3)), make("td", number(one.threshold, 3)), make("td", one.score >= one.threshold ? "True" : "False"));
    return row;
  });
  const head = make("tr");
  head.append(make("th", "training"), make("th", "score"), make("th", "threshold"), make("th", "says"));
  $("scores").replaceChildren(...(rows.length ? [head, ...rows] : [make("tr", "none")]));
  $("label").replaceChildren(make("b", candidate.label), make("span", candidate.label_reason ? `: ${candidate.label_reason}` : ""));
  const pixel = candidate.x === null ? "–" : `${number(candidate.x, 1)}, ${number(candidate.y, 1)}`;
  const sky = candidate.ra === null ? "–" : `${number(candidate.ra, 5)}, ${number(candidate.dec, 5)}`;
  const facts = [
    ["telescope, pipeline", candidate.cube.split("/").join(", ")], ["image", candidate.image || "–"], ["candidate", candidate.candid], ["time", candidate.time ?? "–"],
    ["x, y [px]", pixel], ["ra, dec [deg]", sky], ["S/N", number(candidate.snr, 1)],
    ["magnitude", `${number(candidate.mag, 2)} ± ${number(candidate.magerr, 2)} ${candidate.filter ?? ""}`],
    ["FWHM, seeing [px]", `${number(candidate.fwhm, 1)}, ${number(candidate.seeing, 1)}`], ["set", candidate.set || "–"],
  ];
  $("facts").replaceChildren(...facts.flatMap(([name, text]) => [make("dt", name), make("dd", text)]));
}

function drawPanels(candidate, turn) {
  const panels = PANELS.map(([channel, title]) => {
    const figure = make("figure"), caption = make("figcaption", title), frame = make("div", "", "frame");
    frame.id = `panel-${channel}`;
    figure.append(frame, caption);
    if (channel === "gradcam") { figure.className = "telling"; drawGradCam(candidate, frame, caption, turn); }
    else if (candidate.channels.includes(channel)) frame.append(picture(`image/${candidate.id}/${channel}.png`, title), ticks(candidate.side));
    else frame.textContent = "not in the cube";
    return figure;
  });
  $("panels").replaceChildren(...panels);
}

function picture(source, title) {
  return Object.assign(new Image(), { src: source, alt: `${title} image of the candidate` });
}

// Two short lines that end beside the candidate, which is in pixel side // 2; the first row is below.
function ticks(side) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${side} ${side}`);
  const x = Math.floor(side / 2) + 0.5, y = side - x, path = document.createElementNS(svg.namespaceURI, "path");
  const length = Math.max(3, side / 9);
  path.setAttribute("d", `M${x} ${y - 2 * length}v${length}M${x + length} ${y}h${length}`);
  path.setAttribute("stroke-width", side / 90);
  svg.append(path);
  return svg;
}

async function drawGradCam(candidate, frame, caption, turn) {
  if (!candidate.gradcam) { frame.textContent = "no trained network here"; return; }
  frame.textContent = "being computed";
  for (let wait = 300; shown === turn; wait = Math.min(2 * wait, 3000)) {
    try {
      const answer = await fetch(`image/${candidate.id}/gradcam.png`);
      if (answer.status === 200) {
        const address = URL.createObjectURL(await answer.blob());
        const image = picture(address, "Grad-CAM");
        image.onload = () => URL.revokeObjectURL(address);
        if (shown !== turn) return;
        frame.replaceChildren(image);
        const speaks = answer.headers.get("X-Fallback") ? "no one feature speaks for" : "what speaks for";
        caption.append(make("span", `: ${speaks} ${answer.headers.get("X-Called")} (${answer.headers.get("X-Training")})`));
        return;
      }
      if (answer.status !== 202) { frame.textContent = (await answer.json()).error; return; }
    } catch { /* the server is away: asked again */ }
    await new Promise((done) => setTimeout(done, wait));
  }
}

function drawAnswers() {
  const candidate = current();
  if (!candidate) return;
  const my = mine(candidate);
  for (const button of document.querySelectorAll(".say")) button.classList.toggle("chosen", button.dataset.label === my);
  $("back").disabled = at <= 0;
  const others = candidate.answers.filter((one) => one.who !== who);
  // What others said is told only after one's own answer: it would sway it.
  const told = others.map((one) => (my || candidate.disagree ? `${one.who}: ${one.label}` : one.who)).join(", ");
  const line = [my ? `you: ${my}` : "", others.length ? (my || candidate.disagree ? told : `answered by ${told}`) : ""].filter(Boolean).join(", ");
  $("said").replaceChildren(make("span", line));
  const labels = new Set([...others.map((one) => one.label), ...(my ? [my] : [])]);
  if (labels.size > 1 && (my || candidate.disagree)) $("said").append(" ", make("span", `— people disagree${candidate.agreed ? `; the sheet says: ${candidate.agreed}` : ""}`, "split"));
}

async function refresh() {
  let state;
  try { state = await call(`api/state?who=${encodeURIComponent(who)}`); } catch (error) { if (error.status) trouble(error.message); return null; }
  $("bar").max = state.total || 1;
  $("bar").value = state.answered;
  $("done").textContent = `${state.answered} of ${state.total} answered by anybody, ${state.mine} by you`;
  $("people").textContent = Object.entries(state.people).map(([name, n]) => `${name} ${n}`).join(" · ");
  const counted = Object.entries(state.reasons);
  if ($("reasons").children.length) {
    for (const [name, n] of counted) document.querySelector(`[data-count="${name}"]`).textContent = ` ${n}`;
  } else {
    $("reasons").replaceChildren(...counted.map(([name, n]) => {
      const label = make("label"), box = Object.assign(make("input"), { type: "checkbox", value: name, checked: name !== "people disagree" });
      const count = make("span", ` ${n}`);
      count.dataset.count = name;
      label.title = state.meanings[name];
      label.append(box, ` ${name}`, count);
      return label;
    }));
    $("cube").replaceChildren(new Option("all cubes", ""), ...state.cubes.map((name) => new Option(name, name)));
    $("cubes").hidden = state.cubes.length < 2;
  }
  return state;
}

function choose() {
  reasons = [...document.querySelectorAll("#reasons input:checked")].map((box) => box.value);
  ahead = [];
  wish += 1;
  fetching = null;
  document.activeElement.blur(); // so that keys are answers again
  forward();
}

function blind(on) {
  document.body.classList.toggle("blind", on);
  $("blind").checked = on;
  localStorage.setItem("otrain-label-blind", on ? "1" : "");
}

function askName() {
  $("name").value = who;
  $("hello").showModal();
}

async function start() {
  $("who").textContent = who;
  trouble("");
  const state = await refresh();
  if (!state) { trouble("The server does not answer."); setTimeout(start, 1500); return; }
  seen = state.last; // so that one can step back and undo after a reload
  ahead = [];
  clicks.length = 0;
  keep([...refused(), ...outbox()]);
  keepAside([]);
  at = seen.length - 1;
  send();
  await forward();
}

$("hello").addEventListener("cancel", (event) => event.preventDefault());
$("hello").addEventListener("submit", (event) => {
  const name = $("name").value.trim().replace(/\s+/g, " ");
  if (!/^[\p{L}\p{N}_][\p{L}\p{N}_ .'@-]{0,39}$/u.test(name)) {
    event.preventDefault();
    $("misnamed").textContent = "Letters, digits and spaces, please.";
    return;
  }
  who = name;
  localStorage.setItem("otrain-label-who", who);
  start();
});
$("rename").addEventListener("click", askName);
for (const button of document.querySelectorAll(".say")) button.addEventListener("click", () => { button.blur(); answer(button.dataset.label); });
$("back").addEventListener("click", back);
$("forward").addEventListener("click", forward);
$("undo").addEventListener("click", undo);
$("reasons").addEventListener("change", choose);
$("cube").addEventListener("change", choose);
$("blind").addEventListener("change", (event) => { blind(event.target.checked); event.target.blur(); });
document.addEventListener("keydown", (event) => {
  if ($("hello").open || event.altKey || event.metaKey || event.target.matches("select, input:not([type=checkbox])")) return;
  if (event.ctrlKey && event.key.toLowerCase() !== "z") return;
  const does = { t: () => answer("True"), f: () => answer("False"), u: () => answer("unsure"), z: undo, h: () => blind(!$("blind").checked), ArrowLeft: back, ArrowRight: forward }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!does || event.repeat) return;
  event.preventDefault();
  does();
});
blind(Boolean(localStorage.getItem("otrain-label-blind")));
setInterval(refresh, 5000);
who ? start() : askName();
