//! Records of several clients, and what they lack.

use super::*;
use crate::view::BuildSummary;

fn record(
    attrs: &[(&str, &str)],
    exporters: &[(&str, &[(&str, &str)])],
) -> control::BuildHistoryRecord {
    let map = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    control::BuildHistoryRecord {
        r#ref: "r1".into(),
        frontend_attrs: map(attrs),
        exporters: exporters
            .iter()
            .map(|(kind, attrs)| control::Exporter {
                r#type: (*kind).into(),
                attrs: map(attrs),
            })
            .collect(),
        ..Default::default()
    }
}

/// A folder with a Dockerfile that mounts a secret, noted as buildx does.
fn shop(root: &Path) -> Local {
    let folder = root.join("shop");
    std::fs::create_dir_all(folder.join("deploy")).unwrap();
    std::fs::write(folder.join("Dockerfile"), "FROM scratch\n").unwrap();
    let text = "FROM scratch\nRUN --mount=type=secret,id=token true\n";
    std::fs::write(folder.join("deploy/worker"), text).unwrap();
    Local {
        folder: folder.display().to_string(),
        dockerfile: folder.join("deploy/worker").display().to_string(),
        request: None,
    }
}

fn rebuilt(
    record: &control::BuildHistoryRecord,
    local: Option<&Local>,
    facts: Facts,
    kept: &[&str],
) -> Rebuild {
    let summary = BuildSummary {
        context: local.map_or(String::new(), |local| local.folder.clone()),
        ..builds::summary(record)
    };
    let kept: Vec<String> = kept.iter().map(|name| (*name).to_owned()).collect();
    checked(of_record(record, &summary, local, facts, &kept))
}

#[test]
fn all_that_a_record_tells_is_there_again() {
    let root = tempfile::tempdir().unwrap();
    let local = shop(root.path());
    let imports = r#"[{"Type":"registry","Attrs":{"ref":"r.example/c"}}]"#;
    let record = record(
        &[
            ("filename", "worker"),
            ("target", "app"),
            ("platform", "linux/arm64"),
            ("build-arg:WORD", "hello"),
            ("label:team", "shop"),
            ("context:base", "docker-image://alpine"),
            ("cache-imports", imports),
        ],
        &[("image", &[("name", "r.example/shop:1"), ("push", "true")])],
    );
    let facts = Facts {
        secrets: vec!["token".into()],
        ssh: vec!["default".into()],
        ..Facts::default()
    };
    let again = rebuilt(&record, Some(&local), facts, &["token"]);
    let pair = |name: &str, value: &str| NameValue {
        name: name.into(),
        value: value.into(),
    };
    let want = BuildRequest {
        context: local.folder.clone(),
        dockerfile: "deploy/worker".into(),
        target: "app".into(),
        args: vec![pair("WORD", "hello")],
        labels: vec![pair("team", "shop")],
        contexts: vec![pair("base", "docker-image://alpine")],
        secrets: vec![SecretSource {
            id: "token".into(),
            source: "keyring".into(),
            value: "token".into(),
        }],
        ssh: vec!["default".into()],
        platforms: vec!["linux/arm64".into()],
        tags: vec!["r.example/shop:1".into()],
        output: "push".into(),
        cache_from: vec!["type=registry,ref=r.example/c".into()],
        ..BuildRequest::default()
    };
    assert_eq!(again.request, want);
    assert_eq!(again.missing, Vec::<String>::new());
    assert_eq!(again.different.len(), 1, "{:?}", again.different);
}

#[test]
fn what_is_not_known_is_said() {
    let root = tempfile::tempdir().unwrap();
    let local = shop(root.path());
    let gone = Local {
        folder: root.path().join("gone").display().to_string(),
        dockerfile: String::new(),
        request: None,
    };
    let no_dockerfile = Local {
        dockerfile: root.path().join("shop/no").display().to_string(),
        ..local.clone()
    };
    let secret = || Facts {
        secrets: vec!["token".into()],
        ..Facts::default()
    };
    let none: &[(&str, &str)] = &[];
    for (what, attrs, exporters, local, facts, missing, different) in [
        (
            "no folder",
            none,
            &[][..],
            None,
            Facts::default(),
            "Which folder",
            "",
        ),
        (
            "gone",
            none,
            &[],
            Some(&gone),
            Facts::default(),
            "isn’t on this computer",
            "",
        ),
        (
            "no Dockerfile",
            none,
            &[],
            Some(&no_dockerfile),
            Facts::default(),
            "is gone",
            "",
        ),
        (
            "a secret",
            none,
            &[],
            Some(&local),
            secret(),
            "secret “token” came from",
            "",
        ),
        (
            "perhaps a secret",
            none,
            &[],
            Some(&local),
            Facts::default(),
            "",
            "gets none for",
        ),
        (
            "files",
            none,
            &[("local", none)],
            Some(&local),
            Facts::default(),
            "Where its files",
            "gets none",
        ),
        (
            "a context",
            &[("context:lib", "local:lib")],
            &[],
            Some(&local),
            Facts::default(),
            "“lib” was a folder",
            "gets none",
        ),
        (
            "the network",
            &[("force-network-mode", "host")],
            &[],
            Some(&local),
            Facts::default(),
            "",
            "network mode (host)",
        ),
        (
            "two outputs",
            none,
            &[("image", none), ("oci", none)],
            Some(&local),
            Facts::default(),
            "",
            "others were oci",
        ),
        (
            "a tar",
            none,
            &[("tar", none)],
            Some(&local),
            Facts::default(),
            "",
            "(tar) is none",
        ),
    ] {
        let again = rebuilt(&record(attrs, exporters), local, facts, &[]);
        for (got, want) in [(&again.missing, missing), (&again.different, different)] {
            let found = got.iter().any(|text| text.contains(want));
            assert!(
                found || (want.is_empty() && got.is_empty()),
                "{what}: {again:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_build_of_the_app_is_known_whole() {
    let root = tempfile::tempdir().unwrap();
    let local = shop(root.path());
    let at = |name: &str| root.path().join(name);
    let controller = Controller::new(kiln_config::HostPaths {
        runtime: at("r"),
        state: at("s"),
        config: at("c"),
    });
    let request = BuildRequest {
        context: local.folder.clone(),
        dockerfile: "deploy/worker".into(),
        output: "local".into(),
        destination: at("out").display().to_string(),
        secrets: vec![SecretSource {
            id: "token".into(),
            source: "file".into(),
            value: at("token").display().to_string(),
        }],
        ..BuildRequest::default()
    };
    controller.notes().keep("ref1", &request).unwrap();
    let again = controller.rebuild("ref1").await.unwrap();
    assert_eq!(again.request, request);
    assert!(again.missing[0].contains("of the secret “token” is gone"));
    std::fs::write(at("token"), "x").unwrap();
    let again = controller.rebuild("ref1").await.unwrap();
    assert_eq!((again.missing.len(), again.different.len()), (0, 0));
}
