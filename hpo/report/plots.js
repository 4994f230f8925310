// The plots of the report.
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
  let so = null;
  let d = "";
  D.number.forEach((number, row) => {
    const value = D.score[row];
    if (value === null || (so !== null && !isBetter(value, so)) || !["complete", "pruned"].includes(stateName(row))) return;
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
  const ranked = [...D.drawn].sort((a, b) => rising(D.score[a]) - rising(D.score[b]));
  const opacity = clamp(16 / Math.sqrt(ranked.length * 6), 0.2, 0.85);
  ranked.forEach((row, k) => {
    const line = svg("path", { class: row === best ? "winner" : "trial", d: path(row), "stroke-width": 1.3 }, f.root);
    if (row === best) return;
    const share = Math.round((100 * k) / Math.max(1, ranked.length - 1));
    line.style.stroke = `color-mix(in oklab, var(--high) ${share}%, var(--low))`;
    line.setAttribute("opacity", opacity);
  });
  const labels = use.map((i) => shortNames[i]).concat([D.score_name]);
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
