//! The published sockets, with the tools that people have.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use kiln_client::host::State;

use crate::bed::{Bed, Buildx};

#[tokio::test]
async fn sockets_are_for_the_user_alone() {
    let bed = Bed::native("");
    let _vmd = bed.start().await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&bed.paths.runtime), 0o700);
    for socket in [
        bed.paths.host_socket(),
        bed.paths.buildkit_socket(),
        bed.paths.agent_socket(),
    ] {
        assert_eq!(mode(&socket), 0o600, "{}", socket.display());
    }
}

#[tokio::test]
async fn buildx_wakes_it_and_builds_twice() {
    let bed = Bed::native("");
    let _vmd = bed.start().await;
    let context = bed.root.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY hello /\n").unwrap();
    std::fs::write(context.join("hello"), "hello").unwrap();
    let buildx = Buildx::on(&bed).await;
    let build = ["--output", "type=local,dest=out", "."];
    buildx.build(&context, &build).await;
    let copied = std::fs::read_to_string(context.join("out/hello")).unwrap();
    assert_eq!(copied, "hello");
    assert_eq!(
        bed.host().await.status().await.unwrap().state(),
        State::Running
    );
    bed.host().await.stop(false).await.unwrap();
    let second = buildx.build(&context, &build).await;
    assert!(second.contains("CACHED"), "{second}");
}
