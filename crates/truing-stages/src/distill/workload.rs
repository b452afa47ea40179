//! A step: sample completions of its prompts, ask the teacher for the log-probabilities of each token, train on them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use truing_eval::held_out::HeldOutScores;
use truing_generate::{SampleRequest, SampledCompletion, SampledIds, end_tokens, excluded_tokens};
use truing_model::{
    Adapters, DecodingWeights, Engine, EngineOptions, HeadOutput, HostTopLogProbs, TopLogProbs, TrainableSpec,
};
use truing_run::ranks::{gather_dealt, on_first_rank};
use truing_run::record::{break_if_alone, is_any_stopped};
use truing_run::{model, rollouts};
use truing_train::completion_packs::{self as packs, SampledPolicy, Sequence};
use truing_train::{Distillation, DistillationPack};
use truing_types::{
    BatchError, ChatError, ChatModel, Communicator, Event, ExcludedTokens, PackedBatch, Rollout, Seed,
    TokenId, dealt,
};

use super::config::{DistillationConfig, KlTokens};
use super::inputs::{DistillInputs, DistillPrompts, loads_initial_weights};
use crate::StageError;
use crate::sampling::Sampling;
use crate::training::{
    ComingPacks, EvaluationFindings, RunStart, Split, TrainingConfig, TrainingPlan, Workload,
};

/// The workload of a distillation.
pub(super) struct OnPolicyDistillation<'a, E> {
    config: &'a TrainingConfig,
    settings: DistillationConfig,
    inputs: &'a DistillInputs,
    objective: Distillation,
    ids: SampledIds,
    /// Tokens that the teacher is not asked about: those of the student, and rows of its head that the student does not
    /// have.
    teacher_excluded: ExcludedTokens,
    /// The teacher, where it is an engine and not the one that learns.
    teacher: Option<E>,
    /// The teacher, where it is on a server.
    server: Option<Box<dyn ChatModel>>,
    /// Whether the engine's adapters are disabled while it is its own teacher.
    teacher_adapters: Adapters,
    folder: PathBuf,
    n_steps: u64,
    /// The packs of the step, or of the evaluation, in their order.
    prepared: VecDeque<DistillationPack>,
}

impl<'a, E: Engine> OnPolicyDistillation<'a, E> {
    pub(super) fn new(
        plan: &'a TrainingPlan,
        inputs: &'a DistillInputs,
        server: Option<Box<dyn ChatModel>>,
    ) -> Self {
        let settings = plan.config.distillation.clone().unwrap_or_default();
        let end = end_tokens(&inputs.model.spec.eos_token_ids, &inputs.renderer);
        let excluded = excluded_tokens(inputs.renderer.tokenizer(), inputs.model.spec.vocab_size, &end);
        let n_rows = inputs.model.spec.vocab_size;
        let n_teacher_rows = inputs.teacher.as_ref().map_or(n_rows, |teacher| teacher.spec.vocab_size);
        let without_token = inputs.renderer.tokenizer().ids_without_token(n_teacher_rows).into_iter();
        let foreign = n_rows as TokenId..n_teacher_rows as TokenId;
        let teacher_excluded =
            ExcludedTokens::of(without_token.filter(|id| !end.contains(id)).chain(foreign));
        let reads_disabled = settings.teacher.weights == super::TeacherWeights::Initial;
        Self {
            config: &plan.config,
            objective: Distillation {
                temperature: settings.temperature,
                excluded: excluded.clone(),
                divergence: settings.divergence(),
            },
            ids: SampledIds { end: end.into(), excluded },
            teacher_excluded,
            teacher: None,
            server,
            teacher_adapters: if reads_disabled { Adapters::Disabled } else { Adapters::Enabled },
            folder: PathBuf::new(),
            n_steps: plan.n_steps,
            prepared: VecDeque::new(),
            settings,
            inputs,
        }
    }

