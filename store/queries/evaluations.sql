-- How good are the models, and which selector and how many steps made them? (no parameters; whole tasks only)
WITH runs AS (
    SELECT name AS run, (config::JSON)->>'selector' AS selector, (config::JSON)->>'seed' AS seed
    FROM artifacts WHERE stage = 'train'
),
steps AS (SELECT run, max(step) AS steps FROM ledger GROUP BY run)
SELECT e.task, e.metric, e.evaluation, e.run, r.selector, r.seed, s.steps,
       round(e.value, 4) AS value, round(e.stderr, 4) AS stderr, e.samples, e.tokens
FROM evaluations e LEFT JOIN runs r USING (run) LEFT JOIN steps s USING (run)
WHERE e.grouped_by IS NULL
ORDER BY e.task, e.metric, e.value, e.evaluation
