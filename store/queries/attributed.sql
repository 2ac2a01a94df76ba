-- Which samples that a run was trained on lowered or raised the loss of the answers most? ($attribution)
-- The ten samples at each end, for the query, or for the mean of several. An answer that is a sample of its own begins
-- with the message before it.
WITH listed AS (
    SELECT * FROM attributions WHERE attribution = $attribution AND least(rank, from_bottom) < 10
),
texts AS (
    SELECT o.sample_id, any_value(replace(left(messages[coalesce(turn, 1)].content, 60), chr(10), ' ')) AS start
    FROM origins o JOIN conversations c ON c.sample_id = o.conversation_id
    WHERE o.sample_id IN (SELECT sample_id FROM listed) GROUP BY o.sample_id
)
SELECT rank, influence, share, steps, sample_id, start
FROM listed LEFT JOIN texts USING (sample_id)
WHERE query_id IS NULL OR (SELECT count(DISTINCT query_id) FROM listed) = 1
ORDER BY rank
