"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const isSingle = data.runs.length === 1;
// Text that Plotly shows is markup for it, and "%{x}" a placeholder.
const ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "%": "&#37;"};
// Line styles of further averages; those of the averages and of the raw weights are fixed.
const DASHES = ["dashdot", "longdash", "longdashdot", "dot"];
const RAW_DASH = "4px,3px";
// Share of the steps that does not count for the fitted axis: low early scores would compress
// the differences.
const EARLY = 0.25;
// Number of configs up to which everything is shown at first.
const FEW = 4;

const isVisible = data.runs.map(() => true);
const kinds = findKinds();
const plots = [];
// Range of steps in all plots; null for all steps.
let zoom = null;

for (const run of data.runs) {
  run.scores = run.raw.map((raw, i) => run.averages[i] ?? raw);
  run.name = data.groups[run.group];
}

function element(name, attributes = {}, ...children) {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) found.setAttribute(key, value);
  }
  found.append(...children);
  return found;
}

function byId(id) {
  return document.getElementById(id);
}

function colourOf(group) {
  return data.colours[group % data.colours.length];
}

function asText(text) {
  return String(text).replace(/[&<>%]/g, (character) => ENTITIES[character]);
}

function formatScore(value, score) {
  if (value === null || value === undefined) return "";
  return score === "accuracy" ? (100 * value).toFixed(2) : value.toPrecision(4);
}

