//! Sizes of images that are made up, over a store of its own.

use kiln_content::ContentStore;
use kiln_oci::Descriptor;
use kiln_store::StateRoot;

use super::*;
use crate::{Details, Project, Retention};

/// The store, and moments that go on.
struct Bed {
    _directory: tempfile::TempDir,
    history: History,
    content: ContentStore,
    moment: i64,
}

impl Bed {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = StateRoot::open(directory.path()).unwrap();
        let content = ContentStore::open(&root).unwrap();
        let history = History::open(&root, content.clone(), Retention::default())
            .await
            .unwrap();
        Self {
            _directory: directory,
            history,
            content,
            moment: 0,
        }
    }

    async fn put(&self, kind: &str, document: &impl serde::Serialize) -> Descriptor {
        let bytes = serde_json::to_vec(document).unwrap();
        let descriptor = Descriptor::of(kind, &bytes);
        self.content.put(bytes.into()).await.unwrap();
        descriptor
    }

    /// A manifest with a config of 10 bytes and layers of these.
    async fn manifest(&self, layers: &[u64]) -> Descriptor {
        let blob = |name: String, size: u64| {
            serde_json::json!({
                "mediaType": "x", "digest": Digest::of(name).to_string(), "size": size,
            })
        };
        let layers: Vec<_> = layers
            .iter()
            .map(|size| blob(format!("layer {size}"), *size))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "config": blob("config".into(), 10), "layers": layers,
        });
        self.put(media_type::OCI_MANIFEST, &manifest).await
    }

    /// A build of the project whose only output is that image of that name.
    fn build(&mut self, project: &str, name: &str, image: Option<&Descriptor>) -> Finished {
        self.moment += 1;
        let reference = format!("build {}", self.moment);
        let results = image.map(|image| control::BuildResultInfo {
            results: [(
                0,
                control::Descriptor {
                    media_type: image.media_type.clone(),
                    digest: image.digest.to_string(),
                    size: 1,
                    ..Default::default()
                },
            )]
            .into(),
            ..Default::default()
        });
        let record = control::BuildHistoryRecord {
            r#ref: reference.clone(),
            created_at: Some(kiln_proto::google::protobuf::Timestamp {
                seconds: self.moment,
                nanos: 0,
            }),
            exporters: vec![control::Exporter {
                r#type: "image".into(),
                attrs: [("name".to_owned(), name.to_owned())].into(),
            }],
            result: results,
            ..Default::default()
        };
        let details = Details {
            project: Some(Project {
                key: project.into(),
                name: project.into(),
            }),
            ..Details::default()
        };
        drop(self.history.start(record.clone()).complete(record, details));
        self.history.finished(&reference).unwrap()
    }

    async fn sizes(&self, build: &Finished) -> Vec<(u64, Option<(String, u64)>)> {
        let sizes = self.history.sizes(build).await;
        sizes
            .into_iter()
            .map(|one| (one.bytes, one.previous))
            .collect()
    }
}

#[tokio::test]
async fn an_image_is_compared_with_the_last_one_of_its_kind() {
    let mut bed = Bed::new().await;
    let (small, large) = (bed.manifest(&[100]).await, bed.manifest(&[100, 50]).await);
    let first = bed.build("app", "app:1", Some(&small));
    assert_eq!(bed.sizes(&first).await, [(110, None)]);
    // A failure, another project and another image come between.
    bed.build("app", "app:2", None);
    bed.build("tool", "app:2", Some(&large));
    bed.build("app", "other:2", Some(&large));
    let second = bed.build("app", "docker.io/library/app:2", Some(&large));
    let before = Some((first.record.r#ref.clone(), 110));
    assert_eq!(bed.sizes(&second).await, [(160, before)]);
}

#[tokio::test]
async fn an_index_counts_each_blob_once_and_no_statements() {
    let mut bed = Bed::new().await;
    let mut one = bed.manifest(&[100, 7]).await;
    one.platform = Some("linux/amd64".parse().unwrap());
    let mut other = bed.manifest(&[100, 9]).await;
    other.platform = Some("linux/arm64".parse().unwrap());
    let mut statement = bed.manifest(&[1000]).await;
    statement
        .annotations
        .insert(KIND.into(), "attestation-manifest".into());
    let index =
        |manifests: &[&Descriptor]| serde_json::json!({"schemaVersion": 2, "manifests": manifests});
    let both = bed
        .put(media_type::OCI_INDEX, &index(&[&one, &other, &statement]))
        .await;
    let first = bed.build("app", "app", Some(&both));
    assert_eq!(bed.sizes(&first).await, [(126, None)]);
    // For one platform it is another image.
    let single = bed.put(media_type::OCI_INDEX, &index(&[&one])).await;
    let second = bed.build("app", "app", Some(&single));
    assert_eq!(bed.sizes(&second).await, [(117, None)]);
}

#[tokio::test]
async fn what_is_gone_has_no_size() {
    let mut bed = Bed::new().await;
    let gone = Descriptor::of(media_type::OCI_MANIFEST, b"gone");
    let here = bed.manifest(&[100]).await;
    let first = bed.build("app", "app", Some(&here));
    let lost = bed.build("app", "app", Some(&gone));
    assert_eq!(bed.sizes(&lost).await, []);
    let next = bed.build("app", "app", Some(&here));
    // The last one isn't known, and an earlier one isn't the last.
    assert_eq!(bed.sizes(&next).await, [(110, None)]);
    assert_eq!(bed.sizes(&first).await, [(110, None)]);
}
