//! Completions worth looking at, out of a run's `rollouts/*.jsonl.zst`: the best and the worst, early and late,
//! and the prompts whose reward changed most.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use truing_types::{Role, Rollout};

use crate::ReportError;

/// Files of rollouts that are read: the first and the last of them, so that a long run stays quick to show.
const FILES_AT_EACH_END: usize = 12;
/// Completions of a list.
const N_SHOWN: usize = 4;

/// One completion as a page shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutExample {
    /// The step it was sampled before.
    pub step: u64,
    /// The last user turn.
    pub prompt: String,
    /// What the model wrote.
    pub text: String,
    /// Its reward.
    pub reward: f64,
    /// The parts of it.
    pub parts: Vec<(String, f64)>,
    /// KL from the reference over all its tokens, where it was computed.
    pub kl: Option<f64>,
}

/// Completions by why they are shown. Empty where a run has no rollouts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RolloutExamples {
    /// Highest rewards of the last steps.
    pub best: Vec<RolloutExample>,
    /// Lowest rewards of the last steps.
    pub worst: Vec<RolloutExample>,
    /// The same prompt early and late, by how much its group's mean reward changed.
    pub most_changed: Vec<[RolloutExample; 2]>,
}

/// Reads the examples; none where the folder is not there.
pub(crate) fn read_examples(folder: &Path) -> Result<RolloutExamples, ReportError> {
    let [early, late] = read_ends(folder)?;
    Ok(choose(&early, &late))
}

/// The scored rollouts of the first and of the last files, as many as [`FILES_AT_EACH_END`]; the same twice where
/// there is one file, none where the folder is not there.
pub(crate) fn read_ends(folder: &Path) -> Result<[Vec<Rollout>; 2], ReportError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok([Vec::new(), Vec::new()]),
        Err(error) => return Err(ReportError::io("read", folder)(error)),
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(".jsonl.zst"))
        .collect();
    files.sort();
    let n_early = FILES_AT_EACH_END.min(files.len().div_ceil(2));
    let late = &files[files.len().saturating_sub(FILES_AT_EACH_END).max(n_early)..];
    let read = |files: &[PathBuf]| -> Result<Vec<Rollout>, ReportError> {
        let mut rollouts = Vec::new();
        for file in files {
            read_file(file, &mut rollouts)?;
        }
        rollouts.retain(|rollout| rollout.reward.is_some());
        Ok(rollouts)
    };
    let early = read(&files[..n_early])?;
    let late = if late.is_empty() { early.clone() } else { read(late)? };
    Ok([early, late])
}

fn read_file(path: &Path, rollouts: &mut Vec<Rollout>) -> Result<(), ReportError> {
    let file = fs::File::open(path).map_err(ReportError::io("read", path))?;
    let decoder = zstd::Decoder::new(file).map_err(ReportError::io("read", path))?;
    for (idx, line) in BufReader::new(decoder).lines().enumerate() {
        let line = line.map_err(ReportError::io("read", path))?;
        let rollout = serde_json::from_str(&line).map_err(|error| ReportError::BadRecord {
            path: path.to_owned(),
            line: idx + 1,
            reason: error.to_string(),
        })?;
        rollouts.push(rollout);
    }
    Ok(())
}

fn choose(early: &[Rollout], late: &[Rollout]) -> RolloutExamples {
    let mut sorted: Vec<&Rollout> = late.iter().collect();
    sorted.sort_by(|a, b| b.reward.partial_cmp(&a.reward).unwrap_or(std::cmp::Ordering::Equal));
    let distinct = |order: &mut dyn Iterator<Item = &&Rollout>| {
        let mut seen = Vec::new();
        let mut chosen = Vec::new();
        for rollout in order {
            if !seen.contains(&&rollout.origin) && chosen.len() < N_SHOWN {
                seen.push(&rollout.origin);
                chosen.push(example(rollout));
            }
        }
        chosen
    };
    RolloutExamples {
        best: distinct(&mut sorted.iter()),
        worst: distinct(&mut sorted.iter().rev()),
        most_changed: most_changed(early, late),
    }
}

