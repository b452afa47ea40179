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
// The submission that the shown item waits for.
let waiting = null;

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

// The browser's storage. What it does not take, because it is full, stays in the memory of this page: it is sent all
// the same, and is lost only when the page is closed before.
const inMemory = new Map();
const store = {
  set(key, value) {
    const text = JSON.stringify(value);
    try {
      localStorage.setItem(key, text);
      inMemory.delete(key);
    } catch {
      inMemory.set(key, text);
    }
    showStorage();
  },
  get: (key) => JSON.parse(inMemory.get(key) || localStorage.getItem(key) || "null"),
  remove(key) {
    inMemory.delete(key);
    localStorage.removeItem(key);
    showStorage();
  },
  all(prefix) {
    const keys = new Set([...Object.keys(localStorage), ...inMemory.keys()].filter((key) => key.startsWith(prefix)));
    return [...keys].map((key) => store.get(key)).filter((value) => value);
  },
};

function showStorage() {
  at("storage").hidden = !inMemory.size;
  at("storage").textContent =
    "The storage of this browser is full. What you enter is sent as usual, but it is kept only while this page is " +
    "open: do not close or reload the page before it says that your answer is saved.";
}

// Submissions that the server has not acknowledged. Each has a key of its own, so that tabs do not overwrite each other.
const outbox = {
  add: (submission) => store.set(scope("outbox") + submission.submission, submission),
  remove: (submission) => store.remove(scope("outbox") + submission.submission),
  read: () => store.all(scope("outbox")).sort((one, other) => one.finished_ms - other.finished_ms),
};

// Submissions that the server has refused for good, with the reason. They are shown until the person decides.
const refusals = {
  add: (refusal) => store.set(scope("refused") + refusal.submission.submission, refusal),
  remove: (refusal) => store.remove(scope("refused") + refusal.submission.submission),
  has: (submission) => Boolean(store.get(scope("refused") + submission.submission)),
  read: () => store.all(scope("refused")),
};

// Items answered in this tab, in their order, and which of them is shown; no place: the next item. A reload keeps them.
const visited = {
  ids: [],
  place: null,
  load() {
    visited.ids = JSON.parse(sessionStorage.getItem(scope("visited")) || "[]");
  },
  add(id) {
    if (!visited.ids.includes(id)) visited.ids.push(id);
    try {
      sessionStorage.setItem(scope("visited"), JSON.stringify(visited.ids));
    } catch {
      // The way back is then lost with a reload, no answer is.
    }
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
  const done = answered === undefined ? "" : answered + " answered, " + skipped + " skipped";
  const left = open === undefined ? "" : done ? ", " + open + " open" : open + " to decide";
  at("progress").textContent = done + left;
}

// What is entered survives a reload.
const draftKey = (of) => scope("draft") + of.item + ":" + of.item_digest;
function saveDraft() {
  const states = Object.fromEntries(widgets.map((widget) => [widget.question.name, widget.state()]));
  store.set(draftKey(item), {version: item.version, states});
}
function loadDraft() {
  const draft = store.get(draftKey(item));
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
      [
        make("button", {type: "button", class: "plain", text: "Look again", onclick: () => nextItem()}),
        ...(visited.ids.length
          ? [make("button", {type: "button", class: "plain", text: "Previous", onclick: () => previousItem()})]
          : []),
      ],
      true,
    );
    return;
  }
  notice("");
  showPrompt();
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
  at("previous").disabled = (visited.place === null ? visited.ids.length : visited.place) === 0;
  at("next").disabled = visited.place === null;
  at("skip").hidden = session.role === "adjudicator";
  startedMs = Date.now();
  showMissing();
  if (rows().length) rows()[0].element.focus();
  window.scrollTo(0, 0);
}

// Messages with their tool calls, and the tools that there are: names and arguments as text.
function showPrompt() {
  const asPart = (text) => make("div", {class: "text", text});
  const panel = (heading, ...texts) =>
    make("div", {class: "panel"}, make("h2", {text: heading}), ...texts.map(asPart));
  const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));
  if (item.tools && item.tools.length) {
    const list = make("details", {class: "panel"}, make("summary", {text: "Tools: " + item.tools.length}));
    list.append(...item.tools.map((tool) => asPart(asText(tool))));
    at("prompt").append(list);
  }
  for (const message of item.prompt) {
    const calls = (message.tool_calls || []).map((call) => {
      const {name, arguments: given} = call.function || call;
      return "calls " + name + ": " + asText(given === undefined ? {} : given);
    });
    const heading = message.role + (message.name ? " " + message.name : "");
    const answers = message.tool_call_id ? " (answers call " + message.tool_call_id + ")" : "";
    const texts = [message.reasoning_content, message.content, ...(message.parts || [])].filter((text) => text);
    at("prompt").append(panel(heading + answers, ...texts.map(asText), ...calls));
  }
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

