//! The loop: damage, read, keep what is new; and what happens when a promise is broken.

use std::any::Any;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use crate::Target;
use crate::mutate::{Random, mutate};

/// An input that takes longer than this breaks a promise, even unoptimised and on a busy machine.
const LONGEST: Duration = Duration::from_secs(10);
/// Small, so that recursion without bounds shows.
const STACK: usize = 1 << 20;
/// What was kept last is damaged most.
const KEPT: usize = 4096;

/// What a run did.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Inputs that were read.
    pub inputs: u64,
    /// Different things that became of them.
    pub outcomes: usize,
}

/// An input that broke a promise.
#[derive(Debug)]
pub struct Found {
    /// The bytes.
    pub input: Vec<u8>,
    /// Which promise.
    pub what: String,
}

/// Reads one input, which must keep all promises.
pub fn replay(target: &Target, input: &[u8]) -> Result<(), Box<Found>> {
    let (target, input) = (*target, input.to_vec());
    on_small_stack(move || one(&target, &input).map(drop))
}

/// Reads the seeds and then damaged ones, until the time is over or so many were read.
pub fn fuzz(target: &Target, seed: u64, time: Duration, inputs: u64) -> Result<Report, Box<Found>> {
    let target = *target;
    on_small_stack(move || run(&target, seed, time, inputs))
}

fn on_small_stack<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Box<Found>> + Send + 'static,
) -> Result<T, Box<Found>> {
    let failed = |what: String| {
        Box::new(Found {
            input: Vec::new(),
            what,
        })
    };
    thread::Builder::new()
        .stack_size(STACK)
        .spawn(work)
        .map_err(|error| failed(error.to_string()))?
        .join()
        .map_err(|panic| failed(text(panic.as_ref())))?
}

fn run(target: &Target, seed: u64, time: Duration, inputs: u64) -> Result<Report, Box<Found>> {
    let start = Instant::now();
    let mut random = Random::new(seed);
    let mut pool = (target.seeds)();
    let mut outcomes = HashSet::new();
    let mut count = 0;
    for input in &pool {
        outcomes.insert(one(target, input)?);
        count += 1;
    }
    while count < inputs && start.elapsed() < time {
        let recent = pool.len().saturating_sub(32);
        let from = if random.below(2) == 0 { 0 } else { recent };
        let mut input = random.pick(&pool[from..]).cloned().unwrap_or_default();
        mutate(&mut random, &mut input, &pool, target.words);
        if outcomes.insert(one(target, &input)?) && pool.len() < KEPT {
            pool.push(input);
        }
        count += 1;
    }
    Ok(Report {
        inputs: count,
        outcomes: outcomes.len(),
    })
}

fn one(target: &Target, input: &[u8]) -> Result<String, Box<Found>> {
    let found = |what| {
        Box::new(Found {
            input: input.to_vec(),
            what,
        })
    };
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.read)(input)))
        .map_err(|panic| found(text(panic.as_ref())))?;
    let took = start.elapsed();
    if took > LONGEST {
        return Err(found(format!("it took {took:?}")));
    }
    Ok(shape(&outcome))
}

/// The words of an outcome without what was in the input.
fn shape(outcome: &str) -> String {
    let letters = outcome
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c });
    letters
        .filter(|c| c.is_ascii_alphabetic() || matches!(c, ' ' | '0' | ':'))
        .take(64)
        .collect()
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it panicked".to_owned())
}
