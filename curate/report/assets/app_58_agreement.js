// The agreement of the runs, as a matrix of numbers.

/** Return the matrix with, for each pair of runs, the share and number of samples that both kept, and the random share. */
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
    "Each cell shows the share and the number of samples that both runs kept, among the samples that at least one of them kept" +
    (chance
      ? ". Below is the share for two runs that keep as many samples at random. Only samples that were offered to both runs count."
      : ".");
  return figure({
    title: "Samples kept by both",
    summary: closeness(names, pairs, jaccard),
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
  if (!pairs.length) return "No two runs were offered the same sample.";
  const both = ([a, b]) => `${plain(names[a])} and ${plain(names[b])}`;
  const of = ([a, b]) => share(jaccard[a][b]);
  const closest = d3.greatest(pairs, ([a, b]) => jaccard[a][b]);
  const furthest = d3.least(pairs, ([a, b]) => jaccard[a][b]);
  if (pairs.length === 1) return `${both(closest)} share ${of(closest)} of the samples that at least one of them kept.`;
  return `The most similar runs are ${both(closest)} (${of(closest)}); the least similar are ${both(furthest)} (${of(furthest)}).`;
}
