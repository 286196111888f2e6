//! Requests and what is made of them.

use super::*;

fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    directory
}

fn request(directory: &TempDir) -> BuildRequest {
    BuildRequest {
        context: ContextSource::Directory(directory.path().to_owned()),
        ..BuildRequest::default()
    }
}

#[test]
fn settings_become_options_of_the_frontend() {
    let at = directory();
    let text = |list: &[(&str, &str)]| {
        list.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>()
    };
    let prepared = BuildRequest {
        target: Some("stage".into()),
        arguments: text(&[("A", "1")]),
        labels: text(&[("l", "x")]),
        contexts: text(&[
            ("image", "docker-image://alpine"),
            ("dir", &at.path().display().to_string()),
        ]),
        platforms: vec!["linux/amd64,linux/arm64".into()],
        tags: vec!["me/app".into(), "me/app:2".into()],
        no_cache: true,
        pull: true,
        network: Some("host".into()),
        hosts: vec![
            "a:127.0.0.1".into(),
            "b=[::1]".into(),
            "c:host-gateway".into(),
        ],
        host_gateway: "10.9.8.1".parse().ok(),
        ..request(&at)
    }
    .prepare(BuilderKind::BuildKit)
    .unwrap();
    let attrs = &prepared.options.frontend_attrs;
    for (key, want) in [
        ("target", "stage"),
        ("build-arg:A", "1"),
        ("label:l", "x"),
        ("context:image", "docker-image://alpine"),
        ("context:dir", "local:dir"),
        ("platform", "linux/amd64,linux/arm64"),
        ("no-cache", ""),
        ("image-resolve-mode", "pull"),
        ("force-network-mode", "host"),
        ("add-hosts", "a=127.0.0.1,b=::1,c=10.9.8.1"),
        ("filename", "Dockerfile"),
        ("attest:provenance", "mode=min,inline-only=true"),
        ("frontend.caps", "moby.buildkit.frontend.contexts+forward"),
    ] {
        assert_eq!(attrs.get(key).map(String::as_str), Some(want), "{key}");
    }
    assert_eq!(prepared.options.entitlements, ["network.host"]);
    let names = "docker.io/me/app:latest,docker.io/me/app:2";
    let (kind, attributes) = &prepared.options.exporters[0];
    assert_eq!(
        (kind.as_str(), attributes["name"].as_str()),
        ("image", names)
    );
    let names = names.split(',').map(str::to_owned).collect();
    assert_eq!(prepared.kept, [Kept::Store(names)]);
}

#[test]
fn results_go_where_they_are_asked_to() {
    let at = directory();
    let out = at.path().join("out");
    let file = format!("type=oci,dest={}", out.display());
    let layout = format!(
        "type=oci,tar=false,dest={}",
        at.path().join("layout").display()
    );
    for (builder, tags, outputs, want) in [
        (BuilderKind::BuildKit, vec![], vec![], vec![Kept::CacheOnly]),
        (
            BuilderKind::Docker,
            vec![],
            vec![],
            vec![Kept::Store(vec![])],
        ),
        (
            BuilderKind::BuildKit,
            vec!["a"],
            vec!["type=registry"],
            vec![Kept::Registry(vec!["docker.io/library/a:latest".into()])],
        ),
        (
            BuilderKind::BuildKit,
            vec!["a"],
            vec!["type=docker"],
            vec![Kept::Docker(vec!["docker.io/library/a:latest".into()])],
        ),
        (
            BuilderKind::Docker,
            vec!["a"],
            vec!["type=docker"],
            vec![Kept::Store(vec!["docker.io/library/a:latest".into()])],
        ),
        (
            BuilderKind::BuildKit,
            vec![],
            vec![file.as_str(), "-", layout.as_str()],
            vec![
                Kept::Path(out.clone()),
                Kept::Stdout,
                Kept::Path(at.path().join("layout")),
            ],
        ),
        (
            BuilderKind::BuildKit,
            vec![],
            vec!["type=cacheonly"],
            vec![Kept::CacheOnly],
        ),
    ] {
        let prepared = BuildRequest {
            tags: tags.into_iter().map(str::to_owned).collect(),
            outputs: outputs
                .iter()
                .map(|text| OutputSpec::parse(text).unwrap())
                .collect(),
            ..request(&at)
        }
        .prepare(builder)
        .unwrap();
        assert_eq!(prepared.kept, want, "{outputs:?}");
    }
}

