// Draws the charts in the page's own colours, and again when light turns dark.
const charts = JSON.parse(document.getElementById("charts").textContent);
const themed = () => {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  return {
    "font.color": color("--quiet"),
    "font.family": getComputedStyle(document.body).fontFamily,
    "font.size": 12,
    "xaxis.gridcolor": color("--grid"),
    "yaxis.gridcolor": color("--grid"),
    "hoverlabel.bgcolor": color("--sheet"),
    "hoverlabel.bordercolor": color("--line"),
    "hoverlabel.font.color": color("--ink"),
  };
};
// Dragging zooms, a double click zooms back; no buttons are needed for that.
const options = { responsive: true, displayModeBar: false };
for (const { id, figure } of charts) {
  Plotly.newPlot(id, figure.data, figure.layout, options).then(() => Plotly.relayout(id, themed()));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const { id } of charts) Plotly.relayout(id, themed());
});
