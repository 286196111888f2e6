//! Results as the gateway API has them, both ways.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_frontend::{Attestation, MaybeReference, Solved};
use kiln_proto::google;
use kiln_proto::moby::buildkit::v1::frontend as gw;
use prost::Message;
use rand::Rng as _;

/// A name that can't be guessed from another build's names.
pub(crate) fn new_id() -> String {
    const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut random = rand::rng();
    (0..25)
        .map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())]))
        .collect()
}

/// The message for `solved`; `name` gives each result its id.
pub(crate) fn result(
    solved: &Solved,
    arrays: bool,
    name: &mut dyn FnMut(&MaybeReference) -> gw::Ref,
) -> gw::Result {
    let single = solved.refs.is_empty() || (solved.refs.len() == 1 && solved.refs.contains_key(""));
    let result = if single {
        let reference = solved.refs.get("").map(&mut *name).unwrap_or_default();
        if arrays {
            gw::result::Result::Ref(reference)
        } else {
            gw::result::Result::RefDeprecated(reference.id)
        }
    } else {
        let named = solved
            .refs
            .iter()
            .map(|(key, reference)| (key.clone(), name(reference)));
        if arrays {
            gw::result::Result::Refs(gw::RefMap {
                refs: named.collect(),
            })
        } else {
            gw::result::Result::RefsDeprecated(gw::RefMapDeprecated {
                refs: named.map(|(key, reference)| (key, reference.id)).collect(),
            })
        }
    };
    let attestations = solved
        .attestations
        .iter()
        .map(|(key, list)| {
            let attestation = list
                .iter()
                .map(|attestation| gw::Attestation {
                    kind: attestation.kind as i32,
                    r#ref: attestation
                        .reference
                        .is_some()
                        .then(|| name(&attestation.reference)),
                    ..attestation.message.clone()
                })
                .collect();
            (key.clone(), gw::Attestations { attestation })
        })
        .collect();
    gw::Result {
        metadata: solved
            .metadata
            .iter()
            .map(|(key, value)| (key.clone(), value.to_vec()))
            .collect(),
        attestations,
        result: Some(result),
    }
}

/// What the message names; `find` looks ids up.
pub(crate) fn solved(
    message: gw::Result,
    find: &dyn Fn(&str) -> Result<MaybeReference, SharedError>,
) -> Result<Solved, SharedError> {
    let mut refs = BTreeMap::new();
    match message.result {
        None => {}
        Some(gw::result::Result::RefDeprecated(id)) => {
            refs.insert(String::new(), find(&id)?);
        }
        Some(gw::result::Result::Ref(reference)) => {
            refs.insert(String::new(), find(&reference.id)?);
        }
        Some(gw::result::Result::RefsDeprecated(map)) => {
            for (key, id) in map.refs {
                refs.insert(key, find(&id)?);
            }
        }
        Some(gw::result::Result::Refs(map)) => {
            for (key, reference) in map.refs {
                refs.insert(key, find(&reference.id)?);
            }
        }
    }
    let mut attestations = BTreeMap::new();
    for (key, list) in message.attestations {
        let mut found = Vec::with_capacity(list.attestation.len());
        for mut attestation in list.attestation {
            let reference = match attestation.r#ref.take() {
                Some(reference) => find(&reference.id)?,
                None => None,
            };
            let kind = gw::AttestationKind::try_from(attestation.kind).map_err(|_| {
                WithDetail::message(
                    Kind::User,
                    format!("unknown attestation kind {}", attestation.kind),
                )
                .shared()
            })?;
            found.push(Attestation {
                kind,
                reference,
                message: attestation,
            });
        }
        attestations.insert(key, found);
    }
    Ok(Solved {
        refs,
        metadata: message
            .metadata
            .into_iter()
            .map(|(key, value)| (key, Bytes::from(value)))
            .collect(),
        attestations,
    })
}

/// The error that a frontend returned, with its typed details.
pub(crate) fn error(status: &google::rpc::Status) -> SharedError {
    std::sync::Arc::new(tonic::Status::with_details(
        tonic::Code::from_i32(status.code),
        status.message.clone(),
        status.encode_to_vec().into(),
    ))
}

/// Metadata as Go writes a `map[string][]byte` in JSON.
pub(crate) fn exporter_attributes(json: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, SharedError> {
    let bad = |error: &dyn std::fmt::Display| {
        WithDetail::message(Kind::User, format!("exporter attributes: {error}")).shared()
    };
    let map: BTreeMap<String, Option<String>> =
        serde_json::from_slice(json).map_err(|error| bad(&error))?;
    map.into_iter()
        .map(|(key, value)| {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(value.unwrap_or_default())
                .map_err(|error| bad(&error))?;
            Ok((key, bytes))
        })
        .collect()
}
