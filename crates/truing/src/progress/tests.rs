//! Tests of `progress.rs`.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::mpsc;

use indicatif::{ProgressDrawTarget, TermLike};

use super::*;

/// A terminal that is drawn on and that nobody looks at.
#[derive(Debug)]
struct Unseen;

impl TermLike for Unseen {
    fn width(&self) -> u16 {
        80
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn write_str(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn work_and_the_thread_that_draws_never_wait_for_each_other() {
    let (send_done, done) = mpsc::channel();
    std::thread::spawn(move || {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::term_like(Box::new(Unseen)));
        let mut bars = Bars::new(Printer::new(false, true), screen);
        bars.emit(Event::PhaseStarted { phase: "training".into(), total: Some(10_000) });
        let drawn = bars.phases[0].bar.clone();
        let drawing = std::thread::spawn(move || (0..10_000).for_each(|_| drawn.force_draw()));
        for done in 0..10_000 {
            bars.emit(Event::Progress { done, note: String::new() });
        }
        bars.emit(Event::PhaseStarted { phase: "training".into(), total: Some(10) });
        drawing.join().unwrap();
        bars.emit(Event::PhaseFinished);
        send_done.send(()).unwrap();
    });
    done.recv_timeout(Duration::from_secs(120)).unwrap();
}

#[test]
fn a_phase_is_named_after_the_part_of_all_work_that_it_belongs_to() {
    let written = Rc::new(RefCell::new(Vec::new()));
    let kept = Rc::clone(&written);
    let mut sink = PlainLines::new(Box::new(move |line| match line {
        Line::Note(text) | Line::Warning(text) => kept.borrow_mut().push(text),
    }));
    let overall =
        |position: &str| Event::Overall { position: position.into(), left: "about 12 min left".into() };
    sink.emit(overall("part 1 of 7"));
    sink.emit(Event::PhaseStarted { phase: "answers of the base model".into(), total: Some(100) });
    // As if the interval between two lines had passed.
    sink.last_line = None;
    sink.emit(Event::Progress { done: 3, note: String::new() });
    sink.emit(overall(""));
    sink.emit(Event::PhaseStarted { phase: "reading".into(), total: None });
    let expected = [
        "part 1 of 7: answers of the base model ...",
        "part 1 of 7: answers of the base model, 3 %, measuring the pace",
        "reading ...",
    ];
    assert_eq!(*written.borrow(), expected);
}

#[test]
fn how_far_all_work_is_stands_above_the_bars_until_it_ends() {
    let screen = MultiProgress::with_draw_target(ProgressDrawTarget::term_like(Box::new(Unseen)));
    let mut bars = Bars::new(Printer::new(false, true), screen);
    let shown = |bars: &Bars| bars.overall.as_ref().map(ProgressBar::message);
    for (position, left, expected) in [
        ("part 1 of 7", "", Some("part 1 of 7")),
        (
            "part 2 of 7",
            "about 12 min left of all parts",
            Some("part 2 of 7, about 12 min left of all parts"),
        ),
        ("", "", None),
    ] {
        bars.emit(Event::Overall { position: position.into(), left: left.into() });
        assert_eq!(shown(&bars).as_deref(), expected);
    }
}

#[test]
fn a_step_reads_as_one_line() {
    let values = [("loss", 1.23456), ("learning_rate", 1e-5), ("tokens_per_second", 151.7), ("other", 1.0)];
    let values = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    assert_eq!(figures(&values), "loss 1.2346, rate 1.00e-5, 152 tokens/s");
}

/// What the plain lines say of these events.
fn lines(events: impl IntoIterator<Item = Event>) -> Vec<String> {
    let written = Rc::new(RefCell::new(Vec::new()));
    let kept = Rc::clone(&written);
    let mut sink = PlainLines::new(Box::new(move |line| match line {
        Line::Note(text) | Line::Warning(text) => kept.borrow_mut().push(text),
    }));
    events.into_iter().for_each(|event| sink.emit(event));
    drop(sink);
    written.take()
}

fn metrics(step: u64, values: &[(&str, f64)]) -> Event {
    let values = values.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    Event::Metrics { step, values }
}

#[test]
fn steps_of_a_policy_have_a_line_each_without_a_terminal() {
    let step = |n: u64, reward: f64| {
        let part =
            |part: &str| Event::PhaseStarted { phase: format!("step {n} of 3: {part}"), total: Some(8) };
        let values = [("reward", reward), ("kl", 0.0123), ("completions/mean_length", 87.6), ("loss", 1e-3)];
        [
            part("sampling rollouts"),
            Event::PhaseFinished,
            part("updating the policy"),
            Event::Progress { done: 8, note: String::new() },
            Event::PhaseFinished,
            metrics(n, &values),
        ]
    };
    let written = lines(step(1, 0.25).into_iter().chain(step(2, 0.5)).chain(step(3, 0.75)));
    assert_eq!(
        written,
        [
            "step 1 of 3: reward 0.250, KL 0.0123, length 88; measuring the pace",
            "step 2 of 3: reward 0.500, KL 0.0123, length 88; measuring the pace",
            "step 3 of 3: reward 0.750, KL 0.0123, length 88",
        ]
    );
    assert!(written.iter().all(|line| line.len() <= 80));
}

#[test]
fn a_line_of_a_step_has_the_figures_of_that_step() {
    let begin = |phase: &str, total| Event::PhaseStarted { phase: phase.into(), total: Some(total) };
    let step = |step: u64, loss: f64| {
        let note = format!("step {step} of 4");
        [Event::Progress { done: 10 * step, note }, metrics(step, &[("loss", loss)])]
    };
    let mut events = vec![begin("training", 40)];
    for (n, loss) in [(1, 1.5082), (2, 4.4385), (3, 0.4255)] {
        events.extend(step(n, loss));
    }
    events.extend([begin("evaluating", 1), Event::PhaseFinished, metrics(3, &[("eval_loss", 0.5)])]);
    events.extend([begin("training", 10), Event::Progress { done: 10, note: "step 4 of 4".into() }]);
    events.extend([metrics(4, &[("loss", 0.125)]), Event::PhaseFinished]);
    let written: Vec<String> =
        lines(events).into_iter().filter(|line| line.contains("step") || line.contains("loss")).collect();
    // The first step, the one before an evaluation, and the last.
    assert_eq!(
        written,
        [
            "step 1 of 4: loss 1.5082; measuring the pace",
            "step 3 of 4: loss 0.4255; measuring the pace",
            "after step 3: held-out loss 0.5000",
            "step 4 of 4: loss 0.1250",
        ]
    );
}

#[test]
fn evaluations_are_never_a_bare_step() {
    let written = lines([
        metrics(0, &[("eval_reward", 0.4), ("eval_pass_rate", 0.25)]),
        metrics(20, &[("eval_loss", 1.5)]),
        metrics(0, &[("eval_unscored", 3.0)]),
    ]);
    assert_eq!(
        written,
        [
            "before training: held-out reward 0.400, pass rate 0.250",
            "after step 20: held-out loss 1.5000",
            "before training: evaluated",
        ]
    );
}

#[test]
fn saved_paths_are_clean() {
    let saved = Event::Saved { what: "model".into(), path: "recipes/./runs//a/model".into() };
    assert_eq!(lines([saved]), ["saved model: recipes/runs/a/model"]);
}

#[test]
fn only_parts_of_numbered_steps_are_parts_of_a_run() {
    let found = PartOfStep::of("step 12 of 60: sampling rollouts").unwrap();
    assert_eq!((found.step, found.n_steps, found.part), (12, 60, "sampling rollouts"));
    for other in ["training", "evaluating", "step by step: reading", "step 3 of 60", "step x of 3: a"] {
        assert!(PartOfStep::of(other).is_none(), "{other}");
    }
}
