"use strict";
// The page of annotators and adjudicators: shows items, and keeps submissions in the browser until the server has them
// on its disk.

const at = (id) => document.getElementById(id);
const given = new URLSearchParams(location.search).get("token");
if (given) {
  sessionStorage.setItem("truing-token", given);
  history.replaceState(null, "", location.pathname);
}
const token = sessionStorage.getItem("truing-token");

let session = null;
let item = null;
let widgets = [];
let startedMs = 0;
let isWaiting = false;
// Items answered in this tab, the last one at the end.
const visited = [];

class Refused extends Error {
  constructor(status, body) {
    super(body && body.error ? body.error.message : "the server answered with status " + status);
    Object.assign(this, {status, body, code: body && body.error ? body.error.code : null});
  }
}

async function call(path, body) {
  const options = {headers: {Authorization: "Bearer " + token}};
  if (body !== undefined) Object.assign(options, {method: "POST", body: JSON.stringify(body)});
  const reply = await fetch(path, options);
  const read = await reply.json().catch(() => null);
  if (!reply.ok) throw new Refused(reply.status, read);
  return read;
}

// What this browser keeps of a person in a project, under keys that begin with this.
const scope = (kind) => "truing-" + kind + ":" + JSON.stringify([session.project, session.name]) + ":";

// Submissions that the server has not acknowledged. Each has a key of its own, so that tabs do not overwrite each other.
const outbox = {
  add: (submission) => localStorage.setItem(scope("outbox") + submission.submission, JSON.stringify(submission)),
  remove: (submission) => localStorage.removeItem(scope("outbox") + submission.submission),
  read() {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(scope("outbox")));
    const all = keys.map((key) => JSON.parse(localStorage.getItem(key))).filter((submission) => submission);
    return all.sort((one, other) => one.finished_ms - other.finished_ms);
  },
};

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function notice(text, buttons = [], isCalm = false) {
  at("notice").hidden = !text;
  at("notice").className = isCalm ? "calm" : "";
  at("notice").replaceChildren(...(text ? [make("div", {class: "text", text}), ...buttons] : []));
}

function showSaved(text, className) {
  at("saved").textContent = text;
  at("saved").className = className || "";
}

function showProgress(progress) {
  const {answered, skipped, open} = progress;
  at("progress").textContent =
    answered === undefined
      ? open + " to decide"
      : answered + " answered, " + skipped + " skipped, " + open + " open";
}

// What is entered survives a reload.
const draftKey = (of) => scope("draft") + of.item + ":" + of.item_digest;
function saveDraft() {
  const states = Object.fromEntries(widgets.map((widget) => [widget.question.name, widget.state()]));
  localStorage.setItem(draftKey(item), JSON.stringify({version: item.version, states}));
}
function loadDraft() {
  const draft = JSON.parse(localStorage.getItem(draftKey(item)) || "null");
  if (!draft || draft.version !== item.version) return;
  widgets
    .filter((widget) => draft.states[widget.question.name])
    .forEach((widget) => widget.load(draft.states[widget.question.name]));
}

function showItem(next) {
  item = next;
  widgets = [];
  at("main").hidden = at("actions").hidden = !item;
  for (const id of ["prompt", "responses", "questions", "others", "review"]) at(id).replaceChildren();
  if (!item) {
    notice(
      session.role === "adjudicator" ? "Nothing to decide now." : "There is nothing more for you now. Thank you.",
      [make("button", {type: "button", class: "plain", text: "Look again", onclick: () => nextItem()})],
      true,
    );
    return;
  }
  notice("");
  for (const message of item.prompt) {
    at("prompt").append(
      make(
        "div",
        {class: "panel"},
        make("h2", {text: message.role}),
        make("div", {class: "text", text: message.content}),
      ),
    );
  }
  showReview();
  const marks = session.questions.some(
    (question) => question.annotation_type === "spans" && item.questions.includes(question.name),
  );
  const cards = item.responses.map((response, place) => {
    const card = make(
      "article",
      {class: "card", "aria-label": "Response " + letter(place)},
      make("h2", {text: "Response " + letter(place)}),
    );
    // A text that is marked is shown by its widget.
    if (!marks) card.append(make("div", {class: "text", text: response.text}));
    at("responses").append(card);
    return card;
  });
  const hosts = {
    cards,
    question: (question) => {
      const section = make("div", {class: "question"}, make("h2", {text: question.description || question.name}));
      at("questions").append(section);
      return section;
    },
  };
  const asked = session.questions.filter((question) => item.questions.includes(question.name));
  // The text comes first in a card.
  const inOrder = [
    ...asked.filter((question) => question.annotation_type === "spans"),
    ...asked.filter((question) => question.annotation_type !== "spans"),
  ];
  for (const question of inOrder) {
    if (question.description && ["ranking", "scale", "spans"].includes(question.annotation_type)) {
      at("prompt").append(make("p", {class: "dim", text: question.name + ": " + question.description}));
    }
    widgets.push(WIDGETS[question.annotation_type](question, item, hosts, changed));
  }
  if (item.answers) load(item.answers);
  loadDraft();
  showOthers();
  at("previous").disabled = !visited.length;
  at("skip").hidden = session.role === "adjudicator";
  startedMs = Date.now();
  showMissing();
  if (rows().length) rows()[0].element.focus();
  window.scrollTo(0, 0);
}

