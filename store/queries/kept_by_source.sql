-- What did a run keep of each source, compared with its share of the pool? ($run)
WITH pool AS (
    SELECT p.name FROM artifacts r JOIN artifacts p ON p.fingerprint = ((r.inputs::JSON)->>'pool') WHERE r.name = $run
),
there AS (SELECT source, count(*) AS rows FROM samples WHERE pool = (SELECT name FROM pool) GROUP BY source),
seen AS (
    SELECT s.source, count(*) AS candidates, count(*) FILTER (l.kept) AS kept, sum(l.tokens) FILTER (l.kept) AS tokens
    FROM ledger l JOIN samples s ON s.position = l.position AND s.pool = (SELECT name FROM pool)
    WHERE l.run = $run GROUP BY s.source
)
SELECT source, rows, round(rows / sum(rows) OVER (), 4) AS share_of_pool, coalesce(candidates, 0) AS candidates,
       coalesce(kept, 0) AS kept, round(coalesce(kept, 0) / sum(kept) OVER (), 4) AS share_of_kept,
       round(kept / candidates, 4) AS kept_rate, coalesce(tokens, 0)::BIGINT AS tokens
FROM there LEFT JOIN seen USING (source) ORDER BY kept DESC, source
