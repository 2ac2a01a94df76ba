-- The catalogue: one table for each kind of record. The column `artifact` of a row holds the fingerprint of the artifact
-- that it belongs to. Users query views over these tables and over the fragments that are not merged yet (see query.py).
-- Instead of the fingerprint a view shows the artifact's name, in the column given by NAME_COLUMNS (catalog.py).

CREATE TABLE IF NOT EXISTS merged (artifact VARCHAR, fragment VARCHAR, PRIMARY KEY (artifact, fragment));
COMMENT ON TABLE merged IS 'Fragments of records that are already in the tables below; internal.';

CREATE TABLE IF NOT EXISTS layout (digest VARCHAR);
COMMENT ON TABLE layout IS 'Version of these tables, and digest of the statements that created them; internal.';

CREATE TABLE IF NOT EXISTS samples (
    artifact VARCHAR, sample_id VARCHAR, position BIGINT, source VARCHAR, format VARCHAR,
    turns INTEGER, characters BIGINT, metadata JSON);
ALTER TABLE samples ADD COLUMN IF NOT EXISTS weight DOUBLE;  -- older catalogues do not have this column
COMMENT ON TABLE samples IS 'One row per row of a pool. The same conversation has the same sample_id in every pool.';
COMMENT ON COLUMN samples.artifact IS 'The pool.';
COMMENT ON COLUMN samples.sample_id IS 'Hash of the conversation (messages and tools). An answer of it that is a sample of its own has another id: see origins.';
COMMENT ON COLUMN samples.position IS 'Row number in the pool, from 0.';
COMMENT ON COLUMN samples.source IS 'Label given at ingest: --data label=path.';
COMMENT ON COLUMN samples.format IS 'Format that the row was read from: messages, sharegpt, prompt-completion, alpaca or text.';
COMMENT ON COLUMN samples.turns IS 'Number of messages in the conversation.';
COMMENT ON COLUMN samples.characters IS 'Number of characters in all messages.';
COMMENT ON COLUMN samples.metadata IS 'All other columns of the row: metadata->>''domain''.';
COMMENT ON COLUMN samples.weight IS 'Weight of the row in the loss of a run: 2 means the same as the row twice. Null means 1.';

CREATE TABLE IF NOT EXISTS turn_samples (artifact VARCHAR, sample_id VARCHAR, conversation_id VARCHAR, turn INTEGER);
COMMENT ON TABLE turn_samples IS 'Answers that are samples of their own (--turns), one row per answer and artifact: which answer of which conversation a sample_id is. A sample_id that is not here is a whole conversation. The view origins has both.';
COMMENT ON COLUMN turn_samples.artifact IS 'The artifact that read the conversation as answers (features, a run, an evaluation) or selected them (a subset, an export).';
COMMENT ON COLUMN turn_samples.sample_id IS 'The answer: hash of conversation_id and turn, the same in every artifact.';
COMMENT ON COLUMN turn_samples.conversation_id IS 'The conversation: its sample_id in the table samples.';
COMMENT ON COLUMN turn_samples.turn IS 'Index of the answer among the messages of the conversation, from 0.';

CREATE TABLE IF NOT EXISTS rejects (artifact VARCHAR, source VARCHAR, file VARCHAR, row BIGINT, sample_id VARCHAR, reason VARCHAR);
COMMENT ON TABLE rejects IS 'Rows that could not be used, and why. They were rejected by ingest (file and row are given) or by another stage (sample_id is given).';
COMMENT ON COLUMN rejects.artifact IS 'The artifact whose stage rejected the row.';
COMMENT ON COLUMN rejects.source IS 'Label given at ingest.';
COMMENT ON COLUMN rejects.file IS 'File or Hub id.';
COMMENT ON COLUMN rejects.row IS 'Line or row number in the file, from 1.';
COMMENT ON COLUMN rejects.sample_id IS 'The sample; null if the row was rejected before it had an id.';
COMMENT ON COLUMN rejects.reason IS 'The reason: one of a few short texts, so that you can group by it.';

CREATE TABLE IF NOT EXISTS features (
    artifact VARCHAR, sample_id VARCHAR, tokens INTEGER, target_tokens INTEGER, truncated BOOLEAN,
    loss DOUBLE, entropy DOUBLE, utility DOUBLE, sketch_norm DOUBLE);
