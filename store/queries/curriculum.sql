-- In which order, easy to hard, does a run's loss put the samples that it looked at? ($run)
-- The loss of a sample is the one before it was first trained on, or the last one where it never was.
WITH looks AS (
    SELECT sample_id, step, loss, position, min(step) FILTER (kept) OVER (PARTITION BY sample_id) AS trained
    FROM ledger WHERE run = $run AND loss IS NOT NULL
),
before AS (
    SELECT sample_id, arg_max(loss, step) AS loss, min(position) AS position
    FROM looks WHERE trained IS NULL OR step <= trained GROUP BY sample_id
)
SELECT row_number() OVER (ORDER BY loss, sample_id) AS place, sample_id, loss, position FROM before ORDER BY place
