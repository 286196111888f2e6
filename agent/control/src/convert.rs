//! Requests from the wire, in all the forms that clients of any age send.

use std::collections::BTreeMap;

use kiln_engine::{BuildRequest, ExporterRequest};
use kiln_errdefs::{SharedError, to_status};
use kiln_frontend::SolveRequest;
use kiln_proto::moby::buildkit::v1 as control;
use tonic::Status;

/// The status of a failed call.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that map_err wants"
)]
pub(crate) fn status(error: SharedError) -> Status {
    to_status(error.as_ref())
}

/// A request to build.
pub(crate) fn build(request: control::SolveRequest) -> Result<BuildRequest, Status> {
    if request.r#ref.is_empty() {
        return Err(Status::invalid_argument("the build has no ref"));
    }
    if !request.source_policy_session.is_empty() {
        return Err(Status::unimplemented(
            "a source policy session is not supported by this builder (source.policy.session)",
        ));
    }
    let cache = cache_options(request.cache.unwrap_or_default());
    let options: BTreeMap<String, String> = request.frontend_attrs.into_iter().collect();
    let mut exporters: Vec<ExporterRequest> = request
        .exporters
        .into_iter()
        .map(|exporter| ExporterRequest {
            kind: exporter.r#type,
            attributes: exporter.attrs.into_iter().collect(),
        })
        .collect();
    // Clients from before BuildKit 0.13 name one exporter.
    if exporters.is_empty() && !request.exporter_deprecated.is_empty() {
        exporters.push(ExporterRequest {
            kind: request.exporter_deprecated,
            attributes: request.exporter_attrs_deprecated.into_iter().collect(),
        });
    }
    if let Some(epoch) = options.get("build-arg:SOURCE_DATE_EPOCH") {
        for exporter in &mut exporters {
            exporter
                .attributes
                .entry("source-date-epoch".into())
                .or_insert_with(|| epoch.clone());
        }
    }
    Ok(BuildRequest {
        build: request.r#ref,
        session: request.session,
        solve: SolveRequest {
            definition: request.definition.filter(|_| request.frontend.is_empty()),
            frontend: request.frontend,
            options,
            inputs: request.frontend_inputs.into_iter().collect(),
            evaluate: false,
            cache_imports: cache.imports,
            source_policies: request.source_policy.into_iter().collect(),
        },
        exporters,
        cache_exports: cache.exports,
        entitlements: request.entitlements,
        session_exporter: request.enable_session_exporter,
        internal: request.internal,
        trace: None,
        user_agent: String::new(),
    })
}

/// Cache options with what clients from before BuildKit 0.4 say in their own fields.
fn cache_options(mut options: control::CacheOptions) -> control::CacheOptions {
    if !options.export_ref_deprecated.is_empty() {
        let mut attrs = std::mem::take(&mut options.export_attrs_deprecated);
        attrs.insert(
            "ref".into(),
            std::mem::take(&mut options.export_ref_deprecated),
        );
        options.exports.push(control::CacheOptionsEntry {
            r#type: "registry".into(),
            attrs,
        });
    }
    for name in std::mem::take(&mut options.import_refs_deprecated) {
        options.imports.push(control::CacheOptionsEntry {
            r#type: "registry".into(),
            attrs: [("ref".to_owned(), name)].into(),
        });
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_fields_are_understood() {
        let request = control::SolveRequest {
            r#ref: "r".into(),
            exporter_deprecated: "image".into(),
            exporter_attrs_deprecated: [("name".to_owned(), "a".to_owned())].into(),
            frontend: "dockerfile.v0".into(),
            frontend_attrs: [("build-arg:SOURCE_DATE_EPOCH".to_owned(), "1".to_owned())].into(),
            cache: Some(control::CacheOptions {
                export_ref_deprecated: "x".into(),
                import_refs_deprecated: vec!["y".into()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let build = build(request).expect("a request");
        assert_eq!(build.exporters[0].kind, "image");
        assert_eq!(build.exporters[0].attributes["source-date-epoch"], "1");
        assert_eq!(build.cache_exports[0].attrs["ref"], "x");
        assert_eq!(build.solve.cache_imports[0].attrs["ref"], "y");
    }

    #[test]
    fn a_build_needs_a_name() {
        let error = build(control::SolveRequest::default()).expect_err("refused");
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
    }
}