function formatTime(seconds) {
  if (seconds < 60) return `${seconds.toPrecision(3)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  if (hours) return `${hours} h ${String(minutes).padStart(2, "0")} min`;
  return `${minutes} min ${String(whole % 60).padStart(2, "0")} s`;
}

function extreme(values) {
  const numbers = values.filter((value) => value !== null);
  return numbers.length ? numbers.reduce((a, b) => Math.max(a, b)) : null;
}

function last(values) {
  return values.length ? values[values.length - 1] : null;
}

function unique(values) {
  return [...new Set(values)];
}

// Kinds of curves: raw weights, averages, and each further average of a nesting.

function findKinds() {
  const found = [];
  if (data.runs.some((run) => run.averages.length)) {
    found.push({name: "averages", label: "averages", dash: "solid"});
    found.push({name: "raw", label: "raw weights", dash: RAW_DASH});
  }
  const others = unique(data.runs.flatMap((run) => Object.keys(run.all)));
  if (others.length) found[0].label = "averages that are saved";
  others.forEach((name, i) => {
    const dash = DASHES[i % DASHES.length];
    found.push({name, label: `averages of ${name}`, dash, isOther: true});
  });
  found.forEach((kind, i) => {
    kind.isOn = !kind.isOther || data.groups.length <= FEW;
    // As in the pictures of a single training.
    kind.colour = isSingle ? data.colours[i % data.colours.length] : null;
  });
  return found;
}

function isOn(name) {
  return kinds.some((kind) => kind.name === name && kind.isOn);
}

// Curves: {group, label, steps, values, deviations, dash, colour, width}

function curvesOfRun(run, score) {
  if (score.other) {
    const values = run.other[score.other];
    return values ? [{values, dash: "solid"}] : [];
  }
  if (run.score !== score.kind) return [];
  // The only weights of a run without averages.
  if (!run.averages.length) return [{values: run.raw, dash: "solid", label: "raw weights"}];
  const found = [];
  for (const kind of kinds.filter((found) => found.isOn)) {
    const values = kind.isOther ? run.all[kind.name] : run[kind.name];
    if (values) found.push({values, dash: kind.dash, label: kind.label, colour: kind.colour});
  }
  return found;
}

function runCurves(curvesOf) {
  return data.runs.flatMap((run, i) => {
    if (!isVisible[i]) return [];
    const seed = run.seed === null ? "" : `, seed ${run.seed}`;
    return curvesOf(run).map((curve) => ({
      ...curve,
      steps: curve.steps ?? run.steps,
      group: run.group,
      name: run.name + (isSingle ? "" : seed),
    }));
  });
}

// The mean over the seeds, at the steps that all complete runs have.
function meanCurves(curvesOf) {
  return data.groups.flatMap((name, group) => {
    const visible = data.runs.filter((run, i) => run.group === group && isVisible[i]);
    const complete = visible.filter((run) => run.state === "complete");
    const runs = complete.length ? complete : visible;
    const columns = new Map();
    for (const run of runs) {
      for (const curve of curvesOf(run)) {
        const key = curve.label ?? "";
        if (!columns.has(key)) columns.set(key, {curve, n: 0, found: new Map()});
        const column = columns.get(key);
        column.n += 1;
        run.steps.forEach((step, i) => {
          if (curve.values[i] === null) return;
          if (!column.found.has(step)) column.found.set(step, []);
          column.found.get(step).push(curve.values[i]);
        });
      }
    }
    return [...columns.values()].map(({curve, n, found}) => {
      const rows = [...found]
        .filter(([, values]) => values.length === n)
        .sort(([a], [b]) => a - b);
      return {
        ...curve,
        steps: rows.map(([step]) => step),
        values: rows.map(([, values]) => mean(values)),
        deviations: n > 1 ? rows.map(([, values]) => deviation(values)) : null,
        group,
        name: n > 1 ? `${name}, mean of ${n} seeds` : name,
      };
    });
  });
}

function mean(values) {
  return values.reduce((a, b) => a + b, 0) / values.length;
}

function deviation(values) {
  const middle = mean(values);
  const squares = values.map((value) => (value - middle) ** 2);
  return Math.sqrt(squares.reduce((a, b) => a + b, 0) / (values.length - 1));
}

// Plots

function makeTraces(curves, {factor = 1, format = ".4g", isThin = false, shape = "linear"} = {}) {
  const traces = [];
  // Those of averages lie above those of raw weights, which may hide each other.
  const sorted = [...curves].sort((a, b) => (a.dash === "solid") - (b.dash === "solid"));
  for (const curve of sorted) {
    const colour = curve.colour ?? colourOf(curve.group);
    const scaled = curve.values.map((value) => (value === null ? null : factor * value));
    const isMain = curve.dash === "solid";
    if (curve.deviations && isMain && byId("mode").value === "spread") {
      const spread = curve.deviations.map((value) => factor * value);
      traces.push({
        x: [...curve.steps, ...[...curve.steps].reverse()],
        y: [
          ...scaled.map((value, i) => value + spread[i]),
          ...scaled.map((value, i) => value - spread[i]).reverse(),
        ],
        type: "scatter",
        mode: "lines",
        fill: "toself",
        fillcolor: `${colour}2E`,
        line: {width: 0},
        hoverinfo: "skip",
      });
    }
    const label = [curve.name, curve.label].filter(Boolean).map(asText).join("<br>");
    traces.push({
      x: curve.steps,
      y: scaled,
      customdata: curve.deviations?.map((value) => ` ± ${(factor * value).toPrecision(3)}`),
      type: "scatter",
      cliponaxis: scaled.length > 1,
      mode: scaled.filter((value) => value !== null).length > 1 ? "lines" : "markers",
      line: {color: colour, width: isThin || !isMain ? 1.3 : 2, dash: curve.dash, shape},
      marker: {color: colour, size: 7},
      hovertemplate:
        `${label}<br>step %{x:,d}: <b>%{y:${format}}</b>` +
        `${curve.deviations ? "%{customdata}" : ""}<extra></extra>`,
    });
  }
  return traces;
}

// Range of an axis for all high scores, and for the low ones after the first quarter.
function laterRange(traces) {
  let [low, high] = [Infinity, -Infinity];
  for (const trace of traces) {
    const start = EARLY * trace.x.reduce((a, b) => Math.max(a, b), 0);
    trace.y.forEach((value, i) => {
      if (value === null) return;
      high = Math.max(high, value);
      if (trace.x[i] >= start) low = Math.min(low, value);
    });
  }
  if (low > high) return null;
  const margin = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1;
  return [low - margin, high + margin];
}

function scoreLabel({kind, other}) {
  if (other) return other === "speed" ? other : `${other} in %`;
  return {accuracy: "Score in %", loss: "Score (minus the loss)"}[kind] ?? `Score (${kind})`;
}

function currentScore() {
  const value = byId("score").value;
  return value.startsWith("other:") ? {other: value.slice(6)} : {kind: value.slice(5)};
}

function bestMarker(score, {factor, format}) {
  const run = data.runs[0];
  if (!isSingle || !isVisible[0] || score.kind !== run.score || run.best === null) return [];
  const name = run.averages[run.best] === null || !run.averages.length ? "raw" : "averages";
  if (kinds.length && !isOn(name)) return [];
  const colour = data.colours[kinds.length && name === "raw" ? 1 : 0];
  return [{
    x: [run.steps[run.best]],
    y: [factor * run.scores[run.best]],
    type: "scatter",
    mode: "markers",
    cliponaxis: false,
    marker: {color: colour, size: 9, line: {color: style("--surface"), width: 1.5}},
    hovertemplate: `model-best<br>step %{x:,d}: <b>%{y:${format}}</b><extra></extra>`,
  }];
}

function scoresFigure() {
  const score = currentScore();
  const isPercent = score.kind === "accuracy" || (score.other && score.other !== "speed");
  const curves = byId("mode").value === "runs" ? runCurves : meanCurves;
  const options = {factor: isPercent ? 100 : 1, format: isPercent ? ".2f" : ".4g"};
  byId("scores-title").textContent = scoreLabel(score);
  const traces = makeTraces(curves((run) => curvesOfRun(run, score)), options);
  const range = byId("late").checked ? laterRange(traces) : null;
  const layout = {yaxis: range ? {range} : {}};
  return {traces: [...traces, ...bestMarker(score, options)], layout};
}

function lossesFigure() {
  const name = byId("component").value;
  const isAll = name === "";
  const curvesOf = (run) => {
    const columns = isAll ? Object.values(run.losses) : [run.losses[name] ?? []];
    if (!columns.length || !columns[0].length) return [];
    const values = columns[0].map((_, i) => {
      const parts = columns.map((column) => column[i]);
      return parts.includes(null) ? null : parts.reduce((a, b) => a + b, 0);
    });
    return [{values, dash: "solid", colour: isSingle ? style("--muted") : undefined}];
  };
  const curves = byId("mode").value === "runs" ? runCurves : meanCurves;
  const type = byId("logarithmic").checked ? "log" : "linear";
  return {traces: makeTraces(curves(curvesOf), {isThin: true}), layout: {yaxis: {type}}};
}

function ratesFigure() {
  const curvesOf = (run) => [{
    steps: run.rates.map(([step]) => step),
    values: run.rates.map(([, rate]) => rate),
    dash: "solid",
    colour: isSingle ? style("--muted") : undefined,
  }];
  const traces = makeTraces(runCurves(curvesOf), {isThin: true});
  return {traces, layout: {yaxis: {rangemode: "tozero", exponentformat: "power"}}};
}

function style(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function lastStep() {
  const visible = data.runs.filter((_, i) => isVisible[i]);
  return visible.reduce((most, run) => Math.max(most, run.nSteps), 1);
}

function layoutOf(layout, revision) {
  const [text, grid, line] = ["--text", "--grid", "--line"].map(style);
  const axis = {color: text, gridcolor: grid, linecolor: line, zeroline: false, automargin: true};
  // A finger on a plot scrolls the page; there are buttons to zoom.
  const isTouch = matchMedia("(pointer: coarse)").matches;
  return {
    autosize: true,
    showlegend: false,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: {color: text, family: getComputedStyle(document.body).fontFamily, size: 12},
    margin: {l: 44, r: 26, t: 30, b: 40},
    hovermode: "closest",
    hoverlabel: {align: "left", namelength: -1},
    dragmode: isTouch ? false : "zoom",
    modebar: {bgcolor: "rgba(0,0,0,0)", color: style("--muted"), activecolor: style("--accent")},
    // Keeps the zoom.
    uirevision: revision,
    xaxis: {
      ...axis,
      title: {text: "step", standoff: 6},
      range: zoom ?? [0, lastStep()],
      type: "linear",
      tickformat: ",d",
    },
    yaxis: {...axis, type: "linear", hoverformat: ".4g", ...layout.yaxis},
  };
}

const CONFIGURATION = {
  responsive: true,
  displaylogo: false,
  displayModeBar: true,
  modeBarButtons: [["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "autoScale2d", "resetScale2d"]],
};

function draw(plot) {
  const {traces, layout} = plot.figure();
  return Plotly.react(plot.div, traces, layoutOf(layout, plot.revision()), CONFIGURATION);
}

function redraw() {
  plots.forEach(draw);
}

// Zooming along the steps changes all plots.
function link() {
  for (const plot of plots) {
    plot.div.on("plotly_relayout", (change) => {
      const range = change["xaxis.range"] ?? [change["xaxis.range[0]"], change["xaxis.range[1]"]];
      const isReset = change["xaxis.autorange"] || (range[0] === 0 && range[1] === lastStep());
      if (!isReset && range[1] === undefined) return;
      zoom = isReset ? null : [...range];
      plots.filter((other) => other !== plot).forEach(draw);
    });
  }
}

// Called when Plotly is there.
async function drawPlots() {
  const figures = [
    ["scores", scoresFigure, () => `${byId("score").value} ${byId("late").checked}`],
    ["losses", lossesFigure, () => `${byId("component").value} ${byId("logarithmic").checked}`],
    ["rates", ratesFigure, () => "rates"],
  ];
  for (const [id, figure, revision] of figures) {
    if (byId(id).hidden) continue;
    const plot = {div: byId(`${id}-plot`), figure, revision};
    await draw(plot);
    performance.mark(`${id} drawn`);
    plots.push(plot);
    // The first plot is seen before the next one is made.
    await new Promise((resolve) => setTimeout(resolve));
  }
  link();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  performance.mark("all drawn");
}

// Controls

function lineSample(colour, dash) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  const dashes = {
    solid: null,
    [RAW_DASH]: "4 3",
    dashdot: "6 2 2 2",
    longdash: "8 3",
    longdashdot: "8 2 2 2",
    dot: "2 2",
  };
  const attributes = {x1: 0, x2: 22, y1: 5, y2: 5, stroke: colour, "stroke-width": 2.5};
  for (const [key, value] of Object.entries(attributes)) line.setAttribute(key, value);
  if (dashes[dash]) line.setAttribute("stroke-dasharray", dashes[dash]);
  svg.setAttribute("width", 22);
  svg.setAttribute("height", 10);
  svg.setAttribute("aria-hidden", "true");
  svg.append(line);
  return svg;
}

function toggleButton(label, sample, isPressed) {
  const text = element("span", {}, label);
  const title = label.length > 30 ? label : null;
  return element("button", {type: "button", "aria-pressed": isPressed, title}, sample, text);
}

function groupState(group) {
  const states = isVisible.filter((_, i) => data.runs[i].group === group);
  if (states.every((state) => state)) return "true";
  return states.some((state) => state) ? "mixed" : "false";
}

function makeLegend() {
  if (data.groups.length < 2) return;
  const buttons = data.groups.map((name, group) => {
    const button = toggleButton(name, lineSample(colourOf(group), "solid"), true);
    button.addEventListener("click", () => {
      const wanted = groupState(group) === "false";
      setVisible((run) => (run.group === group ? wanted : null));
    });
    return button;
  });
  const all = [["all", true], ["none", false]].map(([text, wanted]) => {
    const button = element("button", {type: "button", class: "plain"}, text);
    button.addEventListener("click", () => setVisible(() => wanted));
    return button;
  });
  byId("legend").append(...buttons, ...(data.groups.length > 2 ? all : []));
}

// wanted: a function that returns whether to show a run; null leaves it as it is.
function setVisible(wanted) {
  data.runs.forEach((run, i) => {
    isVisible[i] = wanted(run, i) ?? isVisible[i];
    const box = document.querySelector(`#runs input[data-run="${i}"]`);
    if (box) box.checked = isVisible[i];
  });
  byId("legend").querySelectorAll("[aria-pressed]").forEach((button, group) => {
    button.setAttribute("aria-pressed", groupState(group));
  });
  redraw();
}