ALTER TABLE features ADD COLUMN IF NOT EXISTS surprise DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS loss_p10 DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS loss_p50 DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS loss_p90 DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS loss_without_prompt DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS ifd DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS loss_before DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS learnability DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS answer_words INTEGER;
ALTER TABLE features ADD COLUMN IF NOT EXISTS prompt_words INTEGER;
ALTER TABLE features ADD COLUMN IF NOT EXISTS length_ratio DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS repetition DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS compression DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS prompt_language VARCHAR;
ALTER TABLE features ADD COLUMN IF NOT EXISTS prompt_language_score DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS answer_language VARCHAR;
ALTER TABLE features ADD COLUMN IF NOT EXISTS answer_language_score DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS refusal BOOLEAN;
ALTER TABLE features ADD COLUMN IF NOT EXISTS placeholder BOOLEAN;
ALTER TABLE features ADD COLUMN IF NOT EXISTS unfinished BOOLEAN;
ALTER TABLE features ADD COLUMN IF NOT EXISTS in_prompt BOOLEAN;
ALTER TABLE features ADD COLUMN IF NOT EXISTS rare_words DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS prompt_overlap DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS copies INTEGER;
ALTER TABLE features ADD COLUMN IF NOT EXISTS other_answers INTEGER;
ALTER TABLE features ADD COLUMN IF NOT EXISTS pii INTEGER;
ALTER TABLE features ADD COLUMN IF NOT EXISTS pii_kinds VARCHAR;
ALTER TABLE features ADD COLUMN IF NOT EXISTS neighbour_agreement DOUBLE;
ALTER TABLE features ADD COLUMN IF NOT EXISTS flags VARCHAR;
ALTER TABLE features ADD COLUMN IF NOT EXISTS bad INTEGER;
ALTER TABLE features ADD COLUMN IF NOT EXISTS scores MAP(VARCHAR, DOUBLE);
COMMENT ON TABLE features IS 'One row per distinct sample of a pool that was measured: by a model (curate embed), or by its text (curate grade). A column of the other command is null.';
COMMENT ON COLUMN features.artifact IS 'The features artifact.';
COMMENT ON COLUMN features.sample_id IS 'The sample.';
COMMENT ON COLUMN features.tokens IS 'Number of tokens after truncation.';
COMMENT ON COLUMN features.target_tokens IS 'Number of tokens that the loss trains on.';
COMMENT ON COLUMN features.truncated IS 'True if the sample was longer than max_length.';
COMMENT ON COLUMN features.loss IS 'Mean cross-entropy over the target tokens, in nats.';
COMMENT ON COLUMN features.entropy IS 'Mean entropy of the model''s predictions at the target tokens, in nats.';
COMMENT ON COLUMN features.utility IS 'Nuclear norm of the logits.';
COMMENT ON COLUMN features.sketch_norm IS 'Norm of the isometric SRFT sketch: about the Frobenius norm of the logits.';
COMMENT ON COLUMN features.surprise IS '(loss - entropy) * sqrt(target_tokens): how much worse the text is than the model expects, at any length.';
COMMENT ON COLUMN features.loss_p10 IS 'Tenth percentile of the losses of the target tokens, in nats.';
COMMENT ON COLUMN features.loss_p50 IS 'Median of the losses of the target tokens, in nats.';
COMMENT ON COLUMN features.loss_p90 IS 'Ninetieth percentile of the losses of the target tokens, in nats.';
COMMENT ON COLUMN features.loss_without_prompt IS 'Mean loss of the same tokens when each answer stands behind the template''s header alone; null for a text without a prompt.';
COMMENT ON COLUMN features.ifd IS 'Instruction-following difficulty: loss / loss_without_prompt. Above 1 the instruction does not help; null where there is no prompt.';
COMMENT ON COLUMN features.loss_before IS 'Loss of the sample by an earlier checkpoint, from the features that option before of embed names; null if it is not there.';
COMMENT ON COLUMN features.learnability IS 'loss_before - loss: what was learnt of the sample between the two checkpoints, in nats a token.';
COMMENT ON COLUMN features.answer_words IS 'Words of the last answer; a character of Chinese, Japanese or Korean is one (curate grade).';
COMMENT ON COLUMN features.prompt_words IS 'Words of the messages before the last answer (curate grade).';
COMMENT ON COLUMN features.length_ratio IS 'answer_words over prompt_words; null if the prompt has no words.';
COMMENT ON COLUMN features.repetition IS 'Share of the answer''s sequences of three words that came before in it, 0 to 1; null below 20 words.';
COMMENT ON COLUMN features.compression IS 'Compressed size of the answer (zlib) over that of usual English answers as long: 1 is usual, less repeats more; null below 80 bytes.';
COMMENT ON COLUMN features.prompt_language IS 'Language of the last prompt as a code of ISO 639; null if none is recognized (score below 0.2, or no letters).';
COMMENT ON COLUMN features.prompt_language_score IS 'Confidence in prompt_language, 0.2 to 1.';
COMMENT ON COLUMN features.answer_language IS 'Language of the last answer as a code of ISO 639; null if none is recognized.';
COMMENT ON COLUMN features.answer_language_score IS 'Confidence in answer_language, 0.2 to 1.';
COMMENT ON COLUMN features.refusal IS 'True if the last answer refuses.';
COMMENT ON COLUMN features.placeholder IS 'True if the last answer has a placeholder, such as [Your Name] or N/A, that was never filled in.';
COMMENT ON COLUMN features.unfinished IS 'True if the last answer ends without an end: in a word, a sentence, a bracket or a block of code.';
COMMENT ON COLUMN features.in_prompt IS 'True if the last answer is a part of the prompt, apart from case and white space; null for an empty answer.';
COMMENT ON COLUMN features.rare_words IS 'Share of the words of the last answer that no other text of the pool has, 0 to 1; names do not count; null below five words.';
COMMENT ON COLUMN features.prompt_overlap IS 'Similarity of the words of prompt and answer, weighted by rarity (cosine), 0 to 1; null for a plain text.';
COMMENT ON COLUMN features.copies IS 'Other rows of the pool with the same text, apart from case, white space and Unicode form.';
COMMENT ON COLUMN features.other_answers IS 'Other answers that the pool has to the same prompt.';
COMMENT ON COLUMN features.pii IS 'Personal data and secrets that were found in the prompt and the answer: how many.';
COMMENT ON COLUMN features.pii_kinds IS 'Kinds of these, joined by commas, each once.';
COMMENT ON COLUMN features.neighbour_agreement IS 'Mean similarity of the answer to those of the samples with the nearest vectors, 0 to 1 (Jaccard, of words); null without a vector or neighbours.';
COMMENT ON COLUMN features.flags IS 'What curate grade found wrong with the sample, joined by commas; empty if nothing.';
COMMENT ON COLUMN features.bad IS 'Number of these flags.';
COMMENT ON COLUMN features.scores IS 'The numbers of a file of scores (curate grade) by name. Each name is a column of its own, too.';

