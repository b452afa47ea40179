// The map and the table of dropped rows. Prompts are only ever set as text, never as markup.
const coverage = JSON.parse(document.getElementById("coverage").textContent);
const outcomeOf = (row) => row.layer ?? "kept";
const standInText = (row) =>
  row.representative === undefined ? "" : (coverage.rows[row.representative]?.text ?? `row ${row.representative} (not among the decisions)`);

// The dropped rows.
{
  const AT_ONCE = 50;
  const rows = coverage.dropped.map((id) => {
    const row = coverage.rows[id];
    return [row, folded(`${row.text}\n${standInText(row)}\n${row.origin}\n${row.why}`)];
  });
  const [layer, search, more, body] = ["dropped-layer", "dropped-search", "dropped-more", "dropped-rows"].map(byId);
  fill(layer, [["", "any"], ...coverage.layers.map((name) => [name, name])]);
  let found = [];
  const show = () => {
    for (const row of found.slice(body.rows.length, body.rows.length + AT_ONCE)) {
      const line = element("tr");
      const prompt = element("td");
      prompt.append(element("p", row.text, "example"));
      const reason = element("td");
      reason.append(element("span", row.layer), element("br"), element("small", row.why));
      const standIn = element("td");
      if (row.representative !== undefined) {
        standIn.append(element("p", standInText(row), "example"), element("small", coverage.rows[row.representative]?.origin ?? ""));
      }
      line.append(element("td", row.origin), prompt, reason, standIn);
      body.append(line);
    }
    more.hidden = body.rows.length >= found.length;
    byId("dropped-count").textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows, ${body.rows.length} shown`;
  };
  const findRows = () => {
    const wanted = words(search.value);
    found = rows.filter(([row, text]) => (!layer.value || row.layer === layer.value) && holds(text, wanted)).map(([row]) => row);
    body.replaceChildren();
    show();
  };
  remembered(layer, "dropped-layer", findRows);
  remembered(search, "dropped", findRows);
  more.addEventListener("click", show);
  findRows();
}

// The map.
if (coverage.map.ids.length) {
  // Okabe and Ito 2008, lightened, and some more for many clusters; grey is for all others.
  const PALETTE = ["#3d8fd1", "#e8912d", "#17a67c", "#d667a5", "#c8b400", "#8a6fd6", "#d1543d", "#4fb8c9", "#8d9a3b", "#a9713f", "#6f88a8", "#c86a8a"];
  const OTHERS = "all others";
  const points = coverage.map.ids.map((id, at) => {
    const row = coverage.rows[id] ?? { text: `row ${id} (not among the decisions)`, origin: "" };
    return { at, row, folded: folded(`${row.text}\n${row.origin}`), lines: [[row.text.slice(0, 220)], [outcomeOf(row)]] };
  });
  const colours = [["outcome", "kept or dropped", (row) => (row.layer ? "dropped" : "kept")], ["layer", "layer", outcomeOf]];
  const has = (name) => points.some(({ row }) => row[name] !== undefined);
  if (has("cluster")) colours.push(["cluster", "cluster", (row) => (row.cluster === undefined ? "none" : `cluster ${row.cluster}`)]);
  if (has("template")) colours.push(["template", "template", (row) => (row.template === undefined ? "none" : `template ${row.template}`)]);
  if (has("language")) colours.push(["language", "language", (row) => row.language ?? "none"]);
  for (const name of coverage.dimensions) colours.push([`label ${name}`, name, (row) => row.labels?.[name] ?? "none"]);

  const [projection, colour, outcome, search] = ["map-projection", "map-colour", "map-outcome", "map-search"].map(byId);
  fill(projection, coverage.map.projections.map(({ name }, at) => [at, name]));
  projection.value = coverage.map.projections.length - 1;
  fill(colour, colours.map(([value, text]) => [value, text]));
  if (has("cluster")) colour.value = "cluster";
  fill(outcome, [["", "all"], ["kept", "kept"], ["dropped", "dropped"], ...coverage.layers.map((name) => [`by ${name}`, `dropped: ${name}`])]);
  const labels = coverage.dimensions.map((name) => {
    const counts = new Map();
    for (const { row } of points) if (row.labels?.[name]) counts.set(row.labels[name], (counts.get(row.labels[name]) ?? 0) + 1);
    const label = element("label", name);
    const select = element("select");
    fill(select, [["", "all"], ...[...counts].sort((a, b) => b[1] - a[1]).map(([value, n]) => [value, `${value} (${n})`])]);
    label.append(select);
    byId("map-labels").append(label);
    return [name, select];
  });
  const passes = ({ row }) =>
    (!outcome.value || (outcome.value === "kept" ? !row.layer : outcome.value === "dropped" ? row.layer : `by ${row.layer}` === outcome.value)) &&
    labels.every(([name, select]) => !select.value || row.labels?.[name] === select.value);
  const map = new PointMap(byId("map-plot"), ({ row }) => detail(row));

  const draw = () => {
    const { x, y, about } = coverage.map.projections[projection.value];
    const [, , keyOf] = colours.find(([value]) => value === colour.value);
    const wanted = words(search.value);
    const shown = points.filter(passes);
    const groups = new Map();
    for (const point of shown) {
      const key = keyOf(point.row);
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(point);
    }
    const sorted = [...groups].sort((a, b) => b[1].length - a[1].length || (a[0] < b[0] ? -1 : 1));
    const rest = sorted.splice(PALETTE.length).flatMap(([, members]) => members);
    if (rest.length) sorted.unshift([OTHERS, rest]);
    let nFound = 0;
    const shownGroups = sorted.map(([name, members], at) => {
      const place = at - (rest.length ? 1 : 0);
      const color = name === OTHERS || name === "none" ? themeColor("--faint") : PALETTE[place];
      const placed = members.map((point) => {
        const isFound = wanted.length ? holds(point.folded, wanted) : undefined;
        nFound += isFound ? 1 : 0;
        return { ...point, x: x[point.at], y: y[point.at], isFound };
      });
      return { name, color, points: placed };
    });
    map.show(shownGroups, projection.value);
    const count = (n) => n.toLocaleString("en");
    byId("map-count").textContent = `${count(shown.length)} of ${count(points.length)} points` + (wanted.length ? `, ${count(nFound)} match the search` : "");
    byId("map-about").textContent = about;
  };
  function themeColor(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }
  function detail(row) {
    const pairs = [["cluster", row.cluster], ["template", row.template], ["language", row.language], ["quality", row.quality], ...Object.entries(row.labels ?? {})];
    const facts = element("p");
    facts.append(element("span", row.origin, "pair"));
    for (const [name, value] of pairs) if (value !== undefined) facts.append(element("span", `${name}: ${value}`, "pair"));
    const parts = [element("p", row.text, "text"), facts];
    if (row.layer) parts.push(element("p", `dropped by ${row.layer}${row.why ? ` (${row.why})` : ""}`));
    if (row.representative !== undefined) parts.push(element("h3", "representative"), element("p", standInText(row), "text"));
    byId("map-detail").replaceChildren(...parts);
  }
  remembered(projection, "projection", draw);
  remembered(colour, "colour", draw);
  remembered(outcome, "rows", draw);
  for (const [name, select] of labels) remembered(select, `label ${name}`, draw);
  remembered(search, "search", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}
