// The sections of `curate watch`: the report's figures of one run that trains, and what only such a run has.

const liveCurve = (name) => () => data.live[name];

function liveCurveSection() {
  const note = "A mean over the steps between two log entries, measured on the kept samples.";
  const average = (values) => `${share(d3.mean(values.filter(known)))} on average`;
  const tokens = (run) => run.kept_share?.tokens && { step: run.kept_share.step, value: run.kept_share.tokens };
  return section(
    "curves",
    "Losses and kept shares over the steps",
    null,
    h(
      "div",
      { class: "figures two" },
      curveFigure("Held-out loss", "eval", (run) => run.eval),
      curveFigure("Training loss", "loss", (run) => run.loss, { note }),
      beforeFigure(),
      curveFigure("Kept share of the candidates", "kept_share", (run) => run.kept_share, { write: share, say: average }),
      curveFigure("Kept share of the candidates' tokens", "kept_share", tokens, {
        write: share,
        say: average,
        smooth: true,
      }),
    ),
  );
}

/** Return the figure of the losses that the ledger has, or null if no candidate's loss is measured. */
function beforeFigure() {
  const curves = [
    { name: "all candidates", ...data.live.candidate_loss, colour: "var(--passed)", dash: "3 3" },
    { name: "kept", ...data.live.kept_loss, colour: colourOf(0) },
  ].filter((curve) => curve.step?.length);
  if (!curves.length) return null;
  const smooth = curves.map((curve) => ({ ...curve, value: smoothed(curve.value) }));
  const y = domainOf(smooth.map((curve) => curve.value));
  const words = `${curves.map(({ name, value }) => `${name} ${brief(lastKnown(value))}`).join(", ")} at the newest step`;
  return figure({
    title: "Loss before the step",
    summary: `${upper(words)}.`,
    keys: h("ul", { class: "keys" }, keyEntry("kept", "kept"), keyEntry("passed", "all candidates")),
    body: plot(words, (width) => linesDrawing(width, smooth, { x: stepsDomain(), y })),
    note: "Means over target tokens, in nats. The lines are moving averages over a fortieth of the curve.",
    table: curvesTable("Loss before the step", curves, decimals(curves.flatMap((curve) => curve.value))),
    wide: false,
  });
}

const lastKnown = (values) => values.findLast(known) ?? null;

function liveGroupSection() {
  const parts = data.live.by.map((by, place) => [
    h("div", { class: "figures two" }, labelFigures(() => data.live.lines[place], by)),
    data.groups[place] ? groupFigure(data.groups[place]) : null,
  ]);
  const nothing = data.groups.length ? null : absent("No step is written yet.");
  const missing = data.missing.clusters ? absent(data.missing.clusters) : null;
  return section(
    "kept",
    "Kept samples by group",
    "Over the steps, the largest groups of the pool have a line each. Below, all steps so far are compared with a random choice from the same candidates.",
    parts,
    nothing,
    missing,
  );
}

function liveScoreSection() {
  const figures = scoreFigures();
  if (!figures.length) return section("scores", "Scores over the steps", null, absentOf("scores", "No scores yet."));
  const spreads = data.live.quantiles.map(spreadFigure);
  return section(
    "scores",
    "Scores over the steps",
    "The score by which the selector ranks candidates, and its parts: means over the kept and over the other candidates of each step, and the spread of all candidates.",
    keptKey(),
    h("div", { class: "figures" }, figures),
    h("div", { class: "figures" }, spreads),
  );
}

/** Return the figure of the median of a score over the steps, between the values that a tenth is below and above. */
function spreadFigure({ name, low, middle, high }) {
  const lines = [
    { name: "a tenth is above", ...high, colour: "var(--passed)", dash: "3 3" },
    { name: "median", ...middle, colour: colourOf(0) },
    { name: "a tenth is below", ...low, colour: "var(--passed)", dash: "7 3" },
  ];
  const words = `${titled(name)}: at the newest step the median is ${brief(lastKnown(middle.value))}, a tenth is below ${brief(lastKnown(low.value))} and a tenth above ${brief(lastKnown(high.value))}`;
  const y = domainOf(lines.map((line) => line.value));
  return figure({
    title: `${titled(name)}: spread`,
    body: [h("p", { class: "sentence" }, `${words}.`), plot(words, (width) => linesDrawing(width, lines, { x: stepsDomain(), y, height: 190 }))],
    table: curvesTable(`${name}: spread`, lines, decimals(lines.flatMap((line) => line.value))),
    wide: false,
  });
}

