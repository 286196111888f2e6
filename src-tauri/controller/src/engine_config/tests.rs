//! Forms, and the text that the machine's settings keep.

use super::*;
use crate::fake_host::FakeHost;

#[tokio::test]
async fn retention_is_kept_in_the_machines_settings() {
    let host = FakeHost::default();
    host.settings.lock().unwrap().buildkitd_toml = "# mine\ndebug = true\n".into();
    let (_directory, controller) = host.serve();
    assert_eq!(controller.retention().await.unwrap(), Retention::default());
    let wanted = Retention {
        max_age_days: 30,
        max_entries: 500,
        max_bytes: 2_000_000_000,
    };
    let waiting = controller.save_retention(wanted.clone()).await.unwrap();
    assert_eq!(waiting, ["buildkitd-toml"]);
    assert_eq!(controller.retention().await.unwrap(), wanted);
    assert!(host.toml().starts_with("# mine\n"), "{}", host.toml());
    // The same once more is no change, and waits for nothing.
    assert!(controller.save_retention(wanted).await.unwrap().is_empty());
    controller
        .save_retention(Retention::default())
        .await
        .unwrap();
    assert_eq!(host.toml().trim(), "# mine\ndebug = true");
}

#[tokio::test]
async fn a_text_that_is_no_configuration_is_not_touched() {
    let host = FakeHost::default();
    host.settings.lock().unwrap().buildkitd_toml = "typo = 1".into();
    let (_directory, controller) = host.serve();
    let failure = controller
        .save_retention(Retention::default())
        .await
        .unwrap_err();
    assert!(failure.message.contains("typo"), "{}", failure.message);
    assert_eq!(host.toml(), "typo = 1");
}

#[tokio::test]
async fn registries_of_the_form_are_the_engines() {
    let host = FakeHost::default();
    let (directory, controller) = host.serve();
    let ca = directory.path().join("ca.pem");
    std::fs::write(
        &ca,
        "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let registry = Registry {
        host: "https://registry.example.com:5000/team".into(),
        mirrors: vec![
            " https://mirror.example/hub/ ".into(),
            "10.0.0.1:5000".into(),
        ],
        insecure: true,
        ca_files: vec![ca.display().to_string()],
        ..Registry::default()
    };
    controller.save_registry(registry.clone()).await.unwrap();
    let kept = controller.configured_registries().await.unwrap();
    let want = Registry {
        host: "registry.example.com:5000".into(),
        mirrors: vec!["mirror.example/hub".into(), "10.0.0.1:5000".into()],
        configured: true,
        ..registry.clone()
    };
    assert_eq!(kept, std::slice::from_ref(&want));
    let reach = controller.reach().await.unwrap();
    assert_eq!(reach.registries[&want.host].ca, [ca]);

    let none = directory.path().join("none.pem").display().to_string();
    for (what, wrong) in [
        (
            "a host",
            Registry {
                host: "a b".into(),
                ..registry.clone()
            },
        ),
        (
            "a port",
            Registry {
                host: "h:port".into(),
                ..registry.clone()
            },
        ),
        (
            "a mirror",
            Registry {
                mirrors: vec!["user@h".into()],
                ..registry.clone()
            },
        ),
        (
            "a file",
            Registry {
                ca_files: vec![none],
                ..registry.clone()
            },
        ),
        (
            "a whole path",
            Registry {
                ca_files: vec!["ca.pem".into()],
                ..registry.clone()
            },
        ),
    ] {
        let failure = controller.save_registry(wrong).await.unwrap_err();
        assert_eq!(failure.kind, "user", "{what}");
    }
    controller.forget_registry(want.host).await.unwrap();
    assert_eq!(host.toml().trim(), "");
}

