-- What is in the clusters of a clustering: title, size and representative? ($clusters)
-- A clustering of an older curate has no titles.
WITH there AS (
    SELECT cluster, count(*) AS samples, round(avg(similarity), 4) AS similarity,
           min(sample_id) FILTER (representative = 1) AS representative_id
    FROM clusters WHERE clusters = $clusters GROUP BY cluster
),
centre AS (
    SELECT o.sample_id, any_value(replace(left(messages[coalesce(turn, 1)].content, 60), chr(10), ' ')) AS start
    FROM origins o JOIN conversations c ON c.sample_id = o.conversation_id
    WHERE o.sample_id IN (SELECT representative_id FROM there) GROUP BY o.sample_id
),
named AS (SELECT cluster, any_value(title) AS title FROM cluster_titles WHERE clusters = $clusters GROUP BY cluster)
SELECT cluster, title, samples, round(samples / sum(samples) OVER (), 4) AS share_of_samples, similarity,
       representative_id, start AS representative
FROM there LEFT JOIN named USING (cluster) LEFT JOIN centre ON sample_id = representative_id
ORDER BY cluster