CREATE TABLE IF NOT EXISTS clusters (
    artifact VARCHAR, sample_id VARCHAR, cluster INTEGER, similarity DOUBLE, representative INTEGER,
    nearest_id VARCHAR, nearest_similarity DOUBLE);
COMMENT ON TABLE clusters IS 'The cluster of each sample (curate cluster).';
COMMENT ON COLUMN clusters.artifact IS 'The clustering.';
COMMENT ON COLUMN clusters.sample_id IS 'The sample.';
COMMENT ON COLUMN clusters.cluster IS 'Cluster number, from 0; larger clusters first.';
COMMENT ON COLUMN clusters.similarity IS 'Cosine similarity to the centroid.';
COMMENT ON COLUMN clusters.representative IS '1 for the sample closest to the centroid, 2 for the next, ...; null for samples further away.';
COMMENT ON COLUMN clusters.nearest_id IS 'The most similar other sample of the pool.';
COMMENT ON COLUMN clusters.nearest_similarity IS 'Cosine similarity to that sample: near 1 for a near duplicate.';

CREATE TABLE IF NOT EXISTS cluster_titles (
    artifact VARCHAR, cluster INTEGER, size BIGINT, title VARCHAR, keywords VARCHAR[], representative_id VARCHAR);
COMMENT ON TABLE cluster_titles IS 'The name of each cluster (curate cluster). Clusterings of older versions have no rows.';
COMMENT ON COLUMN cluster_titles.artifact IS 'The clustering.';
COMMENT ON COLUMN cluster_titles.cluster IS 'Cluster number, as in clusters.';
COMMENT ON COLUMN cluster_titles.size IS 'Number of samples.';
COMMENT ON COLUMN cluster_titles.title IS 'The first four keywords; a note in brackets for a cluster without any; null if the pool was gone.';
COMMENT ON COLUMN cluster_titles.keywords IS 'Up to eight words that prompts of the cluster have and others have not, the most telling first (c-TF-IDF).';
COMMENT ON COLUMN cluster_titles.representative_id IS 'The sample closest to the centroid: the first of them if there are several.';

