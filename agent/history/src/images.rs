//! Which builds made images, and which used them, from what is in memory.
//!
//! ```text
//!  a build's response and results ──► digests that it made
//!  details: what its sources turned out to be ──► digests that it used
//! ```
//! Invariant: no blob is read, so that a list of images costs one pass over the records.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kiln_oci::Digest;
use kiln_proto::moby::buildkit::v1 as control;

use crate::record::{moment, results};
use crate::store::{Finished, Record};

/// What the exporter answers with the digest of the image that it wrote.
const IMAGE_DIGEST: &str = "containerimage.digest";

/// The builds of the images that are wanted: of several that came to the same image, the first.
pub(crate) fn makers<'a>(
    builds: impl Iterator<Item = &'a Finished>,
    wanted: &BTreeSet<Digest>,
) -> HashMap<Digest, String> {
    let mut first: HashMap<Digest, &control::BuildHistoryRecord> = HashMap::new();
    for record in builds.map(|build| &build.record) {
        for digest in made(record).filter(|digest| wanted.contains(digest)) {
            let earliest = first.entry(digest).or_insert(record);
            if begun(record) < begun(earliest) {
                *earliest = record;
            }
        }
    }
    first
        .into_iter()
        .map(|(digest, record)| (digest, record.r#ref.clone()))
        .collect()
}

/// The builds that had one of the images among their sources, the newest first.
pub(crate) fn users<'a>(
    builds: impl Iterator<Item = &'a Finished>,
    images: &BTreeSet<Digest>,
) -> Vec<Record> {
    let mut users: Vec<Record> = builds
        .filter(|build| {
            build
                .details
                .images
                .iter()
                .any(|used| images.contains(used))
        })
        .map(|build| Arc::clone(&build.record))
        .collect();
    users.sort_by_key(|record| std::cmp::Reverse(begun(record)));
    users
}

fn begun(record: &control::BuildHistoryRecord) -> (i64, i32) {
    moment(record.created_at.as_ref())
}

/// The images that a build made: the whole, and its parts.
fn made(record: &control::BuildHistoryRecord) -> impl Iterator<Item = Digest> {
    let whole = record.exporter_response.get(IMAGE_DIGEST);
    results(record)
        .into_iter()
        .chain(whole.and_then(|digest| digest.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Details;

    fn build(name: &str, seconds: i64, made: &str, used: &[&str]) -> Finished {
        let record = control::BuildHistoryRecord {
            r#ref: name.to_owned(),
            created_at: Some(kiln_proto::google::protobuf::Timestamp { seconds, nanos: 0 }),
            exporter_response: [(IMAGE_DIGEST.to_owned(), Digest::of(made).to_string())].into(),
            ..Default::default()
        };
        let details = Details {
            images: used.iter().map(Digest::of).collect(),
            ..Details::default()
        };
        Finished {
            record: Arc::new(record),
            details: Arc::new(details),
        }
    }

    #[test]
    fn the_first_build_of_an_image_made_it_and_the_newest_user_comes_first() {
        let builds = [
            build("again", 30, "app", &["base"]),
            build("first", 10, "app", &["base", "other"]),
            build("another", 20, "tool", &["other"]),
        ];
        let set = |names: &[&str]| names.iter().map(Digest::of).collect::<BTreeSet<_>>();
        let makers = makers(builds.iter(), &set(&["app", "base"]));
        assert_eq!(makers, [(Digest::of("app"), "first".to_owned())].into());
        let names = |images: &[&str]| -> Vec<String> {
            let users = users(builds.iter(), &set(images));
            users.iter().map(|record| record.r#ref.clone()).collect()
        };
        assert_eq!(names(&["base"]), ["again", "first"]);
        assert_eq!(names(&["base", "other"]), ["again", "another", "first"]);
        assert!(names(&["app"]).is_empty());
    }

    #[test]
    fn platforms_of_an_image_count_as_made() {
        let part = control::Descriptor {
            digest: Digest::of("part").to_string(),
            ..Default::default()
        };
        let result = control::BuildResultInfo {
            results: [(0, part)].into(),
            ..Default::default()
        };
        let record = control::BuildHistoryRecord {
            results: [("linux/arm64".to_owned(), result)].into(),
            ..Default::default()
        };
        assert_eq!(made(&record).collect::<Vec<_>>(), [Digest::of("part")]);
    }
}
