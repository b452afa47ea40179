// What searches share: elements of text, words of a query, what is chosen, and tables with a search field of their own.
const byId = (id) => document.getElementById(id);
const element = (name, text, className) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
};
const folded = (text) => text.normalize("NFKC").toLowerCase();
const words = (query) => folded(query).split(/\s+/).filter(Boolean);
const holds = (text, wanted) => wanted.every((word) => text.includes(word));
const fill = (select, choices) => {
  for (const [value, text] of choices) {
    const option = element("option", text);
    option.value = value;
    select.append(option);
  }
};

// What is chosen stands in the address, so that a view can be bookmarked and sent.
const chosen = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
const remembered = (input, name, act) => {
  if (chosen.has(name)) {
    const before = input.value;
    input.value = chosen.get(name);
    if (input.tagName === "SELECT" && input.selectedIndex < 0) input.value = before;
  }
  let waiting;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (input.value) chosen.set(name, input.value); else chosen.delete(name);
      try { history.replaceState(null, "", `#${chosen}`); } catch { /* a page inside another may not */ }
      act();
    }, input.type === "search" ? 120 : 0);
  });
};

// Every table with a search field of its own.
for (const input of document.querySelectorAll("[data-filters]")) {
  const rows = [...byId(input.dataset.filters).tBodies[0].rows].map((row) => [row, folded(row.textContent)]);
  remembered(input, input.dataset.filters, filter);
  filter();
  function filter() {
    const wanted = words(input.value);
    for (const [row, text] of rows) row.hidden = !holds(text, wanted);
  }
}
