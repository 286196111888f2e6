//! Builders: what there is, and a test that goes layer by layer.

use std::time::Instant;

use kiln_client::{Address, Client};

use crate::settings::AppSettings;
use crate::view::{Builder, TestStep};
use crate::{Controller, Failure};

const MACHINE: &str = "This machine";

fn kind(address: &str) -> &'static str {
    match address.parse::<Address>() {
        Ok(Address::Docker(_)) => "docker",
        Ok(Address::Tcp(_)) => "tcp",
        _ => "unix",
    }
}

fn list(settings: &AppSettings, machine: String) -> Vec<Builder> {
    let mut all = vec![Builder {
        name: MACHINE.into(),
        kind: "machine".into(),
        address: machine,
        current: settings.builder.is_empty(),
    }];
    all.extend(settings.builders.iter().map(|(name, address)| Builder {
        name: name.clone(),
        kind: kind(address).into(),
        address: address.clone(),
        current: settings.builder == *name,
    }));
    all
}

/// One layer of a test, timed.
pub(crate) async fn step<T, E: std::error::Error>(
    steps: &mut Vec<TestStep>,
    title: &str,
    work: impl Future<Output = Result<T, E>>,
    words: impl FnOnce(&T) -> String,
) -> Option<T> {
    let begun = Instant::now();
    let outcome = tokio::time::timeout(std::time::Duration::from_secs(10), work).await;
    let (ok, detail, value) = match outcome {
        Ok(Ok(value)) => (true, words(&value), Some(value)),
        Ok(Err(error)) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(inner) = cause {
                text = format!("{text}: {inner}");
                cause = inner.source();
            }
            (false, text, None)
        }
        Err(_) => (false, "no answer within 10 seconds".into(), None),
    };
    let milliseconds = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
    steps.push(TestStep {
        title: title.into(),
        ok,
        detail,
        milliseconds,
    });
    value
}

impl Controller {
    /// The machine, and what was added.
    pub fn builders(&self) -> Vec<Builder> {
        let machine = self
            .machine()
            .sockets
            .first()
            .map(|socket| format!("unix://{}", socket.path));
        list(&self.settings(), machine.unwrap_or_default())
    }

    /// Adds one.
    pub fn add_builder(&self, name: &str, address: &str) -> Result<(), Failure> {
        if address.parse::<Address>().is_err() {
            let hint = "Give unix:///path, docker:///path or tcp://host:port.";
            return Err(Failure::user(
                format!("“{address}” isn’t an address."),
                hint,
            ));
        }
        let mut settings = self.settings();
        if name == MACHINE || settings.builders.iter().any(|(known, _)| known == name) {
            return Err(Failure::user(
                format!("There is a builder “{name}” already."),
                "Choose another name.",
            ));
        }
        settings.builders.push((name.into(), address.into()));
        self.keep_settings(settings)
    }

    /// Forgets one; it isn't touched itself.
    pub fn remove_builder(&self, name: &str) -> Result<(), Failure> {
        let mut settings = self.settings();
        settings.builders.retain(|(known, _)| known != name);
        if settings.builder == name {
            settings.builder = String::new();
        }
        self.keep_settings(settings)
    }

    /// From now on builds, cache and images are that one's.
    pub fn use_builder(&self, name: &str) -> Result<(), Failure> {
        let mut settings = self.settings();
        settings.builder = if name == MACHINE {
            String::new()
        } else {
            name.into()
        };
        self.keep_settings(settings)
    }

    /// Connects, asks for its version, lists its workers.
    pub async fn test_builder(&self, address: &str) -> Result<Vec<TestStep>, Failure> {
        let address: Address = address.parse().map_err(Failure::from)?;
        let mut steps = Vec::new();
        let client = step(&mut steps, "Connect", Client::connect(&address), |_| {
            "a connection".into()
        })
        .await;
        if let Some(client) = client {
            let version = |info: &kiln_proto::moby::buildkit::v1::InfoResponse| {
                info.buildkit_version
                    .as_ref()
                    .map(|v| format!("{} {}", v.package, v.version))
                    .unwrap_or_default()
            };
            if step(&mut steps, "Version", client.info(), version)
                .await
                .is_some()
            {
                step(&mut steps, "Workers", client.workers(), |workers| {
                    let platforms = workers.iter().flat_map(|worker| &worker.platforms);
                    platforms
                        .map(|p| format!("{}/{}", p.os, p.architecture))
                        .collect::<Vec<_>>()
                        .join(", ")
                })
                .await;
            }
        }
        Ok(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_in_use_is_marked() {
        let settings = AppSettings {
            builders: vec![("ci".into(), "tcp://h:1".into())],
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
}
