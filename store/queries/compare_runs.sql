-- How do runs compare: held-out loss, tokens, seconds, planted duplicates and noise kept? ($runs: names, * for any)
-- `copies` is the share of kept rows whose sample was kept before. `duplicates` and `noise` are the shares of kept rows
-- that the pool's column `noise` marks as planted; they are null for a pool without it. The last rows show the pools.
WITH runs AS (
    SELECT r.name AS run, (r.config::JSON)->>'selector' AS selector, p.name AS pool, r.made_at
    FROM artifacts r JOIN artifacts p ON p.fingerprint = ((r.inputs::JSON)->>'pool')
    WHERE r.stage = 'train' AND r.name GLOB $runs
),
truth AS (
    SELECT pool, position, sample_id, coalesce(planted LIKE '%duplicate', false) AS duplicate, planted
    FROM (SELECT pool, position, sample_id, metadata->>'noise' AS planted FROM samples)
    WHERE pool IN (SELECT pool FROM runs)
),
places AS (
    SELECT run, position, sample_id, count(*) AS times, max(step) AS step, sum(tokens) AS tokens
    FROM ledger WHERE kept AND run IN (SELECT run FROM runs) GROUP BY run, position, sample_id
),
kept AS (
    SELECT k.run, max(k.step) AS steps, sum(times)::BIGINT AS kept, sum(k.tokens) AS tokens,
           1 - count(DISTINCT k.sample_id) / sum(times) AS copies,
           sum(duplicate::INT * times) FILTER (planted IS NOT NULL) / sum(times) FILTER (planted IS NOT NULL) AS duplicates,
           sum((planted <> '' AND NOT duplicate)::INT * times) / sum(times) FILTER (planted IS NOT NULL) AS noise
    FROM places k JOIN runs r ON r.run = k.run JOIN truth t ON t.pool = r.pool AND t.position = k.position
    GROUP BY k.run
),
logged AS (
    SELECT run, arg_max(value, step) FILTER (metric = 'eval_loss') AS heldout_loss,
           sum(value) FILTER (starts_with(metric, 'seconds_')) AS seconds,
           sum(value) FILTER (metric IN ('seconds_scoring_forward', 'seconds_target_gradient',
             'seconds_candidate_gradients', 'seconds_score_arithmetic')) AS scoring_seconds
    FROM metrics GROUP BY run
),
pools AS (
    SELECT pool, count(*) AS rows, 1 - count(DISTINCT sample_id) / count(*) AS copies,
           avg(CASE WHEN planted IS NOT NULL THEN duplicate::INT END) AS duplicates,
           avg((planted <> '' AND NOT duplicate)::INT) AS noise
    FROM truth GROUP BY pool
),
lines AS (
    SELECT 0 AS part, made_at, r.run, r.selector, steps, kept, tokens, heldout_loss, seconds, scoring_seconds,
           copies, duplicates, noise
    FROM runs r LEFT JOIN kept USING (run) LEFT JOIN logged USING (run)
    UNION ALL BY NAME
    SELECT 1 AS part, pool AS run, '(the pool)' AS selector, rows AS kept, copies, duplicates, noise FROM pools
)
SELECT run, selector, steps, kept, tokens::BIGINT AS tokens, round(heldout_loss, 4) AS heldout_loss,
       round(seconds, 1) AS seconds, round(scoring_seconds, 1) AS scoring_seconds, round(copies, 3) AS copies,
       round(duplicates, 3) AS duplicates, round(noise, 3) AS noise
FROM lines ORDER BY part, made_at, run
