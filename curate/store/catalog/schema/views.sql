-- Views over the ledger, for looking back on runs. They belong to a query, not to the catalogue: query.py makes those
-- that a statement names, and no others. Each reads the views of the fact tables only, and none reads another of these.
-- A look is a row of the ledger with a finite loss: the loss of a sample just before a step.

CREATE VIEW sample_history AS
SELECT run, sample_id, position, step, score, loss, kept FROM ledger;
COMMENT ON VIEW sample_history IS 'Every time that a run was offered a sample, one row each, whatever the epoch. Order it by step.';
COMMENT ON COLUMN sample_history.run IS 'The run.';
COMMENT ON COLUMN sample_history.sample_id IS 'The sample.';
COMMENT ON COLUMN sample_history.position IS 'Its row in the pool.';
COMMENT ON COLUMN sample_history.step IS 'The optimizer step that it was a candidate of, from 1.';
COMMENT ON COLUMN sample_history.score IS 'What the selector ranked by; null where it scores nothing.';
COMMENT ON COLUMN sample_history.loss IS 'Its loss before that step; null where no scoring pass was made.';
COMMENT ON COLUMN sample_history.kept IS 'It was trained on in that step.';

-- After Toneva et al. 2019 (An Empirical Study of Example Forgetting during Deep Neural Network Learning), who count how
-- often an example that was classified rightly is classified wrongly at the next look. A loss is neither right nor wrong.
-- So a change is a loss unlike that of the look before it, in an earlier step; a change down is learning, and a
-- change up is forgetting where the change before it, if there is one, went down.
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
COMMENT ON VIEW forgetting IS 'How often the loss of a sample rose after having fallen, from look to look of a run (after Toneva et al. 2019).';
COMMENT ON COLUMN forgetting.run IS 'The run.';
COMMENT ON COLUMN forgetting.sample_id IS 'The sample.';
COMMENT ON COLUMN forgetting.looks IS 'Times that its loss was measured.';
COMMENT ON COLUMN forgetting.falls IS 'Looks at which the loss was lower than at the look before.';
COMMENT ON COLUMN forgetting.rises IS 'Looks at which the loss was higher than at the look before.';
COMMENT ON COLUMN forgetting.forgotten IS 'Rises whose last change before was a fall: what was learnt, then forgotten.';

CREATE VIEW volatility AS
SELECT run, sample_id, count(*) AS looks, avg(loss) AS mean_loss, stddev_pop(loss) AS volatility
FROM ledger WHERE isfinite(loss) GROUP BY run, sample_id;
COMMENT ON VIEW volatility IS 'How much the loss of a sample varied over the looks of a run.';
COMMENT ON COLUMN volatility.run IS 'The run.';
COMMENT ON COLUMN volatility.sample_id IS 'The sample.';
COMMENT ON COLUMN volatility.looks IS 'Times that its loss was measured.';
COMMENT ON COLUMN volatility.mean_loss IS 'Mean of these losses.';
COMMENT ON COLUMN volatility.volatility IS 'Their standard deviation, of the population: 0 for a single look.';

-- The pool's samples come once more, as rows that are no offer: so they are there, and count for nothing.
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
    WHERE r.stage = 'train'
) GROUP BY run, sample_id;
COMMENT ON VIEW keep_rate IS 'How often a run was offered a sample and kept it, for every sample of its pool: never offered is not never kept.';
COMMENT ON COLUMN keep_rate.run IS 'The run.';
COMMENT ON COLUMN keep_rate.sample_id IS 'The sample, once however often the pool repeats it.';
COMMENT ON COLUMN keep_rate.offered IS 'Times that it was a candidate; 0 where the run never came to it, or trained on a subset without it.';
COMMENT ON COLUMN keep_rate.kept IS 'Times that it was trained on.';
COMMENT ON COLUMN keep_rate.rate IS 'kept / offered; null where it was never offered.';

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
COMMENT ON VIEW selector_agreement IS 'How far two runs kept the same samples, of those offered to both. Every pair is there both ways round.';
COMMENT ON COLUMN selector_agreement.run IS 'A run.';
COMMENT ON COLUMN selector_agreement.other IS 'Another run.';
COMMENT ON COLUMN selector_agreement.offered IS 'Samples that were candidates in both.';
COMMENT ON COLUMN selector_agreement.kept IS 'Of these, samples that both kept at least once.';
COMMENT ON COLUMN selector_agreement.jaccard IS 'kept, as a share of those that either kept; null where neither kept any.';
COMMENT ON COLUMN selector_agreement.correlation IS 'Pearson correlation of their keep rates; null where one of them is constant.';
