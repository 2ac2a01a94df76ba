-- The catalogue: facts, one table a kind of fact, every row labelled with the artifact that it came with.
-- What users query are views over these tables and over fragments not merged yet (see query.py); a view shows the
-- artifact's name in the column named in LABELS (catalog.py) instead of its fingerprint.

CREATE TABLE IF NOT EXISTS merged (artifact VARCHAR, fragment VARCHAR, PRIMARY KEY (artifact, fragment));
COMMENT ON TABLE merged IS 'Fragments of facts that are already in the tables below; book-keeping.';

CREATE TABLE IF NOT EXISTS layout (digest VARCHAR);
COMMENT ON TABLE layout IS 'Version of these tables, and digest of the statements that made them; book-keeping.';

CREATE TABLE IF NOT EXISTS samples (
    artifact VARCHAR, sample_id VARCHAR, position BIGINT, source VARCHAR, format VARCHAR,
    turns INTEGER, characters BIGINT, metadata JSON);
COMMENT ON TABLE samples IS 'One row a row of a pool. The same conversation has the same sample_id everywhere.';
COMMENT ON COLUMN samples.artifact IS 'The pool.';
COMMENT ON COLUMN samples.sample_id IS 'Hash of the conversation (messages and tools).';
COMMENT ON COLUMN samples.position IS 'Row number in the pool, from 0.';
COMMENT ON COLUMN samples.source IS 'Label given at ingest: --data label=path.';
COMMENT ON COLUMN samples.format IS 'What the row was read from: messages, sharegpt, prompt-completion, alpaca or text.';
COMMENT ON COLUMN samples.turns IS 'Messages in the conversation.';
COMMENT ON COLUMN samples.characters IS 'Characters of all messages.';
COMMENT ON COLUMN samples.metadata IS 'Every further column of the row: metadata->>''domain''.';

CREATE TABLE IF NOT EXISTS rejects (artifact VARCHAR, source VARCHAR, file VARCHAR, row BIGINT, sample_id VARCHAR, reason VARCHAR);
COMMENT ON TABLE rejects IS 'Rows that could not be used, by ingest (file and row) or by a run (sample_id), and why.';
COMMENT ON COLUMN rejects.artifact IS 'The artifact that refused the row.';
COMMENT ON COLUMN rejects.source IS 'Label given at ingest.';
COMMENT ON COLUMN rejects.file IS 'File or Hub id.';
COMMENT ON COLUMN rejects.row IS 'Line or row number, from 1.';
COMMENT ON COLUMN rejects.sample_id IS 'The sample, where it had got that far.';
COMMENT ON COLUMN rejects.reason IS 'One of few short reasons, so that it can be grouped by.';

CREATE TABLE IF NOT EXISTS features (
    artifact VARCHAR, sample_id VARCHAR, tokens INTEGER, target_tokens INTEGER, truncated BOOLEAN,
    loss DOUBLE, entropy DOUBLE, utility DOUBLE, sketch_norm DOUBLE);
COMMENT ON TABLE features IS 'One row a distinct sample of a pool that a model has looked at (curate embed).';
COMMENT ON COLUMN features.artifact IS 'The features artifact.';
COMMENT ON COLUMN features.sample_id IS 'The sample.';
COMMENT ON COLUMN features.tokens IS 'Tokens after truncation.';
COMMENT ON COLUMN features.target_tokens IS 'Tokens that the loss trains on.';
COMMENT ON COLUMN features.truncated IS 'The sample was longer than max_length.';
COMMENT ON COLUMN features.loss IS 'Mean cross-entropy over the target tokens, in nats.';
COMMENT ON COLUMN features.entropy IS 'Mean entropy of the predictions of the target tokens, in nats.';
COMMENT ON COLUMN features.utility IS 'Nuclear norm of the logits.';
COMMENT ON COLUMN features.sketch_norm IS 'Length of the isometric SRFT sketch: about the Frobenius norm of the logits.';

