"use strict";
// Draws the plots and the table of the report from the JSON in the page. All texts are set as
// text, never as HTML: they come from outside.
(() => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const NS = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);
  const tip = byId("tip");
  const rowOf = new Map(D.number.map((number, row) => [number, row]));
  const best = D.best === null ? -1 : rowOf.get(D.best);
  const listeners = [];
  let picked = -1;

  function svg(name, attributes, parent, text) {
    const element = document.createElementNS(NS, name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (text !== undefined) element.textContent = text;
    if (parent) parent.appendChild(element);
    return element;
  }
  function html(name, className, text) {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }
  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
  const stateName = (row) => D.states[D.state[row]];
  const colour = (row) => `var(--${stateName(row)}, var(--soft))`;
  const figure = (value) => (value === null ? "–" : value.toFixed(4));
  function shown(value) {
    if (value === null || value === undefined) return "–";
    return typeof value === "number" ? String(+value.toPrecision(4)) : value;
  }
  function seconds(value) {
    if (value === null) return "–";
    const s = Math.round(value);
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
    return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  }
  const shortNames = (() => {
    // optimizer.type is the optimizer, data.batch_size the batch_size
    const last = D.params.map((p) => p.name.replace(/\.(type|function)$/, "").replace(/^.*\.(?=[^.]*$)/, ""));
    return D.params.map((p, i) => (last.filter((n) => n === last[i]).length > 1 ? p.name : last[i]));
  })();
  function describe(row) {
    const lines = [`trial ${D.number[row]}, ${stateName(row)}: ${figure(D.score[row])}`];
    D.params.forEach((p, i) => {
      const value = D.values[row][i];
      if (value !== null) lines.push(`${shortNames[i]} ${shown(value)}`);
    });
    return lines.join("\n");
  }
  function showTip(event, text) {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${clamp(event.clientX + 14, 6, innerWidth - box.width - 6)}px`;
    tip.style.top = `${clamp(event.clientY + 14, 6, innerHeight - box.height - 6)}px`;
  }
  function pick(row) {
    if (row === picked) return;
    picked = row;
    for (const listener of listeners) listener(row);
  }

  // A scale: where a value stands between two ends, and ticks that nobody overprints.
  function niceTicks(low, high, room, whole) {
    const raw = (high - low) / Math.max(1, room) || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    let step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
    if (whole) step = Math.max(1, Math.round(step));
    const ticks = [];
    for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step) {
      ticks.push(+t.toPrecision(12));
    }
    return ticks;
  }
  function scale(low, high, from, to, log) {
    const f = log ? Math.log10 : (x) => x;
    const span = f(high) - f(low) || 1;
    return (value) => from + ((f(value) - f(low)) / span) * (to - from);
  }
  function epochTicks(last, room) {
    const ticks = niceTicks(1, last, room, true);
    const step = ticks.length > 1 ? ticks[1] - ticks[0] : 1;
    return ticks[0] - 1 > step * 0.6 || !ticks.length ? [1, ...ticks] : ticks;
  }
  function logTicks(low, high, room) {
    const ticks = (steps) => {
      const found = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
        for (const m of steps) {
          const t = +(m * 10 ** e).toPrecision(3);
          if (t >= low * 0.999 && t <= high * 1.001) found.push(t);
        }
      }
      return found;
    };
    for (const steps of [[1, 2, 5], [1, 3], [1]]) {
      const found = ticks(steps);
      if (found.length > 1 && found.length <= room) return found;
    }
    const tens = ticks([1]);
    return tens.filter((_, i) => i % Math.ceil(tens.length / Math.max(1, room)) === 0);
  }
  const tickText = (t) => (t !== 0 && (Math.abs(t) < 1e-3 || Math.abs(t) >= 1e5) ? t.toExponential(0) : String(t));

  // Where most trials are: a few that learned nothing would press the good ones together.
  const range = (() => {
    const all = D.drawn.map((row) => D.score[row]).sort((a, b) => a - b);
    if (!all.length) return { low: 0, high: 1, cut: false };
    const [least, median, most] = [all[0], all[Math.floor(all.length / 2)], all[all.length - 1]];
    const low = Math.max(least, median - 2 * (most - median));
    const pad = (most - low) * 0.04 || 0.02;
    return { low: low - pad, high: most + pad, cut: low > least };
  })();
  const scoreScale = (from, to) => {
    const y = scale(range.low, range.high, from, to);
    return (value) => y(Math.max(value, range.low));
  };
  const edge = () => (range.cut ? `Below ${range.low.toFixed(2)}: at the lower edge.` : "");
  function frame(id, height, margin) {
    const holder = typeof id === "string" ? byId(id) : id;
    if (!holder) return null;
    holder.replaceChildren();
    const width = Math.max(240, Math.floor(holder.clientWidth || 600));
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" }, holder);
    return { holder, root, width, height, left: margin.left, right: width - margin.right, top: margin.top, bottom: height - margin.bottom };
  }
  function yAxis(f, low, high, y = scale(low, high, f.bottom, f.top)) {
    for (const t of niceTicks(low, high, Math.floor((f.bottom - f.top) / 38))) {
      svg("path", { class: "grid", d: `M${f.left} ${y(t)}H${f.right}` }, f.root);
      svg("text", { x: f.left - 7, y: y(t) + 4, "text-anchor": "end" }, f.root, tickText(t));
    }
    return y;
  }
  function xTicks(f, x, ticks, label) {
    ticks.forEach((t) => {
      const at = x(t);
      const anchor = at < f.left + 14 ? "start" : at > f.right - 14 ? "end" : "middle";
      svg("text", { x: anchor === "start" ? f.left : anchor === "end" ? f.right : at, y: f.bottom + 16, "text-anchor": anchor }, f.root, tickText(t));
    });
    if (label) svg("text", { x: (f.left + f.right) / 2, y: f.bottom + 33, "text-anchor": "middle" }, f.root, label);
  }
  // Many dots as one path of each state: a line without length has a round end.
  function dots(f, points, radius) {
    const groups = new Map();
    for (const p of points) {
      const key = D.state[p.row];
      groups.set(key, (groups.get(key) || "") + `M${p.x.toFixed(1)} ${p.y.toFixed(1)}h0`);
    }
    const names = [...groups.keys()].sort((a, b) => (D.states[a] === "complete") - (D.states[b] === "complete"));
    for (const key of names) {
      const path = svg("path", { class: "trial", d: groups.get(key), "stroke-width": radius * 2, opacity: points.length > 400 ? 0.55 : 0.8 }, f.root);
      path.style.stroke = `var(--${D.states[key]}, var(--soft))`;
    }
    const winner = points.find((p) => p.row === best);
    if (winner) svg("circle", { class: "winner", cx: winner.x, cy: winner.y, r: radius + 2.6 }, f.root);
  }
  function nearest(f, points, distance, mark) {
    const overlay = svg("path", { class: "picked" }, f.root);
    const at = new Map();
    for (const p of points) at.set(p.row, [...(at.get(p.row) || []), p]);
    listeners.push((row) => overlay.setAttribute("d", row >= 0 && at.has(row) ? mark(at.get(row), row) : ""));
    f.root.addEventListener("mousemove", (event) => {
      const box = f.root.getBoundingClientRect();
      const x = ((event.clientX - box.left) * f.width) / box.width;
      const y = ((event.clientY - box.top) * f.height) / box.height;
      let found = null;
      let least = distance * distance;
      for (const p of points) {
        const d = (p.x - x) ** 2 + (p.y - y) ** 2;
        if (d < least) [least, found] = [d, p];
      }
      if (!found) return leave();
      pick(found.row);
      showTip(event, describe(found.row));
    });
    f.root.addEventListener("mouseleave", leave);
  }
  function leave() {
    tip.hidden = true;
    pick(-1);
  }
  const ring = (r) => (list) => list.map((p) => `M${p.x - r} ${p.y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`).join("");
  function key(holder, names, more, note) {
    const line = html("div", "key");
    const add = (text, background) => {
      const item = html("span");
      const dot = html("i");
      dot.style.background = background;
      item.append(dot, text);
      line.append(item);
    };
    names.forEach((name) => add(name, `var(--${name}, var(--soft))`));
    if (more) add(more, "var(--winner)");
    if (note) line.append(note);
    holder.append(line);
  }
  const drawnStates = () => [...new Set(D.drawn.map(stateName))].sort();
  const winnerName = () => (best >= 0 && D.drawn.includes(best) ? `winner, trial ${D.best}` : "");

  function drawCurves() {
    const f = frame("curves-plot", 330, { left: 46, right: 10, top: 10, bottom: 40 });
    if (!f) return;
    let last = 1;
    let low = Infinity;
    let high = -Infinity;
    for (const [epochs, values] of D.curves) {
      if (epochs.length) last = Math.max(last, epochs[epochs.length - 1]);
      for (const v of values) { low = Math.min(low, v); high = Math.max(high, v); }
    }
    if (!(high > low)) { low -= 0.05; high = low + 0.1; }
    const y = yAxis(f, low, high + (high - low) * 0.03);
    const x = scale(1, Math.max(2, last), f.left + 6, f.right - 6);
    xTicks(f, x, epochTicks(last, Math.floor((f.right - f.left) / 50)), "epoch");
    const path = (i) => D.curves[i][0].map((e, k) => `${k ? "L" : "M"}${x(e).toFixed(1)} ${y(D.curves[i][1][k]).toFixed(1)}`).join("") + (D.curves[i][0].length === 1 ? "h0" : "");
    const opacity = clamp(14 / Math.sqrt(D.drawn.length * 10), 0.16, 0.75);
    const order = D.drawn.map((_, i) => i).sort((a, b) => (stateName(D.drawn[a]) === "complete") - (stateName(D.drawn[b]) === "complete"));
    let winner = null;
    const points = [];
    for (const i of order) {
      const row = D.drawn[i];
      D.curves[i][0].forEach((e, k) => points.push({ row, i, x: x(e), y: y(D.curves[i][1][k]) }));
      if (row === best) { winner = i; continue; }
      const line = svg("path", { class: "trial", d: path(i), "stroke-width": D.curves[i][0].length === 1 ? 4 : 1.3, opacity }, f.root);
      line.style.stroke = colour(row);
    }
    if (winner !== null) {
      svg("path", { class: "winner", d: path(winner) }, f.root);
      const peak = D.curves[winner][0].indexOf(D.epoch[best]);
      if (peak >= 0) {
        const dot = svg("circle", { cx: x(D.epoch[best]), cy: y(D.curves[winner][1][peak]), r: 4.5 }, f.root);
        dot.style.fill = "var(--winner)";
      }
    }
    const index = new Map(D.drawn.map((row, i) => [row, i]));
    nearest(f, points, 26, (_, row) => path(index.get(row)));
    key(f.holder, drawnStates(), winnerName());
  }

  function drawHistory() {
    const f = frame("history-plot", 330, { left: 46, right: 10, top: 10, bottom: 40 });
    if (!f) return;
    const y = yAxis(f, range.low, range.high, scoreScale(f.bottom, f.top));
    const last = Math.max(1, ...D.drawn.map((row) => D.number[row]));
    const x = scale(0, last, f.left + 6, f.right - 6);
    xTicks(f, x, niceTicks(0, last, Math.floor((f.right - f.left) / 60), true), "trial");
    let so = -Infinity;
    let d = "";
    D.number.forEach((number, row) => {
      const value = D.score[row];
      if (value === null || !(value > so) || !["complete", "pruned"].includes(stateName(row))) return;
      d += d ? `H${x(number).toFixed(1)}V${y(value).toFixed(1)}` : `M${x(number).toFixed(1)} ${y(value).toFixed(1)}`;
      so = value;
    });
    if (d) svg("path", { class: "step", d: `${d}H${f.right - 6}` }, f.root);
    const points = D.drawn.map((row) => ({ row, x: x(D.number[row]), y: y(D.score[row]) }));
    dots(f, points, D.drawn.length > 400 ? 2 : 3.2);
    nearest(f, points, 22, ring(7));
    key(f.holder, drawnStates(), winnerName(), edge());
  }

  function drawImportance() {
    const order = D.params.map((p, i) => i).filter((i) => D.params[i].importance !== null)
      .sort((a, b) => D.params[b].importance - D.params[a].importance);
    if (!order.length) return;
    const f = frame("importance-plot", order.length * 28 + 8, { left: 0, right: 0, top: 0, bottom: 0 });
    if (!f) return;
    const names = Math.min(f.width * 0.46, 270);
    const most = D.params[order[0]].importance;
    order.forEach((i, k) => {
      const y = k * 28 + 4;
      const p = D.params[i];
      const label = svg("text", { class: "name", x: 0, y: y + 15 }, f.root, shortNames[i]);
      if (label.getComputedTextLength() > names - 8) label.setAttribute("textLength", names - 8), label.setAttribute("lengthAdjust", "spacingAndGlyphs");
      const width = Math.max(2, (p.importance / most) * (f.width - names - 56));
      const bar = svg("rect", { class: "bar", x: names, y: y + 4, width, height: 14, rx: 3 }, f.root);
      svg("text", { class: "name", x: names + width + 8, y: y + 15 }, f.root, `${(p.importance * 100).toFixed(0)} %`);
      bar.addEventListener("mousemove", (event) => showTip(event, `${p.name}\nin ${p.trials} trials`));
      bar.addEventListener("mouseleave", leave);
    });
  }

  function axisOf(i, from, to) {
    const p = D.params[i];
    if (p.choices) {
      const present = [...new Set(D.drawn.map((row) => D.values[row][i]).filter((v) => v !== null).map(String))];
      const choices = p.choices.filter((c) => present.includes(c));
      const step = (to - from) / choices.length;
      return { choices, at: (v) => from + step * (choices.indexOf(String(v)) + 0.5), step };
    }
    const values = D.drawn.map((row) => D.values[row][i]).filter((v) => typeof v === "number");
    let low = Math.min(...values);
    let high = Math.max(...values);
    if (low === high) { low = p.log ? low / 1.5 : low - 0.5; high = p.log ? high * 1.5 : high + 0.5; }
    return { low, high, at: scale(low, high, from, to, p.log && low > 0) };
  }
  const varying = () => D.params.map((_, i) => i).filter((i) => D.params[i].varies && D.params[i].trials > 0)
    .sort((a, b) => (D.params[b].importance || 0) - (D.params[a].importance || 0) || a - b);

  function drawParallel() {
    const axes = varying().slice(0, 7);
    const holder = byId("parallel-plot");
    if (!holder || !axes.length || !D.drawn.length) return;
    const narrow = holder.clientWidth < 560;
    const use = narrow ? axes.slice(0, 3) : axes;
    const f = frame("parallel-plot", 330, { left: narrow ? 34 : 70, right: narrow ? 40 : 60, top: 40, bottom: 34 });
    const columns = use.length;
    const xs = (k) => f.left + ((f.right - f.left) * k) / columns;
    const { low, high } = range;
    const y = scoreScale(f.bottom, f.top);
    const off = f.bottom + 24; // "without": a trial that has no such parameter
    const maps = use.map((i) => axisOf(i, f.bottom, f.top));
    const place = (row, k) => {
      if (k === columns) return y(D.score[row]);
      const value = D.values[row][use[k]];
      if (value === null) return off;
      const jitter = maps[k].choices ? ((((row * 0.618) % 1) - 0.5) * Math.min(30, maps[k].step * 0.5)) : 0;
      return maps[k].at(value) + jitter;
    };
    const path = (row) => use.concat([0]).map((_, k) => `${k ? "L" : "M"}${xs(k).toFixed(1)} ${place(row, k).toFixed(1)}`).join("");
    const ranked = [...D.drawn].sort((a, b) => D.score[a] - D.score[b]);
    const opacity = clamp(16 / Math.sqrt(ranked.length * 6), 0.2, 0.85);
    ranked.forEach((row, k) => {
      const line = svg("path", { class: row === best ? "winner" : "trial", d: path(row), "stroke-width": 1.3 }, f.root);
      if (row === best) return;
      const share = Math.round((100 * k) / Math.max(1, ranked.length - 1));
      line.style.stroke = `color-mix(in oklab, var(--high) ${share}%, var(--low))`;
      line.setAttribute("opacity", opacity);
    });
    const labels = use.map((i) => shortNames[i]).concat(["Dice"]);
    labels.forEach((label, k) => {
      svg("path", { class: "mark", d: `M${xs(k)} ${f.top}V${f.bottom}` }, f.root);
      const anchor = k === 0 ? "start" : k === columns ? "end" : "middle";
      const at = k === 0 ? 0 : k === columns ? f.width : xs(k);
      const room = (f.right - f.left) / columns - 8;
      const lines = label.length * 6.6 > room && label.includes("[") ? label.split(/(?=\[)/) : [label];
      lines.forEach((part, n) => {
        const text = svg("text", { class: "name", x: at, y: f.top - 12 - (lines.length - 1 - n) * 14, "text-anchor": anchor }, f.root, part);
        if (text.getComputedTextLength() > room && k) text.setAttribute("textLength", room), text.setAttribute("lengthAdjust", "spacingAndGlyphs");
      });
      const tick = (at, value) => svg("text", { x: k === columns ? xs(k) + 6 : xs(k) - 6, y: at + 4, "text-anchor": k === columns ? "start" : "end" }, f.root, value);
      if (k === columns) return niceTicks(low, high, 5).forEach((t) => tick(y(t), tickText(t)));
      const map = maps[k];
      if (map.choices) return map.choices.forEach((c) => tick(map.at(c), c.length > 10 ? `${c.slice(0, 9)}…` : c));
      const ticks = D.params[use[k]].log ? logTicks(map.low, map.high, 5) : niceTicks(map.low, map.high, 5);
      ticks.forEach((t) => tick(map.at(t), tickText(t)));
    });
    if (D.drawn.some((row) => use.some((i) => D.values[row][i] === null))) {
      svg("text", { x: f.width, y: off + 4, "text-anchor": "end" }, f.root, "has none");
    }
    const points = [];
    for (const row of D.drawn) {
      for (let k = 0; k < columns; k++) {
        const [a, b] = [place(row, k), place(row, k + 1)];
        for (let s = 0; s <= 4; s++) points.push({ row, x: xs(k) + ((xs(k + 1) - xs(k)) * s) / 4, y: a + ((b - a) * s) / 4 });
      }
    }
    nearest(f, points, 20, (_, row) => path(row));
    const note = html("div", "key", narrow && axes.length > 3 ? `The ${use.length} that mattered most; the stronger the colour, the better. ${edge()}` : `The stronger the colour, the better. ${edge()}`);
    f.holder.append(note);
  }

  function drawSlices() {
    const holder = byId("slices-plot");
    if (!holder || !D.drawn.length) return;
    holder.replaceChildren();
    const states = drawnStates();
    for (const i of varying()) {
      const cell = html("div");
      holder.append(cell);
      const f = frame(cell, 215, { left: 40, right: 8, top: 22, bottom: 22 });
      const p = D.params[i];
      svg("text", { class: "name", x: 0, y: 11 }, f.root, shortNames[i]);
      const y = yAxis(f, range.low, range.high, scoreScale(f.bottom, f.top));
      const map = axisOf(i, f.left + 8, f.right - 8);
      if (map.choices) {
        const room = Math.floor(map.step / 6.4);
        const every = Math.ceil(3 / Math.max(1, room));
        map.choices.forEach((c, k) => {
          if (k % every) return;
          svg("text", { x: map.at(c), y: f.bottom + 16, "text-anchor": "middle" }, f.root, c.length > room * every ? `${c.slice(0, Math.max(1, room * every - 1))}…` : c);
        });
      } else {
        const room = Math.max(2, Math.floor((f.right - f.left) / 52));
        xTicks(f, map.at, p.log ? logTicks(map.low, map.high, room) : niceTicks(map.low, map.high, room - 1), "");
      }
      const points = [];
      for (const row of D.drawn) {
        const value = D.values[row][i];
        if (value === null) continue;
        const jitter = map.choices ? (((row * 0.618) % 1) - 0.5) * map.step * 0.55 : 0;
        points.push({ row, x: map.at(value) + jitter, y: y(D.score[row]) });
      }
      dots(f, points, points.length > 300 ? 1.8 : 3);
      nearest(f, points, 18, ring(6));
    }
    const legend = html("div");
    key(legend, states, winnerName(), edge());
    legend.className = "whole";
    byId("slices-plot").append(legend);
  }

  function drawImages() {
    const holder = byId("images-plot");
    if (!holder || !D.images) return;
    holder.replaceChildren();
    for (const c of D.images.classes) {
      const cell = html("div");
      holder.append(cell);
      const f = frame(cell, 190, { left: 46, right: 12, top: 26, bottom: 36 });
      const most = Math.max(...c.bins);
      const [q1, median, q3] = c.quartiles;
      const narrow = f.width < 560;
      svg("text", { class: "name", x: 0, y: 12 }, f.root, narrow ? `${c.name}: median ${figure(median)}` : `${c.name}: median ${figure(median)}, half of the ${c.num} images between ${figure(q1)} and ${figure(q3)}, ${c.zero} with Dice 0`);
      const x = scale(0, 1, f.left, f.right);
      const y = scale(0, most, f.bottom, f.top);
      niceTicks(0, most, 3, true).forEach((t) => {
        svg("path", { class: "grid", d: `M${f.left} ${y(t)}H${f.right}` }, f.root);
        svg("text", { x: f.left - 7, y: y(t) + 4, "text-anchor": "end" }, f.root, String(t));
      });
      const width = (f.right - f.left) / c.bins.length;
      c.bins.forEach((count, k) => {
        if (!count) return;
        const bar = svg("rect", { class: "bar", x: f.left + k * width + 1, y: y(count), width: width - 2, height: f.bottom - y(count), rx: 1.5 }, f.root);
        const text = `${count} image${count === 1 ? "" : "s"}, Dice ${(k / c.bins.length).toFixed(2)} to ${((k + 1) / c.bins.length).toFixed(2)}`;
        bar.addEventListener("mousemove", (event) => showTip(event, text));
        bar.addEventListener("mouseleave", leave);
      });
      svg("path", { class: "mark", d: `M${x(median)} ${f.top - 4}V${f.bottom}` }, f.root);
      xTicks(f, x, [0, 0.2, 0.4, 0.6, 0.8, 1], "Dice of an image");
    }
  }

  // The table: as many rows as are seen, all of them in print.
  const ROW = 30;
  function makeTable() {
    const holder = byId("trials-table");
    if (!holder) return;
    const hasHosts = D.hosts.filter((h) => h).length > 1;
    const columns = [
      { name: "trial", value: (r) => D.number[r], text: (r) => String(D.number[r]) },
      { name: "state", left: true, value: stateName, text: stateName, dot: true },
      { name: "Dice", value: (r) => D.score[r], text: (r) => figure(D.score[r]), down: true },
      { name: "best epoch", value: (r) => D.epoch[r], text: (r) => (D.epoch[r] === null ? "–" : `${D.epoch[r]} of ${D.epochs[r]}`) },
      { name: "time", value: (r) => D.seconds[r], text: (r) => seconds(D.seconds[r]) },
      ...(hasHosts ? [{ name: "host", left: true, value: (r) => D.hosts[D.host[r]], text: (r) => D.hosts[D.host[r]] }] : []),
      ...D.params.map((p, i) => ({ name: shortNames[i], left: Boolean(p.choices), value: (r) => D.values[r][i], text: (r) => shown(D.values[r][i]) })),
    ];
    let order = D.number.map((_, row) => row);
    let sorted = columns[2];
    let down = true;
    const table = html("table");
    const head = html("tr");
    const thead = html("thead");
    const body = html("tbody");
    thead.append(head);
    table.append(thead, body);
    holder.append(table);
    for (const column of columns) {
      const cell = html("th", column.left ? "text" : "");
      const button = html("button", "", column.name);
      button.type = "button";
      button.addEventListener("click", () => {
        down = sorted === column ? !down : Boolean(column.down);
        sorted = column;
        sort();
      });
      cell.append(button);
      column.cell = cell;
      head.append(cell);
    }
    const texts = [];
    const textOf = (row) => (texts[row] ||= columns.map((c) => c.text(row)).join(" ").toLowerCase());
    function sort() {
      const value = sorted.value;
      const wanted = byId("filter").value.toLowerCase().trim().split(/\s+/).filter(Boolean);
      order = D.number.map((_, row) => row);
      if (wanted.length) order = order.filter((row) => wanted.every((word) => textOf(row).includes(word)));
      order.sort((a, b) => {
        const [u, v] = [value(a), value(b)];
        if (u === v) return a - b;
        if (u === null || u === undefined) return 1; // what has no value comes last either way
        if (v === null || v === undefined) return -1;
        const less = typeof u === "number" && typeof v === "number" ? u < v : String(u) < String(v);
        return less === down ? 1 : -1;
      });
      for (const c of columns) {
        if (c === sorted) c.cell.setAttribute("aria-sort", down ? "descending" : "ascending");
        else c.cell.removeAttribute("aria-sort");
      }
      byId("shown").textContent = wanted.length ? `${order.length} of ${D.number.length} trials` : `${D.number.length} trials`;
      holder.scrollTop = 0;
      fill();
    }
    function gap(height) {
      const row = html("tr");
      const cell = html("td", "gap");
      cell.colSpan = columns.length;
      cell.style.height = `${height}px`;
      row.append(cell);
      return row;
    }
    function line(row) {
      const element = html("tr", row === best ? "best" : "");
      for (const column of columns) {
        const cell = html("td", column.left ? "text" : "", column.text(row));
        if (column.dot) {
          const dot = html("span", "dot");
          dot.style.background = colour(row);
          cell.prepend(dot);
        }
        cell.title = cell.textContent;
        element.append(cell);
      }
      element.addEventListener("mouseenter", () => pick(row));
      element.addEventListener("mouseleave", () => pick(-1));
      return element;
    }
    let printing = false;
    function fill() {
      const seen = Math.ceil((holder.clientHeight || 520) / ROW) + 20;
      const first = printing ? 0 : clamp(Math.floor(holder.scrollTop / ROW) - 10, 0, Math.max(0, order.length - seen));
      const last = printing ? order.length : Math.min(order.length, first + seen);
      const rows = order.slice(first, last).map(line);
      if (first) rows.unshift(gap(first * ROW));
      if (last < order.length) rows.push(gap((order.length - last) * ROW));
      body.replaceChildren(...rows);
    }
    let waiting = false;
    holder.addEventListener("scroll", () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; fill(); });
    });
    byId("filter").addEventListener("input", sort);
    addEventListener("beforeprint", () => { printing = true; fill(); });
    addEventListener("afterprint", () => { printing = false; fill(); });
    sort();
  }

  function draw() {
    listeners.length = 0;
    drawCurves();
    drawHistory();
    drawImportance();
    drawParallel();
    drawSlices();
    drawImages();
  }

  for (const box of document.querySelectorAll(".toggle")) {
    box.addEventListener("change", () => byId("pictures").classList.toggle(`no-${box.value}`, !box.checked));
  }
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const block = button.nextElementSibling;
      getSelection().selectAllChildren(block);
      try {
        await navigator.clipboard.writeText(block.textContent);
      } catch {
        document.execCommand("copy"); // a page that is opened as a file has no clipboard
      }
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1200);
    });
  }
  makeTable();
  draw();
  let width = innerWidth;
  let timer = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(timer);
    timer = setTimeout(draw, 120);
  });
})();