CREATE TABLE IF NOT EXISTS ledger (
    artifact VARCHAR, step BIGINT, rank INTEGER, slot INTEGER, sample_id VARCHAR, position BIGINT, kept BOOLEAN,
    score DOUBLE, weight DOUBLE, loss DOUBLE, tokens INTEGER, target_tokens INTEGER, parts MAP(VARCHAR, DOUBLE));
ALTER TABLE ledger ADD COLUMN IF NOT EXISTS sample_weight DOUBLE;
ALTER TABLE ledger ADD COLUMN IF NOT EXISTS stage VARCHAR;
ALTER TABLE ledger ADD COLUMN IF NOT EXISTS predicted DOUBLE;
ALTER TABLE ledger ADD COLUMN IF NOT EXISTS token_mask BLOB;
COMMENT ON TABLE ledger IS 'One row per candidate and step: every candidate, not only the kept ones and those that were scored.';
COMMENT ON COLUMN ledger.artifact IS 'The run.';
COMMENT ON COLUMN ledger.step IS 'Optimizer step, from 1.';
COMMENT ON COLUMN ledger.rank IS 'Process of a distributed run, from 0.';
COMMENT ON COLUMN ledger.slot IS 'Index among the candidates of the step, from 0.';
COMMENT ON COLUMN ledger.sample_id IS 'The sample.';
COMMENT ON COLUMN ledger.position IS 'Row of the sample in the pool, from 0; null for a replayed sample, which is of another pool.';
COMMENT ON COLUMN ledger.kept IS 'True if the sample was trained on in this step.';
COMMENT ON COLUMN ledger.score IS 'Score that the selector ranked by; null if it computes no scores, the sample''s signals were not finite, or a prescreen ruled the sample out.';
COMMENT ON COLUMN ledger.weight IS 'Factor of the sample''s mean loss in the loss of the step: these factors of a step add up to 1, and contain the sample_weight. Null: the loss is the mean over the target tokens of all kept samples, each token counted sample_weight times.';
COMMENT ON COLUMN ledger.sample_weight IS 'Weight of the sample in the pool; null means 1.';
COMMENT ON COLUMN ledger.loss IS 'Mean cross-entropy before the step, in nats; null if the sample was not scored.';
COMMENT ON COLUMN ledger.tokens IS 'Number of tokens in the sample.';
COMMENT ON COLUMN ledger.target_tokens IS 'Number of tokens that the loss trains on.';
COMMENT ON COLUMN ledger.stage IS 'In a run with a prescreen, where the candidate left: prescreen (ruled out, not scored), audit (ruled out, scored all the same) or scored. In any run: replay, for a sample of the pool of --replay, which is trained on without being selected. Otherwise null.';
COMMENT ON COLUMN ledger.predicted IS 'Value that the prescreen predicted (of the utility, the alignment or the score); null if it could predict none, or the run has no prescreen.';
COMMENT ON COLUMN ledger.token_mask IS 'Which target tokens of a kept sample were trained on in this step: one bit each, in order, from the highest bit of the first byte (curate inspect --run shows them, and parts[''trained_tokens''] counts them). Null: all.';
COMMENT ON COLUMN ledger.parts IS 'The terms of the score by name: parts[''utility''], parts[''diversity''].';

CREATE TABLE IF NOT EXISTS memory (
    artifact VARCHAR, rank INTEGER, row INTEGER, sample_id VARCHAR, step BIGINT, sketch FLOAT[]);
COMMENT ON TABLE memory IS 'The memory (historical buffer) of a run at its end: sketches of samples that it has trained on.';
COMMENT ON COLUMN memory.artifact IS 'The run.';
COMMENT ON COLUMN memory.rank IS 'Process of a distributed run, from 0.';
COMMENT ON COLUMN memory.row IS 'Row in the memory.';
COMMENT ON COLUMN memory.sample_id IS 'The sample that the sketch was computed from.';
COMMENT ON COLUMN memory.step IS 'The step that kept the sample.';
COMMENT ON COLUMN memory.sketch IS 'Isometric sketch of the sample''s logits.';

CREATE TABLE IF NOT EXISTS metrics (artifact VARCHAR, step BIGINT, metric VARCHAR, value DOUBLE);
COMMENT ON TABLE metrics IS 'Metrics that a run logged: loss, eval_loss, learning_rate, seconds by part, totals, and by label (candidate_loss/LABEL, candidate_share/LABEL, kept_share/LABEL, mix_share/LABEL, mix_reward/LABEL).';
COMMENT ON COLUMN metrics.artifact IS 'The run.';
COMMENT ON COLUMN metrics.step IS 'Optimizer step.';
COMMENT ON COLUMN metrics.metric IS 'Name of the metric, as the Trainer logs it.';
COMMENT ON COLUMN metrics.value IS 'Value of the metric.';