CREATE TABLE IF NOT EXISTS clusters (
    artifact VARCHAR, sample_id VARCHAR, cluster INTEGER, similarity DOUBLE, representative INTEGER,
    nearest_id VARCHAR, nearest_similarity DOUBLE);
COMMENT ON TABLE clusters IS 'Which cluster a sample is in (curate cluster).';
COMMENT ON COLUMN clusters.artifact IS 'The clustering.';
COMMENT ON COLUMN clusters.sample_id IS 'The sample.';
COMMENT ON COLUMN clusters.cluster IS 'Cluster number, from 0; larger clusters first.';
COMMENT ON COLUMN clusters.similarity IS 'Cosine to the centroid.';
COMMENT ON COLUMN clusters.representative IS '1 for the sample closest to the centroid, 2 for the next, ...; null further out.';
COMMENT ON COLUMN clusters.nearest_id IS 'The most similar other sample of the pool.';
COMMENT ON COLUMN clusters.nearest_similarity IS 'Cosine to it: near 1 for a near duplicate.';

CREATE TABLE IF NOT EXISTS ledger (
    artifact VARCHAR, step BIGINT, rank INTEGER, slot INTEGER, sample_id VARCHAR, position BIGINT, kept BOOLEAN,
    score DOUBLE, weight DOUBLE, loss DOUBLE, tokens INTEGER, target_tokens INTEGER, parts MAP(VARCHAR, DOUBLE));
COMMENT ON TABLE ledger IS 'One row a candidate a step: every candidate ever scored, not only those kept.';
COMMENT ON COLUMN ledger.artifact IS 'The run.';
COMMENT ON COLUMN ledger.step IS 'Optimizer step, from 1.';
COMMENT ON COLUMN ledger.rank IS 'Process of a distributed run, from 0.';
COMMENT ON COLUMN ledger.slot IS 'Place among the candidates of the step, from 0.';
COMMENT ON COLUMN ledger.sample_id IS 'The sample.';
COMMENT ON COLUMN ledger.position IS 'Its row in the pool.';
COMMENT ON COLUMN ledger.kept IS 'It was trained on.';
COMMENT ON COLUMN ledger.score IS 'What the selector ranked by; null where it scores nothing or the sample was not finite.';
COMMENT ON COLUMN ledger.weight IS 'Weight of its loss in the step; null for 1.';
COMMENT ON COLUMN ledger.loss IS 'Mean cross-entropy before the step, in nats; null where no scoring pass was made.';
COMMENT ON COLUMN ledger.tokens IS 'Tokens of the sample.';
COMMENT ON COLUMN ledger.target_tokens IS 'Tokens that the loss trains on.';
COMMENT ON COLUMN ledger.parts IS 'The terms of the score by name: parts[''utility''], parts[''diversity''].';

CREATE TABLE IF NOT EXISTS memory (
    artifact VARCHAR, rank INTEGER, row INTEGER, sample_id VARCHAR, step BIGINT, sketch FLOAT[]);
COMMENT ON TABLE memory IS 'The historical buffer of a run at its end: sketches of samples already trained on.';
COMMENT ON COLUMN memory.artifact IS 'The run.';
COMMENT ON COLUMN memory.rank IS 'Process of a distributed run, from 0.';
COMMENT ON COLUMN memory.row IS 'Row of the buffer.';
COMMENT ON COLUMN memory.sample_id IS 'Whose sketch it is.';
COMMENT ON COLUMN memory.step IS 'The step that kept it.';
COMMENT ON COLUMN memory.sketch IS 'Isometric sketch of its logits.';

CREATE TABLE IF NOT EXISTS metrics (artifact VARCHAR, step BIGINT, metric VARCHAR, value DOUBLE);
COMMENT ON TABLE metrics IS 'What a run logged: loss, eval_loss, learning_rate, seconds by part, totals.';
COMMENT ON COLUMN metrics.artifact IS 'The run.';
COMMENT ON COLUMN metrics.step IS 'Optimizer step.';
COMMENT ON COLUMN metrics.metric IS 'Name, as the Trainer logs it.';
COMMENT ON COLUMN metrics.value IS 'Value.';

