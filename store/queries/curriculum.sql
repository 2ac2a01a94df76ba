-- Which order, easy to hard, does a run's loss give to its candidates? ($run)
-- The loss of a sample is its loss before the run first trained on it, or its last loss if it was never kept.
WITH before AS (
    SELECT sample_id, coalesce(arg_min(loss, step) FILTER (kept), arg_max(loss, step)) AS loss, min(position) AS position
    FROM ledger WHERE run = $run AND loss IS NOT NULL GROUP BY sample_id
)
SELECT row_number() OVER (ORDER BY loss, sample_id) AS place, sample_id, loss, position FROM before ORDER BY place
