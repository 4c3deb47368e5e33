// What the pages do: charts, a table that sorts and filters, buttons that copy. Data comes from the page's own island.
// Text of a record is only ever set as text content, or handed to a chart as a value.
"use strict";

(function () {
  const island = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const views = new Map(); // chart id -> Vega view
  const dashes = island.curves?.dashes ?? []; // of each slot: colour, dashes and marker that tell a series apart

  // ---- charts -----------------------------------------------------------------------------------------------------

  function style(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // Colours and fonts of the style sheet, in the form that Vega-Lite takes.
  function theme() {
    const [text, muted, rule, page] = ["--text", "--muted", "--rule", "--page"].map(style);
    const colors = dashes.map((_, slot) => style(`--c${slot}`));
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: "transparent",
      font,
      axis: {
        labelColor: muted, titleColor: text, gridColor: rule, domainColor: rule, tickColor: rule,
        labelFontSize: 12, titleFontSize: 13, titleFontWeight: "normal", titlePadding: 10, labelOverlap: "greedy",
      },
      view: { stroke: null },
      range: { category: colors },
      style: {
        interval: { color: colors[0] },
        open: { color: muted, strokeDash: [1, 3] },
        marker: { fill: page, stroke: colors[0] },
        cursor: { color: muted, strokeDash: [3, 3] },
        name: { color: text, fontSize: 12 },
        bound: { fill: colors[0], stroke: colors[0] },
        found: { fill: colors[1], stroke: colors[1] },
      },
    };
  }

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);

  function showTip(_, event, __, value) {
    tip.hidden = value === null || value === undefined || value === "";
    if (tip.hidden) return;
    tip.textContent = String(value);
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18}px`;
  }

  async function draw(id) {
    const box = byId(id);
    if (!box || !island.charts[id]) return;
    views.get(id)?.finalize();
    box.replaceChildren();
    const spec = vegaLite.compile(island.charts[id], { config: theme() }).spec;
    const runtime = vega.parse(spec, null, { ast: true }); // ast: expressions are interpreted, the policy allows no eval
    const view = new vega.View(runtime, {
      container: box, renderer: "svg", hover: true, tooltip: showTip, expr: vegaInterpreter.expressionInterpreter,
    });
    views.set(id, view);
    await view.runAsync();
  }

  function setData(id, name, rows) {
    return views.get(id)?.data(name, rows).runAsync();
  }

  // ---- curves -----------------------------------------------------------------------------------------------------

  const slots = new Map(); // series id -> slot, kept while the series stays in the chart
  let radius = island.curves?.start ?? 0; // position in the grid

  function assignSlots(ids) {
    for (const id of [...slots.keys()]) if (!ids.includes(id)) slots.delete(id);
    for (const id of ids) {
      if (slots.has(id)) continue;
      const taken = new Set(slots.values());
      slots.set(id, dashes.findIndex((_, slot) => !taken.has(slot)));
    }
  }

  // Rounded down, as everywhere: one decimal.
  const percent = (count, total) => (Math.floor((1000 * count) / total) / 10).toFixed(1);

  // Vega's symbols, around (17, 5).
  const SHAPES = {
    circle: "M21,5a4,4,0,1,1,-8,0a4,4,0,1,1,8,0Z",
    square: "M13.5,1.5h7v7h-7Z",
    diamond: "M17,0.5L21.5,5L17,9.5L12.5,5Z",
    "triangle-up": "M17,1L21.5,9H12.5Z",
    cross: "M15.7,1h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7Z",
    "triangle-down": "M17,9L21.5,1H12.5Z",
    "triangle-right": "M21,5L13,0.5V9.5Z",
    "triangle-left": "M13,5L21,0.5V9.5Z",
  };

  // How a series looks in the chart: its line, where it has a curve, and its marker, where it was attacked.
  function swatch({ id, counts }) {
    const slot = slots.get(id);
    const part = (kind, d, fill) => {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("class", kind);
      path.setAttribute("d", d);
      path.setAttribute("fill", fill);
      path.setAttribute("stroke", style(`--c${slot}`));
      return path;
    };
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("width", "34");
    svg.setAttribute("height", "10");
    svg.setAttribute("aria-hidden", "true");
    if (counts) {
      const line = part("line", "M0,5H34", "none");
      line.setAttribute("stroke-dasharray", dashes[slot].join(" "));
      svg.append(line);
    }
    if (island.curves.points.some((point) => point.id === id)) {
      svg.append(part("marker", SHAPES[island.curves.markers[slot]], style("--page")));
    }
    return svg;
  }

  // What is known of a series at the radius of the slider: its curve, and in a note what attacks say there.
  function reading({ id, counts, total, attacked }) {
    const value = counts ? `${percent(counts[radius], total)}%` : "no certificate";
    const images = counts ? `${counts[radius]} of ${total} images` : "";
    if (attacked !== undefined) return { value, images, note: radius > attacked ? "beyond the radii attacked" : "" };
    const point = island.curves.points.find((one) => one.id === id && one.radius === island.curves.grid[radius]);
    return { value, images, note: point ? `attacked ${percent(point.count, point.total)}% of ${point.total}` : "" };
  }

  // The other series stand back while the pointer is on one.
  function emphasize(slot) {
    views.get("curves")?.signal("emphasis", slot).runAsync();
  }

  function showLegend(series) {
    const { grid, labels } = island.curves;
    const readings = series.map(reading);
    byId("legend").replaceChildren(
      ...series.map((one, place) => {
        const { id, name } = one;
        const { value, images, note } = readings[place];
        const item = document.createElement("li");
        const label = document.createElement("span");
        label.append(...name.split(/(?<=[._-])/).flatMap((part) => [part, document.createElement("wbr")]));
        const figures = document.createElement("span");
        figures.className = "reading";
        const strong = document.createElement("strong");
        strong.textContent = value;
        if (images) strong.title = images;
        figures.append(strong);
        if (note) {
          const small = document.createElement("span");
          small.className = "note";
          small.textContent = note;
          figures.append(small);
        }
        item.append(swatch(one), label, figures);
        item.addEventListener("pointerenter", () => emphasize(slots.get(id)));
        item.addEventListener("pointerleave", () => emphasize(-1));
        return item;
      }),
    );
    byId("radius-value").textContent = labels[radius];
    const slider = byId("radius");
    slider.max = String(grid.length - 1);
    slider.value = String(radius);
    const spoken = series.map(({ name }, place) => [name, readings[place].value, readings[place].note].filter(Boolean).join(" "));
    slider.setAttribute("aria-valuetext", `radius ${labels[radius]}: ${spoken.join("; ")}`);
    slider.closest(".readout").hidden = series.length === 0;
  }

  function moveTo(place, series) {
    radius = Math.max(0, Math.min(island.curves.grid.length - 1, place));
    views.get("curves")?.signal("radius", island.curves.grid[radius]).runAsync();
    showLegend(series());
  }

  async function drawCurves(series) {
    const shown = series();
    assignSlots(shown.map(({ id }) => id));
    const { grid, points } = island.curves;
    const rows = shown.flatMap(({ id, counts, total, upper = 0 }) =>
      (counts ?? []).map((count, place) => ({ slot: slots.get(id), radius: grid[place], percent: (100 * count) / total, upper })),
    );
    const marked = points.filter(({ id }) => slots.has(id)).map((point) => ({ ...point, slot: slots.get(point.id) }));
    const view = views.get("curves");
    if (!view) return;
    view.data("curves", rows).data("points", marked).signal("radius", grid[radius]);
    await view.runAsync();
    showLegend(shown);
  }

  function followPointer(series) {
    const view = views.get("curves");
    const move = (event) => {
      const [x] = vega.point(event, view.container().querySelector("svg"));
      const value = view.scale("x").invert(x - view.origin()[0]);
      const { grid } = island.curves;
      const place = grid.findIndex((eps) => eps >= value);
      moveTo(place < 0 ? grid.length - 1 : place, series);
    };
    view.addEventListener("pointermove", move);
    view.addEventListener("pointerdown", move);
  }

  // ---- the page of a data set -------------------------------------------------------------------------------------

  function makeTable() {
    const table = new DataTable("#board", {
      paging: false, info: false, order: [], autoWidth: false,
      columnDefs: [{ targets: ".best-first", orderSequence: ["desc", "asc"] }],
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    });
    const [form, shown] = [byId("filters"), byId("shown")];
    const [search, family, certificate, size] = ["search", "family", "certificate", "size"].map(byId);
    const row = (index) => table.row(index).node();
    const rules = {
      family: () => family.value && ((_, __, index) => row(index).dataset.family === family.value),
      certificate: () => certificate.value && ((_, __, index) => row(index).dataset.certificate === certificate.value),
      size: () => size.value !== "" && ((_, __, index) => Number(row(index).dataset.parameters) <= Number(size.value) * 1e6),
    };
    const filter = () => {
      table.column("#names").search(search.value);
      for (const [name, rule] of Object.entries(rules)) table.search.fixed(name, rule() || null);
      table.draw();
    };
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(filter));
    form.hidden = false;
    const visible = () => table.rows({ search: "applied", order: "applied" }).nodes().toArray().map((node) => node.dataset.id);
    const count = () => {
      const [some, all] = [visible().length, table.rows().count()];
      shown.textContent = some === all ? `${all} ${all === 1 ? "entry" : "entries"}` : `${some} of ${all} entries`;
    };
    count();
    return { visible, onDraw: (listener) => table.on("draw", () => { count(); listener(); }) };
  }

  async function datasetPage() {
    const table = makeTable();
    const names = new Map(island.curves.series.map((one) => [one.id, one]));
    // Of networks that differ in their seed alone the lowest seed is drawn, or the first row where that one is hidden.
    const drawn = () => {
      const ids = table.visible();
      const standIn = new Map(ids.toReversed().map((id) => [island.networks[id], id]));
      return ids.filter((id) => id === (ids.includes(island.networks[id]) ? island.networks[id] : standIn.get(island.networks[id])));
    };
    const series = () => drawn().map((id) => names.get(id)).filter(Boolean).slice(0, dashes.length);
    const metric = byId("metric");
    const scatter = () => {
      const shown = new Set(drawn());
      for (const chart of ["parameters", "time"]) {
        const rows = island.models
          .filter(({ id, figures, [chart]: x }) => shown.has(id) && x && figures[metric.value])
          .map(({ mark, figures, [chart]: x }) => ({ mark, x, ...figures[metric.value] }));
        setData(chart, "models", rows);
        byId(`${chart}-empty`).hidden = rows.length > 0;
      }
    };
    const drawAll = async () => {
      await Promise.all(["curves", "parameters", "time"].map(draw));
      followPointer(series);
      await drawCurves(series);
      scatter();
    };
    await drawAll();
    table.onDraw(() => { drawCurves(series); scatter(); });
    metric.disabled = false;
    metric.addEventListener("change", scatter);
    return { series, drawAll };
  }

  // ---- the page of a model ----------------------------------------------------------------------------------------

  async function modelPage() {
    const series = () => island.curves.series;
    const drawAll = async () => {
      await Promise.all(["curves", "radii"].map(draw));
      followPointer(series);
      await drawCurves(series);
      if (island.radii) await setData("radii", "images", island.radii);
    };
    await drawAll();
    return { series, drawAll };
  }

  // ---- buttons that copy ------------------------------------------------------------------------------------------

  function copy(button) {
    const text = byId(button.dataset.copy);
    const say = (word) => { button.textContent = word; setTimeout(() => { button.textContent = "Copy"; }, 2000); };
    const select = () => { getSelection().selectAllChildren(text); say("Selected"); };
    if (!navigator.clipboard) { select(); return; }
    navigator.clipboard.writeText(text.textContent).then(() => say("Copied"), select);
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }

  (byId("board") ? datasetPage() : modelPage()).then(({ series, drawAll }) => {
    byId("radius").addEventListener("input", (event) => moveTo(Number(event.target.value), series));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    document.documentElement.dataset.ready = "true";
  });
})();