#[tokio::test]
async fn policies_last_beyond_the_engines_start() {
    let host = FakeHost::default();
    let (_directory, controller) = host.serve();
    let policy = Policy {
        filters: vec!["type==exec.cachemount".into()],
        keep_duration_seconds: 86_400,
        max_used_space: 20_000_000_000,
        reserved_space: 1,
        ..Policy::default()
    };
    let waiting = controller
        .keep_policies(std::slice::from_ref(&policy))
        .await
        .unwrap();
    assert!(waiting.is_empty(), "they are in force");
    let text = ConfigText::parse(&host.toml()).unwrap();
    let rules = &text.config().worker.oci.gc_policy;
    assert_eq!(rules, &[rule(&policy)]);
    assert_eq!(rules[0].reserved_space(), Some(DiskSpace::Bytes(1)));
    let waiting = controller.keep_policies(&[]).await.unwrap();
    assert_eq!(
        waiting,
        ["buildkitd-toml"],
        "the engine was started with others"
    );

    // Those of another engine are none of the machine's business.
    let other = crate::view::BuilderAddress {
        name: "ci".into(),
        address: "tcp://h:1".into(),
        ..Default::default()
    };
    controller.add_builder(other).unwrap();
    controller.use_builder("ci").unwrap();
    controller.keep_policies(&[policy]).await.unwrap();
    assert_eq!(host.toml().trim(), "");
}

/// A registry behind TLS, whose certificate only its CA makes good, and one that mirrors it and isn't there.
#[tokio::test]
async fn a_registry_is_tested_with_its_ca_and_its_mirrors() {
    use kiln_proto::host::host_server::HostServer;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::{Identity, Server, ServerTlsConfig};
    let host = FakeHost::default();
    let (directory, controller) = host.serve();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".into()]).unwrap();
    let leaf = leaf.signed_by(&own, &issuer).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("localhost:{}", listener.local_addr().unwrap().port());
    let identity = Identity::from_pem(leaf.pem(), own.serialize_pem());
    // A server of gRPC answers 200 to what it doesn't know, as a registry that is open to all does to `/v2/`.
    let server = Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity))
        .unwrap()
        .add_service(HostServer::new(FakeHost::default()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mirror = closed.local_addr().unwrap().to_string();
    drop(closed);

    let tested = async || {
        let steps = controller.test_registry(&at).await.unwrap();
        let told: Vec<(String, bool)> = steps
            .into_iter()
            .map(|step| (step.title, step.ok))
            .collect();
        told
    };
    let set = |http: bool, insecure: bool, ca_files: Vec<String>, mirrors: Vec<String>| Registry {
        host: at.clone(),
        http,
        insecure,
        ca_files,
        mirrors,
        ..Registry::default()
    };
    let layers = |names: &[(&str, bool)]| -> Vec<(String, bool)> {
        names
            .iter()
            .map(|(name, ok)| ((*name).to_owned(), *ok))
            .collect()
    };
    // Nobody said that one on this computer speaks TLS.
    let told = tested().await;
    assert_eq!(
        told.last().unwrap(),
        &("Protocol".to_owned(), false),
        "{told:?}"
    );
    host.settings.lock().unwrap().buildkitd_toml = format!("[registry.\"{at}\"]\nhttp = false\n");
    let reached = [("DNS", true), ("TCP", true), ("TLS", false)];
    assert_eq!(tested().await, layers(&reached), "its CA isn't known");
    host.settings.lock().unwrap().ca_files = vec![ca.display().to_string()];
    let whole = [
        ("DNS", true),
        ("TCP", true),
        ("TLS", true),
        ("Authentication", true),
    ];
    assert_eq!(tested().await, layers(&whole), "the machine's CAs");
    host.settings.lock().unwrap().ca_files.clear();
    host.settings.lock().unwrap().buildkitd_toml = format!(
        "[registry.\"{at}\"]\nhttp = false\nca = [{:?}]\nmirrors = [\"{mirror}/hub\"]\n",
        ca.display().to_string()
    );
    let mut both = layers(&[("DNS", true), ("TCP", false)]);
    for (title, _) in &mut both {
        *title = format!("Mirror {mirror}: {title}");
    }
    both.extend(layers(&whole));
    assert_eq!(tested().await, both, "its own CA, and a mirror");
    controller
        .save_registry(set(false, true, Vec::new(), Vec::new()))
        .await
        .unwrap();
    assert_eq!(
        tested().await,
        layers(&whole),
        "its certificate isn't checked"
    );
}