function showReview() {
  at("review").hidden = !item.labels && !item.review;
  const say = (value) =>
    typeof value === "string" ? value : Array.isArray(value) ? value.join(", ") : JSON.stringify(value);
  for (const [name, label] of Object.entries(item.labels || {})) {
    const doubt = item.review && item.review[name] ? " (" + say(item.review[name]) + ")" : "";
    at("review").append(make("div", {class: "dim", text: name + ": " + say(label) + doubt}));
  }
}

function showOthers() {
  at("others").hidden = !item.others.length;
  item.others.forEach((answers, idx) => {
    const panel = make("div", {class: "panel"}, make("h2", {text: "Annotator " + (idx + 1)}));
    for (const widget of widgets) {
      const answer = answers[widget.question.name];
      if (answer)
        panel.append(make("div", {class: "text", text: widget.question.name + ": " + widget.describe(answer)}));
    }
    panel.append(
      make("button", {
        type: "button",
        class: "plain",
        text: "Take over",
        "aria-label": "Take over the answers of annotator " + (idx + 1),
        onclick: () => {
          load(answers);
          changed();
        },
      }),
    );
    at("others").append(panel);
  });
}

function load(answers) {
  widgets
    .filter((widget) => answers[widget.question.name])
    .forEach((widget) => widget.load(answers[widget.question.name]));
}

// The rows in the order of the page.
function rows() {
  const all = widgets.flatMap((widget) => widget.rows.map((row) => ({...row, widget})));
  return all.sort((one, other) =>
    one.element.compareDocumentPosition(other.element) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1,
  );
}

const missing = () => widgets.filter((widget) => widget.question.required && widget.answer() === null);

function showMissing() {
  const names = missing().map((widget) => widget.question.name);
  at("missing").textContent = names.length ? "Missing: " + names.join(", ") : "";
  at("submit").disabled = isWaiting || names.length > 0;
}

function changed() {
  saveDraft();
  showMissing();
}

async function submit(skip) {
  if (!item || isWaiting || (!skip && missing().length)) return;
  const answers = {};
  if (!skip) {
    for (const widget of widgets) {
      const answer = widget.answer();
      if (answer) answers[widget.question.name] = answer;
    }
  }
  isWaiting = true;
  showMissing();
  outbox.add({
    submission: newId(),
    item: item.item,
    item_digest: item.item_digest,
    version: item.version,
    skip,
    answers,
    order: item.responses.map((response) => response.index),
    started_ms: startedMs,
    finished_ms: Date.now(),
  });
  await flush();
}

// Sends what waits, in its order. Nothing leaves the outbox before the server says that it is stored, or refuses it for
// good.
let flushing = null;
function flush(pauseMs = 1000) {
  flushing =
    flushing ||
    sendAll(pauseMs).finally(() => {
      flushing = null;
    });
  return flushing;
}

async function sendAll(pauseMs) {
  for (let submission = outbox.read()[0]; submission; submission = outbox.read()[0]) {
    showSaved("saving...");
    try {
      const reply = await call("api/submit", submission);
      outbox.remove(submission);
      stored(submission, reply);
    } catch (error) {
      const isFinal = error instanceof Refused && [400, 403, 404, 409, 413].includes(error.status);
      if (!isFinal) {
        showSaved(
          outbox.read().length + " not saved yet: kept in this browser, sent again soon (" + error.message + ")",
          "bad",
        );
        setTimeout(() => flush(Math.min(2 * pauseMs, 30000)), pauseMs);
        return;
      }
      outbox.remove(submission);
      isWaiting = false;
      refused(submission, error);
      return;
    }
  }
  isWaiting = false;
  if (item && item.isStored) await nextItem();
  else showMissing();
}

function stored(submission, reply) {
  showSaved("✓ saved", "good");
  showProgress(reply.progress);
  localStorage.removeItem(draftKey(submission));
  if (visited[visited.length - 1] !== submission.item) visited.push(submission.item);
  if (item && item.item === submission.item) item.isStored = true;
}

