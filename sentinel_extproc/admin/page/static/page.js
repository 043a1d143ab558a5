// The live page: asks for the data every five seconds, puts texts where they belong, draws lines.
// What comes from outside is only ever set as text.
"use strict";

(() => {
  // A link may carry the admin token behind its #, which browsers don't send. It is filled in, and
  // leaves the address and the history; to send it stays with the person, who sees where it goes.
  if (location.hash.startsWith("#token=")) {
    const token = new URLSearchParams(location.hash.slice(1)).get("token");
    history.replaceState(null, "", location.pathname + location.search);
    const box = document.querySelector("form[action='/login'] input[name=token]");
    if (box) {
      box.value = token;
      box.form.querySelector("button").focus();
    }
  }

  const main = document.querySelector("main[data-live]");
  if (!main) return;

  const EVERY_MS = 5000;
  const WITHIN_MS = 8000;
  const SVG = "http://www.w3.org/2000/svg";
  const HEIGHT = 190;
  const MARGIN = { top: 8, right: 8, bottom: 20, left: 46 };

  const pause = document.getElementById("pause");
  const alertLine = document.getElementById("alert");
  let paused = false;
  let timer = 0;
  let latest = null;

  // Tables

  function cellContent(cell) {
    const parts = [];
    if (cell.share !== undefined) {
      const meter = document.createElement("meter");
      Object.assign(meter, { min: 0, max: 1, low: 0.1, value: cell.share });
      meter.setAttribute("aria-label", "share that is left");
      parts.push(meter);
    }
    let shown = document.createTextNode(cell.text);
    if (cell.user !== undefined) {
      shown = document.createElement("a");
      shown.href = "/?" + new URLSearchParams({ user: cell.user }) + "#limits";
      shown.textContent = cell.text;
    } else if (cell.mood !== undefined) {
      shown = document.createElement("span");
      shown.className = "mood";
      shown.dataset.mood = cell.mood;
      shown.textContent = cell.text;
    }
    parts.push(shown);
    return parts;
  }

  function rowOf(cells, heads) {
    const row = document.createElement("tr");
    cells.forEach((cell, place) => {
      const box = document.createElement("td");
      box.className = heads[place].className;
      box.dir = "auto";
      box.append(...cellContent(cell));
      row.append(box);
    });
    return row;
  }

  function fill(name, rows) {
    const body = document.getElementById("rows-" + name);
    if (!body) return;
    const said = JSON.stringify(rows);
    if (body.said === said) return;
    body.said = said;
    // Whoever is on a link here stays on it, if it is still there.
    const active = document.activeElement;
    const focused = body.contains(active) ? active.getAttribute("href") : null;
    const heads = body.parentElement.tHead.rows[0].cells;
    if (rows.length) {
      body.replaceChildren(...rows.map((cells) => rowOf(cells, heads)));
    } else {
      const row = rowOf([{ text: "Nothing." }], heads);
      row.cells[0].colSpan = heads.length;
      row.cells[0].className = "nothing";
      body.replaceChildren(row);
    }
    if (focused !== null) {
      const again = [...body.querySelectorAll("a")].find((a) => a.getAttribute("href") === focused);
      (again || body.closest("[tabindex]")).focus({ preventScroll: true });
    }
  }

  // Charts

  function draw(tag, attributes, text) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // The next of 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15 … that is not below `most`.
  function roundUp(most) {
    if (!(most > 0)) return 1;
    const unit = 10 ** Math.floor(Math.log10(most));
    return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * unit).find((step) => step >= most * 0.9999);
  }

  function short(value) {
    return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(value);
  }

  function chart(figure, data) {
    const plot = figure.querySelector(".plot");
    const width = Math.floor(plot.clientWidth);
    if (width < 80) return;
    const fields = figure.dataset.series.split(" ");
    const labels = figure.dataset.labels.split(" ");
    const series = fields.map((field) => data.series[field]);
    const top = roundUp(Math.max(...series.flat()));
    const steps = series[0].length;
    const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
    const x = (at) => MARGIN.left + (inner.width * at) / (steps - 1);
    const y = (value) => MARGIN.top + inner.height * (1 - value / top);
    const told = series.map((values, place) => {
      const now = values[values.length - 1];
      return `${labels[place]}: now ${short(now)}, at most ${short(Math.max(...values))}`;
    });
    const svg = draw("svg", {
      viewBox: `0 0 ${width} ${HEIGHT}`,
      role: "img",
      "aria-label": `${figure.dataset.title} over 15 minutes. ${told.join(". ")}.`,
    });
    for (const share of [0, 0.5, 1]) {
      const level = y(top * share);
      svg.append(draw("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: level, y2: level }));
      svg.append(draw("text", { class: "mark", x: MARGIN.left - 6, y: level + 4, "text-anchor": "end" }, short(top * share)));
    }
    for (const minutes of [15, 10, 5, 0]) {
      const at = Math.max(0, steps - 1 - (minutes * 60) / data.step_s);
      const anchor = minutes === 15 ? "start" : minutes === 0 ? "end" : "middle";
      svg.append(draw("text", { class: "mark", x: x(at), y: HEIGHT - 4, "text-anchor": anchor }, minutes ? `−${minutes} min` : "now"));
    }
    series.forEach((values, place) => {
      const points = values.map((value, at) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
      if (place === 0) {
        svg.append(draw("polygon", { class: "area", points: `${x(0)},${y(0)} ${points} ${x(steps - 1)},${y(0)}` }));
      }
      svg.append(draw("polyline", { class: `line line-${place}`, points }));
    });
    plot.replaceChildren(svg);
  }

  function charts() {
    if (latest) document.querySelectorAll("figure.chart").forEach((figure) => chart(figure, latest));
  }

  // What is told

  // Only what changed is said aloud.
  function tell(text, mood) {
    alertLine.dataset.mood = mood;
    if (alertLine.textContent !== text) alertLine.textContent = text;
  }

  function show(data) {
    latest = data;
    document.getElementById("at").textContent = data.at;
    for (const [name, value] of Object.entries(data.tiles)) {
      const tile = document.querySelector(`[data-tile="${name}"]`);
      if (tile) tile.textContent = value;
    }
    for (const [name, rows] of Object.entries(data.tables)) fill(name, rows);
    charts();
    tell(data.alert, data.mood);
    main.dataset.updates = String(Number(main.dataset.updates || 0) + 1);
  }

  async function reason(answer) {
    const said = await answer.json().catch(() => null);
    return said?.error?.message || `The admin port answers with ${answer.status}.`;
  }

  async function ask() {
    let why = "The sidecar does not answer.";
    try {
      const answer = await fetch(main.dataset.live, {
        credentials: "same-origin",
        cache: "no-store",
        signal: AbortSignal.timeout(WITHIN_MS),
      });
      if (answer.status === 401) {
        location.assign("/login");
        return;
      }
      if (!answer.ok) {
        why = await reason(answer);
        throw new Error(why);
      }
      const data = await answer.json();
      if (!paused) show(data);
    } catch {
      tell(`${why} What is shown is old. Trying again.`, "bad");
    }
    again(EVERY_MS);
  }

  function again(after) {
    clearTimeout(timer);
    if (!paused && !document.hidden) timer = setTimeout(ask, after);
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on" : "Pause";
    again(0);
  });
  document.addEventListener("visibilitychange", () => again(0));
  new ResizeObserver(charts).observe(main);
  ask();
})();
