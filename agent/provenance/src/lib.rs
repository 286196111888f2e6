//! Materials of a build, its SLSA predicate, and the one place that redacts credentials.
//!
//! Ops and frontends add what they used to a [`Capture`]; captures of the parts of a build merge; the
//! predicate is made from the sum. The shapes follow SLSA provenance v1 and v0.2 with BuildKit's
//! extensions (build types `…/slsa-definitions.md` and `https://mobyproject.org/buildkit@v1`).
//!
//! Invariant: whatever enters a capture has gone through [`redact`]; values of secrets never enter.

mod capture;
mod predicate;
mod redact;
mod scrub;

pub use capture::{Capture, GitMaterial, HttpMaterial, ImageMaterial, Named};
pub use predicate::{Level, MaxDetails, Run, SlsaVersion, image_url, predicate};
pub use redact::redact;
pub use scrub::scrub;
