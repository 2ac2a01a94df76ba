-- Which samples did a run forget most often: their loss rose after it had fallen? ($run)
-- Ties are ordered by volatility. Only samples whose loss was measured more than once are listed.
SELECT sample_id, forgotten, falls, rises, looks, kept, mean_loss, volatility
FROM (SELECT * FROM forgetting WHERE run = $run) f
JOIN (SELECT sample_id, mean_loss, volatility FROM volatility WHERE run = $run) v USING (sample_id)
JOIN (SELECT sample_id, kept FROM keep_rate WHERE run = $run) k USING (sample_id)
WHERE looks > 1 ORDER BY forgotten DESC, volatility DESC, sample_id
