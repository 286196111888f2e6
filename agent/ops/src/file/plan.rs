//! In which order actions run, and which results are committed.
//!
//! An index below the number of inputs names an input, the others name results of actions. A result that
//! one action takes as its first input, and nobody else, is worked on in place; a result that is an
//! output, or taken twice, is committed.

use std::collections::BTreeMap;

use kiln_proto::pb;

use super::error::FileError;

/// Where an action's input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// Nothing: an empty state.
    Scratch,
    /// An input of the op.
    Input(usize),
    /// The result of an action.
    Action(usize),
}

/// One action with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) action: usize,
    pub(super) input: From,
    pub(super) secondary: From,
    /// Whether the result becomes a state of its own.
    pub(super) commits: bool,
}

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// In an order in which each finds its inputs.
    pub(super) steps: Vec<Planned>,
    /// The action that makes each output.
    pub(super) outputs: Vec<usize>,
    count: usize,
}

impl Plan {
    pub(super) fn new(actions: &[pb::FileAction], inputs: usize) -> Result<Self, FileError> {
        let count = inputs + actions.len();
        let mut planned = Vec::with_capacity(actions.len());
        let mut taken = vec![0usize; actions.len()];
        let mut outputs = BTreeMap::new();
        for (index, action) in actions.iter().enumerate() {
            let input = from(action.input, inputs, count)?;
            let secondary = from(action.secondary_input, inputs, count)?;
            for from in [input, secondary] {
                if let From::Action(action) = from {
                    taken[action] += 1;
                }
            }
            if action.output != -1 && outputs.insert(action.output, index).is_some() {
                return Err(FileError::DuplicateOutput(action.output));
            }
            planned.push(Planned {
                action: index,
                input,
                secondary,
                commits: false,
            });
        }
        if outputs.is_empty() {
            return Err(FileError::NoOutputs);
        }
        for (want, got) in outputs.keys().enumerate() {
            if *got != want as i64 {
                return Err(FileError::MissingOutput(want));
            }
        }
        let outputs: Vec<usize> = outputs.into_values().collect();
        for (index, action) in planned.iter_mut().enumerate() {
            action.commits = taken[index] > 1 || outputs.contains(&index);
        }
        Ok(Self {
            steps: in_order(&planned, &outputs, inputs)?,
            outputs,
            count,
        })
    }

    /// What a user's or group's name is looked up in.
    pub(super) fn user_input(&self, index: i64, inputs: usize) -> Result<From, FileError> {
        if index < 0 {
            return Err(FileError::UserInput(index));
        }
        from(index, inputs, self.count)
    }
}

fn from(index: i64, inputs: usize, count: usize) -> Result<From, FileError> {
    if index == -1 {
        return Ok(From::Scratch);
    }
    match usize::try_from(index) {
        Ok(index) if index < inputs => Ok(From::Input(index)),
        Ok(index) if index < count => Ok(From::Action(index - inputs)),
        _ => Err(FileError::Input { index, count }),
    }
}

/// The actions that outputs need, inputs first.
fn in_order(
    planned: &[Planned],
    outputs: &[usize],
    inputs: usize,
) -> Result<Vec<Planned>, FileError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; planned.len()];
    let mut steps = Vec::new();
    for output in outputs {
        let mut pending = vec![(*output, false)];
        while let Some((index, inputs_done)) = pending.pop() {
            if inputs_done {
                marks[index] = Mark::Done;
                steps.push(planned[index].clone());
                continue;
            }
            match marks[index] {
                Mark::Done => continue,
                Mark::Open => return Err(FileError::Loop(inputs + index)),
                Mark::New => {}
            }
            marks[index] = Mark::Open;
            pending.push((index, true));
            for from in [planned[index].secondary, planned[index].input] {
                if let From::Action(input) = from {
                    if marks[input] == Mark::Open {
                        return Err(FileError::Loop(inputs + input));
                    }
                    pending.push((input, false));
                }
            }
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(input: i64, secondary_input: i64, output: i64) -> pb::FileAction {
        pb::FileAction {
            input,
            secondary_input,
            output,
            action: None,
        }
    }

    #[test]
    fn actions_run_in_order_and_only_outputs_and_shared_results_are_committed() {
        // Two inputs; a chain, a result that two take, and an action that nobody needs.
        let actions = [
            action(0, 1, -1),
            action(2, -1, -1),
            action(3, -1, 0),
            action(3, -1, 1),
            action(0, -1, -1),
        ];
        let plan = Plan::new(&actions, 2).unwrap();
        let steps: Vec<_> = plan.steps.iter().map(|s| (s.action, s.commits)).collect();
        assert_eq!(steps, [(0, false), (1, true), (2, true), (3, true)]);
        assert_eq!(plan.outputs, [2, 3]);
    }

    #[test]
    fn indexes_that_lead_nowhere_are_refused() {
        for (actions, want) in [
            (vec![action(5, -1, 0)], "invalid input index 5, 2 provided"),
            (
                vec![action(-2, -1, 0)],
                "invalid input index -2, 2 provided",
            ),
            (vec![action(0, 9, 0)], "invalid input index 9, 2 provided"),
            (vec![action(1, -1, 0)], "loop from index 1"),
            (
                vec![action(2, -1, 0), action(1, -1, -1)],
                "loop from index 1",
            ),
            (vec![action(0, -1, -1)], "no outputs specified"),
            (vec![action(0, -1, 1)], "missing output index 0"),
            (
                vec![action(0, -1, 0), action(0, -1, 0)],
                "duplicate output 0",
            ),
        ] {
            assert_eq!(Plan::new(&actions, 1).unwrap_err().to_string(), want);
        }
    }
}