CREATE TABLE IF NOT EXISTS subsets (artifact VARCHAR, sample_id VARCHAR, rank BIGINT, score DOUBLE, weight DOUBLE);
ALTER TABLE subsets ADD COLUMN IF NOT EXISTS epoch INTEGER;  -- older catalogues do not have this column
COMMENT ON TABLE subsets IS 'The samples of a subset (curate select, curate subset), an export, a curriculum, or an epoch of a run with a pool selector, in order.';
COMMENT ON COLUMN subsets.artifact IS 'The subset (curate select, curate subset, curate curriculum), the export or the run.';
COMMENT ON COLUMN subsets.epoch IS 'For a run: the epoch that the subset was selected for, from 1 (with --reselect once: this and all later epochs). For a curriculum with rounds: the round, from 1. Otherwise null.';
COMMENT ON COLUMN subsets.sample_id IS 'The sample.';
COMMENT ON COLUMN subsets.rank IS 'Index in the subset, from 0; for a curriculum the index in its order, the same in every round.';
COMMENT ON COLUMN subsets.score IS 'Score that ranked the sample, if there is one.';
COMMENT ON COLUMN subsets.weight IS 'Sampling weight, if there is one: how often a run on this subset draws the sample, relative to the others.';

CREATE TABLE IF NOT EXISTS draws (
    artifact VARCHAR, round INTEGER, arm INTEGER, draw BIGINT, sample_id VARCHAR, position BIGINT,
    index_value DOUBLE, reward DOUBLE);
ALTER TABLE draws ADD COLUMN IF NOT EXISTS epoch INTEGER;
COMMENT ON TABLE draws IS 'The samples whose gradients a bandit requested, in order, and why (cluster_ucb, in curate select or before the epochs of a run).';
COMMENT ON COLUMN draws.artifact IS 'The subset or the run.';
COMMENT ON COLUMN draws.epoch IS 'For a run: the epoch that the sample was drawn for, from 1; otherwise null. Draws are counted from 0 in each epoch.';
COMMENT ON COLUMN draws.round IS '0 for the cold start, then one number per batch.';
COMMENT ON COLUMN draws.arm IS 'The cluster that the sample was drawn from.';
COMMENT ON COLUMN draws.draw IS 'Index of the draw, from 0: the number of gradients that were computed before it.';
COMMENT ON COLUMN draws.sample_id IS 'The sample.';
COMMENT ON COLUMN draws.position IS 'Row of the sample in the pool, from 0; its first row if the pool repeats it.';
COMMENT ON COLUMN draws.index_value IS 'The arm''s index when it was selected, mean + beta * deviation; null in the cold start.';
COMMENT ON COLUMN draws.reward IS 'The reward: the value of the sample''s gradient for the target; null if it was not finite.';

CREATE TABLE IF NOT EXISTS duplicates (
    artifact VARCHAR, sample_id VARCHAR, other_id VARCHAR, across BOOLEAN, kind VARCHAR, jaccard DOUBLE);
ALTER TABLE duplicates ADD COLUMN IF NOT EXISTS cosine DOUBLE;  -- older catalogues do not have this column
COMMENT ON TABLE duplicates IS 'The pairs of samples that curate dedup found: copies, and answers that contradict each other.';
COMMENT ON COLUMN duplicates.artifact IS 'The subset.';
COMMENT ON COLUMN duplicates.sample_id IS 'The sample of the pool. Of an exact or near pair it is left out if the subset does not have it.';
COMMENT ON COLUMN duplicates.other_id IS 'The sample that it is a copy of, or whose answer it contradicts.';
COMMENT ON COLUMN duplicates.across IS 'True if other_id is a sample of the other pool.';
COMMENT ON COLUMN duplicates.kind IS 'exact (the same normalized text), near (similar, the same numbers), similar (the same, below the threshold: none is left out for it) or contradiction (the same prompt, another answer: none is left out for it).';
COMMENT ON COLUMN duplicates.jaccard IS 'Jaccard similarity of the texts that were compared. Null for a contradiction and where vectors were compared.';
COMMENT ON COLUMN duplicates.cosine IS 'Cosine similarity of the vectors that were compared; null where words were.';

