// The sections on what happened over the steps and on what was kept, and what they say when there is nothing to show.

function courseSection() {
  const note =
    "Measured on what was kept, so a selector that keeps what is hard shows a higher loss: go by the held-out loss. Lines are means over a fortieth of the course.";
  const kept = runs.map((run) => new Set(run.kept_share?.value ?? []));
  const steady = kept.every((values) => values.size === 1 && values.has([...kept[0]][0]));
  const average = (values) => `${share(d3.mean(values.filter(known)))} on average`;
  const tokens = (run) => run.kept_share?.tokens && { step: run.kept_share.step, value: run.kept_share.tokens };
  return section(
    "course",
    "Over the steps",
    steady ? `Every step kept ${share([...kept[0]][0])} of its candidates.` : null,
    h(
      "div",
      { class: "figures two" },
      courseFigure("Held-out loss", "eval", (run) => run.eval),
      courseFigure("Training loss", "loss", (run) => run.loss, { smooth: true, note }),
      steady || kept.every((values) => !values.size)
        ? null
        : courseFigure("Kept share of the candidates", "kept_share", (run) => run.kept_share, {
            write: share,
            say: average,
          }),
      runs.some(tokens)
        ? courseFigure("Kept share of the candidates' tokens", "kept_share", tokens, {
            write: share,
            say: average,
            smooth: true,
          })
        : null,
    ),
  );
}

function scoreSection() {
  const figures = scoreFigures();
  if (!figures.length)
    return section("scores", "Scores over the steps", null, absentOf("scores", "No run here scores anything."));
  const body = [keptKey(), h("div", { class: "figures" }, figures), absentOf("scores")];
  return section(
    "scores",
    "Scores over the steps",
    "What the selector ranked by, and the parts it is made of: means over the kept and over the passed over of every step.",
    body,
  );
}

function distributionSection() {
  const figures = distributionFigures();
  if (!figures.length)
    return section(
      "distributions",
      "Distributions of scores",
      null,
      absentOf("distributions", "No run here scores anything."),
    );
  const body = [keptKey(), h("div", { class: "figures" }, figures), absentOf("distributions")];
  return section(
    "distributions",
    "Distributions of scores",
    "All candidates of all steps. Each shape is a share of its own side, so that few kept can be held against many passed over.",
    body,
  );
}

const SECTIONS = ["map", "agreement", "samples", "comparisons", "evaluations", "groups"];

function groupSection() {
  const others = Object.entries(data.missing).filter(
    ([id]) => !SECTIONS.includes(id) && !runs.some((run) => id in run),
  );
  const absences = [
    ...(data.groups.length ? [] : [data.missing.groups ?? "Nothing is known of the samples' groups."]),
    ...others.map(([, sentence]) => sentence),
  ];
  const key = data.groups.length
    ? h(
        "ul",
        { class: "keys" },
        keyEntry("band", "where 19 of 20 draws by chance lie"),
        keyEntry("dot-full", "more or less than chance"),
        keyEntry("dot-hollow", "as by chance"),
      )
    : null;
  return section(
    "kept",
    "What was kept, against chance",
    data.groups.length
      ? "How much of each group is among the kept, as a multiple of its share among the candidates offered. At 1 the choice did not care."
      : null,
    key,
    data.groups.map(groupFigure),
    absences.map(absent),
  );
}
