//! Checks of one op by itself, so that those who run it may index its inputs.

use kiln_proto::pb;
use kiln_proto::pb::op::Op;

/// In what an op contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOp {
    /// An exec op says nothing of its process.
    #[error("invalid exec op with no meta")]
    ExecMeta,
    /// An exec op has no command.
    #[error("invalid exec op with no args")]
    ExecArgs,
    /// An exec op has no file system.
    #[error("invalid exec op with no mounts")]
    ExecMounts,
    /// An exec op has file systems, but none at `/`.
    #[error("invalid exec op with no rootfs")]
    ExecRoot,
    /// A mount of an exec op has an output that can't be.
    #[error("invalid output {output} of mount {dest:?}")]
    ExecOutput {
        /// Where it is mounted.
        dest: String,
        /// The output.
        output: i64,
    },
    /// A file op does nothing.
    #[error("invalid file op with no actions")]
    FileActions,
    /// A file action is of no known kind.
    #[error("invalid file action {0} of unknown kind")]
    FileAction(usize),
    /// A file action has an output that can't be.
    #[error("invalid output {output} of file action {action}")]
    FileOutput {
        /// Which action.
        action: usize,
        /// The output.
        output: i64,
    },
    /// A diff op lacks a side.
    #[error("invalid diff op with nil lower or upper input")]
    DiffSide,
    /// Something inside the op names an input that it doesn't have.
    #[error("{what} refers to input {input}, but the op has {inputs}")]
    Input {
        /// What does.
        what: &'static str,
        /// The input it names.
        input: i64,
        /// How many there are.
        inputs: usize,
    },
}

/// Checks an op that has a kind.
pub(crate) fn op(op: &pb::Op) -> Result<(), InvalidOp> {
    let inputs = op.inputs.len();
    match &op.op {
        Some(Op::Exec(exec)) => check_exec(exec, inputs),
        Some(Op::File(file)) => check_file(file, inputs),
        Some(Op::Merge(merge)) => merge
            .inputs
            .iter()
            .try_for_each(|input| within("merge", input.input, inputs)),
        Some(Op::Diff(diff)) => {
            let (Some(lower), Some(upper)) = (diff.lower, diff.upper) else {
                return Err(InvalidOp::DiffSide);
            };
            within_or_none("diff", lower.input, inputs)?;
            within_or_none("diff", upper.input, inputs)
        }
        Some(Op::Build(build)) => {
            within_or_none("build", build.builder, inputs)?;
            build
                .inputs
                .values()
                .try_for_each(|input| within("build", input.input, inputs))
        }
        Some(Op::Source(_)) | None => Ok(()),
    }
}

fn check_exec(exec: &pb::ExecOp, inputs: usize) -> Result<(), InvalidOp> {
    let meta = exec.meta.as_ref().ok_or(InvalidOp::ExecMeta)?;
    if meta.args.is_empty() {
        return Err(InvalidOp::ExecArgs);
    }
    if exec.mounts.is_empty() {
        return Err(InvalidOp::ExecMounts);
    }
    if !exec.mounts.iter().any(|mount| mount.dest == "/") {
        return Err(InvalidOp::ExecRoot);
    }
    for mount in &exec.mounts {
        within_or_none("mount", mount.input, inputs)?;
        if mount.output < -1 || mount.output >= exec.mounts.len() as i64 {
            return Err(InvalidOp::ExecOutput {
                dest: mount.dest.clone(),
                output: mount.output,
            });
        }
    }
    Ok(())
}

fn check_file(file: &pb::FileOp, inputs: usize) -> Result<(), InvalidOp> {
    if file.actions.is_empty() {
        return Err(InvalidOp::FileActions);
    }
    for (index, action) in file.actions.iter().enumerate() {
        // An action may read what the actions before it made, numbered after the inputs.
        let readable = inputs + index;
        within_or_none("file action", action.input, readable)?;
        within_or_none("file action", action.secondary_input, readable)?;
        if action.action.is_none() {
            return Err(InvalidOp::FileAction(index));
        }
        if action.output < -1 || action.output >= file.actions.len() as i64 {
            return Err(InvalidOp::FileOutput {
                action: index,
                output: action.output,
            });
        }
    }
    Ok(())
}

fn within(what: &'static str, input: i64, inputs: usize) -> Result<(), InvalidOp> {
    if (0..inputs as i64).contains(&input) {
        return Ok(());
    }
    Err(InvalidOp::Input {
        what,
        input,
        inputs,
    })
}

fn within_or_none(what: &'static str, input: i64, inputs: usize) -> Result<(), InvalidOp> {
    if input == -1 {
        return Ok(());
    }
    within(what, input, inputs)
}
