"use strict";
// The widgets. Each keeps its state, shows it, and hands it on:
//   rows      focusable parts in reading order: {element, digit(n), clear(), key(event)}
//   state()   what was entered so far, load(state) puts it back
//   answer()  the answer as it is stored, null while it is not complete
// Texts of items are never markup: they are set as textContent only.

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
};

const letter = (place) => String.fromCharCode(65 + place);
const bytesBefore = (text, end) => new TextEncoder().encode(text.slice(0, end)).length;

// The UTF-16 offset of a UTF-8 offset.
const charactersBefore = (text, bytes) =>
  new TextDecoder("utf-8", {ignoreBOM: true}).decode(new TextEncoder().encode(text).slice(0, bytes)).length;

// An answer in words, by its shape; `order` has the responses in the order in which they were shown.
function describeAnswer(answer, order) {
  const name = (index) => letter(order.indexOf(index));
  if (answer.ranks) {
    const places = order.map((index) => [answer.ranks[index], name(index)]).sort((one, other) => one[0] - other[0]);
    const relation = (idx) => (idx === 0 ? "" : places[idx - 1][0] === places[idx][0] ? " = " : " > ");
    return places.map(([, response], idx) => relation(idx) + response).join("");
  }
  if (answer.ratings) {
    const points = (of) => order.map((index) => name(index) + " " + of[index]).join(", ");
    return Object.entries(answer.ratings)
      .map(([aspect, of]) => aspect + ": " + points(of))
      .join("; ");
  }
  if (answer.spans) {
    const spans = answer.spans.map((span) => span.label + " in " + name(span.response) + ": “" + span.text + "”");
    return spans.join("; ") || "none";
  }
  if (answer.labels) return answer.labels.join(", ");
  if (typeof answer.text === "string") return "edit of " + name(answer.response) + ":\n" + answer.text;
  return JSON.stringify(answer);
}

// All answers to an item, a line or more for each question.
const describeAnswers = (answers, order) =>
  Object.entries(answers)
    .map(([question, answer]) => question + ": " + describeAnswer(answer, order))
    .join("\n");

// A row of buttons of which some are pressed. `keys` are the digits of the choices, 10 the key to the right of 0. Right
// and Left go from button to button, so that choices without a digit have keys as well.
function choiceRow(label, names, keys, pressed, choose, clear) {
  const element = make("div", {class: "row", role: "group", tabindex: "0", "aria-label": label});
  const choices = make("div", {class: "choices"});
  element.append(make("span", {class: "name", text: label}), choices);
  const buttons = names.map((name, idx) => {
    const button = make("button", {
      type: "button",
      class: "choice",
      text: name,
      "aria-label": label + ": " + name,
      onclick: () => {
        choose(idx);
        show();
      },
    });
    choices.append(button);
    return button;
  });
  const show = () => buttons.forEach((button, idx) => button.setAttribute("aria-pressed", String(pressed(idx))));
  const digit = (n) => {
    const idx = keys.indexOf(n);
    if (idx < 0) return false;
    choose(idx);
    show();
    return true;
  };
  const key = (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return false;
    const now = buttons.indexOf(document.activeElement);
    const next = now < 0 ? (step > 0 ? 0 : buttons.length - 1) : now + step;
    if (buttons[next]) buttons[next].focus();
    return true;
  };
  show();
  return {
    element,
    digit,
    key,
    show,
    clear: () => {
      clear();
      show();
    },
  };
}

// Ranks of all responses: a row in the card of each.
function rankingWidget(question, item, hosts, changed) {
  const n = item.responses.length;
  let ranks = new Array(n).fill(null);
  const names = item.responses.map((_, idx) => String(idx + 1));
  const rows = item.responses.map((response, place) =>
    choiceRow(
      question.name + ", response " + letter(place) + ", rank",
      names,
      names.map((_, idx) => idx + 1),
      (idx) => ranks[response.index] === idx + 1,
      (idx) => {
        ranks[response.index] = idx + 1;
        changed();
      },
      () => {
        ranks[response.index] = null;
        changed();
      },
    ),
  );
  rows.forEach((row, place) => hosts.cards[place].append(row.element));
  const load = (given) => {
    ranks = [...given.ranks];
    rows.forEach((row) => row.show());
  };
  const best = () => {
    const complete = ranks.every((rank) => rank !== null);
    const first = ranks.filter((rank) => rank === Math.min(...ranks));
    return complete && first.length === 1 ? ranks.indexOf(first[0]) : null;
  };
  return {
    question,
    rows,
    advances: true,
    load,
    best,
    state: () => ({ranks}),
    answer: () => (ranks.every((rank) => rank !== null) ? {ranks: [...ranks]} : null),
  };
}