function makeKinds() {
  for (const kind of kinds) {
    const sample = lineSample(kind.colour ?? "currentColor", kind.dash);
    const button = toggleButton(kind.label, sample, kind.isOn);
    button.addEventListener("click", () => {
      kind.isOn = !kind.isOn;
      button.setAttribute("aria-pressed", kind.isOn);
      redraw();
    });
    byId("kinds").append(button);
  }
}

function fillSelect(id, options) {
  byId(id).append(...options.map(([value, text]) => element("option", {value}, text)));
  byId(id).closest("label").hidden = options.length < 2;
}

function makeControls() {
  makeLegend();
  makeKinds();
  const scores = unique(data.runs.map((run) => run.score));
  const others = unique(data.runs.flatMap((run) => Object.keys(run.other)));
  fillSelect("score", [
    ...scores.map((kind) => [`kind:${kind}`, scoreLabel({kind})]),
    ...others.map((other) => [`other:${other}`, scoreLabel({other})]),
  ]);
  const components = unique(data.runs.flatMap((run) => Object.keys(run.losses)));
  const single = components.length > 1 ? components.map((name) => [name, name]) : [];
  fillSelect("component", [["", "all"], ...single]);
  const hasSeeds = data.runs.length > data.groups.length;
  byId("mode").closest("label").hidden = !hasSeeds;
  // The areas of many configs hide each other.
  if (!hasSeeds) byId("mode").value = "runs";
  else if (data.groups.length <= FEW) byId("mode").value = "spread";
  byId("scores").hidden = !data.runs.some((run) => run.steps.length);
  byId("losses").hidden = !components.length;
  byId("rates").hidden = !data.runs.some((run) => run.rates.length);
  for (const id of ["score", "mode", "late", "component", "logarithmic"]) {
    byId(id).addEventListener("change", redraw);
  }
  const hasPlain = kinds.length && data.runs.some((run) => !run.averages.length);
  const zoom = matchMedia("(pointer: coarse)").matches
    ? "The buttons above the plot zoom."
    : "Drag to zoom, double-click to reset.";
  byId("scores-hint").textContent =
    (hasPlain ? "A run without averages has one line, that of its raw weights. " : "") + zoom;
}

