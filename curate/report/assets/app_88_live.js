// `curate watch`: the page listens to its server and draws again the sections whose data are new. What the reader has
// opened stays open, focus and scroll positions stay, and nothing is replaced while text in it is selected.

/** Name of a section -> how it is made, and the data that it shows. */
const LIVE_SECTIONS = {
  now: [nowSection, () => data.live.now],
  figures: [keyFigures, () => [runs[0].steps, runs[0].kept, runs[0].offered, runs[0].eval, runs[0].loss, runs[0].time]],
  curves: [
    liveCurveSection,
    () => [runs[0].eval, runs[0].loss, runs[0].kept_share, data.live.candidate_loss, data.live.kept_loss],
  ],
  spikes: [spikeSection, () => [data.live.spikes, data.live.all_spikes]],
  kept: [liveGroupSection, () => [data.live.lines, data.groups]],
  scores: [liveScoreSection, () => [runs[0].scores, data.live.quantiles]],
  distributions: [liveDistributionSection, () => [runs[0].distributions, data.live.window]],
  time: [liveTimeSection, () => [runs[0].time, data.live.step_seconds]],
  configuration: [configurationSection, () => runs[0].config],
};

const live = { shown: {}, paused: false, waiting: null, connected: true };

function showLive() {
  const parts = Object.keys(LIVE_SECTIONS).map(makeLiveSection);
  document.getElementById("page").replaceChildren(liveHead(), contentsOf(parts), mainOf(parts));
  updateHead();
  const source = new EventSource("events");
  source.addEventListener("content", ({ data: text }) => receive(JSON.parse(text)));
  source.addEventListener("end", () => (source.close(), updateStatus("The watch has ended. This page keeps its last state.")));
  source.addEventListener("open", () => updateStatus(data.live.state === "going" ? "Connected." : ""));
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) updateStatus("The server does not answer. The page tries again.");
  });
}

function makeLiveSection(name) {
  const [make, dataOf] = LIVE_SECTIONS[name];
  live.shown[name] = JSON.stringify(dataOf() ?? null);
  const part = make();
  addStatements(name, part.node);
  return part;
}

/** Add to each figure the SQL of its numbers, with a button that copies it. */
function addStatements(name, node) {
  for (const drawn of node.querySelectorAll("figure")) {
    const title = drawn.querySelector("h3")?.textContent;
    const sql = data.live.sql[`${name}/${title}`];
    if (!sql) continue;
    const copy = h("button", { type: "button", class: "quiet", click: () => copyText(sql, copy) }, "Copy");
    drawn.append(
      disclosure(
        "Show the SQL",
        h("div", {}, h("pre", { tabindex: 0, role: "region", "aria-label": `SQL of ${title}` }, h("code", {}, sql)), copy),
        "sql",
      ),
    );
  }
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    const range = document.createRange();
    range.selectNodeContents(button.parentNode.querySelector("code"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    button.textContent = "Selected: copy it with the keyboard";
  }
}

function liveHead() {
  const pause = h("button", { type: "button", class: "quiet", id: "pause", "aria-pressed": "false", click: togglePause }, "Pause");
  return h(
    "header",
    { class: "page-head" },
    h("div", { class: "masthead" }, h("span", {}, "curate watch"), themeSwitch()),
    h("h1", {}, quoted(data.title)),
    h("p", { class: "standfirst", id: "standfirst" }),
    h("div", { class: "progress" }, h("progress", { id: "progress", "aria-label": "Steps of the run" }), pause),
    h("p", { class: "made", id: "made" }),
    h("p", { class: "made", id: "status", role: "status", "aria-live": "polite" }),
  );
}

function updateHead() {
  const { sentence, state, total_steps: total } = data.live;
  document.getElementById("standfirst").replaceChildren(...readable(sentence));
  const progress = document.getElementById("progress");
  progress.hidden = !total;
  if (total) {
    progress.max = total;
    progress.value = Math.min(runs[0].steps, total);
  }
  const made = new Date(data.made_at);
  document.getElementById("made").textContent = `State of ${made.toLocaleTimeString()}, by curate ${data.curate}.`;
  document.documentElement.dataset.state = state;
  document.documentElement.dataset.step = runs[0].steps;
  if (state === "ended" || state === "stopped") updateStatus(sentence);
}

function updateStatus(text) {
  const status = document.getElementById("status");
  if (status.textContent !== text) status.textContent = text;
}

function togglePause() {
  live.paused = !live.paused;
  const button = document.getElementById("pause");
  button.setAttribute("aria-pressed", String(live.paused));
  button.textContent = live.paused ? "Resume" : "Pause";
  if (!live.paused && live.waiting) receive(live.waiting);
}

function receive(content) {
  if (live.paused) {
    live.waiting = content;
    return;
  }
  live.waiting = null;
  take(content);
  updateHead();
  for (const name of Object.keys(LIVE_SECTIONS)) updateSection(name);
  drawPlots();
}

function updateSection(name) {
  const old = document.getElementById(name);
  if (JSON.stringify(LIVE_SECTIONS[name][1]() ?? null) === live.shown[name] || isSelectedIn(old)) return;
  const state = stateOf(old);
  plots.splice(0, plots.length, ...plots.filter(({ box }) => !old.contains(box)));
  const { node } = makeLiveSection(name);
  old.replaceWith(node);
  restore(node, state);
}

const isSelectedIn = (node) => {
  const selection = getSelection();
  return !selection.isCollapsed && node.contains(selection.anchorNode);
};

/** Return a name for an element that its successor has, too: of its figure, and its own. */
const keyOf = (node) =>
  node.dataset.key ??
  [node.closest("figure")?.querySelector("h3")?.textContent, node.tagName, node.ariaLabel ?? node.querySelector("summary")?.textContent ?? node.textContent.slice(0, 80)].join(
    " / ",
  );

const FOCUSABLE = "button, summary, a[href], [tabindex]";

function stateOf(node) {
  const focused = node.contains(document.activeElement) ? document.activeElement : null;
  const holder = focused?.tagName === "SUMMARY" ? focused.parentNode : focused;
  return {
    open: new Set([...node.querySelectorAll("details[open]")].map(keyOf)),
    scroll: new Map([...node.querySelectorAll(".scroll")].map((box) => [keyOf(box), box.scrollLeft])),
    focus: holder ? keyOf(holder) : null,
  };
}

function restore(node, { open, scroll, focus }) {
  for (const details of node.querySelectorAll("details")) details.open = open.has(keyOf(details));
  for (const box of node.querySelectorAll(".scroll")) box.scrollLeft = scroll.get(keyOf(box)) ?? 0;
  if (focus === null) return;
  const found = [...node.querySelectorAll(FOCUSABLE)].find(
    (each) => keyOf(each.tagName === "SUMMARY" ? each.parentNode : each) === focus,
  );
  const title = node.querySelector("h2");
  title.tabIndex = -1; // what had the focus is gone: stay in its section
  (found ?? title).focus({ preventScroll: true });
}
