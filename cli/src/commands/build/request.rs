//! What `kiln build` asks the client for: flags, environment and files, read and checked.

use std::collections::BTreeMap;

use kiln_client::DockerConfig;
use kiln_client::build::{
    Attestations, BuildRequest, CacheSpec, ContextSource, DockerfileSource, OutputSpec,
    attestation_of, fetch_dockerfile, is_remote, parse_annotation, parse_attestation, parse_secret,
    parse_ssh,
};

use kiln_client::docker::DockerEngine;

use super::arguments::BuildArguments;
use crate::failure::{Failure, Outcome};

pub(super) async fn request(arguments: BuildArguments) -> Outcome<BuildRequest> {
    let (context, dockerfile) = sources(&arguments).await?;
    let mut request = BuildRequest {
        context,
        dockerfile,
        target: arguments.target,
        arguments: pairs("--build-arg", &arguments.build_arg, true)?,
        labels: pairs("--label", &arguments.label, false)?,
        contexts: pairs("--build-context", &arguments.build_context, false)?,
        platforms: if arguments.platform.is_empty() {
            std::env::var("DOCKER_DEFAULT_PLATFORM")
                .into_iter()
                .collect()
        } else {
            arguments.platform
        },
        tags: arguments.tag,
        attestations: attestations(&arguments.attest, arguments.sbom, arguments.provenance)?,
        no_cache: arguments.no_cache,
        no_cache_stages: arguments.no_cache_filter,
        pull: arguments.pull,
        network: arguments.network,
        hosts: arguments.add_host,
        allow: arguments.allow,
        shm_size: arguments.shm_size,
        ulimits: arguments.ulimit,
        cgroup_parent: arguments.cgroup_parent,
        ..BuildRequest::default()
    };
    add_proxies(&mut request.arguments)?;
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH")
        && !epoch.is_empty()
    {
        let key = "SOURCE_DATE_EPOCH".to_owned();
        request.arguments.entry(key).or_insert(epoch);
    }
    for text in &arguments.output {
        request.outputs.push(OutputSpec::parse(text)?);
    }
    if arguments.push {
        match request
            .outputs
            .iter_mut()
            .find(|output| output.kind == "image")
        {
            Some(image) => drop(image.attributes.insert("push".into(), "true".into())),
            None => request.outputs.push(OutputSpec::push()),
        }
    }
    if arguments.load && !request.outputs.iter().any(|output| output.kind == "docker") {
        request.outputs.push(OutputSpec::load());
    }
    for text in &arguments.cache_from {
        request.cache_from.extend(CacheSpec::parse(text)?);
    }
    for text in &arguments.cache_to {
        request.cache_to.extend(CacheSpec::parse(text)?);
    }
    for text in &arguments.annotation {
        request.annotations.extend(parse_annotation(text)?);
    }
    for text in &arguments.secret {
        let (id, secret) = parse_secret(text)?;
        request.secrets.insert(id, secret);
    }
    for text in &arguments.ssh {
        let (id, source) = parse_ssh(text)?;
        request.ssh.insert(id, source);
    }
    Ok(request)
}

/// The proxies of the docker command's configuration, unless the build was given some.
fn add_proxies(arguments: &mut BTreeMap<String, String>) -> Outcome<()> {
    let Some(directory) = DockerConfig::default_dir() else {
        return Ok(());
    };
    let config = DockerConfig::load(&directory)?;
    // An address that can't be read has no proxies of its own.
    let address = DockerEngine::locate().map_or_else(|_| String::new(), |at| at.to_string());
    for (name, value) in config.proxies(&address) {
        let is_given = arguments.keys().any(|key| key.eq_ignore_ascii_case(name));
        if !is_given {
            arguments.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(())
}

async fn sources(arguments: &BuildArguments) -> Outcome<(ContextSource, DockerfileSource)> {
    use tokio::io::AsyncReadExt as _;
    let file = arguments.file.as_deref().filter(|file| !file.is_empty());
    if arguments.context == "-" {
        if file == Some("-") {
            return Err(Failure::user(
                "standard input is either the context or the Dockerfile",
            ));
        }
        let (context, dockerfile) = ContextSource::of_stream(tokio::io::stdin()).await?;
        return match (dockerfile, file) {
            (dockerfile, None) => Ok((context, dockerfile)),
            (DockerfileSource::Text(_), Some(_)) => Err(Failure::user(
                "standard input is a Dockerfile, and -f names another one",
            )),
            (_, Some(file)) => Ok((context, DockerfileSource::Path(file.into()))),
        };
    }
    let context = ContextSource::of_argument(&arguments.context)?;
    let dockerfile = match file {
        None => DockerfileSource::InContext,
        Some("-") => {
            let mut text = Vec::new();
            tokio::io::stdin().read_to_end(&mut text).await?;
            DockerfileSource::Text(text)
        }
        Some(url) if url.starts_with("http") && is_remote(url) => {
            DockerfileSource::Text(fetch_dockerfile(url).await?)
        }
        Some(path) => DockerfileSource::Path(path.into()),
    };
    Ok((context, dockerfile))
}

/// `NAME=VALUE`; without a value it is the environment's, or empty.
fn pairs(flag: &str, texts: &[String], of_environment: bool) -> Outcome<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for text in texts {
        match text.split_once('=') {
            Some(("", _)) => return Err(Failure::user(format!("{flag} {text:?} has no name"))),
            Some((name, value)) => drop(all.insert(name.to_owned(), value.to_owned())),
            None if of_environment => {
                if let Ok(value) = std::env::var(text) {
                    all.insert(text.clone(), value);
                }
            }
            None if flag == "--build-context" => {
                return Err(Failure::user(format!("{flag} {text:?}: want NAME=SOURCE")));
            }
            None => drop(all.insert(text.clone(), String::new())),
        }
    }
    Ok(all)
}

fn attestations(
    texts: &[String],
    sbom: Option<String>,
    provenance: Option<String>,
) -> Outcome<Attestations> {
    let mut all = Attestations::new();
    let short = [("provenance", provenance), ("sbom", sbom)];
    let short = short
        .into_iter()
        .filter_map(|(kind, value)| Some(attestation_of(kind, &value?)));
    for text in texts.iter().cloned().chain(short) {
        parse_attestation(&text, &mut all)?;
    }
    Ok(all)
}
