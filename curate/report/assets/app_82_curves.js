// The sections with the curves, the scores, the distributions and the groups, and their texts for missing data.

function curveSection() {
  const note =
    "The training loss is measured on the kept samples. So a selector that keeps hard samples shows a higher loss. Compare runs by the held-out loss. The lines are moving averages over a fortieth of the curve.";
  const kept = runs.map((run) => new Set(run.kept_share?.value ?? []));
  const steady = kept.every((values) => values.size === 1 && values.has([...kept[0]][0]));
  const average = (values) => `${share(d3.mean(values.filter(known)))} on average`;
  const tokens = (run) => run.kept_share?.tokens && { step: run.kept_share.step, value: run.kept_share.tokens };
  return section(
    "curves",
    "Losses and kept shares over the steps",
    steady ? `Every step kept ${share([...kept[0]][0])} of its candidates.` : null,
    h(
      "div",
      { class: "figures two" },
      curveFigure("Held-out loss", "eval", (run) => run.eval),
      curveFigure("Training loss", "loss", (run) => run.loss, { smooth: true, note }),
      steady || kept.every((values) => !values.size)
        ? null
        : curveFigure("Kept share of the candidates", "kept_share", (run) => run.kept_share, {
            write: share,
            say: average,
          }),
      runs.some(tokens)
        ? curveFigure("Kept share of the candidates' tokens", "kept_share", tokens, {
            write: share,
            say: average,
            smooth: true,
          })
        : null,
      labelFigures(),
    ),
  );
}

function scoreSection() {
  const figures = scoreFigures();
  if (!figures.length)
    return section("scores", "Scores over the steps", null, absentOf("scores", "No run of this report scores its candidates."));
  const body = [keptKey(), h("div", { class: "figures" }, figures), absentOf("scores")];
  return section(
    "scores",
    "Scores over the steps",
    "The score by which the selector ranks candidates, and its parts. The lines are means over the kept and over the other candidates of each step.",
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
      absentOf("distributions", "No run of this report scores its candidates."),
    );
  const body = [keptKey(), h("div", { class: "figures" }, figures), absentOf("distributions")];
  return section(
    "distributions",
    "Distributions of scores",
    "All candidates of all steps. Each side is normalized, so that a few kept candidates can be compared with many others.",
    body,
  );
}

const SECTIONS = ["map", "agreement", "samples", "comparisons", "evaluations", "groups"];

function groupSection() {
  const others = Object.entries(data.missing).filter(
    ([id]) => !SECTIONS.includes(id) && !runs.some((run) => id in run),
  );
  const absences = [
    ...(data.groups.length ? [] : [data.missing.groups ?? "The groups of the samples are unknown."]),
    ...others.map(([, sentence]) => sentence),
  ];
  const key = data.groups.length
    ? h(
        "ul",
        { class: "keys" },
        keyEntry("band", "19 of 20 random choices"),
        keyEntry("dot-full", "more or less than by chance"),
        keyEntry("dot-hollow", "same as by chance"),
      )
    : null;
  return section(
    "kept",
    "Kept samples by group",
    data.groups.length
      ? "The share of each group among the kept samples, as a multiple of its share by chance, which is a random choice from the same candidates. At 1×, the selector does not prefer the group."
      : null,
    key,
    data.groups.map(groupFigure),
    absences.map(absent),
  );
}