function refused(submission, error) {
  showSaved("not saved", "bad");
  const answer = (text, onclick) => make("button", {type: "button", text, onclick});
  if (error.code !== "stale") {
    // Kept for whoever wants to find out what was wrong with it.
    localStorage.setItem(
      scope("refused") + submission.submission,
      JSON.stringify({submission, error: error.message}),
    );
    notice("This answer was not stored: " + error.message, [answer("Next item", () => nextItem())]);
    return;
  }
  const version = error.body.stored ? error.body.stored.version : 0;
  const answers = error.body.stored ? error.body.stored.answers : {};
  const describe = (widget) =>
    answers[widget.question.name]
      ? "\n" + widget.question.name + ": " + widget.describe(answers[widget.question.name])
      : "";
  notice(
    "Another answer to this item was stored since you began, in another tab or by another adjudicator. " +
      "Yours was not stored. " +
      "Stored:" +
      (Object.keys(answers).length ? widgets.map(describe).join("") : " skipped"),
    [
      answer("Keep the stored answer", () => nextItem()),
      answer("Replace it with mine", async () => {
        notice("");
        outbox.add({...submission, submission: newId(), version, finished_ms: Date.now()});
        await flush();
      }),
    ],
  );
}

async function nextItem() {
  try {
    const reply = await call("api/next", {});
    showProgress(reply.progress);
    showItem(reply.item);
  } catch (error) {
    notice("The next item could not be loaded: " + error.message, [
      make("button", {type: "button", text: "Try again", onclick: () => nextItem()}),
    ]);
  }
}

async function previousItem() {
  const id = visited.filter((other) => !item || other !== item.item).pop();
  if (!id) return;
  visited.splice(visited.lastIndexOf(id));
  try {
    showItem((await call("api/item", {item: id})).item);
  } catch (error) {
    notice("The item could not be loaded: " + error.message);
  }
}

function moveFocus(step) {
  const all = rows();
  const now = all.findIndex((row) => row.element.contains(document.activeElement));
  const next = all[Math.min(Math.max(now + step, 0), all.length - 1)];
  if (next) {
    next.element.focus();
    next.element.scrollIntoView({block: "nearest"});
  }
}

function editBest() {
  const ranking = widgets.find((widget) => widget.best);
  const edit = widgets.find((widget) => widget.editBest);
  const best = ranking ? ranking.best() : null;
  if (edit && best !== null) edit.editBest(best);
  return Boolean(edit) && best !== null;
}

function onKey(event) {
  if (!item || at("keys").open || event.isComposing || event.altKey || event.metaKey) return false;
  const inText = document.activeElement.tagName === "TEXTAREA";
  if (event.ctrlKey) return event.key === "Enter" && (submit(false), true);
  if (inText) return event.key === "Escape" && (document.activeElement.closest(".row").focus(), true);
  if (event.key === "S") return !at("skip").hidden && (submit(true), true);
  if (event.key === "P") return (previousItem(), true);
  if (event.key === "?") return (at("keys").showModal(), true);
  if (event.key === "ArrowDown" || event.key === "ArrowUp")
    return (moveFocus(event.key === "ArrowDown" ? 1 : -1), true);
  const row = rows().find((other) => other.element.contains(document.activeElement));
  if (row && /^[0-9]$/.test(event.key)) {
    const isTaken = row.digit(Number(event.key));
    if (isTaken && row.widget.advances) moveFocus(1);
    return isTaken;
  }
  if (row && (event.key === "Backspace" || event.key === "Delete")) return (row.clear(), true);
  if (event.key === "e" || event.key === "E") return editBest();
  const isButton = document.activeElement.tagName === "BUTTON";
  return Boolean(row && row.key && !(isButton && event.key === "Enter") && row.key(event));
}

document.addEventListener("keydown", (event) => {
  if (onKey(event)) event.preventDefault();
});
at("submit").addEventListener("click", () => submit(false));
at("skip").addEventListener("click", () => submit(true));
at("previous").addEventListener("click", () => previousItem());
at("show-keys").addEventListener("click", () => at("keys").showModal());
window.addEventListener("online", () => session && flush());

async function start() {
  if (!token) {
    notice("Open this page by your own link: it ends with ?token=...");
    return;
  }
  try {
    session = await call("api/session");
  } catch (error) {
    notice(error.message, [make("button", {type: "button", text: "Try again", onclick: () => start()})]);
    return;
  }
  if (session.role === "owner") {
    location.replace("status");
    return;
  }
  notice("");
  document.title = at("title").textContent = session.title;
  at("who").textContent = session.name + (session.role === "adjudicator" ? ", adjudicator" : "");
  at("guidelines").hidden = !session.guidelines;
  at("guidelines-text").textContent = session.guidelines;
  await flush();
  await nextItem();
}
start();
