-- Which samples of a clustering are nearly the same? ($clusters, $least: the lowest similarity, such as 0.98)
-- An answer that is a sample of its own begins with the message before it.
WITH pairs AS (
    SELECT least(sample_id, nearest_id) AS one, greatest(sample_id, nearest_id) AS other,
           max(nearest_similarity) AS similarity
    FROM clusters WHERE clusters = $clusters AND nearest_similarity >= $least GROUP BY ALL
),
texts AS (
    SELECT o.sample_id, any_value(replace(left(messages[coalesce(turn, 1)].content, 60), chr(10), ' ')) AS start
    FROM origins o JOIN conversations c ON c.sample_id = o.conversation_id
    WHERE o.sample_id IN (SELECT one FROM pairs UNION SELECT other FROM pairs) GROUP BY o.sample_id
)
SELECT round(similarity, 4) AS similarity, one, a.start, other, b.start AS other_start
FROM pairs LEFT JOIN texts a ON a.sample_id = one LEFT JOIN texts b ON b.sample_id = other
ORDER BY pairs.similarity DESC, one
