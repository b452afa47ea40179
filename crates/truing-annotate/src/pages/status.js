"use strict";
// The owner's page: the status as tables, read again every few seconds.

const at = (id) => document.getElementById(id);
const PAUSE_MS = 5000;
const given = new URLSearchParams(location.search).get("token");
if (given) {
  sessionStorage.setItem("truing-token", given);
  history.replaceState(null, "", location.pathname);
}

const rounded = (value, digits = 3) => (value === null || value === undefined ? "-" : value.toFixed(digits));
const percent = (part, whole) => (whole ? Math.round((100 * part) / whole) + " % of " + whole : "-");
const estimated = (found) =>
  found
    ? rounded(found.value) + " [" + rounded(found.interval.low) + ", " + rounded(found.interval.high) + "]"
    : "-";

// A table; columns whose heading begins with "#" are numbers.
function table(headings, rows) {
  const cell = (tag, value, heading) => {
    const element = document.createElement(tag);
    element.textContent = value;
    if (heading.startsWith("#")) element.className = "number";
    return element;
  };
  const line = (tag, cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map((value, idx) => cell(tag, value, headings[idx])));
    return row;
  };
  const element = document.createElement("table");
  element.append(
    line(
      "th",
      headings.map((heading) => heading.replace("#", "")),
    ),
    ...rows.map((cells) => line("td", cells)),
  );
  return element;
}

function show(status) {
  document.title = at("title").textContent = status.title + ": status";
  if (!status.progress) {
    at("updated").textContent = "being measured";
    return;
  }
  const {progress, annotators, agreement, judges} = status;
  at("progress").replaceChildren(
    table(
      ["#items", "#started", "#complete", "#in dispute", "#decided", "#answers", "#skips", "#need another annotator"],
      [
        [
          progress.n_items,
          progress.n_started,
          progress.n_complete,
          progress.n_disputed,
          progress.n_adjudicated,
          progress.n_answers,
          progress.n_skips,
          progress.n_need_annotator,
        ],
      ],
    ),
  );
  at("people").replaceChildren(
    table(
      ["name", "#answers", "#skips", "#right on gold", "#checks failed", "#seconds an item", "#competence"],
      annotators.map((one) => [
        one.name + (one.has_left ? " (left)" : ""),
        one.n_answers,
        one.n_skips,
        percent(one.n_gold_right, one.n_gold),
        percent(one.n_attention_failed, one.n_attention),
        rounded(one.median_secs, 1),
        rounded(one.competence),
      ]),
    ),
  );
  at("agreement").replaceChildren(
    table(
      [
        "question",
        "statistic",
        "#value [95 % interval]",
        "#items",
        "#further items for a width of " + status.target_interval,
      ],
      agreement.map((one) => [
        one.question + (one.aspect ? ", " + one.aspect : ""),
        one.statistic,
        one.estimate ? estimated(one.estimate) : "- (" + one.undefined + ")",
        one.estimate
          ? one.estimate.n_units +
            (one.n_resampled < one.estimate.n_units ? " (interval from " + one.n_resampled + ")" : "")
          : "-",
        one.n_further_items === null ? "-" : one.n_further_items,
      ]),
    ),
  );
  at("judges-section").hidden = !judges.length;
  at("judges").replaceChildren(
    table(
      ["question", "#compared", "#same", "#kappa", "#rank correlation [95 % interval]"],
      judges.map((one) => [
        one.question,
        one.agreement ? one.agreement.n : one.rank_correlation.n_units,
        one.agreement ? rounded(one.agreement.share) : "-",
        one.agreement ? rounded(one.agreement.kappa) : "-",
        estimated(one.rank_correlation),
      ]),
    ),
  );
  at("doubtful").hidden = !status.doubtful_items.length;
  at("doubtful").textContent =
    "Most annotators answered these otherwise than expected; look whether what is expected is wrong: " +
    status.doubtful_items.join(", ");
  at("main").hidden = false;
  at("updated").textContent =
    "as of " + new Date(Date.now() - 1000 * status.age_secs).toLocaleTimeString() +
    (status.age_secs ? ", the next is being measured" : "");
}

function notice(text) {
  at("notice").hidden = !text;
  at("notice").textContent = text || "";
}

async function refresh() {
  try {
    const reply = await fetch("api/status", {
      headers: {Authorization: "Bearer " + sessionStorage.getItem("truing-token")},
    });
    const body = await reply.json();
    if (!reply.ok) throw new Error(body.error.message);
    notice(body.problem);
    show(body);
  } catch (error) {
    notice("The status could not be loaded: " + error.message);
  }
  setTimeout(refresh, PAUSE_MS);
}
refresh();
