// The selection and the order of the samples in the list. This code does not touch the page.

const FILTERS = {
  all: { word: "All", test: () => true },
  kept: { word: "Most kept", test: (sample, run) => run.kept[sample] > 0, sort: { key: "kept", down: true } },
  never: {
    word: "Never kept",
    test: (sample, run) => run.offered[sample] > 0 && !run.kept[sample],
    sort: { key: "offered", down: true },
  },
  unseen: { word: "Never offered", test: (sample, run) => !run.offered[sample] },
  volatile: {
    word: "Most volatile",
    test: (sample, run) => known(run.columns.volatility?.[sample]),
    sort: { key: "volatility", down: true },
  },
};

const everySample = d3.range(samples.id.length);
const labelOf = (by, sample) => samples.labels[by].values[samples.labels[by].codes[sample]] ?? null;

/** Return the values of a column, one per sample. Columns of the sample come before columns of a run. */
function columnOf(key, run) {
  if (key === "position" || key === "tokens" || key === "prompt") return samples[key];
  if (key === "offered" || key === "kept") return samples.runs[run][key];
  if (samples.labels[key]) return everySample.map((sample) => labelOf(key, sample));
  return samples.runs[run].columns[key] ?? [];
}

let haystacks = null; // lower-case text of every sample, made at the first search

const haystackOf = (sample) =>
  [
    samples.prompt[sample],
    samples.answer[sample],
    samples.id[sample],
    ...Object.keys(samples.labels).map((by) => labelOf(by, sample) ?? ""),
  ]
    .join("\n")
    .toLowerCase();

/** Return the sorted samples that contain all `words`, pass the filter and have the labels. */
function chosenSamples({ words, filter, labels, run, sort }) {
  const { test } = FILTERS[filter];
  const history = samples.runs[run];
  const codes = Object.entries(labels).map(([by, value]) => [samples.labels[by].codes, Number(value)]);
  let found = everySample.filter(
    (sample) => test(sample, history) && codes.every(([code, value]) => code[sample] === value),
  );
  if (words.length) {
    haystacks ??= everySample.map(haystackOf);
    found = found.filter((sample) => words.every((word) => haystacks[sample].includes(word)));
  }
  const values = columnOf(sort.key, run);
  const direction = sort.down ? -1 : 1;
  const textual = found.some((sample) => typeof values[sample] === "string");
  const collator = new Intl.Collator(undefined, { numeric: true });
  const between = textual ? (a, b) => direction * collator.compare(a, b) : (a, b) => direction * (a - b);
  return found.sort((a, b) => {
    if (!known(values[a]) || !known(values[b])) return known(values[b]) - known(values[a]) || a - b;
    return between(values[a], values[b]) || a - b;
  });
}

/** Return in words what a run did with a sample. */
function factsOf(sample, run) {
  const { offered, kept, columns } = samples.runs[run];
  const words = [
    offered[sample] ? `kept ${count(kept[sample])} of ${numbered(offered[sample], "time")} offered` : "never offered",
  ];
  for (const by of ["source", "cluster"])
    if (samples.labels[by] && labelOf(by, sample) !== null)
      words.push(by === "cluster" ? `cluster ${labelOf(by, sample)}` : labelOf(by, sample));
  if (known(columns.score?.[sample])) words.push(`score ${number(columns.score[sample])}`);
  return words.join(" · ");
}
