// What a reader can do with a page: sort, filter and choose cells, brush charts, change the theme; and, where the page is
// served, take in what is new. No text becomes markup: all of it goes through textContent.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const ROWS = 200; // rows of the table at a time
  let page = JSON.parse($("data").textContent);
  let views = []; // {chart, view, rows}
  const lit = new Set(); // places of the chosen cells
  const table = { sort: null, down: false, shown: ROWS, filter: "", best: false, chosen: false };
  let rowOf = new Map();

  // ---------------------------------------------------------------- the table of cells

  function compare(at) {
    const of = (cell) => page.keys[cell][at];
    return (a, b) => {
      const [one, other] = [of(a), of(b)];
      if (one === null || other === null) return (one === null) - (other === null); // nothing comes last, either way
      const kinds = (typeof one === "string") - (typeof other === "string");
      const way = kinds || (typeof one === "string" ? one.localeCompare(other) : one - other);
      return table.down ? -way : way;
    };
  }

  function matching() {
    const words = table.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const cells = page.cells.map((_, at) => at).filter((at) => {
      if (table.best && !page.best[at]) return false;
      if (table.chosen && !lit.has(at)) return false;
      if (!words.length) return true;
      const text = (page.labels[at] + " " + page.arms[at] + " " + page.cells[at].join(" ")).toLowerCase();
      return words.every((word) => text.includes(word));
    });
    if (table.sort !== null) cells.sort(compare(table.sort));
    else if (page.cells.length > ROWS && !page.sorted) { // not all are shown: the most important first
      const rank = new Map(page.order.map((at, place) => [at, place]));
      cells.sort((a, b) => rank.get(a) - rank.get(b));
    }
    return cells;
  }

  function drawHeads() {
    const row = document.createElement("tr");
    const choose = document.createElement("td");
    choose.className = "choose";
    row.append(choose);
    page.heads.forEach((head, at) => {
      const cell = document.createElement("th");
      cell.scope = "col";
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head + (table.sort === at ? (table.down ? " ▼" : " ▲") : "");
      button.addEventListener("click", () => {
        if (table.sort === at && table.down) table.sort = null;
        else if (table.sort === at) table.down = true;
        else [table.sort, table.down] = [at, false];
        drawTable();
        $("table").tHead.rows[0].cells[at + 1].querySelector("button").focus();
      });
      if (table.sort === at) cell.setAttribute("aria-sort", table.down ? "descending" : "ascending");
      cell.append(button);
      row.append(cell);
    });
    $("table").tHead.replaceChildren(row);
  }

  function drawTable() {
    drawHeads();
    const cells = matching();
    const shown = cells.slice(0, table.shown);
    rowOf = new Map();
    const rows = shown.map((at) => {
      const row = document.createElement("tr");
      row.className = (page.best[at] ? "best " : "") + (lit.has(at) ? "lit" : "");
      const choose = document.createElement("td");
      choose.className = "choose";
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = lit.has(at);
      box.setAttribute("aria-label", "choose " + page.labels[at]);
      box.addEventListener("change", () => {
        if (box.checked) lit.add(at); else lit.delete(at);
        showLit();
      });
      choose.append(box);
      row.append(choose);
      for (const text of page.cells[at]) {
        const cell = document.createElement("td");
        cell.textContent = text;
        if (text.length > 40) cell.className = "long";
        row.append(cell);
      }
      rowOf.set(at, { row, box });
      return row;
    });
    $("table").tBodies[0].replaceChildren(...rows);
    const more = $("more");
    more.replaceChildren();
    if (shown.length < cells.length) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `Show ${Math.min(500, cells.length - shown.length)} more of ${cells.length}`;
      button.addEventListener("click", () => { table.shown += 500; drawTable(); });
      more.append(button);
    }
    $("count").textContent = `${cells.length} of ${page.cells.length} cells`;
  }

  // ---------------------------------------------------------------- what is chosen

  function choose(cells) {
    lit.clear();
    for (const at of cells) lit.add(at);
    showLit();
    if (table.chosen) drawTable();
  }

  function showLit() {
    for (const [at, { row, box }] of rowOf) {
      row.classList.toggle("lit", lit.has(at));
      box.checked = lit.has(at);
    }
    const words = [...lit].slice(0, 3).map((at) => page.labels[at]);
    const left = lit.size - words.length;
    $("lit").textContent = lit.size
      ? `Chosen: ${words.join("; ")}${left > 0 ? ` and ${left} more` : ""}`
      : "";
    $("clear").hidden = lit.size === 0;
    const value = Object.fromEntries([...lit].map((at) => [at, true]));
    for (const { view } of views) view.signal("any", lit.size > 0).signal("lit", value).runAsync();
  }

  // ---------------------------------------------------------------- charts

  const THEMES = {
    light: {
      front: "#1b1f24", dim: "#57606a", line: "#d0d7de",
      category: ["#0072b2", "#d55e00", "#009e73", "#b0527f", "#8a6d00", "#3a86a8"],
      ramp: ["#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151"],
      heat: ["#2166ac", "#92c5de", "#f4a582", "#b2182b"],
    },
    dark: {
      front: "#e6e9ed", dim: "#a4adb8", line: "#39414b",
      category: ["#56b4e9", "#f0955a", "#3fd0a4", "#e39ac4", "#f0d264", "#9ad0ff"],
      ramp: ["#6f86e0", "#5b9bd8", "#47adc4", "#37b8a8", "#44bf70", "#7ad151", "#a5db36", "#d2e21b", "#fde725"],
      heat: ["#4393c3", "#92c5de", "#f4a582", "#ef5a4a"],
    },
  };

  const asked = window.matchMedia("(prefers-color-scheme: dark)");
  const theme = () => document.documentElement.dataset.theme || (asked.matches ? "dark" : "light");

  function config() {
    const of = THEMES[theme()];
    const font = "system-ui, 'DejaVu Sans', sans-serif";
    // Few rates are as far apart in colour as many.
    const rates = new Set(page.rates).size;
    const ordinal = Array.from({ length: rates }, (_, at) =>
      of.ramp[Math.round((at * (of.ramp.length - 1)) / Math.max(1, rates - 1))]);
    const narrow = window.innerWidth < 600;
    return {
      background: null, font,
      view: { stroke: of.line },
      axis: {
        labelColor: of.front, titleColor: of.front, domainColor: of.line, tickColor: of.line, gridColor: of.line,
        gridOpacity: 0.5, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelOverlap: "greedy",
        labelSeparation: 8,
      },
      legend: {
        labelColor: of.front, titleColor: of.front, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal",
        ...(narrow ? { columns: 3, layout: { top: { direction: "vertical", anchor: "start" } } } : {}),
        symbolStrokeWidth: 2, symbolBaseFillColor: of.dim, symbolBaseStrokeColor: of.dim, gradientThickness: 10,
      },
      range: { category: of.category, ramp: of.ramp, ordinal, heatmap: of.heat },
      selection: { interval: { mark: { fill: of.dim, fillOpacity: 0.15, stroke: of.dim } } },
      mark: { color: of.category[0] },
      rule: { color: of.category[0] },
    };
  }

  function rowsOf(chart) {
    const names = Object.keys(chart.columns);
    return chart.columns.cell.map((cell, at) => {
      const row = { rate: page.rates[cell], arm: page.arms[cell] };
      for (const name of names) row[name] = chart.columns[name][at];
      return row;
    });
  }

  function brushed({ chart, view, rows }) {
    const extents = view.signal("brush");
    const names = chart.brushed.filter((name) => extents[name]);
    if (!names.length) return null;
    const within = (row) => names.every((name) => {
      const extent = extents[name];
      const value = row[name];
      if (typeof value === "string") return extent.includes(value);
      return value !== null && value >= Math.min(...extent) && value <= Math.max(...extent);
    });
    return new Set(rows.filter(within).map((row) => row.cell));
  }

  const LABELS = { cell: null, low: null, high: null, arm: null, rate: null };

  function tip(handler, event, item) {
    const box = $("tip");
    const datum = item && item.datum;
    if (!datum || datum.cell === undefined) { box.hidden = true; return; }
    const lines = [page.labels[datum.cell], page.arms[datum.cell]];
    for (const [name, value] of Object.entries(datum)) {
      if (name in LABELS || typeof value !== "number" || name.startsWith("_")) continue;
      lines.push(`${name.replaceAll("_", " ")}: ${Number(value.toPrecision(4))}`);
    }
    box.replaceChildren(...lines.filter(Boolean).map((text) => {
      const line = document.createElement("div");
      line.textContent = text;
      return line;
    }));
    box.hidden = false;
    const { clientX: x, clientY: y } = event;
    box.style.left = `${Math.min(x + 12, window.innerWidth - box.offsetWidth - 8)}px`;
    box.style.top = `${Math.min(y + 12, window.innerHeight - box.offsetHeight - 8)}px`;
  }

  let drawing = 0;

  async function drawCharts() {
    const mine = ++drawing;
    for (const { view } of views) view.finalize();
    views = [];
    const found = [];
    document.documentElement.classList.toggle("dark-charts", theme() === "dark");
    for (const chart of page.charts) {
      const place = $(chart.name);
      if (!place) continue;
      const rows = rowsOf(chart);
      const specification = structuredClone(chart.specification);
      specification.datasets = { [page.data]: rows };
      try {
        // The interpreter of expressions needs no eval, which the policy of this page forbids.
        const { view } = await vegaEmbed(place, specification, {
          actions: false, ast: true, config: config(), defaultStyle: false, mode: "vega-lite", renderer: "canvas",
          tooltip: tip,
        });
        if (mine !== drawing) { view.finalize(); return; }
        const entry = { chart, view, rows };
        view.addSignalListener("brush", () => {
          const cells = brushed(entry);
          if (cells !== null) choose(cells);
          else if (entry.had) choose([]);
          entry.had = cells !== null;
        });
        view.addEventListener("click", (event, item) => {
          if (!item || !item.datum || item.datum.cell === undefined) return;
          choose(lit.size === 1 && lit.has(item.datum.cell) ? [] : [item.datum.cell]);
        });
        // The dim strokes of what is not chosen must not hide the rest, so hovering asks the view, not the mark.
        view.addEventListener("mousemove", (event, item) => tip(null, event, item));
        view.addEventListener("mouseout", () => { $("tip").hidden = true; });
        found.push(entry);
      } catch (error) {
        place.classList.add("failed");
        place.textContent = `This chart could not be drawn: ${error.message}`;
        console.error(error);
      }
    }
    views = found;
    showLit();
    document.documentElement.dataset.drawn = String(views.length);
  }

  // ---------------------------------------------------------------- theme

  function showTheme() {
    $("theme").textContent = theme() === "dark" ? "Light" : "Dark";
    $("theme").setAttribute("aria-label", `${theme() === "dark" ? "light" : "dark"} theme`);
  }

  // ---------------------------------------------------------------- a page that is served

  const POLL_MS = 2000;
  let said = "";

  // Ask what the run is doing; where the server has a newer page, take it in.
  async function refresh() {
    let wait = POLL_MS;
    try {
      const now = await (await ask(document.body.dataset.live)).json();
      if (said !== now.state) $("state").textContent = said = now.state;
      if (String(now.build) !== document.body.dataset.build) {
        const began = performance.now();
        take(new DOMParser().parseFromString(await (await ask("./")).text(), "text/html"));
        wait = Math.max(wait, 5 * (performance.now() - began));
      }
    } catch (error) {
      $("state").textContent = `${said} (not live any longer: ${error.message})`;
      said = "";
    }
    window.setTimeout(refresh, wait);
  }

  async function ask(address) {
    const answer = await fetch(address, { cache: "no-store" });
    if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
    return answer;
  }

  function take(fresh) {
    const chosen = new Set([...lit].map((at) => page.labels[at]));
    page = JSON.parse(fresh.getElementById("data").textContent);
    document.body.dataset.build = fresh.body.dataset.build;
    const fold = [...document.querySelectorAll("details")].map((one) => one.open);
    const tools = [$("filters"), $("hint")];
    const main = fresh.getElementById("main");
    // The tools keep their state: only what they work on is replaced.
    for (const one of tools) main.querySelector(`#${one.id}`).replaceWith(one);
    $("main").replaceWith(main);
    document.querySelectorAll("details").forEach((one, at) => { one.open = Boolean(fold[at]); });
    lit.clear();
    page.labels.forEach((label, at) => { if (chosen.has(label)) lit.add(at); });
    drawTable();
    drawCharts();
  }

  // ---------------------------------------------------------------- the beginning

  const box = document.createElement("div");
  box.id = "tip";
  box.hidden = true;
  document.body.append(box);
  for (const id of ["tools", "filters", "hint"]) $(id).hidden = false;
  $("filter").addEventListener("input", (event) => { table.filter = event.target.value; table.shown = ROWS; drawTable(); });
  $("only-best").addEventListener("change", (event) => { table.best = event.target.checked; drawTable(); });
  $("only-lit").addEventListener("change", (event) => { table.chosen = event.target.checked; drawTable(); });
  $("light-shown").addEventListener("click", () => choose(matching()));
  $("clear").addEventListener("click", () => { choose([]); $("theme").focus(); });
  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
    showTheme();
    drawCharts();
  });
  asked.addEventListener("change", () => { showTheme(); drawCharts(); });
  // Paper has all rows that match, not those of one screen.
  window.addEventListener("beforeprint", () => { table.shown = Math.max(table.shown, 2000); drawTable(); });
  showTheme();
  drawTable();
  drawCharts();
  if (document.body.dataset.live) refresh();
})();
