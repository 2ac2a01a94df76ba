// The dots of the map: their groups in drawing order, their shape, and the neighbour of a dot in a direction.

const MOST_GROUPS = 7;
const KEPT_STEPS = [
  [1, 1],
  [2, 2],
  [3, 4],
  [5, Infinity],
];

/** Return the groups of the samples on the map: [{word, colour, size, members}]. Later groups are drawn on top. */
function mapGroups(placed, by, run) {
  return (by === "times kept" ? keptGroups(placed, run) : labelGroups(placed, samples.labels[by])).filter(
    (group) => group.members.length,
  );
}

function keptGroups(placed, run) {
  const { offered, kept } = samples.runs[run];
  const most = d3.max(placed, (sample) => kept[sample]) ?? 0;
  const steps = most <= 4 ? d3.range(1, most + 1).map((times) => [times, times]) : KEPT_STEPS;
  const shades = steps.length < 4 ? 2 : 1; // a few steps use only the darker shades
  const group = (word, variable, size, test) => ({
    word,
    size,
    colour: computedColour(variable),
    members: placed.filter(test),
  });
  return [
    group("never offered", "--never", 0.8, (sample) => !offered[sample]),
    group("offered, never kept", "--seen", 1, (sample) => offered[sample] && !kept[sample]),
    ...steps.map(([low, high], place) =>
      group(
        timesWord(low, high),
        `--kept-${Math.min(4, place + shades)}`,
        1.15 + 0.2 * place,
        (sample) => kept[sample] >= low && kept[sample] <= high,
      ),
    ),
  ];
}

function timesWord(low, high) {
  if (high === Infinity) return `kept ${low} times or more`;
  if (low < high) return `kept ${low} to ${high} times`;
  return low === 1 ? "kept once" : `kept ${low} times`;
}

/** Return a group for each of the most common values of a label, one for all others, and one for no value. */
function labelGroups(placed, { values, codes }) {
  const counts = d3.rollup(
    placed,
    (list) => list.length,
    (sample) => codes[sample],
  );
  const coded = [...counts.keys()].filter((code) => code >= 0);
  const common = d3.sort(coded, (code) => -counts.get(code)).slice(0, MOST_GROUPS);
  const group = (word, variable, size, test) => ({
    word,
    size,
    colour: computedColour(variable),
    members: placed.filter((sample) => test(codes[sample])),
  });
  return [
    group("none", "--never", 0.9, (code) => code < 0),
    group("all others", "--seen", 0.9, (code) => code >= 0 && !common.includes(code)),
    ...common.map((code, place) => group(values[code], `--run-${place}`, 1, (each) => each === code)),
  ];
}

/** Draw a dot, or a square (which is faster) if there are so many that each has only a few pixels. */
function dot(pen, x, y, radius, many) {
  if (many > 15000) pen.rect(x - radius, y - radius, 2 * radius, 2 * radius);
  else {
    pen.moveTo(x + radius, y);
    pen.arc(x, y, radius, 0, 2 * Math.PI);
  }
}

/** Return the nearest dot in a direction, within 45° to each side, or the dot itself if there is none. */
function neighbourOnMap(placed, left, top, from, [right, down]) {
  let [best, least] = [from, Infinity];
  for (const sample of placed) {
    const [across, along] = [left[sample] - left[from], top[sample] - top[from]];
    const ahead = across * right + along * down;
    const aside = Math.abs(across * down) + Math.abs(along * right);
    if (ahead > 0.5 && aside <= ahead && ahead + 2 * aside < least) [best, least] = [sample, ahead + 2 * aside];
  }
  return best;
}
