//! Builders in lists, and tests of connections to a daemon with certificates.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::*;

fn at(name: &str, address: &str) -> BuilderAddress {
    BuilderAddress {
        name: name.into(),
        address: address.into(),
        ..BuilderAddress::default()
    }
}

#[test]
fn the_one_in_use_is_marked() {
    let settings = AppSettings {
        builders: vec![at("ci", "tcp://h:1")],
        builder: "ci".into(),
        ..AppSettings::default()
    };
    let all: Vec<(String, String, bool)> = list(&settings, String::new())
        .into_iter()
        .map(|b| (b.name, b.kind, b.current))
        .collect();
    assert_eq!(
        all,
        [
            (MACHINE.into(), "machine".into(), false),
            ("ci".into(), "tcp".into(), true)
        ]
    );
}

#[test]
fn certificates_come_whole_and_for_tcp_alone() {
    let with = |address: &str, ca: &str, cert: &str, key: &str| {
        tls_of(&BuilderAddress {
            ca_file: ca.into(),
            cert_file: cert.into(),
            key_file: key.into(),
            ..at("b", address)
        })
    };
    assert_eq!(with("tcp://h:1", "", "", "").unwrap(), None);
    let ca_alone = with("tcp://h:1", "/ca", "", "").unwrap().unwrap();
    assert_eq!(ca_alone.identity, None);
    assert!(with("tcp://h:1", "/ca", "/c", "/k").unwrap().is_some());
    for (address, ca, cert, key) in [
        ("tcp://h:1", "/ca", "/c", ""),
        ("tcp://h:1", "", "/c", "/k"),
        ("unix:///s", "/ca", "", ""),
    ] {
        assert_eq!(with(address, ca, cert, key).unwrap_err().kind, "user");
    }
}

#[tokio::test]
async fn a_failing_layer_ends_the_test() {
    let mut steps = Vec::new();
    let failing = async { Err::<(), _>(std::io::Error::other("refused")) };
    assert!(
        step(&mut steps, "TCP", failing, |()| String::new())
            .await
            .is_none()
    );
    assert_eq!((steps[0].ok, steps[0].detail.as_str()), (false, "refused"));
}

/// A CA, and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// A certificate and its key, in PEM.
    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// Answers as a daemon with no services, which is enough to tell the layers apart; wants a client's certificate.
async fn daemon(authority: &Authority) -> u16 {
    let (certificate, key) = authority.sign("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(&authority.pem));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = Server::builder()
        .tls_config(tls)
        .unwrap()
        .add_routes(tonic::service::Routes::default())
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    port
}

fn put(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn the_test_says_which_layer_failed() {
    let directory = tempfile::tempdir().unwrap();
    let paths = kiln_config::HostPaths {
        runtime: directory.path().join("r"),
        state: directory.path().join("s"),
        config: directory.path().join("c"),
    };
    let controller = Controller::new(paths);
    let (ours, theirs) = (Authority::new(), Authority::new());
    let port = daemon(&ours).await;
    let file = |name: &str, text: &str| put(directory.path(), name, text);
    let (ca, other_ca) = (file("ca.pem", &ours.pem), file("other.pem", &theirs.pem));
    let client = |authority: &Authority, name: &str| {
        let (certificate, key) = authority.sign("me", ExtendedKeyUsagePurpose::ClientAuth);
        (
            file(&format!("{name}.pem"), &certificate),
            file(&format!("{name}.key"), &key),
        )
    };
    let (mine, stranger) = (client(&ours, "mine"), client(&theirs, "stranger"));
    let none = (String::new(), String::new());
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = unused.local_addr().unwrap().port();
    drop(unused);
    let nowhere = format!("{}.invalid:1", "x".repeat(70));
    for (what, host, ca, (cert, key), server_name, want) in [
        // It has no services: that it says so means that all layers below are right.
        (
            "all right",
            format!("localhost:{port}"),
            &ca,
            &mine,
            "",
            "Version",
        ),
        (
            "the name is another",
            format!("127.0.0.1:{port}"),
            &ca,
            &mine,
            "",
            "TLS",
        ),
        (
            "the name is given",
            format!("127.0.0.1:{port}"),
            &ca,
            &mine,
            "localhost",
            "Version",
        ),
        (
            "another CA",
            format!("localhost:{port}"),
            &other_ca,
            &mine,
            "",
            "TLS",
        ),
        (
            "no certificate",
            format!("localhost:{port}"),
            &ca,
            &none,
            "",
            "Certificate",
        ),
        (
            "a stranger's",
            format!("localhost:{port}"),
            &ca,
            &stranger,
            "",
            "Certificate",
        ),
        (
            "nobody listens",
            format!("127.0.0.1:{closed}"),
            &ca,
            &mine,
            "",
            "TCP",
        ),
        ("no such name", nowhere, &ca, &mine, "", "Name"),
    ] {
        let builder = BuilderAddress {
            ca_file: ca.clone(),
            cert_file: cert.clone(),
            key_file: key.clone(),
            server_name: server_name.into(),
            ..at("b", &format!("tcp://{host}"))
        };
        let steps = controller.test_builder(builder).await.unwrap();
        let (last, before) = steps.split_last().unwrap();
        assert!(
            !last.ok && before.iter().all(|step| step.ok),
            "{what}: {steps:?}"
        );
        assert_eq!(last.title, want, "{what}: {steps:?}");
    }
}