    /// Samples completions of the packs' prompts, those of a prompt side by side; `None` when it was stopped.
    fn sample(
        &self,
        engine: &mut E,
        data: &DistillPrompts,
        coming: &mut ComingPacks<'_>,
    ) -> Result<Option<Vec<Vec<SampledCompletion>>>, StageError> {
        let settings = &self.settings;
        let (split, step, groups) = (coming.split, coming.step, coming.groups);
        // Random numbers of its own for each place of a step, for a step may visit a prompt twice. Every evaluation has
        // the same ones, so that two differ by their weights alone.
        let seed_indices = |pack_idx: usize, place: usize, sample: u32| match split {
            Split::Train => {
                let pack_idx = groups.data.rank().0 + pack_idx * groups.data.world_size();
                vec![0, step, pack_idx as u64, place as u64, u64::from(sample)]
            }
            Split::Evaluation => vec![1, u64::from(sample)],
        };
        let mut requests: Vec<SampleRequest> = Vec::new();
        for (pack_idx, samples) in coming.packs.iter().enumerate() {
            for (place, &sample) in samples.iter().enumerate() {
                requests.push(SampleRequest {
                    prompt: data.prompts[sample as usize].prompt.tokens.clone(),
                    n_samples: settings.num_generations,
                    seed_indices: seed_indices(pack_idx, place, sample),
                });
            }
        }
        let phase = match split {
            Split::Train => format!("step {step} of {}: sampling completions", self.n_steps),
            Split::Evaluation => "evaluating: sampling completions".to_owned(),
        };
        let sampling = Sampling {
            tokenizer: self.inputs.renderer.tokenizer(),
            ids: &self.ids,
            options: settings.sampling(self.config.seed),
            max_batch: settings.generation_batch_size,
            weights: match split {
                Split::Train => settings.rollout_quantization,
                Split::Evaluation => DecodingWeights::F32,
            },
            prompt_lookup_num_tokens: settings.prompt_lookup_num_tokens,
            phase,
        };
        // The ranks of a sequence group have the same packs: each samples a part of the completions for all of them.
        let requests: Vec<SampleRequest> =
            dealt(requests.len(), &*groups.sequence).map(|idx| requests[idx].clone()).collect();
        let n_ranks = groups.world.world_size();
        match sampling.run(engine, &requests, &mut *coming.events, coming.stop, n_ranks)? {
            Some(sampled) => Ok(Some(gather_dealt(&*groups.sequence, sampled)?)),
            None => Ok(None),
        }
    }

    /// What the teacher says of a pack's completions at the tokens that the divergence is computed over.
    fn ask_teacher(
        &mut self,
        engine: &mut E,
        student: &PackedBatch,
        teacher: &PackedBatch,
    ) -> Result<TopLogProbs, StageError> {
        let k = self.settings.kl_top_k();
        let policy =
            SampledPolicy { temperature: self.settings.temperature, excluded: self.teacher_excluded.clone() };
        let of_student = match self.settings.kl_tokens {
            KlTokens::Teacher => None,
            KlTokens::Student => {
                let policy = SampledPolicy { excluded: self.objective.excluded.clone(), ..policy.clone() };
                Some(packs::top_log_probs(engine, student, &policy, k, Adapters::Enabled)?)
            }
        };
        let (engine, adapters) = match &mut self.teacher {
            Some(teacher) => (teacher, Adapters::Enabled),
            None => (engine, self.teacher_adapters),
        };
        Ok(match of_student {
            None => packs::top_log_probs(engine, teacher, &policy, k, adapters)?,
            Some(tokens) => packs::log_probs_of(engine, teacher, policy.temperature, &tokens, adapters)?,
        })
    }

    /// What a teacher on a server says of the completions of a pack at each of their tokens.
    fn ask_server(
        &self,
        server: &dyn ChatModel,
        data: &DistillPrompts,
        samples: &[u32],
        completions: &[Vec<SampledCompletion>],
    ) -> Result<TopLogProbs, StageError> {
        let texts: Vec<(usize, Vec<TokenId>)> = samples
            .iter()
            .zip(completions)
            .flat_map(|(&idx, of_prompt)| {
                let prompt = &data.prompts[idx as usize].teacher;
                of_prompt.iter().map(move |one| (prompt.len(), [&**prompt, &*one.tokens].concat()))
            })
            .collect();
        let (starts, texts): (Vec<usize>, Vec<Vec<TokenId>>) = texts.into_iter().unzip();
        let mut rows: Vec<Vec<(TokenId, f32)>> = Vec::new();
        for (start, answer) in
            starts.into_iter().zip(server.prompt_log_probs_all(&texts, self.settings.kl_top_k()))
        {
            // The first list is in place of the second token.
            rows.extend(answer.map_err(StageError::Teacher)?.into_iter().skip(start.saturating_sub(1)));
        }
        let is_sampled = |token: TokenId| {
            (token as usize) < self.inputs.model.spec.vocab_size && !self.objective.excluded.contains(token)
        };
        rows.iter_mut().for_each(|row| row.retain(|&(token, _)| is_sampled(token)));
        renormalised(&rows, self.settings.temperature).ok_or_else(|| {
            StageError::Teacher(ChatError::BadRequest(
                "none of the server's top tokens is in the student's vocabulary".into(),
            ))
        })
    }

