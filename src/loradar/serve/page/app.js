// The page: a picture and what a model makes of it, attacks that may be tried, the traffic, and the versions.

import { draw, remember } from "./chart.js";
import { bar, byId, chip, el, percent, show } from "./dom.js";
import { ask, keepKey, modelPath, readKey, Refused, send } from "./server.js";
import { comparison, figure, offer, urlOf, verdict } from "./verdict.js";

const EVERY = 2000;
const state = {
  session: null, models: [], past: new Map(), drawn: "", timer: 0, round: 0, lost: false,
  file: null, waits: false, seen: null, turn: 0,
};

const chosen = () => state.models.find((model) => model.name === byId("model").value);

function complain(error) {
  if (!(error instanceof Refused)) throw error;
  byId("problem").textContent = error.message;
  byId("problem").hidden = false;
  if (error.status === 401) byId("key").focus();
}

const calm = () => { byId("problem").hidden = true; };

// --- who asks, and what there is ---

async function enter() {
  clearTimeout(state.timer);
  const round = ++state.round;
  try {
    const session = await ask("GET", "v1/session");
    if (round !== state.round) return;  // another key was given meanwhile
    state.session = session;
    calm();
    byId("role").textContent = state.session.role === "admin" ? "admin key" : "predict key";
    byId("role").hidden = false;
    state.drawn = "";
    state.waits = state.file !== null;  // a picture from before the key
    await refresh();
  } catch (error) {
    if (round !== state.round) return;
    state.session = null;
    byId("role").hidden = true;
    byId("attack").hidden = true;
    state.timer = error.status === 401 ? 0 : setTimeout(enter, EVERY);
    complain(error);
  }
}

/** Asks for models and traffic, again and again; not while nobody looks. */
async function refresh() {
  clearTimeout(state.timer);
  const round = ++state.round;
  let wait = EVERY;
  try {
    if (!document.hidden) {
      const [models, traffic] = await Promise.all([ask("GET", "v1/models"), ask("GET", "v1/traffic")]);
      if (round !== state.round) return;
      state.models = models.models;
      offer("model", state.models.map((model) => model.name));
      byId("model").disabled = state.models.length === 0;
      showVersions();
      showTraffic(traffic.traffic);
      if (state.waits) inspect();
      if (state.lost) calm();
      state.lost = false;
    }
  } catch (error) {
    if (round !== state.round) return;
    if (error.status === 401) { complain(error); return; }
    state.lost = error.status === 0;
    if (state.lost) complain(error);
    wait = Math.max(wait, 1000 * (error.after ?? 0));
    if (!(error instanceof Refused)) console.error(error);
  }
  if (round === state.round) state.timer = setTimeout(refresh, wait);
}

// --- the picture ---

function take(files) {
  const [file] = files;
  if (!file) return;
  state.file = file;
  byId("name").textContent = files.length > 1 ? `${file.name}, the first of ${files.length}` : file.name;
  inspect();
}

