-- A curriculum of the samples that runs kept, by their loss before they were first trained on: hard to easy. ($runs)
-- curate curriculum --from RUN --order sql:benchmarks/results/hard_first.sql --name NAME
SELECT sample_id, arg_min(loss, step) FILTER (kept) AS loss
FROM ledger WHERE run IN $runs GROUP BY sample_id HAVING bool_or(kept) ORDER BY loss DESC, sample_id
