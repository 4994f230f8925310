// The table of trials, and what the page does when it is opened.
// The table: as many rows as are seen, all of them in print.
const ROW = 30;
function makeTable() {
  const holder = byId("trials-table");
  if (!holder) return;
  const hasHosts = D.hosts.filter((h) => h).length > 1;
  const columns = [
    { name: "trial", value: (r) => D.number[r], text: (r) => String(D.number[r]) },
    { name: "state", left: true, value: stateName, text: stateName, dot: true },
    { name: D.score_name, value: (r) => D.score[r], text: (r) => scored(D.score[r]), down: !D.lower_is_better, ranks: true },
    { name: "best epoch", value: (r) => D.epoch[r], text: (r) => (D.epoch[r] === null ? "–" : `${D.epoch[r]} of ${D.epochs[r]}`) },
    { name: "time", value: (r) => D.seconds[r], text: (r) => seconds(D.seconds[r]) },
    ...(hasHosts ? [{ name: "host", left: true, value: (r) => D.hosts[D.host[r]], text: (r) => D.hosts[D.host[r]] }] : []),
    ...D.params.map((p, i) => ({ name: shortNames[i], left: Boolean(p.choices), value: (r) => D.values[r][i], text: (r) => valueText(r, i) })),
  ];
  let order = D.number.map((_, row) => row);
  let sorted = columns[2];
  let down = sorted.down;
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
      const first = sorted.ranks ? countedFirst(a, b) : 0;
      if (first) return first;
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
    byId("shown").textContent = wanted.length ? `${order.length} of ${D.number.length} trials` : `${D.number.length} trial${D.number.length === 1 ? "" : "s"}`;
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
