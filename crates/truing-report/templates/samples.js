// The items with their answers and scores. Everything of a run is only ever set as text, never as markup.
{
  const { sides, tasks, samples } = JSON.parse(byId("samples").textContent);
  const AT_ONCE = 25;
  const isPair = sides.length > 1;
  const [task, metric, score, category, order, search, more, list] = ["task", "metric", "score", "category", "order", "search", "more", "list"].map((name) => byId(`sample-${name}`));
  for (const sample of samples) {
    const texts = sample.runs.flatMap((run) => [...run.answers, ...run.judge].map((one) => one.text).concat(run.why));
    sample.folded = folded([sample.id, sample.at, sample.prompt, sample.target, ...sample.categories, ...texts].join("\n"));
  }
  const number = (value) => (value === null ? "none" : Math.abs(value) < 10 ? String(Number(value.toFixed(3))) : value.toFixed(1));
  const chosenMetric = () => tasks[task.value].metrics[metric.value];
  const values = (sample) => sample.runs.map((run) => run.values[metric.value] ?? null);
  const better = ([first, second]) => (first === null || second === null ? 0 : Math.sign(second - first) * (chosenMetric().higher ? 1 : -1));
  const kindOf = (value) => {
    const { range, higher } = chosenMetric();
    if (value === null) return "unscored";
    if (!range) return "scored";
    const [worst, best] = higher ? range : [range[1], range[0]];
    return value === best ? "best" : value === worst ? "worst" : "between";
  };
  const classOf = (sample) => {
    const found = values(sample);
    if (isPair) return { "1": "good", "-1": "bad" }[better(found)] ?? "";
    return { best: "good", worst: "bad", unscored: "look" }[kindOf(found[0])] ?? "";
  };
  const scoreKinds = isPair
    ? [["", "any change", () => true], ["up", "second better", (found) => better(found) > 0], ["down", "second worse", (found) => better(found) < 0], ["same", "no change in this metric", (found) => better(found) === 0]]
    : [["", "any", () => true], ["best", "full score", ([value]) => kindOf(value) === "best"], ["between", "in between", ([value]) => kindOf(value) === "between"], ["worst", "lowest score", ([value]) => kindOf(value) === "worst"], ["unscored", "without a score", ([value]) => value === null]];
  const orders = [["", isPair ? "largest changes first" : "as in the file"], ["low", "lowest score first"], ["high", "highest score first"], ["long", "longest answer first"]];

  const part = (title, text) => {
    const made = element("div");
    made.append(element("h4", title), element("p", text, "text"));
    return made;
  };
  const side = (sample, at) => {
    const run = sample.runs[at];
    const made = element("div", undefined, "side");
    for (const answer of run.answers) made.append(part([sides[at], answer.name].filter(Boolean).join(" "), answer.text || "(empty)"));
    if (run.why.length) {
      made.append(element("h4", "why"), element("pre", run.why.join("\n"), "why"));
    }
    for (const verdict of run.judge) {
      const reply = element("details");
      reply.append(element("summary", `judge: ${verdict.name}`), element("p", verdict.text, "text"));
      made.append(reply);
    }
    return made;
  };
  const scores = (sample) => {
    const table = element("table");
    const head = element("tr");
    for (const name of ["metric", ...(isPair ? sides : ["score"])]) {
      const cell = element("th", name);
      cell.scope = "col";
      head.append(cell);
    }
    table.append(head);
    tasks[sample.task].metrics.forEach(({ name }, at) => {
      const line = element("tr");
      line.append(element("td", name), ...sample.runs.map((run) => element("td", number(run.values[at] ?? null), "number")));
      table.append(line);
    });
    return table;
  };
  const show = (sample) => {
    const kind = classOf(sample);
    const made = element("details", undefined, `sample ${kind}`);
    const head = element("summary");
    head.append(element("span", sample.id, "id"), element("span", sample.prompt, "head"), element("span", values(sample).map(number).join(" → "), `score ${kind}`));
    made.append(head);
    // An item's texts are made when it is opened.
    made.addEventListener("toggle", () => {
      if (!made.open || made.querySelector(".body")) return;
      const body = element("div", undefined, "body");
      const tags = element("p", undefined, "quiet");
      tags.append(`${sample.at} `, ...sample.categories.flatMap((name) => [element("span", name, "tag"), " "]));
      const before = sample.n_shots ? `prompt, after ${sample.n_shots} solved examples` : "prompt";
      body.append(tags, part(before, sample.prompt));
      if (sample.target) body.append(part("expected", sample.target));
      const both = element("div", undefined, "sides");
      both.append(...sample.runs.map((_, at) => side(sample, at)));
      body.append(both, element("h4", "scores"), scores(sample));
      made.append(body);
    });
    return made;
  };

  let found = [];
  const showMore = () => {
    list.append(...found.slice(list.children.length, list.children.length + AT_ONCE).map(show));
    more.hidden = list.children.length >= found.length;
    const count = (n) => n.toLocaleString("en");
    byId("sample-count").textContent = `${count(found.length)} found, ${count(list.children.length)} shown. ${tasks[task.value].rule}`;
  };
  const find = () => {
    const wanted = words(search.value);
    const [, , passes] = scoreKinds.find(([value]) => value === score.value);
    found = samples.filter((sample) => sample.task === Number(task.value) && passes(values(sample)) && (!category.value || sample.categories.includes(category.value)) && holds(sample.folded, wanted));
    const last = (sample) => values(sample).at(-1);
    const length = (sample) => Math.max(...sample.runs.map((run) => run.answers.reduce((sum, one) => sum + one.text.length, 0)));
    const byScore = (sign) => (a, b) => (last(a) === null) - (last(b) === null) || sign * (last(a) - last(b));
    const sorts = { low: byScore(1), high: byScore(-1), long: (a, b) => length(b) - length(a) };
    if (sorts[order.value]) found.sort(sorts[order.value]);
    list.replaceChildren();
    showMore();
  };
  const changeTask = () => {
    const names = new Set(samples.filter((sample) => sample.task === Number(task.value)).flatMap((sample) => sample.categories));
    for (const select of [metric, category]) select.replaceChildren();
    fill(metric, tasks[task.value].metrics.map(({ name }, at) => [at, name]));
    fill(category, [["", "any"], ...[...names].sort().map((name) => [name, name])]);
    find();
  };
  fill(task, tasks.map(({ name }, at) => [at, name]));
  fill(score, scoreKinds);
  fill(order, orders);
  remembered(task, "task", changeTask);
  changeTask();
  for (const [input, name] of [[metric, "metric"], [score, "score"], [category, "category"], [order, "order"], [search, "search"]]) remembered(input, name, find);
  more.addEventListener("click", showMore);
  find();
}
