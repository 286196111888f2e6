//! The names that progress displays show for ops that nobody named.

use kiln_proto::pb;
use kiln_proto::pb::{file_action::Action, op::Op};

use crate::Edge;

/// Names of merges contain the names of their inputs, which would double with each level.
const LONGEST: usize = 4096;

/// The name of an op whose inputs are named already.
pub(crate) fn of_op(op: &pb::Op, inputs: &[Edge]) -> String {
    let name = match &op.op {
        Some(Op::Source(source)) => source.identifier.clone(),
        Some(Op::Exec(exec)) => exec
            .meta
            .as_ref()
            .map_or_else(String::new, |meta| meta.args.join(" ")),
        Some(Op::File(file)) => file
            .actions
            .iter()
            .filter_map(|action| action.action.as_ref().map(of_action))
            .collect::<Vec<_>>()
            .join(", "),
        Some(Op::Build(_)) => "build".to_owned(),
        Some(Op::Merge(_)) => format!("merge ({})", join_within(inputs)),
        Some(Op::Diff(diff)) => format!(
            "diff {} -> {}",
            diff_side(diff.lower.map(|side| side.input), inputs),
            diff_side(diff.upper.map(|side| side.input), inputs)
        ),
        None => "unknown".to_owned(),
    };
    shorten(name)
}

fn join_within(inputs: &[Edge]) -> String {
    let mut joined = String::new();
    for (i, input) in inputs.iter().enumerate() {
        if i > 0 {
            joined.push_str(", ");
        }
        joined.push_str(input.vertex.shown_name());
        if joined.len() > LONGEST {
            break;
        }
    }
    joined
}

fn diff_side(input: Option<i64>, inputs: &[Edge]) -> String {
    input
        .and_then(|index| usize::try_from(index).ok())
        .and_then(|index| inputs.get(index))
        .map_or_else(
            || "scratch".to_owned(),
            |edge| format!("({})", edge.vertex.shown_name()),
        )
}

fn of_action(action: &Action) -> String {
    match action {
        Action::Mkdir(a) => format!("mkdir {}", a.path),
        Action::Mkfile(a) => format!("mkfile {}", a.path),
        Action::Symlink(a) => format!("symlink {} -> {}", a.newpath, a.oldpath),
        Action::Rm(a) => format!("rm {}", a.path),
        Action::Copy(a) => format!("copy {} {}", a.src, a.dest),
    }
}

fn shorten(mut name: String) -> String {
    if name.len() > LONGEST {
        name.truncate(name.floor_char_boundary(LONGEST));
        name.push('…');
    }
    name
}