// Tables

const COLUMNS = [
  {title: "run", value: (run) => run.name, isName: true},
  {title: "optimizer", value: (run) => run.optimizer},
  {title: "seed", value: (run) => run.seed, format: String, isNumber: true},
  {title: "state", value: (run) => run.state, isState: true},
  scoreColumn("best score", (run) => (run.best === null ? null : run.scores[run.best])),
  {
    title: "at step",
    value: (run) => (run.best === null ? null : run.steps[run.best]),
    isNumber: true,
  },
  scoreColumn("last score", (run) => last(run.scores)),
  scoreColumn("best raw", (run) => (run.averages.length ? extreme(run.raw) : null)),
  scoreColumn("last raw", (run) => (run.averages.length ? last(run.raw) : null)),
  ...kinds.filter((kind) => kind.isOther).map((kind) =>
    scoreColumn(`last ${kind.name}`, (run) => last(run.all[kind.name] ?? []))),
  {title: "steps", value: (run) => run.nSteps, isNumber: true},
  {title: "snapshots", value: (run) => run.nAveraged, isNumber: true},
  {
    title: "time",
    value: (run) => run.seconds,
    format: formatTime,
    isNumber: true,
  },
  {
    title: "ms/step",
    value: (run) => (run.secondsPerStep === null ? null : 1000 * run.secondsPerStep),
    format: (value, run) => value.toPrecision(3) + (run.nShared > 1 ? " (shared)" : ""),
    isNumber: true,
  },
  {title: "ended by", value: endedBy, isWords: true},
];

