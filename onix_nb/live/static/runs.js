// The live view of runs. One model holds the runs, as the kernel sends them; each view draws the rows
// that can be seen. Every text comes from a user's values, so it is only ever set as `textContent`.

const STATUSES = ["pending", "running", "succeeded", "failed", "cancelled"];
const GLYPHS = ["○", "◐", "✓", "✗", "⊘"];
const [PENDING, RUNNING, , FAILED] = [0, 1, 2, 3];
const STOPPING = 1, LEAKED = 2, CANCELLABLE = 4, REPLAYED = 8;

const RECORD = 32; // bytes of one row, see `feed.py`
const ROW_HEIGHT = 22; // pixels, as in `runs.css`
const ROWS_SEEN = 16;
const SPARE = 6; // rows drawn above and below what can be seen
const INDENT = 14;
const DEEPEST = 12;

const reducedMotion = window.matchMedia("(prefers-reduced-motion: reduce)");

/** A duration in milliseconds as people read it: `30 ms`, `0.3 s`, `12 s`, `3:07`. */
function duration(ms) {
  if (ms < 99.5) return `${Math.max(0, Math.round(ms))} ms`;
  const seconds = ms / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const pad = (n) => String(n).padStart(2, "0");
  const minutes = Math.floor(seconds / 60);
  const rest = pad(Math.floor(seconds) % 60);
  return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${pad(minutes % 60)}:${rest}`;
}

/** An element with a class and, if given, attributes; children are elements or texts. */
function make(tag, className, attributes = {}, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** The runs of one model, in the order of starting, and who is told when they change. */
class Store {
  constructor() {
    this.listeners = new Set();
    this.details = new Map();
    this.clear();
  }

  clear() {
    this.seq = -1;
    this.names = [];
    this.rows = [];
    this.roots = [];
    this.byId = new Map();
    this.counts = [0, 0, 0, 0, 0];
    this.begun = Infinity;
    this.ended = 0;
    this.more = 0;
    this.note = "";
    this.lag = Infinity; // the browser's clock minus the kernel's
    this.structure = 0; // changes when a row is added
  }

  /** Milliseconds since the view was made, by the kernel's clock. */
  now() {
    return performance.now() - this.lag;
  }

  get unfinished() {
    return this.counts[PENDING] + this.counts[RUNNING];
  }

  /** Takes a snapshot, or a delta that follows what is here. False when one is missing in between. */
  take(head, data) {
    if (head.whole) {
      if (head.seq <= this.seq) return true;
      this.clear();
    } else if (head.seq <= this.seq) return true;
    else if (head.seq !== this.seq + 1) return false;
    this.seq = head.seq;
    this.lag = Math.min(this.lag, performance.now() - head.now);
    this.more = head.more;
    this.note = head.note ?? this.note;
    head.names.forEach((name, n) => (this.names[head.first + n] = name));
    if (data) for (let at = 0; at < data.byteLength; at += RECORD) this.record(data, at);
    for (const [index, args, value, spans] of head.texts) Object.assign(this.rows[index], { args, value, spans });
    this.tell();
    return true;
  }

  record(data, at) {
    const u32 = (offset) => data.getUint32(at + offset, true);
    const index = u32(0);
    let row = this.rows[index];
    if (!row) {
      row = { index, id: u32(4), parent: u32(8) - 1, name: "", args: "", value: "", spans: null, children: [], depth: 0 };
      this.rows[index] = row;
      this.byId.set(row.id, row);
      const parent = this.rows[row.parent];
      (parent ? parent.children : this.roots).push(row);
      row.depth = parent ? parent.depth + 1 : 0;
      row.name = this.names[data.getUint16(at + 12, true)];
      this.structure += 1;
    } else this.counts[row.status] -= 1;
    row.status = data.getUint8(at + 14);
    row.flags = data.getUint8(at + 15);
    row.queued = u32(16);
    row.started = u32(20) - 1;
    row.finished = u32(24) - 1;
    row.attempt = data.getUint16(at + 28, true);
    this.counts[row.status] += 1;
    this.begun = Math.min(this.begun, row.queued);
    this.ended = Math.max(this.ended, row.finished);
  }

  tell() {
    for (const listener of this.listeners) listener();
  }
}

/** What stands in the first column. */
function word(row) {
  let text = row.flags & STOPPING ? "still stopping" : STATUSES[row.status];
  if (row.flags & REPLAYED) text = text === "succeeded" ? "replayed" : `${text}, replayed`;
  if (row.flags & LEAKED) text += ", leaked";
  if (row.attempt > 1) text += ` (${row.attempt})`;
  return text;
}

/** One line of the list, used again and again for the rows that come into sight. */
class Line {
  constructor(view) {
    this.status = make("span", "onix-status", { role: "gridcell" });
    this.toggle = make("span", "onix-toggle", { "aria-hidden": "true" });
    this.name = make("span", "onix-name");
    this.args = make("span", "onix-args");
    this.call = make("span", "onix-call", { role: "gridcell" }, this.toggle, this.name, this.args);
    this.track = make("span", "onix-track", { role: "gridcell" });
    this.time = make("span", "onix-time", { role: "gridcell" });
    this.value = make("span", "onix-value", { role: "gridcell" });
    this.cancel = make("button", "onix-cancel", { type: "button", tabindex: "-1" }, "✕");
    const last = make("span", "", { role: "gridcell" }, this.cancel);
    this.element = make("div", "", { role: "row", id: `${view.id}-${view.lines.length}` });
    this.element.append(this.status, this.call, this.track, this.time, this.value, last);
    this.element.addEventListener("click", (event) => {
      if (event.target === this.cancel) view.cancel(this.row);
      else if (event.target === this.toggle && this.row.children.length) view.fold(this.row);
      else view.choose(this.row, true);
    });
    this.bars = "";
  }

  draw(view, row, position) {
    const { store, chosen, folded, asked } = view;
    this.row = row;
    const { element } = this;
    const status = STATUSES[row.status];
    element.className = `onix-row onix-${status}`;
    element.style.transform = `translateY(${position * ROW_HEIGHT}px)`;
    element.dataset.run = row.id;
    element.dataset.status = status;
    element.setAttribute("aria-level", row.depth + 1);
    element.setAttribute("aria-rowindex", position + 1);
    element.setAttribute("aria-selected", row === chosen);
    if (row.children.length) element.setAttribute("aria-expanded", !folded.has(row));
    else element.removeAttribute("aria-expanded");
    setText(this.status, `${GLYPHS[row.status]} ${word(row)}`);
    this.toggle.style.marginLeft = `${Math.min(row.depth, DEEPEST) * INDENT}px`;
    setText(this.toggle, row.children.length ? (folded.has(row) ? "▸" : "▾") : "");
    setText(this.name, row.name);
    setText(this.args, `(${row.args})`);
    setText(this.value, row.value);
    if (this.value.title !== row.value) this.value.title = row.value;
    const stoppable = row.finished < 0 && row.flags & CANCELLABLE && view.alive;
    this.cancel.style.visibility = stoppable ? "visible" : "hidden";
    this.cancel.disabled = asked.has(row.id);
    if (stoppable) this.cancel.setAttribute("aria-label", `Cancel ${row.name}, run ${row.id}`);
    this.drawTime(store, store.now(), view.axis());
  }

  drawTime(store, now, [begun, span]) {
    const { row } = this;
    const ended = row.finished < 0 ? now : row.finished;
    setText(this.time, row.started < 0 ? "" : duration(ended - row.started));
    const bars = [];
    const bar = (left, right, kind) =>
      bars.push([kind, (100 * (left - begun)) / span, (100 * Math.max(0, right - left)) / span]);
    const ran = row.started < 0 ? ended : row.started;
    if ((ran - row.queued) / span > 0.005) bar(row.queued, ran, "onix-queued");
    let last = row.started;
    for (const [from, to, next] of row.spans ?? []) {
      bar(from, to, "onix-retried");
      last = next;
    }
    if (row.started >= 0 && last >= 0) bar(last, ended, "");
    const text = bars.map(([kind, left, width]) => `${kind} ${left.toFixed(2)} ${width.toFixed(2)}`).join(";");
    if (text === this.bars) return;
    this.bars = text;
    while (this.track.children.length > bars.length) this.track.lastChild.remove();
    while (this.track.children.length < bars.length) this.track.append(make("span"));
    bars.forEach(([kind, left, width], n) => {
      const element = this.track.children[n];
      element.className = kind;
      element.style.left = `${left.toFixed(2)}%`;
      element.style.width = `${width.toFixed(2)}%`;
    });
  }
}

let views = 0;

/** The runs of a store in one place on the page. */
class View {
  constructor(model, store, el) {
    this.id = `onix-${(views += 1)}`;
    this.model = model;
    this.store = store;
    this.shown = []; // the rows in the order of the tree, without what is folded or filtered
    this.lines = [];
    this.folded = new Set();
    this.asked = new Set(); // runs whose cancel was asked for
    this.chosen = null;
    this.open = false; // whether the details are shown
    this.status = null; // the status to which the list is limited
    this.text = "";
    this.alive = true;
    this.frame = 0;
    this.structure = -1;
    this.build(el);
    this.listen();
  }

  build(el) {
    this.counts = STATUSES.map((status) => {
      const number = make("b");
      const button = make("button", `onix-count onix-${status}`, { type: "button", "aria-pressed": "false", "data-status": status });
      button.append(number, ` ${status}`);
      button.addEventListener("click", () => this.limit(STATUSES.indexOf(status)));
      return { button, number };
    });
    this.parts = STATUSES.slice(1).map((status) => make("span", `onix-${status}`));
    this.progress = make("div", "onix-progress", { role: "progressbar", "aria-label": "finished runs", "aria-valuemin": "0" }, ...this.parts);
    this.elapsed = make("span", "onix-elapsed");
    this.filter = make("input", "onix-filter", { type: "search", placeholder: "filter", "aria-label": "Show only runs with this text" });
    this.collapse = make("button", "onix-collapse", { type: "button" }, "collapse");
    this.cancelAll = make("button", "onix-cancel-all", { type: "button" }, "cancel all");
    this.note = make("span", "onix-note");
    const counts = make("div", "onix-counts", { role: "group", "aria-label": "Show only one status" });
    counts.append(...this.counts.map(({ button }) => button));
    this.head = make("div", "onix-head", {}, counts, this.progress, this.elapsed, this.filter, this.collapse, this.cancelAll, this.note);
    this.scale = [make("span"), make("span")];
    const scale = make("span", "onix-scale", {}, ...this.scale);
    this.heading = make("div", "onix-axis", { "aria-hidden": "true" });
    this.heading.append(make("span"), make("span"), scale, make("span"), make("span"), make("span"));
    this.rows = make("div", "onix-rows", { role: "presentation" });
    this.list = make("div", "onix-list", { role: "treegrid", tabindex: "0", "aria-label": "Runs", "aria-colcount": "6" }, this.rows);
    this.empty = make("div", "onix-empty");
    this.details = make("div", "onix-details", { role: "region", "aria-label": "Details of a run", tabindex: "-1" });
    this.spoken = make("div", "onix-hidden", { role: "status" });
    this.root = make("div", "onix-runs", { role: "region", "aria-label": "Runs of onix", "data-state": "live" });
    this.root.append(this.head, this.heading, this.list, this.empty, this.details, this.spoken);
    this.details.hidden = true;
    el.append(this.root);
  }

  listen() {
    const stop = new AbortController();
    this.stop = stop;
    const on = (target, name, listener) => target.addEventListener(name, listener, { signal: stop.signal });
    on(this.list, "scroll", () => this.request());
    on(this.list, "keydown", (event) => this.key(event));
    on(this.root, "keydown", (event) => {
      if (event.key === "Escape" && this.open) this.show(false);
      if (event.target === this.filter) event.stopPropagation(); // a notebook has commands on plain letters
    });
    on(this.filter, "input", () => {
      this.text = this.filter.value.trim().toLowerCase();
      this.arrange();
    });
    on(this.collapse, "click", () => this.foldAll());
    on(this.cancelAll, "click", () => this.cancel(null));
    this.changed = () => this.request();
    this.store.listeners.add(this.changed);
    this.live = () => {
      this.alive = this.model.comm_live !== false;
      this.request();
    };
    this.model.on?.("comm_live_update", this.live);
    const size = new ResizeObserver(() => this.request());
    size.observe(this.list);
    stop.signal.addEventListener("abort", () => size.disconnect());
    this.tick = setInterval(() => this.advance(), reducedMotion.matches ? 1000 : 100);
    this.request();
  }

  remove() {
    this.stop.abort();
    clearInterval(this.tick);
    cancelAnimationFrame(this.frame);
    this.store.listeners.delete(this.changed);
    this.model.off?.("comm_live_update", this.live);
  }

  /** Draws before the next frame, once however often it is asked for. */
  request() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  /** The begin and the length of the common time axis, in milliseconds. */
  axis() {
    const { store } = this;
    const ended = store.unfinished && this.alive ? store.now() : store.ended;
    const begun = store.begun === Infinity ? 0 : store.begun;
    return [begun, Math.max(ended - begun, 1)];
  }

  /** Moves what depends on nothing but the time. */
  advance() {
    if (!this.store.unfinished || !this.alive || !this.root.isConnected) return;
    const now = this.store.now();
    const axis = this.axis();
    this.drawElapsed(axis);
    for (const line of this.lines) if (line.element.isConnected) line.drawTime(this.store, now, axis);
  }

  drawElapsed([, span]) {
    setText(this.elapsed, duration(span));
    setText(this.scale[0], "0");
    setText(this.scale[1], duration(span));
  }

  draw() {
    const { store, list } = this;
    if (store.structure !== this.structure || this.status !== null || this.text) this.order();
    this.drawHead();
    const height = Math.min(this.shown.length, ROWS_SEEN) * ROW_HEIGHT;
    list.style.height = `${height}px`;
    this.rows.style.height = `${this.shown.length * ROW_HEIGHT}px`;
    list.setAttribute("aria-rowcount", this.shown.length);
    this.heading.style.setProperty("--onix-gutter", `${list.offsetWidth - list.clientWidth}px`);
    const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - SPARE);
    const last = Math.min(this.shown.length, first + ROWS_SEEN + 2 * SPARE);
    while (this.lines.length < last - first) this.lines.push(new Line(this));
    // A row keeps its line while it is in sight: line n has the rows n, n + count, n + 2 count, ...
    const count = this.lines.length;
    let active = "";
    this.lines.forEach((line, n) => {
      const position = first + ((((n - first) % count) + count) % count);
      if (position >= last) return line.element.remove();
      line.draw(this, this.shown[position], position);
      if (!line.element.isConnected) this.rows.append(line.element);
      if (line.row === this.chosen) active = line.element.id;
    });
    if (active) list.setAttribute("aria-activedescendant", active);
    else list.removeAttribute("aria-activedescendant");
    if (this.open) this.drawDetails();
  }

  drawHead() {
    const { store } = this;
    const total = store.rows.length + store.more;
    const single = total === 1 && !store.note;
    this.head.hidden = single;
    this.heading.hidden = single;
    this.counts.forEach(({ button, number }, status) => {
      setText(number, store.counts[status].toLocaleString());
      button.hidden = !store.counts[status] && this.status !== status;
      button.setAttribute("aria-pressed", this.status === status);
    });
    const share = (n) => `${(100 * n) / Math.max(1, store.rows.length)}%`;
    const order = [2, 3, 4, 1];
    order.forEach((status, n) => {
      this.parts[n].className = `onix-${STATUSES[status]}`;
      this.parts[n].style.width = share(store.counts[status]);
    });
    const finished = store.rows.length - store.unfinished;
    this.progress.setAttribute("aria-valuemax", store.rows.length);
    this.progress.setAttribute("aria-valuenow", finished);
    this.collapse.hidden = !store.rows.some((row) => row.children.length);
    setText(this.collapse, this.folded.size ? "expand" : "collapse");
    this.cancelAll.hidden = !store.unfinished;
    this.cancelAll.disabled = !this.alive || this.asked.has(null);
    const notes = [store.note];
    if (store.more) notes.push(`and ${store.more.toLocaleString()} more that are not listed`);
    if (!this.alive) notes.push("the kernel has gone: this is what was last seen");
    setText(this.note, notes.filter(Boolean).join("; "));
    this.root.dataset.state = this.alive ? "live" : "lost";
    this.drawElapsed(this.axis());
    setText(this.empty, this.shown.length || !store.rows.length ? "" : "no run matches");
    this.speak(finished, store.rows.length, store.counts[FAILED]);
  }

  /** Tells a screen reader how far it is, at most every five seconds. */
  speak(finished, total, failed) {
    const now = performance.now();
    if (finished < total && now - (this.spokenAt ?? -Infinity) < 5000) return;
    this.spokenAt = now;
    setText(this.spoken, `${finished} of ${total} runs finished${failed ? `, ${failed} failed` : ""}`);
  }

  // Which rows are shown.

  matches(row) {
    if (this.status !== null && row.status !== this.status) return false;
    return !this.text || `${row.name} ${row.args} ${row.value} ${row.id}`.toLowerCase().includes(this.text);
  }

  /** Lists the rows as a tree; when filtered, those that match and what leads to them. */
  order() {
    this.structure = this.store.structure;
    const filtered = this.status !== null || this.text;
    const kept = new Set();
    if (filtered)
      for (const row of this.store.rows)
        if (this.matches(row)) for (let up = row; up && !kept.has(up); up = this.store.rows[up.parent]) kept.add(up);
    this.shown = [];
    const stack = [...this.store.roots].reverse();
    while (stack.length) {
      const row = stack.pop();
      if (filtered && !kept.has(row)) continue;
      this.shown.push(row);
      if (!this.folded.has(row) || filtered) for (let n = row.children.length - 1; n >= 0; n -= 1) stack.push(row.children[n]);
    }
  }

  arrange() {
    this.structure = -1;
    this.request();
  }

  limit(status) {
    this.status = this.status === status ? null : status;
    this.arrange();
  }

  fold(row) {
    if (!this.folded.delete(row)) this.folded.add(row);
    this.arrange();
  }

  foldAll() {
    if (this.folded.size) this.folded.clear();
    else for (const row of this.store.rows) if (row.children.length) this.folded.add(row);
    this.arrange();
  }

  // What a person does with a row.

  key(event) {
    const at = this.shown.indexOf(this.chosen);
    const page = Math.max(1, Math.floor(this.list.clientHeight / ROW_HEIGHT) - 1);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: Infinity }[event.key];
    const row = this.chosen;
    if (to !== undefined) this.choose(this.shown[Math.max(0, Math.min(this.shown.length - 1, to))], this.open);
    else if (!row) return;
    else if (event.key === "ArrowLeft") {
      if (row.children.length && !this.folded.has(row)) this.fold(row);
      else if (row.parent >= 0) this.choose(this.store.rows[row.parent], this.open);
    } else if (event.key === "ArrowRight") {
      if (this.folded.has(row)) this.fold(row);
      else if (row.children.length) this.choose(row.children[0], this.open);
    } else if (event.key === "Enter") this.show(!this.open);
    else if (event.key === "Delete") this.cancel(row);
    else return;
    event.preventDefault();
    event.stopPropagation(); // the notebook has commands on the same keys
  }

  choose(row, open) {
    if (!row) return;
    const again = this.chosen === row && this.open;
    this.chosen = row;
    const top = this.shown.indexOf(row) * ROW_HEIGHT;
    const { list } = this;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW_HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
    this.show(open && !again);
  }

  show(open) {
    this.open = open;
    this.details.hidden = !open;
    if (open) this.model.send({ kind: "details", run: this.chosen.id });
    this.request();
  }

  cancel(row) {
    if (!this.alive || (row && row.finished >= 0)) return;
    this.asked.add(row && row.id);
    this.model.send(row ? { kind: "cancel", run: row.id } : { kind: "cancel" });
    this.request();
  }

  drawDetails() {
    const row = this.chosen;
    const told = this.store.details.get(row.id);
    const state = `${row.id} ${row.status} ${told?.stamp}`;
    if (state === this.detailed) return;
    if (told && row.status > told.status) {
      told.status = row.status; // it went on since: ask again, once
      this.model.send({ kind: "details", run: row.id });
    }
    this.detailed = state;
    const close = make("button", "onix-close", { type: "button", "aria-label": "Close the details" }, "✕");
    close.addEventListener("click", () => this.show(false));
    const parts = [close, make("div", "", {}, told ? told.summary : `run ${row.id}, ${row.name}: the details come when the kernel is free`)];
    const section = (title, className, text) => {
      if (text) parts.push(make("h4", "", {}, title), make("pre", className, {}, text));
    };
    section("arguments", "onix-arguments", told?.arguments);
    section("result", "onix-result", told?.result);
    section("error", "onix-traceback", told?.traceback);
    section("output", "onix-output", told?.output);
    this.details.replaceChildren(...parts);
  }
}

const stores = new WeakMap();

/** The store of a model, kept current by the kernel's messages. */
function storeOf(model) {
  let store = stores.get(model);
  if (store) return store;
  store = new Store();
  stores.set(model, store);
  const take = (head, data) => {
    if (!store.take(head, data)) model.send({ kind: "hello", seq: store.seq });
  };
  model.on("msg:custom", (message, buffers) => {
    if (message.kind === "runs") take(message, buffers[0] && asView(buffers[0]));
    else if (message.kind === "details") {
      store.details.set(message.run, { ...message, stamp: performance.now(), status: STATUSES.indexOf(message.status) });
      store.tell();
    }
  });
  const head = model.get("head");
  if (head) take(JSON.parse(head), asView(model.get("snapshot")));
  model.send({ kind: "hello", seq: store.seq }); // what came between that state and now
  return store;
}

function asView(data) {
  return ArrayBuffer.isView(data) ? new DataView(data.buffer, data.byteOffset, data.byteLength) : new DataView(data);
}

export default {
  initialize({ model }) {
    storeOf(model);
  },
  render({ model, el }) {
    const view = new View(model, storeOf(model), el);
    return () => view.remove();
  },
};
