-- Views over the tables of records: where samples come from, and what the ledgers of runs say. They are not part of the catalogue: query.py creates them in the query's
-- own database, and only those that a statement names. Each reads only the views of tables.sql, never another of these.
-- A look is a row of the ledger with a finite loss: one measurement of a sample's loss, just before a step.

CREATE VIEW origins AS
SELECT pool, sample_id, sample_id AS conversation_id, NULL::INTEGER AS turn, position, source, format, metadata FROM samples
UNION ALL
SELECT s.pool, t.sample_id, t.conversation_id, t.turn, s.position, s.source, s.format, s.metadata
FROM (SELECT DISTINCT sample_id, conversation_id, turn FROM turn_samples) t JOIN samples s ON s.sample_id = t.conversation_id;
COMMENT ON VIEW origins IS 'The conversation that a sample_id of any table comes from: for a whole conversation its row of samples, for an answer that is a sample of its own the row of its conversation. Join it instead of samples: USING (sample_id).';
COMMENT ON COLUMN origins.pool IS 'The pool.';
COMMENT ON COLUMN origins.sample_id IS 'The sample.';
COMMENT ON COLUMN origins.conversation_id IS 'Its conversation: the sample_id in the tables samples and conversations.';
COMMENT ON COLUMN origins.turn IS 'Index of the answer among the messages, from 0; null for a whole conversation.';
COMMENT ON COLUMN origins.position IS 'Row of the conversation in the pool, from 0; a conversation that the pool repeats has several.';
COMMENT ON COLUMN origins.source IS 'As in samples.';
COMMENT ON COLUMN origins.format IS 'As in samples.';
COMMENT ON COLUMN origins.metadata IS 'As in samples.';

CREATE VIEW sample_history AS
SELECT run, sample_id, position, step, score, loss, kept FROM ledger;
COMMENT ON VIEW sample_history IS 'One row for every time that a run was offered a sample, in all epochs. Order it by step.';
COMMENT ON COLUMN sample_history.run IS 'The run.';
COMMENT ON COLUMN sample_history.sample_id IS 'The sample.';
COMMENT ON COLUMN sample_history.position IS 'Row of the sample in the pool, from 0.';
COMMENT ON COLUMN sample_history.step IS 'The optimizer step in which it was a candidate, from 1.';
COMMENT ON COLUMN sample_history.score IS 'Score that the selector ranked by; null if it computes no scores.';
COMMENT ON COLUMN sample_history.loss IS 'Loss of the sample before that step; null if there was no scoring pass.';
COMMENT ON COLUMN sample_history.kept IS 'True if the sample was trained on in that step.';

-- After Toneva et al. 2019 (An Empirical Study of Example Forgetting during Deep Neural Network Learning). They count how
-- often an example that was classified correctly is misclassified at the next look. A loss is neither correct nor wrong.
-- So here a change is a loss that differs from that of the look before, which is in an earlier step. A change down is
-- learning. A change up is forgetting if there is a change before it and that went down.
CREATE VIEW forgetting AS
WITH looks AS (
    SELECT run, sample_id, step, "rank", slot,
           CASE WHEN lag(step) OVER looks < step THEN sign(loss - lag(loss) OVER looks) END AS change
    FROM ledger WHERE isfinite(loss)
    WINDOW looks AS (PARTITION BY run, sample_id ORDER BY step, "rank", slot)
),
changes AS (
    SELECT run, sample_id, change,
           lag(nullif(change, 0) IGNORE NULLS) OVER (PARTITION BY run, sample_id ORDER BY step, "rank", slot) AS before
    FROM looks
)
SELECT run, sample_id, count(*) AS looks, count(*) FILTER (change < 0) AS falls, count(*) FILTER (change > 0) AS rises,
       count(*) FILTER (change > 0 AND before < 0) AS forgotten
FROM changes GROUP BY run, sample_id;
COMMENT ON VIEW forgetting IS 'How often the loss of a sample rose after it had fallen, from one measurement to the next in a run (after Toneva et al. 2019).';
COMMENT ON COLUMN forgetting.run IS 'The run.';
COMMENT ON COLUMN forgetting.sample_id IS 'The sample.';
COMMENT ON COLUMN forgetting.looks IS 'Number of times that its loss was measured.';
COMMENT ON COLUMN forgetting.falls IS 'Number of measurements with a lower loss than the one before.';
COMMENT ON COLUMN forgetting.rises IS 'Number of measurements with a higher loss than the one before.';
COMMENT ON COLUMN forgetting.forgotten IS 'Number of rises whose last change before was a fall: the sample was learned, then forgotten.';