CREATE TABLE IF NOT EXISTS leaks (
    artifact VARCHAR, pool VARCHAR, sample_id VARCHAR, position BIGINT, against VARCHAR, against_sample_id VARCHAR,
    against_position BIGINT, kind VARCHAR, score DOUBLE, evidence DOUBLE, passage VARCHAR);
COMMENT ON TABLE leaks IS 'The pairs of a row of a pool and a held-out row in it that curate decontaminate found.';
COMMENT ON COLUMN leaks.artifact IS 'The subset, which has none of these samples.';
COMMENT ON COLUMN leaks.pool IS 'Name of the pool when the subset was made.';
COMMENT ON COLUMN leaks.sample_id IS 'The sample that is left out.';
COMMENT ON COLUMN leaks.position IS 'Row of the sample in the pool, from 0.';
COMMENT ON COLUMN leaks.against IS 'Name of the held-out pool when the subset was made, or task: and the name of a task.';
COMMENT ON COLUMN leaks.against_sample_id IS 'The held-out sample; for a task, its name and the number of the question.';
COMMENT ON COLUMN leaks.against_position IS 'Row of the held-out sample in its pool, or number of the question in its task, from 0.';
COMMENT ON COLUMN leaks.kind IS 'exact, contained, reworded, neighbour, truncated or answer.';
COMMENT ON COLUMN leaks.score IS 'Share of the held-out question, weighted by rarity, that is in the sample; for answer that of the answer, for neighbour that of the words, for truncated the share of the sample''s question that is in the held-out one.';
COMMENT ON COLUMN leaks.evidence IS 'Sum of the weights of what both have: a sequence of words that only these two texts have counts 1.';
COMMENT ON COLUMN leaks.passage IS 'Longest sequence of words that both have, at most 40 of them, normalized.';

CREATE TABLE IF NOT EXISTS comparisons (
    artifact VARCHAR, method VARCHAR, kind VARCHAR, seed BIGINT, fingerprint VARCHAR, axis VARCHAR, budget DOUBLE,
    loss DOUBLE, difference DOUBLE, samples DOUBLE, tokens DOUBLE, target_tokens DOUBLE, seconds DOUBLE, flops DOUBLE);
COMMENT ON TABLE comparisons IS 'The runs of a comparison (curate compare): one row per method and seed.';
COMMENT ON COLUMN comparisons.artifact IS 'The comparison.';
COMMENT ON COLUMN comparisons.method IS 'Name of the selection method in the comparison.';
COMMENT ON COLUMN comparisons.kind IS 'control, online (a batch selector) or pool (a pool selector).';
COMMENT ON COLUMN comparisons.seed IS 'Seed of the run.';
COMMENT ON COLUMN comparisons.fingerprint IS 'Fingerprint of the run: join it with artifacts.fingerprint; artifacts.name is the run''s name in other tables.';
COMMENT ON COLUMN comparisons.axis IS 'The quantity that is equal for all runs: samples, tokens, steps, seconds or flops.';
COMMENT ON COLUMN comparisons.budget IS 'The amount of that quantity.';
COMMENT ON COLUMN comparisons.loss IS 'Held-out loss at the budget; null for a run that ended before it.';
COMMENT ON COLUMN comparisons.difference IS 'The loss minus the loss of random at the same seed and budget.';
COMMENT ON COLUMN comparisons.samples IS 'Number of samples kept up to the budget.';
COMMENT ON COLUMN comparisons.tokens IS 'Number of tokens in these samples.';
COMMENT ON COLUMN comparisons.target_tokens IS 'Number of tokens in these samples that the loss trains on.';
COMMENT ON COLUMN comparisons.seconds IS 'Seconds of training and scoring up to the budget.';
COMMENT ON COLUMN comparisons.flops IS 'Floating-point operations up to the budget, as curate/numerics/flops.py counts them.';

CREATE TABLE IF NOT EXISTS advice_runs (
    artifact VARCHAR, stage VARCHAR, round BIGINT, method VARCHAR, role VARCHAR, seed BIGINT, run VARCHAR, steps BIGINT,
    samples BIGINT, tokens BIGINT, seconds DOUBLE, flops DOUBLE, loss DOUBLE, kept_for_next BOOLEAN);