// The better of two responses, stored as a ranking of both.
function pairwiseWidget(question, item, hosts, changed) {
  const [first, second] = item.responses.map((response) => response.index);
  let ranks = null;
  const ranksOf = (idx) => {
    const found = [1, 1];
    if (idx === 0) found[second] = 2;
    if (idx === 1) found[first] = 2;
    return found;
  };
  const is = (idx) => ranks !== null && String(ranks) === String(ranksOf(idx));
  const row = choiceRow(
    question.name,
    ["A is better", "B is better", "Tie"],
    [1, 2, 0],
    is,
    (idx) => {
      ranks = ranksOf(idx);
      changed();
    },
    () => {
      ranks = null;
      changed();
    },
  );
  hosts.question(question).append(row.element);
  return {
    question,
    rows: [row],
    advances: true,
    state: () => ({ranks}),
    answer: () => ranks && {ranks},
    load: (given) => {
      ranks = given.ranks;
      row.show();
    },
    best: () => (ranks === null || is(2) ? null : is(0) ? first : second),
  };
}

// A rating of every response in every aspect: a row for each aspect in the card of each response.
function scaleWidget(question, item, hosts, changed) {
  const points = [];
  for (let point = question.min; point <= question.max; point += 1) points.push(point);
  const empty = () => new Array(item.responses.length).fill(null);
  let ratings = Object.fromEntries(question.labels.map((aspect) => [aspect, empty()]));
  const rows = [];
  item.responses.forEach((response, place) => {
    for (const aspect of question.labels) {
      const row = choiceRow(
        aspect + ", response " + letter(place),
        points.map(String),
        // On a scale that does not have 0, its key is 10.
        points.map((point) => (point === 10 && question.min > 0 ? 0 : point)),
        (idx) => ratings[aspect][response.index] === points[idx],
        (idx) => {
          ratings[aspect][response.index] = points[idx];
          changed();
        },
        () => {
          ratings[aspect][response.index] = null;
          changed();
        },
      );
      hosts.cards[place].append(row.element);
      rows.push(row);
    }
  });
  const load = (given) => {
    ratings = Object.fromEntries(
      question.labels.map((aspect) => [aspect, [...(given.ratings[aspect] || empty())]]),
    );
    rows.forEach((row) => row.show());
  };
  const isComplete = () => Object.values(ratings).every((of) => of.every((point) => point !== null));
  return {
    question,
    rows,
    advances: true,
    load,
    state: () => ({ratings}),
    answer: () => (isComplete() ? {ratings} : null),
  };
}

// Labels of the item.
function labelWidget(question, item, hosts, changed) {
  let labels = [];
  const choose = (idx) => {
    const name = question.labels[idx];
    const isOn = labels.includes(name);
    if (!question.multiple) labels = [name];
    else labels = isOn ? labels.filter((other) => other !== name) : [...labels, name];
    changed();
  };
  const keys = question.labels.map((_, idx) => (idx < 9 ? idx + 1 : idx === 9 ? 0 : idx === 10 ? 10 : -1));
  const row = choiceRow(
    question.name,
    question.labels,
    keys,
    (idx) => labels.includes(question.labels[idx]),
    choose,
    () => {
      labels = [];
      changed();
    },
  );
  hosts.question(question).append(row.element);
  return {
    question,
    rows: [row],
    advances: !question.multiple,
    state: () => ({labels}),
    load: (given) => {
      labels = [...given.labels];
      row.show();
    },
    answer: () => (labels.length ? {labels: [...labels]} : null),
  };
}