/// Prompts met early and late, with the completion nearest to its group's mean from either time.
fn most_changed(early: &[Rollout], late: &[Rollout]) -> Vec<[RolloutExample; 2]> {
    let groups = |rollouts: &[Rollout], is_first: bool| {
        let mut by_prompt: BTreeMap<(String, u64), Vec<Rollout>> = BTreeMap::new();
        for rollout in rollouts {
            let key = (rollout.origin.source.to_string(), rollout.origin.line);
            let group = by_prompt.entry(key).or_default();
            match group.first().map(|first| first.step) {
                Some(step) if step != rollout.step && is_first => {}
                Some(step) if step != rollout.step => *group = vec![rollout.clone()],
                _ => group.push(rollout.clone()),
            }
        }
        by_prompt
    };
    let mean = |group: &[Rollout]| group.iter().filter_map(|r| r.reward).sum::<f64>() / group.len() as f64;
    let typical = |group: &[Rollout]| {
        let middle = mean(group);
        let distance = |r: &&Rollout| (r.reward.unwrap_or_default() - middle).abs();
        group.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).map(example)
    };
    let late = groups(late, false);
    let mut pairs: Vec<(f64, RolloutExample, RolloutExample)> = groups(early, true)
        .iter()
        .filter_map(|(prompt, before)| {
            let after = late.get(prompt).filter(|after| after[0].step > before[0].step)?;
            Some(((mean(after) - mean(before)).abs(), typical(before)?, typical(after)?))
        })
        .collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    pairs.into_iter().take(N_SHOWN).map(|(_, before, after)| [before, after]).collect()
}

fn example(rollout: &Rollout) -> RolloutExample {
    let prompt = rollout.prompt.iter().rev().find(|message| message.role == Role::User);
    RolloutExample {
        step: rollout.step,
        prompt: prompt.map_or_else(String::new, |message| message.content.clone()),
        text: rollout.text.clone(),
        reward: rollout.reward.unwrap_or_default(),
        parts: rollout.rewards.iter().map(|(name, value)| (name.clone(), *value)).collect(),
        kl: rollout.kl,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_types::{FinishReason, Message, RowOrigin};

    fn rollout(step: u64, line: u64, reward: Option<f64>) -> Rollout {
        Rollout {
            step,
            prompt_idx: 0,
            sample_idx: 0,
            origin: RowOrigin { source: "p.jsonl".into(), line },
            prompt: vec![Message::new(Role::User, format!("question {line}"))],
            prompt_tokens: vec![1],
            tokens: vec![2],
            text: format!("answer of step {step}"),
            finish_reason: FinishReason::EndOfTurn,
            log_probs: vec![-1.0],
            sampling_log_probs: vec![-1.0],
            weights_version: None,
            rewards: BTreeMap::new(),
            unscored: BTreeMap::new(),
            reward,
            advantage: None,
            kl: None,
        }
    }

    #[test]
    fn best_worst_and_most_changed_are_found_in_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |step: u64, rollouts: &[Rollout]| {
            let lines: String = rollouts.iter().map(|r| serde_json::to_string(r).unwrap() + "\n").collect();
            let packed = zstd::encode_all(lines.as_bytes(), 0).unwrap();
            fs::write(folder.path().join(format!("step-{step:06}.jsonl.zst")), packed).unwrap();
        };
        write(1, &[rollout(1, 1, Some(0.0)), rollout(1, 2, Some(0.5)), rollout(1, 3, None)]);
        write(2, &[rollout(2, 1, Some(1.0)), rollout(2, 2, Some(0.25)), rollout(2, 3, None)]);
        let examples = read_examples(folder.path()).unwrap();
        assert_eq!(examples.best[0].reward, 1.0);
        assert_eq!(examples.worst[0].reward, 0.25);
        let [before, after] = &examples.most_changed[0];
        assert_eq!((before.reward, after.reward, examples.most_changed.len()), (0.0, 1.0, 2));
        assert_eq!(read_examples(&folder.path().join("none")).unwrap(), RolloutExamples::default());
        fs::write(folder.path().join("step-000003.jsonl.zst"), b"junk").unwrap();
        assert!(read_examples(folder.path()).is_err());
    }
}