COMMENT ON TABLE advice_runs IS 'The short runs that a piece of advice rests on (curate advise): one row per run.';
COMMENT ON COLUMN advice_runs.artifact IS 'The advice.';
COMMENT ON COLUMN advice_runs.stage IS 'race, in which candidates are dropped, or verdict, on seeds and held-out rows that the race did not have.';
COMMENT ON COLUMN advice_runs.round IS 'Number of the round that made the run, from 1; the verdict is the last one.';
COMMENT ON COLUMN advice_runs.method IS 'Name of the selection method.';
COMMENT ON COLUMN advice_runs.role IS 'control or candidate.';
COMMENT ON COLUMN advice_runs.seed IS 'Seed of the run.';
COMMENT ON COLUMN advice_runs.run IS 'The run.';
COMMENT ON COLUMN advice_runs.steps IS 'Number of optimizer steps.';
COMMENT ON COLUMN advice_runs.samples IS 'Number of samples trained on.';
COMMENT ON COLUMN advice_runs.tokens IS 'Number of tokens in these samples.';
COMMENT ON COLUMN advice_runs.seconds IS 'Seconds of training and scoring.';
COMMENT ON COLUMN advice_runs.flops IS 'Floating-point operations, as curate/numerics/flops.py counts them; null if the weights cannot be counted.';
COMMENT ON COLUMN advice_runs.loss IS 'Held-out loss of the run on the rows of the race or of the verdict, in nats per target token.';
COMMENT ON COLUMN advice_runs.kept_for_next IS 'True if the method is in the next round. Controls always are.';

CREATE TABLE IF NOT EXISTS advice_verdicts (
    artifact VARCHAR, method VARCHAR, control VARCHAR, rows BIGINT, seeds BIGINT, difference DOUBLE, low DOUBLE,
    high DOUBLE, level DOUBLE, verdict VARCHAR, tokens_saved DOUBLE, seconds_saved DOUBLE);
COMMENT ON TABLE advice_verdicts IS 'The verdicts of a piece of advice: the winner of the race against each control.';
COMMENT ON COLUMN advice_verdicts.artifact IS 'The advice.';
COMMENT ON COLUMN advice_verdicts.method IS 'The winner of the race.';
COMMENT ON COLUMN advice_verdicts.control IS 'random, at an equal budget; or random as long: random samples as long as those of the winner, in as many steps.';
COMMENT ON COLUMN advice_verdicts.rows IS 'Number of held-out rows.';
COMMENT ON COLUMN advice_verdicts.seeds IS 'Number of seeds.';
COMMENT ON COLUMN advice_verdicts.difference IS 'Loss of the winner minus loss of the control, in nats per target token.';
COMMENT ON COLUMN advice_verdicts.low IS 'Lower end of the interval of the difference, over seeds and rows.';
COMMENT ON COLUMN advice_verdicts.high IS 'Upper end of the interval.';
COMMENT ON COLUMN advice_verdicts.level IS 'Coverage of the interval.';
COMMENT ON COLUMN advice_verdicts.verdict IS 'better if the interval is below zero, worse if it is above, otherwise tie.';
COMMENT ON COLUMN advice_verdicts.tokens_saved IS 'Tokens that a full run of the winner saves until it has the loss of a full run of the control, less those of the race; null unless the winner is advised and reached that loss.';
COMMENT ON COLUMN advice_verdicts.seconds_saved IS 'The same in seconds.';

CREATE TABLE IF NOT EXISTS advice_notes (artifact VARCHAR, kind VARCHAR, count BIGINT, detail VARCHAR);
COMMENT ON TABLE advice_notes IS 'Observations in the data of a piece of advice.';
COMMENT ON COLUMN advice_notes.artifact IS 'The advice.';
COMMENT ON COLUMN advice_notes.kind IS 'duplicates, leak, contradictions, long, rejected, source or left out.';
COMMENT ON COLUMN advice_notes.count IS 'Number of samples, groups or rows; null if nothing was counted.';
COMMENT ON COLUMN advice_notes.detail IS 'The observation, as a sentence.';

CREATE TABLE IF NOT EXISTS evaluations (
    artifact VARCHAR, run VARCHAR, task VARCHAR, metric VARCHAR, grouped_by VARCHAR, slice VARCHAR,
    value DOUBLE, stderr DOUBLE, samples BIGINT, tokens BIGINT);
