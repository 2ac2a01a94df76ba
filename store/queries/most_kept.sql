-- Which samples did a run keep most often? ($run)
WITH counted AS (
    SELECT sample_id, count(*) FILTER (kept) AS kept, count(*) AS candidate, avg(score) AS score, min(position) AS position
    FROM ledger WHERE run = $run GROUP BY sample_id
),
pool AS (
    SELECT p.name FROM artifacts r JOIN artifacts p ON p.fingerprint = ((r.inputs::JSON)->>'pool') WHERE r.name = $run
),
turns AS (SELECT DISTINCT sample_id, turn FROM turn_samples WHERE artifact = $run)
SELECT kept, candidate, round(score, 4) AS mean_score, counted.sample_id, turn, source,
       replace(left(messages[1].content, 60), chr(10), ' ') AS start,
       replace(left(messages[coalesce(turn + 1, -1)].content, 40), chr(10), ' ') AS answer
FROM counted JOIN conversations c ON c.position = counted.position AND c.pool = (SELECT name FROM pool)
LEFT JOIN turns ON turns.sample_id = counted.sample_id
WHERE kept > 0 ORDER BY kept DESC, mean_score DESC NULLS LAST, counted.sample_id LIMIT 20