function scoreColumn(title, value) {
  const format = (found, run) => formatScore(found, run.score);
  return {title, value, format, isNumber: true, isScore: true};
}

function endedBy(run) {
  const resumed = run.resumed.length ? `resumed after step ${run.resumed.join(", ")}` : "";
  return [run.endedBy, resumed].filter(Boolean).join("; ") || null;
}

function isMissing(value) {
  return value === null || value === undefined || value === "";
}

function makeRuns() {
  const hasValue = (column) => data.runs.some((run) => !isMissing(column.value(run)));
  const columns = COLUMNS.filter((column) => column.isName || hasValue(column));
  const headers = columns.map((column) => {
    const button = element("button", {type: "button"}, column.title);
    const kind = column.isNumber ? "number" : null;
    const header = element("th", {scope: "col", class: kind, "aria-sort": "none"}, button);
    button.addEventListener("click", () => sortRuns(column, header));
    return header;
  });
  const rows = data.runs.map((run, i) => {
    const row = element("tr", {}, ...columns.map((column) => makeCell(column, run, i)));
    run.row = row;
    return row;
  });
  const head = element("thead", {}, element("tr", {}, ...headers));
  const table = element("table", {}, head, element("tbody", {}, ...rows));
  document.querySelector("#runs .scroll").append(table);
  byId("runs").hidden = !rows.length;
}

