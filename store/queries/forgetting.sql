-- Which samples' loss was most volatile, of those that a run looked at more than once? ($run)
-- `rises` counts the looks at which the loss was higher than at the look before: what was learnt, then forgotten.
WITH looks AS (
    SELECT sample_id, step, loss, kept, position,
           loss > lag(loss) OVER (PARTITION BY sample_id ORDER BY step, rank, slot) AS rose
    FROM ledger WHERE run = $run AND loss IS NOT NULL
)
SELECT sample_id, count(*) AS looks, count(*) FILTER (kept) AS kept, arg_min(loss, step) AS first_loss,
       arg_max(loss, step) AS last_loss, stddev_pop(loss) AS volatility, count(*) FILTER (rose) AS rises,
       min(position) AS position
FROM looks GROUP BY sample_id HAVING min(step) < max(step) ORDER BY volatility DESC, sample_id
