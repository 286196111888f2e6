//! Attaching details and a kind to an error, and reading them back from a chain.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::{Detail, Kind};

/// An error that several waiters share.
pub type SharedError = Arc<dyn Error + Send + Sync + 'static>;

/// An error with typed details, and with a kind where the details don't imply one. It prints as the
/// error that it holds.
#[derive(Clone)]
pub struct WithDetail {
    error: SharedError,
    details: Vec<Detail>,
    kind: Option<Kind>,
}

impl WithDetail {
    /// Attaches `detail` to `error`.
    pub fn new(error: SharedError, detail: Detail) -> Self {
        Self {
            error,
            details: vec![detail],
            kind: None,
        }
    }

    /// Says what sort of failure `error` is.
    pub fn kind(error: SharedError, kind: Kind) -> Self {
        Self {
            error,
            details: Vec::new(),
            kind: Some(kind),
        }
    }

    /// An error that is only a text and a kind.
    pub fn message(kind: Kind, text: impl Into<String>) -> Self {
        Self::kind(Arc::new(Message(text.into())), kind)
    }

    /// Adds a detail.
    pub fn and(mut self, detail: Detail) -> Self {
        self.details.push(detail);
        self
    }

    /// As the type that operations return.
    pub fn shared(self) -> SharedError {
        Arc::new(self)
    }

    /// The error without the details.
    pub fn inner(&self) -> &SharedError {
        &self.error
    }
}

impl fmt::Debug for WithDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithDetail")
            .field("error", &self.error)
            .field("details", &self.details)
            .field("kind", &self.kind)
            .finish()
    }
}

impl fmt::Display for WithDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for WithDetail {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

#[derive(Debug)]
struct Message(String);

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Message {}

/// Calls `see` with each error of the chain, from the outside in; the insides of a [`WithDetail`] and
/// of shared errors are part of the chain.
fn walk<'a>(
    error: &'a (dyn Error + 'static),
    see: &mut dyn FnMut(&'a (dyn Error + 'static)) -> bool,
) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if !see(error) {
            return false;
        }
        if let Some(with) = error.downcast_ref::<WithDetail>() {
            return walk(with.error.as_ref(), see);
        }
        if let Some(shared) = error.downcast_ref::<SharedError>() {
            return walk(shared.as_ref(), see);
        }
        next = error.source();
    }
    true
}

/// All details of the chain, the outermost first. A status that came from another daemon or a client
/// contributes its own.
pub fn details(error: &(dyn Error + 'static)) -> Vec<Detail> {
    let mut found = Vec::new();
    walk(error, &mut |link| {
        if let Some(with) = link.downcast_ref::<WithDetail>() {
            found.extend(with.details.iter().cloned());
        } else if let Some(status) = link.downcast_ref::<tonic::Status>() {
            found.extend(crate::details_of_status(status));
        }
        true
    });
    found
}

/// The kind that the chain names first. A failure that nobody classified is one of the build.
pub fn kind(error: &(dyn Error + 'static)) -> Kind {
    let mut found = None;
    walk(error, &mut |link| {
        if let Some(with) = link.downcast_ref::<WithDetail>() {
            found = with.kind;
        } else if let Some(status) = link.downcast_ref::<tonic::Status>() {
            found = Some(status.code().into());
        } else if let Some(io) = link.downcast_ref::<std::io::Error>() {
            found = match io.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    Some(Kind::Exhausted)
                }
                _ => None,
            };
        }
        found.is_none()
    });
    found.unwrap_or(Kind::Build)
}

/// Whether the chain says that the work was stopped on purpose.
pub fn has_cancelled(error: &(dyn Error + 'static)) -> bool {
    kind(error) == Kind::Cancelled
}

/// The whole text: each link's own words joined by `": "`. A link that only repeats the one before
/// it (`#[error(transparent)]`, a shared error) is said once.
pub fn text(error: &(dyn Error + 'static)) -> String {
    let mut said = String::new();
    let mut last = String::new();
    walk(error, &mut |link| {
        let words = link
            .downcast_ref::<tonic::Status>()
            .map_or_else(|| link.to_string(), |status| status.message().to_owned());
        if words != last && !words.is_empty() {
            if !said.is_empty() {
                said.push_str(": ");
            }
            said.push_str(&words);
            last = words;
        }
        true
    });
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to solve")]
    struct Outer(#[source] WithDetail);

    fn chain() -> Outer {
        let inner = WithDetail::message(Kind::NotFound, "no such file").and(Detail::Vertex {
            digest: "sha256:1".into(),
        });
        Outer(WithDetail::new(
            inner.shared(),
            Detail::Subrequest { name: "x".into() },
        ))
    }

    #[test]
    fn details_are_found_through_nesting_in_order() {
        assert_eq!(
            details(&chain()),
            [
                Detail::Subrequest { name: "x".into() },
                Detail::Vertex {
                    digest: "sha256:1".into()
                }
            ]
        );
    }

    #[test]
    fn the_first_kind_wins_and_is_build_by_default() {
        assert_eq!(kind(&chain()), Kind::NotFound);
        assert_eq!(kind(&std::fmt::Error), Kind::Build);
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(kind(&full), Kind::Exhausted);
    }

    #[test]
    fn text_says_each_link_once() {
        assert_eq!(text(&chain()), "failed to solve: no such file");
        let shared: SharedError = Arc::new(chain());
        assert_eq!(text(&shared), "failed to solve: no such file");
    }
}
