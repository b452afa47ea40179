//! A completion and a reference: extracted, parsed and compared; whatever can be read equals itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use truing_reward::verifiers::math_answer::{Verdict, extract_answer, grade, number};

fuzz_target!(|input: (&str, &str)| {
    let (text, reference) = input;
    let answer = extract_answer(text, false).unwrap_or_default();
    let _ = number(&answer);
    let _ = grade(&answer, reference);
    assert_ne!(grade(reference, reference), Verdict::Different, "a text equals itself");
});