const orderShown = () => item.responses.map((response) => response.index);

function showOthers() {
  at("others").hidden = !item.others.length;
  item.others.forEach((answers, idx) => {
    const panel = make("div", {class: "panel"}, make("h2", {text: "Annotator " + (idx + 1)}));
    panel.append(make("div", {class: "text", text: describeAnswers(answers, orderShown())}));
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
  at("submit").disabled = Boolean(waiting) || names.length > 0;
}

function changed() {
  saveDraft();
  showMissing();
}

async function submit(skip) {
  if (!item || item.isStored || waiting || (!skip && missing().length)) return;
  const answers = {};
  if (!skip) {
    for (const widget of widgets) {
      const answer = widget.answer();
      if (answer) answers[widget.question.name] = answer;
    }
  }
  waiting = {
    submission: newId(),
    item: item.item,
    item_digest: item.item_digest,
    version: item.version,
    skip,
    answers,
    order: orderShown(),
    started_ms: startedMs,
    finished_ms: Date.now(),
  };
  outbox.add(waiting);
  showMissing();
  await flush();
}

// A skip instead of an answer that is stored is asked about first.
function skip() {
  if (!item || waiting) return;
  if (!Object.keys(item.answers || {}).length) {
    submit(true);
    return;
  }
  notice("You have answered this item. If you skip it, your answer no longer counts.", [
    make("button", {type: "button", text: "Keep the answer", onclick: () => notice("")}),
    make("button", {
      type: "button",
      class: "plain",
      text: "Skip the item",
      onclick: () => {
        notice("");
        submit(true);
      },
    }),
  ]);
}

// Sends what waits, in its order. Nothing leaves the outbox before the server says that it is stored, or refuses it for
// good.
let flushing = null;
function flush(pauseMs = 1000) {
  flushing =
    flushing ||
    sendAll(pauseMs)
      .finally(() => {
        flushing = null;
      })
      .then((isDone) => isDone && settle());
  return flushing;
}

// Whether the outbox is empty now.
async function sendAll(pauseMs) {
  for (let submission = outbox.read()[0]; submission; submission = outbox.read()[0]) {
    showSaved("saving...");
    try {
      const reply = await call("api/submit", submission);
      showProgress(reply.progress);
      outbox.remove(submission);
      isSaved(submission);
    } catch (error) {
      const isFinal = error instanceof Refused && [400, 403, 404, 409, 413].includes(error.status);
      if (!isFinal) {
        showSaved(
          outbox.read().length + " not saved yet: kept in this browser, sent again soon (" + error.message + ")",
          "bad",
        );
        setTimeout(() => flush(Math.min(2 * pauseMs, 30000)), pauseMs);
        return false;
      }
      // In this order: it is always in one of the two.
      const {code} = error;
      refusals.add({submission, code, error: error.message, stored: (error.body && error.body.stored) || null});
      outbox.remove(submission);
      showSaved("not saved", "bad");
    }
  }
  return true;
}

// Nothing waits any more: what the shown item waited for is stored, or in the list of refused answers.
async function settle() {
  showRefused();
  // Another tab may have sent what this one waits for.
  if (waiting && !refusals.has(waiting)) isSaved(waiting);
  const wasRefused = waiting && refusals.has(waiting) ? store.get(scope("refused") + waiting.submission) : null;
  waiting = null;
  // What is wrong with an answer can be mended where it stands; an item that is another one now is loaded again.
  const isOver = wasRefused && ["other_item", "unknown_item", "not_allowed"].includes(wasRefused.code);
  if (item && (item.isStored || isOver)) await nextItem();
  else showMissing();
}

function isSaved(submission) {
  showSaved("✓ saved", "good");
  store.remove(draftKey(submission));
  visited.add(submission.item);
  if (item && item.item === submission.item) item.isStored = true;
}

// The list of refused answers, with what was entered. It stays until each is replaced, kept out or discarded.
function showRefused() {
  const all = refusals.read();
  at("refused").hidden = !all.length;
  at("refused").replaceChildren(...all.map(showRefusal));
}

function showRefusal(refusal) {
  const {submission, error, code, stored} = refusal;
  const isStale = code === "stale";
  const say = (answers) => describeAnswers(answers, submission.order) || "skipped";
  const button = (text, className, onclick) => make("button", {type: "button", class: className, text, onclick});
  const content = make("div", {class: "text", text: say(submission.answers)});
  const done = () => {
    refusals.remove(refusal);
    showRefused();
  };
  const why = isStale
    ? "Another answer to this item was stored since you began, in another tab or by another adjudicator. " +
      "Yours was not stored. Stored: " +
      (stored ? say(stored.answers) : "nothing")
    : "This answer was not stored: " + error;
  const isShown = () => item && item.item === submission.item;
  const element = make(
    "article",
    {class: "panel", "aria-label": "Refused answer"},
    make("div", {class: "text", text: why}),
    make("h2", {text: "Yours, of " + new Date(submission.finished_ms).toLocaleString()}),
    content,
  );
  if (isStale) {
    element.append(
      button("Keep the stored answer", "", () => {
        done();
        if (isShown()) nextItem();
      }),
      button("Replace it with mine", "", async () => {
        const version = stored ? stored.version : 0;
        const again = {...submission, submission: newId(), version, finished_ms: Date.now()};
        outbox.add(again);
        if (isShown()) waiting = again;
        done();
        await flush();
      }),
    );
  }
  element.append(
    button("Copy text", "plain", () => {
      window.getSelection().selectAllChildren(content);
      // The clipboard is there on this machine and over TLS only; the selection can be copied by key.
      if (navigator.clipboard) navigator.clipboard.writeText(content.textContent);
    }),
  );
  if (!isStale) element.append(button("Discard", "plain", done));
  return element;
}

async function nextItem() {
  try {
    const reply = await call("api/next", {});
    visited.place = null;
    showProgress(reply.progress);
    showItem(reply.item);
  } catch (error) {
    notice("The next item could not be loaded: " + error.message, [
      make("button", {type: "button", text: "Try again", onclick: () => nextItem()}),
    ]);
  }
}

// Goes through the answered items, and after the last one back to the next item. Nothing is stored by it.
async function goTo(place) {
  if (place < 0) return;
  if (place >= visited.ids.length) {
    await nextItem();
    return;
  }
  try {
    const reply = await call("api/item", {item: visited.ids[place]});
    visited.place = place;
    showItem(reply.item);
  } catch (error) {
    notice("The item could not be loaded: " + error.message);
  }
}
const previousItem = () => goTo((visited.place === null ? visited.ids.length : visited.place) - 1);
const followingItem = () => visited.place !== null && goTo(visited.place + 1);

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
  if (!session || at("keys").open || event.isComposing || event.altKey || event.metaKey) return false;
  // By the Shift key: Caps Lock changes the letter as well.
  const shifted = event.shiftKey && !event.ctrlKey ? event.key.toLowerCase() : null;
  if (!item) return shifted === "p" && (previousItem(), true);
  const inText = document.activeElement.tagName === "TEXTAREA";
  if (event.ctrlKey) return event.key === "Enter" && (submit(false), true);
  if (inText) return event.key === "Escape" && (document.activeElement.closest(".row").focus(), true);
  if (shifted === "s") return !at("skip").hidden && (skip(), true);
  if (shifted === "p") return (previousItem(), true);
  if (shifted === "n") return (followingItem(), true);
  if (event.key === "?") return (at("keys").showModal(), true);
  if (event.key === "ArrowDown" || event.key === "ArrowUp")
    return (moveFocus(event.key === "ArrowDown" ? 1 : -1), true);
  const row = rows().find((other) => other.element.contains(document.activeElement));
  // The key to the right of 0 is the eleventh.
  const isEleventh = event.code === "Minus" && !event.shiftKey;
  if (row && (/^[0-9]$/.test(event.key) || isEleventh)) {
    const isTaken = row.digit(isEleventh ? 10 : Number(event.key));
    if (isTaken && row.widget.advances) moveFocus(1);
    return isTaken;
  }
  if (row && (event.key === "Backspace" || event.key === "Delete")) return (row.clear(), true);
  if (event.key.toLowerCase() === "e") return editBest();
  const isButton = document.activeElement.tagName === "BUTTON";
  return Boolean(row && row.key && !(isButton && event.key === "Enter") && row.key(event));
}

document.addEventListener("keydown", (event) => {
  if (onKey(event)) event.preventDefault();
});
at("submit").addEventListener("click", () => submit(false));
at("skip").addEventListener("click", () => skip());
at("previous").addEventListener("click", () => previousItem());
at("next").addEventListener("click", () => followingItem());
at("show-keys").addEventListener("click", () => at("keys").showModal());
window.addEventListener("online", () => session && flush());
window.addEventListener("storage", (event) => {
  if (!session) return;
  if (event.key === null || event.key.startsWith(scope("refused"))) showRefused();
  // Another tab has sent something, perhaps what this one waits for.
  if (waiting && event.key && event.key.startsWith(scope("outbox")) && !event.newValue) flush();
});
window.addEventListener("beforeunload", (event) => inMemory.size && event.preventDefault());
// The focused row is never under the footer, whatever its height.
new ResizeObserver(() => {
  document.documentElement.style.scrollPaddingBottom = at("actions").offsetHeight + 8 + "px";
}).observe(at("actions"));

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
  visited.load();
  document.title = at("title").textContent = session.title;
  at("who").textContent = session.name + (session.role === "adjudicator" ? ", adjudicator" : "");
  at("guidelines").hidden = !session.guidelines;
  at("guidelines-text").textContent = session.guidelines;
  showRefused();
  await flush();
  if (!item) await nextItem();
}
start();
