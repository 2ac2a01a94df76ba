-- A curriculum of the samples that runs kept, by their loss before they were first trained on: easy to hard. ($runs)
-- curate curriculum --from RUN --order sql:benchmarks/results/easy_first.sql --name NAME
SELECT sample_id, arg_min(loss, step) FILTER (kept) AS loss
FROM ledger WHERE run IN $runs GROUP BY sample_id HAVING bool_or(kept) ORDER BY loss, sample_id
