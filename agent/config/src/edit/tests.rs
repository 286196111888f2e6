//! What a form sets, and what it leaves alone.

use std::time::Duration;

use super::*;
use crate::{Seconds, TlsKeyPair};

const WRITTEN: &str = r#"# mine
debug = true

[history]
  maxEntries = 20 # enough
[registry."docker.io"]
  mirrors = ["old.example"] # slow
  [[registry."docker.io".keypair]]
    key = "/k.pem"
    cert = "/c.pem"
[worker.oci]
  max-parallelism = 4
  [[worker.oci.gcpolicy]]
    keepBytes = "1GB"
"#;

fn edited(text: &str, edit: impl FnOnce(&mut ConfigText)) -> (String, BuildkitdConfig) {
    let mut open = ConfigText::parse(text).unwrap();
    edit(&mut open);
    let text = open.finish().unwrap();
    let config = crate::parse(&text, name()).unwrap();
    (text, config)
}

#[test]
fn history_is_set_and_let_go() {
    let history = HistoryConfig {
        max_age: Some(Seconds(Duration::from_secs(30 * 86_400))),
        max_entries: Some(500),
        max_size: Some(DiskSpace::Bytes(2 << 30)),
    };
    for text in [WRITTEN, ""] {
        let (_, config) = edited(text, |open| open.set_history(&history));
        assert_eq!(config.history, history);
    }
    let (text, config) = edited(WRITTEN, |open| open.set_history(&history));
    assert!(
        text.starts_with("# mine\n") && text.contains("maxEntries = 500 # enough"),
        "{text}"
    );
    assert_eq!(config.worker.oci.max_parallelism, 4);
    let (text, config) = edited(WRITTEN, |open| open.set_history(&HistoryConfig::default()));
    assert_eq!(config.history, HistoryConfig::default());
    assert!(!text.contains("[history]"), "{text}");
}

#[test]
fn a_registry_keeps_its_client_certificates() {
    let registry = RegistryConfig {
        mirrors: vec!["mirror.example/hub".into()],
        insecure: Some(true),
        ca: vec!["/etc/ca.pem".into()],
        ..RegistryConfig::default()
    };
    let (text, config) = edited(WRITTEN, |open| {
        open.set_registry("docker.io", Some(&registry));
        open.set_registry("127.0.0.1:5000", Some(&registry));
    });
    assert_eq!(config.registries["127.0.0.1:5000"], registry);
    let hub = &config.registries["docker.io"];
    assert_eq!((&hub.mirrors, &hub.ca), (&registry.mirrors, &registry.ca));
    assert_eq!(hub.keypair[0].key, Path::new("/k.pem"));
    assert!(
        text.contains("# slow") && !text.contains("\n[registry]"),
        "{text}"
    );

    let (text, config) = edited(&text, |open| {
        open.set_registry("docker.io", None);
        open.set_registry("127.0.0.1:5000", Some(&RegistryConfig::default()));
    });
    assert!(config.registries.is_empty(), "{text}");
}

#[test]
fn rules_are_replaced_and_the_rest_of_the_worker_stays() {
    let rule = GcPolicyConfig {
        all: true,
        filters: vec!["type==source.local,type==exec.cachemount".into()],
        keep_duration: Some(Seconds(Duration::from_hours(48))),
        max_used_space: Some(DiskSpace::Bytes(20_000_000_000)),
        min_free_space: Some(DiskSpace::Percent(20)),
        reserved_space: Some(DiskSpace::Bytes(5)),
        keep_bytes: None,
    };
    for text in [WRITTEN, "", "[worker.oci]\ngcpolicy = [{ all = true }]\n"] {
        let (_, config) = edited(text, |open| {
            open.set_gc_policies(&[rule.clone(), GcPolicyConfig::default()]);
        });
        assert_eq!(
            config.worker.oci.gc_policy,
            [rule.clone(), GcPolicyConfig::default()]
        );
        let (text, config) = edited(text, |open| open.set_gc_policies(&[]));
        assert!(config.worker.oci.gc_policy.is_empty(), "{text}");
    }
    let (text, config) = edited(WRITTEN, |open| open.set_gc_policies(&[rule]));
    assert_eq!(config.worker.oci.max_parallelism, 4, "{text}");
}

#[test]
fn files_of_registries_get_other_names() {
    let inline = "[registry.\"x\"]\nca = [\"/a.pem\", \"/b.pem\"]\nkeypair = [{ key = \"/k\", cert = \"/c\" }]\n";
    let rename = |path: &Path| Path::new("/run").join(path.strip_prefix("/").unwrap_or(path));
    let (_, config) = edited(inline, |open| open.rename_registry_files(rename));
    let x = &config.registries["x"];
    assert_eq!(x.ca, [Path::new("/run/a.pem"), Path::new("/run/b.pem")]);
    let pair = TlsKeyPair {
        key: "/run/k".into(),
        cert: "/run/c".into(),
    };
    assert_eq!(x.keypair, [pair]);
    let (_, config) = edited(WRITTEN, |open| open.rename_registry_files(rename));
    assert_eq!(
        config.registries["docker.io"].keypair[0].cert,
        Path::new("/run/c.pem")
    );
}

#[test]
fn a_directory_of_certificates_becomes_its_files() {
    let root = tempfile::tempdir().unwrap();
    let file = |name: &str| root.path().join(name);
    for name in ["ca.crt", "me.cert", "me.key", "notes"] {
        std::fs::write(file(name), "").unwrap();
    }
    let pair = TlsKeyPair {
        key: file("me.key"),
        cert: file("me.cert"),
    };
    let before = TlsKeyPair {
        key: "/k".into(),
        cert: "/c".into(),
    };
    let others = [
        "keypair = [{ key = \"/k\", cert = \"/c\" }]\nca = [\"/a\"]\n",
        "ca = [\"/a\"]\n[[registry.\"x\".keypair]]\nkey = \"/k\"\ncert = \"/c\"\n",
    ];
    for others in others {
        let text = format!(
            "[registry.\"x\"]\ntlsconfigdir = [{:?}]\n{others}",
            root.path()
        );
        let (_, config) = edited(&text, |open| {
            open.list_tls_directories(crate::TlsDirectory::list)
                .unwrap();
        });
        let x = &config.registries["x"];
        assert_eq!(x.ca, [Path::new("/a"), &file("ca.crt")]);
        assert_eq!(x.keypair, [before.clone(), pair.clone()]);
        assert!(x.tlsconfigdir.is_empty());
    }
    let alone = format!("[registry.\"x\"]\ntlsconfigdir = [{:?}]\n", root.path());
    let (_, config) = edited(&alone, |open| {
        open.list_tls_directories(crate::TlsDirectory::list)
            .unwrap();
    });
    assert_eq!(config.registries["x"].keypair, [pair]);
    let mut gone = ConfigText::parse("[registry.x]\ntlsconfigdir = [\"/nowhere\"]").unwrap();
    gone.list_tls_directories(crate::TlsDirectory::list)
        .unwrap_err();
}

#[test]
fn what_is_no_configuration_is_not_edited() {
    for text in ["[", "typo = 1"] {
        ConfigText::parse(text).unwrap_err();
    }
}
