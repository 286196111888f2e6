//! Generates the services that `bollard-buildkit-proto` lacks, without an external compiler.

use std::error::Error;

const FILES: [&str; 9] = [
    "proto/content.proto",
    "proto/exporter.proto",
    "proto/kiln/agent/v1/builds.proto",
    "proto/kiln/agent/v1/cache.proto",
    "proto/kiln/agent/v1/images.proto",
    "proto/kiln/agent/v1/machine.proto",
    "proto/kiln/host/v1/host.proto",
    "proto/otlp_trace.proto",
    "proto/policysession.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto", "proto/imports"])?;
    tonic_prost_build::configure()
        .extern_path(".pb", "::bollard_buildkit_proto::pb")
        .extern_path(
            ".moby.buildkit.v1.frontend",
            "::bollard_buildkit_proto::moby::buildkit::v1::frontend",
        )
        .extern_path(
            ".moby.buildkit.v1.sourcepolicy.PolicyAction",
            "::bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy::PolicyAction",
        )
        // Blobs are handed on without a copy.
        .bytes(".containerd.services.content.v1")
        .bytes(".opentelemetry")
        .bytes(".kiln.agent.v1")
        .compile_fds(files)?;
    Ok(())
}
