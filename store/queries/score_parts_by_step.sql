-- How did the terms of a run's score develop, among all candidates and among those kept? ($run)
WITH terms AS (
    SELECT step, kept, unnest(map_keys(parts)) AS part, unnest(map_values(parts)) AS value
    FROM ledger WHERE run = $run
)
SELECT step, part, avg(value) AS candidates_mean, stddev_pop(value) AS candidates_deviation,
       avg(value) FILTER (kept) AS kept_mean
FROM terms GROUP BY step, part ORDER BY step, part