COMMENT ON TABLE evaluations IS 'Results of models on tasks (curate evaluate): one row per task, metric and slice.';
COMMENT ON COLUMN evaluations.artifact IS 'The evaluation.';
COMMENT ON COLUMN evaluations.run IS 'The artifact that made the model, usually a run: JOIN ledger USING (run); null for a model from outside the store.';
COMMENT ON COLUMN evaluations.task IS 'The held-out pool, or the task of the lm-evaluation-harness.';
COMMENT ON COLUMN evaluations.metric IS 'loss (nats per target token), exact_match, last_number, choice, choice_norm, or a metric of the harness.';
COMMENT ON COLUMN evaluations.grouped_by IS 'source, or the pool''s column whose value is in slice; null for the whole task.';
COMMENT ON COLUMN evaluations.slice IS 'Value of that column; null for samples without one, and for the whole task.';
COMMENT ON COLUMN evaluations.value IS 'For loss: the mean over target tokens. Otherwise the share of right answers, or the value from the harness.';
COMMENT ON COLUMN evaluations.stderr IS 'Standard error of the value, for independent samples; null if there is none.';
COMMENT ON COLUMN evaluations.samples IS 'Number of samples that the value was computed from.';
COMMENT ON COLUMN evaluations.tokens IS 'Number of target tokens in these samples, for the loss.';

CREATE TABLE IF NOT EXISTS answers (
    artifact VARCHAR, sample_id VARCHAR, position BIGINT, task VARCHAR, metric VARCHAR, prediction VARCHAR,
    reference VARCHAR, correct BOOLEAN, loss DOUBLE, target_tokens INTEGER, slices MAP(VARCHAR, VARCHAR));
COMMENT ON TABLE answers IS 'The model''s result on each sample of a held-out pool or task (curate evaluate): one row per sample and metric.';
COMMENT ON COLUMN answers.artifact IS 'The evaluation.';
COMMENT ON COLUMN answers.sample_id IS 'The sample; for a task of the harness, its hash of the question.';
COMMENT ON COLUMN answers.position IS 'Row of the sample in the pool, from 0; null for a task of the harness.';
COMMENT ON COLUMN answers.task IS 'As in evaluations.';
COMMENT ON COLUMN answers.metric IS 'As in evaluations.';
COMMENT ON COLUMN answers.prediction IS 'The text that the model generated, or the choice with the highest likelihood; for choices of the harness, their log-likelihoods.';
COMMENT ON COLUMN answers.reference IS 'The right answer.';
COMMENT ON COLUMN answers.correct IS 'True if the answer counts as right; null for the loss.';
COMMENT ON COLUMN answers.loss IS 'Mean cross-entropy of the sample over its target tokens, in nats, for every metric.';
COMMENT ON COLUMN answers.target_tokens IS 'Number of tokens that the loss was computed from.';
COMMENT ON COLUMN answers.slices IS 'The columns that the evaluation is sliced by: slices[''source''].';

CREATE TABLE IF NOT EXISTS attributions (
    artifact VARCHAR, run VARCHAR, query_id VARCHAR, query VARCHAR, sample_id VARCHAR, rank BIGINT, from_bottom BIGINT,
    influence DOUBLE, share DOUBLE, exposure DOUBLE, steps BIGINT, tokens DOUBLE[], token_texts VARCHAR[]);
COMMENT ON TABLE attributions IS 'The samples that a run was trained on with the highest and the lowest influence on each query (curate attribute). The artifact''s Parquet files have the products of all samples at each checkpoint.';
COMMENT ON COLUMN attributions.artifact IS 'The attribution.';
COMMENT ON COLUMN attributions.run IS 'The run: JOIN ledger USING (run).';
COMMENT ON COLUMN attributions.query_id IS 'The query: its sample_id in its pool; null for the mean influence on all queries, which is there if there are several.';
COMMENT ON COLUMN attributions.query IS 'Text of the query of --text; null for the queries of a pool.';
COMMENT ON COLUMN attributions.sample_id IS 'The sample that was trained on.';
COMMENT ON COLUMN attributions.rank IS 'Index in the order of influence on this query, from 0 for the highest.';
COMMENT ON COLUMN attributions.from_bottom IS 'Index from the other end, 0 for the lowest influence.';
COMMENT ON COLUMN attributions.influence IS 'By how many nats training on the sample lowered the mean loss of the query''s tokens, to first order; below 0 it raised the loss. With --metric plain and less only the order counts.';
COMMENT ON COLUMN attributions.share IS 'influence over the sum of the sizes of all samples'' influence on this query, -1 to 1.';
COMMENT ON COLUMN attributions.exposure IS 'Sum over the steps that trained on the sample: learning rate times clipping times the factor of its mean loss.';
COMMENT ON COLUMN attributions.steps IS 'Number of steps that trained on the sample.';
COMMENT ON COLUMN attributions.tokens IS 'Influence of each target token of the sample, in order; they add up to influence. Null without --per-token.';
COMMENT ON COLUMN attributions.token_texts IS 'The texts of these tokens.';