function makeCell(column, run, i) {
  if (column.isName) {
    const box = element("input", {type: "checkbox", "data-run": i, checked: ""});
    box.style.accentColor = isSingle ? "" : colourOf(run.group);
    box.addEventListener("change", () => {
      setVisible((_, other) => (other === i ? box.checked : null));
    });
    const text = element("span", {class: "name", title: run.name}, run.name);
    const label = element("label", {title: "Show in the plots"}, box, text);
    return element("th", {scope: "row"}, label);
  }
  const value = column.value(run);
  const classes = [column.isNumber && "number", isMissing(value) && "missing"];
  if (column.isState) classes.push({failed: "failed", complete: ""}[run.state] ?? "open");
  const text = formatCell(column, value, run);
  const content = column.isWords ? element("div", {class: "words"}, text) : text;
  return element("td", {class: classes.filter(Boolean).join(" ") || null}, content);
}

function formatCell(column, value, run) {
  if (isMissing(value)) return "–";
  if (column.format) return column.format(value, run);
  return column.isNumber ? value.toLocaleString("en") : String(value);
}

function sortRuns(column, header) {
  const current = header.getAttribute("aria-sort");
  // The highest scores first.
  const first = column.isScore ? "descending" : "ascending";
  const other = column.isScore ? "ascending" : "descending";
  const order = current === first ? other : first;
  for (const found of header.parentElement.children) found.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const sorted = [...data.runs].sort((a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    // Missing values are last in both orders.
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (column.isNumber ? x - y : x.localeCompare(y, "en", {numeric: true}));
  });
  header.closest("table").tBodies[0].append(...sorted.map((run) => run.row));
}

function makeComparisons() {
  data.comparisons.forEach((comparison, i) => {
    const id = `comparison-${i}`;
    const [header, ...rows] = comparison.table;
    const cells = (row) => row.map((text, column) =>
      element(column ? "td" : "th", column ? {class: "number"} : {scope: "row"}, text));
    const head = header.map((text, column) =>
      element("th", {scope: "col", class: column ? "number" : null}, text));
    const table = element(
      "table",
      {},
      element("thead", {}, element("tr", {}, ...head)),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells(row)))),
    );
    const isAlone = data.comparisons.length === 1 && data.groups.length === rows.length;
    const title = isAlone ? "Comparison" : `Comparison ${comparison.name}`;
    const unit = comparison.score === "accuracy" ? " in %" : "";
    byId("comparisons").append(element(
      "section",
      {"aria-labelledby": id},
      element("div", {class: "head"}, element("h2", {id}, title)),
      element("div", {class: "scroll", role: "region", "aria-labelledby": id, tabindex: 0}, table),
      element(
        "p",
        {class: "hint"},
        `Scores${unit}, mean ± standard deviation over the seeds of complete runs. The ` +
        `difference to the baseline, ${rows[0][0]}, is the mean of paired differences with the ` +
        "same seed. Swing: mean change of the score between evaluations in the last quarter.",
      ),
    ));
  });
}

// Text with places to break it, after dots.
function breakable(text) {
  return text.split(/(?<=\.)/).flatMap((part) => [part, element("wbr")]);
}

function makeDifferences() {
  const {names, rows} = data.differences;
  if (!rows.length) return;
  const head = ["setting", ...names].map((name) => {
    return element("th", {scope: "col"}, element("div", {class: "words"}, name));
  });
  const body = rows.map(([name, ...values]) => {
    const cells = values.map((value) => {
      const text = element("div", {class: "words"}, value ?? "–");
      return element("td", {class: value === null ? "missing" : "value"}, text);
    });
    const setting = element("div", {class: "setting"}, ...breakable(name));
    return element("tr", {}, element("th", {scope: "row", class: "value"}, setting), ...cells);
  });
  document.querySelector("#differences .scroll").append(element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...body),
  ));
  byId("differences").hidden = false;
}

function count(number, word) {
  return `${number} ${word}${number === 1 ? "" : "s"}`;
}

function makeAbout() {
  const hasSeeds = data.groups.length < data.runs.length;
  const configs = hasSeeds ? ` of ${count(data.groups.length, "config")}` : "";
  const runs = count(data.runs.length, "run") + configs;
  byId("about").textContent = `${runs} · ${data.date} · thinc-swa ${data.version}`;
}

makeAbout();
makeControls();
makeRuns();
makeComparisons();
makeDifferences();