CREATE TABLE IF NOT EXISTS subsets (artifact VARCHAR, sample_id VARCHAR, rank BIGINT, score DOUBLE, weight DOUBLE);
ALTER TABLE subsets ADD COLUMN IF NOT EXISTS epoch INTEGER;  -- catalogues made before it have no such column
COMMENT ON TABLE subsets IS 'Which samples a subset (curate select), an export, a curriculum, or an epoch of a run with a pool selector holds, in order.';
COMMENT ON COLUMN subsets.artifact IS 'The subset (curate select, curate curriculum), the export or the run.';
COMMENT ON COLUMN subsets.epoch IS 'Of a run: the epoch that it was chosen for, from 1 (with --reselect once: and all after it). Of a curriculum with rounds: the round, from 1. Else null.';
COMMENT ON COLUMN subsets.sample_id IS 'The sample.';
COMMENT ON COLUMN subsets.rank IS 'Place in the subset, from 0; of a curriculum in its order, the same in every round.';
COMMENT ON COLUMN subsets.score IS 'Score that ranked it, if any.';
COMMENT ON COLUMN subsets.weight IS 'Weight, if any: how often it is drawn by a run on this subset, in relation to others.';

CREATE TABLE IF NOT EXISTS draws (
    artifact VARCHAR, round INTEGER, arm INTEGER, draw BIGINT, sample_id VARCHAR, position BIGINT,
    index_value DOUBLE, reward DOUBLE);
ALTER TABLE draws ADD COLUMN IF NOT EXISTS epoch INTEGER;
COMMENT ON TABLE draws IS 'Which samples a bandit (cluster_ucb, in curate select or before the epochs of a run) asked a gradient of, and why.';
COMMENT ON COLUMN draws.artifact IS 'The subset or the run.';
COMMENT ON COLUMN draws.epoch IS 'Of a run: the epoch that it was drawn for, from 1; else null. Draws are counted anew in each.';
COMMENT ON COLUMN draws.round IS '0 for the cold start, then one number a batch.';
COMMENT ON COLUMN draws.arm IS 'The cluster drawn from.';
COMMENT ON COLUMN draws.draw IS 'Order of the draws, from 0; as many gradients were spent before it.';
COMMENT ON COLUMN draws.sample_id IS 'The sample.';
COMMENT ON COLUMN draws.position IS 'Its row in the pool: the first, where the pool repeats it.';
COMMENT ON COLUMN draws.index_value IS 'The arm''s index when it was chosen, mean + beta * deviation; null in the cold start.';
COMMENT ON COLUMN draws.reward IS 'What its gradient is worth to the target; null where that was not finite.';

CREATE TABLE IF NOT EXISTS comparisons (
    artifact VARCHAR, method VARCHAR, kind VARCHAR, seed BIGINT, fingerprint VARCHAR, axis VARCHAR, budget DOUBLE,
    loss DOUBLE, difference DOUBLE, samples DOUBLE, tokens DOUBLE, target_tokens DOUBLE, seconds DOUBLE, flops DOUBLE);
