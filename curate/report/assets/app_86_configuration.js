// The tables of evaluations, configuration and provenance.

function evaluationSection() {
  if (!data.evaluations.length)
    return section(
      "evaluations",
      "Evaluations",
      null,
      absent(data.missing.evaluations ?? "These runs have no evaluation."),
    );
  const partOf = ({ by, source }) =>
    !known(source) ? "all" : !known(by) || by === "source" ? source : `${by}: ${source}`;
  const grouped = d3.group(data.evaluations, (entry) => JSON.stringify([entry.pool, entry.metric, partOf(entry)]));
  const order = [...new Set(data.evaluations.map((entry) => entry.run))];
  const rows = [...grouped].map(([key, entries]) => {
    const [pool, metric, part] = JSON.parse(key);
    const of = (run) => entries.find((entry) => entry.run === run)?.value ?? null;
    return [pool, metric.replaceAll("_", " "), part, d3.max(entries, (entry) => entry.samples), ...order.map(of)];
  });
  const heads = ["pool or task", "metric", "part"].map((text) => ({ text, sort: true }));
  const numbers = order.map((text) => ({ text, numeric: true, write: loss4, sort: true }));
  const errors = data.evaluations.map((entry) => entry.stderr).filter(known);
  const note = errors.length ? `Standard errors: ${brief(d3.min(errors))} to ${brief(d3.max(errors))}.` : null;
  return section(
    "evaluations",
    "Evaluations",
    null,
    table({
      caption: "Evaluations",
      heads: [...heads, { text: "samples", numeric: true, write: count, sort: true }, ...numbers],
      rows,
    }),
    note ? h("p", { class: "note" }, note) : null,
  );
}

const shownValue = (value) =>
  !known(value) ? NONE : typeof value === "object" ? JSON.stringify(value) : String(value);

function configurationSection() {
  const keys = d3.sort(new Set(runs.flatMap((run) => Object.keys(run.config)))).filter((key) => key !== "name");
  const differs = (key) => new Set(runs.map((run) => JSON.stringify(run.config[key] ?? null))).size > 1;
  const changed = (key) => runs.some((run) => run.changed.includes(key));
  const first = keys.filter(several ? differs : changed);
  const others = keys.filter((key) => !first.includes(key));
  const heads = [{ text: "setting" }, ...runs.map((run) => ({ text: several ? run.name : "value" }))];
  const rows = (chosen) =>
    chosen.map((key) => [
      h("code", {}, key),
      ...runs.map((run) =>
        h("span", { class: run.changed.includes(key) ? "changed" : null }, shownValue(run.config[key])),
      ),
    ]);
  const top = several ? "Settings that differ between the runs" : "Settings that differ from the defaults";
  const shown = first.length
    ? table({ caption: top, heads, rows: rows(first), kind: "settings" })
    : h(
        "p",
        { class: "note" },
        several ? "The runs have the same settings." : "All settings have their default values.",
      );
  return section(
    "configuration",
    "Configuration and provenance",
    several ? "Bold values differ from the default." : null,
    h("h3", {}, top),
    shown,
    others.length
      ? disclosure(
          several
            ? `Settings that all runs share (${count(others.length)})`
            : `Other settings (${count(others.length)})`,
          table({ caption: "Other settings", heads, rows: rows(others), kind: "settings" }),
          "print",
        )
      : null,
    h("h3", {}, "Provenance"),
    provenance(),
  );
}

/** Return the fingerprints and versions, with a column per run, and the inputs of all runs. */
function provenance() {
  const facts = runs.map(({ provenance: { fingerprint, made_at, curate, packages } }) => ({
    fingerprint,
    made: made_at,
    curate,
    ...packages,
  }));
  const keys = [...new Set(facts.flatMap(Object.keys))].filter((key) => facts.some((fact) => known(fact[key])));
  const heads = [{ text: "" }, ...runs.map((run) => ({ text: several ? run.name : "value" }))];
  const rows = keys.map((key) => [
    key,
    ...facts.map((fact) => (key === "fingerprint" ? h("code", {}, fact[key] ?? NONE) : fact[key])),
  ]);
  const inputs = runs.flatMap((run) =>
    (run.provenance.inputs ?? []).map((input) => [
      ...(several ? [run.name] : []),
      input.role,
      input.name,
      input.stage,
      input.fingerprint ? h("code", {}, input.fingerprint) : null,
      input.rows,
    ]),
  );
  const inputHeads = [
    ...(several ? [{ text: "run" }] : []),
    ...["input", "name", "stage", "fingerprint"].map((text) => ({ text })),
    { text: "rows", numeric: true, write: count },
  ];
  return [
    rows.length ? table({ caption: "Provenance", heads, rows, kind: "settings" }) : null,
    inputs.length
      ? [h("h3", {}, "Inputs"), table({ caption: "Inputs", heads: inputHeads, rows: inputs, kind: "settings" })]
      : null,
  ];
}
