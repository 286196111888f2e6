//! BuildKit's typed error details to and from gRPC status.
//!
//! ```text
//! library error ──► WithDetail(Vertex, WithDetail(Source, …)) ──► to_status ──► grpc-status-details-bin
//!                                                                                  │
//!            Details of a failed call ◄──────────────────────── from_status ◄─────┘
//! ```
//!
//! A detail is JSON inside a protobuf `Any`; the type URL names it (`…/errdefs.Vertex+json`). Clients
//! print the Dockerfile excerpt from the `Source` details. Invariants: a [`WithDetail`] adds no words;
//! the text of a chain of errors is each link's own text joined by `": "`, once.

mod detail;
mod kind;
mod status;
mod with;

pub use detail::{Detail, Source};
pub use kind::Kind;
pub use status::{details_of_status, to_build_status, to_status};
pub use with::{SharedError, WithDetail, details, has_cancelled, kind, text};