function liveDistributionSection() {
  const figures = distributionFigures();
  if (!figures.length)
    return section("distributions", "Distributions of scores", null, absentOf("distributions", "No scores yet."));
  const [first, last] = data.live.window;
  return section(
    "distributions",
    "Distributions of scores",
    `The candidates of ${first === last ? `step ${count(last)}` : `the steps ${count(first)} to ${count(last)}`}. Each side is normalized.`,
    keptKey(),
    h("div", { class: "figures" }, figures),
  );
}

function nowSection() {
  const now = data.live.now;
  if (!now) return section("now", "The newest step", null, absent("No step is written yet."));
  return section(
    "now",
    "The newest step",
    `Step ${count(now.step)}: candidates with the highest scores, kept and not kept. Click a sample to read it.`,
    h("div", { class: "figures two" }, rowsFigure("Kept", now.kept), rowsFigure("Not kept", now.passed)),
  );
}

function spikeSection() {
  const { spikes, all_spikes: all } = data.live;
  const lead =
    "Steps whose kept samples had a loss far above the 50 steps before, with the kept samples that add most to it.";
  if (!spikes.length) return section("spikes", "Loss spikes", null, h("p", { class: "note" }, "There is none so far."));
  const hidden = all - spikes.length;
  return section(
    "spikes",
    "Loss spikes",
    lead,
    spikes.map((spike) =>
      rowsFigure(
        `Step ${count(spike.step)}`,
        spike.rows,
        `The loss is ${brief(spike.loss)}; the steps before have a median of ${brief(spike.usual)}.`,
      ),
    ),
    hidden > 0 ? h("p", { class: "note" }, `${numbered(hidden, "earlier spike")} not shown. curate report shows all steps.`) : null,
  );
}

/** Return a figure with rows of the ledger as a table; each sample opens its texts. */
function rowsFigure(title, rows, sentence = null) {
  const heads = [
    { text: "sample" },
    ...data.live.by.map((by) => ({ text: BY[by] ?? by })),
    { text: "score", numeric: true },
    { text: "loss", numeric: true },
    { text: "tokens", numeric: true, write: count },
  ];
  const cells = rows.map((row) => [
    rowText(row),
    ...row.labels.map((label) => (known(label) ? quoted(label) : NONE)),
    row.score,
    row.loss,
    row.tokens,
  ]);
  const shown = rows.length
    ? table({ caption: `${title}: candidates`, heads, rows: cells, kind: "rows" })
    : h("p", { class: "note" }, "No candidate.");
  return figure({ title, summary: sentence, body: shown, wide: false });
}

/** Return the beginning of a sample, which opens its whole text. */
function rowText({ sample_id: id, position, prompt, answer }) {
  const begin = (prompt || answer || id).replace(/[ \n\r\t]+/g, " ").slice(0, 90);
  return h(
    "details",
    { "data-key": `row ${id}` },
    h("summary", {}, quoted(begin)),
    h("h4", {}, "Prompt"),
    h("div", { class: "text" }, quoted(prompt)),
    h("h4", {}, "Answer"),
    h("div", { class: "text" }, quoted(answer)),
    h("p", { class: "note" }, `${known(position) ? `Row ${count(position)} of the pool` : "A replayed sample"}, ${id}`),
  );
}

function liveTimeSection() {
  const figures = [
    timeFigure(),
    curveFigure("Seconds of a step", "time", liveCurve("step_seconds"), { smooth: true, write: seconds, say: (values) => `${seconds(lastKnown(values))} at the newest step` }),
  ];
  return section("time", "Time", null, figures);
}
