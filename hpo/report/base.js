// What all plots of the report share: the data, elements, scales, axes, pointing at a trial.
// All texts are set as text, never as HTML: they come from outside.
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
// Which of two scores is the better one: `Direction` in Python.
const rising = (score) => (D.lower_is_better ? -score : score);
const isBetter = (score, other) => rising(score) > rising(other);
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const stateName = (row) => D.states[D.state[row]];
// What has failed, or still runs, is no rival of the finished trials, whatever it has reached.
const isCounted = (row) => D.counted.includes(D.state[row]);
const countedFirst = (a, b) => isCounted(b) - isCounted(a);
const colour = (row) => `var(--${stateName(row)}, var(--soft))`;
const figure = (value) => (value === null ? "–" : value.toFixed(4));
function scored(value) {
  // as hpo.wording.format_score
  if (value === null || D.is_share) return figure(value);
  const size = Math.abs(value);
  if (size >= 1000 && size < 1e7) return value.toFixed(0);
  return value !== 0 && size < 1e-4 ? value.toExponential(3) : value.toPrecision(4);
}
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
// Values of a parameter with choices are indices into them.
function valueText(row, i) {
  const value = D.values[row][i];
  return D.params[i].choices && value !== null ? D.params[i].choices[value] : shown(value);
}
function describe(row) {
  const lines = [`trial ${D.number[row]}, ${stateName(row)}: ${scored(D.score[row])}`];
  D.params.forEach((p, i) => {
    if (D.values[row][i] !== null) lines.push(`${shortNames[i]} ${valueText(row, i)}`);
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
const tickText = (t) => (t !== 0 && (Math.abs(t) < 1e-3 || Math.abs(t) >= 1e5) ? t.toExponential() : String(t));

// Where most trials are: a few that learned nothing would press the good ones together.
const range = (() => {
  const rows = D.drawn.some(isCounted) ? D.drawn.filter(isCounted) : D.drawn;
  const all = rows.map((row) => D.score[row]).sort((a, b) => a - b);
  if (!all.length) return { low: 0, high: 1, cut: false, over: false };
  const [least, median, most] = [all[0], all[Math.floor(all.length / 2)], all[all.length - 1]];
  // The poor end is cut: the lower one, or the upper one of a score that is minimized.
  const low = D.lower_is_better ? least : Math.max(least, median - 2 * (most - median));
  const high = D.lower_is_better ? Math.min(most, median + 2 * (median - least)) : most;
  const pad = (high - low) * 0.04 || 0.02;
  const over = D.drawn.some((row) => isBetter(D.score[row], D.lower_is_better ? least : most));
  return { low: low - pad, high: high + pad, cut: low > least || high < most, over };
})();
const scoreScale = (from, to) => {
  const y = scale(range.low, range.high, from, to);
  return (value) => y(clamp(value, range.low, range.high));
};
const atEdge = (value) => (D.is_share ? value.toFixed(2) : shown(value));
const lowerEdge = (low) => `Below ${atEdge(low)}: at the lower edge. `;
const upperEdge = (high) => `Above ${atEdge(high)}: at the upper edge. `;
const edge = () => {
  const [below, above] = D.lower_is_better ? [range.over, range.cut] : [range.cut, range.over];
  return ((below ? lowerEdge(range.low) : "") + (above ? upperEdge(range.high) : "")).trim();
};
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