    /// Saves the completions of a step, those of all ranks.
    fn keep(
        &self,
        data: &DistillPrompts,
        packs: &[&Vec<u32>],
        sampled: &[Vec<SampledCompletion>],
        coming: &ComingPacks<'_>,
    ) -> Result<(), StageError> {
        let mut sampled = sampled.iter();
        let of_packs = packs.iter().map(|samples| {
            let prompts = samples.iter().zip(sampled.by_ref());
            prompts.map(|(&idx, completions)| (idx, completions.clone())).collect::<Vec<_>>()
        });
        let of_packs: Vec<Vec<(u32, Vec<SampledCompletion>)>> =
            gather_dealt(&*coming.groups.data, of_packs.collect())?;
        on_first_rank(&*coming.groups.world, || {
            let mut kept = Vec::new();
            for (prompt_idx, (idx, completions)) in of_packs.into_iter().flatten().enumerate() {
                let prompt = &data.prompts[idx as usize].prompt;
                for (sample_idx, completion) in completions.into_iter().enumerate() {
                    kept.push(Rollout {
                        step: coming.step,
                        prompt_idx,
                        sample_idx,
                        origin: prompt.origin.clone(),
                        prompt: prompt.row.prompt.messages.clone(),
                        prompt_tokens: prompt.tokens.clone(),
                        tokens: completion.tokens,
                        text: completion.text,
                        finish_reason: completion.finish_reason,
                        log_probs: completion.log_probs,
                        sampling_log_probs: completion.sampling_log_probs,
                        weights_version: completion.weights_version,
                        rewards: BTreeMap::new(),
                        unscored: BTreeMap::new(),
                        reward: None,
                        advantage: None,
                        kl: None,
                    });
                }
            }
            Ok(rollouts::write(&self.folder, coming.step, &kept)?)
        })
    }
}

/// Ends the run on all ranks where the server failed for one, so that they save the steps so far together.
fn end_where_any_failed(failure: Option<ChatError>, world: &dyn Communicator) -> Result<(), StageError> {
    let reasons = gather_dealt(world, vec![failure.as_ref().map(ChatError::reason)])?;
    if let Some(failure) = failure {
        return Err(StageError::Teacher(failure));
    }
    match reasons.iter().enumerate().find_map(|(rank, reason)| Some((rank, reason.as_ref()?))) {
        Some((rank, reason)) => {
            Err(StageError::Teacher(ChatError::Failed(format!("rank {rank}: {reason}").into())))
        }
        None => Ok(()),
    }
}

/// The completions of a pack's prompts, after the student's prompts or the teacher's. `of_prompt` gives the tokens of a
/// prompt.
fn one_pack<'a>(
    data: &'a DistillPrompts,
    samples: &[u32],
    completions: &'a [Vec<SampledCompletion>],
    of_prompt: impl Fn(&'a super::DistillPrompt) -> &'a [u32],
) -> Result<PackedBatch, BatchError> {
    let mut sequences: Vec<Sequence<'_>> = Vec::new();
    for (group, (&sample_idx, of_group)) in samples.iter().zip(completions).enumerate() {
        let prompt = &data.prompts[sample_idx as usize];
        for completion in of_group {
            sequences.push(Sequence {
                prompt: of_prompt(prompt),
                completion: &completion.tokens,
                origin: &prompt.prompt.origin,
                idx: sequences.len(),
                group,
            });
        }
    }
    let mut packed = packs::pack(&sequences, usize::MAX, true)?;
    packed.pop().map(|pack| pack.batch).ok_or(BatchError::NoSequences)
}

/// Rows of most likely tokens as a table: as many of each as all have, at a temperature and renormalised over them.
/// `None` where a row is empty.
fn renormalised(rows: &[Vec<(TokenId, f32)>], temperature: f32) -> Option<TopLogProbs> {
    let k = rows.iter().map(Vec::len).min().filter(|&k| k > 0)?;
    let mut top = HostTopLogProbs { k, tokens: Vec::new(), log_probs: Vec::new() };
    for row in rows {
        let scaled = || row[..k].iter().map(|&(_, log_prob)| f64::from(log_prob) / f64::from(temperature));
        let log_sum = scaled().map(f64::exp).sum::<f64>().ln();
        top.tokens.extend(row[..k].iter().map(|&(token, _)| token));
        top.log_probs.extend(scaled().map(|log_prob| (log_prob - log_sum) as f32));
    }
    Some(top.into())
}

