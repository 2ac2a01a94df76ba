-- Which candidates did a run never keep, the most frequent candidates first? ($run)
WITH counted AS (
    SELECT sample_id, count(*) AS candidate, avg(score) AS score, avg(loss) AS loss, min(position) AS position
    FROM ledger WHERE run = $run GROUP BY sample_id HAVING count(*) FILTER (kept) = 0
),
pool AS (
    SELECT p.name FROM artifacts r JOIN artifacts p ON p.fingerprint = ((r.inputs::JSON)->>'pool') WHERE r.name = $run
),
turns AS (SELECT DISTINCT sample_id, turn FROM turn_samples WHERE artifact = $run)
SELECT candidate, round(score, 4) AS mean_score, round(loss, 4) AS mean_loss, counted.sample_id, turn, source,
       replace(left(messages[1].content, 60), chr(10), ' ') AS start,
       replace(left(messages[coalesce(turn + 1, -1)].content, 40), chr(10), ' ') AS answer
FROM counted JOIN conversations c ON c.position = counted.position AND c.pool = (SELECT name FROM pool)
LEFT JOIN turns ON turns.sample_id = counted.sample_id
ORDER BY candidate DESC, mean_score NULLS LAST, counted.sample_id