// Marked stretches of the responses. Without a mark the answer is that there is none.
function spansWidget(question, item, hosts, changed) {
  let spans = [];
  const views = item.responses.map((response, place) =>
    markedText(
      question,
      response,
      place,
      hosts.cards[place],
      () => spans,
      (next) => {
        spans = next;
        views.forEach((view) => view.show());
        changed();
      },
    ),
  );
  return {
    question,
    rows: views,
    advances: false,
    state: () => ({spans}),
    answer: () => ({spans: [...spans]}),
    load: (given) => {
      spans = [...given.spans];
      views.forEach((view) => view.show());
    },
  };
}

// The text of a response in which stretches are selected, with the mouse or word by word, and marked.
function markedText(question, response, place, card, spans, replace) {
  const {text, index} = response;
  const label = "Mark errors in response " + letter(place);
  const body = make("div", {class: "text"});
  const choices = make("div", {class: "choices"});
  const list = make("ul", {class: "marks", "aria-label": "Marks in response " + letter(place)});
  const element = make(
    "div",
    {class: "row", role: "group", tabindex: "0", "aria-label": label},
    make("span", {class: "name", text: question.name + ": select words, then a kind"}),
    body,
    choices,
    list,
  );
  question.labels.forEach((kind, idx) =>
    choices.append(
      make("button", {
        type: "button",
        class: "choice",
        text: idx + 1 + " " + kind,
        "aria-label": "Mark the selection in response " + letter(place) + " as " + kind,
        // The selection must outlive the click.
        onmousedown: (event) => event.preventDefault(),
        onclick: () => mark(idx),
      }),
    ),
  );
  card.append(element);
  const words = [...new Intl.Segmenter(undefined, {granularity: "word"}).segment(text)]
    .filter((segment) => segment.isWordLike)
    .map((segment) => [segment.index, segment.index + segment.segment.length]);
  let cursor = null;

  // The place in the DOM of an offset in the text.
  const placeOf = (offset) => {
    const walker = document.createTreeWalker(body, NodeFilter.SHOW_TEXT);
    let before = 0;
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      if (offset <= before + node.length) return [node, offset - before];
      before += node.length;
    }
    return [body, body.childNodes.length];
  };
  // The offset in the text of a place in the DOM.
  const offsetOf = (node, offset) => {
    const range = document.createRange();
    range.setStart(body, 0);
    range.setEnd(node, offset);
    return range.toString().length;
  };
  const selected = () => {
    const selection = window.getSelection();
    if (!selection.rangeCount || selection.isCollapsed) return null;
    const range = selection.getRangeAt(0);
    if (!body.contains(range.startContainer) || !body.contains(range.endContainer)) return null;
    let [start, end] = [
      offsetOf(range.startContainer, range.startOffset),
      offsetOf(range.endContainer, range.endOffset),
    ];
    // Not through the middle of a character of two UTF-16 units.
    const splits = (at) => at > 0 && /[\uD800-\uDBFF]/.test(text[at - 1]) && /[\uDC00-\uDFFF]/.test(text[at] || "");
    if (splits(start)) start -= 1;
    if (splits(end)) end += 1;
    return start < end ? [start, end] : null;
  };
  const select = (start, end) => {
    window.getSelection().setBaseAndExtent(...placeOf(start), ...placeOf(end));
  };
  const mark = (idx) => {
    const range = selected();
    if (!range || idx >= question.labels.length) return false;
    const [start, end] = range;
    const span = {
      response: index,
      start: bytesBefore(text, start),
      end: bytesBefore(text, end),
      label: question.labels[idx],
      text: text.slice(start, end),
    };
    const isSame = (other) =>
      other.response === index &&
      other.start === span.start &&
      other.end === span.end &&
      other.label === span.label;
    if (!spans().some(isSame)) replace([...spans(), span]);
    select(start, end);
    return true;
  };
  const move = (event) => {
    if (!words.length) return false;
    const step = event.key === "ArrowRight" ? 1 : -1;
    if (cursor === null) cursor = {from: step > 0 ? 0 : words.length - 1, to: step > 0 ? 0 : words.length - 1};
    else {
      const to = Math.min(Math.max(cursor.to + step, 0), words.length - 1);
      cursor = {from: event.shiftKey ? cursor.from : to, to};
    }
    const [low, high] = [Math.min(cursor.from, cursor.to), Math.max(cursor.from, cursor.to)];
    select(words[low][0], words[high][1]);
    return true;
  };
  const show = () => {
    const mine = spans()
      .filter((span) => span.response === index)
      .map((span) => ({...span, low: charactersBefore(text, span.start), high: charactersBefore(text, span.end)}));
    const edges = [...new Set([0, text.length, ...mine.flatMap((span) => [span.low, span.high])])].sort(
      (a, b) => a - b,
    );
    body.replaceChildren();
    edges.slice(1).forEach((end, idx) => {
      const kinds = mine
        .filter((span) => span.low <= edges[idx] && end <= span.high)
        .map((span) => question.labels.indexOf(span.label));
      const piece = text.slice(edges[idx], end);
      const className = kinds.map((kind) => "kind-" + kind).join(" ");
      body.append(kinds.length ? make("mark", {class: className, text: piece}) : document.createTextNode(piece));
    });
    list.replaceChildren(
      ...mine.map((span) =>
        make(
          "li",
          {},
          make("span", {text: span.label + ": “" + span.text + "”"}),
          make("button", {
            type: "button",
            class: "plain",
            text: "Remove",
            "aria-label": "Remove the mark " + span.label + " on " + span.text,
            onclick: () => {
              replace(
                spans().filter(
                  (other) =>
                    other !==
                    spans().find(
                      (one) =>
                        one.response === span.response &&
                        one.start === span.start &&
                        one.end === span.end &&
                        one.label === span.label,
                    ),
                ),
              );
              element.focus();
            },
          }),
        ),
      ),
    );
  };
  show();
  return {
    element,
    show,
    digit: (n) => n > 0 && mark(n - 1),
    clear: () => replace(spans().filter((span) => span.response !== index)),
    key: (event) => (event.key === "ArrowRight" || event.key === "ArrowLeft") && move(event),
  };
}