impl<E: Engine> Workload<E> for OnPolicyDistillation<'_, E> {
    type Inputs = DistillInputs;
    type Objective = Distillation;

    fn objective(&self) -> &Distillation {
        &self.objective
    }

    fn begin(
        &mut self,
        _engine: &mut E,
        inputs: &DistillInputs,
        run: RunStart<'_>,
    ) -> Result<ControlFlow<()>, StageError> {
        let RunStart { folder, groups, n_threads, events, .. } = run;
        self.folder = folder.to_path_buf();
        let initial = loads_initial_weights(self.config, inputs).then_some(&inputs.model);
        if let Some(files) = inputs.teacher.as_ref().or(initial) {
            let options = EngineOptions::with_threads(n_threads, Seed(self.config.seed));
            let (frozen, phase) = (TrainableSpec::frozen(), "loading the teacher");
            self.teacher = Some(model::announce_and_load(files, &frozen, &options, groups, phase, events)?);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn prepare(
        &mut self,
        engine: &mut E,
        data: &DistillPrompts,
        mut coming: ComingPacks<'_>,
    ) -> Result<ControlFlow<()>, StageError> {
        self.prepared.clear();
        let packs = coming.packs;
        let sampled = self.sample(engine, data, &mut coming)?;
        if is_any_stopped(coming.stop, &*coming.groups.world)? {
            return Ok(ControlFlow::Break(()));
        }
        let Some(sampled) = sampled else { return Ok(ControlFlow::Break(())) };
        if self.settings.keep_rollouts && coming.split == Split::Train {
            self.keep(data, packs, &sampled, &coming)?;
        }
        let phase = match coming.split {
            Split::Train => format!("step {} of {}: asking the teacher", coming.step, self.n_steps),
            Split::Evaluation => "evaluating: asking the teacher".to_owned(),
        };
        coming.events.emit(Event::PhaseStarted { phase, total: Some(packs.len() as u64) });
        let (mut start, mut failure) = (0, None);
        for (n_done, samples) in packs.iter().enumerate() {
            if break_if_alone(coming.stop, coming.groups.world.world_size()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let completions = &sampled[start..start + samples.len()];
            start += samples.len();
            let batch = one_pack(data, samples, completions, |prompt| &prompt.prompt.tokens)?;
            let teacher = match &self.server {
                Some(server) => match self.ask_server(&**server, data, samples, completions) {
                    // All ranks exchange failures below. A request that a stop has cancelled is no failure.
                    Err(StageError::Teacher(error)) => {
                        failure = Some(error).filter(|_| !coming.stop.load(Ordering::Relaxed));
                        break;
                    }
                    answered => answered?,
                },
                None => {
                    let of_teacher = one_pack(data, samples, completions, |prompt| &prompt.teacher)?;
                    self.ask_teacher(engine, &batch, &of_teacher)?
                }
            };
            let n_targets = completions.iter().flatten().map(|completion| completion.tokens.len()).collect();
            self.prepared.push_back(DistillationPack { batch, n_targets, teacher });
            coming.events.emit(Event::Progress { done: n_done as u64 + 1, note: String::new() });
        }
        engine.join_others()?;
        if let Some(teacher) = &mut self.teacher {
            teacher.release_working_memory();
        }
        coming.events.emit(Event::PhaseFinished);
        if self.server.is_some() {
            let world = &*coming.groups.world;
            end_where_any_failed(failure, world)?;
            // A stop may have cancelled the requests of some ranks alone.
            if is_any_stopped(coming.stop, world)? {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn pack(
        &mut self,
        _data: &DistillPrompts,
        _split: Split,
        _samples: &[u32],
    ) -> Result<DistillationPack, BatchError> {
        self.prepared.pop_front().ok_or(BatchError::NoSequences)
    }

    /// Sum of the divergences and number of tokens, completion by completion.
    fn kept(&self, pack: &DistillationPack, output: &HeadOutput) -> Vec<f32> {
        let mut divergences = output.kl.iter();
        let of_completion = |&n: &usize| [divergences.by_ref().take(n).sum::<f32>(), n as f32];
        pack.n_targets.iter().flat_map(of_completion).collect()
    }

    fn evaluation_findings(
        &self,
        data: &DistillPrompts,
        _loss: f64,
        answered: &[(Vec<u32>, Vec<f32>)],
    ) -> EvaluationFindings {
        let mut sums = vec![(0.0, 0.0); data.prompts.len()];
        for (samples, kept) in answered {
            for (&sample_idx, of_prompt) in samples.iter().zip(kept.chunks(2 * self.settings.num_generations))
            {
                for pair in of_prompt.chunks_exact(2) {
                    let sum: &mut (f64, f64) = &mut sums[sample_idx as usize];
                    *sum = (sum.0 + f64::from(pair[0]), sum.1 + f64::from(pair[1]));
                }
            }
        }
        let held_out = HeldOutScores {
            measure: HeldOutScores::LOSS.to_owned(),
            values: sums.iter().map(|&(sum, n)| (n > 0.0).then(|| sum / n)).collect(),
            ..HeldOutScores::default()
        };
        EvaluationFindings { held_out: vec![held_out], ..EvaluationFindings::default() }
    }
}
