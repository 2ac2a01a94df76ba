-- What did a run keep of each cluster, compared with its share of the distinct samples? ($run, $clusters)
WITH there AS (SELECT cluster, count(*) AS samples FROM clusters WHERE clusters = $clusters GROUP BY cluster),
seen AS (
    SELECT c.cluster, count(*) AS candidates, count(*) FILTER (l.kept) AS kept, avg(l.score) AS score, avg(l.loss) AS loss
    FROM ledger l JOIN clusters c ON c.sample_id = l.sample_id AND c.clusters = $clusters
    WHERE l.run = $run GROUP BY c.cluster
),
centre AS (
    SELECT c.cluster, any_value(replace(left(v.messages[coalesce(o.turn, 1)].content, 60), chr(10), ' ')) AS representative
    FROM clusters c JOIN origins o ON o.sample_id = c.sample_id JOIN conversations v ON v.sample_id = o.conversation_id
    WHERE c.clusters = $clusters AND c.representative = 1 GROUP BY c.cluster
),
named AS (SELECT cluster, any_value(title) AS title FROM cluster_titles WHERE clusters = $clusters GROUP BY cluster)
SELECT cluster, title, samples, round(samples / sum(samples) OVER (), 4) AS share_of_samples,
       coalesce(candidates, 0) AS candidates, coalesce(kept, 0) AS kept,
       round(coalesce(kept, 0) / sum(kept) OVER (), 4) AS share_of_kept, round(kept / candidates, 4) AS kept_rate,
       round(score, 4) AS mean_score, round(loss, 4) AS mean_loss, representative
FROM there LEFT JOIN seen USING (cluster) LEFT JOIN centre USING (cluster) LEFT JOIN named USING (cluster)
ORDER BY cluster
