"use strict";
document.documentElement.classList.add("js");
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const figures = JSON.parse($("#figures").textContent);

// Charts: figures are plain data whose colours are names; the style sheet says what they are.
async function loadPlotly() {
  const packed = await fetch("data:application/gzip;base64," + $("#plotly").textContent);
  const stream = packed.body.pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

function coloured(value, style) {
  if (typeof value === "string")
    return /^\$[a-z]+[0-9]*$/.test(value) ? style.getPropertyValue("--" + value.slice(1)).trim() : value;
  if (Array.isArray(value)) return value.map((v) => coloured(v, style));
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, style)]));
  return value;
}

function show(place, name) {
  const figure = figures[name];
  place.hidden = !figure;
  if (!figure || !window.Plotly) return;
  const { data, layout } = coloured(figure, getComputedStyle(document.documentElement));
  const style = getComputedStyle(document.body);
  const grid = getComputedStyle(document.documentElement).getPropertyValue("--line").trim();
  const axis = { gridcolor: grid, linecolor: grid, zeroline: false, automargin: true };
  for (const key of ["xaxis", "yaxis"]) layout[key] = { ...axis, ...layout[key] };
  const common = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true, hovermode: "closest",
    font: { family: style.fontFamily, color: style.color, size: 12 }, margin: { l: 56, r: 16, t: 32, b: 48 },
    legend: { orientation: "h", y: 1.12, x: 0 },
  };
  Plotly.react(place, data, { ...common, ...layout }, { responsive: true, displaylogo: false, displayModeBar: "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
}

function showTensor() {
  const chosen = $("#tensor")?.value;
  for (const kind of ["values", "codes", "search"]) if (chosen) show($("#tensor-" + kind), kind + ":" + chosen);
}

function showAll() {
  for (const place of $$("[data-figure]")) show(place, place.dataset.figure);
  showTensor();
}

// A node: in the drawing, in the table, in a chart.
function choose(id) {
  const details = $("#details-" + id);
  if (!details) return;
  $("#details").replaceChildren(details.content.cloneNode(true));
  for (const item of $$("[data-node]")) item.classList.toggle("chosen", item.dataset.node === String(id));
  const button = $("#details [data-tensor]");
  if (button) { $("#tensor").value = button.dataset.tensor; showTensor(); }
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-node], [data-tensor], [data-copy], .sortable th");
  if (!target) return;
  if (target.dataset.copy) return copy(target);
  if (target.dataset.tensor) return $("#tensors").scrollIntoView({ behavior: "smooth" });
  if (target.closest("thead")) return sort(target);
  const row = target.closest("[data-node]");
  if (row) choose(row.dataset.node);
  if (row?.tagName === "TR") $(".box.chosen")?.scrollIntoView({ block: "nearest", inline: "nearest" });
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.dataset?.node) choose(event.target.dataset.node);
});

async function copy(button) {
  const source = $("#" + button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {  // a page opened from a file may not use the clipboard
    getSelection().selectAllChildren(source);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
  }
}

function sort(head) {
  const column = [...head.parentElement.children].indexOf(head);
  const down = head.getAttribute("aria-sort") !== "descending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = $("tbody", head.closest("table"));
  const key = (row) => { const c = row.children[column]; return c.dataset.value ?? c.textContent.trim(); };
  const number = (text) => (text === "" ? -Infinity : Number(text.replace("inf", "Infinity")));
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [number(key(a)), number(key(b))];
    return Number.isNaN(x) || Number.isNaN(y) ? key(a).localeCompare(key(b)) : x < y ? -1 : x > y ? 1 : 0;
  });
  body.append(...(down ? rows.reverse() : rows));
}

$("#filter")?.addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = $$("#nodes tbody tr");
  for (const row of rows) {
    const text = (row.textContent + " " + figuresOf(row)).toLowerCase();
    row.hidden = !words.every((w) => text.includes(w));
  }
  $("#shown").textContent = rows.filter((r) => !r.hidden).length + " nodes";
});
const figuresOf = (row) => $("#details-" + row.dataset.node).content.textContent;

$("#tensor")?.addEventListener("change", showTensor);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showAll);
addEventListener("beforeprint", () => $$(".js-plotly-plot").forEach((p) => Plotly.Plots.resize(p)));
loadPlotly().then(() => {
  showAll();
  $("[data-figure=snr]")?.on?.("plotly_click", (event) => choose(event.points[0].customdata));
  document.documentElement.dataset.ready = "yes";
}, (error) => {
  for (const place of $$(".chart")) place.textContent = "This browser cannot draw the charts (" + error + ").";
});
const start = $("#details");
if (start) {
  choose(start.dataset.start);
  const [view, box] = [$(".drawing"), $(".box.chosen")?.getBoundingClientRect()];
  if (box) view.scrollTo(box.x - view.getBoundingClientRect().x - view.clientWidth / 2 + box.width / 2,
    box.y - view.getBoundingClientRect().y - view.clientHeight / 2);
}
