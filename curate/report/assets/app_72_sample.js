// All data of one sample: inside the list, or in a dialog when the user opens it from the map.

/** Return all data of a sample: prompt, answer, labels, and its history in every run. */
function sampleDetail(sample, words = []) {
  const fact = (name, value) => (known(value) ? [h("div", {}, h("dt", {}, name), h("dd", {}, quoted(value)))] : null);
  const labels = Object.keys(samples.labels).map((by) => fact(BY[by] ?? by, labelOf(by, sample)));
  return h(
    "div",
    { class: "sample-detail" },
    h(
      "div",
      { class: "turns" },
      h("section", {}, h("h4", {}, "Prompt"), h("div", { class: "text" }, quoted(samples.prompt[sample], words))),
      h("section", {}, h("h4", {}, "Answer"), h("div", { class: "text" }, quoted(samples.answer[sample], words))),
    ),
    h(
      "dl",
      { class: "facts" },
      fact("id", samples.id[sample]),
      fact("row of the pool", count(samples.position[sample])),
      fact("tokens", count(samples.tokens[sample])),
      labels,
    ),
    historyTable(sample),
  );
}

function historyTable(sample) {
  const names = [...new Set(samples.runs.flatMap((run) => Object.keys(run.columns)))];
  const heads = [
    { text: "run" },
    { text: "offered", numeric: true, write: count },
    { text: "kept", numeric: true, write: count },
    ...names.map((name) => ({ text: name.replaceAll("_", " "), numeric: true, write: number })),
  ];
  const rows = samples.runs.map((run, index) => [
    runName(index),
    run.offered[sample],
    run.kept[sample],
    ...names.map((name) => run.columns[name]?.[sample] ?? null),
  ]);
  return table({ caption: "History of this sample in the runs", heads, rows });
}

/** Show one sample in a dialog. Escape or the button closes it. */
function openSample(sample) {
  const shut = h("button", { type: "button", class: "quiet", click: () => dialog.close() }, "Close");
  const dialog = h(
    "dialog",
    { class: "sample-dialog", "aria-label": "Sample", close: () => dialog.remove() },
    h("div", { class: "dialog-head" }, h("h3", {}, `Row ${count(samples.position[sample])} of the pool`), shut),
    sampleDetail(sample),
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
}