// A corrected response: one is chosen, its text is edited.
function editWidget(question, item, hosts, changed) {
  let chosen = null;
  // What was entered for each response: another choice, or none, does not lose it.
  let texts = {};
  const area = make("textarea", {"aria-label": question.name + ": corrected text", hidden: ""});
  // A text area has line feeds only.
  const plain = (text) => text.replace(/\r\n?/g, "\n");
  const original = () => item.responses.find((response) => response.index === chosen).text;
  const pick = (index) => {
    chosen = index;
    area.hidden = index === null;
    area.value = index === null ? "" : index in texts ? texts[index] : original();
    row.show();
  };
  const choose = (index) => {
    pick(index);
    changed();
  };
  const row = choiceRow(
    question.name,
    item.responses.map((_, place) => "Edit " + letter(place)),
    item.responses.map((_, place) => place + 1),
    (place) => item.responses[place].index === chosen,
    (place) => choose(item.responses[place].index),
    () => choose(null),
  );
  row.element.append(area);
  const toButtons = row.key;
  row.key = (event) => {
    if (event.key !== "Enter" || event.ctrlKey || chosen === null) return toButtons(event);
    area.focus();
    return true;
  };
  area.addEventListener("input", () => {
    texts[chosen] = area.value;
    changed();
  });
  hosts.question(question).append(row.element);
  const text = () => (area.value === plain(original()) ? original() : area.value);
  const answer = () => (chosen === null ? {response: null} : {response: chosen, text: text()});
  return {
    question,
    rows: [row],
    advances: false,
    state: () => ({...answer(), texts}),
    answer: () => (chosen === null || !area.value.trim() ? null : answer()),
    load: (given) => {
      texts = {...texts, ...given.texts};
      if (given.response !== null && given.text !== undefined) texts[given.response] = given.text;
      pick(given.response);
    },
    editBest: (index) => {
      choose(index);
      row.element.focus();
    },
  };
}

const WIDGETS = {
  ranking: rankingWidget,
  pairwise: pairwiseWidget,
  scale: scaleWidget,
  label: labelWidget,
  spans: spansWidget,
  edit: editWidget,
};