#[test]
fn what_cannot_be_built_is_said_before() {
    let at = directory();
    let missing = at.path().join("missing");
    let cases: Vec<(&str, BuildRequest)> = vec![
        (
            "no build context",
            BuildRequest {
                context: ContextSource::Directory(missing.clone()),
                ..BuildRequest::default()
            },
        ),
        (
            "no Dockerfile",
            BuildRequest {
                dockerfile: DockerfileSource::Path(missing.clone()),
                ..request(&at)
            },
        ),
        (
            "has no host gateway",
            BuildRequest {
                hosts: vec!["a=host-gateway".into()],
                ..request(&at)
            },
        ),
        (
            "a push needs a name",
            BuildRequest {
                outputs: vec![OutputSpec::push()],
                ..request(&at)
            },
        ),
        (
            "invalid tag \"A B\"",
            BuildRequest {
                tags: vec!["A B".into()],
                ..request(&at)
            },
        ),
        (
            "invalid platform",
            BuildRequest {
                platforms: vec!["linux/amd64/x/y".into()],
                ..request(&at)
            },
        ),
        (
            "invalid network mode",
            BuildRequest {
                network: Some("container:x".into()),
                ..request(&at)
            },
        ),
        (
            "can't be used together",
            BuildRequest {
                outputs: vec![
                    OutputSpec::parse("-").unwrap(),
                    OutputSpec::parse("type=oci").unwrap(),
                ],
                ..request(&at)
            },
        ),
    ];
    for (want, request) in cases {
        let error = request.prepare(BuilderKind::BuildKit).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
}

#[test]
fn a_dockerfile_may_lie_elsewhere() {
    let (at, beside) = (directory(), tempfile::tempdir().unwrap());
    let path = beside.path().join("other.Dockerfile");
    std::fs::write(&path, "FROM scratch\n").unwrap();
    let prepared = BuildRequest {
        dockerfile: DockerfileSource::Path(path),
        ..request(&at)
    }
    .prepare(BuilderKind::BuildKit)
    .unwrap();
    assert_eq!(prepared.attachments.dirs["dockerfile"], beside.path());
    assert_eq!(
        prepared.options.frontend_attrs["filename"],
        "other.Dockerfile"
    );

    let prepared = BuildRequest {
        dockerfile: DockerfileSource::Text(b"FROM scratch\n".to_vec()),
        ..BuildRequest::default()
    }
    .prepare(BuilderKind::BuildKit)
    .unwrap();
    let file = prepared.attachments.dirs["dockerfile"].join("Dockerfile");
    assert_eq!(std::fs::read(file).unwrap(), b"FROM scratch\n");
    let kept: Vec<PathBuf> = prepared.temporary().map(Path::to_owned).collect();
    assert_eq!(kept.len(), 2);
    drop(prepared);
    assert!(kept.iter().all(|path| !path.exists()));

    let prepared = BuildRequest {
        context: ContextSource::Url("https://example.com/x.git".into()),
        dockerfile: DockerfileSource::Path("sub/Dockerfile".into()),
        ..BuildRequest::default()
    }
    .prepare(BuilderKind::BuildKit)
    .unwrap();
    assert!(prepared.attachments.dirs.is_empty());
    assert_eq!(
        prepared.options.frontend_attrs["filename"],
        "sub/Dockerfile"
    );
}