/** Shows pictures in place of the ones before, whose memory is given back. */
function showPictures(...figures) {
  for (const image of byId("pictures").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  show(byId("pictures"), ...figures);
}

function clear() {
  showPictures();
  show(byId("verdict"), el("p", { class: "quiet" }, "Choose a picture to see what the model answers, and why."));
  byId("attack").hidden = true;
}

/** Runs what a user asked for; what was asked before it is not shown any more. */
async function latest(work) {
  const turn = ++state.turn;
  byId("verdict-card").setAttribute("aria-busy", "true");
  byId("attack-go").disabled = true;
  try {
    const shown = await work();
    if (turn === state.turn) { calm(); shown(); }
  } catch (error) {
    if (turn === state.turn) complain(error);
  } finally {
    if (turn === state.turn) {
      byId("verdict-card").removeAttribute("aria-busy");
      byId("attack-go").disabled = false;
    }
  }
}

const kindOf = (file) => (file.type.startsWith("image/") ? file.type : "application/octet-stream");

function inspect() {
  const [file, name] = [state.file, byId("model").value];
  state.waits = file !== null && !name;  // until the models are known
  if (!file || !name) return;
  clear();
  latest(async () => {
    const reply = await ask("POST", `${modelPath(name)}/inspect`, file, kindOf(file));
    return () => {
      state.seen = reply;
      showPictures(ownFigure(reply));
      show(byId("verdict"), ...verdict(reply, reply.predictions[0]));
      offer("attack-name", reply.attacks);
      offer("against", reply.against);
      byId("attack").hidden = !state.session?.try_attacks || reply.attacks.length === 0;
    };
  });
}

function ownFigure(reply) {
  const words = ["As the model sees it"];
  if (reply.region) words.push("; the red frame is where the suspected attack would lie");
  return figure(urlOf(reply.picture), reply.region, words);
}

function attack() {
  const [file, seen, name, against] = [state.file, state.seen, byId("attack-name").value, byId("against").value];
  const query = new URLSearchParams({ attack: name, against });
  latest(async () => {
    // the version whose answer is shown, whichever is active by now
    const path = `${modelPath(seen.model, seen.version)}/attack?${query}`;
    const reply = await ask("POST", path, file, kindOf(file));
    return () => {
      const url = urlOf(reply.picture);
      const link = el("a", { href: url, download: `${name}.png`.replaceAll(/[^\w.-]/g, "-") }, "save it");
      const words = [reply.region ? "Attacked, in the red frame (" : "Attacked (", link, ")"];
      showPictures(ownFigure(seen), figure(url, reply.region, words));
      show(byId("verdict"), ...verdict(seen, seen.predictions[0]), ...comparison(reply));
    };
  });
}

// --- traffic and versions ---

function showTraffic(states) {
  const now = performance.now();
  for (const one of states) {
    if (!state.past.has(one.model)) state.past.set(one.model, []);
    remember(state.past.get(one.model), one, now);
  }
  const model = chosen();
  const found = states.find((one) => one.model === model?.name);
  byId("level").hidden = !found;
  if (!found) {
    const words = model?.kind === "guard" ? "No picture has come yet." : "Only guards watch their traffic.";
    show(byId("traffic"), el("p", { class: "quiet" }, words));
    return;
  }
  byId("level").textContent = found.level === "raised" ? "▲ alarm raised" : "calm";
  byId("level").className = `chip ${found.level === "raised" ? "bad" : "good"}`;
  show(byId("traffic"), ...draw(state.past.get(found.model), found, now));
}

/** Draws the versions anew where something of them has changed, so that the focus stays while nothing has. */
function showVersions() {
  const model = chosen();
  const drawn = JSON.stringify([model, state.session]);
  if (!model || drawn === state.drawn) return;
  state.drawn = drawn;
  const isAdmin = state.session?.role === "admin", focused = document.activeElement?.id;
  const body = el("tbody");
  for (const one of model.versions) {
    const isActive = one.version === model.active;
    const share = Object.keys(model.weights).length ? (model.weights[one.version] ?? 0) : Number(isActive);
    const mayActivate = isAdmin && one.loaded && !(isActive && share === 1);
    const button = el("button", { type: "button", id: `activate-${one.version}` }, "Activate");
    button.setAttribute("aria-label", `Activate ${one.version}`);
    button.addEventListener("click", () => change("activate", { version: one.version }));
    const fingerprint = el("code", { class: "quiet" }, (one.fingerprint ?? "").slice(0, 12));
    body.append(el("tr", {},
      el("th", { scope: "row" }, one.version, " ", fingerprint),
      el("td", {}, isActive ? chip("active", "good") : chip(one.state, one.state === "failed" ? "bad" : "")),
      el("td", { class: "wide" }, bar(share)), el("td", { class: "number" }, percent(share)),
      el("td", { class: "act" }, mayActivate ? button : "")));
  }
  const columns = [["Version"], ["State"], ["", "wide"], ["Traffic", "number"], [""]];
  const heads = columns.map(([text, kind = null]) => el("th", { scope: "col", class: kind }, text));
  const size = model.input_size ? `, images of ${model.input_size.slice(1).join(" × ")}` : "";
  const back = el("button", { type: "button", id: "back", class: "plain" }, "Back to the version before");
  back.addEventListener("click", () => change("rollback", {}));
  show(byId("versions"),
    el("p", { class: "quiet" }, `${model.kind ?? "model"}, ${model.classes.length} classes${size}`),
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body)),
    isAdmin && model.versions.length > 1 ? el("p", { class: "note" }, back) : null,
    isAdmin ? null : el("p", { class: "quiet" }, "An admin's key may change which one answers."));
  if (focused) (byId(focused) ?? (focused.startsWith("activate-") ? byId("back") : null))?.focus();
}

async function change(what, content) {
  try {
    await send("POST", `${modelPath(byId("model").value)}/${what}`, content);
    calm();
    await refresh();
    inspect();
  } catch (error) {
    complain(error);
  }
}

// --- what a user does ---

byId("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(byId("key").value.trim());
  enter();
});
byId("attack").addEventListener("submit", (event) => { event.preventDefault(); attack(); });
byId("file").addEventListener("change", () => { take(byId("file").files); byId("file").value = ""; });
byId("model").addEventListener("change", () => { state.drawn = ""; clear(); refresh(); inspect(); });
for (const kind of ["dragover", "drop", "dragleave"]) {
  // anywhere on the page: a picture that misses the field would take the page's place
  window.addEventListener(kind, (event) => {
    if (kind !== "dragleave") event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
document.addEventListener("visibilitychange", () => { if (!document.hidden && state.session) refresh(); });
byId("key").value = readKey();
enter();
