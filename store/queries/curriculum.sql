-- In which order, easy to hard, does a run's loss put the samples that it looked at? ($run)
-- The loss of a sample is the one before it was first trained on, or the last one where it never was.
WITH before AS (
    SELECT sample_id, coalesce(arg_min(loss, step) FILTER (kept), arg_max(loss, step)) AS loss, min(position) AS position
    FROM ledger WHERE run = $run AND loss IS NOT NULL GROUP BY sample_id
)
SELECT row_number() OVER (ORDER BY loss, sample_id) AS place, sample_id, loss, position FROM before ORDER BY place