COMMENT ON TABLE comparisons IS 'The runs of a comparison (curate compare): one row a method and seed.';
COMMENT ON COLUMN comparisons.artifact IS 'The comparison.';
COMMENT ON COLUMN comparisons.method IS 'What the comparison calls the way of choosing.';
COMMENT ON COLUMN comparisons.kind IS 'control, online (a batch selector) or pool (a pool selector).';
COMMENT ON COLUMN comparisons.seed IS 'Seed of the run.';
COMMENT ON COLUMN comparisons.fingerprint IS 'Of the run: artifacts.fingerprint; artifacts.name is what other tables call it.';
COMMENT ON COLUMN comparisons.axis IS 'What was made equal: samples, tokens, steps, seconds or flops.';
COMMENT ON COLUMN comparisons.budget IS 'How much of it.';
COMMENT ON COLUMN comparisons.loss IS 'Held-out loss at the budget; null for a run that ended before it.';
COMMENT ON COLUMN comparisons.difference IS 'That loss less the loss of random at the same seed and budget.';
COMMENT ON COLUMN comparisons.samples IS 'Samples kept up to the budget.';
COMMENT ON COLUMN comparisons.tokens IS 'Tokens of those.';
COMMENT ON COLUMN comparisons.target_tokens IS 'Tokens of those that the loss trains on.';
COMMENT ON COLUMN comparisons.seconds IS 'Seconds of training and scoring up to the budget.';
COMMENT ON COLUMN comparisons.flops IS 'Floating-point operations up to the budget, as curate/numerics/flops.py counts them.';

CREATE TABLE IF NOT EXISTS evaluations (
    artifact VARCHAR, run VARCHAR, task VARCHAR, metric VARCHAR, grouped_by VARCHAR, slice VARCHAR,
    value DOUBLE, stderr DOUBLE, samples BIGINT, tokens BIGINT);
COMMENT ON TABLE evaluations IS 'How good a model is at a task (curate evaluate): one row a task, metric and slice.';
COMMENT ON COLUMN evaluations.artifact IS 'The evaluation.';
COMMENT ON COLUMN evaluations.run IS 'What made the model, a run mostly: JOIN ledger USING (run); null for a model from outside the store.';
COMMENT ON COLUMN evaluations.task IS 'The held-out pool, or the task of the lm-evaluation-harness.';
COMMENT ON COLUMN evaluations.metric IS 'loss (nats a target token), exact_match, last_number, choice, choice_norm, or the harness''s own.';
COMMENT ON COLUMN evaluations.grouped_by IS 'source, or the column of the pool that the slice is a value of; null for the whole task.';
COMMENT ON COLUMN evaluations.slice IS 'The value of that column; null for samples without one, and for the whole task.';
COMMENT ON COLUMN evaluations.value IS 'Loss: mean over target tokens. Else the share of right answers, or what the harness says.';
COMMENT ON COLUMN evaluations.stderr IS 'Standard error of the value, samples being independent; null where there is none.';
COMMENT ON COLUMN evaluations.samples IS 'Samples that it is of.';
COMMENT ON COLUMN evaluations.tokens IS 'Target tokens of those samples, for the loss.';

CREATE TABLE IF NOT EXISTS answers (
    artifact VARCHAR, sample_id VARCHAR, position BIGINT, task VARCHAR, metric VARCHAR, prediction VARCHAR,
    reference VARCHAR, correct BOOLEAN, loss DOUBLE, target_tokens INTEGER, slices MAP(VARCHAR, VARCHAR));
COMMENT ON TABLE answers IS 'What a model made of each sample of a held-out pool or task (curate evaluate): one row a sample and metric.';
COMMENT ON COLUMN answers.artifact IS 'The evaluation.';
COMMENT ON COLUMN answers.sample_id IS 'The sample; of a task of the harness, its hash of the question.';
COMMENT ON COLUMN answers.position IS 'Its row in the pool; null for a task of the harness.';
COMMENT ON COLUMN answers.task IS 'As in evaluations.';
COMMENT ON COLUMN answers.metric IS 'As in evaluations.';
COMMENT ON COLUMN answers.prediction IS 'What the model generated, or the choice that it finds likeliest; of choices of the harness, their log-likelihoods.';
COMMENT ON COLUMN answers.reference IS 'The right answer.';
COMMENT ON COLUMN answers.correct IS 'The answer counts as right; null for the loss.';
COMMENT ON COLUMN answers.loss IS 'Mean cross-entropy of the sample over its target tokens, in nats, whatever the metric.';
COMMENT ON COLUMN answers.target_tokens IS 'Tokens that the loss is of.';
COMMENT ON COLUMN answers.slices IS 'The columns that the evaluation is sliced by: slices[''source''].';
