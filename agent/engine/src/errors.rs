//! What an error needs before a client sees it: its kind, and the place in the source file.

use std::sync::Arc;

use kiln_errdefs::{Detail, Kind, SharedError, Source, WithDetail, details};
use kiln_llb::{DecodeError, Edge, post_order};

#[derive(Debug, thiserror::Error)]
#[error("failed to load LLB")]
struct NotLoaded(#[source] SharedError);

/// A definition that can't be read is the fault of who sent it.
pub(crate) fn bad_definition(error: DecodeError) -> SharedError {
    not_loaded(WithDetail::kind(Arc::new(error), Kind::User).shared())
}

/// A definition that is refused.
pub(crate) fn not_loaded(error: SharedError) -> SharedError {
    Arc::new(NotLoaded(error))
}

/// Adds the locations of the vertex that failed, so that clients print the lines of the Dockerfile.
pub(crate) fn with_locations(error: SharedError, edge: &Edge) -> SharedError {
    let details = details(error.as_ref());
    if details
        .iter()
        .any(|detail| matches!(detail, Detail::Source(_)))
    {
        return error;
    }
    let failed = details.into_iter().find_map(|detail| match detail {
        Detail::Vertex { digest } => Some(digest),
        _ => None,
    });
    let Some(failed) = failed else {
        return error;
    };
    post_order(&edge.vertex)
        .iter()
        .filter(|vertex| vertex.digest.to_string() == failed)
        .flat_map(|vertex| &vertex.options.locations)
        .fold(error, |error, location| {
            WithDetail::new(
                error,
                Detail::Source(Source {
                    info: location.info.as_ref().clone(),
                    ranges: location.ranges.clone(),
                }),
            )
            .shared()
        })
}
