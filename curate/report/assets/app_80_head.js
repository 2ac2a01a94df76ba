// The head of the report, and the key figures of each run.

/** Return a section with an id for the table of contents. `lead` is its introduction. */
function section(id, title, lead, ...content) {
  return {
    id,
    title,
    node: h(
      "section",
      { id, "aria-labelledby": `${id}-title` },
      h("h2", { id: `${id}-title` }, title),
      lead ? h("p", { class: "lead" }, lead) : null,
      content,
    ),
  };
}

const sameOf = (pick) => [...new Set(runs.map(pick).filter(known))];
const NUMBERS = ["", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine"];
const runsWord = () => `${NUMBERS[runs.length] ?? count(runs.length)} ${several ? "runs" : "run"}`;
/** Return the short name of a model: the last part of a path, or the whole Hub id. */
const modelWord = (model) => (/^[./~]/.test(model) ? model.split("/").filter(Boolean).at(-1) : model);
const lastOf = (curve) => curve?.value.findLast(known) ?? null;

/** Return the main numbers of the runs in one sentence. */
function comparedSentence() {
  const models = sameOf((run) => run.model).map(modelWord);
  const subject = `${runsWord()} over ${listed(sameOf((run) => run.pool))}${models.length ? ` on ${listed(models)}` : ""}`;
  if (!d3.sum(runs, (run) => run.offered)) return `${subject}: no candidate was offered yet.`;
  const between = (values, write) => {
    const [low, high] = d3.extent(values).map(write);
    return low === high ? low : `${low} to ${high}`;
  };
  const of = (pick, write) => between(runs.map(pick), write);
  const part = of((run) => (run.offered ? run.kept / run.offered : 0), share);
  const kept = `${of((run) => run.kept, count)} of ${of((run) => run.offered, count)} candidates (${part})`;
  const ends = runs.map((run) => lastOf(run.eval)).filter(known);
  const end = ends.length ? `; held-out loss at the end: ${between(ends, decimals(ends))}` : "";
  return `${subject} kept ${kept} in ${of((run) => run.steps, count)} steps${end}.`;
}

function pageHead() {
  const made = new Date(data.made_at);
  const notes = data.notes.length
    ? h(
        "ul",
        { class: "notes" },
        data.notes.map((note) => h("li", {}, note)),
      )
    : null;
  return h(
    "header",
    { class: "page-head" },
    h("div", { class: "masthead" }, h("span", {}, "curate report"), themeSwitch()),
    h("h1", {}, quoted(data.title)),
    h("p", { class: "standfirst" }, comparedSentence()),
    notes,
    h(
      "p",
      { class: "made" },
      `Made ${Number.isNaN(made.getTime()) ? data.made_at : made.toLocaleString(undefined, { dateStyle: "long", timeStyle: "short" })} by curate ${data.curate}.`,
    ),
  );
}

function keyFigures() {
  const card = (run, index) => {
    const held = lastOf(run.eval);
    const big = known(held)
      ? [number(held), data.live ? "newest held-out loss" : "held-out loss at the end"]
      : [share(run.offered ? run.kept / run.offered : null), "of the candidates kept"];
    const facts = [
      ["selector", run.selector],
      ["kept", `${count(run.kept)} of ${count(run.offered)}`],
      ["steps", count(run.steps)],
      ["tokens of kept samples", count(run.tokens)],
      ["of these, with loss", count(run.target_tokens)],
      [data.live ? "newest training loss" : "training loss at the end", number(lastOf(run.loss && { value: smoothed(run.loss.value) }))],
      ["time", run.time.length ? seconds(d3.sum(run.time, (entry) => entry.seconds)) : NONE],
      ["seed", String(run.seed ?? NONE)],
    ];
    return h(
      "article",
      { class: "card" },
      h("h3", {}, runName(index)),
      h("p", { class: "big" }, h("b", {}, big[0]), " ", big[1]),
      h(
        "dl",
        {},
        facts
          .filter(([, value]) => value !== NONE)
          .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
      ),
    );
  };
  return section(
    "figures",
    "Key figures",
    null,
    h("div", { class: several ? "cards" : "cards single" }, runs.map(card)),
  );
}
