// How much runs agree: a matrix of numbers.

/** Of what either of two runs kept: the share that both kept, how many these are, and what chance would have given. */
function agreementFigure({ runs: names, jaccard, shared, chance }) {
  const every = d3.range(names.length);
  const pairs = d3.cross(every, every).filter(([a, b]) => a < b && known(jaccard[a][b]));
  const cell = (a, b) => {
    const strength = a === b || !known(jaccard[a][b]) ? 0 : Math.round(70 * Math.sqrt(jaccard[a][b]));
    return h(
      "div",
      { class: a === b ? "cell same" : "cell", style: { "--strength": `${strength}%` } },
      h("b", {}, a === b ? "all" : share(jaccard[a][b])),
      h("small", {}, `${count(shared[a][b])} samples`),
      known(chance?.[a][b]) ? h("small", {}, `by chance ${share(chance[a][b])}`) : null,
    );
  };
  const note =
    "Of the samples that either run kept at least once: the share that both kept, how many these are" +
    (chance
      ? ", and the share if both had kept as many by chance. Only samples that were offered to both count."
      : ".");
  return figure({
    title: "Samples kept by both",
    told: closeness(names, pairs, jaccard),
    body: table({
      caption: "Agreement between runs",
      heads: [{ text: "run" }, ...names.map((text) => ({ text, numeric: true }))],
      rows: names.map((name, a) => [quoted(name), ...every.map((b) => cell(a, b))]),
      kind: "matrix",
    }),
    note,
  });
}

function closeness(names, pairs, jaccard) {
  if (!pairs.length) return "No sample was offered to two of the runs.";
  const both = ([a, b]) => `${plain(names[a])} and ${plain(names[b])}`;
  const of = ([a, b]) => share(jaccard[a][b]);
  const closest = d3.greatest(pairs, ([a, b]) => jaccard[a][b]);
  const furthest = d3.least(pairs, ([a, b]) => jaccard[a][b]);
  if (pairs.length === 1) return `${both(closest)} share ${of(closest)} of what either kept.`;
  return `Closest are ${both(closest)} (${of(closest)}); furthest apart ${both(furthest)} (${of(furthest)}).`;
}