CREATE VIEW volatility AS
SELECT run, sample_id, count(*) AS looks, avg(loss) AS mean_loss, stddev_pop(loss) AS volatility
FROM ledger WHERE isfinite(loss) GROUP BY run, sample_id;
COMMENT ON VIEW volatility IS 'How much the loss of a sample varied over the measurements of a run.';
COMMENT ON COLUMN volatility.run IS 'The run.';
COMMENT ON COLUMN volatility.sample_id IS 'The sample.';
COMMENT ON COLUMN volatility.looks IS 'Number of times that its loss was measured.';
COMMENT ON COLUMN volatility.mean_loss IS 'Mean of these losses.';
COMMENT ON COLUMN volatility.volatility IS 'Population standard deviation of these losses: 0 for a single measurement.';

-- The other SELECTs add every sample of the pool with a null, so that samples which were never offered appear, too: the
-- answers of a conversation that the run split, else the conversation. count(kept) does not count nulls, so these rows
-- change no number.
CREATE VIEW keep_rate AS
SELECT run, sample_id, count(kept) AS offered, count(*) FILTER (kept) AS kept,
       count(*) FILTER (kept) / nullif(count(kept), 0) AS rate
FROM (
    SELECT run, sample_id, kept FROM ledger
    UNION ALL
    SELECT r.name AS run, s.sample_id, NULL::BOOLEAN AS kept
    FROM artifacts r
    JOIN artifacts p ON p.fingerprint = ((r.inputs::JSON)->>'pool')
    JOIN samples s ON s.pool = p.name
    LEFT JOIN (SELECT DISTINCT artifact, conversation_id FROM turn_samples) t
        ON t.artifact = r.name AND t.conversation_id = s.sample_id
    WHERE r.stage = 'train' AND t.artifact IS NULL
    UNION ALL
    SELECT t.artifact AS run, t.sample_id, NULL::BOOLEAN AS kept
    FROM turn_samples t JOIN artifacts r ON r.name = t.artifact WHERE r.stage = 'train'
) GROUP BY run, sample_id;
COMMENT ON VIEW keep_rate IS 'How often a run was offered a sample and kept it, for every sample of its pool. A sample that was never offered has no rate; one that was never kept has the rate 0.';
COMMENT ON COLUMN keep_rate.run IS 'The run.';
COMMENT ON COLUMN keep_rate.sample_id IS 'The sample: one row, even if the pool repeats it.';
COMMENT ON COLUMN keep_rate.offered IS 'Number of times that it was a candidate; 0 if the run never reached it, or trained on a subset without it.';
COMMENT ON COLUMN keep_rate.kept IS 'Number of times that it was trained on.';
COMMENT ON COLUMN keep_rate.rate IS 'kept / offered; null if it was never offered.';

CREATE VIEW selector_agreement AS
WITH seen AS (
    SELECT run, sample_id, count(*) FILTER (kept) / count(*) AS rate FROM ledger GROUP BY run, sample_id
),
pairs AS (
    SELECT a.run AS run, b.run AS other, count(*) AS offered, count(*) FILTER (a.rate > 0 AND b.rate > 0) AS kept,
           count(*) FILTER (a.rate > 0 OR b.rate > 0) AS kept_by_either, corr(a.rate, b.rate) AS correlation
    FROM seen a JOIN seen b ON b.sample_id = a.sample_id AND b.run <> a.run GROUP BY a.run, b.run
)
SELECT run, other, offered, kept, kept / nullif(kept_by_either, 0) AS jaccard,
       CASE WHEN isfinite(correlation) THEN correlation END AS correlation
FROM pairs;
COMMENT ON VIEW selector_agreement IS 'How far two runs kept the same samples, among those offered to both. Every pair appears twice, in both orders.';
COMMENT ON COLUMN selector_agreement.run IS 'A run.';
COMMENT ON COLUMN selector_agreement.other IS 'Another run.';
COMMENT ON COLUMN selector_agreement.offered IS 'Number of samples that were candidates in both runs.';
COMMENT ON COLUMN selector_agreement.kept IS 'Number of these samples that both runs kept at least once.';
COMMENT ON COLUMN selector_agreement.jaccard IS 'kept, as a share of these samples that at least one of the runs kept; null if neither kept any.';
COMMENT ON COLUMN selector_agreement.correlation IS 'Pearson correlation of the two runs'' keep rates; null if one of them is constant.';
